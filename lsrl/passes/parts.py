"""Rows over channels of a graph that is being made, and the units that read them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsrl.ir.graph import GraphBuilder
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Node
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Bound, Relu
from lsrl.passes.affine import Terms, emit_affine

Place = tuple[int, int]


class Row(NamedTuple):
    """Σ weight x + bias, one number a token.

    Attributes:
      terms: weights by node and channel.
      bias: added.
    """

    terms: Mapping[Place, float]
    bias: float = 0.0


def single(node: int, channel: int) -> Row:
    """A channel."""
    return Row({(node, channel): 1.0})


def constant(value: float) -> Row:
    """A number."""
    return Row({}, value)


def plus(*rows: Row) -> Row:
    """The sum."""
    terms: dict[Place, float] = {}
    for row in rows:
        for place, weight in row.terms.items():
            terms[place] = terms.get(place, 0.0) + weight
    kept = {place: weight for place, weight in terms.items() if weight}
    return Row(kept, sum(row.bias for row in rows))


def scaled(row: Row, factor: float) -> Row:
    """The multiple."""
    if not factor:
        return constant(0.0)
    return Row({place: factor * weight for place, weight in row.terms.items()}, factor * row.bias)


def matrices(builder: GraphBuilder, rows: Sequence[Row]) -> tuple[Terms, Array]:
    """Rows as (rows, width) matrices by node, and their biases."""
    entries: dict[int, Array] = {}
    for number, row in enumerate(rows):
        for (node, channel), weight in row.terms.items():
            shape = len(rows), builder.nodes[node].width
            entries.setdefault(node, np.zeros(shape))[number, channel] = weight
    terms = {node: Matrix(matrix) for node, matrix in entries.items()}
    return terms, np.array([row.bias for row in rows])


class Wiring:
    """Adds nodes that read rows to a graph.

    Attributes:
      builder: of the graph.
      root: tells apart what is made for one node from what is made for others.
    """

    def __init__(self, builder: GraphBuilder, root: object) -> None:
        """Nothing is added yet."""
        self.builder, self.root = builder, root
        self._groups = 0

    def node(self, rows: Sequence[Row]) -> int:
        """A node whose channels are rows."""
        return emit_affine(self.builder, *matrices(self.builder, rows))

    def relus(self, rows: Sequence[Row]) -> list[Row]:
        """The positive part of each."""
        if not rows:
            return []
        node = self.builder.add(Relu(), self.node(rows))
        return [single(node, channel) for channel in range(len(rows))]

    def conjunctions(self, rows: Sequence[Row]) -> list[Row]:
        """The positive part of rows that are 1 or at most 0, no two of them 1 at a token."""
        if not rows:
            return []
        node = self.bounded(self.builder.add(Relu(), self.node(rows)), 0.0, 1.0)
        self._groups += 1
        alone = (((self.root, self._groups), np.arange(len(rows))),)
        plain = Node(self.builder.nodes[node].op, (), len(rows))
        self.builder.inherit(node, plain, alone)
        return [single(node, channel) for channel in range(len(rows))]

    def bounded(self, node: int, low: float, high: float) -> int:
        """The node, whose values lie between two ends by a theorem of the maker's."""
        width = self.builder.nodes[node].width
        return self.builder.add(Bound((low,) * width, (high,) * width, proven=True), node)
