"""The 62 tasks of MIPS (Michaud et al. 2024, arXiv 2402.05110), anew from their descriptions.

A task maps sequences to sequences: `sample` draws inputs, `answer` says the outputs, both as arrays
(sequences, time), one an input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsrl import Token, Vector

Array = NDArray[Any]
Sampler = Callable[[np.random.Generator, int, int], tuple[Array, ...]]
Types = dict[str, Token | Vector]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      name: as in the paper, without its number.
      types: of the inputs, by name.
      sample: (rng, sequences, tokens) to the inputs.
      answer: inputs to outputs (sequences, time) or (sequences, time, outputs).
      longest: up to how many tokens its values are small enough for a network.
    """

    name: str
    types: Types
    sample: Sampler
    answer: Callable[..., Array]
    longest: int = 256

    def data(self, sequences: int, tokens: int, seed: int) -> tuple[tuple[Array, ...], Array]:
        """Inputs and outputs."""
        inputs = self.sample(np.random.default_rng(seed), sequences, tokens)
        return inputs, np.asarray(self.answer(*inputs))


def symbols(size: int, count: int = 1) -> tuple[Types, Sampler]:
    """Inputs of so many symbols, drawn evenly."""
    names = "x" if count == 1 else "ab"[:count]

    def draw(rng: np.random.Generator, sequences: int, tokens: int) -> tuple[Array, ...]:
        return tuple(rng.integers(0, size, (sequences, tokens)) for _ in names)

    return {name: Token(size) for name in names}, draw


def whole_numbers(low: int, high: int, count: int = 1) -> tuple[Types, Sampler]:
    """Inputs of whole numbers, both ends included, drawn evenly."""
    names = "x" if count == 1 else "ab"[:count]

    def draw(rng: np.random.Generator, sequences: int, tokens: int) -> tuple[Array, ...]:
        return tuple(rng.integers(low, high + 1, (sequences, tokens)) for _ in names)

    return {name: Vector(1, low=low, high=high, step=1) for name in names}, draw


