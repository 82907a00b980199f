"""The smallest points that a group of permutations can be seen on: block systems.

A *block system* cuts the states into blocks that every letter takes to blocks. The letters permute
the blocks; where that tells all elements of their group apart it is *faithful*, and the few blocks
say all that the many states do. S5 as its own 120 states has one of 5 blocks.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lsrl.automata.permutations import Permutation, group_of, identity, swap_count

# Systems that are made, that are combined, and that one combination has, at most.
MOST_SYSTEMS = 500
MOST_COMBINED = 40
MOST_AT_ONCE = 3
# Faithful ones that are told.
MOST_FOUND = 4
# Groups beyond are not written out; their states are then their only points.
MOST_ELEMENTS = 5000


@dataclass(frozen=True)
class Action:
    """Letters as permutations of a few points.

    Attributes:
      points: (states,) the point that each state is seen as.
      letters: one permutation of the points each.
    """

    points: tuple[int, ...]
    letters: tuple[Permutation, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return len(self.letters[0])

    @cached_property
    def swaps(self) -> int:
        """The most swaps that a letter takes."""
        return max(map(swap_count, self.letters))


def actions_of(letters: Sequence[Permutation]) -> list[Action]:
    """Actions on blocks, of letters that take every state to every other in the end.

    Those of few swaps, then of few points come first.
    """
    states = len(letters[0])
    least = {blocks[0]: blocks for blocks in map(_blocks, _principal(letters))}
    found = dict(least)
    pending = list(found)
    for home in pending:
        for other, blocks in least.items():
            joined = _joined(found[home], blocks) if other & ~home else home
            if joined not in found and len(found) < MOST_SYSTEMS:
                found[joined] = _blocks(_congruence(letters, _pairs(joined)))
                pending.append(joined)
    found[1] = [1 << state for state in range(states)]
    made = [_action(letters, blocks) for blocks in found.values() if blocks[0] != (1 << states) - 1]
    return sorted(made, key=lambda action: (action.swaps, action.size, action.points))


def faithful(letters: Sequence[Permutation]) -> list[tuple[Action, ...]]:
    """Combinations of actions that tell all products of the letters apart.

    Those of few swaps, then of few points come first; the states themselves come last.
    """
    whole = Action(identity(len(letters[0])), tuple(letters))
    group = group_of([(letter,) for letter in letters], MOST_ELEMENTS)
    if group is None:
        return [(whole,)]
    some = actions_of(letters)[:MOST_COMBINED]
    sets = [
        chosen
        for count in range(1, MOST_AT_ONCE + 1)
        for chosen in itertools.combinations(some, count)
    ]
    sets.sort(key=lambda each: (max(a.swaps for a in each), sum(a.size for a in each)))
    found: list[tuple[Action, ...]] = []
    for chosen in sets:
        if len(found) == MOST_FOUND or chosen == (whole,):
            break
        if not any(set(chosen) >= set(smaller) for smaller in found):
            parts = [tuple(action.letters[a] for action in chosen) for a in range(len(letters))]
            elements = group_of(parts, len(group))
            if elements is not None and len(elements) == len(group):
                found.append(chosen)
    return [*found, (whole,)]


def _action(letters: Sequence[Permutation], blocks: list[int]) -> Action:
    number = {block: place for place, block in enumerate(dict.fromkeys(blocks))}
    points = tuple(number[block] for block in blocks)
    members = [points.index(point) for point in range(len(number))]
    images = (tuple(points[letter[state]] for state in members) for letter in letters)
    return Action(points, tuple(images))


def _principal(letters: Sequence[Permutation]) -> list[tuple[int, ...]]:
    """The finest system that has state 0 in one block with another state, for each of those."""
    return [_congruence(letters, [(0, state)]) for state in range(1, len(letters[0]))]


def _blocks(system: tuple[int, ...]) -> list[int]:
    """By state the block that holds it, as a set of bits; that of state 0 tells them all."""
    members: dict[int, int] = {}
    for state, block in enumerate(system):
        members[block] = members.get(block, 0) | 1 << state
    return [members[block] for block in system]


def _pairs(block: int) -> list[tuple[int, int]]:
    """State 0 with each state of its block."""
    return [(0, state) for state in range(block.bit_length()) if block >> state & 1]


def _joined(blocks: list[int], others: list[int]) -> int:
    """The block of state 0 in the finest system that both are finer than.

    What is made of blocks that overlap is closed under the letters already.
    """
    found, pending, everything = 1, 1, (1 << len(blocks)) - 1
    while pending and found != everything:
        state = pending.bit_length() - 1
        fresh = (blocks[state] | others[state]) & ~found
        found, pending = found | fresh, (pending ^ 1 << state) | fresh
    return found


def _congruence(
    letters: Sequence[Permutation], pairs: Iterable[tuple[int, int]]
) -> tuple[int, ...]:
    """The finest blocks that have each pair in one block, by number of the block."""
    parent = list(range(len(letters[0])))

    def root(state: int) -> int:
        while parent[state] != state:
            parent[state] = parent[parent[state]]
            state = parent[state]
        return state

    pending = [pair for pair in pairs if pair[0] != pair[1]]
    while pending:
        one, other = map(root, pending.pop())
        if one != other:
            parent[max(one, other)] = min(one, other)
            pending.extend((letter[one], letter[other]) for letter in letters)
    roots = [root(state) for state in range(len(parent))]
    number = {each: place for place, each in enumerate(dict.fromkeys(roots))}
    return tuple(number[each] for each in roots)
