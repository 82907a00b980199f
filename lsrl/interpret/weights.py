"""Edges as the parameter arrays tell them: the baseline that a benchmark must not fall to.

Entries count as `lsrl.backends.strength` says. Gates of a unit count as the strongest of them. What
a layer adds to a stream is a path of such sums, which the network tells.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from lsrl.backends.axes import Kind, Legend
from lsrl.backends.strength import Sources, Strengths, shared, sigmoid, strength
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.parameters import dense


def read_weights(model: Model, layers: Sequence[Sources]) -> Strengths:
    """The strength of every connection, from the parameter arrays.

    Args:
      model: of any target.
      layers: the input map's first.

    Raises:
      LsrlError: the network does not say what the axes of its parameters are.
    """
    module = model.module
    legend = module.legend()
    if legend.stream is not None:
        return module.strengths(layers)
    parameters = module.parameter_arrays().items()
    arrays = {name: np.asarray(dense(one), np.float64) for name, one in parameters}
    forward, recurrent = [], [np.zeros((len(layers[0].read),) * 2)]
    for number, (below, here) in enumerate(pairwise(layers), start=1):
        found = _between(legend, arrays, number, below, here)
        looks = np.abs(here.read) > 0
        forward.append(_onto(found[0], looks))
        recurrent.append(_onto(found[1], looks))
    kernel = _only(legend, arrays, "matrix", "", legend.behind(len(layers) - 1))
    bias = _only(legend, arrays, "bias", "")
    last = layers[-1]
    return Strengths([*forward, strength(last.write @ kernel, bias, last)], recurrent)


def _only(
    legend: Legend, arrays: Mapping[str, Array], kind: Kind, made: str, read: str | None = None
) -> Array:
    """The array of a kind that makes some units, of others if there are."""
    for name, axes in legend.arrays.items():
        spaces = [axis[0].space for axis in axes.axes]
        if axes.kind == kind and spaces[-1] == made and read in (None, spaces[0]):
            return arrays[name]
    return np.zeros(1)


def _between(
    legend: Legend, arrays: Mapping[str, Array], number: int, below: Sources, here: Sources
) -> list[Array]:
    """(items, units) of what the units of a layer read of the layer below, and of themselves."""
    name = legend.behind(number)
    space = legend.spaces[name]
    own = name if space.shows is None else space.shows[0]
    inside, write = legend.spaces[own], here.write
    if space.shows is not None:
        # Hidden units that an output shows as they are; the others are seen nowhere.
        _, left, right = space.shows
        shown = np.flatnonzero(right < 0)
        visible = np.zeros((len(left), inside.size))
        visible[shown, left[shown]] = 1.0
        write = write @ visible
    bias = _only(legend, arrays, "bias", own)
    kernel = _only(legend, arrays, "matrix", own, legend.behind(number - 1))
    loops = _only(legend, arrays, "matrix", own, own)
    found = shared([(below.write @ kernel, below), (write @ loops, here)], bias)
    roles = next(
        [part.role for part in axes.axes[-1]]
        for axes in legend.arrays.values()
        if axes.kind == "bias" and axes.axes[-1][0].space == own
    )
    split = [part.reshape(len(part), len(roles), inside.size).max(axis=1) for part in found]
    if "keeps" in roles:
        # What a unit keeps of its state is in no kernel but in the gate that keeps it.
        start = roles.index("keeps") * inside.size
        columns = slice(start, start + inside.size)
        moved = [part[:, columns].max(axis=0, initial=0.0) for part in found]
        kept = np.maximum(sigmoid(bias[columns]), sum(moved))
        split[1] = np.maximum(split[1], (np.abs(here.write) > 0) * kept)
    if space.shows is not None:
        pair = np.where(right < 0, left, right)
        split = [np.maximum(part[:, left], part[:, pair]) for part in split]
    return split


def _onto(strength: Array, looks: Array) -> Array:
    """(items, items of the next layer): the strongest of the units that the latter look at."""
    if strength.shape[1] == len(looks) and (looks == np.eye(len(looks), dtype=bool)).all():
        return strength
    found: Array = (strength[:, None, :] * looks[None]).max(axis=2, initial=0.0)
    return found
