"""What exactness of a residual network relies on, tried on the device at hand."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.network import check_products, precise
from lsrl.backends.residual.blocks import DTYPE, rms_norm
from lsrl.errors import SelfTestError
from lsrl.ir.numbers import Array


class OperationTest(NamedTuple):
    """One operation with the values that it must give.

    Attributes:
      name: of the operation, and what is expected of it.
      function: of one array; run under jit.
      inputs: one axis.
      expected: likewise.
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    inputs: Array
    expected: Array


def sizes_from(least: float) -> Array:
    """Positive float32 numbers from `least` to nearly the largest: dense at first, then sparse."""
    return np.concatenate(
        [
            np.linspace(least, 4 * least, 4097),
            np.exp2(np.arange(8 * np.log2(4 * least), 8 * 126) / 8),
        ]
    ).astype(DTYPE)


def norm_operations(eps: float) -> tuple[OperationTest, ...]:
    """Tests of rsqrt at powers of four, of which the mean square is one."""
    exponents = np.arange(-62, 63)
    powers = np.ldexp(np.ones(len(exponents), DTYPE), exponents)
    return (
        OperationTest("rsqrt(4^n) == 2^-n", lax.rsqrt, powers * powers, 1 / powers),
        OperationTest(
            "rsqrt(2^80 + eps) == 2^-40",
            lambda x: lax.rsqrt(x + eps),
            np.full(33, 2.0**80, DTYPE),
            np.full(33, 2.0**-40, DTYPE),
        ),
    )


def check_operations(tests: Sequence[OperationTest], advice: str = "") -> None:
    """Run operations under jit: on one long array, singly, and fused with a norm and a product.

    XLA compiles these unlike: on a CPU, a large norm, the matrix product that reads it and what
    follows are handed to a library as a whole, and that one has another tanh, for one.

    Raises:
      SelfTestError: an operation gives another value.
    """
    identity = np.eye(16, dtype=DTYPE)
    with precise(DTYPE):
        for test in tests:
            function = jax.jit(test.function)
            ends = [test.inputs[:1], test.inputs[len(test.inputs) // 2 :][:1], test.inputs[-1:]]
            large = np.resize(test.inputs, (4096, 16))
            # Times zero, the largest numbers still are zero.
            behind = jax.jit(partial(_behind_product, test.function))
            for got, inputs, expected in (
                (function(test.inputs), test.inputs, test.expected),
                (
                    np.concatenate([function(x) for x in ends]),
                    np.concatenate(ends),
                    [test.expected[i] for i in (0, len(test.inputs) // 2, -1)],
                ),
                (behind(large, identity), large, np.resize(test.expected, large.shape)),
            ):
                wrong = np.asarray(got) != np.asarray(expected)
                if wrong.any():
                    at, wanted, found = (np.asarray(x)[wrong][0] for x in (inputs, expected, got))
                    raise SelfTestError(
                        f"{test.name} fails in {DTYPE} on {jax.devices()[0]}: at {float(at)!r} "
                        f"expected {float(wanted)!r}, got {float(found)!r}{advice}"
                    )


def _behind_product(
    function: Callable[[jax.Array], jax.Array], values: jax.Array, kernel: jax.Array
) -> jax.Array:
    # Of ones, so the norm changes nothing.
    ones = jnp.broadcast_to(kernel.sum(axis=0), values.shape)
    scale = lax.rsqrt(jnp.mean((values * 0 + ones) ** 2, axis=-1, keepdims=True))
    return function(jnp.dot(values * scale, kernel))


def norm_digits(width: int) -> list[int]:
    """For a norm over so many channels, n of each constant channel 2^n: 4^n adds up to the width.

    So the mean square is 1, whatever the width.
    """
    return [n for n in range(13) for _ in range(width // 4**n % 4)]


def check_norm(width: int, eps: float, rows: int, size: float = 2.0**40) -> None:
    """Check that a norm over values and constant channels scales exactly, and matrix products.

    Args:
      width: of the norm, a sum of digits times powers of four.
      eps: of the norm.
      rows: at a time.
      size: by what the norm divides, about 2^16 times what the values are.

    Raises:
      SelfTestError: they round.
    """
    with precise(DTYPE):
        check_products(DTYPE)
        # The constant channels hold `size` times these; their squares add up to the width.
        digits = norm_digits(width)
        # As many rows as a chunk has, since XLA compiles few of them in another way.
        values = np.zeros((rows, 1, width), DTYPE)
        rng = np.random.default_rng(0)
        whole = rng.integers(-(2**24), 2**24, values.shape)[..., len(digits) :]
        values[..., len(digits) :] = whole * (size / 2.0**40)
        values[..., : len(digits)] = size * 2.0 ** np.array(digits)
        gain = np.full(width, size, DTYPE)
        gain[: len(digits)] = 2.0 ** -np.array(digits, float)
        expected = values.copy()
        expected[..., : len(digits)] = 1
        got = np.asarray(jax.jit(rms_norm, static_argnums=2)(values, gain, eps))
    if not np.array_equal(got, expected):
        raise SelfTestError(
            f"the RMSNorm over {width} channels is no exact scaling on {jax.devices()[0]}: "
            f"expected {expected[got != expected][0]!r}, got {got[got != expected][0]!r}"
        )
