"""The target deltanet: what its heads hold, exact to the bit, and what they refuse."""

import numpy as np
import pytest

import lsrl
from lsrl import errors
from lsrl.backends import registry

pytestmark = pytest.mark.one_in(2)

TARGET = "deltanet"


def compiled(function, max_length=None):
    return lsrl.compile(lsrl.program(max_length=max_length)(function), TARGET)


def check(model, *inputs):
    """Whole sequences and token by token."""
    expected = model.program.run(*inputs)
    np.testing.assert_array_equal(model.run(*inputs), expected)
    state = model.init_state(batch=len(inputs[0]))
    for t in range(8):
        output, state = model.step(state, *(x[:, t] for x in inputs))
        np.testing.assert_array_equal(output, expected[:, t])


def drawn(size, tokens=200, batch=3, seed=0):
    return np.random.default_rng(seed).integers(size, size=(batch, tokens))


def parity(bit: lsrl.Token(2)):
    """The place of the first of two items, of which every 1 swaps both."""
    return lsrl.swap_state(lsrl.lookup(bit, [[0, 0], [1, 1]]))[0] - 1


def test_parity_holds_at_any_length():
    model = compiled(parity)
    assert model.certificate.exact
    assert model.certificate.tokens is None
    bits = drawn(2, 10_000, batch=1)
    np.testing.assert_array_equal(model.run(bits)[..., 0], np.cumsum(bits, axis=1) % 2)


def test_swaps_of_s5():
    """Every token swaps two of five items, or none; one layer follows any number of them."""
    pairs = [(i, j) for j in range(5) for i in range(j)]
    table = [[0] * 5, *([int(k in pair) for k in range(5)] for pair in pairs)]

    def places(swap: lsrl.Token(11)):
        return lsrl.swap_state(lsrl.lookup(swap, table))

    model = compiled(places)
    assert model.certificate.exact and model.num_layers == 1
    swaps = drawn(11, 1000, batch=4)
    check(model, swaps)
    expected = np.tile(np.arange(5), (len(swaps), 1))
    for now in swaps.T:
        for row, swap in enumerate(now):
            if swap:
                i, j = pairs[swap - 1]
                expected[row] = np.select(
                    [expected[row] == i, expected[row] == j], [j, i], expected[row]
                )
    np.testing.assert_array_equal(model.run(swaps)[:, -1], expected + 1)


def test_what_heads_and_units_make():
    """Delays, holds, decays, products and sums in either order, of both signs."""

    def program(x: lsrl.Token(4)):
        value = lsrl.lookup(x, [[-3], [0], [2], [5]])
        late = lsrl.delay(value, 3)
        held = lsrl.hold(late, lsrl.lookup(x, [[1], [0], [0], [0]]))
        turned = lsrl.linear_state(held, [[-1.0]])
        return lsrl.concat(
            late, held, value * held, lsrl.relu(late - value), lsrl.cumsum(value), turned,
            lsrl.delay(held, 1), lsrl.relu(value) * late,
        )  # fmt: skip

    model = compiled(program, 300)
    assert model.certificate.exact
    check(model, drawn(4))


def test_real_numbers_pass_and_hold_as_they_are():
    """A head forgets what it held before it takes in another number, however far apart they are."""

    def program(x: lsrl.Vector(1, low=-64, high=64, step=2.0**-80), when: lsrl.Token(2)):
        return lsrl.concat(lsrl.delay(x, 2), lsrl.hold(x, when))

    model = compiled(program)
    random = np.random.default_rng(0)
    values = random.uniform(0.5, 1, (2, 60, 1)).astype(np.float32)
    values *= random.choice([-1, 1], values.shape) * 2.0 ** random.integers(-55, 7, values.shape)
    values[:, ::7] = 2.0**-80
    when = random.integers(2, size=(2, 60))
    expected = model.program.run(values, when)
    np.testing.assert_array_equal(model.run(values, when), expected)


@pytest.mark.studies
def test_a_memory_is_one_head_a_read():
    def program(key: lsrl.Token(40), value: lsrl.Token(9), write: lsrl.Token(2)):
        memory = lsrl.memory(key, value - 4, write, cells=40, words=2)
        return memory.read(lsrl.delay(key, 1), 2)

    model = compiled(program)
    assert model.certificate.exact
    check(model, drawn(40), drawn(9, seed=1), drawn(2, seed=2))
    assert model.num_parameters < lsrl.compile(model.program, "griffin").num_parameters


