"""Reference methods, as baselines: what can be found out about a network without its circuit.

- weights: the parameter arrays (`lsrl.interpret.weights`).
- ablations: an entry of a hook is set to zero, to its mean, or to its value on another sequence.
- attribution: gradient times the difference of two runs, for nodes (Nanda 2023, "Attribution
  patching") and edges (Syed et al. 2023, "Attribution patching outperforms automated circuit
  discovery"); integrated gradients average the gradient over runs whose layer 0 lies between those
  of the two runs (Hanna et al. 2024, "Have faith in faithfulness").
- probes: ridge regressions, with a control task (Hewitt and Liang 2019).
- random: uniform numbers.

All of them work on hooks. What they see of an edge is its own effect, since `Wiring.remade` holds
all other entries as they are. Where a layer's units each hold one channel they are told nothing;
where units hold several channels (a rotated stream), signals are looked for in the directions that
the circuit names, and units as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple, cast

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.interpret.basis import Effects, channel_basis, mixes
from lsrl.interpret.causal import Sampler
from lsrl.interpret.faithfulness import Ablation, held_in_parts
from lsrl.interpret.interventions import capture, decoded, wiring_of
from lsrl.interpret.laboratory import METHODS, Laboratory, Method
from lsrl.interpret.method_scores import MethodScore
from lsrl.interpret.probes import probe
from lsrl.interpret.score import EdgeClaim, Level, NodeClaim, ProbeClaim, score_on, score_probes
from lsrl.interpret.truth import Truth, equivalence_classes
from lsrl.ir.numbers import Array
from lsrl.model import Model

# A method of one's own: from a model and inputs to what it claims of the model.
Claim = NodeClaim | EdgeClaim | ProbeClaim
Judged = Callable[[Model, list[Array]], Claim | Sequence[Claim]]
LEVELS: tuple[Level, ...] = ("units", "signals")
# A kind of claim and its level.
Asked = tuple[str, str]
# Sequences that methods look at.
SEQUENCES = 16
# Sequences for what a dataset can't tell apart, and for probes; half of them to fit.
POOL = 64


class Case(NamedTuple):
    """A model to try methods on.

    Attributes:
      program: its name; intervals are clustered by it.
      target: the target's name.
      variant: "plain", "rotated", ...
      model: with its `circuit`.
      sampler: of inputs that keep the program's promises.

    Example:
      (case,) = lsrl.suite.cases(["majority"], ["gru"])
      print(case.program, case.target, case.variant)
    """

    program: str
    target: str
    variant: str
    model: Model
    sampler: Sampler


def evaluate_methods(
    cases: Sequence[Case],
    methods: Sequence[Method] = METHODS,
    *,
    own: Mapping[str, Judged] | None = None,
    seed: int = 0,
    faithful: bool = True,
    progress: Callable[[Case, list[MethodScore]], None] | None = None,
) -> list[MethodScore]:
    """Score methods on models.

    Args:
      cases: the models.
      methods: see METHODS.
      own: further methods by name, see `lsrl.interpret.benchmark`; where there are some, the
        methods are scored on a model by what these claim of it, and by nothing else.
      seed: of inputs and of what is random in a method.
      faithful: whether to measure the faithfulness of claims about units, or about signals where
        there are no others.
      progress: called after each model, with its rows.

    Returns:
      One row a model, method, kind and level; where units hold several signals each, of signals
      only, unless one of `own` claims units.

    Raises:
      InputError: there is no such method, or one of the further ones claims nothing that fits.
    """
    wanted = arguments.names("evaluate_methods: methods", methods)
    for method in wanted:
        arguments.choice("evaluate_methods: a method", method, METHODS)
    if not isinstance(cases, Sequence) or not all(isinstance(case, Case) for case in cases):
        raise InputError(f"evaluate_methods: expected a list of Case(...), got {shown(cases)}")
    arguments.count("evaluate_methods: seed", seed, 0)
    rows = []
    for case in cases:
        bench = _Bench(case, seed, faithful)
        judged = [row for name, f in (own or {}).items() for row in bench.judged(name, f)]
        asked = {(row.kind, row.level) for row in judged} if own else bench.told()
        found: list[MethodScore] = []
        for method in cast("list[Method]", wanted):
            found += bench.scored(method, asked)
        found += judged
        rows += found
        if progress is not None:
            progress(case, found)
    return rows


class _Bench:
    """A case with its truth, ready for any method."""

    def __init__(self, case: Case, seed: int, faithful: bool) -> None:
        self.case, self.seed, self.faithful = case, seed, faithful
        model, circuit = case.model, case.model.circuit
        self.pool = [np.asarray(x) for x in case.sampler(POOL, seed)]
        _, made = held_in_parts(wiring_of(model), self.pool)
        self.hooks = [hook[..., :units] for hook, units in zip(made, circuit.units, strict=True)]
        # What the program says, so that noise tells no signals apart; sums have no name in it.
        found = capture(model, *self.pool, on="evaluator")
        self.values = decoded(circuit, self.hooks) | found
        self.truth = Truth(circuit, equivalence_classes(circuit, self.values))
        inputs = [x[:SEQUENCES] for x in self.pool]
        self.units = self.directions = Laboratory(model, inputs, seed=seed)
        self.mixed = mixes(circuit)
        if self.mixed:
            # Units are no nodes there: what they hold is in directions.
            self.directions = Laboratory(model, inputs, channel_basis(circuit), seed=seed)
        self.ablation = Ablation(model, self.truth, inputs, seed)

    def _blank(self, method: str, kind: str, level: Level) -> MethodScore:
        case = self.case
        return MethodScore(case.program, case.target, case.variant, method, kind, level)

    def told(self) -> set[Asked]:
        """All that can be said of the model."""
        levels = LEVELS[1:] if self.mixed else LEVELS
        return {("probes", "signals"), *product(("edges", "nodes"), levels)}

    def scored(self, method: Method, asked: set[Asked]) -> Iterator[MethodScore]:
        """The scores of a reference method's claims, of these kinds and levels."""
        if method != "probes":
            for level in LEVELS:
                yield from self._claimed(method, level, {k for k, of in asked if of == level})
        elif ("probes", "signals") in asked:
            yield self._probed()

    def _probed(self) -> MethodScore:
        model, classes = self.case.model, self.truth.classes
        probes = probe(model, self.pool, self.hooks, self.values, classes, self.seed)
        scored = self._probes("probes", probes.claim)
        return replace(scored, selectivity=probes.r2 - probes.control)

    def judged(self, name: str, method: Judged) -> Iterator[MethodScore]:
        """The scores of a method of someone's own."""
        claims = method(self.case.model, [x[:SEQUENCES].copy() for x in self.pool])
        for claim in claims if isinstance(claims, list | tuple) else [claims]:
            if isinstance(claim, ProbeClaim):
                yield self._probes(name, claim)
            elif isinstance(claim, EdgeClaim | NodeClaim):
                kind = "edges" if isinstance(claim, EdgeClaim) else "nodes"
                yield self._scored(self._blank(name, kind, claim.level), claim)
            else:
                raise InputError(
                    f"{name}: expected a NodeClaim, EdgeClaim or ProbeClaim, or a list of them, "
                    f"got {type(claim).__name__}"
                )

    def _probes(self, name: str, claim: ProbeClaim) -> MethodScore:
        half = POOL // 2
        held = {signal: found[half:] for signal, found in self.values.items()}
        hooks = [hook[half:] for hook in self.hooks]
        scored = score_probes(
            self.case.model.circuit, claim, hooks, held, classes=self.truth.classes
        )
        return replace(
            self._blank(name, "probes", "signals"),
            candidates=scored.signals,
            roc_auc=scored.location,
            r2=scored.r2,
        )

    def _claimed(self, method: Method, level: Level, kinds: set[str]) -> Iterator[MethodScore]:
        """The scores of a method's claims about edges and nodes at a level."""
        if not kinds & {"edges", "nodes"}:
            return
        # Whoever reads the weights is not told the directions that hold signals.
        told = level == "signals" and method != "weights"
        laboratory = self.directions if told else self.units
        effects = laboratory.effects(method)
        edges, nodes = effects.claims(self.case.model.circuit, level)
        if method == "random" and level == "signals":
            # The greatest of many units would favour wide signals.
            rng = laboratory.rng
            edges = EdgeClaim(signals={pair: rng.random() for pair in edges.signals or {}})
            nodes = NodeClaim(signals={name: rng.random() for name in nodes.signals or {}})
        for kind, claim in (("edges", edges), ("nodes", nodes)):
            if kind in kinds:
                yield self._scored(self._blank(method, kind, level), claim, effects)

    def _scored(
        self, blank: MethodScore, claim: EdgeClaim | NodeClaim, effects: Effects | None = None
    ) -> MethodScore:
        found, kept = score_on(self.truth, claim), None
        if self.faithful and (self.mixed or blank.level == "units"):
            kept = self.ablation.share(claim, found.threshold)
        return replace(
            blank,
            candidates=found.candidates,
            positives=found.positives,
            roc_auc=found.roc_auc,
            pr_auc=found.pr_auc,
            precision=found.precision,
            recall=found.recall,
            faithfulness=kept,
            zero_gradients=None if effects is None else effects.zero_gradients,
            infinite_gradients=None if effects is None else effects.infinite_gradients,
        )
