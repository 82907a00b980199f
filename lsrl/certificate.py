"""The certificate: whether a compiled model equals its program exactly, else where and by how much.

A row is exact in any order of summation when the absolute values of its terms add up to at most 2^p
times the largest power of two that divides them all (condition P1), which must be a normal number
of the dtype, and they at most its largest. The certificate checks every row of every layer, every
product and every weight. Where one fails it names the first signal and the first token, and bounds
the error by a forward analysis of the same rows. Each family of targets has its own rows, and so an
`Analysis` of its own, beside its networks.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import scipy.sparse as sp

from lsrl import schema
from lsrl.errors import PrecisionError
from lsrl.ir.bounds import Facts, Sums, joined_sums, lowest_bit_of_step, term_sums
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit, sum_is_exact
from lsrl.ir.ops import Keeper, Lookup
from lsrl.numerics import Numerics
from lsrl.rounding.channels import RoundingError
from lsrl.rounding.network import Held
from lsrl.rounding.walk import Walk
from lsrl.schedule import Layout, Rows, Unit
from lsrl.schema import Reader
from lsrl.showing import card

# Dtypes that every operation of a network is rounded to; XLA adds up bfloat16 in float32.
ROUNDED = ("float32", "float64")
CLOSED = "yes: what is fed back is a legal input at every token; tokens are prompt and loop"
# Rounding that a ramp may swallow, in units of the ramp's own rise from 0 to 1.
MAX_SLACK = 1.0


@dataclass(frozen=True)
class Reason:
    """Why a model is not exact.

    Attributes:
      signal: the signal whose row fails first.
      source: the user's line.
      layer: its layer, from 1; 0 for the input map, one past the last for the output map, and None
        for the whole network.
      condition: what fails, in numbers.
      token: the first token at which it can fail; 0 if it does not depend on the length.
    """

    signal: str
    source: str
    layer: int | None
    condition: str
    token: int = 0

    def __str__(self) -> str:
        """One line."""
        layer = "" if self.layer is None else f", layer {self.layer}"
        text = f"{self.signal} ({self.source}){layer}: {self.condition}"
        return f"{text}; exact up to token {self.token - 1}" if self.token else text


@dataclass(frozen=True)
class Promise:
    """What the certificate takes on trust: a `bound`, a `latch` or a ramp of the program.

    Attributes:
      signal: the signal it is about.
      source: the user's line.
      text: the promise in words.
      keeper: whose it is: "program" for what holds for every input of the declared types, so its
        author says, which runs check and nobody proves; "prompt" for what a legal prompt keeps.
    """

    signal: str
    source: str
    text: str
    keeper: Keeper = "program"

    def __str__(self) -> str:
        """One line."""
        whose = "program, checked" if self.keeper == "program" else "prompt"
        return f"{self.signal} ({self.source}) {self.text} ({whose})"


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
      tokens: the number of tokens that the certificate speaks of; None for any number, where it is
        proven op by op that no fact and no condition depends on it. Those of a prompt count, and
        those of a loop behind it.
      closed: whether the program feeds outputs back, so that each token of a loop is a legal input,
        by induction from the prompt. The promises that are the program's it keeps in a loop too,
        those of the prompt are for prompt and loop together.
      exact_in_dtype: of a model that is not exact: whether every output equals the reference
        evaluator's run in the dtype, bit for bit, with the same promises, tokens and zeros.
      differs: why not, where that was looked for: the first signal that may be off by a bit.
    """

    exact: bool
    error_bound: float
    reasons: tuple[Reason, ...]
    promises: tuple[Promise, ...]
    dtype: str
    tokens: int | None
    closed: bool = False
    exact_in_dtype: bool = False
    differs: Reason | None = None

    @property
    def verdict(self) -> str:
        """What it comes to, in a few words: "exact", "exact in float32", or "error <= 0.01"."""
        if self.exact:
            return "exact"
        if self.exact_in_dtype:
            return f"exact in {self.dtype}"
        return f"error <= {self.error_bound:.2g}"

    @property
    def length(self) -> str:
        """What `tokens` says, in words."""
        return "at any length" if self.tokens is None else f"up to {self.tokens} tokens"

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; an error without bound is null."""
        bound = self.error_bound if math.isfinite(self.error_bound) else None
        said = {**asdict(self), "error_bound": bound}
        if not self.closed:
            del said["closed"]  # as it was written before there were loops
        return said

    @classmethod
    def from_json(cls, content: object) -> "Certificate":
        """What `to_json` gave.

        Raises:
          FormatError: names the field that is missing or wrong.
        """
        return schema.read(cls, content, _FIELDS)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What it says, line by line: names and texts."""
        bound = f"{self.error_bound:.3g}"
        return [
            ("exact", f"yes, {self.length}" if self.exact else self._in_dtype),
            ("dtype", self.dtype),
            ("error bound", bound if self.exact else f"{bound}, {self.length}"),
            *([("closed", CLOSED)] if self.closed else []),
            *(("reason", str(reason)) for reason in self.reasons),
            *(() if self.differs is None else [("in its dtype", f"not exact: {self.differs}")]),
            *(("promise", str(promise)) for promise in self.promises),
        ]

    @property
    def _in_dtype(self) -> str:
        if not self.exact_in_dtype:
            return "no"
        return f"in {self.dtype}, bit for bit as the reference run in it, {self.length}"

    def __str__(self) -> str:
        """A table."""
        return "\n".join(f"{name:<12} {value}" for name, value in self.facts)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return card("Certificate", self.facts)


