"""Two runs of a network, on some sequences and on the same in another order, and ablations of them.

An entry of a hook is set to zero, to its mean, or to its value on another sequence.
"""

import zlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from lsrl.errors import InputError
from lsrl.interpret.basis import Basis, Effects, unit_basis
from lsrl.interpret.faithfulness import ROWS, held_in_parts
from lsrl.interpret.interventions import other_sequences, wiring_of
from lsrl.interpret.layerwise import KnownStreams, known_streams
from lsrl.interpret.truth import counted_outputs
from lsrl.interpret.wiring import Patch
from lsrl.ir.numbers import Array
from lsrl.model import Model


class TwoRuns:
    """A network on some sequences, and on the same in another order.

    Attributes:
      circuit: for the number of units of each layer and, of a `channel_basis`, its directions.
      basis: what is looked at.
    """

    def __init__(
        self, model: Model, inputs: Sequence[Array], basis: Basis | None = None, seed: int = 0
    ) -> None:
        """Run the network on the sequences.

        Args:
          model: any compiled model, or one like it.
          inputs: one array an input, (batch, time[, width]).
          basis: what to look at; units by default.
          seed: of the order.

        Raises:
          InputError: there is one sequence only.
        """
        self.model, self.circuit, self.wiring = model, model.circuit, wiring_of(model)
        self.basis = basis or unit_basis(model.circuit)
        self.inputs = [np.asarray(x) for x in inputs]
        self.batch, self.time = self.inputs[0].shape[:2]
        if self.batch < 2:
            raise InputError("methods take values of other sequences; give a batch of two")
        # Else all models of one shape would have the same random claims.
        name = f"{model.program.name} {model.target} {self.circuit.units}"
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        other = other_sequences(self.batch, seed)
        self.outputs, self.hooks = held_in_parts(self.wiring, self.inputs)
        self.other, self.other_outputs = self.hooks[:, other], self.outputs[other]
        self.values = np.einsum("liw,lntw->lnti", self.basis.read, self.hooks)
        size = np.abs(self.values).max(axis=(1, 2))
        spread = self.values.std(axis=(1, 2))
        self.varies = spread > 1e-6 * size
        self.spread = np.where(self.varies, spread, 0.0)
        self.scale = np.where(self.varies, spread, 1.0)
        self.counted = counted_outputs(model.circuit, self.outputs.shape[-1])
        out = self.outputs.astype(np.float64).std(axis=(0, 1))
        self.output_scale = np.where(out > 0, out, 1.0)

    @cached_property
    def _known(self) -> KnownStreams | None:
        return known_streams(self.wiring, self.inputs)

    def ablated(self, how: str) -> Effects:
        """What taking items out changes: "zero", "mean" or "resample"."""
        layers, items = self.basis.read.shape[:2]
        change = self._replaced(how) - self.values
        nodes, onto = np.zeros((2, layers, items))
        # From a layer's items to those of the same layer, and of the next one.
        direct = np.zeros((2, layers, items, items))

        def moved(places: Array) -> tuple[Array, Array]:
            """(chosen, width) and (chosen, batch, time, width): directions, and changes."""
            layer, item = places.T
            write = self.basis.write[layer, item]
            return write, change[layer, :, :, item][..., None] * write[:, None, None]

        varying, size = np.argwhere(self.varies), max(1, ROWS // self.batch)
        for places in in_parts(varying, size):
            nodes[tuple(places.T)] = self._total(places[:, 0], *moved(places))
        for span, some in grouped(varying, [self.wiring.span(layer) for layer in varying[:, 0]]):
            for places in in_parts(some, size):
                found, outputs = self._direct(span, places[:, 0], moved(places)[1])
                layer, item = places.T
                direct[:, layer, item], onto[layer, item] = found, outputs
        return self.effects_of(nodes, direct[0], direct[1], onto)

    def _replaced(self, how: str) -> Array:
        """(layers, batch, time, items): what the values become."""
        if how == "zero":
            return np.zeros_like(self.values)
        if how == "mean":
            mean = self.values.mean(axis=(1, 2), keepdims=True)
            return np.broadcast_to(mean, self.values.shape)
        found: Array = np.einsum("liw,lntw->lnti", self.basis.read, self.other)
        return found

    def _total(self, layer: Array, write: Array, moved: Array) -> Array:
        """(chosen,): the mean change of the outputs, in their standard deviations."""
        place, rows = np.repeat(layer, self.batch), np.tile(np.arange(self.batch), len(layer))
        units = np.repeat(write != 0, self.batch, axis=0)
        values = (self.hooks[layer] + moved).reshape(-1, *moved.shape[2:])
        if self._known is not None:
            tokens = np.ones(values.shape[:2], bool)
            return self._changed(self._known.run(rows, [Patch(place, tokens, units, values)]))
        held = np.zeros((len(self.hooks), *values.shape))
        mask = np.zeros((len(self.hooks), *units.shape), bool)
        held[place, np.arange(len(place))] = values
        mask[place, np.arange(len(place))] = units
        outputs, _ = self.wiring.hold([x[rows] for x in self.inputs], held, mask)
        return self._changed(outputs)

    def _direct(self, span: range, layer: Array, moved: Array) -> tuple[Array, Array]:
        """The mean change of what reads the items.

        Returns:
          (2, chosen, items), of their own layer and the next; and (chosen,), of the outputs.
        """
        hooks = self.hooks[span.start : span.stop]
        held = np.stack([hooks] * len(layer), axis=1)
        held[layer - span.start, np.arange(len(layer))] += moved
        rows = np.tile(np.arange(self.batch), len(layer))
        outputs, made = self.wiring.hold(
            [x[rows] for x in self.inputs], held.reshape(len(span), -1, *hooks.shape[2:]), span=span
        )
        made = made.reshape(len(span), len(layer), *hooks.shape[1:])
        found = np.zeros((2, len(layer), self.basis.read.shape[1]))
        for step in range(2):
            # Behind the last layer there is but the output.
            at = np.minimum(layer + step, span.stop - 1)
            change = finite(made[at - span.start, np.arange(len(layer))] - self.hooks[at])
            if not self.basis.units:
                read = self.basis.read[at]
                change = np.einsum("ciw,cntw->cnti", read, change, optimize=True)
            found[step] = np.abs(change).mean(axis=(1, 2)) / self.scale[at]
        return found, self._changed(outputs)

    def _changed(self, outputs: Array) -> Array:
        difference = outputs.reshape(-1, *self.outputs.shape) - self.outputs
        # What overflows is no difference that could be compared.
        change = np.abs(finite(difference) / self.output_scale)[..., self.counted]
        found: Array = change.mean(axis=(1, 2, 3))
        return found

    def effects_of(
        self,
        nodes: Array,
        recurrent: Array,
        forward: Array,
        onto: Array,
        shares: tuple[float, float] | None = None,
    ) -> Effects:
        """What is found, with edges onto the output in the place of the last layer's."""
        zero, infinite = shares or (None, None)
        ahead = [*forward[:-1], onto[-1][:, None]]
        return Effects(self.basis, list(nodes), ahead, list(recurrent), zero, infinite)


def finite(values: Array) -> Array:
    """Infinite and undefined numbers count as 0."""
    found: Array = np.where(np.isfinite(values), values, 0.0)
    return found


def grouped(places: Array, spans: Sequence[range]) -> list[tuple[range, Array]]:
    """Places by their spans."""
    return [(span, places[[own == span for own in spans]]) for span in dict.fromkeys(spans)]


def in_parts(places: Array, size: int) -> list[Array]:
    """So many places at a time; the last part is filled up by its end, so that all are alike."""
    starts = range(0, len(places), size)
    return [places[np.minimum(start + np.arange(size), len(places) - 1)] for start in starts]
