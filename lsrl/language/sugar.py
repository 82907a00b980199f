"""The vocabulary of programs: states, delays, clocks, and what is built from them."""

from typing import Any

import numpy as np

from lsrl.errors import BoundsError, ProgramError, ShapeError
from lsrl.ir import ops
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import exact_array, power_of_two_below
from lsrl.ir.types import Token
from lsrl.language.signal import (
    Signal,
    affine,
    as_matrix,
    as_signal,
    broadcast,
    equal,
    greater_equal,
    logical,
    numbers,
    record,
    relu,
)
from lsrl.language.trace import user_line

Numbers = Any  # a number, a sequence of numbers, or a numpy array


def concat(*signals: Any) -> Signal:
    """The channels of all operands, one after another."""
    parts = [as_signal(signal) for signal in signals]
    if not parts:
        raise ShapeError(f"{user_line()}: concat needs at least one signal")
    rows = sum(part.width for part in parts)
    terms, start = [], 0
    for part in parts:
        place = np.zeros((rows, part.width))
        place[start : start + part.width] = np.eye(part.width)
        terms.append((place, part))
        start += part.width
    return affine(terms)


def _row(value: Numbers, width: int, what: str) -> tuple[float, ...]:
    row = numbers(value, what)
    if len(row) not in (1, width):
        raise ShapeError(f"{user_line()}: {what} needs one number or {width}, got {len(row)}")
    return tuple(np.broadcast_to(row, (width,)).tolist())


def _count(value: Any, what: str, least: int = 1) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ProgramError(f"{user_line()}: {what} must be an int >= {least}, got {value!r}")
    return int(value)


def linear_state(u: Signal, A: Any = 1, initial: Numbers = 0) -> Signal:
    """s_t = A s_{t-1} + u_t.

    Args:
      u: the update, width n.
      A: a number (times the identity) or an (n, n) matrix, dense or scipy.sparse.
      initial: s_{-1}, one number or n.

    Returns:
      The state after this token's update, width n.
    """
    update = as_signal(u)
    matrix = as_matrix(A, update.width)
    return record(ops.LinearState(matrix, _row(initial, update.width, "initial")), update)


def cumsum(u: Signal, initial: Numbers = 0) -> Signal:
    """The running sum of u, this token included."""
    return linear_state(u, 1, initial)


def position() -> Signal:
    """The token's position: 0, 1, 2 and so on."""
    return cumsum(as_signal(1), initial=-1)


def periodic(table: Any) -> Signal:
    """Row t mod n of a table.

    Args:
      table: (n,) or (n, width) numbers.
    """
    return record(ops.Periodic(_table(table)))


def cycle(n: int) -> Signal:
    """The position modulo n: 0, 1, …, n - 1, then 0 again."""
    return periodic(np.arange(_count(n, "cycle(n)")))


def _table(table: Any) -> Matrix:
    try:
        array = exact_array(table, "a table")
    except ProgramError as error:
        raise ProgramError(f"{user_line()}: {error}") from None
    except ValueError as error:
        raise ProgramError(f"{user_line()}: a table holds numbers only ({error})") from error
    if array.ndim not in (1, 2) or not array.size:
        raise ShapeError(
            f"{user_line()}: a table has shape (rows,) or (rows, width), got {array.shape}"
        )
    rows = array.reshape(len(array), -1)
    return as_matrix(rows, rows.shape[1])


def delay(x: Signal, n: int = 1, initial: Numbers = 0) -> Signal:
    """x_{t-n}; `initial` at the first n tokens.

    Args:
      x: any signal.
      n: number of tokens, at least 0.
      initial: one number or one a channel.
    """
    value = as_signal(x)
    steps = _count(n, "delay(x, n)", least=0)
    if steps == 0:
        return value
    return record(ops.Delay(steps, _row(initial, value.width, "initial")), value)


def window_sum(x: Signal, n: int) -> Signal:
    """x_{t-n+1} + … + x_t, with zeros before the first token."""
    value = as_signal(x)
    size, width = _count(n, "window_sum(x, n)"), value.width
    # A shift register a channel; slot k holds x_{t-k}.
    entry = np.kron(np.eye(width), np.eye(size, 1))
    register = np.kron(np.eye(width), np.eye(size, k=-1))
    slots = linear_state(affine([(entry, value)]), register)
    return affine([(np.kron(np.eye(width), np.ones((1, size))), slots)])


