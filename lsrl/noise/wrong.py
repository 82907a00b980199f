"""Which tokens are wrong: those whose error is as large as a value can bear, or larger."""

import numpy as np

from lsrl import arguments
from lsrl.ir.bounds import Facts
from lsrl.ir.numbers import Array
from lsrl.language.program import Program

# A continuous value is wrong where it is off by this share of its range.
SHARE = 0.05


def allowed_error_of(facts: Facts) -> Array:
    """By channel the error from which on a value is wrong.

    Half a grid step, since rounding mends less; of what is continuous, 5 % of its range.
    """
    gridded = (facts.step > 0) & np.isfinite(facts.step)
    spread = np.where(facts.high > facts.low, facts.high - facts.low, 1.0)
    return np.where(gridded, facts.step / 2, SHARE * spread)


def allowed_error(program: Program) -> Array:
    """By output channel the error from which on a token is wrong, (outputs,)."""
    arguments.instance("allowed_error", program, Program, "@lsrl.program")
    return allowed_error_of(program.graph.facts[program.graph.output])


def wrong_tokens(outputs: Array, expected: Array, allowed: Array | float = 0.5) -> Array:
    """Which tokens are wrong: an output is off by as much as is allowed, or more, or is NaN.

    Args:
      outputs: (..., outputs).
      expected: of a shape that broadcasts against it.
      allowed: (outputs,), or a number.

    Returns:
      (...) bool.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        right = np.abs(outputs.astype(np.float64) - expected) < allowed
    return np.asarray(~right.all(axis=-1))
