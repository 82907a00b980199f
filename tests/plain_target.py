"""The simplest target: a dense recurrent layer a layer of the schedule, run token by token.

It stands for targets that others write: it relies on the contracts alone, `StackBackend` and
`Network`, and no module of lsrl knows it.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import nnx

from lsrl.backends.anatomy import channels_as_they_are
from lsrl.backends.axes import Axes, Legend, Space, follows, makes, reads
from lsrl.backends.base import StackBackend
from lsrl.backends.input_map import input_maps, map_sizes
from lsrl.backends.linear.certificate import LinearAnalysis, check_weights
from lsrl.backends.network import Network, Place, aligned, on_device, parameter
from lsrl.backends.pattern import Pattern
from lsrl.ir.ops import Affine, Constant, Input, LinearState, Lookup, Relu
from lsrl.parameters import Size
from lsrl.target import Capabilities


@dataclass(frozen=True)
class Structure:
    """What is no parameter: dtype, inputs that have a map, units that are ReLUs, weights of R."""

    dtype: str
    inputs: tuple[bool, ...]
    relu: tuple[tuple[bool, ...], ...]
    recurrent: tuple[Pattern, ...]


def step(parameters, structure, state, inputs, edit=None):
    """s = x I + s R + b, R sparse, and some units pass a ReLU; see `lsrl.backends.network.Step`."""
    values = jnp.zeros((*state[0].shape[:-1], parameters["features"].shape[0]), structure.dtype)
    for number, (read, signal) in enumerate(zip(structure.inputs, inputs, strict=True)):
        if read:
            table, signal = parameters[f"inputs.{number}"], jnp.asarray(signal)
            token = jnp.issubdtype(signal.dtype, jnp.integer)
            values = values + (table[signal] if token else jnp.dot(signal, table))
    if edit is not None:
        values, _ = edit(0, values, None)
    after = []
    for layer, (held, relu) in enumerate(zip(state, structure.relu, strict=True)):
        name = f"layers.{layer}"
        total = jnp.dot(values, parameters[f"{name}.input"])
        pattern = structure.recurrent[layer]
        total = total + pattern.product(parameters[f"{name}.recurrent"], held)
        held = total + aligned(parameters[f"{name}.bias"], total)
        values = jnp.where(aligned(np.array(relu, bool), held), jnp.maximum(held, 0), held)
        if edit is not None:
            values, held = edit(layer + 1, values, held)
        after.append(held)
    outputs = jnp.dot(values, parameters["output"])
    return outputs + aligned(parameters["output_bias"], outputs), tuple(after)


class PlainNetwork(Network):
    """All parameters by the names that the step reads them by."""

    pure_step = staticmethod(step)

    def __init__(self, dtype, inputs, relu, arrays):
        super().__init__()
        names = [f"layers.{layer}.recurrent" for layer in range(len(relu))]
        patterns = {name: Pattern(arrays[name]) for name in names}
        self.structure = Structure(dtype, inputs, relu, tuple(patterns.values()))
        values = {name: one.values(arrays[name], name) for name, one in patterns.items()}
        self.weights = nnx.Dict(
            {name: parameter(array, dtype) for name, array in {**arrays, **values}.items()}
        )

    def places(self):
        names = [f"layers.{layer}.recurrent" for layer in range(self.depth)]
        patterns = dict(zip(names, self.structure.recurrent, strict=True))
        return {name: Place(self.weights, name, None, patterns.get(name)) for name in self.weights}

    def init_state(self, batch_shape=()):
        starts = [self.parameter_arrays()[f"layers.{i}.start"] for i in range(self.depth)]
        return tuple(
            on_device(np.broadcast_to(start, (*batch_shape, len(start))), self.dtype)
            for start in starts
        )

    def hooks_in(self, state):
        return [
            np.where(relu, np.maximum(held, 0), held)
            for relu, held in zip(self.structure.relu, state, strict=True)
        ]

    def arrays(self):
        relus = {f"layers.{i}.relu": np.array(x, bool) for i, x in enumerate(self.structure.relu)}
        return self.parameter_arrays() | relus

    def rebuilt(self, arrays):
        relus = {name: array for name, array in arrays.items() if name.endswith(".relu")}
        relu = tuple(tuple(array.tolist()) for array in relus.values())
        weights = {name: array for name, array in arrays.items() if name not in relus}
        return PlainNetwork(self.dtype, self.structure.inputs, relu, weights)

    def legend(self):
        """A layer's output is its memory, behind ReLUs, so one space is both."""
        axes = {
            name: Axes("table", (reads(), makes("0"))) for name in self.weights if "inputs" in name
        }
        axes["features"] = Axes("bias", (makes("0"),))
        spaces = {"0": Space(self.weights["features"].shape[0], True, True, hooks=(0,))}
        for number, relu in enumerate(self.structure.relu):
            name, layer, here = f"layers.{number}.", number + 1, f"{number + 1}"
            flips = tuple(not each for each in relu)
            spaces[here] = Space(len(relu), flips, True, signals=True, hooks=(layer,), memory=layer)
            axes[f"{name}input"] = Axes("matrix", (reads(f"{number}"), makes(here)))
            axes[f"{name}recurrent"] = Axes("matrix", (reads(here), makes(here)))
            axes[f"{name}bias"] = Axes("bias", (makes(here),))
            axes[f"{name}start"] = Axes("initial", (makes(here),))
            axes[f"{name}relu"] = Axes("structure", (follows(here),))
        axes["output"] = Axes("matrix", (reads(f"{len(self.structure.relu)}"), makes()))
        axes["output_bias"] = Axes("bias", (makes(),))
        return Legend(spaces, axes)

    @property
    def depth(self):
        return len(self.structure.relu)

    @property
    def width(self):
        return max(len(relu) for relu in self.structure.relu)


