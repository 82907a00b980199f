"""What compiled models run against: programs by hand, the direct algorithm, stock flax networks.

Arrays of the hand-written versions are (batch, time), float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.network import CellNetwork

BLOCK = 64  # tokens that one product of the blocked sum adds up

CumulativeSum = Callable[[jax.Array], jax.Array]


# ---------------------------------------------------------------- sums over the last axis


def library_sum(values: jax.Array) -> jax.Array:
    """What jax.numpy offers."""
    return jnp.cumsum(values, axis=-1)


def associative_sum(values: jax.Array) -> jax.Array:
    """An associative scan."""
    return lax.associative_scan(jnp.add, values, axis=-1)


def scanned_sum(values: jax.Array) -> jax.Array:
    """One token after the other."""

    def token(total: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = total + value
        return total, total

    start = jnp.zeros(values.shape[:-1], values.dtype)
    _, sums = lax.scan(token, start, jnp.moveaxis(values, -1, 0))
    return jnp.moveaxis(sums, 0, -1)


def blocked_sum(values: jax.Array) -> jax.Array:
    """A product with a triangle in each block, and the same for the blocks' totals."""
    tokens = values.shape[-1]
    if tokens <= BLOCK:
        return _triangle_product(values)
    padded = _pad(values, -tokens % BLOCK)
    within = _triangle_product(padded.reshape(*values.shape[:-1], -1, BLOCK))
    totals = blocked_sum(within[..., -1])
    before = jnp.concatenate([jnp.zeros_like(totals[..., :1]), totals[..., :-1]], axis=-1)
    return (within + before[..., None]).reshape(padded.shape)[..., :tokens]


def _triangle_product(values: jax.Array) -> jax.Array:
    size = values.shape[-1]
    triangle = jnp.asarray(np.triu(np.ones((size, size))), values.dtype)
    return jnp.dot(values, triangle, precision=lax.Precision.HIGHEST)


CUMULATIVE_SUMS: dict[str, CumulativeSum] = {
    "jnp.cumsum": library_sum,
    "associative_scan": associative_sum,
    "scan": scanned_sum,
    "blocked": blocked_sum,
}


# ---------------------------------------------------------------- tok2tok by hand


def tok2tok_by_hand(
    tokens: jax.Array, length: int, vocab: int, cumulative_sum: CumulativeSum
) -> jax.Array:
    """The states and ReLUs of `lsrl.programs.tok2tok`, written as an array program.

    Args:
      tokens: (batch, time) ints.
      length: symbols a word.
      vocab: number of symbols.
      cumulative_sum: one of CUMULATIVE_SUMS.

    Returns:
      (batch, time).
    """
    symbols = tokens.astype(jnp.float32)
    greatest = float(vocab - 1)
    time = np.arange(tokens.shape[-1])
    past_query = jnp.asarray(np.maximum(time - (length - 1), 0), jnp.float32)[None]
    key_end = jnp.asarray(time % (2 * length) == 2 * length - 1, jnp.float32)[None]

    def ring(entering: jax.Array) -> jax.Array:
        """The sum of every length-th value: what turns on a ring, seen at its entrance."""
        padded = _pad(entering, -entering.shape[-1] % length)
        turns = padded.reshape(entering.shape[0], -1, length).swapaxes(-1, -2)
        sums = cumulative_sum(turns).swapaxes(-1, -2)
        return sums.reshape(padded.shape)[:, : entering.shape[-1]]

    query = ring(jax.nn.relu(symbols - greatest * past_query))
    difference = jax.nn.relu(symbols - query) + jax.nn.relu(query - symbols)
    shifted = jnp.pad(difference, [(0, 0), (length - 1, 0)])
    mismatches = difference
    for back in range(1, length):
        start = length - 1 - back
        mismatches = mismatches + shifted[:, start : start + tokens.shape[-1]]
    match = jax.nn.relu(key_end - mismatches)
    searching = jax.nn.relu(1 - cumulative_sum(match))
    since_match = cumulative_sum(1 - searching)
    outside = jax.nn.relu(2 - since_match) + jax.nn.relu(since_match - (length + 1))
    return ring(jax.nn.relu(symbols - greatest * outside))


