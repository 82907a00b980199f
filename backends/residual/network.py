"""What the networks of the residual targets share: all but the block of a layer.

A token's embedding enters a residual stream, every layer adds to the stream, and a final RMSNorm is
read by the program's outputs, and by the language model's head, which is made of them. The layers
have equal shapes, so their parameters are kept one upon the other and `lax.scan` runs the layers:
XLA then compiles one layer however many there are. All activations are float32, time first: (time,
batch, ...).
"""

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsrl.backends import buckets
from lsrl.backends.axes import Axes, Legend, Space, follows, makes, reads
from lsrl.backends.hooks import Layered, Put
from lsrl.backends.input_map import kinds_and_maps
from lsrl.backends.network import (
    Edit,
    Inputs,
    Memory,
    Network,
    Place,
    Step,
    parameter,
    precise,
    value_of,
)
from lsrl.backends.residual.blocks import DTYPE, LayerParameters, LayerState, Places
from lsrl.backends.residual.forward import (
    Parameters,
    ResidualState,
    Structure,
    apply_step,
    embed,
    forward,
    read_out,
    run_chunk,
)
from lsrl.backends.residual.hooks import ScanMemory, rescanned, run_layer, scan_memory
from lsrl.backends.residual.paths import Path, path_strengths
from lsrl.backends.residual.self_test import (
    OperationTest,
    check_norm,
    check_operations,
    norm_operations,
)
from lsrl.backends.strength import Sources, Strengths
from lsrl.circuit import Circuit
from lsrl.errors import ShapeError
from lsrl.ir.numbers import Array
from lsrl.parameters import Parameter
from lsrl.pytrees import Tree, named_leaves

# Tokens of all sequences at a time by default, and of each at least: activations of one layer are
# what grows with it. Larger ones are slower on a CPU, since they leave its caches.
CHUNK = 1 << 12
LEAST_CHUNK = 16
# Tokens in all that run in less time than it takes to compile another batch; see `buckets.rows`.
SMALL = 1 << 12
# Layers in which all is that reads one hook.
SPAN = 2
# By what logits are multiplied. Neighbours of the answer then have at most exp(-16) of its
# probability, and it has at least 0.9999996; by 8, the power of two below, it would have 0.9993.
# Larger ones would only make gradients smaller. A power of two changes exponents alone.
SHARPNESS = 16.0
# The number of a row of a head that is no symbol's: it scores as what lies ahead of all of them.
NO_SYMBOL = -1


class Cached(NamedTuple):
    """What a cache of the reference holds of a layer's state.

    Attributes:
      state: which part.
      older: whether one more token is kept, the oldest of the state a token ago.
      axes: of size 1 that the reference has besides, the batch's being 0.
    """

    state: str
    older: bool = False
    axes: tuple[int, ...] = ()


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


def token_head(
    output_kernel: Array, vocabulary: int, others: int = 0, constant: tuple[int, float] = (0, 1.0)
) -> Array:
    """What a language model's head reads off the final norm, so that the output scores highest.

    The logit of symbol k is 16 (2 k y - k^2) = 16 (y^2 - (k - y)^2) for an output y: greatest at
    k = y, by at least 16, and affine in y.

    Args:
      output_kernel: (d, 1).
      vocabulary: number of symbols.
      others: rows behind them that are no answers: each scores as a symbol of the number -1 would.
      constant: a channel of the normed stream, and what it is multiplied by to be 1; it carries
        the constant. As compiled, channel 0 is 1.

    Returns:
      (vocabulary + others, d), float64: the weights of lm_head before they are rounded to float32.

    Raises:
      ShapeError: the kernel has not one output.
    """
    if output_kernel.ndim != 2 or output_kernel.shape[1] != 1:
        raise ShapeError(
            f"token_head: expected a kernel with one output, (d, 1), got {output_kernel.shape}; "
            "only a program whose output is one number has logits"
        )
    numbers = np.append(np.arange(vocabulary, dtype=np.float64), [NO_SYMBOL] * others)
    head: Array = np.outer(2 * numbers, output_kernel[:, 0].astype(np.float64))
    head[:, constant[0]] -= constant[1] * numbers**2
    return SHARPNESS * head


