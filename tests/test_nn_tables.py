"""Routines as finite machines, against the reference evaluator."""

import itertools

import numpy as np
import pytest

import lsrl
from lsrl.errors import InputError, NoMachineError
from lsrl.nn import routine_table

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
