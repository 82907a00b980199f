"""What stock cells rely on: activations are exact up to their thresholds, on the device at hand."""

from collections.abc import Callable
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsrl.backends.xla import WIDE_VECTORS, understood
from lsrl.errors import SelfTestError
from lsrl.ir.numbers import Array
from lsrl.numerics import numerics_of


def check_activations(kind: str, dtype: str) -> None:
    """tanh(u) == u up to L, sigmoids exactly 0 or 1 beyond G, tanh exactly ±1 beyond its end.

    Raises:
      SelfTestError: names the threshold that fails, and the device.
    """
    numerics = numerics_of(dtype)
    number = jnp.dtype(dtype)
    # Every size from the least grid to L in steps of an eighth of a binade, and all signs.
    sizes = numerics.linear * 2.0 ** -(np.arange(8 * 3 * numerics.bits) / 8.0)
    small = np.concatenate([sizes, -sizes, [0.0]]).astype(number)
    large = np.concatenate([2.0 ** (np.arange(400) / 8.0), np.arange(64) / 4]) + 1.0
    tests: list[tuple[str, Callable[[jax.Array], jax.Array], Array, Array]] = []
    if kind != "relu":
        tests.append((f"tanh(u) == u for |u| <= {numerics.linear:g}", nnx.tanh, small, small))
        beyond = (numerics.shut * (1 - 2.0**-6) * large).astype(number)
        ones = np.ones_like(beyond)
        tests.append((f"tanh(u) == 1 from {numerics.shut:g} on", nnx.tanh, beyond, ones))
        tests.append((f"tanh(u) == -1 below -{numerics.shut:g}", nnx.tanh, -beyond, -ones))
    if kind in ("lstm", "gru"):
        beyond = (numerics.gate * large).astype(number)
        ones = np.ones_like(beyond)
        tests.append((f"sigmoid(u) == 1 from {numerics.gate:g} on", nnx.sigmoid, beyond, ones))
        tests.append((f"sigmoid(u) == 0 below -{numerics.gate:g}", nnx.sigmoid, -beyond, 0 * ones))
    # As steps are compiled, and as whole runs are.
    ways = (None, understood(WIDE_VECTORS))
    for (what, function, inputs, expected), options in product(tests, ways):
        got = np.asarray(jax.jit(function, compiler_options=options)(inputs))
        wrong = np.flatnonzero(got != expected)
        if len(wrong):
            at = wrong[0]
            raise SelfTestError(
                f"{what} fails in {dtype} on {jax.devices()[0]}: at {float(inputs[at])!r} it is "
                f"{float(got[at])!r}"
            )
