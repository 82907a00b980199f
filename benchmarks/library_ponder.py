"""A GRU that ponders: the baseline of tasks that take more steps than were trained.

It reads a question, then goes on by itself, and at every step may stop with the answer that it has
(Graves 2016; trained as Banino et al. 2021 do, by the mixture of the answers of all steps).
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lsrl.nn import Task

WIDTH, BATCH, RATE = 64, 64, 3e-3
# Steps while it learns; and how often the prior, which stops one time in so many, is asked for.
PONDERED, PRIOR, KEEP = 24, 8.0, 0.01


class Ponder(nnx.Module):
    """The network."""

    def __init__(self, vocabulary: int, answers: int, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.embedding = nnx.Embed(vocabulary, WIDTH, rngs=rngs)
        self.reads = nnx.RNN(nnx.GRUCell(WIDTH, WIDTH, rngs=rngs), rngs=rngs)
        self.goes_on = nnx.GRUCell(WIDTH, WIDTH, rngs=rngs)
        self.stops = nnx.Linear(WIDTH, 1, rngs=rngs)
        self.head = nnx.Linear(WIDTH, answers, rngs=rngs)

    def __call__(self, words: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
        """Shares of stopping (most, batch), and logits (most, batch, answers), by step."""
        empty = jnp.zeros((len(words), WIDTH))
        last = self.reads(self.embedding(words), initial_carry=empty)[:, -1]

        def step(carry: Any, _: Any) -> tuple[Any, Any]:
            state, going = carry
            state, _ = self.goes_on(state, last)
            chance = jax.nn.sigmoid(self.stops(state)[:, 0])
            return (state, going * (1 - chance)), (going * chance, self.head(state))

        begin = last, jnp.ones(len(words))
        (_, left), (shares, logits) = jax.lax.scan(step, begin, None, length=most)
        # What has not stopped does so at the end.
        return shares.at[-1].add(left), logits


def ponder(task: Task, seed: int, updates: int, questions: int) -> dict[str, Any]:
    """Train it on a task, and ask for every depth."""
    start = time.process_time()
    rng = np.random.default_rng(seed)
    model = Ponder(task.vocabulary, task.answers, seed)
    parts: Any = nnx.split(model, nnx.Param, ...)
    graph, weights, rest = parts
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, updates, 0.05))
    shares = (1 - 1 / PRIOR) ** np.arange(PONDERED) / PRIOR
    prior = jnp.asarray(shares / shares.sum(), jnp.float32)[:, None]

    def loss(weights: Any, words: jax.Array, wanted: jax.Array) -> jax.Array:
        shares, logits = nnx.merge(graph, weights, rest)(words, PONDERED)
        aim = jnp.broadcast_to(wanted, logits.shape[:2])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, aim)
        far = shares * (jnp.log(shares + 1e-6) - jnp.log(prior))
        return ((shares * each) + KEEP * far).sum(0).mean()

    @jax.jit
    def update(weights: Any, state: Any, words: jax.Array, wanted: jax.Array) -> Any:
        changes, state = optimiser.update(jax.grad(loss)(weights, words, wanted), state)
        return optax.apply_updates(weights, changes), state

    state, data = optimiser.init(weights), task.draw(rng, 4_000)
    for _ in range(updates):
        rows = rng.integers(0, len(data.words), BATCH)
        weights, state = update(weights, state, data.words[rows], data.wanted[rows, -1])
    seconds = time.process_time() - start

    @jax.jit
    def said(weights: Any, words: jax.Array) -> tuple[jax.Array, jax.Array]:
        shares, logits = nnx.merge(graph, weights, rest)(words, 2 * max(task.tested))
        stopped = (jnp.cumsum(shares, 0) > 0.5).argmax(0)
        answers = logits[stopped, jnp.arange(len(words))].argmax(-1)
        return answers, stopped + 1

    by, depth = {}, {}
    for size in task.tested:
        batch = task.draw(np.random.default_rng(1_000 + seed), questions, size)
        answers, steps = said(weights, jnp.asarray(batch.words))
        by[size] = int((np.asarray(answers) == batch.wanted[:, -1]).sum()), questions
        depth[size] = float(np.mean(steps))
    return {"by": by, "depth": depth, "seconds": seconds}
