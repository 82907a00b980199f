"""A stream's rows and channels as arrays, so that bounds over any number of tokens are array work.

A certificate looks for the first token at which a condition fails, and so goes over all channels
again and again. What doesn't depend on the number of tokens is here. Sums over entries are taken in
the order of the terms, as `sum` does, so that they are the same bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lsrl.backends.residual.packer import TAPS, Channel
from lsrl.backends.residual.rows import ONE, Atom, AtomRow
from lsrl.backends.residual.stream import Site, Stream
from lsrl.ir.bounds import Facts
from lsrl.ir.groups import Members, greatest_total
from lsrl.ir.numbers import Array, lowest_bit


class Scales(NamedTuple):
    """By what a network multiplies what is in a channel.

    Attributes:
      branch: the row that the branch reads, with its taps.
      scanned: the branch's value behind its scan.
      gate: the row that the gate reads, or what stands for an open gate.
      switch: the row of the stream that switches a hold.
    """

    branch: float
    scanned: float
    gate: float
    switch: float


class InnerNorm(NamedTuple):
    """A norm within a site; its own constant makes it divide by one number, whatever it reads.

    Attributes:
      name: what it is, for messages.
      channels: the places of those of the site's channels that it reads beside the constant.
      factors: by what it reads the value of each is multiplied, as it reads it.
      width: of the norm, the constant and what is always 0 included.
      size: by what it divides: its constant is size * sqrt(width).
      gated: whether values come to it behind their gates; or else behind their scans.
    """

    name: str
    channels: tuple[int, ...]
    factors: tuple[float, ...]
    width: int
    size: float
    gated: bool


class Hulls(NamedTuple):
    """The intervals and the grids of rows, as `Hull` has them of one.

    Attributes:
      low: (rows,).
      high: (rows,).
      step: (rows,).
    """

    low: Array
    high: Array
    step: Array


class ScaleTable(NamedTuple):
    """The `Scales` of channels, each (channels,)."""

    branch: Array
    scanned: Array
    gate: Array
    switch: Array


class Entries:
    """The terms of several sums, one after another, as a matrix has them."""

    def __init__(self, sums: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Each sum as numbers of what it adds, with weights."""
        self.counts = np.array([len(terms) for terms in sums], dtype=np.int64)
        self.owner = np.repeat(np.arange(len(sums)), self.counts)
        flat = [term for terms in sums for term in terms]
        self.index = np.array([index for index, _ in flat], dtype=np.int64)
        self.weight = np.array([weight for _, weight in flat], dtype=np.float64)
        self.size = np.abs(self.weight)

    @cached_property
    def bits(self) -> Array:
        """(entries,) the largest power of two that divides each weight."""
        return lowest_bit(self.weight)

    @cached_property
    def roundings(self) -> Array:
        """(sums,) how often a sum of products is rounded."""
        return roundings(self.counts, self.any(self.size != self.bits))

    def any(self, entries: Array) -> Array:
        """(sums,) whether something holds of an entry."""
        return np.bincount(self.owner[entries], minlength=len(self.counts)) > 0

    def total(self, values: Array, start: Array | None = None) -> Array:
        """(sums,) the values of the entries added up in order."""
        owner = self.owner
        if start is not None:
            owner = np.concatenate([np.arange(len(start)), owner])
            values = np.concatenate([start, values])
        return np.bincount(owner, values, len(self.counts))

    def least(self, values: Array, start: Array | float = np.inf) -> Array:
        """(sums,) the least value of an entry."""
        return self._reduced(np.minimum, values, start)

    def most(self, values: Array) -> Array:
        """(sums,) the greatest value of an entry, or 0."""
        return self._reduced(np.maximum, values, 0.0)

    def greatest(self, shares: Array, some: Array, members: Callable[[int], Members]) -> Array:
        """(sums,) the greatest totals of shares, of which those of one root exclude each other.

        Args:
          shares: (entries,).
          some: (entries,) bool, which belong to something.
          members: what an entry belongs to; see `lsrl.ir.groups`.
        """
        total = self.total(shares)
        ends = np.cumsum(self.counts)
        for number in np.flatnonzero(self.any(some) & (self.counts > 1)).tolist():
            entries = range(ends[number] - self.counts[number], ends[number])
            total[number] = greatest_total([(float(shares[e]), members(e)) for e in entries])
        return total

    def _reduced(self, pick: np.ufunc, values: Array, start: Array | float) -> Array:
        found = np.broadcast_to(np.asarray(start, dtype=np.float64), self.counts.shape).copy()
        filled = np.flatnonzero(self.counts)
        if len(filled):
            starts = (np.cumsum(self.counts) - self.counts)[filled]
            found[filled] = pick(found[filled], pick.reduceat(values, starts))
        return found


