"""The signals inside a model: the value of each channel, and which one goes wrong first.

A schedule names the signal in every channel, so a failure can be told by name.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lsrl.backends import registry
from lsrl.backends.cells.encoding import plan_cells
from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.cells.target import CellBackend
from lsrl.backends.linear.network import LinearNetwork
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Product
from lsrl.ir.types import Vector
from lsrl.model import Model
from lsrl.schedule import Schedule
from lsrl.stability.copies import MEMORY, observe_copies
from lsrl.stability.perturbations import Perturbation

# A continuous signal is wrong where it is off by this share of its range.
SHARE = 0.05


def channel_values(model: Model, states: Any) -> list[Array]:
    """The value of every channel of every layer.

    Args:
      model: on a linear or a stock cell.
      states: after each token, as `model.module` has them, leaves (..., units).

    Returns:
      Per layer (..., channels), float64, in the order of `model.labels`.

    Raises:
      InputError: the target does not keep its signals in its states.
    """
    module = model.module
    if isinstance(module, LinearNetwork):
        found = []
        for layer, hidden in zip(module.structure.layers, states, strict=True):
            units = np.asarray(hidden, np.float64)
            left, right = np.array(layer.left, int), np.array(layer.right, int)
            values = units[..., left]
            values = np.where(right >= 0, values * units[..., right], values)
            found.append(np.where(np.array(layer.relu, bool), np.maximum(values, 0), values))
        return found
    if isinstance(module, CellNetwork) and isinstance(model.schedule, Schedule):
        target = registry.find(model.target)
        if isinstance(target, CellBackend):
            plan = plan_cells(target.encoder, model.schedule, model.numerics)
            # The carry of an LSTM is (c, h).
            hiddens = [carry[-1] if isinstance(carry, tuple) else carry for carry in states]
            return [
                np.asarray(hidden, np.float64) @ layer.decode.toarray().T + layer.offset
                for hidden, layer in zip(hiddens, plan.layers, strict=True)
            ]
    raise InputError(
        f"target {model.target!r} does not keep its signals in its states, so which goes wrong "
        "first is not available; take a linear target or a stock cell"
    )


def first_wrong_signal(
    model: Model,
    inputs: Sequence[Array],
    perturbation: Perturbation,
    level: float,
    seeds: Sequence[int],
    *,
    memory: int = MEMORY,
) -> Counter[str]:
    """Which signal goes wrong first, by draws.

    A channel is wrong where it is off by half a step of its grid, or, if it is continuous, by 5 %
    of its range, or is not finite. First is what is wrong at the earliest token, there in the
    earliest layer, and there off by the most.

    Args:
      model: on a linear or a stock cell.
      inputs: one array an input: (batch, time) or (batch, time, width).
      perturbation: what is done to each copy.
      level: of the perturbation.
      seeds: one a copy.
      memory: as for `run_copies`.

    Returns:
      The number of draws by name of the signal; "" counts the draws without a wrong one.

    Raises:
      InputError: not available for the target.
    """
    observed = [
        observe_copies(model, inputs, perturbation, levels, chosen, _states, memory=memory)
        for levels, chosen in (([level] * len(seeds), seeds), ([0.0], seeds[:1]))
    ]
    noisy, clean = (channel_values(model, states) for states in observed)
    schedule = model.schedule
    first: list[tuple[int, float, str]] = [(1 << 62, 0.0, "")] * len(seeds)
    for layer, labels, values, expected in zip(
        schedule.layers, model.labels, noisy, clean, strict=True
    ):
        allowed = np.concatenate(
            [_allowed(schedule, unit.node)[unit.channels] for unit in layer.units]
        )
        with np.errstate(invalid="ignore"):
            off = np.abs(values - expected) / allowed
        off = np.where(np.isfinite(off), off, np.inf).max(axis=1)  # (copies, time, channels)
        for copy, deviations in enumerate(off):
            wrong = (deviations >= 1).any(axis=-1)
            if not wrong.any():
                continue
            token = int(wrong.argmax())
            if token < first[copy][0]:
                channel = int(deviations[token].argmax())
                first[copy] = (token, float(deviations[token, channel]), labels[channel])
    return Counter(name for _, _, name in first)


def _allowed(schedule: Any, node: int) -> Array:
    facts = schedule.graph.facts[node]
    spread = np.where(facts.high > facts.low, facts.high - facts.low, 1.0)
    gridded = (facts.step > 0) & np.isfinite(facts.step)
    return np.where(gridded, facts.step / 2, SHARE * spread)


def weight_ranges(model: Model) -> dict[str, Array]:
    """For each weight of a linear network the range of what it writes over that of what it reads.

    Ranges are the greatest absolute values by the program's declared and inferred bounds, whatever
    the inputs; a weight of something that is always 0 has range 0. A weight into a ReLU writes
    the ReLU's signal.

    Args:
      model: on a linear target.

    Returns:
      By parameter name an array of the parameter's shape.

    Raises:
      InputError: another target, or a signal without bounds.
    """
    module, schedule = model.module, model.schedule
    if not isinstance(module, LinearNetwork) or not isinstance(schedule, Schedule):
        raise InputError(
            f"noise relative to the range of signals needs a linear target, got {model.target!r}"
        )
    graph, found = schedule.graph, {}
    arrays = {name: v.astype(np.float64) for name, v in module.parameter_arrays().items()}
    read = np.abs(arrays["input_bias"])
    inputs = enumerate(zip(module.structure.inputs, model.program.inputs.values(), strict=True))
    for number, (kind, declared) in inputs:
        if kind == "table":
            read = np.maximum(read, np.abs(arrays[f"inputs.{number}.table"]).max(axis=0))
        elif kind and isinstance(declared, Vector):
            most = np.maximum(np.abs(declared.low), np.abs(declared.high))
            read = read + most @ np.abs(arrays[f"inputs.{number}.kernel"])
    for number, (layer, structure) in enumerate(
        zip(schedule.layers, module.structure.layers, strict=True)
    ):
        name, channels = f"layers.{number}.", []
        units = np.zeros(len(arrays[f"layers.{number}.bias"]))
        for group in layer.units:
            node = graph.nodes[group.node]
            # The factors of a product are units of their own.
            signals = node.operands if isinstance(node.op, Product) else (group.node,)
            channels.append(graph.facts[group.node].magnitude[group.channels])
            places = slice(group.start, group.start + group.width)
            for side, signal in zip((structure.left, structure.right), signals, strict=False):
                units[list(side[places])] = graph.facts[signal].magnitude[group.channels]
        found[name + "input_kernel"] = _over(units, read)
        found[name + "recurrent_kernel"] = _over(units, units)
        found[name + "bias"] = units
        read = np.concatenate(channels)
    size = graph.facts[graph.output].magnitude
    found["output_kernel"], found["output_bias"] = _over(size, read), size
    if not all(np.isfinite(array).all() for array in found.values()):
        raise InputError(
            f"{model.program.name}: noise relative to the range of signals needs bounds for all of "
            "them; declare a max_length"
        )
    return found


def _over(written: Array, read: Array) -> Array:
    """(read, written)."""
    safe = np.where(read > 0, read, np.inf)
    return written[None, :] / safe[:, None]


def _states(output: Any, state: Any) -> Any:
    return state
