"""What the targets with a residual stream share: where each value is made, and which are kept.

Such a network is a stack of blocks that read affine maps of the stream and add to it, so a value
once written stays at hand and carrying is free. What has to be decided is in which block each value
is made. A block takes a value through several stages (a delay, a ReLU, a scan, a gate); after the
last nonlinear one the channels are only scaled and added up, so whole chains of a program fit into
one block as long as each link is linear in the last.

Values are taken channel by channel: an *atom* is one channel of one node that is not affine, and a
`Row` is an affine map of atoms. A `Packer`, one a target, says at which *site* (a block, or half of
one) an atom is made, and from which inner `Channel`s of the site. `plan` then finds out what later
sites read, and gives that a channel of the stream, named after its signal: atoms, or the sums of
them that are read, whichever is fewer. A channel that is no longer read is left as it is.
"""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import lowest_bit, power_of_two_below, rational
from lsrl.ir.ops import (
    Affine,
    Bound,
    Constant,
    Input,
    LinearState,
    Lookup,
    Relu,
)
from lsrl.schedule import Levels, all_made_in, channel_label

# Weights of a sum on the stream that are longer are no whole numbers there.
LONGEST_WEIGHT = 2.0**16
TAPS = 4  # the width of both targets' convolutions
Atom = tuple[int, int]  # node, channel
Sum = tuple[tuple[Atom, float], ...]  # atoms with weights, in order
Mode = Literal["pass", "sum", "hold"]


class Row(NamedTuple):
    """Σ weight * atom + bias."""

    terms: Sum
    bias: float
    exact: bool = True  # whether float64 holds every weight exactly

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """What the row reads."""
        return tuple(atom for atom, _ in self.terms)

    def negated(self) -> "Row":
        """The row times -1."""
        return Row(tuple((atom, -weight) for atom, weight in self.terms), -self.bias, self.exact)


ONE = Row((), 1.0)


@dataclass(frozen=True)
class Channel:
    """An inner channel of a site: gate * scan(branch).

    Attributes:
      row: what the branch reads of the stream.
      taps: weights of the row now, and 1, 2 and 3 tokens ago.
      offset: added after the taps, at every token.
      mode: "pass" what the branch holds; its "sum" over time, s = factor s + x; or "hold" the x of
        the last token at which `flag` was 1.
      factor: of a sum, 0 < factor <= 1.
      flag: of a hold: a {0,1} value as a sum over channels that pass, with weights.
      gate: multiplies the scanned value by relu(gate); None for an open gate.
      owner: the atom whose memory the scan is, and no other's; None where equal scans are one.
    """

    row: Row
    taps: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    offset: float = 0.0
    mode: Mode = "pass"
    factor: float = 1.0
    flag: "Terms" = ()
    gate: Row | None = None
    owner: Atom | None = None


# A sum over channels; its weights stay rationals until they are the network's.
Terms = tuple[tuple[Channel, int | Fraction], ...]


class Made(NamedTuple):
    """Where an atom is made: a sum over inner channels of a site."""

    site: int  # -1 for the embedding
    stage: int  # what has happened to it in its site; later stages of the same site can read it
    terms: Terms


class Hull(NamedTuple):
    """The interval and the grid of a row; the step is 0 where continuous, inf where always 0."""

    low: float
    high: float
    step: float


