"""What is known of channels in a dtype: how they come about, and what sums of them round."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from lsrl.errors import LsrlError
from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import Facts
from lsrl.ir.groups import Members
from lsrl.ir.node import Node
from lsrl.ir.numbers import Array, lowest_bit, lowest_bit_of
from lsrl.ir.trail import Row, starts_of
from lsrl.numerics import Numerics

# Cases that are told apart of what can be on together.
MOST_CASES = 2048
Term = tuple[int, float]  # a channel, numbered among those of all nodes, and a weight


class Kind(IntEnum):
    """How a channel's value comes about, the better ones first.

    Attributes:
      EXACT: no rounding, whatever the inputs.
      DECIDED: none but in what comparisons of real numbers read.
      REAL: a number of the dtype, as an op made it.
      ROUNDED: an affine map of such numbers, rounded once.
    """

    EXACT = 0
    DECIDED = 1
    REAL = 2
    ROUNDED = 3


class RoundingError(LsrlError):
    """Program and network may differ in a bit; never leaves the certificate."""

    def __init__(self, node: int, text: str) -> None:
        """The node of the graph at hand, and why."""
        super().__init__(text)
        self.node = node
        self.text = text


class Channels:
    """What is known, in a dtype, of the channels of some nodes.

    Attributes:
      nodes: in topological order.
      starts: the number of each node's first channel.
      facts: of each node, in the dtype; None of those that are not live.
      kinds: of each channel.
      signs: of channels that are ReLUs or gated, which others can't be on with them.
    """

    def __init__(self, nodes: Sequence[Node], numerics: Numerics) -> None:
        """Nothing is known yet."""
        self.nodes = nodes
        self.numerics = numerics
        self.starts = starts_of(nodes)
        self.facts: list[Facts | None] = [None] * len(nodes)
        self.kinds = np.zeros(self.starts[-1], dtype=np.int64)
        self.signs: dict[int, Members] = {}

    def place(self, column: int) -> tuple[int, int]:
        """The node and the channel that a number stands for."""
        node = bisect_right(self.starts, column) - 1
        while not self.nodes[node].width:
            node -= 1
        return node, column - self.starts[node]

    def known(self, node: int) -> Facts:
        """The facts of a live node."""
        fact = self.facts[node]
        if fact is None:
            raise RoundingError(node, "nothing is known of it")
        return fact

    def of(self, node: int) -> Array:
        """The kinds of a node's channels; may be written to."""
        return self.kinds[self.starts[node] : self.starts[node + 1]]

    def fits(self, number: float) -> bool:
        """Whether the dtype holds a number."""
        size = abs(number)
        normal = self.numerics.tiny <= size <= self.numerics.largest
        return size == 0 or (normal and size <= 2.0**self.numerics.bits * lowest_bit_of(size))

    def fit(self, numbers: Array) -> bool:
        """Whether the dtype holds all of some numbers."""
        size = np.abs(numbers[numbers != 0])
        normal = (size >= self.numerics.tiny) & (size <= self.numerics.largest)
        return bool((normal & (size <= 2.0**self.numerics.bits * lowest_bit(size))).all())

    def members(self, column: int) -> Members:
        """What a channel belongs to; see `lsrl.ir.groups`."""
        node, channel = self.place(column)
        groups = self.known(node).groups
        found = {root: int(m[channel]) for root, m in groups if m[channel] >= 0}
        return found | self.signs.get(column, {})

    def least(self, terms: Sequence[Term], bias: float) -> float:
        """The least value of an affine map, of which not all terms are there at once."""
        shares = []
        for column, weight in terms:
            node, channel = self.place(column)
            fact = self.known(node)
            ends = weight * float(fact.low[channel]), weight * float(fact.high[channel])
            shares.append((max(-min(ends), 0.0), self.members(column)))
        return bias - exclusion.greatest_total(shares)

    def row(self, terms: Sequence[Term], bias: float) -> "Judged":
        """What an affine map is, added up in any order, and why it may differ, if it may."""
        found = [self._term(*term) for term in terms]
        live = [term for term in found if term.size > 0]
        kind = max((term.kind for term in live), default=Kind.EXACT)
        grid = min((term.grid for term in live), default=np.inf)
        grid = min(grid, lowest_bit_of(bias))
        shares = [(term.size, self.members(term.column)) for term in live]
        most = abs(bias) + exclusion.greatest_total(shares)
        if not (all(self.fits(weight) for _, weight in terms) and self.fits(bias)):
            return Judged(kind, f"a weight is rounded in {self.numerics.dtype}", most)
        if not (most == 0 or (grid >= self.numerics.tiny and most <= self.numerics.largest)):
            what = "is continuous" if grid == 0 else f"is up to {most:g} by steps of {grid:g}"
            text = (
                f"{what}, so it may leave the normal numbers of {self.numerics.dtype}; say how "
                "small it can be, by step= of the input or of lsrl.bound"
            )
            return Judged(kind, text, most)
        if kind <= Kind.DECIDED and most <= 2.0**self.numerics.bits * grid:
            return Judged(kind, None, most)
        return self._rounded(live, bias, most)

    def _rounded(self, live: "list[_Term]", bias: float, most: float) -> "Judged":
        shares = [Share(term.size, term.grid, self.members(term.column)) for term in live]
        if bias:
            shares.append(Share(abs(bias), lowest_bit_of(bias), {}))
        count = most_together(shares, self.numerics.bits)
        exact = all(term.exact for term in live)
        again = any(term.kind == Kind.ROUNDED for term in live)
        if count <= 1 and exact:
            return Judged(Kind.ROUNDED if again else Kind.REAL, None, most)
        text = None
        if count > 2:
            text = f"adds up {count:g} numbers, and so rounds more than once"
        elif count > 1 and not exact:
            text = "adds a product that is rounded to something else"
        elif again:
            text = "rounds a second time what nothing stands between"
        return Judged(Kind.ROUNDED, text, most, 0 if text is None else int(count))

    def _term(self, column: int, weight: float) -> "_Term":
        node, channel = self.place(column)
        fact, kind = self.known(node), Kind(int(self.kinds[column]))
        size, step = float(fact.magnitude[channel]), float(fact.step[channel])
        bit = lowest_bit_of(weight)
        grid = np.inf if size == 0 else bit * (step if step in (0, np.inf) else lowest_bit_of(step))
        exact = abs(weight) == bit
        if kind <= Kind.DECIDED:
            exact = exact or abs(weight) * size <= 2.0**self.numerics.bits * grid
        return _Term(column, abs(weight) * size, grid, kind, exact)

    def held(self, fact: Facts) -> Facts:
        """Facts of numbers that are rounded to the dtype, which keeps order and grid."""
        low, high = (_to_bits(end, self.numerics.bits) for end in (fact.low, fact.high))
        return replace(fact, low=low, high=high)

    def settle(self, node: int, given: Facts, inferred: Facts) -> None:
        """Keep the facts of a node whose kinds are known.

        Args:
          node: the node.
          given: what holds of channels that are exact.
          inferred: what holds of all channels in the dtype.
        """
        certain = self.of(node) == Kind.EXACT
        if certain.all():
            self.facts[node] = given
            return
        rounded = self.held(inferred)
        low, high, step = (
            np.where(certain, mine, its)
            for mine, its in (
                (given.low, rounded.low), (given.high, rounded.high), (given.step, rounded.step)
            )
        )  # fmt: skip
        kept = exclusion.kept({root: np.where(certain, m, -1) for root, m in given.groups})
        groups = exclusion.union(inferred.groups, kept)
        self.facts[node] = Facts(low, high, step, groups)
        # Of few values, by a promise, an op makes one that is exact.
        size = np.maximum(np.abs(low), np.abs(high))
        few = (step >= self.numerics.tiny) & (size <= 2.0**self.numerics.bits * step)
        kinds = self.of(node)
        kinds[(kinds == Kind.REAL) & few] = Kind.DECIDED


