"""The linear network against a plain numpy loop: every structure, dtype, chunk and mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_array_equal
from scipy import sparse

from lsrl.backends.linear import network as linear_network
from lsrl.backends.linear import recurrence, tiles
from lsrl.backends.linear.cell import apply_sequence, apply_step, initial_state
from lsrl.backends.linear.decomposition import decompose
from lsrl.backends.linear.network import LayerWeights, LinearNetwork, NetworkWeights
from lsrl.backends.linear.plan import prepare
from lsrl.errors import SelfTestError, ShapeError
from tests.grids import studied

pytestmark = pytest.mark.one_in(3)


def make_layer(
    input_kernel, recurrent_kernel, bias=None, initial=None, relu=None, left=None, right=None
):
    hidden = len(recurrent_kernel)
    left = np.arange(hidden) if left is None else np.asarray(left)
    return LayerWeights(
        np.asarray(input_kernel, float),
        np.asarray(recurrent_kernel, float),
        np.zeros(hidden) if bias is None else np.asarray(bias, float),
        np.zeros(hidden) if initial is None else np.asarray(initial, float),
        np.zeros(len(left), bool) if relu is None else np.asarray(relu, bool),
        left,
        np.full(len(left), -1) if right is None else np.asarray(right),
    )


def make_network(*layers, features=None, output_kernel=None):
    """One vector input that goes straight to the first layer, and the last layer's outputs."""
    features = layers[0].input_kernel.shape[0]
    outputs = len(layers[-1].left)
    kernel = np.eye(outputs) if output_kernel is None else output_kernel
    return NetworkWeights(
        (None,), (np.eye(features),), np.zeros(features), layers, kernel, np.zeros(kernel.shape[1])
    )


def loop(weights, inputs, number=np.int64):
    """Run the cell by its definition."""
    batch, tokens = inputs[0].shape[:2]
    as_number = lambda values: np.asarray(values).astype(number)  # noqa: E731
    states = [np.tile(as_number(layer.initial_state), (batch, 1)) for layer in weights.layers]
    rows = []
    for t in range(tokens):
        x = np.tile(as_number(weights.input_bias), (batch, 1))
        for table, kernel, signal in zip(weights.tables, weights.kernels, inputs, strict=True):
            if table is not None:
                x = x + as_number(table)[signal[:, t]]
            if kernel is not None:
                x = x + as_number(signal[:, t]) @ as_number(kernel)
        for i, layer in enumerate(weights.layers):
            recurrent = as_number(layer.recurrent_kernel)
            h = x @ as_number(layer.input_kernel) + states[i] @ recurrent + as_number(layer.bias)
            states[i] = h
            x = np.where(layer.right >= 0, h[:, layer.left] * h[:, layer.right], h[:, layer.left])
            x = np.where(layer.relu, np.maximum(x, 0), x)
        rows.append(x @ as_number(weights.output_kernel) + as_number(weights.output_bias))
    return np.stack(rows, 1)


def run_steps(network, inputs):
    state = network.init_state((inputs[0].shape[0],))
    rows = []
    for t in range(inputs[0].shape[1]):
        row, state = network.step(state, tuple(signal[:, t] for signal in inputs))
        rows.append(np.asarray(row))
    return np.stack(rows, 1)


def assert_exact(weights, inputs, dtype="float32", chunks=(None, 5)):
    expected = loop(weights, inputs)
    network = LinearNetwork(weights, dtype)
    for chunk in chunks:
        got = network.run(inputs, chunk=chunk)
        assert got.dtype == jnp.dtype(dtype)
        assert_array_equal(got.astype(np.float64), expected, err_msg=f"chunk={chunk}")
    if inputs[0].shape[1] <= 100:
        assert_array_equal(run_steps(network, inputs).astype(np.float64), expected)


def vectors(seed, batch, tokens, width, low=-2, high=3):
    values = np.random.default_rng(seed).integers(low, high, (batch, tokens, width))
    return (values.astype(np.float64),)


def ring(n, weights=None):
    kernel = np.zeros((n, n))
    kernel[np.arange(n), (np.arange(n) + 1) % n] = 1 if weights is None else weights
    return kernel


def register(n):
    return np.eye(n, k=1)


# ---------------------------------------------------------------- closed forms


