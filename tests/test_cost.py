"""The counts of the cost model, on a program small enough to count by hand."""

import pytest

import lsrl
from lsrl.cost import Cost, cost
from lsrl.errors import InputError


@pytest.fixture(scope="module")
def model():
    return lsrl.compile(lsrl.programs.histogram(4, 10), "linear_rnn")


def test_counts_of_a_histogram(model):
    # Four running sums of a one-hot token: the kernels in, across and out are identities.
    ends = 4 * (1 + 4)  # an id in, four counts out
    assert cost(model, "whole") == Cost(2 * 12 + 4, ends + 2 * 4 * 4)
    parameters = model.num_parameters
    dense = 2 * (5 * 4 + 4 * 4 + 4 * 4)  # the id itself is a feature too, which no unit reads
    assert cost(model, "step") == Cost(dense, ends + 4 * (parameters + 2 * 4))
    assert cost(model, "scan", 10) == Cost(dense, ends + 4 * (parameters / 10 + 2 * 4))


@pytest.mark.parametrize("target", ["lstm", "mamba"])
def test_other_targets_have_no_shorter_way(target):
    model = lsrl.compile(lsrl.programs.majority(10), target)
    assert cost(model, "whole") == cost(model, "scan")
    assert cost(model, "scan", 2).bytes < cost(model, "scan").bytes


def test_the_longer_part_takes_the_time():
    assert Cost(10, 4).seconds(5, 4) == 2
    assert Cost(10, 12).seconds(5, 4) == 3


def test_what_is_no_mode_is_refused(model):
    with pytest.raises(InputError, match="mode must be"):
        cost(model, "fast")
    with pytest.raises(InputError, match="batch must be"):
        cost(model, "step", 0)