_FIELDS: Mapping[str, Reader[object]] = {
    "error_bound": schema.maybe(schema.number(0.0, infinite=False), math.inf),
    "layer": schema.maybe(schema.integer(0)),
    "token": schema.integer(0),
    "tokens": schema.maybe(schema.integer(1)),
}


class Condition(NamedTuple):
    """One thing that must hold for a model to be exact.

    Attributes:
      node: of the graph, for messages.
      layer: from 1; 0 for the input map, one past the last for the output map.
      sums: as the network adds them up, or takes them for one number; see `Analysis.exact_sums`.
      what: how the sums are called in messages.
      weights: numbers that the dtype must hold.
      composed: whether float64 held the weights while rows were composed.
      scale: by what the network scales the sums, a power of two each; messages divide by it.
      failure: what fails whatever the sums are; None if nothing does.
    """

    node: int
    layer: int
    sums: Sums
    what: str
    weights: Array = np.zeros(0)
    composed: bool = True
    scale: Array | float = 1.0
    failure: str | None = None


Found_co = TypeVar("Found_co", bound="Analysis", covariant=True)


class Analyse(Protocol[Found_co]):
    """Makes an analysis over a number of tokens."""

    def __call__(self, tokens: int, known: tuple[Facts, ...] | None = None) -> Found_co:
        """With the facts over so many tokens, or with these, which are those of the dtype."""