def cut(values, segments):
    """(r, b, time) to (r, t, s, b)."""
    rows, batch, time = values.shape
    turned = values.reshape(rows, batch, segments, time // segments)
    return np.ascontiguousarray(turned.transpose(0, 3, 2, 1))


def uncut(values):
    """(r, t, s, b) to (r, b, time)."""
    turned = np.asarray(values).transpose(0, 3, 2, 1)
    return turned.reshape(*turned.shape[:2], -1)


# Segments, tokens of each.
CUTS = [(1, 17), (3, 100), (40, 7)]


@pytest.mark.parametrize(("segments", "tokens"), CUTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_ring_sum(segments, tokens, sign):
    rng = np.random.default_rng(0)
    inputs = rng.integers(-3, 4, (2, 3, segments * tokens)).astype(np.float32)
    strides = [stride for stride in (1, 2, 3, 7, 40) if stride <= tokens or segments == 1]
    pasts = [rng.integers(-3, 4, (2, stride, 3)).astype(np.float32) for stride in strides]
    sums = jax.jit(
        lambda x, certain: [recurrence.ring_sum(x, past, sign, certain) for past in pasts]
    )
    for past, got in zip(pasts, sums(cut(inputs, segments), True), strict=True):
        stride = past.shape[1]
        expected = np.concatenate([past.transpose(0, 2, 1), inputs], axis=-1)
        for t in range(stride, expected.shape[-1]):
            expected[..., t] += sign * expected[..., t - stride]
        assert_array_equal(
            uncut(got[:, stride:]), expected[..., stride:], err_msg=f"stride={stride}"
        )
        for segment in range(segments):
            before = expected[..., segment * tokens : segment * tokens + stride]
            assert_array_equal(got[:, :stride, segment], before.transpose(0, 2, 1))


@pytest.mark.parametrize(("segments", "tokens"), CUTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_rotation(segments, tokens, sign):
    rng = np.random.default_rng(1)
    inputs = rng.integers(-3, 4, (5, 2, segments * tokens)).astype(np.float32)
    state = rng.integers(-3, 4, (5, 2)).astype(np.float32)
    got = jax.jit(lambda x: recurrence.rotation(x, state, sign))(cut(inputs, segments))
    expected = np.empty_like(inputs)
    for t in range(inputs.shape[-1]):
        state = np.concatenate([sign * state[-1:], state[:-1]]) + inputs[..., t]
        expected[..., t] = state
    assert_array_equal(uncut(got), expected)


@pytest.mark.parametrize(("segments", "tokens"), [*CUTS, (20, 250)])
def test_decaying_sum(segments, tokens):
    rng = np.random.default_rng(0)
    inputs = rng.integers(-3, 4, (4, 2, segments * tokens)).astype(np.float32)
    decay = np.array([0.5, -0.9, 0.999, 1.0004])
    state = rng.integers(-3, 4, (4, 2)).astype(np.float32)
    powers = recurrence.decay_powers(decay).astype(np.float32)
    got = jax.jit(recurrence.decaying_sum)(cut(inputs, segments), state, powers)
    expected = np.concatenate([state[..., None], inputs], axis=-1).astype(np.float64)
    for t in range(1, expected.shape[-1]):
        expected[..., t] += decay[:, None] * expected[..., t - 1]
    assert relative_error(uncut(got), expected[..., 1:]) < 1e-4


def test_window_sum():
    values = np.random.default_rng(0).integers(-3, 4, (2, 50, 3)).astype(np.float32)
    spans = (1, 2, 3, 7, 8, 31, 50)
    for span, got in zip(
        spans, jax.jit(lambda x: [recurrence.window_sum(x, n) for n in spans])(values), strict=True
    ):
        windows = np.lib.stride_tricks.sliding_window_view(values, span, axis=1)
        assert_array_equal(got, windows.sum(-1), err_msg=f"span={span}")


def test_a_decay_meets_no_overflow():
    """A state that was never driven stays 0, however many tokens the powers span."""
    decay = np.array([recurrence.DECAY_LIMIT, 1e-30, -recurrence.DECAY_LIMIT])
    powers = jnp.asarray(recurrence.decay_powers(decay), np.float32)
    assert np.isfinite(powers).all()
    inputs = np.zeros((3, 1, recurrence.MOST_TOKENS), np.float32)
    inputs[..., -1] = 1
    start = np.zeros((3, 1), np.float32)
    got = jax.jit(recurrence.decaying_sum)(cut(inputs, 256), start, powers)
    assert_array_equal(uncut(got), inputs)


def kinds(kernel, driven=None, varying=None):
    hidden = len(kernel)
    driven = np.ones(hidden, bool) if driven is None else np.asarray(driven, bool)
    varying = driven if varying is None else np.asarray(varying, bool)
    parts = decompose(sparse.csr_array(kernel), driven, np.zeros(hidden, bool), varying)
    return [(group.kind, group.members.shape) for group in parts.groups]


def test_structures_are_recognised():
    block = np.zeros((12, 12))
    block[0, 0] = 1  # a sum
    block[1, 1] = 0.5  # a decay
    block[2, 2] = 2  # too fast for powers
    block[3:6, 3:6] = register(3)
    block[6:9, 6:9] = ring(3)
    block[9:12, 9:12] = [[1, 1, 0], [0, 1, 1], [1, 0, 0]]
    driven = [1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1]
    assert sorted(kinds(block, driven)) == [
        ("decay", (1, 1)),
        ("feed", (1, 3)),
        ("in_order", (4, 1)),  # the fast unit and the knot, one loop
        ("ring", (1, 1)),
        ("ring", (1, 3)),
    ]


def test_a_ring_with_two_entrances_is_rotated():
    assert kinds(ring(5), [1, 0, 1, 0, 0]) == [("rotation", (5, 1))]
    assert kinds(ring(5), [1, 0, 0, 0, 0]) == [("ring", (1, 5))]


def test_units_alike_run_together():
    assert kinds(np.eye(100)) == [("ring", (100, 1))]
    assert kinds(np.zeros((100, 100))) == [("feed", (100, 1))]


def test_a_tangle_runs_in_order():
    kernel = np.triu(np.random.default_rng(0).normal(size=(60, 60)))
    assert kinds(kernel) == [("in_order", (60, 1))]


# ---------------------------------------------------------------- one layer, every structure


def structures():
    """Kernels with the units that inputs drive."""
    rng = np.random.default_rng(7)
    yield "none", np.zeros((3, 3)), [0, 1, 2]
    yield "sums", np.diag([1.0, -1.0, 1.0]), [0, 1, 2]
    for n in (1, 2, 3, 7, 200):
        yield f"ring {n}", ring(n), [n // 2]
        yield f"signed ring {n}", ring(n, rng.choice([-1, 1], n)), [0]
        yield f"odd ring {n}", ring(n, np.r_[-1, np.ones(n - 1)]), [n - 1]
        yield f"undriven ring {n}", ring(n), []
        yield f"undriven signed ring {n}", ring(n, np.r_[-1, np.ones(n - 1)]), []
    for n in (3, 7, 20):
        yield f"rotation {n}", ring(n), [0, n - 1]
        yield f"full rotation {n}", ring(n), list(range(n))
        yield f"signed rotation {n}", ring(n, rng.choice([-1, 1], n)), list(range(n))
        yield f"odd rotation {n}", ring(n, np.r_[-1, np.ones(n - 1)]), list(range(n))
        yield f"permutation {n}", np.eye(n)[rng.permutation(n)], list(range(n))
    yield "register 200", register(200), [0]
    yield "signed register", np.diag([1.0, -1, -1, 1, -1], k=1), [0]
    yield "register of steps", np.diag([2.0, 4, -6, 2, 1], k=1), [0]
    yield "register driven twice", register(6), [0, 3]
    yield "registers and a tree", np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]), [0]
    yield "sum of a sum", np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]]), [0]
    coupled = np.zeros((12, 12))
    coupled[:4, :4] = ring(4)
    coupled[4:8, 4:8] = register(4)
    coupled[2, 8], coupled[7, 8] = 1, -1  # reads the ring and the register
    coupled[8, 9], coupled[9, 9] = 1, 1  # and is summed
    coupled[9, 10], coupled[3, 11], coupled[11, 11] = 2, 1, -1
    yield "coupled", coupled, [0, 4, 10]
    window = np.zeros((6, 6))
    window[:5, :5] = register(5)
    window[5, 5], window[4, 5] = 1, -1
    yield "running window", window, [0, 5]
    window = np.zeros((9, 9))
    window[:8, :8] = register(8) * np.array([1, 1, 1, -1, 1, 1, 1, 1])
    window[:7, 8] = [1, 1, 1, 1, 2, 2, 2]
    yield "window sums", window, [0, 8]
    yield "ring into ring", np.block([[ring(3), np.eye(3)[[0]].T @ np.eye(3)[[1]]],
                                      [np.zeros((3, 3)), ring(3)]]), [0]  # fmt: skip


