"""How a linear network runs whole sequences, layer by layer and parallel over time.

`run` makes a plan from the numbers of the parameters at hand: the forms of
`lsrl.backends.linear.recurrence` for the states; single rows, gathers or dense products for the
rest. It cuts batch and time into tiles that fit a cache, and carries the states from tile to tile.

Arrays are (rows, time, segments, batch): a tile's time is cut into segments that run side by side,
so that there are enough values for a step of a loop even where the batch is small. What does not
depend on the inputs (positions, cycles, constants) is the same for every sequence of a batch, so it
is computed once, with batch 1: the *fixed* rows; the others are the *varying* rows.

Small layers are computed row by row, as one would write them by hand, and rows are only stacked
where a loop runs them together: copies of rows cost as much as the sums.

Each plan is a pytree: numbers are leaves, everything that shapes the computation is static.
Networks that differ in the numbers only, as in a sweep over noise, share one compilation.
"""

import dataclasses
import functools
import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import (
    LayerStructure,
    NetworkStructure,
    Parameters,
    State,
)
from lsrl.backends.network import on_device, precision

# ---------------------------------------------------------------- rows


class _Rows:
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

    def part(self, numbers: range) -> "_Rows":
        """Some rows on end; blocks stay whole where they can."""
        blocks, start = [], 0
        for block in self.blocks:
            low = max(numbers.start - start, 0)
            high = min(numbers.stop - start, block.shape[0])
            if low < high:
                blocks.append(block if high - low == block.shape[0] else block[low:high])
            start += block.shape[0]
        return _Rows(blocks)

    def stacked(self) -> jax.Array:
        """(all rows, t, s, b)."""
        if len(self.blocks) == 1:
            return self.blocks[0]
        # Constants have the length 1 in time, or of the batch.
        shape = np.broadcast_shapes(*(block.shape[1:] for block in self.blocks))
        return jnp.concatenate(
            [jnp.broadcast_to(block, (block.shape[0], *shape)) for block in self.blocks]
        )

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "_Rows":
        """Apply an elementwise function."""
        return _Rows(function(block) for block in self.blocks)


def _broadcast(rows: _Rows, tokens: int, segments: int, batch: int) -> _Rows:
    return rows.map(
        lambda block: jnp.broadcast_to(block, (block.shape[0], tokens, segments, batch))
    )


def _sum(terms: Sequence[_Rows]) -> _Rows:
    """Add rows to rows, by blocks where those agree."""
    first, *others = terms
    if not others:
        return first
    sizes = [[block.shape[0] for block in term.blocks] for term in terms]
    if all(size == sizes[0] for size in sizes):
        columns = zip(*(term.blocks for term in terms), strict=True)
        return _Rows(functools.reduce(operator.add, column) for column in columns)
    return _Rows(
        functools.reduce(operator.add, [term.row(number) for term in terms])
        for number in range(len(first))
    )


# ---------------------------------------------------------------- plans

_plan = jax.tree_util.register_dataclass


_STATIC = {"static": True}  # for jax: part of the tree's structure, no leaf

# Up to so many entries a matrix is written out, entry by entry: more take long to compile.
_FEW_ENTRIES = 96


@_plan
@dataclass(frozen=True)
class _Affine:
    """A matrix: written out, or `dense` (rows in, rows out), or few entries a column, or some each.

    Attributes:
      entries: where it is written out, per column the rows that it reads, else None; each with 1 or
        -1 if that is its weight, else with 0.
      index: for gather_mix, or None.
      weight: for gather_mix, or None; where the matrix is written out, the other weights.
      dense: for mix, or None.
      order: where both are there, puts the gathered columns and then the dense ones in order.
    """

    entries: tuple[tuple[tuple[int, int], ...], ...] | None = field(metadata=_STATIC)
    index: jax.Array | None
    weight: jax.Array | None
    dense: jax.Array | None
    order: jax.Array | None

    def __call__(self, rows: _Rows) -> _Rows:
        """(rows in, ...) -> (rows out, ...)."""
        if self.entries is not None and self.weight is not None:
            return self._written_out(self.entries, self.weight, rows)
        stacked = rows.stacked()
        parts = []
        if self.index is not None and self.weight is not None:
            parts.append(recurrence.gather_mix(self.index, self.weight, stacked))
        if self.dense is not None:
            parts.append(recurrence.mix(self.dense, stacked))
        if self.order is None:
            return _Rows(parts)
        return _Rows([jnp.concatenate(parts).at[self.order].get(mode="promise_in_bounds")])

    @staticmethod
    def _written_out(
        entries: tuple[tuple[tuple[int, int], ...], ...], weight: jax.Array, rows: _Rows
    ) -> _Rows:
        columns, used = [], 0
        for sources in entries:
            total: jax.Array | None = None
            for row, sign in sources:
                term = rows.row(row)
                if sign == 0:
                    term = weight[used] * term
                    used += 1
                if total is None:
                    total = -term if sign < 0 else term
                else:
                    total = total - term if sign < 0 else total + term
            columns.append(jnp.zeros((1, 1, 1, 1), weight.dtype) if total is None else total)
        return _Rows(columns)


def _plan_affine(matrix: sparse.csc_array, dtype: jnp.dtype) -> _Affine | None:
    """Choose how to multiply by a matrix; None if it is zero.

    Few entries are written out. For more, the costs are nanoseconds for one output row at one
    position, fitted on a CPU: a dense product takes about 0.30 + 0.006 n for n rows in, gathering k
    entries a column 0.20 + 0.08 k.
    """
    if matrix.nnz == 0:
        return None
    if matrix.nnz + matrix.shape[1] <= _FEW_ENTRIES:
        unit = np.abs(matrix.data) == 1
        signs = np.where(unit, matrix.data, 0).astype(int)
        columns = [
            tuple(zip(matrix.indices[place].tolist(), signs[place].tolist(), strict=True))
            for place in map(slice, matrix.indptr[:-1], matrix.indptr[1:])
        ]
        return _Affine(
            tuple(columns),
            None,
            on_device(matrix.data[~unit], dtype),
            None,
            None,
        )
    counts = np.diff(matrix.indptr)
    dense_cost = 0.30 + 0.006 * matrix.shape[0]
    long = 0.20 + 0.08 * counts > dense_cost
    if long.any() and (dense_cost < 0.5 or long.mean() > 0.5):
        long[:] = True  # one way is less work than two
    index = weight = dense = order = None
    if not long.all():
        entries = recurrence.columns(sparse.csc_array(matrix[:, ~long]))
        index, weight = on_device(entries[0], "int32"), on_device(entries[1], dtype)
    if long.any():
        dense = on_device(matrix[:, long].toarray(), dtype)
        if not long.all():
            # The places of the columns, were they sorted: gathered first, then dense.
            order = on_device(np.argsort(np.argsort(long, kind="stable")), "int32")
    return _Affine(None, index, weight, dense, order)


