"""Exact networks run by events: the same bits as by jax, with numba and in plain Python."""

import copy
import importlib.util
import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

import lsrl
from lsrl.backends import events
from lsrl.backends.curves import curved
from lsrl.backends.factors import csr, factor
from lsrl.backends.machines import Wired
from lsrl.backends.runner import Ready, Runner
from lsrl.backends.shortening import shortened
from lsrl.backends.units import Units, units_of
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.looping import RunnerName
from lsrl.model import Model
from lsrl.state import State
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import sample_inputs
from tests import machines
from tests.grids import small_catalogue

pytestmark = pytest.mark.one_in(2)

TARGETS = ("linear_rnn", "gated_linear_rnn", "rnn", "lstm", "gru")
RARE = ("linear_rnn", "rnn", "gru")


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The engine as it is without numba."""
    spec = importlib.util.spec_from_file_location("plain_events", events.__file__)
    assert spec is not None and spec.loader is not None
    module, known = importlib.util.module_from_spec(spec), sys.modules.get("numba")
    sys.modules["numba"] = None  # type: ignore[assignment]
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["numba"]
        if known is not None:
            sys.modules["numba"] = known
    assert not module.COMPILED
    return module


def in_plain_python(model: Model, engine: ModuleType) -> Model:
    """The model, whose events run in plain Python."""
    wired = Wired(model.module.stack(), model.dtype, engine)
    model._runner = Runner()
    setattr(model._runner, "ready", lambda network, why_not: Ready(wired, ""))  # noqa: B010
    return model


def stepped(
    model: Model, inputs: list[Any], runner: RunnerName, state: State | None = None
) -> tuple[Array, State]:
    """Outputs and the state after the tokens of one sequence."""
    state, rows = model.init_state() if state is None else state, []
    for token in range(len(inputs[0])):
        row, state = model.step(state, *(x[token] for x in inputs), runner=runner)
        rows.append(row)
    return np.array(rows), state


def check_alike(
    model: Model, seed: int, tokens: int = 8, inputs: list[Any] | None = None
) -> tuple[list[Any], Array]:
    """Steps by events are a run's rows, and states go on either way; returns what both were."""
    if inputs is None:
        inputs = [x[2] for x in sample_inputs(model.program.inputs, 3, 2 * tokens, seed)]
    first, then = [x[:tokens] for x in inputs], [x[tokens:] for x in inputs]
    wanted, middle = model.run(*first, return_state=True)
    rows, state = stepped(model, first, "events")
    assert np.array_equal(rows, wanted) and rows.dtype == wanted.dtype
    assert state.position == middle.position
    form = [(x.shape, x.dtype) for x in jax.tree.leaves(middle.hidden)]
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state.hidden)] == form
    if model.target != "lstm":
        # What an LSTM's unit holds behind a shut gate nothing reads, and it is not exact.
        pairs = zip(jax.tree.leaves(state.hidden), jax.tree.leaves(middle.hidden), strict=True)
        assert all(np.array_equal(mine, its) for mine, its in pairs)
    rest = model.run(*then, state=middle)
    assert np.array_equal(model.run(*then, state=state), rest)
    assert np.array_equal(stepped(model, then, "events", middle)[0], rest)
    # The second time it goes back to an older state.
    assert np.array_equal(stepped(model, then, "events", state)[0], rest)
    assert np.array_equal(stepped(model, then, "events", state)[0], rest)
    return first, wanted


@pytest.mark.parametrize("target", TARGETS)
def test_steps_of_a_random_program(target: str, plain: ModuleType) -> None:
    model = exact_model(target, 1)
    read, wanted = check_alike(model, 1)
    assert np.array_equal(stepped(in_plain_python(model, plain), read, "events")[0], wanted)


@pytest.mark.studies
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", [0, 2])
def test_steps_of_further_random_programs(target: str, seed: int) -> None:
    check_alike(exact_model(target, seed), seed)


def exact_model(target: str, seed: int) -> Model:
    ops = None if target.endswith("linear_rnn") else ("cumsum", "delay", "relu", "select", "mod")
    for number in range(seed, 100, 3):
        try:
            model = lsrl.compile(random_program(number, ops, depth=5, width=6), target)
        except lsrl.errors.LsrlError:
            continue
        if model.certificate.exact:
            return model
    raise AssertionError("no exact program")


@pytest.fixture(scope="module")
def computer() -> Model:
    return lsrl.compile(machines.subleq, "linear_rnn")


