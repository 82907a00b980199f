"""Where a sparse parameter has its weights: what is no parameter of it, and lies in a structure."""

from collections.abc import Mapping
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from lsrl.errors import ShapeError
from lsrl.ir.numbers import Array
from lsrl.parameters import Parameter, Sparseness, entries, thinned


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
        found = sorted_entries(matrix)
        self.shape: tuple[int, int] = found.shape
        self.starts, self.columns = found.indptr.astype(np.int32), found.indices.astype(np.int32)

    @cached_property
    def _key(self) -> tuple[object, ...]:
        """As much as the pattern once more: for jit, of which a run by events has no need."""
        return self.shape, self.starts.tobytes(), self.columns.tobytes()

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

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

    @cached_property
    def longest(self) -> int:
        """Weights of the row that has most."""
        return int(np.diff(self.starts).max(initial=0))

    @cached_property
    def picks(self) -> bool:
        """Whether no column has more than one weight."""
        return bool((np.bincount(self.columns, minlength=1) <= 1).all())

    @cached_property
    def _sums(self) -> tuple[tuple[tuple[Array, Array], ...], Array | None]:
        """Columns in bunches of about as many weights, and where each column is among them.

        Of each bunch the rows and the places of its weights, both (columns, most weights); the
        place behind the last stands for none. None where the columns are in order.
        """
        counts = np.bincount(self.columns, minlength=self.shape[1])
        by_column = np.append(np.argsort(self.columns, kind="stable"), 0)
        first = np.cumsum(counts) - counts
        # Rounded up to powers of two, so at most half of what is read stands for none.
        depths = np.where(counts > 0, 1 << np.ceil(np.log2(np.maximum(counts, 1))).astype(int), 0)
        bunches, order = [], []
        for depth in np.unique(depths).tolist():
            chosen = np.flatnonzero(depths == depth)
            order.append(chosen)
            along = np.arange(depth)
            inside = along < counts[chosen, None]
            taken = by_column[np.where(inside, first[chosen, None] + along, -1)]
            rows = np.where(inside, np.append(self.rows, 0)[taken], 0)
            places = np.where(inside, taken, len(self.columns))
            bunches.append((rows.astype(np.int32), places.astype(np.int32)))
        ordered = np.concatenate(order) if order else np.zeros(0, int)
        if np.array_equal(ordered, np.arange(self.shape[1])):
            return tuple(bunches), None
        return tuple(bunches), np.argsort(ordered).astype(np.int32)

    def product(self, values: jax.Array, vectors: jax.Array) -> jax.Array:
        """Vectors (..., rows) times the matrix: (..., columns), also as jax transforms it."""
        bunches, order = self._sums
        padded = jnp.concatenate([values, jnp.zeros((1,), values.dtype)])
        sums = [jnp.zeros((*vectors.shape[:-1], 0), vectors.dtype)]
        for rows, places in bunches:
            if not rows.size:
                sums.append(jnp.zeros((*vectors.shape[:-1], len(rows)), vectors.dtype))
                continue
            weights = _read(padded, places).reshape((1,) * (vectors.ndim - 1) + places.shape)
            terms = _read(vectors, rows) * weights.astype(vectors.dtype)
            sums.append(terms[..., 0] if terms.shape[-1] == 1 else terms.sum(axis=-1))
        total = jnp.concatenate(sums, axis=-1)
        return total if order is None else _read(total, order)

    def looked_up(self, values: jax.Array, ids: jax.Array) -> jax.Array:
        """Rows of the matrix, by their numbers (...): (..., columns), also as jax transforms it."""
        found = jnp.zeros((ids.size, self.shape[1]), values.dtype)
        if self.longest:
            row = jnp.clip(ids.reshape(-1), 0, self.shape[0] - 1)
            along = np.arange(self.longest, dtype=np.int32)[None]
            first, last = (jnp.asarray(self.starts[k:])[row][:, None] for k in (0, 1))
            # Behind a row's end any place will do, times 0.
            place = jnp.minimum(first + along, len(self.columns) - 1)
            inside = (first + along < last).astype(values.dtype)
            item = jnp.broadcast_to(jnp.arange(ids.size)[:, None], place.shape)
            found = found.at[item, jnp.asarray(self.columns)[place]].add(values[place] * inside)
        return found.reshape(*ids.shape, self.shape[1])


def pattern_of(matrix: Parameter, sparseness: Sparseness | None) -> Pattern | None:
    """The pattern of a matrix that a network keeps sparse; None of one that it keeps dense.

    Args:
      matrix: dense or sparse.
      sparseness: when sparse ones pay; None: what is given so stays so.
    """
    if sparseness is None:
        return None if isinstance(matrix, np.ndarray) else Pattern(matrix)
    weights = int(np.count_nonzero(entries(matrix)))
    return Pattern(matrix) if sparseness.pays(matrix.shape, weights) else None


def kept_as(
    matrix: Parameter, name: str, sparseness: Sparseness | None, patterns: dict[str, Pattern]
) -> Parameter:
    """A matrix as a network keeps it: all of it, or the weights of a sparse one.

    Args:
      matrix: dense or sparse.
      name: of the parameter.
      sparseness: when sparse ones pay; None: what is given so stays so.
      patterns: by name, to which that of a sparse one is added.
    """
    pattern = pattern_of(matrix, sparseness)
    if pattern is None:
        return matrix
    patterns[name] = pattern
    return sorted_entries(matrix).data


def as_kept(
    arrays: Mapping[str, Parameter], patterns: Mapping[str, Pattern]
) -> Mapping[str, Parameter]:
    """Arrays for `Network.rebuilt`: dense ones, where the network has sparse ones, as sparse."""
    return {
        name: thinned(array) if name in patterns and isinstance(array, np.ndarray) else array
        for name, array in arrays.items()
    }


def _read(values: jax.Array, places: Array) -> jax.Array:
    """Entries of the last axis; the places are our own, so nothing is clamped."""
    return jnp.asarray(values).at[..., places].get(mode="promise_in_bounds")


def sorted_entries(matrix: Parameter) -> sparse.csr_array:
    """A matrix as csr, each entry once and in order; it may share the matrix's own arrays."""
    found = sparse.csr_array(_numbers(matrix))
    if not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    return found


def _numbers(matrix: Parameter) -> Parameter:
    """A matrix as scipy takes it, which knows no bfloat16."""
    return matrix if sparse.issparse(matrix) else np.asarray(matrix, np.float64)
