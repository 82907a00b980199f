"""The event-driven engine: only units whose drive has changed are looked at.

One source for two: compiled where numba is installed (the extra `lsrl[fast]`), and as it is where
it is not. So records are those of numba's arrays, or objects with the same attributes, and all else
arrays or lists of numbers, of two axes lists of lists.

Where a unit lies on a curve, of its change those drives are told whose function is not 0 where it
was, or where it is; see `lsrl.backends.curves`.

A unit has up to four drives. Drives lie gate by gate, so that of unit q and gate g is number
g * units + q; those of a network without gates are numbered as its units. What an edge touches of
a drive is one record: the drive, and its bar. A drive is float64: a change of a float32 value may
have a bit more than float32 holds. The drive's unit is listed, to be looked at, when the drive
comes to lie above the bar. So the bar of a shut ReLU is 0, that of what no drive can change yet is
infinite, and so are those of a unit that is listed. Of a unit's first drive the record also holds
what the unit shows.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar, cast

from lsrl.backends.records import (
    ALIKE,
    CHANGE,
    FLOAT,
    HANDED,
    INDEX,
    KEPT,
    MORE,
    OWNER,
    PIECE,
    SEGMENT,
    SLOT,
    STAGE,
    SUM,
    UNIT,
)
from lsrl.backends.units import GATES, LINEAR, LSTM, PRODUCT
from lsrl.extras import optional

Function = TypeVar("Function", bound=Callable[..., object])

numba: Any = optional("numba")
COMPILED = numba is not None
if COMPILED:
    from lsrl.backends.packed import flat, rows_of


def compiled(function: Function) -> Function:
    """By numba, or as it is."""
    return _by_numba(function, cache=True)


def part(function: Function) -> Function:
    """As `compiled`, within what calls it: to hand arrays over takes longer than most of them."""
    return _by_numba(function, forceinline=True)


def _by_numba(function: Function, **options: bool) -> Function:
    if numba is None:
        return function
    return cast(Function, numba.njit(nogil=True, error_model="numpy", **options)(function))


# How a run of tokens ends.
WENT_ON: Final = 0
HALTED: Final = 1
WAITING: Final = 2
# What a row is to have at the end of a run: nothing, what units show, or what they are driven by.
NOTHING: Final = 0
SHOWN: Final = 1
DRIVEN: Final = 2
# Where a sigmoid is 0 or 1 to the bit in float32, tanh is its argument, and tanh is 1.
SHUT: Final = -104.0
OPEN: Final = 18.0
SMALL: Final = 0.0004
LARGE: Final = 10.0
NEVER: Final = math.inf


@compiled
def sigmoid(x: float) -> float:
    """Of a drive; to the bit where it is saturated."""
    if x >= OPEN:
        return 1.0
    if x <= SHUT:
        return 0.0
    return 1.0 / (1.0 + math.exp(-x))


@compiled
def tanh(x: float) -> float:
    """Of a drive; to the bit where it is the identity or saturated. libm's is no identity."""
    if x > LARGE:
        return 1.0
    if x < -LARGE:
        return -1.0
    if abs(x) < SMALL:
        return x
    return math.tanh(x)


@part
def shut(q: int, drives: Any, count: int) -> None:
    """No drive of a unit can list it any more."""
    for gate in range(GATES):
        drives[gate * count + q].bar = NEVER


@part
def enter(drives: Any, slots: Any, x: Any, changes: Any, last: int) -> int:
    """Read one token: ids and entries of vectors, a slot each; returns where changes end."""
    for k in range(len(slots)):
        slot = slots[k]
        q = slot.first
        if slot.token:
            q += int(x[k])
            if q != slot.held:
                c = changes[last]
                c.unit = slot.held
                c.by = -1.0
                c = changes[last + 1]
                c.unit = q
                c.by = 1.0
                last += 2
                drives[slot.held].shown = 0
                drives[q].shown = 1
                slot.held = q
        else:
            o = drives[q]
            d = x[k] - o.shown
            if d != 0:
                o.shown = x[k]
                c = changes[last]
                c.unit = q
                c.by = d
                last += 1
    return last


