"""Target `gru`: a stack of stock GRU cells, with nothing between the layers.

    n = tanh(W x + b + r U h),  h = (1 - z) n + z h_{t-1},  r and z sigmoids of the input and
    h_{t-1}

Values are scaled into the range where tanh(u) == u; a linear state has z = 0 and r = 1. No gate of
this cell can make h zero at once, so a gated value takes two units: u takes it where the gate is
open and holds what it has where the gate is shut (z), and v then takes a copy of what u holds (r).
The value is u - v. Comparisons and automata are saturated units, ±1.
"""

from typing import ClassVar

import numpy as np

from lsrl.backends.base import capabilities_of
from lsrl.backends.cells.encoding import (
    Drive,
    Encoder,
    Encoding,
    Known,
    Part,
    UnitSite,
    combined,
    comparisons,
    constant,
    fixed,
    inverse,
    linear,
    saturated,
    scaled,
    spread,
)
from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.target import CellBackend
from lsrl.ir.bounds import Sums, joined_sums
from lsrl.ir.ops import Affine, LinearState, Product, Relu, SelectiveState
from lsrl.schedule import Rows
from lsrl.target import Capabilities


def _product(site: UnitSite) -> Encoding:
    if site.is_conjunction:
        return saturated("n", site.both(site.numerics.saturated))
    condition, value = site.boolean_slot()
    return _pair(site, site.opened(condition, site.numerics.gate), value)


def _relu(site: UnitSite) -> Encoding:
    if site.is_boolean_relu:
        drive = site.positive(site.rows, site.operand(0), site.numerics.saturated)
        return saturated("n", drive)
    return _pair(site, site.positive(site.rows, site.operand(0), site.numerics.gate), 0)


def _linear(site: UnitSite) -> Encoding:
    return scaled(site, "n", site.initial)


def _pair(site: UnitSite, gate: Drive, slot: int) -> Encoding:
    """The difference u - v: the value if the gate is open, else what u holds less its copy."""
    # torch has h = (h - n) z + n, so n must keep its bits where the gate is shut too.
    operand = site.operand(slot)(site.graph.facts)
    scale = site.linear_scale(site.values(site.graph.facts).magnitude, operand.magnitude)
    bounds = spread(site.values, scale)
    value = linear(site.unit.slots[slot], site.operand(slot), scale)
    taking = Part({"z": inverse(gate), "n": value}, 1 / scale, bounds)
    copy = constant(0.0, site.width)._replace(own=((0, np.ones(site.width)),))
    copying = Part({"r": inverse(gate), "n": copy}, -1 / scale, bounds)
    return Encoding((taking, copying), np.zeros(site.width))


def _selective(site: UnitSite) -> Encoding:
    """With q = s - initial: q_t = k q_{t-1} + w, w = u - initial + initial k."""
    op, start = site.op, site.initial
    keep, update = site.unit.slots
    rows = combined(-start, (1.0, update), (start, keep))
    gate = site.opened(0, site.numerics.gate)
    scale = site.value_scale(start)
    bounds = spread(site.values, scale, start)
    value = Drive(rows, scale, np.zeros(site.width), reach=bounds)
    ones = np.ones(site.width)
    if isinstance(op, SelectiveState) and op.overwrites:
        return Encoding((Part({"z": gate, "n": value}, 1 / scale, bounds),), start)
    if not rows.recurrent.nnz:
        added = value._replace(own=((0, ones),))
        return Encoding((Part({"r": gate, "n": added}, 1 / scale, bounds),), start)
    return _reset(site, rows, gate)


def _reset(site: UnitSite, update: Rows, gate: Drive) -> Encoding:
    """Q = a - b, where a adds up and b takes away what is not kept.

    r gates all that n reads of the layer at t - 1, so an update from there needs a unit of its
    own.
    """
    start = site.initial
    facts, added = site.values(site.graph.facts), site.operand(1)(site.graph.facts)
    size = facts.magnitude + added.magnitude + 2 * np.abs(start)
    scale = site.linear_scale(size)
    grid = spread(site.values, scale, start)
    least = spread(site.operand(1), scale, start)

    def bounds(known: Known) -> Sums:
        both = joined_sums([grid(known), least(known)])
        return both._replace(magnitude=np.minimum(both.magnitude, scale * size))

    rows = combined(-start, (1.0, site.own), (1.0, update))
    adding = Drive(rows, scale, np.zeros(site.width), reach=bounds)
    ones = np.ones(site.width)
    taking = constant(0.0, site.width)._replace(own=((0, ones), (1, -ones)))
    parts = (
        Part({"n": adding}, 1 / scale, bounds),
        Part({"r": inverse(gate), "n": taking}, -1 / scale, grid),
    )
    return Encoding(parts, start)


GRU = Encoder(
    table={
        Affine: _linear,
        LinearState: _linear,
        Relu: _relu,
        Product: _product,
        SelectiveState: _selective,
        **comparisons("n"),
    },
    # The unit takes n, and n reads h.
    gates=lambda numerics: {"r": numerics.gate, "z": -numerics.gate, "n": -numerics.gate},
    one=lambda numerics: Part({"n": constant(numerics.saturated, 1)}, np.ones(1), fixed(1.0, 1)),
    clean_gates=False,
)


class Gru(CellBackend):
    """Unmodified GRU cells."""

    name: ClassVar[str] = "gru"
    cell: ClassVar[str] = "the stock GRU cell and nothing else between layers"
    capabilities: ClassVar[Capabilities] = capabilities_of(GRU.table)
    encoder: ClassVar[Encoder] = GRU
    kind: ClassVar[CellKind] = "gru"


BACKEND = Gru()