@dataclass(frozen=True)
class _Piece:
    """Rows of one group, each some tokens behind.

    Attributes:
      group: number of the group in the layer.
      rows: of the group.
      lags: one for all rows, or one a row.
      span: more than 1 stands for the sum over so many tokens, the last `lags` behind.
    """

    group: int
    rows: range | tuple[int, ...]
    lags: int | tuple[int, ...]
    span: int = 1


class _Track:
    """The values of a group in one chunk.

    Attributes:
      sequence: the heads, (rows, t, s, b).
      history: (rows, history, b), the heads before the chunk, oldest first.
      valid: tokens of the chunk that count.
    """

    def __init__(self, sequence: _Rows, history: jax.Array, valid: jax.Array) -> None:
        self.sequence = sequence
        self.history = history
        self.valid = valid
        self._padded: _Rows | None = None

    @property
    def padded(self) -> _Rows:
        """(rows, history + t, s, b): what came before each segment, and the segment."""
        if self._padded is None:
            blocks, start, count = [], 0, self.history.shape[1]
            for block in self.sequence.blocks:
                before = self.history[start : start + block.shape[0], :, None]
                if block.shape[2] > 1:
                    ends = block[:, block.shape[1] - count :, :-1]
                    before = jnp.concatenate([before, ends], axis=2)
                blocks.append(recurrence.joined([before, block], 1, self.valid > 0))
                start += block.shape[0]
            self._padded = _Rows(blocks)
        return self._padded

    def last(self) -> jax.Array:
        """(rows, history, b): the heads before the token after the last valid one."""
        valid = self.valid
        tokens, segments = self.sequence.blocks[0].shape[1:3]
        segment = (valid - 1) // tokens if segments > 1 else jnp.zeros_like(valid)
        count = self.history.shape[1]
        if count == 1:
            rows, place = self.sequence, valid - 1 - segment * tokens
        else:
            rows, place = self.padded, valid - segment * tokens
        cut = [
            lax.dynamic_slice_in_dim(
                lax.dynamic_index_in_dim(block, segment, axis=2, keepdims=False), place, count, 1
            )
            for block in rows.blocks
        ]
        if len(cut) == 1:
            return cut[0]
        return recurrence.joined(cut, 0, valid > 0)

    def read(self, piece: _Piece) -> _Rows:
        """(rows of the piece, t, s, b)."""
        tokens, history = self.sequence.blocks[0].shape[1], self.history.shape[1]
        if not isinstance(piece.lags, int):
            stacked = self.padded.stacked()
            rows = jnp.asarray(piece.rows, jnp.int32)
            starts = history - jnp.asarray(piece.lags, jnp.int32)
            shape = (1, tokens, *stacked.shape[2:])

            def window(row: jax.Array, start: jax.Array) -> jax.Array:
                zero = jnp.zeros_like(row)
                return lax.dynamic_slice(stacked, (row, start, zero, zero), shape)[0]

            return _Rows([jax.vmap(window)(rows, starts)])
        values = self.sequence
        if piece.lags or piece.span > 1:
            start = history - piece.lags - piece.span + 1
            values = self.padded.map(
                lambda block: block[:, start : start + tokens + piece.span - 1]
            )
        if isinstance(piece.rows, range):
            values = values.part(piece.rows)
        elif len(values.blocks) > 1:
            values = _Rows(values.row(row) for row in piece.rows)
        else:
            numbers = np.asarray(piece.rows)
            values = _Rows([values.blocks[0].at[numbers].get(mode="promise_in_bounds")])
        if piece.span > 1:
            values = values.map(lambda block: recurrence.window_sum(block, piece.span))
        return values


_WINDOWS = 8  # beyond this many slices of a group, one gather compiles faster


def _pieces(
    group: np.ndarray, row: np.ndarray, lag: np.ndarray, span: np.ndarray | None = None
) -> tuple[_Piece, ...]:
    """Describe how to stack rows, in the order given."""
    if len(group) == 0:
        return ()
    span = np.ones_like(lag) if span is None else span
    pieces = []
    for run in _runs(group, span):
        same_lag = [run[part] for part in _runs(lag[run])]
        number, tokens = int(group[run[0]]), int(span[run[0]])
        if len(same_lag) > _WINDOWS and tokens == 1:
            pieces.append(_Piece(number, tuple(row[run].tolist()), tuple(lag[run].tolist())))
            continue
        for part in same_lag:
            rows: range | tuple[int, ...] = tuple(row[part].tolist())
            if rows == tuple(range(rows[0], rows[0] + len(rows))):
                rows = range(rows[0], rows[0] + len(rows))
            pieces.append(_Piece(number, rows, int(lag[part[0]]), tokens))
    return tuple(pieces)


def _runs(*keys: np.ndarray) -> list[np.ndarray]:
    """Cut places 0, 1, … where any key changes."""
    changes = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        changes |= np.diff(key) != 0
    return np.split(np.arange(len(keys[0])), np.flatnonzero(changes) + 1)


def _read(tracks: Sequence[_Track], pieces: Sequence[_Piece]) -> _Rows | None:
    """The rows of all pieces, each (t, s, 1 or b)."""
    if not pieces:
        return None
    return _Rows(block for piece in pieces for block in tracks[piece.group].read(piece).blocks)


