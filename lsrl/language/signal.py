"""Signals: the values that programs are written over, and the operations that make them.

Every operation infers bounds and grid of its result at once, so a mistake is reported at its line.
Axis legend: a signal of width w is, at each token, a vector of w channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast, final

import numpy as np
from numpy.typing import ArrayLike

from lsrl.arguments import shown
from lsrl.errors import ProgramError, ShapeError
from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, floats
from lsrl.ir.types import Token
from lsrl.language.constants import as_matrix, channels, numbers, transposed
from lsrl.language.numpy_names import INSTEAD, OPERATORS, UNANSWERED, instead
from lsrl.language.trace import Recorded, Trace, current_trace, user_line

# What operators and numpy's functions mean that are written in signals themselves, by numpy's
# names for them.
_MEANINGS: dict[str, Callable[..., "Signal"]] = {}
_Made = TypeVar("_Made", bound=Callable[..., "Signal"])


def meaning(*names: str) -> Callable[[_Made], _Made]:
    """Let a function be what operators and functions of numpy mean, by numpy's names for them."""

    def keep(function: _Made) -> _Made:
        _MEANINGS.update(dict.fromkeys(names, function))
        return function

    return keep


@final
class Signal(Recorded):
    """A vector at every token, made inside a function decorated with `lsrl.program`.

    Attributes:
      width: number of channels.
      facts: bounds and grid, inferred when the signal was made.

    Example:
      @lsrl.program
      def signals(x: lsrl.Vector(3, low=0, high=9, step=1)):
          print(x.width, x[0] + 2 * x[1], x.max())
          return x.max() - x.min()
    """

    __slots__ = ("_index", "_trace")

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
        """The same signal with a name for traces, labels and messages.

        Raises:
          ProgramError: the name is no text, or empty.
        """
        if not isinstance(name, str) or not name.strip():
            raise ProgramError(f"{user_line()}: a name must be text, got {shown(name)}")
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

        def __getattr__(self, name: str) -> object:
            """What numpy's arrays have and signals lack is named with what to write."""
            hint = f"; {INSTEAD[name]}" if name in INSTEAD else ""
            raise AttributeError(f"a Signal has no attribute {name!r}{hint}", name=name, obj=self)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: "Operand", **options: object
    ) -> "Signal":
        """Numpy's functions of numbers, as far as signals have them: np.maximum(x, 0)."""
        name = ufunc.__name__
        if method != "__call__" or options:
            what = f"np.{name}.{method}" if method != "__call__" else f"{', '.join(options)}="
            raise ProgramError(
                f"{user_line()}: {what} of a signal has no meaning; signals never change and have "
                "one axis: write x.sum(), x.max() or x.min() over channels, and x = x + y"
            )
        if name in _MEANINGS:
            return _MEANINGS[name](*inputs)
        if name not in OPERATORS:
            raise ProgramError(f"{user_line()}: np.{name} of a signal: {instead(name)}")
        left, right = OPERATORS[name]
        first, *rest = inputs
        if isinstance(first, Signal):
            return cast(Signal, getattr(first, left)(*rest))
        return cast(Signal, getattr(rest[0], right)(first))

    def __array_function__(
        self,
        function: Callable[..., object],
        types: object,
        inputs: Sequence["Operand"],
        options: Mapping[str, object],
    ) -> "Signal":
        """Numpy's functions of arrays, as far as signals have them: np.where(c, x, y)."""
        name = function.__name__
        if f"np.{name}" not in _MEANINGS:
            raise ProgramError(f"{user_line()}: np.{name} of a signal: {instead(name)}")
        if options:
            given = ", ".join(options)
            raise ProgramError(
                f"{user_line()}: np.{name}({given}=) of a signal has no meaning, as it has one "
                f"axis; write np.{name} without it"
            )
        return _MEANINGS[f"np.{name}"](*inputs)

    def __copy__(self) -> "Signal":
        """The signal itself, which never changes."""
        return self

    def __deepcopy__(self, memo: object) -> "Signal":
        """The signal itself, which never changes."""
        return self

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
            "lsrl.select(cond, a, b) for 'if', & | ~ for 'and', 'or', 'not', (0 < x) & (x < 3) for "
            "0 < x < 3, and lsrl.maximum(x, y) or lsrl.minimum(x, y) for max(x, y) or min(x, y)"
        )

    def __repr__(self) -> str:
        """Width and interval."""
        low, high = self.facts.low.min(), self.facts.high.max()
        return f"Signal(width={self.width}, in [{low:g}, {high:g}])"

    def __getitem__(self, key: int | slice | Sequence[int] | Array) -> "Signal":
        """Channels by index, slice or list of indices."""
        picked = channels(key, self.width)
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

    def __pos__(self) -> "Signal":
        """The signal itself."""
        return self

    def __abs__(self) -> "Signal":
        """|x|, channel by channel."""
        return absolute(self)

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
            raise ProgramError(
                f"{user_line()}: a signal can be divided by numbers only; for few integers y from "
                "0 on, multiply by lsrl.lookup(y, [1 / v for v in ...])"
            )
        divisor = numbers(other, "a divisor")
        if (divisor == 0).any():
            raise ProgramError(f"{user_line()}: division by zero")
        return self * (1.0 / divisor)

    def __rtruediv__(self, other: "Operand") -> "Signal":
        """A number by a signal has no meaning; raises ProgramError."""
        raise self._no_divisor(other, "/")

    def __mod__(self, other: "Operand") -> "Signal":
        """X modulo a number, of its sign as in Python; see `lsrl.mod`."""
        return _MEANINGS["remainder"](self, other)

    def __rmod__(self, other: "Operand") -> "Signal":
        """A number modulo a signal has no meaning; raises ProgramError."""
        raise self._no_divisor(other, "%")

    def __floordiv__(self, other: "Operand") -> "Signal":
        """X divided by a number and rounded down, of gridded values."""
        return _MEANINGS["floor_divide"](self, other)

    def __rfloordiv__(self, other: "Operand") -> "Signal":
        """A number by a signal has no meaning; raises ProgramError."""
        raise self._no_divisor(other, "//")

    def _no_divisor(self, other: object, symbol: str) -> ProgramError:
        return ProgramError(
            f"{user_line()}: {shown(other)} {symbol} x: a divisor must be numbers, got a signal; "
            f"for few integers x from 0 on, write lsrl.lookup(x, [{shown(other)} {symbol} v for v "
            "in ...])"
        )

    def __divmod__(self, other: "Operand") -> "tuple[Signal, Signal]":
        """X // y and x % y."""
        return self // other, self % other

    def __floor__(self) -> "Signal":
        """The integer at or below x."""
        return self // 1

    def __ceil__(self) -> "Signal":
        """The integer at or above x."""
        return -(-self // 1)

    def __pow__(self, other: "Operand") -> "Signal":
        """X to the power of an int from 0 on."""
        return _MEANINGS["power"](self, other)

    def __rpow__(self, other: "Operand") -> "Signal":
        """A number to the power of a signal of few integers from 0 on."""
        return _MEANINGS["power"](other, self)

    def __matmul__(self, other: object) -> "Signal":
        """X @ A for a matrix (width, columns) or a vector; with a signal, the sum of products."""
        if not isinstance(other, Signal):
            return affine([(transposed(other, self.width), self)])
        if other.width != self.width:
            raise ShapeError(
                f"{user_line()}: x @ y expects signals of one width, got {self.width} and "
                f"{other.width}"
            )
        return (self * other).sum()

    def __rmatmul__(self, matrix: object) -> "Signal":
        """A @ x for a matrix of numbers, dense or scipy.sparse, (rows, width)."""
        return affine([(as_matrix(matrix, self.width), self)])

    def __gt__(self, other: "Operand") -> "Signal":
        """X > y on gridded values: a {0,1} signal."""
        return _MEANINGS["greater"](self, other)

    def __ge__(self, other: "Operand") -> "Signal":
        """X >= y on gridded values."""
        return _MEANINGS["greater_equal"](self, other)

    def __lt__(self, other: "Operand") -> "Signal":
        """X < y on gridded values."""
        return _MEANINGS["less"](self, other)

    def __le__(self, other: "Operand") -> "Signal":
        """X <= y on gridded values."""
        return _MEANINGS["less_equal"](self, other)

    def __eq__(self, other: object) -> "Signal":  # type: ignore[override]
        """X == y on gridded values."""
        return _MEANINGS["equal"](self, other)

    def __ne__(self, other: object) -> "Signal":  # type: ignore[override]
        """X != y on gridded values."""
        return _MEANINGS["not_equal"](self, other)

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


def _unanswered(asked: str, cure: str) -> Callable[..., object]:
    def refuse(self: Signal, *_: object) -> object:
        raise ProgramError(
            f"{user_line()}: {asked} of a signal has no meaning while the program is being built; "
            f"{cure}"
        )

    return refuse


for _name, _question in UNANSWERED.items():
    setattr(Signal, _name, _unanswered(*_question))


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
        total = merged[key][0] + weight if key in merged else weight
        merged[key] = total, signal
    weights = [weight for weight, _ in merged.values()]
    operands = [signal for _, signal in merged.values()]
    return record(ops.Affine(tuple(weights), floats(row)), *operands)


def concat(*signals: Operand) -> Signal:
    """The channels of all operands, one after another.

    Args:
      *signals: at least one, signals or numbers.

    Returns:
      Their channels in order, as wide as all together.

    Raises:
      ShapeError: there is none.

    Example:
      @lsrl.program
      def both(x: lsrl.Vector(1, low=0, high=1)):
          return lsrl.concat(x, 1 - x, 7)
    """
    parts = [as_signal(signal) for signal in signals]
    if not parts:
        raise ShapeError(f"{user_line()}: concat needs at least one signal")
    rows = sum(part.width for part in parts)
    terms, start = [], 0
    for part in parts:
        places = np.arange(start, start + part.width)
        terms.append((Matrix.selection(places, rows).transposed, part))
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

    Example:
      @lsrl.program
      def shifted(x: lsrl.Vector(2, low=0, high=1)):
          return x + lsrl.constant([10, 20])
    """
    return record(ops.Constant(floats(numbers(values, "a constant"))))


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
    """max(x, 0), channel by channel.

    Args:
      x: (width,) a token, any signal.

    Returns:
      The same width.

    Example:
      @lsrl.program
      def above(x: lsrl.Vector(1, low=-5, high=5)):
          return lsrl.relu(x - 1)
    """
    return record(ops.Relu(), as_signal(x))


@meaning("maximum", "fmax")
def maximum(*operands: Operand) -> Signal:
    """The greatest of its operands, channel by channel, in log2 of their number of levels.

    Args:
      *operands: at least one, signals or numbers; width 1 broadcasts.

    Example:
      @lsrl.program
      def greatest(x: lsrl.Vector(2, low=-5, high=5)):
          return lsrl.maximum(x[0], x[1], 1)
    """
    return _tournament("maximum", operands, lambda x, y: x + relu(y - x))


@meaning("minimum", "fmin")
def minimum(*operands: Operand) -> Signal:
    """The smallest of its operands, channel by channel, in log2 of their number of levels.

    Args:
      *operands: at least one, signals or numbers; width 1 broadcasts.

    Example:
      @lsrl.program
      def least(x: lsrl.Vector(2, low=-5, high=5)):
          return lsrl.minimum(x[0], x[1])
    """
    return _tournament("minimum", operands, lambda x, y: x - relu(x - y))


def absolute(x: Signal) -> Signal:
    """|x|, channel by channel.

    Args:
      x: (width,) a token, any signal.

    Returns:
      The same width, in two ReLUs.

    Example:
      @lsrl.program
      def distance(x: lsrl.Vector(1, low=-5, high=5)):
          return lsrl.absolute(x - 1)
    """
    value = as_signal(x)
    return relu(value) + relu(-value)


meaning("np.sum")(Signal.sum)
meaning("np.max", "np.amax")(Signal.max)
meaning("np.min", "np.amin")(Signal.min)


@meaning("np.concatenate", "np.hstack")
def _concatenated(parts: Sequence[Operand]) -> Signal:
    return concat(*parts)


@meaning("np.dot")
def _dot(left: Operand, right: Operand) -> Signal:
    return cast(Signal, left @ right)  # type: ignore[operator]


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
