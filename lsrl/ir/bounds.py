"""Bounds as types: the interval and the grid of every channel of every signal.

`Facts` say where a value can lie; the functions below carry facts through affine maps and linear
recurrences. Interval ends that float64 can't hold exactly are widened outwards, so facts are sound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lsrl.ir import groups as exclusion
from lsrl.ir.groups import Groups
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, common_grid, lowest_bit, rational, sum_is_exact
from lsrl.ir.structure import is_diagonal

# Past this many steps a recurrence with no closed form is bounded by repeated squaring.
MAX_UNROLLED_STEPS = 4096
# The smallest normal float64: products below it are rounded, and count as this.
TINY = 2.0**-1022
# A power of a decaying matrix that adds next to nothing any more.
NEGLIGIBLE = 2.0**-60


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a signal's value at every token.

    Attributes:
      low: (width,) float64, least value of each channel.
      high: (width,) float64, greatest value.
      step: (width,) float64, every value is a multiple of it; 0 for continuous, inf for always 0.
      groups: which channels are never on together; see `lsrl.ir.groups`. It does not depend on the
        number of tokens.
      once: the value is a state that takes at most one nonzero update, by promise.
    """

    low: Array
    high: Array
    step: Array
    groups: Groups = exclusion.NONE
    once: bool = False

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.low)

    @property
    def magnitude(self) -> Array:
        """(width,) the greatest absolute value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def zero(self) -> Array:
        """(width,) bool, which channels are always 0."""
        return (self.low == 0) & (self.high == 0)

    @property
    def exclusive(self) -> bool:
        """Whether at most one channel is nonzero at a token."""
        return exclusion.exclusive(self.groups, self.zero)

    @property
    def one_hot(self) -> bool:
        """Whether every channel is 0 or 1 and at most one of them is 1."""
        return self.boolean and self.exclusive

    @property
    def gridded(self) -> bool:
        """Whether no channel is continuous."""
        return bool((self.step > 0).all())

    @property
    def boolean(self) -> bool:
        """Whether every channel is 0 or 1."""
        return self.integer and bool(((self.low >= 0) & (self.high <= 1)).all())

    @property
    def integer(self) -> bool:
        """Whether every channel is an integer."""
        finite = np.where(np.isinf(self.step), 1.0, self.step)
        return bool(((finite >= 1) & (finite % 1 == 0)).all())

    @property
    def constant(self) -> bool:
        """Whether every channel has one possible value."""
        return bool((self.low == self.high).all())

    def violations(self, values: Array) -> Array:
        """Where values are not as these facts say.

        Args:
          values: (..., width), float64 or, as objects, exact rationals.

        Returns:
          Booleans of the same shape.
        """
        wrong = np.asarray((values < self.low) | (values > self.high), dtype=bool)
        for channel in np.flatnonzero(self.step > 0):
            value, step = values[..., channel], self.step[channel]
            if np.isinf(step):
                off = value != 0
            else:
                with np.errstate(invalid="ignore"):
                    off = value % (rational(step) if value.dtype == object else step) != 0
            wrong[..., channel] |= np.asarray(off, dtype=bool)
        for _, members in self.groups:
            lit = np.asarray(values != 0, dtype=bool) & (members >= 0)
            least = np.where(lit, members, members.max()).min(axis=-1, keepdims=True)
            most = np.where(lit, members, -1).max(axis=-1, keepdims=True)
            wrong |= lit & (least != most)
        return wrong

    def __str__(self) -> str:
        """Intervals and grids; one entry where all channels have the same."""
        ends = zip(self.low, self.high, self.step, strict=True)
        rows = {
            f"in [{low:g}, {high:g}]" + ("" if step == 0 else f" by steps of {step:g}")
            for low, high, step in ends
        }
        return ", ".join(sorted(rows)) + (", one-hot" if self.one_hot else "")

    def same_range(self, other: "Facts") -> bool:
        """Whether both say the same of intervals and grids."""
        pairs = ((self.low, other.low), (self.high, other.high), (self.step, other.step))
        return all(bool((mine == its).all()) for mine, its in pairs)

    def meet(self, other: "Facts") -> "Facts":
        """Both facts hold: the intersection of the intervals and the coarser grid.

        These very facts, where the others add nothing to them.
        """
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        step = np.maximum(self.step, other.step)
        groups = exclusion.union(self.groups, other.groups)
        once = self.once or other.once
        both = Facts(low, high, step, groups, once)
        same = groups is self.groups and once == self.once and both.same_range(self)
        return self if same else both

    def join(self, other: "Facts") -> "Facts":
        """Either may hold: the hull of the intervals and the common grid."""
        return Facts(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            pairwise_grid(self.step, other.step),
            exclusion.common(self.groups, other.groups, self.zero, other.zero),
        )

    def take(self, picked: Array) -> "Facts":
        """Of some channels, by index."""
        groups = exclusion.take(self.groups, picked)
        return Facts(self.low[picked], self.high[picked], self.step[picked], groups, self.once)


def side_by_side(parts: Sequence[Facts]) -> Facts:
    """The facts of several signals, one after another."""
    if not parts:
        return facts(np.zeros(0), np.zeros(0), np.zeros(0))
    return Facts(
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
        np.concatenate([part.step for part in parts]),
        exclusion.joined([(part.width, part.groups) for part in parts]),
    )


def facts(low: Array, high: Array, step: Array, groups: Groups = exclusion.NONE) -> Facts:
    """Make facts of float64 arrays; a channel that can only be 0 lies on every grid."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    # A difference of infinite ends says nothing.
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    step = np.where((low == 0) & (high == 0), np.inf, np.asarray(step, dtype=np.float64))
    return Facts(low, high, step, groups)


