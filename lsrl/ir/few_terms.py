"""Interval arithmetic of rows with a few terms, number by number.

Programs are full of maps of one row and one or two terms, for which a pass over arrays takes ten
times as long as the arithmetic. The results are those of `lsrl.ir.bounds`, to the bit: the same
operations in the same order. What needs more care (infinite ends, products that are too small for
float64, groups) is left to it.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit_of

# A map of more rows or terms is faster as arrays.
MOST_ROWS, MOST_TERMS = 4, 12
# Products of numbers between these are far from both ends of float64.
SMALLEST, LARGEST = 2.0**-400, 2.0**400
# Beyond, a number of steps is no int64.
MOST_STEPS = 2.0**62


class Ends(Protocol):
    """What is known of the channels of an operand."""

    @property
    def low(self) -> Array:
        """(width,)."""

    @property
    def high(self) -> Array:
        """(width,)."""

    @property
    def step(self) -> Array:
        """(width,)."""

    @property
    def groups(self) -> Sequence[object]:
        """Empty where there are none."""


# A product of a row: a weight, and least value, greatest value and step of what it reads.
_Term = tuple[float, float, float, float]
# Of each row, of each operand that it reads, its terms.
_Rows = list[list[list[_Term]]]


def ranges(
    weights: Sequence[Matrix], bias: Array, values: Sequence[Ends]
) -> tuple[Array, Array, Array] | None:
    """Least values, greatest values and grids (rows,) of Σ weight x + bias; None: not here."""
    rows = _rows(weights, bias, values)
    if rows is None:
        return None
    found = []
    for runs, start in zip(rows, bias.tolist(), strict=True):
        row = _range(runs, start)
        if row is None:
            return None
        found.append(row)
    low, high, step = zip(*found, strict=True)
    return np.array(low), np.array(high), np.array(step)


def sums(
    weights: Sequence[Matrix], bias: Array, values: Sequence[Ends]
) -> tuple[Array, Array] | None:
    """Magnitudes and grids (rows,) of condition P1; None: not here."""
    rows = _rows(weights, bias, values)
    if rows is None:
        return None
    magnitudes, grids = [], []
    for runs, start in zip(rows, bias.tolist(), strict=True):
        magnitude, grid = abs(start), lowest_bit_of(start)
        for run in runs:
            total = 0.0
            for weight, low, high, step in run:
                total += abs(weight) * max(abs(low), abs(high))
                grid = min(grid, _unit(weight, step))
            magnitude += total
        magnitudes.append(magnitude)
        grids.append(grid)
    return np.array(magnitudes), np.array(grids)


def _rows(weights: Sequence[Matrix], bias: Array, values: Sequence[Ends]) -> _Rows | None:
    if len(bias) > MOST_ROWS or sum(len(weight.data) for weight in weights) > MOST_TERMS:
        return None
    if not all(SMALLEST < abs(start) < LARGEST for start in bias.tolist() if start):
        return None
    rows: _Rows = [[] for _ in range(len(bias))]
    for weight, value in zip(weights, values, strict=True):
        if value.groups:
            return None
        if weight.shape == (1, 1):
            if len(weight.data):
                ends = value.low.item(), value.high.item(), value.step.item()
                term = (weight.data.item(), *ends)
                if not _is_moderate(*term):
                    return None
                rows[0].append([term])
            continue
        known = -1
        places = zip(
            weight.entry_rows().tolist(), weight.indices.tolist(), weight.data.tolist(), strict=True
        )
        for row, column, factor in places:
            ends = value.low.item(column), value.high.item(column), value.step.item(column)
            term = (factor, *ends)
            if not _is_moderate(*term):
                return None
            if row != known:
                rows[row].append([])
                known = row
            rows[row][-1].append(term)
    return rows


def _is_moderate(weight: float, low: float, high: float, step: float) -> bool:
    return (
        SMALLEST < abs(weight) < LARGEST
        and low > -LARGEST
        and high < LARGEST
        and (low == 0 or abs(low) > SMALLEST)
        and (high == 0 or abs(high) > SMALLEST)
        and (step == 0 or step == math.inf or SMALLEST < step < LARGEST)
    )


def _unit(weight: float, step: float) -> float:
    """The largest power of two that divides a product of a multiple of a step."""
    if step == 0:
        return 0.0
    return math.inf if step == math.inf else lowest_bit_of(weight) * lowest_bit_of(step)


def _range(runs: list[list[_Term]], bias: float) -> tuple[float, float, float] | None:
    low, high, magnitude = bias, bias, abs(bias)
    grid = unit = lowest_bit_of(bias)
    products, continuous = [], False
    for run in runs:
        down, up, size = 0.0, 0.0, 0.0
        for weight, least, most, step in run:
            first, second = weight * least, weight * most
            down -= min(first, second)
            up += max(first, second)
            size += abs(weight) * max(abs(least), abs(most))
            bit = lowest_bit_of(weight)
            grid = min(grid, bit * min(lowest_bit_of(least), lowest_bit_of(most)))
            if step == 0:
                continuous = True
            elif step != math.inf:
                bits, product = bit * lowest_bit_of(step), abs(weight) * step
                unit = min(unit, bits)
                products.append(product if product <= 2.0**53 * bits else bits)
        low, high, magnitude = low - down, high + up, magnitude + size
    found = _step(abs(bias), products, unit)
    if found is None:
        return None
    exact = magnitude <= 2.0**53 * grid or magnitude == 0
    slack = 0.0 if exact else magnitude * 2.0**-48
    low, high = low - slack, (high + 0.0) + slack
    if low == 0 == high:
        return low, high, math.inf
    return low, high, 0.0 if continuous else found


def _step(bias: float, products: list[float], unit: float) -> float | None:
    """The common grid of a row's bias and products, all multiples of a unit."""
    if unit == math.inf:
        return math.inf
    scaled = [bias / unit, *(product / unit for product in products)]
    if max(scaled) >= MOST_STEPS:
        return None
    return math.gcd(*map(int, scaled)) * unit