class Affines:
    """The rows of a graph's channels, looking through everything that is affine."""

    def __init__(self, graph: Graph) -> None:
        """Rows are worked out when first asked for."""
        self.graph = graph
        self._known: dict[Atom, Row] = {}
        self._holders: dict[Row, list[Atom]] = defaultdict(list)

    def row(self, node: int, channel: int) -> Row:
        """A channel as an affine map of atoms."""
        key = (node, channel)
        if key not in self._known:
            row = self._row(node, channel)
            self._known[key] = row
            self._holders[row].append(key)
        return self._known[key]

    def hull(self, row: Row, facts: Sequence[Facts]) -> Hull:
        """The interval and grid of a row: term by term, and what is known of the row as a whole.

        Args:
          row: any row.
          facts: of every node of the graph.
        """
        low, high, grid = _termwise(row, facts)
        for node, channel in self._holders.get(row, ()):
            fact = facts[node]
            low = max(low, float(fact.low[channel]))
            high = min(high, float(fact.high[channel]))
        for node, channel in self._holders.get(row.negated(), ()):
            fact = facts[node]
            low = max(low, -float(fact.high[channel]))
            high = min(high, -float(fact.low[channel]))
        return Hull(low, high, grid)

    def named(self) -> dict[Sum, str]:
        """The user's names for sums of atoms, up to scale and bias."""
        found: dict[Sum, str] = {}
        for row, holders in self._holders.items():
            names = [a for a in holders if self.graph.nodes[a[0]].names]
            if row.terms and names:
                found.setdefault(normal(row.terms)[1], channel_label(self.graph, *names[0]))
        return found

    def _row(self, node: int, channel: int) -> Row:
        this, facts = self.graph.nodes[node], self.graph.facts[node]
        op = this.op
        if isinstance(op, Constant):
            return Row((), op.values[channel])
        if not op.stateful and facts.low[channel] == facts.high[channel]:
            return Row((), float(facts.low[channel]))
        if isinstance(op, Bound) or (isinstance(op, LinearState) and not factor_of(op, channel)):
            return self.row(this.operands[0], channel)
        if not isinstance(op, Affine):
            return Row((((node, channel), 1.0),), 0.0)
        parts = []
        for weight, operand in zip(op.weights, this.operands, strict=True):
            start, stop = weight.csr.indptr[channel : channel + 2]
            columns, values = weight.csr.indices[start:stop], weight.csr.data[start:stop]
            parts += [
                (value, self.row(operand, column))
                for column, value in zip(columns.tolist(), values.tolist(), strict=True)
            ]
        return combined(parts, op.bias[channel])


def combined(parts: Iterable[tuple[float, Row]], bias: float = 0.0) -> Row:
    """Σ weight * row + bias, worked out in rationals; the row knows whether float64 holds it."""
    total: dict[Atom, int | Fraction] = defaultdict(int)
    offset, exact = rational(bias), True
    for weight, row in parts:
        factor = rational(weight)
        exact = exact and row.exact
        offset += factor * rational(row.bias)
        for atom, entry in row.terms:
            total[atom] += factor * rational(entry)
    terms = [(atom, weight) for atom, weight in sorted(total.items()) if weight]
    exact = exact and all(_is_float(weight) for weight in (offset, *(w for _, w in terms)))
    return Row(tuple((atom, float(weight)) for atom, weight in terms), float(offset), exact)


def _is_float(number: int | Fraction) -> bool:
    return Fraction(float(number)) == number


def factor_of(op: LinearState, channel: int) -> float:
    """The factor of a diagonal state."""
    return float(op.transition.csr[channel, channel])


def _termwise(row: Row, facts: Sequence[Facts]) -> Hull:
    low = high = row.bias
    grid = float(lowest_bit(row.bias))
    for (node, channel), weight in row.terms:
        fact = facts[node]
        ends = weight * float(fact.low[channel]), weight * float(fact.high[channel])
        low, high = low + min(ends), high + max(ends)
        step = float(fact.step[channel])
        if step == 0:
            grid = 0.0
        elif not np.isinf(step):
            grid = min(grid, float(lowest_bit(step) * lowest_bit(weight)))
    return Hull(low, high, grid)


class Kind(NamedTuple):
    """What a kind of site does to its channels.

    Attributes:
      name: of the kind.
      relu_branch: whether the branch goes through a ReLU, ahead of the scan.
      relu_gate: whether the gate does.
    """

    name: str
    relu_branch: bool
    relu_gate: bool


