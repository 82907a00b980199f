"""Exact facts about float64 numbers: the grid a value lies on, and when a sum is exact."""

import math
from fractions import Fraction
from typing import Any, SupportsFloat, cast

import numpy as np
import numpy.typing as npt

from lsrl.arguments import array, shown
from lsrl.errors import ProgramError

Array = npt.NDArray[Any]

# Where a float64 has its mantissa.
MANTISSA = (1 << 52) - 1
INFINITY = 0x7FF << 52
LEADING = 1 << 52
# Rows from so many numbers on take room that it pays to save, where all of them are alike.
WIDE = 256


def lowest_bit(values: npt.ArrayLike) -> Array:
    """The largest power of two that divides each value; inf for zero, 0 for infinity.

    Args:
      values: any shape, float64.

    Returns:
      float64 of the same shape.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 1:
        # Programs are full of signals of one channel, for which a pass over arrays takes longer.
        return np.full(array.shape, lowest_bit_of(array.item()))
    pattern = array.view(np.int64)
    exponent = pattern & INFINITY
    mantissa = (pattern & MANTISSA) | LEADING
    mantissa &= -mantissa
    bit = mantissa * 2.0**-52
    bit *= exponent.view(np.float64)
    # Others than normal numbers have the exponent 0, which wraps around, or that of infinity.
    if ((exponent - LEADING).view(np.uint64) >= INFINITY - LEADING).any():
        tiny = exponent == 0
        bit[tiny] = np.inf
        for place in zip(*np.nonzero(tiny & (array != 0)), strict=True):
            bit[place] = lowest_bit_of(array[place].item())
        bit[exponent == INFINITY] = 0.0
    return bit


def lowest_bit_of(value: float) -> float:
    """The same of one number, which takes a tenth of the time."""
    if value == 0:
        return math.inf
    if not math.isfinite(value):
        return 0.0
    if -(2.0**53) < value < 2.0**53 and value.is_integer():
        whole = int(value)
        return float(whole & -whole)
    mantissa, exponent = math.frexp(value)
    integer = int(math.ldexp(mantissa, 53))
    return math.ldexp(integer & -integer, exponent - 53)


def all_alike(row: Array) -> bool:
    """Whether a row (entries,) float64 is wide and all its numbers are one, bit for bit."""
    if len(row) < WIDE or row.dtype != np.float64:
        return False
    bits = row.view(np.int64)
    return bool((bits == bits[0]).all())


def floats(row: Array) -> tuple[float, ...]:
    """The numbers of a row (entries,); of a wide one those that are alike are one object."""
    if len(row) < WIDE or row.dtype != np.float64:
        return tuple(row.tolist())
    if all_alike(row):
        return (float(row[0]),) * len(row)
    # Of their bits, since -0.0 is not 0.0.
    kinds, places = np.unique(row.view(np.int64), return_inverse=True)
    return tuple(map(kinds.view(np.float64).tolist().__getitem__, places.tolist()))


def repeated(row: Array) -> Array:
    """The same row (entries,); where all of a wide one are alike, they lie in one place."""
    if row.strides == (0,) or not all_alike(row):
        return row
    return np.broadcast_to(row[:1].copy(), row.shape)


def power_of_two_below(value: float) -> float:
    """The largest power of two that is at most `value` (> 0)."""
    return float(2.0 ** np.floor(np.log2(value)))


def power_of_two_above(value: float) -> float:
    """The smallest power of two that is at least `value` (> 0)."""
    return float(2.0 ** np.ceil(np.log2(value)))


def common_grid(values: Array, starts: Array) -> Array:
    """Greatest common divisor of each run of dyadic numbers.

    A zero divides nothing and everything, so it is passed over; 'continuous' (nan) spoils its run.

    Args:
      values: (entries,) float64, nan for continuous, zero or inf for 'multiple of anything'.
      starts: (runs + 1,) where each run begins, as in a CSR matrix.

    Returns:
      (runs,) the step of each run: 0 where continuous, inf where the run has no entry.
    """
    starts = np.asarray(starts)
    result = np.full(len(starts) - 1, np.inf)
    lengths = starts[1:] - starts[:-1]
    filled = lengths.nonzero()[0]
    if not len(filled):
        return result
    # reduceat takes a run to reach to the next start given, so only runs with entries are named.
    where, lengths = starts[filled], lengths[filled]
    clean = np.where(np.isfinite(values), np.abs(values), 0.0)
    bits = np.minimum.reduceat(lowest_bit(clean), where)
    nothing = np.isinf(bits)
    unit = np.where(nothing, 1.0, bits)
    scaled = clean / np.repeat(unit, lengths)
    divisor = unit
    if scaled.max() < 2.0**62:
        divisor = np.gcd.reduceat(scaled.astype(np.int64), where).astype(np.float64) * unit
    found = np.where(nothing, np.inf, divisor)
    continuous = np.isnan(values)
    if continuous.any():
        found[np.add.reduceat(continuous, where) > 0] = 0.0
    result[filled] = found
    return result


def sum_is_exact(magnitude: npt.ArrayLike, grid: npt.ArrayLike, bits: int) -> Array:
    """Whether sums are exact in any order (condition P1; docs/design.md, section 1).

    A sum of terms on a grid g (a power of two) whose absolute values add up to at most 2^bits g has
    only exactly representable partial sums.

    Args:
      magnitude: sum of the absolute values of the terms.
      grid: largest power of two that divides every term; 0 if there is none.
      bits: significand bits of the dtype.
    """
    with np.errstate(over="ignore"):  # what float64 can't hold is more than any magnitude
        return np.asarray(np.asarray(magnitude) <= 2.0**bits * np.asarray(grid))


def exact_array(values: object, what: str) -> Array:
    """Numbers of any shape as float64, refusing what float64 can't hold exactly.

    Raises:
      ProgramError: not numbers, complex numbers, or numbers that float64 would round.
    """
    given = cast(Array, array(what, values, ProgramError))
    kind = given.dtype.kind
    # numpy's own casts are fast, and exact for these.
    if kind in "fb" and given.dtype.itemsize <= 8:
        return given.astype(np.float64)
    if kind in "iu" and not given[(given > 2**53) | (given < -(2**53))].size:
        return given.astype(np.float64)
    found = [exact_number(entry, what) for entry in given.ravel().tolist()]
    return np.array(found, dtype=np.float64).reshape(given.shape)


def unsigned_zeros(values: Array) -> Array:
    """A copy of floating point numbers with 0.0 where they are -0.0: equal, with equal bits."""
    return values + values.dtype.type(0)


def exact_number(value: object, what: str) -> float:
    """`value` as a float64, refusing what float64 can't hold exactly.

    Raises:
      ProgramError: not a finite number, a complex one, or one that float64 would round.
    """
    if np.iscomplexobj(np.asarray(value)):  # numpy would drop the imaginary part
        raise ProgramError(
            f"{what}: expected real numbers, got {shown(value)}, which is complex; write .real "
            "to drop the imaginary part, or keep both parts as two channels, on which a + bi acts "
            "as the matrix [[a, -b], [b, a]]"
        )
    try:
        # Of text, Python would read the digits.
        text = isinstance(value, str | bytes | bytearray)
        number = float(cast(SupportsFloat, "not a number" if text else value))
    except OverflowError as error:
        raise ProgramError(
            f"{what}: expected a number that float64 holds, up to 1.8e308, got {shown(value)}"
        ) from error
    except (TypeError, ValueError) as error:
        raise ProgramError(
            f"{what}: expected a number, got {shown(value)}; write an int, a float or a Fraction"
        ) from error
    if not np.isfinite(number):
        raise ProgramError(f"{what}: expected a finite number, got {shown(value)}")
    if number != value:
        raise ProgramError(
            f"{what}: {shown(value)} is not a float64; programs hold float64 numbers, "
            "so write float(...) to round it on purpose"
        )
    return number


def rational(value: float) -> int | Fraction:
    """A float64 as an exact rational; plain ints where possible, since they are faster."""
    return int(value) if float(value).is_integer() else Fraction(value)


def same_bits(one: Array | None, other: Array | None) -> bool:
    """Whether two arrays hold the same numbers in the same dtype, bit for bit."""
    if one is None or other is None:
        return one is other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    # Of their bytes, since NaN is no number and differs from itself.
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return bool(np.array_equal(left, right))
