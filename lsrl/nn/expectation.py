"""Expected values of comparisons of a few bits that are drawn independently."""

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.ir import ops
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.nn.semantics import RowValues

# Bits of which a comparison's expected value is worked out: it has a term for each of 2^n values.
MOST_BITS = 8
# Channel of a node.
Channel = tuple[int, int]


class _Row(NamedTuple):
    """A comparison's channel as a function of bits.

    Attributes:
      channel: of the comparison.
      bits: the channels that it reads, each 0 or 1.
      choices: (2^n, n), what they may be.
      results: (2^n,), what the comparison gives then.
    """

    channel: int
    bits: tuple[Channel, ...]
    choices: Array
    results: Array


def local_rows(graph: Graph) -> RowValues:
    """Comparisons and ReLUs of at most so many bits by their expected value, others as they are."""
    found = _rows(graph)

    def value(node: int, values: Mapping[int, jax.Array]) -> jax.Array:
        own = values[node]
        for row in found.get(node, ()):
            chances = jnp.ones((*own.shape[:2], len(row.results)), own.dtype)
            for (source, channel), choice in zip(row.bits, row.choices.T, strict=True):
                one = values[source][..., channel : channel + 1]
                chances = chances * jnp.where(choice > 0, one, 1 - one)
            mean = jnp.matmul(chances, jnp.asarray(row.results), precision="highest")
            own = own.at[..., row.channel].set(mean)
        return own

    return value


@lru_cache(maxsize=64)
def _rows(graph: Graph) -> dict[int, tuple[_Row, ...]]:
    """By node, its channels that are functions of few bits."""
    found: dict[int, tuple[_Row, ...]] = {}
    for i in graph.live():
        node = graph.nodes[i]
        if isinstance(node.op, ops.Relu | ops.Step):
            each = (_row(graph, i, channel) for channel in range(node.width))
            found[i] = tuple(row for row in each if row is not None)
    return found


def _row(graph: Graph, node: int, channel: int) -> _Row | None:
    weights: dict[Channel, float] = {}
    bias = _add(graph, graph.nodes[node].operands[0], channel, 1.0, weights)
    bits = tuple(key for key, weight in weights.items() if weight)
    if not 0 < len(bits) <= MOST_BITS or not all(_is_bit(graph, *key) for key in bits):
        return None
    choices = np.array([*itertools.product((0.0, 1.0), repeat=len(bits))], np.float32)
    read = choices @ np.array([weights[key] for key in bits]) + bias
    op = graph.nodes[node].op
    results = np.maximum(read, 0.0)
    if isinstance(op, ops.Step):
        results = np.maximum(1 - np.maximum(-op.slope * read - op.shift, 0.0), 0.0)
    return _Row(channel, bits, choices, results.astype(np.float32))


def _add(
    graph: Graph, node: int, channel: int, factor: float, weights: dict[Channel, float]
) -> float:
    """Add a channel to a sum of channels that no affine map makes; returns the constant part."""
    this = graph.nodes[node]
    if isinstance(this.op, ops.Affine):
        bias = factor * this.op.bias[channel]
        for matrix, operand in zip(this.op.weights, this.operands, strict=True):
            row = matrix.csr[[channel]]
            for column, weight in zip(row.indices.tolist(), row.data.tolist(), strict=True):
                bias += _add(graph, operand, column, factor * weight, weights)
        return bias
    if isinstance(this.op, ops.Bound):
        return _add(graph, this.operands[0], channel, factor, weights)
    if isinstance(this.op, ops.Constant):
        return factor * this.op.values[channel]
    weights[node, channel] = weights.get((node, channel), 0.0) + factor
    return 0.0


def _is_bit(graph: Graph, node: int, channel: int) -> bool:
    facts = graph.facts[node]
    ends = facts.low[channel] >= 0 and facts.high[channel] <= 1
    return bool(ends and facts.step[channel] == 1)
