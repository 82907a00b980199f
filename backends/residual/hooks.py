"""What an edit of a residual stream does to the scans behind it, and layers by themselves."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.backends.network import Edit, Memory
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


def rescanned(scan: Memory, change: jax.Array, entries: jax.Array, weights: jax.Array) -> Memory:
    """The state of a site's scan behind a change of the stream; None where the site has no scan.

    Args:
      scan: (batch, ...), or None.
      change: (batch, d).
      entries: (entries,) of the flattened state; those of no meaning lie past its end.
      weights: (d, entries).
    """
    if not isinstance(scan, jax.Array) or not entries.shape[0]:
        return scan
    flat = scan.reshape(scan.shape[0], -1)
    changed = flat.at[:, entries].add(change @ weights, mode="drop").reshape(scan.shape)
    return cast(Memory, changed)


def run_layer(
    kind: tuple[BlockFunction, float],
    weights: LayerParameters,
    stream: jax.Array,
    state: LayerState,
    first: jax.Array,
    edit: Edit | None,
) -> tuple[jax.Array, LayerState]:
    """A layer by itself; see `lsrl.backends.hooks.Layered`. Its kind is the block and eps."""
    tokens, batch = stream.shape[:2]
    where = Places(jnp.broadcast_to(first[:, None], (tokens, batch)), jnp.int32(tokens))
    return kind[0](weights, stream, state, where, kind[1], edit)
