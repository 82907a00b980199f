"""How strongly sums depend on their terms, and layers on layers, as the weights tell.

An entry of a kernel counts in proportion to what it moves: |weight| times the spread of what it
multiplies, over the greatest term of the same sum, the bias and constants included (so that weights
of gates and of values, whose scales differ by many powers of two, compare).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lsrl.ir.numbers import Array


class Sources(NamedTuple):
    """What a layer reads, by directions of its hook; see `lsrl.interpret.methods.Basis`.

    Attributes:
      read: (items, units), from the hook to values.
      write: (items, units), from values to the hook.
      spread: (items,), standard deviations of the values.
      size: (items,), their root mean squares.
    """

    read: Array
    write: Array
    spread: Array
    size: Array


class Strengths(NamedTuple):
    """Of every connection.

    Attributes:
      forward: per layer (items, items of the next layer), the last (items, outputs).
      recurrent: per layer (items, items) from a token to the next, that of the input map zeros.
    """

    forward: list[Array]
    recurrent: list[Array]


class Gates(NamedTuple):
    """What one layer does, on some inputs.

    Attributes:
      gates: any shape, from 0 to 1.
      candidates: any shape, what gates let in.
    """

    gates: Array
    candidates: Array


def strength(kernel: Array, bias: Array, sources: Sources) -> Array:
    """(items, columns) of a kernel (items, columns), each over the greatest term of its column."""
    return shared([(kernel, sources)], bias)[0]


def shared(parts: Sequence[tuple[Array, Sources]], bias: Array) -> list[Array]:
    """As `strength`, of several kernels whose products are added."""
    greatest = np.abs(np.broadcast_to(bias, parts[0][0].shape[1:]))
    for kernel, sources in parts:
        terms = np.abs(kernel) * sources.size[:, None]
        greatest = np.maximum(greatest, terms.max(axis=0, initial=0.0))
    greatest = np.where(greatest == 0, 1.0, greatest)
    return [np.abs(kernel) * sources.spread[:, None] / greatest for kernel, sources in parts]


def sums_of(kernel: Array, below: Sources) -> Sources:
    """Sums as sources, of the spread and the size that they have if terms are independent."""
    nothing = np.zeros(1)
    return Sources(
        nothing,
        nothing,
        np.sqrt(((kernel * below.spread[:, None]) ** 2).sum(axis=0)),
        np.sqrt(((kernel * below.size[:, None]) ** 2).sum(axis=0)),
    )


def sigmoid(values: Array) -> Array:
    """In float64, without overflow."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))
