"""What the stock recurrent cells share: from a schedule's channels to the units of a cell.

A schedule speaks of channels and their values; a cell has units. An `Encoder` writes each group of
channels as *parts*: a part is one unit a channel, and a channel's value is a sum over its parts,

    value = decode_1 * h_1 + decode_2 * h_2 + … + offset

with power-of-two decodes, so that nothing is rounded. A part says what each gate of its units sees
(a `Drive`: scaled rows over channel values); `lsrl.backends.cells.plan` composes these rows with
the encodings of what they read: the kernels of the cell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.errors import LsrlError, PrecisionError
from lsrl.ir.bounds import Facts, Sums, affine_facts, lowest_bit_of_step
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import Op, RecurrentState, Step, ThresholdState
from lsrl.numerics import Numerics
from lsrl.schedule import Rows, Unit

Known = Sequence[Facts]  # facts of every node of the graph, by node id
Range = Callable[[Known], Facts]  # facts of some channels
Bounds = Callable[[Known], Sums]  # the greatest size and the grid of some units

# A gate on continuous values has no margin, so it is made about as sharp as numbers allow.
SHARPEST = 2.0**60
# Margins are this many times what gates need, so that half of a margin can be lost to rounding.
ROOM = 2.0


class Drive(NamedTuple):
    """What one gate of a part's units sees: scale * rows + bias, and the part `own` at t - 1.

    Attributes:
      rows: over channel values; None for a constant.
      scale: (units,) powers of two.
      bias: (units,) added after scaling.
      own: parts of the same channels that the units read at t - 1, by number, with weights.
      reach: for a drive that must stay in the linear regime of tanh, its greatest size.
      margin: for a drive that must saturate, (units,) its least distance from zero; 0 if there is
        none.
      needed: what the margin must be.
    """

    rows: Rows | None
    scale: Array
    bias: Array
    own: tuple[tuple[int, Array], ...] = ()
    reach: Bounds | None = None
    margin: Array | None = None
    needed: float = 0.0


class Part(NamedTuple):
    """One unit for each of some channels.

    Attributes:
      drives: by gate; a gate that is not named keeps the cell's default.
      decode: (units,) powers of two with a sign: what a unit adds to its channel's value.
      bounds: of the units.
      picked: which of the unit's channels, by position; None for all.
    """

    drives: dict[str, Drive]
    decode: Array
    bounds: Bounds
    picked: Array | None = None


class Encoding(NamedTuple):
    """How a group of channels is held.

    Attributes:
      parts: the parts whose decoded units add up to the values.
      offset: (channels,) what is added to them.
    """

    parts: tuple[Part, ...]
    offset: Array


# ---------------------------------------------------------------- what encoders ask of a unit


@dataclass(frozen=True, eq=False)
class UnitSite:
    """A schedule's unit, and all that an encoder wants to know about it.

    Attributes:
      graph: the graph.
      unit: the unit.
      initial: (channels,) its values at t = -1.
      numerics: the dtype.
    """

    graph: Graph
    unit: Unit
    initial: Array
    numerics: Numerics

    @property
    def op(self) -> Op:
        """The op that the unit holds."""
        return self.graph.nodes[self.unit.node].op

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.unit.width

    @property
    def rows(self) -> Rows:
        """The rows of the only or first operand."""
        return self.unit.slots[0]

    @property
    def own(self) -> Rows:
        """The unit's own channels at t - 1."""
        like = self.rows
        columns = self.unit.start + np.arange(self.width)
        shape = (self.width, like.recurrent.shape[1])
        picks = sp.csr_array((np.ones(self.width), (np.arange(self.width), columns)), shape)
        return Rows(picks, sp.csr_array(like.inputs.shape), np.zeros(self.width))

    def values(self, known: Known) -> Facts:
        """Facts of the unit's channels."""
        return known[self.unit.node].take(self.unit.channels)

    def operand(self, slot: int) -> Range:
        """Facts of what a slot reads, channel by channel."""
        node = self.graph.nodes[self.unit.node].operands[slot]
        return lambda known: known[node].take(self.unit.channels)

    def argument(self, known: Known) -> Facts:
        """Facts of A h + u, what a threshold or recurrent state compares with zero."""
        op = self.op
        if not isinstance(op, ThresholdState | RecurrentState):
            raise LsrlError(f"{self.label} has no feedback")
        update, state = known[self.graph.nodes[self.unit.node].operands[0]], known[self.unit.node]
        weights = [op.transition, Matrix.identity(update.width)]
        found = affine_facts(weights, np.zeros(update.width), [state, update])
        return found.take(self.unit.channels)

    @property
    def label(self) -> str:
        """The signal's name."""
        return self.graph.label(self.unit.node)

    def refuse(self, text: str) -> PrecisionError:
        """The error that says that the dtype has no room for this signal."""
        where = self.graph.source(self.unit.node)
        return PrecisionError(f"{self.label} ({where}): {text}")

    # ------------------------------------------------------------ scales

    def linear_scale(self, *sizes: Array) -> Array:
        """ε: the powers of two that bring values of these sizes into the linear regime of tanh."""
        size = np.maximum.reduce(sizes)
        if not np.isfinite(size).all():
            raise self.refuse(
                "has no finite bound, so no scale brings it into the linear regime of tanh; "
                "declare max_length, or narrow it with lsrl.bound(x, low, high)"
            )
        return power_below(self.numerics.linear / np.where(size == 0, 1.0, size))

    def value_scale(self, offset: Array | float = 0.0) -> Array:
        """ε for the unit's values, less an offset."""
        facts = self.values(self.graph.facts)
        return self.linear_scale(np.abs(facts.low - offset), np.abs(facts.high - offset))

    def boolean_slot(self) -> tuple[int, int]:
        """The slot of a product that is {0,1}, and the other one."""
        for gate, value in ((0, 1), (1, 0)):
            if self.operand(gate)(self.graph.facts).boolean:
                return gate, value
        raise LsrlError(f"{self.label}: a product of two general signals reached a cell")

    @property
    def is_conjunction(self) -> bool:
        """Whether this is a product of two {0,1} values."""
        return (
            self.operand(0)(self.graph.facts).boolean and self.operand(1)(self.graph.facts).boolean
        )

    @property
    def is_boolean_relu(self) -> bool:
        """Whether this is a ReLU whose values are 0 and 1, of an operand on a grid."""
        return self.values(self.graph.facts).boolean and self.operand(0)(self.graph.facts).gridded

    # ------------------------------------------------------------ drives that saturate

    def positive(
        self, rows: Rows, value: Range, needed: float, strict: Array | None = None
    ) -> Drive:
        """Beyond `needed` where x > 0, and beyond -`needed` where x <= 0.

        On a grid of step g the threshold is g/2, so that x = 0 sits off the middle of the gate.
        """
        facts = value(self.graph.facts)
        step = np.where(np.isinf(facts.step), 1.0, facts.step)
        if (step > 0).all():
            grid = power_below(step)
            slope = power_above(2 * ROOM * needed / grid)
            return Drive(rows, slope, -slope * grid / 2, margin=slope * grid / 2, needed=needed)
        size = np.maximum(facts.magnitude, self.numerics.tiny)
        slope = SHARPEST / power_above(np.where(np.isfinite(size), size, 1.0))
        nothing = np.zeros(self.width)
        return Drive(rows, slope, nothing, margin=nothing, needed=needed)

    def compared(self, needed: float) -> Drive:
        """The same for a comparison: x >= 0 against x <= -(1 + shift) / slope."""
        op = self.op
        if not isinstance(op, Step):
            raise LsrlError(f"{self.label} is no comparison")
        facts = self.operand(0)(self.graph.facts)
        step = np.where(np.isinf(facts.step), 1.0, facts.step)
        if op.avoids_ramp(facts):
            middle = power_below(step) / 2
            half = middle
        else:
            # By promise no value lies in the ramp.
            middle = np.full(self.width, (op.shift + 0.5) / op.slope)
            half = np.full(self.width, 0.5 / op.slope)
        slope = power_above(ROOM * needed / half)
        return Drive(self.rows, slope, slope * middle, margin=slope * half, needed=needed)

    def both(self, needed: float) -> Drive:
        """The same for the conjunction of two {0,1} operands: their sum beyond 3/2."""
        return self.beyond(combined(0.0, *((1.0, slot) for slot in self.unit.slots)), 1.5, needed)

    def beyond(self, rows: Rows, threshold: float, needed: float) -> Drive:
        """The same for integer rows against a threshold midway between two integers."""
        slope = power_above(np.full(self.width, 2 * ROOM * needed))
        return Drive(rows, slope, -threshold * slope, margin=slope / 2, needed=needed)

    def opened(self, slot: int, needed: float) -> Drive:
        """The same for a {0,1} operand: beyond `needed` for 1, beyond -`needed` for 0."""
        return self.beyond(self.unit.slots[slot], 0.5, needed)


