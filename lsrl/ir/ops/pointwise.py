"""The ops whose value at a token depends on their operands at that token alone."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import final

import numpy as np

from lsrl.errors import ShapeError
from lsrl.ir import bounds
from lsrl.ir import groups as exclusion
from lsrl.ir.arithmetic import Values
from lsrl.ir.bounds import Facts, Sums, no_sums
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops.base import (
    Extent,
    Keeper,
    Memory,
    Operands,
    Pledge,
    Pointwise,
    Via,
    adds_nothing,
    interval,
    same_width,
)
from lsrl.ir.types import InputType


@final
@dataclass(frozen=True, slots=True)
class Input(Pointwise):
    """The program's input at this token: a symbol's id or a vector."""

    index: int  # position in the parameter list
    label: str  # parameter name
    type: InputType

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """No operands."""
        return self.type.width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The declared type."""
        return self.type.facts()

    def value(self, operands: Operands, extent: Extent) -> Array:
        """Inputs are given, never computed."""
        raise NotImplementedError("the evaluator feeds inputs")


@final
@dataclass(frozen=True, slots=True)
class Constant(Pointwise):
    """The same vector at every token."""

    values: Values  # (width,)

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """No operands."""
        return len(self.values)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """One possible value."""
        return bounds.constant_facts(np.array(self.values))

    def value(self, operands: Operands, extent: Extent) -> Array:
        """The values, repeated."""
        return extent.full(self.values)


@final
@dataclass(frozen=True, slots=True)
class Lookup(Pointwise):
    """Row x of a table, for a token x: any function of the symbol, as an embedding."""

    table: Matrix  # (symbols, width)

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """One operand: the token's id."""
        if list(widths) != [1]:
            raise ShapeError(f"lookup: expected one token id of width 1, got widths {widths}")
        return self.table.columns

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Some row of the table."""
        return bounds.table_facts(self.table)

    def value(self, operands: Operands, extent: Extent) -> Array:
        """Rows picked by id."""
        return extent.numbers.rows(self.table, operands[0][..., 0])


@final
@dataclass(frozen=True, slots=True)
class Affine(Pointwise):
    """Σ weight x + bias over the operands; concatenation and slicing too."""

    weights: tuple[Matrix, ...]  # one (out, in) an operand
    bias: Values  # (out,)

    def width_of(self, widths: Sequence[int]) -> int:
        """One operand a weight, of the weight's columns."""
        expected = [weight.columns for weight in self.weights]
        if list(widths) != expected:
            raise ShapeError(f"affine map: expected operands of widths {expected}, got {widths}")
        if any(weight.rows != len(self.bias) for weight in self.weights):
            raise ShapeError("affine map: weights and bias differ in their number of rows")
        return len(self.bias)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Interval arithmetic row by row, tight for one-hot operands."""
        return bounds.affine_facts(self.weights, np.array(self.bias), operands)

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """One sum a row."""
        return bounds.affine_sums(self.weights, np.array(self.bias), operands)

    def value(self, operands: Operands, extent: Extent) -> Array:
        """The bias, and to it the product of each operand in turn."""
        if not operands:
            return extent.full(self.bias)
        result = extent.row(self.bias)
        for weight, operand in zip(self.weights, operands, strict=True):
            result = result + extent.numbers.product(weight, operand)
        return result


@final
@dataclass(frozen=True, slots=True)
class Relu(Pointwise):
    """max(x, 0), channel by channel."""

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        return same_width("relu", widths, 1)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The operand's interval cut off at zero."""
        value = operands[0]
        return bounds.facts(
            np.maximum(value.low, 0.0), np.maximum(value.high, 0.0), value.step, value.groups
        )

    def value(self, operands: Operands, extent: Extent) -> Array:
        """Elementwise maximum with zero."""
        return extent.numbers.positive(operands[0])


