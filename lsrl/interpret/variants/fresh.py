"""Networks to train: ordinary initial weights, and a circuit with a group of units a channel."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from flax import nnx

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.circuit import Channel, Circuit
from lsrl.ir.numbers import Array
from lsrl.model import Model

# The greatest size of a unit's code: so small that tanh(c) is nearly c, since an intervention sets
# h and c of an LSTM to the same number.
AMPLITUDE = 0.5
CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}
RESIDUAL = ("mamba",)
# Of a Mamba block: inner channels for each of the stream, states of an inner channel, least rank
# of Δ, taps of the convolution, and the range of Δ at first (Gu and Dao 2023, section 3.6).
EXPAND, STATES, RANK, TAPS = 2, 4, 4, 4
LEAST_STEP, GREATEST_STEP = 1e-3, 1e-1


def grouped(circuit: Circuit, size: int) -> Circuit:
    """The circuit of a network with a group of units for each channel of another.

    Args:
      circuit: of the compiled network.
      size: units a channel. Each holds the code of the channel's value, of sizes up to AMPLITUDE: 0
        where a state starts, and in the middle of the range of what is no state.
    """
    counts = [0] * len(circuit.units)
    remembered = [0] * len(circuit.units)
    channels = []
    for channel, units in zip(circuit.channels, _places(circuit, size), strict=True):
        if not units:
            continue
        counts[channel.layer] = max(counts[channel.layer], units[-1] + 1)
        memory: tuple[int, ...] = ()
        if channel.memory and circuit.target in RESIDUAL:
            # The first state of an inner channel for each unit.
            first = remembered[channel.layer]
            memory = tuple(STATES * entry for entry in range(first, first + size))
            remembered[channel.layer] += size
        elif channel.memory:
            memory = units
        middle, slope = _code(circuit, channel)
        weights = (slope / size,) * size
        channels.append(
            Channel(
                channel.layer,
                channel.signal,
                channel.element,
                channel.role,
                units,
                weights,
                middle,
                memory,
                weights if memory else (),
                (1 / slope,) * size,
            )
        )
    if circuit.target in RESIDUAL:
        counts = [max(counts)] * len(counts)
    return replace(circuit, units=tuple(counts), channels=tuple(channels))


def _places(circuit: Circuit, size: int) -> list[tuple[int, ...]]:
    """By channel the units of its group.

    In a residual stream a group stays where it is from layer to layer, and what no layer ever uses
    has none.
    """
    if circuit.target in RESIDUAL:
        nothing = {s.name for s in circuit.signals if s.kind == "constant" and not any(s.high)}
        used = sorted({c.units[0] for c in circuit.channels if c.signal not in nothing})
        starts = {unit: size * number for number, unit in enumerate(used)}
        first = [starts.get(channel.units[0]) for channel in circuit.channels]
    else:
        counts = [0] * len(circuit.units)
        first = []
        for channel in circuit.channels:
            first.append(counts[channel.layer])
            counts[channel.layer] += size
    return [() if start is None else tuple(range(start, start + size)) for start in first]


def _code(circuit: Circuit, channel: Channel) -> tuple[float, float]:
    """The value whose code is 0, and what a value changes by with the code."""
    signal = circuit.by_name[channel.signal]
    low, high = signal.low[channel.element], signal.high[channel.element]
    if signal.kind == "constant":
        middle = 0.0
    elif channel.memory:
        # A cell starts with zeros, so these can't mean another value than the first.
        middle = channel.offset
    else:
        middle = (low + high) / 2
    return middle, max(high - middle, middle - low) / AMPLITUDE or 1.0


def fresh(model: Model, circuit: Circuit, seed: int) -> Any:
    """A network of a model's target with a circuit's units, and weights that nothing has trained.

    Those are of flax's cells, or of Mamba's reference class; maps are as flax's Embed and Linear
    have them.

    Args:
      model: whose inputs and outputs it has.
      circuit: of `grouped`.
      seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    make = _fresh_mamba if model.target in RESIDUAL else _fresh_cells
    return model.module.rebuilt(make(model, circuit, rng, seed))


