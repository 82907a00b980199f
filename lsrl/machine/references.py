"""Plain-Python algorithms of the texts: parameters by name, to what is left behind by label."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lsrl.errors import InputError

Numbers = Sequence[float]
Matrix = Sequence[Sequence[float]]
Left = dict[str, object]

# The multiplication of 3 by 4, as `interpreter` runs it: from address 0 on.
_GUEST = (15, 18, 3, 20, 16, -1, 18, 17, 9, 19, 16, 12, 20, 20, 3, 3, 4, 0, 0, 1, 0)


def hello() -> Left:
    """A greeting."""
    return {"text": b"Hello, world!\n"}


def echo(keys: bytes = b"Is anybody there?\n") -> Left:
    """What is typed, up to the end of the line."""
    return {"text": keys[: keys.index(b"\n") + 1]}


def multiplication(x: int = 6, y: int = 7) -> Left:
    """A product."""
    return {"product": x * y}


def division(x: int = 47, y: int = 5) -> Left:
    """A quotient and a remainder.

    Raises:
      InputError: y is 0, by which the text goes on for ever.
    """
    if y == 0:
        raise InputError("division: y must not be 0, got 0")
    return {"quotient": x // y, "remainder": x % y}


def primes(limit: int = 20) -> Left:
    """Primes, by trial."""
    found = [n for n in range(2, limit + 1) if all(n % d for d in range(2, n))]
    return {"found": found, "text": "".join(f"{prime}\n" for prime in found).encode()}


def sorting(numbers: Sequence[int] = (31, -4, 15, 9)) -> Left:
    """The numbers in order."""
    return {"numbers": sorted(numbers)}


def interpreter(guest: Iterable[int] = _GUEST, keys: bytes = b"") -> Left:
    """What the guest leaves, in memory that is as large as its image."""
    memory, text, typed, pc = list(guest), b"", iter(keys), 0
    while pc >= 0:
        a, b, c = memory[pc : pc + 3]
        pc += 3
        if a == -1:
            memory[b] = next(typed)
        elif b == -1:
            text += bytes([memory[a] & 255])
        else:
            memory[b] -= memory[a]
            pc = c if memory[b] <= 0 else pc
    return {"guest": memory, "text": text}


def calculator(x: float = 7.0, y: float = 2.0, op: int = 4) -> Left:
    """One of + - * / % and the root."""
    return {"result": [x + y, x - y, x * y, x / y, x % y, math.sqrt(abs(x))][op - 1]}


def transpose(a: Matrix = ((1, 2, 3), (4, 5, 6), (7, 8, 9))) -> Left:
    """Rows become columns."""
    return {"a": [list(column) for column in zip(*a, strict=True)]}


def product(a: Matrix = ((1, 2), (3, 4)), b: Matrix = ((5, 6), (7, 8))) -> Left:
    """A product of matrices."""
    return {"c": (np.array(a) @ np.array(b)).tolist()}


def inverse(a: Matrix = ((4, 1), (2, 3)), steps: int = 12) -> Left:
    """An inverse."""
    return {"x": np.linalg.inv(a).tolist()}


def matrix_inverse(
    a: Matrix = (
        (0.5, 0.25, 0, -0.25),
        (0, 0.5, 0.25, 0),
        (0.25, 0, -0.5, 0),
        (0, 0.25, 0, 0.75),
    ),
    steps: int = 16,
) -> Left:
    """An inverse."""
    return {"x": np.linalg.inv(a).tolist()}


def power_iteration(a: Matrix = ((2, 1), (1, 3)), steps: int = 20) -> Left:
    """The greatest eigenvalue, and its vector."""
    values, vectors = np.linalg.eig(np.array(a))
    greatest = int(np.argmax(values))
    first, second = vectors[:, greatest] / vectors[np.argmax(abs(vectors[:, greatest])), greatest]
    return {"value": float(values[greatest]), "u1": float(first), "u2": float(second)}


def solve(a: Matrix = ((2, 1), (1, 3)), b1: float = 1.0, b2: float = 2.0) -> Left:
    """The solution of two equations."""
    first, second = np.linalg.solve(np.array(a), [b1, b2]).tolist()
    return {"x1": first, "x2": second}


def sgd(epochs: int = 40, rate: float = 0.05) -> Left:
    """What two ReLUs learn of four examples, in turn."""
    examples = [(-1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    w, b, v = [0.6, -0.5], [0.1, 0.05], [0.7, 0.4]
    for step in range(4 * epochs):
        x, y = examples[step % 4]
        h = [max(weight * x + bias, 0.0) for weight, bias in zip(w, b, strict=True)]
        error = rate * (v[0] * h[0] + v[1] * h[1] - y)
        for unit in range(2):
            back = error * v[unit]
            v[unit] -= error * h[unit]
            if h[unit] > 0:
                b[unit] -= back
                w[unit] -= back * x
    return {f"{name}{i + 1}": row[i] for name, row in zip("wbv", (w, b, v), strict=True)
            for i in range(2)}  # fmt: skip


def approximation(x: float = 1.2) -> Left:
    """The sine at 0, 0.5, … 3, and straight lines between."""
    places = np.arange(0, 3.5, 0.5)
    return {"y": float(np.interp(x, places, np.sin(places)))}
