"""The ops that remember: delays, clocks and states."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np

from lsrl.errors import ShapeError
from lsrl.ir import bounds, recurrence
from lsrl.ir import groups as exclusion
from lsrl.ir.arithmetic import Values
from lsrl.ir.bounds import Facts, Sums
from lsrl.ir.matrix import Matrix
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
    interval,
    same_width,
)

# A running maximum of more values than this is not told by whether each was reached.
MOST_HEIGHTS = 100


@final
@dataclass(frozen=True, slots=True)
class Periodic(Stateful):
    """Row t mod n of a table: a clock that reads no input."""

    table: Matrix  # (n, width)

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """No operands."""
        return self.table.columns

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Some row that comes up within the tokens."""
        return bounds.table_facts(self.table, tokens)

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """Once every row was there."""
        return tokens >= self.table.rows

    def start(self, extent: Extent) -> Memory:
        """Row 0."""
        return (extent.numbers.namespace.zeros(extent.shape, int),)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The row that is due, and the number of the next one."""
        (place,) = memory
        return ((place + 1) % self.table.rows,), extent.numbers.rows(self.table, place)

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """Rows in turn."""
        places = np.arange(extent.shape[1]) % self.table.rows
        rows = extent.numbers.rows(self.table, places)
        return np.broadcast_to(rows, (*extent.shape, self.table.columns))


@final
@dataclass(frozen=True, slots=True)
class Delay(Stateful):
    """x_{t-n}; `initial` at the first n tokens."""

    steps: int
    initial: Values  # (width,)

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        width = same_width("delay", widths, 1)
        if len(self.initial) != width:
            raise ShapeError(f"delay: expected {width} initial values, got {len(self.initial)}")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of the operand and the initial value."""
        start = bounds.constant_facts(np.array(self.initial))
        if tokens <= self.steps:
            return start
        value, nothing = operands[0], start.zero
        groups = exclusion.kept({
            ("delay", self.steps, root): np.where(nothing, members, -1)
            for root, members in value.groups
        })  # fmt: skip
        return replace(value.join(start), groups=groups)

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """Once the operand comes out."""
        return tokens > self.steps

    def start(self, extent: Extent) -> Memory:
        """(batch, steps, width): what comes out next, first."""
        line = extent.numbers.full(self.initial, (*extent.shape, self.steps))
        return (line,)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The operand joins the line, and the first of it comes out."""
        line = extent.numbers.joined([memory[0], operands[0][..., None, :]], -2)
        return (line[..., 1:, :],), line[..., 0, :]

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The operand moved along the time axis."""
        before = extent.full(self.initial)[:, : self.steps]
        kept = operands[0][:, : max(extent.shape[1] - self.steps, 0)]
        return np.concatenate([before, kept], axis=1)


