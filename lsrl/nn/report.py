"""The judge of gradients: the true effect of every swap of one token."""

from dataclasses import dataclass
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.errors import BoundsError, InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.nn.modes import Mode, Surrogate, as_symbols, one_hot

# Weights of outputs in what is differentiated are whole numbers up to this, so that sums are exact.
MOST_WEIGHT = 4


class Swaps(NamedTuple):
    """Words, and what becomes of a weighted sum of outputs if one token is another.

    Attributes:
      words: (words, time) int.
      weights: (words, time, features), of the outputs.
      ids: (words, time) int, outputs that are symbols; 0 where they are numbers.
      effects: (words, time, symbols), by the reference evaluator; 0 at the word's own tokens.
      symbols: whether outputs are symbols.
    """

    words: Array
    weights: Array
    ids: Array
    effects: Array
    symbols: bool

    @classmethod
    def of(cls, program: Program, features: int, sequences: int, length: int, seed: int) -> "Swaps":
        """Of random words of a program with one token input."""
        (kind,) = program.inputs.values()
        size = kind.size if isinstance(kind, Token) else 0
        rng = np.random.default_rng(seed)
        words = rng.integers(0, size, (sequences, length))
        weights = rng.integers(-MOST_WEIGHT, MOST_WEIGHT + 1, (sequences, length, features))
        gives_symbols = program.output_type is not None

        def outputs(words: Array) -> Array:
            try:
                values = program.run(words)
            except BoundsError as error:
                raise InputError(
                    f"{program.name}: the effects of swaps are those on random words, and {error}; "
                    "choose a backward mode yourself"
                ) from error
            return one_hot(values[..., 0].astype(int), features) if gives_symbols else values

        swapped = np.tile(words[:, None, None], (1, length, size, 1))
        for token in range(length):
            swapped[:, token, :, token] = np.arange(size)
        own = outputs(words)
        others = outputs(swapped.reshape(-1, length)).reshape(*swapped.shape, features)
        effects = np.einsum("ntvsf,nsf->ntv", others - own[:, None, None], weights)
        ids = own.argmax(-1) if gives_symbols else np.zeros(words.shape, int)
        return cls(words, weights, ids, effects, gives_symbols)


@final
@dataclass(frozen=True)
class Measured:
    """How well a mode tells the effects of swaps.

    Attributes:
      mode: of the backward pass.
      correlation: of what the gradient says with the effects; 0 where it says nothing.
      error: the largest difference of both.
      signs: share of the swaps with an effect of which it has the sign.
    """

    mode: Mode
    correlation: float
    error: float
    signs: float


@final
@dataclass(frozen=True)
class GradientReport:
    """The modes of a routine, and how well each tells the effect of every swap of one token.

    Attributes:
      name: of the program.
      rows: by mode.

    Example:
      report = layer.gradient_report(sequences=2, length=4)
      print(type(report).__name__)
    """

    name: str
    rows: tuple[Measured, ...]

    def __getitem__(self, mode: Mode) -> Measured:
        """The row of a mode."""
        return next(row for row in self.rows if row.mode == mode)

    def __str__(self) -> str:
        """A table."""
        lines = [f"{self.name:<18} correlation  error  signs"]
        lines += [
            f"{row.mode:<18} {row.correlation:>11.3f}  {row.error:>5.3g}  {row.signs:>5.2f}"
            for row in self.rows
        ]
        return "\n".join(lines)


def measured(
    mode: Mode, swaps: Swaps, surrogate: Surrogate, temperature: jax.Array | float
) -> Measured:
    """Compare the gradient of a mode, at known tokens, with the effects of swaps."""
    symbols = swaps.effects.shape[-1]
    p = jnp.asarray(one_hot(swaps.words, symbols))
    weights, ids = jnp.asarray(swaps.weights, jnp.float32), jnp.asarray(swaps.ids, jnp.int32)

    def total(p: jax.Array) -> jax.Array:
        values = surrogate(p, temperature)
        if swaps.symbols and values.shape[-1] != weights.shape[-1]:
            values = as_symbols(values, ids, weights.shape[-1])
        return jnp.sum(values * weights)

    slopes = np.asarray(jax.jit(jax.grad(total))(p), np.float64)
    own = np.take_along_axis(slopes, swaps.words[..., None], 2)
    others = np.ones(slopes.shape, bool)
    np.put_along_axis(others, swaps.words[..., None], False, 2)
    said, true = (slopes - own)[others], swaps.effects[others]
    with np.errstate(invalid="ignore", over="ignore"):
        alike = np.isfinite(said).all() and said.std() > 0 and true.std() > 0
        correlation = float(np.corrcoef(said, true)[0, 1]) if alike else 0.0
        error = float(np.abs(said - true).max(initial=0))
    moved = true != 0
    signs = float((np.sign(said) == np.sign(true))[moved].mean()) if moved.any() else 1.0
    return Measured(mode, correlation, error, signs)
