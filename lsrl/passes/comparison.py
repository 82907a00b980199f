"""Comparisons for targets that only have ReLUs, and ReLUs for those that only compare."""

import numpy as np

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import power_of_two_above, power_of_two_below
from lsrl.ir.ops import Affine, Product, Relu, Step
from lsrl.passes.affine import add_affine, add_composed
from lsrl.target import Capabilities

# The slope of a comparison of continuous values with zero, on values of size 1.
NARROWEST = 2.0**40
STEEPEST = 2.0**1000  # with room for what it is multiplied by
# What a difference of ramps may span; its two terms and their like must fit in a significand.
LONGEST_RAMP = 2.0**20


def lower_relus(graph: Graph, target: Capabilities) -> Graph:
    """relu(x) becomes [x > 0] · x for cells that saturate but have no ReLU.

    On a grid of step d, x > 0 is x >= d, so the comparison has a margin. Where relu(x) is 0 or 1,
    the comparison is all.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        if Relu in target.native or not isinstance(graph.nodes[i].op, Relu):
            return None
        facts = builder.facts[operands[0]]
        finite = facts.step[np.isfinite(facts.step)]
        least = float(finite.min(initial=np.inf))
        if least == 0:
            # What the ramp lets through is as small as the ramp is narrow.
            size = np.max(facts.magnitude[np.isfinite(facts.magnitude)], initial=0.0)
            slope = min(NARROWEST / power_of_two_above(size if size > 0 else 1.0), STEEPEST)
            sharp = builder.add(Step(slope, 0.0), operands[0])
            return builder.add(Product(), sharp, operands[0])
        if least == np.inf:
            return None
        grid = power_of_two_below(least)
        above = add_affine(builder, (Matrix.identity(facts.width), operands[0]), bias=-grid)
        positive = builder.add(Step(1 / grid, 0.0), above)
        if graph.facts[i].boolean:
            return positive
        return builder.add(Product(), positive, operands[0])

    return rewrite(graph, rule, (Relu,))


def lower_steps(graph: Graph, target: Capabilities, robust: bool = False) -> Graph:
    """Step(x) becomes relu(1 - relu(-slope x - shift)): two levels, saturated on both sides.

    Steps that ask for one level, on a grid, become relu(slope x + 1) - relu(slope x). The outer
    ReLU keeps the step's facts: 0 or 1 (for a ramp, by promise).

    Args:
      graph: after selects are lowered.
      target: what it can hold.
      robust: on a grid, put a ramp of twice the slope midway between the values that occur, so that
        errors below a quarter of the distance are wiped out.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, Step) or Step in target.native:
            return None
        width = graph.nodes[i].width
        value = graph.facts[graph.nodes[i].operands[0]]
        on_edge = op.shift == 0 and op.avoids_ramp(value)
        # A difference errs in proportion to the range of x. On diagonal targets it stays, since
        # there other errors are greater, and a second level costs a block.
        one_level = (op.one_level and not robust) or (target.diagonal and _spans_little(graph, i))
        if robust and on_edge:
            op = Step(2 * op.slope, 0.5)
        if one_level and on_edge:
            return _difference_of_ramps(builder, op, operands[0])
        scaled, old = Matrix.multiple(-op.slope, width), graph.nodes[i].operands[0]
        only_here = len(graph.readers[old]) == 1 and old != graph.output
        below = add_composed(builder, scaled, operands[0], -op.shift, only_here)
        negated = Matrix.multiple(-1.0, width), builder.add(Relu(), below)
        return builder.add(Relu(), add_affine(builder, negated, bias=1.0))

    return rewrite(graph, rule, (Step,))


def _spans_little(graph: Graph, step: int) -> bool:
    """Whether a difference of ramps is small enough where it is read.

    It takes a level less than two saturated ReLUs, and each of its ramps is as large as the value
    that is compared, times what the readers multiply it by.
    """
    op, (operand,) = graph.nodes[step].op, graph.nodes[step].operands
    if not isinstance(op, Step):
        return False
    weight = 1.0
    for reader in graph.readers[step]:
        node = graph.nodes[reader]
        if isinstance(node.op, Affine):
            read = zip(node.op.weights, node.operands, strict=True)
            sizes = (np.abs(w.data).max(initial=0.0) for w, o in read if o == step)
            weight = max(weight, *sizes)
    reach = op.slope * graph.facts[operand].magnitude.max(initial=0.0)
    return bool(weight * reach <= LONGEST_RAMP)


def _difference_of_ramps(builder: GraphBuilder, op: Step, operand: int) -> int:
    width = builder.nodes[operand].width
    scaled, eye = Matrix.multiple(op.slope, width), Matrix.identity(width)
    upper, lower = (
        builder.add(Relu(), add_affine(builder, (scaled, operand), bias=offset))
        for offset in (1 + op.shift, op.shift)
    )
    return add_affine(builder, (eye, upper), (eye.scaled(-1.0), lower))