@dataclass(frozen=True)
class _Bank:
    """What a layer hands to the next: rows with batch 1 and with all of the batch, or None."""

    fixed: _Rows | None
    varying: _Rows | None


@_plan
@dataclass(frozen=True)
class _BankAffine:
    """An affine map of a bank."""

    fixed: _Affine | None
    varying: _Affine | None
    bias: jax.Array | None  # (rows out, 1, 1, 1)
    biased: tuple[bool, ...] = field(metadata=_STATIC)  # where the bias is not 0

    def __call__(self, bank: _Bank) -> _Rows | None:
        """Rows that broadcast to (t, s, b); None if it is zero."""
        terms = []
        for affine, rows in ((self.fixed, bank.fixed), (self.varying, bank.varying)):
            if affine is not None and rows is not None:
                terms.append(affine(rows))
        if self.bias is None:
            return _sum(terms) if terms else None
        if not terms:
            return _Rows([self.bias])
        total = _sum(terms)
        if any(block.shape[0] > 1 for block in total.blocks):
            return _sum([total, _Rows([self.bias])])
        return _Rows(
            block + self.bias[row : row + 1] if biased else block
            for row, (block, biased) in enumerate(zip(total.blocks, self.biased, strict=True))
        )


@dataclass(frozen=True)
class _Shape:
    """Of a chunk: time is `segments` times `tokens`."""

    tokens: int
    segments: int
    batch: int


