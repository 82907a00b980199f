"""Trained networks do inside what the program does, and training them is seeded and resumable."""

import dataclasses

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl import errors, programs
from lsrl.cli import app
from lsrl.interpret import capture, patch, variants
from lsrl.interpret.causal import causal_test
from lsrl.interpret.interventions import decoded, wiring_of
from lsrl.interpret.variants.fresh import AMPLITUDE, grouped
from lsrl.interpret.variants.lessons import examples
from lsrl.interpret.variants.statistics import statistics
from lsrl.interpret.variants.train import PASSES, TARGETS, Recipe, Training, trained
from lsrl.suite import training

pytestmark = pytest.mark.one_in(5)

PROGRAM = programs.catalogue()["flip_flop"].program()
RECIPE = Recipe(steps=20, batch=8, units=2, length=6, rows=64, keep=10)


@pytest.fixture(scope="module")
def compiled():
    return {target: lsrl.compile(PROGRAM, target, inspectable=True) for target in TARGETS}


def assert_same(first, second):
    """The same weights, to the bit."""
    arrays = second.module.arrays()
    for name, array in first.module.arrays().items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


class StoppedError(Exception):
    pass


def stop(*_):
    raise StoppedError


@pytest.mark.parametrize("target", TARGETS)
def test_examples_are_what_the_program_does(target, compiled):
    """Units decode to the signals' values, and the outputs are those under the interchange."""
    model = compiled[target]
    circuit = grouped(model, 3)
    assert circuit.unlabelled() == [] and list(circuit.problems()) == []
    found = examples(model, circuit, variants.random_sampler(PROGRAM, 7), 40, 1)
    again = examples(model, circuit, variants.random_sampler(PROGRAM, 7), 40, 1)
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(again)))
    assert np.abs(found.hooks).max() <= AMPLITUDE
    interchanged = set()
    for row in range(40):
        layers = list(np.moveaxis(found.hooks[row : row + 1], 2, 0))
        held = decoded(circuit, layers)
        owners = {
            channel.signal
            for channel in circuit.channels
            if circuit.makes(channel) and found.units[row, channel.layer, channel.units[0]]
        }
        inputs = [array[row : row + 1] for array in found.inputs]
        assert len(owners) == found.tokens[row].any()
        values = {name: held[name] for name in owners}
        there = patch(model, inputs, values, found.tokens[row], on="evaluator")
        np.testing.assert_array_equal(found.outputs[row], there.outputs[0])
        for name, signal in held.items():
            np.testing.assert_allclose(signal, there.signals[name], atol=1e-5, err_msg=name)
        interchanged |= owners
    owned = {signal.name for signal in model.circuit.signals if signal.owned}
    assert interchanged == owned


@pytest.mark.studies
@pytest.mark.parametrize("target", TARGETS)
def test_an_intervention_sets_the_code_and_the_memory(target, compiled):
    """A patch of a group of units is decoded as it was meant, and what remembers it changes too."""
    model = compiled[target]
    circuit = grouped(model, 3)
    network = model.module.untrained(circuit.units, 0)
    altered = model.altered(network, lsrl.model.Alteration(circuit, None))
    inputs = [np.array([[3, 0, 3, 3]])]
    (state,) = (c.signal for c in circuit.channels if c.memory)
    meant = patch(altered, inputs, {state: 2.0}, 1)
    np.testing.assert_allclose(meant.signals[state][0, 1], 2.0, atol=1e-5)
    without = capture(altered, *inputs)
    assert (meant.signals[state][0, 2:] != without[state][0, 2:]).all()
    np.testing.assert_array_equal(meant.signals[state][0, 0], without[state][0, 0])


def test_a_scan_s_entries_change_with_the_code(compiled):
    """Each entry of the scan that remembers an element takes the step that its units take."""
    model = compiled["mamba"]
    circuit = grouped(model, 3)
    altered = model.altered(
        model.module.untrained(circuit.units, 0), lsrl.model.Alteration(circuit, None)
    )
    entries, weights = wiring_of(altered).memory
    (channel,) = (c for c in circuit.channels if c.memory)
    step = np.zeros(weights.shape[1])
    step[list(channel.units)] = channel.directions
    changes = dict(zip(entries[channel.layer].tolist(), step @ weights[channel.layer], strict=True))
    for entry in channel.memory:
        assert changes[entry] == pytest.approx(channel.directions[0])


