"""Golden states of residual targets: what is in each entry of a cache, by the reference evaluator.

A target says what its cells hold as maps of the stream's rows (`ResidualBackend.cells`), and
`Played` works them out of the evaluator's values: no number here went through a network.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.packer import Channel, SiteKind
from lsrl.backends.residual.rows import Atom, AtomRow
from lsrl.backends.residual.stream import Site, Stream
from lsrl.golden import GoldenState, Label
from lsrl.ir.evaluate import evaluate
from lsrl.ir.formulas import Formulas
from lsrl.ir.numbers import Array, rational
from lsrl.schedule import channel_label


class Played:
    """The values of a stream's rows and inner channels over the tokens of some inputs."""

    def __init__(self, stream: Stream, inputs: Sequence[Array]) -> None:
        """Evaluate the graph on inputs (batch, time, ...) of at least one token."""
        graph = stream.graph
        nodes = {node for node, _ in stream.made}
        self.shape = inputs[0].shape[:2]
        self._values = evaluate(graph, inputs, wanted=sorted(nodes))
        self._rows: dict[AtomRow, Array] = {}

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

    def branch(self, kind: SiteKind, channel: Channel) -> Array:
        """(batch, time) of what comes to a channel's scan."""
        values = self.row(channel.row)
        time = self.shape[1]
        total = values * 0 + channel.offset
        for lag, tap in enumerate(channel.taps[:time]):
            if tap:
                moved = np.pad(values, ((0, 0), (lag, 0)))[:, :time]
                total = total + (rational(tap) if total.dtype == object else tap) * moved
        return np.maximum(total, 0) if kind.relu_branch else total

    def scanned(self, kind: SiteKind, channel: Channel) -> Array:
        """(batch,) of what a channel's scan holds behind the last token."""
        values = self.branch(kind, channel)
        if channel.mode == "pass":
            return values[:, -1]
        if channel.mode == "hold":
            if channel.switch is not None:
                return _held(values, self.row(channel.switch) == 1)
            flags = sum(factor * self.branch(kind, flag) for flag, factor in channel.flag)
            return _held(values, flags == 1)
        if channel.factor == 1:
            return values.sum(axis=1)
        factor = rational(channel.factor) if values.dtype == object else channel.factor
        total = values[:, 0]
        for token in range(1, values.shape[1]):
            total = factor * total + values[:, token]
        return total


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
        kind, text = ("conv", self._row(row)) if row.terms else ("constant", f"{row.bias:g}")
        label = Label(array, (entry,), kind, text, scale)
        return Cell(label, lambda played: played.last(row, count))

    def scan(
        self, array: str, entry: tuple[int, ...], site: Site, channel: Channel, scale: float
    ) -> Cell:
        """What a channel's scan holds."""
        branch = self._branch(site.kind, channel)
        if channel.mode == "pass":
            text = f"{branch}, at the last token"
        elif channel.mode == "sum":
            decay = "" if channel.factor == 1 else f", times {channel.factor:g} a token"
            text = f"sum of {branch}{decay}"
        else:
            flags = [
                f"{'' if weight == 1 else f'{float(weight):g}·'}{self._branch(site.kind, each)}"
                for each, weight in channel.flag
            ]
            flags += [] if channel.switch is None else [self._row(channel.switch)]
            text = f"{branch}, where last {' + '.join(flags)} was 1"
        made = self._made.get((self._stream.sites.index(site), channel))
        if made is not None and channel.mode != "pass":
            text += f"; of {channel_label(self._stream.graph, *made)}"
        label = Label(array, entry, "scan", text, scale)
        return Cell(label, lambda played: played.scanned(site.kind, channel))

    def _row(self, row: AtomRow) -> str:
        return self._formulas.written(dict(row.terms), row.bias)

    def _branch(self, kind: SiteKind, channel: Channel) -> str:
        text, parts = self._row(channel.row), []
        for lag, tap in enumerate(channel.taps):
            if tap:
                factor = "" if tap == 1 else f"{tap:g}·"
                parts.append(f"{factor}({text}){f' {lag} tokens ago' if lag else ''}")
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
            place = (slice(None), *label.entry)
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
