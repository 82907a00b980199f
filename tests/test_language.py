"""The language: every operator and every piece of sugar against plain numpy, on random inputs.

The bounds and grids that signals carry are checked on the same inputs.
"""

import copy
import inspect
import math
import re
from fractions import Fraction
from typing import Annotated

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl import Signal, Token, Vector
from lsrl.certificate import promises_of
from lsrl.errors import (
    BoundsError,
    LsrlError,
    ProgramError,
    PromiseError,
    RampError,
    ShapeError,
)

TIME = 25
X = Vector(3, low=-4, high=4, step=0.5)
Y = Vector(3, low=(-2, 0, 1), high=(2, 3, 6), step=1)
S = Vector(1, low=0, high=7, step=1)
BITS = Vector(3, low=0, high=1, step=1)
BIT = Vector(1, low=0, high=1, step=1)
Z = Vector(1, low=0, high=9)
KINDS = {"z": Z, "x": X, "y": Y, "s": S, "b": BITS, "c": BIT, "t": Token(5)}


def program_of(body, *kinds, **options):
    """The program of a function; by default its parameters are named after their types."""
    names = list(inspect.signature(body).parameters)
    body.__annotations__ = dict(zip(names, kinds or [KINDS[name] for name in names], strict=True))
    return lsrl.program(**{"max_length": 100, **options})(body)


def random_input(kind, seed, time=TIME):
    random = np.random.default_rng(seed)
    if isinstance(kind, Token):
        return random.integers(kind.size, size=time)
    values = random.uniform(kind.low, kind.high, (time, kind.width))
    step = kind.grid()
    return np.where(step > 0, np.round(values / np.where(step > 0, step, 1)) * step, values)


def facts_of(program):
    return program.graph.facts[program.graph.output]


def assert_within_facts(program, values):
    facts = facts_of(program)
    assert (values >= facts.low).all()
    assert (values <= facts.high).all()
    step = np.where(np.isinf(facts.step), 1.0, facts.step)
    gridded = values[..., step > 0] / step[step > 0]
    np.testing.assert_array_equal(gridded, np.round(gridded))
    assert not values[..., np.isinf(facts.step)].any()


def check(body, expected, time=TIME):
    """A program equals numpy on random inputs, in floats and rationals, one sequence or two."""
    program = program_of(body)
    names = list(program.inputs)
    inputs = [random_input(KINDS[name], seed, time) for seed, name in enumerate(names)]
    columns = [array[:, None] if array.ndim == 1 else array for array in inputs]
    wanted = np.asarray(expected(*columns), dtype=np.float64)
    got = program.run(*inputs)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, wanted.reshape(got.shape))
    np.testing.assert_array_equal(program.run(*inputs, exact=True).astype(np.float64), got)
    batch = program.run(*(np.stack([array, array]) for array in inputs))
    np.testing.assert_array_equal(batch, np.stack([got, got]))
    assert_within_facts(program, got)


LIST = [1, 2, 3]
MATRIX = np.array([[1.0, 0, -2], [0, 0.5, 0], [3, 1, 1], [0, 0, 0]])

