"""The schedule: depth and width by hand, and its layers against an interpreter of their rows."""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type, operator, arg-type"

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

import lsrl
from lsrl import Token, Vector
from lsrl.backends import registry
from lsrl.certificate import certify
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, Input, LinearState, Lookup, Op, Product, Relu
from lsrl.levels import NONLINEAR
from lsrl.numerics import numerics_of
from lsrl.passes.pipeline import Pipeline
from lsrl.programs import catalogue, tok2tok
from lsrl.schedule import Schedule, schedule_layers
from lsrl.testing.random_ops import LINEAR_OPS
from tests.strategies import check_programs, each_turn, inputs_of, programs

pytestmark = pytest.mark.one_in(2)

TARGETS = {"linear_rnn": LINEAR_OPS, "gated_linear_rnn": (*LINEAR_OPS, "product")}


def schedule_of(program, target="linear_rnn", reads_own_states=True, inspectable=False) -> Schedule:
    pipeline, capabilities = Pipeline(), registry.find(target).capabilities
    graph = pipeline.legalise(pipeline.simplify(program.graph), capabilities)
    able = replace(capabilities, reads_own_states=reads_own_states)
    return schedule_layers(graph, able, inspectable=inspectable)


# ---------------------------------------------------------------------- a plain interpreter


def interpret(schedule: Schedule, inputs: list[Array]) -> Array:
    """Run a schedule by its own rows, token by token, in float64.

    Args:
      schedule: any schedule of linear, ReLU and product units.
      inputs: one sequence an input: ids (time,) or vectors (time, width).

    Returns:
      (time, outputs).
    """
    states = [layer.initial for layer in schedule.layers]
    outputs = []
    for token in range(len(inputs[0])):
        before = features(schedule, [array[token] for array in inputs])
        for number, layer in enumerate(schedule.layers):
            hidden, values = np.zeros(layer.width), np.zeros(layer.width)
            for unit in layer.units:
                place = slice(unit.start, unit.start + unit.width)
                slots = [
                    rows.recurrent @ states[number] + rows.inputs @ before + rows.bias
                    for rows in unit.slots
                ]
                hidden[place] = slots[0]
                values[place] = activation(unit.kind, slots)
            states[number], before = hidden, values
        outputs.append(schedule.output.inputs @ before + schedule.output.bias)
    return np.array(outputs)


def activation(kind: type[Op], slots: list[Array]) -> Array:
    if kind in (Affine, LinearState):
        (value,) = slots
        return value
    if kind is Relu:
        (value,) = slots
        return np.maximum(value, 0)
    assert kind is Product
    first, second = slots
    return first * second


def features(schedule: Schedule, now: list[Array]) -> Array:
    """What the input map makes of the present token."""
    parts = []
    for node in schedule.features:
        this = schedule.graph.nodes[node]
        if isinstance(this.op, Input):
            parts.append(np.atleast_1d(now[this.op.index]).astype(np.float64))
            continue
        source = schedule.graph.nodes[this.operands[0]].op
        assert isinstance(this.op, Lookup)
        assert isinstance(source, Input)
        parts.append(this.op.table.dense()[int(now[source.index])])
    return np.concatenate([*parts, np.zeros(0)])


def check_rows(program, target, tokens=30) -> None:
    schedule, numerics = schedule_of(program, target), numerics_of("float64")
    analyse = registry.find(target).analysis(schedule, numerics)
    for sequence in range(2, 4):
        inputs = [array[sequence] for array in inputs_of(program, tokens)]
        expected = program.run(*inputs)
        got = interpret(schedule, inputs)
        if certify(schedule, numerics, analyse).exact:
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-6)


