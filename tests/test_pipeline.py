"""One network for all: what is composed is carried out by prompt alone, and its prompt is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from benchmarks import task_vectors
from lsrl.errors import InductionError, ProgramError
from lsrl.induction import Skills
from lsrl.induction.expressions import Expression
from lsrl.induction.operators import Operator
from lsrl.induction.prompting import commands_of
from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.programs import pipeline, pipeline_choices, pipeline_commands, pipeline_prompt
from lsrl.testing.random_ops import LINEAR_OPS
from lsrl.testing.random_programs import random_program
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(2)

WORDS = 4


def found(expression, solver="compose"):
    """A composition as `lsrl.induce` finds it."""
    program = task_vectors.program_of(expression)
    return lsrl.induction.Candidate(
        solver, program, str(expression), 0.0, None, "", "", (expression,)
    )


def by_prompt(program, tasks, x):
    """Prompts of those tasks that a pipeline has the steps for, and what their programs say."""
    prompts, expected = [], []
    for expression in tasks.values():
        candidate = found(expression)
        try:
            prompts.append(candidate.prompt_for(program, x))
        except InductionError:
            continue
        expected.append(candidate.program.run(x[..., None]))
    return np.concatenate(prompts), np.concatenate(expected)


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_prompt_is_read_as_it_is_written(steps, seed):
    program, rng = pipeline(steps=steps, bound=5), np.random.default_rng(seed)
    choices = pipeline_choices(program)
    prompt = np.array([rng.choice(np.flatnonzero(row)) for row in choices])
    commands = pipeline_commands(program, prompt)
    assert len(commands) == steps
    assert (pipeline_prompt(program, commands) == prompt).all()
    # What may not be there is refused on both sides.
    place = rng.integers(len(choices))
    prompt[place] = rng.choice(np.flatnonzero(~choices[place]))
    with pytest.raises(ProgramError, match=f"may not be at place {place} of a prompt"):
        pipeline_commands(program, prompt)
    with pytest.raises(ProgramError, match="expected"):
        pipeline_commands(program, prompt[:-1])


def test_every_task_is_carried_out_by_its_prompt_alone():
    known = task_vectors.skills()
    program = pipeline(known, steps=5, bound=63)
    x = np.random.default_rng(0).integers(-5, 6, (3, 12))
    prompts, expected = by_prompt(program, task_vectors.of(known), x)
    assert len(prompts) >= 3 * 40
    said = program.run(prompts)
    assert not said[:, : 5 * WORDS].any()
    assert (said[:, 5 * WORDS :] == expected).all()


@pytest.mark.nightly
def test_one_network_runs_them_all():
    known = task_vectors.skills()
    program = pipeline(known, steps=7, bound=63, constants=(2, 3))
    model = lsrl.compile(program, "rnn")
    assert model.certificate.exact
    assert model.num_nonzero_parameters <= 20_000
    x = np.random.default_rng(1).integers(-5, 6, (2, 12))
    prompts, expected = by_prompt(program, task_vectors.of(known), x)
    assert len(prompts) == 2 * len(task_vectors.of(known)) >= 2 * 36
    assert (model.run(prompts)[:, 7 * WORDS :] == expected).all()


@pytest.mark.studies
def test_a_checkpoint_of_transformers_runs_them(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    known = task_vectors.skills()
    few = known.without("increment", "larger", "greatest", "least", "smaller", "remainder")
    program = pipeline(few, steps=3, bound=7, as_token=True, max_length=40)
    lsrl.compile(program, "mamba").export("huggingface", tmp_path / "model")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    x = np.random.default_rng(0).integers(-1, 2, (2, 8))
    prompts = []
    for expression in task_vectors.of(known).values():
        try:
            prompts.append(pipeline_prompt(program, commands_of(expression, program), x))
        except InductionError:
            continue
    tokens = np.concatenate(prompts)
    legal, _ = evaluate_prefixes(program.graph, [tokens])
    tokens = tokens[legal == tokens.shape[1]]
    assert len(tokens) >= 20
    with torch.no_grad():
        said = network(torch.tensor(tokens)).logits.argmax(-1).numpy()
    assert (said == program.run(tokens)[..., 0]).all()
    text = "total x x 0 above r_1 number 1 keep r_2 x 0 1 0 1"
    ids = tokenizer(text, return_tensors="np").input_ids
    commands = ["total x", "above r_1 number 1"]
    assert (ids[0] == pipeline_prompt(program, commands, [1, 0, 1])).all()


def test_a_prompt_is_written_word_by_word():
    program = pipeline(steps=3, bound=7)
    names = program.inputs["token"].names
    prompt = pipeline_prompt(program, ["total x", ("above", "r_1", "number", 3)], [1, -2])
    assert [names[token] for token in prompt] == [
        *("total", "x", "x", "0"), *("above", "r_1", "number", "3"), *("keep", "r_2", "x", "0"),
        "1", "-2",
    ]  # fmt: skip
    assert pipeline_prompt(program, ["keep"], np.zeros((2, 5), int)).shape == (2, 17)


def test_learnt_skills_are_written_out_or_have_an_opcode():
    skills = Skills.standard().without("absolute")
    named = {skill.name: skill for skill in skills.skills}
    y = Expression(leaf="y")
    before = Expression(Operator(named["previous"]), (y,))
    rising = skills.learn("rising", Expression(Operator(named["above"]), (y, before)))
    twice = Expression(Operator(rising), (Expression(Operator(rising), (Expression(leaf="x"),)),))
    few = skills.without(*(name for name in skills if name not in ("above", "previous", "rising")))
    assert commands_of(twice, pipeline(few.without("rising"), steps=4)) == [
        "previous x x 0", "above x r_1 0", "previous r_2 x 0", "above r_2 r_3 0",
    ]  # fmt: skip
    block = pipeline(few, steps=2)
    assert commands_of(twice, block) == ["rising x x 0", "rising r_1 x 0"]
    x = np.array([1, 3, 2, 2, 5])
    prompt = pipeline_prompt(block, commands_of(twice, block), x)
    assert block.run(prompt)[8:, 0].tolist() == [1, 0, 0, 0, 1]


def test_what_a_pipeline_lacks_is_said():
    known = task_vectors.skills()
    tasks, small = task_vectors.of(known), pipeline(steps=2)
    with pytest.raises(InductionError, match=r"takes 4 steps, and the pipeline has 2.*steps=4"):
        found(tasks["greatest_drop"]).prompt_for(pipeline(known, steps=2))
    with pytest.raises(InductionError, match=r"has no remainder:2.*constants=\(2,\)"):
        found(tasks["odd"]).prompt_for(small)
    with pytest.raises(InductionError, match="number 9 is beyond the pipeline's bound=7"):
        commands_of(Expression(leaf="9"), small)
    recurrence = lsrl.induction.Candidate(
        "affine", task_vectors.program_of(tasks["double"]), "2 * x", 0.0, None, ""
    )
    with pytest.raises(InductionError, match="composition of one output, and this is the affine"):
        recurrence.prompt_for(small)
    with pytest.raises(ProgramError, match=r"made by lsrl\.programs\.pipeline"):
        found(tasks["odd"]).prompt_for(lsrl.programs.parity())
    with pytest.raises(ProgramError, match=r"command 1 \(plus r_1\): 'r_1' is none of x, position"):
        pipeline_prompt(small, ["plus r_1"])
    with pytest.raises(ProgramError, match="expected 1 to 2, one a step, got 3"):
        pipeline_prompt(small, ["keep"] * 3)
    with pytest.raises(ProgramError, match="from -7 to 7"):
        pipeline_prompt(small, ["keep"], [9])
    with pytest.raises(ProgramError, match="expected functions of signals"):
        pipeline([])
    with pytest.raises(ProgramError, match="is there twice"):
        pipeline({"x": lambda x, y: x + y})


def test_induction_finds_prompts():
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (60, 8))

    def task(x):
        return np.cumsum(x > 0, axis=1) % 2

    skills = Skills(*(s.function for s in task_vectors.skills().skills if s.name in (
        "is_positive", "total", "remainder", "plus"
    )))  # fmt: skip
    known = lsrl.induce((x, task(x)), skills=skills, solvers=["compose"], budget=20_000)
    program = pipeline(skills, steps=3, bound=15)
    longer = rng.integers(-3, 4, (4, 15))
    said = program.run(known.prompt_for(program, longer))
    assert (said[:, 3 * WORDS :, 0] == task(longer)).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_program_that_starts_late_is_as_if_it_had_just_begun(seed):
    rng = np.random.default_rng(seed)
    program = random_program(seed, (*LINEAR_OPS, "hold", "threshold_state"), depth=5, width=3)
    before = int(rng.integers(6))
    kind = next(iter(program.inputs.values()))
    if len(program.inputs) > 1:
        return

    @lsrl.program(max_length=64)
    def late(x: kind):
        start = lsrl.delay(lsrl.constant(1), before) if before else lsrl.constant(1)
        return program(x, start=start)

    (given,) = inputs_of(program, 20, seed)
    assert (late.run(given)[:, before:] == program.run(given[:, before:])).all()


def test_a_start_is_the_first_one_that_is_told():
    @lsrl.program(max_length=20)
    def count(x: lsrl.Token(3)):
        return lsrl.concat(lsrl.position(), lsrl.cycle(3), lsrl.cumsum(x == 1))

    @lsrl.program(max_length=20)
    def behind(x: lsrl.Token(3)):
        return count(x, start=x == 2)

    said = behind.run([1, 1, 2, 1, 1, 2, 0])
    assert said[2:].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 0, 2], [4, 1, 2]]
