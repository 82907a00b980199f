"""Scheduling: levels and lifetimes, and the layers that follow from them.

A program's graph becomes a stack of layers as instructions become registers: each node gets a
level (`lsrl.levels`), and a value is carried through the layers between its making and its last
reading.

Position p lies behind layer p; position 0 is what the input map makes. A node *reads* at a
position: a nonlinear unit that reads at p stands in layer p + 1 and is available from position
p + 1 on; an affine map is available where it reads, since it folds into whatever reads it. A linear
state that reads at p stands in layer p + 1 and is available at p already, because the units of its
own layer can read it through the layer's recurrence. Schedules that are to be inspected do without
that: there, a value is read nowhere but in the channels that hold it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from lsrl.errors import LsrlError
from lsrl.ir import ops
from lsrl.ir.graph import Graph
from lsrl.ir.labels import element_name
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit, repeated
from lsrl.levels import AT_INPUT, NONLINEAR, LevelProblem, Levels, latency
from lsrl.target import Capabilities

# What stands in a layer.
IN_LAYERS = NONLINEAR | {ops.LinearState}
# Of how many held channels a row may be made anew where it is read, in place of being held.
MOST_REMADE = 2
# A node that a layer holds, and how its units compute.
_Member = tuple[int, type[ops.Op]]


class Rows(NamedTuple):
    """Affine rows of a layer's units: recurrent @ units_{t-1} + inputs @ previous layer + bias."""

    recurrent: sp.csr_array  # (rows, channels), over this layer at t - 1
    inputs: sp.csr_array  # (rows, channels of the previous layer), at t
    bias: Array  # (rows,)
    exact: bool = True  # whether float64 held every weight exactly while rows were composed


@dataclass(frozen=True, eq=False)
class Unit:
    """A group of units of a layer that hold one node.

    Attributes:
      node: the node of the scheduled graph.
      kind: the op that the units carry out: that of the node, or an affine map where they hold a
        value that is made elsewhere.
      whole: the rows of all channels of the layer, as in `Layer.rows`.
      exact: for each slot whether float64 held the weights while rows were composed.
      channels: which channels of the node are held.
      start: position of the group's first channel in the layer.
    """

    node: int
    kind: type[ops.Op]
    whole: tuple[Rows, ...]
    exact: tuple[bool, ...]
    channels: Array  # (width,) int
    start: int

    @cached_property
    def slots(self) -> tuple[Rows, ...]:
        """The rows that each operand reads: one, or two for product and selective units."""
        own = slice(self.start, self.start + self.width)
        return tuple(
            Rows(_csr(rows.recurrent, own), _csr(rows.inputs, own), rows.bias[own], exact)
            for rows, exact in zip(self.whole, self.exact, strict=False)
        )

    @property
    def width(self) -> int:
        """Number of channels held."""
        return len(self.channels)


@dataclass(frozen=True, eq=False)
class Layer:
    """One recurrent layer.

    Attributes:
      units: the groups of channels, in order.
      initial: (width,) value of each channel at t = -1; zero except for states.
      rows: what all channels read, by slot, of as many as some unit has; nothing where another
        has no second one.
    """

    units: tuple[Unit, ...]
    initial: Array
    rows: tuple[Rows, ...]

    @property
    def width(self) -> int:
        """Number of channels."""
        return sum(unit.width for unit in self.units)


class Wide(Protocol):
    """What has a number of channels."""

    @property
    def width(self) -> int:
        """Channels."""