class Analysis(ABC):
    """The conditions of a model over some tokens, and its errors; each family extends it.

    Attributes:
      graph: the legalised graph.
      numerics: the dtype.
      tokens: number of tokens.
      facts: of every node, over these tokens.
      slack: greatest rounding error of what a ramp's unit reads, in units of the ramp's rise.
      settled: False once a condition or an error was asked for that the number of tokens enters by
        itself, and not by the facts alone; see `Graph.settled` for those.
    """

    def __init__(
        self,
        graph: Graph,
        numerics: Numerics,
        tokens: int,
        known: tuple[Facts, ...] | None = None,
    ) -> None:
        """Bounds are those of `tokens` tokens; those in the dtype are `known`."""
        self.graph = graph
        self.numerics = numerics
        self.tokens = tokens
        self.facts = graph.facts_at(tokens) if known is None else known
        self.slack = 0.0
        self.settled = True

    @abstractmethod
    def conditions(self) -> Iterator[Condition]:
        """Every condition, in the order of the layers."""

    @abstractmethod
    def output_error(self) -> float:
        """The greatest absolute error of an output, if nothing exceeds the largest number."""

    def check_alike(self, held: Held) -> None:
        """Hold every row that is rounded against the graph; the facts are those of the dtype.

        Raises:
          RoundingError: a bit may differ.
        """
        raise RoundingError(
            self.graph.output,
            "this cell scales and adds up numbers by its gates, so it has a bound alone",
        )

    def check_ends(self, condition: Condition) -> None:
        """Let a condition hold but for its sums, which may be rounded.

        Raises:
          RoundingError: a weight is rounded, a gate may be half open, or a number too large.
        """
        sums = condition.sums
        fine = condition.composed and self.fits(condition.weights).all()
        if not fine or condition.failure is not None:
            raise RoundingError(condition.node, condition.failure or "a weight is rounded")
        if not ((sums.magnitude == 0) | self._in_range(sums)).all():
            raise RoundingError(condition.node, f"{condition.what} beyond the numbers of the dtype")

    def first_failure(self) -> Reason | None:
        """The first condition that fails, in the order of the layers."""
        for condition in self.conditions():
            text = self._failure(condition)
            if text is not None:
                label, source = self.graph.label(condition.node), self.graph.source(condition.node)
                return Reason(label, source, condition.layer, text)
        return None

    def bits_needed(self) -> int | None:
        """The least significand bits with which these conditions hold; None if no number is enough.

        With the dtype's own range, and with the weights that were chosen for the dtype.
        """
        most = 1
        for condition in self.conditions():
            magnitude, grid = condition.sums
            some = magnitude != 0
            bad = some & ((grid == 0) | ~self._in_range(condition.sums))
            if bad.any() or condition.failure is not None or not condition.composed:
                return None
            weights = condition.weights[condition.weights != 0]
            if not self._is_normal(weights).all():
                return None
            most = max(
                most,
                _most_bits(magnitude[some], grid[some]),
                _most_bits(np.abs(weights), lowest_bit(weights)),
            )
        return most

    def error_bound(self) -> float:
        """The greatest absolute error of an output over these tokens; inf without finite bounds.

        One number that is infinite makes all others of its layer nan, so that it takes one only.
        """
        # Room for the errors of a sum that are in proportion to it.
        largest = (1 - 2.0**-4) * self.numerics.largest
        if any((condition.sums.magnitude > largest).any() for condition in self.conditions()):
            return math.inf
        with np.errstate(over="ignore", invalid="ignore"):
            bound = self.output_error()
        # An infinite bound times an error of 0 is nan.
        return math.inf if math.isnan(bound) else bound

    # ------------------------------------------------------------ what the dtype holds

    def exact_sums(self, sums: Sums) -> Array:
        """Which sums are exact in any order, and every product and partial sum a normal number."""
        exact = sum_is_exact(sums.magnitude, sums.grid, self.numerics.bits)
        return np.asarray((sums.magnitude == 0) | (exact & self._in_range(sums)))

    def exact_sum(self, size: float, grid: float) -> bool:
        """The same of one sum, which takes a tenth of the time."""
        in_range = grid >= self.numerics.tiny and size <= self.numerics.largest
        return bool(size == 0 or (in_range and size <= 2.0**self.numerics.bits * grid))

    def fits(self, values: Array) -> Array:
        """Which numbers the dtype holds exactly."""
        few = np.abs(values) <= 2.0**self.numerics.bits * lowest_bit(values)
        return np.asarray((values == 0) | (self._is_normal(values) & few))

    def lost(self, sums: Sums, operations: Array | float) -> Array:
        """What sums lose at most below the smallest normal number, which is taken for zero.

        Args:
          sums: of which nothing is lost where all that can come up lies on a grid of such numbers.
          operations: how many products and additions there are.
        """
        return np.where(sums.grid >= self.numerics.tiny, 0.0, operations * self.numerics.tiny)

    def held_errors(self, node: int) -> Array:
        """The errors of an input, or of a table's rows: rounded once, unless the dtype holds it."""
        fact, op = self.facts[node], self.graph.nodes[node].op
        sums = held_sums(fact)
        exact = self.exact_sums(sums)
        if isinstance(op, Lookup):
            entries = op.table.csr
            too_fine = entries.indices[~self.fits(entries.data)]
            exact = exact | (np.bincount(too_fine, minlength=op.table.columns) == 0)
        rounded = fact.magnitude * self.numerics.unit + self.lost(sums, 1)
        return np.where(exact, 0.0, rounded)

    def snapped(self, rows: Rows, mine: Array, before: Array) -> Array:
        """Which ReLUs of rows are exactly 0 or 1, whatever the rounding, given what rows read.

        By promise what a ramp's unit reads lacks nothing or at least 1, give or take MAX_SLACK.
        """
        slack = greatest_terms(rows, mine, before)
        self.slack = max(self.slack, float(slack.max(initial=0.0)))
        return slack <= MAX_SLACK

    def _in_range(self, sums: Sums) -> Array:
        low = sums.grid >= self.numerics.tiny
        return np.asarray(low & (sums.magnitude <= self.numerics.largest))

    def _is_normal(self, values: Array) -> Array:
        size = np.abs(values)
        return np.asarray((size >= self.numerics.tiny) & (size <= self.numerics.largest))

    def _failure(self, condition: Condition) -> str | None:
        sums, dtype = condition.sums, self.numerics.dtype
        one = sums.magnitude.size == 1 == sums.grid.size
        holds = one and self.exact_sum(sums.magnitude.item(), sums.grid.item())
        failing = [] if holds else np.flatnonzero(~self.exact_sums(sums)).tolist()
        if failing:
            return self._sum_failure(condition, failing[0])
        weights = condition.weights
        if not (condition.composed and (not weights.size or self.fits(weights).all())):
            return f"a weight is rounded in {dtype}"
        return condition.failure

    def _sum_failure(self, condition: Condition, worst: int) -> str:
        (magnitude, grid), what = condition.sums, condition.what
        scale = np.broadcast_to(condition.scale, magnitude.shape)[worst]
        size, step = magnitude[worst], grid[worst]
        if step == 0:
            return f"{what} continuous"
        shown = f"{what} up to {size / scale:g}"
        if not sum_is_exact(size, step, self.numerics.bits):
            return f"{shown}, more than 2^{self.numerics.bits} x {step / scale:g}"
        name, by = self.numerics.dtype, "" if scale == 1 else f", times {scale:g}"
        if size > self.numerics.largest:
            return f"{shown}{by}, and the largest number of {name} is {self.numerics.largest:g}"
        return (
            f"{what} on a grid of {step / scale:g}{by}, and the smallest normal number of {name} "
            f"is {self.numerics.tiny:g}"
        )