class StateOp(Stateful):
    """An op whose value at a token is made of its value at the token before and its operands."""

    __slots__ = ()
    initial: Values  # (width,), the value before the first token

    @abstractmethod
    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """The value (batch, width) at a token, given that of the token before."""

    def start(self, extent: Extent) -> Memory:
        """The initial value."""
        return (extent.full(self.initial),)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The next value, which is what is remembered."""
        value = self.follow(memory[0], operands, extent)
        return (value,), value

    def resumed(self, memory: Memory, value: Array) -> Memory:
        """Another value in its place."""
        return value, *memory[1:]


def _square(name: str, matrix: Matrix, initial: Values, widths: Sequence[int]) -> int:
    if len(widths) != 1:
        raise ShapeError(f"{name}: expected one operand, got widths {widths}")
    if matrix.rows != matrix.columns or matrix.rows != widths[0]:
        raise ShapeError(
            f"{name}: expected A of shape ({widths[0]}, {widths[0]}) for an operand of width "
            f"{widths[0]}, got ({matrix.rows}, {matrix.columns})"
        )
    if len(initial) != matrix.rows:
        raise ShapeError(f"{name}: expected {matrix.rows} initial values, got {len(initial)}")
    return matrix.rows


def _fed_back_sums(transition: Matrix, state: Facts, update: Facts) -> Sums:
    """Condition P1 of A h + u, one row a unit."""
    weights = [transition, Matrix.identity(update.width)]
    return bounds.affine_sums(weights, np.zeros(update.width), [state, update])


def _written(value: Facts, initial: Values) -> Facts:
    """Facts of a memory that holds its initial value, or what it has taken."""
    hull = value.join(bounds.constant_facts(np.array(initial)))
    return replace(hull, groups=exclusion.NONE)


@final
@dataclass(frozen=True, slots=True)
class Latch(StateOp):
    """x at the one token where `when` is 1 and ever after; `initial` before."""

    initial: Values  # (width,)
    keeper: Keeper = "program"  # of the promise that there is at most one such token

    sums = adds_nothing
    settled = holds_at_once  # it takes what may come at the first token

    def width_of(self, widths: Sequence[int]) -> int:
        """Value of any width, and a condition of width 1."""
        if len(widths) != 2 or widths[1] != 1 or len(self.initial) != widths[0]:
            raise ShapeError(
                f"latch: expected a value, a condition of width 1 and as many initial values as "
                f"the value is wide, got widths {widths} and {len(self.initial)} initial values"
            )
        return widths[0]

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of the value and the initial value."""
        return replace(_written(operands[0], self.initial), once=True)

    def start(self, extent: Extent) -> Memory:
        """The initial value, and how often one was taken."""
        return extent.full(self.initial), extent.full((0.0,))

    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """What is taken is added."""
        value, when = operands
        return before + when * (value - extent.row(self.initial))

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The next value, and one more if it was taken at this token."""
        value = self.follow(memory[0], operands, extent)
        return (value, memory[1] + operands[1]), value

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The initial value plus what is taken."""
        value, when = operands
        start = extent.full(self.initial)
        return start + np.add.accumulate(when * (value - start), axis=1)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """At most one firing."""
        return Pledge("is latched at most once", self.keeper)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """From the second token on at which `when` is 1."""
        taken = memory[1] if memory else np.add.accumulate(operands[1], axis=1)
        return extent.numbers.namespace.broadcast_to(taken > 1, value.shape)


@final
@dataclass(frozen=True, slots=True)
class LinearState(StateOp):
    """s_t = A s_{t-1} + u_t, s_{-1} = initial."""

    transition: Matrix  # A, (width, width)
    initial: Values  # (width,)

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's; A is square."""
        return _square("linear state", self.transition, self.initial, widths)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Σ_{t < tokens} A^t u + A^t initial."""
        return recurrence.linear_state_facts(
            self.transition, np.array(self.initial), operands[0], tokens
        )[0]

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """A decay, registers, or what nothing enters; see `recurrence.Reach`."""
        start = np.array(self.initial)
        return recurrence.linear_state_settles(self.transition, start, operands[0], tokens)

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """Every partial sum of the state, in any order."""
        return recurrence.linear_state_facts(
            self.transition, np.array(self.initial), operands[0], tokens
        )[1]

    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """A s + u."""
        return extent.numbers.product(self.transition, before) + operands[0]

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """Token by token; running sums at once."""
        if not self.transition.is_identity:
            return StateOp.evaluate(self, operands, extent)
        terms = np.concatenate([extent.full(self.initial)[:, :1], operands[0]], axis=1)
        return np.add.accumulate(terms, axis=1)[:, 1:]


@final
@dataclass(frozen=True, slots=True)
class SelectiveState(StateOp):
    """s_t = keep_t ⊙ s_{t-1} + update_t with keep in {0,1}: hold, overwrite, reset.

    With `overwrites` the maker vouches that the update is zero wherever keep is 1, so that the
    state never grows beyond its updates.
    """

    initial: Values  # (width,)
    overwrites: bool = False

    def width_of(self, widths: Sequence[int]) -> int:
        """Keep and update, of one width."""
        width = same_width("selective state", widths, 2)
        if len(self.initial) != width:
            raise ShapeError(f"selective state: expected {width} initial values")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of what is written; without `overwrites` the worst case, all of it added up."""
        _, update = operands
        if self.overwrites:
            return _written(update, self.initial)
        start = np.array(self.initial)
        grown, _ = recurrence.linear_state_facts(
            Matrix.identity(update.width), np.zeros(update.width), update, tokens
        )
        low = np.minimum(start, 0.0) + np.minimum(grown.low, update.low)
        high = np.maximum(start, 0.0) + np.maximum(grown.high, update.high)
        step = bounds.pairwise_grid(update.step, bounds.constant_facts(start).step)
        return bounds.facts(low, high, step)

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """Where nothing adds up."""
        return self.overwrites or not operands[1].magnitude.any()

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """As for a running sum."""
        value = self.infer(operands, tokens)
        magnitude = np.abs(self.initial) + tokens * operands[1].magnitude
        if self.overwrites:
            magnitude = value.magnitude
        return Sums(magnitude, bounds.lowest_bit_of_step(value))

    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """What is kept, and the update."""
        keep, update = operands
        return keep * before + update


