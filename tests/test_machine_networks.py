"""Machines inside networks: the same as the plain interpreters, instruction for instruction."""

import functools

import numpy as np
import pytest

import lsrl
from lsrl import machine
from lsrl.errors import AssemblyError, InputError
from lsrl.machine import (
    Fleq,
    FleqImage,
    Session,
    Subleq,
    assemble,
    card,
    cards,
    interpret,
    programs,
    trace,
)
from lsrl.machine.fleq import Line
from lsrl.programs import fleq

pytestmark = pytest.mark.one_in(5)

TEXTS = [name for name, program in programs().items() if program.machine == "subleq"]


@functools.cache
def computer(target, cells, bits):
    """A computer, compiled once for all tests."""
    return lsrl.compile(lsrl.programs.subleq(cells=cells, bits=bits, io=True), target)


def test_all_texts_run_inside_a_network():
    """As a batch of machines that stop one by one."""
    model = computer("linear_rnn", 208, 16)
    images = [programs()[name].image() for name in TEXTS]
    keys = [programs()[name].keys() for name in TEXTS]
    run = model.loop(*cards(model, images), steps=2000, stdin=keys)
    assert run.halted.all() and not run.waiting.any()
    for number, name in enumerate(TEXTS):
        plain = interpret(model, images[number], stdin=keys[number])
        assert run.steps[number] == plain.steps
        assert run.text[number] == plain.text
        assert np.array_equal(run.memory[number], plain.dump())
        program = programs()[name]
        assert program.left(run.memory[number], run.text[number]) == program.expected()


def random_images(cells, bits, count, seed):
    """Words that are mostly addresses, so that most instructions do something; many change code."""
    random = np.random.default_rng(seed)
    top = 1 << (bits - 1)
    near = random.integers(-1, cells + 2, (count, cells))
    far = random.integers(-top, top, (count, cells))
    return np.where(random.random((count, cells)) < 0.85, near, far)


def check_random_programs(model, images, steps, seed=0):
    """Every answer, every stop and all memory, against the interpreter."""
    random = np.random.default_rng(seed)
    keys = [random.integers(0, 256, 20).astype(np.uint8).tobytes() for _ in images]
    run = model.loop(*cards(model, images), steps=steps, stdin=keys)
    wrote = 0
    for number, image in enumerate(images):
        plain = interpret(model, image, steps=0)
        done = plain.trace(steps, keys[number])
        assert (run.steps[number], run.halted[number]) == (len(done), plain.halted), number
        assert run.waiting[number] == plain.waiting
        assert run.text[number] == plain.text
        answers = [[step.b, step.new, step.next] for step in done]
        assert np.array_equal(run.outputs[number][: len(done), [0, 1, 3]], answers), number
        assert np.array_equal(run.memory[number], plain.dump()), number
        code = {step.pc + place for step in done for place in range(3)}
        wrote += any(step.b in code for step in done)
    return wrote


def test_random_programs_are_the_same_in_a_network():
    model = computer("mamba", 32, 8)
    images = random_images(32, 8, 32, seed=1)
    assert check_random_programs(model, images, 200) > 16  # most of them change their own code


@pytest.mark.nightly
@pytest.mark.parametrize(
    "target",
    [
        "linear_rnn",
        "gated_linear_rnn",
        "rnn",
        "lstm",
        "gru",
        "mamba",
        "mamba2",
        "griffin",
        "deltanet",
    ],
)
def test_a_thousand_random_programs(target):
    model = computer(target, 32, 8)
    check_random_programs(model, random_images(32, 8, 1000, seed=2), 1000)


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["linear_rnn", "mamba2", "deltanet"])
def test_random_programs_of_a_large_machine(target):
    model = computer(target, 256, 16)
    check_random_programs(model, random_images(256, 16, 100, seed=3), 1000)


