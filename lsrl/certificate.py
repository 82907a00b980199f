"""The certificate: whether a compiled model equals its program exactly, else where and by how much.

A row is exact in any order of summation when the absolute values of its terms add up to at most 2^p
times the largest power of two that divides them all (condition P1). The certificate checks every
row of every layer, every product and every weight. Where one fails it names the first signal and
the first token, and bounds the error by a forward analysis of the same rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from lsrl.errors import PrecisionError
from lsrl.ir.bounds import (
    Facts,
    Sums,
    facts,
    joined_sums,
    linear_state_facts,
    lowest_bit_of_step,
    term_sums,
)
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit, sum_is_exact
from lsrl.ir.ops import Lookup, Step
from lsrl.numerics import Numerics, numerics_of
from lsrl.schedule import Layer, Rows, Schedule, Unit

# Sums over time may be put together of so many runs of tokens, in any order. The linear targets add
# up two, what was before a segment and the segment; the rest is room for other ways to cut.
BLOCK = 16
# Rounding that a ramp may swallow, in units of the ramp's own rise from 0 to 1.
MAX_SLACK = 1.0


@dataclass(frozen=True)
class Reason:
    """Why a model is not exact.

    Attributes:
      signal: the signal whose row fails first.
      source: the user's line.
      layer: its layer, from 1; 0 for the input map, and one past the last for the output map.
      condition: what fails, in numbers.
      token: the first token at which it can fail; 0 if it does not depend on the length.
    """

    signal: str
    source: str
    layer: int
    condition: str
    token: int = 0

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.signal} ({self.source}), layer {self.layer}: {self.condition}; "
            f"exact up to token {self.token - 1}" if self.token else
            f"{self.signal} ({self.source}), layer {self.layer}: {self.condition}"
        )  # fmt: skip


@dataclass(frozen=True)
class Promise:
    """What the certificate takes on trust: a `bound`, a `latch` or a ramp of the program.

    Attributes:
      signal: the signal it is about.
      source: the user's line.
      text: the promise in words.
    """

    signal: str
    source: str
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.signal} ({self.source}) {self.text}"


@dataclass(frozen=True)
class Certificate:
    """What is proven of a compiled model.

    Attributes:
      exact: every output equals the reference evaluator's as a number, at every token up to
        `tokens`, in any order of summation, as long as the promises hold. Zero has no sign there:
        signals of a network and exported models may hold -0.0, and `run` and `step` return 0.0.
      error_bound: greatest absolute error of an output; 0 where exact.
      reasons: why not exact: the first signal that fails, with the first token; empty where exact.
      promises: what the program promises, with source lines.
      dtype: the model's dtype.
      tokens: the number of tokens that the certificate speaks of.
    """

    exact: bool
    error_bound: float
    reasons: tuple[Reason, ...]
    promises: tuple[Promise, ...]
    dtype: str
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; an error without bound is null."""
        bound = self.error_bound if math.isfinite(self.error_bound) else None
        return {**asdict(self), "error_bound": bound}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Certificate":
        """What `to_json` gave."""
        bound = content["error_bound"]
        return cls(
            **{
                **content,
                "error_bound": math.inf if bound is None else bound,
                "reasons": tuple(Reason(**each) for each in content["reasons"]),
                "promises": tuple(Promise(**each) for each in content["promises"]),
            }
        )

    def __str__(self) -> str:
        """A table."""
        rows = [
            ("exact", f"yes, up to {self.tokens} tokens" if self.exact else "no"),
            ("dtype", self.dtype),
            ("error bound", f"{self.error_bound:.3g}"),
            *(("reason", str(reason)) for reason in self.reasons),
            *(("promise", str(promise)) for promise in self.promises),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)


class Analysis(Protocol):
    """The conditions of a model over some tokens, and its errors.

    Attributes:
      slack: greatest rounding error of what a ramp's unit reads, in units of the ramp's rise.
    """

    slack: float

    def first_failure(self) -> Reason | None:
        """The first condition that fails, in the order of the layers."""

    def error_bound(self) -> float:
        """The greatest absolute error of an output."""


