"""Induction finds programs that are right beyond their examples, and claims no more than it saw."""

import numpy as np
import pytest

import lsrl
from benchmarks.mips import TASKS
from lsrl.errors import InductionError, InputError, LsrlError
from lsrl.induction import Skills, machines, standard
from lsrl.induction.expressions import Expression, evaluated
from lsrl.induction.operators import BIT, SMALL, Kind, Operator, Skill
from lsrl.programs.prompted import total

pytestmark = pytest.mark.one_in(2)

BUDGET = 12_000
# What finds each, by the shortest description.
SOLVED = {
    "Sum_All": "affine", "Prev5": "affine", "Sum_Last7": "affine", "Newton_Magnetic": "affine",
    "Evens_Counter": "affine", "Binary_Addition": "automaton", "Div_5": "automaton",
    "Parity_All": "compose", "Abs_Diff": "compose",
    "Max_Seen": "compose", "Majority_0_2": "compose", "Balanced_Parenthesis": "compose",
}  # fmt: skip


def fed(task, inputs):
    """Inputs as programs read them."""
    pairs = zip(task.types.values(), inputs, strict=True)
    return [each if isinstance(kind, lsrl.Token) else each[..., None] for kind, each in pairs]


def right(task, runs, tokens, seed=99):
    """Whether all outputs of fresh inputs are right."""
    inputs, outputs = task.data(50, tokens, seed)
    said = np.asarray(runs.run(*fed(task, inputs)))
    return np.array_equal(said, outputs.reshape(said.shape))


def operations(program):
    """What a program computes, whatever its lines."""
    return [(node.op, node.operands) for node in program.graph.nodes]