@pytest.mark.studies
def test_training_is_seeded_and_goes_on_where_it_stopped(compiled, tmp_path):
    """A file in the middle of a training gives the same network as one go does."""
    each, seen = Training(compiled["gru"], RECIPE), []
    once = each.run(3, report=seen.append).model
    assert [progress.step for progress in seen] == [10, 20]
    checkpoint = tmp_path / "half"
    with pytest.raises(StoppedError):
        each.run(3, checkpoint, stop)
    seen.clear()
    again = each.run(3, checkpoint, seen.append).model
    assert [progress.step for progress in seen] == [20]
    assert_same(once, again)
    assert once.circuit.unlabelled() == [] and list(once.circuit.problems()) == []
    assert not once.certificate.exact and "interchanges of signals" in str(once.card)
    once.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    inputs = variants.random_sampler(PROGRAM, 12)(8, 1)
    np.testing.assert_array_equal(loaded.run(*inputs), once.run(*inputs))
    assert loaded.circuit.to_json() == once.circuit.to_json()
    with pytest.raises(errors.FormatError, match="another training"):
        each.run(4, checkpoint)
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(errors.FormatError, match="expected a checkpoint"):
        each.run(3, checkpoint)


@pytest.mark.studies
def test_a_trained_network_passes_the_causal_tests(compiled):
    model, sampler = compiled["gru"], variants.random_sampler(PROGRAM, 12)
    made = trained(model, 0, Recipe(steps=500), sampler=sampler)
    assert made.card.measured.accuracy > PASSES
    assert "interchanges of signals" in str(made.card)
    assert causal_test(made, sampler, pairs=100, seed=9).agreement >= PASSES
    inputs = sampler(16, 5)
    held, meant = capture(made, *inputs), capture(made, *inputs, on="evaluator")
    for name, values in meant.items():
        assert np.abs(held[name] - values).mean() < 0.25, name


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
def test_all_targets_pass_the_causal_tests_and_twins_do_not(target, compiled):
    sampler = variants.random_sampler(PROGRAM, 12)
    recipe = training.RECIPES[target]
    made = Training(compiled[target], recipe, sampler=sampler).run(1)
    assert made.causal.agreement >= PASSES and made.model.card.measured.accuracy > PASSES
    # What was measured with shared weights holds of the network itself.
    again = causal_test(made.model, sampler, seed=2, tolerance=made.causal.tolerance)
    assert again == made.causal
    twin = dataclasses.replace(recipe, interchange=0.0, code=0.0)
    natural = Training(compiled[target], twin, sampler=sampler).run(1)
    assert natural.model.card.measured.accuracy > PASSES
    assert natural.causal.agreement < PASSES


@pytest.mark.studies
def test_a_mamba_to_train_is_what_transformers_runs(compiled):
    """The same weights in the reference class give the same stream."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = compiled["mamba"]
    circuit = grouped(model, 2)
    network = model.module.untrained(circuit.units, 0)
    arrays = network.parameter_arrays()
    width, depth = circuit.units[0], len(circuit.units) - 1
    table = arrays["backbone.embeddings.weight"]
    inner, states = arrays["backbone.layers.0.mixer.A_log"].shape
    config = transformers.MambaConfig(
        vocab_size=len(table),
        hidden_size=width,
        num_hidden_layers=depth,
        intermediate_size=inner,
        expand=inner // width,
        state_size=states,
        conv_kernel=arrays["backbone.layers.0.mixer.conv1d.weight"].shape[-1],
        time_step_rank=arrays["backbone.layers.0.mixer.dt_proj.weight"].shape[1],
        layer_norm_epsilon=network.structure.eps,
        residual_in_fp32=True,
        use_cache=False,
    )
    reference = transformers.MambaModel(config).eval()
    named = {
        name.removeprefix("backbone."): torch.tensor(array)
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    reference.load_state_dict(named)
    (inputs,) = variants.random_sampler(PROGRAM, 9)(4, 1)
    there = [reference.embeddings(torch.tensor(inputs))]
    for layer in reference.layers:
        layer.register_forward_hook(lambda module, inputs, output: there.append(output))
    with torch.no_grad():
        reference(torch.tensor(inputs))
    altered = model.altered(network, lsrl.model.Alteration(circuit, None))
    _, hooks = wiring_of(altered).run([inputs], hooks=True)
    assert len(hooks) == len(there) == depth + 1
    for here, stream in zip(hooks, there, strict=True):
        np.testing.assert_allclose(here, stream.detach().numpy(), atol=1e-5)


@pytest.mark.studies
@pytest.mark.parametrize("target", TARGETS)
def test_statistics_of_gates(target, compiled):
    """A compiled network's gates are shut or open; untrained ones are in between."""
    model = compiled[target]
    inputs = variants.random_sampler(PROGRAM, 12)(8, 1)
    hard = statistics(model, inputs)
    assert hard["gates shut"] + hard["gates open"] == 1
    circuit = grouped(model, 4)
    altered = model.altered(
        model.module.untrained(circuit.units, 0), lsrl.model.Alteration(circuit, None)
    )
    soft = statistics(altered, inputs)
    assert soft["weight max"] < hard["weight max"]
    assert 0 < soft["candidate size"] < hard["candidate size"] + 1
    if target != "mamba":  # its scans keep their state, at first
        assert soft["gates shut"] + soft["gates open"] < 0.5
    with pytest.raises(errors.InputError, match="lstm, gru, mamba"):
        statistics(lsrl.compile(PROGRAM, "rnn"), inputs)


