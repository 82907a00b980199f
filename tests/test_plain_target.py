"""A target that others write, to the contracts alone: every public call works on it, or refuses."""

import copy
import importlib
import inspect
import os
import pkgutil

import jax
import numpy as np
import pytest

import lsrl
from lsrl import cost, interpret
from lsrl.backends import registry, strength
from lsrl.errors import (
    InputError,
    PrecisionError,
    UnknownTargetError,
    UnsupportedOpError,
)
from lsrl.interpret import (
    causal,
    faithfulness,
    interventions,
    methods,
    page,
    score,
    truth,
    weights,
    wiring,
)
from lsrl.interpret.variants import (
    base,
    combine,
    noise,
    permute,
    rotate,
    soften,
    statistics,
    train,
    trim,
)
from lsrl.model import Alteration, Model
from lsrl.noise import copies, perturbations, ranges
from lsrl.stability import measures, signals, sweep, workloads
from lsrl.suite import build, cards
from tests.plain_target import Plain


@pytest.fixture(scope="module", autouse=True)
def _plain():
    with registry.registered(Plain()):
        yield


@lsrl.program(max_length=32)
def balance(x: lsrl.Token(3)) -> lsrl.Token(3):
    """Whether there were more ones than twos, two tokens ago, and a one three tokens ago."""
    more = lsrl.delay(lsrl.cumsum(x == 1) - lsrl.cumsum(x == 2), 2)
    return lsrl.clip(more, 0, 1) + lsrl.delay(x == 1, 3)


@lsrl.program(max_length=32)
def mean(v: lsrl.Vector(2, low=-1, high=1, step=0.25), x: lsrl.Token(4)):
    return lsrl.relu(lsrl.cumsum(v) - x)


IDS = np.random.default_rng(0).integers(0, 3, (4, 20))


def legal(sequences, seed):
    return [np.random.default_rng(seed).integers(0, 3, (sequences, 12))]


@pytest.fixture(scope="module")
def model(_plain):
    return lsrl.compile(balance, "plain", inspectable=True)


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize(("program", "dtype"), [(balance, "float32"), (mean, "float64")])
def test_it_computes_the_program_in_both_modes(program, dtype):
    model = lsrl.compile(program, "plain", dtype=dtype)
    assert model.certificate.exact
    random = np.random.default_rng(1)
    vectors = [random.integers(-4, 5, (3, 17, 2)) / 4] if program is mean else []
    inputs = [*vectors, random.integers(0, 3, (3, 17))]
    expected = program.run(*inputs)
    got = model.run(*inputs)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(model.run(*inputs, chunk=5), expected)
    state = model.init_state(batch=3)
    for t in range(17):
        output, state = model.step(state, *(array[:, t] for array in inputs))
        np.testing.assert_array_equal(output, expected[:, t])


def test_it_is_a_target_only_while_it_is_registered():
    backend = Plain()
    backend.name = "plainer"
    with registry.registered(backend):
        assert lsrl.compile(balance, "plainer").target == "plainer"
        with pytest.raises(UnknownTargetError, match="did you mean 'plainer'"):
            lsrl.compile(balance, "plainerr")
        with (
            pytest.raises(UnknownTargetError, match="a name of its own"),
            registry.registered(backend),
        ):
            pass
    with pytest.raises(UnknownTargetError, match="'plainer'"):
        lsrl.compile(balance, "plainer")


def test_it_refuses_what_it_can_not_hold():
    @lsrl.program
    def latched(x: lsrl.Token(3)):
        return lsrl.threshold_state(x == 1, 1.0)

    with pytest.raises(UnsupportedOpError, match="rnn"):
        lsrl.compile(latched, "plain")
    with pytest.raises(PrecisionError, match="has few bits"):
        lsrl.compile(balance, "plain", dtype="bfloat16")
    assert lsrl.explain(latched, "plain").answer == "no"
    assert lsrl.explain(balance, "plain").bits == lsrl.explain(balance, "linear_rnn").bits


# ---------------------------------------------------------------- every public call


