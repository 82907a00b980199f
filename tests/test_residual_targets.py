"""Mamba, Mamba-2 and Griffin: every program that they hold, exact to the bit, and small."""

import numpy as np
import pytest
from hypothesis import strategies as st

import lsrl
from lsrl import errors, programs
from lsrl.backends import registry
from lsrl.ir.evaluate import evaluate
from lsrl.ir.ops import Relu
from lsrl.passes.pipeline import Pipeline
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import compare
from tests.grids import small_catalogue, studied, thinned
from tests.strategies import check_programs, each_turn, inputs_of

pytestmark = pytest.mark.one_in(3)

TARGETS = ("mamba", "griffin", "mamba2")
# Mamba-2 makes values as Mamba does, and has tests of its own.
RESIDUAL = ["mamba", "griffin", pytest.param("mamba2", marks=pytest.mark.nightly)]
CATALOGUE = small_catalogue()
REFUSED = {"binary_adder", "dfa", "permutations", "state_recall", "swaps"}
CONTINUOUS = {"vec2vec"}
SEEDS = st.integers(0, 2**32 - 1)


def assert_equal(model, inputs, program):
    np.testing.assert_array_equal(model.run(*inputs), program.run(*inputs))


def library(*targets):
    return [pytest.param(n, target, id=f"{n}-{target}") for n in CATALOGUE for target in targets]


@pytest.mark.parametrize(
    ("name", "target"),
    [*thinned(library("mamba", "griffin"), 8, later=2), *thinned(library("mamba2"), 32, later=4)],
)
def test_library_program_equals_its_reference(name, target):
    """At every token up to max_length, whole sequences and token by token."""
    entry = CATALOGUE[name]
    program = entry.program()
    if name in REFUSED:
        with pytest.raises(errors.UnsupportedOpError) as caught:
            lsrl.compile(program, target)
        assert name == "swaps" or "lstm" in caught.value.offences[0].targets
        return
    model = lsrl.compile(program, target)
    length = min(program.max_length or 300, 1000)
    random = np.random.default_rng(0)
    sampled = [entry.sample(random, length) for _ in range(4)]
    shortest = min(len(inputs[0]) for inputs in sampled)
    batch = [np.stack([x[:shortest] for x in arrays]) for arrays in zip(*sampled, strict=True)]
    expected = np.stack([
        entry.expected(tuple(array[i] for array in batch)) for i in range(len(sampled))
    ])  # fmt: skip
    outputs = model.run(*batch)
    assert model.certificate.exact != (name in CONTINUOUS)
    allowed = model.certificate.error_bound + entry.tolerance * (name in CONTINUOUS)
    assert np.abs(outputs - expected).max() <= allowed
    state = model.init_state(batch=len(sampled))
    for t in range(min(shortest, 40)):
        output, state = model.step(state, *(array[:, t] for array in batch))
        np.testing.assert_array_equal(output, outputs[:, t])


@pytest.mark.parametrize("target", RESIDUAL)
@pytest.mark.parametrize("length", studied([1, 2, 4, 5, 20], 1, 5))
def test_tok2tok_is_exact(length, target):
    program = programs.tok2tok(length, 10)
    model = lsrl.compile(program, target)
    assert model.certificate.exact
    random = np.random.default_rng(length)
    prompts = np.stack([
        programs.tok2tok_prompt(*programs.random_dictionary(random, length, 10, 20))
        for _ in range(6)
    ])  # fmt: skip
    assert_equal(model, [prompts], program)


@pytest.mark.parametrize(
    ("target", "most_blocks", "width"), [("mamba", 9, 16), ("mamba2", 9, 16), ("griffin", 8, 64)]
)
def test_tok2tok_is_small(target, most_blocks, width):
    model = lsrl.compile(programs.tok2tok(3, 10), target)
    assert model.num_layers == model.schedule.critical_path <= most_blocks
    assert model.width == width


