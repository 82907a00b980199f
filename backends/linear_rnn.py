"""Target `linear_rnn`: h_t = A h_{t-1} + B x_t + b, y = φ(h), φ identity or ReLU per channel."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from lsrl.backends.anatomy import Hooks, channels_as_they_are
from lsrl.backends.base import Exporter, StackBackend, capabilities_of
from lsrl.backends.input_map import input_maps, map_sizes
from lsrl.backends.linear import torch_export
from lsrl.backends.linear.certificate import LinearAnalysis, check_weights
from lsrl.backends.linear.network import LayerWeights, LinearNetwork, NetworkWeights
from lsrl.certificate import Analyse
from lsrl.errors import LsrlError
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, LinearState, Op, Product, Relu
from lsrl.numerics import Numerics
from lsrl.parameters import Size, thinned
from lsrl.schedule import Layer, Rows, Schedule
from lsrl.target import Capabilities

# What can make a channel: a hidden unit, with or without a ReLU.
LINEAR: frozenset[type[Op]] = frozenset({Affine, LinearState, Relu})


class LinearRnn(StackBackend):
    """A stack of linear recurrences with a ReLU or nothing on each channel."""

    name: ClassVar[str] = "linear_rnn"
    cell: ClassVar[str] = "s = A s + B x + b, y = φ(s), φ identity or ReLU per channel"
    capabilities: ClassVar[Capabilities] = capabilities_of(LINEAR)

    def analysis(self, schedule: Schedule, numerics: Numerics) -> Analyse[LinearAnalysis]:
        """The certificate's conditions, over the rows as they are."""
        check_weights(schedule, numerics)
        return partial(LinearAnalysis, schedule, numerics)

    def hooks(self, schedule: Schedule, numerics: Numerics) -> Hooks:
        """Outputs are the channels; the hidden units of right factors come after them."""
        return channels_as_they_are(
            schedule,
            "the layer's output after ReLUs and products; memory: the layer's hidden units",
        )

    def exporters(self) -> Mapping[str, Exporter]:
        """Modules of torch with layers of their own."""
        return {"torch": torch_export.write}

    def sizes(self, schedule: Schedule, numerics: Numerics) -> dict[str, Size]:
        """A hidden unit a channel, and one more for each product; of sparse kernels the weights."""
        found = map_sizes(schedule)
        found["input_bias"] = Size((schedule.feature_width,))
        before = schedule.feature_width
        for number, layer in enumerate(schedule.layers):
            slots = _slots(layer)
            hidden = sum(len(slot.bias) for slot in slots)
            name = f"layers.{number}."
            for key, read, side in (
                ("input_kernel", before, [slot.inputs for slot in slots]),
                ("recurrent_kernel", hidden, [slot.recurrent for slot in slots]),
            ):
                weights = sum(int(np.count_nonzero(rows.data)) for rows in side)
                found[name + key] = Size.of((read, hidden), weights)
            found[f"{name}bias"] = found[f"{name}initial_state"] = Size((hidden,))
            before = layer.width
        inputs, bias = schedule.output.inputs, schedule.output.bias
        weights = int(np.count_nonzero(inputs.data))
        found["output_kernel"] = Size.of((before, len(bias)), weights)
        found["output_bias"] = Size((len(bias),))
        return found

    def lower(self, schedule: Schedule, numerics: Numerics) -> LinearNetwork:
        """One unit a channel."""
        return LinearNetwork(network_weights(schedule, self.capabilities), dtype=numerics.dtype)


def network_weights(schedule: Schedule, able: Capabilities) -> NetworkWeights:
    """The weights of a schedule.

    Raises:
      LsrlError: a unit makes what the target is not able to.
    """
    for unit in (unit for layer in schedule.layers for unit in layer.units):
        if unit.kind not in able.native:
            label, name = schedule.graph.label(unit.node), unit.kind.__name__
            raise LsrlError(f"{label}: this cell has no channel for {name}")
    maps = input_maps(schedule)
    return NetworkWeights(
        tables=maps.tables,
        kernels=maps.kernels,
        input_bias=np.zeros(schedule.feature_width),
        layers=tuple(map(_layer_weights, schedule.layers)),
        output_kernel=thinned(schedule.output.inputs.T),
        output_bias=schedule.output.bias,
    )


def _slots(layer: Layer) -> tuple[Rows, ...]:
    """The rows of the hidden units: of the channels, then of the right factors of products."""
    factors = _factors(layer)
    if not len(factors):
        return layer.rows[:1]
    second = layer.rows[1]
    recurrent, inputs = second.recurrent[factors], second.inputs[factors]
    return layer.rows[0], Rows(recurrent, inputs, second.bias[factors])


def _factors(layer: Layer) -> Array:
    """The channels that are products."""
    kinds = [np.full(unit.width, unit.kind is Product) for unit in layer.units]
    return np.flatnonzero(np.concatenate([np.zeros(0, bool), *kinds]))


def _layer_weights(layer: Layer) -> LayerWeights:
    """Hidden units in the order of the channels; the right factors of products come last."""
    relu, right = np.zeros(layer.width, bool), np.full(layer.width, -1)
    for unit in layer.units:
        relu[unit.start : unit.start + unit.width] = unit.kind is Relu
    slots, factors = _slots(layer), _factors(layer)
    extra = layer.width + len(factors)
    right[factors] = np.arange(layer.width, extra)
    recurrent = sp.csr_array(sp.vstack([rows.recurrent for rows in slots]))
    recurrent.resize(extra, extra)
    return LayerWeights(
        input_kernel=thinned(sp.vstack([rows.inputs for rows in slots]).T),
        recurrent_kernel=thinned(recurrent.T),
        bias=np.concatenate([rows.bias for rows in slots]),
        initial_state=np.concatenate([layer.initial, np.zeros(len(factors))]),
        relu=relu,
        left=np.arange(layer.width),
        right=right,
    )


BACKEND = LinearRnn()
