"""Loops: outputs as the next input, on the evaluator and on every target."""

import json
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl import Feedback, MemoryMap, Token, Vector
from lsrl.backends import engine
from lsrl.circuit import OUTPUT
from lsrl.cli import app
from lsrl.errors import FormatError, InputError, ProgramError, PromiseError
from lsrl.program_json import content_text, program_content
from tests.grids import studied
from tests.machines import CELLS, countdown, drawn, interpreted, prompt_of, subleq
from tests.test_damaged import said_in_model, write_model

pytestmark = pytest.mark.one_in(2)

TARGETS = (
    "linear_rnn", "gated_linear_rnn", "rnn", "rnn_tanh", "lstm", "gru",
    "mamba", "mamba2", "griffin", "deltanet",
)  # fmt: skip
KEYS, STEPS = b"\x05\x07\x02", 40


def check_machines(run, images, keys=KEYS, steps=STEPS):
    for number, image in enumerate(images):
        memory, count, text, end = interpreted(image, steps, keys)
        assert run.steps[number] == count
        assert (run.halted[number], run.waiting[number]) == (end == "halted", end == "waiting")
        assert run.text[number] == text
        assert run.memory[number].tolist() == memory


def wandering(seed):
    """A program that wanders about among a few small vectors, and remembers some of the way."""
    random = np.random.default_rng(seed)
    width, size = int(random.integers(1, 3)), int(random.integers(3, 6))
    now, before = random.integers(-2, 3, (2, width, width))
    shift, far = random.integers(0, size, width), int(random.integers(1, 4))

    @lsrl.program(
        max_length=64, name=f"wandering {seed}",
        feedback=Feedback("x", slice(0, width), halt=(0, "==", int(random.integers(0, size)))),
    )  # fmt: skip
    def program(x: Vector(width, low=0, high=size - 1, step=1)):
        past = lsrl.delay(x, far)
        bent = lsrl.relu(now @ x - past)
        return lsrl.mod(now @ x + before @ past + bent + lsrl.constant(shift.tolist()), size)

    return program, random.integers(0, size, (6, 5, width))


@pytest.fixture(scope="module")
def reference():
    images = drawn(24, seed=3)
    return images, subleq.loop(*prompt_of(images), steps=STEPS, stdin=KEYS)


@pytest.fixture(scope="module")
def machine():
    return lsrl.compile(subleq, "linear_rnn")


@pytest.fixture(scope="module")
def counter():
    return lsrl.compile(countdown, "linear_rnn")


# ---------------------------------------------------------------- what a loop does


def test_the_evaluator_does_what_plain_python_does(reference):
    images, run = reference
    check_machines(run, images)
    assert run.halted.any() and run.waiting.any() and not (run.halted | run.waiting).all()


@pytest.mark.parametrize("target", studied(TARGETS, "linear_rnn"))
def test_machines_on_every_target(target, reference, machine):
    images, expected = reference
    model = machine if target == "linear_rnn" else lsrl.compile(subleq, target)
    run = model.loop(*prompt_of(images), steps=STEPS, stdin=KEYS)
    check_machines(run, images)
    np.testing.assert_array_equal(run.outputs, expected.outputs)
    np.testing.assert_array_equal(run.trace, expected.outputs[..., :4])


@pytest.mark.parametrize("target", studied(TARGETS, "linear_rnn", "gru", "mamba"))
def test_random_programs_on_every_target(target, number=0):
    program, prompts = wandering(100 * number + TARGETS.index(target))
    check_wandering(program, prompts, target)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "target", studied(TARGETS, *(name for name in TARGETS if name not in ("mamba2", "deltanet")))
)
@pytest.mark.parametrize("number", range(1, 20))
def test_more_random_programs(target, number):
    test_random_programs_on_every_target(target, number)


