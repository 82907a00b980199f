"""What a file says, checked before it is used: each field by its name, its type and its range.

A reader takes JSON data and gives what they stand for, or raises `FieldError`, which names the
field. `reader_of` makes one of an annotation, so that classes that are written to JSON field by
field are read by their own declarations.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar, get_args, get_origin

from lsrl.arguments import shown
from lsrl.errors import FormatError

Json: TypeAlias = str | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
Read = TypeVar("Read")
Reader: TypeAlias = Callable[[object], Read]

# What fits into an int64, and so into every array.
LARGEST = 2**63 - 1
# Of JSON that may be anything: data that programs write are not nested deeper.
DEEPEST = 32


class FieldError(FormatError):
    """A field is missing, or is not what its place needs; whoever knows the file says which."""

    def __init__(self, expected: str, got: str, where: str = "") -> None:
        """Say what was expected, and what came; `where` is the field."""
        self.expected, self.got, self.where = expected, got, where
        super().__init__(f"{f'{where}: ' if where else ''}expected {expected}, got {got}")

    def within(self, outer: str) -> "FieldError":
        """The same misfit, told from further outside."""
        gap = "" if not self.where or self.where.startswith("[") else "."
        return FieldError(self.expected, self.got, f"{outer}{gap}{self.where}")


def parse(content: str | bytes) -> object:
    """What JSON text says, in which no object has two entries of one name.

    Raises:
      FieldError: it is no such text.
    """
    try:
        return json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise FieldError("JSON", f"something else: {error}") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"an object with a name twice: {shown([n for n, _ in pairs])}")
    return found


# ---------------------------------------------------------------- single values


def integer(low: int = -LARGEST, high: int = LARGEST) -> Reader[int]:
    """Reads a whole number of a range."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        reach = f" from {low} to {high}" if high < LARGEST else f" >= {low}"
        raise FieldError(f"an int{'' if low == -LARGEST else reach}", shown(value))

    return read


