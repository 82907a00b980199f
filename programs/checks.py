"""Checks of the library's parameters, which say what was expected, what came and how to mend it."""

import math
from collections.abc import Sequence

import numpy as np

from lsrl.errors import ProgramError


def integer(name: str, value: object, least: int, most: int | None = None) -> int:
    """A parameter that must be an int of at least `least` (and at most `most`).

    Args:
      name: the parameter, for the message.
      value: what the caller gave.
      least: smallest legal value.
      most: greatest legal value, or None for no limit.

    Returns:
      The value as a Python int.

    Raises:
      ProgramError: not an int, or out of range.
    """
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    if (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and least <= value
        and (most is None or value <= most)
    ):
        return int(value)
    raise ProgramError(
        f"{name}: expected an int {span}, got {value!r}; pass for instance {name}={least}"
    )


def max_length(value: object) -> int:
    """The greatest number of tokens, for programs that accumulate.

    Raises:
      ProgramError: not a positive int.
    """
    if value is None:
        raise ProgramError(
            "max_length: expected an int of at least 1, got None; this program accumulates, "
            "so its bounds need a greatest number of tokens, for instance max_length=1000"
        )
    return integer("max_length", value, 1)


def optional_length(value: object) -> int | None:
    """The greatest number of tokens, or None where the program can do without.

    Raises:
      ProgramError: neither None nor a positive int.
    """
    return None if value is None else integer("max_length", value, 1)


def flag(name: str, value: object) -> bool:
    """A parameter that must be True or False.

    Raises:
      ProgramError: neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise ProgramError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def number(name: str, value: object, *, above: float | None = None) -> float:
    """A parameter that must be a finite number (greater than `above`).

    Raises:
      ProgramError: not a finite number, or too small.
    """
    wanted = "a finite number" if above is None else f"a finite number greater than {above}"
    if (
        isinstance(value, int | float | np.integer | np.floating)
        and math.isfinite(value)
        and (above is None or value > above)
    ):
        return float(value)
    raise ProgramError(f"{name}: expected {wanted}, got {value!r}")


def symbols(name: str, values: object, size: int, length: int | None = None) -> tuple[int, ...]:
    """A sequence of symbols from 0 to size - 1, none empty.

    Args:
      name: the parameter, for the message.
      values: what the caller gave: a list, tuple or one-dimensional array.
      size: number of symbols.
      length: the number of entries that is expected, or None for any.

    Raises:
      ProgramError: not a sequence, of another length, or with an entry that is no such symbol.
    """
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise ProgramError(f"{name}: expected a sequence of ints, got {values!r}")
    if len(values) == 0 or (length is not None and len(values) != length):
        wanted = "at least one" if length is None else str(length)
        raise ProgramError(f"{name}: expected {wanted} entries, got {len(values)}")
    return tuple(
        integer(f"{name}[{index}]", value, 0, size - 1) for index, value in enumerate(values)
    )
