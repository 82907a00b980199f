"""Parameters of networks as arrays: dense ones of numpy, sparse ones of scipy.

A sparse one is a `scipy.sparse.csr_array` with an entry wherever the network has a weight, be it 0.
"""

from typing import TypeAlias

from scipy import sparse

from lsrl.ir import numbers
from lsrl.ir.numbers import Array

Parameter: TypeAlias = Array | sparse.csr_array


def entries(parameter: Parameter) -> Array:
    """The weights: all numbers of a dense parameter, those of its pattern of a sparse one."""
    return parameter.data if sparse.issparse(parameter) else parameter


def same_bits(one: Parameter | None, other: Parameter | None) -> bool:
    """Whether two parameters are alike: dense or sparse, their pattern, dtype and every bit."""
    if not sparse.issparse(one) or not sparse.issparse(other):
        dense = not sparse.issparse(one) and not sparse.issparse(other)
        return dense and numbers.same_bits(one, other)
    return one.shape == other.shape and all(
        numbers.same_bits(getattr(one, part), getattr(other, part))
        for part in ("indices", "indptr", "data")
    )
