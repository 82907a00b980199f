"""The ops of random programs: each a function of what the op before it made, and their table."""

from collections.abc import Callable

import numpy as np

from lsrl.errors import ProgramError
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Via
from lsrl.language import sugar
from lsrl.language.comparison import equal, greater_equal, not_equal, ramp
from lsrl.language.division import mod
from lsrl.language.extremes import running_max, running_min
from lsrl.language.memory import memory
from lsrl.language.signal import Signal, absolute, concat, constant, maximum, minimum, relu
from lsrl.language.swaps import swap_state
from lsrl.testing.draws import CALM_BITS, Writer, bits_of, unit_of

VIAS: tuple[Via, ...] = ("auto", "auto", "gate", "relu")
# An op that tames a value has no larger table than this.
LARGEST_TABLE = 12
# `mod` takes two levels for each power of two in the quotient.
LONGEST_MOD = 16
# Powers of two that bring small numbers near the ends of float32 and bfloat16, or of float64.
EXPONENTS = (-1015, -140, -126, -118, -60, 60, 110, 120, 125, 1010)

_Maker = Callable[[Writer, Signal], Signal]


def _affine(writer: Writer, x: Signal) -> Signal:
    rows = writer.fitted(x, writer.some_width())
    if writer.chance(0.4):
        rows = rows + writer.picked(writer.calm_operand(), rows.width)
    return rows + writer.random.integers(-3, 4, rows.width) if writer.chance(0.4) else rows


def _relu(writer: Writer, x: Signal) -> Signal:
    middle = writer.level_of(x)
    signs = writer.random.choice([-1.0, 1.0], x.width)
    if not writer.grown(x):
        return relu((x - middle) * signs)
    # Cut off on both sides, in the form of which interval arithmetic sees both.
    most = unit_of(x.facts) * writer.random.integers(1, 9, x.width)
    return most - relu(most - relu((x - middle) * signs))


def _linear_state(writer: Writer, x: Signal) -> Signal:
    rows = writer.fitted(x, writer.some_width()) if writer.chance(0.5) else x
    matrix = writer.transition(rows.width, growing=not writer.grown(x))
    return sugar.linear_state(rows, matrix, writer.initial(rows))


def _position(writer: Writer, x: Signal) -> Signal:
    now = sugar.position()
    return writer.fitted(concat(now, x), x.width) if writer.chance(0.7) else x - now


def _gate(writer: Writer, x: Signal) -> Signal:
    condition = writer.condition(x.width)
    return condition * x if writer.chance(0.5) else x * condition


def _product(writer: Writer, x: Signal) -> Signal:
    other = writer.like(x)
    return x * (other if bits_of(other.facts) <= CALM_BITS else greater_equal(other, 0))


def _select(writer: Writer, x: Signal) -> Signal:
    other = writer.like(x) if writer.chance(0.7) else writer.random.integers(-3, 4, x.width)
    first, second = (x, other) if writer.chance(0.5) else (other, x)
    via = VIAS[writer.random.integers(len(VIAS))]
    return sugar.select(writer.condition(x.width), first, second, via=via)


def _delay(writer: Writer, x: Signal) -> Signal:
    steps = int(writer.random.choice([1, 1, 2, 3, 5, 9]))
    late = sugar.delay(x, steps, writer.initial(x))
    return x - late if writer.chance(0.2) else late


def _cycle(writer: Writer, x: Signal) -> Signal:
    period = int(writer.random.integers(2, 8))
    if writer.chance(0.5):
        return x + sugar.periodic(writer.random.integers(-2, 3, (period, x.width)))
    return sugar.select(
        equal(sugar.periodic(np.arange(period)), writer.random.integers(period)), x, 0
    )


def _comparison(writer: Writer, x: Signal) -> Signal:
    calm = bits_of(x.facts) <= CALM_BITS and writer.chance(0.4)
    y: Signal | Array = writer.like(x) if calm else writer.level_of(x)
    forms = (
        lambda: x >= y, lambda: x > y, lambda: x < y, lambda: x <= y,
        lambda: equal(x, y), lambda: not_equal(x, y),
    )  # fmt: skip
    return forms[writer.random.integers(len(forms))]()


