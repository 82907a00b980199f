"""Any finite automaton as levels, each of which permutes a few labels or resets them.

The holonomy decomposition (Krohn and Rhodes 1965; Eilenberg 1976): sets of states, from all of them
down to single ones, each the next one's *brick*. What a letter does to a set is an *edge* (set
before, letter, set after), and what an edge does to the label of the brick that holds the present
state is nothing, a permutation, or a reset. Labels are carried along a spanning tree of the edges,
so that where no group is behind them the permutation is the identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lsrl.automata.limits import check
from lsrl.automata.permutations import Permutation, identity, swap_count
from lsrl.automata.tables import Table
from lsrl.automata.tracks import Track, track_of
from lsrl.options import AutomatonLimits

# Sets that are followed to further ones, all closures together.
MOST_FOLLOWED = 100_000
# Pairs of sets that are compared, to find which one lies below which.
MOST_COMPARED = 20_000_000

States = frozenset[int]
Edge = tuple[States, int, States]
Chain = tuple[States, ...]


@dataclass(frozen=True)
class Level:
    """An automaton that permutes or resets labels, driven by edges.

    Attributes:
      labels: how many.
      initial: the label before the first letter.
      moves: by edge, how it permutes the labels.
      resets: by edge, the label that it resets to; None for edges that reset nothing.
      following: by edge and by the label before the letter, None for any, the edge of the next
        level, or behind the last level the state.
    """

    labels: int
    initial: int
    moves: tuple[Permutation, ...]
    resets: tuple[int | None, ...]
    following: dict[tuple[int, int | None], int]

    @property
    def free(self) -> bool:
        """Whether no label is ever asked for."""
        return all(label is None for _, label in self.following)

    @property
    def swaps(self) -> int:
        """The most swaps that an edge takes."""
        return 0 if self.free else max(map(swap_count, self.moves))

    @cached_property
    def track(self) -> Track | None:
        """What moves the labels, as they are before each edge; None where nothing does."""
        return track_of(tuple(dict.fromkeys(self.moves)), early=True) if self.swaps else None

    @property
    def layers(self) -> int:
        """How many layers hold it: a late recall, and ahead of it those of the track."""
        return 0 if self.free else 1 + (0 if self.track is None else self.track.layers)

    @property
    def units(self) -> int:
        """How many conjunctions tell the next edge, and those of the track."""
        asked = sum(label is not None for _, label in self.following)
        if self.track is None:
            return asked
        return asked * (self.labels if self.resetting else 1) + self.track.units

    @property
    def resetting(self) -> bool:
        """Whether some edge resets the label."""
        return any(reset is not None for reset in self.resets)


@dataclass(frozen=True)
class Levels:
    """An automaton in levels; the edges of the first are the letters.

    Attributes:
      levels: from the whole set of states down.
      final: by what the last level is followed by (or by letter, if there is none), the state.
      chains: how many chains of sets are reached.
    """

    levels: tuple[Level, ...]
    final: tuple[int, ...]
    chains: int

    @property
    def layers(self) -> int:
        """Of all levels."""
        return sum(level.layers for level in self.levels)

    @property
    def units(self) -> int:
        """Of all levels."""
        return sum(level.units for level in self.levels)


def levels_of(table: Table, limits: AutomatonLimits) -> Levels:
    """The levels of an automaton of which every state can be reached.

    Raises:
      TooLargeError: too many sets or chains.
    """
    return _Holonomy(table, limits).run()


class _Holonomy:
    """The sets of an automaton, their order and their bricks."""

    def __init__(self, table: Table, limits: AutomatonLimits) -> None:
        self.table, self.limits = table, limits
        self.followed = self.compared = 0
        self.all = frozenset(range(table.states))
        family = {**self._closure(self.all), **{frozenset([q]): None for q in sorted(self.all)}}
        check(len(family), 4 * limits.chains, "images of its states")
        self.reach = {own: self._closure(own) for own in family}
        self.family = sorted(family, key=lambda own: (len(own), sorted(own)))
        self.heights: dict[States, int] = {}
        for own in self.family:
            self.heights[own] = self._height(own)
        self.bricks: dict[States, list[States]] = {}
        for own in self.family:
            if len(own) > 1 and own not in self.bricks:
                self._lay(own)

    def image(self, letter: int, states: States) -> States:
        """Where a letter takes a set."""
        images = self.table.images[letter]
        return frozenset(images[state] for state in states)

    def _closure(self, states: States) -> dict[States, None]:
        found: dict[States, None] = {states: None}
        pending = [states]
        for own in pending:
            for letter in range(self.table.letters):
                image = self.image(letter, own)
                if image not in found:
                    found[image] = None
                    pending.append(image)
        self.followed += len(found)
        check(self.followed, MOST_FOLLOWED, "images of images of its states")
        return found

    def _height(self, own: States) -> int:
        """The longest way down to single states; sets come in order of their size."""
        if len(own) == 1:
            return 0
        best = 0
        for other in self.family:
            if len(other) > len(own):
                break
            self.compared += len(self.reach[own])
            if len(other) == len(own):
                # As large and reached, but not back: what it leads to is lower.
                if other != own and other in self.reach[own] and own not in self.reach[other]:
                    best = max(best, self._known_height(other))
            elif any(other <= image for image in self.reach[own]):
                best = max(best, self.heights[other])
        check(self.compared, MOST_COMPARED, "pairs of images of its states")
        return best + 1

    def _known_height(self, own: States) -> int:
        if own not in self.heights:
            self.heights[own] = self._height(own)
        return self.heights[own]

    def _lay(self, own: States) -> None:
        """The bricks of a set, and those of its whole class in the same order."""
        inside = [other for other in self.family if other < own]
        self.bricks[own] = [b for b in inside if not any(b < other for other in inside)]
        pending = [own]
        for one in pending:
            for letter in range(self.table.letters):
                image = self.image(letter, one)
                if len(image) == len(one) and image not in self.bricks and one in self.reach[image]:
                    self.bricks[image] = [self.image(letter, brick) for brick in self.bricks[one]]
                    pending.append(image)

    def run(self) -> Levels:
        """Follow all chains that words reach."""
        heights = range(self.heights[self.all], 0, -1)
        own, chain = self.all, []
        for height in heights:
            if self.heights[own] == height:
                own = next(brick for brick in self.bricks[own] if self.table.start in brick)
            chain.append(own)
        return self._levels(heights, tuple(chain), *self._followed(heights, tuple(chain)))

    def _step(self, heights: range, chain: Chain, letter: int) -> Chain:
        edge, found = (self.all, letter, self.all), []
        for height, child in zip(heights, chain, strict=True):
            after = edge[2]
            if self.heights[after] == height:
                reset = self._reset(height, edge)
                image = self.image(letter, child)
                after = image if reset is None else self.bricks[after][reset]
            found.append(after)
            edge = child, letter, after
        return tuple(found)

    def _reset(self, height: int, edge: Edge) -> int | None:
        """The label that an edge resets to; None where it passes or permutes."""
        before, letter, after = edge
        image = self.image(letter, before)
        moves = self.heights[before] == height and image == after
        if self.heights[after] < height or moves:
            return None
        return next(i for i, brick in enumerate(self.bricks[after]) if image <= brick)

    def _moved(self, height: int, edge: Edge, labels: int) -> Permutation:
        before, letter, after = edge
        if self.heights[after] < height or self._reset(height, edge) is not None:
            return identity(labels)
        places = {brick: label for label, brick in enumerate(self.bricks[after])}
        moved = [places[self.image(letter, brick)] for brick in self.bricks[before]]
        return (*moved, *range(len(moved), labels))

    def _followed(
        self, heights: range, start: Chain
    ) -> tuple[list[dict[tuple[Edge, int | None], Edge]], int]:
        """By level, the next edge of each edge and label; and the number of chains."""
        found: list[dict[tuple[Edge, int | None], Edge]] = [{} for _ in heights]
        chains, pending = {start}, [start]
        for chain in pending:
            for letter in range(self.table.letters):
                after, edge = self._step(heights, chain, letter), (self.all, letter, self.all)
                for level, height in enumerate(heights):
                    known = self.heights[edge[0]] == height
                    label = self.bricks[edge[0]].index(chain[level]) if known else None
                    found[level][edge, label] = chain[level], letter, after[level]
                    edge = found[level][edge, label]
                if after not in chains:
                    chains.add(after)
                    pending.append(after)
            check(len(chains), self.limits.chains, "chains of sets of its states")
        return found, len(chains)

    def _levels(
        self,
        heights: range,
        start: Chain,
        found: Sequence[dict[tuple[Edge, int | None], Edge]],
        chains: int,
    ) -> Levels:
        if not found:
            return Levels((), (self.table.start,) * self.table.letters, chains)
        levels, places = [], {(self.all, a, self.all): a for a in range(self.table.letters)}
        for level, height in enumerate(heights):
            edges, last = list(places), level == len(heights) - 1
            labels = max(len(b) for own, b in self.bricks.items() if self.heights[own] == height)
            top = start[level - 1] if level else self.all
            known = self.heights[top] == height
            after = dict.fromkeys(found[level].values())
            if last:  # one for all edges to a state
                states = dict.fromkeys(edge[2] for edge in after)
                order = {state: i for i, state in enumerate(states)}
                following = {edge: order[edge[2]] for edge in after}
                final = tuple(next(iter(state)) for state in states)
            else:
                following = {edge: i for i, edge in enumerate(after)}
            rows: dict[int, dict[int | None, int]] = {}
            for (edge, label), then in found[level].items():
                rows.setdefault(places[edge], {})[label] = following[then]
            levels.append(
                Level(
                    labels,
                    self.bricks[top].index(start[level]) if known else 0,
                    tuple(self._moved(height, edge, labels) for edge in edges),
                    tuple(self._reset(height, edge) for edge in edges),
                    {
                        (edge, label): then
                        for edge, row in rows.items()
                        for label, then in _told(row).items()
                    },
                )
            )
            places = following
        return Levels(tuple(levels), final, chains)


def _told(row: dict[int | None, int]) -> dict[int | None, int]:
    """What follows by label, or for any label where that is one."""
    then = set(row.values())
    return {None: then.pop()} if len(then) == 1 else row