def tok2tok_directly(tokens: jax.Array, length: int) -> jax.Array:
    """The algorithm without recurrence: compare all keys at once, and gather the value.

    Args:
      tokens: (batch, time) ints.
      length: symbols a word.

    Returns:
      (batch, time) float32.
    """
    batch, count = tokens.shape
    # What the prompt cuts short equals nothing, since no symbol is negative.
    num_pairs = max(1, -(-(count - length) // (2 * length)))
    missing = length * (1 + 2 * num_pairs) - count
    padded = jnp.pad(tokens, [(0, 0), (0, missing)], constant_values=-1)
    query, pairs = padded[:, None, :length], padded[:, length:].reshape(batch, -1, 2, length)
    equal = (pairs[:, :, 0] == query).all(-1)
    place = jnp.argmax(equal, axis=-1)
    found = jnp.take_along_axis(equal, place[:, None], axis=-1)
    value = jnp.take_along_axis(pairs[:, :, 1], place[:, None, None], axis=1)[:, 0]
    time = np.arange(count)
    said = jnp.tile(value, (1, -(-count // length)))[:, :count]
    speaking = found & (time[None, :] >= 2 * length * (place[:, None] + 1))
    return jnp.where(speaking, said, 0).astype(jnp.float32)


def _pad(values: jax.Array, count: int) -> jax.Array:
    return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, count)])


# ---------------------------------------------------------------- other programs by hand


def majority_by_hand(bits: jax.Array, cumulative_sum: CumulativeSum) -> jax.Array:
    """The states and ReLUs of `lsrl.programs.majority`."""
    ones = cumulative_sum(bits.astype(jnp.float32))
    position = jnp.arange(bits.shape[-1], dtype=jnp.float32)
    return 1 - jax.nn.relu(1 - jax.nn.relu(2 * ones - position - 1))


def histogram_by_hand(
    tokens: jax.Array, cumulative_sum: CumulativeSum, vocab: int = 4
) -> jax.Array:
    """The states of `lsrl.programs.histogram`, (batch, time, vocab)."""
    counts = [cumulative_sum((tokens == symbol).astype(jnp.float32)) for symbol in range(vocab)]
    return jnp.stack(counts, axis=-1)


def running_max_by_hand(
    values: jax.Array, cumulative_sum: CumulativeSum, levels: int = 8
) -> jax.Array:
    """The states and ReLUs of `lsrl.programs.running_max`."""
    missing = [
        jax.nn.relu(1 - cumulative_sum((values >= level).astype(jnp.float32)))
        for level in range(1, levels)
    ]
    return levels - 1 - sum(missing[1:], missing[0])


def dyck1_by_hand(brackets: jax.Array, cumulative_sum: CumulativeSum) -> jax.Array:
    """The states and ReLUs of `lsrl.programs.dyck1`."""
    height = cumulative_sum(1 - 2 * brackets.astype(jnp.float32))
    below = jax.nn.relu(-height) - jax.nn.relu(-height - 1)
    return jax.nn.relu(1 - jax.nn.relu(height) - cumulative_sum(below))


def parity_by_hand(bits: jax.Array, cumulative_sum: CumulativeSum) -> jax.Array:
    """The state and ReLUs of `lsrl.programs.parity`: powers of two are taken off the count."""
    left = cumulative_sum(bits.astype(jnp.float32))
    power = 1 << bits.shape[-1].bit_length() - 1
    while power > 1:
        left = left - power * (jax.nn.relu(left - (power - 1)) - jax.nn.relu(left - power))
        power //= 2
    return left


def modular_sum_by_hand(terms: jax.Array, cumulative_sum: CumulativeSum, n: int = 5) -> jax.Array:
    """The state and ReLUs of `lsrl.programs.modular_sum`: the same with n times powers of two."""
    left = cumulative_sum(terms.astype(jnp.float32))
    power = 1 << ((n - 1) * terms.shape[-1] // n).bit_length() - 1
    while power:
        size = n * power
        left = left - size * (jax.nn.relu(left - (size - 1)) - jax.nn.relu(left - size))
        power //= 2
    return left


def copy_delay_by_hand(tokens: jax.Array, cumulative_sum: CumulativeSum, k: int = 3) -> jax.Array:
    """The register of `lsrl.programs.copy_delay`."""
    del cumulative_sum  # nothing is added up
    return jnp.pad(tokens.astype(jnp.float32), [(0, 0), (k, 0)])[:, : tokens.shape[-1]]


# Functions of tokens (batch, time) and a cumulative sum, to (batch, time) or with outputs behind.
BY_HAND: dict[str, Callable[..., jax.Array]] = {
    "majority": majority_by_hand,
    "histogram": histogram_by_hand,
    "running_max": running_max_by_hand,
    "dyck1": dyck1_by_hand,
    "parity": parity_by_hand,
    "modular_sum": modular_sum_by_hand,
    "copy_delay": copy_delay_by_hand,
}


def by_hand(
    program: str, cumulative_sum: str, **settings: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A hand-written program, jitted, from numpy to numpy like a model: (batch, time, outputs)."""
    work = tok2tok_by_hand if program == "tok2tok" else BY_HAND[program]
    function = jax.jit(partial(work, cumulative_sum=CUMULATIVE_SUMS[cumulative_sum], **settings))

    def run(tokens: np.ndarray) -> np.ndarray:
        outputs = np.asarray(function(tokens.astype(np.int32)))
        return outputs[..., None] if outputs.ndim == 2 else outputs

    return run


def directly(length: int) -> Callable[[np.ndarray], np.ndarray]:
    """tok2tok_directly, jitted, from numpy to numpy: (batch, time, 1)."""
    function = jax.jit(partial(tok2tok_directly, length=length))
    return lambda tokens: np.asarray(function(tokens.astype(np.int32)))[..., None]


# ---------------------------------------------------------------- a stock LSTM


class StockLstm(nnx.Module):
    """One layer of flax's LSTM on one-hot tokens, and a linear output."""

    def __init__(self, vocab: int, hidden: int) -> None:
        rngs = nnx.Rngs(0)
        self.vocab = vocab
        self.cell = nnx.OptimizedLSTMCell(vocab, hidden, rngs=rngs)
        self.recurrence = nnx.RNN(self.cell)
        self.readout = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(batch, time) ints to (batch, time, 1)."""
        return self.readout(self.recurrence(jax.nn.one_hot(tokens, self.vocab)))

    def step(self, carry: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        """(batch,) ints to (batch, 1), and the next carry."""
        carry, hidden = self.cell(carry, jax.nn.one_hot(tokens, self.vocab))
        return self.readout(hidden), carry

    @property
    def num_parameters(self) -> int:
        """Every entry of every parameter array."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))


def lstm_of_size(vocab: int, parameters: int) -> StockLstm:
    """The LSTM whose number of parameters comes closest to a given one."""

    def size(hidden: int) -> int:
        return 4 * hidden * (vocab + hidden + 1) + hidden + 1

    hidden = 1
    while abs(size(hidden + 1) - parameters) <= abs(size(hidden) - parameters):
        hidden += 1
    return StockLstm(vocab, hidden)


def run_stock(network: nnx.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Whole sequences through a stock network, jitted, from numpy to numpy."""
    graph, state = nnx.split(network)
    function = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    return lambda tokens: np.asarray(function(state, tokens.astype(np.int32)))


def step_lstm(lstm: StockLstm, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Token by token through the LSTM, one jitted call each: (batch, time) to (batch, time, 1)."""
    graph, state = nnx.split(lstm)
    function = jax.jit(lambda state, carry, token: nnx.merge(graph, state).step(carry, token))
    hidden = lstm.readout.in_features
    zeros = jnp.zeros((batch, hidden))

    def work(tokens: np.ndarray) -> np.ndarray:
        carry: Any = (zeros, zeros)
        outputs = []
        for time in range(tokens.shape[1]):
            output, carry = function(state, carry, tokens[:, time])
            outputs.append(np.asarray(output))
        return np.stack(outputs, axis=1)

    return work


# ---------------------------------------------------------------- a stack of stock cells


class StockStack(nnx.Module):
    """flax's cells one upon the other, random weights, all layers in one scan over time."""

    def __init__(self, network: CellNetwork) -> None:
        """Make one in the shape and dtype of a compiled network with one token input."""
        rngs = nnx.Rngs(0)
        common: dict[str, Any] = {
            "dtype": jnp.dtype(network.dtype), "param_dtype": jnp.dtype(network.dtype), "rngs": rngs
        }  # fmt: skip
        makers: dict[CellKind, Callable[..., Any]] = {
            "relu": partial(nnx.SimpleCell, activation_fn=nnx.relu),
            "tanh": partial(nnx.SimpleCell, activation_fn=nnx.tanh),
            "lstm": nnx.OptimizedLSTMCell,
            "gru": nnx.GRUCell,
        }
        make = makers[network.structure.kind]
        symbols, features = network.input_kernels["0"].shape
        hidden, outputs = network.output_kernel.shape
        self.embedding = nnx.Embed(symbols, features, **common)
        self.cells = nnx.List(
            [make(cell.in_features, cell.hidden_features, **common) for cell in network.cells]
        )
        self.readout = nnx.Linear(hidden, outputs, **common)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(batch, time) ints to (batch, time, outputs)."""

        def token(carries: tuple[Any, ...], values: jax.Array) -> tuple[Any, jax.Array]:
            after = []
            for cell, carry in zip(self.cells, carries, strict=True):
                following, values = cell(carry, values)
                after.append(following)
            return tuple(after), values

        start = tuple(
            cell.initialize_carry((len(tokens), cell.in_features), nnx.Rngs(0))
            for cell in self.cells
        )
        features = jnp.moveaxis(self.embedding(tokens), 1, 0)
        return self.readout(jnp.moveaxis(lax.scan(token, start, features)[1], 0, 1))
