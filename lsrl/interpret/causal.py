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

from lsrl import arguments
from lsrl.interpret.interventions import Block, circuit_nodes, joint_patches, wiring_of
from lsrl.interpret.layerwise import known_streams
from lsrl.ir.arithmetic import Floats
from lsrl.ir.evaluate import Intervention, evaluate, reevaluate
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Extent, Hold, Recall, SelectiveState, SwapState
from lsrl.ir.types import check_inputs
from lsrl.model import Model

# Pairs of one run of the network, of as many signals as there is room for: one compilation serves
# all runs. Of a network that runs layer by layer there are fewer, so that they set signals of few.
ROWS, ROWS_BY_LAYER = 512, 128
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
      missed: those of the wrong pairs in which the program's output changes.
    """

    name: str
    valid: int
    broken: int
    changed: int
    wrong: int
    error: float
    missed: int


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

    @property
    def agreement_on_changes(self) -> float:
        """The same over the pairs in which the program's output changes; others are easily met."""
        changed = sum(signal.changed for signal in self.signals)
        missed = sum(signal.missed for signal in self.signals)
        return 1.0 - missed / changed if changed else 1.0


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

    Raises:
      InputError: no model, no sampler, inputs of other types, or a bad number.
    """
    program = arguments.instance("causal_test", model, Model, "lsrl.compile").program
    arguments.function("causal_test: sampler", sampler, "(sequences, seed)")
    arguments.count("causal_test: pairs", pairs)
    rng = np.random.default_rng(arguments.count("causal_test: seed", seed, 0))
    pool, _ = check_inputs(program.inputs, sampler(POOL, seed), program.max_length)
    graph, nodes = model.schedule.graph, circuit_nodes(model)
    known = evaluate(graph, pool, wanted=graph.live())
    if tolerance is None:
        tolerance = _tolerance(model, known[graph.output])
    owned = [signal.name for signal in model.circuit.signals if signal.owned]
    trials = {name: _tried(graph, pool, known, nodes[name], pairs, rng) for name in owned}
    errors = _errors(model, pool, trials)
    results = tuple(
        SignalResult(
            name,
            len(trial.base),
            trial.broken,
            int(trial.changed.sum()),
            int((errors[name] > tolerance).sum()),
            float(errors[name].max(initial=0.0)),
            int((trial.changed & (errors[name] > tolerance)).sum()),
        )
        for name, trial in trials.items()
    )
    return CausalResult(results, tolerance)


def _tolerance(model: Model, outputs: Array) -> float:
    if model.certificate.exact:
        return 0.0
    if model.card is not None and not np.isfinite(model.certificate.error_bound):
        return model.card.tolerance
    return RELATIVE * float(np.abs(outputs).max())


class Rows(NamedTuple):
    """Interchanges of one signal.

    Attributes:
      base: (rows,) int, which sequences run.
      source: (rows,) int, which sequences the signal is taken of.
      tokens: (rows, time) bool, when.
    """

    base: Array
    source: Array
    tokens: Array


def draw_rows(rng: np.random.Generator, values: Array, rows: int) -> Rows:
    """Pairs and tokens, half of the time one token; those come first where the signal differs."""
    count, time = values.shape[:2]
    base, source = rng.integers(0, count, (2, 4 * rows))
    tokens = rng.random((4 * rows, time)) < 0.5
    single = rng.random(4 * rows) < 0.5
    tokens[single] = np.arange(time) == rng.integers(0, time, single.sum())[:, None]
    differs = (values[base] != values[source]).any(axis=-1) & tokens
    order = np.argsort(~differs.any(axis=1), kind="stable")[:rows]
    return Rows(base[order], source[order], tokens[order])


class _Trial(NamedTuple):
    """The valid interchanges of one signal, and what the program makes of them."""

    base: Array  # (pairs,) int, into the pool
    tokens: Array  # (pairs, time) bool
    new: Array  # (pairs, time, width), the signal's values on the sources
    expected: Array  # (pairs, time, outputs)
    changed: Array  # (pairs,) bool, whether they are other outputs than the base's
    broken: int  # pairs that were left out


def _tried(
    graph: Graph,
    pool: Sequence[Array],
    known: Mapping[int, Array],
    node: int,
    pairs: int,
    rng: np.random.Generator,
) -> _Trial:
    """Draw interchanges of a node until so many are valid, or too many were tried."""
    found: list[_Trial] = []
    valid = tried = 0
    while valid < pairs and tried < TRIES * pairs:
        rows = draw_rows(rng, known[node], min(pairs, ROWS))
        new = known[node][rows.source].astype(np.float64)
        mask = np.broadcast_to(rows.tokens[..., None], new.shape)
        values = reevaluate(graph, known, rows.base, {node: Intervention(mask, new)})
        right = ~broken_rows(graph, values)
        expected = values.get(graph.output, known[graph.output][rows.base]).astype(np.float64)
        changed = (expected != known[graph.output][rows.base]).any(axis=(1, 2))
        kept = np.flatnonzero(right)[: pairs - valid]
        found.append(
            _Trial(
                rows.base[kept], rows.tokens[kept], new[kept], expected[kept], changed[kept],
                int((~right).sum()),
            )
        )  # fmt: skip
        valid += len(kept)
        tried += len(rows.base)
    *arrays, broken = zip(*found, strict=True)
    base, tokens, new, expected, changed = (np.concatenate(parts) for parts in arrays)
    return _Trial(base, tokens, new, expected, changed, sum(broken))


def _errors(model: Model, pool: Sequence[Array], trials: Mapping[str, _Trial]) -> dict[str, Array]:
    """The greatest difference of the network's outputs and the program's, of each pair."""
    wiring, errors = wiring_of(model), {name: np.zeros(len(t.base)) for name, t in trials.items()}
    # Signals of the same layers together, so that a run layer by layer may begin late.
    order = {name: min(c.layer for c in model.circuit.channels_of(name)) for name in trials}
    names = sorted(trials, key=order.__getitem__)
    # Of each pair the number of its signal, and its place there.
    owner = np.repeat(np.arange(len(names)), [len(errors[name]) for name in names]).astype(int)
    place = np.concatenate([np.arange(len(errors[name])) for name in names] or [owner])
    if not len(owner):
        return errors
    known = known_streams(wiring, pool)
    size = ROWS if known is None else ROWS_BY_LAYER
    for start in range(0, len(owner), size):
        # The last run is filled up, so that it has the shape of the others.
        rows = np.sort(np.resize(np.arange(start, min(start + size, len(owner))), size))
        parts = [(names[k], place[rows[owner[rows] == k]]) for k in np.unique(owner[rows])]
        base = np.concatenate([trials[name].base[at] for name, at in parts])
        blocks = [Block(name, trials[name].new[at], trials[name].tokens[at]) for name, at in parts]
        patches = joint_patches(wiring, blocks)
        if known is None:
            outputs, _ = wiring.run([array[base] for array in pool], patches)
        else:
            outputs = known.run(base, patches)
        expected = np.concatenate([trials[name].expected[at] for name, at in parts])
        with np.errstate(invalid="ignore"):
            error = np.abs(outputs.astype(np.float64) - expected).max(axis=(1, 2))
        error = np.where(np.isnan(error), np.inf, error)
        ends = np.cumsum([len(at) for _, at in parts])
        for (name, at), part in zip(parts, np.split(error, ends[:-1]), strict=True):
            errors[name][at] = part
    return errors


def broken_rows(graph: Graph, values: dict[int, Array]) -> Array:
    """(batch,) whether some value leaves the facts that the compiler relies on."""
    found = np.zeros(next(iter(values.values())).shape[0], bool)
    for node, value in values.items():
        found |= graph.facts[node].violations(value.astype(np.float64)).any(axis=(1, 2))
        op = graph.nodes[node].op
        operands = graph.nodes[node].operands
        gated = isinstance(op, SelectiveState | Hold | SwapState | Recall)
        if not gated or not values.keys() >= set(operands):
            continue  # with operands that are not given, it is as it was
        if isinstance(op, SwapState | Recall):
            read = [values[operand] for operand in operands]
            found |= op.broken(read, value, Extent(value.shape[:2], Floats()), ()).any(axis=(1, 2))
            continue
        first, second = (values[operand] for operand in operands[:2])
        # What keeps or takes a value is 0 or 1, though its interval may say no more than that it is
        # between other numbers; and an update that overwrites comes where nothing is kept.
        flag = second if isinstance(op, Hold) else first
        found |= ((flag != 0) & (flag != 1)).any(axis=(1, 2))
        if isinstance(op, SelectiveState) and op.overwrites:
            found |= ((first != 0) & (second != 0)).any(axis=(1, 2))
    return found
