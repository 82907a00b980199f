"""The whole path on random programs: evaluator, facts, passes, certificate, run, step and files.

What is proven of every signal is checked wherever a program is run.
"""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl import support
from lsrl.backends import registry
from lsrl.certificate import certify
from lsrl.errors import PrecisionError, ProgramError, UnsupportedOpError
from lsrl.ir.bounds import Facts
from lsrl.ir.evaluate import evaluate, float64_is_exact
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Delay, Latch, LinearState
from lsrl.ir.types import Vector
from lsrl.numerics import numerics_of
from lsrl.passes.pipeline import Pipeline
from lsrl.testing.random_ops import COUNTING, EDGE_OPS, LINEAR_OPS, OPS
from lsrl.testing.random_programs import CONTINUOUS, random_program
from tests.grids import studied
from tests.strategies import (
    check_programs,
    depth_of,
    each_turn,
    edge_programs,
    inputs_of,
    ops_of,
    programs,
)

pytestmark = pytest.mark.one_in(2)

TARGETS = {"linear_rnn": LINEAR_OPS, "gated_linear_rnn": (*LINEAR_OPS, "product")}
CASES = [(target, dtype) for target in TARGETS for dtype in ("float32", "float64")]
OPTIONS = ("robust", "verbatim")
LENGTH = 64
DTYPES = ("float32", "float64", "bfloat16")
# Each target with one dtype, and the nightly run with all.
EDGE_CASES = [(name, DTYPES[i % 3]) for i, name in enumerate(registry.names())]
EDGE_LENGTH = 20

# Every compiled program stays in jax's cache, which nobody asks again.
PROGRAMS_A_CACHE = 25


@dataclass
class Tally:
    """How many programs of 8 ops or more are certified exact in float32, and the ops of those."""

    programs: int = 0
    exact: int = 0
    ops: Counter[str] = field(default_factory=Counter)

    def add(self, program: lsrl.Program, model: lsrl.Model) -> None:
        """Count one program."""
        if depth_of(program) < 8:
            return
        self.programs += 1
        numerics = numerics_of("float32")
        analyse = registry.find(model.target).analysis(model.schedule, numerics)
        if certify(model.schedule, numerics, analyse).exact:
            self.exact += 1
            self.ops.update(ops_of(program))


def check_run(program: lsrl.Program, model: lsrl.Model) -> None:
    """Whole sequences equal the reference, or stay within the certificate's error bound."""
    inputs = inputs_of(program, LENGTH)
    expected, certificate = proven_run(program, inputs), model.certificate
    got = model.run(*inputs).astype(np.float64)
    compare(expected, got, certificate)
    if not certificate.exact:
        wrong = (got != expected).any(axis=(0, 2))
        assert not wrong[: certificate.reasons[0].token].any()


def proven_run(program: lsrl.Program, inputs: list[Array]) -> Array:
    """What the program says, where all that is proven of its signals holds."""
    (values,) = evaluate(program.graph, inputs, theorems=True).values()
    return values.astype(np.float64)


def check_step(program: lsrl.Program, model: lsrl.Model, tokens: int = 5) -> None:
    """So does a token at a time."""
    inputs = [array[3] for array in inputs_of(program, tokens)]
    expected, state, outputs = program.run(*inputs), model.init_state(), []
    for token in range(tokens):
        output, state = model.step(state, *(array[token] for array in inputs))
        outputs.append(output.astype(np.float64))
    compare(expected, np.stack(outputs), model.certificate)


def compare(expected: Array, got: Array, certificate: lsrl.certificate.Certificate) -> None:
    """Equal where the certificate says exact, else within its bound."""
    if certificate.exact:
        np.testing.assert_array_equal(got, expected)
    else:
        assert np.isfinite(certificate.error_bound)
        assert np.abs(got - expected).max() <= certificate.error_bound


