"""Machines in plain Python: the assembler, the interpreters, and the texts that come along."""

import numpy as np
import pytest

import lsrl
from lsrl.errors import AssemblyError, InputError, LsrlError
from lsrl.machine import (
    Fleq,
    Session,
    Subleq,
    assemble,
    card,
    cards,
    disassemble,
    programs,
    trace,
)

# Parameters of each text beyond its defaults.
CASES = {
    "echo": [{"keys": b"\n"}, {"keys": b"two\nlines\n"}],
    "multiplication": [{"x": -5, "y": 9}, {"x": 12, "y": 0}],
    "division": [{"x": x, "y": y} for x, y in ((45, 5), (0, 3), (4, 9), (1000, 7))],
    "primes": [{"limit": 2}, {"limit": 1}, {"limit": 120}],
    "sorting": [{"numbers": n} for n in ((), (1,), (2, 2), (3, 2, 1, 0, -1, -2, 7, 7))],
    # The guest is `echo`.
    "interpreter": [{"guest": [-1, 20, 3, 20, -1, 6, 19, 20, 12, 18, 18, 0, 20, 18, -1, 18, 18, 0,
                               0, 10, 0], "keys": b"ab\n"}],
    "calculator": [{"x": x, "y": 3.0, "op": op} for op in range(1, 7) for x in (0.25, 13.5)],
    "transpose": [{"a": [[1, 0, 2], [0.5, 3, 0], [9, 8, 7]]}],
    "product": [{"a": [[0, 1], [1, 0]], "b": [[0.5, 2], [-3, 1]]}],
    "inverse": [{"a": [[0.5, -1], [2, 0.25]]}],
    "matrix_inverse": [{"a": (np.eye(4) - 0.125).tolist()}],
    "power_iteration": [{"a": [[3, 1], [0.5, 1]]}],
    "solve": [{"a": [[-2, 1], [1, -3]], "b1": 1.0, "b2": -2.0}],
    "sgd": [{"epochs": 1}, {"epochs": 30, "rate": 0.0625}],
    "approximation": [{"x": x} for x in (0.0, 0.3, 1.9, 3.0)],
}  # fmt: skip


@pytest.mark.parametrize("name", programs())
def test_texts_leave_what_their_algorithms_do(name):
    program = programs()[name]
    for given in [{}, *CASES.get(name, [])]:
        image, expected = program.image(**given), program.expected(**given)
        if program.machine == "subleq":
            subleq = Subleq(image)
            subleq.run(stdin=program.keys(**given))
            assert subleq.halted and program.left(subleq.dump(), subleq.text, **given) == expected
            continue
        fleq = Fleq(image)
        fleq.run(20_000)
        assert fleq.halted
        for label, value in program.left(fleq.dump(), **given).items():
            close = program.tolerance
            np.testing.assert_allclose(value, expected[label], rtol=close, atol=close)


def test_texts_fit_small_machines():
    """Those that a language model of 8 bits runs, in 32 and in 128 cells."""
    for name, cells in (("multiplication", 32), ("hello", 128), ("sorting", 128)):
        program = programs()[name]
        subleq = Subleq(program.image(), cells=cells, bits=8)
        subleq.run()
        assert program.left(subleq.dump(), subleq.text) == program.expected()


def test_sgd_learns():
    """The line |x| of four examples."""
    program = programs()["sgd"]
    fleq = Fleq(program.image())
    assert fleq.run() > 5000
    w, v, b = ([float(fleq.memory[f"{kind}{i}"]) for i in (1, 2)] for kind in "wvb")
    for x in (-1, 0, 1, 2):
        hidden = [max(w[i] * x + b[i], 0) for i in (0, 1)]
        assert abs(v[0] * hidden[0] + v[1] * hidden[1] - abs(x)) < 0.15


