"""Affine recurrences: impulse responses by least squares, and what is the shortest state for them.

y_t = Σ_k h_k x_{t-k} + c_t. At token 0 the first input alone speaks, at token t only its h_t is
unknown; so every tap comes of one small regression, and the first that does not fit ends it.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import scipy.linalg

from lsrl.induction.examples import Examples
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token

# Taps are multiples of this where that is near enough.
GRID = 2.0**-6
NEAR = 1e-6
MOST_SUMS = 4
# Zeros that end a finite impulse response, so that it is no accident.
QUIET = 2
# A symbol of more has no table of its own.
MOST_SYMBOLS = 64


class Column(NamedTuple):
    """A column of the inputs.

    Attributes:
      name: text of the input that it is of.
      symbol: which symbol it marks; None where it is the number itself.
    """

    name: str
    symbol: int | None = None


@final
@dataclass(frozen=True, eq=False)
class Response:
    """An output as a filter of the inputs.

    Attributes:
      taps: (lags, columns + 1); the last column is that of the constant 1.
      sums: how many running sums are taken of it.
      feedback: (order,) y_t = Σ a_j y_{t-j} + …; empty where taps are all there is.
      direct: whether tap 0 stands apart, and the recurrence begins with tap 1.
    """

    taps: Array
    sums: int = 0
    feedback: tuple[int, ...] = ()
    direct: bool = False


@final
@dataclass(frozen=True, eq=False)
class Affine:
    """Every output as a filter.

    Attributes:
      columns: of the inputs.
      responses: one an output.
    """

    columns: tuple[Column, ...]
    responses: tuple[Response, ...]


def affine(examples: Examples) -> Affine | None:
    """Filters that give the outputs, of the numbers or of the symbols as such; None if none do."""
    for hot in (False, True):
        made = _columns(examples, hot)
        if made is None:
            continue
        columns, values = made
        taps = _taps(values, examples)
        if taps is None:
            continue
        responses = [_shortest(taps[:, :, k]) for k in range(taps.shape[2])]
        if all(response is not None for response in responses):
            return Affine(columns, tuple(each for each in responses if each is not None))
    return None


def _columns(examples: Examples, hot: bool) -> tuple[tuple[Column, ...], Array] | None:
    """(sequences, time, columns): numbers, or with `hot` a mark for each symbol but the first."""
    columns: list[Column] = []
    values: list[Array] = []
    symbols = False
    for (name, kind), array in zip(examples.types.items(), examples.arrays, strict=True):
        if isinstance(kind, Token):
            if hot and 2 < kind.size <= MOST_SYMBOLS:
                columns += [Column(name, symbol) for symbol in range(1, kind.size)]
                values.append((array[..., None] == np.arange(1, kind.size)).astype(float))
                symbols = True
            else:
                columns.append(Column(name))
                values.append(array[..., None].astype(float))
        else:
            several = kind.width > 1
            columns += [Column(f"{name}[{k}]" if several else name) for k in range(kind.width)]
            values.append(array)
    joined = np.concatenate(values, axis=2)
    if (hot and not symbols) or len(examples) < len(columns) + 2:
        return None
    return tuple(columns), joined


def _taps(values: Array, examples: Examples) -> Array | None:
    """(lags, columns + 1, outputs); the last column tells the constants' steps.

    Of tokens that too few sequences reach none is found.
    """
    first = np.concatenate([values[:, 0], np.ones((len(values), 1))], axis=1)
    if np.linalg.matrix_rank(first) < first.shape[1]:
        return None
    solve, reached = np.linalg.pinv(first), len(first)
    outputs, whole = examples.outputs, examples.whole
    scale = max(1.0, float(np.abs(outputs).max()))
    taps = np.zeros((examples.length, first.shape[1], outputs.shape[2]))
    for token in range(examples.length):
        rows = examples.lengths > token
        if rows.sum() < reached:
            reached = int(rows.sum())
            if reached < first.shape[1] + 1 or (
                np.linalg.matrix_rank(first[rows]) < first.shape[1]
            ):
                taps = taps[:token]
                break
            solve = np.linalg.pinv(first[rows])
        rest = outputs[rows, token].copy()
        for lag in range(token):
            rest -= values[rows, token - lag] @ taps[lag, :-1]
        found = solve @ rest
        snapped = np.round(found / GRID) * GRID
        found = np.where(np.abs(found - snapped) < NEAR * scale, snapped, found)
        room = 0.0 if whole and (found % GRID == 0).all() else NEAR * scale
        if np.abs(first[rows] @ found - rest).max() > room:
            return None
        taps[token] = found
    taps[1:, -1] = np.diff(taps[:, -1], axis=0)  # of the constant at a token, what is new
    return taps


def _shortest(taps: Array) -> Response | None:
    """A finite response, running sums of one, or a recurrence of integers."""
    differences = taps
    for sums in range(MOST_SUMS + 1):
        quiet = _quiet(differences)
        if quiet >= QUIET and (sums == 0 or quiet > len(taps) // 2):
            return Response(differences[: len(taps) - quiet], sums)
        differences = np.diff(differences, axis=0, prepend=0)
    for order in range(1, (len(taps) - 1) // 2 + 1):
        for direct in (False, True):
            feedback = _feedback(taps[1:] if direct else taps, order)
            if feedback is not None:
                return Response(taps[: order + direct], 0, feedback, direct)
    return None


def _quiet(taps: Array) -> int:
    """Zeros at the end."""
    loud = np.nonzero(np.abs(taps).max(axis=1) > 0)[0]
    return len(taps) - (int(loud[-1]) + 1 if len(loud) else 1)


def _feedback(taps: Array, order: int) -> tuple[int, ...] | None:
    """Integers a with h_k = Σ_j a_j h_{k-j} for every k from the order on."""
    rows = np.concatenate([taps[k - order : k][::-1].T for k in range(order, len(taps))])
    wanted = np.concatenate(list(taps[order:]))
    if len(wanted) < order + 2 or len(taps) < 2 * order + 1:
        return None
    found: Array = scipy.linalg.lstsq(rows, wanted)[0]
    whole = np.round(found)
    scale = max(1.0, float(np.abs(wanted).max()))
    if not np.isfinite(found).all() or np.abs(rows @ whole - wanted).max() > NEAR * scale:
        return None
    return tuple(int(each) for each in whole)