def _fresh_cells(
    model: Model, circuit: Circuit, rng: np.random.Generator, seed: int
) -> dict[str, Array]:
    keys = nnx.Rngs(seed)
    arrays: dict[str, Array] = {}
    features = circuit.units[0]
    for name, array in model.module.arrays().items():
        if name.startswith("inputs."):
            spread = 1.0 if name.endswith("table") else 1 / np.sqrt(array.shape[0])
            arrays[name] = spread * rng.standard_normal((array.shape[0], features))
    for number, units in enumerate(circuit.units[1:]):
        cell = CELLS[model.target](features, units, rngs=keys)
        for side in ("dense_i", "dense_h"):
            dense = getattr(cell, side)
            arrays[f"cells.{number}.{side}.kernel"] = np.asarray(dense.kernel.get_value())
            if dense.bias is not None:
                arrays[f"cells.{number}.{side}.bias"] = np.asarray(dense.bias.get_value())
        features = units
    outputs = model.module.arrays()["output_bias"]
    arrays["output_kernel"] = rng.standard_normal((features, len(outputs))) / np.sqrt(features)
    arrays["output_bias"] = np.zeros_like(outputs)
    return arrays


def _fresh_mamba(
    model: Model, circuit: Circuit, rng: np.random.Generator, seed: int
) -> dict[str, Array]:
    """As `MambaPreTrainedModel._init_weights` of transformers has them."""
    network, width = cast(ResidualNetwork, model.module), circuit.units[0]
    inner, rank = EXPAND * width, max(RANK, math.ceil(width / 16))
    depth = len(circuit.units) - 1

    def uniform(*shape: int, fan: int) -> Array:
        return rng.uniform(-1, 1, shape) / np.sqrt(fan)

    arrays: dict[str, Array] = {}
    for name in network.input_names():
        entries = network.parameter_arrays()[name].shape[0]
        arrays[name] = rng.standard_normal((entries, width)) * 0.1
    for layer in range(depth):
        steps = np.exp(rng.uniform(np.log(LEAST_STEP), np.log(GREATEST_STEP), inner))
        own = {
            "norm.weight": np.ones(width),
            "mixer.in_proj.weight": uniform(2 * inner, width, fan=width),
            "mixer.conv1d.weight": uniform(inner, 1, TAPS, fan=TAPS),
            "mixer.conv1d.bias": uniform(inner, fan=TAPS),
            "mixer.x_proj.weight": uniform(rank + 2 * STATES, inner, fan=inner),
            "mixer.dt_proj.weight": uniform(inner, rank, fan=rank),
            # The inverse of softplus.
            "mixer.dt_proj.bias": steps + np.log(-np.expm1(-steps)),
            "mixer.A_log": np.log(np.tile(np.arange(1.0, STATES + 1), (inner, 1))),
            "mixer.D": np.ones(inner),
            "mixer.out_proj.weight": uniform(width, inner, fan=inner) / np.sqrt(depth),
        }
        for name, array in own.items():
            arrays[f"{network.layers_name}.{layer}.{name}"] = array
    outputs = model.program.num_outputs
    arrays["input_bias"] = np.zeros(width)
    arrays[network.final_norm_name] = np.ones(width)
    arrays["output_kernel"] = rng.standard_normal((width, outputs)) / np.sqrt(width)
    return arrays


def named(network: Any, parameters: Any) -> dict[str, Array]:
    """Parameters by flat name, of a pytree of them."""
    return {name: np.asarray(_leaf(network, parameters, name)) for name in _names(network)}


def _names(network: Any) -> Sequence[str]:
    return list(network.parameter_arrays())


def _leaf(network: Any, parameters: Any, name: str) -> Any:
    if isinstance(parameters.get("cells"), Sequence):
        parts = name.split(".")
        if parts[0] == "inputs":
            return parameters["inputs"][parts[1]]
        if parts[0] == "cells":
            return parameters["cells"][int(parts[1])][parts[2]][parts[3]]
        return parameters[name]
    if name in network.input_names():
        return parameters["inputs"][network.input_names()[name]]
    if name == network.final_norm_name:
        return parameters["final_norm"]
    if name.startswith(f"{network.layers_name}."):
        number, _, rest = name.removeprefix(f"{network.layers_name}.").partition(".")
        return parameters["layers"][rest][int(number)]
    return parameters[name]