def _logic(writer: Writer, x: Signal) -> Signal:
    mine = x if x.facts.boolean else greater_equal(x, writer.level_of(x))
    other = writer.condition(x.width)
    forms = (
        lambda: mine & other,
        lambda: mine | other,
        lambda: mine ^ other,
        lambda: ~(mine & other),
    )
    return forms[writer.random.integers(len(forms))]()


def _bound(writer: Writer, x: Signal) -> Signal:
    """A theorem that interval arithmetic can't see: the smaller of two is at most either."""
    level = writer.level_of(x)
    low, high = x.facts.low, x.facts.high
    if writer.chance(0.5):
        return sugar.bound(minimum(x, level), low, np.minimum(level, high))
    return sugar.bound(maximum(x, level), np.maximum(level, low), high)


def _mod(writer: Writer, x: Signal) -> Signal:
    """A value of many bits is cut off before; one that can be negative is lifted by a multiple."""
    step = unit_of(x.facts)
    if len(set(step)) > 1:
        # The divisor has to lie on every channel's grid, so keep to the channels of one grid.
        x = x[np.flatnonzero(step == step[0])]
    unit = float(step[0])
    divisor = unit * int(writer.random.integers(2, 8))
    if x.facts.high.max() - x.facts.low.min() > LONGEST_MOD * divisor:
        most = unit * (LONGEST_MOD - 1)
        x = most - relu(most - relu(x - writer.level_of(x)))
    lift = np.ceil(np.maximum(-x.facts.low, 0) / divisor) * divisor
    return mod(x + lift if lift.any() else x, divisor)


def _lookup(writer: Writer, x: Signal) -> Signal:
    index = _small_integer(writer, x)
    rows = int(index.facts.high[0]) + 1
    return sugar.lookup(index, writer.random.integers(-4, 5, (rows, writer.some_width())))


def _one_hot(writer: Writer, x: Signal) -> Signal:
    index = _small_integer(writer, x)
    return sugar.one_hot(index, int(index.facts.high[0]) + 1)


def _small_integer(writer: Writer, x: Signal) -> Signal:
    """Integers from 0 on that tell something of x: how many levels it has reached."""
    row = writer.picked(x, 1)
    facts = row.facts
    if facts.integer and facts.low[0] >= 0 and facts.high[0] < LARGEST_TABLE:
        return row
    if facts.integer and facts.high[0] - facts.low[0] < LARGEST_TABLE:
        return row - facts.low[0]
    channels = writer.picked(x, int(writer.random.integers(2, 6)))
    return greater_equal(channels, writer.level_of(channels)).sum()


def _rival(writer: Writer, x: Signal) -> Signal:
    return writer.like(x) if writer.chance(0.6) else constant(writer.level_of(x))


def _clip(writer: Writer, x: Signal) -> Signal:
    """Cut off within a few steps, with the promise that this makes true."""
    low = writer.level_of(x)
    high = low + unit_of(x.facts) * writer.random.integers(1, 9, x.width)
    return sugar.bound(sugar.clip(x, low, high), low, high)


def _threshold_state(writer: Writer, x: Signal) -> Signal:
    rows = writer.fitted(x, min(writer.some_width(), 4))
    rows = rows - writer.level_of(rows)
    matrix = writer.any_integers(rows.width)
    return sugar.threshold_state(rows, matrix, writer.random.integers(0, 2, rows.width))


def _recurrent_state(writer: Writer, x: Signal) -> Signal:
    """Rows of one entry of ±1 at most, so that a running sum of the updates is a bound."""
    matrix = writer.signed_permutation(x.width) if writer.chance(0.7) else writer.shift(x.width)
    initial = np.abs(writer.initial(x))
    most = np.max(initial) + writer.length * max(x.facts.high.max(), 0.0)
    return sugar.recurrent_state(x, matrix, high=most, initial=initial)


def _scale(writer: Writer, x: Signal) -> Signal:
    """Values near the ends of a dtype; back to where they were, where they lie there already."""
    size = float(np.max(x.facts.magnitude)) or 1.0
    far = not 2.0**-40 < size < 2.0**40
    if far and writer.chance(0.5):
        return x * 2.0 ** -np.round(np.log2(size))
    exponents = [e for e in EXPONENTS if abs(np.log2(size) + e) < 1020]
    return x * 2.0 ** exponents[writer.random.integers(len(exponents))] if exponents else x / 2