def induced(name, validated=30, **options):
    task = TASKS[name]
    return lsrl.induce(
        task.data(300, 10, 0), inputs=task.types, validation=task.data(100, validated, 1),
        budget=BUDGET, max_length=max(50, task.longest // 2), **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", SOLVED)
def test_tasks_are_solved_beyond_their_examples(name):
    found = induced(name)
    assert found[0].solver == SOLVED[name]
    assert found.verified_to == 30
    assert [each.bits for each in found] == sorted(each.bits for each in found)
    assert all(right(TASKS[name], each.program, 50) for each in found)
    space = {}
    exec(found.source(), space)  # the text is the program
    assert operations(space["induced"]) == operations(found.program)


@pytest.mark.parametrize("name", ["Balanced_Parenthesis", "Majority_0_1", "Bit_Palindrome"])
def test_a_machine_that_fits_by_chance_is_refused(name):
    """Each has a finite machine for its examples, and none at greater lengths."""
    found = induced(name, solvers=["automaton"])
    assert not found
    unchecked = lsrl.induce(TASKS[name].data(300, 10, 0), solvers=["automaton"])
    assert unchecked.verified_to is None
    assert not right(TASKS[name], unchecked.program, 50)
    with pytest.raises(InductionError, match=r"nothing agrees with all examples.*validation"):
        _ = found.program


def test_a_machine_is_not_verified_where_it_was_not_tried():
    """The least digit so far: a state a digit, and the great ones are rarely passed through."""
    task = TASKS["Min_Seen"]
    doubts = []
    for seed in range(4):
        found = lsrl.induce(
            task.data(200, 10, seed), inputs=task.types, validation=task.data(20, 30, seed + 50),
            solvers=["automaton"],
        )  # fmt: skip
        doubts += [each.doubt for each in found]
        assert all(each.verified_to is None for each in found)
    assert any("transitions are in the validation less than 2 times" in each for each in doubts)


def test_examples_verify_nothing():
    x = np.random.default_rng(0).integers(0, 2, (40, 8))
    y = np.cumsum(x, axis=1) % 2
    assert lsrl.induce((x, y), solvers=["automaton"]).verified_to is None
    assert lsrl.induce((x, y), validation=(x, y), solvers=["automaton"]).verified_to is None
    shorter = lsrl.induce((x, y), validation=(x[:, :6], y[:, :6]), solvers=["automaton"])
    assert shorter.verified_to is None


def test_the_shortest_candidate_that_a_target_holds_is_compiled():
    """Mamba holds no machine with parity, and a sum modulo 2."""
    machine = induced("Parity_All", solvers=["automaton"])
    with pytest.raises(InductionError, match="mamba holds no candidate:\nautomaton: "):
        machine.compile("mamba")
    model = induced("Parity_All").compile("linear_rnn")
    assert model.certificate.exact
    assert right(TASKS["Parity_All"], model, 100)


def test_skills_of_ones_own_are_composed_and_written_out():
    skills = Skills(total, standard.remainder)

    @skills.add
    def rises(x):
        return x > lsrl.delay(x)

    rng = np.random.default_rng(0)

    def task(x):
        return np.cumsum(x > np.pad(x, ((0, 0), (1, 0)))[:, :-1], axis=1) % 3

    x, longer = rng.integers(0, 6, (60, 10)), rng.integers(0, 6, (60, 40))
    found = lsrl.induce((x, task(x)), validation=(longer, task(longer)), skills=skills)
    assert found.expression == "remainder(total(rises(x)), n=3)"
    assert "def rises(x):\n    return x > lsrl.delay(x)" in found.source()
    assert "return lsrl.cumsum(rises(x)) % 3" in found.source()
    space = {}
    exec(found.source(), space)
    np.testing.assert_array_equal(space["induced"].run(longer)[..., 0], task(longer))
    less = lsrl.induce(
        (x, task(x)), skills=skills.without("rises"), solvers=["compose"], budget=5_000
    )
    assert not less
    assert less.tried <= 5_000


@pytest.mark.parametrize("function", standard.STANDARD, ids=lambda each: each.__name__)
def test_a_skill_means_what_its_program_does(function):
    """On batches of streams as in a program by itself, in the evaluator's own float64."""
    skill = Skills(function).skills[0]
    operator = Operator(skill, 3 if skill.constant else None)
    rng = np.random.default_rng(0)
    for bits in range(2**skill.operands):
        places = [BIT if bits >> k & 1 else SMALL for k in range(skill.operands)]
        made = operator.on([Kind(1, place) for place in places], 9)
        if made is None:
            continue
        ends = [(0, 1) if place == BIT else (-64, 64) for place in places]
        streams = [rng.integers(low, high + 1, (50, 9, 1)) for low, high in ends]
        values, kept = made([stream.astype(np.float32) for stream in streams])
        assert (kept == 9).all()
        kinds = [lsrl.Vector(1, low=low, high=high, step=1) for low, high in ends]

        def program(x, y=None, skill=skill, constant=operator.number):
            operands = [x, y][: skill.operands]
            return skill.function(*operands, **({skill.constant: constant} if constant else {}))

        program.__annotations__ = dict(zip("xy", kinds, strict=False))
        expected = lsrl.program(max_length=9)(program).run(*streams)
        np.testing.assert_array_equal(values, expected)
        return
    pytest.fail("no kind of stream fits")


def test_random_recurrences_are_found():
    """Of integers, order up to 4, from 40 sequences of 14 tokens."""
    rng = np.random.default_rng(3)
    for order in (1, 2, 3, 4):
        feedback, taps = rng.integers(-1, 2, order), rng.integers(1, 4, order)
        x = rng.integers(-3, 4, (40, 30))
        y = np.zeros_like(x)
        for t in range(30):
            for j in range(min(t + 1, order)):
                y[:, t] += taps[j] * x[:, t - j]
            for j in range(min(t, order)):
                y[:, t] += feedback[j] * y[:, t - 1 - j]
        found = lsrl.induce(
            (x[:, :14], y[:, :14]), validation=(x, y), solvers=["affine"], max_length=30
        )
        assert found.verified_to == 30, found


def test_real_numbers_have_real_taps():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (50, 12))
    late = np.pad(x, ((0, 0), (2, 0)))[:, :-2]
    y = 0.3 * x - 0.25 * late
    found = lsrl.induce((x[:, :8], y[:, :8]), validation=(x, y))
    assert found[0].solver == "affine"
    assert "lsrl.delay(0.25 * x, 2)" in found.expression
    np.testing.assert_allclose(found.program.run(x[..., None])[..., 0], y, atol=1e-12)


def test_tokens_and_vectors_in_one_task():
    rng = np.random.default_rng(0)
    switch, pair = rng.integers(0, 2, (80, 9)), rng.integers(-5, 6, (80, 9, 2))
    y = np.stack([np.cumsum(switch * pair[..., 0], axis=1), pair.max(axis=2)], axis=2)
    types = {"switch": lsrl.Token(2), "pair": lsrl.Vector(2, low=-5, high=5, step=1)}
    found = lsrl.induce([({"switch": s, "pair": p}, each) for s, p, each in zip(switch, pair, y,
                        strict=True)], inputs=types)  # fmt: skip
    np.testing.assert_array_equal(found.program.run(switch, pair), y)


def test_a_teacher_is_asked():
    rng = np.random.default_rng(5)
    follows, answers = rng.integers(0, 7, (7, 3)), rng.integers(0, 3, (7, 3))
    asked = []

    def teacher(x):
        asked.append(x.shape)
        state, said = np.zeros(len(x), int), np.zeros_like(x)
        for t in range(x.shape[1]):
            said[:, t], state = answers[state, x[:, t]], follows[state, x[:, t]]
        return said

    found = lsrl.induce(teacher=teacher, inputs={"x": lsrl.Token(3)}, solvers=["automaton"])
    assert found.verified_to == 50
    x = rng.integers(0, 3, (50, 200))
    np.testing.assert_array_equal(found.program.run(x)[..., 0], teacher(x))
    assert len(asked) > 3


def test_merging_finds_random_machines():
    """From words of 12 letters, whatever the tables."""
    rng = np.random.default_rng(1)
    for states in (2, 4, 6):
        follows, answers = rng.integers(0, states, (states, 2)), rng.integers(0, 3, (states, 2))
        true = machines.Machine(*(tuple(map(tuple, t.tolist())) for t in (follows, answers)), ())
        words = rng.integers(0, 2, (400, 12))
        made = machines.merged([(words, true.run(words))], 2)
        assert len(made[0]) <= states
        long = rng.integers(0, 2, (100, 60))
        np.testing.assert_array_equal(machines.Machine(*made, ()).run(long), true.run(long))


def test_what_breaks_a_promise_is_no_stream():
    def small(x):
        return lsrl.bound(x, -2, 2)

    tall = np.array([[[1], [3]]], np.float32)
    made = Operator(Skill("small", small, 1)).on([Kind(1, SMALL)], 2)
    assert made([tall])[1].tolist() == [1]
    x = Expression(leaf="x")
    whole = Expression(Operator(Skill("small", small, 1)), (x,))
    assert evaluated(whole, {"x": (tall, Kind(1, SMALL))}) is None


X = np.array([[1, 0, 1], [0, 1, 1]])


def divides(x):
    return 1 / 0


def halves(x):
    return x / 2


MISUSES = {
    "none": (lambda: lsrl.induce([]), "there are none; examples are a list of pairs"),
    "nothing": (lambda: lsrl.induce(), "there are no examples; give pairs"),
    "no pairs": (lambda: lsrl.induce([1, 2]), "number 0 is no pair, got 1"),
    "lengths of sequences": (
        lambda: lsrl.induce([([1, 0], [1, 0]), ([1, 0, 1], [1, 0])]),
        "number 1: lengths differ: input 'x' has 3 tokens, the outputs 2",
    ),
    "lengths of outputs": (lambda: lsrl.induce((X, X[:, :2])), "outputs have one row a token"),
    "contradictions": (
        lambda: lsrl.induce([([1, 0], [1, 0]), ([1, 1], [0, 0])]),
        r"sequences 0 and 1 are equal up to token 0.*\[1.0\] and \[0.0\]; 1 of 4 outputs are not",
    ),
    "a validation that contradicts": (
        lambda: lsrl.induce((X, X), validation=(X, 1 - X)),
        "examples and validation.*contradict",
    ),
    "outside the range": (
        lambda: lsrl.induce((2 * X, X), inputs={"x": lsrl.Token(2)}),
        "got 2 at sequence 0, token 0; inputs=.*declares types",
    ),
    "other names": (
        lambda: lsrl.induce(([X, X], X), inputs={"a": lsrl.Token(2)}), "expected one sequence"
    ),
    "text": (lambda: lsrl.induce((X.astype(str), X)), "expected numbers"),
    "nan": (lambda: lsrl.induce((X, X * np.nan)), "NaN"),
    "budget": (lambda: lsrl.induce((X, X), budget=0), "budget must be an int >= 1, got 0"),
    "solver": (lambda: lsrl.induce((X, X), solvers=["afine"]), "did you mean 'affine'"),
    "a skill that raises": (
        lambda: Skills(divides), r"'divides' \(.*test_induction.py:\d+\) raises ZeroDivisionError"
    ),
    "a skill of fractions": (lambda: Skills(halves), "makes no stream of integers"),
    "no function": (lambda: Skills(len), "a function with a name"),
    "twice": (lambda: Skills(total, total), "there is one of this name"),
    "a skill that is not there": (lambda: Skills.standard().without("totl"), "mean 'total'"),
    "a teacher that raises": (
        lambda: lsrl.induce(teacher=divides, inputs={"x": lsrl.Token(2)}),
        "the teacher raises ZeroDivisionError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_told(misuse):
    call, message = MISUSES[misuse]
    with pytest.raises(InputError, match=message):
        call()


def test_no_solver_leaves_an_empty_answer():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (30, 10))
    y = rng.integers(0, 90, (30, 10))
    y[:, 0] = 7 * x[:, 0]  # the rest is no function of few words
    with pytest.raises(LsrlError):
        lsrl.induce((x, y), budget=2_000).compile("lstm")


@pytest.mark.studies
def test_the_benchmark_runs(tmp_path):
    from benchmarks.induction import main

    main(quick=True, output=tmp_path, seed=7)
    assert "5 of 5 tasks are solved" in (tmp_path / "induction.md").read_text()
