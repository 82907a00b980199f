"""Circuits: which signal each channel of a network holds, and which weights connect the signals.

A circuit is plain data. Its JSON form is the ground truth that travels with a model:

    {"format": "lsrl.circuit", "version": 2, "program", "target", "dtype", "hook", "units": [...],
     "signals": [...], "channels": [...], "edges": [...], "derived": [...], "checksum"}

with one object an entry, whose keys are the attributes of the classes below. The checksum is that
of `lsrl.sealed`. Version 1 has none: so older versions wrote it, and so a circuit lies inside files
and pages that are whole or not as they stand.
"""

import dataclasses
import difflib
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import numpy as np

from lsrl import schema, sealed
from lsrl.drawing import Box, Drawing, Layer, drawing, range_text
from lsrl.errors import FormatError, InputError
from lsrl.folders import replace_file
from lsrl.ir.labels import element_name
from lsrl.ir.numbers import Array
from lsrl.placement import Link
from lsrl.schema import FieldError, Json, Reader
from lsrl.showing import Table, card

if TYPE_CHECKING:
    import networkx as nx

FORM = sealed.Form("lsrl.circuit", 2, sealed=2)
OUTPUT = "output"

Role = Literal["made", "carried", "constant", "distractor"]
EdgeKind = Literal["same step", "carry", "lag", "gate", "fed back"]
FED_BACK: EdgeKind = "fed back"


@dataclass(frozen=True)
class Signal:
    """A value of the program, as the network holds it.

    Attributes:
      name: the user's name, or the expression that made it; see docs/interpretability.md.
      kind: of the op that computes it.
      layer: the first layer that holds it; 0 is what the input map makes.
      width: number of elements.
      expression: how it is computed from other signals.
      source: the line of the program that made it.
      low: (width,) least values.
      high: (width,) greatest values.
      step: (width,) grids: values are multiples; 0 where continuous, inf where always 0.
      owned: whether its channels are all that other signals read of it, so that an intervention on
        the channels is one on the signal.
      names: all of the user's names for it.

    Example:
      print(circuit.signal("follower").kind, circuit.signal("follower").layer)
    """

    name: str
    kind: str
    layer: int
    width: int
    expression: str
    source: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: tuple[float, ...]
    owned: bool
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Channel:
    """One element of a signal in one layer: Σ weight * unit + offset.

    Attributes:
      layer: 0 is what the input map makes.
      signal: whose element it holds.
      element: which.
      role: "made" here, or "carried" from the layer before; "constant", or a "distractor", made or
        carried, which the program's output does not depend on.
      units: entries of the layer's hook (see `Circuit.hook`); a sign pair or gate pair has two.
      weights: one a unit.
      offset: added to them.
      memory: entries of the layer's memory through which the element goes on to the next token.
      memory_weights: what an entry adds to the element, one each.
      directions: what a unit changes by with the element, one each, where several channels share
        units or a channel has a group of them; empty elsewhere.

    Example:
      print(circuit.channels_of("follower")[0].units)
    """

    layer: int
    signal: str
    element: int
    role: Role
    units: tuple[int, ...]
    weights: tuple[float, ...]
    offset: float = 0.0
    memory: tuple[int, ...] = ()
    memory_weights: tuple[float, ...] = ()
    directions: tuple[float, ...] = ()


@dataclass(frozen=True)
class Edge:
    """One element of a signal read by another, or by the output.

    Attributes:
      source: the signal that is read.
      source_element: which of its elements.
      target: the signal that reads it; "output" for the output.
      target_element: which of its elements.
      kind: "same step"; "carry", a layer's own state a token ago; "lag", a convolution's tap on an
        earlier token; "gate", what opens, shuts or keeps; "fed back", an output that is the input
        of a loop's next token, by no weight of the network.
      lag: tokens ago.
      weight: the factor, in units of the two elements' values.

    Example:
      print(circuit.edges[0].source, circuit.edges[0].target)
    """

    source: str
    source_element: int
    target: str
    target_element: int
    kind: EdgeKind
    lag: int
    weight: float


@dataclass(frozen=True)
class Derived:
    """A named signal that no channel holds: an affine map of signals that channels hold.

    Attributes:
      name: the user's name.
      width: number of elements.
      terms: (element, signal, element of the signal, weight).
      bias: one an element.
      source: the line of the program that made it.

    Example:
      print(all(isinstance(each, interpret.Derived) for each in circuit.derived))
    """

    name: str
    width: int
    terms: tuple[tuple[int, str, int, float], ...]
    bias: tuple[float, ...]
    source: str


