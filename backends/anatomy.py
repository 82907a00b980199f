"""Where a target's networks hold signals: their circuits, made of the schedule and its graph.

A stack of layers says what its hooks are (`Hooks`), and the rest follows from the schedule. Other
layouts make their circuits by a `CircuitBuilder` of their own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.circuit import OUTPUT, Channel, Circuit, Derived, Edge, EdgeKind, Role, Signal
from lsrl.ir.formulas import Formulas
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Affine,
    LinearState,
    Lookup,
    Product,
    RecurrentState,
    SelectiveState,
    ThresholdState,
)
from lsrl.schedule import Schedule, Unit

Element = tuple[str, int]  # a signal and one of its elements

ONE = "one"


class Reading(NamedTuple):
    """How the channels of a layer are read off its hook.

    Attributes:
      decode: (channels, units).
      offset: (channels,): channels are decode @ units + offset.
      hidden: the entry of the memory behind each channel; None where it is the channel's own units.
      ones: units that are the same at every token, with their weights.
    """

    decode: sp.csr_array
    offset: Array
    hidden: Sequence[int] | None
    ones: tuple[tuple[int, float], ...] = ()


class Hooks(NamedTuple):
    """The hooks of a stack of layers, where an `Edit` of the step may look and change.

    Attributes:
      text: what a hook is, and what the memory behind it.
      layers: first to last, without the input map, whose hook holds the features as they are.
    """

    text: str
    layers: list[Reading]


def channels_as_they_are(schedule: Schedule, text: str) -> Hooks:
    """Hooks that hold one channel a unit, with the memory of each at its own place."""
    layers = [
        Reading(sp.eye_array(layer.width, format="csr"), np.zeros(layer.width), range(layer.width))
        for layer in schedule.layers
    ]
    return Hooks(text, layers)


class CircuitBuilder:
    """What the circuits of all kinds of networks share: names and descriptions."""

    def __init__(self, names: tuple[str, str, str], graph: Graph, inspectable: bool) -> None:
        """Begin a circuit; names are those of program, target and dtype.

        Of an inspectable one layers read values from the channels that hold them, and no others.
        """
        self.names, self.inspectable = names, inspectable
        self.graph, self.formulas = graph, Formulas(graph)
        self.signals: dict[str, Signal] = {}
        self.channels: list[Channel] = []
        self.edges: list[Edge] = []

    def name(self, node: int) -> str:
        """The signal's name, which no other has."""
        return self.graph.label(node)

    def add_signal(self, node: int, layer: int, owned: bool) -> None:
        """Describe the signal of a node, made in a layer, unless it is known."""
        name, facts = self.name(node), self.graph.facts[node]
        if name in self.signals:
            return
        low, high, step = (tuple(map(float, ends)) for ends in (facts.low, facts.high, facts.step))
        self.signals[name] = Signal(
            name,
            self.graph.nodes[node].op.name,
            layer,
            facts.width,
            self.formulas.node(node),
            self.graph.source(node),
            low,
            high,
            step,
            owned,
            self.graph.nodes[node].names,
        )

    def read_from_channels(self, node: int) -> bool:
        """Whether nothing reads a value but from the channels that hold it."""
        # The input map looks tokens up itself; the layers keep to the rule in inspectable models.
        looked_up = any(
            isinstance(self.graph.nodes[reader].op, Lookup) for reader in self.graph.readers[node]
        )
        return self.inspectable and not looked_up

    def add_constant(self, name: str, value: float, layer: int) -> None:
        """Describe a constant, unless it is known."""
        ends, step = (value,), (abs(value) or float("inf"),)
        self.signals.setdefault(
            name, Signal(name, "constant", layer, 1, f"{value:g}", "", ends, ends, step, False)
        )

    def add_edges(
        self, target: Element, terms: Iterable[tuple[Element, float]], kind: EdgeKind, lag: int = 0
    ) -> None:
        """Note from which elements an element is made; terms of weight 0 are none."""
        self.edges += [
            Edge(*source, *target, kind, lag, float(weight)) for source, weight in terms if weight
        ]

    def finish(self, hook: str, units: Sequence[int]) -> Circuit:
        """The circuit, with named affine maps of its signals."""
        order = sorted(self.signals.values(), key=lambda signal: signal.layer)
        return Circuit(
            *self.names,
            hook,
            tuple(units),
            tuple(order),
            tuple(self.channels),
            tuple(dict.fromkeys(self.edges)),
            tuple(self._derived()),
        )

    def _derived(self) -> Iterator[Derived]:
        """Affine maps that have a name and no channels."""
        for node in self.graph.live():
            this = self.graph.nodes[node]
            if not this.names or not isinstance(this.op, Affine) or self.name(node) in self.signals:
                continue
            terms, bias = self._expand(node)
            entries = tuple(
                (row, *source, weight)
                for row, found in enumerate(terms)
                for source, weight in found.items()
            )
            if all(source in self.signals for _, source, _, _ in entries):
                yield Derived(
                    self.name(node), this.width, entries, tuple(bias), self.graph.source(node)
                )

    def _expand(self, node: int) -> tuple[list[dict[Element, float]], list[float]]:
        """A node's elements as affine maps of signals that have channels."""
        this = self.graph.nodes[node]
        if self.name(node) in self.signals or not isinstance(this.op, Affine):
            return [{(self.name(node), row): 1.0} for row in range(this.width)], [0.0] * this.width
        found: list[dict[Element, float]] = [{} for _ in range(this.width)]
        bias = [float(value) for value in this.op.bias]
        for weight, operand in zip(this.op.weights, this.operands, strict=True):
            terms, offsets = self._expand(operand)
            entries = sp.coo_array(weight.csr)
            for row, column, value in zip(*entries.coords, entries.data, strict=True):
                bias[row] += float(value) * offsets[column]
                for source, factor in terms[column].items():
                    found[row][source] = found[row].get(source, 0.0) + float(value) * factor
        return found, bias