@_plan
@dataclass(frozen=True)
class _GroupPlan:
    """One group of recurrence.Decomposition."""

    kind: recurrence.Kind = field(metadata=_STATIC)
    varying: bool = field(metadata=_STATIC)
    rows: int = field(metadata=_STATIC)
    remembered: bool = field(metadata=_STATIC)  # whether the next chunk needs its history
    stride: int = field(metadata=_STATIC)
    sign: int = field(metadata=_STATIC)
    drive: tuple[int, int] | None = field(metadata=_STATIC)  # its rows in the layer's drive
    fixed_reads: tuple[_Piece, ...] = field(metadata=_STATIC)
    varying_reads: tuple[_Piece, ...] = field(metadata=_STATIC)
    reads: _BankAffine
    powers: jax.Array | None  # of a decay
    kernel: _Affine | None  # of an in-order group

    @property
    def num_reads(self) -> int:
        """Rows that it reads of other groups."""
        return sum(len(piece.rows) for piece in (*self.fixed_reads, *self.varying_reads))

    def __call__(
        self,
        drive: _Rows | None,
        tracks: Sequence[_Track],
        history: jax.Array,
        shape: _Shape,
        valid: jax.Array,
        rounded: Callable[[jax.Array], jax.Array],
    ) -> _Track:
        """Run a chunk; see _Track."""
        terms = []
        if drive is not None and self.drive is not None:
            terms.append(drive.part(range(*self.drive)))
        bank = _Bank(_read(tracks, self.fixed_reads), _read(tracks, self.varying_reads))
        read = self.reads(bank)
        if read is not None:
            terms.append(read)
        batch = shape.batch if self.varying else 1
        if not terms and self.kind == "ring":
            past = history[:, history.shape[1] - self.stride :]
            turning = recurrence.periodic(past, self.sign, shape.segments * shape.tokens)
            cut = turning.reshape(self.rows, shape.segments, shape.tokens, batch)
            return _Track(_Rows([jnp.moveaxis(cut, 1, 2)]), history, valid)
        if not terms:
            terms.append(_Rows([jnp.zeros((self.rows, 1, 1, 1), history.dtype)]))
        inputs = _broadcast(_sum(terms), shape.tokens, shape.segments, batch)
        if self.kind == "feed":
            return _Track(inputs.map(rounded), history, valid)
        sequence = self._summed(inputs.stacked(), history, valid, rounded)
        return _Track(_Rows([rounded(sequence)]), history, valid)

    def _summed(
        self,
        inputs: jax.Array,
        history: jax.Array,
        valid: jax.Array,
        rounded: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """(rows, t, s, b), of a group with memory."""
        last = history[:, -1]
        if self.kind == "ring":
            start = history.shape[1] - self.stride
            return recurrence.ring_sum(inputs, history[:, start:], self.sign, valid > 0)
        if self.kind == "decay" and self.powers is not None:
            return recurrence.decaying_sum(inputs, last, self.powers)
        if self.kind == "rotation":
            return recurrence.rotation(inputs, last, self.sign)

        def advance(hidden: jax.Array) -> jax.Array:
            if self.kernel is None:
                return jnp.zeros_like(hidden)
            # A matrix takes rows with an axis for time.
            return self.kernel(_Rows([hidden[:, None]])).stacked()[:, 0]

        return recurrence.in_order(inputs, last, advance, rounded)


@_plan
@dataclass(frozen=True)
class _OutputPlan:
    """Outputs of a layer that the next one reads: plain ones first, then products."""

    plain: tuple[_Piece, ...] = field(metadata=_STATIC)
    left: tuple[_Piece, ...] = field(metadata=_STATIC)
    right: tuple[_Piece, ...] = field(metadata=_STATIC)
    sign: tuple[int, ...] = field(metadata=_STATIC)  # 1 or -1 a row
    relu: tuple[bool, ...] = field(metadata=_STATIC)  # a row

    def __call__(
        self, tracks: Sequence[_Track], rounded: Callable[[jax.Array], jax.Array]
    ) -> _Rows | None:
        """Rows of (t, s, 1 or b); None for no rows."""
        plain, left, right = (_read(tracks, part) for part in (self.plain, self.left, self.right))
        blocks = list(plain.blocks) if plain is not None else []
        if left is not None and right is not None:
            pairs = [(left.row(number), right.row(number)) for number in range(len(left))]
            if len(left) > _WINDOWS:
                pairs = [(left.stacked(), right.stacked())]
            blocks.extend(rounded(one * other) for one, other in pairs)
        if not blocks:
            return None
        done, start = [], 0
        for block in blocks:
            rows = slice(start, start + block.shape[0])
            done.append(_finished(block, self.sign[rows], self.relu[rows]))
            start = rows.stop
        return _Rows(done)


def _finished(block: jax.Array, sign: tuple[int, ...], relu: tuple[bool, ...]) -> jax.Array:
    """Turn rows with the sign -1 over, and cut those with a ReLU off at 0."""

    def column(values: Any) -> jax.Array:
        return jnp.asarray(values, block.dtype)[:, None, None, None]

    if len(set(sign)) > 1:
        block = block * column(sign)
    elif sign[0] < 0:
        block = -block
    if not any(relu):
        return block
    floor = 0.0 if all(relu) else column(np.where(relu, 0.0, -np.inf))
    return jnp.maximum(block, floor)


@_plan
@dataclass(frozen=True)
class _LayerPlan:
    """One layer: the drive of its groups, the groups, the outputs that are read."""

    groups: tuple[_GroupPlan, ...]
    fixed_drive: _BankAffine
    varying_drive: _BankAffine
    fixed_outputs: _OutputPlan
    varying_outputs: _OutputPlan

    def __call__(
        self,
        bank: _Bank,
        carry: tuple[jax.Array, ...],
        shape: _Shape,
        valid: jax.Array,
        whole: bool,
        rounded: Callable[[jax.Array], jax.Array],
    ) -> tuple[_Bank, tuple[jax.Array, ...]]:
        """Run a chunk; carry holds per group (rows, history, 1 or batch).

        Unless the `whole` state is wanted, what no later token reads stays as it was.
        """
        drives = {False: self.fixed_drive(bank), True: self.varying_drive(bank)}
        tracks: list[_Track] = []
        for group, history in zip(self.groups, carry, strict=True):
            drive = drives[group.varying]
            tracks.append(group(drive, tracks, history, shape, valid, rounded))
        outputs = _Bank(self.fixed_outputs(tracks, rounded), self.varying_outputs(tracks, rounded))
        after = [
            track.last() if whole or group.remembered else track.history
            for group, track in zip(self.groups, tracks, strict=True)
        ]
        return outputs, tuple(after)


# ---------------------------------------------------------------- the input map


@_plan
@dataclass(frozen=True)
class _Column:
    """What one feature takes from a table: values by id.

    Looking values up is slow beside arithmetic, so what has a pattern is worked out instead.

    Attributes:
      changes: ids at which the value changes, where those are few: numbers are then the values
        between. None for a ramp, whose numbers are its value at 0 and its slope.
      symbols: ids are below.
      numbers: see `changes`.
    """

    changes: tuple[int, ...] | None = field(metadata=_STATIC)
    symbols: int = field(metadata=_STATIC)
    numbers: jax.Array

    def __call__(self, ids: jax.Array) -> jax.Array:
        """(1, t, s, b) to the same shape."""
        if self.changes is None:
            within = jnp.clip(ids, 0, self.symbols - 1)
            return self.numbers[0] + self.numbers[1] * within.astype(self.numbers.dtype)
        values = jnp.broadcast_to(self.numbers[0], ids.shape)
        for number, change in enumerate(self.changes, start=1):
            values = jnp.where(ids >= change, self.numbers[number], values)
        return values


def _plan_column(values: np.ndarray, dtype: jnp.dtype) -> _Column | None:
    """Find the pattern of a column (symbols,); None if it has to be looked up."""
    changes = np.flatnonzero(np.diff(values)) + 1
    if len(changes) <= _MOST_CHANGES:
        numbers = values[np.concatenate([[0], changes])]
        return _Column(tuple(changes.tolist()), len(values), on_device(numbers, dtype))
    slope = values[1] - values[0]
    # Small whole numbers, so that neither the product nor the sum is rounded.
    exact = (values == np.rint(values)).all() and np.abs(values).max() < 2**23
    if exact and (np.diff(values) == slope).all():
        return _Column(None, len(values), on_device([values[0], slope], dtype))
    return None


_MOST_CHANGES = 2  # as a one-hot feature has
_FEW_FEATURES = 32  # more are looked up together


@_plan
@dataclass(frozen=True)
class _Table:
    """Features of a token input: column by column, or looked up (rows, vocabulary)."""

    columns: tuple[_Column | jax.Array, ...]
    values: jax.Array | None

    def __call__(self, ids: jax.Array) -> _Rows:
        """(1, t, s, b) to (rows, t, s, b)."""
        if self.values is not None:
            return _Rows([jnp.take(self.values, ids[0], axis=1, mode="clip")])
        return _Rows(
            column(ids) if isinstance(column, _Column) else jnp.take(column, ids, mode="clip")
            for column in self.columns
        )


def _plan_table(table: np.ndarray, dtype: jnp.dtype) -> _Table:
    """Plan a table (vocabulary, rows)."""
    if table.shape[1] > _FEW_FEATURES:
        return _Table((), on_device(table.T, dtype))
    columns = []
    for values in table.T:
        column = _plan_column(values, dtype)
        columns.append(on_device(values, dtype) if column is None else column)
    return _Table(tuple(columns), None)


@_plan
@dataclass(frozen=True)
class _FeaturePlan:
    """Features of the input map that read the same inputs.

    Attributes:
      inputs: at least one program input, by number.
      maps: of each, a table (rows, vocabulary) or a kernel.
      bias: (rows, 1, 1, 1), or None for zero.
    """

    inputs: tuple[int, ...] = field(metadata=_STATIC)
    maps: tuple[_Table | _Affine | None, ...]
    bias: jax.Array | None

    def __call__(self, inputs: Sequence[Any]) -> _Rows:
        """Given ids (1, t, s, b) and vectors (width, t, s, b): (rows, t, s, b)."""
        terms = [] if self.bias is None else [_Rows([self.bias])]
        for number, feature_map in zip(self.inputs, self.maps, strict=True):
            signal = inputs[number]
            if isinstance(feature_map, _Affine):
                terms.append(feature_map(_Rows([signal])))
            elif feature_map is not None:
                terms.append(feature_map(signal))
        return _sum(terms)


@_plan
@dataclass(frozen=True)
class _NetworkPlan:
    """A whole network."""

    structure: NetworkStructure = field(metadata=_STATIC)
    num_outputs: int = field(metadata=_STATIC)
    constants: jax.Array | None  # (rows, 1, 1, 1), features that read no input
    features: tuple[_FeaturePlan, ...]
    layers: tuple[_LayerPlan, ...]
    output: _BankAffine

    def __call__(
        self,
        carry: tuple[tuple[jax.Array, ...], ...],
        inputs: tuple[jax.Array | None, ...],
        valid: jax.Array,
        shape: _Shape,
        whole: bool,
    ) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], ...]]:
        """Run a chunk of which `valid` tokens count.

        Args:
          carry: per layer and group, of the chunk before.
          inputs: per program input, ids (1, t, s, b), vectors (width, t, s, b), or None if unread.
          valid: tokens of the chunk that count.
          shape: of the chunk.
          whole: whether the carry must hold the whole state, or only what later tokens read.

        Returns:
          (outputs, t, s, b) and the carry.
        """
        rounded, compute = self.structure.rounded, self.structure.compute_dtype
        signals = tuple(
            rounded(signal.astype(compute)) if kind == "kernel" and signal is not None else signal
            for kind, signal in zip(self.structure.inputs, inputs, strict=True)
        )
        blocks = [
            block for feature in self.features for block in feature(signals).map(rounded).blocks
        ]
        bank = _Bank(
            None if self.constants is None else _Rows([self.constants]),
            _Rows(blocks) if blocks else None,
        )
        after = []
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            bank, carried = layer(bank, layer_carry, shape, valid, whole, rounded)
            after.append(carried)
        rows = self.output(bank) or _Rows([jnp.zeros((self.num_outputs, 1, 1, 1), compute)])
        rows = _broadcast(rows, shape.tokens, shape.segments, shape.batch)
        values = rounded(rows.stacked()).astype(self.structure.dtype)
        return values, tuple(after)


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class Prepared:
    """A plan, and what it takes to feed it.

    Attributes:
      plan: for jit.
      layers: the decomposition of each layer.
      starts: initial state of each layer (1, hidden), compute dtype.
      width: most rows of any stack, which bounds the memory of a chunk.
      history: most tokens that any group looks back, which a segment must hold.
      turn: of so many tokens all rings make whole turns; 1 if that is too many for a segment.
      segments: whether time can be cut into segments.
    """

    plan: _NetworkPlan
    layers: tuple[recurrence.Decomposition, ...]
    starts: tuple[np.ndarray, ...]
    width: int
    history: int
    turn: int
    segments: bool
    _first: dict[int, Any] = field(default_factory=dict)

    def first_carry(self, batch: int) -> Any:
        """The carry before the first token, on the device."""
        if batch not in self._first:
            carry = self.carry(self.starts, batch)
            self._first[batch] = jax.tree.map(lambda x: on_device(x, x.dtype), carry)
        return self._first[batch]

    def carry(self, state: Sequence[np.ndarray], batch: int) -> tuple[tuple[np.ndarray, ...], ...]:
        """Turn per layer (at most batch, hidden) into per group (rows, history, 1 or batch)."""
        carry = []
        for layer, values in zip(self.layers, state, strict=True):
            histories = []
            for group in layer.groups:
                heads = (values[:, group.members] * layer.sign[group.members]).astype(values.dtype)
                # The fixed rows need one sequence; else the first one also fills up the batch.
                count = batch if group.varying else 1
                heads = heads[np.minimum(np.arange(count), len(heads) - 1)]
                histories.append(np.moveaxis(heads[:, :, ::-1], 0, 2))
            carry.append(tuple(histories))
        return tuple(carry)

    def state(self, carry: Sequence[Sequence[np.ndarray]], batch: int) -> tuple[np.ndarray, ...]:
        """Undo `carry`."""
        states = []
        for layer, groups in zip(self.layers, carry, strict=True):
            values = np.zeros((batch, len(layer.group)), self.plan.structure.compute_dtype)
            for group, history in zip(layer.groups, groups, strict=True):
                heads = np.moveaxis(np.asarray(history)[:, ::-1], 2, 0)
                values[:, group.members] = heads * layer.sign[group.members]
            states.append(values)
        return tuple(states)


