"""Linear recurrences h_t = h_{t-1} A + u_t, whole sequences at once, by the structure of A.

`decompose` looks at the numbers in A and cuts its units into groups that take few operations a
token: shift registers are slices of one sequence, self-loops of ±1 and rings (signed cycles) are
running sums, real decays are sums that shrink, rotations turn a ring, and only what is left
multiplies by a matrix at every token.

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
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse
from scipy.sparse import csgraph

Kind = Literal["feed", "ring", "decay", "rotation", "in_order"]
Advance = Callable[[jax.Array], jax.Array]

# A sum of a segment is of its tokens only. Longer chunks would let decays that grow overflow.
MOST_TOKENS = 2**17
# A chunk of 2**17 tokens multiplies by at most 2**93, short of overflow: inf * 0 would be a NaN.
# Units that grow faster run in order.
DECAY_LIMIT = 1 + 2.0**-11
# Beyond this many groups a layer is a tangle, where one loop over time compiles and runs faster.
GROUPS_LIMIT = 48


# ---------------------------------------------------------------- closed forms over time


def loop(
    inputs: jax.Array,
    start: jax.Array | None,
    advance: Advance,
    rounded: Advance | None = None,
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
        summed: jax.Array = lax.associative_scan(jnp.add, all_but_last, axis=1)
        return summed
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


def in_order(
    inputs: jax.Array,
    start: jax.Array,
    advance: Advance,
    rounded: Advance,
) -> jax.Array:
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
    terms = [
        factor[trailing] * rows.at[source].get(mode="promise_in_bounds")
        for source, factor in zip(index, weight, strict=True)
    ]
    total: jax.Array = functools.reduce(operator.add, terms)
    return total


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


# ---------------------------------------------------------------- the structure of a kernel


@dataclass(frozen=True)
class Group:
    """Units of one layer that one closed form runs together.

    A row is a head and the units that only repeat it later: unit members[r, k] is its head, k
    tokens ago, times the sign of the unit.

    Attributes:
      kind: "feed" (no memory), "ring" (a head adds to itself `stride` tokens later), "decay",
        "rotation" (the rows are one ring, in order) or "in_order" (any kernel among the rows).
      varying: the sequences of a batch differ here.
      members: (rows, history) units, the head first.
      stride: of a ring.
      sign: of a ring or rotation.
      kernel: (rows, rows) of "in_order", (rows,) decays of "decay", else None.
      driven: some head has inputs or a bias.
      sources: (s,) units outside of the group that heads read with a lag of one.
      source_kernel: (s, rows).
    """

    kind: Kind
    varying: bool
    members: np.ndarray
    stride: int
    sign: int
    kernel: sparse.csc_array | np.ndarray | None
    driven: bool
    sources: np.ndarray
    source_kernel: sparse.csc_array


@dataclass(frozen=True)
class Decomposition:
    """The groups of a layer, each after those that it reads, and where each unit is.

    Attributes:
      groups: in order of evaluation.
      group: (hidden,) the group of a unit.
      row: (hidden,) its row there.
      lag: (hidden,) how many tokens it is behind its head.
      sign: (hidden,) 1 or -1: the unit is sign * head, `lag` tokens ago.
    """

    groups: tuple[Group, ...]
    group: np.ndarray
    row: np.ndarray
    lag: np.ndarray
    sign: np.ndarray


@dataclass(frozen=True)
class _Block:
    """Units that can't be told apart by level: a head with its repeaters, a ring, or a knot."""

    kind: Kind
    units: tuple[int, ...]
    signs: tuple[int, ...]
    stride: int = 1
    sign: int = 1


