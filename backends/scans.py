"""Recurrences of whole sequences, all tokens at once, as jax differentiates them.

After step k every token holds what its last 2^k tokens make (Hillis and Steele 1986), so a sequence
takes as many steps as its length has bits. Steps are alike, so they are compiled once. Arrays are
(batch, time, ...).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.ir.numbers import Array


def linear_scan(
    driven: jax.Array, kernel: jax.Array | Array, before: jax.Array | None = None
) -> jax.Array:
    """h_t = h_{t-1} A + driven_t.

    Args:
      driven: (batch, time, units).
      kernel: A, (units, units), entry [source, target]; of numpy where it is known while jax
        traces, and then its powers are too.
      before: (batch, units), h before the first token; 0 if None.

    Returns:
      (batch, time, units).
    """
    if before is not None:
        first = driven[:, :1] + _times(before, kernel)[:, None]
        driven = jnp.concatenate([first, driven[:, 1:]], axis=1)
    nothing = jnp.zeros_like(driven)
    reaches = _reaches(driven)
    if isinstance(kernel, np.ndarray):
        powers = [kernel.astype(np.float64)]
        while len(powers) < len(reaches) and powers[-1].any():
            powers.append(powers[-1] @ powers[-1])
        known = jnp.asarray(np.array(powers), driven.dtype)

        def add(held: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            reach, power = now
            return held + _times(_earlier(held, nothing, reach), power), None

        return lax.scan(add, driven, (reaches[: len(powers)], known[: len(reaches)]))[0]

    def square(
        carry: tuple[jax.Array, jax.Array], reach: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        held, power = carry
        held = held + _times(_earlier(held, nothing, reach), power)
        return (held, _times(power, power)), None

    return lax.scan(square, (driven, kernel), reaches)[0][0]


def gated_scan(keep: jax.Array, update: jax.Array, before: jax.Array) -> jax.Array:
    """s_t = keep_t s_{t-1} + update_t, channel by channel.

    Args:
      keep: (batch, time, channels), or one for all of them.
      update: (batch, time, channels).
      before: (batch, channels), s before the first token.

    Returns:
      (batch, time, channels).
    """
    first = update[:, :1] + (keep[:, 0] * before)[:, None]
    start = jnp.concatenate([first, update[:, 1:]], axis=1)
    nothing = jnp.zeros_like(start)

    def add(
        carry: tuple[jax.Array, jax.Array], reach: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        state, kept = carry
        state = state + kept * _earlier(state, nothing, reach)
        return (state, kept * _earlier(kept, nothing, reach)), None

    return lax.scan(add, (start, jnp.broadcast_to(keep, start.shape)), _reaches(start))[0][0]


def _reaches(sequence: jax.Array) -> jax.Array:
    """1, 2, 4, …, below the number of tokens."""
    return jnp.asarray(2 ** np.arange((sequence.shape[1] - 1).bit_length()), jnp.int32)


def _earlier(sequence: jax.Array, ahead: jax.Array, reach: jax.Array) -> jax.Array:
    """The values so many tokens ago; before the first token those of `ahead`."""
    tokens = sequence.shape[1]
    both = jnp.concatenate([ahead, sequence], axis=1)
    return lax.dynamic_slice_in_dim(both, tokens - reach, tokens, axis=1)


def _times(rows: jax.Array, kernel: jax.Array | Array) -> jax.Array:
    return jnp.matmul(rows, jnp.asarray(kernel, rows.dtype), precision="highest")
