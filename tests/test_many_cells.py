"""Machines of many cells: writes by row, memory maps that images bring along, talk, and eForth."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lsrl
from lsrl import machine
from tests.test_machine_networks import check_random_programs, random_images

pytestmark = pytest.mark.one_in(2)

EFORTH = Path(__file__).parents[2] / "shared" / "data" / "eforth.dec"
# It takes a key, prints it, and so on.
ECHO = [-1, 9, 3, 9, -1, 6, 10, 10, 0, 0, 0]
# It writes a 7 to address 5000 and prints what is there; the words between are not used.
FAR = [12, 5000, 3, 5000, 13, 6, 13, -1, 9, 11, 11, -1, -7, 0, *[0] * 300]


@pytest.mark.parametrize(
    "target", ["linear_rnn", *(pytest.param(t, marks=pytest.mark.studies) for t in ("lstm", "gru"))]
)
def test_writes_by_row_are_those_of_the_interpreter(target):
    """Exactly, with holes between the cells, in programs that change themselves."""
    segments = ((0, 40), (44, 60))
    computer = lsrl.programs.subleq(segments=segments, bits=8, io=True, by_row=True)
    model = lsrl.compile(computer, target)
    assert model.certificate.exact and model.certificate.tokens is None
    assert check_random_programs(model, random_images(40, 8, 12, seed=4), 80) > 6


def test_many_cells_are_written_by_row_and_few_are_not():
    """So that the weights of small machines stay what they are, and large ones are exact."""

    def nodes(**options):
        program = lsrl.programs.subleq(bits=16, **options)
        return [(node.op, node.operands) for node in program.graph.nodes]

    few, many = {"cells": 1023}, {"segments": ((0, 1000), (2000, 2024))}
    assert nodes(**few) == nodes(**few, by_row=False) != nodes(**few, by_row=True)
    assert nodes(**many) == nodes(**many, by_row=True) != nodes(**many, by_row=False)
    with pytest.raises(lsrl.errors.ProgramError, match="by_row"):
        nodes(cells=16, by_row="rows")


def test_a_machine_of_many_cells_is_exact():
    model = lsrl.compile(lsrl.programs.subleq(cells=1100, io=True), "linear_rnn")
    assert model.certificate.exact and model.certificate.tokens is None
    assert model.num_layers == 16 and model.num_nonzero_parameters < 43 * 1100
    image = machine.programs()["multiplication"].image(x=-3, y=40)
    run = model.loop(*machine.card(model, image), steps=1000)
    assert run.halted and (run.memory == machine.interpret(model, image).dump()).all()


def test_an_image_brings_its_memory_map_along():
    assert machine.segments(FAR, page=100) == ((0, 400), (5000, 5100))
    assert machine.segments(FAR, page=1000, steps=0) == ((0, 1000),)
    assert machine.segments(ECHO, page=4) == ((0, 12),)  # up to the first key
    assert machine.segments({0: 3, 1: 4, 2: -1, 31: 5}, bits=6, page=20) == ((0, 32),)
    plain = machine.Subleq(FAR, cells=400)
    assert plain.run() == 4 and (plain.text, plain.lost) == (b"\0", 5000)
    mapped = machine.Subleq(FAR, segments=machine.segments(FAR))
    assert mapped.run() == 4 and (mapped.text, mapped.lost) == (b"\xf9", None)


def test_a_network_tells_of_a_write_that_is_lost():
    program = lsrl.programs.subleq(cells=20, io=True)
    inside = machine.Session(program, [9, 30, 3, 10, 10, -1, 0, 0, 0, 5])
    assert (inside.run(1), inside.lost) == (1, 30)
    assert inside.run() == 1 and inside.halted


@pytest.fixture
def talk(tmp_path):
    """Starts `lsrl machine run` on an image, with a line to it and one from it."""
    running = []

    def start(words, *options):
        (tmp_path / "image.dec").write_text("\n".join(map(str, words)))
        command = [sys.executable, "-m", "lsrl.cli", "machine", "run", "image.dec", *options]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        running.append(subprocess.Popen(command, cwd=tmp_path, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_machine_answers_line_by_line(talk):
    """What it says is there before the next line is typed."""
    process = talk(ECHO)
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
    _, told = process.communicate()
    assert process.returncode == 2 and b"standard input ended" in told


@pytest.mark.studies
def test_an_image_runs_in_a_network_on_the_command_line(talk):
    output, told = talk(FAR, "-t", "linear_rnn", "--segments", "0:320,5000:5001").communicate()
    assert output == b"\xc3\xb9" and b"halted, after 4" in told  # the letter 249, as UTF-8
    output, told = talk(FAR, "--cells", "320").communicate()
    assert output == b"\0" and b"address 5000, which has no cell, was lost" in told
    _, told = talk(FAR, "--segments", "0:320,5000").communicate()
    assert b"expected FIRST:END" in told


@pytest.mark.nightly
@pytest.mark.skipif(not EFORTH.exists(), reason="the image of another hand is not here")
def test_eforth_talks_inside_a_network():
    """Each of a million outputs, and what it says at the end."""
    words = [int(word) for word in EFORTH.read_text().split()]
    segments = ((0, 6528), (32256, 32576))
    model = lsrl.compile(lsrl.programs.subleq(segments=segments, io=True), "linear_rnn")
    assert model.certificate.exact and model.certificate.tokens is None
    assert model.num_nonzero_parameters <= 300_000 and model.num_layers == 16
    plain = machine.interpret(model, words, steps=0)
    run = model.loop(*machine.card(model, words), steps=1, stdin=b"bye\n")
    plain.run(1, b"bye\n")
    while not run.halted:
        run = model.loop(run, steps=100_000)
        told = plain.trace(100_000)
        answers = [[step.b, step.new, step.new - step.at_b, step.next] for step in told]
        assert np.array_equal(run.outputs[:, :4], answers)
    assert (run.steps, run.text) == (plain.steps, plain.text) == (3_065_597, b"")
    assert np.array_equal(run.memory, plain.dump())
