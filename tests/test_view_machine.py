"""Machines at work on the page: what is told of them, and what a browser shows."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl import machine
from lsrl.cli import app
from lsrl.errors import BoundsError, InputError
from lsrl.interpret import page, view
from lsrl.machine.fleq import Told
from tests.browser import Browser, browsing
from tests.test_view import embedded

pytestmark = pytest.mark.one_in(2)

TEXTS = machine.programs()
ECHO, TINY, KEYS = TEXTS["echo"].image(), [3, 3, -1, 5], b"Hi\n"
GAP = machine.assemble(
    """
        near far                # far = 9 - 4
        far out
        lost 30                 # where there is no cell, nothing is written
        near near halt
near:   .data 4
lost:   .data 1
        .org 40
far:    .data 9
"""
)

SAYS = machine.assemble(
    "again: x out\n one x halt\n z z again\nx: .data 2\none: .data 1\nz: .data 0"
)
MATRIX = machine.assemble(
    ".fleq\n.cell a 1 2; 3 4\nb = matmul a a\nc = transpose b if z goto end\nend:"
)


@pytest.fixture(scope="module")
def model() -> lsrl.Model:
    return lsrl.compile(lsrl.programs.subleq(cells=32, bits=8, io=True), "linear_rnn")


@pytest.fixture(scope="module")
def run(model):
    return model.program.loop(*machine.card(model, ECHO), steps=100, stdin=KEYS)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """The page of `run`, by the command."""
    folder = tmp_path_factory.mktemp("view")
    (folder / "keys").write_bytes(KEYS)
    options = ["--cells", "32", "--bits", "8", "--stdin", str(folder / "keys")]
    out = folder / "page.html"
    arguments = ["machine", "view", "echo", "-t", "linear_rnn", "-o", str(out), *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return out


def replayed(film: machine.Film) -> list[list[Told]]:
    """Memory ahead of the first instruction, and after each."""
    states = [list(film.memory)]
    for frame in film.frames:
        states.append(list(states[-1]))
        if frame.write is not None:
            states[-1][frame.write] = frame.value
    return states


CASES = {
    "echo": (lsrl.programs.subleq(cells=32, bits=8, io=True), ECHO),
    "division": (lsrl.programs.subleq(cells=64, bits=8), TEXTS["division"].image(x=13, y=4)),
    "segments": (lsrl.programs.subleq(segments=[(0, 20), (40, 44)], bits=8, io=True), GAP),
    "words": (lsrl.programs.subleq_lm(cells=16, bits=8), SAYS),
}


@pytest.mark.parametrize("name", CASES)
def test_a_film_is_what_the_machine_did(name):
    """Against the plain interpreter, cell by cell: what is read, what is written, and memory."""
    program, image = CASES[name]
    keys = {"stdin": b"ab\n"} if name == "echo" else {}
    run = program.loop(*machine.card(program, image), steps=800, **keys)
    film, plain = machine.film(program, run, image), machine.interpret(program, image, steps=0)
    states = replayed(film)
    assert list(plain.memory.values()) == states[0] and list(plain.memory) == film.addresses
    plain.keys = keys.get("stdin", b"")
    for number, frame in enumerate(film.frames, 1):
        (step,) = plain.trace(1)
        assert states[number] == plain.dump().tolist()
        operands = (
            [] if step.key is not None else [step.a] if step.said is not None else [step.a, step.b]
        )
        read, code = ({film.addresses[place] for place in at} for at in (frame.reads, frame.code))
        assert read == {*operands} & {*plain.memory}
        assert code == {step.pc, step.pc + 1, step.pc + 2} & {*plain.memory}
        written = None if frame.write is None else film.addresses[frame.write]
        assert written == (step.b if step.b in plain.memory else None)
        assert (frame.pc, frame.said, frame.key, frame.next) == (
            step.pc,
            step.said,
            step.key,
            step.next,
        )
    assert run.halted and film.ends == "halted" and plain.halted
    assert film.steps == len(film.frames) == plain.steps
    if run.memory is not None:
        assert states[-1] == run.memory.tolist()
    assert [label for label in film.names if label] == [
        film.names[film.addresses.index(at)] for at in sorted({*image.labels.values()})
    ]


def test_a_machine_that_waits_at_once_has_its_card_in_memory():
    program, image = CASES["echo"]
    run = program.loop(*machine.card(program, image), steps=5)
    film = machine.film(program, run, image)
    assert film.ends == "waiting" and not film.frames and film.memory == run.memory.tolist()


def test_a_film_tells_instructions_as_the_text_has_them():
    program, image = CASES["segments"]
    film = machine.film(program, program.loop(*machine.card(program, image), steps=9), image)
    assert [(frame.text, frame.effect) for frame in film.frames] == [
        ("near far", "far = 9 - 4 = 5"),
        ("far out", "prints '\\x05'"),
        ("lost 30", "mem[30] = 0 - 1 = -1"),
        ("near near halt", "near = 4 - 4 = 0, halts"),
    ]


@pytest.mark.parametrize(
    ("image", "shape"), [(TEXTS["product"].image(), (1, 1)), (MATRIX, (2, 2))], ids=["1", "4"]
)
def test_real_machines_have_films(image, shape):
    program = lsrl.programs.fleq(len(image.cells) + 1, len(image.lines), shape=shape)
    run = program.loop(*machine.card(program, image), steps=3, dtype="float32")
    film, plain = machine.film(program, run, image), machine.interpret(program, image, steps=0)
    names, states = [*image.cells], replayed(film)
    assert film.names == names and film.ends == ("halted" if image is MATRIX else "going")
    for number, (frame, step) in enumerate(zip(film.frames, plain.trace(3), strict=True), 1):
        line = image.lines[step.pc]
        assert {names[place] for place in frame.reads} == {line.a, line.b, line.flag}
        assert names[frame.write] == line.c and states[number][frame.write] == step.new
    memory = np.array(states[-1]).reshape(len(names), -1)
    assert (memory == run.memory.reshape(len(run.memory), -1)[:-1]).all()
    assert film.frames[-1].text in machine.disassemble(image)
    with pytest.raises(InputError, match=r"image of a text that begins with \.fleq"):
        machine.film(program, run)


def test_a_run_is_shown_as_far_as_a_page_holds(model, run, path, monkeypatch):
    whole, film = embedded(path), machine.film(model, run)
    assert whole["tokens"] == len(run.inputs[0]) and whole["check"]["equal"]
    shown = whole["machine"]
    assert shown["memory"] == film.memory and shown["steps"] == run.steps
    writes = [[frame.write, frame.value] for frame in film.frames]
    assert [frame[5:7] for frame in shown["frames"]] == writes
    assert shown["frames"][0][:3] == [0, "in letter", "letter = key 'H'"]
    assert [label for label in shown["names"] if label] == sorted(ECHO.labels, key=ECHO.address)
    monkeypatch.setattr(page, "MAX_INSTRUCTIONS", 5)
    monkeypatch.setattr(page, "RUN_VALUES", 4000)
    arrays, cut = page._read(model, [run], None)
    assert cut.frames == film.frames[:5] and cut.steps == run.steps
    assert 4000 / 2 < len(arrays[0]) * page._elements(model) <= 4000
    np.testing.assert_array_equal(arrays[0], run.inputs[0][: len(arrays[0])])


def test_what_can_not_be_shown_is_told(model, run):
    program = model.program
    on = program.loop(program.loop(*machine.card(model, TINY), steps=1), steps=1)
    with pytest.raises(InputError, match="went on from an earlier one"):
        view(model, on)
    with pytest.raises(InputError, match=r"view\(model, run, image=image\)"):
        view(model, *run.inputs, image=TINY)
    two = program.loop(*machine.cards(model, [TINY, [3, 3, -1]]), steps=2)
    arrays, film = page._read(model, [two], None)
    assert arrays[0].shape == two.inputs[0].shape and film is None
    with pytest.raises(InputError, match="batch of machines"):
        view(model, two, image=TINY)
    wrong = replace(run, record=run.record._replace(outputs=run.record.outputs * np.nan))
    with pytest.raises(BoundsError, match="instruction 1 of this run answers what is no"):
        machine.film(model, wrong)


def test_the_command_wants_a_target(tmp_path):
    arguments = ["machine", "view", "echo", "-o", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and "give a target" in done.output


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


CELLS = """
const marked = name => [...document.querySelectorAll('.word.' + name)].map(e => +e.dataset.place);
return [[...document.querySelectorAll('.word[data-place]')].map(e =>
          [+e.dataset.place, Number(e.lastChild.textContent.replace('−', '-'))]),
        marked('operand').sort((a, b) => a - b), marked('written'),
        document.querySelector('#listing .now')?.textContent ?? '',
        document.getElementById('printed').textContent,
        ['doing', 'cells', 'board'].map(id => {
          const box = document.getElementById(id).getBoundingClientRect();
          return [box.left, box.top, box.width, box.height]; })]