def bound(x: Signal, low: Numbers, high: Numbers) -> Signal:
    """x, with the promise that it stays in [low, high].

    The reference evaluator raises BoundsError at the first token that breaks the promise; a
    compiled model checks it with run(check=True).

    Raises:
      BoundsError: the promised interval is empty or excludes every value that x can have.
    """
    value = as_signal(x)
    lows, highs = _row(low, value.width, "low"), _row(high, value.width, "high")
    impossible = (np.array(lows) > value.facts.high) | (np.array(highs) < value.facts.low)
    if any(a > b for a, b in zip(lows, highs, strict=True)) or impossible.any():
        raise BoundsError(
            f"{user_line()}: bound(x, {low}, {high}) leaves no possible value, since inference "
            f"says {value!r}"
        )
    return record(ops.Bound(lows, highs), value)


def select(cond: Any, a: Any, b: Any, via: ops.Via = "auto") -> Signal:
    """A where the condition is 1, b where it is 0.

    Args:
      cond: a {0,1} signal of width 1, or of the width of the values.
      a: signal or numbers.
      b: signal or numbers.
      via: "gate" multiplies, "relu" shuts a ReLU with a big-M from the bounds, "auto" lets the
        target choose.

    Raises:
      ProgramError: the condition can be something else than 0 or 1, or `via` is unknown.
    """
    if via not in ("auto", "gate", "relu"):
        raise ProgramError(f"{user_line()}: via must be 'auto', 'gate' or 'relu', got {via!r}")
    (condition,) = logical("select", cond)
    first, second = broadcast(a, b)
    if condition.width > 1 and first.width == 1:
        first, second, _ = broadcast(first, second, condition)
    return record(ops.Select(via), condition, first, second)


def where(cond: Any, a: Any, b: Any, via: ops.Via = "auto") -> Signal:
    """`select` under numpy's name."""
    return select(cond, a, b, via)


def latch(x: Signal, when: Signal, initial: Numbers = 0) -> Signal:
    """X at the one token where `when` is 1 and ever after; `initial` before.

    That `when` is 1 at most once is a checked promise, and so the latch keeps the bounds of x.
    """
    value = as_signal(x)
    (condition,) = logical("latch", when)
    return record(ops.Latch(_row(initial, value.width, "initial")), value, condition)


def hold(x: Signal, when: Signal, initial: Numbers = 0) -> Signal:
    """X of the last token at which `when` was 1; `initial` before there was one.

    Args:
      x: any signal.
      when: a {0,1} signal of width 1 or of the width of x.
      initial: one number or one a channel.
    """
    value = as_signal(x)
    (condition,) = logical("hold", when)
    if value.width != condition.width:
        value, condition = broadcast(value, condition)
    written = select(condition, value, 0)
    row = _row(initial, value.width, "initial")
    return record(ops.SelectiveState(row, overwrites=True), 1 - condition, written)


def selective_state(keep: Signal, update: Signal, initial: Numbers = 0) -> Signal:
    """s_t = keep_t ⊙ s_{t-1} + update_t with keep in {0,1}.

    Its bounds assume that every update is kept; `hold` has tighter ones.
    """
    (kept,) = logical("selective_state", keep)
    kept, added = broadcast(kept, update)
    return record(ops.SelectiveState(_row(initial, added.width, "initial")), kept, added)


def threshold_state(u: Signal, A: Any, initial: Numbers = 0) -> Signal:
    """h_t = 1 where A h_{t-1} + u_t > 0, else 0: finite automata.

    Args:
      u: the update, width n; A h + u must lie on a grid.
      A: a number (times the identity) or an (n, n) matrix.
      initial: h_{-1}, zeros and ones.

    Raises:
      ProgramError: an initial value that is not 0 or 1, or an argument without a grid.
    """
    update = as_signal(u)
    row = _row(initial, update.width, "initial")
    if not set(row) <= {0.0, 1.0}:
        raise ProgramError(f"{user_line()}: a threshold state starts at zeros and ones, got {row}")
    op = ops.ThresholdState(as_matrix(A, update.width), row)
    if not op.argument(update.facts).gridded:
        raise ProgramError(
            f"{user_line()}: a threshold state needs values on a grid, so that > 0 has a margin; "
            f"got {update!r}, which is continuous"
        )
    return record(op, update)


def recurrent_state(
    u: Signal,
    A: Any,
    *,
    low: Numbers = 0,
    high: Numbers,
    initial: Numbers = 0,
) -> Signal:
    """h_t = relu(A h_{t-1} + u_t).

    Args:
      u: the update, width n.
      A: a number (times the identity) or an (n, n) matrix.
      low: least value of the state, a checked promise.
      high: greatest value of the state, a checked promise.
      initial: h_{-1}.
    """
    update = as_signal(u)
    rows = [
        _row(v, update.width, w) for v, w in ((initial, "initial"), (low, "low"), (high, "high"))
    ]
    return record(ops.RecurrentState(as_matrix(A, update.width), *rows), update)


