"""The closed set of ops.

An op holds its parameters and nothing else; operands live on the graph's nodes. Each op checks its
operands (`width_of`), infers facts (`infer`), tells its sums for the exactness condition (`sums`)
and evaluates itself on whole sequences (`evaluate`), in float64 or, on object arrays, in exact
rationals. Nothing else about an op is scattered over the package.

Axis legend: arrays are (batch, time, width). Sequences of operands come in the node's order.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np

from lsrl.errors import ShapeError
from lsrl.ir import bounds
from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import Facts, Sums, no_sums
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, common_grid, lowest_bit, rational
from lsrl.ir.types import InputType, Token

Row = tuple[float, ...]
Via = Literal["auto", "gate", "relu"]
Keeper = Literal["program", "prompt"]


class Extent(NamedTuple):
    """How many sequences and tokens are evaluated, and in which arithmetic."""

    batch: int
    time: int
    exact: bool

    def full(self, row: Sequence[float] | Array) -> Array:
        """The row at every token: (batch, time, width)."""
        return np.broadcast_to(self.numbers(row), (self.batch, self.time, len(row)))

    def numbers(self, values: Sequence[float] | Array) -> Array:
        """The values as float64, or as exact rationals."""
        array = np.asarray(values, dtype=np.float64)
        if not self.exact:
            return array
        flat = [rational(value) for value in array.ravel()]
        result = np.empty(len(flat), dtype=object)
        result[:] = flat
        return result.reshape(array.shape)

    def product(self, weight: Matrix, value: Array) -> Array:
        """Weight @ value over the last axis: (..., columns) to (..., rows)."""
        if not self.exact:
            flat = value.reshape(-1, weight.columns)
            return np.asarray((weight.csr @ flat.T).T).reshape(*value.shape[:-1], weight.rows)
        result = np.zeros((*value.shape[:-1], weight.rows), dtype=object)
        entries = zip(
            weight.entry_rows(), weight.csr.indices, self.numbers(weight.csr.data), strict=True
        )
        for row, column, number in entries:
            result[..., row] = result[..., row] + number * value[..., column]
        return result


class Pledge(NamedTuple):
    """What is taken for true of an op's values, beyond what inference proves.

    Attributes:
      text: in words.
      keeper: whose it is to keep: the program's author, for every input of the declared types, or
        whoever writes the prompt; None for a theorem of the op's maker.
      of_operand: the text speaks of the first operand, not of the result.
    """

    text: str
    keeper: Keeper | None
    of_operand: bool = False


class Op(ABC):
    """An operation on signals; every subclass is final and frozen.

    Attributes:
      pointwise: the value at a token depends on the operands at that token alone.
      stateful: the value at a token depends on earlier tokens.
    """

    __slots__ = ()
    pointwise: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The op's name in dumps and messages."""
        return type(self).__name__.lower()

    @property
    def stateful(self) -> bool:
        """Whether earlier tokens matter."""
        return not self.pointwise

    @abstractmethod
    def width_of(self, widths: Sequence[int]) -> int:
        """Width of the result for operands of these widths.

        Raises:
          ShapeError: the operands do not fit.
        """

    @abstractmethod
    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Facts of the result over `tokens` tokens."""

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """Whether what `infer` tells of some tokens holds at every greater number of them.

        Args:
          operands: facts that hold at every greater number.
          tokens: the number of tokens.
        """
        return self.pointwise

    @abstractmethod
    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The result (batch, time, width) of operands (batch, time, ...)."""

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """Condition P1 of what `evaluate` adds up."""
        return no_sums(self.width_of([operand.width for operand in operands]))

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge | None:
        """What the op takes for true of operands with these facts, if anything.

        Args:
          operands: facts of the operands.
          slack: rounding of what a comparison reads, in units of its ramp's rise: it widens ramps.
        """
        return None

    def broken(self, operands: Sequence[Array], result: Array) -> Array:
        """Where the promise is broken: a mask (batch, time, width of the result)."""
        return np.zeros(result.shape, dtype=bool)


