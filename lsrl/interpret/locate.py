"""The circuit of a compiled model: where each signal is, and what connects them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import scipy.sparse as sp

from lsrl.backends import registry
from lsrl.backends.anatomy import Reading
from lsrl.backends.base import Backend
from lsrl.backends.residual.stream import Atom, Row, Site, Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.errors import LsrlError
from lsrl.interpret.circuit import OUTPUT, Channel, Circuit, Derived, Edge, EdgeKind, Role, Signal
from lsrl.ir.graph import Graph
from lsrl.ir.ops import Affine, Hold, LinearState, Lookup, Product, SelectiveState
from lsrl.model import Model
from lsrl.schedule import Schedule, Unit

Element = tuple[str, int]  # a signal and one of its elements

ONE, ZERO = "one", "zero"
STREAM = (
    "the residual stream after the layer (after each half of a Griffin layer); memory: the states "
    "of the layer's scan"
)


def circuit_of(model: Model, target: Backend | None = None) -> Circuit:
    """The ground truth of a model: every channel of every layer by its signal, and the edges.

    Args:
      model: as compiled.
      target: of a network that is lowered otherwise than the registry's target does.
    """
    schedule = model.schedule
    if isinstance(schedule, Schedule):
        return _StackLocator(model, schedule, target).circuit()
    if isinstance(schedule, Stream):
        return _StreamLocator(model, schedule, target).circuit()
    raise LsrlError(f"target {model.target!r} has a layout of its own kind")


def node_names(graph: Graph) -> dict[int, str]:
    """A name for each live node that no other has; the program's text may use one twice."""
    found: dict[int, str] = {}
    taken: set[str] = set()
    for node in graph.live():
        label = graph.label(node)
        found[node] = f"{label}#{node}" if label in taken else label
        taken.add(label)
    return found


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


