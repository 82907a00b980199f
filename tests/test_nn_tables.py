"""Routines as finite machines, against the reference evaluator."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsrl
from lsrl.errors import InputError, NoMachineError
from lsrl.nn import MooreTable, routine_table
from lsrl.nn.modes import MOST_ABREAST, reached

pytestmark = pytest.mark.one_in(2)

P = lsrl.programs


def all_words(symbols, length):
    return np.array([*itertools.product(range(symbols), repeat=length)])


@pytest.mark.parametrize("seed", range(6))
def test_a_table_is_the_smallest_machine_of_a_program(seed):
    rng = np.random.default_rng(seed)
    states, symbols = rng.integers(2, 6), rng.integers(1, 4)
    program = P.dfa(rng.integers(0, states, (states, symbols)).tolist())
    table = routine_table(program, tokens=32)
    assert table.states <= states
    words = all_words(symbols, 6)
    np.testing.assert_array_equal(table.run(words), program.run(words))
    # No two states do the same: what is said behind them differs after some word.
    behind = [
        table.run(np.concatenate([np.tile(word, (len(words), 1)), words], axis=1))[:, len(word) :]
        for word in access(table)
    ]
    own = [table.outputs[state].tobytes() if led else b"" for state, led in led_to(table)]
    assert len({(a, b.tobytes()) for a, b in zip(own, behind, strict=True)}) == table.states


def access(table):
    found = {table.initial: ()}
    for state in (pending := [table.initial]):
        for symbol, after in enumerate(table.follows[state].tolist()):
            if after not in found:
                found[after] = (*found[state], symbol)
                pending.append(after)
    return [np.array(found[state], int) for state in range(table.states)]


def led_to(table):
    return [(state, (table.follows == state).any()) for state in range(table.states)]


def test_states_that_random_words_do_not_reach_are_found():
    """Brackets of two kinds, down to four: each stack is a state, and so is what is spoilt."""
    table = routine_table(P.dyck(2, 3, 200))
    assert table.states == 1 + 2 + 4 + 8 + 1


# States of machines that go abreast, and of such as go by themselves.
@pytest.mark.parametrize("sizes", [(2, 5, 1), (4, MOST_ABREAST - 3, 2, 3), (MOST_ABREAST + 1, 3)])
def test_chances_of_states_are_those_of_all_words(sizes):
    """Quarters and their products are exact, so the chances and their derivatives are equal."""
    rng, symbols, time = np.random.default_rng(sum(sizes)), 3, 5
    tables = [
        MooreTable(
            rng.integers(0, size, (size, symbols)).astype(np.int32),
            np.zeros((size, 1)),
            int(rng.integers(size)),
        )
        for size in sizes
    ]
    p = rng.multinomial(4, np.ones(symbols) / symbols, (2, time)) / 4
    weights = rng.integers(-3, 4, (2, time, sum(sizes)))

    def total(p):
        found = reached(tables, p)
        return (found * weights.astype(np.float32)).sum(), found

    slopes, found = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(p, jnp.float32))
    words = all_words(symbols, time)
    states = np.concatenate(
        [np.eye(table.states)[table.states_after(words)] for table in tables], axis=-1
    )
    each = p[:, np.arange(time), words]  # (batch, words, time), the chance of each token
    np.testing.assert_array_equal(found, np.einsum("bw,wts->bts", each.prod(-1), states))
    for place in range(time):
        others = np.delete(each, place, axis=2).prod(-1)
        behind = np.einsum("bts,wts->bw", weights[:, place:], states[:, place:])
        for symbol in range(symbols):
            mine = words[:, place] == symbol
            wanted = (others * behind)[:, mine].sum(1)
            np.testing.assert_array_equal(slopes[:, place, symbol], wanted)


def test_what_is_no_machine_is_refused():
    with pytest.raises(NoMachineError, match=r"majority: expected .* at most 64 states"):
        routine_table(P.majority(200))
    with pytest.raises(NoMachineError, match="at most 3 states"):
        routine_table(P.modular_sum(4), most=3)
    with pytest.raises(NoMachineError):
        routine_table(P.counting_sort(4, 3))
    with pytest.raises(InputError, match=r"one input lsrl\.Token"):
        routine_table(P.gradient_step())
    with pytest.raises(InputError, match="no routine of every word"):
        routine_table(promising())
    with pytest.raises(InputError, match="no symbols"):
        _ = routine_table(halves()).ids


def promising():
    @lsrl.program(max_length=16)
    def promising(bit: lsrl.Token(2)):
        return lsrl.bound(lsrl.cumsum(bit), 0, 3)

    return promising


def halves():
    @lsrl.program(max_length=16)
    def halves(bit: lsrl.Token(2)):
        return bit / 2

    return halves
