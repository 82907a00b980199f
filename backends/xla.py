"""What XLA is told where it compiles for a CPU, if it is of a version that knows it."""

from collections.abc import Mapping
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

Options = dict[str, bool | int | str]

# To share the operations of a chunk among threads takes longer than it saves, unless they are many.
ON_ONE_CORE: Options = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
}
# XLA takes vectors of 256 bits even where a core has those of 512. Gates of 64 sequences take .8 of
# the time with them; numbers are the same.
WIDE_VECTORS: Options = {"xla_cpu_prefer_vector_width": 512}


def on_cpu() -> bool:
    """Whether jax computes on one."""
    return bool(jax.default_backend() == "cpu")


def understood(options: Mapping[str, bool | int | str]) -> Options | None:
    """The options, or None where the device is no CPU or XLA of another version, with others."""
    return _understood(tuple(options.items()))


@cache
def _understood(options: tuple[tuple[str, bool | int | str], ...]) -> Options | None:
    if not on_cpu():
        return None
    try:
        jax.jit(jnp.negative, compiler_options=dict(options))(np.float32(0))
    except jax.errors.JaxRuntimeError:
        return None
    return dict(options)
