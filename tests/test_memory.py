"""Memory by address, holds that are told their change, and the computers made of them."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl import programs
from lsrl.backends import registry
from lsrl.errors import ProgramError, PromiseError, ShapeError, TheoremError, UnsupportedOpError
from lsrl.ir import ops
from lsrl.ir.arithmetic import Floats, Rationals
from lsrl.ir.evaluate import evaluate
from lsrl.ir.graph import Graph
from lsrl.ir.groups import together
from lsrl.ir.incremental import Evaluator
from lsrl.ir.matrix import Matrix
from lsrl.numerics import numerics_of
from lsrl.passes.memory import drop_told
from lsrl.passes.pipeline import Pipeline
from lsrl.programs.computer import _carried_out
from lsrl.rounding.channels import Kind
from lsrl.rounding.graph import know
from lsrl.rounding.walk import Walk
from lsrl.target import Capabilities
from tests.grids import studied

pytestmark = pytest.mark.one_in(2)

TARGETS = ("linear_rnn", "gated_linear_rnn", "rnn", "lstm", "gru", "mamba", "griffin", "mamba2")


# ---------------------------------------------------------------- a hold that is told its change


@lsrl.program(max_length=50)
def register(
    value: lsrl.Vector(2, low=-9, high=9, step=1),
    change: lsrl.Vector(2, low=-18, high=18, step=1),
    write: lsrl.Vector(2, low=0, high=1, step=1),
):
    return lsrl.hold(value, write, initial=[3, -2], change=change, keeper="prompt")


def writes(rng, steps):
    """Legal inputs of `register`, and what it holds at each token."""
    value = rng.integers(-9, 10, (steps, 2))
    write = rng.integers(0, 2, (steps, 2))
    held, change, found = np.array([3, -2]), np.zeros((steps, 2), int), []
    for t in range(steps):
        # Where nothing is written the change is anything.
        change[t] = np.where(write[t], value[t] - held, rng.integers(-18, 19, 2))
        held = np.where(write[t], value[t], held)
        found.append(held)
    return (value, change, write), np.array(found)


@pytest.mark.parametrize("target", studied(TARGETS, "rnn", "griffin"))
def test_a_hold_that_is_told_its_change_is_on_every_target(target):
    inputs, expected = writes(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(register.run(*inputs), expected)
    model = lsrl.compile(register, target)
    assert model.certificate.exact
    np.testing.assert_array_equal(model.run(*inputs), expected)


def test_of_the_change_cells_that_overwrite_know_nothing():
    kinds = {
        target: {type(n.op) for n in lsrl.compile(register, target).schedule.graph.nodes}
        for target in ("linear_rnn", "mamba")
    }
    assert ops.LinearState in kinds["linear_rnn"] and ops.Hold not in kinds["linear_rnn"]
    assert ops.Hold in kinds["mamba"] and ops.LinearState not in kinds["mamba"]


def test_a_wrong_change_is_a_broken_promise_at_its_token():
    (value, change, write), _ = writes(np.random.default_rng(1), 20)
    write[11, 1], change[11, 1] = 1, change[11, 1] + 1
    with pytest.raises(PromiseError, match=r"held before plus the change.* token 11") as caught:
        register.run(value, change, write)
    assert caught.value.keeper == "prompt"
    # Where nothing is written it does not count.
    write[11, 1] = 0
    register.run(value[:12], change[:12], write[:12])


def test_real_changes_are_not_added_up_where_a_cell_overwrites():
    @lsrl.program(max_length=10)
    def real(x: lsrl.Vector(1, low=-1, high=1), w: lsrl.Vector(1, low=0, high=1, step=1)):
        return lsrl.hold(x, w, change=x)

    overwriting = lsrl.compile(real, "lstm").schedule.graph
    assert any(isinstance(node.op, ops.SelectiveState) for node in overwriting.nodes)
    assert lsrl.compile(real, "gated_linear_rnn").certificate.error_bound < 1e-4


def test_a_hold_without_its_change_says_what_is_missing():
    @lsrl.program
    def plain(x: lsrl.Vector(1, low=0, high=1, step=1), w: lsrl.Vector(1, low=0, high=1, step=1)):
        return lsrl.hold(x, w)

    with pytest.raises(UnsupportedOpError):
        lsrl.compile(plain, "linear_rnn")


# ---------------------------------------------------------------- memory

ASSOCIATIVE = Capabilities(frozenset({ops.Recall}))


SEGMENTS = st.lists(st.integers(0, 6), min_size=2, max_size=6).map(
    lambda steps: tuple(
        (start, end)
        for start, end in zip(
            (np.cumsum(steps) - 4)[::2].tolist(),
            (np.cumsum(steps) - 4)[1::2].tolist(),
            strict=False,
        )
        if start < end
    )
)


@st.composite
def memories(draw):
    """A memory, which cells it has, and how it is read."""
    segments = draw(SEGMENTS.filter(bool))
    width, words = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    columns = draw(st.sampled_from([None, 1, 2, 3, 5]))
    low = draw(st.sampled_from([(-7, 1), (0, 1), (-7, 0.5), (2, 1)]))
    return segments, width, words, columns, low, draw(st.booleans())


def made(case, low=-9, high=24):
    segments, width, words, columns, (least, step), by_row = case
    address = lsrl.Vector(1, low=low, high=high, step=1)

    @lsrl.program(max_length=100)
    def table(
        at: address,
        value: lsrl.Vector(width, low=least, high=7, step=step),
        flags: lsrl.Vector(2, low=0, high=1, step=1),
        wanted: address,
    ):
        memory = lsrl.memory(
            at, value, flags[0], segments=segments, words=words, columns=columns, initial=3,
            by_row=by_row,
        )  # fmt: skip
        return lsrl.concat(memory.read(wanted, words, when=flags[1]), memory.written)

    return table


def plainly(case, at, value, flags, wanted):
    segments, width, words, *_ = case
    cells = {a: [3] * width for start, end in segments for a in range(start, end)}
    rows = []
    for t in range(len(at)):
        if flags[t, 0] and at[t, 0] in cells:
            cells[at[t, 0]] = value[t].tolist()
        read = [cells.get(wanted[t, 0] + k, [0] * width) for k in range(words)]
        rows.append(np.concatenate(read) * flags[t, 1])
    return np.array(rows)


@settings(max_examples=12)
@given(case=memories(), seed=st.integers(0, 2**16))
def test_a_memory_is_a_dictionary(case, seed):
    """And what is proven of each of its signals holds: at most one write, what a read lies in."""
    program, rng = made(case), np.random.default_rng(seed)
    _, width, _, _, (least, step), _ = case
    steps = 25
    value = least + step * rng.integers(0, int((7 - least) / step) + 1, (steps, width))
    inputs = (
        rng.integers(-9, 25, (steps, 1)), value,
        rng.integers(0, 2, (steps, 2)), rng.integers(-9, 25, (steps, 1)),
    )  # fmt: skip
    graph = program.graph
    batch = [x[None].astype(float) for x in inputs]
    found = evaluate(graph, batch, theorems=True)[graph.output][0]
    expected = plainly(case, *inputs)
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert (found[:, expected.shape[1] :].sum(axis=1) <= 1).all()
    facts = graph.facts[graph.output]
    assert facts.low[0] == min(least, 0) and facts.high[0] == 7
    with pytest.MonkeyPatch.context() as patched:  # many cells, and addresses that go far
        for name, value in (("MOST_HATS", 0), ("LARGEST", 1))[: seed % 3]:
            patched.setattr(f"lsrl.passes.memory.{name}", value)
        recalled = drop_told(graph, ASSOCIATIVE)
    assert (evaluate(recalled, batch, theorems=True)[recalled.output][0] == found).all()


def small():
    """A memory of few cells, and inputs for it."""
    table = made((((0, 3),), 1, 2, None, (-7, 1), False), low=-1, high=3)
    rng = np.random.default_rng(2)
    inputs = [
        rng.integers(low, high, (2, 12, width))
        for low, high, width in ((-1, 4, 1), (-7, 8, 1), (0, 2, 2), (-1, 4, 1))
    ]
    return table.graph, inputs


@pytest.mark.parametrize("numbers", [Rationals(), Floats(np.float32, jnp)], ids=["exact", "jax"])
def test_a_recall_goes_token_by_token_as_at_once(numbers):
    graph, inputs = small()
    whole, form = evaluate(graph, inputs)[graph.output], drop_told(graph, ASSOCIATIVE)
    evaluator = Evaluator(form, numbers, promises="ignore")
    advance = jax.jit(evaluator.advance) if numbers.traced else evaluator.advance
    moment = evaluator.start((2,))
    for t in range(12):
        values, moment = advance(moment, [numbers.given(x[:, t]) for x in inputs])
        np.testing.assert_array_equal(np.asarray(values[form.output], float), whole[:, t])


def test_targets_that_recall_nothing_read_the_words_of_cells():
    graph, _ = small()
    kinds = [
        {type(node.op) for node in drop_told(graph, able).nodes}
        for able in (registry.find("mamba").capabilities, ASSOCIATIVE)
    ]
    assert ops.Read not in kinds[0] | kinds[1]
    assert ops.Recall in kinds[1] and ops.Recall not in kinds[0]


@pytest.mark.parametrize(("far", "recalled"), [(2**20, True), (2**22, False)])
def test_addresses_too_far_for_one_level_are_looked_up_in_cells(far, recalled):
    """Hats over them would add up more than float32 holds."""

    @lsrl.program
    def sparse(at: lsrl.Token(4), wanted: lsrl.Token(4)):
        places = [[0], [39], [far - 1], [far]]
        memory = lsrl.memory(lsrl.lookup(at, places), at, segments=[(0, 40), (far, far + 40)])
        return memory.read(lsrl.lookup(wanted, places))

    graph = Pipeline().legalise(Pipeline().simplify(sparse.graph), ASSOCIATIVE)
    assert recalled == any(isinstance(graph.nodes[i].op, ops.Recall) for i in graph.live())
    assert max(graph.facts[i].magnitude.max() for i in graph.live()) < 2**24
    tokens = np.random.default_rng(0).integers(0, 4, (2, 2, 100))
    value = evaluate(graph, [*tokens], theorems=True)[graph.output]
    np.testing.assert_array_equal(value, sparse.run(*tokens))


def test_keys_of_a_recall_are_read_off_few_signals():
    """What is known of a token would be a table with a column a cell, each a channel."""
    cells = 150

    @lsrl.program
    def pairs(token: lsrl.Token(2 * cells)):
        key = lsrl.lookup(token, [*range(cells), *range(cells)])
        second = lsrl.lookup(token, [0] * cells + [1] * cells)
        return lsrl.memory(lsrl.delay(key), key, second, cells=cells).read(key, when=1 - second)

    graph = Pipeline().legalise(Pipeline().simplify(pairs.graph), ASSOCIATIVE)
    made = [n for n in graph.nodes if not isinstance(n.op, ops.Affine | ops.Recall)]
    assert sum(node.width for node in made) < cells
    (recall,) = (n for n in graph.nodes if isinstance(n.op, ops.Recall))
    assert graph.nodes[recall.operands[0]].width == cells
    tokens = np.random.default_rng(0).integers(0, 2 * cells, (2, 300)) % 20 * 15
    value = evaluate(graph, [tokens], theorems=True)[graph.output]
    np.testing.assert_array_equal(value, pairs.run(tokens))


def test_words_that_a_memory_does_not_hold_break_the_theorem():
    graph, inputs = small()
    (place,) = (i for i, node in enumerate(graph.nodes) if isinstance(node.op, ops.Read))
    nodes, node = list(graph.nodes), graph.nodes[place]
    half = Matrix.diagonal([1.0, 0.5])
    nodes[place] = replace(node, op=ops.Affine((half,), (0.0, 0.0)), operands=node.operands[-1:])
    nodes.append(replace(node, operands=(*node.operands[:-1], place)))
    facts = (*graph.facts, graph.facts[place])
    wrong = Graph(tuple(nodes), len(nodes) - 1, facts, graph.tokens)
    with pytest.raises(TheoremError, match=r"memory.read\(wanted, .*is what its memory holds"):
        evaluate(wrong, inputs)


def test_what_real_numbers_decide_is_recalled_and_they_are_not():
    """To write a cell anew takes a difference, which rounds real numbers; of flags it does not."""
    real = lsrl.Vector(1, low=-1, high=1, step=2.0**-80)
    able = registry.find("griffin").capabilities
    able = replace(able, native=able.native | {ops.Recall})

    def legal(write):
        @lsrl.program
        def table(at: lsrl.Vector(1, low=0, high=3, step=1), value: real):
            return lsrl.memory(at, write(value), cells=4).read(at)

        graph = Pipeline().legalise(Pipeline().simplify(table.graph), able)
        walk = Walk(graph, graph.trail, numerics_of("float32"), graph.tokens)
        walk.go()
        known, found = know(walk), [type(graph.nodes[i].op) for i in graph.live()]
        return ops.Recall in found, known.of(graph.output).tolist()

    flag = functools.partial(lsrl.greater_equal, y=0, ramp=2.0**-20)
    assert legal(flag) == (True, [Kind.DECIDED])
    assert legal(lambda value: value) == (False, [Kind.REAL])


def test_at_most_one_cell_is_written_and_inference_sees_it():
    """By the row and the column together, since no two cells have both."""

    @lsrl.program
    def table(at: lsrl.Vector(1, low=0, high=99, step=1), x: lsrl.Vector(1, low=0, high=9, step=1)):
        memory = lsrl.memory(at, x, cells=90)
        return lsrl.select(memory.written, 7, 0).sum() + memory.read(at)

    graph = table.graph
    assert not any(
        isinstance(node.op, ops.Bound) and node.op.exclusive and node.width == 90
        for node in graph.nodes
    )
    assert graph.facts[graph.output].high[0] == 7 + 9


def test_crossings_are_the_same_in_every_signal():
    """What is on at one crossing is, whatever other crossings the signals have beside it."""
    unit = np.eye(3)

    @lsrl.program(max_length=4)
    def two_at_once(row: lsrl.Token(3), column: lsrl.Token(3)):
        rows, columns = lsrl.one_hot(row, 3), lsrl.one_hot(column, 3)
        first, second = (
            lsrl.relu(np.repeat(unit[some], 2, axis=0) @ rows + unit[some * 2] @ columns - 1)
            for some in ([0, 1], [1, 2])
        )
        return lsrl.concat(first[3], second[0]).sum()

    graph = two_at_once.graph
    assert graph.facts[graph.output].high[0] == 2
    assert not graph.facts[graph.nodes[graph.output].operands[0]].exclusive
    both = np.array([0, 1, 2, 1])
    np.testing.assert_array_equal(two_at_once.run(both, both)[:, 0], [0, 2, 0, 2])


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=9))
def test_crossings_tell_apart_what_a_row_or_a_column_does(places):
    rows, columns = np.array(places).T
    found = dict(together((("row", rows), ("column", columns))))
    assert (found["row"] == rows).all() and (found["column"] == columns).all()
    members = found.get(("both", "row", "column"), np.full(len(rows), -1))
    for (i, mine), (j, its) in itertools.product(enumerate(places), repeat=2):
        if min(members[i], members[j]) >= 0:
            assert min(*mine, *its) >= 0
            assert (members[i] == members[j]) == (mine == its)
    known = {place for place in places if min(place) >= 0}
    more = max(len({row for row, _ in known}), len({column for _, column in known}))
    assert (members >= 0).any() == (len(known) > more)


@pytest.mark.parametrize("target", studied(TARGETS, "lstm", "mamba"))
def test_a_memory_is_exact_on_every_target(target):
    @lsrl.program(max_length=2**31)
    def table(
        bus: lsrl.Vector(3, low=(-8, -99, -198), high=(40, 99, 198), step=1),
        wanted: lsrl.Vector(1, low=-8, high=40, step=1),
    ):
        segments = ((0, 20), (26, 40))
        memory = lsrl.memory(bus[0], bus[1], change=bus[2], segments=segments, words=2)
        return memory.read(wanted, 2)

    rng, cells = np.random.default_rng(0), dict.fromkeys([*range(20), *range(26, 40)], 0)
    rows, expected, wanted = [], [], rng.integers(-8, 41, (80, 1))
    for t in range(80):
        at, value = int(rng.integers(-8, 41)), int(rng.integers(-99, 100))
        rows.append((at, value, value - cells.get(at, 0)))
        if at in cells:
            cells[at] = value
        expected.append([cells.get(int(wanted[t, 0]) + k, 0) for k in range(2)])
    model = lsrl.compile(table, target)
    assert model.certificate.exact and model.certificate.tokens is None
    np.testing.assert_array_equal(model.run(np.array(rows), wanted), expected)
    # What passes made of it is as proven, too: which ReLUs are shut while another is open.
    inputs = [np.array(x, float)[None] for x in (rows, wanted)]
    evaluate(model.schedule.graph, inputs, theorems=True)


def test_what_a_memory_can_not_be_made_of():
    def of(**asked):
        @lsrl.program
        def table(x: lsrl.Vector(1, low=0, high=9, step=1)):
            address = asked.pop("address", x)
            return lsrl.memory(address, x, **asked).read(x)

    for asked, text in (
        ({}, "either cells or segments"),
        ({"cells": 4, "segments": ((0, 2),)}, "either cells or segments"),
        ({"cells": 0}, "cells"),
        ({"segments": ((4, 8), (0, 2))}, "ascend"),
        ({"segments": ((0, 2, 3),)}, "a pair"),
        ({"segments": ()}, "ascend"),
        ({"segments": 3}, "a pair"),
        ({"cells": 10**12}, "up to 1048576 cells"),
        ({"address": 0.5, "cells": 4}, "one integer"),
    ):
        with pytest.raises(ProgramError, match=text):
            of(**asked)
    with pytest.raises(ShapeError, match="width of value"):
        of(cells=4, change=[1, 2])


# ---------------------------------------------------------------- subleq


def drawn(rng, cells, bits):
    """Words that are mostly addresses, so that programs read, write and change themselves."""
    top = 2 ** (bits - 1)
    near = rng.integers(-1, cells + 2, cells)
    return np.where(rng.random(cells) < 0.8, near, rng.integers(-top, top, cells)).tolist()


def card(words):
    rows = np.array([(a, word, word, -1) for a, word in enumerate(words)])
    rows[-1, 3] = 0
    return rows


def interpreted(words, bits, steps):
    """The outputs, and the memory behind them."""
    memory, pc, said = dict(enumerate(words)), 0, []
    while len(said) < steps and pc >= 0:
        said.append(_carried_out(memory, pc, bits, None))
        address, value, _, pc = said[-1]
        if address in memory:
            memory[address] = value
    return said, list(memory.values())


def check_machines(model, cells, bits, count, steps, seed=0):
    rng = np.random.default_rng(seed)
    images = [drawn(rng, cells, bits) for _ in range(count)]
    run = model.loop(np.stack([card(words) for words in images]), steps=steps)
    changed = 0
    for number, words in enumerate(images):
        said, memory = interpreted(words, bits, steps)
        assert run.steps[number] == len(said)
        np.testing.assert_array_equal(run.outputs[number][: len(said)], said)
        assert run.memory[number].tolist() == memory
        changed += any(address in range(3) for address, *_ in said)
    assert changed > 1  # some wrote into the instruction that they started with


@pytest.mark.parametrize("target", studied(["linear_rnn", "gru"], "linear_rnn"))
def test_random_machines_do_what_plain_python_does(target):
    model = lsrl.compile(programs.subleq(cells=12, bits=6), target)
    assert model.certificate.exact
    check_machines(model, 12, 6, count=16, steps=60)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
def test_a_thousand_random_machines(target):
    model = lsrl.compile(programs.subleq(cells=32, bits=8), target)
    assert model.certificate.exact
    check_machines(model, 32, 8, count=1000, steps=1000)


@pytest.mark.nightly
def test_a_hundred_random_machines_of_many_cells():
    model = lsrl.compile(programs.subleq(cells=256, bits=16), "linear_rnn")
    check_machines(model, 256, 16, count=100, steps=1000)


def check_size(target, layers, io=False):
    model = lsrl.compile(programs.subleq(cells=256, bits=16, io=io), target)
    assert model.certificate.exact and model.certificate.tokens is None
    assert model.program.max_length == 2**31
    assert model.num_layers <= layers
    return model.num_nonzero_parameters


def test_a_computer_of_256_cells():
    assert check_size("linear_rnn", 13) <= 15_000


@pytest.mark.nightly
@pytest.mark.parametrize("io", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_computer_of_256_cells_on_every_target(target, io):
    weights = check_size(target, {"linear_rnn": 13 + io}.get(target, 16), io)
    assert weights <= 15_000 or target not in ("linear_rnn", "rnn")


def test_what_a_tanh_cell_lacks_for_a_computer_is_said():
    with pytest.raises(lsrl.errors.PrecisionError, match=r"gate of a tanh RNN .* float32 holds"):
        lsrl.compile(programs.subleq(cells=16, bits=16), "rnn_tanh")
