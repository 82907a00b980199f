"""Ops that the bounds decide: ReLUs and comparisons with one outcome, gates that never shut."""

import numpy as np

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.ops import Constant, Product, Relu, Select, Step
from lsrl.passes.affine import add_affine


def drop_decided(graph: Graph) -> Graph:
    """Replace ops whose outcome the bounds decide by what they then are.

    relu(x) is x where low >= 0 and 0 where high <= 0; a comparison with one outcome is a constant;
    a product with a constant is an affine map; select with a known condition is one of its values.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        read = [builder.facts[operand] for operand in operands]
        if isinstance(op, Relu):
            return _relu(builder, operands[0])
        if isinstance(op, Step) and graph.facts[i].constant:
            return builder.add(Constant(tuple(graph.facts[i].low.tolist())))
        if isinstance(op, Product):
            for constant, value in (operands, operands[::-1]):
                if builder.facts[constant].constant:
                    scale = Matrix.diagonal(builder.facts[constant].low)
                    return add_affine(builder, (scale, value))
        if isinstance(op, Select) and (read[0].constant or operands[1] == operands[2]):
            if operands[1] == operands[2] or (read[0].low == 1).all():
                return operands[1]
            if (read[0].low == 0).all():
                return operands[2]
        return None

    return rewrite(graph, rule, (Relu, Step, Product, Select))


def _relu(builder: GraphBuilder, operand: int) -> int | None:
    facts = builder.facts[operand]
    if facts.width == 1 and facts.low.item() < 0 < facts.high.item():
        return None
    if (facts.low >= 0).all():
        return operand
    if (facts.high <= 0).all():
        return builder.add(Constant((0.0,) * facts.width))
    open_, shut = facts.low >= 0, facts.high <= 0
    decided = open_ | shut
    if not decided.any():
        return None
    passed = Matrix.diagonal(open_)
    if decided.all():
        return add_affine(builder, (passed, operand))
    # Only the undecided channels need a ReLU; the others pass through or vanish.
    pick = Matrix.selection(np.flatnonzero(~decided), facts.width)
    cut = builder.add(Relu(), add_affine(builder, (pick, operand)))
    return add_affine(builder, (passed, operand), (pick.transposed, cut))
