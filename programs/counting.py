"""Programs that count: running sums, clocks and what is read off them."""

import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.programs import checks
from lsrl.programs.entry import Entry, Inputs


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
    """Count the ones, token by token."""
    counts = itertools.accumulate(bits)
    return [int(ones > length - ones) for length, ones in enumerate(counts, start=1)]


def parity(max_length: int | None = 1000) -> Program:
    """Whether the number of ones so far is odd.

    Input: a bit a token. Output: 1 where the bits up to and including this one hold an odd number
    of ones, else 0.

    Shows: parity up to a declared length, by mod of a running sum; at any length by a state that
    feeds on itself, since that is out of reach of linear recurrences whose eigenvalues are none of
    them negative (Grazzi et al. 2025).

    Args:
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: max_length is not a positive int.

    Source: Grazzi et al. (2025), "Unlocking State-Tracking in Linear RNNs Through Negative
    Eigenvalues".
    """

    @lsrl.program(max_length=checks.optional_length(max_length))
    def parity(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(2)]:
        if max_length is not None:
            ones = lsrl.cumsum(bit)
            return lsrl.mod(ones, 2)
        # At least one of bit and parity so far, and both of them.
        either_and_both = lsrl.threshold_state(
            lsrl.concat(bit - 0.5, bit - 1.5), [[1, -1], [1, -1]]
        )
        return lsrl.bound(either_and_both[0] - either_and_both[1], 0, 1)

    return parity


def parity_reference(bits: Sequence[int]) -> list[int]:
    """Flip at every one."""
    return list(itertools.accumulate(bits, operator.xor))


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
    return list(itertools.islice(itertools.cycle(range(n)), len(ticks)))


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
    return list(itertools.accumulate(values, max))


