"""Target `lstm`: a stack of stock LSTM cells, with nothing between the layers.

    c = f c + i g,  h = o tanh(c),  i, f, o sigmoids, g a tanh, each of the input and h_{t-1}

Values are scaled by powers of two into the range where tanh(u) == u. A linear state has f = 0 and
i = o = 1, so that h is g and its matrix is the cell's recurrent kernel. A ReLU, a comparison and a
gate by a {0,1} value are an output gate that is exactly 0 or 1; a selective state's keep is the
forget gate. Each takes one unit.
"""

from typing import ClassVar

import numpy as np

from lsrl.backends.cells.encoding import (
    Drive,
    Encoder,
    Encoding,
    Part,
    Site,
    combined,
    constant,
    fixed,
    inverse,
    linear,
    spread,
)
from lsrl.backends.cells.network import CellKind
from lsrl.backends.cells.target import CellBackend
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Affine,
    Constant,
    Input,
    LinearState,
    Lookup,
    Product,
    RecurrentState,
    Relu,
    SelectiveState,
    Step,
    ThresholdState,
)
from lsrl.numerics import Numerics
from lsrl.target import Capabilities


class LstmEncoder(Encoder):
    """One unit a channel."""

    gates: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")

    def default(self, gate: str, numerics: Numerics) -> float:
        """Input and output gates are open, the forget gate is shut."""
        return -numerics.gate if gate == "f" else numerics.gate

    def one(self, numerics: Numerics) -> Part:
        """G = tanh(L) = L."""
        size = numerics.linear
        return Part({"g": constant(size, 1)}, np.array([1 / size]), fixed(size, 1))

    def encode(self, site: Site) -> Encoding:
        """By the kind of the unit."""
        gate = site.numerics.gate
        if site.unit.kind in ("carry", "state"):
            return self._unit(site, {}, site.initial)
        if site.unit.kind == "relu":
            return self._unit(site, {"o": site.positive(site.rows, site.operand(0), gate)})
        if site.unit.kind == "recurrent":
            return self._unit(site, {"o": site.positive(site.rows, site.argument, gate)})
        if site.unit.kind == "product":
            condition, value = site.boolean_slot()
            opened = site.opened(condition, gate)
            return self._unit(site, {"o": opened}, slot=value)
        if site.unit.kind == "selective":
            return self._selective(site)
        if site.unit.kind == "step":
            return self._switch(site, site.compared(gate), np.zeros(site.width))
        return self._switch(site, site.positive(site.rows, site.argument, gate), site.initial)

    def _unit(
        self,
        site: Site,
        drives: dict[str, Drive],
        offset: Array | None = None,
        slot: int = 0,
    ) -> Encoding:
        """H = ε (x - offset), as far as the gates let it through."""
        offset = np.zeros(site.width) if offset is None else offset
        scale = site.value_scale(offset)
        drives = {**drives, "g": linear(site.unit.slots[slot], site.values, scale, offset)}
        return Encoding((Part(drives, 1 / scale, spread(site.values, scale, offset)),), offset)

    def _selective(self, site: Site) -> Encoding:
        """With r = s - initial: r_t = k r_{t-1} + (u - initial + initial k)."""
        facts, update = site.values(site.graph.facts), site.operand(1)(site.graph.facts)
        start = np.abs(site.initial)
        scale = site.linear_scale(facts.magnitude + start, update.magnitude + start)
        keep, added = site.unit.slots
        rows = combined(-site.initial, (1.0, added), (site.initial, keep))
        drives = {
            "f": site.opened(0, site.numerics.gate),
            "g": linear(rows, site.operand(1), scale),
        }
        part = Part(drives, 1 / scale, spread(site.values, scale, site.initial))
        return Encoding((part,), site.initial)

    def _switch(self, site: Site, drive: Drive, initial: Array) -> Encoding:
        """H = L or 0; where it starts at 1, the complement."""
        size = np.full(site.width, site.numerics.linear)
        flipped = inverse(drive)
        chosen = drive._replace(
            scale=np.where(initial == 1, flipped.scale, drive.scale),
            bias=np.where(initial == 1, flipped.bias, drive.bias),
        )
        drives = {"o": chosen, "g": constant(site.numerics.linear, site.width)}
        decode = np.where(initial == 1, -1.0, 1.0) / size
        bounds = fixed(site.numerics.linear, site.width)
        return Encoding((Part(drives, decode, bounds),), np.array(initial))


class Lstm(CellBackend):
    """Unmodified LSTM cells."""

    name: ClassVar[str] = "lstm"
    cell: ClassVar[str] = "the stock LSTM cell and nothing else between layers"
    features: ClassVar[dict[str, str]] = {
        "linear state": "any A",
        "select/gate with a {0,1} operand": "yes",
        "product of two signals": "no",
        "selective": "yes",
        "threshold": "yes",
        "recurrent": "yes",
    }
    capabilities: ClassVar[Capabilities] = Capabilities(
        native=frozenset(
            {
                Input, Lookup, Constant, Affine, Relu, Step, Product, LinearState, SelectiveState,
                ThresholdState, RecurrentState,
            }
        ),
        boolean_product=True,
    )  # fmt: skip
    encoder: ClassVar[Encoder] = LstmEncoder()
    kind: ClassVar[CellKind] = "lstm"


BACKEND = Lstm()