@part
def gated(q: int, kind: int, shut: bool, drives: Any, held: Any, count: int) -> bool:
    """Look at a unit of several drives: what it shows, and its bars; whether it goes on by itself.

    Args:
      q: its number.
      kind: of it.
      shut: whether it is of no use to look at it while its output gate is shut.
      drives: of all units; the gates' of a GRU's unit have their sign turned.
      held: by all units.
      count: of units.
    """
    one = drives[q]
    two = drives[q + count]
    a = one.drive
    b = two.drive
    bar_a = bar_b = bar_c = bar_d = -NEVER
    on = False
    if kind == PRODUCT:
        one.shown = a * b
    else:
        c = drives[q + 2 * count].drive
        d = drives[q + 3 * count].drive
        if kind == LSTM:
            old = held[q]
            held[q] = sigmoid(b) * old + sigmoid(a) * tanh(c)
            one.shown = sigmoid(d) * tanh(held[q])
            # What it holds goes on from itself, though no drive changes.
            on = held[q] != old and b > SHUT
            if shut and d <= SHUT and one.shown == 0:
                bar_a = bar_b = bar_c = NEVER
                bar_d = SHUT
        else:
            old = one.shown
            z = sigmoid(-b)
            one.shown = (1.0 - z) * tanh(c + sigmoid(-a) * d) + z * old
            on = one.shown != old and -OPEN < b < -SHUT
            if b <= -OPEN:
                bar_a = bar_c = bar_d = NEVER
                bar_b = -OPEN
            elif b >= -SHUT and a <= -OPEN:
                bar_a = -OPEN
            elif b >= -SHUT and a >= -SHUT:
                bar_d = NEVER
    if on:
        bar_a = bar_b = bar_c = bar_d = NEVER
    one.bar = bar_a
    two.bar = bar_b
    drives[q + 2 * count].bar = bar_c
    drives[q + 3 * count].bar = bar_d
    return on


@part
def segment_of(x: float, segments: Any, first: int, last: int) -> int:
    """The one of some segments on end in which a number lies."""
    while last - first > 1:
        middle = (first + last) >> 1  # numba takes a quotient of these for a float64
        if segments[middle].begin <= x:
            first = middle
        else:
            last = middle
    return first


@part
def step(
    clock: float, stages: Any, units: Any, more: Any, forward: Any, alike: Any, back: Any,
    segments: Any, pieces: Any, owners: Any, drives: Any, held: Any, kept: Any, waiting: Any,
    ends: Any, changes: Any, slots: Any, x: Any,
) -> int:  # fmt: skip
    """Run one token; returns how many units were looked at."""
    work = 0
    count = len(units)
    linear = len(kept) > 0
    several = len(drives) > count
    # What has fallen is passed on first, so that few units open for a moment only: it lies before
    # the middle, what has risen behind it.
    middle = len(changes) // 2
    first = middle
    last = enter(drives, slots, x, changes, middle)
    for s in range(len(stages)):
        for i in range(first, last):
            c = changes[i]
            change = c.by
            u = units[c.unit]
            # To list a unit is written out: a call takes as long in plain Python, and by numba it
            # takes longer to hand arrays over.
            for k in range(u.first, u.last):
                e = forward[k]
                to = e.to
                o = drives[to]
                drive = o.drive + e.weight * change
                o.drive = drive
                if drive > o.bar:
                    o.bar = NEVER
                    owner = owners[to]
                    if several:
                        shut(owner.unit, drives, count)
                    g = owner.stage
                    place = ends[g]
                    waiting[place] = owner.unit
                    ends[g] = place + 1
            if u.more == 0:
                continue
            m = more[u.more]
            for k in range(m.first_alike, m.last_alike):
                r = alike[k]
                by = r.weight * change
                for to in range(r.to, r.end):
                    o = drives[to]
                    drive = o.drive + by
                    o.drive = drive
                    if drive > o.bar:
                        o.bar = NEVER
                        owner = owners[to]
                        if several:
                            shut(owner.unit, drives, count)
                        g = owner.stage
                        place = ends[g]
                        waiting[place] = owner.unit
                        ends[g] = place + 1
            for k in range(m.first_back, m.last_back):
                e = back[k]
                to = e.to
                # What linear units were driven by before is kept.
                if linear and kept[to].at != clock:
                    kept[to].at = clock
                    kept[to].before = drives[to].drive
                o = drives[to]
                drive = o.drive + e.weight * change
                o.drive = drive
                if drive > o.bar:
                    o.bar = NEVER
                    owner = owners[to]
                    if several:
                        shut(owner.unit, drives, count)
                    g = owner.stage
                    place = ends[g]
                    waiting[place] = owner.unit
                    ends[g] = place + 1
            if m.last_curve > m.first_curve:
                now = drives[c.unit].shown + 0.0
                old = segment_of(now - change, segments, m.first_curve, m.last_curve)
                new = segment_of(now, segments, m.first_curve, m.last_curve)
                f = segments[old]
                by = change
                sign = 0.0
                if old != new:
                    # What was told is taken back, before what is to be told.
                    by = f.origin - (now - change)
                    sign = -1.0
                while True:
                    for k in range(f.first, f.last):
                        p = pieces[k]
                        to = p.to
                        o = drives[to]
                        drive = o.drive + (p.slope * by + sign * p.base)
                        o.drive = drive
                        if drive > o.bar:
                            o.bar = NEVER
                            owner = owners[to]
                            if several:
                                shut(owner.unit, drives, count)
                            g = owner.stage
                            place = ends[g]
                            waiting[place] = owner.unit
                            ends[g] = place + 1
                    if old == new:
                        break
                    old = new
                    f = segments[new]
                    by = now - f.origin
                    sign = 1.0
        stage = stages[s]
        begin = stage.start
        end = ends[s]
        first = last = middle
        if begin == end:
            continue
        work += end - begin
        again = begin
        kind = stage.kind
        for i in range(begin, end):
            q = waiting[i]
            o = drives[q]
            # What is passed on is what the unit shows, which has been rounded to its dtype.
            old = o.shown + 0.0
            if kind == LINEAR:
                low = units[q].low
                drive = o.drive
                if drive > low:
                    o.shown = drive
                    o.bar = -NEVER if drive != 0 else low
                else:
                    o.shown = 0.0
                    o.bar = low
            elif gated(q, kind, units[q].low == 0, drives, held, count):
                waiting[again] = q
                again += 1
            d = o.shown - old
            if d < 0:
                first -= 1
                c = changes[first]
                c.unit = q
                c.by = d
            elif d > 0:
                c = changes[last]
                c.unit = q
                c.by = d
                last += 1
        ends[s] = again
    return work