def saved(model, path):
    path = path / "model.lsrl"
    model.save(path)
    loaded = lsrl.load(path)
    np.testing.assert_array_equal(loaded.run(IDS), model.run(IDS))
    assert loaded.certificate == model.certificate
    arrays = loaded.module.parameter_arrays()
    assert arrays.keys() == model.module.parameter_arrays().keys()
    bias = arrays["output_bias"] + 1
    loaded.module.replace_parameters({"output_bias": bias})
    assert loaded.changed_parameters == ("output_bias",)
    loaded.save(path)
    np.testing.assert_array_equal(lsrl.load(path).run(IDS), model.run(IDS) + 1)


def generated(model):
    tokens = model.generate(IDS[:, :5], 6)
    fed_back = balance.run(np.concatenate([IDS[:, :5], tokens], axis=1))
    np.testing.assert_array_equal(tokens, fed_back[:, 4:-1, 0])


def copied(model):
    other = copy.deepcopy(model)
    other.module.replace_parameters({"output_bias": model.module.parameters()["output_bias"] + 1})
    assert not other.certificate.exact
    assert model.certificate.exact


def altered(model):
    found = model.altered(model.module, Alteration(model.circuit, None))
    assert not found.certificate.exact


def rebuilt(model):
    arrays = model.module.arrays()
    other = model.module.rebuilt({**arrays, "output_bias": arrays["output_bias"] + 1})
    got, _ = other.run_with_state(model.features([IDS]))
    np.testing.assert_array_equal(got, model.run(IDS) + 1)


def mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))


def in_device_mode(model, _):
    with model.device_mode():
        assert jax.config.jax_default_matmul_precision == "highest"


def attribute(name):
    return lambda model, _: getattr(model, name)


# Of `Model`: attributes, and calls as what they take beside the model.
MODEL = {
    **{
        name: attribute(name)
        for name in (
            "certificate", "proven", "allowed_error", "changed_parameters", "dtype", "num_layers",
            "width", "num_parameters", "num_nonzero_parameters", "labels", "card", "circuit",
        )
    },
    "altered": lambda model, _: altered(model),
    "run": lambda model, _: model.run(IDS, check=True, mesh=mesh()),
    "init_state": lambda model, _: model.init_state(2),
    "step": lambda model, _: model.step(model.init_state(), IDS[0, 0]),
    "generate": lambda model, _: generated(model),
    "self_test": lambda model, _: model.self_test(),
    "summary": lambda model, _: model.summary(),
    "report": lambda model, _: model.report(),
    "save": saved,
    "export": lambda model, path: model.export("torch", path / "export"),
    "features": lambda model, _: model.features([IDS]),
    "device_mode": in_device_mode,
}  # fmt: skip


STATE, RELU = "linearstate#3", "relu#8"


def captured(model):
    found, known = (interpret.capture(model, IDS, on=side) for side in ("network", "evaluator"))
    assert {STATE, RELU} < found.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, known[name])


def on_both_sides(intervene, *arguments):
    found, known = (intervene(*arguments, on=side).outputs for side in ("network", "evaluator"))
    np.testing.assert_array_equal(found, known)
    assert (found != arguments[0].run(IDS)).any()


def causal_tested(model):
    result = causal.causal_test(model, legal, pairs=20)
    assert result.valid > 0
    assert result.agreement == 1


def probed(model):
    values = interpret.capture(model, IDS)
    _, hooks = interventions.wiring_of(model).run([IDS], hooks=True)
    classes = truth.equivalence_classes(model.circuit, values)
    methods.probe(model, [IDS], hooks, values, classes)


def checked(make):
    def check(model):
        make(model).self_test(sequences=2, length=8)

    return check


NOISE = perturbations.WeightNoise("own")


def noisy(model):
    outputs = copies.run_copies(model, [IDS], NOISE, [0.0, 1.0], [0, 0])
    np.testing.assert_array_equal(outputs[0], model.run(IDS))
    assert (outputs[1] != model.run(IDS)).any()


