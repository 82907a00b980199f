"""Batches spread over the devices of a mesh.

Sequences don't depend on each other, so each device runs its share of them as if it were alone, and
the results are those of one device, bit for bit where a model is exact.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lsrl.errors import InputError
from lsrl.ir.numbers import Array

Given = TypeVar("Given")
Found = TypeVar("Found")


def run_over(mesh: Mesh, run: Callable[[Given], Found], batch: Given) -> Found:
    """Run shares of a batch on all devices of a mesh.

    Where a mesh spans processes, each calls this with the same batch, runs the shares of its own
    devices, and gets the results of all.

    Args:
      mesh: the devices, whatever its axes.
      run: from a part of the batch to its results; called in a thread for each device.
      batch: a pytree of arrays (batch, ...).

    Returns:
      The pytree of results, (batch, ...).

    Raises:
      InputError: the mesh is no `jax.sharding.Mesh`.
    """
    if not isinstance(mesh, Mesh):
        raise InputError(
            f"run: mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}; make one with "
            "jax.make_mesh((jax.device_count(),), ('batch',))"
        )
    devices = list(mesh.devices.flat)
    size = len(jax.tree.leaves(batch)[0])
    # Shares are alike, filled up with the last sequence, so that one shape is compiled.
    share = -(-size // len(devices))
    rows = np.minimum(np.arange(share * len(devices)), size - 1).reshape(len(devices), share)

    def on(place: int) -> Found:
        with jax.default_device(devices[place]):
            return run(jax.tree.map(lambda array: np.asarray(array)[rows[place]], batch))

    here = [p for p, one in enumerate(devices) if one.process_index == jax.process_index()]
    with ThreadPoolExecutor(max(len(here), 1)) as pool:
        own = list(pool.map(on, here))

    def joined(*shares: Array) -> Array:
        parts = [np.asarray(one) for one in shares]
        if len(here) < len(devices):
            parts = _gathered(here, parts, len(devices))
        return np.concatenate(parts)[:size]

    whole: Found = jax.tree.map(joined, *own)
    return whole


def _gathered(here: Sequence[int], own: Sequence[Array], count: int) -> list[Array]:
    """The results of all devices, by their place in the mesh."""
    # As bytes: float64 would be rounded on the way where x64 is off.
    sent = np.stack([np.ascontiguousarray(part) for part in own]).view(np.uint8)
    places = multihost_utils.process_allgather(np.array(here, np.int32))
    parts = multihost_utils.process_allgather(sent).reshape(-1, *sent.shape[1:])
    found = {
        place: np.ascontiguousarray(part).view(own[0].dtype)
        for place, part in zip(np.ravel(places).tolist(), parts, strict=True)
    }
    return [found[place] for place in range(count)]