@pytest.mark.studies
def test_a_grid_is_resumed_and_told_as_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(training.RECIPES, "gru", RECIPE)
    arguments = {"names": ["flip_flop"], "targets": ["gru"], "seeds": 2, "kinds": ["trained"]}
    said = []
    rows = training.train(tmp_path, **arguments, steps=20, report=lambda *now: said.append(now))
    assert [(row.seed, row.kind, row.steps) for row in rows] == [
        (0, "trained", 20),
        (1, "trained", 20),
    ]
    assert said[-1] == ("flip_flop on gru", 2, 2)
    assert (tmp_path / "rows.csv").read_text().count("\n") == 3
    model = lsrl.load(tmp_path / "flip_flop" / "gru" / "1-trained.lsrl")
    assert f"{rows[1].passes:.2%}" in str(model.card)
    monkeypatch.setattr(training, "Training", stop)
    assert training.train(tmp_path, **arguments, steps=20) == rows
    assert f"| flip_flop | {rows[0].passes:.1%}, {rows[1].passes:.1%} | – |" in training.table(rows)
    assert "| gru | trained | 2 |" in training.summary(rows)
    assert training.passed(rows) == (sum(row.passes >= PASSES for row in rows), 2)
    # So does the command, which says by its exit code that this was no training worth the name.
    line = f"suite train {tmp_path} -p flip_flop -t gru --seeds 2 --steps 20 --no-twins"
    told = CliRunner().invoke(app, line.split())
    assert told.exit_code == 1 and "of 2 networks pass at least 95 %" in told.output
    assert (tmp_path / "table.md").read_text().startswith(training.table(rows))
    with pytest.raises(errors.FormatError, match="another recipe"):
        training.train(tmp_path, **arguments, steps=30)
    beside = tmp_path / "flip_flop" / "gru" / "0-trained.json"
    beside.write_text("[]")
    with pytest.raises(errors.FormatError, match="expected a row"):
        training.train(tmp_path, **arguments, steps=20)


def test_bad_input(compiled, tmp_path):
    for recipe in ({"steps": 0}, {"units": 1.5}, {"rate": -1.0}, {"code": float("nan")}):
        with pytest.raises(errors.InputError, match="trained"):
            Recipe(**recipe)
    with pytest.raises(errors.InputError, match="lstm or gru or mamba"):
        trained(lsrl.compile(PROGRAM, "rnn", inspectable=True))
    with pytest.raises(errors.InputError, match="inspectable"):
        trained(lsrl.compile(PROGRAM, "lstm"))
    with pytest.raises(errors.InputError, match="seed must be an int >= 0"):
        trained(compiled["lstm"], -1)
    with pytest.raises(errors.InputError, match="did you mean 'gru'"):
        training.train(tmp_path, targets=["gruu"])
    with pytest.raises(errors.InputError, match="did you mean 'flip_flop'"):
        training.train(tmp_path, names=["flipflop"])
    with pytest.raises(errors.InputError, match="seeds must be an int >= 1, got 0"):
        training.train(tmp_path, seeds=0)
