"""What the tables of misuses share: small models, and what a message has to say."""

import functools

import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.errors import (
    LsrlError,
)


@lsrl.program(max_length=10)
def majority(bit: Token(2)) -> Token(2):
    ones = lsrl.cumsum(bit)
    return 2 * ones > lsrl.position() + 1


@lsrl.program
def pair(x: Vector(2, low=-1, high=1, step=0.5), t: Token(3)):
    return lsrl.concat(x, t)


@lsrl.program
def later(t: Token(3)) -> Token(3):
    return lsrl.delay(t)


@functools.cache
def model(program=majority, target="linear_rnn", **options):
    return lsrl.compile(program, target, **options)


def exporting():
    return model(later, "lstm")


def state(batch=None):
    return model().init_state(batch=batch)


def tensor(**options):
    torch = pytest.importorskip("torch")
    return torch.zeros(1, 2, **options)


NAN = float("nan")
ONE = "expected one sequence (time, ...) or a batch (batch, time, ...)"
INTS = "'bit': expected ints from 0 to 1"
IDS = "pass token ids as ints"
REAL = "'x': expected real numbers"
KNOWN = "expected numbers that are known now"
STATE = "expected a state that init_state, step or run gave"
OTHER = ["the state is of another model", "expected arrays", "got", "pass a state that this model"]

PATH = "expected a path, a str or os.PathLike"
BITS = [0, 1, 1]
MADE = "made by lsrl.compile"


def lambda_of(body, *kinds):
    """A function whose parameters have these types."""
    body.__annotations__ = dict(zip(body.__code__.co_varnames, kinds, strict=False))
    return body


def check_message(error, fragments):
    """Of an error of ours, on one line, short enough to read."""
    message = str(error.value)
    assert isinstance(error.value, LsrlError)
    for fragment in fragments:
        assert fragment in message
    assert len(message) < 1000
    assert "\n" not in message
