"""Machines of the event-driven engine: the units of an exact network on their way."""

import importlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import numpy as np
from scipy import sparse

from lsrl.backends.units import GATES, GRU, LINEAR, LSTM, PRODUCT, Units
from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.backends.sweeps import Sweep

# A number that no token has.
NEVER = -1.0
# Of a GRU's unit the first drives have their sign turned, so that to shut is to rise above a bar.
TURNED = 2
# Edges of one weight to drives on end from which on they are passed on at once.
MANY = 8


def _record(*fields: tuple[str, str]) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=True)


SLOT = _record(("first", "u4"), ("held", "u4"), ("token", "u1"))
_PLACES = ("first", "last", "first_alike", "last_alike", "first_back", "last_back")
UNIT = _record(*((name, "u4") for name in _PLACES), ("low", "f4"), ("kind", "u1"))
OWNER = _record(("unit", "u4"), ("stage", "u2"))
ALIKE = _record(("to", "u4"), ("end", "u4"), ("weight", "f8"))


@final
class Record:
    """A unit, an edge or a slot of the engine where it isn't compiled: attributes alone."""

    __slots__ = tuple(sorted({"to", "weight", *(UNIT.names or ()), *(ALIKE.names or ()),
                              *(OWNER.names or ()), *(SLOT.names or ())}))  # fmt: skip


def records(array: Array) -> list[Record]:
    """As objects."""
    found = [Record() for _ in range(len(array))]
    for name in array.dtype.names or ():
        for record, value in zip(found, array[name].tolist(), strict=True):
            setattr(record, name, value)
    return found


