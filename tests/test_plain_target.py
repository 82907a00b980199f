"""A target that others write, to the contracts alone: every public call works on it, or refuses."""

import copy
import importlib
import inspect
import os
import pkgutil

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import lsrl
from lsrl import cost, interpret
from lsrl.backends import registry, strength
from lsrl.backends.base import Backend
from lsrl.backends.pattern import Pattern
from lsrl.errors import (
    InputError,
    LsrlError,
    PrecisionError,
    ShapeError,
    UnknownTargetError,
    UnsupportedOpError,
)
from lsrl.exporting import Exporting
from lsrl.interpret import (
    causal,
    faithfulness,
    interventions,
    page,
    probes,
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
from lsrl.looping import Looping
from lsrl.model import Alteration, Model
from lsrl.noise import copies, perturbations, ranges
from lsrl.parameters import dense, same_bits
from lsrl.stability import measures, signals, sweep, workloads
from lsrl.suite import build
from tests.plain_target import Plain

pytestmark = pytest.mark.one_in(5)


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


# ---------------------------------------------------------------- its sparse parameters

KERNEL = "layers.0.recurrent"


def test_a_sparse_parameter_is_its_weights(model):
    array = model.module.parameter_arrays()[KERNEL]
    assert isinstance(array, sp.csr_array)
    assert model.module.parameters()[KERNEL].shape == (array.nnz,)
    arrays = model.module.parameter_arrays().values()
    dense = [one.toarray() if sp.issparse(one) else one for one in arrays]
    assert model.num_parameters == sum(one.size for one in dense)
    assert model.num_nonzero_parameters == sum(np.count_nonzero(one) for one in dense)
    stored = sum(one.nnz if sp.issparse(one) else one.size for one in arrays)
    places = sum(4 * one.nnz for one in arrays if sp.issparse(one))
    state = sum(len(layer.initial) for layer in model.schedule.layers)
    assert cost.cost(model, "step").bytes == 4 * (stored + 2 + 2 * state) + places


def test_replacing_a_sparse_parameter(model, tmp_path):
    model = copy.deepcopy(model)
    array, path = model.module.parameter_arrays()[KERNEL], tmp_path / "model"
    expected = model.run(IDS)
    for other in (2 * array, (2 * array).toarray(), jax.numpy.asarray((0 * array).toarray())):
        model.module.replace_parameters({KERNEL: other})
        found = model.module.parameter_arrays()[KERNEL]
        assert found.nnz == array.nnz, "a weight may be 0 and is one still"
        np.testing.assert_array_equal(
            found.toarray(), other.toarray() if sp.issparse(other) else other
        )
        assert model.changed_parameters == (KERNEL,)
        assert (model.run(IDS) != expected).any()
        model.save(path)
        loaded = lsrl.load(path)
        assert loaded.changed_parameters == (KERNEL,)
        assert same_bits(loaded.module.parameter_arrays()[KERNEL], found)
    model.module.replace_parameters({KERNEL: array})
    assert model.certificate.exact
    row, column = np.argwhere(array.toarray() == 0)[0]
    other = array.toarray()
    other[row, column] = 0.5
    with pytest.raises(ShapeError, match=rf"no weight at \({row}, {column}\), got .*0\.5.*rebuilt"):
        model.module.replace_parameters({KERNEL: other})
    with pytest.raises(ShapeError, match="has shape"):
        model.module.replace_parameters({KERNEL: other[:1]})
    # A network of another pattern is made anew, and is another structure.
    arrays = model.module.arrays()
    model.module = model.module.rebuilt({**arrays, KERNEL: other})
    assert model.module.parameter_arrays()[KERNEL].nnz == array.nnz + 1
    assert model.changed_parameters == (KERNEL,)
    model.module = model.module.rebuilt({**arrays, KERNEL: array.toarray()})
    assert model.certificate.exact


def test_a_product_with_a_sparse_parameter_has_the_derivatives_of_a_dense_one():
    random = np.random.default_rng(0)
    dense = random.normal(size=(5, 7)).astype(np.float32) * (random.random((5, 7)) < 0.3)
    pattern, vectors = Pattern(dense), random.normal(size=(2, 3, 5)).astype(np.float32)
    assert pattern == Pattern(sp.csr_array(dense))
    assert pattern != Pattern(sp.csr_array(dense).T)
    weights = jax.numpy.asarray(pattern.values(dense, "w"))
    product = jax.jit(pattern.product)
    np.testing.assert_allclose(product(weights, vectors), vectors @ dense, rtol=1e-5)
    found = jax.jit(jax.grad(lambda w: (pattern.product(w, vectors) ** 2).sum()))(weights)
    expected = 2 * np.einsum("abi,abo->io", vectors, vectors @ dense)
    np.testing.assert_allclose(found, expected[pattern.rows, pattern.columns], rtol=1e-4)


def test_without_hooks_it_has_no_circuit():
    class Silent(Plain):
        name = "silent"
        hooks = Backend.hooks

    with registry.registered(Silent()):
        model = lsrl.compile(balance, "silent")
        np.testing.assert_array_equal(model.run(IDS), balance.run(IDS))
        with pytest.raises(LsrlError, match="'silent' does not say where its network holds"):
            interpret.capture(model, IDS)


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


def applied(model):
    outputs = model.apply(model.parameters, IDS)
    np.testing.assert_array_equal(outputs, model.run(IDS))


def run_in_parts(model):
    whole = model.run(IDS, check=True, mesh=mesh())
    first, state = model.run(IDS[:, :7], mesh=mesh(), return_state=True)
    rest = model.run(IDS[:, 7:], state=state)
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), whole)