def roundings(counts: Array, odd: Array) -> Array:
    """How often sums of that many products are rounded; a power of two times a term never is."""
    return np.maximum(counts - 1, 0) + 2 * odd


class Bounds:
    """The facts of all channels of all nodes side by side, over some number of tokens."""

    def __init__(self, facts: Sequence[Facts]) -> None:
        """Facts of every node."""
        self.facts = facts
        self.low = np.concatenate([fact.low for fact in facts])
        self.high = np.concatenate([fact.high for fact in facts])
        self.magnitude = np.concatenate([fact.magnitude for fact in facts])
        step = np.concatenate([fact.step for fact in facts])
        # Grids of 0 are those of what is continuous, and zeros lie on every grid.
        self.bits = np.where((step == 0) | np.isinf(step), step, lowest_bit(step))
        self.belongs = np.concatenate([_belongs(fact) for fact in facts])

    def members(self, node: int, channel: int) -> Members:
        """What an atom belongs to; see `lsrl.ir.groups`."""
        return {root: int(m[channel]) for root, m in self.facts[node].groups if m[channel] >= 0}


def _belongs(fact: Facts) -> Array:
    found = np.zeros(fact.width, dtype=bool)
    for _, members in fact.groups:
        found |= members >= 0
    return found


class RowTable:
    """Rows as arrays.

    Attributes:
      rows: the rows.
      atoms: their terms, by the number of the atom's channel among those of all nodes.
      flat: the atoms of all terms.
      read: the same as weights on the stream; position 0 is its constant.
    """

    def __init__(self, stream: Stream, rows: Sequence[AtomRow], placed: bool = True) -> None:
        """Take rows; those that are not `placed` are not read off the stream."""
        starts = stream.starts
        self.rows = rows
        self.bias = np.array([row.bias for row in rows], dtype=np.float64)
        self.bias_bits = lowest_bit(self.bias)
        self.exact = np.array([row.exact for row in rows], dtype=bool)
        self.atoms = Entries(
            [[(starts[node] + channel, w) for (node, channel), w in row.terms] for row in rows]
        )
        self.read = Entries([list(stream.read(row).items()) if placed else [] for row in rows])
        self.flat = [atom for row in rows for atom in row.atoms]
        # Channels of the graph that are these rows, and those that are minus these rows.
        self._same = _entries(starts, [stream.affines.holders(row) for row in rows])
        self._minus = _entries(starts, [stream.affines.holders(row.negated()) for row in rows])

    def hull(self, bounds: Bounds) -> Hulls:
        """Interval and grid of each row; see `Affines.hull`."""
        atoms = self.atoms
        ends = atoms.weight * bounds.low[atoms.index], atoms.weight * bounds.high[atoms.index]
        low = atoms.total(np.minimum(*ends), self.bias)
        high = atoms.total(np.maximum(*ends), self.bias)
        (rows, same), (negated, minus) = self._same, self._minus
        np.maximum.at(low, rows, bounds.low[same])
        np.minimum.at(high, rows, bounds.high[same])
        np.maximum.at(low, negated, -bounds.high[minus])
        np.minimum.at(high, negated, -bounds.low[minus])
        step = atoms.least(bounds.bits[atoms.index] * atoms.bits, self.bias_bits)
        return Hulls(low, high, step)