IMAGES = (
    [9, 10, 3, -1, -1, 6, 11, 0, -1, 1, 2, 0],  # says, halts
    [-1, 9, 3, 9, -1, 6, 11, 11, 0, 0, 0, 0],  # reads keys and says them for ever
    [9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # goes on for ever
)


def same_runs(mine: lsrl.Run[State], its: lsrl.Run[State]) -> bool:
    pairs = [*zip(mine.record[2:9], its.record[2:9], strict=True)]
    pairs += zip(jax.tree.leaves(mine.state), jax.tree.leaves(its.state), strict=True)
    pairs += zip(mine.record.ahead.pending, its.record.ahead.pending, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("keys", [b"", b"\x03\x05"])
def test_loops_halt_and_wait_alike(computer: Model, keys: bytes) -> None:
    prompt = [np.asarray(x) for x in machines.prompt_of(IMAGES)]
    mine, its = (
        computer.loop(*prompt, steps=40, stdin=[keys, keys, b""], runner=runner)
        for runner in ("events", "jax")
    )
    assert same_runs(mine, its) and mine.text == its.text and any(its.waiting)
    # Each goes on by the other.
    more = {"steps": 30, "stdin": b"\x07"}
    crossed = computer.loop(mine, **more, runner="jax"), computer.loop(its, **more, runner="events")
    assert same_runs(*crossed)


def test_loops_in_plain_python(computer: Model, plain: ModuleType) -> None:
    model = in_plain_python(copy.copy(computer), plain)
    prompt = [np.asarray(x)[1] for x in machines.prompt_of(IMAGES)]
    mine, its = (
        model.loop(*prompt, steps=9, stdin=b"\x03", runner=runner) for runner in ("events", "jax")
    )
    assert same_runs(mine, its) and mine.waiting


def test_generates_alike() -> None:
    @lsrl.program
    def following(token: lsrl.Token(5)) -> lsrl.Token(5):
        return lsrl.delay(token, 2)

    model = lsrl.compile(following, "gru")
    prompt = np.array([[1, 2, 3], [4, 0, 2]])
    wanted = model.generate(prompt, 9, runner="jax")
    assert np.array_equal(model.generate(prompt, 9, runner="events"), wanted)


def test_changed_weights_are_noticed(computer: Model) -> None:
    model = lsrl.compile(machines.countdown, "linear_rnn")
    state = model.init_state()
    assert model.step(state, [5.0], runner="events")[0] == 4
    arrays = model.module.parameter_arrays()
    model.module.replace_parameters({"output_kernel": 2 * arrays["output_kernel"]})
    with pytest.raises(InputError, match="runner='events' runs exact models alone"):
        model.step(state, [5.0], runner="events")
    assert model.step(state, [5.0])[0] == 8
    model.module.replace_parameters(arrays)
    assert model.step(state, [5.0], runner="events")[0] == 4


def test_what_is_refused() -> None:
    narrow = lsrl.compile(machines.countdown, "linear_rnn", dtype="bfloat16")
    other = lsrl.compile(machines.countdown, "mamba")
    for model in (narrow, other):
        with pytest.raises(InputError, match="leave runner out"):
            model.loop([[3.0]], steps=2, runner="events")
        assert model.loop([[3.0]], steps=3).outputs.ravel().tolist() == [2, 1, 0]
    with pytest.raises(InputError, match="runner must be 'auto', 'events' or 'jax'"):
        narrow.step(narrow.init_state(), [3.0], runner="evnets")


def test_alike_rows_are_added_up_once() -> None:
    rng = np.random.default_rng(0)
    row = rng.integers(1, 9, 12)
    kernel = csr(np.stack([row * scale for scale in (1, -2, 0.5, 4)] * 5, axis=1))
    found = factor(kernel)
    assert found is not None
    shared, rest = found
    assert shared.nnz + rest.nnz == len(row) + kernel.shape[1]
    count = kernel.shape[0]
    whole = rest[:count].toarray() + shared.toarray() @ rest[count:].toarray()
    assert np.array_equal(whole, kernel.toarray())
    assert factor(csr(np.eye(5))) is None


def ramps(seed: int) -> lsrl.Program:
    """Sums of ramps that read one number, of all kinds, beside another number."""
    rng = np.random.default_rng(seed)

    @lsrl.program(max_length=64)
    def program(pair: lsrl.Vector(2, low=-64, high=256, step=0.25)):  # type: ignore[valid-type]
        x, y = pair[0], pair[1]
        places = rng.integers(-200, 900, 9) / 4
        opens = [lsrl.relu(rng.choice([-2.0, -1.0, 1.0, 2.0]) * (x - place)) for place in places]
        opens += [lsrl.relu(rng.choice([1.0, 4.0]) - ramp) for ramp in opens[:4]]
        rows = []
        for number in range(8):
            some = rng.choice(len(opens), rng.integers(2, 5), replace=False)
            total = sum(float(rng.integers(-4, 5)) * opens[i] for i in some)
            total += float(rng.integers(-9, 9)) + [0, x, y, x - y][number % 4]
            rows.append(lsrl.relu(total) if number % 3 else total)
        for place in range(0, 60, 4):
            tent = lsrl.relu(x - place) - 2 * lsrl.relu(x - place - 2) + lsrl.relu(x - place - 4)
            # Of some what they are 0 at is a third.
            total = tent * (1 if place % 3 else 3) + (y * 0.5 if place % 8 else 0)
            rows.append(lsrl.relu(total - 1))
        return lsrl.concat(*rows)

    return program


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.studies) for n in (1, 2))])
@pytest.mark.parametrize(
    "target", ["linear_rnn", pytest.param("rnn", marks=pytest.mark.studies)]
)  # fmt: skip
def test_what_ramps_make_of_a_number(target: str, seed: int, plain: ModuleType) -> None:
    model = lsrl.compile(ramps(seed), target)
    units = Wired(model.module.stack(), model.dtype).units
    assert len(units.curves.drives) and (len(units.sums.units) > 0) == (target == "linear_rnn")
    read, wanted = check_alike(model, seed, 24)
    assert np.array_equal(stepped(in_plain_python(model, plain), read, "events")[0], wanted)