def prepare(parameters: Parameters, structure: NetworkStructure, uniform: bool) -> Prepared:
    """Plan the runs of a network with these parameters.

    Args:
      parameters: concrete, by flat name.
      structure: of the network.
      uniform: every sequence starts in the same state, so that fixed rows exist.

    Returns:
      The plan.
    """
    dtype = structure.compute_dtype

    def vector(name: str) -> np.ndarray:
        return np.asarray(parameters[name]).astype(np.float64)

    def matrix(name: str) -> sparse.csr_array:
        values = np.asarray(parameters[name])
        if values.dtype == jnp.bfloat16:
            values = values.astype(np.float32)
        rows, places = np.nonzero(values)
        entries = values[rows, places].astype(np.float64)
        return sparse.csr_array((entries, (rows, places)), shape=values.shape)

    kernels = [matrix(f"layers.{i}.input_kernel") for i in range(len(structure.layers))]
    kernels.append(matrix("output_kernel"))
    features = np.flatnonzero(np.diff(kernels[0].indptr))
    constants, feature_plans, fixed, varying = _plan_features(
        features, structure, matrix, vector("input_bias"), dtype
    )
    layers, decompositions, starts = [], [], []
    width = len(fixed) + len(varying)
    for number, layer in enumerate(structure.layers):
        name = f"layers.{number}."
        starts.append(vector(name + "initial_state").astype(dtype)[None])
        read = np.flatnonzero(np.diff(kernels[number + 1].indptr))
        plan, decomposition, fixed, varying = _plan_layer(
            kernels[number],
            matrix(name + "recurrent_kernel"),
            vector(name + "bias"),
            layer,
            (fixed, varying),
            read,
            uniform,
            dtype,
        )
        layers.append(plan)
        decompositions.append(decomposition)
        heads = sum(len(group.members) for group in decomposition.groups)
        # Reads of a register can be more than the units of the layer.
        reads = max((group.num_reads for group in plan.groups), default=0)
        width = max(width, heads, reads, len(fixed) + len(varying))
    bias = vector("output_bias")
    output = _plan_drive(kernels[-1].tocsc(), bias, (fixed, varying), dtype)
    network = _NetworkPlan(structure, len(bias), constants, feature_plans, tuple(layers), output)
    groups = [group for decomposition in decompositions for group in decomposition.groups]
    turn = math.lcm(*(group.stride for group in groups))
    return Prepared(
        network,
        tuple(decompositions),
        tuple(starts),
        width,
        max((group.members.shape[1] for group in groups), default=1),
        turn if turn <= _LONGEST_TURN else 1,
        all(group.kind != "in_order" for group in groups),
    )


