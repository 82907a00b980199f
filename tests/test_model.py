"""The compiled model: run, step, generate, chunks, dtypes, saving, reports and the self-test."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import lsrl
from lsrl import Token, Vector
from lsrl.errors import SelfTestError, UnsupportedOpError
from lsrl.ir import ops
from lsrl.program_json import program_from_json, program_to_json
from lsrl.testing.verification import compare

pytestmark = pytest.mark.one_in(2)

ROOT = Path(__file__).resolve().parents[1]
LINEAR = ("linear_rnn", "gated_linear_rnn")
# Programs of every kind of node, with the parameters that keep the tests quick.
PROGRAMS = {
    "majority": {},
    "histogram": {"vocab": 3},
    "dyck1": {},
    "copy_delay": {"k": 2},
    "modular_sum": {"n": 3},
    "tok2tok": {"length": 2, "max_pairs": 3},
    "reverse": {},
}


def program_of(body, *kinds, **options):
    """The program of a function whose parameters have these types."""
    body.__annotations__ = dict(zip(inspect.signature(body).parameters, kinds, strict=True))
    return lsrl.program(**{"max_length": 100, **options})(body)


def library(name):
    entry = lsrl.programs.catalogue()[name]
    program = entry.program(**PROGRAMS[name])
    random = np.random.default_rng(0)
    inputs = [entry.sample(random, 12, **PROGRAMS[name]) for _ in range(3)]
    length = min(len(sequence[0]) for sequence in inputs)
    return program, [
        np.stack([sequence[i][:length] for sequence in inputs]) for i in range(len(program.inputs))
    ]


def run_by_steps(model, *inputs):
    """Step through a batch: (batch, time[, width]) each."""
    state, outputs = model.init_state(batch=len(inputs[0])), []
    for token in range(inputs[0].shape[1]):
        output, state = model.step(state, *(array[:, token] for array in inputs))
        outputs.append(output)
    assert state.position == inputs[0].shape[1]
    return np.stack(outputs, axis=1)


@pytest.fixture(scope="module")
def majority():
    return lsrl.compile(lsrl.programs.majority(), "linear_rnn")


MIXED = program_of(
    lambda x, t: (lsrl.cumsum(x), lsrl.select(t > 0, x[0], -1)),
    Vector(2, low=-1, high=1, step=0.25),
    Token(3),
)
# Continuous values: within the certificate's bound, not exact.
SMOOTH = program_of(
    lambda x: lsrl.relu(lsrl.linear_state(x / 3, 0.5)) - 0.1 * x, Vector(1, low=-1, high=1)
)


@pytest.mark.parametrize("target", LINEAR)
@pytest.mark.parametrize("name", PROGRAMS)
def test_run_and_step_equal_the_program(name, target):
    program, inputs = library(name)
    model = lsrl.compile(program, target)
    assert model.certificate.exact
    outputs = model.run(*inputs)
    assert outputs.dtype == np.float32
    assert outputs.shape == (*inputs[0].shape[:2], program.num_outputs)
    np.testing.assert_array_equal(outputs, program.run(*inputs))
    np.testing.assert_array_equal(run_by_steps(model, *inputs), outputs)


def test_one_sequence_has_no_batch_axis(majority):
    assert majority.run([1, 0, 1]).shape == (3, 1)
    assert majority.run([[1, 0, 1]]).shape == (1, 3, 1)
    batch = majority.run([[1, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(batch[0], majority.run([1, 0, 1]))
    np.testing.assert_array_equal(batch[1], majority.run([0, 0, 1]))
    state = majority.init_state()
    output, state = majority.step(state, 1)
    assert output.shape == (1,)
    output, _ = majority.step(majority.init_state(batch=1), [1])
    assert output.shape == (1, 1)


def test_inputs_may_be_lists_numpy_or_jax(majority):
    expected = majority.run([1, 0, 1, 1])
    for bits in (np.array([1, 0, 1, 1], np.int8), jax.numpy.array([1, 0, 1, 1]), (1, 0, 1, 1)):
        np.testing.assert_array_equal(majority.run(bits), expected)


def test_several_inputs_come_in_parameter_order():
    model = lsrl.compile(MIXED, "linear_rnn")
    vectors = np.random.default_rng(0).integers(-4, 5, (2, 9, 2)) / 4
    tokens = np.random.default_rng(1).integers(3, size=(2, 9))
    expected = MIXED.run(vectors, tokens)
    np.testing.assert_array_equal(model.run(vectors, tokens), expected)
    np.testing.assert_array_equal(model.run(vectors[0], tokens[0]), expected[0])
    np.testing.assert_array_equal(run_by_steps(model, vectors, tokens), expected)


def test_rows_depend_on_the_past_alone(majority):
    tokens = np.random.default_rng(0).integers(2, size=40)
    whole = majority.run(tokens)
    for length in (1, 2, 17):
        np.testing.assert_array_equal(majority.run(tokens[:length]), whole[:length])


@pytest.mark.parametrize(
    ("target", "dtype"), [("linear_rnn", "float32"), ("gru", "bfloat16"), ("griffin", "float32")]
)
def test_zero_has_no_sign(target, dtype):
    """Equal to the bit in every way of running: a linear layer's own outputs hold -0.0."""

    def body(bit, x):
        late = lsrl.concat(-bit, -lsrl.delay(bit), -lsrl.relu(lsrl.cumsum(bit) - 3))
        return lsrl.concat(late, x, lsrl.constant(-0.0) * bit)

    program = program_of(body, Token(2), Vector(1, low=-1, high=1, step=1), max_length=9)
    model = lsrl.compile(program, target, dtype=dtype)
    inputs = np.array([0, 1, 0, 0]), np.array([[-0.0], [0.0], [-1], [-0.0]])
    told, whole, state, steps = program.run(*inputs), model.run(*inputs), model.init_state(), []
    for given in zip(*inputs, strict=True):
        output, state = model.step(state, *given)
        steps.append(output)
    expected = told.astype(whole.dtype).tobytes()
    assert whole.tobytes() == np.array(steps).tobytes() == expected
    assert not np.signbit(told[told == 0]).any()
    if target == "linear_rnn":
        raw = np.asarray(model.module.run(model.features([inputs[0][None], inputs[1][None]])))
        assert np.signbit(raw[raw == 0]).any()