TABLE = {name: (kernel, driven) for name, kernel, driven in structures()}


def structured_layer(kernel, driven, seed):
    hidden = len(kernel)
    rng = np.random.default_rng(seed)
    input_kernel = np.zeros((2, hidden))
    input_kernel[:, driven] = rng.integers(-1, 2, (2, len(driven)))
    input_kernel[0, driven] += input_kernel[:, driven].any(0) == 0
    bias = np.zeros(hidden)
    bias[driven] = rng.integers(-1, 2, len(driven))
    initial = rng.integers(-1, 2, hidden)
    return make_layer(input_kernel, kernel, bias, initial, relu=np.arange(hidden) % 2 == 1)


@pytest.mark.parametrize("name", TABLE)
def test_a_structure_is_exact(name):
    layer = structured_layer(*TABLE[name], len(name))
    inputs = vectors(0, 2, 60, 2)
    expected = loop(make_network(layer), inputs)
    assert_array_equal(LinearNetwork(make_network(layer)).run(inputs, chunk=7), expected)


@pytest.mark.parametrize(
    ("dtype", "family", "batch", "tokens", "largest", "chunks"),
    [
        ("float32", 0, 1, 1, 2, (None,)),
        ("float32", 0, 3, 100, 2, (None, 23)),
        ("float32", 1, 3, 100, 2, (None,)),
        ("float32", 2, 3, 100, 2, (None,)),
        ("float64", 0, 2, 50, 10000, (None,)),
        ("bfloat16", 1, 2, 6, 1, (4,)),
    ],
)
def test_structures_together_are_exact(dtype, family, batch, tokens, largest, chunks):
    """In one layer, so groups of several structures; `test_a_structure_is_exact` has chunks."""
    names = list(TABLE)[family::3]
    kernel = sparse.block_diag([TABLE[name][0] for name in names]).toarray()
    starts = np.cumsum([0, *(len(TABLE[name][0]) for name in names)])
    driven = [
        start + unit for start, name in zip(starts, names, strict=False) for unit in TABLE[name][1]
    ]
    weights = make_network(structured_layer(kernel, driven, family))
    assert_exact(weights, vectors(1, batch, tokens, 2, -largest, largest + 1), dtype, chunks)


