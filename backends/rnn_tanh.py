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

from lsrl.backends.base import capabilities_of
from lsrl.backends.cells.encoding import (
    Drive,
    Encoder,
    Encoding,
    Part,
    UnitSite,
    combined,
    comparisons,
    constant,
    fixed,
    saturated,
    scaled,
    spread,
)
from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.target import CellBackend
from lsrl.ir.bounds import lowest_bit_of_step
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, LinearState, Product, SelectiveState
from lsrl.schedule import Rows
from lsrl.target import Capabilities


def _carry(site: UnitSite) -> Encoding:
    # A {0,1} value is held as 1 minus itself: then the bias of an open gate vanishes.
    gates = site.values(site.graph.facts).boolean
    return scaled(site, "h", np.ones(site.width) if gates else site.initial)


def _product(site: UnitSite) -> Encoding:
    if site.is_conjunction:
        return saturated("h", site.both(site.numerics.saturated))
    condition, value = site.boolean_slot()
    rows, gate = site.unit.slots[value], site.unit.slots[condition]
    return Encoding(_gated(site, rows, gate, site.value_scale()), np.zeros(site.width))


def _gated(site: UnitSite, rows: Rows, condition: Rows, scale: Array) -> tuple[Part, Part]:
    """V + q: the rows, scaled, where the condition is 1, and 0 where it is 0."""
    _check_room(site, scale)
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


def _check_room(site: UnitSite, scale: Array) -> None:
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


def _selective(site: UnitSite) -> Encoding:
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
    kept = _gated(site, combined(-start, (1.0, site.own)), keep, scale)
    rows = combined(-start, (1.0, update), (start, keep))
    size = spread(site.operand(1), scale, start)
    drive = Drive(rows, scale, np.zeros(site.width), reach=spread(site.operand(1), scale))
    return Encoding((*kept, Part({"h": drive}, 1 / scale, size)), start)


ELMAN = Encoder(
    table={
        Affine: _carry,
        LinearState: lambda site: scaled(site, "h", site.initial),
        Product: _product,
        SelectiveState: _selective,
        **comparisons("h"),
    },
    gates=lambda _: {"h": 0.0},
    one=lambda numerics: Part({"h": constant(numerics.saturated, 1)}, np.ones(1), fixed(1.0, 1)),
    clean_gates=False,
)


class TanhRnn(CellBackend):
    """Unmodified Elman cells with tanh."""

    name: ClassVar[str] = "rnn_tanh"
    cell: ClassVar[str] = 'Elman, `activation="tanh"`'
    capabilities: ClassVar[Capabilities] = capabilities_of(ELMAN.table)
    remarks: ClassVar[dict[str, str]] = {
        "select/gate with a {0,1} operand": "saturation",
        "selective": "yes (3 units)",
    }
    encoder: ClassVar[Encoder] = ELMAN
    kind: ClassVar[CellKind] = "tanh"


BACKEND = TanhRnn()
