"""The event-driven engine: only units whose drive has changed are looked at.

One source for two: compiled where numba is installed (the extra `lsrl[fast]`), and as it is where
it is not. So `units`, `forward`, `back` and `slots` are arrays of records of numba, or lists of
objects with the same attributes, and all else arrays or lists of numbers.

A unit has up to four drives, a to d; of linear units c is the drive before what this token fed
back, if d is this token's number. A drive is float64: a change of a float32 value may have a bit
more than float32 holds.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from lsrl.backends.units import GRU, LINEAR, LSTM, PRODUCT
from lsrl.extras import optional

Function = TypeVar("Function", bound=Callable[..., object])

numba: Any = optional("numba")
COMPILED = numba is not None


def compiled(function: Function) -> Function:
    """By numba, or as it is."""
    if numba is None:
        return function
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


# How a run of tokens ends.
WENT_ON: Final = 0
HALTED: Final = 1
WAITING: Final = 2
# Where a sigmoid is 0 or 1 to the bit in float32, tanh is its argument, and tanh is 1.
SHUT: Final = -104.0
OPEN: Final = 18.0
SMALL: Final = 0.0004
LARGE: Final = 10.0


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


@compiled
def push(
    units: Any, first: int, last: int, edges: Any, change: float, waiting: Any, ends: Any
) -> None:
    """Pass a change on to units of one drive; a ReLU that stays shut is not listed."""
    for k in range(first, last):
        e = edges[k]
        q = e.to
        u = units[q]
        z = u.a + e.weight * change
        u.a = z
        if u.listed == 0 and (z > u.low or u.y != 0):
            u.listed = 1
            s = u.stage
            c = ends[s]
            waiting[c] = q
            ends[s] = c + 1


@compiled
def push_back(
    units: Any, first: int, last: int, edges: Any, change: float, waiting: Any, ends: Any,
    clock: float,
) -> None:  # fmt: skip
    """Pass a change on to units of one drive for the next token; what was before is kept."""
    for k in range(first, last):
        e = edges[k]
        q = e.to
        u = units[q]
        z = u.a
        if u.d != clock:
            u.d = clock
            u.c = z
        z += e.weight * change
        u.a = z
        if u.listed == 0 and (z > u.low or u.y != 0):
            u.listed = 1
            s = u.stage
            c = ends[s]
            waiting[c] = q
            ends[s] = c + 1


@compiled
def spread_gates(
    units: Any, who: Any, by: Any, first: int, last: int, edges: Any, waiting: Any, ends: Any,
    back: bool,
) -> None:  # fmt: skip
    """Pass changes on to units of several drives; what its gates hold as it is is not listed."""
    for i in range(first, last):
        source = units[who[i]]
        change = by[i]
        begin = source.fp
        end = source.fe
        if back:
            begin = source.rp
            end = source.re
        for k in range(begin, end):
            e = edges[k]
            q = e.to >> 2
            gate = e.to & 3
            u = units[q]
            z = e.weight * change
            if gate == 0:
                z += u.a
                u.a = z
            elif gate == 1:
                u.b += z
            elif gate == 2:
                u.c += z
            else:
                u.d += z
            if u.listed == 0:
                kind = u.kind
                if kind == LINEAR:
                    still = u.a <= u.low and u.y == 0
                elif kind == GRU:
                    still = u.b >= OPEN
                elif kind == LSTM:
                    still = u.low == 0 and u.d <= SHUT and u.y == 0
                else:
                    still = False
                if not still:
                    u.listed = 1
                    s = u.stage
                    c = ends[s]
                    waiting[c] = q
                    ends[s] = c + 1


@compiled
def enter(units: Any, slots: Any, x: Any, who: Any, by: Any) -> int:
    """Read one token: ids and entries of vectors, a slot each; returns how many units change."""
    m = 0
    for k in range(len(slots)):
        slot = slots[k]
        q = slot.first
        if slot.token:
            q += int(x[k])
            if q != slot.held:
                units[slot.held].y = 0
                who[m] = slot.held
                by[m] = -1.0
                units[q].y = 1
                who[m + 1] = q
                by[m + 1] = 1.0
                m += 2
                slot.held = q
        else:
            u = units[q]
            d = x[k] - u.y
            if d != 0:
                u.y = x[k]
                who[m] = q
                by[m] = d
                m += 1
    return m


@compiled
def value(u: Any) -> float:
    """What the drives of a unit make, and what it holds."""
    kind = u.kind
    if kind == LINEAR:
        v = u.a
        if v < u.low:
            v = 0.0
    elif kind == PRODUCT:
        v = u.a * u.b
    elif kind == LSTM:
        u.s = sigmoid(u.b) * u.s + sigmoid(u.a) * tanh(u.c)
        v = sigmoid(u.d) * tanh(u.s)
    else:
        z = sigmoid(u.b)
        v = (1.0 - z) * tanh(u.c + sigmoid(u.a) * u.d) + z * u.y
    return v


@compiled
def step(
    clock: float, starts: Any, units: Any, forward: Any, back: Any, waiting: Any, ends: Any,
    who: Any, by: Any, slots: Any, x: Any,
) -> int:  # fmt: skip
    """Run one token through units of one drive; returns how many were looked at."""
    work = 0
    for i in range(enter(units, slots, x, who, by)):
        u = units[who[i]]
        push(units, u.fp, u.fe, forward, by[i], waiting, ends)
    for s in range(len(starts) - 1):
        first = starts[s]
        last = ends[s]
        if first == last:
            continue
        work += last - first
        m = 0
        for i in range(first, last):
            q = waiting[i]
            u = units[q]
            u.listed = 0
            v = u.a
            if v < u.low:
                v = 0.0
            d = v - u.y
            if d != 0:
                u.y = v
                push(units, u.fp, u.fe, forward, d, waiting, ends)
                if u.re > u.rp:
                    who[m] = q
                    by[m] = d
                    m += 1
        ends[s] = first
        for i in range(m):
            u = units[who[i]]
            push_back(units, u.rp, u.re, back, by[i], waiting, ends, clock)
    return work


@compiled
def step_gates(
    cells: bool, clock: float, starts: Any, units: Any, forward: Any, back: Any, waiting: Any,
    ends: Any, who: Any, by: Any, slots: Any, x: Any,
) -> int:  # fmt: skip
    """Run one token through units of several drives; returns how many were looked at."""
    work = 0
    room = len(who)
    fallen = enter(units, slots, x, who, by)
    spread_gates(units, who, by, 0, fallen, forward, waiting, ends, False)
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
            u.listed = 0
            held = u.s
            old = u.y + 0.0
            u.y = value(u)
            # What is passed on is what the unit shows, which has been rounded to its dtype.
            d = u.y - old
            if d < 0:
                who[fallen] = q
                by[fallen] = d
                fallen += 1
            elif d > 0:
                risen -= 1
                who[risen] = q
                by[risen] = d
            if cells and (
                (u.kind == LSTM and u.s != held and u.b > SHUT)
                or (u.kind == GRU and d != 0 and SHUT < u.b < OPEN)
            ):
                # What it holds goes on from itself, though no drive changes.
                u.listed = 1
                waiting[again] = q
                again += 1
        ends[s] = again
        spread_gates(units, who, by, 0, fallen, forward, waiting, ends, False)
        spread_gates(units, who, by, risen, room, forward, waiting, ends, False)
        if cells:
            spread_gates(units, who, by, 0, fallen, back, waiting, ends, True)
            spread_gates(units, who, by, risen, room, back, waiting, ends, True)
        else:
            for i in range(fallen):
                u = units[who[i]]
                push_back(units, u.rp, u.re, back, by[i], waiting, ends, clock)
            for i in range(risen, room):
                u = units[who[i]]
                push_back(units, u.rp, u.re, back, by[i], waiting, ends, clock)
    return work


@compiled
def collect(units: Any, which: Any, last: float, row: Any) -> None:
    """Put into a row what linear units were driven by at a token, fed back to or not."""
    for i in range(len(which)):
        u = units[which[i]]
        row[i] = (u.c if u.d == last else u.a) + 0.0


@compiled
def follow(
    gated: bool, cells: bool, starts: Any, units: Any, forward: Any, back: Any, waiting: Any,
    ends: Any, who: Any, by: Any, slots: Any, readout: int, x: Any, clock: float, given: Any,
    rows: Any,
) -> int:  # fmt: skip
    """Read tokens (tokens, slots); the outputs (tokens, outputs) are put into rows.

    Returns how many units were looked at.
    """
    work = 0
    for t in range(len(given)):
        for k in range(len(x)):
            x[k] = given[t, k]
        if gated:
            work += step_gates(
                cells, clock + t, starts, units, forward, back, waiting, ends, who, by, slots, x
            )
        else:
            work += step(clock + t, starts, units, forward, back, waiting, ends, who, by, slots, x)
        for k in range(rows.shape[1]):
            rows[t, k] = units[readout + k].y
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
    gated: bool, cells: bool, starts: Any, units: Any, forward: Any, back: Any, waiting: Any,
    ends: Any, who: Any, by: Any, slots: Any, readout: int, x: Any, clock: float, rest: Any,
    rows: Any, told: Any, number: float, keys: Any, result: Any,
) -> int:  # fmt: skip
    """Let a machine run on its own outputs until it stops.

    Args:
      gated: whether units have several drives.
      cells: whether units are stock cells.
      starts: where each stage's units begin.
      units: all of them.
      forward: edges to later stages.
      back: edges to the next token.
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
    start, count, fed, token = told[0], told[1], told[2], told[3]
    key, takes, halt, comparison = told[4], told[5], told[6], told[7]
    taken = 0
    work = 0
    ending = WENT_ON
    done = 0
    for t in range(len(rows)):
        if key >= 0:
            x[key] = keys[taken] if taken < len(keys) else 0.0
        if gated:
            work += step_gates(
                cells, clock + t, starts, units, forward, back, waiting, ends, who, by, slots, x
            )
        else:
            work += step(clock + t, starts, units, forward, back, waiting, ends, who, by, slots, x)
        for k in range(rows.shape[1]):
            rows[t, k] = units[readout + k].y
        if takes >= 0 and units[readout + takes].y == 1:
            if taken >= len(keys):
                ending = WAITING
                break
            taken += 1
        done = t + 1
        if t == 0:
            for k in range(len(x)):
                x[k] = rest[k]
        for k in range(count):
            value = units[readout + start + k].y
            x[fed + k] = round(value) if token else value
        if halt >= 0 and holds(units[readout + halt].y, comparison, number):
            ending = HALTED
            break
    result[0] = done
    result[1] = taken
    result[2] = work
    return ending
