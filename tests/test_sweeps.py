"""Whole sequences of exact networks by units: the same bits as by jax."""

import jax
import numpy as np
import pytest

import lsrl
from lsrl.backends.sweeps import FEW, Sweep, possible
from lsrl.backends.units import Units, units_of
from lsrl.errors import InputError, LsrlError
from lsrl.interpret import capture
from lsrl.interpret.interventions import wiring_of
from lsrl.interpret.reading import reading_of
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import sample_inputs

pytestmark = pytest.mark.one_in(2)

TARGETS = ("linear_rnn", "gated_linear_rnn", "rnn")
STOCK = ("cumsum", "delay", "relu", "select", "mod")


def exact_models(target: str, seed: int) -> list[tuple[Model, Units]]:
    """Two models of random programs that are exact."""
    found: list[tuple[Model, Units]] = []
    for number in range(seed, seed + 400, 7):
        ops = None if target.endswith("linear_rnn") else STOCK
        try:
            model = lsrl.compile(random_program(number, ops, depth=5, width=5), target)
        except LsrlError:
            continue
        stack = model.module.stack()
        assert stack is not None
        if model.certificate.exact:
            found.append((model, units_of(stack)))
        if len(found) == 2:
            return found
    raise AssertionError("no exact programs")


def check_alike(
    model: Model, units: Units, batch: int, seed: int
) -> tuple[list[Array], list[Array]]:
    """Two halves, with the state between them, are what the evaluator gives; returns the latter."""
    assert possible(units)
    inputs = sample_inputs(model.program.inputs, batch, 10, seed)
    first, then = [x[:, :5] for x in inputs], [x[:, 5:] for x in inputs]
    sweep = Sweep(units, np.dtype(model.dtype))
    start = jax.tree.leaves(model.init_state(1).hidden)
    outputs, state = sweep.run(first, sweep.started(list(map(np.asarray, start))), 1, True)
    rest, _ = sweep.run(then, sweep.started(state), 1, False)
    wanted = np.asarray(model.program.run(*inputs), model.dtype)
    assert np.array_equal(np.concatenate([outputs, rest], axis=1), wanted)
    assert outputs.dtype == model.dtype
    return first, state


@pytest.mark.parametrize("target", TARGETS)
def test_random_programs_alone_and_abreast(target: str) -> None:
    (model, units), _ = exact_models(target, 3)
    check_alike(model, units, 2, 0)
    check_alike(model, units, FEW + 1, 1)


def check_hooks(model: Model, batch: int) -> None:
    """What is read off the network, in one pass, is what jax has layer by layer."""
    wiring, watched = wiring_of(model), reading_of(model.circuit).units
    inputs = sample_inputs(model.program.inputs, batch, 10, batch)
    stack = model.module.stack()
    assert stack is not None
    units = units_of(stack, watched)
    assert possible(units)
    sweep = Sweep(units, np.dtype(model.dtype))
    start = list(map(np.asarray, jax.tree.leaves(model.init_state(1).hidden)))
    found, _ = sweep.run(inputs, sweep.started(start), 1, False, np.float64)
    hooks = wiring.run(inputs, hooks=True)[1]
    wanted = [hook[..., list(some)] for hook, some in zip(hooks, watched, strict=True)]
    assert found.dtype == np.float64
    assert np.array_equal(found, np.concatenate(wanted, axis=-1))


@pytest.mark.parametrize("target", TARGETS)
def test_entries_of_hooks(target: str) -> None:
    for model, _ in exact_models(target, 3):
        check_hooks(model, 2)
    check_hooks(lsrl.compile(lsrl.programs.tok2tok(3, 10), target), FEW + 1)


@pytest.mark.parametrize("target", TARGETS)
def test_signals_are_captured_by_the_faster_runner(target: str) -> None:
    model = lsrl.compile(lsrl.programs.tok2tok(3, 10), target)
    ids = np.random.default_rng(0).integers(0, 10, (3, 20))
    held, meant = capture(model, ids), capture(model, ids, on="evaluator")
    assert held.keys() == meant.keys()
    for name, values in held.items():
        known = model.circuit.held[name]
        assert np.array_equal(values[..., known], meant[name][..., known]), name
        assert np.isnan(values[..., ~known]).all() and not np.signbit(values[values == 0]).any()
    some = capture(model, ids, signals=["match"])
    assert np.array_equal(some["match"], meant["match"])


@pytest.mark.studies
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", [1, 2])
def test_further_random_programs(target: str, seed: int) -> None:
    for model, units in exact_models(target, seed):
        check_alike(model, units, FEW + 1, seed)
        first, state = check_alike(model, units, 3, seed)
        _, middle = model.run(*first, return_state=True, runner="jax")
        for mine, its in zip(state, jax.tree.leaves(middle.hidden), strict=True):
            assert mine.dtype == its.dtype and np.array_equal(mine, its)


def test_ids_that_are_looked_up() -> None:
    @lsrl.program(max_length=20)
    def signs(first: lsrl.Token(6), second: lsrl.Token(4)) -> lsrl.Signal:  # type: ignore[valid-type]
        table = lsrl.lookup(first, np.array([3, -1, 4, 1, -5, 9]))
        return lsrl.concat(table * 1, lsrl.relu(table + second - 3), lsrl.cumsum(first))

    model = lsrl.compile(signs, "linear_rnn")
    stack = model.module.stack()
    assert stack is not None
    check_alike(model, units_of(stack), FEW, 0)


@pytest.mark.parametrize("target", ["linear_rnn", "rnn"])
def test_delays_of_one_signal_that_begin_differently(target: str) -> None:
    @lsrl.program(max_length=40)
    def copies(x: lsrl.Token(9)) -> lsrl.Signal:  # type: ignore[valid-type]
        first, second = lsrl.delay(x, 1, initial=5.0), lsrl.delay(x, 1, initial=3.0)
        far = lsrl.delay(first, 2, initial=1.0) + lsrl.delay(second, 1, initial=2.0)
        return lsrl.concat(first + 2 * second, far, lsrl.delay(x, 5), lsrl.relu(far - x))

    model = lsrl.compile(copies, target)
    stack = model.module.stack()
    assert stack is not None
    for sequences in (2, FEW):
        check_alike(model, units_of(stack), sequences, 0)


@pytest.mark.parametrize("target", ["linear_rnn", "gru"])
def test_run_by_events(target: str) -> None:
    @lsrl.program
    def late(x: lsrl.Token(5)) -> lsrl.Token(5):  # type: ignore[valid-type]
        return lsrl.delay(x, 2)

    model = lsrl.compile(late, target)
    ids = np.random.default_rng(0).integers(5, size=(3, 12))
    wanted, after = model.run(ids, return_state=True, runner="jax")
    outputs, state = model.run(ids[:, :7], return_state=True, runner="events")
    assert np.array_equal(outputs, wanted[:, :7])
    outputs, state = model.run(ids[:, 7:], state=state, return_state=True, runner="events")
    assert np.array_equal(outputs, wanted[:, 7:]) and state.position == after.position
    assert np.array_equal(model.run(ids[0], runner="events"), wanted[0])
    with pytest.raises(InputError, match="no chunk and no mesh"):
        model.run(ids, chunk=4, runner="events")
    with pytest.raises(InputError, match="runner must be 'auto', 'events' or 'jax'"):
        model.run(ids, runner="fast")  # type: ignore[call-overload]