def _plan_features(
    features: np.ndarray,
    structure: NetworkStructure,
    matrix: Callable[[str], sparse.csr_array],
    bias: np.ndarray,
    dtype: jnp.dtype,
) -> tuple[jax.Array | None, tuple[_FeaturePlan, ...], np.ndarray, np.ndarray]:
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
        feature_maps: list[_Table | _Affine | None] = []
        for number in numbers:
            columns = sparse.csc_array(maps[number][:, places])
            if structure.inputs[number] == "table":
                feature_maps.append(_plan_table(columns.toarray(), dtype))
            else:
                feature_maps.append(_plan_affine(columns, dtype))
        plans.append(
            _FeaturePlan(numbers, tuple(feature_maps), _column(bias[features[places]], dtype))
        )
    fixed = features[constant]
    varying = features[[place for places in readers.values() for place in places]]
    constants = _column(bias[fixed], dtype, zero=True) if len(fixed) else None
    return constants, tuple(plans), fixed, varying


def _plan_layer(
    kernel: sparse.csr_array,
    recurrent: sparse.csr_array,
    bias: np.ndarray,
    structure: LayerStructure,
    bank: tuple[np.ndarray, np.ndarray],
    read: np.ndarray,
    uniform: bool,
    dtype: jnp.dtype,
) -> tuple[_LayerPlan, recurrence.Decomposition, np.ndarray, np.ndarray]:
    """Plan a layer, given the rows of the bank before; also lists those of the bank after."""
    by_unit = kernel.tocsc()
    driven = (np.diff(by_unit.indptr) > 0) | (bias != 0)
    varying = np.ones(len(bias), bool)
    if uniform:
        varying = np.diff(kernel[bank[1]].tocsc().indptr) > 0
    parts = recurrence.decompose(recurrent, driven, varying)

    heads: dict[bool, list[int]] = {False: [], True: []}
    groups = []
    for group in parts.groups:
        units = group.members[:, 0]
        drive = None
        if group.driven:
            start = len(heads[group.varying])
            heads[group.varying].extend(units.tolist())
            drive = (start, start + len(units))
        groups.append(_plan_group(group, parts, drive, dtype))
    drives = []
    for half in (False, True):
        units = np.array(heads[half], np.int64)
        signs = parts.sign[units]
        columns = sparse.csc_array(by_unit[:, units] @ sparse.diags_array(signs.astype(float)))
        drives.append(_plan_drive(columns, bias[units] * signs, bank, dtype))

    # A unit without memory is only read later where another unit of the layer reads it.
    for number, planned in enumerate(groups):
        read_later = any(
            piece.group == number
            for other in groups
            for piece in (*other.fixed_reads, *other.varying_reads)
        )
        memory = planned.kind != "feed" or parts.groups[number].members.shape[1] > 1
        groups[number] = dataclasses.replace(planned, remembered=memory or read_later)

    left = np.asarray(structure.left, np.int64)[read]
    right = np.asarray(structure.right, np.int64)[read]
    relu = np.asarray(structure.relu, bool)[read]
    unit_varying = np.array([group.varying for group in parts.groups], bool)[parts.group]
    output_varying = unit_varying[left] | (unit_varying[right] & (right >= 0))
    plans, ordered = [], []
    for half in (False, True):
        places = np.flatnonzero(output_varying == half)
        units = left[places]
        keys = (parts.row[units], parts.lag[units], parts.group[units], right[places] >= 0)
        places = places[np.lexsort(keys)]
        ordered.append(read[places])
        plans.append(_plan_outputs(parts, left[places], right[places], relu[places]))
    return (
        _LayerPlan(tuple(groups), drives[0], drives[1], plans[0], plans[1]),
        parts,
        ordered[0],
        ordered[1],
    )


def _plan_group(
    group: recurrence.Group,
    parts: recurrence.Decomposition,
    drive: tuple[int, int] | None,
    dtype: jnp.dtype,
) -> _GroupPlan:
    """Plan one group: what it reads of other groups, one token ago, and its own kernel."""
    sources = group.sources
    signs = sparse.diags_array(parts.sign[sources].astype(np.float64))
    kernel = sparse.csr_array(signs @ group.source_kernel)
    places = np.stack([parts.group[sources], parts.row[sources], parts.lag[sources] + 1])
    places, kernel = _merge_windows(places, kernel)
    order = np.lexsort((places[1], places[2], places[3], places[0]))  # rows of a lag together
    places, kernel = places[:, order], kernel[order]
    varying = np.array([parts.groups[number].varying for number in places[0]], bool)
    reads, maps = [], []
    for half in (False, True):
        reads.append(_pieces(*places[:, varying == half]))
        maps.append(_plan_affine(sparse.csc_array(kernel[varying == half]), dtype))
    powers = own = None
    if group.kind == "decay":
        powers = on_device(recurrence.decay_powers(np.asarray(group.kernel)), dtype)
    elif group.kind == "in_order":
        own = _plan_affine(sparse.csc_array(group.kernel), dtype)
    return _GroupPlan(
        kind=group.kind,
        varying=group.varying,
        rows=len(group.members),
        remembered=True,
        stride=group.stride,
        sign=group.sign,
        drive=drive,
        fixed_reads=reads[0],
        varying_reads=reads[1],
        reads=_BankAffine(maps[0], maps[1], None, ()),
        powers=powers,
        kernel=own,
    )


