"""How `lsrl.nn.Host`s are trained and asked: on questions and answers, and on nothing else.

A host learns when to write which call into its register, and what to make of the routine's output;
calls and routines stay as they are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.common import BenchmarkError
from lsrl.ir.numbers import Array
from lsrl.nn import Calls, Host, Library

WIDTH = 32
STEPS, BATCH = 300, 64
NEW = ("between", "back", "trust")
RATE, FASTER = 3e-3, 10.0  # of the host, and of what is new between it and the library
# The share of the steps after which registers are as hard as they will be used.
HARD = 0.6
# Questions of so many tokens that are answered at a time.
AT_ONCE = 1 << 15


class Data(NamedTuple):
    """Questions (questions, tokens), their lengths, and the answers at their ends."""

    words: Array
    lengths: Array
    answers: Array

    @property
    def wanted(self) -> Array:
        """(questions, tokens), the answer at each token; -1 where none is due."""
        found = np.full(self.words.shape, -1)
        found[np.arange(len(found)), self.lengths - 1] = self.answers
        return found


@dataclass
class Trained:
    """A host that was trained.

    Attributes:
      host: the network.
      library: in it; None for the host alone.
      seconds: CPU time of the training.
    """

    host: Host
    library: Library | None
    seconds: float

    @property
    def calls(self) -> Calls:
        """Frozen in it."""
        if self.host.calls is None:
            raise BenchmarkError("the host alone has no library")
        return self.host.calls

    def network(self, words: Array) -> Array:
        """What the certified network gives, one-hot, at each token."""
        if self.library is None:
            raise BenchmarkError("the host alone has no library")
        _, given, choice = self.inside(words)
        return np.asarray(self.library(jnp.asarray(given), jnp.asarray(choice)))

    def inside(self, words: Array) -> tuple[Array, Array, Array]:
        """Content of the register, symbols given and routines chosen, hard, at each token."""
        found = _inside(self.host, jnp.asarray(words))
        return cast("tuple[Array, Array, Array]", tuple(map(np.asarray, found)))

    def said(self, words: Array) -> Array:
        """(questions, tokens) what it answers at each token, the routines run exactly."""
        said = []
        rows = max(1, AT_ONCE // (words.shape[1] * (1 + words.shape[1] // 256)))
        rows = min(rows, len(words))
        for first in range(0, len(words), rows):
            part = words[first : first + rows]
            full = np.concatenate([part, np.tile(part[:1], (rows - len(part), 1))])
            found = None
            if self.library is not None:
                content, given, choice = self.inside(full)
                outputs = exact(self.library, given.argmax(-1), choice)
                answers = self.calls.read(jnp.asarray(outputs), jnp.asarray(content))
                found = jnp.concatenate([answers, jnp.asarray(content)], axis=-1)
            logits = np.asarray(_logits(self.host, jnp.asarray(full), found))
            said.append(logits[: len(part)].argmax(-1))
        return np.concatenate(said)

    def answers(self, words: Array, lengths: Array) -> Array:
        """(questions,) what it says at the last token of each."""
        return np.asarray(self.said(words)[np.arange(len(words)), lengths - 1])


@nnx.jit
def _inside(host: Host, words: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return host.inside(words)


@nnx.jit
def _logits(host: Host, words: jax.Array, found: jax.Array | None) -> jax.Array:
    return host.logits(words, found)


def exact(library: Library, symbols: Array, choice: Array) -> Array:
    """What the chosen routines give, one-hot, by the machines that the network equals."""
    said = np.stack([table.ids[table.states_after(symbols)] for table in library.tables], -1)
    chosen = np.take_along_axis(said, choice.argmax(-1)[..., None], -1)[..., 0]
    return np.eye(library.features, dtype=np.float32)[chosen]


class Training:
    """A network under training.

    Attributes:
      host: the network; its weights are `weights`.
      update: from weights, the optimiser's state, the hardness of registers, questions and the
        answers at each token (-1 where none is due) to the next weights and state.
    """

    def __init__(
        self,
        host: nnx.Module,
        steps: int,
        logits: Callable[[Any, Any, Any], jax.Array] | None = None,
        rate: float = RATE,
        soft: float = 0.0,
        cost: float = 0.0,
    ) -> None:
        """By default with the host's own logits to train with.

        Args:
          host: a `Host`, or what `logits` takes.
          steps: of the training.
          logits: from the host, words and the hardness of registers.
          rate: of learning.
          soft: the share of the steps for which registers are soft, and writes cost nothing.
          cost: of a write to a register, in nats.
        """
        self.soft, self.cost = soft, cost
        self.logits = (lambda host, words, hard: host(words, hard)) if logits is None else logits
        parts: Any = nnx.split(host, nnx.Param, ...)
        self.graph, self.weights, self.rest = parts
        kinds = jax.tree_util.tree_map_with_path(
            lambda path, _: "new" if any(name in str(path) for name in NEW) else "host",
            self.weights,
        )
        optimiser = optax.multi_transform(
            {
                kind: optax.adam(optax.cosine_decay_schedule(each, steps, 0.1))
                for kind, each in (("host", rate), ("new", rate * FASTER))
            },
            kinds,
        )
        self.state = optimiser.init(self.weights)

        @jax.jit
        def update(weights: Any, state: Any, hardness: Any, words: Any, wanted: Any) -> Any:
            slopes = jax.grad(self._loss)(weights, hardness, words, wanted)
            changes, state = optimiser.update(slopes, state, weights)
            return optax.apply_updates(weights, changes), state

        self.update = update

    @property
    def host(self) -> Any:
        """With the weights as they are now."""
        return nnx.merge(self.graph, self.weights, self.rest)

    def _loss(self, weights: Any, hardness: Any, words: Any, wanted: Any) -> jax.Array:
        host = nnx.merge(self.graph, weights, self.rest)
        logits = self.logits(host, words, hardness)
        due = (wanted >= 0).astype(logits.dtype)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(wanted, 0))
        # Of a question with several answers each is one of them: all questions weigh the same.
        shares = due / jnp.maximum(due.sum(1, keepdims=True), 1)
        loss = (each * shares).sum() / len(wanted)
        if self.cost and host.calls is not None:
            within = jnp.cumsum(due[:, ::-1], axis=1)[:, ::-1] > 0  # up to the last answer
            loss += self.cost * hardness * (host.writes(words) * within).sum() / len(wanted)
        return loss

    def run(self, words: Array, wanted: Array, steps: int, seed: int) -> Any:
        """Train on batches that are drawn of questions, and give the network."""
        rng = np.random.default_rng(seed)
        weights, state = self.weights, self.state
        for step in range(steps):
            rows = rng.integers(0, len(words), BATCH)
            # What is written becomes hard by and by, in values but not in derivatives: a gate that
            # stays half shut would be shut when it is rounded.
            hard = (step / steps - self.soft) / (HARD - self.soft)
            hardness = np.float32(np.clip(hard, 0.0, 1.0))
            weights, state = self.update(weights, state, hardness, words[rows], wanted[rows])
        self.weights = jax.block_until_ready(weights)
        return self.host


def trained(
    data: Data,
    vocabulary: int,
    library: Library | None,
    calls: Calls | None,
    seed: int,
    steps: int = STEPS,
    attends: bool = False,
) -> Trained:
    """Train a LLaMA of width 32 on questions and answers, and on nothing else."""
    start = time.process_time()
    host = Host(
        vocabulary, int(data.answers.max()) + 1, width=WIDTH, library=library, calls=calls,
        select="token" if attends else "register", rngs=nnx.Rngs(seed),
    )  # fmt: skip
    host = Training(host, steps).run(data.words, data.wanted, steps, seed)
    return Trained(host, library, time.process_time() - start)
