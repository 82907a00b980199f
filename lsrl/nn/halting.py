"""When to stop: by a comparison that is compiled, or by a unit that is learnt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import jax
import jax.numpy as jnp
import numpy as np

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.ir.numbers import Array

# A unit is read this sharply, and begins by halting at one of eight steps: all depths are tried.
SHARPNESS = 4.0
UNDECIDED = -0.5


@final
@dataclass(frozen=True)
class Halting:
    """What ends the repetition of a step.

    It reads a symbol: how far the counter of steps is from its argument, from -reach to reach and
    no further, or what a register holds. "compiled" halts where the distance is 0, or where the
    register holds `symbol`. "ponder" has a chance of halting for each symbol, a parameter to be
    learnt: the output is the mixture of those of all depths.

    Attributes:
      kind: "compiled" or "ponder".
      register: that it reads; None for the counter.
      symbol: at which a compiled one halts, of a register.
      reach: of the counter.

    Source: of "ponder", Banino et al. (2021), "PonderNet: Learning to Ponder".

    Example:
      print(lsrl.nn.Halting().kind, lsrl.nn.Halting("ponder").counts)
    """

    kind: Literal["compiled", "ponder"] = "compiled"
    register: str | None = None
    symbol: int | None = None
    reach: int = 8

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
          InputError: one makes no sense, or a symbol without a register, or the reverse.
        """
        arguments.choice("Halting: kind", self.kind, ("compiled", "ponder"))
        arguments.count("Halting: reach", self.reach)
        if self.register is not None and not isinstance(self.register, str):
            raise InputError(
                f"Halting: register must be a name, got {arguments.shown(self.register)}"
            )
        if self.symbol is not None:
            arguments.count("Halting: symbol", self.symbol, 0)
        wanted = self.kind == "compiled" and self.register is not None
        if wanted != (self.symbol is not None):
            raise InputError(
                "Halting: a compiled one that reads a register needs the symbol at which it halts, "
                f"and no other takes one; got {self!r}"
            )

    @property
    def counts(self) -> bool:
        """Whether it reads the counter."""
        return self.register is None

    def symbols(self, sizes: Mapping[str, int]) -> int:
        """How many symbols it tells apart.

        Args:
          sizes: of the registers.

        Raises:
          InputError: there is no such register, or it never holds the symbol.
        """
        if self.register is None:
            return 2 * self.reach + 1
        if self.register not in sizes:
            raise InputError(
                f"Halting: expected a register of the step, one of {', '.join(sizes)}, got "
                f"{self.register!r}{arguments.near(self.register, sizes)}"
            )
        size = sizes[self.register]
        if self.symbol is not None:
            arguments.count("Halting: symbol", self.symbol, 0, size - 1)
        return size

    def compiled(self, symbols: int) -> Array:
        """(symbols,) float32, 1 at the symbol at which a compiled one halts."""
        at = self.reach if self.symbol is None else self.symbol
        return np.eye(symbols, dtype=np.float32)[at]


def by_counter(chances: jax.Array, most: int, depth: int) -> jax.Array:
    """(most + 1, depth + 1): the chance to halt after so many steps, by the counter's argument.

    Args:
      chances: (2 reach + 1,), of halting, by the argument less the counter.
      most: the greatest argument.
      depth: the last step; what has not halted ahead of it halts there.
    """
    reach = len(chances) // 2
    away = np.arange(most + 1)[:, None] - np.arange(depth + 1)
    stops = chances[np.clip(away, -reach, reach) + reach]
    going = jnp.cumprod(1 - stops[:, :-1], axis=1)
    alive = jnp.concatenate([jnp.ones_like(stops[:, :1]), going], axis=1)
    return jnp.concatenate([alive[:, :-1] * stops[:, :-1], alive[:, -1:]], axis=1)
