"""Several routines as one layer: arguments and a choice in, the chosen routine's output out."""

from collections.abc import Iterable, Sequence
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
from lsrl.nn import binding, modes
from lsrl.nn.blame import Blame, blamed, checked
from lsrl.nn.calls import Calls
from lsrl.nn.frozen import held, parameters_of
from lsrl.nn.relabelling import MOST_NODES, Verdict, relabelled
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

    Example:
      library = lsrl.nn.Library([greatest, total])
      arguments = jax.nn.one_hot(jnp.array([[2, 1, 2]]), 4)
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
        self.names, found = routines_of("Library", programs)
        self._skips = skip
        self.tables = tuple(table.with_skip() if skip else table for table in found)
        self.symbols = self.tables[0].symbols
        self.features = 1 + max(int(table.ids.max()) for table in self.tables)
        self.model: Model = lsrl.compile(_joined(self.tables, self.symbols), target)
        self.weights = held(self.model.parameters, trainable=False)

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
        return modes.sloped(self._exact, self.expected)(weights, tokens, choice)

    def _exact(self, weights: modes.Weights, p: jax.Array, choice: jax.Array) -> jax.Array:
        ids = jnp.argmax(p, axis=-1).astype(jnp.int32)
        chosen = jnp.argmax(choice, axis=-1)[..., None]
        parameters = parameters_of(self.model.parameters, weights)
        values = cast(jax.Array, self.model.apply(parameters, ids))
        said = jnp.take_along_axis(values, chosen, axis=-1)
        return jax.nn.one_hot(modes.ids_of(said, self.features), self.features, dtype=p.dtype)

    def expected(self, tokens: jax.Array, choice: jax.Array) -> jax.Array:
        """The expected output, were tokens and choices drawn independently: to train with.

        Args:
          tokens: as in a call.
          choice: likewise.

        Returns:
          (batch, time, features), distributions where both arguments are.
        """
        p, choice = self._taken(tokens, choice)
        routine = np.repeat(np.arange(len(self.tables)), [table.states for table in self.tables])
        said = np.concatenate([modes.one_hot(table.ids, self.features) for table in self.tables])
        chosen = modes.reached(self.tables, p) * choice[..., routine]
        return jnp.matmul(chosen, said, precision="highest")

    # ------------------------------------------------------------ calls

    def bind(
        self,
        pairs: Iterable[tuple[Sequence[int], int]],
        longest: int = 16,
        *,
        vocabulary: int | None = None,
        explains: float = 0.85,
        tries: int = 3,
        seed: int = 0,
    ) -> Calls:
        """Find arguments and selection together, from questions and answers alone.

        The tokens that name tasks, and behind each its routine, what every token means to it and
        how it is read, are searched for by running the routines' machines: Gibbs over what one
        token stands for, everywhere at once, and swaps of two, on short questions first.

        Args:
          pairs: questions, which are token ids, and answers, which are ints from 0 on. The answer
            is due at the last token.
          longest: tokens that a question may have.
          vocabulary: how many tokens there are; by default as many as come up.
          explains: the share of the answers that a call must give, of all questions that hold its
            token. It must also explain long ones as well as short ones, but for chance.
          tries: searches for a call, until one explains so much.
          seed: of the search.

        Returns:
          The calls, each with its evidence by length.

        Raises:
          Unbindable: questions are left that no call explains so far.
          InputError: no pairs, or such as make no sense; a library that can't skip.

        Example:
          >>> calls = library.bind([([9, 1, 2, 2], 0), ...])
          >>> registers = Registers(32, selection=len(calls.calls), rngs=nnx.Rngs(0))
          >>> library.expected(*calls.given(tokens, registers(state)["selection"]))
        """
        self._needs_skip("bind")
        return binding.bind(
            self.tables, self.names, pairs, longest, vocabulary=vocabulary, explains=explains,
            tries=tries, seed=seed,
        )  # fmt: skip

    def can(
        self, task: Program | MooreTable, *, framed: bool = False, most: int = MOST_NODES
    ) -> dict[str, Verdict]:
        """Decide which routines do a task under some renaming of its tokens and outputs.

        Args:
          task: of one token input, which gives tokens. What it gives before its first token is
            never asked for.
          framed: whether a token before it, which names the task, and one after it, at which the
            answer is due, may stand for symbols too; as in what `bind` finds.
          most: maps that are looked at, in part or whole.

        Returns:
          By name of the routine a `Relabelling`; or "no", which is proven: every map was looked at
          on the machine of both; or "not decided", which takes more maps than `most`.

        Raises:
          InputError: no task, or one that gives no tokens.
          NoMachineError: no machine of 64 states equals the program.
        """
        arguments.flag("Library.can: framed", framed)
        arguments.count("Library.can: most", most)
        table = task if isinstance(task, MooreTable) else routine_table(task)
        return {
            name: relabelled(table, routine, framed, most)
            for name, routine in zip(self.names, self.tables, strict=True)
        }

    def blame(
        self,
        calls: Calls,
        questions: jax.Array,
        answers: jax.Array,
        said: jax.Array,
        given: jax.Array,
        choice: jax.Array,
    ) -> Blame:
        """Where wrong answers come from: arguments, selection, routine or read-out.

        Args:
          calls: the right ones.
          questions: tokens (batch, time).
          answers: (batch,), the right ones.
          said: (batch,), what the network that has this library in it answered.
          given: what it gave the library, ids (batch, time) or shares (batch, time, symbols).
          choice: what it chose, (batch, time, routines).

        Returns:
          Each wrong answer by the part that, put right alone, mends it. As the network is
          certified, it is never the routine; that is checked all the same.

        Raises:
          InputError: other shapes.
        """
        right, words, rows = checked("Library.blame", calls, questions, answers=answers, said=said)
        p, chosen = self._taken(given, choice)
        if p.shape[:2] != words.shape:
            raise InputError(
                f"Library.blame: expected arguments of shape {words.shape}, as the questions, got "
                f"{p.shape[:2]}"
            )
        outputs = np.asarray(self(p, chosen)[:, -1].argmax(-1))
        return blamed(
            right, words, rows["answers"], rows["said"], np.asarray(p.argmax(-1)),
            np.asarray(chosen[:, -1].argmax(-1)), outputs,
        )  # fmt: skip

    def _needs_skip(self, what: str) -> None:
        if not self._skips:
            raise InputError(
                f"Library.{what}: expected a library with skip=True, as tokens before a call, and "
                "such as are no arguments, skip"
            )

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


def routines_of(
    what: str, programs: Iterable[Program | MooreTable]
) -> tuple[tuple[str, ...], tuple[MooreTable, ...]]:
    """Names and machines of routines that read one vocabulary and give tokens.

    Raises:
      InputError: there are none, or such as read different vocabularies or give no tokens.
      NoMachineError: no machine of 64 states equals a routine.
    """
    given = list(programs)
    if not given:
        raise InputError(f"{what}: expected routines, got none; {what}([lsrl.programs.…])")
    found = tuple(each if isinstance(each, MooreTable) else routine_table(each) for each in given)
    names = tuple(
        each.name if isinstance(each, Program) else f"machine {number}"
        for number, each in enumerate(given)
    )
    sizes = dict(zip(names, (table.symbols for table in found), strict=True))
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"{what}: expected routines that read one vocabulary, got {sizes}; give the smaller "
            "ones symbols that they skip"
        )
    for table in found:
        _ = table.ids
    return names, found


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
