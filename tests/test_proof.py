"""A model says whether its weights are those that were proven, whichever way others came."""

import copy
import gc
import pickle  # noqa: TID251  models may be sent to other processes
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

import lsrl
from lsrl import storage
from lsrl.backends import registry
from lsrl.cli import app
from lsrl.interpret.variants import noised, permuted

pytestmark = pytest.mark.one_in(2)

FAMILIES = ("linear_rnn", "lstm", "mamba")
TEXT = "not the compiled weights"


@pytest.fixture(scope="module")
def compiled():
    """A model of each family of networks."""
    return {
        "linear_rnn": lsrl.compile(lsrl.programs.counter_mod(3), "linear_rnn"),
        "lstm": lsrl.compile(lsrl.programs.flip_flop(), "lstm"),
        "mamba": lsrl.compile(lsrl.programs.flip_flop(), "mamba"),
    }


@pytest.fixture(params=FAMILIES)
def model(request, compiled):
    """A model of its own for a test, proven and with arrays that it shares with no other."""
    return copy.deepcopy(compiled[request.param])


@pytest.fixture
def lowered(monkeypatch):
    """Counts the networks that are lowered."""
    calls = []
    for target in FAMILIES:
        kind = type(registry.find(target))
        inner = kind.lower

        def counted(self, *arguments, inner=inner):
            calls.append(self.name)
            return inner(self, *arguments)

        monkeypatch.setattr(kind, "lower", counted)
    return calls


def replace(model, kernel):
    model.module.replace_parameters({"output_kernel": kernel})


def assign_value(model, kernel):
    model.module.output_kernel.set_value(jnp.asarray(kernel))


def assign_array(model, kernel):
    model.module.output_kernel = jnp.asarray(kernel)


def assign_numpy(model, kernel):
    model.module.output_kernel = nnx.Param(np.array(kernel))


def update(model, kernel):
    nnx.update(model.module, nnx.State({"output_kernel": nnx.Param(jnp.asarray(kernel))}))


def merge(model, kernel):
    graph, state = nnx.split(model.module)
    state["output_kernel"].set_value(jnp.asarray(kernel))
    model.module = nnx.merge(graph, state)


WAYS = (replace, assign_value, assign_array, assign_numpy, update, merge)


def rewrite(path, others):
    """Put other arrays into a file, with the checksum that they have."""
    with safe_open(path, framework="numpy") as file:
        _, _, text = file.metadata()["lsrl"].partition(" ")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays |= others
    save_file(arrays, path, {"lsrl": f"{storage._checksum(text, arrays)} {text}"})


def assert_changed(model):
    certificate = model.certificate
    assert not certificate.exact
    assert certificate.error_bound == np.inf
    (reason,) = certificate.reasons
    assert reason.source == "changed: output_kernel"
    assert model.changed_parameters == ("output_kernel",)
    assert certificate.promises == model.proven.promises
    assert (certificate.tokens, certificate.dtype) == (model.proven.tokens, model.dtype)
    for text in (str(certificate), repr(model), model.summary(), model.report()):
        assert TEXT in text


@pytest.mark.parametrize("way", WAYS)
def test_other_weights_are_noticed_and_equal_ones_are_proven(model, way):
    proven = model.certificate
    assert proven.exact
    assert TEXT not in model.summary()
    kernel = model.module.parameter_arrays()["output_kernel"]
    way(model, 2 * kernel)
    assert_changed(model)
    way(model, np.array(kernel))
    assert model.certificate is proven
    assert TEXT not in repr(model)


def test_the_certificate_is_free_while_nothing_changed(model, lowered):
    assert model.certificate is model.certificate is model.proven
    assert not lowered
    kernel = model.module.parameter_arrays()["output_kernel"]
    replace(model, kernel)
    assert [model.certificate is model.proven for _ in range(3)] == [True] * 3
    assert len(lowered) == 1, "the answer is remembered"
    replace(model, 2 * kernel)
    assert [model.certificate.exact for _ in range(3)] == [False] * 3
    assert len(lowered) == 2


def test_an_array_that_changes_in_place_is_looked_at_each_time(model):
    kernel = np.array(model.module.parameter_arrays()["output_kernel"])
    assign_numpy(model, kernel)
    held = model.module.output_kernel.get_value()
    assert model.certificate.exact
    held[0] += 1
    assert model.changed_parameters == ("output_kernel",)
    held[0] -= 1
    assert model.certificate.exact


def test_zeros_of_another_sign_and_nan_are_other_weights(model):
    arrays = model.module.parameter_arrays()
    name = next(name for name, array in arrays.items() if (array == 0).any())
    for other in (-0.0, np.nan):
        changed = np.where(arrays[name] == 0, np.float32(other), arrays[name])
        model.module.replace_parameters({name: changed})
        assert model.changed_parameters == (name,)


def test_a_step_asks_no_certificate(model, monkeypatch):
    state = model.init_state()
    replace(model, 2 * model.module.parameter_arrays()["output_kernel"])
    monkeypatch.setattr("lsrl.proof.Proof.changed", None)
    model.step(state, 1)
    model.run([1, 0])


