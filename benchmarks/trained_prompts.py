"""Networks trained on the prompts of a pipeline, and whether patching them does what it should.

In the compiled network `op_k`, `a_k` and `b_k` are signals, and patching one gives the program that
has the word (`benchmarks/task_vectors.py`). Here a GRU and a transformer learn such prompts from
questions and answers, and get such pairs: what patching methods find in them has a truth too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.common import Table, say
from benchmarks.mips import Array
from lsrl.ir.evaluate import Prefixes
from lsrl.programs import pipeline
from lsrl.programs.prompted import GIVEN, WORDS, pipeline_words

STEPS, BOUND, DATA = 2, 7, 8
PROMPT = WORDS * STEPS
LAYERS, WIDTH, HEADS, STATE = 3, 64, 4, 128
BATCH, RATE = 128, 2e-3
# Of each field, as the compiled network calls it: its place in the prompt.
FIELDS = {
    f"{name}_{step + 1}": WORDS * step + place
    for step in range(STEPS)
    for place, name in enumerate(("op", "a", "b"))
}


class Questions:
    """Prompts with data, and their answers by the reference evaluator."""

    def __init__(self) -> None:
        """The pipeline of two steps."""
        self.program = pipeline(steps=STEPS, bound=BOUND, max_length=PROMPT + DATA)
        opcodes, operands, bound = pipeline_words(self.program)
        self._first = 2 * bound + 1
        self._opcodes, self._operands = len(opcodes), len(opcodes) + self._first
        self.symbols = self._operands + len(operands)
        self._evaluate = Prefixes(self.program.graph, PROMPT + DATA, [self.program.graph.output])

    def prompts(self, rng: np.random.Generator, count: int) -> Array:
        """Random commands with random data, legal or not: (count, time)."""
        found = BOUND + rng.integers(-3, 4, (count, PROMPT + DATA))
        for step in range(STEPS):
            found[:, WORDS * step] = self._first + rng.integers(0, self._opcodes, count)
            for place in (1, 2):
                known = len(GIVEN) + step
                found[:, WORDS * step + place] = self._operands + rng.integers(0, known, count)
        return found

    def answers(self, prompts: Array) -> tuple[Array, Array]:
        """Whether each keeps its promises, and the classes (count, data) of its outputs."""
        kept, values = self._evaluate([prompts])
        said = values[self.program.graph.output][:, PROMPT:, 0]
        return kept == prompts.shape[1], np.clip(said + BOUND, 0, 2 * BOUND).astype(np.int32)

    def drawn(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Legal prompts and their answers."""
        found: list[tuple[Array, Array]] = []
        while sum(len(prompts) for prompts, _ in found) < count:
            prompts = self.prompts(rng, 4096)
            legal, said = self.answers(prompts)
            found.append((prompts[legal].astype(np.int32), said[legal]))
        prompts, answers = (np.concatenate(each)[:count] for each in zip(*found, strict=True))
        return prompts, answers


class Pairs(NamedTuple):
    """Prompts that differ in a word, and the prompt that patching predicts.

    Attributes:
      field: that is patched.
      base: (pairs, time); others likewise.
      source: with the same data.
      mixed: the base's, with the word of the source's.
      before: answers to the base.
      expected: answers to the mixed one.
    """

    field: str
    base: Array
    source: Array
    mixed: Array
    before: Array
    expected: Array


def pairs_of(questions: Questions, field: str, count: int, seed: int) -> Pairs:
    """Pairs that are legal, and whose answers differ."""
    rng, place, parts = np.random.default_rng(seed), FIELDS[field], list[Sequence[Array]]()
    while sum(len(part[0]) for part in parts) < count:
        base, source = (questions.prompts(rng, 4096) for _ in range(2))
        source[:, PROMPT:] = base[:, PROMPT:]
        mixed = base.copy()
        mixed[:, place] = source[:, place]
        told = [questions.answers(each) for each in (base, source, mixed)]
        kept = told[0][0] & told[1][0] & told[2][0] & (told[0][1] != told[2][1]).any(axis=1)
        parts.append([each[kept] for each in (base, source, mixed, told[0][1], told[2][1])])
    base, source, mixed, before, expected = (
        np.concatenate(each)[:count] for each in zip(*parts, strict=True)
    )
    return Pairs(field, base, source, mixed, before, expected)


