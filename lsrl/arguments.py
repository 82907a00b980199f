"""Checks of what callers pass: messages say what was expected, what came and how to mend it."""

import difflib
import os
import reprlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lsrl.errors import InputError, LsrlError

Kind = TypeVar("Kind")
# Characters of a value that a message shows.
_SHOWN = 80
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN
# Digits up to which Python writes an int out.
_DIGITS = 60


def shown(value: object) -> str:
    """A value as messages show it: its repr, or its beginning and end where that is long."""
    if isinstance(value, int) and abs(value) > 10**_DIGITS:
        return f"an int of {value.bit_length()} bits"
    return " ".join(_SHORT.repr(value).split())


def near(value: object, known: Iterable[str]) -> str:
    """A hint at the name that may be meant; empty if none is near."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(value).lower(), names, n=1)
    return f"; did you mean {names[found[0]]!r}?" if found else ""


def count(
    what: str,
    value: object,
    least: int = 1,
    most: int | None = None,
    kind: type[LsrlError] = InputError,
) -> int:
    """An argument that must be an int from `least` on, up to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (isinstance(value, int | np.integer) and whole and value >= least):
        raise kind(f"{what} must be an int >= {least}, got {shown(value)}")
    if most is not None and value > most:
        raise kind(f"{what} must be an int from {least} to {most}, got {shown(int(value))}")
    return int(value)


def flag(what: str, value: object, kind: type[LsrlError] = InputError) -> bool:
    """An argument that must be True or False."""
    if not isinstance(value, bool | np.bool_):
        raise kind(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def choice(
    what: str, value: object, known: Iterable[str], kind: type[LsrlError] = InputError
) -> str:
    """An argument that must be one of a few words; the nearest is suggested."""
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    *most, last = map(repr, names)
    words = f"{', '.join(most)} or {last}" if most else last
    raise kind(f"{what} must be {words}, got {shown(value)}{near(value, names)}")


def instance(
    what: str,
    value: object,
    wanted: type[Kind],
    made_by: str,
    kind: type[LsrlError] = InputError,
) -> Kind:
    """An argument that must be of a class, which `made_by` makes."""
    if isinstance(value, wanted):
        return value
    name = wanted.__name__
    article = "an" if name[0] in "AEIOU" else "a"
    raise kind(f"{what} expects {article} {name}, made by {made_by}, got {type(value).__name__}")


def real(
    what: str,
    value: object,
    least: float = 0.0,
    *,
    above: bool = False,
    kind: type[LsrlError] = InputError,
) -> float:
    """An argument that must be a finite number from `least` on, or above it."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        number = float(min(max(value, -sys.float_info.max), sys.float_info.max))
        if number == value and (number > least or (number == least and not above)):
            return number
    sign = ">" if above else ">="
    raise kind(f"{what} must be a finite number {sign} {least:g}, got {shown(value)}")


def function(what: str, value: object, of: str, kind: type[LsrlError] = InputError) -> None:
    """An argument that must be a function of what `of` says, or None."""
    if value is not None and not callable(value):
        raise kind(f"{what} must be a function of {of}, got {shown(value)}")


def names(what: str, value: object, kind: type[LsrlError] = InputError) -> list[str]:
    """An argument that must be a name or several."""
    if isinstance(value, str):
        return [value]
    found: list[object] = list(value) if isinstance(value, Iterable) else [value]
    texts = [name for name in found if isinstance(name, str)]
    if len(texts) < len(found):
        raise kind(f"{what} must be a name or a list of names, got {shown(value)}")
    return texts


def path(what: str, value: object) -> Path:
    """An argument that must name a file or folder."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(
            f"{what}: expected a path, a str or os.PathLike, got {type(value).__name__}"
        )
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"{what}: expected a path that names a file, got {shown(text)}")
    return Path(text)


def no_keywords(
    what: str, given: Iterable[str], inputs: Iterable[str], options: Iterable[str]
) -> None:
    """Refuse keywords that are no options: inputs go by order, and options may be misspelt."""
    for name in given:
        order = ", ".join(inputs)
        if name in inputs:
            raise InputError(
                f"{what}: inputs go by order, got the keyword {name!r}; write {what}({order})"
            )
        raise InputError(
            f"{what}: there is no option {name!r}; expected {', '.join(options) or 'none'}"
            f"{near(name, options)}"
        )


def array(what: str, value: object, kind: type[LsrlError] = InputError) -> NDArray[np.generic]:
    """An argument as numpy sees it, whatever it is.

    Raises:
      LsrlError: of that kind: sequences of different lengths, hidden entries, or something that
        won't become an array (a tensor that wants gradients, a traced value of jax).
    """
    try:
        found = np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        if "inhomogeneous" in str(error) or "with a sequence" in str(error):
            cure = "run them one by one, or pad them"
            raise kind(
                f"{what}: expected a rectangular array, got sequences of different lengths; "
                + (cure if kind is InputError else "give all of them one length")
            ) from None
        why, name = str(error).partition("\n")[0], type(value).__name__
        traced = "Tracer" in name
        raise kind(
            f"{what}: expected numbers that are known now, got {name}, which won't become an array "
            f"({why}); pass a numpy array or nested lists"
            + (", outside jax.jit, jax.grad and jax.vmap" if traced else "")
        ) from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise kind(
            f"{what}: expected an entry in every place, got a masked array; fill it: "
            "x.filled(value)"
        )
    return found


def dtype_text(values: NDArray[np.generic]) -> str:
    """The dtype of an array, and of objects their classes."""
    if values.dtype != object:
        return f"dtype {values.dtype}"
    classes = sorted({type(entry).__name__ for entry in values.ravel()[:_SHOWN].tolist()})
    return f"dtype object ({', '.join(classes)})"
