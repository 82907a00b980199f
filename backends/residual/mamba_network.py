"""The network of the `mamba` target: the blocks of transformers' `MambaForCausalLM`, in flax.

Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", section 3.
"""

from collections.abc import Mapping, Sequence
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
from lsrl.backends.residual.mamba_weights import STATES, fresh_layer, gates, path
from lsrl.backends.residual.network import Cached, ResidualNetwork
from lsrl.backends.residual.paths import Path
from lsrl.backends.residual.self_test import OperationTest, sizes_from
from lsrl.backends.residual.untrained import untrained_arrays
from lsrl.backends.strength import Gates, Sources
from lsrl.ir.numbers import Array


def mamba_block(
    weights: LayerParameters,
    stream: jax.Array,
    state: LayerState,
    places: Places,
    eps: float,
    edit: Edit | None = None,
) -> tuple[jax.Array, LayerState]:
    """One Mamba layer: norm, projection, convolution, selective scan, gate, and the residual.

    See `ResidualNetwork.block`. The state is "conv" (batch, inner, taps - 1) and "ssm" (batch,
    inner, state size); the edit is of the stream and "ssm", behind the layer.
    """
    normed = rms_norm(stream, weights["norm.weight"], eps)
    values, gate = jnp.split(linear(normed, weights["mixer.in_proj.weight"]), 2, axis=-1)
    values, tail = causal_convolution(
        values,
        weights["mixer.conv1d.weight"],
        weights["mixer.conv1d.bias"],
        state["conv"],
        places.tokens,
    )
    values = jax.nn.silu(values)
    rank, size = weights["mixer.dt_proj.weight"].shape[1], weights["mixer.A_log"].shape[1]
    time_step, B, C = jnp.split(
        linear(values, weights["mixer.x_proj.weight"]), [rank, rank + size], axis=-1
    )
    time_step = jax.nn.softplus(
        linear(time_step, weights["mixer.dt_proj.weight"], weights["mixer.dt_proj.bias"])
    )
    A = -jnp.exp(weights["mixer.A_log"])
    decay = jnp.exp(time_step[..., None] * A[None, None])
    increment = time_step[..., None] * B[..., None, :] * values[..., None]
    states, last = recurrence(decay, increment, state["ssm"], places.tokens)
    output = jnp.sum(states * C[..., None, :], axis=-1)
    output = output + values * weights["mixer.D"][None, None]
    output = output * jax.nn.silu(gate)
    stream = stream + linear(output, weights["mixer.out_proj.weight"])
    if edit is not None:
        stream, last = edit(0, stream, last)
    return stream, {"conv": tail, "ssm": last}


