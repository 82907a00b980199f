"""States that swaps permute."""

import numpy as np

from lsrl.errors import ProgramError, ShapeError
from lsrl.ir import ops
from lsrl.language.signal import Signal, absolute, affine, as_signal, logical, record
from lsrl.language.starts import started
from lsrl.language.sugar import bound, check_keeper, known, select
from lsrl.language.trace import user_line


def swap_state(
    swap: Signal,
    read: Signal | None = None,
    keeper: ops.Keeper = "program",
    *,
    start: Signal | None = None,
) -> Signal:
    """Where each of n items stands, of which every token swaps two, or none.

    Item j starts at place j. At a token the items at the two places where `swap` is 1 change
    places. Every finite group of permutations is moved so, one swap a token or several; the target
    deltanet holds it at any length.

    Args:
      swap: a {0,1} signal of width n, at least 2, which is 1 at no place or at two: a checked
        promise.
      read: by default the number of each place, from 1, seen through this token's swap, so that the
        value is where the items stand behind it. Else what stands at each place for the items that
        stand there *before* this token's swap: the numbers 1 to n, in an order that may differ from
        token to token, which is a checked promise too.
      keeper: whose promises these are, as for `bound`.
      start: as for `lsrl.linear_state`: nothing is swapped before.

    Returns:
      Width n, integers from 1 to n: what is read at the place of each item.

    Raises:
      ProgramError: swap can be something else than 0 or 1, or read something else than 1 to n.
      ShapeError: fewer than 2 places, or a read of another width.

    Source: Siems et al. (2025), "DeltaProduct", of the reflections that hold it.

    Example:
      @lsrl.program
      def cups(token: lsrl.Token(3)):
          return lsrl.swap_state(lsrl.lookup(token, [[0, 0, 0], [1, 1, 0], [0, 1, 1]]))
    """
    (moves,) = logical("swap_state", swap)
    if start is not None:
        moves = moves & started(start)
    points = moves.width
    if points < 2:
        raise ShapeError(
            f"{user_line()}: swap_state needs at least two places to swap, got a swap of width "
            f"{points}; it has a channel a place, 1 at the two that are swapped"
        )
    check_keeper(keeper)
    seen = _behind(moves, keeper) if read is None else _checked(read, points)
    signed = record(ops.SwapState(points, keeper), moves, seen)
    return known(absolute(signed), 1, points)


def _behind(swap: Signal, keeper: ops.Keeper) -> Signal:
    """The place, from 1, to which a swap takes what stands at each."""
    places = np.arange(1, swap.width + 1)
    # Checked first, so that it is this promise that breaks and no theorem that needs it.
    bound(swap.sum(), 0, 2, keeper, step=2)
    both = affine([(np.tile(places, (swap.width, 1)), swap)], -places)
    return known(select(swap, both, places), 1, swap.width)


def _checked(read: Signal, points: int) -> Signal:
    value = as_signal(read)
    if value.width != points:
        raise ShapeError(
            f"{user_line()}: read has a channel a place, {points} as swap has, got {value.width}"
        )
    facts = value.facts
    if not facts.integer or facts.low.min() < 1 or facts.high.max() > points:
        raise ProgramError(
            f"{user_line()}: read is 1 to {points} in some order, got {value!r}; "
            f"lsrl.bound(read, 1, {points}) promises bounds, and lsrl.lookup makes it of a table"
        )
    return value
