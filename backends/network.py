"""What the networks of all targets share: parameters, the mode they run in, and generation."""

import operator
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


def on_device(values: Any, dtype: Any) -> jax.Array:
    """An array of the device, made without a compilation.

    `jnp.asarray` compiles once a shape, also where nothing is converted, which takes longer than
    all else that loads a small network.

    Args:
      values: numbers, an array of numpy or of jax.
      dtype: of the result.
    """
    if isinstance(values, jax.Array):
        return jnp.asarray(values, dtype)
    # A copy, since the device may keep the memory that it is given.
    result: jax.Array = jax.device_put(np.array(values, jnp.dtype(dtype)))
    return result


def aligned(vector: jax.Array, values: jax.Array) -> jax.Array:
    """A vector of channels with as many axes as `values`; jax may forbid implicit ones."""
    return vector.reshape((1,) * (values.ndim - 1) + vector.shape)


class ParameterReader:
    """Reads the parameters of a module, and notices at little cost that none has changed.

    Reading a module of many layers takes longer than to run one token through it. For flax every
    reader is equal: a module with another one is the same module.
    """

    def __init__(self) -> None:
        self._module: nnx.Module | None = None
        self._links: list[tuple[dict[str, Any], str]] = []
        self._held: list[Any] = []
        self._variables: list[nnx.Param[Any]] = []
        self._values: list[Any] = []
        self._kept: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterReader)

    def __hash__(self) -> int:
        return hash(ParameterReader)

    def __deepcopy__(self, memo: object) -> "ParameterReader":
        return ParameterReader()

    def read(self, module: nnx.Module, make: Callable[[], Any]) -> Any:
        """What `make` made of the parameters when they were last other arrays.

        Args:
          module: whose parameters are read.
          make: reads them all, and makes of them what is kept.
        """
        # Arrays of jax never change in place, so the same objects have the same numbers.
        # Modules that flax splits and merges share their reader, but not their parameters.
        if self._kept is not None and self._module is module:
            held = [holder.get(name) for holder, name in self._links]
            if all(map(operator.is_, held, self._held)):
                values = [variable.get_raw_value() for variable in self._variables]
                if all(map(operator.is_, values, self._values)):
                    return self._kept
        kept = make()
        self._module = module
        self._links = list(_links(module))
        self._held = [holder.get(name) for holder, name in self._links]
        self._variables = [one for one in self._held if isinstance(one, nnx.Param)]
        self._values = [variable.get_raw_value() for variable in self._variables]
        # What a user put in by hand, an array of numpy say, can change in place. Nor does anything
        # hold while jax traces.
        sure = all(
            isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
            for value in self._values
        ) and all(isinstance(one, nnx.Module | nnx.Param | nnx.Pytree) for one in self._held)
        self._kept = kept if sure else None
        return kept


def _links(module: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every attribute that leads to a parameter, as the dictionary and the name there."""
    attributes = vars(module)
    for name, value in attributes.items():
        if isinstance(value, nnx.Param):
            yield attributes, name
        elif isinstance(value, nnx.Pytree):
            yield attributes, name
            yield from _links(value)
        elif isinstance(value, jax.Array | np.ndarray):
            yield attributes, name


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
