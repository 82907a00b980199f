"""Linear states of the least order for impulse responses, as Ho and Kalman realise them.

Row (i, q) of the Hankel matrix is what output q does from i tokens on after a single input. Rows
that depend on no earlier one are the state (Ho and Kalman 1966; the selection is Popov's).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, final

import numpy as np

from lsrl.ir.numbers import Array

MOST_ORDER = 16
# A coefficient of other numbers is this fraction where it is that near to it.
MOST_DENOMINATOR = 64
MOST_SWAPS = 1000
# Equations beyond the unknowns that a dependence has to hold in, so that it is no accident.
SPARE = 2


@final
@dataclass(frozen=True, eq=False)
class Realisation:
    """s_t = matrix s_{t-1} + write u_t and y_t = read s_t, or direct u_t + read s_{t-1}.

    Attributes:
      matrix: (order, order).
      write: (order, inputs).
      read: (outputs, order).
      direct: (outputs, inputs) where outputs read the state of a token ago; None where they read
        the present one.
    """

    matrix: Array
    write: Array
    read: Array
    direct: Array | None

    def taps(self, lags: int, exact: bool = False) -> Array:
        """(lags, inputs, outputs), what the outputs do after single inputs; exact in fractions."""
        kind = _fractions if exact else np.asarray
        matrix, state, read = kind(self.matrix), kind(self.write), kind(self.read)
        found = [] if self.direct is None else [kind(self.direct).T]
        while len(found) < lags:
            found.append((read @ state).T)
            state = matrix @ state
        return np.array(found[:lags])


def _fractions(values: Array) -> Array:
    """The same numbers as rationals."""
    made = np.empty(values.shape, object)
    for place in np.ndindex(*values.shape):
        made[place] = Fraction(float(values[place]))
    return made


# The coefficients of some rows that give a row; None where there are none.
_Dependence: TypeAlias = Callable[[list[Array], Array], Sequence[Fraction | float] | None]


def realised(taps: Array, room: float = 0.0) -> Realisation | None:
    """The state of least order that gives impulse responses.

    Args:
      taps: (lags, inputs, outputs).
      room: share of the greatest number so far by which taps may be off; 0 for exact ones.

    Returns:
      Of two of one order, the one that is read at the present token; None where lags are too few to
      tell the order, or it is above MOST_ORDER.
    """
    found: Realisation | None = None
    for late in (False, True):
        most = MOST_ORDER if found is None else len(found.matrix) - 1
        made = _of_least_order(taps, late, most, room)
        found = found if made is None else made
    return found


def _of_least_order(taps: Array, late: bool, most: int, room: float) -> Realisation | None:
    values = taps[int(late) :]
    lags, inputs, outputs = values.shape
    dependence = _exactly if room == 0 else _about(room)
    chosen: list[tuple[int, int]] = []
    depends: dict[tuple[int, int], Sequence[Fraction | float]] = {}
    active = list(range(outputs))
    for start in range(lags):
        if not active:
            break
        width = lags - start
        rows = [values[i : i + width, :, q].ravel() for i, q in chosen]
        for output in list(active):
            row = values[start:, :, output].ravel()
            found = dependence(rows, row)
            if found is None:
                chosen.append((start, output))
                rows.append(row)
            elif width <= start or width * inputs < len(rows) + SPARE:
                return None
            else:
                depends[start, output] = found
                active.remove(output)
        if len(chosen) > most:
            return None
    if active:
        return None
    place = {row: number for number, row in enumerate(chosen)}

    def told(row: tuple[int, int]) -> list[Fraction | float]:
        """A row by the chosen ones."""
        made: list[Fraction | float] = [Fraction(0)] * len(chosen)
        if row in place:
            made[place[row]] = Fraction(1)
        else:
            made[: len(depends[row])] = depends[row]
        return made

    order = len(chosen)
    matrix = np.array([told((i + 1, q)) for i, q in chosen], object).reshape(order, order)
    write = np.array([values[i, :, q] for i, q in chosen]).reshape(order, inputs)
    read = np.array([told((0, q)) for q in range(outputs)], object).reshape(outputs, order)
    if room == 0 and any(value.denominator > 1 for value in (*matrix.flat, *read.flat)):
        matrix, write, read = _of_integers(matrix, write, read)
    direct = taps[0].T if late else None
    made = Realisation(
        matrix.astype(np.float64), write.astype(np.float64), read.astype(np.float64), direct
    )
    with np.errstate(over="ignore", invalid="ignore"):
        told_taps = made.taps(len(taps), exact=room == 0)
        off = np.abs(told_taps - taps).max(axis=(1, 2))
    return made if (off <= room * scale_of(taps)).all() else None


def _of_integers(matrix: Array, write: Array, read: Array) -> tuple[Array, Array, Array]:
    """The same in a basis of all states that integers as inputs lead to.

    These are a lattice, since integers as taps make it so, and the matrix takes it into itself
    (Rouchaleau, Wyman and Kalman 1972, over a principal ideal domain).
    """
    order = len(matrix)
    first = power = _fractions(write)
    columns: list[list[Fraction]] = []
    for _ in range(order):
        columns += [list(column) for column in power.T]
        power = matrix @ power
    basis = _echelon(columns)
    if len(basis) < order:
        return matrix, write, read
    back = np.array(_reduced(basis), object).T
    into = _inverse(back)
    return into @ matrix @ back, into @ first, read @ back


def _inverse(matrix: Array) -> Array:
    """Of an invertible matrix of rationals, by Gauss and Jordan."""
    order = len(matrix)
    both = np.concatenate([matrix, _fractions(np.eye(order))], axis=1)
    for k in range(order):
        pivot = k + next(i for i, value in enumerate(both[k:, k]) if value)
        both[[k, pivot]] = both[[pivot, k]]
        both[k] = both[k] / both[k, k]
        for i in range(order):
            if i != k:
                both[i] = both[i] - both[i, k] * both[k]
    return both[:, order:]


def _reduced(rows: list[list[Fraction]]) -> list[list[Fraction]]:
    """A basis of the same lattice of short rows (Lenstra, Lenstra and Lovász 1982).

    Lengths are taken in float64, which decides how short they get and nothing else.
    """
    found = [np.array(row, object) for row in rows]
    place = 1
    for _ in range(MOST_SWAPS):
        if place >= len(found):
            break
        for before in range(place - 1, -1, -1):
            triangle = np.linalg.qr(np.stack(found).astype(np.float64).T).R
            times = round(triangle[before, place] / triangle[before, before])
            found[place] = found[place] - times * found[before]
        triangle = np.linalg.qr(np.stack(found).astype(np.float64).T).R
        one, across, other = (
            triangle[place - 1, place - 1], triangle[place - 1, place], triangle[place, place]
        )  # fmt: skip
        if across**2 + other**2 >= 0.75 * one**2:
            place += 1
        else:
            found[place - 1], found[place] = found[place], found[place - 1]
            place = max(1, place - 1)
    return [list(row) for row in found]


def _echelon(rows: list[list[Fraction]]) -> list[list[Fraction]]:
    """A basis of the integer combinations of some rows, each with one more leading zero."""
    found: list[list[Fraction]] = []
    rest = [row for row in rows if any(row)]
    for place in range(len(rows[0]) if rows else 0):
        while True:
            leading = sorted((row for row in rest if row[place]), key=lambda row: abs(row[place]))
            if len(leading) < 2:
                break
            least = leading[0]
            for row in leading[1:]:
                times = round(row[place] / least[place])
                row[:] = [a - times * b for a, b in zip(row, least, strict=True)]
        found += leading
        rest = [row for row in rest if any(row) and row not in leading]
    return found


def scale_of(values: Array) -> Array:
    """(time,) the greatest number up to each token, of (time, ...); 1 where all are smaller."""
    flat = np.abs(values).reshape(len(values), -1).max(axis=1)
    return np.maximum(np.maximum.accumulate(flat), 1.0)


def _exactly(rows: list[Array], row: Array) -> list[Fraction] | None:
    """By elimination over the rationals."""
    count = len(rows)
    left = [[Fraction(value) for value in each.tolist()] for each in (*rows, row)]
    told = [[Fraction(int(i == j)) for j in range(count)] for i in range(count)]
    rest, coefficients = left[count], [Fraction(0)] * count
    for number in range(count):
        own = left[number]
        pivot = next((place for place, value in enumerate(own) if value), None)
        if pivot is None:  # cut off, it depends on the others
            continue
        for later in range(number + 1, count):
            factor = left[later][pivot] / own[pivot]
            if factor:
                left[later] = [a - factor * b for a, b in zip(left[later], own, strict=True)]
                told[later] = [
                    a - factor * b for a, b in zip(told[later], told[number], strict=True)
                ]
        factor = rest[pivot] / own[pivot]
        if factor:
            rest = [a - factor * b for a, b in zip(rest, own, strict=True)]
            coefficients = [a + factor * b for a, b in zip(coefficients, told[number], strict=True)]
    return None if any(rest) else coefficients


def _about(room: float) -> _Dependence:
    """By least squares; what is near a simple fraction is that where it does as well."""

    def dependence(rows: list[Array], row: Array) -> list[float] | None:
        size = max(1.0, float(np.abs(row).max()))
        if not rows:
            return [] if np.abs(row).max() <= room else None
        matrix = np.stack(rows, axis=1)
        found: Array = np.linalg.lstsq(matrix, row)[0]
        if np.abs(matrix @ found - row).max() > room * size:
            return None
        simple = np.array([float(Fraction(x).limit_denominator(MOST_DENOMINATOR)) for x in found])
        near = np.abs(matrix @ simple - row).max() <= room * size
        return [float(x) for x in (simple if near else found)]

    return dependence