def constant_facts(values: Array) -> Facts:
    """Facts of a constant vector (width,)."""
    values = np.asarray(values, dtype=np.float64)
    return Facts(values, values, np.where(values == 0, np.inf, np.abs(values)))


def table_facts(table: Array) -> Facts:
    """Facts of a value that is always some row of `table`, (rows, width)."""
    rows, width = table.shape
    step = common_grid(table.T.ravel(), np.arange(0, rows * width + 1, rows))
    return Facts(table.min(axis=0), table.max(axis=0), step)


def pairwise_grid(first: Array, second: Array) -> Array:
    """The common grid of two signals, channel by channel; 0 where either is continuous."""
    whole = np.isinf(first)
    if (whole | np.isinf(second) | (first == second)).all():
        return np.where(whole, second, first)  # most are alike, or one of them is always 0
    pair = np.stack([first, second], axis=1)
    return common_grid(
        np.where(pair == 0, np.nan, pair).ravel(), np.arange(0, 2 * len(first) + 1, 2)
    )


class Sums(NamedTuple):
    """The data of condition P1 for a vector of sums."""

    magnitude: Array  # (width,) sum of the absolute values of all terms
    grid: Array  # (width,) largest power of two that divides every term; 0 if there is none


def no_sums(width: int) -> Sums:
    """Sums that are trivially exact: nothing is added."""
    return Sums(np.zeros(width), np.full(width, np.inf))


def joined_sums(sums: Sequence[Sums]) -> Sums:
    """The sums of several groups of terms that are all added together."""
    return Sums(
        np.sum([s.magnitude for s in sums], axis=0), np.minimum.reduce([s.grid for s in sums])
    )


def term_sums(weight: Matrix, value: Facts) -> Sums:
    """Magnitude and grid of the terms weight[i, j] * value[j], row by row.

    Of channels that are never on together only the largest share counts.
    """
    data, columns, starts = weight.csr.data, weight.csr.indices, weight.csr.indptr
    size = value.magnitude[columns]
    with np.errstate(over="ignore"):
        terms = np.maximum(np.abs(data) * size, np.where(size > 0, TINY, 0.0))
    magnitude = exclusion.greatest_sums(weight.csr, terms, value.groups)
    grid = np.full(weight.rows, np.inf)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        with np.errstate(over="ignore"):
            unit = np.where(
                value.step[columns] == 0, 0.0, lowest_bit(data) * lowest_bit_of_step(value)[columns]
            )
        grid[filled] = np.minimum.reduceat(unit, starts[filled])
    return Sums(magnitude, grid)


def lowest_bit_of_step(value: Facts) -> Array:
    """(width,) largest power of two that divides every value; inf where it is always zero."""
    finite = np.where(np.isinf(value.step), 0.0, value.step)
    return np.where(value.step == 0, 0.0, lowest_bit(finite))


def affine_sums(weights: Sequence[Matrix], bias: Array, values: Sequence[Facts]) -> Sums:
    """Condition P1 for rows of Σ weight x + bias."""
    weights, values = _sharing_as_one(weights, values)
    bias_sums = Sums(np.abs(bias), lowest_bit(bias))
    return joined_sums(
        [bias_sums, *(term_sums(w, v) for w, v in zip(weights, values, strict=True))]
    )