@pytest.mark.parametrize("seed", studied(range(8), 0, 1, 2, 3))
def test_random_sparse_kernels_are_exact(seed):
    """All structures mixed: whatever the decomposition makes of them, the sums are the same."""
    rng = np.random.default_rng(seed)
    hidden = 12
    kernel = np.zeros((hidden, hidden))
    for _ in range(rng.integers(3, 16)):
        kernel[rng.integers(hidden), rng.integers(hidden)] = rng.choice([-1, 1])
    layer = make_layer(
        rng.integers(-1, 2, (2, hidden)) * (rng.random(hidden) < 0.5),
        kernel,
        rng.integers(-1, 2, hidden) * (rng.random(hidden) < 0.3),
        rng.integers(-1, 2, hidden),
        rng.random(hidden) < 0.5,
    )
    assert_exact(make_network(layer), vectors(seed, 3, 9, 2, -1, 2), "float64", (4,))


# ---------------------------------------------------------------- networks


def random_network(seed, inputs=1, hidden=9, depth=5, products=False):
    """Several layers: sums, registers, rings and plain units, with few weights a column."""
    rng = np.random.default_rng(seed)
    features = 4
    layers, width = [], features
    for number in range(depth):
        kernel = np.zeros((hidden, hidden))
        kernel[0, 0] = 1
        kernel[1:4, 1:4] = register(3)
        kernel[4:7, 4:7] = ring(3)
        input_kernel = np.zeros((width, hidden))
        for unit in (0, 1, 7, 8, *((4,) if number % 2 else ())):
            input_kernel[rng.choice(width, min(2, width), replace=False), unit] = 1
        outputs = rng.integers(0, hidden, 7)
        partner = np.full(7, -1)
        if products:
            partner[:2] = rng.integers(0, hidden, 2)
        # Flags keep the numbers small: relu(1 - |x|) and the like.
        layers.append(
            make_layer(
                input_kernel * rng.choice([-1, 1], input_kernel.shape),
                kernel,
                rng.integers(-1, 2, hidden) * (np.arange(hidden) >= 7),
                np.eye(hidden)[4],
                rng.random(7) < 0.7,
                outputs,
                partner,
            )
        )
        width = 7
    tables = tuple(
        rng.integers(-1, 2, (5, features)) if n % 2 == 0 else None for n in range(inputs)
    )
    kernels = tuple(
        None if n % 2 == 0 else rng.integers(-1, 2, (3, features)) for n in range(inputs)
    )
    return NetworkWeights(
        tables,
        kernels,
        rng.integers(-1, 2, features).astype(float),
        tuple(layers),
        rng.integers(-2, 3, (width, 2)).astype(float),
        np.array([0.0, 3.0]),
    )


