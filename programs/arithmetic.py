"""Programs that calculate: modulo n, in binary, and one step of gradient descent."""

import itertools
from collections.abc import Sequence
from typing import Annotated

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.programs import checks
from lsrl.programs.entry import Entry


def modular_sum(n: int = 5, max_length: int = 1000) -> Program:
    """The sum of all symbols so far, modulo n.

    Input: a number from 0 to n - 1 a token. Output: their sum up to and including this token, mod
    n.

    Shows: the word problem of a cyclic group, up to a declared length.

    Args:
      n: the modulus, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    modulus = checks.integer("n", n, 2)

    @lsrl.program(max_length=checks.max_length(max_length))
    def modular_sum(term: Annotated[Signal, Token(modulus)]) -> Annotated[Signal, Token(modulus)]:
        total = lsrl.cumsum(term)
        return lsrl.mod(total, modulus)

    return modular_sum


def modular_sum_reference(terms: Sequence[int], n: int) -> list[int]:
    """Take the remainder of each total."""
    return [total % n for total in itertools.accumulate(terms)]


def cycle_navigation(n: int = 5, max_length: int = 1000) -> Program:
    """Where a walk on a ring has got to.

    Input: a move a token: 0 stay, 1 one place on, 2 one place back. Output: the place on a ring of
    n after this move, from place 0.

    Shows: steps in both directions with counts that only grow: a step back is n - 1 steps on.

    Args:
      n: number of places, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.

    Source: Delétang et al. (2023), "Neural Networks and the Chomsky Hierarchy", Cycle Navigation.
    """
    places = checks.integer("n", n, 2)

    @lsrl.program(max_length=checks.max_length(max_length))
    def cycle_navigation(
        move: Annotated[Signal, Token(3, ["STAY", "ON", "BACK"])],
    ) -> Annotated[Signal, Token(places)]:
        steps = lsrl.lookup(move, [0, 1, places - 1])
        return lsrl.mod(lsrl.cumsum(steps), places)

    return cycle_navigation


def cycle_navigation_reference(moves: Sequence[int], n: int) -> list[int]:
    """Walk along a line that is wound around the ring."""
    places = itertools.accumulate((0, 1, -1)[move] for move in moves)
    return [place % n for place in places]


def binary_adder(max_length: int | None = None) -> Program:
    """The sum of two binary numbers, bit by bit.

    Input: two bits a token, those of two numbers, the least significant first. Output: the bit of
    their sum.

    Shows: a carry is a threshold unit: 1 where at least two of both bits and the last carry are.

    Args:
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: max_length is not a positive int.
    """

    @lsrl.program(max_length=checks.optional_length(max_length))
    def binary_adder(
        first: Annotated[Signal, Token(2)], second: Annotated[Signal, Token(2)]
    ) -> Annotated[Signal, Token(2)]:
        carry = lsrl.threshold_state(first + second - 1.5, 1)
        # The carry stands for 2, and takes away just that from the three ones added up.
        return lsrl.bound(first + second + lsrl.delay(carry, 1) - 2 * carry, 0, 1)

    return binary_adder


def binary_adder_reference(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Add two Python ints."""
    total = sum(bit << place for bits in (first, second) for place, bit in enumerate(bits))
    return [total >> place & 1 for place in range(len(first))]


def gradient_step(
    dim: int = 2,
    learning_rate: float = 0.125,
    low: float = -1.0,
    high: float = 1.0,
    step: float | None = 0.125,
    max_length: int = 64,
) -> Program:
    """Linear regression in context, by one step of gradient descent.

    Input: an example a token: the vector [x, y] of dim + 1 numbers. Output: the prediction w·x for
    this token's x, where w = learning_rate · Σ y x over all earlier tokens: what one step of
    gradient descent on their squared errors makes of w = 0. A query is an x with any y.

    Shows: learning in context, by a product, a running sum and another product.

    Args:
      dim: number of features, at least 1.
      learning_rate: the step's size, greater than 0; a power of two keeps predictions exact.
      low: least value of every input.
      high: greatest value of every input.
      step: the grid of the inputs, or None for continuous ones.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.

    Source: von Oswald et al. (2023), "Transformers Learn In-Context by Gradient Descent".
    """
    features = checks.integer("dim", dim, 1)
    rate = checks.number("learning_rate", learning_rate, above=0)
    least = checks.number("low", low)
    most = checks.number("high", high, above=least)
    grid = None if step is None else checks.number("step", step, above=0)
    longest = checks.max_length(max_length)
    # How large a prediction can get, with one example to spare for rounding.
    reach = features * rate * (longest + 1) * max(abs(least), abs(most)) ** 3

    @lsrl.program(max_length=longest)
    def gradient_step(
        example: Annotated[Signal, Vector(features + 1, low=least, high=most, step=grid)],
    ) -> Annotated[Signal, Vector(1, low=-reach, high=reach)]:
        x, y = example[:features], example[features]
        weights = lsrl.delay(rate * lsrl.cumsum(x * y), 1)
        return (weights * x).sum()

    return gradient_step


def gradient_step_reference(
    examples: Sequence[Sequence[float]], dim: int, learning_rate: float
) -> list[float]:
    """Add up what each earlier example contributes to each prediction."""
    answers = []
    for now, query in enumerate(examples):
        similar = [
            earlier[dim] * sum(earlier[i] * query[i] for i in range(dim))
            for earlier in examples[:now]
        ]
        answers.append(learning_rate * sum(similar))
    return answers


def reset_sum(n: int = 3, max_length: int = 64) -> Program:
    """The sum modulo n since the last reset.

    Input: a token each step: k from 0 to n - 1 is a term, n the reset. Output: the sum of the terms
    after the last reset, this token included, mod n.

    Shows: a reset that takes nothing away: the total at the reset is held and subtracted.

    Args:
      n: the modulus, at least 2.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    modulus = checks.integer("n", n, 2)
    longest = checks.max_length(max_length)
    words = [*(str(term) for term in range(modulus)), "RESET"]

    @lsrl.program(max_length=longest)
    def reset_sum(
        token: Annotated[Signal, Token(modulus + 1, words)],
    ) -> Annotated[Signal, Token(modulus)]:
        total = lsrl.cumsum(lsrl.lookup(token, [*range(modulus), 0]))
        total_at_reset = lsrl.hold(total, token.one_hot[modulus])
        since_reset = lsrl.bound(total - total_at_reset, 0, longest * (modulus - 1))
        return lsrl.mod(since_reset, modulus)

    return reset_sum


def reset_sum_reference(tokens: Sequence[int], n: int) -> list[int]:
    """Add up, and start again at 0."""
    total, answers = 0, []
    for token in tokens:
        total = 0 if token == n else (total + token) % n
        answers.append(total)
    return answers


ENTRIES = (
    Entry(
        modular_sum, modular_sum_reference, parameters=({"max_length": 64}, {}, {"n": 2}, {"n": 12})
    ),
    Entry(
        cycle_navigation,
        cycle_navigation_reference,
        parameters=({"max_length": 64}, {}, {"n": 2}, {"n": 7}),
    ),
    Entry(binary_adder, binary_adder_reference, parameters=({}, {"max_length": 500})),
    Entry(
        gradient_step,
        gradient_step_reference,
        parameters=(
            {},
            {"dim": 1, "max_length": 20},
            {"dim": 5, "learning_rate": 0.1, "step": None},
        ),
        tolerance=1e-12,
    ),
    Entry(reset_sum, reset_sum_reference, parameters=({}, {"n": 2, "max_length": 20})),
)
