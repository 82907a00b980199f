"""No dense matrix in a program's graph, in passes or in schedules where a sparse one does."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp

import lsrl
from lsrl import Signal, Token
from lsrl.backends import registry
from lsrl.ir import bounds, recurrence
from lsrl.ir.bounds import affine_facts, facts
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.recurrence import linear_state_facts
from lsrl.options import DEFAULT
from lsrl.passes.affine import fuse_affine
from lsrl.passes.pipeline import Pipeline

MANY = 5_000  # a dense matrix of as many rows and columns takes 200 MB
MOST_BYTES = 4_000  # a row, while anything is made
MOST_NONZEROS = 8  # a row, in all matrices of a graph together


def _index(x: Signal) -> Signal:
    return lsrl.bound(lsrl.cumsum(x), 0, MANY - 1)


WIDE: dict[str, tuple[int, Callable[[Signal], Signal]]] = {
    "one_hot of a token": (MANY, lambda x: x.one_hot),
    "one_hot of more": (MANY, lambda x: lsrl.one_hot(x, MANY + 1)),
    "one_hot of a signal": (2, lambda x: lsrl.one_hot(_index(x), MANY)),
    "window_sum": (2, lambda x: lsrl.window_sum(x, MANY)),
    "lookup of a token": (MANY, lambda x: lsrl.lookup(x, np.arange(MANY) % 7)),
    "lookup of a signal": (2, lambda x: lsrl.lookup(_index(x), np.arange(MANY) % 7)),
    "a clock": (2, lambda x: x + lsrl.cycle(MANY)),
}


def _nonzeros(graph: Graph) -> int:
    return sum(
        len(part) for node in graph.nodes for part in node.op.constants if part.shape != (1,)
    )


@pytest.mark.parametrize(
    ("name", "target"),
    [*((name, "linear_rnn") for name in WIDE), ("lookup of a signal", "lstm")],
)
def test_wide_programs_are_sparse_up_to_their_schedule(name, target):
    symbols, body = WIDE[name]

    def wide(x):
        return body(x)

    wide.__annotations__ = {"x": Token(symbols)}
    backend, pipeline = registry.find(target), Pipeline()
    lsrl.compile(_small, target)  # imports
    tracemalloc.start()
    try:
        program = lsrl.program(max_length=MANY)(wide)
        graph = pipeline.legalise(pipeline.simplify(program.graph), backend.capabilities)
        schedule = backend.schedule(graph, None, DEFAULT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES * MANY
    assert max(_nonzeros(program.graph), _nonzeros(schedule.graph)) < MOST_NONZEROS * MANY


@lsrl.program
def _small(x: Token(3)):
    return lsrl.lookup(x, [1, 2, 1])


def test_matrices_equal_dense_ones():
    """Sums, products, rows and columns, and what is stored of them."""
    random = np.random.default_rng(0)
    for _ in range(200):
        rows, inner, columns = random.integers(1, 6, 3)
        first = random.integers(-2, 3, (rows, inner)) * 2.0 ** random.integers(-3, 3)
        other = random.integers(-2, 3, (rows, inner)) * 0.5
        second = random.integers(-2, 3, (inner, columns)) * 1.0
        a, b, c = Matrix(first), Matrix(other), Matrix(second)
        assert a + b == Matrix(first + other)
        assert a @ c == Matrix(first @ second)
        assert a.exact_product(c) == Matrix(first @ second)
        picked, kept = random.integers(0, rows, 3), random.random(inner) < 0.5
        assert a.take(picked) == Matrix(first[picked])
        assert a.keep(kept) == Matrix(first[:, kept])
        np.testing.assert_array_equal(a.times(second[:, 0]), first @ second[:, 0])
        stored = Matrix.stored(first.ravel(), np.tile(np.arange(inner), rows),
                               np.arange(rows + 1) * inner, first.shape)  # fmt: skip
        assert (
            stored == a and hash(stored) == hash(a) and stored.nonzeros == np.count_nonzero(first)
        )
        np.testing.assert_array_equal(stored.csr.toarray(), first)
    third = Matrix([[1 / 3, 1.0]])
    assert third.exact_product(Matrix([[1.0], [2.0**60]])) is None


def test_a_long_product_is_that_of_a_short_one():
    """What scipy multiplies, and what does not pay for that, is the same."""
    ones = Matrix(np.ones((70, 70)))
    assert ones.exact_product(ones) == Matrix(np.full((70, 70), 70.0))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("kind", ["register", "forest", "ring", "rings"])
@pytest.mark.parametrize("stepwise", [True, False])
def test_bounds_of_registers_and_rings_are_those_of_every_token(kind, size, stepwise, monkeypatch):
    """Tight where each channel meets each update once, and never below the truth."""
    monkeypatch.setattr(recurrence, "MOST_STEPS", recurrence.MOST_STEPS if stepwise else 0)
    source = {
        "register": np.arange(size) - 1,
        "forest": (np.arange(size) - 1) // 2,
        "ring": (np.arange(size) - 1) % size,
        "rings": np.concatenate([[(i - 1) % size for i in range(size)], [size + 1, size]]),
    }[kind]
    width = len(source)
    transition = np.zeros((width, width))
    picks = np.flatnonzero(source >= 0)
    transition[picks, source[picks]] = 1.0
    random = np.random.default_rng([size, stepwise])  # what is known is not looked at again
    initial, low = random.integers(-3, 4, width) * 1.0, random.integers(-3, 3, width) * 1.0
    high = low + random.integers(0, 3, width)
    for tokens in range(1, 3 * width + 2):
        moved, least, most = initial, np.zeros(width), np.zeros(width)
        ends = np.full(width, np.inf), np.full(width, -np.inf)
        power = np.eye(width)
        for _ in range(tokens):
            moved, least, most = transition @ moved, least + power @ low, most + power @ high
            ends = np.minimum(ends[0], moved + least), np.maximum(ends[1], moved + most)
            power = transition @ power
        update = facts(low, high, np.ones(width))
        found, _ = linear_state_facts(Matrix(transition), initial, update, tokens)
        assert (found.low <= ends[0]).all() and (found.high >= ends[1]).all()
        if kind in ("register", "forest") or tokens <= size <= 2:
            np.testing.assert_array_equal([found.low, found.high], ends)


def test_a_grid_of_numbers_far_apart_divides_all_of_them():
    """Past 62 bits from the greatest to the least a grid is a power of two."""
    value = facts(np.zeros(2), np.ones(2), np.ones(2))
    rows = Matrix([[3.0, 3 * 2.0**70], [3.0, 6.0]])
    near = affine_facts([rows], np.array([0.0, 9.0]), [value])
    assert 3 % near.step[0] == 0 and near.step[1] in (1.0, 3.0)
    alone = affine_facts([Matrix([[3.0, 6.0]])], np.array([9.0]), [value])
    assert alone.step == 3


def _comparisons(count: int) -> lsrl.Program:
    @lsrl.program(max_length=count)
    def passed(x: Token(2)):
        total = lsrl.cumsum(x)
        return sum((total > k for k in range(1, count)), total)

    return passed


def test_inference_looks_at_each_comparison_a_few_times(monkeypatch):
    """How often affine maps are looked at is linear in the program."""
    looks = []
    monkeypatch.setattr(bounds, "affine_facts", lambda *a: looks.append(1) or affine_facts(*a))
    counts = []
    for count in (10, 20, 40):
        program = _comparisons(count)
        looks.clear()
        lsrl.compile(program, "linear_rnn", cache=False)
        counts.append(len(looks))
    assert counts[2] < 6 * 40
    assert abs((counts[2] - counts[1]) - 2 * (counts[1] - counts[0])) <= 4


def test_a_pass_that_finds_nothing_leaves_the_graph_as_it_is():
    pipeline = Pipeline()
    settled = pipeline.simplify(_comparisons(9).graph)
    assert fuse_affine(settled) is settled
    assert pipeline.simplify(settled) is settled


@pytest.mark.parametrize("exponent", [-1000, -60, 0, 60, 600, 1000])
def test_modulo_of_any_size(exponent):
    unit = 2.0**exponent

    @lsrl.program
    def rest(x: Token(9)):
        return lsrl.mod(x * unit, 4 * unit)

    np.testing.assert_array_equal(rest.run(np.arange(9))[:, 0] / unit, np.arange(9) % 4)


def test_a_state_of_many_channels_is_bounded_without_dense_powers():
    width = 20_000
    shift = Matrix(0.5 * sp.eye_array(width, k=-1, format="csr"))
    update = facts(np.zeros(width), np.ones(width), np.ones(width))
    tracemalloc.start()
    known, _ = linear_state_facts(shift, np.zeros(width), update, tokens=10**6)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert known.low.min() >= -(2.0**-50) and known.high.max() == 2


@pytest.mark.parametrize("seed", range(12))
def test_bounds_without_powers_hold_at_every_token(seed, monkeypatch):
    random = np.random.default_rng(seed)
    width, scale = 4, [0.25, 0.5, 1.0][seed % 3]
    transition = (
        scale * random.integers(-2, 2, (width, width)) * (random.random((width, width)) < 0.5)
    )
    initial, low = random.integers(-3, 4, width) * 1.0, random.integers(-3, 3, width) * 1.0
    high = low + random.integers(0, 3, width)
    update = facts(low, high, np.ones(width))
    monkeypatch.setattr(recurrence, "MOST_DENSE", 0)
    monkeypatch.setattr(recurrence, "MAX_UNROLLED_STEPS", 5)
    recurrence._cached_reach.cache_clear()
    power, total = np.eye(width), np.zeros((2, width))
    for tokens in range(1, 12):
        positive, negative = np.maximum(power, 0), np.minimum(power, 0)
        total += positive @ low + negative @ high, positive @ high + negative @ low
        power = transition @ power
        ends = power @ initial + total
        found, _ = linear_state_facts(Matrix(transition), initial, update, tokens)
        assert (found.low <= ends[0]).all() and (ends[1] <= found.high).all()
    recurrence._cached_reach.cache_clear()
