"""The certificate of the linear targets: the rows of a schedule, one unit a channel.

The conditions are those of `lsrl.certificate` on the rows as they are; nothing is scaled.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.certificate import (
    Analysis,
    Condition,
    check_range,
    held_sums,
    out_of_range,
    passed_errors,
    place_of,
    row_sums,
    row_weights,
    split_recurrence,
)
from lsrl.ir.bounds import (
    Facts,
    Sums,
    facts,
    lowest_bit_of_step,
    side_by_side,
)
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import LinearState, Lookup, Product, Relu
from lsrl.ir.recurrence import linear_state_facts, linear_state_settles
from lsrl.numerics import Numerics
from lsrl.rounding.channels import RoundingError
from lsrl.rounding.network import Held
from lsrl.schedule import Layer, Rows, Schedule, Unit

# Sums over time may be put together of so many runs of tokens, in any order. The linear targets add
# up two, what was before a segment and the segment; the rest is room for other ways to cut.
BLOCK = 16


class LinearAnalysis(Analysis):
    """The conditions and errors of a schedule over a number of tokens."""

    def __init__(
        self,
        schedule: Schedule,
        numerics: Numerics,
        tokens: int,
        known: tuple[Facts, ...] | None = None,
    ) -> None:
        """Bounds are those of `tokens` tokens; those in the dtype are `known`."""
        super().__init__(schedule.graph, numerics, tokens, known)
        self.schedule = schedule

    def conditions(self) -> Iterator[Condition]:
        """Every condition, in the order of the layers."""
        for node in self.schedule.features:
            yield Condition(node, 0, held_sums(self.facts[node]), "the input is")
        before = self._feature_facts()
        for number, layer in enumerate(self.schedule.layers, start=1):
            mine = self._layer_facts(layer)
            # Of all rows at once: a layer has as many units as the program has signals.
            own_parts, first = split_states(layer)
            whole = [row_sums(rows, mine, before) for rows in (first, *layer.rows[1:])]
            for unit in layer.units:
                own = slice(unit.start, unit.start + unit.width)
                initial = layer.initial[own]
                for slot, exact in enumerate(unit.exact):
                    sums = Sums(whole[slot].magnitude[own], whole[slot].grid[own])
                    if unit.kind is LinearState:
                        sums = self._state_sums(layer, unit, own_parts[unit.start], sums)
                    weights = np.concatenate([row_weights(layer.rows[slot], own), initial])
                    yield Condition(unit.node, number, sums, "the sum is", weights, exact)
                if unit.kind is Product:
                    yield Condition(unit.node, number, self._product(unit), "the product is")
            before = mine
        rows = self.schedule.output
        sums = row_sums(rows, side_by_side([]), before)
        last = len(self.schedule.layers) + 1
        weights = row_weights(rows)
        yield Condition(self.graph.output, last, sums, "the sum is", weights, rows.exact)

    def check_alike(self, held: Held) -> None:
        """Hold every row that is rounded against the graph; the facts are those of the dtype.

        Raises:
          RoundingError: a bit may differ.
        """
        for condition in self.conditions():
            self.check_ends(condition)
        starts = held.channels.starts
        before = [
            np.arange(starts[node], starts[node + 1]) for node in self.schedule.features
        ]  # fmt: skip
        before_facts = self._feature_facts()
        for layer in self.schedule.layers:
            mine_facts = self._layer_facts(layer)
            mine = [starts[unit.node] + unit.channels for unit in layer.units]
            read = np.concatenate([*mine, *before])
            for unit in layer.units:
                for slot, rows in enumerate(unit.slots):
                    exact = self.exact_sums(self._sums(layer, unit, slot, before_facts, mine_facts))
                    self._check_rows(held, unit.node, rows, read, exact)
                    if unit.kind is LinearState:
                        _check_moves(unit.node, rows, exact)
            before, before_facts = mine, mine_facts
        rows = self.schedule.output
        exact = self.exact_sums(row_sums(rows, side_by_side([]), before_facts))
        self._check_rows(held, self.graph.output, rows, np.concatenate(before), exact)

    def _check_rows(self, held: Held, node: int, rows: Rows, read: Array, exact: Array) -> None:
        """Rows over channels of the layer, and then of the one before, by their numbers."""
        both = sp.csr_array(sp.hstack([rows.recurrent, rows.inputs]))
        for row in np.flatnonzero(~exact).tolist():
            span = slice(both.indptr[row], both.indptr[row + 1])
            columns = read[both.indices[span]].tolist()
            terms = list(zip(columns, both.data[span].tolist(), strict=True))
            held.row(node, terms, float(rows.bias[row]))

    def _feature_facts(self) -> Facts:
        return side_by_side([self.facts[node] for node in self.schedule.features])

    def _layer_facts(self, layer: Layer) -> Facts:
        return side_by_side([self._unit_facts(unit) for unit in layer.units])

    def _unit_facts(self, unit: Unit) -> Facts:
        known = self.facts[unit.node]
        return known if unit.width == known.width else known.take(unit.channels)

    def _sums(self, layer: Layer, unit: Unit, slot: int, before: Facts, mine: Facts) -> Sums:
        rows = unit.slots[slot]
        if unit.kind is not LinearState:
            return row_sums(rows, mine, before)
        own, others = split_recurrence(rows, unit)
        update = row_sums(rows._replace(recurrent=others), mine, before)
        return self._state_sums(layer, unit, own, update)

    def _state_sums(self, layer: Layer, unit: Unit, own: Matrix, update: Sums) -> Sums:
        """Of a state, given how it reads itself, and the sums of what it takes in."""
        start = layer.initial[unit.start : unit.start + unit.width]
        facts_ = self._unit_facts(unit)
        span = facts_.high - facts_.low
        step = np.where(np.isinf(update.grid), 0.0, update.grid)
        terms = facts(-update.magnitude, update.magnitude, step)
        _, whole = linear_state_facts(own, start, terms, self.tokens)
        if own.is_identity:
            # A promise may have narrowed the state: then any run of updates adds up to at most the
            # span, and the row of one token to a state and its update. Sums in blocks add up to
            # BLOCK such runs in any order; of a latch only one is not zero.
            runs = 1 if facts_.once else BLOCK
            narrowed = runs * (np.maximum(span, facts_.magnitude) + update.magnitude)
            if (narrowed > whole.magnitude).any():
                self._note_length(own, start, terms)
            whole = whole._replace(magnitude=np.minimum(whole.magnitude, narrowed))
        else:
            self._note_length(own, start, terms)
        return Sums(whole.magnitude, np.minimum(whole.grid, update.grid))

    def _note_length(self, own: Matrix, start: Array, update: Facts) -> None:
        """What a state adds up depends on the length, unless it comes to rest."""
        self.settled &= linear_state_settles(own, start, update, self.tokens)

    def _product(self, unit: Unit) -> Sums:
        left, right = (self.facts[i] for i in self.graph.nodes[unit.node].operands)
        if left.boolean or right.boolean:
            return Sums(np.zeros(unit.width), np.full(unit.width, np.inf))
        grid = lowest_bit_of_step(left) * lowest_bit_of_step(right)
        return Sums(
            (left.magnitude * right.magnitude)[unit.channels],
            np.where(np.isnan(grid), np.inf, grid)[unit.channels],
        )

    def output_error(self) -> float:
        """Layer by layer: what each row takes over, and its own rounding."""
        before_facts = self._feature_facts()
        held = [self.held_errors(node) for node in self.schedule.features]
        before = np.concatenate(held) if held else np.zeros(0)
        for layer in self.schedule.layers:
            mine = self._layer_facts(layer)
            errors = np.zeros(layer.width)
            read = _Read(errors, before, mine, before_facts)
            # States of this layer are read by its other units, so they come first.
            for unit in sorted(layer.units, key=lambda u: u.kind is not LinearState):
                place = slice(unit.start, unit.start + unit.width)
                errors[place] = self._unit_errors(layer, unit, read)
            before, before_facts = errors, mine
        read = _Read(np.zeros(0), before, side_by_side([]), before_facts)
        final = self._row_errors(self.schedule.output, read)
        return float(np.where(np.isnan(final), np.inf, final).max(initial=0.0))

    def _row_errors(self, rows: Rows, read: "_Read") -> Array:
        """Errors of rows: those of what they read, and their own rounding."""
        passed = passed_errors(rows, read.mine, read.before)
        sums = row_sums(rows, read.mine_facts, read.before_facts)
        terms = np.diff(rows.recurrent.indptr) + np.diff(rows.inputs.indptr) + (rows.bias != 0)
        fits = bool(self.fits(row_weights(rows)).all()) and rows.exact
        exact = self.exact_sums(sums) & fits & (passed == 0)
        gamma = (terms + (0 if fits else 2)) * self.numerics.unit
        gamma = gamma / np.maximum(1 - gamma, 2.0**-10)
        # One term times a power of two is not rounded at all, and times 1 nothing is lost of it.
        single = (terms <= 1) & fits
        rounded = np.where(single & _scales_only(rows), 0.0, gamma * (sums.magnitude + passed))
        lost = np.where(single & _scales_only(rows, ones=True), 0.0, self.lost(sums, 2 * terms))
        return self._finite(sums, np.where(exact, passed, passed + rounded + lost))

    def _finite(self, sums: Sums, errors: Array) -> Array:
        """The errors, or inf where some partial sum may exceed the largest number."""
        return np.where(sums.magnitude + errors <= self.numerics.largest, errors, np.inf)

    def _unit_errors(self, layer: Layer, unit: Unit, read: "_Read") -> Array:
        if unit.kind is LinearState:
            return self._state_errors(layer, unit, read)
        slots = [self._row_errors(rows, read) for rows in unit.slots]
        if unit.kind is Product:
            left, right = (
                self.facts[i].take(unit.channels) for i in self.graph.nodes[unit.node].operands
            )
            spread = left.magnitude * slots[1] + right.magnitude * slots[0] + slots[0] * slots[1]
            clean = (slots[0] + slots[1] == 0) & (left.boolean | right.boolean)
            clean |= spread == 0
            sums = self._product(unit)
            size = left.magnitude * right.magnitude
            rounded = self.numerics.unit * (size + spread) + self.lost(sums, 1)
            exact = self.exact_sums(sums)
            selects = any(
                fact.boolean and not error.any()
                for fact, error in zip((left, right), slots, strict=True)
            )
            errors = np.where((exact & clean) | selects, spread, spread + rounded)
            return self._finite(sums._replace(magnitude=size), errors)
        if unit.kind is Relu and self.facts[unit.node].boolean:
            operand = self.graph.nodes[unit.node].operands[0]
            # Else it is 0 or 1 by its operand's grid, and not by the promise of a ramp.
            if not self.facts[operand].counted:
                return np.where(self.snapped(unit.slots[0], read.mine, read.before), 0.0, slots[0])
        return slots[0]

    def _state_errors(self, layer: Layer, unit: Unit, read: "_Read") -> Array:
        rows = unit.slots[0]
        own, others = split_recurrence(rows, unit)
        fresh = self._row_errors(rows._replace(recurrent=others), read)
        fact = self._unit_facts(unit)
        start = layer.initial[unit.start : unit.start + unit.width]
        if fact.once and own.is_identity and (fresh <= 2.0**-4 * fact.magnitude).all():
            # A shut gate adds exactly 0, so rounding counts once: adding the one value to the
            # start.
            return fresh + np.where(start == 0, 0.0, self.numerics.unit * fact.magnitude)
        sums = self._sums(layer, unit, 0, read.before_facts, read.mine_facts)
        exact = self.exact_sums(sums) & (fresh == 0)
        terms = np.diff(rows.recurrent.indptr) + np.diff(rows.inputs.indptr) + 1
        moves_only = (np.diff(rows.recurrent.indptr) == 1) & (np.diff(rows.inputs.indptr) == 0)
        moves_only &= rows.bias == 0
        rounding = terms * self.numerics.unit * sums.magnitude
        rounding = np.where(exact | (moves_only & _scales_only(rows)), 0.0, rounding)
        lost = self.lost(sums, 2 * terms)
        lost = np.where(exact | (moves_only & _scales_only(rows, ones=True)), 0.0, lost)
        per_token = fresh + rounding + lost
        if not per_token.any():
            return per_token
        update = facts(-per_token, per_token, np.zeros(len(per_token)))
        reached, _ = linear_state_facts(own, np.zeros(len(per_token)), update, self.tokens)
        self._note_length(own, np.zeros(len(per_token)), update)
        return self._finite(sums, reached.magnitude)


def split_states(layer: Layer) -> tuple[dict[int, Matrix], Rows]:
    """How each state of a layer reads itself, by its start; and the rows without that."""
    owner = np.full(layer.width, -1)
    states = [unit for unit in layer.units if unit.kind is LinearState]
    for unit in states:
        owner[unit.start : unit.start + unit.width] = unit.start
    whole = Matrix.shared(layer.rows[0].recurrent)
    rows, columns = whole.entry_rows(), whole.indices
    inside = (owner[rows] >= 0) & (owner[rows] == owner[columns])
    others = Matrix.placed(whole.data[~inside], rows[~inside], columns[~inside], whole.shape)
    data, rows, columns = whole.data[inside], rows[inside], columns[inside]
    found = {}
    for unit in states:
        ends = rows.searchsorted([unit.start, unit.start + unit.width])
        span, shape = slice(*ends), (unit.width, unit.width)
        at = rows[span] - unit.start, columns[span] - unit.start
        found[unit.start] = Matrix.placed(data[span], *at, shape)
    return found, layer.rows[0]._replace(recurrent=others.csr)


class _Read(NamedTuple):
    """Errors and facts of what rows read: of their own layer, and of the one before."""

    mine: Array
    before: Array
    mine_facts: Facts
    before_facts: Facts


def _check_moves(node: int, rows: Rows, exact: Array) -> None:
    """Refuse states that add anything to what they were, or to what another one was."""
    entries = np.diff(rows.recurrent.indptr) + np.diff(rows.inputs.indptr) + (rows.bias != 0)
    kept = np.diff(rows.recurrent.indptr) > 0
    if (kept & (entries > 1) & ~exact).any():
        raise RoundingError(node, "is a running sum of real numbers, which rounds at every token")


def _scales_only(rows: Rows, ones: bool = False) -> Array:
    """Rows whose weights are powers of two, or 1 and -1."""
    result = np.ones(len(rows.bias), dtype=bool)
    for matrix in (rows.recurrent, rows.inputs):
        size = np.abs(matrix.data)
        unlike = size != (1.0 if ones else lowest_bit(size))
        odd = sp.csr_array((unlike.astype(float), matrix.indices, matrix.indptr), matrix.shape)
        result &= np.asarray(odd.sum(axis=1)).ravel() == 0
    return result


def check_weights(schedule: Schedule, numerics: Numerics) -> None:
    """Refuse a schedule with weights, initial states or tables that the dtype has no room for.

    Raises:
      PrecisionError: names the signal and the worst weight.
    """
    graph = schedule.graph
    for node in schedule.features:
        op = graph.nodes[node].op
        if isinstance(op, Lookup):
            check_range(numerics, place_of(graph, node, 0), op.table.csr.data)
    for number, layer in enumerate(schedule.layers, start=1):
        numbers = [*map(row_weights, layer.rows), layer.initial]
        if not any(len(out_of_range(numerics, each)) for each in numbers):
            continue
        for unit in layer.units:
            for rows in unit.slots:
                check_range(numerics, place_of(graph, unit.node, number), row_weights(rows))
            start = layer.initial[unit.start : unit.start + unit.width]
            check_range(numerics, place_of(graph, unit.node, number), start)
    weights, last = row_weights(schedule.output), len(schedule.layers) + 1
    if len(out_of_range(numerics, weights)):
        check_range(numerics, place_of(graph, graph.output, last), weights)
