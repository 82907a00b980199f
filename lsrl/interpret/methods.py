"""Reference methods, as baselines: what can be found out about a network without its circuit.

- weights: the parameter arrays (`lsrl.interpret.weights`).
- ablations: an entry of a hook is set to zero, to its mean, or to its value on another sequence.
- attribution: gradient times the difference of two runs, for nodes (Nanda 2023, "Attribution
  patching") and edges (Syed et al. 2023, "Attribution patching outperforms automated circuit
  discovery"); integrated gradients average the gradient over runs whose layer 0 lies between those
  of the two runs (Hanna et al. 2024, "Have faith in faithfulness").
- probes: ridge regressions, with a control task (Hewitt and Liang 2019).
- random: uniform numbers.

All of them work on hooks. What they see of an edge is its own effect, since `Wiring.remade` holds
all other entries as they are. Where a layer's units each hold one channel they are told nothing;
where units hold several channels (a rotated stream), signals are looked for in the directions that
the circuit names, and units as they are.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.strength import Sources
from lsrl.errors import InputError, LsrlError
from lsrl.interpret.circuit import OUTPUT, Circuit
from lsrl.interpret.faithfulness import ROWS, Ablation, channel_matrices, held_in_parts
from lsrl.interpret.interventions import capture, decoded, other_sequences, wiring_of
from lsrl.interpret.layerwise import KnownStreams
from lsrl.interpret.score import (
    EdgeClaim,
    Level,
    NodeClaim,
    ProbeClaim,
    Readout,
    score_on,
    score_probes,
)
from lsrl.interpret.truth import CONSTANT, Classes, Truth, counted_outputs, equivalence_classes
from lsrl.interpret.weights import read_weights
from lsrl.interpret.wiring import Patch, Prepared, Wiring
from lsrl.ir.numbers import Array
from lsrl.model import Model

Method = Literal[
    "weights", "zero", "mean", "resample", "attribution", "integrated", "probes", "random"
]
METHODS: tuple[Method, ...] = (
    "weights", "zero", "mean", "resample", "attribution", "integrated", "probes", "random"
)  # fmt: skip
# (sequences, seed) to one array an input, (sequences, time[, width]).
Sampler = Callable[[int, int], Sequence[Array]]
# Sequences that methods look at.
SEQUENCES = 16
# Points between two runs at which integrated gradients look.
POINTS = 5
# What reads an entry, at a time, in attribution.
READERS = 8
# Sequences for what a dataset can't tell apart, and for probes; half of them to fit.
POOL = 64
# A baseline that reads the weights and exceeds this marks a benchmark as an aid to debugging.
TRANSPARENT = 0.9


class Basis(NamedTuple):
    """Directions of the hooks that are looked at as one thing each.

    Attributes:
      read: (layers, items, width): values are hook @ read.T.
      write: (layers, items, width): values change the hook by value * write.
      signals: per layer and signal the items that hold it.
      units: whether the items are the units.
    """

    read: Array
    write: Array
    signals: list[dict[str, list[int]]]
    units: bool


def unit_basis(circuit: Circuit) -> Basis:
    """Every unit by itself."""
    width = max(circuit.units)
    eye = np.stack([np.diag(np.arange(width) < count) for count in circuit.units]).astype(float)
    signals: list[dict[str, list[int]]] = [{} for _ in circuit.units]
    for channel in circuit.channels:
        if channel.role != "constant":
            signals[channel.layer].setdefault(channel.signal, []).extend(channel.units)
    return Basis(eye, eye, signals, True)


def channel_basis(circuit: Circuit) -> Basis:
    """Every channel by itself, as the circuit reads it."""
    width, layers = max(circuit.units), len(circuit.units)
    by_layer = [[c for c in circuit.channels if c.layer == layer] for layer in range(layers)]
    most = max(width, *(len(channels) for channels in by_layer))
    read, write = np.zeros((2, layers, most, width))
    signals: list[dict[str, list[int]]] = [{} for _ in circuit.units]
    for layer, channels in enumerate(by_layer):
        place = layer, slice(len(channels)), slice(circuit.units[layer])
        read[place], write[place] = channel_matrices(circuit, layer, channels)
        for item, channel in enumerate(channels):
            if channel.role != "constant":
                signals[layer].setdefault(channel.signal, []).append(item)
    return Basis(read, write, signals, False)


def mixes(circuit: Circuit) -> bool:
    """Whether some unit holds several channels."""
    held = [(c.layer, unit) for c in circuit.channels for unit in c.units]
    return len(held) != len(set(held))


@dataclass(frozen=True, eq=False)
class Effects:
    """What a method says of the items of a basis.

    Attributes:
      basis: whose items.
      nodes: per layer (items,).
      forward: per layer (items, items of the next layer), the last (items, 1).
      recurrent: per layer (items, items), from a token to the next.
      zero_gradients: share of exactly zero gradients where the two runs differ; None for methods
        that take none.
      infinite_gradients: share of infinite or undefined ones, which count as 0.
    """

    basis: Basis
    nodes: list[Array]
    forward: list[Array]
    recurrent: list[Array]
    zero_gradients: float | None = None
    infinite_gradients: float | None = None

    def claims(self, circuit: Circuit, level: Level) -> tuple[EdgeClaim, NodeClaim]:
        """As claims about signals or units."""
        if level == "units":
            units = circuit.units
            ends = [*units[1:], None]
            forward = [f[:n, :m] for f, n, m in zip(self.forward, units, ends, strict=True)]
            recurrent = [r[:n, :n] for r, n in zip(self.recurrent, units, strict=True)]
            nodes = [found[:n] for found, n in zip(self.nodes, units, strict=True)]
            return EdgeClaim(forward=forward, recurrent=recurrent), NodeClaim(units=nodes)
        edges = EdgeClaim(signals=self._signal_edges(circuit))
        return edges, NodeClaim(signals=self._signal_nodes())

    def _signal_nodes(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for layer, held in enumerate(self.basis.signals):
            for name, items in held.items():
                found[name] = max(found.get(name, 0.0), float(self.nodes[layer][items].max()))
        return found

    def _signal_edges(self, circuit: Circuit) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        layers = {signal.name: signal.layer for signal in circuit.signals}

        def note(source: str, target: str, matrix: Array, rows: list[int], columns: Any) -> None:
            value = float(matrix[rows][:, columns].max())
            found[source, target] = max(found.get((source, target), 0.0), value)

        for layer, held in enumerate(self.basis.signals):
            last = layer + 1 == len(self.basis.signals)
            above = {} if last else self.basis.signals[layer + 1]
            for source, rows in held.items():
                if last:
                    note(source, OUTPUT, self.forward[layer], rows, slice(None))
                for target, columns in above.items():
                    if target != source and layers[target] == layer + 1:
                        note(source, target, self.forward[layer], rows, columns)
                for target, columns in held.items():
                    if target != source and layers[target] == layer:
                        note(source, target, self.recurrent[layer], rows, columns)
        return found


# ---------------------------------------------------------------- the methods


class Laboratory:
    """A network with two runs of it: on some sequences, and on the same in another order.

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

    def effects(self, method: Method) -> Effects:
        """What a method says; "probes" say nothing of this kind, see `probe`.

        Raises:
          InputError: there is no such method.
        """
        if method == "random":
            return self._random()
        if method == "weights":
            return self._weights()
        if method in ("zero", "mean", "resample"):
            return self._ablated(method)
        if method in ("attribution", "integrated"):
            return self._attributed[method]
        known = ", ".join(METHODS)
        raise InputError(f"there is no method {method!r} of this kind; there are {known}")

    # ------------------------------------------------------------ without running

    def _random(self) -> Effects:
        layers, items = self.basis.read.shape[:2]
        forward = [self.rng.random((items, items)) for _ in range(layers - 1)]
        return Effects(
            self.basis,
            list(self.rng.random((layers, items))),
            [*forward, self.rng.random((items, 1))],
            [self.rng.random((items, items)) for _ in range(layers)],
        )

    def _weights(self) -> Effects:
        units = self.circuit.units
        counts = units if self.basis.units else [self.basis.read.shape[1]] * len(units)
        sizes = np.sqrt((self.values**2).mean(axis=(1, 2)))
        layers = [
            Sources(
                self.basis.read[layer, :count, :width],
                self.basis.write[layer, :count, :width],
                self.spread[layer, :count],
                sizes[layer, :count],
            )
            for layer, (count, width) in enumerate(zip(counts, units, strict=True))
        ]
        forward, recurrent = read_weights(self.model, layers)
        # A node is worth the strongest path from it to the output.
        nodes: list[Array] = []
        forward[-1] = forward[-1][:, self.counted].max(axis=1, keepdims=True)
        behind = np.ones(1)
        residual = "stream" in self.circuit.hook
        for layer in reversed(range(len(units))):
            worth = (forward[layer] * behind).max(axis=1, initial=0.0)
            if residual and nodes:
                worth = np.maximum(worth, behind)
            for _ in range(2):
                worth = np.maximum(worth, (recurrent[layer] * worth).max(axis=1, initial=0.0))
            nodes.append(worth)
            behind = worth
        return Effects(self.basis, nodes[::-1], forward, recurrent)

    # ------------------------------------------------------------ ablation

    def _replaced(self, how: str) -> Array:
        """(layers, batch, time, items): what the values become."""
        if how == "zero":
            return np.zeros_like(self.values)
        if how == "mean":
            mean = self.values.mean(axis=(1, 2), keepdims=True)
            return np.broadcast_to(mean, self.values.shape)
        found: Array = np.einsum("liw,lntw->lnti", self.basis.read, self.other)
        return found

    def _ablated(self, how: str) -> Effects:
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
        for places in _in_parts(varying, size):
            nodes[tuple(places.T)] = self._total(places[:, 0], *moved(places))
        for span, some in _grouped(varying, [self.wiring.span(layer) for layer in varying[:, 0]]):
            for places in _in_parts(some, size):
                found, outputs = self._direct(span, places[:, 0], moved(places)[1])
                layer, item = places.T
                direct[:, layer, item], onto[layer, item] = found, outputs
        return self._effects(nodes, direct[0], direct[1], onto)

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

    @cached_property
    def _known(self) -> KnownStreams | None:
        residual = isinstance(self.model.module, ResidualNetwork)
        return KnownStreams(self.wiring, self.inputs) if residual else None

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
            change = _finite(made[at - span.start, np.arange(len(layer))] - self.hooks[at])
            if not self.basis.units:
                read = self.basis.read[at]
                change = np.einsum("ciw,cntw->cnti", read, change, optimize=True)
            found[step] = np.abs(change).mean(axis=(1, 2)) / self.scale[at]
        return found, self._changed(outputs)

    def _changed(self, outputs: Array) -> Array:
        difference = outputs.reshape(-1, *self.outputs.shape) - self.outputs
        # What overflows is no difference that could be compared.
        change = np.abs(_finite(difference) / self.output_scale)[..., self.counted]
        found: Array = change.mean(axis=(1, 2, 3))
        return found

    def _effects(
        self,
        nodes: Array,
        recurrent: Array,
        forward: Array,
        onto: Array,
        shares: tuple[float, float] | None = None,
    ) -> Effects:
        zero, infinite = shares or (None, None)
        ahead = [*forward[:-1], onto[-1][:, None]]
        return Effects(self.basis, list(nodes), ahead, list(recurrent), zero, infinite)

    # ------------------------------------------------------------ attribution

    @cached_property
    def _attributed(self) -> dict[str, Effects]:
        """By gradients at the first run, and averaged over runs between the two."""
        layers, items = self.basis.read.shape[:2]
        # The first point is the run itself; the others lie in the middles of equal intervals.
        points = np.concatenate([[0.0], (np.arange(POINTS) + 0.5) / POINTS])
        other = np.einsum("liw,lntw->lnti", self.basis.read, self.other)
        difference = np.where(self.varies[:, None, None], other - self.values, 0.0)
        weights = np.sign(self.other_outputs.astype(np.float64) - self.outputs)
        weights /= self.output_scale
        asked = np.isin(np.arange(weights.shape[-1]), self.counted)
        weights = np.tile(np.where(asked, weights, 0.0), (len(points), 1, 1))
        inputs = [np.concatenate([x] * len(points)) for x in self.inputs]
        shifts = np.zeros((layers, len(weights), *self.hooks.shape[2:]))
        shifts[0] = np.concatenate([p * (self.other[0] - self.hooks[0]) for p in points])
        shifts, weights, read, write, moved = (
            array.astype(self.model.dtype)
            for array in (shifts, weights, self.basis.read, self.basis.write, difference)
        )
        # At the first point and over the rest; of items of the same layer, and of the next one.
        direct, onto = np.zeros((2, 2, layers, items, items)), np.zeros((2, layers, items))
        passed = self.wiring.passed_on if self.basis.units else np.zeros_like(self.varies)
        with self.model.device_mode():
            gradients_of = self.wiring.compiled(_node_gradients)
            edges_of = self.wiring.compiled(_edge_gradients)
            found = gradients_of(self.wiring.prepared(inputs), shifts, weights, write)
            hooks, by_item = (np.asarray(array) for array in found)
            for span, places in self._readers(passed):
                prepared = self.wiring.prepared(inputs, span)
                own = [x[span.start : span.stop] for x in (hooks, by_item, read, write, moved)]
                for some in _in_parts(places, READERS):
                    inside = (some - np.array([span.start, 0])).astype(np.int32)
                    edges = np.asarray(edges_of(prepared, *own, weights, inside))
                    for (layer, item), effect in zip(some, edges, strict=True):
                        before = effect[:, layer - 1 - span.start]
                        if layer == layers:
                            onto[:, -1] = before
                            continue
                        direct[:, 1, layer - 1, :, item] = before
                        direct[:, 0, layer, :, item] = effect[:, layer - span.start]
        results = {}
        gradients = np.asarray(_by_point(by_item.astype(np.float64), self.batch))
        # What is passed on reads itself and nothing else.
        onward = np.asarray(_by_point(_finite(by_item[1:]), self.batch))
        itself = np.abs(onward * difference[:-1])
        layer, item = np.nonzero(passed[1:] & self.varies[1:])
        direct[:, 1, layer, item, item] = itself.mean(axis=(2, 3))[:, layer, item]
        for number, name in enumerate(("attribution", "integrated")):
            gradient = gradients[number]
            nodes = np.abs(_finite(gradient) * difference)
            counted = gradient[difference != 0]
            shares = (
                float((counted == 0).mean()) if counted.size else 0.0,
                float((~np.isfinite(counted)).mean()) if counted.size else 0.0,
            )
            results[name] = self._effects(
                nodes.mean(axis=(1, 2)),
                direct[number, 0],
                direct[number, 1],
                onto[number],
                shares,
            )
        return results

    def _readers(self, passed: Array) -> list[tuple[range, Array]]:
        """What reads hooks, and the output as (layers, 0), by what has to run for it.

        Args:
          passed: (layers, items) bool, items that are left out.
        """
        readers = np.argwhere(self.varies[1:] & ~passed[1:]) + np.array([1, 0])
        readers = np.concatenate([readers, [[len(self.varies), 0]]])
        return _grouped(readers, [self.wiring.span(layer - 1) for layer in readers[:, 0]])