def decompose(
    kernel: sparse.csr_array, inputs: np.ndarray, biased: np.ndarray, varying: np.ndarray
) -> Decomposition:
    """Cut the units of a layer into groups with a closed form over time.

    Args:
      kernel: (hidden, hidden) recurrent kernel, entry [source, target], without stored zeros.
      inputs: (hidden,) whether a unit has inputs.
      biased: (hidden,) whether a unit has a bias.
      varying: (hidden,) whether its inputs or initial state differ between sequences of a batch.

    Returns:
      The decomposition; every unit is in exactly one group.
    """
    hidden = kernel.shape[0]
    entries = kernel.tocoo()
    driven = inputs | biased
    blocks = _blocks(kernel, entries, driven)
    block_of = np.empty(hidden, np.int64)
    for number, block in enumerate(blocks):
        block_of[list(block.units)] = number
    sources, targets = block_of[entries.row], block_of[entries.col]
    across = sources != targets
    levels = _levels(sources[across], targets[across], len(blocks))
    block_varying = np.zeros(len(blocks), bool)
    np.logical_or.at(block_varying, block_of, varying)
    block_varying = _spread(sources[across], targets[across], block_varying)
    block_driven = np.zeros(len(blocks), bool)
    np.logical_or.at(block_driven, block_of, driven)
    block_inputs = np.zeros(len(blocks), bool)
    np.logical_or.at(block_inputs, block_of, inputs)
    block_reads = np.zeros(len(blocks), bool)
    block_reads[targets[across]] = True

    keyed: dict[tuple[object, ...], list[int]] = {}
    for number, block in enumerate(blocks):
        key: tuple[object, ...] = (int(levels[number]), bool(block_varying[number]), block.kind)
        if block.kind == "rotation":
            key += (number,)
        elif block.kind != "in_order":
            shape = (block.stride, len(block.units), block.sign)
            key += (*shape, bool(block_driven[number]), bool(block_reads[number]))
            if block.kind == "ring":  # one that only counts needs no loop
                key += (bool(block_inputs[number]),)
        keyed.setdefault(key, []).append(number)
    if len(keyed) > GROUPS_LIMIT:
        knot = _Block("in_order", tuple(range(hidden)), (1,) * hidden)
        return _assemble([[knot]], kernel, driven, np.full(hidden, varying.any()))
    ordered = sorted(keyed.items(), key=lambda item: (item[0][:2], item[1][0]))
    return _assemble(
        [[blocks[number] for number in numbers] for _, numbers in ordered],
        kernel,
        driven,
        block_varying[block_of],
    )


def _blocks(
    kernel: sparse.csr_array, entries: sparse.coo_array, driven: np.ndarray
) -> list[_Block]:
    """Find rings, knots, and heads with their repeaters."""
    hidden = kernel.shape[0]
    count, component = csgraph.connected_components(kernel, directed=True, connection="strong")
    sizes = np.bincount(component, minlength=count)
    inside = component[entries.row] == component[entries.col]
    loops = kernel.diagonal()
    alone = sizes[component] == 1
    unit_weight = np.abs(entries.data) == 1

    blocks = []
    members: dict[int, list[int]] = {}
    for unit in np.flatnonzero(~alone):
        members.setdefault(int(component[unit]), []).append(int(unit))
    outside_reads = np.zeros(hidden, bool)
    outside_reads[entries.col[~inside]] = True
    edges = np.bincount(component[entries.row[inside]], minlength=count)
    plain = np.bincount(component[entries.row[inside & unit_weight]], minlength=count)
    for number, knot in members.items():
        # A strongly connected component with as many edges as units is one cycle.
        if edges[number] == plain[number] == len(knot):
            blocks.append(_ring(kernel, component, knot, driven | outside_reads))
        else:
            blocks.append(_Block("in_order", tuple(knot), (1,) * len(knot)))

    # A unit repeats another if it reads nothing else, with a weight of ±1.
    in_degree = np.bincount(entries.col, minlength=hidden)
    closed = alone & (np.abs(loops) <= DECAY_LIMIT)
    repeats = alone & (loops == 0) & ~driven & (in_degree == 1)
    follower: dict[int, tuple[int, int]] = {}
    repeaters = set()
    usable = closed[entries.row] & repeats[entries.col] & unit_weight
    for source, target, weight in zip(
        entries.row[usable], entries.col[usable], entries.data[usable], strict=True
    ):
        if int(source) not in follower:
            follower[int(source)] = (int(target), int(weight))
            repeaters.add(int(target))
    for head in np.flatnonzero(alone).tolist():
        if head in repeaters:
            continue
        units: list[int] = [head]
        signs = [1]
        while units[-1] in follower:
            tail, sign = follower[units[-1]]
            units.append(tail)
            signs.append(signs[-1] * sign)
        loop = float(loops[head])
        if loop == 0:
            kind: Kind = "feed"
        elif abs(loop) == 1:
            kind = "ring"
        else:
            kind = "decay" if abs(loop) <= DECAY_LIMIT else "in_order"
        blocks.append(_Block(kind, tuple(units), tuple(signs), sign=-1 if loop == -1 else 1))
    return blocks


