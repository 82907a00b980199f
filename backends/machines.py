"""Machines of the event-driven engine: the units of an exact network on their way."""

import importlib
from collections.abc import Callable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

import numpy as np
from scipy import sparse

from lsrl.backends.curves import curved
from lsrl.backends.records import (
    ALIKE,
    CHANGE,
    HANDED,
    KEPT,
    KINDS,
    MORE,
    OWNER,
    PIECE,
    SEGMENT,
    SLOT,
    STAGE,
    SUM,
    UNIT,
    Record,
    copied,
    drive_of,
    edge_of,
    records,
)
from lsrl.backends.shortening import shortened
from lsrl.backends.units import (
    GATES,
    GRU,
    LINEAR,
    LSTM,
    PRODUCT,
    Handed,
    Stack,
    units_of,
)
from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.backends.sweeps import Sweep

# A number that no token has.
NEVER = -1.0
# Of a GRU's unit the first drives have their sign turned, so that to shut is to rise above a bar.
TURNED = 2
# Edges of one weight to drives on end from which on they are passed on at once.
MANY = 8
# Edges up to which whole sequences run faster by sweeps. Cells go token by token in jax, too, so of
# them it is by layer. Linear layers do not, so there it is (from so many sequences on, edges,
# tokens together): jax is at its best where lanes are too few to fill vectors and tokens are many.
# CPU seconds by sweeps over those by jax, 1,000 tokens:
#
#   program          edges  layers   sequences 1     8    16    64   256
#   modular_sum(8)      91      12  linear   .63  1.24  1.09   .64   .76
#   tok2tok(16, 10)    151       7           .65   .85  1.04   .65   .80
#   tok2tok(28, 10)    235       7           .87  1.00  1.21   .99   .78
#   tok2tok(40, 10)    319       7          1.16  1.64  1.56  1.16  1.15
#   histogram(64)      319       1           .73   .54   .52   .55   .55
#   modular_sum(8)      91      12  rnn      .41   .07   .07   .05   .06
#   running_max(16)    210       1           .51  1.00   .99   .70   .67
#   histogram(64)      319       1           .76   .68   .71   .76   .55
#   running_max(32)    682       1          1.02  1.60  1.62  1.23  1.05
#
# Linear, by sequences x tokens:
#
#   program          edges    1 x 4000  6 x 1000  1 x 16000  8 x 4000  8 x 16000  16 x 16000
#   majority             8         .31       .51       1.11       .57        .96         .64
#   tok2tok(3, 10)      60         .19       .55       1.22       .81       1.45         .74
#   parity              72         .41      1.31       3.70      1.20       1.67        2.86
#   tok2tok(12, 10)    123         .90       .83       1.87       .88       1.26        1.18
MOST_OF_A_LAYER: Final = 160
ANY: Final = 1 << 62
MOST_EDGES: Final = ((64, 256, ANY), (16, 64, ANY), (8, 64, 1 << 15), (0, 160, 5000))
# Choices of entries of hooks for which sweeps are kept.
MOST_WATCHED = 8


