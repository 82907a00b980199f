"""Tasks around compiled routines of `library_depth`: what is repeated, sorted, and learnt."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lsrl
from lsrl.ir.numbers import Array
from lsrl.nn.tasks import GREATEST, KEYS, SHALLOW, SHORT, SQUARED, subtractions
from lsrl.nn.tasks import PRIME as MODULUS

# Of lists that are sorted by insertion, the longest.
LONG = 8 * SHORT
# What a step costs, in nats.
COST = 0.02
# Letters beyond the symbols, which some of them stand for twice.
TWICE = 3
# Of expressions: values, calls open at once, and tokens, while one trains and beyond.
VALUES = 5
NESTED, WIDE = (3, 8), (16, 200)


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
      seeds: of each row.
      updates: of a training.
      deep: the greatest number of steps of Fibonacci.
      lists: that are sorted, of each length.
      cases: of straight-line programs, by seed.
    """

    seeds: int = 3
    updates: int = 300
    deep: int = 511
    lists: int = 100
    cases: int = 20


QUICK = Plan(seeds=1, lists=10, cases=2)


class Reader(nnx.Module):
    """Letters of an unknown alphabet, read as symbols, ahead of a step that is repeated."""

    def __init__(self, deep: lsrl.nn.Recur, letters: int, symbols: int, seed: int) -> None:
        """With nothing learnt."""
        logits = np.random.default_rng(seed).normal(0, 0.1, (letters, symbols))
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))
        self.deep = deep

    def read(self, letters: jax.Array) -> jax.Array:
        """The distributions that letters stand for."""
        return jax.nn.softmax(4 * self.logits[...])[letters]


Batch = Sequence[Array]
Guess = Callable[[Any, Sequence[jax.Array]], tuple[jax.Array, jax.Array]]


def trained(
    model: nnx.Module, guess: Guess, draw: Callable[[float], Batch], updates: int, rate: float
) -> None:
    """Train by cross-entropy what is no part of a routine.

    Args:
      model: whose `nnx.Param`s are trained.
      guess: the distribution of the answers and the mean number of steps, of a model and a batch.
      draw: a batch, the last array of which are the answers, of the share of the training done.
      updates: of the parameters.
      rate: of learning.
    """
    split: Any = nnx.split(model, nnx.Param, ...)
    graph, parameters, rest = split
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, updates, 0.05))

    def loss(parameters: Any, batch: Sequence[jax.Array]) -> jax.Array:
        said, steps = guess(nnx.merge(graph, parameters, rest), batch[:-1])
        right = jnp.take_along_axis(said, batch[-1][..., None], axis=-1)
        return COST * steps.mean() - jnp.log(right + 1e-3).mean()

    @jax.jit
    def update(parameters: Any, state: Any, batch: Sequence[jax.Array]) -> tuple[Any, Any]:
        changes, state = optimiser.update(jax.grad(loss)(parameters, batch), state)
        return optax.apply_updates(parameters, changes), state

    state = optimiser.init(parameters)
    for number in range(updates):
        batch = [jnp.asarray(each, jnp.int32) for each in draw(number / updates)]
        parameters, state = update(parameters, state, batch)
    nnx.update(model, parameters)


def _tried(
    deep: lsrl.nn.Recur, state: Any, steps: jax.Array | None, most: int, register: str = ""
) -> tuple[jax.Array, jax.Array]:
    """What a register or sequence holds, and the mean depth, of at most some steps."""
    found: Any = deep.expected(state, steps, most=most)
    depth = deep.expected_depth(state, steps, most=most)
    return found[register] if register else found, depth


def cipher(rng: np.random.Generator, symbols: int, twice: int = TWICE) -> Array:
    """What each letter stands for: every symbol, and some twice."""
    found = np.concatenate([np.arange(symbols), rng.integers(0, symbols, twice)])
    return rng.permutation(found)


def by_depth(task: str, right: Array, depths: Array) -> dict[int, tuple[int, int]]:
    """Right answers and questions by a task's depths of tests, each from the one before on."""
    found, before = {}, -1
    for depth in lsrl.nn.standard_tasks()[task].tested:
        these = (depths > before) & (depths <= depth)
        if these.any():
            found[depth] = int(right[these].sum()), int(these.sum())
        before = depth
    return found


def fibonacci(first: Array, steps: Array) -> Array:
    """Terms of sequences, each the sum of the two before it, modulo, after (2, batch) of them."""
    found, pair = first[0].copy(), (first[0], first[1])
    for done in range(1, int(steps.max(initial=0)) + 1):
        pair = pair[1], (pair[0] + pair[1]) % MODULUS
        found = np.where(steps == done, pair[0], found)
    return found


