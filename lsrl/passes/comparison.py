"""Comparisons for targets whose only nonlinearity is a ReLU."""

import numpy as np

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.ops import Affine, Relu, Step


def lower_steps(graph: Graph) -> Graph:
    """Step(x) becomes relu(1 - relu(-slope x - shift)): two levels, saturated on both sides.

    The outer ReLU keeps the step's facts: 0 or 1 (for a ramp, by promise).
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, Step):
            return None
        width = graph.nodes[i].width
        scaled = Matrix(np.diag(np.full(width, -op.slope)))
        below = builder.add(Affine((scaled,), (-op.shift,) * width), operands[0])
        lacking = builder.add(Relu(), below)
        negated = Matrix(np.diag(np.full(width, -1.0)))
        return builder.add(Relu(), builder.add(Affine((negated,), (1.0,) * width), lacking))

    return rewrite(graph, rule)
