"""The ops that tell what a cell of a memory holds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, final

import numpy as np

from lsrl.errors import ShapeError
from lsrl.ir import bounds
from lsrl.ir import groups as exclusion
from lsrl.ir.arithmetic import Values
from lsrl.ir.bounds import Facts
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops.base import (
    Extent,
    Memory,
    Operands,
    Pledge,
    Pointwise,
    Stateful,
    adds_nothing,
    holds_at_once,
)

# The first address of some cells, and the one behind the last.
Segments = tuple[tuple[int, int], ...]


@final
@dataclass(frozen=True, slots=True)
class Recall(Stateful):
    """What the wanted cell of a memory holds, this token's write included; 0 where none is wanted.

    Operands are written (n,), integers of which at most one is 1 and the others are 0 or less;
    value (m,); and wanted (n,), of the same kind as written. The value (m,) is the operand `value`
    of the last token, up to this one, at which the cell that is wanted now was written, and else
    what it holds initially:

        cells[written] = value;  y = cells[wanted]

    It is what passes make of reads of a memory for targets with an associative state: one delta
    rule with the key relu(written), which is 0 where nothing is written, and the query
    relu(wanted). Those that passes make start at 0.
    """

    initial: Values  # (n · m,), what the cells hold, one cell after another

    sums = adds_nothing
    settled = holds_at_once  # it takes what may come at the first token

    def width_of(self, widths: Sequence[int]) -> int:
        """Written and wanted, a channel a cell, and between them a value of any width."""
        cells = widths[0] if len(widths) == 3 else 0
        if not cells or widths[2] != cells or len(self.initial) != cells * widths[1]:
            raise ShapeError(
                "recall: expected which cell is written, a value, and which cell is wanted, the "
                "first and the last with a channel a cell, and initial values of all cells, got "
                f"widths {widths} and {len(self.initial)} initial values"
            )
        return widths[1]

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of the value, the initial ones and 0."""
        width = operands[1].width
        start = np.vstack([np.zeros(width), np.reshape(self.initial, (-1, width))])
        hull = operands[1].join(bounds.table_facts(Matrix(start)))
        return replace(hull, groups=exclusion.NONE)

    def start(self, extent: Extent) -> Memory:
        """What the cells hold, (batch, n · m)."""
        return (extent.full(self.initial),)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The write, and then the read."""
        written, value, wanted = operands
        numbers, held = extent.numbers, memory[0]
        cells = held.reshape(*wanted.shape, value.shape[-1])
        cells = numbers.where((written == 1)[..., None], value[..., None, :], cells)
        found = numbers.where((wanted == 1)[..., None], cells, 0 * cells)
        return (cells.reshape(held.shape),), found.sum(-2)

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """Of each token's wanted cell the last write."""
        written, value, wanted = operands
        start = np.reshape(self.initial, (written.shape[-1], -1))
        return _last_written(_place(written), value, _place(wanted), start, extent)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """What is written and wanted."""
        return Pledge("writes and reads at most one cell at a token", None)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Tokens at which more than one cell is written, or wanted."""
        space = extent.numbers.namespace
        wrong = space.zeros(extent.shape, bool)
        for row in operands[::2]:
            wrong |= ((row > 1) | (row % 1 != 0)).any(-1) | ((row == 1).sum(-1) > 1)
        return cast(Array, space.broadcast_to(wrong[..., None], value.shape))


def _place(one_hot: Array) -> Array:
    """(batch, time) int, which channel is 1; -1 where none is."""
    hit = one_hot == 1
    return np.where(hit.any(-1), hit.argmax(-1), -1)


def _last_written(
    written: Array, value: Array, wanted: Array, initial: Array, extent: Extent
) -> Array:
    """What cells hold.

    Args:
      written: (batch, time) int, the cell that each token writes; -1 for none.
      value: (batch, time, width), what it writes.
      wanted: (batch, time) int, the cell that is read behind the write; -1 for none.
      initial: (cells, width), before any write.
      extent: of the same.

    Returns:
      (batch, time, width); 0 where no cell is wanted.
    """
    (batch, time), cells = extent.shape, len(initial)
    # A cell of a sequence at a token, as one number; writes in the order of these.
    sequence, token = np.arange(batch)[:, None] * cells, np.arange(time)
    writes, reads = ((sequence + cell) * time + token for cell in (written, wanted))
    made = np.flatnonzero(written.ravel() >= 0)
    made = made[np.argsort(writes.ravel()[made])]
    last = np.searchsorted(writes.ravel()[made], reads.ravel(), side="right") - 1
    places = made[last] if len(made) else np.zeros(batch * time, int)
    same = (last >= 0) & (writes.ravel()[places] // time == reads.ravel() // time)
    start = extent.numbers.given(initial)[wanted.ravel()]
    flat = np.where(same[:, None], value.reshape(batch * time, -1)[places], start)
    flat[wanted.ravel() < 0] = 0
    return np.asarray(flat).reshape(value.shape)


@final
@dataclass(frozen=True, slots=True)
class Read(Pointwise):
    """The last of its operands, and that it is what a memory holds.

    Operands are the address where this token writes, the value (m,) and whether it writes; the
    address where words are read, and whether they are; and the words (k · m,), one after another,
    as other ops make them of cells: what the cells at k addresses from the one that is read hold
    behind the write, 0 where there is no cell. Passes take the words as they are, or make `Recall`
    of the rest. That both are the same is a theorem of whoever made the op.
    """

    segments: Segments  # where there are cells, ascending and apart
    initial: Values  # (cells · m,), what they hold before they are written

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """The words'; an address and a condition have width 1."""
        cells = sum(int(end - start) for start, end in self.segments)
        flags = len(widths) == 6 and all(widths[k] == 1 for k in (0, 2, 3, 4))
        if not flags or widths[5] % widths[1] or len(self.initial) != cells * widths[1]:
            raise ShapeError(
                f"read: expected an address, a value and a condition of a write, an address and a "
                f"condition of a read, and words as wide as values, of {cells} cells with "
                f"{len(self.initial)} initial values, got widths {widths}"
            )
        return widths[5]

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Those of the words."""
        return operands[5]

    def value(self, operands: Operands, extent: Extent) -> Array:
        """The words."""
        return operands[5]

    def cells(self, addresses: Array) -> Array:
        """The number of the cell at each address, int; -1 where there is none."""
        found, before = np.full(addresses.shape, -1), 0
        for start, end in self.segments:
            inside = (addresses >= start) & (addresses < end)
            found[inside] = addresses[inside].astype(np.int64) - int(start) + before
            before += int(end - start)
        return found

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """What the words are."""
        return Pledge("is what its memory holds", None)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Where a memory would hold something else; of one token nothing is known."""
        address, written, writes, start, opens, words = operands
        if len(extent.shape) < 2 or extent.numbers.traced:
            return np.zeros(value.shape, dtype=bool)
        width = written.shape[-1]
        initial = np.reshape(self.initial, (-1, width))
        target = np.where(writes[..., 0] == 1, self.cells(address[..., 0]), -1)
        wrong = []
        for word in range(words.shape[-1] // width):
            wanted = np.where(opens[..., 0] == 1, self.cells(start[..., 0] + word), -1)
            held = _last_written(target, written, wanted, initial, extent)
            wrong.append(held != words[..., word * width : (word + 1) * width])
        return np.concatenate(wrong, axis=-1)
