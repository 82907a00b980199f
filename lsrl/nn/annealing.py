"""Exact local search for the map of tokens to symbols under which a machine's output tells answers.

The map is one and the same at every place of a question, which no gradient that draws each token by
itself can know. So the machines are run, on whole questions, for every symbol that one token may
stand for (Gibbs), and for two tokens that change places (Metropolis), at falling temperatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from lsrl.ir.numbers import Array
from lsrl.nn.tables import MooreTable

# Counts that every answer has beforehand, so that what was not seen is not impossible.
PRIOR = 0.02
# Sweeps of a stage over all tokens, and how far the temperature falls.
SWEEPS, COOLING = 8, 20.0


@final
class Machines:
    """Machines side by side, each with one symbol more at which it stays: of padding.

    Attributes:
      starts: (machines,) places of the first states.
      outputs: how many ids they have together.
      symbols: of each, the one of padding last.
    """

    def __init__(self, tables: Sequence[MooreTable]) -> None:
        states = max(table.states for table in tables)
        self.symbols = tables[0].symbols + 1
        self.outputs = 1 + max(int(table.ids.max()) for table in tables)
        # A place is that of a state's row in `moves`, to which a symbol is added.
        shape = (len(tables), states, self.symbols)
        moves = np.zeros(shape, np.int64)
        said = np.zeros(shape, np.int64)
        for number, table in enumerate(tables):
            own = np.arange(table.states)
            after = np.concatenate([table.follows, own[:, None]], axis=1)
            moves[number, : table.states] = (number * states + after) * self.symbols
            said[number, : table.states] = table.ids[:, None]
        self._moves, self._said = moves.ravel(), said.ravel()
        first = np.array([table.initial for table in tables])
        self.starts = (np.arange(len(tables)) * states + first) * self.symbols

    def run(self, starts: Array, symbols: Array) -> Array:
        """What is said at the end of words, broadcast: starts (…, 1), symbols (time, …, words)."""
        place = np.broadcast_to(starts, symbols.shape[1:])
        for now in symbols:
            place = self._moves.take(place + now, mode="clip")
        return self._said.take(place, mode="clip")


@final
@dataclass(frozen=True)
class Judge:
    """How well outputs tell answers, were each output read as it is best.

    Attributes:
      outputs: how many.
      answers: how many.
    """

    outputs: int
    answers: int

    def counts(self, said: Array, answers: Array) -> Array:
        """(…, outputs, answers), how often both come together, for said (…, words)."""
        groups = int(np.prod(said.shape[:-1]))
        key = np.arange(groups).reshape(*said.shape[:-1], 1) * self.outputs + said
        size = groups * self.outputs * self.answers
        found = np.bincount((key * self.answers + answers).ravel(), minlength=size)
        return found.reshape(*said.shape[:-1], self.outputs, self.answers)

    def likelihood(self, counts: Array) -> Array:
        """(…) mean log-likelihood of the answers, by the outputs' shares."""
        words = np.arange(int(counts[(0,) * (counts.ndim - 2)].sum()) + 1)
        of_both = words * np.log(words + PRIOR)
        of_said = words * np.log(words + PRIOR * self.answers)
        found = of_both.take(counts).sum((-1, -2)) - of_said.take(counts.sum(-1)).sum(-1)
        return np.asarray(found / max(len(words) - 1, 1))

    def explained(self, counts: Array) -> Array:
        """(…) share of the answers that the best read-out gives."""
        return np.asarray(counts.max(-1).sum(-1) / counts.sum((-1, -2)))


class Questions(NamedTuple):
    """Questions from the token on that names the task.

    Attributes:
      words: (questions, time), padded with the number behind all tokens.
      answers: (questions,).
      lengths: (questions,), of the questions as they were given.
    """

    words: Array
    answers: Array
    lengths: Array

    def taken(self, which: Array) -> "Questions":
        """Some of them."""
        words, lengths = self.words[which], self.lengths[which]
        return Questions(words, self.answers[which], lengths)


