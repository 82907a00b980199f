"""Scores of methods over many models: means with intervals, as text and as tables."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from lsrl.errors import FormatError

# A baseline that reads the weights and exceeds this marks a benchmark as an aid to debugging.
TRANSPARENT = 0.9


@dataclass(frozen=True)
class MethodScore:
    """One claim of one method on one model; None where a number has no meaning.

    Attributes:
      program: its name; intervals are clustered by it.
      target: the target's name.
      variant: "plain", "rotated", ...
      method: its name.
      kind: "edges", "nodes" or "probes".
      level: "signals" or "units".
      candidates: pairs or nodes that are scored.
      positives: those that are true.
      roc_auc: area under the ROC curve; of probes, whether they look at the units that hold the
        signal.
      pr_auc: average precision.
      precision: at the threshold of the best F1.
      recall: likewise.
      faithfulness: share of outputs that stay when the rest is taken out, at that threshold.
      zero_gradients: share of exactly zero gradients where two runs differ.
      infinite_gradients: share of infinite ones.
      r2: of probes, on sequences held back.
      selectivity: of probes, r2 less that of the control task.
    """

    program: str
    target: str
    variant: str
    method: str
    kind: str
    level: str
    candidates: int = 0
    positives: int = 0
    roc_auc: float | None = None
    pr_auc: float | None = None
    precision: float | None = None
    recall: float | None = None
    faithfulness: float | None = None
    zero_gradients: float | None = None
    infinite_gradients: float | None = None
    r2: float | None = None
    selectivity: float | None = None


class Interval(NamedTuple):
    """A mean over programs, each counted once, with a 95 % interval.

    Attributes:
      mean: of the programs' means.
      low: 2.5 % of the resampled means are below.
      high: 2.5 % are above.
      programs: how many.
    """

    mean: float
    low: float
    high: float
    programs: int


def interval(
    values: Sequence[float], programs: Sequence[str], seed: int = 0, draws: int = 2000
) -> Interval | None:
    """The mean of values that come from programs, by a bootstrap that draws whole programs.

    Models of one program are alike, so that as many values of it are no more evidence than a few.

    Args:
      values: finite.
      programs: of which program each value is.
      seed: of the bootstrap.
      draws: how often to resample.

    Returns:
      None if there are no values.
    """
    by_program: dict[str, list[float]] = {}
    for value, program in zip(values, programs, strict=True):
        by_program.setdefault(program, []).append(value)
    if not by_program:
        return None
    means = np.array([np.mean(found) for found in by_program.values()])
    rng = np.random.default_rng(seed)
    drawn = means[rng.integers(0, len(means), (draws, len(means)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(means.mean()), float(low), float(high), len(means))


def summary(
    rows: Sequence[MethodScore], by: Sequence[str], measure: str
) -> dict[tuple[str, ...], Interval]:
    """Intervals of a measure, by some attributes of scores; rows without a value are left out."""
    found: dict[tuple[str, ...], tuple[list[float], list[str]]] = {}
    for row in rows:
        value = getattr(row, measure)
        if value is not None:
            key = tuple(getattr(row, name) for name in by)
            values, programs = found.setdefault(key, ([], []))
            values.append(value)
            programs.append(row.program)
    intervals = {key: interval(*both) for key, both in found.items()}
    return {key: known for key, known in intervals.items() if known is not None}


def transparent(rows: Sequence[MethodScore]) -> dict[tuple[str, str], bool]:
    """By target and variant, whether reading the weights finds the edges.

    Where its mean ROC-AUC for edges exceeds TRANSPARENT at either level, the variant is an aid to
    debugging and no benchmark.
    """
    weights = [row for row in rows if row.method == "weights" and row.kind == "edges"]
    found: dict[tuple[str, str], bool] = {}
    for (target, variant, _), known in summary(
        weights, ("target", "variant", "level"), "roc_auc"
    ).items():
        found[target, variant] = found.get((target, variant), False) or known.mean > TRANSPARENT
    return found


def to_csv(rows: Sequence[MethodScore]) -> str:
    """All rows, as comma-separated values; empty where there is none."""
    lines = [[field.name for field in fields(MethodScore)], *(map(_cell, astuple(x)) for x in rows)]
    return "".join(f"{','.join(line)}\n" for line in lines)


def from_csv(text: str) -> list[MethodScore]:
    """Rows as `to_csv` wrote them.

    Raises:
      FormatError: the text is damaged, or another table.
    """
    kinds = {field.name: field.type for field in fields(MethodScore)}

    def read(name: str, cell: str) -> Any:
        if kinds[name] is str:
            return cell
        return None if cell == "" else int(cell) if kinds[name] is int else float(cell)

    try:
        names, *lines = (line.split(",") for line in text.splitlines())
        return [
            MethodScore(**{name: read(name, cell) for name, cell in zip(names, line, strict=True)})
            for line in lines
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"scores: expected rows that to_csv wrote, got {error!r}") from error


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def to_markdown(rows: Sequence[MethodScore], by: Sequence[str] = ("method",)) -> str:
    """The means over programs with their intervals, as a table."""
    measures = {
        ("edges", "signals", "roc_auc"): "edges of signals, ROC-AUC",
        ("edges", "units", "roc_auc"): "edges of units, ROC-AUC",
        ("edges", "units", "pr_auc"): "PR-AUC",
        ("edges", "units", "faithfulness"): "faithfulness",
        ("nodes", "units", "roc_auc"): "units, ROC-AUC",
        ("nodes", "units", "faithfulness"): "faithfulness ",
    }
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        if row.method != "probes":
            cells.setdefault(tuple(getattr(row, name) for name in by), {})
    for (kind, level, measure), title in measures.items():
        chosen = [row for row in rows if row.kind == kind]
        # What is faithful is told at one level only.
        if measure != "faithfulness":
            chosen = [row for row in chosen if row.level == level]
        for key, known in summary(chosen, by, measure).items():
            cells[key][title] = shown(known)
    head = ["| " + " | ".join([*by, *measures.values()]) + " |"]
    head.append("|" + " --- |" * (len(by) + len(measures)))
    body = [
        "| " + " | ".join([*key, *(found.get(title, "–") for title in measures.values())]) + " |"
        for key, found in cells.items()
    ]
    return "\n".join([*head, *body])


def shown(known: Interval) -> str:
    """A mean with its interval, to two digits."""
    return f"{known.mean:.2f} ({known.low:.2f}–{known.high:.2f})"
