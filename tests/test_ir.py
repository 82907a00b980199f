"""Matrices and facts of the IR, and facts checked as the theorems that they are."""

import inspect
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import lsrl
from lsrl.errors import PromiseError, TheoremError
from lsrl.ir import ops
from lsrl.ir.bounds import facts, product_of_grids
from lsrl.ir.evaluate import evaluate
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import floats, lowest_bit, repeated
from lsrl.ir.recurrence import linear_state_facts

GATHER = [[1, 1, 1], [0, 0, 0], [0, 0, 0]]  # as many ones as rows, and every column once


def test_only_the_identity_is_the_identity():
    assert Matrix.identity(3).is_identity
    assert not Matrix(GATHER).is_identity
    assert not Matrix.rotation(3).is_identity


@pytest.mark.parametrize(
    "transition", [GATHER, np.eye(3), np.eye(3, k=-1), np.roll(np.eye(3), 1, 0)]
)
def test_facts_of_a_state_hold_at_every_token(transition):
    matrix, initial = Matrix(transition), np.array([1.0, 0.0, -2.0])
    low, high = np.array([-1.0, 0.0, 1.0]), np.array([2.0, 3.0, 1.0])
    for tokens in range(1, 9):
        known, _ = linear_state_facts(matrix, initial, facts(low, high, np.ones(3)), tokens)
        for update in (low, high):
            state = initial
            for _ in range(tokens):
                state = matrix.csr @ state + update
                assert (known.low <= state).all()
                assert (state <= known.high).all()


def test_equal_matrices_are_one():
    assert Matrix(np.eye(2)) == Matrix.identity(2)
    assert hash(Matrix(np.eye(2))) == hash(Matrix.identity(2))
    assert Matrix(np.zeros((2, 3))) != Matrix(np.zeros((3, 2)))


def test_wide_rows_of_one_number_take_its_room_alone():
    """And -0.0 stays what it is."""
    alike, mixed = np.full(1000, 0.5), np.arange(1000) % 3 - 1.0
    mixed[::3] = -0.0
    assert repeated(alike).strides == (0,) and repeated(mixed) is mixed
    np.testing.assert_array_equal(repeated(alike), alike)
    for row, kinds in ((alike, 1), (mixed, 3), (np.zeros(3), 1)):
        found = floats(row)
        assert np.array(found).tobytes() == row.tobytes()
        assert len(set(map(id, found))) == kinds or len(row) < 100


def test_lowest_bit():
    np.testing.assert_array_equal(lowest_bit([1, 6, 0.75, -40, 0]), [1, 2, 0.25, 8, np.inf])


@pytest.mark.parametrize("exact", [False, True], ids=["floats", "rationals"])
def test_violations_of_facts(exact):
    known = facts(np.array([-1, 0, 0]), np.array([2, 3, 0]), np.array([0.75, 0, 1]))
    rows = [[0.75, 0.1, 0], [0.5, 0, 0], [1.5, 3, 0], [-1.5, -0.1, 0], [2.25, 3.1, 0], [0, 0, 1]]
    wrong = [[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]]
    values = np.array(rows)
    if exact:
        values = np.array([[Fraction(number) for number in row] for row in rows], dtype=object)
    np.testing.assert_array_equal(known.violations(values), wrong)
    one_hot = facts(np.zeros(2), np.ones(2), np.ones(2), (("root", np.arange(2)),))
    pairs = values[:4, :2] * 0 + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(one_hot.violations(pairs), [[0, 0], [0, 0], [0, 0], [1, 1]])


def test_a_grid_that_float64_would_round_is_a_finer_one():
    @lsrl.program
    def thirds(x: lsrl.Vector(1, low=0, high=9, step=3), y: lsrl.Vector(1, low=0, high=1, step=1)):
        # In float64 3 times 1/3 is 1, and in truth a little less.
        return x / 3, (x / 3) * (y * 3)

    inputs = [np.array([[[3.0], [9.0]]]), np.ones((1, 2, 1))]
    evaluate(thirds.graph, inputs, exact=True, theorems=True)
    step = thirds.graph.facts[thirds.graph.output].step
    assert (step > 0).all()
    assert (step < 2.0**-50).all()
    first, second = (
        np.array([3.0, 0, np.inf, 1e300, 1e-300, 1 / 3]),
        np.array([5.0, 2, 2, 1e300, 1e-300, 3]),
    )
    np.testing.assert_array_equal(product_of_grids(first, second), [15, 0, np.inf, 0, 0, 2.0**-54])


def test_a_value_just_off_its_grid_is_seen():
    known = facts(np.zeros(1), np.ones(1), np.array([0.5]))
    off = np.array([[Fraction(1, 2) + Fraction(1, 10**30)]], dtype=object)
    assert known.violations(off).all()
    assert known.violations(np.array([[np.nextafter(0.5, 1)]])).all()


def test_what_is_proven_is_checked(monkeypatch):
    # As if inference took relu(x) for at most 1.
    monkeypatch.setattr(
        ops.Relu, "infer", lambda self, operands, tokens: facts(np.zeros(1), np.ones(1), np.ones(1))
    )

    def body(x: lsrl.Vector(1, low=-3, high=3, step=1)):
        part = lsrl.relu(x)
        return part + 1

    line = inspect.getsourcelines(body)[1] + 1
    program = lsrl.program(body)
    right, wrong = np.array([[-3.0], [1.0]]), np.array([[1.0], [2.0]])
    batch = np.stack([right, wrong])
    assert program.run(batch).shape == (2, 2, 1)
    model = lsrl.compile(program, "linear_rnn")
    model.run(right, check=True)
    for run in (
        lambda: evaluate(program.graph, [batch], theorems=True),
        lambda: model.run(batch, check=True),
    ):
        with pytest.raises(TheoremError) as error:
            run()
        place = f"part ({__file__}:{line})"
        for fragment in (place, "[0, 1]", "got [2.0] at sequence 1, token 1", "fault of LSRL"):
            assert fragment in str(error.value)


def test_a_broken_promise_comes_before_what_is_proven_by_it():
    @lsrl.program(max_length=5)
    def counted(x: lsrl.Token(2)):
        return lsrl.bound(lsrl.cumsum(x), 0, 2) * 2

    with pytest.raises(PromiseError, match="token 2"):
        evaluate(counted.graph, [np.ones((1, 4))], theorems=True)


def test_a_makers_theorem_is_no_promise():
    @lsrl.program(max_length=5)
    def counted(x: lsrl.Token(2)):
        return lsrl.bound(lsrl.cumsum(x), 0, 2)

    graph = counted.graph
    bound = graph.nodes[graph.output]
    proven = replace(bound, op=replace(bound.op, proven=True))
    graph = replace(graph, nodes=(*graph.nodes[:-1], proven))
    evaluate(graph, [np.array([[1, 0, 1]])])
    with pytest.raises(TheoremError, match=r"stays in \[0, 2\]; got \[3.0\]"):
        evaluate(graph, [np.ones((1, 3))])