def check_models(target: str, dtype: str, turn: int | None, count: int, record_property) -> Tally:
    """Compile, run and step random programs, and report how many are certified exact."""
    tally, seen = Tally(), 0

    def check(program: lsrl.Program) -> None:
        nonlocal seen
        seen += 1
        model = lsrl.compile(program, target, dtype=dtype)
        tally.add(program, model)
        check_run(program, model)
        if seen % 4 == 0:
            check_step(program, model)
        if seen % PROGRAMS_A_CACHE == 0:
            jax.clear_caches()

    check_programs(turn, count, programs(TARGETS[target], max_length=LENGTH), check)
    record_property("random programs", tally.programs)
    record_property("random programs certified exact", tally.exact)
    assert tally.exact >= tally.programs / 2
    return tally


@each_turn
@pytest.mark.parametrize(("target", "dtype"), CASES)
def test_models_equal_the_reference(target, dtype, turn, record_property) -> None:
    check_models(target, dtype, turn, 6, record_property)


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "dtype"), CASES)
def test_many_models_equal_the_reference(target, dtype, record_property) -> None:
    tally = check_models(target, dtype, None, 600, record_property)
    assert set(tally.ops) == set(TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
def test_a_program_of_each_op_is_certified_exact(target) -> None:
    for op in TARGETS[target]:
        program = random_program(0, [op], depth=2, width=4, max_length=LENGTH)
        assert lsrl.compile(program, target).certificate.exact, op


def check_edges(target: str, dtype: str, program: lsrl.Program) -> None:
    """As `check_run`, where a target may refuse a program, or know no bound of its error."""
    inputs = inputs_of(program, EDGE_LENGTH)
    expected = proven_run(program, inputs)
    try:
        model = lsrl.compile(program, target, dtype=dtype)
    except (UnsupportedOpError, PrecisionError):
        return
    got, certificate = model.run(*inputs).astype(np.float64), model.certificate
    if certificate.exact:
        np.testing.assert_array_equal(got, expected)
        return
    first = certificate.reasons[0].token
    np.testing.assert_array_equal(got[:, :first], expected[:, :first])
    if np.isfinite(certificate.error_bound):
        assert np.abs(got - expected).max() <= certificate.error_bound


@pytest.mark.parametrize(("target", "dtype"), EDGE_CASES)
@settings(max_examples=2)
@given(program=edge_programs(EDGE_LENGTH))
def test_programs_at_the_edges(target, dtype, program) -> None:
    check_edges(target, dtype, program)


@pytest.mark.nightly
@pytest.mark.parametrize("target", registry.names())
@settings(max_examples=250)
@given(program=edge_programs(EDGE_LENGTH), dtype=st.sampled_from(DTYPES))
def test_many_programs_at_the_edges(target, program, dtype) -> None:
    """2,000 a night over all targets."""
    check_edges(target, dtype, program)
    jax.clear_caches()


@settings(max_examples=30)
@given(program=edge_programs(EDGE_LENGTH))
def test_what_is_proven_at_the_edges_holds(program) -> None:
    inputs = inputs_of(program, EDGE_LENGTH)
    rationals = evaluate(program.graph, inputs, exact=True, theorems=True)[program.graph.output]
    np.testing.assert_array_equal(program.run(*inputs), rationals.astype(np.float64))


def check_option(option: str, target: str, program: lsrl.Program) -> None:
    """Another way of lowering gives the same outputs, under a certificate of its own."""
    model = lsrl.compile(program, target, **{option: True})
    check_run(program, model)
    check_step(program, model)


@each_turn
@pytest.mark.parametrize("target", studied(TARGETS, "linear_rnn"))
@pytest.mark.parametrize("option", OPTIONS)
def test_options_keep_the_outputs(option, target, turn) -> None:
    drawn = programs(max_length=LENGTH)
    check_programs(turn, 2, drawn, partial(check_option, option, target))


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=300)
@given(program=programs(max_length=LENGTH))
def test_options_keep_the_outputs_of_many_programs(option, target, program) -> None:
    check_option(option, target, program)


@settings(max_examples=4)
@given(program=programs())
def test_saved_models_run_bit_equal(tmp_path_factory, program) -> None:
    path = tmp_path_factory.mktemp("models") / "model.lsrl"
    target = "linear_rnn" if depth_of(program) % 2 else "gated_linear_rnn"
    model = lsrl.compile(program, target)
    model.save(path)
    loaded = lsrl.load(path)
    assert loaded.program.graph.dump() == program.graph.dump()
    assert loaded.certificate == model.certificate
    inputs = inputs_of(program, 20)
    np.testing.assert_array_equal(loaded.run(*inputs), model.run(*inputs))


