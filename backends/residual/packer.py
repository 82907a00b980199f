"""Where the values of a program are made: at which site of the stream, from which inner channels.

A block takes a value through several stages (a delay, a ReLU, a scan, a gate); after the last
nonlinear one the channels are only scaled and added up, so whole chains of a program fit into one
block as long as each link is linear in the last. A `Packer`, one a target, says at which *site* (a
block, or half of one) an atom is made, and from which inner `Channel`s of the site.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lsrl.backends.base import capabilities_of
from lsrl.backends.residual.rows import ONE, Affines, Atom, AtomRow, Hull
from lsrl.errors import LsrlError
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import rational
from lsrl.ir.ops import Affine, Bound, Op
from lsrl.levels import AT_INPUT
from lsrl.target import Capabilities

TAPS = 4  # the width of both targets' convolutions
# What sums of float32 hold exactly, in steps of their grid.
LARGEST_SUM = 2.0**24
Mode = Literal["pass", "sum", "hold", "swap", "recall"]


@dataclass(frozen=True)
class Head:
    """Where a state of several cells is written, and where it is read.

    Attributes:
      keys: a {0,1} row a cell: 1 where something is written.
      queries: a row a cell: what is read of it.
      taps: weights of the keys now, and 1, 2 and 3 tokens ago.
    """

    keys: tuple[AtomRow, ...]
    queries: tuple[AtomRow, ...]
    taps: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Channel:
    """An inner channel of a site: gate * scan(branch).

    Attributes:
      row: what the branch reads of the stream.
      taps: weights of the row now, and 1, 2 and 3 tokens ago.
      offset: added after the taps, at every token.
      mode: "pass" what the branch holds; its "sum" over time, s = factor s + x; "hold" the x of
        the last token at which `flag` was 1; "swap", what an item on the points of `head` reads at
        the start less what it reads now; or "recall", the x that a cell of `head` was written with.
      factor: of a sum, -1 <= factor <= 1.
      flag: of a hold: a {0,1} value as a sum over channels that pass, with weights.
      switch: of a hold of a target that reads flags off the stream: a {0,1} row, and no `flag`.
      gate: multiplies the scanned value by relu(gate); None for an open gate.
      linear: whether it multiplies by the gate as it is, where the kind of site has a ReLU there.
      head: the cells of a state that has several.
      owner: the atom whose memory the scan is, and no other's; None where equal scans are one.
    """

    row: AtomRow
    taps: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    offset: float = 0.0
    mode: Mode = "pass"
    factor: float = 1.0
    flag: "Terms" = ()
    switch: AtomRow | None = None
    gate: AtomRow | None = None
    linear: bool = False
    head: Head | None = None
    owner: Atom | None = None

    @property
    def rows(self) -> tuple[AtomRow, ...]:
        """All that is read off the stream."""
        own = tuple(r for r in (self.row, self.gate, self.switch) if r is not None)
        return own if self.head is None else (*own, *self.head.keys, *self.head.queries)


# A sum over channels; its weights stay rationals until they are the network's.
Terms = tuple[tuple[Channel, int | Fraction], ...]


class Made(NamedTuple):
    """Where an atom is made: a sum over inner channels of a site."""

    site: int  # -1 for the embedding
    stage: int  # what has happened to it in its site; later stages of the same site can read it
    terms: Terms


class SiteKind(NamedTuple):
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

    # Whether what switches a hold is read off the stream, and so is made a site earlier at least;
    # otherwise it is a sum over channels of the hold's own site.
    stream_flags: ClassVar[bool] = False
    # The kinds of sites that follow each other, again and again.
    kinds: ClassVar[tuple[SiteKind, ...]]
    # By op what places its atoms: of the packer, the op, the atom and the operands' rows.
    placers: ClassVar[Mapping[type[Op], Callable[..., Made]]]

    def __init__(self, graph: Graph, chains: bool = True) -> None:
        """Place every atom that the output depends on."""
        self.graph = graph
        self.chains = chains
        self.affines = Affines(graph)
        self.made: dict[Atom, Made] = {}
        self._fans: dict[int, int] = {}
        for node, channel in self._needed():
            op = graph.nodes[node].op
            made = Made(-1, 0, ()) if isinstance(op, AT_INPUT) else self.place(node, channel)
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
    def output(self) -> list[AtomRow]:
        """The rows of the program's output."""
        width = self.graph.nodes[self.graph.output].width
        return [self.affines.row(self.graph.output, channel) for channel in range(width)]

    def reads(self, node: int, channel: int) -> list[AtomRow]:
        """The rows of an atom's operands."""
        op, operands = self.graph.nodes[node].op, self.graph.nodes[node].operands
        if isinstance(op, AT_INPUT):
            return []
        return [self.affines.row(operand, channel) for operand in operands]

    @classmethod
    def capabilities(cls) -> Capabilities:
        """What blocks can make, the embedding makes, or rows look through."""
        made = capabilities_of({Affine, Bound, *cls.placers})
        return replace(made, general_product=True, longest_delay=TAPS - 1, diagonal=True)

    def place(self, node: int, channel: int) -> Made:
        """Where an atom is made; all that it reads is placed already.

        Raises:
          LsrlError: the target has no such op.
        """
        op = self.graph.nodes[node].op
        if type(op) not in self.placers:
            raise LsrlError(f"{self.graph.label(node)}: no block of this target makes a {op.name}")
        return self.placers[type(op)](self, op, (node, channel), *self.reads(node, channel))

    # ------------------------------------------------------------ what placing needs

    def hull(self, row: AtomRow) -> Hull:
        """Interval and grid of a row."""
        return self.affines.hull(row, self.graph.facts)

    def last(self, *rows: AtomRow) -> int:
        """The last site at which something that rows read is made."""
        return max((self.made[atom].site for row in rows for atom in row.atoms), default=-1)

    def at_least(self, site: int, kind: SiteKind) -> int:
        """The first site of a kind from `site` on."""
        while site < 0 or self.kinds[site % len(self.kinds)] is not kind:
            site += 1
        return site

    def express(self, row: AtomRow, site: int, before: int) -> dict[Channel, int | Fraction] | None:
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
            for channel, factor in self.passing(AtomRow(tuple(rest), row.bias, row.exact)):
                total[channel] += factor
        return {channel: weight for channel, weight in total.items() if weight}

    @abstractmethod
    def passing(self, row: AtomRow) -> Terms:
        """Channels that add up to a row of what earlier sites made."""

    def scanned(
        self, rows: Sequence[AtomRow], kind: SiteKind, before: int
    ) -> tuple[int, list[dict[Channel, int | Fraction]]]:
        """The first site at which rows can be read by a stage, and the rows there."""
        site = self.at_least(self.last(*rows), kind)
        while True:
            found = [self.express(row, site, before) for row in rows]
            terms = [each for each in found if each is not None]
            if len(terms) == len(rows):
                return site, terms
            site = self.at_least(site + 1, kind)

    def behind(
        self, value: AtomRow, read: Sequence[AtomRow], kind: SiteKind, before: int
    ) -> tuple[int, dict[Channel, int | Fraction]]:
        """The first site at which a stage can read a value, and other rows off the stream."""
        site, (terms,) = self.scanned([value], kind, before)
        if site <= self.last(*read):
            site = self.at_least(self.last(*read) + 1, kind)
            terms = self.express(value, site, before) or {}
        return site, terms

    def held(self, value: AtomRow, when: AtomRow, kind: SiteKind, stage: int) -> Made:
        """A value as it was at the last token at which a {0,1} row was 1."""
        if self.stream_flags:
            site, terms = self.behind(value, [when], kind, stage)
            hold = partial(replace, mode="hold", switch=when)
        else:
            site, (terms, flags) = self.scanned([value, when], kind, stage)
            hold = partial(replace, mode="hold", flag=terms_of(flags))
        return Made(site, stage, tuple((hold(channel), w) for channel, w in terms.items()))

    def gated(self, value: AtomRow, gate: AtomRow, kind: SiteKind, stage: int) -> Made:
        """A value times a gate that is read off what earlier sites made."""
        site, terms = self.behind(value, [gate], kind, stage)
        made = (
            (replace(channel, gate=part), weight * sign)
            for part, sign in self.signed(gate)
            for channel, weight in terms.items()
        )
        return Made(site, stage, tuple(made))

    def spills(self, made: Made, node: int) -> bool:
        """Whether products with the parts of a row add up to more than sums hold exactly.

        Parts of a {0,1} row can be far larger than 1, and a reader adds up many products.
        """
        size, grid = 0.0, np.inf
        for channel, weight in made.terms:
            branch, gate = self.hull(channel.row), self.hull(channel.gate or ONE)
            size += abs(float(weight)) * max(branch.high, -branch.low) * max(gate.high, 0.0)
            grid = min(grid, branch.step * gate.step)
        if size <= 2 * self.graph.facts[node].magnitude.max():
            return False
        return size * self._fan(node) > LARGEST_SUM * grid

    def _fan(self, node: int) -> int:
        """The greatest number of a node's channels that one row adds up."""
        if node not in self._fans:
            counts = [1]
            for reader in self.graph.readers[node]:
                op, operands = self.graph.nodes[reader].op, self.graph.nodes[reader].operands
                if isinstance(op, Affine):
                    read = op.weights[operands.index(node)]
                    counts.append(int(np.diff(read.indptr).max(initial=0)))
            self._fans[node] = max(counts)
        return self._fans[node]

    def signed(self, row: AtomRow) -> list[tuple[AtomRow, int]]:
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