def _finite(values: Array) -> Array:
    """Infinite and undefined numbers count as 0."""
    found: Array = np.where(np.isfinite(values), values, 0.0)
    return found


def _grouped(places: Array, spans: Sequence[range]) -> list[tuple[range, Array]]:
    """Places by their spans."""
    return [(span, places[[own == span for own in spans]]) for span in dict.fromkeys(spans)]


def _in_parts(places: Array, size: int) -> list[Array]:
    """So many places at a time; the last part is filled up by its end, so that all are alike."""
    starts = range(0, len(places), size)
    return [places[np.minimum(start + np.arange(size), len(places) - 1)] for start in starts]


def _by_point(rows: Any, batch: int) -> jax.Array:
    """(layers, points * batch, …) to those of the first point, and the mean of the rest."""
    parts = rows.reshape(rows.shape[0], -1, batch, *rows.shape[2:])
    return jnp.stack([parts[:, 0], parts[:, 1:].mean(axis=1)])


def _node_gradients(
    wiring: Wiring, prepared: Prepared, shifts: jax.Array, weights: jax.Array, write: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Hooks of a shifted run, and the gradients of its weighted outputs by the items of a basis."""

    def metric(shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs, hooks = wiring.shifted(prepared, shifts)
        return (outputs * weights).sum(), hooks

    gradients, hooks = jax.grad(metric, has_aux=True)(shifts)
    return hooks, jnp.einsum("liw,lntw->lnti", write, gradients)


def _edge_gradients(
    wiring: Wiring,
    prepared: Prepared,
    hooks: jax.Array,
    by_item: jax.Array,
    read: jax.Array,
    write: jax.Array,
    difference: jax.Array,
    weights: jax.Array,
    readers: jax.Array,
) -> jax.Array:
    """What items do to the outputs by way of some readers.

    Args:
      wiring: of the network.
      prepared: of a span.
      hooks: of the span, (layers, points * batch, time, width).
      by_item: gradients of the outputs, (layers, points * batch, time, items).
      read: see `Basis`, of the span.
      write: likewise.
      difference: of the items' values in two runs, (layers, batch, time, items).
      weights: of the outputs, (points * batch, time, outputs).
      readers: (readers, 2), layers of the span and items; (layers, 0) is the output.

    Returns:
      (readers, 2, layers, items), at the first point and averaged over the rest.
    """
    _, pullback = jax.vjp(partial(wiring.remade, prepared), hooks)

    def effect(reader: jax.Array) -> jax.Array:
        layer, item = reader[0], reader[1]
        sensitive = by_item[layer, :, :, item]
        sensitive = jnp.where(jnp.isfinite(sensitive), sensitive, 0)
        row = sensitive[..., None] * read[layer, item][None, None]
        # The output is past the last layer.
        onto = jnp.where(layer == len(hooks), weights, 0)
        (back,) = pullback((onto, jnp.zeros_like(hooks).at[layer].set(row, mode="drop")))
        back = _by_point(jnp.einsum("liw,lntw->lnti", write, back), difference.shape[1])
        back = jnp.where(jnp.isfinite(back), back, 0)
        return jnp.abs(back * difference[None]).mean(axis=(2, 3))

    return jax.vmap(effect)(readers)


# ---------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probes:
    """Ridge regressions from the layer that makes a signal to its values.

    Attributes:
      claim: the readouts.
      r2: share of the variance explained on sequences that were not fitted, averaged over signals.
      control: the same of the control task, a random number for every kind of input token.
    """

    claim: ProbeClaim
    r2: float
    control: float


def probe(
    model: Model,
    inputs: Sequence[Array],
    hooks: Sequence[Array],
    values: dict[str, Array],
    classes: Classes,
    seed: int = 0,
) -> Probes:
    """Fit a linear probe to every signal that varies; half of the sequences are held back.

    Hewitt and Liang 2019, "Designing and interpreting probes with control tasks": a probe tells
    about the representation as far as it does better than on the control task.

    Args:
      model: any compiled model.
      inputs: one array an input.
      hooks: of the inputs, per layer (batch, time, units).
      values: from `capture`, by signal.
      classes: of the signals; those that never change are left out.
      seed: of the control task.

    Raises:
      LsrlError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import Ridge
    except ImportError as error:
        raise LsrlError(
            "probes need scikit-learn; install it with pip install 'lsrl[interpret]'"
        ) from error
    half = len(inputs[0]) // 2
    rng = np.random.default_rng(seed)
    kinds = _token_kinds(inputs)
    control = rng.standard_normal(kinds.max() + 1)[kinds][..., None]
    by_layer: dict[int, list[str]] = {}
    for signal in model.circuit.signals:
        if classes.signals.get(signal.name, CONSTANT) != CONSTANT:
            by_layer.setdefault(signal.layer, []).append(signal.name)
    readouts: dict[str, Readout] = {}
    explained: list[float] = []
    controlled: list[float] = []
    for layer, names in by_layer.items():
        hook = hooks[layer].astype(np.float64)
        spread = hook.std(axis=(0, 1))
        # Constants and units that say nothing have no place in a regression.
        scale = np.where(spread > 1e-6 * np.abs(hook).max(axis=(0, 1)), spread, np.inf)
        middle = hook.mean(axis=(0, 1))
        features = (hook - middle) / scale
        targets = [*(values[name] for name in names), control]
        wanted = np.concatenate(targets, axis=-1)
        # One solution for all of them, each as it would be by itself.
        fitted = Ridge(alpha=1e-3).fit(_flat(features[:half]), _flat(wanted[:half]))
        ends = np.cumsum([target.shape[-1] for target in targets])[:-1]
        weights = fitted.coef_.T / scale[:, None]
        parts = (_flat(wanted[half:]), fitted.predict(_flat(features[half:])), weights)
        *told, (real, got, _) = zip(*(np.split(x, ends, axis=-1) for x in parts), strict=True)
        biases = np.split(fitted.intercept_, ends)
        for name, (own, found, reads), bias in zip(names, told, biases, strict=False):
            explained += _explained(own, found)
            controlled += _explained(real, got)
            readouts[name] = Readout(layer, reads, bias - middle @ reads)
    return Probes(
        ProbeClaim(readouts), *(float(np.mean(x)) if x else 0.0 for x in (explained, controlled))
    )


def _explained(wanted: Array, got: Array) -> list[float]:
    """The share of the variance that is explained; empty where there is none."""
    total = float(((wanted - wanted.mean(axis=0)) ** 2).sum())
    return [1 - float(((got - wanted) ** 2).sum()) / total] if total else []


def _flat(values: Array) -> Array:
    return values.reshape(-1, values.shape[-1])


def _token_kinds(inputs: Sequence[Array]) -> Array:
    """(batch, time) int: equal where all inputs are, vectors to eighths."""
    parts = [np.rint(8 * x.reshape(*x.shape[:2], -1)).astype(np.int64) for x in inputs]
    rows = np.concatenate(parts, axis=-1)
    _, kinds = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0, return_inverse=True)
    found: Array = kinds.reshape(rows.shape[:2])
    return found