class Wired:
    """Units with their edges as the engine takes them, which machines share.

    Attributes:
      units: of the network, without those that hand on what another one shows.
      engine: the module.
      dtype: of the network.
      number: of what it gives.
      gates: drives of a unit.
    """

    def __init__(self, stack: Stack, dtype: str, engine: ModuleType | None = None) -> None:
        """Of a network, for an engine; the installed one if None."""
        whole = units_of(stack)
        units = curved(shortened(whole))
        sweeps = importlib.import_module("lsrl.backends.sweeps")
        self._whole = (stack, whole) if sweeps.possible(whole) else None
        del whole  # a large one is of no more use, and takes room
        self._watching: dict[tuple[tuple[int, ...], ...], Sweep | None] = {}
        self.units, self.dtype = units, dtype
        self.number = np.dtype(np.float64 if dtype == "float64" else np.float32)
        self.engine: Any = engine or importlib.import_module("lsrl.backends.events")
        self.compiled = bool(self.engine.COMPILED)
        self.gates = units.gates
        forgetful = self._forgetful()
        self.forgetful = np.flatnonzero(forgetful)
        self.lows = np.where(forgetful, 0.0, units.lows)
        fresh = np.zeros(units.count, UNIT)
        fresh["low"] = self.lows
        inputs = int(units.starts[0])
        owners = np.zeros(units.count, OWNER)
        owners["unit"] = np.arange(units.count)
        owners["stage"][inputs:] = (
            np.searchsorted(units.starts, np.arange(inputs, units.count), side="right") - 1
        )
        # Of the last one, behind which no units come, only what it is passed.
        stages = np.zeros(len(units.starts), STAGE)
        stages["start"], stages["kind"][:-1] = units.starts, units.kinds[units.starts[:-1]]
        self.edge = edge_of(np.concatenate([units.forward.data, units.back.data]))
        also = np.zeros(units.count, MORE)
        alone, alike = self._edges(units.forward, MANY)
        self.forward, fresh["first"], fresh["last"] = alone
        self.alike, also["first_alike"], also["last_alike"] = alike
        back, _ = self._edges(units.back, units.count + 1)
        self.back, also["first_back"], also["last_back"] = back
        curves = units.curves
        also["first_curve"][curves.units] = curves.starts[:-1]
        also["last_curve"][curves.units] = curves.starts[1:]
        segments = np.zeros(len(curves.begins), SEGMENT)
        segments["begin"], segments["origin"] = curves.begins, curves.origins
        segments["first"], segments["last"] = curves.ends[:-1], curves.ends[1:]
        pieces = np.zeros(len(curves.drives), PIECE)
        pieces["to"] = curves.drives % self.gates * units.count + curves.drives // self.gates
        pieces["slope"], pieces["base"] = curves.slopes, curves.bases
        some = np.any([also[f"last_{kind}"] > also[f"first_{kind}"] for kind in KINDS], axis=0)
        fresh["more"][some] = np.arange(1, 1 + np.count_nonzero(some))
        self.more = self.taken(np.concatenate([np.zeros(1, MORE), also[some]]))
        self.segments, self.pieces = self.taken(segments), self.taken(pieces)
        self.records, self.stages = self.taken(fresh), self.taken(stages)
        self.owners = self.taken(np.tile(owners, self.gates))
        self.handed, self.terms = map(self._terms, (units.handed, units.sums.terms))
        # Of the arrays of the state, one after another: where each ends, and by field which units
        # they show at which places.
        self.ends = [0, *np.cumsum([len(leaf.units) for leaf in units.leaves]).tolist()]
        self.fields: dict[str, tuple[Array, Array]] = {}
        for field in {leaf.field for leaf in units.leaves}:
            own = [number for number, leaf in enumerate(units.leaves) if leaf.field == field]
            places = [np.arange(self.ends[number], self.ends[number + 1]) for number in own]
            shown = np.concatenate([units.leaves[number].units for number in own])
            self.fields[field] = shown, np.concatenate(places)
            self.shown = self.taken(shown.astype(np.uint32))
        sums = np.zeros(len(units.sums.units), SUM)
        sums["offset"] = units.sums.offsets
        sums["first"], sums["last"] = units.sums.starts[:-1], units.sums.starts[1:]
        if len(sums):
            shown, _ = self.fields["hidden"]
            order = np.argsort(shown)
            sums["place"] = order[np.searchsorted(shown[order], units.sums.units)]
        self.sums = self.taken(sums)

    @property
    def shared(self) -> tuple[Any, ...]:
        """What all machines share, in the order in which the engine takes it."""
        return (
            self.stages, self.records, self.more, self.forward, self.alike, self.back,
            self.segments, self.pieces, self.owners,
        )  # fmt: skip

    @property
    def tells(self) -> int:
        """What the state is of, as the engine numbers it, where it is of one field."""
        return int(self.engine.DRIVEN if "hidden" in self.fields else self.engine.SHOWN)

    @property
    def told(self) -> tuple[Any, ...]:
        """What tells the state where it is of one field, as the engine takes it."""
        return self.handed, self.sums, self.terms, self.shown

    @cached_property
    def turn(self) -> Any:
        """What reads tokens out of a table, where the engine is compiled."""
        return self.engine.turning(self.number, self.forward.dtype, drive_of(self.number))

    def table(self, arrays: Sequence[Array], tokens: int, tells: int) -> Array:
        """A machine's arrays as `turn` takes them.

        Args:
          arrays: of the machine, behind those that all machines share.
          tokens: that are read.
          tells: what a row, the last of them behind those of `told`, is to have in the end.
        """
        packed = importlib.import_module("lsrl.backends.packed")
        readout = self.units.readout
        found: Array = packed.table_of([*self.shared, *arrays], readout, tokens, tells)
        return found

    def _terms(self, handed: Handed) -> Any:
        found = np.zeros(len(handed.units), HANDED)
        for name, part in zip(HANDED.names or (), handed, strict=True):
            found[name] = part
        return self.taken(found)

    def _forgetful(self) -> Array:
        """(units,) LSTM units that hold what they make now, whatever was before.

        Their forget gate is shut for good, and nothing comes back to them, so what they hold can
        be told from their drives when it is asked for.
        """
        units = self.units
        if not units.gated:
            return np.zeros(units.count, bool)
        shut = (units.kinds == LSTM) & (units.bias[:, 1] <= self.engine.SHUT)
        driven = np.zeros((units.count, GATES), bool)
        driven.ravel()[units.back.indices] = True
        forgets = np.zeros(units.count * GATES, bool)
        forgets[units.forward.indices] = True
        return shut & ~driven.any(axis=1) & ~forgets.reshape(-1, GATES)[:, 1]

    @cached_property
    def sweep(self) -> "Sweep | None":
        """What runs whole sequences unit by unit; None if they are not such units."""
        # As the engine, it takes numba along, which nobody needs who runs by jax.
        sweeps = importlib.import_module("lsrl.backends.sweeps")
        return None if self._whole is None else sweeps.Sweep(self._whole[1], self.number)

    def watching(self, watched: tuple[tuple[int, ...], ...]) -> "Sweep | None":
        """As `sweep`, whose outputs are entries of hooks, see `units_of`."""
        if watched not in self._watching and self._whole is not None:
            sweeps = importlib.import_module("lsrl.backends.sweeps")
            units = units_of(self._whole[0], watched)
            if len(self._watching) == MOST_WATCHED:
                self._watching.clear()
            found = sweeps.Sweep(units, self.number) if sweeps.possible(units) else None
            self._watching[watched] = found
        return self._watching.get(watched)

    def sweeps_faster(self, batch: int, time: int) -> bool:
        """Whether so many sequences of so many tokens take less time by a sweep than by jax."""
        for least, most in self._swept:
            if batch >= least:
                return batch * time <= most
        return False

    @cached_property
    def _swept(self) -> tuple[tuple[int, int], ...]:
        """From so many sequences on, the most first: up to how many tokens sweeps are faster."""
        if self._whole is None or not self.compiled:
            return ()
        stack, whole = self._whole
        edges = int(whole.forward.nnz + whole.back.nnz)
        if any(layer.shown is None for layer in stack.layers):
            return ((0, ANY if edges <= MOST_OF_A_LAYER * len(stack.layers) else 0),)
        return tuple((least, tokens if edges <= most else 0) for least, most, tokens in MOST_EDGES)

    def drives(self, values: Array) -> Array:
        """(drives,) of all units where they show these values (units,), as the engine has them."""
        units = self.units
        forward, back = units.turned
        found = np.asarray(forward @ values)
        found += back @ values
        found += units.curves.at(values, len(found))
        found = found.reshape(-1, units.gates)
        found += units.bias
        found[units.kinds == GRU, :TURNED] *= -1
        return np.asarray(found.T.ravel())

    def bars(self, values: Array) -> Array:
        """(drives,) of units that show these values (units,) and are not listed."""
        bars = np.full((self.gates, self.units.count), -np.inf)
        bars[0] = np.where((self.units.kinds == LINEAR) & (values == 0), self.lows, -np.inf)
        return bars.ravel()

    def taken(self, array: Array) -> Any:
        """An array as the engine takes it; its own from now on."""
        if self.compiled:
            return array
        return records(array) if array.dtype.names else array.tolist()

    def rows(self, *shape: int) -> Array:
        """Room for outputs (..., outputs)."""
        return np.zeros((*shape, self.units.outputs), self.number)

    def _edges(
        self, matrix: sparse.csr_array, many: int
    ) -> tuple[tuple[Any, Array, Array], tuple[Any, Array, Array]]:
        """Edges one by one, and `many` or more at once: each with where a unit's begin and end."""
        count = self.units.count
        found = matrix.tocoo(copy=False)
        unit, gate = np.divmod(found.col, self.gates)
        turned = (self.units.kinds[unit] == GRU) & (gate < TURNED)
        weights = np.where(turned, -found.data, found.data)
        entries = weights, gate * count + unit, matrix.indptr
        ordered = sparse.csr_array(entries, matrix.shape)
        ordered.sort_indices()
        source, to, weights = found.row, ordered.indices, ordered.data
        begins = np.ones(len(to), bool)
        same = (np.diff(source) == 0) & (np.diff(to) == 1) & (np.diff(weights) == 0)
        begins[1:] = ~same
        first = np.flatnonzero(begins)
        size = np.diff(np.append(first, len(to)))
        several = size >= many
        alone = np.repeat(~several, size)
        edges = np.zeros(np.count_nonzero(alone), self.edge)
        edges["to"], edges["weight"] = to[alone], weights[alone]
        runs = np.zeros(np.count_nonzero(several), ALIKE)
        first, size = first[several], size[several]
        runs["to"], runs["end"], runs["weight"] = to[first], to[first] + size, weights[first]

        def ends(sources: Array) -> tuple[Array, Array]:
            total = np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=count))])
            return total[:-1], total[1:]

        return (
            (self.taken(edges), *ends(source[alone])),
            (self.taken(runs), *ends(source[first])),
        )