def test_weights_are_not_kept_alive(model):
    old = weakref.ref(model.module.output_kernel.get_value())
    replace(model, 2 * model.module.parameter_arrays()["output_kernel"])
    assert model.changed_parameters
    gc.collect()
    assert old() is None


def test_a_loaded_model_is_proven_without_lowering_again(model, lowered, tmp_path):
    model.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    assert len(lowered) == 1
    assert loaded.certificate is loaded.proven
    assert loaded.certificate.exact
    assert len(lowered) == 1


def test_a_file_with_nan_and_a_right_checksum_is_noticed(model, tmp_path):
    proven = model.proven
    kernel = np.array(model.module.parameter_arrays()["output_kernel"])
    kernel[0, 0] = np.nan
    model.save(tmp_path / "model")
    rewrite(tmp_path / "model", {"output_kernel": kernel})
    loaded = lsrl.load(tmp_path / "model")
    assert_changed(loaded)
    assert loaded.proven == proven
    loaded.save(tmp_path / "model")
    assert TEXT.encode() in (tmp_path / "model").read_bytes()
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "model")]).stdout
    assert TEXT in shown
    assert "changed: output_kernel" in shown


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled])
def test_copies_neither_lose_nor_fake_the_proof(model, make, lowered):
    same = make(model)
    assert same.certificate == model.certificate
    assert same.certificate.exact
    # What another process reads is compiled there, once, and then known.
    assert lowered == ([model.target] if make is pickled else [])
    kernel = model.module.parameter_arrays()["output_kernel"]
    replace(model, 2 * kernel)
    assert not make(model).certificate.exact
    assert same.certificate.exact is (same.module is not model.module)


def test_cached_models_are_proven_each_for_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (
        lsrl.compile(lsrl.programs.counter_mod(4), "linear_rnn", cache=True) for _ in range(2)
    )
    replace(first, 2 * first.module.parameter_arrays()["output_kernel"])
    third = lsrl.compile(lsrl.programs.counter_mod(4), "linear_rnn", cache=True)
    assert not first.certificate.exact
    assert second.certificate is second.proven
    assert third.certificate is third.proven


def test_a_network_of_another_structure_is_noticed(compiled):
    model = copy.deepcopy(compiled["linear_rnn"])
    arrays = model.module.arrays()
    name = next(name for name in arrays if name.endswith("relu"))
    model.module = model.module.rebuilt({**arrays, name: ~arrays[name]})
    assert model.changed_parameters == ("structure",)


@pytest.mark.parametrize("target", ["linear_rnn", "mamba"])
def test_a_variant_is_proven_or_says_that_its_weights_are_others(compiled, target, tmp_path):
    model = compiled[target]
    exact, noisy = permuted(model, 0), noised(model, 0, 1e-3)
    assert exact.certificate.exact
    for text in (repr(noisy), str(noisy.certificate)):
        assert TEXT in text
    name, array = next((name, a) for name, a in exact.module.parameter_arrays().items() if a.any())
    exact.save(tmp_path / "model")
    assert lsrl.load(tmp_path / "model").certificate == exact.certificate
    rewrite(tmp_path / "model", {name: 2 * array})
    assert TEXT in repr(lsrl.load(tmp_path / "model"))
    exact.module.replace_parameters({name: 2 * array})
    assert not exact.certificate.exact
    assert TEXT in repr(exact)
    exact.save(tmp_path / "model")
    assert not lsrl.load(tmp_path / "model").certificate.exact
    unknown = model.altered(model.module, exact.alteration)
    assert not unknown.certificate.exact


def test_fine_tuning_stays_easy(model):
    optax = pytest.importorskip("optax")
    module = model.module
    (kind,) = model.program.inputs.values()
    tokens = jnp.arange(4)[None] % kind.size
    standard = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")

    def loss(kernel):
        parameters = {**module.parameters(), "output_kernel": kernel}
        state, total = jax.tree.map(jnp.asarray, module.init_state((1,))), 0.0
        for token in range(tokens.shape[1]):
            output, state = module.pure_step(
                parameters, module.structure, state, (tokens[:, token],)
            )
            total += jnp.square(output - 2).sum()
        return total

    with standard[0], standard[1]:
        kernel = module.parameters()["output_kernel"]
        optimiser = optax.adam(1e-3 * float(jnp.abs(kernel).max()))
        value_and_gradient = jax.jit(jax.value_and_grad(loss))
        before, gradient = value_and_gradient(kernel)
        changes, _ = optimiser.update(gradient, optimiser.init(kernel), kernel)
        tuned = optax.apply_updates(kernel, changes)
        assert value_and_gradient(tuned)[0] < before
    assert model.certificate.exact
    replace(model, tuned)
    assert model.changed_parameters == ("output_kernel",)
    assert np.isfinite(model.run([1, 0, 1])).all()
