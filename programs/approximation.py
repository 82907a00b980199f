"""Programs that learn a function of one number from what they read, and apply it."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.programs import checks
from lsrl.programs.entry import Entry, Inputs


def threshold_learner(levels: int = 6, max_length: int = 1000) -> Program:
    """A threshold learnt from examples.

    Input: two tokens each step, a number x from 0 to levels - 1 and its label, 0 below the
    threshold, 1 above, 2 where it is asked for. Output: 1 where x lies above the middle between the
    greatest x labelled 0 and the least x labelled 1, both up to and including this token, else 0.
    Before there are such examples, -1 and `levels` take their place.

    Shows: a classifier learnt in context, by counts of the levels that each class has reached.

    Args:
      levels: number of values of x, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    size = checks.integer("levels", levels, 2)
    # Row x tells which of the levels 0, 1, … the number x reaches, from below and from above.
    from_below = np.tri(size)
    from_above = np.tri(size).T

    @lsrl.program(max_length=checks.max_length(max_length))
    def threshold_learner(
        x: Annotated[Signal, Token(size)],
        label: Annotated[Signal, Token(3, ["BELOW", "ABOVE", "ASK"])],
    ) -> Annotated[Signal, Token(2)]:
        reached_below = lsrl.cumsum(lsrl.lookup(x, from_below) & label.one_hot[0])
        reached_above = lsrl.cumsum(lsrl.lookup(x, from_above) & label.one_hot[1])
        greatest_below = size - 1 - lsrl.relu(1 - reached_below).sum()
        least_above = lsrl.relu(1 - reached_above).sum()
        return 2 * x > greatest_below + least_above

    return threshold_learner


def threshold_learner_reference(
    numbers: Sequence[int], labels: Sequence[int], levels: int
) -> list[int]:
    """Keep the greatest and the least of two lists."""
    below, above, answers = [-1], [levels], []
    for x, label in zip(numbers, labels, strict=True):
        if label < 2:
            (below, above)[label].append(x)
        answers.append(int(2 * x > max(below) + min(above)))
    return answers


def _threshold_sample(rng: np.random.Generator, steps: int, levels: int) -> Inputs:
    """Examples of one threshold, a few of them wrong, and questions."""
    numbers = rng.integers(levels, size=steps)
    labels = (numbers >= rng.integers(levels + 1)).astype(np.int64)
    labels = np.where(rng.random(steps) < 0.05, 1 - labels, labels)
    return numbers, np.where(rng.random(steps) < 0.5, 2, labels)


def linear_interpolation(cells: int = 4, finest: int = 4, max_length: int = 64) -> Program:
    """A piecewise linear function told by its values at the knots, then applied.

    Input: cells + 1 tokens with the values f(0), f(1), …, f(cells), multiples of 1/finest from -1
    to 1; then arguments in the same place, from -1 to 1, which stand for the places from 0 to
    `cells`. Output: 0 while the values are told; then f there, linear between the knots.

    Shows: approximation in context by hat functions: products of weights and what was told.

    Args:
      cells: number of pieces, at least 1; a power of two keeps answers exact.
      finest: values and arguments are multiples of 1/finest; a power of two keeps answers exact.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    pieces, parts = checks.integer("cells", cells, 1), checks.integer("finest", finest, 1)
    knots = pieces + 1

    @lsrl.program(max_length=checks.max_length(max_length))
    def linear_interpolation(
        given: Annotated[Signal, Vector(1, low=-1, high=1, step=1 / parts)],
    ) -> Annotated[Signal, Vector(1, low=-knots, high=knots)]:
        arrives = [1 - lsrl.delay(lsrl.constant(1), 1)]
        while len(arrives) < knots:
            arrives.append(lsrl.delay(arrives[-1], 1))
        table = lsrl.concat(*(lsrl.latch(given, pulse) for pulse in arrives))
        place = (given + 1) * (pieces / 2)
        asked = lsrl.delay(lsrl.constant(1), knots)
        weight = lsrl.relu(asked - lsrl.absolute(place - np.arange(knots)))
        return (table * weight).sum()

    return linear_interpolation


def linear_interpolation_reference(
    rows: Sequence[Sequence[float]], cells: int
) -> list[tuple[float, ...]]:
    """Find the piece, and go along it."""
    table = [row[0] for row in rows[: cells + 1]]
    answers: list[tuple[float, ...]] = [(0.0,)] * len(table)
    for (x,) in rows[cells + 1 :]:
        place = (x + 1) * cells / 2
        left = min(int(place), cells - 1)
        share = place - left
        answers.append(((1 - share) * table[left] + share * table[left + 1],))
    return answers


ENTRIES = (
    Entry(
        threshold_learner,
        threshold_learner_reference,
        parameters=({"max_length": 64},),
        sampler=_threshold_sample,
    ),
    Entry(
        linear_interpolation,
        linear_interpolation_reference,
        parameters=({}, {"cells": 1, "finest": 8}),
    ),
)
