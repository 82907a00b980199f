"""A bounded way out of a refusal: states unrolled over the tokens in log2 T levels.

Every update of a selective, threshold or swap state is a function of the state, and such functions
compose; of running maxima, windows do. Doubling the span of the composition with each level,
ceil(log2 T) levels of delay and composition give the state at every token (the parallel prefix of
Hillis and Steele 1986). It needs width in the order of T, and it is exact up to T tokens.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from lsrl.errors import UnsupportedOpError
from lsrl.ir.evaluate import evaluate
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Bound,
    Constant,
    Delay,
    Input,
    Lookup,
    Product,
    RecurrentState,
    Relu,
    RunningMax,
    Select,
    SelectiveState,
    SwapState,
    ThresholdState,
    is_token,
)
from lsrl.ir.types import Token
from lsrl.passes.affine import add_affine, add_sum
from lsrl.target import Capabilities

# Largest automaton and joint alphabet that are worth unrolling: widths grow with states^2 x tokens.
MAX_STATES = 16
MAX_SYMBOLS = 64
# Most channels of a delay in an unrolled state: a layer's matrix has their square of entries.
MAX_WIDTH = 8192


def unroll_states(graph: Graph, target: Capabilities) -> Graph:
    """Write the states that a target lacks as composed levels: all but recurrent ones.

    States whose updates are not functions of tokens alone stay as they are, and are refused later.

    Raises:
      UnsupportedOpError: an automaton has more states or symbols than can be unrolled.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if type(op) in target.native:
            return None
        if isinstance(op, SelectiveState):
            return _selective(builder, op, operands)
        if isinstance(op, ThresholdState):
            return _threshold(builder, graph, i, op)
        if isinstance(op, SwapState):
            return _swapped(builder, op.points, *operands)
        if isinstance(op, RunningMax) and RecurrentState not in target.native:
            few = op.heights(builder.facts[operands[0]]) is not None
            return None if few else _greatest(builder, op, operands[0])
        return None

    return rewrite(graph, rule)


def _spans(tokens: int, width: int) -> list[int]:
    """1, 2, 4, … until the spans cover all tokens.

    Raises:
      UnsupportedOpError: the longest delay would hold too many channels.
    """
    if width * tokens // 2 > MAX_WIDTH:
        raise UnsupportedOpError(
            f"unroll: {tokens} tokens of a state that takes {width} channels need delays of more "
            f"than {MAX_WIDTH} channels; declare a smaller max_length, or choose another target"
        )
    return [1 << level for level in range(max(tokens - 1, 0).bit_length())]


def _selective(builder: GraphBuilder, op: SelectiveState, operands: tuple[int, ...]) -> int:
    """(keep, update) after (keep', update') is (keep keep', update + keep update')."""
    keep, update = operands
    width = len(op.initial)
    written = builder.facts[update]
    for span in _spans(builder.tokens, width):
        earlier_keep = builder.add(Delay(span, (1.0,) * width), keep)
        earlier_update = builder.add(Delay(span, (0.0,) * width), update)
        update = add_sum(builder, update, builder.add(Product(), keep, earlier_update))
        if op.overwrites:
            low, high = np.minimum(written.low, 0.0), np.maximum(written.high, 0.0)
            update = builder.add(
                Bound(tuple(low.tolist()), tuple(high.tolist()), proven=True), update
            )
        keep = builder.add(Product(), keep, earlier_keep)
    kept = add_affine(builder, (Matrix.diagonal(np.array(op.initial)), keep))
    return add_sum(builder, update, kept)


