"""What an exact network is as units and edges, the form that the event-driven runner works on.

A unit's value is what the network computes at its place; edges carry it to units of later stages,
or to the next token. Inputs are units that nothing drives. Rows of weights that are powers of two
times one another share a linear unit that adds them up once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from lsrl.backends.factors import csr, factor, picking
from lsrl.ir.numbers import Array
from lsrl.parameters import Parameter

# Kinds of units: a linear one, which a ReLU may shut; a product of two drives; and the stock cells.
LINEAR, PRODUCT, LSTM, GRU = range(4)
# Drives of a unit.
GATES = 4


class Cell(NamedTuple):
    """What the units of a layer are.

    Attributes:
      kind: of a unit.
      relu: whether they are shut below 0.
      inputs: the drives that its gates' input rows go to, in the order of the gates.
      recurrent: those that the recurrent rows go to.
      memory: whether a unit holds more than it shows.
    """

    kind: int = LINEAR
    relu: bool = False
    inputs: tuple[int, ...] = (0,)
    recurrent: tuple[int, ...] = (0,)
    memory: bool = False


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
      inputs: (before, gates * units), dense or sparse.
      recurrent: (units, gates * units).
      bias: (gates * units,).
      shown: of a linear layer (relu, left, right), each (outputs,), as its outputs read its units;
        None of a layer of cells.
    """

    inputs: Parameter
    recurrent: Parameter
    bias: Array
    shown: tuple[Array, Array, Array] | None = None


class Stack(NamedTuple):
    """A network of layers, as a target tells it.

    Attributes:
      cell: of all layers.
      maps: per program input (is a token, (vocabulary or width, features)); None if it is not read.
      input_bias: (features,).
      layers: first to last.
      output_kernel: (before, outputs).
      output_bias: (outputs,).
    """

    cell: Cell
    maps: tuple[tuple[bool, Parameter] | None, ...]
    input_bias: Array
    layers: tuple[Layer, ...]
    output_kernel: Parameter
    output_bias: Array


class Slot(NamedTuple):
    """A number that a token is read from.

    Attributes:
      input: of the program.
      first: unit: that of the id 0, or the unit itself.
      token: whether it is an id.
    """

    input: int
    first: int
    token: bool


class Leaf(NamedTuple):
    """Units whose state is an array of the network's state.

    Attributes:
      units: their numbers.
      field: "hidden", the drive of the last token; "value"; or "memory", of an LSTM.
    """

    units: Array
    field: str


class Handed(NamedTuple):
    """Units that are no longer looked at, since what another one shows tells what each would.

    Attributes:
      units: (handed,) that other one's number.
      scales: times which.
      offsets: plus what.
      least: that comes of it.
      most: that comes of it.
    """

    units: Array
    scales: Array
    offsets: Array
    least: Array
    most: Array

    def of(self, shown: Array) -> Array:
        """(handed,) of what units show (units,)."""
        return np.clip(self.scales * shown[self.units] + self.offsets, self.least, self.most)

    def behind(self, other: "Handed", own: Array) -> "Handed":
        """The same, of units of which each is the one of that number among others."""
        scales = self.scales * other.scales[own]
        ends = [self.scales * end[own] + self.offsets for end in (other.least, other.most)]
        least, most = (np.clip(end, self.least, self.most) for end in np.sort(ends, axis=0))
        offsets = self.scales * other.offsets[own] + self.offsets
        return Handed(other.units[own], scales, offsets, least, most)


NONE_HANDED = Handed(np.zeros(0, int), *np.zeros((4, 0)))


class Sums(NamedTuple):
    """What drives units of which a curve tells no more than what they show.

    Attributes:
      units: (sums,) their numbers.
      offsets: (sums,) what is added to the terms of each.
      starts: (sums + 1,) where they begin.
      terms: of all.
    """

    units: Array
    offsets: Array
    starts: Array
    terms: Handed


NO_SUMS = Sums(np.zeros(0, int), np.zeros(0), np.zeros(1, int), NONE_HANDED)


class Curves(NamedTuple):
    """Piecewise linear functions of units that add to the drives of others.

    Between the places where its functions bend a unit's numbers lie in segments. There each
    function is base + slope * (shown - origin); those that are not told are 0.

    Attributes:
      units: (sources,) whose functions they are.
      starts: (sources + 1,) where the segments of each begin.
      begins: (segments,) from where on, -inf of a unit's first one.
      origins: (segments,) where bases are told.
      ends: (segments + 1,) where what is told of each begins.
      drives: (told,) gates * unit + drive, that it is added to.
      slopes: (told,) of each.
      bases: (told,) of each.
    """

    units: Array
    starts: Array
    begins: Array
    origins: Array
    ends: Array
    drives: Array
    slopes: Array
    bases: Array

    def at(self, shown: Array, count: int) -> Array:
        """(count,) what is added to so many drives where units show so much (units,)."""
        found = np.zeros(count)
        for unit, first, last in zip(self.units, self.starts, self.starts[1:], strict=False):
            place = first + np.searchsorted(self.begins[first:last], shown[unit], "right") - 1
            own = slice(*self.ends[place : place + 2])
            by = shown[unit] - self.origins[place]
            np.add.at(found, self.drives[own], self.bases[own] + self.slopes[own] * by)
        return found