class Judged(NamedTuple):
    """What an affine map is.

    Attributes:
      kind: how its value comes about.
      text: why program and network may differ in it, if they may.
      size: the greatest sum of the sizes of its terms.
      rounds: how often it rounds at most, if the reason is that this is more than once.
    """

    kind: Kind
    text: str | None
    size: float
    rounds: int = 0


class _Term(NamedTuple):
    """A term of a sum: its greatest size, its grid, and whether the product is exact."""

    column: int
    size: float
    grid: float
    kind: Kind
    exact: bool


class Share(NamedTuple):
    """A term of a sum: its greatest size, its grid, and what it belongs to."""

    size: float
    grid: float
    members: Members


def most_together(terms: Sequence[Share], bits: int) -> float:
    """How many terms are other than 0 at one token, at most; what adds up exactly counts as one."""
    total = exclusion.greatest_total([(1.0, term.members) for term in terms])
    if total <= 1:
        return total
    found, _ = _most(terms, bits, MOST_CASES)
    return total if found is None else min(total, found)


def _most(terms: Sequence[Share], bits: int, cases: int) -> tuple[float | None, int]:
    """The same case by case, by the member of a root that is on; None where that takes too long."""
    if cases <= 0:
        return None, cases
    exact = sum(term.size for term in terms) <= 2.0**bits * min(term.grid for term in terms)
    roots = Counter(root for term in terms for root in term.members)
    if exact or not roots:
        return 1.0 if exact else float(len(terms)), cases - 1
    root = roots.most_common(1)[0][0]
    rest = [term for term in terms if root not in term.members]
    by_member: dict[int, list[Share]] = {}
    for term in terms:
        if root in term.members:
            others = {r: m for r, m in term.members.items() if r != root}
            by_member.setdefault(term.members[root], []).append(term._replace(members=others))
    most = 0.0
    for mine in by_member.values():
        found, cases = _most([*mine, *rest], bits, cases)
        if found is None:
            return None, cases
        most = max(most, found)
    return most, cases


def _to_bits(values: Array, bits: int) -> Array:
    mantissa, exponent = np.frexp(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.ldexp(np.round(mantissa * 2.0**bits), exponent - bits))


def complement(row: Row) -> Row:
    """1 less a row."""
    terms, bias = row
    return tuple((column, -weight) for column, weight in terms), 1.0 - bias


def negated(row: Row) -> Row:
    """The row times -1."""
    terms, bias = row
    return tuple((column, -weight) for column, weight in terms), 0.0 - bias


def side(row: Row, other: Row, what: str) -> Members:
    """Which of a row and its opposite a channel is on with."""
    first = min(row, other)
    return {(what, first): int(row != first)}
