"""Parameters of networks as arrays: dense ones of numpy, sparse ones of scipy.

A sparse one is a `scipy.sparse.csr_array` with an entry wherever the network has a weight, be it 0.
"""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from lsrl.errors import ShapeError, SizeError
from lsrl.ir import numbers
from lsrl.ir.numbers import Array

Parameter: TypeAlias = Array | sparse.csr_array


# Entries of a sparse parameter that is made dense for what knows no sparse ones.
MOST_DENSE = 1 << 24


class Sparseness(NamedTuple):
    """When a matrix of a network is kept sparse: where that is both smaller and faster.

    A place takes as much room as a weight, and a product of few weights reads where they are, so a
    sparse matrix pays where few entries are weights; and of a small one the dense product takes
    next to no time, and every tool knows it.

    Attributes:
      least: entries; a smaller matrix is dense.
      share: of the entries; a matrix of which more are weights is dense.
    """

    least: int = 1 << 18
    share: float = 1 / 16

    def pays(self, shape: tuple[int, ...], weights: int) -> bool:
        """Whether a matrix of so many nonzero weights is kept sparse."""
        entries = math.prod(shape)
        return entries >= self.least and weights <= self.share * entries


# What compiled networks go by.
SPARSENESS = Sparseness()


class Size(NamedTuple):
    """How large a parameter is that may not be made yet.

    Attributes:
      shape: of it; (rows, columns) of a sparse one.
      weights: the entries that a sparse one has; None of a dense one.
    """

    shape: tuple[int, ...]
    weights: int | None = None

    @property
    def numbers(self) -> int:
        """How many numbers are held for it."""
        return math.prod(self.shape) if self.weights is None else self.weights

    @classmethod
    def of(cls, shape: tuple[int, ...], weights: int) -> "Size":
        """Of a matrix of so many nonzero weights that a compiled network holds."""
        return cls(shape, weights if SPARSENESS.pays(shape, weights) else None)


def entries(parameter: Parameter) -> Array:
    """The weights: all numbers of a dense parameter, those of its pattern of a sparse one."""
    return parameter if isinstance(parameter, np.ndarray) else parameter.data


def with_entries(parameter: Parameter, weights: Array) -> Parameter:
    """A parameter with other weights at the same places, given as `entries` gives them."""
    if isinstance(parameter, np.ndarray):
        return weights
    return sparse.csr_array((weights, parameter.indices, parameter.indptr), parameter.shape)


def dense(parameter: Parameter, most: int = MOST_DENSE) -> Array:
    """All numbers of a parameter, 0 where a sparse one has no weight.

    Args:
      parameter: dense or sparse.
      most: entries that a sparse one may have.

    Raises:
      SizeError: a sparse one has more.
    """
    if isinstance(parameter, np.ndarray):
        return parameter
    if math.prod(parameter.shape) > most:
        raise SizeError(
            f"a sparse parameter of {parameter.shape[0]:,} x {parameter.shape[1]:,} entries, of "
            f"which {parameter.nnz:,} are weights, is no dense array here, which has at most "
            f"{most:,}; take a smaller program",
            math.prod(parameter.shape),
            most,
        )
    return parameter.toarray()


def thinned(parameter: Parameter) -> sparse.csr_array:
    """The nonzero entries of a matrix; its own arrays stay as they are."""
    found = sparse.csr_array(parameter, copy=True)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def alike(one: Parameter, other: Parameter) -> bool:
    """Whether two parameters have one shape and one dtype, and their weights the same places."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return all(
        np.array_equal(getattr(one, part), getattr(other, part)) for part in ("indices", "indptr")
    )


def same_bits(one: Parameter | None, other: Parameter | None) -> bool:
    """Whether two parameters are alike: dense or sparse, their pattern, dtype and every bit."""
    if sparse.issparse(one) != sparse.issparse(other):
        return False
    if one is None or other is None or isinstance(one, np.ndarray):
        return numbers.same_bits(one, other)
    return one.shape == other.shape and all(
        numbers.same_bits(getattr(one, part), getattr(other, part))
        for part in ("indices", "indptr", "data")
    )


def csr_of(data: Array, indices: Array, starts: Array, shape: tuple[int, int]) -> sparse.csr_array:
    """The sparse matrix of its parts, each of which is checked: scipy reads where they point.

    Args:
      data: (entries,) the numbers, row by row.
      indices: (entries,) the column of each.
      starts: (rows + 1,) where each row begins.
      shape: (rows, columns).

    Raises:
      ShapeError: says which part does not fit.
    """
    for name, part in (("indices", indices), ("indptr", starts)):
        if part.ndim != 1 or part.dtype.kind != "i":
            raise ShapeError(f"{name}: expected a row of ints, got {part.shape} of {part.dtype}")
    if data.ndim != 1 or len(data) != len(indices):
        raise ShapeError(f"data: expected {len(indices)} numbers in a row, got {data.shape}")
    if len(starts) != shape[0] + 1 or starts[0] != 0 or starts[-1] != len(data):
        raise ShapeError(
            f"indptr: expected {shape[0] + 1} numbers from 0 to {len(data)}, got {len(starts)}"
            + (f" from {starts[0]} to {starts[-1]}" if len(starts) else "")
        )
    if (np.diff(starts) < 0).any():
        raise ShapeError("indptr: expected numbers that never fall")
    if len(indices) and (indices.min() < 0 or indices.max() >= shape[1]):
        raise ShapeError(
            f"indices: expected columns from 0 to {shape[1] - 1}, got {indices.min()} to "
            f"{indices.max()}"
        )
    return sparse.csr_array((data, indices, starts), shape=shape)