_jitted_run = partial(jax.jit, static_argnums=1)(run_chunk)


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

    pure_step = staticmethod(cast(Step, apply_step))
    residual = True
    structure: Structure

    # The reference's names outside of its layers, and what it adds to the weight of a norm.
    embedding_name: ClassVar[str]
    layers_name: ClassVar[str]
    final_norm_name: ClassVar[str]
    gain_offset: ClassVar[float]
    sites: ClassVar[int]
    # By site, the parameters of a layer whose rows, along the first axis, add to the stream.
    writes: ClassVar[tuple[tuple[str, ...], ...]]
    # What of a layer's state a cache of the reference holds, by the names of `lsrl.golden`.
    cached: ClassVar[Mapping[str, Cached]]

    def __init__(self, weights: ResidualWeights) -> None:
        """Make a network.

        Args:
          weights: of the network; cast to float32.

        Raises:
          ShapeError: layers of different shapes, or parameters that don't fit together.
        """
        super().__init__()
        _check(weights)
        kinds, maps = kinds_and_maps(weights.tables, weights.kernels)
        self.structure = Structure(
            type(self).block,
            self.sites,
            self.gain_offset,
            tuple(kind and f"{kind}s" for kind in kinds),
            float(weights.embedding_scale),
            float(weights.eps),
        )
        self.input_maps = nnx.Dict({n: parameter(held, DTYPE) for n, held in maps.items()})
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
    def operations(self) -> tuple[OperationTest, ...]:
        """What exactness relies on in a layer, beside its norms."""

    @abstractmethod
    def inside(self, layer: int) -> Legend:
        """A layer's part of the legend: spaces by a name of their own, arrays by the layer's."""

    def as_reference(self) -> Self:
        """A network of the same numbers in shapes that the reference class can have: this one."""
        return self

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
        return self.map_names(self.structure.inputs)

    @classmethod
    def map_names(cls, kinds: Sequence[str]) -> dict[str, int]:
        """The same, of what each input has: "tables", "kernels" or nothing."""
        found, tokens = {}, 0
        for number, kind in enumerate(kinds):
            if kind:
                # The first table is the reference's embedding; the reference has no others.
                first = kind == "tables" and not tokens
                found[cls.embedding_name if first else f"{kind}.{number}"] = number
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

    def rebuilt(self, arrays: Mapping[str, Parameter]) -> Self:
        """A network with other arrays, of whatever shapes fit together; this one stays as it is."""
        maps = {number: arrays[name] for name, number in self.input_names().items()}
        tables, kernels = (
            tuple(maps[i] if own == kind else None for i, own in enumerate(self.structure.inputs))
            for kind in ("tables", "kernels")
        )
        return type(self)(
            ResidualWeights(
                tables,
                kernels,
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

    def named(self, parameters: Mapping[str, object]) -> dict[str, jax.Array]:
        """What a pytree like that of `parameters` holds, by flat name."""
        leaves, maps = named_leaves(parameters), self.input_names()
        found = {}
        for name, place in self.places().items():
            if place.entry is None:
                found[name] = leaves[f"inputs.{maps[name]}" if name in maps else place.attribute]
            else:
                found[name] = leaves[f"layers.{place.attribute}"][place.entry]
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

    # ------------------------------------------------------------ running

    def init_state(self, batch_shape: tuple[int, ...] = ()) -> dict[str, Array]:
        """The state before the first token.

        Returns:
          By name (*batch_shape, layers, ...), zeros; and "position" (*batch_shape,), the number of
          tokens so far.
        """
        # Of numpy: to hand each over to the device takes a good part of a short run's time.
        shapes = self.state_shapes() if self.depth else {}
        state: dict[str, Array] = {
            name: np.zeros((*batch_shape, self.depth, *shape), DTYPE)
            for name, shape in shapes.items()
        }
        return {**state, "position": np.zeros(batch_shape, np.int32)}

    def run_with_state(
        self,
        inputs: Inputs,
        chunk: int | None = None,
        state: Tree | None = None,
        head: Array | None = None,
    ) -> tuple[Array, Tree]:
        """Run as `run` does, to the state after the last token too; `head` is that of `logits`."""
        arrays = tuple(np.asarray(x) for x in inputs)
        batch, tokens = arrays[0].shape[:2]
        rows = buckets.rows(batch, tokens, SMALL)
        most = max(LEAST_CHUNK, CHUNK // max(rows, 1)) if chunk is None else chunk
        size = min(most, _rounded_up(tokens))
        held = self.init_state((rows,)) if state is None else buckets.with_rows(state, rows)
        outputs = []
        with precise(DTYPE):
            parameters = cast(Parameters, self.kept())
            for start in range(0, tokens, size):
                count = min(size, tokens - start)
                # The last chunk is filled up, so that it needs no compilation of its own.
                part = tuple(
                    buckets.filled(x[:, start : start + count], rows, size) for x in arrays
                )
                output, held = _jitted_run(
                    parameters, self.structure, held, part, np.int32(count), head
                )
                outputs.append(np.asarray(output)[:batch, :count])
        after = buckets.with_rows(held, batch)
        return (outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)), after

    @classmethod
    def pure_sequence(
        cls, parameters: Mapping[str, object], structure: Hashable, state: Tree, inputs: Inputs
    ) -> tuple[jax.Array, Tree]:
        """One chunk, whose every token counts."""
        held, known = cast(Parameters, parameters), cast(Structure, structure)
        start, count = cast(ResidualState, state), jnp.int32(inputs[0].shape[1])
        tokens = cast("Sequence[jax.Array]", inputs)
        return run_chunk(held, known, start, tokens, count, None)

    def logits(self, inputs: Inputs, vocabulary: int, chunk: int | None = None) -> Array:
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
        return self.run_with_state(inputs, chunk, None, head)[0]

    # ------------------------------------------------------------ for studies

    def span(self, layer: int, hooks: int) -> range:
        """The hooks of the layer and the next one, which is all that reads it.

        Layers read nothing but the stream before them, so two of them are enough however many there
        are; the first hook then is what they read.
        """
        if self.depth <= SPAN:
            return range(hooks)
        first = self.sites * min(max(layer - 1, 0) // self.sites, self.depth - SPAN)
        return range(first, first + SPAN * self.sites + 1)

    def within(
        self, span: range, parameters: Mapping[str, object], state: Tree, memory: Tree
    ) -> tuple[Mapping[str, object], Tree, Tree]:
        """Parameters, state and memory of the layers of a span."""
        stacked = cast(LayerParameters, parameters["layers"])
        whole = cast(ResidualState, state)
        own = slice(span.start // self.sites, (span.stop - 1) // self.sites)
        layers = {name: x[own] for name, x in stacked.items()}
        carried = {name: x if name == "position" else x[:, own] for name, x in whole.items()}
        places = tuple(x[span.start : span.stop] for x in cast(ScanMemory, memory))
        return {**parameters, "layers": layers}, carried, places

    def passed_on(self) -> dict[int, Array]:
        """The channels that a layer adds nothing to, whatever it reads."""
        found: dict[int, Array] = {}
        for site, names in enumerate(self.writes if self.depth else ()):
            added = [np.asarray(value_of(self.layers[name])) != 0 for name in names]
            rows = [array.reshape(*array.shape[:2], -1).any(axis=-1) for array in added]
            for layer, written in enumerate(np.any(rows, axis=0)):
                found[1 + layer * self.sites + site] = ~written
        return found

    def memory_of(self, circuit: Circuit) -> ScanMemory:
        """What the states of scans change by, with an entry of the stream."""
        shapes = self.state_shapes() if self.depth else {}
        scans = [int(np.prod(shape)) for name, shape in shapes.items() if name != "conv"]
        return scan_memory(circuit, sum(scans))

    def edited_step(
        self, parameters: Mapping[str, object], state: Tree, inputs: Inputs, put: Put, memory: Tree
    ) -> tuple[jax.Array, Tree, list[jax.Array]]:
        """Run one token with hooks that are set: the stream behind the embedding and each site."""
        entries, weights = map(jnp.asarray, cast(ScanMemory, memory))

        def edit(
            site: jax.Array | int, stream: jax.Array, scan: Memory
        ) -> tuple[jax.Array, Memory]:
            new = put(site, stream[0])
            return new[None], rescanned(scan, new - stream[0], entries[site], weights[site])

        outputs, after, seen = forward(
            cast(Parameters, parameters),
            self.structure,
            cast(ResidualState, state),
            tuple(jnp.asarray(x)[None] for x in inputs),
            jnp.int32(1),
            edit=edit,
        )
        return outputs[0], after, [] if seen is None else list(seen[:, 0])

    def cache_arrays(self, inputs: Inputs, token: int) -> dict[str, Array]:
        """What a cache of the reference holds after so many tokens, by the names of `lsrl.golden`.

        Args:
          inputs: per program input (batch, time, ...).
          token: how many tokens are read.
        """
        state: Mapping[str, jax.Array | Array] = self.init_state((inputs[0].shape[0],))
        before = state
        for start, stop in ((0, max(token - 1, 0)), (max(token - 1, 0), token)):
            before = state
            if start < stop:
                part = tuple(array[:, start:stop] for array in inputs)
                state = cast(ResidualState, self.run_with_state(part, state=state)[1])
        found: dict[str, Array] = {}
        for layer in range(self.depth):
            for name, (own, more, axes) in self.cached.items():
                array = np.asarray(state[own][:, layer])
                if more:
                    oldest = np.asarray(before[own][:, layer, ..., :1])
                    array = np.concatenate([oldest, array], axis=-1)
                array = np.expand_dims(array, axes)
                found[f"layers.{layer}.{name}"] = array
        return found

    def self_test(self) -> None:
        """Check rsqrt, the operations of a layer, the whole norm and products on this device."""
        check_operations((*norm_operations(self.structure.eps), *self.operations()))
        check_norm(self.width, self.structure.eps, CHUNK)

    def layered(self) -> Layered:
        """The embedding, each layer and the final norm with its outputs."""
        parameters = self.parameters()
        stacked = {name: np.asarray(values) for name, values in parameters["layers"].items()}
        shapes = self.state_shapes() if self.depth else {}
        return Layered(
            {name: x for name, x in parameters.items() if name != "layers"},
            [{name: x[layer] for name, x in stacked.items()} for layer in range(self.depth)],
            self.sites,
            self.structure,
            embed,
            read_out,
            (self.structure.block, self.structure.eps),
            run_layer,
            rescanned,
            lambda batch: {n: np.zeros((batch, *shape), DTYPE) for n, shape in shapes.items()},
        )


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
