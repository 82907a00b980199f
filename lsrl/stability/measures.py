"""What noise does to outputs: wrong tokens, errors, and the noise that a program bears."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.noise.copies import MEMORY, run_copies
from lsrl.noise.perturbations import Perturbation
from lsrl.noise.wrong import wrong_tokens

RESAMPLES = 1000


def mean_error(outputs: Array, expected: Array) -> Array:
    """The mean over tokens of the L2 norm of the error.

    Args:
      outputs: (copies, batch, time, outputs).
      expected: (batch, time, outputs).

    Returns:
      (copies,) float64; NaN or infinite where an output is.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.linalg.norm(outputs.astype(np.float64) - expected, axis=-1)
        return np.asarray(errors.mean(axis=(1, 2)))


def first_wrong_token(wrong: Array) -> Array:
    """The first token that is wrong in any sequence.

    Args:
      wrong: (copies, batch, time) bool.

    Returns:
      (copies,) int; -1 where none is.
    """
    anywhere = wrong.any(axis=1)
    return np.where(anywhere.any(axis=-1), anywhere.argmax(axis=-1), -1)


class Critical(NamedTuple):
    """The level at which a share of the tokens is wrong, with the 95 % interval over draws.

    Infinite where even the strongest level tried leaves fewer wrong; 0 where already the weakest
    makes more wrong.
    """

    level: float
    low: float
    high: float


def critical_level(
    levels: Sequence[float],
    wrong: Array,
    share: float = 0.05,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Critical:
    """The level at which a share of the tokens is wrong.

    The mean over draws is interpolated linearly in log level between the first level at which it
    exceeds the share and the one below. The interval is a percentile bootstrap over draws.

    Args:
      levels: (levels,) in rising order, above 0.
      wrong: (levels, draws): the fraction of wrong tokens.
      share: of wrong tokens.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      InputError: levels that do not rise from above 0, or another shape of `wrong`.
    """
    strengths, fractions = np.asarray(levels, float), np.asarray(wrong, float)
    if len(strengths) == 0 or strengths[0] <= 0 or (np.diff(strengths) <= 0).any():
        raise InputError(f"critical_level: expected rising levels above 0, got {levels!r}")
    if fractions.ndim != 2 or len(fractions) != len(strengths) or not fractions.shape[1]:
        raise InputError(
            f"critical_level: expected wrong tokens of shape ({len(strengths)}, draws), got "
            f"{fractions.shape}"
        )
    draws = fractions.shape[1]
    chosen = np.random.default_rng(seed).integers(draws, size=(resamples, draws))
    means = [fractions.mean(axis=1), *fractions[:, chosen].mean(axis=2).T]
    found = [_crossing(strengths, each, share) for each in means]
    # "lower" and "higher" never average 0 or infinity with a number.
    low = np.quantile(found[1:], 0.025, method="lower") if resamples else found[0]
    high = np.quantile(found[1:], 0.975, method="higher") if resamples else found[0]
    return Critical(float(found[0]), float(low), float(high))


def bracketed(
    levels: Sequence[float], wrong: Callable[[float], Array], share: float = 0.05
) -> dict[float, Array]:
    """Measure only the levels that tell where a share of the tokens is wrong.

    Found by bisection, as if the mean over draws rose with the level: one of the levels that exceed
    the share comes right after one that doesn't, unless all do or none does.

    Args:
      levels: in rising order.
      wrong: from a level to (draws,) fractions of wrong tokens.
      share: of wrong tokens.

    Returns:
      (draws,) by level measured, in rising order.
    """
    found: dict[float, Array] = {}
    below, above = -1, len(levels)
    while above - below > 1:
        middle = (below + above) // 2
        shares = found[levels[middle]] = wrong(levels[middle])
        if shares.mean() > share:
            above = middle
        else:
            below = middle
    return dict(sorted(found.items()))


def located(
    model: Model,
    given: Array,
    expected: Array,
    noise: Perturbation,
    draws: int,
    *,
    share: float = 0.05,
    memory: int = MEMORY,
) -> list[dict[str, float]]:
    """What it takes to tell at which level a share of the tokens is wrong.

    Args:
      model: with one input.
      given: prompts (batch, time).
      expected: (batch, scored, outputs), of the last `scored` tokens.
      noise: with the levels to choose from.
      draws: of it, each on all prompts.
      share: of wrong tokens.
      memory: as for `run_copies`.

    Returns:
      Rows of level, seed and wrong: the level 0 with one draw, then those of `bracketed`.
    """

    def wrong(level: float, seeds: int = draws) -> Array:
        outputs = run_copies(
            model, [given], noise, [level] * seeds, list(range(seeds)),
            memory=memory, last=expected.shape[1],
        )  # fmt: skip
        return np.asarray(wrong_tokens(outputs, expected).mean(axis=(1, 2)))

    found = {0.0: wrong(0.0, 1), **bracketed(noise.levels, wrong, share)}
    return [
        {"level": level, "seed": seed, "wrong": float(part)}
        for level, shares in found.items()
        for seed, part in enumerate(shares)
    ]


def clustered(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of one value a cluster, such as a program, with its 95 % interval by bootstrap."""
    array = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(len(array), size=(10 * RESAMPLES, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), (0.025, 0.975))
    return float(array.mean()), float(low), float(high)


def interval(values: Array, seed: int = 0) -> tuple[Array, Array, Array]:
    """Means over draws with their 95 % intervals by percentile bootstrap.

    Args:
      values: (levels, draws).
      seed: of the bootstrap.

    Returns:
      Mean, low and high: (levels,) each.
    """
    draws = values.shape[1]
    chosen = np.random.default_rng(seed).integers(draws, size=(RESAMPLES, draws))
    low, high = np.quantile(values[:, chosen].mean(axis=2), (0.025, 0.975), axis=1)
    return np.asarray(values.mean(axis=1)), np.asarray(low), np.asarray(high)


def _crossing(levels: Array, means: Array, share: float) -> float:
    above = np.flatnonzero(means > share)
    if not len(above):
        return float("inf")
    first = int(above[0])
    if first == 0:
        return 0.0
    before, after = means[first - 1], means[first]
    fraction = (share - before) / (after - before)
    logs = np.log(levels[first - 1 : first + 1])
    return float(np.exp(logs[0] + fraction * (logs[1] - logs[0])))