def _entries(starts: Sequence[int], holders: Sequence[Sequence[Atom]]) -> tuple[Array, Array]:
    """Rows and channels of all nodes, one of each a pair."""
    pairs = [(n, starts[node] + channel) for n, own in enumerate(holders) for node, channel in own]
    rows, channels = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return rows, channels


class SiteTable:
    """A site's channels as arrays.

    Attributes:
      site: the site.
      branch: the rows that the channels' branches read.
      gate: those that their gates do; 1 where a gate is open.
      switch: those that switch holds; 1 where nothing of the stream does.
      norms: the norms within the site.
      cells: the rows that write and read the heads of several cells; `of_head` says which head
        each is of.
      headed: (channels,) the head of each, or -1.
      alternating: which are sums over time of a negative factor.
      blinking: which of these are of a constant, and so never more than that.
      relu_gate: (channels,) whether a gate goes through a ReLU; `linear`, whether another one of
        its kind would.
      told: the places of channels with such gates that are a product or 0, and what else of the
        graph is that product.
      taps: (channels, TAPS).
      writes: what is added to the stream, by channels; `places` says where, `composed` whether
        float64 holds its weights exactly.
      nodes: what each channel helps to make, for messages.
    """

    def __init__(
        self,
        stream: Stream,
        site: Site,
        scales: Callable[[Site, Channel], Scales],
        norms: Sequence[InnerNorm],
    ) -> None:
        """Take a site, by what its channels are scaled, and its own norms."""
        channels = site.channels
        self.site = site
        self.norms = tuple(norms)
        self.branch = RowTable(stream, [channel.row for channel in channels])
        self.gate = RowTable(stream, [channel.gate or ONE for channel in channels])
        self.switch = RowTable(stream, [channel.switch or ONE for channel in channels])
        self.switched = np.array([channel.switch is not None for channel in channels], dtype=bool)
        kind = site.kind
        self.relu_gate = np.array([kind.relu_gate and not c.linear for c in channels], dtype=bool)
        self.linear = np.array([channel.linear for channel in channels], dtype=bool)
        self.told = _told(stream, site) if self.linear.any() else ()
        self.gated = np.array([channel.gate is not None for channel in channels], dtype=bool)
        self.taps = np.array([c.taps for c in channels], dtype=np.float64).reshape(-1, TAPS)
        self.offset = np.array([channel.offset for channel in channels], dtype=np.float64)
        self.snaps = np.array([channel in stream.snaps for channel in channels], dtype=bool)
        self.summed = np.array([channel.mode == "sum" for channel in channels], dtype=bool)
        self.factor = np.array([channel.factor for channel in channels], dtype=np.float64)
        scaled = [scales(site, channel) for channel in channels]
        self.scales = ScaleTable(
            *np.array(scaled, dtype=np.float64).reshape(-1, len(Scales._fields)).T
        )
        heads = list(dict.fromkeys(c.head for c in channels if c.head is not None))
        self.cells = RowTable(
            stream, [row for head in heads for row in (*head.keys, *head.queries)]
        )
        self.of_head = np.repeat(np.arange(len(heads)), [2 * len(head.keys) for head in heads])
        self.headed = np.array(
            [-1 if c.head is None else heads.index(c.head) for c in channels], dtype=np.int64
        )
        # What an item reads at the start, less what it reads now, each of them at most the points.
        self.swapped = np.array([channel.mode == "swap" for channel in channels], dtype=bool)
        self.recalled = np.array([channel.mode == "recall" for channel in channels], dtype=bool)
        self.points = np.array(
            [0.0 if c.head is None else float(len(c.head.keys)) for c in channels], dtype=np.float64
        )
        self.alternating = self.summed & (self.factor < 0)
        # A constant comes and goes.
        self.blinking = self.alternating & np.array([not c.row.terms for c in channels], dtype=bool)
        holds = [(n, channel) for n, channel in enumerate(channels) if channel.mode == "hold"]
        self.held = np.array([number for number, _ in holds], dtype=np.int64)
        self.flags = Entries(
            [[(site.index[flag], float(w)) for flag, w in channel.flag] for _, channel in holds]
        )
        self.places = np.array(list(site.writes), dtype=np.int64)
        self.writes = Entries(list(site.writes.values()))
        self.composed = np.array([place not in site.rounded for place in site.writes], dtype=bool)
        self.nodes = np.full(len(channels), stream.graph.output)
        for place, terms in reversed(site.writes.items()):
            node = stream.signals[place - 1].node
            self.nodes[[index for index, _ in terms]] = node

    def weights(self) -> Iterator[Array]:
        """The network's, as large as they are there."""
        scales, writes = self.scales, self.writes
        yield writes.weight / scales.scanned[writes.index] / scales.gate[writes.index]
        for rows, by in (
            (self.branch, scales.branch),
            (self.gate, scales.gate),
            (self.switch, np.where(self.switched, scales.switch, 1.0)),
            (self.cells, np.ones(len(self.of_head))),
        ):
            yield rows.read.weight * by[rows.read.owner]

    @cached_property
    def lag(self) -> Array:
        """(channels,) of the first tap."""
        return np.argmax(self.taps != 0, axis=1)

    @cached_property
    def offset_bits(self) -> Array:
        """(channels,) the largest power of two that divides the offset."""
        return lowest_bit(self.offset)

    @cached_property
    def tap_bits(self) -> Array:
        """(channels,) the largest power of two that divides all taps."""
        return lowest_bit(self.taps).min(axis=1, initial=np.inf)

    @cached_property
    def sums(self) -> Array:
        """(channels,) bool, whether a branch adds anything up."""
        return (self.offset != 0) | (np.count_nonzero(self.taps, axis=1) > 1)

    @cached_property
    def roundings(self) -> Array:
        """(channels,) how often the sum of taps and offset is rounded."""
        terms = np.column_stack([self.taps, self.offset])
        odd = np.abs(terms) != lowest_bit(terms)
        odd[:, :TAPS] &= self.taps != 0
        return roundings(1 + np.count_nonzero(self.taps, axis=1), odd.any(axis=1))

    @cached_property
    def alone(self) -> Array:
        """(channels,) bool, whether a value is what its branch reads at this token."""
        passing = np.array([channel.mode == "pass" for channel in self.site.channels], dtype=bool)
        return passing & ~self.taps[:, 1:].any(axis=1) & (self.offset == 0)


