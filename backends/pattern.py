"""Where a sparse parameter has its weights: what is no parameter of it, and lies in a structure."""

from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from lsrl.errors import ShapeError
from lsrl.ir.numbers import Array
from lsrl.parameters import Parameter


class Pattern:
    """The entries of a matrix (rows, columns) that are weights, row by row; hashable.

    The parameter itself is the vector of their values, in this order.

    Attributes:
      shape: of the matrix.
      starts: (rows + 1,) where each row begins.
      columns: (entries,) of each.
    """

    def __init__(self, matrix: Parameter) -> None:
        """The pattern of a matrix: all entries that a sparse one stores, or the nonzero ones."""
        found = sparse.csr_array(_numbers(matrix), copy=True)
        found.sum_duplicates()  # in order of columns, too
        self.shape: tuple[int, int] = found.shape
        self.starts, self.columns = found.indptr.astype(np.int32), found.indices.astype(np.int32)
        self._key = self.shape, self.starts.tobytes(), self.columns.tobytes()
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Pattern) and self._key == other._key)

    @cached_property
    def rows(self) -> Array:
        """(entries,) the row of each."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.starts))

    def matrix(self, values: Array) -> sparse.csr_array:
        """The parameter, of its values; those of bfloat16 as float32, since scipy has no other."""
        held = values if values.dtype.kind == "f" else values.astype(np.float32)
        return sparse.csr_array((held, self.columns, self.starts), shape=self.shape)

    def values(self, matrix: Parameter, name: str) -> Array:
        """What a matrix, sparse or dense, has at these entries; 0 where it stores nothing.

        Raises:
          ShapeError: it is not 0 at another entry; names the parameter.
        """
        given = sparse.coo_array(_numbers(matrix))
        own = self.rows.astype(np.int64) * self.shape[1] + self.columns
        wanted = given.row.astype(np.int64) * self.shape[1] + given.col
        found = np.zeros(len(own), given.dtype)
        place = np.searchsorted(own, wanted)
        inside = np.take(own, place, mode="clip") == wanted if len(own) else wanted < 0
        outside = np.flatnonzero(~inside & (given.data != 0))
        if len(outside):
            row, column, value = (part[outside[0]] for part in (given.row, given.col, given.data))
            raise ShapeError(
                f"parameter {name!r} is sparse and has no weight at ({row}, {column}), got "
                f"{value!r} there; a network with other weights is made with rebuilt"
            )
        np.add.at(found, place[inside], given.data[inside])
        return found

    def product(self, values: jax.Array, vectors: jax.Array) -> jax.Array:
        """Vectors (..., rows) times the matrix: (..., columns), also as jax transforms it."""
        weights = values.reshape((1,) * (vectors.ndim - 1) + values.shape)
        total = jnp.zeros((*vectors.shape[:-1], self.shape[1]), vectors.dtype)
        return total.at[..., self.columns].add(vectors[..., self.rows] * weights)


def _numbers(matrix: Parameter) -> Parameter:
    """A matrix as scipy takes it, which knows no bfloat16."""
    return matrix if sparse.issparse(matrix) else np.asarray(matrix, np.float64)
