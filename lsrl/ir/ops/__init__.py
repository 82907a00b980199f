"""The closed set of ops.

An op holds its parameters and nothing else; operands live on the graph's nodes. Each op checks its
operands (`width_of`), infers facts (`infer`), tells its sums for the exactness condition (`sums`)
and says what it means, token by token (`advance`) and on whole sequences (`evaluate`), by one
formula for all arithmetics. Nothing else about an op is scattered over the package.

Axis legend: arrays are (batch, time, width), those of one token (batch, width). Sequences of
operands come in the node's order.
"""

from lsrl.ir.ops.base import Extent, Keeper, Memory, Op, Pledge, Pointwise, Stateful, Via
from lsrl.ir.ops.pointwise import (
    Affine,
    Bound,
    Constant,
    Input,
    Lookup,
    Product,
    Relu,
    Select,
    Step,
)
from lsrl.ir.ops.recall import Read, Recall
from lsrl.ir.ops.states import (
    Delay,
    Hold,
    Latch,
    LinearState,
    Periodic,
    RecurrentState,
    RunningMax,
    SelectiveState,
    StateOp,
    ThresholdState,
)
from lsrl.ir.ops.swaps import SwapState
from lsrl.ir.types import Token

ALL_OPS: tuple[type[Op], ...] = (
    Input, Constant, Lookup, Periodic, Affine, Relu, Step, Product, Select, Delay, Bound, Latch,
    LinearState, SelectiveState, Hold, ThresholdState, RecurrentState,
    RunningMax, SwapState, Read, Recall,
)  # fmt: skip


def is_token(op: Op) -> bool:
    """Whether the op is a token input."""
    return isinstance(op, Input) and isinstance(op.type, Token)


__all__ = [
    "ALL_OPS", "Affine", "Bound", "Constant", "Delay", "Extent", "Hold", "Input", "Keeper", "Latch",
    "LinearState", "Lookup", "Memory", "Op", "Periodic", "Pledge", "Pointwise", "Product", "Read",
    "Recall", "RecurrentState", "Relu", "RunningMax", "Select", "SelectiveState", "StateOp",
    "Stateful", "Step", "SwapState", "ThresholdState", "Via", "is_token",
]  # fmt: skip
