"""What is true of a network, in the form in which claims are scored.

From `Circuit`, at two levels:

- Signals: s -> t is an edge if t is computed of s; `output` reads what the output map reads. A node
  is true if a path leads from it to the output.
- Units: unit i of a layer's hook -> unit j of the next one's is an edge if j's layer makes an
  element there of the one that i holds. Recurrent ones are from a token to the next within a layer.
  Units of one channel (a sign pair, a gate pair) are one node, since what they hold they hold
  together; so are all units that share channels, as those of a rotated stream do.

Left out are constants, what a node reads of itself, and pairs of units of neighbouring layers that
hold the same element, since that is one signal that goes on. Distractors are nodes and edges that
are not true.

Signals that a dataset can't tell apart are one node (`equivalence_classes`), and what is constant
on it is left out.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from lsrl import arguments
from lsrl.circuit import OUTPUT, Circuit, Edge, Signal
from lsrl.errors import InputError
from lsrl.ir.numbers import Array

Element = tuple[str, int]
Key = TypeVar("Key", bound=Hashable)
# Equal up to an affine map: greatest difference, in standard deviations.
TOLERANCE = 1e-5
# The class of what is constant on a dataset.
CONSTANT = -1


# ---------------------------------------------------------------- what a dataset can't tell apart


@dataclass(frozen=True)
class Classes:
    """Which signals, and which elements of them, a dataset can't tell apart.

    Attributes:
      signals: by name the number of the class, `CONSTANT` for what never changes.
      elements: the same by (signal, element).
    """

    signals: Mapping[str, int]
    elements: Mapping[Element, int]

    def varying(self) -> dict[int, tuple[str, ...]]:
        """The signals of each class that varies."""
        found: dict[int, list[str]] = {}
        for name, number in self.signals.items():
            if number != CONSTANT:
                found.setdefault(number, []).append(name)
        return {number: tuple(names) for number, names in found.items()}

    def merged(self) -> list[tuple[str, ...]]:
        """The classes of several signals."""
        return [names for names in self.varying().values() if len(names) > 1]


def equivalence_classes(
    circuit: Circuit, values: Mapping[str, Array], tolerance: float = TOLERANCE
) -> Classes:
    """Put together what equals each other up to an affine map at every token of a dataset.

    Args:
      circuit: of the model.
      values: from `capture`, by name (batch, time, width).
      tolerance: greatest difference, in standard deviations.

    Returns:
      The classes. Signals of several elements are one class if each is an affine map of the other.

    Raises:
      InputError: the values of a signal are missing or of the wrong width.
    """
    columns: dict[str, Array] = {}
    for signal in _varying(circuit):
        if signal.name not in values:
            raise InputError(f"equivalence_classes: there are no values of {signal.name!r}")
        given = np.asarray(values[signal.name], np.float64)
        if given.shape[-1:] != (signal.width,):
            raise InputError(
                f"equivalence_classes: {signal.name!r} has {signal.width} elements, got values of "
                f"shape {given.shape}"
            )
        columns[signal.name] = _standard(given.reshape(-1, signal.width), tolerance)
    elements = {
        (name, element): matrix[:, element : element + 1]
        for name, matrix in columns.items()
        for element in range(matrix.shape[1])
    }
    return Classes(_numbered(columns, tolerance), _numbered(elements, tolerance))


def no_classes(circuit: Circuit) -> Classes:
    """Every signal and every element a class of its own."""
    signals = _varying(circuit)
    elements = [(s.name, element) for s in signals for element in range(s.width)]
    return Classes(
        {signal.name: number for number, signal in enumerate(signals)},
        {element: number for number, element in enumerate(elements)},
    )


def _varying(circuit: Circuit) -> list[Signal]:
    return [signal for signal in circuit.signals if signal.kind != "constant"]


def _standard(values: Array, tolerance: float) -> Array:
    """Columns of mean 0 and deviation 1; 0 where they are constant, or held by no channel."""
    values = np.where(np.isfinite(values).all(axis=0), values, 0.0)
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    constant = spread <= tolerance * np.abs(values).max(axis=0, initial=0.0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


def _numbered(columns: Mapping[Key, Array], tolerance: float) -> dict[Key, int]:
    """Class numbers, in the order in which the classes appear."""
    found: dict[Key, int] = {}
    bases: list[Array] = []  # an orthonormal one by class
    for name, matrix in columns.items():
        basis = _basis(matrix, tolerance)
        if not basis.shape[1]:
            found[name] = CONSTANT
            continue
        alike = (n for n, known in enumerate(bases) if _same(basis, known, tolerance))
        found[name] = next(alike, len(bases))
        if found[name] == len(bases):
            bases.append(basis)
    return found


def _basis(matrix: Array, tolerance: float) -> Array:
    """Orthonormal columns that span the given ones, times √rows, so that entries are about 1."""
    left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    rows = np.sqrt(len(matrix))
    return left[:, sizes > 10 * tolerance * rows] * rows


def _same(first: Array, second: Array, tolerance: float) -> bool:
    if first.shape != second.shape:
        return False
    rest = first - second @ (second.T @ first) / len(second)
    return bool(np.abs(rest).max() <= 10 * tolerance)


# ---------------------------------------------------------------- the truth


def counted_outputs(circuit: Circuit, count: int) -> list[int]:
    """The outputs that are asked about: those that no distractor feeds, or all of them.

    Args:
      circuit: of the network.
      count: how many outputs the network has.
    """
    idle = {(c.signal, c.element) for c in circuit.channels if c.role == "distractor"}
    fed = {
        edge.target_element
        for edge in circuit.edges
        if edge.target == OUTPUT and (edge.source, edge.source_element) in idle
    }
    return [column for column in range(count) if column not in fed] or list(range(count))


class Group(NamedTuple):
    """Units of one layer that hold elements of one class.

    Attributes:
      number: of the class.
      units: of the layer's hook.
      signals: whose elements.
      true: False for distractors.
    """

    number: int
    units: tuple[int, ...]
    signals: frozenset[str]
    true: bool


class Truth:
    """What is true of a circuit, at both levels, with what a dataset can't tell apart as one.

    Attributes:
      circuit: the circuit.
      classes: see `equivalence_classes`.
      groups: per layer, the units that count as one node.
      forward: per layer (groups, groups of the next layer) bool; the last (groups, 1).
      recurrent: per layer (groups, groups) bool.
      relevant: per layer (groups,) bool, whether a path leads to the output.
      signals: of each class that varies.
    """

    def __init__(self, circuit: Circuit, classes: Classes | None = None) -> None:
        """Work out the groups of units and the edges between them."""
        self.circuit = arguments.instance("a truth", circuit, Circuit, "model.circuit")
        self.classes = classes or no_classes(circuit)
        self.signals = self.classes.varying()
        self._index: dict[tuple[int, str, int], int] = {}
        self.groups = [self._grouped(layer) for layer in range(len(circuit.units))]
        self.forward, self.recurrent = self._edges()
        self.relevant = self._relevant()

    def _grouped(self, layer: int) -> list[Group]:
        groups: dict[int, Group] = {}
        for channel in self.circuit.channels:
            number = self.number(channel.signal, channel.element)
            if channel.layer != layer or channel.role == "constant" or number == CONSTANT:
                continue
            known = groups.get(number, Group(number, (), frozenset(), False))
            groups[number] = Group(
                number,
                tuple(dict.fromkeys((*known.units, *channel.units))),
                known.signals | {channel.signal},
                known.true or channel.role != "distractor",
            )
            self._index[layer, channel.signal, channel.element] = list(groups).index(number)
        return list(groups.values())

    def number(self, signal: str, element: int) -> int:
        """The class of an element."""
        return self.classes.elements.get((signal, element), CONSTANT)

    def _edges(self) -> tuple[list[Array], list[Array]]:
        counts = [len(groups) for groups in self.groups]
        forward = [np.zeros(shape, bool) for shape in zip(counts, [*counts[1:], 1], strict=True)]
        recurrent = [np.zeros((count, count), bool) for count in counts]
        made: dict[Element, list[int]] = {}
        for channel in self.circuit.channels:
            if channel.role != "constant" and self.circuit.makes(channel):
                made.setdefault((channel.signal, channel.element), []).append(channel.layer)
        last = len(counts) - 1
        for edge in self._read:
            source, target = (edge.source, edge.source_element), (edge.target, edge.target_element)
            if edge.target == OUTPUT:
                self._mark(forward[last], self._index.get((last, *source)), 0)
                continue
            for layer in made.get(target, ()):
                row = self._index.get((layer, *target))
                if edge.kind == "carry":
                    self._mark(recurrent[layer], self._index.get((layer, *source)), row)
                elif layer:
                    self._mark(forward[layer - 1], self._index.get((layer - 1, *source)), row)
        real = [self._real(layer) for layer in range(len(counts))]
        for layer, (here, behind) in enumerate(pairwise([*real, np.ones(1, bool)])):
            forward[layer] &= here[:, None] & behind
            recurrent[layer] &= here[:, None] & here
        return forward, recurrent

    def _real(self, layer: int) -> Array:
        """(groups,) bool: those that are no distractors."""
        return np.array([group.true for group in self.groups[layer]], bool)

    @cached_property
    def _read(self) -> list[Edge]:
        """The circuit's edges, without those to outputs that are not asked about."""
        rows = [edge.target_element for edge in self.circuit.edges if edge.target == OUTPUT]
        counted = set(counted_outputs(self.circuit, 1 + max(rows, default=0)))
        return [
            edge
            for edge in self.circuit.wires
            if edge.target != OUTPUT or edge.target_element in counted
        ]

    @staticmethod
    def _mark(matrix: Array, source: int | None, target: int | None) -> None:
        if source is not None and target is not None:
            matrix[source, target] = True

    def same(self, layer: int) -> Array:
        """(groups, groups of the next layer) bool, where a value goes on as it is."""
        if layer + 1 == len(self.groups):
            return np.zeros((len(self.groups[layer]), 1), bool)
        here, there = (
            np.array([group.number for group in groups], int)
            for groups in self.groups[layer : layer + 2]
        )
        return here[:, None] == there

    def blocks(self, layer: int) -> list[list[int]]:
        """Groups that share units, which claims about units can't tell apart."""
        found: list[tuple[set[int], list[int]]] = []
        for number, group in enumerate(self.groups[layer]):
            units, members = set(group.units), [number]
            for other in [block for block in found if block[0] & units]:
                units |= other[0]
                members = other[1] + members
                found.remove(other)
            found.append((units, members))
        return [members for _, members in found]

    def _relevant(self) -> list[Array]:
        found: list[Array] = []
        behind = np.ones(1, bool)
        for layer in reversed(range(len(self.groups))):
            reads = (self.forward[layer] | self.same(layer)) & behind
            now = reads.any(axis=1) & self._real(layer)
            for _ in self.groups[layer]:
                now = now | (self.recurrent[layer] & now).any(axis=1)
            found.append(now)
            behind = now
        return found[::-1]

    # ------------------------------------------------------------ signals

    @cached_property
    def distractors(self) -> frozenset[str]:
        """Signals of which nothing but distractors holds anything."""
        roles: dict[str, set[str]] = {}
        for channel in self.circuit.channels:
            roles.setdefault(channel.signal, set()).add(channel.role)
        return frozenset(name for name, found in roles.items() if found == {"distractor"})

    @cached_property
    def signal_edges(self) -> dict[tuple[int, int | str], bool]:
        """Whether there is an edge, by classes, for every pair that might have one.

        Those are the pairs of which the source is held in the layer below the one that makes the
        target, or in that layer itself.
        """
        true = {
            (self.classes.signals.get(source, CONSTANT), self._end(target))
            for source, target in {(edge.source, edge.target) for edge in self._read}
            if source != target and not {source, target} & self.distractors
        }
        held: dict[int, set[int]] = {number: set() for number in self.signals}
        for channel in self.circuit.channels:
            number = self.classes.signals.get(channel.signal, CONSTANT)
            if number != CONSTANT:
                held[number].add(channel.layer)
        found: dict[tuple[int, int | str], bool] = {}
        last = len(self.circuit.units) - 1
        for source, sources in self.signals.items():
            layers = held[source].union(*({self.circuit.signal(n).layer} for n in sources))
            for target, names in self.signals.items():
                made = {self.circuit.signal(name).layer for name in names} - {0}
                below = made | {layer - 1 for layer in made}
                if source != target and (layers & below or (source, target) in true):
                    found[source, target] = (source, target) in true
            if last in layers or (source, OUTPUT) in true:
                found[source, OUTPUT] = (source, OUTPUT) in true
        return found

    def _end(self, name: str) -> int | str:
        return OUTPUT if name == OUTPUT else self.classes.signals.get(name, CONSTANT)

    @cached_property
    def signal_nodes(self) -> dict[int, bool]:
        """Whether a path leads to the output, by classes."""
        reached: set[int | str] = {OUTPUT}
        while True:
            more = {s for (s, t), true in self.signal_edges.items() if true and t in reached}
            if more <= reached:
                return {number: number in reached for number in self.signals}
            reached |= more
