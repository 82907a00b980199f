"""Programs made of two others of the library, one of which reads what the other says."""

import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token
from lsrl.programs import checks
from lsrl.programs.arithmetic import modular_sum
from lsrl.programs.counting import (
    count_run,
    majority,
    majority_reference,
    parity,
    parity_reference,
    run_length_reference,
    running_max_reference,
    runs_sample,
)
from lsrl.programs.entry import Entry, Inputs
from lsrl.programs.formal_languages import ngram, ngram_reference
from lsrl.programs.lookup import induction_head, induction_head_reference
from lsrl.programs.memory import copy_delay_reference


def majority_parity(max_length: int = 64) -> Program:
    """How often ones were ahead, modulo 2: `parity` of `majority`.

    Input: a bit a token. Output: 1 where the number of tokens so far at which more than half of the
    bits were 1 is odd, else 0.

    Shows: a comparison of counts that is counted in its turn.

    Args:
      max_length: greatest number of tokens.

    Raises:
      ProgramError: max_length is not a positive int.
    """
    longest = checks.max_length(max_length)

    @lsrl.program(max_length=longest)
    def majority_parity(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(2)]:
        ahead = majority(longest)(bit)
        return parity(longest)(ahead)

    return majority_parity


def majority_parity_reference(bits: Sequence[int]) -> list[int]:
    """One after the other."""
    return parity_reference(majority_reference(bits))


def pattern_count(
    pattern: Sequence[int] = (1, 0, 1), n: int = 3, vocab: int = 2, max_length: int = 64
) -> Program:
    """How often a pattern came, modulo n: `modular_sum` of `ngram`.

    Input: a symbol a token. Output: the number of places so far at which the pattern ended, mod n;
    occurrences may overlap.

    Shows: a local detector that feeds a counter.

    Args:
      pattern: the symbols, at least one.
      n: the modulus, at least 2.
      vocab: number of symbols.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols, modulus = checks.integer("vocab", vocab, 1), checks.integer("n", n, 2)
    longest = checks.max_length(max_length)

    @lsrl.program(max_length=longest)
    def pattern_count(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Token(modulus)]:
        found = ngram(pattern, symbols)(token)
        return modular_sum(modulus, longest)(found)

    return pattern_count


def pattern_count_reference(tokens: Sequence[int], pattern: Sequence[int], n: int) -> list[int]:
    """One after the other."""
    return [count % n for count in itertools.accumulate(ngram_reference(tokens, pattern))]


def longest_run(vocab: int = 3, most: int = 5, max_length: int = 64) -> Program:
    """The longest run so far: `running_max` of `run_length`.

    Input: a symbol a token. Output: the greatest number of equal symbols in a row so far, or `most`
    if it is greater.

    Shows: a count that falls back, and a maximum that does not.

    Args:
      vocab: number of symbols.
      most: the greatest number told, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols, longest = checks.integer("vocab", vocab, 1), checks.integer("most", most, 2)

    @lsrl.program(max_length=checks.max_length(max_length))
    def longest_run(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Token(longest + 1)]:
        run = count_run(token, longest)
        times_reached = lsrl.cumsum(run >= np.arange(2, longest + 1))
        never_reached = lsrl.relu(1 - times_reached)
        return longest - never_reached.sum()

    return longest_run


def longest_run_reference(tokens: Sequence[int], most: int) -> list[int]:
    """One after the other."""
    return running_max_reference(run_length_reference(tokens, most))


def echo_sum(k: int = 2, n: int = 4, max_length: int | None = None) -> Program:
    """Each symbol and the one k tokens before it, added modulo n: a sum over `copy_delay`.

    Input: a number from 0 to n - 1 a token. Output: this number plus that of k tokens ago, mod n;
    before the first token all are 0.

    Shows: an addition modulo n of two places, without any count.

    Args:
      k: the delay, at least 1.
      n: the modulus, at least 2.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    steps, modulus = checks.integer("k", k, 1), checks.integer("n", n, 2)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def echo_sum(token: Annotated[Signal, Token(modulus)]) -> Annotated[Signal, Token(modulus)]:
        echo = lsrl.delay(token, steps)
        total = token + echo
        return lsrl.mod(total, modulus)

    return echo_sum


def echo_sum_reference(tokens: Sequence[int], k: int, n: int) -> list[int]:
    """One after the other."""
    return [(a + b) % n for a, b in zip(tokens, copy_delay_reference(tokens, k), strict=True)]


def induction_hits(vocab: int = 3, max_length: int = 64) -> Program:
    """Whether guessing pays: `majority` of how often `induction_head` was right.

    Input: a symbol a token. Output: 1 where, of all tokens up to and including this one, more than
    half are what the induction head said at the token before, else 0. Before the first token it
    says 0.

    Shows: a program that reads its own prediction of the next token.

    Args:
      vocab: number of symbols, at least 1.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)
    longest = checks.max_length(max_length)

    @lsrl.program(max_length=longest)
    def induction_hits(token: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(2)]:
        prediction = lsrl.delay(induction_head(symbols)(token), 1)
        hit = prediction == token
        return majority(longest)(hit)

    return induction_hits


def induction_hits_reference(tokens: Sequence[int]) -> list[int]:
    """One after the other."""
    predictions = [0, *induction_head_reference(tokens)[:-1]]
    return majority_reference([int(a == b) for a, b in zip(predictions, tokens, strict=True)])


def _periodic_sample(rng: np.random.Generator, steps: int, vocab: int) -> Inputs:
    """A short word over and over, with some symbols changed, so that guesses are often right."""
    word = rng.integers(vocab, size=int(rng.integers(1, 5)))
    tokens = np.resize(word, steps)
    share = rng.choice([0.0, 0.1, 0.4])
    return (np.where(rng.random(steps) < share, rng.integers(vocab, size=steps), tokens),)


ENTRIES = (
    Entry(majority_parity, majority_parity_reference, parameters=({"max_length": 32},)),
    Entry(
        pattern_count,
        pattern_count_reference,
        parameters=({"max_length": 32}, {"pattern": (1, 1), "n": 2, "max_length": 20}),
    ),
    Entry(longest_run, longest_run_reference, parameters=({},), sampler=runs_sample),
    Entry(echo_sum, echo_sum_reference, parameters=({"max_length": 64},)),
    Entry(
        induction_hits,
        induction_hits_reference,
        parameters=({}, {"vocab": 1}),
        sampler=_periodic_sample,
    ),
)
