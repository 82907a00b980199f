"""The network of the `griffin` target: recurrent layers of `RecurrentGemmaForCausalLM`, in flax.

De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient
Language Models", section 2. All temporal blocks are recurrent (Hawk): there is no attention.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.backends.axes import Axes, Legend, Space, follows, makes, reads
from lsrl.backends.network import Edit
from lsrl.backends.residual.blocks import (
    DTYPE,
    LayerParameters,
    LayerState,
    Places,
    causal_convolution,
    linear,
    recurrence,
    rms_norm,
)
from lsrl.backends.residual.griffin_weights import mlp_path, recurrent_path
from lsrl.backends.residual.network import Cached, ResidualNetwork
from lsrl.backends.residual.paths import Path
from lsrl.backends.residual.self_test import OperationTest, check_operations, sizes_from
from lsrl.backends.strength import Sources
from lsrl.ir.numbers import Array

# recurrent_param of an integrator: with an open gate, log a = -0.75 * 2^-25. So a rounds to 1, and
# a^2 to 1 - 2^-24, of which the multiplier of the inputs is exactly 2^-12.
INTEGRATOR = float(np.log(0.75 * 2.0**-28))


def _gelu(values: jax.Array) -> jax.Array:
    return jax.nn.gelu(values, approximate=True)


def _log_decay(recurrent_gate: jax.Array, recurrent_param: jax.Array) -> jax.Array:
    return -8.0 * recurrent_gate * jax.nn.softplus(recurrent_param)


def _multiplier(log_decay: jax.Array) -> jax.Array:
    return jnp.sqrt(1 - jnp.exp(2 * log_decay))


def _gate(values: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """The sigmoid of a block-diagonal map: weight (heads, n, n), bias (heads, n)."""
    heads, size = bias.shape
    parts = values.reshape(*values.shape[:-1], heads, size)
    result = jnp.einsum("tbhi,hij->tbhj", parts, weight) + bias[None, None]
    return jax.nn.sigmoid(result.reshape(values.shape))


def griffin_layer(
    weights: LayerParameters,
    stream: jax.Array,
    state: LayerState,
    places: Places,
    eps: float,
    edit: Edit | None = None,
) -> tuple[jax.Array, LayerState]:
    """One Griffin layer: the recurrent block and the gated MLP, each with its norm and residual.

    See `ResidualNetwork.block`. The state is "conv" (batch, lru, taps - 1) and "lru" (batch, lru),
    which is reset at first tokens; edits are of the stream and "lru" behind the recurrent block,
    and of the stream behind the MLP.
    """
    normed = rms_norm(stream, 1.0 + weights["temporal_pre_norm.weight"], eps)
    y_branch = _gelu(_affine(normed, weights, "temporal_block.linear_y"))
    values, tail = causal_convolution(
        _affine(normed, weights, "temporal_block.linear_x"),
        weights["temporal_block.conv_1d.weight"],
        weights["temporal_block.conv_1d.bias"],
        state["conv"],
        places.tokens,
    )
    input_gate, recurrent_gate = (
        _gate(
            values,
            weights[f"temporal_block.rg_lru.{name}_gate_weight"],
            weights[f"temporal_block.rg_lru.{name}_gate_bias"],
        )
        for name in ("input", "recurrent")
    )
    log_decay = _log_decay(
        recurrent_gate, weights["temporal_block.rg_lru.recurrent_param"][None, None]
    )
    reset = places.first[..., None]
    decay = jnp.where(reset, 0.0, jnp.exp(log_decay))
    increment = values * input_gate * jnp.where(reset, 1.0, _multiplier(log_decay))
    states, last = recurrence(decay, increment, state["lru"], places.tokens)
    stream = _affine(states * y_branch, weights, "temporal_block.linear_out") + stream
    if edit is not None:
        stream, last = edit(0, stream, last)
    normed = rms_norm(stream, 1.0 + weights["channel_pre_norm.weight"], eps)
    gate = _gelu(_affine(normed, weights, "mlp_block.gate_proj"))
    product = gate * _affine(normed, weights, "mlp_block.up_proj")
    stream = _affine(product, weights, "mlp_block.down_proj") + stream
    if edit is not None:
        stream, _ = edit(1, stream, None)
    return stream, {"conv": tail, "lru": last}


def _affine(values: jax.Array, weights: LayerParameters, name: str) -> jax.Array:
    return linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])


class GriffinNetwork(ResidualNetwork):
    """A stack of Griffin's recurrent layers; see ResidualNetwork."""

    embedding_name: ClassVar[str] = "model.embed_tokens.weight"
    layers_name: ClassVar[str] = "model.layers"
    final_norm_name: ClassVar[str] = "model.final_norm.weight"
    gain_offset: ClassVar[float] = 1.0
    sites: ClassVar[int] = 2
    writes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("temporal_block.linear_out.weight", "temporal_block.linear_out.bias"),
        ("mlp_block.down_proj.weight", "mlp_block.down_proj.bias"),
    )
    cached: ClassVar[Mapping[str, Cached]] = {
        "temporal_block.conv1d_state": Cached("conv"),
        "temporal_block.rg_lru.recurrent_states": Cached("lru"),
    }
    block = staticmethod(griffin_layer)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's state, for one sequence."""
        _, lru, _, taps = self.layers["temporal_block.conv_1d.weight"].shape
        return {"conv": (lru, taps - 1), "lru": (lru,)}

    def inside(self, layer: int) -> Legend:
        """Channels of the RG-LRU, and of the MLP, of which the linear factor takes the sign."""
        lru, mlp = f"lru {layer}", f"mlp {layer}"
        sizes = [
            self.layers[f"{name}.weight"].shape[1]
            for name in ("temporal_block.linear_x", "mlp_block.up_proj")
        ]
        spaces = {
            lru: Space(sizes[0], flips=True, memory=1 + layer * self.sites, spare="lru"),
            mlp: Space(sizes[1], flips=True, spare="mlp"),
        }
        found = {
            f"{name}_pre_norm.weight": Axes("gain", (follows("stream"),))
            for name in ("temporal", "channel")
        }
        for name, made, read in (
            ("temporal_block.linear_x", makes(lru), reads("stream")),
            ("temporal_block.linear_y", follows(lru), reads("stream")),
            ("temporal_block.linear_out", makes("stream"), reads(lru)),
            ("mlp_block.gate_proj", follows(mlp), reads("stream")),
            ("mlp_block.up_proj", makes(mlp), reads("stream")),
            ("mlp_block.down_proj", makes("stream"), reads(mlp)),
        ):
            found[f"{name}.weight"] = Axes("matrix", (made, read))
            found[f"{name}.bias"] = Axes("bias", (made,))
        found["temporal_block.conv_1d.weight"] = Axes("matrix", (follows(lru), follows(), reads()))
        found["temporal_block.conv_1d.bias"] = Axes("bias", (makes(lru),))
        for gate in ("input", "recurrent"):
            name = f"temporal_block.rg_lru.{gate}_gate"
            # By head, of which there is one.
            found[f"{name}_weight"] = Axes("matrix", (follows(), reads(lru), follows(lru)))
            found[f"{name}_bias"] = Axes("bias", (follows(), follows(lru)))
        found["temporal_block.rg_lru.recurrent_param"] = Axes("gain", (follows(lru),))
        return Legend(spaces, found)

    def path(self, own: Mapping[str, Array], site: int, below: Sources) -> Path:
        """What goes through the recurrent block, or the MLP."""
        return mlp_path(own, below) if site else recurrent_path(own, below)

    def self_test(self) -> None:
        """Check rsqrt, gelu, sigmoid, exp, the norm, sums and integrators on this device.

        Raises:
          SelfTestError: names the operation that fails, and the device; for an integrator's, what
            error its states have there, and the way out.
        """
        super().self_test()
        _check_integrator()

    def operations(self) -> tuple[OperationTest, ...]:
        """Of gelu and sigmoid, and of decays and multipliers that are 0 or 1."""
        large, saturated = sizes_from(16), sizes_from(128)
        ones, opened, shut = np.ones_like(saturated), np.ones(33, DTYPE), np.zeros(33, DTYPE)
        decay, multiplier = (partial(f, parameter=32) for f in (_decay, _entering))
        return (
            OperationTest("gelu(u) == u from 16 on", _gelu, large, large),
            OperationTest("gelu(u) == 0 below -16", _gelu, -large, 0 * large),
            OperationTest("sigmoid(u) == 1 from 128 on", jax.nn.sigmoid, saturated, ones),
            OperationTest("sigmoid(u) == 0 below -128", jax.nn.sigmoid, -saturated, 0 * ones),
            OperationTest(
                "the decay is 0 at recurrent_param = 32 and an open gate", decay, opened, shut
            ),
            OperationTest(
                "the multiplier is 1 at recurrent_param = 32 and an open gate",
                multiplier,
                opened,
                opened,
            ),
            OperationTest("with a shut gate the decay is 1", decay, shut, opened),
        )


