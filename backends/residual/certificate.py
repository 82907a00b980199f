"""The certificate of the targets with a residual stream.

The conditions are those of `lsrl.certificate`, over the inner channels of each block: the sum that
a branch or a gate reads, the sum over time that a scan takes, the product with the gate, and what
is added up in the stream. Scales are powers of two, so they count for the dtype's range alone: the
norm ahead of each block divides by 2^40 what the block reads, and products are scaled twice. The
norm is exact while the stream's other channels stay small beside its constant one.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lsrl.backends.residual.packer import TAPS, Channel
from lsrl.backends.residual.rows import AtomRow, Hull
from lsrl.backends.residual.stream import Site, Stream
from lsrl.certificate import MAX_SLACK, Analysis, Condition
from lsrl.ir.bounds import Sums
from lsrl.ir.groups import Members, greatest_total
from lsrl.ir.numbers import lowest_bit_of
from lsrl.numerics import Numerics

# The stream's constant channel makes the mean square of the stream this number squared.
SIZE = 2.0**40
# Norms are exact while the rest of the stream is at most 2^-13 sqrt(d) as large; here d = 1.
LARGEST_REST = 2.0**-13 * SIZE
# What a branch or a gate on continuous values is scaled by, so that SiLU and GeLU cut off sharply.
SHARP = 2.0**50
# Of an activation or a scan, that can each lose a smallest normal number.
OPERATIONS = 8


class Total(NamedTuple):
    """A sum of terms: Σ |term|, the greatest power of two that divides them all, and the error."""

    size: float
    grid: float
    error: float = 0.0


class Scales(NamedTuple):
    """By what a network multiplies what is in a channel.

    Attributes:
      branch: the row that the branch reads, with its taps.
      scanned: the branch's value behind its scan.
      gate: the row that the gate reads, or what stands for an open gate.
    """

    branch: float
    scanned: float
    gate: float


# What is checked: the sum, what to say of it, whether its weights are exact, and its scale.
Checked = tuple[Total, str, bool, float]
NOTHING = Sums(np.zeros(0), np.zeros(0))


class ResidualAnalysis(Analysis):
    """The conditions of a stream over some tokens, and its errors."""

    def __init__(
        self,
        stream: Stream,
        numerics: Numerics,
        scales: Callable[[Site, Channel], Scales],
        tokens: int,
    ) -> None:
        """Bounds are those of `tokens` tokens; `scales` are those of a channel of a site."""
        super().__init__(stream.graph, numerics, tokens)
        self.stream = stream
        self._scales = scales
        self._flushed = np.zeros(len(stream.signals) + 1)  # what the norm loses of each signal
        self._hulls: dict[AtomRow, Hull] = {}
        self._errors: dict[tuple[int, Channel], float] = {}
        self._signals = np.zeros(len(stream.signals) + 1)
        self._found = list(self._conditions())

    def conditions(self) -> Iterator[Condition]:
        """Every condition, in the order of the blocks, and last that norms are exact."""
        yield from self._found
        if self._norm > LARGEST_REST:
            text = (
                f"the stream holds up to {self._norm:g} beside its constant channel, more than "
                f"{LARGEST_REST:g}, so norms are not exact"
            )
            yield Condition(self.graph.output, 1, NOTHING, "", failure=text)

    def output_error(self) -> float:
        """The greatest error of an output's row."""
        if self._norm > LARGEST_REST:
            return np.inf
        return max((self._row(row).error for row in self.stream.output), default=0.0)

    @cached_property
    def _norm(self) -> float:
        """The greatest 2-norm of what the stream holds beside its constant channel."""
        sizes = [self._atoms(AtomRow(signal.terms, 0.0)).size for signal in self.stream.signals]
        return float(np.linalg.norm(sizes))

    # ------------------------------------------------------------ conditions

    def _fits(self, total: Total) -> bool:
        return self.exact_sum(total.size, total.grid)

    def _lost(self, total: Total, scale: float, operations: int) -> float:
        """What sums lose below the smallest normal number, where they are held times a scale."""
        tiny = self.numerics.tiny
        return 0.0 if total.grid * scale >= tiny else operations * tiny / scale

    def _scaled(
        self, node: int, layer: int, total: Total, scale: float, what: str, exact: bool = True
    ) -> Condition:
        sums = Sums(np.array([total.size * scale]), np.array([total.grid * scale]))
        return Condition(node, layer, sums, what, composed=exact, scale=scale)

    def _conditions(self) -> Iterator[Condition]:
        """Every condition; the errors are worked out on the way."""
        per_layer = len(self.stream.sites) // self.stream.depth
        for place, signal in enumerate(self.stream.signals, start=1):
            if signal.site < 0:
                total = self._atoms(AtomRow(signal.terms, 0.0))
                # An embedding holds the sum, rounded once.
                once = self.numerics.unit * total.size + self._lost(total, 1.0, 1)
                self._signals[place] = 0.0 if self._fits(total) else once
                self._flushed[place] = self._lost(total, 1 / SIZE, 1)
                yield self._scaled(signal.terms[0][0][0], 0, total, 1 / SIZE, "the input is")
        for number, site in enumerate(self.stream.sites):
            layer = number // per_layer + 1
            owner = _owners(self.stream, site)
            for channel in site.channels:
                node = owner.get(channel, self.stream.graph.output)
                for total, what, exact, scale in self._channel(number, site, channel):
                    yield self._scaled(node, layer, total, scale, what, exact)
            for place, terms in site.writes.items():
                total = self._write(number, site, terms)
                self._signals[place] = total.error
                self._flushed[place] = self._lost(total, 1 / SIZE, 1)
                node = self.stream.signals[place - 1].terms[0][0][0]
                exact = place not in site.rounded
                what = "what is added to the stream is"
                yield self._scaled(node, layer, total, 1 / SIZE, what, exact)
        output = self.stream.graph.output
        for row in self.stream.output:
            total, last = self._row(row), self.stream.depth + 1
            yield Condition(output, last, _sums(total), "the sum is", composed=row.exact)

    def _channel(self, number: int, site: Site, channel: Channel) -> Iterator[Checked]:
        scales = self._scales(site, channel)
        read = self._row(channel.row, scales.branch)
        taps = float(np.abs(channel.taps).sum())
        branch = Total(
            taps * read.size + abs(channel.offset), self._tapped_grid(channel), taps * read.error
        )
        yield read, "the sum is", channel.row.exact, scales.branch
        yield branch, "the sum is", channel.row.exact, scales.branch
        size, error = self.reach(site, channel), branch.error
        error += self._lost(branch, scales.branch, 2 * TAPS + OPERATIONS)
        # What snaps is 0 or 1, though it is made of what is continuous.
        inner = Total(size, 1.0 if channel in self.stream.snaps else branch.grid)
        yield inner, "the sum is", True, scales.scanned
        error += self._lost(inner, scales.scanned, OPERATIONS)
        if not self._fits(branch) and (channel.offset or sum(map(bool, channel.taps)) > 1):
            error += self._rounding(branch, [*filter(None, channel.taps), channel.offset])
        if site.kind.relu_branch and branch.grid == 0:
            # |SiLU(Ku) / K - relu(u)| and the same of GeLU are below 0.3 / K.
            error += 0.3 / SHARP
        if site.kind.relu_branch and self._snaps(channel, channel.row):
            error = 0.0
        if channel.mode == "sum":
            total, error = self._summed(channel, size, error)
            yield total, "the sum over time is", channel.factor in (0.0, 1.0), scales.scanned
            size = total.size
        if channel.mode == "hold":
            wrong = sum(abs(float(w)) * self._errors[number, flag] for flag, w in channel.flag)
            error = error if wrong == 0 else 2 * size + error
        if channel.gate is None:
            opened = scales.scanned * scales.gate
            yield inner, "the sum is", True, opened
            error += self._lost(inner, opened, 1)
        else:
            value = Total(size, branch.grid, error)
            error = yield from self._gated(site, channel, channel.gate, value, inner, scales)
        self._errors[number, channel] = error

    def _gated(
        self, site: Site, channel: Channel, row: AtomRow, value: Total, inner: Total, scales: Scales
    ) -> Generator[Checked, None, float]:
        """What a channel's value is multiplied by, and the product; returns the product's error.

        The value is that of its branch, behind the scan, with the grid ahead of its ReLU; the inner
        one is that ahead of the scan.
        """
        gate, hull = self._row(row, scales.gate), self._hull(row)
        yield gate, "its gate is", row.exact, scales.gate
        most = max(hull.high, 0.0 if site.kind.relu_gate else -hull.low)
        off = gate.error
        if not site.kind.relu_branch and self._snaps(channel, row):
            off = 0.0
        elif site.kind.relu_gate and gate.grid == 0:
            off += 0.3 / SHARP
        product = Total(value.size * most, _times(value.grid, gate.grid))
        switches = _boolean(hull) or (_boolean(self._hull(channel.row)) and value.size <= 1)
        if switches:
            # It is one of them, or 0.
            product = inner if _boolean(hull) else Total(most, gate.grid)
        both = scales.scanned * scales.gate
        yield product, "the product is", True, both
        once = self.numerics.unit * product.size
        fresh = 0.0 if switches or self._fits(product) else once
        fresh += 0.0 if channel in self.stream.snaps else self._lost(product, both, 1)
        return most * value.error + value.size * off + value.error * off + fresh

    def _snaps(self, channel: Channel, row: AtomRow) -> bool:
        """Whether a ReLU of a row is exactly 0 or 1, whatever the rounding.

        By promise, with a margin of MAX_SLACK, what it reads lacks nothing or at least 1.
        """
        if channel not in self.stream.snaps:
            return False
        slack = self._greatest_term(row)
        self.slack = max(self.slack, slack)
        return slack <= MAX_SLACK

    def _summed(self, channel: Channel, size: float, error: float) -> tuple[Total, float]:
        """A running sum, or a decay: |err| <= U / (1 - a)^2 (a ε_a + 2^-23) (docs/design.md, 6)."""
        if channel.factor == 1:
            self.settled &= size == 0
            total = Total(self._summands(channel) * size, self._branch_grid(channel))
            once = self.numerics.unit * total.size
            fresh = 0.0 if self._fits(total) else self.tokens * once
            return total, self.tokens * error + fresh
        rest = 1 - channel.factor
        # The factor is an exponential of a rounded number: 2^-18 is a few hundred roundings.
        drift = 2 * size / rest**2 * (channel.factor * 2.0**-18 + 2.0**-23)
        return Total(size / rest, 0.0), error / rest + drift

    def reach(self, site: Site, channel: Channel) -> float:
        """The greatest size of what a channel's branch holds, behind its ReLU if it has one."""
        hull = self._hull(channel.row)
        # Ahead of the first token the taps read zeros.
        ends = [
            channel.offset
            + sum(tap * (hull.high if (tap > 0) == up else hull.low) for tap in channel.taps[:seen])
            for seen in range(TAPS + 1)
            for up in (True, False)
        ]
        most = max(ends)
        return max(most, 0.0) if site.kind.relu_branch else max(most, -min(ends))

    def _summands(self, channel: Channel) -> int:
        """How many tokens a running sum has taken in after the last one."""
        late = next(lag for lag, tap in enumerate(channel.taps) if tap)
        return max(self.tokens - late, 0)

    def size_of(self, site: Site, channel: Channel) -> float:
        """The greatest size of a channel's value."""
        size = self.reach(site, channel)
        if channel.mode == "sum":
            rest = 1 - channel.factor
            size *= 1 / rest if rest else self._summands(channel)
        if channel.gate is not None:
            hull = self._hull(channel.gate)
            size *= max(hull.high, 0.0 if site.kind.relu_gate else -hull.low)
        return size

    def _branch_grid(self, channel: Channel) -> float:
        """The largest power of two that divides what a channel's branch holds, behind its ReLU."""
        return 1.0 if channel in self.stream.snaps else self._tapped_grid(channel)

    def _tapped_grid(self, channel: Channel) -> float:
        taps = min(map(lowest_bit_of, channel.taps))
        return min(self._hull(channel.row).step * taps, lowest_bit_of(channel.offset))

    def grid_of(self, channel: Channel) -> float:
        """The largest power of two that divides every value of a channel; 0 where continuous."""
        if channel.mode == "sum" and channel.factor != 1:
            return 0.0
        if channel.gate is None or channel in self.stream.snaps:
            return self._branch_grid(channel)
        return _times(self._branch_grid(channel), self._hull(channel.gate).step)

    def _write(self, number: int, site: Site, terms: Sequence[tuple[int, float]]) -> Total:
        shares, grid, error = [], np.inf, 0.0
        for index, weight in terms:
            channel = site.channels[index]
            shares.append((abs(weight) * self.size_of(site, channel), self._belongs(channel)))
            grid = min(grid, lowest_bit_of(weight) * self.grid_of(channel))
            error += abs(weight) * self._errors[number, channel]
        total = Total(greatest_total(shares), grid, error)
        if not self._fits(total):
            error += self._rounding(total, [weight for _, weight in terms])
        error += self._lost(total, 1.0, 2 * len(terms))
        return total._replace(error=error)

    # ------------------------------------------------------------ rows

    def _row(self, row: AtomRow, scale: float = 1.0) -> Total:
        """A row over the stream, times a scale: size, grid, error with its own rounding."""
        total = self._atoms(row)
        read = self.stream.read(row)
        known = self._signals + self._flushed
        error = sum(abs(weight) * float(known[place]) for place, weight in read.items())
        error += self._lost(total, scale, 2 * len(read))
        if not self._fits(total) or not row.exact:
            error += self._rounding(total, list(read.values()))
        return total._replace(error=error)

    def _hull(self, row: AtomRow) -> Hull:
        """Interval and grid; each row is asked for several times."""
        if row not in self._hulls:
            self._hulls[row] = self.stream.hull(row, self.facts)
        return self._hulls[row]

    def _atoms(self, row: AtomRow) -> Total:
        shares = [
            (abs(weight) * float(self.facts[node].magnitude[channel]), self._members(node, channel))
            for (node, channel), weight in row.terms
        ]
        return Total(abs(row.bias) + greatest_total(shares), self._hull(row).step)

    def _members(self, node: int, channel: int) -> Members:
        """What an atom belongs to; see `lsrl.ir.groups`."""
        groups = self.facts[node].groups
        return {root: int(m[channel]) for root, m in groups if m[channel] >= 0}

    def _belongs(self, channel: Channel) -> Members:
        """What an inner channel belongs to: what its gate does, or its branch at this token."""
        rows = [] if channel.gate is None else [channel.gate]
        if channel.mode == "pass" and not (any(channel.taps[1:]) or channel.offset):
            rows.append(channel.row)
        found: Members = {}
        for row in rows:
            each = [] if row.bias else [self._members(*atom) for atom in row.atoms]
            for root, member in each[0].items() if each else ():
                if all(members.get(root) == member for members in each):
                    found[root] = member
        return found

    def _greatest_term(self, row: AtomRow) -> float:
        places = self.stream.read(row)
        return max((abs(w) * float(self._signals[place]) for place, w in places.items()), default=0)

    def _rounding(self, total: Total, weights: Sequence[float]) -> float:
        """What a sum of weighted terms is off by at most, were its terms right and no sum exact.

        A term times a power of two is not rounded, and so a single one costs nothing.
        """
        odd = any(abs(weight) != lowest_bit_of(weight) for weight in weights)
        roundings = max(len(weights) - 1, 0) + 2 * odd
        gamma = roundings * self.numerics.unit
        return gamma / (1 - gamma) * total.size


def _sums(total: Total) -> Sums:
    return Sums(np.array([total.size]), np.array([total.grid]))


def _times(grid: float, other: float) -> float:
    """The grid of products; 0 where either is, whatever the other."""
    return grid * other if grid and other else 0.0


def _boolean(hull: Hull) -> bool:
    return hull.low >= 0 and hull.high <= 1 and hull.step >= 1


def _owners(stream: Stream, site: Site) -> dict[Channel, int]:
    """A node that each channel helps to make, for messages."""
    found: dict[Channel, int] = {}
    for place, terms in site.writes.items():
        for index, _ in terms:
            found.setdefault(site.channels[index], stream.signals[place - 1].terms[0][0][0])
    return found