def product_of_grids(first: Array, second: Array) -> Array:
    """The grid of products of multiples of each: 0 where float64 has no number for one.

    The product itself, or, where float64 would round it, the powers of two that divide it.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product, rough = first * second, lowest_bit(first) * lowest_bit(second)
        product = np.where(product <= 2.0**53 * rough, product, rough)
    always_zero = np.isinf(first) | np.isinf(second)
    lost = (first == 0) | (second == 0) | ~np.isfinite(product)
    return np.where(always_zero, np.inf, np.where(lost, 0.0, product))


def affine_facts(weights: Sequence[Matrix], bias: Array, values: Sequence[Facts]) -> Facts:
    """Facts of Σ weight x + bias."""
    groups = exclusion.of_affine(weights, bias, [(value.groups, value.zero) for value in values])
    weights, values = _sharing_as_one(weights, values)
    low = high = bias.astype(np.float64)
    step = np.where(bias == 0, np.inf, np.abs(bias))
    for weight, value in zip(weights, values, strict=True):
        least, most = linear_hull(weight, value)
        low, high = low + least, high + most
        entries = product_of_grids(np.abs(weight.csr.data), value.step[weight.csr.indices])
        entries = np.where(entries == 0, np.nan, entries)
        step = pairwise_grid(step, common_grid(entries, weight.csr.indptr))
    sums = affine_sums(weights, bias, [interval_ends(v) for v in values])
    low, high = widen(low, high, sums)
    return facts(low, high, step, groups)


def _sharing_as_one(
    weights: Sequence[Matrix], values: Sequence[Facts]
) -> tuple[Sequence[Matrix], Sequence[Facts]]:
    """Operands side by side, where members of one root lie in several of them."""
    roots = [root for value in values for root, _ in value.groups]
    if len(set(roots)) == len(roots):
        return weights, values
    import scipy.sparse as sp

    return [Matrix(sp.hstack([weight.csr for weight in weights]))], [side_by_side(values)]


def interval_ends(value: Facts) -> Facts:
    """Facts of the interval's ends alone: the grid on which `low` and `high` lie."""
    ends = np.minimum(lowest_bit(value.low), lowest_bit(value.high))
    return replace(value, step=ends)


def widen(low: Array, high: Array, sums: Sums) -> tuple[Array, Array]:
    """Move interval ends outwards where float64 may have rounded them."""
    exact = sum_is_exact(sums.magnitude, sums.grid, 53) | (sums.magnitude == 0)
    slack = np.where(exact, 0.0, sums.magnitude * 2.0**-48)
    return low - slack, high + slack


def linear_hull(weight: Matrix, value: Facts) -> tuple[Array, Array]:
    """The hull (low, high) of weight @ x over the interval of x, each (rows,)."""
    data, columns = weight.csr.data, weight.csr.indices
    first, second = data * value.low[columns], data * value.high[columns]
    least, most = np.minimum(first, second), np.maximum(first, second)
    if (np.abs(data) < TINY * 2.0**1000).any() or (value.magnitude < TINY * 2.0**1000).any():
        # Products may be too small for float64.
        signs = np.stack([np.sign(data) * np.sign(end[columns]) for end in (value.low, value.high)])
        least = np.where((signs.min(axis=0) < 0) & (least > -TINY), -TINY, least)
        most = np.where((signs.max(axis=0) > 0) & (most < TINY), TINY, most)
    low = -exclusion.greatest_sums(weight.csr, -least, value.groups)
    return low, exclusion.greatest_sums(weight.csr, most, value.groups)


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
    terms = abs(transition.csr) @ size + update.magnitude
    plain = abs(transition.csr).sum(axis=1) <= 1
    return np.where(plain, reach.magnitude, np.maximum(reach.magnitude, terms))


def shared_grid(step: Array) -> float:
    """The grid that all channels share; 0 where one is continuous."""
    values = np.where(step == 0, np.nan, step)
    return float(common_grid(values, np.array([0, len(values)]))[0])


