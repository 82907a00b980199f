"""Residual networks as pure functions: the embedding, all layers, and what reads the stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
from jax import lax

from lsrl.backends.network import LoopEdit, Memory, is_distribution
from lsrl.backends.residual.blocks import (
    DTYPE,
    BlockFunction,
    LayerParameters,
    LayerState,
    Places,
    linear,
    rms_norm,
)

# (*batch_shape, layers, ...), "position" (*batch_shape,)
ResidualState: TypeAlias = dict[str, jax.Array]


class Parameters(TypedDict):
    """Of `ResidualNetwork.parameters`: per input a table, a kernel or None, and by layer stacks."""

    inputs: tuple[jax.Array | None, ...]
    input_bias: jax.Array
    layers: LayerParameters
    final_norm: jax.Array
    output_kernel: jax.Array


@dataclass(frozen=True)
class Structure:
    """What is no parameter in a network; hashable, so jit can take it as a static argument.

    Attributes:
      block: the layer.
      sites: how often a layer adds to the stream.
      gain_offset: a norm's gain is this plus its weight.
      inputs: per program input "tables", "kernels" or "" (not read).
      embedding_scale: see ResidualWeights.
      eps: see ResidualWeights.
      dtype: of parameters, states and outputs.
    """

    dtype: ClassVar[str] = DTYPE
    block: BlockFunction
    sites: int
    gain_offset: float
    inputs: tuple[str, ...]
    embedding_scale: float
    eps: float


def embed(parameters: Parameters, structure: Structure, inputs: Sequence[jax.Array]) -> jax.Array:
    """Inputs (time, batch, ...) to the stream (time, batch, d)."""
    bias = parameters["input_bias"]
    stream = jnp.broadcast_to(bias, (*inputs[0].shape[:2], bias.shape[0]))
    for kind, signal, values in zip(structure.inputs, inputs, parameters["inputs"], strict=True):
        if values is None:
            continue
        if kind == "tables" and not is_distribution(signal):
            stream = stream + values[signal]
        else:
            stream = stream + jnp.einsum("...i,io->...o", signal, values)
    return stream * structure.embedding_scale


def forward(
    parameters: Parameters,
    structure: Structure,
    state: ResidualState,
    inputs: Sequence[jax.Array],
    count: jax.Array,
    head: jax.Array | None = None,
    edit: LoopEdit | None = None,
) -> tuple[jax.Array, ResidualState, jax.Array | None]:
    """Run a chunk.

    Args:
      parameters: of `ResidualNetwork.parameters`.
      structure: of the network.
      state: (batch, ...).
      inputs: per program input (time, batch, ...).
      count: how many tokens count; those after them change no state.
      head: (vocabulary, d), to read the final norm by it instead of by the output kernel.
      edit: of the stream behind the embedding (0) and each site, and of the site's scan.

    Returns:
      (time, batch, outputs), the new state, and with an edit the streams that came to it:
      (1 + sites, time, batch, d).
    """
    position = state["position"]
    places = jnp.arange(inputs[0].shape[0], dtype=jnp.int32)[:, None] + position[None]
    stream = embed(parameters, structure, inputs)
    where = Places(places == 0, count)
    seen = None if edit is None else stream[None]
    if edit is not None:
        stream, _ = edit(0, stream, None)

    def layer(
        stream: jax.Array, now: tuple[jax.Array, LayerParameters, LayerState]
    ) -> tuple[jax.Array, tuple[LayerState, jax.Array | None]]:
        number, weights, own = now
        if edit is None:
            stream, own = structure.block(weights, stream, own, where, structure.eps, None)
            return stream, (own, None)
        streams = []

        def edited(site: int, values: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
            streams.append(values)
            return edit(1 + number * structure.sites + site, values, memory)

        stream, own = structure.block(weights, stream, own, where, structure.eps, edited)
        return stream, (own, jnp.stack(streams))

    carried = {name: jnp.moveaxis(x, 1, 0) for name, x in state.items() if name != "position"}
    if parameters["layers"]:
        layers = jax.tree.leaves(parameters["layers"])[0].shape[0]
        numbered = (jnp.arange(layers, dtype=jnp.int32), parameters["layers"], carried)
        stream, (carried, streams) = lax.scan(layer, stream, numbered)
        if seen is not None and streams is not None:
            seen = jnp.concatenate([seen, streams.reshape(-1, *stream.shape)])
    after = {name: jnp.moveaxis(x, 0, 1) for name, x in carried.items()}
    # Only position 0 is special, and sequences may be longer than int32 counts.
    after["position"] = jnp.minimum(position, 1 << 30) + count
    return read_out(parameters, structure, stream, head), after, seen


def read_out(
    parameters: Parameters, structure: Structure, stream: jax.Array, head: jax.Array | None = None
) -> jax.Array:
    """The stream behind the last layer to outputs, or by a head (vocabulary, d) to logits."""
    gain = structure.gain_offset + parameters["final_norm"]
    normed = rms_norm(stream, gain, structure.eps)
    if head is None:
        return jnp.dot(normed, parameters["output_kernel"])
    return linear(normed, head)


def run_chunk(
    parameters: Parameters,
    structure: Structure,
    state: ResidualState,
    inputs: Sequence[jax.Array],
    count: jax.Array,
    head: jax.Array | None,
) -> tuple[jax.Array, ResidualState]:
    """As `forward`, from inputs (batch, time, ...) to outputs (batch, time, outputs)."""
    turned = tuple(jnp.moveaxis(x, 1, 0) for x in inputs)
    outputs, state, _ = forward(parameters, structure, state, turned, count, head)
    return jnp.moveaxis(outputs, 0, 1), state


def apply_step(
    parameters: Parameters, structure: Structure, state: ResidualState, inputs: Sequence[jax.Array]
) -> tuple[jax.Array, ResidualState]:
    """Run one token.

    Args:
      parameters: of `ResidualNetwork.parameters`.
      structure: of the network.
      state: of any batch shape.
      inputs: per program input, token ids (*batch_shape,), distributions over tokens (*batch_shape,
        symbols) or vectors (*batch_shape, width).

    Returns:
      (*batch_shape, outputs) and the new state.
    """
    batch_shape = state["position"].shape
    rank = len(batch_shape)
    # One sequence a row, for whatever batch shape.
    flat = {name: x.reshape(-1, *x.shape[rank:]) for name, x in state.items()}
    token = tuple(jnp.asarray(x) for x in inputs)
    token = tuple(x.reshape(1, -1, *x.shape[rank:]) for x in token)
    outputs, after, _ = forward(parameters, structure, flat, token, jnp.int32(1))
    return outputs.reshape(*batch_shape, outputs.shape[-1]), {
        name: x.reshape(*batch_shape, *x.shape[1:]) for name, x in after.items()
    }