@final
@dataclass(frozen=True, slots=True)
class Step(Pointwise):
    """1 where x >= 0, else 0, with a ramp below zero: relu(1 - relu(-slope x - shift)).

    Exactly 1 from -shift/slope on and exactly 0 up to -(1 + shift)/slope. On a grid that is at
    least as coarse as the ramp no value falls into it. Else the result is 0 or 1 by promise: no
    value lies strictly within the ramp.

    With `one_level` a target without native steps takes relu(slope x + 1) - relu(slope x), which
    saves a layer but carries rounding and noise in proportion to the range of x; for gridded x
    only.
    """

    slope: float
    shift: float
    one_level: bool = False

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        return same_width("comparison", widths, 1)

    @property
    def constants(self) -> Iterator[Array]:
        """None: it compares, whatever its slope."""
        return iter(())

    def avoids_ramp(self, value: Facts) -> bool:
        """Whether the grid keeps every value out of the ramp."""
        if value.width == 1:
            step = value.step.item()
            return step > 0 and self.slope * (1.0 if step == np.inf else step) >= 1 + self.shift
        finite = np.where(np.isinf(value.step), 1.0, value.step)
        return value.gridded and bool((self.slope * finite >= 1 + self.shift).all())

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """0 or 1; only one of them where the sign of x is known."""
        value = operands[0]
        low = np.where(value.low >= 0, 1.0, 0.0)
        high = np.where(value.high * self.slope <= -(1 + self.shift), 0.0, 1.0)
        return bounds.facts(low, high, np.ones(value.width))

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """The slope times x, plus the shift."""
        value = operands[0]
        weight = Matrix.diagonal(np.full(value.width, self.slope))
        return bounds.affine_sums([weight], np.full(value.width, self.shift), [value])

    def value(self, operands: Operands, extent: Extent) -> Array:
        """The formula itself, ramp included."""
        return extent.numbers.ramp(operands[0], self.slope, self.shift)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge | None:
        """That no value lies in the ramp, where neither bounds nor grid keep them out."""
        if self.avoids_ramp(operands[0]) or not self._may_enter(operands[0], slack):
            return None
        low, high = -(1 + self.shift + slack) / self.slope, -(self.shift - slack) / self.slope
        ramp = f"({low:.4g}, {high:.4g})"
        text = f"compares a difference that stays out of the ramp {ramp}"
        return Pledge(text, "prompt", operands=1)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Values strictly within the ramp, which are neither 0 nor 1."""
        return extent.numbers.on_ramp(operands[0], self.slope, self.shift)

    def _may_enter(self, value: Facts, slack: float) -> bool:
        """Whether bounds and grid allow a value strictly within the ramp, widened by the slack."""
        slope, shift, wider = (Fraction(number) for number in (self.slope, self.shift, slack))
        start, end = -(1 + shift + wider) / slope, (wider - shift) / slope
        channels = (value.low.tolist(), value.high.tolist(), value.step.tolist())
        for low, high, step in zip(*channels, strict=True):
            if not (low < end and high > start):
                continue
            if step == 0 or np.isinf(step):
                return True
            grid = Fraction(step)
            # The least point of the grid beyond the ramp's start, and not below the least value.
            point = start // grid + 1
            point = max(point, -(-Fraction(low) // grid)) if np.isfinite(low) else point
            if point * grid < end and point * grid <= high:
                return True
        return False


@final
@dataclass(frozen=True, slots=True)
class Product(Pointwise):
    """x ⊙ y, channel by channel: the multiplicative gate."""

    def width_of(self, widths: Sequence[int]) -> int:
        """Two operands of one width."""
        return same_width("product", widths, 2)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Products of the interval ends; steps multiply."""
        left, right = operands
        pairs = itertools.product((left.low, left.high), (right.low, right.high))
        with np.errstate(invalid="ignore", over="ignore"):
            ends = np.stack([a * b for a, b in pairs])
            step = bounds.product_of_grids(left.step, right.step)
            grid = np.minimum(lowest_bit(left.low), lowest_bit(left.high))
            grid = grid * np.minimum(lowest_bit(right.low), lowest_bit(right.high))
        # Values are finite even where a bound is not, and so 0 times them is 0.
        ends, grid = np.where(np.isnan(ends), 0.0, ends), np.where(np.isnan(grid), 0.0, grid)
        low, high = ends.min(axis=0), ends.max(axis=0)
        low, high = bounds.widen(low, high, Sums(np.maximum(abs(low), abs(high)), grid))
        # Where either factor is 0 the product is.
        return bounds.facts(low, high, step, exclusion.union(left.groups, right.groups))

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """A product of integers is exact where it fits; 0 and 1 always do."""
        left, right = operands
        if left.boolean or right.boolean:
            return no_sums(left.width)
        with np.errstate(invalid="ignore", over="ignore"):
            grid = bounds.lowest_bit_of_step(left) * bounds.lowest_bit_of_step(right)
            magnitude = np.nan_to_num(left.magnitude * right.magnitude, nan=0.0, posinf=np.inf)
            both = (left.magnitude > 0) & (right.magnitude > 0)
            magnitude = np.maximum(magnitude, np.where(both, bounds.TINY, 0.0))
        return Sums(magnitude, np.where(np.isnan(grid), np.inf, grid))

    def value(self, operands: Operands, extent: Extent) -> Array:
        """Elementwise product."""
        return operands[0] * operands[1]


