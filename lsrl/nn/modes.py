"""How a routine passes gradients to its tokens: one function of distributions a mode."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.scans import product_scan
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.nn.expectation import local_rows
from lsrl.nn.semantics import Relaxation, evaluate
from lsrl.nn.tables import MooreTable

Mode = Literal["automaton", "local", "relaxed", "straight_through", "raw"]
MODES: tuple[Mode, ...] = ("automaton", "local", "relaxed", "straight_through", "raw")
# From distributions (batch, time, symbols) and a temperature to what the mode makes of them.
Surrogate: TypeAlias = Callable[[jax.Array, jax.Array | float], jax.Array]
# Products of larger matrices take longer side by side than one after the other.
MOST_MULTIPLIED = 16


def automaton(table: MooreTable, outputs: Array) -> Surrogate:
    """The expected output, were each token drawn from its distribution by itself.

    It is linear in each token's distribution, so its derivative at known tokens is the effect of
    every swap of one of them, exactly.

    Args:
      table: of the routine.
      outputs: (states, outputs), by the state that a token leads to.
    """
    states, symbols = table.follows.shape
    moves = np.eye(states, dtype=np.float32)[table.follows.T].reshape(symbols, -1)
    said = np.asarray(outputs, np.float32)

    def expected(p: jax.Array, temperature: jax.Array | float) -> jax.Array:
        steps = jnp.matmul(p, moves, precision="highest").reshape(*p.shape[:2], states, states)
        if states <= MOST_MULTIPLIED:
            reached = product_scan(steps)[:, :, table.initial]
        else:
            start = np.eye(states, dtype=np.float32)[table.initial]

            def token(state: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
                state = jnp.einsum("bs,bsz->bz", state, step, precision="highest")
                return state, state

            first = jnp.broadcast_to(start, (p.shape[0], states))
            _, found = lax.scan(token, first, jnp.moveaxis(steps, 1, 0))
            reached = jnp.moveaxis(found, 0, 1)
        return jnp.matmul(reached, said, precision="highest")

    return expected


def relaxed(graph: Graph) -> Surrogate:
    """The program with soft comparisons."""
    return lambda p, temperature: evaluate(graph, (p,), Relaxation(temperature))


def straight_through(graph: Graph) -> Surrogate:
    """The program itself, with the derivatives of soft comparisons."""
    return lambda p, temperature: evaluate(graph, (p,), Relaxation(temperature, True))


def local(graph: Graph) -> Surrogate:
    """The program with the expected value of each comparison of a few bits, the others soft."""
    return lambda p, temperature: evaluate(graph, (p,), Relaxation(temperature), local_rows(graph))


def as_symbols(values: jax.Array, ids: jax.Array, symbols: int) -> jax.Array:
    """Numbers (..., 1) as if they were distributions over symbols, for their derivative alone.

    Between two whole numbers a distribution of two symbols has the number as its mean. At a whole
    number the derivatives of both sides differ, and this has their mean: what is above gains what
    is below loses.

    Args:
      values: (..., 1), whose derivative it is.
      ids: (...) int, the symbols that they are near.
      symbols: how many.
    """
    return values * jnp.asarray(_sides(symbols))[ids]


def _sides(symbols: int) -> Array:
    """(symbols, symbols): what each symbol's share gains as the number grows from a symbol."""
    found = np.zeros((symbols, symbols), np.float32)
    for symbol in range(symbols):
        above, below = min(symbol + 1, symbols - 1), max(symbol - 1, 0)
        if above > below:
            found[symbol, above] += 1 / (above - below)
            found[symbol, below] -= 1 / (above - below)
    return found


def interpolated(values: jax.Array, symbols: int) -> jax.Array:
    """Numbers (..., 1) as shares of the two symbols beside them, whose mean they are."""
    low = jnp.clip(jnp.floor(values[..., 0]), 0, max(symbols - 2, 0)).astype(jnp.int32)
    above = jnp.minimum(low + 1, symbols - 1)
    ends = [jax.nn.one_hot(end, symbols, dtype=values.dtype) for end in (low, above)]
    return ends[0] + (values - low[..., None].astype(values.dtype)) * (ends[1] - ends[0])


def ids_of(values: jax.Array, symbols: int) -> jax.Array:
    """The symbols that outputs (..., 1) are, int32."""
    return jnp.clip(jnp.rint(values[..., 0]), 0, symbols - 1).astype(jnp.int32)


def one_hot(words: Array, symbols: int) -> Array:
    """Distributions of known tokens, float32."""
    return np.eye(symbols, dtype=np.float32)[np.asarray(words)]
