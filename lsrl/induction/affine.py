"""Affine recurrences: impulse responses by least squares, and what is the shortest state for them.

y_t = Σ_k h_k x_{t-k} + c_t. At token 0 the first input alone speaks, at token t only its h_t is
unknown; so every tap comes of one small regression, and the first that does not fit ends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np

from lsrl.induction.examples import Examples
from lsrl.induction.realisation import Realisation, realised
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token

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
    """An output as a finite filter of the inputs.

    Attributes:
      taps: (lags, columns + 1); the last column is that of the constant 1.
      sums: how many running sums are taken of it.
    """

    taps: Array
    sums: int = 0


@final
@dataclass(frozen=True, eq=False)
class Affine:
    """Every output as a filter.

    Attributes:
      columns: of the inputs.
      responses: one an output; None for those that read the state, in their order.
      state: what they read, of the columns and the constant 1; None where there are none.
    """

    columns: tuple[Column, ...]
    responses: tuple[Response | None, ...]
    state: Realisation | None

    def outputs(self) -> "list[Affine]":
        """Each output by itself."""
        found, row = list[Affine](), 0
        for response in self.responses:
            state = None
            if response is None and self.state is not None:
                direct = self.state.direct
                state = replace(
                    self.state, read=self.state.read[row : row + 1],
                    direct=None if direct is None else direct[row : row + 1],
                )  # fmt: skip
                row += 1
            found.append(Affine(self.columns, (response,), state))
        return found


def affine(examples: Examples) -> Affine | None:
    """Filters that give the outputs, of the numbers or of the symbols as such; None if none do."""
    for hot in (False, True):
        columns = columns_of(examples.types, hot)
        if columns is None or len(examples) < len(columns) + 2:
            continue
        values = marked(examples.types, examples.arrays, columns)
        taps = _taps(values, examples)
        found = None if taps is None else filters(columns, taps, NEAR)
        if found is not None:
            return found
    return None


def filters(columns: tuple[Column, ...], taps: Array, room: float) -> Affine | None:
    """The shortest filters with some taps.

    Args:
      columns: of the inputs.
      taps: (lags, columns + 1, outputs); the last column is that of the constant 1.
      room: share of the greatest tap so far by which others than multiples of GRID may be off.
    """
    responses = tuple(_shortest(taps[:, :, k]) for k in range(taps.shape[2]))
    endless = [k for k, response in enumerate(responses) if response is None]
    if not endless:
        return Affine(columns, responses, None)
    exact = bool((taps % GRID == 0).all())
    state = realised(taps[:, :, endless], 0.0 if exact else room)
    return None if state is None else Affine(columns, responses, state)


def columns_of(types: Mapping[str, InputType], hot: bool) -> tuple[Column, ...] | None:
    """Inputs as numbers, or with `hot` a column for each symbol but the first.

    None with `hot` where there are no symbols.
    """
    columns: list[Column] = []
    for name, kind in types.items():
        if not isinstance(kind, Token):
            several = kind.width > 1
            columns += [Column(f"{name}[{k}]" if several else name) for k in range(kind.width)]
        elif hot and 2 < kind.size <= MOST_SYMBOLS:
            columns += [Column(name, symbol) for symbol in range(1, kind.size)]
        else:
            columns.append(Column(name))
    symbols = any(column.symbol is not None for column in columns)
    return None if hot and not symbols else tuple(columns)


def marked(
    types: Mapping[str, InputType], arrays: Sequence[Array], columns: Sequence[Column]
) -> Array:
    """(sequences, time, columns): numbers, and 1 where a symbol is that of the column."""
    symbols = {column.name for column in columns if column.symbol is not None}
    values = []
    for (name, kind), array in zip(types.items(), arrays, strict=True):
        wide = array if array.ndim == 3 else array[..., None]
        if name in symbols and isinstance(kind, Token):
            wide = wide == np.arange(1, kind.size)
        values.append(wide.astype(float))
    return np.concatenate(values, axis=2)


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
    """A finite response, or running sums of one; None where it is neither."""
    differences = taps
    for sums in range(MOST_SUMS + 1):
        quiet = _quiet(differences)
        if quiet >= QUIET and (sums == 0 or quiet > len(taps) // 2):
            return Response(differences[: len(taps) - quiet], sums)
        differences = np.diff(differences, axis=0, prepend=0)
    return None


def _quiet(taps: Array) -> int:
    """Zeros at the end."""
    loud = np.nonzero(np.abs(taps).max(axis=1) > 0)[0]
    return len(taps) - (int(loud[-1]) + 1 if len(loud) else 1)