@final
@dataclass(frozen=True, slots=True)
class Select(Pointwise):
    """cond ? a : b with a {0,1} condition; inside a ramp, the mixture cond a + (1 - cond) b."""

    via: Via = "auto"

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """Condition (width 1, or that of the values), a, b."""
        if len(widths) != 3 or widths[1] != widths[2] or widths[0] not in (1, widths[1]):
            raise ShapeError(
                f"select: expected a condition of width 1 or w and two values of width w, got "
                f"{widths}"
            )
        return widths[1]

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of both values; a value that is only let through belongs to its condition."""
        condition, first, second = operands
        hull = first.join(second)
        if not condition.groups:
            return hull
        wide = np.zeros(hull.width, dtype=int) if condition.width == 1 else slice(None)
        opens = tuple(
            (root, np.where(second.zero, members[wide], -1)) for root, members in condition.groups
        )
        return replace(hull, groups=exclusion.union(hull.groups, opens))

    def value(self, operands: Operands, extent: Extent) -> Array:
        """The mixture, which is a or b for a condition of 1 or 0."""
        condition, first, second = operands
        return condition * first + (1 - condition) * second


@final
@dataclass(frozen=True, slots=True)
class Bound(Pointwise):
    """x, with the checked promise that it lies in [low, high], and on a grid where one is given.

    With `proven` it is a theorem of the maker's, which interval arithmetic can't see. So is, with
    `exclusive`, that at most one channel is nonzero at a token.
    """

    low: Values  # (width,)
    high: Values  # (width,)
    proven: bool = False
    exclusive: bool = False
    keeper: Keeper = "program"
    step: Values = ()  # (width,): every value is a multiple of it, 0 for any; () for none at all

    sums = adds_nothing

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        width = same_width("bound", widths, 1)
        if not len(self.low) == len(self.high) == width:
            raise ShapeError(f"bound: expected {width} ends, got {len(self.low)}, {len(self.high)}")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The operand's facts, narrowed."""
        value = operands[0]
        low, high = np.maximum(value.low, self.low), np.minimum(value.high, self.high)
        step = np.maximum(value.step, self.step) if self.step else value.step
        # What is never 0 has no use for a group, in which each channel may be.
        never = (low > 0) | (high < 0)
        groups = exclusion.kept({
            root: np.where(never, -1, members) for root, members in value.groups
        }) if never.any() else value.groups  # fmt: skip
        # A promise that contradicts what is proven holds for no input; keep an interval anyway.
        return bounds.facts(np.minimum(low, high), high, step, groups)

    def value(self, operands: Operands, extent: Extent) -> Array:
        """The operand."""
        return operands[0]

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """The interval, and the grid."""
        text = interval(self.low, self.high)
        if self.step:
            text += f" by steps of {min(self.step):g}"
        return Pledge(text, None if self.proven else self.keeper)

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Values outside the interval, or off the grid."""
        outside = extent.numbers.outside(value, self.low, self.high)
        return outside | extent.numbers.off_grid(value, self.step) if self.step else outside
