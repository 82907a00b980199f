"""Markov parameters by asking: what an affine network does after single inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lsrl.induction.affine import GRID, Affine, Column, filters, marked
from lsrl.induction.realisation import scale_of
from lsrl.ir.numbers import Array, power_of_two_below
from lsrl.ir.types import InputType, Token, Vector

# Lags that are asked for at most.
LAGS = 48
# Noisy taps are taken for multiples of one of these grids as far as they are that near to it, if
# they are for so many lags.
GRIDS = (1.0, GRID)
NEAR = 1 / 32
LEAST_LAGS = 8
SPACING = 2.0**-52
# By how much less taps may be off, if what they lead to is no program.
TIGHTER = 8.0


def responses(
    ask: Callable[[Sequence[Array]], Array],
    types: Mapping[str, InputType],
    columns: Sequence[Column],
    length: int,
) -> Array:
    """Impulse responses, each against the same sequence without the impulse.

    Args:
      ask: inputs to outputs (sequences, time, outputs).
      types: of the inputs.
      columns: of the inputs, by `affine.columns_of`.
      length: tokens of the longest sequence that may be asked.

    Returns:
      (lags, columns + 1, outputs); the last column is that of the constant 1, as `Affine` has it.
    """
    lags, sizes = min(LAGS, length), np.zeros(len(columns))
    arrays: list[Array] = []
    for name, kind in types.items():
        own = [k for k, column in enumerate(columns) if column.name.partition("[")[0] == name]
        if isinstance(kind, Token):
            array = np.zeros((1 + len(columns), lags), np.int64)
            for k in own:
                symbol = columns[k].symbol
                array[1 + k, 0] = kind.size - 1 if symbol is None else symbol
                sizes[k] = array[1 + k, 0] if symbol is None else 1
        else:
            rest = np.clip(0.0, kind.low, kind.high)
            array = np.tile(rest, (1 + len(columns), lags, 1))
            for channel, k in enumerate(own):
                sizes[k] = _size(kind, channel, float(rest[channel]))
                array[1 + k, 0, channel] += sizes[k]
        arrays.append(array)
    outputs = ask(arrays)
    taps = (outputs[1:] - outputs[:1]) / np.where(sizes == 0, 1.0, sizes)[:, None, None]
    taps = np.moveaxis(taps, 0, 1)  # (lags, columns, outputs)
    rest = marked(types, [array[:1, :1] for array in arrays], columns)[0, 0]
    constant = outputs[0] - np.cumsum(np.einsum("kco,c->ko", taps, rest), axis=0)
    return np.concatenate([taps, np.diff(constant, axis=0, prepend=0)[:, None]], axis=1)


def _size(kind: Vector, channel: int, rest: float) -> float:
    """Of an impulse: a power of two, into the larger part of the range; 0 where there is none."""
    low, high = kind.low[channel], kind.high[channel]
    room, sign = max((high - rest, 1.0), (rest - low, -1.0))
    size = power_of_two_below(room) if 0 < room < np.inf else 0.0 if room <= 0 else 1.0
    grid = kind.grid()[channel]
    return sign * size if grid == 0 or size >= grid else 0.0


def superposed(values: Array, taps: Array) -> Array:
    """(sequences, lags, outputs): what single inputs do, added up.

    Args:
      values: (sequences, time, columns).
      taps: of `responses`.
    """
    lags = min(len(taps), values.shape[1])
    total = np.cumsum(taps[:lags, -1], axis=0) + np.zeros((len(values), 1, 1))
    for lag in range(lags):
        total[:, lag:] += values[:, : lags - lag] @ taps[lag, :-1]
    return total


def on_grids(columns: tuple[Column, ...], taps: Array, share: float) -> Iterator[Affine]:
    """Filters with some taps, or, where these may be off, with the numbers of a grid near them.

    Args:
      columns: of the inputs.
      taps: of `responses`.
      share: of the greatest tap so far by which taps may be off; 0 for exact ones.
    """
    for grid in GRIDS if share else ():
        snapped = np.round(taps / grid) * grid
        off = np.abs(taps - snapped).max(axis=(1, 2)) > NEAR * grid
        off |= scale_of(taps) * max(share**2, SPACING) > NEAR * grid  # no number is between
        lags = int(off.argmax()) if off.any() else len(taps)
        made = filters(columns, snapped[:lags], share) if lags >= LEAST_LAGS else None
        if made is not None:
            yield made
    made = None if share else filters(columns, taps, share)
    if made is not None:
        yield made


def near(columns: tuple[Column, ...], taps: Array, share: float) -> Iterator[Affine]:
    """Filters with taps that are off by less and less; what is within a room gives no state.

    The arguments are those of `on_grids`.
    """
    room = share
    while share and room >= max(share**2, SPACING):
        snapped = np.round(taps / GRID) * GRID
        close = np.abs(taps - snapped) <= room * scale_of(taps)[:, None, None]
        for each in (np.where(close, snapped, taps), taps):
            made = filters(columns, each, room)
            if made is not None:
                yield made
        room /= TIGHTER
