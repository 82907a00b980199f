"""The network of the `mamba2` target: the blocks of transformers' `Mamba2ForCausalLM`, in flax.

Dao and Gu 2024, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through
Structured State Space Duality", section 7; one head a channel, and one group.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.backends.axes import Axes, Legend, Part, Space, follows, makes, reads
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
from lsrl.backends.residual.mamba2_weights import fresh_layer, gates, path
from lsrl.backends.residual.mamba_network import MambaNetwork
from lsrl.backends.residual.network import CHUNK, Cached
from lsrl.backends.residual.self_test import OperationTest, check_norm

# What the gated norm's constant channel holds; its square, and that over any width, are normal.
GATED = 2.0**63


def mamba2_block(
    weights: LayerParameters,
    stream: jax.Array,
    state: LayerState,
    places: Places,
    eps: float,
    edit: Edit | None = None,
) -> tuple[jax.Array, LayerState]:
    """One Mamba-2 layer: norm, projection, convolution, scan, gated norm, and the residual.

    See `ResidualNetwork.block`. The state is "conv" (batch, inner + 2 states, taps - 1) and "ssm"
    (batch, inner, states); the edit is of the stream and "ssm", behind the layer.
    """
    inner, mixed = weights["mixer.D"].shape[0], weights["mixer.conv1d.bias"].shape[0]
    normed = rms_norm(stream, weights["norm.weight"], eps)
    gate, values, time_step = jnp.split(
        linear(normed, weights["mixer.in_proj.weight"]), [inner, inner + mixed], axis=-1
    )
    values, tail = causal_convolution(
        values,
        weights["mixer.conv1d.weight"],
        weights["mixer.conv1d.bias"],
        state["conv"],
        places.tokens,
    )
    values, B, C = jnp.split(jax.nn.silu(values), [inner, (inner + mixed) // 2], axis=-1)
    time_step = jax.nn.softplus(time_step + weights["mixer.dt_bias"][None, None])
    decay = jnp.exp(time_step * -jnp.exp(weights["mixer.A_log"])[None, None])
    increment = (time_step * values)[..., None] * B[..., None, :]
    states, last = recurrence(decay[..., None], increment, state["ssm"], places.tokens)
    output = jnp.sum(states * C[..., None, :], axis=-1) + values * weights["mixer.D"][None, None]
    output = rms_norm(output * jax.nn.silu(gate), weights["mixer.norm.weight"], eps)
    stream = stream + linear(output, weights["mixer.out_proj.weight"])
    if edit is not None:
        stream, last = edit(0, stream, last)
    return stream, {"conv": tail, "ssm": last}


class Mamba2Network(MambaNetwork):
    """A stack of Mamba-2 blocks; see ResidualNetwork."""

    cached: ClassVar[Mapping[str, Cached]] = {
        "conv_states.0": Cached("conv", older=True),
        "recurrent_states.0": Cached("ssm", axes=(2,)),  # of a head's one channel
    }
    block = staticmethod(mamba2_block)
    fresh = staticmethod(fresh_layer)
    layer_path, layer_gates = staticmethod(path), staticmethod(gates)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's state, for one sequence."""
        inner, mixed, states = self._sizes
        taps = self.layers["mixer.conv1d.weight"].shape[-1]
        return {"conv": (mixed, taps - 1), "ssm": (inner, states)}

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Inner channels, those that are convolved, and the states of an inner channel."""
        inner, mixed = (self.layers[name].shape[-1] for name in ("mixer.D", "mixer.conv1d.bias"))
        return inner, mixed, (mixed - inner) // 2

    def as_reference(self) -> Self:
        """This one: the norm over the inner channels is made for as many as there are."""
        return self

    def inside(self, layer: int) -> Legend:
        """Inner channels, which take no signs: convolution and gate do not.

        None can be left out: the norm over them is made for as many as there are.
        """
        size, _, states = self._sizes
        inner = f"inner {layer}"
        spaces = {inner: Space(size, memory=1 + layer, entries=states)}
        convolved = (Part(inner, "follows"), Part("", "follows", 2 * states))
        projected = (*follows(inner), *convolved, *follows(inner))
        return Legend(
            spaces,
            {
                "norm.weight": Axes("gain", (follows("stream"),)),
                "mixer.in_proj.weight": Axes("matrix", (projected, reads("stream"))),
                "mixer.conv1d.weight": Axes("matrix", (convolved, follows(), reads())),
                "mixer.conv1d.bias": Axes(
                    "bias", ((Part(inner, "makes"), Part("", "makes", 2 * states)),)
                ),
                "mixer.dt_bias": Axes("bias", (makes(inner),)),
                "mixer.A_log": Axes("gain", (follows(inner),)),
                "mixer.D": Axes("gain", (follows(inner),)),
                "mixer.norm.weight": Axes("gain", (follows(inner),)),
                "mixer.out_proj.weight": Axes("matrix", (makes("stream"), reads(inner))),
            },
        )

    def operations(self) -> tuple[OperationTest, ...]:
        """Of silu, softplus, exp and rsqrt."""
        small = np.exp2(-np.arange(25, 120)).astype(DTYPE)
        small = np.concatenate([small, -1.25 * small[1:]])
        halved = OperationTest("silu(u) == u / 2 below 2^-25", jax.nn.silu, small, small / 2)
        return (*super().operations(), halved)

    def self_test(self) -> None:
        """As others do, and check the norm over the inner channels."""
        super().self_test()
        if self.depth:
            inner = self._sizes[0]
            check_norm(inner, self.structure.eps, CHUNK, norm_size(inner))


def norm_size(inner: int) -> float:
    """By what the gated norm divides: so much that its constants are 2^63 at most."""
    return GATED / float(2 ** (math.log2(inner) // 2))
