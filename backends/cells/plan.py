"""A schedule in the units of a stock cell: the parts of its encoder, put together as kernels.

Cells start at h = 0, where the value of a channel is its offset. A linear or selective state takes
its initial value for the offset, and then starts right. Where a channel that is read at t - 1
starts elsewhere, the layer gets a unit `one` that is 1 at every token: the rows that read the
channel get the difference as a bias, and take it back by their weight on one at t - 1, which is 0
at the start.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.backends.cells.encoding import Encoder, Part, UnitSite, constant
from lsrl.certificate import check_range, place_of
from lsrl.errors import LsrlError, PrecisionError
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import Lookup
from lsrl.numerics import DTYPES, Numerics
from lsrl.schedule import Layer, Rows, Schedule, Unit


class Placed(NamedTuple):
    """A part among the units of its layer."""

    unit: Unit | None  # None for `one`
    part: Part
    start: int

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.part.decode)

    @property
    def channels(self) -> Array:
        """Which of the unit's channels they are, by position."""
        return np.arange(self.width) if self.part.picked is None else self.part.picked


@dataclass(frozen=True, eq=False)
class Kernel:
    """What one gate of every unit of a layer reads.

    Attributes:
      recurrent: (units, units), over this layer at t - 1.
      inputs: (units, units of the layer before), at t.
      bias: (units,).
      exact: (units,) bool, whether float64 held the weights exactly while they were composed.
    """

    recurrent: sp.csr_array
    inputs: sp.csr_array
    bias: Array
    exact: Array


@dataclass(frozen=True, eq=False)
class CellLayer:
    """One layer of units of a stock cell.

    Attributes:
      layer: the schedule's layer.
      placed: its parts, in order.
      kernels: by gate.
      decode: (channels, units).
      offset: (channels,): channel values are decode @ units + offset.
    """

    layer: Layer
    placed: tuple[Placed, ...]
    kernels: dict[str, Kernel]
    decode: sp.csr_array
    offset: Array

    @property
    def width(self) -> int:
        """Number of units."""
        return int(self.decode.shape[1])


@dataclass(frozen=True, eq=False)
class CellPlan:
    """A schedule in the units of a stock cell.

    Attributes:
      schedule: the schedule.
      numerics: the dtype that the scales are chosen for.
      layers: first to last.
      output: the output rows, over the units of the last layer.
      clean_gates: whether what a shut gate adds to a row is exactly 0, term by term.
      native_relu: whether the cell's own nonlinearity is a ReLU.
    """

    schedule: Schedule
    numerics: Numerics
    layers: tuple[CellLayer, ...]
    output: Kernel
    clean_gates: bool
    native_relu: bool


# A compilation asks three times: for certificate, weights and circuit.
@lru_cache(maxsize=4)
def plan_cells(encoder: Encoder, schedule: Schedule, numerics: Numerics) -> CellPlan:
    """Write a schedule in the units of a cell.

    Raises:
      PrecisionError: the dtype has no room for some signal; names it, and the dtype that has.
    """
    try:
        return _plan(encoder, schedule, numerics)
    except PrecisionError as error:
        wider = DTYPES["float64"]
        if numerics.dtype == wider.dtype:
            raise
        try:
            _plan(encoder, schedule, wider)
        except PrecisionError:
            raise error from None
        raise PrecisionError(f"{error}; dtype 'float64' has room") from None


def _plan(encoder: Encoder, schedule: Schedule, numerics: Numerics) -> CellPlan:
    width = schedule.feature_width
    decode, offset = sp.eye_array(width, format="csr"), np.zeros(width)
    layers = []
    for layer in schedule.layers:
        layers.append(_Composer(encoder, schedule.graph, layer, numerics, decode, offset).compose())
        decode, offset = layers[-1].decode, layers[-1].offset
    rows = schedule.output
    inputs, bias, exact = _read(rows.inputs, decode, offset, rows.bias)
    output = Kernel(sp.csr_array((len(bias), 0)), inputs, bias, exact & rows.exact)
    plan = CellPlan(
        schedule, numerics, tuple(layers), output, encoder.clean_gates, encoder.native_relu
    )
    _check_weights(plan)
    return plan


def _read(
    weights: sp.csr_array, decode: sp.csr_array, offset: Array, bias: Array
) -> tuple[sp.csr_array, Array, Array]:
    """Weights @ (decode h + offset) + bias as rows over h; and which rows float64 held exactly."""
    shifts = sp.csr_array(weights * offset) if weights.nnz else sp.csr_array(weights.shape)
    size = np.abs(bias) + np.asarray(abs(shifts).sum(axis=1)).ravel()
    bits = lowest_bit(bias)
    filled = np.flatnonzero(np.diff(shifts.indptr))
    if len(filled):
        lowest = np.minimum.reduceat(lowest_bit(shifts.data), shifts.indptr[filled])
        bits[filled] = np.minimum(bits[filled], lowest)
    exact = (size == 0) | (size <= 2.0**53 * bits)
    return sp.csr_array(weights @ decode), bias + weights @ offset, exact


