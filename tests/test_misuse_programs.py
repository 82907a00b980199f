"""Misuses of the language: each has an error that names the user's line and says what to write."""
# Arguments are wrong on purpose.
# mypy: disable-error-code="call-overload,list-item,operator"

import functools
import math
import operator
from decimal import Decimal
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import lsrl
from lsrl import Token, Vector
from lsrl.errors import (
    BoundsError,
    ProgramError,
    RampError,
    ShapeError,
)
from tests.misuse import (
    KNOWN,
    NAN,
    check_message,
    lambda_of,
    majority,
    tensor,
)

HERE = "test_misuse_programs.py:"


def given(x: Token(3), k):
    return x + k


def optional(x: Token(3), k=2):
    return x + k


def keywords(x: Token(3), *, y: Token(3)):
    return x + 3 * y


def several(*x: Token(3)):
    return x[0]


def options(**x: Token(3)):
    return x


async def awaiting(x: Token(3)):
    return x


def yielding(x: Token(3)):
    yield x


class Adder:
    def __init__(self, k):
        self.k = k

    def __call__(self, x: Token(3)):
        return x + self.k

    def method(self, x: Token(3)):
        return x + self.k

    @classmethod
    def of_class(cls, x: Token(3)):
        return x + 2

    @staticmethod
    def static(x: Token(3)):
        return x + 2


CALLABLES = {
    "a partial": functools.partial(given, k=2),
    "a partial of a partial": functools.partial(functools.partial(given), k=2),
    "an object": Adder(2),
    "a method": Adder(2).method,
    "a class's method": Adder.of_class,
    "a static method": Adder.static,
    "a default": optional,
}


@pytest.mark.parametrize("function", CALLABLES.values(), ids=CALLABLES)
def test_any_callable_is_a_program(function):
    program = lsrl.program(function)
    assert list(program.inputs) == ["x"]
    np.testing.assert_array_equal(program.run([0, 2]), [[2], [4]])


def test_inputs_by_keyword_only():
    program = lsrl.program(keywords)
    assert list(program.inputs) == ["x", "y"]
    np.testing.assert_array_equal(program.run([0, 2], [1, 2]), [[3], [8]])
    assert lsrl.program(Adder(1)).name == "Adder"
    bound = lsrl.program(functools.partial(keywords, y=2))
    assert list(bound.inputs) == ["x"]
    np.testing.assert_array_equal(bound.run([0, 2]), [[6], [8]])


def body(result):
    """Record a program of one token whose body returns what is made of it."""
    return lsrl.program(lambda_of(lambda x: result(x), Token(5)))