class _Locator:
    """What both kinds of networks share: names and descriptions."""

    def __init__(self, model: Model, graph: Graph) -> None:
        self.model = model
        self.graph = graph
        self.signals: dict[str, Signal] = {}
        self.channels: list[Channel] = []
        self.edges: list[Edge] = []
        self._names = node_names(graph)

    def name(self, node: int) -> str:
        """The signal's name, which no other has."""
        return self._names[node]

    def add_signal(self, node: int, layer: int, owned: bool) -> None:
        name, facts = self.name(node), self.graph.facts[node]
        if name in self.signals:
            return
        self.signals[name] = Signal(
            name,
            self.graph.nodes[node].op.name,
            layer,
            facts.width,
            expression(self.graph, node, self._names),
            self.graph.source(node),
            _floats(facts.low),
            _floats(facts.high),
            _floats(facts.step),
            owned,
            self.graph.nodes[node].names,
        )

    def read_from_channels(self, node: int) -> bool:
        """Whether nothing reads a value but from the channels that hold it."""
        # The input map looks tokens up itself; the layers keep to the rule in inspectable models.
        looked_up = any(
            isinstance(self.graph.nodes[reader].op, Lookup) for reader in self.graph.readers[node]
        )
        return self.model.options.inspectable and not looked_up

    def add_constant(self, name: str, value: float, layer: int) -> None:
        ends, step = (value,), (abs(value) or float("inf"),)
        self.signals.setdefault(
            name, Signal(name, "constant", layer, 1, f"{value:g}", "", ends, ends, step, False)
        )

    def add_edges(
        self,
        target: Element,
        terms: Iterable[tuple[Element, float]],
        kind: EdgeKind,
        lag: int = 0,
    ) -> None:
        self.edges += [
            Edge(*source, *target, kind, lag, float(weight)) for source, weight in terms if weight
        ]

    def finish(self, hook: str, units: Sequence[int]) -> Circuit:
        order = sorted(self.signals.values(), key=lambda signal: signal.layer)
        return Circuit(
            self.model.program.name,
            self.model.target,
            self.model.dtype,
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


# ---------------------------------------------------------------- stacks of layers


class _StackLocator(_Locator):
    """Linear networks and stock cells: channels follow the schedule's units."""

    def __init__(self, model: Model, schedule: Schedule, lowers: Backend | None) -> None:
        super().__init__(model, schedule.graph)
        self.schedule, self.target = schedule, lowers or registry.find(model.target)
        self.elements: list[Element] = []  # of the layer before

    def circuit(self) -> Circuit:
        schedule = self.schedule
        self._features()
        hook, layers = self.target.hooks(schedule, self.model.numerics)
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
                made = unit.kind != "carry" or unit.node not in held
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
        remembers = unit.kind in ("state", "selective", "threshold", "recurrent")
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

    def _features(self) -> None:
        position = 0
        for node in self.schedule.features:
            self.add_signal(node, 0, self.read_from_channels(node))
            for element in range(self.graph.nodes[node].width):
                self.elements.append((self.name(node), element))
                self.channels.append(
                    Channel(0, self.name(node), element, "made", (position,), (1.0,))
                )
                position += 1

    def _owned(self, unit: Unit) -> bool:
        """Carried affine maps are copies."""
        return unit.kind != "carry" and self.read_from_channels(unit.node)

    def _unit_edges(self, unit: Unit, own: list[Element]) -> None:
        gates = _gate_slots(self.graph, unit.node) if unit.kind in ("product", "selective") else ()
        for slot, rows in enumerate(unit.slots):
            kind: EdgeKind = "gate" if slot in gates else "same step"
            for row, channel in enumerate(unit.channels):
                target = (self.name(unit.node), int(channel))
                self.add_edges(target, _terms(rows.inputs, row, self.elements), kind)
                self.add_edges(target, _terms(rows.recurrent, row, own), "carry", 1)
        if unit.kind == "selective":
            for channel in unit.channels:
                element = (self.name(unit.node), int(channel))
                self.add_edges(element, [(element, 1.0)], "carry", 1)


def _gate_slots(graph: Graph, node: int) -> tuple[int, ...]:
    """Which operands open, shut or keep."""
    this = graph.nodes[node]
    if isinstance(this.op, SelectiveState):
        return (0,)
    if isinstance(this.op, Product):
        return tuple(
            slot for slot, operand in enumerate(this.operands) if graph.facts[operand].boolean
        )
    return ()


def _terms(
    matrix: sp.csr_array, row: int, elements: Sequence[Element]
) -> Iterator[tuple[Element, float]]:
    for place in range(matrix.indptr[row], matrix.indptr[row + 1]):
        yield elements[matrix.indices[place]], float(matrix.data[place])


# ---------------------------------------------------------------- residual streams


class _StreamLocator(_Locator):
    """Mamba and Griffin: a channel of the stream holds a value from its site on."""

    def __init__(self, model: Model, stream: Stream, lowers: Backend | None) -> None:
        super().__init__(model, stream.graph)
        self.stream = stream
        target = lowers or registry.find(model.target)
        if not isinstance(target, ResidualBackend):
            raise LsrlError(f"{target.name} has no residual stream")
        self.target, self.lowered = target, target.lowered(stream)
        # Sums of several atoms go by the stream's name for them.
        self.elements: list[Element] = [(ONE, 0)]
        for signal, name in zip(stream.signals, stream.names, strict=True):
            (node, channel), weight = signal.terms[0]
            single = len(signal.terms) == 1 and weight == 1
            self.elements.append((self.name(node), channel) if single else (name, 0))

    def circuit(self) -> Circuit:
        stream, width = self.stream, int(self.model.module.width)
        self.add_constant(ONE, 1.0, 0)
        used = len(stream.signals) + 1
        if used < width:
            self.add_constant(ZERO, 0.0, 0)
        for place, signal in enumerate(stream.signals, start=1):
            self._add(place, signal.site + 1)
        size = self.lowered.constant()
        for layer in range(len(stream.sites) + 1):
            self.channels.append(Channel(layer, ONE, 0, "constant", (0,), (1 / size,)))
            for place, signal in enumerate(stream.signals, start=1):
                if signal.site + 1 <= layer:
                    made = signal.site + 1 == layer
                    memory = self._memory(place) if made else ((), ())
                    self.channels.append(
                        Channel(
                            layer,
                            *self.elements[place],
                            "made" if made else "carried",
                            (place,),
                            (1.0,),
                            0.0,
                            *memory,
                        )
                    )
                else:
                    self._empty(layer, place)
            for place in range(used, width):
                self._empty(layer, place)
        for site in stream.sites:
            for place in site.writes:
                self._site_edges(site, place)
        for row, found in enumerate(stream.output):
            self.add_edges((OUTPUT, row), self._read(found), "same step")
        return self.finish(STREAM, [width] * (len(stream.sites) + 1))

    def _empty(self, layer: int, place: int) -> None:
        self.add_constant(ZERO, 0.0, 0)
        self.channels.append(Channel(layer, ZERO, 0, "constant", (place,), (1.0,)))

    def _add(self, place: int, layer: int) -> None:
        signal = self.stream.signals[place - 1]
        (node, _), weight = signal.terms[0]
        if len(signal.terms) == 1 and weight == 1:
            self.add_signal(node, layer, self.read_from_channels(node))
            return
        name = self.elements[place][0]
        hull = self.stream.hull(Row(signal.terms, 0.0))
        text = " + ".join(f"{w:g}*{self._label(atom)}" for atom, w in signal.terms)
        low, high, step = _floats([hull.low]), _floats([hull.high]), _floats([hull.step])
        self.signals.setdefault(
            name,
            Signal(name, "sum", layer, 1, text, self.graph.source(node), low, high, step, False),
        )

    def _label(self, atom: Atom) -> str:
        name = self.name(atom[0])
        return name if self.graph.nodes[atom[0]].width == 1 else f"{name}[{atom[1]}]"

    def _memory(self, place: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The first scan that the value goes on in, and what its state adds to the value."""
        signal = self.stream.signals[place - 1]
        (node, _), _ = signal.terms[0]
        if signal.site < 0 or not isinstance(self.graph.nodes[node].op, LinearState | Hold):
            return (), ()
        site = self.stream.sites[signal.site]
        for index, weight in site.writes[place]:
            if site.channels[index].mode != "pass":
                scale = self.target.inner_scale(self.lowered, site.channels[index])
                return (index,), (weight / scale,)
        return (), ()

    def _read(self, row: Row) -> list[tuple[Element, float]]:
        return [
            (self.elements[place], weight)
            for place, weight in self.stream.read(row).items()
            if place
        ]

    def _site_edges(self, site: Site, place: int) -> None:
        target = self.elements[place]
        for index, weight in site.writes[place]:
            channel = site.channels[index]
            terms = self._read(channel.row)
            for lag, tap in enumerate(channel.taps):
                if tap:
                    scaled = [(source, weight * tap * factor) for source, factor in terms]
                    self.add_edges(target, scaled, "lag" if lag else "same step", lag)
            if channel.gate is not None:
                self.add_edges(target, self._read(channel.gate), "gate")
            for flag, factor in channel.flag:
                read = [(source, float(factor) * w) for source, w in self._read(flag.row)]
                self.add_edges(target, read, "gate")
            if channel.mode != "pass":
                self.add_edges(target, [(target, channel.factor)], "carry", 1)


# ---------------------------------------------------------------- expressions


def expression(graph: Graph, node: int, names: dict[int, str]) -> str:
    """How a node is computed, in terms of what has a name or is not affine."""
    this = graph.nodes[node]

    def inner(operand: int) -> str:
        found = graph.nodes[operand]
        if isinstance(found.op, Affine) and not found.names:
            return expression(graph, operand, names)
        return names[operand]

    parts = [inner(operand) for operand in this.operands]
    if not isinstance(this.op, Affine):
        return f"{this.op.name}({', '.join(parts)})"
    if this.width > 1 or any(weight.columns > 1 for weight in this.op.weights):
        return f"affine({', '.join(parts)})"
    terms = [
        (float(weight.csr.toarray()[0, 0]), part)
        for weight, part in zip(this.op.weights, parts, strict=True)
    ]
    text = "".join(_term(weight, part) for weight, part in terms if weight)
    bias = float(this.op.bias[0])
    text += f" {'-' if bias < 0 else '+'} {abs(bias):g}" if bias else ""
    return text.removeprefix(" + ").removeprefix("+ ").strip() or "0"


def _term(weight: float, part: str) -> str:
    inside = f"({part})" if " + " in part or " - " in part else part
    size = inside if abs(weight) == 1 else f"{abs(weight):g}*{inside}"
    return f" {'-' if weight < 0 else '+'} {size}"