def _odd_mod(writer: Writer, x: Signal) -> Signal:
    """A divisor off the grid of the value, where the language takes one, else one of twice it."""
    row = _small_integer(writer, x)
    factor, divisor = (int(k) for k in writer.random.choice([2, 3, 4, 5, 7], 2, replace=False))
    try:
        return mod(row * factor, divisor)
    except ProgramError:
        return mod(row * factor, 2 * factor)


def _ramp(writer: Writer, x: Signal) -> Signal:
    """Ramps of some steps of the grid: values on their slopes, which are defined."""
    width = float(np.max(unit_of(x.facts))) * float(writer.random.choice([0.5, 1, 2, 4, 8]))
    return ramp(x, writer.level_of(x), width)


def _ramped(writer: Writer, x: Signal) -> Signal:
    """A comparison with a ramp as wide as several steps, which the values are moved out of."""
    difference = x - writer.level_of(x)
    width = float(np.max(unit_of(x.facts))) * float(writer.random.choice([0.5, 2, 3, 4, 8]))
    narrow = float(np.min(unit_of(x.facts)))
    reached = greater_equal(difference, 0)
    apart = difference - width * (1 - reached)
    forms = (
        lambda: greater_equal(apart, 0, ramp=width),
        lambda: 1 - greater_equal(-apart, 0, ramp=narrow),
        lambda: not_equal(apart * (1 - reached), 0, ramp=width),
    )
    return forms[writer.random.integers(len(forms))]()


def _deep_select(writer: Writer, x: Signal) -> Signal:
    """Conditionals within conditionals, of a mixed kind of gates."""
    for _ in range(int(writer.random.integers(2, 5))):
        x = _select(writer, x)
    return x


def _nested_latch(writer: Writer, x: Signal) -> Signal:
    """What was latched is latched again."""
    for _ in range(int(writer.random.integers(2, 4))):
        x = sugar.latch(x, writer.pulse(), writer.initial(x))
        if writer.chance(0.4):
            x = x + writer.like(x)
    return x


def _changed_hold(writer: Writer, x: Signal) -> Signal:
    """A hold that is told its change, by way of a running sum that is the same."""
    when, initial = writer.condition(x.width), writer.initial(x)
    before = sugar.delay(sugar.cumsum(sugar.select(when, x, 0), initial), 1, initial)
    return sugar.hold(before + x, when, initial, change=x)


def _clock(writer: Writer, x: Signal) -> Signal:
    """A state that reads nothing and comes back to where it was."""
    size = int(writer.random.integers(2, 8))
    matrix = writer.permutation(size) if writer.chance(0.5) else np.roll(np.eye(size), 1, axis=0)
    initial = writer.random.integers(-2, 3, size)
    turning = sugar.linear_state(constant(np.zeros(size)), matrix, initial)
    return x + writer.fitted(turning, x.width)


def _swap_state(writer: Writer, x: Signal) -> Signal:
    """Swaps, and orders that are read, by what is known of x."""
    index, points = _small_integer(writer, x), int(writer.random.integers(2, 5))
    size, random = int(index.facts.high[0]) + 1, writer.random
    swaps = np.zeros((size, points))
    for number in np.flatnonzero(random.random(size) < 0.7):
        swaps[number, random.choice(points, 2, replace=False)] = 1
    if writer.chance(0.5):
        return swap_state(sugar.lookup(index, swaps))
    orders = np.argsort(random.random((size, points)), axis=1) + 1
    return swap_state(sugar.lookup(index, swaps), sugar.lookup(index, orders))


def _memory(writer: Writer, x: Signal) -> Signal:
    """A table of few cells, with gaps, whose addresses, values and conditions tell of x."""
    value, gap = writer.fitted(x, int(writer.random.integers(1, 3))), writer.chance(0.4)
    segments, words = ((0, 2), (4, 7)) if gap else ((0, 5),), int(writer.random.integers(1, 4))
    initial = 0 if writer.chance(0.6) else writer.random.integers(-2, 3, 5 * value.width)
    table = memory(
        _small_integer(writer, writer.like(x)) - 1, value, writer.condition(1),
        segments=segments, initial=initial, words=words,
        columns=3 if writer.chance(0.3) else None,
    )  # fmt: skip
    when = writer.condition(1) if writer.chance(0.5) else 1
    return table.read(_small_integer(writer, x) - 1, words, when)


