"""Graphs and circuits as pictures: boxes in layers, with what they compute, and what they read.

A drawing is laid out by `lsrl.placement`. As SVG it is written here, and needs nothing; other
formats are matplotlib's.
"""

import html
import io
import os
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.extras import needed
from lsrl.folders import replace_file
from lsrl.ir.formulas import Formulas
from lsrl.ir.graph import Graph
from lsrl.placement import Link, Placed, Point, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Boxes that a page holds, and rows of them; and boxes that anybody could still follow.
PAGE, PAGE_ROWS, MAX_BOXES = 48, 16, 1000

# In pixels: of letters, lines, what is around them, and a page.
_LETTER, _LINE, _PADDING, _ACROSS = 6.65, 14.0, 8.0, 980.0
_FONT = 11.0
_COLUMNS, _LINES = 30, 3
_LEFT, _TOP = 64.0, 34.0

# Fonts as wide as the one whose text matplotlib has measured.
_SANS = "DejaVu Sans, Verdana, sans-serif"

# A drawing shrinks to where it is shown, down to this share: what is smaller can't be read.
_SMALLEST = 0.7

# Of light and of dark paper.
_PAPER, _INK, _SOFT = ("#ffffff", "#15181c"), ("#1f2328", "#e4e7ea"), ("#5c6570", "#a3acb6")
_BANDS = (("#f3f5f7", "#1c2127"), ("#ffffff", "#15181c"))
_FILLS = {
    "source": ("#d6ecd6", "#1e4023"),
    "bent": ("#ffe2c4", "#553313"),
    "memory": ("#d3e3f8", "#1b3a5c"),
    "gated": ("#ecdaf4", "#452a52"),
    "plain": ("#ffffff", "#262c33"),
}
_FAMILIES = {
    **dict.fromkeys(("input", "lookup", "constant"), "source"),
    **dict.fromkeys(("relu", "step", "select", "product"), "bent"),
    **dict.fromkeys(("linearstate", "delay", "periodic", "latch"), "memory"),
    **dict.fromkeys(("selectivestate", "thresholdstate", "recurrentstate", "hold"), "gated"),
}
# By kind of link, those that draw attention last.
_STROKES = {
    "": ("#8a939d", "#7d8792"),
    "same step": ("#64748b", "#94a3b8"),
    "lag": ("#0f8a76", "#3fc4ac"),
    "carry": ("#c77700", "#eaa53c"),
    "gate": ("#a83ea8", "#d883d8"),
}


class Box(NamedTuple):
    """What is drawn of one signal.

    Attributes:
      name: in bold.
      formula: how it is computed, broken and cut to a few lines; "" for none.
      remark: below it; "" for none.
      kind: of the op that makes it, for the colour.
    """

    name: str
    formula: str
    remark: str
    kind: str

    @property
    def lines(self) -> list[str]:
        """Its text."""
        wrapped = _wrapped(self.formula)
        if len(wrapped) > _LINES:
            wrapped = [*wrapped[: _LINES - 1], "".join(wrapped[_LINES - 1 :])]
        wrapped = [_cut(line.strip()) for line in wrapped]
        return [_short_name(self.name), *wrapped, *([self.remark] if self.remark else [])]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        lines = self.lines
        return (
            _LETTER * max(map(_columns, lines)) + 2 * _PADDING,
            _LINE * len(lines) + 2 * _PADDING - 4,
        )


class Layer(NamedTuple):
    """Boxes side by side, in as many rows as they take.

    Attributes:
      label: written beside them; "" for none.
      keys: of the boxes.
    """

    label: str
    keys: Sequence[Hashable]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture, which notebooks show as it is.

    Attributes:
      title: above it.
      note: what is left out of it; "" if nothing is.
    """

    title: str
    note: str
    _rows: Sequence[Layer] = field(repr=False)
    _boxes: Mapping[Hashable, Box] = field(repr=False)
    _links: Sequence[Link] = field(repr=False)
    _placed: Placed = field(repr=False)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        words = max(map(_columns, (self.title, self.note))) * _LETTER * 1.1 + 24
        return (
            max(self._placed.width + _LEFT + 16, words, 420.0),
            self._placed.height + _TOP + 22 + (18 if self.note else 0),
        )

    @property
    def svg(self) -> str:
        """As SVG, in light colours, or dark ones where the reader prefers those."""
        return _svg(self)

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture, whole or not at all.

        Args:
          path: the file; its suffix decides the format: .svg, and with matplotlib .pdf and .png,
            and what else it writes. SVG and PDF are vectors.

        Raises:
          InputError: matplotlib is not installed, or has no such format.
          OSError: the file can't be written.
        """
        if arguments.path("save", path).suffix == ".svg":
            replace_file(path, self.svg.encode())
        else:
            save_figure(_figure(self), path, dpi=200)


