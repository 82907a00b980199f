"""The certificate: right, in that nothing errs before the token it names, and tight."""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type, operator, arg-type"

import inspect
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import lsrl
from lsrl import Token, Vector
from lsrl.backends import registry
from lsrl.errors import PrecisionError
from lsrl.programs import catalogue
from tests.strategies import check_programs, each_turn, inputs_of, programs

pytestmark = pytest.mark.one_in(2)

TARGETS = ("linear_rnn", "gated_linear_rnn")
BITS = {"bfloat16": 8, "float32": 24, "float64": 53}
HERE = Path(__file__).name


def running_count(max_length):
    @lsrl.program(max_length=max_length)
    def running_count(bit: Token(2)):
        count = lsrl.cumsum(bit)
        return count

    return running_count


def first_error(model, *inputs):
    """The first token at which some sequence differs from the reference, in runs or in steps.

    Returns:
      The token, or the number of tokens if nothing differs.
    """
    expected = model.program.run(*inputs)
    batch, tokens = expected.shape[:2]
    stepped, state = [], model.init_state(batch)
    for token in range(tokens):
        output, state = model.step(state, *(array[:, token] for array in inputs))
        stepped.append(output)
    found = [tokens]
    for got in (model.run(*inputs), np.stack(stepped, axis=1)):
        wrong = (got.astype(np.float64) != expected).any(axis=(0, 2))
        found.append(int(np.argmax(wrong)) if wrong.any() else tokens)
    return min(found)


# ---------------------------------------------------------------------- the token that it names


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("dtype", "max_length"), [("bfloat16", 2**9), ("float32", 2**25), ("float64", 2**54)]
)
def test_a_running_count_ends_where_the_significand_does(target, dtype, max_length):
    certificate = lsrl.compile(running_count(max_length), target, dtype=dtype).certificate
    assert not certificate.exact
    (reason,) = certificate.reasons
    assert reason.token == 2 ** BITS[dtype]
    assert reason.signal == "count"
    assert reason.layer == 1
    assert f"more than 2^{BITS[dtype]} x 1; exact up to token {reason.token - 1}" in str(reason)
    exact = lsrl.compile(running_count(2 ** BITS[dtype]), target, dtype=dtype).certificate
    assert exact.exact
    assert exact.reasons == ()
    assert exact.error_bound == 0


def test_a_running_sum_of_other_numbers_ends_by_their_power_of_two():
    @lsrl.program(max_length=2**24)
    def sum_of(x: Vector(1, low=0, high=3, step=3)):
        return lsrl.cumsum(x)

    # A grid of 3 is a grid of 1: 3 t stays below 2^24 up to t = 5592405.
    assert lsrl.compile(sum_of, "linear_rnn").certificate.reasons[0].token == 2**24 // 3


def worst_inputs(tokens):
    """All ones, all zeros, and in turn: as far as counts of bits get, and near ties."""
    turns = np.arange(tokens) % 2
    return np.stack([np.ones(tokens, int), np.zeros(tokens, int), turns, 1 - turns])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["running_count", "majority", "histogram"])
def test_past_the_bound_bfloat16_errs_at_the_token_named_or_soon_after(target, name):
    program = {
        "running_count": running_count(1100),
        "majority": lsrl.programs.majority(max_length=1100),
        "histogram": lsrl.programs.histogram(2, max_length=1100),
    }[name]
    model = lsrl.compile(program, target, dtype="bfloat16")
    named = model.certificate.reasons[0].token
    assert 0 < named <= first_error(model, worst_inputs(1100)) <= 4 * named


@pytest.mark.parametrize("name", ["majority", "histogram"])
def test_the_token_named_in_float32_is_within_4_times_what_the_sums_need(name):
    program = getattr(lsrl.programs, name)(max_length=2**25)
    (reason,) = lsrl.compile(program, "linear_rnn").certificate.reasons
    assert 2**22 <= reason.token <= 2**24


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["running_count", "majority", "histogram"])
def test_past_the_bound_float32_errs_at_the_token_named_or_soon_after(name):
    tokens = 2**25
    build = {**lsrl.programs.__dict__, "running_count": running_count}[name]
    model = lsrl.compile(build(max_length=tokens), "linear_rnn")
    named = model.certificate.reasons[0].token
    found = tokens
    for bits in (np.ones(tokens, np.int8), np.arange(1, tokens + 1, dtype=np.int8) % 2):
        got = model.run(bits)[:, -1]
        count, position = np.cumsum(bits, dtype=np.int64), np.arange(tokens)
        expected = 2 * count > position + 1 if name == "majority" else count
        if name == "histogram":
            got = model.run(bits)[:, 1]
        wrong = got != expected
        found = min(found, int(np.argmax(wrong)) if wrong.any() else tokens)
    assert named <= found <= 4 * named


