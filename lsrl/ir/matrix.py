"""Immutable, hashable sparse matrices: the weights inside programs and schedules."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np

from lsrl.errors import ProgramError, ShapeError
from lsrl.ir.numbers import Array, exact_array, lowest_bit


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


@final
class Matrix:
    """A sparse float64 matrix that is never changed after it is made.

    Equal matrices have equal hashes, so ops that hold them can be hash-consed.

    Attributes:
      csr: (rows, columns) scipy CSR array in canonical form: sorted, without explicit zeros.
    """

    __slots__ = ("_digest", "_terms", "csr")

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
        if not np.isfinite(csr.data).all():
            raise ProgramError("expected a matrix of finite numbers, got one that is not finite")
        for array in (csr.data, csr.indices, csr.indptr):
            array.flags.writeable = False
        self.csr = csr
        digest = hashlib.blake2b(repr(csr.shape).encode(), digest_size=16)
        for array, kind in (
            (csr.data, np.float64),
            (csr.indices, np.int64),
            (csr.indptr, np.int64),
        ):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        self._digest = digest.digest()
        self._terms: tuple[Terms, ...] | None = None

    @classmethod
    def identity(cls, size: int) -> "Matrix":
        """The (size, size) identity."""
        return cls.selection(np.arange(size), size)

    @classmethod
    def diagonal(cls, values: object) -> "Matrix":
        """The matrix with these values on its diagonal."""
        row = exact_array(values, "a matrix")
        return cls._of(row, np.arange(len(row)), np.arange(len(row)), (len(row), len(row)))

    @classmethod
    def zeros(cls, rows: int, columns: int) -> "Matrix":
        """The (rows, columns) zero matrix."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls._of(np.zeros(0), nothing, nothing, (rows, columns))

    @classmethod
    def selection(cls, indices: Sequence[int] | Array, columns: int) -> "Matrix":
        """Row i picks channel indices[i] of `columns` channels."""
        picked = np.asarray(indices, dtype=np.int64)
        rows = np.arange(len(picked))
        return cls._of(np.ones(len(picked)), rows, picked, (len(picked), columns))

    @classmethod
    def shift(cls, size: int) -> "Matrix":
        """The shift register: channel k + 1 takes the value of channel k."""
        later = np.arange(1, size)
        return cls._of(np.ones(size - 1), later, later - 1, (size, size))

    @classmethod
    def rotation(cls, size: int) -> "Matrix":
        """The ring: channel k + 1 takes channel k, and channel 0 the last."""
        return cls.selection((np.arange(size) - 1) % size, size)

    @classmethod
    def _of(cls, data: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> "Matrix":
        import scipy.sparse as sp

        return cls(sp.csr_array((data, (rows, columns)), shape))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.csr.shape[0])

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.csr.shape[1])

    @property
    def nonzeros(self) -> int:
        """Number of entries that are not zero."""
        return int(self.csr.nnz)

    @property
    def is_identity(self) -> bool:
        """Whether this is an identity matrix."""
        square, ones = self.rows == self.columns == self.nonzeros, self.csr.data == 1
        return square and bool(ones.all() and (self.csr.indices == self.entry_rows()).all())

    @property
    def is_integer(self) -> bool:
        """Whether every entry is an integer."""
        return bool((self.csr.data == np.floor(self.csr.data)).all())

    def dense(self) -> Array:
        """A dense copy, (rows, columns)."""
        return self.csr.toarray()

    @property
    def terms(self) -> tuple[Terms, ...]:
        """The first entry of each row, the second of those that have one, and so on."""
        if self._terms is None:
            lengths = np.diff(self.csr.indptr)
            self._terms = tuple(self._term(lengths, k) for k in range(lengths.max(initial=0)))
        return self._terms

    def _term(self, lengths: Array, k: int) -> Terms:
        rows = np.flatnonzero(lengths > k)
        entries = self.csr.indptr[rows] + k
        columns, factors = self.csr.indices[entries].astype(np.intp), self.csr.data[entries]
        in_order = len(columns) == self.columns and np.array_equal(columns, np.arange(len(columns)))
        return Terms(
            None if len(rows) == self.rows else rows,
            None if in_order else columns,
            None if (factors == 1).all() else factors,
        )

    def entry_rows(self) -> Array:
        """The row of each stored entry, aligned with `csr.data` and `csr.indices`."""
        return np.repeat(np.arange(self.rows), np.diff(self.csr.indptr))

    def exact_product(self, right: "Matrix") -> "Matrix | None":
        """The matrix product where float64 holds it exactly, else None."""
        product = Matrix(self.csr @ right.csr)
        if not (self.nonzeros and right.nonzeros):
            return product
        bits = float(lowest_bit(self.csr.data).min() * lowest_bit(right.csr.data).min())
        largest = float((abs(self.csr) @ abs(right.csr)).max())
        return product if 0 < largest <= 2.0**53 * bits else None

    def __eq__(self, other: object) -> bool:
        """Equal shape and entries."""
        return isinstance(other, Matrix) and self._digest == other._digest

    def __hash__(self) -> int:
        """Hash of shape and entries."""
        return hash(self._digest)

    def __repr__(self) -> str:
        """Short: shape and kind, or the entries of a small matrix."""
        if self.is_identity:
            return f"I({self.rows})"
        if self.rows * self.columns <= 16:
            return str(self.dense().tolist()).replace(".0", "")
        return f"Matrix({self.rows}x{self.columns}, {self.nonzeros} nonzeros)"
