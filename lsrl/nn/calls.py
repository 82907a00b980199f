"""Calls of routines: the tokens that name them, what tokens mean to each, and how it is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.nn.tables import MooreTable

# Tokens that a vocabulary may have.
MOST_TOKENS = 4096


class Evidence(NamedTuple):
    """How many of the questions of some lengths a call explains.

    Attributes:
      shortest: tokens.
      longest: tokens.
      questions: how many.
      explained: of those, whose answer the call gives.
    """

    shortest: int
    longest: int
    questions: int
    explained: int

    def __str__(self) -> str:
        """Lengths and share."""
        share = self.explained / self.questions
        return f"{self.shortest}–{self.longest} tokens: {share:.2f} of {self.questions}"


@final
@dataclass(frozen=True, eq=False)
class Call:
    """A routine behind a token that names it.

    Attributes:
      writer: the token.
      routine: its number in the library.
      name: of the routine.
      arguments: (vocabulary,) int, the routine's symbol for each token; that which skips for tokens
        that no question held.
      readout: (features,) int, the answer for each output of the routine.
      evidence: by length of the question.

    Example:
      call = calls[4]
      print(call.name, call.explained)
    """

    writer: int
    routine: int
    name: str
    arguments: Array
    readout: Array
    evidence: tuple[Evidence, ...]

    @property
    def explained(self) -> float:
        """Share of all its questions."""
        questions = sum(each.questions for each in self.evidence)
        return sum(each.explained for each in self.evidence) / questions

    def __str__(self) -> str:
        """One line."""
        evidence = "; ".join(map(str, self.evidence))
        return f"token {self.writer}: {self.name}, explains {evidence}"


@final
@dataclass(frozen=True, eq=False)
class Calls:
    """What `Library.bind` found: one call for each token that names a task.

    From the first such token on every token is an argument of the call that was named last; before
    it every routine skips.

    Attributes:
      calls: by their number.
      tables: of the library's routines, the last symbol of which skips.
      vocabulary: how many tokens there are.

    Example:
      rng = np.random.default_rng(0)
    """

    calls: tuple[Call, ...]
    tables: tuple[MooreTable, ...]
    vocabulary: int

    @property
    def writers(self) -> tuple[int, ...]:
        """The tokens that name calls."""
        return tuple(call.writer for call in self.calls)

    @property
    def routines(self) -> tuple[int, ...]:
        """The routine of each call."""
        return tuple(call.routine for call in self.calls)

    def __getitem__(self, writer: int) -> Call:
        """The call that a token names."""
        for call in self.calls:
            if call.writer == writer:
                return call
        raise InputError(f"Calls: expected one of the tokens {self.writers}, got {writer!r}")

    def __str__(self) -> str:
        """A line a call."""
        return "\n".join(map(str, self.calls))

    def given(self, tokens: jax.Array, content: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the library is to be given where a register holds calls.

        Args:
          tokens: ids (batch, time).
          content: of the register (batch, time, calls), shares that may add up to less than 1.

        Returns:
          Distributions over symbols (batch, time, symbols), and the choice (batch, time, routines).
          What the register lacks to 1 skips.
        """
        symbols, routines = self.tables[0].symbols, len(self.tables)
        maps = np.eye(symbols, dtype=np.float32)[[call.arguments for call in self.calls]]
        held = jnp.einsum("btk,kbts->bts", content, jnp.asarray(maps)[:, tokens])
        nothing = 1 - content.sum(-1, keepdims=True)
        skips = jax.nn.one_hot(jnp.full(tokens.shape, symbols - 1), symbols, dtype=held.dtype)
        held = held + nothing * skips
        return held, content @ np.eye(routines, dtype=np.float32)[list(self.routines)]

    def expected(self, tokens: jax.Array, content: jax.Array) -> jax.Array:
        """The expected answer, were one call drawn for the whole of each question: to train with.

        Calls are fixed, so each one's answers are exact, and the derivative to the register's
        content is the difference that another call makes. `Library.expected` would draw symbols
        token by token, as if a call could change at each.

        Args:
          tokens: ids (batch, time).
          content: of the register (batch, time, calls), shares that may add up to less than 1.

        Returns:
          (batch, time, answers), shares that add up to as much.
        """
        each = []
        for call in self.calls:
            table = self.tables[call.routine]
            moves = jnp.asarray(table.follows[:, call.arguments].astype(np.int32))

            def token(
                state: jax.Array, now: jax.Array, moves: jax.Array = moves
            ) -> tuple[jax.Array, jax.Array]:
                state = moves[state, now]
                return state, state

            first = jnp.full(tokens.shape[0], table.initial, jnp.int32)
            states = lax.scan(token, first, jnp.moveaxis(tokens, 1, 0))[1]
            each.append(jnp.asarray(call.readout[table.ids])[jnp.moveaxis(states, 0, 1)])
        answers = jax.nn.one_hot(jnp.stack(each, axis=-1), self.num_answers, dtype=content.dtype)
        return jnp.einsum("btk,btka->bta", content, answers)

    def read(self, outputs: jax.Array, content: jax.Array) -> jax.Array:
        """What routines gave, as answers.

        Args:
          outputs: of the library (batch, time, features).
          content: of the register (batch, time, calls).

        Returns:
          (batch, time, answers).
        """
        readouts = np.stack([call.readout for call in self.calls])
        tables = jnp.asarray(np.eye(self.num_answers, dtype=np.float32)[readouts])
        return jnp.einsum("btk,bto,koa->bta", content, outputs, tables)

    @property
    def num_answers(self) -> int:
        """Answers from 0 to the largest that a call gives."""
        return 1 + max(int(call.readout.max()) for call in self.calls)

    def register(self, questions: Array) -> Array:
        """The number of the call behind each token (questions, time); -1 before the first."""
        numbers = np.full(self.vocabulary, -1)
        numbers[list(self.writers)] = np.arange(len(self.calls))
        written = numbers[questions]
        place = np.where(written >= 0, np.arange(questions.shape[1]), -1)
        last = np.maximum.accumulate(place, axis=1)
        return np.where(last >= 0, np.take_along_axis(written, np.maximum(last, 0), 1), -1)

    def arguments(self, questions: Array) -> Array:
        """The symbol that each token is to the call behind it, (questions, time)."""
        skip = self.tables[0].symbols - 1
        maps = np.stack([*(call.arguments for call in self.calls), np.full(self.vocabulary, skip)])
        return np.asarray(maps[self.register(questions), questions])

    def answers(self, questions: Iterable[Sequence[int]]) -> Array:
        """The answer to each question by the calls alone, without a host.

        Args:
          questions: token ids, of any lengths.

        Returns:
          (questions,) int; -1 where no token names a call.

        Raises:
          InputError: tokens outside the vocabulary, or no questions.
        """
        words, lengths = padded("Calls.answers", questions, self.vocabulary)
        found = np.full(len(words), -1)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            asked = words[rows, :length]
            calls, symbols = self.register(asked)[:, -1], self.arguments(asked)
            for number, call in enumerate(self.calls):
                mine = calls == number
                table = self.tables[call.routine]
                states = table.states_after(symbols[mine])
                found[rows[mine]] = call.readout[table.ids[states[:, -1]]]
        return found


