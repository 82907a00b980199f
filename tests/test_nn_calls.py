"""Routines that call one another: by an interpreter, by the network, and as distributions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsrl
from benchmarks.library_depth_tasks import Plan, expressions_row
from lsrl.errors import InputError

pytestmark = pytest.mark.one_in(2)

VALUES, DEPTH = 3, 2


def routine(step, start=0):
    rows = [[step(state, value) for value in range(VALUES)] for state in range(VALUES)]
    return lsrl.nn.MooreTable(np.array(rows, np.int32), np.arange(float(VALUES))[:, None], start)


ROUTINES = [routine(lambda q, x: (q + x) % VALUES), routine(max), routine(min, VALUES - 1)]


@pytest.fixture(scope="module")
def stack():
    return lsrl.nn.CallStack(ROUTINES, DEPTH)


@pytest.fixture(scope="module")
def run(stack):
    return jax.jit(lambda tokens: [stack(tokens), stack.expected(tokens)])


def interpreted(word, returns):
    """What the routine on top says behind each token, by a stack in plain Python."""
    frames, last, found = [], 0, []

    def read(value):
        nonlocal last
        if not frames:
            last = value
            return
        number, state = frames[-1]
        frames[-1] = number, ROUTINES[number].follows[state, value]

    for token in word:
        if token < VALUES:
            read(token)
        elif token < returns:
            number = token - VALUES
            del frames[DEPTH - 1 :]
            frames.append((number, ROUTINES[number].initial))
        elif token == returns and frames:
            read(ROUTINES[frames[-1][0]].ids[frames.pop()[1]])
        found.append(int(ROUTINES[frames[-1][0]].ids[frames[-1][1]]) if frames else last)
    return found


def test_calls_are_those_of_an_interpreter(stack, run):
    """Also where the stack is full, and where nothing is there to return from."""
    assert stack.model.certificate.exact
    words = np.random.default_rng(0).integers(0, stack.symbols, (20, 30))
    wanted = [interpreted(word, stack.returns) for word in words.tolist()]
    for found in run(jnp.asarray(words)):
        np.testing.assert_array_equal(found, np.eye(VALUES)[wanted])


def test_a_routine_goes_on_where_it_was(stack):
    total, greatest = (stack.calls[f"machine {number}"] for number in range(2))
    # 2 + max(1, 0) + 1, and nothing behind it.
    word = [total, 2, greatest, 1, 0, stack.returns, 1, stack.returns, stack.skip]
    said = stack(jnp.array([word])).argmax(-1)[0].tolist()
    assert said == [0, 2, 0, 1, 1, 0, 1, 1, 1]


def test_expected_outputs_are_those_of_all_words(stack):
    """Where it is known which tokens call and return; which routine is called need not be.

    Halves and quarters are exact, so the output and its derivative, the effects of swaps, are too.
    """
    rng, call, value = np.random.default_rng(1), range(VALUES, stack.returns), range(VALUES)
    kinds = [call, value, call, value, value, [stack.returns], value, [stack.returns]]
    p = np.zeros((len(kinds), stack.symbols))
    for row, kind in zip(p, kinds, strict=True):
        row[list(kind)] = rng.multinomial(4, np.ones(len(kind)) / len(kind)) / 4
    words = [*itertools.product(*kinds)]
    said = np.eye(VALUES)[[interpreted(word, stack.returns)[-1] for word in words]]
    each = p[np.arange(len(kinds)), words]
    weights = rng.integers(-3, 4, VALUES).astype(np.float32)

    def total(p):
        found = stack.expected(p)[0, -1]
        return found @ weights, found

    slopes, found = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(p, jnp.float32)[None])
    np.testing.assert_array_equal(found, each.prod(1) @ said)
    for place, kind in enumerate(kinds):
        others, mine = np.delete(each, place, axis=1).prod(1), np.array(words)[:, place]
        effects = [(others * (said @ weights))[mine == symbol].sum() for symbol in kind]
        own = np.asarray(slopes)[0, place, list(kind)]
        np.testing.assert_array_equal(own - own[0], np.array(effects) - effects[0])


def test_the_network_has_the_derivative_of_what_is_expected(stack):
    rng = np.random.default_rng(2)
    p = jnp.asarray(rng.dirichlet(np.ones(stack.symbols), (2, 7)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 7, VALUES)), jnp.float32)

    def slopes(run):
        return jax.jit(jax.grad(lambda p: (run(p) * weights).sum()))(p)

    exact, soft = slopes(stack), slopes(stack.expected)
    np.testing.assert_allclose(exact, soft, atol=1e-6)
    assert np.abs(soft).max() > 0


def test_whatever_tokens_are_it_expects_a_distribution(stack):
    p = np.random.default_rng(3).dirichlet(np.ones(stack.symbols), (3, 30))
    said = jax.jit(stack.expected)(jnp.asarray(p, jnp.float32))
    assert said.min() >= 0
    np.testing.assert_allclose(said.sum(-1), 1, atol=1e-5)


@pytest.mark.studies
@pytest.mark.parametrize("seed", range(3))
def test_expressions_are_learnt_from_their_values(seed):
    """Letters and operators of an unknown alphabet, up to three calls deep, then eight deep."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        row = expressions_row(seed, Plan(updates=300, lists=50))
    assert (row["right"], row["beyond"]) == (1, 1) and row["floor"] < 0.6


# ---------------------------------------------------------------- what is refused


def large():
    return lsrl.nn.MooreTable(ROUTINES[0].follows, np.array([[0.0], [1.0], [VALUES]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lsrl.nn.CallStack([]), "CallStack: expected routines, got none"),
        (lambda: lsrl.nn.CallStack(ROUTINES, 0), "depth must be an int >= 1"),
        (lambda: lsrl.nn.CallStack([large()]), "values from 0 to 2, got 3 of machine 0"),
        (lambda: lsrl.nn.CallStack([lsrl.programs.parity(None)] * 2), "of different names"),
        (lambda: lsrl.nn.CallStack([lsrl.programs.modular_sum(5), *ROUTINES]), "one vocabulary"),
    ],
)
def test_routines_that_can_t_call_one_another_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_tokens_that_make_no_sense_are_refused(stack):
    call = stack.calls["machine 1"]
    with pytest.raises(InputError, match=r"at most 2 calls open .* token 3 of sequence 1; .*=3"):
        stack(jnp.array([[call, call, stack.returns, call], [call, 0, call, call]]))
    with pytest.raises(InputError, match="tokens from 0 to 7, got some from 0 to 8"):
        stack(jnp.array([[0, 8]]))
    with pytest.raises(InputError, match=r"distributions \(batch, time, 8\)"):
        stack.expected(jnp.ones((1, 4, 3)))