def palindromes() -> tuple[Types, Sampler]:
    """Bits that begin with a palindrome of some length."""

    def draw(rng: np.random.Generator, sequences: int, tokens: int) -> tuple[Array, ...]:
        words = rng.integers(0, 2, (sequences, tokens))
        for word in words:
            size = int(rng.integers(2, tokens + 1))
            half = word[: size // 2].copy()
            word[size - size // 2 : size] = half[::-1]
        return (words,)

    return {"x": Token(2)}, draw


# ---------------------------------------------------------------- what the tasks say


def before(x: Array, lag: int) -> Array:
    """The value some tokens ago; 0 at first."""
    late = np.zeros_like(x)
    late[:, lag:] = x[:, : x.shape[1] - lag]
    return late


def last(x: Array, count: int) -> Array:
    return np.sum([before(x, lag) for lag in range(count)], axis=0)


def total(x: Array) -> Array:
    return np.cumsum(x, axis=1)


def followed(step: Callable[..., Any], start: Sequence[int], *inputs: Array) -> Array:
    """Outputs of a state: `step(state, inputs)` gives the next state and what is said."""
    state: Sequence[Array] = [np.full(len(inputs[0]), value) for value in start]
    said = []
    for token in range(inputs[0].shape[1]):
        state, output = step(state, [each[:, token] for each in inputs])
        said.append(output)
    return np.stack(said, axis=1)


def added(base: int, a: Array, b: Array) -> Array:
    """Digits of a sum, the least first."""
    return followed(lambda s, x: ([(x[0] + x[1] + s[0]) // base], (x[0] + x[1] + s[0]) % base),
                    [0], a, b)  # fmt: skip


def divided(divisor: int, x: Array) -> Array:
    """Bits of a quotient, the greatest first."""
    return followed(lambda s, x: ([(2 * s[0] + x[0]) % divisor], (2 * s[0] + x[0]) // divisor),
                    [0], x)  # fmt: skip


def moved(gravity: int, spring: int, force: Array) -> Array:
    """A body's place: the force and the field change its speed."""

    def step(state: Sequence[Array], inputs: Sequence[Array]) -> tuple[list[Array], Array]:
        place, speed = state
        speed = speed + inputs[0] + gravity - spring * place
        return [place + speed, speed], place + speed

    return followed(step, [0, 0], force)


def circled(a: Array, b: Array) -> Array:
    """A body's place in the plane, in a magnetic field."""

    def step(state: Sequence[Array], inputs: Sequence[Array]) -> tuple[list[Array], Array]:
        x, y, u, v = state
        u, v = u + inputs[0] - v, v + inputs[1] + u
        return [x + u, y + v, u, v], np.stack([x + u, y + v], axis=1)

    return followed(step, [0, 0, 0, 0], a, b)


def most_often(size: int, x: Array) -> Array:
    """The symbol read most often, the least of several."""
    return np.stack([total(x == symbol) for symbol in range(size)], axis=2).argmax(axis=2)


def balanced(x: Array) -> Array:
    height = total(1 - 2 * x)
    return ((height == 0) & (np.minimum.accumulate(height, axis=1) >= 0)).astype(int)


def mirrored(x: Array) -> Array:
    ends = [x[:, : t + 1] for t in range(x.shape[1])]
    return np.stack([(word == word[:, ::-1]).all(axis=1) for word in ends], axis=1).astype(int)


def dithered(x: Array) -> Array:
    """Ones as often as the sum of the shades passes a multiple of 15."""
    return np.diff(total(x) // 15, axis=1, prepend=0)


def alternating(count: int, x: Array) -> Array:
    changes = [before(x, lag) != before(x, lag + 1) for lag in range(count - 1)]
    return np.all(changes, axis=0).astype(int)


def _tasks() -> list[Task]:
    tasks: list[Task] = []

    def add(
        name: str, inputs: tuple[Types, Sampler], answer: Callable[..., Array], longest: int = 256
    ) -> None:
        tasks.append(Task(name, *inputs, answer, longest))

    bit, bits = symbols(2), symbols(2, 2)
    signed, hundred, digit = whole_numbers(-100, 99), whole_numbers(0, 99), symbols(10)
    add("Binary_Addition", bits, partial(added, 2))
    for base in range(3, 8):
        add(f"Base_{base}_Addition", symbols(base, 2), partial(added, base))
    add("Bitwise_Xor", bits, lambda a, b: a ^ b)
    add("Bitwise_Or", bits, lambda a, b: a | b)
    add("Bitwise_And", bits, lambda a, b: a & b)
    add("Bitwise_Not", bit, lambda x: 1 - x)
    for count in (2, 3, 4):
        add(f"Parity_Last{count}", bit, lambda x, n=count: last(x, n) % 2)
    add("Parity_All", bit, lambda x: total(x) % 2)
    add("Parity_Zeros", bit, lambda x: total(1 - x) % 2)
    add("Evens_Counter", digit, lambda x: total(x % 2 == 0))
    add("Sum_All", hundred, total)
    for count in range(2, 8):
        add(f"Sum_Last{count}", hundred, partial(last, count=count))
    add("Current_Number", hundred, lambda x: x)
    for lag in range(1, 6):
        add(f"Prev{lag}", hundred, partial(before, lag=lag))
    add("Previous_Equals_Current", symbols(8), lambda x: (x == before(x, 1)).astype(int))
    add("Diff_Last2", signed, lambda x: x - before(x, 1))
    add("Abs_Diff", signed, lambda x: np.abs(x - before(x, 1)))
    add("Abs_Current", signed, np.abs)
    add("Diff_Abs_Values", signed, lambda x: np.abs(x) - np.abs(before(x, 1)))
    add("Min_Seen", digit, lambda x: np.minimum.accumulate(x, axis=1))
    add("Max_Seen", hundred, lambda x: np.maximum.accumulate(x, axis=1))
    for size in (2, 3, 4):
        add(f"Majority_0_{size - 1}", symbols(size), partial(most_often, size))
    add("Evens_Detector", digit, lambda x: (x % 2 == 0).astype(int))
    squares = [0, 1, 4, 9, 16]
    add("Perfect_Square_Detector", symbols(20), lambda x: np.isin(x, squares).astype(int))
    add("Bit_Palindrome", palindromes(), mirrored)
    add("Balanced_Parenthesis", bit, balanced)
    add("Parity_Bits_Mod2", bit, lambda x: np.arange(x.shape[1]) % 2 + 0 * x)
    add("Alternating_Last3", bit, partial(alternating, 3))
    add("Alternating_Last4", bit, partial(alternating, 4))
    add("Bit_Shift_Right", bit, partial(before, lag=1))
    add("Bit_Dot_Prod_Mod2", bits, lambda a, b: total(a * b) % 2)
    for divisor in (3, 5, 7):
        add(f"Div_{divisor}", bit, partial(divided, divisor))
    for size in range(3, 9):
        add(f"Add_Mod_{size}", symbols(size), lambda x, n=size: total(x) % n)
    add("Dithering", symbols(16), dithered)
    pushed = whole_numbers(-10, 10)
    add("Newton_Freebody", pushed, partial(moved, 0, 0))
    add("Newton_Gravity", pushed, partial(moved, -1, 0))
    add("Newton_Spring", pushed, partial(moved, 0, 1))
    add("Newton_Magnetic", whole_numbers(-10, 10, 2), circled, longest=24)
    return tasks


TASKS = {task.name: task for task in _tasks()}
