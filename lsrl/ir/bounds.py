"""Bounds as types: the interval and the grid of every channel of every signal.

`Facts` say where a value can lie; the functions below carry facts through affine maps,
those of `lsrl.ir.recurrence` through linear states. Interval ends that float64 can't hold exactly
are widened outwards, so facts are sound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from lsrl.ir import few_terms
from lsrl.ir import groups as exclusion
from lsrl.ir.groups import Groups
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import (
    WIDE,
    Array,
    common_grid,
    lowest_bit,
    rational,
    repeated,
    sum_is_exact,
)

# The smallest normal float64: products below it are rounded, and count as this.
TINY = 2.0**-1022
# Products that a small affine map has at most, and small ones that are remembered.
FEW, MANY = 64, 1 << 12
_NOTHING = np.array([np.inf])
_NOTHING.flags.writeable = False
_known: dict[tuple[object, ...], tuple[Array, ...]] = {}


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

    def __post_init__(self) -> None:
        """Let wide rows of one number take no room: there are many, and graphs keep them."""
        if len(self.low) >= WIDE:
            for name in ("low", "high", "step"):
                object.__setattr__(self, name, repeated(getattr(self, name)))

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.low)

    @cached_property
    def magnitude(self) -> Array:
        """(width,) the greatest absolute value."""
        return repeated(np.maximum(np.abs(self.low), np.abs(self.high)))

    @cached_property
    def zero(self) -> Array:
        """(width,) bool, which channels are always 0."""
        return (self.low == 0) & (self.high == 0)

    @cached_property
    def exclusive(self) -> bool:
        """Whether at most one channel is nonzero at a token."""
        return exclusion.exclusive(self.groups, self.zero)

    @cached_property
    def one_hot(self) -> bool:
        """Whether every channel is 0 or 1 and at most one of them is 1."""
        return self.boolean and self.exclusive

    @cached_property
    def gridded(self) -> bool:
        """Whether no channel is continuous."""
        return bool((self.step > 0).all())

    @cached_property
    def counted(self) -> bool:
        """Whether every channel is on a grid of which float64 holds every point, and differences.

        A finer one only tells how small a real number can be.
        """
        if len(self.low) == 1:
            step, size = self.step.item(), max(abs(self.low.item()), abs(self.high.item()))
            count = size / step if step > 0 else np.nan
            return count <= 2.0**52 or count == np.inf
        points = self.magnitude / self.step if self.gridded else np.ones(1)
        return self.gridded and bool(((points <= 2.0**52) | np.isinf(points)).all())

    @cached_property
    def boolean(self) -> bool:
        """Whether every channel is 0 or 1."""
        if len(self.low) == 1:
            return self.low.item() >= 0 and self.high.item() <= 1 and self.integer
        return self.integer and bool(((self.low >= 0) & (self.high <= 1)).all())

    @cached_property
    def integer(self) -> bool:
        """Whether every channel is an integer."""
        if len(self.step) == 1:
            step = self.step.item()
            return step == np.inf or (step >= 1 and step % 1 == 0)
        finite = np.where(np.isinf(self.step), 1.0, self.step)
        return bool(((finite >= 1) & (finite % 1 == 0)).all())

    @cached_property
    def constant(self) -> bool:
        """Whether every channel has one possible value."""
        if len(self.low) == 1:
            return self.low.item() == self.high.item()
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
        if len(self.low) == 1:
            return all(mine.item() == its.item() for mine, its in pairs)
        return all(bool((mine == its).all()) for mine, its in pairs)

    def meet(self, other: "Facts") -> "Facts":
        """Both facts hold: the intersection of the intervals and the coarser grid.

        These very facts, where the others add nothing to them.
        """
        groups = exclusion.union(self.groups, other.groups)
        once = self.once or other.once
        if groups is self.groups and once == self.once and self.same_range(other):
            return self
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        step = np.maximum(self.step, other.step)
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
    if low.shape == (1,) and low.item() - high.item() <= 0:  # neither is NaN, nor inf - inf
        only = low.item() == 0 == high.item()
        return Facts(low, high, _NOTHING if only else np.asarray(step, dtype=np.float64), groups)
    # A difference of infinite ends says nothing.
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    step = np.where((low == 0) & (high == 0), np.inf, np.asarray(step, dtype=np.float64))
    return Facts(low, high, step, groups)


def constant_facts(values: Array) -> Facts:
    """Facts of a constant vector (width,)."""
    values = np.asarray(values, dtype=np.float64)
    return Facts(values, values, np.where(values == 0, np.inf, np.abs(values)))


def table_facts(table: Matrix, rows: int | None = None) -> Facts:
    """Facts of a value that is always some row of `table`, or of its first `rows` ones."""
    columns = (table.csr if rows is None else table.csr[:rows]).tocsc()
    counts = np.diff(columns.indptr)
    # Where entries are not stored they are 0.
    low = np.where(counts < columns.shape[0], 0.0, np.inf)
    high, filled = -low, np.flatnonzero(counts)
    if len(filled):
        starts = columns.indptr[filled]
        low[filled] = np.minimum(low[filled], np.minimum.reduceat(columns.data, starts))
        high[filled] = np.maximum(high[filled], np.maximum.reduceat(columns.data, starts))
    return Facts(low, high, common_grid(columns.data, columns.indptr))


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


class _Terms(NamedTuple):
    """The products weight[i, j] * value[j] of all operands of an affine map, one after another.

    A *run* is what one row reads of one operand; its products follow each other.

    Attributes:
      weight: (products,).
      low: (products,) least value of the channel that is read.
      high: (products,) greatest value.
      step: (products,) its grid.
      row: (products,) the row that a product belongs to.
      run: (products,) the run that it belongs to.
      rows: (runs,) the row that a run belongs to.
      grouped: of operands with groups the ways to part its products, and where these and their runs
        are.
    """

    weight: Array
    low: Array
    high: Array
    step: Array
    row: Array
    run: Array
    rows: Array
    grouped: Sequence[tuple[Sequence[exclusion.Partition], slice, slice]]

    @classmethod
    def of(cls, weights: Sequence[Matrix], values: Sequence[Facts]) -> "_Terms":
        """Of Σ weight x, at least one."""
        columns = [weight.indices for weight in weights]
        rows = [weight.entry_rows() for weight in weights]
        ends = list(accumulate((len(each) for each in rows), initial=0))
        row = np.concatenate(rows)
        first = np.ones(len(row), dtype=bool)
        np.not_equal(row[1:], row[:-1], out=first[1:])
        first[[end for end in ends if end < len(row)]] = True
        run = np.cumsum(first) - 1
        grouped = []
        for k, value in enumerate(values):
            if value.groups and ends[k] < ends[k + 1]:
                own = slice(run[ends[k]], run[ends[k + 1] - 1] + 1)
                place = weights[k].rows, rows[k], columns[k]
                ways = exclusion.partitions(*place, value.groups)
                grouped.append((ways, slice(ends[k], ends[k + 1]), own))
        read = list(zip(values, columns, strict=True))
        return cls(
            np.concatenate([weight.data for weight in weights]),
            np.concatenate([value.low[picked] for value, picked in read]),
            np.concatenate([value.high[picked] for value, picked in read]),
            np.concatenate([value.step[picked] for value, picked in read]),
            row, run, row[first], grouped,
        )  # fmt: skip

    @property
    def size(self) -> Array:
        """(products,) the greatest absolute value of the channel that is read."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def greatest(self, shares: Array, start: Array, sign: float = 1.0) -> Array:
        """Start + the greatest sum of shares, or for sign -1 less the greatest sum, row by row."""
        sums = np.bincount(self.run, shares, len(self.rows))
        for ways, entries, runs in self.grouped:
            all_rows = exclusion.greatest_sums(ways, shares[entries])
            sums[runs] = all_rows[self.rows[runs]]
        total = start.copy()
        np.add.at(total, self.rows, sign * sums)  # one operand after another
        return total

    def sums(self, bias: Array, unit: Array) -> Sums:
        """Condition P1, given the grid of each product; groups count with their largest share."""
        size = self.size
        terms = np.maximum(np.abs(self.weight) * size, np.where(size > 0, TINY, 0.0))
        grid = lowest_bit(bias)
        np.minimum.at(grid, self.row, unit)
        return Sums(self.greatest(terms, np.abs(bias)), grid)