def certify(
    schedule: Schedule,
    numerics: Numerics,
    analyse: Callable[[int], Analysis] | None = None,
) -> Certificate:
    """Check every condition of a schedule in a dtype.

    Args:
      schedule: the layers, with bounds for `schedule.graph.tokens` tokens.
      numerics: the dtype.
      analyse: the analysis over a number of tokens, where a target has conditions of its own; by
        default that of a linear recurrence with one unit a channel.

    Raises:
      PrecisionError: a weight is not a finite, normal number of the dtype; names the signal.
    """
    if analyse is None:
        _check_weights(schedule, numerics)
        analyse = partial(_Analysis, schedule, numerics)
    tokens = schedule.graph.tokens
    failure = analyse(tokens).first_failure()
    program = schedule.graph.program or schedule.graph
    promises = promises_of(program)
    if failure is None:
        return Certificate(True, 0.0, (), promises, numerics.dtype, tokens)
    reason = replace(failure, token=_first_token(analyse, tokens))
    if reason.token:
        at_token = analyse(reason.token + 1).first_failure()
        reason = replace(at_token or reason, token=reason.token)
    analysis = analyse(tokens)
    bound = analysis.error_bound()
    promises = promises_of(program, min(analysis.slack, MAX_SLACK))
    return Certificate(False, bound, (reason,), promises, numerics.dtype, tokens)


def promises_of(program: Graph, slack: float = 0.0) -> tuple[Promise, ...]:
    """Every promise of a program: bounds, latches, and ramps of continuous comparisons.

    Args:
      program: the graph as written.
      slack: rounding of the comparisons' arguments, in units of a ramp's rise: it widens the ramps.
    """
    found = []
    for i, node in enumerate(program.nodes):
        text = node.op.promise()
        if isinstance(node.op, Step) and not node.op.avoids_ramp(program.facts[node.operands[0]]):
            text = f"compares a difference that stays out of the ramp {node.op.ramp_text(slack)}"
        if text is not None:
            found.append(Promise(program.label(i), program.source(i), text))
    return tuple(found)


def _first_token(analyse: Callable[[int], Analysis], tokens: int) -> int:
    """The least t at which a condition fails for t + 1 tokens; facts only grow with the length."""
    if analyse(1).first_failure() is not None:
        return 0  # as most failures: of what is continuous
    passes, fails = 1, tokens
    while fails - passes > 1:
        middle = (passes + fails) // 2
        if analyse(middle).first_failure() is None:
            passes = middle
        else:
            fails = middle
    return fails - 1


def _check_weights(schedule: Schedule, numerics: Numerics) -> None:
    for layer, unit, rows in _all_rows(schedule):
        weights = _weights(rows)
        size = np.abs(weights[weights != 0])
        if ((size > numerics.largest) | (size < numerics.tiny) | ~np.isfinite(size)).any():
            node = unit.node if unit else schedule.graph.output
            worst = size[np.argmax(np.abs(np.log2(size)))]
            raise PrecisionError(
                f"{schedule.graph.label(node)} ({schedule.graph.source(node)}), layer {layer}: "
                f"needs the weight {worst:g}, which {numerics.dtype} can't hold (normal numbers "
                f"from {numerics.tiny:g} to {numerics.largest:g}); narrow the signal with "
                "lsrl.bound, or choose a wider dtype"
            )


def _all_rows(schedule: Schedule) -> Iterator[tuple[int, Unit | None, Rows]]:
    for number, layer in enumerate(schedule.layers, start=1):
        for unit in layer.units:
            for rows in unit.slots:
                yield number, unit, rows
    yield len(schedule.layers) + 1, None, schedule.output


class Condition(NamedTuple):
    """One thing that must hold for a model to be exact."""

    node: int
    layer: int  # from 1; 0 for the input map, one past the last for the output map
    sums: Sums  # must fit the dtype; see `sum_is_exact`
    what: str  # how the sum is called in messages
    weights: Array  # numbers that the dtype must hold
    composed: bool  # whether float64 held the weights while rows were composed