class StateOp(Op):
    """An op whose value at a token is made of its value at the token before and its operands."""

    __slots__ = ()
    pointwise: ClassVar[bool] = False
    initial: Row  # (width,), the value before the first token

    @abstractmethod
    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """The value (batch, width) at a token, given that of the token before."""

    def start(self, extent: Extent) -> Array:
        """The value (batch, width) before the first token."""
        return np.broadcast_to(extent.numbers(self.initial), (extent.batch, len(self.initial)))

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Token by token."""
        state, result = self.start(extent), np.empty_like(operands[-1], order="C")
        for t in range(extent.time):
            state = self.advance(state, [operand[:, t] for operand in operands], extent)
            result[:, t] = state
        return result


def _same_width(name: str, widths: Sequence[int], count: int) -> int:
    if len(widths) != count or len(set(widths)) != 1:
        raise ShapeError(f"{name}: expected {count} operand(s) of one width, got widths {widths}")
    return widths[0]


def _square(name: str, matrix: Matrix, initial: Row, widths: Sequence[int]) -> int:
    if len(widths) != 1 or matrix.rows != matrix.columns or matrix.rows != widths[0]:
        raise ShapeError(
            f"{name}: expected A of shape ({widths[0]}, {widths[0]}) for an operand of width "
            f"{widths[0]}, got ({matrix.rows}, {matrix.columns})"
        )
    if len(initial) != matrix.rows:
        raise ShapeError(f"{name}: expected {matrix.rows} initial values, got {len(initial)}")
    return matrix.rows


@final
@dataclass(frozen=True, slots=True)
class Input(Op):
    """The program's input at this token: a symbol's id or a vector."""

    index: int  # position in the parameter list
    label: str  # parameter name
    type: InputType

    def width_of(self, widths: Sequence[int]) -> int:
        """No operands."""
        return self.type.width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The declared type."""
        return self.type.facts()

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Inputs are given, never computed."""
        raise NotImplementedError("the evaluator feeds inputs")


@final
@dataclass(frozen=True, slots=True)
class Constant(Op):
    """The same vector at every token."""

    values: Row  # (width,)

    def width_of(self, widths: Sequence[int]) -> int:
        """No operands."""
        return len(self.values)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """One possible value."""
        return bounds.constant_facts(np.array(self.values))

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The values, repeated."""
        return extent.full(self.values)


@final
@dataclass(frozen=True, slots=True)
class Lookup(Op):
    """Row x of a table, for a token x: any function of the symbol, as an embedding."""

    table: Matrix  # (symbols, width)

    def width_of(self, widths: Sequence[int]) -> int:
        """One operand: the token's id."""
        if list(widths) != [1]:
            raise ShapeError(f"lookup: expected one token id of width 1, got widths {widths}")
        return self.table.columns

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Some row of the table."""
        return bounds.table_facts(self.table.dense())

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Rows picked by id."""
        ids = operands[0][..., 0].astype(np.int64)
        return extent.numbers(self.table.dense())[ids]


@final
@dataclass(frozen=True, slots=True)
class Periodic(Op):
    """Row t mod n of a table: a clock that reads no input."""

    table: Matrix  # (n, width)
    pointwise: ClassVar[bool] = False

    def width_of(self, widths: Sequence[int]) -> int:
        """No operands."""
        return self.table.columns

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Some row that comes up within the tokens."""
        return bounds.table_facts(self.table.dense()[:tokens])

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """Once every row was there."""
        return tokens >= self.table.rows

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Rows in turn."""
        rows = extent.numbers(self.table.dense())[np.arange(extent.time) % self.table.rows]
        return np.broadcast_to(rows, (extent.batch, *rows.shape))


