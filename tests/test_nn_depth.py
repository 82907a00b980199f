"""Steps that are repeated: what they compute, when they halt, and what can be learnt of that."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lsrl
from benchmarks.library_depth_tasks import insertion
from lsrl.errors import InputError
from lsrl.nn.halting import by_counter

pytestmark = pytest.mark.one_in(2)

SIZE = 5


@lsrl.program(max_length=1)
def added(a: lsrl.Token(SIZE), b: lsrl.Token(SIZE)):
    return lsrl.concat(1 * b, lsrl.mod(a + b, SIZE))


@lsrl.program(max_length=1)
def halved(x: lsrl.Token(16), state: lsrl.Token(3)):
    half = x // 2
    return lsrl.concat(half, 1 + (half <= 1))


@lsrl.program
def doubled(digit: lsrl.Token(4)) -> lsrl.Token(4):
    return lsrl.mod(digit + lsrl.delay(digit), 4)


@pytest.fixture
def _as_users_have_it():
    """optax counts steps in integers, which it multiplies with floats."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def counted():
    return lsrl.nn.Recur(added, most=20, target="linear_rnn")


def terms(a, b, steps):
    for _ in range(steps):
        a, b = b, (a + b) % SIZE
    return a, b


def one_hots(found):
    return {name: np.asarray(each).argmax(-1).tolist() for name, each in found.items()}


# ---------------------------------------------------------------- what is computed


def test_the_counter_halts_at_its_argument(counted):
    steps = np.array([0, 1, 2, 7, 19, 20])
    a, b = np.array([0, 3, 1, 0, 2, 4]), np.array([1, 4, 1, 1, 0, 2])
    found = counted({"a": jnp.asarray(a), "b": jnp.asarray(b)}, jnp.asarray(steps))
    assert {each.shape for each in found.values()} == {(6, SIZE)}
    wanted = [terms(*each) for each in zip(a, b, steps, strict=True)]
    assert list(zip(*one_hots(found).values(), strict=True)) == wanted
    state = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    assert counted.depth(state, jnp.asarray(steps)).tolist() == steps.tolist()


def test_at_known_contents_the_expected_is_the_exact(counted):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(each) for each in rng.integers(0, SIZE, (2, 20)))
    steps = jnp.asarray(rng.integers(0, 21, 20))
    exact, soft = (run({"a": a, "b": b}, steps) for run in (counted, counted.expected))
    for name in ("a", "b"):
        np.testing.assert_array_equal(exact[name], soft[name])
    np.testing.assert_array_equal(counted.expected_depth({"a": a, "b": b}, steps), steps)


def test_expected_contents_are_those_of_independent_draws(counted):
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(SIZE), (2, 1)).astype(np.float32)
    chances = rng.dirichlet(np.ones(7)).astype(np.float32)
    wanted = np.zeros(SIZE)
    for a in range(SIZE):
        for b in range(SIZE):
            for steps in range(7):
                wanted[terms(a, b, steps)[1]] += p[0, a] * q[0, b] * chances[steps]
    counts = jnp.asarray(np.pad(chances, (0, 21 - 7)))[None]
    state = {"a": jnp.asarray(p), "b": jnp.asarray(q)}
    np.testing.assert_allclose(counted.expected(state, counts)["b"][0], wanted, atol=1e-6)


def test_a_register_halts_where_it_holds_the_symbol():
    halting = lsrl.nn.Halting("compiled", "state", 2)
    deep = lsrl.nn.Recur(halved, halting, most=8, target="linear_rnn")
    x = jnp.arange(16)
    state = {"x": x, "state": jnp.zeros(16, int)}
    depth = [max(1, int(n).bit_length() - 1) for n in range(16)]
    assert deep.depth(state).tolist() == depth
    assert one_hots(deep(state))["x"] == [n >> d for n, d in zip(range(16), depth, strict=True)]
    for name, each in deep.expected(state).items():
        np.testing.assert_array_equal(each, deep(state)[name])
    np.testing.assert_array_equal(deep.expected_depth(state), depth)