def _decay(gate: jax.Array, parameter: float) -> jax.Array:
    return jnp.exp(_log_decay(gate, jnp.full_like(gate, parameter)))


def _entering(gate: jax.Array, parameter: float) -> jax.Array:
    return _multiplier(_log_decay(gate, jnp.full_like(gate, parameter)))


def _check_integrator() -> None:
    """The decay, its square and the multiplier of integrators, and of gates a little off."""
    # Every softplus that is within 2^-10 of the right one, since devices round log1p and exp.
    middle = np.float32(-0.75 * 2.0**-25).view(np.int32)
    window = np.arange(middle - 2**13, middle + 2**13, dtype=np.int32).view(DTYPE)
    ones, gates = np.ones_like(window), np.ones(33, DTYPE)
    decay, multiplier = (partial(f, parameter=INTEGRATOR) for f in (_decay, _entering))
    # What is left if the device has another exp: its own decay and multiplier, as numbers.
    lost = abs(1 - float(jax.jit(decay)(jnp.asarray(gates))[0]))
    scale = float(jax.jit(multiplier)(jnp.asarray(gates))[0])
    bound = lost + 2.0**-24  # and one rounding a token
    advice = (
        "; Griffin's integrators are not exact here. Run on the CPU, or compile for 'mamba', whose "
        f"integrators need only exp(-0) == 1. Or keep the window and take the decay 1 - {lost:.3g} "
        f"and the multiplier {scale!r} as approximate: a sum of T terms, of at most U each, then "
        f"errs by at most U * T * (T * {bound:.3g} + {abs(scale * 2.0**12 - 1):.3g})"
    )
    check_operations(
        (
            OperationTest("exp(log a) == 1 in the window of integrators", jnp.exp, window, ones),
            OperationTest(
                "exp(2 log a) == 1 - 2^-24 in the window of integrators",
                lambda x: jnp.exp(2 * x),
                window,
                ones * np.float32(1 - 2.0**-24),
            ),
            OperationTest(
                "sqrt(1 - exp(2 log a)) == 2^-12 in the window of integrators",
                _multiplier,
                window,
                ones * np.float32(2.0**-12),
            ),
            OperationTest("an integrator's decay is 1", decay, gates, np.ones_like(gates)),
            OperationTest(
                "an integrator's multiplier is 2^-12", multiplier, gates, gates * 2.0**-12
            ),
        ),
        advice,
    )
