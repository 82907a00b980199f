"""The signals inside a model: the value of each channel, and which one goes wrong first.

A schedule names the signal in every channel, so a failure can be told by name.
"""

from collections import Counter
from collections.abc import Sequence
from typing import cast

import jax
import numpy as np

from lsrl.backends import registry
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.noise.copies import MEMORY, observe_copies
from lsrl.noise.perturbations import Perturbation
from lsrl.noise.wrong import allowed_error_of
from lsrl.pytrees import Tree
from lsrl.schedule import Schedule


def channel_values(model: Model, states: Tree) -> list[Array]:
    """The value of every channel of every layer.

    Args:
      model: of a target whose states tell what its layers hold, as linear ones and cells do.
      states: after each token, as `model.module` has them, leaves (..., units).

    Returns:
      Per layer (..., channels), float64, in the order of `model.labels`.

    Raises:
      InputError: the target does not keep its signals in its states.
    """
    held = model.module.hooks_in(states)
    if held is None:
        raise InputError(
            f"target {model.target!r} does not keep its signals in its states, so which goes wrong "
            "first is not available; take a linear target or a stock cell"
        )
    hooks = registry.find(model.target).hooks(model.schedule, model.numerics)
    found = []
    for units, read in zip(held, hooks.layers, strict=True):
        flat = read.decode @ np.asarray(units, np.float64).reshape(-1, units.shape[-1]).T
        found.append(np.asarray(flat.T.reshape(*units.shape[:-1], -1) + read.offset))
    return found


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
      model: of a target whose states tell what its layers hold, as linear ones and cells do.
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
    schedule = cast(Schedule, model.schedule)  # what has hooks is a stack of layers
    first: list[tuple[int, float, str]] = [(1 << 62, 0.0, "")] * len(seeds)
    for layer, labels, values, expected in zip(
        schedule.layers, model.labels, noisy, clean, strict=True
    ):
        errors = (allowed_error_of(schedule.graph.facts[unit.node]) for unit in layer.units)
        allowed = np.concatenate(
            [error[unit.channels] for unit, error in zip(layer.units, errors, strict=True)]
        )
        with np.errstate(invalid="ignore"):
            off = np.abs(values - expected) / allowed
        off = np.where(np.isfinite(off), off, np.inf).max(axis=1)  # (copies, time, channels)
        for copy, deviations in enumerate(off):
            wrong = (deviations >= 1).any(axis=-1)
            token = int(wrong.argmax())
            if wrong.any() and token < first[copy][0]:
                channel = int(deviations[token].argmax())
                first[copy] = (token, float(deviations[token, channel]), labels[channel])
    return Counter(name for _, _, name in first)


def _states(output: jax.Array, state: Tree) -> Tree:
    return state