def test_a_constant_output_has_no_sign_either():
    program = program_of(lambda bit: lsrl.constant(-0.0) + 0 * bit, Token(2))
    model = lsrl.compile(program, "linear_rnn")
    output, _ = model.step(model.init_state(), 1)
    assert not np.signbit([*output, *model.run([1])[0], *program.run([1])[0]]).any()


def test_a_state_can_be_continued_twice(majority):
    state = majority.init_state()
    for token in (1, 0):
        _, state = majority.step(state, token)
    after = [majority.step(state, token)[0].item() for token in (1, 0, 1)]
    assert after == [1, 0, 1], "step leaves the state that it was given as it was"
    assert state.position == 2


@pytest.mark.parametrize("chunk", [1, 2, 7, 32, 33, 1000])
def test_chunks_change_nothing(majority, chunk):
    tokens = np.random.default_rng(0).integers(2, size=(3, 33))
    np.testing.assert_array_equal(majority.run(tokens, chunk=chunk), majority.run(tokens))


def test_chunks_carry_every_kind_of_state():
    program = program_of(
        lambda t: (
            lsrl.delay(t, 5, initial=2),
            lsrl.window_sum(t, 4),
            lsrl.cycle(3) + 0 * t,
            lsrl.linear_state(lsrl.concat(t, 1), [[0, 1], [-1, 0]], initial=[3, 4]),
            lsrl.latch(t, lsrl.position() == 6),
        ),
        Token(3),
    )
    model = lsrl.compile(program, "linear_rnn")
    tokens = np.random.default_rng(0).integers(3, size=50)
    expected = program.run(tokens)
    for chunk in (1, 4, 13, 50):
        np.testing.assert_array_equal(model.run(tokens, chunk=chunk), expected)


def test_long_sequences_are_exact():
    program = lsrl.programs.histogram(vocab=3, max_length=100_000)
    model = lsrl.compile(program, "linear_rnn")
    tokens = np.random.default_rng(0).integers(3, size=100_000)
    counts = np.cumsum(np.eye(3)[tokens], axis=0)
    np.testing.assert_array_equal(model.run(tokens), counts)
    np.testing.assert_array_equal(model.run(tokens, chunk=4096), counts)