FUNCTION = ["expects a Python function", "write def f(x: lsrl.Token(n))"]
RETURNS = "a program returns a signal or a tuple of signals"
PROGRAMS = {
    "a builtin": (lambda: lsrl.program(len), [*FUNCTION, "got builtin"]),
    "a ufunc": (lambda: lsrl.program(np.add), [*FUNCTION, "got ufunc"]),
    "an operator": (lambda: lsrl.program(operator.itemgetter(0)), [*FUNCTION, "got itemgetter"]),
    "a class": (lambda: lsrl.program(Adder), [*FUNCTION, "got a class"]),
    "a number": (lambda: lsrl.program(3), [*FUNCTION, "got int (3)"]),
    "a number decorated": (lambda: lsrl.program(max_length=3)(3), [*FUNCTION, "got int (3)"]),
    "nothing decorated": (lambda: lsrl.program(max_length=3)(None), [*FUNCTION, "got NoneType"]),
    "a program": (lambda: lsrl.program(majority), [*FUNCTION, "got Program"]),
    "a function without a type": (
        lambda: lsrl.program(given),
        [HERE, "'k' needs a type", "lsrl.Token(n)"],
    ),
    "an unbound method": (lambda: lsrl.program(Adder.method), [HERE, "'self' needs a type"]),
    "any number of inputs": (
        lambda: lsrl.program(several),
        [HERE, "*x", "any number of inputs", "give each a name"],
    ),
    "any keywords": (
        lambda: lsrl.program(options),
        [HERE, "**x", "any number of inputs", "give each a name"],
    ),
    "a coroutine": (lambda: lsrl.program(awaiting), [HERE, "yields or awaits", "an ordinary def"]),
    "a generator": (lambda: lsrl.program(yielding), [HERE, "yields or awaits", "an ordinary def"]),
    "no result": (
        lambda: body(lambda x: None),
        [HERE, RETURNS, "NoneType", "is its `return` missing?"],
    ),
    "text as a result": (lambda: body(str), [HERE, RETURNS, "got str", "lsrl.constant"]),
    "a dict": (lambda: body(lambda x: {"x": x}), [HERE, RETURNS, "got dict", "lsrl.concat"]),
    "nested lists": (
        lambda: body(lambda x: [x, [x]]),
        [HERE, RETURNS, "entry 1 is list", "lsrl.concat"],
    ),
    "an empty tuple": (lambda: body(lambda x: ()), [HERE, RETURNS, "got tuple (empty)"]),
    "a name that is none": (
        lambda: lsrl.program(name=3)(optional),
        [HERE, "name must be text", "got 3"],
    ),
    "max_length=True": (
        lambda: lsrl.program(max_length=True)(optional),
        [HERE, "positive int", "got True"],
    ),
    "max_length=2.0": (
        lambda: lsrl.program(max_length=2.0)(optional),
        [HERE, "positive int", "got 2.0"],
    ),
    "max_length=10**30": (
        lambda: lsrl.program(max_length=10**30)(optional),
        [HERE, "up to 2**63 - 1", "got 1000"],
    ),
    "Token(True)": (lambda: Token(True), ["Token(n) needs a positive int", "got True"]),
    "Token(2.5)": (lambda: Token(2.5), ["Token(n) needs a positive int", "got 2.5"]),
    "Token(10**12)": (
        lambda: Token(10**12),
        ["positive int up to 2147483648", "got 1000000000000"],
    ),
    "Token(2, 5)": (lambda: Token(2, 5), ["2 different names", "got 5"]),
    "Vector(True)": (lambda: Vector(True, low=0, high=1), ["a positive int", "got True"]),
    "Vector(10**30)": (lambda: Vector(10**30, low=0, high=1), ["a positive int up to", "got 1000"]),
    "step=0": (
        lambda: Vector(1, low=0, high=1, step=0),
        ["step must be positive", "got 0", "leave it out"],
    ),
    "step='a'": (
        lambda: Vector(1, low=0, high=1, step="a"),
        ["Vector step: expected a number", "got 'a'"],
    ),
    "a step that is nan": (
        lambda: Vector(1, low=0, high=1, step=NAN),
        ["Vector step", "finite", "got nan"],
    ),
    "a step without a multiple": (
        lambda: Vector(1, low=0.5, high=0.75, step=1),
        ["a multiple of step=1", "got none", "low plus"],
    ),
    "low=None": (
        lambda: Vector(1, low=None, high=1),
        ["Vector low: expected a number", "got None"],
    ),
    "low='0'": (lambda: Vector(2, low="0", high=1), ["Vector low: expected a number", "got '0'"]),
    "a matrix for low": (
        lambda: Vector(2, low=np.eye(2), high=1),
        ["one number or 2", "rows of shape (2,)"],
    ),
    "three bounds for two": (
        lambda: Vector(2, low=[0, 0, 0], high=1),
        ["one number or 2", "got 3"],
    ),
    "a bound beyond float64": (
        lambda: Vector(1, low=0, high=10**400),
        ["up to 1.8e308", "an int of 1329 bits"],
    ),
    "a third": (
        lambda: Vector(1, low=Fraction(1, 3), high=1),
        ["Fraction(1, 3) is not a float64", "write float"],
    ),
}


@pytest.mark.parametrize(("misuse", "fragments"), PROGRAMS.values(), ids=PROGRAMS)
def test_programs(misuse, fragments):
    with pytest.raises(ProgramError) as error:
        misuse()
    check_message(error, fragments)


