"""Affine maps: merge them where nonzeros do not multiply, and split off the rows worth carrying."""

from collections import defaultdict
from typing import Any

import numpy as np

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import Affine, Constant

Terms = dict[int, Matrix]


def fuse_affine(graph: Graph) -> Graph:
    """Merge affine maps into the affine maps that read them, where float64 holds the result.

    A map stays apart where merging it would multiply nonzeros (a window sum with several readers).
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, Affine):
            return None
        terms: Terms = {}
        bias = np.array(op.bias)
        for weight, operand, old in zip(op.weights, operands, graph.nodes[i].operands, strict=True):
            single = len(graph.readers[old]) == 1 and old != graph.output
            inner = _merged(builder, weight, operand, bias, single)
            if inner is None:
                inner = {operand: weight}, bias
            added, bias = inner
            for source, matrix in added.items():
                known = terms.get(source)
                terms[source] = matrix if known is None else Matrix(known.csr + matrix.csr)
        return emit_affine(builder, terms, bias)

    return rewrite(graph, rule)


def emit_affine(builder: GraphBuilder, terms: Terms, bias: Array) -> int:
    """A node for Σ matrix x + bias: a constant, an operand as it is, or an affine map."""
    kept = {source: matrix for source, matrix in terms.items() if matrix.nonzeros}
    row = tuple(bias.tolist())
    if not kept:
        return builder.add(Constant(row))
    if len(kept) == 1 and not bias.any():
        ((source, matrix),) = kept.items()
        if matrix.is_identity:
            return source
    order = sorted(kept)
    return builder.add(Affine(tuple(kept[source] for source in order), row), *order)


def _merged(
    builder: GraphBuilder, weight: Matrix, operand: int, bias: Array, single_reader: bool
) -> tuple[Terms, Array] | None:
    """Weight @ operand written over what the operand reads, if that is exact and not larger."""
    op = builder.nodes[operand].op
    if isinstance(op, Constant):
        shifted = _exact_shift(weight, np.array(op.values), bias)
        return None if shifted is None else ({}, shifted)
    if not isinstance(op, Affine):
        return None
    terms: Terms = {}
    for inner, source in zip(op.weights, builder.nodes[operand].operands, strict=True):
        product = weight.exact_product(inner)
        if product is None:
            return None
        terms[source] = product
    after = sum(matrix.nonzeros for matrix in terms.values())
    inner_size = sum(inner.nonzeros for inner in op.weights)
    # With several readers each would get its copy, so it must not cost them anything.
    if after > weight.nonzeros + (inner_size if single_reader else 0):
        return None
    shifted = _exact_shift(weight, np.array(op.bias), bias)
    return None if shifted is None else (terms, shifted)


def _exact_shift(weight: Matrix, values: Array, bias: Array) -> Array | None:
    """Bias + weight @ values, if float64 holds it exactly."""
    if not values.any():
        return bias
    entries = weight.csr.data * values[weight.csr.indices]
    unit = min(lowest_bit(weight.csr.data).min(initial=np.inf) * lowest_bit(values).min(),
               lowest_bit(bias).min())  # fmt: skip
    total = np.abs(entries).sum() + np.abs(bias).sum()
    return bias + weight.csr @ values if total <= 2.0**53 * unit else None


def split_rows(graph: Graph) -> Graph:
    """Give the scheduler the choice to carry a few rows of a signal instead of all of it.

    Where an affine map reads only some rows C x of a wide signal x, those rows become a node.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, Affine):
            return None
        terms: dict[int, Any] = defaultdict(int)
        changed = False
        for weight, operand in zip(op.weights, operands, strict=True):
            rows, expand = _distinct_rows(weight)
            alone = len(operands) == 1 and rows.rows == weight.rows
            if alone or rows.rows >= builder.nodes[operand].width or rows.is_identity:
                terms[operand] = terms[operand] + weight.csr
                continue
            changed = True
            index = builder.add(Affine((rows,), (0.0,) * rows.rows), operand)
            terms[index] = terms[index] + expand.csr
        if not changed:
            return None
        merged = {source: Matrix(matrix) for source, matrix in terms.items()}
        return emit_affine(builder, merged, np.array(op.bias))

    return rewrite(graph, rule)


def _distinct_rows(weight: Matrix) -> tuple[Matrix, Matrix]:
    """The distinct nonzero rows up to a scalar, C, and E with weight = E C.

    Only selections of single channels are taken up to scale, so that no entry is ever rounded.
    """
    starts = weight.csr.indptr
    keys: dict[bytes, int] = {}
    picked: list[int] = []
    entries: list[tuple[int, int, float]] = []
    units: set[int] = set()
    for row in range(weight.rows):
        columns = weight.csr.indices[starts[row] : starts[row + 1]]
        values = weight.csr.data[starts[row] : starts[row + 1]]
        if not len(columns):
            continue
        single = len(columns) == 1
        key = columns.tobytes() + (b"" if single else values.tobytes())
        if key not in keys:
            keys[key] = len(picked)
            picked.append(row)
            if single:
                units.add(keys[key])
        entries.append((row, keys[key], float(values[0]) if single else 1.0))
    rows = weight.csr[picked].tolil() if picked else weight.csr[:0].tolil()
    for unit in units:
        rows[unit] = (rows[unit] != 0).astype(np.float64)
    expand = np.zeros((weight.rows, max(len(picked), 0)))
    for row, column, value in entries:
        expand[row, column] = value
    return Matrix(rows), Matrix(expand)
