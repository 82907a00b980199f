"""Whole sequences of an exact network, unit by unit, for many sequences at once.

Where networks are narrow, all that their units do at a token takes less time than to ask which of
them change. So every unit is looked at, its edges alone are added up, and a unit does its work for
a block of sequences side by side, which a processor does abreast; a few sequences run one after the
other, with what they hold in the processor's nearest cache. The certificate says that the order of
sums makes no difference.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from scipy import sparse

from lsrl.backends.events import COMPILED, compiled
from lsrl.backends.units import GATES, PRODUCT, Units
from lsrl.ir.numbers import Array

# What makes a row: edges; a product of two rows; a table of ids; or a ramp of ids.
ADDED, MULTIPLIED, LOOKED_UP, RAMP = range(4)
# Rows up to which all are looked at; sequences side by side, and from how many on they are.
MOST_ROWS: Final = 1 << 10
LANES, FEW = 64, 8
# Rows times tokens that a thread has to do before another one is of use.
SHARED = 1 << 22
# Ids of a ramp are whole numbers that their slope keeps within what float32 holds.
LARGEST = 2.0**23


def _records(dtype: np.dtype[Any]) -> tuple[np.dtype[np.void], np.dtype[np.void]]:
    number = dtype.str
    places = [(name, "u4") for name in ("first", "middle", "last", "slot")]
    row = [*places, ("kind", "u4"), ("bias", number), ("low", number), ("slope", number)]
    edge = [("source", "u4"), ("weight", number)]
    return np.dtype(row, align=True), np.dtype(edge, align=True)


@compiled
def alone(
    rows: Any, edges: Any, table: Any, ids: Any, given: Any, readout: int, held: Any, outputs: Any
) -> None:
    """Run one sequence.

    Args:
      rows: records, what makes each; those of `given` come first.
      edges: records, of each row first those that read the same token.
      table: of all rows that look ids up, one after another.
      ids: (time, tokens).
      given: (time, entries) of vectors.
      readout: row of the first output.
      held: (2 * rows,), the second half of the token before; then of the last token the first half
        if the number of tokens is odd, else the second one.
      outputs: (time, outputs), room for them.
    """
    entries = given.shape[1]
    count = len(rows)
    for t in range(len(outputs)):
        now = (t & 1) * count
        before = count - now
        for k in range(entries):
            held[now + k] = given[t, k]
        for row in range(entries, count):
            u = rows[row]
            q = now + row
            if u.kind == ADDED:
                value = u.bias
                for k in range(u.first, u.middle):
                    e = edges[k]
                    value += e.weight * held[now + e.source]
                for k in range(u.middle, u.last):
                    e = edges[k]
                    value += e.weight * held[before + e.source]
                held[q] = value if value > u.low else u.low
            elif u.kind == MULTIPLIED:
                held[q] = held[now + u.first] * held[now + u.last]
            elif u.kind == LOOKED_UP:
                held[q] = table[u.first + ids[t, u.slot]]
            else:
                held[q] = u.bias + u.slope * ids[t, u.slot]
        for k in range(outputs.shape[1]):
            outputs[t, k] = held[now + readout + k] + 0


@compiled
def abreast(
    rows: Any, edges: Any, table: Any, ids: Any, given: Any, readout: int, held: Any, outputs: Any
) -> None:
    """Run sequences side by side.

    Args:
      rows: as of `alone`, as are edges, table and readout.
      edges: see there.
      table: see there.
      ids: (lanes, time, tokens).
      given: (lanes, time, entries).
      readout: see there.
      held: (2 * rows, lanes), as of `alone`.
      outputs: (lanes, time, outputs), room for them.
    """
    entries = given.shape[2]
    count = len(rows)
    lanes = held.shape[1]
    for t in range(outputs.shape[1]):
        now = (t & 1) * count
        before = count - now
        for k in range(entries):
            for i in range(lanes):
                held[now + k, i] = given[i, t, k]
        for row in range(entries, count):
            u = rows[row]
            q = now + row
            bias = u.bias
            low = u.low
            if u.kind == ADDED:
                # One pass makes the sum of up to three edges; others take one more each.
                size = u.last - u.first
                own = u.middle - u.first
                k = u.first
                if size == 0:
                    for i in range(lanes):
                        held[q, i] = bias if bias > low else low
                    continue
                e = edges[k]
                w = e.weight
                p = e.source + (now if own > 0 else before)
                if size == 1:
                    for i in range(lanes):
                        value = bias + w * held[p, i]
                        held[q, i] = value if value > low else low
                    continue
                e = edges[k + 1]
                w2 = e.weight
                p2 = e.source + (now if own > 1 else before)
                if size == 2:
                    for i in range(lanes):
                        value = bias + w * held[p, i] + w2 * held[p2, i]
                        held[q, i] = value if value > low else low
                    continue
                e = edges[k + 2]
                w3 = e.weight
                p3 = e.source + (now if own > 2 else before)
                if size == 3:
                    for i in range(lanes):
                        value = bias + w * held[p, i] + w2 * held[p2, i] + w3 * held[p3, i]
                        held[q, i] = value if value > low else low
                    continue
                for i in range(lanes):
                    held[q, i] = bias + w * held[p, i] + w2 * held[p2, i] + w3 * held[p3, i]
                for j in range(3, size):
                    e = edges[k + j]
                    w = e.weight
                    p = e.source + (now if own > j else before)
                    for i in range(lanes):
                        held[q, i] += w * held[p, i]
                for i in range(lanes):
                    value = held[q, i]
                    held[q, i] = value if value > low else low
            elif u.kind == MULTIPLIED:
                p = now + u.first
                p2 = now + u.last
                for i in range(lanes):
                    held[q, i] = held[p, i] * held[p2, i]
            elif u.kind == LOOKED_UP:
                for i in range(lanes):
                    held[q, i] = table[u.first + ids[i, t, u.slot]]
            else:
                slope = u.slope
                for i in range(lanes):
                    held[q, i] = bias + slope * ids[i, t, u.slot]
        for k in range(outputs.shape[2]):
            for i in range(lanes):
                outputs[i, t, k] = held[now + readout + k, i] + 0


class Sweep:
    """The units of a network as rows: entries of vectors, values of ids, and then unit by unit."""

    def __init__(self, units: Units, number: np.dtype[Any]) -> None:
        """Of units that `possible` allows.

        Args:
          units: of the network.
          number: the dtype of its values.
        """
        self.units, self.number = units, number
        inputs = int(units.starts[0])
        tokens = [slot for slot in units.slots if slot.token]
        entries = [slot for slot in units.slots if not slot.token]
        self._tokens = [slot.input for slot in tokens]
        self._vectors = list(dict.fromkeys(slot.input for slot in entries))
        forward, back = _by_row(units.forward), _by_row(units.back)
        # Rows of ids: what a slot of ids says to a unit that reads it.
        ends = sorted([slot.first for slot in units.slots] + [inputs])
        tables: list[tuple[int, int, Array]] = []
        for number_, slot in enumerate(tokens):
            symbols = ends[ends.index(slot.first) + 1] - slot.first
            own = units.forward[slot.first : slot.first + symbols].tocsc()
            for target in np.flatnonzero(np.diff(own.indptr)).tolist():
                values = own[:, [target]].toarray().ravel()
                tables.append((number_, target, values))
        first = len(entries) + len(tables)
        place = np.full(units.count, -1)
        place[[slot.first for slot in entries]] = np.arange(len(entries))
        place[inputs:] = first + np.arange(units.count - inputs)
        self._place = place
        self._shown = np.concatenate([leaf.units for leaf in units.leaves])
        self._readout = int(place[units.readout]) if units.outputs else 0
        row_type, edge_type = _records(number)
        rows = np.zeros(first + units.count - inputs, row_type)
        rows["low"] = -np.inf
        told: list[Array] = []
        said: dict[int, list[int]] = {}
        for row, (slot_number, target, values) in enumerate(tables, start=len(entries)):
            ramp = _ramp(values)
            rows[row]["slot"] = slot_number
            if ramp is None:
                rows[row]["kind"], rows[row]["first"] = LOOKED_UP, sum(map(len, told))
                told.append(values)
            else:
                rows[row]["kind"] = RAMP
                rows[row]["bias"], rows[row]["slope"] = ramp
            said.setdefault(target, []).append(row)
        edges: list[tuple[int, float]] = []
        for unit in range(inputs, units.count):
            row = rows[place[unit]]
            own = [(row_, 1.0) for row_ in said.get(GATES * unit, [])]
            own += [(int(place[source]), weight) for source, weight in forward[GATES * unit]
                    if place[source] >= 0]  # fmt: skip
            row["bias"], row["low"] = units.bias[unit, 0], units.lows[unit]
            if units.kinds[unit] == PRODUCT:
                (other,) = forward[GATES * unit + 1]
                row["kind"], row["first"], row["last"] = MULTIPLIED, own[0][0], place[other[0]]
                continue
            past = [(int(place[source]), weight) for source, weight in back[GATES * unit]]
            row["first"], row["middle"] = len(edges), len(edges) + len(own)
            edges += own + past
            row["last"] = len(edges)
        self._rows = rows
        self._edges = np.array(edges or [(0, 0.0)], edge_type)
        self._table = np.concatenate([*told, np.zeros(1)]).astype(number)

    def run(
        self, inputs: Sequence[Array], before: Array, threads: int, with_state: bool
    ) -> tuple[Array, list[Array]]:
        """Run whole sequences.

        Args:
          inputs: per program input ids (batch, time) or vectors (batch, time, width).
          before: (rows, batch or 1), of `started`.
          threads: at most.
          with_state: whether the last state is wanted.

        Returns:
          (batch, time, outputs), and the state after the last token if it is wanted.
        """
        batch, time = inputs[0].shape[:2]
        ids = np.zeros((batch, time, 0), np.int64)
        if len(self._tokens) == 1:
            ids = inputs[self._tokens[0]][..., None]  # no copy
        elif self._tokens:
            ids = np.stack([inputs[number] for number in self._tokens], axis=-1)
        given = np.zeros((batch, time, 0), self.number)
        if self._vectors:
            parts = [inputs[number] for number in self._vectors]
            given = np.concatenate(parts, axis=-1).astype(self.number)
        outputs = np.empty((batch, time, self.units.outputs), self.number)
        count = len(self._rows)
        before = np.broadcast_to(before, (count, batch))
        last = np.zeros((2, count, batch)) if with_state else None
        common = _taken(self._rows), _taken(self._edges), self._table

        def block(first: int) -> None:
            own = slice(first, min(first + LANES, batch))
            size = own.stop - first
            if size < FEW:
                for i in range(first, own.stop):
                    held = np.concatenate([np.zeros(count, self.number), before[:, i]])
                    alone(*common, ids[i], given[i], self._readout, held, outputs[i])
                    if last is not None:
                        last[:, :, i] = held.reshape(2, count)
                return
            held = np.zeros((2 * count, size), self.number)
            held[count:] = before[:, own]
            abreast(*common, ids[own], given[own], self._readout, held, outputs[own])
            if last is not None:
                last[:, :, own] = held.reshape(2, count, size)

        blocks = range(0, batch, LANES)
        if min(threads, len(blocks)) == 1 or batch * time * count < SHARED:
            for first in blocks:
                block(first)
        else:
            with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
                list(pool.map(block, blocks))
        return outputs, [] if last is None else self._ended(last, time)

    def started(self, state: Sequence[Array]) -> Array:
        """(rows, batch) at a state, arrays of `Units.leaves` (batch, units)."""
        found = np.zeros((len(self._rows), len(state[0])), self.number)
        units = self._shown
        known = np.concatenate(state, axis=1).T + self.number.type(0)
        found[self._place[units]] = np.where(known < self.units.lows[units, None], 0, known)
        return found

    def _ended(self, last: Array, time: int) -> list[Array]:
        """The state after the last token, arrays (batch, units)."""
        now, before = last if time & 1 else last[::-1]
        driven = now.copy()
        # A unit that a ReLU shuts is driven by what its row does not hold.
        for row in np.flatnonzero((self._rows["low"] == 0) & (self._rows["kind"] == ADDED)):
            u = self._rows[row]
            total = np.full(now.shape[1], float(u["bias"]))
            for k in range(u["first"], u["last"]):
                source, weight = self._edges[k]
                total += weight * (now if k < u["middle"] else before)[source]
            driven[row] = total
        found = []
        for leaf in self.units.leaves:
            values = driven if leaf.field == "hidden" else now
            found.append((values[self._place[leaf.units]].T + 0.0).astype(self.number))
        return found


def possible(units: Units) -> bool:
    """Whether units run by sweeps: they are linear ones and plain products, and not too many."""
    rows = units.count - int(units.starts[0])
    if units.cells or not 0 < rows <= MOST_ROWS or len(units.slots) > MOST_ROWS:
        return False
    product = np.flatnonzero(units.kinds == PRODUCT)
    both = units.drives[np.concatenate([GATES * product, GATES * product + 1])]
    alone_ = (np.diff(both.indptr) == 1).all() and (both.data == 1).all()
    unbiased = not units.bias[product].any()
    ids = np.array([slot.first for slot in units.slots if slot.token])
    inputs = int(units.starts[0])
    read = both.indices[both.indices < inputs]
    return bool(alone_ and unbiased and not (len(read) and len(ids)))


def _taken(array: Array) -> Array:
    """Records with attributes."""
    return array if COMPILED else array.view(np.recarray)


def _by_row(matrix: sparse.csr_array) -> dict[int, list[tuple[int, float]]]:
    """Of each drive that edges lead to, their sources and weights."""
    found: dict[int, list[tuple[int, float]]] = {
        GATES * unit + gate: [] for unit in range(matrix.shape[0]) for gate in range(GATES)
    }
    entries = matrix.tocoo()
    for source, drive, weight in zip(entries.row, entries.col, entries.data, strict=True):
        found[int(drive)].append((int(source), float(weight)))
    return found


def _ramp(values: Array) -> tuple[float, float] | None:
    """The value of the id 0 and the slope, where both are whole and that is all there is to say."""
    slope = float(values[1] - values[0]) if len(values) > 1 else 0.0
    ramp = values[0] + slope * np.arange(len(values))
    whole = (values == np.rint(values)).all() and np.abs(ramp).max() < LARGEST
    return (float(values[0]), slope) if whole and np.array_equal(ramp, values) else None
