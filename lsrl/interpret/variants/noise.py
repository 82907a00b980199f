"""The variant `noised`: weight noise at a level that the stability lab calls safe.

w + σ |w| ε with ε from a standard normal, for every weight that is not zero: noise relative to each
weight, as for any parametrisation of the network (`lsrl.noise.perturbations.RELATIVE`). The safe
level is a fraction of the critical one, at which 5 % of the tokens are wrong.
"""

import numpy as np

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_made, random_sampler, variant
from lsrl.ir.evaluate import evaluate
from lsrl.model import Model
from lsrl.noise.copies import run_copies
from lsrl.noise.perturbations import WeightNoise
from lsrl.noise.wrong import allowed_error, wrong_tokens
from lsrl.parameters import entries, with_entries

# Levels that are tried for a safe one, and the draws that must all be right at it and below.
LEVELS = tuple(10.0 ** (exponent / 2) for exponent in range(-14, -1))
DRAWS = 8
# Input maps too: a benchmark has no part that is cleaner than the rest.
NOISE = WeightNoise("noised", levels=LEVELS, unit="relative", spared=())


def noised(
    model: Model, seed: int = 0, sigma: float | None = None, *, sampler: Sampler | None = None
) -> Model:
    """Add noise to every weight that is not zero, in proportion to it.

    Args:
      model: compiled, or a variant.
      seed: of the noise.
      sigma: its standard deviation relative to the weights; by default `safe_level`.
      sampler: of the inputs that the level and the card's figures come from.

    Raises:
      InputError: a level that is no number from 0 on, or no level is safe.
    """
    check_made("noised", model, sampler, seed)
    if sigma is not None:
        arguments.real("noised: sigma", sigma)
    level = safe_level(model, sampler=sampler) if sigma is None else float(sigma)
    drawn = model.module.arrays()
    for name, axes in model.module.legend().arrays.items():
        if axes.kind != "structure":
            value = entries(drawn[name]).astype(np.float64)
            noisy = NOISE.applied(name, axes, value, [level], [seed])
            # What noise leaves alone has no axis of copies.
            drawn[name] = with_entries(drawn[name], noisy if noisy.ndim == value.ndim else noisy[0])
    return variant(
        model,
        "noised",
        f"sigma={level:.3g}, seed={seed}",
        model.module.rebuilt(drawn),
        exact=False,
        sampler=sampler,
        notes=("noise is relative to each weight",),
    )


def safe_level(model: Model, *, sampler: Sampler | None = None, seed: int = 0) -> float:
    """The greatest level of `LEVELS` up to which every token of every draw is right.

    Args:
      model: compiled, or a variant.
      sampler: of inputs; by default `random_sampler`.
      seed: of the first draw, and of the inputs.

    Raises:
      InputError: already the weakest level makes a token wrong.
    """
    check_made("safe_level", model, sampler, seed)
    inputs = (sampler or random_sampler(model.program))(16, seed)
    expected = evaluate(model.program.graph, inputs)[model.program.graph.output]
    allowed = allowed_error(model.program)
    safe = 0.0
    for level in LEVELS:
        seeds = list(range(seed, seed + DRAWS))
        outputs = run_copies(model, inputs, NOISE, [level] * DRAWS, seeds, most=DRAWS)
        if wrong_tokens(outputs, expected.astype(np.float64), allowed).any():
            break
        safe = level
    if not safe:
        raise InputError(
            f"noised: no level from {LEVELS[0]:g} on is safe for {model.program.name} on "
            f"{model.target}; give sigma, or widen the margins with compile(..., robust=True)"
        )
    return safe
