"""What the residual targets share: refusals, layout, certificate, embedding and head."""

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar, NamedTuple, Self

import numpy as np

from lsrl.backends.base import Backend, ExportRequest, Least
from lsrl.backends.input_map import feature_map, rows_of, source_of
from lsrl.backends.residual.anatomy import StreamCircuit
from lsrl.backends.residual.certificate import SHARP, SIZE, ResidualAnalysis
from lsrl.backends.residual.golden import Cell, Cells, golden_state
from lsrl.backends.residual.least import least_blocks
from lsrl.backends.residual.mixed import Mixed
from lsrl.backends.residual.network import ResidualNetwork, ResidualWeights
from lsrl.backends.residual.packer import Channel, Packer
from lsrl.backends.residual.rows import AtomRow
from lsrl.backends.residual.stream import Site, Stream, lay_out
from lsrl.backends.residual.tables import InnerNorm, Scales, StreamTables, tables
from lsrl.certificate import Analyse, check_range, out_of_range, place_of
from lsrl.circuit import Circuit
from lsrl.golden import GoldenState
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Input, LinearState, Lookup, Op, SelectiveState, is_token
from lsrl.ir.structure import components, is_ring
from lsrl.levels import Levels
from lsrl.numerics import Numerics
from lsrl.options import DEFAULT, Options
from lsrl.parameters import Size

EPS = 1e-5
# A ring of n channels takes n phases and n^2 gates.
MAX_RING = 64


class Drives(NamedTuple):
    """How far from 0 the pre-activations of what is saturated are, at least.

    Attributes:
      rectified: of a SiLU or GeLU that stands for a ReLU, one grid step away from 0.
      opened: of what is open at every token.
      switched: of what a flag opens and shuts.
    """

    rectified: float
    opened: float
    switched: float


class Spectrum(NamedTuple):
    """Which linear states have a form without coupling; see `lsrl.passes.diagonal`.

    Attributes:
      least: factor of a channel.
      greatest: factor of a channel.
      only: why there are no others, and what to write instead.
      apart: why channels are not coupled.
    """

    least: float
    greatest: float
    only: str
    apart: str

    def obstacle(self, op: LinearState) -> str | None:
        """Why a state has none, or None if it has."""
        transition = op.transition.csr
        factors = transition.diagonal()
        for channels in components(op.transition):
            if len(channels) == 1:
                factor = float(factors[channels[0]])
                if not self.least <= factor <= self.greatest:
                    side = f"greater than {self.greatest:g}"
                    if factor < self.least:
                        side = f"less than {self.least:g}" if self.least else "negative"
                    return f"its factor {factor:g} is {side}, and {self.only}; {ANY}"
            elif not is_ring(transition[channels][:, channels]):
                return (
                    "its channels are coupled in both directions, as in a rotation, and "
                    f"{self.apart}; {ANY}"
                )
            elif len(channels) > MAX_RING:
                return f"its ring of {len(channels)} channels is longer than {MAX_RING}"
        return None


ANY = "choose a target with any A, such as linear_rnn or lstm"
SELECTIVE = Spectrum(
    0.0,
    1.0,
    "a selective scan has eigenvalues from 0 to 1 only (Gu and Dao 2023; Grazzi et al. 2025): "
    "write x mod 2 by lsrl.mod of a running sum",
    "a selective scan has no coupling and no complex eigenvalues (Sarrof et al. 2024)",
)


