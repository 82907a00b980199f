"""Scores of claims against circuits, and the reference methods."""

import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

import lsrl
from lsrl import errors, programs
from lsrl.interpret import Edge, Leaderboard, activations, benchmark, capture
from lsrl.interpret.faithfulness import Ablation, faithfulness
from lsrl.interpret.interventions import wiring_of
from lsrl.interpret.laboratory import Laboratory
from lsrl.interpret.method_scores import (
    MethodScore,
    from_csv,
    interval,
    to_csv,
    to_markdown,
    transparent,
)
from lsrl.interpret.methods import Case, evaluate_methods
from lsrl.interpret.score import (
    EdgeClaim,
    NodeClaim,
    ProbeClaim,
    Readout,
    score,
    score_probes,
    true_edges,
    true_nodes,
)
from lsrl.interpret.truth import CONSTANT, Truth, equivalence_classes
from lsrl.interpret.variants import padded, random_sampler, rotated
from tests.grids import studied

pytestmark = pytest.mark.one_in(5)

pytest.importorskip("sklearn")
TARGETS = [target.name for target in lsrl.targets()]
LEVELS = ("signals", "units")


@cache
def compiled(target, name="dyck1"):
    entry = programs.catalogue()[name]
    return lsrl.compile(entry.program(**entry.parameters[0]), target, inspectable=True)


# Of dyck1, by the expressions that made them.
TURN, NOT_BELOW, HEIGHT = "1 - 2 * bracket", "height < 0#3", "lsrl.relu(height)"
LAST = "lsrl.relu(1 - lsrl.relu(height) -…"


def brackets(count=12, time=10, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (count, time))


@cache
def classes_of(target):
    model = compiled(target)
    return equivalence_classes(model.circuit, capture(model, brackets(16), on="evaluator"))


# ---------------------------------------------------------------- the truth


@pytest.mark.parametrize("target", TARGETS)
def test_the_truth_scores_one(target):
    circuit, classes = compiled(target).circuit, classes_of(target)
    for grouped in (classes, None):
        truth = Truth(circuit, grouped)
        for level in LEVELS:
            found = score(circuit, true_edges(truth, level), classes=grouped, threshold=0.5)
            assert 0 < found.positives < found.candidates
            assert (found.roc_auc, found.pr_auc) == (1.0, 1.0)
            assert (found.precision, found.recall) == (1.0, 1.0)
            nodes = score(circuit, true_nodes(truth, level), classes=grouped, threshold=0.5)
            assert (nodes.precision, nodes.recall) == (1.0, 1.0)
            assert nodes.roc_auc in (1.0, None)


def test_edges_of_signals_are_those_of_the_program():
    truth = Truth(compiled("lstm").circuit, classes_of("lstm"))
    names = {number: set(found) for number, found in truth.signals.items()}
    # bracket and its ±1 are one: the one is an affine map of the other.
    assert {"bracket", TURN} in names.values()
    edges = {
        (min(names[s]), "output" if t == "output" else min(names[t]))
        for (s, t), true in truth.signal_edges.items()
        if true
    }
    assert edges == {
        (TURN, "height"),
        ("height", HEIGHT),
        ("height", NOT_BELOW),
        (HEIGHT, LAST),
        (NOT_BELOW, "times_below"),
        ("times_below", LAST),
        (LAST, "output"),
    }


@pytest.mark.parametrize("target", ["linear_rnn", "rnn"])
def test_edges_of_units_are_the_weights(target):
    # Given a network without gates and without constants, an edge is a weight that is not zero.
    model = compiled(target)
    truth = Truth(model.circuit)
    arrays = model.module.parameter_arrays()
    stem = "layers.{}.input_kernel" if target == "linear_rnn" else "cells.{}.dense_i.kernel"
    for layer in range(len(truth.groups) - 1):
        kernel = arrays[stem.format(layer)] != 0
        here, there = ([g.units for g in truth.groups[k]] for k in (layer, layer + 1))
        read = np.array([[kernel[np.ix_(a, b)].any() for b in there] for a in here])
        np.testing.assert_array_equal(truth.forward[layer], read & ~truth.same(layer))