def check_wandering(program, prompts, target):
    model = lsrl.compile(program, target)
    for until in ("halt", "steps"):
        expected = program.loop(prompts, steps=20, until=until, exact=True)
        run = model.loop(prompts, steps=20, until=until)
        np.testing.assert_array_equal(run.outputs, expected.outputs.astype(float))
        np.testing.assert_array_equal(run.steps, expected.steps)
        np.testing.assert_array_equal(run.halted, expected.halted)
        assert (run.steps == 20).all() or until == "halt"
    float32 = program.loop(prompts, steps=20, dtype="float32", until="steps")
    assert float32.outputs.dtype == np.float32
    np.testing.assert_array_equal(float32.outputs, run.outputs)


def test_what_a_loop_has_read_gives_its_outputs(reference, machine):
    images, expected = reference
    run = machine.loop(*[array[0] for array in prompt_of(images[0])], steps=STEPS, stdin=KEYS)
    assert run.outputs.shape == (run.steps, 6) and isinstance(run.halted, bool)
    np.testing.assert_array_equal(run.outputs, expected.outputs[0, : run.steps])
    np.testing.assert_array_equal(subleq.run(*run.inputs)[CELLS - 1 :], run.outputs)
    assert run.memory.tolist() == expected.memory[0].tolist() and run.memory.dtype == np.int64


def test_rationals_are_fed_back_as_they_are():
    """Not as the nearest float64, which would be 2 from the 54th instruction on."""

    @lsrl.program(feedback=Feedback("x", 0))
    def near_two(x: Vector(1, low=0, high=2)):
        return 0.5 * x + 1

    run = near_two.loop(np.zeros((2, 1, 1)), steps=80, exact=True)
    assert (run.outputs[:, -1, 0] == 2 - Fraction(1, 2**79)).all()
    run = near_two.loop(near_two.loop([[0.0]], steps=40, exact=True), steps=40, exact=True)
    assert run.outputs[-1, 0] == 2 - Fraction(1, 2**79)


def test_a_run_goes_on_also_in_another_process(reference, machine, tmp_path):
    images, expected = reference
    machine.save(tmp_path / "machine.lsrl")
    first = machine.loop(*prompt_of(images), steps=7, stdin=KEYS[:1])
    first.save(tmp_path / "run.lsrl")
    other = lsrl.load(tmp_path / "machine.lsrl", like=machine)
    assert other.program.feedback == subleq.feedback
    loaded = other.load_run(tmp_path / "run.lsrl")
    np.testing.assert_array_equal(loaded.memory, first.memory)
    for run in (first, loaded):
        last = other.loop(run, steps=STEPS, stdin=KEYS[1:])
        assert last.text == tuple(interpreted(i, 7 + STEPS, KEYS)[2] for i in images)
        for number, image in enumerate(images):
            memory, count, _, _ = interpreted(image, 7 + STEPS, KEYS)
            # Those that waited for the second key have that much left to do.
            if last.steps[number] == count:
                assert last.memory[number].tolist() == memory
    split = subleq.loop(subleq.loop(*prompt_of(images), steps=7, stdin=KEYS), steps=STEPS - 7)
    np.testing.assert_array_equal(split.steps, expected.steps)
    np.testing.assert_array_equal(split.memory, expected.memory)
    other = lsrl.compile(countdown, "linear_rnn")
    with pytest.raises(FormatError, match="a state of another model"):
        other.load_run(tmp_path / "run.lsrl")
    with pytest.raises(InputError, match="a run of this program"):
        other.loop(first, steps=1)