def _greatest(builder: GraphBuilder, op: RunningMax, value: int) -> int:
    """The greater one of a window's maximum and that of the window before it."""
    eye, facts = Matrix.identity(len(op.initial)), builder.facts[value]
    low, high = np.maximum(facts.low, op.initial), np.maximum(facts.high, op.initial)
    ends = tuple(low.tolist()), tuple(high.tolist())

    def greater(least: int) -> int:
        rise = add_affine(builder, (eye, value), (eye.scaled(-1.0), least))
        both = add_affine(builder, (eye, least), (eye, builder.add(Relu(), rise)))
        return builder.add(Bound(*ends, proven=True), both)

    if (facts.low < op.initial).any():
        value = greater(builder.add(Constant(op.initial)))
    for span in _spans(builder.tokens, len(op.initial)):
        value = greater(builder.add(Delay(span, ends[0]), value))
    return value


def _threshold(builder: GraphBuilder, graph: Graph, i: int, op: ThresholdState) -> int | None:
    """The automaton's transition matrices, multiplied up by doubling."""
    ops = [graph.nodes[node].op for node in graph.live([graph.nodes[i].operands[0]])]
    inputs = [op for op in ops if isinstance(op, Input)]
    if not inputs or not all(op.pointwise for op in ops) or not all(map(is_token, inputs)):
        return None
    symbols = _joint_symbols(inputs)
    updates = _updates(graph, graph.nodes[i].operands[0], inputs, symbols)
    states, successor = _automaton(op, updates, graph.label(i))
    count = len(states)
    transitions = np.zeros((len(symbols), count * count))
    for symbol, state in itertools.product(range(len(symbols)), range(count)):
        transitions[symbol, successor[state][symbol] * count + state] = 1.0
    total = _prefixes(builder, _by_symbol(builder, inputs, symbols, transitions), count)
    # The automaton starts in state 0, so column 0 tells where it is now.
    read = np.zeros((len(op.initial), count * count))
    for state, bits in enumerate(states):
        read[:, state * count] = bits
    return add_affine(builder, (Matrix(read), total))


def _prefixes(builder: GraphBuilder, total: int, count: int) -> int:
    """The product of all matrices of 0 and 1, one 1 a column, up to each token."""
    for span in _spans(builder.tokens, count * count):
        earlier = builder.add(Delay(span, tuple(np.eye(count).ravel().tolist())), total)
        total = _composed(builder, total, earlier, count)
    return total


def _swapped(builder: GraphBuilder, points: int, swap: int, read: int) -> int:
    """The permutations of points with a sign, multiplied up by doubling.

    Place p stands for point p with the sign 1, and place p + n for the same with the other.
    """
    count, pairs = 2 * points, list(itertools.combinations(range(points), 2))
    ends = [Matrix.selection([pair[k] for pair in pairs], points) for k in (0, 1)]
    both = builder.add(Relu(), add_affine(builder, *((end, swap) for end in ends), bias=-1.0))
    moves, stays = np.zeros((count, count, len(pairs))), np.zeros((count, count, points))
    for number, (i, k) in enumerate(pairs):
        for old, new in ((i, k + points), (k, i + points), (i + points, k), (k + points, i)):
            moves[new, old, number] = 1
    for place in range(count):
        stays[place, place, place % points] = -1
    terms = ((moves.reshape(count * count, -1), both), (stays.reshape(count * count, -1), swap))
    identity = np.eye(count).ravel()
    step = add_affine(builder, *((Matrix(part), node) for part, node in terms), bias=identity)
    step = builder.add(Bound((0.0,) * len(identity), (1.0,) * len(identity), proven=True), step)
    total = _prefixes(builder, step, count)
    # What an item's place reads is told by the swaps of the tokens before.
    before = builder.add(Delay(1, tuple(identity.tolist())), total)
    flags = [place * count + item for place in range(count) for item in range(points)]
    here = add_affine(builder, (Matrix.selection(flags, count * count), before))
    seen = np.repeat(np.tile(np.arange(points), 2), points)
    values = add_affine(builder, (Matrix.selection(seen, points), read))
    shut = builder.add(Select("relu"), here, values, builder.add(Constant((0.0,) * len(flags))))
    gather = Matrix.selection(np.tile(np.arange(points), count), points).csr.T
    sign = np.repeat([1.0, -1.0], points * points)
    return add_affine(builder, (Matrix(gather * sign), shut))


