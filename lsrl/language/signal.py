"""Signals: the values that programs are written over, and the operations that make them.

Every operation infers bounds and grid of its result at once, so a mistake is reported at its line.
Axis legend: a signal of width w is, at each token, a vector of w channels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast, final

import numpy as np
from numpy.typing import ArrayLike

from lsrl.errors import ProgramError, RampError, ShapeError
from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, exact_array, power_of_two_below
from lsrl.ir.types import Token
from lsrl.language.trace import Trace, current_trace, user_line


@final
class Signal:
    """A vector at every token, made inside a function decorated with `lsrl.program`.

    Attributes:
      width: number of channels.
      facts: bounds and grid, inferred when the signal was made.
    """

    __slots__ = ("_index", "_trace")
    __array_ufunc__ = None  # numpy arrays leave binary operators to us
    __hash__ = None  # type: ignore[assignment]  # == makes a signal, so hashing would mislead

    def __init__(self, trace: Trace, index: int) -> None:
        """Made by the language, never by hand."""
        self._trace = trace
        self._index = index

    @property
    def index(self) -> int:
        """Id of the node in the program's graph."""
        return self._index

    @property
    def trace(self) -> Trace:
        """The recording that the signal belongs to."""
        return self._trace

    @property
    def facts(self) -> Facts:
        """Bounds and grid."""
        return self._trace.builder.facts[self._index]

    @property
    def width(self) -> int:
        """Number of channels."""
        return self._trace.builder.nodes[self._index].width

    @property
    def one_hot(self) -> "Signal":
        """For a token input of n symbols: the one-hot vector of width n.

        Raises:
          ProgramError: the signal is no token input; use lsrl.one_hot(x, n).
        """
        op = self._trace.builder.nodes[self._index].op
        if not isinstance(op, ops.Input) or not isinstance(op.type, Token):
            raise ProgramError(
                f"{user_line()}: .one_hot is for token inputs; write lsrl.one_hot(x, n) here"
            )
        return record(ops.Lookup(Matrix.identity(op.type.size)), self)

    def named(self, name: str) -> "Signal":
        """The same signal with a name for traces, labels and messages."""
        self._trace.builder.describe(self._index, names=[name])
        return self

    def sum(self) -> "Signal":
        """The sum over the channels, width 1."""
        return affine([(np.ones((1, self.width)), self)])

    def max(self) -> "Signal":
        """The greatest channel, width 1, in log2 of their number of levels."""
        return _knockout(self, maximum)

    def min(self) -> "Signal":
        """The smallest channel, width 1, in log2 of their number of levels."""
        return _knockout(self, minimum)

    def __len__(self) -> int:
        """Number of channels."""
        return self.width

    if not TYPE_CHECKING:  # type checkers would take A @ x for an array

        def __array__(self, dtype: object = None, copy: object = None) -> Array:
            """No array of numbers but one object, so that sparse matrices leave @ to us too."""
            array = np.empty((), dtype=object)
            array[()] = self
            return array

    def __iter__(self) -> "Iterator[Signal]":
        """The channels, one signal each."""
        return (self[i] for i in range(self.width))

    def __bool__(self) -> bool:
        """A signal has no truth value while the program is written.

        Raises:
          ProgramError: always; says what to write instead.
        """
        raise ProgramError(
            f"{user_line()}: a signal has no truth value while the program is being built; write "
            "lsrl.select(cond, a, b) for 'if', and & | ~ for 'and', 'or', 'not'"
        )

    def __repr__(self) -> str:
        """Width and interval."""
        low, high = self.facts.low.min(), self.facts.high.max()
        return f"Signal(width={self.width}, in [{low:g}, {high:g}])"

    def __getitem__(self, key: int | slice | Sequence[int] | Array) -> "Signal":
        """Channels by index, slice or list of indices."""
        try:
            picked = np.atleast_1d(np.arange(self.width)[key])
        except IndexError as error:
            raise ShapeError(
                f"{user_line()}: index {key} is out of range for a signal of width {self.width}"
            ) from error
        if picked.ndim != 1 or not len(picked):
            raise ShapeError(
                f"{user_line()}: index {key} picks channels of shape {picked.shape} of a signal of "
                f"width {self.width}; expected one list of at least one"
            )
        if len(picked) == self.width and (picked == np.arange(self.width)).all():
            return self
        return affine([(Matrix.selection(picked, self.width), self)])

    def __add__(self, other: "Operand") -> "Signal":
        """X + y, channel by channel; numbers and width 1 broadcast."""
        return combine([(1.0, self), (1.0, other)])

    __radd__ = __add__

    def __sub__(self, other: "Operand") -> "Signal":
        """X - y."""
        return combine([(1.0, self), (-1.0, other)])

    def __rsub__(self, other: "Operand") -> "Signal":
        """Numbers minus the signal."""
        return combine([(-1.0, self), (1.0, other)])

    def __neg__(self) -> "Signal":
        """-x."""
        return combine([(-1.0, self)])

    def __mul__(self, other: "Operand") -> "Signal":
        """Scaling by a number or a vector of numbers; with a signal, the elementwise product."""
        if isinstance(other, Signal):
            left, right = broadcast(self, other)
            return record(ops.Product(), left, right)
        scale = numbers(other, "a factor")
        if len(scale) != self.width and 1 not in (len(scale), self.width):
            raise ShapeError(
                f"{user_line()}: a factor of {len(scale)} numbers for a signal of width "
                f"{self.width}"
            )
        if self.width == 1:
            return affine([(scale[:, None], self)])
        return affine([(Matrix.diagonal(np.broadcast_to(scale, (self.width,))), self)])

    __rmul__ = __mul__

    def __truediv__(self, other: "Operand") -> "Signal":
        """X divided by a number.

        Raises:
          ProgramError: division by a signal or by zero.
        """
        if isinstance(other, Signal):
            raise ProgramError(f"{user_line()}: a signal can be divided by numbers only")
        divisor = numbers(other, "a divisor")
        if (divisor == 0).any():
            raise ProgramError(f"{user_line()}: division by zero")
        return self * (1.0 / divisor)

    def __rmatmul__(self, matrix: object) -> "Signal":
        """A @ x for a matrix of numbers, dense or scipy.sparse, (rows, width)."""
        return affine([(as_matrix(matrix, self.width), self)])

    def __gt__(self, other: "Operand") -> "Signal":
        """X > y on gridded values: a {0,1} signal."""
        return greater(self, other)

    def __ge__(self, other: "Operand") -> "Signal":
        """X >= y on gridded values."""
        return greater_equal(self, other)

    def __lt__(self, other: "Operand") -> "Signal":
        """X < y on gridded values."""
        return less(self, other)

    def __le__(self, other: "Operand") -> "Signal":
        """X <= y on gridded values."""
        return less_equal(self, other)

    def __eq__(self, other: object) -> "Signal":  # type: ignore[override]
        """X == y on gridded values."""
        return equal(self, cast("Operand", other))

    def __ne__(self, other: object) -> "Signal":  # type: ignore[override]
        """X != y on gridded values."""
        return not_equal(self, cast("Operand", other))

    def __and__(self, other: "Operand") -> "Signal":
        """Both are 1, of {0,1} signals."""
        left, right = logical("&", self, other)
        return relu(left + right - 1)

    __rand__ = __and__

    def __or__(self, other: "Operand") -> "Signal":
        """At least one is 1, of {0,1} signals."""
        left, right = logical("|", self, other)
        return 1 - relu(1 - left - right)

    __ror__ = __or__

    def __xor__(self, other: "Operand") -> "Signal":
        """Exactly one is 1, of {0,1} signals."""
        left, right = logical("^", self, other)
        return relu(left - right) + relu(right - left)

    __rxor__ = __xor__

    def __invert__(self) -> "Signal":
        """1 - x, of a {0,1} signal."""
        (value,) = logical("~", self)
        return 1 - value