# ---------------------------------------------------------------------- evaluator, facts, passes


def check_facts(graph: Graph, inputs: list[Array], tokens: int) -> None:
    """Every value of every live node lies in the interval and on the grid that facts tell."""
    live = graph.live()
    values = evaluate(graph, [array[:, :tokens] for array in inputs], exact=True, wanted=live)
    facts = graph.facts_at(tokens)
    for node in live:
        what = f"{graph.label(node)} over {tokens} tokens"
        assert_holds(facts[node], values[node].reshape(-1, graph.nodes[node].width), what)


def assert_holds(facts: Facts, values: Array, what: str) -> None:
    rounded = values.astype(np.float64)
    assert (rounded >= facts.low).all(), what
    assert (rounded <= facts.high).all(), what
    for step, channel in zip(facts.step, values.T, strict=True):
        if np.isinf(step):
            assert not channel.any(), what
        elif step > 0:
            grid = Fraction(float(step))
            assert all((Fraction(value) / grid).denominator == 1 for value in set(channel)), what
    if facts.one_hot:
        assert np.isin(rounded, (0, 1)).all(), what
        assert (rounded.sum(axis=1) <= 1).all(), what


@each_turn
def test_facts_are_sound(turn) -> None:
    def check(program: lsrl.Program) -> None:
        inputs = inputs_of(program, 12)
        for tokens in (1, 3, 12):
            check_facts(program.graph, inputs, tokens)

    check_programs(turn, 20, programs(OPS), check)


@each_turn
def test_float64_agrees_with_rationals_where_it_is_proven(turn) -> None:
    check_programs(turn, 20, programs(OPS), check_float64)


def check_float64(program: lsrl.Program) -> None:
    """Equal to rationals, and so is what `run` chooses."""
    tokens = 12
    inputs = inputs_of(program, tokens)
    rationals = program.run(*inputs, exact=True)
    if float64_is_exact(program.graph, tokens):
        (values,) = evaluate(program.graph, inputs, exact=False).values()
        np.testing.assert_array_equal(values, rationals)
    np.testing.assert_array_equal(program.run(*inputs), rationals.astype(np.float64))


def check_passes(program: lsrl.Program, target: str, tokens: int = 24) -> None:
    """Every pass, one at a time, preserves the output, and keeps facts sound."""
    inputs = [array[1:] for array in inputs_of(program, tokens)]
    (expected,) = evaluate(program.graph, inputs).values()

    def check(name: str, graph: Graph) -> None:
        assert list(graph.inputs.values()) == list(program.graph.inputs.values())
        # Rationals, unless float64 is proven to do as well.
        (values,) = evaluate(graph, inputs).values()
        np.testing.assert_array_equal(values, expected, err_msg=f"{name}, {target}")

    recorder = Pipeline(watch=check)
    graph = recorder.simplify(program.graph)
    check_facts(graph, inputs, 6)
    if support.offending(graph, registry.find(target)):
        return
    graph = recorder.legalise(graph, registry.find(target).capabilities)
    check_facts(graph, inputs, 6)
    native = registry.find(target).capabilities.native
    assert {type(graph.nodes[i].op) for i in graph.live()} <= native


@each_turn
@pytest.mark.parametrize("target", TARGETS)
def test_every_pass_preserves_values(target, turn) -> None:
    check_programs(turn, 4, programs(), partial(check_passes, target=target))


@each_turn
def test_simplifying_preserves_every_kind_of_op(turn) -> None:
    check_programs(turn, 5, programs(OPS), partial(check_passes, target="gated_linear_rnn"))


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=300)
@given(program=programs())
def test_every_pass_preserves_many_values(target, program) -> None:
    check_passes(program, target)


# ---------------------------------------------------------------------- the generator itself


def test_equal_arguments_give_equal_programs() -> None:
    for seed in range(5):
        first, second = random_program(seed), random_program(seed)
        assert first.graph.dump() == second.graph.dump()
        assert first.inputs == second.inputs
    assert random_program(0).graph.dump() != random_program(1).graph.dump()


