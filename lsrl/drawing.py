"""Graphs and circuits as pictures, level by level. The only module that imports matplotlib."""

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lsrl.errors import InputError
from lsrl.ir.graph import Graph

if TYPE_CHECKING:
    from lsrl.interpret.circuit import Circuit, Signal

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
# By kind of edge, those that draw attention last.
_EDGES = {"same step": "#64748b", "lag": "#0f8a76", "carry": "#c77700", "gate": "#a83ea8"}
# Boxes side by side; a circuit's layer with more of them takes several rows.
_ACROSS = 12


class _Box(NamedTuple):
    lines: Sequence[str]
    colour: str


class _Arrow(NamedTuple):
    start: Hashable
    end: Hashable
    colour: str = _PLAIN


# Per row its label, "" for none, whose change starts another band, and the keys of its boxes.
_Row = tuple[str, Sequence[Hashable]]


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
    arrows = [_Arrow(operand, node) for node in live for operand in graph.nodes[node].operands]
    _picture(path, title, rows, {node: _graph_box(graph, node) for node in live}, arrows)


def draw_circuit(circuit: "Circuit", output: str, path: str | os.PathLike[str]) -> None:
    """Draw a circuit; see `Circuit.draw`, which says what is raised.

    Args:
      circuit: what is drawn.
      output: the name that edges have for the output.
      path: where the picture is written.
    """
    rows: list[_Row] = []
    # Constants that nothing reads but through a bias would only take room.
    ends = {name for edge in circuit.edges for name in (edge.source, edge.target)}
    shown = [one for one in circuit.signals if one.kind != "constant" or one.name in ends]
    for layer in range(len(circuit.units)):
        made = [signal.name for signal in shown if signal.layer == layer]
        label = f"layer {layer}" if layer else "input"
        rows += [(label, made[i : i + _ACROSS]) for i in range(0, len(made), _ACROSS)]
    rows.append(("output", [output]))
    boxes: dict[Hashable, _Box] = {signal.name: _signal_box(signal) for signal in shown}
    boxes[output] = _Box([output], "#ffffff")
    # One arrow for all elements.
    found = dict.fromkeys((edge.source, edge.target, edge.kind) for edge in circuit.edges)
    arrows = [
        _Arrow(source, target, colour)
        for kind, colour in _EDGES.items()
        for source, target, its in found
        if its == kind
    ]
    used = {kind: _EDGES[kind] for kind in _EDGES if any(its == kind for _, _, its in found)}
    _picture(path, f"{circuit.program} on {circuit.target}", rows, boxes, arrows, used)


def _picture(
    path: str | os.PathLike[str],
    title: str,
    rows: Sequence[_Row],
    boxes: Mapping[Hashable, _Box],
    arrows: Iterable[_Arrow],
    legend: Mapping[str, str] | None = None,
) -> None:
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
    for arrow in arrows:
        _draw_arrow(axes, places[arrow.start], places[arrow.end], arrow.colour)
    for key, box in boxes.items():
        _draw_box(axes, places[key], box)
    if legend:
        lines = [Line2D([], [], color=colour, label=kind) for kind, colour in legend.items()]
        axes.legend(handles=lines, loc="lower right", fontsize=6.5, frameon=False)
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


def _draw_arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
    if start == end:
        # A state that goes on: a loop over the right end of the box.
        (x, y), style["connectionstyle"] = start, "arc3,rad=-1.5"
        axes.annotate("", xy=(x + 0.19, y - 0.16), xytext=(x + 0.06, y - 0.16), arrowprops=style)
        return
    # Arrows over several rows bend, past the boxes between their ends.
    bend = 0.0 if end[1] - start[1] <= 1 else 0.25
    style |= {"shrinkA": 12, "shrinkB": 14, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _graph_box(graph: Graph, node: int) -> _Box:
    this, facts = graph.nodes[node], graph.facts[node]
    lines = [
        _short(graph.label(node)),
        *([this.op.name] if this.names else []),
        f"width {this.width} in [{facts.low.min():g}, {facts.high.max():g}]",
        *(["output"] if node == graph.output else []),
    ]
    return _Box(lines, _COLOURS.get(this.op.name, "#ffffff"))


def _signal_box(signal: "Signal") -> _Box:
    lines = [
        _short(signal.name),
        *([signal.kind] if signal.names else []),
        f"width {signal.width} in [{min(signal.low):g}, {max(signal.high):g}]",
    ]
    return _Box(lines, _COLOURS.get(signal.kind, "#ffffff"))


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"


def _draw_box(axes: Any, place: tuple[float, float], box: _Box) -> None:
    axes.text(
        *place,
        "\n".join(box.lines),
        ha="center",
        va="center",
        fontsize=6.5,
        parse_math=False,
        bbox={"boxstyle": "round", "edgecolor": "#555555", "facecolor": box.colour},
    )
