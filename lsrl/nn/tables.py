"""Routines as finite machines: found by asking the reference evaluator, and verified on it."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from lsrl import arguments
from lsrl.automata.tables import Table, minimised
from lsrl.errors import BoundsError, InputError, NoMachineError
from lsrl.induction.asking import Learner, shortest_words
from lsrl.induction.machines import MOST_LETTERS, numbered
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program

MOST_STATES = 64
# Of a verification: tokens of a word, random words, and words that go on behind each transition.
TOKENS, WORDS, BEHIND = 256, 32, 4
# Words that are told apart by what follows them.
PREFIXES, FOLLOWING = 128, 64
# Tokens that are evaluated at a time.
AT_ONCE = 1 << 14


@final
@dataclass(frozen=True, eq=False)
class MooreTable:
    """A finite machine whose state tells its output.

    Attributes:
      follows: (states, symbols) int32, the state after a symbol.
      outputs: (states, outputs) float64, what the program gives at the token that led to a state.
      initial: the state before the first token. No token has led there, so what `outputs` says of
        it means nothing unless `follows` leads there too.
      tokens: length of the words that it was verified on.

    Example:
      add = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])  # (states, symbols): the next state
      total = lsrl.nn.MooreTable(add, np.arange(3.0)[:, None])
      print(total.states)
    """

    follows: Array
    outputs: Array
    initial: int = 0
    tokens: int = 0

    @property
    def states(self) -> int:
        """How many."""
        return len(self.follows)

    @property
    def symbols(self) -> int:
        """How many."""
        return int(self.follows.shape[1])

    @cached_property
    def ids(self) -> Array:
        """(states,) int32, the outputs of a program that gives tokens.

        Raises:
          InputError: an output is no id.
        """
        ids = self.outputs[:, 0].astype(np.int32)
        if self.outputs.shape[1] != 1 or (ids != self.outputs[:, 0]).any() or ids.min() < 0:
            raise InputError(
                "the machine's outputs are no symbols: expected one number from 0 on, got rows "
                f"such as {arguments.shown(self.outputs[0].tolist())}; annotate the program with "
                "-> lsrl.Token(n)"
            )
        return ids

    def with_skip(self) -> "MooreTable":
        """The machine with one symbol more, the last, at which it stays as it is."""
        stay = np.arange(self.states, dtype=np.int32)[:, None]
        follows = np.concatenate([self.follows, stay], axis=1)
        return MooreTable(follows, self.outputs, self.initial, self.tokens)

    def from_zero(self) -> "MooreTable":
        """The machine with its first state as number 0."""
        order = np.roll(np.arange(self.states), -self.initial)
        place = np.argsort(order).astype(np.int32)
        return MooreTable(place[self.follows[order]], self.outputs[order], 0, self.tokens)

    def states_after(self, words: Array) -> Array:
        """(words, time) int32, the state after each token of words (words, time)."""
        state: Array = np.full(len(words), self.initial, np.int32)
        found: Array = np.empty(words.shape, np.int32)
        for token in range(found.shape[1]):
            state = found[:, token] = self.follows[state, words[:, token]]
        return found

    def run(self, words: Array) -> Array:
        """(words, time, outputs) float64, for words (words, time)."""
        return np.asarray(self.outputs[self.states_after(words)])

    def __repr__(self) -> str:
        """Its size, and what it was verified on."""
        return (
            f"MooreTable({self.states} states, {self.symbols} symbols, verified on words of "
            f"{self.tokens} tokens)"
        )


def routine_table(
    program: Program, *, most: int = MOST_STATES, tokens: int = TOKENS, seed: int = 0
) -> MooreTable:
    """The smallest machine that does what a program does.

    It is found by asking the reference evaluator, and compared with it on words of so many tokens:
    random ones, and behind every transition some that begin with it. So it is verified, and not
    proven: a program that counts to more than `tokens` looks finite.

    Args:
      program: of one token input.
      most: states that it may have.
      tokens: of the words that it is verified on; at most the program's max_length.
      seed: of the words.

    Raises:
      NoMachineError: no machine of so many states does the same.
      InputError: the program has other inputs, or keeps its promises on some words only.

    Source: Angluin (1987), "Learning Regular Sets from Queries and Counterexamples"; machines are
    those of Moore (1956).

    Example:
      print(lsrl.nn.routine_table(lsrl.programs.modular_sum(3, 64)).states)
    """
    arguments.instance("routine_table", program, Program, "lsrl.program")
    arguments.count("routine_table: most", most)
    arguments.count("routine_table: tokens", tokens)
    symbols = symbols_of(program)
    limit = program.max_length
    longest = tokens if limit is None else min(tokens, limit)
    oracle, rng = _Oracle(program), np.random.default_rng(seed)
    try:
        if _told_apart(oracle, symbols, longest, rng) > most:
            raise _TooManyError
        learner = Learner(oracle, symbols, longest, most)
        while True:
            machine = learner.machine()
            if machine is None:
                raise _TooManyError
            table = _moore(machine.follows, machine.answers, oracle.values, longest)
            if table.states > most:
                raise _TooManyError
            wrong = _wrong(table, oracle, learner.experiments, longest, rng)
            if wrong is None:
                return table
            if not learner.learn(tuple(wrong.tolist()), machine):
                raise _TooManyError
    except _TooManyError:
        raise NoMachineError(
            f"{program.name}: expected a program that a machine of at most {most} states equals, "
            f"and there is none on words of up to {longest} tokens; choose another backward than "
            "'automaton', or allow more states"
        ) from None


def symbols_of(program: Program) -> int:
    """The symbols of a program's only input.

    Raises:
      InputError: it has several inputs, or one that is no token, or too many symbols.
    """
    kinds = list(program.inputs.values())
    if len(kinds) != 1 or not isinstance(kinds[0], Token) or kinds[0].size > MOST_LETTERS:
        raise InputError(
            f"{program!r}: expected one input lsrl.Token(n) with n up to {MOST_LETTERS}; a finite "
            "machine reads one symbol at a time"
        )
    return kinds[0].size


class _TooManyError(Exception):
    """No machine of so few states does what the program does."""


class _Oracle:
    """A program as `Learner` asks it.

    Attributes:
      values: outputs by their number.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values: list[tuple[float, ...]] = []
        self._numbers: dict[tuple[float, ...], int] = {}

    def run(self, words: Array) -> Array:
        """(words, time, outputs) float64."""
        limit = self.program.max_length
        if limit is not None and words.shape[1] > limit:
            raise _TooManyError  # to tell its states apart takes words that it does not read
        rows = max(1, AT_ONCE // words.shape[1])
        try:
            parts = [self.program.run(words[k : k + rows]) for k in range(0, len(words), rows)]
        except BoundsError as error:
            raise InputError(
                f"{self.program.name} is no routine of every word, as a machine is: {error}"
            ) from error
        return np.concatenate(parts)

    def __call__(self, words: Array) -> Array:
        """(words, time) numbers of the outputs."""
        places, rows = numbered(self.run(words))
        for row in rows:
            if row not in self._numbers:
                self._numbers[row] = len(self.values)
                self.values.append(row)
        return np.array([self._numbers[row] for row in rows])[places]


def _moore(
    follows: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    values: Sequence[tuple[float, ...]],
    tokens: int,
) -> MooreTable:
    """The smallest Moore machine that says what a Mealy machine says."""
    number: dict[tuple[int, int], int] = {(0, -1): 0}
    rows: list[tuple[int, ...]] = []
    for state, _ in (pending := [(0, -1)]):
        row = list(zip(follows[state], answers[state], strict=True))
        for each in row:
            if each not in number:
                number[each] = len(number)
                pending.append(each)
        rows.append(tuple(number[each] for each in row))
    table, became = minimised(Table(tuple(rows)), [said for _, said in number])
    outputs = np.zeros((table.states, len(values[0])))
    for (_, said), state in zip(number, became, strict=True):
        if said >= 0:
            outputs[state] = values[said]
    return MooreTable(np.array(table.rows, np.int32), outputs, table.start, tokens)


def _told_apart(oracle: _Oracle, symbols: int, tokens: int, rng: np.random.Generator) -> int:
    """How many of some words lead to different states for certain, as what follows them tells.

    What counts has so many that to learn it state by state would take long.
    """
    found: dict[tuple[int, int], bytes] = {}
    length = min(tokens // 2, FOLLOWING)
    # Words of one symbol go on counting; those of all let it be at any number.
    suffixes = np.repeat(np.arange(min(symbols, 4))[:, None], length, axis=1)
    for ahead in {tokens // 2, tokens // 4, tokens // 8} - {0}:
        pairs = rng.integers(0, symbols, (PREFIXES, 2))
        picked = rng.random((PREFIXES, ahead)) < rng.random((PREFIXES, 1))
        words = np.take_along_axis(pairs, picked.astype(int), 1)
        for suffix in suffixes if length else ():
            whole = np.concatenate([words, np.tile(suffix, (PREFIXES, 1))], axis=1)
            for number, said in enumerate(oracle.run(whole)[:, ahead:]):
                found[ahead, number] = found.get((ahead, number), b"") + said.tobytes()
    return len(set(found.values()))


def _wrong(
    table: MooreTable,
    oracle: _Oracle,
    experiments: Sequence[Sequence[int]],
    tokens: int,
    rng: np.random.Generator,
) -> Array | None:
    """The shortest word found at whose end the machine errs; None if there is none."""
    access = shortest_words(table.follows.tolist(), table.initial)
    for words in (*_systematic(access, table.symbols, experiments, tokens),
                  _behind(table, access, tokens, rng),
                  _long(table, tokens, rng)):  # fmt: skip
        errs = (table.run(words) != oracle.run(words)).any(-1)
        if errs.any():
            first = np.where(errs.any(1), errs.argmax(1), tokens)
            place = int(first.argmin())
            return np.asarray(words[place, : first[place] + 1])
    return None


def _systematic(
    access: Sequence[tuple[int, ...]],
    symbols: int,
    experiments: Sequence[Sequence[int]],
    tokens: int,
) -> Iterator[Array]:
    """Every state, two symbols and every experiment: all faults of one state more (Chow 1978)."""
    pairs = list(itertools.product(range(symbols), repeat=2))
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for word, suffix in itertools.product(access, experiments):
        if len(word) + 2 + len(suffix) <= tokens:
            by_length[len(word) + 2 + len(suffix)] += [(*word, *pair, *suffix) for pair in pairs]
    for length in sorted(by_length):
        yield np.array(by_length[length])


def _behind(
    table: MooreTable, access: Sequence[tuple[int, ...]], tokens: int, rng: np.random.Generator
) -> Array:
    """Words that go through each transition, and on at random."""
    starts = [(*word, symbol) for word in access for symbol in range(table.symbols)]
    length = min(tokens, max(map(len, starts)) + 2 * table.states)
    return _alive(table, starts * BEHIND, length, rng)


def _long(table: MooreTable, tokens: int, rng: np.random.Generator) -> Array:
    """Words of all symbols alike, of two each, and such as stay off states that nothing leaves."""
    even = rng.integers(0, table.symbols, (WORDS, tokens))
    few = rng.integers(0, table.symbols, (WORDS, 2))
    picked = rng.integers(0, 2, (WORDS, tokens))
    some = np.take_along_axis(few, picked, 1)
    return np.concatenate([even, some, _alive(table, [()] * WORDS, tokens, rng)])


def _alive(
    table: MooreTable, starts: Sequence[tuple[int, ...]], tokens: int, rng: np.random.Generator
) -> Array:
    """Random words behind some starts, that enter no state which nothing leaves."""
    sink = (table.follows == np.arange(table.states)[:, None]).all(1)
    weights = np.where(sink[table.follows], 1e-9, 1.0)
    shares = np.cumsum(weights / weights.sum(1, keepdims=True), axis=1)
    words = np.zeros((len(starts), tokens), np.int64)
    state, lengths = np.full(len(starts), table.initial), np.array([len(s) for s in starts])
    for row, start in zip(words, starts, strict=True):
        row[: len(start)] = start[:tokens]
    for token in range(tokens):
        drawn = (rng.random((len(starts), 1)) > shares[state]).sum(1)
        drawn = np.minimum(drawn, table.symbols - 1)
        words[:, token] = np.where(token < lengths, words[:, token], drawn)
        state = table.follows[state, words[:, token]]
    return words
