"""Rows of values, and the maps between them: affine ones, and the input map.

Rows are (rows, time, segments, batch). Small maps are written out row by row, as one would by hand,
and rows are only stacked where a loop runs them together: copies of rows cost as much as the sums.

Each map is a pytree: numbers are leaves, everything that shapes the computation is static. Whole
numbers are static too, so that XLA works with them.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import NetworkStructure
from lsrl.backends.network import on_device
from lsrl.backends.pattern import Pattern
from lsrl.parameters import SPARSENESS

pytree = jax.tree_util.register_dataclass
STATIC = {"static": True}  # for jax: part of the tree's structure, no leaf

# Up to so many entries a matrix is written out, entry by entry: more take long to compile.
_FEW_ENTRIES = 96
# Columns of more entries than this lie in bunches of about as many each.
_DEEP = 32
_MOST_CHANGES = 2  # as a one-hot feature has
_FEW_FEATURES = 32  # more are looked up together


# ---------------------------------------------------------------- rows


class BlockRows:
    """Rows in blocks, each (rows, t, s, b), stacked only where that is asked for."""

    def __init__(self, blocks: Iterable[jax.Array]) -> None:
        self.blocks = tuple(blocks)
        self._places = [(block, row) for block in self.blocks for row in range(block.shape[0])]

    def __len__(self) -> int:
        return len(self._places)

    def row(self, number: int) -> jax.Array:
        """(1, t, s, b)."""
        block, row = self._places[number]
        return block if block.shape[0] == 1 else block[row : row + 1]

    def block_at(self, number: int) -> jax.Array | None:
        """The block whose first row it is, if that has several."""
        block, row = self._places[number]
        return block if row == 0 and block.shape[0] > 1 else None

    def part(self, numbers: range) -> "BlockRows":
        """Some rows on end; blocks stay whole where they can."""
        blocks, start = [], 0
        for block in self.blocks:
            low = max(numbers.start - start, 0)
            high = min(numbers.stop - start, block.shape[0])
            if low < high:
                blocks.append(block if high - low == block.shape[0] else block[low:high])
            start += block.shape[0]
        return BlockRows(blocks)

    def stacked(self) -> jax.Array:
        """(all rows, t, s, b)."""
        if len(self.blocks) == 1:
            return self.blocks[0]
        # Constants have the length 1 in time, or of the batch.
        shape = np.broadcast_shapes(*(block.shape[1:] for block in self.blocks))
        return jnp.concatenate(
            [jnp.broadcast_to(block, (block.shape[0], *shape)) for block in self.blocks]
        )

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "BlockRows":
        """Apply an elementwise function."""
        return BlockRows(function(block) for block in self.blocks)


def broadcast(rows: BlockRows, tokens: int, segments: int, batch: int) -> BlockRows:
    """Give all rows the same shape."""
    return rows.map(
        lambda block: jnp.broadcast_to(block, (block.shape[0], tokens, segments, batch))
    )


def sum_rows(terms: Sequence[BlockRows]) -> BlockRows:
    """Add rows to rows, by blocks where those agree."""
    first, *others = terms
    if not others:
        return first
    sizes = [[block.shape[0] for block in term.blocks] for term in terms]
    if all(size == sizes[0] for size in sizes):
        columns = zip(*(term.blocks for term in terms), strict=True)
        return BlockRows(functools.reduce(operator.add, column) for column in columns)
    return BlockRows(
        functools.reduce(operator.add, [term.row(number) for term in terms])
        for number in range(len(first))
    )


# ---------------------------------------------------------------- affine maps


@pytree
@dataclass(frozen=True)
class Affine:
    """A matrix: written out, or `dense` (rows in, rows out), or few entries a column, or some each.

    Attributes:
      entries: where it is written out, per column the rows that it reads, else None; each with its
        weight if that is a whole number, which XLA then works with, else with 0.
      weight: where it is written out, the other weights, else None.
      gathered: index and weight for gather_mix, of bunches of columns.
      dense: for mix, or None.
      order: puts the columns of the bunches, and then the dense ones, in order; None: they are.
    """

    entries: tuple[tuple[tuple[int, int], ...], ...] | None = field(metadata=STATIC)
    weight: jax.Array | None
    gathered: tuple[tuple[jax.Array, jax.Array], ...]
    dense: jax.Array | None
    order: jax.Array | None

    def __call__(self, rows: BlockRows) -> BlockRows:
        """(rows in, ...) -> (rows out, ...)."""
        if self.entries is not None and self.weight is not None:
            return self._written_out(self.entries, self.weight, rows)
        stacked = rows.stacked()
        parts = [recurrence.gather_mix(*bunch, stacked) for bunch in self.gathered]
        if self.dense is not None:
            parts.append(recurrence.mix(self.dense, stacked))
        if self.order is None:
            return BlockRows(parts)
        return BlockRows([jnp.concatenate(parts).at[self.order].get(mode="promise_in_bounds")])

    @staticmethod
    def _written_out(
        entries: tuple[tuple[tuple[int, int], ...], ...], weight: jax.Array, rows: BlockRows
    ) -> BlockRows:
        columns: list[jax.Array] = []
        used = copied = 0
        for place, sources in enumerate(entries):
            if place < copied:
                continue
            whole = rows.block_at(sources[0][0]) if len(sources) == 1 else None
            if whole is not None:
                # A block that is only copied stays one.
                first = sources[0][0]
                copies = [((first + further, 1),) for further in range(whole.shape[0])]
                if list(entries[place : place + len(copies)]) == copies:
                    columns.append(whole)
                    copied = place + len(copies)
                    continue
            # Rows of the same weight are added up first: ramps come in pairs, p - q times a step.
            sums: dict[int, jax.Array] = {}
            for row, factor in sources:
                term, size = rows.row(row), abs(factor) or -1 - used
                if factor == 0:
                    term = weight[used] * term
                    used += 1
                if size not in sums:
                    sums[size] = -term if factor < 0 else term
                else:
                    sums[size] = sums[size] - term if factor < 0 else sums[size] + term
            terms = [
                jnp.asarray(size, term.dtype) * term if size > 1 else term
                for size, term in sums.items()
            ] or [jnp.zeros((1, 1, 1, 1), weight.dtype)]
            columns.append(functools.reduce(operator.add, terms))
        return BlockRows(columns)


def are_whole(values: np.ndarray) -> np.ndarray:
    """Which numbers are small whole ones, as compiled programs have them.

    They are part of what XLA compiles: it folds them, and drops what they make superfluous.
    Networks with noise in their weights share a compilation all the same.
    """
    return (values == np.rint(values)) & (np.abs(values) < 2**24)


def plan_affine(matrix: sparse.csc_array, dtype: jnp.dtype) -> Affine | None:
    """Choose how to multiply by a matrix; None if it is zero.

    Few entries are written out. For more, the costs are nanoseconds for one output row at one
    position, fitted on a CPU: a dense product takes about 0.30 + 0.006 n for n rows in, gathering k
    entries a column 0.20 + 0.08 k.
    """
    if matrix.nnz == 0:
        return None
    if matrix.nnz + matrix.shape[1] <= _FEW_ENTRIES:
        whole = are_whole(matrix.data)
        factors = np.where(whole, matrix.data, 0).astype(int)
        columns = [
            tuple(zip(matrix.indices[place].tolist(), factors[place].tolist(), strict=True))
            for place in map(slice, matrix.indptr[:-1], matrix.indptr[1:])
        ]
        return Affine(tuple(columns), on_device(matrix.data[~whole], dtype), (), None, None)
    counts = np.diff(matrix.indptr)
    dense_cost = 0.30 + 0.006 * matrix.shape[0]
    long = 0.20 + 0.08 * counts > dense_cost
    if long.any() and (dense_cost < 0.5 or long.mean() > 0.5):
        long[:] = True  # one way is less work than two
    # The columns' bunches: one, if what fills up the short ones is no more than a few weights each.
    deepest = int(counts[~long].max(initial=1))
    several = deepest > _DEEP and deepest * np.count_nonzero(~long) > 2 * matrix.nnz
    depths = np.ceil(np.log2(np.maximum(counts, 1))) if several else np.zeros(len(counts))
    bunch = np.where(long, -1, depths).astype(int)
    gathered, chosen = [], []
    for number in np.unique(bunch[~long]):
        chosen.append(np.flatnonzero(bunch == number))
        entries = recurrence.columns(sparse.csc_array(matrix[:, chosen[-1]]))
        gathered.append((on_device(entries[0], "int32"), on_device(entries[1], dtype)))
    dense = order = None
    if long.any():
        dense = on_device(matrix[:, long].toarray(), dtype)
        chosen.append(np.flatnonzero(long))
    if len(chosen) > 1:
        order = on_device(np.argsort(np.concatenate(chosen), kind="stable"), "int32")
    return Affine(None, None, tuple(gathered), dense, order)


@pytree
@dataclass(frozen=True)
class Bias:
    """A number a row, none of which may be there.

    Attributes:
      whole: the numbers where all are whole and few, else None.
      others: (rows, 1, 1, 1), or None for zero or where `whole` has them.
      some: where they are not 0.
    """

    whole: tuple[int, ...] | None = field(metadata=STATIC)
    others: jax.Array | None
    some: tuple[bool, ...] = field(metadata=STATIC)
    dtype: jnp.dtype = field(metadata=STATIC)

    def rows(self) -> BlockRows | None:
        """(rows, 1, 1, 1); None for zero."""
        if self.whole is not None:
            return BlockRows(jnp.full((1, 1, 1, 1), number, self.dtype) for number in self.whole)
        return None if self.others is None else BlockRows([self.others])

    def added(self, terms: Sequence[BlockRows]) -> BlockRows | None:
        """The sum with the terms; None if there is nothing to add up."""
        rows = self.rows()
        if rows is None:
            return sum_rows(terms) if terms else None
        if not terms:
            return rows
        total = sum_rows(terms)
        if any(block.shape[0] > 1 for block in total.blocks):
            return sum_rows([total, rows])
        return BlockRows(
            block + rows.row(row) if some else block
            for row, (block, some) in enumerate(zip(total.blocks, self.some, strict=True))
        )


def plan_bias(values: np.ndarray, dtype: jnp.dtype) -> Bias:
    """Plan a bias (rows,)."""
    some = tuple((values != 0).tolist())
    if not any(some):
        return Bias(None, None, some, dtype)
    if len(values) <= _FEW_ENTRIES and are_whole(values).all():
        return Bias(tuple(values.astype(int).tolist()), None, some, dtype)
    return Bias(None, on_device(values[:, None, None, None], dtype), some, dtype)


@dataclass(frozen=True)
class Bank:
    """What a layer hands to the next: rows with batch 1 and with all of the batch, or None."""

    fixed: BlockRows | None
    varying: BlockRows | None


@pytree
@dataclass(frozen=True)
class BankAffine:
    """An affine map of a bank."""

    fixed: Affine | None
    varying: Affine | None
    bias: Bias

    def __call__(self, bank: Bank) -> BlockRows | None:
        """Rows that broadcast to (t, s, b); None if it is zero."""
        halves = ((self.fixed, bank.fixed), (self.varying, bank.varying))
        return self.bias.added([
            affine(rows) for affine, rows in halves if affine is not None and rows is not None
        ])  # fmt: skip


def plan_bank_affine(
    columns: sparse.csc_array,
    bias: np.ndarray,
    bank: tuple[np.ndarray, np.ndarray],
    dtype: jnp.dtype,
) -> BankAffine:
    """Plan an affine map of a bank whose rows are the given rows of the kernel."""
    by_row = columns.tocsr()
    fixed, varying = (plan_affine(sparse.csc_array(by_row[rows]), dtype) for rows in bank)
    return BankAffine(fixed, varying, plan_bias(bias, dtype))


# ---------------------------------------------------------------- the input map


@pytree
@dataclass(frozen=True)
class _Column:
    """What one feature takes from a table: values by id.

    Looking values up is slow beside arithmetic, so what has a pattern is worked out instead.

    Attributes:
      changes: ids at which the value changes, where those are few: numbers are then the values
        between. None for a ramp, whose numbers are its value at 0 and its slope.
      symbols: ids are below.
      whole: see `changes`, where all are whole; else None.
      others: see `changes`, else None.
    """

    changes: tuple[int, ...] | None = field(metadata=STATIC)
    symbols: int = field(metadata=STATIC)
    whole: tuple[int, ...] | None = field(metadata=STATIC)
    others: jax.Array | None
    dtype: jnp.dtype = field(metadata=STATIC)

    @property
    def numbers(self) -> jax.Array:
        """See `changes`."""
        return jnp.asarray(self.whole, self.dtype) if self.others is None else self.others

    def __call__(self, ids: jax.Array) -> jax.Array:
        """(1, t, s, b) to the same shape."""
        numbers = self.numbers
        if self.changes is None:
            within = jnp.clip(ids, 0, self.symbols - 1)
            return numbers[0] + numbers[1] * within.astype(numbers.dtype)
        values = jnp.broadcast_to(numbers[0], ids.shape)
        for number, change in enumerate(self.changes, start=1):
            values = jnp.where(ids >= change, numbers[number], values)
        return values


def _plan_column(values: np.ndarray, dtype: jnp.dtype) -> _Column | None:
    """Find the pattern of a column (symbols,); None if it has to be looked up."""
    changes = np.flatnonzero(np.diff(values)) + 1
    if len(changes) <= _MOST_CHANGES:
        numbers = values[np.concatenate([[0], changes])]
        places = tuple(changes.tolist())
        whole = tuple(numbers.astype(int).tolist()) if are_whole(numbers).all() else None
        others = on_device(numbers, dtype) if whole is None else None
        return _Column(places, len(values), whole, others, dtype)
    slope = values[1] - values[0]
    # Small whole numbers, so that neither the product nor the sum is rounded.
    exact = (values == np.rint(values)).all() and np.abs(values).max() < 2**23
    if exact and (np.diff(values) == slope).all():
        return _Column(None, len(values), (int(values[0]), int(slope)), None, dtype)
    return None


@pytree
@dataclass(frozen=True)
class _Table:
    """Features of a token input: column by column, or looked up.

    Attributes:
      columns: one by one; empty where they are looked up.
      values: (rows, vocabulary), or the weights of a sparse table; None where there are columns.
      pattern: of a sparse table (vocabulary, rows).
    """

    columns: tuple[_Column | jax.Array, ...]
    values: jax.Array | None
    pattern: Pattern | None = field(default=None, metadata=STATIC)

    def __call__(self, ids: jax.Array) -> BlockRows:
        """(1, t, s, b) to (rows, t, s, b)."""
        if self.values is not None and self.pattern is not None:
            return BlockRows([jnp.moveaxis(self.pattern.looked_up(self.values, ids[0]), -1, 0)])
        if self.values is not None:
            return BlockRows([jnp.take(self.values, ids[0], axis=1, mode="clip")])
        return BlockRows(
            column(ids) if isinstance(column, _Column) else jnp.take(column, ids, mode="clip")
            for column in self.columns
        )


def _plan_table(matrix: sparse.csc_array, dtype: jnp.dtype) -> _Table:
    """Plan a table (vocabulary, rows)."""
    many = matrix.shape[1] > _FEW_FEATURES
    if many and SPARSENESS.pays(matrix.shape, matrix.nnz):
        pattern = Pattern(matrix)
        return _Table((), on_device(pattern.values(matrix, "table"), dtype), pattern)
    table = matrix.toarray()
    if many:
        return _Table((), on_device(table.T, dtype))
    columns = []
    for values in table.T:
        column = _plan_column(values, dtype)
        columns.append(on_device(values, dtype) if column is None else column)
    return _Table(tuple(columns), None)


@pytree
@dataclass(frozen=True)
class FeaturePlan:
    """Features of the input map that read the same inputs.

    Attributes:
      inputs: at least one program input, by number.
      maps: of each, a table (rows, vocabulary) or a kernel.
      bias: of the rows.
    """

    inputs: tuple[int, ...] = field(metadata=STATIC)
    maps: tuple[_Table | Affine | None, ...]
    bias: Bias

    def __call__(self, inputs: Mapping[int, jax.Array]) -> BlockRows:
        """Given ids (1, t, s, b) and vectors (width, t, s, b): (rows, t, s, b)."""
        terms = []
        for number, feature_map in zip(self.inputs, self.maps, strict=True):
            signal = inputs[number]
            if isinstance(feature_map, Affine):
                terms.append(feature_map(BlockRows([signal])))
            elif feature_map is not None:
                terms.append(feature_map(signal))
        return self.bias.added(terms) or BlockRows([])


def plan_features(
    features: np.ndarray,
    structure: NetworkStructure,
    matrix: Callable[[str], sparse.csr_array],
    bias: np.ndarray,
    dtype: jnp.dtype,
) -> tuple[Bias | None, tuple[FeaturePlan, ...], np.ndarray, np.ndarray]:
    """Plan the input map; also lists which features its fixed and its varying rows are."""
    maps = {
        number: matrix(f"inputs.{number}.{kind}").tocsc()[:, features]
        for number, kind in enumerate(structure.inputs)
        if kind
    }
    # Features that read the same inputs go together; usually each reads one.
    counts = {number: np.diff(columns.indptr) for number, columns in maps.items()}
    readers: dict[tuple[int, ...], list[int]] = {}
    for place in range(len(features)):
        read = tuple(number for number, entries in counts.items() if entries[place])
        readers.setdefault(read, []).append(place)
    constant = readers.pop((), [])
    plans = []
    for numbers, places in readers.items():
        feature_maps: list[_Table | Affine | None] = []
        for number in numbers:
            columns = sparse.csc_array(maps[number][:, places])
            if structure.inputs[number] == "table":
                feature_maps.append(_plan_table(columns, dtype))
            else:
                feature_maps.append(plan_affine(columns, dtype))
        plans.append(
            FeaturePlan(numbers, tuple(feature_maps), plan_bias(bias[features[places]], dtype))
        )
    fixed = features[constant]
    varying = features[[place for places in readers.values() for place in places]]
    constants = plan_bias(bias[fixed], dtype) if len(fixed) else None
    return constants, tuple(plans), fixed, varying
