"""Where the boxes of a drawing stand and how its arrows run: layer by layer, in lanes of their own.

graphviz lays a drawing out where its `dot` is installed; else this module does. Either way an arrow
begins and ends at the border of a box and passes under none.
"""

import shutil
import subprocess
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

Point = tuple[float, float]

# Between boxes of a row, between lanes, at the side of a box for a loop; in pixels.
_APART, _LANE, _LOOP = 26.0, 12.0, 20.0
_GAP = 34.0
_SWEEPS, _MOVES = 12, 60
_DOT_SECONDS = 20.0
# Pixels; boxes that graphviz strews wider than that may stand closer in lanes of our own.
_WIDE = 1200.0


class Link(NamedTuple):
    """From a box to one that reads it.

    Attributes:
      start: the key of a box.
      end: likewise.
      kind: links of one kind from one box share a lane.
    """

    start: Hashable
    end: Hashable
    kind: str = ""


class Placed(NamedTuple):
    """A drawing laid out, in pixels from its top left corner.

    Attributes:
      centres: of the boxes, by key.
      paths: one a link, in order: the start, then three points for each cubic Bézier curve.
      width: of all that is drawn.
      height: likewise.
    """

    centres: dict[Hashable, Point]
    paths: list[list[Point]]
    width: float
    height: float


def place(
    rows: Sequence[Sequence[Hashable]],
    sizes: Mapping[Hashable, tuple[float, float]],
    links: Sequence[Link],
) -> Placed:
    """Lay a drawing out.

    Args:
      rows: the keys of the boxes, from top to bottom.
      sizes: (width, height) of each box.
      links: between boxes of any two rows, of one row, or from a box to itself.
    """
    found = by_dot(rows, sizes, links)
    if found is not None and found.width <= _WIDE:
        return found
    own = layered(rows, sizes, links)
    return own if found is None or own.width < found.width else found


# ---------------------------------------------------------------- graphviz


def by_dot(
    rows: Sequence[Sequence[Hashable]],
    sizes: Mapping[Hashable, tuple[float, float]],
    links: Sequence[Link],
) -> Placed | None:
    """As graphviz lays it out; None where it is not installed, or gives up."""
    dot = shutil.which("dot")
    if dot is None:
        return None
    # Names could hold anything: dot sees numbers alone.
    number = {key: f"n{i}" for i, key in enumerate(key for row in rows for key in row)}
    lines = ["digraph {", f"nodesep={_APART / 72} ranksep={_GAP / 72}"]
    lines.append('node [shape=box fixedsize=true label=""] edge [dir=none]')
    for index, row in enumerate(rows):
        names = " ".join(number[key] for key in row)
        lines.append(f"r{index} [style=invis width=0 height=0] {{rank=same r{index} {names}}}")
        for key in row:
            width, height = sizes[key]
            lines.append(f"{number[key]} [width={width / 72:.4f} height={height / 72:.4f}]")
    lines += [f"r{index - 1} -> r{index} [style=invis]" for index in range(1, len(rows))]
    lines += [f"{number[link.start]} -> {number[link.end]}" for link in links]
    try:
        done = subprocess.run(
            [dot, "-Tplain"],
            input="\n".join([*lines, "}"]),
            capture_output=True,
            text=True,
            timeout=_DOT_SECONDS,
            check=True,
        )
        return _read_plain(done.stdout, number, links)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError):
        return None