def minimum(x: Any, y: Any) -> Signal:
    """The smaller of x and y, channel by channel."""
    first, second = broadcast(x, y)
    return first - relu(first - second)


def maximum(x: Any, y: Any) -> Signal:
    """The greater of x and y, channel by channel."""
    first, second = broadcast(x, y)
    return first + relu(second - first)


def absolute(x: Signal) -> Signal:
    """|x|, channel by channel."""
    value = as_signal(x)
    return relu(value) + relu(-value)


def clip(x: Signal, low: Numbers, high: Numbers) -> Signal:
    """x, cut off at low and high."""
    return minimum(maximum(x, low), high)


def mod(x: Signal, n: float) -> Signal:
    """X modulo n, for x >= 0, by log2(max x / n) stages of compare and subtract.

    Raises:
      ProgramError: n is not positive, or not on the grid of x.
      BoundsError: x can be negative.
    """
    value = as_signal(x)
    (divisor,) = _row(n, 1, "mod(x, n)")
    step = value.facts.step
    if (
        divisor <= 0
        or not value.facts.gridded
        or (np.mod(divisor, np.minimum(step, divisor)) != 0).any()
    ):
        raise ProgramError(
            f"{user_line()}: mod(x, n) needs n > 0 on the grid of x, got n={n} and {value!r} with "
            f"step {step.tolist()}"
        )
    if (value.facts.low < 0).any() or not np.isfinite(value.facts.high).all():
        raise BoundsError(
            f"{user_line()}: mod(x, n) needs finite bounds with x >= 0, got {value!r}; add "
            "a multiple of n"
        )
    multiple = divisor
    while multiple * 2 <= value.facts.high.max():
        multiple *= 2
    rise = float(step[np.isfinite(step)].min(initial=divisor))
    while multiple >= divisor and value.facts.high.max() >= divisor:
        # One level instead of two, where the sums stay well within float32.
        small = bool(multiple * value.facts.high.max() <= 2.0**22 * rise**2)
        passed = record(ops.Step(1 / power_of_two_below(rise), 0.0, small), value - multiple)
        value = value - multiple * passed
        # Interval arithmetic can't see that the subtraction follows the comparison; we can.
        value = _narrowed(value, 0.0, multiple - rise)
        multiple /= 2
    return value


def _narrowed(x: Signal, low: float, high: float) -> Signal:
    """`bound` where it is a theorem and not a promise."""
    row = (low,) * x.width, (high,) * x.width
    return record(ops.Bound(*row, proven=True), x)


def one_hot(x: Signal, n: int) -> Signal:
    """The indicator of each value 0 … n - 1 of an integer signal, width n."""
    value = as_signal(x)
    size = _count(n, "one_hot(x, n)")
    if value.width != 1:
        raise ShapeError(f"{user_line()}: one_hot needs a signal of width 1, got {value.width}")
    op = value.trace.builder.nodes[value.index].op
    if isinstance(op, ops.Input) and isinstance(op.type, Token):
        return record(ops.Lookup(Matrix(np.eye(op.type.size, size))), value)
    return equal(value, np.arange(size))


def lookup(x: Signal, table: Any) -> Signal:
    """Row x of a table, for an integer signal x from 0 on.

    Args:
      x: width 1, integers from 0 to rows - 1.
      table: (rows,) or (rows, width) numbers.

    Raises:
      BoundsError: x can lie outside the table.
    """
    value, matrix = as_signal(x), _table(table)
    inside = value.facts.low[0] >= 0 and value.facts.high[0] <= matrix.rows - 1
    if value.width != 1 or not inside or not value.facts.integer:
        raise BoundsError(
            f"{user_line()}: lookup needs integers from 0 to {matrix.rows - 1}, got {value!r}"
        )
    op = value.trace.builder.nodes[value.index].op
    if isinstance(op, ops.Input) and isinstance(op.type, Token):
        return record(ops.Lookup(Matrix(matrix.csr[: op.type.size])), value)
    if matrix.rows == 1:
        return affine([(np.zeros((matrix.columns, 1)), value)], matrix.dense()[0])
    # Thresholds cost one ramp a row and their differences make any table.
    passed = greater_equal(value, np.arange(1, matrix.rows))
    rises = np.diff(matrix.dense(), axis=0)
    return affine([(rises.T, passed)], matrix.dense()[0])
