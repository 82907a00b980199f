"""Which inner channels of a Mamba block make which values.

    branch → conv taps → SiLU → selective scan, or the skip past it → times SiLU(gate)

SiLU is an exact ReLU here (see `lsrl.backends.mamba`), so a branch that can be negative takes two
channels.
"""

from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from lsrl.backends.residual.packer import TAPS, Channel, Made, Packer, SiteKind, Terms
from lsrl.backends.residual.rows import AtomRow, combined, factor_of
from lsrl.errors import LsrlError
from lsrl.ir.ops import Delay, Hold, LinearState, Product, Relu

BLOCK = SiteKind("block", relu_branch=True, relu_gate=True)
# Stages within a block.
DELAYED, RECTIFIED, SCANNED, GATED = range(4)


class MambaPacker(Packer):
    """Delay, ReLU, scan and gate in one block."""

    kinds: ClassVar[tuple[SiteKind, ...]] = (BLOCK,)

    def place(self, node: int, channel: int) -> Made:
        """By the kind of the op."""
        op, rows = self.graph.nodes[node].op, self.reads(node, channel)
        if isinstance(op, Delay):
            return Made(self.last(*rows) + 1, DELAYED, self._delayed(rows[0], op.steps))
        if isinstance(op, Relu):
            return self._relu(rows[0])
        if isinstance(op, LinearState):
            site, (terms,) = self.scanned(rows, BLOCK, SCANNED)
            factor = factor_of(op, channel)
            summed = ((replace(c, mode="sum", factor=factor), w) for c, w in terms.items())
            return Made(site, SCANNED, tuple(summed))
        if isinstance(op, Hold):
            return self.held(rows[0], rows[1], BLOCK, SCANNED)
        if isinstance(op, Product):
            options = (self.gated(value, gate, BLOCK, GATED) for value, gate in (rows, rows[::-1]))
            return min(options, key=lambda made: (made.site, len(made.terms)))
        raise LsrlError(f"{op.name} reached the Mamba block")

    def passing(self, row: AtomRow) -> Terms:
        """One channel for each sign that the row can have."""
        return tuple((Channel(part), weight) for part, weight in self.signed(row))

    def _delayed(self, row: AtomRow, steps: int) -> Terms:
        taps = tuple(float(lag == steps) for lag in range(TAPS))
        return tuple((Channel(part, taps), weight) for part, weight in self.signed(row))

    def _relu(self, row: AtomRow) -> Made:
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