def test_generate_feeds_outputs_back():
    def next_token(t):
        return lsrl.mod(t + lsrl.delay(t, 1), 5)

    next_token.__annotations__ = {"t": Token(5), "return": Token(5)}
    model = lsrl.compile(lsrl.program(max_length=30)(next_token), "linear_rnn")
    prompts = np.array([[1, 1], [0, 2]])
    sequences = prompts.tolist()
    for sequence in sequences:
        for _ in range(12):
            sequence.append((sequence[-1] + sequence[-2]) % 5)
    generated = model.generate(prompts, 12)
    assert generated.dtype == np.int64
    np.testing.assert_array_equal(generated, np.array(sequences)[:, 2:])
    np.testing.assert_array_equal(model.generate(prompts[0], 12), generated[0])
    assert model.generate([3], 1).tolist() == [3]
    assert model.generate([1, 1], 29).shape == (29,), "the last one is not read any more"


def test_an_inexact_model_keeps_within_its_bound():
    model = lsrl.compile(SMOOTH, "linear_rnn")
    certificate = model.certificate
    assert not certificate.exact
    assert 0 < certificate.error_bound < 1e-5
    x = np.random.default_rng(0).uniform(-1, 1, (4, 100, 1))
    x[0], x[1] = 1, -1
    run, steps = model.run(x), run_by_steps(model, x)
    assert np.abs(run - SMOOTH.run(x)).max() <= certificate.error_bound
    assert np.abs(steps - SMOOTH.run(x)).max() <= certificate.error_bound
    assert np.abs(run - steps).max() <= 2 * certificate.error_bound


def count_from(start, max_length=100):
    return program_of(lambda t: lsrl.cumsum(t, initial=start), Token(2), max_length=max_length)


def test_float64_needs_no_global_switch():
    assert not jax.config.read("jax_enable_x64")
    tokens = np.random.default_rng(0).integers(2, size=(2, 60))
    program = count_from(2**25 + 1)
    model = lsrl.compile(program, "linear_rnn", dtype="float64")
    assert model.dtype == "float64"
    assert model.certificate.exact
    outputs = model.run(tokens)
    assert outputs.dtype == np.float64
    np.testing.assert_array_equal(outputs, program.run(tokens))
    np.testing.assert_array_equal(run_by_steps(model, tokens), outputs)
    model.self_test()
    assert not jax.config.read("jax_enable_x64")
    parameters = model.module.parameter_arrays()
    assert {str(array.dtype) for array in parameters.values()} == {"float64"}
    # float32 can't, and says so.
    assert not lsrl.compile(program, "linear_rnn").certificate.exact


def test_bfloat16_is_exact_up_to_256():
    model = lsrl.compile(count_from(150), "linear_rnn", dtype="bfloat16")
    assert model.certificate.exact
    outputs = model.run(np.ones(100, int))
    assert outputs.dtype.name == "bfloat16"
    np.testing.assert_array_equal(outputs[:, 0].astype(float), 151.0 + np.arange(100))
    certificate = lsrl.compile(count_from(200), "linear_rnn", dtype="bfloat16").certificate
    assert not certificate.exact
    assert certificate.reasons[0].token == 56


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("target", LINEAR)
def test_save_and_load(tmp_path, target, dtype):
    model = lsrl.compile(MIXED, target, dtype=dtype)
    path = tmp_path / "model.lsrl"
    model.save(path)
    loaded = lsrl.load(str(path))
    assert (loaded.target, loaded.dtype, repr(loaded)) == (target, dtype, repr(model))
    assert loaded.labels == model.labels
    assert str(loaded.certificate) == str(model.certificate)
    assert loaded.program.inputs == MIXED.inputs
    assert loaded.program.max_length == 100
    before, after = model.module.parameter_arrays(), loaded.module.parameter_arrays()
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        np.testing.assert_array_equal(array, after[name])
    vectors, tokens = np.ones((7, 2)) / 4, np.arange(7) % 3
    np.testing.assert_array_equal(loaded.run(vectors, tokens), model.run(vectors, tokens))
    np.testing.assert_array_equal(loaded.program.run(vectors, tokens), MIXED.run(vectors, tokens))
    again = tmp_path / "again.lsrl"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_every_target_saves_and_loads(tmp_path):
    program = lsrl.programs.first_token()
    tokens = np.random.default_rng(0).integers(2, size=(2, 9))
    held = 0
    for target in lsrl.targets():
        try:
            model = lsrl.compile(program, target.name)
        except UnsupportedOpError:
            continue
        path = tmp_path / target.name
        model.save(path)
        np.testing.assert_array_equal(lsrl.load(path).run(tokens), model.run(tokens))
        held += 1
    assert held >= 2


