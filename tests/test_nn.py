"""Routines inside networks that learn: what they compute, and what their gradients teach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lsrl
from lsrl.errors import InputError, NoMachineError
from lsrl.ir.evaluate import facts_over
from lsrl.ir.numbers import sum_is_exact
from lsrl.ir.ops import Hold, Input, RunningMax
from lsrl.nn import modes
from lsrl.nn.frozen import parameters_of
from lsrl.nn.report import Swaps, measured
from lsrl.nn.semantics import Relaxation, evaluate
from lsrl.pytrees import named_leaves
from lsrl.testing.random_ops import OPS
from lsrl.testing.verification import sample_inputs
from tests.grids import studied

pytestmark = pytest.mark.one_in(3)

P = lsrl.programs


@pytest.fixture
def _as_users_have_it():
    """optax counts steps in integers, which it multiplies with floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# ---------------------------------------------------------------- what programs mean, in jax


def exact_in_float32(graph, tokens):
    """Whether no sum of the program rounds."""
    facts = facts_over(graph, tokens)
    return all(
        isinstance(node.op, Input) or sum_is_exact(sums.magnitude, sums.grid, 24).all()
        for node in graph.nodes
        for sums in [node.op.sums([facts[i] for i in node.operands], tokens)]
    )


@pytest.mark.parametrize("seed", studied(range(8), 1))
def test_jax_carries_out_what_the_evaluator_does(seed):
    program = lsrl.random_program(seed, OPS, depth=6, width=4, max_length=12)
    inputs = sample_inputs(program.inputs, 3, 12, seed)
    given = tuple(jnp.asarray(x, jnp.int32 if x.ndim == 2 else jnp.float32) for x in inputs)
    run = jax.jit(lambda given: evaluate(program.graph, given))
    through = jax.jit(lambda given: evaluate(program.graph, given, Relaxation(2.0, True)))
    if exact_in_float32(program.graph, 12):
        np.testing.assert_array_equal(run(given), program.run(*inputs))
        np.testing.assert_array_equal(through(given), program.run(*inputs))


@pytest.mark.studies
def test_holds_and_maxima_are_carried_out_all_at_once():
    @lsrl.program(max_length=12)
    def counted(x: lsrl.Token(3)):
        taken = x == 2
        held = lsrl.hold(lsrl.cumsum(taken), taken, initial=0, change=1)
        return lsrl.concat(held, lsrl.running_max(x, initial=1))

    assert {Hold, RunningMax} <= counted.graph.kinds
    ids = np.random.default_rng(0).integers(0, 3, (4, 12))
    run = jax.jit(lambda ids: evaluate(counted.graph, (ids,)))
    np.testing.assert_array_equal(run(jnp.asarray(ids, jnp.int32)), counted.run(ids))


def test_relaxed_programs_go_over_into_the_program():
    program = P.majority(12)
    ids = np.random.default_rng(0).integers(0, 2, (3, 12))
    p = jnp.asarray(modes.one_hot(ids, 2))
    graph = program.graph
    run = jax.jit(lambda p, t: evaluate(graph, (p,), Relaxation(t)))
    np.testing.assert_allclose(run(p, 0.01), program.run(ids), atol=1e-6)
    assert np.abs(run(p, 8.0) - program.run(ids)).max() > 0.1


# ---------------------------------------------------------------- gradients


def saturating_majority(most):
    """More ones than zeros, by a counter that stops at both ends."""
    follows = [[max(q - 1, 0), min(q + 1, 2 * most)] for q in range(2 * most + 1)]
    follows = follows[most:] + follows[:most]  # state 0 is the even one
    follows = [[(q - most) % (2 * most + 1) for q in row] for row in follows]
    ahead = [0 < q <= most for q in range(2 * most + 1)]

    @lsrl.program
    def majority(bit: lsrl.Token(2)) -> lsrl.Token(2):
        answers = [[int(ahead[q]) for q in row] for row in follows]
        return lsrl.induction.mealy(bit, follows=follows, answers=answers)

    return majority


