"""Nodes of a graph, and the lines of the user's code that made them."""

from dataclasses import dataclass
from typing import NamedTuple

from lsrl.ir.ops import Op


class Source(NamedTuple):
    """A line of the user's code.

    Attributes:
      file: its path.
      line: its number, from 1.
      text: the expression there that made a signal, where it is known, or "".
    """

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        """file:line."""
        return f"{self.file}:{self.line}"

    @property
    def place(self) -> "Source":
        """The line alone."""
        return Source(self.file, self.line)


@dataclass(frozen=True, slots=True)
class Node:
    """One signal of a graph.

    Attributes:
      op: what computes it.
      operands: ids of the nodes that it reads, in order; the same one may come twice.
      width: number of channels.
      origins: ids of the signals of the program that this node's value equals.
      names: the user's names for it.
      sources: the lines that made it.
    """

    op: Op
    operands: tuple[int, ...]
    width: int
    origins: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
