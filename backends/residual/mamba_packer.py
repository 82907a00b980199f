"""Which inner channels of a Mamba block make which values.

    branch → conv taps → SiLU → selective scan, or the skip past it → times SiLU(gate)

SiLU is an exact ReLU here (see `lsrl.backends.mamba`), so a branch that can be negative takes two
channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from lsrl.backends.residual.packer import TAPS, Channel, Made, Packer, SiteKind, Terms
from lsrl.backends.residual.rows import Atom, AtomRow, combined, factor_of
from lsrl.ir.ops import Delay, Hold, LinearState, Op, Product, Relu

BLOCK = SiteKind("block", relu_branch=True, relu_gate=True)
# Of the greatest size of a product of Mamba-2 over its step.
WIDE, WIDEST = 2.0**80, 2.0**100
# Stages within a block.
DELAYED, RECTIFIED, SCANNED, GATED = range(4)


class MambaPacker(Packer):
    """Delay, ReLU, scan and gate in one block."""

    kinds: ClassVar[tuple[SiteKind, ...]] = (BLOCK,)

    def passing(self, row: AtomRow) -> Terms:
        """One channel for each sign that the row can have."""
        return tuple((Channel(part), weight) for part, weight in self.signed(row))

    def _delay(self, op: Delay, _: Atom, row: AtomRow) -> Made:
        taps = tuple(float(lag == op.steps) for lag in range(TAPS))
        terms = tuple((Channel(part, taps), weight) for part, weight in self.signed(row))
        return Made(self.last(row) + 1, DELAYED, terms)

    def _sum(self, op: LinearState, atom: Atom, row: AtomRow) -> Made:
        site, (terms,) = self.scanned([row], BLOCK, SCANNED)
        factor = factor_of(op, atom[1])
        summed = ((replace(c, mode="sum", factor=factor), w) for c, w in terms.items())
        return Made(site, SCANNED, tuple(summed))

    def _hold(self, _op: Hold, _: Atom, value: AtomRow, when: AtomRow) -> Made:
        return self.held(value, when, BLOCK, SCANNED)

    def _product(self, _op: Product, atom: Atom, left: AtomRow, right: AtomRow) -> Made:
        pairs = ((left, right), (right, left))
        options = (self.gated(value, gate, BLOCK, GATED) for value, gate in pairs)
        return min(
            options, key=lambda made: (self.spills(made, atom[0]), made.site, len(made.terms))
        )

    def _relu(self, _op: Relu, _: Atom, row: AtomRow) -> Made:
        site = max(self.last(row), 0)
        tapped = self._tapped(row, site)
        if tapped is None:
            site += 1
            tapped = Channel(row)
        return Made(site, RECTIFIED, ((tapped, 1),))

    def _tapped(self, row: AtomRow, site: int) -> Channel | None:
        """The row as taps of one row, where the delays that it reads are made at the site."""
        lags: dict[int, list[tuple[float, AtomRow]]] = {}
        now: list[tuple[tuple[int, int], float]] = []
        for atom, weight in row.terms:
            made = self.made[atom]
            if made.site < site:
                now.append((atom, weight))
                continue
            op = self.graph.nodes[atom[0]].op
            if not self.chains or not isinstance(op, Delay):
                return None
            (source,) = self.reads(*atom)
            lags.setdefault(op.steps, []).append((weight, source))
        if not lags:
            return Channel(row)
        parts = {lag: combined(sources) for lag, sources in lags.items()}
        parts[0] = AtomRow(tuple(now), 0.0, row.exact)
        base = parts[min(lag for lag in parts if lag)]
        taps = [0.0] * TAPS
        for lag, part in parts.items():
            if not part.terms and not part.bias:
                continue
            ratio = _ratio(part, base, compare_bias=lag > 0)
            if ratio is None:
                return None
            taps[lag] = ratio
        if not base.exact:
            return None
        # What the base's bias adds now is taken back: it belongs to the past tokens only.
        rest = combined([(-taps[0], AtomRow((), base.bias))], row.bias)
        return Channel(base, tuple(taps), rest.bias) if rest.exact else None

    placers: ClassVar[Mapping[type[Op], Callable[..., Made]]] = {
        Delay: _delay,
        Relu: _relu,
        LinearState: _sum,
        Hold: _hold,
        Product: _product,
    }


class Mamba2Packer(MambaPacker):
    """The same where steps Δ are read off the stream, so that flags are made a block earlier."""

    stream_flags: ClassVar[bool] = True

    def gated(self, value: AtomRow, gate: AtomRow, kind: SiteKind, stage: int) -> Made:
        """Products that span much for the norm behind them are made of what passes.

        And those that span too much with a gate as it is.
        """
        span = self._span(value) * self._span(gate)
        if span <= WIDE:
            return super().gated(value, gate, kind, stage)
        site = self.at_least(self.last(value, gate) + 1, kind)
        parts = [(gate, 1)] if span > WIDEST else self.signed(gate)
        made = (
            (replace(channel, gate=part, linear=span > WIDEST), weight * sign)
            for part, sign in parts
            for channel, weight in self.passing(value)
        )
        return Made(site, stage, tuple(made))

    def _span(self, row: AtomRow) -> float:
        """The greatest size of a row in steps of its grid, or 1."""
        hull = self.hull(row)
        size = max(abs(hull.low), abs(hull.high))
        return size / hull.step if 0 < hull.step < size < float("inf") else 1.0


def _ratio(part: AtomRow, base: AtomRow, compare_bias: bool) -> float | None:
    """Part / base, where that is one number and none is rounded."""
    if part.atoms != base.atoms or not base.terms:
        return None
    ratio = part.terms[0][1] / base.terms[0][1]
    numbers = list(zip((w for _, w in part.terms), (w for _, w in base.terms), strict=True))
    if compare_bias:
        numbers.append((part.bias, base.bias))
    same = all(Fraction(ratio) * Fraction(theirs) == Fraction(mine) for mine, theirs in numbers)
    return ratio if same else None