def test_a_trace_is_what_the_interpreter_did():
    """Of a run, of one that goes on from it, and of the program itself."""
    model, program = computer("mamba", 32, 8), programs()["echo"]
    image = program.image()
    expected = Subleq(image, cells=32, bits=8).trace(stdin=b"ab\n")
    first = model.loop(*card(model, image), steps=4, stdin=b"a")
    assert first.waiting is False and trace(model, first) == expected[:4]
    then = model.loop(first, steps=20)
    assert then.waiting and trace(model, then, memory=first.memory) == []
    last = model.loop(then, steps=20, stdin=b"b\n")
    assert last.halted and trace(model, last, memory=then.memory) == expected[4:]
    own = model.program.loop(*card(model.program, image), steps=20, stdin=b"ab\n")
    assert trace(model.program, own) == expected
    with pytest.raises(InputError, match=r"pass memory=earlier\.memory"):
        trace(model, last)


def test_single_steps_and_breakpoints():
    model, image = computer("mamba", 32, 8), programs()["multiplication"].image(x=3, y=5)
    plain, inside = Subleq(image, cells=32, bits=8), Session(model, image)
    again = image.address("again")
    for drive in (
        lambda one: one.trace(1),
        lambda one: one.trace(stop={again + 3}),
        lambda one: one.trace(stop={again + 3}),  # leaves it, and comes back
        lambda one: one.run(3),
        lambda one: one.run(),
    ):
        assert drive(inside) == drive(plain)
        assert (inside.pc, inside.steps, inside.halted) == (plain.pc, plain.steps, plain.halted)
        assert np.array_equal(inside.dump(), plain.dump())
    assert inside.halted and inside.trace() == []
    talks, typed = programs()["echo"].image(), Subleq(programs()["echo"].image())
    inside = Session(model, talks)
    for keys in (b"a", b"", b"b\n"):
        assert inside.trace(stdin=keys) == typed.trace(stdin=keys)
        assert (inside.waiting, inside.text) == (typed.waiting, typed.text)


def test_what_is_no_card_is_told():
    model = computer("mamba", 32, 8)
    with pytest.raises(AssemblyError, match="line 2: address 40 has no cell"):
        card(model, assemble(".org 40\n.data 1"))
    with pytest.raises(InputError, match="majority: no machine"):
        card(lsrl.programs.majority(), [1])
    with pytest.raises(InputError, match="at least one image"):
        cards(model, [])
    run = model.loop(*cards(model, [[3, 3, -1, 5], [3, 3, -1]]), steps=1)
    with pytest.raises(InputError, match="batch of machines"):
        trace(model, run)
    assert run.memory[:, 3].tolist() == [0, 0] and machine.cards(model, [[0]])[0].shape == (1, 1, 4)


def test_words_are_instructions_too():
    """Of a language model: what it says is what a machine without keys does."""
    program = lsrl.programs.subleq_lm(cells=32, bits=8)
    for name in ("hello", "multiplication"):
        image = programs()[name].image()
        run = program.loop(*card(program, image), steps=600)
        plain = interpret(program, image, steps=0)
        assert trace(program, run) == plain.trace()
        assert (
            run.halted
            and plain.halted
            and plain.text == programs()[name].expected().get("text", b"")
        )
        part = program.loop(*card(program, image), steps=8)  # the third is not done yet
        assert trace(program, part) == interpret(program, image, steps=0).trace(2)
    with pytest.raises(InputError, match="takes cards"):
        Session(program, [1])


# ---------------------------------------------------------------- FLEQ

# Parameters that are few instructions.
SHORT = {"sgd": {"epochs": 1}, "power_iteration": {"steps": 2}, "inverse": {"steps": 3}}
SCALAR = [
    name
    for name, program in programs().items()
    if program.machine == "fleq" and name != "matrix_inverse"
]