@part
def handed_on(h: Any, drives: Any) -> float:
    """A number times what a unit shows, plus another one, between two bounds."""
    return min(max(h.scale * drives[h.unit].shown + h.offset, h.least), h.most)


@compiled
def collect(
    drives: Any, kept: Any, count: int, driven: bool, handed: Any, sums: Any, terms: Any,
    which: Any, last: float, row: Any,
) -> None:  # fmt: skip
    """Put into a row what units show, or what linear ones were driven by at a token.

    Numbers behind the count of all units are of units that are told by what another one shows. What
    drives some is a sum of such.
    """
    for i in range(len(which)):
        q = which[i]
        if q >= count:
            value = handed_on(handed[q - count], drives)
        elif not driven:
            value = drives[q].shown + 0.0
        elif kept[q].at == last:
            value = kept[q].before  # fed back to since
        else:
            value = drives[q].drive
        row[i] = value + 0.0
    for i in range(len(sums)):
        s = sums[i]
        value = s.offset
        for k in range(s.first, s.last):
            value += handed_on(terms[k], drives)
        row[s.place] = value + 0.0


@compiled
def follow(
    stages: Any, units: Any, more: Any, forward: Any, alike: Any, back: Any, segments: Any,
    pieces: Any, owners: Any, drives: Any, held: Any, kept: Any, waiting: Any, ends: Any,
    changes: Any, slots: Any, readout: int, x: Any,
    clock: float, given: Any, rows: Any,
) -> int:  # fmt: skip
    """Read tokens (tokens, slots); the outputs (tokens, outputs) are put into rows.

    Returns how many units were looked at; see `advance`.
    """
    work = 0
    for t in range(len(given)):
        for k in range(len(x)):
            x[k] = given[t, k]
        work += step(
            clock + t, stages, units, more, forward, alike, back, segments, pieces, owners, drives,
            held, kept, waiting, ends, changes, slots, x,
        )  # fmt: skip
        for k in range(rows.shape[1]):
            rows[t, k] = drives[readout + k].shown
    return work


