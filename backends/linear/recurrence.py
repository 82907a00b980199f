"""Linear recurrences h_t = h_{t-1} A + u_t, whole sequences at once, by the structure of A.

Which units have which is in `lsrl.backends.linear.decomposition`.

A long sequence is cut into *segments* that run side by side: each runs from zero first, which tells
where it ends; those ends, one after the other, tell where each starts. One loop step then adds up
whole vectors, a value for each segment of each sequence, and no step of it is slower than a copy.

Nothing here changes a result whose sums are exact: weights of ±1 multiply nothing, sums are only
cut into runs, and zero weights meet finite numbers only.

Axes: r rows (units, or heads of a group), t tokens of a segment, s segments, b sequences (1 where
all of them agree). Arrays are (r, t, s, b): delays are slices of the second axis, a step of a loop
is contiguous, and a mixing matrix is one product over the rest.
"""

import functools
import operator
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

Advance = Callable[[jax.Array], jax.Array]

# A sum of a segment is of its tokens only. Longer chunks would let decays that grow overflow.
MOST_TOKENS = 2**17
# A chunk of 2**17 tokens multiplies by at most 2**93, short of overflow: inf * 0 would be a NaN.
# Units that grow faster run in order.
DECAY_LIMIT = 1 + 2.0**-11