NO_CURVES = Curves(
    units=np.zeros(0, int),
    starts=np.zeros(1, int),
    begins=np.zeros(0),
    origins=np.zeros(0),
    ends=np.zeros(1, int),
    drives=np.zeros(0, int),
    slopes=np.zeros(0),
    bases=np.zeros(0),
)


@dataclass(frozen=True)
class Units:
    """All units of a network, by stage; unit 0 stands for no id.

    Attributes:
      slots: what is read.
      kinds: (units,) of each.
      lows: (units,) below which its value is 0: 0 of a ReLU, else -inf.
      bias: (units, gates).
      starts: (stages + 1,) the first unit of each stage.
      forward: (units, gates * units), entry [source, gates * target + drive].
      back: the same, to the next token.
      leaves: of the state.
      readout: the first output.
      outputs: how many.
      cells: whether they are stock cells with gates.
      handed: those that are left out; in leaves they have the numbers behind those of all units.
      curves: what is added to drives besides.
      sums: of units of linear layers that are not driven as the network drives them.
    """

    slots: tuple[Slot, ...]
    kinds: Array
    lows: Array
    bias: Array
    starts: Array
    forward: sparse.csr_array
    back: sparse.csr_array
    leaves: tuple[Leaf, ...]
    readout: int
    outputs: int
    cells: bool
    handed: Handed = NONE_HANDED
    curves: Curves = NO_CURVES
    sums: Sums = NO_SUMS

    @property
    def count(self) -> int:
        """Of units."""
        return len(self.kinds)

    @property
    def gates(self) -> int:
        """Drives of a unit: GATES, but 1 where no unit has more than one."""
        return int(self.bias.shape[1])

    @property
    def gated(self) -> bool:
        """Whether a unit has more than one drive."""
        return self.gates > 1

    @cached_property
    def entries(self) -> tuple[tuple[int | slice, int], ...]:
        """Which slots an input fills, and its number: one of a token, some on end of a vector."""
        found: list[tuple[int | slice, int]] = []
        for place, slot in enumerate(self.slots):
            if slot.token:
                found.append((place, slot.input))
            elif found and found[-1][1] == slot.input:
                start = found[-1][0].start  # type: ignore[union-attr]
                found[-1] = slice(start, place + 1), slot.input
            else:
                found.append((slice(place, place + 1), slot.input))
        return tuple(found)

    def numbers(self, inputs: Sequence[Array], axes: int) -> Array:
        """(..., slots) float64 of inputs, ids (...) or vectors (..., width), of so many axes."""
        given = np.zeros((*inputs[0].shape[:axes], len(self.slots)))
        for places, number in self.entries:
            given[..., places] = inputs[number]
        return given

    @cached_property
    def turned(self) -> tuple[sparse.csc_array, sparse.csc_array]:
        """Forward and back as (gates * units, units), of the same numbers in memory."""
        return self.forward.T, self.back.T

    @cached_property
    def drives(self) -> sparse.csr_array:
        """(gates * units, units) all edges, drive by drive."""
        return sparse.csr_array((self.forward + self.back).T.tocsr())