def signals(seed, inputs, batch, tokens):
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(0, 5, (batch, tokens))
        if n % 2 == 0
        else rng.integers(-2, 3, (batch, tokens, 3))
        for n in range(inputs)
    )


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("inputs", [1, 3])
def test_networks_are_exact(inputs, products):
    depth = 2 if products else 3
    weights = random_network(inputs, inputs, depth=depth, products=products)
    assert_exact(weights, signals(0, inputs, 1, 20), "float64", (1,))
    assert_exact(weights, signals(0, inputs, 5, 33), "float64", (None, 7))


def test_long_and_wide_batches_are_exact():
    weights = random_network(0, depth=2)
    assert_exact(weights, signals(1, 1, 300, 70), chunks=(None, 64))
    assert_exact(weights, signals(2, 1, 1, 3000), "float64", chunks=(None, 1000))


@pytest.mark.parametrize("hidden", [60, 300])
def test_a_wide_layer_is_exact(hidden):
    """Wide layers gather, and mix the few full columns that they have."""
    rng = np.random.default_rng(0)
    input_kernel = np.zeros((hidden, hidden))
    for unit in range(hidden):
        input_kernel[rng.choice(hidden, 2), unit] = rng.choice([-1, 1])
    input_kernel[:, 5] = 1
    first = make_layer(np.ones((1, hidden)), np.eye(hidden), np.arange(hidden) % 7)
    second = make_layer(input_kernel, register(hidden) * (np.arange(hidden) % 9 > 2))
    assert_exact(make_network(first, second), vectors(0, 2, 30, 1), chunks=(None, 8))


def test_many_taps_of_one_register():
    layer = make_layer(np.eye(1, 50), register(50))
    total = make_layer(np.arange(50)[:, None], np.zeros((1, 1)))
    assert_exact(make_network(layer, total), vectors(0, 2, 80, 1))


@pytest.mark.parametrize("next_layer", [False, True])
def test_taps_that_are_read_alike_are_one_row(next_layer):
    """A window of a register is read as one sum; a ReLU, another weight or a product ends it."""
    size = 40
    relu, right = np.zeros(size, bool), np.full(size, -1)
    relu[7], right[20] = True, 3
    first = make_layer(np.eye(1, size), register(size), relu=relu, right=right)
    weights = np.ones((size, 2))
    weights[30:, 0] = 3
    weights[:, 1] = -1
    if next_layer:
        weights = make_network(first, make_layer(weights, np.zeros((2, 2))))
    else:
        weights = make_network(first, output_kernel=weights)
    network = LinearNetwork(weights, "float32")
    plan = prepare(network.parameters(), network.structure, True).plan.layers[0]
    outputs = plan.varying_outputs
    spans = sorted(piece.span for piece in outputs.plain)
    # 0 to 6, the ReLU of 7, 8 to 19, the product at 20, 21 to 29, and from 30 on.
    assert spans == [1, 7, 9, 10, 12]
    assert sum(len(piece.rows) for piece in (*outputs.plain, *outputs.left)) == 6
    assert_exact(weights, vectors(0, 2, 90, 1))