@pytest.mark.parametrize("target", RESIDUAL)
def test_a_long_delay_of_a_constant_takes_no_chain(target):
    """It is told by the position, however long it is."""

    @lsrl.program(max_length=100)
    def late(x: lsrl.Token(3)):
        begun = lsrl.delay(lsrl.constant([2, 0, -1]), 40, initial=[1, 1, 0])
        return lsrl.concat(x, begun)

    model = lsrl.compile(late, target)
    assert model.num_layers <= 3
    assert_equal(model, [np.random.default_rng(0).integers(3, size=(2, 60))], late)


@pytest.mark.parametrize("target", RESIDUAL)
def test_vec2vec_is_within_its_bound(target):
    cells = 5
    program = programs.vec2vec(2, 2, cells)
    model = lsrl.compile(program, target)
    assert model.certificate.error_bound < 1e-5
    random = np.random.default_rng(0)
    values = random.uniform(-3, 3, (cells, cells, 2)).astype(np.float32)
    table = {index: values[index] for index in np.ndindex(cells, cells)}
    points = (random.integers(0, cells, (16, 2)) + random.uniform(0.01, 0.99, (16, 2))) / cells
    prompts = np.stack([programs.vec2vec_prompt(table, x, 2, 2, cells) for x in points])
    got = model.run(prompts.astype(np.float32))[:, -1]
    expected = values[tuple(np.floor(points * cells).astype(int).T)]
    assert np.abs(got - expected).max() <= model.certificate.error_bound


@each_turn
@pytest.mark.parametrize("target", RESIDUAL)
def test_random_program_equals_its_reference(target, turn):
    def check(program):
        try:
            model = lsrl.compile(program, target)
        except errors.UnsupportedOpError:
            return
        inputs = inputs_of(program, 24)
        difference = np.abs(model.run(*inputs) - program.run(*inputs)).max()
        assert difference <= model.certificate.error_bound

    drawn = SEEDS.map(lambda seed: random_program(seed, None, 2 + seed % 9, 1 + seed % 4, 24))
    check_programs(turn, 4, drawn, check)


@each_turn
def test_diagonal_form_keeps_the_output(turn):
    drawn = SEEDS.map(lambda seed: random_program(seed, None, 2 + seed % 9, 1 + seed % 8, 24))
    check_programs(turn, 12, drawn, check_passes)


def check_passes(program):
    """The passes alone, so that many programs are tried."""
    backend = registry.find("mamba")
    pipeline = Pipeline()
    graph = pipeline.simplify(program.graph)
    if backend.offending(graph):
        return
    graph = pipeline.legalise(graph, backend.capabilities)
    assert {type(graph.nodes[i].op) for i in graph.live()} <= backend.capabilities.native
    inputs = inputs_of(program, 24)
    (expected,) = evaluate(program.graph, inputs).values()
    (values,) = evaluate(graph, inputs).values()
    np.testing.assert_array_equal(values, expected)


# ---------------------------------------------------------------- states, one kind at a time


def ring(size, entrance):
    @lsrl.program(max_length=60)
    def ring(symbol: lsrl.Token(5)):
        turned = np.roll(np.eye(size), 1, axis=0)
        start = np.arange(size) % 2
        update = lsrl.concat(*[(symbol - 2) * (k in entrance) for k in range(size)])
        return lsrl.linear_state(update, turned, initial=start)

    return ring


def coupled():
    """Running sums of running sums, a register and a ring in one state."""

    @lsrl.program(max_length=30)
    def coupled(x: lsrl.Vector(5, low=-2, high=2, step=0.5)):
        A = np.zeros((5, 5))
        A[0, 0] = A[1, 1] = 1
        A[1, 0], A[2, 1], A[3, 4], A[4, 3], A[3, 0] = 1, -2, 1, 1, 3
        return lsrl.linear_state(x, A, initial=[1, 0, 2, 0, -1])

    return coupled


