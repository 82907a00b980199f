"""Graphs and circuits as pictures, level by level. The only module that imports matplotlib."""

import io
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lsrl.errors import InputError
from lsrl.folders import replace_file
from lsrl.ir.graph import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Pictures of larger graphs take minutes and nobody can read them.
MAX_NODES = 400

_COLOURS = {
    **dict.fromkeys(("input", "lookup", "constant"), "#cfe8cf"),
    **dict.fromkeys(("relu", "step", "select", "product"), "#ffd9b3"),
    **dict.fromkeys(("linearstate", "delay", "periodic", "latch"), "#c6dbf5"),
    **dict.fromkeys(("selectivestate", "thresholdstate", "recurrentstate", "hold"), "#e6cff0"),
}
_BANDS = ("#f4f4f4", "#ffffff")
_PLAIN = "#999999"
# By kind of arrow, those that draw attention last.
_ARROWS = {"same step": "#64748b", "lag": "#0f8a76", "carry": "#c77700", "gate": "#a83ea8"}
# Boxes side by side, more of which take several rows.
ACROSS = 12


class Box(NamedTuple):
    """What is drawn of one signal.

    Attributes:
      lines: of text, the name first.
      kind: of the op that makes it, for the colour.
    """

    lines: Sequence[str]
    kind: str


class Arrow(NamedTuple):
    """From a box to one that reads it.

    Attributes:
      start: the key of a box.
      end: likewise.
      kind: of edge, told by colour in a legend; "" for none.
    """

    start: Hashable
    end: Hashable
    kind: str = ""


# Per row its label, "" for none, whose change starts another band, and the keys of its boxes.
Row = tuple[str, Sequence[Hashable]]


def draw(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    layers: dict[int, int] | None = None,
) -> None:
    """Draw a graph into a picture file, from top to bottom: each signal below what it reads.

    Args:
      graph: its live nodes are drawn.
      path: the file; its suffix decides the format (.png, .svg, .pdf).
      title: written above.
      layers: the layer of each node, drawn as bands; see `Layout.made_in`.

    Raises:
      InputError: matplotlib is not installed, the graph is too large, or the format is unknown.
      OSError: the file can't be written.
    """
    live = graph.live()
    rows = [
        ("" if layers is None else f"layer {layer}" if layer else "input", nodes)
        for layer, nodes in _rows(graph, live, layers or {})
    ]
    arrows = [Arrow(operand, node) for node in live for operand in graph.nodes[node].operands]
    picture(path, title, rows, {node: _graph_box(graph, node) for node in live}, arrows)


