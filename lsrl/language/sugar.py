"""The vocabulary of programs: states, delays, clocks, and what is built from them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import BoundsError, ProgramError, ShapeError
from lsrl.ir import ops
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import exact_array, floats, lowest_bit_of
from lsrl.ir.types import Token
from lsrl.language.comparison import equal, greater_equal
from lsrl.language.constants import as_matrix, numbers
from lsrl.language.signal import (
    Operand,
    Signal,
    affine,
    as_signal,
    broadcast,
    combine,
    concat,
    logical,
    maximum,
    meaning,
    minimum,
    record,
    relu,
)
from lsrl.language.starts import started
from lsrl.language.trace import user_line

# Integers that a power or an exponent may range over to be a table, of a ramp each.
LARGEST_POWER = 256


def row_of(value: ArrayLike, width: int, what: str) -> tuple[float, ...]:
    """One number a channel, of as many or of one."""
    row = numbers(value, what)
    if len(row) not in (1, width):
        raise ShapeError(f"{user_line()}: {what} needs one number or {width}, got {len(row)}")
    return floats(np.broadcast_to(row, (width,)))


def _count(value: object, what: str, least: int = 1) -> int:
    return arguments.count(f"{user_line()}: n of {what}", value, least, kind=ProgramError)


def _state(
    op: ops.LinearState | ops.ThresholdState | ops.RecurrentState,
    update: Signal,
    start: Signal | None,
) -> Signal:
    """A state that is fed back by a matrix. Before its start it reads what keeps it as it is."""
    if start is None:
        return record(op, update)
    initial = [Fraction(value) for value in op.initial]
    fed_back = [Fraction(0)] * len(initial)
    matrix = op.transition
    for row, column, weight in zip(matrix.entry_rows(), matrix.indices, matrix.data, strict=True):
        fed_back[row] += Fraction(float(weight)) * initial[column]
    keeps = [own - back for own, back in zip(initial, fed_back, strict=True)]
    if any(Fraction(float(value)) != value for value in keeps):
        raise ProgramError(
            f"{user_line()}: with start= a state is fed initial - A initial until it starts, which "
            "float64 would round here; start at 0, or at fewer digits"
        )
    late = record(op, select(started(start), update, [float(value) for value in keeps]))
    # From its start on it is one that began so many tokens later.
    early = op.infer([update.facts], update.trace.builder.tokens)
    low, high = np.minimum(early.low, op.initial), np.maximum(early.high, op.initial)
    return known(late, low, high) if np.isfinite([low, high]).all() else late


def linear_state(
    u: Signal, A: object = 1, initial: ArrayLike = 0, *, start: Signal | None = None
) -> Signal:
    """s_t = A s_{t-1} + u_t.

    Args:
      u: the update, width n.
      A: a number (times the identity) or an (n, n) matrix, dense or scipy.sparse.
      initial: s_{-1}, one number or n.
      start: a {0,1} signal of width 1: the state is `initial` until it is 1 for the first time, and
        takes the update of that token.

    Returns:
      The state after this token's update, width n.

    Source: Petrov et al. (2024), arXiv 2406.01424, `LinState`.

    Example:
      @lsrl.program(max_length=20)
      def halved(x: lsrl.Vector(1, low=0, high=1)):
          return lsrl.linear_state(x, 0.5)  # s_t = s_(t-1) / 2 + x_t
    """
    update = as_signal(u)
    matrix = as_matrix(A, update.width)
    return _state(ops.LinearState(matrix, row_of(initial, update.width, "initial")), update, start)


def cumsum(u: Signal, initial: ArrayLike = 0, *, start: Signal | None = None) -> Signal:
    """The running sum of u, this token included; with `start`, from there (`linear_state`).

    Args:
      u: any signal.
      initial: what it begins with, one number or one a channel.
      start: as for `linear_state`.

    Example:
      @lsrl.program(max_length=100)
      def ones(bit: lsrl.Token(2)):
          return lsrl.cumsum(bit)
    """
    return linear_state(u, 1, initial, start=start)


def position(*, start: Signal | None = None) -> Signal:
    """The token's position: 0, 1, 2 and so on; with `start` counted from there, and before -1.

    Args:
      start: as for `linear_state`; where it is first 1, the position is 0.

    Returns:
      Integers, width 1.

    Example:
      @lsrl.program(max_length=100)
      def place(x: lsrl.Token(2)):
          return lsrl.concat(lsrl.position(), lsrl.position(start=x == 1))
    """
    return cumsum(as_signal(1), initial=-1, start=start)


def periodic(table: object) -> Signal:
    """Row t mod n of a table.

    Args:
      table: (n,) or (n, width) numbers.

    Example:
      @lsrl.program
      def weekly(x: lsrl.Token(2)):
          return lsrl.periodic([5, 6, 7])
    """
    return record(ops.Periodic(_table(table)))


def cycle(n: int) -> Signal:
    """The position modulo n: 0, 1, …, n - 1, then 0 again.

    Args:
      n: number of tokens, at least 1.

    Returns:
      Integers from 0 to n - 1, width 1.

    Raises:
      ProgramError: n is no such int.

    Example:
      @lsrl.program
      def clock(x: lsrl.Token(2)):
          return lsrl.cycle(3)
    """
    return periodic(np.arange(_count(n, "cycle(n)")))


def _table(table: object) -> Matrix:
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


def delay(x: Signal, n: int = 1, initial: ArrayLike = 0, *, start: Signal | None = None) -> Signal:
    """x_{t-n}; `initial` at the first n tokens.

    Args:
      x: any signal.
      n: number of tokens, at least 0.
      initial: one number or one a channel.
      start: as for `linear_state`: x counts as `initial` before, so that the first n tokens are
        those from there on.

    Example:
      @lsrl.program
      def before(x: lsrl.Token(10)):
          return lsrl.delay(x, 2, initial=9)
    """
    value = as_signal(x)
    steps = _count(n, "delay(x, n)", least=0)
    row = row_of(initial, value.width, "initial")
    if start is not None:
        value = select(started(start), value, row)
    return value if steps == 0 else record(ops.Delay(steps, row), value)


def window_sum(x: Signal, n: int, *, start: Signal | None = None) -> Signal:
    """x_{t-n+1} + … + x_t, with zeros before the first token, or before `start`.

    Args:
      x: any signal.
      n: number of tokens, this one included, at least 1.
      start: as for `linear_state`.

    Returns:
      The same width; it is held in n slots a channel.

    Raises:
      ProgramError: n is no such int.

    Example:
      @lsrl.program
      def recent(x: lsrl.Token(10)):
          return lsrl.window_sum(x, 2)
    """
    value = as_signal(x)
    if start is not None:
        value = select(started(start), value, 0)
    size, width = _count(n, "window_sum(x, n)"), value.width
    # A shift register a channel; slot k holds x_{t-k}.
    slots = np.arange(width * size)
    first = Matrix.selection(np.arange(width) * size, len(slots)).csr.T
    register = Matrix.shift(len(slots)).csr * (slots % size > 0)[:, None]
    held = linear_state(affine([(first, value)]), register)
    return affine([(Matrix.selection(slots // size, width).csr.T, held)])


def bound(
    x: Signal,
    low: ArrayLike,
    high: ArrayLike,
    keeper: ops.Keeper = "program",
    step: ArrayLike = 0,
) -> Signal:
    """x, with the promise that it stays in [low, high]; x itself where inference proves that.

    The reference evaluator raises PromiseError at the first token that breaks the promise; a
    compiled model checks it with run(check=True).

    Args:
      x: any signal.
      low: one number or one a channel.
      high: one number or one a channel.
      keeper: "program" where it holds for every input of the declared types, by the way the program
        is written (checked, not proven); "prompt" where it is for a legal prompt to keep.
      step: promise, too, that every value is a multiple of this power of two; 0 promises nothing.
        One far below what matters, such as 2^-80, says that no value is smaller and not 0, which is
        what "exact in float32" needs to know of real numbers.

    Raises:
      BoundsError: the promised interval is empty or excludes every value that x can have.
      ProgramError: an unknown keeper.

    Example:
      @lsrl.program(max_length=100)
      def promised(bit: lsrl.Token(2)):
          return lsrl.bound(lsrl.cumsum(bit), 0, 5)  # at most five ones: the caller's promise
    """
    value = as_signal(x)
    check_keeper(keeper)
    lows, highs = row_of(low, value.width, "low"), row_of(high, value.width, "high")
    impossible = (np.array(lows) > value.facts.high) | (np.array(highs) < value.facts.low)
    if any(a > b for a, b in zip(lows, highs, strict=True)) or impossible.any():
        raise BoundsError(
            f"{user_line()}: bound(x, {low!s}, {high!s}) leaves no possible value, since inference "
            f"says {value!r}"
        )
    steps = row_of(step, value.width, "step")
    if any(each < 0 or each not in (0, lowest_bit_of(each)) for each in steps):
        raise ProgramError(f"{user_line()}: step must be powers of two or 0, got {step!s}")
    known_grid = (value.facts.step >= steps).all()
    if (value.facts.low >= lows).all() and (value.facts.high <= highs).all() and known_grid:
        return value
    grid = () if known_grid else steps
    return record(ops.Bound(lows, highs, keeper=keeper, step=grid), value)


def check_keeper(keeper: object) -> None:
    """A keeper of promises; else raise ProgramError."""
    arguments.choice(f"{user_line()}: keeper", keeper, get_args(ops.Keeper), ProgramError)


def select(cond: Operand, a: Operand, b: Operand, via: ops.Via = "auto") -> Signal:
    """A where the condition is 1, b where it is 0.

    Args:
      cond: a {0,1} signal of width 1, or of the width of the values.
      a: signal or numbers.
      b: signal or numbers.
      via: "gate" multiplies, "relu" shuts a ReLU with a big-M from the bounds, "auto" lets the
        target choose.

    Raises:
      ProgramError: the condition can be something else than 0 or 1, or `via` is unknown.

    Example:
      @lsrl.program
      def chosen(bit: lsrl.Token(2), x: lsrl.Vector(2, low=0, high=9)):
          return lsrl.select(bit == 1, x[0], x[1])
    """
    arguments.choice(f"{user_line()}: via", via, get_args(ops.Via), ProgramError)
    (condition,) = logical("select", cond)
    first, second = broadcast(a, b)
    if condition.width > 1 and first.width == 1:
        first, second, _ = broadcast(first, second, condition)
    return record(ops.Select(via), condition, first, second)


@meaning("np.where")
def where(cond: Operand, a: Operand, b: Operand, via: ops.Via = "auto") -> Signal:
    """`select` under numpy's name.

    Args:
      cond: as for `select`.
      a: where it is 1.
      b: where it is 0.
      via: as for `select`.

    Example:
      @lsrl.program
      def sign(x: lsrl.Vector(1, low=-5, high=5, step=1)):
          return lsrl.where(x > 0, 1, -1)
    """
    return select(cond, a, b, via)


def latch(
    x: Signal,
    when: Signal,
    initial: ArrayLike = 0,
    keeper: ops.Keeper = "program",
    *,
    start: Signal | None = None,
) -> Signal:
    """X at the one token where `when` is 1 and ever after; `initial` before.

    That `when` is 1 at most once is a checked promise, and so the latch keeps the bounds of x.

    Args:
      x: any signal.
      when: a {0,1} signal of width 1.
      initial: one number or one a channel.
      keeper: whose promise it is, as for `bound`.
      start: as for `linear_state`: what `when` says before does not count.

    Example:
      @lsrl.program(max_length=100)
      def first(x: lsrl.Token(10)):
          return lsrl.latch(x, lsrl.position() == 1)  # kept from token 1 on
    """
    value = as_signal(x)
    (condition,) = logical("latch", when)
    check_keeper(keeper)
    if start is not None:
        condition = condition & started(start)
    return record(ops.Latch(row_of(initial, value.width, "initial"), keeper), value, condition)


def hold(
    x: Signal,
    when: Signal,
    initial: ArrayLike = 0,
    change: Operand | None = None,
    keeper: ops.Keeper = "program",
    *,
    start: Signal | None = None,
) -> Signal:
    """X of the last token at which `when` was 1; `initial` before there was one.

    A target that can't overwrite needs the change: it adds up the changes instead.

    Args:
      x: any signal.
      when: a {0,1} signal of width 1 or of the width of x.
      initial: one number or one a channel.
      change: with it comes the checked promise that where `when` is 1, x is what was held before
        plus the change.
      keeper: whose promise that is, as for `bound`.
      start: as for `linear_state`: what `when` says before does not count.

    Example:
      @lsrl.program
      def last_even(x: lsrl.Token(10)):
          return lsrl.hold(x, x % 2 == 0)
    """
    value = as_signal(x)
    (condition,) = logical("hold", when)
    check_keeper(keeper)
    if start is not None:
        condition = condition & started(start)
    if value.width != condition.width:
        value, condition = broadcast(value, condition)
    row = row_of(initial, value.width, "initial")
    if change is not None:
        value, added = broadcast(value, change)
        return record(ops.Hold(row, keeper), value, condition, added)
    written = select(condition, value, 0)
    return record(ops.SelectiveState(row, overwrites=True), 1 - condition, written)


def selective_state(
    keep: Signal, update: Signal, initial: ArrayLike = 0, *, start: Signal | None = None
) -> Signal:
    """s_t = keep_t ⊙ s_{t-1} + update_t with keep in {0,1}; with `start`, `initial` before it.

    Its bounds assume that every update is kept; `hold` has tighter ones.

    Args:
      keep: {0,1}, width 1 or that of the update.
      update: width n.
      initial: s_{-1}, one number or n.
      start: as for `linear_state`.

    Raises:
      ProgramError: `keep` can be something else than 0 or 1.

    Source: Gu and Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
    section 3.

    Example:
      @lsrl.program(max_length=100)
      def kept(bit: lsrl.Token(2), x: lsrl.Vector(1, low=0, high=1)):
          return lsrl.selective_state(bit == 1, lsrl.where(bit == 1, 0, x))  # 0 overwrites
    """
    (kept,) = logical("selective_state", keep)
    kept, added = broadcast(kept, update)
    if start is not None:
        begun = started(start)
        kept, added = kept | ~begun, select(begun, added, 0)
    return record(ops.SelectiveState(row_of(initial, added.width, "initial")), kept, added)


def threshold_state(
    u: Signal, A: object, initial: ArrayLike = 0, *, start: Signal | None = None
) -> Signal:
    """h_t = 1 where A h_{t-1} + u_t > 0, else 0: finite automata.

    Args:
      u: the update, width n; A h + u must lie on a grid.
      A: a number (times the identity) or an (n, n) matrix.
      initial: h_{-1}, zeros and ones.
      start: as for `linear_state`.

    Raises:
      ProgramError: an initial value that is not 0 or 1, or an argument without a grid.

    Source: McCulloch and Pitts (1943), "A Logical Calculus of the Ideas Immanent in Nervous
    Activity".

    Example:
      @lsrl.program
      def switch(command: lsrl.Token(3)):
          return lsrl.threshold_state(command - 1, 1)  # 0 clears, 1 keeps, 2 sets
    """
    update = as_signal(u)
    row = row_of(initial, update.width, "initial")
    if not set(row) <= {0.0, 1.0}:
        raise ProgramError(f"{user_line()}: a threshold state starts at zeros and ones, got {row}")
    op = ops.ThresholdState(as_matrix(A, update.width), row)
    if not op.argument(update.facts).gridded:
        raise ProgramError(
            f"{user_line()}: a threshold state needs values on a grid, so that > 0 has a margin; "
            f"got {update!r}, which is continuous"
        )
    return _state(op, update, start)


def recurrent_state(
    u: Signal,
    A: object,
    *,
    low: ArrayLike = 0,
    high: ArrayLike,
    initial: ArrayLike = 0,
    start: Signal | None = None,
) -> Signal:
    """h_t = relu(A h_{t-1} + u_t).

    Args:
      u: the update, width n.
      A: a number (times the identity) or an (n, n) matrix.
      low: least value of the state, a checked promise.
      high: greatest value of the state, a checked promise.
      initial: h_{-1}.
      start: as for `linear_state`; what it starts at is to lie from low to high then, and not below
        0.

    Source: Elman (1990), "Finding Structure in Time", with a ReLU.

    Example:
      @lsrl.program
      def queue(arrived: lsrl.Vector(1, low=0, high=3, step=1)):
          return lsrl.recurrent_state(arrived - 1, 1, high=20)  # one is served a token
    """
    update = as_signal(u)
    rows = [
        row_of(v, update.width, w) for v, w in ((initial, "initial"), (low, "low"), (high, "high"))
    ]
    if any(a > b for a, b in zip(rows[1], rows[2], strict=True)) or min(rows[2]) < 0:
        raise BoundsError(
            f"{user_line()}: recurrent_state promises low={low!s} to high={high!s}, which no value "
            "h = relu(...) has; expected low <= high and high >= 0"
        )
    held = all(max(a, 0) <= value <= b for value, a, b in zip(*rows, strict=True))
    if start is not None and not held:
        raise BoundsError(
            f"{user_line()}: before its start the state is initial={initial!s}, expected from "
            f"low={low!s} to high={high!s} and not below 0"
        )
    return _state(ops.RecurrentState(as_matrix(A, update.width), *rows), update, start)


@meaning("clip", "np.clip")
def clip(x: Signal, low: ArrayLike, high: ArrayLike) -> Signal:
    """x, cut off at low and high.

    Args:
      x: any signal.
      low: one number or one a channel.
      high: one number or one a channel.

    Returns:
      The same width.

    Example:
      @lsrl.program
      def clipped(x: lsrl.Vector(1, low=-5, high=5)):
          return lsrl.clip(x, 0, 2)
    """
    return minimum(maximum(x, low), high)


@meaning("power")
def _power(x: Operand, n: Operand) -> Signal:
    """X ** n for an int n >= 0: a table where x is one of few integers, else products.

    Of a number x: a table, for a signal n of few integers from 0 on.
    """
    if not isinstance(x, Signal):
        base = _number(x)
        return _table_of(as_signal(n), lambda exponent: base**exponent, f"{base} ** x", 0)
    whole = not isinstance(n, Signal) and np.ndim(n) == 0 and numbers(n, "n of x ** n")[0]
    if whole is False or whole < 0 or whole != int(whole):
        raise ProgramError(
            f"{user_line()}: x ** n needs an int n >= 0, got {shown(n)}; for few integers x from 0 "
            "on, write lsrl.lookup(x, [v ** n for v in ...])"
        )
    exponent, facts = int(whole), x.facts
    if exponent == 0:
        return 0 * x + 1
    if exponent == 1 or facts.boolean:
        return x
    if facts.integer and (facts.high - facts.low < LARGEST_POWER).all():
        return _table_of(x, lambda base: base**exponent, "x ** n", -LARGEST_POWER)
    half = _power(x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


def _number(value: object) -> int | float:
    (number,) = row_of(cast(ArrayLike, value), 1, "x of x ** n")
    return int(number) if number.is_integer() else number


def _table_of(x: Signal, entry: Callable[[int], int | float], what: str, least: int) -> Signal:
    """What a function of one integer is, for each channel; x of few integers from `least` on."""
    facts = x.facts
    few = facts.integer and (facts.high - facts.low < LARGEST_POWER).all()
    if not few or (facts.low < least).any():
        raise ProgramError(
            f"{user_line()}: {what} needs integers from {least} on, fewer than {LARGEST_POWER} of "
            f"them, got {x!r} with step {facts.step.tolist()}; lsrl.bound(x, low, high) promises "
            "bounds"
        )
    found = []
    for channel, low, high in zip(x, facts.low.tolist(), facts.high.tolist(), strict=True):
        # A token's own table is looked up, and takes no comparison.
        start = 0 if low >= 0 and high < LARGEST_POWER else int(low)
        index = channel - start if start else channel
        found.append(lookup(index, [entry(v) for v in range(start, int(high) + 1)]))
    return concat(*found)


def known(x: Signal, low: ArrayLike, high: ArrayLike, exclusive: bool = False) -> Signal:
    """`bound` where it is a theorem and not a promise; x itself where inference sees it too."""
    lows, highs = row_of(low, x.width, "low"), row_of(high, x.width, "high")
    seen = (x.facts.low >= lows).all() and (x.facts.high <= highs).all()
    if seen and (x.facts.exclusive or not exclusive):
        return x
    return record(ops.Bound(lows, highs, proven=True, exclusive=exclusive), x)


@meaning("np.argmax")
def argmax(x: Signal) -> Signal:
    """The index of the greatest channel, the first of them where several are.

    Args:
      x: gridded, of any width n.

    Returns:
      An integer from 0 to n - 1, width 1.

    Raises:
      RampError: x is continuous, so that no comparison can tell its channels apart.

    Example:
      @lsrl.program
      def best(x: lsrl.Vector(3, low=0, high=9, step=1)):
          return lsrl.argmax(x)
    """
    value = as_signal(x)
    greatest = greater_equal(value, value.max())
    # A channel counts unless an earlier one is as great.
    earlier = np.tril(np.ones((value.width, value.width)), -1)
    first = known(relu(greatest - earlier @ greatest), 0.0, 1.0, exclusive=True)
    return affine([(np.arange(value.width)[None, :], first)])


def mux(one_hot: Signal, values: Sequence[Operand] | Signal) -> Signal:
    """The value whose channel of `one_hot` is 1; 0 where none is.

    Args:
      one_hot: n channels of which at most one is 1, provably: `token.one_hot`, `lsrl.one_hot`,
        slices, delays and gated copies of them.
      values: a signal of width n, one value a channel; or n signals or numbers of one width.

    Returns:
      The value, of width 1 for a signal, else as wide as the values; within the hull of their
      bounds and 0, or without 0 where some channel is provably on at every token: of
      `token.one_hot`, and of `lsrl.one_hot(x, n)` of an x from 0 to n - 1.

    Raises:
      ProgramError: the selector is not known to be one-hot.
      ShapeError: the number of values is not n.

    Example:
      @lsrl.program
      def picked(which: lsrl.Token(2), x: lsrl.Vector(2, low=0, high=9)):
          return lsrl.mux(which.one_hot, [x[0], x[1]])
    """
    chosen = as_signal(one_hot)
    if not chosen.facts.one_hot:
        raise ProgramError(
            f"{user_line()}: mux needs a one-hot selector, which this {chosen!r} is not known to "
            "be; make it with lsrl.one_hot(index, n)"
        )
    if not isinstance(values, Signal | Sequence | np.ndarray):
        raise ProgramError(
            f"{user_line()}: mux needs a signal of width {chosen.width}, or a list of as many "
            f"values, got {shown(values)}"
        )
    entries = values if isinstance(values, Signal) else list(values)
    if len(entries) != chosen.width:
        raise ShapeError(
            f"{user_line()}: mux of {chosen.width} channels needs as many values, got "
            f"{len(entries)}"
        )
    if isinstance(entries, Signal):
        read = select(chosen, entries, 0).sum()
        low, high = entries.facts.low.min(), entries.facts.high.max()
    else:
        values = broadcast(*entries)
        picked = [select(chosen[k], entry, 0) for k, entry in enumerate(values)]
        read = combine([(1.0, each) for each in picked])
        low = np.min([each.facts.low for each in values], axis=0)
        high = np.max([each.facts.high for each in values], axis=0)
    return known(read, low, high) if _is_full(chosen) and np.isfinite([low, high]).all() else read


def _is_full(one_hot: Signal) -> bool:
    """Whether a channel is provably on at every token."""
    if one_hot.index in one_hot.trace.full:
        return True
    op = one_hot.trace.builder.nodes[one_hot.index].op
    rows = isinstance(op, ops.Lookup | ops.Periodic) and np.diff(op.table.indptr) > 0
    return bool(np.all(rows))


def one_hot(x: Signal, n: int) -> Signal:
    """The indicator of each value 0 … n - 1 of an integer signal, width n.

    Args:
      x: width 1; what is none of these values has no indicator.
      n: number of values, at least 1.

    Returns:
      {0,1}, width n, at most one of them 1.

    Raises:
      ShapeError: x is wider than 1.

    Example:
      @lsrl.program
      def spread(x: lsrl.Vector(1, low=0, high=2, step=1)):
          return lsrl.one_hot(x, 3)
    """
    value = as_signal(x)
    size = _count(n, "one_hot(x, n)")
    if value.width != 1:
        raise ShapeError(f"{user_line()}: one_hot needs a signal of width 1, got {value.width}")
    op = value.trace.builder.nodes[value.index].op
    if isinstance(op, ops.Input) and isinstance(op.type, Token):
        square = Matrix.identity(max(op.type.size, size)).csr
        return record(ops.Lookup(Matrix(square[: op.type.size, :size])), value)
    # No value equals two numbers.
    marks = known(equal(value, np.arange(size)), 0.0, 1.0, exclusive=True)
    if value.facts.integer and value.facts.low[0] >= 0 and value.facts.high[0] < size:
        marks.trace.full.add(marks.index)
    return marks


def lookup(x: Signal, table: object) -> Signal:
    """Row x of a table, for an integer signal x from 0 on.

    Args:
      x: width 1, integers from 0 to rows - 1.
      table: (rows,) or (rows, width) numbers.

    Raises:
      BoundsError: x can lie outside the table.

    Example:
      @lsrl.program
      def squares(x: lsrl.Token(4)):
          return lsrl.lookup(x, [0, 1, 4, 9])
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
    table = matrix.dense()
    reached = table[int(value.facts.low[0]) : int(value.facts.high[0]) + 1]
    found = affine([(np.diff(table, axis=0).T, passed)], table[0])
    return known(found, reached.min(axis=0), reached.max(axis=0))