RAGGED = [[1], [1, 2]]
V3 = Vector(3, low=-4, high=4, step=1)
CONTINUOUS = Vector(1, low=0, high=1)
TRUTH = ["has no truth value", "lsrl.select", "(0 < x) & (x < 3)", "lsrl.maximum(x, y)"]
LOOKUP = "lsrl.lookup(x, ["
NONE = "has no meaning while the program is being built"
NUMBER = "expected a number"
# Bodies of programs of one input, its type, and the error.
SIGNALS = {
    "if": (lambda x: x if x > 1 else 0, V3, ProgramError, TRUTH),
    "and": (lambda x: (x > 1) and (x < 3), V3, ProgramError, TRUTH),
    "a chain": (lambda x: 0 < x < 3, V3, ProgramError, TRUTH),
    "max(x, 2)": (lambda x: max(x, 2), V3, ProgramError, TRUTH),
    "2 in x": (lambda x: 2 in x, V3, ProgramError, TRUTH),
    "int(x)": (lambda x: int(x), V3, ProgramError, ["int(x)", NONE, "x // 1"]),
    "float(x)": (lambda x: float(x), V3, ProgramError, ["float(x)", NONE, "program.trace"]),
    "complex(x)": (lambda x: complex(x), V3, ProgramError, ["complex(x)", NONE, "two channels"]),
    "round(x)": (lambda x: round(x), V3, ProgramError, ["round(x)", NONE, "(x + 0.5) // 1"]),
    "math.trunc(x)": (lambda x: math.trunc(x), V3, ProgramError, ["math.trunc(x)", "x // 1"]),
    "range(x)": (lambda x: range(x), V3, ProgramError, ["an index or a count", "lsrl.lookup"]),
    "a list's index": (
        lambda x: [1, 2][x],
        V3,
        ProgramError,
        ["an index or a count", "lsrl.lookup"],
    ),
    "a key": (lambda x: {x: 1}, V3, ProgramError, ["hash(x)", "x.index"]),
    "x << 1": (lambda x: x << 1, V3, ProgramError, ["x << n", "x * 2**n"]),
    "x >> 1": (lambda x: x >> 1, V3, ProgramError, ["x >> n", "x // 2**n"]),
    "x[0] = 1": (
        lambda x: operator.setitem(x, 0, 1),
        V3,
        ProgramError,
        ["x[i] = y", "lsrl.concat"],
    ),
    "1 / x": (
        lambda x: 1 / x,
        V3,
        ProgramError,
        ["1 / x", "must be numbers, got a signal", LOOKUP],
    ),
    "5 % x": (
        lambda x: 5 % x,
        V3,
        ProgramError,
        ["5 % x", "must be numbers, got a signal", LOOKUP],
    ),
    "5 // x": (
        lambda x: 5 // x,
        V3,
        ProgramError,
        ["5 // x", "must be numbers, got a signal", LOOKUP],
    ),
    "x / x": (lambda x: x / x, V3, ProgramError, ["by numbers only", "lsrl.lookup"]),
    "x % x": (lambda x: x % x, V3, ProgramError, ["n of mod(x, n) must be numbers", "lsrl.lookup"]),
    "x % 0": (lambda x: x % 0, V3, ProgramError, ["short dyadic n, not 0", "got n=0", "lookup"]),
    "x // 0.1": (
        lambda x: x // 0.1,
        V3,
        ProgramError,
        ["x // n needs a short dyadic n", "got n=0.1"],
    ),
    "x % 1 of continuous": (
        lambda x: x % 1,
        CONTINUOUS,
        ProgramError,
        ["on a grid", "declare a step"],
    ),
    "x ** 0.5": (lambda x: x**0.5, V3, ProgramError, ["an int n >= 0", "got 0.5", LOOKUP]),
    "x ** -1": (lambda x: x**-1, V3, ProgramError, ["an int n >= 0", "got -1", LOOKUP]),
    "x ** x": (lambda x: x**x, V3, ProgramError, ["an int n >= 0", "got Signal", LOOKUP]),
    "2 ** x below 0": (
        lambda x: 2**x,
        V3,
        ProgramError,
        ["2 ** x needs integers from 0 on", "lsrl.bound"],
    ),
    "x @ A of other rows": (
        lambda x: x @ np.eye(2),
        V3,
        ShapeError,
        ["A of 3 rows", "got shape (2, 2)", "A @ x"],
    ),
    "A @ x of other columns": (
        lambda x: np.eye(2) @ x,
        V3,
        ShapeError,
        ["2 columns"[2:], "got shape (2, 2)"],
    ),
    "x @ 2": (lambda x: x @ 2, V3, ProgramError, ["x @ A needs a matrix", "got 2", "x * n"]),
    "three axes @ x": (
        lambda x: np.ones((2, 3, 3)) @ x,
        V3,
        ShapeError,
        ["(rows, columns)", "got (2, 3, 3)"],
    ),
    "x @ sparse of other rows": (lambda x: x @ sp.eye_array(2), V3, ShapeError, ["A of 3 rows"]),
    "x @ a narrower one": (
        lambda x: x @ x[:2],
        V3,
        ShapeError,
        ["signals of one width", "3 and 2"],
    ),
    "np.exp": (lambda x: np.exp(x), V3, ProgramError, ["np.exp", "no such function", LOOKUP]),
    "np.sign": (lambda x: np.sign(x), V3, ProgramError, ["np.sign", "(x > 0) - (x < 0)"]),
    "np.cumsum": (lambda x: np.cumsum(x), V3, ProgramError, ["np.cumsum", "lsrl.cumsum(x)"]),
    "np.mean": (lambda x: np.mean(x), V3, ProgramError, ["np.mean", "x.sum() / x.width"]),
    "np.stack": (lambda x: np.stack([x, x]), V3, ProgramError, ["np.stack", "lsrl.concat"]),
    "np.max over an axis": (
        lambda x: np.max(x, axis=0),
        V3,
        ProgramError,
        ["np.max(axis=)", "one axis"],
    ),
    "np.add.reduce": (lambda x: np.add.reduce(x), V3, ProgramError, ["np.add.reduce", "x.sum()"]),
    "a sum into an array": (
        lambda x: np.add(x, 1, out=np.zeros(3)),
        V3,
        ProgramError,
        ["out=", "x = x + y"],
    ),
    "x[5]": (
        lambda x: x[5],
        V3,
        ShapeError,
        ["index 5 is out of range", "width 3", "from -3 to 2"],
    ),
    "x == 'a'": (lambda x: x == "a", V3, ProgramError, ["got 'a'", "the number of its symbol"]),
    "x[1.0]": (lambda x: x[1.0], V3, ShapeError, ["index 1.0", "expected ints from -3 to 2"]),
    "x['a']": (lambda x: x["a"], V3, ShapeError, ["index 'a'", "expected ints from -3 to 2"]),
    "x['a':]": (lambda x: x["a":], V3, ShapeError, ["slice('a'", "expected ints from -3 to 2"]),
    "x[::0]": (lambda x: x[::0], V3, ShapeError, ["step cannot be zero", "expected ints"]),
    "x[x]": (
        lambda x: x[x],
        V3,
        ShapeError,
        ["a signal is no index", "lsrl.mux(lsrl.one_hot(i, 3), x)"],
    ),
    "x[x:]": (lambda x: x[x:], V3, ShapeError, ["a signal is no index", "lsrl.lookup"]),
    "x[3:]": (lambda x: x[3:], V3, ShapeError, ["slice(3", "shape (0,)", "at least one"]),
    "x + None": (
        lambda x: x + None,
        V3,
        ProgramError,
        [NUMBER, "got None", "write an int, a float"],
    ),
    "x + ragged": (lambda x: x + RAGGED, V3, ProgramError, ["rectangular", "one length"]),
    "x + a matrix": (
        lambda x: x + np.eye(3),
        V3,
        ShapeError,
        ["a number or a vector", "(3, 3)", "A @ x"],
    ),
    "x == text": (lambda x: x == "a", V3, ProgramError, [NUMBER, "got 'a'"]),
    "x * bytes": (lambda x: x * b"1", V3, ProgramError, [NUMBER, "got b'1'"]),
    "x + Decimal": (
        lambda x: x + Decimal("0.1"),
        V3,
        ProgramError,
        ["Decimal('0.1') is not a float64", "float(...)"],
    ),
    "x + longdouble": (
        lambda x: x + np.longdouble(1) / 3,
        V3,
        ProgramError,
        ["is not a float64", "float(...)"],
    ),
    "x + 10**400": (lambda x: x + 10**400, V3, ProgramError, ["up to 1.8e308", "1329 bits"]),
    "x + a tensor": (
        lambda x: x + tensor(requires_grad=True)[0, 0],
        V3,
        ProgramError,
        [KNOWN, "detach()"],
    ),
    "x + masked": (
        lambda x: x + np.ma.array([1, 2, 3], mask=[1, 0, 0]),
        V3,
        ProgramError,
        ["masked", "x.filled"],
    ),
    "maximum of a list": (
        lambda x: lsrl.maximum([x, x]),
        V3,
        ProgramError,
        ["a list of signals", "one by one", "lsrl.concat"],
    ),
    "linear_state without an end": (
        lambda x: lsrl.linear_state(x, 2),
        V3,
        ProgramError,
        ["grows with the number of tokens", "max_length"],
    ),
    "linear_state by a signal": (
        lambda x: lsrl.linear_state(x, x),
        V3,
        ProgramError,
        ["must be numbers, got a signal"],
    ),
    "delay by a signal": (
        lambda x: lsrl.delay(x, x),
        V3,
        ProgramError,
        ["delay(x, n) must be an int >= 0", "Signal"],
    ),
    "mux of a number": (
        lambda x: lsrl.mux(x.one_hot, 7),
        Token(3),
        ProgramError,
        ["width 3", "as many values", "got 7"],
    ),
    "keeper": (
        lambda x: lsrl.bound(x, 0, 1, "programm"),
        V3,
        ProgramError,
        ["'program' or 'prompt'", "did you mean 'program'?"],
    ),
    "via": (
        lambda x: lsrl.select(x > 1, 1, 0, "gates"),
        V3,
        ProgramError,
        ["'auto', 'gate' or 'relu'", "did you mean 'gate'?"],
    ),
    "crossed ends": (
        lambda x: lsrl.recurrent_state(x, 1, low=3, high=1),
        V3,
        BoundsError,
        ["low=3 to high=1", "low <= high"],
    ),
    "a name that is none": (
        lambda x: x.named(3),
        V3,
        ProgramError,
        ["a name must be text", "got 3"],
    ),
    "a ramp of nothing": (
        lambda x: lsrl.ramp(x, 1, 0),
        V3,
        RampError,
        ["one positive number", "got 0"],
    ),
}


