"""How large signals can be by their bounds: the unit of noise relative to ranges."""

import numpy as np

from lsrl.backends.linear.network import LinearNetwork
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Product
from lsrl.ir.types import Vector
from lsrl.model import Model
from lsrl.schedule import Schedule


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
