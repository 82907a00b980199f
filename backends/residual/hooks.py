"""What an edit of a residual stream does to the scans behind it, and layers by themselves."""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.backends.hooks import Put
from lsrl.backends.residual.blocks import BlockFunction, LayerParameters, LayerState, Places
from lsrl.circuit import Circuit
from lsrl.ir.numbers import Array

ScanMemory = tuple[Array, Array]


def scan_memory(circuit: Circuit, size: int) -> ScanMemory:
    """What the state of a scan changes by, with an entry of the stream.

    Args:
      circuit: of the network.
      size: entries of a scan's state.

    Returns:
      Entries of the scan (sites, entries), and their weights (sites, d, entries).
    """
    sites = len(circuit.units)
    known: list[dict[int, int]] = [{} for _ in range(sites)]
    for channel in circuit.channels:
        for entry in channel.memory:
            known[channel.layer].setdefault(entry, len(known[channel.layer]))
    # Few numbers of entries, so that few shapes are compiled.
    most = max(len(places) for places in known)
    most = 1 << (most - 1).bit_length() if most else 0
    entries = np.full((sites, most), size, np.int32)
    weights = np.zeros((sites, max(circuit.units), most), np.float32)
    for site, places in enumerate(known):
        entries[site, : len(places)] = list(places)
    for channel in circuit.channels:
        for entry, weight in zip(channel.memory, channel.memory_weights, strict=True):
            place = known[channel.layer][entry]
            each = weight * len(channel.memory)
            for unit, own in zip(channel.units, channel.weights, strict=True):
                weights[channel.layer, unit, place] += own / each
    return entries, weights


Scan = TypeVar("Scan", jax.Array, None)


def rescanned(scan: Scan, change: jax.Array, entries: jax.Array, weights: jax.Array) -> Scan:
    """The state of a site's scan behind a change of the stream; None where the site has no scan.

    Args:
      scan: (batch, ...), or None.
      change: (batch, d).
      entries: (entries,) of the flattened state; those of no meaning lie past its end.
      weights: (d, entries).
    """
    if scan is None or not entries.shape[0]:
        return scan
    flat = scan.reshape(scan.shape[0], -1)
    return flat.at[:, entries].add(change @ weights, mode="drop").reshape(scan.shape)


class BlockLayer(NamedTuple):
    """A layer by itself; see `lsrl.backends.hooks.Layer`."""

    block: BlockFunction
    eps: float

    def whole(self, weights: LayerParameters, stream: jax.Array, state: LayerState) -> jax.Array:
        """All tokens (time, batch, d) at once."""
        tokens, batch = stream.shape[:2]
        first = jnp.broadcast_to(jnp.arange(tokens)[:, None] == 0, (tokens, batch))
        where = Places(first, jnp.int32(tokens))
        return self.block(weights, stream, state, where, self.eps, None)[0]

    def token(
        self,
        weights: LayerParameters,
        stream: jax.Array,
        state: LayerState,
        first: jax.Array,
        put: Put,
        memory: ScanMemory,
    ) -> tuple[jax.Array, LayerState]:
        """One token (batch, d), whose hooks are set."""
        entries, into = memory

        def edit(site: int, made: jax.Array, scan: Any) -> tuple[jax.Array, Any]:
            new = put(site, made[0])
            return new[None], rescanned(scan, new - made[0], entries[site], into[site])

        where = Places(jnp.broadcast_to(first, (1, stream.shape[0])), jnp.int32(1))
        after, state = self.block(weights, stream[None], state, where, self.eps, edit)
        return after[0], state