def test_what_is_not_read_changes_nothing():
    layer = make_layer([[1, 1]], np.eye(2), left=[0, 1, 0], relu=[1, 0, 1])
    weights = make_network(layer, output_kernel=np.array([[1.0], [0.0], [0.0]]))
    assert_exact(weights, vectors(0, 2, 10, 1))
    unread = NetworkWeights(
        (None, None), (None, weights.kernels[0]), *list(vars(weights).values())[2:]
    )
    tokens = np.zeros((2, 10), int)
    network = LinearNetwork(unread)
    assert_array_equal(
        network.run((tokens, *vectors(0, 2, 10, 1))), loop(weights, vectors(0, 2, 10, 1))
    )


def test_outputs_without_inputs():
    """Nothing varies: a counter and a ring, the same for every sequence."""
    layer = make_layer(np.zeros((1, 4)), np.block([[np.eye(1), np.zeros((1, 3))],
                       [np.zeros((3, 1)), ring(3)]]), [1, 0, 0, 0], [5, 1, 2, 3])  # fmt: skip
    assert_exact(make_network(layer), vectors(0, 4, 40, 1))


def test_counters():
    """Sums of the same number at every token, some too large to be multiplied, and of inputs."""
    kernel = np.zeros((1, 6))
    kernel[0, 5] = 2
    layer = make_layer(kernel, np.eye(6), [1, -3, 64, 65, 0, 1], [0, 7, -2, 1, 1, 3])
    for batch, tokens in ((1, 500), (3, 70)):
        assert_exact(make_network(layer), vectors(0, batch, tokens, 1))


@pytest.mark.parametrize("seed", studied(range(3), 0))
def test_chunks_as_accelerators_run_them(seed, monkeypatch):
    """Arrays in the order of users, which XLA turns over, in segments."""
    monkeypatch.setattr(tiles.xla, "on_cpu", lambda: False)
    weights = random_network(seed, inputs=2, depth=2)
    assert_exact(weights, signals(seed, 2, 2, 90))
    assert_exact(weights, signals(seed, 2, 1, 700))


def test_batches_on_several_threads(monkeypatch):
    weights = random_network(0, depth=2)
    inputs = signals(1, 1, 37, 60)
    network = LinearNetwork(weights, "float64")
    alone, states = network.run_with_state(inputs)
    monkeypatch.setattr(tiles, "_cores", lambda: 8)
    monkeypatch.setattr(tiles, "_LEAST_SHARED", 1)
    run_rows = []
    compiled = tiles._compiled

    def recorded(*settings):
        run_rows.append(settings[1].batch)
        return compiled(*settings)

    monkeypatch.setattr(tiles, "_compiled", recorded)
    tiles._tile.cache_clear()
    try:
        together, same = network.run_with_state(inputs)
    finally:
        tiles._tile.cache_clear()
    assert run_rows == [10]
    assert_array_equal(alone, loop(weights, inputs))
    assert_array_equal(together, alone)
    for one, other in zip(same, states, strict=True):
        assert_array_equal(one, other)


def test_no_sequences_and_no_tokens():
    network = LinearNetwork(random_network(0))
    assert network.run((np.zeros((0, 5), int),)).shape == (0, 5, 2)
    assert network.run((np.zeros((3, 0), int),)).shape == (3, 0, 2)


def test_run_goes_on_from_a_state():
    weights = random_network(3, depth=3)
    inputs = signals(0, 1, 3, 40)
    expected = loop(weights, inputs)
    network = LinearNetwork(weights, "float64")
    first, state = network.run_with_state((inputs[0][:, :13],))
    second, state = network.run_with_state((inputs[0][:, 13:30],), chunk=6, state=state)
    assert_array_equal(np.concatenate([first, second], 1), expected[:, :30])
    for t in range(30, 40):
        row, state = network.step(state, (inputs[0][:, t],))
        assert_array_equal(row, expected[:, t])


# ---------------------------------------------------------------- inexact numbers


def relative_error(got, expected):
    return np.abs(np.asarray(got, np.float64) - expected).max() / np.abs(expected).max()


def test_decays_and_general_matrices_are_close():
    rng = np.random.default_rng(0)
    kernel = np.zeros((9, 9))
    kernel[np.arange(4), np.arange(4)] = [0.5, -0.99, 0.3, 0.999]
    kernel[0, 1] = 0.7
    kernel[4:7, 4:7] = rng.normal(size=(3, 3)) * 0.3
    kernel[7, 7] = 1.01
    kernel[7, 8] = 0.25
    layer = make_layer(rng.normal(size=(2, 9)), kernel, rng.normal(size=9), rng.normal(size=9))
    weights = make_network(layer)
    inputs = vectors(0, 3, 200, 2)
    expected = loop(weights, inputs, np.float64)
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-13)):
        network = LinearNetwork(weights, dtype)
        assert relative_error(network.run(inputs), expected) < tolerance
        assert relative_error(network.run(inputs, chunk=30), expected) < tolerance
        assert relative_error(run_steps(network, inputs), expected) < tolerance


