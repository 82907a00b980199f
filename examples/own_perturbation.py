"""For who measures stability: a program and a perturbation of one's own, gated against ungated.

What if weights are stored with few digits? Each is rounded to a multiple of `level` times the
greatest weight of its array, up or down at random, so that the mean is right (stochastic rounding).

    python examples/own_perturbation.py [figure.pdf]
"""

import sys

import jax
import numpy as np

import lsrl
from lsrl.stability import measure


@lsrl.program(max_length=32)
def gathered(amount: lsrl.Token(6), passes: lsrl.Token(2)) -> lsrl.Vector(1, low=0, high=160):
    """The sum of the amounts that may pass."""
    return lsrl.cumsum(lsrl.select(passes, amount, 0))


def seldom(random: np.random.Generator, sequences: int, length: int) -> list[np.ndarray]:
    """Inputs in which one amount of four may pass."""
    amounts = random.integers(0, 6, (sequences, length))
    return [amounts, (random.random((sequences, length)) < 0.25).astype(int)]


def rounded(name: str, array: jax.Array, key: jax.Array, level: float) -> jax.Array:
    """An array with its entries rounded up or down at random to a grid."""
    step = level * abs(array).max()
    if step == 0:
        return array
    below = np.floor(array / step)
    up = jax.random.uniform(key, array.shape) < array / step - below
    return (below + up) * step


def main(path: str) -> None:
    """Measure and draw."""
    found = measure(
        gathered,
        ("linear_rnn", "gated_linear_rnn", "rnn", "gru"),
        (rounded, "relative"),
        sampler=seldom,
        levels=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        length=24,
    )
    print(found)
    found.plot(path)
    print("drawn to", path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "rounded.pdf")
