"""Networks of sparse parameters: on small programs they are the dense network, bit for bit."""

import resource
from contextlib import ExitStack
from functools import partial

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import lsrl
from lsrl import Token, Vector, programs, support
from lsrl.backends import registry
from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.cells.target import cell_weights
from lsrl.backends.gated_linear_rnn import GatedLinearRnn
from lsrl.backends.linear.cell import Picked, apply_sequence
from lsrl.backends.linear.network import LinearNetwork
from lsrl.backends.linear_rnn import network_weights
from lsrl.backends.pattern import Pattern
from lsrl.errors import ShapeError, SizeError
from lsrl.interpret.variants import noise, permute
from lsrl.noise import copies, perturbations
from lsrl.parameters import Size, Sparseness, dense, entries, same_bits
from lsrl.testing.random_ops import LINEAR_OPS
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import sample_inputs
from tests.grids import studied

pytestmark = pytest.mark.one_in(2)

# Every matrix, whatever its size and however many of its entries are weights.
ALL = Sparseness(0, 1.0)
DENSE = "gated_linear_rnn"


class Thin(GatedLinearRnn):
    """The target whose networks are sparse through and through."""

    name = "thin"

    def sizes(self, schedule, numerics):
        made = self.lower(schedule, numerics).parameter_arrays()
        return {
            name: Size(x.shape) if isinstance(x, np.ndarray) else Size(x.shape, x.nnz)
            for name, x in made.items()
        }

    def lower(self, schedule, numerics):
        return LinearNetwork(network_weights(schedule, self.capabilities), numerics.dtype, ALL)


def thin_cells(target):
    """A target of stock cells whose networks are sparse through and through."""
    known = registry.find(target)

    class ThinCells(type(known)):
        name = f"thin_{target}"

        def lower(self, schedule, numerics):
            plan, _ = self.planned(schedule, numerics)
            return CellNetwork(self.kind, cell_weights(plan), numerics.dtype, ALL)

        sizes = Thin.sizes

    return ThinCells()


CELLS = ("rnn", "lstm", "gru")


@pytest.fixture(scope="module", autouse=True)
def _thin():
    with ExitStack() as stack:
        for target in (Thin(), *map(thin_cells, CELLS)):
            stack.enter_context(registry.registered(target))
        yield


def pair(program, dtype="float32"):
    return lsrl.compile(program, DENSE, dtype=dtype), lsrl.compile(program, "thin", dtype=dtype)


def drawn(seed):
    return random_program(seed, (*LINEAR_OPS, "product") if seed % 2 else None, 4, 5, 16)


@pytest.fixture(scope="module")
def majority():
    return pair(programs.majority())


def assert_same(one, other):
    """Equal but for the sign of zeros, which sums of other terms may have."""
    np.testing.assert_array_equal(np.asarray(one, np.float64), np.asarray(other, np.float64))


def assert_dense(arrays, wanted):
    assert [*arrays] == [*wanted]
    for name, array in arrays.items():
        assert_same(dense(array), wanted[name])


@pytest.mark.parametrize("seed", studied(range(4), 1))
def test_random_programs_run_and_step_as_the_dense_network_does(seed, tmp_path):
    program = drawn(seed)
    model, thin = pair(program, "float64" if seed == 1 else "float32")
    inputs = sample_inputs(program.inputs, 3, 12, seed)
    kernels = [n for n, p in thin.module.places().items() if p.pattern is not None]
    assert kernels and all("kernel" in name or "table" in name for name in kernels)
    assert_dense(thin.module.parameter_arrays(), model.module.parameter_arrays())
    assert thin.num_nonzero_parameters == model.num_nonzero_parameters
    assert thin.num_parameters == model.num_parameters
    wanted = model.run(*inputs)
    assert_same(thin.run(*inputs), wanted)
    first = [array[:, :7] for array in inputs]
    outputs, state = thin.run(*first, return_state=True)
    assert_same(outputs, wanted[:, :7])
    for t in range(7, 12):
        output, state = thin.step(state, *(array[:, t] for array in inputs))
        assert_same(output, wanted[:, t])
    module = thin.module
    with module.mode():
        arrays = tuple(jax.numpy.asarray(x) for x in thin.features(inputs))
        outputs, _ = apply_sequence(module.parameters(), module.structure, arrays)
    assert_same(outputs, wanted)
    thin.save(tmp_path / "thin")
    loaded = lsrl.load(tmp_path / "thin")
    held = module.parameter_arrays()
    assert all(same_bits(array, held[n]) for n, array in loaded.module.parameter_arrays().items())
    assert loaded.module.structure == module.structure
    assert hash(loaded.module.structure) == hash(module.structure)


