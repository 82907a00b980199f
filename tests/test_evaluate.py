"""The incremental evaluator: token by token as on whole sequences, in every arithmetic."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl.errors import InexactError, InputError, PromiseError, TheoremError
from lsrl.ir.arithmetic import Floats, Integers, Numbers, Rationals
from lsrl.ir.evaluate import Intervention, evaluate, evaluate_prefixes, float64_is_exact
from lsrl.ir.incremental import Evaluator, Moment
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import StateOp
from lsrl.ir.types import Vector
from lsrl.testing.random_ops import OPS
from lsrl.testing.random_programs import random_program
from tests.strategies import edge_programs, inputs_of, programs

pytestmark = pytest.mark.one_in(2)

LENGTH = 12


def read(
    evaluator: Evaluator[Array], inputs: list[Array]
) -> tuple[dict[int, Array], Moment[Array]]:
    """Whole sequences, token by token."""
    moment = evaluator.start(inputs[0].shape[:1])
    rows = []
    for t in range(inputs[0].shape[1]):
        values, moment = evaluator.advance(moment, [array[:, t] for array in inputs])
        rows.append(values)
    return {i: np.stack([row[i] for row in rows], axis=1) for i in evaluator.wanted}, moment


def check_equal(program: lsrl.Program, numbers: Numbers, *exact: bool, seed: int = 0) -> None:
    """Every node's value is that of whole sequences, in rationals and in float64 as told."""
    inputs, live = inputs_of(program, LENGTH, seed), program.graph.live()
    got, moment = read(Evaluator(program.graph, numbers, wanted=live), inputs)
    for rationals in exact:
        expected = evaluate(program.graph, inputs, exact=rationals, wanted=live)
        for i in live:
            np.testing.assert_array_equal(got[i], expected[i])
    assert (moment.tokens == LENGTH).all()
    assert (moment.legal == LENGTH).all()


@settings(max_examples=10)
@given(program=edge_programs(LENGTH), seed=st.integers(0, 99))
def test_rationals_are_those_of_whole_sequences(program, seed):
    check_equal(program, Rationals(), True, seed=seed)


@settings(max_examples=10)
@given(program=programs(OPS, LENGTH), seed=st.integers(0, 99))
def test_float64_is_that_of_whole_sequences(program, seed):
    exact = (True,) if float64_is_exact(program.graph, LENGTH) else ()
    check_equal(program, Floats(), False, *exact, seed=seed)


def integral(seed: int) -> lsrl.Program:
    """A random program of integers alone: the next one from a seed on that is one."""
    while True:
        inputs = [lsrl.Token(5), Vector(2, low=-3, high=4, step=1)][: 1 + seed % 2]
        program = random_program(seed, OPS, depth=5, width=6, max_length=LENGTH, inputs=inputs)
        if all(fact.integer for fact in program.graph.facts):
            return program
        seed += 1000


@pytest.mark.parametrize("seed", range(8))
def test_integers_are_exact(seed):
    check_equal(integral(seed), Integers(), True, seed)


def test_what_is_no_integer_is_refused():
    @lsrl.program(max_length=50)
    def halved(x: lsrl.Token(5)):
        half = x / 2
        return half

    @lsrl.program(max_length=50)
    def grown(x: lsrl.Token(5)):
        return lsrl.linear_state(x, [[2.0]])

    @lsrl.program
    def dyadic(x: lsrl.Vector(1, low=0, high=1, step=0.5)):
        return x >= 1

    for program, what in ((halved, "half .*made with 0.5"), (grown, "fit int32, but it adds up")):
        with pytest.raises(InexactError, match=what):
            Evaluator(program.graph, Integers(np.int32))
    with pytest.raises(InexactError, match=r"by steps of 0\.5"):
        Evaluator(dyadic.graph, Integers())
    Evaluator(grown.graph, Integers(np.int32), tokens=20)
    integers = Evaluator[Array](grown.graph, Integers(), tokens=20)
    with pytest.raises(InputError, match=r"expected integers, got 0\.5"):
        integers.advance(integers.start((1,)), [np.array([0.5])])


def test_comparisons_of_integers_whose_slope_is_a_fraction():
    @lsrl.program
    def compared(x: lsrl.Vector(1, low=-8, high=8, step=4)):
        return x >= 0, x > 0, lsrl.equal(x, 4)

    check_equal(compared, Integers(), True)

    @lsrl.program
    def ramped(x: lsrl.Vector(1, low=-8, high=8, step=1)):
        return lsrl.greater_equal(x, 0, ramp=4)

    evaluator = Evaluator[Array](ramped.graph, Integers())
    moment = evaluator.start((1,))
    for value, expected in ((-4, 0), (-2, 1), (3, 1)):
        values, moment = evaluator.advance(moment, [np.array([[value]])])
        assert values[ramped.graph.output] == expected
    with pytest.raises(PromiseError, match="token 3"):
        evaluator.advance(moment, [np.array([[-3]])])