def window_majority(window: int = 5, max_length: int | None = None) -> Program:
    """Whether ones are in the majority among the last tokens.

    Input: a bit a token. Output: 1 where more than half of the last `window` bits, this one
    included, are 1, else 0; before the first token all bits count as 0.

    Shows: a count that forgets, by a shift register and one comparison.

    Args:
      window: number of tokens to count over, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    size = checks.integer("window", window, 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def window_majority(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(2)]:
        recent_ones = lsrl.window_sum(bit, size)
        return 2 * recent_ones > size

    return window_majority


def window_majority_reference(bits: Sequence[int], window: int) -> list[int]:
    """Cut the last bits out of the list, and count them."""
    ends = range(1, len(bits) + 1)
    return [int(2 * sum(bits[max(0, end - window) : end]) > window) for end in ends]


def run_length(vocab: int = 3, most: int = 5, max_length: int | None = None) -> Program:
    """How often the present symbol came in a row.

    Input: a symbol a token. Output: how many of the last tokens, this one included, are equal
    without a break, or `most` if there are more.

    Shows: a counter that falls back to 1, without a reset: one window a length.

    Args:
      vocab: number of symbols.
      most: the greatest number told, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols, longest = checks.integer("vocab", vocab, 1), checks.integer("most", most, 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def run_length(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Token(longest + 1)]:
        return lsrl.bound(count_run(token, longest), 1, longest)

    return run_length


def count_run(token: Signal, most: int) -> Signal:
    """How many of the last tokens equal this one without a break, cut off at `most`.

    Args:
      token: a token input.
      most: at least 1.

    Returns:
      Width 1, from 1 to `most`.
    """
    # Nothing came before the first token, so a change there is one too.
    changed = token != lsrl.delay(token, 1, initial=-1)
    length = lsrl.constant(1)
    for size in range(1, most):
        # The run is longer than `size` if none of the last `size` tokens began one.
        length = length + lsrl.relu(1 - lsrl.window_sum(changed, size))
    return length


def run_length_reference(tokens: Sequence[int], most: int) -> list[int]:
    """Count along each run."""
    runs = (run for _, run in itertools.groupby(tokens))
    return [min(length, most) for run in runs for length, _ in enumerate(run, start=1)]


def runs_sample(rng: np.random.Generator, steps: int, vocab: int) -> Inputs:
    """Runs of equal symbols, three tokens long on average."""
    tokens = rng.integers(vocab, size=steps)
    began = np.where(rng.random(steps) < 0.6, 0, np.arange(steps))
    return (tokens[np.maximum.accumulate(began)],)


def leader(vocab: int = 3, max_length: int = 1000) -> Program:
    """The symbol that came most often so far.

    Input: a symbol a token. Output: the symbol with the greatest count up to and including this
    token, the smallest one of those that share it.

    Shows: several counters, each compared with each other.

    Args:
      vocab: number of symbols, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 2)
    pairs = [(a, b) for a in range(symbols) for b in range(a + 1, symbols)]
    # Row p takes the count of the pair's smaller symbol from that of the greater one.
    duels = np.zeros((len(pairs), symbols))
    for row, (smaller, greater) in enumerate(pairs):
        duels[row, [smaller, greater]] = -1, 1

    @lsrl.program(max_length=checks.max_length(max_length))
    def leader(token: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(symbols)]:
        count = lsrl.cumsum(token.one_hot)
        greater_wins = (duels @ count) > 0
        # The leader k is the one symbol that wins against all smaller and loses to no greater one.
        leads = []
        for symbol in range(1, symbols):
            lost = [
                1 - greater_wins[row] if pair[1] == symbol else greater_wins[row]
                for row, pair in enumerate(pairs)
                if symbol in pair
            ]
            leads.append(symbol * lsrl.relu(1 - lsrl.concat(*lost).sum()))
        return lsrl.bound(lsrl.concat(*leads).sum(), 0, symbols - 1)

    return leader


def leader_reference(tokens: Sequence[int], vocab: int) -> list[int]:
    """Search the counts for the greatest."""
    counts = [0] * vocab
    answers = []
    for token in tokens:
        counts[token] += 1
        answers.append(counts.index(max(counts)))
    return answers


def since_last(most: int = 6, max_length: int | None = None) -> Program:
    """How long ago the last one came.

    Input: a bit a token. Output: how many tokens ago the last 1 was, 0 where this bit is 1; `most`
    if it is longer ago, or if there was none.

    Shows: the distance to an event, as a count of windows that do not hold it.

    Args:
      most: the greatest distance told, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    longest = checks.integer("most", most, 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def since_last(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(longest + 1)]:
        ones = lsrl.concat(*(lsrl.window_sum(bit, size) for size in range(1, longest + 1)))
        not_within = lsrl.relu(1 - ones)
        return not_within.sum()

    return since_last


def since_last_reference(bits: Sequence[int], most: int) -> list[int]:
    """Search backwards."""
    answers = []
    for now in range(len(bits)):
        found = next((ago for ago in range(now + 1) if bits[now - ago]), most)
        answers.append(min(found, most))
    return answers


def _sparse_sample(rng: np.random.Generator, steps: int, most: int) -> Inputs:
    """About as many ones as let the distance reach its limit now and then."""
    return ((rng.random(steps) < 1.5 / most).astype(np.int64),)


ENTRIES = (
    Entry(majority, majority_reference, parameters=({"max_length": 64}, {}, {"max_length": 1})),
    Entry(
        parity,
        parity_reference,
        parameters=({"max_length": 64}, {}, {"max_length": 1}, {"max_length": None}),
    ),
    Entry(
        counter_mod,
        counter_mod_reference,
        parameters=({"max_length": 64}, {}, {"n": 2}, {"n": 24, "max_length": None}),
    ),
    Entry(
        histogram,
        histogram_reference,
        parameters=({"max_length": 64}, {}, {"vocab": 1}, {"vocab": 12}),
    ),
    Entry(
        running_max,
        running_max_reference,
        parameters=({"max_length": 64}, {}, {"levels": 2}, {"levels": 30}),
    ),
    Entry(window_majority, window_majority_reference, parameters=({"max_length": 64},)),
    Entry(
        run_length,
        run_length_reference,
        parameters=({"max_length": 64}, {"vocab": 2, "most": 1}),
        sampler=runs_sample,
    ),
    Entry(leader, leader_reference, parameters=({"max_length": 64},)),
    Entry(
        since_last, since_last_reference, parameters=({"max_length": 64},), sampler=_sparse_sample
    ),
)
