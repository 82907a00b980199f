"""The network of both linear targets: a flax module, with its weights.

The cell is in `lsrl.backends.linear.cell`; how whole sequences run fast, in
`lsrl.backends.linear.tiles`.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from scipy.sparse.csgraph import connected_components

from lsrl.backends.axes import Axes, Legend, Space, follows, makes, reads
from lsrl.backends.input_map import kinds_and_maps, maps_in
from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import (
    Hidden,
    LayerStructure,
    NetworkStructure,
    Parameters,
    Picked,
    Prepared,
    apply_sequence,
    apply_step,
    initial_state,
)
from lsrl.backends.linear.tiles import PlanCache, run_tiles
from lsrl.backends.network import (
    Inputs,
    Network,
    Place,
    Step,
    on_device,
    parameters,
    precision,
    value_of,
)
from lsrl.backends.pattern import Pattern, as_kept, kept_as
from lsrl.backends.reader import ParameterReader
from lsrl.backends.units import Cell, Layer, Stack, maps_of
from lsrl.errors import SelfTestError, ShapeError
from lsrl.parameters import SPARSENESS, Parameter, Sparseness, dense, entries, thinned
from lsrl.pytrees import Tree

# Of a kernel of fewer rows a product takes no longer than to pick.
FEW_ROWS = 64


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer, in float64.

    Attributes:
      input_kernel: (features in, hidden), dense or sparse.
      recurrent_kernel: (hidden, hidden), entry [source, target], dense or sparse.
      bias: (hidden,).
      initial_state: (hidden,), the state before the first token.
      relu: (outputs,) bool, whether the output passes a ReLU.
      left: (outputs,) int, the unit that the output reads.
      right: (outputs,) int, the unit that multiplies it, or -1.
    """

    input_kernel: Parameter
    recurrent_kernel: Parameter
    bias: np.ndarray
    initial_state: np.ndarray
    relu: np.ndarray
    left: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class NetworkWeights:
    """The weights of a network.

    Attributes:
      tables: per program input, (vocabulary, features) of a token input, or None.
      kernels: per program input, (width, features) of a vector input, or None. An input that has
        neither is not read.
      input_bias: (features,).
      layers: first to last.
      output_kernel: (outputs of the last layer, outputs).
      output_bias: (outputs,).
    """

    tables: tuple[Parameter | None, ...]
    kernels: tuple[Parameter | None, ...]
    input_bias: np.ndarray
    layers: tuple[LayerWeights, ...]
    output_kernel: Parameter
    output_bias: np.ndarray


class LinearLayer(nnx.Module):
    """The parameters of one layer, as `LayerWeights` has them; of a sparse one the weights."""

    def __init__(self, made: Mapping[str, nnx.Param[jax.Array]], name: str) -> None:
        """Of parameters by flat name; those of the layer begin with the name."""
        self.input_kernel = made[f"{name}input_kernel"]
        self.recurrent_kernel = made[f"{name}recurrent_kernel"]
        self.bias = made[f"{name}bias"]
        self.initial_state = made[f"{name}initial_state"]


