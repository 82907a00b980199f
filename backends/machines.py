"""Machines of the event-driven engine: the units of an exact network on their way."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, final

import numpy as np

from lsrl.backends.units import GATES, LINEAR, LSTM, Units
from lsrl.ir.numbers import Array

# A number that no token has.
NEVER = -1.0


@final
class Record:
    """A unit, an edge or a slot of the engine where it isn't compiled: attributes alone."""

    __slots__ = tuple(sorted((
        "a", "b", "c", "d", "y", "s", "low", "fp", "fe", "rp", "re", "stage", "listed", "kind",
        "to", "weight", "first", "held", "token",
    )))  # fmt: skip


def records(array: Array) -> list[Record]:
    """As objects."""
    found = [Record() for _ in range(len(array))]
    for name in array.dtype.names or ():
        for record, value in zip(found, array[name].tolist(), strict=True):
            setattr(record, name, value)
    return found


def unit_type(dtype: str) -> np.dtype[np.void]:
    """Of a unit: for float32 networks one line of a processor's cache."""
    value = "f8" if dtype == "float64" else "f4"
    drives = [(name, "f8") for name in "abcd"]
    places = [(name, "u4") for name in ("fp", "fe", "rp", "re")]
    held = [("y", value), ("s", value), ("low", value)]
    return np.dtype(
        [*drives, *held, *places, ("stage", "u2"), ("listed", "u1"), ("kind", "u1")], align=True
    )


SLOT = np.dtype([("first", "u4"), ("held", "u4"), ("token", "u1")], align=True)