FINITE = {
    "parity": lambda: P.parity(None),
    "modular sum": lambda: P.modular_sum(5, 64),
    "running maximum": lambda: P.running_max(8, 64),
    "words of S3": lambda: P.permutations("S3"),
    "majority": lambda: saturating_majority(4),
    "brackets": lambda: P.dyck(2, 4, 64),
    "no two ones": P.dfa,
}


@pytest.mark.parametrize("name", studied(FINITE, "majority"))
def test_the_automaton_tells_the_effect_of_every_swap(name):
    program = FINITE[name]()
    table = lsrl.nn.routine_table(program)
    features = program.output_type.size
    swaps = Swaps.of(program, features, 4, 12, seed=0)
    assert (swaps.effects != 0).any()
    mode = modes.automaton(table, modes.one_hot(table.ids, features))
    row = measured("automaton", swaps, mode, 1.0)
    assert (row.error, row.signs) == (0, 1) and row.correlation > 1 - 1e-9


@pytest.fixture(scope="module")
def layer():
    return lsrl.nn.CompiledLayer(P.modular_sum(3, 16), "linear_rnn")


def test_a_layer_is_the_network_and_its_gradient_the_effects(layer):
    assert layer.backward == "automaton" and layer.model.certificate.exact
    ids = np.random.default_rng(0).integers(0, 3, (2, 9))
    np.testing.assert_array_equal(layer(ids), layer.model.run(ids))
    p = jnp.asarray(0.6 * modes.one_hot(ids, 3) + 0.4 / 3)
    weights = np.random.default_rng(1).integers(-4, 5, (2, 9, 3)).astype(np.float32)

    @jax.jit
    def both(p):
        total = lambda f, p: (f(p) * weights).sum()  # noqa: E731
        return [jax.value_and_grad(total, 1)(f, p) for f in (layer, layer.expected)]

    (value, slopes), (_, expected) = both(p)
    hard = np.eye(3)[layer.model.run(ids)[..., 0].astype(int)]
    assert value == (hard * weights).sum()  # the program's own output, not the mixture's
    np.testing.assert_array_equal(slopes, expected)
    (known, at_tokens), _ = both(jnp.asarray(modes.one_hot(ids, 3)))
    for place in np.ndindex(ids.shape):
        for symbol in range(3):
            other = ids.copy()
            other[place] = symbol
            swapped = (np.eye(3)[layer.model.run(other)[..., 0].astype(int)] * weights).sum()
            assert at_tokens[place][symbol] - at_tokens[place][ids[place]] == swapped - known


def test_optimisers_leave_frozen_weights_alone(layer):
    assert not jax.tree.leaves(nnx.state(layer, nnx.Param))
    frozen = nnx.state(layer, lsrl.nn.FrozenParam)
    assert len(jax.tree.leaves(frozen)) == len(layer.weights)
    trained = lsrl.nn.CompiledLayer(P.majority(8), "linear_rnn", "raw", trainable=True)
    p = jnp.full((1, 2, 2), 0.5)
    slopes = nnx.jit(nnx.grad(lambda layer: layer(p)[..., 1].sum()))(trained)
    assert any(abs(x).max() > 0 for x in jax.tree.leaves(slopes))
    optimiser = nnx.Optimizer(trained, optax.sgd(1e-3), wrt=nnx.Param)
    before = trained.model.parameters
    optimiser.update(trained, slopes)
    assert any((trained.weights[name][...] != value).any() for name, value in before.items())


def test_what_makes_no_sense_is_refused(layer):
    with pytest.raises(NoMachineError, match="at most 64 states"):
        lsrl.nn.CompiledLayer(P.majority(200), "linear_rnn", "automaton")
    with pytest.raises(InputError, match=r"'relaxd'.* did you mean 'relaxed'"):
        lsrl.nn.CompiledLayer(P.majority(8), "linear_rnn", "relaxd")
    with pytest.raises(InputError, match=r"one input lsrl\.Token"):
        lsrl.nn.CompiledLayer(P.gradient_step(), "linear_rnn")
    with pytest.raises(InputError, match="with the sum 1"):
        layer(np.full((1, 4, 3), 0.5))
    with pytest.raises(
        InputError, match=r"\(time, 3\) or \(batch, time, 3\), got shape \(1, 4, 2\)"
    ):
        layer(np.full((1, 4, 2), 0.5))
    with pytest.raises(InputError, match=r"one vocabulary, got {'parity': 2, 'modular_sum': 5}"):
        lsrl.nn.Library([P.parity(None), P.modular_sum(5)])
    with pytest.raises(InputError, match=r"promising: the effects of swaps .* choose a backward"):
        lsrl.nn.CompiledLayer(promising(), "linear_rnn")
    with pytest.raises(InputError, match="such as selection=5"):
        lsrl.nn.Registers(4, rngs=nnx.Rngs(0))


