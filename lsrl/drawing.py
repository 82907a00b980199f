"""Graphs as pictures, level by level. The only module that imports matplotlib."""

import os
from typing import Any

from lsrl.errors import InputError
from lsrl.ir.graph import Graph

# Pictures of larger graphs take minutes and nobody can read them.
MAX_NODES = 400

_COLOURS = {
    **dict.fromkeys(("input", "lookup", "constant"), "#cfe8cf"),
    **dict.fromkeys(("relu", "step", "select", "product"), "#ffd9b3"),
    **dict.fromkeys(("linearstate", "delay", "periodic", "latch"), "#c6dbf5"),
    **dict.fromkeys(("selectivestate", "thresholdstate", "recurrentstate"), "#e6cff0"),
}
_BANDS = ("#f4f4f4", "#ffffff")


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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "a drawing needs matplotlib, which is not installed: pip install 'lsrl[plot]'"
        ) from error
    live = graph.live()
    if len(live) > MAX_NODES:
        raise InputError(
            f"a drawing shows at most {MAX_NODES} signals, and {len(live)} came; give the program "
            "smaller parameters"
        )
    rows = _rows(graph, live, layers or {})
    widest = max(len(nodes) for _, nodes in rows)
    # Each row is centred.
    places = {
        node: (x + (widest - len(nodes)) / 2, float(y))
        for y, (_, nodes) in enumerate(rows)
        for x, node in enumerate(nodes)
    }
    figure = Figure(figsize=(2.0 * widest + 1.0, 0.75 * len(rows) + 0.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-1.0, widest - 0.4), ylim=(len(rows) - 0.5, -0.5), title=title)
    if layers is not None:
        for y, (layer, _) in enumerate(rows):
            axes.axhspan(y - 0.5, y + 0.5, color=_BANDS[layer % 2], zorder=0)
            if y == 0 or rows[y - 1][0] != layer:
                name = f"layer {layer}" if layer else "input"
                axes.text(-0.95, y, name, fontsize=7, color="#555555", va="center")
    for node in live:
        for operand in graph.nodes[node].operands:
            _arrow(axes, places[operand], places[node])
    for node in live:
        _box(axes, places[node], graph, node)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: can't draw: {error}") from error


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


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    # Arrows over several rows bend, past the boxes between their ends.
    bend = 0.0 if end[1] - start[1] <= 1 else 0.25
    style = {
        "arrowstyle": "-|>",
        "color": "#999999",
        "shrinkA": 12,
        "shrinkB": 14,
        "connectionstyle": f"arc3,rad={bend}",
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _box(axes: Any, place: tuple[float, float], graph: Graph, node: int) -> None:
    this, facts = graph.nodes[node], graph.facts[node]
    name = graph.label(node)
    lines = [
        name if len(name) <= 22 else f"{name[:21]}…",
        *([this.op.name] if this.names else []),
        f"width {this.width} in [{facts.low.min():g}, {facts.high.max():g}]",
        *(["output"] if node == graph.output else []),
    ]
    colour = _COLOURS.get(this.op.name, "#ffffff")
    axes.text(
        *place,
        "\n".join(lines),
        ha="center",
        va="center",
        fontsize=6.5,
        parse_math=False,
        bbox={"boxstyle": "round", "edgecolor": "#555555", "facecolor": colour},
    )