def test_what_is_read_no_more_is_not_true():
    # The stream still holds what no later layer reads.
    truth = Truth(compiled("mamba").circuit)
    held = [{name for g in groups for name in g.signals} for groups in truth.groups]
    last = dict(
        zip((min(g.signals) for g in truth.groups[-1]), truth.relevant[-1].tolist(), strict=True)
    )
    assert "height" in held[-1]
    assert not last["height"]
    assert last[LAST]
    assert truth.relevant[1][[min(g.signals) for g in truth.groups[1]].index("height")]


def test_distractors_are_not_true():
    # Given `height` unrelated to the first output, and a second output that reads it.
    circuit = compiled("rnn").circuit
    channels = tuple(
        dataclasses.replace(channel, role="distractor") if channel.signal == "height" else channel
        for channel in circuit.channels
    )
    head = tuple(
        Edge(name, 0, "output", 1, "same step", 0, 1.0) for name in ("height", "times_below")
    )
    truth = Truth(dataclasses.replace(circuit, channels=channels, edges=circuit.edges + head))
    # Then nothing that touches it is true, and what the second output reads is no edge either.
    true = {
        (truth.signals[s][0], "output" if t == "output" else truth.signals[t][0])
        for (s, t), value in truth.signal_edges.items()
        if value
    }
    before = {(s, t) for s, t in circuit.signal_edges() if "height" not in (s, t)}
    assert true == before
    assert not true_nodes(truth, "signals").signals["height"]
    for layer, groups in enumerate(truth.groups):
        held = ["height" in group.signals for group in groups]
        assert not truth.forward[layer][held].any()
        assert not truth.relevant[layer][held].any()
        if layer:
            assert not truth.forward[layer - 1][:, held].any()
    read = truth.forward[-1][:, 0]
    names = {
        n for group, true in zip(truth.groups[-1], read, strict=True) for n in group.signals if true
    }
    assert names == {s for s, t in before if t == "output"}


# ---------------------------------------------------------------- classes


def test_equivalence_classes_merge_what_is_affine():
    circuit = compiled("lstm").circuit
    rng = np.random.default_rng(0)
    values = {signal.name: rng.standard_normal((8, 9, 1)) for signal in circuit.signals}
    values["height"] = 3 - 2 * values["bracket"]
    values[HEIGHT] = np.full((8, 9, 1), 7.0)
    values[LAST] = np.full((8, 9, 1), np.nan)  # as capture tells what no channel holds
    values["times_below"] = values[NOT_BELOW].copy()
    values["times_below"][3, 4] += 0.01  # one token tells them apart
    found = equivalence_classes(circuit, values)
    assert found.merged() == [("bracket", "height")]
    assert found.signals[HEIGHT] == found.signals[LAST] == CONSTANT
    assert found.signals["times_below"] != found.signals[NOT_BELOW]


def test_equivalence_classes_of_vectors():
    model = compiled("lstm", "counting_sort")
    values = capture(model, np.random.default_rng(0).integers(0, 3, (16, 8)), on="evaluator")
    wide = [signal.name for signal in model.circuit.signals if signal.width > 1]
    first, second = wide[:2]
    width = values[first].shape[-1]
    rng = np.random.default_rng(0)
    values[first] = rng.standard_normal((16, 8, width))
    values[second] = values[first] @ rng.standard_normal((width, width)) + 1
    found = equivalence_classes(model.circuit, values)
    assert found.signals[first] == found.signals[second] != CONSTANT
    # Elements of the two are mixed, so none equals another.
    pairs = [found.elements[name, k] for name in (first, second) for k in range(width)]
    assert len(set(pairs)) == len(pairs)
    values[second][..., 0] = values[second][..., 1]  # so one can't be worked out of the other
    again = equivalence_classes(model.circuit, values)
    assert again.signals[first] != again.signals[second]


def test_a_claim_about_an_alias_is_as_good():
    circuit, classes = compiled("lstm").circuit, classes_of("lstm")
    claim = true_edges(Truth(circuit, classes), "signals")
    swapped = {
        tuple({"bracket": TURN}.get(name, name) for name in pair): value
        for pair, value in claim.signals.items()
    }
    assert swapped.keys() != claim.signals.keys()
    assert score(circuit, EdgeClaim(signals=swapped), classes=classes).roc_auc == 1.0
    # Without the classes, a program that looks its input up holds the table and not the token.
    alone = {"bracket": 1.0, "height": 1.0, TURN: 0.0}
    nodes = NodeClaim(signals=alone)
    assert score(circuit, nodes, classes=classes).precision == 1.0
    assert score(circuit, nodes, threshold=0.5).precision == 0.5