def test_every_kind_of_op_is_written_and_read():
    def every(x, t):
        loop = lsrl.recurrent_state(x[0] - 1, 1, high=50)
        flag = lsrl.threshold_state(x[0] + t, 1)
        kept = lsrl.hold(x, flag)
        once = lsrl.latch(lsrl.bound(t, 0, 2), lsrl.position() == 3)
        gate = lsrl.select(flag, x, 2, via="gate") * x
        table = lsrl.lookup(t, [[1, 0], [0, 1], [0.5, 0.25]]) + lsrl.periodic([[1, 2], [3, 4]])
        most = lsrl.running_max(t)
        return loop, kept, once, lsrl.relu(gate), table, lsrl.delay(x, 2, initial=1), most

    programs = [entry.program() for entry in lsrl.programs.catalogue().values()]
    programs.append(program_of(every, Vector(2, low=-1, high=1, step=0.25), Token(3)))
    seen = set()
    for program in programs:
        text = json.dumps(program_to_json(program))
        read = program_from_json(json.loads(text))
        assert read.graph.nodes == program.graph.nodes
        assert read.graph.dump() == program.graph.dump()
        assert repr(read) == repr(program)
        assert (read.max_length, read.documentation) == (program.max_length, program.documentation)
        seen |= {type(node.op) for node in program.graph.nodes}
    # No program has it: passes make it of reads, for a target that recalls.
    assert seen == set(ops.ALL_OPS) - {ops.Recall}


def test_an_unrolled_model_is_saved(tmp_path):
    program = lsrl.programs.flip_flop(max_length=12)
    model = lsrl.compile(program, "linear_rnn", legalise="unroll")
    model.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    assert loaded.options.legalise == "unroll"
    tokens = np.random.default_rng(0).integers(4, size=12)
    np.testing.assert_array_equal(loaded.run(tokens), program.run(tokens))


@pytest.mark.parametrize("option", ["robust", "verbatim"])
def test_a_model_is_saved_with_its_option(tmp_path, option):
    program = lsrl.programs.even_pairs()
    models = [lsrl.compile(program, "linear_rnn", **{option: on}) for on in (False, True)]
    tokens = np.random.default_rng(0).integers(2, size=12)
    for on, model in zip((False, True), models, strict=True):
        model.save(tmp_path / "model")
        loaded = lsrl.load(tmp_path / "model")
        assert getattr(loaded.options, option) is on
        assert loaded.labels == model.labels
        np.testing.assert_array_equal(loaded.run(tokens), program.run(tokens))
    assert models[0].labels != models[1].labels


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_replaced_parameters_are_kept(tmp_path, dtype):
    model = lsrl.compile(count_from(0), "linear_rnn", dtype=dtype)
    changed = {"output_bias": model.module.parameter_arrays()["output_bias"] + 5}
    model.module.replace_parameters(changed)
    outputs = model.run([1, 0, 1])
    assert outputs[:, 0].tolist() == [6, 6, 7]
    model.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    assert loaded.run([1, 0, 1])[:, 0].tolist() == [6, 6, 7]
    assert loaded.program.run([1, 0, 1])[:, 0].tolist() == [1, 1, 2]


def test_parameters_are_nnx_params_that_can_be_set(majority):
    model = lsrl.compile(lsrl.programs.majority(), "linear_rnn")
    state = nnx.state(model.module, nnx.Param)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert sum(sizes) == model.num_parameters
    nnx.update(model.module, jax.tree.map(jax.numpy.zeros_like, state))
    assert model.num_nonzero_parameters == 0
    assert not model.run([1, 1, 1]).any()
    assert majority.run([1, 1, 1]).all(), "other models keep theirs"