@pytest.mark.parametrize("everywhere", [False, True])
def test_perturbed_parameters(everywhere):
    weights = random_network(0, depth=3)
    inputs = signals(0, 1, 4, 50)
    network = LinearNetwork(weights)
    network.run(inputs)
    rng = np.random.default_rng(0)
    noisy = {
        name: values + 1e-3 * rng.normal(size=values.shape) * (everywhere | (values != 0))
        for name, values in network.parameter_arrays().items()
    }
    network.replace_parameters(noisy)
    expected, _ = apply_sequence(network.parameters(), network.structure, inputs)
    assert relative_error(network.run(inputs), np.asarray(expected, np.float64)) < 1e-5
    assert not np.array_equal(expected, loop(weights, inputs))


def test_other_numbers_of_the_same_structure_compile_nothing_new():
    network = LinearNetwork(random_network(0, depth=2))
    inputs = signals(0, 1, 4, 50)
    clean = network.parameter_arrays()
    compiled = []
    for factor in (1.1, 1.3, 0.7):
        network.replace_parameters(
            {name: values * factor for name, values in clean.items() if "recurrent" not in name}
        )
        network.run(inputs)
        compiled.append(tiles._compiled.cache_info().misses)
    assert compiled[1:] == compiled[:1] * 2


# ---------------------------------------------------------------- the module


def test_run_sees_every_way_to_replace_a_parameter():
    layer = make_layer([[1]], [[1]])
    inputs = vectors(0, 2, 10, 1)
    network = LinearNetwork(make_network(layer))

    def agrees(weights):
        assert_array_equal(network.run(inputs), loop(weights, inputs))
        assert_array_equal(run_steps(network, inputs), loop(weights, inputs))

    agrees(make_network(layer))
    network.layers[0].recurrent_kernel = nnx.Param(jnp.array([[-1.0]]))
    agrees(make_network(make_layer([[1]], [[-1]])))
    network.layers[0].recurrent_kernel[...] = jnp.array([[0.0]])
    agrees(make_network(make_layer([[1]], [[0]])))
    nnx.update(network, nnx.state(LinearNetwork(make_network(layer))))
    agrees(make_network(layer))
    network.replace_parameters({"layers.0.bias": np.array([2.0])})
    agrees(make_network(make_layer([[1]], [[1]], [2])))
    network.layers[0] = LinearNetwork(make_network(make_layer([[3]], [[0]]))).layers[0]
    agrees(make_network(make_layer([[3]], [[0]])))
    network.layers = nnx.List(LinearNetwork(make_network(layer)).layers)
    agrees(make_network(layer))
    copy = nnx.merge(*nnx.split(network))
    copy.output_bias = nnx.Param(jnp.array([5.0]))
    assert_array_equal(run_steps(copy, inputs), loop(make_network(layer), inputs) + 5)
    agrees(make_network(layer))
    network.output_bias = held = np.array([1.0], np.float32)
    assert_array_equal(run_steps(network, inputs), loop(make_network(layer), inputs) + 1)
    held[:] = 7
    assert_array_equal(run_steps(network, inputs), loop(make_network(layer), inputs) + 7)


def test_parameters_there_and_back():
    first, second = (LinearNetwork(random_network(seed, 2)) for seed in (0, 1))
    second.structure = first.structure
    second.replace_parameters(first.parameter_arrays())
    inputs = signals(0, 2, 2, 12)
    assert_array_equal(first.run(inputs), second.run(inputs))
    assert first.num_parameters == sum(v.size for v in first.parameter_arrays().values())
    with pytest.raises(ShapeError, match="output_bias"):
        first.replace_parameters({"output_bias": np.zeros(5)})
    with pytest.raises(ShapeError, match="unknown parameter 'nothing'"):
        first.replace_parameters({"nothing": np.zeros(5)})


