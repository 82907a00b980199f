"""Matrices and facts of the IR."""

import numpy as np
import pytest

from lsrl.ir.bounds import facts, linear_state_facts
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import lowest_bit

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


def test_lowest_bit():
    np.testing.assert_array_equal(lowest_bit([1, 6, 0.75, -40, 0]), [1, 2, 0.25, 8, np.inf])