@each_turn
def test_nothing_errs_before_the_token_named(turn):
    drawn = programs(["linear_state", "cumsum", "relu", "select", "delay"], max_length=120)
    check_programs(turn, 4, drawn, lambda program: check_token(program, 120))


@pytest.mark.nightly
@settings(max_examples=600)
@given(program=programs(max_length=300))
def test_nothing_ever_errs_before_the_token_named(program):
    check_token(program, 300)


def check_token(program, tokens):
    model = lsrl.compile(program, "linear_rnn", dtype="bfloat16")
    certificate, inputs = model.certificate, inputs_of(program, tokens)
    got, expected = model.run(*inputs).astype(np.float64), program.run(*inputs)
    wrong = (got != expected).any(axis=(0, 2))
    named = tokens if certificate.exact else certificate.reasons[0].token
    assert not wrong[:named].any()
    assert np.abs(got - expected).max() <= certificate.error_bound
    # Promising no more than it has to: the same rows are exact with as many bits as they need.
    analyse = registry.find(model.target).analysis(model.schedule, model.numerics)
    needed = analyse(max(named, 1)).bits_needed()
    assert needed is None or named == 0 or needed <= BITS["bfloat16"]


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 40), marks=pytest.mark.nightly)])
def test_most_programs_err_soon_after_the_token_named(seeds):
    """A certificate that says no too early would be right, and worthless."""
    delays = []
    for seed in seeds:
        ops = ["linear_state", "cumsum", "position", "affine"]
        program = lsrl.random_program(seed, ops, depth=3, width=3, max_length=300)
        model = lsrl.compile(program, "linear_rnn", dtype="bfloat16")
        if model.certificate.exact:
            continue
        inputs = inputs_of(program, 300)
        wrong = (model.run(*inputs).astype(np.float64) != program.run(*inputs)).any(axis=(0, 2))
        first = np.argmax(wrong) if wrong.any() else 300
        delays.append((first + 1) / (model.certificate.reasons[0].token + 1))
    assert len(delays) >= 0.6 * len(seeds)
    assert min(delays) >= 1
    assert np.median(delays) <= 3


# ---------------------------------------------------------------------- sums that cancel


def cancelling():
    """A state whose rows cancel what they add up, so that it stays small and its terms do not."""

    @lsrl.program(max_length=64)
    def cancelling(
        x: Vector(1, low=0, high=2.0**24, step=1), bit: Vector(1, low=0, high=1, step=1)
    ):
        transition = np.zeros((4, 4))
        transition[0, 1:3] = 3, -3
        transition[1:3, 3] = 1
        state = lsrl.linear_state(lsrl.concat(bit, 0, 0, x), transition)
        return state[0]

    return cancelling


def narrowed():
    """A running sum that a promise keeps small, of updates that are not."""

    @lsrl.program(max_length=64)
    def narrowed(x: Vector(1, low=-(2.0**23), high=2.0**23, step=1)):
        return lsrl.bound(lsrl.cumsum(x), 0, 2.0**23)

    return narrowed


def test_terms_count_before_they_cancel():
    """Such a run errs in float32, since its products are rounded, each on its own."""
    random = np.random.default_rng(0)
    inputs = random.integers(2**23, 2**24, (8, 64, 1)), random.integers(0, 2, (8, 64, 1))
    assert_never_exact_and_wrong(cancelling(), inputs)
    assert not lsrl.compile(cancelling(), "linear_rnn").certificate.exact


def test_a_narrowed_sum_counts_in_blocks():
    """Within a block sums over time may be taken in any order, past the promised interval."""
    random = np.random.default_rng(0)
    sums = random.integers(0, 9, (8, 64))
    sums[:, 1::2] = 2**23 - sums[:, 1::2]
    inputs = (np.diff(sums, axis=1, prepend=0)[..., None],)
    assert_never_exact_and_wrong(narrowed(), inputs)
    assert not lsrl.compile(narrowed(), "linear_rnn").certificate.exact


def assert_never_exact_and_wrong(program, inputs):
    for target in TARGETS:
        for dtype in ("float32", "float64"):
            model = lsrl.compile(program, target, dtype=dtype)
            error = np.abs(model.run(*inputs).astype(float) - program.run(*inputs)).max()
            assert error <= model.certificate.error_bound
            assert dtype == "float32" or model.certificate.exact


