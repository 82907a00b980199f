"""Directions of the hooks, each looked at as one thing, and what methods say of them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lsrl.circuit import OUTPUT, Circuit
from lsrl.interpret.faithfulness import channel_matrices
from lsrl.interpret.score import EdgeClaim, Level, NodeClaim
from lsrl.ir.numbers import Array


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

        def note(source: str, target: str, strength: Array) -> None:
            value = float(strength.max())
            found[source, target] = max(found.get((source, target), 0.0), value)

        for layer, held in enumerate(self.basis.signals):
            last = layer + 1 == len(self.basis.signals)
            above = {} if last else self.basis.signals[layer + 1]
            for source, rows in held.items():
                if last:
                    note(source, OUTPUT, self.forward[layer][rows])
                for target, columns in above.items():
                    if target != source and layers[target] == layer + 1:
                        note(source, target, self.forward[layer][rows][:, columns])
                for target, columns in held.items():
                    if target != source and layers[target] == layer:
                        note(source, target, self.recurrent[layer][rows][:, columns])
        return found
