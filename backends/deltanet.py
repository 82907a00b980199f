"""Target `deltanet`: the gated DeltaNet layers of OLMo Hybrid, with eigenvalues from -1 to 1.

As transformers' `OlmoHybridForCausalLM` has them (Yang et al. 2024; Grazzi et al. 2025):

    q, k, v = SiLU(conv(projections of norm(stream))),  q and k of length 1
    α = exp(-softplus(a)),  β = 2 sigmoid(b),  S = α (I - β k kᵀ) S + β k vᵀ
    stream += o_proj(norm(Sᵀ q) SiLU(g))
    stream += down_proj(SiLU(gate_proj(norm(stream))) up_proj(norm(stream)))

SiLU(K u) / K is relu(u) for |K u| >= 128, as gates, keys and queries have it; and u / 2 where |K u|
is at most 2^-28, so values keep their signs, and all their bits. A key of
1024 in one coordinate has the length 1 exactly. Where a column of S passes, k = q = e0, α = 0 and
β = 1, so that it is v; a hold has that where its flag is 1, and else α = 1 and β = 0. With α = 1,
β = 1 - a makes it a sum of factor a, which turns its sign at every token at β = 2, and a one-hot k
writes a cell, which a one-hot q recalls: that adds a difference to it, so of real numbers it would
round, and those are held. A swap has k = (f_i + f_j) / 2 with f_i = e_2i + e_2i+1, and
β = 2, which maps f_i to -f_j and f_j to -f_i. Its keys come a token late, so the state is read
ahead of the swap; and since S is 0 at first, it is the difference to where the items began.

The last column of each head is a constant, by which its norm divides whatever else is in it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import ClassVar, NamedTuple

import numpy as np

from lsrl.backends.base import Exporter, Recorder
from lsrl.backends.residual import checkpoint, deltanet_classes
from lsrl.backends.residual.deltanet_network import INNER, DeltaNetNetwork
from lsrl.backends.residual.deltanet_packer import DELTA, NOW, DeltaNetPacker
from lsrl.backends.residual.golden import Cell, Cells
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.packer import TAPS, Channel, Head, Mode, Packer
from lsrl.backends.residual.rows import ONE, AtomRow
from lsrl.backends.residual.stream import Site, Stream
from lsrl.backends.residual.tables import InnerNorm, Scales
from lsrl.backends.residual.target import (
    Drives,
    Lowered,
    ResidualBackend,
    Spectrum,
    in_float32,
    sigmoid,
)
from lsrl.errors import LsrlError
from lsrl.ir.bounds import Facts
from lsrl.ir.numbers import Array, power_of_two_above
from lsrl.ir.ops import Op, SwapState
from lsrl.numerics import numerics_of
from lsrl.target import Capabilities

# What values are at most as they enter a head, and what is added up over time: SiLU halves them.
SMALL, SUMMED = 2.0**-28, 2.0**-40
# The greatest entry of a key, so that the 1e-6 in its norm is nothing beside its square.
KEY = 1024.0
# Tokens that the reference class reads at once.
PART = 64
# The sum of the squares of 1 to n, in float32: n^3 / 3 < 2^24.
MOST_POINTS = 256
# Of the constant channel: something at the first token alone.
PULSE = (1.0, -1.0, 0.0, 0.0)
# What goes into α: of a state that forgets nothing but by its keys, and of one that forgets all.
LASTING, FORGETTING = -2048.0, 256.0


class Points(NamedTuple):
    """How a head of n points reads 1 to n off them, by a query of length 1.

    Attributes:
      constant: in the coordinate of the norm's constant; a power of two.
      fills: in further coordinates, so that the squares add up to a power of four.
      length: of the query before it is divided by it; a power of two.
    """

    constant: float
    fills: tuple[float, ...]
    length: float

    @staticmethod
    @lru_cache
    def of(points: int) -> "Points":
        """With as few fills as can be."""
        squares = points * (points + 1) * (2 * points + 1) // 6
        length = 1
        while length * length <= squares:
            length *= 2
        # Four squares are enough for what any constant leaves (Lagrange).
        found = (_filled(length, squares, count) for count in range(5))
        return next(each for each in found if each is not None)

    @property
    def coordinates(self) -> int:
        """Of the key, beside those of the points."""
        return 1 + len(self.fills)


def _filled(length: int, squares: int, count: int) -> Points | None:
    for constant in (2**power for power in range(length.bit_length())):
        rest = length * length - squares - constant * constant
        if rest < 0:
            return None
        fills = _squares(rest, count)
        if fills is not None:
            return Points(float(constant), tuple(map(float, fills)), float(length))
    return None


def _squares(total: int, count: int) -> tuple[int, ...] | None:
    """A number as so many squares of numbers above 0."""
    if not count:
        return None if total else ()
    for largest in range(int(total**0.5) + 1, 0, -1):
        if largest * largest * count < total:
            return None
        if largest * largest <= total:
            rest = _squares(total - largest * largest, count - 1)
            if rest is not None:
                return (largest, *rest)
    return None


class HeadKey(NamedTuple):
    """What columns of one head share.

    Attributes:
      mode: of their channels.
      factor: of sums.
      switch: of holds.
      head: keys and queries where rows write them.
    """

    mode: Mode
    factor: float
    switch: AtomRow | None
    head: Head | None

    @staticmethod
    def of(channel: Channel) -> "HeadKey":
        """The head that a channel needs."""
        factor = channel.factor if channel.mode == "sum" else 1.0
        return HeadKey(channel.mode, factor, channel.switch, channel.head)

    @property
    def coordinates(self) -> int:
        """How many its keys have."""
        if self.head is None:
            return 1
        if self.mode == "swap":
            points = len(self.head.keys)
            return 2 * points + Points.of(points).coordinates
        return len(self.head.keys)

    @property
    def rate(self) -> float:
        """β, where something is written."""
        if self.mode == "sum":
            return 1.0 - self.factor
        return 2.0 if self.mode == "swap" else 1.0

    @property
    def written(self) -> float:
        """By what a state multiplies what its column says, ahead of the query."""
        return self.rate if self.mode == "sum" else 1.0

    @property
    def reading(self) -> float:
        """By what a query multiplies what its column says."""
        if self.mode == "swap" and self.head is not None:
            return 1 / Points.of(len(self.head.keys)).length
        return self.rate


class Shape(NamedTuple):
    """What all layers have, so that the widest fits.

    Attributes:
      heads: in a layer.
      keys: coordinates of a key, a power of 4.
      values: columns of a head, a power of 4.
      units: of the MLP.
    """

    heads: int
    keys: int
    values: int
    units: int


class Place(NamedTuple):
    """A head of a site: what its columns share, and the channels in its columns, in order."""

    key: HeadKey
    channels: tuple[int, ...]


class DeltaNet(ResidualBackend):
    """Gated DeltaNet layers whose states forget by their keys alone."""

    name: ClassVar[str] = "deltanet"
    cell: ClassVar[str] = (
        "the Gated DeltaNet layers of OLMo Hybrid: norm, conv(4), delta rule with eigenvalues in "
        "[-1, 1], gated norm; norm, gated MLP; residuals"
    )
    remarks: ClassVar[dict[str, str]] = {"threshold": "finite automata, by swaps"}
    packer: ClassVar[type[Packer]] = DeltaNetPacker
    network: ClassVar[type[ResidualNetwork]] = DeltaNetNetwork
    capabilities: ClassVar[Capabilities] = replace(DeltaNetPacker.capabilities(), alternating=True)
    spectrum: ClassVar[Spectrum] = Spectrum(
        -1.0,
        1.0,
        "a delta rule has the eigenvalues 1 and 1 - β, from -1 to 1 (Grazzi et al. 2025)",
        "a token's transition I - β k kᵀ is symmetric, so it has no complex eigenvalues: rotations "
        "take two reflections a token (Grazzi et al. 2025; Siems et al. 2025)",
    )
    # SiLU(u) = u from 128 on, and 0 below -128; it is open, SiLU(u) = u, from 32 on. Sigmoids are 1
    # from 128 on, and 0 below -2048.
    drives = Drives(rectified=128.0, opened=32.0, switched=2048.0)

    def refusal(self, op: Op, operands: list[Facts]) -> str | None:
        """What a head has no keys for, and what a residual target can't hold."""
        if isinstance(op, SwapState) and op.points > MOST_POINTS:
            return (
                f"its {op.points} points are more than {MOST_POINTS}: float32 holds the sum of the "
                "squares of what a query reads exactly for so many only; write the permutation "
                "as one of fewer points"
            )
        return super().refusal(op, operands)

    def softened(self, size: float) -> None:
        """Not so: what a head forgets, and what it writes, would no longer fit together."""
        return None

    def exporters(self) -> Mapping[str, Exporter]:
        """A checkpoint of transformers."""
        return {"huggingface": partial(checkpoint.write, deltanet_classes.CLASSES, self)}

    def recorder(self) -> Recorder:
        """Of a checkpoint's cache."""
        return partial(checkpoint.record, self)

    @staticmethod
    def activation(value: float) -> float:
        """SiLU."""
        return value * sigmoid(value)

    def at_once(self, schedule: Stream, tokens: int | None) -> int | None:
        """As long as 64 changes of a state, which it adds up in some order, keep every bit."""
        analyse = self.analysis(schedule, numerics_of("float32"))
        least, most = 0, schedule.graph.tokens if tokens is None else tokens
        if analyse(most).in_parts(PART):
            return None
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if analyse(middle).in_parts(PART) else (least, middle)
        return least

    def inner_width(self, stream: Stream) -> int:
        """Heads and units are counted apart."""
        return 0

    def inner_scale(self, lowered: Lowered, channel: Channel) -> float:
        """Half of what goes into the SiLU, and what a query makes of it."""
        read = in_float32(HeadKey.of(channel).reading) / np.sqrt(shape_of(lowered.stream).keys)
        return _entering(lowered, channel) / 2 * read

    def scales(self, lowered: Lowered, site: Site, channel: Channel) -> Scales:
        """The MLP scales no gate; and a flag opens a head from shut to half, where β = 1."""
        found = super().scales(lowered, site, channel)._replace(switch=self.drives.switched)
        if site.kind is DELTA:
            return found._replace(branch=_entering(lowered, channel))
        return found._replace(scanned=lowered.rectified(channel.row), gate=1.0)

    def inner_norms(self, lowered: Lowered, site: Site) -> tuple[InnerNorm, ...]:
        """One a head, ahead of the gates."""
        if site.kind is not DELTA:
            return ()
        width = shape_of(lowered.stream).values
        return tuple(
            InnerNorm(
                f"the norm of head {number}",
                place.channels,
                tuple(self.inner_scale(lowered, site.channels[i]) for i in place.channels),
                width,
                INNER,
                gated=False,
            )
            for number, place in enumerate(places_of(site, width))
        )

    def block_shapes(self, lowered: Lowered) -> dict[str, tuple[int, ...]]:
        """All layers have as many heads and units as the widest needs."""
        return _shapes(lowered.width, shape_of(lowered.stream))

    def least_block(self, width: int) -> dict[str, tuple[int, ...]]:
        """A head of a column beside its constant, and a unit."""
        return _shapes(width, Shape(1, 1, 4, 1))

    def entry(self, lowered: Lowered, site: Site, index: int) -> tuple[int, float] | None:
        """The first coordinate of a column, where rows write no others."""
        shape = shape_of(lowered.stream)
        for number, place in enumerate(places_of(site, shape.values)):
            if index in place.channels and place.key.head is None:
                read = self.inner_scale(lowered, site.channels[index]) * np.sqrt(shape.keys)
                start = number * shape.keys * shape.values
                return start + place.channels.index(index), 1 / read
        return None

    def cells(self, lowered: Lowered, cells: Cells, layer: int) -> Iterator[Cell]:
        """All that the convolution takes in; and columns of heads, by coordinates."""
        site, shape = lowered.stream.sites[2 * layer], shape_of(lowered.stream)
        conv, scan = (f"layers.{layer}.{name}" for name in self.network.cached)
        heads = _Heads(lowered, shape, _zeros(lowered))
        for number, place in enumerate(places_of(site, shape.values)):
            heads.keys(number, place.key)
            for column, index in enumerate(place.channels):
                channel = site.channels[index]
                heads.column(number, column, channel)
                scale = _entering(lowered, channel) / 2 * place.key.written
                yield from cells.delta(scan, (number, column), site, channel, scale)
            yield from heads.constant(cells, scan, number, site, place.key)
        for index, row, scale in heads.convolved:
            yield cells.row(conv, index, row, scale, TAPS)

    def blocks(self, lowered: Lowered) -> tuple[dict[str, Array], ...]:
        """Every layer's heads and MLP."""
        sites = lowered.stream.sites
        return tuple(
            self._layer(lowered, delta, mlp)
            for delta, mlp in zip(sites[::2], sites[1::2], strict=True)
        )

    def _layer(self, lowered: Lowered, delta: Site, mlp: Site) -> dict[str, Array]:
        shape = shape_of(lowered.stream)
        found = _zeros(lowered)
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            found[name][:] = lowered.norm()
        own = "linear_attn."
        found[f"{own}dt_bias"][:] = LASTING
        found[f"{own}o_norm.weight"][:-1] = INNER
        writer = _Heads(lowered, shape, found)
        for number, place in enumerate(places_of(delta, shape.values)):
            writer.keys(number, place.key)
            for column, index in enumerate(place.channels):
                writer.column(number, column, delta.channels[index])
                decode = 1 / self.inner_scale(lowered, delta.channels[index])
                gate = delta.channels[index].gate
                decode /= lowered.opened() if gate is None else lowered.rectified(gate)
                writer.written(number, column, decode, _read_from(delta, index))
        _mlp(lowered, mlp, found)
        return found


