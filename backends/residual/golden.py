"""Golden states of residual targets: what is in each entry of a cache, by the reference evaluator.

A target says what its cells hold as maps of the stream's rows (`ResidualBackend.cells`), and
`Played` works them out of the evaluator's values: no number here went through a network.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.packer import Channel, Head, SiteKind
from lsrl.backends.residual.rows import ONE, Atom, AtomRow
from lsrl.backends.residual.stream import Site, Stream
from lsrl.golden import GoldenState, Kind, Label
from lsrl.ir.arithmetic import Floats
from lsrl.ir.evaluate import evaluate
from lsrl.ir.formulas import Formulas
from lsrl.ir.labels import bracketed
from lsrl.ir.numbers import Array, rational
from lsrl.ir.ops import Extent, SwapState
from lsrl.schedule import channel_label

# Of what passes made, whose formulas a label tells.
MOST_TOLD = 2


class Played:
    """The values of a stream's rows and inner channels over the tokens of some inputs."""

    def __init__(self, stream: Stream, inputs: Sequence[Array]) -> None:
        """Evaluate the graph on inputs (batch, time, ...) of at least one token."""
        graph = stream.graph
        nodes = {node for node, _ in stream.made}
        self.shape = inputs[0].shape[:2]
        self._values = evaluate(graph, inputs, wanted=sorted(nodes))
        self._rows: dict[AtomRow, Array] = {}
        self._scanned: dict[Channel, Array] = {}

    def row(self, row: AtomRow) -> Array:
        """(batch, time) of a row, exact."""
        if row not in self._rows:
            exact = any(value.dtype == object for value in self._values.values())
            total = np.full(self.shape, rational(row.bias) if exact else row.bias)
            for (node, channel), weight in row.terms:
                factor = rational(weight) if exact else weight
                total = total + factor * self._values[node][..., channel]
            self._rows[row] = total
        return self._rows[row]

    def last(self, row: AtomRow, count: int) -> Array:
        """(batch, count) of a row at the last tokens, and 0 ahead of the first."""
        values = self.row(row)[:, -count:]
        return np.pad(values, ((0, 0), (count - values.shape[1], 0)))

    def tapped(self, row: AtomRow, taps: Sequence[float]) -> Array:
        """(batch, time) of a row now and some tokens ago, weighted; 0 ahead of the first token."""
        values = self.row(row)
        time, total = self.shape[1], values * 0
        for lag, tap in enumerate(taps[:time]):
            if tap:
                moved = np.pad(values, ((0, 0), (lag, 0)))[:, :time]
                total = total + (rational(tap) if total.dtype == object else tap) * moved
        return total

    def branch(self, kind: SiteKind, channel: Channel) -> Array:
        """(batch, time) of what comes to a channel's scan."""
        total = self.tapped(channel.row, channel.taps) + channel.offset
        return np.maximum(total, 0) if kind.relu_branch else total

    def scanned(self, kind: SiteKind, channel: Channel) -> Array:
        """(batch,) of what a scan holds behind the last token; (batch, cells) of a head."""
        if channel not in self._scanned:
            self._scanned[channel] = self._scan(kind, channel)
        return self._scanned[channel]

    def _scan(self, kind: SiteKind, channel: Channel) -> Array:
        values, head = self.branch(kind, channel), channel.head
        if head is not None and channel.mode == "swap":
            return self._swapped(head)[:, :, head.keys.index(channel.row)]
        if head is not None:
            keys = [self.tapped(key, head.taps) == 1 for key in head.keys]
            return np.stack([_held(values, key) for key in keys], axis=1)
        if channel.mode == "pass":
            return values[:, -1]
        if channel.mode == "hold":
            return _held(values, self._flag(kind, channel) == 1)
        factor = rational(channel.factor) if values.dtype == object else channel.factor
        total = values[:, 0]
        for token in range(1, values.shape[1]):
            total = factor * total + values[:, token]
        return total

    def _flag(self, kind: SiteKind, channel: Channel) -> Array:
        if channel.switch is not None:
            return self.row(channel.switch)
        flags = np.zeros(self.shape)
        for flag, factor in channel.flag:
            flags = flags + factor * self.branch(kind, flag)
        return flags

    def _swapped(self, head: Head) -> Array:
        """(batch, points, items): 1 where an item began, less its sign where it is.

        The last token's swap is not carried out yet.
        """
        points, batch = len(head.keys), self.shape[0]
        swaps = np.stack([self.row(key) for key in head.keys], axis=-1)
        op, extent = SwapState(points), Extent((batch,), Floats())
        memory, nothing = op.start(extent), np.zeros((batch, points))
        for token in range(self.shape[1] - 1):
            memory, _ = op.advance(memory, (swaps[:, token], nothing), extent)
        items = memory[0][..., None]
        now = np.sign(items) * (abs(items) == np.arange(1, points + 1))
        return np.eye(points) - now


