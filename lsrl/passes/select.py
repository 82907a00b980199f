"""Conditionals: select, and products with a {0,1} factor, by gate or by a ReLU shut with a big-M.

The big-M is the smallest that the bounds allow, so it is exact and as robust as can be.
"""

import numpy as np

from lsrl.errors import PrecisionError
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, power_of_two_above
from lsrl.ir.ops import Constant, Product, Relu, Select
from lsrl.passes.affine import add_affine, add_sum, emit_affine
from lsrl.target import Capabilities


def lower_selects(graph: Graph, target: Capabilities, robust: bool = False) -> Graph:
    """Turn select into products where the target has gates, else into ReLUs; see the module.

    Args:
      graph: before steps are lowered.
      target: what it can hold.
      robust: shut values on a grid with a big-M of one step more than they need, so that errors
        below a step do not pass.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if isinstance(op, Select) and Select not in target.native:
            condition, first, second = operands
            gate = op.via == "gate" or (op.via == "auto" and target.boolean_product)
            if gate and target.boolean_product:
                return _by_gate(builder, condition, first, second)
            return _by_relu(builder, condition, first, second, robust)
        if isinstance(op, Product) and not target.boolean_product:
            for condition, value in (operands, operands[::-1]):
                if builder.facts[condition].boolean:
                    zero = builder.add(Constant((0.0,) * builder.nodes[value].width))
                    return _by_relu(builder, condition, value, zero, robust)
        return None

    return rewrite(graph, rule, (Select, Product))


def _widened(builder: GraphBuilder, condition: int, width: int) -> int:
    """A condition of width 1, repeated over `width` channels."""
    if builder.nodes[condition].width == width:
        return condition
    return add_affine(builder, (Matrix.selection(np.zeros(width), 1), condition))


def _is_zero(builder: GraphBuilder, node: int) -> bool:
    return not builder.facts[node].magnitude.any()


def _by_gate(builder: GraphBuilder, condition: int, first: int, second: int) -> int:
    """Cond · a + (1 - cond) · b; on a grid b + cond · (a - b), which has one product less."""
    width = builder.nodes[first].width
    gate = _widened(builder, condition, width)
    if _is_zero(builder, second):
        return builder.add(Product(), gate, first)
    one, minus = Matrix.identity(width), Matrix.diagonal(-np.ones(width))
    shut = add_affine(builder, (minus, gate), bias=1.0)
    if _is_zero(builder, first):
        return builder.add(Product(), shut, second)
    if builder.facts[first].counted and builder.facts[second].counted:
        rise = add_affine(builder, (one, first), (minus, second))
        return add_sum(builder, second, builder.add(Product(), gate, rise))
    passed, rest = builder.add(Product(), gate, first), builder.add(Product(), shut, second)
    return add_sum(builder, passed, rest)


def _by_relu(builder: GraphBuilder, condition: int, first: int, second: int, robust: bool) -> int:
    """The sum of both values, each shut to exactly 0 by the condition.

    Gridded values of several channels are shifted by their common lower end, so that one ReLU a
    channel does; else a value that can have either sign takes a pair of ReLUs and no shift, which
    adds nothing to its rounding.
    """
    width = builder.nodes[first].width
    a, b = builder.facts[first], builder.facts[second]
    zero = _is_zero(builder, first) or _is_zero(builder, second)
    if not zero and width > 1 and a.counted and b.counted:
        floor = np.minimum(a.low, b.low)
        one = Matrix.identity(width)
        terms = [
            (one, _shut(builder, condition, node, sign, floor, robust))
            for node, sign in ((first, 1.0), (second, -1.0))
        ]
        return add_affine(builder, *terms, bias=floor)
    parts = [
        _two_sided(builder, condition, node, sign, robust)
        for node, sign in ((first, 1.0), (second, -1.0))
        if not _is_zero(builder, node)
    ]
    if not parts:
        return first
    return parts[0] if len(parts) == 1 else add_sum(builder, *parts)


def _shut(
    builder: GraphBuilder, condition: int, node: int, sign: float, floor: Array, robust: bool
) -> int:
    """relu(x - floor), shut where the condition is 0 (sign 1) or 1 (sign -1)."""
    facts = builder.facts[node]
    big = _big_m(facts.high - floor, facts, robust)
    return _gated(builder, condition, node, 1.0, sign, big, -floor, np.arange(len(big)))


def _two_sided(builder: GraphBuilder, condition: int, node: int, sign: float, robust: bool) -> int:
    """The sum of relu(x) and -relu(-x), each shut by the condition, or left out if always 0."""
    facts = builder.facts[node]
    width, zeros = facts.width, np.zeros(facts.width)
    halves: dict[int, Matrix] = {}
    for side, reach in ((1.0, facts.high), (-1.0, -facts.low)):
        channels = np.flatnonzero(reach > 0)
        if len(channels):
            big = _big_m(reach, facts, robust)
            back = Matrix.selection(channels, width).transposed.scaled(side)
            whole = _gated(builder, condition, node, side, sign, big, zeros, channels)
            halves[whole] = back
    # A single ReLU is the value itself, and inherits what is known of it.
    return emit_affine(builder, halves, zeros)


def _big_m(reach: Array, facts: Facts, robust: bool) -> Array:
    """The least M that shuts values up to `reach`; a power of two with a margin if continuous.

    On a grid `robust` adds a step.
    """
    reach = np.maximum(reach, 0.0)
    if not np.isfinite(reach).all():
        raise PrecisionError(
            "a conditional has a value without finite bounds, and no big-M shuts that; narrow it "
            "with lsrl.bound(x, low, high), or choose a target with gates"
        )
    if facts.counted:
        step = np.where(np.isfinite(facts.step), facts.step, 0.0)
        return np.where(reach > 0, reach + step, 0.0) if robust else reach
    return np.array([power_of_two_above(r * (1 + 2.0**-4)) if r > 0 else 0.0 for r in reach])


def _gated(
    builder: GraphBuilder,
    condition: int,
    node: int,
    side: float,
    sign: float,
    big: Array,
    shift: Array,
    channels: Array,
) -> int:
    """Some channels of relu(side x + shift - M (1 - cond)), or M cond for sign -1."""
    pick = Matrix.selection(channels, len(big), np.full(len(channels), side))
    one = builder.nodes[condition].width == 1
    reads, width = (np.zeros(len(channels)), 1) if one else (channels, len(big))
    shuts = Matrix.selection(reads, width, sign * big[channels])
    offset = (shift - (big if sign > 0 else 0.0))[channels]
    terms = (pick, node), (shuts, condition)
    return builder.add(Relu(), add_affine(builder, *terms, bias=offset))
