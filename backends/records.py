"""Records of the event-driven engine: of numba's arrays, or objects where it isn't compiled."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from lsrl.ir.numbers import Array


def _record(*fields: tuple[str, str]) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=True)


INDEX, FLOAT = np.dtype(np.uint32), np.dtype(np.float64)
SLOT = _record(("first", "u4"), ("held", "u4"), ("token", "u1"))
UNIT = _record(("first", "u4"), ("last", "u4"), ("low", "f4"), ("more", "u4"))
KINDS = ("alike", "back", "curve")
MORE = _record(*((f"{end}_{kind}", "u4") for kind in KINDS for end in ("first", "last")))
STAGE = _record(("start", "u4"), ("kind", "u1"))
SEGMENT = _record(("begin", "f8"), ("origin", "f8"), ("first", "u4"), ("last", "u4"))
PIECE = _record(("to", "u4"), ("slope", "f8"), ("base", "f8"))
ALIKE = _record(("to", "u4"), ("end", "u4"), ("weight", "f8"))
OWNER = _record(("unit", "u4"), ("stage", "u2"))
CHANGE = _record(("unit", "u4"), ("by", "f8"))
KEPT = _record(("before", "f8"), ("at", "f8"))
HANDED = _record(("unit", "u4"), *((name, "f8") for name in ("scale", "offset", "least", "most")))

SUM = _record(("place", "u4"), ("first", "u4"), ("last", "u4"), ("offset", "f8"))


def drive_of(number: np.dtype[np.generic]) -> np.dtype[np.void]:
    """A drive of a network that gives such numbers: of float32 four to a line of the cache."""
    return _record(("drive", "f8"), ("bar", "f4"), ("shown", number.str))


def edge_of(weights: Array) -> np.dtype[np.void]:
    """An edge that has one of these weights, float64, exactly."""
    narrow = np.array_equal(weights.astype(np.float32), weights)
    return _record(("to", "u4"), ("weight", "f4" if narrow else "f8"))


class Record:
    """A record of the engine where it isn't compiled: attributes alone."""

    __slots__: tuple[str, ...] = ()


@cache
def _kind(names: tuple[str, ...]) -> type[Record]:
    """Those with these attributes and no others, so that many lie near one another."""
    return type("Record", (Record,), {"__slots__": names})


def records(array: Array) -> list[Record]:
    """As objects."""
    names = array.dtype.names or ()
    # Equal numbers are one object, which is more often in the processor's cache.
    known: dict[str, dict[float, float]] = {"f": {}, "u": {}}
    columns = []
    for name in names:
        same = known[array.dtype[name].kind].setdefault
        columns.append([same(value, value) for value in array[name].tolist()])
    return _made(names, columns, len(array))


def copied(held: Sequence[Record]) -> list[Record]:
    """Others like them, which are all of a kind."""
    names = type(held[0]).__slots__ if held else ()
    return _made(names, [[getattr(one, name) for one in held] for name in names], len(held))


def _made(names: tuple[str, ...], columns: Sequence[Sequence[float]], count: int) -> list[Record]:
    kind = _kind(names)
    found = [kind() for _ in range(count)]
    for name, column in zip(names, columns, strict=True):
        for record, value in zip(found, column, strict=True):
            setattr(record, name, value)
    return found
