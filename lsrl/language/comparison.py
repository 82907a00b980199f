"""Comparisons of signals: exact on a grid, with a ramp on continuous values."""

import numpy as np

from lsrl.errors import RampError
from lsrl.ir import ops
from lsrl.ir.numbers import power_of_two_below
from lsrl.language.constants import numbers
from lsrl.language.signal import Operand, Signal, as_signal, combine, meaning, record, relu
from lsrl.language.trace import user_line


@meaning("greater_equal")
def greater_equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x >= y, else 0.

    On gridded values it is exact. With a ramp it is exactly 1 from y - ramp/2 on and exactly 0 up
    to y - ramp. That no value lies in between is a checked promise of the prompt, unless bounds and
    grids prove it; where the values in between should have a meaning, take `ramp`.

    Args:
      x: signal or numbers.
      y: signal or numbers.
      ramp: width of the ramp below y, for continuous values.

    Raises:
      RampError: continuous values without a ramp.

    Example:
      @lsrl.program
      def half(x: lsrl.Vector(1, low=0, high=1)):
          return lsrl.greater_equal(x, 0.5, ramp=2**-10)  # continuous values need a ramp
    """
    if ramp is None:
        x, y = _on_grid(x, y, np.floor), _on_grid(y, x, np.ceil)
    return _at_least_zero(combine([(1.0, as_signal(x)), (-1.0, y)]), ramp)


def _on_grid(value: Operand, other: Operand, rounding: np.ufunc) -> Operand:
    """A threshold between two grid points of the other side moves to one that decides the same."""
    if isinstance(value, Signal) or not isinstance(other, Signal):
        return value
    threshold = numbers(value, "an operand")
    step = other.facts.step
    usable = np.isfinite(step) & (step > 0)
    if len(threshold) not in (1, len(step)) or not usable.all():
        return value
    moved = rounding(threshold / step) * step
    # The quotient may have been rounded across a grid point.
    if rounding is np.ceil:
        moved = np.where(moved < threshold, moved + step, moved)
        return np.where(moved - step >= threshold, moved - step, moved)
    moved = np.where(moved > threshold, moved - step, moved)
    return np.where(moved + step <= threshold, moved + step, moved)


def _at_least_zero(difference: Signal, ramp: float | None) -> Signal:
    if ramp is not None:
        return record(ops.Step(_slope("ramp", ramp), 1.0), difference)
    step = difference.facts.step
    if (step == 0).any():
        raise RampError(
            f"{user_line()}: continuous values are compared; no finite slope separates them, so "
            "give the width of a ramp: lsrl.greater_equal(x, y, ramp=2**-10), or declare a grid: "
            "Vector(d, low=, high=, step=)"
        )
    finite = step[np.isfinite(step)]
    grid = float(finite.min()) if len(finite) else 1.0
    return record(ops.Step(1.0 / power_of_two_below(grid), 0.0), difference)


def _slope(name: str, ramp: float) -> float:
    """Of a ramp that takes half its width to rise, and is 1 over the other half."""
    width = numbers(ramp, name)
    with np.errstate(over="ignore"):
        slope = 2.0 / width if len(width) == 1 and width[0] > 0 else np.array([np.inf])
    if not np.isfinite(slope[0]):
        raise RampError(f"{user_line()}: {name} must be one positive number, got {ramp!r}")
    return float(slope[0])


def ramp(x: Operand, y: Operand, width: float) -> Signal:
    """1 from y - width/2 on, 0 up to y - width, and the straight line in between.

    The formula of `greater_equal(x, y, ramp=width)`, relu(1 - relu(2(y - x)/width - 1)), with
    nothing promised: values in [0, 1], which a {0,1} condition can't be made of.

        near = lsrl.ramp(x, 0.5, 0.25)  # 0 up to x = 0.25, 1/2 at 0.3125, 1 from 0.375 on

    Args:
      x: signal or numbers.
      y: signal or numbers.
      width: of the ramp below y, the upper half of which is level.

    Raises:
      RampError: the width is not one positive number.

    Example:
      @lsrl.program
      def slope(x: lsrl.Vector(1, low=0, high=10)):
          return lsrl.ramp(x, 4, 2)
    """
    slope = _slope("width", width)
    return relu(1 - relu(combine([(slope, as_signal(y)), (-slope, x)]) - 1))


@meaning("greater")
def greater(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x > y, else 0: 1 - (y >= x). See `greater_equal`.

    Args:
      x: signal or numbers.
      y: signal or numbers; width 1 broadcasts.
      ramp: for continuous values, the width over which it goes from 0 to 1.

    Returns:
      {0,1}, channel by channel.

    Raises:
      RampError: continuous values without a ramp.

    Example:
      @lsrl.program
      def high(x: lsrl.Token(5)):
          return lsrl.greater(x, 3)  # as x > 3
    """
    return 1 - greater_equal(y, x, ramp)


@meaning("less")
def less(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x < y, else 0: 1 - (x >= y). See `greater_equal`.

    Args:
      x: signal or numbers.
      y: signal or numbers; width 1 broadcasts.
      ramp: for continuous values, the width over which it goes from 0 to 1.

    Returns:
      {0,1}, channel by channel.

    Raises:
      RampError: continuous values without a ramp.

    Example:
      @lsrl.program
      def low(x: lsrl.Token(5)):
          return lsrl.less(x, 3)  # as x < 3
    """
    return 1 - greater_equal(x, y, ramp)


@meaning("less_equal")
def less_equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x <= y, else 0. See `greater_equal`.

    Args:
      x: signal or numbers.
      y: signal or numbers; width 1 broadcasts.
      ramp: for continuous values, the width over which it goes from 0 to 1.

    Returns:
      {0,1}, channel by channel.

    Raises:
      RampError: continuous values without a ramp.

    Example:
      @lsrl.program
      def at_most(x: lsrl.Token(5)):
          return lsrl.less_equal(x, 3)  # as x <= 3
    """
    return greater_equal(y, x, ramp)


@meaning("not_equal")
def not_equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x != y, else 0. See `equal`.

    Args:
      x: signal or numbers.
      y: signal or numbers; width 1 broadcasts.
      ramp: as for `equal`.

    Returns:
      {0,1}, channel by channel.

    Raises:
      RampError: continuous values without a ramp.

    Example:
      @lsrl.program
      def differs(x: lsrl.Token(5)):
          return lsrl.not_equal(x, 3)  # as x != 3
    """
    return 1 - equal(x, y, ramp)


@meaning("equal")
def equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x == y, else 0; on continuous values, where they are less than ramp/2 apart.

    Args:
      x: signal or numbers.
      y: signal or numbers.
      ramp: for continuous values: 1 up to a distance of ramp/2, 0 from a distance of ramp on.

    Raises:
      RampError: continuous values without a ramp.

    Example:
      print(comparisons.run([[3, 3], [3, 4]]).astype(int).tolist())
    """
    difference = combine([(1.0, as_signal(x)), (-1.0, y)])
    apart = relu(difference) + relu(-difference)
    return _at_least_zero(-apart, ramp)