class Packer(ABC):
    """Decides at which site each atom is made, as early as can be.

    Attributes:
      graph: in the target's native ops.
      chains: whether a site may read what it makes itself, the stream hold sums of atoms, and
        atoms share scans; without, every atom has its own channel of the stream and its own
        memory, and is read from there and nowhere else.
      affines: its rows.
      made: by atom, what `place` decided.
    """

    # The kinds of sites that follow each other, again and again.
    kinds: ClassVar[tuple[Kind, ...]]

    def __init__(self, graph: Graph, chains: bool = True) -> None:
        """Place every atom that the output depends on."""
        self.graph = graph
        self.chains = chains
        self.affines = Affines(graph)
        self.made: dict[Atom, Made] = {}
        for node, channel in self._needed():
            op = graph.nodes[node].op
            made = Made(-1, 0, ()) if isinstance(op, Input | Lookup) else self.place(node, channel)
            self.made[node, channel] = made if chains else _own(made, (node, channel))

    def _needed(self) -> list[Atom]:
        """Atoms in an order in which each comes after all that it reads."""
        found: set[Atom] = set()
        pending = [atom for row in self.output for atom in row.atoms]
        while pending:
            atom = pending.pop()
            if atom not in found:
                found.add(atom)
                pending.extend(read for row in self.reads(*atom) for read in row.atoms)
        return sorted(found)

    @property
    def output(self) -> list[Row]:
        """The rows of the program's output."""
        width = self.graph.nodes[self.graph.output].width
        return [self.affines.row(self.graph.output, channel) for channel in range(width)]

    def reads(self, node: int, channel: int) -> list[Row]:
        """The rows of an atom's operands."""
        op, operands = self.graph.nodes[node].op, self.graph.nodes[node].operands
        if isinstance(op, Input | Lookup):
            return []
        return [self.affines.row(operand, channel) for operand in operands]

    @abstractmethod
    def place(self, node: int, channel: int) -> Made:
        """Where an atom is made; all that it reads is placed already."""

    # ------------------------------------------------------------ what placing needs

    def hull(self, row: Row) -> Hull:
        """Interval and grid of a row."""
        return self.affines.hull(row, self.graph.facts)

    def last(self, *rows: Row) -> int:
        """The last site at which something that rows read is made."""
        return max((self.made[atom].site for row in rows for atom in row.atoms), default=-1)

    def at_least(self, site: int, kind: Kind) -> int:
        """The first site of a kind from `site` on."""
        while site < 0 or self.kinds[site % len(self.kinds)] is not kind:
            site += 1
        return site

    def express(self, row: Row, site: int, before: int) -> dict[Channel, int | Fraction] | None:
        """A row as a sum over channels of a site; None if it reads what comes too late for that.

        Args:
          row: the row.
          site: the site.
          before: the stage that reads it; atoms of the site must have an earlier one.
        """
        total: dict[Channel, int | Fraction] = defaultdict(int)
        rest: list[tuple[Atom, float]] = []
        for atom, weight in row.terms:
            made = self.made[atom]
            if made.site < site:
                rest.append((atom, weight))
            elif self.chains and made.site == site and made.stage < before:
                for channel, factor in made.terms:
                    total[channel] += rational(weight) * factor
            else:
                return None
        if rest or row.bias:
            for channel, factor in self.passing(Row(tuple(rest), row.bias, row.exact)):
                total[channel] += factor
        return {channel: weight for channel, weight in total.items() if weight}

    @abstractmethod
    def passing(self, row: Row) -> Terms:
        """Channels that add up to a row of what earlier sites made."""

    def scanned(
        self, rows: Sequence[Row], kind: Kind, before: int
    ) -> tuple[int, list[dict[Channel, int | Fraction]]]:
        """The first site at which rows can be read by a stage, and the rows there."""
        site = self.at_least(self.last(*rows), kind)
        while True:
            found = [self.express(row, site, before) for row in rows]
            terms = [each for each in found if each is not None]
            if len(terms) == len(rows):
                return site, terms
            site = self.at_least(site + 1, kind)

    def held(self, value: Row, when: Row, kind: Kind, stage: int) -> Made:
        """A value as it was at the last token at which a {0,1} row was 1."""
        site, (terms, flags) = self.scanned([value, when], kind, stage)
        flag = terms_of(flags)
        made = ((replace(channel, mode="hold", flag=flag), w) for channel, w in terms.items())
        return Made(site, stage, tuple(made))

    def gated(self, value: Row, gate: Row, kind: Kind, stage: int) -> Made:
        """A value times a gate that is read off what earlier sites made."""
        site, (terms,) = self.scanned([value], kind, stage)
        if site <= self.last(gate):
            site = self.at_least(self.last(gate) + 1, kind)
            terms = self.express(value, site, stage) or {}
        made = (
            (replace(channel, gate=part), weight * sign)
            for part, sign in self.signed(gate)
            for channel, weight in terms.items()
        )
        return Made(site, stage, tuple(made))

    def signed(self, row: Row) -> list[tuple[Row, int]]:
        """The row as a difference of ReLUs: the parts that its interval leaves."""
        hull = self.hull(row)
        parts = [(row, 1)] if hull.high > 0 else []
        return [*parts, (row.negated(), -1)] if hull.low < 0 else parts