def driven(units: Units, shown: Array) -> Array:
    """(units,) by what they are driven, of one drive each, where all show so much."""
    found = units.drives @ shown + units.curves.at(shown, units.gates * units.count)
    return np.asarray(found[:: units.gates] + units.bias[:, 0])


@pytest.mark.parametrize("program", [machines.subleq, ramps(0)], ids=["computer", "ramps"])
def test_what_others_tell_is_no_unit(program: lsrl.Program) -> None:
    whole = units_of(lsrl.compile(program, "linear_rnn").module.stack())
    handed_on = shortened(whole)
    few = curved(handed_on)
    assert few.count < handed_on.count < whole.count
    assert few.count + len(few.handed.units) == whole.count
    # What is left is driven as before, wherever all show what those that they read make them show.
    numbers = np.concatenate([leaf.units for leaf in few.leaves])
    of_whole = np.concatenate([leaf.units for leaf in whole.leaves])
    away = of_whole[numbers >= few.count]
    left = ~np.isin(np.arange(whole.count), away)
    cut, ends = few.sums.units, few.sums.starts[1:-1]
    assert len(cut)
    for seed, largest in enumerate((9, 300, 40_000) * 5):
        values = np.random.default_rng(seed).integers(0, largest, whole.count).astype(float)
        for first, last in pairwise(whole.starts):
            made = driven(whole, values)[first:last]
            values[first:last] = np.where(made < whole.lows[first:last], 0, made)
        shown = values[left]
        told = np.concatenate([shown, few.handed.of(shown)])[numbers]
        wanted, found = driven(whole, values), driven(few, shown)
        # Some show the same though they are driven by another number, which is told apart.
        assert np.array_equal(found[cut], np.maximum(wanted[left][cut], 0))
        terms = np.split(few.sums.terms.of(shown), ends)
        found[cut] = few.sums.offsets + [own.sum() for own in terms]
        assert np.array_equal(found, wanted[left])
        # What is left out is told as it is driven.
        assert np.array_equal(wanted[away], told[numbers >= few.count])


@pytest.mark.studies
@pytest.mark.parametrize(
    "target",
    [
        # Every kind of unit is in the others.
        pytest.param(name, marks=pytest.mark.nightly) if name in RARE else name
        for name in TARGETS
    ],
)
def test_every_exact_program_of_the_catalogue(target: str) -> None:
    rng, compared = np.random.default_rng(0), 0
    for entry in small_catalogue().values():
        try:
            model = lsrl.compile(entry.program(), target)
        except lsrl.errors.LsrlError:
            continue  # the target has no such op
        inputs = entry.sample(rng, 24)
        if model.certificate.exact and len(inputs[0]) > 1:
            check_alike(model, 0, len(inputs[0]) // 2, [np.asarray(x) for x in inputs])
            compared += 1
    assert compared > 10