def scanned(program: lsrl.Program, numbers: Numbers, inputs: list[Array]) -> tuple[Array, Array]:
    """Outputs and legal tokens by jax: compiled, scanned over time, mapped over sequences."""
    evaluator = Evaluator[jax.Array](program.graph, numbers)

    def one(*sequence: jax.Array) -> tuple[jax.Array, jax.Array]:
        def token(moment, values):
            found, moment = evaluator.advance(moment, values)
            return moment, found[program.graph.output]

        moment, outputs = jax.lax.scan(token, evaluator.start(()), sequence)
        return outputs, moment.legal

    arrays = [jnp.asarray(x, numbers.dtype if x.ndim == 3 else np.int32) for x in inputs]
    outputs, legal = jax.jit(jax.vmap(one))(*arrays)
    return np.asarray(outputs), np.asarray(legal)


@pytest.mark.parametrize("seed", range(2))
def test_jax_carries_it_out_too(seed):
    program = integral(seed + 40)
    inputs = inputs_of(program, LENGTH)
    expected = program.run(*inputs)
    for numbers in (Integers(np.int32, jnp), Floats(np.float32, jnp)):
        outputs, legal = scanned(program, numbers, inputs)
        assert outputs.dtype == numbers.dtype
        np.testing.assert_array_equal(outputs, expected)
        assert (legal == LENGTH).all()


def test_jax_multiplies_long_rows_as_a_whole():
    mixed = np.array([[1, -2, 3, 4, 5, -6], [0, 0, 0, 0, 0, 0], [0, 7, 0, 0, 1, 0]])

    @lsrl.program
    def product(x: lsrl.Vector(6, low=-3, high=3, step=1)):
        return mixed @ x

    inputs = inputs_of(product, LENGTH)
    for numbers in (Floats(np.float32, jnp), Integers(np.int32, jnp)):
        np.testing.assert_array_equal(scanned(product, numbers, inputs)[0], product.run(*inputs))
    check_equal(product, Integers(), True)


def test_float32_is_rounded_operation_by_operation():
    random = np.random.default_rng(0)
    weights, bias = random.normal(size=(3, 9)), random.normal(size=3)

    @lsrl.program(max_length=LENGTH)
    def sums(x: lsrl.Vector(9, low=-1, high=1)):
        state = lsrl.linear_state(weights @ x + bias, 0.9 * np.eye(3))
        return lsrl.relu(state) * state

    (x,) = (random.uniform(-1, 1, (2, LENGTH, 9)),)
    (got,) = read(Evaluator[Array](sums.graph, Floats(np.float32)), [x])[0].values()
    assert got.dtype == np.float32
    single, state = np.float32, np.zeros((2, 3), np.float32)
    for t in range(LENGTH):
        for sequence in range(2):
            for row in range(3):
                chain = single(0)
                for column in range(9):
                    term = single(weights[row, column]) * single(x[sequence, t, column])
                    chain = single(chain + term)
                update = single(single(bias[row]) + chain)
                kept = single(single(0.9) * state[sequence, row])
                state[sequence, row] = single(kept + update)
        np.testing.assert_array_equal(got[:, t], np.maximum(state, 0) * state)


def test_streams_can_be_picked_and_put_together():
    """A moment is arrays with the streams first: those at different tokens go on side by side."""
    for seed in range(6):
        program = random_program(seed, OPS, depth=6, width=4, max_length=LENGTH)
        inputs = inputs_of(program, LENGTH)
        expected = evaluate(program.graph, inputs, exact=False)[program.graph.output]
        evaluator = Evaluator[Array](program.graph, Floats(), promises="mark")
        moments = [evaluator.start((4,))]
        for t in range(LENGTH - 1):
            moments.append(evaluator.advance(moments[-1], [x[:, t] for x in inputs])[1])
        places, rows = [0, 7, 3], [2, 0, 3]
        picked = [
            jax.tree.map(lambda a, row=row: a[[row]], moments[t])
            for t, row in zip(places, rows, strict=True)
        ]
        together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *picked)
        values, after = evaluator.advance(together, [x[rows, places] for x in inputs])
        np.testing.assert_array_equal(values[program.graph.output], expected[rows, places])
        np.testing.assert_array_equal(after.tokens, [1, 8, 4])


def promising() -> lsrl.Program:
    """A program of three kinds of promise."""

    @lsrl.program(max_length=LENGTH)
    def promised(x: lsrl.Token(3)):
        taken = lsrl.latch(x, x >= 2)
        count = lsrl.bound(lsrl.cumsum(x), 0, 5)
        return taken + count

    return promised


