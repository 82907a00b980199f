"""What the blocks of the residual targets are made of, as functions of arrays.

Within a layer whole sequences pass at once, except for the recurrence itself, h = decay * h +
increment, or the delta rule, which is a `lax.scan` over time: token by token, so every rounding is
the same as in step mode and in the reference classes. On a CPU it is the fastest way too: compiled
by itself the loop takes 0.05 ms for 1000 tokens of 32 channels, and `lax.associative_scan` 0.14 ms;
at a batch of 64 and 256 channels it is 170 ms against 340 ms. The delta rule of 1000 tokens and one
head of 16 × 16 takes 0.7 ms, or 7 ms at a batch of 32, and in chunks of 64 tokens, of each a
triangular system, as transformers has it, 0.8 and 49 ms.

All activations are float32, time first: (time, batch, ...).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from lsrl.backends.network import Edit, aligned

LayerParameters: TypeAlias = dict[str, jax.Array]  # by the reference's names inside a layer
LayerState: TypeAlias = dict[str, jax.Array]  # (batch, ...)

DTYPE = "float32"


class Places(NamedTuple):
    """Where in their sequences the tokens of a chunk are.

    Attributes:
      first: (time, batch) bool, whether a token is the first of its sequence.
      tokens: () int, how many tokens count; those after them only fill up the chunk.
    """

    first: jax.Array
    tokens: jax.Array


# A layer's parameters, stream (time, batch, d), state, places, eps and edit to stream and state.
# The edit is of the stream and the scan's state, once a site of the layer; sites count from 0.
BlockFunction: TypeAlias = Callable[
    [LayerParameters, jax.Array, LayerState, Places, float, Edit | None],
    tuple[jax.Array, LayerState],
]


def rms_norm(values: jax.Array, gain: jax.Array, eps: float) -> jax.Array:
    """Scale to gain * (x / sqrt(mean(x^2) + eps)), rounded as the reference classes do.

    `lax.rsqrt` of XLA on the CPU is exact at every power of four, as 1 / sqrt(x) is.
    """
    mean_square = jnp.mean(values * values, axis=-1, keepdims=True)
    return aligned(gain, values) * (values * lax.rsqrt(mean_square + eps))


def linear(values: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """(..., in) to (..., out) by a weight (out, in), as torch stores it."""
    result = jnp.einsum("...i,oi->...o", values, weight)
    return result if bias is None else result + aligned(bias, result)


def causal_convolution(
    values: jax.Array, weight: jax.Array, bias: jax.Array | None, tail: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Convolve each channel over time.

    Args:
      values: (time, batch, channels).
      weight: (channels, 1, taps), the last tap of the token itself.
      bias: (channels,), or None.
      tail: (batch, channels, taps - 1), the values before the first token; zeros at the start.
      count: how many tokens count.

    Returns:
      (time, batch, channels), and the tail after `count` tokens.
    """
    tokens, taps = values.shape[0], weight.shape[-1]
    padded = jnp.concatenate([jnp.moveaxis(tail, -1, 0), values])
    total = padded[:tokens] * aligned(weight[:, 0, 0], values)
    for tap in range(1, taps):
        total = total + padded[tap : tap + tokens] * aligned(weight[:, 0, tap], values)
    rest = lax.dynamic_slice_in_dim(padded, count, taps - 1)
    total = total if bias is None else total + aligned(bias, total)
    return total, jnp.moveaxis(rest, 0, -1)


def recurrence(
    decay: jax.Array, increment: jax.Array, before: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Run h = decay * h + increment, in the order of the tokens.

    Args:
      decay: (time, ...).
      increment: (time, ...).
      before: (...), the state before the first token.
      count: how many tokens count.

    Returns:
      (time, ...), the states after each token, and the one after `count` tokens.
    """

    def token(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        state = now[0] * state + now[1]
        return state, state

    states = lax.scan(token, before, (decay, increment))[1]
    return states, lax.dynamic_index_in_dim(states, count - 1, keepdims=False)


class DeltaTokens(NamedTuple):
    """What the delta rule does at each token; all are (time, batch, heads, ...).

    Attributes:
      query: (..., keys), what is read, behind the token's write.
      key: (..., keys), where to write, of length 1 or 0.
      value: (..., values), what is to be read there.
      beta: (...), how much of the way there is gone: 1 overwrites, 2 reflects.
      log_decay: (...), of the state, before the write.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    beta: jax.Array
    log_decay: jax.Array


def delta_rule(
    tokens: DeltaTokens, before: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Run S = decay * S, then S + key * beta * (value - S^T key), in the order of the tokens.

    Yang et al. 2025, "Gated Delta Networks", equation 10.

    Args:
      tokens: see `DeltaTokens`.
      before: (batch, heads, keys, values), the state before the first token.
      count: how many tokens count.

    Returns:
      (time, batch, heads, values), S^T query behind each token; and S after `count` tokens.
    """
    counts = jnp.arange(len(tokens.beta), dtype=jnp.int32)[:, None, None] < count
    beta = jnp.where(counts, tokens.beta, 0.0)
    decay = jnp.where(counts, jnp.exp(tokens.log_decay), 1.0)

    def token(state: jax.Array, now: DeltaTokens) -> tuple[jax.Array, jax.Array]:
        query, key, value, beta, decay = now
        state = state * decay[..., None, None]
        change = (value - jnp.einsum("bhk,bhkv->bhv", key, state)) * beta[..., None]
        state = state + key[..., :, None] * change[..., None, :]
        return state, jnp.einsum("bhk,bhkv->bhv", query, state)

    last, read = lax.scan(token, before, tokens._replace(beta=beta, log_decay=decay))
    return read, last
