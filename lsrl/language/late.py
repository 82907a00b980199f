"""States that start late: each op with memory as it is from the token on at which a signal is 1.

Until then a state holds its initial value, and what it reads is shut out. It takes no new op: an
update is let through by a gate, and where a state would move by itself, its initial value enters
with the first token.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.matrix import Matrix
from lsrl.language.signal import Signal, affine, record
from lsrl.language.sugar import delay, known, linear_state, select


def late(op: ops.Op, operands: Sequence[Signal], start: Signal, facts: Facts) -> Signal:
    """The value of an op whose memory is untouched up to the first token at which `start` is 1.

    Up to there it is the initial value, or what is nearest to it of what the op is known to say.

    Args:
      op: as programs are written with.
      operands: of it.
      start: 0 or 1, of width 1, and 1 ever after it was 1 once.
      facts: what is known of it where it starts at once.
    """
    if isinstance(op, ops.LinearState | ops.ThresholdState | ops.RecurrentState):
        value = _recurrent(op, operands[0], start)
    elif isinstance(op, ops.Delay):
        value = record(op, select(start, operands[0], op.initial))
    elif isinstance(op, ops.Periodic):
        return _clock(op, start)
    elif isinstance(op, ops.SelectiveState):
        keep, update = operands
        value = record(op, 1 - (~keep & start), select(start, update, 0))
    elif isinstance(op, ops.SwapState):
        return record(op, operands[0] & start, operands[1])
    else:
        # A latch and a hold take a value by their second operand; a read tells by its third whether
        # its memory is written.
        gate = {ops.Latch: 1, ops.Hold: 1, ops.Read: 2}.get(type(op))
        shut = [x & start if place == gate else x for place, x in enumerate(operands)]
        value = record(op, *shut)
    initial = np.array(getattr(op, "initial", value.facts.low))
    near = np.clip(initial, facts.low, facts.high)
    if isinstance(op, ops.Read) or (near == initial).all():
        return value
    eye, back = Matrix.identity(value.width), (initial - near)[:, None]
    return affine([(eye, value), (back, start)], near - initial)


def _recurrent(
    op: ops.LinearState | ops.ThresholdState | ops.RecurrentState, update: Signal, start: Signal
) -> Signal:
    """A state that is fed back: it starts at 0, and what its initial value gives enters late."""
    initial = np.array(op.initial)
    shut = select(start, update, 0)
    fed_back = op.transition.times(initial)
    if not initial.any() or (isinstance(op, ops.LinearState) and (fed_back == initial).all()):
        return record(op, shut)
    nothing = replace(op, initial=(0.0,) * len(initial))
    if isinstance(nothing, ops.RecurrentState):
        nothing = replace(nothing, low=tuple(min(low, 0.0) for low in nothing.low))
    eye = Matrix.identity(len(initial))
    state = record(nothing, affine([(eye, shut), (fed_back[:, None], _begins(start))]))
    return affine([(eye, state), (-initial[:, None], start)], initial)


def _begins(start: Signal) -> Signal:
    return start & ~delay(start)


def _clock(op: ops.Periodic, start: Signal) -> Signal:
    """Rows in turn from the start on; the first one before."""
    size = op.table.rows
    first = Matrix.first(size, 1)
    ring = linear_state(affine([(first, _begins(start))]), Matrix.rotation(size).csr)
    shown = affine([(Matrix.identity(size), ring), (first, 1 - start)])
    return affine([(op.table.transposed, known(shown, 0, 1, exclusive=True))])
