"""Figures of the stability lab, for print; needs matplotlib (the extra "plot")."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from lsrl.drawing import save_figure
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.stability.measures import critical_level
from lsrl.stability.store import CsvRow
from lsrl.stability.sweep import OWN, fractions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRONGEST = 1.0  # what a map shows for programs that bear every level


def pyplot_for_print() -> ModuleType:
    """Matplotlib's pyplot, without a display, with our settings.

    Raises:
      InputError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "figures need matplotlib: pip install 'lsrl[plot]'; the tables are written without it"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "savefig.dpi": 150, "axes.grid": True,
                            "grid.alpha": 0.3, "legend.fontsize": 8})  # fmt: skip
    return pyplot


def save(figure: "Figure", path: Path) -> None:
    """Write a figure; the same figure has the same bytes.

    Raises:
      OSError: it can't be written.
    """
    save_figure(figure, path, metadata={"Software": None})
    pyplot_for_print().close(figure)


def draw_map(rows: Sequence[CsvRow]) -> "Figure":
    """The level at which 5 % of the tokens are wrong, by program, target and perturbation."""
    table = fractions(rows, lowering=OWN)
    kinds = list(dict.fromkeys(key[3] for key in table))
    programs = list(dict.fromkeys(key[0] for key in table))
    targets = list(dict.fromkeys(key[1] for key in table))
    pyplot = pyplot_for_print()
    columns = min(4, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(3.4 * columns, 0.6 + (0.24 * len(programs) + 0.9) * lines),
        layout="constrained", squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    colours = pyplot.get_cmap("viridis").with_extremes(bad="#dddddd")
    for panel, kind in zip(axes.flat, kinds, strict=False):
        values = np.full((len(programs), len(targets)), np.nan)
        texts = np.full(values.shape, "", object)
        for (program, target, _, name), (levels, wrong) in table.items():
            if name != kind:
                continue
            place = programs.index(program), targets.index(target)
            values[place], texts[place] = _cell(levels, wrong)
        image = panel.imshow(values, cmap=colours, vmin=-7, vmax=0, aspect="auto")
        for (i, j), text in np.ndenumerate(texts):
            colour = "black" if values[i, j] > -2.5 else "white"
            panel.text(j, i, text, ha="center", va="center", fontsize=5.5, color=colour)
        panel.set_title(kind)
        panel.grid(False)
        panel.set_yticks(range(len(programs)), programs, fontsize=7)
        panel.set_xticks(range(len(targets)), targets, rotation=60, ha="right", fontsize=7)
    for panel in axes.flat[len(kinds) :]:
        panel.set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.6, label="log10 of the level at 5 % wrong tokens")
    return figure


def _cell(levels: list[float], wrong: Array) -> tuple[float, str]:
    """Colour and text: the level at 5 %, or for a single level the percentage that is wrong."""
    if len(levels) == 1:
        share = float(wrong.mean())
        return -7 + 7 * (1 - min(share / 0.5, 1)), f"{100 * share:.0f}%"
    found = critical_level(levels, wrong, resamples=0).level
    if found == 0:
        return -7.0, "<"
    if math.isinf(found):
        return math.log10(STRONGEST), ">"
    return math.log10(found), f"{math.log10(found):.1f}"


def draw_first(counts: Mapping[str, Mapping[str, int]], most: int = 10) -> "Figure":
    """Which signal goes wrong first: by panel the number of draws, of `first_wrong_signal`."""
    figure, axes = pyplot_for_print().subplots(
        1, len(counts), figsize=(4.2 * len(counts), 3.4), layout="constrained", squeeze=False
    )
    for panel, (title, found) in zip(axes.flat, counts.items(), strict=True):
        total = max(1, sum(found.values()))
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most][::-1]
        panel.barh([name or "none" for name, _ in ranked], [100 * n / total for _, n in ranked])
        panel.set_title(title)
        panel.set_xlabel("% of the draws")
    return figure
