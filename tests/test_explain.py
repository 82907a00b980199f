"""Explanations: what they say of a target, a length and a dtype is what compiled models are."""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type, operator, arg-type"

import math

import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.backends import registry
from lsrl.errors import PrecisionError, UnsupportedOpError
from lsrl.numerics import DTYPES
from lsrl.programs import catalogue
from tests.grids import small_catalogue

pytestmark = pytest.mark.one_in(2)

GRID = [
    (name, target, dtype)
    for name in small_catalogue()
    for target in registry.names()
    for dtype in registry.find(target).dtypes
]


def check_against_compile(name, target, dtype):
    """The answer, the bits and the bound are those of the certificate, at every length told."""
    program = catalogue()[name].program()
    found = lsrl.explain(program, target, dtype=dtype)
    assert found.dtype == dtype
    try:
        certificate = lsrl.compile(program, target, dtype=dtype).certificate
    except (PrecisionError, UnsupportedOpError):
        assert (found.answer, found.bits, found.tokens) == ("no", (), 0)
        return
    longest, _ = found.bits[-1]
    assert longest == certificate.tokens or certificate.tokens is None
    first_wrong = math.inf if certificate.exact else certificate.reasons[0].token
    for tokens, needed in found.bits:
        suffice = needed is not None and needed <= DTYPES[dtype].bits
        assert suffice == (tokens <= first_wrong), tokens
    if certificate.exact:
        assert found.answer == ("yes" if certificate.tokens is None else "bounded")
        assert (found.tokens, found.error_bound) == (certificate.tokens, 0)
    elif found.answer == "yes":
        assert certificate.tokens is None
        assert found.error_bound == certificate.error_bound < math.inf


# Where some length takes as many bits as the dtype has, or one more, so that a bit too many shows.
SHARP = [
    ("histogram", "linear_rnn", "bfloat16"),
    ("histogram", "rnn", "bfloat16"),
    ("running_max", "gated_linear_rnn", "bfloat16"),
    ("reset_sum", "rnn_tanh", "float32"),
    ("majority_parity", "rnn_tanh", "bfloat16"),
    ("majority_parity", "lstm", "bfloat16"),
    ("pattern_count", "gru", "bfloat16"),
]


@pytest.mark.parametrize(("name", "target", "dtype"), [*SHARP, *GRID[::120]])
def test_bits_suffice_exactly_where_a_model_is_exact(name, target, dtype):
    check_against_compile(name, target, dtype)


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "target", "dtype"), GRID)
def test_bits_suffice_exactly_where_any_model_is_exact(name, target, dtype):
    check_against_compile(name, target, dtype)


@pytest.mark.parametrize("target", registry.names())
def test_a_comparison_that_takes_more_bits_than_the_dtype_has_is_no(target):
    @lsrl.program
    def reached(x: Vector(1, low=0, high=2.0**24, step=1)):
        return x >= 2**24 - 1

    found = lsrl.explain(reached, target)
    assert (found.answer, found.dtype, found.tokens) == ("no", "float32", 0)
    wide = lsrl.explain(reached, target, dtype="float64")
    if "float64" in registry.find(target).dtypes:
        assert "significand bits (float64), and float32 has 24" in found.reason
        assert (wide.answer, wide.error_bound) == ("yes", 0)
    else:
        assert wide.answer == "no"
        assert "comes in float32" in wide.reason


def test_cells_answer_for_the_bits_of_their_own_sums():
    found = lsrl.explain(lsrl.programs.selective_copy(), "gru", dtype="bfloat16")
    assert found.answer == "bounded"
    assert "bfloat16 is exact over the first" in found.reason
    tight = lsrl.explain(lsrl.programs.undo_flip_flop(), "rnn_tanh", dtype="bfloat16")
    assert tight.answer == "no"
    assert "bfloat16 has no room" in tight.reason


def test_an_answer_is_bounded_where_it_ends():
    @lsrl.program
    def clocked(x: Token(2)):
        return lsrl.cycle(3) + x

    counted, turning = lsrl.explain(clocked, "mamba"), lsrl.explain(clocked, "lstm")
    assert (counted.answer, counted.tokens) == ("bounded", 2**21)
    assert (turning.answer, turning.tokens) == ("yes", None)
    short = lsrl.explain(lsrl.programs.majority(max_length=1000), "linear_rnn", dtype="bfloat16")
    assert short.answer == "bounded"
    assert 0 < short.tokens < 1000
    assert f"exact over the first {short.tokens} tokens" in short.reason


def test_continuous_values_are_within_the_bound_at_any_length_or_up_to_one():
    @lsrl.program
    def faded(x: Vector(1, low=-1, high=1)):
        return lsrl.linear_state(x, 0.9)

    @lsrl.program(max_length=50)
    def summed(x: Vector(1, low=-1, high=1)):
        return lsrl.cumsum(x)

    yes, bounded = lsrl.explain(faded, "linear_rnn"), lsrl.explain(summed, "linear_rnn")
    assert (yes.answer, yes.tokens) == ("yes", None)
    assert (bounded.answer, bounded.tokens) == ("bounded", 50)
    for found in (yes, bounded):
        assert 0 < found.error_bound < 1e-3
        assert all(bits is None for _, bits in found.bits)
        assert f"{found.error_bound:.3g}" in found.reason


@pytest.mark.parametrize(
    ("target", "most"),
    [("linear_rnn", 1e-5), ("lstm", 1e-5), ("mamba", 1e-6), ("griffin", 1e-6), ("rnn_tanh", 20)],
)
def test_bounds_of_continuous_values_stay_near_their_errors(target, most):
    """Gates of 0 and 1 err by nothing, and one of a tanh RNN by no more than what it gates."""
    found = lsrl.explain(lsrl.programs.vec2vec(cells=4), target)
    assert 0 < found.error_bound < most


@pytest.mark.parametrize("target", ["mamba", "mamba2", "griffin", "deltanet"])
def test_long_weights_do_not_fill_the_stream(target):
    """A sum on the stream is no larger than its terms, however many bits its weights have."""

    @lsrl.program
    def mixed(x: Vector(2, low=-1, high=1)):
        before = lsrl.delay(x, 2)
        first, second = 0.1 * before[0] + 0.3 * before[1], 0.7 * before[0] - 0.1 * before[1]
        return lsrl.concat(first + lsrl.relu(x[0]), second + lsrl.relu(x[1]))

    model = lsrl.compile(mixed, target)
    assert 0 < model.certificate.error_bound < 1e-5
