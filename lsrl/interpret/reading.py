"""Reads signals off the hooks of a network: picks the entries that hold them, and decodes those.

Most channels are one entry as it is, so most signals are what was picked and take no arithmetic.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from lsrl.circuit import Channel, Circuit, Derived
from lsrl.ir.numbers import Array

# Up to so many terms, sums of the same number are worked out together, term by term.
_FEW_TERMS = 2
# An element of a signal.
_Place: TypeAlias = tuple[str, int]
# The first of some columns on end, -1 where there are none, and how many.
_Runs: TypeAlias = tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def reading_of(circuit: Circuit, names: tuple[str, ...] | None = None) -> "Reading":
    """How signals of a circuit, by name, or all of them, are read; kept while others are few."""
    return Reading(circuit, names)


class _Sums(NamedTuple):
    """Elements that are weighted sums of picked entries.

    Attributes:
      columns: (terms, sums) int, what each sum reads; (terms,) where all read the same.
      weights: (terms, sums).
      offsets: (sums,).
    """

    columns: Array
    weights: Array
    offsets: Array

    def __call__(self, picked: Array) -> Array:
        """(batch, time, sums)."""
        if self.columns.ndim == 1:
            return np.asarray(picked[..., self.columns] @ self.weights + self.offsets)
        terms = zip(self.columns, self.weights, strict=True)
        found = sum(picked[..., columns] * weights for columns, weights in terms)
        return np.asarray(found + self.offsets)


class Reading:
    """How some signals are read off hooks.

    Attributes:
      units: of each hook, that of the input map first: which entries are picked.
    """

    def __init__(self, circuit: Circuit, names: Sequence[str] | None = None) -> None:
        """Find where the signals are.

        Args:
          circuit: of the network.
          names: of signals and of affine maps of them; None for all but constants.
        """
        self._names = names
        self._derived = [one for one in circuit.derived if names is None or one.name in names]
        wanted = {source for one in self._derived for _, source, _, _ in one.terms}
        wanted |= {one.name for one in circuit.signals if names is None or one.name in names}
        signals = [s for s in circuit.signals if s.name in wanted and s.kind != "constant"]
        owners = {signal.name for signal in signals}
        # Of what is told twice, what is told last.
        held = {
            (channel.signal, channel.element): channel
            for channel in circuit.channels
            if channel.signal in owners and circuit.makes(channel)
        }
        self.units, columns, self._sums = _picked(circuit, held)
        self._columns = {
            signal.name: _runs(
                np.array([columns.get((signal.name, e), -1) for e in range(signal.width)])
            )
            for signal in signals
        }

    def picked(self, hooks: Sequence[Array]) -> Array:
        """The entries that are read, (batch, time, entries) float64, of all hooks."""
        (batch, time), count = hooks[0].shape[:2], sum(map(len, self.units))
        # With time first where hooks lie so, or else most of the time goes into turning them over.
        time_first = hooks[0].strides[0] < hooks[0].strides[1]
        found = np.empty((time, batch, count)) if time_first else np.empty((batch, time, count))
        start = 0
        for hook, units in zip(hooks, self.units, strict=True):
            if units:
                place = found[..., start : start + len(units)]
                turned = np.swapaxes(hook, 0, 1) if time_first else hook
                place[...] = turned[..., _on_end(units)]
                start += len(units)
        found += 0.0  # as a sum has it, zero has no sign
        return np.swapaxes(found, 0, 1) if time_first else found

    def decoded(self, picked: Array) -> dict[str, Array]:
        """Signals (batch, time, width), float64.

        Args:
          picked: as `picked` gives it; signals are views of it.
        """
        values = picked
        if self._sums:
            values = np.concatenate([picked, *(sums(picked) for sums in self._sums)], axis=-1)
        found = {name: _taken(values, runs) for name, runs in self._columns.items()}
        found |= derived_values(self._derived, found, picked.shape[:2])
        return found if self._names is None else {name: found[name] for name in self._names}


def _picked(
    circuit: Circuit, held: Mapping[_Place, Channel]
) -> tuple[tuple[tuple[int, ...], ...], dict[_Place, int], list[_Sums]]:
    """What is picked of each hook, the column of each element, and the sums in further columns."""
    units: list[list[int]] = [[] for _ in circuit.units]
    columns: dict[_Place, int] = {}
    known: dict[tuple[int, int], int] = {}
    # Sums of few terms by how many, others by what they read.
    mixed: dict[int | tuple[int, ...], list[tuple[_Place, Channel, list[int]]]] = {}
    count = 0
    for place, channel in sorted(held.items(), key=lambda item: item[1].layer):
        is_plain = channel.weights == (1.0,) and channel.offset == 0
        read = []
        for unit in channel.units:
            # What is a signal as it is, nobody else's is.
            if is_plain or (channel.layer, unit) not in known:
                units[channel.layer].append(unit)
                read.append(count)
                count += 1
            else:
                read.append(known[channel.layer, unit])
            if not is_plain:
                known[channel.layer, unit] = read[-1]
        if is_plain:
            columns[place] = read[0]
        else:
            key = len(read) if len(read) <= _FEW_TERMS else tuple(read)
            mixed.setdefault(key, []).append((place, channel, read))
    sums = []
    for key, some in mixed.items():
        for place, _, _ in some:
            columns[place] = count
            count += 1
        weights = np.array([channel.weights for _, channel, _ in some]).T
        reads = np.array(key) if isinstance(key, tuple) else np.array([r for _, _, r in some]).T
        sums.append(_Sums(reads, weights, np.array([channel.offset for _, channel, _ in some])))
    return tuple(tuple(some) for some in units), columns, sums


def derived_values(
    wanted: Sequence[Derived], known: Mapping[str, Array], shape: tuple[int, ...]
) -> dict[str, Array]:
    """Affine maps of signals (batch, time, width), from those that they are made of."""
    found = {}
    for derived in wanted:
        values = np.empty((*shape, derived.width))
        values[...] = derived.bias
        # The terms of an element are added in their order, and those of all elements at once.
        rounds: list[list[tuple[int, str, int, float]]] = []
        told = [0] * derived.width
        for term in derived.terms:
            place, told[term[0]] = told[term[0]], told[term[0]] + 1
            if place == len(rounds):
                rounds.append([])
            rounds[place].append(term)
        for terms in rounds:
            for source in dict.fromkeys(term[1] for term in terms):
                elements, _, columns, weights = zip(
                    *(t for t in terms if t[1] == source), strict=True
                )
                read = known[source][..., _on_end(columns)]
                values[..., _on_end(elements)] += np.array(weights) * read
        found[derived.name] = values
    return found


def _on_end(numbers: Sequence[int]) -> slice | list[int]:
    """What indexes an axis by numbers: where they lie on end a slice, which takes no copy."""
    first = numbers[0] if numbers else 0
    if list(numbers) == list(range(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return list(numbers)


def _runs(columns: Array) -> _Runs:
    """Columns that lie on end, and those of which there are none, -1, side by side."""
    steps = np.where(columns[:-1] < 0, 0, 1)
    breaks = np.flatnonzero(np.diff(columns) != steps) + 1
    ends = pairwise([0, *breaks.tolist(), len(columns)])
    return tuple((int(columns[first]), last - first) for first, last in ends if last > first)


def _taken(values: Array, runs: _Runs) -> Array:
    """The columns of values (..., columns), 0 where there is none: a view where they lie so."""
    if len(runs) == 1 and runs[0][0] >= 0:
        first, count = runs[0]
        return values[..., first : first + count]
    found, place = np.empty((*values.shape[:-1], sum(count for _, count in runs))), 0
    for first, count in runs:
        held = values[..., first : first + count] if first >= 0 else 0
        found[..., place : place + count] = held
        place += count
    return found