def places_of(site: Site, width: int) -> list[Place]:
    """The heads of a site, of that many columns each; the last column is the norm's constant."""
    together: dict[HeadKey, list[int]] = defaultdict(list)
    for index, channel in enumerate(site.channels):
        together[HeadKey.of(channel)].append(index)
    return [
        Place(key, tuple(channels[start : start + width - 1]))
        for key, channels in together.items()
        for start in range(0, len(channels), width - 1)
    ]


@lru_cache(maxsize=64)
def shape_of(stream: Stream) -> Shape:
    """The shape of the fewest parameters."""
    deltas, mlps = stream.sites[::2], stream.sites[1::2]
    keys = max((HeadKey.of(c).coordinates for site in deltas for c in site.channels), default=1)
    wide = 1
    while wide < keys:
        wide *= 4
    units = max(1, *(site.width for site in mlps))

    def of(values: int) -> Shape:
        heads = max(1, *(len(places_of(site, values)) for site in deltas))
        return Shape(heads, wide, values, units)

    return min(map(of, (4, 16, 64, 256, 1024)), key=_entries)


def _entries(shape: Shape) -> int:
    """The parameters of a layer's heads, by a channel of the stream."""
    return shape.heads * (2 * shape.keys + 3 * shape.values + 2)


def _read_from(site: Site, index: int) -> list[tuple[int, float]]:
    """Where on the stream a channel is added, with weights."""
    return [
        (place, weight)
        for place, terms in site.writes.items()
        for number, weight in terms
        if number == index
    ]