def inverse(drive: Drive) -> Drive:
    """The drive of the opposite gate."""
    return drive._replace(scale=-drive.scale, bias=-drive.bias)


def constant(value: float, width: int) -> Drive:
    """A drive that is the same at every token."""
    return Drive(None, np.ones(width), np.full(width, value))


def combined(bias: Array | float, *terms: tuple[Array | float, Rows]) -> Rows:
    """Σ weight * rows + bias, row by row."""
    width = len(terms[0][1].bias)
    recurrent = sp.csr_array(terms[0][1].recurrent.shape)
    inputs = sp.csr_array(terms[0][1].inputs.shape)
    total, exact = np.zeros(width) + bias, True
    for weight, rows in terms:
        scale = sp.diags_array(np.broadcast_to(np.asarray(weight, dtype=np.float64), width))
        recurrent = sp.csr_array(recurrent + scale @ rows.recurrent)
        inputs = sp.csr_array(inputs + scale @ rows.inputs)
        total = total + weight * rows.bias
        exact = exact and rows.exact
    return Rows(recurrent, inputs, total, exact)


def linear(rows: Rows, value: Range, scale: Array, offset: Array | float = 0.0) -> Drive:
    """The drive scale * (rows - offset), which stays in the linear regime of tanh."""
    return Drive(rows, scale, -scale * offset, reach=spread(value, scale, offset))