FORGED = {
    "machines": ({"batch": 10**12}, "machines"),
    "steps": ({"steps": [-1]}, "steps"),
    "keys": ({"keys": [[300]]}, "keys"),
    "an end": ({"until": "never"}, "until"),
    "another model": ({"owner": {}}, "owner"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_run_file_says_nothing_that_is_not_checked(case, counter, tmp_path):
    change, field = FORGED[case]
    path = tmp_path / "run"
    counter.loop([[3.0]], steps=1).save(path)
    header, arrays = said_in_model(path)
    write_model(path, {**header, **change}, arrays)
    with pytest.raises(FormatError, match=rf"a run saved by run.save.*{field}"):
        counter.load_run(path)
    write_model(path, header, {**arrays, "pending.0": arrays["pending.0"] + 20})
    with pytest.raises(FormatError, match="at most high"):
        counter.load_run(path)
    with pytest.raises(InputError, match="has no file"):
        countdown.loop([[3.0]], steps=1).save(path)


def test_a_machine_waits_for_keys_and_takes_them_when_they_come(machine):
    # Read into 9, say it, and jump to 0, since 10 less itself is 0.
    echo = [-1, 9, 3, 9, -1, 6, 10, 10, 0, 0, 0, 0]
    prompt = [array[0] for array in prompt_of(echo)]
    for runner in (subleq, machine):
        run = runner.loop(*prompt, steps=50)
        assert run.waiting and run.steps == 0 and len(run.outputs) == 0
        run = runner.loop(run, steps=50, stdin=b"\x01\x02")
        assert run.waiting and run.steps == 6 and run.text == b"\x01\x02"
        assert run.memory[9] == 2 and len(run.inputs[0]) == CELLS - 1 + run.steps
        run = runner.loop(run, steps=50, stdin=b"\x03")
        assert run.text == b"\x01\x02\x03" and run.steps == 9 and len(run.outputs) == 3
        assert runner.loop(run, steps=5).steps == 9


def test_machines_that_stopped_cost_nothing(counter, monkeypatch):
    monkeypatch.setattr(engine, "MOST_TOGETHER", 2)
    counts, advance = [], engine.Machines.advance

    def counted(self, state, ahead, live, count):
        counts.append(len(live))
        return advance(self, state, ahead, live, count)

    monkeypatch.setattr(engine.Machines, "advance", counted)
    prompts = np.arange(1.0, 9.0).reshape(8, 1, 1)
    run = counter.loop(prompts, steps=20, runner="jax")
    np.testing.assert_array_equal(run.steps, np.arange(1, 9))
    assert counts == [8, 8, 4, 2]
    np.testing.assert_array_equal(run.outputs[7].ravel(), np.arange(7, -1, -1))
    assert run.halted.all() and run.state.position == 8


def test_a_token_out_is_a_token_in():
    @lsrl.program(max_length=40, feedback=Feedback("word", 0, halt=(0, ">=", 3)))
    def spell(word: Token(5)) -> Token(5):
        return lsrl.mod(word + lsrl.delay(word, 1), 5)

    model = lsrl.compile(spell, "rnn")
    prompts = np.array([[1, 1], [1, 0], [2, 0]])
    run = model.loop(prompts, steps=20, until="steps")
    np.testing.assert_array_equal(run.outputs[..., 0], model.generate(prompts, 20))
    np.testing.assert_array_equal(run.outputs, spell.loop(prompts, steps=20, until="steps").outputs)
    stopped = model.loop(prompts, steps=20)
    assert stopped.halted.all()
    for ids, own in zip(stopped.outputs[..., 0], stopped.steps, strict=True):
        assert (ids[: own - 1] < 3).all() and ids[own - 1] >= 3


def test_the_end_of_a_text_is_where_the_loop_halts(tmp_path):
    @lsrl.program(feedback=Feedback("word", 0, halt=(0, "==", 3)))
    def spell(word: Token(4)) -> Token(4):
        return lsrl.minimum(word + 1, 3)

    lsrl.compile(spell, "mamba").export("huggingface", tmp_path / "spell")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "spell" / file).read_text())["eos_token_id"] == 3


# ---------------------------------------------------------------- what is proven and kept


def test_certificate_file_and_circuit_know_of_it(counter, tmp_path):
    assert "closed       yes" in str(counter.certificate)
    assert counter.certificate.from_json(counter.certificate.to_json()) == counter.certificate
    fed = [edge for edge in counter.circuit.edges if edge.kind == "fed back"]
    assert [(e.source, e.target, e.lag) for e in fed] == [(OUTPUT, "count", 1)]
    assert set(counter.circuit.edges) - set(counter.circuit.wires) == set(fed)
    assert "fed back: count" in counter.circuit.draw().svg
    counter.save(tmp_path / "counter")
    assert lsrl.load(tmp_path / "counter", like=counter).program.feedback == countdown.feedback


