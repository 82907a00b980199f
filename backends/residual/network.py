"""What the networks of the residual targets share: all but the block of a layer.

A token's embedding enters a residual stream, every layer adds to the stream, and a final RMSNorm is
read by the program's outputs, and by the language model's head, which is made of them. The layers
have equal shapes, so their parameters are kept one upon the other and `lax.scan` runs the layers:
XLA then compiles one layer however many there are. Within a layer whole sequences pass at once,
except for the recurrence itself, h = decay * h + increment, which is a `lax.scan` over time: token
by token, so every rounding is the same as in step mode and in the reference classes. On a CPU it is
the fastest way too: compiled by itself the loop takes 0.05 ms for 1000 tokens of 32 channels, and
`lax.associative_scan` 0.14 ms; at a batch of 64 and 256 channels it is 170 ms against 340 ms.

All activations are float32, time first: (time, batch, ...).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lsrl.backends.axes import Axes, Legend, Space, follows, makes, reads
from lsrl.backends.network import (
    Edit,
    Network,
    Place,
    aligned,
    check_products,
    on_device,
    parameter,
    precise,
    value_of,
)
from lsrl.backends.residual.paths import Path, path_strengths
from lsrl.backends.strength import Sources, Strengths
from lsrl.errors import SelfTestError, ShapeError
from lsrl.ir.numbers import Array

LayerParameters: TypeAlias = dict[str, jax.Array]  # by the reference's names inside a layer
LayerState: TypeAlias = dict[str, jax.Array]  # (batch, ...)
State: TypeAlias = dict[str, jax.Array]  # (*batch_shape, layers, ...), "position" (*batch_shape,)
Parameters: TypeAlias = dict[str, Any]  # of `ResidualNetwork.parameters`

# Tokens of all sequences at a time by default, and of each at least: activations of one layer are
# what grows with it. Larger ones are slower on a CPU, since they leave its caches.
CHUNK = 1 << 12
LEAST_CHUNK = 16
DTYPE = "float32"


@dataclass(frozen=True, eq=False)
class ResidualWeights:
    """The weights of a network.

    Attributes:
      tables: per program input, (symbols, d) of a token input, or None.
      kernels: per program input, (input width, d) of a vector input, or None. An input that has
        neither is not read.
      input_bias: (d,), added to the embedding; zeros when a table carries the constant channel.
      blocks: first to last, a layer's parameters by the names and in the shapes of the reference
        class; all layers have the same.
      final_norm: (d,), the weight of the last norm, as the reference stores it.
      output_kernel: (d, outputs), the program's outputs, read off the final norm's output.
      embedding_scale: what the reference multiplies embeddings by, so what tables, kernels and
        input_bias were divided by.
      eps: of all norms.
    """

    tables: tuple[Array | None, ...]
    kernels: tuple[Array | None, ...]
    input_bias: Array
    blocks: tuple[dict[str, Array], ...]
    final_norm: Array
    output_kernel: Array
    embedding_scale: float
    eps: float


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
Block: TypeAlias = Callable[
    [LayerParameters, jax.Array, LayerState, Places, float, Edit | None],
    tuple[jax.Array, LayerState],
]


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
    """

    block: Block
    sites: int
    gain_offset: float
    inputs: tuple[str, ...]
    embedding_scale: float
    eps: float


def token_head(output_kernel: Array, vocabulary: int) -> Array:
    """What a language model's head reads off the final norm, so that the output scores highest.

    The logit of symbol k is 2 k y - k^2 = y^2 - (k - y)^2 for an output y: greatest at k = y, by at
    least 1, and affine in y. Channel 0 of the normed stream is 1, and carries the constant.

    Args:
      output_kernel: (d, 1).
      vocabulary: number of symbols.

    Returns:
      (vocabulary, d), float64: the weights of lm_head before they are rounded to float32.

    Raises:
      ShapeError: the kernel has not one output.
    """
    if output_kernel.ndim != 2 or output_kernel.shape[1] != 1:
        raise ShapeError(
            f"token_head: expected a kernel with one output, (d, 1), got {output_kernel.shape}; "
            "only a program whose output is one number has logits"
        )
    symbols = np.arange(vocabulary, dtype=np.float64)
    head: Array = np.outer(2 * symbols, output_kernel[:, 0].astype(np.float64))
    head[:, 0] -= symbols**2
    return head


