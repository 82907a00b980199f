"""The network of the `deltanet` target: linear layers of `OlmoHybridForCausalLM`, in flax.

Yang et al. 2025, "Gated Delta Networks: Improving Mamba2 with Delta Rule", section 3. The step is
twice a sigmoid, so that a write may reflect (Grazzi et al. 2025, "Unlocking State-Tracking in
Linear RNNs Through Negative Eigenvalues"). There is no attention.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.axes import Axes, Legend, Space, follows, makes, reads
from lsrl.backends.network import Edit
from lsrl.backends.residual.blocks import (
    DTYPE,
    DeltaTokens,
    LayerParameters,
    LayerState,
    Places,
    causal_convolution,
    delta_rule,
    linear,
    rms_norm,
)
from lsrl.backends.residual.mamba_weights import convolved, first_steps
from lsrl.backends.residual.network import CHUNK, Cached, ResidualNetwork
from lsrl.backends.residual.paths import Path
from lsrl.backends.residual.self_test import OperationTest, check_norm, sizes_from
from lsrl.backends.residual.untrained import untrained_arrays
from lsrl.backends.strength import Gates, Sources, sigmoid, strength
from lsrl.ir.numbers import Array

# Of the lengths of keys and queries, and of the norm of what is read: both are in the code of the
# reference class, and not in its configuration.
KEY_EPS, NORM_EPS = 1e-6, 1e-5
# What the norm of a head divides by: far above what heads hold, whose values are small, and its
# square far above the 1e-5.
INNER = 2.0**6

# Of an untrained layer: sizes of a head's keys and values, units of the MLP for each of the stream,
# taps of the convolution, and the greatest A at first, as the class has them.
KEYS, VALUES, EXPAND, TAPS = 16, 16, 4, 4
GREATEST_A = 16.0


def deltanet_layer(
    weights: LayerParameters,
    stream: jax.Array,
    state: LayerState,
    places: Places,
    eps: float,
    edit: Edit | None = None,
) -> tuple[jax.Array, LayerState]:
    """One Gated DeltaNet layer and the gated MLP, each with its norm and residual.

    See `ResidualNetwork.block`. The state is "conv" (batch, channels of queries, keys and values,
    taps - 1) and "delta" (batch, heads, keys, values); edits are of the stream and "delta" behind
    the delta rule, and of the stream behind the MLP.
    """
    normed = rms_norm(stream, weights["input_layernorm.weight"], eps)
    added, tail, last, tokens = _mixed(weights, normed, state, places)
    stream = stream + added
    if edit is not None:
        stream, last = edit(0, stream, last)
        last = _with_constants(last, tokens, weights["linear_attn.o_norm.weight"])
    normed = rms_norm(stream, weights["post_attention_layernorm.weight"], eps)
    gate = jax.nn.silu(linear(normed, weights["mlp.gate_proj.weight"]))
    product = gate * linear(normed, weights["mlp.up_proj.weight"])
    stream = stream + linear(product, weights["mlp.down_proj.weight"])
    if edit is not None:
        stream, _ = edit(1, stream, None)
    return stream, {"conv": tail, "delta": last}


def _mixed(
    weights: LayerParameters, normed: jax.Array, state: LayerState, places: Places
) -> tuple[jax.Array, jax.Array, jax.Array, DeltaTokens]:
    """What the delta rule adds to the stream, the convolution's tail, the state, and its tokens."""
    heads, width = weights["linear_attn.A_log"].shape[0], weights["linear_attn.o_norm.weight"].size

    def projected(name: str) -> jax.Array:
        return linear(normed, weights[f"linear_attn.{name}_proj.weight"])

    def by_head(values: jax.Array) -> jax.Array:
        return values.reshape(*values.shape[:2], heads, -1)

    convolved, tail = causal_convolution(
        jnp.concatenate([projected(name) for name in "qkv"], axis=-1),
        weights["linear_attn.conv1d.weight"],
        None,
        state["conv"],
        places.tokens,
    )
    size = (convolved.shape[-1] - heads * width) // 2
    query, key, value = map(by_head, jnp.split(jax.nn.silu(convolved), [size, 2 * size], axis=-1))
    steps = jax.nn.softplus(projected("a") + weights["linear_attn.dt_bias"][None, None])
    tokens = DeltaTokens(
        _unit(query) * (heads / size) ** 0.5,
        _unit(key),
        value,
        jax.nn.sigmoid(projected("b")) * 2.0,
        -jnp.exp(weights["linear_attn.A_log"][None, None]) * steps,
    )
    read, last = delta_rule(tokens, state["delta"], places.tokens)
    read = rms_norm(read, weights["linear_attn.o_norm.weight"], NORM_EPS)
    read = read * jax.nn.silu(by_head(projected("g")))
    read = read.reshape(*read.shape[:2], -1)
    return linear(read, weights["linear_attn.o_proj.weight"]), tail, last, tokens


