"""A program held against the graph that passes made of it, op by op."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from lsrl.ir.bounds import Facts, side_by_side
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import sum_is_exact
from lsrl.ir.ops import (
    Affine,
    Bound,
    Constant,
    Delay,
    Hold,
    Input,
    Latch,
    LinearState,
    Lookup,
    Op,
    Periodic,
    Product,
    Read,
    Recall,
    Relu,
    Select,
    SelectiveState,
    Step,
)
from lsrl.ir.trail import Row, Trail
from lsrl.numerics import Numerics
from lsrl.rounding.channels import Channels, Kind, RoundingError, Term, complement, negated, side
from lsrl.rounding.made import (
    Made,
    Polynomial,
    entries_of,
    held_exactly,
    is_flag,
    plus,
    product_fits,
    row_of,
    source_of,
    take_in,
    terms_of,
    times,
)

if TYPE_CHECKING:
    pass

# By how much of its rise a ramp is wider for a difference that is rounded once.
ONCE = 2.0**-10


REWRITTEN = "the compiler has it in another form, which may round elsewhere"


NO_RULE = "no {} of real numbers is the same everywhere"
SHIFTED = "is held less its initial value, which rounds it; start at 0"


class Walk:
    """Goes through a program and says of each channel what it is, and where it is in the graph.

    Attributes:
      made: the graph.
      channels: of the program.
      slack: by how much of their rise the ramps have to be wider, at most.
      lenient: atoms of the graph that only a ramp reads, and that may be off by a part of its rise.
      found: whether the walk is over.
    """

    rules: "ClassVar[Mapping[type[Op], Callable[[Walk, int, Facts], Facts]]]"

    def __init__(self, graph: Graph, trail: Trail, numerics: Numerics, tokens: int) -> None:
        """Nothing is looked at yet."""
        self.program = graph.program or graph
        self.made = Made(graph, numerics)
        self.numerics = numerics
        self.tokens = tokens
        self.trail = trail
        self.channels = Channels(self.program.nodes, numerics)
        self.given = self.program.facts_at(tokens)
        self.slack = 0.0
        self.lenient: set[int] = set()
        self.found = False
        self._rows: dict[int, Row] = {}
        # Of channels that are sums of which one term is not 0: these terms.
        self._leaves: dict[int, list[Term]] = {}

    def go(self) -> None:
        """Through all that the output depends on.

        Raises:
          RoundingError: at the first node of the program of which a bit may differ.
        """
        for i in self._live():
            node = self.program.nodes[i]
            if i in self._recalled:
                self.channels.settle(i, self.given[i], self._recall(i))
                continue
            read = [self.channels.known(operand) for operand in node.operands]
            inferred = node.op.infer(read, self.tokens)
            if not self._exact(i, read):
                rule = self.rules.get(type(node.op))
                if rule is None:
                    raise RoundingError(
                        i, f"no {node.op.name} of real numbers is the same everywhere"
                    )
                inferred = rule(self, i, inferred)
            self.channels.settle(i, self.given[i], inferred)
        output = self.program.output
        for channel in range(self.program.nodes[output].width):
            if self.kind(output, channel) != Kind.EXACT:
                self.row(output, channel)

    def _live(self) -> list[int]:
        """What the output depends on; of reads that are recalled not the words that cells make."""
        pending, found = [self.program.output], set[int]()
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                operands = self.program.nodes[node].operands
                pending.extend(operands[:-1] if node in self._recalled else operands)
        return sorted(found)

    def kind(self, node: int, channel: int) -> Kind:
        """Of a channel, or of the one that is broadcast."""
        own = self.channels.of(node)
        return Kind(int(own[channel if len(own) > 1 else 0]))

    def row(self, node: int, channel: int) -> Row:
        """Where a channel of the program is in the graph."""
        width = self.program.nodes[node].width
        place = self.channels.starts[node] + (channel if width > 1 else 0)
        if place not in self._rows and not self.trail.lost[place]:
            self._rows[place] = self.made.one_way(self.trail.rows[place])
        if place not in self._rows:
            self._rows[place] = self._sum(node, place - self.channels.starts[node])
        return self._rows[place]

    def _sum(self, node: int, channel: int) -> Row:
        """The row of an affine map that is left nowhere, of what it reads."""
        this = self.program.nodes[node]
        if isinstance(this.op, Lookup):
            column = this.op.table.dense()[:, channel] + 0.0
            found = self.made.looked_up(source_of(self.program, node), column)
            if found is not None:
                return found
        if not isinstance(this.op, Affine):
            raise RoundingError(node, "the compiler left nothing that is equal to it")
        parts = (
            (value, self.row(operand, column))
            for weight, operand in zip(this.op.weights, this.operands, strict=True)
            for column, value in entries_of(weight.csr, channel)
        )
        return row_of(parts, this.op.bias[channel])

    def _exact(self, i: int, read: list[Facts]) -> bool:
        """Whether nothing that a node reads or makes is ever rounded."""
        node, fact = self.program.nodes[i], self.given[i]
        if any(self.channels.of(operand).any() for operand in node.operands):
            return False
        sums = node.op.sums(read, self.tokens)
        bits, tiny = self.numerics.bits, self.numerics.tiny
        added = (sums.magnitude == 0) | (
            sum_is_exact(sums.magnitude, sums.grid, bits) & (sums.grid >= tiny)
        )
        return bool(added.all() and held_exactly(fact, self.numerics).all() and self._fit(node.op))

    def _fit(self, op: Op) -> bool:
        return all(self.channels.fit(part) for part in op.constants)

    # ------------------------------------------------------------ ops

    def _given(self, i: int, inferred: Facts) -> Facts:
        """Inputs and tables, which are rounded to the dtype as they come in."""
        op, fact = self.program.nodes[i].op, self.given[i]
        if not isinstance(op, Input) and not self._fit(op):
            raise RoundingError(i, f"a number of its own is rounded in {self.numerics.dtype}")
        take_in(self.channels, i, fact)
        return fact

    def _affine(self, i: int, inferred: Facts) -> Facts:
        node, mine = self.program.nodes[i], self.channels.of(i)
        op = node.op
        if not isinstance(op, Affine):
            raise TypeError(op)
        for channel in range(node.width):
            terms = self._terms(i, channel)
            mine[channel] = kind = self._judged(i, terms, op.bias[channel])
            if kind == Kind.REAL and not op.bias[channel]:
                self._leaves[self.channels.starts[i] + channel] = terms
            if kind != Kind.EXACT:
                place = self.channels.starts[i] + channel
                if not self.trail.lost[place] and self.row(i, channel) != self._sum(i, channel):
                    raise RoundingError(i, REWRITTEN)
        return inferred

    def _judged(self, i: int, terms: list[tuple[int, float]], bias: float) -> Kind:
        kind, text, _, _ = self.channels.row(terms, bias)
        if text is not None:
            raise RoundingError(i, text)
        return kind

    def _is(self, i: int, channel: int, weight: float, operand: int) -> None:
        """Hold a channel against a multiple of an operand's."""
        place = self.channels.starts[i] + channel
        expected = row_of([(weight, self.row(operand, channel))], 0.0)
        if self.trail.lost[place]:
            self._rows[place] = expected
        elif self.row(i, channel) != expected:
            raise RoundingError(i, REWRITTEN)

    def _relu(self, i: int, inferred: Facts) -> Facts:
        (operand,) = self.program.nodes[i].operands
        fact, mine = self.channels.known(operand), self.channels.of(i)
        for channel in range(len(mine)):
            kind, read = self.kind(operand, channel), self.row(operand, channel)
            row = self.row(i, channel)
            atom = self.made.atom(row, Relu)
            if kind == Kind.EXACT:
                continue
            if atom is not None and self.made.read(atom) == [read]:
                mine[channel] = min(kind, Kind.REAL)
                self.channels.signs[self.channels.starts[i] + channel] = side(
                    read, negated(read), "sign"
                )
            elif row == read and (fact.low[channel] >= 0 or self._least(operand, channel) >= 0):
                mine[channel] = kind
            elif row != ((), 0.0) or fact.high[channel] > 0:
                raise RoundingError(i, REWRITTEN)
        return inferred

    def _least(self, node: int, channel: int) -> float:
        """The least value of a channel, given which of its terms exclude each other."""
        this = self.program.nodes[node]
        if not isinstance(this.op, Affine):
            return -math.inf
        return self.channels.least(self._terms(node, channel), this.op.bias[channel])

    def _terms(self, node: int, channel: int) -> list[Term]:
        """What an affine map adds up, looking through sums of which one term is not 0."""
        return [
            (leaf, weight * factor)
            for column, weight in terms_of(self.channels, self.program.nodes[node], channel)
            for leaf, factor in self._leaves.get(column, [(column, 1.0)])
        ]

    def _step(self, i: int, inferred: Facts) -> Facts:
        node = self.program.nodes[i]
        op, (operand,) = node.op, node.operands
        fact, mine = self.channels.known(operand), self.channels.of(i)
        if not isinstance(op, Step):
            raise TypeError(op)
        promised = not op.avoids_ramp(fact)
        for channel in range(node.width):
            if self.kind(operand, channel) == Kind.EXACT:
                continue
            outer = self.made.atom(self.row(i, channel), Relu)
            lacking = None if outer is None else complement(self.made.read(outer)[0])
            inner = None if lacking is None else self.made.atom(lacking, Relu)
            if outer is None or inner is None:
                raise RoundingError(i, REWRITTEN)
            terms, bias = self.row(operand, channel)
            scaled = tuple((column, -op.slope * w) for column, w in terms)
            if self.made.read(inner) != [(scaled, -op.slope * bias - op.shift + 0.0)]:
                raise RoundingError(i, REWRITTEN)
            self.made.channels.kinds[outer] = Kind.DECIDED
            mine[channel] = Kind.DECIDED
            if promised:
                self.lenient.add(inner)
                self.slack = max(self.slack, ONCE)
        return inferred

    def _product(self, i: int, inferred: Facts) -> Facts:
        node, mine = self.program.nodes[i], self.channels.of(i)
        left, right = node.operands
        for channel in range(node.width):
            kinds = self.kind(left, channel), self.kind(right, channel)
            for constant, value in ((left, right), (right, left)):
                fact = self.channels.known(constant)
                if fact.low[channel] == fact.high[channel]:
                    factor = float(fact.low[channel])
                    column = self.channels.starts[value] + channel
                    mine[channel] = self._judged(i, [(column, factor)], 0.0)
                    self._is(i, channel, factor, value)
                    break
            else:
                mine[channel] = self._multiplied(i, channel, max(kinds))
        return inferred

    def _multiplied(self, i: int, channel: int, kind: Kind) -> Kind:
        left, right = self.program.nodes[i].operands
        read = [self.row(left, channel), self.row(right, channel)]
        place = self.channels.starts[i] + channel
        facts = [self.channels.known(operand) for operand in (left, right)]
        if kind <= Kind.DECIDED and product_fits(facts, channel, self.numerics.bits):
            if kind == Kind.DECIDED:
                self._equals(i, channel, times(*map(self.made.polynomial, read)))
            return kind
        atom = self.made.atom(self.row(i, channel), Product)
        if atom is None or sorted(self.made.read(atom)) != sorted(read):
            raise RoundingError(i, REWRITTEN)
        for operand, row in zip((left, right), read, strict=True):
            fact = self.channels.known(operand)
            if self.kind(operand, channel) <= Kind.DECIDED and is_flag(fact, channel):
                self.channels.signs[place] = side(row, complement(row), "gate")
        return Kind.REAL

    def _equals(self, i: int, channel: int, expected: Polynomial | None) -> None:
        """Hold a channel of exact numbers against a polynomial of the graph's atoms."""
        if expected is None or self.made.polynomial(self.row(i, channel)) != expected:
            raise RoundingError(i, REWRITTEN)

    def _select(self, i: int, inferred: Facts) -> Facts:
        node, mine = self.program.nodes[i], self.channels.of(i)
        condition, first, second = node.operands
        for channel in range(node.width):
            gate = self.row(condition, channel)
            kind = max(self.kind(operand, channel) for operand in node.operands)
            place = self.channels.starts[i] + channel
            branches = ((gate, first), (complement(gate), second))
            if kind == Kind.DECIDED:
                total: Polynomial = {}
                for flag, value in branches:
                    part = times(*map(self.made.polynomial, (flag, self.row(value, channel))))
                    if part is None:
                        raise RoundingError(i, REWRITTEN)
                    total = plus(total, part)
                self._equals(i, channel, total)
            elif kind >= Kind.REAL and not self.trail.lost[place]:
                self._gated(i, channel, branches)
            mine[channel] = min(kind, Kind.REAL)
            zero = [bool(self.channels.known(value).zero[channel]) for _, value in branches]
            if any(zero):
                flag = gate if zero[1] else complement(gate)
                self.channels.signs[place] = side(flag, complement(flag), "gate")
        return inferred

    def _gated(self, i: int, channel: int, branches: tuple[tuple[Row, int], ...]) -> None:
        """Look for the products of gates and values that a select has become, and nothing else."""
        terms, bias = self.row(i, channel)
        rest = dict(terms)
        for flag, operand in branches:
            value = self.row(operand, channel)
            if not value[0]:  # a number, by which the gate is multiplied
                bias -= value[1] * flag[1]
                for place, weight in flag[0]:
                    rest[place] = rest.get(place, 0.0) - value[1] * weight
                continue
            wanted = sorted((flag, value))
            column = next(
                (
                    c
                    for c, w in rest.items()
                    if w == 1
                    and isinstance(self.made.op(c), Product)
                    and sorted(self.made.read(c)) == wanted
                ),
                None,
            )
            if column is None:
                raise RoundingError(i, "is let through by ReLUs, and not by a gate")
            del rest[column]
        if bias or any(rest.values()):
            raise RoundingError(i, REWRITTEN)

    def _bound(self, i: int, inferred: Facts) -> Facts:
        node = self.program.nodes[i]
        op, operand = node.op, node.operands[-1]
        for channel in range(node.width):
            if self.kind(operand, channel) != Kind.EXACT:
                self._is(i, channel, 1.0, operand)
        self.channels.of(i)[:] = self.channels.of(operand)
        for channel in range(node.width):
            leaves = self._leaves.get(self.channels.starts[operand] + channel)
            if leaves is not None:
                self._leaves[self.channels.starts[i] + channel] = leaves
        # A theorem about numbers need not hold of rounded ones.
        proven = isinstance(op, Bound) and op.proven
        return self.channels.known(operand) if proven else inferred

    # ------------------------------------------------------------ memory

    @cached_property
    def _recalled(self) -> set[int]:
        """The reads that are recalls in the graph, in place of the words that cells make."""
        found = set[int]()
        for i, node in enumerate(self.program.nodes):
            start = self.channels.starts[i]
            if isinstance(node.op, Read) and not self.trail.lost[start]:
                terms, _ = self.trail.rows[start]
                if any(isinstance(self.made.op(column), Recall) for column, _ in terms):
                    found.add(i)
        return found

    def _recall(self, i: int) -> Facts:
        """A read that is recalled: every word holds the value that was written, bit for bit."""
        node, mine = self.program.nodes[i], self.channels.of(i)
        op, (target, value, writes, address, opens, _) = node.op, node.operands
        if not isinstance(op, Read):
            raise TypeError(op)
        width = self.program.nodes[value].width
        for channel in range(node.width):
            mine[channel] = kind = min(self.kind(value, channel % width), Kind.REAL)
            if any(self.kind(k, 0) != Kind.EXACT for k in (target, writes, address, opens)):
                raise RoundingError(i, "is read or written where rounded numbers say")
            if kind == Kind.EXACT:
                continue
            atom = self.made.atom(self.row(i, channel), Recall)
            if atom is None:
                raise RoundingError(i, REWRITTEN)
            recall, place = self.made.channels.place(atom)
            held = self.made.graph.nodes[recall].operands[1]
            if self.made.row(held, place) != self.row(value, channel % width):
                raise RoundingError(i, REWRITTEN)
        read = [self.channels.known(k) for k in (writes, value)]
        words = node.width // width
        return side_by_side([Recall(op.initial).infer(read, self.tokens)] * words)

    def _held(self, i: int, inferred: Facts) -> Facts:
        node, mine = self.program.nodes[i], self.channels.of(i)
        op = node.op
        for channel in range(node.width):
            kind = max(self.kind(operand, channel) for operand in node.operands[:2])
            if kind == Kind.EXACT:
                continue
            if getattr(op, "initial")[channel]:  # noqa: B009
                raise RoundingError(i, SHIFTED)
            if isinstance(op, SelectiveState):
                keep, update = node.operands
                if not op.overwrites:
                    raise RoundingError(i, "adds up what it keeps and what is new")
                when = complement(self.row(keep, channel))
                values = self._unmasked(update, channel, when)
            else:
                value, condition = node.operands[:2]
                when, values = self.row(condition, channel), [self.row(value, channel)]
            atom = self.made.atom(self.row(i, channel), Hold)
            if atom is None:
                raise RoundingError(i, "is no memory that overwrites")
            got, flag = self.made.read(atom)
            if got not in values or flag != when:
                raise RoundingError(i, REWRITTEN)
            mine[channel] = min(kind, Kind.REAL)
        return inferred

    def _unmasked(self, update: int, channel: int, when: Row) -> list[Row]:
        """What a state takes in where a condition holds, of an update that is 0 elsewhere."""
        node, found = self.program.nodes[update], []
        place = self.channels.starts[update] + channel
        if not self.trail.lost[place]:
            found.append(self.row(update, channel))
        if isinstance(node.op, Select) and self.row(node.operands[0], channel) == when:
            found.append(self.row(node.operands[1], channel))
        if isinstance(node.op, Product):
            rows = [self.row(operand, channel) for operand in node.operands]
            found += [rows[1 - k] for k in (0, 1) if rows[k] == when]
        return found

    def _delay(self, i: int, inferred: Facts) -> Facts:
        node, mine = self.program.nodes[i], self.channels.of(i)
        op, (operand,) = node.op, node.operands
        if not isinstance(op, Delay):
            raise TypeError(op)
        for channel in range(node.width):
            kind = self.kind(operand, channel)
            if kind == Kind.EXACT:
                continue
            if op.initial[channel]:
                raise RoundingError(
                    i, "is delayed less its initial value, which rounds it; start at 0"
                )
            row, steps = self.row(i, channel), op.steps
            while steps > 0:
                atom = self.made.atom(row, Delay, LinearState)
                if atom is None:
                    raise RoundingError(i, REWRITTEN)
                row, passed = self._earlier(i, atom)
                steps -= passed
            if steps or row != self.row(operand, channel):
                raise RoundingError(i, REWRITTEN)
            mine[channel] = min(kind, Kind.REAL)
        return inferred

    def _earlier(self, i: int, atom: int) -> tuple[Row, int]:
        """What an atom was so many tokens ago: of a delay, or of a channel of a shift register."""
        node, channel = self.made.channels.place(atom)
        this = self.made.graph.nodes[node]
        if isinstance(this.op, Delay):
            return self.made.read(atom)[0], this.op.steps
        if isinstance(this.op, LinearState):
            before = entries_of(this.op.transition.csr, channel)
            fresh = self.made.read(atom)[0]
            if not before and len(this.operands) == 1:
                return fresh, 0
            if len(before) == 1 and before[0][1] == 1 and fresh == ((), 0.0):
                start = self.made.channels.starts[node]
                source = (((start + before[0][0], 1.0),), 0.0)
                own = self.made.graph.nodes[node].op
                if isinstance(own, LinearState) and not own.initial[channel]:
                    column = start + before[0][0]
                    if not entries_of(own.transition.csr, before[0][0]):
                        return self.made.read(column)[0], 1
                    return source, 1
        raise RoundingError(i, REWRITTEN)


Walk.rules = {
    Input: Walk._given,
    Constant: Walk._given,
    Lookup: Walk._given,
    Periodic: Walk._given,
    Affine: Walk._affine,
    Relu: Walk._relu,
    Step: Walk._step,
    Product: Walk._product,
    Select: Walk._select,
    Bound: Walk._bound,
    Read: Walk._bound,
    Latch: Walk._held,
    Hold: Walk._held,
    SelectiveState: Walk._held,
    Delay: Walk._delay,
}