# ---------------------------------------------------------------- parts of blocks


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
    values: jax.Array, weight: jax.Array, bias: jax.Array, tail: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Convolve each channel over time.

    Args:
      values: (time, batch, channels).
      weight: (channels, 1, taps), the last tap of the token itself.
      bias: (channels,).
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
    return total + aligned(bias, total), jnp.moveaxis(rest, 0, -1)


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


# ---------------------------------------------------------------- pure functions


def embed(
    parameters: Parameters, structure: Structure, inputs: Sequence[jax.Array], like: jax.Array
) -> jax.Array:
    """Inputs (time, batch, ...) to the stream (time, batch, d); `like` is (time, batch)."""
    bias = parameters["input_bias"]
    stream = jnp.broadcast_to(bias, (*like.shape, bias.shape[0]))
    for kind, signal, values in zip(structure.inputs, inputs, parameters["inputs"], strict=True):
        if kind == "tables":
            stream = stream + values[signal]
        elif kind == "kernels":
            stream = stream + jnp.einsum("...i,io->...o", signal, values)
    return stream * structure.embedding_scale


def _forward(
    parameters: Parameters,
    structure: Structure,
    state: State,
    inputs: Sequence[jax.Array],
    count: jax.Array,
    head: jax.Array | None = None,
    edit: Edit | None = None,
) -> tuple[jax.Array, State, jax.Array | None]:
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
    stream = embed(parameters, structure, inputs, places)
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

        def edited(site: int, values: jax.Array, memory: Any) -> tuple[jax.Array, Any]:
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
    parameters: Parameters,
    structure: Structure,
    stream: jax.Array,
    head: jax.Array | None = None,
) -> jax.Array:
    """The stream behind the last layer to outputs, or by a head (vocabulary, d) to logits."""
    gain = structure.gain_offset + parameters["final_norm"]
    normed = rms_norm(stream, gain, structure.eps)
    if head is None:
        return jnp.dot(normed, parameters["output_kernel"])
    return linear(normed, head)


def _run_chunk(
    parameters: Parameters,
    structure: Structure,
    state: State,
    inputs: Sequence[jax.Array],
    count: jax.Array,
    head: jax.Array | None,
) -> tuple[jax.Array, State]:
    """As `_forward`, from inputs (batch, time, ...) to outputs (batch, time, outputs)."""
    turned = tuple(jnp.moveaxis(x, 1, 0) for x in inputs)
    outputs, state, _ = _forward(parameters, structure, state, turned, count, head)
    return jnp.moveaxis(outputs, 0, 1), state


def apply_step(
    parameters: Parameters, structure: Structure, state: State, inputs: Sequence[jax.Array]
) -> tuple[jax.Array, State]:
    """Run one token.

    Args:
      parameters: of `ResidualNetwork.parameters`.
      structure: of the network.
      state: of any batch shape.
      inputs: per program input, token ids (*batch_shape,) or vectors (*batch_shape, width).

    Returns:
      (*batch_shape, outputs) and the new state.
    """
    batch_shape = state["position"].shape
    rank = len(batch_shape)
    # One sequence a row, for whatever batch shape.
    flat = {name: x.reshape(-1, *x.shape[rank:]) for name, x in state.items()}
    token = tuple(jnp.asarray(x) for x in inputs)
    token = tuple(x.reshape(1, -1, *x.shape[rank:]) for x in token)
    outputs, after, _ = _forward(parameters, structure, flat, token, jnp.int32(1))
    return outputs.reshape(*batch_shape, outputs.shape[-1]), {
        name: x.reshape(*batch_shape, *x.shape[1:]) for name, x in after.items()
    }


def edited_step(
    parameters: Parameters,
    structure: Structure,
    state: State,
    inputs: Sequence[jax.Array],
    edit: Edit,
) -> tuple[jax.Array, State, jax.Array]:
    """Run one token with an edit.

    Args:
      parameters: of `ResidualNetwork.parameters`.
      structure: of the network.
      state: of batch shape (batch,).
      inputs: per program input, token ids (batch,) or vectors (batch, width).
      edit: of the stream (1, batch, d) behind the embedding (0) and each site, and of the state of
        the site's scan (batch, ...); the site's number is traced.

    Returns:
      (batch, outputs), the new state, and the streams before their edits, (1 + sites, batch, d).
    """
    token = tuple(jnp.asarray(x)[None] for x in inputs)
    outputs, after, seen = _forward(parameters, structure, state, token, jnp.int32(1), edit=edit)
    return outputs[0], after, jnp.zeros((0,)) if seen is None else seen[:, 0]


