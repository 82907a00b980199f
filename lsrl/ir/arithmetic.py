"""The arithmetics that a program can be carried out in.

An op says what it means once, as a formula over arrays whose last axis is its channels. What these
arrays are made of is said by a `Numbers`, which holds all that a formula needs beyond operators,
comparisons and slices:

    Rationals()                     exact, ints and Fractions as objects
    Floats(np.float32)              every operation rounded to the dtype, in the order told below
    Integers(np.int64)              exact, or refused
    Floats(np.float32, jax.numpy)   arrays of jax, to be jitted, scanned and mapped; Integers too

The order of roundings: a formula's operations are rounded one by one, as they stand. A row of a
matrix adds up its products one after another, in the order of the columns. An affine map adds to
its bias the product of each operand in turn. A zero has no sign. In jax's arrays XLA has its own
order; they equal the others where nothing is rounded.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, cast, final

import numpy as np
import numpy.typing as npt

from lsrl.errors import InputError
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, rational

if TYPE_CHECKING:
    import scipy.sparse as sp

Values = tuple[float, ...]
# With more entries in some row, jax multiplies a matrix as a whole.
MAX_TERMS = 4
# A larger table stays sparse, and the rows that are read are made dense.
MOST_DENSE = 1 << 20
# Numbers from which on numpy's indexing beats its `take`.
MANY = 1 << 11


class Numbers:
    """One kind of number in arrays of one namespace; made anew for every evaluation, or for many.

    What is derived of a program's constants is kept, by their identity, as long as this lives.

    Attributes:
      dtype: of the arrays.
      namespace: numpy, or jax.numpy.
    """

    def __init__(self, dtype: npt.DTypeLike, namespace: ModuleType = np) -> None:
        """Numbers of a dtype."""
        self.dtype = np.dtype(dtype)
        self.namespace = namespace
        self._known: dict[tuple[object, ...], tuple[object, Array]] = {}

    @property
    def traced(self) -> bool:
        """Whether values may be unknown while a formula runs, as under `jax.jit`."""
        return self.namespace is not np

    # ------------------------------------------------------------ making

    def converted(self, values: Array) -> Array:
        """A program's constants, float64, as these numbers."""
        with np.errstate(over="ignore"):  # too large for the dtype: infinite
            return values.astype(self.dtype)

    def given(self, values: Array) -> Array:
        """What comes from outside, as these numbers."""
        return cast(Array, self.namespace.asarray(values, self.dtype))

    def scalar(self, value: float) -> float:
        """One constant, to be multiplied with arrays."""
        return value

    def row(self, values: Values, rank: int) -> Array:
        """Constants as (1, ..., 1, width), with `rank` axes."""
        key = id(values), rank
        return self._kept(
            key, values, lambda: np.array(values, dtype=np.float64).reshape(*[1] * (rank - 1), -1)
        )

    def full(self, values: Values, shape: tuple[int, ...]) -> Array:
        """Constants at every place: (*shape, width)."""
        key = id(values), shape
        if key not in self._known:
            whole = np.broadcast_to(self.row(values, len(shape) + 1), (*shape, len(values)))
            self._known[key] = values, whole
        return self._known[key][1]

    def table(self, matrix: Matrix) -> Array:
        """A matrix, dense."""
        return self._kept((id(matrix),), matrix, matrix.dense)

    def _kept(self, key: tuple[object, ...], source: object, make: Callable[[], Array]) -> Array:
        # With its source, so that nothing else can have its identity meanwhile.
        if key not in self._known:
            self._known[key] = source, self.converted(make())
        return self._known[key][1]

    # ------------------------------------------------------------ formulas

    def product(self, weight: Matrix, value: Array) -> Array:
        """Weight @ value over the last axis: (..., columns) to (..., rows)."""
        terms = weight.terms
        whole = self.product_at_once(weight, value) if len(terms) > 1 else None
        if whole is not None:
            return whole
        if not terms or terms[0].rows is not None:
            result: Array = self.namespace.zeros((*value.shape[:-1], weight.rows), self.dtype)
        for k, (rows, columns, factors) in enumerate(terms):
            term = value if columns is None else self.picked(value, columns)
            if factors is not None:
                term = term * self._factors(weight, k, factors, value.ndim)
            if rows is None:
                result = term if k == 0 else result + term
            else:
                result = self.added(result, rows, term)
        return result

    def picked(self, value: Array, columns: Array) -> Array:
        """Some channels of a value."""
        if self.traced or value.size > MANY:
            return value[..., columns]
        return value.take(columns, axis=-1)

    def added(self, total: Array, rows: Array, term: Array) -> Array:
        """Total with a term added to some of its channels."""
        if self.traced:
            return cast(Array, self.namespace.asarray(total).at[..., rows].add(term))
        result = total.copy()
        result[..., rows] += term
        return result

    def _factors(self, weight: Matrix, k: int, factors: Array, rank: int) -> Array:
        if self.dtype == np.float64 and not self.traced:
            return factors
        key = id(weight), k, rank
        return self._kept(key, weight, lambda: factors.reshape(*[1] * (rank - 1), -1))

    def product_at_once(self, weight: Matrix, value: Array) -> Array | None:
        """The product of a matrix with long rows, if there is a quicker way to the same result."""
        if not self.traced or len(weight.terms) <= MAX_TERMS:
            return None
        dense = self.table(weight)
        # Else the default of an accelerator would round the factors.
        return cast(Array, self.namespace.matmul(value, dense.T, precision="highest"))

    def rows(self, table: Matrix, places: Array) -> Array:
        """Rows of a table by number: (...) to (..., columns)."""
        if self.traced:
            return cast(Array, self.namespace.asarray(self.table(table))[places.astype(np.int32)])
        if table.rows * table.columns > MOST_DENSE:
            picked = table.csr[places.ravel().astype(np.int64)].toarray()
            return self.converted(picked).reshape(*places.shape, table.columns)
        return self.table(table)[places.astype(np.int64)]

    def positive(self, value: Array) -> Array:
        """What is above 0, else 0."""
        return cast(Array, self.namespace.maximum(value, 0))

    def where(self, mask: Array, first: Array, second: Array) -> Array:
        """The first value where the mask says so, else the second."""
        return cast(Array, self.namespace.where(mask, first, second))

    def joined(self, parts: Sequence[Array], axis: int) -> Array:
        """Arrays one after another along an axis."""
        return cast(Array, self.namespace.concatenate(parts, axis))

    def ramp(self, value: Array, slope: float, shift: float) -> Array:
        """relu(1 - relu(-slope value - shift))."""
        slope, shift = self.scalar(slope), self.scalar(shift)
        return self.positive(1 - self.positive(-slope * value - shift))

    def on_ramp(self, value: Array, slope: float, shift: float) -> Array:
        """Where that is neither 0 nor 1."""
        result = self.ramp(value, slope, shift)
        return (result > 0) & (result < 1)

    def outside(self, value: Array, low: Values, high: Values) -> Array:
        """Where a value lies outside an interval."""
        return (value < self.row(low, value.ndim)) | (value > self.row(high, value.ndim))

    def unequal_sum(self, total: Array, first: Array, second: Array) -> Array:
        """Where a total is not the sum of two values."""
        return cast(Array, total != first + second)

    def off_grid(self, value: Array, step: Values) -> Array:
        """Where a value is no multiple of a step, where that is not 0."""
        on = np.array(step) > 0
        unit = self.row(tuple(np.where(on, step, 1.0).tolist()), value.ndim)
        return (value % unit != 0) & on.reshape(*[1] * (value.ndim - 1), -1)