class Wires(NamedTuple):
    """How outputs become inputs, as the engine takes it; see its `advance`.

    Attributes:
      told: (8,) int64.
      number: that the halting output is compared with.
      rest: (slots,) what those read that are not fed.
    """

    told: Array
    number: float
    rest: Array


class Course(NamedTuple):
    """What a machine did.

    Attributes:
      done: tokens.
      ending: of the engine.
    """

    done: int
    ending: int


@final
class Machine:
    """The units of one sequence, between two tokens."""

    def __init__(self, wired: Wired, leaves: Sequence[Array]) -> None:
        """At a state: the arrays of `Units.leaves`, each (units,)."""
        self.wired, units = wired, wired.units
        self.work = self.tokens = 0
        count = units.count
        shown, held = np.zeros((2, count), wired.number)
        for leaf, values in zip(units.leaves, leaves, strict=True):
            own = leaf.units < count
            numbers = leaf.units[own]
            known = np.asarray(values, np.float64)[own] + 0.0  # no -0.0
            if leaf.field == "memory":
                held[numbers] = known
            else:
                shown[numbers] = np.where(known < units.lows[numbers], 0.0, known)
        values = shown.astype(np.float64)
        drives = np.zeros(wired.gates * count, drive_of(wired.number))
        drives["drive"], drives["bar"] = wired.drives(values), wired.bars(values)
        drives["shown"][:count] = shown
        stale = self._stale(drives["drive"], values)
        drives["bar"].reshape(wired.gates, -1)[:, stale] = np.inf
        waiting, ends = np.zeros(count, np.uint32), units.starts.astype(np.uint32)
        for stage in range(len(units.starts) - 1):
            first, last = units.starts[stage : stage + 2]
            own = np.flatnonzero(stale[first:last]) + first
            waiting[first : first + len(own)] = own
            ends[stage] += len(own)
        slots = np.zeros(len(units.slots), SLOT)
        slots["first"] = [slot.first for slot in units.slots]
        slots["token"] = [slot.token for slot in units.slots]
        kept = np.full(0 if units.cells else count, NEVER, KEPT)
        arrays = drives, held if units.cells else held[:0], kept, waiting, ends, slots
        self._arrays: tuple[Any, ...] = tuple(map(wired.taken, arrays))
        self._clock = np.zeros(1)

    def _stale(self, drives: Array, values: Array) -> Array:
        """(units,) whose value is not what their drives make it."""
        units = self.wired.units
        a = drives[: units.count]
        made = np.where(a < units.lows, 0.0, a)
        if units.gated:
            product = units.kinds == PRODUCT
            made[product] *= drives[units.count : 2 * units.count][product]
        stale = (made != values) | (units.kinds >= LSTM)
        stale[: units.starts[0]] = False
        return np.asarray(stale)

    def copy(self) -> "Machine":
        """Another one at the same place."""
        found = object.__new__(Machine)
        vars(found).update(vars(self))
        found._arrays = tuple(
            copied(part) if isinstance(part, list) and part and isinstance(part[0], Record)
            else part.copy() for part in self._arrays
        )  # fmt: skip
        found._clock = self._clock.copy()
        return found

    # ------------------------------------------------------------ running

    def _common(self) -> tuple[Any, ...]:
        *own, slots = self._arrays
        return *self.wired.shared, *own, self._changes(), slots, self.wired.units.readout

    def _changes(self) -> Any:
        """Room for the changes of a stage's units, twice."""
        count = self.wired.units.count
        room = np.empty(2 * count, CHANGE) if self.wired.compiled else np.zeros(2 * count, CHANGE)
        return self.wired.taken(room)

    @property
    def clock(self) -> float:
        """Number of the next token."""
        return float(self._clock[0])

    def follow(self, given: Array) -> Array:
        """Read tokens (tokens, slots); returns the outputs (tokens, outputs), of the dtype."""
        rows = self.wired.rows(len(given))
        work = self.turner(np.ascontiguousarray(given), rows)()
        self.tokens += len(given)
        self.work += work
        return rows

    def turner(self, given: Array, rows: Array, row: Array | None = None) -> Callable[[], int]:
        """What reads tokens whenever it is called, and says how many units it looked at.

        Args:
          given: (tokens, slots) float64, that are read.
          rows: (tokens, outputs) that the outputs are put into.
          row: that the state behind the last token is put into, as `told` puts it; if any.
        """
        wired, tokens = self.wired, len(given)
        if not wired.compiled:
            common = *self._common(), self._room()

            def plainly() -> int:
                work: int = wired.engine.follow(*common, self.clock, given, rows)
                self._clock += tokens
                if row is not None:
                    self.told(row)
                return work

            return plainly
        *own, slots = self._arrays
        alone = row is not None and len(wired.fields) == 1
        last = (*wired.told, row) if alone else ()
        arrays = *own, self._changes(), slots, self._room(), self._clock, given, rows, *last
        # What is called holds the arrays, of which the table has no more than the addresses.
        tells = wired.tells if alone else wired.engine.NOTHING
        held = wired.turn, wired.table(arrays, tokens, tells), arrays

        def by_table() -> int:
            work: int = held[0](held[1])
            return work

        def and_told() -> int:
            work: int = held[0](held[1])
            self.told(cast(Array, row))
            return work

        return by_table if alone or row is None else and_told

    def _room(self) -> Any:
        return self.wired.taken(np.zeros(len(self.wired.units.slots)))

    def advance(self, course: Wires, first: Array, keys: Array, rows: Array) -> Course:
        """Run on its own outputs.

        Args:
          course: how outputs become inputs.
          first: (slots,) what the first token reads.
          keys: that are there.
          rows: (tokens, outputs) room for the outputs; so many tokens are run at most.
        """
        wired = self.wired
        before = self.copy() if course.told[5] >= 0 else None
        result = np.zeros(3, np.int64)
        x, rest, told, typed = map(wired.taken, (first.copy(), course.rest, course.told, keys))
        ending = wired.engine.advance(
            *self._common(), x, self.clock, rest, rows, told, course.number, typed, result
        )
        done, _, work = result.tolist()
        if ending == wired.engine.WAITING and before is not None:
            # The token that waits is not to be read: what came before it is run again.
            vars(self).update(vars(before))
            if done:
                self.advance(course, first, keys, rows[:done])
            return Course(done, ending)
        self._passed(done, work)
        return Course(done, ending)

    def _passed(self, tokens: int, work: int) -> None:
        self._clock += tokens
        self.tokens += tokens
        self.work += work

    def told(self, row: Array) -> None:
        """Put the arrays of `Units.leaves`, one after another, into a row."""
        wired, (drives, _, kept, *_) = self.wired, self._arrays
        count = wired.units.count
        if len(wired.fields) == 1:
            driven = wired.tells == wired.engine.DRIVEN
            wired.engine.collect(drives, kept, count, driven, *wired.told, self.clock - 1, row)
            return
        # Units of LSTMs, which nothing else tells.
        for field, (units, places) in wired.fields.items():
            values = self._memory() if field == "memory" else self._field("shown")[:count]
            row[places] = values[units] + 0.0

    def _memory(self) -> Array:
        """What LSTM units hold; of those that are not looked at while they are shut, anew."""
        found = np.array(self._arrays[1], np.float64)
        a, _, c, d = self._field("drive").reshape(GATES, -1)
        own = self.wired.forgetful[d[self.wired.forgetful] <= self.wired.engine.SHUT]
        found[own] = _sigmoid(a[own]) * np.tanh(c[own])
        return found

    def _field(self, name: str) -> Array:
        """Of all drives."""
        drives = self._arrays[0]
        if self.wired.compiled:
            return np.asarray(drives[name])
        return np.array([getattr(drive, name) for drive in drives])


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))