def test_a_step_over_sequences_reads_what_it_gave():
    deep = lsrl.nn.Recur(doubled, most=6)
    words = np.random.default_rng(2).integers(0, 4, (4, 7))
    steps, wanted = np.array([0, 1, 3, 6]), []
    for word, each in zip(words, steps, strict=True):
        for _ in range(each):
            word = (word + np.concatenate([[0], word[:-1]])) % 4
        wanted.append(word.tolist())
    found = deep(jnp.asarray(words), jnp.asarray(steps))
    assert found.argmax(-1).tolist() == wanted
    np.testing.assert_array_equal(deep.expected(jnp.asarray(words), jnp.asarray(steps)), found)


def test_a_machine_is_a_step():
    turns = lsrl.nn.MooreTable(np.array([[0, 1], [0, 1]], np.int32), np.array([[1.0], [0.0]]))
    deep = lsrl.nn.Recur(turns, most=3)
    flipped = deep(jnp.array([[0, 1, 1]]), jnp.array([1]))
    assert flipped.argmax(-1).tolist() == [[1, 0, 0]]


@pytest.mark.studies
def test_passes_of_an_insertion_sort_lists():
    keys, size = 3, 6
    deep = lsrl.nn.Recur(insertion(keys), most=size)
    lists = np.random.default_rng(0).integers(0, keys, (5, size))
    cells = np.pad(lists, ((0, 0), (0, size)), constant_values=2 * keys)
    steps = jnp.full(5, size)
    found = deep(jnp.asarray(cells), steps).argmax(-1)
    np.testing.assert_array_equal(found[:, size:] - keys, np.sort(lists, axis=1))
    assert (found[:, :size] == 2 * keys).all()


# ---------------------------------------------------------------- halting


@given(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5), st.sampled_from((2, 9)))
def test_chances_to_halt_are_those_of_one_step_after_the_other(chances, depth):
    most = 9
    found = np.asarray(jax.jit(by_counter, static_argnums=(1, 2))(jnp.array(chances), most, depth))
    for argument in range(most + 1):
        alive = 1.0
        for done in range(depth):
            stops = chances[int(np.clip(argument - done, -2, 2)) + 2]
            assert found[argument, done] == pytest.approx(alive * stops, abs=1e-6)
            alive *= 1 - stops
        assert found[argument, depth] == pytest.approx(alive, abs=1e-6)


def test_the_exact_run_has_the_derivative_of_the_expected(counted):
    rng = np.random.default_rng(3)
    steps, weights = jnp.array([3, 5]), jnp.asarray(rng.normal(size=(2, SIZE)), jnp.float32)
    p, q = (jnp.asarray(rng.dirichlet(np.ones(SIZE), 2), jnp.float32) for _ in range(2))

    def slopes(run):
        loss = jax.grad(lambda p: (run({"a": p, "b": q}, steps)["b"] * weights).sum())
        return jax.jit(loss)(p)

    np.testing.assert_allclose(slopes(counted), slopes(counted.expected), atol=1e-6)
    assert np.abs(slopes(counted)).max() > 0


@pytest.mark.usefixtures("_as_users_have_it")
def test_halting_is_learnt_from_answers():
    """Trained on fewer than 12 steps, it halts at its argument at 200."""
    deep = lsrl.nn.Recur(added, lsrl.nn.Halting("ponder", reach=3), most=200, target="linear_rnn")
    graph, parameters, rest = nnx.split(deep, nnx.Param, ...)
    optimiser, rng = optax.adam(0.1), np.random.default_rng(0)
    start = {"a": jnp.zeros(32, int), "b": jnp.ones(32, int)}

    def loss(parameters, steps, answers):
        said = nnx.merge(graph, parameters, rest).expected(start, steps, most=16)["a"]
        return -jnp.log(jnp.take_along_axis(said, answers[:, None], 1) + 1e-3).mean()

    @jax.jit
    def update(parameters, state, steps, answers):
        changes, state = optimiser.update(jax.grad(loss)(parameters, steps, answers), state)
        return optax.apply_updates(parameters, changes), state

    assert [type(each) for each in jax.tree.leaves(parameters, is_leaf=_is_variable)] == [nnx.Param]
    state = optimiser.init(parameters)
    for _ in range(80):
        steps = rng.integers(0, 12, 32)
        answers = np.array([terms(0, 1, each)[0] for each in steps])
        parameters, state = update(parameters, state, jnp.asarray(steps), jnp.asarray(answers))
    nnx.update(deep, parameters)
    steps = jnp.array([0, 1, 5, 11, 12, 60, 131, 200])
    state = {name: each[:8] for name, each in start.items()}
    assert deep.depth(state, steps).tolist() == steps.tolist()