class Layout(Protocol):
    """What models, tables and drawings ask of a schedule, whatever a target's layers are."""

    @property
    def graph(self) -> Graph:
        """The legalised graph."""

    @property
    def levels(self) -> "Levels":
        """What the layers follow from; empty where they follow from the graph alone."""

    @property
    def layers(self) -> Sequence["Wide"]:
        """The layers, each with its `width`."""

    @property
    def width(self) -> int:
        """Channels of the widest layer."""

    @property
    def critical_path(self) -> int:
        """The least possible number of layers."""

    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The name of the signal in each channel behind each layer."""

    def contents(self) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]:
        """For each layer its groups of channels: how they compute, and the signals they hold."""

    def made_in(self) -> dict[int, int]:
        """The layer that makes each node, by node id; 0 for what the input map makes."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """A program as a stack of layers between an input map and an output map.

    Attributes:
      graph: the legalised graph.
      features: nodes that the input map makes, in order; layer 1 reads them.
      layers: the recurrent layers.
      output: rows of the output over the last layer (`recurrent` is empty).
      critical_path: the least possible number of layers.
      levels: the solution of the linear program that the layers follow from.
    """

    graph: Graph
    features: tuple[int, ...]
    layers: tuple[Layer, ...]
    output: Rows
    critical_path: int
    levels: Levels

    @property
    def width(self) -> int:
        """Channels of the widest layer."""
        return max(layer.width for layer in self.layers)

    @cached_property
    def feature_width(self) -> int:
        """Channels that the input map makes."""
        return sum(self.graph.nodes[i].width for i in self.features)

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Channels that each layer reads."""
        return (self.feature_width, *(layer.width for layer in self.layers[:-1]))

    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The name of the signal in each channel of each layer."""
        return tuple(
            tuple(name for _, names in groups for name in names) for groups in self.contents()
        )

    def contents(self) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]:
        """For each layer its units: kind, and the signals they hold."""
        return tuple(tuple(self._content(unit) for unit in layer.units) for layer in self.layers)

    def _content(self, unit: Unit) -> tuple[str, tuple[str, ...]]:
        known = {ops.Affine: "carry", ops.LinearState: "state"}
        kind = known.get(unit.kind, unit.kind.__name__.removesuffix("State").lower())
        return kind, tuple(channel_label(self.graph, unit.node, int(c)) for c in unit.channels)

    def made_in(self) -> dict[int, int]:
        """The layer that makes each node; 0 for what the input map makes."""
        made = {
            unit.node: number
            for number, layer in reversed(list(enumerate(self.layers, start=1)))
            for unit in layer.units
            if unit.kind is not ops.Affine
        }
        return all_made_in(self.graph, made)


def all_made_in(graph: Graph, made: dict[int, int]) -> dict[int, int]:
    """The layer of each live node: an affine map belongs to the last layer that it reads."""
    found: dict[int, int] = {}
    for node in graph.live():
        read = [found[operand] for operand in graph.nodes[node].operands]
        found[node] = made.get(node, max(read, default=0))
    return found


def channel_label(graph: Graph, node: int, channel: int) -> str:
    """The signal's name, with the channel's index where it has several."""
    name = graph.label(node)
    return name if graph.nodes[node].width == 1 else element_name(name, channel)


def schedule_layers(
    graph: Graph,
    target: Capabilities,
    levels: Levels | None = None,
    *,
    inspectable: bool = False,
) -> Schedule:
    """Give every live node a level, and work out the rows of every layer.

    Args:
      graph: a graph in the target's native ops.
      target: what the cell can do.
      levels: an earlier solution to follow instead of solving the linear program.
      inspectable: whether every value is held as long as it is read.

    Raises:
      LsrlError: they are no levels of this graph.
    """
    problem = LevelProblem(graph, target)
    solution = problem.solve() if levels is None else problem.check(levels)
    lifetimes = {
        i: _Lifetime(reads, reads + latency(graph.nodes[i].op, target), last)
        for i, (reads, last) in solution.items()
    }
    features = tuple(i for i in sorted(lifetimes) if isinstance(graph.nodes[i].op, AT_INPUT))
    members = list(_members(graph, lifetimes, problem.depth))
    layers, output = _drawn(graph, features, lifetimes, members)
    fewer = members if inspectable else [_without_remade(graph, level) for level in members]
    if fewer != members:
        other = _drawn(graph, features, lifetimes, fewer)
        if _is_smaller(other, (layers, output)):
            layers, output = other
    return Schedule(graph, features, layers, output, problem.critical_path, solution)


def _drawn(
    graph: Graph,
    features: tuple[int, ...],
    lifetimes: "dict[int, _Lifetime]",
    members: Sequence[Sequence[_Member]],
) -> tuple[tuple[Layer, ...], Rows]:
    """The layers that hold these nodes, and the rows of the output."""
    before = _Held.of(graph, features)
    feature_width = before.size
    drafts = []
    for level, held in enumerate(members, start=1):
        drafts.append(_Draft(graph, held, before))
        visible = [node for node, _ in held if lifetimes[node].last >= level]
        before = drafts[-1].held.only(visible)
    drawn = _Draft(graph, [], before).express(graph.output)
    return _pruned(graph, feature_width, drafts, drawn)


def _without_remade(graph: Graph, members: Sequence[_Member]) -> list[_Member]:
    """Leave out the affine maps of which each row is made anew of two held channels at most.

    The linear program holds such a map from where it first is read, even where all that it reads is
    held for others as well.
    """
    affine = [node for node, _ in members if type(graph.nodes[node].op) is ops.Affine]
    if not affine:
        return list(members)
    others = [node for node, _ in members if type(graph.nodes[node].op) is not ops.Affine]
    draft = _Draft(graph, [], _Held.of(graph, others))
    told, remade = dict.fromkeys(others, True), set()
    for node in affine:
        if _is_told(graph, node, told):
            rows = draft.express(node)
            entries = np.bincount(rows.inputs.entry_rows(), minlength=1)
            if rows.exact and entries.max() <= MOST_REMADE:
                remade.add(node)
    return [member for member in members if member[0] not in remade]


def _is_told(graph: Graph, node: int, told: dict[int, bool]) -> bool:
    """Whether a node is an affine map of nodes that are told; `told` remembers what was seen."""
    pending = [node]
    while pending:
        this = graph.nodes[pending[-1]]
        affine = type(this.op) is ops.Affine and not graph.facts[pending[-1]].constant
        unknown = [o for o in this.operands if o not in told] if affine else []
        pending += unknown
        if not unknown:
            last = pending.pop()
            found = all(told[o] for o in this.operands) if affine else graph.facts[last].constant
            told.setdefault(last, found)
    return told[node]


def _is_smaller(
    drawn: tuple[tuple[Layer, ...], Rows], other: tuple[tuple[Layer, ...], Rows]
) -> bool:
    """Whether layers have fewer weights than others, and none of them is wider."""
    (layers, output), (known, last) = drawn, other
    wider = any(layer.width > same.width for layer, same in zip(layers, known, strict=True))
    return not wider and _nonzeros(layers, output) < _nonzeros(known, last)


def _nonzeros(layers: Sequence[Layer], output: Rows) -> int:
    every = [*(rows for layer in layers for rows in layer.rows), output]
    return sum(rows.recurrent.nnz + rows.inputs.nnz for rows in every)


class _Lifetime(NamedTuple):
    reads: int  # the position at which the node reads its operands
    available: int  # the first position at which others can read it
    last: int  # the last position at which others read it


def _members(graph: Graph, lifetimes: dict[int, _Lifetime], depth: int) -> Iterator[list[_Member]]:
    """Nodes that each layer holds, and how: made there, or carried through it."""
    made: list[list[int]] = [[] for _ in range(depth)]
    carried: list[list[int]] = [[] for _ in range(depth)]
    for node, life in sorted(lifetimes.items()):
        layers = range(life.available, min(life.last, depth))
        if type(graph.nodes[node].op) in IN_LAYERS:
            made[life.reads].append(node)
            layers = range(max(life.available, life.reads + 1), layers.stop)
        if layers:
            carried[layers.start].append(node)
    held: list[int] = []
    for level in range(1, depth + 1):
        held = [node for node in held if lifetimes[node].last >= level] + carried[level - 1]
        members = [(node, type(graph.nodes[node].op)) for node in made[level - 1]]
        yield sorted([*members, *((node, ops.Affine) for node in held)], key=itemgetter(0))


@dataclass(frozen=True)
class _Held:
    """Where the nodes that a layer holds start among its channels."""

    starts: dict[int, int]
    size: int

    @classmethod
    def of(cls, graph: Graph, nodes: Sequence[int]) -> "_Held":
        *starts, size = accumulate((graph.nodes[node].width for node in nodes), initial=0)
        return cls(dict(zip(nodes, starts, strict=True)), size)

    def only(self, nodes: Sequence[int]) -> "_Held":
        return _Held({node: self.starts[node] for node in nodes}, self.size)

    def picking(self, node: int, width: int) -> Matrix:
        """(width, size): the node's channels."""
        return Matrix.selection(self.starts[node] + np.arange(width), self.size)

    def reading(self, weight: Matrix, node: int) -> Matrix:
        """(rows, size): a weight of the node's channels."""
        return weight.among(self.starts[node], self.size)


