"""Memory for selective state spaces: states without coupling, holds, and delays of a few tokens.

Their states are s = a s + u with a factor from 0 to 1 for each channel. What else a program
remembers is written in these terms, exactly up to its max_length:

- The channels of a linear state fall into strongly connected components, taken in order. A single
  channel is a running sum or a decay; what it reads of other channels is delayed by one token, so a
  shift register becomes delays.
- A ring of channels (a permutation) turns with the clock: in coordinates that turn with it, it
  stands still. So each of its n phases becomes a running sum, which takes in, and gives out, what
  is at its place by a one-hot clock.
- A clock, which reads no input, is a function of the position: a sum of ReLUs of it. One of period
  2 stays where states can turn their sign at every token.
- A latch and an overwriting selective state become a hold; any other selective state the running
  sum of its updates less what that sum was at the last reset.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Affine,
    Bound,
    Constant,
    Delay,
    Hold,
    Latch,
    LinearState,
    Lookup,
    Periodic,
    Product,
    Relu,
    Select,
    SelectiveState,
    Step,
)
from lsrl.ir.structure import around, components, is_diagonal
from lsrl.passes.affine import emit_affine
from lsrl.target import Capabilities

# A function of the position is written down whole, a ReLU a bend, up to so many tokens, or where it
# has few bends, and up to the greatest sum of its ReLUs. Beyond, the position is first taken modulo
# its period, which takes further blocks, but no more channels the more tokens there are.
MAX_HINGES = 1024
FEW_HINGES = 64
MAX_HINGE_SUM = 2.0**23
# The period of clocks that are states of the factor -1.
BLINKS = 2
# Multiples that one stage of a modulo takes off.
RADIX = 8

# A value as a sum: (node, channel, lag) to weight; node None is the constant 1. What lies before
# the first token counts as 0.
Sum = dict[tuple[int | None, int, int], float]


def lower_to_diagonal(graph: Graph, target: Capabilities) -> Graph:
    """Write every state, delay and clock as `target`, a diagonal one, has them; see the module."""

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if isinstance(op, LinearState):
            return _linear_state(builder, op, operands[0], target)
        if isinstance(op, Delay):
            return _delay(builder, op, operands[0], target)
        if isinstance(op, Periodic):
            if target.alternating and op.table.rows == BLINKS:
                return None
            return _clock(builder, op.table.dense())
        if isinstance(op, Latch):
            wide = Matrix(np.ones((len(op.initial), 1)))
            when = emit_affine(builder, {operands[1]: wide}, np.zeros(wide.rows))
            return _hold(builder, op.initial, operands[0], when)
        if isinstance(op, SelectiveState):
            return _selective(builder, op, *operands)
        if isinstance(op, Hold):  # what it takes is all that a gate needs to know
            return _hold(builder, op.initial, *operands[:2])
        return None

    return rewrite(graph, rule)


# ---------------------------------------------------------------- linear states


def _linear_state(
    builder: GraphBuilder, op: LinearState, operand: int, target: Capabilities
) -> int:
    transition, start = op.transition.csr, np.array(op.initial)
    if is_diagonal(op.transition):
        return _diagonal_state(builder, transition.diagonal(), start, operand)
    values: dict[int, Sum] = {}
    for channels in components(op.transition):
        incoming = [_read(transition, values, start, operand, i, channels) for i in channels]
        block = transition[channels][:, channels]
        if len(channels) > 1:
            order = around(block)
            update = _emit(builder, [incoming[k] for k in order], target)
            ring = _ring(builder, update, start[[channels[k] for k in order]])
            values.update({channels[k]: {(ring, n, 0): 1.0} for n, k in enumerate(order)})
        elif block.nnz:
            update = _emit(builder, incoming, target)
            state = _diagonal_state(builder, block.diagonal(), start[channels], update)
            values[channels[0]] = {(state, 0, 0): 1.0}
        else:
            values[channels[0]] = incoming[0]
    return _emit(builder, [values[i] for i in range(len(start))], target)


def _read(
    transition: sp.csr_array,
    values: dict[int, Sum],
    start: Array,
    operand: int,
    i: int,
    own: list[int],
) -> Sum:
    """What channel i reads at a token of the update and of other components a token ago."""
    total: Sum = defaultdict(float)
    total[operand, i, 0] += 1.0
    columns = transition.indices[transition.indptr[i] : transition.indptr[i + 1]]
    weights = transition.data[transition.indptr[i] : transition.indptr[i + 1]]
    for j, weight in zip(columns.tolist(), weights.tolist(), strict=True):
        if j in own:
            continue
        for (node, channel, lag), factor in values[j].items():
            total[node, channel, lag + 1] += weight * factor
        # Before the first token the channel is `start`, and what is delayed counts as 0.
        total[None, 0, 0] += weight * start[j]
        total[None, 0, 1] -= weight * start[j]
    return {key: weight for key, weight in total.items() if weight}


def _diagonal_state(builder: GraphBuilder, factors: Array, start: Array, update: int) -> int:
    """With r = s - start: r_t = a r_{t-1} + u - (1 - a) start, and r starts at zero."""
    start = np.where(factors == 0, 0.0, start)
    width = len(factors)
    eye = Matrix.identity(width)
    shifted = emit_affine(builder, {update: eye}, -(1 - factors) * start)
    state = builder.add(LinearState(Matrix.diagonal(factors), (0.0,) * width), shifted)
    return emit_affine(builder, {state: eye}, start)


def _ring(builder: GraphBuilder, update: int, start: Array) -> int:
    """s_k = s_{k-1} a token ago + u_k, around a ring; phase p is s_k with p = k - t modulo n."""
    size = len(start)
    facts = builder.facts[update]
    entered = np.flatnonzero(facts.magnitude)
    if not len(entered):
        turned = np.stack([start[(np.arange(size) - t - 1) % size] for t in range(size)])
        return _clock(builder, turned)
    clock = _clock(builder, np.eye(size))
    phases = np.arange(size)
    taken: dict[int, Matrix] = {}
    for side, reach in ((1.0, facts.high), (-1.0, -facts.low)):
        for k in entered[reach[entered] > 0]:
            # relu(±u - M (1 - now)): shut unless the clock says that phase p is at channel k.
            enters = np.zeros((size, facts.width))
            enters[:, k] = side
            now = np.zeros((size, size))
            now[phases, (k - phases) % size] = reach[k]
            read = {update: Matrix(enters), clock: Matrix(now)}
            argument = emit_affine(builder, read, np.full(size, -reach[k]))
            taken[builder.add(Relu(), argument)] = Matrix.diagonal(np.full(size, side))
    total = emit_affine(builder, taken, np.zeros(size))
    standing = _diagonal_state(builder, np.ones(size), start[(phases - 1) % size], total)
    pairs = [(k, p) for k in range(size) for p in range(size)]
    place = Matrix.selection([p for _, p in pairs], size)
    at = Matrix.selection([(k - p) % size for k, p in pairs], size)
    gate = emit_affine(builder, {clock: at}, np.zeros(size * size))
    value = emit_affine(builder, {standing: place}, np.zeros(size * size))
    given = builder.add(Product(), gate, value)
    gathered = Matrix(sp.kron(sp.eye_array(size), np.ones((1, size))))
    return emit_affine(builder, {given: gathered}, np.zeros(size))


# ---------------------------------------------------------------- delays


def _delay(builder: GraphBuilder, op: Delay, operand: int, target: Capabilities) -> int:
    start, eye = np.array(op.initial), Matrix.identity(len(op.initial))
    shifted = emit_affine(builder, {operand: eye}, -start)
    return emit_affine(builder, {_delayed(builder, shifted, op.steps, target): eye}, start)


def _delayed(
    builder: GraphBuilder,
    node: int,
    steps: int,
    target: Capabilities,
    known: dict[tuple[int, int], int] | None = None,
) -> int:
    """The node `steps` tokens ago, zeros before the start, by as many delays as it takes.

    What never changes is told by the position, since a chain of delays takes a block each.

    Args:
      builder: of the graph.
      node: what is delayed.
      steps: by how many tokens.
      target: what one delay can do.
      known: what earlier calls have made of full delays, by node and steps; gets more.
    """
    facts = builder.facts[node]
    if steps > target.longest_delay and facts.constant:
        late = emit_affine(builder, {_position(builder): Matrix.identity(1)}, np.array([-steps]))
        begun = builder.add(Step(1.0, 0.0), late)
        return emit_affine(builder, {begun: Matrix(facts.low[:, None])}, np.zeros(len(facts.low)))
    made, longest = {} if known is None else known, target.longest_delay
    silence = (0.0,) * builder.nodes[node].width
    rest = steps % longest
    begun = start = steps - rest
    while start and (node, start) not in made:
        start -= longest
    last = made.get((node, start), node)
    for reached in range(start + longest, begun + 1, longest):
        last = made[node, reached] = builder.add(Delay(longest, silence), last)
    return builder.add(Delay(rest, silence), last) if rest else last


def _emit(builder: GraphBuilder, values: list[Sum], target: Capabilities) -> int:
    """A node with these values for its channels."""
    entries: dict[tuple[int | None, int], list[tuple[int, int, float]]] = defaultdict(list)
    bias = np.zeros(len(values))
    for row, value in enumerate(values):
        for (node, channel, lag), weight in value.items():
            if node is None and not lag:
                bias[row] += weight
            else:
                entries[node, lag].append((row, channel, weight))
    one = builder.add(Constant((1.0,)))
    terms: dict[int, Matrix] = {}
    known: dict[tuple[int, int], int] = {}
    for (node, lag), found in entries.items():
        source = one if node is None else node
        rows, channels, weights = zip(*found, strict=True)
        shape = (len(values), builder.nodes[source].width)
        matrix = Matrix(sp.csr_array((np.array(weights), (rows, channels)), shape))
        terms[_delayed(builder, source, lag, target, known)] = matrix
    return emit_affine(builder, terms, bias)


# ---------------------------------------------------------------- holds


def _hold(builder: GraphBuilder, initial: tuple[float, ...], value: int, when: int) -> int:
    """With r = s - initial, r starts at zero."""
    start, eye = np.array(initial), Matrix.identity(len(initial))
    shifted = emit_affine(builder, {value: eye}, -start)
    held = builder.add(Hold((0.0,) * len(initial)), shifted, when)
    return emit_affine(builder, {held: eye}, start)


def _selective(builder: GraphBuilder, op: SelectiveState, keep: int, update: int) -> int:
    width = len(op.initial)
    when = _inverse(builder, keep)
    if op.overwrites:
        return _hold(builder, op.initial, _unmasked(builder, update, when), when)
    eye, start = Matrix.identity(width), np.array(op.initial)
    total = builder.add(LinearState(eye, (0.0,) * width), update)
    before = builder.add(Delay(1, (0.0,) * width), total)
    # Up to the first reset the sum starts at `initial`, and so less than nothing was reset.
    removed = emit_affine(builder, {before: eye}, start)
    reset = builder.add(Hold((0.0,) * width), removed, when)
    return emit_affine(builder, {total: eye, reset: Matrix(-eye.csr)}, start)


def _inverse(builder: GraphBuilder, condition: int) -> int:
    """1 - condition, as short as can be."""
    node = builder.nodes[condition]
    if isinstance(node.op, Lookup):
        table = Matrix(1.0 - node.op.table.dense())
        return builder.add(Lookup(table), *node.operands)
    minus = Matrix.diagonal(-np.ones(node.width))
    if isinstance(node.op, Affine) and node.op.weights == (minus,) and set(node.op.bias) == {1.0}:
        return node.operands[0]
    return emit_affine(builder, {condition: minus}, np.ones(node.width))


def _unmasked(builder: GraphBuilder, update: int, when: int) -> int:
    """The value in `when` ? value : 0, since a hold reads it only there."""
    node = builder.nodes[update]
    if isinstance(node.op, Select) and node.operands[0] == when:
        facts = builder.facts[node.operands[2]]
        return node.operands[1] if not facts.magnitude.any() else update
    if isinstance(node.op, Product) and when in node.operands:
        return node.operands[1 - node.operands.index(when)]
    return update


# ---------------------------------------------------------------- clocks


def _position(builder: GraphBuilder) -> int:
    one = builder.add(Constant((1.0,)))
    count = builder.add(LinearState(Matrix.identity(1), (0.0,)), one)
    return emit_affine(builder, {count: Matrix.identity(1)}, np.array([-1.0]))


def _clock(builder: GraphBuilder, table: Array) -> int:
    """Row t mod n of a table, as a sum of ReLUs of the position, or of it modulo n."""
    tokens, period = builder.tokens, len(table)
    position = _position(builder)
    if tokens > period:
        whole = np.tile(table, (-(-tokens // period), 1))[:tokens] if tokens <= 1 << 16 else None
        if whole is not None and _fits(whole):
            return _hinges(builder, position, whole)
        position = _modulo(builder, position, tokens, period)
        tokens = period
    return _hinges(builder, position, table[:tokens])


def _fits(table: Array) -> bool:
    bends = np.abs(np.diff(table, n=2, axis=0))
    reach = np.arange(len(bends), 0, -1.0)
    most = MAX_HINGES if len(table) <= MAX_HINGES else FEW_HINGES
    few = int(np.count_nonzero(bends.any(axis=1))) <= most
    return few and bool((reach @ bends).max(initial=0.0) <= MAX_HINGE_SUM)


def _hinges(builder: GraphBuilder, index: int, table: Array) -> int:
    """Row i of a table for an integer i: linear between its bends, each of them a ReLU."""
    bends = np.diff(table, n=2, axis=0)
    at = np.flatnonzero(bends.any(axis=1))
    slope = table[1] - table[0] if len(table) > 1 else np.zeros(table.shape[1])
    terms = {index: Matrix(slope[:, None])}
    if len(at):
        ones = Matrix(np.ones((len(at), 1)))
        argument = emit_affine(builder, {index: ones}, -(at + 1.0))
        terms[builder.add(Relu(), argument)] = Matrix(bends[at].T)
    found = emit_affine(builder, terms, table[0].astype(np.float64))
    low, high = table.min(axis=0), table.max(axis=0)
    return _proven(builder, found, low, high)


def _modulo(builder: GraphBuilder, value: int, size: int, period: int) -> int:
    """Value mod period of an integer from 0 to size - 1, by stages that take multiples off."""
    while size > period:
        unit = period * -(-size // (RADIX * period))
        multiples = unit * np.arange(1, -(-size // unit), dtype=np.float64)
        minus, one = np.full((len(multiples), 1), -1.0), np.ones(len(multiples))
        # 1 where value >= multiple, in two levels, so that no sum is larger than the value.
        lacking = builder.add(Relu(), emit_affine(builder, {value: Matrix(minus)}, multiples))
        reached = builder.add(Relu(), emit_affine(builder, {lacking: Matrix.diagonal(-one)}, one))
        taken = Matrix(np.full((1, len(one)), -float(unit)))
        rest = emit_affine(builder, {value: Matrix.identity(1), reached: taken}, np.zeros(1))
        size = unit
        value = _proven(builder, rest, np.zeros(1), np.array([size - 1.0]))
    return value


def _proven(builder: GraphBuilder, node: int, low: Iterable[float], high: Iterable[float]) -> int:
    ends = tuple(map(float, low)), tuple(map(float, high))
    return builder.add(Bound(*ends, proven=True), node)
