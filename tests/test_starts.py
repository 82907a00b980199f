"""States that start late are what they start at, and then what they are from a first token on."""

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.errors import BoundsError, ProgramError, ShapeError

pytestmark = pytest.mark.one_in(2)

LENGTH = 14
NUMBERS = Vector(2, low=-1, high=2, step=1)
SWAPS = [[0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]]
# Each state with what it is before it starts.
STATES = {
    "cumsum": (lambda x, t, on: lsrl.cumsum(x, [1, -2], start=on), (1, -2)),
    "linear_state": (
        lambda x, t, on: lsrl.linear_state(x, [[0.5, 1], [-1, 0]], [4, 6], start=on),
        (4, 6),
    ),
    "position": (lambda x, t, on: lsrl.position(start=on), (-1,)),
    "delay": (lambda x, t, on: lsrl.delay(x, 2, initial=[7, 0], start=on), (7, 0)),
    "no delay": (lambda x, t, on: lsrl.delay(x, 0, initial=7, start=on), (7, 7)),
    "window_sum": (lambda x, t, on: lsrl.window_sum(x, 3, start=on), (0, 0)),
    "latch": (lambda x, t, on: lsrl.latch(x, lsrl.position(start=on) == 2, 9, start=on), (9, 9)),
    "hold": (lambda x, t, on: lsrl.hold(x, x > 0, 9, start=on), (9, 9)),
    "hold with a change": (
        lambda x, t, on: lsrl.hold(
            lsrl.delay(lsrl.cumsum(x, start=on)) + x, lsrl.constant(1), change=x, start=on
        ),
        (0, 0),
    ),
    "selective_state": (lambda x, t, on: lsrl.selective_state(x > 0, x, 9, start=on), (9, 9)),
    "threshold_state": (
        lambda x, t, on: lsrl.threshold_state(x - 0.5, [[1, 0], [2, -1]], [1, 0], start=on),
        (1, 0),
    ),
    "recurrent_state": (
        lambda x, t, on: lsrl.recurrent_state(x, [[1, 0], [1, 0]], high=99, initial=3, start=on),
        (3, 3),
    ),
    "swap_state": (lambda x, t, on: lsrl.swap_state(lsrl.lookup(t, SWAPS), start=on), (1, 2, 3)),
}  # fmt: skip


def programs_of(state, length=LENGTH):
    """The state from a start on, and from the first token on."""

    @lsrl.program(max_length=length)
    def late(x: NUMBERS, t: Token(4), begin: Token(2)):
        return state(x, t, begin)

    @lsrl.program(max_length=length)
    def plain(x: NUMBERS, t: Token(4)):
        return state(x, t, None)

    return late, plain


def drawn(seed):
    """Sequences whose start bit is 1 first at a random token, and at random ones after."""
    rng = np.random.default_rng(seed)
    x, t = rng.integers(-1, 3, (6, LENGTH, 2)), rng.integers(4, size=(6, LENGTH))
    first = np.array([0, 1, 5, LENGTH - 1, LENGTH, rng.integers(LENGTH)])
    begin = rng.integers(2, size=(6, LENGTH)) * (np.arange(LENGTH) > first[:, None])
    begin[np.arange(6)[first < LENGTH], first[first < LENGTH]] = 1
    return x, t, begin, first


@pytest.mark.parametrize("name", STATES)
def test_a_late_state_is_one_that_begins_there(name):
    state, initial = STATES[name]
    late, plain = programs_of(state)
    x, t, begin, first = drawn(len(name))
    got = late.run(x, t, begin)
    for row, start in enumerate(first):
        assert (got[row, :start] == initial).all()
        if start < LENGTH:
            expected = plain.run(x[row, start:], t[row, start:])
            np.testing.assert_array_equal(got[row, start:], expected)
    # It knows as much of itself as one that begins at once, but for what it starts at.
    facts, own = (each.graph.facts[each.graph.output] for each in (late, plain))
    if name not in ("delay", "no delay", "window_sum", "selective_state"):
        assert (facts.low == np.minimum(own.low, initial)).all()
        assert (facts.high == np.maximum(own.high, initial)).all()