@dataclass(frozen=True, eq=False)
class Circuit:
    """The ground truth of a network.

    Attributes:
      program: the program's name.
      target: the target's name.
      dtype: of the network.
      hook: the tensor of each layer whose entries are the units, in words.
      units: number of units of each layer, that of the input map first.
      signals: in the order in which the layers make them.
      channels: layer by layer.
      edges: between elements of signals.
      derived: named signals that are affine maps of others.

    Example:
      model = lsrl.compile(lsrl.programs.induction_head(vocab=4), "mamba", inspectable=True)
      circuit = model.circuit
      print(len(circuit.signals), circuit.units, circuit.unlabelled())
    """

    program: str
    target: str
    dtype: str
    hook: str
    units: tuple[int, ...]
    signals: tuple[Signal, ...]
    channels: tuple[Channel, ...]
    edges: tuple[Edge, ...]
    derived: tuple[Derived, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, Signal]:
        """The signals by each of their names."""
        further = {name: signal for signal in self.signals for name in signal.names}
        return further | {signal.name: signal for signal in self.signals}

    def signal(self, name: str) -> Signal:
        """The signal of a name.

        Raises:
          InputError: there is none; says the nearest names, or of what it is an affine map.
        """
        if not isinstance(name, str):
            raise InputError(f"a signal goes by its name, got {name!r}; there are {self._known()}")
        if name in self.by_name:
            return self.by_name[name]
        for derived in self.derived:
            if derived.name == name:
                parts = ", ".join(sorted({signal for _, signal, _, _ in derived.terms}))
                raise InputError(
                    f"{name!r} ({derived.source}) has no channels of its own: it is an affine map "
                    f"of {parts or 'constants'}, folded into what reads it; name these instead"
                )
        near = difflib.get_close_matches(name, self.by_name, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {self._known()}"
        raise InputError(f"{self.program} on {self.target} has no signal {name!r}; {hint}")

    def _known(self) -> str:
        names = [signal.name for signal in self.signals]
        return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")

    def channels_of(self, name: str, made: bool = True) -> tuple[Channel, ...]:
        """The channels that hold a signal: where it is made, or, with made=False, all of them."""
        wanted = self.signal(name).name
        return tuple(
            channel
            for channel in self.channels
            if channel.signal == wanted and (not made or self.makes(channel))
        )

    @cached_property
    def held(self) -> Mapping[str, Array]:
        """By name of a signal (width,) bool: the elements that channels hold.

        The compiler leaves out the elements that nothing reads.
        """
        found = {signal.name: np.zeros(signal.width, bool) for signal in self.signals}
        for channel in self.channels:
            found[channel.signal][channel.element] = True
        for derived in self.derived:
            whole = np.ones(derived.width, bool)
            for element, source, column, _ in derived.terms:
                whole[element] &= found[source][column]
            found[derived.name] = whole
        return found

    def shares(self, channel: Channel) -> bool:
        """Whether a channel lies in directions of units that others hold too."""
        places = ((channel.layer, unit) for unit in channel.units)
        return bool(channel.directions) and not self._shared.isdisjoint(places)

    @cached_property
    def _shared(self) -> frozenset[tuple[int, int]]:
        """(layer, unit) of the units that several channels hold."""
        held = Counter((c.layer, unit) for c in self.channels for unit in set(c.units))
        return frozenset(place for place, count in held.items() if count > 1)

    def makes(self, channel: Channel) -> bool:
        """Whether a channel is where its element is made, and not a copy carried on."""
        if channel.role == "distractor":
            return channel.layer == self._first_layers[channel.signal, channel.element]
        return channel.role != "carried"

    @cached_property
    def _first_layers(self) -> Mapping[tuple[str, int], int]:
        """By element the layer that makes it; elements of one signal may be made in several."""
        last_first = sorted(self.channels, key=lambda channel: -channel.layer)
        return {(channel.signal, channel.element): channel.layer for channel in last_first}

    @property
    def wires(self) -> tuple[Edge, ...]:
        """The edges that weights make: without those that are fed back, they go round no circle."""
        return tuple(edge for edge in self.edges if edge.kind != FED_BACK)

    def looped(self, name: str, outputs: Iterable[int]) -> "Circuit":
        """The circuit of a program whose outputs, in order, are the elements of its next input."""
        if name not in self.by_name:
            return self  # nothing reads it
        signal = self.by_name[name]
        fed = [
            Edge(OUTPUT, output, signal.name, element, FED_BACK, 1, 1.0)
            for element, output in enumerate(outputs)
        ]
        return dataclasses.replace(self, edges=(*self.edges, *fed))

    def graph(self) -> "nx.MultiDiGraph[str]":
        """Signals as nodes and edges between them, each with its attributes."""
        import networkx as nx  # loads when first used

        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(
            program=self.program, target=self.target, dtype=self.dtype
        )
        for signal in self.signals:
            graph.add_node(signal.name, **dataclasses.asdict(signal))
        graph.add_node(OUTPUT, kind=OUTPUT, layer=len(self.units))
        for edge in self.edges:
            graph.add_edge(edge.source, edge.target, **dataclasses.asdict(edge))
        return graph

    def signal_edges(self) -> set[tuple[str, str]]:
        """Which signal reads which, without the self-loops of states and what is fed back."""
        return {(edge.source, edge.target) for edge in self.wires if edge.source != edge.target}

    def draw(self, path: str | os.PathLike[str] | None = None, *, whole: bool = False) -> Drawing:
        """Draw the circuit: signals as boxes with their formulas, layer by layer, edges by kind.

        Args:
          path: where to save it too; its suffix decides the format (.svg, .pdf, .png).
          whole: also draw what is more than a page.

        Returns:
          The drawing, which notebooks show.

        Raises:
          InputError: matplotlib is not installed and the format is not SVG, the circuit is too
            large, or the format is unknown.
          OSError: the file can't be written.
        """
        # Constants that nothing reads but through a bias would only take room.
        ends = {name for edge in self.edges for name in (edge.source, edge.target)}
        drawn = [one for one in self.signals if one.kind != "constant" or one.name in ends]
        layers = [
            Layer(f"layer {layer}" if layer else "input", found)
            for layer in range(len(self.units))
            if (found := [signal.name for signal in drawn if signal.layer == layer])
        ]
        fed = {edge.target for edge in self.edges if edge.kind == FED_BACK}
        said = f"fed back: {', '.join(sorted(fed))}" if fed else ""
        # One arrow for all elements.
        return drawing(
            f"{self.program} on {self.target}",
            [*layers, Layer("", [OUTPUT])],
            {**{one.name: _box(one) for one in drawn}, OUTPUT: Box(OUTPUT, said, "", OUTPUT)},
            [Link(edge.source, edge.target, edge.kind) for edge in self.wires],
            whole=whole,
            path=path,
        )

    def _repr_html_(self) -> str:
        """For notebooks: the first page of the drawing, and a table of the signals."""
        rows = [
            (one.name, one.layer, one.expression,
             range_text(one.width, min(one.low), max(one.high)), one.source)
            for one in self.signals
        ]  # fmt: skip
        table = Table("signals", ("signal", "layer", "is", "", "line"), rows, shut=True)
        return card(f"Circuit of {self.program} on {self.target}", (), table, svg=self.draw().svg)

    def with_sources(self, told: Callable[[str], str]) -> "Circuit":
        """The circuit with each line of the program told otherwise, as without its folder."""
        signals = tuple(replace(one, source=told(one.source)) for one in self.signals)
        derived = tuple(replace(one, source=told(one.source)) for one in self.derived)
        return replace(self, signals=signals, derived=derived)

    # ------------------------------------------------------------ JSON

    def to_json(self) -> str:
        """The documented JSON form; the same circuit gives the same text."""
        content = sealed.seal(FORM, _without_infinity(dataclasses.asdict(self)))
        return json.dumps(content, allow_nan=False, separators=(",", ":"))

    def to_content(self) -> dict[str, Json]:
        """The JSON form without a checksum, for a file that has its own."""
        content = {"format": FORM.name, "version": 1, **dataclasses.asdict(self)}
        return dict(_without_infinity(content))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON form to a file."""
        replace_file(path, self.to_json().encode())

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "circuit") -> "Circuit":
        """Read the JSON form, and check that it fits together.

        Args:
          text: what `to_json` gave.
          where: for messages, where the text came from.

        Raises:
          FormatError: not JSON, not a circuit, of a newer version, changed since it was written, or
            it contradicts itself.
        """
        try:
            return cls.from_content(schema.parse(text), where)
        except FieldError as error:
            raise _bad(where, error) from error

    @classmethod
    def from_content(cls, content: object, where: str) -> "Circuit":
        """Read JSON data of any version, and check that they fit together; see `from_json`."""
        try:
            circuit = _READ(sealed.unseal(FORM, content))
        except FieldError as error:
            raise _bad(where, error) from error
        problems = list(circuit.problems())
        if problems:
            raise FormatError(f"{where}: {'; '.join(problems[:5])}")
        return circuit

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Circuit":
        """Read a file that `save` wrote.

        Raises:
          FormatError: as for `from_json`.
          OSError: the file can't be read.
        """
        return cls.from_json(Path(path).read_bytes(), os.fspath(path))

    def problems(self) -> Iterable[str]:
        """What contradicts itself: unknown signals, elements, units, and units without a label."""
        widths = {signal.name: signal.width for signal in self.signals}
        if len(widths) != len(self.signals):
            yield "two signals have one name"
        for signal in self.signals:
            if not len(signal.low) == len(signal.high) == len(signal.step) == signal.width:
                yield f"{signal.name} has other numbers of bounds than of elements"
        for channel in self.channels:
            if not 0 <= channel.element < widths.get(channel.signal, 0):
                yield f"a channel holds {channel.signal}[{channel.element}], which there is not"
            if not 0 <= channel.layer < len(self.units):
                yield f"a channel of {channel.signal} is in layer {channel.layer}"
            elif any(not 0 <= unit < self.units[channel.layer] for unit in channel.units):
                yield f"layer {channel.layer} has no unit {max(channel.units)}"
            if len(channel.units) != len(channel.weights):
                yield f"a channel of {channel.signal} has other numbers of units and weights"
            if channel.directions and len(channel.directions) != len(channel.units):
                yield f"a channel of {channel.signal} has other numbers of units and directions"
            if channel.role not in get_args(Role):
                yield f"a channel has the role {channel.role!r}"
            if len(channel.memory) != len(channel.memory_weights):
                yield f"a channel of {channel.signal} has other numbers of entries and weights"
        for edge in self.edges:
            ends = (edge.source, edge.source_element), (edge.target, edge.target_element)
            for name, element in ends:
                if name != OUTPUT and not 0 <= element < widths.get(name, 0):
                    yield f"an edge names {name}[{element}], which there is not"
            if edge.kind not in get_args(EdgeKind):
                yield f"an edge is of the kind {edge.kind!r}"
        for derived in self.derived:
            if len(derived.bias) != derived.width:
                yield f"{derived.name} has other numbers of biases and elements"
            for element, name, read, _ in derived.terms:
                if not (0 <= element < derived.width and 0 <= read < widths.get(name, 0)):
                    yield f"{derived.name}[{element}] reads {name}[{read}], which there is not"
        for layer, labelled in enumerate(self._labelled()):
            # A file may tell of far more units than channels: they are not gone through.
            if len(labelled) < self.units[layer]:
                unit = next(unit for unit in itertools.count() if unit not in labelled)
                yield f"unit {unit} of layer {layer} belongs to no signal"

    def labels(self) -> tuple[tuple[str, ...], ...]:
        """For each layer behind the input map, what each unit holds: names of signals."""
        found: list[list[list[str]]] = [[[] for _ in range(count)] for count in self.units]
        widths = {signal.name: signal.width for signal in self.signals}
        for channel in self.channels:
            name = channel.signal
            label = name if widths[name] == 1 else element_name(name, channel.element)
            for unit in channel.units:
                found[channel.layer][unit].append(label)
        return tuple(tuple(" + ".join(each) for each in layer) for layer in found[1:])

    def unlabelled(self) -> list[tuple[int, int]]:
        """Units that no channel names: (layer, unit)."""
        return [
            (layer, unit)
            for layer, labelled in enumerate(self._labelled())
            for unit in range(self.units[layer])
            if unit not in labelled
        ]

    def _labelled(self) -> list[set[int]]:
        """By layer the units that channels name, of those that there are."""
        found: list[set[int]] = [set() for _ in self.units]
        for channel in self.channels:
            if channel.layer < len(self.units):
                count = self.units[channel.layer]
                found[channel.layer].update(unit for unit in channel.units if 0 <= unit < count)
        return found


def _bad(where: str, error: FieldError) -> FormatError:
    return FormatError(
        f"{where}: a circuit can't be read: {error}; write it again with circuit.save(path), and a "
        "circuit of your own as dataclasses.replace(circuit, ...).save(path)"
    )


def _box(signal: Signal) -> Box:
    remark = range_text(signal.width, min(signal.low), max(signal.high))
    said = "" if signal.expression == signal.name else signal.expression
    return Box(signal.name, said, remark, signal.kind)


# JSON has no infinity: null stands for it in these attributes.
_INFINITE = {"low": -math.inf, "high": math.inf, "step": math.inf}
# What the types of fields do not say.
_COUNT = schema.integer(0)
_FINITE = schema.number(infinite=False)
_FIELDS: Mapping[str, Reader[object]] = {
    **{name: schema.listed(schema.maybe(_FINITE, one)) for name, one in _INFINITE.items()},
    **dict.fromkeys(("layer", "width", "element", "source_element", "target_element"), _COUNT),
    "lag": _COUNT,
    **dict.fromkeys(("memory", "units"), schema.listed(_COUNT)),
    "terms": schema.listed(schema.paired(_COUNT, schema.text, _COUNT, _FINITE)),
}


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_infinity(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(item) for item in value]
    return None if value in (float("inf"), float("-inf")) else value


_READ = schema.record(
    {
        field.name: _FIELDS.get(field.name)
        or schema.reader_of(get_type_hints(Circuit)[field.name], _FIELDS, {float: _FINITE})
        for field in dataclasses.fields(Circuit)
    },
    make=Circuit,
)
