"""Bounds of linear recurrences s_t = A s_{t-1} + u_t: how far they get within their tokens."""

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lsrl.ir.bounds import (
    Facts,
    Sums,
    constant_facts,
    facts,
    interval_ends,
    lowest_bit_of_step,
    pairwise_grid,
    shared_grid,
    widen,
)
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.structure import is_diagonal

# Past this many steps a recurrence with no closed form is bounded by repeated squaring.
MAX_UNROLLED_STEPS = 4096
# Longer ways along chains, times their channels, are not followed token by token.
MOST_STEPS = 1 << 20
# Powers of a matrix of more channels are not made: they would be dense.
MOST_DENSE = 512
# A power of a decaying matrix that adds next to nothing any more.
NEGLIGIBLE = 2.0**-60


class Reach(NamedTuple):
    """How far a linear recurrence gets within its tokens."""

    low: Array  # (width,)
    high: Array  # (width,)
    magnitude: (
        Array  # (width,) bound on Σ_k |A^k| |u| + |A^t| |initial|: every partial sum, any order
    )
    halvings: float  # how much finer the state's grid is than its terms': the least entry of A^k
    settled: bool = False  # whether the same holds after any greater number of tokens


def linear_state_facts(
    transition: Matrix, initial: Array, update: Facts, tokens: int
) -> tuple[Facts, Sums]:
    """Facts and condition P1 of s_t = A s_{t-1} + u_t for t < tokens, s_{-1} = initial.

    Args:
      transition: A, (width, width).
      initial: (width,).
      update: facts of u.
      tokens: number of tokens, at least 1.
    """
    ends = update.low.tobytes(), update.high.tobytes(), update.step.tobytes()
    known, sums = _cached_facts(transition, initial.tobytes(), *ends, tokens)
    # Facts go by their identity, so each state has its own, of arrays that it shares.
    return replace(known), sums


@lru_cache(maxsize=512)
def _cached_facts(
    transition: Matrix, initial_bytes: bytes, low: bytes, high: bytes, step: bytes, tokens: int
) -> tuple[Facts, Sums]:
    # Programs have many states that take in as much.
    update = Facts(np.frombuffer(low), np.frombuffer(high), np.frombuffer(step))
    found = _state_facts(transition, np.frombuffer(initial_bytes), update, tokens)
    for array in (found[0].low, found[0].high, found[0].step, *found[1]):
        array.flags.writeable = False
    return found


def _state_facts(
    transition: Matrix, initial: Array, update: Facts, tokens: int
) -> tuple[Facts, Sums]:
    reach = _reach(transition, initial, update, tokens)
    start = constant_facts(initial)
    # Channels of a coupled state mix, so the state shares one grid; uncoupled channels keep theirs.
    step = pairwise_grid(update.step, start.step)
    if not is_diagonal(transition):
        step = np.full(len(initial), shared_grid(step))
    if not transition.is_integer:
        step = np.where(np.isinf(step), step, step * reach.halvings)
    grid = lowest_bit_of_step(Facts(initial, initial, step))
    result = facts(reach.low, reach.high, step)
    magnitude = _row_magnitude(transition, initial, update, reach)
    turning = not update.magnitude.any() and _is_permutation(transition)
    if turning and np.count_nonzero(initial) == 1:
        # One nonzero value goes round, and where it stands no other stands.
        root = "ring", transition, initial.tobytes()
        result = replace(result, groups=((root, np.arange(len(initial))),))
    return result, Sums(magnitude, grid)


def linear_state_settles(transition: Matrix, initial: Array, update: Facts, tokens: int) -> bool:
    """Whether what `linear_state_facts` tells of some tokens holds at every greater number."""
    return _reach(transition, initial, update, tokens).settled


def _row_magnitude(transition: Matrix, initial: Array, update: Facts, reach: Reach) -> Array:
    """The terms of A s + u before they cancel, where a row has several states or scales one."""
    size = np.maximum(np.abs(initial), np.maximum(np.abs(reach.low), np.abs(reach.high)))
    rows, weights = transition.entry_rows(), np.abs(transition.data)
    terms = np.bincount(rows, weights * size[transition.indices], len(size)) + update.magnitude
    plain = np.bincount(rows, weights, len(size)) <= 1
    return np.where(plain, reach.magnitude, np.maximum(reach.magnitude, terms))


def _is_permutation(matrix: Matrix) -> bool:
    return (
        matrix.nonzeros == matrix.rows == matrix.columns
        and bool((np.diff(matrix.indptr) == 1).all())
        and bool((matrix.data == 1).all())
        and len(np.unique(matrix.indices)) == matrix.rows
    )