@each_turn
@pytest.mark.parametrize("target", TARGETS)
def test_rows_equal_the_reference_on_random_programs(target, turn):
    check_programs(turn, 5, programs(), lambda program: check_rows(program, target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["tok2tok", "parity", "dyck1", "ngram", "counting_sort"])
def test_rows_equal_the_reference_on_the_library(name, target):
    entry, random = catalogue()[name], np.random.default_rng(0)
    program = entry.program()
    schedule = schedule_of(program, target)
    for _ in range(5):
        inputs = entry.sample(random, 60)
        np.testing.assert_array_equal(interpret(schedule, list(inputs)), program.run(*inputs))


# ---------------------------------------------------------------------- depth


def longest_path(schedule: Schedule) -> int:
    """Layers on the longest way from an input to the output, by the rules of lsrl.schedule.

    A nonlinear unit takes a layer. A state takes none as long as a reader follows in its own layer,
    but it has to stand in some layer.
    """
    graph = schedule.graph
    available: dict[int, int] = {}
    depth = 0
    for i in graph.live():
        op = graph.nodes[i].op
        if graph.facts[i].constant and not op.stateful:
            continue
        reads = max((available[o] for o in graph.nodes[i].operands if o in available), default=0)
        available[i] = reads + (type(op) in NONLINEAR)
        at_input = isinstance(op, Affine | Input | Lookup)
        depth = max(depth, reads if at_input else reads + 1)
    return depth


@each_turn
@pytest.mark.parametrize("target", TARGETS)
def test_depth_is_the_critical_path_and_readers_come_in_order(target, turn):
    check_programs(turn, 5, programs(), lambda program: check_depth(program, target))


def check_depth(program, target):
    schedule = schedule_of(program, target)
    assert len(schedule.layers) == max(longest_path(schedule), 1)
    assert schedule.critical_path == longest_path(schedule)
    nodes = schedule.graph.nodes
    for i, (reads, last) in schedule.levels.items():
        made = reads + (type(nodes[i].op) in NONLINEAR)
        for reader in schedule.graph.readers[i]:
            if reader in schedule.levels:
                assert made <= schedule.levels[reader][0] <= last
    labels = schedule.labels()
    assert [len(row) for row in labels] == [layer.width for layer in schedule.layers]


@settings(max_examples=10)
@given(program=programs())
def test_a_schedule_is_followed_again_from_its_levels(program):
    schedule = schedule_of(program)
    capabilities = registry.find("linear_rnn").capabilities
    again = schedule_layers(schedule.graph, capabilities, schedule.levels)
    assert again.labels() == schedule.labels()
    for first, second in zip(schedule.layers, again.layers, strict=True):
        for mine, other in zip(first.units, second.units, strict=True):
            assert (mine.node, mine.kind, mine.start) == (other.node, other.kind, other.start)
            for rows, same in zip(mine.slots, other.slots, strict=True):
                assert (rows.inputs != same.inputs).nnz == 0
                assert (rows.recurrent != same.recurrent).nnz == 0
                np.testing.assert_array_equal(rows.bias, same.bias)


# ---------------------------------------------------------------------- examples by hand


def shape_of(program, target="linear_rnn") -> list[int]:
    """Width of each layer."""
    return [layer.width for layer in schedule_of(program, target).layers]


def test_affine_maps_and_chained_states_share_a_layer():
    @lsrl.program(max_length=9)
    def chained(x: Token(3)):
        first = lsrl.cumsum(2 * x + 1)
        second = lsrl.cumsum(first - 1)
        return 3 * second + first

    # One state each; nothing is carried, since the output map reads both.
    assert shape_of(chained) == [2]


def test_a_relu_on_a_state_shares_its_layer():
    @lsrl.program(max_length=9)
    def clipped(x: Token(3)):
        return lsrl.relu(lsrl.cumsum(x) - 4)

    schedule = schedule_of(clipped)
    assert [unit.kind for unit in schedule.layers[0].units] == [LinearState, Relu]
    assert shape_of(clipped) == [2]


def test_each_relu_in_a_row_takes_a_layer():
    @lsrl.program
    def saw(x: Vector(1, low=-8, high=8, step=1)):
        folded = x
        for size in (4, 2, 1):
            folded = lsrl.relu(folded) - 2 * lsrl.relu(folded - size) - 1
        return folded

    # Two ReLUs a level and nothing carried between: each level is an affine map of the one before.
    assert shape_of(saw) == [2, 2, 2]


def test_what_is_not_read_again_is_not_carried():
    @lsrl.program
    def late(x: Vector(1, low=-8, high=8, step=1), y: Vector(5, low=-8, high=8, step=1)):
        deep = lsrl.relu(lsrl.relu(lsrl.relu(x) - 2) - 2)
        return deep + y[2]

    # Only the third entry of y goes along, one channel a layer.
    assert shape_of(late) == [2, 2, 2]


def test_the_smaller_of_a_value_and_its_rows_is_carried():
    def rows_of(width, rows):
        @lsrl.program
        def read_late(
            x: Vector(1, low=-8, high=8, step=1), y: Vector(width, low=0, high=1, step=1)
        ):
            deep = lsrl.relu(lsrl.relu(x) - 2)
            read = np.arange(1.0, 1 + rows * width).reshape(rows, width) @ y
            return deep, read

        return read_late

    # One row of seven channels is one channel; seven rows of two channels are two.
    assert shape_of(rows_of(7, 1)) == [2, 2]
    assert shape_of(rows_of(2, 7)) == [3, 3]


@pytest.mark.parametrize("seed", range(4))
def test_an_affine_map_of_what_is_held_anyway_is_made_anew(seed):
    rng = np.random.default_rng(seed)
    weights, thresholds = rng.choice([-2, -1, 1, 2], (2, 2)), rng.integers(-2, 3, 2)

    @lsrl.program(max_length=30)
    def compared(x: Vector(2, low=0, high=1, step=1)):
        count = lsrl.cumsum(x)
        apart = weights @ count + thresholds
        return lsrl.relu(apart - lsrl.relu(apart - 1) + 3)

    schedule, held = schedule_of(compared), schedule_of(compared, inspectable=True)
    # The counts stand in their layer in any case, and what lies between them is read off them.
    assert [layer.width for layer in held.layers] == [6, 2]
    assert [layer.width for layer in schedule.layers] == [4, 2]
    sequence = rng.integers(0, 2, (30, 2))
    for each in (schedule, held):
        np.testing.assert_array_equal(interpret(each, [sequence]), compared.run(sequence))


def test_an_affine_map_of_many_held_channels_is_held_itself():
    @lsrl.program(max_length=30)
    def compared(x: Vector(8, low=0, high=1, step=1)):
        total = lsrl.cumsum(x).sum()
        return [lsrl.relu(total - k * lsrl.relu(total - 1)) for k in range(2, 9)]

    assert schedule_of(compared).layers[0].width == 10


def test_a_state_stands_where_it_is_carried_least():
    @lsrl.program(max_length=9)
    def early_or_late(x: Vector(1, low=-8, high=8, step=1)):
        deep = lsrl.relu(lsrl.relu(lsrl.relu(x) - 2) - 2)
        total = lsrl.cumsum(np.ones((4, 1)) @ x + np.arange(4))
        return deep, total

    # x is one channel and the state four, so x is carried and the state stands in the last layer.
    assert shape_of(early_or_late) == [2, 2, 5]


def test_constants_take_no_channel():
    @lsrl.program
    def constant(x: Token(2)):
        return lsrl.relu(0 * x + 3)

    schedule = schedule_of(constant)
    assert [layer.width for layer in schedule.layers] == [0]
    np.testing.assert_array_equal(schedule.output.bias, [3])


def test_products_read_two_rows():
    @lsrl.program
    def product(x: Vector(2, low=-8, high=8, step=1), y: Vector(2, low=-8, high=8, step=1)):
        return (x + 1) * (y - x)

    (layer,) = schedule_of(product, "gated_linear_rnn").layers
    (unit,) = layer.units
    assert (unit.kind, unit.width, len(unit.slots)) == (Product, 2, 2)


def test_tok2tok_has_the_depth_and_width_of_the_papers_algorithm():
    schedule = schedule_of(tok2tok(3, 10))
    assert len(schedule.layers) == schedule.critical_path == 7
    assert schedule.width == 12
    wide = schedule_of(tok2tok(12, 10))
    assert len(wide.layers) == 7
    assert {type(wide.graph.nodes[unit.node].op) for unit in wide.layers[0].units} <= {
        LinearState, *NONLINEAR, Affine, Input, Lookup,
    }  # fmt: skip