def _is_variable(leaf):
    return isinstance(leaf, nnx.Variable)


# ---------------------------------------------------------------- what is refused


def vectors(x: lsrl.Vector(2, low=0, high=1, step=1)):
    return x


def one_output(a: lsrl.Token(3), b: lsrl.Token(3)):
    return a + b


def too_large(a: lsrl.Token(3), b: lsrl.Token(3)):
    return lsrl.concat(a + b, 1 * b)


def numbers(digit: lsrl.Token(3)):
    return digit + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lsrl.nn.Recur("step"), "expects a Program"),
        (lambda: lsrl.nn.Recur(lsrl.program(vectors)), "an output for each of its inputs"),
        (lambda: lsrl.nn.Recur(lsrl.program(one_output)), "an output for each of its inputs"),
        (lambda: lsrl.nn.Recur(lsrl.program(too_large)), "output for 'a' must be a symbol from 0"),
        (lambda: lsrl.nn.Recur(lsrl.program(numbers)), "must give a token that it reads"),
        (lambda: lsrl.nn.Recur(added, most=0), "Recur: most must be an int >= 1"),
        (lambda: lsrl.nn.Recur(added, "ponder"), "made by lsrl.nn.Halting"),
        (lambda: lsrl.nn.Recur(added, lsrl.nn.Halting("ponder", "c")), "one of a, b, got 'c'"),
        (lambda: lsrl.nn.Recur(added, lsrl.nn.Halting("compiled", "a", 5)), "from 0 to 4, got 5"),
        (lambda: lsrl.nn.Recur(doubled, lsrl.nn.Halting("ponder", "digit")), "has no registers"),
        (lambda: lsrl.nn.Halting("pondering"), "did you mean 'ponder'"),
        (lambda: lsrl.nn.Halting("compiled", "a"), "needs the symbol"),
        (lambda: lsrl.nn.Halting("ponder", "a", 2), "no other takes one"),
    ],
)
def test_steps_that_make_no_sense_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_states_that_make_no_sense_are_refused(counted):
    ones = jnp.ones(2, int)
    good = {"a": ones, "b": ones}
    for state, steps, message in [
        ({"a": ones}, ones, "expected a state with a, b by name, got a"),
        (ones, ones, "expected a state with a, b by name"),
        (good, None, "expects steps"),
        (good, jnp.array([1, 21]), "ids from 0 to 20, got some from 1 to 21"),
        (good | {"b": jnp.array([1, SIZE])}, ones, "register 'b' must be ids from 0 to 4"),
        (good | {"b": jnp.ones((2, 3))}, ones, "distributions with 5 symbols"),
        (good, jnp.ones(3, int), "share their batch axis"),
    ]:
        with pytest.raises(InputError, match=message):
            counted(state, steps)
    with pytest.raises(InputError, match="expected: most must be an int from 1 to 20"):
        counted.expected(good, ones, most=21)


def test_registers_of_too_many_states_are_refused():
    @lsrl.program(max_length=1)
    def wide(a: lsrl.Token(512), b: lsrl.Token(512)):
        return lsrl.concat(1 * b, 1 * a)

    with pytest.raises(InputError, match="together, got 262,144"):
        lsrl.nn.Recur(wide)
