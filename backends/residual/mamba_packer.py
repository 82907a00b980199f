"""Which inner channels of a Mamba block make which values.

    branch → conv taps → SiLU → selective scan, or the skip past it → times SiLU(gate)

SiLU is an exact ReLU here (see `lsrl.backends.mamba`), so a branch that can be negative takes two
channels.
"""

from dataclasses import replace
from typing import ClassVar

from lsrl.backends.residual.stream import (
    TAPS,
    Channel,
    Kind,
    Made,
    Packer,
    Row,
    Terms,
    factor_of,
    terms_of,
)
from lsrl.errors import LsrlError
from lsrl.ir.ops import Delay, Hold, LinearState, Product, Relu

BLOCK = Kind("block", relu_branch=True, relu_gate=True)
# Stages within a block.
DELAYED, RECTIFIED, SCANNED, GATED = range(4)


class MambaPacker(Packer):
    """Delay, ReLU, scan and gate in one block."""

    kinds: ClassVar[tuple[Kind, ...]] = (BLOCK,)

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
            site, (value, when) = self.scanned(rows, BLOCK, SCANNED)
            flag = terms_of(when)
            held = ((replace(c, mode="hold", flag=flag), w) for c, w in value.items())
            return Made(site, SCANNED, tuple(held))
        if isinstance(op, Product):
            return min(
                (self._product(rows[0], rows[1]), self._product(rows[1], rows[0])),
                key=lambda made: (made.site, len(made.terms)),
            )
        raise LsrlError(f"{op.name} reached the Mamba block")

    def passing(self, row: Row) -> Terms:
        """One channel for each sign that the row can have."""
        return tuple((Channel(part), weight) for part, weight in self.signed(row))

    def _delayed(self, row: Row, steps: int) -> Terms:
        taps = tuple(float(lag == steps) for lag in range(TAPS))
        return tuple((Channel(part, taps), weight) for part, weight in self.signed(row))

    def _relu(self, row: Row) -> Made:
        site = max(self.last(row), 0)
        tapped = self._tapped(row, site)
        if tapped is None:
            site += 1
            tapped = Channel(row)
        return Made(site, RECTIFIED, ((tapped, 1.0),))

    def _tapped(self, row: Row, site: int) -> Channel | None:
        """The row as taps of one row, where the delays that it reads are made at the site."""
        lags: dict[int, list[tuple[Row, float]]] = {}
        now: list[tuple[tuple[int, int], float]] = []
        for atom, weight in row.terms:
            made = self.made[atom]
            if made.site < site:
                now.append((atom, weight))
                continue
            op = self.graph.nodes[atom[0]].op
            if not isinstance(op, Delay):
                return None
            (source,) = self.reads(*atom)
            lags.setdefault(op.steps, []).append((source, weight))
        if not lags:
            return Channel(row)
        parts = {lag: _combined(sources) for lag, sources in lags.items()}
        parts[0] = Row(tuple(now), 0.0, row.exact)
        base = parts[min(lag for lag in parts if lag)]
        taps = [0.0] * TAPS
        for lag, part in parts.items():
            if not part.terms and not part.bias:
                continue
            ratio = _ratio(part, base, compare_bias=lag > 0)
            if ratio is None:
                return None
            taps[lag] = ratio
        # What the base's bias adds now is taken back: it belongs to the past tokens only.
        return Channel(base, tuple(taps), row.bias - taps[0] * base.bias)

    def _product(self, value: Row, gate: Row) -> Made:
        site, (terms,) = self.scanned([value], BLOCK, GATED)
        if site <= self.last(gate):
            site = self.last(gate) + 1
            terms = self.express(value, site, GATED) or {}
        gated = (
            (replace(channel, gate=part), weight * sign)
            for part, sign in self.signed(gate)
            for channel, weight in terms.items()
        )
        return Made(site, GATED, tuple(gated))


def _combined(sources: list[tuple[Row, float]]) -> Row:
    total: dict[tuple[int, int], float] = {}
    for row, weight in sources:
        for atom, entry in row.terms:
            total[atom] = total.get(atom, 0.0) + weight * entry
    terms = tuple((atom, weight) for atom, weight in sorted(total.items()) if weight)
    bias = sum(weight * row.bias for row, weight in sources)
    return Row(terms, bias, all(row.exact for row, _ in sources))


def _ratio(part: Row, base: Row, compare_bias: bool) -> float | None:
    """Part / base, where that is one power of two with a sign."""
    if part.atoms != base.atoms or not base.terms:
        return None
    ratio = part.terms[0][1] / base.terms[0][1]
    same = all(w == ratio * b for (_, w), (_, b) in zip(part.terms, base.terms, strict=True))
    same = same and (not compare_bias or part.bias == ratio * base.bias)
    return ratio if same else None
