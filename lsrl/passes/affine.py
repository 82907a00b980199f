"""Affine maps: merge them where nonzeros do not multiply, and split off the rows worth carrying."""

import itertools
from collections import Counter

import numpy as np

from lsrl.ir.bounds import affine_facts
from lsrl.ir.graph import PUT_OFF, Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, floats, lowest_bit, lowest_bit_of
from lsrl.ir.ops import Affine, Constant

Terms = dict[int, Matrix]


def fuse_affine(graph: Graph) -> Graph:
    """Merge affine maps into the affine maps that read them, where float64 holds the result.

    A map stays apart where merging it would multiply nonzeros (a window sum with several readers).
    """
    # A map that one other reads will mostly end up in it, so it is only made if it does not, and
    # its reader goes on with its terms: a sum of n terms, written as n sums of two, whether they
    # have names or not, then takes n steps and not n² / 2.
    waiting: dict[int, WaitingSum] = {}

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if type(op) is not Affine:
            return None
        readers = graph.readers[i]
        waits = len(readers) == 1 and type(graph.nodes[readers[0]].op) is Affine
        waits = waits and i != graph.output
        if not waits and _stands(builder, op, operands):
            return None
        olds = graph.nodes[i].operands
        largest = _largest(op, olds, waiting)
        total, before = WaitingSum(), Parts()
        parts, bias = Parts(), np.array(op.bias)
        for slot, (weight, operand, old) in enumerate(zip(op.weights, operands, olds, strict=True)):
            held = waiting.get(old)
            if held is not None and slot == largest:
                shifted = exact_shift(weight, held.bias, bias)
                if shifted is not None:
                    total, before, parts, bias = waiting.pop(old), parts, Parts(), shifted
                    total.move(weight)
                    continue
            single = len(graph.readers[old]) == 1 and old != graph.output
            known = _held(builder, operand) if held is None else (held.terms(), held.bias)
            inner = None
            if known is not None:
                inner = _merged(weight, known[0], known[1], bias, single)
            if inner is None:
                source = operand
                if held is not None:
                    source = emit_affine(builder, held.terms(), held.bias)
                    builder.stand_instead(source, operand)
                inner = {source: weight}, bias
            added, bias = inner
            for source, matrix in added.items():
                parts.setdefault(source, []).append(matrix)
        total.add(before, parts, bias)
        if waits and not (graph.nodes[i].names and total.same is not None):
            waiting[i] = total
            return PUT_OFF
        return emit_affine(builder, total.terms(), bias)

    return rewrite(graph, rule, (Affine,))


# By node, what it is multiplied by: the sum of these, one after another.
Parts = dict[int, list[Matrix]]


class WaitingSum:
    """Σ matrix @ node + bias: what an affine map that waits for its only reader has become.

    The reader takes it over as it is, and so on along a chain, however long it has grown.

    Attributes:
      bias: (rows,).
    """

    def __init__(self) -> None:
        """Nothing."""
        self.bias = np.zeros(0)
        # What was added, and how its channels, with those of all before, were moved afterwards.
        self._stages: list[tuple[Parts, Matrix | None]] = [({}, None)]
        self._size = 0

    def __len__(self) -> int:
        """How many terms were added."""
        return self._size

    def move(self, weight: Matrix) -> None:
        """Multiply by a matrix that `_moves`."""
        if not weight.is_identity:
            self._stages[-1] = self._stages[-1][0], weight
            self._stages.append(({}, None))

    def add(self, before: Parts, after: Parts, bias: Array) -> None:
        """Add what a map reads before and after this sum, in the order in which float64 adds up.

        Args:
          before: nothing where this sum is empty.
          after: likewise.
          bias: (rows,) of all.
        """
        parts, _ = self._stages[-1]
        for source, matrices in before.items():
            parts.setdefault(source, []).append(Matrix.total(matrices, matrices[0].shape))
        for source, matrices in after.items():
            parts.setdefault(source, []).extend(matrices)
        self._size += len(before) + len(after)
        self.bias = bias

    @property
    def same(self) -> int | None:
        """The node that the sum is, where it is one as it stands: that one has its names, too."""
        if self._size != 1 or self.bias.any():
            return None
        ((source, matrix),) = self.terms().items()
        return source if matrix.is_identity else None

    def terms(self) -> Terms:
        """Matrices by node."""
        path: Matrix | None = None
        found: Parts = {}
        # From the last, so that each matrix is moved once, over the whole way.
        for parts, weight in reversed(self._stages):
            if weight is not None:
                path = weight if path is None else path @ weight
            for source, matrices in parts.items():
                moved = (each if path is None else path @ each for each in reversed(matrices))
                found.setdefault(source, []).extend(moved)
        return {
            source: Matrix.total(matrices[::-1], matrices[0].shape)
            for source, matrices in found.items()
        }


