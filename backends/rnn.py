"""Target `rnn`: a stack of stock Elman cells with ReLU, with nothing between the layers.

    h = relu(W x + U h_{t-1} + b)

ReLUs are native. Any value on a grid is carried by one unit, as its distance from its least value;
a continuous one that can have either sign takes a pair, its positive and its negative part.
"""

from functools import partial
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
    constant,
    fixed,
    power_below,
    spread,
)
from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.target import CellBackend
from lsrl.ir.bounds import Facts, Sums, lowest_bit_of_step
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, LinearState, RecurrentState, Relu, SelectiveState, ThresholdState
from lsrl.schedule import Rows
from lsrl.target import Capabilities


def _native(site: UnitSite) -> Encoding:
    part = _half(site, site.rows, np.ones(site.width), np.zeros(site.width))
    return Encoding((part,), np.zeros(site.width))


def _half(site: UnitSite, rows: Rows, sign: Array, offset: Array) -> Part:
    """relu(sign (x - offset))."""
    ends = [spread(site.values, np.ones(site.width), offset, side) for side in (1, -1)]

    def bounds(known: Known) -> Sums:
        up, down = (end(known) for end in ends)
        return Sums(np.where(sign > 0, up.magnitude, down.magnitude), up.grid)

    return Part({"h": Drive(rows, sign, -sign * offset)}, sign, bounds)


def _signed(site: UnitSite) -> Encoding:
    """One unit where an end of the interval can be the offset, else a pair."""
    facts, start = site.values(site.graph.facts), site.initial
    sign, offset, pair = _sides(facts, start, site.unit.kind is LinearState)
    whole = _half(site, site.rows, sign, offset)
    if not pair.any():
        return Encoding((whole,), offset)
    other = _half(site, site.rows, -sign, offset)
    picked = np.flatnonzero(pair)
    (drive,) = other.drives.values()
    drive = drive._replace(scale=drive.scale[picked], bias=drive.bias[picked])
    return Encoding((whole, Part({"h": drive}, other.decode[picked], other.bounds, picked)), offset)


def _selective(site: UnitSite) -> Encoding:
    """With q = s - low >= 0: what is kept of q, and what is new, each shut by a bias."""
    facts, added = site.values(site.graph.facts), site.operand(1)(site.graph.facts)
    if not np.isfinite(facts.low).all() or not np.isfinite(facts.high).all():
        raise site.refuse(
            "has no finite bound, so no bias shuts its gate; narrow it with lsrl.bound"
        )
    low, op = facts.low, site.op
    keep, update = site.unit.slots
    reach = facts.high - low
    ones, zeros = np.ones(site.width), np.zeros(site.width)
    if isinstance(op, SelectiveState) and op.overwrites:
        # The update is 0 where the state is kept.
        kept = combined(-low - reach, (1.0, site.own), (reach, keep))
        new = combined(-low, (1.0, update), (low, keep))
    else:
        bias = np.maximum(reach + np.maximum(added.high, 0.0), 0.0)
        kept = combined(-low - bias, (1.0, site.own), (1.0, update), (bias, keep))
        shut = np.maximum(added.high - low, 0.0) + np.abs(low)
        new = combined(-low, (1.0, update), (low - shut, keep))
    bounds = spread(site.values, ones, low)
    parts = tuple(Part({"h": Drive(rows, ones, zeros)}, ones, bounds) for rows in (kept, new))
    return Encoding(parts, low)


def _threshold(site: UnitSite) -> Encoding:
    """relu(x/g) - relu(x/g - 1), or 1 minus that where the state starts at 1."""
    facts = site.argument(site.graph.facts)
    step = np.where(np.isinf(facts.step), 1.0, facts.step)
    flipped = site.initial == 1
    scale = np.where(flipped, -1.0, 1.0) / power_below(step)
    parts = []
    for number, sign in enumerate((1.0, -1.0)):
        bias = np.where(flipped, 1.0 - number, -float(number))
        decode = np.where(flipped, -sign, sign)
        drive = Drive(site.rows, scale, bias)
        parts.append(Part({"h": drive}, decode, partial(_ramp, site, scale, bias)))
    return Encoding(tuple(parts), np.array(site.initial))


def _ramp(site: UnitSite, scale: Array, bias: Array, known: Known) -> Sums:
    facts = site.argument(known)
    ends = scale * facts.low + bias, scale * facts.high + bias
    grid = np.minimum(np.abs(scale) * lowest_bit_of_step(facts), 1.0)
    return Sums(np.maximum(np.maximum(*ends), 0.0), grid)


def _sides(facts: Facts, start: Array, state: bool) -> tuple[Array, Array, Array]:
    """The sign and offset of each channel's unit, and whether it needs a second one.

    A state's offset is its start where that is an end of its interval. Else a value on a grid is
    measured from its least value, in one unit.
    """
    low, high = facts.low, facts.high
    start = start if state else np.zeros(len(low))
    above, below = low >= start, high <= start
    sign = np.where(~above & below, -1.0, 1.0)
    shifted = ~above & ~below & (facts.step > 0) & np.isfinite(low)
    return sign, np.where(shifted, low, start), ~above & ~below & ~shifted


ELMAN = Encoder(
    table={
        Affine: _signed,
        LinearState: _signed,
        Relu: _native,
        RecurrentState: _native,
        SelectiveState: _selective,
        ThresholdState: _threshold,
    },
    gates=lambda _: {"h": 0.0},
    one=lambda _: Part({"h": constant(1.0, 1)}, np.ones(1), fixed(1.0, 1)),
    native_relu=True,
)


class ReluRnn(CellBackend):
    """Unmodified Elman cells with ReLU."""

    name: ClassVar[str] = "rnn"
    cell: ClassVar[str] = 'Elman, `activation="relu"` (default)'
    capabilities: ClassVar[Capabilities] = capabilities_of(ELMAN.table)
    encoder: ClassVar[Encoder] = ELMAN
    kind: ClassVar[CellKind] = "relu"


BACKEND = ReluRnn()
