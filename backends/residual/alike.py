"""Whether a network on a residual stream rounds where its program does, and nowhere else.

What a branch or a gate reads, what it is multiplied by, what is added to the stream: each of these
rounds at most once, or it is a sum of zeros and of one number. Scales are powers of two, and so no
matter. See `lsrl.rounding`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lsrl.backends.residual.packer import Channel, SiteKind
from lsrl.backends.residual.rows import Affines, Atom, AtomRow
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.tables import SiteTable
from lsrl.ir.bounds import Facts
from lsrl.ir.groups import Members
from lsrl.ir.numbers import Array, lowest_bit_of
from lsrl.ir.ops import Product, Relu
from lsrl.ir.trail import Row
from lsrl.rounding.channels import (
    Kind,
    RoundingError,
    Share,
    Term,
    complement,
    most_together,
    negated,
    side,
)
from lsrl.rounding.network import Held


class Sums(NamedTuple):
    """Which sums of a site's channels are exact in any order.

    Attributes:
      branch: (channels,), what branches read and hold.
      gate: what gates read.
      switch: what switches holds, where it is read off the stream.
      cells: what writes and reads the cells of a head.
      time: sums over time.
      writes: (places,), what is added to the stream.
    """

    branch: Array
    gate: Array
    switch: Array
    cells: Array
    time: Array
    writes: Array


class StreamRounding:
    """Goes through the sites of a stream."""

    def __init__(self, stream: Stream, held: Held, facts: tuple[Facts, ...]) -> None:
        """Facts are those of the dtype."""
        self.stream = stream
        self.held = held
        self.facts = facts
        self.affines: Affines = stream.affines
        graph, starts = stream.graph, held.channels.starts
        relus = [i for i in graph.live() if isinstance(graph.nodes[i].op, Relu)]
        # By what a ReLU reads, its channel, of which more is known than of a row.
        self._relus = {
            held.made.row(graph.nodes[i].operands[0], channel): starts[i] + channel
            for i in relus
            for channel in range(graph.nodes[i].width)
        }

    def embedded(self, place: int) -> None:
        """Hold a signal that the embedding makes, by its place, against the graph.

        Raises:
          RoundingError: a bit may differ.
        """
        signal = self.stream.signals[place]
        terms = [(self._column(atom), weight) for atom, weight in signal.terms]
        self.held.row(signal.node, terms, 0.0)

    def site(self, table: SiteTable, sums: Sums, sizes: Array, grids: Array) -> None:
        """Hold a site against the graph.

        Args:
          table: the site.
          sums: which of its sums are exact anyway.
          sizes: (channels,) of the values of its channels.
          grids: (channels,) of the same.

        Raises:
          RoundingError: a bit may differ.
        """
        for index, channel in enumerate(table.site.channels):
            node = int(table.nodes[index])
            if not sums.branch[index]:
                self._check_branch(node, channel)
                if channel.mode == "recall":
                    raise RoundingError(node, "is written as a difference to what a cell holds")
            if channel.head is not None and not sums.cells[index]:
                for row in (*channel.head.keys, *channel.head.queries):
                    self.read(node, row)
            if not sums.time[index]:
                raise RoundingError(node, "is a sum of real numbers over time")
            if channel.gate is not None and not sums.gate[index]:
                self.read(node, channel.gate)
            if channel.switch is not None and not sums.switch[index]:
                self.read(node, channel.switch)
        for place, terms, exact in zip(
            table.site.writes, table.site.writes.values(), sums.writes, strict=True
        ):
            signal = self.stream.signals[place - 1]
            for atom, _ in signal.terms:
                self._check_atom(atom, table, sizes, grids)
            if not exact:
                count = self._together(signal.node, terms, table, sizes, grids)
                if count > 2:
                    text = f"the stream takes in a sum of {count:g} numbers"
                    raise RoundingError(signal.node, text)

    def read(self, node: int, row: AtomRow) -> None:
        """Hold a row that is read off the stream against the graph.

        Raises:
          RoundingError: a bit may differ.
        """
        self._check_taken(node, row)
        terms: list[Term] = []
        bias = 0.0
        # Of two numbers there is one sum, wherever they are added: here, or ahead on the stream.
        for place, weight in self.stream.read(row).items():
            if place == 0:
                bias = weight
                continue
            signal = self.stream.signals[place - 1]
            if abs(weight) != lowest_bit_of(weight) and signal.terms[1:]:
                raise RoundingError(node, "multiplies a sum on the stream that was rounded already")
            terms += [(self._column(atom), weight * factor) for atom, factor in signal.terms]
        self.held.row(node, terms, bias)

    def _check_branch(self, node: int, channel: Channel) -> None:
        self.read(node, channel.row)
        taps = [tap for tap in channel.taps if tap]
        if len(taps) != 1 or abs(taps[0]) != 1 or channel.offset:
            raise RoundingError(node, "adds up what a convolution reads")

    def _check_taken(self, node: int, row: AtomRow) -> None:
        """Rounded numbers must have the signs and the grid that channels and scales go by."""
        taken, mine = self.stream.hull(row), self.affines.hull(row, self.facts)
        signs = (taken.low < 0 or mine.low >= 0) and (taken.high > 0 or mine.high <= 0)
        if not signs or mine.step < taken.step:
            text = "its bounds hold of real numbers, and not where they are rounded"
            raise RoundingError(node, text)

    def _check_atom(self, atom: Atom, table: SiteTable, sizes: Array, grids: Array) -> None:
        """A product of real numbers is one product, and not a sum of several."""
        node, op = atom[0], self.stream.graph.nodes[atom[0]].op
        if self.held.channels.kinds[self._column(atom)] < Kind.REAL or not isinstance(op, Product):
            return
        made = self.stream.terms[atom]
        opened = all(c.gate is None or self._is_flag(c.gate) for c, _ in made)
        branches = (self._is_bit(c.row, table.site.kind.relu_branch) for c, _ in made)
        if opened or all(branches):
            return  # 0 or 1 times each term of a sum is the sum or 0
        terms = [(table.site.index[channel], float(weight)) for channel, weight in made]
        if self._together(node, terms, table, sizes, grids) > 1:
            raise RoundingError(node, "multiplies a sum term by term")

    def _together(
        self,
        node: int,
        terms: Sequence[tuple[int, float]],
        table: SiteTable,
        sizes: Array,
        grids: Array,
    ) -> float:
        """How many channels of a site are other than 0 at one token, at most."""
        bits, shares = self.held.channels.numerics.bits, []
        for index, weight in terms:
            bit = lowest_bit_of(weight)
            channel = table.site.channels[index]
            size, grid = float(sizes[index]) * abs(weight), float(grids[index]) * bit
            kind, gate = table.site.kind, channel.gate
            relu_gate = kind.relu_gate and not channel.linear
            opens = gate is None or self._is_bit(gate, relu_gate)
            if opens and self._is_bit(channel.row, kind.relu_branch) and channel.mode == "pass":
                size, grid = abs(weight), bit
            if abs(weight) != bit and size > 2.0**bits * grid:
                raise RoundingError(node, "the stream takes in a product that is rounded")
            members = self._members(table.site.kind, channel)
            shares.append(Share(size, grid, members))
        return most_together(shares, bits)

    def _members(self, kind: SiteKind, channel: Channel) -> Members:
        """What an inner channel is not 0 with."""
        found: Members = {}
        if channel.mode == "pass" and self._now(channel):
            found |= self._of_row(channel.row, kind.relu_branch)
        elif kind.relu_branch and channel.mode != "swap":
            # What is held or delayed was the positive or the negative part of one signal.
            how = (
                channel.taps, channel.mode, channel.flag, channel.switch, channel.head,
                channel.offset,
            )  # fmt: skip
            own = self._row(channel.row)
            found = {(how, root): m for root, m in side(own, negated(own), "sign").items()}
        if channel.gate is not None:
            found |= self._of_row(channel.gate, kind.relu_gate and not channel.linear)
        return found

    def _is_bit(self, row: AtomRow, positive: bool) -> bool:
        """Whether a row is 0 or 1, or the ReLU of it is, by the promise of a ramp."""
        relu = self._relus.get(self._row(row)) if positive else None
        if relu is None:
            return self._is_flag(row)
        node, channel = self.held.channels.place(relu)
        fact = self.held.channels.known(node)
        flag = fact.low[channel] >= 0 and fact.high[channel] <= 1 and fact.step[channel] >= 1
        return bool(flag and self.held.channels.kinds[relu] <= Kind.DECIDED)

    @staticmethod
    def _now(channel: Channel) -> bool:
        return not any(channel.taps[1:]) and not channel.offset

    def _of_row(self, row: AtomRow, positive: bool) -> Members:
        """What a row belongs to; with `positive` only its positive part counts."""
        own = self._row(row)
        found: Members = {}
        if positive:
            found |= side(own, negated(own), "sign")
            if own in self._relus:
                found |= self.held.channels.members(self._relus[own])
        for node, channel in (*self.affines.holders(row), *self.affines.holders(row.negated())):
            if self.held.channels.facts[node] is not None:
                found |= self.held.channels.members(self._column((node, channel)))
        if self._is_flag(row):
            found |= side(own, complement(own), "gate")
        if not row.bias and row.terms:
            each = [self.held.channels.members(self._column(atom)) for atom in row.atoms]
            found |= {
                root: member
                for root, member in each[0].items()
                if all(members.get(root) == member for members in each)
            }
        return found

    def _is_flag(self, row: AtomRow) -> bool:
        """Whether a row is 0 or 1, and no real number is added up for it."""
        hull = self.affines.hull(row, self.facts)
        kinds = [self.held.channels.kinds[self._column(atom)] for atom in row.atoms]
        flag = hull.low >= 0 and hull.high <= 1 and hull.step >= 1
        return flag and max(kinds, default=0) <= Kind.DECIDED

    def _row(self, row: AtomRow) -> Row:
        terms = sorted((self._column(atom), weight) for atom, weight in row.terms)
        return self.held.made.one_way((tuple(terms), row.bias + 0.0))

    def _column(self, atom: Atom) -> int:
        return self.held.channels.starts[atom[0]] + atom[1]
