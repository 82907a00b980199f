"""A universal in-context approximator of functions: a table of cells is read from the prompt."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

import lsrl
from lsrl import Program, Signal, Vector
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs

# Of a cell's centre, or by a cell's index along each dimension, an int for one dimension.
Function = (
    Callable[[Array], ArrayLike] | Mapping[int, ArrayLike] | Mapping[tuple[int, ...], ArrayLike]
)


def vec2vec(
    in_dim: int = 1,
    out_dim: int = 1,
    cells: int = 4,
    low: float = 0.0,
    high: float = 1.0,
    value_bound: float = 3.0,
    ramp: float | None = None,
) -> Program:
    """Any continuous function on a cube, told by its prompt: look x up among the cells of a grid.

    Input: vectors of 1 + in_dim + out_dim numbers. Token 0: [x, 0, …, 0]. Then one token a cell,
    in product order, the last dimension fastest: [the cell's width (high − low)/cells, its lower
    corner (in_dim), the function's value (out_dim)]. Output: 0 until the cell that holds x has
    been read, then its value. Cells are half-open, [lower, upper), the last ones closed. An x
    within `ramp` below an edge is not legal, except that x = high belongs to the last cell: it may
    lie in the ramp of a comparison, and then breaks a promise of the prompt.

    Shows: universal in-context approximation of continuous functions (Petrov et al. 2024), to any
    accuracy as the cells get smaller.

    Args:
      in_dim: entries of x, at least 1.
      out_dim: entries of a value, at least 1.
      cells: cells along each dimension, at least 1.
      low: least entry of x.
      high: greatest entry of x.
      value_bound: greatest absolute value of the function.
      ramp: width of the zone below each edge that x stays out of; 2^-16·(high − low) by default.

    Raises:
      ProgramError: a parameter out of range, or a ramp too wide for the cells.

    Source: Petrov et al. (2024), arXiv 2406.01424, listing 2.
    """
    inputs, outputs = checks.integer("in_dim", in_dim, 1), checks.integer("out_dim", out_dim, 1)
    count = checks.integer("cells", cells, 1)
    least = checks.number("low", low)
    most = checks.number("high", high, above=least)
    bound = checks.number("value_bound", value_bound, above=0)
    zone = 2.0**-16 * (most - least) if ramp is None else checks.number("ramp", ramp, above=0)
    width = (most - least) / count
    if zone > width / 8:
        raise ProgramError(
            f"ramp: expected at most an eighth of a cell, {width / 8:g}, got {zone:g}; "
            "narrow the ramp or take fewer cells"
        )
    # Channel 0 holds the first entry of x or the width, the last channel of the corner the last
    # entry of the corner or 0, and those between entries of both.
    lows = [min(least, width), *[least] * (inputs - 1), min(least, 0.0), *[-bound] * outputs]
    highs = [max(most, width), *[most] * (inputs - 1), max(most, 0.0), *[bound] * outputs]

    @lsrl.program(max_length=1 + count**inputs)
    def vec2vec(
        cell: Annotated[Signal, Vector(1 + inputs + outputs, low=lows, high=highs)],
    ) -> Annotated[Signal, Vector(outputs, low=-bound, high=bound)]:
        is_first = 1 - lsrl.delay(lsrl.constant(1), 1)
        # At its upper end x would miss the last cell, so it is moved below, past the ramp there.
        x = lsrl.minimum(lsrl.latch(cell[:inputs], is_first), most - 2 * zone)
        lower = cell[1 : 1 + inputs]
        upper = lower + cell[0]
        # Ramps of half the zone leave room for rounding at both of its ends.
        reaches_lower = lsrl.greater_equal(x, lower, ramp=zone / 2)
        misses_upper = 1 - lsrl.greater_equal(x, upper, ramp=zone / 2)
        in_cell = lsrl.relu(reaches_lower.sum() + misses_upper.sum() - is_first - (2 * inputs - 1))
        return lsrl.latch(cell[1 + inputs :], in_cell, keeper="prompt")

    return vec2vec


def vec2vec_reference(
    rows: Sequence[Sequence[float]],
    in_dim: int,
    out_dim: int,
    cells: int,
    low: float,
    high: float,
    ramp: float | None,
) -> list[tuple[float, ...]]:
    """Number the cell that holds x, and wait for it."""
    width = (high - low) / cells
    # Half a zone is far more than what rounding can do to an edge.
    slack = (2.0**-16 * (high - low) if ramp is None else ramp) / 2
    wanted = 0
    for entry in rows[0][:in_dim]:
        number = max(k for k in range(cells) if k == 0 or entry >= low + k * width - slack)
        wanted = wanted * cells + number
    answer = (0.0,) * out_dim
    answers = [answer]
    for number, row in enumerate(rows[1:]):
        if number == wanted:
            answer = tuple(row[1 + in_dim :])
        answers.append(answer)
    return answers


def vec2vec_prompt(
    function: Function,
    x: ArrayLike,
    in_dim: int = 1,
    out_dim: int = 1,
    cells: int = 4,
    low: float = 0.0,
    high: float = 1.0,
) -> Array:
    """The input of `vec2vec` for a function and an x.

    Args:
      function: from a cell's centre, (in_dim,), to out_dim numbers; or a dictionary from a cell's
        index along each dimension, a tuple of ints (an int for one dimension), to out_dim numbers,
        0 where a cell is missing.
      x: in_dim numbers from low to high.
      in_dim: entries of x.
      out_dim: entries of a value.
      cells: cells along each dimension.
      low: least entry of x.
      high: greatest entry of x.

    Returns:
      float64 (1 + cells^in_dim, 1 + in_dim + out_dim).

    Raises:
      ProgramError: an x or a value of another size, or keys of the dictionary that are no cells.

    Example:
      print(rows.shape, lsrl.programs.vec2vec().run(rows)[-1])
    """
    indices = list(itertools.product(range(cells), repeat=in_dim))
    width = (high - low) / cells
    rows = np.zeros((1 + len(indices), 1 + in_dim + out_dim))
    rows[0, :in_dim] = _sized("x", x, in_dim)
    rows[1:, 0] = width
    rows[1:, 1 : 1 + in_dim] = low + width * np.array(indices)
    rows[1:, 1 + in_dim :] = [
        _sized(f"the value of cell {index}", value, out_dim)
        for index, value in zip(
            indices, _values(function, indices, low, width, out_dim), strict=True
        )
    ]
    return rows


def _values(
    function: Function, indices: list[tuple[int, ...]], low: float, width: float, out_dim: int
) -> list[ArrayLike]:
    """The function's value in each cell."""
    if not isinstance(function, Mapping):
        return [function(low + width * (np.array(index) + 0.5)) for index in indices]
    table = {key if isinstance(key, tuple) else (key,): value for key, value in function.items()}
    unknown = set(table) - set(indices)
    if unknown:
        raise ProgramError(
            f"vec2vec_prompt: expected keys from {indices[0]} to {indices[-1]}, one index a "
            f"dimension, got {sorted(unknown, key=repr)[0]}"
        )
    return [table.get(index, np.zeros(out_dim)) for index in indices]


def _sized(what: str, value: ArrayLike, size: int) -> Array:
    array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if array.shape != (size,):
        raise ProgramError(
            f"vec2vec_prompt: expected {size} number(s) for {what}, got shape {array.shape}"
        )
    return array


def _vec2vec_sample(
    rng: np.random.Generator,
    steps: int,
    in_dim: int,
    out_dim: int,
    cells: int,
    low: float,
    high: float,
    value_bound: float,
    ramp: float | None,
) -> Inputs:
    """A random function; x anywhere outside the unspecified zones, on edges now and then."""
    width = (high - low) / cells
    zone = 2.0**-16 * (high - low) if ramp is None else ramp
    lower = low + width * rng.integers(cells, size=in_dim)
    inside = np.where(rng.random(in_dim) < 0.3, 0.0, rng.uniform(0, width - 2 * zone, size=in_dim))
    x = np.where(rng.random(in_dim) < 0.1, high, lower + inside)
    values = rng.uniform(-value_bound, value_bound, size=(cells,) * in_dim + (out_dim,))
    table = {index: values[index] for index in np.ndindex(values.shape[:-1])}
    return (vec2vec_prompt(table, x, in_dim, out_dim, cells, low, high)[:steps],)


def _vec2vec_edges(
    in_dim: int, out_dim: int, cells: int, low: float, high: float, value_bound: float
) -> list[Inputs]:
    """Both ends and every edge as x, with values at the ends of their range."""
    width = (high - low) / cells
    values = itertools.cycle([value_bound, -value_bound, 0.0])
    table = {
        index: [next(values) for _ in range(out_dim)]
        for index in itertools.product(range(cells), repeat=in_dim)
    }
    corners = [low + width * edge for edge in range(cells)] + [high]
    return [
        (vec2vec_prompt(table, [corner] * in_dim, in_dim, out_dim, cells, low, high),)
        for corner in corners
    ]


ENTRIES = (
    Entry(
        vec2vec,
        vec2vec_reference,
        parameters=(
            {},
            {"in_dim": 2, "out_dim": 2, "cells": 5},
            {"in_dim": 3, "out_dim": 2, "cells": 4},
            {"cells": 10},
            {"cells": 3, "low": -2.0, "high": -0.5, "value_bound": 1.0, "ramp": 2.0**-6},
        ),
        sampler=_vec2vec_sample,
        edges=_vec2vec_edges,
        free=False,
    ),
)