class _Composer:
    """Puts the parts of a layer together."""

    def __init__(
        self,
        encoder: Encoder,
        graph: Graph,
        layer: Layer,
        numerics: Numerics,
        decode_before: sp.csr_array,
        offset_before: Array,
    ) -> None:
        self.layer, self.gates = layer, encoder.gates(numerics)
        self.decode_before, self.offset_before = decode_before, offset_before
        self.placed: list[Placed] = []
        self.starts: dict[int, list[int]] = {}  # by unit's first channel, where its parts start
        self.offset = np.zeros(layer.width)
        entries: list[tuple[Array, Array, Array]] = []
        size = 0
        for unit in layer.units:
            channels = slice(unit.start, unit.start + unit.width)
            encoding = encoder.encode(UnitSite(graph, unit, layer.initial[channels], numerics))
            self.offset[channels] = encoding.offset
            self.starts[unit.start] = []
            for part in encoding.parts:
                placed = Placed(unit, part, size)
                units = size + np.arange(placed.width)
                entries.append((unit.start + placed.channels, units, part.decode))
                self.placed.append(placed)
                self.starts[unit.start].append(size)
                size += placed.width
        self.missing = layer.initial - self.offset
        self.one: int | None = None
        if self._reads_missing() or not size:
            self.one = size
            self.placed.append(Placed(None, encoder.one(numerics), size))
            size += 1
        self.size = size
        rows, columns, values = (
            np.concatenate([entry[k] for entry in entries]) if entries else np.zeros(0)
            for k in range(3)
        )
        self.decode = sp.csr_array((values, (rows, columns)), (layer.width, size))

    def _reads_missing(self) -> bool:
        """Whether some row reads, at t - 1, a channel that does not start at its offset."""
        return any(
            drive.rows is not None and (abs(drive.rows.recurrent) @ np.abs(self.missing)).any()
            for placed in self.placed
            for drive in placed.part.drives.values()
        )

    def compose(self) -> CellLayer:
        kernels = {gate: self._kernel(gate) for gate in self.gates}
        return CellLayer(self.layer, tuple(self.placed), kernels, self.decode, self.offset)

    def _kernel(self, gate: str) -> Kernel:
        parts = [self._rows(placed, gate) for placed in self.placed]
        return Kernel(
            sp.csr_array(sp.vstack([part.recurrent for part in parts])),
            sp.csr_array(sp.vstack([part.inputs for part in parts])),
            np.concatenate([part.bias for part in parts]),
            np.concatenate([part.exact for part in parts]),
        )

    def _rows(self, placed: Placed, gate: str) -> Kernel:
        part, width = placed.part, placed.width
        drive = part.drives.get(gate) or constant(self.gates[gate], width)
        before = self.decode_before.shape[1]
        recurrent, inputs = sp.csr_array((width, self.size)), sp.csr_array((width, before))
        bias, exact = np.array(drive.bias), np.ones(width, dtype=bool)
        if drive.rows is not None:
            rows = drive.rows
            if part.picked is not None:
                of = part.picked
                rows = Rows(rows.recurrent[of], rows.inputs[of], rows.bias[of], rows.exact)
            scale = sp.diags_array(drive.scale)
            scaled = sp.csr_array(scale @ rows.recurrent), sp.csr_array(scale @ rows.inputs)
            for before_scale, after in zip((rows.recurrent, rows.inputs), scaled, strict=True):
                if np.count_nonzero(after.data) < np.count_nonzero(before_scale.data):
                    raise PrecisionError("a weight is too small for float64 once it is scaled")
            bias = bias + drive.scale * rows.bias
            start = self.offset if self.one is None else self.offset + self.missing
            recurrent, bias, first = _read(scaled[0], self.decode, start, bias)
            inputs, bias, second = _read(scaled[1], self.decode_before, self.offset_before, bias)
            exact = first & second & rows.exact
            if self.one is not None:
                back = scaled[0] @ self.missing
                (decode,) = self.placed[-1].part.decode
                column = sp.csr_array(
                    (-back * decode, (np.arange(width), np.full(width, self.one))),
                    (width, self.size),
                )
                recurrent = sp.csr_array(recurrent + column)
        for number, weights in drive.own:
            if placed.unit is None:
                raise LsrlError("`one` reads no channels")
            columns = self.starts[placed.unit.start][number] + np.arange(width)
            feedback = sp.csr_array((weights, (np.arange(width), columns)), (width, self.size))
            recurrent = sp.csr_array(recurrent + feedback)
        recurrent.eliminate_zeros()
        inputs.eliminate_zeros()
        return Kernel(recurrent, inputs, bias, exact)


def _check_weights(plan: CellPlan) -> None:
    """Raise PrecisionError unless every weight is a finite, normal number."""
    numerics, graph = plan.numerics, plan.schedule.graph
    for node in plan.schedule.features:
        op = graph.nodes[node].op
        if isinstance(op, Lookup):
            check_range(numerics, place_of(graph, node, 0), op.table.csr.data)
    for number, layer in enumerate(plan.layers, start=1):
        for kernel in layer.kernels.values():
            for placed in layer.placed:
                node = placed.unit.node if placed.unit else graph.output
                rows = slice(placed.start, placed.start + placed.width)
                check_range(numerics, place_of(graph, node, number), kernel_weights(kernel, rows))
    last = len(plan.layers) + 1
    check_range(numerics, place_of(graph, graph.output, last), kernel_weights(plan.output))


def kernel_weights(kernel: Kernel, rows: slice = slice(None)) -> Array:
    """All weights and biases of some rows of a kernel."""
    recurrent, inputs = kernel.recurrent[rows], kernel.inputs[rows]
    return np.concatenate([recurrent.data, inputs.data, kernel.bias[rows]])