def number(low: float = -math.inf, high: float = math.inf, infinite: bool = True) -> Reader[float]:
    """Reads a number of a range that float64 holds; NaN is none."""

    def read(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            # An int that float64 would round is not what was written.
            held = isinstance(value, float) or abs(value) <= 2**53 or _held(value)
            if held and low <= value <= high and (infinite or math.isfinite(value)):
                return value
        reach = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise FieldError(f"a {'' if infinite else 'finite '}number{reach}", shown(value))

    return read


def _held(value: int) -> bool:
    return abs(value) < 2**1023 and int(float(value)) == value


def flag(value: object) -> bool:
    """Reads true or false."""
    if isinstance(value, bool):
        return value
    raise FieldError("true or false", shown(value))


def text(value: object) -> str:
    """Reads a text that can be written again."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FieldError("text", shown(value)) from None
        return value
    raise FieldError("a text", shown(value))


def one_of(*choices: object) -> Reader[object]:
    """Reads one of a few texts."""

    def read(value: object) -> object:
        if isinstance(value, str) and value in choices:
            return value
        raise FieldError(" or ".join(map(repr, choices)), shown(value))

    return read


def anything(value: object, depth: int = DEEPEST) -> Json:
    """Reads JSON that may say anything, of a depth that can be written again."""
    if isinstance(value, list | tuple) and depth:
        return [anything(one, depth - 1) for one in value]
    if isinstance(value, dict) and depth:
        return {text(name): anything(one, depth - 1) for name, one in value.items()}
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, int):  # of any size, and truths
        return value
    if isinstance(value, float) and not math.isnan(value):
        return value
    raise FieldError(f"JSON that is at most {DEEPEST} deep", shown(value))


# ---------------------------------------------------------------- several


def maybe(reader: Reader[Read], nothing: Read | None = None) -> Reader[Read | None]:
    """Reads null as `nothing`, or what the reader reads."""
    return lambda value: nothing if value is None else reader(value)


def listed(reader: Reader[Read], count: int | None = None) -> Reader[tuple[Read, ...]]:
    """Reads a list of what the reader reads, of so many if a count is given."""

    def read(value: object) -> tuple[Read, ...]:
        if not isinstance(value, list | tuple) or (count is not None and len(value) != count):
            raise FieldError(f"a list{'' if count is None else f' of {count}'}", shown(value))
        found: list[Read] = []
        try:
            for one in value:
                found.append(reader(one))
        except FieldError as error:
            raise error.within(f"[{len(found)}]") from None
        return tuple(found)

    return read


def paired(*readers: Reader[object]) -> Reader[tuple[object, ...]]:
    """Reads a list with an entry of its own kind for each reader."""

    def read(value: object) -> tuple[object, ...]:
        entries = listed(lambda entry: entry, len(readers))(value)
        found: list[object] = []
        try:
            for reader, one in zip(readers, entries, strict=True):
                found.append(reader(one))
        except FieldError as error:
            raise error.within(f"[{len(found)}]") from None
        return tuple(found)

    return read


def named(reader: Reader[Read]) -> Reader[dict[str, Read]]:
    """Reads an object whose entries are all of one kind, whatever their names."""

    def read(value: object) -> dict[str, Read]:
        if not isinstance(value, dict):
            raise FieldError("an object", shown(value))
        return {text(name): _entry(name, reader, one) for name, one in value.items()}

    return read


def record(
    fields: Mapping[str, Reader[object]],
    optional: Sequence[str] = (),
    make: Callable[..., Read] = dict,  # type: ignore[assignment]
) -> Reader[Read]:
    """Reads an object that has these fields and no others.

    Args:
      fields: a reader each.
      optional: those that may be missing.
      make: called with the fields that are there.
    """

    def read(value: object) -> Read:
        if not isinstance(value, dict):
            raise FieldError(f"an object with {', '.join(fields)}", shown(value))
        if not fields.keys() >= value.keys():
            unknown = next(name for name in value if name not in fields)
            raise FieldError(f"no field but {', '.join(fields)}", shown(unknown))
        missing = next((n for n in fields if n not in value and n not in optional), None)
        if missing is not None:
            raise FieldError("a value", "nothing: it is missing", missing)
        return make(**{name: _entry(name, fields[name], one) for name, one in value.items()})

    return read


def _entry(name: str, reader: Reader[Read], value: object) -> Read:
    try:
        return reader(value)
    except FieldError as error:
        raise error.within(name if name.isidentifier() else f"[{shown(name)}]") from None


# ---------------------------------------------------------------- by annotation

_PLAIN: Mapping[object, Reader[object]] = {
    int: integer(),
    float: number(),
    bool: flag,
    str: text,
    object: anything,
}


def reader_of(
    kind: object,
    special: Mapping[str, Reader[object]] | None = None,
    kinds: Mapping[object, Reader[object]] | None = None,
) -> Reader[object]:
    """A reader of what an annotation says.

    Args:
      kind: int, float, bool, str, object, Literal, X | None, tuple, Mapping[str, X], or a dataclass
        or NamedTuple of such.
      special: by name of a field, wherever it is, what reads it in place of its annotation's.
      kinds: by annotation, what reads it.
    """
    known = {**_PLAIN, **(kinds or {})}
    if kind in known:
        return known[kind]
    origin, parts = get_origin(kind), get_args(kind)

    def inner(part: object) -> Reader[object]:
        return reader_of(part, special, kinds)

    if origin is Literal:
        return one_of(*parts)
    if origin in (types.UnionType, typing.Union) and parts[-1] is type(None) and len(parts) == 2:
        return maybe(inner(parts[0]))
    if origin is tuple:
        return listed(inner(parts[0])) if parts[1:] == (...,) else paired(*map(inner, parts))
    if origin is not None and issubclass(origin, Mapping):
        return named(inner(parts[1]))
    if not isinstance(kind, type):
        raise TypeError(f"schema: no reader for {kind!r}")  # a fault of the class that has it
    hints, optional = typing.get_type_hints(kind), set(getattr(kind, "_field_defaults", ()))
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        given = {field.name: field for field in dataclasses.fields(kind)}
        hints = {name: hints[name] for name in given}
        optional = {n for n, f in given.items() if f.default is not missing} | {
            n for n, f in given.items() if f.default_factory is not missing
        }
    fields = {name: (special or {}).get(name) or inner(hint) for name, hint in hints.items()}
    return record(fields, tuple(optional), kind)


def read(
    kind: type[Read],
    value: object,
    special: Mapping[str, Reader[object]] | None = None,
) -> Read:
    """An instance of a class, of JSON data; see `reader_of`.

    Raises:
      FieldError: names the field.
    """
    return typing.cast(Read, reader_of(kind, special)(value))