class ResidualBackend(Backend[Stream]):
    """A target whose blocks read and write a residual stream.

    Attributes:
      packer: which inner channels make which values.
      network: the flax module of these blocks.
      spectrum: which linear states they hold.
      drives: pre-activations at which activations are exact.
      scales_embedding: whether the reference multiplies embeddings by sqrt(d).
      stored_gain: what the reference adds to a norm's stored gain.
    """

    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    dtype_reason: ClassVar[str] = (
        "the reference classes compute norms in float32, so float64 gains nothing; bfloat16 breaks "
        "running sums and float16 overflows in the norm; write dtype='float32', or choose "
        "linear_rnn or lstm for other dtypes"
    )
    has_stream: ClassVar[bool] = True
    packer: ClassVar[type[Packer]]
    network: ClassVar[type[ResidualNetwork]]
    spectrum: ClassVar[Spectrum] = SELECTIVE
    drives: Drives
    scales_embedding: ClassVar[bool] = False
    stored_gain: ClassVar[float] = 0.0

    def refusal(self, op: Op, operands: list[Facts]) -> str | None:
        """What a selective scan can't hold."""
        if isinstance(op, LinearState):
            return self.spectrum.obstacle(op)
        return None if isinstance(op, SelectiveState) else super().refusal(op, operands)

    def schedule(self, graph: Graph, levels: Levels | None, options: Options = DEFAULT) -> Stream:
        """The layout; it follows from the graph, so there are no levels to keep."""
        return lay_out(self.packer(graph, chains=not options.inspectable))

    def analysis(self, schedule: Stream, numerics: Numerics) -> Analyse[ResidualAnalysis]:
        """The certificate's conditions, over the channels of the blocks."""
        lowered = self.lowered(schedule)
        found = tables(schedule, partial(self.scales, lowered), partial(self.inner_norms, lowered))
        _check_channels(schedule, numerics, found)
        return partial(ResidualAnalysis, schedule, numerics, found)

    def lower(self, schedule: Stream, numerics: Numerics) -> ResidualNetwork:
        """The network with the layout's weights."""
        lowered = self.lowered(schedule)
        scale = lowered.root if self.scales_embedding else 1.0
        tables, kernels, bias = _embedding(lowered, scale)
        output = np.stack([lowered.reading(row) for row in schedule.output], axis=1)
        weights = ResidualWeights(
            tables=tables,
            kernels=kernels,
            input_bias=bias,
            blocks=self.blocks(lowered),
            final_norm=lowered.norm() - self.stored_gain,
            output_kernel=output,
            embedding_scale=scale,
            eps=EPS,
        )
        for number, block in enumerate(weights.blocks, start=1):
            for name, values in block.items():
                check_range(numerics, f"{self.name}, block {number}, {name}", values)
        return self.network(weights)

    def least(self, graph: Graph) -> Least:
        """What long delays take: a block for every three tokens, and in each of them a channel."""
        blocks, node = least_blocks(graph)
        width = stream_width(blocks + 1)
        numbers = blocks * sum(map(math.prod, self.least_block(width).values()))
        return Least(numbers, node, f"{blocks:,} blocks on a stream of {width:,} channels")

    def sizes(self, schedule: Stream, numerics: Numerics) -> dict[str, Size]:
        """All blocks are of one shape."""
        lowered, network = self.lowered(schedule), self.network
        sources = embedded(schedule)
        kinds = [""] * len(schedule.graph.inputs)
        for source in sources:
            kinds[source.index] = "tables" if is_token(source) else "kernels"
        rows = {source.index: rows_of(source) for source in sources}
        found = {
            name: Size((rows[number], lowered.width))
            for name, number in network.map_names(kinds).items()
        }
        found["input_bias"] = Size((lowered.width,))
        block = {name: Size(shape) for name, shape in self.block_shapes(lowered).items()}
        for layer in range(schedule.depth):
            found |= {f"{network.layers_name}.{layer}.{name}": one for name, one in block.items()}
        found[network.final_norm_name] = Size((lowered.width,))
        found["output_kernel"] = Size((lowered.width, len(schedule.output)))
        return found

    def anatomy(
        self, schedule: Stream, numerics: Numerics, program: str, options: Options = DEFAULT
    ) -> Circuit:
        """Which signal each channel of the stream holds behind each site."""
        lowered = self.lowered(schedule)
        names = program, self.name, numerics.dtype
        builder = StreamCircuit(names, schedule, options.inspectable)
        return builder.circuit(lowered.width, lowered.constant(), partial(self.entry, lowered))

    def lowered(self, stream: Stream) -> "Lowered":
        """A layout with its width and scales."""
        width = stream_width(max(stream.width, self.inner_width(stream)))
        return Lowered(stream, width, self)

    def softened(self, size: float) -> Self | None:
        """With softer drives."""
        found = copy.copy(self)
        found.drives = Drives(size, size, size)
        return found

    def at_once(self, schedule: Stream, tokens: int | None) -> int | None:
        """Up to how many tokens the reference class reads exactly at once; None for all of them.

        Args:
          schedule: of an exact network.
          tokens: up to how many it is exact token by token; None for any number.
        """
        return None

    def mixes_exactly(self, schedule: Stream, numerics: Numerics, matrix: Array) -> bool:
        """Whether sums keep every bit in a stream whose channels a matrix (d, d) mixes."""
        analysis = self.analysis(schedule, numerics)(schedule.graph.tokens)
        reading = self.lowered(schedule).reading
        return Mixed(schedule, numerics, reading, analysis, matrix).exact()

    @staticmethod
    @abstractmethod
    def activation(value: float) -> float:
        """SiLU or GeLU, in float64."""

    @abstractmethod
    def inner_scale(self, lowered: "Lowered", channel: Channel) -> float:
        """By what a channel's value is multiplied behind its scan, ahead of its gate."""

    def entry(self, lowered: "Lowered", site: Site, index: int) -> tuple[int, float] | None:
        """The entry of the memory that a channel scans, and what its value is of that.

        None where the value is no entry of its own.
        """
        return index, 1 / self.inner_scale(lowered, site.channels[index])

    def scales(self, lowered: "Lowered", site: Site, channel: Channel) -> Scales:
        """By what the network multiplies what is in a channel of a site."""
        gate = channel.gate
        return Scales(
            lowered.scale(channel.row),
            self.inner_scale(lowered, channel),
            lowered.opened() if gate is None else lowered.scale(gate),
            2 * self.drives.switched,
        )

    def inner_norms(self, lowered: "Lowered", site: Site) -> tuple[InnerNorm, ...]:
        """The norms that what is in a site's channels goes through: none, but for the stream's."""
        return ()

    def golden(
        self,
        network: ResidualNetwork,
        stream: Stream,
        request: ExportRequest,
        inputs: Sequence[Array],
        token: int,
    ) -> GoldenState:
        """What the caches of a layout's network hold after `token` tokens of inputs."""
        lowered, cells = self.lowered(stream), Cells(stream)
        known = itertools.chain.from_iterable(
            self.cells(lowered, cells, layer) for layer in range(stream.depth)
        )
        arrays = network.cache_arrays(tuple(inputs), token)
        return golden_state(known, arrays, stream, request, inputs, token)

    @abstractmethod
    def cells(self, lowered: "Lowered", cells: Cells, layer: int) -> Iterator[Cell]:
        """What a layer's cache holds; what it doesn't tell is 0."""

    @abstractmethod
    def least_block(self, width: int) -> dict[str, tuple[int, ...]]:
        """The shapes of a block's parameters on a stream, however little it does."""

    @abstractmethod
    def block_shapes(self, lowered: "Lowered") -> dict[str, tuple[int, ...]]:
        """The shapes of a block's parameters, as wide as the widest block needs."""

    @abstractmethod
    def blocks(self, lowered: "Lowered") -> tuple[dict[str, Array], ...]:
        """The parameters of every block."""

    @abstractmethod
    def inner_width(self, stream: Stream) -> int:
        """Channels of the stream that the blocks themselves ask for."""