def _running_max(writer: Writer, x: Signal) -> Signal:
    """Of few values, so that every target holds it; the minimum, or a later start, now and then."""
    value = _small_integer(writer, x) * writer.random.integers(1, 4)
    initial = None if writer.chance(0.5) else int(writer.random.integers(-2, 4))
    start = writer.condition(1) if writer.chance(0.3) else None
    running = running_min if writer.chance(0.4) else running_max
    return running(value, initial, start=start)


_TABLE: dict[str, _Maker] = {
    "affine": _affine,
    "relu": _relu,
    "linear_state": _linear_state,
    "cumsum": lambda writer, x: sugar.cumsum(x, writer.initial(x)),
    "position": _position,
    "gate": _gate,
    "product": _product,
    "select": _select,
    "delay": _delay,
    "cycle": _cycle,
    "window_sum": lambda writer, x: sugar.window_sum(x, int(writer.random.integers(2, 7))),
    "comparison": _comparison,
    "logic": _logic,
    "latch": lambda writer, x: sugar.latch(x, writer.pulse(), writer.initial(x)),
    "bound": _bound,
    "mod": _mod,
    "lookup": _lookup,
    "one_hot": _one_hot,
    "minimum": lambda writer, x: minimum(x, _rival(writer, x)),
    "maximum": lambda writer, x: maximum(_rival(writer, x), x),
    "absolute": lambda writer, x: absolute(x - writer.level_of(x)),
    "clip": _clip,
    "hold": lambda writer, x: sugar.hold(x, writer.condition(x.width), writer.initial(x)),
    "selective_state": lambda writer, x: sugar.selective_state(
        writer.condition(x.width), x, writer.initial(x)
    ),
    "threshold_state": _threshold_state,
    "recurrent_state": _recurrent_state,
}
_EDGE_TABLE: dict[str, _Maker] = {
    "scale": _scale,
    "odd_mod": _odd_mod,
    "ramp": _ramp,
    "ramped": _ramped,
    "deep_select": _deep_select,
    "nested_latch": _nested_latch,
    "clock": _clock,
    "changed_hold": _changed_hold,
}
_FURTHER_TABLE: dict[str, _Maker] = {
    "swap_state": _swap_state,
    "memory": _memory,
    "running_max": _running_max,
}
MAKERS: dict[str, _Maker] = _TABLE | _EDGE_TABLE | _FURTHER_TABLE

# Every name that `random_program` knows; `gate` is a product with a {0,1} operand, `product` any.
OPS: tuple[str, ...] = tuple(_TABLE)
# What is easily forgotten; see `random_program`. Both linear targets hold these.
EDGE_OPS: tuple[str, ...] = tuple(_EDGE_TABLE)
# What is asked for by name alone: swaps, which few targets hold, and tables, which are large.
FURTHER_OPS: tuple[str, ...] = tuple(_FURTHER_TABLE)
# Ops that need a greatest length.
COUNTING = ("cumsum", "position", "selective_state", "recurrent_state", "changed_hold")
# Those that both linear targets hold: all but these, which multiply two values or have gates.
_GATED = {"product", "hold", "selective_state", "threshold_state", "recurrent_state"}
LINEAR_OPS: tuple[str, ...] = tuple(name for name in OPS if name not in _GATED)
# Ops whose result has few bits whatever they read, and ops that move a value and leave its size.
TAMERS = ("comparison", "logic", "mod", "lookup", "one_hot", "clip", "relu", "threshold_state")
MILD = ("delay", "linear_state", "select", "gate")
WITH_MEMORY = ("linear_state", "cumsum", "delay", "window_sum", "latch", "hold", "selective_state")
GROWING = (
    "affine",
    "linear_state",
    "cumsum",
    "window_sum",
    "product",
    "recurrent_state",
    "changed_hold",
)