class _Analysis:
    """The conditions and errors of a schedule over a number of tokens."""

    def __init__(self, schedule: Schedule, numerics: Numerics, tokens: int) -> None:
        self.schedule = schedule
        self.graph = schedule.graph
        self.numerics = numerics
        self.tokens = tokens
        self.facts = schedule.graph.facts_at(tokens)
        self.slack = 0.0  # greatest rounding error of what a ramp's unit reads

    def first_failure(self) -> Reason | None:
        """The first condition that fails, in the order of the layers."""
        return next(filter(None, map(self._failure, self.conditions())), None)

    def conditions(self) -> Iterator[Condition]:
        """Every condition, in the order of the layers."""
        nothing = np.zeros(0)
        for node in self.schedule.features:
            yield Condition(node, 0, _held(self.facts[node]), "the input is", nothing, True)
        before = self._feature_facts()
        for number, layer in enumerate(self.schedule.layers, start=1):
            mine = self._layer_facts(layer)
            for unit in layer.units:
                for slot, rows in enumerate(unit.slots):
                    sums = self._sums(layer, unit, slot, before, mine)
                    weights = np.concatenate([_weights(rows), layer.initial])
                    yield Condition(unit.node, number, sums, "the sum is", weights, rows.exact)
                if unit.kind == "product":
                    sums = self._product(unit)
                    yield Condition(unit.node, number, sums, "the product is", nothing, True)
            before = mine
        rows = self.schedule.output
        sums = row_sums(rows, facts_of_nothing(), before)
        last = len(self.schedule.layers) + 1
        yield Condition(self.graph.output, last, sums, "the sum is", _weights(rows), rows.exact)

    def _failure(self, condition: Condition) -> Reason | None:
        sums, what = condition.sums, condition.what
        exact = sum_is_exact(sums.magnitude, sums.grid, self.numerics.bits) | (sums.magnitude == 0)
        if not exact.all():
            worst = int(np.flatnonzero(~exact)[0])
            magnitude, grid = sums.magnitude[worst], sums.grid[worst]
            room = f"2^{self.numerics.bits} x {grid:g}"
            text = f"{what} up to {magnitude:g}, more than {room}"
            return self._reason(condition, f"{what} continuous" if grid == 0 else text)
        if not (condition.composed and self._fits(condition.weights).all()):
            return self._reason(condition, f"a weight is rounded in {self.numerics.dtype}")
        return None

    def _reason(self, condition: Condition, text: str) -> Reason:
        node = condition.node
        return Reason(self.graph.label(node), self.graph.source(node), condition.layer, text)

    def _fits(self, values: Array) -> Array:
        """Which numbers the dtype holds exactly."""
        bits = lowest_bit(values)
        normal = (np.abs(values) >= self.numerics.tiny) & (np.abs(values) <= self.numerics.largest)
        return (values == 0) | (normal & (np.abs(values) <= 2.0**self.numerics.bits * bits))

    def _weights_fit(self, rows: Rows) -> bool:
        return bool(self._fits(_weights(rows)).all())

    def _feature_facts(self) -> Facts:
        return joined_facts([self.facts[node] for node in self.schedule.features])

    def _layer_facts(self, layer: Layer) -> Facts:
        return joined_facts([channels_of(self.facts[unit.node], unit) for unit in layer.units])

    def _sums(self, layer: Layer, unit: Unit, slot: int, before: Facts, mine: Facts) -> Sums:
        rows = unit.slots[slot]
        if unit.kind != "state":
            return row_sums(rows, mine, before)
        own, others = split_recurrence(rows, unit)
        update = row_sums(rows._replace(recurrent=others), mine, before)
        start = layer.initial[unit.start : unit.start + unit.width]
        facts_ = channels_of(self.facts[unit.node], unit)
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
            whole = whole._replace(magnitude=np.minimum(whole.magnitude, narrowed))
        return Sums(whole.magnitude, np.minimum(whole.grid, update.grid))

    def _product(self, unit: Unit) -> Sums:
        left, right = (self.facts[i] for i in self.graph.nodes[unit.node].operands)
        if left.boolean or right.boolean:
            return Sums(np.zeros(unit.width), np.full(unit.width, np.inf))
        grid = lowest_bit_of_step(left) * lowest_bit_of_step(right)
        return Sums(
            (left.magnitude * right.magnitude)[unit.channels],
            np.where(np.isnan(grid), np.inf, grid)[unit.channels],
        )

    @np.errstate(over="ignore", invalid="ignore")
    def error_bound(self) -> float:
        """The greatest absolute error of an output over these tokens; inf without finite bounds."""
        before_facts = self._feature_facts()
        before = self._feature_errors()
        for layer in self.schedule.layers:
            mine = self._layer_facts(layer)
            errors = np.zeros(layer.width)
            # States of this layer are read by its other units, so they come first.
            for unit in sorted(layer.units, key=lambda u: u.kind != "state"):
                place = slice(unit.start, unit.start + unit.width)
                errors[place] = self._unit_errors(layer, unit, errors, before, mine, before_facts)
            before, before_facts = errors, mine
        final = self._row_errors(
            self.schedule.output, np.zeros(0), before, facts_of_nothing(), before_facts
        )
        # An infinite bound times an error of 0 is nan.
        return float(np.where(np.isnan(final), np.inf, final).max(initial=0.0))

    def _feature_errors(self) -> Array:
        parts = []
        for node in self.schedule.features:
            fact, op = self.facts[node], self.graph.nodes[node].op
            exact = sum_is_exact(*_held(fact), self.numerics.bits)
            if isinstance(op, Lookup):
                exact = exact | self._fits(op.table.dense()).all(axis=0)
            parts.append(np.where(exact, 0.0, fact.magnitude * self.numerics.unit))
        return np.concatenate(parts) if parts else np.zeros(0)

    def _row_errors(
        self, rows: Rows, mine: Array, before: Array, mine_facts: Facts, before_facts: Facts
    ) -> Array:
        """Errors of rows: those of what they read, and their own rounding."""
        recurrent, inputs = abs(rows.recurrent), abs(rows.inputs)
        passed = np.asarray(inputs @ before).ravel()
        if rows.recurrent.nnz:
            passed = passed + np.asarray(recurrent @ mine).ravel()
        sums = row_sums(rows, mine_facts, before_facts)
        terms = np.diff(rows.recurrent.indptr) + np.diff(rows.inputs.indptr) + (rows.bias != 0)
        fits = self._weights_fit(rows) and rows.exact
        exact = sum_is_exact(sums.magnitude, sums.grid, self.numerics.bits) & fits & (passed == 0)
        # One term times a power of two is not rounded at all.
        exact |= (terms <= 1) & fits & self._scales_only(rows)
        gamma = (terms + (0 if fits else 2)) * self.numerics.unit
        gamma = gamma / np.maximum(1 - gamma, 2.0**-10)
        return np.where(exact, passed, passed + gamma * (sums.magnitude + passed))

    def _scales_only(self, rows: Rows) -> Array:
        """Rows whose weights are powers of two."""
        result = np.ones(len(rows.bias), dtype=bool)
        for matrix in (rows.recurrent, rows.inputs):
            size = np.abs(matrix.data)
            odd = sp.csr_array(
                ((size != lowest_bit(size)).astype(float), matrix.indices, matrix.indptr),
                matrix.shape,
            )
            result &= np.asarray(odd.sum(axis=1)).ravel() == 0
        return result

    def _unit_errors(
        self,
        layer: Layer,
        unit: Unit,
        mine: Array,
        before: Array,
        mine_facts: Facts,
        before_facts: Facts,
    ) -> Array:
        if unit.kind == "state":
            return self._state_errors(layer, unit, mine, before, mine_facts, before_facts)
        slots = [
            self._row_errors(rows, mine, before, mine_facts, before_facts) for rows in unit.slots
        ]
        if unit.kind == "product":
            left, right = (
                channels_of(self.facts[i], unit) for i in self.graph.nodes[unit.node].operands
            )
            spread = left.magnitude * slots[1] + right.magnitude * slots[0] + slots[0] * slots[1]
            clean = (slots[0] + slots[1] == 0) & (left.boolean | right.boolean)
            clean |= spread == 0
            rounded = self.numerics.unit * (left.magnitude * right.magnitude + spread)
            exact = sum_is_exact(*self._product(unit), self.numerics.bits)
            selects = np.array(left.boolean and not slots[0].any()) | np.array(
                right.boolean and not slots[1].any()
            )
            return np.where((exact & clean) | selects, spread, spread + rounded)
        if unit.kind == "relu" and self._snaps(unit):
            # What the unit reads lacks nothing or at least 1, by promise with a margin of
            # MAX_SLACK: so it is exactly 1, or shut, whatever the rounding.
            slack = greatest_terms(unit.slots[0], mine, before)
            self.slack = max(self.slack, float(slack.max(initial=0.0)))
            return np.where(slack <= MAX_SLACK, 0.0, slots[0])
        return slots[0]

    def _snaps(self, unit: Unit) -> bool:
        """Whether the unit is 0 or 1 by the promise of a ramp, and not by its operand's grid."""
        operand = self.graph.nodes[unit.node].operands[0]
        return self.facts[unit.node].boolean and not self.facts[operand].gridded

    def _state_errors(
        self,
        layer: Layer,
        unit: Unit,
        mine: Array,
        before: Array,
        mine_facts: Facts,
        before_facts: Facts,
    ) -> Array:
        rows = unit.slots[0]
        own, others = split_recurrence(rows, unit)
        update_rows = rows._replace(recurrent=others)
        fresh = self._row_errors(update_rows, mine, before, mine_facts, before_facts)
        fact = channels_of(self.facts[unit.node], unit)
        start = layer.initial[unit.start : unit.start + unit.width]
        if fact.once and own.is_identity and (fresh <= 2.0**-4 * fact.magnitude).all():
            # A shut gate adds exactly 0, so rounding counts once: adding the one value to the
            # start.
            return fresh + np.where(start == 0, 0.0, self.numerics.unit * fact.magnitude)
        sums = self._sums(layer, unit, 0, before_facts, mine_facts)
        exact = sum_is_exact(sums.magnitude, sums.grid, self.numerics.bits) & (fresh == 0)
        terms = np.diff(rows.recurrent.indptr) + np.diff(rows.inputs.indptr) + 1
        moves_only = (np.diff(rows.recurrent.indptr) == 1) & (np.diff(rows.inputs.indptr) == 0)
        moves_only &= (rows.bias == 0) & self._scales_only(rows)
        rounding = np.where(exact | moves_only, 0.0, terms * self.numerics.unit * sums.magnitude)
        per_token = fresh + rounding
        if not per_token.any():
            return per_token
        update = facts(-per_token, per_token, np.zeros(len(per_token)))
        reached, _ = linear_state_facts(own, np.zeros(len(per_token)), update, self.tokens)
        return reached.magnitude