# What an operation reads beside signals: numbers, which count as constants.
Operand = Signal | ArrayLike


def record(op: ops.Op, *operands: Signal) -> Signal:
    """Add a node to the program that its operands belong to.

    Raises:
      ProgramError: a signal of another program.
    """
    trace = current_trace(op.name)
    for operand in operands:
        if operand.trace is not trace:
            raise ProgramError(
                f"{user_line()}: {op.name} reads a signal of another program; signals live and die "
                "with the function that makes them"
            )
    signal = Signal(trace, trace.add(op, *(operand.index for operand in operands)))
    if not signal.width:
        raise ShapeError(f"{user_line()}: this {op.name} has no channels; expected at least one")
    return signal


def numbers(value: object, what: str) -> Array:
    """One number or a vector of numbers as float64 (n,).

    Raises:
      ProgramError: not numbers, or numbers that float64 would round.
      ShapeError: more than one axis.
    """
    if isinstance(value, Signal):
        raise ProgramError(f"{user_line()}: {what} must be numbers, got a signal")
    array = np.asarray(value)
    if array.ndim > 1:
        raise ShapeError(f"{user_line()}: {what} must be a number or a vector, got {array.shape}")
    try:
        found = exact_array(np.atleast_1d(array), what)
        if not np.isfinite(found).all():
            raise ProgramError(f"{what}: expected finite numbers, got {value!r}")
        return found
    except ProgramError as error:
        raise ProgramError(f"{user_line()}: {error}") from None


