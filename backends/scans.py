"""Recurrences of whole sequences, all tokens at once, as jax differentiates them.

After step k every token holds what its last 2^k tokens make (Hillis and Steele 1986), so a sequence
takes as many steps as its length has bits. Arrays are (batch, time, ...).
"""

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.ir.numbers import Array


def linear_scan(
    driven: jax.Array, kernel: jax.Array | Array, before: jax.Array | None = None
) -> jax.Array:
    """h_t = h_{t-1} A + driven_t, in as many steps as the number of tokens has bits.

    Args:
      driven: (batch, time, units).
      kernel: A, (units, units), entry [source, target]; of numpy where it is known while jax
        traces, and then its powers are too.
      before: (batch, units), h before the first token; 0 if None.

    Returns:
      (batch, time, units).
    """
    if before is not None:
        first = driven[:, :1] + jnp.dot(before, kernel, precision="highest")[:, None]
        driven = jnp.concatenate([first, driven[:, 1:]], axis=1)
    reach, tokens = 1, driven.shape[1]
    while reach < tokens:
        if isinstance(kernel, np.ndarray) and not kernel.any():
            break
        moved = jnp.dot(driven[:, :-reach], kernel, precision="highest")
        driven = jnp.concatenate([driven[:, :reach], driven[:, reach:] + moved], axis=1)
        reach *= 2
        if isinstance(kernel, np.ndarray):
            kernel = kernel @ kernel
        else:
            kernel = jnp.dot(kernel, kernel, precision="highest")
    return driven


def gated_scan(keep: jax.Array, update: jax.Array, before: jax.Array) -> jax.Array:
    """s_t = keep_t s_{t-1} + update_t, channel by channel.

    Args:
      keep: (batch, time, channels).
      update: (batch, time, channels).
      before: (batch, channels), s before the first token.

    Returns:
      (batch, time, channels).
    """
    state = jnp.concatenate([update[:, :1] + (keep[:, 0] * before)[:, None], update[:, 1:]], axis=1)
    reach, tokens = 1, state.shape[1]
    while reach < tokens:
        moved = keep[:, reach:] * state[:, :-reach]
        state = jnp.concatenate([state[:, :reach], state[:, reach:] + moved], axis=1)
        kept = keep[:, reach:] * keep[:, :-reach]
        keep = jnp.concatenate([keep[:, :reach], kept], axis=1)
        reach *= 2
    return state


def product_scan(matrices: jax.Array) -> jax.Array:
    """M_0 M_1 … M_t for every token t.

    Args:
      matrices: (batch, time, rows, rows).

    Returns:
      (batch, time, rows, rows).
    """
    reach, tokens = 1, matrices.shape[1]
    while reach < tokens:
        moved = jnp.matmul(matrices[:, :-reach], matrices[:, reach:], precision="highest")
        matrices = jnp.concatenate([matrices[:, :reach], moved], axis=1)
        reach *= 2
    return matrices