def greatest_terms(rows: Rows, mine: Array, before: Array) -> Array:
    """The greatest |weight| x error of each row."""
    result = np.zeros(len(rows.bias))
    for matrix, errors in ((rows.recurrent, mine), (rows.inputs, before)):
        terms = np.abs(matrix.data) * errors[matrix.indices]
        filled = np.flatnonzero(np.diff(matrix.indptr))
        if len(filled):
            result[filled] = np.maximum(
                result[filled], np.maximum.reduceat(terms, matrix.indptr[filled])
            )
    return result


def bits_needed(schedule: Schedule, tokens: int) -> int | None:
    """The least significand bits with which a schedule is exact; None if no number is."""
    most = 0.0
    for condition in _Analysis(schedule, numerics_of("float64"), tokens).conditions():
        magnitude, grid = condition.sums
        rows = magnitude > 0
        if (grid[rows] == 0).any() or not condition.composed:
            return None
        most = max(most, float(np.max(magnitude[rows] / grid[rows], initial=1.0)))
    return int(np.ceil(np.log2(most)))


def _weights(rows: Rows) -> Array:
    return np.concatenate([rows.recurrent.data, rows.inputs.data, rows.bias])


def _held(fact: Facts) -> Sums:
    """A value as a sum of one term: whether the dtype holds it."""
    return Sums(fact.magnitude, lowest_bit_of_step(fact))