# ---------------------------------------------------------------- other claims


@pytest.mark.parametrize("level", LEVELS)
def test_random_claims_score_a_half(level):
    circuit = compiled("lstm").circuit
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(100):
        if level == "signals":
            pairs = true_edges(Truth(circuit), level).signals
            claim = EdgeClaim(signals={pair: rng.random() for pair in pairs})
        else:
            shapes = zip(circuit.units, [*circuit.units[1:], 1], strict=True)
            loops = [rng.random((n, n)) for n in circuit.units]
            claim = EdgeClaim(forward=[rng.random(shape) for shape in shapes], recurrent=loops)
        areas.append(score(circuit, claim).roc_auc)
    error = np.std(areas) / np.sqrt(len(areas))
    assert abs(np.mean(areas) - 0.5) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize("level", LEVELS)
def test_half_of_the_edges_have_a_recall_of_a_half(level):
    circuit = compiled("linear_rnn").circuit
    claim = true_edges(Truth(circuit), level)
    if level == "signals":
        true = [pair for pair, value in claim.signals.items() if value]
        assert len(true) % 2 == 0
        half = EdgeClaim(signals=dict.fromkeys(true[::2], 1.0))
    else:
        places = [(k, *at) for k, array in enumerate(claim.forward) for at in np.argwhere(array)]
        loops = [np.where(np.eye(len(array)), 0, array) for array in claim.recurrent]
        places = [place for place in places if not any(array.any() for array in loops)]
        assert len(places) % 2 == 0
        for layer, row, column in places[::2]:
            claim.forward[layer][row, column] = 0.0
        half = claim
    found = score(circuit, half, threshold=0.5)
    assert found.recall == 0.5
    assert found.precision == 1.0


def test_the_worst_claim_scores_zero():
    circuit = compiled("gru").circuit
    claim = true_edges(Truth(circuit), "signals")
    assert score(circuit, EdgeClaim(signals={p: -v for p, v in claim.signals.items()})).roc_auc == 0
    nothing = score(circuit, EdgeClaim(signals={}), threshold=0.5)
    assert (nothing.precision, nothing.recall, nothing.roc_auc) == (1.0, 0.0, 0.5)


# ---------------------------------------------------------------- faithfulness


@pytest.mark.parametrize("target", studied(["linear_rnn", "lstm", "griffin"], "linear_rnn"))
def test_the_truth_is_faithful_and_less_is_not(target):
    model, classes = compiled(target), classes_of(target)
    truth, inputs = Truth(model.circuit, classes), [brackets()]
    for level in LEVELS:
        for claim in (true_edges(truth, level), true_nodes(truth, level)):
            assert faithfulness(model, claim, inputs, threshold=0.5, classes=classes) == 1.0
            assert faithfulness(model, claim, inputs, threshold=1.5, classes=classes) < 1.0
        # Without any single one of its edges the claim is not faithful.
        if level == "signals":
            edges = true_edges(truth, level).signals
            for pair in [pair for pair, value in edges.items() if value]:
                claim = EdgeClaim(signals={**edges, pair: 0.0})
                share = faithfulness(model, claim, inputs, threshold=0.5, classes=classes)
                assert share < 1.0, pair


@pytest.mark.studies
@pytest.mark.parametrize(("make", "target"), [(padded, "gru"), (rotated, "mamba")])
def test_the_truth_of_variants_scores_one(make, target):
    # Whether half of the units are distractors, or units hold several signals each.
    model = make(compiled(target, "undo_flip_flop"))
    inputs = [array[:8, :8] for array in random_sampler(model.program)(8, 0)]
    truth = Truth(model.circuit)
    for level in LEVELS:
        edges, nodes = true_edges(truth, level), true_nodes(truth, level)
        for claim in (edges, nodes):
            found = score(model.circuit, claim, threshold=0.5)
            assert (found.precision, found.recall) == (1.0, 1.0)
            assert faithfulness(model, claim, inputs, threshold=0.5) == 1.0
    if make is padded:
        assert score(model.circuit, nodes).positives < score(model.circuit, nodes).candidates / 2
        names = {name for group in truth.groups[-1] for name in group.signals}
        assert truth.distractors & names


