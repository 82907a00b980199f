"""Target `rnn_tanh`: a stack of stock Elman cells with tanh, with nothing between the layers.

    h = tanh(W x + U h_{t-1} + b)

Values are scaled into the range where tanh(u) == u; comparisons and automata are saturated units,
±1. A gate by a {0,1} value c is a bias M that saturates a unit: v = tanh(ε x + M c - M) is ε x or
-1, and q = tanh(M - M c) is 0 or 1, so that the value is v + q. The bias must not swallow bits of
ε x, which limits values to 2^8 grid steps in float32 and 2^21 in float64. relu(x) is [x > 0] x, two
layers.
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
    linear,
    saturated,
    spread,
)
from lsrl.backends.cells.network import CellKind
from lsrl.backends.cells.target import CellBackend
from lsrl.ir.bounds import lowest_bit_of_step
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Affine,
    Constant,
    Input,
    LinearState,
    Lookup,
    Product,
    SelectiveState,
    Step,
    ThresholdState,
)
from lsrl.numerics import Numerics
from lsrl.schedule import Rows
from lsrl.target import Capabilities


class TanhEncoder(Encoder):
    """One unit for what is linear or saturated, two for what is gated."""

    gates: ClassVar[tuple[str, ...]] = ("h",)
    clean_gates: ClassVar[bool] = False

    def default(self, gate: str, numerics: Numerics) -> float:
        """Never asked: every part drives the only gate."""
        return 0.0

    def one(self, numerics: Numerics) -> Part:
        """A saturated unit."""
        return Part({"h": constant(numerics.saturated, 1)}, np.ones(1), fixed(1.0, 1))

    def encode(self, site: Site) -> Encoding:
        """By the kind of the unit."""
        kind, end = site.unit.kind, site.numerics.saturated
        if kind in ("carry", "state"):
            # A {0,1} value is held as 1 minus itself: then the bias of an open gate vanishes.
            gates = kind == "carry" and site.values(site.graph.facts).boolean
            return self._linear(site, np.ones(site.width) if gates else site.initial)
        if kind == "step":
            return saturated("h", site.compared(end))
        if kind == "threshold":
            return saturated("h", site.positive(site.rows, site.argument, end))
        if kind == "selective":
            return self._selective(site)
        if site.is_conjunction:
            return saturated("h", site.both(end))
        condition, value = site.boolean_slot()
        scale = site.value_scale()
        parts = self._gated(site, site.unit.slots[value], site.unit.slots[condition], scale)
        return Encoding(parts, np.zeros(site.width))

    def _linear(self, site: Site, offset: Array) -> Encoding:
        scale = site.value_scale(offset)
        drive = linear(site.rows, site.values, scale, offset)
        part = Part({"h": drive}, 1 / scale, spread(site.values, scale, offset))
        return Encoding((part,), offset)

    def _gated(self, site: Site, rows: Rows, condition: Rows, scale: Array) -> tuple[Part, Part]:
        """V + q: the rows, scaled, where the condition is 1, and 0 where it is 0."""
        self._check_room(site, scale)
        shut = site.numerics.shut
        value = combined(-shut, (scale, rows), (shut, condition))
        correction = combined(shut, (-shut, condition))
        ones, nothing = np.ones(site.width), np.zeros(site.width)
        grid = spread(site.values, scale, site.initial)
        return (
            Part(
                {"h": Drive(value, ones, nothing)},
                1 / scale,
                lambda known: grid(known)._replace(magnitude=np.ones(site.width)),
            ),
            Part({"h": Drive(correction, ones, nothing)}, 1 / scale, fixed(1.0, site.width)),
        )

    def _check_room(self, site: Site, scale: Array) -> None:
        facts, numerics = site.values(site.graph.facts), site.numerics
        grid = lowest_bit_of_step(facts)
        grid = np.where((grid == 0) | np.isinf(grid), np.inf, grid)
        short = numerics.shut + numerics.linear > 2.0**numerics.bits * scale * grid
        if short.any():
            steps = (facts.magnitude / grid)[short].max()
            limit = numerics.bits + np.log2(numerics.linear) - np.ceil(np.log2(numerics.shut))
            room = f"holds 2^{int(limit)}" if limit >= 0 else "has no room for them"
            raise site.refuse(
                f"a gate of a tanh RNN on values of up to {steps:g} grid steps, and "
                f"{numerics.dtype} {room}; narrow it with lsrl.bound(x, low, high), or choose "
                "the relu RNN, the LSTM or the GRU, which have no such limit"
            )

    def _selective(self, site: Site) -> Encoding:
        """With q = s - initial: q_t = k q_{t-1} + (u - initial + initial k).

        A state of zeros and ones is 1 where s_{t-1} + k + 2 u is more than 3/2, which one unit
        decides.
        """
        start = site.initial
        keep, update = site.unit.slots
        facts, added = site.values(site.graph.facts), site.operand(1)(site.graph.facts)
        if facts.boolean and added.integer:
            rows = combined(0.0, (1.0, site.own), (1.0, keep), (2.0, update))
            return saturated("h", site.beyond(rows, 1.5, site.numerics.saturated))
        scale = site.linear_scale(
            np.abs(facts.low - start), np.abs(facts.high - start), added.magnitude + np.abs(start)
        )
        kept = self._gated(site, combined(-start, (1.0, site.own)), keep, scale)
        rows = combined(-start, (1.0, update), (start, keep))
        size = spread(site.operand(1), scale, start)
        drive = Drive(rows, scale, np.zeros(site.width), reach=spread(site.operand(1), scale))
        return Encoding((*kept, Part({"h": drive}, 1 / scale, size)), start)


class TanhRnn(CellBackend):
    """Unmodified Elman cells with tanh."""

    name: ClassVar[str] = "rnn_tanh"
    cell: ClassVar[str] = 'Elman, `activation="tanh"`'
    features: ClassVar[dict[str, str]] = {
        "linear state": "any A",
        "select/gate with a {0,1} operand": "saturation",
        "product of two signals": "no",
        "selective": "yes (3 units)",
        "threshold": "yes",
        "recurrent": "no",
    }
    capabilities: ClassVar[Capabilities] = Capabilities(
        native=frozenset(
            {
                Input, Lookup, Constant, Affine, Step, Product, LinearState, SelectiveState,
                ThresholdState,
            }
        ),
        boolean_product=True,
    )  # fmt: skip
    encoder: ClassVar[Encoder] = TanhEncoder()
    kind: ClassVar[CellKind] = "tanh"


BACKEND = TanhRnn()
