"""The variant `permuted`: units in another order, with other signs, and scaled where that is exact.

A layer's units pass through a `Move`; all that writes them and all that reads them moves along, so
each sum has the same terms as before, in another order and times powers of two.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lsrl.backends.axes import Legend, Part
from lsrl.circuit import Channel, Circuit
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_made, variant
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.parameters import Parameter, dense, entries

Arrays = dict[str, Parameter]
# Powers of two that units are scaled by: 2^-OCTAVES to 2^OCTAVES.
OCTAVES = 2


class Move(NamedTuple):
    """Unit k becomes scale[k] times what unit order[k] was.

    Attributes:
      order: (units,) int, a permutation, or some of the units.
      scale: (units,) float64, powers of two with a sign.
    """

    order: Array
    scale: Array

    @classmethod
    def only(cls, order: Array) -> "Move":
        """Units in another order, or some of them, as they are."""
        return cls(order, np.ones(len(order)))

    def written(self, array: Array, axis: int = -1) -> Array:
        """What writes the units, one entry a unit along an axis."""
        return np.asarray(array.take(self.order, axis) * self._along(array, axis))

    def read(self, array: Array, axis: int = 0) -> Array:
        """What reads the units, one entry a unit along an axis."""
        return np.asarray(array.take(self.order, axis) / self._along(array, axis))

    def places(self) -> Array:
        """Where units went, by their old numbers; -1 for those that are left out."""
        found = np.full(self.order.max(initial=-1) + 1, -1)
        found[self.order] = np.arange(len(self.order))
        return found

    def _along(self, array: Array, axis: int) -> Array:
        shape = [1] * array.ndim
        shape[axis] = -1
        return self.scale.reshape(shape)


def permuted(model: Model, seed: int = 0, *, sampler: Sampler | None = None) -> Model:
    """Shuffle the units of every layer, flip their signs and scale them, where the cell allows it.

    Signs flip in tanh RNNs, in LSTMs and GRUs (through the candidate), where a linear target's
    output passes no ReLU, and in residual streams. The units of ReLU RNNs and of linear targets are
    scaled by powers of two. Beside a stream the inner channels are shuffled too, and heads, and the
    keys and the values of all heads alike. A model that is exact stays exact: each sum has the same
    terms.

    Args:
      model: compiled, or a variant.
      seed: of the shuffles.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: a seed that is none.
      LsrlError: the network does not say what the axes of its parameters are.
    """
    seed = check_made("permuted", model, sampler, seed)
    module = model.module
    legend = module.legend()
    arrays = {n: x if x.dtype.kind in "bi" else x.astype(float) for n, x in module.arrays().items()}
    for octaves in (OCTAVES, 0):
        moves = _drawn(legend, np.random.default_rng(seed), octaves)
        found = moved(legend, arrays, moves)
        if _in_range(found, model):
            break
    return variant(
        model,
        "permuted",
        f"seed={seed}",
        module.rebuilt(found),
        moved_circuit(model.circuit, legend, moves),
        exact=True,
        sampler=sampler,
    )


def moved(legend: Legend, arrays: Arrays, moves: Mapping[str, Move]) -> Arrays:
    """The arrays of a network after units of some spaces have moved."""

    def change(array: Array, axis: int, part: Part) -> Array:
        move = moves.get(part.space)
        if move is None:
            return array
        if part.role == "makes":
            return move.written(array, axis)
        return move.read(array, axis) if part.role == "reads" else array.take(move.order, axis)

    found = legend.changed(arrays, change)
    for name, axes in legend.arrays.items():
        if axes.points in moves:
            places, units = moves[axes.points].places(), dense(found[name])
            found[name] = np.where(units >= 0, places[units], -1)
    return found


def moved_circuit(circuit: Circuit, legend: Legend, moves: Mapping[str, Move]) -> Circuit:
    """The ground truth after units have moved; none in use is left out."""
    still = {name: Move.only(np.arange(space.size)) for name, space in legend.spaces.items()}
    found = still | dict(moves)
    places = {name: move.places() for name, move in found.items()}
    memory = {s.memory: name for name, s in legend.spaces.items() if s.memory is not None}

    def moved(channel: Channel) -> Channel:
        own = legend.behind(channel.layer)
        units = places[own][list(channel.units)]
        scale = found[own].scale[units]
        held, held_weights = np.zeros(0, int), np.zeros(0)
        if channel.memory:
            inner = memory[channel.layer]
            space = legend.spaces[inner]
            axes = [inner, *space.within]
            sizes = [legend.spaces[name].size for name in axes]
            # Entries that are no units' of their own stay where they are in their unit.
            sizes.append(space.size * space.entries // math.prod(sizes))
            *ways, rest = np.unravel_index(channel.memory, sizes)
            ways = [places[name][way] for name, way in zip(axes, ways, strict=True)]
            unit, held = ways[0], np.ravel_multi_index((*ways, rest), sizes)
            held_weights = np.array(channel.memory_weights) / found[inner].scale[unit]
        return replace(
            channel,
            units=tuple(units.tolist()),
            weights=tuple((np.array(channel.weights) / scale).tolist()),
            memory=tuple(held.tolist()),
            memory_weights=tuple(held_weights.tolist()),
            directions=tuple(
                d * s for d, s in zip(channel.directions, scale.tolist(), strict=False)
            ),
        )

    return replace(circuit, channels=tuple(moved(channel) for channel in circuit.channels))


def _in_range(arrays: Arrays, model: Model) -> bool:
    """Whether the dtype has normal numbers for every weight."""
    numerics = model.numerics
    sizes = [np.abs(entries(array).astype(np.float64)) for array in arrays.values()]
    return all(((x == 0) | ((x >= numerics.tiny) & (x <= numerics.largest))).all() for x in sizes)


def _drawn(legend: Legend, rng: np.random.Generator, octaves: int) -> dict[str, Move]:
    """A random move of every space, with sizes from 2^-octaves to 2^octaves."""
    found: dict[str, Move] = {}
    for name, space in legend.spaces.items():
        order = rng.permutation(space.size)
        if space.shows is not None:
            shown, left, right = space.shows
            other = found[shown]
            place = np.append(other.places(), -1)
            left, right = place[left[order]], place[right[order]]
            factor = np.where(right >= 0, other.scale[right], 1.0)
            found[name] = Move(order, other.scale[left] * factor)
        elif not space.flips and not space.scales:
            found[name] = Move.only(order)
        else:
            signs = np.where(rng.random(space.size) < 0.5, -1.0, 1.0)
            allowed = np.broadcast_to(np.asarray(space.flips, bool), (space.size,))[order]
            scale = np.where(allowed, signs, 1.0)
            if space.scales:
                sizes = 2.0 ** rng.integers(-octaves, octaves + 1, space.size)
                scale = scale * (sizes if space.tied is None else sizes[space.tied[order]])
            found[name] = Move(order, scale)
    return found