# ---------------------------------------------------------------------- the bound on the error


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vec2vec_keeps_its_bound_at_every_token(target, dtype):
    entry, random = catalogue()["vec2vec"], np.random.default_rng(0)
    parameters = {"in_dim": 2, "out_dim": 2, "cells": 4}
    program = entry.program(**parameters)
    model = lsrl.compile(program, target, dtype=dtype)
    assert model.certificate.error_bound < (1e-5 if dtype == "float32" else 1e-13)
    for _ in range(20):
        (prompt,) = entry.sample(random, 17, **parameters)
        prompt = prompt.astype(np.float32)  # inputs that both dtypes hold
        error = np.abs(model.run(prompt).astype(float) - program.run(prompt)).max()
        assert error <= model.certificate.error_bound


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_gradient_step_keeps_its_bound(dtype):
    @lsrl.program(max_length=50)
    def gradient_step(x: Vector(3, low=-1, high=1), y: Vector(1, low=-1, high=1)):
        return lsrl.cumsum(x * y) * 0.1

    model = lsrl.compile(gradient_step, "gated_linear_rnn", dtype=dtype)
    assert not model.certificate.exact
    random = np.random.default_rng(1)
    inputs = random.uniform(-1, 1, (20, 50, 3)), random.uniform(-1, 1, (20, 50, 1))
    error = np.abs(model.run(*inputs).astype(float) - gradient_step.run(*inputs)).max()
    assert 0 < error <= model.certificate.error_bound < 50 * 50 * 2.0 ** -BITS[dtype]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_continuous_programs_keep_their_bounds(target, dtype):
    """Decays, tenths, ReLUs, gates that are shut, and states that mix."""

    @lsrl.program(max_length=60)
    def mixed(x: Vector(2, low=-1, high=1), bit: Token(2)):
        decayed = lsrl.linear_state(x, 0.9)
        rotated = lsrl.linear_state(0.1 * decayed, [[0.6, -0.8], [0.8, 0.6]])
        gated = lsrl.select(bit == 1, rotated, 0.3 * x)
        highest = lsrl.maximum(gated, lsrl.delay(decayed, 3))
        return highest, lsrl.cumsum(lsrl.relu(gated - 0.7)), lsrl.absolute(rotated).sum()

    model = lsrl.compile(mixed, target, dtype=dtype)
    random = np.random.default_rng(2)
    inputs = random.uniform(-1, 1, (20, 60, 2)), random.integers(0, 2, (20, 60))
    error = np.abs(model.run(*inputs).astype(float) - mixed.run(*inputs)).max()
    assert 0 < error <= model.certificate.error_bound
    assert model.certificate.reasons[0].token == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_counts_in_every_layer(dtype):
    """Twelve layers shrink the rounding of the input away, and round anew each."""

    @lsrl.program
    def layered(x: Vector(1, low=0, high=1)):
        value = x
        for _ in range(12):
            value = lsrl.relu(0.75 * value - 0.3) + 0.4
        return value

    model = lsrl.compile(layered, "linear_rnn", dtype=dtype)
    assert model.num_layers == 12
    inputs = np.random.default_rng(3).uniform(0, 1, (400, 1))
    error = np.abs(model.run(inputs).astype(float) - layered.run(inputs)).max()
    assert 2.0 ** -(BITS[dtype] + 2) < error <= model.certificate.error_bound
    assert model.certificate.error_bound < 8 * 2.0 ** -BITS[dtype]


def test_fewer_bits_never_have_a_smaller_bound():
    program = catalogue()["vec2vec"].program()
    bounds = [lsrl.compile(program, "linear_rnn", dtype=d).certificate.error_bound for d in BITS]
    assert bounds == sorted(bounds, reverse=True)


# ---------------------------------------------------------------------- promises and refusals