def accumulating_reset():
    @lsrl.program(max_length=200)
    def accumulating_reset(symbol: lsrl.Token(4)):
        return lsrl.selective_state(symbol != 0, symbol - 1, initial=3)

    return accumulating_reset


def long_delay():
    @lsrl.program(max_length=200)
    def long_delay(symbol: lsrl.Token(4)):
        return lsrl.delay(symbol, 11, initial=2), lsrl.window_sum(symbol, 9)

    return long_delay


def long_clock():
    @lsrl.program(max_length=20_000)
    def long_clock(symbol: lsrl.Token(2)):
        return lsrl.cycle(7) + symbol

    return long_clock


def test_long_clocks_take_no_more_the_longer_they_run():
    """Beyond 1,024 tokens no ReLU a bend: 2,000 tokens of these took 2,000 of them."""

    def relus(tokens):
        @lsrl.program(max_length=tokens)
        def clocks(symbol: lsrl.Token(2)):
            return lsrl.cycle(3) + lsrl.cycle(10) + symbol

        graph = Pipeline().simplify(clocks.graph)
        graph = Pipeline().legalise(graph, registry.find("mamba").capabilities)
        ids = np.arange(min(tokens, 1_200))[None] % 2
        (values,) = evaluate(graph, [ids]).values()
        np.testing.assert_array_equal(values, clocks.run(ids))
        return sum(graph.nodes[i].width for i in graph.live() if graph.nodes[i].op == Relu())

    assert relus(1_100) <= 150 and relus(8_000) <= 200


def uneven_taps():
    """Three times the last token beside this one: no tap may be a rounded third."""

    @lsrl.program(max_length=100)
    def uneven_taps(symbol: lsrl.Token(4)):
        return lsrl.relu(symbol + 3 * lsrl.delay(symbol, 1) - 5)

    return uneven_taps


STATES = [
    uneven_taps(),
    ring(2, {0}),
    ring(3, {0, 2}),
    coupled(),
    accumulating_reset(),
    long_delay(),
    long_clock(),
]


@pytest.mark.parametrize(
    ("program", "target"),
    [
        pytest.param(program, target, id=f"{program.name}-{target}", marks=marks)
        for i, program in enumerate(STATES)
        for target, marks in (
            ("mamba", pytest.mark.studies if i % 2 else ()),
            ("griffin", () if i % 2 else pytest.mark.studies),
            ("mamba2", pytest.mark.nightly),
        )
    ],
)
def test_state_is_exact(program, target):
    model = lsrl.compile(program, target)
    assert model.certificate.exact
    random = np.random.default_rng(0)
    length = program.max_length
    (kind,) = program.inputs.values()
    tokens = (
        random.integers(0, kind.size, (3, length))
        if isinstance(kind, lsrl.Token)
        else random.integers(-4, 5, (3, length, kind.width)) / 2
    )
    assert_equal(model, [tokens], program)


@pytest.mark.parametrize("target", RESIDUAL)
def test_real_decay_is_within_its_bound(target):
    @lsrl.program(max_length=400)
    def average(x: lsrl.Vector(2, low=-1, high=1)):
        return lsrl.linear_state(x, np.diag([0.9, 0.5]), initial=[1, 0])

    model = lsrl.compile(average, target)
    assert not model.certificate.exact
    assert 0 < model.certificate.error_bound < 1e-2
    inputs = np.random.default_rng(0).uniform(-1, 1, (4, 400, 2))
    difference = np.abs(model.run(inputs) - average.run(inputs)).max()
    assert 0 < difference <= model.certificate.error_bound


