"""The stock recurrent cells: exact to the bit where the certificate says so, and small."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lsrl
from lsrl import errors, programs
from lsrl.backends import registry
from lsrl.backends.cells import forward
from lsrl.backends.cells.kernels import SplitKernel, sparse_kernel, split_kernel
from lsrl.backends.cells.network import CellNetwork, make_cell
from lsrl.interpret.wiring import quick
from lsrl.testing.random_ops import OPS
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import compare, sample_inputs
from tests.grids import small_catalogue, studied, thinned
from tests.strategies import check_programs, each_turn

pytestmark = pytest.mark.one_in(3)

CELLS = ("rnn", "rnn_tanh", "lstm", "gru")
CATALOGUE = small_catalogue()

# What the certificate must call exact on every cell in float32; the tanh RNN may need float64.
REQUIRED = ("majority", "counter_mod", "copy_delay", "histogram", "dyck1", "flip_flop", "tok2tok")
TANH_NEEDS_FLOAT64 = {
    "dyck1", "tok2tok", "selective_copy", "shuffle_dyck", "dyck", "a_n_b_n", "a_n_b_n_c_n",
    "country_capital", "associative_recall", "vec2vec",
}  # fmt: skip
PRODUCT, REFLECTION = "product of two general signals", "applies the reflections"
REFUSED = {"gradient_step": PRODUCT, "linear_interpolation": PRODUCT, "swaps": REFLECTION}
CONTINUOUS = {"vec2vec"}


def cases(names, dtypes):
    return [
        pytest.param(name, cell, dtype, id=f"{name}-{cell}-{dtype}")
        for name in names
        for cell in CELLS
        for dtype in dtypes
    ]


def assert_equals_reference(entry, cell, dtype, length, steps):
    """At every token: equal where the certificate says exact, else within its bound."""
    program = entry.program()
    model = lsrl.compile(program, cell, dtype=dtype)
    sample = entry.sample(np.random.default_rng(0), length)
    # One shape for all, so one compilation: with sequences at the ends of the ranges, and random.
    others = sample_inputs(program.inputs, 3, len(sample[0]), 0)
    inputs = [np.concatenate([x[None], more]) for x, more in zip(sample, others, strict=True)]
    expected = program.run(*sample)
    assert model.certificate.exact or entry.name in CONTINUOUS or cell == "rnn_tanh"
    outputs = model.run(*inputs)
    assert outputs.dtype == jnp.dtype(dtype)
    if model.certificate.exact:
        np.testing.assert_array_equal(outputs[0].astype(np.float64), expected)
    else:
        assert np.abs(outputs[0] - expected).max() <= model.certificate.error_bound
    assert compare(model, inputs=inputs, steps=steps).difference is None
    return model


@pytest.mark.parametrize(
    ("name", "cell", "dtype"),
    [*cases(REQUIRED, ("float32",)), *thinned(cases(REQUIRED, ("float64",)), 6, later=3)],
)
def test_required_programs_are_certified_and_exact(name, cell, dtype):
    if cell == "rnn_tanh" and dtype == "float32" and name in TANH_NEEDS_FLOAT64:
        try:
            model = lsrl.compile(CATALOGUE[name].program(), cell, dtype=dtype)
        except errors.PrecisionError as error:
            assert "float64" in str(error)
        else:
            assert not model.certificate.exact
        return
    model = assert_equals_reference(CATALOGUE[name], cell, dtype, 150, steps=True)
    assert model.certificate.exact


@pytest.mark.parametrize(
    ("name", "cell", "dtype"),
    [
        *thinned(cases([n for n in CATALOGUE if n not in REQUIRED], ("float32",)), 8, later=2),
        *(
            pytest.param(*case.values, id=case.id, marks=pytest.mark.nightly)
            for case in cases([n for n in CATALOGUE if n not in REQUIRED], ("float64", "bfloat16"))
        ),
    ],
)
def test_library(name, cell, dtype):
    entry = CATALOGUE[name]
    if name in REFUSED:
        with pytest.raises(errors.UnsupportedOpError, match=REFUSED[name]):
            lsrl.compile(entry.program(), cell, dtype=dtype)
        return
    if dtype == "bfloat16" or (cell == "rnn_tanh" and dtype == "float32"):
        try:
            model = lsrl.compile(entry.program(), cell, dtype=dtype)
        except errors.PrecisionError as error:
            assert cell == "rnn_tanh"
            assert "float64" in str(error)
            return
        assert compare(model, sequences=4, length=40).difference is None
        return
    assert_equals_reference(entry, cell, dtype, 40, steps=False)


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_flip_flop_is_exact(cell):
    model = lsrl.compile(programs.flip_flop(), cell, dtype="bfloat16")
    assert model.certificate.exact
    assert model.run([0, 1]).dtype == jnp.bfloat16
    assert compare(model, length=200).difference is None


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("cell", "layers", "units"), [("lstm", 8, 12), ("rnn", 8, 12), ("gru", 8, 14)]
)
def test_tok2tok_stays_small(cell, layers, units):
    model = lsrl.compile(programs.tok2tok(3, vocab=10), cell)
    assert model.certificate.exact
    assert model.num_layers == model.schedule.critical_path <= layers
    assert model.width <= units
    assert f"critical path {model.schedule.critical_path}" in model.summary()


# ---------------------------------------------------------------- automata


def random_automaton(seed):
    random = np.random.default_rng(seed)
    states, symbols = int(random.integers(2, 13)), int(random.integers(1, 6))
    table = random.integers(0, states, (states, symbols))
    start = int(random.integers(0, states))
    return tuple(map(tuple, table.tolist())), start, symbols


def assert_follows_table(seed, cell, dtype, tokens):
    table, start, symbols = random_automaton(seed)
    program = programs.dfa(table, start=start)
    model = lsrl.compile(program, cell, dtype=dtype)
    assert model.certificate.exact
    word = np.random.default_rng(seed).integers(0, symbols, tokens)
    expected, state = [], start
    for symbol in word:
        state = table[state][symbol]
        expected.append([state])
    np.testing.assert_array_equal(model.run(word), np.array(expected))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("seed", studied(range(3), 0))
def test_random_automata(seed, cell):
    assert_follows_table(seed, cell, "float32", 300)


@pytest.mark.nightly
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("seed", range(100))
def test_a_hundred_random_automata_for_ten_thousand_tokens(seed, cell):
    assert_follows_table(seed, cell, "float32", 10_000)


@pytest.mark.parametrize("cell", studied(CELLS, "rnn", "lstm"))
def test_word_problem_of_s5(cell):
    program = programs.permutations("S5")
    model = lsrl.compile(program, cell)
    assert model.certificate.exact
    word = np.random.default_rng(0).integers(0, 2, (2, 100))
    np.testing.assert_array_equal(model.run(word), program.run(word))


# ---------------------------------------------------------------- states that do not start at zero


def check(program, cell, dtype="float32"):
    model = lsrl.compile(program, cell, dtype=dtype)
    assert model.certificate.exact, str(model.certificate)
    difference = compare(model, sequences=8, length=20).difference
    assert difference is None, str(difference)
    return model


@pytest.mark.parametrize("cell", CELLS)
def test_states_start_at_their_initial_values(cell):
    @lsrl.program(max_length=20)
    def started(x: lsrl.Token(3)):
        total = lsrl.linear_state(x - 1, initial=5)
        swapped = lsrl.linear_state(
            lsrl.concat(x, 1 - x), A=np.array([[0, 1], [1, 0]]), initial=(2, -3)
        )
        held = lsrl.selective_state(x == 1, 2 * (x == 0), initial=7)
        again = lsrl.hold(x, x != 2, initial=-4)
        toggled = lsrl.threshold_state(1 - x, A=np.array([[1]]), initial=1)
        return total, swapped, held, again, toggled

    check(started, cell)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_recurrent_states_start_at_their_initial_values(cell):
    @lsrl.program(max_length=20)
    def recurrent(x: lsrl.Token(3)):
        return lsrl.recurrent_state(x - 1, A=1, high=30, initial=3)

    assert check(recurrent, cell).width == 2  # the state, and one


@pytest.mark.parametrize("cell", CELLS)
def test_a_selective_state_reads_states_of_its_own_layer(cell):
    @lsrl.program(max_length=20)
    def chained(x: lsrl.Token(3)):
        total = lsrl.cumsum(x - 1)
        return lsrl.selective_state(x == 1, total, initial=2), total

    model = check(chained, cell, "float64")
    assert model.num_layers == 1


@pytest.mark.parametrize("cell", ["gru", "rnn_tanh"])
def test_recurrent_states_are_refused(cell):
    @lsrl.program(max_length=20)
    def recurrent(x: lsrl.Token(3)):
        return lsrl.recurrent_state(x - 1, A=1, high=30)

    with pytest.raises(errors.UnsupportedOpError, match=r"test_cells\.py") as caught:
        lsrl.compile(recurrent, cell)
    assert {"rnn", "lstm"} <= set(caught.value.offences[0].targets)


# ---------------------------------------------------------------- the certificate


@pytest.mark.parametrize("cell", CELLS)
def test_a_counter_fails_at_or_after_the_token_that_the_certificate_names(cell):
    @lsrl.program(max_length=40)
    def counter(x: lsrl.Token(2)):
        return lsrl.cumsum((2**20 - 1) * x + 1)

    model = lsrl.compile(counter, cell)
    assert not model.certificate.exact
    (reason,) = model.certificate.reasons
    assert reason.token > 0
    word = np.ones(40, dtype=int)
    wrong = np.flatnonzero((model.run(word) != counter.run(word)).any(axis=-1))
    assert not len(wrong) or wrong[0] >= reason.token
    assert np.abs(model.run(word) - counter.run(word)).max() <= model.certificate.error_bound
    assert lsrl.compile(counter, cell, dtype="float64").certificate.exact


def test_a_tanh_gate_without_room_is_refused_with_the_way_out():
    @lsrl.program(max_length=1000)
    def wide(x: lsrl.Token(2)):
        total = lsrl.cumsum(x)
        kept = lsrl.select(x, total, 0, via="gate")
        return kept

    with pytest.raises(errors.PrecisionError, match=r"(?s)test_cells\.py.*2\^8.*float64") as caught:
        lsrl.compile(wide, "rnn", activation="tanh")
    assert "kept" in str(caught.value)
    check(wide, "rnn_tanh", "float64")


@pytest.mark.parametrize("cell", CELLS)
def test_unbounded_values_are_refused(cell):
    @lsrl.program(max_length=2000)
    def counter(x: lsrl.Token(2)):
        return lsrl.select(x, lsrl.linear_state(x, A=2), 0)

    with pytest.raises(errors.PrecisionError):
        lsrl.compile(counter, cell)


@pytest.mark.parametrize("cell", CELLS)
def test_continuous_values_stay_within_the_bound(cell):
    @lsrl.program(max_length=30)
    def mixed(x: lsrl.Vector(2, low=-1, high=1)):
        total = lsrl.cumsum(x[0])
        return lsrl.relu(total - x[1]), total

    model = lsrl.compile(mixed, cell)
    assert not model.certificate.exact
    assert np.isfinite(model.certificate.error_bound)
    assert compare(model, length=30).difference is None


@each_turn
@pytest.mark.parametrize("cell", CELLS)
def test_random_programs(cell, turn):
    names = set(OPS) - {"product"}
    if cell in ("gru", "rnn_tanh"):
        names -= {"recurrent_state"}

    def check_one(program):
        try:
            model = lsrl.compile(program, cell)
        except errors.PrecisionError:
            return
        difference = compare(model, sequences=3, length=16, steps=False).difference
        assert difference is None, str(difference)

    seeds = st.integers(0, 10**6)
    drawn = seeds.map(lambda seed: random_program(seed, sorted(names), 4, 4, 16))
    check_programs(turn, 3, drawn, check_one)


# ---------------------------------------------------------------- the modules


@pytest.mark.parametrize("cell", CELLS)
def test_saved_models_run_the_same(cell, tmp_path):
    model = lsrl.compile(programs.majority(), cell)
    model.save(tmp_path / "model.lsrl")
    loaded = lsrl.load(tmp_path / "model.lsrl")
    assert loaded.target == model.target
    bits = np.random.default_rng(0).integers(0, 2, (3, 50))
    np.testing.assert_array_equal(loaded.run(bits), model.run(bits))
    for name, array in model.module.parameter_arrays().items():
        np.testing.assert_array_equal(loaded.module.parameter_arrays()[name], array)


@pytest.mark.parametrize("cell", studied(CELLS, "lstm"))
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.nightly)])
def test_fresh_flax_cells_with_the_same_parameters_give_the_same(cell, dtype):
    program = programs.tok2tok(2, vocab=4) if cell != "rnn_tanh" else programs.majority()
    model = lsrl.compile(program, cell, dtype=dtype)
    kind = registry.find(cell).kind
    word = np.random.default_rng(0).integers(0, program.inputs[next(iter(program.inputs))].size, 30)
    arrays = model.module.parameter_arrays()
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        values = jnp.asarray(arrays["inputs.0.table"])[word][None]
        for number in range(model.num_layers):
            weights = {
                name: jnp.asarray(array)
                for name, array in arrays.items()
                if name.startswith(f"cells.{number}.")
            }
            units = weights[f"cells.{number}.dense_h.kernel"].shape[0]
            fresh = make_cell(kind, values.shape[-1], units, dtype)
            for side in ("dense_i", "dense_h"):
                for part in ("kernel", "bias"):
                    name = f"cells.{number}.{side}.{part}"
                    if name in weights:
                        setattr(getattr(fresh, side), part, nnx.Param(weights[name]))
            values = nnx.RNN(fresh, rngs=nnx.Rngs(0))(values)
        outputs = values @ arrays["output_kernel"] + arrays["output_bias"][None, None]
        result = np.asarray(outputs[0])
    np.testing.assert_array_equal(result, model.run(word))


@pytest.mark.parametrize("cell", CELLS)
def test_chunks_and_batches_change_nothing(cell):
    model = lsrl.compile(programs.majority(), cell)
    bits = np.random.default_rng(0).integers(0, 2, (4, 37))
    whole = model.run(bits)
    np.testing.assert_array_equal(model.run(bits, chunk=10), whole)
    np.testing.assert_array_equal(model.run(bits[2]), whole[2])


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_can_be_replaced(cell):
    model = lsrl.compile(programs.majority(), cell)
    arrays = model.module.parameter_arrays()
    assert model.num_parameters == sum(array.size for array in arrays.values())
    before = model.run([1, 0, 1])
    model.module.replace_parameters({"output_bias": arrays["output_bias"] + 1})
    np.testing.assert_array_equal(model.run([1, 0, 1]), before + 1)
    with pytest.raises(errors.ShapeError, match="unknown parameter"):
        model.module.replace_parameters({"nothing": arrays["output_bias"]})
    with pytest.raises(errors.ShapeError, match="shape"):
        model.module.replace_parameters({"output_bias": np.zeros(99)})


@pytest.mark.parametrize("cell", CELLS)
def test_sparse_kernels_give_what_dense_ones_do(cell):
    # The network runs by slices; the pure step of the same parameters by whole kernels.
    model = lsrl.compile(programs.histogram(24), cell)
    network = model.module
    inputs = (np.random.default_rng(0).integers(0, 24, (3, 40)),)
    features = tuple(model.features(inputs))

    step = jax.jit(network.pure_step, static_argnums=1)

    def by_kernels():
        state, outputs = network.init_state((3,)), []
        for token in range(40):
            now = tuple(x[:, token] for x in features)
            got, state = step(network.parameters(), network.structure, state, now)
            outputs.append(got)
        return np.stack(outputs, axis=1)

    np.testing.assert_array_equal(network.run(features), by_kernels())
    # Kernels that a user sets are run as they are, full ones and ones with a single other entry.
    random = np.random.default_rng(1)
    for share in (1.0, 1 / 400):
        kernels = {
            name: array + 0.1 * (random.random(array.shape) < share)
            for name, array in network.parameter_arrays().items()
            if name.endswith(("dense_i.kernel", "dense_h.kernel"))
        }
        network.replace_parameters(kernels)
        np.testing.assert_allclose(network.run(features), by_kernels(), rtol=1e-5, atol=1e-5)


WAYS = (("slice", 99, 1 << 40), ("gather", 99, 1), ("ahead", 99, 1 << 40), ("gather", 0, 1),
        ("ahead", 0, 1))  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_every_way_through_time_gives_the_same(cell, monkeypatch):
    """How inputs are read, layer by layer or not, and outputs in the step or of all at once."""
    program = programs.induction_head(vocab=6, max_length=20)
    model = lsrl.compile(program, cell, dtype="float64" if cell == "rnn_tanh" else "float32")
    network = model.module
    assert isinstance(network, CellNetwork)
    assert model.certificate.exact
    for batch in (1, 3):
        ids = np.random.default_rng(batch).integers(0, 6, (batch, 20))
        features = tuple(np.asarray(x) for x in model.features([ids]))
        for reading, layerwise, many in WAYS:
            monkeypatch.setattr(forward, "READING", dict.fromkeys(forward.READING, reading))
            monkeypatch.setattr(forward, "LAYERWISE", dict.fromkeys(forward.READING, layerwise))
            monkeypatch.setattr(forward, "MANY_VALUES", many)
            monkeypatch.setattr(forward, "WIDE", 0)
            run = quick(partial(forward.run_chunk, structure=network.structure))
            with network.mode():
                # The last three tokens don't count.
                outputs, after = run(
                    network.prepared(),
                    state=network.init_state((batch,)),
                    inputs=features,
                    count=17,
                )
            np.testing.assert_array_equal(np.asarray(outputs)[:, :17], program.run(ids[:, :17]))
            expected = model.run(ids[:, :17], return_state=True)[1].hidden
            jax.tree.map(np.testing.assert_array_equal, after, expected)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_full_kernels_multiply_in_parts(cell):
    """Kernels as large as a cache, of which no weight is zero: close to what flax's cells give."""
    model = lsrl.compile(programs.histogram(150, 12), cell)
    network = model.module
    full = {
        name: array + 1e-3 * np.random.default_rng(0).random(array.shape)
        for name, array in network.parameter_arrays().items()
        if name.endswith(".kernel")
    }
    network.replace_parameters(full)
    assert isinstance(network.prepared()["products"]["0"]["dense_h"], SplitKernel)
    for batch in (1, 3, 20):
        ids = np.random.default_rng(batch).integers(0, 150, (batch, 12))
        whole, _ = network.apply(network.parameters(), tuple(model.features([ids])))
        np.testing.assert_allclose(model.run(ids), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(130, 520), (300, 700), (256, 1024), (1, 70_000)])