def promising():
    @lsrl.program(max_length=16)
    def promising(bit: lsrl.Token(2)):
        return lsrl.bound(lsrl.cumsum(bit), 0, 2)

    return promising


def test_weights_go_by_name():
    """jax sorts mappings, and "cells.10" stands before "cells.2"."""
    deep = lsrl.compile(P.majority(8), "gru").parameters
    deep = {**deep, "cells": deep["cells"] * 12}
    names = named_leaves(deep)
    again = parameters_of(deep, {name: names[name] for name in sorted(names)})
    assert jax.tree.all(jax.tree.map(lambda one, other: one is other, again, deep))


# ---------------------------------------------------------------- learning

# Program, target, and how many of its tokens are arguments: the rest are token 0.
ROUTED = {
    "words of S3": (P.permutations("S3"), "gru", 8),
    "running maximum": (P.running_max(8, 64), "gru", 8),
    "modular sum": (P.modular_sum(5, 64), "gru", 8),
    "sorting": (P.counting_sort(8, 8), "linear_rnn", 8),
}


def learn_map(layer, arguments, seed, steps=100, batch=32, others=2):
    """Whether a map of symbols to a routine's own, learnt from its outputs, is right."""
    rng, size = np.random.default_rng(seed), layer.symbols
    program = layer.model.program
    cipher = rng.permutation(np.concatenate([np.arange(size), rng.integers(0, size, others)]))
    sorts = "sort" in program.name
    behind = arguments if sorts else 0
    tail = jnp.zeros((batch, behind, size)).at[..., 0].set(1)
    optimiser = optax.adam(5e-2)

    def loss(logits, words, answers):
        p = jnp.concatenate([jax.nn.softmax(4 * logits[words]), tail], axis=1)
        said = layer.expected(p)[:, behind:]
        if layer.backward == "automaton":
            return -jnp.log(jnp.take_along_axis(said, answers[..., None], -1) + 1e-3).mean()
        return jnp.abs(said @ jnp.arange(layer.features, dtype=said.dtype) - answers).mean()

    @jax.jit
    def update(logits, state, words, answers):
        moved, state = optimiser.update(jax.grad(loss)(logits, words, answers), state)
        return optax.apply_updates(logits, moved), state

    logits = jnp.asarray(rng.normal(size=(len(cipher), size)) / 10, jnp.float32)
    state = optimiser.init(logits)
    for _ in range(steps):
        words = rng.integers(0, len(cipher), (batch, arguments))
        read = np.concatenate([cipher[words], np.zeros((batch, behind), int)], axis=1)
        answers = program.run(read)[:, behind:, 0].astype(np.int32)
        logits, state = update(logits, state, words, answers)
    return np.array_equal(np.asarray(logits).argmax(1), cipher)


@pytest.mark.usefixtures("_as_users_have_it")
@pytest.mark.parametrize("name", studied(ROUTED))
def test_arguments_are_learnt(name):
    program, target, arguments = ROUTED[name]
    layer = lsrl.nn.CompiledLayer(program, target)
    assert all(learn_map(layer, arguments, seed) for seed in range(3))


@pytest.mark.studies
def test_what_sorts_words_of_8_sorts_lists_of_500():
    """A map that is right is right at any length: the routine itself is certified."""
    words = np.random.default_rng(0).integers(0, 8, (5, 500))
    model = lsrl.compile(P.counting_sort(500, 8), "linear_rnn")
    assert model.certificate.exact
    said = model.run(np.concatenate([words, np.zeros_like(words)], axis=1))[:, 500:, 0]
    np.testing.assert_array_equal(said, np.sort(words, axis=1))