def _joint_symbols(inputs: Sequence[Input]) -> list[tuple[int, ...]]:
    sizes = [op.type.size for op in inputs if isinstance(op.type, Token)]
    if np.prod(sizes) > MAX_SYMBOLS:
        raise UnsupportedOpError(
            f"unroll: expected at most {MAX_SYMBOLS} joint symbols, got {int(np.prod(sizes))}"
        )
    return list(itertools.product(*(range(size) for size in sizes)))


def _updates(
    graph: Graph, operand: int, inputs: Sequence[Input], symbols: list[tuple[int, ...]]
) -> Array:
    """(symbols, width): the update at each joint symbol."""
    arrays = [np.zeros((1, len(symbols)))] * len(graph.inputs)
    for op, column in zip(inputs, zip(*symbols, strict=True), strict=True):
        arrays[op.index] = np.array([column])
    probe = Graph(graph.nodes[: operand + 1], operand, graph.facts[: operand + 1], graph.tokens)
    # Every symbol once is no run of the program, so its promises say nothing here.
    values = evaluate(probe, arrays, exact=True, interventions={})
    return values[operand][0].astype(np.float64)


def _automaton(
    op: ThresholdState, updates: Array, label: str
) -> tuple[list[Array], list[list[int]]]:
    """The states that can be reached, the initial one first, and their successors by symbol."""
    states = [np.array(op.initial)]
    successor: list[list[int]] = []
    number = {states[0].tobytes(): 0}
    while len(successor) < len(states):
        state = states[len(successor)]
        row = []
        for update in updates:
            following = (op.transition.csr @ state + update > 0).astype(np.float64)
            key = following.tobytes()
            if key not in number:
                number[key] = len(states)
                states.append(following)
            row.append(number[key])
        successor.append(row)
        if len(states) > MAX_STATES:
            raise UnsupportedOpError(
                f"unroll: {label} reaches more than {MAX_STATES} states, and the unrolled width "
                "grows with their square; choose a target that holds threshold states"
            )
    return states, successor


def _by_symbol(
    builder: GraphBuilder, inputs: Sequence[Input], symbols: list[tuple[int, ...]], table: Array
) -> int:
    """The row of a table at the present joint symbol."""
    places = {
        node.op.index: position
        for position, node in enumerate(builder.nodes)
        if isinstance(node.op, Input)
    }
    mine = [places[op.index] for op in inputs]
    if len(mine) == 1:
        return builder.add(Lookup(Matrix(table)), mine[0])
    parts = []
    for column, node in enumerate(mine):
        values = [symbol[column] for symbol in symbols]
        parts.append(builder.add(Lookup(Matrix(np.eye(max(values) + 1)[:, values])), node))
    eye = Matrix.identity(len(symbols))
    both = add_affine(builder, *((eye, part) for part in parts), bias=1.0 - len(parts))
    return add_affine(builder, (Matrix(table.T), builder.add(Relu(), both)))


def _composed(builder: GraphBuilder, later: int, earlier: int, count: int) -> int:
    """The product of two 0/1 matrices, one 1 a column: Σ_k relu(later_ik + earlier_kj - 1)."""
    triples = list(itertools.product(range(count), repeat=3))
    first = Matrix.selection([i * count + k for i, k, _ in triples], count * count)
    second = Matrix.selection([k * count + j for _, k, j in triples], count * count)
    paths = builder.add(Relu(), add_affine(builder, (first, later), (second, earlier), bias=-1.0))
    gather = Matrix.selection([i * count + j for i, _, j in triples], count * count)
    total = add_affine(builder, (Matrix(gather.csr.T), paths))
    ones, zeros = (1.0,) * count * count, (0.0,) * count * count
    return builder.add(Bound(zeros, ones, proven=True), total)