def check_real_programs(subject, names, steps, **options):
    """Bit for bit what the interpreter does in float32, as a batch of machines."""
    images = [programs()[name].image(**SHORT.get(name, {})) for name in names]
    run = subject.loop(*cards(subject, images), steps=steps, **options)
    for number, image in enumerate(images):
        plain = interpret(subject, image)
        assert run.halted[number] and run.steps[number] == plain.steps
        assert np.array_equal(run.memory[number], plain.dump()), names[number]


def test_real_programs_are_those_of_the_interpreter():
    program = fleq(cells=28, lines=52)
    check_real_programs(program, SCALAR, 200, dtype="float32")
    image = programs()["solve"].image()
    run = program.loop(*card(program, image), steps=100, dtype="float32")
    plain = interpret(program, image, steps=0)
    assert trace(program, run, image) == plain.trace()
    assert "x1 = mul t r1" in str(trace(program, run, image)[-2])


def product_of_numbers(name, left, right, size):
    """Lines of a product of matrices whose entries are cells, in the order of `matmul`."""
    for row in range(1, size + 1):
        for column in range(1, size + 1):
            yield f"{name}{row}{column} = mul {left}{row}1 {right}1{column}"
            for k in range(2, size + 1):
                yield f"t = mul {left}{row}{k} {right}{k}{column}"
                yield f"{name}{row}{column} = add {name}{row}{column} t"


def inverse_of_numbers(size, steps):
    """What matrix_inverse.fq does, number by number."""
    entries = [(row, column) for row in range(1, size + 1) for column in range(1, size + 1)]
    lines = []
    for row, column in entries:
        total = "r" if column == 1 else "t"
        lines += [f"t = sub 0 a{row}{column}", f"{total} = max t a{row}{column}"]
        lines += ["r = add r t"] * (column > 1)
        lines += ["s = r" if row == 1 else "s = add s r"] * (column == size)
    lines += ["s = seed s", "s = mul s s", *(f"x{i}{j} = mul a{j}{i} s" for i, j in entries)]
    first, *others = product_of_numbers("p", "a", "x", size)
    lines += [f"again: {first}", *others]
    lines += [f"p{i}{j} = sub {2 if i == j else 0} p{i}{j}" for i, j in entries]
    lines += [*product_of_numbers("q", "x", "p", size), *(f"x{i}{j} = q{i}{j}" for i, j in entries)]
    lines += ["steps = sub steps 1 if steps goto halt", "goto again"]
    return assemble("\n".join([".fleq", f".cell steps {steps}", *lines]))


MATRICES = {"cells": 8, "lines": 13, "shape": (4, 4)}


def test_matrices_are_cells():
    """A tenth of the instructions that numbers take, and to the bit all the same."""
    program, text = fleq(**MATRICES), programs()["matrix_inverse"]
    run = program.loop(*card(program, text.image()), steps=100, dtype="float32")
    plain = interpret(program, text.image())
    assert run.halted and np.array_equal(run.memory, plain.dump())
    inverse = text.left(run.memory)["x"]
    np.testing.assert_allclose(inverse, text.expected()["x"], atol=1e-5)
    image = inverse_of_numbers(4, text.parameters["steps"])
    numbers = Fleq(image.put(a=text.parameters["a"]))
    numbers.run()
    entries = [numbers.memory[name] for name in image.entries("x", np.asarray(inverse))]
    np.testing.assert_array_equal(np.ravel(inverse), entries)
    assert numbers.halted and (run.steps, plain.steps, numbers.steps) == (87, 87, 4193)


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["mamba", "mamba2", "griffin", "deltanet"])
def test_real_programs_inside_networks(target):
    """All of them, at their full length: 5,520 instructions of learning too."""
    model = lsrl.compile(fleq(cells=28, lines=52), target)
    for name in SCALAR:
        image = programs()[name].image()
        run = model.loop(*card(model, image), steps=6000)
        plain = interpret(model, image)
        assert run.halted and run.steps == plain.steps
        assert np.array_equal(run.memory, plain.dump()), name


