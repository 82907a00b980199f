"""Causal tests: does intervening on a network's channels do what intervening on the program does?

Every signal that owns channels is interchanged at random tokens between random inputs, in the
network and in the reference evaluator, and the outputs are compared (Geiger et al. 2021). An
interchange can take the program where no input takes it: a value leaves the interval or the grid
that the compiler relies on. Such a pair breaks a promise and is left out, and counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lsrl.interpret.interventions import circuit_nodes, patches_of, wiring_of
from lsrl.ir.bounds import Facts
from lsrl.ir.evaluate import Intervention, evaluate
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Hold, SelectiveState
from lsrl.model import Model

# Most pairs of one run of the network: one compilation serves all runs.
ROWS = 512
# Sequences that bases and sources are drawn from.
POOL = 128
# Pairs tried for each one wanted, before a signal is left with fewer.
TRIES = 4
# Of the greatest output, for networks that are not exact.
RELATIVE = 1e-4
# (sequences, seed) to one array an input, (sequences, time[, width]).
Sampler = Callable[[int, int], Sequence[Array]]


@dataclass(frozen=True)
class SignalResult:
    """Interchanges of one signal.

    Attributes:
      name: the signal's.
      valid: pairs that break no promise.
      broken: pairs that do, and are left out.
      changed: valid pairs in which the program's output changes at some token.
      wrong: valid pairs in which the network's output differs from the program's at some token.
      error: greatest difference of outputs over the valid pairs.
    """

    name: str
    valid: int
    broken: int
    changed: int
    wrong: int
    error: float


@dataclass(frozen=True)
class CausalResult:
    """Interchanges of every signal of a model.

    Attributes:
      signals: one a signal that owns channels.
      tolerance: greatest difference that counts as equal; 0 where the certificate says exact.
    """

    signals: tuple[SignalResult, ...]
    tolerance: float

    @property
    def valid(self) -> int:
        """Valid pairs of all signals."""
        return sum(signal.valid for signal in self.signals)

    @property
    def agreement(self) -> float:
        """Share of the valid pairs in which network and program agree."""
        wrong = sum(signal.wrong for signal in self.signals)
        return 1.0 - wrong / self.valid if self.valid else 1.0


def causal_test(
    model: Model,
    sampler: Sampler,
    *,
    pairs: int = 500,
    seed: int = 0,
    tolerance: float | None = None,
) -> CausalResult:
    """Interchange every signal that owns channels, in the network and in the program.

    Args:
      model: compiled with inspectable=True.
      sampler: of inputs that keep the program's promises.
      pairs: valid pairs wanted a signal; up to TRIES times as many are tried.
      seed: of inputs, pairs and tokens.
      tolerance: greatest difference that counts as equal; by default 0 where the certificate says
        exact, what the card says of a variant, else RELATIVE of the greatest output.

    Returns:
      One result a signal. A signal for which fewer than `pairs` valid ones turned up has fewer.
    """
    rng = np.random.default_rng(seed)
    pool = [np.asarray(array) for array in sampler(POOL, seed)]
    graph, nodes = model.schedule.graph, circuit_nodes(model)
    known = evaluate(graph, pool, wanted=graph.live())
    if tolerance is None:
        tolerance = _tolerance(model, known[graph.output])
    results = []
    for signal in model.circuit.signals:
        if not signal.owned:
            continue
        tried, tally = 0, _Tally(tolerance)
        while tally.valid < pairs and tried < TRIES * pairs:
            rows = _draw(rng, known[nodes[signal.name]], min(pairs, ROWS))
            tally.add(*_interchanged(model, pool, known, signal.name, nodes, rows))
            tried += len(rows.base)
        results.append(tally.result(signal.name))
    return CausalResult(tuple(results), tolerance)


def _tolerance(model: Model, outputs: Array) -> float:
    if model.certificate.exact:
        return 0.0
    if model.card is not None and not np.isfinite(model.certificate.error_bound):
        return model.card.tolerance
    return RELATIVE * float(np.abs(outputs).max())


class _Rows(NamedTuple):
    base: Array  # (rows,) int, into the pool
    source: Array  # (rows,) int
    tokens: Array  # (rows, time) bool


def _draw(rng: np.random.Generator, values: Array, rows: int) -> _Rows:
    """Pairs and tokens, half of the time one token; those come first where the signal differs."""
    count, time = values.shape[:2]
    base, source = rng.integers(0, count, (2, 4 * rows))
    tokens = rng.random((4 * rows, time)) < 0.5
    single = rng.random(4 * rows) < 0.5
    tokens[single] = np.arange(time) == rng.integers(0, time, single.sum())[:, None]
    differs = (values[base] != values[source]).any(axis=-1) & tokens
    order = np.argsort(~differs.any(axis=1), kind="stable")[:rows]
    return _Rows(base[order], source[order], tokens[order])


def _interchanged(
    model: Model,
    pool: Sequence[Array],
    known: Mapping[int, Array],
    name: str,
    nodes: Mapping[str, int],
    rows: _Rows,
) -> tuple[Array, Array, Array]:
    """Which rows break no promise, in which the program's output changes, and the differences."""
    graph, wiring = model.schedule.graph, wiring_of(model)
    inputs = [array[rows.base] for array in pool]
    new = known[nodes[name]][rows.source].astype(np.float64)
    mask = np.broadcast_to(rows.tokens[..., None], new.shape)
    given = {nodes[name]: Intervention(mask, new)}
    values = evaluate(graph, inputs, wanted=graph.live(), interventions=given)
    valid = ~broken_rows(graph, values)
    outputs, _ = wiring.run(inputs, patches_of(wiring, {name: new}, rows.tokens))
    expected = values[graph.output].astype(np.float64)
    changed = (expected != known[graph.output][rows.base]).any(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        error = np.abs(outputs.astype(np.float64) - expected).max(axis=(1, 2))
    return valid, changed, np.where(np.isnan(error), np.inf, error)


class _Tally:
    """Counts the rows of one signal."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.valid = self.broken = self.changed = self.wrong = 0
        self.error = 0.0

    def add(self, valid: Array, changed: Array, error: Array) -> None:
        self.valid += int(valid.sum())
        self.broken += int((~valid).sum())
        self.changed += int((valid & changed).sum())
        self.wrong += int((valid & (error > self.tolerance)).sum())
        self.error = max(self.error, float(error[valid].max(initial=0.0)))

    def result(self, name: str) -> SignalResult:
        return SignalResult(name, self.valid, self.broken, self.changed, self.wrong, self.error)


def broken_rows(graph: Graph, values: dict[int, Array]) -> Array:
    """(batch,) whether some value leaves the facts that the compiler relies on."""
    found = np.zeros(next(iter(values.values())).shape[0], bool)
    for node, value in values.items():
        found |= _outside(graph.facts[node], value.astype(np.float64)).any(axis=(1, 2))
        op = graph.nodes[node].op
        if not isinstance(op, SelectiveState | Hold):
            continue
        first, second = (values[operand] for operand in graph.nodes[node].operands)
        # What keeps or takes a value is 0 or 1, though its interval may say no more than that it is
        # between other numbers; and an update that overwrites comes where nothing is kept.
        flag = second if isinstance(op, Hold) else first
        found |= ((flag != 0) & (flag != 1)).any(axis=(1, 2))
        if isinstance(op, SelectiveState) and op.overwrites:
            found |= ((first != 0) & (second != 0)).any(axis=(1, 2))
    return found


def _outside(facts: Facts, values: Array) -> Array:
    step = np.where((facts.step > 0) & np.isfinite(facts.step), facts.step, 1.0)
    gridded = facts.step > 0
    off = gridded & (values / step != np.rint(values / step))
    outside = (values < facts.low) | (values > facts.high) | off
    if facts.one_hot:
        outside = outside | (values.sum(axis=-1, keepdims=True) > 1)
    return outside
