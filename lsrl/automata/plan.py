"""Which construction holds an automaton, and what it takes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lsrl.automata.actions import MOST_ELEMENTS, Action, faithful
from lsrl.automata.levels import Levels, levels_of
from lsrl.automata.limits import TooLargeError, check
from lsrl.automata.permutations import (
    Permutation,
    composed,
    group_of,
    is_permutation,
    swap_count,
)
from lsrl.automata.phases import Phases, moved_by, phases_of
from lsrl.automata.tables import Table
from lsrl.options import AutomatonLimits

# How the state is told: by one point, by a point of each action, or by all points of all actions.
Reading = Literal["point", "points", "element"]
# Combinations of actions whose phases are looked for.
MOST_TRIED = 4

# By letter and counts: the swap that is made, and what is read before it.
Pair = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Track:
    """Points that are moved about.

    Attributes:
      action: the points.
      phases: that turn every letter into one swap; None for one layer a swap, in series.
    """

    action: Action
    phases: Phases | None

    @cached_property
    def pairs(self) -> dict[Pair, tuple[Permutation, Permutation]]:
        """Of phases: by letter and counts before it, the swap, and the places that are read."""
        if self.phases is None:
            return {}
        letters = self.action.letters
        return {
            (a, z): (moved_by(self.phases, letters[a], a, z), composed(letters[a], phi))
            for a in range(len(letters))
            for z, phi in self.phases.phi.items()
        }

    @property
    def still(self) -> bool:
        """Whether the counts alone tell everything."""
        return bool(self.pairs) and not any(swap_count(swap) for swap, _ in self.pairs.values())

    @property
    def layers(self) -> int:
        """A layer a bit of the counts and one for the swaps, or one a swap of a letter."""
        if self.phases is None:
            return max(self.action.swaps, 1)
        bits = max(self.phases.bits)
        return max(bits, 1) if self.still else bits + 1

    @property
    def units(self) -> int:
        """Conjunctions of letters and counts, or hats over places."""
        if self.phases is not None:
            return len(self.pairs) if max(self.phases.bits) else 0
        return 2 * self.action.size * (self.action.size + 1) * (self.layers - 1)


@dataclass(frozen=True)
class Tracks:
    """An automaton whose letters permute its states.

    Attributes:
      tracks: that together tell where every letter has moved everything.
      reading: how they tell the state.
      elements: of reading "element": by where each track's points are, the state.
    """

    tracks: tuple[Track, ...]
    reading: Reading
    elements: dict[tuple[Permutation, ...], int]

    @property
    def layers(self) -> int:
        """Of the longest track, and one where several points are put together."""
        return max(track.layers for track in self.tracks) + (self.reading != "point")

    @property
    def units(self) -> int:
        """Of all tracks, and of the reading."""
        read = len(self.elements) if self.reading == "element" else 0
        return sum(track.units for track in self.tracks) + read

    @property
    def points(self) -> int:
        """Of all tracks."""
        return sum(track.action.size for track in self.tracks)


Plan = Tracks | Levels


def plan_of(table: Table, limits: AutomatonLimits) -> Plan:
    """The construction of least depth for a minimal automaton.

    Raises:
      TooLargeError: it is beyond a limit.
    """
    merging = [a for a, images in enumerate(table.images) if not is_permutation(images)]
    plan: Plan
    if merging:
        letter = merging[0]
        check(table.states, limits.states, "states, some of which it merges", letter)
        try:
            plan = levels_of(table, limits)
        except TooLargeError as error:
            raise TooLargeError(f"{error}", letter) from None
        what = f"{len(plan.levels)} levels"
    else:
        letter = max(range(table.letters), key=lambda a: swap_count(table.images[a]))
        check(table.states, limits.permuted, "states that its letters permute", letter)
        plan = _tracks_of(table)
        action = max(plan.tracks, key=lambda track: track.layers).action
        what = f"{action.swaps} swaps of {action.size} points"
    check(plan.layers, limits.layers, f"layers for {what}", letter)
    check(plan.units, limits.units, "table units", letter)
    return plan


def _tracks_of(table: Table) -> Tracks:
    letters = table.images
    options = [_Option(table, actions) for actions in faithful(letters)]
    options.sort(key=lambda option: option.least)
    best: Tracks | None = None
    for option in options[:MOST_TRIED]:
        if best is not None and option.least >= (best.layers, best.points):
            break
        made = option.made()
        if best is None or (made.layers, made.points) < (best.layers, best.points):
            best = made
    if best is None:
        raise TooLargeError("no permutations")
    return best


class _Option:
    """A combination of actions, and how it tells the state."""

    def __init__(self, table: Table, actions: tuple[Action, ...]) -> None:
        self.table, self.actions = table, actions
        seen = list(zip(*(action.points for action in actions), strict=True))
        if any(len(set(action.points)) == table.states for action in actions):
            self.reading: Reading = "point"
        else:
            self.reading = "points" if len(set(seen)) == table.states else "element"

    @property
    def least(self) -> tuple[int, int]:
        """Layers, if all phases are found, and points."""
        swaps = max(action.swaps for action in self.actions)
        layers = 1 + max(swaps - 1, 0).bit_length() + (self.reading != "point")
        return layers, sum(action.size for action in self.actions)

    def made(self) -> Tracks:
        """With phases where there are any, and else in series."""
        tracks = []
        for action in self.actions:
            series = Track(action, None)
            phased = Track(action, phases_of(action.letters))
            shorter = phased.phases is not None and phased.layers <= series.layers
            tracks.append(phased if shorter else series)
        return Tracks(tuple(tracks), self.reading, self._elements())

    def _elements(self) -> dict[tuple[Permutation, ...], int]:
        if self.reading != "element":
            return {}
        letters = self.table.images
        parts = [
            (*(act.letters[a] for act in self.actions), letters[a]) for a in range(len(letters))
        ]
        found = group_of(parts, MOST_ELEMENTS) or []
        return {element[:-1]: element[-1][self.table.start] for element in found}
