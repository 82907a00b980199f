"""The certificate of a model of stock cells: sums, gates, linear regimes and errors, unit by unit.

Every row of every gate's kernel must be exact in any order of summation (condition P1 of
`lsrl.certificate`), over the units that it reads, pairs and offsets included. Every gate must be
saturated by its margin, every value in tanh's linear regime, and every grid a normal number.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.backends.cells.encoding import Drive
from lsrl.backends.cells.plan import CellLayer, CellPlan, Kernel, Placed, kernel_weights
from lsrl.certificate import (
    MAX_SLACK,
    Analysis,
    Condition,
    held_sums,
    passed_errors,
    split_recurrence,
)
from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import (
    Facts,
    Sums,
    facts,
    joined_sums,
    side_by_side,
    term_sums,
)
from lsrl.ir.groups import Groups
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import (
    LinearState,
    Product,
    RecurrentState,
    Relu,
    SelectiveState,
    Step,
    ThresholdState,
)
from lsrl.ir.recurrence import linear_state_facts, linear_state_settles
from lsrl.schedule import Unit

# Operations of a cell, beside the sums of its kernels, that can each lose a smallest normal number:
# activations, products with gates, and their sums.
CELL_OPERATIONS = 8


class CellAnalysis(Analysis):
    """The conditions and errors of a plan over a number of tokens.

    Weights stay as they are; bounds are those of the number of tokens.
    """

    def __init__(self, plan: CellPlan, tokens: int, known: tuple[Facts, ...] | None = None) -> None:
        """Bounds are those for `tokens` tokens; those in the dtype are `known`."""
        super().__init__(plan.schedule.graph, plan.numerics, tokens, known)
        self.plan = plan
        self.schedule = plan.schedule
        # How far from 0 a ReLU that is lowered to [x > 0] x may take the wrong side, by the node of
        # the comparison.
        self._edges: dict[int, Array] = {}

    # ------------------------------------------------------------ exactness

    def conditions(self) -> Iterator[Condition]:
        """Every condition, in the order of the layers."""
        for node in self.schedule.features:
            yield Condition(node, 0, held_sums(self.facts[node]), "the input is")
        before: Units | None = None
        for number, layer in enumerate(self.plan.layers, start=1):
            mine = self._unit_sums(layer)
            by_gate = {gate: self._row_sums(k, mine, before) for gate, k in layer.kernels.items()}
            for placed in layer.placed:
                node = self.graph.output if placed.unit is None else placed.unit.node
                for gate, kernel in layer.kernels.items():
                    yield from self._drive_conditions(
                        node, number, placed, gate, kernel, by_gate[gate]
                    )
            before = mine
        output, last = self.plan.output, len(self.plan.layers) + 1
        sums, weights = self._row_sums(output, None, before), kernel_weights(output)
        exact = bool(output.exact.all())
        yield Condition(self.graph.output, last, sums, "the sum is", weights, exact)

    def _drive_conditions(
        self, node: int, layer: int, placed: Placed, gate: str, kernel: Kernel, sums: Sums
    ) -> Iterator[Condition]:
        rows = slice(placed.start, placed.start + placed.width)
        drive = placed.part.drives.get(gate)
        yield Condition(
            node,
            layer,
            Sums(sums.magnitude[rows], sums.grid[rows]),
            "the sum is",
            kernel_weights(kernel, rows),
            bool(kernel.exact[rows].all()),
            1.0 if drive is None else np.abs(drive.scale),
            None if drive is None else self._drive_failure(drive),
        )
        if drive is not None and drive.reach is not None and "z" in placed.part.drives:
            # torch's GRU adds up (h - n) z + n, so h - n must be exact too.
            size, grid = drive.reach(self.facts)
            unit = placed.part.bounds(self.facts)
            both = Sums(size + unit.magnitude, np.minimum(grid, unit.grid))
            what = "the state less its update is"
            yield Condition(node, layer, both, what, scale=np.abs(drive.scale))

    def _drive_failure(self, drive: Drive) -> str | None:
        """What else but its sums fails of what a gate sees."""
        if drive.margin is not None and (drive.margin < drive.needed).any():
            return "a gate on continuous values has no margin"
        if drive.reach is None:
            return None
        size, grid = drive.reach(self.facts)
        if (size > self.numerics.linear).any():
            return f"tanh's argument is up to {size.max():g}, beyond {self.numerics.linear:g}"
        if ((grid < self.numerics.tiny) & (size > 0)).any():
            return f"its scaled grid is below the smallest normal number {self.numerics.tiny:g}"
        return None

    # ------------------------------------------------------------ sums

    def _unit_sums(self, layer: CellLayer) -> "Units":
        found = [(placed.part.bounds(self.facts), placed.channels) for placed in layer.placed]
        return Units(
            np.concatenate([sums.magnitude[picked] for sums, picked in found]),
            np.concatenate([sums.grid[picked] for sums, picked in found]),
            self._unit_groups(layer),
        )

    def _unit_groups(self, layer: CellLayer) -> Groups:
        """Those of the channels, for units that are 0 where their channel's value is."""
        units = layer.layer.units
        channels = side_by_side([self.facts[unit.node].take(unit.channels) for unit in units])
        if not channels.groups:
            return channels.groups
        rows = np.repeat(np.arange(len(layer.offset)), np.diff(layer.decode.indptr))
        alone = (np.diff(layer.decode.indptr) == 1) & (layer.offset == 0)
        owner = np.full(layer.width, -1)
        owner[layer.decode.indices[alone[rows]]] = rows[alone[rows]]
        found = {
            root: np.where(owner >= 0, members[owner], -1) for root, members in channels.groups
        }
        return exclusion.kept(found)

    def _row_sums(self, kernel: Kernel, mine: "Units | None", before: "Units | None") -> Sums:
        """Condition P1 for the rows of a kernel."""
        parts = [Sums(np.abs(kernel.bias), lowest_bit(kernel.bias))]
        if mine is not None:
            parts.append(_matrix_sums(kernel.recurrent, mine))
        if before is None:
            parts.extend(self._feature_sums(kernel.inputs))
        else:
            parts.append(_matrix_sums(kernel.inputs, before))
        return joined_sums(parts)

    def _feature_sums(self, inputs: sp.csr_array) -> Iterator[Sums]:
        """Of a one-hot feature only one term is there at a time."""
        start = 0
        for node in self.schedule.features:
            fact = self.facts[node]
            yield term_sums(Matrix(inputs[:, start : start + fact.width]), fact)
            start += fact.width

    # ------------------------------------------------------------ errors

    def output_error(self) -> float:
        """Layer by layer: what units take over, their own rounding, and gates that may be off."""
        held = [self.held_errors(node) for node in self.schedule.features]
        before = np.concatenate(held) if held else np.zeros(0)
        units_before: Units | None = None
        for layer in self.plan.layers:
            units = self._unit_sums(layer)
            errors = np.zeros(layer.layer.width)
            rounding = {
                gate: self._rounding(kernel, self._row_sums(kernel, units, units_before))
                for gate, kernel in layer.kernels.items()
            }
            read = _Read(rounding, errors, before)
            # States of this layer are read by its other units, so they come first.
            for unit in sorted(layer.layer.units, key=lambda unit: unit.kind is not LinearState):
                place = slice(unit.start, unit.start + unit.width)
                parts = [placed for placed in layer.placed if placed.unit is unit]
                errors[place] = self._unit_errors(layer, parts, read)
            before, units_before = errors, units
        output = self.schedule.output
        passed = np.asarray(abs(output.inputs) @ before).ravel()
        sums = self._row_sums(self.plan.output, None, units_before)
        final = passed + self._rounding(self.plan.output, sums) * (1 + self.numerics.unit)
        exact = self.exact_sums(sums) & (passed == 0)
        final = np.where(exact & self.plan.output.exact, 0.0, final)
        finite = final <= 2.0**-4 * self.numerics.largest
        return float(np.where(finite, final, np.inf).max(initial=0.0))

    def _rounding(self, kernel: Kernel, sums: Sums) -> Array:
        """What each row of a kernel is off by at most, were its operands right and no sum exact."""
        terms = np.diff(kernel.recurrent.indptr) + np.diff(kernel.inputs.indptr)
        terms = terms + (kernel.bias != 0)
        fits = kernel.exact.all() and self.fits(kernel_weights(kernel)).all()
        gamma = (terms + (0 if fits else 2)) * self.numerics.unit
        rounded = gamma / np.maximum(1 - gamma, 2.0**-10) * sums.magnitude
        return rounded + self.lost(sums, 2 * terms + CELL_OPERATIONS)

    def _drive_errors(self, layer: CellLayer, placed: Placed, gate: str, read: "_Read") -> Array:
        """Errors of what a gate sees, in units of the signal; 0 where exact."""
        drive = placed.part.drives[gate]
        passed = np.zeros(placed.width)
        if drive.rows is not None:
            passed = passed_errors(drive.rows, read.mine, read.before)[placed.channels]
        rows = slice(placed.start, placed.start + placed.width)
        kernel = layer.kernels[gate]
        sums = read.rounding[gate][rows] / np.abs(drive.scale)
        exact = self._exact_rows(layer, gate)[rows] & (passed == 0) & kernel.exact[rows]
        errors = np.where(exact, 0.0, passed + sums)
        # The sums without their errors are finite, or else no bound would be asked for.
        finite = errors * np.abs(drive.scale) <= 2.0**-4 * self.numerics.largest
        return np.where(finite, errors, np.inf)

    def _exact_rows(self, layer: CellLayer, gate: str) -> Array:
        kernel = layer.kernels[gate]
        position = self.plan.layers.index(layer)
        before = self._unit_sums(self.plan.layers[position - 1]) if position else None
        sums = self._row_sums(kernel, self._unit_sums(layer), before)
        exact = self.exact_sums(sums)
        weights = np.array(
            [self.fits(kernel_weights(kernel, slice(i, i + 1))).all() for i in range(len(exact))]
        )
        return exact & weights

    def _unit_errors(self, layer: CellLayer, parts: list[Placed], read: "_Read") -> Array:
        unit = parts[0].unit
        if unit is None:
            return np.zeros(0)
        fact = self.facts[unit.node].take(unit.channels)
        operand = self.graph.nodes[unit.node].operands[:1]
        if unit.kind is Relu and fact.boolean and not self.facts[operand[0]].counted:
            snapped = self.snapped(unit.slots[0], read.mine, read.before)
            if snapped.all() and self.plan.native_relu:
                return np.zeros(unit.width)
        total = np.zeros(unit.width)
        for placed in parts:
            wrong = np.zeros(placed.width)
            for gate, drive in placed.part.drives.items():
                error = self._drive_errors(layer, placed, gate, read)
                if drive.margin is None:
                    wrong = wrong + error * np.abs(drive.scale * placed.part.decode)
                    continue
                size = fact.magnitude[placed.channels]
                lost = self._gate_errors(unit, drive, error, size)
                wrong = wrong + np.where(np.isinf(error), np.inf, lost)
            total[placed.channels] += wrong
        if unit.kind is Product and not any(
            drive.margin is not None for placed in parts for drive in placed.part.drives.values()
        ):
            total = np.minimum(total, self._gated_error(unit, parts, read))
        if unit.kind is Product:
            for factor in self.graph.nodes[unit.node].operands:
                if factor in self._edges:
                    # A value on the wrong side, or between 0 and itself, errs by its own size.
                    total += self._edges[factor][unit.channels]
        if unit.kind in (LinearState, RecurrentState, SelectiveState):
            return self._accumulated(layer, parts, total)
        return total

    def _gated_error(self, unit: Unit, parts: list[Placed], read: "_Read") -> Array:
        """Of a value between two biases, tanh(x + a) + tanh(-a): it lies between 0 and x.

        The bias may be any, and so a gate that is off costs no more than the value itself.
        """
        operands = self.graph.nodes[unit.node].operands
        value = 1 if self.facts[operands[0]].boolean else 0
        passed, wrong = (
            passed_errors(rows, read.mine, read.before)
            for rows in (unit.slots[value], unit.slots[1 - value])
        )
        size = self.facts[operands[value]].take(unit.channels).magnitude
        errors = passed + np.where(wrong > 0, size + passed, 0.0)
        for placed in parts:
            rows = slice(placed.start, placed.start + placed.width)
            for gate in placed.part.drives:
                errors = errors + read.rounding[gate][rows] * np.abs(placed.part.decode)
        finite = np.isfinite(wrong) & (errors <= 2.0**-4 * self.numerics.largest)
        return np.where(finite, errors, np.inf)

    def _gate_errors(self, unit: Unit, drive: Drive, error: Array, size: Array) -> Array:
        """What a gate that may not be saturated, or is on the wrong side, costs."""
        lost = error * np.abs(drive.scale)
        margin = np.zeros(len(error)) if drive.margin is None else drive.margin
        certain = margin - lost >= drive.needed
        op = self.graph.nodes[unit.node].op
        if isinstance(op, Step) and self._cuts(unit.node):
            width = self.graph.nodes[unit.node].width
            known = self._edges.setdefault(unit.node, np.zeros(width))
            known[unit.channels] = (1 + op.shift) / op.slope + error
            return np.zeros(len(error))
        if isinstance(op, Step):
            if not op.avoids_ramp(self.facts[self.graph.nodes[unit.node].operands[0]]):
                # The promise that no value lies in the ramp is taken with a wider ramp, as wide as
                # the rounding asks for.
                slack = float(np.max(error * op.slope - 0.25, initial=0.0))
                self.slack = max(self.slack, slack)
                certain |= slack <= MAX_SLACK
            return np.where(certain, 0.0, 1.0)
        if unit.kind is ThresholdState:
            return np.where(certain, 0.0, 1.0)
        exact = (error == 0) & (margin >= drive.needed)
        if self.plan.clean_gates and unit.kind in (Relu, RecurrentState):
            # |relu(x) - x sigmoid(k x)| <= 0.2785 / k, and a value on the wrong side is no larger
            # than what it is off by.
            return np.where(exact, 0.0, np.minimum(error + 0.3 / np.abs(drive.scale), size))
        return np.where(exact | certain, 0.0, size)

    def _cuts(self, node: int) -> bool:
        """Whether a comparison of continuous values is the [x > 0] of ReLUs, and no promise."""
        this, graph = self.graph.nodes[node], self.graph
        (value,) = this.operands
        return not this.origins and bool(graph.readers[node]) and all(
            isinstance(graph.nodes[reader].op, Product)
            and sorted(graph.nodes[reader].operands) == sorted((node, value))
            for reader in graph.readers[node]
        ) and not self.facts[value].gridded  # fmt: skip

    def _accumulated(self, layer: CellLayer, parts: list[Placed], fresh: Array) -> Array:
        """Errors that a state takes on token by token."""
        unit = parts[0].unit
        if unit is None or not fresh.any():
            return fresh
        op, fact = self.graph.nodes[unit.node].op, self.facts[unit.node].take(unit.channels)
        if isinstance(op, SelectiveState):
            self.settled = False
            return fresh * self.tokens
        own = (
            Matrix(op.transition.csr[unit.channels][:, unit.channels])
            if isinstance(op, RecurrentState)
            else split_recurrence(unit.slots[0], unit)[0]
        )
        start = layer.layer.initial[unit.start : unit.start + unit.width]
        small = (fresh <= 2.0**-4 * fact.magnitude).all()
        if fact.once and own.is_identity and self.plan.clean_gates and small:
            # A shut gate adds exactly 0, so rounding counts once: adding the one value to the
            # start.
            return fresh + np.where(start == 0, 0.0, self.numerics.unit * fact.magnitude)
        update = facts(-fresh, fresh, np.zeros(len(fresh)))
        absolute = Matrix(abs(own.csr))
        start = np.zeros(len(fresh))
        self.settled &= linear_state_settles(absolute, start, update, self.tokens)
        return linear_state_facts(absolute, start, update, self.tokens)[0].magnitude


class _Read(NamedTuple):
    """Rounding by gate, and the errors of the channels of a layer and of the one before."""

    rounding: dict[str, Array]
    mine: Array
    before: Array


class Units(NamedTuple):
    """The greatest size and the grid of some units, and which are never on together."""

    magnitude: Array
    grid: Array
    groups: Groups


def _matrix_sums(weights: sp.csr_array, units: Units) -> Sums:
    """Size and grid of the terms of each row."""
    sizes = np.abs(weights.data) * units.magnitude[weights.indices]
    count = weights.shape[0]
    rows = np.repeat(np.arange(count), np.diff(weights.indptr))
    ways = exclusion.partitions(count, rows, weights.indices, units.groups)
    magnitude = exclusion.greatest_sums(ways, sizes)
    grid = np.full(count, np.inf)
    filled = np.flatnonzero(np.diff(weights.indptr))
    if len(filled):
        terms = np.where(
            units.magnitude[weights.indices] == 0,
            np.inf,
            lowest_bit(weights.data) * units.grid[weights.indices],
        )
        grid[filled] = np.minimum.reduceat(terms, weights.indptr[filled])
    return Sums(magnitude, grid)