@pytest.mark.parametrize(("least", "exact"), [(0, True), (-(2**24) + 2, False)])
def test_a_write_is_the_difference_to_what_the_cell_holds(least, exact):
    def program(value: lsrl.Token(2)):
        return lsrl.memory(0, lsrl.lookup(value, [[2**24 - 1], [least]]), cells=1).read(0)

    model, values = compiled(program), np.array([[0, 1, 0, 1]])
    assert model.certificate.exact == exact
    assert np.array_equal(model.run(values), model.program.run(values)) == exact


def test_running_sums_are_certified_from_both_sides():
    """Up to 2^23: the state changes by the sum and the one before, which has the other sign."""

    def total(x: lsrl.Token(2)):
        return lsrl.cumsum(lsrl.lookup(x, [[1], [2**20]]))

    ids = np.array([[1] * 8 + [0]])
    assert compiled(total, 8).certificate.exact
    model = compiled(total, 9)
    assert not model.certificate.exact
    outputs, expected = model.run(ids)[0, :, 0], model.program.run(ids)[0, :, 0]
    np.testing.assert_array_equal(outputs[:-1], expected[:-1])
    assert outputs[-1] != expected[-1] == 2**23 + 1


def test_what_is_read_at_once_is_told_apart():
    """The reference class adds up the changes of a state over 64 tokens, in an order of its own."""

    def total(x: lsrl.Token(9)):
        return lsrl.cumsum(x)

    model, backend = compiled(total, 2**20), registry.find(TARGET)
    assert model.certificate.exact
    assert backend.at_once(model.schedule, 2**20) == 2**17 // 8
    assert backend.at_once(model.schedule, 1000) is None


def test_factors_from_minus_one_to_one():
    def decays(x: lsrl.Token(3)):
        return lsrl.linear_state(lsrl.one_hot(x, 3) - 0.5, np.diag([-0.75, 0.5, -0.125]))

    model = compiled(decays)
    ids = drawn(3)
    assert 0 < model.certificate.error_bound < 2e-4
    difference = np.abs(model.run(ids) - model.program.run(ids)).max()
    assert difference <= model.certificate.error_bound


@pytest.mark.parametrize(
    ("transition", "told"),
    [
        ([[-1.5]], ["factor -1.5 is less than -1", "Grazzi et al. 2025", "linear_rnn"]),
        ([[0, -1], [1, 0]], ["coupled", "two reflections", "Siems et al. 2025", "lstm"]),
    ],
)
def test_what_no_head_holds_is_refused(transition, told):
    @lsrl.program(max_length=9)
    def program(x: lsrl.Token(3)):
        wide = lsrl.one_hot(x, 3)[: len(transition)]
        turned = lsrl.linear_state(wide, transition)
        return turned

    with pytest.raises(errors.UnsupportedOpError) as caught:
        lsrl.compile(program, TARGET)
    (offence,) = caught.value.offences
    assert offence.signal == "turned" and "test_deltanet.py" in offence.source
    assert {"linear_rnn", "lstm"} <= set(offence.targets)
    for text in told:
        assert text in str(caught.value)


def test_the_memory_of_a_column_is_an_entry_of_the_state():
    """Setting a held or summed value moves the state with it."""

    def program(x: lsrl.Token(4)):
        held = lsrl.hold(x, lsrl.lookup(x, [[0], [1], [0], [1]]))
        total = lsrl.linear_state(lsrl.lookup(x, [[0], [1], [2], [0]]), [[-1.0]])
        return lsrl.concat(held, total)

    model = lsrl.compile(lsrl.program(max_length=50)(program), TARGET, inspectable=True)
    channels = [channel for channel in model.circuit.channels if channel.memory]
    assert len(channels) == 2
    ids = drawn(4, 20, batch=1)
    check(model, ids)
    state = model.init_state(batch=1)
    for t in range(20):
        _, state = model.step(state, ids[:, t])
    held = np.asarray(state.hidden["delta"])
    expected = model.program.run(ids)[0, -1]
    found = [
        float(np.ravel(held[0, 0])[list(channel.memory)] @ np.array(channel.memory_weights))
        for channel in channels
    ]
    np.testing.assert_array_equal(sorted(found), sorted(expected))


def test_points_beyond_what_a_query_reads_exactly_are_refused():
    def program(x: lsrl.Token(2)):
        return lsrl.swap_state(lsrl.lookup(x, [[0] * 300, [1, 1, *[0] * 298]]))

    with pytest.raises(errors.UnsupportedOpError, match="its 300 points are more than 256"):
        compiled(program)
