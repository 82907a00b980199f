"""Delays, clocks, latches and holds as linear states."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from lsrl.ir.arithmetic import Values
from lsrl.ir.graph import Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Bound,
    Constant,
    Delay,
    Hold,
    Latch,
    LinearState,
    Periodic,
    Read,
    Recall,
    Relu,
    Select,
    SelectiveState,
)
from lsrl.passes.affine import add_affine, emit_affine
from lsrl.target import Capabilities

# So many integers are told apart in one level.
MOST_HATS = 64
# Of sums of integers in float32, with room.
LARGEST = 2.0**22


def drop_told(graph: Graph, target: Capabilities) -> Graph:
    """Drop what ops only tell.

    A promise has done its work once its interval is among the facts of what it bounds. A read of a
    memory is the words that cells make, unless the target recalls them: not real numbers, for what
    writes a cell of an associative state is the difference to what it holds; nor by addresses so
    large that no sum tells them apart in one level.
    """

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        op = graph.nodes[i].op
        if isinstance(op, Bound):
            return operands[0]
        if isinstance(op, Read):
            address, value, _, wanted = (builder.facts[operand] for operand in operands[:4])
            near = all(fact.magnitude.item() < LARGEST / 2 for fact in (address, wanted))
            recalls = Recall in target.native and value.counted and near
            return _recalled(builder, op, operands) if recalls else operands[-1]
        return None

    return rewrite(graph, rule, (Bound, Read))


def _recalled(builder: GraphBuilder, op: Read, operands: tuple[int, ...]) -> int:
    """One recall a word; what cells hold initially is added to what they are written beyond it."""
    target, value, writes, address, opens, words = operands
    width = builder.nodes[value].width
    count = builder.nodes[words].width // width
    cells = np.concatenate([np.arange(*segment) for segment in op.segments])
    start = Matrix(np.reshape(op.initial, (-1, width)).T)
    (written,) = _one_hots(builder, target, writes, [cells])
    eye = Matrix.identity(width)
    if start.nonzeros:
        here = _clipped(builder, written)
        value = add_affine(builder, (eye, value), (Matrix(-start.csr), here))
    empty, parts = Recall((0.0,) * len(op.initial)), []
    wanted = _one_hots(builder, address, opens, [cells - word for word in range(count)])
    for word, one_hot in enumerate(wanted):
        place = Matrix(sp.eye_array(count * width, width, k=-word * width))
        parts.append((place, builder.add(empty, written, value, one_hot)))
        if start.nonzeros:
            parts.append((Matrix(place.csr @ start.csr), _clipped(builder, one_hot)))
    return add_affine(builder, *parts) if len(parts) > 1 else parts[0][1]


def _one_hots(
    builder: GraphBuilder, address: int, opens: int, wanted: Sequence[Array]
) -> list[int]:
    """For each list of integers rows that are 1 at the one that an address is, and else 0 or less.

    None is 1 where the address is not let through. Few integers are told apart in one level, more
    by the block that an address lies in and by its place there.
    """
    every = np.unique(np.concatenate(wanted))
    shut, blocks, place = builder.facts[opens], None, address
    starts = np.zeros(1)
    if len(every) > MOST_HATS:
        starts = _starts(every)
        blocks, place = _blocks(builder, address, starts)
    block = np.searchsorted(starts, every, side="right") - 1 if blocks is not None else 0 * every
    levels, column = np.unique(every - starts[block], return_inverse=True)
    hats, found = _hats(builder, place, levels), []
    for integers in wanted:
        at = np.searchsorted(every, integers)
        terms = [(Matrix.selection(column[at], len(levels)), hats)]
        if blocks is not None:
            terms.append((Matrix.selection(block[at], len(starts)), blocks))
        if not shut.constant or not shut.low.all():
            terms.append((Matrix(np.ones((len(at), 1))), opens))
        found.append(add_affine(builder, *terms, bias=1.0 - len(terms)))
    return found


def _starts(integers: Array) -> Array:
    """Where blocks of about the root of all integers start, and where gaps between them do."""
    long = max(int(np.sqrt(2 * len(integers))), 1)
    runs = np.split(integers, np.flatnonzero(np.diff(integers) > 1) + 1)
    parts = [np.append(run[::long], run[-1] + 1) for run in runs]
    return np.unique(np.concatenate(parts))


def _blocks(builder: GraphBuilder, address: int, starts: Array) -> tuple[int, int]:
    """Which block an integer lies in, one-hot, none ahead of the first; and its place there."""
    count, fact = len(starts), builder.facts[address]
    jumps = np.diff(starts, prepend=starts[0])
    farthest = max(fact.high[0] - starts[0], 1.0)
    if 2 * farthest * jumps.sum() < LARGEST:
        levels = _reached(builder, address, np.concatenate([starts - 1, starts]))
        passed = Matrix(sp.hstack([sp.eye_array(count), -sp.eye_array(count)])), levels
        bias = np.zeros(count)
    else:  # in two levels, so that nothing exceeds the address
        lacking = add_affine(
            builder,
            (Matrix(-sp.eye_array(count)), _reached(builder, address, starts - 1)),
            bias=np.ones(count),
        )
        passed = Matrix(-sp.eye_array(count)), builder.add(Relu(), lacking)
        bias = np.ones(count)
    matrix, levels = passed
    here = sp.csr_array(sp.eye_array(count) - sp.eye_array(count, k=1))
    back = sp.csr_array(-jumps[None, :])
    one_hot = add_affine(builder, (Matrix(here @ matrix.csr), levels), bias=here @ bias)
    terms = ((Matrix.identity(1), address), (Matrix(back @ matrix.csr), levels))
    return _told(builder, one_hot), add_affine(builder, *terms, bias=back @ bias - starts[:1])


def _hats(builder: GraphBuilder, x: int, integers: Array) -> int:
    """Which of some integers a value is: a ReLU at each, and at both of its neighbours."""
    levels = np.unique(np.concatenate([integers - 1, integers, integers + 1]))
    at = np.searchsorted(levels, integers)
    before, here, behind = (Matrix.selection(at + k, len(levels)).csr for k in (-1, 0, 1))
    reached = _reached(builder, x, levels)
    return _told(builder, add_affine(builder, (Matrix(before - 2 * here + behind), reached)))


def _reached(builder: GraphBuilder, x: int, levels: Array) -> int:
    """By how much a value is above each level."""
    ones = Matrix(np.ones((len(levels), 1)))
    return builder.add(Relu(), add_affine(builder, (ones, x), bias=-levels))


def _clipped(builder: GraphBuilder, row: int) -> int:
    """A one-hot of rows that may be below 0."""
    if (builder.facts[row].low >= 0).all():
        return row
    return _told(builder, builder.add(Relu(), row))


def _told(builder: GraphBuilder, one_hot: int) -> int:
    """That a value is 0 everywhere, or 1 in one channel."""
    width = builder.nodes[one_hot].width
    ends = (0.0,) * width, (1.0,) * width
    return builder.add(Bound(*ends, proven=True, exclusive=True), one_hot)


def lower_memory(graph: Graph, target: Capabilities) -> Graph:
    """Delay becomes a shift register, Periodic a ring, Latch a gated running sum.

    So does a hold that is told its change, unless that is continuous, so that sums of it round, and
    the target can overwrite.

    All delays of one signal share a register, those of its delays too, and all clocks whose periods
    divide one another a ring.
    """
    delays = _delays(graph)
    longest: dict[tuple[int, Values], int] = defaultdict(int)
    for i, (source, steps) in delays.items():
        key = source, graph.nodes[i].op.initial  # type: ignore[attr-defined]
        longest[key] = max(longest[key], steps)
    registers: dict[tuple[int, Values], int] = {}
    periods = [
        node.op.table.rows
        for i in graph.live()
        if isinstance((node := graph.nodes[i]).op, Periodic)
    ]

    def rule(builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]) -> int | None:
        node = graph.nodes[i]
        op = node.op
        if isinstance(op, Delay) and Delay not in target.native:
            source, steps = delays[i]
            key, slots = (source, op.initial), longest[source, op.initial] + 1
            if key not in registers:  # the first of its delays reads the source itself
                registers[key] = _register(builder, operands[0], slots, op.initial)
            slot = np.arange(steps * node.width, (steps + 1) * node.width)
            picked = Matrix.selection(slot, slots * node.width)
            return add_affine(builder, (picked, registers[key]))
        if isinstance(op, Periodic) and Periodic not in target.native:
            period = max(p for p in periods if p % op.table.rows == 0)
            return _clock(builder, op, period)
        if isinstance(op, Latch) and Latch not in target.native:
            return _latched(builder, node.width, op, operands)
        if isinstance(op, Hold) and Hold not in target.native:
            return _held(builder, op, operands, target)
        return None

    return rewrite(graph, rule, (Delay, Periodic, Latch, Hold))


def _delays(graph: Graph) -> dict[int, tuple[int, int]]:
    """What each delay delays, be it by delays of the same start, and by how many tokens in all."""
    found: dict[int, tuple[int, int]] = {}
    for i in graph.live():
        op = graph.nodes[i].op
        if isinstance(op, Delay):
            (operand,) = graph.nodes[i].operands
            source, before = operand, 0
            if operand in found and graph.nodes[operand].op.initial == op.initial:  # type: ignore[attr-defined]
                source, before = found[operand]
            found[i] = source, before + op.steps
    return found


def _register(builder: GraphBuilder, operand: int, slots: int, initial: Values) -> int:
    """A shift register of a signal whose slot 0 is the present value."""
    width = len(initial)
    size = slots * width
    inserted = add_affine(builder, (Matrix.first(size, width), operand))
    return builder.add(LinearState(Matrix.shift(size, width), initial * slots), inserted)


def _clock(builder: GraphBuilder, op: Periodic, period: int) -> int:
    """The rows of a table, read off a one-hot ring of `period` channels."""
    silence = builder.add(Constant((0.0,) * period))
    start = (*(0.0,) * (period - 1), 1.0)
    ring = builder.add(LinearState(Matrix.rotation(period), start), silence)
    rows = sp.vstack([op.table.csr] * (period // op.table.rows))
    return add_affine(builder, (Matrix(rows.T), ring))


def _latched(builder: GraphBuilder, width: int, op: Latch, operands: tuple[int, ...]) -> int:
    """Initial + the running sum of what the condition lets through, which is one value at most."""
    value, when = operands
    eye = Matrix.identity(width)
    rise = add_affine(builder, (eye, value), bias=-np.array(op.initial))
    silence = builder.add(Constant((0.0,) * width))
    taken = builder.add(Select(), when, rise, silence)
    return builder.add(LinearState(eye, op.initial), taken)


def _held(builder: GraphBuilder, op: Hold, operands: tuple[int, ...], target: Capabilities) -> int:
    """Initial + the running sum of the changes that are let through, or a state that overwrites."""
    width = len(op.initial)
    value, when = operands[:2]
    summed = len(operands) == 3 and builder.facts[operands[2]].counted
    if SelectiveState in target.native and not summed:
        minus = Matrix.diagonal(-np.ones(width))
        keep = add_affine(builder, (minus, when), bias=1.0)
        silence = builder.add(Constant((0.0,) * width))
        taken = builder.add(Select(), when, value, silence)
        return builder.add(SelectiveState(op.initial, overwrites=True), keep, taken)
    change = _let_through(builder, when, operands[2])
    return builder.add(LinearState(Matrix.identity(width), op.initial), change)


def _let_through(builder: GraphBuilder, when: int, value: int) -> int:
    """The value where a condition is 1, else 0.

    Where the condition is a ReLU of integers up to 1, that argument shuts the value as well, a
    level earlier: below 1 it is 0 or less.
    """
    condition, facts = builder.nodes[when], builder.facts[value]
    width = builder.nodes[value].width
    closed = builder.add(Constant((0.0,) * width))
    if not isinstance(condition.op, Relu):
        return builder.add(Select(), when, value, closed)
    (argument,) = condition.operands
    known = builder.facts[argument]
    if not facts.counted or not known.integer or (known.high > 1).any():
        return builder.add(Select(), when, value, closed)
    halves: dict[int, Matrix] = {}
    for side, reach in ((1.0, facts.high), (-1.0, -facts.low)):
        channels = np.flatnonzero(reach > 0)
        pick = Matrix.selection(channels, width, np.full(len(channels), side))
        shuts = Matrix.selection(channels, width, reach[channels])
        opened = add_affine(builder, (pick, value), (shuts, argument), bias=-reach[channels])
        halves[builder.add(Relu(), opened)] = pick.transposed
    return emit_affine(builder, halves, np.zeros(width))
