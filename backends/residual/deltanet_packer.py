"""Which columns of which heads of a gated DeltaNet layer make which values.

    delta: branch → conv taps → delta rule → times SiLU(gate)
    MLP:   SiLU(gate) times up

SiLU is an exact ReLU in gates, and half of what is small in columns, which so keep their signs (see
`lsrl.backends.deltanet`). Columns of a head share its keys, queries
and rates, so a channel that passes, holds or sums goes into any head of its kind; one that a `Head`
writes goes into that head.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from lsrl.backends.residual.packer import (
    TAPS,
    Channel,
    Head,
    Made,
    Packer,
    SiteKind,
    Terms,
)
from lsrl.backends.residual.rows import ONE, Atom, AtomRow, combined, factor_of
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import rational
from lsrl.ir.ops import Delay, Hold, LinearState, Op, Periodic, Product, Recall, Relu, SwapState

DELTA = SiteKind("delta", relu_branch=False, relu_gate=True)
MLP = SiteKind("mlp", relu_branch=True, relu_gate=False)
# Stages within a delta site; the MLP has but the last.
DELAYED, SCANNED, GATED = range(3)
# A key is written with the value of the token before, so that it acts behind this token's reading.
BEFORE = (0.0, 1.0, 0.0, 0.0)
NOW = (1.0, 0.0, 0.0, 0.0)


class DeltaNetPacker(Packer):
    """Delay, ReLU, state and gate in the delta site, ReLU and product in either half."""

    kinds: ClassVar[tuple[SiteKind, ...]] = (DELTA, MLP)
    stream_flags: ClassVar[bool] = True

    def __init__(self, graph: Graph, chains: bool = True) -> None:
        """Place every atom as early as can be; then what can wait half a layer goes to the MLP.

        There a ReLU or a product takes a unit, which is smaller than a column.
        """
        super().__init__(graph, chains)
        first: dict[Atom, int] = {}
        for atom in sorted(self.made, reverse=True):
            made, last = self.made[atom], first.get(atom, len(self.made) * len(self.kinds))
            if made.stage == GATED and self.kinds[made.site % len(self.kinds)] is DELTA:
                unit = self._unit(*atom)
                if made.site < unit.site < last and not self.spills(unit, atom[0]):
                    self.made[atom] = made = unit
            for channel, _ in made.terms:
                for row in channel.rows:
                    for read in row.atoms:
                        first[read] = min(first.get(read, made.site), made.site)

    def _unit(self, node: int, channel: int) -> Made:
        """A ReLU or a product in the MLP."""
        rows = self.reads(node, channel)
        if isinstance(self.graph.nodes[node].op, Relu):
            return self._multiplied(ONE, [(rows[0], 1)])
        options = (self._multiplied(*rows) for rows in self._factors(*rows))
        return min(options, key=lambda made: (self.spills(made, node), made.site, len(made.terms)))

    def reads(self, node: int, channel: int) -> list[AtomRow]:
        """The rows of an atom's operands; where these write and read cells, those of all cells."""
        this = self.graph.nodes[node]
        if isinstance(this.op, SwapState):
            whole = this.operands
        elif isinstance(this.op, Recall):
            whole = this.operands[::2]
        else:
            return super().reads(node, channel)
        keys, queries = (self._cells(operand) for operand in whole)
        if isinstance(this.op, SwapState):
            return [*keys, *queries]
        written, _ = self._written(keys)
        return [self.affines.row(this.operands[1], channel), *written, *queries]

    def _cells(self, operand: int) -> list[AtomRow]:
        width = self.graph.nodes[operand].width
        return [self.affines.row(operand, cell) for cell in range(width)]

    def _written(self, keys: list[AtomRow]) -> tuple[list[AtomRow], tuple[float, ...]]:
        """Keys and their taps: of a key that is a row of the token before, that row."""
        found = []
        for row in keys if self.chains else ():
            parts = [(weight, self._delayed(atom)) for atom, weight in row.terms]
            known = [(weight, source) for weight, source in parts if source is not None]
            if row.bias or len(known) < len(parts):
                return keys, NOW
            found.append(combined(known))
        late = bool(found) and all(row.exact for row in found)
        return (found, BEFORE) if late else (keys, NOW)

    def _delayed(self, atom: Atom) -> AtomRow | None:
        """What an atom is a token late, and 0 at the first token; None if it is no such atom."""
        node = self.graph.nodes[atom[0]]
        if not isinstance(node.op, Delay) or node.op.steps != 1 or node.op.initial[atom[1]]:
            return None
        return self.affines.row(node.operands[0], atom[1])

    def passing(self, row: AtomRow) -> Terms:
        """One column, whatever its sign."""
        return ((Channel(row), 1),)

    def _delay(self, op: Delay, _: Atom, row: AtomRow) -> Made:
        taps = tuple(float(lag == op.steps) for lag in range(TAPS))
        site = self.at_least(self.last(row) + 1, DELTA)
        return Made(site, DELAYED, ((Channel(row, taps), 1),))

    def _relu(self, _op: Relu, _: Atom, row: AtomRow) -> Made:
        site = self.last(row) + 1
        unit = self.at_least(site, MLP) == site
        made = Channel(row, gate=ONE) if unit else Channel(ONE, gate=row)
        return Made(site, GATED, ((made, 1),))

    def _sum(self, op: LinearState, atom: Atom, row: AtomRow) -> Made:
        site, (terms,) = self.scanned([row], DELTA, SCANNED)
        factor = factor_of(op, atom[1])
        summed = ((replace(c, mode="sum", factor=factor), w) for c, w in terms.items())
        return Made(site, SCANNED, tuple(summed))

    def _blink(self, op: Periodic, atom: Atom) -> Made:
        """A sum of ones that turns its sign: 1 at the first token, 0 at the next one."""
        first, second = map(rational, op.table.dense()[:, atom[1]].tolist())
        terms = (
            (replace(Channel(ONE), mode="sum", factor=-1.0), first - second),
            (Channel(ONE), second),
        )
        return Made(0, SCANNED, tuple((channel, weight) for channel, weight in terms if weight))

    def _hold(self, _op: Hold, _: Atom, value: AtomRow, when: AtomRow) -> Made:
        return self.held(value, when, DELTA, SCANNED)

    def _swap(self, op: SwapState, atom: Atom, *rows: AtomRow) -> Made:
        """What is read at the start, less what the item's column says of its way from there."""
        swaps, reads = rows[: op.points], rows[op.points :]
        site = self.at_least(self.last(*rows) + 1, DELTA)
        own = Channel(swaps[atom[1]], BEFORE, mode="swap", head=Head(swaps, reads, BEFORE))
        return Made(site, SCANNED, ((own, -1), *self.passing(reads[atom[1]])))

    def _recall(self, _op: Recall, atom: Atom, value: AtomRow, *rows: AtomRow) -> Made:
        half = len(rows) // 2
        _, taps = self._written(self._cells(self.graph.nodes[atom[0]].operands[0]))
        head = Head(rows[:half], rows[half:], taps)
        site, terms = self.behind(value, rows, DELTA, SCANNED)
        made = ((replace(channel, mode="recall", head=head), w) for channel, w in terms.items())
        return Made(site, SCANNED, tuple(made))

    def _product(self, _op: Product, atom: Atom, left: AtomRow, right: AtomRow) -> Made:
        options = [self.gated(*pair, DELTA, GATED) for pair in ((left, right), (right, left))]
        options += [self._multiplied(*factors) for factors in self._factors(left, right)]
        return min(
            options, key=lambda made: (self.spills(made, atom[0]), made.site, len(made.terms))
        )

    def _factors(
        self, left: AtomRow, right: AtomRow
    ) -> Iterator[tuple[AtomRow, list[tuple[AtomRow, int | Fraction]]]]:
        """One of two rows, and the other one as a sum of ReLUs."""
        for value, gate in ((left, right), (right, left)):
            yield value, list(self.signed(gate))
            inner = self._rectified(gate)
            if inner is not None:
                yield value, [inner]

    def _rectified(self, row: AtomRow) -> tuple[AtomRow, int | Fraction] | None:
        """What a row is the ReLU of, and its weight, where it is nothing but that."""
        if row.bias or len(row.terms) != 1:
            return None
        (((node, channel), weight),) = row.terms
        if not isinstance(self.graph.nodes[node].op, Relu):
            return None
        (inner,) = self.reads(node, channel)
        return inner, Fraction(weight)

    def _multiplied(self, value: AtomRow, gates: list[tuple[AtomRow, int | Fraction]]) -> Made:
        """In the MLP."""
        last = self.last(value, *(gate for gate, _ in gates))
        terms = ((Channel(part, gate=value), weight) for part, weight in gates)
        return Made(self.at_least(last + 1, MLP), GATED, tuple(terms))

    placers: ClassVar[Mapping[type[Op], Callable[..., Made]]] = {
        Delay: _delay,
        Relu: _relu,
        LinearState: _sum,
        Periodic: _blink,
        Hold: _hold,
        Product: _product,
        SwapState: _swap,
        Recall: _recall,
    }