# ---------------------------------------------------------------- networks


class Gru(nnx.Module):
    """Tokens to the classes of answers, by one stock GRU cell."""

    places: Sequence[str] = ("state behind the prompt",)

    def __init__(self, symbols: int) -> None:
        """Ordinary initial weights."""
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(symbols, STATE, rngs=rngs)
        self.cell = nnx.GRUCell(STATE, STATE, rngs=rngs)
        self.head = nnx.Linear(STATE, 2 * BOUND + 1, rngs=rngs)

    def run(self, tokens: jax.Array, state: jax.Array) -> jax.Array:
        """States (batch, time, features)."""
        embedded = jnp.swapaxes(self.embedding(tokens), 0, 1)
        states = jax.lax.scan(lambda h, x: (self.cell(h, x)[0],) * 2, state, embedded)[1]
        return jnp.swapaxes(states, 0, 1)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the data's tokens."""
        return self.patched(tokens, 0, self.seen(tokens, 0))

    def seen(self, tokens: jax.Array, place: int) -> jax.Array:
        """What is patched: (batch, 1, features)."""
        empty = jnp.zeros((len(tokens), STATE))
        return self.run(tokens[:, :PROMPT], empty)[:, -1:]

    def patched(self, tokens: jax.Array, place: int, given: jax.Array) -> jax.Array:
        """Logits of the data's tokens, from another state behind the prompt."""
        return self.head(self.run(tokens[:, PROMPT:], given[:, 0]))


class Block(nnx.Module):
    """Attention to what came before, then a layer of hidden units; both on normed rows."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Ordinary initial weights."""
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            HEADS, WIDTH, decode=False, deterministic=True, rngs=rngs
        )
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, rows: jax.Array) -> jax.Array:
        """Rows (batch, time, features) likewise."""
        mask = jnp.tril(jnp.ones((1, 1, rows.shape[1], rows.shape[1]), bool))
        rows = rows + self.attention(self.norms[0](rows), mask=mask)
        return rows + self.down(jax.nn.gelu(self.up(self.norms[1](rows))))