@final
class Rationals(Numbers):
    """Exact arithmetic: arrays of Python's ints and Fractions."""

    def __init__(self) -> None:
        """Objects of numpy's arrays."""
        super().__init__(object)

    def converted(self, values: Array) -> Array:
        """Each as an int or a Fraction."""
        flat = np.asarray(values, dtype=np.float64).ravel()
        result = np.empty(len(flat), dtype=object)
        result[:] = [rational(value) if np.isfinite(value) else value for value in flat]
        return result.reshape(np.shape(values))

    def given(self, values: Array) -> Array:
        """Each as an int or a Fraction."""
        return values if values.dtype == object else self.converted(values)

    def scalar(self, value: float) -> float:
        """An int or a Fraction, which stand for a float where types are told."""
        return rational(value)  # type: ignore[return-value]


@final
class Floats(Numbers):
    """Floating point, rounded to the dtype at every operation."""

    def __init__(self, dtype: npt.DTypeLike = np.float64, namespace: ModuleType = np) -> None:
        """Float64 unless told otherwise."""
        super().__init__(dtype, namespace)

    def product_at_once(self, weight: Matrix, value: Array) -> Array | None:
        """In float64 by scipy, whose order is the same."""
        if self.traced or self.dtype != np.float64:
            return super().product_at_once(weight, value)
        flat = value.reshape(-1, weight.columns)
        return np.asarray((weight.csr @ flat.T).T).reshape(*value.shape[:-1], weight.rows)

    def unequal_sum(self, total: Array, first: Array, second: Array) -> Array:
        """Beyond what rounding explains, of each value and of their sum."""
        size = abs(total) + abs(first) + abs(second)
        return cast(Array, abs(first + second - total) > 2 * np.finfo(self.dtype).eps * size)