class Wired:
    """Units with their edges as the engine takes them, which machines share.

    Attributes:
      units: that they are of.
      engine: the module.
      dtype: of the network.
      number: of what it gives.
      gates: drives of a unit.
    """

    def __init__(self, units: Units, dtype: str, engine: ModuleType | None = None) -> None:
        """Of a network's units, for an engine; the installed one if None."""
        self.units, self.dtype = units, dtype
        self.number = np.dtype(np.float64 if dtype == "float64" else np.float32)
        self.engine: Any = engine or importlib.import_module("lsrl.backends.events")
        self.compiled = bool(self.engine.COMPILED)
        self.gates = GATES if units.gated else 1
        forgetful = self._forgetful()
        self.forgetful = np.flatnonzero(forgetful)
        self.lows = np.where(forgetful, 0.0, units.lows)
        fresh = np.zeros(units.count, UNIT)
        fresh["low"], fresh["kind"] = self.lows, units.kinds
        inputs = int(units.starts[0])
        owners = np.zeros(units.count, OWNER)
        owners["unit"] = np.arange(units.count)
        owners["stage"][inputs:] = (
            np.searchsorted(units.starts, np.arange(inputs, units.count), side="right") - 1
        )
        alone, alike = self._edges(units.forward, MANY)
        self.forward, fresh["first"], fresh["last"] = alone
        self.alike, fresh["first_alike"], fresh["last_alike"] = alike
        back, _ = self._edges(units.back, units.count + 1)
        self.back, fresh["first_back"], fresh["last_back"] = back
        self.records = self.taken(fresh)
        self.starts = self.taken(units.starts.astype(np.uint32))
        self.owners = self.taken(np.tile(owners, self.gates))
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

    @cached_property
    def turn(self) -> Any:
        """What reads tokens out of a table, where the engine is compiled."""
        packed = importlib.import_module("lsrl.backends.packed")
        return packed.turning(self.number, UNIT, self.forward.dtype, ALIKE, OWNER, SLOT)

    def table(self, arrays: Sequence[Array], tokens: int, shows: bool) -> Array:
        """A machine's arrays as `turn` takes them.

        Args:
          arrays: of the machine, behind those that all machines share.
          tokens: that are read.
          shows: whether the last two are the units to show and room for what drives them.
        """
        packed = importlib.import_module("lsrl.backends.packed")
        units = self.units
        shared = self.starts, self.records, self.forward, self.alike, self.back, self.owners
        found: Array = packed.table_of(
            [*shared, *arrays], units.cells, units.readout, tokens, shows
        )
        return found

    def _forgetful(self) -> Array:
        """(units,) LSTM units that hold what they make now, whatever was before.

        Their forget gate is shut for good, and nothing comes back to them, so what they hold can
        be told from their drives when it is asked for.
        """
        units = self.units
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
        return sweeps.Sweep(self.units, self.number) if sweeps.possible(self.units) else None

    @property
    def swept_edges(self) -> float:
        """Edges that a sweep follows at each token; infinite where there is none."""
        edges: int = self.units.forward.nnz + self.units.back.nnz
        return edges if self.sweep is not None else math.inf

    def drives(self, values: Array) -> Array:
        """(drives,) of all units where they show these values (units,), as the engine has them."""
        units = self.units
        forward, back = units.turned
        found = forward @ values + back @ values
        found = found.reshape(-1, GATES) + units.bias
        found[units.kinds == GRU, :TURNED] *= -1
        return np.asarray(found[:, : self.gates].T.ravel())

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
        found = matrix.tocoo()
        unit, gate = np.divmod(found.col, GATES)
        turned = (self.units.kinds[unit] == GRU) & (gate < TURNED)
        weights = np.where(turned, -found.data, found.data)
        to = gate * count + unit
        order = np.lexsort((to, found.row))
        source, to, weights = found.row[order], to[order], weights[order]
        begins = np.ones(len(to), bool)
        same = (np.diff(source) == 0) & (np.diff(to) == 1) & (np.diff(weights) == 0)
        begins[1:] = ~same
        first = np.flatnonzero(begins)
        size = np.diff(np.append(first, len(to)))
        several = size >= many
        weight = "f8" if self.dtype == "float64" else "f4"
        alone = np.repeat(~several, size)
        edges = np.zeros(np.count_nonzero(alone), _record(("to", "u4"), ("weight", weight)))
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
        shown = np.zeros((2, units.count), wired.number)
        for leaf, values in zip(units.leaves, leaves, strict=True):
            known = np.asarray(values, np.float64) + 0.0  # no -0.0
            if leaf.field == "memory":
                shown[1, leaf.units] = known
            else:
                low = units.lows[leaf.units]
                shown[0, leaf.units] = np.where(known < low, 0.0, known)
        values = shown[0].astype(np.float64)
        drives = wired.drives(values)
        driven = np.stack([drives, wired.bars(values)])
        stale = self._stale(drives, values)
        driven[1].reshape(wired.gates, -1)[:, stale] = np.inf
        waiting, ends = np.zeros(units.count, np.uint32), units.starts.astype(np.uint32)
        for stage in range(len(units.starts) - 1):
            first, last = units.starts[stage : stage + 2]
            own = np.flatnonzero(stale[first:last]) + first
            waiting[first : first + len(own)] = own
            ends[stage] += len(own)
        slots = np.zeros(len(units.slots), SLOT)
        slots["first"] = [slot.first for slot in units.slots]
        slots["token"] = [slot.token for slot in units.slots]
        kept = np.full((2, 0 if units.cells else units.count), NEVER)
        arrays = driven, shown, kept, waiting, ends, slots
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
        found._arrays = tuple(map(_copied, self._arrays))
        found._clock = self._clock.copy()
        return found

    # ------------------------------------------------------------ running

    def _common(self) -> tuple[Any, ...]:
        wired, units = self.wired, self.wired.units
        driven, shown, kept, waiting, ends, slots = self._arrays
        return (
            units.cells, wired.starts, wired.records, wired.forward, wired.alike, wired.back,
            wired.owners, driven, shown, kept, waiting, ends, *self._changes(), slots,
            units.readout,
        )  # fmt: skip

    def _changes(self) -> tuple[Any, Any]:
        """Room for the units of a stage and their changes."""
        count = self.wired.units.count
        if self.wired.compiled:
            return np.empty(count, np.uint32), np.empty(count)
        return [0] * count, [0.0] * count

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
        driven, shown, kept, waiting, ends, slots = self._arrays
        linear = row is not None and "hidden" in wired.fields
        last = (wired.shown, row) if linear else ()
        arrays = (
            driven, shown, kept, waiting, ends, *self._changes(), slots, self._room(),
            self._clock, given, rows, *last,
        )  # fmt: skip
        # What is called holds the arrays, of which the table has no more than the addresses.
        held = wired.turn, wired.table(arrays, tokens, linear), arrays

        def by_table() -> int:
            work: int = held[0](held[1])
            return work

        def and_told() -> int:
            work: int = held[0](held[1])
            self.told(cast(Array, row))
            return work

        return by_table if linear or row is None else and_told

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
        wired, (driven, shown, kept, *_) = self.wired, self._arrays
        for field, (units, places) in wired.fields.items():
            if field == "hidden":
                # It is the only field where there is one.
                wired.engine.collect(driven, kept, wired.shown, self.clock - 1, row)
                continue
            values = self._memory() if field == "memory" else np.asarray(shown[0])
            row[places] = values[units] + 0.0

    def _memory(self) -> Array:
        """What LSTM units hold; of those that are not looked at while they are shut, anew."""
        driven, shown, *_ = self._arrays
        found = np.array(shown[1], np.float64)
        a, _, c, d = np.asarray(driven[0]).reshape(GATES, -1)
        own = self.wired.forgetful[d[self.wired.forgetful] <= self.wired.engine.SHUT]
        found[own] = _sigmoid(a[own]) * np.tanh(c[own])
        return found


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


def _copied(held: Any) -> Any:
    if not isinstance(held, list):
        return held.copy()
    if not held or not isinstance(held[0], Record):
        return [part.copy() if isinstance(part, list) else part for part in held]
    found = [Record() for _ in held]
    for new, old in zip(found, held, strict=True):
        for name in Record.__slots__:
            if hasattr(old, name):
                setattr(new, name, getattr(old, name))
    return found
