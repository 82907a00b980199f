"""Affine maps of atoms: what a channel of a program is, looking through all that is affine.

An *atom* is one channel of one node that is not affine. All weights are worked out in rationals, so
a map knows whether float64 holds it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import lowest_bit, lowest_bit_of, power_of_two_below, rational
from lsrl.ir.ops import Affine, Bound, Constant, LinearState
from lsrl.schedule import channel_label

# Weights of a sum on the stream that are longer are no whole numbers there.
LONGEST_WEIGHT = 2.0**16
Atom = tuple[int, int]  # node, channel
Sum = tuple[tuple[Atom, float], ...]  # atoms with weights, in order


class AtomRow(NamedTuple):
    """Σ weight * atom + bias."""

    terms: Sum
    bias: float
    exact: bool = True  # whether float64 holds every weight exactly

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """What the row reads."""
        return tuple(atom for atom, _ in self.terms)

    def negated(self) -> "AtomRow":
        """The row times -1."""
        return AtomRow(
            tuple((atom, -weight) for atom, weight in self.terms), -self.bias, self.exact
        )


ONE = AtomRow((), 1.0)


class Hull(NamedTuple):
    """The interval and the grid of a row; the step is 0 where continuous, inf where always 0."""

    low: float
    high: float
    step: float


class Affines:
    """The rows of a graph's channels, looking through everything that is affine."""

    def __init__(self, graph: Graph) -> None:
        """Rows are worked out when first asked for."""
        self.graph = graph
        self._known: dict[Atom, AtomRow] = {}
        self._holders: dict[AtomRow, list[Atom]] = defaultdict(list)

    def row(self, node: int, channel: int) -> AtomRow:
        """A channel as an affine map of atoms."""
        key = (node, channel)
        if key not in self._known:
            row = self._row(node, channel)
            self._known[key] = row
            self._holders[row].append(key)
        return self._known[key]

    def holders(self, row: AtomRow) -> Sequence[Atom]:
        """The graph's channels that are a row, of those that were asked for."""
        return self._holders.get(row, ())

    def hull(self, row: AtomRow, facts: Sequence[Facts]) -> Hull:
        """The interval and grid of a row: term by term, and what is known of the row as a whole.

        Args:
          row: any row.
          facts: of every node of the graph.
        """
        low, high, grid = _termwise(row, facts)
        for node, channel in self.holders(row):
            fact = facts[node]
            low = max(low, float(fact.low[channel]))
            high = min(high, float(fact.high[channel]))
        for node, channel in self.holders(row.negated()):
            fact = facts[node]
            low = max(low, -float(fact.high[channel]))
            high = min(high, -float(fact.low[channel]))
        return Hull(low, high, grid)

    def named(self) -> dict[Sum, str]:
        """The user's names for sums of atoms, up to scale and bias."""
        found: dict[Sum, str] = {}
        for row, holders in self._holders.items():
            names = [a for a in holders if self.graph.nodes[a[0]].names]
            if row.terms and names:
                found.setdefault(normal(row.terms)[1], channel_label(self.graph, *names[0]))
        return found

    def _row(self, node: int, channel: int) -> AtomRow:
        this, facts = self.graph.nodes[node], self.graph.facts[node]
        op = this.op
        if isinstance(op, Constant):
            return AtomRow((), op.values[channel])
        if not op.stateful and facts.low[channel] == facts.high[channel]:
            return AtomRow((), float(facts.low[channel]))
        if isinstance(op, Bound) or (isinstance(op, LinearState) and not factor_of(op, channel)):
            return self.row(this.operands[0], channel)
        if not isinstance(op, Affine):
            return AtomRow((((node, channel), 1.0),), 0.0)
        parts = []
        for weight, operand in zip(op.weights, this.operands, strict=True):
            start, stop = weight.csr.indptr[channel : channel + 2]
            columns, values = weight.csr.indices[start:stop], weight.csr.data[start:stop]
            parts += [
                (value, self.row(operand, column))
                for column, value in zip(columns.tolist(), values.tolist(), strict=True)
            ]
        return combined(parts, op.bias[channel])


def combined(parts: Iterable[tuple[float, AtomRow]], bias: float = 0.0) -> AtomRow:
    """Σ weight * row + bias, worked out in rationals; the row knows whether float64 holds it."""
    total: dict[Atom, int | Fraction] = defaultdict(int)
    offset, exact = rational(bias), True
    for weight, row in parts:
        factor = rational(weight)
        exact = exact and row.exact
        offset += factor * rational(row.bias)
        for atom, entry in row.terms:
            total[atom] += factor * rational(entry)
    terms = [(atom, weight) for atom, weight in sorted(total.items()) if weight]
    exact = exact and all(is_float(weight) for weight in (offset, *(w for _, w in terms)))
    return AtomRow(tuple((atom, float(weight)) for atom, weight in terms), float(offset), exact)


def is_float(number: int | Fraction) -> bool:
    """Whether float64 holds a number."""
    return Fraction(float(number)) == number


def factor_of(op: LinearState, channel: int) -> float:
    """The factor of a diagonal state."""
    return float(op.transition.csr[channel, channel])


def _termwise(row: AtomRow, facts: Sequence[Facts]) -> Hull:
    low = high = row.bias
    grid = lowest_bit_of(row.bias)
    for (node, channel), weight in row.terms:
        fact = facts[node]
        ends = weight * float(fact.low[channel]), weight * float(fact.high[channel])
        low, high = low + min(ends), high + max(ends)
        step = float(fact.step[channel])
        if step == 0:
            grid = 0.0
        elif not np.isinf(step):
            grid = min(grid, lowest_bit_of(step) * lowest_bit_of(weight))
    return Hull(low, high, grid)


def normal(terms: Sum) -> tuple[float, Sum]:
    """A sum as a number times a sum of its own, so that sums in proportion are the same.

    The number is the greatest common divisor of the weights, and nothing is rounded. Long weights
    have one that is far too small: sums would be larger than the stream has room for. Theirs is a
    power of two, about the largest of them.
    """
    if len(terms) == 1:
        ((atom, weight),) = terms
        return weight, ((atom, 1.0),)
    weights = [weight for _, weight in terms]
    grid = float(lowest_bit(np.array(weights)).min())
    divisor = grid * math.gcd(*(int(weight / grid) for weight in weights))
    largest = max(map(abs, weights))
    if largest > LONGEST_WEIGHT * divisor:
        divisor = power_of_two_below(largest)
    unit = math.copysign(divisor, weights[0])
    return unit, tuple((atom, weight / unit) for atom, weight in terms)