def _held(values: Array, when: Array) -> Array:
    """(batch,) of values (batch, time) the last at which a mask is true, or 0."""
    time = values.shape[1]
    last = time - 1 - np.argmax(when[:, ::-1], axis=1)
    return np.where(when.any(axis=1), values[np.arange(len(values)), last], values[:, 0] * 0)


class Cell(NamedTuple):
    """Entries of a cache that hold something.

    Attributes:
      label: which, and what.
      value: (batch, ...) of the signals that it holds, behind the last token, ahead of its scale.
    """

    label: Label
    value: Callable[[Played], Array]


class Cells:
    """Makes the cells of a stream's sites, with labels in the program's signals."""

    def __init__(self, stream: Stream) -> None:
        """Find which signals are made of which channels."""
        self._stream = stream
        self._formulas = Formulas(stream.graph)
        self._made: dict[tuple[int, Channel], Atom] = {}
        for atom, terms in stream.terms.items():
            for channel, _ in terms:
                self._made.setdefault((stream.made[atom], channel), atom)

    def row(self, array: str, entry: int, row: AtomRow, scale: float, count: int) -> Cell:
        """What comes into a convolution that keeps so many tokens."""
        kind: Kind = "conv" if row.terms else "constant"
        label = Label(array, (entry,), kind, self._explained(self._row(row), row), scale)
        return Cell(label, lambda played: played.last(row, count))

    @staticmethod
    def constant(array: str, entry: tuple[int, ...], scale: float) -> Cell:
        """What is the same behind every token."""
        return Cell(
            Label(array, entry, "constant", "1", scale), lambda played: played.row(ONE)[:, -1]
        )

    def scan(
        self, array: str, entry: tuple[int, ...], site: Site, channel: Channel, scale: float
    ) -> Cell:
        """What a channel's scan holds."""
        text = self._held(site, channel)
        made = self._made.get((self._stream.sites.index(site), channel))
        if made is not None and channel.mode != "pass":
            text += f", for {channel_label(self._stream.graph, *made)}"
        text = self._explained(text, *channel.rows, *(flag.row for flag, _ in channel.flag))
        label = Label(array, entry, "scan", text, scale)
        return Cell(label, lambda played: played.scanned(site.kind, channel))

    def delta(
        self, array: str, place: tuple[int, int], site: Site, channel: Channel, scale: float
    ) -> Iterator[Cell]:
        """What a column of a head holds, at each coordinate of the keys that write it.

        Args:
          array: its name.
          place: the head and the column.
          site: of the head.
          channel: in the column.
          scale: by what its values are multiplied.
        """
        (head, column), rows = place, channel.head
        if rows is None:
            ((_, _, _, text, _), value) = self.scan(array, (), site, channel, scale)
            yield Cell(Label(array, (head, 0, column), "delta", text, scale), value)
            return
        sides = 2 if channel.mode == "swap" else 1  # coordinates a point, or a cell
        for coordinate in range(sides * len(rows.keys)):
            text, cell = self._cell(site, channel, coordinate // sides), coordinate // sides
            label = Label(array, (head, coordinate, column), "delta", text, scale)
            yield Cell(label, partial(self._at, site, channel, cell))

    @staticmethod
    def _at(site: Site, channel: Channel, cell: int, played: Played) -> Array:
        return played.scanned(site.kind, channel)[:, cell]

    def _cell(self, site: Site, channel: Channel, cell: int) -> str:
        """What a cell of a head holds."""
        if channel.head is None or channel.mode == "swap":
            item = channel.head.keys.index(channel.row) if channel.head else 0
            return (
                f"item {item + 1} on point {cell + 1}, from 1: at the start, less its sign now, "
                "ahead of the last swap"
            )
        key = channel.head.keys[cell]
        late = "" if channel.head.taps[0] else " a token ago"
        text = f"{self._branch(site.kind, channel)}, where last {self._row(key)}{late} was 1"
        return self._explained(text, channel.row, key)

    def _held(self, site: Site, channel: Channel) -> str:
        branch = self._branch(site.kind, channel)
        if channel.mode == "pass":
            return f"{branch}, at the last token"
        if channel.mode == "sum":
            decay = "" if channel.factor == 1 else f", times {channel.factor:g} a token"
            return f"sum of {branch}{decay}"
        if channel.switch is not None:
            flag = self._row(channel.switch)
        else:
            flag = " + ".join(
                f"{'' if weight == 1 else f'{float(weight):g}·'}{self._branch(site.kind, each)}"
                for each, weight in channel.flag
            )
        return f"{branch}, where last {flag} was 1"

    def _row(self, row: AtomRow) -> str:
        if not row.bias and len(row.terms) == 1 and row.terms[0][1] == 1:
            return channel_label(self._stream.graph, *row.atoms[0])
        return self._formulas.written(dict(row.terms), row.bias)

    def _explained(self, text: str, *rows: AtomRow) -> str:
        """With the formulas of signals that only have a number, as passes make them."""
        graph = self._stream.graph
        atoms = dict.fromkeys(atom for row in rows for atom in row.atoms)
        numbered = [(n, c) for n, c in atoms if graph.called[n].text != graph.called[n].after]
        parts = [
            f"{channel_label(graph, *atom)} = {self._formulas.element(*atom)}"
            for atom in numbered[:MOST_TOLD]
        ]
        return "; ".join([text, *parts])

    def _branch(self, kind: SiteKind, channel: Channel) -> str:
        text, parts = self._row(channel.row), []
        for lag, tap in enumerate(channel.taps):
            if tap:
                factor = "" if tap == 1 else f"{tap:g}·"
                ago = f" {lag} token{'s' * (lag > 1)} ago" if lag else ""
                parts.append(f"{factor}{bracketed(text)}{ago}")
        if channel.offset:
            parts.append(f"{channel.offset:g}")
        if channel.taps[0] != 1 or len(parts) > 1:
            text = " + ".join(parts)
        rectified = kind.relu_branch and self._stream.hull(channel.row).low < 0
        return f"relu({text})" if rectified else text


def golden_state(
    cells: Iterable[Cell],
    arrays: Mapping[str, Array],
    stream: Stream,
    request: ExportRequest,
    inputs: Sequence[Array],
    token: int,
) -> GoldenState:
    """Work out what cells hold, beside the arrays of the network.

    Args:
      cells: those of all layers; every other entry is 0.
      arrays: what the network holds after `token` tokens.
      stream: its layout.
      request: of which model.
      inputs: as checked, (batch, time, ...).
      token: how many of the tokens are read.
    """
    known = tuple(cells)
    expected = {name: np.zeros(array.shape, array.dtype) for name, array in arrays.items()}
    if token:
        played = Played(stream, [array[:, :token] for array in inputs])
        for label, value in known:
            place: tuple[slice | int, ...] = (slice(None), *label.entry)
            expected[label.array][place] = _scaled(value(played), label.scale)
    (outputs,) = evaluate(request.program.graph, inputs).values()
    return GoldenState(
        request.program.name,
        request.target,
        request.exact,
        token,
        tuple(inputs),
        outputs.astype(np.float32),
        arrays,
        expected,
        tuple(label for label, _ in known),
    )


def _scaled(values: Array, scale: float) -> Array:
    factor = rational(scale) if values.dtype == object else scale
    return (values * factor).astype(np.float32)
