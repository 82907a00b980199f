"""Scores of claims about a network, against its circuit.

A claim names parts of a network, with a number each that says how sure it is: `NodeClaim` what the
output depends on, `EdgeClaim` what reads what, `ProbeClaim` how a signal is read off a layer. Nodes
and edges are told at one of two levels: signals by name, or units of the layers' hooks.

What is true is in `lsrl.interpret.truth`; faithfulness in `lsrl.interpret.faithfulness`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np

from lsrl.circuit import OUTPUT, Circuit
from lsrl.errors import InputError
from lsrl.extras import needed
from lsrl.interpret.truth import CONSTANT, Classes, Truth, counted_outputs
from lsrl.ir.numbers import Array

Level = Literal["signals", "units"]


# ---------------------------------------------------------------- claims


@dataclass(frozen=True, eq=False)
class NodeClaim:
    """What the output depends on. Greater is surer; give one of the two.

    Attributes:
      signals: by name; those that are missing count as the least sure.
      units: per layer (units,), that of the input map first.

    Example:
      claim = interpret.NodeClaim(signals={"follower": 0.9, "before": 0.4})
      print(claim.level)
    """

    signals: Mapping[str, float] | None = None
    units: Sequence[Array] | None = None

    @property
    def level(self) -> Level:
        """Whether it is about signals or units."""
        return _level(self.signals, self.units)


@dataclass(frozen=True, eq=False)
class EdgeClaim:
    """What reads what. Greater is surer; give `signals`, or `forward` and, if any, `recurrent`.

    Attributes:
      signals: by (source, target), the last of which may be "output"; those that are missing count
        as the least sure.
      forward: per layer, that of the input map first, (units, units of the next layer), and for the
        last layer (units, outputs); outputs that distractors feed are not looked at.
      recurrent: per layer, that of the input map first, (units, units): from a token to the next.

    Example:
      print(interpret.EdgeClaim(signals={("before", "follower"): 0.9}).level)
    """

    signals: Mapping[tuple[str, str], float] | None = None
    forward: Sequence[Array] | None = None
    recurrent: Sequence[Array] | None = None

    @property
    def level(self) -> Level:
        """Whether it is about signals or units."""
        return _level(self.signals, self.forward)


@dataclass(frozen=True, eq=False)
class Readout:
    """How a signal is read off a layer: hook @ weights + bias.

    Attributes:
      layer: whose hook.
      weights: (units, width of the signal).
      bias: (width of the signal,).

    Example:
      units = circuit.units[1]
      readout = interpret.Readout(1, np.zeros((units, 4)), np.zeros(4))
      print(readout.layer)
    """

    layer: int
    weights: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class ProbeClaim:
    """How signals are read off a network.

    Attributes:
      readouts: by the names of the signals.

    Source: Alain and Bengio (2016), "Understanding Intermediate Layers Using Linear Classifier
    Probes".

    Example:
      print([*interpret.ProbeClaim({"before": readout}).readouts])
    """

    readouts: Mapping[str, Readout]


def _level(signals: object, units: object) -> Level:
    if (signals is None) == (units is None):
        raise InputError("a claim is about signals or about units: give one of them, not both")
    return "units" if signals is None else "signals"


# ---------------------------------------------------------------- the truth as claims


def true_edges(truth: Truth, level: Level) -> EdgeClaim:
    """The true edges as a claim: 1 for each, 0 for all others."""
    if level == "signals":
        names: dict[int | str, str] = {OUTPUT: OUTPUT}
        names |= {number: found[0] for number, found in truth.signals.items()}
        return EdgeClaim(
            signals={(names[s], names[t]): float(v) for (s, t), v in truth.signal_edges.items()}
        )
    units = [*truth.circuit.units, 1]
    forward = [np.zeros(shape) for shape in pairwise(units)]
    recurrent = [np.zeros((count, count)) for count in truth.circuit.units]
    ends = [[group.units for group in groups] for groups in truth.groups]
    ends.append([(0,)])
    for layer, (rows, columns) in enumerate(pairwise(ends)):
        for row, column in zip(*np.nonzero(truth.forward[layer]), strict=True):
            forward[layer][np.ix_(rows[row], columns[column])] = 1.0
        for row, column in zip(*np.nonzero(truth.recurrent[layer]), strict=True):
            recurrent[layer][np.ix_(rows[row], rows[column])] = 1.0
    return EdgeClaim(forward=forward, recurrent=recurrent)


def true_nodes(truth: Truth, level: Level) -> NodeClaim:
    """The true nodes as a claim: 1 for each, 0 for all others."""
    if level == "signals":
        return NodeClaim(
            signals={truth.signals[n][0]: float(v) for n, v in truth.signal_nodes.items()}
        )
    units = [np.zeros(count) for count in truth.circuit.units]
    for layer, groups in enumerate(truth.groups):
        for group, relevant in zip(groups, truth.relevant[layer], strict=True):
            if relevant:
                units[layer][list(group.units)] = 1.0
    return NodeClaim(units=units)


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class Score:
    """How a claim compares with the truth.

    Attributes:
      level: of the claim.
      candidates: pairs or nodes that are scored.
      positives: those of them that are true.
      roc_auc: area under the ROC curve; None if all candidates are true, or none.
      pr_auc: average precision; None as for roc_auc.
      threshold: what counts as claimed is at least as sure; the best F1 if none was given.
      precision: share of the claimed that is true; 1 if nothing is claimed.
      recall: share of the true that is claimed; 1 if nothing is true.
    """

    level: Level
    candidates: int
    positives: int
    roc_auc: float | None
    pr_auc: float | None
    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True)
class ProbeScore:
    """How the readouts of a claim compare with the truth, averaged over signals.

    Attributes:
      signals: how many are scored.
      r2: share of the variance that the readouts explain.
      location: ROC-AUC of a unit's |weight| times its spread, for the units that hold the signal
        among those of its layer that vary; None where that says nothing.
    """

    signals: int
    r2: float
    location: float | None


def score(
    circuit: Circuit,
    claim: NodeClaim | EdgeClaim,
    *,
    classes: Classes | None = None,
    threshold: float | None = None,
) -> Score:
    """Compare a claim with the truth.

    Args:
      circuit: the truth.
      claim: about nodes or edges, of signals or units.
      classes: what a dataset can't tell apart; if None, every signal by itself.
      threshold: from which on an entry counts as claimed; if None, that of the best F1, which
        is the most that any threshold gives.

    Returns:
      Precision and recall at the threshold, and the areas under both curves.

    Raises:
      InputError: an unknown signal (says the nearest), or an array of the wrong shape.
      InputError: scikit-learn is not installed.
    """
    return score_on(Truth(circuit, classes), claim, threshold)


def check_claim(what: str, claim: object) -> None:
    """Raise InputError for what is no claim about nodes or edges."""
    if not isinstance(claim, NodeClaim | EdgeClaim):
        raise InputError(
            f"{what} expects a claim, NodeClaim(...) or EdgeClaim(...), got {type(claim).__name__}"
        )


def score_on(truth: Truth, claim: NodeClaim | EdgeClaim, threshold: float | None = None) -> Score:
    """As `score`, of a truth that is worked out already."""
    check_claim("score", claim)
    true, scores = _compared(truth, claim)
    if np.isnan(scores).any():
        raise InputError(_NAN)
    roc, pr, best = _curves(true, scores)
    threshold = best if threshold is None else threshold
    claimed = scores >= threshold
    hits = int((claimed & true).sum())
    return Score(
        claim.level,
        len(true),
        int(true.sum()),
        roc,
        pr,
        float(threshold),
        hits / int(claimed.sum()) if claimed.any() else 1.0,
        hits / int(true.sum()) if true.any() else 1.0,
    )


def _curves(true: Array, scores: Array) -> tuple[float | None, float | None, float]:
    """ROC-AUC, average precision, and the threshold of the best F1."""
    metrics = needed("sklearn.metrics", "scoring")
    if not true.any():
        return None, None, float(scores.max(initial=0.0)) + 1.0
    # What is not claimed is the least sure, and claimed at no threshold.
    least = scores[~np.isneginf(scores)].min(initial=np.inf)
    ranked = np.where(np.isneginf(scores), min(least, 0.0) - 1.0, scores)
    precision, recall, thresholds = metrics.precision_recall_curve(true, ranked)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
    best = float(thresholds[np.argmax(np.where(thresholds >= least, f1, -1.0))])
    if true.all():
        return None, None, best
    roc, pr = metrics.roc_auc_score(true, ranked), metrics.average_precision_score(true, ranked)
    return float(roc), float(pr), best


def _compared(truth: Truth, claim: NodeClaim | EdgeClaim) -> tuple[Array, Array]:
    """Whether each candidate is true, and how sure the claim is of it."""
    if isinstance(claim, NodeClaim):
        if claim.units is not None:
            blocks = [truth.blocks(layer) for layer in range(len(truth.groups))]
            sure = zip(grouped_nodes(truth, claim), blocks, strict=True)
            true = zip(truth.relevant, blocks, strict=True)
            return (
                np.array([found[block].any() for found, within in true for block in within], bool),
                np.array([found[block].max() for found, within in sure for block in within], float),
            )
        known = {(number,): value for number, value in truth.signal_nodes.items()}
        named = {(name,): value for name, value in (claim.signals or {}).items()}
        return _by_name(truth, known, named)
    if claim.forward is None:
        return _by_name(truth, truth.signal_edges, claim.signals or {})
    forward, recurrent = grouped_edges(truth, claim)
    true_parts: list[Array] = []
    sure_parts: list[Array] = []
    # What a node reads of itself is left out.
    blocks = [*(truth.blocks(layer) for layer in range(len(truth.groups))), [[0]]]
    for layer, (here, there) in enumerate(pairwise(blocks)):
        wanted = _reduced(truth.same(layer), here, there) == 0
        true_parts.append(_reduced(truth.forward[layer], here, there)[wanted] > 0)
        sure_parts.append(_reduced(forward[layer], here, there)[wanted])
        if layer:
            others = ~np.eye(len(here), dtype=bool)
            true_parts.append(_reduced(truth.recurrent[layer], here, here)[others] > 0)
            sure_parts.append(_reduced(recurrent[layer], here, here)[others])
    return np.concatenate(true_parts), np.concatenate(sure_parts)


Classed = TypeVar("Classed", bound=Hashable)
Names = TypeVar("Names", tuple[str], tuple[str, str])


def _by_name(
    truth: Truth, known: Mapping[Classed, bool], named: Mapping[Names, float]
) -> tuple[Array, Array]:
    scores: dict[Hashable, float] = {}
    for names, value in named.items():
        key = tuple(class_of(truth, name) for name in names)
        scores[key] = max(scores.get(key, -np.inf), float(value))
    if any(np.isnan(value) for value in named.values()):
        raise InputError(_NAN)
    true = np.array(list(known.values()), bool)
    return true, np.array([scores.get(key, -np.inf) for key in known], float)


def class_of(truth: Truth, name: str) -> int | str:
    """The class of a signal, or the output."""
    if name == OUTPUT:
        return OUTPUT
    return truth.classes.signals.get(truth.circuit.signal(name).name, CONSTANT)


_NAN = "a claim has NaN among its scores; give numbers, greater where surer"


def grouped_nodes(truth: Truth, claim: NodeClaim) -> list[Array]:
    """Per layer (groups,)."""
    units = list(claim.units or ())
    _check_count("NodeClaim.units", units, truth.circuit)
    found = []
    for layer, (given, count) in enumerate(zip(units, truth.circuit.units, strict=True)):
        array = _checked("NodeClaim.units", layer, given, (count,))
        found.append(np.array([array[list(g.units)].max() for g in truth.groups[layer]], float))
    return found


def grouped_edges(truth: Truth, claim: EdgeClaim) -> tuple[list[Array], list[Array]]:
    """Per layer (groups, groups of the next layer), and (groups, groups)."""
    circuit, units = truth.circuit, [[g.units for g in groups] for groups in truth.groups]
    given = list(claim.forward or ())
    _check_count("EdgeClaim.forward", given, circuit)
    outputs = np.shape(given[-1])[-1] if np.ndim(given[-1]) == 2 else 1
    counts = [*circuit.units, max(outputs, 1)]
    ends = [*units[1:], [tuple(counted_outputs(circuit, outputs))]]
    forward, recurrent = [], []
    for layer, array in enumerate(given):
        checked = _checked("EdgeClaim.forward", layer, array, (counts[layer], counts[layer + 1]))
        forward.append(_reduced(checked, units[layer], ends[layer]))
    if claim.recurrent is None:
        return forward, [np.full((len(g), len(g)), -np.inf) for g in units]
    _check_count("EdgeClaim.recurrent", list(claim.recurrent), circuit)
    for layer, array in enumerate(claim.recurrent):
        checked = _checked("EdgeClaim.recurrent", layer, array, (counts[layer], counts[layer]))
        recurrent.append(_reduced(checked, units[layer], units[layer]))
    return forward, recurrent


def _check_count(what: str, given: Sequence[object], circuit: Circuit) -> None:
    if len(given) != len(circuit.units):
        raise InputError(
            f"{what}: expected one array a layer, {len(circuit.units)} with that of the input map, "
            f"got {len(given)}"
        )


def _checked(what: str, layer: int, given: Array, shape: tuple[int, ...]) -> Array:
    array = np.asarray(given, np.float64)
    if array.shape != shape:
        raise InputError(f"{what}: layer {layer} takes the shape {shape}, got {array.shape}")
    return array


def _reduced(
    matrix: Array, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]
) -> Array:
    """(rows, columns): the surest of each block."""
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)))
    upper = np.stack([matrix[list(units)].max(axis=0) for units in rows])
    return np.stack([upper[:, list(units)].max(axis=1) for units in columns], axis=1)


# ---------------------------------------------------------------- probes


def score_probes(
    circuit: Circuit,
    claim: ProbeClaim,
    hooks: Sequence[Array],
    values: Mapping[str, Array],
    *,
    classes: Classes | None = None,
) -> ProbeScore:
    """Compare readouts with the signals, and where they look with where the signals are.

    Args:
      circuit: the truth.
      claim: the readouts.
      hooks: per layer (batch, time, units), of inputs that no readout was fitted on.
      values: from `capture` on the same inputs.
      classes: what a dataset can't tell apart; units that hold a signal of the same class are right
        too.

    Raises:
      InputError: an unknown signal (says the nearest), no such layer, or weights of a wrong shape.
    """
    truth = Truth(circuit, classes)
    explained, found = [], []
    for name, readout in claim.readouts.items():
        signal = circuit.signal(name)
        if not 0 <= readout.layer < len(circuit.units):
            raise InputError(
                f"{name}: there is no layer {readout.layer}; they are 0 to {len(circuit.units) - 1}"
            )
        shape = (circuit.units[readout.layer], signal.width)
        weights = _checked(f"the readout of {name!r}", readout.layer, readout.weights, shape)
        if truth.classes.signals.get(signal.name, CONSTANT) == CONSTANT:
            continue
        hook = hooks[readout.layer].astype(np.float64)
        wanted = values[signal.name].reshape(-1, signal.width)
        held = np.isfinite(wanted).all(axis=0)  # others are in no channel
        got = (hook @ weights + readout.bias).reshape(wanted.shape)[:, held]
        wanted = wanted[:, held]
        spread = ((wanted - wanted.mean(axis=0)) ** 2).sum()
        if spread == 0:
            continue
        explained.append(1.0 - float(((got - wanted) ** 2).sum()) / float(spread))
        looks = np.abs(weights).max(axis=1) * hook.std(axis=(0, 1))
        found += _location(truth, signal.name, readout.layer, looks, hook.std(axis=(0, 1)) > 0)
    return ProbeScore(
        len(explained),
        float(np.mean(explained)) if explained else 0.0,
        float(np.mean(found)) if found else None,
    )


def _location(truth: Truth, name: str, layer: int, looks: Array, varies: Array) -> list[float]:
    numbers = {n for (signal, _), n in truth.classes.elements.items() if signal == name}
    units = [unit for g in truth.groups[layer] if g.number in numbers for unit in g.units]
    holds, looks = np.isin(np.arange(len(looks)), units)[varies], looks[varies]
    if holds.all() or not holds.any():
        return []
    metrics = needed("sklearn.metrics", "scoring")
    return [float(metrics.roc_auc_score(holds, looks))]
