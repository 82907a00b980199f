"""All that a machine has in one table of addresses, for numba.

numba looks at each argument of a call, 0.2 µs an array, which is longer than most tokens take.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from lsrl.ir.numbers import Array


@intrinsic  # type: ignore[untyped-decorator]
def pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), made


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def flat(table: Any, place: int, dtype: Any) -> Any:
    """An array (entries,) of the table."""
    return carray(pointer(table[2 * place]), (table[2 * place + 1],), dtype)


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def rows_of(table: Any, place: int, rows: int, dtype: Any) -> Any:
    """An array (rows, entries) of the table."""
    return carray(pointer(table[2 * place]), (rows, table[2 * place + 1] // max(rows, 1)), dtype)


def table_of(arrays: Sequence[Array], readout: int, tokens: int, tells: int) -> Array:
    """Addresses and sizes of arrays, in the order in which the engine reads them, and numbers."""
    found = [(array.ctypes.data, array.size) for array in arrays]
    return np.array([*np.ravel(found), readout, tokens, tells], np.int64)