# ---------------------------------------------------------------- over many models


class Case(NamedTuple):
    """A model to try methods on.

    Attributes:
      program: its name; intervals are clustered by it.
      target: the target's name.
      variant: "plain", "rotated", ...
      model: with its `circuit`.
      sampler: of inputs that keep the program's promises.
    """

    program: str
    target: str
    variant: str
    model: Model
    sampler: Sampler


@dataclass(frozen=True)
class Row:
    """One claim of one method on one model; None where a number has no meaning.

    Attributes:
      program: see `Case`.
      target: see `Case`.
      variant: see `Case`.
      method: see `METHODS`.
      kind: "edges", "nodes" or "probes".
      level: "signals" or "units".
      candidates: pairs or nodes that are scored.
      positives: those that are true.
      roc_auc: area under the ROC curve; of probes, whether they look at the units that hold the
        signal.
      pr_auc: average precision.
      precision: at the threshold of the best F1.
      recall: likewise.
      faithfulness: share of outputs that stay when the rest is taken out, at that threshold.
      zero_gradients: share of exactly zero gradients where two runs differ.
      infinite_gradients: share of infinite ones.
      r2: of probes, on sequences held back.
      selectivity: of probes, r2 less that of the control task.
    """

    program: str
    target: str
    variant: str
    method: str
    kind: str
    level: str
    candidates: int = 0
    positives: int = 0
    roc_auc: float | None = None
    pr_auc: float | None = None
    precision: float | None = None
    recall: float | None = None
    faithfulness: float | None = None
    zero_gradients: float | None = None
    infinite_gradients: float | None = None
    r2: float | None = None
    selectivity: float | None = None


