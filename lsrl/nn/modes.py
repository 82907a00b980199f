"""How a routine passes gradients to its tokens: one function of distributions a mode."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.nn.expectation import local_rows
from lsrl.nn.semantics import Relaxation, evaluate
from lsrl.nn.tables import MooreTable

Mode = Literal["automaton", "local", "relaxed", "straight_through", "raw"]
MODES: tuple[Mode, ...] = ("automaton", "local", "relaxed", "straight_through", "raw")
# From distributions (batch, time, symbols) and a temperature to what the mode makes of them.
Surrogate: TypeAlias = Callable[[jax.Array, jax.Array | float], jax.Array]
Weights: TypeAlias = dict[str, jax.Array]
Found = TypeVar("Found")
# States of the machines whose moves are one matrix: it is 0 where machines meet, and of many small
# ones it is quicker all the same, but it grows with the square.
MOST_ABREAST = 64


def automaton(table: MooreTable, outputs: Array) -> Surrogate:
    """The expected output, were each token drawn from its distribution by itself.

    It is linear in each token's distribution, so its derivative at known tokens is the effect of
    every swap of one of them, exactly.

    Args:
      table: of the routine.
      outputs: (states, outputs), by the state that a token leads to.
    """
    said = np.asarray(outputs, np.float32)
    return lambda p, temperature: jnp.matmul(reached([table], p), said, precision="highest")


def reached(tables: Sequence[MooreTable], p: jax.Array) -> jax.Array:
    """The chance of every state behind each token, were each drawn from its distribution by itself.

    Token by token: q'(z) is the sum of p(v) q(s) over the symbols v and states s that lead to z,
    which is one product with a matrix of zeros and ones. On CPUs to multiply transition matrices,
    all tokens at once, takes some thirty times as long.

    Args:
      tables: of machines that read the same symbols.
      p: (batch, time, symbols).

    Returns:
      (batch, time, states), those of the first machine first; float32, or float64 as p is.
    """
    dtype = jnp.promote_types(p.dtype, jnp.float32)
    parts = [[jnp.asarray(each, dtype) for each in part] for part in _abreast(tables)]

    # What is multiplied is worked out again for the derivative, as it takes the room of all states
    # times all symbols.
    @jax.checkpoint
    def token(
        before: tuple[jax.Array, ...], now: jax.Array
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        after = []
        for chances, (_, moves) in zip(before, parts, strict=True):
            pairs = (now[:, :, None] * chances[:, None]).reshape(len(now), -1)
            after.append(jnp.matmul(pairs, moves, precision="highest"))
        return tuple(after), jnp.concatenate(after, axis=-1)

    first = tuple(jnp.broadcast_to(start, (len(p), len(start))) for start, _ in parts)
    _, found = lax.scan(token, first, jnp.moveaxis(p.astype(dtype), 1, 0))
    return jnp.moveaxis(found, 0, 1)


def _abreast(tables: Sequence[MooreTable]) -> Iterator[tuple[Array, Array]]:
    """Machines as few: where one is at first (states,), and moves (symbols * states, states)."""
    some: list[MooreTable] = []
    for table, following in zip(tables, [*tables[1:], None], strict=True):
        some.append(table)
        states = sum(each.states for each in some)
        if following is not None and states + following.states <= MOST_ABREAST:
            continue
        start = np.zeros(states, np.float32)
        moves = np.zeros((table.symbols, states, states), np.float32)
        first = 0
        for each in some:
            last = first + each.states
            start[first + each.initial] = 1
            moves[:, first:last, first:last] = one_hot(each.follows.T, each.states)
            first = last
        yield start, moves.reshape(-1, states)
        some = []


def sloped(exact: Callable[..., Found], soft: Callable[..., Found]) -> Callable[..., Found]:
    """What a network gives, with the derivative of what it expects.

    Args:
      exact: of the network's weights, which get no derivative, and of arrays.
      soft: of these arrays.

    Returns:
      `exact`, with the derivative of `soft`.
    """

    @jax.custom_vjp
    def run(weights: Weights, *given: object) -> Found:
        return exact(weights, *given)

    def forward(weights: Weights, *given: object) -> tuple[Found, tuple[object, ...]]:
        return run(weights, *given), (weights, *given)

    def backward(kept: tuple[object, ...], cotangent: Found) -> tuple[object, ...]:
        weights, *given = kept
        return jax.tree.map(jnp.zeros_like, weights), *jax.vjp(soft, *given)[1](cotangent)

    run.defvjp(forward, backward)
    return cast("Callable[..., Found]", run)


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