class Plain(StackBackend):
    """What linear rows can hold, with a ReLU or nothing on each."""

    name = "plain"
    cell = "s = A s + B x + b, φ(s)"
    capabilities = Capabilities(frozenset({Input, Lookup, Constant, Affine, Relu, LinearState}))
    dtypes = ("float32", "float64")
    dtype_reason = "it adds up in its own dtype, and bfloat16 has few bits for that"

    def analysis(self, schedule, numerics):
        check_weights(schedule, numerics)
        return partial(LinearAnalysis, schedule, numerics)

    def hooks(self, schedule, numerics):
        return channels_as_they_are(schedule, "the layer's output; memory: before its ReLUs")

    def sizes(self, schedule, numerics):
        """Of recurrent weights those that are not zero."""
        maps = map_sizes(schedule).items()
        found = {".".join(name.split(".")[:2]): Size(size.shape) for name, size in maps}
        found["features"] = Size((schedule.feature_width,))
        for i, (layer, width) in enumerate(
            zip(schedule.layers, schedule.input_widths, strict=True)
        ):
            rows = [unit.slots[0].recurrent for unit in layer.units]
            weights = sum(int(np.count_nonzero(row.data)) for row in rows)
            found[f"layers.{i}.input"] = Size((width, layer.width))
            found[f"layers.{i}.recurrent"] = Size((layer.width, layer.width), weights)
            found[f"layers.{i}.bias"] = found[f"layers.{i}.start"] = Size((layer.width,))
        found["output"] = Size(schedule.output.inputs.shape[::-1])
        found["output_bias"] = Size(schedule.output.bias.shape)
        return found

    def lower(self, schedule, numerics):
        maps = input_maps(schedule)
        read = [t if t is not None else k for t, k in zip(*maps, strict=True)]
        arrays = {f"inputs.{i}": array for i, array in enumerate(read) if array is not None}
        arrays["features"] = np.zeros(schedule.feature_width)
        relus = []
        for i, (layer, width) in enumerate(
            zip(schedule.layers, schedule.input_widths, strict=True)
        ):
            rows = [unit.slots[0] for unit in layer.units]
            inputs = [sp.csr_array((0, width)), *(row.inputs for row in rows)]
            recurrent = [sp.csr_array((0, layer.width)), *(row.recurrent for row in rows)]
            arrays[f"layers.{i}.input"] = sp.vstack(inputs).toarray().T
            arrays[f"layers.{i}.recurrent"] = sp.vstack(recurrent).T
            arrays[f"layers.{i}.bias"] = np.concatenate([np.zeros(0), *(r.bias for r in rows)])
            arrays[f"layers.{i}.start"] = layer.initial
            relus.append(tuple(u.kind is Relu for u in layer.units for _ in range(u.width)))
        arrays["output"] = schedule.output.inputs.toarray().T
        arrays["output_bias"] = schedule.output.bias
        return PlainNetwork(
            numerics.dtype, tuple(array is not None for array in read), tuple(relus), arrays
        )