class Lowered:
    """A stream with numbers: its width, and rows as weights on the normed stream.

    Attributes:
      stream: the layout.
      width: d = 4^k, so that sqrt(d) is a power of two.
      drives: of what is saturated.
    """

    def __init__(self, stream: Stream, width: int, backend: ResidualBackend) -> None:
        """Take a layout, and the target, which says what stands for its ReLUs and gates."""
        self.stream = stream
        self.width = width
        self.root = float(np.sqrt(width))
        self.drives = backend.drives
        self._backend = backend

    def reading(self, row: AtomRow) -> Array:
        """(width,) weights of a row; the constant channel carries its bias."""
        found = np.zeros(self.width)
        for place, weight in self.stream.read(row).items():
            found[place] = weight
        return found

    def scale(self, row: AtomRow) -> float:
        """What to multiply a row by, so that the activation of it is a ReLU."""
        step = self.stream.hull(row).step
        if step == 0:
            return SHARP
        return self.drives.rectified / (1.0 if np.isinf(step) else step)

    def rectified(self, row: AtomRow) -> float:
        """What the activation of a scaled row is divided by to give relu(row).

        Where the row has one positive value, whatever the activation makes of that.
        """
        scale, hull = self.scale(row), self.stream.hull(row)
        if 0 < hull.step == hull.high:
            return in_float32(self._backend.activation(scale * hull.high) / hull.high)
        return scale

    def opened(self) -> float:
        """What an open gate multiplies by."""
        return in_float32(self._backend.activation(self.drives.opened))

    def constant(self) -> float:
        """What channel 0 of the stream holds."""
        return SIZE * self.root

    def norm(self) -> Array:
        """(width,) gains that make a norm divide by nothing but what they multiply by."""
        gains = np.full(self.width, SIZE)
        gains[0] = 1 / self.root
        return gains


