"""Blocks of small networks that learn: of LLaMA, of Mamba, and a GRU.

Each adds to what it reads, (batch, time, width), and its last maps begin at 0 (Bachlechner et al.
2021), so at first it passes everything on as it is.
"""

from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsrl.backends.scans import gated_scan

HEAD = 8  # channels of a head of attention
# Of Mamba: channels by those of the stream, numbers that each holds, tokens of the convolution.
WIDER, HELD, NEAR = 2, 8, 4
_ZERO = nnx.initializers.zeros


class _FeedForward(nnx.Module):
    """A gated layer (Shazeer 2020)."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, use_bias=False, kernel_init=_ZERO, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, linear = jnp.split(self.up(self.norm(x)), 2, axis=-1)
        return x + self.down(jax.nn.silu(gate) * linear)


@final
class LlamaBlock(nnx.Module):
    """Attention with rotary positions, and a gated layer (Touvron et al. 2023)."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        """For a width that is a multiple of HEAD."""
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.read = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.write = nnx.Linear(width, width, use_bias=False, kernel_init=_ZERO, rngs=rngs)
        self.feed = _FeedForward(width, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, time, width) to the same."""
        batch, time, _ = x.shape
        parts = jnp.split(self.read(self.norm(x)), 3, axis=-1)
        query, key, value = (part.reshape(batch, time, -1, HEAD) for part in parts)
        scores = jnp.einsum("bthd,bshd->bhts", _rotated(query), _rotated(key))
        scores = scores / np.float32(np.sqrt(HEAD))
        causal = jnp.tril(jnp.ones((1, 1, time, time), bool))
        shares = jax.nn.softmax(jnp.where(causal, scores, np.float32(-1e9)))
        return self.feed(
            x + self.write(jnp.einsum("bhts,bshd->bthd", shares, value).reshape(x.shape))
        )


def _rotated(x: jax.Array) -> jax.Array:
    half = x.shape[-1] // 2
    turns = 10_000.0 ** -(np.arange(half) / half)
    angles = np.arange(x.shape[1])[:, None] * turns
    cos, sin = (jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.cos, np.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


@final
class MambaBlock(nnx.Module):
    """A selective state space behind a short convolution (Gu & Dao 2023, algorithm 2)."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        """For any width."""
        inner = WIDER * width
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.read = nnx.Linear(width, 2 * inner, use_bias=False, rngs=rngs)
        near = jax.random.normal(rngs.params(), (NEAR, inner)) / np.float32(np.sqrt(NEAR))
        self.near = nnx.Param(near)
        self.chosen = nnx.Linear(inner, 2 * HELD, use_bias=False, rngs=rngs)
        # Steps begin between 1e-3 and 1e-1, as softplus of the bias.
        begin = np.exp(np.linspace(np.log(1e-3), np.log(1e-1), inner)).astype(np.float32)
        bias = nnx.initializers.constant(jnp.asarray(np.log(np.expm1(begin))))
        self.step = nnx.Linear(inner, inner, bias_init=bias, rngs=rngs)
        rates = np.tile(np.log(np.arange(1.0, HELD + 1)), (inner, 1))
        self.rates = nnx.Param(jnp.asarray(rates, jnp.float32))
        self.past = nnx.Param(jnp.ones(inner))
        self.write = nnx.Linear(inner, width, use_bias=False, kernel_init=_ZERO, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, time, width) to the same."""
        batch, time, _ = x.shape
        inputs, gate = jnp.split(self.read(self.norm(x)), 2, axis=-1)
        earlier = jnp.pad(inputs, ((0, 0), (NEAR - 1, 0), (0, 0)))
        windows = jnp.stack([earlier[:, k : k + time] for k in range(NEAR)], axis=2)
        inputs = jax.nn.silu(jnp.einsum("btki,ki->bti", windows, self.near[...]))
        into, out_of = jnp.split(self.chosen(inputs), 2, axis=-1)
        step = jax.nn.softplus(self.step(inputs))[..., None]
        keep = jnp.exp(-step * jnp.exp(self.rates[...])[None, None])
        update = step * inputs[..., None] * into[:, :, None]
        flat = (batch, time, -1)
        empty = jnp.zeros((batch, keep.shape[2] * HELD), x.dtype)
        held = gated_scan(keep.reshape(flat), update.reshape(flat), empty).reshape(keep.shape)
        found = jnp.einsum("btin,btn->bti", held, out_of) + self.past[...][None, None] * inputs
        return x + self.write(found * jax.nn.silu(gate))


@final
class GRUBlock(nnx.Module):
    """A gated recurrent unit (Cho et al. 2014), and a gated layer."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        """For any width."""
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.cells = nnx.RNN(nnx.GRUCell(width, width, rngs=rngs), rngs=rngs)
        self.write = nnx.Linear(width, width, use_bias=False, kernel_init=_ZERO, rngs=rngs)
        self.feed = _FeedForward(width, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, time, width) to the same."""
        held = self.cells(self.norm(x), initial_carry=jnp.zeros((len(x), x.shape[-1])))
        return self.feed(x + self.write(held))
