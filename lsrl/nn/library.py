"""Several routines as one layer: arguments and a choice in, the chosen routine's output out."""

from collections.abc import Sequence
from typing import cast, final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lsrl
from lsrl import arguments
from lsrl.errors import InputError
from lsrl.induction.machines import mealy
from lsrl.induction.skills import Skills
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.language.signal import Signal
from lsrl.model import Model
from lsrl.nn import modes
from lsrl.nn.frozen import held, parameters_of
from lsrl.nn.standard import standard_tables
from lsrl.nn.tables import MooreTable, routine_table


@final
class Library(nnx.Module):
    """Routines that read the same arguments, as one certified network.

    Each is a finite machine, found and verified by `routine_table`. With `skip` every one of them
    gains a symbol, the last, at which it stays as it is: for tokens that are no arguments.

    Attributes:
      names: of the routines.
      tables: of the routines, with the symbol that skips.
      symbols: of the arguments, that one among them.
      features: symbols of the output: those of the routine that has most.
      model: the joined program, whose output k is that of routine k.
      weights: the network's, by name, as `FrozenParam`s.
    """

    def __init__(
        self,
        programs: Sequence[Program | MooreTable],
        skip: bool = True,
        target: str = "gru",
    ) -> None:
        """Join routines.

        Args:
          programs: of one token input with as many symbols each, which give tokens.
          skip: whether there is a symbol at which routines stay as they are.
          target: one of `lsrl.targets()`.

        Raises:
          InputError: no routines, or such as read different vocabularies or give no tokens.
          NoMachineError: no machine of 64 states equals a routine.
          LsrlError: the joined program does not compile; see `lsrl.compile`.
        """
        arguments.flag("Library: skip", skip)
        given = list(programs)
        if not given:
            raise InputError("Library: expected routines, got none; Library([lsrl.programs.…])")
        found = [each if isinstance(each, MooreTable) else routine_table(each) for each in given]
        self.names = tuple(
            each.name if isinstance(each, Program) else f"machine {number}"
            for number, each in enumerate(given)
        )
        self._check(found)
        self.tables = tuple(table.with_skip() if skip else table for table in found)
        self.symbols = self.tables[0].symbols
        self.features = 1 + max(int(table.ids.max()) for table in self.tables)
        self.model: Model = lsrl.compile(_joined(self.tables, self.symbols), target)
        self.weights = held(self.model.parameters, trainable=False)

    def _check(self, tables: Sequence[MooreTable]) -> None:
        sizes = dict(zip(self.names, (table.symbols for table in tables), strict=True))
        if len(set(sizes.values())) > 1:
            raise InputError(
                f"Library: expected routines that read one vocabulary, got {sizes}; give the "
                "smaller ones symbols that they skip"
            )
        for table in tables:
            _ = table.ids

    @staticmethod
    def standard(symbols: int = 4, skills: Skills | None = None, target: str = "gru") -> "Library":
        """The skills of induction that are finite machines of digits, by their names.

        Args:
          symbols: digits, at least 2; the symbol behind them skips.
          skills: by default `lsrl.induction.Skills.standard()`; learnt ones are routines, too.
          target: one of `lsrl.targets()`.

        Raises:
          InputError: no skill is such a machine.
        """
        arguments.count("Library.standard: symbols", symbols, 2)
        tables = standard_tables(symbols, Skills.standard() if skills is None else skills)
        library = Library(list(tables.values()), target=target)
        library.names = tuple(tables)
        return library

    @property
    def skip(self) -> int:
        """The symbol that skips: the last."""
        return self.symbols - 1

    # ------------------------------------------------------------ running

    def __call__(self, tokens: jax.Array, choice: jax.Array) -> jax.Array:
        """The output of the likeliest routine on the likeliest tokens, by the certified network.

        It has the derivative of `expected`.

        Args:
          tokens: ids (batch, time), or distributions over symbols (batch, time, symbols).
          choice: (batch, time, routines), which routine's output is wanted at each token.

        Returns:
          (batch, time, features), one-hot.

        Raises:
          InputError: other shapes.
        """
        tokens, choice = self._taken(tokens, choice)
        weights = {name: variable[...] for name, variable in self.weights.items()}

        @jax.custom_vjp
        def run(weights: dict[str, jax.Array], p: jax.Array, choice: jax.Array) -> jax.Array:
            ids = jnp.argmax(p, axis=-1).astype(jnp.int32)
            chosen = jnp.argmax(choice, axis=-1)[..., None]
            parameters = parameters_of(self.model.parameters, weights)
            values = cast(jax.Array, self.model.apply(parameters, ids))
            said = jnp.take_along_axis(values, chosen, axis=-1)
            return jax.nn.one_hot(modes.ids_of(said, self.features), self.features, dtype=p.dtype)

        def forward(
            weights: dict[str, jax.Array], p: jax.Array, choice: jax.Array
        ) -> tuple[jax.Array, tuple[object, ...]]:
            return run(weights, p, choice), (weights, p, choice)

        def backward(kept: tuple[object, ...], cotangent: jax.Array) -> tuple[object, ...]:
            weights, p, choice = kept
            back = jax.vjp(self.expected, cast(jax.Array, p), cast(jax.Array, choice))[1]
            return jax.tree.map(jnp.zeros_like, weights), *back(cotangent)

        run.defvjp(forward, backward)
        return run(weights, tokens, choice)

    def expected(self, tokens: jax.Array, choice: jax.Array) -> jax.Array:
        """The expected output, were tokens and choices drawn independently: to train with.

        Args:
          tokens: as in a call.
          choice: likewise.

        Returns:
          (batch, time, features), distributions where both arguments are.
        """
        p, choice = self._taken(tokens, choice)
        total = jnp.zeros((*p.shape[:2], self.features), p.dtype)
        for number, table in enumerate(self.tables):
            said = modes.automaton(table, modes.one_hot(table.ids, self.features))(p, 1.0)
            total = total + choice[..., number : number + 1] * said
        return total

    def _taken(self, tokens: jax.Array, choice: jax.Array) -> tuple[jax.Array, jax.Array]:
        p, chosen = jnp.asarray(tokens), jnp.asarray(choice)
        if jnp.issubdtype(p.dtype, jnp.integer):
            p = jax.nn.one_hot(p, self.symbols)
        for what, array, width in (
            ("tokens", p, self.symbols), ("choice", chosen, len(self.names)),
        ):  # fmt: skip
            if array.ndim != 3 or array.shape[-1] != width or array.shape[:2] != p.shape[:2]:
                raise InputError(
                    f"Library: expected {what} of shape (batch, time, {width}), got "
                    f"{array.shape}; it has {', '.join(self.names)} and {self.symbols} symbols"
                )
        return p, chosen


def _joined(tables: Sequence[MooreTable], symbols: int) -> Program:
    """One program whose output k is that of machine k."""

    def library(token: Signal) -> Signal:
        return lsrl.concat(
            *(
                mealy(token, follows=table.follows.tolist(), answers=_answers(table))
                for table in (table.from_zero() for table in tables)
            )
        )

    library.__annotations__ = {"token": Token(symbols)}
    return lsrl.program(library)


def _answers(table: MooreTable) -> Array:
    """(states, symbols): what is said at the symbol."""
    return np.asarray(table.outputs[table.follows][..., 0])