def _reach(transition: Matrix, initial: Array, update: Facts, tokens: int) -> Reach:
    # The passes ask for the same state again and again.
    return _cached_reach(
        transition, initial.tobytes(), update.low.tobytes(), update.high.tobytes(), tokens
    )


@lru_cache(maxsize=512)
def _cached_reach(
    transition: Matrix, initial_bytes: bytes, low: bytes, high: bytes, tokens: int
) -> Reach:
    initial = np.frombuffer(initial_bytes)
    update = facts(np.frombuffer(low), np.frombuffer(high), np.zeros(len(initial)))
    if transition.is_identity:
        return _identity_reach(initial, update, tokens)
    if _is_permutation(transition) or _is_shift(transition):
        return _selection_reach(transition, initial, update, tokens)
    turns = transition.nonzeros == transition.rows and (transition.data == -1).all()
    if turns and is_diagonal(transition):
        return _turning_reach(initial, update, tokens)
    return _general_reach(transition, initial, update, tokens)


def _is_shift(matrix: Matrix) -> bool:
    """Rows that each pick at most one earlier channel: registers, which forget in the end."""
    return (
        bool((matrix.data == 1).all())
        and bool((np.diff(matrix.indptr) <= 1).all())
        and bool((matrix.indices < matrix.entry_rows()).all())
    )


def _ends(initial: Array, update: Facts) -> Array:
    """(width,) the grid of the ends of the intervals that a state starts with and takes in."""
    return np.minimum(lowest_bit(initial), interval_ends(update).step)


def _identity_reach(initial: Array, update: Facts, tokens: int) -> Reach:
    low = initial + np.minimum(update.low, tokens * update.low)
    high = initial + np.maximum(update.high, tokens * update.high)
    magnitude = np.abs(initial) + _multiple(tokens, update.magnitude)
    low, high = widen(low, high, Sums(magnitude, _ends(initial, update)))
    return Reach(low, high, magnitude, 1.0, not update.magnitude.any())