class _Draws(NamedTuple):
    """Rows of a draft: over all its channels, and all of the draft before."""

    recurrent: Matrix
    inputs: Matrix
    bias: Array
    exact: bool = True


class _Draft:
    """One layer with all the channels of its nodes; `_pruned` drops those that nothing reads."""

    def __init__(self, graph: Graph, members: Sequence[_Member], before: _Held) -> None:
        self.graph = graph
        self.members = members
        self.before = before
        self.held = _Held.of(graph, [node for node, _ in members])
        self._states = {node for node, kind in members if kind is ops.LinearState}
        self._known: dict[int, _Draws] = {}
        self._empty: dict[int, _Draws] = {}
        self.slots = [self._slots(node, kind) for node, kind in members]
        # What lies between is of no more use, and takes as much room.
        self._known = {}

    def _slots(self, node: int, kind: type[ops.Op]) -> tuple[_Draws, ...]:
        if kind in (ops.Affine, ops.LinearState):
            return (self.express(node),)
        this = self.graph.nodes[node]
        slots = tuple(self.express(operand) for operand in this.operands)
        if isinstance(this.op, ops.ThresholdState | ops.RecurrentState):
            feedback = self.held.reading(this.op.transition, node)
            slots = (slots[0]._replace(recurrent=slots[0].recurrent + feedback),)
        return slots

    def express(self, node: int) -> _Draws:
        """A node's value as rows over this layer at t - 1, the layer before at t, and one."""
        if node not in self._known:
            self._known[node] = self._express(node)
        return self._known[node]

    def empty(self, width: int) -> _Draws:
        """Rows that read nothing."""
        if width not in self._empty:
            sizes = self.held.size, self.before.size
            recurrent, inputs = (Matrix.zeros(width, size) for size in sizes)
            self._empty[width] = _Draws(recurrent, inputs, np.zeros(width))
        return self._empty[width]

    def _express(self, node: int) -> _Draws:
        this = self.graph.nodes[node]
        width, empty = this.width, self.empty(this.width)
        if node in self.before.starts:
            return empty._replace(inputs=self.before.picking(node, width))
        if node in self._states and isinstance(this.op, ops.LinearState):
            update = self.express(this.operands[0])
            carried = self.held.reading(this.op.transition, node)
            return update._replace(recurrent=update.recurrent + carried)
        if self.graph.facts[node].constant:
            # Before the affine maps: nothing carries what a constant row of theirs reads.
            return empty._replace(bias=self.graph.facts[node].low)
        if isinstance(this.op, ops.Affine):
            return self._composed(this.op, this.operands)
        raise LsrlError(f"{self.graph.label(node)} is read in a layer that does not hold it")

    def _composed(self, op: ops.Affine, operands: tuple[int, ...]) -> _Draws:
        """An affine map over the rows of what it reads."""
        # A sum with 0.0 in it is never -0.0.
        width, bias, exact = len(op.bias), np.array(op.bias) + 0.0, True
        recurrent, inputs = list[Matrix](), list[Matrix]()
        for weight, operand in zip(op.weights, operands, strict=True):
            if operand in self.before.starts:
                inputs.append(self.before.reading(weight, operand))
                continue
            part = self.express(operand)
            exact = exact and part.exact and _composes_exactly(weight, part)
            for found, rows in ((recurrent, part.recurrent), (inputs, part.inputs)):
                if weight.nonzeros and rows.nonzeros:
                    found.append(weight @ rows)
            if part.bias.any():
                bias = bias + weight.times(part.bias)
        return _Draws(
            Matrix.total(recurrent, (width, self.held.size)),
            Matrix.total(inputs, (width, self.before.size)),
            bias,
            exact,
        )