def joined_sums(sums: Sequence[Sums]) -> Sums:
    """The sums of several groups of terms that are all added together."""
    return Sums(
        np.sum([s.magnitude for s in sums], axis=0), np.minimum.reduce([s.grid for s in sums])
    )


def term_sums(weight: Matrix, value: Facts) -> Sums:
    """Magnitude and grid of the terms weight[i, j] * value[j], row by row.

    Of channels that are never on together only the largest share counts.
    """
    return affine_sums([weight], np.zeros(weight.rows), [value])


def lowest_bit_of_step(value: Facts) -> Array:
    """(width,) largest power of two that divides every value; inf where it is always zero."""
    finite = np.where(np.isinf(value.step), 0.0, value.step)
    return np.where(value.step == 0, 0.0, lowest_bit(finite))


def affine_sums(weights: Sequence[Matrix], bias: Array, values: Sequence[Facts]) -> Sums:
    """Condition P1 for rows of Σ weight x + bias."""
    bias = np.asarray(bias, dtype=np.float64)
    if not weights:
        return Sums(np.abs(bias), lowest_bit(bias))
    found = few_terms.sums(weights, bias, values)
    if found is not None:
        return Sums(*found)
    return Sums(*_alike(_sums_of, weights, bias, values))


def _sums_of(weights: Sequence[Matrix], bias: Array, values: Sequence[Facts]) -> Sums:
    terms = _Terms.of(*_sharing_as_one(weights, values))
    finite = np.where(np.isinf(terms.step), 0.0, terms.step)
    weight_bit, step_bit = lowest_bit(np.array([terms.weight, finite]))
    with np.errstate(over="ignore"):
        unit = np.where(terms.step == 0, 0.0, weight_bit * step_bit)
        return terms.sums(bias, unit)