@pytest.mark.parametrize("target", [*studied(TARGETS[:2], "mamba"), RESIDUAL[-1]])
def test_long_sequences_are_exact(target):
    """Running sums, holds and rings over 30,000 tokens."""

    @lsrl.program(max_length=30_000)
    def memories(symbol: lsrl.Token(4)):
        taken = lsrl.hold(symbol, symbol > 1)
        turned = lsrl.linear_state(lsrl.concat(symbol == 1, 0 * symbol), [[0, 1], [1, 0]])
        return lsrl.cumsum(symbol - 1), taken, turned

    model = lsrl.compile(memories, target)
    assert model.certificate.exact
    tokens = np.random.default_rng(0).integers(0, 4, (2, 30_000))
    assert_equal(model, [tokens], memories)


@pytest.mark.parametrize("target", RESIDUAL)
def test_exactness_ends_at_the_token_that_the_certificate_names(target):
    @lsrl.program(max_length=5000)
    def count(symbol: lsrl.Token(2)):
        return lsrl.cumsum(4095 * symbol)

    model = lsrl.compile(count, target)
    (reason,) = model.certificate.reasons
    assert not model.certificate.exact
    assert reason.token == 2**24 // 4095
    tokens = np.ones(5000, dtype=int)
    wrong = np.flatnonzero(model.run(tokens) != count.run(tokens))
    assert reason.token <= wrong[0] <= reason.token + 1


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("target", RESIDUAL)
@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        ([[0, -1], [1, 0]], "rotation"),
        ([[0.6, -0.8], [0.8, 0.6]], "rotation"),
        ([[-1]], "negative"),
        ([[2]], "greater than 1"),
        (np.roll(np.eye(70), 1, axis=0), "longer"),
    ],
)
def test_states_that_a_selective_scan_can_not_hold_are_refused(matrix, word, target):
    matrix = np.array(matrix)

    @lsrl.program(max_length=10)
    def state(symbol: lsrl.Token(2)):
        return lsrl.linear_state(lsrl.concat(*[symbol] * len(matrix)), matrix)

    with pytest.raises(errors.UnsupportedOpError, match=word) as caught:
        lsrl.compile(state, target)
    (offence,) = caught.value.offences
    assert "linear_rnn" in offence.targets
    assert "test_residual_targets.py:" in offence.source


@pytest.mark.parametrize("target", RESIDUAL)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_are_refused_with_the_way_out(dtype, target):
    with pytest.raises(errors.PrecisionError, match="float32"):
        lsrl.compile(programs.majority(), target, dtype=dtype)


def test_recurrent_states_are_refused_with_the_targets_that_do():
    @lsrl.program(max_length=10)
    def feedback(x: lsrl.Vector(1, low=0, high=1, step=1)):
        return lsrl.recurrent_state(x, -1, low=0, high=1)

    with pytest.raises(errors.UnsupportedOpError) as caught:
        lsrl.compile(feedback, "mamba")
    assert {"rnn", "lstm"} <= set(caught.value.offences[0].targets)


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("target", RESIDUAL)
def test_saved_model_is_the_same(target, tmp_path):
    program = programs.dyck1()
    model = lsrl.compile(program, target)
    model.save(tmp_path / "model.lsrl")
    loaded = lsrl.load(tmp_path / "model.lsrl")
    tokens = np.random.default_rng(0).integers(0, 2, (3, 50))
    np.testing.assert_array_equal(loaded.run(tokens), model.run(tokens))
    assert loaded.labels == model.labels


@pytest.mark.parametrize("target", RESIDUAL)
def test_labels_name_the_signals_of_the_stream(target):
    model = lsrl.compile(programs.tok2tok(3, 10), target)
    assert len(model.labels) == model.num_layers
    last = model.labels[-1]
    assert {"one", "token", "query", "since_match", "value"} <= set(last)
    # What a block has not made yet is not there.
    assert "value" not in model.labels[0]


@pytest.mark.parametrize("target", RESIDUAL)
def test_self_test_and_comparison_pass(target):
    model = lsrl.compile(programs.flip_flop(), target)
    model.self_test()
    assert compare(model, sequences=4, length=24).difference is None


def test_hawk_is_griffin():
    assert lsrl.compile(programs.majority(), "hawk").target == "griffin"