def _composes_exactly(weight: Matrix, part: _Draws) -> bool:
    """Whether weight @ part has only entries that float64 holds exactly."""
    if weight.nonzeros <= weight.rows and (np.abs(weight.data) == 1).all():
        return True
    most = float(np.abs(part.bias).max(initial=0.0))
    largest = max(part.recurrent.largest, part.inputs.largest, most)
    if not largest or not weight.nonzeros:
        return True
    least = float(lowest_bit(part.bias).min(initial=np.inf)) if most else np.inf
    unit = weight.unit * min(part.recurrent.unit, part.inputs.unit, least)
    per_row = np.bincount(weight.entry_rows(), np.abs(weight.data)).max()
    return bool(per_row * largest <= 2.0**53 * unit)


_Stack = tuple[list[Matrix], list[Matrix]]


def _pruned(
    graph: Graph, feature_width: int, drafts: list[_Draft], output: _Draws
) -> tuple[tuple[Layer, ...], Rows]:
    """Drop the channels that nothing reads, last layer first, and number the rest.

    Drafts are taken off their list, so that no more than two stand beside the layers at a time.
    """
    layers: list[Layer] = []
    above: tuple[_Draft, _Stack, Array] | None = None
    wanted, columns = _read([output.inputs], slice(None)), np.zeros(0, dtype=bool)
    while drafts:
        draft = drafts.pop()
        stack = _stacked(draft)
        keep = _reached(wanted, stack[0])
        wanted = _read(stack[1], keep)
        if above is None:
            columns = keep
        else:
            layers.append(_layer(graph, *above, keep))
        above = draft, stack, keep
    if above is not None:
        layers.append(_layer(graph, *above, np.ones(feature_width, dtype=bool)))
    # A sum with 0.0 in it is never -0.0, so a step need not look for zeros with a sign.
    bias, nothing = output.bias + 0.0, sp.csr_array((len(output.bias), 0))
    last = Rows(nothing, output.inputs.keep(columns).csr, bias, output.exact)
    return tuple(reversed(layers)), last


