"""A whole program that starts late: each of its ops with memory, as `start=` has the sugar."""

from collections.abc import Sequence

import numpy as np

from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.matrix import Matrix
from lsrl.language.signal import Signal, affine, as_signal, record
from lsrl.language.sugar import _state, known, select


def late(op: ops.Op, operands: Sequence[Signal], start: Signal, facts: Facts) -> Signal:
    """The value of an op whose memory is untouched up to the first token at which `start` is 1.

    Up to there it is the initial value, or what is nearest to it of what the op is known to say.

    Args:
      op: one with memory, or a read of one.
      operands: of it.
      start: 0 or 1, of width 1, and 1 ever after it was 1 once.
      facts: what is known of it where it starts at once.
    """
    if isinstance(op, ops.LinearState | ops.ThresholdState | ops.RecurrentState):
        value = _state(op, operands[0], start)
    elif isinstance(op, ops.Periodic):
        return _clock(op, start)
    elif isinstance(op, ops.SelectiveState):
        keep, update = operands
        value = record(op, 1 - (~keep & start), select(start, update, 0))
    elif isinstance(op, ops.Delay | ops.RunningMax):
        value = record(op, select(start, operands[0], op.initial))
    else:
        # What opens it: of a swap state the first operand, of a latch and a hold the second, of a
        # read of a memory the third, which tells of a write.
        gate = {ops.SwapState: 0, ops.Latch: 1, ops.Hold: 1, ops.Read: 2}[type(op)]
        shut = [x & start if place == gate else x for place, x in enumerate(operands)]
        value = record(op, *shut)
    if not isinstance(op, ops.StateOp | ops.Delay | ops.RunningMax):
        return value
    initial = np.array(op.initial)
    near = np.clip(initial, facts.low, facts.high)
    if (near == initial).all():
        return value
    eye, back = Matrix.identity(value.width), (initial - near)[:, None]
    return affine([(eye, value), (back, start)], near - initial)


def _clock(op: ops.Periodic, start: Signal) -> Signal:
    """Rows in turn from the start on; the last one before."""
    size = op.table.rows
    nothing = as_signal(np.zeros(size))
    held = ops.LinearState(Matrix.rotation(size), (*(0.0,) * (size - 1), 1.0))
    phase = known(_state(held, nothing, start), 0, 1, exclusive=True)
    return affine([(op.table.transposed, phase)])