def test_programs_are_as_described() -> None:
    drawn = [random_program(seed, OPS) for seed in range(80)]
    assert all(depth_of(program) == 8 for program in drawn)
    assert {op for program in drawn for op in ops_of(program)} == set(OPS)
    assert 8 < sum(len(program.inputs) == 2 for program in drawn) < 32
    signals = [
        program.graph.nodes[i].width
        for program in drawn
        for i in program.graph.live()
        if program.graph.nodes[i].names
    ]
    assert max(signals) == 16
    assert random_program(3, depth=20, width=4).name == "random_3"
    assert depth_of(random_program(3, depth=20, width=4)) == 20


def test_programs_at_the_edges_are_as_described() -> None:
    edges = [random_program(seed, EDGE_OPS, depth=4, width=4) for seed in range(30)]
    assert {op for program in edges for op in ops_of(program)} == set(EDGE_OPS)
    scaled = [random_program(seed, ["scale"], depth=2, width=2) for seed in range(30)]
    sizes = np.array([p.graph.facts[i].magnitude.max() for p in scaled for i in p.graph.live()])
    for end in (2.0**-1000, 2.0**-120, 2.0**110, 2.0**1000):
        assert ((sizes > end / 2.0**20) & (sizes < end * 2.0**20)).any()

    endless = [random_program(seed, (*OPS, *EDGE_OPS), 4, 4, None) for seed in range(20)]
    assert all(program.max_length is None for program in endless)
    assert not any(ops_of(program) & set(COUNTING) for program in endless)

    started = [random_program(seed, LINEAR_OPS, 4, 4, starting=1) for seed in range(20)]
    ops = [program.graph.nodes[i].op for program in started for i in program.graph.live()]
    starts = [op.initial for op in ops if isinstance(op, Delay | Latch)]
    assert starts
    assert all(0 not in row for row in starts)

    several = [random_program(seed, depth=2, many_inputs=True) for seed in range(12)]
    assert {len(program.inputs) for program in several} == {3, 4}
    analog = [random_program(seed, depth=2, width=2, continuous=True) for seed in range(12)]
    assert all(program.inputs["z"] == CONTINUOUS for program in analog)
    assert all((program.graph.facts[program.graph.output].step == 0).any() for program in analog)
    three = (Vector(1, low=0, high=1, step=1),) * 3
    assert list(random_program(0, inputs=three).inputs.values()) == list(three)


def test_every_kind_of_transition_is_drawn() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(40):
        graph = random_program(seed, ["linear_state", "affine", "clip"]).graph
        for i in graph.live():
            op = graph.nodes[i].op
            if isinstance(op, LinearState) and len(op.initial) > 1:
                kinds[kind_of(op.transition.dense())] += 1
    assert set(kinds) == {"identity", "shift", "permutation", "signed permutation", "general"}
    assert min(kinds.values()) >= 3


def kind_of(matrix: Array) -> str:
    size = len(matrix)
    one_each = (np.abs(matrix).sum(axis=0) == 1).all() and (np.abs(matrix).sum(axis=1) == 1).all()
    if (matrix == np.eye(size)).all():
        return "identity"
    if (matrix == np.eye(size, k=-1)).all():
        return "shift"
    if one_each and np.isin(matrix, (0, 1)).all():
        return "permutation"
    return "signed permutation" if one_each and np.isin(matrix, (-1, 0, 1)).all() else "general"


def test_few_ops_still_make_programs() -> None:
    for name in (*OPS, *EDGE_OPS):
        program = random_program(1, [name], max_length=16)
        assert ops_of(program) == {name}
        program.run(*inputs_of(program, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be an int >= 0, got -1"),
        ({"seed": 0, "depth": 0}, "depth must be an int >= 1"),
        ({"seed": 0, "width": 1.5}, "width must be an int >= 1, got 1.5"),
        ({"seed": 0, "max_length": True}, "max_length must be an int"),
        ({"seed": 0, "ops": ["relu", "softmax"]}, "got softmax"),
        ({"seed": 0, "ops": []}, "none at all"),
        ({"seed": 0, "inputs": []}, "at least one input"),
        ({"seed": 0, "ops": ["cumsum"], "max_length": None}, "all these ops count"),
    ],
)
def test_bad_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ProgramError, match=message):
        random_program(**arguments)
