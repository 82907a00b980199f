"""Logic in fewer levels: a conjunction of saturated conditions needs one level, not two."""

import numpy as np

from lsrl.ir.bounds import affine_facts
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, Relu
from lsrl.passes.affine import Parts, WaitingSum, emit_affine, plus


def flatten_conjunctions(graph: Graph) -> Graph:
    """relu(a + b - 1) with a = relu(1 - r), b = relu(1 - s) becomes relu(1 - r - s).

    Both are 1 exactly where r = s = 0, and 0 where one of them is 0, since then r or s is at least
    1. It holds for {0,1} conditions a, b only, and saves the level between r and a.
    """
    # A condition whose only reader is another conjunction is left as it is, and that one goes on
    # with its terms: a chain of n conditions then takes n steps and not n² / 2.
    waiting: dict[int, WaitingSum] = {}

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        if not isinstance(graph.nodes[i].op, Relu) or graph.nodes[i].width != 1:
            return None
        if not isinstance(builder.nodes[operands[0]].op, Affine):
            return None
        total = _flattened(builder, operands[0], waiting)
        if total is None:
            return _made(builder, operands[0], waiting)
        if _goes_on(graph, i):
            index = builder.add(Relu(), *operands)
            waiting[index] = total
            return index
        return builder.add(Relu(), emit_affine(builder, total.terms(), total.bias))

    return rewrite(graph, rule, (Relu,))


def _flattened(
    builder: GraphBuilder, index: int, waiting: dict[int, WaitingSum]
) -> WaitingSum | None:
    """What the argument of a conjunction becomes; None if it is of none, or float64 would round."""
    if not _is_conjunction(builder, index):
        return None
    node = builder.nodes[index]
    read = [operand for operand in node.operands if operand in waiting]
    sizes = {operand: len(waiting[operand]) for operand in read if read.count(operand) == 1}
    largest = max(sizes, key=sizes.__getitem__, default=None)
    before, parts, bias = Parts(), Parts(), 1.0
    for weight, operand in zip(node.op.weights, node.operands, strict=True):  # type: ignore[attr-defined]
        if operand == largest:
            before, parts = parts, Parts()
            bias += waiting[operand].bias.item() - 1.0
            continue
        inner = _lacking(builder, operand, waiting)
        if inner is None:
            # A condition of another kind counts as 1 - r with r = 1 - a.
            parts.setdefault(operand, []).append(weight)
            bias -= float(weight.data.sum())
            continue
        terms, shift = inner
        for source, matrix in terms:
            product = weight.exact_product(matrix)
            if product is None:
                return None
            parts.setdefault(source, []).append(product)
        # weight @ (1 - r): the ones cancel the threshold, what is left is -r.
        bias += weight.times(shift - 1.0).item()
    total = WaitingSum() if largest is None else waiting.pop(largest)
    total.add(before, parts, np.array([bias]))
    return total


def _made(builder: GraphBuilder, index: int, waiting: dict[int, WaitingSum]) -> int | None:
    """The ReLU of an affine map with what waits in it flattened; None where nothing does."""
    node = builder.nodes[index]
    if waiting.keys().isdisjoint(node.operands):
        return None
    terms: dict[int, Matrix] = {}
    for weight, operand in zip(node.op.weights, node.operands, strict=True):  # type: ignore[attr-defined]
        made, held = operand, waiting.pop(operand, None)
        if held is not None:
            made = builder.add(Relu(), emit_affine(builder, held.terms(), held.bias))
            builder.inherit(made, builder.nodes[operand], builder.facts[operand].groups)
        terms[made] = plus(terms.get(made), weight)
    return builder.add(Relu(), emit_affine(builder, terms, np.array(node.op.bias)))  # type: ignore[attr-defined]


def _goes_on(graph: Graph, i: int) -> bool:
    """Whether nothing reads a condition but one row, and that nothing but one more conjunction."""
    if i == graph.output or len(graph.readers[i]) != 1:
        return False
    (row,) = graph.readers[i]
    if row == graph.output or len(graph.readers[row]) != 1:
        return False
    (last,) = graph.readers[row]
    return (
        type(graph.nodes[last].op) is Relu
        and graph.nodes[last].width == 1
        and _is_conjunction(graph, row)
    )


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


def _is_conjunction(graph: GraphBuilder | Graph, argument: int) -> bool:
    """Σ of k {0,1} channels minus (k - 1), at least one of them saturated by a ReLU."""
    node = graph.nodes[argument]
    op = node.op
    if not isinstance(op, Affine) or any((w.data != 1).any() for w in op.weights):
        return False
    count = sum(weight.nonzeros for weight in op.weights)
    boolean = all(graph.facts[operand].boolean for operand in node.operands)
    saturated = any(_lacking(graph, operand, {}) is not None for operand in node.operands)
    return boolean and saturated and op.bias == (1.0 - count,)


def _lacking(
    graph: GraphBuilder | Graph, operand: int, waiting: dict[int, WaitingSum]
) -> tuple[list[tuple[int, Matrix]], Array] | None:
    """For a {0,1} node relu(1 - r) with r >= 0: the terms and the bias of 1 - r."""
    if operand in waiting:
        return list(waiting[operand].terms().items()), waiting[operand].bias
    node = graph.nodes[operand]
    if not isinstance(node.op, Relu):
        return None
    argument = graph.nodes[node.operands[0]]
    below_one = (graph.facts[node.operands[0]].high <= 1).all()
    if not isinstance(argument.op, Affine) or not below_one:
        return None
    return list(zip(argument.operands, argument.op.weights, strict=True)), np.array(
        argument.op.bias
    )