class LinearNetwork(Network):
    """A stack of linear recurrent layers with ReLU and product outputs.

    Kernels and tables are dense or sparse; see `Sparseness`.

    Attributes:
      input_kernels: per program input that is read, by its number, its table or kernel.
      input_bias: (features,).
      layers: the layers, first to last.
      output_kernel: (outputs of the last layer, outputs).
      output_bias: (outputs,).
      structure: what is no parameter.
    """

    pure_step = staticmethod(cast(Step, apply_step))
    structure: NetworkStructure
    sparse_whole = True

    def __init__(
        self,
        weights: NetworkWeights,
        dtype: str = "float32",
        sparseness: Sparseness | None = SPARSENESS,
    ) -> None:
        """Make a network.

        Args:
          weights: of the network.
          dtype: "float32", "float64" or "bfloat16", of parameters, states and outputs.
          sparseness: which kernels and tables are kept sparse; None: those that are given so.

        Raises:
          ShapeError: the shapes of the weights don't fit together.
        """
        super().__init__()
        _check(weights)
        kinds, maps = kinds_and_maps(weights.tables, weights.kernels)
        patterns: dict[str, Pattern] = {}

        arrays = {f"inputs.{n}.{kinds[int(n)]}": held for n, held in maps.items()}
        for number, layer in enumerate(weights.layers):
            arrays[f"layers.{number}.input_kernel"] = layer.input_kernel
            arrays[f"layers.{number}.recurrent_kernel"] = layer.recurrent_kernel
        arrays["output_kernel"] = weights.output_kernel
        arrays = {
            name: kept_as(array, name, sparseness, patterns) for name, array in arrays.items()
        }
        for number, layer in enumerate(weights.layers):
            arrays[f"layers.{number}.bias"] = layer.bias
            arrays[f"layers.{number}.initial_state"] = layer.initial_state
        arrays |= {"input_bias": weights.input_bias, "output_bias": weights.output_bias}
        made = parameters(arrays, dtype)
        self.input_kernels = nnx.Dict({n: made[f"inputs.{n}.{kinds[int(n)]}"] for n in maps})
        self.input_bias = made["input_bias"]
        self.layers = nnx.List(
            [LinearLayer(made, f"layers.{number}.") for number in range(len(weights.layers))]
        )
        self.output_kernel, self.output_bias = made["output_kernel"], made["output_bias"]
        layers = tuple(
            LayerStructure.of(layer.relu, layer.left, layer.right) for layer in weights.layers
        )
        self.structure = NetworkStructure(dtype, kinds, layers, tuple(patterns.items()))
        self._plans = PlanCache()
        self._whole: ParameterReader[Mapping[str, object]] = ParameterReader()

    # ---------------------------------------------------------------- parameters

    def places(self) -> dict[str, Place]:
        """Every parameter by its flat name: input maps, layers, output map."""
        found = {}
        for number, kind in enumerate(self.structure.inputs):
            if kind:
                found[f"inputs.{number}.{kind}"] = Place(self.input_kernels, f"{number}")
        found["input_bias"] = Place(self, "input_bias")
        for number, layer in enumerate(self.layers):
            for name in ("input_kernel", "recurrent_kernel", "bias", "initial_state"):
                found[f"layers.{number}.{name}"] = Place(layer, name)
        found["output_kernel"] = Place(self, "output_kernel")
        found["output_bias"] = Place(self, "output_bias")
        for name, pattern in self.structure.patterns:
            found[name] = found[name]._replace(pattern=pattern)
        return found

    def parameters(self) -> Parameters:
        """The parameters by flat name."""
        return cast(Parameters, super().parameters())

    def prepared(self) -> Prepared:
        """As `parameters`, with less to multiply: to the same bit.

        Few layers of a deep network have a state that goes on; kernels without a weight, of which
        recurrent ones are the greater part of a step, are left out. A large kernel that has at most
        one weight a column only picks what it reads.
        """
        found: dict[str, jax.Array | Picked] = {}
        for name, array in self.parameters().items():
            found[name] = array
            if name.endswith("_kernel") and not isinstance(array, jax.core.Tracer):
                weights, pattern = np.asarray(array), self.structure.pattern.get(name)
                if not weights.any():
                    del found[name]
                elif pattern is not None:
                    if pattern.picks:
                        found[name] = self._picked(pattern, weights)
                elif len(weights) >= FEW_ROWS and (np.count_nonzero(weights, axis=0) <= 1).all():
                    sources = on_device(np.argmax(weights != 0, axis=0), "int32")
                    found[name] = Picked(sources, on_device(weights.sum(axis=0), self.dtype))
        return found

    def _picked(self, pattern: Pattern, weights: np.ndarray) -> Picked:
        """A sparse kernel that has at most one weight a column."""
        sources = np.zeros(pattern.shape[1], np.int32)
        factors = np.zeros(pattern.shape[1], weights.dtype)
        sources[pattern.columns], factors[pattern.columns] = pattern.rows, weights
        return Picked(on_device(sources, "int32"), on_device(factors, self.dtype))

    def arrays(self) -> dict[str, Parameter]:
        """All that `rebuilt` needs: the parameters, and what the outputs of each layer read."""
        found = self.parameter_arrays()
        for number, layer in enumerate(self.structure.layers):
            for name, dtype in (("relu", bool), ("left", np.int64), ("right", np.int64)):
                found[f"layers.{number}.{name}"] = np.array(getattr(layer, name), dtype)
        return found

    def rebuilt(self, arrays: Mapping[str, Parameter]) -> "LinearNetwork":
        """A network with other arrays, of whatever shapes fit together; this one stays as it is.

        A csr stays sparse, and so does a dense array where this network has a sparse one.
        """
        arrays = as_kept(arrays, self.structure.pattern)
        depth = len({name.split(".")[1] for name in arrays if name.startswith("layers.")})
        weights = NetworkWeights(
            *maps_in(self.structure.inputs, arrays),
            arrays["input_bias"],
            tuple(
                LayerWeights(
                    **{f.name: arrays[f"layers.{i}.{f.name}"] for f in fields(LayerWeights)}
                )
                for i in range(depth)
            ),
            arrays["output_kernel"],
            arrays["output_bias"],
        )
        return LinearNetwork(weights, self.dtype, None)

    def legend(self) -> Legend:
        """Hidden units and the outputs that show them; units that read each other are tied.

        A ring that is scaled alike stays one, and runs as one.
        """
        arrays = self.arrays()
        spaces = {"features": Space(arrays["input_bias"].shape[0], True, True, hooks=(0,))}
        found = {
            f"inputs.{number}.{kind}": Axes(
                "table" if kind == "table" else "matrix", (reads(), makes("features"))
            )
            for number, kind in enumerate(self.structure.inputs)
            if kind
        }
        found["input_bias"], before = Axes("bias", (makes("features"),)), "features"
        for number in range(len(self.layers)):
            name, hidden, outputs = f"layers.{number}.", f"hidden {number}", f"outputs {number}"
            relu, left, right = (entries(arrays[name + x]) for x in ("relu", "left", "right"))
            recurrent = thinned(arrays[name + "recurrent_kernel"].astype(np.float64))
            flips = np.ones(recurrent.shape[0], bool)
            flips[left[relu]] = False
            _, tied = connected_components(recurrent, directed=False)
            layer = number + 1
            spaces[hidden] = Space(len(flips), tuple(flips.tolist()), True, tied, memory=layer)
            shown = (hidden, left, right)
            spaces[outputs] = Space(len(left), shows=shown, signals=True, hooks=(layer,))
            found |= {
                name + "input_kernel": Axes("matrix", (reads(before), makes(hidden))),
                name + "recurrent_kernel": Axes("matrix", (reads(hidden), makes(hidden))),
                name + "bias": Axes("bias", (makes(hidden),)),
                name + "initial_state": Axes("initial", (makes(hidden),)),
                name + "relu": Axes("structure", (follows(outputs),)),
                name + "left": Axes("structure", (follows(outputs),), points=hidden),
                name + "right": Axes("structure", (follows(outputs),), points=hidden),
            }
            before = outputs
        found["output_kernel"] = Axes("matrix", (reads(before), makes()))
        found["output_bias"] = Axes("bias", (makes(),))
        return Legend(spaces, found)

    @property
    def sweeps(self) -> bool:
        """They can: all are linear, ReLUs or products."""
        return True

    def stack(self) -> Stack:
        """Its layers, with what their outputs read."""
        arrays, structure = self.parameter_arrays(), self.structure
        layers = []
        for number, layer in enumerate(structure.layers):
            own = [arrays[f"layers.{number}.{name}"]
                   for name in ("input_kernel", "recurrent_kernel", "bias")]  # fmt: skip
            shown = (
                np.array(layer.relu, bool),
                np.array(layer.left, int),
                np.array(layer.right, int),
            )
            layers.append(Layer(own[0], own[1], dense(own[2]), shown))
        maps = maps_of(structure.inputs, arrays)
        bias, last = dense(arrays["input_bias"]), dense(arrays["output_bias"])
        return Stack(Cell(), maps, bias, tuple(layers), arrays["output_kernel"], last)

    @property
    def width(self) -> int:
        """Hidden units of the widest layer."""
        return max((value_of(layer.bias).shape[0] for layer in self.layers), default=0)

    # ---------------------------------------------------------------- running

    def init_state(self, batch_shape: tuple[int, ...] = ()) -> Hidden:
        """The state before the first token, per layer (*batch_shape, hidden)."""
        with precision(self.structure.dtype):
            return initial_state(self.parameters(), self.structure, batch_shape)

    def hooks_in(self, state: Tree) -> list[np.ndarray]:
        """The outputs of each layer, from its hidden units."""
        found = []
        for layer, hidden in zip(self.structure.layers, cast(Hidden, state), strict=True):
            units = np.asarray(hidden, np.float64)
            left, right = np.array(layer.left, int), np.array(layer.right, int)
            values = units[..., left]
            values = np.where(right >= 0, values * units[..., right], values)
            found.append(np.where(np.array(layer.relu, bool), np.maximum(values, 0), values))
        return found

    def mode(self) -> AbstractContextManager[object]:
        """Its products ask for every bit by themselves."""
        return precision(self.structure.dtype)

    def run(
        self, inputs: Inputs, chunk: int | None = None, state: Tree | None = None
    ) -> np.ndarray | jax.Array:
        """Run whole sequences, parallel over time; by default as many tokens as run fast at a time.

        Under a jax transformation it runs as `apply` does and gives a jax array.
        """
        return self._run(inputs, chunk, state, with_state=False)[0]

    def run_with_state(
        self, inputs: Inputs, chunk: int | None = None, state: Tree | None = None
    ) -> tuple[np.ndarray | jax.Array, Hidden]:
        """Run whole sequences as `run` does, and return the state after the last token too."""
        return self._run(inputs, chunk, state, with_state=True)

    def _run(
        self, inputs: Inputs, chunk: int | None, given: Tree | None, with_state: bool
    ) -> tuple[np.ndarray | jax.Array, Hidden]:
        structure, state = self.structure, cast("Hidden | None", given)
        with precision(structure.dtype):
            parameters = cast(Parameters, self._whole.read(self, self.parameters))
            known = parameters is self._plans.parameters
            leaves = [*inputs, *(state or ()), *(() if known else parameters.values())]
            if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                return apply_sequence(parameters, structure, inputs, state)
            uniform = state is None and np.shape(inputs[0])[0] > 1
            prepared = self._plans.find(parameters, structure, uniform)
            outputs, after = run_tiles(prepared, inputs, state, chunk, with_state)
            if with_state and not structure.layers:
                return outputs, initial_state(parameters, structure, outputs.shape[:1])
            return outputs, tuple(jnp.asarray(values, structure.dtype) for values in after)

    @classmethod
    def pure_sequence(
        cls, parameters: Mapping[str, object], structure: Hashable, state: Tree, inputs: Inputs
    ) -> tuple[jax.Array, Tree]:
        """All tokens at once."""
        known = cast(NetworkStructure, structure)
        return apply_sequence(cast(Parameters, parameters), known, inputs, cast(Hidden, state))

    def first_state(self, parameters: Mapping[str, object], batch_shape: tuple[int, ...]) -> Hidden:
        """Each layer's own, which is a parameter."""
        return initial_state(cast(Parameters, parameters), self.structure, batch_shape)

    def run_hooks(self, inputs: Inputs, units: Sequence[Sequence[int]]) -> np.ndarray:
        """Entries of hooks of whole sequences, which run in parallel over time."""
        structure, watched = self.structure, tuple(tuple(map(int, some)) for some in units)
        while watched and not watched[-1]:
            watched = watched[:-1]
        if not watched:
            return np.zeros((*np.shape(inputs[0])[:2], 0))
        with precision(structure.dtype):
            parameters = cast(Parameters, self._whole.read(self, self.parameters))
            uniform = np.shape(inputs[0])[0] > 1
            prepared = self._plans.find(parameters, structure, uniform, watched)
            return run_tiles(prepared, inputs, None, None, False, np.float64)[0]

    def self_test(self) -> None:
        """Check that no products or sums lose bits (as under TF32), and that rounding is done."""
        with precision(self.structure.dtype):
            _check_arithmetic(self.structure)


