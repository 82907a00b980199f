"""The circuits of residual networks: a channel of the stream holds a value from its site on."""

from collections.abc import Callable

from lsrl.backends.anatomy import ONE, CircuitBuilder, Element
from lsrl.backends.residual.rows import AtomRow
from lsrl.backends.residual.stream import Site, Stream
from lsrl.circuit import OUTPUT, Channel, Circuit, Signal
from lsrl.ir.ops import Hold, LinearState

ZERO = "zero"
STREAM = (
    "the residual stream after the layer (after each half of a Griffin layer); memory: the states "
    "of the layer's scan"
)


class StreamCircuit(CircuitBuilder):
    """The circuit of a residual network."""

    def __init__(self, names: tuple[str, str, str], stream: Stream, inspectable: bool) -> None:
        """Begin a circuit; see `CircuitBuilder`."""
        super().__init__(names, stream.graph, inspectable)
        self.stream = stream
        # Sums of several atoms go by the stream's name for them.
        self.elements: list[Element] = [(ONE, 0)]
        for signal, name in zip(stream.signals, stream.names, strict=True):
            (node, channel), weight = signal.terms[0]
            single = len(signal.terms) == 1 and weight == 1
            self.elements.append((self.name(node), channel) if single else (name, 0))

    def circuit(
        self, width: int, size: float, entry: Callable[[Site, int], tuple[int, float] | None]
    ) -> Circuit:
        """Every channel of the stream behind every site by its signal, and the edges.

        Args:
          width: of the stream.
          size: of the constant channel.
          entry: of the memory, which a channel of a site has, and what its value is of it; None
            where the value is no entry of its own.
        """
        stream = self.stream
        self.add_constant(ONE, 1.0, 0)
        used = len(stream.signals) + 1
        if used < width:
            self.add_constant(ZERO, 0.0, 0)
        for place, signal in enumerate(stream.signals, start=1):
            self._add(place, signal.site + 1)
        for layer in range(len(stream.sites) + 1):
            self.channels.append(Channel(layer, ONE, 0, "constant", (0,), (1 / size,)))
            for place, signal in enumerate(stream.signals, start=1):
                if signal.site >= layer:
                    self._empty(layer, place)
                    continue
                made = signal.site + 1 == layer
                memory = self._memory(place, entry) if made else ((), ())
                self.channels.append(Channel(
                    layer, *self.elements[place], "made" if made else "carried", (place,), (1.0,),
                    0.0, *memory,
                ))  # fmt: skip
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
        hull = self.stream.hull(AtomRow(signal.terms, 0.0))
        text = self.formulas.written(dict(signal.terms))
        low, high, step = ((float(end),) for end in (hull.low, hull.high, hull.step))
        self.signals.setdefault(
            name,
            Signal(name, "sum", layer, 1, text, self.graph.source(node), low, high, step, False),
        )

    def _memory(
        self, place: int, entry: Callable[[Site, int], tuple[int, float] | None]
    ) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The first scan that the value goes on in, and what its state adds to the value."""
        signal = self.stream.signals[place - 1]
        (node, _), _ = signal.terms[0]
        if signal.site < 0 or not isinstance(self.graph.nodes[node].op, LinearState | Hold):
            return (), ()
        site = self.stream.sites[signal.site]
        for index, weight in site.writes[place]:
            found = entry(site, index) if site.channels[index].mode != "pass" else None
            if found is not None:
                return (found[0],), (weight * found[1],)
        return (), ()

    def _read(self, row: AtomRow) -> list[tuple[Element, float]]:
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
            for opening in (channel.gate, channel.switch):
                if opening is not None:
                    self.add_edges(target, self._read(opening), "gate")
            for flag, factor in channel.flag:
                read = [(source, float(factor) * w) for source, w in self._read(flag.row)]
                self.add_edges(target, read, "gate")
            for row in () if channel.head is None else channel.head.keys:
                self.add_edges(target, self._read(row), "gate", 1)
            for row in () if channel.head is None else channel.head.queries:
                self.add_edges(target, self._read(row), "gate")
            if channel.mode != "pass":
                self.add_edges(target, [(target, channel.factor)], "carry", 1)