@pytest.mark.parametrize("program", [subleq, lsrl.programs.majority()], ids=["fed", "plain"])
def test_the_text_of_a_program_node_by_node_is_that_of_its_content(program):
    """Files say whose state they hold by its digest."""
    whole = json.dumps(program_content(program, lines=False))
    assert "".join(content_text(program)) == whole


def test_a_program_without_feedback_is_as_it_was():
    @lsrl.program
    def plain(x: Vector(1, low=0, high=1, step=1)):
        return 2 * x

    assert "feedback" not in program_content(plain, lines=True)
    assert "closed" not in lsrl.compile(plain, "rnn").certificate.to_json()
    with pytest.raises(InputError, match=r"declare @lsrl\.program\(feedback="):
        plain.loop([[1]], steps=1)


def test_a_kernel_that_was_all_zeros_counts_once_it_is_not(counter):
    model = lsrl.compile(countdown, "linear_rnn")
    model.loop([[5.0]], steps=1)
    names = [name for name in model.module.parameter_arrays() if "recurrent_kernel" in name]
    kernel = np.ones_like(model.module.parameter_arrays()[names[0]])
    model.module.replace_parameters({names[0]: kernel})
    run = model.loop([[5.0]], steps=3, until="steps")
    whole = model.run(*run.inputs)
    np.testing.assert_array_equal(run.outputs, whole)
    assert run.outputs.ravel().tolist() != [4.0, 3.0, 2.0]


def test_memory_of_vectors_and_where():
    memory = MemoryMap(1, slice(2, 4), [(0, 2), (5, 7)], initial=9, where=(0, 1))
    assert memory.cells == 4
    assert memory.places(np.arange(-1, 8)).tolist() == [-1, 0, 1, -1, -1, -1, 2, 3, -1]

    @lsrl.program(feedback=Feedback("bus", slice(0, 4), memory=memory))
    def copies(bus: Vector(4, low=0, high=9, step=1)):
        return bus

    bus = [[1, 6, 3, 4], [0, 0, 5, 5], [1, 4, 7, 7], [1, 0, 1, 2]]
    run = copies.loop(bus, steps=3)
    assert run.memory.tolist() == [[1, 2], [9, 9], [9, 9], [3, 4]]
    assert run.text == b"" and not run.halted and run.steps == 3


# ---------------------------------------------------------------- what is refused


def of(**parts):
    """Define a program of two inputs and three outputs with such feedback."""

    def define():
        given = {"input": "x", "output": slice(0, 2), **parts}

        @lsrl.program(feedback=Feedback(given.pop("input"), given.pop("output"), **given))
        def refused(
            x: Vector(2, low=0, high=4, step=1), other: Vector(1, low=1, high=2), word: Token(3)
        ):
            return lsrl.concat(lsrl.minimum(x, 3), x[0] + 1)

    return define


