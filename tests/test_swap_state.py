"""Items that swaps permute: `lsrl.swap_state`, and the op behind it."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl.backends import registry
from lsrl.errors import FormatError, ProgramError, PromiseError, ShapeError, UnsupportedOpError
from lsrl.ir import ops
from lsrl.ir.arithmetic import Floats, Integers, Numbers, Rationals
from lsrl.ir.evaluate import Intervention, evaluate, evaluate_prefixes
from lsrl.ir.formulas import Formulas
from lsrl.ir.incremental import Evaluator, Promises
from lsrl.ir.numbers import Array
from lsrl.passes.pipeline import Pipeline
from lsrl.passes.unroll import unroll_states
from lsrl.program_json import program_from_json, program_to_json
from lsrl.testing.random_programs import random_program
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(2)

ARITHMETICS = (Rationals(), Floats(np.float32), Integers(np.int64), Floats(np.float32, jnp))


def places_of(points):
    """A program of the places of some items, and of what the op itself says of an order."""

    @lsrl.program
    def places(
        swap: lsrl.Vector(points, low=0, high=1, step=1),
        read: lsrl.Vector(points, low=1, high=points, step=1),
    ):
        return lsrl.concat(lsrl.swap_state(swap), lsrl.swap_state(swap, read))

    return places


def drawn(seed, points, batch=3, time=12):
    """Swaps of which some do nothing, and orders."""
    random = np.random.default_rng(seed)
    pairs = np.array([[0] * points] + [
        [int(p in pair) for p in range(points)]
        for pair in itertools.combinations(range(points), 2)
    ])  # fmt: skip
    swap = pairs[random.integers(0, len(pairs), (batch, time))]
    return swap, np.argsort(random.random((batch, time, points)), axis=-1) + 1


def plain(swaps, orders):
    """What a list of items says."""
    items, found = list(range(len(swaps[0]))), []
    for swap, order in zip(swaps, orders, strict=True):
        seen = [order[items.index(item)] for item in range(len(items))]
        if sum(swap):
            i, k = np.flatnonzero(swap)
            items[i], items[k] = items[k], items[i]
        found.append([*(items.index(item) + 1 for item in range(len(items))), *seen])
    return found


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), points=st.integers(2, 6))
def test_swaps_move_items_as_in_a_list(seed, points):
    program, (swap, order) = places_of(points), drawn(seed, points)
    expected = [plain(*each) for each in zip(swap.tolist(), order.tolist(), strict=True)]
    np.testing.assert_array_equal(program.run(swap, order), expected)
    exact = program.run(swap, order, exact=True)
    assert (exact == np.array(expected)).all()


@pytest.mark.parametrize("numbers", ARITHMETICS, ids=lambda n: f"{n.dtype}-{n.namespace.__name__}")
def test_token_by_token_as_at_once(numbers: Numbers):
    graph, (swap, order) = places_of(4).graph, drawn(1, 4)
    whole = evaluate(graph, [swap, order])[graph.output]
    promises: Promises = "mark" if numbers.traced else "raise"
    evaluator = Evaluator[Array](graph, numbers, promises=promises)
    advance = jax.jit(evaluator.advance) if numbers.traced else evaluator.advance
    moment = evaluator.start((3,))
    for t in range(12):
        values, moment = advance(moment, [numbers.given(each[:, t]) for each in (swap, order)])
        np.testing.assert_array_equal(np.asarray(values[graph.output], float), whole[:, t])
    assert np.asarray(moment.legal).tolist() == [12] * 3


def op_alone(points):
    """The op, and what it is in the program that uses it."""
    graph = places_of(points).graph
    alone = [i for i, n in enumerate(graph.nodes) if isinstance(n.op, ops.SwapState)]
    return graph, next(i for i in alone if graph.nodes[i].operands[1] in graph.inputs)


def test_the_state_is_a_product_of_reflections():
    """y = Sᵀ read, where S takes up I - k kᵀ behind each token, for k = f_i + f_j."""
    graph, node = op_alone(5)
    swap, order = drawn(2, 5, batch=1, time=40)
    value = evaluate(graph, [swap, order], wanted=[node])[node][0]
    state = np.eye(5)
    for t in range(40):
        np.testing.assert_array_equal(value[t], state.T @ order[0, t])
        key = swap[0, t][:, None]
        state = state - key @ key.T @ state
    assert graph.facts[node].low.tolist() == [-5] * 5
    assert graph.facts[node].step.tolist() == [1] * 5


def test_an_intervention_changes_what_is_read_and_not_where_items_stand():
    graph, node = op_alone(3)
    swap, order = drawn(3, 3, batch=1, time=6)
    at = np.zeros((1, 6, 3), bool)
    at[0, 2] = True
    before = evaluate(graph, [swap, order], wanted=[node])[node]
    after = evaluate(
        graph, [swap, order], wanted=[node], interventions={node: Intervention(at, at * 7.0)}
    )[node]
    assert (after[0, 2] == 7).all()
    np.testing.assert_array_equal(np.delete(after, 2, 1), np.delete(before, 2, 1))


# ---------------------------------------------------------------- promises


def test_a_swap_of_one_place_or_three_breaks_the_promise_at_its_token():
    swap, order = drawn(4, 3, batch=2, time=8)
    for wrong in ([1, 0, 0], [1, 1, 1]):
        swap[1, 5] = wrong
        with pytest.raises(PromiseError, match=r"0, 2\] by steps of 2.* sequence 1, token 5"):
            places_of(3).run(swap, order)
        graph = places_of(3).graph
        legal, _ = evaluate_prefixes(graph, [swap, order])
        assert legal.tolist() == [8, 5]
        evaluator = Evaluator(graph, Floats())
        moment = evaluator.start((2,))
        with pytest.raises(PromiseError, match="sequence 1, token 5"):
            for t in range(8):
                _, moment = evaluator.advance(moment, [x[:, t] * 1.0 for x in (swap, order)])


def test_an_order_that_is_none_breaks_the_promise_at_its_token():
    swap, order = drawn(4, 3, batch=2, time=8)
    order[0, 3] = [1, 1, 3]
    message = r"then 1 to 3 in some order.*got \[.*1.0, 1.0, 3.0\] at sequence 0, token 3"
    with pytest.raises(PromiseError, match=message):
        places_of(3).run(swap, order)


# ---------------------------------------------------------------- the language


def test_what_is_a_function_of_one_token_is_one_table():
    """The present swap costs nothing: it is folded into the table of what is read."""

    @lsrl.program
    def s3(token: lsrl.Token(3)):
        return lsrl.swap_state(lsrl.lookup(token, [[0, 0, 0], [1, 1, 0], [0, 1, 1]]))

    graph = Pipeline().simplify(s3.graph)
    (node,) = (n for n in graph.nodes if isinstance(n.op, ops.SwapState))
    tables = [graph.nodes[i].op.table.dense().tolist() for i in node.operands]
    assert tables[1] == [[1, 2, 3], [2, 1, 3], [1, 3, 2]]
    assert s3.run([1, 2, 0, 1]).tolist() == [[2, 1, 3], [3, 1, 2], [3, 1, 2], [3, 2, 1]]
    assert s3.graph.facts[s3.graph.output].low.tolist() == [1, 1, 1]
    assert "place of 0" in Formulas(graph).node(graph.nodes.index(node))
    restored = program_from_json(json.loads(json.dumps(program_to_json(s3))))
    assert restored.graph.dump() == s3.graph.dump()


TWO = lsrl.Vector(2, low=0, high=1, step=1)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda x: lsrl.swap_state(x + 1), ProgramError, "swap_state needs signals that are 0 or"),
        (
            lambda x: lsrl.swap_state(x[0]),
            ShapeError,
            "at least two places to swap, got .* width 1",
        ),
        (lambda x: lsrl.swap_state(x, x[0] + 1), ShapeError, "a channel a place, 2 .* got 1"),
        (lambda x: lsrl.swap_state(x, x), ProgramError, r"read is 1 to 2 in some order, got"),
        (lambda x: lsrl.swap_state(x, x / 2 + 1), ProgramError, "read is 1 to 2"),
        (lambda x: lsrl.swap_state(x, keeper="me"), ProgramError, "keeper"),
    ],
)
def test_what_no_swap_is_made_of_is_said_at_its_line(write, error, message):
    with pytest.raises(error, match=message) as caught:

        @lsrl.program
        def wrong(x: TWO):
            return write(x)

    assert "test_swap_state.py:" in str(caught.value)


def test_a_damaged_file_is_told_which_field():
    damaged = json.loads(json.dumps(program_to_json(places_of(2))))
    place = next(i for i, n in enumerate(damaged["nodes"]) if n["op"] == "SwapState")
    damaged["nodes"][place]["fields"]["points"] = 3
    with pytest.raises(FormatError, match=rf"nodes\[{place}\].*two operands of width 3"):
        program_from_json(damaged)
    damaged["nodes"][place]["fields"]["points"] = 0
    with pytest.raises(FormatError, match="points"):
        program_from_json(damaged)


# ---------------------------------------------------------------- targets


def test_a_target_without_reflections_refuses_with_the_theorem():
    program = places_of(3)
    with pytest.raises(UnsupportedOpError) as caught:
        lsrl.compile(program, "rnn")
    first, second = caught.value.offences
    assert first.signal != second.signal and "swap_state" in first.signal
    for said in ("S5", "Merrill", "Grazzi", "deltanet", "lsrl.threshold_state"):
        assert said in first.reason
    others = set(registry.names()) - {"deltanet"}
    assert all(len(registry.find(name).offending(program.graph)) == 2 for name in others)


def test_a_swap_state_unrolls():
    @lsrl.program(max_length=6)
    def places(token: lsrl.Token(4)):
        moved = lsrl.lookup(token, [[0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
        return lsrl.swap_state(moved)

    able = registry.find("mamba").capabilities
    graph = unroll_states(Pipeline().simplify(places.graph), able)
    assert not any(isinstance(node.op, ops.SwapState) for node in graph.nodes)
    tokens = np.random.default_rng(0).integers(0, 4, (100, 6))
    value = evaluate(graph, [tokens], theorems=True)[graph.output]
    np.testing.assert_array_equal(value, places.run(tokens))


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_among_other_ops_it_means_the_same_in_every_arithmetic(seed):
    names = ("swap_state", "lookup", "select", "delay", "affine", "hold")
    program = random_program(seed, names, depth=4, width=4, max_length=10)
    inputs, graph = inputs_of(program, 10, seed % 100), program.graph
    exact = evaluate(graph, inputs, exact=True, theorems=True)[graph.output]
    np.testing.assert_array_equal(exact.astype(float), program.run(*inputs))
