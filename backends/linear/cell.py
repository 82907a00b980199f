"""The cell of both linear targets, literally: pure functions of the parameters.

h_t = x_t K + h_{t-1} R + bias; the outputs are units of h_t, or products of two, each with or
without a ReLU. Use these under jit, vmap and grad.

bfloat16 networks compute in float32 and round inputs, states and outputs to bfloat16.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends import network
from lsrl.backends.network import Edit, Inputs, Step
from lsrl.backends.pattern import Pattern
from lsrl.backends.scans import linear_scan
from lsrl.pytrees import HashedOnce

Parameters = dict[str, jax.Array]  # by flat name, as in `LinearNetwork.parameters`
Hidden = tuple[jax.Array, ...]  # per layer (..., hidden)


class Picked(NamedTuple):
    """A kernel that has at most one weight a column.

    Attributes:
      sources: (columns,) int32, the row of the weight.
      weights: (columns,), 0 where there is none.
    """

    sources: jax.Array
    weights: jax.Array


# As `LinearNetwork.prepared` has them: a kernel that is left out is all zeros.
Prepared = Mapping[str, jax.Array | Picked]


@dataclass(frozen=True, eq=False)
class LayerStructure(HashedOnce):
    """What is no parameter in a layer; see LayerWeights.

    Attributes:
      relu: (outputs,) bool.
      left: (outputs,) int32.
      right: (outputs,) int32.
    """

    relu: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, relu: np.ndarray, left: np.ndarray, right: np.ndarray) -> "LayerStructure":
        """Of arrays, which stay the caller's."""
        return cls(np.array(relu, bool), np.array(left, np.int32), np.array(right, np.int32))

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return tuple(array.tobytes() for array in (self.relu, self.left, self.right))