class _Heads:
    """Writes the heads of a layer."""

    def __init__(self, lowered: Lowered, shape: Shape, arrays: dict[str, Array]) -> None:
        """Arrays by their names in the layer, all zeros but for what heads share."""
        self.lowered = lowered
        self.shape = shape
        own = "linear_attn."
        self.arrays = {n.removeprefix(own): a for n, a in arrays.items() if n.startswith(own)}
        # What goes into the convolution: its channel, the row, and by what that is multiplied.
        self.convolved: list[tuple[int, AtomRow, float]] = []

    def keys(self, head: int, key: HeadKey) -> None:
        """Keys, queries, rates and the column of the norm's constant."""
        drives, constant = self.lowered.drives, self._constant(key)
        rate = self.arrays["b_proj.weight"][head]
        if key.mode == "swap" and key.head is not None:
            self._swaps(head, key.head)
            rate[0], taps = drives.rectified, PULSE
        else:
            if key.head is None:
                self._coordinate("q", head, 0, ONE, 1.0, NOW)
                self._coordinate("k", head, 0, ONE, 1.0, NOW)
            else:
                for place, row in enumerate(key.head.keys):
                    self._coordinate("k", head, place, row, 1.0, key.head.taps)
                for place, row in enumerate(key.head.queries):
                    self._coordinate("q", head, place, row, 1.0, NOW)
            taps = NOW
            if key.mode == "sum":
                # β = 1 - a, and the constant stands from the first token on.
                odds = (1 - key.factor) / (1 + key.factor) if key.factor > -1 else np.inf
                rate[0] = min(float(np.log(odds)), drives.rectified)
                first = 1 / key.rate
                taps = (first, 1 - first, 0.0, 0.0)
        if key.mode in ("pass", "hold"):
            flag = self.lowered.reading(ONE if key.switch is None else key.switch)
            self.arrays["a_proj.weight"][head] = (FORGETTING - LASTING) * flag
            rate += drives.switched * flag
            rate[0] -= drives.switched
        self._value(head, self.shape.values - 1, ONE, constant, taps)

    def _constant(self, key: HeadKey) -> float:
        """What the last column takes in, so that the norm reads INNER * sqrt(values) there."""
        found = INNER * np.sqrt(self.shape.values * self.shape.keys)
        if key.mode == "swap" and key.head is not None:
            points = Points.of(len(key.head.keys))
            found *= points.length / points.constant / key.rate
        return float(found)

    def _swaps(self, head: int, rows: Head) -> None:
        """Two coordinates a point, and one for the norm's constant, and what fills the length."""
        points = Points.of(len(rows.keys))
        for point, (swap, read) in enumerate(zip(rows.keys, rows.queries, strict=True)):
            self._coordinate("q", head, 2 * point, read, 1.0, NOW)
            for side in range(2):
                self._coordinate("k", head, 2 * point + side, swap, 1.0, rows.taps)
        rest = 2 * len(rows.keys)
        self._coordinate("k", head, rest, ONE, 1.0, PULSE)
        for place, value in enumerate((points.constant, *points.fills)):
            self._coordinate("q", head, rest + place, ONE, value, NOW)

    def column(self, head: int, column: int, channel: Channel) -> None:
        """What a channel's column takes in, and its gate."""
        lowered = self.lowered
        if channel.offset:
            raise LsrlError("a column of a head adds nothing of its own to its taps")
        self._value(head, column, channel.row, _entering(lowered, channel), channel.taps)
        gates = self.arrays["g_proj.weight"][head * self.shape.values + column]
        if channel.gate is None:
            gates[0] = lowered.drives.opened
        else:
            gates[:] = lowered.scale(channel.gate) * lowered.reading(channel.gate)

    def written(
        self, head: int, column: int, decode: float, writes: Sequence[tuple[int, float]]
    ) -> None:
        """What a column adds to the stream: by place, decode times a weight."""
        for place, weight in writes:
            out = self.arrays["o_proj.weight"]
            out[place, head * self.shape.values + column] = weight * decode

    def _coordinate(
        self, name: str, head: int, place: int, row: AtomRow, weight: float, taps: tuple[float, ...]
    ) -> None:
        start = {"q": 0, "k": self.shape.heads * self.shape.keys}[name]
        index = head * self.shape.keys + place
        self._put(f"{name}_proj.weight", index, start + index, row, KEY * weight, taps)

    def _value(
        self, head: int, column: int, row: AtomRow, scale: float, taps: tuple[float, ...]
    ) -> None:
        start = 2 * self.shape.heads * self.shape.keys
        index = head * self.shape.values + column
        self._put("v_proj.weight", index, start + index, row, scale, taps)

    def _put(
        self, name: str, index: int, conv: int, row: AtomRow, scale: float, taps: tuple[float, ...]
    ) -> None:
        self.arrays[name][index] = scale * self.lowered.reading(row)
        self.arrays["conv1d.weight"][conv, 0] = taps[::-1]
        self.convolved.append((conv, row, scale))

    def constant(
        self, cells: Cells, array: str, head: int, site: Site, key: HeadKey
    ) -> Iterator[Cell]:
        """What the column of the norm's constant holds."""
        column, size = self.shape.values - 1, self._constant(key)
        if key.mode == "swap" and key.head is not None:
            yield cells.constant(array, (head, 2 * len(key.head.keys), column), key.rate * size)
        elif key.mode == "sum":
            yield cells.constant(array, (head, 0, column), size)
        else:
            own = Channel(ONE, mode=key.mode, switch=key.switch, head=key.head)
            yield from cells.delta(array, (head, column), site, own, size)


