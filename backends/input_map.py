"""The input map: what the first layer reads of the program's inputs, as tables and kernels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp

from lsrl.errors import LsrlError
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Input, Lookup, Op, is_token
from lsrl.ir.types import Token
from lsrl.parameters import Size
from lsrl.schedule import Schedule

Map = TypeVar("Map")  # a table or a kernel


class InputMaps(NamedTuple):
    """Per program input a table (symbols, features) or a kernel (width, features), if read."""

    tables: tuple[sp.csr_array | None, ...]
    kernels: tuple[sp.csr_array | None, ...]


def input_maps(schedule: Schedule) -> InputMaps:
    """The maps that add up to the schedule's features."""
    parts: dict[Input, list[tuple[Array, Array, Array]]] = {}
    start = 0
    for node in schedule.features:
        this, source = schedule.graph.nodes[node], source_of(schedule.graph, node)
        made = feature_map(this.op, source).tocoo()
        parts.setdefault(source, []).append((made.data, made.row, made.col + start))
        start += this.width
    tables: list[sp.csr_array | None] = [None] * len(schedule.graph.inputs)
    kernels: list[sp.csr_array | None] = [None] * len(schedule.graph.inputs)
    for source, held in parts.items():
        data, rows, columns = map(np.concatenate, zip(*held, strict=True))
        found = sp.csr_array((data, (rows, columns)), shape=(rows_of(source), start))
        (tables if is_token(source) else kernels)[source.index] = found
    return InputMaps(tuple(tables), tuple(kernels))


def map_sizes(schedule: Schedule) -> dict[str, Size]:
    """How large the maps of `input_maps` are, by their names as parameters, in order."""
    weights: dict[Input, int] = {}
    for node in schedule.features:
        source = source_of(schedule.graph, node)
        op = schedule.graph.nodes[node].op
        found = op.table.nonzeros if isinstance(op, Lookup) else _own_weights(source)
        weights[source] = weights.get(source, 0) + found
    return {
        f"inputs.{source.index}.{'table' if is_token(source) else 'kernel'}": Size.of(
            (rows_of(source), schedule.feature_width), weights[source]
        )
        for source in sorted(weights, key=lambda source: source.index)
    }


def _own_weights(source: Input) -> int:
    """Weights of the map that gives an input as it is; that of id 0 is 0."""
    return rows_of(source) - is_token(source)


def source_of(graph: Graph, node: int) -> Input:
    """The input that a node of the input map reads, or is.

    Raises:
      LsrlError: it reads none.
    """
    this = graph.nodes[node]
    source = this.op if isinstance(this.op, Input) else graph.nodes[this.operands[0]].op
    if not isinstance(source, Input):
        raise LsrlError(f"{graph.label(node)} is read at the input map and is no input")
    return source


def rows_of(source: Input) -> int:
    """Rows of the map of an input: its symbols, or its width."""
    return source.type.size if isinstance(source.type, Token) else source.type.width


def kinds_and_maps(
    tables: Sequence[Map | None], kernels: Sequence[Map | None]
) -> tuple[tuple[str, ...], dict[str, Map]]:
    """Per input "table", "kernel" or "" (not read), and the maps by the number of their input."""
    kinds, maps = [], {}
    for number, (table, kernel) in enumerate(zip(tables, kernels, strict=True)):
        given = kernel if table is None else table
        kinds.append("" if given is None else "kernel" if table is None else "table")
        if given is not None:
            maps[f"{number}"] = given
    return tuple(kinds), maps


def maps_in(
    kinds: Sequence[str], arrays: Mapping[str, Map]
) -> tuple[tuple[Map | None, ...], tuple[Map | None, ...]]:
    """The tables and the kernels among a network's parameters; undoes `kinds_and_maps`."""
    tables, kernels = (
        tuple(
            arrays[f"inputs.{i}.{held}"] if kind == held else None for i, kind in enumerate(kinds)
        )
        for held in ("table", "kernel")
    )
    return tables, kernels


def feature_map(op: Op, source: Input) -> sp.csr_array:
    """What an op makes of one input, the input itself among them: (symbols or width, channels)."""
    if isinstance(op, Lookup):
        return op.table.csr
    if isinstance(source.type, Token):
        return sp.csr_array(np.arange(source.type.size, dtype=np.float64)[:, None])
    return Matrix.identity(source.type.width).csr