def as_matrix(value: object, columns: int) -> Matrix:
    """A number (times identity), a dense or a scipy.sparse matrix as a `Matrix` of `columns`.

    Raises:
      ProgramError: entries that are not finite real numbers, or that float64 would round.
      ShapeError: the matrix has another number of columns.
    """
    if isinstance(value, Matrix):
        matrix = value
    elif np.isscalar(value):
        matrix = Matrix.diagonal(np.repeat(numbers(value, "a matrix"), columns))
    else:
        try:
            # scipy's sparse arrays know how to become CSR; all else is dense.
            sparse = hasattr(value, "tocsr")
            matrix = Matrix(value if sparse else np.atleast_2d(np.asarray(value)))
        except ProgramError as error:
            raise ProgramError(f"{user_line()}: {error}") from None
        except (TypeError, ValueError) as error:
            raise ProgramError(
                f"{user_line()}: expected a matrix of finite numbers ({error})"
            ) from error
    if matrix.columns != columns:
        raise ShapeError(
            f"{user_line()}: expected a matrix of {columns} columns for a signal of width "
            f"{columns}, got shape ({matrix.rows}, {matrix.columns})"
        )
    return matrix


def affine(terms: Sequence[tuple[object, Signal]], bias: ArrayLike | None = None) -> Signal:
    """Σ matrix @ signal + bias, as one node.

    Args:
      terms: pairs of a matrix (rows, width of the signal) and a signal.
      bias: (rows,) numbers; zeros by default.

    Raises:
      ShapeError: matrices that do not fit.
    """
    weights = [as_matrix(weight, signal.width) for weight, signal in terms]
    rows = weights[0].rows
    if any(weight.rows != rows for weight in weights):
        shapes = [(weight.rows, weight.columns) for weight in weights]
        raise ShapeError(f"{user_line()}: the terms of an affine map differ in rows: {shapes}")
    row = np.zeros(rows) if bias is None else np.broadcast_to(numbers(bias, "a bias"), (rows,))
    # Like terms are one term.
    merged: dict[tuple[int, int], tuple[Matrix, Signal]] = {}
    for weight, (_, signal) in zip(weights, terms, strict=True):
        key = id(signal.trace), signal.index
        total = Matrix(merged[key][0].csr + weight.csr) if key in merged else weight
        merged[key] = total, signal
    weights = [weight for weight, _ in merged.values()]
    operands = [signal for _, signal in merged.values()]
    return record(ops.Affine(tuple(weights), tuple(row.tolist())), *operands)


def concat(*signals: Operand) -> Signal:
    """The channels of all operands, one after another."""
    parts = [as_signal(signal) for signal in signals]
    if not parts:
        raise ShapeError(f"{user_line()}: concat needs at least one signal")
    rows = sum(part.width for part in parts)
    terms, start = [], 0
    for part in parts:
        places = np.arange(start, start + part.width)
        terms.append((Matrix(Matrix.selection(places, rows).csr.T), part))
        start += part.width
    return affine(terms)


def combine(terms: Sequence[tuple[float, Operand]]) -> Signal:
    """Σ factor · value over signals and numbers; width 1 broadcasts."""
    signals = [(factor, value) for factor, value in terms if isinstance(value, Signal)]
    plain = [factor * numbers(v, "an operand") for factor, v in terms if not isinstance(v, Signal)]
    widths = {signal.width for _, signal in signals} | {len(row) for row in plain}
    width = max(widths)
    if not widths <= {1, width}:
        raise ShapeError(f"{user_line()}: operands of widths {sorted(widths)} do not match")
    bias = np.zeros(width)
    for row in plain:
        bias = bias + row
    scaled: list[tuple[object, Signal]] = []
    for factor, signal in signals:
        column = np.full(width, factor)
        weight = Matrix.diagonal(column) if signal.width == width else column[:, None]
        scaled.append((weight, signal))
    return affine(scaled, bias)