def machine(states, follow, said, start=0):
    rows = [[follow(state, digit) for digit in range(8)] for state in range(states)]
    outputs = [[float(said(state))] for state in range(states)]
    return lsrl.nn.MooreTable(np.array(rows, np.int32), np.array(outputs), start)


def digits():
    """Parity, sum mod 5 and maximum of digits."""
    return [
        machine(2, lambda q, d: (q + d) % 2, int),
        machine(5, lambda q, d: (q + d) % 5, int),
        machine(8, max, int),
    ]


class Chooser(nnx.Module):
    """[routine digits …]: digits are arguments, and a register says whose output is wanted."""

    def __init__(self, library, seed):
        rngs = nnx.Rngs(seed)
        routines = len(library.names)
        self.library = library
        self.embedding = nnx.Embed(8 + routines, 16, rngs=rngs)
        self.registers = lsrl.nn.Registers(16, selection=routines, rngs=rngs)

    def __call__(self, words, hard=False):
        chosen = self.registers(self.embedding(words), hard)["selection"]
        run = self.library if hard else self.library.expected
        return run(jnp.minimum(words, self.library.skip), chosen)


@pytest.mark.studies
@pytest.mark.usefixtures("_as_users_have_it")
@pytest.mark.parametrize("seed", range(3))
def test_a_choice_is_learnt_and_holds_for_long(seed):
    library = lsrl.nn.Library(digits())
    model, rng = Chooser(library, seed), np.random.default_rng(seed)
    split = nnx.split(model, nnx.Param, ...)

    def drawn(count, length):
        which, words = rng.integers(0, 3, count), rng.integers(0, 8, (count, length))
        said = np.stack([table.run(words)[:, -1, 0] for table in library.tables], axis=1)
        words = np.concatenate([8 + which[:, None], words], axis=1)
        return words.astype(np.int32), said[np.arange(count), which].astype(np.int32)

    optimiser = optax.adam(3e-2)

    def loss(parameters, words, answers):
        said = nnx.merge(split[0], parameters, split[2])(words)[:, -1]
        return -jnp.log(jnp.take_along_axis(said, answers[:, None], 1) + 1e-3).mean()

    @jax.jit
    def update(parameters, state, words, answers):
        moved, state = optimiser.update(jax.grad(loss)(parameters, words, answers), state)
        return optax.apply_updates(parameters, moved), state

    parameters, state = split[1], optimiser.init(split[1])
    for _ in range(150):
        parameters, state = update(parameters, state, *drawn(32, 8))
    model = nnx.merge(split[0], parameters, split[2])
    words, answers = drawn(20, 1000)
    said = jax.jit(lambda words: nnx.merge(split[0], parameters, split[2])(words, True))(words)
    np.testing.assert_array_equal(np.asarray(said)[:, -1].argmax(-1), answers)


def test_a_library_is_its_routines():
    """All of them at every token, with tokens that are skipped; in the network and as expected."""
    library = lsrl.nn.Library(digits()[:2])
    assert library.model.certificate.exact and library.skip == 8
    rng = np.random.default_rng(0)
    words, which = rng.integers(0, 9, (3, 12)), rng.integers(0, 2, (3, 12))
    said = np.stack([table.run(words)[..., 0] for table in library.tables], -1)
    wanted = np.eye(5)[np.take_along_axis(said, which[..., None], -1)[..., 0].astype(int)]
    choice = jnp.asarray(modes.one_hot(which, 2))
    run = jax.jit(lambda ids, choice: [library(ids, choice), library.expected(ids, choice)])
    for found in run(jnp.asarray(words), choice):
        np.testing.assert_array_equal(found, wanted)
    without = [word[word < 8] for word in words]
    for word, row in zip(without, said, strict=True):
        np.testing.assert_array_equal(row[-1], [t.run(word[None])[0, -1, 0] for t in digits()[:2]])
