"""Tables of transitions: recovered from threshold units, and minimised."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lsrl.automata.limits import TooLargeError
from lsrl.automata.permutations import Permutation, is_permutation
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array


@dataclass(frozen=True)
class Table:
    """A finite automaton.

    Attributes:
      rows: (states, letters), the state that follows.
      start: the state before the first letter.
    """

    rows: tuple[tuple[int, ...], ...]
    start: int = 0

    @property
    def states(self) -> int:
        """How many."""
        return len(self.rows)

    @property
    def letters(self) -> int:
        """How many."""
        return len(self.rows[0])

    @cached_property
    def images(self) -> tuple[tuple[int, ...], ...]:
        """(letters, states): where each letter takes each state."""
        return tuple(zip(*self.rows, strict=True))

    @cached_property
    def permutations(self) -> tuple[Permutation, ...] | None:
        """The images, where every letter permutes the states."""
        return self.images if all(map(is_permutation, self.images)) else None


def recovered(
    transition: Matrix, initial: Sequence[float], updates: Array, most: int
) -> tuple[Table, Array]:
    """The table of h = 1 where A h + u > 0.

    Args:
      transition: A, (width, width).
      initial: (width,), the units before the first token.
      updates: (letters, width), u by letter.
      most: states that may be reached.

    Returns:
      The table, whose start is state 0, and (states, width) the units in each state.

    Raises:
      TooLargeError: more states are reached.
    """
    states = [np.array(initial, dtype=np.float64)]
    number = {states[0].tobytes(): 0}
    rows: list[tuple[int, ...]] = []
    while len(rows) < len(states):
        fed_back = transition.times(states[len(rows)])
        row = []
        for fired in (fed_back + updates > 0).astype(np.float64):
            place = number.setdefault(fired.tobytes(), len(states))
            if place == len(states):
                states.append(fired)
            row.append(place)
        rows.append(tuple(row))
        if len(states) > most:
            raise TooLargeError(f"its units take more than {most:,} values, which are not followed")
    return Table(tuple(rows)), np.array(states)


def minimised(table: Table, outputs: Sequence[Hashable]) -> tuple[Table, list[int]]:
    """The automaton with the fewest states that gives the same outputs after every word.

    What the start would give is never given unless some letter leads back there.

    Args:
      table: the automaton.
      outputs: (states,), what is given after a letter that leads to the state.

    Returns:
      The table, states in the order in which words reach them, and (states of `table`,) the state
      that each of its states became, -1 where no word leads to it; letters are those of `table`.
    """
    entered = any(table.start in row for row in table.rows)
    kinds: list[Hashable] = list(outputs)
    if not entered:
        kinds[table.start] = ("start",)
    classes = _numbered(kinds)
    while True:
        finer = _numbered(
            [(classes[q], *(classes[r] for r in row)) for q, row in enumerate(table.rows)]
        )
        if max(finer) == max(classes):
            break
        classes = finer
    if not entered:
        row = [classes[state] for state in table.rows[table.start]]
        same = (q for q, other in enumerate(table.rows) if [classes[r] for r in other] == row)
        classes[table.start] = classes[next((q for q in same if q != table.start), table.start)]
    member = {own: state for state, own in reversed(list(enumerate(classes)))}
    order = {classes[table.start]: 0}
    pending = [classes[table.start]]
    for own in pending:
        for state in table.rows[member[own]]:
            if classes[state] not in order:
                order[classes[state]] = len(order)
                pending.append(classes[state])
    rows = tuple(tuple(order[classes[state]] for state in table.rows[member[own]]) for own in order)
    return Table(rows), [order.get(own, -1) for own in classes]


def letter_classes(table: Table) -> tuple[Table, list[int]]:
    """The automaton with one letter for all that do the same, and which each letter became."""
    classes = _numbered(list(table.images))
    kept = [classes.index(k) for k in range(max(classes) + 1)]
    return Table(tuple(tuple(row[a] for a in kept) for row in table.rows), table.start), classes


def _numbered(kinds: Sequence[Hashable]) -> list[int]:
    number: dict[Hashable, int] = {}
    return [number.setdefault(kind, len(number)) for kind in kinds]