@cache
def turning(number: Any, edge: Any, drive: Any) -> Callable[[Any], int]:
    """What reads the tokens of a table, and returns how many units were looked at.

    Args:
      number: dtype of values and outputs.
      edge: of edges.
      drive: of drives.
    """

    @compiled
    def turn(table: Any) -> int:
        size = len(table)
        readout, tokens = table[size - 3], table[size - 2]
        stages, units, more = flat(table, 0, STAGE), flat(table, 1, UNIT), flat(table, 2, MORE)
        forward, bunches, back = flat(table, 3, edge), flat(table, 4, ALIKE), flat(table, 5, edge)
        segments, pieces = flat(table, 6, SEGMENT), flat(table, 7, PIECE)
        owners, drives = flat(table, 8, OWNER), flat(table, 9, drive)
        held, kept = flat(table, 10, number), flat(table, 11, KEPT)
        waiting, ends = flat(table, 12, INDEX), flat(table, 13, INDEX)
        changes, slots = flat(table, 14, CHANGE), flat(table, 15, SLOT)
        x, clock = flat(table, 16, FLOAT), flat(table, 17, FLOAT)
        given, rows = rows_of(table, 18, tokens, FLOAT), rows_of(table, 19, tokens, number)
        work = 0
        for t in range(tokens):
            for k in range(len(x)):
                x[k] = given[t, k]
            work += step(
                clock[0], stages, units, more, forward, bunches, back, segments, pieces, owners,
                drives, held, kept, waiting, ends, changes, slots, x,
            )  # fmt: skip
            clock[0] += 1
            for k in range(rows.shape[1]):
                rows[t, k] = drives[readout + k].shown
        if table[size - 1]:
            handed, sums = flat(table, 20, HANDED), flat(table, 21, SUM)
            terms, which = flat(table, 22, HANDED), flat(table, 23, INDEX)
            row = flat(table, 24, number)
            driven = table[size - 1] == DRIVEN
            last = clock[0] - 1
            collect(drives, kept, len(units), driven, handed, sums, terms, which, last, row)
        return work

    return turn


@compiled
def holds(value: float, comparison: int, number: float) -> bool:
    """A comparison by its number: <, <=, ==, !=, >=, >."""
    if comparison == 0:
        return value < number
    if comparison == 1:
        return value <= number
    if comparison == 2:
        return value == number
    if comparison == 3:
        return value != number
    if comparison == 4:
        return value >= number
    return value > number


@compiled
def advance(
    stages: Any, units: Any, more: Any, forward: Any, alike: Any, back: Any, segments: Any,
    pieces: Any, owners: Any, drives: Any, held: Any, kept: Any, waiting: Any, ends: Any,
    changes: Any, slots: Any, readout: int, x: Any,
    clock: float, rest: Any, rows: Any, told: Any, number: float, keys: Any, result: Any,
) -> int:  # fmt: skip
    """Let a machine run on its own outputs until it stops.

    Args:
      stages: where the units of each begin, and what they are.
      units: where their edges to later stages begin and end, and the number of all else; 0 if none.
      more: where all other edges of a unit begin and end, and the segments of its curve.
      forward: edges to later stages.
      alike: as many at once, of one weight, to drives on end.
      back: edges to the next token.
      segments: of curves.
      pieces: of the functions that are not 0 in a segment.
      owners: the unit of each drive, and its stage.
      drives: with their bars, and what their units show.
      held: (units,) what cells hold.
      kept: of linear units their drive before what a token fed back, and that token; none of cells.
      waiting: listed units, each stage's from its start on.
      ends: where each stage's end.
      changes: room for those of a stage's units, twice.
      slots: of the inputs.
      readout: the first output's unit.
      x: what the first token reads, a slot each; then the next.
      clock: number of the first token.
      rest: what slots read that are not fed, from the second token on.
      rows: (tokens, outputs) room for outputs.
      told: the first output that is fed, how many, the first slot that they feed, whether that is
        an id; the slot of the key and the output that takes it, or -1; the output that halts, or
        -1, and how it is compared.
      number: what it is compared with.
      keys: those that are there.
      result: room for tokens done, keys taken, units looked at.

    Returns:
      How it ended. A token that wants a key that is not there is not counted, but was carried out.
    """
    start, count, fed, token = told[0], told[1], told[2], told[3]
    key, takes, halt, comparison = told[4], told[5], told[6], told[7]
    taken = 0
    work = 0
    ending = WENT_ON
    done = 0
    for t in range(len(rows)):
        if key >= 0:
            x[key] = keys[taken] if taken < len(keys) else 0.0
        work += step(
            clock + t, stages, units, more, forward, alike, back, segments, pieces, owners, drives,
            held, kept, waiting, ends, changes, slots, x,
        )  # fmt: skip
        for k in range(rows.shape[1]):
            rows[t, k] = drives[readout + k].shown
        if takes >= 0 and drives[readout + takes].shown == 1:
            if taken >= len(keys):
                ending = WAITING
                break
            taken += 1
        done = t + 1
        if t == 0:
            for k in range(len(x)):
                x[k] = rest[k]
        for k in range(count):
            value = drives[readout + start + k].shown
            x[fed + k] = round(value) if token else value
        if halt >= 0 and holds(drives[readout + halt].shown, comparison, number):
            ending = HALTED
            break
    result[0] = done
    result[1] = taken
    result[2] = work
    return ending
