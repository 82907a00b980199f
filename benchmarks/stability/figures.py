"""The figure of the paper's experiment, beside the original's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.stability.paper_experiment import ORIGINAL, SIGMAS, Summary
from lsrl.stability.figures import styled, subplots
from lsrl.stability.sweep import OWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = {
    (OWN, "default"): ("ours", "#1f77b4"),
    (OWN, "robust"): ("ours, centred thresholds", "#17becf"),
    ("direct", "verbatim"): ("direct", "#e6850e"),
    ("optimized", "verbatim"): ("optimised", "#2a9d4a"),
    ("step_optimized", "verbatim"): ("step-optimised", "#d0342c"),
    ("multiplicative", "verbatim"): ("multiplicative", "#8a63c2"),
    ("multiplicative_optimized", "verbatim"): ("multiplicative, optimised", "#8c564b"),
}


def draw_paper(table: Sequence[Summary]) -> "Figure":
    """The paper's figure: error against σ by form, lowered verbatim; the original's dashed.

    Args:
      table: of `benchmarks.stability.paper_experiment.summaries`.
    """
    with styled():
        figure, [[left, right]] = subplots(1, 2, (11, 4.6))
        views = (
            (left, "tok2tok", "wrong tokens, %"),
            (right, "vec2vec", "mean error"),
        )
        for panel, program, what in views:
            for (form, lowering), (label, colour) in FORMS.items():
                cells = sorted(
                    (
                        cell
                        for cell in table
                        if (cell.program, cell.form, cell.lowering, cell.states)
                        == (program, form, lowering, "forced")
                        and not (form == OWN and cell.target != "linear_rnn")
                    ),
                    key=lambda cell: cell.level,
                )
                x = [_shown(cell.level) for cell in cells]
                panel.plot(x, [cell.mean for cell in cells], "o-", ms=3, color=colour, label=label)
                panel.fill_between(
                    x, [c.low for c in cells], [c.high for c in cells], color=colour, alpha=0.15
                )
                known = ORIGINAL.get((program, form), ())
                if known:
                    panel.plot(
                        [_shown(level) for level in SIGMAS], [cell.mean for cell in known], "s--",
                        ms=3, color=colour, alpha=0.5,
                    )  # fmt: skip
            panel.set_xscale("log")
            panel.set_title(f"{program}, states forced")
            panel.set_xlabel("σ of the noise on stored weights (leftmost: none)")
            panel.set_ylabel(what)
        right.set_yscale("log")
        left.plot([], [], "s--", color="grey", label="original implementation")
        left.legend()
    return figure


def _shown(level: float) -> float:
    """0 has no place on a logarithmic axis."""
    return level or 1e-11