@pytest.mark.parametrize(("function", "kind", "error", "fragments"), SIGNALS.values(), ids=SIGNALS)
def test_signals(function, kind, error, fragments):
    with pytest.raises(error) as found:
        lsrl.program(lambda_of(function, kind))
    check_message(found, [f"{HERE}{function.__code__.co_firstlineno}: ", *fragments])


ATTRIBUTES = {
    "argmax": "lsrl.argmax(x)",
    "shape": "x.width",
    "mean": "x.sum() / x.width",
    "T": "one axis",
    "dot": "A @ x",
    "abs": "abs(x)",
    "cumsum": "lsrl.cumsum(x)",
    "relu": "lsrl.relu(x)",
}


def test_what_arrays_have_and_signals_lack():
    """As Python tells of attributes, and with what to write."""
    for name, cure in ATTRIBUTES.items():
        with pytest.raises(AttributeError, match="has no attribute") as error:
            body(operator.attrgetter(name))
        assert cure in str(error.value)
    with pytest.raises(AttributeError, match=r"no attribute 'compil'; did you mean 'compile'\?"):
        lsrl.compil  # noqa: B018


def test_signals_outside_their_program():
    kept = []
    body(lambda x: kept.append(x) or x)
    with pytest.raises(ProgramError, match=rf"{HERE}\d+: .*decorated with @lsrl.program"):
        _ = kept[0] + 1
    with pytest.raises(ProgramError, match="reads a signal of another program"):
        body(lambda x: x + kept[0])


def test_constants_of_many_kinds():
    values = [np.float32(0.5), np.int8(3), True, Fraction(1, 2), Decimal("0.5"), jnp.bfloat16(0.5)]
    objects = np.array([1, Fraction(1, 2), Decimal("0.25")], dtype=object)
    for value in [*values, objects]:
        program = lsrl.program(lambda_of(lambda x, v=value: x + v, V3))
        wanted = np.asarray(value).astype(float)
        np.testing.assert_array_equal(program.run([[1, 2, 3]])[0], np.array([1, 2, 3]) + wanted)