def test_derivatives_and_copies_are_those_of_the_dense_network(majority):
    model, thin = (one.module for one in majority)
    ids = (np.random.default_rng(0).integers(0, 2, (2, 9)),)

    def total(module):
        def loss(parameters):
            outputs, _ = apply_sequence(parameters, module.structure, ids)
            return (outputs * outputs).sum()

        return loss

    wanted, found = (jax.jit(jax.grad(total(x)))(x.parameters()) for x in (model, thin))
    for name, place in thin.places().items():
        gradient = np.asarray(wanted[name])
        if place.pattern is not None:
            gradient = gradient[place.pattern.rows, place.pattern.columns]
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-5)
    twice = jax.tree.map(lambda x: jax.numpy.stack([x, 2 * x]), thin.parameters())
    run = jax.vmap(lambda p: apply_sequence(p, thin.structure, ids)[0])
    assert_same(run(twice)[0], model.run(ids))


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_what_goes_on_by_itself_goes_on_alike(dtype):
    @lsrl.program(feedback=lsrl.Feedback("bus", output=slice(0, 2)))
    def turns(bus: Vector(2, low=0, high=3, step=1)):
        return lsrl.concat(bus[1], 3 - bus[0])

    model, thin = pair(turns, dtype)
    runs = [one.loop([[1, 2]], steps=9) for one in (model, thin)]
    assert_same(runs[1].outputs, runs[0].outputs)
    model, thin = pair(programs.tok2tok(2, vocab=4), dtype)
    assert_same(thin.generate([[1, 2, 3]], 6), model.generate([[1, 2, 3]], 6))


def test_weights_are_replaced_at_their_places_and_rebuilt_anywhere(majority):
    model, thin = (lsrl.compile(programs.majority(), one) for one in (DENSE, "thin"))
    name = "layers.0.input_kernel"
    ids = np.random.default_rng(1).integers(0, 2, (2, 9))
    for change in (lambda x: 3 * x, lambda x: 0 * x):
        for one in (model, thin):
            one.module.replace_parameters({name: change(majority[0].module.arrays()[name])})
        assert_same(thin.run(ids), model.run(ids))
        assert (
            thin.module.parameter_arrays()[name].nnz
            == thin.module.structure.pattern[name].columns.size
        )
    assert name not in thin.module.prepared()  # which has no weight now
    free = np.ones_like(majority[0].module.arrays()[name])
    with pytest.raises(ShapeError, match=rf"{name}' is sparse and has no weight at .*rebuilt"):
        thin.module.replace_parameters(
            {name: np.where(dense(majority[1].module.arrays()[name]), 0, 1)}
        )
    arrays = majority[1].module.arrays()
    for given in (free, sp.csr_array(free)):
        made = thin.module.rebuilt({**arrays, name: given})
        assert made.parameter_arrays()[name].nnz == free.size
        assert_same(
            made.run((ids,)),
            model.module.rebuilt({**majority[0].module.arrays(), name: free}).run((ids,)),
        )
    assert thin.module.rebuilt(arrays).structure == majority[1].module.structure


def test_noise_is_of_weights_and_of_nothing_else(majority):
    model, thin = majority
    ids = np.random.default_rng(0).integers(0, 2, (2, 9))
    for change in (perturbations.INTEGERS, perturbations.Rounding("bfloat16")):
        level = change.levels[-1]
        runs = [copies.run_copies(x, [ids], change, [level], [0]) for x in (model, thin)]
        assert_same(runs[1], runs[0])
    seen = []
    change = perturbations.Change("seen", function=lambda *given: seen.append(given) or given[1])
    copies.run_copies(thin, [ids], change, [1.0], [0])
    held = thin.module.parameter_arrays()
    assert all(np.array_equal(array, entries(held[name])) for name, array, *_ in seen)
    ranged = perturbations.WeightNoise("range", unit="range")
    noisy = copies.run_copies(thin, [ids], ranged, [0.1, 0.1], [0, 0])
    assert (noisy[0] != thin.run(ids)).any() and np.array_equal(*noisy)
    made = noise.noised(thin, 1, sigma=0.01).module.parameter_arrays()
    assert all(made[name].nnz == held[name].nnz for name in thin.module.structure.pattern)


@pytest.mark.parametrize("target", studied(CELLS, "lstm"))
def test_stock_cells_with_sparse_kernels_are_the_same_cells(target, tmp_path):
    """Whole sequences both ways, steps, files, derivatives and other weights."""
    model, thin = (lsrl.compile(programs.majority(), name) for name in (target, f"thin_{target}"))
    assert_dense(thin.module.parameter_arrays(), model.module.parameter_arrays())
    names = [*thin.module.structure.pattern]
    assert sum("dense_" in name for name in names) == 2 * thin.num_layers
    ids = np.random.default_rng(0).integers(0, 2, (6, 9))
    wanted = model.run(ids)
    assert_same(thin.run(ids[:2]), wanted[:2])  # layer by layer
    found, state = thin.run(ids, return_state=True)  # all layers in the step
    assert_same(found, wanted)
    ends = (one.step(state, ids[:, 6])[0] for one in (model, thin))
    assert_same(*ends)
    thin.save(tmp_path / "thin")
    loaded, held = lsrl.load(tmp_path / "thin").module, thin.module.arrays()
    assert loaded.structure == thin.module.structure
    assert all(same_bits(array, held[n]) for n, array in loaded.arrays().items())

    @partial(jax.jit, static_argnums=0)
    def gradients(structure, parameters):
        def total(parameters):
            return model.module.pure_step(parameters, structure, state.hidden, (ids[:, 0],))[
                0
            ].sum()

        return jax.grad(total)(parameters)

    known, own = (
        one.module.named(gradients(one.module.structure, one.module.parameters()))
        for one in (model, thin)
    )
    for name, place in thin.module.places().items():
        whole = np.asarray(known[name])
        if place.pattern is not None:
            whole = whole[place.pattern.rows, place.pattern.columns]
        np.testing.assert_allclose(own[name], whole, rtol=1e-5, atol=1e-5)
    made = thin.module.rebuilt({**held, "output_kernel": dense(held["output_kernel"])})
    assert made.structure == thin.module.structure


