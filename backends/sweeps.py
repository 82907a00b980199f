"""Whole sequences of an exact network, unit by unit, for many sequences at once.

Where networks are narrow, all that their units do at a token takes less time than to ask which of
them change. So every unit is looked at, its edges alone are added up, and a unit does its work for
a block of sequences side by side, which a processor does abreast; a few sequences run one after the
other, with what they hold in the processor's nearest cache. The certificate says that the order of
sums makes no difference.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

from lsrl.backends.events import COMPILED, compiled, part
from lsrl.backends.units import PRODUCT, Units
from lsrl.ir.numbers import Array

# What makes a row: edges; a product of two rows; a table of ids; or a ramp of ids.
ADDED, MULTIPLIED, LOOKED_UP, RAMP = range(4)
# Rows up to which all are looked at; sequences side by side, and from how many on they are.
MOST_ROWS: Final = 1 << 10
LEAST_LANES, MOST_LANES, FEW = 64, 256, 8
# Bytes that they hold between them, unless that were too few sequences: so they stay near the core.
NEAR = 1 << 17
# Bytes of a line of memory: loads and stores across two of them take a sixth of a run's time.
LINE = 1 << 6
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
    places = [(name, "u4") for name in ("first", "middle", "last", "slot", "place")]
    row = [*places, ("kind", "u4"), ("bias", number), ("low", number), ("slope", number)]
    edge = [("source", "u4"), ("weight", number)]
    return np.dtype(row, align=True), np.dtype(edge, align=True)


@compiled
def alone(
    rows: Any, edges: Any, told: Any, table: Any, ids: Any, given: Any, held: Any, outputs: Any
) -> None:
    """Run one sequence.

    Args:
      rows: (slots * rows,) records, what makes each at a token, one slot after another: the tokens
        take turns. In a slot those of `given` come first.
      edges: records, whose sources are entries of `held`.
      told: (slots, outputs) entries of `held`.
      table: of all rows that look ids up, one after another; behind them -inf and 0.
      ids: (time, tokens).
      given: (time, entries) of vectors.
      held: (places,), of the tokens before; then of the last tokens.
      outputs: (time, outputs), room for them.
    """
    entries = given.shape[1]
    slots = len(told)
    count = len(rows) // slots
    for t in range(len(outputs)):
        slot = t % slots
        now = slot * count
        for k in range(entries):
            held[rows[now + k].place] = given[t, k]
        for r in range(now + entries, now + count):
            u = rows[r]
            q = u.place
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
            outputs[t, k] = held[told[slot, k]] + 0


@part
def _turn_in(ids: Any, tokens: int, turned: Any) -> None:
    """Write ids (lanes, tokens, inputs) with lanes last."""
    for k in range(ids.shape[2]):
        for i in range(ids.shape[0]):
            for j in range(tokens):
                turned[j, k, i] = ids[i, j, k]


@part
def _turn_out(said: Any, tokens: int, outputs: Any) -> None:
    """Write what was said, lanes last, to outputs (lanes, tokens, outputs)."""
    if outputs.shape[2] == 1:
        for i in range(outputs.shape[0]):
            for j in range(tokens):
                outputs[i, j, 0] = said[j, 0, i]
        return
    for i in range(outputs.shape[0]):
        for j in range(tokens):
            for k in range(outputs.shape[2]):
                outputs[i, j, k] = said[j, k, i]


@compiled
def abreast(
    rows: Any, edges: Any, told: Any, table: Any, ids: Any, given: Any, held: Any,
    turned: Any, said: Any, outputs: Any,
) -> None:  # fmt: skip
    """Run sequences side by side.

    Args:
      rows: as of `alone`, as are edges, told and table.
      edges: see there.
      told: see there.
      table: see there.
      ids: (lanes, time, tokens).
      given: (lanes, time, entries).
      held: (places, width), as of `alone`; no narrower than there are lanes, as are the next two.
      turned: (BLOCK, tokens, width) room for ids.
      said: (BLOCK, outputs, width) room for outputs: so memory is read in order.
      outputs: (lanes, time, outputs), room for them.
    """
    entries = given.shape[2]
    slots = len(told)
    count = len(rows) // slots
    lanes = held.shape[1]
    # Of the dtype: numba takes float32 + 0 for float64.
    endless = table[len(table) - 2]
    zero = table[len(table) - 1]
    for start in range(0, outputs.shape[1], BLOCK):
        tokens = min(BLOCK, outputs.shape[1] - start)
        # A loop whose length is known before it is compiled takes half the time.
        if tokens == BLOCK:
            _turn_in(ids[:, start : start + BLOCK], BLOCK, turned)
        else:
            _turn_in(ids[:, start : start + tokens], tokens, turned)
        for j in range(tokens):
            t = start + j
            slot = t % slots
            now = slot * count
            for k in range(entries):
                q = rows[now + k].place
                for i in range(len(given)):
                    held[q, i] = given[i, t, k]
            for r in range(now + entries, now + count):
                u = rows[r]
                q = u.place
                bias = u.bias
                low = u.low
                if u.kind == ADDED:
                    # One pass makes the sum of up to three edges, each further one of two more.
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
                    for e in range(k + 3, u.last, 2):
                        least = low if e + 2 >= u.last else endless
                        w = edges[e].weight
                        p = edges[e].source
                        if e + 1 == u.last:
                            for i in range(lanes):
                                value = held[q, i] + w * held[p, i]
                                held[q, i] = value if value > least else least
                            continue
                        w2 = edges[e + 1].weight
                        p2 = edges[e + 1].source
                        for i in range(lanes):
                            value = held[q, i] + w * held[p, i] + w2 * held[p2, i]
                            held[q, i] = value if value > least else least
                elif u.kind == MULTIPLIED:
                    p = u.first
                    p2 = u.last
                    for i in range(lanes):
                        held[q, i] = held[p, i] * held[p2, i]
                elif u.kind == LOOKED_UP:
                    p = u.slot
                    p2 = u.first
                    for i in range(lanes):
                        held[q, i] = table[p2 + int(turned[j, p, i])]
                else:
                    p = u.slot
                    w = u.slope
                    for i in range(lanes):
                        held[q, i] = bias + w * turned[j, p, i]
            for k in range(outputs.shape[2]):
                p = told[slot, k]
                for i in range(lanes):
                    said[j, k, i] = held[p, i] + zero
        if tokens == BLOCK:
            _turn_out(said, BLOCK, outputs[:, start : start + BLOCK])
        else:
            _turn_out(said, tokens, outputs[:, start : start + tokens])


class _Turns(NamedTuple):
    """Rows and edges as the loops take them, where what is only handed on is read where it is.

    Attributes:
      rows: (slots * made rows,) records.
      edges: of all slots.
      root: (rows,) by row the number of what it is a copy of, among those that are made; itself.
      lag: (rows,) of how many tokens ago.
      first: (made rows,) where the first number of each is held, one token behind the other.
      period: (made rows,) of how many tokens.
      slots: tokens behind which all are held where they were.
      room: how many numbers are held.
      seen: (rows,) whether what a row has before the first token is read.
    """

    rows: Array
    edges: Array
    root: Array
    lag: Array
    first: Array
    period: Array
    slots: int
    room: int
    seen: Array

    def places(self, tokens: int) -> Array:
        """(rows,) where each row is held behind so many tokens."""
        return _held(self.first, self.period, self.root, tokens - 1 - self.lag)


def _held(first: Array, period: Array, made: Array, token: Array | int) -> Array:
    """Where numbers of rows that are made are held of a token."""
    return np.asarray(first[made] + token % period[made])


def _turns(rows: Array, edges: Array, kept: Array) -> _Turns:
    """Leave out rows that hand on one row as it is, of the same token or of the token before.

    Args:
      rows: records.
      edges: records.
      kept: (rows,) whether a state has it.
    """
    count = len(rows)
    copies = (rows["kind"] == ADDED) & (rows["last"] == rows["first"] + 1)
    copies &= rows["bias"] == 0
    read = edges[rows["first"][copies]]
    # A ReLU of a ReLU hands it on as well.
    shut = (rows["low"][copies] == 0) & (rows["low"][read["source"]] != 0)
    copies[copies] = (read["weight"] == 1) & ~shut
    past = np.zeros(len(edges), np.int64)
    for row in rows[rows["kind"] == ADDED]:
        past[row["middle"] : row["last"]] = 1
    seen = np.zeros(count, np.bool_)
    seen[edges["source"][past == 1]] = True
    root, lag = np.arange(count), np.zeros(count, np.int64)
    # A state may have different numbers for copies of one row, as it begins: only one has a place,
    # of those whose numbers are ever read.
    own = seen & kept
    taken = {(row, 0) for row in np.flatnonzero(~copies & own).tolist()}
    copied: set[int] = set()

    def follow(row: int) -> None:
        source = int(edges["source"][rows["first"][row]])
        behind = int(past[rows["first"][row]])
        found = int(root[source]), int(lag[source]) + behind
        # In a ring of copies one has to be made: the one that others have been traced to.
        free = row not in copied and found[0] != row
        if free and found[1] <= MOST_LAG and not (own[row] and found in taken):
            root[row], lag[row] = found
            copied.add(found[0])
        if own[row]:
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
    behind = lag[edges["source"]] + past
    # Tokens of which a row is held: what is read at its own token alone has one place, so that all
    # places together are near the core.
    oldest = np.zeros(len(made), np.int64)
    np.maximum.at(oldest, root, lag)
    np.maximum.at(oldest, root[edges["source"]], behind)
    period = 1 << np.ceil(np.log2(oldest + 1)).astype(np.int64)
    first = np.cumsum(period) - period
    slots, room = int(period.max(initial=1)), int(period.sum())
    chosen, parts, ends = rows[made], [], []
    product = chosen["kind"] == MULTIPLIED
    added = chosen["kind"] == ADDED
    for slot in range(slots):
        own_rows, own_edges = chosen.copy(), edges.copy()
        own_rows["place"] = _held(first, period, np.arange(len(made)), slot)
        own_edges["source"] = _held(first, period, root[edges["source"]], slot - behind)
        own_rows["first"][added] += slot * len(edges)
        own_rows["last"][added] += slot * len(edges)
        for name in ("first", "last"):
            source = chosen[name][product]
            own_rows[name][product] = _held(first, period, root[source], slot - lag[source])
        parts.append(own_rows)
        ends.append(own_edges)
    all_rows, all_edges = np.concatenate(parts), np.concatenate(ends)
    return _Turns(all_rows, all_edges, root, lag, first, period, slots, room, seen)


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
        self._table = np.concatenate([*told, [-np.inf, 0]]).astype(number)
        kept = np.zeros(len(rows), np.bool_)
        kept[place[self._shown]] = True
        self._turns = _turns(self._rows, self._edges, kept)
        readout = place[units.readout] + np.arange(units.outputs) if units.outputs else []
        # (slots, outputs) where they are held.
        held = [self._turns.places(slot + 1)[readout] for slot in range(self._turns.slots)]
        self._told = np.array(held, np.int64)
        fit = NEAR // (self._turns.room * number.itemsize)
        self._lanes = min(max(fit // LEAST_LANES, 1) * LEAST_LANES, MOST_LANES)

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
        turns, count, lanes = self._turns, len(self._rows), self._lanes
        alike = before.shape[1] == 1
        last = np.zeros((2, count, batch)) if with_state else None
        common = _taken(turns.rows), _taken(turns.edges), self._told, self._table
        tokens, outs = ids.shape[2], outputs.shape[2]

        def keep(own: slice | int, held: Array) -> None:
            if last is not None:
                last[:, :, own] = held[turns.places(time)], held[turns.places(time - 1)]

        def block(first: int) -> None:
            own = slice(first, min(first + lanes, batch))
            size = own.stop - first
            if size < FEW:
                for i in range(first, own.stop):
                    held = before[:, 0 if alike else i].copy()
                    alone(*common, ids[i], given[i], held, outputs[i])
                    keep(i, held)
                return
            held = self._room(size, turns.room)
            held[:, :size] = before if alike else before[:, own]
            turned, said = self._room(size, BLOCK, tokens), self._room(size, BLOCK, outs)
            abreast(*common, ids[own], given[own], held, turned, said, outputs[own])
            keep(own, held[:, :size])

        blocks = range(0, batch, lanes)
        if min(threads, len(blocks)) == 1 or batch * time * count < SHARED:
            for first in blocks:
                block(first)
        else:
            with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
                list(pool.map(block, blocks))
        return outputs, [] if last is None else self._ended(last)

    def _room(self, lanes: int, *shape: int) -> Array:
        """Zeros (*shape, lanes or more), which begin where vectors of the processor may."""
        width = -(-lanes * self.number.itemsize // LINE) * LINE
        size = math.prod(shape) * width
        plain = np.zeros(size + LINE, np.uint8)
        first = -plain.ctypes.data % LINE
        found = plain[first : first + size].view(self.number)
        return found.reshape(*shape, width // self.number.itemsize)

    def started(self, state: Sequence[Array]) -> Array:
        """What is held (places, batch) at a state: arrays of `Units.leaves`."""
        turns, units = self._turns, self._shown
        found = np.zeros((turns.room, len(state[0])), self.number)
        known = np.concatenate(state, axis=1).T + self.number.type(0)
        known = np.where(known < self.units.lows[units, None], 0, known)
        rows = self._place[units]
        seen = turns.seen[rows]
        found[turns.places(0)[rows[seen]]] = known[seen]
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