# ---------------------------------------------------------------- the network under the methods


@pytest.mark.parametrize("target", studied(["gru", "griffin"], "gru"))
def test_layers_make_what_they_made(target):
    # Given all hooks as they are, when layers make theirs again, then nothing changes.
    model, inputs = compiled(target), [brackets()]
    wiring = wiring_of(model)
    outputs, hooks = wiring.hold(inputs)
    plain, seen = wiring.run(inputs, hooks=True)
    np.testing.assert_array_equal(outputs, plain)
    for layer, hook in enumerate(seen):
        np.testing.assert_array_equal(hooks[layer, ..., : hook.shape[-1]], hook)
    again, made = wiring.hold(inputs, hooks)
    np.testing.assert_array_equal(again, outputs)
    np.testing.assert_array_equal(made, hooks)
    # When one layer's is another's, then only that which reads it changes.
    changed = hooks.copy()
    changed[1] = hooks[1, ::-1]
    _, made = wiring.hold(inputs, changed)
    different = [bool((made[k] != hooks[k]).any()) for k in range(len(hooks))]
    assert different[2]
    assert different[3:] == [False] * (len(hooks) - 3)


@pytest.mark.parametrize("target", studied(["gru", "mamba", "griffin"], "gru"))
def test_what_is_passed_on_is_found_without_running_it(target, monkeypatch):
    model, inputs = compiled(target), [brackets()]
    wiring = wiring_of(model)
    passed = wiring.passed_on
    assert passed[1:].any() == (target != "gru") and not passed[0].any()
    # Whatever hooks are, layers make of these what they are given.
    _, hooks = wiring.hold(inputs)
    hooks += np.random.default_rng(0).integers(0, 4, hooks.shape)
    hooks = hooks.astype(np.float32).astype(float)
    _, made = wiring.hold(inputs, hooks)
    before = np.concatenate([made[:1], hooks[:-1]])
    for layer, entries in enumerate(passed):
        np.testing.assert_array_equal(made[layer][..., entries], before[layer][..., entries])
    # Edges of gradients, and faithfulness, are what they are when all of it runs.
    truth = Truth(model.circuit, classes_of(target))

    def found():
        effects = Laboratory(model, inputs).effects("integrated")
        ablation = Ablation(model, truth, inputs)
        edges, nodes = effects.claims(model.circuit, "units")
        level = np.median(np.concatenate([x[x > 0] for x in edges.forward]))
        return effects, [ablation.share(claim, level) for claim in (edges, nodes)]

    effects, shares = found()
    monkeypatch.setattr(wiring, "passed_on", np.zeros_like(passed))
    again, whole = found()
    assert shares == whole
    for one, other in zip(effects.forward, again.forward, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-12)
    for one, other in zip(effects.recurrent, again.recurrent, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-12)


def test_gradients_of_a_linear_network_are_its_weights():
    model, inputs = compiled("linear_rnn", "counter_mod"), [brackets(3, 5)]
    wiring = wiring_of(model)
    _, hooks = wiring.hold(inputs)
    with model.device_mode():
        prepared = wiring.prepared(inputs)
        total = jax.jit(jax.grad(lambda shifts: wiring.shifted(prepared, shifts)[0].sum()))
        gradient = total(np.zeros(hooks.shape, np.float32))
    kernel = model.module.parameter_arrays()["output_kernel"][:, 0]
    last = np.asarray(gradient)[-1, :, -1, : len(kernel)]
    np.testing.assert_array_equal(last, np.broadcast_to(kernel, last.shape))


# ---------------------------------------------------------------- methods


def sampler(sequences, seed):
    return [brackets(sequences, 10, seed)]


@pytest.fixture(scope="module")
def rows():
    case = Case("dyck1", "gru", "plain", compiled("gru"), sampler)
    return evaluate_methods([case])


@pytest.mark.studies
def test_methods_on_a_plain_network(rows):
    found = {(row.method, row.kind, row.level): row for row in rows}
    for method in ("weights", "zero", "resample"):
        for level in LEVELS:
            assert found[method, "edges", level].roc_auc == 1.0
        assert found[method, "edges", "units"].faithfulness == 1.0
    # Comparisons of this cell are saturated: most gradients are exactly zero.
    attributed = found["attribution", "edges", "units"]
    assert attributed.zero_gradients > 0.5
    assert attributed.roc_auc < 1.0
    assert attributed.infinite_gradients == 0
    assert found["probes", "probes", "signals"].r2 > 0.99
    assert found["probes", "probes", "signals"].roc_auc == 1.0
    assert found["random", "edges", "units"].roc_auc < 0.9


