"""What is left and how often it goes: of few multiples in one layer, of many in stages."""

import numpy as np
import pytest

import lsrl
from lsrl.language.division import MOST_AT_ONCE


@lsrl.program
def divided(x: lsrl.Vector(3, low=(-3, 0, 1), high=(8, 20, 5.5), step=(1, 2, 0.5))):
    return x % 3, x // 3, x[1] % 7, -x[0] // -2.5, x % [4, 6, 0.75]


def values():
    random, kind = np.random.default_rng(0), divided.inputs["x"]
    low, high, step = (np.array(each) for each in (kind.low, kind.high, kind.step))
    return low + step * random.integers(0, (high - low) / step + 1, (4, 30, 3))


def expected(x):
    parts = (x % 3, x // 3, x[..., 1:2] % 7, -x[..., :1] // -2.5, x % [4, 6, 0.75])
    return np.concatenate(parts, axis=-1)


def test_few_multiples_are_compared_at_once():
    x = values()
    np.testing.assert_array_equal(divided.run(x), expected(x))
    facts = divided.graph.facts[divided.graph.output]
    assert facts.high[:3].tolist() == [2, 2, 2.5] and not facts.low[:3].any()


@pytest.mark.parametrize("times", [MOST_AT_ONCE, MOST_AT_ONCE + 1])
def test_one_layer_where_the_range_is_small(times):
    """Beyond, a stage takes off the eight-fold, the four-fold and so on, each a layer."""

    @lsrl.program
    def rest(x: lsrl.Vector(1, low=0, high=5 * times, step=1)):
        return x % 5

    every = np.arange(5 * times + 1.0)[:, None]
    np.testing.assert_array_equal(rest.run(every), every % 5)
    model = lsrl.compile(rest, "linear_rnn")
    assert (model.num_layers == 1) == (times <= MOST_AT_ONCE)
    assert model.certificate.exact
