"""What programs mean, as jax differentiates it: whole sequences, of tokens or distributions.

A pointwise op is its own formula, which it carries out in jax's arrays (`lsrl.ir.arithmetic`). An
op that remembers has a form that takes all tokens at once in `AT_ONCE`, or else goes token by token
by its own `advance`. A *relaxed* program is the same one with soft comparisons.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.scans import gated_scan, linear_scan
from lsrl.ir import ops
from lsrl.ir.arithmetic import Floats, Values
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.ops import Extent
from lsrl.ir.types import Token

# A sigmoid of temperature 1 is as steep as would have it within 0.02 of 0 and 1 off the ramp.
STEEPNESS = 8.0
# A softplus of temperature 1 bends over a quarter of the grid's step.
BEND = 0.25


@final
@dataclass(frozen=True)
class Relaxation:
    """How comparisons are made soft.

    Attributes:
      temperature: 1 is as steep as the grid of what is compared, more is softer; may be traced.
      straight_through: values stay those of the program, and derivatives alone are the soft ones'
        (Bengio et al. 2013).
    """

    temperature: float | jax.Array
    straight_through: bool = False

    def step(self, value: jax.Array, slope: float, shift: float) -> jax.Array:
        """A comparison, whose threshold stands in the middle of its ramp."""
        middle = slope * value + 0.5 + shift
        soft = jax.nn.sigmoid(middle * STEEPNESS / self.temperature)
        hard = jnp.maximum(1 - jnp.maximum(-slope * value - shift, 0), 0)
        return self._chosen(hard, soft)

    def positive(self, value: jax.Array, step: jax.Array) -> jax.Array:
        """A ReLU, of values on a grid of so many steps."""
        bend = BEND * self.temperature * step
        return self._chosen(jnp.maximum(value, 0), bend * jax.nn.softplus(value / bend))

    def _chosen(self, hard: jax.Array, soft: jax.Array) -> jax.Array:
        return hard + (soft - lax.stop_gradient(soft)) if self.straight_through else soft


def evaluate(
    graph: Graph,
    inputs: Sequence[jax.Array],
    relaxation: Relaxation | None = None,
    rows: "RowValues | None" = None,
) -> jax.Array:
    """Evaluate a program on whole sequences.

    Args:
      graph: the program.
      inputs: per program input, ids (batch, time), distributions over tokens (batch, time, symbols)
        or vectors (batch, time, width), float32.
      relaxation: of its comparisons; None for the program itself.
      rows: what takes the place of a comparison's value, where it knows better.

    Returns:
      (batch, time, outputs), float32: equal to `lsrl.ir.evaluate` on ids, as far as float32 is
      exact. A token that is a distribution is its mean, and a lookup of it the mean of the rows.
    """
    extent = Extent(inputs[0].shape[:2], Floats(np.float32, jnp))
    values: dict[int, jax.Array] = {}
    shares: dict[int, jax.Array] = {}
    for i in graph.live():
        node = graph.nodes[i]
        operands = [values[operand] for operand in node.operands]
        if isinstance(node.op, ops.Input):
            given = jnp.asarray(inputs[node.op.index])
            values[i] = _given(given, node.op)
            if isinstance(node.op.type, Token) and given.ndim > 2:
                shares[i] = given
        elif isinstance(node.op, ops.Lookup) and node.operands[0] in shares:
            table = jnp.asarray(node.op.table.dense(), jnp.float32)
            values[i] = jnp.matmul(shares[node.operands[0]], table, precision="highest")
        else:
            known = [graph.facts[operand] for operand in node.operands]
            values[i] = _value(node.op, operands, extent, relaxation, known)
        if rows is not None and isinstance(node.op, ops.Relu | ops.Step):
            values[i] = rows(i, values)
    return values[graph.output]


# By the number of a node and all values up to its own, the value it is to have.
RowValues = Callable[[int, Mapping[int, jax.Array]], jax.Array]


def _given(given: jax.Array, op: ops.Input) -> jax.Array:
    if not isinstance(op.type, Token):
        return given
    if given.ndim == 2:
        return given[..., None].astype(jnp.float32)
    ids = jnp.arange(op.type.size, dtype=jnp.float32)[:, None]
    return jnp.matmul(given, ids, precision="highest")


def _value(
    op: ops.Op,
    operands: Sequence[jax.Array],
    extent: Extent,
    relaxation: Relaxation | None,
    facts: Sequence[Facts],
) -> jax.Array:
    if relaxation is not None and isinstance(op, ops.Step):
        return relaxation.step(operands[0], op.slope, op.shift)
    if relaxation is not None and isinstance(op, ops.Relu):
        grid = np.where(facts[0].gridded & np.isfinite(facts[0].step), facts[0].step, 1.0)
        return relaxation.positive(operands[0], jnp.asarray(grid, jnp.float32).reshape(1, 1, -1))
    if relaxation is not None and isinstance(op, ops.ThresholdState | ops.RecurrentState):
        return _fed_back(op, operands[0], extent, relaxation)
    at_once = AT_ONCE.get(type(op))
    if at_once is not None:
        return at_once(op, operands, extent)
    arrays = cast(Any, operands)
    if op.pointwise:
        return jnp.asarray(op.evaluate(arrays, extent))
    return _token_by_token(op, operands, extent)


def _token_by_token(op: ops.Op, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    """By the op's own step."""
    token = extent.token

    def advance(memory: Any, now: Any) -> Any:
        return op.advance(memory, now, token)

    start = tuple(jnp.asarray(part) for part in op.start(token))
    _, found = lax.scan(advance, start, [jnp.moveaxis(x, 1, 0) for x in operands])
    return jnp.moveaxis(found, 0, 1)


