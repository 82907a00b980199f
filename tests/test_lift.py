"""Black boxes become the programs that they compute, and are refused with the reason."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lsrl
from benchmarks.lift import automaton, hidden, recurrence
from lsrl.errors import InductionError, InputError
from lsrl.induction import asking
from lsrl.induction.machines import Machine
from lsrl.induction.realisation import realised
from lsrl.interpret import variants

pytestmark = pytest.mark.one_in(5)

WHOLE = lsrl.Vector(1, low=-4, high=4, step=1)


def random_machine(rng, states, letters=2, outputs=2):
    tables = rng.integers(0, states, (states, letters)), rng.integers(0, outputs, (states, letters))
    return Machine(*(tuple(map(tuple, table.tolist())) for table in tables), ())


# ---------------------------------------------------------------- recurrences


@pytest.mark.parametrize("basis", ["integers", "rationals"])
def test_hidden_recurrences_come_back_exactly(basis):
    rng = np.random.default_rng(4)
    for _ in range(5):
        true = recurrence(rng)
        width = true.write.shape[1]
        kind = lsrl.Vector(width, low=-4, high=4, step=1)
        found = lsrl.lift(hidden(true, basis, rng), inputs={"x": kind})
        assert found[0].solver == "affine" and len(found) == 1
        x = rng.integers(-4, 5, (3, 200, width))
        assert (found.program.run(x.astype(float), exact=True) == true.run(x)).all()
        matrix = found.source().count("linear_state")
        assert matrix <= 1  # one state for all outputs


def test_states_are_of_least_order_and_of_integers():
    """Two outputs share their states, and where no companion is of integers another basis is."""
    rng = np.random.default_rng(0)
    shared = 0
    for _ in range(12):
        true = recurrence(rng)
        taps, state = [], true.write
        for _ in range(30):
            taps.append((true.read @ state).T)
            state = true.matrix @ state
        taps = np.array(taps).astype(float)
        made = realised(taps)
        hankel = np.block([[taps[i + j].T for j in range(8)] for i in range(8)])
        assert len(made.matrix) <= np.linalg.matrix_rank(hankel) <= len(true.matrix)
        parts = [made.matrix, made.write, made.read]
        assert all((part % 1 == 0).all() for part in parts)
        assert max(np.abs(part).max() for part in parts) < 1000
        np.testing.assert_array_equal(made.taps(30, exact=True).astype(float), taps)
        shared += len(made.read) == 2 and made.matrix[-1].any()
    assert shared > 2


def test_real_numbers_are_lifted_up_to_rounding_which_is_told():
    weights = np.array([[0.5, 0.3], [-0.3, 0.5]], np.float32), np.array([1, 0.7], np.float32)

    def cell(x):
        state, said = np.zeros((len(x), 2), np.float32), []
        for token in range(x.shape[1]):
            state = state @ weights[0].T + x[:, token].astype(np.float32) * weights[1]
            said.append(state[:, 0])
        return np.stack(said, axis=1)

    inputs = {"x": lsrl.Vector(1, low=-1, high=1)}
    found = lsrl.lift(cell, inputs=inputs)
    assert 0 < found.checked.error < 1e-5 and found.checked.tolerance == 2**-11.5
    assert "np.array([[0, 1]" in found.expression  # of order 2
    exact = lsrl.lift(cell, inputs=inputs, tolerance=0)
    assert not exact and "where the network says" in exact.refusals[0].reason


def test_symbols_start_values_and_constants():
    def box(x, y):
        late = np.pad(x, ((0, 0), (1, 0)), constant_values=2)[:, :-1]
        return np.array([5, 1, 2, 7])[x] + late - 3 * y[..., 0] + 1

    found = lsrl.lift(box, inputs={"x": lsrl.Token(4), "y": lsrl.Vector(1, low=2, high=9, step=1)})
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (20, 90)), rng.integers(2, 10, (20, 90, 1))
    np.testing.assert_array_equal(found.program.run(x, y)[..., 0], box(x, y))


def test_nothing_is_claimed_of_numbers_that_float64_has_not_one_by_one():
    def tripled(x):
        state, said = np.zeros(len(x)), []
        for token in range(x.shape[1]):
            state = 3 * state + x[:, token, 0]
            said.append(state)
        return np.stack(said, axis=1)

    found = lsrl.lift(tripled, inputs={"x": WHOLE})
    assert found.expression == "lsrl.linear_state(x, 3)"
    assert 25 < found.verified_to == found.checked.length < 35


# ---------------------------------------------------------------- machines


def test_machines_come_back_through_networks():
    rng = np.random.default_rng(2)
    program, plain = automaton(rng)
    model = variants.permuted(lsrl.compile(program, "lstm"), seed=1)
    found = lsrl.lift(model, solvers=["automaton"])
    x = rng.integers(0, program.inputs["x"].size, (50, 200))
    np.testing.assert_array_equal(found.program.run(x)[..., 0], plain(x))
    assert found.checked.states > 2 and found.verified_to == 50


def test_the_w_method_finds_every_machine_of_few_states_more():
    """All words that it asks agree only with machines that are the same."""
    rng, told = np.random.default_rng(0), 0
    words = np.array(list(itertools.product(range(2), repeat=9)))
    for _ in range(60):
        true = random_machine(rng, 3)
        learnt = asking.learnt(true.run, 2, [words], 40, depth=1)
        np.testing.assert_array_equal(learnt.machine.run(words), true.run(words))
        tests, depth = asking.tests_of(learnt.machine, 1, 40)
        assert depth == 1
        other = random_machine(rng, len(learnt.machine.follows) + 1)
        near = Machine(true.follows, other.answers[:3], ()) if len(other.answers) > 2 else other
        for each in (other, near):
            differs = (each.run(words) != true.run(words)).any()
            assert differs == (each.run(tests) != learnt.machine.run(tests)).any()
            told += differs
    assert told > 60


def test_short_words_tell_what_they_can():
    """No word of more than 6 symbols is asked, and no more is claimed."""
    true = random_machine(np.random.default_rng(3), 4)
    asked = []

    def oracle(words):
        asked.append(words.shape[1])
        return true.run(words)

    words = np.array(list(itertools.product(range(2), repeat=6)))
    learnt = asking.learnt(oracle, 2, [words], 6, depth=2)
    assert max(asked) == 6 and learnt.depth is None
    np.testing.assert_array_equal(learnt.machine.run(words), true.run(words))


# ---------------------------------------------------------------- all else


def majority(x):
    return (2 * np.cumsum(x, axis=1) > 1 + np.arange(x.shape[1])).astype(int)


def test_what_counts_without_end_is_composed():
    found = lsrl.lift(
        majority, inputs={"x": lsrl.Token(2)}, solvers=["affine", "compose"], budget=20_000
    )
    assert found[0].solver == "compose"
    x = np.random.default_rng(0).integers(0, 2, (50, 250))
    np.testing.assert_array_equal(found.program.run(x)[..., 0], majority(x))
    assert [each.solver for each in found.refusals] == ["affine"]


def test_where_nothing_fits_each_solver_says_why():
    def scrambled(x):
        state, said = np.zeros(len(x), np.int64), []
        for token in range(x.shape[1]):
            state = (state * 6364136 + x[:, token] * 1442695 + 12345) % 2**31
            said.append(state >> 27)
        return np.stack(said, axis=1)

    found = lsrl.lift(scrambled, inputs={"x": lsrl.Token(2)}, budget=2_000)
    assert not found and found.checked.error is None
    reasons = {each.solver: each.reason for each in found.refusals}
    assert re.search(r"at token \d of sequence \d+ after x = \[[01, ]+\]: ", reasons["affine"])
    assert reasons["automaton"] == "no machine of at most 64 states answers so"
    assert reasons["compose"] == "no composition among 2,000 candidates"
    with pytest.raises(InductionError, match=r"nothing was lifted \(affine: not affine.*queries"):
        found.compile("lstm")
    few = lsrl.lift(scrambled, inputs={"x": lsrl.Token(2)}, queries=300, solvers=["automaton"])
    assert few.refusals[0].reason == "it takes more than 300 queries"
    assert few.checked.queries <= 300


class Table(nnx.Module):
    """Logits of whether the symbols so far add up to a multiple of 3."""

    def __init__(self):
        self.logits = nnx.Param(jnp.array([[0.0, 2.0], [1.0, -1.0], [0.5, 0.25]]))

    def __call__(self, x):
        return self.logits[jnp.cumsum(x, axis=1) % 3], self.logits[...]


def test_modules_of_flax_are_asked_as_they_are_called():
    found = lsrl.lift(Table(), inputs={"x": lsrl.Token(3)}, outputs="argmax", solvers=["automaton"])
    x = np.random.default_rng(0).integers(0, 3, (20, 120))
    np.testing.assert_array_equal(found.program.run(x)[..., 0], np.cumsum(x, axis=1) % 3 == 0)
    assert found.checked.states == 5


def test_modules_of_torch_are_asked_as_they_are_called():
    torch = pytest.importorskip("torch")
    network = torch.nn.RNN(1, 2, nonlinearity="relu", bias=False, batch_first=True)
    with torch.no_grad():
        network.weight_ih_l0.copy_(torch.tensor([[1.0], [0.0]]))
        network.weight_hh_l0.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    inputs = {"x": lsrl.Vector(1, low=0, high=9, step=1)}
    found = lsrl.lift(network, inputs=inputs)
    assert "return lsrl.concat(x, lsrl.delay(x))" in found.source()
    x = np.random.default_rng(0).integers(0, 10, (5, 20, 1)).astype(float)
    late = np.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    np.testing.assert_array_equal(found.program.run(x), np.concatenate([x, late], axis=2))
    network.batch_first = False
    with pytest.raises(InputError, match=r"other sequences of the batch.*batch_first=True"):
        lsrl.lift(network, inputs=inputs)


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x + self.calls


BIT = {"x": lsrl.Token(2)}
MISUSES = {
    "a program": (lambda: lsrl.lift(lsrl.programs.majority()), "is LSRL source already"),
    "no function": (lambda: lsrl.lift(3, inputs=BIT), "expects a function of arrays.*got 3"),
    "no types": (lambda: lsrl.lift(majority), r'inputs=\{"x": lsrl.Token\(n\)\}'),
    "no type": (lambda: lsrl.lift(majority, inputs={"x": 2}), "lsrl.Token or lsrl.Vector, got 2"),
    "it raises": (lambda: lsrl.lift(lambda x: 1 // 0, inputs=BIT), "raises ZeroDivisionError"),
    "a shape": (lambda: lsrl.lift(lambda x: x[:, :-1], inputs=BIT), r"answers shape \(6, 49\)"),
    "text": (lambda: lsrl.lift(lambda x: x.astype(str), inputs=BIT), "expected numbers"),
    "nan": (lambda: lsrl.lift(lambda x: x * np.nan, inputs=BIT), "NaN or infinities"),
    "the future": (
        lambda: lsrl.lift(lambda x: x[:, ::-1], inputs=BIT), "depends on later tokens"
    ),
    "a memory": (lambda: lsrl.lift(Counting(), inputs=BIT), "asked twice.*dropout"),
    "a batch": (lambda: lsrl.lift(lambda x: x - x.mean(0), inputs=BIT), "other sequences"),
    "a reading": (lambda: lsrl.lift(majority, inputs=BIT, outputs="argmx"), "mean 'argmax'"),
    "a solver": (lambda: lsrl.lift(majority, inputs=BIT, solvers=["afine"]), "mean 'affine'"),
    "a length": (lambda: lsrl.lift(majority, inputs=BIT, length=0), "length must be an int >= 1"),
    "queries": (lambda: lsrl.lift(majority, inputs=BIT, queries=0), "must be an int >= 250"),
    "a tolerance": (lambda: lsrl.lift(majority, inputs=BIT, tolerance=-1), "tolerance must be"),
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_told(misuse):
    call, message = MISUSES[misuse]
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.studies
def test_the_benchmark_runs(tmp_path, monkeypatch):
    from benchmarks import lift

    monkeypatch.setattr(lift, "KEPT", tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's
        lift.main(quick=True, output=tmp_path, seed=7)
    page = (tmp_path / "lift.md").read_text()
    assert "8 of 8 hidden recurrences are lifted" in page
    assert "1 of 1 trained networks are lifted, 1 of them to their task" in page
