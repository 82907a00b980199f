"""Memory that is addressed by distributions: at known addresses it is a table."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl.errors import InputError

pytestmark = pytest.mark.one_in(2)

CELLS, SYMBOLS, BATCH, TIME = 4, 3, 2, 7


def table(reads, writes, values, when, initial=0):
    """What a plain table says."""
    held, said = [initial] * CELLS, []
    for read, write, value, done in zip(reads, writes, values, when, strict=True):
        if done:
            held[write] = value
        said.append(held[read])
    return said


def words(most):
    row = st.lists(st.integers(0, most - 1), min_size=TIME, max_size=TIME)
    return st.lists(row, min_size=BATCH, max_size=BATCH)


@cache
def run(initial):
    return jax.jit(lsrl.nn.Memory(CELLS, SYMBOLS, initial))


@settings(deadline=None, max_examples=50)
@given(words(CELLS), words(CELLS), words(SYMBOLS), words(2), st.integers(0, SYMBOLS - 1))
def test_at_known_addresses_it_is_a_table(reads, writes, values, when, initial):
    given = [
        jax.nn.one_hot(jnp.array(each), size)
        for each, size in ((reads, CELLS), (writes, CELLS), (values, SYMBOLS))
    ]
    wanted = [table(*each, initial) for each in zip(reads, writes, values, when, strict=True)]
    said = run(initial)(*given, jnp.array(when, jnp.float32))
    np.testing.assert_array_equal(said, jax.nn.one_hot(jnp.array(wanted), SYMBOLS))


def drawn(seed):
    rng = np.random.default_rng(seed)
    sizes = (CELLS, CELLS, SYMBOLS)
    given = [rng.dirichlet(np.ones(size), (BATCH, TIME)).astype(np.float32) for size in sizes]
    return [jnp.asarray(each) for each in (*given, rng.random((BATCH, TIME)).astype(np.float32))]


def test_sequences_are_writes_and_reads_one_after_the_other():
    memory = lsrl.nn.Memory(CELLS, SYMBOLS, 1)
    reads, writes, values, when = drawn(0)
    said, content = memory(reads, writes, values, when), memory.empty(BATCH)
    for token in range(TIME):
        content = memory.write(content, writes[:, token], values[:, token], when[:, token])
        now = memory.read(content, reads[:, token])
        np.testing.assert_allclose(said[:, token], now, atol=1e-6)
        np.testing.assert_allclose(content.sum(-1), 1, atol=1e-5)


def test_what_is_read_is_the_expected_content():
    """Of addresses and values that are drawn: the mean of the table's answers."""
    memory = lsrl.nn.Memory(2, 2)
    rng = np.random.default_rng(1)
    chances = rng.random((3, 2)).astype(np.float32)  # of the address 1 and the value 1, by token
    address, value = (
        jnp.asarray(np.stack([1 - chances[:, k], chances[:, k]], -1))[None] for k in (0, 1)
    )
    wanted = 0.0
    for places in np.ndindex(2, 2, 2):
        for ones in np.ndindex(2, 2, 2):
            share = np.prod(np.where(places, chances[:, 0], 1 - chances[:, 0]))
            share *= np.prod(np.where(ones, chances[:, 1], 1 - chances[:, 1]))
            held = [0, 0]
            for place, one in zip(places, ones, strict=True):
                held[place] = one
            wanted += share * held[1]
    read = jnp.broadcast_to(jnp.array([0.0, 1.0]), address.shape)
    assert float(memory(read, address, value)[0, -1, 1]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.studies
def test_an_address_is_learnt_from_what_is_read():
    memory = lsrl.nn.Memory(CELLS, SYMBOLS)
    content = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(SYMBOLS), (1, CELLS)))
    wanted, logits = content[0, 2], jnp.zeros((1, CELLS))

    def loss(logits):
        return ((memory.read(content, jax.nn.softmax(logits))[0] - wanted) ** 2).sum()

    slope = jax.jit(jax.grad(loss))
    for _ in range(300):
        logits = logits - 10 * slope(logits)
    assert int(logits.argmax()) == 2
    assert float(loss(logits)) < 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: lsrl.nn.Memory(0, 2), "Memory: cells must be an int >= 1"),
        (lambda m: lsrl.nn.Memory(2, 2, 2), "Memory: initial must be an int from 0 to 1"),
        (lambda m: m.empty(0), "batch must be an int >= 1"),
        (lambda m: m.read(m.empty(1), jnp.zeros((1, 3))), r"address as distributions .* \(…, 4\)"),
        (lambda m: m.read(m.empty(1), jnp.zeros((1, 4), int)), "one_hot makes them of ids"),
        (
            lambda m: m.write(m.empty(1), jnp.zeros((1, 4)), jnp.zeros((2, 3))),
            "of the same batch",
        ),
        (
            lambda m: m(jnp.zeros((1, 2, 4)), jnp.zeros((1, 3, 4)), jnp.zeros((1, 3, 3))),
            "to read and to write",
        ),
    ],
)
def test_what_is_no_memory_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(lsrl.nn.Memory(CELLS, SYMBOLS))
