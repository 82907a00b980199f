"""Fold what is known before any token is read: constants, functions of one token, of the clock.

A pointwise op that reads nothing but one token (or one clock) is itself a table over its symbols,
so it becomes a lookup, which costs no layer.
"""

import math
from typing import NamedTuple

import numpy as np

from lsrl.ir.arithmetic import Rationals
from lsrl.ir.bounds import table_facts
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, rational
from lsrl.ir.ops import (
    Affine,
    Bound,
    Constant,
    Extent,
    Input,
    Lookup,
    Op,
    Periodic,
    Product,
    Recall,
    Relu,
    Select,
    Step,
    is_token,
)
from lsrl.passes.affine import add_affine

# A function of several clocks is a clock of their common period, as long as that stays small.
MAX_PERIOD = 64
MAX_TABLE_ENTRIES = 1 << 20
# What may be a table: pointwise ops, and those that are tables.
TABLES = (Constant, Lookup, Periodic)
FOLDED = (*TABLES, Affine, Relu, Step, Product, Select, Bound)


class Table(NamedTuple):
    """A signal as a table: over the symbols of an input node, over a clock, or one constant row."""

    token: int | None  # node id of the token input; None for a clock or a constant
    rows: Array  # (symbols or period, width), float64


def fold_tables(graph: Graph) -> Graph:
    """Replace constants, and nonlinear functions of one token or clock, by their tables."""
    tables: dict[int, Table] = {}
    told = _told_by_tables(graph)

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if i not in told or (isinstance(op, TABLES) and not graph.facts[i].constant):
            return None
        # A recall's rows are read off what they are made of, and there may be many.
        if type(op) is Affine and _only_recalled(graph, i):
            return None
        table = _table_of(builder, op, operands, tables)
        if table is None:
            return None
        index = _emit(builder, op, operands, table)
        tables.setdefault(index, table)
        return index

    return rewrite(graph, rule, FOLDED)


def _told_by_tables(graph: Graph) -> set[int]:
    """The nodes that read nothing but tables, tokens and constants, on any way."""
    told: set[int] = set()
    for i, node in enumerate(graph.nodes):
        kind = type(node.op)
        if kind is Input:
            known = is_token(node.op)
        else:
            known = kind in TABLES or (kind in FOLDED and told.issuperset(node.operands))
        if known:
            told.add(i)
    return told


def share_tables(graph: Graph) -> Graph:
    """Write what passes made of one token, and many equal columns of it, over a few shared ones.

    These are its different columns, or where that is less, the classes of its symbols that no
    column tells apart. The program's own signals stay as they are.
    """
    made: dict[int, list[int]] = {}
    for i in graph.live():
        node = graph.nodes[i]
        if isinstance(node.op, Lookup) and not node.origins and i != graph.output:
            made.setdefault(node.operands[0], []).append(i)
    shared: dict[int, tuple[Matrix, Matrix]] = {}
    for nodes in made.values():
        columns = np.concatenate([_looked_up(graph, i).dense() for i in nodes], axis=1)
        different, place = np.unique(columns, axis=1, return_inverse=True)
        classes, member = np.unique(columns, axis=0, return_inverse=True)
        read = np.eye(different.shape[1])[place.ravel()]
        if len(classes) < different.shape[1]:
            different, read = np.eye(len(classes))[member.ravel()], classes.T
        if different.shape[1] == columns.shape[1]:
            continue
        start = 0
        for i in nodes:
            width = graph.nodes[i].width
            shared[i] = Matrix(different), Matrix(read[start : start + width])
            start += width

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        if i not in shared:
            return None
        table, read = shared[i]
        return add_affine(builder, (read, builder.add(Lookup(table), *operands)))

    return rewrite(graph, rule) if shared else graph


def _looked_up(graph: Graph, node: int) -> Matrix:
    op = graph.nodes[node].op
    return op.table  # type: ignore[attr-defined]


def _only_recalled(graph: Graph, node: int) -> bool:
    readers = [graph.nodes[reader].op for reader in graph.readers[node]]
    return bool(readers) and all(type(op) is Recall for op in readers)


def _table_of(
    builder: GraphBuilder, op: Op, operands: tuple[int, ...], tables: dict[int, Table]
) -> Table | None:
    if type(op) is Constant:
        return Table(None, np.array([op.values]))
    if isinstance(op, Lookup | Periodic):
        return _stored(op.table, operands[0] if operands else None)
    read: list[Table] = []
    for i in operands:
        table = tables.get(i) or _known_table(builder, i)
        if table is None:
            return None
        read.append(tables.setdefault(i, table))
    return _apply(op, read)


def _stored(table: Matrix, token: int | None) -> Table | None:
    """A table as it is; None where it has too many entries to be computed with, one by one."""
    if table.rows * table.columns <= MAX_TABLE_ENTRIES:
        return Table(token, table.dense())
    known = table_facts(table)
    return Table(token, known.low[None]) if known.constant else None


def _known_table(builder: GraphBuilder, index: int) -> Table | None:
    """Of a token itself, and of what is a table as it stands."""
    op = builder.nodes[index].op
    if isinstance(op, TABLES):
        return _table_of(builder, op, builder.nodes[index].operands, {})
    if type(op) is Input and is_token(op):
        return Table(index, np.arange(op.type.size, dtype=np.float64)[:, None])  # type: ignore[union-attr]
    return None


def _apply(op: Op, read: list[Table]) -> Table | None:
    """The op on every row of its operands' tables, if they are tables over one thing."""
    varying = [table for table in read if len(table.rows) > 1 or table.token is not None]
    tokens = {table.token for table in varying}
    if len(tokens) > 1:
        return None
    token = tokens.pop() if tokens else None
    count = math.lcm(*(len(table.rows) for table in read)) if read else 1
    if token is None and count > max(MAX_PERIOD, *(len(table.rows) for table in read)):
        return None
    if count * sum(table.rows.shape[1] for table in read) > MAX_TABLE_ENTRIES:
        return None
    values = [np.resize(table.rows, (count, table.rows.shape[1]))[None] for table in read]
    extent = Extent((1, count), Rationals())
    exact = op.evaluate([extent.numbers.given(value) for value in values], extent)[0]
    rounded = exact.astype(np.float64)
    same = all(rational(a) == b for a, b in zip(rounded.ravel(), exact.ravel(), strict=True))
    return Table(token, rounded) if same else None


def _emit(builder: GraphBuilder, op: Op, operands: tuple[int, ...], table: Table) -> int:
    """The cheapest node for a table; an affine map of ids alone stays, since it costs nothing."""
    if (table.rows == table.rows[0]).all():
        return builder.add(Constant(tuple(table.rows[0].tolist())))
    if table.token is None:
        return builder.add(Periodic(Matrix(table.rows)))
    others = [builder.nodes[i].op for i in operands if i != table.token]
    if isinstance(op, Affine) and all(isinstance(other, Constant) for other in others):
        return builder.add(op, *operands)
    return builder.add(Lookup(Matrix(table.rows)), table.token)
