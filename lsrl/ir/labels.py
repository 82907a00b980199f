"""What the nodes of a graph are called, everywhere: one name a node, which no other has.

A node goes by the user's name for it, or else by the expression that made it, as the program's text
has it. What an expression needs on its way, and what the passes make for it, goes by its name and a
number, `paper > rock#2`; so does a second node of the same name. A node whose value is that of a
signal of the program has that signal's name in every later graph. Where no text is known, as in a
program that was typed into a shell, a node goes by its op and its place in the graph, `relu#5`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple, Protocol

from lsrl.ir.node import Node, Source

# What holds less than an index does, where it stands outside of brackets.
_LOOSE = frozenset(" +-−*/%@<>=&|^~")


class Name(NamedTuple):
    """The name of a node.

    Attributes:
      text: the name, which no other node of the graph has.
      after: what it is called after: the same without a number.
    """

    text: str
    after: str


class Named(Protocol):
    """What of a graph the names follow from."""

    @property
    def nodes(self) -> Sequence[Node]:
        """In topological order."""

    @property
    def readers(self) -> Sequence[Sequence[int]]:
        """For each node, the ids of the nodes that read it."""

    @property
    def program(self) -> "Named | None":
        """The graph as the user wrote it, where that is another."""

    @property
    def called(self) -> Sequence[Name]:
        """The name of each node."""

    @property
    def expressions(self) -> Mapping[Source, str]:
        """What is called after each expression."""


class _Wish(NamedTuple):
    """The name that a node gets if none before it has it, or else the next number of `after`."""

    after: str
    text: str | None
    user: bool = False  # users' names come first


def bracketed(name: str) -> str:
    """A name as it stands in a formula: in brackets, unless it holds together without."""
    depth = 0
    for sign in name:
        depth += (sign in "([{") - (sign in ")]}")
        if sign in _LOOSE and not depth:
            return f"({name})"
    return name


def element_name(name: str, element: int) -> str:
    """The name of one element of a signal that has several."""
    return f"{bracketed(name)}[{element}]"


def names_of(graph: Named) -> tuple[Name, ...]:
    """The name of each node, by its id."""
    wishes = _wishes(graph)
    program = () if graph.program is None else graph.program.called
    reserved, taken = {name.text for name in program}, set[str]()
    numbers: dict[str, Iterator[int]] = {}
    found: dict[int, Name] = {}
    turns = sorted(range(len(wishes)), key=lambda i: (wishes[i].text is None, not wishes[i].user))
    for i in turns:
        after, text, _ = wishes[i]
        number = numbers.setdefault(after, count(2))
        while text is None or text in taken:
            text = f"{after}#{next(number)}"
            text = None if text in reserved else text
        taken.add(text)
        found[i] = Name(text, after)
    return tuple(found[i] for i in range(len(wishes)))


def _wishes(graph: Named) -> list[_Wish]:
    program, found = graph.program, dict[int, _Wish]()
    for i in reversed(range(len(graph.nodes))):  # readers come first
        node, source = graph.nodes[i], _expression(graph, i)
        signal = _signal(graph, i)
        if signal is not None:
            found[i] = _Wish(signal.after, signal.text, bool(node.names))
        elif node.names:
            found[i] = _Wish(node.names[0], node.names[0], True)
        elif source is None:
            found[i] = _Wish(node.op.name, f"{node.op.name}#{i}")
        else:
            # What is read by another node of its expression is on the way to it.
            readers = (found[r].after for r in graph.readers[i] if _expression(graph, r) == source)
            after = next(readers, None)
            if after is not None:
                found[i] = _Wish(after, None)
            elif program is None:
                found[i] = _Wish(source.text, source.text)
            else:
                found[i] = _Wish(program.expressions.get(source, source.text), None)
    return [found[i] for i in range(len(graph.nodes))]


def _expression(graph: Named, i: int) -> Source | None:
    """The expression that a node belongs to, where its text is known."""
    sources = graph.nodes[i].sources
    return sources[0] if sources and sources[0].text else None


def _signal(graph: Named, i: int) -> Name | None:
    """The name of the signal of the program whose value a node has, where it has a lasting one."""
    node, program = graph.nodes[i], graph.program
    if program is None:
        return None
    if node.names:
        same = (o for o in node.origins if node.names[0] in program.nodes[o].names)
    else:
        same = (o for o in node.origins if _expression(program, o) is not None)
    # Of several rather what an expression gives than what is made on its way.
    known = sorted((program.called[o] for o in same), key=lambda name: name.text != name.after)
    return known[0] if known else None