def _largest(op: Affine, olds: tuple[int, ...], waiting: dict[int, WaitingSum]) -> int:
    """The slot of the largest sum that an affine map moves and adds to; -1: none."""
    slots = [slot for slot, old in enumerate(olds) if old in waiting and _moves(op.weights[slot])]
    times = Counter(olds) if slots else {}
    sizes = {slot: len(waiting[olds[slot]]) for slot in slots if times[olds[slot]] == 1}
    return max(sizes, key=sizes.__getitem__, default=-1)


def _moves(weight: Matrix) -> bool:
    """Whether a matrix moves every channel to a row of its own, and may turn its sign."""
    if weight.is_identity:
        return True
    rows, columns = weight.entry_rows(), weight.indices
    return (
        weight.nonzeros == weight.columns
        and bool((np.abs(weight.data) == 1).all())
        and bool((rows[1:] > rows[:-1]).all())
        and len(np.unique(columns)) == weight.columns
    )


def _stands(builder: GraphBuilder, op: Affine, operands: tuple[int, ...]) -> bool:
    """Whether an affine map is what `emit_affine` would make of it, with nothing to merge."""
    return (
        bool(operands)
        and all(type(builder.nodes[operand].op) not in (Affine, Constant) for operand in operands)
        and all(first < second for first, second in itertools.pairwise(operands))
        and all(weight.nonzeros for weight in op.weights)
        and not (len(operands) == 1 and op.weights[0].is_identity and not any(op.bias))
    )


def emit_affine(builder: GraphBuilder, terms: Terms, bias: Array) -> int:
    """A node for Σ matrix x + bias: a constant, an operand as it is, or an affine map."""
    kept = {source: matrix for source, matrix in terms.items() if matrix.nonzeros}
    row = floats(bias)
    if not kept:
        return builder.add(Constant(row))
    if len(kept) == 1 and not bias.any():
        ((source, matrix),) = kept.items()
        if matrix.is_identity:
            return source
    order = sorted(kept)
    return builder.add(Affine(tuple(kept[source] for source in order), row), *order)


def add_affine(builder: GraphBuilder, *terms: tuple[Matrix, int], bias: Array | float = 0.0) -> int:
    """An affine map for Σ matrix @ node + bias, whatever its terms are; at least one."""
    matrices, nodes = zip(*terms, strict=True)
    count = matrices[0].rows
    if isinstance(bias, float | int):
        row = (float(bias),) * count
    else:
        row = floats(np.broadcast_to(np.asarray(bias, dtype=np.float64), count))
    return builder.add(Affine(matrices, row), *nodes)


def add_composed(
    builder: GraphBuilder, weight: Matrix, operand: int, bias: float, only_here: bool
) -> int:
    """An affine map for weight @ node + bias, of what the node reads if that can be.

    Args:
      builder: of the graph.
      weight: of the map.
      operand: what it reads.
      bias: of every row.
      only_here: whether nothing else reads that.
    """
    held, row = _held(builder, operand), np.full(weight.rows, bias)
    found = None if held is None else _merged(weight, *held, row, only_here)
    if found is None:
        return add_affine(builder, (weight, operand), bias=bias)
    index = emit_affine(builder, *found)
    # More may be known of the node than of what it reads.
    builder.narrow(index, affine_facts([weight], row, [builder.facts[operand]]))
    return index


def add_sum(builder: GraphBuilder, first: int, second: int) -> int:
    """The sum of two nodes of one width."""
    one = Matrix.identity(builder.nodes[first].width)
    return add_affine(builder, (one, first), (one, second))


def plus(known: Matrix | None, added: Matrix) -> Matrix:
    """The sum of two matrices, the first of which may not be there yet."""
    return added if known is None else known + added


def _held(builder: GraphBuilder, node: int) -> tuple[Terms, Array] | None:
    """A constant or an affine map as terms and a bias."""
    op, operands = builder.nodes[node].op, builder.nodes[node].operands
    if type(op) is Constant:
        return {}, np.array(op.values)
    if type(op) is Affine:
        return dict(zip(operands, op.weights, strict=True)), np.array(op.bias)
    return None


