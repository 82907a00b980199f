"""Probes: ridge regressions from hooks to signals, with a control task (Hewitt and Liang 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lsrl.extras import needed
from lsrl.interpret.score import ProbeClaim, Readout
from lsrl.interpret.truth import CONSTANT, Classes
from lsrl.ir.numbers import Array
from lsrl.model import Model


@dataclass(frozen=True)
class Probes:
    """Ridge regressions from the layer that makes a signal to its values.

    Attributes:
      claim: the readouts.
      r2: share of the variance explained on sequences that were not fitted, averaged over signals.
      control: the same of the control task, a random number for every kind of input token.
    """

    claim: ProbeClaim
    r2: float
    control: float


def probe(
    model: Model,
    inputs: Sequence[Array],
    hooks: Sequence[Array],
    values: dict[str, Array],
    classes: Classes,
    seed: int = 0,
) -> Probes:
    """Fit a linear probe to every signal that varies; half of the sequences are held back.

    Hewitt and Liang 2019, "Designing and interpreting probes with control tasks": a probe tells
    about the representation as far as it does better than on the control task.

    Args:
      model: any compiled model.
      inputs: one array an input.
      hooks: of the inputs, per layer (batch, time, units).
      values: from `capture`, by signal.
      classes: of the signals; those that never change are left out.
      seed: of the control task.

    Raises:
      InputError: scikit-learn is not installed.
    """
    ridge = needed("sklearn.linear_model", "probing").Ridge
    half = len(inputs[0]) // 2
    rng = np.random.default_rng(seed)
    kinds = _token_kinds(inputs)
    control = rng.standard_normal(kinds.max() + 1)[kinds][..., None]
    by_layer: dict[int, list[str]] = {}
    for signal in model.circuit.signals:
        if classes.signals.get(signal.name, CONSTANT) != CONSTANT:
            by_layer.setdefault(signal.layer, []).append(signal.name)
    readouts: dict[str, Readout] = {}
    explained: list[float] = []
    controlled: list[float] = []
    for layer, names in by_layer.items():
        hook = hooks[layer].astype(np.float64)
        spread = hook.std(axis=(0, 1))
        # Constants and units that say nothing have no place in a regression.
        scale = np.where(spread > 1e-6 * np.abs(hook).max(axis=(0, 1)), spread, np.inf)
        middle = hook.mean(axis=(0, 1))
        features = (hook - middle) / scale
        targets = [*(values[name] for name in names), control]
        wanted = np.concatenate(targets, axis=-1)
        # One solution for all of them, each as it would be by itself.
        fitted = ridge(alpha=1e-3).fit(_flat(features[:half]), _flat(wanted[:half]))
        ends = np.cumsum([target.shape[-1] for target in targets])[:-1]
        weights = fitted.coef_.T / scale[:, None]
        parts = (_flat(wanted[half:]), fitted.predict(_flat(features[half:])), weights)
        *told, (real, got, _) = zip(*(np.split(x, ends, axis=-1) for x in parts), strict=True)
        biases = np.split(fitted.intercept_, ends)
        for name, (own, found, reads), bias in zip(names, told, biases, strict=False):
            explained += _explained(own, found)
            controlled += _explained(real, got)
            readouts[name] = Readout(layer, reads, bias - middle @ reads)
    return Probes(
        ProbeClaim(readouts), *(float(np.mean(x)) if x else 0.0 for x in (explained, controlled))
    )


def _explained(wanted: Array, got: Array) -> list[float]:
    """The share of the variance that is explained; empty where there is none."""
    total = float(((wanted - wanted.mean(axis=0)) ** 2).sum())
    return [1 - float(((got - wanted) ** 2).sum()) / total] if total else []


def _flat(values: Array) -> Array:
    return values.reshape(-1, values.shape[-1])


def _token_kinds(inputs: Sequence[Array]) -> Array:
    """(batch, time) int: equal where all inputs are, vectors to eighths."""
    parts = [np.rint(8 * x.reshape(*x.shape[:2], -1)).astype(np.int64) for x in inputs]
    rows = np.concatenate(parts, axis=-1)
    _, kinds = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0, return_inverse=True)
    return kinds.reshape(rows.shape[:2])
