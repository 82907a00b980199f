"""The skills that a search begins with, as functions of LSRL.

A parameter after the star is a constant, which is tried with the numbers of a task.
"""

from collections.abc import Callable

import lsrl
from lsrl.language.signal import Signal
from lsrl.programs.prompted import above, larger, minus, plus, previous, total


def increment(x: Signal) -> Signal:
    """The next number."""
    return x + 1


def decrement(x: Signal) -> Signal:
    """The number before."""
    return x - 1


def negative(x: Signal) -> Signal:
    """-x."""
    return -x


def absolute(x: Signal) -> Signal:
    """|x|."""
    return lsrl.absolute(x)


def positive_part(x: Signal) -> Signal:
    """max(x, 0)."""
    return lsrl.relu(x)


def is_zero(x: Signal) -> Signal:
    """1 where x is 0."""
    return x == 0


def is_positive(x: Signal) -> Signal:
    """1 where x is above 0."""
    return x > 0


def rise(x: Signal) -> Signal:
    """By how much x has changed."""
    return x - lsrl.delay(x)


def surplus(bit: Signal) -> Signal:
    """How many more ones than zeros were read: each is a step down or up."""
    return lsrl.cumsum(2 * bit - 1)


def greatest(x: Signal) -> Signal:
    """The running maximum."""
    return lsrl.running_max(x)


def least(x: Signal) -> Signal:
    """The running minimum."""
    return lsrl.running_min(x)


def index_of_greatest(x: Signal) -> Signal:
    """Of several channels, the number of the greatest."""
    return lsrl.argmax(x)


def remainder(x: Signal, *, n: int) -> Signal:
    """X modulo a constant."""
    return x % n


def quotient(x: Signal, *, n: int) -> Signal:
    """X divided by a constant, rounded down."""
    return x // n


def smaller(x: Signal, y: Signal) -> Signal:
    """The smaller one."""
    return lsrl.minimum(x, y)


def same(x: Signal, y: Signal) -> Signal:
    """1 where they are equal."""
    return x == y


def both(x: Signal, y: Signal) -> Signal:
    """1 where both bits are 1."""
    return x & y


def either(x: Signal, y: Signal) -> Signal:
    """1 where some bit is 1."""
    return x | y


def gated(x: Signal, bit: Signal) -> Signal:
    """X where the bit is 1, else 0."""
    return lsrl.select(bit, x, 0)


def held(x: Signal, bit: Signal) -> Signal:
    """X where the bit was 1 last."""
    return lsrl.hold(x, bit)


STANDARD: tuple[Callable[..., object], ...] = (
    increment, decrement, negative, absolute, positive_part, is_zero, is_positive, total, previous,
    rise, surplus, greatest, least, index_of_greatest, remainder, quotient, both, either, plus,
    minus, smaller, larger, same, above, gated, held,
)  # fmt: skip