def drawing(
    title: str,
    layers: Sequence[Layer],
    boxes: Mapping[Hashable, Box],
    links: Sequence[Link],
    *,
    whole: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> Drawing:
    """Lay boxes and links out, from top to bottom.

    Args:
      title: written above.
      layers: in the order in which they are drawn.
      boxes: by key.
      links: drawn by kind, each of them once; those whose ends are not drawn fall away.
      whole: also draw what is more than a page.
      path: where to save it too; see `Drawing.save`.

    Raises:
      InputError: an argument is of another kind, there are more than MAX_BOXES boxes, or as for
        `Drawing.save`.
      OSError: the file can't be written.
    """
    target = None if path is None else arguments.path("draw", path)
    arguments.flag("draw: whole", whole)
    count = sum(len(layer.keys) for layer in layers)
    if whole and count > MAX_BOXES:
        raise InputError(
            f"draw: a drawing shows at most {MAX_BOXES} signals, and {count} came; leave out "
            "whole=True to draw the first ones, or give the program smaller parameters"
        )
    shown = list(layers) if whole else _first(layers, boxes)
    few = sum(len(layer.keys) for layer in shown)
    note = (
        ""
        if few == count
        else f"the first {few} of {count} signals; whole=True (--whole) draws all"
    )
    rows = [Layer(layer.label, row) for layer in shown for row in _broken(layer.keys, boxes)]
    drawn = {key for row in rows for key in row.keys}
    order = list(_STROKES)
    kept = sorted(
        (link for link in dict.fromkeys(links) if link.start in drawn and link.end in drawn),
        key=lambda link: order.index(link.kind),
    )
    sizes = {key: boxes[key].size for key in drawn}
    placed = place([row.keys for row in rows], sizes, kept)
    made = Drawing(title, note, rows, {k: boxes[k] for row in rows for k in row.keys}, kept, placed)
    if target is not None:
        made.save(target)
    return made


def draw(
    graph: Graph,
    title: str,
    *,
    path: str | os.PathLike[str] | None = None,
    whole: bool = False,
) -> Drawing:
    """Draw a graph's live nodes, from top to bottom: each signal below what it reads.

    Args:
      graph: whose.
      title: written above.
      path: as for `drawing`.
      whole: as for `drawing`.

    Raises:
      InputError: as for `drawing`.
      OSError: the file can't be written.
    """
    live = graph.live()
    depth: dict[int, int] = {}
    for node in live:
        depth[node] = max((depth[i] + 1 for i in graph.nodes[node].operands), default=0)
    rows = [Layer("", [i for i in live if depth[i] == d]) for d in sorted(set(depth.values()))]
    links = [Link(operand, node) for node in live for operand in graph.nodes[node].operands]
    formulas = node_formulas(graph)
    boxes: dict[Hashable, Box] = {
        i: Box(graph.label(i), formulas[i], remark(graph, i), graph.nodes[i].op.name) for i in live
    }
    return drawing(title, rows, boxes, links, whole=whole, path=path)


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
    try:
        content = figure_bytes(figure, suffix[1:] or "png", dpi=dpi, metadata=metadata)
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: can't draw: {error}") from error
    replace_file(path if suffix else f"{name}.png", content)


def figure_bytes(
    figure: "Figure",
    kind: str,
    *,
    dpi: float | None = None,
    metadata: dict[str, str | None] | None = None,
) -> bytes:
    """A figure of matplotlib in a format, as for `save_figure`.

    Raises:
      ValueError: there is no such format.
    """
    from matplotlib import rc_context

    content = io.BytesIO()
    # Whole fonts in PDF files: publishers refuse those of Type 3. In SVG text stays text, and ids
    # are the same each time.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "lsrl"}):
        figure.savefig(content, format=kind, dpi=dpi, metadata=metadata)
    return _themed(content.getvalue().decode()).encode() if kind == "svg" else content.getvalue()


def _themed(svg: str) -> str:
    """An SVG file of matplotlib on light or dark paper, as the reader prefers.

    Its white areas are the paper, and its black ones ink; what is not quite white or black is left,
    as are all colours. Each style is written once, which makes large tables half as long.
    """
    svg = re.sub(r"font-family: 'DejaVu Sans',[^;\"]*", f"font-family: {_SANS}", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"| id="[a-z0-9]+_\d+"', "", svg)  # says nothing
    svg = svg.replace(": #000000", ": currentColor")
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return f'class="{names.setdefault(found[1], f"s{len(names)}")}"'

    svg = re.sub(r'style="([^"]*)"', named, svg)
    paper = [f".{name}" for style, name in names.items() if "fill: #ffffff" in style]
    rules = [
        f"svg {{color: {_INK[0]}; fill: currentColor}}",
        *(f".{name} {{{style}}}" for style, name in names.items()),
        f"@media (prefers-color-scheme: dark) {{svg {{color: {_INK[1]}}} "
        f"{', '.join(paper)} {{fill: {_PAPER[1]}}}}}",
    ]
    head, end, rest = svg.partition("</style>")
    return f"{head}\n   " + "\n   ".join(rules) + end + rest


def range_text(width: int, low: float, high: float) -> str:
    """What is written of a signal's elements."""
    return f"{f'×{width} ' if width > 1 else ''}in [{low:g}, {high:g}]"


def node_formulas(graph: Graph) -> dict[int, str]:
    """How each live node of a graph is computed, with its weights; "" where its name says that."""
    formulas = Formulas(graph)
    said = {node: formulas.node(node) for node in graph.live()}
    return {
        node: "" if _plain(text) == _plain(graph.label(node)) else text
        for node, text in said.items()
    }


def _plain(text: str) -> str:
    """A formula or an expression of Python, which write one thing with other signs."""
    return text.translate(str.maketrans("−·", "-*", " "))


def remark(graph: Graph, node: int) -> str:
    """What is written of a node's elements."""
    facts = graph.facts[node]
    text = range_text(graph.nodes[node].width, facts.low.min(), facts.high.max())
    return f"{text}, output" if node == graph.output else text


def _first(layers: Sequence[Layer], boxes: Mapping[Hashable, Box]) -> list[Layer]:
    """The first layers, as many as a page holds, and of the first one no more than that."""
    kept = [Layer(layer.label, layer.keys[:PAGE]) for layer in layers[:1]]
    room, rows = PAGE, PAGE_ROWS
    for layer in layers:
        room, rows = room - len(layer.keys), rows - len(_broken(layer.keys, boxes))
        if room < 0 or rows < 0:
            break
        kept += [layer] if layer is not layers[0] else []
    return kept


def _broken(keys: Sequence[Hashable], boxes: Mapping[Hashable, Box]) -> list[list[Hashable]]:
    """The boxes of a layer in rows that are no wider than a page."""
    rows: list[list[Hashable]] = []
    used = 0.0
    for key in keys:
        width = boxes[key].size[0] + 26
        if not rows or used + width > _ACROSS:
            rows.append([])
            used = 0.0
        rows[-1].append(key)
        used += width
    return rows


def _columns(text: str) -> int:
    """Letters of one width that a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _wrapped(formula: str) -> list[str]:
    """A formula in lines, broken behind spaces, and behind brackets where that is not enough."""
    lines = [""]
    for word in re.split(r"(?<= )", formula):
        for piece in [word] if len(word) <= _COLUMNS else re.split(r"(?<=[(\]])", word):
            if lines[-1] and len(lines[-1] + piece.rstrip()) > _COLUMNS:
                lines.append("")
            lines[-1] += piece
    return [line for line in lines if line]


def _short_name(name: str) -> str:
    """A name cut in the middle: names of one expression differ in the number at their end."""
    stem, mark, number = name.rpartition("#")
    if len(name) <= _COLUMNS or not mark:
        return _cut(name)
    return f"{stem[: _COLUMNS - len(number) - 2]}…#{number}"


def _cut(text: str) -> str:
    return text if len(text) <= _COLUMNS else f"{text[: _COLUMNS - 1]}…"


# ---------------------------------------------------------------- what is drawn


class _Band(NamedTuple):
    label: str
    top: float
    bottom: float


def _bands(drawing: Drawing) -> list[_Band]:
    """Where each labelled layer lies: up to the middle between it and the next one."""
    spans: list[_Band] = []
    for label, keys in drawing._rows:
        places = [(drawing._placed.centres[key][1], drawing._boxes[key].size[1]) for key in keys]
        top = min(y - height / 2 for y, height in places)
        bottom = max(y + height / 2 for y, height in places)
        if spans and spans[-1].label == label:
            spans[-1] = spans[-1]._replace(bottom=bottom)
        else:
            spans.append(_Band(label, top, bottom))
    cuts = [(above.bottom + below.top) / 2 for above, below in pairwise(spans)]
    edges = pairwise([0.0, *cuts, drawing._placed.height])
    return [_Band(one.label, *edge) for one, edge in zip(spans, edges, strict=True) if one.label]


def _head(path: Sequence[Point], size: float = 7.0) -> list[Point]:
    """The corners of the arrow's head at the end of a path."""
    x, y = path[-1]
    back = next((p for p in reversed(path) if abs(p[0] - x) + abs(p[1] - y) > 0.5), (x, y - 1))
    length = ((x - back[0]) ** 2 + (y - back[1]) ** 2) ** 0.5
    dx, dy = (x - back[0]) / length, (y - back[1]) / length
    side = 0.42 * size
    base = x - size * dx, y - size * dy
    return [(x, y), (base[0] + side * dy, base[1] - side * dx),
            (base[0] - side * dy, base[1] + side * dx)]  # fmt: skip


def _used(drawing: Drawing) -> list[str]:
    """The kinds of links that a legend tells apart."""
    return [kind for kind in _STROKES if kind and any(link.kind == kind for link in drawing._links)]


def _svg(drawing: Drawing) -> str:
    """Colours stand in attributes, which every program reads, and the dark ones in a style."""
    made = _Svg()
    width, height = drawing.size
    parts = [
        f'<rect width="{width:.0f}" height="{height:.0f}" {made.paint("fill", _PAPER)}/>',
        made.text(12, 21, drawing.title, _INK, ' font-weight="bold"'),
        f'<g transform="translate(0 {_TOP:g})">',
    ]
    for number, band in enumerate(_bands(drawing)):
        tall = band.bottom - band.top
        parts.append(
            f'<rect y="{band.top:.1f}" width="{width:.0f}" height="{tall:.1f}" '
            f"{made.paint('fill', _BANDS[number % 2])}/>"
        )
        parts.append(made.text(8, band.top + tall / 2 + 4, band.label, _SOFT))
    parts.append(f'</g><g transform="translate({_LEFT:g} {_TOP:g})">')
    for link, path in zip(drawing._links, drawing._placed.paths, strict=True):
        parts += made.link(path, _STROKES[link.kind])
    for key, box in drawing._boxes.items():
        parts += made.box(box, *drawing._placed.centres[key])
    parts.append("</g>")
    x, y = 12.0, height - (28 if drawing.note else 9)
    for kind in _used(drawing):
        parts.append(
            f'<line x1="{x:.0f}" x2="{x + 20:.0f}" y1="{y - 4:.0f}" y2="{y - 4:.0f}" '
            f'stroke-width="2" {made.paint("stroke", _STROKES[kind])}/>'
        )
        parts.append(made.text(x + 26, y, kind, _SOFT))
        x += 50 + _LETTER * len(kind)
    if drawing.note:
        parts.append(made.text(12, height - 9, drawing.note, _INK))
    style = "".join(f".{name}{{{rule}}}" for name, rule in made.dark.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" '
        f'style="max-width:100%;min-width:{_SMALLEST * width:.0f}px;height:auto" '
        'font-family="ui-monospace,Menlo,Consolas,DejaVu Sans Mono,monospace" '
        f'font-size="{_FONT:g}">'
        f"<style>@media (prefers-color-scheme:dark){{{style}}}</style>{''.join(parts)}</svg>"
    )


class _Svg:
    """Elements of a drawing, and the rules of their colours in the dark."""

    def __init__(self) -> None:
        self.dark: dict[str, str] = {}

    def paint(self, what: str, pair: tuple[str, str]) -> str:
        """The attributes that give something its colours."""
        name = f"lsrl-{what}-{pair[0][1:]}-{pair[1][1:]}"
        self.dark[name] = f"{what}:{pair[1]}"
        return f'class="{name}" {what}="{pair[0]}"'

    def text(self, x: float, y: float, words: str, ink: tuple[str, str], more: str = "") -> str:
        """Words at a place."""
        escaped = html.escape(words, quote=False)
        return f'<text x="{x:.1f}" y="{y:.1f}" {self.paint("fill", ink)}{more}>{escaped}</text>'

    def link(self, path: Sequence[Point], colour: tuple[str, str]) -> list[str]:
        """A curve with its head."""
        start, *rest = (f"{x:.1f} {y:.1f}" for x, y in path)
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in _head(path))
        return [
            f'<path d="M{start}C{" ".join(rest)}" fill="none" stroke-width="1.3" '
            f"{self.paint('stroke', colour)}/>",
            f'<polygon points="{corners}" {self.paint("fill", colour)}/>',
        ]

    def box(self, box: Box, x: float, y: float) -> list[str]:
        """A box with its lines around a place."""
        wide, tall = box.size
        fill = _FILLS[_FAMILIES.get(box.kind, "plain")]
        hint = html.escape(f"{box.name} = {box.formula}" if box.formula else box.name)
        parts = [
            f'<g><title>{hint}</title><rect x="{x - wide / 2:.1f}" y="{y - tall / 2:.1f}" '
            f'width="{wide:.1f}" height="{tall:.1f}" rx="4" stroke="#8a939d" '
            f"{self.paint('fill', fill)}/>"
        ]
        for number, line in enumerate(box.lines):
            where = y - tall / 2 + _PADDING + _LINE * number + 8
            more = ' text-anchor="middle"' + (' font-weight="bold"' if number == 0 else "")
            parts.append(self.text(x, where, line, _INK if number == 0 else _SOFT, more))
        return [*parts, "</g>"]


def _figure(drawing: Drawing) -> "Figure":
    """The same as a figure of matplotlib, in light colours."""
    needed("matplotlib.figure", "this format", ".svg needs nothing")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
    from matplotlib.path import Path

    width, height = drawing.size
    figure = Figure(figsize=(width / 96, height / 96), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-_LEFT, width - _LEFT), ylim=(height - _TOP, -_TOP))
    font = {"family": "DejaVu Sans Mono", "size": _FONT * 72 / 96}

    def text(
        x: float, y: float, words: str, ink: str, *, middle: bool = False, bold: bool = False
    ) -> None:
        where, weight = "center" if middle else "left", "bold" if bold else "normal"
        axes.text(x, y, words, color=ink, parse_math=False, ha=where, weight=weight, fontdict=font)

    text(12 - _LEFT, 21 - _TOP, drawing.title, _INK[0], bold=True)
    for number, band in enumerate(_bands(drawing)):
        place = (-_LEFT, band.top), width, band.bottom - band.top
        axes.add_patch(Rectangle(*place, color=_BANDS[number % 2][0], linewidth=0))
        text(8 - _LEFT, (band.top + band.bottom) / 2 + 4, band.label, _SOFT[0])
    for link, path in zip(drawing._links, drawing._placed.paths, strict=True):
        colour = _STROKES[link.kind][0]
        curve = Path(path, [Path.MOVETO, *[Path.CURVE4] * (len(path) - 1)])
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=colour, linewidth=1))
        axes.add_patch(Polygon(_head(path), facecolor=colour, linewidth=0))
    for key, box in drawing._boxes.items():
        (x, y), (wide, tall) = drawing._placed.centres[key], box.size
        fill = _FILLS[_FAMILIES.get(box.kind, "plain")][0]
        style = "round,pad=0,rounding_size=4"
        corner = x - wide / 2, y - tall / 2
        axes.add_patch(
            FancyBboxPatch(
                corner, wide, tall, boxstyle=style, facecolor=fill, edgecolor="#8a939d", lw=0.8
            )
        )
        for number, line in enumerate(box.lines):
            where = corner[1] + _PADDING + _LINE * number + 8
            ink = (_SOFT if number else _INK)[0]
            text(x, where, line, ink, middle=True, bold=number == 0)
    x, y = 12 - _LEFT, height - _TOP - (28 if drawing.note else 9)
    for kind in _used(drawing):
        axes.add_line(Line2D([x, x + 20], [y - 4, y - 4], color=_STROKES[kind][0]))
        text(x + 26, y, kind, _SOFT[0])
        x += 50 + _LETTER * len(kind)
    if drawing.note:
        text(12 - _LEFT, height - _TOP - 9, drawing.note, _INK[0])
    return figure
