"""The certificate of the targets with a residual stream.

The conditions are those of `lsrl.certificate`, over the inner channels of each block: the sum that
a branch or a gate reads, the sum over time that a scan takes, the product with the gate, and what
is added up in the stream. Scales are powers of two, so they count for the dtype's range alone: the
norm ahead of each block divides by 2^40 what the block reads, and products are scaled twice. The
norm is exact while the stream's other channels stay small beside its constant one.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lsrl.backends.residual.alike import StreamRounding
from lsrl.backends.residual.alike import Sums as Exact
from lsrl.backends.residual.packer import TAPS
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.tables import Bounds, Hulls, RowTable, SiteTable, StreamTables
from lsrl.certificate import MAX_SLACK, Analysis, Condition
from lsrl.ir.bounds import Facts, Sums
from lsrl.ir.groups import Members
from lsrl.ir.numbers import Array, lowest_bit_of
from lsrl.numerics import Numerics
from lsrl.rounding.channels import RoundingError
from lsrl.rounding.network import Held

# The stream's constant channel makes the mean square of the stream this number squared.
SIZE = 2.0**40
# A norm is exact while the rest of what it reads is at most this much of its constant channel.
LARGEST_SHARE = 2.0**-13
# That of the stream's constant channel, which is sqrt(d) as large; here d = 1.
LARGEST_REST = LARGEST_SHARE * SIZE
# What SiLU halves exactly.
LARGEST_HALVED = 2.0**-25
# What a branch or a gate on continuous values is scaled by, so that SiLU and GeLU cut off sharply.
SHARP = 2.0**50
# |SiLU(Ku) / K - relu(u)| and the same of GeLU are below this over K.
SOFT = 0.3
# Of an activation or a scan, that can each lose a smallest normal number.
OPERATIONS = 8


# What `Sums` are of, as checks call it.
_READ = (
    "the sum is", "its gate is", "its switch is", "its key or query is", "the sum over time is",
)  # fmt: skip


class Total(NamedTuple):
    """Sums of terms: Σ |term|, the greatest power of two that divides them all, and the errors."""

    size: Array
    grid: Array
    error: Array


class Checked(NamedTuple):
    """Sums to check, one a channel.

    Attributes:
      size: their sizes.
      grid: their grids.
      what: what to say of them.
      scale: by what they are scaled.
      exact: whether their weights are exact.
      asked: which channels have the sum.
    """

    size: Array
    grid: Array
    what: str
    scale: Array | float
    exact: Array | bool = True
    asked: Array | bool = True


class Values(NamedTuple):
    """What a site's channels hold.

    Attributes:
      branch: interval and grid of the rows that branches read.
      gate: of the rows that gates read.
      opening: the greatest size of what gates multiply by.
      grid: of what branches hold, ahead of their ReLU.
      inner: of what branches hold, behind it.
      reach: the greatest size of that.
      change: the greatest difference of two of its values, of which one may be 0.
    """

    branch: Hulls
    gate: Hulls
    opening: Array
    grid: Array
    inner: Array
    reach: Array
    change: Array


class ResidualAnalysis(Analysis):
    """The conditions of a stream over some tokens, and its errors."""

    def __init__(
        self,
        stream: Stream,
        numerics: Numerics,
        tables: StreamTables,
        tokens: int,
        known: tuple[Facts, ...] | None = None,
    ) -> None:
        """Bounds are those of `tokens` tokens, or `known`; `tables` are the stream's."""
        super().__init__(stream.graph, numerics, tokens, known)
        self.stream = stream
        self._tables = tables
        self._bounds = Bounds(self.facts)
        self._kept = self._atoms(tables.signals)
        self._flushed = np.zeros(len(stream.signals) + 1)  # what the norm loses of each signal
        self._signals = np.zeros(len(stream.signals) + 1)
        with np.errstate(over="ignore", invalid="ignore"):
            self._values = [self._held(table) for table in tables.sites]
            self._found = list(self._conditions())

    def conditions(self) -> Iterator[Condition]:
        """Every condition, in the order of the blocks, and last that the stream's norms are."""
        yield from self._found
        if self._norm > LARGEST_REST:
            text = (
                f"the stream holds up to {self._norm:g} beside its constant channel, more than "
                f"{LARGEST_REST:g}, so norms are not exact"
            )
            yield _failing(self.graph.output, 1, text)

    def check_alike(self, held: Held) -> None:
        """Hold every row that is rounded against the graph; the facts are those of the dtype.

        Raises:
          RoundingError: a bit may differ.
        """
        stream, tables = self.stream, self._tables
        rounding = StreamRounding(stream, held, self.facts)
        if self._norm > LARGEST_REST:
            raise RoundingError(
                stream.graph.output, "norms are not exact, for the stream holds too much"
            )
        kept, begin = self._kept, slice(0, tables.embedded)
        self._check_ends(tables.nodes, Checked(kept.size, kept.grid, "the stream is", 1 / SIZE))
        for place in np.flatnonzero(~self._fits(kept.size[begin], kept.grid[begin])).tolist():
            rounding.embedded(place)
        for number, table in enumerate(tables.sites):
            exact: dict[str, Array] = {}
            for node, text in self._inexact(number):
                raise RoundingError(node, text)
            checks, errors = self._site(number)
            for check in checks:
                self._check_ends(table.nodes, check)
                fits = self._fits(check.size * check.scale, check.grid * check.scale)
                fits = np.where(check.asked, fits, True)
                exact[check.what] = exact.get(check.what, True) & fits
            total = self._write(number, errors)
            whole = self._fits(total.size, total.grid) & table.composed
            always = np.ones(len(table.nodes), dtype=bool)
            branch, gate, switch, cells, time = (exact.get(what, always) for what in _READ)
            found = Exact(branch, gate, switch, cells, time, whole)
            sizes, grids = self.sizes(number), self.grids(number)
            rounding.site(table, found, sizes, grids)
        total = self._atoms(tables.output)
        for row in np.flatnonzero(~self._fits(total.size, total.grid)).tolist():
            rounding.read(stream.graph.output, tables.output.rows[row])

    def _check_ends(self, nodes: Array, check: Checked) -> None:
        """Let sums be normal numbers, and their weights be as they are."""
        fine = self._in_range(Sums(check.size * check.scale, check.grid * check.scale))
        fine = (fine | (check.size == 0)) & check.exact | ~np.asarray(check.asked)
        for place in np.flatnonzero(~fine)[:1].tolist():
            raise RoundingError(int(nodes[place]), f"{check.what} beyond the numbers of the dtype")

    def in_parts(self, size: int) -> bool:
        """Whether states keep every bit, where parts of a sequence are read at once.

        A state that is written by its changes then is a sum of as many of them, in any order.

        Args:
          size: tokens of a part.
        """
        for table, values in zip(self._tables.sites, self._values, strict=True):
            change = np.where(table.recalled, values.change, 0.0)
            total = self._over_time(table, values.reach)
            change = np.where(table.alternating, self._changing(table, total), change)
            if not self._fits(size * change, values.inner).all():
                return False
        return True

    def output_error(self) -> float:
        """The greatest error of an output's row."""
        sites = range(len(self._tables.sites))
        if self._norm > LARGEST_REST or any(any(self._inexact(site)) for site in sites):
            return np.inf
        return max(self._row(self._tables.output, 1.0).error.tolist(), default=0.0)

    def sizes(self, number: int) -> Array:
        """(channels,) the greatest size of the value of each channel of a site."""
        table, values = self._tables.sites[number], self._values[number]
        size = self._scanned(number)
        return np.where(table.gated, size * values.opening, size)

    def grids(self, number: int) -> Array:
        """(channels,) the greatest power of two that divides every value; 0 where continuous."""
        table, values = self._tables.sites[number], self._values[number]
        multiplied = table.gated & ~table.snaps
        grid = np.where(multiplied, _times(values.inner, values.gate.step), values.inner)
        return np.where(table.summed & (np.abs(table.factor) != 1), 0.0, grid)

    def switches(self, number: int) -> tuple[Array, Array]:
        """(holds,) the sizes and the grids of the sums that switch the holds of a site."""
        table = self._tables.sites[number]
        flags, read = table.flags, self._atoms(table.switch)
        size = flags.total(flags.size * self.sizes(number)[flags.index])
        grid = flags.least(flags.bits * self.grids(number)[flags.index], 1.0)
        held, switched = table.held, table.switched[table.held]
        return (
            np.where(switched, read.size[held], size),
            np.where(switched, np.minimum(read.grid[held], 1.0), grid),
        )

    @cached_property
    def _norm(self) -> float:
        """The greatest 2-norm of what the stream holds beside its constant channel."""
        return float(np.linalg.norm(self._kept.size))

    # ------------------------------------------------------------ conditions

    def _fits(self, size: Array, grid: Array) -> Array:
        return self.exact_sums(Sums(size, grid))

    def _lost(self, grid: Array, scale: Array | float, operations: Array | int) -> Array:
        """What sums lose below the smallest normal number, where they are held times a scale."""
        tiny = self.numerics.tiny
        return np.where(grid * scale >= tiny, 0.0, operations * tiny / scale)

    def _rounding(self, size: Array, roundings: Array) -> Array:
        """What sums of weighted terms are off by, were their terms right and no sum exact."""
        gamma = roundings * self.numerics.unit
        return np.asarray(gamma / (1 - gamma) * size)

    def _checked(self, nodes: Array, layer: int, checks: Sequence[Checked]) -> Iterator[Condition]:
        """The conditions of each channel, one channel after another.

        They are told all at once but for the first that fails, which messages name.
        """
        shape = len(nodes), len(checks)

        def columns(values: Sequence[Array | float]) -> Array:
            found = np.empty(shape)
            for kind, each in enumerate(values):
                found[:, kind] = each
            return found[asked]

        asked = np.ones(shape, dtype=bool)
        for kind, check in enumerate(checks):
            asked[:, kind] = check.asked
        number, kinds = np.nonzero(asked)
        size = columns([check.size * check.scale for check in checks])
        grid = columns([check.grid * check.scale for check in checks])
        scale = columns([check.scale for check in checks])
        exact = columns([check.exact for check in checks]) == 1
        failing = np.flatnonzero(~(self._fits(size, grid) & exact))[:1].tolist()
        cuts = sorted({0, *failing, *(place + 1 for place in failing), len(size)})
        for start, stop in pairwise(cuts):
            part = slice(start, stop)
            yield Condition(
                int(nodes[number[start]]),
                layer,
                Sums(size[part], grid[part]),
                checks[kinds[start]].what,
                composed=bool(exact[part].all()),
                scale=scale[part],
            )

    def _conditions(self) -> Iterator[Condition]:
        """Every condition; the errors are worked out on the way."""
        kept, tables, output = self._kept, self._tables, self.stream.graph.output
        begin = slice(0, tables.embedded)
        size, grid = kept.size[begin], kept.grid[begin]
        # An embedding holds the sum, rounded once.
        once = self.numerics.unit * size + self._lost(grid, 1.0, 1)
        self._signals[1 : tables.embedded + 1] = np.where(self._fits(size, grid), 0.0, once)
        self._flushed[1 : tables.embedded + 1] = self._lost(grid, 1 / SIZE, 1)
        check = Checked(size, grid, "the input is", 1 / SIZE)
        yield from self._checked(tables.nodes[begin], 0, [check])
        per_layer = len(tables.sites) // self.stream.depth
        for number, table in enumerate(tables.sites):
            layer = number // per_layer + 1
            checks, errors = self._site(number)
            yield from self._checked(table.nodes, layer, checks)
            for node, text in self._inexact(number):
                yield _failing(node, layer, text)
            total = self._write(number, errors)
            self._signals[table.places] = total.error
            self._flushed[table.places] = self._lost(total.grid, 1 / SIZE, 1)
            what = "what is added to the stream is"
            check = Checked(total.size, total.grid, what, 1 / SIZE, table.composed)
            yield from self._checked(tables.nodes[table.places - 1], layer, [check])
        total = self._atoms(tables.output)
        nodes = np.full(len(total.size), output)
        check = Checked(total.size, total.grid, "the sum is", 1.0, tables.output.exact)
        yield from self._checked(nodes, self.stream.depth + 1, [check])

    def _site(self, number: int) -> tuple[list[Checked], Array]:
        """What to check of a site's channels, its own norms included, and their errors."""
        table, values = self._tables.sites[number], self._values[number]
        checks, errors = self._channels(table, values)
        for norm in table.norms:
            read, by = np.zeros(len(errors), dtype=bool), np.ones(len(errors))
            places = list(norm.channels)
            read[places], by[places] = True, np.divide(norm.factors, norm.size)
            size = self.sizes(number) if norm.gated else self._scanned(number)
            grid = self._told(table, self.grids(number)) if norm.gated else values.inner
            checks.append(Checked(size, grid, f"{norm.name} is", by, asked=read))
            behind = 1.0 if norm.gated else np.maximum(values.opening, 1.0)
            errors = errors + np.where(read, behind * self._lost(grid, by, 1), 0.0)
        return checks, errors

    def _told(self, table: SiteTable, grid: Array) -> Array:
        """The grids of channels, those of some products as the graph promises them."""
        steps: dict[int, float] = {}
        for place, atoms in table.told:
            step = max((float(self.facts[node].step[c]) for node, c in atoms), default=0.0)
            steps[place] = min(step, steps.get(place, np.inf))
        found = grid.copy()
        for place, step in steps.items():
            found[place] = max(found[place], lowest_bit_of(step))
        return found

    def _inexact(self, number: int) -> Iterator[tuple[int, str]]:
        """What a site's own norms read too much of, or linear gates, and how they fail."""
        table, gate = self._tables.sites[number], self._values[number].gate
        # SiLU(u) is u / 2, of which the scale tells.
        driven = 2 * table.scales.gate * np.maximum(gate.high, -gate.low)
        for place in np.flatnonzero(table.linear & ~(driven <= LARGEST_HALVED)).tolist():
            yield int(table.nodes[place]), "its gate is too large for what SiLU halves exactly"
        for norm in table.norms:
            size = self.sizes(number) if norm.gated else self._scanned(number)
            shares = size[list(norm.channels)] * np.array(norm.factors)
            rest, most = np.linalg.norm(shares), LARGEST_SHARE * norm.size * np.sqrt(norm.width)
            if not rest <= most:
                text = (
                    f"{norm.name} reads up to {rest:g} beside its constant, more than {most:g}, so "
                    "it is not exact"
                )
                yield int(table.nodes[norm.channels[int(np.argmax(shares))]]), text

    def _channels(self, table: SiteTable, values: Values) -> tuple[list[Checked], Array]:
        """What to check of a site's channels, in order, and their errors."""
        scales, reach, inner = table.scales, values.reach, values.inner
        read = self._row(table.branch, scales.branch, values.branch)
        taps = np.abs(table.taps).sum(axis=1)
        size = taps * read.size + np.abs(table.offset)
        checks = [
            Checked(read.size, read.grid, "the sum is", scales.branch, table.branch.exact),
            Checked(size, values.grid, "the sum is", scales.branch, table.branch.exact),
            Checked(reach, inner, "the sum is", scales.scanned),
        ]
        error = taps * read.error + self._lost(values.grid, scales.branch, 2 * TAPS + OPERATIONS)
        error = error + self._lost(inner, scales.scanned, OPERATIONS)
        rounded = ~self._fits(size, values.grid) & table.sums
        error = error + np.where(rounded, self._rounding(size, table.roundings), 0.0)
        if table.site.kind.relu_branch:
            error = error + np.where(values.grid == 0, SOFT / scales.branch, 0.0)
            error[self._snapped(table.snaps, table.branch)] = 0.0
        if table.summed.any():
            total = self._summed(table, values, error)
            exact = (table.factor == 0) | (np.abs(table.factor) == 1)
            what, most = "the sum over time is", self._changing(table, total.size)
            checks.append(Checked(most, total.grid, what, scales.scanned, exact, table.summed))
            reach, error = np.where(table.summed, total.size, reach), total.error
        value = Total(reach, values.grid, error)
        more, finished = self._opened(table, values, value)
        if len(table.held):
            wrong = table.flags.total(table.flags.size * finished[table.flags.index])
            if table.switched.any():
                flag, by = self._row(table.switch, scales.switch), scales.switch
                exact = table.switch.exact
                more.append(
                    Checked(flag.size, flag.grid, "its switch is", by, exact, table.switched)
                )
                wrong = wrong + flag.error[table.held]
            held = error[table.held]
            error[table.held] = np.where(wrong == 0, held, 2 * reach[table.held] + held)
            _, finished = self._opened(table, values, value)
        if len(table.of_head):
            # A cell is written by its difference to what it holds.
            differs = table.recalled & ~self._fits(values.change, inner)
            error = error + np.where(differs, 4 * self.numerics.unit * reach, 0.0)
            check, lost = self._celled(table, reach)
            by, asked = scales.scanned, table.recalled
            more += [check, Checked(values.change, inner, "the sum is", by, asked=asked)]
            error = error + lost
            _, finished = self._opened(table, values, value._replace(error=error))
        return [*checks, *more], finished

    def _celled(self, table: SiteTable, reach: Array) -> tuple[Checked, Array]:
        """The rows that write and read a head's cells, and what a value loses where one is off."""
        rows = self._row(table.cells, 1.0)
        # Each channel has the last of these that is not a head's, or its head's.
        count = int(table.headed.max()) + 2
        size, error, odd = np.zeros(count), np.zeros(count), np.zeros(count)
        grid = np.full(count, np.inf)
        for most, each in ((size, rows.size), (error, rows.error), (odd, ~table.cells.exact)):
            np.maximum.at(most, table.of_head, each)
        np.minimum.at(grid, table.of_head, rows.grid)
        own = table.headed
        check = Checked(size[own], grid[own], "its key or query is", 1.0, odd[own] == 0, own >= 0)
        return check, np.where(error[own] == 0, 0.0, 2 * reach)

    def _opened(
        self, table: SiteTable, values: Values, value: Total
    ) -> tuple[list[Checked], Array]:
        """The gates and what they multiply, and the products' errors.

        A channel's value is that of its branch, behind the scan, with the grid ahead of its ReLU.
        """
        kind, gated, inner = table.site.kind, table.gated, values.inner
        both = table.scales.scanned * table.scales.gate
        plain = value.error + self._lost(inner, both, 1)
        if not gated.any():
            return [Checked(values.reach, inner, "the sum is", both)], plain
        gate, most = self._row(table.gate, table.scales.gate, values.gate), values.opening
        off = gate.error
        soft = table.relu_gate & (gate.grid == 0)
        off = off + np.where(soft, SOFT / table.scales.gate, 0.0)
        if not kind.relu_branch:
            off[self._snapped(table.snaps & gated, table.gate)] = 0.0
        flag = _boolean(values.gate)
        switches = flag | (_boolean(values.branch) & (value.size <= 1))
        # What switches is one of them, or 0.
        size = np.where(switches, np.where(flag, values.reach, most), value.size * most)
        grid = np.where(switches, np.where(flag, inner, gate.grid), _times(value.grid, gate.grid))
        exact = switches | self._fits(size, grid)
        fresh = np.where(exact, 0.0, self.numerics.unit * size)
        fresh = fresh + np.where(table.snaps, 0.0, self._lost(grid, both, 1))
        error = most * value.error + value.size * off + value.error * off + fresh
        checks = [
            Checked(values.reach, inner, "the sum is", both, asked=~gated),
            Checked(
                gate.size, gate.grid, "its gate is", table.scales.gate, table.gate.exact, gated
            ),
            Checked(size, grid, "the product is", both, asked=gated),
        ]
        return checks, np.where(gated, error, plain)

    def _snapped(self, asked: Array, rows: RowTable) -> Array:
        """Which ReLUs of rows, of those asked for, are exactly 0 or 1, whatever the rounding.

        By promise, with a margin of MAX_SLACK, what they read lacks nothing or at least 1.
        """
        if not asked.any():
            return asked
        slack = rows.read.most(rows.read.size * self._signals[rows.read.index])
        self.slack = max(self.slack, float(slack[asked].max()))
        return asked & (slack <= MAX_SLACK)

    def _summed(self, table: SiteTable, values: Values, error: Array) -> Total:
        """Running sums, or decays: |err| <= U / (1 - a)^2 (a ε_a + 2^-23) (docs/design.md, 6)."""
        plain, size = np.abs(table.factor) == 1, values.reach
        growing = table.summed & plain & ~table.blinking
        self.settled = self.settled and not size[growing].any()
        total = self._over_time(table, size)
        most = self._changing(table, total)
        fresh = np.where(
            self._fits(most, values.inner), 0.0, self.tokens * (self.numerics.unit * most)
        )
        rest = np.where(plain, 1.0, 1 - np.abs(table.factor))
        # The factor is an exponential of a rounded number: 2^-18 is a few hundred roundings. A norm
        # behind the scan divides by what is as exact as that.
        once = 2.0**-20 if table.norms else 2.0**-23
        drift = 2 * size / rest**2 * (np.abs(table.factor) * 2.0**-18 + once)
        return Total(
            total,
            np.where(plain, values.inner, 0.0),
            np.where(
                table.summed,
                np.where(plain, self.tokens * error + fresh, error / rest + drift),
                error,
            ),
        )

    def _held(self, table: SiteTable) -> Values:
        kind = table.site.kind
        branch, gate = table.branch.hull(self._bounds), table.gate.hull(self._bounds)
        opening = np.maximum(gate.high, np.where(table.relu_gate, 0.0, -gate.low))
        grid = np.minimum(branch.step * table.tap_bits, table.offset_bits)
        inner = np.where(table.snaps, 1.0, grid)
        # Ahead of the first token the taps read zeros.
        most = least = table.offset
        up = down = np.zeros(len(most))
        for tap in table.taps.T:
            up = up + tap * np.where(tap > 0, branch.high, branch.low)
            down = down + tap * np.where(tap > 0, branch.low, branch.high)
            # A tap of 0 makes no number of what has no bounds.
            most = np.fmax(most, np.fmax(table.offset + up, table.offset + down))
            least = np.fmin(least, np.fmin(table.offset + up, table.offset + down))
        reach = np.maximum(most, 0.0 if kind.relu_branch else -least)
        # An item reads at most the points, then as now.
        reach = np.where(table.swapped, 2 * table.points, reach)
        inner = np.where(table.swapped, 1.0, inner)
        return Values(branch, gate, opening, grid, inner, reach, most - least)

    def _scanned(self, number: int) -> Array:
        """(channels,) the greatest size of what is behind each scan of a site."""
        table, reach = self._tables.sites[number], self._values[number].reach
        return np.where(table.summed, self._over_time(table, reach), reach)

    def _over_time(self, table: SiteTable, reach: Array) -> Array:
        """(channels,) the greatest sizes of sums over time, and of decays."""
        rest, count = 1 - np.abs(table.factor), self._summands(table)
        count = np.where(table.blinking, 1.0, count)
        return np.where(rest, reach / np.where(rest, rest, 1.0), count * reach)

    @staticmethod
    def _changing(table: SiteTable, total: Array) -> Array:
        """(channels,) the greatest number in a sum over time: the difference of two of them."""
        return np.where(table.alternating, 2 * total, total)

    def _summands(self, table: SiteTable) -> Array:
        """How many tokens a running sum has taken in after the last one."""
        return np.array([float(max(self.tokens - late, 0)) for late in range(TAPS)])[table.lag]

    def _write(self, number: int, errors: Array) -> Total:
        table = self._tables.sites[number]
        writes = table.writes
        shares = writes.size * self.sizes(number)[writes.index]
        grid = writes.least(writes.bits * self.grids(number)[writes.index])
        some = table.gated & self._belong(table.gate) | table.alone & self._belong(table.branch)
        size = writes.greatest(
            shares, some[writes.index], lambda place: self._belongs(table, writes.index[place])
        )
        error = writes.total(writes.size * errors[writes.index])
        error = error + np.where(
            self._fits(size, grid), 0.0, self._rounding(size, writes.roundings)
        )
        return Total(size, grid, error + self._lost(grid, 1.0, 2 * writes.counts))

    # ------------------------------------------------------------ rows

    def _row(self, rows: RowTable, scale: Array | float, hull: Hulls | None = None) -> Total:
        """Rows over the stream, times a scale: size, grid, error with their own rounding."""
        total, read = self._atoms(rows, hull), rows.read
        known = self._signals + self._flushed
        error = read.total(read.size * known[read.index])
        error = error + self._lost(total.grid, scale, 2 * read.counts)
        exact = self._fits(total.size, total.grid) & rows.exact
        error = error + np.where(exact, 0.0, self._rounding(total.size, read.roundings))
        return total._replace(error=error)

    def _atoms(self, rows: RowTable, hull: Hulls | None = None) -> Total:
        atoms, bounds = rows.atoms, self._bounds
        shares = atoms.size * bounds.magnitude[atoms.index]
        belongs = bounds.belongs[atoms.index]
        size = atoms.greatest(shares, belongs, lambda place: bounds.members(*rows.flat[place]))
        grid = (hull or rows.hull(bounds)).step
        return Total(np.abs(rows.bias) + size, grid, np.zeros(len(size)))

    def _belong(self, rows: RowTable) -> Array:
        """Which rows read something that belongs to a member."""
        return rows.atoms.any(self._bounds.belongs[rows.atoms.index])

    def _belongs(self, table: SiteTable, index: int) -> Members:
        """What an inner channel belongs to: what its gate does, or its branch at this token."""
        channel = table.site.channels[index]
        rows = [] if channel.gate is None else [channel.gate]
        if table.alone[index]:
            rows.append(channel.row)
        found: Members = {}
        for row in rows:
            each = [] if row.bias else [self._bounds.members(*atom) for atom in row.atoms]
            for root, member in each[0].items() if each else ():
                if all(members.get(root) == member for members in each):
                    found[root] = member
        return found


def _failing(node: int, layer: int, text: str) -> Condition:
    return Condition(node, layer, Sums(np.zeros(0), np.zeros(0)), "", failure=text)


def _times(grid: Array, other: Array) -> Array:
    """The grids of products; 0 where either is, whatever the other."""
    either = (grid == 0) | (other == 0)
    return np.where(either, 0.0, np.where(either, 1.0, grid) * np.where(either, 1.0, other))


def _boolean(hull: Hulls) -> Array:
    return np.asarray((hull.low >= 0) & (hull.high <= 1) & (hull.step >= 1))
