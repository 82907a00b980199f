"""Running sums for targets whose states turn their sign at every token.

A delta rule has no factor of exactly 1 that takes anything in: what it adds, it first takes off
what it holds. With the factor -1 nothing is lost, so a running sum s_t = s_{t-1} + u_t is made of
y_t = -y_{t-1} + (-1)^t u_t, which is (-1)^t s_t. A clock of period 2 tells the sign: as a state,
c_t = -c_{t-1} + 1, which is 1 at the first token, 0 at the next one and so on.
"""

import numpy as np

from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Bound, LinearState, Periodic, Product
from lsrl.passes.affine import add_affine, emit_affine


def alternate_sums(graph: Graph) -> Graph:
    """Write running sums, which start at 0, as states of the factor -1; see the module."""

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if not isinstance(op, LinearState):
            return None
        factors, facts = op.transition.csr.diagonal(), graph.facts[i]
        running = np.flatnonzero(factors == 1)
        if not len(running):
            return None
        if len(running) == len(factors):
            return _alternating(builder, operands[0], facts)
        parts = {}
        for own in (running, np.flatnonzero(factors != 1)):
            pick = Matrix.selection(own, len(factors))
            update = emit_affine(builder, {operands[0]: pick}, np.zeros(len(own)))
            made = (
                _alternating(builder, update, facts.take(own))
                if own is running
                else _state(builder, factors[own], update)
            )
            parts[made] = Matrix(pick.csr.T)
        return emit_affine(builder, parts, np.zeros(len(factors)))

    return rewrite(graph, rule, (LinearState,))


def _alternating(builder: GraphBuilder, update: int, facts: Facts) -> int:
    """A running sum of the update, of which the facts are known."""
    width = facts.width
    clock = builder.add(Periodic(Matrix.identity(2)))
    signs = [
        emit_affine(builder, {clock: Matrix.selection([phase] * width, 2)}, np.zeros(width))
        for phase in range(2)
    ]
    turned = _state(builder, np.full(width, -1.0), _signed(builder, signs, update))
    most = facts.magnitude
    if np.isfinite(most).all():
        ends = tuple((-most).tolist()), tuple(most.tolist())
        turned = builder.add(Bound(*ends, proven=True), turned)
    return _signed(builder, signs, turned)


def _signed(builder: GraphBuilder, signs: list[int], value: int) -> int:
    """The value in the first phase, and minus the value in the second."""
    now, then = (builder.add(Product(), sign, value) for sign in signs)
    one = Matrix.identity(builder.nodes[value].width)
    return add_affine(builder, (one, now), (Matrix(-one.csr), then))


def _state(builder: GraphBuilder, factors: Array, update: int) -> int:
    return builder.add(LinearState(Matrix.diagonal(factors), (0.0,) * len(factors)), update)