def _merge_windows(
    places: np.ndarray, kernel: sparse.csr_array
) -> tuple[np.ndarray, sparse.csr_array]:
    """Make one source of the taps of a register that are read alike, as window sums read them.

    Args:
      places: (3, sources), the group, row and lag of each.
      kernel: (sources, rows).

    Returns:
      (4, fewer sources), with the span of each, and its kernel.
    """
    order = np.lexsort((places[2], places[1], places[0]))
    places, kernel = places[:, order], kernel[order]
    kernel.sort_indices()
    starts: list[int] = []
    spans: list[int] = []
    for number in range(len(order)):
        here = slice(kernel.indptr[number], kernel.indptr[number + 1])
        if starts:
            before = slice(kernel.indptr[number - 1], kernel.indptr[number])
            if (
                (places[:, number] - places[:, number - 1] == [0, 0, 1]).all()
                and np.array_equal(kernel.indices[here], kernel.indices[before])
                and np.array_equal(kernel.data[here], kernel.data[before])
            ):
                spans[-1] += 1
                continue
        starts.append(number)
        spans.append(1)
    return np.vstack([places[:, starts], np.array([spans], np.int64)]), kernel[starts]


def _plan_drive(
    columns: sparse.csc_array,
    bias: np.ndarray,
    bank: tuple[np.ndarray, np.ndarray],
    dtype: jnp.dtype,
) -> _BankAffine:
    """Plan an affine map of a bank whose rows are the given rows of the kernel."""
    by_row = columns.tocsr()
    fixed, varying = (_plan_affine(sparse.csc_array(by_row[rows]), dtype) for rows in bank)
    return _BankAffine(fixed, varying, _column(bias, dtype), tuple((bias != 0).tolist()))


def _plan_outputs(
    parts: recurrence.Decomposition,
    left: np.ndarray,
    right: np.ndarray,
    relu: np.ndarray,
) -> _OutputPlan:
    """Plan outputs that are in order, products last."""

    def pieces(units: np.ndarray) -> tuple[_Piece, ...]:
        return _pieces(parts.group[units], parts.row[units], parts.lag[units])

    product = right >= 0
    sign = parts.sign[left] * np.where(product, parts.sign[right], 1)
    return _OutputPlan(
        plain=pieces(left[~product]),
        left=pieces(left[product]),
        right=pieces(right[product]),
        sign=tuple(sign.tolist()),
        relu=tuple(relu.tolist()),
    )


def _column(values: np.ndarray, dtype: jnp.dtype, zero: bool = False) -> jax.Array | None:
    """(rows, 1, 1, 1); None if all are 0, unless `zero`."""
    return on_device(values[:, None, None, None], dtype) if zero or values.any() else None


# ---------------------------------------------------------------- chunks


def _run_chunk(
    plan: _NetworkPlan,
    carry: tuple[tuple[jax.Array, ...], ...],
    inputs: tuple[jax.Array | None, ...],
    valid: jax.Array,
    shape: _Shape,
    whole: bool,
) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], ...]]:
    return plan(carry, inputs, valid, shape, whole)


_STATIC_NAMES = ("shape", "whole")
_chunk = jax.jit(_run_chunk, static_argnames=_STATIC_NAMES)
# Operations of a chunk are too small to share among threads; whole chunks are not.
_chunk_on_one_core = jax.jit(
    _run_chunk,
    static_argnames=_STATIC_NAMES,
    compiler_options={"xla_cpu_multi_thread_eigen": False},
)


@functools.partial(jax.jit, static_argnums=1)
def _turned(signals: tuple[jax.Array | None, ...], shape: _Shape) -> tuple[jax.Array | None, ...]:
    """Turn (b, time) or (b, time, width) into (1 or width, t, s, b).

    In a call of its own: within the other, XLA would do so again wherever a value is read.
    """

    def turn(signal: jax.Array) -> jax.Array:
        cut = signal.reshape(shape.batch, shape.segments, shape.tokens, -1)
        return jnp.transpose(cut, (3, 2, 1, 0))

    return jax.tree.map(turn, signals)


_LONGEST_PIECE = 16


@functools.partial(jax.jit, static_argnums=1)
def _turned_back(values: jax.Array, shape: _Shape) -> jax.Array:
    """Turn (outputs, t, s, b) into (pieces, s, b, tokens of a piece, outputs).

    Turned over at once, each value would lie far from the next, in the same few lines of the cache.
    Pieces stay near, and are put in their places as they are fetched.
    """
    piece = max(size for size in range(1, _LONGEST_PIECE + 1) if shape.tokens % size == 0)
    cut = values.reshape(values.shape[0], -1, piece, shape.segments, shape.batch)
    return jnp.transpose(cut, (1, 3, 4, 2, 0))


_CPU_VALUES = 2**20  # rows * batch * tokens of a stack; what a loop runs over fits a cache
_ACCELERATOR_VALUES = 2**26
# A step of a loop on a CPU costs as much as to add up some hundred values; on an accelerator, more.
_CPU_LANES = 256
_ACCELERATOR_LANES = 2**16
_LEAST_TOKENS = 512  # prefer fewer sequences a chunk to fewer tokens
_LEAST_SHARED = 2**20  # rows * batch * tokens: for fewer, a second thread costs more than it saves
_LEAST_SEGMENT = 16
_LONGEST_TURN = 64


def _bucket(count: int, least: int = 1) -> int:
    """Round up to one of eight sizes an octave, so that few shapes are ever compiled."""
    count = max(count, least)
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


@dataclass(frozen=True)
class _Tiling:
    """How a run is cut: chunks of a shape, on `threads` threads."""

    shape: _Shape
    threads: int

    @property
    def rows(self) -> int:
        """Sequences of a chunk."""
        return self.shape.batch

    @property
    def tokens(self) -> int:
        """Tokens of a chunk."""
        return self.shape.segments * self.shape.tokens