def _read(matrices: Sequence[Matrix], rows: Array | slice) -> Array:
    """Which columns some of the rows read, of matrices of one width."""
    found = np.zeros(matrices[0].columns, dtype=bool)
    for matrix in matrices:
        wanted = np.zeros(matrix.rows, dtype=bool)
        wanted[rows] = True
        found[matrix.indices[wanted[matrix.entry_rows()]]] = True
    return found


def _reached(wanted: Array, reads: Sequence[Matrix]) -> Array:
    """The wanted channels, all that they read at t - 1, all that those read, and so on."""
    rows = np.concatenate([matrix.entry_rows() for matrix in reads])
    sources = np.concatenate([matrix.indices for matrix in reads])
    further = ~wanted[sources]
    if not further.any():
        return wanted
    from scipy.sparse import csgraph

    # From a vertex of its own, which reads all that are wanted.
    size, first = len(wanted), np.flatnonzero(wanted)
    rows = np.concatenate([rows[further], np.full(len(first), size)])
    sources = np.concatenate([sources[further], first])
    edges = sp.csr_array((np.ones(len(rows)), (rows, sources)), (size + 1, size + 1))
    found = csgraph.breadth_first_order(edges, size, return_predecessors=False)
    reached = np.zeros(size + 1, dtype=bool)
    reached[found] = True
    return reached[:-1]