def test_promises_are_checked_at_every_token():
    program = promising()
    inputs = np.array([[1, 1, 1, 1, 1, 0], [0, 2, 1, 0, 2, 0], [2, 2, 2, 0, 0, 0]])
    legal, values = evaluate_prefixes(program.graph, [inputs], [program.graph.output])
    np.testing.assert_array_equal(legal, [6, 4, 1])
    marked, moment = read(Evaluator[Array](program.graph, Floats(), promises="mark"), [inputs])
    np.testing.assert_array_equal(moment.legal, legal)
    np.testing.assert_array_equal(marked[program.graph.output], values[program.graph.output])
    np.testing.assert_array_equal(scanned(program, Integers(np.int32, jnp), [inputs])[1], legal)
    _, ignored = read(Evaluator[Array](program.graph, Floats(), promises="ignore"), [inputs])
    np.testing.assert_array_equal(ignored.legal, 6)
    for row, place in ((1, "is latched at most once.* token 4"), (2, "token 1")):
        with pytest.raises(PromiseError, match=place) as error:
            read(Evaluator[Array](program.graph, Floats()), [inputs[row : row + 1]])
        with pytest.raises(PromiseError) as whole:
            evaluate(program.graph, [inputs[row : row + 1]])
        assert error.value.token == whole.value.token
    with pytest.raises(PromiseError, match="sequence 2, token 1"):
        read(Evaluator[Array](program.graph, Floats()), [inputs])


def test_a_makers_theorem_is_none_of_the_users_promises():
    @lsrl.program(max_length=5)
    def counted(x: lsrl.Token(2)):
        return lsrl.bound(lsrl.cumsum(x), 0, 2)

    bound = counted.graph.nodes[counted.graph.output]
    proven = replace(bound, op=replace(bound.op, proven=True))
    graph = replace(counted.graph, nodes=(*counted.graph.nodes[:-1], proven))
    with pytest.raises(TheoremError, match=r"stays in \[0, 2\]; got \[3.0\]"):
        read(Evaluator[Array](graph, Floats()), [np.ones((1, 3))])


@settings(max_examples=10)
@given(program=programs(OPS, LENGTH), seed=st.integers(0, 2**32 - 1))
def test_interventions_are_those_of_whole_sequences(program, seed):
    random, inputs = np.random.default_rng(seed), inputs_of(program, LENGTH, seed % 99)
    graph, live = program.graph, program.graph.live()
    states = [i for i in live if isinstance(graph.nodes[i].op, StateOp)]
    given_by_node = {}
    for i in {int(random.choice(live)), *states[:2]}:
        shape = (4, LENGTH, graph.nodes[i].width)
        values = random.integers(-2, 3, shape).astype(float)
        given_by_node[i] = Intervention(random.random(shape) < 0.2, values)
    expected = evaluate(graph, inputs, exact=False, wanted=live, interventions=given_by_node)
    evaluator = Evaluator[Array](graph, Floats(), wanted=live)
    moment = evaluator.start((4,))
    for t in range(LENGTH):
        now = {i: Intervention(g.mask[:, t], g.values[:, t]) for i, g in given_by_node.items()}
        values, moment = evaluator.advance(moment, [x[:, t] for x in inputs], now)
        for i in live:
            np.testing.assert_array_equal(values[i], expected[i][:, t])


def test_a_wide_latch_takes_an_intervention():
    @lsrl.program(max_length=4)
    def wide(x: lsrl.Vector(2, low=0, high=3, step=1), when: lsrl.Token(2)):
        return lsrl.latch(x, when)

    inputs = [np.full((1, 4, 2), 3.0), np.array([[0, 0, 1, 0]])]
    mask = np.zeros((1, 4, 2), bool)
    mask[0, 1, 1] = True
    (got,) = evaluate(
        wide.graph, inputs, interventions={wide.graph.output: Intervention(mask, mask * 7.0)}
    ).values()
    np.testing.assert_array_equal(got[0], [[0, 0], [0, 7], [3, 10], [3, 10]])


@pytest.mark.parametrize(
    "numbers",
    [Rationals(), Floats(), Floats(np.float32), Integers()],
    ids=["rationals", "float64", "float32", "integers"],
)
def test_products_of_rows_of_any_length(numbers):
    random = np.random.default_rng(1)
    for rows, columns, share in ((1, 1, 1), (5, 3, 0.2), (4, 9, 1), (3, 40, 0.5), (2, 2, 0)):
        dense = random.integers(-3, 4, (rows, columns)) * (random.random((rows, columns)) < share)
        value = random.integers(-5, 6, (2, 3, columns))
        got = numbers.product(Matrix(dense), numbers.given(value.astype(np.float64)))
        np.testing.assert_array_equal(got, value @ dense.T)
    value = numbers.given(np.array([[3.0, 5.0]]))
    np.testing.assert_array_equal(numbers.product(Matrix([[1, 1], [0, 1]]), value), [[8, 5]])
    np.testing.assert_array_equal(value, [[3, 5]])