class Transformer(nnx.Module):
    """Tokens to the classes of answers, by attention."""

    places: Sequence[str] = tuple(f"rows of the data behind block {k + 1}" for k in range(LAYERS))

    def __init__(self, symbols: int) -> None:
        """Ordinary initial weights."""
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(symbols, WIDTH, rngs=rngs)
        self.position = nnx.Embed(PROMPT + DATA, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 2 * BOUND + 1, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the data's tokens."""
        return self._read(self._rows(tokens, LAYERS))

    def seen(self, tokens: jax.Array, place: int) -> jax.Array:
        """What is patched: (batch, data, features)."""
        return self._rows(tokens, place + 1)[:, PROMPT:]

    def patched(self, tokens: jax.Array, place: int, given: jax.Array) -> jax.Array:
        """Logits of the data's tokens, with other rows behind a block."""
        rows = self._rows(tokens, place + 1).at[:, PROMPT:].set(given)
        for block in self.blocks[place + 1 :]:
            rows = block(rows)
        return self._read(rows)

    def _rows(self, tokens: jax.Array, blocks: int) -> jax.Array:
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        rows = self.embedding(tokens) + self.position(places)
        for block in self.blocks[:blocks]:
            rows = block(rows)
        return rows

    def _read(self, rows: jax.Array) -> jax.Array:
        return self.head(self.norm(rows[:, PROMPT:]))


Network = Gru | Transformer


def trained(network: Network, questions: Questions, steps: int, pool: int) -> None:
    """Adam with a falling rate, on questions that are drawn anew when all were seen."""
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, min(200, steps // 2), steps)
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    optimiser = nnx.Optimizer(network, chain, wrt=nnx.Param)

    @nnx.jit
    def update(
        network: Network, optimiser: Any, prompts: jax.Array, answers: jax.Array
    ) -> jax.Array:
        def loss(network: Network) -> jax.Array:
            losses = optax.softmax_cross_entropy_with_integer_labels(network(prompts), answers)
            return jnp.mean(losses)

        value, slopes = nnx.value_and_grad(loss)(network)
        optimiser.update(network, slopes)
        return jnp.asarray(value)

    rng = np.random.default_rng(0)
    each = pool // BATCH
    for step in range(steps):
        if step % each == 0:
            prompts, answers = questions.drawn(rng, pool)
        rows = slice(step % each * BATCH, (step % each + 1) * BATCH)
        value = update(network, optimiser, prompts[rows], answers[rows])
        if step % 500 == 0:
            say(f"{type(network).__name__}, step {step:,}: loss {float(value):.3f}")


# ---------------------------------------------------------------- patching


@dataclass(frozen=True)
class Means:
    """What a place holds on average for each word of a field.

    Attributes:
      rows: (symbols, positions, features); 0 for words that were not seen.
      basis: (features, dimensions), orthonormal: the space in which the means differ.
    """

    rows: Array
    basis: Array


def means_of(held: Array, questions: Questions, words: Array) -> Means:
    """The means over many prompts, and their space."""
    rows, said = np.zeros((questions.symbols, *held.shape[1:])), np.unique(words)
    for word in said:
        rows[word] = held[words == word].mean(axis=0)
    centred = (rows[said] - rows[said].mean(axis=0)).reshape(-1, rows.shape[-1])
    _, sizes, right = np.linalg.svd(centred, full_matrices=False)
    return Means(rows, right[sizes > 1e-2 * sizes[0]].T)


def methods(means: Means, pairs: Pairs, base: Array, source: Array) -> dict[str, Array]:
    """What each method puts in the place: (pairs, positions, features) by its name."""
    place = FIELDS[pairs.field]
    moved = means.rows[pairs.mixed[:, place]] - means.rows[pairs.base[:, place]]
    inside = (source - base) @ means.basis @ means.basis.T
    return {
        "function vector": base + moved,
        "subspace of the means": base + inside,
        "all of the source": source,
    }


class Runs:
    """What a network says of tokens, what it holds, and what it says with something else held."""

    def __init__(self, network: Network) -> None:
        """Compiled once a place."""
        graph, state = nnx.split(network)

        def whole(state: Any, tokens: jax.Array) -> jax.Array:
            return nnx.merge(graph, state)(tokens).argmax(axis=-1)

        def seen(state: Any, tokens: jax.Array, place: int) -> jax.Array:
            return nnx.merge(graph, state).seen(tokens, place)

        def changed(state: Any, tokens: jax.Array, place: int, given: jax.Array) -> jax.Array:
            return nnx.merge(graph, state).patched(tokens, place, given).argmax(axis=-1)

        self._whole = partial(jax.jit(whole), state)
        self._seen = partial(jax.jit(seen, static_argnums=2), state)
        self._changed = partial(jax.jit(changed, static_argnums=2), state)

    def said(self, tokens: Array) -> Array:
        """Classes (batch, data)."""
        return np.asarray(self._whole(tokens))

    def held(self, tokens: Array, place: int) -> Array:
        """What is patched, (batch, positions, features)."""
        return np.asarray(self._seen(tokens, place), np.float64)

    def changed(self, tokens: Array, place: int, given: Array) -> Array:
        """Classes (batch, data) with other things held."""
        return np.asarray(self._changed(tokens, place, given.astype(np.float32)))


def patched(
    network: Network, questions: Questions, count: int, prompts: Array
) -> list[dict[str, Any]]:
    """Each field, place and method: of the pairs that come out as predicted.

    Pairs are those of which the network answers both prompts right, so that it could.
    """
    runs, rows = Runs(network), list[dict[str, Any]]()
    drawn = [pairs_of(questions, field, count, 100 + k) for k, field in enumerate(FIELDS)]
    known = [
        (runs.said(pairs.base) == pairs.before).all(axis=1)
        & (runs.said(pairs.mixed) == pairs.expected).all(axis=1)
        for pairs in drawn
    ]
    for place, title in enumerate(network.places):
        seen = runs.held(prompts, place)
        for pairs, could in zip(drawn, known, strict=True):
            means = means_of(seen, questions, prompts[:, FIELDS[pairs.field]])
            base, source = runs.held(pairs.base, place), runs.held(pairs.source, place)
            for method, given in methods(means, pairs, base, source).items():
                said = runs.changed(pairs.base, place, given)
                right = (said == pairs.expected).all(axis=1) & could
                rows.append({
                    "network": type(network).__name__, "field": pairs.field, "place": title,
                    "method": method, "pairs": int(could.sum()), "predicted": int(right.sum()),
                })  # fmt: skip
    return rows


def sections(quick: bool) -> tuple[list[Table], str]:
    """Train both, and patch them."""
    questions = Questions()
    steps, pool, count = (60, 30, 60) if quick else (3000, 500, 300)
    prompts, _ = questions.drawn(np.random.default_rng(1), 1000 if quick else 10_000)
    asked, answers = questions.drawn(np.random.default_rng(2), 2000)
    learnt, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    for kind in (Gru, Transformer):
        network, start = kind(questions.symbols), time.process_time()
        trained(network, questions, steps, pool * BATCH)
        right = Runs(network).said(asked) == answers
        weights = sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param)))
        learnt.append({
            "network": kind.__name__, "weights": weights, "steps": steps,
            "tokens": float(right.mean()), "sequences": float(right.all(axis=1).mean()),
            "seconds": round(time.process_time() - start),
        })  # fmt: skip
        rows += patched(network, questions, count, prompts)
    tables = [
        Table(
            "trained", f"Networks trained on the prompts of {STEPS} steps",
            {"network": "network", "weights": "weights", "steps": "steps of Adam",
             "tokens": "right tokens", "sequences": "right sequences", "seconds": "CPU s"},
            learnt, f"{DATA} data behind the prompt, fresh questions.",
        ),
        Table(
            "trained_patched", "Task vectors of trained networks",
            {"network": "network", "place": "where", "method": "method",
             **{field: field for field in FIELDS}, "pairs": "pairs", "share": "all"}, _pivot(rows),
            "The share of pairs that come out as predicted, by the word that is patched; of pairs "
            "whose answers differ, and whose base and predicted prompt the network answers right. "
            "A function vector adds the difference of the two words' means; the subspace of the "
            "means takes from the source what differs between words on average.",
        ),
    ]  # fmt: skip
    shares = [(row["share"] or 0.0, row["network"], row["method"]) for row in tables[1].rows]
    best = [
        max(share for share in shares if share[1] == kind.__name__) for kind in (Gru, Transformer)
    ]
    said = " and ".join(f"{share:.0%} of pairs ({kind}, {how})" for share, kind, how in best)
    return tables, (
        "Where networks were trained on such prompts, the best patch gives the predicted answers "
        f"in {said}."
    )


def _pivot(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a network, place and method, with the words beside each other."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        name = {key: row[key] for key in ("network", "place", "method")}
        one = found.setdefault(tuple(name.values()), {**name, "pairs": 0, "right": 0})
        one[row["field"]] = row["predicted"] / row["pairs"] if row["pairs"] else None
        one["pairs"] += row["pairs"]
        one["right"] += row["predicted"]
    for one in found.values():
        one["share"] = one["right"] / one["pairs"] if one["pairs"] else None
    return list(found.values())
