"""A legalised graph, as the signals of a program are looked for in it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.node import Node
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, Input, Lookup, Op, Product
from lsrl.ir.trail import Row, Spread, rows_of
from lsrl.numerics import Numerics
from lsrl.rounding.channels import Channels, Kind, RoundingError

if TYPE_CHECKING:
    import scipy.sparse as sp

# Terms of a polynomial, beyond which two are not compared.
MOST_TERMS = 256
Polynomial = dict[tuple[int, ...], float]
CONTINUOUS = (
    "is continuous, so it may leave the normal numbers of the dtype; say how small it can be, by "
    "step= of the input or of lsrl.bound"
)


class Made:
    """The legalised graph, as the program's signals are looked for in it."""

    def __init__(self, graph: Graph, numerics: Numerics) -> None:
        """Rows are worked out when asked for."""
        self.graph = graph
        self.channels = Channels(graph.nodes, numerics)
        self._spread = Spread(graph.nodes)
        self._rows: dict[int, list[Row]] = {}
        self._columns: dict[tuple[int, bytes], int] = {}
        self._same = self._alike()

    def row(self, node: int, channel: int) -> Row:
        """A channel over the graph's atoms."""
        if node not in self._rows:
            rows = rows_of(*self._spread.of(node))
            self._rows[node] = [self.one_way(row) for row in rows]
        return self._rows[node][channel]

    def one_way(self, row: Row) -> Row:
        """A row in which equal columns of tables, and 1 less a column, are told in one way."""
        if not any(column in self._same for column, _ in row[0]):
            return row
        parts = [
            (weight, self._same.get(column, (((column, 1.0),), 0.0))) for column, weight in row[0]
        ]
        return row_of(parts, row[1])

    def looked_up(self, source: int, column: Array) -> Row | None:
        """The row that is a column of a table over an input, if the graph has one."""
        known = self._columns.get((source, (column + 0.0).tobytes()))
        if known is not None:
            return self.one_way((((known, 1.0),), 0.0))
        known = self._columns.get((source, (1.0 - column + 0.0).tobytes()))
        return None if known is None else self.one_way((((known, -1.0),), 1.0))

    def _alike(self) -> dict[int, Row]:
        """Of columns of tables that another column tells: how."""
        found: dict[int, Row] = {}
        for i in self.graph.live():
            node = self.graph.nodes[i]
            if not isinstance(node.op, Lookup):
                continue
            source, table = source_of(self.graph, i), node.op.table.dense()
            for channel in range(node.width):
                place = self.channels.starts[i] + channel
                for sign, bias in ((1.0, 0.0), (-1.0, 1.0)):
                    key = source, (bias + sign * table[:, channel] + 0.0).tobytes()
                    known = self._columns.get(key)
                    if known is not None and known not in found:
                        found[place] = (((known, sign),), bias)
                        break
                self._columns.setdefault((source, (table[:, channel] + 0.0).tobytes()), place)
        return found

    def atom(self, row: Row, *kinds: type[Op]) -> int | None:
        """The one atom that a row is, if it is of one of these ops."""
        terms, bias = row
        if bias or len(terms) != 1 or terms[0][1] != 1:
            return None
        return terms[0][0] if isinstance(self.op(terms[0][0]), kinds) else None

    def op(self, column: int) -> Op:
        """The op of an atom."""
        return self.graph.nodes[self.channels.place(column)[0]].op

    def read(self, column: int) -> list[Row]:
        """The rows that an atom reads."""
        node, channel = self.channels.place(column)
        return [self.row(operand, channel) for operand in self.graph.nodes[node].operands]

    def polynomial(self, row: Row) -> Polynomial | None:
        """A row with its products multiplied out; None where that is too long."""
        terms, bias = row
        total: Polynomial = {(): bias} if bias else {}
        for column, weight in terms:
            part: Polynomial | None = {(column,): 1.0}
            if isinstance(self.op(column), Product):
                part = times(*map(self.polynomial, self.read(column)))
            if part is None or len(part) + len(total) > MOST_TERMS:
                return None
            total = plus(total, part, weight)
        return total


def plus(first: Polynomial, second: Polynomial, weight: float = 1.0) -> Polynomial:
    """First + weight * second."""
    total = dict(first)
    for key, factor in second.items():
        total[key] = total.get(key, 0.0) + weight * factor
    return {key: factor for key, factor in total.items() if factor}


def times(first: Polynomial | None, second: Polynomial | None) -> Polynomial | None:
    """The product; None where it is too long."""
    if first is None or second is None or len(first) * len(second) > MOST_TERMS:
        return None
    total: Polynomial = {}
    for mine, factor in first.items():
        for its, other in second.items():
            total = plus(total, {tuple(sorted((*mine, *its))): factor * other})
    return total


def held_exactly(fact: Facts, numerics: Numerics) -> Array:
    """(width,) bool, of which channels the dtype has every value."""
    step = np.where(np.isinf(fact.step), 1.0, fact.step)
    few = (step >= numerics.tiny) & (fact.magnitude <= 2.0**numerics.bits * step)
    return np.asarray(fact.zero | few)


def take_in(channels: Channels, node: int, fact: Facts) -> None:
    """Inputs and tables, rounded to the dtype as they come in.

    Raises:
      RoundingError: a number may be too small for the dtype.
    """
    if not fact.gridded:
        raise RoundingError(node, CONTINUOUS)
    exact = held_exactly(fact, channels.numerics)
    channels.of(node)[:] = np.where(exact, Kind.EXACT, Kind.REAL)


def row_of(parts: Iterable[tuple[float, Row]], bias: float) -> Row:
    """Σ weight * row + bias."""
    total: dict[int, float] = {}
    for weight, (terms, shift) in parts:
        bias += weight * shift
        for column, factor in terms:
            total[column] = total.get(column, 0.0) + weight * factor
    return tuple((column, w) for column, w in sorted(total.items()) if w), bias + 0.0


def source_of(graph: Graph, lookup: int) -> int:
    """The number of the input that a table is read by; of none, what no input has."""
    op = graph.nodes[graph.nodes[lookup].operands[0]].op
    return op.index if isinstance(op, Input) else -1 - lookup


def terms_of(channels: Channels, node: Node, channel: int) -> list[tuple[int, float]]:
    """What a row of an affine map adds up."""
    if not isinstance(node.op, Affine):
        raise TypeError(node.op)
    return [
        (channels.starts[operand] + column, value)
        for weight, operand in zip(node.op.weights, node.operands, strict=True)
        for column, value in entries_of(weight.csr, channel)
    ]


def entries_of(csr: "sp.csr_array", row: int) -> list[tuple[int, float]]:
    """Columns and values of a row of a matrix."""
    span = slice(csr.indptr[row], csr.indptr[row + 1])
    return list(zip(csr.indices[span].tolist(), csr.data[span].tolist(), strict=True))


def is_flag(fact: Facts, channel: int) -> bool:
    """Whether a channel is 0 or 1."""
    inside = fact.low[channel] >= 0 and fact.high[channel] <= 1
    return bool(inside and fact.step[channel] >= 1)


def product_fits(facts: list[Facts], channel: int, bits: int) -> bool:
    """Whether a product of channels never has more bits than these."""
    size, grid = 1.0, 1.0
    for fact in facts:
        size, grid = size * fact.magnitude[channel], grid * fact.step[channel]
    return bool(size <= 2.0**bits * grid)