def fibonacci_row(kind: str, seed: int, plan: Plan) -> dict[str, object]:
    """Terms of Fibonacci sequences of two letters, trained on the first 16."""
    rng, start = np.random.default_rng(seed), time.process_time()

    @lsrl.program(max_length=1)
    def step(a: lsrl.Token(MODULUS), b: lsrl.Token(MODULUS)) -> lsrl.Signal:
        return lsrl.concat(1 * b, lsrl.mod(a + b, MODULUS))

    halting = lsrl.nn.Halting(cast(Any, kind))
    model = Reader(lsrl.nn.Recur(step, halting, most=plan.deep), MODULUS + TWICE, MODULUS, seed)
    means = cipher(rng, MODULUS)

    def draw(share: float) -> Batch:
        letters = rng.integers(0, len(means), (2, 64))
        # Half of them shortest, so that letters are told apart first.
        steps = rng.integers(0, np.repeat([2, 1 + min(15, int(24 * share))], 32))
        return letters[0], letters[1], steps, fibonacci(means[letters], steps)

    def guess(model: Any, batch: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        first, second, steps = batch
        state = {"a": model.read(first), "b": model.read(second)}
        return _tried(model.deep, state, steps, 24, "a")

    trained(model, guess, draw, plan.updates, 5e-2)

    @nnx.jit
    def run(model: Reader, letters: jax.Array, steps: jax.Array) -> jax.Array:
        state = {"a": model.read(letters[0]), "b": model.read(letters[1])}
        return cast(Any, model.deep(state, steps))["a"].argmax(-1)

    steps = np.tile(np.arange(plan.deep + 1), 4)
    letters = rng.integers(0, len(means), (2, len(steps)))
    right = np.asarray(run(model, letters, steps)) == fibonacci(means[letters], steps)
    seconds = time.process_time() - start
    return {
        "task": f"Fibonacci mod {MODULUS}", "halting": kind, "seed": seed, "trained": 15,
        "right": float(right[steps < 16].mean()), "tested": plan.deep,
        "beyond": float(right[steps >= 16].mean()), "seconds": seconds,
        "by": by_depth("Fibonacci", right, steps),
    }  # fmt: skip


def squaring_row(kind: str, seed: int, plan: Plan) -> dict[str, object]:
    """Numbers squared again and again: the step is a table, and when to stop may be learnt."""
    rng, start = np.random.default_rng(seed), time.process_time()
    squares = [number**2 % SQUARED for number in range(SQUARED)]

    # A second register makes it a step of registers, and not one over sequences.
    @lsrl.program(max_length=1)
    def step(x: lsrl.Token(SQUARED), idle: lsrl.Token(2)) -> lsrl.Signal:
        return lsrl.concat(lsrl.lookup(x, squares), 1 * idle)

    deep = lsrl.nn.Recur(step, lsrl.nn.Halting(cast(Any, kind)), most=plan.deep)

    def answers(given: Array, steps: Array) -> Array:
        pairs = zip(given.tolist(), steps.tolist(), strict=True)
        return np.array([pow(x, 2**k, SQUARED) for x, k in pairs])

    def state(given: jax.Array) -> dict[str, jax.Array]:
        return {"x": given, "idle": jnp.zeros_like(given)}

    def draw(share: float) -> Batch:
        given, steps = rng.integers(2, SQUARED - 1, 32), rng.integers(0, 16, 32)
        return given, steps, answers(given, steps)

    def guess(deep: Any, batch: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _tried(deep, state(batch[0]), batch[1], 24, "x")

    if kind == "ponder":
        trained(deep, guess, draw, plan.updates // 2, 5e-2)

    @nnx.jit
    def run(deep: lsrl.nn.Recur, given: jax.Array, steps: jax.Array) -> jax.Array:
        return cast(Any, deep(state(given), steps))["x"].argmax(-1)

    steps = np.arange(plan.deep + 1)
    given = rng.integers(2, SQUARED - 1, len(steps))
    right = np.asarray(run(deep, jnp.asarray(given), jnp.asarray(steps))) == answers(given, steps)
    return {
        "task": f"squaring mod {SQUARED}", "halting": kind, "seed": seed, "trained": 15,
        "right": float(right[steps < 16].mean()), "tested": plan.deep,
        "beyond": float(right[steps >= 16].mean()), "seconds": time.process_time() - start,
        "by": by_depth("repeated squaring", right, steps),
    }  # fmt: skip


def gcd_row(kind: str, seed: int, plan: Plan) -> dict[str, object]:
    """The greatest common divisor by subtraction, which halts where both are equal."""
    rng, start = np.random.default_rng(seed), time.process_time()
    size = GREATEST + 1

    @lsrl.program(max_length=1)
    def step(a: lsrl.Token(size), b: lsrl.Token(size), order: lsrl.Token(4)) -> lsrl.Signal:
        more = a >= b
        a, b = lsrl.select(more, a - b, a), lsrl.select(more, b, b - a)
        return lsrl.concat(a, b, (a == b) + 2 * (a > b))

    same = lsrl.nn.Halting("compiled", "order", 1)
    halting = same if kind == "compiled" else lsrl.nn.Halting("ponder", "order")
    deep = lsrl.nn.Recur(step, halting)
    pairs = np.indices((GREATEST, GREATEST)).reshape(2, -1).T + 1
    answers, depths = np.gcd(*pairs.T), np.array([subtractions(*pair) for pair in pairs.tolist()])
    shallow = np.flatnonzero(depths <= SHALLOW)

    def state(pairs: Any) -> dict[str, jax.Array]:
        order = (pairs[:, 0] == pairs[:, 1]) + 2 * (pairs[:, 0] > pairs[:, 1])
        return {"a": pairs[:, 0], "b": pairs[:, 1], "order": order.astype(jnp.int32)}

    def draw(share: float) -> Batch:
        drawn = rng.choice(shallow, 16)
        return pairs[drawn], answers[drawn]

    def guess(deep: Any, batch: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _tried(deep, state(batch[0]), None, SHALLOW + 1, "a")

    if kind == "ponder":
        trained(deep, guess, draw, plan.updates // 3, 5e-2)
    said: Any = nnx.jit(lambda deep, pairs: deep(state(pairs)))(deep, jnp.asarray(pairs))
    right = np.asarray(said["a"]).argmax(-1) == answers
    seconds = time.process_time() - start
    return {
        "task": f"gcd up to {GREATEST}", "halting": kind, "seed": seed, "trained": SHALLOW,
        "right": float(right[shallow].mean()), "tested": int(depths.max()),
        "beyond": float(right[depths > SHALLOW].mean()), "seconds": seconds,
        "by": by_depth("gcd", right, depths),
    }  # fmt: skip


def insertion(keys: int) -> lsrl.nn.MooreTable:
    """A pass of a sort by insertion: the first unsorted key goes to its place among the sorted.

    Symbols are the keys, unsorted, then as many sorted ones, then an empty cell. A list is followed
    by as many empty cells as it has keys; after a pass the sorted ones begin there.
    """
    empty, before, done = 2 * keys, -1, keys

    def passed(hand: int, symbol: int) -> tuple[int, int]:
        """What is in the hand behind a cell, and what the cell holds now."""
        if hand == before and symbol < keys:
            return symbol, empty
        if hand in (before, done) or symbol < keys:
            return hand, symbol
        if symbol == empty:
            return done, keys + hand
        return max(hand, symbol - keys), keys + min(hand, symbol - keys)

    states = [(before, empty)]
    follows = list[list[int]]()
    for hand, _ in states:
        row = [passed(hand, symbol) for symbol in range(2 * keys + 1)]
        states += [each for each in dict.fromkeys(row) if each not in states]
        follows.append([states.index(each) for each in row])
    said = np.array([[symbol] for _, symbol in states], float)
    return lsrl.nn.MooreTable(np.array(follows, np.int32), said)


def insertion_row(kind: str, seed: int, plan: Plan) -> dict[str, object]:
    """Lists of letters, sorted pass by pass, trained on up to four."""
    rng, start = np.random.default_rng(seed), time.process_time()
    halting = lsrl.nn.Halting(cast(Any, kind))
    model = Reader(lsrl.nn.Recur(insertion(KEYS), halting, LONG), KEYS + TWICE, KEYS, seed)
    means = cipher(rng, KEYS)

    def drawn(sizes: Array, cells: int) -> Batch:
        """Letters, sizes, and what all cells hold in the end."""
        letters = rng.integers(0, len(means), (len(sizes), cells))
        place, size = np.arange(cells), sizes[:, None]
        keys = np.sort(np.where(place < size, means[letters], KEYS), axis=1)
        moved = np.take_along_axis(keys, np.clip(place - size, 0, cells - 1), 1)
        wanted = np.where((place >= size) & (place < 2 * size), KEYS + moved, 2 * KEYS)
        return letters, sizes, wanted

    def state(model: Any, letters: jax.Array, sizes: jax.Array) -> jax.Array:
        keys = jnp.pad(model.read(letters), ((0, 0), (0, 0), (0, KEYS + 1)))
        given = (jnp.arange(letters.shape[1]) < sizes[:, None])[..., None]
        return jnp.where(given, keys, jax.nn.one_hot(2 * KEYS, 2 * KEYS + 1))

    def draw(share: float) -> Batch:
        return drawn(rng.integers(0, SHORT + 1, 32), 2 * SHORT)

    def guess(model: Any, batch: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _tried(model.deep, state(model, *batch), batch[1], 2 * SHORT)

    trained(model, guess, draw, plan.updates // 3, 5e-2)
    run = nnx.jit(lambda model, *batch: model.deep(state(model, *batch), batch[1]).argmax(-1))
    whole = {}
    for size in (SHORT, LONG):
        letters, sizes, wanted = drawn(np.full(plan.lists, size), 2 * size)
        said = run(model, jnp.asarray(letters), jnp.asarray(sizes))
        whole[size] = float((np.asarray(said) == wanted).all(1).mean())
    seconds = time.process_time() - start
    return {
        "task": f"insertion sort of {KEYS} keys", "halting": kind, "seed": seed,
        "trained": SHORT, "right": whole[SHORT], "tested": LONG, "beyond": whole[LONG],
        "seconds": seconds,
        "by": {size: (round(share * plan.lists), plan.lists) for size, share in whole.items()},
    }  # fmt: skip


# ---------------------------------------------------------------- calls


def _operation(step: Callable[[int, int], int], start: int = 0) -> lsrl.nn.MooreTable:
    """A routine that holds a value, and makes of it and each that it reads the next."""
    rows = [[step(state, value) for value in range(VALUES)] for state in range(VALUES)]
    return lsrl.nn.MooreTable(np.array(rows, np.int32), np.arange(float(VALUES))[:, None], start)


OPERATIONS = (
    _operation(lambda state, value: (state + value) % VALUES),
    _operation(lambda state, value: state * value % VALUES, 1),
    _operation(max),
    _operation(min, VALUES - 1),
    _operation(lambda state, value: value),
)


class Caller(nnx.Module):
    """Tokens of an unknown alphabet, read as values and calls, ahead of a stack of routines."""

    def __init__(self, expressions: "Expressions", depth: int) -> None:
        """With nothing learnt but which tokens are letters, operators, the bracket and padding."""
        self.stack = lsrl.nn.CallStack(OPERATIONS, depth)
        sizes = (len(expressions.letters), len(expressions.operators), 1, 1)
        ends = np.cumsum([VALUES, len(OPERATIONS), 1, 1])
        rows, columns = (
            np.repeat(np.arange(4), sizes),
            np.searchsorted(ends, range(ends[-1]), "right"),
        )
        self.kinds = nnx.Variable(jnp.asarray(rows[:, None] == columns))
        logits = expressions.rng.normal(0, 0.1, self.kinds[...].shape)
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))

    def read(self, tokens: jax.Array) -> jax.Array:
        """The distributions over the stack's symbols that tokens stand for."""
        return jax.nn.softmax(jnp.where(self.kinds[...], 4 * self.logits[...], -np.inf))[tokens]


class Expressions:
    """Expressions such as "f b g c c ) b )", in letters and operators of an unknown alphabet.

    Attributes:
      letters: the value of each letter; letters are the first tokens.
      operators: the routine of each operator; these follow.
      rng: of all that is drawn.
    """

    def __init__(self, seed: int) -> None:
        """Draw an alphabet, in which some tokens stand for the same."""
        self.rng = np.random.default_rng(seed)
        self.letters = cipher(self.rng, VALUES)
        self.operators = cipher(self.rng, len(OPERATIONS), 1)

    def drawn(self, count: int, depth: int, tokens: int, most: int = 4) -> tuple[Array, Array]:
        """Expressions of so many tokens, padded, whose depth is a given one; and their values."""
        close = len(self.letters) + len(self.operators)
        words, answers = np.full((count, tokens), close + 1), np.zeros(count, int)
        for row in range(count):
            while True:
                word, value = self._one(depth, most, close)
                if len(word) <= tokens:
                    break
            words[row, : len(word)], answers[row] = word, value
        return words, answers

    def _one(self, depth: int, most: int, close: int) -> tuple[list[int], int]:
        """An operator, arguments, one of which at least is as deep as it goes, and a bracket."""
        operator = int(self.rng.integers(len(self.operators)))
        table = OPERATIONS[self.operators[operator]]
        word, state = [len(self.letters) + operator], table.initial
        arguments = int(self.rng.integers(1, most + 1))
        deepest = int(self.rng.integers(arguments))
        for place in range(arguments):
            if depth > 1 and (place == deepest or self.rng.random() < 0.2):
                part, value = self._one(depth - 1, most, close)
            else:
                letter = int(self.rng.integers(len(self.letters)))
                part, value = [letter], int(self.letters[letter])
            word, state = word + part, int(table.follows[state, value])
        return [*word, close], int(table.ids[state])

    def learnt(self, updates: int) -> Caller:
        """A caller, trained on values of expressions alone, half of them of one call."""
        caller = Caller(self, NESTED[0])

        def draw(share: float) -> Batch:
            deep = 1 + int(self.rng.integers(0, min(NESTED[0], 1 + int(4 * share))))
            parts = [self.drawn(32, 1, WIDE[0], 2), self.drawn(32, deep, WIDE[0], 3)]
            words, answers = (np.concatenate(each) for each in zip(*parts, strict=True))
            return words, answers

        def guess(caller: Any, batch: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
            return caller.stack.expected(caller.read(batch[0]))[:, -1], jnp.zeros(1)

        trained(caller, guess, draw, updates, 5e-2)
        return caller


def expressions_row(seed: int, plan: Plan) -> dict[str, object]:
    """Nested expressions: which value a letter and which routine an operator is, from values."""
    start = time.process_time()
    expressions = Expressions(seed)
    caller = expressions.learnt(plan.updates // 3)
    right, floor = [], 0.0
    for depth, tokens in zip(NESTED, WIDE, strict=True):
        if depth > caller.stack.depth:  # what was learnt goes with a deeper stack
            deeper = Caller(expressions, depth)
            deeper.logits, caller = caller.logits, deeper
        words, answers = expressions.drawn(plan.lists, depth, tokens)
        said = nnx.jit(lambda caller, words: caller.stack(caller.read(words)))(
            caller, jnp.asarray(words)
        )
        right.append(float((np.asarray(said)[:, -1].argmax(-1) == answers).mean()))
        floor = float(np.bincount(answers).max() / len(answers))
    return {
        "task": f"expressions of {len(OPERATIONS)} routines mod {VALUES}", "seed": seed,
        "trained": NESTED[0], "right": right[0], "tested": NESTED[1], "beyond": right[1],
        "floor": floor, "seconds": time.process_time() - start,
    }  # fmt: skip


# ---------------------------------------------------------------- sorting


def sorting_row(seed: int, plan: Plan) -> dict[str, object]:
    """Lists of letters through a counting sort; what they stand for is learnt from answers."""
    rng, start = np.random.default_rng(seed), time.process_time()
    size, keys = 8, 8
    layer = lsrl.nn.CompiledLayer(
        lsrl.programs.counting_sort(size, keys), "linear_rnn", backward="raw"
    )
    means = cipher(rng, keys, 2)
    logits = jnp.asarray(rng.normal(0, 0.1, (len(means), keys)), jnp.float32)
    optimiser = optax.adam(5e-2)
    symbols = jnp.arange(keys, dtype=jnp.float32)

    @jax.jit
    def update(logits: Any, state: Any, letters: jax.Array, answers: jax.Array) -> tuple[Any, Any]:
        def loss(logits: jax.Array) -> jax.Array:
            given = jax.nn.softmax(4 * logits)[letters]
            rest = jnp.zeros_like(given).at[..., 0].set(1)
            said = layer.expected(jnp.concatenate([given, rest], axis=1))[:, size:]
            return jnp.abs(said @ symbols - answers).mean()

        changes, state = optimiser.update(jax.grad(loss)(logits), state)
        return optax.apply_updates(logits, changes), state

    state = optimiser.init(logits)
    for _ in range(plan.updates // 10):
        letters = rng.integers(0, len(means), (32, size))
        answers = np.sort(means[letters], axis=1).astype(np.float32)
        logits, state = update(logits, state, jnp.asarray(letters), jnp.asarray(answers))
    learning, read = time.process_time() - start, np.asarray(logits).argmax(1)
    row: dict[str, object] = {"seed": seed, "letters": len(means), "seconds": learning,
                              "map": bool((read == means).all())}  # fmt: skip
    for length in (size, 500):
        program = lsrl.programs.counting_sort(length, keys)
        model = layer.model if length == size else lsrl.compile(program, "linear_rnn")
        letters = rng.integers(0, len(means), (plan.lists, length))
        words = np.concatenate([read[letters], np.zeros_like(letters)], axis=1)
        said = np.asarray(model.run(words))[:, length:, 0]
        row[f"whole_{length}"] = float((said == np.sort(means[letters], axis=1)).all(1).mean())
    return row | {"all": time.process_time() - start}