def evaluate_methods(
    cases: Sequence[Case],
    methods: Sequence[Method] = METHODS,
    *,
    seed: int = 0,
    faithful: bool = True,
    progress: Callable[[Case, list[Row]], None] | None = None,
) -> list[Row]:
    """Score methods on models.

    Args:
      cases: the models.
      methods: see METHODS.
      seed: of inputs and of what is random in a method.
      faithful: whether to measure the faithfulness of claims about units, or about signals where
        there are no others.
      progress: called after each model, with its rows.

    Returns:
      One row a model, method, kind and level; where units hold several signals each, of signals
      only.

    Raises:
      InputError: there is no such method.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise InputError(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    rows = []
    for case in cases:
        found = _evaluated(case, methods, seed, faithful)
        rows += found
        if progress is not None:
            progress(case, found)
    return rows


def _evaluated(case: Case, methods: Sequence[Method], seed: int, faithful: bool) -> list[Row]:
    model, circuit = case.model, case.model.circuit
    pool = [np.asarray(x) for x in case.sampler(POOL, seed)]
    _, made = held_in_parts(wiring_of(model), pool)
    hooks = [hook[..., :units] for hook, units in zip(made, circuit.units, strict=True)]
    # What the program says, so that noise tells no signals apart; sums have no name in it.
    values = decoded(circuit, hooks) | capture(model, *pool, on="evaluator")
    classes = equivalence_classes(circuit, values)
    truth = Truth(circuit, classes)
    inputs = [x[:SEQUENCES] for x in pool]
    units = Laboratory(model, inputs, seed=seed)
    looked: dict[Level, Laboratory] = {"units": units, "signals": units}
    mixed = mixes(circuit)
    if mixed:
        # Units are no nodes there: what they hold is in directions.
        looked = {"signals": Laboratory(model, inputs, channel_basis(circuit), seed=seed)}
    ablation = Ablation(model, truth, inputs, seed)
    rows = []
    for method in methods:
        blank = Row(case.program, case.target, case.variant, method, "", "")
        if method == "probes":
            half = POOL // 2
            probes = probe(model, pool, hooks, values, classes, seed)
            held = {name: found[half:] for name, found in values.items()}
            scored = score_probes(
                circuit, probes.claim, [h[half:] for h in hooks], held, classes=classes
            )
            selectivity = probes.r2 - probes.control
            rows.append(
                replace(
                    blank,
                    kind="probes",
                    level="signals",
                    candidates=scored.signals,
                    roc_auc=scored.location,
                    r2=scored.r2,
                    selectivity=selectivity,
                )
            )
            continue
        for level, laboratory in looked.items():
            # Whoever reads the weights is not told the directions that hold signals.
            laboratory = units if method == "weights" else laboratory
            effects = laboratory.effects(method)
            claims = effects.claims(circuit, level)
            if method == "random" and level == "signals":
                # The greatest of many units would favour wide signals.
                claims = _shuffled(*claims, laboratory.rng)
            named: tuple[tuple[str, EdgeClaim | NodeClaim], ...] = (
                ("edges", claims[0]),
                ("nodes", claims[1]),
            )
            for kind, claim in named:
                found = score_on(truth, claim)
                kept = None
                if faithful and (mixed or level == "units"):
                    kept = ablation.share(claim, found.threshold)
                rows.append(
                    replace(
                        blank,
                        kind=kind,
                        level=level,
                        candidates=found.candidates,
                        positives=found.positives,
                        roc_auc=found.roc_auc,
                        pr_auc=found.pr_auc,
                        precision=found.precision,
                        recall=found.recall,
                        faithfulness=kept,
                        zero_gradients=effects.zero_gradients,
                        infinite_gradients=effects.infinite_gradients,
                    )
                )
    return rows


def _shuffled(
    edges: EdgeClaim, nodes: NodeClaim, rng: np.random.Generator
) -> tuple[EdgeClaim, NodeClaim]:
    """Claims about the same signals with random numbers."""
    return (
        EdgeClaim(signals={pair: float(rng.random()) for pair in edges.signals or {}}),
        NodeClaim(signals={name: float(rng.random()) for name in nodes.signals or {}}),
    )


# ---------------------------------------------------------------- reports


class Interval(NamedTuple):
    """A mean over programs, each counted once, with a 95 % interval.

    Attributes:
      mean: of the programs' means.
      low: 2.5 % of the resampled means are below.
      high: 2.5 % are above.
      programs: how many.
    """

    mean: float
    low: float
    high: float
    programs: int


def interval(
    values: Sequence[float], programs: Sequence[str], seed: int = 0, draws: int = 2000
) -> Interval | None:
    """The mean of values that come from programs, by a bootstrap that draws whole programs.

    Models of one program are alike, so that as many values of it are no more evidence than a few.

    Args:
      values: finite.
      programs: of which program each value is.
      seed: of the bootstrap.
      draws: how often to resample.

    Returns:
      None if there are no values.
    """
    by_program: dict[str, list[float]] = {}
    for value, program in zip(values, programs, strict=True):
        by_program.setdefault(program, []).append(value)
    if not by_program:
        return None
    means = np.array([np.mean(found) for found in by_program.values()])
    rng = np.random.default_rng(seed)
    drawn = means[rng.integers(0, len(means), (draws, len(means)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(means.mean()), float(low), float(high), len(means))


def summary(
    rows: Sequence[Row], by: Sequence[str], measure: str
) -> dict[tuple[str, ...], Interval]:
    """Intervals of a measure, by some attributes of `Row`; rows without a value are left out."""
    found: dict[tuple[str, ...], tuple[list[float], list[str]]] = {}
    for row in rows:
        value = getattr(row, measure)
        if value is not None:
            key = tuple(getattr(row, name) for name in by)
            values, programs = found.setdefault(key, ([], []))
            values.append(value)
            programs.append(row.program)
    intervals = {key: interval(*both) for key, both in found.items()}
    return {key: known for key, known in intervals.items() if known is not None}


def transparent(rows: Sequence[Row]) -> dict[tuple[str, str], bool]:
    """By target and variant, whether reading the weights finds the edges.

    Where its mean ROC-AUC for edges exceeds TRANSPARENT at either level, the variant is an aid to
    debugging and no benchmark.
    """
    weights = [row for row in rows if row.method == "weights" and row.kind == "edges"]
    found: dict[tuple[str, str], bool] = {}
    for (target, variant, _), known in summary(
        weights, ("target", "variant", "level"), "roc_auc"
    ).items():
        found[target, variant] = found.get((target, variant), False) or known.mean > TRANSPARENT
    return found


def to_csv(rows: Sequence[Row]) -> str:
    """All rows, as comma-separated values; empty where there is none."""
    names = [field.name for field in fields(Row)]
    lines = [",".join(names)]
    for row in rows:
        values = asdict(row)
        lines.append(",".join(_cell(values[name]) for name in names))
    return "\n".join(lines) + "\n"


def from_csv(text: str) -> list[Row]:
    """Rows as `to_csv` wrote them."""
    names, *lines = (line.split(",") for line in text.splitlines())
    kinds = {field.name: field.type for field in fields(Row)}

    def read(name: str, cell: str) -> Any:
        if kinds[name] is str:
            return cell
        return None if cell == "" else int(cell) if kinds[name] is int else float(cell)

    return [
        Row(**{name: read(name, cell) for name, cell in zip(names, line, strict=True)})
        for line in lines
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def to_markdown(rows: Sequence[Row], by: Sequence[str] = ("method",)) -> str:
    """The means over programs with their intervals, as a table."""
    measures = {
        ("edges", "signals", "roc_auc"): "edges of signals, ROC-AUC",
        ("edges", "units", "roc_auc"): "edges of units, ROC-AUC",
        ("edges", "units", "pr_auc"): "PR-AUC",
        ("edges", "units", "faithfulness"): "faithfulness",
        ("nodes", "units", "roc_auc"): "units, ROC-AUC",
        ("nodes", "units", "faithfulness"): "faithfulness ",
    }
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        if row.method != "probes":
            cells.setdefault(tuple(getattr(row, name) for name in by), {})
    for (kind, level, measure), title in measures.items():
        chosen = [row for row in rows if row.kind == kind]
        # What is faithful is told at one level only.
        if measure != "faithfulness":
            chosen = [row for row in chosen if row.level == level]
        for key, known in summary(chosen, by, measure).items():
            cells[key][title] = shown(known)
    head = ["| " + " | ".join([*by, *measures.values()]) + " |"]
    head.append("|" + " --- |" * (len(by) + len(measures)))
    body = [
        "| " + " | ".join([*key, *(found.get(title, "–") for title in measures.values())]) + " |"
        for key, found in cells.items()
    ]
    return "\n".join([*head, *body])


def shown(known: Interval) -> str:
    """A mean with its interval, to two digits."""
    return f"{known.mean:.2f} ({known.low:.2f}–{known.high:.2f})"
