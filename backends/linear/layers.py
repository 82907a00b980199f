"""A layer over a chunk of time: its groups of units, what they read of each other, its outputs.

Arrays are (rows, time, segments, batch), as `lsrl.backends.linear.recurrence` runs them; what a
group was before the chunk is its history.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import multiplied
from lsrl.backends.linear.decomposition import GroupKind
from lsrl.backends.linear.maps import (
    STATIC,
    Affine,
    Bank,
    BankAffine,
    BlockRows,
    broadcast,
    pytree,
    sum_rows,
)

# What a chunk hands to the next: nothing, what later tokens read, or the whole state.
Handed = Literal["nothing", "read", "whole"]

Rounding = Callable[[jax.Array], jax.Array]  # to the dtype of the model

_WINDOWS = 8  # beyond this many slices of a group, one gather compiles faster


# ---------------------------------------------------------------- what groups read


class Shape(NamedTuple):
    """Of a chunk: time is `segments` times `tokens`.

    Attributes:
      tokens: of a segment.
      segments: side by side.
      batch: sequences.
      time_first: whether arrays lie in memory as their axes are told, as loops over time want them,
        or as users have them, batch first and time last.
    """

    tokens: int
    segments: int
    batch: int
    time_first: bool

    @property
    def length(self) -> int:
        """Tokens of all segments."""
        return self.segments * self.tokens


@dataclass(frozen=True)
class Piece:
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


@dataclass(eq=False)
class _Track:
    """The values of a group in one chunk.

    Attributes:
      sequence: the heads, (rows, t, s, b).
      history: (rows, history, b), the heads before the chunk, oldest first.
      valid: tokens of the chunk that count.
    """

    sequence: BlockRows
    history: jax.Array
    valid: jax.Array
    shape: Shape
    _padded: BlockRows | None = None

    @property
    def padded(self) -> BlockRows:
        """(rows, history + t, s, b): what came before each segment, and the segment."""
        if self._padded is None:
            blocks, start, count = [], 0, self.history.shape[1]
            for block in self.sequence.blocks:
                before = self.history[start : start + block.shape[0], :, None]
                if block.shape[2] > 1:
                    ends = block[:, block.shape[1] - count :, :-1]
                    before = jnp.concatenate([before, ends], axis=2)
                # A branch takes and gives arrays in the order of their axes.
                order = (0, 1, 2, 3) if self.shape.time_first else (0, 3, 2, 1)
                turned = [jnp.transpose(part, order) for part in (before, block)]
                joined = partial(jnp.concatenate, turned, axis=order.index(1))
                blocks.append(jnp.transpose(recurrence.kept(joined, self.valid > 0), order))
                start += block.shape[0]
            self._padded = BlockRows(blocks)
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
        return recurrence.kept(partial(jnp.concatenate, cut), valid > 0)

    def read(self, piece: Piece) -> BlockRows:
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

            return BlockRows([jax.vmap(window)(rows, starts)])
        values = self.sequence
        if piece.lags or piece.span > 1:
            start = history - piece.lags - piece.span + 1
            values = self.padded.map(
                lambda block: block[:, start : start + tokens + piece.span - 1]
            )
        if isinstance(piece.rows, range):
            values = values.part(piece.rows)
        elif len(values.blocks) > 1:
            values = BlockRows(values.row(row) for row in piece.rows)
        else:
            numbers = np.asarray(piece.rows)
            values = BlockRows([values.blocks[0].at[numbers].get(mode="promise_in_bounds")])
        if piece.span > 1:
            values = values.map(lambda block: recurrence.window_sum(block, piece.span))
        return values


def pieces(
    group: np.ndarray, row: np.ndarray, lag: np.ndarray, span: np.ndarray | None = None
) -> tuple[Piece, ...]:
    """Describe how to stack rows, in the order given."""
    if len(group) == 0:
        return ()
    span = np.ones_like(lag) if span is None else span
    pieces = []
    for run in _runs(group, span):
        same_lag = [run[part] for part in _runs(lag[run])]
        number, tokens = int(group[run[0]]), int(span[run[0]])
        if len(same_lag) > _WINDOWS and tokens == 1:
            pieces.append(Piece(number, tuple(row[run].tolist()), tuple(lag[run].tolist())))
            continue
        for part in same_lag:
            rows: range | tuple[int, ...] = tuple(row[part].tolist())
            if rows == tuple(range(rows[0], rows[0] + len(rows))):
                rows = range(rows[0], rows[0] + len(rows))
            pieces.append(Piece(number, rows, int(lag[part[0]]), tokens))
    return tuple(pieces)


def _runs(*keys: np.ndarray) -> list[np.ndarray]:
    """Cut places 0, 1, … where any key changes."""
    changes = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        changes |= np.diff(key) != 0
    return np.split(np.arange(len(keys[0])), np.flatnonzero(changes) + 1)


def _read(tracks: Sequence[_Track], pieces: Sequence[Piece]) -> BlockRows | None:
    """The rows of all pieces, each (t, s, 1 or b)."""
    if not pieces:
        return None
    return BlockRows(block for piece in pieces for block in tracks[piece.group].read(piece).blocks)


# ---------------------------------------------------------------- a layer


@pytree
@dataclass(frozen=True)
class GroupPlan:
    """One group of decomposition.Decomposition."""

    kind: GroupKind = field(metadata=STATIC)
    varying: bool = field(metadata=STATIC)
    rows: int = field(metadata=STATIC)
    remembered: bool = field(metadata=STATIC)  # whether the next chunk needs its history
    stride: int = field(metadata=STATIC)
    sign: int = field(metadata=STATIC)
    drive: tuple[int, int] | None = field(metadata=STATIC)  # its rows in the layer's drive
    # What every token adds to rings of stride 1, where that is a small whole number; then no drive.
    counter: tuple[int, ...] | None = field(metadata=STATIC)
    fixed_reads: tuple[Piece, ...] = field(metadata=STATIC)
    varying_reads: tuple[Piece, ...] = field(metadata=STATIC)
    reads: BankAffine
    powers: jax.Array | None  # of a decay
    kernel: Affine | None  # of an in-order group

    @property
    def num_reads(self) -> int:
        """Rows that it reads of other groups."""
        return sum(len(piece.rows) for piece in (*self.fixed_reads, *self.varying_reads))

    def __call__(
        self,
        drive: BlockRows | None,
        tracks: Sequence[_Track],
        history: jax.Array,
        shape: Shape,
        valid: jax.Array,
        rounded: Rounding,
    ) -> _Track:
        """Run a chunk; see _Track."""
        terms = []
        if drive is not None and self.drive is not None:
            terms.append(drive.part(range(*self.drive)))
        bank = Bank(_read(tracks, self.fixed_reads), _read(tracks, self.varying_reads))
        read = self.reads(bank)
        if read is not None:
            terms.append(read)
        batch = shape.batch if self.varying else 1
        if self.counter is not None:
            return self._counted(history, valid, shape, rounded)
        if not terms and self.kind == "ring":
            past = history[:, history.shape[1] - self.stride :]
            turning = recurrence.periodic(past, self.sign, shape.length)
            cut = turning.reshape(self.rows, shape.segments, shape.tokens, batch)
            return _Track(BlockRows([jnp.moveaxis(cut, 1, 2)]), history, valid, shape)
        if not terms:
            terms.append(BlockRows([jnp.zeros((self.rows, 1, 1, 1), history.dtype)]))
        inputs = broadcast(sum_rows(terms), shape.tokens, shape.segments, batch)
        if self.kind == "feed":
            return _Track(inputs.map(rounded), history, valid, shape)
        if self.kind == "ring":
            count = history.shape[1]
            past = history[:, count - self.stride :]
            summed = rounded(recurrence.ring_sum(inputs.stacked(), past, self.sign, valid > 0))
            padded = BlockRows([summed]) if count == self.stride else None
            return _Track(BlockRows([summed[:, self.stride :]]), history, valid, shape, padded)
        sequence = self._summed(inputs.stacked(), history, rounded)
        return _Track(BlockRows([rounded(sequence)]), history, valid, shape)

    def _counted(
        self, history: jax.Array, valid: jax.Array, shape: Shape, rounded: Rounding
    ) -> _Track:
        """A sum of the same number at every token needs no loop."""
        steps = jnp.asarray(self.counter, history.dtype)[:, None, None, None]
        segment = jnp.arange(shape.segments, dtype=history.dtype)[None, None, :, None]
        time = jnp.arange(shape.tokens + 1, dtype=history.dtype)[None, :, None, None]
        counts = steps * (time + segment * shape.tokens)
        padded = BlockRows([rounded(history[:, :, None] + counts)])
        sequence = padded.map(lambda block: block[:, 1:])
        return _Track(sequence, history, valid, shape, padded)

    def _summed(self, inputs: jax.Array, history: jax.Array, rounded: Rounding) -> jax.Array:
        """(rows, t, s, b), of a group with memory that is no ring."""
        last = history[:, -1]
        if self.kind == "decay" and self.powers is not None:
            return recurrence.decaying_sum(inputs, last, self.powers)
        if self.kind == "rotation":
            return recurrence.rotation(inputs, last, self.sign)

        def advance(hidden: jax.Array) -> jax.Array:
            if self.kernel is None:
                return jnp.zeros_like(hidden)
            # A matrix takes rows with an axis for time.
            return self.kernel(BlockRows([hidden[:, None]])).stacked()[:, 0]

        return recurrence.in_order(inputs, last, advance, rounded)


@pytree
@dataclass(frozen=True)
class OutputPlan:
    """Outputs of a layer that the next one reads: plain ones first, then products."""

    plain: tuple[Piece, ...] = field(metadata=STATIC)
    left: tuple[Piece, ...] = field(metadata=STATIC)
    right: tuple[Piece, ...] = field(metadata=STATIC)
    sign: tuple[int, ...] = field(metadata=STATIC)  # 1 or -1 a row
    relu: tuple[bool, ...] = field(metadata=STATIC)  # a row

    def __call__(self, tracks: Sequence[_Track], rounded: Rounding) -> BlockRows | None:
        """Rows of (t, s, 1 or b); None for no rows."""
        plain, left, right = (_read(tracks, part) for part in (self.plain, self.left, self.right))
        blocks = list(plain.blocks) if plain is not None else []
        if left is not None and right is not None:
            pairs = [(left.row(number), right.row(number)) for number in range(len(left))]
            if len(left) > _WINDOWS:
                pairs = [(left.stacked(), right.stacked())]
            blocks.extend(multiplied(one, other, rounded) for one, other in pairs)
        if not blocks:
            return None
        done, start = [], 0
        for block in blocks:
            rows = slice(start, start + block.shape[0])
            done.append(_finished(block, self.sign[rows], self.relu[rows]))
            start = rows.stop
        return BlockRows(done)


def _finished(block: jax.Array, sign: tuple[int, ...], relu: tuple[bool, ...]) -> jax.Array:
    """Turn rows with the sign -1 over, and cut those with a ReLU off at 0."""

    def column(values: ArrayLike) -> jax.Array:
        return jnp.asarray(values, block.dtype)[:, None, None, None]

    if len(set(sign)) > 1:
        block = block * column(sign)
    elif sign[0] < 0:
        block = -block
    if not any(relu):
        return block
    floor = 0.0 if all(relu) else column(np.where(relu, 0.0, -np.inf))
    return jnp.maximum(block, floor)


@pytree
@dataclass(frozen=True)
class LayerPlan:
    """One layer: the drive of its groups, the groups, the outputs that are read."""

    groups: tuple[GroupPlan, ...]
    fixed_drive: BankAffine
    varying_drive: BankAffine
    fixed_outputs: OutputPlan
    varying_outputs: OutputPlan

    def __call__(
        self,
        bank: Bank,
        carry: tuple[jax.Array, ...],
        shape: Shape,
        valid: jax.Array,
        handed: Handed,
        rounded: Rounding,
    ) -> tuple[Bank, tuple[jax.Array, ...]]:
        """Run a chunk; carry holds per group (rows, history, 1 or batch).

        Unless the whole state is handed on, what no later token reads stays as it was.
        """
        drives = {False: self.fixed_drive(bank), True: self.varying_drive(bank)}
        tracks: list[_Track] = []
        for group, history in zip(self.groups, carry, strict=True):
            drive = drives[group.varying]
            tracks.append(group(drive, tracks, history, shape, valid, rounded))
        outputs = Bank(self.fixed_outputs(tracks, rounded), self.varying_outputs(tracks, rounded))
        if handed == "nothing":
            return outputs, ()
        after = [
            track.last() if handed == "whole" or group.remembered else track.history
            for group, track in zip(self.groups, tracks, strict=True)
        ]
        return outputs, tuple(after)
