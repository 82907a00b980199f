"""Which construction holds an automaton, and what it takes."""

from dataclasses import dataclass
from typing import Literal

from lsrl.automata.actions import MOST_ELEMENTS, Action, faithful
from lsrl.automata.levels import Levels, levels_of
from lsrl.automata.limits import TooLargeError, check
from lsrl.automata.permutations import Permutation, group_of, is_permutation, swap_count
from lsrl.automata.tables import Table
from lsrl.automata.tracks import Track, track_of
from lsrl.options import AutomatonLimits

# How the state is told: by one point, by a point of each action, or by all points of all actions.
Reading = Literal["point", "points", "element"]
# Combinations of actions whose phases are looked for.
MOST_TRIED = 4


@dataclass(frozen=True)
class Tracks:
    """An automaton whose letters permute its states.

    Attributes:
      tracks: that together tell where every letter has moved everything.
      points: of each track, (states,) the point that each state is seen as.
      reading: how they tell the state.
      elements: of reading "element": by where each track's points are, the state.
    """

    tracks: tuple[Track, ...]
    points: tuple[tuple[int, ...], ...]
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
    def size(self) -> int:
        """Points of all tracks."""
        return sum(track.size for track in self.tracks)


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
        track = max(plan.tracks, key=lambda track: track.layers)
        what = f"{track.swaps} swaps of {track.size} points"
    check(plan.layers, limits.layers, f"layers for {what}", letter)
    check(plan.units, limits.units, "table units", letter)
    return plan


def _tracks_of(table: Table) -> Tracks:
    letters = table.images
    options = [_Option(table, actions) for actions in faithful(letters)]
    options.sort(key=lambda option: option.least)
    best: Tracks | None = None
    for option in options[:MOST_TRIED]:
        if best is not None and option.least >= (best.layers, best.size):
            break
        made = option.made()
        if best is None or (made.layers, made.size) < (best.layers, best.size):
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
        tracks = tuple(track_of(action.letters) for action in self.actions)
        points = tuple(action.points for action in self.actions)
        return Tracks(tracks, points, self.reading, self._elements())

    def _elements(self) -> dict[tuple[Permutation, ...], int]:
        if self.reading != "element":
            return {}
        letters = self.table.images
        parts = [
            (*(act.letters[a] for act in self.actions), letters[a]) for a in range(len(letters))
        ]
        found = group_of(parts, MOST_ELEMENTS) or []
        return {element[:-1]: element[-1][self.table.start] for element in found}
