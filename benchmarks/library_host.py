"""A host network around a library of routines: two blocks as LLaMA's, of width 32.

It learns when to write which call into its register, and what to make of the routine's output; the
calls and the routines stay as they are.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.common import BenchmarkError
from lsrl.ir.numbers import Array
from lsrl.nn import Calls, Library, Registers

WIDTH, HEADS = 32, 4
STEPS, BATCH = 300, 64
RATE, FASTER = 3e-3, 10.0  # of the host, and of what is new between it and the library
# The share of the steps after which registers are as hard as they will be used.
HARD = 0.6
# Questions of so many tokens that are answered at a time.
AT_ONCE = 1 << 15


class Data(NamedTuple):
    """Questions (questions, tokens), their lengths, and answers."""

    words: Array
    lengths: Array
    answers: Array


class Block(nnx.Module):
    """Attention with rotary positions, and a gated feed-forward layer (Touvron et al. 2023).

    Both begin at 0 (Bachlechner et al. 2021), so what a routine gave passes as it is at first.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.read = nnx.Linear(WIDTH, 3 * WIDTH, use_bias=False, rngs=rngs)
        zero = nnx.initializers.zeros
        self.write = nnx.Linear(WIDTH, WIDTH, use_bias=False, kernel_init=zero, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, use_bias=False, kernel_init=zero, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, time, width) to the same."""
        batch, time, _ = x.shape
        parts = jnp.split(self.read(self.norms[0](x)), 3, axis=-1)
        query, key, value = (part.reshape(batch, time, HEADS, -1) for part in parts)
        scores = jnp.einsum("bthd,bshd->bhts", _rotated(query), _rotated(key))
        scores = scores / np.float32(np.sqrt(WIDTH // HEADS))
        causal = jnp.tril(jnp.ones((time, time), bool))
        shares = jax.nn.softmax(jnp.where(causal, scores, np.float32(-1e9)))
        x = x + self.write(jnp.einsum("bhts,bshd->bthd", shares, value).reshape(x.shape))
        gate, linear = jnp.split(self.up(self.norms[1](x)), 2, axis=-1)
        return x + self.down(jax.nn.silu(gate) * linear)


def _rotated(x: jax.Array) -> jax.Array:
    half = x.shape[-1] // 2
    turns = 10_000.0 ** -(np.arange(half) / half)
    angles = np.arange(x.shape[1])[:, None] * turns
    cos, sin = (jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.cos, np.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


class Host(nnx.Module):
    """The network.

    Without calls it is the two blocks alone. With `attends` it has no register: what the first
    block makes of a token chooses the call there.
    """

    def __init__(
        self, vocabulary: int, answers: int, calls: Calls | None, seed: int, attends: bool = False
    ) -> None:
        self.attends = attends
        rngs = nnx.Rngs(seed)
        self.embedding = nnx.Embed(vocabulary, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, answers, rngs=rngs)
        if calls is not None:
            self.registers = Registers(WIDTH, selection=len(calls.calls), rngs=rngs)
            self.back = nnx.Linear(calls.num_answers, WIDTH, use_bias=False, rngs=rngs)
            self.told = nnx.Linear(len(calls.calls), WIDTH, use_bias=False, rngs=rngs)

    def content(self, tokens: jax.Array, hard: bool) -> jax.Array:
        """(batch, time, calls), of the register."""
        state = self.embedding(tokens)
        if not self.attends:
            return self.registers(state, hard)["selection"]
        shares = jax.nn.softmax(self.registers.values["selection"](self.blocks[0](state)))
        chosen = jax.nn.one_hot(shares.argmax(-1), shares.shape[-1], dtype=shares.dtype)
        return chosen if hard else shares

    def logits(
        self, tokens: jax.Array, content: jax.Array | None, found: jax.Array | None
    ) -> jax.Array:
        """(batch, time, answers), of what the register held and the call answered."""
        state = self.blocks[0](self.embedding(tokens))
        if content is not None and found is not None:
            state = state + self.back(found) + self.told(content)
        return self.head(self.norm(self.blocks[1](state)))


@dataclass
class Trained:
    """A host that was trained.

    Attributes:
      host: the network.
      library: in it; None for the host alone.
      calls: frozen.
      seconds: CPU time of the training.
    """

    host: Host
    library: Library | None
    calls: Calls | None
    seconds: float

    def network(self, words: Array) -> Array:
        """What the certified network gives, one-hot, at each token."""
        if self.library is None:
            raise BenchmarkError("the host alone has no library")
        _, given, choice = self.inside(words)
        return np.asarray(self.library(jnp.asarray(given), jnp.asarray(choice)))

    def inside(self, words: Array) -> tuple[Array, Array, Array]:
        """Content of the register, symbols given and routines chosen, hard, at each token."""
        if self.calls is None:
            raise BenchmarkError("the host alone has no register")
        content = _content(self.host, jnp.asarray(words))
        given, choice = self.calls.given(jnp.asarray(words), content)
        return np.asarray(content), np.asarray(given), np.asarray(choice)

    def answers(self, words: Array, lengths: Array) -> Array:
        """(questions,) what it says at the last token of each, the routines run exactly."""
        said = []
        rows = max(1, AT_ONCE // (words.shape[1] * (1 + words.shape[1] // 256)))
        rows = min(rows, len(words))
        for first in range(0, len(words), rows):
            part = words[first : first + rows]
            full = np.concatenate([part, np.tile(part[:1], (rows - len(part), 1))])
            content, found = None, None
            if self.library is not None and self.calls is not None:
                content, given, choice = self.inside(full)
                outputs = exact(self.library, given.argmax(-1), choice)
                found = self.calls.read(jnp.asarray(outputs), jnp.asarray(content))
            logits = np.asarray(_logits(self.host, jnp.asarray(full), content, found))
            ends = lengths[first : first + rows] - 1
            said.append(logits[np.arange(len(part)), ends].argmax(-1))
        return np.concatenate(said)


@nnx.jit
def _content(host: Host, words: jax.Array) -> jax.Array:
    return host.content(words, hard=True)


@nnx.jit
def _logits(
    host: Host, words: jax.Array, content: jax.Array | None, found: jax.Array | None
) -> jax.Array:
    return host.logits(words, content, found)


def exact(library: Library, symbols: Array, choice: Array) -> Array:
    """What the chosen routines give, one-hot, by the machines that the network equals."""
    said = np.stack([table.ids[table.states_after(symbols)] for table in library.tables], -1)
    chosen = np.take_along_axis(said, choice.argmax(-1)[..., None], -1)[..., 0]
    return np.eye(library.features, dtype=np.float32)[chosen]


class Training:
    """A host under training.

    Attributes:
      host: the network; its weights are `weights`.
      update: from weights, the optimiser's state, the hardness of registers, questions, places of
        their last tokens and answers to the next weights and state.
    """

    def __init__(
        self, host: Host, calls: Calls | None, steps: int, library: Library | None = None
    ) -> None:
        """With a library symbols are drawn token by token; else by calls, for whole questions."""
        self.library = library
        parts: Any = nnx.split(host, nnx.Param, ...)
        self.graph, self.weights, self.rest = parts
        new = ("registers", "back", "told")
        kinds = jax.tree_util.tree_map_with_path(
            lambda path, _: "new" if any(name in str(path) for name in new) else "host",
            self.weights,
        )
        optimiser = optax.multi_transform(
            {
                kind: optax.adam(optax.cosine_decay_schedule(rate, steps, 0.1))
                for kind, rate in (("host", RATE), ("new", RATE * FASTER))
            },
            kinds,
        )
        self.calls, self.state = calls, optimiser.init(self.weights)

        @jax.jit
        def update(
            weights: Any, state: Any, hardness: Any, words: Any, ends: Any, wanted: Any
        ) -> Any:
            slopes = jax.grad(self._loss)(weights, hardness, words, ends, wanted)
            changes, state = optimiser.update(slopes, state, weights)
            return optax.apply_updates(weights, changes), state

        self.update = update

    @property
    def host(self) -> Host:
        """With the weights as they are now."""
        return cast(Host, nnx.merge(self.graph, self.weights, self.rest))

    def _loss(self, weights: Any, hardness: Any, words: Any, ends: Any, wanted: Any) -> jax.Array:
        host = nnx.merge(self.graph, weights, self.rest)
        content, found = None, None
        if self.calls is not None:
            content = host.content(words, hard=False)
            hard = host.content(words, hard=True)
            content = content + jax.lax.stop_gradient(hardness * (hard - content))
            if self.library is None:
                found = self.calls.expected(words, content)
            else:
                outputs = self.library.expected(*self.calls.given(words, content))
                found = self.calls.read(outputs, content)
        logits = host.logits(words, content, found)[jnp.arange(len(wanted)), ends]
        return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()


def trained(
    data: Data,
    vocabulary: int,
    library: Library | None,
    calls: Calls | None,
    seed: int,
    steps: int = STEPS,
    attends: bool = False,
) -> Trained:
    """Train a host on questions and answers, and on nothing else."""
    start = time.process_time()
    rng = np.random.default_rng(seed)
    host = Host(vocabulary, int(data.answers.max()) + 1, calls, seed, attends)
    training = Training(host, calls, steps)
    weights, state = training.weights, training.state
    for step in range(steps):
        rows = rng.integers(0, len(data.words), BATCH)
        # What is written becomes hard by and by, in values but not in derivatives: a gate that
        # stays half shut would be shut when it is rounded.
        hardness = np.float32(min(step / (HARD * steps), 1.0))
        part = data.words[rows], data.lengths[rows] - 1, data.answers[rows]
        weights, state = training.update(weights, state, hardness, *part)
    training.weights = jax.block_until_ready(weights)
    return Trained(training.host, library, calls, time.process_time() - start)
