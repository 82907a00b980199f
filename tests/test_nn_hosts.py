"""Hosts: what they pass on, what they learn around compiled routines, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lsrl
from lsrl.errors import InputError
from lsrl.nn import Host, Library, MooreTable

pytestmark = pytest.mark.one_in(3)

KINDS = ("llama", "mamba", "gru")
# Tokens 0 to 3 are digits, 4 and 5 name the sum modulo 4 and the maximum, 6 asks.
DIGITS, VOCABULARY = 4, 7


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Flax's cells and optax mix ranks and types."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def library():
    found = []
    for step in (lambda a, b: (a + b) % 4, max):
        rows = [[step(state, digit) for digit in range(DIGITS)] for state in range(4)]
        found.append(MooreTable(np.array(rows, np.int32), np.arange(4.0)[:, None]))
    return Library(found)


def made(library, kind, **options):
    options = {"arguments": {digit: digit for digit in range(DIGITS)}, **options}
    return Host(VOCABULARY, 4, kind=kind, width=16, library=library, rngs=nnx.Rngs(0), **options)


def asked(rng, questions, digits):
    drawn, name = rng.integers(0, DIGITS, (questions, digits)), rng.integers(4, 6, questions)
    words = np.column_stack([name, drawn, np.full(questions, 6)])
    return words, np.where(name == 4, drawn.sum(1) % 4, drawn.max(1))


@pytest.mark.studies
@pytest.mark.parametrize("kind", KINDS)
def test_a_host_learns_which_routine_is_meant_and_is_right_at_any_length(library, kind):
    host, rng = made(library, kind), np.random.default_rng(0)
    before = jax.tree.map(np.asarray, dict(nnx.to_pure_dict(nnx.state(library))))
    graph, weights, rest = nnx.split(host, nnx.Param, ...)
    optimiser = optax.adam(3e-2)

    def loss(weights, hardness, words, answers):
        host = nnx.merge(graph, weights, rest)
        logits = host(words, hardness)[:, -1]
        right = optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()
        return right + 0.02 * host.writes(words).sum(1).mean()

    @jax.jit
    def update(weights, state, *batch):
        changes, state = optimiser.update(jax.grad(loss)(weights, *batch), state)
        return optax.apply_updates(weights, changes), state

    state = optimiser.init(weights)
    for step in range(80):
        weights, state = update(weights, state, np.float32(step / 60), *asked(rng, 32, 6))
    host = nnx.merge(graph, weights, rest)
    words, answers = asked(rng, 20, 60)
    assert host.exact(jnp.asarray(words))[:, -1].argmax(-1).tolist() == answers.tolist()
    # It is written at names, and nowhere else.
    written = np.asarray(host.writes(jnp.asarray(words))) > 0.5
    assert written[:, 0].all() and not written[:, 1:].any()
    _, given, choice = host.inside(jnp.asarray(words))
    assert (choice[:, -1].argmax(-1) == words[:, 0] - 4).all()
    assert (given[:, 1:-1].argmax(-1) == words[:, 1:-1]).all()
    after = nnx.to_pure_dict(nnx.state(host.between.library))
    jax.tree.map(np.testing.assert_array_equal, before, dict(after))


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_sees_those_behind_it(library, kind):
    host = made(library, kind)
    # What begins at 0 passes nothing on: let it be something.
    graph, weights, rest = nnx.split(host, nnx.Param, ...)
    weights = jax.tree.map(
        lambda w: w + 0.1 * jax.random.normal(jax.random.key(1), w.shape), weights
    )
    host = nnx.merge(graph, weights, rest)
    words, _ = asked(np.random.default_rng(1), 3, 7)
    other = words.copy()
    other[:, 5:] = (other[:, 5:] + 1) % DIGITS
    for run in (host, host.exact):
        one, two = run(jnp.asarray(words)), run(jnp.asarray(other))
        np.testing.assert_allclose(one[:, :5], two[:, :5], atol=1e-5)
        assert np.abs(one[:, 5:] - two[:, 5:]).max() > 1e-3


@pytest.mark.parametrize("select", ["register", "token"])
def test_hard_registers_give_what_the_network_gives(library, select):
    host = made(library, "llama", select=select, context=True)
    # Gates that open at names only, as training makes them.
    gates = host.between.registers.gates["selection"]
    gates.kernel[...] = 10 * host.embedding.embedding[...][4:6].sum(0)[:, None]
    words, _ = asked(np.random.default_rng(2), 4, 6)
    np.testing.assert_allclose(
        host(jnp.asarray(words), 1.0), host.exact(jnp.asarray(words)), atol=1e-5
    )


def test_a_layer_reads_what_tokens_stand_for():
    layer = lsrl.nn.CompiledLayer(lsrl.programs.running_max(4, 32), "gru")
    host = Host(6, 4, kind="gru", width=8, layer=layer, rngs=nnx.Rngs(0))
    means = np.array([3, 1, 0, 2, 0, 1])
    host.between.symbols[...] = 5 * jax.nn.one_hot(means, 4)
    words = np.random.default_rng(0).integers(0, 6, (2, 9))
    maximum = jax.nn.one_hot(np.maximum.accumulate(means[words], axis=1), 4)
    wanted = host.logits(jnp.asarray(words), maximum)
    np.testing.assert_allclose(host.exact(jnp.asarray(words)), wanted, atol=1e-5)
    np.testing.assert_allclose(host(jnp.asarray(words)), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lama"}, "did you mean 'llama'"),
        ({"width": 12}, "multiple of 8"),
        ({"library": None}, "expected the library that calls or arguments are of"),
        ({"arguments": None}, "calls, as library.bind finds them, or arguments"),
        ({"arguments": {9: 0}}, "from 0 to 6"),
        ({"arguments": {0: 9}}, "from 0 to 4"),
        ({"select": "attention"}, "Host: select"),
        ({"vocabulary": 0}, "Host: vocabulary"),
    ],
)
def test_hosts_that_make_no_sense_are_refused(library, options, message):
    given = {"vocabulary": VOCABULARY, "answers": 4, "library": library, "arguments": {0: 0}}
    given |= {"width": 16, "rngs": nnx.Rngs(0)} | options
    with pytest.raises(InputError, match=message):
        Host(given.pop("vocabulary"), given.pop("answers"), **given)


def test_calls_of_another_library_and_floats_are_refused(library):
    host = made(library, "gru")
    with pytest.raises(InputError, match="calls of this library"):
        Host(VOCABULARY, 4, library=Library(library.tables[:1]), calls=host.calls, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="vocabulary of 9 tokens, got one of 7"):
        Host(9, 4, library=library, calls=host.calls, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"expected token ids \(batch, time\), got float32"):
        host(jnp.zeros((1, 3)))
    with pytest.raises(InputError, match="expected a host with a library"):
        Host(3, 2, kind="gru", rngs=nnx.Rngs(0)).inside(jnp.zeros((1, 3), int))


@pytest.mark.parametrize("kind", KINDS)
def test_no_head_outvotes_a_call_that_is_trusted(library, kind):
    host = made(library, kind)
    words = jnp.asarray(asked(np.random.default_rng(3), 4, 9)[0])
    # The second routine is held from the first token on; the head says 0, as loudly as it can.
    gates, values = host.between.registers.gates, host.between.registers.values
    gates["selection"].bias[...] = 10.0
    values["selection"].bias[...] = jnp.array([0.0, 99.0])
    host.head.bias[...] = jnp.array([1e4, 0.0, 0.0, 0.0])
    maximum = np.maximum.accumulate(np.where(words < DIGITS, words, 0), axis=1)
    assert maximum.any()
    np.testing.assert_array_equal(host.exact(words).argmax(-1), maximum)
    # Where it is not trusted, or nothing is held, the head answers.
    host.trust[...] = jnp.array([[9.0], [-1.0]])
    assert not host.exact(words).argmax(-1).any()
    host.trust[...] = jnp.array([[9.0], [9.0]])
    gates["selection"].bias[...] = -10.0
    assert not host.exact(words).argmax(-1).any()
