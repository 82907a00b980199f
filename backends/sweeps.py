"""Whole sequences of an exact network, unit by unit, for many sequences at once.

Where networks are narrow, all that their units do at a token takes less time than to ask which of
them change. So every unit is looked at, its edges alone are added up, and a unit does its work for
a block of sequences side by side, which a processor does abreast; a few sequences run one after the
other, with what they hold in the processor's nearest cache. The certificate says that the order of
sums makes no difference.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

from lsrl.backends.events import COMPILED, compiled
from lsrl.backends.units import PRODUCT, Units
from lsrl.ir.numbers import Array

# What makes a row: edges; a product of two rows; a table of ids; or a ramp of ids.
ADDED, MULTIPLIED, LOOKED_UP, RAMP = range(4)
# Rows up to which all are looked at; sequences side by side, and from how many on they are.
MOST_ROWS: Final = 1 << 10
LEAST_LANES, MOST_LANES, FEW = 64, 256, 8
# Bytes that they hold between them, unless that were too few sequences: so they stay near the core.
NEAR = 1 << 17
# Tokens whose ids and outputs of sequences side by side are turned around at a time.
BLOCK = 16
# Tokens ago up to which a delay is read where it was made, rather than handed on.
MOST_LAG = 2
# Rows times tokens that a thread has to do before another one is of use.
SHARED = 1 << 24
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
    rows: Any, edges: Any, slots: int, table: Any, ids: Any, given: Any, readout: int, held: Any,
    outputs: Any,
) -> None:  # fmt: skip
    """Run one sequence.

    Args:
      rows: (slots * rows,) records, what makes each at a token, one slot after another: the tokens
        take turns. In a slot those of `given` come first.
      edges: records, whose sources are entries of `held`.
      slots: how many there are.
      table: of all rows that look ids up, one after another; behind them 0.
      ids: (time, tokens).
      given: (time, entries) of vectors.
      readout: row of the first output.
      held: (slots * rows,), the last slot of the token before; then of the last tokens.
      outputs: (time, outputs), room for them.
    """
    entries = given.shape[1]
    count = len(rows) // slots
    for t in range(len(outputs)):
        now = t % slots * count
        for k in range(entries):
            held[now + k] = given[t, k]
        for q in range(now + entries, now + count):
            u = rows[q]
            if u.kind == ADDED:
                value = u.bias
                for k in range(u.first, u.last):
                    e = edges[k]
                    value += e.weight * held[e.source]
                held[q] = value if value > u.low else u.low
            elif u.kind == MULTIPLIED:
                held[q] = held[u.first] * held[u.last]
            elif u.kind == LOOKED_UP:
                held[q] = table[u.first + ids[t, u.slot]]
            else:
                held[q] = u.bias + u.slope * ids[t, u.slot]
        for k in range(outputs.shape[1]):
            outputs[t, k] = held[now + readout + k] + 0


@compiled
def abreast(
    rows: Any, edges: Any, slots: int, table: Any, ids: Any, given: Any, readout: int, held: Any,
    turned: Any, said: Any, outputs: Any,
) -> None:  # fmt: skip
    """Run sequences side by side.

    Args:
      rows: as of `alone`, as are edges, slots, table and readout.
      edges: see there.
      slots: see there.
      table: see there.
      ids: (lanes, time, tokens).
      given: (lanes, time, entries).
      readout: see there.
      held: (slots * rows, lanes), as of `alone`.
      turned: (some tokens, tokens, lanes) room for ids.
      said: (some tokens, outputs, lanes) room for outputs: so memory is read in order.
      outputs: (lanes, time, outputs), room for them.
    """
    entries = given.shape[2]
    count = len(rows) // slots
    lanes = held.shape[1]
    zero = table[len(table) - 1]  # of the dtype: numba takes float32 + 0 for float64
    for start in range(0, outputs.shape[1], len(turned)):
        tokens = min(len(turned), outputs.shape[1] - start)
        # The innermost loops are long ones: one of a single token takes four times as long.
        for k in range(ids.shape[2]):
            for j in range(tokens):
                for i in range(lanes):
                    turned[j, k, i] = ids[i, start + j, k]
        for j in range(tokens):
            t = start + j
            now = t % slots * count
            for k in range(entries):
                for i in range(lanes):
                    held[now + k, i] = given[i, t, k]
            for q in range(now + entries, now + count):
                u = rows[q]
                bias = u.bias
                low = u.low
                if u.kind == ADDED:
                    # One pass makes the sum of up to three edges; others take one more each.
                    size = u.last - u.first
                    k = u.first
                    if size == 0:
                        for i in range(lanes):
                            held[q, i] = bias if bias > low else low
                        continue
                    w = edges[k].weight
                    p = edges[k].source
                    if size == 1:
                        for i in range(lanes):
                            value = bias + w * held[p, i]
                            held[q, i] = value if value > low else low
                        continue
                    w2 = edges[k + 1].weight
                    p2 = edges[k + 1].source
                    if size == 2:
                        for i in range(lanes):
                            value = bias + w * held[p, i] + w2 * held[p2, i]
                            held[q, i] = value if value > low else low
                        continue
                    w3 = edges[k + 2].weight
                    p3 = edges[k + 2].source
                    if size == 3:
                        for i in range(lanes):
                            value = bias + w * held[p, i] + w2 * held[p2, i] + w3 * held[p3, i]
                            held[q, i] = value if value > low else low
                        continue
                    for i in range(lanes):
                        held[q, i] = bias + w * held[p, i] + w2 * held[p2, i] + w3 * held[p3, i]
                    for e in range(k + 3, u.last):
                        w = edges[e].weight
                        p = edges[e].source
                        for i in range(lanes):
                            held[q, i] += w * held[p, i]
                    for i in range(lanes):
                        value = held[q, i]
                        held[q, i] = value if value > low else low
                elif u.kind == MULTIPLIED:
                    p = u.first
                    p2 = u.last
                    for i in range(lanes):
                        held[q, i] = held[p, i] * held[p2, i]
                elif u.kind == LOOKED_UP:
                    for i in range(lanes):
                        held[q, i] = table[u.first + int(turned[j, u.slot, i])]
                else:
                    slope = u.slope
                    for i in range(lanes):
                        held[q, i] = bias + slope * turned[j, u.slot, i]
            for k in range(outputs.shape[2]):
                for i in range(lanes):
                    said[j, k, i] = held[now + readout + k, i] + zero
        if outputs.shape[2] == 1:
            for i in range(lanes):
                for j in range(tokens):
                    outputs[i, start + j, 0] = said[j, 0, i]
            continue
        for i in range(lanes):
            for j in range(tokens):
                for k in range(outputs.shape[2]):
                    outputs[i, start + j, k] = said[j, k, i]


class _Turns(NamedTuple):
    """Rows and edges as the loops take them, where what is only handed on is read where it is.

    Attributes:
      rows: (slots * real,) records.
      edges: of all slots.
      slots: tokens that are held at once.
      real: rows that are made.
      root: (rows,) by row the number of what it is a copy of, among those that are made; itself.
      lag: (rows,) of how many tokens ago.
    """

    rows: Array
    edges: Array
    slots: int
    real: int
    root: Array
    lag: Array

    def places(self, tokens: int) -> Array:
        """(rows,) where each row is held behind so many tokens."""
        return np.asarray((tokens - 1 - self.lag) % self.slots * self.real + self.root)


def _turns(rows: Array, edges: Array, kept: Array) -> _Turns:
    """Leave out rows that hand on one row as it is, of the same token or of the token before.

    Args:
      rows: records.
      edges: records.
      kept: (rows,) 2 where a row is to be made, 1 where a state has it, else 0.
    """
    count = len(rows)
    copies = (rows["kind"] == ADDED) & (rows["last"] == rows["first"] + 1) & (kept < 2)
    copies &= rows["bias"] == 0
    read = edges[rows["first"][copies]]
    # A ReLU of a ReLU hands it on as well.
    shut = (rows["low"][copies] == 0) & (rows["low"][read["source"]] != 0)
    copies[copies] = (read["weight"] == 1) & ~shut
    root, lag = np.arange(count), np.zeros(count, np.int64)
    # A state may have different numbers for copies of one row, as it begins: only one has a place.
    taken = {(row, 0) for row in np.flatnonzero(~copies & (kept == 1)).tolist()}
    copied: set[int] = set()

    def follow(row: int) -> None:
        source = int(edges["source"][rows["first"][row]])
        past = int(rows["middle"][row] == rows["first"][row])
        found = int(root[source]), int(lag[source]) + past
        # In a ring of copies one has to be made: the one that others have been traced to.
        free = row not in copied and found[0] != row
        if free and found[1] <= MOST_LAG and not (kept[row] and found in taken):
            root[row], lag[row] = found
            copied.add(found[0])
        if kept[row]:
            taken.add((int(root[row]), int(lag[row])))

    waiting = set(np.flatnonzero(copies).tolist())

    def settle(row: int) -> None:
        # What was written at the token before may stand behind it, and so a copy of a copy.
        if row in waiting:
            waiting.discard(row)
            settle(int(edges["source"][rows["first"][row]]))
            follow(row)

    for row in np.flatnonzero(copies).tolist():
        settle(row)
    made = np.flatnonzero((root == np.arange(count)) & (lag == 0))
    number = np.full(count, -1)
    number[made] = np.arange(len(made))
    root = number[root]
    past = np.zeros(len(edges), np.int64)
    for row in rows[rows["kind"] == ADDED]:
        past[row["middle"] : row["last"]] = 1
    behind = lag[edges["source"]] + past
    slots = 2 + int(lag.max(initial=0))
    chosen, parts, ends = rows[made], [], []
    product = chosen["kind"] == MULTIPLIED
    for slot in range(slots):
        own, turned = chosen.copy(), edges.copy()
        turned["source"] = (slot - behind) % slots * len(made) + root[edges["source"]]
        own["first"][chosen["kind"] == ADDED] += slot * len(edges)
        own["last"][chosen["kind"] == ADDED] += slot * len(edges)
        for name in ("first", "last"):
            read = chosen[name][product]
            own[name][product] = (slot - lag[read]) % slots * len(made) + root[read]
        parts.append(own)
        ends.append(turned)
    return _Turns(np.concatenate(parts), np.concatenate(ends), slots, len(made), root, lag)


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
        gates = units.gates
        for unit in range(inputs, units.count):
            row = rows[place[unit]]
            own = [(row_, 1.0) for row_ in said.get(gates * unit, [])]
            own += [(int(place[source]), weight) for source, weight in forward[gates * unit]
                    if place[source] >= 0]  # fmt: skip
            row["bias"], row["low"] = units.bias[unit, 0], units.lows[unit]
            if units.kinds[unit] == PRODUCT:
                (other,) = forward[gates * unit + 1]
                row["kind"], row["first"], row["last"] = MULTIPLIED, own[0][0], place[other[0]]
                continue
            past = [(int(place[source]), weight) for source, weight in back[gates * unit]]
            row["first"], row["middle"] = len(edges), len(edges) + len(own)
            edges += own + past
            row["last"] = len(edges)
        self._rows = rows
        self._edges = np.array(edges or [(0, 0.0)], edge_type)
        self._table = np.concatenate([*told, np.zeros(1)]).astype(number)
        kept = np.zeros(len(rows), np.int64)
        kept[place[self._shown]] = 1
        outputs = np.arange(self._readout, self._readout + units.outputs)
        kept[: len(entries)], kept[outputs] = 2, 2
        self._turns = _turns(self._rows, self._edges, kept)

    def run(
        self, inputs: Sequence[Array], before: Array, threads: int, with_state: bool,
        dtype: DTypeLike | None = None,
    ) -> tuple[Array, list[Array]]:  # fmt: skip
        """Run whole sequences.

        Args:
          inputs: per program input ids (batch, time) or vectors (batch, time, width).
          before: of `started`, for the batch or for one sequence.
          threads: at most.
          with_state: whether the last state is wanted.
          dtype: of the outputs; that of the network's values if None.

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
        outputs = np.empty((batch, time, self.units.outputs), dtype or self.number)
        turns, count = self._turns, len(self._rows)
        room = turns.slots * turns.real
        fit = NEAR // (room * self.number.itemsize)
        lanes = min(max(fit // LEAST_LANES, 1) * LEAST_LANES, MOST_LANES)
        begun = before if before.shape[1] == batch else np.broadcast_to(before, (room, batch))
        last = np.zeros((2, count, batch)) if with_state else None
        now, past = turns.places(time), turns.places(time - 1)
        common = _taken(turns.rows), _taken(turns.edges), turns.slots, self._table
        readout, (tokens, outs) = int(turns.root[self._readout]), (ids.shape[2], outputs.shape[2])

        def block(first: int) -> None:
            own = slice(first, min(first + lanes, batch))
            size = own.stop - first
            if size < FEW:
                for i in range(first, own.stop):
                    held = begun[:, i].copy()
                    alone(*common, ids[i], given[i], readout, held, outputs[i])
                    if last is not None:
                        last[:, :, i] = held[now], held[past]
                return
            held = begun[:, own].copy()
            turned = np.empty((BLOCK, tokens, size), self.number)
            said = np.empty((BLOCK, outs, size), self.number)
            abreast(*common, ids[own], given[own], readout, held, turned, said, outputs[own])
            if last is not None:
                last[:, :, own] = held[now], held[past]

        blocks = range(0, batch, lanes)
        if min(threads, len(blocks)) == 1 or batch * time * count < SHARED:
            for first in blocks:
                block(first)
        else:
            with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
                list(pool.map(block, blocks))
        return outputs, [] if last is None else self._ended(last)

    def started(self, state: Sequence[Array]) -> Array:
        """What is held (slots * real rows, batch) at a state: arrays of `Units.leaves`."""
        turns, units = self._turns, self._shown
        found = np.zeros((turns.slots * turns.real, len(state[0])), self.number)
        known = np.concatenate(state, axis=1).T + self.number.type(0)
        known = np.where(known < self.units.lows[units, None], 0, known)
        found[turns.places(0)[self._place[units]]] = known
        return found

    def _ended(self, last: Array) -> list[Array]:
        """The state after the last token, arrays (batch, units); of rows there and one before."""
        now, before = last
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
    gates = units.gates
    both = units.drives[np.concatenate([gates * product, gates * product + 1])]
    alone_ = (np.diff(both.indptr) == 1).all() and (both.data == 1).all()
    unbiased = not units.bias[product].any()
    ids = np.array([slot.first for slot in units.slots if slot.token])
    inputs = int(units.starts[0])
    read = both.indices[both.indices < inputs]
    # Ids are turned around as values are.
    return bool(alone_ and unbiased and not (len(read) and len(ids)) and inputs < LARGEST)


def _taken(array: Array) -> Array:
    """Records with attributes."""
    return array if COMPILED else array.view(np.recarray)


def _by_row(matrix: sparse.csr_array) -> dict[int, list[tuple[int, float]]]:
    """Of each drive that edges lead to, their sources and weights."""
    found: dict[int, list[tuple[int, float]]] = {drive: [] for drive in range(matrix.shape[1])}
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