def test_weights_that_do_not_fit_are_refused():
    layer = make_layer([[1]], [[1]])
    with pytest.raises(ShapeError, match="layer 1, input_kernel"):
        LinearNetwork(make_network(layer, make_layer([[1], [1]], [[1]])))
    with pytest.raises(ShapeError, match="left"):
        LinearNetwork(make_network(make_layer([[1]], [[1]], left=[1])))


def test_sparse_weights():
    weights = random_network(0)
    layers = tuple(
        LayerWeights(
            sparse.csr_array(layer.input_kernel),
            sparse.csr_array(layer.recurrent_kernel),
            *list(vars(layer).values())[2:],
        )
        for layer in weights.layers
    )
    thin = NetworkWeights(
        *list(vars(weights).values())[:3], layers, weights.output_kernel, weights.output_bias
    )
    dense, thin = (LinearNetwork(w).parameter_arrays() for w in (weights, thin))
    assert all(np.array_equal(dense[name], thin[name]) for name in dense)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_module_splits_merges_and_traces(dtype):
    weights = random_network(0, depth=2)
    network = LinearNetwork(weights, dtype)
    inputs = signals(0, 1, 2, 9)
    expected = network.run(inputs)
    assert all(value.dtype == jnp.dtype(dtype) for value in network.parameters().values())
    with jax.enable_x64(dtype == "float64"):
        copy = nnx.merge(*nnx.split(network))
        assert_array_equal(copy.run(inputs), expected)
        traced = nnx.jit(lambda module, signal: module.run((signal,)))(network, inputs[0])
        assert traced.dtype == jnp.dtype(dtype)
        assert_array_equal(traced, expected)


def test_the_pure_core_takes_vmap_and_grad():
    network = LinearNetwork(random_network(0, depth=2))
    parameters, structure = network.parameters(), network.structure
    inputs = signals(0, 1, 2, 9)
    draws = jax.tree.map(lambda value: np.stack([value, 2 * np.asarray(value)]), parameters)
    both = jax.jit(jax.vmap(lambda p: apply_sequence(p, structure, inputs)[0]))(draws)
    assert_array_equal(both[0], network.run(inputs))
    total = jax.jit(jax.grad(lambda p: apply_sequence(p, structure, inputs)[0].sum()))
    gradient = total(parameters)
    assert gradient["output_bias"].tolist() == [18, 18]
    row, _ = apply_step(parameters, structure, initial_state(parameters, structure), (3,))
    assert row.shape == (2,)


def test_generate_feeds_outputs_back():
    """The running sum modulo nothing: 1, then 1 + 1, and so on, doubles."""
    layer = make_layer([[1]], [[1]])
    table = np.arange(600.0)[:, None]
    weights = NetworkWeights((table,), (None,), np.zeros(1), (layer,), np.ones((1, 1)), np.zeros(1))
    prompts = np.array([[1, 0], [0, 2]])
    got = LinearNetwork(weights).generate((prompts,), 7)
    assert got.tolist() == [[1, 2, 4, 8, 16, 32, 64], [2, 4, 8, 16, 32, 64, 128]]
    assert LinearNetwork(weights).generate((prompts,), 1).tolist() == [[1], [2]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_self_test(dtype, monkeypatch):
    network = LinearNetwork(random_network(0, depth=1), dtype)
    network.self_test()

    def coarse(inputs):
        """As under TF32."""
        short = (inputs // 1024 * 1024).sum(axis=1)
        return short, short, short

    monkeypatch.setattr(linear_network, "_sum_both_ways", coarse)
    with pytest.raises(SelfTestError, match="sums in segments of integers"):
        network.self_test()


def test_a_network_without_layers():
    weights = NetworkWeights(
        (np.arange(4.0)[:, None],),
        (None,),
        np.ones(1),
        (),
        np.full((1, 2), 3.0),
        np.array([0, 1.0]),
    )
    inputs = (np.array([[0, 1, 2], [3, 3, 0]]),)
    assert_exact(weights, inputs)
    network = LinearNetwork(weights)
    outputs, state = network.run_with_state(inputs)
    assert_array_equal(network.run(inputs, state=state), outputs)
    assert network.width == 0


def test_a_layer_without_units():
    layer = make_layer(np.zeros((1, 0)), np.zeros((0, 0)))
    weights = make_network(layer, output_kernel=np.zeros((0, 2)))
    assert_exact(weights, vectors(0, 2, 10, 1))
