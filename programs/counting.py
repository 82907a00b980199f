"""Programs that count: running sums, clocks and what is read off them."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.programs import checks
from lsrl.programs.entry import Entry


def majority(max_length: int = 1000) -> Program:
    """Whether ones are in the strict majority so far.

    Input: a bit a token. Output: 1 where more than half of the bits up to and including this one
    are 1, else 0.

    Shows: a running sum compared with the clock, the smallest useful program.

    Args:
      max_length: greatest number of tokens.

    Raises:
      ProgramError: max_length is not a positive int.
    """

    @lsrl.program(max_length=checks.max_length(max_length))
    def majority(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(2)]:
        ones = lsrl.cumsum(bit)
        return 2 * ones > lsrl.position() + 1

    return majority


def majority_reference(bits: Sequence[int]) -> list[int]:
    """Count both kinds, token by token."""
    counts = [0, 0]
    answers = []
    for bit in bits:
        counts[bit] += 1
        answers.append(int(counts[1] > counts[0]))
    return answers


def parity(max_length: int = 1000) -> Program:
    """Whether the number of ones so far is odd.

    Input: a bit a token. Output: 1 where the bits up to and including this one hold an odd number
    of ones, else 0.

    Shows: parity up to a declared length, by mod of a running sum, where unbounded parity is out of
    reach of linear recurrences with eigenvalues that are not negative.

    Args:
      max_length: greatest number of tokens.

    Raises:
      ProgramError: max_length is not a positive int.
    """

    @lsrl.program(max_length=checks.max_length(max_length))
    def parity(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(2)]:
        ones = lsrl.cumsum(bit)
        return lsrl.mod(ones, 2)

    return parity


def parity_reference(bits: Sequence[int]) -> list[int]:
    """Flip at every one."""
    odd = False
    answers = []
    for bit in bits:
        odd = odd != bool(bit)
        answers.append(int(odd))
    return answers


def counter_mod(n: int = 5, max_length: int | None = 1000) -> Program:
    """A clock that wraps around.

    Input: any bit, which is not read. Output: t mod n at token t: 0, 1, …, n - 1, 0, …

    Shows: a cycle without input, which is a rotating state or a count and `mod`, as the target has
    it.

    Args:
      n: length of the cycle, at least 2.
      max_length: greatest number of tokens, which targets without rotations need; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    size = checks.integer("n", n, 2)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def counter_mod(tick: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(size)]:
        del tick  # only the number of tokens matters
        return lsrl.cycle(size)

    return counter_mod


def counter_mod_reference(ticks: Sequence[int], n: int) -> list[int]:
    """Count up and start again at n."""
    answers, hand = [], 0
    for _ in ticks:
        answers.append(hand)
        hand = 0 if hand == n - 1 else hand + 1
    return answers


def histogram(vocab: int = 4, max_length: int = 1000) -> Program:
    """How often each symbol came so far.

    Input: a symbol a token. Output: the vector of the `vocab` counts, this token included.

    Shows: one linear state with a channel a symbol.

    Args:
      vocab: number of symbols.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)
    longest = checks.max_length(max_length)

    @lsrl.program(max_length=longest)
    def histogram(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Vector(symbols, low=0, high=longest, step=1)]:
        return lsrl.cumsum(token.one_hot)

    return histogram


def histogram_reference(tokens: Sequence[int], vocab: int) -> list[tuple[int, ...]]:
    """Count with a dictionary."""
    counts: Counter[int] = Counter()
    answers = []
    for token in tokens:
        counts[token] += 1
        answers.append(tuple(counts[symbol] for symbol in range(vocab)))
    return answers


def running_max(levels: int = 8, max_length: int = 1000) -> Program:
    """The greatest symbol so far.

    Input: a number from 0 to levels - 1 a token. Output: the greatest one up to and including this
    token.

    Shows: a maximum without comparing values: it is the number of levels that were ever reached.

    Args:
      levels: number of values, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    size = checks.integer("levels", levels, 2)
    # Row v tells which of the levels 1 … levels - 1 the value v reaches.
    reaches = [[int(value >= level) for level in range(1, size)] for value in range(size)]

    @lsrl.program(max_length=checks.max_length(max_length))
    def running_max(value: Annotated[Signal, Token(size)]) -> Annotated[Signal, Token(size)]:
        times_reached = lsrl.cumsum(lsrl.lookup(value, reaches))
        never_reached = lsrl.relu(1 - times_reached)
        return size - 1 - never_reached.sum()

    return running_max


def running_max_reference(values: Sequence[int]) -> list[int]:
    """Keep the greater of two."""
    greatest, answers = 0, []
    for value in values:
        greatest = max(greatest, value)
        answers.append(greatest)
    return answers


ENTRIES = (
    Entry(
        "majority",
        "counting",
        majority,
        majority_reference,
        parameters=({"max_length": 64}, {}, {"max_length": 1}),
    ),
    Entry(
        "parity",
        "counting",
        parity,
        parity_reference,
        parameters=({"max_length": 64}, {}, {"max_length": 1}),
    ),
    Entry(
        "counter_mod",
        "counting",
        counter_mod,
        counter_mod_reference,
        parameters=({"max_length": 64}, {}, {"n": 2}, {"n": 24, "max_length": None}),
    ),
    Entry(
        "histogram",
        "counting",
        histogram,
        histogram_reference,
        parameters=({"max_length": 64}, {}, {"vocab": 1}, {"vocab": 12}),
    ),
    Entry(
        "running_max",
        "counting",
        running_max,
        running_max_reference,
        parameters=({"max_length": 64}, {}, {"levels": 2}, {"levels": 30}),
    ),
)