def _most_bits(sizes: Array, grids: Array) -> int:
    """The least p such that every size is at most 2^p times its grid, a power of two."""
    if not len(sizes):
        return 1
    mantissa, exponent = np.frexp(sizes)
    return int((exponent - np.frexp(grids)[1] + np.where(mantissa > 0.5, 1, 0)).max())


def certify(schedule: Layout, numerics: Numerics, analyse: Analyse[Analysis]) -> Certificate:
    """Check every condition of a schedule in a dtype.

    Args:
      schedule: the layers, with bounds for `schedule.graph.tokens` tokens.
      numerics: the dtype.
      analyse: the target's analysis over a number of tokens.
    """
    tokens = schedule.graph.tokens
    analysis = analyse(tokens)
    reason, bound, slack = analysis.first_failure(), 0.0, 0.0
    if reason is not None:
        reason = replace(reason, token=_first_token(analyse, tokens))
        if reason.token:
            at_token = analyse(reason.token + 1).first_failure()
            reason = replace(at_token or reason, token=reason.token)
        analysis = analyse(tokens)
        bound, slack = analysis.error_bound(), min(analysis.slack, MAX_SLACK)
    same, differs = False, None
    if reason is not None and schedule.graph.trail is not None:
        same, differs, wider = _in_dtype(schedule.graph, numerics, tokens, analyse)
        slack = max(slack, wider)
    promises = promises_of(schedule.graph.program or schedule.graph, slack)
    length = None if schedule.graph.settled and analysis.settled else tokens
    reasons = () if reason is None else (reason,)
    return Certificate(
        reason is None, bound, reasons, promises, numerics.dtype, length,
        exact_in_dtype=same, differs=differs,
    )  # fmt: skip


def _in_dtype(
    graph: Graph, numerics: Numerics, tokens: int, analyse: Analyse[Analysis]
) -> tuple[bool, Reason | None, float]:
    """Whether the network is exact in its dtype, why not, and how much wider ramps are for it."""
    if graph.trail is None:
        return False, None, 0.0
    if numerics.dtype not in ROUNDED:
        text = f"networks keep more bits between two operations than {numerics.dtype} has"
        return False, Reason("the network", numerics.dtype, None, text), 0.0
    walk = Walk(graph, graph.trail, numerics, tokens)
    try:
        held = Held(walk)
        facts = zip(held.channels.facts, graph.facts, strict=True)
        known = tuple(mine or given for mine, given in facts)
        analyse(tokens, known).check_alike(held)
    except RoundingError as error:
        where = graph if walk.found else walk.program
        label, source = where.label(error.node), where.source(error.node)
        return False, Reason(label, source, None, error.text), 0.0
    return True, None, held.slack


def out_of_range(numerics: Numerics, weights: Array) -> Array:
    """The sizes of weights that the dtype can't hold as finite, normal numbers."""
    size = np.abs(weights[weights != 0])
    return np.asarray(size[~((size >= numerics.tiny) & (size <= numerics.largest))])