def random_numbers(count, seed, steps):
    """Machines of random lines that go on, most of them for good, and keep within their size."""
    random, found = np.random.default_rng(seed), []
    names = [f"c{number}" for number in range(8)]
    while len(found) < count:
        lines = []
        for number in range(12):
            function = str(random.choice(["add", "sub", "mul", "max", "seed"]))
            a, b, c, flag = random.choice(names, 4).tolist()
            last = number == 11
            to = None if random.random() < 0.02 else int(random.integers(12))
            lines.append(Line(function, a, b, c, "zero" if last else flag, to, number))
        cells = {name: np.float32(random.normal()) for name in names} | {"zero": np.float32(0)}
        image = FleqImage(cells, lines)
        with np.errstate(all="ignore"):
            done = Fleq(image).trace(steps)
        new, size = np.array([step.new for step in done]), 64
        flags = np.array([step.at_flag for step in done])
        # What a program of the machine promises of its numbers and flags.
        kept = (np.abs(new) <= size) & ((new == 0) | (np.abs(new) > 2.0**-50))
        kept &= (flags <= 0) | (flags >= size * 2.0**-24)
        if len(done) > 20 and kept.all() and len(set(new.tolist())) > 10:
            found.append(image)
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["mamba", "mamba2", "griffin", "deltanet"])
def test_random_programs_of_numbers(target):
    """Every answer and all memory, bit for bit, of a hundred machines."""
    model = lsrl.compile(fleq(cells=12, lines=16), target)
    images = random_numbers(100, seed=4, steps=1000)
    run = model.loop(*cards(model, images), steps=1000)
    for number, image in enumerate(images):
        plain = interpret(model, image, steps=0)
        done = plain.trace(1000)
        assert (run.steps[number], run.halted[number]) == (len(done), plain.halted), number
        assert np.array_equal(run.memory[number], plain.dump()), number
        new = np.array([step.new for step in done], np.float32)
        assert np.array_equal(run.outputs[number][: len(done), 1], new), number


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "layers"), [("mamba", 13), ("mamba2", 14), ("griffin", 8)])
def test_a_matrix_is_inverted_inside_networks(target, layers):
    """Proven and seen: the bits are those of the interpreter, and no promise is broken."""
    model, text = lsrl.compile(fleq(**MATRICES), target), programs()["matrix_inverse"]
    assert model.certificate.verdict == "exact in float32", model.certificate.differs
    assert model.num_layers <= layers
    check_real_programs(model, ["matrix_inverse"], 100)
    dense = [[4, 1, 0, -1], [1, 3, 1, 0], [0, 1, 2, 1], [-1, 0, 1, 5]]
    image = text.image(a=(np.array(dense) / 8).tolist())
    run = model.loop(*card(model, image), steps=100)
    assert run.halted and np.array_equal(run.memory, interpret(model, image).dump())
    # Which also looks whether promises are kept.
    own = model.program.loop(*card(model, image), steps=100, dtype="float32")
    assert np.array_equal(run.outputs, own.outputs)


def test_what_is_no_card_of_real_numbers_is_told():
    program, text = fleq(cells=8, lines=6), programs()["solve"].text
    for image, error, message in (
        (assemble(text), InputError, r"20 cells, and the machine 8; take\n?.*cells=20"),
        (assemble(".fleq\n" + "x = y\n" * 7), AssemblyError, "line 8: .*lines=8"),
        (assemble(".fleq\nx = cosh y"), AssemblyError, "line 2: no function 'cosh'.*add, sub"),
        (assemble(".fleq\nx = matmul y y"), AssemblyError, "line 2: no function 'matmul'"),
        (assemble(".fleq\n.cell x 1 2; 3 4"), InputError, r"shape=\(2, 2\)"),
        ([1, 2], InputError, "takes the image of a text that begins with .fleq, got list"),
    ):
        with pytest.raises(error, match=message):
            card(program, image)
    with pytest.raises(InputError, match="got FleqImage"):
        card(lsrl.programs.subleq(cells=8, bits=5), assemble(".fleq\nx = y"))