REFUSED = {
    "what may leave the type": (
        of(output=slice(1, 3)),
        ["output 2 is in [1, 5]", "entry 1 of 'x'", "lsrl.clip", "test_loop.py"],
    ),
    "another width": (of(output=slice(0, 3)), ["2 wide", "are 3"]),
    "an unknown input": (of(input="y"), ["input names 'y'", "x, other, word"]),
    "an output that there is not": (of(halt=(7, "<", 0)), ["halt names output 7", "has 3"]),
    "a comparison that is no word": (of(halt=(0, np.array(["<", "="]), 0)), ["<=", "got (0, "]),
    "an unknown comparison": (of(halt=(0, "=", 0)), ["<=", "got (0, '=', 0)"]),
    "an idle input that is illegal": (of(), ["'other' holds [0.0] while the loop runs", "idle"]),
    "idle of what is fed": (of(idle={"x": 1, "other": 1}), ["'x'", "the loop itself"]),
    "keys through the fed input": (of(keys=("x", 2)), ["of their own", "'x', which is fed back"]),
    "memory outside what is fed": (
        of(memory=MemoryMap(2, 0, [(0, 1)])), ["output 2", "not fed back"],
    ),
    "segments that overlap": (lambda: MemoryMap(0, 1, [(0, 4), (3, 5)]), ["in order and apart"]),
    "a slice from behind": (lambda: Feedback("x", slice(-2, None)), ["slice(0, 3)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_feedback_that_does_not_fit_is_refused_where_it_is_written(case):
    define, parts = REFUSED[case]
    with pytest.raises(ProgramError) as caught:
        define()
    for part in parts:
        assert part in str(caught.value), caught.value


def test_grids_of_what_is_fed_are_proven_too():
    with pytest.raises(ProgramError, match=r"by steps of 0\.5"):

        @lsrl.program(feedback=Feedback("x", 0))
        def halves(x: Vector(1, low=0, high=4, step=1)):
            return x / 2

    @lsrl.program(feedback=Feedback("x", 0, idle={"other": 1}))
    def fits(x: Vector(1, low=0, high=4, step=0.5), other: Token(2)):
        return lsrl.minimum(x, 2) + other

    run = fits.loop([[0.5]], [0], steps=3)
    assert run.outputs.ravel().tolist() == [0.5, 1.5, 2.5]


ASKED = {
    "no steps": (lambda m: m.loop([[3.0]], steps=0), "steps must be an int >= 1"),
    "another end": (lambda m: m.loop([[3.0]], steps=1, until="end"), "until must be 'halt'"),
    "a prompt outside": (lambda m: m.loop([[30.0]], steps=1), "at most high=[9.0], got 30.0"),
    "keys that nobody reads": (lambda m: m.loop([[3.0]], steps=1, stdin=b"a"), "reads no keys"),
    "keys that are text": (lambda m: m.loop([[3.0]], steps=1, stdin="a"), "stdin must be bytes"),
    "an unknown option": (lambda m: m.loop([[3.0]], step=1, steps=1), "did you mean 'steps'"),
}


@pytest.mark.parametrize("case", ASKED)
def test_loops_that_make_no_sense_are_refused(case, counter):
    ask, part = ASKED[case]
    for runner in (countdown, counter):
        with pytest.raises(InputError) as caught:
            ask(runner)
        assert part in str(caught.value), caught.value


def test_more_steps_than_tokens_are_refused(machine):
    prompt = prompt_of(drawn(2, seed=1))
    for runner in (subleq, machine):
        with pytest.raises(InputError, match="at most 4085 steps"):
            runner.loop(*prompt, steps=4086, stdin=[b"", b""])
    with pytest.raises(InputError, match="no legal input"):
        machine.loop(*prompt, steps=3, stdin=b"\xff")
    with pytest.raises(InputError, match="each of 2"):
        machine.loop(*prompt, steps=3, stdin=[b""])


def test_a_broken_promise_names_its_instruction():
    @lsrl.program(max_length=20, feedback=Feedback("x", 0))
    def rises(x: Vector(1, low=0, high=9, step=1)):
        return lsrl.bound(x + 1, 0, 6) + 0

    model = lsrl.compile(rises, "rnn")
    prompts = np.array([[[1.0]], [[4.0]]])
    for ask in (rises.loop, lambda *p, **o: model.loop(*p, check=True, **o)):
        with pytest.raises(PromiseError, match=r"instruction 3 of machine 1: .*promised") as caught:
            ask(prompts, steps=10)
        assert (caught.value.sequence, caught.value.keeper) == (1, "program")
    assert model.loop(prompts, steps=2, check=True).steps.tolist() == [2, 2]
    run = model.loop(prompts, steps=2)
    with pytest.raises(InputError, match="check=True"):
        model.loop(run, steps=1, check=True)
    with pytest.raises(InputError, match="goes on from its own state"):
        model.loop(run, steps=1, state=run.state)


def test_commands_loop(tmp_path):
    path = "tests/machines.py:countdown"
    run = CliRunner()
    told = run.invoke(app, ["run", path, "3", "--steps", "9"])
    assert told.exit_code == 0 and "halted after 3 instructions" in told.output
    told = run.invoke(app, ["run", path, "5", "--steps", "2", "-t", "linear_rnn"])
    assert "did not halt within 2 instructions" in told.output
    told = run.invoke(app, ["verify", path, "-t", "linear_rnn", "--sequences", "8"])
    assert told.exit_code == 0 and "loops        8 machines" in told.output
