"""Running maxima: one recurrent unit, or whether each value was ever reached."""

import numpy as np

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import power_of_two_below
from lsrl.ir.ops import (
    Constant,
    Delay,
    Hold,
    LinearState,
    RecurrentState,
    Relu,
    RunningMax,
    SelectiveState,
    Step,
)
from lsrl.ir.ops.states import Heights
from lsrl.passes.affine import add_affine
from lsrl.target import Capabilities

# Differences up to so many steps are compared in one level instead of two.
SMALL = 2.0**20


def lower_extremes(graph: Graph, target: Capabilities) -> Graph:
    """Write running maxima in states that the target has."""

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op, (value,) = graph.nodes[i].op, operands
        if not isinstance(op, RunningMax):
            return None
        if RecurrentState in target.native and builder.facts[value].counted:
            return _fallen(builder, op, value)
        heights = op.heights(builder.facts[value])
        return None if heights is None else _reached(builder, heights, value, target)

    return rewrite(graph, rule, (RunningMax,))


def _fallen(builder: GraphBuilder, op: RunningMax, value: int) -> int:
    """The value, and by how much it is below its maximum.

    That is g_t = M_t - x_t = relu(M_{t-1} - x_t) = relu(g_{t-1} + x_{t-1} - x_t).
    """
    facts, eye = builder.facts[value], Matrix.identity(len(op.initial))
    zeros = (0.0,) * len(op.initial)
    most = np.maximum(facts.high, op.initial) - facts.low
    before = builder.add(Delay(1, op.initial), value)
    fall = add_affine(builder, (eye, before), (eye.scaled(-1.0), value))
    below = builder.add(RecurrentState(eye, zeros, zeros, tuple(most.tolist())), fall)
    return add_affine(builder, (eye, value), (eye, below))


def _reached(builder: GraphBuilder, heights: Heights, value: int, target: Capabilities) -> int:
    """The least that it can be, and a step for each value that was reached so far."""
    width, count = len(heights.least), len(heights.channels)
    if not count:
        return builder.add(Constant(tuple(heights.least.tolist())))
    eye, zeros = Matrix.identity(count), (0.0,) * count
    above = add_affine(
        builder, (Matrix.selection(heights.channels, width), value), bias=-heights.values
    )
    facts = builder.facts[above]
    rise = 1 / power_of_two_below(float(facts.step.min()))
    small = bool(facts.magnitude.max() * rise <= SMALL)
    reached = builder.add(Step(rise, 0.0, small), above)
    if target.native.isdisjoint((SelectiveState, Hold)):
        counted = builder.add(LinearState(eye, zeros), reached)
        never = builder.add(Relu(), add_affine(builder, (eye.scaled(-1.0), counted), bias=1.0))
        least = heights.least.copy()
        np.add.at(least, heights.channels, heights.rises)
        parts, sign = never, -1.0
    else:
        keep = add_affine(builder, (eye.scaled(-1.0), reached), bias=1.0)
        parts = builder.add(SelectiveState(zeros, overwrites=True), keep, reached)
        least, sign = heights.least, 1.0
    rises = Matrix.placed(
        *(sign * heights.rises, heights.channels, np.arange(count)), (width, count)
    )
    return add_affine(builder, (rises, parts), bias=least)
