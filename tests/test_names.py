"""What signals are called, and the formulas in which they appear."""

import re

import numpy as np
import pytest

import lsrl
from lsrl.ir.formulas import Formulas, shortest
from lsrl.ir.labels import bracketed
from lsrl.program_json import program_content, program_from_json, program_to_json


@lsrl.program(max_length=64)
def contest(move: lsrl.Token(3)) -> lsrl.Token(2):
    rock = lsrl.cumsum(move == 0)
    paper = lsrl.cumsum(move == 1)
    return paper > rock


def labels(graph):
    return [graph.label(node) for node in graph.live()]


def test_a_signal_goes_by_its_expression_in_every_graph():
    program = contest.graph
    assert program.label(program.output) == "paper > rock"
    assert {"move", "rock", "paper", "move == 0", "move == 1"} <= {*labels(program)}
    model = lsrl.compile(contest, "linear_rnn")
    graph = model.schedule.graph
    assert graph.label(graph.output) == "paper > rock"
    for each in (program, graph):
        assert len({*map(each.label, range(len(each)))}) == len(each)
    own = {node: graph.label(node) for node in graph.live() if graph.nodes[node].origins}
    for node, label in own.items():
        assert label in {program.label(origin) for origin in graph.nodes[node].origins}
    # What passes make goes by what they make it for, and by no name of the program's.
    made = {*labels(graph)} - {*own.values()}
    assert made and all(re.fullmatch(r"paper > rock#\d+", label) for label in made)
    assert not made & {*map(program.label, range(len(program)))}
    held = {name for layer in model.labels for name in layer}
    assert held <= {*labels(graph)} and held <= {*model.circuit.by_name}


def test_expressions_of_all_kinds():
    @lsrl.program(max_length=8)
    def kinds(x: lsrl.Token(3)):
        total = lsrl.cumsum(x)
        total += 2 * lsrl.relu(
            x - 1,  # at least
        )
        for _ in range(2):
            total = lsrl.relu(total - 1)
        far = lsrl.relu(total - 100000000) + lsrl.relu(total - 200000000)
        return (far + 1) * 0.5 - lsrl.lookup(x, {"a": [1, 2, 3]}["a"])

    found = labels(kinds.graph)
    assert {"2 * lsrl.relu(x - 1)", "lsrl.relu(x - 1)", "far + 1"} <= {*found}
    assert {"lsrl.lookup(x, {'a': [1, 2, 3]}['a'])", "(far + 1) * 0.5"} <= {*found}
    assert "total + 2 * lsrl.relu(x - 1)" in found
    assert kinds.graph.label(kinds.graph.output) == "(far + 1) * 0.5 - lsrl.lookup(x, {'a':…"
    assert all(len(label) <= 40 + 4 for label in found)


def test_names_travel_in_files_and_change_no_cache_key(tmp_path):
    model = lsrl.compile(contest, "gru")
    model.save(tmp_path / "model.lsrl")
    loaded = lsrl.load(tmp_path / "model.lsrl")
    assert loaded.labels == model.labels
    assert loaded.circuit.to_json() == model.circuit.to_json()
    assert "paper > rock" not in repr(program_content(contest, lines=False))
    assert "paper > rock" in repr(program_content(contest, lines=True))


def test_without_the_text_a_signal_goes_by_its_op():
    content = program_to_json(contest)
    for node in content["nodes"]:  # as older files have it
        node["sources"] = [line[:2] for line in node["sources"]]
    old = program_from_json({**content, "nodes": [dict(node) for node in content["nodes"]]})
    assert re.fullmatch(r"affine#\d+", old.graph.label(old.graph.output))
    space = {"lsrl": lsrl}
    text = "@lsrl.program\ndef typed(x: lsrl.Token(2)):\n    return x + 1 > 1\n"
    exec(compile(text, "<typed>", "exec"), space)
    graph = space["typed"].graph
    assert graph.label(graph.output) == f"{graph.nodes[graph.output].op.name}#{graph.output}"


def test_the_report_has_formulas_with_weights():
    report = lsrl.compile(contest, "linear_rnn").report()
    assert "    rock = rock[t−1] + (move == 0)\n" in report
    formula = r"    paper > rock#\d = relu\(paper − rock\)   \(at this token, .*: rock, paper\)\n"
    assert re.search(formula, report), report
    assert report.index("\nlayers\n") < report.index("\nformulas\n") < report.index("\nCPU time")


@pytest.mark.parametrize(
    ("number", "text"), [(2, "2"), (-0.5, "−0.5"), (2.0**30, "1073741824"), (0.1, "0.1")]
)
def test_numbers_are_exact(number, text):
    assert shortest(number) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [("rock", "rock"), ("f(a - b)[0]", "f(a - b)[0]"), ("a-b", "(a-b)"), ("a > b#2", "(a > b#2)")],
)
def test_names_hold_together_in_formulas(name, shown):
    assert bracketed(name) == shown


def test_a_formula_is_what_the_node_computes():
    @lsrl.program(max_length=8)
    def wide(x: lsrl.Vector(8, low=0, high=1, step=1)):
        return np.arange(8.0) @ x - 3.25

    graph = lsrl.compile(wide, "gru").schedule.graph
    formulas = Formulas(graph)
    terms, bias = formulas.sum_of(graph.output, 0)
    assert sorted(terms.values()) == [*range(1, 8)] and bias == -3.25
    assert formulas.element(graph.output, 0) == (
        "x[1] + 2·x[2] + 3·x[3] + 4·x[4] + 5·x[5] + 6·x[6] + … (1 more) − 3.25"
    )