def facts_of_nothing() -> Facts:
    """Facts of no channels."""
    return facts(np.zeros(0), np.zeros(0), np.zeros(0))


def joined_facts(parts: Sequence[Facts]) -> Facts:
    """The facts of several signals side by side."""
    if not parts:
        return facts_of_nothing()
    return Facts(
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
        np.concatenate([part.step for part in parts]),
        one_hot=len(parts) == 1 and parts[0].one_hot,
    )


def channels_of(fact: Facts, unit: Unit) -> Facts:
    """The facts of the channels that a unit holds."""
    picked = unit.channels
    return replace(fact, low=fact.low[picked], high=fact.high[picked], step=fact.step[picked])


def row_sums(rows: Rows, mine: Facts, before: Facts) -> Sums:
    """Condition P1 for rows over a layer's states and the layer before."""
    bias = Sums(np.abs(rows.bias), lowest_bit(rows.bias))
    parts = [bias, term_sums(Matrix(rows.inputs), before)]
    if rows.recurrent.nnz:
        parts.append(term_sums(Matrix(rows.recurrent), mine))
    return joined_sums(parts)


def split_recurrence(rows: Rows, unit: Unit) -> tuple[Matrix, sp.csr_array]:
    """A state's recurrence into itself, (width, width), and into other channels of its layer."""
    inside = slice(unit.start, unit.start + unit.width)
    own = Matrix(rows.recurrent[:, inside])
    others = rows.recurrent.tolil(copy=True)
    others[:, inside] = 0.0
    return own, sp.csr_array(others)