def padded(
    what: str, questions: Iterable[Sequence[int]], vocabulary: int | None = None
) -> tuple[Array, Array]:
    """Questions as one array, padded with the size of the vocabulary, and their lengths.

    Raises:
      InputError: none, an empty one, or what is no token.
    """
    rows = [np.atleast_1d(arguments.array(what, question)) for question in questions]
    if not rows:
        raise InputError(f"{what}: expected questions, got none")
    for number, row in enumerate(rows):
        if row.ndim != 1 or not row.size or not np.issubdtype(row.dtype, np.integer):
            raise InputError(
                f"{what}: expected question {number} to be token ids, one or more ints, got "
                f"{arguments.shown(row.tolist())}"
            )
        most = MOST_TOKENS if vocabulary is None else vocabulary
        if row.min() < 0 or row.max() >= most:
            raise InputError(
                f"{what}: expected tokens from 0 to {most - 1}, got "
                f"{arguments.shown(row.tolist())} as question {number}"
            )
    lengths = np.array([len(row) for row in rows])
    size = vocabulary if vocabulary is not None else 1 + max(int(row.max()) for row in rows)
    words = np.full((len(rows), int(lengths.max())), size)
    for place, row in zip(words, rows, strict=True):
        place[: len(row)] = row
    return words, lengths