def constant(values: ArrayLike) -> Signal:
    """A signal with the same value at every token.

    Args:
      values: a number or (width,) numbers.
    """
    return record(ops.Constant(tuple(numbers(values, "a constant").tolist())))


def as_signal(value: Operand) -> Signal:
    """A signal as it is; numbers as a constant."""
    return value if isinstance(value, Signal) else constant(value)


def broadcast(*values: Operand) -> tuple[Signal, ...]:
    """Signals or numbers, all widened to one width.

    Raises:
      ShapeError: widths that are neither 1 nor the same.
    """
    signals = [as_signal(value) for value in values]
    width = max(signal.width for signal in signals)
    if any(signal.width not in (1, width) for signal in signals):
        widths = [signal.width for signal in signals]
        raise ShapeError(f"{user_line()}: operands of widths {widths} do not match")
    return tuple(
        signal if signal.width == width else affine([(np.ones((width, 1)), signal)])
        for signal in signals
    )


def logical(symbol: str, *values: Operand) -> tuple[Signal, ...]:
    """Operands of & | ^ ~, checked to be {0,1}.

    Raises:
      ProgramError: an operand can hold another value.
    """
    signals = broadcast(*values)
    for signal in signals:
        if not signal.facts.boolean:
            raise ProgramError(
                f"{user_line()}: {symbol} needs signals that are 0 or 1, got {signal!r}; "
                "compare it with something first"
            )
    return signals


def relu(x: Signal) -> Signal:
    """max(x, 0), channel by channel."""
    return record(ops.Relu(), as_signal(x))


def maximum(*operands: Operand) -> Signal:
    """The greatest of its operands, channel by channel, in log2 of their number of levels.

    Args:
      *operands: at least one, signals or numbers; width 1 broadcasts.
    """
    return _tournament("maximum", operands, lambda x, y: x + relu(y - x))


def minimum(*operands: Operand) -> Signal:
    """The smallest of its operands, channel by channel, in log2 of their number of levels.

    Args:
      *operands: at least one, signals or numbers; width 1 broadcasts.
    """
    return _tournament("minimum", operands, lambda x, y: x - relu(x - y))


def absolute(x: Signal) -> Signal:
    """|x|, channel by channel."""
    value = as_signal(x)
    return relu(value) + relu(-value)


def _tournament(
    name: str, operands: Sequence[Operand], winner: Callable[[Signal, Signal], Signal]
) -> Signal:
    if not operands:
        raise ShapeError(f"{user_line()}: {name} needs at least one operand")
    left: tuple[Signal, ...] = broadcast(*operands)
    while len(left) > 1:
        pairs = [left[i : i + 2] for i in range(0, len(left), 2)]
        left = tuple(winner(*pair) if len(pair) == 2 else pair[0] for pair in pairs)
    return left[0]


def _knockout(x: Signal, winner: Callable[..., Signal]) -> Signal:
    """The winner of all channels, halves of them against each other."""
    while x.width > 1:
        half = x.width // 2
        # Of an odd number the last one sits out.
        rest = [x[2 * half :]] if x.width % 2 else []
        won = winner(x[:half], x[half : 2 * half])
        x = concat(won, *rest)
    return x


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
    """
    slope = _slope("width", width)
    return relu(1 - relu(combine([(slope, as_signal(y)), (-slope, x)]) - 1))


def greater(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x > y, else 0: 1 - (y >= x). See `greater_equal`."""
    return 1 - greater_equal(y, x, ramp)


def less(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x < y, else 0: 1 - (x >= y). See `greater_equal`."""
    return 1 - greater_equal(x, y, ramp)


def less_equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x <= y, else 0. See `greater_equal`."""
    return greater_equal(y, x, ramp)


def not_equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x != y, else 0. See `equal`."""
    return 1 - equal(x, y, ramp)


def equal(x: Operand, y: Operand, ramp: float | None = None) -> Signal:
    """1 where x == y, else 0; on continuous values, where they are less than ramp/2 apart.

    Args:
      x: signal or numbers.
      y: signal or numbers.
      ramp: for continuous values: 1 up to a distance of ramp/2, 0 from a distance of ramp on.

    Raises:
      RampError: continuous values without a ramp.
    """
    difference = combine([(1.0, as_signal(x)), (-1.0, y)])
    apart = relu(difference) + relu(-difference)
    return _at_least_zero(-apart, ramp)