def _merged(
    weight: Matrix, inner: Terms, shift: Array, bias: Array, single_reader: bool
) -> tuple[Terms, Array] | None:
    """Weight @ (Σ inner + shift) + bias as terms, if that is exact and not larger."""
    terms = inner
    if not weight.is_identity:
        terms = {}
        for source, matrix in inner.items():
            product = weight.exact_product(matrix)
            if product is None:
                return None
            terms[source] = product
    if not (single_reader and weight.is_identity):
        after, size = (sum(m.nonzeros for m in held.values()) for held in (terms, inner))
        # With several readers each would get its copy, so it must not cost them anything.
        if after > weight.nonzeros + (size if single_reader else 0):
            return None
    shifted = exact_shift(weight, shift, bias)
    return None if shifted is None else (terms, shifted)


def exact_shift(weight: Matrix, values: Array, bias: Array) -> Array | None:
    """Bias + weight @ values, if float64 holds it exactly."""
    if not values.any():
        return bias
    if len(bias) == len(values) == len(weight.data) == 1:
        row, value, factor = float(bias.item()), float(values.item()), weight.data.item()
        added, grid = factor * value, min(weight.unit * lowest_bit_of(value), lowest_bit_of(row))
        return np.array([row + added]) if abs(added) + abs(row) <= 2.0**53 * grid else None
    entries = weight.data * values[weight.indices]
    unit = min(weight.unit * lowest_bit(values).min(), lowest_bit(bias).min())
    total = np.abs(entries).sum() + np.abs(bias).sum()
    return bias + weight.times(values) if total <= 2.0**53 * unit else None


def split_rows(graph: Graph) -> Graph:
    """Give the scheduler the choice to carry a few rows of a signal instead of all of it.

    Where an affine map reads only some rows C x of a wide signal x, those rows become a node.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, Affine):
            return None
        terms: Terms = {}
        changed = False
        for weight, operand in zip(op.weights, operands, strict=True):
            lone = weight.rows == 1 and len(operands) == 1
            if weight.nonzeros and (lone or builder.nodes[operand].width == 1):
                terms[operand] = plus(terms.get(operand), weight)  # one row, of which none is left
                continue
            rows, expand = _distinct_rows(weight)
            alone = len(operands) == 1 and rows.rows == weight.rows
            if alone or rows.rows >= builder.nodes[operand].width or rows.is_identity:
                terms[operand] = plus(terms.get(operand), weight)
                continue
            changed = True
            index = add_affine(builder, (rows, operand))
            terms[index] = plus(terms.get(index), expand)
        return emit_affine(builder, terms, np.array(op.bias)) if changed else None

    return rewrite(graph, rule, (Affine,))


def _distinct_rows(weight: Matrix) -> tuple[Matrix, Matrix]:
    """The distinct nonzero rows up to a scalar, C, and E with weight = E C.

    Only selections of single channels are taken up to scale, so that no entry is ever rounded.
    """
    if not weight.nonzeros:
        return Matrix.zeros(0, weight.columns), Matrix.zeros(weight.rows, 0)
    if weight.nonzeros == 1:
        place = weight.data, weight.entry_rows(), np.zeros(1, np.int64)
        return (
            Matrix.selection(weight.indices, weight.columns),
            Matrix.placed(*place, (weight.rows, 1)),
        )
    # By entries, not by rows: a part of a concatenation has few of the one and many of the other.
    entry_rows = weight.entry_rows()
    ends = np.flatnonzero(np.append(entry_rows[1:] != entry_rows[:-1], True)) + 1
    starts = np.append(0, ends[:-1])
    filled, single = entry_rows[starts], ends - starts == 1
    group = np.empty(len(filled), dtype=np.int64)
    group[single] = weight.indices[starts[single]]
    known: dict[bytes, int] = {}
    for several in np.flatnonzero(~single):
        own = slice(starts[several], ends[several])
        key = weight.indices[own].tobytes() + weight.data[own].tobytes()
        group[several] = weight.columns + known.setdefault(key, len(known))
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    order = np.argsort(first)
    picked = first[order]
    sizes = (ends - starts)[picked]
    behind = np.cumsum(sizes)
    entries = np.arange(behind[-1]) + (starts[picked] - behind + sizes).repeat(sizes)
    data = np.where(single[picked].repeat(sizes), 1.0, weight.data[entries])
    number = np.arange(len(picked)).repeat(sizes)
    rows = Matrix.placed(data, number, weight.indices[entries], (len(picked), weight.columns))
    factors = np.where(single, weight.data[starts], 1.0)
    expand = np.argsort(order)[member]
    return rows, Matrix.placed(factors, filled, expand, (weight.rows, len(picked)))
