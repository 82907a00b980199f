"""Running maxima: one recurrent unit, levels that were reached, or windows put together."""

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.errors import BoundsError, ProgramError, ShapeError, UnsupportedOpError
from lsrl.testing.random_programs import random_program
from tests.grids import studied
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(2)

LENGTH = 12
FEW = Vector(2, low=(-1, 0), high=(2, 6), step=(1, 3))
MANY = Vector(1, low=-500, high=500, step=0.5)


@lsrl.program(max_length=LENGTH)
def of_few(x: FEW, begin: Token(2)):
    late = lsrl.running_max(x, start=begin)
    return late, lsrl.running_min(x, initial=[1, 1.5]), lsrl.running_max(x, initial=[9, 2])


@lsrl.program(max_length=LENGTH)
def of_many(x: MANY):
    return lsrl.running_max(x), lsrl.running_min(x, initial=3)


RNG = np.random.default_rng(0)
X = np.stack([RNG.integers(-1, 3, (8, LENGTH)), 3 * RNG.integers(0, 3, (8, LENGTH))], axis=-1)
BEGIN = RNG.integers(6, size=(8, LENGTH)) == 0
WIDE = RNG.integers(-1000, 1001, (8, LENGTH, 1)) / 2
ON = np.maximum.accumulate(BEGIN, axis=1)[..., None]
EXPECTED = np.concatenate(
    [
        np.maximum.accumulate(np.where(ON, X, [-1, 0]), axis=1),
        np.minimum(np.minimum.accumulate(X, axis=1), [1, 1.5]),
        np.maximum(np.maximum.accumulate(X, axis=1), [9, 2]),
    ],
    axis=-1,
)
EXPECTED_WIDE = np.concatenate(
    [np.maximum.accumulate(WIDE, axis=1), np.minimum(np.minimum.accumulate(WIDE, axis=1), 3)],
    axis=-1,
)


@pytest.mark.parametrize("exact", [False, True])
def test_the_evaluator_and_the_bounds(exact):
    np.testing.assert_array_equal(of_few.run(X, BEGIN.astype(int), exact=exact), EXPECTED)
    np.testing.assert_array_equal(of_many.run(WIDE, exact=exact), EXPECTED_WIDE)
    facts = of_few.graph.facts[of_few.graph.output]
    assert facts.low.tolist() == [-1, 0, -1, 0, 9, 2]
    assert facts.high.tolist() == [2, 6, 1, 1.5, 9, 6]


@pytest.mark.parametrize("target", studied(["rnn", "lstm"], "rnn"))
def test_any_values_by_one_unit(target):
    """A unit that remembers how far x is below, whatever the range, beside x and x before."""
    model = lsrl.compile(of_many, target)
    assert model.certificate.exact and model.num_layers == 1
    kinds = [unit.kind.__name__ for layer in model.schedule.layers for unit in layer.units]
    assert kinds.count("RecurrentState") == 2
    np.testing.assert_array_equal(model.run(WIDE), EXPECTED_WIDE)


def test_many_values_elsewhere_are_refused_or_unrolled():
    with pytest.raises(UnsupportedOpError, match=r"of so many values.*would do: rnn, lstm"):
        lsrl.compile(of_many, "gru")
    model = lsrl.compile(of_many, "linear_rnn", legalise="unroll")
    assert model.certificate.exact
    np.testing.assert_array_equal(model.run(WIDE), EXPECTED_WIDE)


def test_any_length():
    @lsrl.program
    def highest(x: Token(5)):
        return lsrl.running_max(x)

    for target in ("rnn", "gru"):
        certificate = lsrl.compile(highest, target).certificate
        assert certificate.exact and certificate.tokens is None


@pytest.mark.studies
@pytest.mark.parametrize("target", ["rnn", "mamba", "linear_rnn"])
@pytest.mark.parametrize("seed", range(2))
def test_in_random_programs(target, seed):
    names = ["running_max", "cumsum", "delay", "comparison", "affine"]
    program = random_program(seed, names, depth=4, width=3, max_length=LENGTH)
    model = lsrl.compile(program, target)
    inputs = inputs_of(program, LENGTH)
    np.testing.assert_array_equal(model.run(*inputs), program.run(*inputs))


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (lambda x: lsrl.running_max(x / 3), ProgramError, "running_max needs values on a grid"),
        (lambda x: lsrl.running_min(x, initial=0.1), ProgramError, r"starts at on it.*initial=\[0"),
        (lambda x: lsrl.running_max(x, [1, 2, 3]), ShapeError, "initial needs one number or 2"),
        (
            lambda x: lsrl.running_min(lsrl.cumsum(x) * 2.0**1000 * 2.0**1000),
            BoundsError, "running_min needs finite bounds.*lsrl.bound",
        ),
    ],
)  # fmt: skip
def test_wrong_running_maxima(body, kind, message):
    with pytest.raises(kind, match=rf"test_running_max.py:\d+: .*{message}"):

        @lsrl.program(max_length=LENGTH)
        def wrong(x: FEW):
            return body(x)
