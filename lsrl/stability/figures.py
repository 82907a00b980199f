"""Figures of the stability lab, for print; needs matplotlib (the extra "plot")."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from lsrl.backends import registry
from lsrl.drawing import figure_bytes, save_figure
from lsrl.errors import InputError
from lsrl.extras import needed
from lsrl.ir.numbers import Array
from lsrl.stability.measures import critical_level, interval
from lsrl.stability.sweep import OWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


STRONGEST = 1.0  # what a map shows for programs that bear every level
# Inches of a column, and of a page, of a paper in two columns.
COLUMN, PAGE = 3.3, 6.9
# Colours that all kinds of sight tell apart (Okabe and Ito 2008), and grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
# Of text on coloured cells: no ink, which a dark theme would turn to light (`lsrl.drawing`).
_ON_LIGHT, _ON_DARK = "#010101", "#fefefe"
# Metadata that would differ from one run to the next, by suffix.
_TIMELESS: dict[str, dict[str, str | None]] = {
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}


@contextmanager
def styled() -> Iterator[None]:
    """Within it, matplotlib draws with our settings, and outside as before.

    Raises:
      InputError: matplotlib is not installed.
    """
    matplotlib = needed("matplotlib", "a figure", "the tables are there without it")
    with matplotlib.rc_context(
        {
            "font.size": 8,
            "axes.titlesize": 8,
            "legend.fontsize": 7,
            "lines.linewidth": 1.1,
            "axes.grid": True,
            "grid.alpha": 0.3,
        }
    ):
        yield


def subplots(
    lines: int,
    columns: int,
    size: tuple[float, float],
    *,
    shared: Literal["", "y", "both"] = "",
) -> "tuple[Figure, list[list[Axes]]]":
    """A figure with panels (lines, columns), inside `styled`; no display is asked for.

    Args:
      lines: of panels.
      columns: of panels.
      size: in inches.
      shared: which axes all panels share.
    """
    figure = _shown_figure()(figsize=size, layout="constrained")
    axes = figure.subplots(
        lines, columns, squeeze=False, sharex=shared == "both", sharey=bool(shared)
    )
    return figure, [list(row) for row in axes]


@cache
def _shown_figure() -> "type[Figure]":
    """The class of our figures, made where matplotlib is there."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that notebooks show, as vectors: those of matplotlib need pyplot for that."""

        def _repr_svg_(self) -> str:
            with styled():
                return figure_bytes(self, "svg", metadata=_TIMELESS[".svg"]).decode()

    return ShownFigure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as .pdf, .svg or .png; the same figure has the same bytes.

    Raises:
      InputError: a name with another suffix.
      OSError: it can't be written.
    """
    suffix = path.suffix.lower()
    if suffix not in _TIMELESS:
        raise InputError(
            f"{path}: expected a figure's name that ends in {', '.join(_TIMELESS)}, got "
            f"{suffix or 'no suffix'}"
        )
    with styled():
        save_figure(figure, path, dpi=300, metadata=_TIMELESS[suffix])


# By program, target and perturbation: levels above 0, and wrong shares (levels, draws).
Shares: TypeAlias = Mapping[tuple[str, str, str], tuple[list[float], Array]]


def draw_curves(shares: Shares) -> "Figure":
    """Wrong tokens against the level of noise: a curve a target.

    There is a panel a program, from above, and perturbation, from the left.

    Args:
      shares: what `Measurement.shares` gives.

    Raises:
      InputError: there are none, or matplotlib is not installed.
    """
    if not shares:
        raise InputError("plot: there is nothing to draw, since no target holds a program")
    programs, targets, kinds = (list(dict.fromkeys(key[i] for key in shares)) for i in range(3))
    with styled():
        wide = COLUMN if len(kinds) == 1 else PAGE
        size = (wide, 0.5 + 1.9 * len(programs))
        figure, axes = subplots(len(programs), len(kinds), size, shared="y")
        for program, line in zip(programs, axes, strict=True):
            line[0].set_ylabel(f"{program}\nwrong tokens, %")
            for kind, panel in zip(kinds, line, strict=True):
                panel.set_ylim(-3, 103)
                for number, target in enumerate(targets):
                    found = shares.get((program, target, kind))
                    if found is not None:
                        _curve(panel, number, target, *found)
        for kind, panel in zip(kinds, axes[0], strict=True):
            panel.set_title(kind)
        _legend(figure, targets)
    return figure


def _curve(panel: "Axes", number: int, target: str, levels: list[float], wrong: Array) -> None:
    colour, line = COLOURS[number % len(COLOURS)], "-" if _gated(target) else "--"
    mean, low, high = (100 * part for part in interval(wrong))
    if len(levels) == 1:
        error = [[mean[0] - low[0]], [high[0] - mean[0]]]
        panel.bar([number], mean, yerr=error, color=colour, alpha=1 if _gated(target) else 0.5)
        panel.set_xticks([])
        panel.set_xlabel(f"at {levels[0]:g}")
        return
    panel.set_xscale("log")
    panel.set_xlabel("level")
    panel.plot(levels, mean, line, marker="o", ms=2.5, color=colour)
    panel.fill_between(levels, low, high, color=colour, alpha=0.15, lw=0)
    borne = critical_level(levels, wrong, resamples=0).level
    if borne == 0 or math.isinf(borne):
        end, marker = (0, "<") if borne == 0 else (-1, ">")
        panel.plot(levels[end], mean[end], marker, ms=6, color=colour, clip_on=False)


def _legend(figure: "Figure", targets: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], ls="-" if _gated(t) else "--", label=t)
        for i, t in enumerate(targets)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2 if figure.get_figwidth() < PAGE else 4
    )


def _gated(target: str) -> bool:
    """Whether a target has gates: a native product with a {0,1} operand."""
    return registry.find(target).capabilities.boolean_product


def draw_map(levels: Sequence[Mapping[str, object]]) -> "Figure":
    """The level at which 5 % of the tokens are wrong, by program, target and perturbation.

    Kinds with a single level have panels behind the others, and a colour bar of their own: the
    percentage of wrong tokens.

    Args:
      levels: rows of levels.csv, as `lsrl.stability.report.run_sweep` writes it.
    """
    rows = [row for row in levels if row["lowering"] == OWN]
    several = {row["perturbation"] for row in rows if not _is_single(row)}
    kinds = sorted(
        dict.fromkeys(str(row["perturbation"]) for row in rows),
        key=lambda kind: kind not in several,
    )
    programs, targets = (
        list(dict.fromkeys(str(row[name]) for row in rows)) for name in ("program", "target")
    )
    columns = min(4, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    size = (3.4 * columns, 0.6 + (0.24 * len(programs) + 0.9) * lines)
    with styled():
        figure, axes = subplots(lines, columns, size, shared="both")
        bars = {}
        for panel, kind in zip(chain(*axes), kinds, strict=False):
            values = np.full((len(programs), len(targets)), np.nan)
            texts = np.full(values.shape, "", object)
            for row in rows:
                if row["perturbation"] == kind:
                    place = programs.index(str(row["program"])), targets.index(str(row["target"]))
                    values[place], texts[place] = _cell(row)
            bars[kind in several] = _panel(panel, values, texts, kind in several)
            panel.set_title(kind)
            panel.set_yticks(range(len(programs)), programs, fontsize=7)
            panel.set_xticks(range(len(targets)), targets, rotation=60, ha="right", fontsize=7)
        for panel in list(chain(*axes))[len(kinds) :]:
            panel.set_visible(False)
        for has_levels, image in bars.items():
            what = "log10 of the level at 5 % wrong tokens" if has_levels else "wrong tokens, %"
            figure.colorbar(image, ax=list(chain(*axes)), shrink=0.6, label=what)
    return figure


def _panel(panel: "Axes", values: Array, texts: Array, has_levels: bool) -> "AxesImage":
    from matplotlib import colormaps

    # One quantity a colour: of the noise borne more is lighter, of wrong tokens more is darker.
    name, (low, high) = ("viridis", (-7, 0)) if has_levels else ("magma_r", (0, 50))
    colours = colormaps[name].with_extremes(bad="#dddddd")
    # A vector drawing scales pixels as they are where nothing interpolates them.
    image = panel.imshow(
        values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none"
    )
    for (i, j), text in np.ndenumerate(texts):
        is_light = (values[i, j] > -2.5) if has_levels else (values[i, j] < 25)
        panel.text(
            j, i, text, ha="center", va="center", fontsize=5.5,
            color=_ON_LIGHT if is_light else _ON_DARK,
        )  # fmt: skip
    panel.grid(False)
    return image


def _is_single(row: Mapping[str, object]) -> bool:
    """Whether a row tells what was wrong at the one level that its kind has."""
    return str(row.get("wrong", "")) != ""


def _cell(row: Mapping[str, object]) -> tuple[float, str]:
    """Colour and text: the level at 5 %, or for a single level the percentage that is wrong."""
    if _is_single(row):
        share = 100 * float(str(row["wrong"]))
        return share, f"{share:.0f}%"
    found = float(str(row["level_5"]))
    if found == 0:
        return -7.0, "<"
    if math.isinf(found):
        return math.log10(STRONGEST), ">"
    return math.log10(found), f"{math.log10(found):.1f}"


def draw_first(counts: Sequence[Mapping[str, object]], most: int = 10) -> "Figure":
    """Which signal goes wrong first, in what share of the draws; a panel a program.

    Args:
      counts: rows of first.csv, as `lsrl.stability.report.first_wrong` gives them.
      most: signals of a panel.
    """
    programs = list(dict.fromkeys(str(row["program"]) for row in counts))
    with styled():
        figure, axes = subplots(1, len(programs), (4.2 * len(programs), 3.4))
        for panel, title in zip(axes[0], programs, strict=True):
            found = {
                str(row["signal"] or "none"): int(str(row["draws"]))
                for row in counts
                if row["program"] == title
            }
            total = max(1, sum(found.values()))
            ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most][::-1]
            panel.barh([name for name, _ in ranked], [100 * n / total for _, n in ranked])
            panel.set_title(title)
            panel.set_xlabel("% of the draws")
    return figure
