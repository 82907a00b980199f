"""Methods of one's own beside the reference methods, on networks whose workings are known."""

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lsrl.errors import InputError
from lsrl.extras import needed
from lsrl.folders import replace_file
from lsrl.interpret.laboratory import Method
from lsrl.interpret.method_scores import Interval, MethodScore, shown, summary
from lsrl.interpret.methods import Case, Judged, evaluate_methods
from lsrl.interpret.variants import random_sampler
from lsrl.interpret.wiring import forget_compiled
from lsrl.model import Model

if TYPE_CHECKING:
    from pandas import DataFrame

BASELINES: tuple[Method, ...] = ("weights", "attribution", "random")
_WHAT = {
    ("edges", "signals"): "which signal reads which",
    ("edges", "units"): "which unit reads which",
    ("nodes", "signals"): "on which signals the output depends",
    ("nodes", "units"): "on which units the output depends",
    ("probes", "signals"): "how signals are read off layers",
}


class Standing(NamedTuple):
    """A line of the leaderboard.

    Attributes:
      what: what is claimed.
      method: its name.
      models: those that it is compared on, the same for all methods of a kind of claim.
      tried: those that it has a score on.
      roc_auc: area under the ROC curve; None where it says nothing.
      second: of edges and nodes the average precision, of probes their R².
      faithfulness: share of outputs that stay when all that is not claimed is taken out.
    """

    what: str
    method: str
    models: int
    tried: int
    roc_auc: Interval | None
    second: Interval | None
    faithfulness: Interval | None


