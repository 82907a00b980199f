"""Immutable, hashable sparse matrices: the weights inside programs and schedules."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from lsrl.errors import ProgramError, ShapeError
from lsrl.ir.numbers import Array, exact_array, lowest_bit, lowest_bit_of

if TYPE_CHECKING:
    import scipy.sparse as sp


class Terms(NamedTuple):
    """One entry of each row that has so many.

    Attributes:
      rows: (entries,) which rows; None for all.
      columns: (entries,); None where there is one for each, in order.
      factors: (entries,) float64; None where all are 1.
    """

    rows: Array | None
    columns: Array | None
    factors: Array | None


# Of so few numbers, to look at them one by one takes less than an array does.
FEW_ENTRIES = 4
# Products of more terms than this are scipy's, which needs no room for them.
MANY_TERMS = 1 << 12


@final
class Matrix:
    """A sparse float64 matrix that is never changed after it is made.

    Equal matrices have equal hashes, so ops that hold them can be hash-consed.

    It is stored as a CSR matrix in canonical form: sorted, without explicit zeros. Where the rows
    start is worked out when it is asked for: a part of a wide concatenation has one entry, and
    there are as many parts as rows.

    Attributes:
      data: (entries,) float64, row by row.
      indices: (entries,) the column of each entry.
      shape: (rows, columns).
    """

    __slots__ = (
        "_csr",
        "_digest",
        "_entry_rows",
        "_hash",
        "_indptr",
        "_is_identity",
        "_largest",
        "_terms",
        "_unit",
        "data",
        "indices",
        "shape",
    )

    def __init__(self, values: object) -> None:
        """Take any dense array, scalar nest or scipy sparse array with two dimensions.

        Raises:
          ProgramError: entries that are not finite real numbers, or that float64 would round.
          ShapeError: another number of dimensions.
        """
        import scipy.sparse as sp  # a fifth of a second to import, so it loads when first used

        if getattr(values, "dtype", None) != np.float64:
            if hasattr(values, "tocsr"):
                given = sp.csr_array(values)
                parts = exact_array(given.data, "a matrix"), given.indices, given.indptr
                values = sp.csr_array(parts, given.shape)
            else:
                values = exact_array(values, "a matrix")
        csr = sp.csr_array(values, dtype=np.float64, copy=True)
        if csr.ndim != 2:
            raise ShapeError(f"a matrix needs two dimensions, got {csr.ndim}")
        csr.sum_duplicates()
        csr.eliminate_zeros()
        self._take(csr.data, csr.indices, csr.indptr, csr.shape)
        self._csr: sp.csr_array | None = csr

    @classmethod
    def stored(cls, data: Array, indices: Array, indptr: Array, shape: tuple[int, int]) -> "Matrix":
        """Of arrays that nobody else writes to, as they are but for entries of 0.

        Args:
          data: (entries,) float64.
          indices: (entries,) columns, sorted in each row, none of them twice.
          indptr: (rows + 1,).
          shape: (rows, columns).
        """
        # Of a few numbers, to count takes half as long as to ask whether all of them are so.
        if np.count_nonzero(data) < len(data):
            kept = data != 0
            indptr = np.concatenate([[0], np.cumsum(kept)])[indptr]
            data, indices = data[kept], indices[kept]
        matrix = cls.__new__(cls)
        kind = np.int32 if max(len(data), shape[1]) < 2**31 else np.int64
        indices, indptr = indices.astype(kind, copy=False), indptr.astype(kind, copy=False)
        matrix._take(data, indices, indptr, shape)
        return matrix

    @classmethod
    def placed(cls, data: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> "Matrix":
        """Of entries in order, row by row and in each by column, none of them twice or 0.

        Args:
          data: (entries,) float64.
          rows: (entries,) int64.
          columns: (entries,).
          shape: (rows, columns).
        """
        matrix = cls.__new__(cls)
        kind = np.int32 if max(len(data), shape[1]) < 2**31 else np.int64
        matrix._take(data, columns.astype(kind, copy=False), None, shape)
        rows.flags.writeable = False
        matrix._entry_rows = rows
        return matrix

    def _take(
        self, data: Array, indices: Array, indptr: Array | None, shape: tuple[int, int]
    ) -> None:
        if np.count_nonzero(np.isfinite(data)) < len(data):
            raise ProgramError("expected a matrix of finite numbers, got one that is not finite")
        for array in (data, indices, indptr):
            if array is not None:
                array.flags.writeable = False
        self.data, self.indices, self._indptr = data, indices, indptr
        self.shape = int(shape[0]), int(shape[1])
        self._csr = None
        self._digest = b""
        self._hash: int | None = None
        self._entry_rows: Array | None = None
        self._unit: float | None = None
        self._largest: float | None = None
        self._is_identity: bool | None = None
        self._terms: tuple[Terms, ...] | None = None

    @classmethod
    def scalar(cls, value: float) -> "Matrix":
        """The (1, 1) matrix of a number, the same one whenever it is asked for."""
        # Of 0.0 and -0.0 neither is an entry.
        return _scalar(float(value))

    @property
    def indptr(self) -> Array:
        """(rows + 1,) where the entries of each row start."""
        if self._indptr is None:
            counts = np.bincount(self.entry_rows() + 1, minlength=self.rows + 1)
            self._indptr = counts.cumsum().astype(self.indices.dtype)
            self._indptr.flags.writeable = False
        return self._indptr

    @classmethod
    def shared(cls, csr: "sp.csr_array") -> "Matrix":
        """A canonical scipy array that nobody writes to."""
        return cls.stored(csr.data, csr.indices, csr.indptr, csr.shape)

    @classmethod
    def identity(cls, size: int) -> "Matrix":
        """The (size, size) identity."""
        return cls.scalar(1.0) if size == 1 else cls.selection(np.arange(size), size)

    @classmethod
    def multiple(cls, factor: float, size: int) -> "Matrix":
        """The identity of a size, times a factor."""
        return cls.identity(size).scaled(factor)

    @classmethod
    def diagonal(cls, values: object) -> "Matrix":
        """The matrix with these values on its diagonal."""
        row = exact_array(values, "a matrix")
        if len(row) == 1:
            return cls.scalar(row.item())
        return cls.stored(row, np.arange(len(row)), np.arange(len(row) + 1), (len(row), len(row)))

    @classmethod
    def zeros(cls, rows: int, columns: int) -> "Matrix":
        """The (rows, columns) zero matrix."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls.placed(np.zeros(0), nothing, nothing, (rows, columns))

    @classmethod
    def selection(
        cls, indices: Sequence[int] | Array, columns: int, factors: Array | None = None
    ) -> "Matrix":
        """Row i picks channel indices[i] of `columns` channels, times factors[i] or 1."""
        picked = np.array(indices, dtype=np.int64)
        data = np.ones(len(picked)) if factors is None else np.array(factors, dtype=np.float64)
        if columns == 1 == len(picked):
            return cls.scalar(data.item())
        starts = np.arange(len(picked) + 1)
        return cls.stored(data, picked, starts, (len(picked), columns))

    @classmethod
    def shift(cls, size: int, by: int = 1) -> "Matrix":
        """The shift register: channel k + by takes the value of channel k."""
        count = max(size - by, 0)
        rows = np.arange(count) + min(by, size)
        return cls.placed(np.ones(count), rows, np.arange(count), (size, size))

    @classmethod
    def first(cls, rows: int, columns: int) -> "Matrix":
        """The identity with rows of zeros below it: channels, and others that are not there yet."""
        count = min(rows, columns)
        return cls.placed(np.ones(count), np.arange(count), np.arange(count), (rows, columns))

    @classmethod
    def rotation(cls, size: int) -> "Matrix":
        """The ring: channel k + 1 takes channel k, and channel 0 the last."""
        return cls.selection((np.arange(size) - 1) % size, size)

    @property
    def csr(self) -> "sp.csr_array":
        """A scipy array of the same numbers, (rows, columns)."""
        if self._csr is None:
            import scipy.sparse as sp

            self._csr = sp.csr_array((self.data, self.indices, self.indptr), self.shape)
            self._csr.has_canonical_format = True
        return self._csr

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.shape[1]

    @property
    def nonzeros(self) -> int:
        """Number of entries that are not zero."""
        return len(self.data)

    @property
    def is_identity(self) -> bool:
        """Whether this is an identity matrix."""
        if self._is_identity is None:
            self._is_identity = self.rows == self.columns == self.nonzeros and bool(
                (self.data == 1).all() and (self.indices == self.entry_rows()).all()
            )
        return self._is_identity

    @property
    def is_integer(self) -> bool:
        """Whether every entry is an integer."""
        return bool((self.data == np.floor(self.data)).all())

    @property
    def unit(self) -> float:
        """The largest power of two that divides every entry; infinity where there is none."""
        if self._unit is None:
            few = len(self.data) <= FEW_ENTRIES
            bits = map(lowest_bit_of, self.data.tolist()) if few else lowest_bit(self.data).tolist()
            self._unit = min(bits, default=np.inf)
        return self._unit

    @property
    def largest(self) -> float:
        """The greatest absolute value of an entry; 0 where there is none."""
        if self._largest is None:
            self._largest = float(np.abs(self.data).max(initial=0.0))
        return self._largest

    @property
    def transposed(self) -> "Matrix":
        """The (columns, rows) matrix with rows and columns exchanged."""
        order = self.indices.argsort(kind="stable")
        rows = self.indices[order].astype(np.int64)
        shape = self.columns, self.rows
        return Matrix.placed(self.data[order], rows, self.entry_rows()[order], shape)

    def dense(self) -> Array:
        """A dense copy, (rows, columns)."""
        return self.csr.toarray()

    @property
    def terms(self) -> tuple[Terms, ...]:
        """The first entry of each row, the second of those that have one, and so on."""
        if self._terms is None:
            lengths = np.diff(self.indptr)
            self._terms = tuple(self._term(lengths, k) for k in range(lengths.max(initial=0)))
        return self._terms

    def _term(self, lengths: Array, k: int) -> Terms:
        rows = np.flatnonzero(lengths > k)
        entries = self.indptr[rows] + k
        columns, factors = self.indices[entries].astype(np.intp), self.data[entries]
        in_order = len(columns) == self.columns and np.array_equal(columns, np.arange(len(columns)))
        return Terms(
            None if len(rows) == self.rows else rows,
            None if in_order else columns,
            None if (factors == 1).all() else factors,
        )

    def entry_rows(self) -> Array:
        """The row of each stored entry, aligned with `data` and `indices`."""
        if self._entry_rows is None:
            starts = self.indptr
            if self.rows == 1:
                self._entry_rows = np.zeros(len(self.data), np.int64)
            elif self.rows > MANY_TERMS and len(self.data) * 4 < self.rows:
                self._entry_rows = starts.searchsorted(np.arange(len(self.data)), side="right") - 1
            else:
                self._entry_rows = np.arange(self.rows).repeat(starts[1:] - starts[:-1])
        return self._entry_rows

    def take(self, picked: Array) -> "Matrix":
        """Some rows, by index."""
        entries, lengths = self._entries(picked)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        shape = len(picked), self.columns
        return Matrix.stored(self.data[entries], self.indices[entries], starts, shape)

    def among(self, first: int, columns: int) -> "Matrix":
        """The same columns from a place on among others, which are 0."""
        if columns == self.columns:
            return self
        shape = self.rows, columns
        return Matrix.placed(self.data, self.entry_rows(), self.indices + first, shape)

    def keep(self, columns: Array) -> "Matrix":
        """The columns where a mask (columns,) is true."""
        kept = columns[self.indices]
        starts = np.concatenate([[0], np.cumsum(kept)])[self.indptr]
        number = np.cumsum(columns) - 1
        shape = self.rows, int(np.count_nonzero(columns))
        return Matrix.stored(self.data[kept], number[self.indices[kept]], starts, shape)

    def __add__(self, other: "Matrix") -> "Matrix":
        """The sum of two matrices of one shape."""
        return Matrix.total([self, other], self.shape)

    @classmethod
    def total(cls, parts: Sequence["Matrix"], shape: tuple[int, int]) -> "Matrix":
        """The sum of matrices of a shape, one after another as float64 rounds it."""
        for part in parts:
            if part.shape != shape:
                raise ShapeError(f"a sum of matrices of shapes {shape} and {part.shape}")
        parts = [part for part in parts if len(part.data)]
        if len(parts) < 2:
            return parts[0] if parts else cls.zeros(*shape)
        rows = np.concatenate([part.entry_rows() for part in parts])
        columns = np.concatenate([part.indices for part in parts])
        return _summed(np.concatenate([part.data for part in parts]), rows, columns, shape)[0]

    def exact_product(self, right: "Matrix") -> "Matrix | None":
        """The matrix product where float64 holds it exactly, else None."""
        if not (self.nonzeros and right.nonzeros):
            return Matrix.zeros(self.rows, right.columns)
        bits = self.unit * right.unit
        product, largest = self._product(right)
        return product if 0 < largest <= 2.0**53 * bits else None

    def __matmul__(self, right: "Matrix") -> "Matrix":
        """The matrix product, as float64 rounds it."""
        return self._product(right)[0]

    def _product(self, right: "Matrix") -> tuple["Matrix", float]:
        """The product, and the greatest sum of absolute values that one of its entries is of."""
        if self.is_identity:
            return right, right.largest
        if right.is_identity:
            return self, self.largest
        own = self.entry_rows()
        if len(self.data) < 2 or (own[1:] > own[:-1]).all():
            return self._scaling(right)
        entries, lengths = right._entries(self.indices)
        if len(entries) > MANY_TERMS:
            size = (abs(self.csr) @ abs(right.csr)).max()
            return Matrix(self.csr @ right.csr), float(size)
        terms = self.data.repeat(lengths) * right.data[entries]
        rows = self.entry_rows().repeat(lengths)
        return _summed(terms, rows, right.indices[entries], (self.rows, right.columns))

    def _scaling(self, right: "Matrix") -> tuple["Matrix", float]:
        """The product where no row has two entries: rows of the right one, scaled."""
        rows, shape = self.entry_rows(), (self.rows, right.columns)
        if self.shape == right.shape == (1, 1):
            one = float(self.data.sum() * right.data.sum())
            return Matrix.scalar(one), abs(one)
        if right.rows == 1:
            # Every entry scales the one row that there is.
            count = len(right.data)
            terms = np.multiply.outer(self.data, right.data).ravel()
            columns = right.indices if len(rows) == 1 else np.tile(right.indices, len(rows))
            rows = rows.repeat(count) if count != 1 else rows
        else:
            entries, lengths = right._entries(self.indices)
            terms = self.data.repeat(lengths) * right.data[entries]
            rows, columns = rows.repeat(lengths), right.indices[entries]
        largest = float(np.abs(terms).max(initial=0.0))
        if np.count_nonzero(terms) < len(terms):
            kept = terms != 0
            terms, rows, columns = terms[kept], rows[kept], columns[kept]
        return Matrix.placed(terms, rows, columns, shape), largest

    def scaled(self, factor: float) -> "Matrix":
        """The multiple, as float64 rounds it."""
        if factor == 1:
            return self
        if self.shape == (1, 1):
            return Matrix.scalar(factor * float(self.data.sum()))
        return Matrix.stored(factor * self.data, self.indices, self.indptr, self.shape)

    def times(self, values: Array) -> Array:
        """The product with a vector, (columns,) to (rows,)."""
        return np.bincount(self.entry_rows(), self.data * values[self.indices], self.rows)

    def _entries(self, picked: Array) -> tuple[Array, Array]:
        """Where the entries of some rows are, and how many each of these rows has."""
        lengths = self.indptr[picked + 1] - self.indptr[picked]
        ends = lengths.cumsum()
        first = self.indptr[picked] - (ends - lengths)
        return np.arange(ends[-1] if len(ends) else 0) + first.repeat(lengths), lengths

    @property
    def digest(self) -> bytes:
        """16 bytes that tell matrices apart."""
        if not self._digest:
            digest = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(self.data, dtype=np.float64).tobytes())
            for array in (self.indices, self.entry_rows()):
                digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
            self._digest = digest.digest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        """Equal shape and entries."""
        if self is other:
            return True
        if not isinstance(other, Matrix) or self.shape != other.shape:
            return False
        return len(self.data) == len(other.data) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of shape and entries."""
        if self._hash is None:
            self._hash = hash(self.digest)
        return self._hash

    def __repr__(self) -> str:
        """Short: shape and kind, or the entries of a small matrix."""
        if self.is_identity:
            return f"I({self.rows})"
        if self.rows * self.columns <= 16:
            return str(self.dense().tolist()).replace(".0", "")
        return f"Matrix({self.rows}x{self.columns}, {self.nonzeros} nonzeros)"


def _summed(
    terms: Array, rows: Array, columns: Array, shape: tuple[int, int]
) -> tuple[Matrix, float]:
    """The matrix of sums of terms, and the greatest sum of their absolute values; at least one."""
    place = rows * shape[1] + columns
    order = place.argsort(kind="stable")
    place, terms = place[order], terms[order]
    first = np.ones(len(place), dtype=bool)
    np.not_equal(place[1:], place[:-1], out=first[1:])
    if not first.all():
        # One after another, as scipy adds them.
        entry = first.cumsum() - 1
        largest = float(np.bincount(entry, np.abs(terms)).max())
        terms, order = np.bincount(entry, terms), order[first]
    else:
        largest = float(np.abs(terms).max(initial=0.0))
    rows, columns = rows[order], columns[order]
    if np.count_nonzero(terms) < len(terms):
        kept = terms != 0
        terms, rows, columns = terms[kept], rows[kept], columns[kept]
    return Matrix.placed(terms, rows, columns, shape), largest


@lru_cache(maxsize=MANY_TERMS)
def _scalar(value: float) -> Matrix:
    nothing = np.zeros(0, dtype=np.int64)
    if value == 0:
        return Matrix.placed(np.zeros(0), nothing, nothing, (1, 1))
    return Matrix.placed(np.array([value]), np.zeros(1, np.int64), np.zeros(1, np.int64), (1, 1))