@pytest.mark.studies
def test_a_network_that_reads_no_input():
    # The input map of this one makes nothing at all.
    model = compiled("lstm", "counter_mod")
    assert model.circuit.units[0] == 0
    tokens = np.zeros((4, 6), int)
    edges, _ = Laboratory(model, [tokens]).effects("weights").claims(model.circuit, "units")
    assert score(model.circuit, edges).roc_auc == 1.0


@pytest.mark.studies
def test_reports(rows):
    assert transparent(rows) == {("gru", "plain"): True}
    lines = to_csv(rows).splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[0].startswith("program,target,variant,method,kind,level,")
    again = from_csv(to_csv(rows))
    assert to_csv(again) == to_csv(rows)
    assert again[0].positives == rows[0].positives
    assert "| weights | 1.00 (1.00–1.00) |" in to_markdown(rows)


@pytest.mark.studies
def test_a_method_of_ones_own_stands_beside_the_references(tmp_path):
    asked = []

    def oracle(model, inputs):
        """Knows the truth of edges, reads a signal off where it is, and knows nothing of nodes."""
        asked.append([x.shape for x in inputs])
        truth = Truth(model.circuit)
        held = activations(model, *inputs)
        channel = model.circuit.channels_of("height")[0]
        fitted = held[channel.layer].reshape(-1, held[channel.layer].shape[-1])
        wanted = capture(model, *inputs, on="evaluator")["height"].reshape(-1, 1)
        weights = np.linalg.lstsq(np.c_[fitted, np.ones(len(fitted))], wanted)[0]
        readout = Readout(channel.layer, weights[:-1], weights[-1])
        blind = NodeClaim(units=[np.zeros(count) for count in model.circuit.units])
        return [true_edges(truth, "units"), ProbeClaim({"height": readout}), blind]

    case = Case("dyck1", "gru", "plain", compiled("gru"), sampler)
    board = benchmark(oracle, [case, compiled("linear_rnn")], baselines=["random"])
    assert asked[0] == [(16, 10)]
    best = {what: method for what, method, *_ in reversed(board.standings())}
    assert best["which unit reads which"] == "oracle"
    own = {row.kind: row for row in board.rows if row.method == "oracle" and row.target == "gru"}
    assert own["edges"].roc_auc == own["edges"].faithfulness == 1.0
    assert own["probes"].r2 > 0.99
    assert own["nodes"].roc_auc is None  # the outputs depend on every unit
    board.save(tmp_path / "board.html")
    page = (tmp_path / "board.html").read_text()
    assert page.count("oracle") == 3
    assert "oracle" in str(board)
    assert len(board.rows) == 2 * (3 + 2)


@pytest.mark.studies
def test_references_are_scored_on_the_same_claims_about_the_same_models():
    """A rotated stream's units are asked for, too, where the method claims them."""

    def by_size(model, inputs):
        held = activations(model, *inputs)
        return NodeClaim(units=[abs(x).mean(axis=(0, 1)) for x in held])

    plain = compiled("mamba")
    cases = [
        Case("dyck1", "mamba", variant, model, sampler)
        for variant, model in (("plain", plain), ("rotated", rotated(plain, seed=1)))
    ]
    board = benchmark(by_size, cases, baselines=["weights", "random"], faithful=False)
    assert {(row.kind, row.level) for row in board.rows} == {("nodes", "units")}
    assert {(s.method, s.models, s.tried) for s in board.standings()} == {
        ("by_size", 2, 2), ("weights", 2, 2), ("random", 2, 2),
    }  # fmt: skip