@dataclass(frozen=True)
class Leaderboard:
    """How methods did.

    Attributes:
      rows: one a model, method, kind and level of claim.

    Example:
      print(type(board).__name__, len(board.standings()) > 0)
    """

    rows: tuple[MethodScore, ...]

    def standings(self) -> tuple[Standing, ...]:
        """The methods for each kind of claim, the best first; means count each program once.

        Methods are compared on the models on which all of them have a score of the kind.
        """
        found = []
        for (kind, level), what in _WHAT.items():
            tried = [row for row in self.rows if (row.kind, row.level) == (kind, level)]
            rows = _shared(tried)
            second = "r2" if kind == "probes" else "pr_auc"
            measures = [
                summary(rows, ("method",), name) for name in ("roc_auc", second, "faithfulness")
            ]
            lines = [
                Standing(
                    what,
                    method,
                    sum(row.method == method for row in rows),
                    sum(row.method == method for row in tried),
                    *(measure.get((method,)) for measure in measures),
                )
                for method in dict.fromkeys(row.method for row in tried)
            ]
            found += sorted(lines, key=lambda s: -(s.roc_auc.mean if s.roc_auc else -1.0))
        return tuple(found)

    def to_frame(self) -> "DataFrame":
        """The rows as a pandas DataFrame, with the columns of `MethodScore`.

        Raises:
          InputError: pandas is not installed.
        """
        pandas = needed("pandas", "to_frame", "`rows` has the same")
        names = [field.name for field in fields(MethodScore)]
        return pandas.DataFrame([astuple(row) for row in self.rows], columns=names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the leaderboard as a page that needs nothing else.

        Raises:
          OSError: it can't be written.
        """
        page = _PAGE.format(body=self._repr_html_())
        replace_file(Path(path), page.encode())

    def __str__(self) -> str:
        """A table as text."""
        lines, last = [], ""
        for standing in self.standings():
            if standing.what != last:
                last = standing.what
                lines += [last, f"  {'method':<20} {'models':>8}  {'ROC-AUC':<18} "
                          f"{'precision or R²':<18} faithful"]  # fmt: skip
            cells = (standing.roc_auc, standing.second, standing.faithfulness)
            shown_cells = [f"{_text(cell):<18}" for cell in cells]
            lines.append(f"  {standing.method:<20} {_models(standing):>8}  {' '.join(shown_cells)}")
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        body, last = [], ""
        for standing in self.standings():
            if standing.what != last:
                last = standing.what
                body.append(f'<tr><th colspan="5" scope="rowgroup">{html.escape(last)}</th></tr>')
            cells = (standing.roc_auc, standing.second, standing.faithfulness)
            body.append(
                f'<tr><th scope="row">{html.escape(standing.method)}</th>'
                f"<td>{_models(standing)}</td>{''.join(map(_cell, cells))}</tr>"
            )
        head = ("method", "models", "ROC-AUC", "average precision, or R²", "faithful\u00adness")
        heads = "".join(f'<th scope="col">{title}</th>' for title in head)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def benchmark(
    method: Judged,
    models: Sequence[Model | Case],
    *,
    name: str | None = None,
    baselines: Sequence[Method] = BASELINES,
    faithful: bool = True,
    seed: int = 0,
    progress: Callable[[Case, list[MethodScore]], None] | None = None,
) -> Leaderboard:
    """Score a method of one's own on networks whose circuits are known, beside the references.

    The method is called with a model and inputs, 16 legal sequences, (sequences, time[, width]) an
    input. It returns a claim, or several, and the references are scored on the same kinds of claims
    about the same models. A claim is a `NodeClaim` or an `EdgeClaim`, about signals by name or
    about the units of each layer's hook (`model.circuit.units` has their numbers, that of the input
    map first), or a `ProbeClaim`. Greater numbers are surer. It should not look at `model.circuit`
    beyond names and sizes, which is the truth that it is scored against.

    Args:
      method: (model, inputs) to claims.
      models: models, or cases such as `lsrl.suite.cases` gives, which know legal inputs.
      name: of the method, in tables; by default that of the function.
      baselines: reference methods to run beside it, of `lsrl.interpret.laboratory.METHODS`.
      faithful: whether to measure faithfulness too, which takes runs of its own.
      seed: of inputs and of what is random in a method.
      progress: called after each model, with its rows.

    Returns:
      The leaderboard.

    Raises:
      InputError: no models, or the method returns something that is no claim about its model,
        or scikit-learn is not installed.

    Source: of the reference `attribution`, Nanda (2023) for units and Syed et al. (2023) for edges.

    Example:
      board = interpret.benchmark(by_size, [case], faithful=False)
      print({row.method for row in board.rows} >= {"by_size", "weights"})
    """
    cases = [each if isinstance(each, Case) else _case(each) for each in models]
    if not cases:
        raise InputError("benchmark: expected at least one model, got none")
    called = str(name or getattr(method, "__name__", type(method).__name__))
    rows: list[MethodScore] = []
    for case in cases:
        rows += evaluate_methods(
            [case],
            baselines,
            own={called: method},
            seed=seed,
            faithful=faithful,
            progress=progress,
        )
        forget_compiled()
    return Leaderboard(tuple(rows))


def _case(model: Model) -> Case:
    """A model with random legal inputs."""
    if not isinstance(model, Model):
        raise InputError(
            f"benchmark: expected models or cases, got {type(model).__name__}; lsrl.suite.cases "
            "gives some"
        )
    card = None if model.alteration is None else model.alteration.card
    variant = "plain" if card is None else card.title
    sampler = random_sampler(model.program)
    return Case(model.program.name, model.target, variant, model, sampler)


def _shared(rows: Sequence[MethodScore]) -> list[MethodScore]:
    """The rows of those models that every method has a row of."""
    tried: dict[str, set[tuple[str, str, str]]] = {}
    for row in rows:
        tried.setdefault(row.method, set()).add((row.program, row.target, row.variant))
    common = set.intersection(*tried.values()) if tried else set()
    return [row for row in rows if (row.program, row.target, row.variant) in common]


def _models(standing: Standing) -> str:
    models, tried = standing.models, standing.tried
    return str(models) if models == tried else f"{models} of {tried}"


def _text(cell: Interval | None) -> str:
    return "–" if cell is None else shown(cell)


def _cell(cell: Interval | None) -> str:
    """A number with its interval, over a bar of that length."""
    if cell is None:
        return "<td>–</td>"
    share = 100 * min(max(cell.mean, 0.0), 1.0)
    bar = f"background:linear-gradient(90deg,#4c8bf540 {share:.0f}%,transparent {share:.0f}%)"
    mean, around = shown(cell).split(" ")
    return f'<td style="{bar}">{mean} <span style="white-space:nowrap">{around}</span></td>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Leaderboard</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8884; }}
th[scope=rowgroup] {{ padding-top: 1.2rem; }}
td {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
@media (max-width: 640px) {{
  main {{ margin: 1rem auto; padding: 0 .6rem; }}
  table {{ font-size: 12px; line-height: 1.35; }}
  th, td {{ padding: .25rem .2rem; overflow-wrap: break-word; }}
  td {{ white-space: normal; }}
}}
</style></head><body><main>
<h1>Leaderboard</h1>
<p>Means over programs, each counted once, with 95 % intervals of a bootstrap that draws
programs. Methods are compared by the kinds of claims that all of them make, on the same models.</p>
<div>{body}</div>
</main></body></html>
"""
