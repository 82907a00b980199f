"""Permutations that a few counters turn into one swap a token.

For each letter a that takes s swaps, z_a counts the tokens with that letter modulo 2^k, the least
power of two from s on. A φ(z) in the group of all permutations is wanted with φ(0) = 1 and

    φ(z + e_a)⁻¹ a φ(z)   the identity or one swap, for every letter a and every z.

Then p_t = φ(z_t) x_t has an x that moves by that one swap at each token. The search backtracks over
the φ(z), keeping for each z only what its neighbours leave (arc consistency).
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lsrl.automata.permutations import (
    Permutation,
    composed,
    group_of,
    identity,
    inverse,
    swap_count,
)
from lsrl.ir.numbers import Array

# Beyond so many points φ is looked for in the letters' own group alone.
MOST_FREE_POINTS = 6
MOST_VALUES = 720
# Times that what a neighbour leaves is worked out; then the search is given up.
MOST_STEPS = 4000
# Counts times letters; each is a unit.
MOST_PAIRS = 256
# A set of more values than this leaves its neighbours nearly all of theirs.
FEW = 8

Counts = tuple[int, ...]
# By z, which values are left, (values,) bool.
Domains = dict[Counts, Array]


class Phases(NamedTuple):
    """What the search finds.

    Attributes:
      bits: (letters,), how many bits z_a has.
      phi: by z.
    """

    bits: tuple[int, ...]
    phi: dict[Counts, Permutation]

    def after(self, letter: int, counts: Counts) -> Counts:
        """The counts behind a letter."""
        return tuple(
            (count + (a == letter)) % (1 << bits)
            for a, (count, bits) in enumerate(zip(counts, self.bits, strict=True))
        )


def bits_for(letters: Sequence[Permutation]) -> tuple[int, ...]:
    """⌈log₂ swaps⌉ of each letter."""
    return tuple(max(swap_count(letter) - 1, 0).bit_length() for letter in letters)


def phases_of(letters: Sequence[Permutation]) -> Phases | None:
    """A φ, or None where the search finds none within its steps."""
    return _found(tuple(letters))


@lru_cache(maxsize=256)
def _found(letters: tuple[Permutation, ...]) -> Phases | None:
    bits = bits_for(letters)
    counts = list(itertools.product(*(range(1 << each) for each in bits)))
    if len(counts) * len(letters) > MOST_PAIRS:
        return None
    values = _values(letters)
    if values is None:
        return None
    found = _Search(letters, Phases(bits, {}), counts, values).run()
    return None if found is None else Phases(bits, found)


def _values(letters: Sequence[Permutation]) -> list[Permutation] | None:
    """Where φ is looked for, the identity first."""
    points = len(letters[0])
    if points <= MOST_FREE_POINTS:
        return list(itertools.permutations(range(points)))
    group = group_of([(letter,) for letter in letters], MOST_VALUES)
    return None if group is None else [element for (element,) in group]


class _Search:
    """Backtracking with arc consistency over sets of values."""

    def __init__(
        self,
        letters: Sequence[Permutation],
        phases: Phases,
        counts: list[Counts],
        values: list[Permutation],
    ) -> None:
        self.counts, self.values, self.steps = counts, values, 0
        place = {value: i for i, value in enumerate(values)}
        near = [identity(len(letters[0])), *_swaps(len(letters[0]))]
        ahead = [_reached(letter, values, near, place) for letter in letters]
        self.arcs: dict[Counts, list[tuple[Counts, Array]]] = {z: [] for z in counts}
        for z in counts:
            for a in range(len(letters)):
                other = phases.after(a, z)
                self.arcs[z].append((other, ahead[a]))
                self.arcs[other].append((z, ahead[a].T))

    def run(self) -> dict[Counts, Permutation] | None:
        """All of φ, with φ(0) = 1."""
        domains = {z: np.ones(len(self.values), dtype=bool) for z in self.counts}
        first = self._set(domains, self.counts[0], 0)
        found = None if first is None else self._go(first, [self.counts[0]])
        if found is None:
            return None
        return {z: self.values[int(np.flatnonzero(own)[0])] for z, own in found.items()}

    def _go(self, domains: Domains, done: list[Counts]) -> Domains | None:
        rest = [z for z in self.counts if z not in done]
        if not rest:
            return domains
        z = min(rest, key=lambda each: int(np.count_nonzero(domains[each])))
        for value in np.flatnonzero(domains[z]):
            if self.steps > MOST_STEPS:
                return None
            narrowed = self._set(domains, z, int(value))
            found = None if narrowed is None else self._go(narrowed, [*done, z])
            if found is not None:
                return found
        return None

    def _set(
        self, domains: dict[Counts, Array], z: Counts, value: int
    ) -> dict[Counts, Array] | None:
        """The domains once φ(z) has a value; None where one of them is empty."""
        domains = dict(domains)
        domains[z] = np.arange(len(self.values)) == value
        pending = [z]
        while pending:
            one = pending.pop()
            own = np.flatnonzero(domains[one])
            if len(own) > FEW:
                continue
            for other, reached in self.arcs[one]:
                self.steps += 1
                left = domains[other] & reached[own].any(axis=0)
                if not left.any():
                    return None
                if left.sum() < domains[other].sum():
                    domains[other] = left
                    pending.append(other)
        return domains


def _swaps(points: int) -> list[Permutation]:
    found = []
    for one, other in itertools.combinations(range(points), 2):
        images = list(range(points))
        images[one], images[other] = other, one
        found.append(tuple(images))
    return found


def _reached(
    letter: Permutation,
    values: list[Permutation],
    near: list[Permutation],
    place: dict[Permutation, int],
) -> Array:
    """(values, values) bool: whether the second is the letter after the first, but for a swap."""
    found = np.zeros((len(values), len(values)), dtype=bool)
    for i, value in enumerate(values):
        moved = composed(letter, value)
        for swap in near:
            j = place.get(composed(moved, swap))
            if j is not None:
                found[i, j] = True
    return found


def moved_by(phases: Phases, letter: Permutation, number: int, counts: Counts) -> Permutation:
    """φ(z + e_a)⁻¹ a φ(z): the identity or one swap."""
    after = phases.phi[phases.after(number, counts)]
    return composed(inverse(after), composed(letter, phases.phi[counts]))