def _fed_back(
    op: ops.ThresholdState | ops.RecurrentState,
    update: jax.Array,
    extent: Extent,
    relaxation: Relaxation,
) -> jax.Array:
    """h_t = soft(A h_{t-1} + u_t)."""
    kernel = jnp.asarray(op.transition.dense().T, jnp.float32)

    def token(state: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
        fed = jnp.matmul(state, kernel, precision="highest") + now
        if isinstance(op, ops.RecurrentState):
            state = relaxation.positive(fed, jnp.float32(1))
        else:
            # Compared with 0 strictly, and most often a half off it.
            state = relaxation.step(fed, 2.0, -1.0)
        return state, state

    _, found = lax.scan(token, _first(op, extent), jnp.moveaxis(update, 1, 0))
    return jnp.moveaxis(found, 0, 1)


# ---------------------------------------------------------------- all tokens at once


def _full(values: Values, extent: Extent) -> jax.Array:
    """Constants at the first token: (batch, 1, width)."""
    row = jnp.asarray(np.array(values), jnp.float32)
    return jnp.broadcast_to(row, (extent.shape[0], 1, len(values)))


def _first(op: Any, extent: Extent) -> jax.Array:
    return _full(op.initial, extent)[:, 0]


def _periodic(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    batch, time = extent.shape
    rows = op.table.dense()[np.arange(time) % op.table.rows]
    return jnp.broadcast_to(jnp.asarray(rows, jnp.float32), (batch, *rows.shape))


def _delay(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    time = extent.shape[1]
    before = jnp.repeat(_full(op.initial, extent), min(op.steps, time), axis=1)
    return jnp.concatenate([before, operands[0][:, : max(time - op.steps, 0)]], axis=1)


def _latch(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    value, when = operands
    start = _full(op.initial, extent)
    return start + jnp.cumsum(when * (value - start), axis=1)


def _linear(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    if op.transition.is_identity:
        return _full(op.initial, extent) + jnp.cumsum(operands[0], axis=1)
    kernel = op.transition.dense().T.astype(np.float32)
    return linear_scan(operands[0], kernel, _first(op, extent))


def _selective(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    return gated_scan(operands[0], operands[1], _first(op, extent))


def _hold(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    value, when = operands[:2]
    return gated_scan(1 - when, when * value, _first(op, extent))


def _running_max(op: Any, operands: Sequence[jax.Array], extent: Extent) -> jax.Array:
    return jnp.maximum(_full(op.initial, extent), lax.cummax(operands[0], axis=1))


AT_ONCE: dict[type[ops.Op], Callable[[Any, Sequence[jax.Array], Extent], jax.Array]] = {
    ops.Periodic: _periodic,
    ops.Delay: _delay,
    ops.Latch: _latch,
    ops.LinearState: _linear,
    ops.RunningMax: _running_max,
    ops.SelectiveState: _selective,
    ops.Hold: _hold,
}