def test_a_text_is_what_it_says():
    image = assemble("""
        .equ size 2*3
        .macro clear what   # its label is its own
        l:      what what next
        .end
        start:  letter out ; clear letter+1
                clear start
                in letter halt
        letter: .data "hi;#\\n" ';' 'c'-1 here size-(4-1)*2 0x10
        .org 60
        table:  .space 2
                .data table
    """)
    code = [12, -1, 3, 13, 13, 6, 0, 0, 9, -1, 12, -1]
    data = [*b"hi;#\n", 59, 98, 19, 0, 16]
    assert dict(image) == dict(enumerate(code + data)) | {60: 0, 61: 0, 62: 60}
    assert image.labels == {"start": 0, "letter": 12, "table": 60}
    assert dict(image.put(table=[7, 8], start=-2)) == dict(image) | {0: -2, 60: 7, 61: 8}


@pytest.mark.parametrize("name", programs())
def test_disassembled_texts_are_the_same_image(name):
    image = programs()[name].image()
    text = disassemble(image)
    if programs()[name].machine == "fleq":
        again = assemble(text)
        assert [*again.cells] == [*image.cells]
        assert all(np.array_equal(again.cells[cell], image.cells[cell]) for cell in image.cells)
        assert [line[:-1] for line in again.lines] == [line[:-1] for line in image.lines]
        return
    assert dict(assemble(text)) == dict(image)
    assert dict(assemble(disassemble([image.get(a, 0) for a in range(256)]))).items() >= {
        *image.items()
    }
    # What is code is shown as code: the first instruction, by its labels.
    assert text.splitlines()[0].split("#")[0].split()[-1] != ".data"


def test_words_wrap_and_what_has_no_cell_is_nothing():
    """The word c is read before the write; no jump follows a key or a letter."""
    edge = Subleq([6, 7, -1, 0, 0, 0, 1, -128], cells=8, bits=8)
    (step,) = edge.trace(1)
    assert (step.new, step.next) == (127, 3)
    outside = Subleq([100, 6, 9, 6, 50, -1, 5], cells=7, bits=8, io=False)
    first, second = outside.trace()
    assert (first.at_a, first.new, first.next) == (0, 5, 3)
    assert (second.at_b, second.new, second.next) == (0, -5, -1) and outside.halted
    own = Subleq([3, 2, 6, 1, 0, 0, 0, 0, -1], cells=9, bits=8)
    assert own.trace(1)[0].next == 3 and own.memory[2] == 5
    talks = Subleq([-1, 9, -1, 9, -1, -1, 0, 0, -1, 0], cells=10, bits=8)
    assert [step.next for step in talks.trace(stdin=b"\x80")] == [3, 6, -1]
    assert (talks.text, talks.memory[9]) == (b"\x80", -128)


def test_a_machine_waits_for_keys_and_stops_at_breakpoints():
    image = programs()["echo"].image()
    subleq = Subleq(image)
    assert subleq.run(stdin=b"a") == 4 and subleq.waiting and not subleq.halted
    assert repr(subleq) == "Subleq(4 instructions, waiting)"
    subleq.run(stdin=b"b\n")
    assert subleq.halted and not subleq.waiting and subleq.text == b"ab\n"
    assert repr(subleq).endswith("instructions, halted)")
    subleq = Subleq(image)
    near = image.address("near")
    assert subleq.trace(stdin=b"a\n", stop={near})[-1].next == near == subleq.pc
    assert subleq.trace(1)[0].pc == near  # a breakpoint is left by going on
    (shown,) = map(str, Subleq(image).trace(1, b"a"))
    assert " ".join(shown.split()) == "0: -1 20 3 mem[20] = key 97"


@pytest.mark.parametrize(
    ("memory", "error", "message"),
    [
        ("0 0\n.org 300\n.data 1", AssemblyError, "line 3: address 300 .* cells=301"),
        ("\n.data 40000", AssemblyError, "line 2: 40000 .* more bits"),
        ({256: 1}, InputError, "address 256 has no cell.*cells=257"),
        ([1, 2.5], InputError, "whole numbers, got 2.5 at address 1"),
        ([1, "x"], InputError, "got 'x' at address 1"),
        (7, InputError, "got int"),
        ({-3: 1}, InputError, "address -3 has no cell.*mend the address"),
        ([10**5000], InputError, "an int of 16610 bits at address 0 is no word"),
    ],
)
def test_images_that_do_not_fit(memory, error, message):
    with pytest.raises(error, match=message):
        Subleq(assemble(memory) if isinstance(memory, str) else memory)