def shuffled(model):
    found = permute.permuted(model, 1)
    found.self_test(sequences=2, length=8)
    assert found.circuit.channels != model.circuit.channels
    known, seen = interpret.capture(model, IDS), interpret.capture(found, IDS)
    np.testing.assert_array_equal(seen[STATE], known[STATE])


def weighed(model):
    """Units that read each other are those that the kernels join."""
    layers = [
        strength.Sources(np.eye(units), np.eye(units), np.ones(units), np.ones(units))
        for units in model.circuit.units
    ]
    found, arrays = weights.read_weights(model, layers), model.module.parameter_arrays()
    for number, (forward, recurrent) in enumerate(zip(*found, strict=True)):
        last = number == model.num_layers
        kernel = arrays["output" if last else f"layers.{number}.input"]
        np.testing.assert_array_equal(forward != 0, kernel != 0)
        if number:
            kernel = arrays[f"layers.{number - 1}.recurrent"]
            np.testing.assert_array_equal(recurrent != 0, kernel != 0)


def ranged(model):
    found, arrays = ranges.weight_ranges(model), model.module.parameter_arrays()
    assert {name for name in arrays if name.startswith(("layers", "output"))} == {
        *found,
        *(f"layers.{number}.start" for number in range(model.num_layers)),
    }
    assert all(array.shape == arrays[name].shape for name, array in found.items())
    # A comparison is 0 or 1, so its bias has the range 1, and the output is 0 to 2.
    assert found["output_bias"].tolist() == [2.0]
    noise = perturbations.WeightNoise("range", unit="range", spared=("inputs", "features"))
    assert (copies.run_copies(model, [IDS], noise, [1.0], [0])[0] != model.run(IDS)).any()


def channels_read(model):
    state = model.init_state(len(IDS))
    for token in IDS.T:
        _, state = model.step(state, token)
    found, known = signals.channel_values(model, state.hidden), interpret.capture(model, IDS)
    for labels, values in zip(model.labels, found, strict=True):
        if STATE in labels:
            place = labels.index(STATE)
            np.testing.assert_array_equal(values[:, place], known[STATE][:, -1, 0])


def first_broken(model):
    counts = signals.first_wrong_signal(model, [IDS], NOISE, 1.0, [0, 1])
    assert set(counts) <= {name for layer in model.labels for name in layer}
    assert signals.first_wrong_signal(model, [IDS], NOISE, 0.0, [0]) == {"": 1}


# Public functions of the studies that take a model first, by module and name.
STUDIES = {
    "cost.cost": lambda model: [cost.cost(model, mode) for mode in ("whole", "scan", "step")],
    "interpret.causal.causal_test": causal_tested,
    "interpret.faithfulness.faithfulness": lambda model: faithfulness.faithfulness(
        model, score.NodeClaim({STATE: 1.0}), [IDS], threshold=0.5
    ),
    "interpret.interventions.capture": captured,
    "interpret.interventions.patch": lambda model: on_both_sides(
        interpret.patch, model, [IDS], {STATE: 1.0}, 7
    ),
    "interpret.interventions.ablate": lambda model: on_both_sides(
        interpret.ablate, model, [IDS], RELU, "zero"
    ),
    "interpret.interventions.interchange": lambda model: on_both_sides(
        interpret.interchange, model, [IDS], [IDS[::-1]], STATE, 9
    ),
    "interpret.interventions.circuit_nodes": interventions.circuit_nodes,
    "interpret.locate.circuit_of": interpret.circuit_of,
    "interpret.page.view": lambda model: interpret.view(model, IDS, path=os.devnull),
    "interpret.page.content": lambda model: page.content(model, [IDS]),
    "interpret.methods.probe": probed,
    "interpret.weights.read_weights": weighed,
    "interpret.wiring.turned_patches": lambda model: wiring.turned_patches(model, []),
    "interpret.variants.base.measured": lambda model: base.measured(model),
    "interpret.variants.base.proven_by_exhaustion": lambda model: base.proven_by_exhaustion(
        model, 8
    ),
    "interpret.variants.base.variant": lambda model: base.variant(
        model, "same", "", model.module, model.circuit, exact=True, sampler=None
    ),
    "interpret.variants.combine.merged": checked(combine.merged),
    "interpret.variants.combine.padded": checked(combine.padded),
    "interpret.variants.noise.noised": noise.noised,
    "interpret.variants.noise.safe_level": noise.safe_level,
    "interpret.variants.permute.permuted": shuffled,
    "interpret.variants.rotate.rotated": rotate.rotated,
    "interpret.variants.soften.soft": soften.soft,
    "interpret.variants.statistics.statistics": lambda model: statistics.statistics(model, [IDS]),
    "interpret.variants.train.trained": train.trained,
    "interpret.variants.trim.trimmed": checked(trim.trimmed),
    "noise.copies.run_copies": noisy,
    "noise.copies.observe_copies": lambda model: copies.observe_copies(
        model, [IDS], NOISE, [1.0], [0], lambda output, state: state
    ),
    "stability.measures.located": lambda model: measures.located(
        model, IDS, model.run(IDS)[:, -5:], NOISE, 2
    ),
    "noise.ranges.weight_ranges": ranged,
    "stability.signals.channel_values": channels_read,
    "stability.signals.first_wrong_signal": first_broken,
    "suite.cards.circuit_json": cards.circuit_json,
}
# What other targets have and this one has not, so that there is nothing to do.
REFUSED = {
    "export": (InputError, "target 'plain' has no format 'torch'"),
    "interpret.variants.rotate.rotated": (InputError, "plain has no residual stream to rotate"),
    "interpret.variants.soften.soft": (InputError, "plain has no saturated gates"),
    "interpret.variants.statistics.statistics": (InputError, "expected .*, got plain"),
    "interpret.variants.train.trained": (
        InputError,
        "expected a float32 model of .* on plain",
    ),
}