def state_saved(model, path):
    first, state = model.run(IDS[:, :7], return_state=True)
    model.save_state(state, path)
    rest = model.run(IDS[:, 7:], state=model.load_state(path))
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), model.run(IDS))


def mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))


def in_device_mode(model, _):
    with model.device_mode():
        assert jax.config.jax_default_matmul_precision == "highest"


def attribute(name):
    return lambda model, _: getattr(model, name)


# Of `Model`: attributes, and calls as what they take beside the model.
def looped(model, path):
    """A token out is a token in; the rest of a run out of its file is that of the run."""
    first = model.loop(IDS[:, :5], steps=3)
    first.save(path)
    for run in (first, model.load_run(path)):
        rest = model.loop(run, steps=3)
        ids = np.concatenate([first.outputs, rest.outputs], axis=1)[..., 0]
        np.testing.assert_array_equal(ids, model.generate(IDS[:, :5], 6))


MODEL = {
    **{
        name: attribute(name)
        for name in (
            "certificate", "proven", "allowed_error", "changed_parameters", "dtype", "num_layers",
            "width", "num_parameters", "num_nonzero_parameters", "labels", "card", "circuit",
            "compiled_circuit", "facts", "reference_dtype", "parameters",
        )
    },
    "altered": lambda model, _: altered(model),
    "run": lambda model, _: run_in_parts(model),
    "apply": lambda model, _: applied(model),
    "save_state": lambda model, path: state_saved(model, path / "state"),
    "load_state": lambda model, path: state_saved(model, path / "state"),
    "init_state": lambda model, _: model.init_state(2),
    "step": lambda model, _: model.step(model.init_state(), IDS[0, 0]),
    "hooks": lambda model, _: model.hooks([IDS], [[0]]),
    "generate": lambda model, _: generated(model),
    "loop": lambda model, path: looped(model, path / "run"),
    "load_run": lambda model, path: looped(model, path / "run"),
    "self_test": lambda model, _: model.self_test(),
    "summary": lambda model, _: model.summary(),
    "report": lambda model, _: model.report(),
    "save": saved,
    "export": lambda model, path: model.export("torch", path / "export"),
    "export_state": lambda model, _: model.export_state(IDS, 2),
    "features": lambda model, _: model.features([IDS]),
    "device_mode": in_device_mode,
}  # fmt: skip


STATE, RELU = "lsrl.cumsum(x == 1)", "lsrl.clip(more, 0, 1)#8"


def captured(model):
    found, known = (interpret.capture(model, IDS, on=side) for side in ("network", "evaluator"))
    assert {STATE, RELU} < found.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, known[name])


def held(model):
    hooks = interpret.activations(model, IDS)
    assert [hook.shape for hook in hooks] == [(*IDS.shape, count) for count in model.circuit.units]
    signals_held = interpret.capture(model, IDS)
    for channel in model.circuit.channels:
        if model.circuit.makes(channel) and len(channel.units) == 1 and channel.weights == (1.0,):
            expected = signals_held[channel.signal][..., channel.element] - channel.offset
            np.testing.assert_array_equal(hooks[channel.layer][..., channel.units[0]], expected)


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
    probes.probe(model, [IDS], hooks, values, classes)


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
    found = weights.read_weights(model, layers)
    arrays = {name: dense(one) for name, one in model.module.parameter_arrays().items()}
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
    # The output is 0 to 2.
    assert found["output_bias"].tolist() == [2.0]
    noise = perturbations.WeightNoise("range", unit="range", spared=("inputs", "features"))
    assert (copies.run_copies(model, [IDS], noise, [1.0], [0])[0] != model.run(IDS)).any()


def told_by_states(model):
    """Of the last token, what captures find too."""
    _, state = model.module.run_with_state(model.features([IDS]))
    values = signals.channel_values(model, state)
    held = interpret.capture(model, IDS)
    for channel in model.circuit.channels:
        if channel.layer and model.circuit.makes(channel):
            found = values[channel.layer - 1][:, channel.units[0]]
            np.testing.assert_array_equal(found, held[channel.signal][:, -1, channel.element])


def broken(model):
    counts = signals.first_wrong_signal(model, [IDS], NOISE, 1.0, [0, 1])
    assert sum(counts.values()) == 2
    assert set(counts) <= {label for layer in model.labels for label in layer}
    assert signals.first_wrong_signal(model, [IDS], NOISE, 0.0, [0]) == {"": 1}


# Public functions of the studies that take a model first, by module and name.
STUDIES = {
    "cost.cost": lambda model: [cost.cost(model, mode) for mode in ("whole", "scan", "step")],
    "interpret.causal.causal_test": causal_tested,
    "interpret.faithfulness.faithfulness": lambda model: faithfulness.faithfulness(
        model, score.NodeClaim({STATE: 1.0}), [IDS], threshold=0.5
    ),
    "interpret.interventions.activations": held,
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
    "interpret.page.view": lambda model: interpret.view(model, IDS, path=os.devnull),
    "interpret.page.content": lambda model: page.content(model, [IDS]),
    "interpret.probes.probe": probed,
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
    "stability.signals.channel_values": told_by_states,
    "stability.signals.first_wrong_signal": broken,
}
# What other targets have and this one has not, so that there is nothing to do.
REFUSED = {
    "export": (InputError, "target 'plain' has no format 'torch'"),
    "export_state": (InputError, "target 'plain' has no class of transformers"),
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
    public = {**vars(Looping), **vars(Exporting), **vars(Model)}
    assert set(MODEL) == {name for name in public if not name.startswith("_")}
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
