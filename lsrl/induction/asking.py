"""Finite machines by asking: Angluin's L*, with the W-method to search for counterexamples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, final

import numpy as np

from lsrl.errors import InductionError
from lsrl.induction.machines import MOST_STATES, Machine, Rows, inputs_of, numbered
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType

# (words, time) symbols to the numbers of their outputs. What it says at a token depends on no later
# one, so words are filled up behind their end, and asked together.
Oracle: TypeAlias = Callable[[Array], Array]
Ranges: TypeAlias = Sequence[tuple[int, int]]
Word: TypeAlias = tuple[int, ...]
# Words that the W-method asks at most for one machine.
MOST_WORDS = 20_000


class Learnt(NamedTuple):
    """What came of asking.

    Attributes:
      machine: without the values of its outputs; None where nothing was learnt.
      depth: the machine is the oracle's if that is one of at most so many states more; None where
        words of that length can't be asked.
      refusal: why nothing was learnt; "" if something was.
    """

    machine: Machine | None = None
    depth: int | None = None
    refusal: str = ""


def learnt(
    oracle: Oracle,
    letters: int,
    words: Sequence[Array],
    longest: int,
    depth: int = 0,
    most_states: int = MOST_STATES,
) -> Learnt:
    """Ask for a machine until no word is found on which it errs.

    Args:
      oracle: to ask.
      letters: number of symbols.
      words: (words, time) symbols, batches on which every machine is tried first.
      longest: words of more symbols are not asked.
      depth: how many further states the W-method tells of; less where that takes too many words.
      most_states: give up beyond.
    """
    learner = Learner(oracle, letters, longest, most_states)
    truth = [oracle(batch) for batch in words]
    while True:
        machine = learner.machine()
        if machine is None:
            return Learnt(refusal=f"no machine of at most {most_states} states answers so")
        wrong = next(
            (found for pair in zip(words, truth, strict=True) if (found := _errs(machine, *pair))),
            None,
        )
        reached: int | None = None
        if wrong is None:
            tests, reached = tests_of(machine, depth, longest)
            wrong = _errs(machine, tests, oracle(tests)) if len(tests) else None
        if wrong is None:
            return Learnt(machine, reached)
        if not learner.learn(wrong, machine):
            return Learnt(refusal=f"words of at most {longest} symbols don't tell its states apart")


@final
class Numbered:
    """An oracle whose answers are the numbers of what a teacher says.

    Attributes:
      outputs: what the numbers stand for.
    """

    def __init__(
        self,
        ask: Callable[[list[Array]], Array],
        ranges: Ranges,
        types: dict[str, InputType],
    ) -> None:
        """Know no output yet.

        Args:
          ask: inputs (words, time) or (words, time, width) to outputs (words, time, outputs).
          ranges: of the inputs, as `machines.alphabet` has them.
          types: of the inputs.
        """
        self.ask, self.ranges, self.types = ask, ranges, types
        self.outputs: list[tuple[float, ...]] = []
        self._most = MOST_STATES * int(np.prod([size for _, size in ranges]))

    def __call__(self, words: Array) -> Array:
        """Numbers (words, time).

        Raises:
          InductionError: there are more different outputs than a machine says.
        """
        said = self.ask(inputs_of(self.ranges, self.types, words))
        numbers, rows = numbered(said)
        self.outputs += [row for row in rows if row not in self.outputs]
        if len(self.outputs) > self._most:
            raise InductionError(f"the answers are more than {self._most} different ones")
        return np.array([self.outputs.index(row) for row in rows])[numbers]


def _errs(machine: Machine, words: Array, truth: Array) -> Word | None:
    """The shortest word at whose end the machine errs; None if there is none."""
    wrong = np.argwhere(machine.run(words) != truth)
    if not len(wrong):
        return None
    sequence, token = wrong[wrong[:, 1].argmin()]
    return tuple(words[sequence, : token + 1].tolist())


# ---------------------------------------------------------------- the W-method


def tests_of(machine: Machine, depth: int, longest: int) -> tuple[Array, int | None]:
    """Words that tell a machine from all others of at most `depth` states more.

    To each state, then any symbols, one more than `depth` at most, then what tells states apart
    (Chow 1978, "Testing software design modeled by finite-state machines").

    Args:
      machine: to tell.
      depth: how many states more; less where that takes more than MOST_WORDS.
      longest: words of more symbols are left out.

    Returns:
      (words, time), filled up with symbol 0, and the depth that was reached; None where words were
      left out.
    """
    letters = len(machine.follows[0])
    reach, apart = shortest_words(machine.follows), _experiments(machine)
    while depth > 0 and _count(len(reach), letters, depth, len(apart)) > MOST_WORDS:
        depth -= 1
    middles: list[Word] = [()]
    for _ in range(depth + 1):
        middles += [(*word, a) for word in middles if len(word) == len(middles[-1])
                    for a in range(letters)]  # fmt: skip
    words = {to + middle + end for to in reach for middle in middles for end in apart}
    kept = sorted(word for word in words if 0 < len(word) <= longest)
    complete = all(len(word) <= longest for word in words)
    return filled(kept), depth if complete else None


def _count(states: int, letters: int, depth: int, ends: int) -> int:
    return states * ends * sum(letters**k for k in range(depth + 2))


def shortest_words(follows: Sequence[Sequence[int]], start: int = 0) -> list[Word]:
    """A shortest word to each state, of which the start leads to all."""
    word: dict[int, Word] = {start: ()}
    queue = [start]
    for state in queue:
        for letter, target in enumerate(follows[state]):
            if target not in word:
                word[target] = (*word[state], letter)
                queue.append(target)
    return [word[state] for state in sorted(word)]


def _experiments(machine: Machine) -> list[Word]:
    """Words, of which one for any two different states makes them say different things."""
    after, says = np.array(machine.follows), np.array(machine.answers)
    found: list[Word] = []
    block = np.zeros(len(after), int)
    for letter in range(says.shape[1]):  # what a letter alone tells
        finer = _numbered(block, says[:, letter])
        if finer.max() > block.max():
            found, block = [*found, (letter,)], finer
    ends = {word: _said(after, says, word) for word in found}
    grown = True
    while grown and block.max() + 1 < len(after):
        grown = False
        for end in list(ends):
            for letter in range(says.shape[1]):
                finer = _numbered(block, ends[end][after[:, letter]])
                if finer.max() > block.max():
                    word = (letter, *end)
                    ends[word] = _said(after, says, word)
                    block, grown = finer, True
    # What a longer word begins with it tells, too.
    return [w for w in ends if not any(o != w and o[: len(w)] == w for o in ends)] or [()]


def _said(after: Array, says: Array, word: Word) -> Array:
    """(states,) numbers of what is said at the end of a word, by the state it begins in."""
    state = np.arange(len(after))
    for letter in word[:-1]:
        state = after[state, letter]
    return says[state, word[-1]]


def _numbered(block: Array, told: Array) -> Array:
    """Blocks of states that were in one block and tell the same."""
    return np.unique(np.stack([block, told], axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def filled(words: Sequence[Word]) -> Array:
    """(words, time) with symbol 0 behind the end of the shorter ones."""
    made = np.zeros((len(words), max(map(len, words), default=0)), np.int64)
    for row, word in enumerate(words):
        made[row, : len(word)] = word
    return made


# ---------------------------------------------------------------- L*


# In a row of what is said: the word is too long to be asked.
UNKNOWN = -1


@final
class Learner:
    """Angluin's L* for Mealy machines; a counterexample gives one experiment.

    States are told apart by what is said at the end of each experiment. One that is too long to be
    asked after a word tells nothing there, and the word leads to the first state that it may be.
    """

    def __init__(
        self, oracle: Oracle, letters: int, longest: int, most_states: int = MOST_STATES
    ) -> None:
        """Know nothing yet; the arguments are those of `learnt`."""
        self.oracle, self.letters = oracle, letters
        self.longest, self.most_states = longest, most_states
        self._known: dict[Word, int] = {}
        self._prefixes: list[Word] = [()]
        self._suffixes: list[Word] = [(letter,) for letter in range(letters)]

    @property
    def experiments(self) -> tuple[Word, ...]:
        """The suffixes that tell the machine's states apart."""
        return tuple(self._suffixes)

    def machine(self) -> Machine | None:
        """The machine that fits all that is known; None with too many states."""
        while True:
            own, after = self._rows(self._prefixes), self._rows(self._steps())
            leads = [_fitting(own, row) for row in after]
            new: list[int] = []
            for number, state in enumerate(leads):
                if state is None and _fitting(after[new], after[number]) is None:
                    new.append(number)
            if not new:
                break
            steps = self._steps()
            self._prefixes += [steps[number] for number in new]
            if len(self._prefixes) > self.most_states:
                return None
        answers = np.maximum(own[:, : self.letters], 0)  # too long to be asked: any
        follows = np.array(leads, int).reshape(len(own), self.letters)
        return Machine(_tuples(follows), _tuples(answers), ())

    def learn(self, word: Word, machine: Machine) -> bool:
        """Take in a word at whose end a machine errs; False if it tells no two states apart.

        What is said at its end if the machine's own word to a state replaces what leads there is
        right at first and wrong at last; where it changes, the rest of the word is the experiment
        (Rivest and Schapire 1993, "Inference of finite automata using homing sequences").
        """
        state, access = 0, [self._prefixes[0]] * (1 + len(word))
        for place, letter in enumerate(word):
            state = machine.follows[state][letter]
            access[place + 1] = self._prefixes[state]
        asked = [(*access[place], *word[place:]) for place in range(len(word))]
        said = self._said([each for each in asked if len(each) <= self.longest])
        told = [said.get(each) for each in asked]
        for place in range(len(word) - 1, 0, -1):
            one, other, end = told[place - 1], told[place], word[place:]
            differ = one is not None and other is not None and one != other
            if differ and end not in self._suffixes:
                self._suffixes.append(end)
                return True
        return False

    def _steps(self) -> list[Word]:
        return [(*prefix, letter) for prefix in self._prefixes for letter in range(self.letters)]

    def _rows(self, prefixes: Sequence[Word]) -> Array:
        """(prefixes, suffixes): what is said at the end of each suffix, after each prefix."""
        words = [(*prefix, *suffix) for prefix in prefixes for suffix in self._suffixes]
        said = self._said([word for word in words if len(word) <= self.longest])
        values = [said.get(word, UNKNOWN) for word in words]
        return np.reshape(values, (len(prefixes), len(self._suffixes)))

    def _said(self, words: Sequence[Word]) -> dict[Word, int]:
        """What is said at the end of some words, and of all that were asked before."""
        new = sorted(set(words) - self._known.keys())
        if new:
            said = self.oracle(filled(new))
            ends = np.array([len(word) - 1 for word in new])
            self._known.update(zip(new, said[np.arange(len(new)), ends].tolist(), strict=True))
        return self._known


def _fitting(rows: Array, row: Array) -> int | None:
    """The first of some rows that says nothing else than a row does."""
    agree = ((rows == row) | (rows == UNKNOWN) | (row == UNKNOWN)).all(axis=1)
    return int(agree.argmax()) if agree.any() else None


def _tuples(table: Array) -> Rows:
    return tuple(tuple(row) for row in table.tolist())