def product_of_grids(first: Array, second: Array) -> Array:
    """The grid of products of multiples of each: 0 where float64 has no number for one.

    The product itself, or, where float64 would round it, the powers of two that divide it.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _grids_or_bits(first, second, lowest_bit(first) * lowest_bit(second))


def _grids_or_bits(first: Array, second: Array, bits: Array) -> Array:
    product = first * second
    product = np.where(product <= 2.0**53 * bits, product, bits)
    always_zero = np.isinf(first) | np.isinf(second)
    lost = (first == 0) | (second == 0) | ~np.isfinite(product)
    return np.where(always_zero, np.inf, np.where(lost, 0.0, product))


def affine_facts(weights: Sequence[Matrix], bias: Array, values: Sequence[Facts]) -> Facts:
    """Facts of Σ weight x + bias."""
    bias = np.asarray(bias, dtype=np.float64)  # whole numbers add up to more than int64 holds
    if not weights:
        return constant_facts(bias)
    groups = exclusion.NONE
    if any(value.groups for value in values):
        groups = exclusion.of_affine(weights, bias, [(v.groups, v.zero) for v in values])
    low, high, step = few_terms.ranges(weights, bias, values) or _alike(
        _ranges, weights, bias, values
    )
    # Facts go by their identity, so each node has its own, of arrays that it may share.
    return Facts(low, high, step, groups)


def _ranges(
    weights: Sequence[Matrix], bias: Array, values: Sequence[Facts]
) -> tuple[Array, Array, Array]:
    """The intervals and the grid of Σ weight x + bias."""
    weights, values = _sharing_as_one(weights, values)
    terms = _Terms.of(weights, values)
    least, most = _hulls(terms)
    # Where nothing is added, no highest value is -0.0.
    low, high = terms.greatest(-least, bias, -1.0), terms.greatest(most, bias) + 0.0
    weight_bit, low_bit, high_bit, step_bit = lowest_bit(np.array(terms[:4]))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        step = _affine_grid(weights, terms, bias, weight_bit * step_bit)
        sums = terms.sums(bias, weight_bit * np.minimum(low_bit, high_bit))
    found = facts(*widen(low, high, sums), step)
    return found.low, found.high, found.step


def _alike(
    work: Callable[[Sequence[Matrix], Array, Sequence[Facts]], tuple[Array, ...]],
    weights: Sequence[Matrix],
    bias: Array,
    values: Sequence[Facts],
) -> tuple[Array, ...]:
    """What work gives of an affine map: of a small one without groups, once for all alike.

    Programs are full of maps that differ in the channels that they read and in nothing else.
    """
    if sum(weight.nonzeros for weight in weights) > FEW or any(value.groups for value in values):
        return work(weights, bias, values)
    key: list[object] = [work, bias.tobytes()]
    for weight, value in zip(weights, values, strict=True):
        picked, ends = weight.indices, (value.low, value.high, value.step)
        key += [weight.data.tobytes(), weight.indptr.tobytes()]
        key += [end[picked].tobytes() for end in ends]
    name = tuple(key)
    found = _known.get(name)
    if found is None:
        found = work(weights, bias, values)
        for array in found:
            array.flags.writeable = False
        if len(_known) >= MANY:
            _known.clear()
        _known[name] = found
    return found


def _affine_grid(weights: Sequence[Matrix], terms: _Terms, bias: Array, bits: Array) -> Array:
    """The common grid of the bias and the products of each row.

    Args:
      weights: of the affine map.
      terms: its products.
      bias: (rows,).
      bits: (products,) the product of the lowest bits of both factors.
    """
    products = _grids_or_bits(np.abs(terms.weight), terms.step, bits)
    continuous, nothing = products == 0, np.isinf(products)
    unit = lowest_bit(bias)
    np.minimum.at(unit, terms.row, np.where(continuous | nothing, np.inf, bits))
    always_zero = np.isinf(unit)
    unit[always_zero] = 1.0
    own, read = np.abs(bias) / unit, np.where(nothing, 0.0, products) / unit[terms.row]
    if max(own.max(initial=0.0), read.max(initial=0.0)) >= 2.0**62:
        return _stepwise_grid(weights, np.where(continuous, np.nan, products), bias)
    divisor = own.astype(np.int64)
    np.gcd.at(divisor, terms.row, read.astype(np.int64))
    step = np.where(always_zero, np.inf, divisor * unit)
    step[terms.row[continuous]] = 0.0
    return step


def _stepwise_grid(weights: Sequence[Matrix], products: Array, bias: Array) -> Array:
    """The same, one operand after another, where numbers are too far apart for 62 bits."""
    step, start = np.where(bias == 0, np.inf, np.abs(bias)), 0
    for weight in weights:
        own = products[start : start + weight.nonzeros]
        step = pairwise_grid(step, common_grid(own, weight.indptr))
        start += weight.nonzeros
    return step


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


def _hulls(terms: _Terms) -> tuple[Array, Array]:
    """The least and the greatest value of each product."""
    data = terms.weight
    first, second = data * terms.low, data * terms.high
    least, most = np.minimum(first, second), np.maximum(first, second)
    if min(np.abs(data).min(initial=1.0), terms.size.min(initial=1.0)) < TINY * 2.0**1000:
        # Products may be too small for float64.
        signs = np.stack([np.sign(data) * np.sign(end) for end in (terms.low, terms.high)])
        least = np.where((signs.min(axis=0) < 0) & (least > -TINY), -TINY, least)
        most = np.where((signs.max(axis=0) > 0) & (most < TINY), TINY, most)
    return least, most


def shared_grid(step: Array) -> float:
    """The grid that all channels share; 0 where one is continuous."""
    values = np.where(step == 0, np.nan, step)
    return float(common_grid(values, np.array([0, len(values)]))[0])