def _own(made: Made, atom: Atom) -> Made:
    """The same with scans that are the atom's alone, so that setting it changes no equal one."""
    return made._replace(
        terms=tuple(
            (channel if channel.mode == "pass" else replace(channel, owner=atom), weight)
            for channel, weight in made.terms
        )
    )


def terms_of(total: dict[Channel, int | Fraction]) -> Terms:
    """The terms of a sum that do not vanish."""
    return tuple((channel, weight) for channel, weight in total.items() if weight)


def delayed_by(channel: Channel, steps: int) -> Channel | None:
    """The channel with its taps moved back in time; None where they don't reach that far."""
    if any(channel.taps[TAPS - steps :]) or channel.offset:
        return None
    return replace(channel, taps=((0.0,) * steps + channel.taps)[:TAPS])


# ---------------------------------------------------------------- the stream


class Signal(NamedTuple):
    """A value of the stream: a sum of atoms made at one site."""

    site: int
    terms: Sum


@dataclass(frozen=True, eq=False)
class Site:
    """A block, or half of one.

    Attributes:
      kind: which of the target's.
      channels: its inner channels; those that pass, and so can be flags, come first.
      writes: by position in the stream, what is added to it: channels with weights.
      rounded: the positions for which float64 does not hold these weights exactly.
    """

    kind: "Kind"
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
      snaps: channels that are 0 or 1 by the promise of a ramp, whatever the rounding.
      levels: empty, since the layout follows from the graph.
    """

    graph: Graph
    affines: Affines
    signals: tuple[Signal, ...]
    sites: tuple[Site, ...]
    output: tuple[Row, ...]
    depth: int
    names: tuple[str, ...]
    made: dict[Atom, int]
    snaps: frozenset[Channel]
    levels: Levels

    def hull(self, row: Row, facts: Sequence[Facts] | None = None) -> Hull:
        """The interval and grid of a row; over as many tokens as the graph's own facts."""
        if facts is not None and facts is not self.graph.facts:
            return self.affines.hull(row, facts)
        # Scales are asked for again and again, and come of these.
        if row not in self._hulls:
            self._hulls[row] = self.affines.hull(row, self.graph.facts)
        return self._hulls[row]

    @cached_property
    def _hulls(self) -> dict[Row, Hull]:
        return {}

    @cached_property
    def _place(self) -> dict[Sum, int]:
        return {signal.terms: place for place, signal in enumerate(self.signals, start=1)}

    @cached_property
    def _home(self) -> dict[Atom, int]:
        return {atom: signal.site for signal in self.signals for atom, _ in signal.terms}

    def read(self, row: Row) -> dict[int, float]:
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
    signals: list[Signal] = []
    for site in sorted({packer.made[atom].site for atom in kept}):
        atoms = [atom for atom in kept if packer.made[atom].site == site]
        basis = (
            _basis(atoms, _read_rows(used, output))
            if packer.chains
            else [((atom, 1.0),) for atom in atoms]
        )
        signals.extend(Signal(site, terms) for terms in basis)
    depth = 1 + max((made.site for made in packer.made.values()), default=-1)
    depth = max(-(-depth // len(packer.kinds)), 1)
    sites = tuple(
        _site(packer, number, signals, used) for number in range(depth * len(packer.kinds))
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
        _snapping(packer),
        {},
    )


def _snapping(packer: Packer) -> frozenset[Channel]:
    """What makes the outer ReLU of a comparison of continuous values."""
    graph = packer.graph

    def snaps(node: int) -> bool:
        this = graph.nodes[node]
        boolean = isinstance(this.op, Relu) and graph.facts[node].boolean
        return boolean and not graph.facts[this.operands[0]].gridded

    return frozenset(
        channel
        for (node, _), made in packer.made.items()
        if snaps(node)
        for channel, _ in made.terms
    )


def _demanded(packer: Packer, output: Sequence[Row]) -> tuple[list[Atom], dict[int, list[Channel]]]:
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
                    pending.extend(read for row in _rows_of(each) for read in row.atoms)
    return sorted(kept), {site: list(channels) for site, channels in used.items()}


def _rows_of(channel: Channel) -> tuple[Row, ...]:
    return (channel.row,) if channel.gate is None else (channel.row, channel.gate)


def _read_rows(used: dict[int, list[Channel]], output: Sequence[Row]) -> Iterator[Row]:
    yield from output
    for channels in used.values():
        for channel in channels:
            yield from _rows_of(channel)


def _basis(atoms: Sequence[Atom], rows: Iterable[Row]) -> list[Sum]:
    """The atoms of a site, or in each group of atoms that rows mix, the sums if they are fewer."""
    mine = set(atoms)
    sums: dict[Sum, None] = {}
    for row in rows:
        part = tuple((atom, weight) for atom, weight in row.terms if atom in mine)
        if part:
            sums[normal(part)[1]] = None
    group = {atom: atom for atom in atoms}

    def root(atom: Atom) -> Atom:
        while group[atom] != atom:
            group[atom] = group[group[atom]]
            atom = group[atom]
        return atom

    for terms in sums:
        for atom, _ in terms[1:]:
            group[root(atom)] = root(terms[0][0])
    members: dict[Atom, list[Atom]] = defaultdict(list)
    for atom in atoms:
        members[root(atom)].append(atom)
    by_group: dict[Atom, list[Sum]] = defaultdict(list)
    for terms in sums:
        by_group[root(terms[0][0])].append(terms)
    found = []
    for leader, inside in members.items():
        if len(by_group[leader]) < len(inside):
            found.extend(by_group[leader])
        else:
            found.extend([((atom, 1.0),) for atom in inside])
    return found


def normal(terms: Sum) -> tuple[float, Sum]:
    """A sum as a number times a sum of its own, so that sums in proportion are the same.

    The number is the greatest common divisor of the weights, and nothing is rounded. Long weights
    have one that is far too small: sums would be larger than the stream has room for. Theirs is a
    power of two, about the largest of them.
    """
    weights = [weight for _, weight in terms]
    grid = float(lowest_bit(np.array(weights)).min())
    divisor = grid * math.gcd(*(int(weight / grid) for weight in weights))
    largest = max(map(abs, weights))
    if largest > LONGEST_WEIGHT * divisor:
        divisor = power_of_two_below(largest)
    unit = math.copysign(divisor, weights[0])
    return unit, tuple((atom, weight / unit) for atom, weight in terms)


def _site(
    packer: Packer, number: int, signals: Sequence[Signal], used: dict[int, list[Channel]]
) -> Site:
    channels = sorted(used.get(number, []), key=lambda channel: channel.mode != "pass")
    place = {channel: index for index, channel in enumerate(channels)}
    writes: dict[int, tuple[tuple[int, float], ...]] = {}
    rounded = set()
    for position, signal in enumerate(signals, start=1):
        if signal.site != number:
            continue
        total: dict[int, int | Fraction] = defaultdict(int)
        for atom, weight in signal.terms:
            for channel, factor in packer.made[atom].terms:
                total[place[channel]] += rational(weight) * factor
        writes[position] = tuple((index, float(w)) for index, w in total.items() if w)
        if not all(map(_is_float, total.values())):
            rounded.add(position)
    kind = packer.kinds[number % len(packer.kinds)]
    return Site(kind, tuple(channels), writes, frozenset(rounded))


def _name(graph: Graph, signal: Signal) -> str:
    """The name of the signal, or the sum of the names that it is made of."""
    parts = [
        ("" if weight == 1 else "-" if weight == -1 else f"{weight:g} ")
        + channel_label(graph, node, channel)
        for (node, channel), weight in signal.terms
    ]
    shown = " + ".join(parts[:3]).replace("+ -", "- ")
    return shown if len(parts) <= 3 else f"{shown} + … ({len(parts)} terms)"
