"""In which dtypes a checkpoint gives the program's answers, by proof.

transformers loads a checkpoint in any dtype. What is exact in float32 is so in bfloat16 where every
weight and every sum keeps to its 8 bits; both have the same range, and the reference classes take
their norms and scans in float32. float16 ends at 65504, far below a stream's constant channel.
"""

import numpy as np

from lsrl.backends.residual.certificate import ResidualAnalysis
from lsrl.backends.residual.network import NO_SYMBOL
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.ir.numbers import Array, lowest_bit, sum_is_exact
from lsrl.numerics import Numerics, numerics_of


def exact_dtypes(
    backend: ResidualBackend, stream: Stream, arrays: dict[str, Array], vocabulary: int, tied: bool
) -> tuple[str, ...]:
    """The dtypes of a checkpoint whose logits are exact in float32.

    Args:
      backend: the target.
      stream: the layout.
      arrays: the weights.
      vocabulary: number of symbols.
      tied: whether the head is the embedding.
    """
    numerics = numerics_of("bfloat16")
    analysis = backend.analysis(stream, numerics)(stream.graph.tokens)
    logits = tied_logits_are_exact if tied else logits_are_exact
    exact = (
        logits(stream, vocabulary, numerics)
        and all(analysis.fits(array.astype(np.float64)).all() for array in arrays.values())
        and _flags_are_exact(analysis)
        and analysis.first_failure() is None
    )
    return ("float32", "bfloat16") if exact else ("float32",)


def logits_are_exact(stream: Stream, vocabulary: int, numerics: Numerics) -> bool:
    """Whether a dtype adds up the logits 2 k y - k^2 without rounding, in any order.

    Args:
      stream: its output row is y.
      vocabulary: number of symbols.
      numerics: the dtype.
    """
    (row,) = stream.output
    facts, most = stream.graph.facts, max(vocabulary - 1, -NO_SYMBOL)
    size = abs(row.bias) + sum(
        abs(weight) * float(facts[node].magnitude[channel]) for (node, channel), weight in row.terms
    )
    grid = min(1.0, stream.hull(row).step)
    weights = np.outer(2 * np.arange(most + 1), list(stream.read(row).values()))
    # Magnitudes bound the normed stream, so a product is on the grid if its weight is exact.
    exact = np.abs(weights) <= 2.0**numerics.bits * lowest_bit(weights)
    return bool(exact.all() and sum_is_exact(2 * most * size + most**2, grid, numerics.bits))


def tied_logits_are_exact(_: Stream, vocabulary: int, numerics: Numerics) -> bool:
    """The same of 2 k y - k^2 where symbols count from 1."""
    return bool(sum_is_exact(3 * vocabulary**2, 1.0, numerics.bits))


def _flags_are_exact(analysis: ResidualAnalysis) -> bool:
    """Whether the sums that switch holds are exact, with room for what scales and shifts them."""
    return all(
        sum_is_exact(2 * size + 1, grid, analysis.numerics.bits)
        for number in range(len(analysis.stream.sites))
        for size, grid in zip(*analysis.switches(number), strict=True)
    )