@pytest.fixture(scope="module")
def wide():
    """What no machine holds as dense arrays, and its peak of memory in bytes."""

    @lsrl.program
    def wide(x: Token(50257)):
        return lsrl.delay(lsrl.one_hot(x, 50257)[3:5].sum(), 20_000) + x

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = lsrl.compile(wide, "linear_rnn")
    ids = np.array([[3, 4, 5, 50256] * 5100])
    found = model.run(ids)
    wanted = ids[..., None].astype(float)
    wanted[:, 20_000:, 0] += np.isin(ids, (3, 4))[:, :-20_000]
    np.testing.assert_array_equal(found, wanted)
    return model, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def test_a_wide_program_takes_what_its_weights_take(wide, tmp_path):
    model, peak = wide
    assert model.num_parameters > 4e8 and peak < 2**29
    assert entries_of(model) < 300_000
    assert "3 of 8 arrays are sparse" in model.summary()
    state = model.init_state()
    output, _ = model.step(state, 3)
    assert output.tolist() == [3]
    model.save(tmp_path / "wide")
    assert (tmp_path / "wide").stat().st_size < 2**23
    assert lsrl.load(tmp_path / "wide").module.structure == model.module.structure
    sizes = registry.find("linear_rnn").sizes(model.schedule, model.numerics)
    arrays = model.module.parameter_arrays()
    assert {n: (s.shape, s.numbers) for n, s in sizes.items()} == {
        n: (x.shape, entries(x).size) for n, x in arrays.items()
    }


def entries_of(model):
    return sum(entries(array).size for array in model.module.parameter_arrays().values())


def test_what_knows_no_sparse_parameters_refuses_large_ones(wide, tmp_path):
    model, _ = wide
    with pytest.raises(
        SizeError, match=r"an export is dense: it would be 3,9.* numbers.*model\.save"
    ):
        model.export("torch", tmp_path / "torch")
    assert not (tmp_path / "torch").exists()
    with pytest.raises(SizeError, match=r"50,257 x 50,258 entries.* smaller program"):
        permute.permuted(model, 0)


@pytest.mark.studies
def test_small_sparse_networks_are_moved_and_exported_as_dense_ones_are(majority, tmp_path):
    model, thin = majority
    ids = np.random.default_rng(0).integers(0, 2, (2, 9))
    shuffled = permute.permuted(thin, 3)
    assert_same(shuffled.run(ids), model.run(ids))
    assert [*shuffled.module.structure.pattern] == [*thin.module.structure.pattern]
    pytest.importorskip("torch")
    half = lsrl.compile(programs.majority(), "thin", dtype="bfloat16")
    for one in (thin, half, lsrl.compile(programs.majority(), "thin_lstm")):
        one.export("torch", tmp_path / f"{one.target}_{one.dtype}")
        found = lsrl.load_torch(tmp_path / f"{one.target}_{one.dtype}").run(ids)
        assert f"{found.dtype}" == f"torch.{one.dtype}"
        assert_same(found.detach().double(), model.run(ids))


def test_a_machine_without_the_memory_is_told_before(monkeypatch):
    monkeypatch.setattr(support, "memory", lambda: 2**6)
    with pytest.raises(SizeError, match=r"need .* GiB while they are made, and this machine has"):
        lsrl.compile(programs.majority(), "linear_rnn")


def test_products_and_rows_of_a_pattern_are_those_of_its_matrix():
    rng = np.random.default_rng(0)
    for rows, columns, share in ((5, 0, 0), (70, 30, 0.1)):
        matrix = np.where(
            rng.random((rows, columns)) < share, rng.integers(-9, 9, (rows, columns)), 0
        )
        pattern = Pattern(matrix)
        values = pattern.values(matrix, "").astype(np.float32)
        vectors = rng.integers(-9, 9, (2, 3, rows)).astype(np.float32)
        assert_same(jax.jit(pattern.product)(values, vectors), vectors @ matrix)
        ids = rng.integers(0, rows, (2, 4))
        assert_same(jax.jit(pattern.looked_up)(values, ids), matrix[ids])
        assert pattern.picks == bool(((matrix != 0).sum(0) <= 1).all())


def test_a_sparse_kernel_that_only_picks_is_no_product(majority):
    thin = majority[1].module
    found = {n for n, x in thin.prepared().items() if isinstance(x, Picked)}
    patterns = thin.structure.pattern.items()
    assert found == {n for n, p in patterns if p.picks and p.columns.size and "kernel" in n}
    assert found and any(not p.picks for _, p in patterns)
