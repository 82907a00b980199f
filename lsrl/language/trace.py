"""The recording of a program while its function runs: its signals and the lines that made them."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

from lsrl.errors import LsrlError, ProgramError
from lsrl.ir.graph import Graph, GraphBuilder
from lsrl.ir.node import Source
from lsrl.ir.ops import Op
from lsrl.language.expressions import Expressions

# Without a declared max_length, bounds must not move any more after this many tokens.
UNDECLARED_LENGTH = 1 << 21

_PACKAGE = Path(__file__).resolve().parents[1]
# Frames of these places are ours, not the user's; the library of programs counts as user code.
_INTERNAL = tuple(str(_PACKAGE / place) for place in ("language", "ir", "paper.py"))


class Trace:
    """One program being recorded.

    Attributes:
      builder: the graph so far.
      max_length: the declared number of tokens, or None.
      calls: what each program that was called gave, by its graph and operands.
      full: one-hot nodes of which some channel is on at every token.
    """

    def __init__(self, max_length: int | None) -> None:
        """Start an empty recording."""
        self.max_length = max_length
        self.builder = GraphBuilder(max_length or UNDECLARED_LENGTH)
        self.full = set[int]()
        self.calls: dict[tuple[Graph, tuple[int, ...]], int] = {}
        self._expressions = Expressions()
        self._called = Counter[str]()
        self._lines: Sequence[Source] = ()
        self._later: list[tuple[int, tuple[str, ...]]] = []

    def add(self, op: Op, *operands: int) -> int:
        """Record a node with the user's line and expression; errors name that line.

        Raises:
          ShapeError: operands that do not fit.
          ProgramError: an accumulator without bounds, because no max_length was declared.
        """
        lines = self._lines or [self.line()]
        try:
            index = self.builder.add(op, *operands)
        except LsrlError as error:
            raise type(error)(f"{lines[0]}: {error}") from None
        self.builder.describe(index, sources=lines)
        if self.max_length is None and op.stateful:
            self._refuse_growth(op, index, lines[0])
        return index

    def line(self) -> Source:
        """The user's line and expression that are being carried out."""
        frame = _user_frame()
        return Source(frame.f_code.co_filename, frame.f_lineno, self._expressions.at(frame))

    @contextmanager
    def made_by(self, lines: Sequence[Source]) -> Iterator[None]:
        """Let nodes be those of other lines, for the length of a `with` block."""
        before, self._lines = self._lines, lines
        try:
            yield
        finally:
            self._lines = before

    def call(self, name: str) -> str:
        """What the signals of a call are named after: `parity`, and of the next one `parity#2`."""
        self._called[name] += 1
        number = self._called[name]
        return name if number == 1 else f"{name}#{number}"

    def name_later(self, index: int, names: Sequence[str]) -> None:
        """Names of a node that come behind those which the program itself gives it."""
        self._later.append((index, tuple(names)))

    def give_names(self) -> None:
        """Give the names that were put off."""
        for index, names in self._later:
            self.builder.describe(index, names)
        self._later.clear()

    def _refuse_growth(self, op: Op, index: int, source: Source) -> None:
        """A state whose bounds still move after very many tokens is unbounded in the length."""
        operands = [self.builder.facts[i] for i in self.builder.nodes[index].operands]
        if not op.settled(operands, UNDECLARED_LENGTH):
            raise ProgramError(
                f"{source}: this {op.name} grows with the number of tokens, so its bounds need a "
                "declared length; write @lsrl.program(max_length=...)"
            )


class Recorded:
    """What a trace holds: a node, whatever can be done with it."""

    __slots__ = ()


_CURRENT: ContextVar[Trace | None] = ContextVar("lsrl_trace", default=None)


@contextmanager
def recording(trace: Trace) -> Iterator[Trace]:
    """Make a trace the current one for the length of a `with` block, in this thread alone."""
    token = _CURRENT.set(trace)
    try:
        yield trace
    finally:
        _CURRENT.reset(token)


def current_trace(what: str) -> Trace:
    """The program being recorded.

    Raises:
      ProgramError: no program is being recorded.
    """
    trace = _CURRENT.get()
    if trace is None:
        raise ProgramError(
            f"{user_line()}: {what} makes a signal, which lives inside a program; call it in a "
            "function decorated with @lsrl.program"
        )
    return trace


def user_line() -> Source:
    """The innermost line of code that is not this package's language."""
    frame = _user_frame()
    return Source(frame.f_code.co_filename, frame.f_lineno)


def _user_frame() -> FrameType:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INTERNAL):
        frame = frame.f_back
    return frame
