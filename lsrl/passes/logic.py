"""Logic in fewer levels: a conjunction of saturated conditions needs one level, not two."""

import numpy as np

from lsrl.ir.bounds import affine_facts
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.ops import Affine, Relu
from lsrl.passes.affine import emit_affine, plus


def flatten_conjunctions(graph: Graph) -> Graph:
    """relu(a + b - 1) with a = relu(1 - r), b = relu(1 - s) becomes relu(1 - r - s).

    Both are 1 exactly where r = s = 0, and 0 where one of them is 0, since then r or s is at least
    1. It holds for {0,1} conditions a, b only, and saves the level between r and a.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        if not isinstance(graph.nodes[i].op, Relu) or graph.nodes[i].width != 1:
            return None
        argument = builder.nodes[operands[0]]
        if not isinstance(argument.op, Affine) or not _is_conjunction(builder, operands[0]):
            return None
        terms: dict[int, Matrix] = {}
        bias = 1.0
        for weight, operand in zip(argument.op.weights, argument.operands, strict=True):
            lacking = _lacking(builder, operand)
            if lacking is None:
                # A condition of another kind counts as 1 - r with r = 1 - a.
                terms[operand] = plus(terms.get(operand), weight)
                bias -= float(weight.data.sum())
                continue
            inner, sources = lacking
            for matrix, source in zip(inner.weights, sources, strict=True):
                product = weight.exact_product(matrix)
                if product is None:
                    return None
                terms[source] = plus(terms.get(source), product)
            # weight @ (1 - r): the ones cancel the threshold, what is left is -r.
            bias += weight.times(np.array(inner.bias) - 1.0).item()
        return builder.add(Relu(), emit_affine(builder, terms, np.array([bias])))

    return rewrite(graph, rule, (Relu,))


def flatten_relus(graph: Graph) -> Graph:
    """relu(c relu(x) - m) with c > 0 and m >= 0 becomes relu(c x - m).

    Where x < 0 both are 0, since then neither side of -m is positive.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        argument = builder.nodes[operands[0]] if operands else None
        if (
            argument is None
            or not isinstance(graph.nodes[i].op, Relu)
            or not isinstance(argument.op, Affine)
        ):
            return None
        weights, read = list(argument.op.weights), list(argument.operands)
        for k, (weight, operand) in enumerate(zip(weights, read, strict=True)):
            inner = builder.nodes[operand]
            if isinstance(inner.op, Relu) and _only_shuts(builder, argument.op, read, k):
                terms = {o: w for j, (o, w) in enumerate(zip(read, weights, strict=True)) if j != k}
                source = inner.operands[0]
                terms[source] = plus(terms.get(source), weight)
                return builder.add(Relu(), emit_affine(builder, terms, np.array(argument.op.bias)))
        return None

    return rewrite(graph, rule, (Relu,))


def _only_shuts(builder: GraphBuilder, op: Affine, read: list[int], k: int) -> bool:
    """Whether operand k enters each row once, positively, and the rest of that row is never > 0."""
    weight = op.weights[k]
    if (weight.data < 0).any() or (np.diff(weight.indptr) > 1).any():
        return False
    rows = np.flatnonzero(np.diff(weight.indptr))
    others = [j for j in range(len(read)) if j != k]
    rest = affine_facts(
        [op.weights[j] for j in others], np.array(op.bias), [builder.facts[read[j]] for j in others]
    )
    return bool((rest.high[rows] <= 0).all())


def _is_conjunction(builder: GraphBuilder, argument: int) -> bool:
    """Σ of k {0,1} channels minus (k - 1), at least one of them saturated by a ReLU."""
    node = builder.nodes[argument]
    op = node.op
    if not isinstance(op, Affine) or any((w.data != 1).any() for w in op.weights):
        return False
    count = sum(weight.nonzeros for weight in op.weights)
    boolean = all(builder.facts[operand].boolean for operand in node.operands)
    saturated = any(_lacking(builder, operand) is not None for operand in node.operands)
    return boolean and saturated and op.bias == (1.0 - count,)


def _lacking(builder: GraphBuilder, operand: int) -> tuple[Affine, tuple[int, ...]] | None:
    """For a {0,1} node relu(1 - r) with r >= 0: the affine map 1 - r and what it reads."""
    node = builder.nodes[operand]
    if not isinstance(node.op, Relu):
        return None
    argument = builder.nodes[node.operands[0]]
    below_one = (builder.facts[node.operands[0]].high <= 1).all()
    if not isinstance(argument.op, Affine) or not below_one:
        return None
    return argument.op, argument.operands
