"""Prompts by gradient, straight-line programs whose fields are distributions, and the standard
library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl import machine
from lsrl.errors import InputError

pytestmark = pytest.mark.one_in(2)

CELLS = ("x", "y", "one", "t", "out")


# ---------------------------------------------------------------- prompts


def test_the_table_of_a_function_is_found_from_its_answers():
    program = lsrl.programs.function_table(3, 3, 16)
    layer = lsrl.nn.CompiledLayer(program, backward="local")
    loss = lsrl.nn.answers_loss(layer)
    for answers in ([2, 0, 1], [1, 1, 2]):
        prompt = lsrl.nn.Prompt(3, {"token": 3}, tries=2)
        examples = jnp.arange(3)[:, None], jnp.array(answers)
        right = lsrl.nn.answers_right(layer, examples)
        found = lsrl.nn.improve_prompt(prompt, loss, examples, right, rounds=4)
        assert found is not None
        assert found["token"].tolist() == answers


@pytest.mark.studies
def test_what_no_prompt_does_is_not_found():
    program = lsrl.programs.function_table(2, 2, 16)
    layer = lsrl.nn.CompiledLayer(program, backward="local")
    prompt = lsrl.nn.Prompt(2, {"token": 2}, tries=2)
    examples = jnp.array([[0], [0]]), jnp.array([0, 1])  # one question, two answers
    found = lsrl.nn.improve_prompt(
        prompt,
        lsrl.nn.answers_loss(layer),
        examples,
        lambda ids: np.zeros(2, bool),
        updates=5,
        rounds=2,
    )
    assert found is None


def test_tries_are_drawn_anew():
    prompt = lsrl.nn.Prompt(3, {"f": 2, "a": 5}, tries=4, seed=1)
    first, shapes = prompt(), {name: each.shape for name, each in prompt().items()}
    assert shapes == {"f": (4, 3, 2), "a": (4, 3, 5)}
    np.testing.assert_allclose(first["a"].sum(-1), 1, atol=1e-6)
    prompt.restart(2)
    assert not np.array_equal(prompt()["a"], first["a"])
    prompt.restart(1)
    np.testing.assert_array_equal(prompt()["a"], first["a"])


def test_positions_hold_what_they_may_and_nothing_else():
    allowed = np.array([[True, True, False, False], [False, False, True, True]])
    prompt = lsrl.nn.Prompt(2, {"token": 4, "f": 2}, tries=3, allowed={"token": allowed})
    for seed in range(3):
        prompt.restart(seed)
        assert not prompt()["token"][:, ~allowed].any()
        assert (prompt()["f"] > 0).all()

    def loss(fields, _):  # what is best is not allowed
        return -jnp.log(fields["token"][:, 0, 3] + fields["token"][:, 1, 2] + 1e-3)

    found = lsrl.nn.improve_prompt(
        prompt, loss, None, lambda ids: ids["token"][:, 1] == 2, rounds=2
    )
    assert found["token"][0] in (0, 1)
    assert not prompt()["token"][:, ~allowed].any()
    prompt.begin({"token": np.array([1, 3]), "f": np.array([0, 0])})
    assert not prompt()["token"][:, ~allowed].any()
    with pytest.raises(InputError, match="position 1 of 'token' may not hold 0"):
        prompt.begin({"token": np.array([1, 0]), "f": np.array([0, 0])})
    for wrong in (
        {"other": allowed}, {"token": allowed[:1]}, {"token": allowed * 1},
        {"token": np.zeros((2, 4), bool)}, [allowed],
    ):  # fmt: skip
        with pytest.raises(InputError, match="Prompt: allowed"):
            lsrl.nn.Prompt(2, {"token": 4}, allowed=wrong)


def test_answers_at_every_token_and_promises_that_are_kept():
    program = lsrl.programs.pipeline(steps=1, bound=3, as_token=True, max_length=16)
    layer = lsrl.nn.CompiledLayer(program, backward="local")
    data = np.array([[4, 3, 5], [3, 4, 3]])  # 1 0 2, 0 1 0
    sums = np.array([[4, 4, 6], [3, 4, 4]])
    told = {
        "token": np.stack(
            [lsrl.programs.pipeline_prompt(program, [said]) for said in
             ("total x", "plus x number 1", "total number number 2")]
        )
    }  # fmt: skip
    # The third comes to 4 at the second token, which is more than the bound.
    assert lsrl.nn.answers_right(layer, (data, sums))(told).tolist() == [True, False, False]
    last = np.where(np.arange(3) == 2, sums, -1)
    last[1] = -1
    for answers in (last, np.array([6, -1])):
        right = lsrl.nn.answers_right(layer, (data, answers))
        assert right(told).tolist() == [True, True, False]
    fields = {"token": jax.nn.one_hot(told["token"], layer.symbols)}
    loss = lsrl.nn.answers_loss(layer)
    every = loss(fields, (jnp.asarray(data), jnp.asarray(sums)))
    assert every.argmin() == 0
    one = loss(fields, (jnp.asarray(data), jnp.asarray(last)))
    np.testing.assert_allclose(one, loss(fields, (data[:1], sums[:1, -1])), rtol=1e-5)
    with pytest.raises(InputError, match=r"answers \(questions,\) or \(questions, tokens\)"):
        lsrl.nn.answers_right(layer, (data, sums[:, :2]))
    counts = lsrl.nn.CompiledLayer(lsrl.programs.histogram(3, 8))
    with pytest.raises(InputError, match="expected a program that gives tokens"):
        lsrl.nn.answers_right(counts, (data, sums))


@pytest.mark.studies
def test_the_prompt_of_one_network_for_all_is_found_from_answers():
    program = lsrl.programs.pipeline(steps=2, bound=7, as_token=True, max_length=32)
    layer = lsrl.nn.CompiledLayer(program, backward="local")
    choices = lsrl.programs.pipeline_choices(program)
    data = np.random.default_rng(0).integers(5, 10, (30, 6))
    before = np.pad(data[:, :-1], ((0, 0), (1, 0)), constant_values=7)
    examples = jnp.asarray(data), jnp.asarray(np.maximum(data, before))
    prompt = lsrl.nn.Prompt(8, {"token": layer.symbols}, allowed={"token": choices})
    right = lsrl.nn.answers_right(layer, examples)
    found = lsrl.nn.improve_prompt(prompt, lsrl.nn.answers_loss(layer), examples, right)
    assert found is not None
    commands = lsrl.programs.pipeline_commands(program, found["token"])
    assert any("previous" in command for command in commands)


# ---------------------------------------------------------------- straight lines


fields = st.fixed_dictionaries(
    {name: st.lists(st.integers(0, most), min_size=3, max_size=3)
     for name, most in (("f", 3), ("a", 4), ("b", 4), ("c", 4))}
)  # fmt: skip
contents = st.lists(st.lists(st.integers(-2, 2), min_size=5, max_size=5), min_size=2, max_size=2)
lines = lsrl.nn.StraightLine(CELLS, low=-16, high=16)
run = jax.jit(lambda fields, start: lines(fields, start))


@settings(deadline=None, max_examples=25)
@given(fields, contents)
def test_known_lines_do_what_the_machine_does(ids, start):
    """The FLEQ machine in plain Python, wherever numbers stay in the range."""
    images = [machine.assemble(lines.text(ids, each)) for each in start]
    plain = [machine.Fleq(image) for image in images]
    assert [each.run() for each in plain] == [4, 4]  # the last halts
    wanted = np.array([[one.memory[name] for name in CELLS] for one in plain])
    given_ids = {name: np.array(each) for name, each in ids.items()}
    np.testing.assert_array_equal(lines.run(given_ids, np.array(start)), wanted)
    hard = {
        name: jax.nn.one_hot(jnp.array(each)[None], lines.sizes[name]) for name, each in ids.items()
    }
    soft = run(hard, lines.start(np.array(start)))
    assert soft.shape == (1, 2, 5, 33)
    every = [
        lines.run({name: each[:k] for name, each in given_ids.items()}, np.array(start))
        for k in range(4)
    ]
    if max(np.abs(each).max() for each in every) <= 16:
        np.testing.assert_array_equal(soft[0].argmax(-1) - 16, wanted)
        np.testing.assert_array_equal(soft.max(-1), 1)


@pytest.mark.studies
def test_lines_are_recovered_from_examples():
    """(x + y) x, which is not written in one line."""
    inputs = np.array([[x, y, 1, 0, 0] for x in range(-2, 3) for y in range(-2, 3)])
    answers = (inputs[:, 0] + inputs[:, 1]) * inputs[:, 0]
    prompt = lsrl.nn.Prompt(2, lines.sizes, tries=16)
    examples = lines.start(inputs[::3]), jnp.asarray(answers[::3] - lines.low)

    def right(ids):
        each = [{name: rows[k] for name, rows in ids.items()} for k in range(16)]
        return [(lines.run(one, inputs[::3])[:, -1] == answers[::3]).all() for one in each]

    found = lsrl.nn.improve_prompt(prompt, lines.loss, examples, right)
    assert found is not None
    np.testing.assert_array_equal(lines.run(found, inputs)[:, -1], answers)


halting = lsrl.nn.StraightLine(("x", "y", "t", "out"), low=-8, high=8, halts=True)
# t = x + y, out = t + x, out = out - x
LONG = {
    name: np.array(each)
    for name, each in {
        "f": [0, 0, 1], "a": [0, 2, 3], "b": [1, 0, 0], "c": [2, 3, 3], "h": [0, 0, 0],
    }.items()
}  # fmt: skip
PAIRS = np.array([[x, y, 0, 0] for x in range(-2, 3) for y in range(-2, 3)])


def test_where_lines_halt_contents_are_the_mixture_of_all_ends():
    """At known lines and chances of halves and quarters, which are exact."""
    known = {
        name: jax.nn.one_hot(jnp.array(each)[None], halting.sizes[name])
        for name, each in LONG.items()
    }
    chances = jnp.array([[[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]])
    start, shares = halting.start(PAIRS), [0.5, 0.125, 0.375]
    ends = []
    for line in range(3):
        ids = {**LONG, "h": np.eye(3, dtype=int)[line]}
        assert halting.length(ids) == line + 1
        ends.append(np.eye(17)[halting.run(ids, PAIRS).astype(int) + 8])
        one = halting({**known, "h": jax.nn.one_hot(jnp.array(ids["h"])[None], 2)}, start)
        np.testing.assert_array_equal(one[0], ends[-1])
    fields = {**known, "h": chances}
    wanted = sum(share * end for share, end in zip(shares, ends, strict=True))
    np.testing.assert_array_equal(halting(fields, start)[0], wanted)
    # The charge is for the lines that are run in the mean, and for going past the last.
    examples = start, jnp.zeros(len(PAIRS), jnp.int32)
    charge = halting.shorter(length=2.0, halting=0.0)(fields, examples)
    loss = halting.loss(fields, examples)
    np.testing.assert_allclose(charge - loss, 2 * (1 * 0.5 + 2 * 0.125 + 3 * 0.375), rtol=1e-6)
    charge = halting.shorter(length=0.0, halting=1.0)(fields, examples)
    np.testing.assert_allclose(charge - loss, -np.log(1 - 0.375 + 1e-3), rtol=1e-5)


def test_a_prompt_that_is_right_becomes_shorter():
    answers = halting.run(LONG, PAIRS)[:, -1]

    def right(ids):
        each = [{name: rows[k] for name, rows in ids.items()} for k in range(len(ids["f"]))]
        return np.array([(halting.run(one, PAIRS)[:, -1] == answers).all() for one in each])

    prompt = lsrl.nn.Prompt(3, halting.sizes, tries=8)
    examples = halting.start(PAIRS), jnp.asarray(answers - halting.low, jnp.int32)
    found = lsrl.nn.improve_prompt(
        prompt, halting.shorter(), examples, right, rounds=2, begin=LONG, cost=halting.length
    )
    assert (halting.length(LONG), halting.length(found)) == (3, 1)
    np.testing.assert_array_equal(halting.run(found, PAIRS)[:, -1], answers)
    text = halting.text(found, [0, 0, 0, 0])
    assert text.count(" = ") == 1
    images = [machine.assemble(text).put(x=x, y=y) for x, y in PAIRS[:, :2].tolist()]
    out = images[0].address("out")
    fleq = lsrl.programs.fleq(cells=8, lines=3)
    said = [machine.interpret(fleq, each).dump()[out, 0] for each in images[::6]]
    np.testing.assert_array_equal(said, answers[::6])


# ---------------------------------------------------------------- the library to begin with


@pytest.fixture(scope="module")
def library():
    return lsrl.nn.Library.standard(3)


WANTED = {
    "increment": lambda digits: [(x + 1) % 3 for x in digits],
    "negative": lambda digits: [-x % 3 for x in digits],
    "is_zero": lambda digits: [int(x == 0) for x in digits],
    "total": lambda digits: [int(x) for x in np.cumsum(digits) % 3],
    "previous": lambda digits: [0, *digits[:-1]],
    "rise": lambda digits: [(x - y) % 3 for x, y in _pairs(digits)],
    "greatest": lambda digits: np.maximum.accumulate(digits).tolist(),
    "least": lambda digits: np.minimum.accumulate(digits).tolist(),
    "remainder_2": lambda digits: [x % 2 for x in digits],
    "larger": lambda digits: [max(pair) for pair in _pairs(digits)],
    "same": lambda digits: [int(x == y) for x, y in _pairs(digits)],
    "above": lambda digits: [int(x > y) for x, y in _pairs(digits)],
}


def _pairs(digits):
    return zip(digits, [0, *digits[:-1]], strict=True)


def test_the_standard_library_has_the_skills_of_induction(library):
    assert library.model.certificate.exact
    assert len(library.names) >= 16
    assert set(library.names) >= set(WANTED)
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 3, 12)
    words = np.insert(digits, [2, 7], library.skip)  # which leaves every routine as it is
    places = words != library.skip
    for name, wanted in WANTED.items():
        choice = np.eye(len(library.names), dtype=np.float32)[library.names.index(name)]
        choices = jnp.broadcast_to(jnp.asarray(choice), (1, len(words), len(choice)))
        said = library(jnp.asarray(words)[None], choices)[0].argmax(-1)
        assert said[places].tolist() == wanted(digits.tolist()), name


@pytest.mark.studies
def test_learnt_skills_are_routines():
    skills = lsrl.induction.Skills()

    @skills.add
    def doubled(x):
        return 2 * x

    library = lsrl.nn.Library.standard(3, skills)
    assert library.names == ("doubled",)
    with pytest.raises(InputError, match="no skill of constant_one is a finite machine"):
        lsrl.nn.Library.standard(3, lsrl.induction.Skills(constant_one))


def constant_one(x):
    return 0 * x + 1


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lsrl.nn.Prompt(0, {"token": 2}), "Prompt: length must be an int >= 1"),
        (lambda: lsrl.nn.Prompt(2, {}), "expected sizes of fields by name"),
        (lambda: lsrl.nn.Prompt(2, {"f": 0}), "size of 'f' must be an int >= 1"),
        (lambda: lsrl.nn.StraightLine([]), "different cells"),
        (lambda: lsrl.nn.StraightLine(["x", "x"]), "different cells"),
        (lambda: lsrl.nn.StraightLine(["x"], ["ad"]), "did you mean 'add'"),
        (lambda: lsrl.nn.StraightLine(["x"], low=1), "-low must be an int >= 0"),
        (lambda: lines.start(np.array([[0, 0, 0, 0, 17]])), "whole numbers from -16 to 16"),
        (lambda: lines.start(np.zeros((2, 4))), r"\(examples, 5\)"),
        (lambda: lsrl.nn.answers_loss("layer"), "expects a CompiledLayer"),
        (lambda: lines.shorter(), r"make them by StraightLine\(cells, halts=True\)"),
        (lambda: lines.length({"f": [0]}), r"make them by StraightLine\(cells, halts=True\)"),
        (lambda: lsrl.nn.Prompt(2, {"f": 2}).begin({"a": np.zeros(2, int)}), "values of f by name"),
        (
            lambda: lsrl.nn.Prompt(2, {"f": 2}).begin({"f": np.array([0, 2])}),
            r"expected 2 ints from 0 to 1 for 'f', got \[0, 2\]",
        ),
        (
            lambda: lsrl.nn.improve_prompt("p", lines.loss, (), lambda ids: []),
            "improve_prompt expects a Prompt",
        ),
        (
            lambda: lsrl.nn.improve_prompt(lsrl.nn.Prompt(1, {"f": 2}), 3, (), lambda ids: []),
            "loss must be a function, got 3",
        ),
        (lambda: lsrl.nn.Library.standard(1), "symbols must be an int >= 2"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