def test_promises_are_listed_with_their_lines():
    @lsrl.program(max_length=100)
    def promising(x: Vector(1, low=0, high=1), bit: Token(2)):
        first = lsrl.latch(x, lsrl.position() == 3)
        level = lsrl.bound(lsrl.cumsum(bit), 0, 5)
        above = lsrl.greater_equal(x, 0.5, ramp=2.0**-10)
        return first, level, above, lsrl.mod(lsrl.cumsum(bit), 3)

    lines, start = inspect.getsourcelines(test_promises_are_listed_with_their_lines)
    where = {
        name: start + next(i for i, line in enumerate(lines) if f"{name} = " in line)
        for name in ("first", "level", "above")
    }
    for target in TARGETS:
        certificate = lsrl.compile(promising, target).certificate
        found = {promise.signal: promise for promise in certificate.promises}
        # A narrowing that is a theorem, as inside mod, is no promise.
        assert list(found) == ["first", "level", "above"]
        for name, promise in found.items():
            assert promise.source.endswith(f"{HERE}:{where[name]}")
            assert str(promise) in str(certificate)
        assert "latched at most once" in found["first"].text
        assert "stays in [0, 5]" in found["level"].text
        assert "out of the ramp" in found["above"].text
        with pytest.raises(lsrl.errors.BoundsError, match="level"):
            lsrl.compile(promising, target).run(np.zeros((9, 1)), np.ones(9, int), check=True)


@pytest.mark.parametrize("target", ["linear_rnn", "rnn_tanh"])
def test_a_gridded_value_in_a_ramp_is_refused_by_name(target):
    @lsrl.program
    def mixed(x: Vector(1, low=0, high=1, step=1 / 8), v: Vector(1, low=0, high=1, step=1 / 8)):
        above = lsrl.greater_equal(x, 0.5, ramp=0.5)
        return lsrl.select(above, v, 1)

    model = lsrl.compile(mixed, target)
    (promise,) = model.certificate.promises
    assert (promise.signal, promise.keeper) == ("above", "prompt")
    assert str(promise).endswith("stays out of the ramp (-0.5, -0.25) (prompt)")
    outside = np.array([[0.0], [0.25], [0.5], [1.0]])
    v = np.full((4, 1), 0.125)
    np.testing.assert_array_equal(
        model.run(outside, v, check=True), [[1], [0.125], [0.125], [0.125]]
    )
    with pytest.raises(lsrl.errors.PromiseError, match=r"above.*-0\.375.*token 1"):
        model.run(np.array([[0.5], [0.125]]), v[:2], check=True)


def test_keepers_are_told_and_kept():
    @lsrl.program(max_length=9)
    def promising(bit: Token(2)):
        few = lsrl.bound(lsrl.cumsum(bit), 0, 5)
        return lsrl.latch(few, bit == 1, keeper="prompt")

    certificate = lsrl.compile(promising, "linear_rnn").certificate
    assert [promise.keeper for promise in certificate.promises] == ["program", "prompt"]
    content = certificate.to_json()
    assert certificate.from_json(content) == certificate
    assert "stays in [0, 5] (program, checked)" in str(certificate)
    assert "latched at most once (prompt)" in str(certificate)
    for promise in content["promises"]:
        del promise["keeper"]  # as it was written before promises had one
    older = certificate.from_json(content)
    assert [promise.keeper for promise in older.promises] == ["program", "program"]


def test_a_comparison_on_a_grid_promises_nothing():
    assert lsrl.compile(lsrl.programs.majority(), "linear_rnn").certificate.promises == ()


@pytest.mark.parametrize("dtype", ["float16", "int8", "float31", np.complex64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(PrecisionError, match="expected one of float32, float64, bfloat16"):
        lsrl.compile(lsrl.programs.majority(), "linear_rnn", dtype=dtype)


def test_float16_is_refused_with_its_reason():
    with pytest.raises(PrecisionError, match="room for values up to 8 grid steps"):
        lsrl.compile(lsrl.programs.majority(), "linear_rnn", dtype="float16")


@pytest.mark.parametrize("scale", [1e39, 1e-40])
def test_weights_that_no_float32_holds_are_refused(scale):
    @lsrl.program(max_length=5)
    def scaled(x: Token(3)):
        sums = lsrl.cumsum(x)
        return lsrl.relu(scale * sums - scale)

    for dtype in ("float32", "bfloat16"):
        with pytest.raises(PrecisionError, match=rf"{HERE}:\d+\).*needs the weight.*narrow"):
            lsrl.compile(scaled, "linear_rnn", dtype=dtype)
    assert lsrl.compile(scaled, "linear_rnn", dtype="float64").run([0, 1, 2])[-1, 0] == 2 * scale


def test_weights_that_are_rounded_are_a_reason():
    @lsrl.program(max_length=5)
    def tenth(x: Token(3)):
        return lsrl.relu(lsrl.cumsum(x) * 0.1 - 0.1)

    certificate = lsrl.compile(tenth, "linear_rnn").certificate
    assert not certificate.exact
    assert certificate.reasons[0].token == 0
    assert 0 < certificate.error_bound < 1e-5