def attempt(name, call):
    """Whether a call works; if not, it has to fail as the list says, and to be on it."""
    if name not in REFUSED:
        call()
        return
    kind, text = REFUSED[name]
    with pytest.raises(kind, match=text) as failure:  # take it off the list once it works
        call()
    assert type(failure.value) is kind


@pytest.mark.parametrize("name", MODEL)
def test_every_call_of_a_model(model, tmp_path, name):
    attempt(name, lambda: MODEL[name](model, tmp_path))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_a_model(model, name):
    attempt(name, lambda: STUDIES[name](model))


def test_the_lists_name_every_public_call():
    assert set(MODEL) == {name for name in vars(Model) if not name.startswith("_")}
    found = set()
    for package in ("interpret", "interpret.variants", "noise", "stability", "suite"):
        path = importlib.import_module(f"lsrl.{package}").__path__
        found |= {f"{package}.{module.name}" for module in pkgutil.iter_modules(path)}
    calls = {
        f"{module}.{name}"
        for module in {*found, "cost"}
        for name, function in vars(importlib.import_module(f"lsrl.{module}")).items()
        if inspect.isfunction(function)
        and function.__module__ == f"lsrl.{module}"
        and not name.startswith("_")
        and next(iter(inspect.signature(function).parameters), "") == "model"
    }
    # Parts of the build of the suite and of training, which are not for others to call.
    parts = ("suite.variants.", "interpret.variants.fresh.", "interpret.variants.lessons.")
    assert set(STUDIES) == {name for name in calls if not name.startswith(parts)}
    assert set(REFUSED) <= {*MODEL, *STUDIES}


def test_copies_and_networks_of_other_arrays(model):
    assert repr(model) == "Model(balance on plain, float32: 4 layers, width 6, exact)"
    copied(model)
    rebuilt(model)


def test_a_sweep_and_a_part_of_the_suite(tmp_path):
    plan = sweep.Plan((workloads.DEFAULT["majority"],), ("plain",), (NOISE,), 2, (0,))
    assert {row["target"] for row in sweep.sweep(plan, tmp_path / "sweep")} == {"plain"}
    chosen = {"programs": ["majority"], "targets": ["plain"], "workers": 1}
    manifest = build.build(tmp_path / "suite", **chosen, variants=("plain",))
    assert [record.target for record in manifest.models] == ["plain"]