def _told(stream: Stream, site: Site) -> tuple[tuple[int, Sequence[Atom]], ...]:
    number, found = stream.sites.index(site), []
    for atom, terms in stream.terms.items():
        rows = {channel.row for channel, _ in terms}
        whole = rows <= {terms[0][0].row, terms[0][0].row.negated()} if terms else False
        if stream.made[atom] == number and whole and all(abs(w) == 1 for _, w in terms):
            holders = stream.affines.holders(AtomRow(((atom, 1.0),), 0.0))
            found += [(site.index[channel], holders) for channel, _ in terms if channel.linear]
    return tuple(found)


class StreamTables(NamedTuple):
    """A stream as arrays.

    Attributes:
      signals: the sums that it keeps.
      nodes: of each signal, for messages.
      embedded: how many of the signals the embedding makes; they come first.
      sites: first to last.
      output: the rows of the output.
    """

    signals: RowTable
    nodes: Array
    embedded: int
    sites: tuple[SiteTable, ...]
    output: RowTable


def tables(
    stream: Stream,
    scales: Callable[[Site, Channel], Scales],
    norms: Callable[[Site], Sequence[InnerNorm]],
) -> StreamTables:
    """A stream as arrays."""
    kept = [AtomRow(signal.terms, 0.0) for signal in stream.signals]
    return StreamTables(
        RowTable(stream, kept, placed=False),
        np.array([signal.node for signal in stream.signals], dtype=np.int64),
        sum(signal.site < 0 for signal in stream.signals),
        tuple(SiteTable(stream, site, scales, norms(site)) for site in stream.sites),
        RowTable(stream, stream.output),
    )