def _turning_reach(initial: Array, update: Facts, tokens: int) -> Reach:
    """Every channel times -1 a token: what came in an even number of tokens ago counts as it is."""
    ends = []
    for count in {tokens, max(tokens - 1, 1)}:
        # Longer ways of as many tokens, even or odd, reach further.
        start = initial if count % 2 == 0 else -initial
        plain, turned = float(-(-count // 2)), float(count // 2)
        ends.append((
            start + plain * update.low - (turned * update.high if turned else 0.0),
            start + plain * update.high - (turned * update.low if turned else 0.0),
        ))  # fmt: skip
    low, high = np.min([low for low, _ in ends], axis=0), np.max([high for _, high in ends], axis=0)
    magnitude = np.abs(initial) + _multiple(tokens, update.magnitude)
    low, high = widen(low, high, Sums(magnitude, _ends(initial, update)))
    return Reach(low, high, magnitude, 1.0, tokens > 1 and not update.magnitude.any())


def _multiple(count: int, values: Array) -> Array:
    """A count times each value, not below the truth where float64 rounds the product."""
    product = count * values
    for i in np.flatnonzero(np.isfinite(product) & (product >= 2.0**53 * lowest_bit(values))):
        if Fraction(float(product[i])) < count * Fraction(float(values[i])):
            product[i] = np.nextafter(product[i], np.inf)
    return np.asarray(product)


def _selection_reach(transition: Matrix, initial: Array, update: Facts, tokens: int) -> Reach:
    """A^k only moves channels, so each channel gathers what comes along its chain or cycle."""
    size = len(initial)
    ring = _is_permutation(transition)
    cycle = _cycle_length(transition.indices) if ring else size
    steps = min(tokens, cycle)
    walk = _walk(transition, initial, update, steps)
    low, high, magnitude = walk.low, walk.high, walk.magnitude
    if ring:
        # Later rounds add the same totals again; a whole round more covers the remainder.
        rounds = -(-tokens // steps) - 1
        low = low + np.minimum(0.0, rounds * walk.total_low)
        high = high + np.maximum(0.0, rounds * walk.total_high)
        magnitude = magnitude + rounds * walk.total
    low, high, magnitude = low[:size], high[:size], magnitude[:size]
    ends = np.full(size, _ends(initial, update).min(initial=np.inf))
    low, high = widen(low, high, Sums(magnitude, ends))
    # A ring that nothing enters turns for ever; registers forget all that is older than they are.
    silent = not update.magnitude.any()
    settled = silent and tokens >= cycle if ring else tokens > size
    return Reach(low, high, magnitude, 1.0, settled)


class _Walk(NamedTuple):
    """What a channel meets on its way back along its chain, for some number of tokens.

    Arrays have an entry a channel, and a last one that is always 0 and stands for "nothing comes".
    """

    source: Array  # where its value was before these tokens
    total_low: Array  # the sum of the least updates on the way
    total_high: Array
    total: Array  # the sum of the greatest sizes of the updates
    low: Array  # the least state after any of these tokens, at least one
    high: Array
    magnitude: Array

    def then(self, earlier: "_Walk") -> "_Walk":
        """This way, and another one from where it ends."""
        low, high, size, total_low, total_high, total = (
            values[self.source]
            for values in (
                earlier.low, earlier.high, earlier.magnitude,
                earlier.total_low, earlier.total_high, earlier.total,
            )
        )  # fmt: skip
        return _Walk(
            earlier.source[self.source],
            self.total_low + total_low,
            self.total_high + total_high,
            self.total + total,
            np.minimum(self.low, self.total_low + low),
            np.maximum(self.high, self.total_high + high),
            np.maximum(self.magnitude, self.total + size),
        )


def _walk(transition: Matrix, initial: Array, update: Facts, steps: int) -> _Walk:
    """The way of `steps` tokens: one after another, or long ones of ways of 1, 2, 4, … tokens."""
    size = len(initial)
    source = np.full(size + 1, size)
    source[transition.entry_rows()] = transition.indices
    start, low, high, most = (
        np.append(values, 0.0) for values in (initial, update.low, update.high, update.magnitude)
    )
    if steps * size <= MOST_STEPS:
        return _stepwise(source, (start, low, high, most), steps)
    came = start[source]
    double = _Walk(source, low, high, most, came + low, came + high, np.abs(came) + most)
    found: _Walk | None = None
    while steps:
        if steps & 1:
            found = double if found is None else found.then(double)
        steps >>= 1
        double = double.then(double) if steps else double
    return double if found is None else found


def _stepwise(source: Array, values: tuple[Array, Array, Array, Array], steps: int) -> _Walk:
    """The same for a short way, whose rounding is that of one sum after another."""
    moved, low_in, high_in, all_in = values
    total_low, total_high, total, magnitude = (np.zeros(len(source)) for _ in range(4))
    low, high = np.full(len(source), np.inf), np.full(len(source), -np.inf)
    for _ in range(steps):
        moved = moved[source]
        total_low, total_high, total = total_low + low_in, total_high + high_in, total + all_in
        low_in, high_in, all_in = low_in[source], high_in[source], all_in[source]
        low, high = np.minimum(low, moved + total_low), np.maximum(high, moved + total_high)
        magnitude = np.maximum(magnitude, np.abs(moved) + total)
    return _Walk(source, total_low, total_high, total, low, high, magnitude)


def _cycle_length(source: Array) -> int:
    """Least common multiple of the cycle lengths of a permutation."""
    from scipy.sparse import csgraph, csr_array

    size = len(source)
    graph = csr_array((np.ones(size), (np.arange(size), source)), (size, size))
    _, labels = csgraph.connected_components(graph, directed=False)
    return math.lcm(*(int(count) for count in np.bincount(labels)))


class _Power(NamedTuple):
    """What is known of A^k, and of the part A^k u of a state."""

    low: Array  # (width,)
    high: Array  # (width,)
    size: Array  # (width,) bound on |A^k| |u|
    rows: float  # greatest sum of a row of |A^k|
    most: float  # greatest entry of |A^k|
    bit: float  # a power of two that divides every entry


def _powers(transition: Matrix, update: Facts) -> Iterator[_Power]:
    """A^k as it is, for k = 0, 1, …."""
    matrix, power = transition.csr, np.eye(transition.rows)
    while True:
        yield _power(power, update)
        power = matrix @ power


def _power(power: Array, update: Facts) -> _Power:
    positive, negative, size = np.maximum(power, 0.0), np.minimum(power, 0.0), np.abs(power)
    return _Power(
        positive @ update.low + negative @ update.high,
        positive @ update.high + negative @ update.low,
        size @ update.magnitude,
        float(size.sum(axis=1).max()),
        float(size.max()),
        float(lowest_bit(power[size != 0]).min(initial=np.inf)),
    )


def _bounded_powers(transition: Matrix, update: Facts) -> Iterator[_Power]:
    """The same of many channels, from A^(k-1) u: no more than signs of A^k may get lost."""
    matrix = transition.csr
    positive, negative, size = matrix.maximum(0.0), matrix.minimum(0.0), abs(matrix)
    bit = float(lowest_bit(matrix.data).min(initial=1.0))
    found = _Power(update.low, update.high, update.magnitude, 1.0, 1.0, 1.0)
    rows = np.ones(transition.rows)
    while True:
        yield found
        rows = size @ rows
        most = float(rows.max())
        found = _Power(
            positive @ found.low + negative @ found.high,
            positive @ found.high + negative @ found.low,
            size @ found.size,
            most,
            most,
            found.bit * bit,
        )


def _general_reach(transition: Matrix, initial: Array, update: Facts, tokens: int) -> Reach:
    """Sum the hulls of A^k u one power at a time while the powers change, else bound by |A|."""
    size = len(initial)
    few = size <= MOST_DENSE
    powers = (_powers if few else _bounded_powers)(transition, update)
    power = next(powers)
    moved = initial.copy()
    matrix = transition.csr
    total_low, total_high, total = np.zeros(size), np.zeros(size), np.zeros(size)
    low, high, magnitude = np.full(size, np.inf), np.full(size, -np.inf), np.zeros(size)
    exact, smallest, settled, farthest = True, 1.0, False, np.abs(initial).max(initial=0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(tokens):
            if step >= MAX_UNROLLED_STEPS:
                if few:
                    return _squared_reach(transition, initial, update, tokens)
                whole = 1.0 if transition.is_integer else 0.0
                rounds = -(-tokens // step)
                return _repeated_reach(size, power.rows, rounds, total.max(), farthest, whole)
            moved = matrix @ moved
            total_low, total_high = total_low + power.low, total_high + power.high
            total = total + power.size
            low = np.minimum(low, moved + total_low)
            high = np.maximum(high, moved + total_high)
            magnitude = np.maximum(magnitude, np.abs(moved) + total)
            farthest = max(farthest, np.abs(moved).max())
            smallest = min(smallest, power.bit)
            exact = exact and power.most <= 2.0**52 * power.bit
            if not np.isfinite(magnitude).all():
                return Reach(np.full(size, -np.inf), np.full(size, np.inf), magnitude, 0.0)
            power = next(powers)
            if power.most == 0 and not (matrix @ moved).any():
                settled = True
                break
            if power.most < NEGLIGIBLE:
                # Every later round of as many tokens adds at most this share of all that came in.
                share = 2 * power.rows
                slack = share * (float(total.max(initial=0.0)) + farthest)
                return Reach(low - slack, high + slack, magnitude + slack, 0.0, True)
    ends = smallest * _ends(initial, update).min(initial=np.inf) if exact else 0.0
    low, high = widen(low, high, Sums(magnitude, np.full(size, ends)))
    return Reach(low, high, magnitude, smallest if exact else 0.0, settled)


def _repeated_reach(
    size: int, rows: float, rounds: int, total: float, farthest: float, halvings: float
) -> Reach:
    """Bound rounds of as many tokens as the first, each of which multiplies by `rows` at most."""
    last = np.float64(rows) ** float(rounds)
    sums = float(rounds) if rows <= 1 else (last - 1) / (rows - 1)
    bound = (total * sums + farthest * max(1.0, last)) * (1 + 2.0**-40)
    most = np.full(size, bound if np.isfinite(bound) else np.inf)
    return Reach(-most, most, most, halvings)


def _squared_reach(transition: Matrix, initial: Array, update: Facts, tokens: int) -> Reach:
    """Bound Σ_{k<tokens} |A|^k |u| and |A|^t |initial| by repeated squaring of I + |A| + …."""
    absolute = np.abs(transition.dense())
    size = len(initial)
    partial, power = np.zeros((size, size)), np.eye(size)
    square_sum, square = np.eye(size), absolute
    remaining = tokens
    with np.errstate(over="ignore", invalid="ignore"):
        while remaining:
            if remaining & 1:
                partial = partial + power @ square_sum
                power = power @ square
            square_sum, square = square_sum + square @ square_sum, square @ square
            remaining >>= 1
        carried = (np.eye(size) + partial @ absolute) @ np.abs(initial)
        magnitude = partial @ update.magnitude + carried
        # What later tokens add is in proportion to what is left of the first.
        share = float(power.sum(axis=1).max(initial=0.0))
        settled = share < 2.0**-42 and bool(np.isfinite(magnitude).all())
        if settled:
            magnitude = magnitude + 2 * share * magnitude.max(initial=0.0)
    magnitude = np.where(np.isfinite(magnitude), magnitude * (1 + 2.0**-40), np.inf)
    low, high = -magnitude, magnitude.copy()
    nonnegative = bool((transition.data >= 0).all()) and bool((initial >= 0).all())
    if nonnegative:
        # Every term has the sign of the update, so one side of the interval is closed by zero.
        low = np.where((update.low >= 0).all(), 0.0, low)
        high = np.where((update.high <= 0).all() and not initial.any(), 0.0, high)
    return Reach(low, high, magnitude, 1.0 if transition.is_integer else 0.0, settled)