def _read_plain(text: str, number: Mapping[Hashable, str], links: Sequence[Link]) -> Placed:
    """What dot says, in inches from the bottom left corner."""
    width = height = 0.0
    centres: dict[str, Point] = {}
    paths: dict[tuple[str, str], list[list[Point]]] = {}
    for line in text.splitlines():
        what, *words = line.split()
        if what == "graph":
            width, height = 72 * float(words[1]), 72 * float(words[2])
        elif what == "node":
            centres[words[0]] = 72 * float(words[1]), height - 72 * float(words[2])
        elif what == "edge":
            numbers = [72 * float(word) for word in words[3 : 3 + 2 * int(words[2])]]
            points = [(x, height - y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
            paths.setdefault((words[0], words[1]), []).append(points)
    return Placed(
        {key: centres[name] for key, name in number.items()},
        [paths[number[link.start], number[link.end]].pop(0) for link in links],
        width,
        height,
    )


# ---------------------------------------------------------------- our own


@dataclass
class _Items:
    """Boxes, and the lanes in which links pass the rows between their ends."""

    rows: list[list[int]]
    sizes: list[tuple[float, float]]
    row: list[int] = field(default_factory=list)
    above: list[list[int]] = field(default_factory=list)
    below: list[list[int]] = field(default_factory=list)
    x: list[float] = field(default_factory=list)

    def room(self, item: int) -> float:
        """Half of what an item takes of its row."""
        return self.sizes[item][0] / 2


def layered(
    rows: Sequence[Sequence[Hashable]],
    sizes: Mapping[Hashable, tuple[float, float]],
    links: Sequence[Link],
) -> Placed:
    """As `place` does without graphviz: rows stay as they are, and links have lanes in them.

    Boxes of a row are ordered and moved towards what they are linked to. A link to the next row is
    a curve in the gap between the two; past other rows it runs straight down its lane.
    """
    keys = [key for row in rows for key in row]
    item_of = {key: index for index, key in enumerate(keys)}
    items = _Items([[item_of[key] for key in row] for row in rows], [sizes[key] for key in keys])
    items.row = [index for index, row in enumerate(rows) for _ in row]
    looped = {item_of[link.start] for link in links if link.start == link.end}
    chains = _chains(items, item_of, links)
    _order(items)
    _move(items, looped)
    tops, bottoms = _heights(items)
    left = min(items.x[i] - items.room(i) for i in range(len(items.x))) - _LOOP
    items.x = [x - left for x in items.x]
    paths = _paths(items, chains, [link.kind for link in links], tops, bottoms)
    centres = {
        key: (items.x[i], (tops[items.row[i]] + bottoms[items.row[i]]) / 2)
        for key, i in item_of.items()
    }
    width = max(items.x[i] + items.room(i) for i in range(len(items.x))) + _LOOP
    return Placed(centres, paths, width, bottoms[-1] + _GAP / 2)


def _chains(
    items: _Items, item_of: Mapping[Hashable, int], links: Sequence[Link]
) -> list[list[int]]:
    """The items that each link runs through, lanes made where there are none yet."""
    items.above = [[] for _ in items.row]
    items.below = [[] for _ in items.row]
    lanes: dict[tuple[int, str, int], int] = {}
    chains = []
    for link in links:
        start, end = item_of[link.start], item_of[link.end]
        chain, step = [start], 1 if items.row[end] > items.row[start] else -1
        level = items.row[start] == items.row[end]
        for row in range(0) if level else range(items.row[start] + step, items.row[end], step):
            lane = lanes.setdefault((start, link.kind, row), len(items.row))
            if lane == len(items.row):
                items.row.append(row)
                items.sizes.append((0.0, 0.0))
                items.above.append([])
                items.below.append([])
                items.rows[row].append(lane)
            chain.append(lane)
        chain.append(end)
        for here, there in pairwise(chain):
            upper, lower = (here, there) if items.row[here] < items.row[there] else (there, here)
            if items.row[upper] != items.row[lower] and lower not in items.below[upper]:
                items.below[upper].append(lower)
                items.above[lower].append(upper)
        chains.append(chain)
    return chains


def _order(items: _Items) -> None:
    """Order each row by the middle of what its items are linked to, down and up in turn."""
    place = {}
    for row in items.rows:
        place.update({item: (k + 0.5) / len(row) for k, item in enumerate(row)})
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = items.above if down else items.below
        for row in items.rows if down else reversed(items.rows):
            wanted = {
                item: sum(place[i] for i in near[item]) / len(near[item])
                if near[item]
                else place[item]
                for item in row
            }
            row.sort(key=lambda item: wanted[item])
            place.update({item: (k + 0.5) / len(row) for k, item in enumerate(row)})


def _move(items: _Items, looped: set[int]) -> None:
    """Move the items of each row towards what they are linked to, with room between them."""
    items.x = [0.0] * len(items.row)
    for sweep in range(_MOVES):
        for row in items.rows if sweep % 2 == 0 else reversed(items.rows):
            offsets, last = [0.0], 0.0
            for before, item in pairwise(row):
                boxes = items.room(before) > 0 and items.room(item) > 0
                apart = (_APART if boxes else _LANE) + (_LOOP if before in looped else 0.0)
                last += items.room(before) + items.room(item) + apart
                offsets.append(last)
            wanted = []
            for item, offset in zip(row, offsets, strict=True):
                near = items.above[item] + items.below[item]
                alone = sweep == 0 or not near
                wanted.append(
                    offset - last / 2 if alone else sum(items.x[i] for i in near) / len(near)
                )
            # Lanes are straight before boxes are in the middle.
            weights = [1.0 if items.room(item) else 3.0 for item in row]
            shifts = [w - offset for w, offset in zip(wanted, offsets, strict=True)]
            for item, shift, offset in zip(row, _rising(shifts, weights), offsets, strict=True):
                items.x[item] = shift + offset


def _rising(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The numbers nearest to those wanted, in weighted squares, of which none falls."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(wanted, weights, strict=True):
        mean, heavy, count = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, more, many = blocks.pop()
            mean = (other * more + mean * heavy) / (more + heavy)
            heavy, count = heavy + more, count + many
        blocks.append((mean, heavy, count))
    return [mean for mean, _, count in blocks for _ in range(count)]


def _heights(items: _Items) -> tuple[list[float], list[float]]:
    """The top and the bottom of each row; where links go far aside, there is more between rows."""
    tops, bottoms, y = [], [], _GAP / 2
    for row in items.rows:
        tops.append(y)
        y += max(items.sizes[item][1] for item in row)
        bottoms.append(y)
        aside = (abs(items.x[item] - items.x[i]) for item in row for i in items.below[item])
        y += _GAP + min(46.0, max(aside, default=0.0) * 0.12)
    return tops, bottoms


def _paths(
    items: _Items,
    chains: Sequence[Sequence[int]],
    kinds: Sequence[str],
    tops: Sequence[float],
    bottoms: Sequence[float],
) -> list[list[Point]]:
    """A curve for each chain, with the ends spread along the borders of boxes."""
    ports = _ports(items, chains, kinds)
    paths: list[list[Point]] = []
    for chain, kind in zip(chains, kinds, strict=True):
        if chain[0] == chain[-1]:
            right = items.x[chain[0]] + items.room(chain[0])
            y = (tops[items.row[chain[0]]] + bottoms[items.row[chain[0]]]) / 2
            reach = right + 1.3 * _LOOP
            paths.append([(right, y - 7), (reach, y - 11), (reach, y + 11), (right, y + 7)])
            continue
        points: list[Point] = []
        for here, there in pairwise(chain):
            leaves, enters = _sides(items, here, there)
            x1, x2 = ports[here, there, kind], ports[there, here, kind]
            # What lies between the borders of a box and of its row is gone through straight.
            row1, row2 = ((bottoms if s > 0 else tops)[items.row[i]]
                          for i, s in ((here, leaves), (there, enters)))  # fmt: skip
            y1, y2 = ((tops[items.row[i]] + bottoms[items.row[i]] + s * items.sizes[i][1]) / 2
                      for i, s in ((here, leaves), (there, enters)))  # fmt: skip
            bend = row1 + 0.7 * _GAP if leaves == enters else (row1 + row2) / 2
            points += [] if points else [(x1, y1)]
            points += [(x1, y1), (x1, row1), (x1, row1)]
            points += [(x1, bend), (x2, bend), (x2, row2)]
            points += [(x2, row2), (x2, y2), (x2, y2)]
        paths.append(points)
    return paths


def _sides(items: _Items, here: int, there: int) -> tuple[int, int]:
    """Whether a link leaves and enters below, 1, or above, -1; within a row it hangs below."""
    step = items.row[there] - items.row[here]
    return (1, 1) if step == 0 else (1, -1) if step > 0 else (-1, 1)


def _ports(
    items: _Items, chains: Sequence[Sequence[int]], kinds: Sequence[str]
) -> dict[tuple[int, int, str], float]:
    """Where links touch an item, by the item at the other end and kind; spread over its border."""
    found: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for chain, kind in zip(chains, kinds, strict=True):
        for here, there in pairwise(chain):
            leaves, enters = _sides(items, here, there)
            found.setdefault((here, leaves), []).append((there, kind))
            found.setdefault((there, enters), []).append((here, kind))
    ports = {}
    for (item, _), others in found.items():
        ends = sorted(set(others), key=lambda end: (items.x[end[0]], end))
        step = min(14.0, (items.sizes[item][0] - 12) / len(ends)) if items.room(item) else 0.0
        for place, other in enumerate(ends):
            ports[item, *other] = items.x[item] + (place - (len(ends) - 1) / 2) * step
    return ports
