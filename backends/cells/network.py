"""The network of the stock recurrent targets: flax's own cells, unmodified, one upon the other.

An input map makes the features of a token: rows of an embedding table, or a kernel for vectors.
Each layer is one `flax.nnx` cell, run by its own `__call__`; an affine map makes the output of the
last one. Whole sequences run as `lax.scan` over time, with all layers in the step or one by one.
Where a kernel has few nonzeros, `run` and `step` put its rows and diagonals in the place of the
cell's dense map, or its parts where they are faster (`kernels.py`). A large kernel of few weights
is a sparse parameter; then the cell is the same, and its two affine maps are sums of those weights.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsrl.backends.axes import Legend
from lsrl.backends.cells.forward import (
    FOR_ONE_CORE,
    FOR_WIDE_VECTORS,
    Carries,
    Cell,
    CellKind,
    Parameters,
    Structure,
    apply_step,
    compiled_run,
    run_chunk,
)
from lsrl.backends.cells.kernels import Kernel, sparse_kernel, split_kernel
from lsrl.backends.cells.self_test import check_activations
from lsrl.backends.cells.weights import GATES, UNTRAINED, cell_gates, cell_legend, fresh_cells
from lsrl.backends.input_map import InputMaps, kinds_and_maps, maps_in
from lsrl.backends.network import (
    Inputs,
    Network,
    Place,
    Step,
    on_device,
    parameter,
    precise,
    precision,
    value_of,
)
from lsrl.backends.pattern import Pattern, as_kept, kept_as
from lsrl.backends.strength import Gates
from lsrl.backends.units import GRU, LSTM, Layer, Stack, maps_of
from lsrl.backends.units import Cell as UnitCell
from lsrl.errors import ShapeError
from lsrl.ir.numbers import Array
from lsrl.parameters import SPARSENESS, Parameter, Sparseness, dense
from lsrl.pytrees import Tree, named_leaves

# A kernel is sparse if it is no more rows and diagonals than one for so many rows. Milliseconds for
# 1,000 tokens with all kernels dense / sparse from 8 / from 2 rows on a part (two cores):
#
#   program                  batch          rnn          lstm           gru
#   tok2tok(3, 10)               1  0.6/0.8/0.9   2.2/2.8/2.0   2.0/2.3/1.6
#   tok2tok(3, 10)              64    18/15/8      37/42/41      36/35/50
#   associative_recall(16, 16)   1  1.2/0.7/0.8   3.9/4.6/5.0   5.3/4.2/5.2
#   associative_recall(16, 16)  64    40/14/17    101/49/47     127/45/59
#   induction_head(64)           1  7.0/1.0/1.1    24/8.7/11     32/13/12
#   induction_head(64)          64   301/32/33    618/246/281   782/219/202
ROWS_OF_PART = 8
# The units of those cells that run by events. r lies between the two drives of a GRU's candidate.
UNITS: dict[CellKind, UnitCell] = {
    "relu": UnitCell(relu=True),
    "lstm": UnitCell(LSTM, False, (0, 1, 2, 3), (0, 1, 2, 3), memory=True),
    "gru": UnitCell(GRU, False, (0, 1, 2), (0, 1, 3)),
}


@dataclass(frozen=True)
class GateWeights:
    """The weights of all gates of a layer, side by side in the order of the cell.

    Attributes:
      inputs: (features in, gates * units), dense or sparse.
      recurrent: (units, gates * units), dense or sparse.
      bias: (gates * units,).
    """

    inputs: Parameter
    recurrent: Parameter
    bias: Array


@dataclass(frozen=True)
class CellWeights:
    """The weights of a network, in float64.

    Attributes:
      maps: the input map.
      layers: first to last.
      output_kernel: (units of the last layer, outputs), dense or sparse.
      output_bias: (outputs,).
    """

    maps: InputMaps
    layers: tuple[GateWeights, ...]
    output_kernel: Parameter
    output_bias: Array


# ---------------------------------------------------------------- flax's cells


def make_cell(kind: CellKind, features: int, units: int, dtype: str) -> Cell:
    """An unmodified flax cell whose biases are zero, and whose kernels are still to be put in."""

    def zeros(key: jax.Array, shape: tuple[int, ...], *_: object, **__: object) -> jax.Array:
        return on_device(np.zeros(shape), dtype)  # jnp.zeros would compile once a shape

    def nothing(key: jax.Array, shape: tuple[int, ...], *_: object, **__: object) -> jax.Array:
        return on_device(np.zeros(0), dtype)  # a kernel may be far larger than its weights

    classes: dict[CellKind, Callable[..., nnx.Module]] = {
        "lstm": nnx.OptimizedLSTMCell,
        "gru": nnx.GRUCell,
        "relu": partial(nnx.SimpleCell, activation_fn=nnx.relu),
        "tanh": partial(nnx.SimpleCell, activation_fn=nnx.tanh),
    }
    cell = classes[kind](
        features,
        units,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(dtype),
        kernel_init=nothing,
        recurrent_kernel_init=nothing,
        bias_init=zeros,
        rngs=nnx.Rngs(0),
    )
    return cast(Cell, cell)


def biased_side(kind: CellKind) -> str:
    """Where flax keeps the bias of a cell: on one side only."""
    return "dense_h" if kind == "lstm" else "dense_i"


def _check(kind: CellKind, weights: CellWeights) -> None:
    """Raise ShapeError unless the kernels of each cell fit: its class makes others of its sizes."""
    gates = len(GATES[kind])
    for number, layer in enumerate(weights.layers):
        units, read = layer.recurrent.shape[0], layer.inputs.shape[0]
        rows = gates * units
        wanted = {"inputs": (read, rows), "recurrent": (units, rows), "bias": (rows,)}
        for name, shape in wanted.items():
            if getattr(layer, name).shape != shape:
                got = getattr(layer, name).shape
                raise ShapeError(f"cell {number}, {name}: expected shape {shape}, got {got}")


# ---------------------------------------------------------------- the module


class CellNetwork(Network):
    """A stack of stock cells between an input map and an affine output map.

    Attributes:
      input_kernels: per program input that is read, by its number, its table or kernel.
      cells: flax's cells, first to last; a sparse kernel is there as its weights.
      output_kernel: (units of the last layer, outputs).
      output_bias: (outputs,).
    """

    pure_step = staticmethod(cast(Step, apply_step))
    memory_is_output = True
    structure: Structure

    def __init__(
        self,
        kind: CellKind,
        weights: CellWeights,
        dtype: str = "float32",
        sparseness: Sparseness | None = SPARSENESS,
    ) -> None:
        """Make a network.

        Args:
          kind: of the cells.
          weights: of the network.
          dtype: "float32", "float64" or "bfloat16", of parameters, states and outputs.
          sparseness: which kernels and tables are kept sparse; None: those that are given so.
        """
        super().__init__()
        _check(kind, weights)
        kinds, maps = kinds_and_maps(*weights.maps)
        patterns: dict[str, Pattern] = {}

        def made(name: str, matrix: Parameter) -> nnx.Param[jax.Array]:
            return parameter(kept_as(matrix, name, sparseness, patterns), dtype)

        with precision(dtype):
            self.input_kernels = nnx.Dict(
                {n: made(f"inputs.{n}.{kinds[int(n)]}", held) for n, held in maps.items()}
            )
            cells = []
            for number, layer in enumerate(weights.layers):
                features, units = layer.inputs.shape[0], layer.recurrent.shape[0]
                cells.append(make_cell(kind, features, units, dtype))
                for side, kernel in (("dense_i", layer.inputs), ("dense_h", layer.recurrent)):
                    held = made(f"cells.{number}.{side}.kernel", kernel)
                    getattr(cells[-1], side).kernel = held
                getattr(cells[-1], biased_side(kind)).bias = parameter(layer.bias, dtype)
            self.cells = nnx.List(cells)
            self.output_kernel = made("output_kernel", weights.output_kernel)
            self.output_bias = parameter(weights.output_bias, dtype)
            definitions = tuple(nnx.split(cell)[0] for cell in cells)
        self.structure = Structure(kind, dtype, kinds, definitions, tuple(patterns.items()))
        # Of each layer; to ask the cells takes as long as many a step.
        self._units = tuple(int(layer.recurrent.shape[0]) for layer in weights.layers)
        # Of a token, in the layer that has most of them.
        self._products = max((x.recurrent.size for x in weights.layers), default=0)

    # ------------------------------------------------------------ parameters

    def places(self) -> dict[str, Place]:
        """Every parameter by its flat name: input maps, the cells' by flax's names, output map."""
        found = {}
        for number, kind in enumerate(self.structure.inputs):
            if kind:
                found[f"inputs.{number}.{kind}"] = Place(self.input_kernels, f"{number}")
        for number, cell in enumerate(self.cells):
            for side in ("dense_i", "dense_h"):
                dense = getattr(cell, side)
                found[f"cells.{number}.{side}.kernel"] = Place(dense, "kernel")
                if dense.bias is not None:
                    found[f"cells.{number}.{side}.bias"] = Place(dense, "bias")
        found["output_kernel"] = Place(self, "output_kernel")
        found["output_bias"] = Place(self, "output_bias")
        for name, pattern in self.structure.patterns:
            found[name] = found[name]._replace(pattern=pattern)
        return found

    def rebuilt(self, arrays: Mapping[str, Parameter]) -> "CellNetwork":
        """A network with other arrays, of whatever shapes fit together; this one stays as it is.

        A csr stays sparse, and so does a dense array where this network has a sparse one.
        """
        arrays = as_kept(arrays, self.structure.pattern)
        maps = InputMaps(*maps_in(self.structure.inputs, arrays))
        side = biased_side(self.structure.kind)
        depth = len({name.split(".")[1] for name in arrays if name.startswith("cells.")})
        layers = tuple(
            GateWeights(
                arrays[f"cells.{number}.dense_i.kernel"],
                arrays[f"cells.{number}.dense_h.kernel"],
                arrays[f"cells.{number}.{side}.bias"],
            )
            for number in range(depth)
        )
        weights = CellWeights(maps, layers, arrays["output_kernel"], arrays["output_bias"])
        network = CellNetwork(self.structure.kind, weights, self.dtype, None)
        # It checks that each shape is what the cells' own would be.
        network.replace_parameters(
            {name: arrays[name] for name in network.parameter_arrays() if name in arrays}
        )
        return network

    def named(self, parameters: Mapping[str, object]) -> dict[str, jax.Array]:
        """What a pytree like that of `parameters` holds, by flat name."""
        leaves, maps = named_leaves(parameters), self.structure.inputs
        short = {f"inputs.{i}.{kind}": f"inputs.{i}" for i, kind in enumerate(maps)}
        return {name: leaves[short.get(name, name)] for name in self.places()}

    def legend(self) -> Legend:
        """Units of each cell, with its gates side by side."""
        shapes = {name: place.shape for name, place in self.places().items()}
        return cell_legend(self.structure.kind, shapes)

    def gates(
        self, arrays: Mapping[str, Array], layer: int, read: Array, held: Array
    ) -> Gates | None:
        """The sigmoids and the candidates of a cell."""
        return cell_gates(self.structure.kind, arrays, layer, read, held)

    def stack(self) -> Stack | None:
        """Its cells, where they are of a kind that runs by events."""
        kind, arrays = self.structure.kind, self.parameter_arrays()
        if kind not in UNITS:
            return None
        names = [f"cells.{number}." for number in range(len(self.cells))]
        side = biased_side(kind)
        layers = tuple(
            Layer(
                arrays[f"{name}dense_i.kernel"],
                arrays[f"{name}dense_h.kernel"],
                dense(arrays[f"{name}{side}.bias"]),
            )
            for name in names
        )
        last, bias = arrays["output_kernel"], dense(arrays["output_bias"])
        features = layers[0].inputs.shape[0] if layers else last.shape[0]
        maps = maps_of(self.structure.inputs, arrays)
        return Stack(UNITS[kind], maps, np.zeros(features), layers, last, bias)

    @property
    def sweeps(self) -> bool:
        """ReLUs alone can."""
        return self.structure.kind == "relu"

    @property
    def untrained_entries(self) -> int:
        """One a unit of a cell with gates."""
        return int(self.structure.kind in UNTRAINED)

    def untrained(self, units: Sequence[int], seed: int) -> "CellNetwork":
        """With the weights of flax's cells."""
        if self.structure.kind not in UNTRAINED:
            return super().untrained(units, seed)
        return self.rebuilt(fresh_cells(self.structure.kind, self.arrays(), units, seed))

    @property
    def width(self) -> int:
        """Hidden units of the widest layer."""
        return max(self._units)

    def parameters(self) -> Parameters:
        """The parameters as a pytree, as the pure functions take them."""
        return {
            "inputs": {name: value_of(kernel) for name, kernel in self.input_kernels.items()},
            "cells": tuple(
                {
                    side: {
                        name: value_of(held)
                        for name in ("kernel", "bias")
                        if (held := getattr(getattr(cell, side), name)) is not None
                    }
                    for side in ("dense_i", "dense_h")
                }
                for cell in self.cells
            ),
            "output_kernel": value_of(self.output_kernel),
            "output_bias": value_of(self.output_bias),
        }

    def prepared(self) -> Parameters:
        """As `parameters`, and kernels as they multiply: "products", by layer and side."""
        parameters = self.parameters()
        found: dict[str, dict[str, Kernel]] = {}
        for number, own in enumerate(parameters["cells"]):
            for side in ("dense_i", "dense_h"):
                kernel = own[side]["kernel"]
                if f"cells.{number}.{side}.kernel" in self.structure.pattern:
                    continue
                if isinstance(kernel, jax.core.Tracer):
                    continue  # no one knows its zeros
                sparse = sparse_kernel(np.asarray(kernel), len(kernel) // ROWS_OF_PART)
                product = sparse or split_kernel(kernel)
                if product is not None:
                    found.setdefault(f"{number}", {})[side] = product
        return {**parameters, "products": found}

    # ------------------------------------------------------------ running

    def init_state(self, batch_shape: tuple[int, ...] = ()) -> Carries:
        """The state before the first token: zeros, as flax's `initialize_carry` makes them."""
        # Of numpy: jnp.zeros is a call to the device a layer, longer than a short run takes.
        dtype = jnp.dtype(self.dtype)
        starts = [np.zeros((*batch_shape, units), dtype) for units in self._units]
        return tuple((h, h) if self.structure.kind == "lstm" else h for h in starts)

    def hooks_in(self, state: Tree) -> list[Array]:
        """The h of each layer; the carry of an LSTM is (c, h)."""
        return [
            np.asarray(carry[-1] if isinstance(carry, tuple) else carry)
            for carry in cast(Carries, state)
        ]

    def remembered(
        self, memory: Tree, before: jax.Array, after: jax.Array, places: object = None
    ) -> Tree:
        """The carry behind an edit of h."""
        if not isinstance(memory, tuple):
            return after
        # tanh is linear where a cell's c is kept, so c is what h is. The difference is 0 where it
        # is added, but it has a derivative.
        cell, _ = cast(tuple[jax.Array, jax.Array], memory)
        return jnp.where(after == before, cell + (after - before), after), after

    def run_chunk(
        self,
        parameters: Mapping[str, object],
        state: Tree,
        inputs: Inputs,
        count: np.integer | jax.Array,
    ) -> tuple[jax.Array, Carries]:
        """Some tokens of `prepared` parameters, all layers in the step or layer by layer."""
        batch = len(inputs[0])
        run = compiled_run(batch * self._products <= FOR_ONE_CORE, batch >= FOR_WIDE_VECTORS)
        return run(parameters, self.structure, state, inputs, count)

    @classmethod
    def pure_sequence(
        cls, parameters: Mapping[str, object], structure: Hashable, state: Tree, inputs: Inputs
    ) -> tuple[jax.Array, Tree]:
        """All layers in the step or layer by layer."""
        held, known = cast(Parameters, parameters), cast(Structure, structure)
        tokens = cast("Sequence[jax.Array]", inputs)
        return run_chunk(held, known, cast(Carries, state), tokens, None)

    def self_test(self) -> None:
        """Check the activation thresholds and the sums that exactness relies on, on this device."""
        with precise(self.dtype):
            check_activations(self.structure.kind, self.dtype)
        super().self_test()