def test_what_is_put_needs_a_place():
    division, calculator = programs()["division"], programs()["calculator"]
    for call, message in (
        (lambda: division.image(z=3), "no parameter 'z'; it has x, y"),
        (lambda: division.image(x=0.5), "whole numbers, got 0.5"),
        (lambda: division.image().put(quotent=3), "did you mean 'quotient'"),
        (lambda: calculator.image().put(resul=3), "did you mean 'result'"),
        (lambda: calculator.image().put(x="three"), "cell 'x': expected a number"),
        (lambda: programs()["product"].image(a=[[1, 2, 3]]), "no cell 'a13'"),
    ):
        with pytest.raises(InputError, match=message):
            call()


ERRORS = (
    ("x x\ny y\nx: .data 1", 2, "'y' is no label"),
    ("a b c d", 1, "1 to 3 words"),
    ("x: .data 1\n\nx: .data 2", 3, "stands in line 1"),
    (".org 1\n.data 1\n.org 0\n.data 1 2", 4, "address 1 is taken by line 2"),
    ('.data "abc', 1, "quote"),
    (".data 1+", 1, "no number"),
    (".data 1)", 1, "nothing was expected at '\\)'"),
    ("\n.macro a b\n a", 2, "has no end"),
    (".macro a b\n a b\n.end\na 3", 4, "calls itself"),
    (".macro a b\n b b\n.end\na 3 4", 4, "takes 1 words"),
    (".end", 1, "no .macro is open"),
    (".dta 4", 1, "expected one of .data"),
    (".equ halt 3", 1, "taken"),
    (".macro in\n.end", 1, "'in' is taken"),
    (".macro m\n.end\n.macro m\n.end", 3, "'m' is taken"),
    (".macro m a a\n.end", 1, "'a' is taken"),
    (".space -3", 1, "zeros, got -3"),
    (".space 3*10000000", 1, "zeros, got 30000000"),
    (r'.data "\xz"', 1, "backslash"),
    (".data 'A' '€'", 1, "'€' has no code"),
    (".data 1.5", 1, "whole numbers"),
    (f".data {'9' * 5000}", 1, "longer than any word needs"),
    (f".data {'(' * 5000}", 1, "longer than any word needs"),
    (".fleq\n.cell x 1e99", 2, "larger than float32"),
    (".fleq\nx = mul y -1e99", 2, "larger than float32"),
    (".fleq\ny = x\n.cell x 1", 3, "'x' is a cell already"),
    (".fleq\n.cell 5 6", 2, "holds itself"),
    (".fleq\ny = x if y", 2, "expected 'c = f a b'"),
    (".fleq\nx = y +", 2, "got '\\+'"),
    (".fleq\n\nx = add y z if x goto nowhere", 3, "'nowhere' is no label"),
    (".fleq\n.cell x 1 2; 3", 2, "rows of one length, got \\[2, 1\\]"),
    (".fleq\n.cell x one", 2, "expected numbers, got 'one'"),
    (".fleq\nfoo", 2, "expected 'c = f a b'"),
)


@pytest.mark.parametrize(("text", "line", "message"), ERRORS)
def test_faults_are_told_at_their_line(text, line, message):
    with pytest.raises(AssemblyError, match=f"line {line}: .*{message}") as raised:
        assemble(text)
    assert raised.value.line == line


IMAGE = assemble("x out\nx: .data 65")
SQUARE = assemble(".fleq\ny = mul x x")
SUBLEQ, FLEQ = lsrl.programs.subleq(cells=8, bits=8, io=True), lsrl.programs.fleq(cells=6, lines=4)