OPERATORS = {
    "x + y": (lambda x, y: x + y, lambda x, y: x + y),
    "x + s": (lambda x, s: x + s, lambda x, s: x + s),
    "s + x": (lambda s, x: s + x, lambda s, x: s + x),
    "x + 1": (lambda x: x + 1, lambda x: x + 1),
    "1 + x": (lambda x: 1 + x, lambda x: 1 + x),
    "x + array": (lambda x: x + np.array([1, 2, 3]), lambda x: x + np.array([1, 2, 3])),
    "array + x": (lambda x: np.array([1, 2, 3]) + x, lambda x: x + np.array([1, 2, 3])),
    "list + x": (lambda x: LIST + x, lambda x: x + np.array([1, 2, 3])),
    "s + array": (lambda s: s + np.array([1, 2]), lambda s: s + np.array([1, 2])),
    "x - y": (lambda x, y: x - y, lambda x, y: x - y),
    "x - 0.5": (lambda x: x - 0.5, lambda x: x - 0.5),
    "2 - x": (lambda x: 2 - x, lambda x: 2 - x),
    "array - x": (lambda x: np.arange(3) - x, lambda x: np.arange(3) - x),
    "-x": (lambda x: -x, lambda x: -x),
    "3 * x": (lambda x: 3 * x, lambda x: 3 * x),
    "x * 0.25": (lambda x: x * 0.25, lambda x: x * 0.25),
    "numpy scalar": (lambda x: np.float64(2) * x + np.int64(1), lambda x: 2 * x + 1),
    "x * array": (lambda x: x * np.array([1, -2, 0]), lambda x: x * np.array([1, -2, 0])),
    "array * s": (lambda s: np.array([1, -2, 0]) * s, lambda s: np.array([1, -2, 0]) * s),
    "x / 4": (lambda x: x / 4, lambda x: x / 4),
    "x / array": (lambda x: x / np.array([1, 2, 4]), lambda x: x / np.array([1, 2, 4])),
    "x * y": (lambda x, y: x * y, lambda x, y: x * y),
    "x * x": (lambda x: x * x, lambda x: x * x),
    "s * x": (lambda s, x: s * x, lambda s, x: s * x),
    "A @ x": (lambda x: MATRIX @ x, lambda x: x @ MATRIX.T),
    "list @ x": (lambda x: MATRIX.tolist() @ x, lambda x: x @ MATRIX.T),
    "sparse @ x": (lambda x: sp.csr_array(MATRIX) @ x, lambda x: x @ MATRIX.T),
    "x[0]": (lambda x: x[0], lambda x: x[:, :1]),
    "x[-1]": (lambda x: x[-1], lambda x: x[:, 2:]),
    "x[1:]": (lambda x: x[1:], lambda x: x[:, 1:]),
    "x[::-1]": (lambda x: x[::-1], lambda x: x[:, ::-1]),
    "x[[2, 0, 2]]": (lambda x: x[[2, 0, 2]], lambda x: x[:, [2, 0, 2]]),
    "x[:]": (lambda x: x[:], lambda x: x),
    "unpacking": (lambda x: list(x)[1], lambda x: x[:, 1]),
    "sum": (lambda x: x.sum(), lambda x: x.sum(axis=1)),
    "relu": (lambda x: lsrl.relu(x), lambda x: np.maximum(x, 0)),
    "concat": (lambda x, s: lsrl.concat(x, 3, s), lambda x, s: np.c_[x, s * 0 + 3, s]),
    "tuple": (lambda x, s: (s, x), lambda x, s: np.c_[s, x]),
    "constant": (lambda x: x * 0 + lsrl.constant([1, 2, 3]), lambda x: x * 0 + [1, 2, 3]),
    "absolute": (lambda x: lsrl.absolute(x), lambda x: abs(x)),
    "minimum": (lambda x, y: lsrl.minimum(x, y), np.minimum),
    "minimum with a number": (lambda x: lsrl.minimum(1, x), lambda x: np.minimum(x, 1)),
    "maximum": (lambda x, s: lsrl.maximum(x, s), np.maximum),
    "clip": (lambda x: lsrl.clip(x, -1, 2.5), lambda x: np.clip(x, -1, 2.5)),
    "bound": (lambda x: lsrl.bound(x, -4, [4, 5, 6]), lambda x: x),
    "and": (lambda b, c: b & c, lambda b, c: b * c),
    "and with numbers": (lambda b: b & np.array([1, 0, 1]), lambda b: b * [1, 0, 1]),
    "number and": (lambda b: 1 & b, lambda b: b),
    "or": (lambda b, c: b | c, np.maximum),
    "xor": (lambda b, c: b ^ c, lambda b, c: abs(b - c)),
    "not": (lambda b: ~b, lambda b: 1 - b),
    "token": (lambda t: 2 * t - 1, lambda t: 2 * t - 1),
    "token.one_hot": (lambda t: t.one_hot, lambda t: np.eye(5)[t[:, 0]]),
    "one_hot of a token": (lambda t: lsrl.one_hot(t, 3), lambda t: np.eye(5, 3)[t[:, 0]]),
    "one_hot of a longer n": (lambda t: lsrl.one_hot(t, 7), lambda t: np.eye(5, 7)[t[:, 0]]),
    "one_hot": (lambda s: lsrl.one_hot(s, 8), lambda s: np.eye(8)[s[:, 0].astype(int)]),
    "one_hot of a shorter n": (
        lambda s: lsrl.one_hot(s, 4),
        lambda s: np.eye(8, 4)[s[:, 0].astype(int)],
    ),
    "lookup of a token": (
        lambda t: lsrl.lookup(t, [3, 1, 4, 1, 5]),
        lambda t: np.array([3, 1, 4, 1, 5])[t[:, 0]],
    ),
    "lookup in a longer table": (
        lambda t: lsrl.lookup(t, np.arange(14).reshape(7, 2)),
        lambda t: np.arange(14).reshape(7, 2)[t[:, 0]],
    ),
    "lookup of a vector": (
        lambda s: lsrl.lookup(s, [[3, 0], [1, -1], [4, 2], [1, 1], [5, 9], [9, 2], [2, 6], [6, 5]]),
        lambda s: np.array(
            [[3, 0], [1, -1], [4, 2], [1, 1], [5, 9], [9, 2], [2, 6], [6, 5]]
        )[s[:, 0].astype(int)],
    ),
    "lookup in one row": (lambda s: lsrl.lookup(0 * s, [[2, 3]]), lambda s: s * 0 + [2, 3]),
    "select": (lambda c, x, y: lsrl.select(c, x, y), lambda c, x, y: np.where(c, x, y)),
    "select by channel": (lambda b, x: lsrl.select(b, x, -1), lambda b, x: np.where(b, x, -1)),
    "select of numbers": (lambda b: lsrl.select(b, 3, -1), lambda b: np.where(b, 3, -1)),
    "where": (lambda c, s: lsrl.where(c, 5, s), lambda c, s: np.where(c, 5, s)),
    "s % 3": (lambda s: s % 3, lambda s: s % 3),
    "x % 1.5": (lambda x: x % 1.5, lambda x: x % 1.5),
    "y % -2": (lambda y: y % -2, lambda y: y % -2),
    "y % array": (lambda y: y % np.array([2, -3, 4]), lambda y: y % [2, -3, 4]),
    "s % array": (lambda s: s % [2, 3, 5], lambda s: s % [2, 3, 5]),
    "x // 1": (lambda x: x // 1, lambda x: x // 1),
    "x // 0.75": (lambda x: x // 0.75, lambda x: x // 0.75),
    "y // -2": (lambda y: y // -2, lambda y: y // -2),
    "y // array": (lambda y: y // [4, 2, 3], lambda y: y // [4, 2, 3]),
    "divmod": (lambda x: divmod(x, 2), lambda x: np.hstack(divmod(x, 2))),
    "floor and ceil": (
        lambda s: (math.floor(s / 2), math.ceil(s / 2)),
        lambda s: np.c_[s // 2, (s + 1) // 2],
    ),
    "abs": (lambda x: abs(x), np.abs),
    "+x": (lambda x: +x, lambda x: x),
    "x ** 2": (lambda x: x**2, lambda x: x**2),
    "x ** 3": (lambda x: x**3, lambda x: x**3),
    "y ** 3": (lambda y: y**3, lambda y: y**3),
    "t ** 2": (lambda t: t**2, lambda t: t**2),
    "x ** 0": (lambda x: x**0, lambda x: x**0),
    "x ** 1": (lambda x: x**1, lambda x: x),
    "b ** 5": (lambda b: b**5, lambda b: b),
    "2 ** s": (lambda s: 2**s, lambda s: 2**s),
    "0.5 ** t": (lambda t: 0.5**t, lambda t: 0.5**t),
    "x @ A": (lambda x: x @ MATRIX.T, lambda x: x @ MATRIX.T),
    "x @ list": (lambda x: x @ LIST, lambda x: (x @ LIST)[:, None]),
    "x @ sparse": (lambda x: x @ sp.csr_array(MATRIX.T), lambda x: x @ MATRIX.T),
    "array @ x": (lambda x: np.array(LIST) @ x, lambda x: (x @ LIST)[:, None]),
    "x @ y": (lambda x, y: x @ y, lambda x, y: (x * y).sum(axis=1, keepdims=True)),
    "np.maximum": (lambda x: np.maximum(0, x), lambda x: np.maximum(x, 0)),
    "np.minimum": (lambda x, y: np.minimum(x, y), np.minimum),
    "np.abs": (lambda x: np.abs(x), np.abs),
    "np.add": (lambda x: np.add(LIST, x), lambda x: x + LIST),
    "np.subtract": (lambda x: np.subtract(LIST, x), lambda x: LIST - x),
    "np.multiply": (lambda x: np.multiply(x, LIST), lambda x: x * LIST),
    "np.negative": (lambda x: np.negative(x), np.negative),
    "np.mod": (lambda y: np.mod(y, 3), lambda y: np.mod(y, 3)),
    "np.floor_divide": (lambda y: np.floor_divide(y, 3), lambda y: np.floor_divide(y, 3)),
    "np.floor": (lambda x: np.floor(x), np.floor),
    "np.power": (lambda y: np.power(y, 2), lambda y: y**2),
    "np.matmul": (lambda x: np.matmul(MATRIX, x), lambda x: x @ MATRIX.T),
    "np.dot": (lambda x: np.dot(MATRIX, x), lambda x: x @ MATRIX.T),
    "np.greater": (lambda x: np.greater([0, 1, 2], x), lambda x: np.greater([0, 1, 2], x)),
    "np.less_equal": (lambda x: np.less_equal(0, x), lambda x: x >= 0),
    "np.logical_and": (lambda b, c: np.logical_and(b, c), np.logical_and),
    "np.logical_not": (lambda b: np.logical_not(b), np.logical_not),
    "np.where": (lambda c, s: np.where(c, 5, s), lambda c, s: np.where(c, 5, s)),
    "np.clip": (lambda x: np.clip(x, -1, 2.5), lambda x: np.clip(x, -1, 2.5)),
    "np.sum": (lambda x: np.sum(x), lambda x: x.sum(axis=1)),
    "np.max": (lambda x: np.max(x), lambda x: x.max(axis=1)),
    "np.min": (lambda x: np.min(x), lambda x: x.min(axis=1)),
    "np.argmax": (lambda x: np.argmax(x), lambda x: x.argmax(axis=1)),
    "np.concatenate": (lambda x, s: np.concatenate([x, s]), lambda x, s: np.c_[x, s]),
    "array > x": (lambda x: np.array([0, 1, 2]) > x, lambda x: x < [0, 1, 2]),
    "deepcopy": (lambda x: copy.deepcopy(x) + copy.copy(x), lambda x: 2 * x),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), OPERATORS.values(), ids=OPERATORS)
def test_operators_equal_numpy(body, expected):
    check(body, expected)


COMPARISONS = {
    ">": (lambda x, y: x > y, np.greater),
    ">=": (lambda x, y: x >= y, np.greater_equal),
    "<": (lambda x, y: x < y, np.less),
    "<=": (lambda x, y: x <= y, np.less_equal),
    "==": (lambda x, y: x == y, np.equal),
    "!=": (lambda x, y: x != y, np.not_equal),
}


@pytest.mark.parametrize("step", [1, 3, 0.5, 6, 2.0**-20])
@pytest.mark.parametrize(("compare", "expected"), COMPARISONS.values(), ids=COMPARISONS)
def test_comparisons_are_exact_on_every_grid(compare, expected, step):
    values = np.arange(-4, 5) * float(step)
    kind = Vector(1, low=values[0], high=values[-1], step=step)
    first, second = (grid.reshape(-1, 1) for grid in np.meshgrid(values, values))
    program = program_of(compare, kind, kind)
    np.testing.assert_array_equal(program.run(first, second), expected(first, second))
    assert facts_of(program).boolean
    with_numbers = program_of(lambda x: compare(x, 2 * step), kind)
    np.testing.assert_array_equal(
        with_numbers.run(values[:, None])[:, 0], expected(values, 2 * step)
    )


def test_comparisons_of_mixed_grids_and_numbers_off_the_grid():
    check(lambda x, y: x > y, np.greater)
    check(lambda x, s: x != s, np.not_equal)
    check(lambda y: y > 1.5, lambda y: y > 1.5)
    check(lambda y: y <= 0.3, lambda y: y <= 0.3)
    check(lambda s: np.float64(3) > s, lambda s: s < 3)
    check(lambda x: np.array([0, 1, 2]) >= x, lambda x: x <= [0, 1, 2])
    check(lambda s: s == [1, 2, 3], lambda s: s == [1, 2, 3])


def test_a_comparison_that_bounds_decide_is_still_right():
    check(lambda s: s >= 0, lambda s: s >= 0)
    check(lambda s: s > 7, lambda s: s > 7)
    facts = facts_of(program_of(lambda s: s > 7))
    assert facts.high == 0


RAMPED = {
    # 1 and 0 at these distances of x above y, in units of the ramp.
    "greater_equal": (lsrl.greater_equal, [-0.5, 0, 0.5, 9], [-1, -1.5, -9]),
    "less": (lsrl.less, [-1, -1.5, -9], [-0.5, 0, 0.5, 9]),
    "greater": (lsrl.greater, [1, 1.5, 9], [0.5, 0, -0.5, -9]),
    "less_equal": (lsrl.less_equal, [0.5, 0, -0.5, -9], [1, 1.5, 9]),
    "equal": (lsrl.equal, [-0.5, 0, 0.25, 0.5], [-9, -1, 1, 1.5]),
    "not_equal": (lsrl.not_equal, [-9, -1, 1, 1.5], [-0.5, 0, 0.25, 0.5]),
}


@pytest.mark.parametrize(("compare", "ones", "zeros"), RAMPED.values(), ids=RAMPED)
@pytest.mark.parametrize("ramp", [1.0, 2.0**-10])
def test_ramps_end_where_they_say(compare, ones, zeros, ramp):
    kind = Vector(1, low=-20, high=20)
    program = program_of(lambda x, y: compare(x, y, ramp=ramp), kind, kind)
    assert facts_of(program).boolean
    distances = np.array([*ones, *zeros])[:, None] * ramp
    base = np.full_like(distances, 3.0)
    got = program.run(base + distances, base, exact=True)
    assert got[:, 0].tolist() == [1] * len(ones) + [0] * len(zeros)


@pytest.mark.parametrize("compare", [entry[0] for entry in RAMPED.values()], ids=RAMPED)
@pytest.mark.parametrize("step", [None, 1 / 8], ids=["continuous", "gridded"])
def test_values_inside_a_ramp_break_a_promise(compare, step):
    kind = Vector(1, low=-20, high=20, step=step)

    def body(x, y):
        same = compare(x, y, ramp=1)
        return x, same * 0

    line = inspect.getsourcelines(body)[1] + 1
    program = program_of(body, kind, kind)
    # Three quarters of a ramp above or below, as the comparison has it.
    x = [[0.0], [0.0], [0.0]]
    y = [[3.0], [-3.0], [0.75 if compare in (lsrl.greater_equal, lsrl.less) else -0.75]]
    assert program.run(x[:2], y[:2]).shape == (2, 2)
    for run in (program.run, program.trace):
        with pytest.raises(PromiseError) as error:
            run(x, y)
        where = rf"test_language\.py:{line}\) was promised.*ramp \(-1, -0\.5\).*-0\.75.*token 2"
        assert re.search(where, str(error.value))
        assert (error.value.keeper, error.value.token) == ("prompt", 2)


def test_a_ramp_is_promised_only_where_a_value_may_enter_it():
    def promises(kind, compare):
        return len(promises_of(program_of(compare, kind).graph))

    continuous, coarse = Vector(1, low=0, high=1), Vector(1, low=0, high=8, step=1)
    assert promises(continuous, lambda x: lsrl.greater_equal(x, 0.5, ramp=0.25)) == 1
    assert promises(continuous, lambda x: lsrl.greater_equal(x, -1, ramp=0.25)) == 0
    assert promises(continuous, lambda x: lsrl.greater_equal(x, 2, ramp=0.5)) == 0
    # Between the integers -2 and -1 there is none, between -3 and -1.5 there is.
    assert promises(coarse, lambda x: lsrl.greater_equal(x, 3, ramp=2)) == 0
    assert promises(coarse, lambda x: lsrl.greater_equal(x, 3, ramp=3)) == 1
    assert promises(coarse, lambda x: lsrl.greater_equal(x, 1, ramp=3)) == 0


def test_a_ramp_of_its_own_is_defined_in_between():
    kind = Vector(1, low=-20, high=20)
    program = program_of(lambda x, y: lsrl.ramp(x, y, 1), kind, kind)
    assert promises_of(program.graph) == ()
    fact = facts_of(program)
    assert (fact.low, fact.high, fact.step) == (0, 1, 0)
    x = [[1.5], [2.0], [2.25], [2.375], [2.5], [9.0]]
    got = program.run(x, [[3.0]] * 6, exact=True)
    assert got[:, 0].tolist() == [0, 0, Fraction(1, 2), Fraction(3, 4), 1, 1]


def test_a_ramp_between_gridded_values_has_a_grid():
    kind = Vector(1, low=0, high=1, step=1 / 8)
    program = program_of(lambda x: lsrl.ramp(x, [0.5, 1], 0.5), kind)
    assert facts_of(program).step.tolist() == [0.5, 0.5]
    assert program.run([[0.125], [0.25]]).tolist() == [[0.5, 0], [1, 0]]


@pytest.mark.parametrize("width", [0, -1, [1, 2], "wide", 1e-320])
def test_a_bad_ramp_is_refused(width):
    kind = Vector(1, low=0, high=1)
    with pytest.raises(LsrlError, match=r"test_language\.py:\d+.*width"):
        program_of(lambda x: lsrl.ramp(x, 0.5, width), kind)


@pytest.mark.parametrize("ramp", [None, 0, -1, [1, 2], "wide"])
def test_continuous_values_need_a_ramp(ramp):
    kind = Vector(1, low=0, high=1)
    with pytest.raises(LsrlError, match=r"test_language\.py:\d+.*ramp"):
        program_of(lambda x: lsrl.greater(x, 0.5, ramp=ramp), kind)


@pytest.mark.parametrize("compare", [entry[0] for entry in COMPARISONS.values()], ids=COMPARISONS)
def test_operators_on_continuous_values_ask_for_a_ramp(compare):
    kind = Vector(1, low=0, high=1)
    with pytest.raises(RampError, match=r"ramp=2\*\*-10.*step="):
        program_of(compare, kind, kind)
    # A step that is no short dyadic number is no grid.
    with pytest.raises(RampError):
        program_of(compare, Vector(1, low=0, high=1, step=0.1), kind)


def states(update, matrix, initial, rule):
    """Row t: rule(matrix @ row t-1 + update t)."""
    row, rows = np.broadcast_to(np.asarray(initial, float), update.shape[1:]), []
    for now in update:
        row = rule(matrix @ row + now)
        rows.append(row)
    return np.array(rows)


def delayed(x, n, initial=0):
    before = np.broadcast_to(np.asarray(initial, float), (n, x.shape[1]))
    return np.concatenate([before, x])[: len(x)]


def held(x, when, initial=0):
    row, rows = np.broadcast_to(np.asarray(initial, float), x.shape[1:]), []
    for value, now in zip(x, np.broadcast_to(when, x.shape), strict=True):
        row = np.where(now, value, row)
        rows.append(row)
    return np.array(rows)


SHIFT = np.eye(3, k=-1)
ROTATION = np.roll(np.eye(3), 1, axis=0)
GENERAL = np.array([[1.0, -1, 0], [0, 0, 1], [0, -1, 0]])


def identity(x):
    return x


STATES = {
    "cumsum": (lambda x: lsrl.cumsum(x), lambda x: x.cumsum(axis=0)),
    "cumsum from": (
        lambda x: lsrl.cumsum(x, initial=LIST),
        lambda x: x.cumsum(axis=0) + np.array(LIST),
    ),
    "linear_state": (lambda x: lsrl.linear_state(x), lambda x: x.cumsum(axis=0)),
    "shift": (
        lambda x: lsrl.linear_state(x, SHIFT, initial=2),
        lambda x: states(x, SHIFT, 2, identity),
    ),
    "rotation": (
        lambda x: lsrl.linear_state(x, ROTATION, initial=[1, 0, 2]),
        lambda x: states(x, ROTATION, [1, 0, 2], identity),
    ),
    "sparse rotation": (
        lambda x: lsrl.linear_state(x, sp.csr_array(ROTATION)),
        lambda x: states(x, ROTATION, 0, identity),
    ),
    "signed": (
        lambda x: lsrl.linear_state(x, -1, initial=1),
        lambda x: states(x, -np.eye(3), 1, identity),
    ),
    "general": (
        lambda x: lsrl.linear_state(x, GENERAL, initial=[1, 2, 3]),
        lambda x: states(x, GENERAL, [1, 2, 3], identity),
    ),
    "position": (lambda s: lsrl.position() + 0 * s, lambda s: np.arange(TIME)),
    "cycle": (lambda s: lsrl.cycle(4) + 0 * s, lambda s: np.arange(TIME) % 4),
    "periodic": (lambda s: lsrl.periodic([2, 7, 1]) + 0 * s, lambda s: np.resize([2, 7, 1], TIME)),
    "periodic rows": (
        lambda x: lsrl.periodic([[1, 2, 3], [4, 5, 6]]) + 0 * x,
        lambda x: np.resize([[1, 2, 3], [4, 5, 6]], (TIME, 3)),
    ),
    "delay": (lambda x: lsrl.delay(x), lambda x: delayed(x, 1)),
    "delay 0": (lambda x: lsrl.delay(x, 0), lambda x: x),
    "delay 7": (
        lambda x: lsrl.delay(x, 7, initial=[1, 2, -3]),
        lambda x: delayed(x, 7, [1, 2, -3]),
    ),
    "delay past the end": (lambda x: lsrl.delay(x, 99, initial=4), lambda x: delayed(x, 99, 4)),
    "window_sum": (
        lambda x: lsrl.window_sum(x, 4),
        lambda x: sum(delayed(x, k) for k in range(4)),
    ),
    "window_sum 1": (lambda x: lsrl.window_sum(x, 1), lambda x: x),
    "hold": (lambda x, c: lsrl.hold(x, c), held),
    "hold by channel": (
        lambda x, b: lsrl.hold(x, b, initial=LIST),
        lambda x, b: held(x, b, LIST),
    ),
    "hold one value by channel": (lambda s, b: lsrl.hold(s, b), lambda s, b: held(s + 0 * b, b)),
    "hold forever": (lambda x, c: lsrl.hold(x, c * 0, initial=3), lambda x, c: x * 0 + 3),
    "selective_state": (
        lambda c, y: lsrl.selective_state(c, y, initial=2),
        lambda c, y: selective(c + 0 * y, y, 2),
    ),
    "latch": (
        lambda x: lsrl.latch(x, lsrl.position() == 4, initial=1),
        lambda x: np.where(np.arange(TIME)[:, None] < 4, 1, x[4]),
    ),
    "latch at once": (lambda x: lsrl.latch(x, lsrl.position() == 0), lambda x: x * 0 + x[0]),
    "latch never": (lambda x, c: lsrl.latch(x, 0 * c, initial=2), lambda x, c: x * 0 + 2),
    "threshold_state": (
        lambda y: lsrl.threshold_state(y - 1, 2 * ROTATION - 1, initial=[1, 0, 0]),
        lambda y: states(y - 1, 2 * ROTATION - 1, [1, 0, 0], lambda h: h > 0),
    ),
    "threshold flip": (
        # h flips where c is 1: h xor c, from two thresholds on h + c.
        lambda c: lsrl.threshold_state(np.array([[1], [2]]) @ c, np.array([[1, -1], [1, -1]]))[0],
        lambda c: states(c @ [[1, 2]], np.array([[1, -1], [1, -1]]), 0, lambda h: h > 0)[:, 0],
    ),
    "recurrent_state": (
        lambda y: lsrl.recurrent_state(y - 2, SHIFT, high=9, initial=1),
        lambda y: states(y - 2, SHIFT, 1, lambda h: np.maximum(h, 0)),
    ),
    "recurrent counter": (
        lambda c: lsrl.recurrent_state(2 * c - 1, 1, high=100),
        lambda c: states(2 * c - 1, np.eye(1), 0, lambda h: np.maximum(h, 0)),
    ),
}  # fmt: skip


def selective(keep, update, initial):
    row, rows = np.full(update.shape[1], float(initial)), []
    for kept, added in zip(keep, update, strict=True):
        row = kept * row + added
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("body", "expected"), STATES.values(), ids=STATES)
def test_states_equal_numpy(body, expected):
    check(body, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 100])
def test_mod_of_integers(n):
    program = program_of(lambda x: lsrl.mod(x, n), Vector(1, low=0, high=99, step=1))
    values = np.arange(100)[:, None]
    np.testing.assert_array_equal(program.run(values), values % n)
    assert_within_facts(program, program.run(values))
    assert facts_of(program).high <= n - 1


@pytest.mark.parametrize(("step", "n"), [(0.5, 1.5), (0.25, 2), (3, 6), (3, 12), (2, 2)])
def test_mod_on_other_grids(step, n):
    values = np.arange(40)[:, None] * step
    program = program_of(lambda x: lsrl.mod(x, n), Vector(1, low=0, high=39 * step, step=step))
    np.testing.assert_array_equal(program.run(values), values % n)
    assert_within_facts(program, program.run(values))


DIVISORS = st.sampled_from([-6, -2.5, -1, -0.75, 0.25, 0.5, 1, 1.5, 2, 3, 7, 8])


@settings(max_examples=30)
@given(
    low=st.integers(-40, 20),
    span=st.integers(0, 60),
    step=st.sampled_from([0.25, 0.5, 1, 1.5, 2, 3]),
    n=DIVISORS,
)
def test_modulo_and_floor_division_equal_numpy(low, span, step, n):
    values = np.arange(low, low + span + 1)[:, None] * step
    kind = Vector(1, low=values.min(), high=values.max(), step=step)
    program = program_of(lambda x: divmod(x, n), kind)
    expected = np.hstack(divmod(values, n))
    got = program.run(values[:100])
    np.testing.assert_array_equal(got, expected[:100])
    assert_within_facts(program, got)
    facts = facts_of(program)
    assert facts.step[0] >= 1 or facts.low[0] == facts.high[0], "a quotient is an integer"
    assert abs(facts.low[1]) < abs(n) and abs(facts.high[1]) < abs(n)


@settings(max_examples=20)
@given(
    low=st.integers(-9, 9),
    span=st.integers(0, 20),
    step=st.sampled_from([0.5, 1, 3]),
    n=st.integers(0, 5),
)
def test_powers_equal_numpy(low, span, step, n):
    values = np.arange(low, low + span + 1)[:, None] * step
    kind = Vector(1, low=values.min(), high=values.max(), step=step)
    program = program_of(lambda x: x**n, kind)
    got = program.run(values)
    np.testing.assert_array_equal(got, values**n)
    assert_within_facts(program, got)


@pytest.mark.parametrize("target", ["linear_rnn", "lstm", "griffin"])
def test_new_operators_on_networks(target):
    program = program_of(lambda y: (y % -3, y // 2, y**2, abs(y), y @ MATRIX.T))
    inputs = random_input(Y, 0)
    model = lsrl.compile(program, target)
    assert model.certificate.exact
    np.testing.assert_array_equal(model.run(inputs), program.run(inputs))


def test_mod_of_vectors_and_of_a_running_sum():
    check(lambda y: lsrl.mod(y + 2, 3), lambda y: (y + 2) % 3)
    check(lambda s: lsrl.mod(lsrl.cumsum(s), 5), lambda s: s.cumsum(axis=0) % 5)
    check(lambda s: lsrl.mod(lsrl.position() + 0 * s, 4), lambda s: np.arange(TIME) % 4)


@pytest.mark.parametrize("via", ["auto", "gate", "relu"])
@pytest.mark.parametrize("target", ["linear_rnn", "gated_linear_rnn"])
def test_select_in_every_form_on_every_target(via, target):
    program = program_of(lambda c, x, y: lsrl.select(c, x, y, via=via))
    inputs = [random_input(KINDS[name], seed) for seed, name in enumerate("cxy")]
    expected = np.where(inputs[0], inputs[1], inputs[2])
    np.testing.assert_array_equal(program.run(*inputs), expected)
    if (via, target) == ("gate", "linear_rnn"):
        return  # test_bad_input has the refusal
    model = lsrl.compile(program, target)
    assert model.certificate.exact
    np.testing.assert_array_equal(model.run(*inputs), expected)


FACTS = {
    "input": (lambda x: x, -4, 4, 0.5),
    "token": (lambda t: t, 0, 4, 1),
    "sum": (lambda y: y.sum(), -1, 11, 1),
    "grid of a multiple": (lambda y: 3 * y, (-6, 0, 3), (6, 9, 18), 3),
    "common grid": (lambda y: 6 * y[0] + 4 * y[1], -12, 24, 2),
    "constant": (lambda s: lsrl.constant(7) + 0 * s, 7, 7, 7),
    "relu": (lambda x: lsrl.relu(x - 1), 0, 3, 0.5),
    "product": (lambda x: x * x, -16, 16, 0.25),
    "step": (lambda x: x[0] > 1, 0, 1, 1),
    "running sum": (lambda c: lsrl.cumsum(c), 0, 100, 1),
    "position": (lambda c: lsrl.position() + 0 * c, 0, 99, 1),
    "window": (lambda y: lsrl.window_sum(y, 3), (-6, 0, 1), (6, 9, 18), 1),
    "delay": (lambda y: lsrl.delay(y, 2, initial=-1), (-2, -1, -1), (2, 3, 6), 1),
    "mod": (lambda s: lsrl.mod(lsrl.cumsum(s), 3), 0, 2, 1),
    "bound": (lambda c: lsrl.bound(lsrl.cumsum(c), 3, 5), 3, 5, 1),
    "latch": (lambda y: lsrl.latch(y, lsrl.position() == 3), (-2, 0, 0), (2, 3, 6), 1),
    "hold": (lambda y, c: lsrl.hold(y, c), (-2, 0, 0), (2, 3, 6), 1),
    "selective_state": (lambda c, y: lsrl.selective_state(c, y), (-200, 0, 1), (200, 300, 600), 1),
    "threshold": (lambda y: lsrl.threshold_state(y, 1), 0, 1, 1),
    "recurrent": (lambda y: lsrl.recurrent_state(y, 1, low=1, high=5), 1, 5, 1),
    "select": (lambda c, y: lsrl.select(c, y, 9), (-2, 0, 1), (9, 9, 9), 1),
    "lookup": (lambda t: lsrl.lookup(t, [2, 4, 8, 4, 2]), 2, 8, 2),
    "a decaying state": (lambda c: lsrl.linear_state(c, 0.5), 0, 2, None),
    "a cycle": (lambda c: lsrl.cycle(6) + 0 * c, 0, 5, 1),
}  # fmt: skip


@pytest.mark.parametrize(("body", "low", "high", "step"), FACTS.values(), ids=FACTS)
def test_bounds_and_grids_are_inferred(body, low, high, step):
    facts = facts_of(program_of(body))
    if step is None:  # tight up to rounding
        np.testing.assert_allclose(facts.low, low, atol=1e-9)
        np.testing.assert_allclose(facts.high, high, atol=1e-9)
        return
    np.testing.assert_array_equal(facts.low, np.broadcast_to(low, facts.low.shape))
    np.testing.assert_array_equal(facts.high, np.broadcast_to(high, facts.high.shape))
    np.testing.assert_array_equal(facts.step, np.broadcast_to(step, facts.step.shape))


def test_bounds_are_there_when_a_signal_is_made():
    seen = {}

    def body(x, s):
        seen["x"], seen["double"] = x.facts.high.tolist(), (2 * x).facts.high.tolist()
        seen["count"] = lsrl.cumsum(s).facts.high.tolist()
        return x

    program_of(body, max_length=10)
    assert seen == {"x": [4.0] * 3, "double": [8.0] * 3, "count": [70.0]}


@pytest.mark.parametrize(
    "body",
    [
        lambda t: t.one_hot,
        lambda t: t.one_hot[1:3],
        lambda c: lsrl.periodic(np.eye(4)) * c,
        lambda c: lsrl.relu(lsrl.periodic(np.eye(4))) * c,
    ],
)
def test_one_hot_signals_know_it(body):
    assert facts_of(program_of(body)).one_hot


@pytest.mark.parametrize(
    "body",
    [
        lambda t: t.one_hot + t.one_hot,
        lambda t: 2 * t.one_hot,
        lambda b: b,
        lambda t: lsrl.cumsum(t.one_hot),
        lambda t: lsrl.concat(t.one_hot, t.one_hot),
        lambda t: t.one_hot[[0, 0]],
    ],
)
def test_other_signals_do_not_claim_to_be_one_hot(body):
    assert not facts_of(program_of(body)).one_hot


def test_one_hot_rows_have_tight_bounds():
    facts = facts_of(program_of(lambda t: np.array([[5, -3, 2, 0, 1]]) @ t.one_hot))
    assert (facts.low, facts.high) == (-3, 5)


def test_annotations_in_both_forms():
    @lsrl.program
    def plain(x: lsrl.Token(3)) -> lsrl.Token(6):  # type: ignore[valid-type]
        return 2 * x

    @lsrl.program()
    def annotated(x: Annotated[Signal, Token(3)]) -> Annotated[Signal, Token(6)]:
        return 2 * x

    for program in (plain, annotated):
        assert program.inputs == {"x": Token(3)}
        assert program.output_type == Token(6)
        assert program.run([0, 1, 2])[:, 0].tolist() == [0, 2, 4]
    assert annotated.max_length is None


def test_a_program_keeps_name_documentation_and_types():
    @lsrl.program(name="renamed", max_length=7)
    def original(a: Annotated[Signal, Token(3)], b: Annotated[Signal, Vector(2, low=0, high=1)]):
        """What it does."""
        return a, b

    assert original.name == "renamed"
    assert original.documentation == "What it does."
    assert original.max_length == 7
    assert list(original.inputs) == ["a", "b"]
    assert original.num_outputs == 3
    assert original.output_type is None
    assert repr(original).startswith("Program renamed(a: Token(size=3), b: Vector")


def test_a_declared_vector_output_is_checked():
    @lsrl.program
    def within(x: Annotated[Signal, X]) -> Annotated[Signal, Vector(3, low=-8, high=8)]:
        return 2 * x

    assert within.output_type is None
    assert within.num_outputs == 3


def test_names_come_from_variables():
    def body(x, s):
        double = 2 * x
        parts = [x[0], x[1]]
        table = {"sum": x.sum()}
        (s + 1).named("next")
        again = 2 * x
        return double + again + table["sum"] + parts[0]

    program = program_of(body)
    names = {name for node in program.graph.nodes for name in node.names}
    assert {"x", "s", "double", "again", "parts[0]", "parts[1]", "table['sum']", "next"} <= names
    (merged,) = [node for node in program.graph.nodes if "double" in node.names]
    assert "again" in merged.names, "equal signals are one node with all its names"
    assert len(merged.sources) == 2


def test_sources_are_the_users_lines():
    def body(x):
        return lsrl.window_sum(lsrl.absolute(x), 3)

    line = inspect.getsourcelines(body)[1] + 1
    program = program_of(body)
    for i, node in enumerate(program.graph.nodes):
        assert all(source.file == __file__ for source in node.sources)
        if i:
            assert {source.line for source in node.sources} == {line}


def test_trace_has_every_named_signal():
    def body(c):
        ones = lsrl.cumsum(c)
        return ones > lsrl.position().named("t") - ones

    program = program_of(body)
    bits = np.array([[1.0], [0], [1], [0], [0]])
    trace = program.trace(bits)
    np.testing.assert_array_equal(trace["c"], bits)
    np.testing.assert_array_equal(trace["ones"], bits.cumsum(axis=0))
    np.testing.assert_array_equal(trace["t"][:, 0], np.arange(5))
    assert program.trace(np.stack([bits] * 3))["ones"].shape == (3, 5, 1)


def test_exact_runs_give_rationals():
    program = program_of(lambda x: x / 3)
    got = program.run([[1.0, 2.0, 3.0]], exact=True)
    assert all(isinstance(value, int | Fraction) for value in got.ravel())
    assert got[0, 2] == 3 * Fraction(1 / 3)


def test_numbers_past_float64_stay_exact():
    program = program_of(lambda s: s + 2**53)
    assert program.run([[1.0]], exact=True)[0, 0] == 2**53 + 1
    facts = facts_of(program)
    assert facts.low <= 2**53
    assert int(facts.high[0]) >= 2**53 + 7


def test_signals_of_one_program_stay_there():
    kept = []

    def first(x):
        kept.append(x)
        return x

    program_of(first)
    with pytest.raises(ProgramError, match="another program"):
        program_of(lambda x: x + kept[0])
    with pytest.raises(ProgramError, match="inside a program"):
        kept[0] + 1
    with pytest.raises(ProgramError, match="inside a program"):
        lsrl.constant(1)


def test_programs_can_be_nested():
    inner = []

    def outer(x):
        inner.append(program_of(lambda y: y + 1))
        return x - 1

    np.testing.assert_array_equal(program_of(outer).run([[1, 1, 1]]), [[0, 0, 0]])
    np.testing.assert_array_equal(inner[0].run([[1, 1, 1]]), [[2, 2, 2]])


MISTAKES = {
    "adding widths": (lambda x, s: x + x[:2], ShapeError),
    "comparing widths": (lambda x: x > x[:2], ShapeError),
    "multiplying widths": (lambda x: x * x[:2], ShapeError),
    "factor": (lambda x: x * np.array([1, 2]), ShapeError),
    "matrix": (lambda x: np.eye(4) @ x, ShapeError),
    "index": (lambda x: x[3], ShapeError),
    "state matrix": (lambda x: lsrl.linear_state(x, np.eye(2)), ShapeError),
    "oblong state matrix": (lambda x: lsrl.linear_state(x, np.ones((2, 3))), ShapeError),
    "initial": (lambda x: lsrl.cumsum(x, initial=[1, 2]), ShapeError),
    "delay's initial": (lambda x: lsrl.delay(x, 1, initial=[1, 2]), ShapeError),
    "select's values": (lambda c, x: lsrl.select(c, x, x[:2]), ShapeError),
    "select's condition": (lambda b, x: lsrl.select(b[:2], x, 1), ShapeError),
    "latch's condition": (lambda b, x: lsrl.latch(x, b), ShapeError),
    "table": (lambda t: lsrl.lookup(t, np.ones((5, 1, 1))), ShapeError),
    "empty table": (lambda t: lsrl.lookup(t, []), ShapeError),
    "one_hot of a vector": (lambda x: lsrl.one_hot(x, 3), ShapeError),
    "empty slice": (lambda x: x[3:], ShapeError),
    "empty list of channels": (lambda x: x[[]], ShapeError),
    "nested list of channels": (lambda x: x[[[0], [1]]], ShapeError),
    "empty constant": (lambda x: lsrl.constant([]), ShapeError),
    "adding a matrix": (lambda x: x + np.ones((1, 3)), ShapeError),
    "concat of nothing": (lambda x: lsrl.concat(), ShapeError),
    "division by zero": (lambda x: x / 0, ProgramError),
    "division by a signal": (lambda x, s: x / s, ProgramError),
    "truth": (lambda x: x if x[0] > 1 else -x, ProgramError),
    "and of numbers": (lambda x: x & 1, ProgramError),
    "not of integers": (lambda s: ~s, ProgramError),
    "select of integers": (lambda s: lsrl.select(s, 1, 2), ProgramError),
    "unknown form": (lambda c: lsrl.select(c, 1, 2, via="magic"), ProgramError),  # type: ignore[arg-type]
    "nan": (lambda x: x + float("nan"), ProgramError),
    "infinite matrix": (lambda x: np.full((1, 3), np.inf) @ x, ProgramError),
    "an int that float64 rounds": (lambda s: s + (2**53 + 1), ProgramError),
    "a fraction that float64 rounds": (lambda s: s * Fraction(1, 3), ProgramError),
    "text": (lambda s: s + "one", ProgramError),
    "None": (lambda s: s + None, ProgramError),
    "complex": (lambda s: s * 1j, ProgramError),
    "one_hot of a vector's": (lambda s: s.one_hot, ProgramError),
    "delay by a half": (lambda x: lsrl.delay(x, 0.5), ProgramError),  # type: ignore[arg-type]
    "delay into the future": (lambda x: lsrl.delay(x, -1), ProgramError),
    "cycle(0)": (lambda x: lsrl.cycle(0), ProgramError),
    "window_sum(0)": (lambda x: lsrl.window_sum(x, 0), ProgramError),
    "one_hot(0)": (lambda s: lsrl.one_hot(s, 0), ProgramError),
    "mod by text": (lambda s: lsrl.mod(s, "two"), ProgramError),  # type: ignore[arg-type]
    "ragged table": (lambda t: lsrl.lookup(t, [[1], [2, 3], [4], [5], [6]]), ProgramError),
    "nan in a table": (lambda t: lsrl.lookup(t, [1, 2, 3, 4, np.nan]), ProgramError),
    "text in a matrix": (lambda x: np.array([["a", "b", "c"]]) @ x, ProgramError),
    "ragged matrix": (lambda x: [[1, 2, 3], [1]] @ x, ProgramError),
    "matrix with three axes": (lambda x: np.ones((1, 1, 3)) @ x, ProgramError),
    "no state matrix": (lambda x: lsrl.linear_state(x, None), ProgramError),
    "mod by zero": (lambda s: lsrl.mod(s, 0), ProgramError),
    "mod on no common grid": (lambda s: lsrl.mod(s, 0.1), ProgramError),
    "mod of continuous": (lambda z: lsrl.mod(z, 1), ProgramError),
    "mod without bounds": (lambda s: lsrl.mod(lsrl.linear_state(s, 2.0**20), 2), BoundsError),
    "modulo by a matrix": (lambda x: x % np.eye(3), ShapeError),
    "modulo by other widths": (lambda x: x % [2, 3], ShapeError),
    "floor division by zero": (lambda x: x // [1, 0, 2], ProgramError),
    "floor division of continuous": (lambda z: z // 1, ProgramError),
    "floor division of a number": (lambda s: 7 // s, ProgramError),
    "a half as a power": (lambda s: s**0.5, ProgramError),
    "a negative power": (lambda s: s**-1, ProgramError),
    "a signal to the power of one": (lambda s: s**s, ProgramError),
    "a power of continuous": (lambda z: 2**z, ProgramError),
    "a matrix from the right": (lambda x: x @ np.eye(2), ShapeError),
    "a number from the right": (lambda x: x @ 2, ProgramError),
    "ufunc": (lambda x: np.exp(x), ProgramError),
    "ufunc into an array": (lambda x: np.add(x, 1, out=np.zeros(3)), ProgramError),
    "function of arrays": (lambda x: np.cumsum(x), ProgramError),
    "lookup outside": (lambda s: lsrl.lookup(s, [1, 2]), BoundsError),
    "lookup of negatives": (lambda y: lsrl.lookup(y[0], [1, 2, 3, 4]), BoundsError),
    "token outside the table": (lambda t: lsrl.lookup(t, [1, 2]), BoundsError),
    "bound that is empty": (lambda x: lsrl.bound(x, 2, 1), BoundsError),
    "bound beyond reach": (lambda x: lsrl.bound(x, 5, 6), BoundsError),
    "threshold's start": (lambda y: lsrl.threshold_state(y, 1, initial=2), ProgramError),
    "threshold of continuous": (lambda z: lsrl.threshold_state(z, 1), ProgramError),
    "continuous comparison": (lambda s, z: s > z, RampError),
}  # fmt: skip


@pytest.mark.parametrize(("body", "error"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_name_the_users_line(body, error):
    line = body.__code__.co_firstlineno
    with pytest.raises(error, match=rf"test_language\.py:{line}: "):
        program_of(body)


COMPLEX = np.array([[1, 1j, 0], [0, 1, 0], [0, 0, 1]])
LOSSY = {
    "matrix": lambda x: COMPLEX @ x,
    "matrix without imaginary parts": lambda x: COMPLEX.real.astype(complex) @ x,
    "matrix of objects": lambda x: COMPLEX.astype(object) @ x,
    "sparse matrix": lambda x: sp.csr_array(COMPLEX) @ x,
    "state": lambda x: lsrl.linear_state(x, COMPLEX.tolist()),
    "scalar state": lambda x: lsrl.linear_state(x, np.complex64(1j)),
    "table": lambda s: lsrl.lookup(s, np.arange(8) * 1j),
    "rows": lambda t: lsrl.periodic([[1, 1j]]),
    "factor": lambda x: x * np.array([1, 1, 1j]),
    "factors as objects": lambda x: x * np.array([1, 1, np.complex128(1j)], object),
    "bias": lambda x: x + 1j,
    "initial value": lambda x: lsrl.delay(x, 1, initial=np.complex128(1j)),
    "promise": lambda x: lsrl.bound(x, -1j, 4),
    "rounded matrix": lambda s: [[2**53 + 1]] @ s,
    "rounded table": lambda s: lsrl.lookup(s, [Fraction(1, 3)] * 8),
    "rounded sparse matrix": lambda s: sp.csr_array([[2**53 + 1]]) @ s,
}


@pytest.mark.parametrize("name", LOSSY)
def test_numbers_that_float64_would_change_are_refused(name):
    body = LOSSY[name]
    line, told = body.__code__.co_firstlineno, "float" if "rounded" in name else r"complex.*\.real"
    with pytest.raises(ProgramError, match=rf"test_language\.py:{line}: .*{told}"):
        program_of(body)


@pytest.mark.parametrize("name", ["low", "high", "step"])
def test_declared_ranges_are_real(name):
    with pytest.raises(ProgramError, match=rf"Vector {name}: .*complex"):
        Vector(1, **{"low": 0, "high": 1, "step": 1, name: np.complex128(1)})


def test_matrices_of_every_real_dtype_are_taken():
    kinds = (np.int8, np.uint64, np.float16, np.float32, bool, object)
    given = [np.array([[1, 0, 1]], kind) for kind in kinds]
    given += [given[0].tolist(), [[Fraction(1, 2) * 2, 0, 1.0]], sp.coo_array(given[0])]
    program = program_of(lambda x: lsrl.concat(*(matrix @ x for matrix in given)))
    np.testing.assert_array_equal(program.run([[1, 2, 3]]), [[4] * len(given)])


def test_a_promise_that_breaks_names_signal_line_and_token():
    def body(c):
        few = lsrl.bound(lsrl.cumsum(c), 0, 2)
        return few

    line = inspect.getsourcelines(body)[1] + 1
    program = program_of(body)
    np.testing.assert_array_equal(program.run([[1], [0], [1]])[:, 0], [1, 1, 2])
    with pytest.raises(
        BoundsError, match=rf"few \(.*test_language\.py:{line}\).*\[0, 2\].*token 3"
    ):
        program.run([[1], [0], [1], [1]])
    with pytest.raises(BoundsError, match="sequence 1, token 2"):
        program.run([[[1], [0], [1], [0]], [[1], [1], [1], [1]]])


def test_a_promise_says_whose_it_is():
    def body(c):
        total = lsrl.cumsum(c)
        few = lsrl.bound(total, 0, 2, keeper="prompt")
        many = lsrl.bound(total, 0, 3)
        first = lsrl.latch(total, c == 1, keeper="prompt")
        return few, many, first

    program = program_of(body)
    keepers = {promise.signal: promise.keeper for promise in promises_of(program.graph)}
    assert keepers == {"few": "prompt", "many": "program", "first": "prompt"}
    with pytest.raises(PromiseError, match="a legal prompt keeps it") as error:
        program.run([[[0], [1], [0]], [[1], [1], [1]]])
    assert (error.value.keeper, error.value.sequence, error.value.token) == ("prompt", 1, 2)
    for make in (
        lambda c: lsrl.bound(lsrl.cumsum(c), 0, 2, keeper="me"),
        lambda c: lsrl.latch(c, c == 1, keeper="me"),
    ):
        with pytest.raises(ProgramError, match=r"'program' or 'prompt', got 'me'"):
            program_of(make)


def test_a_bound_that_is_proven_vanishes():
    program = program_of(lambda s: lsrl.bound(s, -100, [100]))
    assert promises_of(program.graph) == ()
    assert program.graph.output in program.graph.inputs
    assert len(promises_of(program_of(lambda s: lsrl.bound(s, 1, 100)).graph)) == 1


def test_a_latch_fires_once():
    program = program_of(lambda s, c: lsrl.latch(s, c, initial=3))
    np.testing.assert_array_equal(program.run([[5], [6], [7]], [[0], [1], [0]])[:, 0], [3, 6, 6])
    with pytest.raises(BoundsError, match=r"at most once.*token 2"):
        program.run([[5], [6], [7]], [[0], [1], [1]])