def test_methods_are_compared_on_the_models_that_all_were_tried_on():
    def row(method, variant, area, kind="nodes"):
        return MethodScore("dyck1", "mamba", variant, method, kind, "units", roc_auc=area)

    board = Leaderboard(
        (
            row("a", "plain", 0.9), row("a", "rotated", 0.1), row("b", "plain", 0.8),
            row("a", "plain", 0.9, "edges"), row("b", "rotated", 0.8, "edges"),
        )
    )  # fmt: skip
    edges, nodes = board.standings()[:2], board.standings()[2:]
    assert [(s.method, s.models, s.tried, s.roc_auc.mean) for s in nodes] == [
        ("a", 1, 2, 0.9), ("b", 1, 1, 0.8),
    ]  # fmt: skip
    assert [(s.method, s.models, s.tried, s.roc_auc) for s in edges] == [
        ("a", 0, 1, None), ("b", 0, 1, None),
    ]  # fmt: skip
    assert "1 of 2" in str(board) and "<td>1 of 2</td>" in board._repr_html_()
    assert "which signal" not in str(board)


def test_what_is_no_claim_is_told():
    case = Case("dyck1", "gru", "plain", compiled("gru"), sampler)
    with pytest.raises(errors.InputError, match=r"expected a NodeClaim.* got dict"):
        benchmark(lambda model, inputs: {}, [case], baselines=[])
    with pytest.raises(errors.InputError, match="at least one model"):
        benchmark(lambda model, inputs: {}, [])
    with pytest.raises(errors.InputError, match=r"got str; lsrl\.suite\.cases"):
        benchmark(lambda model, inputs: {}, ["dyck1"])


def test_a_variant_that_hides_its_weights_is_a_benchmark():
    rows = [
        MethodScore(name, "gru", "hidden", "weights", "edges", "units", roc_auc=area)
        for name, area in (("a", 0.95), ("b", 0.8))
    ]
    assert transparent(rows) == {("gru", "hidden"): False}


def test_intervals_are_clustered():
    rng = np.random.default_rng(0)
    means = rng.random(8)
    names = [f"program{k}" for k in range(8)]
    once = interval(means, names)
    # As many times the same tells no more.
    often = interval(np.repeat(means, 50), np.repeat(names, 50))
    assert often.mean == pytest.approx(once.mean)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert once.low < once.mean < once.high
    assert once.programs == often.programs == 8
    # Every program counts the same, however many values it has.
    assert interval([0, 0, 0, 1], ["a", "a", "a", "b"]).mean == 0.5
    assert interval([], []) is None


# ---------------------------------------------------------------- mistakes


def test_claims_that_do_not_fit():
    circuit = compiled("gru").circuit
    with pytest.raises(errors.InputError, match="did you mean height"):
        score(circuit, EdgeClaim(signals={("heigth", "output"): 1.0}))
    with pytest.raises(errors.InputError, match="one of them, not both"):
        score(circuit, NodeClaim())
    with pytest.raises(errors.InputError, match=r"one array a layer, 5 .* got 1"):
        score(circuit, NodeClaim(units=[np.zeros(2)]))
    claim = true_edges(Truth(circuit), "units")
    forward = [array[:, :-1] if k == 1 else array for k, array in enumerate(claim.forward)]
    with pytest.raises(errors.InputError, match=r"layer 1 takes the shape \(1, 3\), got \(1, 2\)"):
        score(circuit, EdgeClaim(forward=forward))
    with pytest.raises(errors.InputError, match="NaN"):
        score(circuit, NodeClaim(signals={"height": float("nan")}))
    with pytest.raises(errors.InputError, match="no values of 'bracket'"):
        equivalence_classes(circuit, {})


def test_methods_that_do_not_fit():
    model = compiled("gru")
    with pytest.raises(errors.InputError, match=r"a method must be 'weights', .* got 'magic'"):
        evaluate_methods([], ["magic"])
    with pytest.raises(errors.InputError, match="batch of two"):
        Laboratory(model, [brackets(1)])
    claim = true_nodes(Truth(model.circuit), "units")
    with pytest.raises(errors.InputError, match="batch of two"):
        faithfulness(model, claim, [brackets(1)[0]], threshold=0.5)
    _, hooks = wiring_of(model).run([brackets()], hooks=True)
    values = capture(model, brackets())
    for readout, message in (
        (Readout(9, np.zeros((1, 1)), np.zeros(1)), "no layer 9; they are 0 to 4"),
        (Readout(1, np.zeros((2, 1)), np.zeros(1)), r"takes the shape \(1, 1\), got \(2, 1\)"),
    ):
        with pytest.raises(errors.InputError, match=message):
            score_probes(model.circuit, ProbeClaim({"height": readout}), hooks, values)
