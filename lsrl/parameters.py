"""Parameters of networks as arrays: dense ones of numpy, sparse ones of scipy.

A sparse one is a `scipy.sparse.csr_array` with an entry wherever the network has a weight, be it 0.
"""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from lsrl.ir import numbers
from lsrl.ir.numbers import Array

Parameter: TypeAlias = Array | sparse.csr_array


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


def entries(parameter: Parameter) -> Array:
    """The weights: all numbers of a dense parameter, those of its pattern of a sparse one."""
    return parameter if isinstance(parameter, np.ndarray) else parameter.data


def with_entries(parameter: Parameter, weights: Array) -> Parameter:
    """A parameter with other weights at the same places, given as `entries` gives them."""
    if isinstance(parameter, np.ndarray):
        return weights
    return sparse.csr_array((weights, parameter.indices, parameter.indptr), parameter.shape)


def dense(parameter: Parameter) -> Array:
    """All numbers of a parameter, 0 where a sparse one has no weight."""
    return parameter if isinstance(parameter, np.ndarray) else parameter.toarray()


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
