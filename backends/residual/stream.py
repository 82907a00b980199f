"""What the targets with a residual stream share: which values the stream keeps, and where.

Such a network is a stack of blocks that read affine maps of the stream and add to it, so a value
once written stays at hand and carrying is free. What has to be decided is in which block each value
is made, which a `Packer` does. `lay_out` then finds out what later sites read, and gives that a
channel of the stream, named after its signal: atoms, or the sums of them that are read, whichever
is fewer. A channel that is no longer read is left as it is.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from lsrl.backends.residual.packer import Channel, Packer, SiteKind, Terms
from lsrl.backends.residual.rows import Affines, Atom, AtomRow, Hull, Sum, is_float, normal
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.labels import bracketed
from lsrl.ir.numbers import rational
from lsrl.ir.ops import Relu
from lsrl.levels import Levels
from lsrl.schedule import all_made_in, channel_label


class StreamSignal(NamedTuple):
    """A value of the stream: a sum of atoms made at one site."""

    site: int
    terms: Sum

    @property
    def node(self) -> int:
        """One that makes it, for messages."""
        return self.terms[0][0][0]


@dataclass(frozen=True, eq=False)
class Site:
    """A block, or half of one.

    Attributes:
      kind: which of the target's.
      channels: its inner channels; those that pass, and so can be flags, come first.
      writes: by position in the stream, what is added to it: channels with weights.
      rounded: the positions for which float64 does not hold these weights exactly.
    """

    kind: SiteKind
    channels: tuple[Channel, ...]
    writes: dict[int, tuple[tuple[int, float], ...]]
    rounded: frozenset[int] = frozenset()

    @property
    def width(self) -> int:
        """Number of inner channels."""
        return len(self.channels)

    @cached_property
    def index(self) -> dict[Channel, int]:
        """The place of each channel."""
        return {channel: place for place, channel in enumerate(self.channels)}


class Block(NamedTuple):
    """One layer of the network."""

    sites: tuple[Site, ...]

    @property
    def width(self) -> int:
        """Inner channels of the widest site."""
        return max(site.width for site in self.sites)


@dataclass(frozen=True, eq=False)
class Stream:
    """A program laid out on a residual stream.

    Attributes:
      graph: the legalised graph.
      affines: its rows.
      signals: what the stream holds, by position from 1; position 0 is the constant one.
      sites: first to last.
      output: the rows of the output.
      depth: blocks.
      names: of the signals.
      made: by atom, the site that makes it; -1 for the embedding.
      terms: by atom, the inner channels of that site that it is a sum of.
      snaps: channels that are 0 or 1 by the promise of a ramp, whatever the rounding.
      levels: empty, since the layout follows from the graph.
    """

    graph: Graph
    affines: Affines
    signals: tuple[StreamSignal, ...]
    sites: tuple[Site, ...]
    output: tuple[AtomRow, ...]
    depth: int
    names: tuple[str, ...]
    made: dict[Atom, int]
    terms: dict[Atom, Terms]
    snaps: frozenset[Channel]
    levels: Levels

    def hull(self, row: AtomRow, facts: Sequence[Facts] | None = None) -> Hull:
        """The interval and grid of a row; over as many tokens as the graph's own facts."""
        if facts is not None and facts is not self.graph.facts:
            return self.affines.hull(row, facts)
        # Scales are asked for again and again, and come of these.
        if row not in self._hulls:
            self._hulls[row] = self.affines.hull(row, self.graph.facts)
        return self._hulls[row]

    @cached_property
    def _hulls(self) -> dict[AtomRow, Hull]:
        return {}

    @cached_property
    def starts(self) -> list[int]:
        """The number of each node's first channel among those of all nodes."""
        widths = [node.width for node in self.graph.nodes]
        return [0, *itertools.accumulate(widths)][:-1]

    @cached_property
    def _place(self) -> dict[Sum, int]:
        return {signal.terms: place for place, signal in enumerate(self.signals, start=1)}

    @cached_property
    def _home(self) -> dict[Atom, int]:
        return {atom: signal.site for signal in self.signals for atom, _ in signal.terms}

    def read(self, row: AtomRow) -> dict[int, float]:
        """A row as weights on the stream, by position; the bias is the weight of position 0."""
        weights: dict[int, float] = {0: row.bias} if row.bias else {}
        by_site: dict[int, list[tuple[Atom, float]]] = defaultdict(list)
        for atom, weight in row.terms:
            by_site[self._home[atom]].append((atom, weight))
        for terms in by_site.values():
            unit, whole = normal(tuple(terms))
            parts = [(unit, whole)] if whole in self._place else [
                (weight, ((atom, 1.0),)) for atom, weight in terms
            ]  # fmt: skip
            for weight, part in parts:
                weights[self._place[part]] = weight
        return weights

    @property
    def critical_path(self) -> int:
        """Blocks that no layout of these stages can do without: every atom is made at once."""
        return self.depth

    @property
    def width(self) -> int:
        """Channels of the stream in use, the constant one included."""
        return len(self.signals) + 1

    @cached_property
    def layers(self) -> tuple[Block, ...]:
        """The sites, block by block."""
        each = len(self.sites) // self.depth
        return tuple(
            Block(self.sites[start : start + each]) for start in range(0, len(self.sites), each)
        )

    def labels(self) -> tuple[tuple[str, ...], ...]:
        """For each block, the names of what the stream holds behind it; "" where still empty."""
        each = len(self.sites) // self.depth
        held = list(zip(self.names, (signal.site for signal in self.signals), strict=True))
        return tuple(
            ("one", *(name if site < (block + 1) * each else "" for name, site in held))
            for block in range(self.depth)
        )

    def contents(self) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]:
        """For each block its sites, and the signals that they add to the stream."""
        return tuple(
            tuple(
                (site.kind.name, tuple(self.names[place - 1] for place in site.writes))
                for site in block.sites
            )
            for block in self.layers
        )

    def made_in(self) -> dict[int, int]:
        """The block that makes each node; 0 for what the embedding makes."""
        each = len(self.sites) // self.depth
        return all_made_in(
            self.graph, {node: site // each + 1 for (node, _), site in self.made.items()}
        )


def lay_out(packer: Packer) -> Stream:
    """Give everything that later sites or the output read a channel of the stream."""
    output = tuple(packer.output)
    kept, used = _demanded(packer, output)
    rows = [row for channels in used.values() for channel in channels for row in channel.rows]
    atoms: dict[int, list[Atom]] = defaultdict(list)
    for atom in kept:
        atoms[packer.made[atom].site].append(atom)
    sums = _sums(packer, [*output, *rows]) if packer.chains else {}
    signals: list[StreamSignal] = []
    for site, own in sorted(atoms.items()):
        signals.extend(StreamSignal(site, terms) for terms in _basis(own, sums.get(site, ())))
    depth = 1 + max((made.site for made in packer.made.values()), default=-1)
    depth = max(-(-depth // len(packer.kinds)), 1)
    held: dict[int, dict[int, StreamSignal]] = defaultdict(dict)
    for position, signal in enumerate(signals, start=1):
        held[signal.site][position] = signal
    sites = tuple(
        _site(packer, number, held[number], used.get(number, ()))
        for number in range(depth * len(packer.kinds))
    )
    known = packer.affines.named()
    names = tuple(
        known.get(normal(signal.terms)[1]) or _name(packer.graph, signal) for signal in signals
    )
    return Stream(
        packer.graph,
        packer.affines,
        tuple(signals),
        sites,
        output,
        depth,
        names,
        {atom: made.site for atom, made in packer.made.items()},
        {atom: made.terms for atom, made in packer.made.items()},
        _snapping(packer),
        {},
    )


def _snapping(packer: Packer) -> frozenset[Channel]:
    """What makes the outer ReLU of a comparison of continuous values."""
    graph = packer.graph

    def snaps(node: int) -> bool:
        this = graph.nodes[node]
        boolean = isinstance(this.op, Relu) and graph.facts[node].boolean
        return boolean and not graph.facts[this.operands[0]].counted

    return frozenset(
        channel
        for (node, _), made in packer.made.items()
        if snaps(node)
        for channel, _ in made.terms
    )


def _demanded(
    packer: Packer, output: Sequence[AtomRow]
) -> tuple[list[Atom], dict[int, list[Channel]]]:
    """Atoms that the stream must hold, and the channels that make them, by site."""
    kept: dict[Atom, None] = {}
    used: dict[int, dict[Channel, None]] = defaultdict(dict)
    pending = [atom for row in output for atom in row.atoms]
    while pending:
        atom = pending.pop()
        if atom in kept:
            continue
        kept[atom] = None
        made = packer.made[atom]
        for channel, _ in made.terms:
            for each in (*(flag for flag, _ in channel.flag), channel):
                if each not in used[made.site]:
                    used[made.site][each] = None
                    pending.extend(read for row in each.rows for read in row.atoms)
    return sorted(kept), {site: list(channels) for site, channels in used.items()}


def _sums(packer: Packer, rows: Iterable[AtomRow]) -> dict[int, dict[Sum, None]]:
    """By site, the sums of its atoms that rows read."""
    found: dict[int, dict[Sum, None]] = defaultdict(dict)
    for row in rows:
        parts: dict[int, list[tuple[Atom, float]]] = defaultdict(list)
        for atom, weight in row.terms:
            parts[packer.made[atom].site].append((atom, weight))
        for site, part in parts.items():
            found[site][normal(tuple(part))[1]] = None
    return found


def _basis(atoms: Sequence[Atom], sums: Iterable[Sum]) -> list[Sum]:
    """The atoms of a site, or in each group of atoms that rows mix, the sums if they are fewer."""
    group = {atom: atom for atom in atoms}

    def root(atom: Atom) -> Atom:
        while group[atom] != atom:
            group[atom] = group[group[atom]]
            atom = group[atom]
        return atom

    for terms in sums:
        for atom, _ in terms[1:]:
            group[root(atom)] = root(terms[0][0])
    members: dict[Atom, list[Sum]] = defaultdict(list)
    for atom in atoms:
        members[root(atom)].append(((atom, 1.0),))
    mixed: dict[Atom, list[Sum]] = defaultdict(list)
    for terms in sums:
        mixed[root(terms[0][0])].append(terms)
    # Of an inspectable network no sums are asked for.
    fewer = (min(single, mixed.get(leader, single), key=len) for leader, single in members.items())
    return list(itertools.chain.from_iterable(fewer))


def _site(
    packer: Packer, number: int, signals: Mapping[int, StreamSignal], used: Sequence[Channel]
) -> Site:
    """A site that makes these signals, by position in the stream, of these channels."""
    channels = sorted(used, key=lambda channel: channel.mode != "pass")
    place = {channel: index for index, channel in enumerate(channels)}
    writes: dict[int, tuple[tuple[int, float], ...]] = {}
    rounded = set()
    for position, signal in signals.items():
        total: dict[int, int | Fraction] = defaultdict(int)
        for atom, weight in signal.terms:
            for channel, factor in packer.made[atom].terms:
                total[place[channel]] += rational(weight) * factor
        writes[position] = tuple((index, float(w)) for index, w in total.items() if w)
        if not all(map(is_float, total.values())):
            rounded.add(position)
    kind = packer.kinds[number % len(packer.kinds)]
    return Site(kind, tuple(channels), writes, frozenset(rounded))


def _name(graph: Graph, signal: StreamSignal) -> str:
    """The name of the signal, or the sum of the names that it is made of."""
    parts = [
        ("" if weight == 1 else "-" if weight == -1 else f"{weight:g} ")
        + bracketed(channel_label(graph, node, channel))
        for (node, channel), weight in signal.terms
    ]
    shown = " + ".join(parts[:3]).replace("+ -", "- ")
    return shown if len(parts) <= 3 else f"{shown} + … ({len(parts)} terms)"
