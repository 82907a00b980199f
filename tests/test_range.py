"""Certificates at the ends of the dtypes: the largest numbers, and the smallest normal ones.

XLA on the CPU takes numbers below the smallest normal one for zero, and a sum beyond the largest
number is infinite. Either way a certificate says so, or the program is refused.
"""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type, operator, arg-type"

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.errors import PrecisionError

pytestmark = pytest.mark.one_in(2)

TOKENS = 8


def program(body, *types, tokens=TOKENS):
    """A program of one or two inputs."""
    if len(types) == 1:

        @lsrl.program(max_length=tokens)
        def ends(x: types[0]):
            return body(x)

    else:

        @lsrl.program(max_length=tokens)
        def ends(x: types[0], y: types[1]):
            return body(x, y)

    return ends


def grid(exponent, width=1, least=0, most=1):
    """Multiples of a power of two."""
    unit = 2.0**exponent
    return Vector(width, low=least * unit, high=most * unit, step=unit)


def real(exponent, width=1):
    """Any number up to a power of two."""
    return Vector(width, low=-(2.0**exponent), high=2.0**exponent)


def inputs(types, tokens):
    """Both ends of the ranges, and between them sizes of many orders."""
    random, found = np.random.default_rng(0), []
    for kind in types:
        if isinstance(kind, Token):
            found.append(random.integers(0, kind.size, (4, tokens)))
            continue
        low, high = np.array(kind.low), np.array(kind.high)
        shape = (4, tokens, kind.width)
        if kind.step is None:
            values = high * random.choice([-1, 1], shape) * 2.0 ** -random.uniform(0, 30, shape)
            values = np.clip(values, low, high)
        else:
            step = np.array(kind.step)
            values = random.integers(np.rint(low / step), np.rint(high / step) + 1, shape) * step
        values[0], values[1] = low, high
        found.append(values.astype(np.float64))
    return found


def cumsum(x):
    return lsrl.cumsum(x)


def halved(x):
    return lsrl.linear_state(x * 0, 0.5, initial=1)


def scaled(weight):
    return lambda x: x * weight


def rectified(weight):
    return lambda x: lsrl.relu(x * weight)


def product(x, y):
    return x * y


def difference(x):
    return x[0] - x[1]


def above(exponent):
    return lambda x: x >= 2.0**exponent


def chosen(x, bit):
    return lsrl.select(bit == 1, x, -x)


def latched(x):
    return lsrl.latch(x, lsrl.position() == 2)


def decayed(x):
    return lsrl.linear_state(x, 0.9)


def doubled(x):
    return lsrl.linear_state(x, 2.0)


def there_and_back(x):
    return lsrl.relu(x * 2.0**-25) * 2.0**25


def table(exponent):
    return lambda x: lsrl.cumsum(lsrl.lookup(x, [[2.0**exponent], [-(2.0**exponent)]]))