def _tile(batch: int, tokens: int, prepared: Prepared, chunk: int | None) -> _Tiling:
    on_cpu = jax.default_backend() == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    several = on_cpu and batch * tokens * prepared.width >= _LEAST_SHARED
    threads = min(cores or 1, batch) if several else 1
    share = -(-batch // threads)
    values = _CPU_VALUES if on_cpu else _ACCELERATOR_VALUES
    lanes = _CPU_LANES if on_cpu else _ACCELERATOR_LANES
    positions = max(values // max(prepared.width, 1), 2048)
    longest = chunk or max(positions // share, _LEAST_TOKENS)
    longest = min(longest, tokens, recurrence.MOST_TOKENS)
    rows = min(max(positions // longest, 1), share)
    rows = _bucket(-(-share // -(-share // rows)))
    segments = 1
    if prepared.segments:
        segments = max(min(lanes // rows, longest // max(prepared.history, _LEAST_SEGMENT)), 1)
    if chunk is not None:
        return _Tiling(_Shape(longest // segments, segments, rows), threads)
    count = -(-tokens // longest)
    length = _bucket(-(-tokens // (count * segments)), least=min(_LEAST_SEGMENT, tokens))
    grain = math.lcm(prepared.turn, 8 if length >= _LONGEST_TURN else 1)
    length = -(-length // grain) * grain
    return _Tiling(_Shape(length, segments, rows), threads)


class PlanCache:
    """Plans for the parameters that a module last ran with.

    Plans follow from the parameters, so for flax every cache is equal: a module with another one is
    the same module.

    Attributes:
      parameters: the very arrays that the plans are for.
      plans: by `uniform`.
    """

    def __init__(self) -> None:
        self.parameters: Parameters = {}
        self.plans: dict[bool, Prepared] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanCache)

    def __hash__(self) -> int:
        return hash(PlanCache)

    def __deepcopy__(self, memo: object) -> "PlanCache":
        return PlanCache()

    def find(self, parameters: Parameters, structure: NetworkStructure, uniform: bool) -> Prepared:
        """Plan anew if any parameter is another array than last time.

        Args:
          parameters: concrete, by flat name. Arrays of jax never change in place; if any is another
            array, plans are not kept.
          structure: of the network.
          uniform: every sequence starts in the same state.

        Returns:
          The plan.
        """
        known = self.parameters
        if known.keys() != parameters.keys() or any(
            value is not known[name] or not isinstance(value, jax.Array)
            for name, value in parameters.items()
        ):
            self.parameters, self.plans = parameters, {}
        if uniform not in self.plans:
            self.plans[uniform] = prepare(parameters, structure, uniform)
        return self.plans[uniform]


def run_tiles(
    prepared: Prepared,
    inputs: Sequence[Any],
    state: State | None,
    chunk: int | None,
    with_state: bool,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Run whole sequences.

    Args:
      prepared: the plan.
      inputs: per program input, ids (batch, time) or vectors (batch, time, width).
      state: per layer (batch, hidden); None for the initial state.
      chunk: most tokens at a time, or None.
      with_state: whether the last state is wanted.

    Returns:
      (batch, time, outputs), and per layer (batch, hidden) if wanted, else nothing.
    """
    plan, structure = prepared.plan, prepared.plan.structure
    batch, tokens = np.shape(inputs[0])[:2]
    outputs = np.empty((batch, tokens, plan.num_outputs), jnp.dtype(structure.dtype))
    starts = prepared.starts
    if state is not None:
        # Without layers a state only tells the batch.
        layers = state[: len(structure.layers)]
        starts = tuple(np.asarray(values).astype(structure.compute_dtype) for values in layers)
    finals = [np.broadcast_to(start, (batch, start.shape[1])).copy() for start in starts]
    if batch == 0 or tokens == 0:
        return outputs, finals
    tiling = _tile(batch, tokens, prepared, chunk)
    function = _chunk_on_one_core if jax.default_backend() == "cpu" else _chunk
    # What is not read is not sent.
    arrays = [
        np.asarray(x) if kind else None for x, kind in zip(inputs, structure.inputs, strict=True)
    ]
    first = prepared.first_carry(tiling.rows) if state is None else None
    (device,) = jnp.zeros(()).devices()

    def cut(array: np.ndarray | None, row: int, time: int) -> np.ndarray | None:
        if array is None:
            return None
        part = array[row : row + tiling.rows, time : time + tiling.tokens]
        integral = np.issubdtype(part.dtype, np.integer)
        dtype = np.int32 if integral else structure.compute_dtype
        if part.shape[:2] == (tiling.rows, tiling.tokens):
            return part.astype(dtype, copy=False)
        filled = np.zeros((tiling.rows, tiling.tokens, *part.shape[2:]), dtype)
        filled[: part.shape[0], : part.shape[1]] = part
        return filled

    def store(row: int, time: int, values: jax.Array) -> None:
        place = outputs[row : row + tiling.rows, time : time + tiling.tokens]
        pieces = np.asarray(values).transpose(2, 1, 0, 3, 4)
        whole = pieces.reshape(tiling.rows, tiling.tokens, -1)
        place[...] = whole[: place.shape[0], : place.shape[1]]

    def run_rows(row: int) -> None:
        rows = slice(row, row + tiling.rows)
        carry: Any = first
        if carry is None:
            carry = prepared.carry([start[rows] for start in starts], tiling.rows)
        waiting = None
        # Modes of jax hold in one thread.
        with precision(structure.dtype), jax.default_device(device):
            for time in range(0, tokens, tiling.tokens):
                valid = np.int32(min(tiling.tokens, tokens - time))
                parts = tuple(cut(array, row, time) for array in arrays)
                parts = _turned(parts, tiling.shape)
                values, carry = function(
                    plan, carry, parts, valid, shape=tiling.shape, whole=with_state
                )
                # Fetch a chunk while the next one runs.
                if waiting is not None:
                    store(*waiting)
                waiting = row, time, _turned_back(values, tiling.shape)
            if waiting is not None:
                store(*waiting)
        if with_state:
            for final, last in zip(finals, prepared.state(carry, tiling.rows), strict=True):
                final[rows] = last[: len(final[rows])]

    starting_rows = range(0, batch, tiling.rows)
    if tiling.threads == 1:
        for row in starting_rows:
            run_rows(row)
    else:
        with ThreadPoolExecutor(tiling.threads) as pool:
            list(pool.map(run_rows, starting_rows))
    return outputs, finals if with_state else []
