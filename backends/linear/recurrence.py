"""Linear recurrences h_t = h_{t-1} A + u_t, whole sequences at once, by the structure of A.

`decompose` looks at the numbers in A and cuts its units into groups that don't need a loop over
time: shift registers are slices of one padded sequence, self-loops of ±1 and rings (signed cycles)
are cumulative sums, real decays are blocked sums, and only what is left runs in order.

Nothing here changes a result whose sums are exact: weights of ±1 multiply nothing, sums are only
reordered, and zero weights meet finite numbers only.

Axes: r rows (units, or heads of a group), b sequences (1 where all of them agree), t tokens. Arrays
are (r, b, t): with time last, delays are slices and a mixing matrix is one product over b and t.
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

BLOCK = 16  # tokens that one small matrix product sums up; measured against 8, 32, 64, 128
ONE_BLOCK = 64  # up to so many tokens one product sums them all
DECAY_LEVELS = 4  # levels of blocks, so a decay sees at most BLOCK ** DECAY_LEVELS tokens at once
# A chunk of 2**16 tokens multiplies by at most 2**47, far from overflow: inf * 0 would be a NaN.
# Units that grow faster run in order.
DECAY_LIMIT = 1 + 2.0**-11
# Beyond this many groups a layer is a tangle, where one loop over time compiles and runs faster.
GROUPS_LIMIT = 48


# ---------------------------------------------------------------- closed forms over time


def strided_sum(inputs: jax.Array, stride: int, sign: int = 1) -> jax.Array:
    """Run s_t = sign * s_{t-stride} + inputs_t from zero.

    Args:
      inputs: (..., t).
      stride: distance of a token to the one that it adds to; 1 is the cumulative sum.
      sign: 1 or -1.

    Returns:
      (..., t).
    """
    tokens: int = inputs.shape[-1]
    if stride >= tokens:
        return inputs
    if sign < 0:
        # Turn every second period over: then it is a plain sum.
        periods = np.arange(tokens) // stride
        flips = jnp.broadcast_to(jnp.asarray(1 - 2 * (periods % 2), inputs.dtype), inputs.shape)
        return strided_sum(inputs * flips, stride) * flips
    if stride >= BLOCK:
        padded = _pad_end(inputs, -tokens % stride)
        periodic = padded.reshape(*inputs.shape[:-1], -1, stride)
        rising: jax.Array = lax.associative_scan(jnp.add, periodic, axis=-2)
        return rising.reshape(padded.shape)[..., :tokens]
    # The sums of blocks are few, and one larger product of them compiles faster than two levels.
    block = tokens if tokens <= ONE_BLOCK else stride * -(-BLOCK // stride)
    padded = _pad_end(inputs, -tokens % block)
    blocks = padded.reshape(*inputs.shape[:-1], -1, block)
    steps = np.arange(block)[None, :] - np.arange(block)[:, None]
    within = jnp.asarray((steps >= 0) & (steps % stride == 0), inputs.dtype)
    sums = lax.dot_general(
        blocks, within, (((blocks.ndim - 1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST
    )
    count = blocks.shape[-2]
    if count > 1:
        totals = sums[..., -stride:].reshape(*inputs.shape[:-1], -1)
        before = _pad_start(strided_sum(totals, stride)[..., :-stride], stride)
        before = jnp.tile(before.reshape(*inputs.shape[:-1], count, stride), block // stride)
        sums = sums + before
    return sums.reshape(padded.shape)[..., :tokens]


def periodic(history: jax.Array, sign: int, tokens: int) -> jax.Array:
    """Continue s_t = sign * s_{t-stride}, which nothing drives.

    Args:
      history: (r, b, stride), the last tokens before, oldest first.
      sign: 1 or -1.
      tokens: how many to continue.

    Returns:
      (r, b, tokens).
    """
    periods = -(-tokens // history.shape[-1])
    if sign > 0:
        return jnp.tile(history, periods)[..., :tokens]
    twice = jnp.concatenate([-history, history], axis=-1)
    return jnp.tile(twice, -(-periods // 2))[..., :tokens]


def decay_powers(decay: np.ndarray) -> np.ndarray:
    """Tabulate the powers of decays for `decaying_sum`, in float64.

    Args:
      decay: (r,), nonzero, at most DECAY_LIMIT in size.

    Returns:
      (levels, r, block, block); entry [l, r, j, i] is decay[r] ** ((i - j) * block ** l) for
      j <= i, else 0.
    """
    steps = np.arange(BLOCK)[None, :] - np.arange(BLOCK)[:, None]
    spans = np.float64(BLOCK) ** np.arange(DECAY_LEVELS)
    exponents = np.maximum(steps, 0) * spans[:, None, None, None]
    powers = decay.astype(np.float64)[:, None, None] ** exponents
    return np.where(steps >= 0, powers, 0.0)


def decaying_sum(inputs: jax.Array, powers: jax.Array) -> jax.Array:
    """Run s_t = decay * s_{t-1} + inputs_t from zero.

    Args:
      inputs: (r, b, t), t at most BLOCK ** DECAY_LEVELS.
      powers: of `decay_powers`, (levels, r, block, block).

    Returns:
      (r, b, t).
    """
    rows, batch, tokens = inputs.shape
    padded = _pad_end(inputs, -tokens % BLOCK)
    blocks = padded.reshape(rows, -1, BLOCK)
    sums = lax.dot_general(
        blocks, powers[0], (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    ).reshape(rows, batch, -1, BLOCK)
    if sums.shape[2] > 1:
        totals = decaying_sum(sums[..., -1], powers[1:])
        before = _pad_start(totals[..., :-1], 1)
        # decay ** 1 … decay ** block: the first row of the table, one step on.
        reach = powers[0, :, 0, :] * powers[0, :, 0, 1:2]
        sums = sums + before[..., None] * reach[:, None, None, :]
    return sums.reshape(padded.shape)[..., :tokens]


def rotation(inputs: jax.Array, state: jax.Array, sign: int = 1) -> jax.Array:
    """Run a ring of which several units are driven: unit i reads unit i - 1, unit 0 the last.

    In coordinates that rotate with the ring it is a cumulative sum.

    Args:
      inputs: (n, b, t).
      state: (n, b, 1), before the first token.
      sign: weight of the edge that closes the ring, 1 or -1; the other edges are 1.

    Returns:
      (n, b, t).
    """
    units, _, tokens = inputs.shape
    time = np.arange(tokens)
    rotated = np.arange(units)[:, None] + time  # (coordinate, t) -> unit, counted on round the ring
    back = (np.arange(units)[:, None] - time) % units  # (unit, t) -> coordinate
    wraps = 1 - 2 * ((rotated // units) % 2) if sign < 0 else np.ones_like(rotated)
    first = jnp.roll(state, 1, axis=0)  # at token -1 coordinate c sits at unit c - 1
    if sign < 0:
        first = first.at[0].multiply(-1)
    drive = _along_rows(inputs, rotated % units)
    if sign < 0:
        drive = drive * jnp.asarray(wraps[:, None, :], inputs.dtype)
    sums = strided_sum(drive, 1) + first
    if sign < 0:
        sums = sums * jnp.asarray(wraps[:, None, :], inputs.dtype)
    return _along_rows(sums, back)


def in_order(
    inputs: jax.Array,
    state: jax.Array,
    advance: Callable[[jax.Array], jax.Array],
    rounded: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Run h_t = rounded(advance(h_{t-1}) + inputs_t) token by token.

    Args:
      inputs: (r, b, t).
      state: (r, b, 1), before the first token.
      advance: the linear map (r, b) -> (r, b).
      rounded: rounds to the dtype of the model.

    Returns:
      (r, b, t).
    """

    def token(hidden: jax.Array, drive: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = rounded(advance(hidden) + drive)
        return hidden, hidden

    batch = max(inputs.shape[1], state.shape[1])
    start = jnp.broadcast_to(state[..., 0], (inputs.shape[0], batch))
    _, sequence = lax.scan(token, start, jnp.moveaxis(inputs, -1, 0))
    return jnp.moveaxis(sequence, 0, -1)


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
      values: (..., t).
      span: tokens of a window.

    Returns:
      (..., t - span + 1), entry i the sum of values i … i + span - 1.
    """
    count = values.shape[-1] - span + 1
    total, start, size = None, 0, 1
    while True:
        if span & size:
            part = values[..., start : start + count]
            total = part if total is None else total + part
            start += size
        if total is not None and start == span:
            return total
        values = values[..., : values.shape[-1] - size] + values[..., size:]
        size *= 2


def _pad_end(rows: jax.Array, count: int) -> jax.Array:
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, count)]) if count else rows


def _pad_start(rows: jax.Array, count: int) -> jax.Array:
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(count, 0)])


def _along_rows(rows: jax.Array, index: np.ndarray) -> jax.Array:
    """Read rows[index[i, t], b, t] for every i, b, t."""
    every = jnp.asarray(index[:, None, :], jnp.int32)
    return jnp.take_along_axis(rows, every, axis=0, mode="promise_in_bounds")


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


def decompose(kernel: sparse.csr_array, driven: np.ndarray, varying: np.ndarray) -> Decomposition:
    """Cut the units of a layer into groups with a closed form over time.

    Args:
      kernel: (hidden, hidden) recurrent kernel, entry [source, target], without stored zeros.
      driven: (hidden,) whether a unit has inputs or a bias.
      varying: (hidden,) whether its inputs or initial state differ between sequences of a batch.

    Returns:
      The decomposition; every unit is in exactly one group.
    """
    hidden = kernel.shape[0]
    entries = kernel.tocoo()
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