def _stacked(draft: _Draft) -> _Stack:
    """What the channels of a layer read of it and of the layer before: a row each, slot by slot."""
    recurrent, inputs = [], []
    for slot in range(max(map(len, draft.slots), default=1)):
        draws = [slots[slot] for slots in draft.slots if slot < len(slots)]
        starts = [
            draft.held.starts[node]
            for (node, _), slots in zip(draft.members, draft.slots, strict=True)
            if slot < len(slots)
        ]
        size = draft.held.size
        recurrent.append(_placed([each.recurrent for each in draws], starts, (size, size)))
        inputs.append(_placed([each.inputs for each in draws], starts, (size, draft.before.size)))
    return recurrent, inputs


def _placed(parts: Sequence[Matrix], starts: Sequence[int], shape: tuple[int, int]) -> Matrix:
    """A matrix with these ones among its rows, in order."""
    counts = np.zeros(shape[0], dtype=np.int64)
    for part, start in zip(parts, starts, strict=True):
        counts[start : start + part.rows] = np.diff(part.indptr)
    data = np.concatenate([np.zeros(0), *(part.data for part in parts)])
    columns = np.concatenate([np.zeros(0, np.int32), *(part.indices for part in parts)])
    return Matrix.stored(data, columns, np.concatenate([[0], np.cumsum(counts)]), shape)


def _layer(graph: Graph, draft: _Draft, stack: _Stack, keep: Array, columns: Array) -> Layer:
    picked = np.flatnonzero(keep)
    # Of all units at once, slot by slot.
    recurrent, inputs = (
        [whole.take(picked).keep(read) for whole in wholes]
        for wholes, read in zip(stack, (keep, columns), strict=True)
    )
    biases = [np.zeros(len(keep)) for _ in recurrent]
    exact = [True for _ in recurrent]
    for (node, _), slots in zip(draft.members, draft.slots, strict=True):
        first = draft.held.starts[node]
        for k, slot in enumerate(slots):
            biases[k][first : first + len(slot.bias)] = slot.bias
            exact[k] = exact[k] and slot.exact
    whole = tuple(
        Rows(read.csr, before.csr, bias[picked], exactly)
        for read, before, bias, exactly in zip(recurrent, inputs, biases, exact, strict=True)
    )
    units, initial, start = [], np.zeros(len(picked)), 0
    for (node, kind), slots in zip(draft.members, draft.slots, strict=True):
        first = draft.held.starts[node]
        channels = np.flatnonzero(keep[first : first + graph.nodes[node].width])
        if not len(channels):
            continue
        exactly = tuple(slot.exact for slot in slots)
        units.append(Unit(node, kind, whole[: len(slots)], exactly, channels, start))
        values = getattr(graph.nodes[node].op, "initial", None)
        if values is not None and kind is not ops.Affine:
            initial[start : start + len(channels)] = np.array(values)[channels]
        start += len(channels)
    return Layer(tuple(units), repeated(initial), whole)


def _csr(matrix: sp.csr_array, rows: slice) -> sp.csr_array:
    """Some rows that follow one another."""
    starts = matrix.indptr[rows.start : rows.stop + 1]
    entries = slice(starts[0], starts[-1])
    parts = matrix.data[entries], matrix.indices[entries], starts - starts[0]
    found = sp.csr_array(parts, (len(starts) - 1, matrix.shape[1]))
    found.has_canonical_format = True
    return found