"""


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_shows_a_machine_at_work(browser, model, run, path, width):
    film = machine.film(model, run, ECHO)
    states = replayed(film)
    browser.open("about:blank")
    browser.resize(width, 900)
    try:
        browser.open(path.as_uri())
        places = set()
        for number, keys in (
            (0, []),
            (3, ["right"] * 3),
            (2, ["left"]),
            (len(film.frames), ["end"]),
        ):
            browser.press(*keys)
            cells, read, written, line, printed, boxes = browser.run(CELLS)
            places.add(str(boxes))
            assert all(states[number][place] == value for place, value in cells)
            frame = film.frames[number - 1] if number else None
            assert read == (sorted(frame.reads) if frame else [])
            assert written == ([frame.write] if frame and frame.write is not None else [])
            assert line == (
                "" if frame is None else f"{frame.pc}{frame.text}{frame.effect}".replace("-", "−")
            )
            said = [each.said for each in film.frames[:number] if each.said is not None]
            assert printed == "".join(map(chr, said))
        assert len(places) == 1, "nothing moves"
        assert browser.run("return document.getElementById('ending').textContent") == "halted"
        for part in ("html", "#machine", "#cells", "#doing"):
            wide = "const e = document.querySelector(arguments[0]);"
            wide += "return e.scrollWidth <= e.clientWidth"
            assert browser.run(wide, part), f"{part} is wider than what shows it"
        browser.press("home", " ")
        browser.run("return new Promise(done => setTimeout(done, 400))")
        assert (
            browser.run("return document.getElementById('play').getAttribute('aria-label')")
            == "Pause"
        )
        assert browser.run("return +document.getElementById('instruction').value") > 0
        assert browser.console() == []
    finally:
        browser.resize(1440, 900)
