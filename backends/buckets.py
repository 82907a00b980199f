"""Few shapes: runs are filled up to sizes of which there are few, so that XLA compiles few of them.

Tokens are filled up at their end, where they change nothing before them, and sequences behind the
last; what is beyond is cut off again. A state is of the tokens that count: loops end there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.ir.numbers import Array
from lsrl.pytrees import Tree

# Up to so many tokens lengths are powers of two, and longer ones eight an octave: 7 tokens or 70
# take about as long as a call.
SHORT, LEAST = 128, 16
# Runs of up to so many tokens in all, filled up, take less time than to compile a batch of their
# own: their batches are powers of four.
SMALL = 1 << 14

State = TypeVar("State")
Token = Callable[[State, tuple[jax.Array, ...]], tuple[State, jax.Array]]
# Place, state, outputs, and what was read ahead.
_Now: TypeAlias = tuple[jax.Array, State, jax.Array, tuple[jax.Array, ...]]
# Vectors (time, batch, ...), or a table and the rows of it that are read.
_Source: TypeAlias = tuple[jax.Array | None, jax.Array]
# How a step reads vectors of its token. A loop into which XLA draws a slice is not vectorised: of
# wide vectors a gather, or to read a token ahead, into an array of the loop, takes less time.
Reading = Literal["slice", "gather", "ahead"]


def eighth(count: int, least: int = 1) -> int:
    """Round up to one of eight sizes an octave."""
    count = max(count, least)
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


def length(tokens: int) -> int:
    """A length at least as long, of few."""
    if tokens <= SHORT:
        return max(LEAST, 1 << (tokens - 1).bit_length())
    return eighth(tokens)


def rows(batch: int, tokens: int, small: int = SMALL) -> int:
    """A batch at least as large, of few; of few tokens in all, up to `small`, a power of four."""
    return _coarse(batch) if is_small(batch, tokens, small) else eighth(batch)


def is_small(batch: int, tokens: int, small: int = SMALL) -> bool:
    """Whether a run is so small that its batch is filled up to a power of four."""
    return _coarse(batch) * tokens <= small


def _coarse(batch: int) -> int:
    return 4 ** (((batch - 1).bit_length() + 1) // 2) if batch > 1 else 1


def filled(array: Array, batch: int, tokens: int) -> Array:
    """(batch, tokens, ...), with zeros beyond an array of fewer."""
    missing = (batch - array.shape[0], tokens - array.shape[1])
    if missing == (0, 0):
        return array
    # np.pad takes ten times as long where arrays are small.
    whole = np.zeros((batch, tokens, *array.shape[2:]), array.dtype)
    whole[: array.shape[0], : array.shape[1]] = array
    return whole


def with_rows(state: Tree, batch: int) -> Tree:
    """A state of so many sequences, more or fewer: leaves (batch, ...), zero where there was none.

    Of numpy, since jax would compile each shape of it.
    """

    def sized(leaf: jax.Array | Array) -> jax.Array | Array:
        count = leaf.shape[0]
        if count == batch:
            return leaf
        held = np.asarray(leaf)
        if count > batch:
            return held[:batch].copy()
        return np.pad(held, [(0, batch - count)] + [(0, 0)] * (held.ndim - 1))

    # As it most often is, and a short run takes ten times as long as to see it.
    if all(leaf.shape[0] == batch for leaf in jax.tree.leaves(state)):
        return state
    return jax.tree.map(sized, state)


def scan(
    token: Token[State],
    state: State,
    inputs: Sequence[jax.Array],
    count: jax.Array | None,
    output: jax.ShapeDtypeStruct,
    table: jax.Array | None = None,
    reading: Reading = "slice",
    axis: int = 0,
) -> tuple[State, jax.Array]:
    """As `lax.scan`, of the first tokens alone; not for grad if it ends where it is told.

    Args:
      token: from a state and what it reads at a token to the next state and an output.
      state: before the first token.
      inputs: (time, batch, ...).
      count: how many tokens count; None for all of them.
      output: shape and dtype of an output.
      table: of which `token` reads rows; then the inputs are ids, and no others.
      reading: of vectors and rows, see `Reading`.
      axis: of time, in the outputs.

    Returns:
      The state after the tokens that count, and outputs (time, ...), or with time at the axis,
      zero behind them.
    """
    if count is None:

        def every(state: State, now: tuple[jax.Array, ...]) -> tuple[State, jax.Array]:
            return token(state, now if table is None else (table[now[0]],))

        after, told = cast(tuple[State, jax.Array], lax.scan(every, state, tuple(inputs)))
        return after, jnp.moveaxis(told, 0, axis)
    shape = list(output.shape)
    shape.insert(axis, inputs[0].shape[0])
    made = jnp.zeros(shape, output.dtype)
    sources: list[_Source] = [(table, x) for x in inputs]
    if reading == "gather":
        sources = [_gathering(*source) for source in sources]

    def at(place: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(_at(place, *source)[: output.shape[0]] for source in sources)

    def following(now: _Now[State]) -> _Now[State]:
        place, state, made, read = now
        state, values = token(state, read or at(place))
        put = partial(lax.dynamic_update_index_in_dim, axis=axis, allow_negative_indices=False)
        return place + 1, state, put(made, values, place), at(place + 1) if read else ()

    first = jnp.int32(0)
    start = (first, state, made, at(first) if reading == "ahead" else ())
    _, last, outputs, _ = lax.while_loop(lambda now: now[0] < count, following, start)
    return last, outputs


def _gathering(table: jax.Array | None, values: jax.Array) -> _Source:
    """A table and ids of its rows (time, batch), two at least: one would be read by a slice."""
    if table is None:
        table = values.reshape(-1, *values.shape[2:])
        values = jnp.arange(len(table), dtype=jnp.int32).reshape(values.shape[:2])
    single = values.shape[1] == 1
    # Doubled here, not in the loop, where that takes longer than to gather.
    return table, jnp.concatenate([values, values], axis=1) if single else values


def _at(place: jax.Array, table: jax.Array | None, values: jax.Array) -> jax.Array:
    """What (time, batch, ...) has at a token, or the rows of a table that it names there."""
    now = lax.dynamic_index_in_dim(values, place, keepdims=False, allow_negative_indices=False)
    return now if table is None else table.at[now].get(mode="promise_in_bounds")


def sequence(
    token: Token[State], state: State, inputs: Sequence[jax.Array | Array], count: jax.Array
) -> tuple[jax.Array, State]:
    """As `scan`, with sequences first: inputs (batch, time, ...) to outputs and the state."""
    turned = tuple(jnp.moveaxis(jnp.asarray(x), 1, 0) for x in inputs)
    output: jax.ShapeDtypeStruct
    _, output = jax.eval_shape(lambda: token(state, tuple(x[0] for x in turned)))
    last, outputs = scan(token, state, turned, count, output)
    return jnp.moveaxis(outputs, 0, 1), last