@final
@dataclass(frozen=True, slots=True)
class Affine(Op):
    """Σ weight x + bias over the operands; concatenation and slicing too."""

    weights: tuple[Matrix, ...]  # one (out, in) an operand
    bias: Row  # (out,)

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

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The affine map at every token."""
        result = extent.full(self.bias)
        for weight, operand in zip(self.weights, operands, strict=True):
            result = result + extent.product(weight, operand)
        return result


@final
@dataclass(frozen=True, slots=True)
class Relu(Op):
    """max(x, 0), channel by channel."""

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        return _same_width("relu", widths, 1)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The operand's interval cut off at zero."""
        value = operands[0]
        return bounds.facts(
            np.maximum(value.low, 0.0), np.maximum(value.high, 0.0), value.step, value.groups
        )

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Elementwise maximum with zero."""
        return np.maximum(operands[0], 0)


@final
@dataclass(frozen=True, slots=True)
class Step(Op):
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
        return _same_width("comparison", widths, 1)

    def avoids_ramp(self, value: Facts) -> bool:
        """Whether the grid keeps every value out of the ramp."""
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
        weight = Matrix(np.diag(np.full(value.width, self.slope)))
        return bounds.affine_sums([weight], np.full(value.width, self.shift), [value])

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The formula itself, ramp included."""
        slope, shift = extent.numbers([self.slope, self.shift])
        return np.maximum(1 - np.maximum(-slope * operands[0] - shift, 0), 0)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge | None:
        """That no value lies in the ramp, where neither bounds nor grid keep them out."""
        if self.avoids_ramp(operands[0]) or not self._may_enter(operands[0], slack):
            return None
        low, high = -(1 + self.shift + slack) / self.slope, -(self.shift - slack) / self.slope
        ramp = f"({low:.4g}, {high:.4g})"
        text = f"compares a difference that stays out of the ramp {ramp}"
        return Pledge(text, "prompt", of_operand=True)

    def broken(self, operands: Sequence[Array], result: Array) -> Array:
        """Values strictly within the ramp, which are neither 0 nor 1."""
        return np.asarray((result > 0) & (result < 1), dtype=bool)

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
class Product(Op):
    """x ⊙ y, channel by channel: the multiplicative gate."""

    def width_of(self, widths: Sequence[int]) -> int:
        """Two operands of one width."""
        return _same_width("product", widths, 2)

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

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Elementwise product."""
        return operands[0] * operands[1]


@final
@dataclass(frozen=True, slots=True)
class Select(Op):
    """cond ? a : b with a {0,1} condition; inside a ramp, the mixture cond a + (1 - cond) b."""

    via: Via = "auto"

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

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The mixture, which is a or b for a condition of 1 or 0."""
        condition, first, second = operands
        return condition * first + (1 - condition) * second


@final
@dataclass(frozen=True, slots=True)
class Delay(Op):
    """x_{t-n}; `initial` at the first n tokens."""

    steps: int
    initial: Row  # (width,)
    pointwise: ClassVar[bool] = False

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        width = _same_width("delay", widths, 1)
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

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The operand moved along the time axis."""
        before = extent.full(self.initial)[:, : self.steps]
        kept = operands[0][:, : max(extent.time - self.steps, 0)]
        return np.concatenate([before, kept], axis=1)


@final
@dataclass(frozen=True, slots=True)
class Bound(Op):
    """x, with the checked promise that it lies in [low, high].

    With `proven` it is a theorem of the maker's, which interval arithmetic can't see. So is, with
    `exclusive`, that at most one channel is nonzero at a token.
    """

    low: Row  # (width,)
    high: Row  # (width,)
    proven: bool = False
    exclusive: bool = False
    keeper: Keeper = "program"

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's."""
        width = _same_width("bound", widths, 1)
        if not len(self.low) == len(self.high) == width:
            raise ShapeError(f"bound: expected {width} ends, got {len(self.low)}, {len(self.high)}")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The operand's facts, narrowed."""
        value = operands[0]
        low, high = np.maximum(value.low, self.low), np.minimum(value.high, self.high)
        # A promise that contradicts what is proven holds for no input; keep an interval anyway.
        return bounds.facts(np.minimum(low, high), high, value.step, value.groups)

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The operand."""
        return operands[0]

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """The interval."""
        return Pledge(_interval(self.low, self.high), None if self.proven else self.keeper)

    def broken(self, operands: Sequence[Array], result: Array) -> Array:
        """Values outside the interval."""
        return _outside(result, self.low, self.high)


def _outside(values: Array, low: Row, high: Row) -> Array:
    return np.asarray((values < np.array(low)) | (values > np.array(high)), dtype=bool)


def _interval(low: Row, high: Row) -> str:
    return f"stays in [{_compact(low)}, {_compact(high)}]"


def _compact(values: Row) -> str:
    distinct = set(values)
    return f"{distinct.pop():g}" if len(distinct) == 1 else ", ".join(f"{v:g}" for v in values)


@final
@dataclass(frozen=True, slots=True)
class Latch(StateOp):
    """x at the one token where `when` is 1 and ever after; `initial` before."""

    initial: Row  # (width,)
    keeper: Keeper = "program"  # of the promise that there is at most one such token

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
        hull = operands[0].join(bounds.constant_facts(np.array(self.initial)))
        return replace(hull, once=True, groups=exclusion.NONE)

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """It takes what may come at the first token."""
        return True

    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """What is taken is added."""
        value, when = operands
        return before + when * (value - self.start(extent))

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The initial value plus what is taken."""
        value, when = operands
        start = extent.full(self.initial)
        return start + np.add.accumulate(when * (value - start), axis=1)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """At most one firing."""
        return Pledge("is latched at most once", self.keeper)

    def broken(self, operands: Sequence[Array], result: Array) -> Array:
        """From the second token on at which `when` is 1."""
        again = np.asarray(np.add.accumulate(operands[1], axis=1) > 1, dtype=bool)
        return np.broadcast_to(again, result.shape)