def _entering(lowered: Lowered, channel: Channel) -> float:
    """What a column multiplies its row by, so that the SiLU halves it."""
    hull = lowered.stream.hull(channel.row)
    size = max(-hull.low, hull.high) * sum(map(abs, channel.taps))
    most = SUMMED if channel.mode == "sum" else SMALL
    return most / (power_of_two_above(size) if 0 < size < np.inf else 1.0)


def _mlp(lowered: Lowered, site: Site, found: dict[str, Array]) -> None:
    """Write a layer's MLP."""
    gate, up, down = (found[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    for index, channel in enumerate(site.channels):
        gate[index] = lowered.scale(channel.row) * lowered.reading(channel.row)
        up[index] = lowered.reading(channel.gate or ONE)
        for place, weight in _read_from(site, index):
            down[place, index] = weight / lowered.rectified(channel.row)


def _zeros(lowered: Lowered) -> dict[str, Array]:
    """The parameters of a layer that does nothing."""
    shapes = _shapes(lowered.width, shape_of(lowered.stream))
    return {name: np.zeros(size) for name, size in shapes.items()}


def _shapes(width: int, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Of a layer's parameters, by the names of the reference class."""
    heads, keys, values, units = shape
    return {
        "input_layernorm.weight": (width,),
        "linear_attn.q_proj.weight": (heads * keys, width),
        "linear_attn.k_proj.weight": (heads * keys, width),
        "linear_attn.v_proj.weight": (heads * values, width),
        "linear_attn.a_proj.weight": (heads, width),
        "linear_attn.b_proj.weight": (heads, width),
        "linear_attn.g_proj.weight": (heads * values, width),
        "linear_attn.o_proj.weight": (width, heads * values),
        "linear_attn.conv1d.weight": (heads * (2 * keys + values), 1, TAPS),
        "linear_attn.A_log": (heads,),
        "linear_attn.dt_bias": (heads,),
        "linear_attn.o_norm.weight": (values,),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (units, width),
        "mlp.up_proj.weight": (units, width),
        "mlp.down_proj.weight": (width, units),
    }


BACKEND = DeltaNet()
