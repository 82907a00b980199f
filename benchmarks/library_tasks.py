"""Five tasks of the suite under a hidden cipher, and routines of digits, for `benchmarks.library`.

A question is a token that names the operation, digits, and a token that asks: at most 16 tokens
while one learns. Digits lie below a ceiling that is drawn for each question, so that no constant
answers the maximum of many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lsrl.ir.numbers import Array
from lsrl.nn import MooreTable
from lsrl.nn.tasks import ALGORITHMS, DIGITS

FRAME = 2  # tokens of a question that are no digits


def machine(step: Callable[[int, int], int], states: int, says: Sequence[int] = ()) -> MooreTable:
    """A machine of digits by its step; it says its state, or what stands for it."""
    follows = [[step(state, digit) for digit in range(DIGITS)] for state in range(states)]
    said = np.array(says or range(states), float)
    return MooreTable(np.array(follows, np.int32), said[:, None])


# Of the suite of tasks, those of digits.
NEEDED: dict[str, MooreTable] = {
    name: machine(step, states) for name, (states, step) in ALGORITHMS.items()
}
OTHERS: dict[str, MooreTable] = {
    "sum mod 3": machine(lambda state, digit: (state + digit) % 3, 3),
    "sum mod 7": machine(lambda state, digit: (state + digit) % 7, 7),
    "first digit": machine(
        lambda state, digit: digit if state == DIGITS else state, 9, (*range(DIGITS), 0)
    ),
    "last digit": machine(lambda state, digit: digit, DIGITS),
    "changes of parity": machine(
        lambda state, digit: 2 * ((state // 2 + (state % 2 != digit % 2)) % 3) + digit % 2, 6,
        (0, 0, 1, 1, 2, 2),
    ),
    "sevens up to 3": machine(lambda state, digit: min(state + (digit == 7), 3), 4),
    "run of high digits": machine(lambda state, digit: min(state + 1, 4) * (digit >= 4), 5),
    "equal to the one before": machine(
        lambda state, digit: digit + DIGITS * (state % DIGITS == digit), 2 * DIGITS,
        (0,) * DIGITS + (1,) * DIGITS,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Language:
    """How questions are written: drawn once a seed.

    Attributes:
      digits: (8,) the token of each digit.
      names: (tasks,) the token that names each task.
      asks: the token at which the answer is due.
    """

    digits: Array
    names: Array
    asks: int
    tasks: tuple[MooreTable, ...]

    @classmethod
    def drawn(cls, seed: int, tasks: Sequence[MooreTable]) -> "Language":
        """Of as many tokens as it takes, in any order."""
        size = DIGITS + len(tasks) + 1
        tokens = np.random.default_rng(seed).permutation(size)
        return cls(tokens[:DIGITS], tokens[DIGITS:-1], int(tokens[-1]), tuple(tasks))

    @property
    def vocabulary(self) -> int:
        """Tokens."""
        return DIGITS + len(self.tasks) + 1

    def batch(
        self, rng: np.random.Generator, questions: int, tokens: int, fixed: bool = False
    ) -> tuple[Array, Array, Array]:
        """Draw questions.

        Args:
          rng: of everything.
          questions: how many.
          tokens: of a question, at most. Half of them have one to three digits.
          fixed: whether all have as many tokens.

        Returns:
          Questions (questions, tokens), filled up with the token that asks; their lengths; answers.
        """
        most = tokens - FRAME
        short = rng.random(questions) < 0.5
        digits = np.where(
            short, rng.integers(1, 4, questions), rng.integers(1, most + 1, questions)
        )
        if fixed:
            digits = np.full(questions, most)
        task = rng.integers(0, len(self.tasks), questions)
        drawn = rng.integers(0, rng.integers(1, DIGITS + 1, (questions, 1)), (questions, most))
        # Of other tasks than those that a ceiling is for, all digits come as often.
        ceilings = np.array([table.states == DIGITS for table in self.tasks])[task]
        drawn = np.where(ceilings[:, None], drawn, rng.integers(0, DIGITS, drawn.shape))
        answers = np.zeros(questions, int)
        for number, table in enumerate(self.tasks):
            mine = task == number
            states = table.states_after(drawn[mine])
            answers[mine] = table.ids[states[np.arange(mine.sum()), digits[mine] - 1]]
        words = np.full((questions, tokens), self.asks)
        words[:, 0] = self.names[task]
        asked = np.arange(most) < digits[:, None]
        words[:, 1:-1] = np.where(asked, self.digits[drawn], self.asks)
        return words, digits + FRAME, answers