def test_parts_of_a_kernel_are_the_kernel(rows, columns):
    kernel = np.random.default_rng(0).integers(-9, 9, (rows, columns)).astype(np.float32)
    split = split_kernel(jnp.asarray(kernel))
    assert split is not None
    assert len(split.parts) == -(-kernel.size // 2**16)
    for shape in ((rows,), (1, rows), (2, rows), (3, 5, rows), (200, rows)):
        values = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float32)
        np.testing.assert_array_equal(split.product(jnp.asarray(values)), values @ kernel)


@pytest.mark.parametrize("shape", [(0, 40), (128, 512), (600, 600)])
def test_kernels_that_are_as_fast_whole_stay_whole(shape):
    assert split_kernel(jnp.ones(shape)) is None


# Of few shapes, since jax compiles what a shape takes.
@given(
    rows=st.sampled_from([0, 1, 5, 12]),
    columns=st.sampled_from([1, 7, 12, 30]),
    share=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
    diagonal=st.integers(-12, 30),
    most=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_sparse_kernels_are_sums_of_rows_and_diagonals(rows, columns, share, diagonal, most, seed):
    random = np.random.default_rng(seed)
    kernel = random.integers(1, 9, (rows, columns)) * (random.random((rows, columns)) < share)
    kernel = (kernel + np.eye(rows, columns, diagonal)).astype(np.float32)
    sparse = sparse_kernel(kernel, most)
    if sparse is None:
        # One part each would have done.
        assert np.count_nonzero(kernel) > most
        return
    assert len(sparse.parts) <= most
    values = random.integers(-9, 9, (2, 3, rows)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(sparse.product)(values), values @ kernel)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_self_test_passes_here(cell, dtype):
    lsrl.compile(programs.flip_flop(), cell, dtype=dtype).self_test()


@pytest.mark.parametrize(
    ("name", "broken", "named"),
    [
        ("tanh", lambda u: jnp.tanh(u) * jnp.asarray(0.999, u.dtype), "tanh(u) == u"),
        ("tanh", lambda u: jnp.clip(u, -0.99, 0.99), "tanh(u) == 1"),
        ("sigmoid", lambda u: jax.nn.sigmoid(u) * jnp.asarray(0.99, u.dtype), "sigmoid(u) == 1"),
        ("sigmoid", lambda u: jnp.maximum(jax.nn.sigmoid(u), 1e-6), "sigmoid(u) == 0"),
    ],
)
def test_self_test_names_the_threshold_that_fails(monkeypatch, name, broken, named):
    model = lsrl.compile(programs.flip_flop(), "lstm")
    monkeypatch.setattr(nnx, name, broken)
    with pytest.raises(errors.SelfTestError) as caught:
        model.module.self_test()
    assert named in str(caught.value)


def test_activation_belongs_to_the_elman_rnn():
    program = programs.majority()
    assert lsrl.compile(program, "rnn").target == "rnn"
    assert lsrl.compile(program, "rnn", activation="relu").target == "rnn"
    assert lsrl.compile(program, "rnn", activation="tanh").target == "rnn_tanh"
    with pytest.raises(errors.UnknownTargetError, match="activation"):
        lsrl.compile(program, "lstm", activation="tanh")
    with pytest.raises(errors.UnknownTargetError, match="activation"):
        lsrl.compile(program, "rnn", activation="gelu")


@pytest.mark.parametrize("cell", CELLS)
def test_programs_without_inputs_or_layers_compile(cell):
    @lsrl.program(max_length=10)
    def clock(x: lsrl.Token(2)):
        return lsrl.cycle(3)

    @lsrl.program(max_length=10)
    def plain(x: lsrl.Token(2)):
        return 3 * x + 1

    @lsrl.program(max_length=10)
    def constant(x: lsrl.Token(2)):
        return lsrl.constant([2, 3])

    for program in (clock, plain, constant):
        check(program, cell)