def picture(
    path: str | os.PathLike[str],
    title: str,
    rows: Sequence[Row],
    boxes: Mapping[Hashable, Box],
    arrows: Sequence[Arrow],
) -> None:
    """Draw boxes in rows, from top to bottom, with arrows between them; see `draw` for errors.

    Args:
      path: the file; its suffix decides the format.
      title: written above.
      rows: each is centred.
      boxes: by key.
      arrows: drawn by kind, each of them once.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise InputError(
            "a drawing needs matplotlib, which is not installed: pip install 'lsrl[plot]'"
        ) from error
    if len(boxes) > MAX_NODES:
        raise InputError(
            f"a drawing shows at most {MAX_NODES} signals, and {len(boxes)} came; give the program "
            "smaller parameters"
        )
    widest = max(len(keys) for _, keys in rows)
    # Each row is centred.
    places = {
        key: (x + (widest - len(keys)) / 2, float(y))
        for y, (_, keys) in enumerate(rows)
        for x, key in enumerate(keys)
    }
    figure = Figure(figsize=(2.0 * widest + 1.0, 0.75 * len(rows) + 0.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-1.0, widest - 0.4), ylim=(len(rows) - 0.5, -0.5), title=title)
    band = 0
    for y, (label, _) in enumerate(rows):
        if y and label != rows[y - 1][0]:
            band = 1 - band
        if label:
            axes.axhspan(y - 0.5, y + 0.5, color=_BANDS[band], zorder=0)
            if y == 0 or label != rows[y - 1][0]:
                axes.text(-0.95, y, label, fontsize=7, color="#555555", va="center")
    colours = {"": _PLAIN, **_ARROWS}
    kinds = list(colours)
    for arrow in sorted(dict.fromkeys(arrows), key=lambda arrow: kinds.index(arrow.kind)):
        _draw_arrow(axes, places[arrow.start], places[arrow.end], colours[arrow.kind])
    for key, box in boxes.items():
        _draw_box(axes, places[key], box)
    used = {arrow.kind for arrow in arrows} - {""}
    if used:
        lines = [Line2D([], [], color=colours[k], label=k) for k in kinds if k in used]
        axes.legend(handles=lines, loc="lower right", fontsize=6.5, frameon=False)
    save_figure(figure, path, dpi=150)


def save_figure(
    figure: "Figure",
    path: str | os.PathLike[str],
    *,
    dpi: float | None = None,
    metadata: dict[str, str | None] | None = None,
) -> None:
    """Write a figure of matplotlib, whole or not at all.

    Args:
      figure: what to write.
      path: the file; its suffix decides the format, and is ".png" where there is none.
      dpi: as matplotlib's settings have it, if None.
      metadata: of the file, beside matplotlib's own.

    Raises:
      InputError: there is no such format.
      OSError: the file can't be written.
    """
    name, suffix = os.path.splitext(os.fspath(path))
    content = io.BytesIO()
    try:
        figure.savefig(content, format=suffix[1:] or "png", dpi=dpi, metadata=metadata)
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: can't draw: {error}") from error
    replace_file(path if suffix else f"{name}.png", content.getvalue())


def _rows(graph: Graph, live: list[int], layers: dict[int, int]) -> list[tuple[int, list[int]]]:
    """The nodes of each row, with their layer: by layer, then by depth within the layer."""
    depth: dict[int, tuple[int, int]] = {}
    for node in live:
        layer = layers.get(node, 0)
        before = [depth[i][1] for i in graph.nodes[node].operands if depth[i][0] == layer]
        depth[node] = layer, max(before, default=-1) + 1
    rows: dict[tuple[int, int], list[int]] = {key: [] for key in sorted(set(depth.values()))}
    for node in live:
        rows[depth[node]].append(node)
    return [(layer, nodes) for (layer, _), nodes in rows.items()]


def _draw_arrow(
    axes: "Axes", start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    # Arrows over several rows bend, past the boxes between their ends.
    gaps, bend = (12, 14), 0.0 if end[1] - start[1] <= 1 else 0.25
    if start == end:
        # A state that goes on: a loop over the right end of the box.
        (x, y), gaps, bend = start, (0, 0), -1.5
        start, end = (x + 0.06, y - 0.16), (x + 0.19, y - 0.16)
    style = {"arrowstyle": "-|>", "color": colour, "connectionstyle": f"arc3,rad={bend}"}
    arrow = {**style, "shrinkA": gaps[0], "shrinkB": gaps[1]}
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)


def _graph_box(graph: Graph, node: int) -> Box:
    this, facts = graph.nodes[node], graph.facts[node]
    lines = [
        graph.label(node),
        *([] if graph.label(node).startswith(f"{this.op.name}#") else [this.op.name]),
        f"width {this.width} in [{facts.low.min():g}, {facts.high.max():g}]",
        *(["output"] if node == graph.output else []),
    ]
    return Box(lines, this.op.name)


def _draw_box(axes: "Axes", place: tuple[float, float], box: Box) -> None:
    name, *further = box.lines
    short = name if len(name) <= 22 else f"{name[:21]}…"
    axes.text(
        *place,
        "\n".join([short, *further]),
        ha="center",
        va="center",
        fontsize=6.5,
        parse_math=False,
        bbox={
            "boxstyle": "round",
            "edgecolor": "#555555",
            "facecolor": _COLOURS.get(box.kind, "#ffffff"),
        },
    )
