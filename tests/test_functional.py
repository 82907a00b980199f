"""`Model.apply`: a pure function that jax transforms, against `Model.run`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsrl
from lsrl.backends.network import apply_sequence
from lsrl.errors import InputError
from lsrl.testing.random_ops import LINEAR_OPS
from lsrl.testing.verification import sample_inputs
from tests.grids import studied

TARGETS = ("linear_rnn", "gated_linear_rnn", "rnn", "lstm", "gru", "mamba", "mamba2", "griffin",
           "deltanet")  # fmt: skip


@pytest.mark.parametrize("target", studied(TARGETS, "linear_rnn"))
def test_apply_is_run_under_every_transformation(target):
    model = lsrl.compile(lsrl.programs.majority(16), target)
    assert model.certificate.exact
    ids = np.random.default_rng(0).integers(0, 2, (2, 16))
    expected, weights = model.run(ids), model.parameters

    @jax.jit
    def transformed(parameters, ids):
        first, state = model.apply(parameters, ids[:, :7], return_state=True)
        rest, state = model.apply(parameters, ids[:, 7:], state, return_state=True)
        return state, (
            model.apply(parameters, ids),
            model.apply(parameters, jax.nn.one_hot(ids, 2)),
            model.apply(weights, ids),  # known while jax traces
            jax.vmap(model.apply, (None, 0))(parameters, ids),
            jnp.concatenate([first, rest], axis=1),
        )

    state, found = transformed(weights, ids)
    for each in found:
        np.testing.assert_array_equal(each, expected, strict=True)
    assert (state.position, state.batch) == (16, 2)
    after = model.run(ids, return_state=True)[1]
    assert jax.tree.all(jax.tree.map(np.array_equal, state.hidden, after.hidden))
    np.testing.assert_array_equal(model.apply(weights, ids[0]), expected[0], strict=True)


@pytest.mark.studies
def test_all_tokens_at_once_have_the_derivatives_of_token_by_token():
    """Of weights that are no program's, whose recurrent kernels are full."""
    module = lsrl.compile(lsrl.programs.majority(16), "linear_rnn").module
    rng, structure = np.random.default_rng(0), module.structure
    p = jnp.asarray(rng.dirichlet(np.ones(2), (2, 11)), jnp.float32)
    weights = jax.tree.map(
        lambda w: w + jnp.asarray(rng.normal(size=w.shape) / 5, w.dtype), module.parameters()
    )

    def total(run):
        return lambda weights, p: jnp.sin(run(weights, p)[0]).sum()

    def one_by_one(weights, p):
        state = module.first_state(weights, (2,))
        return apply_sequence(module.pure_step, weights, structure, state, (p,))

    at_once = total(lambda weights, p: module.apply(weights, (p,)))
    one, other = jax.jit(
        lambda *given: [jax.grad(f, (0, 1))(*given) for f in (at_once, total(one_by_one))]
    )(weights, p)
    assert max(float(abs(g).max()) for g in jax.tree.leaves(other)) > 1
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), one, other)


@pytest.mark.parametrize("seed", studied(range(12)))
def test_random_programs_give_the_same_bits(seed):
    program = lsrl.random_program(seed, LINEAR_OPS, depth=4, width=4, max_length=16)
    model = lsrl.compile(program, "linear_rnn")
    inputs = sample_inputs(program.inputs, 3, 16, seed)
    given = inputs[0] if len(inputs) == 1 else tuple(inputs)
    found = jax.jit(model.apply)(model.parameters, given)
    if model.certificate.exact:
        np.testing.assert_array_equal(found, model.run(*inputs), strict=True)


def test_bad_inputs_are_told():
    model = lsrl.compile(lsrl.programs.modular_sum(3, 8), "linear_rnn")
    weights, halves = model.parameters, np.full((2, 4, 3), 0.5)
    with pytest.raises(InputError, match=r"with the sum 1, got \[0.5, 0.5, 0.5\] at sequence 0, t"):
        model.apply(weights, halves)
    with pytest.raises(
        InputError, match=r"\(time, 3\) or \(batch, time, 3\), got shape \(2, 4, 4\)"
    ):
        model.apply(weights, np.full((2, 4, 4), 0.25))
    with pytest.raises(InputError, match="expected ints from 0 to 2"):
        model.apply(weights, np.array([[3]]))
    with pytest.raises(InputError, match="max_length=8"):
        jax.jit(model.apply)(weights, np.zeros((1, 9), int))
    with pytest.raises(InputError, match="expected 1 input"):
        model.apply(weights, (np.zeros((1, 2), int), np.zeros((1, 2), int)))
    wide = lsrl.compile(lsrl.programs.modular_sum(3, 8), "linear_rnn", dtype="float64")
    np.testing.assert_array_equal(wide.apply(wide.parameters, [0, 1, 2]), [[0], [1], [0]])
    narrow = jax.tree.map(lambda w: np.asarray(w, np.float32), wide.parameters)
    with pytest.raises(InputError, match="expected parameters of float64, got input_bias: float32"):
        wide.apply(narrow, np.zeros((1, 2), int))