@final
@dataclass(frozen=True, slots=True)
class Hold(StateOp):
    """The x of the last token where `when` was 1; `initial` before there was one.

    A third operand, the change, comes with the promise that where `when` is 1, x is what was held
    before plus the change. So cells that can't overwrite have the same value as a running sum.
    Without one it is what passes make of latches and selective states for targets whose gates take
    a value in unmasked.
    """

    initial: Values  # (width,)
    keeper: Keeper = "program"  # of the promise about the change

    sums = adds_nothing
    settled = holds_at_once  # it takes what may come at the first token

    def width_of(self, widths: Sequence[int]) -> int:
        """Value, condition and perhaps a change, of one width."""
        width = same_width("hold", widths, 3 if len(widths) == 3 else 2)
        if len(self.initial) != width:
            raise ShapeError(f"hold: expected {width} initial values, got {len(self.initial)}")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of the value and the initial value."""
        return _written(operands[0], self.initial)

    def start(self, extent: Extent) -> Memory:
        """The initial value, twice: the value, and what was held before it."""
        return extent.full(self.initial), extent.full(self.initial)

    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """The value where it is taken."""
        return extent.numbers.where(operands[1] == 1, operands[0], before)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The next value, and the one before, which the promise speaks of."""
        value = self.follow(memory[0], operands, extent)
        return (value, memory[0]), value

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The value at the last token that took one."""
        value, when = operands[:2]
        choices = np.concatenate([extent.full(self.initial)[:, :1], value], axis=1)
        taken = np.where(when == 1, np.arange(1, extent.shape[1] + 1)[:, None], 0)
        return np.take_along_axis(choices, np.maximum.accumulate(taken, axis=1), axis=1)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge | None:
        """What the change is."""
        if len(operands) == 2:
            return None
        text = "is, where it is taken, what was held before plus the change"
        return Pledge(text, self.keeper, operands=1)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Where the value that is taken is another one."""
        taken, when, change = operands
        if memory:
            before = memory[1]
        else:
            start = extent.full(self.initial)[:, :1]
            before = np.concatenate([start, value], axis=1)[:, :-1]
        return (when == 1) & extent.numbers.unequal_sum(taken, before, change)


@final
@dataclass(frozen=True, slots=True)
class ThresholdState(StateOp):
    """h_t = 1 where A h_{t-1} + u_t > 0, else 0: finite automata."""

    transition: Matrix  # A, (width, width)
    initial: Values  # (width,), each 0 or 1

    settled = holds_at_once  # 0 or 1 at every token

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's; A is square."""
        return _square("threshold state", self.transition, self.initial, widths)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """0 or 1."""
        width = len(self.initial)
        return bounds.facts(np.zeros(width), np.ones(width), np.ones(width))

    def argument(self, update: Facts) -> Facts:
        """Facts of A h + u, the value that is compared with zero."""
        weights = [self.transition, Matrix.identity(update.width)]
        state = self.infer([update], 1)
        return bounds.affine_facts(weights, np.zeros(update.width), [state, update])

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """One row a unit."""
        return _fed_back_sums(self.transition, self.infer(operands, tokens), operands[0])

    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """The units that fire."""
        fired = extent.numbers.product(self.transition, before) + operands[0] > 0
        return fired.astype(operands[0].dtype)


