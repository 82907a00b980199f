"""Division of gridded signals by numbers: what is left, and how often it goes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from lsrl.arguments import shown
from lsrl.errors import BoundsError, ProgramError
from lsrl.ir import ops
from lsrl.ir.bounds import pairwise_grid
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit, power_of_two_below
from lsrl.ir.types import MAX_STEP_BITS
from lsrl.language.constants import numbers
from lsrl.language.signal import (
    Operand,
    Signal,
    affine,
    as_signal,
    broadcast,
    combine,
    concat,
    meaning,
    record,
)
from lsrl.language.sugar import known
from lsrl.language.trace import user_line

# Of so many multiples all are compared at once: that is wider than a stage each, and one layer.
MOST_AT_ONCE = 8
# Of sums in a difference of ramps, so that float32 takes them with room.
LARGEST = 2.0**22


@meaning("remainder")
def mod(x: Signal, n: ArrayLike) -> Signal:
    """X modulo n, of the sign of n as in Python.

    Of a range of up to eight n in one stage, which compares with each multiple; of a longer one by
    log2(range / n) stages of compare and subtract.

    Args:
      x: any gridded signal with finite bounds; its steps need not divide n.
      n: a number, or one a channel, that is a short dyadic one (not 0.1) and not 0.

    Returns:
      The remainder, for n > 0 from 0 to n less the common grid of x and n.

    Raises:
      ProgramError: n is 0, or x and n have no common grid.
      BoundsError: x has no finite bounds.

    Example:
      @lsrl.program
      def hour(x: lsrl.Vector(1, low=0, high=100, step=1)):
          return lsrl.mod(x, 12)  # as x % 12
    """
    return _by_divisor(x, n, "mod(x, n)", lambda value, divisor: _divided(value, divisor)[1])


@meaning("floor_divide")
def _floor_divide(x: Signal, n: ArrayLike) -> Signal:
    """X // n: the integer at or below x / n, by the stages of `mod`."""

    def quotient(value: Signal, divisor: float) -> Signal:
        # Where the quotient is exact, no stage is needed.
        step = np.where(np.isinf(value.facts.step), 0.0, value.facts.step)  # of what is always 0
        if not np.fmod(step, divisor).any() and np.log2(divisor).is_integer():
            return value / divisor
        least, most = (np.floor(end / divisor) for end in (value.facts.low, value.facts.high))
        return known(combine([(0.0, value), *_divided(value, divisor)[0]]), least, most)

    return _by_divisor(x, n, "x // n", quotient)


def _by_divisor(
    x: Signal, n: ArrayLike, what: str, part: Callable[[Signal, float], Signal]
) -> Signal:
    """A part of the division of each channel by its number; of a negative one, of -x by -n."""
    value, divisors = as_signal(x), numbers(n, f"n of {what}")
    if len(divisors) > 1:
        (value, _) = broadcast(value, divisors)
        pairs = zip(value, divisors.tolist(), strict=True)
        return concat(*(_by_divisor(channel, each, what, part) for channel, each in pairs))
    divisor = abs(float(divisors[0]))
    dyadic = divisor > 0 and divisor <= 2.0**MAX_STEP_BITS * lowest_bit(divisor)
    if not dyadic or not value.facts.gridded:
        raise ProgramError(
            f"{user_line()}: {what} needs a short dyadic n, not 0, and an x on a grid, got "
            f"n={shown(n)} and {value!r} with step {value.facts.step.tolist()}; declare a step of "
            "the input, or write lsrl.lookup(x, table) for few integers"
        )
    if not (np.isfinite(value.facts.low) & np.isfinite(value.facts.high)).all():
        raise BoundsError(
            f"{user_line()}: {what} needs finite bounds, got {value!r}; promise some: "
            "lsrl.bound(x, low, high)"
        )
    if divisors[0] > 0:
        return part(value, divisor)
    found = part(-value, divisor)
    return -found if what.startswith("mod") else found


def _divided(value: Signal, divisor: float) -> tuple[list[tuple[float, Operand]], Signal]:
    """How often a divisor > 0 goes into a value, as terms of a sum, and the remainder."""
    times = int(np.ceil(max(0.0, -value.facts.low.min()) / divisor))
    if times:
        value = value + times * divisor
    grid = pairwise_grid(value.facts.step, np.full(value.width, divisor))
    lifted: tuple[float, Operand] = (-1.0, np.full(value.width, times))
    count = int(value.facts.high.max() // divisor)
    if 1 < count <= MOST_AT_ONCE:
        often = _reached(value, divisor, count, grid)
        high = np.minimum(value.facts.high, divisor - grid)
        rest = known(value - divisor * often, np.zeros(len(high)), high)
        return [lifted, (1.0, often)], rest
    return _taken_off(value, divisor, grid, [lifted])


def _reached(value: Signal, divisor: float, count: int, grid: Array) -> Signal:
    """How many of the first multiples a value >= 0 reaches, each compared in the same level."""
    width = value.width
    each = Matrix.selection(np.repeat(np.arange(width), count), width)
    multiples = np.tile(divisor * np.arange(1, count + 1), width)
    rise = power_of_two_below(float(grid.min()))
    largest = count * (divisor / rise) * (float(value.facts.high.max()) / rise)
    difference = affine([(each, value)], -multiples)
    passed = record(ops.Step(1 / rise, 0.0, largest <= LARGEST), difference)
    return affine([(each.transposed, passed)])


def _taken_off(
    value: Signal, divisor: float, grid: Array, terms: list[tuple[float, Operand]]
) -> tuple[list[tuple[float, Operand]], Signal]:
    """The divisor times a power of two, then half of it and so on, each where it goes."""
    high = value.facts.high
    multiple = divisor
    while multiple * 2 <= high.max():
        multiple *= 2
    while multiple >= divisor and high.max() >= divisor:
        # One level instead of two, where the sums stay well within float32.
        rise = power_of_two_below(float(grid.min()))
        small = (multiple / rise) * (float(high.max()) / rise) <= LARGEST
        passed = record(ops.Step(1 / rise, 0.0, small), value - multiple)
        terms.append((multiple / divisor, passed))
        value = value - multiple * passed
        # What passes loses the multiple, and what does not is at least a grid step below it.
        high = np.where(high >= multiple, np.maximum(multiple - grid, high - multiple), high)
        value = known(value, np.zeros(len(high)), high)
        multiple /= 2
    return terms, value
