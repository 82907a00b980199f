"""Whether a routine does a task under some renaming of tokens: decided, with a proof of "no".

A task is a renamed routine if a map of its tokens to the routine's symbols makes the routine's
output decide the task's, at every word: on the machine that runs both side by side no output of the
routine may meet two of the task. Maps are built up one token at a time; two outputs that meet with
some tokens do so with more, so a clash cuts off all maps that go on from there.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from lsrl.nn.tables import MooreTable

# Maps that are looked at, in part or whole, before the question is left open.
MOST_NODES = 8_000
# No machine stands before the first token.
_Pair: TypeAlias = tuple[int, int]


@final
@dataclass(frozen=True)
class Relabelling:
    """How a routine does a task.

    Attributes:
      arguments: the routine's symbol for each token of the task.
      readout: the task's output for each output of the routine that comes up.
      before: the symbol of a token before the first, which names the task; None if there is none.
      after: that of a token after the last, at which the answer is due; None if there is none.

    Example:
      least = np.minimum.outer(np.arange(3), np.arange(3))
    """

    arguments: tuple[int, ...]
    readout: dict[int, int]
    before: int | None = None
    after: int | None = None


# "no" is a proof: there is no such map.
Verdict: TypeAlias = Relabelling | Literal["no", "not decided"]


class _ManyNodesError(Exception):
    """More maps than are looked at."""


class _Decision:
    """One task and one routine."""

    def __init__(self, task: MooreTable, routine: MooreTable, most: int) -> None:
        self.most, self.nodes = most, 0
        self._moves, self._asked = task.follows.tolist(), task.ids.tolist()
        self._steps, self._said = routine.follows.tolist(), routine.ids.tolist()
        self._first = task.initial, routine.initial
        # Symbols at which the routine does the same are one. So are tokens of the task: if a map
        # does, then so does one that takes such tokens to the same symbol.
        self.symbols, _ = _alike(routine)
        self._tokens, self._classes = _alike(task)

    def found(self, framed: bool) -> Relabelling | None:
        """The first that does; None if there is none."""
        if len(self._outputs()) > len(set(self._said)):
            return None
        frames: Iterator[tuple[int | None, int | None]] = iter([(None, None)])
        if framed:
            frames = itertools.product(self.symbols, self.symbols)
        for before, after in frames:
            found = self._from((), before, after)
            if found is not None:
                return found
        return None

    def _outputs(self) -> set[int]:
        """What the task says behind some word."""
        reached, pending = set[int](), [self._first[0]]
        while pending:
            after = set(self._moves[pending.pop()]) - reached
            reached |= after
            pending += after
        return {self._asked[state] for state in reached}

    def _from(
        self, symbols: tuple[int, ...], before: int | None, after: int | None
    ) -> Relabelling | None:
        self.nodes += 1
        if self.nodes > self.most:
            raise _ManyNodesError
        readout = self._readout(symbols, before, after)
        if readout is None:
            return None
        if len(symbols) == len(self._tokens):
            each = tuple(symbols[number] for number in self._classes)
            return Relabelling(each, readout, before, after)
        for symbol in self.symbols:
            found = self._from((*symbols, symbol), before, after)
            if found is not None:
                return found
        return None

    def _readout(
        self, symbols: Sequence[int], before: int | None, after: int | None
    ) -> dict[int, int] | None:
        """The task's output by the routine's, on all words of the first tokens; None: a clash."""
        asked, state = self._first
        first = asked, state if before is None else self._steps[state][before]
        reached: set[_Pair] = set()
        pending, table = [first], dict[int, int]()
        while pending:
            asked, state = pending.pop()
            moves, steps = self._moves[asked], self._steps[state]
            for token, symbol in zip(self._tokens, symbols, strict=False):
                pair = moves[token], steps[symbol]
                if pair not in reached:
                    reached.add(pair)
                    pending.append(pair)
                    end = pair[1] if after is None else self._steps[pair[1]][after]
                    wanted = self._asked[pair[0]]
                    if table.setdefault(self._said[end], wanted) != wanted:
                        return None
        return table


def _alike(table: MooreTable) -> tuple[list[int], list[int]]:
    """The first of the symbols at which a machine does the same, and the class of each symbol."""
    columns = [tuple(column) for column in table.follows.T.tolist()]
    kinds = [*dict.fromkeys(columns)]
    return [columns.index(kind) for kind in kinds], [kinds.index(column) for column in columns]


def relabelled(
    task: MooreTable, routine: MooreTable, framed: bool = False, most: int = MOST_NODES
) -> Verdict:
    """Decide whether a routine does a task under some renaming; see `Library.can`."""
    decision = _Decision(task, routine, most)
    try:
        found = decision.found(framed)
    except _ManyNodesError:
        return "not decided"
    return "no" if found is None else found
