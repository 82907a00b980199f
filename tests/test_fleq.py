"""Computers on real numbers: bit for bit the reference evaluator in float32."""

import numpy as np
import pytest

import lsrl
from lsrl import programs
from lsrl.errors import ProgramError
from lsrl.programs.computer import SEEDS

pytestmark = pytest.mark.one_in(5)

NAMES = [*programs.fleq_functions()]
CELLS = ["one", "zero", "two", "x", "d", "r", "t", "n", "q"]


def card(cells, lines, width=1):
    """The prompt of a program: numbers by cell, and lines by names."""
    rows = max(len(cells), len(lines))
    bus, line = np.zeros((rows, 2 + 2 * width), np.float32), np.zeros((rows, 7))
    bus[:, 0], bus[:, -1], line[:, 0] = -1, -1, -1
    for address, value in enumerate(cells):
        bus[address, :-1] = (address, *np.ravel(value), *np.ravel(value))
    for number, each in enumerate(lines):
        line[number] = (number, *each)
    bus[-1, -1] = 0
    return bus, line


def division(x, d, steps):
    """q = x / d by Newton's method: r = r (2 - d r)."""
    at, f = CELLS.index, NAMES.index
    lines = [
        (f("seed"), at("d"), at("d"), at("r"), at("one"), 0),
        (f("mul"), at("d"), at("r"), at("t"), at("one"), 0),
        (f("sub"), at("two"), at("t"), at("t"), at("one"), 0),
        (f("mul"), at("r"), at("t"), at("r"), at("one"), 0),
        (f("sub"), at("n"), at("one"), at("n"), at("n"), 6),
        (f("sub"), at("zero"), at("zero"), at("zero"), at("zero"), 1),
        (f("mul"), at("x"), at("r"), at("q"), at("one"), 0),
        (f("sub"), at("zero"), at("zero"), at("zero"), at("zero"), -1),
    ]
    cells = np.array([1, 0, 2, x, d, 0, 0, steps, 0], np.float32)
    return card(cells, lines)


def plain_division(x, d, steps):
    x, d, two = np.float32(x), np.float32(d), np.float32(2)
    r = np.float32(2.0 ** -np.frexp(d)[1])
    for _ in range(steps):
        r = r * (two - d * r)
    return x * r


@pytest.mark.parametrize(
    "target", ["griffin", pytest.param("mamba", marks=pytest.mark.studies)]
)  # fmt: skip
def test_division_is_bit_for_bit_that_of_float32(target):
    program = programs.fleq(cells=9, lines=8)
    model = lsrl.compile(program, target)
    assert model.num_layers <= 13
    for x, d in ((3.0, 1.7), (-0.3, 11.0)):
        reference = program.loop(*division(x, d, 4), steps=60, dtype="float32")
        run = model.loop(*division(x, d, 4), steps=60)
        assert run.halted and run.steps == reference.steps == 1 + 4 * 5 - 1 + 2
        np.testing.assert_array_equal(run.outputs, reference.outputs)
        assert np.float32(run.memory.ravel()[8]) == plain_division(x, d, 4)
        assert abs(plain_division(x, d, 4) - x / d) < 1e-5 * abs(x / d)


@pytest.mark.studies
def test_a_running_sum_of_changes_is_within_its_rounding():
    program = programs.fleq(cells=9, lines=8)
    run = lsrl.compile(program, "gated_linear_rnn").loop(*division(3.0, 1.7, 4), steps=60)
    assert abs(run.memory.ravel()[8] - 3 / 1.7) < 1e-5


@pytest.mark.parametrize("power", [SEEDS[0], 0, SEEDS[-1]])
def test_a_seed_changes_at_the_power_of_two_and_not_a_float_before(power):
    program = programs.fleq(cells=2, lines=2)
    line = [(NAMES.index("seed"), 0, 0, 1, 1, 0)]
    for x, expected in (
        (np.float32(2.0**power), 2.0 ** -(power + 1)),
        (np.nextafter(np.float32(2.0**power), np.float32(0)), 2.0**-power),
    ):
        for sign in (1, -1):
            run = program.loop(*card([sign * x, 0], line), steps=1, dtype="float32")
            assert run.outputs[0, 1] == expected


def test_matrices_multiply_in_the_order_of_the_columns():
    program = programs.fleq(cells=3, lines=1, shape=(3, 3))
    names = [*programs.fleq_functions((3, 3))]
    a, b = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    for name, expected in (
        ("matmul", (a[:, :1] * b[:1] + a[:, 1:2] * b[1:2]) + a[:, 2:] * b[2:]),
        ("transpose", a.T),
        ("max", np.where(a > b, a, b)),
    ):
        line = [(names.index(name), 0, 1, 2, 2, 0)]
        run = program.loop(*card([a, b, 0 * a], line, width=9), steps=1, dtype="float32")
        tolerance = 1e-6 if name == "max" else 0  # y + relu(x - y)
        found = run.outputs[0, 1:10].reshape(3, 3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("target", ["griffin", "gated_linear_rnn"])
def test_a_sum_in_order_rounds_after_each_term(target):
    """Where another order gives another number."""

    @lsrl.program
    def total(x: lsrl.Vector(4, low=-(2.0**10), high=2.0**10, step=2.0**-60)):
        return programs.in_order(*x)

    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    rows[:, 1] = -rows[:, 0] * np.float32(1.001)
    expected = ((rows[:, 0] + rows[:, 1]) + rows[:, 2]) + rows[:, 3]
    assert (expected != rows[:, 0] + (rows[:, 1] + (rows[:, 2] + rows[:, 3]))).any()
    outputs = lsrl.compile(total, target).run(rows.astype(np.float64))
    np.testing.assert_array_equal(outputs[:, 0], expected)


def test_functions_are_those_of_the_user():
    functions = {
        "hat": lambda x, y: lsrl.relu(1 - lsrl.absolute(x - y)),
        "cube": lambda x, _: x * x * x,
    }
    program = programs.fleq(cells=3, lines=2, functions=functions)
    lines = [(0, 0, 1, 2, 1, 0), (1, 2, 2, 2, 1, -1)]
    run = program.loop(*card([1.5, 1.25, 0], lines), steps=2, dtype="float32")
    np.testing.assert_array_equal(run.outputs[:, 1], [0.75, 0.75**3])


def test_bad_parameters_of_a_computer_on_numbers():
    for parameters, text in (
        ({"cells": 0}, "cells"), ({"lines": "x"}, "lines"), ({"size": 0}, "size"),
        ({"functions": {}}, "at least one"), ({"shape": (0, 2)}, "shape"),
        ({"functions": {"add": 3}}, "at least one"), ({"functions": abs}, "at least one"),
        ({"functions": {"abs": abs}}, "'abs' failed on two signals"),
        ({"functions": {"one": lambda x, y: 1}}, "'one' must give a signal as wide as a cell, 1"),
        ({"functions": {"both": lsrl.concat}}, "'both' must give"), ({"shape": 2}, "rows, columns"),
    ):  # fmt: skip
        with pytest.raises(ProgramError, match=text):
            programs.fleq(**parameters)
