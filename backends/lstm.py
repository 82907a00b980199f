"""Target `lstm`: a stack of stock LSTM cells, with nothing between the layers.

    c = f c + i g,  h = o tanh(c),  i, f, o sigmoids, g a tanh, each of the input and h_{t-1}

Values are scaled by powers of two into the range where tanh(u) == u. A linear state has f = 0 and
i = o = 1, so that h is g and its matrix is the cell's recurrent kernel. A ReLU, a comparison and a
gate by a {0,1} value are an output gate that is exactly 0 or 1; a selective state's keep is the
forget gate. Each takes one unit.
"""

from typing import ClassVar

import numpy as np

from lsrl.backends.base import capabilities_of
from lsrl.backends.cells.encoding import (
    Drive,
    Encoder,
    Encoding,
    Part,
    UnitSite,
    combined,
    constant,
    fixed,
    linear,
    scaled,
    spread,
)
from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.target import CellBackend
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Affine,
    LinearState,
    Product,
    RecurrentState,
    Relu,
    SelectiveState,
    Step,
    ThresholdState,
)
from lsrl.target import Capabilities


def _linear(site: UnitSite) -> Encoding:
    return scaled(site, "g", site.initial)


def _relu(site: UnitSite) -> Encoding:
    value = site.operand(0) if site.unit.kind is Relu else site.argument
    drive = site.positive(site.rows, value, site.numerics.gate)
    return scaled(site, "g", np.zeros(site.width), {"o": drive})


def _product(site: UnitSite) -> Encoding:
    condition, value = site.boolean_slot()
    drive = site.opened(condition, site.numerics.gate)
    return scaled(site, "g", np.zeros(site.width), {"o": drive}, value)


def _threshold(site: UnitSite) -> Encoding:
    drive = site.positive(site.rows, site.argument, site.numerics.gate)
    return _switch(site, drive, site.initial)


def _selective(site: UnitSite) -> Encoding:
    """With r = s - initial: r_t = k r_{t-1} + (u - initial + initial k)."""
    facts, update = site.values(site.graph.facts), site.operand(1)(site.graph.facts)
    start = np.abs(site.initial)
    scale = site.linear_scale(facts.magnitude + start, update.magnitude + start)
    keep, added = site.unit.slots
    rows = combined(-site.initial, (1.0, added), (site.initial, keep))
    drives = {"f": site.opened(0, site.numerics.gate), "g": linear(rows, site.operand(1), scale)}
    part = Part(drives, 1 / scale, spread(site.values, scale, site.initial))
    return Encoding((part,), site.initial)


def _switch(site: UnitSite, drive: Drive, initial: Array) -> Encoding:
    """H = L or 0; where it starts at 1, the complement."""
    size, sign = site.numerics.linear, np.where(initial == 1, -1.0, 1.0)
    chosen = drive._replace(scale=sign * drive.scale, bias=sign * drive.bias)
    drives = {"o": chosen, "g": constant(size, site.width)}
    return Encoding((Part(drives, sign / size, fixed(size, site.width)),), np.array(initial))


LSTM = Encoder(
    table={
        Affine: _linear,
        LinearState: _linear,
        Relu: _relu,
        RecurrentState: _relu,
        Product: _product,
        SelectiveState: _selective,
        Step: lambda site: _switch(site, site.compared(site.numerics.gate), np.zeros(site.width)),
        ThresholdState: _threshold,
    },
    # Input and output gates are open, the forget gate is shut.
    gates=lambda numerics: {
        gate: -numerics.gate if gate == "f" else numerics.gate for gate in ("i", "f", "g", "o")
    },
    # g = tanh(L) = L.
    one=lambda numerics: Part(
        {"g": constant(numerics.linear, 1)},
        np.array([1 / numerics.linear]),
        fixed(numerics.linear, 1),
    ),
)


class Lstm(CellBackend):
    """Unmodified LSTM cells."""

    name: ClassVar[str] = "lstm"
    cell: ClassVar[str] = "the stock LSTM cell and nothing else between layers"
    capabilities: ClassVar[Capabilities] = capabilities_of(LSTM.table)
    encoder: ClassVar[Encoder] = LSTM
    kind: ClassVar[CellKind] = "lstm"


BACKEND = Lstm()