class StackCircuit(CircuitBuilder):
    """The circuit of a stack of layers: channels follow the schedule's units."""

    def circuit(self, schedule: Schedule, hooks: Hooks) -> Circuit:
        """Every channel of every layer by its signal, and the edges."""
        hook, layers = hooks
        self.elements: list[Element] = []  # of the layer before
        self._features(schedule.features)
        held: set[int] = set(schedule.features)
        for number, (layer, read) in enumerate(zip(schedule.layers, layers, strict=True), start=1):
            own = [
                (self.name(unit.node), int(channel))
                for unit in layer.units
                for channel in unit.channels
            ]
            for place, weight in read.ones:
                self.add_constant(ONE, 1.0, number)
                self.channels.append(Channel(number, ONE, 0, "constant", (place,), (weight,)))
            for unit in layer.units:
                made = unit.kind is not Affine or unit.node not in held
                if made:
                    self.add_signal(unit.node, number, self._owned(unit))
                    self._unit_edges(unit, own)
                self._channels(number, unit, "made" if made else "carried", read)
            held |= {unit.node for unit in layer.units}
            self.elements = own
        for row in range(len(schedule.output.bias)):
            terms = _terms(schedule.output.inputs, row, self.elements)
            self.add_edges((OUTPUT, row), terms, "same step")
        return self.finish(
            hook, [schedule.feature_width, *(read.decode.shape[1] for read in layers)]
        )

    def _channels(self, layer: int, unit: Unit, role: Role, read: Reading) -> None:
        remembers = unit.kind in (LinearState, SelectiveState, ThresholdState, RecurrentState)
        for place, channel in enumerate(unit.channels, start=unit.start):
            entries = slice(read.decode.indptr[place], read.decode.indptr[place + 1])
            units = tuple(read.decode.indices[entries].tolist())
            weights = tuple(read.decode.data[entries].tolist())
            memory = (units, weights) if read.hidden is None else ((read.hidden[place],), (1.0,))
            self.channels.append(
                Channel(
                    layer,
                    self.name(unit.node),
                    int(channel),
                    role,
                    units,
                    weights,
                    float(read.offset[place]),
                    *(memory if remembers else ((), ())),
                )
            )

    def _features(self, nodes: Sequence[int]) -> None:
        position = 0
        for node in nodes:
            self.add_signal(node, 0, self.read_from_channels(node))
            for element in range(self.graph.nodes[node].width):
                self.elements.append((self.name(node), element))
                self.channels.append(
                    Channel(0, self.name(node), element, "made", (position,), (1.0,))
                )
                position += 1

    def _owned(self, unit: Unit) -> bool:
        """Carried affine maps are copies."""
        return unit.kind is not Affine and self.read_from_channels(unit.node)

    def _unit_edges(self, unit: Unit, own: list[Element]) -> None:
        gates = _gate_slots(self.graph, unit.node) if unit.kind in (Product, SelectiveState) else ()
        for slot, rows in enumerate(unit.slots):
            kind: EdgeKind = "gate" if slot in gates else "same step"
            for row, channel in enumerate(unit.channels):
                target = (self.name(unit.node), int(channel))
                self.add_edges(target, _terms(rows.inputs, row, self.elements), kind)
                self.add_edges(target, _terms(rows.recurrent, row, own), "carry", 1)
        if unit.kind is SelectiveState:
            for channel in unit.channels:
                element = (self.name(unit.node), int(channel))
                self.add_edges(element, [(element, 1.0)], "carry", 1)


def _gate_slots(graph: Graph, node: int) -> tuple[int, ...]:
    """Which operands of a product or a selective state open, shut or keep."""
    this = graph.nodes[node]
    if isinstance(this.op, SelectiveState):
        return (0,)
    return tuple(slot for slot, operand in enumerate(this.operands) if graph.facts[operand].boolean)


def _terms(
    matrix: sp.csr_array, row: int, elements: Sequence[Element]
) -> Iterator[tuple[Element, float]]:
    for place in range(matrix.indptr[row], matrix.indptr[row + 1]):
        yield elements[matrix.indices[place]], float(matrix.data[place])
