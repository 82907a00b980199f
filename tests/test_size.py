"""What a network will take is known before it is made, and what takes too much is refused."""

import re
import tracemalloc

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector, loading, storage
from lsrl.backends import registry
from lsrl.errors import FormatError, SizeError
from lsrl.parameters import entries
from lsrl.passes.pipeline import Pipeline
from tests.grids import studied
from tests.plain_target import Plain


@pytest.fixture(scope="module", autouse=True)
def _plain():
    with registry.registered(Plain()):
        yield


@pytest.mark.parametrize("target", [*registry.names(), "plain"])
def test_sizes_are_those_of_the_parameters(target):
    """Names, order, shapes and numbers, for every family and for a target that others write."""

    @lsrl.program
    def mixed(v: Vector(2, low=0, high=2, step=1), x: Token(3)):
        return lsrl.select(x >= 1, lsrl.delay(v, 3), 1 - v)

    model = lsrl.compile(mixed, target)
    sizes = registry.find(target).sizes(model.schedule, model.numerics)
    arrays = model.module.parameter_arrays()
    assert [*sizes] == [*arrays]
    assert all(sizes[one].shape == arrays[one].shape for one in arrays)
    assert all(sizes[one].numbers == entries(arrays[one]).size for one in arrays)


def test_what_is_too_large_is_refused_with_its_size():
    """By as many numbers as it would have, and no other; where more are allowed, it is made."""

    @lsrl.program
    def late(x: Token(2)):
        return lsrl.delay(x, 40)

    size = lsrl.compile(late, "linear_rnn").num_parameters
    with pytest.raises(SizeError, match="late") as refused:
        lsrl.compile(late, "linear_rnn", most_parameters=size - 1)
    assert (refused.value.parameters, refused.value.most) == (size, size - 1)
    text = str(refused.value)
    assert f"most_parameters={size}" in text and "GiB in float32" in text
    assert re.search(
        r"41 of 42 signals are made for lsrl\.delay\(x, 40\) .*test_size\.py:\d+", text
    ), text
    assert lsrl.compile(late, "linear_rnn", most_parameters=size).num_parameters == size
    answer = lsrl.explain(late, "linear_rnn", most_parameters=size - 1)
    assert answer.answer == "no" and answer.reason == text
    assert lsrl.explain(late, "linear_rnn").answer == "yes"


@pytest.mark.parametrize(
    "target", studied(["mamba", "mamba2", "griffin", "deltanet"], "mamba", "griffin")
)
def test_what_long_delays_take_at_least_is_told_before_any_pass(target):
    """A lower bound: it never refuses what fits, and nothing is made of what it refuses."""
    backend = registry.find(target)

    @lsrl.program
    def window(x: Vector(2, low=0, high=1, step=1)):
        return lsrl.window_sum(x, 40)

    @lsrl.program
    def late(x: Token(2)):
        return lsrl.delay(x, 31)

    @lsrl.program
    def first(x: Token(2)):
        chain = lsrl.linear_state(lsrl.concat(x, *[0] * 39), np.eye(40, k=-1))
        return chain[2]

    for program, most in ((window, 12), (late, 10), (first, 0)):
        model = lsrl.compile(program, target)
        graph = Pipeline().simplify(program.graph)
        least = backend.least(graph)
        assert least.numbers <= model.num_parameters
        assert least.what.startswith(f"{most} blocks"), least.what
        assert most <= len(model.schedule.layers) <= most + 2
        with pytest.raises(SizeError):
            lsrl.compile(program, target, most_parameters=model.num_parameters - 1)
        if most:
            with pytest.raises(SizeError, match=f"at least {least.numbers:,} parameters"):
                lsrl.compile(program, target, most_parameters=least.numbers - 1)

    @lsrl.program
    def endless(x: Token(2)):
        return lsrl.delay(x, 10**6)

    tracemalloc.start()
    with pytest.raises(
        SizeError, match=r"\.delay\(x, 10\*\*6\) \(.*test_size\.py:\d+\) takes 333,333 "
    ):
        lsrl.compile(endless, target)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_file_may_take_what_it_holds_and_no_more(tmp_path, monkeypatch):
    """A program that is larger than the parameters beside it is refused before any of it is made.

    A model whose limit was raised is loaded all the same.
    """

    @lsrl.program
    def late(x: Token(2)):
        return lsrl.delay(x, 40)

    model = lsrl.compile(late, "linear_rnn")
    path = tmp_path / "late.lsrl"
    model.save(path)
    monkeypatch.setattr(loading, "SMALL", 10)
    assert lsrl.load(path).num_parameters == model.num_parameters
    held = storage.read(path)
    fewer = dict(list(held.parameters.items())[:-1])
    monkeypatch.setattr(storage, "read", lambda _: held._replace(parameters=fewer))
    with pytest.raises(FormatError, match="would take 1,849 parameters"):
        lsrl.load(path)


def test_wide_programs_are_evaluated_sparse():
    """One token at a time needs one row of a table, and a register its own slots."""

    @lsrl.program
    def wide(x: Token(3000)):
        return lsrl.one_hot(x, 3000)

    @lsrl.program
    def window(x: Token(2)):
        return lsrl.window_sum(x, 1000)

    for program in (wide, window):
        program.run(np.zeros((1, 2), int))  # what is kept of the graph is no matter here
        tracemalloc.start()
        values = program.run(np.ones((1, 2), int))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert values[0, 1].sum() == (1 if program is wide else 2)
        assert peak < 1 << 21, peak