class MambaNetwork(ResidualNetwork):
    """A stack of Mamba blocks; see ResidualNetwork."""

    embedding_name: ClassVar[str] = "backbone.embeddings.weight"
    layers_name: ClassVar[str] = "backbone.layers"
    final_norm_name: ClassVar[str] = "backbone.norm_f.weight"
    gain_offset: ClassVar[float] = 0.0
    sites: ClassVar[int] = 1
    writes: ClassVar[tuple[tuple[str, ...], ...]] = (("mixer.out_proj.weight",),)
    cached: ClassVar[Mapping[str, Cached]] = {
        "conv_states.0": Cached("conv", older=True),
        "recurrent_states.0": Cached("ssm"),
    }
    block = staticmethod(mamba_block)
    fresh = staticmethod(fresh_layer)
    layer_path, layer_gates = staticmethod(path), staticmethod(gates)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's state, for one sequence."""
        conv, a_log = self.layers["mixer.conv1d.weight"], self.layers["mixer.A_log"]
        inner, taps = conv.shape[1], conv.shape[-1]
        return {"conv": (inner, taps - 1), "ssm": (inner, a_log.shape[-1])}

    def as_reference(self) -> Self:
        """With idle inner channels behind the others, if those are no multiple of the stream's."""
        legend = self.legend()
        spaces = {name: space for name, space in legend.spaces.items() if space.spare}
        spare = {name: -space.size % self.width for name, space in spaces.items()}
        if not any(spare.values()):
            return self

        def longer(array: Array, axis: int, part: Part) -> Array:
            more = [(0, 0)] * array.ndim
            more[axis] = 0, spare.get(part.space, 0)
            return np.pad(array, more)

        return self.rebuilt(legend.changed(self.arrays(), longer))

    def inside(self, layer: int) -> Legend:
        """Inner channels, which take no signs: convolution and gate do not; and ranks of Δ."""
        _, size, rank = self.layers["mixer.dt_proj.weight"].shape
        states = self.layers["mixer.A_log"].shape[-1]
        inner, ranks = f"inner {layer}", f"ranks {layer}"
        spaces = {
            inner: Space(size, memory=1 + layer, entries=states, spare="inner"),
            ranks: Space(rank),
        }
        steps = (Part(ranks, "makes"), Part("", "makes", 2 * states))
        return Legend(
            spaces,
            {
                "norm.weight": Axes("gain", (follows("stream"),)),
                "mixer.in_proj.weight": Axes("matrix", (2 * follows(inner), reads("stream"))),
                "mixer.conv1d.weight": Axes("matrix", (follows(inner), follows(), reads())),
                "mixer.conv1d.bias": Axes("bias", (makes(inner),)),
                "mixer.x_proj.weight": Axes("matrix", (steps, reads(inner))),
                "mixer.dt_proj.weight": Axes("matrix", (makes(inner), reads(ranks))),
                "mixer.dt_proj.bias": Axes("bias", (makes(inner),)),
                "mixer.A_log": Axes("gain", (follows(inner), follows())),
                "mixer.D": Axes("gain", (follows(inner),)),
                "mixer.out_proj.weight": Axes("matrix", (makes("stream"), reads(inner))),
            },
        )

    def path(self, own: Mapping[str, Array], site: int, below: Sources) -> Path:
        """What goes through a layer."""
        return self.layer_path(own, below)

    def gates(self, arrays: Mapping[str, Array], layer: int, read: Array, held: Array) -> Gates:
        """What a scan keeps, and what it is given."""
        return self.layer_gates(self.by_layer(arrays)[layer], self.structure.eps, read)

    @property
    def untrained_entries(self) -> int:
        """The states of an inner channel."""
        return STATES

    def untrained(self, units: Sequence[int], seed: int) -> Self:
        """With the weights of the reference class; maps are as torch's Embedding and Linear."""
        return self.rebuilt(untrained_arrays(self, units, seed, self.fresh))

    def operations(self) -> tuple[OperationTest, ...]:
        """Of silu, softplus and exp."""
        large, none = sizes_from(128), np.zeros(1, DTYPE)
        steps = sizes_from(32)[:4097]
        logits = np.concatenate([np.arange(32, 8192), 2.0 ** np.arange(13, 24)]).astype(DTYPE)

        def decay(logit: jax.Array, a_log: float) -> jax.Array:
            return jnp.exp(jax.nn.softplus(logit) * -jnp.exp(jnp.full_like(logit, a_log)))

        return (
            OperationTest("silu(u) == u from 32 on", jax.nn.silu, steps, steps),
            OperationTest("silu(u) == u from 128 on", jax.nn.silu, large, large),
            OperationTest("silu(u) == 0 below -128", jax.nn.silu, -large, 0 * large),
            OperationTest("silu(0) == 0", jax.nn.silu, none, none),
            OperationTest("softplus(u) == u from 32 on", jax.nn.softplus, logits, logits),
            OperationTest("softplus(u) == 0 below -128", jax.nn.softplus, -large, 0 * large),
            OperationTest("exp(u) == 0 below -128", jnp.exp, -large, 0 * large),
            OperationTest(
                "exp(-dt * exp(-100)) == 1",
                lambda logit: decay(logit, -100),
                np.concatenate([none - 2048, logits]),
                np.ones(len(logits) + 1, DTYPE),
            ),
            OperationTest(
                "exp(-dt) is 1 at dt = 0, and 0 at dt >= 128",
                lambda logit: decay(logit, 0),
                np.concatenate([-large, large]),
                np.concatenate([np.ones_like(large), 0 * large]),
            ),
        )