@final
class Chains:
    """Maps under search: some of every machine.

    Attributes:
      maps: (chains, tokens + 1), the symbol of each token, and that of padding.
      said: (chains, questions), the machines' outputs at the ends.
      tokens: that the questions hold.
    """

    def __init__(
        self, machines: Machines, starts: Array, maps: Array, judge: Judge, asked: Questions
    ) -> None:
        """Begin.

        Args:
          machines: that are run.
          starts: (chains,) of the machine of each.
          maps: as the attribute; changed in place.
          judge: of outputs.
          asked: the questions that are to be explained.
        """
        self.maps, self._machines, self._judge = maps, machines, judge
        self._starts, self._answers = starts, asked.answers
        longest = int((asked.words < maps.shape[1] - 1).sum(1).max(initial=1))
        self._words = np.ascontiguousarray(asked.words[:, :longest].T)
        found = np.unique(self._words)
        self.tokens = found[found < maps.shape[1] - 1]
        self._holds = {token: (self._words == token).any(0) for token in self.tokens.tolist()}
        self.said = self._run(maps)
        self._counts = judge.counts(self.said, self._answers)

    def _run(self, maps: Array) -> Array:
        symbols = np.moveaxis(maps[:, self._words], 0, 1)
        return self._machines.run(self._starts[:, None], symbols)

    @property
    def likelihood(self) -> Array:
        """(chains,)."""
        return self._judge.likelihood(self._counts)

    @property
    def explained(self) -> Array:
        """(chains,)."""
        return self._judge.explained(self._counts)

    def options(self, token: int) -> tuple[Array, Array]:
        """Every symbol that a token may stand for, all else as it is.

        Returns:
          Outputs (chains, symbols, questions that hold the token), and likelihood
          (chains, symbols).
        """
        holds = self._holds[token]
        words = self._words[:, holds]
        choices = np.arange(self._machines.symbols - 1)
        symbols = np.moveaxis(self.maps[:, words], 0, 1)[:, :, None]
        symbols = np.where(words[:, None, None] == token, choices[:, None], symbols)
        said = self._machines.run(self._starts[:, None, None], symbols)
        answers = self._answers[holds]
        others = self._counts - self._judge.counts(self.said[:, holds], answers)
        counts = others[:, None] + self._judge.counts(said, answers)
        return said, self._judge.likelihood(counts)

    def put(self, token: int, choice: Array, said: Array) -> None:
        """Let a token stand for a symbol in each chain, whose outputs `options` gave."""
        self.maps[:, token] = choice
        holds = self._holds[token]
        self.said[:, holds] = np.take_along_axis(said, choice[:, None, None], 1)[:, 0]
        self._counts = self._judge.counts(self.said, self._answers)

    def swap(self, pairs: Array, accept: Array | None, temperature: float) -> None:
        """Let two tokens change places in each chain, where that is accepted.

        Args:
          pairs: (chains, 2) tokens.
          accept: (chains,) in [0, 1), drawn; None for better ones only.
          temperature: of the acceptance.
        """
        chains = np.arange(len(self.maps))
        maps = self.maps.copy()
        maps[chains, pairs[:, 0]] = self.maps[chains, pairs[:, 1]]
        maps[chains, pairs[:, 1]] = self.maps[chains, pairs[:, 0]]
        said = self._run(maps)
        counts = self._judge.counts(said, self._answers)
        gain = self._judge.likelihood(counts) - self.likelihood
        taken = gain > 0 if accept is None else accept < np.exp(np.minimum(gain / temperature, 0))
        self.maps[taken], self.said[taken] = maps[taken], said[taken]
        self._counts = np.where(taken[:, None, None], counts, self._counts)

    def anneal(self, temperature: float, rng: np.random.Generator) -> None:
        """Gibbs over one token at a time and swaps of two, while the temperature falls."""
        moves, chains = SWEEPS * len(self.tokens), len(self.maps)
        for now in temperature * COOLING ** -np.linspace(0, 1, moves):
            token = int(rng.choice(self.tokens))
            said, likelihood = self.options(token)
            noise = rng.gumbel(size=likelihood.shape)
            self.put(token, (likelihood / now + noise).argmax(1), said)
            self.swap(rng.choice(self.tokens, (chains, 2)), rng.random(chains), now)

    def polish(self) -> None:
        """The best symbol of each token and better swaps in turn, until nothing gets better."""
        before = -np.inf
        while self.likelihood.sum() > before + 1e-9:
            before = float(self.likelihood.sum())
            for token in self.tokens.tolist():
                said, likelihood = self.options(token)
                self.put(token, likelihood.argmax(1), said)
            for place, token in enumerate(self.tokens):
                for other in self.tokens[:place]:
                    pair = np.tile([token, other], (len(self.maps), 1))
                    self.swap(pair, None, 1.0)