def in_float32(value: float) -> float:
    """As networks compute it: softplus(32) is 32."""
    return float(np.float32(value))


def sigmoid(value: float) -> float:
    """Of a number of any size, as float32 has it."""
    return in_float32(np.exp(-np.logaddexp(0.0, -value)))


def stream_width(least: int) -> int:
    """The smallest 4^k, k >= 1, from `least` on."""
    width = 4
    while width < least:
        width *= 4
    return width


def _check_channels(stream: Stream, numerics: Numerics, found: StreamTables) -> None:
    """Refuse weights for which the dtype has no finite, normal number, and name their signals."""
    graph = stream.graph
    for number, table in enumerate(found.sites):
        if all(not len(out_of_range(numerics, weights)) for weights in table.weights()):
            continue
        layer = number * stream.depth // len(stream.sites) + 1
        scaled = np.stack(table.scales, axis=1).tolist()
        for place, terms in table.site.writes.items():
            where = place_of(graph, stream.signals[place - 1].node, layer)
            for index, weight in terms:
                channel = table.site.channels[index]
                branch, scanned, gate, switch = scaled[index]
                check_range(numerics, where, np.array([weight]) / scanned / gate)
                rows = (channel.row, branch), (channel.gate, gate), (channel.switch, switch)
                read = [
                    by * weight
                    for row, by in rows
                    if row is not None
                    for weight in stream.read(row).values()
                ]
                check_range(numerics, where, np.array(read))
    for row in stream.output:
        weights = np.array([*stream.read(row).values()])
        check_range(numerics, place_of(graph, graph.output, stream.depth + 1), weights)
    for signal in stream.signals:
        for (node, _), weight in signal.terms if signal.site < 0 else ():
            op = graph.nodes[node].op
            entries = op.table.csr.data if isinstance(op, Lookup) else np.ones(1)
            check_range(numerics, place_of(graph, node, 0), weight * entries)


def _embedding(
    lowered: Lowered, scale: float
) -> tuple[tuple[Array | None, ...], tuple[Array | None, ...], Array]:
    """Tables, kernels and bias that put the input's signals and the constant into the stream."""
    stream, graph = lowered.stream, lowered.stream.graph
    tables: list[Array | None] = [None] * len(graph.inputs)
    kernels: list[Array | None] = [None] * len(graph.inputs)
    bias = np.zeros(lowered.width)
    held: dict[int, Array] = {}
    made: dict[int, Array] = {}
    for source in embedded(stream):
        held[source.index] = np.zeros((rows_of(source), lowered.width))
        (tables if is_token(source) else kernels)[source.index] = held[source.index]
    for place, signal in enumerate(stream.signals, start=1):
        if signal.site >= 0:
            continue
        for (node, channel), weight in signal.terms:
            source = source_of(graph, node)
            if node not in made:
                made[node] = feature_map(graph.nodes[node].op, source).toarray()
            held[source.index][:, place] += weight * made[node][:, channel] / scale
    token = _first_token(graph)
    if token is None:
        bias[0] = lowered.constant() / scale
    else:
        held[token.index][:, 0] = lowered.constant() / scale
    return tuple(tables), tuple(kernels), bias


def embedded(stream: Stream) -> list[Input]:
    """The inputs that the embedding reads, in order."""
    token = _first_token(stream.graph)
    found = set() if token is None else {token}
    for signal in stream.signals:
        if signal.site < 0:
            found |= {source_of(stream.graph, node) for (node, _), _ in signal.terms}
    return sorted(found, key=lambda source: source.index)


def _first_token(graph: Graph) -> Input | None:
    """The constant comes with it, so that an embedding is all that a checkpoint needs."""
    return next((op for op in graph.inputs.values() if is_token(op)), None)
