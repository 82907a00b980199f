"""Running sums for targets whose states turn their sign at every token.

A delta rule has no factor of exactly 1 that takes anything in: what it adds, it first takes off
what it holds. With the factor -1 nothing is lost, so a running sum s_t = s_{t-1} + u_t is made of
y_t = -y_{t-1} + (-1)^t u_t, which is (-1)^t s_t. The sign is 2 c - 1, and the clock c, which is 1
at the first token, 0 at the next one and so on, is such a state too: c_t = -c_{t-1} + 1.
"""

import numpy as np

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Bound, Constant, LinearState, Product
from lsrl.passes.affine import emit_affine


def alternate_sums(graph: Graph) -> Graph:
    """Write running sums, which start at 0, as states of the factor -1; see the module."""

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, LinearState):
            return None
        factors = op.transition.csr.diagonal()
        running = np.flatnonzero(factors == 1)
        if not len(running):
            return None
        if len(running) == len(factors):
            return _alternating(builder, operands[0], len(factors))
        parts = {}
        for own in (running, np.flatnonzero(factors != 1)):
            pick = Matrix.selection(own, len(factors))
            update = emit_affine(builder, {operands[0]: pick}, np.zeros(len(own)))
            made = (
                _alternating(builder, update, len(own))
                if own is running
                else _state(builder, factors[own], update)
            )
            parts[made] = Matrix(pick.csr.T)
        return emit_affine(builder, parts, np.zeros(len(factors)))

    return rewrite(graph, rule)


def _alternating(builder: GraphBuilder, update: int, width: int) -> int:
    """A running sum of the update."""
    one = builder.add(Constant((1.0,)))
    begun = _state(builder, np.array([-1.0]), one)
    clock = builder.add(Bound((0.0,), (1.0,), proven=True), begun)
    turning = np.ones((width, 1))
    sign = emit_affine(builder, {clock: Matrix(2.0 * turning)}, -np.ones(width))
    turned = builder.add(Product(), sign, update)
    return builder.add(Product(), sign, _state(builder, np.full(width, -1.0), turned))


def _state(builder: GraphBuilder, factors: Array, update: int) -> int:
    return builder.add(LinearState(Matrix.diagonal(factors), (0.0,) * len(factors)), update)