@final
@dataclass(frozen=True, slots=True)
class RecurrentState(StateOp):
    """h_t = relu(A h_{t-1} + u_t), with declared bounds, since inference can't close the loop."""

    transition: Matrix  # A, (width, width)
    initial: Values  # (width,)
    low: Values  # (width,)
    high: Values  # (width,)

    settled = holds_at_once  # the declared bounds are those of any length

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's; A is square."""
        return _square("recurrent state", self.transition, self.initial, widths)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The declared bounds; on the operand's grid if A is integer."""
        start = bounds.constant_facts(np.array(self.initial))
        step = bounds.shared_grid(bounds.pairwise_grid(operands[0].step, start.step))
        steps = np.full(len(self.initial), step if self.transition.is_integer else 0.0)
        return bounds.facts(np.maximum(self.low, 0.0), np.array(self.high), steps)

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """One row a unit."""
        return _fed_back_sums(self.transition, self.infer(operands, tokens), operands[0])

    def follow(self, before: Array, operands: Operands, extent: Extent) -> Array:
        """relu(A h + u)."""
        return extent.numbers.positive(
            extent.numbers.product(self.transition, before) + operands[0]
        )

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """The declared bounds."""
        return Pledge(interval(self.low, self.high), "program")

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """States outside the declared bounds."""
        return extent.numbers.outside(value, self.low, self.high)


class Heights(NamedTuple):
    """What a running maximum may rise to.

    Attributes:
      least: (width,) what it is at least.
      channels: (levels,) of each level its channel.
      values: (levels,) what is reached there, in each channel in order.
      rises: (levels,) by how much more than at the level before, or than the least.
    """

    least: Array
    channels: Array
    values: Array
    rises: Array


@final
@dataclass(frozen=True, slots=True)
class RunningMax(Stateful):
    """The greatest of the initial value and all values so far, channel by channel."""

    initial: Values  # (width,)

    sums = adds_nothing
    settled = holds_at_once  # the greatest value may come at the first token

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        width = same_width("running maximum", widths, 1)
        if len(self.initial) != width:
            raise ShapeError(f"running maximum: expected {width} initial values")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Ends as of a maximum."""
        value, start = operands[0], bounds.constant_facts(np.array(self.initial))
        low, high = np.maximum(value.low, start.low), np.maximum(value.high, start.high)
        return bounds.facts(low, high, value.join(start).step)

    def heights(self, value: Facts) -> Heights | None:
        """What it may rise to; None of real numbers, or of more than `MOST_HEIGHTS` a channel."""
        least = np.maximum(value.low, self.initial)
        step = np.where(np.isfinite(value.step), value.step, 1.0)
        if not (step > 0).all() or not np.isfinite(least + value.high).all():
            return None
        first, last = np.floor(least / step) + 1, np.floor(value.high / step)
        counts = np.maximum(last - first + 1, 0).astype(int)
        if (counts > MOST_HEIGHTS).any():
            return None
        channels = np.repeat(np.arange(value.width), counts)
        place = np.arange(len(channels)) - np.repeat(np.cumsum(counts) - counts, counts)
        values = step[channels] * (first[channels] + place)
        below = np.where(place == 0, least[channels], values - step[channels])
        return Heights(least, channels, values, values - below)

    def start(self, extent: Extent) -> Memory:
        """The initial value."""
        return (extent.full(self.initial),)

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The greater one."""
        (before,), (value,) = memory, operands
        greatest = extent.numbers.where(value > before, value, before)
        return (greatest,), greatest

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The greatest so far, at all tokens at once."""
        values = np.concatenate([extent.full(self.initial)[:, :1], operands[0]], axis=1)
        return np.maximum.accumulate(values, axis=1)[:, 1:]