def check_range(numerics: Numerics, where: str, weights: Array) -> None:
    """Refuse weights that the dtype can't hold as finite, normal numbers.

    Args:
      numerics: the dtype.
      where: what they make, and where; see `place_of`.
      weights: of any shape.

    Raises:
      PrecisionError: names the place and the worst weight.
    """
    bad = out_of_range(numerics, weights)
    if not len(bad):
        return
    worst = bad[np.argmax(np.abs(np.log2(bad)))]
    raise PrecisionError(
        f"{where}: needs the weight {worst:g}, which {numerics.dtype} can't hold (normal numbers "
        f"from {numerics.tiny:g} to {numerics.largest:g}); narrow the signal with lsrl.bound, or "
        "choose a wider dtype"
    )


def place_of(graph: Graph, node: int, layer: int) -> str:
    """A signal, the user's line and its layer, as messages have them."""
    return f"{graph.label(node)} ({graph.source(node)}), layer {layer}"


def promises_of(program: Graph, slack: float = 0.0) -> tuple[Promise, ...]:
    """Every promise of a program: bounds, latches, and ramps of continuous comparisons.

    Args:
      program: the graph as written.
      slack: rounding of the comparisons' arguments, in units of a ramp's rise: it widens the ramps.
    """
    found = []
    for i, node in enumerate(program.nodes):
        pledge = node.op.promise([program.facts[operand] for operand in node.operands], slack)
        if pledge is not None and pledge.keeper is not None:
            found.append(Promise(program.label(i), program.source(i), pledge.text, pledge.keeper))
    return tuple(found)


def _first_token(analyse: Analyse[Analysis], tokens: int) -> int:
    """The least t at which a condition fails for t + 1 tokens; facts only grow with the length."""

    def fails(count: int) -> bool:
        return analyse(count).first_failure() is not None

    # Most failures are there at once: those of what is continuous.
    if fails(1):
        return 0
    # No bisect_left, whose range has to have a length that fits into 64 bits.
    low, high = 1, tokens - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle + 1) else (middle + 1, high)
    return low


def greatest_terms(rows: Rows, mine: Array, before: Array) -> Array:
    """The greatest |weight| x error of each row."""
    result = np.zeros(len(rows.bias))
    for matrix, errors in ((rows.recurrent, mine), (rows.inputs, before)):
        terms = np.abs(matrix.data) * errors[matrix.indices]
        filled = np.flatnonzero(np.diff(matrix.indptr))
        if len(filled):
            greatest = np.maximum.reduceat(terms, matrix.indptr[filled])
            result[filled] = np.maximum(result[filled], greatest)
    return result


def passed_errors(rows: Rows, mine: Array, before: Array) -> Array:
    """The errors that each row takes over from what it reads."""
    passed = np.asarray(abs(rows.inputs) @ before).ravel()
    return passed + abs(rows.recurrent) @ mine if rows.recurrent.nnz else passed


def row_weights(rows: Rows, own: slice | None = None) -> Array:
    """All weights and biases of rows, or of some that follow one another."""
    if own is None:
        return np.concatenate([rows.recurrent.data, rows.inputs.data, rows.bias])
    parts = []
    for matrix in (rows.recurrent, rows.inputs):
        parts.append(matrix.data[matrix.indptr[own.start] : matrix.indptr[own.stop]])
    return np.concatenate([*parts, rows.bias[own]])


def held_sums(fact: Facts) -> Sums:
    """A value as a sum of one term: whether the dtype holds it."""
    return Sums(fact.magnitude, lowest_bit_of_step(fact))


def row_sums(rows: Rows, mine: Facts, before: Facts) -> Sums:
    """Condition P1 for rows over a layer's states and the layer before."""
    bias = Sums(np.abs(rows.bias), lowest_bit(rows.bias))
    parts = [bias, term_sums(Matrix.shared(rows.inputs), before)]
    if rows.recurrent.nnz:
        parts.append(term_sums(Matrix.shared(rows.recurrent), mine))
    return joined_sums(parts)


def split_recurrence(rows: Rows, unit: Unit) -> tuple[Matrix, sp.csr_array]:
    """A state's recurrence into itself, (width, width), and into other channels of its layer."""
    whole = Matrix.shared(rows.recurrent)
    targets, channels = whole.entry_rows(), whole.indices - unit.start
    inside: Array = (channels >= 0) & (channels < unit.width)
    square = whole.rows, unit.width
    own = Matrix.placed(whole.data[inside], targets[inside], channels[inside], square)
    rest = whole.data[~inside], targets[~inside], whole.indices[~inside]
    return own, Matrix.placed(*rest, whole.shape).csr
