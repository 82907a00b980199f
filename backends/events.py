"""The event-driven engine: only units whose drive has changed are looked at.

One source for two: compiled where numba is installed (the extra `lsrl[fast]`), and as it is where
it is not. So records are those of numba's arrays, or objects with the same attributes, and all else
arrays or lists of numbers, of two axes lists of lists.

A unit has up to four drives. Drives lie gate by gate, so that of unit q and gate g is number
g * units + q; those of a network without gates are numbered as its units. A drive is float64: a
change of a float32 value may have a bit more than float32 holds. Of each drive there is a bar: its
unit is listed, to be looked at, when the drive comes to lie above it. So the bar of a shut ReLU is
0, that of what no drive can change yet is infinite, and so are those of a unit that is listed.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from lsrl.backends.units import GATES, LINEAR, LSTM, PRODUCT
from lsrl.extras import optional

Function = TypeVar("Function", bound=Callable[..., object])

numba: Any = optional("numba")
COMPILED = numba is not None


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
def put(owner: Any, units: Any, bars: Any, waiting: Any, ends: Any) -> None:
    """List the unit that owns a drive."""
    q = owner.unit
    bars[q] = NEVER
    if len(bars) > len(units):
        for gate in range(1, GATES):
            bars[gate * len(units) + q] = NEVER
    s = owner.stage
    place = ends[s]
    waiting[place] = q
    ends[s] = place + 1


@part
def push(
    change: float, first: int, last: int, edges: Any, drives: Any, bars: Any, owners: Any,
    units: Any, waiting: Any, ends: Any,
) -> None:  # fmt: skip
    """Pass a change on along edges."""
    for k in range(first, last):
        e = edges[k]
        to = e.to
        drive = drives[to] + e.weight * change
        drives[to] = drive
        if drive > bars[to]:
            put(owners[to], units, bars, waiting, ends)


@part
def push_alike(
    change: float, first: int, last: int, alike: Any, drives: Any, bars: Any, owners: Any,
    units: Any, waiting: Any, ends: Any,
) -> None:  # fmt: skip
    """Pass a change on along edges of one weight to drives on end, which processors do abreast."""
    for k in range(first, last):
        e = alike[k]
        by = e.weight * change
        above = 0
        for to in range(e.to, e.end):
            drive = drives[to] + by
            drives[to] = drive
            above += drive > bars[to]
        if above:
            for to in range(e.to, e.end):
                if drives[to] > bars[to]:
                    put(owners[to], units, bars, waiting, ends)


@part
def push_back(
    change: float, first: int, last: int, edges: Any, drives: Any, bars: Any, owners: Any,
    units: Any, waiting: Any, ends: Any, before: Any, at: Any, clock: float,
) -> None:  # fmt: skip
    """Pass a change on for the next token; what linear units were driven by before is kept."""
    for k in range(first, last):
        e = edges[k]
        to = e.to
        drive = drives[to]
        if at[to] != clock:
            at[to] = clock
            before[to] = drive
        drive += e.weight * change
        drives[to] = drive
        if drive > bars[to]:
            put(owners[to], units, bars, waiting, ends)


@part
def enter(shown: Any, slots: Any, x: Any, who: Any, by: Any) -> int:
    """Read one token: ids and entries of vectors, a slot each; returns how many units change."""
    m = 0
    for k in range(len(slots)):
        slot = slots[k]
        q = slot.first
        if slot.token:
            q += int(x[k])
            if q != slot.held:
                shown[slot.held] = 0
                who[m] = slot.held
                by[m] = -1.0
                shown[q] = 1
                who[m + 1] = q
                by[m + 1] = 1.0
                m += 2
                slot.held = q
        else:
            d = x[k] - shown[q]
            if d != 0:
                shown[q] = x[k]
                who[m] = q
                by[m] = d
                m += 1
    return m


@part
def gated(
    q: int, kind: int, shut: bool, drives: Any, bars: Any, shown: Any, held: Any, count: int
) -> bool:
    """Look at a unit of several drives: what it shows, and its bars; whether it goes on by itself.

    Args:
      q: its number.
      kind: of it.
      shut: whether it is of no use to look at it while its output gate is shut.
      drives: of all units; the gates' of a GRU's unit have their sign turned.
      bars: of all drives.
      shown: by all units.
      held: by all units.
      count: of units.
    """
    a = drives[q]
    b = drives[q + count]
    bar_a = bar_b = bar_c = bar_d = -NEVER
    on = False
    if kind == PRODUCT:
        shown[q] = a * b
    else:
        c = drives[q + 2 * count]
        d = drives[q + 3 * count]
        if kind == LSTM:
            old = held[q]
            held[q] = sigmoid(b) * old + sigmoid(a) * tanh(c)
            shown[q] = sigmoid(d) * tanh(held[q])
            # What it holds goes on from itself, though no drive changes.
            on = held[q] != old and b > SHUT
            if shut and d <= SHUT and shown[q] == 0:
                bar_a = bar_b = bar_c = NEVER
                bar_d = SHUT
        else:
            old = shown[q]
            z = sigmoid(-b)
            shown[q] = (1.0 - z) * tanh(c + sigmoid(-a) * d) + z * old
            on = shown[q] != old and -OPEN < b < -SHUT
            if b <= -OPEN:
                bar_a = bar_c = bar_d = NEVER
                bar_b = -OPEN
            elif b >= -SHUT and a <= -OPEN:
                bar_a = -OPEN
            elif b >= -SHUT and a >= -SHUT:
                bar_d = NEVER
    if on:
        bar_a = bar_b = bar_c = bar_d = NEVER
    bars[q] = bar_a
    bars[q + count] = bar_b
    bars[q + 2 * count] = bar_c
    bars[q + 3 * count] = bar_d
    return on


@part
def step(
    cells: bool, clock: float, starts: Any, units: Any, forward: Any, alike: Any, back: Any,
    owners: Any, drives: Any, bars: Any, shown: Any, held: Any, before: Any, at: Any, waiting: Any,
    ends: Any, who: Any, by: Any, slots: Any, x: Any,
) -> int:  # fmt: skip
    """Run one token; returns how many units were looked at."""
    work = 0
    room = len(who)
    count = len(units)
    for i in range(enter(shown, slots, x, who, by)):
        u = units[who[i]]
        push(by[i], u.first, u.last, forward, drives, bars, owners, units, waiting, ends)
        push_alike(
            by[i], u.first_alike, u.last_alike, alike, drives, bars, owners, units, waiting, ends
        )
    for s in range(len(starts) - 1):
        first = starts[s]
        last = ends[s]
        if first == last:
            continue
        work += last - first
        # What has fallen is passed on first, so that few units open for a moment only.
        fallen = 0
        risen = room
        again = first
        for i in range(first, last):
            q = waiting[i]
            u = units[q]
            old = shown[q] + 0.0
            if u.kind == LINEAR:
                drive = drives[q]
                if drive > u.low:
                    shown[q] = drive
                else:
                    shown[q] = 0
                bars[q] = -NEVER if shown[q] != 0 else u.low
            elif gated(q, u.kind, u.low == 0, drives, bars, shown, held, count):
                waiting[again] = q
                again += 1
            # What is passed on is what the unit shows, which has been rounded to its dtype.
            d = shown[q] - old
            if d < 0:
                who[fallen] = q
                by[fallen] = d
                fallen += 1
            elif d > 0:
                risen -= 1
                who[risen] = q
                by[risen] = d
        ends[s] = again
        for j in range(fallen + room - risen):
            i = j if j < fallen else j - fallen + risen
            u = units[who[i]]
            push(by[i], u.first, u.last, forward, drives, bars, owners, units, waiting, ends)
            if u.last_alike > u.first_alike:
                push_alike(
                    by[i], u.first_alike, u.last_alike, alike, drives, bars, owners, units,
                    waiting, ends,
                )  # fmt: skip
            if u.last_back == u.first_back:
                continue
            if cells:
                push(
                    by[i], u.first_back, u.last_back, back, drives, bars, owners, units, waiting,
                    ends,
                )  # fmt: skip
            else:
                push_back(
                    by[i], u.first_back, u.last_back, back, drives, bars, owners, units, waiting,
                    ends, before, at, clock,
                )  # fmt: skip
    return work


@compiled
def collect(driven: Any, kept: Any, which: Any, last: float, row: Any) -> None:
    """Put into a row what linear units were driven by at a token, fed back to or not."""
    drives = driven[0]
    before = kept[0]
    at = kept[1]
    for i in range(len(which)):
        q = which[i]
        row[i] = (before[q] if at[q] == last else drives[q]) + 0.0


@compiled
def follow(
    cells: bool, starts: Any, units: Any, forward: Any, alike: Any, back: Any, owners: Any,
    driven: Any, values: Any, kept: Any, waiting: Any, ends: Any, who: Any, by: Any, slots: Any,
    readout: int, x: Any, clock: float, given: Any, rows: Any,
) -> int:  # fmt: skip
    """Read tokens (tokens, slots); the outputs (tokens, outputs) are put into rows.

    Returns how many units were looked at; see `advance`.
    """
    drives, bars, shown, held, before, at = (
        driven[0], driven[1], values[0], values[1], kept[0], kept[1]
    )  # fmt: skip
    work = 0
    for t in range(len(given)):
        for k in range(len(x)):
            x[k] = given[t, k]
        work += step(
            cells, clock + t, starts, units, forward, alike, back, owners, drives, bars, shown,
            held, before, at, waiting, ends, who, by, slots, x,
        )  # fmt: skip
        for k in range(rows.shape[1]):
            rows[t, k] = shown[readout + k]
    return work


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
    cells: bool, starts: Any, units: Any, forward: Any, alike: Any, back: Any, owners: Any,
    driven: Any, values: Any, kept: Any, waiting: Any, ends: Any, who: Any, by: Any, slots: Any,
    readout: int, x: Any, clock: float, rest: Any, rows: Any, told: Any, number: float, keys: Any,
    result: Any,
) -> int:  # fmt: skip
    """Let a machine run on its own outputs until it stops.

    Args:
      cells: whether units are stock cells.
      starts: where each stage's units begin.
      units: what they are, and where their edges begin and end.
      forward: edges to later stages.
      alike: as many at once, of one weight, to drives on end.
      back: edges to the next token.
      owners: the unit of each drive, and its stage.
      driven: (2, drives), the drives and their bars.
      values: (2, units), what each shows and what it holds.
      kept: (2, units) of linear units: their drive before what a token fed back, and that token.
      waiting: listed units, each stage's from its start on.
      ends: where each stage's end.
      who: room for the units of a stage.
      by: room for their changes.
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
    drives, bars, shown, held, before, at = (
        driven[0], driven[1], values[0], values[1], kept[0], kept[1]
    )  # fmt: skip
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
            cells, clock + t, starts, units, forward, alike, back, owners, drives, bars, shown,
            held, before, at, waiting, ends, who, by, slots, x,
        )  # fmt: skip
        for k in range(rows.shape[1]):
            rows[t, k] = shown[readout + k]
        if takes >= 0 and shown[readout + takes] == 1:
            if taken >= len(keys):
                ending = WAITING
                break
            taken += 1
        done = t + 1
        if t == 0:
            for k in range(len(x)):
                x[k] = rest[k]
        for k in range(count):
            value = shown[readout + start + k]
            x[fed + k] = round(value) if token else value
        if halt >= 0 and holds(shown[readout + halt], comparison, number):
            ending = HALTED
            break
    result[0] = done
    result[1] = taken
    result[2] = work
    return ending