_jitted_run = partial(jax.jit, static_argnums=1)(_run_chunk)


# ---------------------------------------------------------------- the module


class ResidualNetwork(Network):
    """Blocks of a reference class on a residual stream, between an input map and an output map.

    One parameter here is one of the reference class, of all layers at once; `parameter_arrays`
    names them one a layer, as the reference class does. Inputs after the first are "tables.1" or
    "kernels.1"; a first one of vectors, "kernels.0".

    Attributes:
      input_maps: per program input that is read, by its number, its table or kernel.
      input_bias: (d,).
      layers: by the reference's names inside a layer, (layers, ...).
      final_norm: (d,).
      output_kernel: (d, outputs).
      structure: what is no parameter.
    """

    pure_step = staticmethod(apply_step)
    structure: Structure

    # The reference's names outside of its layers, and what it adds to the weight of a norm.
    embedding_name: ClassVar[str]
    layers_name: ClassVar[str]
    final_norm_name: ClassVar[str]
    gain_offset: ClassVar[float]
    sites: ClassVar[int]
    # By site, the parameters of a layer whose rows, along the first axis, add to the stream.
    writes: ClassVar[tuple[tuple[str, ...], ...]]

    def __init__(self, weights: ResidualWeights) -> None:
        """Make a network.

        Args:
          weights: of the network; cast to float32.

        Raises:
          ShapeError: layers of different shapes, or parameters that don't fit together.
        """
        super().__init__()
        _check(weights)
        maps = list(zip(weights.tables, weights.kernels, strict=True))
        self.structure = Structure(
            type(self).block,
            self.sites,
            self.gain_offset,
            tuple(
                "tables" if t is not None else "kernels" if k is not None else "" for t, k in maps
            ),
            float(weights.embedding_scale),
            float(weights.eps),
        )
        self.input_maps = nnx.Dict(
            {
                f"{number}": parameter(table if table is not None else kernel, DTYPE)
                for number, (table, kernel) in enumerate(maps)
                if table is not None or kernel is not None
            }
        )
        self.input_bias = parameter(weights.input_bias, DTYPE)
        self.layers = nnx.Dict(
            {
                name: parameter(np.stack([block[name] for block in weights.blocks]), DTYPE)
                for name in (weights.blocks[0] if weights.blocks else ())
            }
        )
        self.depth = len(weights.blocks)
        self.final_norm = parameter(weights.final_norm, DTYPE)
        self.output_kernel = parameter(weights.output_kernel, DTYPE)

    # ------------------------------------------------------------ what a subclass says

    @staticmethod
    @abstractmethod
    def block(
        weights: LayerParameters,
        stream: jax.Array,
        state: LayerState,
        places: Places,
        eps: float,
        edit: Edit | None,
    ) -> tuple[jax.Array, LayerState]:
        """Run one layer.

        Args:
          weights: of the layer.
          stream: (time, batch, d).
          state: of the layer, (batch, ...).
          places: where in their sequences the tokens are.
          eps: of the norms.
          edit: of the stream and the state of the scan, a site at a time.

        Returns:
          The stream after the layer, and its state after `places.tokens` tokens.
        """

    @abstractmethod
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's state, for one sequence."""

    @abstractmethod
    def inside(self, layer: int) -> Legend:
        """A layer's part of the legend: spaces by a name of their own, arrays by the layer's."""

    # ------------------------------------------------------------ parameters

    def places(self) -> dict[str, Place]:
        """Every parameter by the name of the reference class, where it has it."""
        found = {
            name: Place(self.input_maps, f"{number}") for name, number in self.input_names().items()
        }
        found["input_bias"] = Place(self, "input_bias")
        for layer in range(self.depth):
            for name in self.layers:
                found[f"{self.layers_name}.{layer}.{name}"] = Place(self.layers, name, layer)
        found[self.final_norm_name] = Place(self, "final_norm")
        found["output_kernel"] = Place(self, "output_kernel")
        return found

    def input_names(self) -> dict[str, int]:
        """Names of the inputs' tables and kernels, with the number of the input."""
        found, tokens = {}, 0
        for number, kind in enumerate(self.structure.inputs):
            if kind:
                # The first table is the reference's embedding; the reference has no others.
                first = kind == "tables" and not tokens
                found[self.embedding_name if first else f"{kind}.{number}"] = number
                tokens += kind == "tables"
        return found

    def by_layer(self, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
        """What arrays by the names of `parameter_arrays` hold of each layer, by its own names."""
        prefix = f"{self.layers_name}."
        blocks: dict[int, dict[str, Array]] = {}
        for name, array in arrays.items():
            if name.startswith(prefix):
                number, _, rest = name.removeprefix(prefix).partition(".")
                blocks.setdefault(int(number), {})[rest] = array
        return [blocks[number] for number in range(len(blocks))]

    def rebuilt(self, arrays: Mapping[str, Any]) -> "ResidualNetwork":
        """A network with other arrays, of whatever shapes fit together; this one stays as it is.

        Args:
          arrays: by the names of `parameter_arrays`.

        Raises:
          ShapeError: the shapes don't fit together.
          KeyError: an array is missing.
        """
        names = {places: name for name, places in self.input_names().items()}
        kinds = self.structure.inputs
        maps = {
            kind: tuple(
                arrays[names[number]] if own == kind else None for number, own in enumerate(kinds)
            )
            for kind in ("tables", "kernels")
        }
        return type(self)(
            ResidualWeights(
                maps["tables"],
                maps["kernels"],
                arrays["input_bias"],
                tuple(self.by_layer(arrays)),
                arrays[self.final_norm_name],
                arrays["output_kernel"],
                self.structure.embedding_scale,
                self.structure.eps,
            )
        )

    def parameters(self) -> Parameters:
        """The parameters as a pytree, as the pure functions take them."""
        return {
            "inputs": tuple(
                value_of(self.input_maps[f"{number}"]) if kind else None
                for number, kind in enumerate(self.structure.inputs)
            ),
            "input_bias": value_of(self.input_bias),
            "layers": {name: value_of(parameter) for name, parameter in self.layers.items()},
            "final_norm": value_of(self.final_norm),
            "output_kernel": value_of(self.output_kernel),
        }

    def named(self, parameters: Parameters) -> dict[str, Any]:
        """What a pytree like that of `parameters` holds, by flat name."""
        maps = self.input_names()
        found = {name: parameters["inputs"][number] for name, number in maps.items()}
        for name, place in self.places().items():
            if name not in maps:
                held = parameters if place.entry is None else parameters["layers"]
                held = held[place.attribute]
                found[name] = held if place.entry is None else held[place.entry]
        return found

    def legend(self) -> Legend:
        """The stream, and what lies inside of the layers."""
        hooks = tuple(range(1 + self.sites * self.depth))
        spaces = {"stream": Space(self.width, flips=True, hooks=hooks, stream=True)}
        found = {
            name: Axes(
                "table" if self.structure.inputs[number] == "tables" else "matrix",
                (reads(), makes("stream")),
            )
            for name, number in self.input_names().items()
        }
        found["input_bias"] = Axes("bias", (makes("stream"),))
        for layer in range(self.depth):
            own, arrays = self.inside(layer)
            spaces |= own
            found |= {f"{self.layers_name}.{layer}.{name}": axes for name, axes in arrays.items()}
        found[self.final_norm_name] = Axes("gain", (follows("stream"),))
        found["output_kernel"] = Axes("matrix", (reads("stream"), makes()))
        return Legend(spaces, found)

    @abstractmethod
    def path(self, own: Mapping[str, Array], site: int, below: Sources) -> Path:
        """What goes through a site of a layer.

        Args:
          own: the layer's parameters, in float64.
          site: of the layer.
          below: what the stream holds there.
        """

    def strengths(self, layers: Sequence[Sources]) -> Strengths:
        """Of the paths through all sites."""
        arrays = {name: a.astype(np.float64) for name, a in self.parameter_arrays().items()}
        blocks = self.by_layer(arrays)
        gain = self.gain_offset + arrays[self.final_norm_name]
        return path_strengths(
            lambda site, below: self.path(blocks[site // self.sites], site % self.sites, below),
            layers,
            gain[:, None] * arrays["output_kernel"],
        )

    @property
    def width(self) -> int:
        """Channels of the residual stream, d."""
        return int(value_of(self.final_norm).shape[0])

    @property
    def dtype(self) -> str:
        """The dtype of parameters, states and outputs."""
        return DTYPE

    # ------------------------------------------------------------ running

    def init_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The state before the first token.

        Returns:
          By name (*batch_shape, layers, ...), zeros; and "position" (*batch_shape,), the number of
          tokens so far.
        """
        shapes = self.state_shapes() if self.depth else {}
        state = {
            name: on_device(np.zeros((*batch_shape, self.depth, *shape)), DTYPE)
            for name, shape in shapes.items()
        }
        return {**state, "position": on_device(np.zeros(batch_shape), "int32")}

    def run_with_state(
        self, inputs: Sequence[Any], chunk: int | None = None, state: State | None = None
    ) -> tuple[Array, State]:
        """Run whole sequences as `run` does, and return the state after the last token too."""
        return self._run(inputs, chunk, state)

    def logits(self, inputs: Sequence[Any], vocabulary: int, chunk: int | None = None) -> Array:
        """The scores of every symbol as the next token, as the reference class gives them.

        Before the soft cap, where the reference has one: a checkpoint's cap is so high that it
        changes no logit, but XLA's own tanh, in a large fusion, might.

        Args:
          inputs: per program input, ids (batch, time) or vectors (batch, time, width).
          vocabulary: number of symbols.
          chunk: most tokens of a sequence at a time.

        Returns:
          (batch, time, vocabulary), numpy, float32; see `token_head`.

        Raises:
          ShapeError: the program has several outputs.
        """
        head = token_head(np.asarray(value_of(self.output_kernel)), vocabulary).astype(DTYPE)
        return self._run(inputs, chunk, None, head)[0]

    def _run(
        self,
        inputs: Sequence[Any],
        chunk: int | None,
        state: State | None,
        head: Array | None = None,
    ) -> tuple[Array, State]:
        arrays = tuple(np.asarray(x) for x in inputs)
        batch, tokens = arrays[0].shape[:2]
        most = max(LEAST_CHUNK, CHUNK // max(batch, 1)) if chunk is None else chunk
        size = min(most, _rounded_up(tokens))
        state = self.init_state((batch,)) if state is None else state
        outputs = []
        with precise(DTYPE):
            parameters = self.parameters()
            for start in range(0, tokens, size):
                part = tuple(x[:, start : start + size] for x in arrays)
                count = part[0].shape[1]
                # The last chunk is filled up, so that it needs no compilation of its own.
                part = tuple(
                    np.pad(x, ((0, 0), (0, size - count)) + ((0, 0),) * (x.ndim - 2)) for x in part
                )
                output, state = _jitted_run(
                    parameters, self.structure, state, part, jnp.int32(count), head
                )
                outputs.append(np.asarray(output)[:, :count])
        return (outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)), state


def _rounded_up(tokens: int) -> int:
    """A length at least as long, of few, so that few are compiled: four an octave from 16 on."""
    grain = max(16, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // grain) * grain


def _check(weights: ResidualWeights) -> None:
    """Raise ShapeError unless the layers are alike and the maps fit the stream."""
    width = weights.final_norm.shape[0]
    maps = {
        "input_bias": weights.input_bias,
        "output_kernel": weights.output_kernel.T,
        **{f"tables.{number}": table for number, table in enumerate(weights.tables)},
        **{f"kernels.{number}": kernel for number, kernel in enumerate(weights.kernels)},
    }
    for name, values in maps.items():
        if values is not None and values.shape[-1] != width:
            raise ShapeError(f"{name}: expected {width} channels, got {values.shape[-1]}")
    for number, block in enumerate(weights.blocks):
        expected = {name: values.shape for name, values in weights.blocks[0].items()}
        shapes = {name: values.shape for name, values in block.items()}
        if shapes != expected:
            raise ShapeError(f"layer {number}: expected the shapes {expected}, got {shapes}")


# ---------------------------------------------------------------- the device at hand


class OperationTest(NamedTuple):
    """One operation with the values that it must give.

    Attributes:
      name: of the operation, and what is expected of it.
      function: of one array; run under jit.
      inputs: one axis.
      expected: likewise.
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    inputs: Array
    expected: Array


def sizes_from(least: float) -> Array:
    """Positive float32 numbers from `least` to nearly the largest: dense at first, then sparse."""
    return np.concatenate(
        [
            np.linspace(least, 4 * least, 4097),
            np.exp2(np.arange(8 * np.log2(4 * least), 8 * 126) / 8),
        ]
    ).astype(DTYPE)


def norm_operations(eps: float) -> tuple[OperationTest, ...]:
    """Tests of rsqrt at powers of four, of which the mean square is one."""
    exponents = np.arange(-62, 63)
    powers = np.ldexp(np.ones(len(exponents), DTYPE), exponents)
    return (
        OperationTest("rsqrt(4^n) == 2^-n", lax.rsqrt, powers * powers, 1 / powers),
        OperationTest(
            "rsqrt(2^80 + eps) == 2^-40",
            lambda x: lax.rsqrt(x + eps),
            np.full(33, 2.0**80, DTYPE),
            np.full(33, 2.0**-40, DTYPE),
        ),
    )


def check_operations(tests: Sequence[OperationTest], advice: str = "") -> None:
    """Run operations under jit: on one long array, singly, and fused with a norm and a product.

    XLA compiles these unlike: on a CPU, a large norm, the matrix product that reads it and what
    follows are handed to a library as a whole, and that one has another tanh, for one.

    Raises:
      SelfTestError: an operation gives another value.
    """
    identity = np.eye(16, dtype=DTYPE)
    with precise(DTYPE):
        for test in tests:
            function = jax.jit(test.function)
            ends = [test.inputs[:1], test.inputs[len(test.inputs) // 2 :][:1], test.inputs[-1:]]
            large = np.resize(test.inputs, (4096, 16))
            # Times zero, the largest numbers still are zero.
            behind = jax.jit(partial(_behind_product, test.function))
            for got, inputs, expected in (
                (function(test.inputs), test.inputs, test.expected),
                (
                    np.concatenate([function(x) for x in ends]),
                    np.concatenate(ends),
                    [test.expected[i] for i in (0, len(test.inputs) // 2, -1)],
                ),
                (behind(large, identity), large, np.resize(test.expected, large.shape)),
            ):
                wrong = np.asarray(got) != np.asarray(expected)
                if wrong.any():
                    at, wanted, found = (np.asarray(x)[wrong][0] for x in (inputs, expected, got))
                    raise SelfTestError(
                        f"{test.name} fails in {DTYPE} on {jax.devices()[0]}: at {float(at)!r} "
                        f"expected {float(wanted)!r}, got {float(found)!r}{advice}"
                    )


def _behind_product(
    function: Callable[[jax.Array], jax.Array], values: jax.Array, kernel: jax.Array
) -> jax.Array:
    # Of ones, so the norm changes nothing.
    ones = jnp.broadcast_to(kernel.sum(axis=0), values.shape)
    scale = lax.rsqrt(jnp.mean((values * 0 + ones) ** 2, axis=-1, keepdims=True))
    return function(jnp.dot(values * scale, kernel))


def check_norm(width: int, eps: float) -> None:
    """Check that the norm scales a stream with a constant channel exactly, and matrix products.

    Raises:
      SelfTestError: they round.
    """
    with precise(DTYPE):
        check_products(DTYPE)
        # The constant channels hold 2^40 times these; their squares add up to the width.
        digits = [n for n in range(13) for _ in range(width // 4**n % 4)]
        size = 2.0**40
        # As many rows as a chunk has, since XLA compiles few of them in another way.
        values = np.zeros((CHUNK, 1, width), DTYPE)
        rng = np.random.default_rng(0)
        values[..., len(digits) :] = rng.integers(-(2**24), 2**24, values.shape)[..., len(digits) :]
        values[..., : len(digits)] = size * 2.0 ** np.array(digits)
        gain = np.full(width, size, DTYPE)
        gain[: len(digits)] = 2.0 ** -np.array(digits, float)
        expected = values.copy()
        expected[..., : len(digits)] = 1
        got = np.asarray(jax.jit(rms_norm, static_argnums=2)(values, gain, eps))
    if not np.array_equal(got, expected):
        raise SelfTestError(
            f"the RMSNorm over {width} channels is no exact scaling on {jax.devices()[0]}: "
            f"expected {expected[got != expected][0]!r}, got {got[got != expected][0]!r}"
        )
