"""Tokens by events where numba is installed, with all that a machine has in one table of addresses.

numba looks at each argument of a call, 0.2 µs an array, which is longer than most tokens take.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from lsrl.backends.events import collect, compiled, part, step
from lsrl.backends.records import (
    ALIKE,
    CHANGE,
    HANDED,
    KEPT,
    MORE,
    OWNER,
    PIECE,
    SEGMENT,
    SLOT,
    STAGE,
    SUM,
    UNIT,
)
from lsrl.ir.numbers import Array

# Tokens of a table, and work that they were: units that were looked at.
Turn = Callable[[Array], int]
INDEX, FLOAT = np.dtype(np.uint32), np.dtype(np.float64)


@intrinsic  # type: ignore[untyped-decorator]
def pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), made


@part
def flat(table: Any, place: int, dtype: Any) -> Any:
    """An array (entries,) of the table."""
    return carray(pointer(table[2 * place]), (table[2 * place + 1],), dtype)


@part
def rows_of(table: Any, place: int, rows: int, dtype: Any) -> Any:
    """An array (rows, entries) of the table."""
    return carray(pointer(table[2 * place]), (rows, table[2 * place + 1] // max(rows, 1)), dtype)


def table_of(arrays: Sequence[Array], readout: int, tokens: int, shows: bool) -> Array:
    """Addresses and sizes of arrays, in the order in which `turning` reads them, and numbers."""
    found = [(array.ctypes.data, array.size) for array in arrays]
    return np.array([*np.ravel(found), readout, tokens, shows], np.int64)


@cache
def turning(
    number: np.dtype[Any], edge: np.dtype[Any], drive: np.dtype[Any],
) -> Turn:  # fmt: skip
    """What reads the tokens of a table.

    Args:
      number: dtype of values and outputs.
      edge: of edges.
      drive: of drives.
    """

    @compiled
    def turn(table: Any) -> int:
        size = len(table)
        readout, tokens = table[size - 3], table[size - 2]
        stages, units, more = flat(table, 0, STAGE), flat(table, 1, UNIT), flat(table, 2, MORE)
        forward, bunches, back = flat(table, 3, edge), flat(table, 4, ALIKE), flat(table, 5, edge)
        segments, pieces = flat(table, 6, SEGMENT), flat(table, 7, PIECE)
        owners, drives = flat(table, 8, OWNER), flat(table, 9, drive)
        held, kept = flat(table, 10, number), flat(table, 11, KEPT)
        waiting, ends = flat(table, 12, INDEX), flat(table, 13, INDEX)
        changes, slots = flat(table, 14, CHANGE), flat(table, 15, SLOT)
        x, clock = flat(table, 16, FLOAT), flat(table, 17, FLOAT)
        given, rows = rows_of(table, 18, tokens, FLOAT), rows_of(table, 19, tokens, number)
        work = 0
        for t in range(tokens):
            for k in range(len(x)):
                x[k] = given[t, k]
            work += step(
                clock[0], stages, units, more, forward, bunches, back, segments, pieces, owners,
                drives, held, kept, waiting, ends, changes, slots, x,
            )  # fmt: skip
            clock[0] += 1
            for k in range(rows.shape[1]):
                rows[t, k] = drives[readout + k].shown
        if table[size - 1]:
            handed, sums = flat(table, 20, HANDED), flat(table, 21, SUM)
            terms, which = flat(table, 22, HANDED), flat(table, 23, INDEX)
            row = flat(table, 24, number)
            collect(drives, kept, handed, sums, terms, which, clock[0] - 1, row)
        return work

    return turn
