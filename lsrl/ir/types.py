"""The types of a program's inputs and outputs: symbols and vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast, final

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InputError, ProgramError
from lsrl.ir.bounds import Facts, facts
from lsrl.ir.numbers import Array, exact_number, lowest_bit

# A step with more significant bits than this is no useful grid (0.1 has 53): it counts as
# continuous.
MAX_STEP_BITS = 20
# Networks read ids as int32.
MOST_SYMBOLS = 2**31
MOST_ENTRIES = 2**24

_INTS = (int, np.int32, np.int64)
# Entries of a step up to which they are looked at one by one.
_FEW = 16
# Names of symbols that a message lists.
_TOLD = 8
# One number for every entry of a vector, or one an entry.
Entries = float | Sequence[float] | Array


@final
@dataclass(frozen=True)
class Token:
    """One symbol of `size`, given as an int from 0 to size - 1.

    Attributes:
      size: number of symbols.
      names: a word for each symbol, for the tokenizer of an exported model; None for "0", "1", …
        A string gives its letters.

    Raises:
      ProgramError: size is not a positive int, or names are not `size` different words.

    Example:
      @lsrl.program
      def named(bracket: lsrl.Token(3, ("(", ")", "x"))):
          return bracket.one_hot
    """

    size: int
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def __init__(self, size: int, names: Iterable[str] | None = None) -> None:
        """Check the size and the names."""
        size = _size("Token(n)", size, MOST_SYMBOLS)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "names", None if names is None else _names(names, size))

    @property
    def width(self) -> int:
        """Channels of the signal: the id alone."""
        return 1

    def facts(self) -> Facts:
        """The id: an integer from 0 to size - 1."""
        return facts(np.zeros(1), np.array([self.size - 1.0]), np.ones(1))

    def check(self, values: object, name: str) -> Array:
        """The values as int64 (batch, time); see `check_inputs` for the batch axis.

        Raises:
          InputError: not integers, or out of range; says where.
        """
        array = _as_array(values, name, 0)
        if array.dtype.kind not in "iu":
            raise InputError(
                f"input {name!r}: expected ints from 0 to {self.size - 1} ({self}), "
                f"got {arguments.dtype_text(array)}; pass token ids as ints{self._numbered()}"
            )
        _check_axes(array, name, 0)
        # Where a wrong one is, is only looked up once it matters: this is a tenth of a run's time.
        if not self._holds(array):
            outside = np.argwhere((array < 0) | (array >= self.size))
            raise InputError(
                f"input {name!r}: expected ints from 0 to {self.size - 1} ({self}), got "
                f"{array[tuple(outside[0])]} at {position_text(outside[0], array.ndim)}"
            )
        return array.astype(np.int64, copy=False)

    def plain(self, value: object, batch: int | None) -> Array | None:
        """One token as int32 (batch,), where it is ids beyond doubt; else None, for `check`.

        Args:
          value: an id, or with a batch an array (batch,).
          batch: number of sequences; None for one without an axis.
        """
        if batch is None:
            whole = isinstance(value, _INTS) and value is not True and value is not False
            if not (whole and 0 <= cast(int, value) < self.size):
                return None
            return np.array((value,), np.int32)
        if type(value) is not np.ndarray or value.shape != (batch,):
            return None
        if value.dtype.kind not in "iu" or not self._holds(value):
            return None
        return value.astype(np.int32)

    def _numbered(self) -> str:
        """What messages add where the symbols have names: which number each has."""
        if self.names is None:
            return ""
        said = ", ".join(f"{name!r} is {number}" for number, name in enumerate(self.names[:_TOLD]))
        return f": {said}{', …' if self.size > _TOLD else ''}"

    def _holds(self, ints: Array) -> bool:
        # As unsigned numbers, negative ones are large.
        return bool(ints.view(ints.dtype.str.replace("i", "u")).max() < self.size)


@final
@dataclass(frozen=True)
class Vector:
    """A real vector of `width` entries at each token.

    Attributes:
      width: number of entries.
      low: least value, a number or one an entry.
      high: greatest value, likewise.
      step: the grid: every value is a multiple of it; None for continuous, and 0 where some entries
        are. Steps that are not short dyadic numbers (0.1) count as continuous.

    Raises:
      ProgramError: a width that is not a positive int, bounds that are crossed or not finite, or a
        step that is no positive number, or of which no multiple lies within the bounds.

    Example:
      @lsrl.program
      def halves(x: lsrl.Vector(2, low=-1, high=1, step=0.5)):
          return x.sum() / 2
    """

    width: int
    low: tuple[float, ...] = field(kw_only=True)
    high: tuple[float, ...] = field(kw_only=True)
    step: tuple[float, ...] | None = field(default=None, kw_only=True)

    def __init__(
        self, width: int, *, low: Entries, high: Entries, step: Entries | None = None
    ) -> None:
        """Broadcast scalar bounds over the entries and check them."""
        width = _size("Vector(d, ...)", width, MOST_ENTRIES)
        lows, highs = _per_entry(low, width, "low"), _per_entry(high, width, "high")
        if any(a > b for a, b in zip(lows, highs, strict=True)):
            raise ProgramError(f"Vector: low must not exceed high, got low={low}, high={high}")
        steps = None if step is None else _per_entry(step, width, "step")
        if steps is not None and (min(steps) < 0 or max(steps) == 0):
            raise ProgramError(
                f"Vector: step must be positive, got {step}; leave it out for continuous values"
            )
        for name, value in (("width", width), ("low", lows), ("high", highs), ("step", steps)):
            object.__setattr__(self, name, value)
        grid = self.grid()
        spaced = np.where(grid > 0, grid, 1.0)
        none = (np.ceil(np.array(lows) / spaced) * spaced > highs) & (grid > 0)
        if none.any():
            raise ProgramError(
                f"Vector: expected a multiple of step={step} from low={low} to high={high}, got "
                "none, so no value would be legal; values are multiples of the step, not low plus "
                "multiples of it"
            )

    def facts(self) -> Facts:
        """The declared interval and grid."""
        return facts(np.array(self.low), np.array(self.high), self.grid())

    @cached_property
    def _limits(self) -> tuple[Array, Array, Array, bool]:
        """Least and greatest values and the grid, each (width,), and whether there is a grid.

        A step has no time to make them.
        """
        grid = self.grid()
        return np.array(self.low), np.array(self.high), grid, bool(grid.any())

    @cached_property
    def _entries(self) -> list[tuple[float, float, float]]:
        """As `_limits`, an entry each."""
        low, high, step, _ = self._limits
        return list(zip(low.tolist(), high.tolist(), step.tolist(), strict=True))

    def plain(self, value: object, batch: int | None) -> Array | None:
        """One token as float64 (batch, width), where it is legal beyond doubt; else None.

        Args:
          value: an array (width,), or (batch, width).
          batch: number of sequences; None for one without an axis.
        """
        shape = (self.width,) if batch is None else (batch, self.width)
        if type(value) is not np.ndarray or value.shape != shape or value.dtype.kind not in "iuf":
            return None
        array = value.astype(np.float64).reshape(-1, self.width)
        if array.size <= _FEW:  # numpy would take ten times as long
            legal = all(
                low <= number <= high and not (step and number % step)
                for row in array.tolist()
                for number, (low, high, step) in zip(row, self._entries, strict=True)
            )
            return array if legal else None
        low, high, step, gridded = self._limits
        if not ((array >= low) & (array <= high)).all():
            return None
        if gridded and (np.mod(array, np.where(step > 0, step, 1.0)) * (step > 0)).any():
            return None
        return array

    def grid(self) -> Array:
        """(width,) the usable step of each entry, 0 where it counts as continuous."""
        step = np.array(self.step if self.step is not None else [0.0] * self.width)
        with np.errstate(over="ignore"):  # what is beyond all numbers is not less than any
            dyadic = (step > 0) & (step <= 2.0**MAX_STEP_BITS * lowest_bit(step))
        return np.where(dyadic, step, 0.0)

    def check(self, values: object, name: str) -> Array:
        """The values as float64 (..., time, width).

        Raises:
          InputError: not numbers, wrong width, NaN, off the grid or out of range; says where.
        """
        array = _as_array(values, name, 1)
        if array.dtype.kind not in "iufb" and str(array.dtype) != "bfloat16":
            raise InputError(
                f"input {name!r}: expected real numbers, got {arguments.dtype_text(array)}; pass "
                "floats or ints, np.asarray(x, float)"
            )
        array = array.astype(np.float64)
        if array.ndim < 1 or array.shape[-1] != self.width:
            raise InputError(
                f"input {name!r}: expected vectors of width {self.width} in the last axis, "
                f"got shape {array.shape}; expected (time, {self.width}) or "
                f"(batch, time, {self.width})"
            )
        _check_axes(array, name, 1)
        low, high, step, _ = self._limits
        with np.errstate(invalid="ignore"):  # infinities are named below
            off_grid = np.mod(array, np.where(step > 0, step, 1.0)) * (step > 0)
        if ((array >= low) & (array <= high) & (off_grid == 0)).all():
            return array
        rules = (
            (np.isfinite(array), "a finite number"),
            (array >= low, f"at least low={list(self.low)}"),
            (array <= high, f"at most high={list(self.high)}"),
            (off_grid == 0, f"multiples of {step}"),
        )
        for holds, expected in rules:
            broken = np.argwhere(~holds)
            if len(broken):
                raise InputError(
                    f"input {name!r}: expected {expected}, got {array[tuple(broken[0])]} at "
                    f"{position_text(broken[0][:-1], array.ndim - 1)}, entry {broken[0][-1]}"
                )
        return array


InputType = Token | Vector
_EMPTY = "an empty sequence; expected at least one token"


def _names(names: object, size: int) -> tuple[str, ...]:
    words = tuple(names) if isinstance(names, Iterable) else (names,)
    good = all(isinstance(word, str) and _is_word(word) for word in words)
    if not good or len(words) != size or len(set(words)) != size:
        raise ProgramError(
            f"Token({size}) needs {size} different names without blanks, one a symbol, got "
            f"{names!r}"
        )
    return words


def _is_word(text: str) -> bool:
    """Whether a tokenizer, which splits texts at blanks, and a file can hold it."""
    half_a_character = any("\ud800" <= character <= "\udfff" for character in text)
    return text.split() == [text] and not half_a_character


def _size(what: str, value: object, most: int) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (isinstance(value, int | np.integer) and whole and 1 <= value <= most):
        limit = "" if not whole or int(cast(int, value)) <= most else f" up to {most}"
        raise ProgramError(f"{what} needs a positive int{limit}, got {shown(value)}")
    return int(value)


def _per_entry(value: object, width: int, what: str) -> tuple[float, ...]:
    array = arguments.array(f"Vector {what}", value, ProgramError)
    if array.ndim > 1 or (array.ndim and len(array) != width):
        raise ProgramError(
            f"Vector: {what} needs one number or {width}, got {len(array)}"
            + (f" rows of shape {array.shape[1:]}" if array.ndim > 1 else "")
        )
    values = array.tolist() if array.ndim else [value] * width
    return tuple(exact_number(entry, f"Vector {what}") for entry in values)


def _as_array(values: object, name: str, behind: int) -> Array:
    """With a token in it; `behind` axes lie behind those of batch and time."""
    array = arguments.array(f"input {name!r}", values)
    if array.size == 0:
        batch = array.ndim == 2 + behind and not len(array)
        raise InputError(
            f"input {name!r}: "
            + ("an empty batch; expected at least one sequence" if batch else _EMPTY)
            + f", got shape {array.shape}"
        )
    return array


def _check_axes(array: Array, name: str, behind: int) -> None:
    """Refuse what is neither a sequence nor a batch of them."""
    if array.ndim - behind in (1, 2):
        return
    got, cure = "", "; nest as many lists as there are axes"
    if array.ndim == behind:
        got = f"{shown(array.tolist())}, of "
        cure = f"; for a sequence of one token, write [{shown(array.tolist())}]"
    raise InputError(
        f"input {name!r}: expected one sequence (time, ...) or a batch (batch, time, ...), "
        f"got {got}shape {array.shape}{cure}"
    )


def position_text(index: Iterable[int], ndim: int) -> str:
    """A (batch, time) index in words."""
    words = [str(int(i)) for i in index]
    return f"token {words[-1]}" if ndim < 2 else f"sequence {words[0]}, token {words[-1]}"


def check_inputs(
    types: dict[str, InputType], values: Sequence[object], max_length: int | None
) -> tuple[list[Array], bool]:
    """Check every input against its declared type.

    Args:
      types: declared types by parameter name.
      values: one array an input: tokens (time,) or (batch, time), vectors (..., time, width).
      max_length: greatest number of tokens, or None.

    Returns:
      The arrays with a batch axis (ints (batch, time), floats (batch, time, width)), and whether
      the caller gave a batch axis.

    Raises:
      InputError: says which input and position, what was expected and what came.
    """
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise InputError(
            f"expected a list of arrays, one an input ({', '.join(types)}), got {shown(values)}"
        )
    if len(values) != len(types):
        raise InputError(
            f"expected {len(types)} input(s) ({', '.join(types)}), got {len(values)}; pass one "
            "array an input, in this order"
        )
    arrays, batched, shapes = [], {}, {}
    for (name, kind), value in zip(types.items(), values, strict=True):
        array = kind.check(value, name)
        batched[name] = array.ndim - (0 if isinstance(kind, Token) else 1) == 2
        arrays.append(array if batched[name] else array[None])
        shapes[name] = arrays[-1].shape[:2]
    if len(set(shapes.values())) > 1 or len(set(batched.values())) > 1:
        one = [name for name, has in batched.items() if not has]
        hint = f"; {', '.join(one)} came without a batch axis" if len(one) < len(batched) else ""
        raise InputError(
            f"inputs must share their batch and time axes, got {shapes}{hint if one else ''}; give "
            "each of them as many sequences and tokens"
        )
    length = next(iter(shapes.values()))[1]
    if max_length is not None and length > max_length:
        raise InputError(
            f"expected at most max_length={max_length} tokens, got {length}; "
            "declare a larger max_length in @lsrl.program"
        )
    return arrays, any(batched.values())
