"""Batches spread over the devices of a mesh.

Sequences don't depend on each other, so each device runs its share of them as if it were alone, and
the results are those of one device, bit for bit where a model is exact.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lsrl.errors import InputError
from lsrl.ir.numbers import Array


def run_over(
    mesh: Mesh, run: Callable[[tuple[Array, ...]], Array], arrays: Sequence[Array]
) -> Array:
    """Run shares of a batch on all devices of a mesh.

    Where a mesh spans processes, each calls this with the same batch, runs the shares of its own
    devices, and gets the outputs of all.

    Args:
      mesh: the devices, whatever its axes.
      run: from a part of the batch to its outputs; called in a thread for each device.
      arrays: (batch, ...) each.

    Returns:
      (batch, ...), the outputs.

    Raises:
      InputError: the mesh is no `jax.sharding.Mesh`.
    """
    if not isinstance(mesh, Mesh):
        raise InputError(
            f"run: mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}; make one with "
            "jax.make_mesh((jax.device_count(),), ('batch',))"
        )
    devices = list(mesh.devices.flat)
    batch = len(arrays[0])
    # Shares are alike, filled up with the last sequence, so that one shape is compiled.
    share = -(-batch // len(devices))
    rows = np.minimum(np.arange(share * len(devices)), batch - 1).reshape(len(devices), share)

    def on(place: int) -> Array:
        with jax.default_device(devices[place]):
            return run(tuple(array[rows[place]] for array in arrays))

    here = [p for p, one in enumerate(devices) if one.process_index == jax.process_index()]
    with ThreadPoolExecutor(max(len(here), 1)) as pool:
        own = list(pool.map(on, here))
    if len(here) == len(devices):
        return np.concatenate(own)[:batch]
    outputs: Any = _gathered(here, own, len(devices))
    return np.concatenate(outputs)[:batch]


def _gathered(here: Sequence[int], own: Sequence[Array], count: int) -> list[Array]:
    """The outputs of all devices, by their place in the mesh."""
    # As bytes: float64 would be rounded on the way where x64 is off.
    sent = np.stack([np.ascontiguousarray(part) for part in own]).view(np.uint8)
    places = multihost_utils.process_allgather(np.array(here, np.int32))
    parts = multihost_utils.process_allgather(sent)
    found: list[Any] = [None] * count
    for place, part in zip(np.ravel(places), parts.reshape(-1, *sent.shape[1:]), strict=True):
        found[place] = np.ascontiguousarray(part).view(own[0].dtype)
    return found