@final
@dataclass(frozen=True, slots=True)
class LinearState(StateOp):
    """s_t = A s_{t-1} + u_t, s_{-1} = initial."""

    transition: Matrix  # A, (width, width)
    initial: Row  # (width,)

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's; A is square."""
        return _square("linear state", self.transition, self.initial, widths)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Σ_{t < tokens} A^t u + A^t initial."""
        return bounds.linear_state_facts(
            self.transition, np.array(self.initial), operands[0], tokens
        )[0]

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """A decay, registers, or what nothing enters; see `bounds.Reach`."""
        start = np.array(self.initial)
        return bounds.linear_state_settles(self.transition, start, operands[0], tokens)

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """Every partial sum of the state, in any order."""
        return bounds.linear_state_facts(
            self.transition, np.array(self.initial), operands[0], tokens
        )[1]

    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """A s + u."""
        return extent.product(self.transition, before) + operands[0]

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """Token by token; running sums at once."""
        if not self.transition.is_identity:
            return StateOp.evaluate(self, operands, extent)
        terms = np.concatenate([self.start(extent)[:, None], operands[0]], axis=1)
        return np.add.accumulate(terms, axis=1)[:, 1:]


@final
@dataclass(frozen=True, slots=True)
class SelectiveState(StateOp):
    """s_t = keep_t ⊙ s_{t-1} + update_t with keep in {0,1}: hold, overwrite, reset.

    With `overwrites` the maker vouches that the update is zero wherever keep is 1, so that the
    state never grows beyond its updates.
    """

    initial: Row  # (width,)
    overwrites: bool = False

    def width_of(self, widths: Sequence[int]) -> int:
        """Keep and update, of one width."""
        width = _same_width("selective state", widths, 2)
        if len(self.initial) != width:
            raise ShapeError(f"selective state: expected {width} initial values")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of what is written; without `overwrites` the worst case, all of it added up."""
        _, update = operands
        if self.overwrites:
            hull = update.join(bounds.constant_facts(np.array(self.initial)))
            return replace(hull, groups=exclusion.NONE)
        start = np.array(self.initial)
        grown, _ = bounds.linear_state_facts(
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

    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """What is kept, and the update."""
        keep, update = operands
        return keep * before + update


@final
@dataclass(frozen=True, slots=True)
class Hold(StateOp):
    """The x of the last token where `when` was 1; `initial` before there was one.

    Programs write a latch or a selective state; passes make this of them for targets whose gates
    take a value in unmasked.
    """

    initial: Row  # (width,)

    def width_of(self, widths: Sequence[int]) -> int:
        """Value and condition, of one width."""
        width = _same_width("hold", widths, 2)
        if len(self.initial) != width:
            raise ShapeError(f"hold: expected {width} initial values, got {len(self.initial)}")
        return width

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The hull of the value and the initial value."""
        hull = operands[0].join(bounds.constant_facts(np.array(self.initial)))
        return replace(hull, groups=exclusion.NONE)

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """It takes what may come at the first token."""
        return True

    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """The value where it is taken."""
        value, when = operands
        return np.where(when == 1, value, before)

    def evaluate(self, operands: Sequence[Array], extent: Extent) -> Array:
        """The value at the last token that took one."""
        value, when = operands
        choices = np.concatenate([self.start(extent)[:, None], value], axis=1)
        taken = np.where(when == 1, np.arange(1, extent.time + 1)[:, None], 0)
        return np.take_along_axis(choices, np.maximum.accumulate(taken, axis=1), axis=1)


@final
@dataclass(frozen=True, slots=True)
class ThresholdState(StateOp):
    """h_t = 1 where A h_{t-1} + u_t > 0, else 0: finite automata."""

    transition: Matrix  # A, (width, width)
    initial: Row  # (width,), each 0 or 1

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's; A is square."""
        return _square("threshold state", self.transition, self.initial, widths)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """0 or 1."""
        width = len(self.initial)
        return bounds.facts(np.zeros(width), np.ones(width), np.ones(width))

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """0 or 1 at every token."""
        return True

    def argument(self, update: Facts) -> Facts:
        """Facts of A h + u, the value that is compared with zero."""
        width = len(self.initial)
        state = bounds.facts(np.zeros(width), np.ones(width), np.ones(width))
        identity = Matrix.identity(width)
        return bounds.affine_facts([self.transition, identity], np.zeros(width), [state, update])

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """One row a unit."""
        width = len(self.initial)
        state = bounds.facts(np.zeros(width), np.ones(width), np.ones(width))
        identity = Matrix.identity(width)
        return bounds.affine_sums(
            [self.transition, identity], np.zeros(width), [state, operands[0]]
        )

    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """The units that fire."""
        fired = extent.product(self.transition, before) + operands[0] > 0
        return fired.astype(bool).astype(operands[0].dtype)


@final
@dataclass(frozen=True, slots=True)
class RecurrentState(StateOp):
    """h_t = relu(A h_{t-1} + u_t), with declared bounds, since inference can't close the loop."""

    transition: Matrix  # A, (width, width)
    initial: Row  # (width,)
    low: Row  # (width,)
    high: Row  # (width,)

    def width_of(self, widths: Sequence[int]) -> int:
        """The operand's; A is square."""
        return _square("recurrent state", self.transition, self.initial, widths)

    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """The declared bounds; on the operand's grid if A is integer."""
        step = bounds.pairwise_grid(
            operands[0].step, bounds.constant_facts(np.array(self.initial)).step
        )
        grid = common_grid(np.where(step == 0, np.nan, step), np.array([0, len(step)]))
        usable = self.transition.is_integer
        return bounds.facts(
            np.maximum(self.low, 0.0),
            np.array(self.high),
            np.full(len(step), grid[0] if usable else 0.0),
        )

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """The declared bounds are those of any length."""
        return True

    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """One row a unit."""
        width = len(self.initial)
        state = self.infer(operands, tokens)
        identity = Matrix.identity(width)
        return bounds.affine_sums(
            [self.transition, identity], np.zeros(width), [state, operands[0]]
        )

    def advance(self, before: Array, operands: Sequence[Array], extent: Extent) -> Array:
        """relu(A h + u)."""
        return np.maximum(extent.product(self.transition, before) + operands[0], 0)

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge:
        """The declared bounds."""
        return Pledge(_interval(self.low, self.high), "program")

    def broken(self, operands: Sequence[Array], result: Array) -> Array:
        """States outside the declared bounds."""
        return _outside(result, self.low, self.high)


ALL_OPS: tuple[type[Op], ...] = (
    Input, Constant, Lookup, Periodic, Affine, Relu, Step, Product, Select, Delay, Bound, Latch,
    LinearState, SelectiveState, Hold, ThresholdState, RecurrentState,
)  # fmt: skip


def is_token(op: Op) -> bool:
    """Whether the op is a token input."""
    return isinstance(op, Input) and isinstance(op.type, Token)
