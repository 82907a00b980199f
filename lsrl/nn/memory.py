"""Cells that are read and written by distributions over their addresses."""

from typing import final

import jax
import jax.numpy as jnp
from flax import nnx

from lsrl import arguments
from lsrl.backends.scans import gated_scan
from lsrl.errors import InputError


@final
class Memory(nnx.Module):
    """A table of cells, each a distribution over symbols.

    What is read is the expected content; a write leaves a cell as it was by as much as the address
    is another. Where addresses, values and gates are one-hot or 0 and 1 it is a table, to the bit.

    Attributes:
      cells: how many.
      symbols: that a cell may hold.
      initial: what each holds at first.

    Source: Graves et al. (2014), "Neural Turing Machines", section 3.2, with an erase vector of
    ones.

    Example:
      memory = lsrl.nn.Memory(4, 3)
    """

    def __init__(self, cells: int, symbols: int, initial: int = 0) -> None:
        """Say what it holds.

        Args:
          cells: how many.
          symbols: that a cell may hold.
          initial: what each holds at first.

        Raises:
          InputError: an argument is out of range.
        """
        self.cells = arguments.count("Memory: cells", cells)
        self.symbols = arguments.count("Memory: symbols", symbols)
        self.initial = arguments.count("Memory: initial", initial, 0, symbols - 1)

    def empty(self, batch: int) -> jax.Array:
        """(batch, cells, symbols) before the first write."""
        arguments.count("Memory: batch", batch)
        first = jax.nn.one_hot(self.initial, self.symbols, dtype=jnp.float32)
        return jnp.broadcast_to(first, (batch, self.cells, self.symbols))

    def read(self, content: jax.Array, address: jax.Array) -> jax.Array:
        """The expected content at an address, (…, symbols).

        Args:
          content: (…, cells, symbols).
          address: (…, cells).

        Raises:
          InputError: other shapes.
        """
        self._check("content", content, self.cells, self.symbols)
        self._check("address", address, self.cells)
        return jnp.einsum("...c,...cs->...s", address, content, precision="highest")

    def write(
        self,
        content: jax.Array,
        address: jax.Array,
        value: jax.Array,
        when: jax.Array | None = None,
    ) -> jax.Array:
        """The contents after a write, (…, cells, symbols).

        Args:
          content: (…, cells, symbols).
          address: (…, cells).
          value: (…, symbols).
          when: (…), the chance that it is done; by default it is.

        Raises:
          InputError: other shapes.
        """
        self._check("content", content, self.cells, self.symbols)
        share = self._share(address, value, when)
        return (1 - share) * content + share * value[..., None, :]

    def __call__(
        self,
        reads: jax.Array,
        writes: jax.Array,
        values: jax.Array,
        when: jax.Array | None = None,
    ) -> jax.Array:
        """A sequence of writes, each of them ahead of the read at its token.

        Args:
          reads: (batch, time, cells), addresses.
          writes: (batch, time, cells), addresses.
          values: (batch, time, symbols).
          when: (batch, time), the chance that it is written; by default it is.

        Returns:
          (batch, time, symbols), what is read.

        Raises:
          InputError: other shapes.
        """
        self._check("reads", reads, self.cells)
        share = self._share(writes, values, when)
        if share.ndim != 4 or reads.shape != writes.shape:
            raise InputError(
                f"Memory: expected addresses of (batch, time, {self.cells}), to read and to write, "
                f"got {reads.shape} and {writes.shape}"
            )
        batch, time = writes.shape[:2]
        keep = jnp.broadcast_to(1 - share, (*share.shape[:3], self.symbols))
        update = share * values[..., None, :]
        flat = (batch, time, self.cells * self.symbols)
        before = self.empty(batch).reshape(batch, -1)
        content = gated_scan(keep.reshape(flat), update.reshape(flat), before)
        return self.read(content.reshape(update.shape), reads)

    def _share(self, address: jax.Array, value: jax.Array, when: jax.Array | None) -> jax.Array:
        """(…, cells, 1): how much of each cell is written."""
        self._check("address", address, self.cells)
        self._check("value", value, self.symbols)
        given = jnp.ones(address.shape[:-1], address.dtype) if when is None else jnp.asarray(when)
        if value.shape[:-1] != address.shape[:-1] or given.shape != address.shape[:-1]:
            raise InputError(
                "Memory: expected address, value and when of the same batch, got shapes "
                f"{address.shape}, {value.shape} and {given.shape}"
            )
        return (address * given.astype(address.dtype)[..., None])[..., None]

    def _check(self, what: str, array: jax.Array, *ends: int) -> None:
        shape = jnp.shape(array)
        if shape[-len(ends) :] != ends or not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            wanted = ", ".join(map(str, ends))
            raise InputError(
                f"Memory: expected {what} as distributions of shape (…, {wanted}), got "
                f"{jnp.result_type(array)} of shape {shape}; jax.nn.one_hot makes them of ids"
            )