def _ring(
    kernel: sparse.csr_array, component: np.ndarray, units: list[int], entered: np.ndarray
) -> _Block:
    """Order the units of a cycle, from the one that is driven."""
    entrances = [unit for unit in units if entered[unit]]
    order, signs = [entrances[0] if entrances else units[0]], [1]
    while True:
        row = slice(kernel.indptr[order[-1]], kernel.indptr[order[-1] + 1])
        for target, weight in zip(kernel.indices[row], kernel.data[row], strict=True):
            if component[target] == component[order[0]]:
                following, sign = int(target), signs[-1] * int(weight)
        if following == order[0]:
            break
        order.append(following)
        signs.append(sign)
    many = len(entrances) > 1
    return _Block(
        "rotation" if many else "ring",
        tuple(order),
        tuple(signs),
        stride=len(order),
        sign=sign,
    )


def _levels(sources: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Give each block the length of the longest path to it; the edges have no cycle."""
    levels = np.zeros(count, np.int64)
    # Deeper than the limit there are too many groups anyway, so the levels needn't be right.
    for _ in range(GROUPS_LIMIT + 1):
        before = levels.copy()
        np.maximum.at(levels, targets, levels[sources] + 1)
        if (levels == before).all():
            break
    return levels


def _spread(sources: np.ndarray, targets: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Mark all that can be reached from marked blocks."""
    while True:
        spread = marked.copy()
        np.logical_or.at(spread, targets, marked[sources])
        if (spread == marked).all():
            return spread
        marked = spread


def _assemble(
    batches: list[list[_Block]],
    kernel: sparse.csr_array,
    driven: np.ndarray,
    varying: np.ndarray,
) -> Decomposition:
    """Make a group of each batch of blocks, and note where every unit went."""
    hidden = kernel.shape[0]
    place = {name: np.zeros(hidden, np.int64) for name in ("group", "row", "lag", "sign")}
    groups = []
    by_target = kernel.tocsc()
    for number, blocks in enumerate(batches):
        first = blocks[0]
        if first.kind in ("rotation", "in_order"):
            members = np.array([unit for block in blocks for unit in block.units])[:, None]
            signs = np.array([sign for block in blocks for sign in block.signs])[:, None]
        else:
            members = np.array([block.units for block in blocks])
            signs = np.array([block.signs for block in blocks])
        place["group"][members] = number
        place["row"][members] = np.arange(len(members))[:, None]
        place["lag"][members] = np.arange(members.shape[1])
        place["sign"][members] = signs
        heads = members[:, 0]
        incoming = sparse.csc_array(by_target[:, heads])
        own: sparse.csc_array | np.ndarray | None = None
        if first.kind == "decay":
            own = kernel.diagonal()[heads]
        elif first.kind == "in_order":
            own = sparse.csc_array(incoming[heads, :])
        outside = np.ones(hidden, bool)
        outside[members] = False
        reads = np.flatnonzero(outside & (np.diff(incoming.tocsr().indptr) > 0))
        # In a rotation a head has a sign of its own, and so has what drives it.
        scale = sparse.diags_array(signs[:, 0].astype(np.float64))
        groups.append(
            Group(
                kind=first.kind,
                varying=bool(varying[heads].any()),
                members=members,
                stride=first.stride,
                sign=first.sign,
                kernel=own,
                driven=bool(driven[heads].any()),
                sources=reads,
                source_kernel=sparse.csc_array(incoming[reads, :] @ scale),
            )
        )
    return Decomposition(tuple(groups), **place)