BIT = Token(2)
# The program, its inputs, target, dtype, and what is proven: "exact", a "bound", an infinite bound
# ("none"), or "refused".
CASES = [
    (cumsum, (grid(126),), "linear_rnn", "float32", "none"),
    (cumsum, (grid(124),), "linear_rnn", "float32", "exact"),
    (cumsum, (grid(110),), "lstm", "float32", "exact"),
    (cumsum, (grid(126),), "rnn", "float32", "none"),
    (cumsum, (grid(126),), "mamba", "float32", "none"),
    (cumsum, (grid(1022),), "linear_rnn", "float64", "none"),
    (cumsum, (grid(980),), "gru", "float64", "exact"),
    (cumsum, (grid(1020),), "gru", "float64", "refused"),
    (cumsum, (grid(126),), "gated_linear_rnn", "bfloat16", "none"),
    (cumsum, (grid(-126),), "linear_rnn", "float32", "exact"),
    (cumsum, (grid(-127),), "linear_rnn", "float32", "bound"),
    (cumsum, (grid(-127),), "rnn", "bfloat16", "bound"),
    (cumsum, (grid(-1022),), "linear_rnn", "float64", "exact"),
    (cumsum, (grid(-1023),), "linear_rnn", "float64", "bound"),
    (cumsum, (grid(-86),), "mamba", "float32", "exact"),
    (cumsum, (grid(-87),), "mamba", "float32", "bound"),
    (cumsum, (grid(-87),), "griffin", "float32", "bound"),
    (halved, (BIT,), "linear_rnn", "float32", "bound"),
    (halved, (BIT,), "gated_linear_rnn", "bfloat16", "bound"),
    (scaled(2.0**-25), (grid(-110, 1, -4, 4),), "linear_rnn", "float32", "bound"),
    (scaled(2.0**-25), (grid(-101, 1, -4, 4),), "linear_rnn", "float32", "exact"),
    (scaled(2.0**-25), (grid(-110, 1, -4, 4),), "lstm", "float32", "bound"),
    (scaled(2.0**-25), (grid(-110, 1, -4, 4),), "mamba", "float32", "bound"),
    (scaled(1e10), (real(100),), "linear_rnn", "float32", "none"),
    (scaled(1e10), (real(100),), "rnn", "bfloat16", "none"),
    (scaled(1e10), (real(60),), "linear_rnn", "float32", "bound"),
    (scaled(1e10), (real(1000),), "linear_rnn", "float64", "none"),
    (rectified(3.0), (real(-120),), "linear_rnn", "float32", "bound"),
    (rectified(3.0), (real(-500),), "rnn_tanh", "float64", "bound"),
    (rectified(3.0), (real(0),), "rnn_tanh", "float32", "bound"),
    (rectified(3.0), (real(20),), "mamba", "float32", "bound"),
    (product, (real(70), real(70)), "gated_linear_rnn", "float32", "none"),
    (product, (real(-70), real(-70)), "gated_linear_rnn", "float32", "bound"),
    (product, (grid(-70, 1, -4, 4),) * 2, "gated_linear_rnn", "float32", "bound"),
    (product, (real(20), real(20)), "mamba", "float32", "none"),
    (product, (real(13), real(13)), "mamba", "float32", "bound"),
    (product, (real(13), real(13)), "griffin", "float32", "bound"),
    (difference, (real(-125, 2),), "linear_rnn", "float32", "bound"),
    (difference, (real(127, 2),), "linear_rnn", "float32", "none"),
    (difference, (grid(-1022, 2, -4, 4),), "gated_linear_rnn", "float64", "exact"),
    (above(-126), (grid(-126, 1, -4, 4),), "linear_rnn", "float32", "exact"),
    (above(-100), (grid(-100, 1, -4, 4),), "linear_rnn", "float32", "exact"),
    (above(120), (grid(120, 1, -4, 4),), "rnn_tanh", "float32", "exact"),
    (chosen, (grid(125, 1, -4, 4), BIT), "linear_rnn", "float32", "none"),
    (chosen, (grid(120, 1, -4, 4), BIT), "gru", "float32", "refused"),
    (chosen, (grid(100, 1, -4, 4), BIT), "gru", "float32", "exact"),
    (chosen, (real(-120), BIT), "gated_linear_rnn", "bfloat16", "bound"),
    (latched, (real(-126),), "linear_rnn", "float32", "bound"),
    (decayed, (real(-140),), "linear_rnn", "float32", "bound"),
    (doubled, (grid(120),), "linear_rnn", "float32", "none"),
    (there_and_back, (grid(-110),), "linear_rnn", "float32", "exact"),
    (table(126), (BIT,), "linear_rnn", "float32", "none"),
    (table(-130), (BIT,), "linear_rnn", "float32", "refused"),
    (table(-130), (BIT,), "lstm", "bfloat16", "refused"),
]


@pytest.mark.parametrize(("body", "types", "target", "dtype", "expected"), CASES)
def test_a_certificate_at_the_end_of_a_dtype_is_right(body, types, target, dtype, expected):
    tokens = 140 if body is halved else TOKENS
    source = program(body, *types, tokens=tokens)
    if expected == "refused":
        with pytest.raises(PrecisionError, match=r"test_range\.py:\d+\), layer \d+: needs the"):
            lsrl.compile(source, target, dtype=dtype)
        return
    model = lsrl.compile(source, target, dtype=dtype)
    certificate = model.certificate
    bound = "bound" if np.isfinite(certificate.error_bound) else "none"
    assert ("exact" if certificate.exact else bound) == expected
    if expected == "none":
        return
    given = inputs(types, tokens)
    error = np.abs(model.run(*given).astype(np.float64) - source.run(*given))
    assert (error <= certificate.error_bound).all()


def test_the_reference_is_infinite_where_float64_is():
    source = program(scaled(1e300), grid(1000, 1, -1, 1))
    given = 2.0**1000 * np.array([[1], [-1], [0]])
    assert source.run(given).ravel().tolist() == [np.inf, -np.inf, 0]
