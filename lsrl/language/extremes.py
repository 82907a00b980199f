"""Running maxima and minima."""

import numpy as np
from numpy.typing import ArrayLike

from lsrl.errors import BoundsError, ProgramError
from lsrl.ir import ops
from lsrl.language.signal import Signal, as_signal, record
from lsrl.language.starts import started
from lsrl.language.sugar import row_of, select
from lsrl.language.trace import user_line


def running_max(
    x: Signal, initial: ArrayLike | None = None, *, start: Signal | None = None
) -> Signal:
    """The greatest value so far, this token included, channel by channel.

    Where a ReLU can be fed back (`rnn`, `lstm`) it is one recurrent unit a channel; elsewhere it is
    whether each of up to 100 values was ever reached, and of more it is refused.

    Args:
      x: gridded, with finite bounds.
      initial: the maximum before the first token, one number or one a channel; by default the least
        value that x can have, so that it counts for nothing.
      start: as for `lsrl.linear_state`: values before do not count.

    Raises:
      ProgramError: x is continuous, or has no common grid with what it starts at.
      BoundsError: x has no finite bounds.

    Example:
      @lsrl.program
      def record(x: lsrl.Token(10)):
          return lsrl.running_max(x)
    """
    return _running(x, initial, start, 1)


def running_min(
    x: Signal, initial: ArrayLike | None = None, *, start: Signal | None = None
) -> Signal:
    """The least value so far, this token included: `running_max` of -x, with the sign turned.

    Args:
      x: gridded, with finite bounds.
      initial: the minimum before the first token; by default the greatest value that x can have.
      start: as for `lsrl.linear_state`: values before do not count.

    Raises:
      ProgramError: x is continuous, or has no common grid with what it starts at.
      BoundsError: x has no finite bounds.

    Example:
      @lsrl.program
      def lowest(x: lsrl.Token(10)):
          return lsrl.running_min(x)
    """
    return _running(x, initial, start, -1)


def _running(x: Signal, initial: ArrayLike | None, start: Signal | None, sign: int) -> Signal:
    value = as_signal(x)
    what = "running_max" if sign > 0 else "running_min"
    if not np.isfinite([value.facts.low, value.facts.high]).all():
        raise BoundsError(
            f"{user_line()}: {what} needs finite bounds, got {value!r}; promise some: "
            "lsrl.bound(x, low, high)"
        )
    if initial is None:
        row = tuple((value.facts.low if sign > 0 else value.facts.high).tolist())
    else:
        row = row_of(initial, value.width, "initial")
    if start is not None:
        value = select(started(start), value, row)
    first = tuple(sign * number for number in row)
    found = record(ops.RunningMax(first), value if sign > 0 else -value)
    if not found.facts.counted:
        raise ProgramError(
            f"{user_line()}: {what} needs values on a grid, and what it starts at on it too, got "
            f"{value!r} with step {value.facts.step.tolist()}, initial={list(row)}; declare a step "
            "of the input"
        )
    return found if sign > 0 else -found
