"""What the networks of all targets share: parameters, the mode they run in, and generation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lsrl.errors import SelfTestError
from lsrl.ir.numbers import Array
from lsrl.numerics import numerics_of

# The step of a network: parameters, structure, state and inputs to output and state.
Step = Callable[[Any, Any, Any, Sequence[Any]], tuple[jax.Array, Any]]
# What may look at and change a layer's output and memory at a token: layer (0 is what the input map
# makes; it may be traced), output and memory (None for the input map) to both.
Edit = Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
_Generation = tuple[Any, jax.Array, jax.Array]  # state, last ids (batch,), all ids (room, batch)


def value_of(parameter: Any) -> Any:
    """The array of a parameter, which a user may have replaced by an array."""
    if type(parameter) is nnx.Param:
        # get_value copies trees, and takes ten times as long.
        value = parameter.get_raw_value()
        if isinstance(value, jax.Array):
            return value
    return parameter.get_value() if isinstance(parameter, nnx.Variable) else parameter


def precision(dtype: str) -> AbstractContextManager[Any]:
    """Without x64, jax makes float64 arrays float32 in silence."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


@contextmanager
def precise(dtype: str) -> Iterator[None]:
    """float64 where the network is, and dot products without TF32 or bfloat16 shortcuts."""
    with precision(dtype), jax.default_matmul_precision("highest"):
        yield


def generated(network: Any, inputs: Sequence[Any], steps: int) -> Array:
    """Continue prompts: the first output at a token, rounded, is the id of the next token.

    Args:
      network: with a `pure_step`, its `structure` and `parameters`, and `run_with_state`.
      inputs: one token input, ids (batch, time).
      steps: how many tokens to add, at least 1.

    Returns:
      (batch, steps) int32, the ids after the prompts.
    """
    outputs, state = network.run_with_state(inputs)
    first = np.rint(np.asarray(outputs[:, -1, 0], np.float64)).astype(np.int32)
    # Few sizes of the buffer, so few compilations.
    room = 1 << (steps - 1).bit_length()
    with precise(network.dtype):
        tokens = _continued(
            network.pure_step,
            network.structure,
            room,
            network.parameters(),
            state,
            first,
            jnp.int32(steps),
        )
        return np.asarray(tokens)[:, :steps]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _continued(
    step: Step,
    structure: Any,
    room: int,
    parameters: Any,
    state: Any,
    first: jax.Array,
    steps: jax.Array,
) -> jax.Array:
    """Feed outputs back: ids (batch, room), of which the first `steps` count."""
    start = jnp.zeros((room, *first.shape), jnp.int32).at[0].set(first)

    def token(place: jax.Array, carry: _Generation) -> _Generation:
        # `tokens` is only written here: were it read too, every step would copy it.
        state, last, tokens = carry
        outputs, state = step(parameters, structure, state, (last,))
        following = jnp.rint(outputs[..., 0].astype(jnp.float32)).astype(jnp.int32)
        return state, following, tokens.at[place].set(following)

    filled: jax.Array = lax.fori_loop(jnp.int32(1), steps, token, (state, first, start))[2]
    return filled.T


def check_products(dtype: str) -> None:
    """Products of matrices keep every bit of integers that the dtype holds."""
    bits = numerics_of(dtype).bits
    # One odd number near the end of the range, taken apart into terms that share no bits.
    terms = 2.0 ** np.arange(bits)
    kernel = np.ones((bits, 1))
    got = jax.jit(jnp.dot)(jnp.asarray(terms[None], dtype), jnp.asarray(kernel, dtype))
    if float(got[0, 0]) != 2.0**bits - 1:
        raise SelfTestError(
            f"a matrix product of {dtype} numbers loses bits on {jax.devices()[0]}: expected "
            f"{2.0**bits - 1:.0f}, got {float(got[0, 0])!r}; is a faster, coarser mode switched on?"
        )
    weight = jnp.asarray([[2.0**bits - 1]], dtype)
    got = jax.jit(jnp.dot)(jnp.asarray([[1.0]], dtype), weight)
    if float(got[0, 0]) != 2.0**bits - 1:
        raise SelfTestError(
            f"a matrix product rounds its {dtype} operands on {jax.devices()[0]}: "
            f"{2.0**bits - 1:.0f} becomes {float(got[0, 0])!r}; is TF32 switched on?"
        )