@pytest.mark.studies
def test_other_states_start_late_where_they_are_held():
    names = ("latch", "hold", "threshold_state", "recurrent_state")

    @lsrl.program(max_length=LENGTH)
    def late(x: NUMBERS, t: Token(4), begin: Token(2)):
        return tuple(STATES[name][0](x, t, begin) for name in names)

    model = lsrl.compile(late, "lstm")
    assert model.certificate.exact
    *inputs, _ = drawn(1)
    np.testing.assert_array_equal(model.run(*inputs), late.run(*inputs))


@pytest.mark.parametrize(
    "lasting",
    [
        lambda t: lsrl.hold(lsrl.constant(1), t == 1),
        lambda t: lsrl.cumsum(t == 1) > 0,
        lambda t: lsrl.cumsum(t) >= 3,
        lambda t: lsrl.position() >= 5,
        lambda t: 1 - (lsrl.cumsum(-t) > -2),
        lambda t: lsrl.constant(1),
    ],
)
def test_what_stays_1_is_the_start_itself(lasting):
    """No state more is made of a signal that provably never falls."""

    @lsrl.program(max_length=LENGTH)
    def program(t: Token(4)):
        on = lasting(t)
        before = len(on.trace.builder.nodes)
        total = lsrl.cumsum(t, start=on)
        kinds = {type(node.op).__name__ for node in on.trace.builder.nodes[before:]}
        assert kinds <= {"LinearState", "Select", "Constant", "Bound"}
        return on, total

    t = np.random.default_rng(0).integers(4, size=(8, LENGTH))
    got = program.run(t)
    assert (np.diff(got[..., 0], axis=1) >= 0).all()
    np.testing.assert_array_equal(got[..., 1], np.cumsum(t * got[..., 0], axis=1))


@pytest.mark.parametrize(
    "falling",
    [
        lambda t: t == 1,
        lambda t: lsrl.cumsum(t - 1) > 0,
        lambda t: lsrl.cumsum(t) < 3,
        lambda t: lsrl.hold(t == 1, t > 0),
        lambda t: (lsrl.cumsum(t) - 2 * lsrl.position()) >= 0,
    ],
)
def test_what_may_fall_is_made_to_stay(falling):
    @lsrl.program(max_length=LENGTH)
    def program(t: Token(4)):
        on = falling(t)
        return on, lsrl.position(start=on)

    t = np.random.default_rng(0).integers(4, size=(8, LENGTH))
    got = program.run(t)
    np.testing.assert_array_equal(
        got[..., 1], np.cumsum(np.maximum.accumulate(got[..., 0], 1), 1) - 1
    )


def test_without_a_length_a_start_is_held():
    @lsrl.program
    def late(x: NUMBERS, begin: Token(2)):
        return lsrl.linear_state(x, 0, start=begin)

    assert late.run([[1, 2], [2, 1], [2, 2]], [0, 1, 0]).tolist() == [[0, 0], [2, 1], [2, 2]]
    certificate = lsrl.compile(late, "mamba").certificate
    assert certificate.exact and certificate.tokens is None


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (lambda x: lsrl.cumsum(x, start=x[0]), ProgramError, "start= needs signals that are 0 or"),
        (lambda x: lsrl.delay(x, start=x > 0), ShapeError, "start= needs a signal of width 1"),
        (
            lambda x: lsrl.recurrent_state(x, 0, low=2, high=9, start=x[0] > 0),
            BoundsError, "before its start the state is initial=0, expected from low=2 to high=9",
        ),
        (
            lambda x: lsrl.linear_state(x, 0.1, initial=3, start=x[0] > 0),
            ProgramError, "initial - A initial until it starts, which float64 would round",
        ),
    ],
)  # fmt: skip
def test_wrong_starts(state, kind, message):
    with pytest.raises(kind, match=rf"test_starts.py:\d+: .*{message}"):

        @lsrl.program(max_length=LENGTH)
        def wrong(x: NUMBERS):
            return state(x)