def spread(value: Range, scale: Array, offset: Array | float = 0.0, side: int = 0) -> Bounds:
    """Size and grid of scale * (value - offset), or of its positive (1) or negative (-1) half."""
    offset = np.zeros(len(scale)) + offset

    def bounds(known: Known) -> Sums:
        facts = value(known)
        up, down = np.maximum(facts.high - offset, 0.0), np.maximum(offset - facts.low, 0.0)
        size = up if side > 0 else down if side < 0 else np.maximum(up, down)
        grid = np.minimum(lowest_bit_of_step(facts), lowest_bit(offset))
        return Sums(scale * size, scale * grid)

    return bounds


def scaled(
    site: UnitSite,
    gate: str,
    offset: Array,
    drives: Mapping[str, Drive] | None = None,
    slot: int = 0,
) -> Encoding:
    """One unit a channel that is ε (x - offset), as far as other gates let it through."""
    scale = site.value_scale(offset)
    drive = linear(site.unit.slots[slot], site.values, scale, offset)
    bounds = spread(site.values, scale, offset)
    return Encoding((Part({**(drives or {}), gate: drive}, 1 / scale, bounds),), offset)


def comparisons(gate: str) -> dict[type[Op], Callable[[UnitSite], Encoding]]:
    """Of comparisons and automata that are saturated units."""
    return {
        Step: lambda site: saturated(gate, site.compared(site.numerics.saturated)),
        ThresholdState: lambda site: saturated(
            gate, site.positive(site.rows, site.argument, site.numerics.saturated)
        ),
    }


def saturated(gate: str, drive: Drive) -> Encoding:
    """One unit a channel that is 1 or -1, for 1 or 0."""
    width = len(drive.scale)
    half = np.full(width, 0.5)
    return Encoding((Part({gate: drive}, half, fixed(1.0, width)),), half)


def fixed(value: float, width: int) -> Bounds:
    """Size and grid of units that are 0, value or -value."""
    sums = Sums(np.full(width, value), lowest_bit(np.full(width, value)))
    return lambda known: sums


def power_below(values: Array) -> Array:
    """The largest power of two at or below each positive value."""
    _, exponent = np.frexp(values)
    return np.ldexp(1.0, exponent - 1)


def power_above(values: Array) -> Array:
    """The smallest power of two at or above each positive value."""
    below = power_below(values)
    return np.where(below == values, below, 2 * below)


# ---------------------------------------------------------------- encoders


@dataclass(frozen=True, eq=False)
class Encoder:
    """How one cell holds channels.

    Attributes:
      table: what makes the parts of a unit, by its kind.
      gates: by name, in the order of the cell's kernels, the bias of a gate that a part does not
        drive.
      one: a part with one unit that is the same at every token, and whose decoded value is 1.
      clean_gates: see `CellPlan`.
      native_relu: see `CellPlan`.
    """

    table: Mapping[type[Op], Callable[[UnitSite], Encoding]]
    gates: Callable[[Numerics], dict[str, float]]
    one: Callable[[Numerics], Part]
    clean_gates: bool = True
    native_relu: bool = False

    def encode(self, site: UnitSite) -> Encoding:
        """The parts of a unit.

        Raises:
          LsrlError: the table has no such op.
        """
        kind = site.unit.kind
        if kind not in self.table:
            raise LsrlError(f"{site.label}: this cell has no unit for {kind.__name__}")
        return self.table[kind](site)