@dataclass(frozen=True, eq=False)
class NetworkStructure(HashedOnce):
    """What is no parameter in a network. Hashable, so jit can take it as a static argument.

    Attributes:
      dtype: of parameters, states and outputs.
      inputs: per program input "table", "kernel" or "" (not read).
      layers: first to last.
      patterns: of the kernels and tables that are sparse, by name.
    """

    dtype: str
    inputs: tuple[str, ...]
    layers: tuple[LayerStructure, ...]
    patterns: tuple[tuple[str, Pattern], ...] = ()

    @cached_property
    def pattern(self) -> dict[str, Pattern]:
        """Those of `patterns`."""
        return dict(self.patterns)

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of sums and products."""
        return jnp.dtype("float64" if self.dtype == "float64" else "float32")

    def rounded(self, values: jax.Array) -> jax.Array:
        """Round to `dtype`, but stay in `compute_dtype`."""
        if self.dtype != "bfloat16":
            return values
        # Not by two casts: XLA may take those for excess precision and drop them.
        return lax.reduce_precision(values, exponent_bits=8, mantissa_bits=7)


def initial_state(
    parameters: Parameters, structure: NetworkStructure, batch_shape: tuple[int, ...] = ()
) -> Hidden:
    """The state before the first token.

    Args:
      parameters: by flat name.
      structure: of the network.
      batch_shape: leading axes.

    Returns:
      Per layer (*batch_shape, hidden); without layers (*batch_shape, 0), to tell the batch.
    """
    if not structure.layers:
        return (jnp.zeros((*batch_shape, 0), structure.dtype),)
    starts = [parameters[f"layers.{i}.initial_state"] for i in range(len(structure.layers))]
    if not any(isinstance(start, jax.core.Tracer) for start in starts):
        # Without a compilation, which a broadcast of jax needs once a shape.
        wide = [np.broadcast_to(start, (*batch_shape, *start.shape)) for start in starts]
        return tuple(network.on_device(x, x.dtype) for x in wide)
    return tuple(jnp.broadcast_to(start, (*batch_shape, *start.shape)) for start in starts)


def apply_step(
    parameters: Prepared,
    structure: NetworkStructure,
    state: Hidden,
    inputs: Sequence[jax.Array],
    edit: Edit | None = None,
) -> tuple[jax.Array, Hidden]:
    """Run one token.

    Args:
      parameters: by flat name, of `parameters` or `prepared`.
      structure: of the network.
      state: per layer (..., hidden).
      inputs: per program input, token ids (...) or vectors (..., width).
      edit: of outputs (..., outputs) and hidden units (..., hidden) of each layer.

    Returns:
      (..., outputs) and the new state.
    """
    rounded = structure.rounded
    values = _features(parameters, structure, inputs, state[0].shape[:-1])
    if edit is not None:
        values, _ = edit(0, values, None)
    after = []
    for number, layer in enumerate(structure.layers):
        name = f"layers.{number}.recurrent_kernel"
        driven = _driven(parameters, structure, number, values)
        before = state[number].astype(structure.compute_dtype)
        hidden = rounded(_added(parameters, structure, driven, before, name))
        values = _read_outputs(hidden, layer, rounded)
        if edit is not None:
            values, hidden = edit(number + 1, values, hidden)
        after.append(hidden.astype(structure.dtype))
    return _read_out(parameters, structure, values), tuple(after) or state


def apply_sequence(
    parameters: Parameters, structure: NetworkStructure, inputs: Inputs, state: Hidden | None = None
) -> tuple[jax.Array, Hidden]:
    """Run whole sequences, all tokens at once, whatever the parameters are.

    bfloat16 networks round every state before the next, and sparse kernels would not stay sparse:
    those run token by token.

    Args:
      parameters: by flat name.
      structure: of the network.
      inputs: per program input, token ids (batch, time), distributions over tokens (batch, time,
        symbols) or vectors (batch, time, width).
      state: per layer (batch, hidden); the initial state if None.

    Returns:
      (batch, time, outputs) and the state after the last token.
    """
    inputs = tuple(jnp.asarray(signal) for signal in inputs)
    shape, compute = inputs[0].shape[:2], structure.compute_dtype
    start = state or initial_state(parameters, structure, shape[:1])
    sparse = any(name.endswith("recurrent_kernel") for name in structure.pattern)
    if sparse or structure.dtype == "bfloat16":
        step = cast(Step, apply_step)
        outputs, last = network.apply_sequence(step, parameters, structure, start, inputs)
        return outputs, cast(Hidden, last)
    values = _features(parameters, structure, inputs, shape)
    after = []
    for number, layer in enumerate(structure.layers):
        driven = _driven(parameters, structure, number, values)
        before = jnp.asarray(start[number]).astype(compute)
        hidden = _recurrence(parameters, number, driven, before)
        values = _read_outputs(hidden, layer, structure.rounded)
        after.append(hidden[:, -1].astype(structure.dtype))
    return _read_out(parameters, structure, values), tuple(after) or start


# ---------------------------------------------------------------- parts of both


def _vector(
    parameters: Prepared, structure: NetworkStructure, name: str, shape: tuple[int, ...]
) -> jax.Array:
    """A vector of channels at every place: (*shape, channels)."""
    held = cast(jax.Array, parameters[name]).astype(structure.compute_dtype)
    return jnp.broadcast_to(held, (*shape, *held.shape))


def _added(
    parameters: Prepared, structure: NetworkStructure, total: jax.Array, rows: jax.Array, name: str
) -> jax.Array:
    """What rows (..., in) times a kernel make, and a total (..., out)."""
    kernel, pattern = parameters.get(name), structure.pattern.get(name)
    compute = structure.compute_dtype
    if kernel is None or (pattern is not None and not len(pattern.columns)):
        return total
    if isinstance(kernel, Picked):
        read = rows.at[..., kernel.sources].get(mode="promise_in_bounds")
        return read * network.aligned(kernel.weights.astype(compute), read) + total
    if pattern is not None:
        return pattern.product(kernel.astype(compute), rows) + total
    return jnp.dot(rows, kernel.astype(compute), precision=lax.Precision.HIGHEST) + total


def _features(
    parameters: Prepared,
    structure: NetworkStructure,
    inputs: Inputs,
    shape: tuple[int, ...],
) -> jax.Array:
    """What the first layer reads, (*shape, features), of inputs (*shape, ...)."""
    values = _vector(parameters, structure, "input_bias", shape)
    for number, (kind, signal) in enumerate(zip(structure.inputs, inputs, strict=True)):
        name, given = f"inputs.{number}.{kind}", jnp.asarray(signal)
        if kind == "table" and not network.is_distribution(given):
            table = cast(jax.Array, parameters[name]).astype(structure.compute_dtype)
            pattern = structure.pattern.get(name)
            values = values + (table[given] if pattern is None else pattern.looked_up(table, given))
        elif kind:
            rows = structure.rounded(given.astype(structure.compute_dtype))
            values = _added(parameters, structure, values, rows, name)
    return structure.rounded(values)


def _driven(
    parameters: Prepared, structure: NetworkStructure, number: int, values: jax.Array
) -> jax.Array:
    """What drives the hidden units of a layer (..., hidden), but for themselves."""
    name = f"layers.{number}."
    bias = _vector(parameters, structure, name + "bias", values.shape[:-1])
    return _added(parameters, structure, bias, values, name + "input_kernel")


def _read_out(parameters: Prepared, structure: NetworkStructure, values: jax.Array) -> jax.Array:
    bias = _vector(parameters, structure, "output_bias", values.shape[:-1])
    total = _added(parameters, structure, bias, values, "output_kernel")
    return structure.rounded(total).astype(structure.dtype)


def _recurrence(
    parameters: Parameters,
    number: int,
    driven: jax.Array,
    before: jax.Array,
) -> jax.Array:
    """h_t = h_{t-1} R + driven_t of all tokens, (batch, time, hidden).

    Of a kernel that is known while jax traces, only the units that it connects are looked at.
    """
    kernel = parameters[f"layers.{number}.recurrent_kernel"]
    kernel = kernel.astype(driven.dtype)
    if isinstance(kernel, jax.core.Tracer):
        return linear_scan(driven, kernel, before)
    known = np.asarray(kernel)
    units = np.flatnonzero(known.any(axis=0) | known.any(axis=1))
    if not len(units):
        return driven
    own = known[np.ix_(units, units)]
    first = driven[:, 0].at[:, units].add(jnp.dot(before[:, units], own, precision="highest"))
    inner = jnp.concatenate([first[:, None, units], driven[:, 1:, units]], axis=1)
    if np.array_equal(own, np.eye(len(units))):
        return driven.at[..., units].set(jnp.cumsum(inner, axis=1))
    return driven.at[..., units].set(linear_scan(inner, own))


def multiplied(
    left: jax.Array, right: jax.Array, rounded: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """A product that is rounded before anything is added to it.

    XLA makes one operation of a product and a sum, on CPUs and on GPUs, which rounds once. It drops
    barriers, and roundings to the dtype at hand; that -0.0 becomes 0.0 nothing may drop.
    """
    product = rounded(left * right)
    return jnp.where(product == 0, 0.0, product)


def _read_outputs(
    hidden: jax.Array, layer: LayerStructure, rounded: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    left, right = np.asarray(layer.left, np.int32), np.asarray(layer.right, np.int32)
    values = hidden
    if not np.array_equal(left, np.arange(hidden.shape[-1])):
        values = hidden[..., left]
    if (right >= 0).any():
        product = jnp.broadcast_to(right >= 0, values.shape)
        values = jnp.where(product, multiplied(values, hidden[..., right], rounded), values)
    relu = jnp.broadcast_to(np.asarray(layer.relu, bool), values.shape)
    return jnp.where(relu, jnp.maximum(values, 0), values)