def _with_constants(state: jax.Array, tokens: DeltaTokens, gain: jax.Array) -> jax.Array:
    """A state that was set, with the constants of norms in heads that had nothing written.

    Such a head comes to hold something without a token that writes, so what that would have written
    into the columns that only its norm reads, of gain 0, has to stand there too.

    Args:
      state: (batch, heads, keys, values).
      tokens: of which the last is now.
      gain: (values,), of the norm.
    """
    only_norm = (gain == 0)[None, None, None]
    written = tokens.key[-1][..., :, None] * tokens.value[-1][..., None, :]
    has = ((state != 0) & only_norm).any(axis=(2, 3), keepdims=True)
    bare = (state != 0).any(axis=(2, 3), keepdims=True) & ~has
    return jnp.where(only_norm & bare, written, state)


def _unit(values: jax.Array) -> jax.Array:
    """Of length 1, but for zeros."""
    return values * lax.rsqrt(jnp.sum(values * values, axis=-1, keepdims=True) + KEY_EPS)


class DeltaNetNetwork(ResidualNetwork):
    """A stack of Gated DeltaNet layers; see ResidualNetwork."""

    embedding_name: ClassVar[str] = "model.embed_tokens.weight"
    layers_name: ClassVar[str] = "model.layers"
    final_norm_name: ClassVar[str] = "model.norm.weight"
    gain_offset: ClassVar[float] = 0.0
    sites: ClassVar[int] = 2
    writes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("linear_attn.o_proj.weight",),
        ("mlp.down_proj.weight",),
    )
    cached: ClassVar[Mapping[str, Cached]] = {
        "conv_states.0": Cached("conv", older=True),
        "recurrent_states.0": Cached("delta"),
    }
    block = staticmethod(deltanet_layer)

    @property
    def head_sizes(self) -> tuple[int, int, int]:
        """Heads of a layer, and of each the sizes of keys and of values."""
        _, heads = self.layers["linear_attn.A_log"].shape
        keys = self.layers["linear_attn.q_proj.weight"].shape[1] // heads
        return heads, keys, self.layers["linear_attn.o_norm.weight"].shape[1]

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's state, for one sequence."""
        _, channels, _, taps = self.layers["linear_attn.conv1d.weight"].shape
        return {"conv": (channels, taps - 1), "delta": self.head_sizes}

    def inside(self, layer: int) -> Legend:
        """Heads, the keys and values of each, and units of the MLP, whose linear factor flips.

        Keys and values pass a SiLU, so they have no signs.
        """
        sizes = self.head_sizes
        heads, keys, values, mlp = (f"{n} {layer}" for n in ("heads", "keys", "values", "mlp"))
        spaces = {
            keys: Space(sizes[1]),
            values: Space(sizes[2]),
            heads: Space(
                sizes[0],
                memory=1 + layer * self.sites,
                entries=sizes[1] * sizes[2],
                within=(keys, values),
            ),
            mlp: Space(self.layers["mlp.up_proj.weight"].shape[1], flips=True, spare="mlp"),
        }
        found = {
            name: Axes("gain", (follows("stream"),))
            for name in ("input_layernorm.weight", "post_attention_layernorm.weight")
        }
        for name, made, read in (
            ("linear_attn.q", follows(heads, keys), reads("stream")),
            ("linear_attn.k", follows(heads, keys), reads("stream")),
            ("linear_attn.v", makes(heads, values), reads("stream")),
            ("linear_attn.a", follows(heads), reads("stream")),
            ("linear_attn.b", follows(heads), reads("stream")),
            ("linear_attn.g", follows(heads, values), reads("stream")),
            ("linear_attn.o", makes("stream"), reads(heads, values)),
            ("mlp.gate", follows(mlp), reads("stream")),
            ("mlp.up", makes(mlp), reads("stream")),
            ("mlp.down", makes("stream"), reads(mlp)),
        ):
            found[f"{name}_proj.weight"] = Axes("matrix", (made, read))
        channels = 2 * follows(heads, keys) + follows(heads, values)
        found["linear_attn.conv1d.weight"] = Axes("matrix", (channels, follows(), reads()))
        found["linear_attn.A_log"] = Axes("gain", (follows(heads),))
        found["linear_attn.dt_bias"] = Axes("bias", (follows(heads),))
        found["linear_attn.o_norm.weight"] = Axes("gain", (follows(values),))
        return Legend(spaces, found)

    def path(self, own: Mapping[str, Array], site: int, below: Sources) -> Path:
        """What goes through the delta rule, or the MLP."""
        return mlp_path(own, below) if site else delta_path(own, below)

    def gates(self, arrays: Mapping[str, Array], layer: int, read: Array, held: Array) -> Gates:
        """What a head keeps, how far it goes to a value, and the values; or those of the MLP."""
        own = self.by_layer(arrays)[layer // self.sites]
        return (mlp_gates if layer % self.sites else delta_gates)(own, self.structure.eps, read)

    @property
    def untrained_entries(self) -> int:
        """A value of a head for each unit."""
        return 1

    def untrained(self, units: Sequence[int], seed: int) -> Self:
        """With decays and steps as the reference class has them; maps are as torch's Linear."""
        return self.rebuilt(untrained_arrays(self, units, seed, fresh_layer))

    def self_test(self) -> None:
        """Check the operations, the norm of the stream, and that of what heads read.

        Raises:
          SelfTestError: one is not exact on this device; it says which.
        """
        super().self_test()
        if self.depth:
            check_norm(self.head_sizes[2], NORM_EPS, CHUNK, INNER)

    def operations(self) -> tuple[OperationTest, ...]:
        """Of SiLU, sigmoid, softplus and exp, and of the lengths of keys."""
        large, none = sizes_from(128), np.zeros(1, DTYPE)
        small = 2.0**-28 / large[large < 2.0**90]
        small = np.concatenate([small, -small])
        logits = np.array([128, 0, -128, -2048], DTYPE)
        betas = np.array([2, 1, 0, 0], DTYPE)
        # Entries of the constant 1024 and of small multiples, of which squares add up to 4^n.
        sizes = (1024 * np.exp2(np.arange(24))).astype(DTYPE)
        return (
            OperationTest("silu(u) == u from 128 on", jax.nn.silu, large, large),
            OperationTest("silu(u) == 0 below -128", jax.nn.silu, -large, 0 * large),
            OperationTest("silu(u) == 32 at 32", jax.nn.silu, none + 32, none + 32),
            OperationTest("silu(0) == 0", jax.nn.silu, none, none),
            OperationTest("silu(u) == u / 2 up to 2^-28", jax.nn.silu, small, small / 2),
            OperationTest(
                "2 sigmoid(u) is 2, 1 and 0", lambda u: jax.nn.sigmoid(u) * 2.0, logits, betas
            ),
            OperationTest(
                "exp(-exp(0) softplus(u)) is 1 below -128, and 0 above 128",
                lambda u: jnp.exp(-jnp.exp(jnp.zeros_like(u)) * jax.nn.softplus(u)),
                np.concatenate([-large, large]),
                np.concatenate([np.ones_like(large), 0 * large]),
            ),
            OperationTest("softplus(256) == 256", jax.nn.softplus, none + 256, none + 256),
            OperationTest(
                "a key of one entry is 1",
                lambda u: _unit(u[..., None])[..., 0],
                sizes,
                sizes / sizes,
            ),
            OperationTest(
                "a key of four entries is 1/2",
                lambda u: _unit(jnp.stack([u, u, u, u], axis=-1))[..., 0],
                sizes,
                0.5 * sizes / sizes,
            ),
            OperationTest("a key of zeros is 0", lambda u: _unit(u[..., None])[..., 0], none, none),
        )


def delta_path(own: Mapping[str, Array], below: Sources) -> Path:
    """Of the delta rule: its values, what opens them, and what keys, queries and steps read."""
    width, nothing = own["linear_attn.o_norm.weight"].size, np.zeros(1)
    sums = {
        name: below.write
        @ (own[f"linear_attn.{name}_proj.weight"] * own["input_layernorm.weight"]).T
        for name in "qkvabg"
    }
    found = {name: strength(kernel, nothing, below) for name, kernel in sums.items()}
    heads = sums["b"].shape[1]
    query, key = (found[n].reshape(len(found[n]), heads, -1).max(axis=2, initial=0.0) for n in "qk")
    kept = np.maximum.reduce([key, found["a"], found["b"]])
    # What constants alone make of the steps.
    constant = np.where(below.spread == 0, below.size, 0.0)
    decay = np.logaddexp(0, constant @ sums["a"] + own["linear_attn.dt_bias"])
    decay = np.exp(-decay * np.exp(own["linear_attn.A_log"]))
    factor = np.abs(decay * (1 - 2 * sigmoid(constant @ sums["b"])))
    memory = np.maximum(factor, np.minimum(1.0, kept.max(axis=0, initial=0.0)))
    inner = np.repeat(np.maximum(query, kept), width, axis=1)
    inner = np.maximum.reduce([found["v"], found["g"], inner])
    return Path(inner, np.repeat(memory, width), own["linear_attn.o_proj.weight"])


def mlp_path(own: Mapping[str, Array], below: Sources) -> Path:
    """Of the MLP: its two factors."""
    gain, nothing = own["post_attention_layernorm.weight"], np.zeros(1)
    gate, up = (
        strength(below.write @ (own[f"mlp.{name}_proj.weight"] * gain).T, nothing, below)
        for name in ("gate", "up")
    )
    inner = np.maximum(gate, up)
    return Path(inner, np.zeros(inner.shape[1]), own["mlp.down_proj.weight"])


def _normed(stream: Array, gain: Array, eps: float) -> Array:
    scaled: Array = stream / np.sqrt((stream**2).mean(axis=-1, keepdims=True) + eps) * gain
    return scaled


def delta_gates(own: Mapping[str, Array], eps: float, stream: Array) -> Gates:
    """What heads keep of their states, how far they go to values, and the values.

    The stream (batch, time, d) is that before the layer.
    """
    normed = _normed(stream, own["input_layernorm.weight"], eps)
    steps = normed @ own["linear_attn.a_proj.weight"].T + own["linear_attn.dt_bias"]
    decay = np.exp(-np.logaddexp(0, steps) * np.exp(own["linear_attn.A_log"]))
    written = sigmoid(normed @ own["linear_attn.b_proj.weight"].T)
    values = normed @ own["linear_attn.v_proj.weight"].T
    values = convolved(own["linear_attn.conv1d.weight"][-values.shape[-1] :], values)
    return Gates(np.concatenate([decay, written], axis=-1), values * sigmoid(values))


def mlp_gates(own: Mapping[str, Array], eps: float, stream: Array) -> Gates:
    """What the SiLU of the MLP lets through, and of what; the stream is that before the MLP."""
    normed = _normed(stream, own["post_attention_layernorm.weight"], eps)
    gate, up = (normed @ own[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    return Gates(sigmoid(gate), up)


def fresh_layer(width: int, _: int, rng: np.random.Generator) -> dict[str, Array]:
    """Of an untrained layer, on a stream of this width."""
    heads, units = max(1, width // VALUES), EXPAND * width

    def uniform(*shape: int, fan: int = width) -> Array:
        return rng.uniform(-1, 1, shape) / np.sqrt(fan)

    channels = heads * (2 * KEYS + VALUES)
    steps = first_steps(heads, rng)
    rows = {"q": heads * KEYS, "k": heads * KEYS, "v": heads * VALUES, "g": heads * VALUES}
    rows |= {"a": heads, "b": heads}
    return {
        "input_layernorm.weight": np.ones(width),
        **{f"linear_attn.{n}_proj.weight": uniform(size, width) for n, size in rows.items()},
        "linear_attn.o_proj.weight": uniform(width, heads * VALUES, fan=heads * VALUES),
        "linear_attn.conv1d.weight": uniform(channels, 1, TAPS, fan=TAPS),
        "linear_attn.A_log": np.log(rng.uniform(1e-3, GREATEST_A, heads)),
        "linear_attn.dt_bias": steps,
        "linear_attn.o_norm.weight": np.ones(VALUES),
        "post_attention_layernorm.weight": np.ones(width),
        "mlp.gate_proj.weight": uniform(units, width),
        "mlp.up_proj.weight": uniform(units, width),
        "mlp.down_proj.weight": uniform(width, units, fan=units),
    }
