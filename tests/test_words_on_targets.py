"""Calls, late starts, running maxima and divisions, all in one program, on every target."""

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.backends import registry
from tests.grids import studied

LENGTH = 12


@lsrl.program(max_length=LENGTH)
def inner(symbol: Token(4), height: Vector(1, low=-3, high=8, step=1)):
    """A token that is read as marks and by a table, and a vector that is divided."""
    counts = lsrl.cumsum(symbol.one_hot)
    return lsrl.mux(symbol.one_hot, counts), height % 3, height // 3


@lsrl.program(max_length=LENGTH)
def words(token: Token(4), height: Vector(1, low=-3, high=8, step=1), begin: Token(2)):
    late = lsrl.cumsum(height, start=begin)
    top = lsrl.running_max(height, start=begin)
    low = lsrl.running_min(height, initial=1.5)
    marks = inner(lsrl.delay(token.one_hot), height)
    return late, lsrl.delay(height, initial=7, start=begin), top, low, marks, inner(token, height)


@pytest.mark.parametrize("target", studied(registry.names(), "linear_rnn"))
def test_words_on_targets(target):
    """Equal to the reference, by the certificate too; that tests of each say what it should be."""
    model = lsrl.compile(words, target)
    assert model.certificate.exact
    held = " ".join(model.circuit.by_name)
    assert "inner.counts" in held and "inner#2" in held
    rng = np.random.default_rng(0)
    tokens, heights = rng.integers(4, size=(8, LENGTH)), rng.integers(-3, 9, (8, LENGTH, 1))
    inputs = tokens, heights, rng.integers(5, size=(8, LENGTH)) // 4
    np.testing.assert_array_equal(model.run(*inputs), words.run(*inputs))
