"""Every op of the closed set has all that an op needs; what is missing is named."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import lsrl
from lsrl import support
from lsrl.backends import registry
from lsrl.errors import UnsupportedOpError
from lsrl.ir import ops
from lsrl.ir.arithmetic import Rationals
from lsrl.ir.evaluate import Intervention, evaluate
from lsrl.ir.graph import GraphBuilder
from lsrl.ir.incremental import Evaluator
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Source
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType
from lsrl.passes.pipeline import Pipeline
from lsrl.testing.random_ops import EDGE_OPS, FURTHER_OPS, OPS
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import sample_inputs

pytestmark = pytest.mark.one_in(2)

LENGTH = 6
DESIGN = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
TOKEN = lsrl.Token(2)
NUMBERS = lsrl.Vector(2, low=-2, high=3, step=1)
GATES = lsrl.Vector(2, low=0, high=1, step=1)
IDENTITY, TURN = Matrix.identity(2), Matrix.rotation(2)
ZERO, ONE = Matrix([[0], [0]]), Matrix([[1], [1]])
THREE = Matrix([[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]])


class Tiny(NamedTuple):
    """The smallest use of an op, and the edges into it that its circuit has somewhere."""

    op: ops.Op
    edges: frozenset[str]
    operands: tuple[InputType | Matrix | int, ...] = ()


def tiny(op: ops.Op, edges: str, *operands: lsrl.Token | lsrl.Vector | Matrix | int) -> Tiny:
    """Edges are told by their kinds, one after another.

    A matrix is looked up in, by a token; a number is an earlier operand.
    """
    return Tiny(op, frozenset(edges.split(", ")), operands)


TINY: dict[type[ops.Op], Tiny] = {
    type(case.op): case
    for case in (
        tiny(ops.Input(0, "x0", NUMBERS), "same step"),
        tiny(ops.Constant((1.0, 2.0)), "same step"),
        tiny(ops.Lookup(Matrix([[1, 2], [3, 5]])), "same step", TOKEN),
        tiny(ops.Periodic(Matrix([[1, 2], [3, 5], [0, 1]])), "carry"),
        tiny(ops.Affine((IDENTITY, TURN), (1.0, 0.0)), "same step", NUMBERS, NUMBERS),
        tiny(ops.Relu(), "same step", NUMBERS),
        tiny(ops.Step(1.0, 0.0), "same step", NUMBERS),
        tiny(ops.Product(), "gate, same step", GATES, NUMBERS),
        tiny(ops.Select("gate"), "gate, same step", TOKEN, NUMBERS, NUMBERS),
        tiny(ops.Delay(2, (1.0, 0.0)), "carry", NUMBERS),
        tiny(ops.Bound((-2.0, -2.0), (3.0, 3.0)), "same step", NUMBERS),
        tiny(ops.Latch((0.0, 1.0)), "carry", NUMBERS, lsrl.Token(1)),
        tiny(ops.LinearState(TURN, (1.0, 0.0)), "carry", NUMBERS),
        tiny(ops.SelectiveState((1.0, 0.0)), "carry, gate", GATES, NUMBERS),
        tiny(ops.Hold((1.0, 0.0)), "carry", NUMBERS, GATES),
        tiny(ops.ThresholdState(TURN, (1.0, 0.0)), "carry", NUMBERS),
        tiny(ops.RecurrentState(TURN, (1.0, 0.0), (0.0, 0.0), (99.0, 99.0)), "carry", NUMBERS),
        tiny(ops.RunningMax((1.0, -9.0)), "carry", NUMBERS),
        tiny(ops.SwapState(2), "carry", Matrix([[1, 1], [0, 0]]), Matrix([[2, 1], [1, 2]])),
        tiny(ops.Read(((0, 1),), (0.0, 0.0)), "same step", ZERO, NUMBERS, ONE, ZERO, ONE, 1),
        tiny(ops.Recall((0.0, 1.0) * 3), "carry", THREE, NUMBERS, THREE),
    )
}


def operand_of(builder: GraphBuilder, index: int, kind: InputType | Matrix) -> int:
    """An input of the type, or the rows of the matrix that one names."""
    if not isinstance(kind, Matrix):
        return builder.add(ops.Input(index, f"x{index}", kind))
    token = builder.add(ops.Input(index, f"x{index}", lsrl.Token(kind.rows)))
    return builder.add(ops.Lookup(kind), token)


def program_of(case: Tiny) -> lsrl.Program:
    """The op on inputs, read by an affine map, so that it is no output itself."""
    builder = GraphBuilder(LENGTH)
    first = () if isinstance(case.op, ops.Input) else (case.operands or (TOKEN,))
    read: list[int] = []
    for index, kind in enumerate(first):
        read.append(read[kind] if isinstance(kind, int) else operand_of(builder, index, kind))
    node = builder.add(case.op, *read[: len(case.operands)])
    builder.describe(node, ["made"], [Source("tiny.py", 1)])
    two = Matrix.diagonal([2.0, 2.0])
    others = [
        builder.add(ops.Affine((Matrix(np.ones((2, builder.nodes[i].width))),), (0.0, 0.0)), i)
        for i in dict.fromkeys(read)
    ]
    output = builder.add(ops.Affine((two, *[IDENTITY] * len(others)), (1.0, 0.0)), node, *others)
    return lsrl.Program("tiny", builder.build(output), LENGTH, None)


def node_of(program: lsrl.Program, kind: type[ops.Op]) -> int:
    """The node of the op."""
    return next(i for i, node in enumerate(program.graph.nodes) if "made" in node.names)


@cache
def op_types_written() -> set[type[ops.Op]]:
    """What is in random programs, as written and as some target has them."""
    found: set[type[ops.Op]] = set()
    for name in (*OPS, *EDGE_OPS, *FURTHER_OPS):
        for seed in range(2):
            graph = random_program(seed, [name], depth=2, width=3, max_length=LENGTH).graph
            found |= {type(node.op) for node in graph.nodes}
            if name in ("hold", "memory"):
                able = registry.find("mamba").capabilities
                able = replace(able, native=able.native | {ops.Recall})
                graph = Pipeline().legalise(graph, able)
                found |= {type(node.op) for node in graph.nodes}
    return found


# ---------------------------------------------------------------- one check a column


def has_facts(kind: type[ops.Op], program: lsrl.Program) -> None:
    assert "infer" in vars(kind), "`infer`"
    node = node_of(program, kind)
    inputs = sample_inputs(program.inputs, 4, LENGTH, 0)
    values = evaluate(program.graph, inputs, exact=True, wanted=[node])[node]
    assert not program.graph.facts[node].violations(values).any(), "true facts (`infer`)"


def has_sums(kind: type[ops.Op], program: lsrl.Program) -> None:
    assert "sums" in vars(kind), "`sums`, or sums = adds_nothing"
    node = program.graph.nodes[node_of(program, kind)]
    sums = node.op.sums([program.graph.facts[i] for i in node.operands], LENGTH)
    assert sums.magnitude.shape == sums.grid.shape == (node.width,), "`sums` of its width"


def has_one_meaning(kind: type[ops.Op], program: lsrl.Program) -> None:
    """On whole sequences and token by token, with and without an intervention."""
    node, graph = node_of(program, kind), program.graph
    inputs = sample_inputs(program.inputs, 4, LENGTH, 0)
    at = np.zeros((4, LENGTH, graph.nodes[node].width), dtype=bool)
    at[:, 2] = True
    for given in (None, {node: Intervention(at, at * 1.0)}):
        whole = evaluate(
            graph, inputs, exact=True, wanted=[node, graph.output], interventions=given
        )
        evaluator = Evaluator[Array](graph, Rationals(), wanted=[node, graph.output])
        moment = evaluator.start((4,))
        for t in range(LENGTH):
            now = given and {node: Intervention(at[:, t], at[:, t] * 1.0)}
            values, moment = evaluator.advance(moment, [x[:, t] for x in inputs], now)
            for i in (node, graph.output):
                assert (values[i] == whole[i][:, t]).all(), "`advance` that equals `evaluate`"
        if given:
            assert (whole[node][:, 2] == 1).all(), "an intervention"
            assert np.array(
                evaluate(graph, inputs, exact=True)[graph.output] != whole[graph.output]
            ).any(), "an intervention that its readers see"


def has_its_place_in_random_programs(kind: type[ops.Op], program: lsrl.Program) -> None:
    assert kind in op_types_written(), "its place in lsrl/testing/random_programs.py"


def has_a_lowering_or_a_refusal(kind: type[ops.Op], program: lsrl.Program) -> None:
    for name in registry.names():
        backend, pipeline = registry.find(name), Pipeline()
        graph = pipeline.simplify(program.graph)
        offending = support.offending(graph, backend)
        if offending:
            assert all(len(reason) > 20 for _, reason in offending), f"a reason on {name}"
            continue
        graph = pipeline.legalise(graph, backend.capabilities)
        left = {type(graph.nodes[i].op) for i in graph.live()} - backend.capabilities.native
        assert not left, f"a lowering on {name}, or a refusal with a reason"


def has_a_network_that_tells_it(kind: type[ops.Op], program: lsrl.Program, path: Path) -> None:
    """Compiled where some target holds it: explained, drawn and stored."""
    able = [
        name
        for name in ("gated_linear_rnn", "lstm", "mamba", "deltanet")
        if not support.offending(Pipeline().simplify(program.graph), registry.find(name))
    ]
    assert able, "a target that holds it"
    explained = lsrl.explain(program, able[0])
    assert explained.answer != "no", "an answer of `lsrl.explain`"
    assert explained.reason, "a reason in `lsrl.explain`"
    model = lsrl.compile(program, able[0])
    edges = {edge.kind for edge in model.circuit.edges}
    assert TINY[kind].edges <= edges, f"edges of its kind in a circuit, which has {edges}"
    model.save(path)
    stored = lsrl.load(path).program.graph.nodes
    assert any(node.op == TINY[kind].op for node in stored), "a round trip through storage"


def has_words(kind: type[ops.Op], program: lsrl.Program) -> None:
    assert kind.__doc__, "a docstring"
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "a docstring"
    row = re.search(rf"^\| `{kind.__name__}` \| (.+?) \|", DESIGN, re.MULTILINE)
    assert row, "a row in the table of ops in docs/design.md"
    for name in re.findall(r"`lsrl\.(\w+)", row[1]):
        assert getattr(lsrl, name).__doc__, f"a docstring of lsrl.{name}"
    assert "`" in row[1], "how programs write it, in docs/design.md"


COLUMNS: tuple[Callable[[type[ops.Op], lsrl.Program], None], ...] = (
    has_facts,
    has_sums,
    has_one_meaning,
    has_its_place_in_random_programs,
    has_a_lowering_or_a_refusal,
    has_words,
)


@pytest.mark.parametrize("kind", ops.ALL_OPS, ids=lambda kind: kind.__name__)
def test_an_op_has_all_that_an_op_needs(kind, tmp_path):
    assert kind in TINY, f"{kind.__name__} lacks its smallest use in TINY"
    program, missing = program_of(TINY[kind]), []
    for column in (*COLUMNS, lambda k, p: has_a_network_that_tells_it(k, p, tmp_path / "m")):
        try:
            column(kind, program)
        except (AssertionError, UnsupportedOpError, NotImplementedError) as error:
            missing.append(str(error).splitlines()[0])
    assert not missing, f"{kind.__name__} lacks {'; '.join(missing)}"


def test_what_an_op_lacks_is_named(monkeypatch):
    """As if one had been added in haste."""
    monkeypatch.delattr(ops.Relu, "sums")
    with pytest.raises(AssertionError, match="adds_nothing"):
        has_sums(ops.Relu, program_of(TINY[ops.Relu]))
    monkeypatch.setattr(ops.Delay, "resumed", lambda self, memory, value: (memory[0] * 0,))
    with pytest.raises(AssertionError, match="`advance` that equals `evaluate`"):
        has_one_meaning(ops.Delay, program_of(TINY[ops.Delay]))