@jax.jit
def _sum_both_ways(inputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The last of a cumulative sum: in segments, as a matrix product, and token by token."""
    segments = inputs.reshape(len(inputs), 10, -1).transpose(2, 1, 0)[None]
    zeros = jnp.zeros((1, 1, len(inputs)), inputs.dtype)
    ones = jnp.ones((inputs.shape[-1], 1), inputs.dtype)
    in_order, _ = lax.scan(lambda s, u: (s + u, None), jnp.zeros_like(inputs[:, 0]), inputs.T)
    return (
        recurrence.ring_sum(segments, zeros, 1, inputs[0, 0] >= 0)[0, -1, -1],
        jnp.dot(inputs, ones, precision=lax.Precision.HIGHEST)[:, 0],
        in_order,
    )


def _check_arithmetic(structure: NetworkStructure) -> None:
    bits = 53 if structure.dtype == "float64" else 24
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 2 ** (bits - 10), (8, 1000)).astype(structure.compute_dtype)
    expected = inputs.astype(np.int64).sum(axis=1)
    names = ("sums in segments", "matrix products", "sums in order")
    for name, got in zip(names, _sum_both_ways(inputs), strict=True):
        if not np.array_equal(np.asarray(got).astype(np.int64), expected):
            raise SelfTestError(
                f"{name} of integers below 2^{bits} differ on {jax.devices()[0]}: expected "
                f"{expected[0]} …, got {np.asarray(got)[0]} …; is a faster, coarser mode of matrix "
                "products switched on?"
            )
    if structure.dtype == "bfloat16":
        rounded = np.asarray(jax.jit(structure.rounded)(jnp.array([257.0, 259.0], jnp.float32)))
        if rounded.tolist() != [256.0, 260.0]:
            raise SelfTestError(f"rounding 257 and 259 to bfloat16 gives {rounded.tolist()}")


def _check(weights: NetworkWeights) -> None:
    """Raise ShapeError unless all shapes fit together."""

    def expect(name: str, values: Parameter, shape: tuple[int, ...]) -> None:
        if values.shape != shape:
            raise ShapeError(f"{name}: expected shape {shape}, got {values.shape}")

    features = weights.input_bias.shape[0]
    maps = (m for m in (*weights.tables, *weights.kernels) if m is not None)
    for number, values in enumerate(maps):
        expect(f"input map {number}", values, (values.shape[0], features))
    for number, layer in enumerate(weights.layers):
        hidden, outputs = layer.bias.shape[0], layer.left.shape[0]
        expect(f"layer {number}, input_kernel", layer.input_kernel, (features, hidden))
        expect(f"layer {number}, recurrent_kernel", layer.recurrent_kernel, (hidden, hidden))
        expect(f"layer {number}, initial_state", layer.initial_state, (hidden,))
        expect(f"layer {number}, relu", layer.relu, (outputs,))
        expect(f"layer {number}, right", layer.right, (outputs,))
        for name, units, least in (("left", layer.left, 0), ("right", layer.right, -1)):
            if outputs and (units.min() < least or units.max() >= hidden):
                raise ShapeError(f"layer {number}, {name}: units are 0 to {hidden - 1}")
        features = outputs
    expect("output_kernel", weights.output_kernel, (features, weights.output_bias.shape[0]))