class Wired:
    """Units with their edges as the engine takes them, which machines share.

    Attributes:
      units: that they are of.
      engine: the module.
      dtype: of the network.
      number: of what it gives.
    """

    def __init__(self, units: Units, dtype: str, engine: ModuleType | None = None) -> None:
        """Of a network's units, for an engine; the installed one if None."""
        self.units, self.dtype = units, dtype
        self.number = np.dtype(np.float64 if dtype == "float64" else np.float32)
        self.engine: Any = engine or importlib.import_module("lsrl.backends.events")
        self.compiled = bool(self.engine.COMPILED)
        fresh = np.zeros(units.count, unit_type(dtype))
        fresh["low"], fresh["kind"] = units.lows, units.kinds
        inputs = int(units.starts[0])
        fresh["stage"][inputs:] = (
            np.searchsorted(units.starts, np.arange(inputs, units.count), side="right") - 1
        )
        for kind, (first, last) in (("forward", ("fp", "fe")), ("back", ("rp", "re"))):
            pointers = getattr(units, kind).indptr
            fresh[first], fresh[last] = pointers[:-1], pointers[1:]
        forgetful = self._forgetful()
        self.forgetful = np.flatnonzero(forgetful)
        fresh["low"] = np.where(forgetful, 0.0, fresh["low"])
        self.fresh = fresh
        self.forward = self._edges(units.forward, units.gated)
        self.back = self._edges(units.back, units.cells)
        self.starts = self.taken(units.starts.astype(np.uint32))
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

    def taken(self, array: Array) -> Any:
        """An array as the engine takes it; its own from now on."""
        if self.compiled:
            return array
        return records(array) if array.dtype.names else array.tolist()

    def rows(self, *shape: int) -> Array:
        """Room for outputs (..., outputs)."""
        return np.zeros((*shape, self.units.outputs), self.number)

    def _edges(self, matrix: Any, gated: bool) -> Any:
        weight = "f8" if self.dtype == "float64" else "f4"
        found = np.zeros(matrix.nnz, np.dtype([("to", "u4"), ("weight", weight)], align=True))
        found["to"] = matrix.indices if gated else matrix.indices // GATES
        found["weight"] = matrix.data
        return self.taken(found)


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
        self.held = wired.fresh.copy()
        for leaf, values in zip(units.leaves, leaves, strict=True):
            known = np.asarray(values, np.float64) + 0.0  # no -0.0
            if leaf.field == "memory":
                self.held["s"][leaf.units] = known
            else:
                low = units.lows[leaf.units]
                self.held["y"][leaf.units] = np.where(known < low, 0.0, known)
        values = self.held["y"].astype(np.float64)
        drives = (wired.units.drives @ values).reshape(-1, GATES) + units.bias
        for number, name in enumerate("abcd"):
            self.held[name] = drives[:, number]
        if not units.cells:
            self.held["d"] = NEVER
        self._list(drives, values)
        self._turning: tuple[Any, ...] | None = None
        self.clock = 0.0

    def _list(self, drives: Array, values: Array) -> None:
        """List all units whose value is not what their drives make it."""
        wired, units = self.wired, self.wired.units
        linear = units.kinds == LINEAR
        made = np.where(drives[:, 0] < units.lows, 0.0, drives[:, 0])
        made = np.where(linear, made, drives[:, 0] * drives[:, 1])
        stale = (made != values) | (units.kinds >= LSTM)
        stale[: units.starts[0]] = False
        self.held["listed"] = stale
        waiting, ends = np.zeros(units.count, np.uint32), units.starts.astype(np.uint32)
        for stage in range(len(units.starts) - 1):
            first, last = units.starts[stage : stage + 2]
            own = np.flatnonzero(stale[first:last]) + first
            waiting[first : first + len(own)] = own
            ends[stage] += len(own)
        slots = np.zeros(len(units.slots), SLOT)
        slots["first"] = [slot.first for slot in units.slots]
        slots["token"] = [slot.token for slot in units.slots]
        self._arrays: tuple[Any, ...] = tuple(map(wired.taken, (self.held, waiting, ends, slots)))

    def copy(self) -> "Machine":
        """Another one at the same place."""
        found = object.__new__(Machine)
        vars(found).update(vars(self))
        found._arrays = tuple(map(_copied, self._arrays))
        found._turning = None
        return found

    # ------------------------------------------------------------ running

    def _common(self) -> tuple[Any, ...]:
        wired, units = self.wired, self.wired.units
        held, waiting, ends, slots = self._arrays
        count = units.count
        who = np.empty(count, np.uint32) if wired.compiled else [0] * count
        by = np.empty(count) if wired.compiled else [0.0] * count
        return (
            units.gated, units.cells, wired.starts, held, wired.forward, wired.back, waiting, ends,
            who, by, slots, units.readout,
        )  # fmt: skip

    def follow(self, given: Array) -> Array:
        """Read tokens (tokens, slots); returns the outputs (tokens, outputs), of the dtype."""
        rows = self.wired.rows(len(given))
        self._follow((*self._common(), self._room()), given, rows)
        return rows

    def turn(self, given: Array, rows: Array) -> int:
        """Read one token (1, slots) and put the outputs (1, outputs) into rows; units looked at."""
        if self._turning is None:
            self._turning = (*self._common(), self._room())
        return self._follow(self._turning, given, rows)

    def _follow(self, common: tuple[Any, ...], given: Array, rows: Array) -> int:
        work: int = self.wired.engine.follow(*common, self.clock, given, rows)
        self._passed(len(given), work)
        return work

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
        self.clock += tokens
        self.tokens += tokens
        self.work += work

    def told(self, row: Array) -> None:
        """Put the arrays of `Units.leaves`, one after another, into a row."""
        wired, held = self.wired, self._arrays[0]
        for field, (units, places) in wired.fields.items():
            if field == "hidden":
                # It is the only field where there is one.
                wired.engine.collect(held, wired.shown, self.clock - 1, row)
                continue
            if field == "memory":
                values = self._memory(held)
            else:
                values = held["y"] if wired.compiled else self._column(held, "y")
            row[places] = values[units] + 0.0

    def _memory(self, held: Any) -> Array:
        """What LSTM units hold; of those that are not looked at while they are shut, anew."""
        found, a, c, d = (self._column(held, name) for name in "sacd")
        own = self.wired.forgetful[d[self.wired.forgetful] <= self.wired.engine.SHUT]
        found[own] = _sigmoid(a[own]) * np.tanh(c[own])
        return found

    def _column(self, held: Any, name: str) -> Array:
        if self.wired.compiled:
            return held[name].astype(np.float64)
        return np.array([getattr(u, name) for u in held], np.float64)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


def _copied(held: Any) -> Any:
    if not isinstance(held, list) or not held or not isinstance(held[0], Record):
        return held.copy()
    found = [Record() for _ in held]
    for new, old in zip(found, held, strict=True):
        for name in Record.__slots__:
            if hasattr(old, name):
                setattr(new, name, getattr(old, name))
    return found
