"""Programs that follow a permutation, and that look up what it points at."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs
from lsrl.programs.formal_languages import automaton


def swaps(n: int = 3, max_length: int | None = None) -> Program:
    """The arrangement of n items after swaps: the word problem of S_n.

    Input: a token each step: 0 leaves all as it is, 1 + k has the items at the two places of pair k
    change places; pairs in order, (1, 2), (1, 3), …, (n - 1, n). Output: the index of the
    arrangement after this token, the place of each item, in the sorted list of all of them; index 0
    is the one before the first token.

    Shows: a permutation as it is, in one state, where `permutations` follows it among n! states of
    an automaton; out of reach of recurrences without negative eigenvalues unless TC⁰ = NC¹ from
    n = 5 on.

    Args:
      n: number of items, from 2 to 8.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Merrill et al. (2024), "The Illusion of State in State-Space Models".
    """
    items = checks.integer("n", n, 2, 8)
    pairs = _pairs(items)
    moved = _moved(items, pairs)
    # For each item that stands behind a later one, the list has all arrangements of the rest first.
    behind = np.array([np.eye(items)[first] - np.eye(items)[second] for first, second in pairs])
    counts = [math.factorial(items - 1 - first) for first, _ in pairs]

    @lsrl.program(max_length=checks.optional_length(max_length))
    def swaps(
        swap: Annotated[Signal, Token(1 + len(pairs), _words(pairs))],
    ) -> Annotated[Signal, Token(math.factorial(items))]:
        places = lsrl.swap_state(lsrl.lookup(swap, moved)).named("places")
        index = np.array([counts]) @ (behind @ places > 0)
        return lsrl.bound(index, 0, math.factorial(items) - 1)

    return swaps


def _pairs(items: int) -> list[tuple[int, int]]:
    """Places, counted from 0, that one token may swap."""
    return list(itertools.combinations(range(items), 2))


def _moved(items: int, pairs: Sequence[tuple[int, int]]) -> Array:
    """(1 + pairs, items) which places each token moves."""
    return np.array([[0] * items, *([int(p in pair) for p in range(items)] for pair in pairs)])


def _words(pairs: Sequence[tuple[int, int]]) -> list[str]:
    return ["STAY", *(f"SWAP{first + 1}-{second + 1}" for first, second in pairs)]


def swaps_reference(tokens: Sequence[int], n: int) -> list[int]:
    """Swap in a list, and count the arrangements that come before it in order."""
    pairs, arrangements = _pairs(n), list(itertools.permutations(range(n)))
    standing, answers = list(range(n)), []  # the item at each place
    for token in tokens:
        if token:
            first, second = pairs[token - 1]
            standing[first], standing[second] = standing[second], standing[first]
        places = tuple(standing.index(item) for item in range(n))
        answers.append(arrangements.index(places))
    return answers


def state_recall(n: int = 3, values: int = 3, max_length: int | None = None) -> Program:
    """A memory whose address is the state of an automaton, and is never said.

    Input: a token each step. A mark stands at place 1 of n at first. 0 leaves it there, and 1 + k
    has the two places of pair k change what they hold, the mark too; pairs in order, (1, 2),
    (1, 3), …, (n - 1, n). The tokens after these store: the v-th the value v, from 0 to values - 1,
    in the cell that the mark's place names. Output: what lies in the cell of the mark's place after
    this token: 1 + v for the value v, 0 for nothing.

    Shows: state tracking and recall in one, where a model that has one of them alone fails. Tasks
    of this kind are called state-based recall (Rawat et al. 2026, arXiv 2604.21454); this one is
    ours.

    Args:
      n: number of places, from 2 to 64.
      values: number of values, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Rawat et al. (2026), arXiv 2604.21454.
    """
    places, symbols = checks.integer("n", n, 2, 64), checks.integer("values", values, 1)
    pairs = _pairs(places)
    table = _marks(places, pairs, symbols)
    words = [*_words(pairs), *(f"STORE{value}" for value in range(symbols))]
    content = [0] * (1 + len(pairs)) + [*range(1, symbols + 1)]
    answers = ["NOTHING", *(f"VALUE{value}" for value in range(symbols))]

    @lsrl.program(max_length=checks.optional_length(max_length))
    def state_recall(
        token: Annotated[Signal, Token(len(words), words)],
    ) -> Annotated[Signal, Token(symbols + 1, answers)]:
        mark = automaton(token, table, range(places), 0).named("mark")
        here = mark == np.arange(places)
        stored = lsrl.lookup(token, content)
        cells = lsrl.hold(stored, here & (stored > 0)).named("cells")
        # The mark is at one place.
        return lsrl.bound(lsrl.select(here, cells, 0).sum(), 0, symbols)

    return state_recall


def _marks(places: int, pairs: Sequence[tuple[int, int]], values: int) -> list[list[int]]:
    """(places, tokens) where a mark at each place goes at each token; storing leaves it."""
    table = []
    for place in range(places):
        swapped = [sum(pair) - place if place in pair else place for pair in pairs]
        table.append([place, *swapped, *[place] * values])
    return table


def state_recall_reference(tokens: Sequence[int], n: int) -> list[int]:
    """Move the mark, and store in a dictionary under its place."""
    pairs, memory = _pairs(n), dict[int, int]()
    mark, answers = 0, []
    for token in tokens:
        if token > len(pairs):
            memory[mark] = token - len(pairs)
        elif token and mark in pairs[token - 1]:
            mark = sum(pairs[token - 1]) - mark
        answers.append(memory.get(mark, 0))
    return answers


def _every_swap(n: int) -> list[Inputs]:
    """All swaps, one after another, twice over."""
    return [(np.tile(np.arange(1 + len(_pairs(n))), 2),)]


ENTRIES = (
    Entry(
        swaps,
        swaps_reference,
        parameters=({}, {"n": 2}, {"n": 5, "max_length": 400}),
        edges=_every_swap,
    ),
    Entry(
        state_recall,
        state_recall_reference,
        parameters=({}, {"n": 2, "values": 1}, {"n": 5, "values": 20, "max_length": 400}),
        edges=_every_swap,
    ),
)
