"""What has happened so far: bits that stay 1, and when states start."""

from collections.abc import Sequence

from lsrl.errors import ShapeError
from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Node
from lsrl.language.signal import Signal, logical, record, relu
from lsrl.language.trace import user_line

# Up to so many tokens float32 counts with room, and beyond a state is overwritten.
LONGEST_COUNT = 1 << 22


def _ever(bit: Signal) -> Signal:
    """1 from the first token on at which a {0,1} signal of width 1 is 1.

    Where a length is declared that float32 counts, a running sum that is cut off at 1, which every
    target holds; else a state that is overwritten.
    """
    length = bit.trace.max_length
    if length is not None and length <= LONGEST_COUNT:
        counted = record(ops.LinearState(Matrix.identity(1), (0.0,)), bit)
        return 1 - relu(1 - counted)
    return record(ops.SelectiveState((0.0,), overwrites=True), 1 - bit, bit)


def started(start: Signal) -> Signal:
    """1 from the first token on at which `start` is 1: that signal itself, where it never falls.

    Raises:
      ProgramError: start can be something else than 0 or 1.
      ShapeError: it has more than one channel.
    """
    (bit,) = logical("start=", start)
    if bit.width != 1:
        raise ShapeError(f"{user_line()}: start= needs a signal of width 1, got {bit!r}")
    builder = bit.trace.builder
    return bit if _slope(builder.nodes, builder.facts, bit.index) in (0, 1) else _ever(bit)


def _slope(nodes: Sequence[Node], facts: Sequence[Facts], index: int) -> int | None:
    """1 where a signal of width 1 provably never falls, -1 where it never rises, 0 where neither.

    None where nothing is known.
    """
    node = nodes[index]
    op, fact = node.op, facts[index]
    if node.width != 1 or fact.constant:
        return 0 if node.width == 1 else None
    if isinstance(op, ops.Relu | ops.Step | ops.Bound):
        return _slope(nodes, facts, node.operands[0])
    if isinstance(op, ops.LinearState) and op.transition.is_identity:
        added = facts[node.operands[0]]
        return 1 if added.low[0] >= 0 else -1 if added.high[0] <= 0 else None
    if isinstance(op, ops.SelectiveState) and op.initial == (0.0,) and op.overwrites:
        keep, bit = node.operands
        written = [nodes[i].op for i in nodes[bit].operands[1:]]
        if written == [ops.Constant((1.0,)), ops.Constant((0.0,))]:  # select(bit, 1, 0)
            bit = nodes[bit].operands[0]
        flip = nodes[keep]
        kept = flip.op == ops.Affine((Matrix([[-1]]),), (1.0,)) and flip.operands == (bit,)
        return 1 if kept and facts[bit].boolean else None
    if isinstance(op, ops.Affine):
        slopes = set[int]()
        for weight, operand in zip(op.weights, node.operands, strict=True):
            own = _slope(nodes, facts, operand)
            if own is None or weight.shape != (1, 1):
                return None
            factor = float(weight.data.sum())
            slopes.add(own if factor > 0 else -own if factor < 0 else 0)
        slopes.discard(0)
        return slopes.pop() if len(slopes) == 1 else None if slopes else 0
    return None
