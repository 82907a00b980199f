"""Which inner channels of a Griffin layer make which values.

    temporal block: branch → conv taps → RG-LRU → times GeLU(gate)
    MLP:            GeLU(gate) times up

GeLU is an exact ReLU here (see `lsrl.backends.griffin`). A branch keeps its sign, so one channel
does, and every half of a layer can hold ReLUs: the temporal block as the gate of a constant.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from lsrl.backends.residual.packer import TAPS, Channel, Made, Packer, SiteKind, Terms, delayed_by
from lsrl.backends.residual.rows import ONE, Atom, AtomRow, factor_of
from lsrl.errors import LsrlError
from lsrl.ir.numbers import rational
from lsrl.ir.ops import Delay, Hold, LinearState, Op, Product, Relu

TEMPORAL = SiteKind("temporal", relu_branch=False, relu_gate=True)
MLP = SiteKind("mlp", relu_branch=True, relu_gate=False)
# Stages within a temporal block; the MLP has but the last.
DELAYED, SCANNED, GATED = range(3)


class GriffinPacker(Packer):
    """Delay, scan and gate in the temporal block, ReLU and product in either half."""

    kinds: ClassVar[tuple[SiteKind, ...]] = (TEMPORAL, MLP)

    def passing(self, row: AtomRow) -> Terms:
        """One channel, whatever its sign."""
        return ((Channel(row), 1),)

    def _delay(self, op: Delay, _: Atom, row: AtomRow) -> Made:
        taps = tuple(float(lag == op.steps) for lag in range(TAPS))
        site = self.at_least(self.last(row) + 1, TEMPORAL)
        return Made(site, DELAYED, ((Channel(row, taps), 1),))

    def _relu(self, _op: Relu, _: Atom, row: AtomRow) -> Made:
        site = self.last(row) + 1
        temporal = self.at_least(site, TEMPORAL) == site
        made = Channel(ONE, gate=row) if temporal else Channel(row, gate=ONE)
        return Made(site, GATED, ((made, 1),))

    def _hold(self, _op: Hold, _: Atom, value: AtomRow, when: AtomRow) -> Made:
        return self.held(value, when, TEMPORAL, SCANNED)

    def _product(self, _op: Product, atom: Atom, left: AtomRow, right: AtomRow) -> Made:
        pairs = ((left, right), (right, left))
        options = [self.gated(value, gate, TEMPORAL, GATED) for value, gate in pairs]
        options += [self._multiplied(value, gate) for value, gate in pairs]
        return min(
            options, key=lambda made: (self.spills(made, atom[0]), made.site, len(made.terms))
        )

    def _sum(self, op: LinearState, atom: Atom, row: AtomRow) -> Made:
        """What was summed up a token ago, and what comes in now.

        The first token goes into an RG-LRU unscaled, and so the sum takes a token later what is
        zero there.
        """
        factor = factor_of(op, atom[1])
        site, (terms,) = self.scanned([row], TEMPORAL, SCANNED)
        if any(delayed_by(channel, 1) is None for channel in terms):
            site = self.at_least(site + 1, TEMPORAL)
            terms = self.express(row, site, SCANNED) or {}
        made: list[tuple[Channel, int | Fraction]] = []
        for channel, weight in terms.items():
            before = delayed_by(channel, 1)
            if before is None:
                raise LsrlError("a running sum reads further back than the taps reach")
            made.append((replace(before, mode="sum", factor=factor), rational(factor) * weight))
            made.append((channel, weight))
        return Made(site, SCANNED, tuple(made))

    def _multiplied(self, value: AtomRow, gate: AtomRow) -> Made:
        """In the MLP."""
        site = self.at_least(self.last(value, gate) + 1, MLP)
        terms = ((Channel(part, gate=value), sign) for part, sign in self.signed(gate))
        return Made(site, GATED, tuple(terms))

    placers: ClassVar[Mapping[type[Op], Callable[..., Made]]] = {
        Delay: _delay,
        Relu: _relu,
        LinearState: _sum,
        Hold: _hold,
        Product: _product,
    }