def loop(
    inputs: jax.Array, start: jax.Array | None, advance: Advance, rounded: Advance | None = None
) -> jax.Array:
    """Run s_t = rounded(advance(s_{t-1}) + inputs_t), token by token.

    Args:
      inputs: (r, t, ...).
      start: (r, ...), before the first token; None for zero.
      advance: a linear map of states (r, ...).
      rounded: rounds states to the dtype of the model, or None.

    Returns:
      (r, t, ...).
    """

    def finished(state: jax.Array) -> jax.Array:
        return state if rounded is None else rounded(state)

    def token(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # States take the place of the inputs that they used up: nothing is allocated, and the state
        # before is read from there. More tokens a turn would have XLA copy the sequence.
        time, sequence = carry
        before, drive = (
            lax.dynamic_index_in_dim(sequence, place, 1, False, allow_negative_indices=False)
            for place in (time - 1, time)
        )
        return time + 1, _put(sequence, finished(advance(before) + drive), time)

    # To put a first state in its place takes a copy of all.
    if start is not None or rounded is not None:
        first = inputs[:, 0] if start is None else inputs[:, 0] + advance(start)
        inputs = _put(inputs, finished(first), jnp.int32(0))
    tokens = inputs.shape[1]
    filled: jax.Array = lax.while_loop(
        lambda carry: carry[0] < tokens, token, (jnp.int32(1), inputs)
    )[1]
    return filled


def _put(sequence: jax.Array, state: jax.Array, time: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(
        sequence, state[:, None], time, 1, allow_negative_indices=False
    )


def segmented(inputs: jax.Array, start: jax.Array, advance: Advance, jump: Advance) -> jax.Array:
    """Run s_t = advance(s_{t-1}) + inputs_t, all segments side by side.

    Args:
      inputs: (r, t, s, b).
      start: (r, b), before the first segment.
      advance: a linear map of states, one token.
      jump: the same map, a whole segment.

    Returns:
      (r, t, s, b).
    """
    if inputs.shape[2] == 1:
        return loop(inputs, start[:, None], advance)

    ends = loop(inputs, None, advance)[:, -1]
    return loop(inputs, _starts(ends, start, jump), advance)


def _starts(ends: jax.Array, start: jax.Array, jump: Advance | None) -> jax.Array:
    """Where each segment starts, given where it would end from zero.

    Args:
      ends: (r, s, ...).
      start: (r, ...), of the first segment.
      jump: the linear map of states over a segment, or None if it changes nothing.

    Returns:
      (r, s, ...).
    """
    if jump is None:
        # Every term is a sum of tokens on end, as the certificate wants it.
        all_but_last = jnp.concatenate([start[:, None], ends[:, :-1]], axis=1)
        return cast(jax.Array, lax.associative_scan(jnp.add, all_but_last, axis=1))
    return jnp.concatenate([start[:, None], loop(ends[:, :-1], start, jump)], axis=1)


def kept(make: Callable[[], jax.Array], certain: jax.Array) -> jax.Array:
    """Work something out once, apart from what comes before and after, and on one thread.

    XLA fuses what it can. Behind a concatenation it works out each value as often as it is read,
    one by one, and through several layers that multiplies; and where a few values come from many,
    it wakes other threads, which takes longer than the work.

    Args:
      make: makes the array.
      certain: a bool that is true, and that XLA can't know.

    Returns:
      The array.
    """
    # XLA drops its own optimization_barrier on CPUs before it fuses, but fuses into no branch.
    shape = jax.eval_shape(make)
    values: jax.Array = lax.cond(certain, make, lambda: jnp.zeros(shape.shape, shape.dtype))
    return values


def ring_sum(inputs: jax.Array, history: jax.Array, sign: int, certain: jax.Array) -> jax.Array:
    """Run s_t = sign * s_{t-stride} + inputs_t; with a stride of 1 the running sum.

    Args:
      inputs: (r, t, s, b).
      history: (r, stride, b), the last tokens before, oldest first.
      sign: 1 or -1.
      certain: true, for `kept`.

    Returns:
      (r, stride + t, s, b): of each segment the last `stride` tokens before, then its own. So they
      are read a token ago without a copy.
    """
    rows, tokens, segments, batch = inputs.shape
    stride = history.shape[1]
    turn: Advance = jnp.negative if sign < 0 else lambda state: state
    if tokens < stride:  # then there is one segment
        before = history[:, :, None]
        return jnp.concatenate([before, inputs + sign * before[:, :tokens]], axis=1)
    periods = 1 + -(-tokens // stride)
    padded = jnp.pad(inputs, [(0, 0), (stride, (periods - 1) * stride - tokens), (0, 0), (0, 0)])
    # From zero first: what was there before is then added where the sums are read. A stride of 1
    # takes no axis: XLA would choose another order in memory, and copy.
    shape = (rows, periods, *([stride] if stride > 1 else []), segments, batch)
    sums = loop(padded.reshape(shape), None, turn)
    whole, rest = divmod(tokens, stride)

    def jump(state: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [sign**whole * state[:, rest:], sign ** (whole + 1) * state[:, :rest]], axis=1
        )

    def starts() -> jax.Array:
        ends = sums.reshape(padded.shape)[:, tokens : tokens + stride]
        turned = rest or sign**whole < 0
        found = _starts(jnp.moveaxis(ends, 2, 1), history, jump if turned else None)
        return jnp.moveaxis(found, 1, 2)

    carried = history[:, :, None] if segments == 1 else kept(starts, certain)
    if stride > 1:
        carried = carried[:, None]
    if sign < 0:
        alternating = jnp.asarray(1 - 2 * (np.arange(periods) % 2), inputs.dtype)
        carried = carried * alternating.reshape(1, -1, *(1,) * (len(shape) - 2))
    return (sums + carried).reshape(padded.shape)[:, : stride + tokens]


def periodic(history: jax.Array, sign: int, tokens: int) -> jax.Array:
    """Continue s_t = sign * s_{t-stride}, which nothing drives.

    Args:
      history: (r, stride, ...), the last tokens before, oldest first.
      sign: 1 or -1.
      tokens: how many to continue.

    Returns:
      (r, tokens, ...).
    """
    periods = -(-tokens // history.shape[1])
    if sign < 0:
        history = jnp.concatenate([-history, history], axis=1)
        periods = -(-periods // 2)
    return jnp.tile(history, (1, periods, *(1,) * (history.ndim - 2)))[:, :tokens]


def decay_powers(decay: np.ndarray) -> np.ndarray:
    """Tabulate the powers of decays for `decaying_sum`, in float64.

    Args:
      decay: (r,), at most DECAY_LIMIT in size.

    Returns:
      (levels, r); entry [l, r] is decay[r] ** (2 ** l).
    """
    exponents = 2 ** np.arange(MOST_TOKENS.bit_length())
    return decay.astype(np.float64) ** exponents[:, None]


def decaying_sum(inputs: jax.Array, start: jax.Array, powers: jax.Array) -> jax.Array:
    """Run s_t = decay * s_{t-1} + inputs_t.

    Args:
      inputs: (r, t, s, b), t at most MOST_TOKENS.
      start: (r, b), before the first token.
      powers: of `decay_powers`, (levels, r).

    Returns:
      (r, t, s, b).
    """
    tokens = inputs.shape[1]
    levels = [level for level in range(len(powers)) if tokens >> level & 1]
    whole = functools.reduce(operator.mul, [powers[level] for level in levels])
    return segmented(
        inputs,
        start,
        lambda state: powers[0][:, None, None] * state,
        lambda state: whole[:, None] * state,
    )


def rotation(inputs: jax.Array, start: jax.Array, sign: int) -> jax.Array:
    """Run a ring of which several units are driven: unit i reads unit i - 1, unit 0 the last.

    Args:
      inputs: (n, t, s, b).
      start: (n, b), before the first token.
      sign: weight of the edge that closes the ring, 1 or -1; the other edges are 1.

    Returns:
      (n, t, s, b).
    """
    units, tokens = inputs.shape[:2]

    def turned(state: jax.Array, count: int) -> jax.Array:
        # Over a whole turn every unit passes the closing edge once.
        turns, places = divmod(count, units)
        state = sign**turns * state
        return jnp.concatenate([sign * state[units - places :], state[: units - places]])

    return segmented(
        inputs, start, lambda state: turned(state, 1), lambda state: turned(state, tokens)
    )


def in_order(inputs: jax.Array, start: jax.Array, advance: Advance, rounded: Advance) -> jax.Array:
    """Run h_t = rounded(advance(h_{t-1}) + inputs_t) token by token, in one segment.

    Args:
      inputs: (r, t, 1, b).
      start: (r, b), before the first token.
      advance: the linear map (r, 1, b) -> (r, 1, b).
      rounded: rounds to the dtype of the model.

    Returns:
      (r, t, 1, b).
    """
    return loop(inputs, start[:, None], advance, rounded)


def mix(kernel: jax.Array, rows: jax.Array) -> jax.Array:
    """Multiply by a dense matrix.

    Args:
      kernel: (rows in, rows out).
      rows: (rows in, ...).

    Returns:
      (rows out, ...).
    """
    return lax.dot_general(kernel, rows, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)


# More terms of a sum than this are added up in a loop.
_MOST_TERMS = 64


def gather_mix(index: jax.Array, weight: jax.Array, rows: jax.Array) -> jax.Array:
    """Multiply by a matrix of few entries a column.

    Row j of the result is the sum over k of weight[k, j] * rows[index[k, j]].

    Args:
      index: (most entries of a column, at least 1; rows out).
      weight: the same shape; 0 fills short columns.
      rows: (rows in, ...).

    Returns:
      (rows out, ...).
    """
    trailing = (slice(None), *(None,) * (rows.ndim - 1))

    # The indices are our own, so no clamping is needed.
    if len(index) > _MOST_TERMS:
        # In a loop, which takes no longer to compile for more of them.
        def more(total: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            source, factor = one
            read = rows.at[source].get(mode="promise_in_bounds")
            return total + factor[trailing] * read, None

        nothing = jnp.zeros((index.shape[1], *rows.shape[1:]), rows.dtype)
        return lax.scan(more, nothing, (index, weight))[0]
    terms = [
        factor[trailing] * rows.at[source].get(mode="promise_in_bounds")
        for source, factor in zip(index, weight, strict=True)
    ]
    return cast(jax.Array, functools.reduce(operator.add, terms))


def columns(matrix: sparse.csc_array) -> tuple[np.ndarray, np.ndarray]:
    """List the entries of each column, for `gather_mix`.

    Args:
      matrix: (rows in, rows out).

    Returns:
      index and weight, each (most entries of a column, at least 1; rows out).
    """
    counts = np.diff(matrix.indptr)
    deepest = int(counts.max(initial=1))
    index = np.zeros((deepest, matrix.shape[1]), np.int32)
    weight = np.zeros((deepest, matrix.shape[1]))
    column = np.repeat(np.arange(matrix.shape[1]), counts)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    index[place, column] = matrix.indices
    weight[place, column] = matrix.data
    return index, weight


def window_sum(values: jax.Array, span: int) -> jax.Array:
    """Sum windows, by sums of windows of half the size: no sum is of more than one window.

    Args:
      values: (r, t, ...).
      span: tokens of a window.

    Returns:
      (r, t - span + 1, ...), entry i the sum of values i … i + span - 1.
    """
    count = values.shape[1] - span + 1
    total, start, size = None, 0, 1
    while True:
        if span & size:
            part = values[:, start : start + count]
            total = part if total is None else total + part
            start += size
        if total is not None and start == span:
            return total
        values = values[:, : values.shape[1] - size] + values[:, size:]
        size *= 2
