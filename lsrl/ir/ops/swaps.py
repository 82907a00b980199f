"""The op that moves items between points by swaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from lsrl.errors import ShapeError
from lsrl.ir import bounds
from lsrl.ir.bounds import Facts
from lsrl.ir.numbers import Array
from lsrl.ir.ops.base import (
    Extent,
    Keeper,
    Memory,
    Operands,
    Pledge,
    Stateful,
    adds_nothing,
    holds_at_once,
    same_width,
)


@final
@dataclass(frozen=True, slots=True)
class SwapState(Stateful):
    """Items on points, as many of each: what each item's point reads, before this token's swap.

    Operands are swap (n,) and read (n,), on the points; the value (n,) is one number an item:

        y_t[j] = sign_{t-1}(j) · read_t[place_{t-1}(j)]

    Then the swap is carried out: where it is 1, at no point or two, the items change places, and
    both change their signs, as by the reflection I - k kᵀ of k = f_i + f_j: f_i becomes -f_j. Item
    j starts at point j with the sign 1. Who wants the value behind the swap folds the swap into
    `read`; who wants it without its sign takes relu(y) + relu(-y).
    """

    points: int  # n
    keeper: Keeper = "program"  # of the promises about swap and read

    sums = adds_nothing
    settled = holds_at_once  # the numbers are those of any length

    def width_of(self, widths: Sequence[int]) -> int:
        """Swap and read, a channel a point."""
        if same_width("swap state", widths, 2) != self.points:
            raise ShapeError(
                f"swap state: expected two operands of width {self.points}, a channel a point, got "
                f"widths {widths}"
            )
        return self.points

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Integers from -n to n, by the promise about what is read."""
        most = np.full(self.points, float(self.points))
        return bounds.facts(-most, most, np.ones(self.points))

    def start(self, extent: Extent) -> Memory:
        """(batch, n) int: on each point the number of its item, from 1, negative with its sign."""
        numbers = np.arange(1, self.points + 1)
        return (extent.numbers.namespace.broadcast_to(numbers, (*extent.shape, self.points)),)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """What each item's point reads, and the items behind the swap."""
        (items,), (swap, read) = memory, operands
        other, sign = self._moves(swap, extent)
        moved = extent.numbers.namespace.take_along_axis(items, other, -1) * sign
        return (moved,), self._read(items, read, extent)

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The items before every token, and then all that is read at once."""
        swap, read = operands
        batch, time = extent.shape
        other, sign = self._moves(swap, extent)
        items = np.empty((time, batch, self.points), dtype=np.int64)
        (now,) = self.start(extent.token)
        rows = np.arange(batch)[:, None]
        for t in range(time):
            items[t] = now
            now = now[rows, other[:, t]] * sign[:, t]
        return self._read(items.swapaxes(0, 1), read, extent)

    def _points(self, extent: Extent) -> Array:
        """(1, ..., n), the numbers of points, with as many axes as a value."""
        return np.arange(self.points).reshape(*[1] * len(extent.shape), self.points)

    def _moves(self, swap: Array, extent: Extent) -> tuple[Array, Array]:
        """The point that each point's next item comes from, and the sign that it takes on."""
        space = extent.numbers.namespace
        marked = swap == 1
        points = self._points(extent)
        first = space.argmax(marked, -1)[..., None]
        last = self.points - 1 - space.argmax(marked[..., ::-1], -1)[..., None]
        swaps = marked.sum(-1, keepdims=True) == 2
        ends = (points == first, points == last)
        other = space.where(ends[0], last, space.where(ends[1], first, points))
        moves = swaps & (ends[0] | ends[1])
        return space.where(moves, other, points), space.where(moves, -1, 1)

    def _read(self, items: Array, read: Array, extent: Extent) -> Array:
        space = extent.numbers.namespace
        signed = extent.numbers.where(items < 0, -read, read)
        places = space.argsort(abs(items), -1)
        return cast(Array, space.take_along_axis(signed, places, -1))

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """What swaps are, and what is read."""
        text = f"reads a swap of no point or two, and then 1 to {self.points} in some order"
        return Pledge(text, self.keeper, operands=2)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Tokens at which either is something else."""
        space, (swap, read) = extent.numbers.namespace, operands
        count = (swap == 1).sum(-1)
        wrong = ((swap != 0) & (swap != 1)).any(-1) | ((count != 0) & (count != 2))
        order = extent.numbers.given(self._points(extent) + 1.0)
        wrong |= (space.sort(read, -1) != order).any(-1)
        return cast(Array, space.broadcast_to(wrong[..., None], value.shape))