def _is_permutation(matrix: Matrix) -> bool:
    return (
        matrix.nonzeros == matrix.rows == matrix.columns
        and bool((np.diff(matrix.csr.indptr) == 1).all())
        and bool((matrix.csr.data == 1).all())
        and len(np.unique(matrix.csr.indices)) == matrix.rows
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
    return _general_reach(transition, initial, update, tokens)


def _is_shift(matrix: Matrix) -> bool:
    """Rows that each pick at most one earlier channel: registers, which forget in the end."""
    return (
        bool((matrix.csr.data == 1).all())
        and bool((np.diff(matrix.csr.indptr) <= 1).all())
        and bool((matrix.csr.indices < matrix.entry_rows()).all())
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
    cycle = _cycle_length(transition.csr.indices) if ring else size
    if ring and min(tokens, cycle) > MAX_UNROLLED_STEPS:
        # Too long to follow: any channel may hold whatever any channel may gather.
        least, most = np.full(size, update.low.min()), np.full(size, update.high.max())
        widest = facts(least, most, np.zeros(size))
        near = _identity_reach(np.full(size, initial.min()), widest, tokens)
        far = _identity_reach(np.full(size, initial.max()), widest, tokens)
        magnitude = np.maximum(near.magnitude, far.magnitude)
        return Reach(near.low, far.high, magnitude, 1.0, near.settled)
    # A last entry that is always 0 stands for "nothing comes".
    source = np.full(size + 1, size)
    source[transition.entry_rows()] = transition.csr.indices
    steps = min(tokens, cycle)
    moved, low_in, high_in, all_in = (
        np.append(values, 0.0) for values in (initial, update.low, update.high, update.magnitude)
    )
    total_low, total_high, total = (np.zeros(size + 1) for _ in range(3))
    low, high = np.full(size + 1, np.inf), np.full(size + 1, -np.inf)
    magnitude = np.zeros(size + 1)
    silent = not update.magnitude.any()
    for _ in range(steps):
        moved = moved[source]
        if not silent:
            total_low, total_high, total = total_low + low_in, total_high + high_in, total + all_in
            low_in, high_in, all_in = low_in[source], high_in[source], all_in[source]
        low, high = np.minimum(low, moved + total_low), np.maximum(high, moved + total_high)
        magnitude = np.maximum(magnitude, np.abs(moved) + total)
    if ring:
        # Later rounds add the same totals again; a whole round more covers the remainder.
        rounds = -(-tokens // steps) - 1
        low = low + np.minimum(0.0, rounds * total_low)
        high = high + np.maximum(0.0, rounds * total_high)
        magnitude = magnitude + rounds * total
    elif tokens > steps:
        low, high = np.minimum(low, total_low), np.maximum(high, total_high)
    low, high, magnitude = low[:size], high[:size], magnitude[:size]
    ends = np.full(size, _ends(initial, update).min(initial=np.inf))
    low, high = widen(low, high, Sums(magnitude, ends))
    # A ring that nothing enters turns for ever; registers forget all that is older than they are.
    settled = silent and tokens >= cycle if ring else tokens > size
    return Reach(low, high, magnitude, 1.0, settled)


def _cycle_length(source: Array) -> int:
    """Least common multiple of the cycle lengths of a permutation."""
    from scipy.sparse import csgraph, csr_array

    size = len(source)
    graph = csr_array((np.ones(size), (np.arange(size), source)), (size, size))
    _, labels = csgraph.connected_components(graph, directed=False)
    return math.lcm(*(int(count) for count in np.bincount(labels)))


def _general_reach(transition: Matrix, initial: Array, update: Facts, tokens: int) -> Reach:
    """Sum the hulls of A^k u one power at a time while the powers change, else bound by |A|."""
    size = len(initial)
    power = np.eye(size)
    moved = initial.copy()
    matrix = transition.csr
    total_low, total_high, total = np.zeros(size), np.zeros(size), np.zeros(size)
    low, high, magnitude = np.full(size, np.inf), np.full(size, -np.inf), np.zeros(size)
    exact, smallest, settled, farthest = True, 1.0, False, np.abs(initial).max(initial=0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(tokens):
            if step >= MAX_UNROLLED_STEPS:
                return _squared_reach(transition, initial, update, tokens)
            moved = matrix @ moved
            positive, negative = np.maximum(power, 0.0), np.minimum(power, 0.0)
            added_low = positive @ update.low + negative @ update.high
            added_high = positive @ update.high + negative @ update.low
            added = np.abs(power) @ update.magnitude
            total_low, total_high = total_low + added_low, total_high + added_high
            total = total + added
            low = np.minimum(low, moved + total_low)
            high = np.maximum(high, moved + total_high)
            magnitude = np.maximum(magnitude, np.abs(moved) + total)
            farthest = max(farthest, np.abs(moved).max())
            bits = lowest_bit(power)
            smallest = min(smallest, float(bits.min()))
            exact = exact and np.abs(power).max() <= 2.0**52 * bits.min()
            if not np.isfinite(magnitude).all():
                return Reach(np.full(size, -np.inf), np.full(size, np.inf), magnitude, 0.0)
            power = matrix @ power
            if not power.any() and not (matrix @ moved).any():
                settled = True
                break
            if np.abs(power).max() < NEGLIGIBLE:
                # Every later round of as many tokens adds at most this share of all that came in.
                share = 2 * float(np.abs(power).sum(axis=1).max())
                slack = share * (float(total.max(initial=0.0)) + farthest)
                return Reach(low - slack, high + slack, magnitude + slack, 0.0, True)
    ends = smallest * _ends(initial, update).min(initial=np.inf) if exact else 0.0
    low, high = widen(low, high, Sums(magnitude, np.full(size, ends)))
    return Reach(low, high, magnitude, smallest if exact else 0.0, settled)


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
    nonnegative = bool((transition.csr.data >= 0).all()) and bool((initial >= 0).all())
    if nonnegative:
        # Every term has the sign of the update, so one side of the interval is closed by zero.
        low = np.where((update.low >= 0).all(), 0.0, low)
        high = np.where((update.high <= 0).all() and not initial.any(), 0.0, high)
    return Reach(low, high, magnitude, 1.0 if transition.is_integer else 0.0, settled)