@final
class Integers(Numbers):
    """Integers, exact as long as they fit; an evaluator refuses programs where they may not."""

    def __init__(self, dtype: npt.DTypeLike = np.int64, namespace: ModuleType = np) -> None:
        """Int64 unless told otherwise."""
        super().__init__(dtype, namespace)
        self._sparse: dict[int, tuple[Matrix, sp.csr_array]] = {}

    @property
    def greatest(self) -> int:
        """No value and no sum may be larger."""
        return int(np.iinfo(self.dtype).max)

    def given(self, values: Array) -> Array:
        """What comes from outside, as long as it is integers."""
        result = super().given(values)
        if not self.traced and values.dtype.kind == "f" and (result != values).any():
            wrong = values[result != values].flat[0]
            raise InputError(f"expected integers, got {wrong}; evaluate in rationals or floats")
        return result

    def product_at_once(self, weight: Matrix, value: Array) -> Array | None:
        """By scipy; the order is no matter."""
        if self.traced:
            return super().product_at_once(weight, value)
        flat = value.reshape(-1, weight.columns)
        if id(weight) not in self._sparse:
            self._sparse[id(weight)] = weight, weight.csr.astype(self.dtype)
        product = self._sparse[id(weight)][1] @ flat.T
        return np.asarray(product.T).reshape(*value.shape[:-1], weight.rows)

    def ramp(self, value: Array, slope: float, shift: float) -> Array:
        """1 from the ramp's end on, else 0, which is the formula everywhere off the ramp."""
        return (value >= int(np.ceil(-shift / slope))).astype(self.dtype)

    def on_ramp(self, value: Array, slope: float, shift: float) -> Array:
        """Where the formula gives no integer."""
        start, end = int(np.floor(-(1 + shift) / slope)), int(np.ceil(-shift / slope))
        return (value > start) & (value < end)

    def outside(self, value: Array, low: Values, high: Values) -> Array:
        """Where a value lies outside an interval, whose ends may be fractions."""
        kind = np.iinfo(self.dtype)
        rank = [1] * (value.ndim - 1)
        least, most = (
            np.array([min(max(int(end), kind.min), kind.max) for end in ends], self.dtype)
            for ends in (np.ceil(low), np.floor(high))
        )
        return (value < least.reshape(*rank, -1)) | (value > most.reshape(*rank, -1))