def misuses():
    """Calls, and what they are told."""
    return (
        (lambda: assemble(None), "expected the text itself, a str, got NoneType"),
        (lambda: IMAGE.address(3), "no label 3; it has x"),
        (lambda: IMAGE.put(x="7"), "label 'x': expected a sequence"),
        (lambda: Subleq(IMAGE, cells=10**9), "cells must be an int from 1 to"),
        (lambda: Subleq(IMAGE, segments=[3]), "segments must be"),
        (lambda: Subleq(IMAGE, segments=[(0, 10**30)]), "segments: cells must be"),
        (lambda: Subleq(IMAGE, bits=0), "bits must be"),
        (lambda: Subleq(IMAGE, start="x"), "start must be"),
        (lambda: Subleq(IMAGE).run(-1), "steps must be an int >= 0"),
        (lambda: Subleq(IMAGE).run(stdin="a"), "stdin must be bytes"),
        (lambda: Subleq(IMAGE).trace(stop=["x"]), "stop must be addresses"),
        (lambda: Session(SUBLEQ, IMAGE).run(2.5), "steps must be an int"),
        (lambda: Session(SUBLEQ, IMAGE).run(2, stop=3), "stop must be addresses"),
        (lambda: Fleq(IMAGE), "Fleq expects a FleqImage"),
        (lambda: Fleq(SQUARE, start=9), "start must be an int from 0 to 1"),
        (lambda: Fleq(SQUARE, cells=1), "cells must be an int >= 4"),
        (lambda: Fleq(SQUARE).run(1.5), "steps must be"),
        (lambda: SQUARE.using([np.add]), "functions of two arrays by name"),
        (lambda: Fleq(SQUARE.using({"add": np.add, "mul": abs})).run(), "line 2: 'mul' does not"),
        (
            lambda: Fleq(SQUARE.using({"add": np.add, "mul": lambda x, y: np.stack([x, y])})).run(),
            "gives shape",
        ),
        (lambda: Fleq(assemble(".fleq\ny = matmul x x")).run(), "line 2: 'matmul' does not take"),
        (lambda: card("subleq", IMAGE), "a machine expects a Program.*got str"),
        (lambda: card(SUBLEQ, IMAGE, start=128), "start must be an int from 0 to 127"),
        (lambda: card(FLEQ, SQUARE, start=2), "start must be an int from 0 to 1"),
        (lambda: card(FLEQ, SQUARE.using({"add": np.add, "mul": np.multiply})), "has 5 functions"),
        (lambda: card(FLEQ, SQUARE.put(x=65)), "cell 'x' holds a number of 65.*up to 64"),
        (lambda: cards(SUBLEQ, None), "at least one image, one a machine, got None"),
        (lambda: trace(SUBLEQ, IMAGE), "trace expects a Run, made by loop"),
        (lambda: trace(FLEQ, SUBLEQ.loop(*card(SUBLEQ, IMAGE), steps=1)), "expected a run of fleq"),
        (lambda: trace(FLEQ, FLEQ.loop(*card(FLEQ, SQUARE), steps=1)), "as image="),
        (lambda: disassemble(IMAGE, start="x"), "start must be an address"),
        (
            lambda: programs()["division"].expected(x="7"),
            "x is such as .* got '7'; give one number",
        ),
        (lambda: programs()["division"].expected(y=0), "y must not be 0"),
        (lambda: programs()["sorting"].image(numbers=3), "give several numbers"),
        (lambda: programs()["division"].left(np.zeros(3)), "expected the memory of a machine"),
    )


@pytest.mark.parametrize(("call", "message"), misuses())
def test_misuse_is_told(call, message):
    with pytest.raises(LsrlError, match=message):
        call()


def test_a_run_of_the_exact_evaluator_is_traced():
    image = assemble(".fleq\n.cell x 3\ny = mul x x")
    (step,) = trace(FLEQ, FLEQ.loop(*card(FLEQ, image), steps=1), image)
    assert step.new == 9
