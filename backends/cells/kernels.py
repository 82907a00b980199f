"""Kernels as they are faster to multiply with: of few nonzeros as slices, others in parts.

Compiled cells mostly copy and count: a row of their kernel that is read by many units, or a
diagonal from units to units, is one slice of the input times a vector. XLA makes one loop of them,
the sum and the cell's activations; a product of the whole kernel reads all of it at every token.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.network import aligned, on_device
from lsrl.backends.xla import on_cpu
from lsrl.ir.numbers import Array


class Strip(NamedTuple):
    """Nonzeros of one row, or of one diagonal.

    Attributes:
      row: the first.
      rows: 1, or as many as there are columns.
      column: the first.
      columns: how many.
    """

    row: int
    rows: int
    column: int
    columns: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SparseKernel:
    """A kernel as a sum of parts; a pytree.

    Attributes:
      weights: those of all parts, one after another.
      parts: where they are.
      columns: of the kernel.
    """

    weights: jax.Array
    parts: tuple[Strip, ...] = field(metadata={"static": True})
    columns: int = field(metadata={"static": True})

    def product(self, values: jax.Array) -> jax.Array:
        """(..., rows) to (..., columns)."""
        total = jnp.zeros((*values.shape[:-1], self.columns), values.dtype)
        place = 0
        for part in self.parts:
            own = self.weights[place : place + part.columns]
            place += part.columns
            taken = values[..., part.row : part.row + part.rows] * aligned(own, values)
            after = self.columns - part.column - part.columns
            edges = [(0, 0, 0)] * (values.ndim - 1) + [(part.column, after, 0)]
            total = total + lax.pad(taken, jnp.zeros((), values.dtype), edges)
        return total


def sparse_kernel(kernel: Array, most: int) -> SparseKernel | None:
    """A kernel (rows, columns) as a sum of parts, or None if that takes more than `most`."""
    rows, columns = np.nonzero(kernel)
    if len(rows) > most * max(kernel.shape):
        return None
    parts: list[Strip] = []
    weights = [np.zeros(0, kernel.dtype)]
    diagonals = columns - rows + len(kernel) - 1
    left = np.ones(len(rows), bool)
    while left.any():
        if len(parts) == most:
            return None
        in_row, along = np.bincount(rows[left]), np.bincount(diagonals[left])
        if in_row.max() > along.max():
            own = left & (rows == in_row.argmax())
        else:
            own = left & (diagonals == along.argmax())
        row, column = int(rows[own].min()), int(columns[own].min())
        length = int(columns[own].max()) - column + 1
        values = np.zeros(length, kernel.dtype)
        values[columns[own] - column] = kernel[rows[own], columns[own]]
        parts.append(Strip(row, int(rows[own].max()) - row + 1, column, length))
        weights.append(values)
        left &= ~own
    joined = on_device(np.concatenate(weights), kernel.dtype)
    return SparseKernel(joined, tuple(parts), kernel.shape[1])


# Weights of the largest kernel that a product of few rows reads as it is: a larger one it first
# copies, at every token. In parts it takes .4 to .8 of the time, until it is too large for a cache.
PART, MOST_IN_PARTS = 1 << 16, 1 << 18
FEW_ROWS = range(2, 129)  # a product of one row copies nothing


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SplitKernel:
    """A kernel without many zeros, side by side in parts; a pytree.

    Attributes:
      whole: the kernel.
      parts: its columns.
    """

    whole: jax.Array
    parts: tuple[jax.Array, ...]

    def product(self, values: jax.Array) -> jax.Array:
        """(..., rows) to (..., columns)."""
        few = values.size // max(1, values.shape[-1]) in FEW_ROWS
        times = partial(jnp.dot, values, precision=lax.Precision.HIGHEST)
        return jnp.concatenate([times(x) for x in self.parts], -1) if few else times(self.whole)


def split_kernel(kernel: jax.Array) -> SplitKernel | None:
    """A kernel (rows, columns) in parts, or None if it is as fast whole."""
    if not PART < kernel.size <= MOST_IN_PARTS or not on_cpu():
        return None
    parts = np.array_split(np.asarray(kernel), -(-kernel.size // PART), axis=1)
    return SplitKernel(kernel, tuple(on_device(part, kernel.dtype) for part in parts))


Kernel: TypeAlias = SparseKernel | SplitKernel
