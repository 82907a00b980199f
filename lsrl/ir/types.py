"""The types of a program's inputs and outputs: symbols and vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from lsrl.errors import InputError, ProgramError
from lsrl.ir.bounds import Facts, facts
from lsrl.ir.numbers import Array, exact_number, lowest_bit

# A step with more significant bits than this is no useful grid (0.1 has 53): it counts as
# continuous.
MAX_STEP_BITS = 20

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
    """

    size: int
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def __init__(self, size: int, names: Iterable[str] | None = None) -> None:
        """Check the size and the names."""
        if not isinstance(size, int | np.integer) or size < 1:
            raise ProgramError(f"Token(n) needs a positive int, got {size!r}")
        object.__setattr__(self, "size", int(size))
        object.__setattr__(self, "names", None if names is None else _names(names, int(size)))

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
        array = _as_array(values, name)
        if array.dtype.kind not in "iu":
            raise InputError(
                f"input {name!r}: expected ints from 0 to {self.size - 1} ({self}), "
                f"got dtype {array.dtype}; pass token ids as ints"
            )
        # Where a wrong one is, is only looked up once it matters: this is the greater part of a
        # step's time, and a tenth of a whole run's. As unsigned numbers, negative ones are large.
        if array.view(array.dtype.str.replace("i", "u")).max() >= self.size:
            outside = np.argwhere((array < 0) | (array >= self.size))
            raise InputError(
                f"input {name!r}: expected ints from 0 to {self.size - 1} ({self}), got "
                f"{array[tuple(outside[0])]} at {position_text(outside[0], array.ndim)}"
            )
        return array.astype(np.int64, copy=False)


@final
@dataclass(frozen=True)
class Vector:
    """A real vector of `width` entries at each token.

    Attributes:
      width: number of entries.
      low: least value, a number or one an entry.
      high: greatest value, likewise.
      step: the grid: every value is a multiple of it; None for continuous. Steps that are not short
        dyadic numbers (0.1) count as continuous.

    Raises:
      ProgramError: a width that is not a positive int, or bounds that are missing or crossed.
    """

    width: int
    low: tuple[float, ...] = field(kw_only=True)
    high: tuple[float, ...] = field(kw_only=True)
    step: tuple[float, ...] | None = field(default=None, kw_only=True)

    def __init__(
        self, width: int, *, low: Entries, high: Entries, step: Entries | None = None
    ) -> None:
        """Broadcast scalar bounds over the entries and check them."""
        if not isinstance(width, int | np.integer) or width < 1:
            raise ProgramError(f"Vector(d, ...) needs a positive int width, got {width!r}")
        lows = _per_entry(low, int(width), "low")
        highs = _per_entry(high, int(width), "high")
        if any(a > b for a, b in zip(lows, highs, strict=True)):
            raise ProgramError(f"Vector: low must not exceed high, got low={low}, high={high}")
        steps = None if step is None else _per_entry(step, int(width), "step")
        if steps is not None and min(steps) < 0:
            raise ProgramError(f"Vector: step must be positive (or None), got {step}")
        for name, value in (("width", int(width)), ("low", lows), ("high", highs), ("step", steps)):
            object.__setattr__(self, name, value)

    def facts(self) -> Facts:
        """The declared interval and grid."""
        return facts(np.array(self.low), np.array(self.high), self.grid())

    def grid(self) -> Array:
        """(width,) the usable step of each entry, 0 where it counts as continuous."""
        step = np.array(self.step if self.step is not None else [0.0] * self.width)
        dyadic = (step > 0) & (step <= 2.0**MAX_STEP_BITS * lowest_bit(step))
        return np.where(dyadic, step, 0.0)

    def check(self, values: object, name: str) -> Array:
        """The values as float64 (..., time, width).

        Raises:
          InputError: not numbers, wrong width, NaN, off the grid or out of range; says where.
        """
        array = _as_array(values, name)
        if array.dtype.kind not in "iufb" and str(array.dtype) != "bfloat16":
            raise InputError(f"input {name!r}: expected real numbers, got dtype {array.dtype}")
        array = array.astype(np.float64)
        if array.ndim < 1 or array.shape[-1] != self.width:
            raise InputError(
                f"input {name!r}: expected vectors of width {self.width} in the last axis, "
                f"got shape {array.shape}"
            )
        step = self.grid()
        with np.errstate(invalid="ignore"):  # infinities are named below
            off_grid = np.mod(array, np.where(step > 0, step, 1.0)) * (step > 0)
        rules = (
            (np.isfinite(array), "a finite number"),
            (array >= np.array(self.low), f"at least low={list(self.low)}"),
            (array <= np.array(self.high), f"at most high={list(self.high)}"),
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


def _per_entry(value: object, width: int, what: str) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence | np.ndarray) else [value] * width
    if len(values) != width:
        raise ProgramError(f"Vector: {what} needs one number or {width}, got {len(values)}")
    return tuple(exact_number(entry, f"Vector {what}") for entry in values)


def _as_array(values: object, name: str) -> Array:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(
            f"input {name!r}: expected a rectangular array, got sequences of different lengths; "
            "run them one by one, or pad them"
        ) from error
    if array.size == 0:
        raise InputError(f"input {name!r}: an empty sequence; expected at least one token")
    return array


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
    if len(values) != len(types):
        raise InputError(f"expected {len(types)} input(s) ({', '.join(types)}), got {len(values)}")
    arrays, batched, shapes = [], set(), {}
    for (name, kind), value in zip(types.items(), values, strict=True):
        array = kind.check(value, name)
        time_axes = array.ndim - (0 if isinstance(kind, Token) else 1)
        if time_axes not in (1, 2):
            raise InputError(
                f"input {name!r}: expected one sequence (time, ...) or a batch (batch, time, ...), "
                f"got shape {array.shape}"
            )
        batched.add(time_axes == 2)
        arrays.append(array if time_axes == 2 else array[None])
        shapes[name] = arrays[-1].shape[:2]
    if len(set(shapes.values())) > 1 or len(batched) > 1:
        raise InputError(f"inputs must share their batch and time axes, got {shapes}")
    length = next(iter(shapes.values()))[1]
    if max_length is not None and length > max_length:
        raise InputError(
            f"expected at most max_length={max_length} tokens, got {length}; "
            "declare a larger max_length in @lsrl.program"
        )
    return arrays, batched.pop()