class _Builder:
    """Units and edges as they are put together."""

    def __init__(self) -> None:
        self.kinds: list[Array] = []
        self.lows: list[Array] = []
        self.biases: list[tuple[int, Array]] = []
        self.starts: list[int] = []
        self.count = 0
        self.edges: dict[bool, list[tuple[Array, Array, Array]]] = {False: [], True: []}

    def stage(self) -> None:
        """What is added from here on is behind all before."""
        self.starts.append(self.count)

    def add(
        self, count: int, kind: int = LINEAR, relu: Array | bool = False, bias: Array | None = None
    ) -> Array:
        """Units of the stage; returns their numbers. The bias is (count, up to GATES)."""
        if bias is not None:
            self.biases.append((self.count, bias))
        self.kinds.append(np.full(count, kind, np.uint8))
        self.lows.append(np.where(np.broadcast_to(relu, count), 0.0, -np.inf))
        self.count += count
        return np.arange(self.count - count, self.count, dtype=_number_of(self.count))

    def connect(
        self, sources: Array, targets: Array, kernel: sparse.csr_array, back: bool = False
    ) -> None:
        """Edges of a kernel (sources, targets); targets are GATES * unit + drive."""
        found = sparse.coo_array(kernel)
        self.edges[back].append((sources[found.row], targets[found.col], found.data))

    def factored(self, sources: Array, targets: Array, kernel: sparse.csr_array) -> None:
        """As `connect`, in a stage of its own where rows are alike."""
        factors = factor(kernel)
        if factors is None:
            self.connect(sources, targets, kernel)
            return
        shared, rest = factors
        between = self.add(shared.shape[1])
        self.connect(sources, GATES * between, shared)
        self.connect(np.concatenate([sources, between]), targets, rest)

    @property
    def gates(self) -> int:
        """As `Units.gates`; while units are put together there is room for all of them."""
        return GATES if any((kinds != LINEAR).any() for kinds in self.kinds) else 1

    def bias(self) -> Array:
        """Of all units, as `Units.bias`."""
        held = np.zeros((self.count, self.gates))
        for first, bias in self.biases:
            held[first : first + len(bias), : bias.shape[1]] = bias
        return held

    def matrix(self, back: bool) -> sparse.csr_array:
        """All edges of a kind, which are held no longer."""
        parts = self.edges.pop(back) or [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
        kinds = _number_of(self.count), _number_of(self.count), np.dtype(np.float64)
        rows, columns, weights = (
            np.concatenate(part, dtype=kind)
            for part, kind in zip(zip(*parts, strict=True), kinds, strict=True)
        )
        del parts
        if self.gates == 1:
            columns //= GATES
        shape = (self.count, self.gates * self.count)
        return csr(sparse.coo_array((weights, (rows, columns)), shape=shape))


def _number_of(units: int) -> np.dtype[np.signedinteger[Any]]:
    """Of so many units and their drives."""
    return np.dtype(np.int32 if GATES * units < 2**31 else np.int64)


def units_of(stack: Stack, watched: Sequence[Sequence[int]] | None = None) -> Units:
    """The units of a network.

    Args:
      stack: the network.
      watched: of each hook, that of the input map first: entries that are the outputs, one hook
        after another, in place of the network's; some hooks or all.
    """
    made = _Builder()
    made.add(1)
    slots, sources, kernel, bias = _inputs(made, stack)
    leaves: list[Leaf] = []
    hooks = [(sources, kernel, bias)]
    for layer in stack.layers:
        inputs, drive = _composed(kernel, bias, csr(layer.inputs), layer.bias)
        if layer.shown is not None:
            sources, leaf = _linear(made, sources, inputs, layer, layer.shown, drive)
            leaves.append(leaf)
        else:
            sources, found = _cells(made, stack.cell, sources, inputs, layer, drive)
            leaves.extend(found)
        kernel, bias = None, None
        hooks.append((sources, None, None))
    if watched is None:
        reads = [(hooks[-1], csr(stack.output_kernel), stack.output_bias)]
    else:
        reads = [
            (hook, picking(_entries(hook), entries), np.zeros(len(entries)))
            for hook, entries in zip(hooks, watched, strict=False)
        ]
    last = [(hook[0], *_composed(*hook[1:], *own)) for hook, *own in reads]
    made.stage()
    outputs = made.add(
        sum(read.shape[1] for _, read, _ in last),
        bias=np.concatenate([drive for _, _, drive in last])[:, None],
    )
    first = 0
    for own, read, _ in last:
        made.connect(own, GATES * outputs[first : first + read.shape[1]], read)
        first += read.shape[1]
    made.stage()
    if not stack.layers:
        leaves.append(Leaf(np.zeros(0, int), "hidden"))
    return Units(
        slots,
        np.concatenate(made.kinds),
        np.concatenate(made.lows),
        made.bias(),
        np.unique(made.starts),  # stages may be empty
        made.matrix(False),
        made.matrix(True),
        tuple(leaves),
        int(outputs[0]) if len(outputs) else 0,
        len(outputs),
        stack.cell.kind in (LSTM, GRU),
    )


# Units that show it, or of an input map what is left to multiply them with, and its bias.
_Hook = tuple[Array, sparse.csr_array | None, Array | None]


def _composed(
    kernel: sparse.csr_array | None, bias: Array | None, read: sparse.csr_array, drive: Array
) -> tuple[sparse.csr_array, Array]:
    """What reads the units of a hook, which are features but for a kernel, and its own bias.

    The features' bias reaches what reads them once and for all, if they are no units.
    """
    offset = np.asarray(drive, np.float64) + (0 if bias is None else bias @ read)
    return (read if kernel is None else csr(kernel @ read)), offset


def _entries(hook: _Hook) -> int:
    sources, kernel, _ = hook
    return len(sources) if kernel is None else int(kernel.shape[1])


def _inputs(
    made: _Builder, stack: Stack
) -> tuple[tuple[Slot, ...], Array, sparse.csr_array | None, Array | None]:
    """The slots, what the first layer reads, and what of the input map is left to multiply."""
    slots: list[Slot] = []
    maps = []
    for number, held in enumerate(stack.maps):
        if held is None:
            continue
        token, kernel = held
        maps.append(csr(kernel))
        own = made.add(kernel.shape[0])
        places = own[:1] if token else own
        slots.extend(Slot(number, int(first), token) for first in places)
    sources = np.arange(1, made.count)
    features = len(stack.input_bias)
    kernel = csr(sparse.vstack(maps)) if maps else csr(np.zeros((0, features)))
    bias = np.asarray(stack.input_bias, np.float64)
    if (
        (np.abs(np.frexp(kernel.data)[0]) == 0.5).all()
        and (np.bincount(kernel.indices, minlength=features) <= 1).all()
        and not bias.any()
    ):
        # Features that only hand on an input are no units.
        return tuple(slots), sources, kernel, None
    made.stage()
    middle = made.add(features, bias=bias[:, None])
    made.connect(sources, GATES * middle, kernel)
    return tuple(slots), middle, None, None


def _linear(
    made: _Builder, sources: Array, inputs: sparse.csr_array, layer: Layer,
    shown: tuple[Array, Array, Array], bias: Array,
) -> tuple[Array, Leaf]:  # fmt: skip
    """The outputs of a linear layer, and its hidden units."""
    relu, left, right = (np.asarray(part) for part in shown)
    relu, product = relu.astype(bool), right >= 0
    recurrent, count = csr(layer.recurrent), len(bias)
    read = np.bincount(left, minlength=count) + np.bincount(right[product], minlength=count)
    # An output that alone reads its unit is that unit, unless what the unit holds is read as well.
    held = np.diff(recurrent.indptr) > 0
    merged = ~product & (read[left] == 1) & ~(relu & held[left])
    shut = np.zeros(count, bool)
    shut[left[merged]] = relu[merged]
    sources, inputs = _factored(made, sources, inputs)
    hidden = made.add(count, relu=shut, bias=bias[:, None])
    made.connect(sources, GATES * hidden, inputs)
    made.connect(hidden, GATES * hidden, recurrent, back=True)
    outputs = hidden[left]
    if not merged.all():
        made.stage()
        own = np.flatnonzero(~merged & product)
        both = made.add(len(own), PRODUCT)
        ones = csr(sparse.eye_array(len(own)))
        made.connect(hidden[left[own]], GATES * both, ones)
        made.connect(hidden[right[own]], GATES * both + 1, ones)
        outputs[own] = both
        alone = np.flatnonzero(~merged & relu)
        made.stage()
        cut = made.add(len(alone), relu=True)
        made.connect(outputs[alone], GATES * cut, csr(sparse.eye_array(len(alone))))
        outputs[alone] = cut
    return outputs, Leaf(hidden, "hidden")


def _factored(
    made: _Builder, sources: Array, inputs: sparse.csr_array
) -> tuple[Array, sparse.csr_array]:
    """A stage for what reads sources, behind one of units that it shares; what it reads then."""
    made.stage()
    between = factor(inputs)
    if between is None:
        return sources, inputs
    shared = made.add(between[0].shape[1])
    made.connect(sources, GATES * shared, between[0])
    made.stage()
    return np.concatenate([sources, shared]), between[1]


def _cells(
    made: _Builder, cell: Cell, sources: Array, inputs: sparse.csr_array, layer: Layer, bias: Array
) -> tuple[Array, list[Leaf]]:
    """The units of a layer of cells, and their state."""
    recurrent = csr(layer.recurrent)
    count = recurrent.shape[0]
    sources, inputs = _factored(made, sources, inputs)
    drives = np.zeros((count, 1 + max(cell.inputs)))
    drives[:, list(cell.inputs)] = bias.reshape(len(cell.inputs), count).T
    own = made.add(count, cell.kind, cell.relu, drives)
    made.connect(sources, np.concatenate([GATES * own + gate for gate in cell.inputs]), inputs)
    targets = np.concatenate([GATES * own + gate for gate in cell.recurrent])
    made.connect(own, targets, recurrent, back=True)
    held = [Leaf(own, "memory")] if cell.memory else []
    return own, [*held, Leaf(own, "value")]


def maps_of(
    kinds: Sequence[str], arrays: Mapping[str, Parameter]
) -> tuple[tuple[bool, Parameter] | None, ...]:
    """The input maps of a stack, out of a network's arrays.

    Args:
      kinds: per program input "table", "kernel" or "" (not read).
      arrays: by flat name.
    """
    return tuple(
        (kind == "table", arrays[f"inputs.{number}.{kind}"]) if kind else None
        for number, kind in enumerate(kinds)
    )