def test_equal_programs_give_equal_files_in_every_process(tmp_path):
    code = (
        "import sys, lsrl; p = lsrl.programs; "
        "lsrl.compile(p.tok2tok(2, max_pairs=3), 'linear_rnn').save(sys.argv[1])"
    )
    contents = []
    for seed in ("1", "2"):
        path = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-c", code, str(path)], check=True, cwd=ROOT, env=environment
        )
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_a_saved_model_runs_where_its_source_is_not(tmp_path, majority):
    majority.save(tmp_path / "model")
    code = (
        "import sys, lsrl; model = lsrl.load(sys.argv[1]); model.self_test(); "
        "print(model.run([1, 0, 1, 1])[:, 0].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        check=True, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[1.0, 0.0, 1.0, 1.0]"


def test_summary_and_report(majority):
    summary = majority.summary()
    assert summary.startswith("majority on linear_rnn, float32")
    for name, value in (
        ("layers", majority.num_layers),
        ("width", majority.width),
        ("parameters", f"{majority.num_parameters} ({majority.num_nonzero_parameters} nonzero)"),
        ("exact", "yes, up to 1000 tokens"),
    ):
        assert any(line.startswith(name) and str(value) in line for line in summary.splitlines()), (
            name
        )
    report = majority.report()
    assert report.startswith(summary)
    for stage in ("simplify", "legalise", "schedule", "certify", "lower"):
        assert stage in report
    for number, labels in enumerate(majority.labels, start=1):
        (line,) = [line for line in report.splitlines() if f"layer {number} " in line]
        assert all(label in line for label in labels)


def test_counts_count_every_entry(majority):
    arrays = majority.module.parameter_arrays()
    assert majority.num_parameters == sum(array.size for array in arrays.values())
    assert majority.num_nonzero_parameters == sum(np.count_nonzero(a) for a in arrays.values())
    assert majority.num_layers == len(majority.labels)
    assert majority.width == max(map(len, majority.labels))
    assert "ones" in majority.labels[0]


def test_repr_tells_what_it_is(majority):
    assert repr(majority) == (
        f"Model(majority on linear_rnn, float32: {majority.num_layers} layers, "
        f"width {majority.width}, exact)"
    )
    assert "error <= " in repr(lsrl.compile(SMOOTH, "linear_rnn"))


@pytest.mark.parametrize("target", LINEAR)
def test_self_test_passes(target):
    for program in (MIXED, SMOOTH, lsrl.programs.tok2tok(1, max_pairs=2)):
        lsrl.compile(program, target).self_test(sequences=3, length=20)


def test_self_test_fails_on_a_wrong_parameter():
    model = lsrl.compile(MIXED, "linear_rnn")
    for name, array in model.module.parameter_arrays().items():
        if not array.any():
            continue
        model.module.replace_parameters({name: array * 2})
        with pytest.raises(SelfTestError, match=r"linear_rnn.*sequence \d, token \d+: expected"):
            model.self_test(sequences=3, length=20)
        model.module.replace_parameters({name: array})
    model.self_test(sequences=3, length=20)


def test_compare_takes_inputs_of_ones_own():
    program = program_of(lambda t: lsrl.bound(lsrl.cumsum(t), 0, 3), Token(2), max_length=20)
    model = lsrl.compile(program, "linear_rnn")
    tokens = np.zeros((2, 20), int)
    tokens[:, 2:5] = 1
    assert compare(model, inputs=[tokens]).difference is None
    bias = model.module.parameter_arrays()["output_bias"]
    model.module.replace_parameters({"output_bias": bias + 1})
    difference = compare(model, inputs=[tokens]).difference
    assert difference is not None
    assert (difference.mode, difference.sequence, difference.token) == ("run", 0, 0)
    assert (difference.expected, difference.got) == ([0.0], [1.0])


def loaded_modules(code):
    """The modules that are loaded after some code ran in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = loaded_modules("import lsrl")
    assert "lsrl.language.program" in loaded
    heavy = {"jax", "flax", "matplotlib", "scipy.optimize", "rich", "typer", "lsrl.compiler"}
    assert not heavy & loaded


def test_programs_run_without_jax():
    loaded = loaded_modules("import lsrl; lsrl.programs.majority().run([1, 0, 1])")
    assert not {"jax", "flax", "matplotlib", "scipy.optimize"} & loaded


def test_a_target_loads_when_it_is_asked_for():
    loaded = loaded_modules(
        "import lsrl; lsrl.compile(lsrl.programs.majority(), 'linear_rnn').run([1, 0, 1])"
    )
    assert "lsrl.backends.linear_rnn" in loaded
    assert not {"matplotlib", "torch", "transformers", "lsrl.backends.lstm"} & loaded


def test_lazy_names_are_all_there():
    for name in lsrl.__all__:
        assert getattr(lsrl, name) is not None
        assert name in dir(lsrl)
    with pytest.raises(AttributeError, match="nonsense"):
        lsrl.nonsense  # noqa: B018
