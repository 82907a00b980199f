"""Runs of many lengths and batch sizes compile few times, and give the same bits; quick steps."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import lsrl
from lsrl.backends import buckets, network, registry
from lsrl.cache import keep_compiled
from lsrl.errors import InputError
from lsrl.programs import majority, running_max, vec2vec
from lsrl.state import State
from tests.plain_target import Plain

pytestmark = pytest.mark.one_in(2)

LENGTHS, BATCHES = range(20, 78, 3), range(1, 11)
MOST = 4
QUICK = ("linear_rnn", "lstm")
OTHERS = ("rnn", "mamba")
RARE = ("gated_linear_rnn", "gru", "mamba2", "griffin", "deltanet")
TARGETS = (
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.studies) for name in OTHERS),
    *(pytest.param(name, marks=pytest.mark.nightly) for name in RARE),
)


@pytest.fixture(scope="module", autouse=True)
def _plain():
    with registry.registered(Plain()):
        yield


@pytest.fixture
def compilations():
    """A list that grows with every compilation of XLA, those that a cache on the disk saved too."""
    seen = []

    def listen(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x + 1)(np.zeros(3, np.float32))
    assert len(seen) == 1  # the event is there, and counts
    seen.clear()
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("target", TARGETS)
def test_few_shapes_are_compiled(target, compilations):
    program = majority(max_length=200)
    model = lsrl.compile(program, target)
    bits = np.random.default_rng(0).integers(0, 2, (10, 77))
    wanted = program.run(bits)
    compilations.clear()
    for length in LENGTHS:
        np.testing.assert_array_equal(model.run(bits[0, :length]), wanted[0, :length])
    assert len(compilations) <= MOST
    compilations.clear()
    for batch in BATCHES:
        np.testing.assert_array_equal(model.run(bits[:batch, :50]), wanted[:batch, :50])
    assert len(compilations) <= MOST


@pytest.mark.parametrize("target", ("linear_rnn", "gru", "plain"))
def test_states_are_of_the_tokens_that_count(target):
    """Filled up or not: what goes on from the state, and the state, are those of single steps."""
    program = running_max(levels=3)
    model = lsrl.compile(program, target)
    values = np.random.default_rng(1).integers(0, 3, (3, 40))
    wanted, state = program.run(values), model.init_state(batch=3)
    for token in range(21):
        _, state = model.step(state, values[:, token])
    outputs, after = model.run(values[:, :21], return_state=True)
    np.testing.assert_array_equal(outputs, wanted[:, :21])
    for own, stepped in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(own, stepped)
    rest, _ = model.run(values[:, 21:], state=after, return_state=True)
    np.testing.assert_array_equal(rest, wanted[:, 21:])


def test_sizes_are_few_and_near():
    assert len({buckets.length(tokens) for tokens in LENGTHS}) == 3
    assert len({buckets.rows(batch, 50) for batch in range(1, 65)}) == 4
    for count in (1, 15, 16, 17, 100, 129, 1000, 4097):
        assert buckets.length(count) >= count
        assert buckets.rows(count, 1) >= count
        assert count <= buckets.rows(count, 10**6) <= 1.125 * count
    assert all(buckets.length(tokens) <= 1.125 * tokens for tokens in range(129, 3000))


def test_filled_sequences_are_zero_and_cut_again():
    filled = buckets.filled(np.ones((2, 3, 4)), 3, 5)
    assert filled.shape == (3, 5, 4)
    assert filled.sum() == 24
    state = {"a": (np.ones((2, 5)), np.ones((2, 1)))}
    more = buckets.with_rows(state, 4)
    assert [leaf.sum() for leaf in jax.tree.leaves(more)] == [10, 2]
    back = buckets.with_rows(more, 2)
    assert all((leaf == 1).all() and len(leaf) == 2 for leaf in jax.tree.leaves(back))


# ---------------------------------------------------------------- steps


def test_a_step_takes_plain_tokens_as_any_others():
    """The quick check and the general one let the same things pass, and refuse the same."""
    model = lsrl.compile(majority(), "linear_rnn")
    one, two = model.init_state(), model.init_state(batch=2)
    wanted, _ = model.step(one, np.asarray([1])[0:1].reshape(()))
    for plain in (1, np.int64(1), np.int32(1)):
        np.testing.assert_array_equal(model.step(one, plain)[0], wanted)
    several, _ = model.step(two, [1, 0])
    for dtype in (np.int64, np.int32, np.uint8, ">i4"):
        np.testing.assert_array_equal(model.step(two, np.array([1, 0], dtype))[0], several)
    for bad in (2, -1, np.int64(2), True, 1.0, "1", None, np.array([0, 1])):
        with pytest.raises(InputError):
            model.step(one, bad)
    for bad in ([0, 2], [0, -1], [0], [0.0, 1.0], [True, False], 1):
        with pytest.raises(InputError):
            model.step(two, np.array(bad))
    with pytest.raises(InputError, match="1 input"):
        model.step(one, 0, 1)
    # A state that the model gave needs no look, but its number of tokens does.
    _, state = model.step(one, 1)
    with pytest.raises(InputError, match="max_length"):
        model.step(State(10**9, state.hidden, None), 1)
    with pytest.raises(InputError, match="state is of another model"):
        model.step(State(state.position, state.hidden, 2), np.array([0, 1]))
    other = lsrl.compile(running_max(), "linear_rnn")
    with pytest.raises(InputError, match="state is of another model"):
        other.step(state, 1)


def test_a_step_takes_plain_vectors_as_any_others():
    model = lsrl.compile(vec2vec(), "linear_rnn")
    state = model.init_state()
    vector = np.array([0.25, 0.0, 0.0])
    wanted, _ = model.step(state, vector.tolist())
    np.testing.assert_array_equal(model.step(state, vector)[0], wanted)
    for bad in (np.nan, np.inf, -1e9):
        with pytest.raises(InputError):
            model.step(state, np.array([bad, 0.0, 0.0]))
    with pytest.raises(InputError):
        model.step(state, np.zeros(2))


# ---------------------------------------------------------------- jax's cache on the disk


@pytest.fixture
def own_settings():
    """What `keep_compiled` sets, put back afterwards."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_what_jax_compiles_is_kept_on_request(tmp_path, own_settings):
    model = lsrl.compile(majority(), "linear_rnn")
    state = model.init_state()
    # What was compiled before does not keep jax from keeping more.
    wanted, _ = model.step(state, 1, runner="jax")
    assert keep_compiled(tmp_path / "kept") == tmp_path / "kept"
    hits = []

    def listen(name, **_):
        hits.append(name == "/jax/compilation_cache/cache_hits")

    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):
            jax.clear_caches()
            network._jitted.cache_clear()
            hits.clear()
            np.testing.assert_array_equal(model.step(state, 1, runner="jax")[0], wanted)
            assert any(path.is_file() for path in (tmp_path / "kept").iterdir())
    finally:
        jax.monitoring.unregister_event_listener(listen)
    assert sum(hits) == 1
