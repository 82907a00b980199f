"""Steps that `Recur` repeats: what they read and give, as tables of all their states."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

import lsrl
from lsrl.errors import InputError
from lsrl.induction.machines import mealy
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.language.signal import Signal
from lsrl.nn.tables import MooreTable

# States of all registers together: a distribution over them is what a step maps.
MOST_JOINT = 1 << 17
# The name of the register that a step over sequences has.
TOKENS = "tokens"


def outer(parts: list[jax.Array]) -> jax.Array:
    """The joint distribution of independent ones, (batch, product of the sizes)."""
    found = parts[0]
    for part in parts[1:]:
        found = (found[:, :, None] * part[:, None]).reshape(len(found), -1)
    return found


def marginals(joint: jax.Array, sizes: Mapping[str, int]) -> dict[str, jax.Array]:
    """Each register's own distribution."""
    whole = joint.reshape(-1, *sizes.values())
    axes = range(1, whole.ndim)
    return {
        name: whole.sum(axis=tuple(axis for axis in axes if axis != place))
        for place, name in enumerate(sizes, 1)
    }


def content_of(sizes: Mapping[str, int], register: str) -> Array:
    """(states,) what a register holds in each joint state."""
    places = np.indices(tuple(sizes.values())).reshape(len(sizes), -1)
    return np.asarray(places[list(sizes).index(register)])


def joint_moves(program: Program, sizes: Mapping[str, int]) -> Array:
    """(states,) int32, the joint state after each, by the reference evaluator."""
    states = int(np.prod(list(sizes.values()), dtype=np.float64))
    if states > MOST_JOINT:
        raise InputError(
            f"Recur: expected registers of at most {MOST_JOINT:,} states together, got {states:,} "
            f"of {dict(sizes)}; take fewer symbols, or a step over sequences"
        )
    before = np.indices(tuple(sizes.values())).reshape(len(sizes), -1)
    after = program.run(*(ids[:, None] for ids in before))[:, 0].T
    for name, size, values in zip(sizes, sizes.values(), after, strict=True):
        if ((values < 0) | (values >= size) | (values != np.rint(values))).any():
            raise InputError(
                f"Recur: the step's output for {name!r} must be a symbol from 0 to {size - 1}, got "
                f"numbers from {values.min():g} to {values.max():g}"
            )
    places = np.ravel_multi_index(tuple(after.astype(int)), tuple(sizes.values()))
    return np.asarray(places, np.int32)


def sizes_of(program: Program) -> dict[str, int]:
    """Symbols by register."""
    sizes = {name: kind.size for name, kind in program.inputs.items() if isinstance(kind, Token)}
    if not sizes or len(sizes) != len(program.inputs) or program.num_outputs != len(sizes):
        raise InputError(
            "Recur: expected a step with an output for each of its inputs, all lsrl.Token(n), got "
            f"{program!r}"
        )
    if len(sizes) > 1:
        return sizes
    (size,) = sizes.values()
    if program.output_type is None or program.output_type.size > size:
        raise InputError(
            f"Recur: a step of one input must give a token that it reads, -> lsrl.Token({size}), "
            f"got {program!r}"
        )
    return {TOKENS: size}


def program_of(table: MooreTable) -> Program:
    """A machine as a program."""
    from_zero = table.from_zero()
    answers = from_zero.ids[from_zero.follows]

    def step(token: Signal) -> Signal:
        return mealy(token, follows=from_zero.follows.tolist(), answers=answers.tolist())

    size = Token(table.symbols)
    if int(table.ids.max()) >= table.symbols:
        raise InputError(
            f"Recur: a machine of {table.symbols} symbols must give such, got {table.ids.max()}"
        )
    step.__annotations__ = {"token": size, "return": size}
    return lsrl.program(step)


def distributions(what: str, given: object, size: int, axes: int) -> jax.Array:
    """Distributions of ids (…) or distributions (…, size) with so many axes."""
    array = jnp.asarray(given)
    if jnp.issubdtype(array.dtype, jnp.integer) and array.ndim == axes:
        if not isinstance(array, jax.core.Tracer):
            ids = np.asarray(array)
            if ids.size and not 0 <= ids.min() <= ids.max() < size:
                raise InputError(
                    f"Recur: {what} must be ids from 0 to {size - 1}, got some from {ids.min()} to "
                    f"{ids.max()}"
                )
        return jax.nn.one_hot(array, size, dtype=jnp.float32)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.shape[axes:] == (size,):
        return array
    raise InputError(
        f"Recur: expected {what} as ids of {axes} axes or distributions with {size} symbols on "
        f"one axis more, got {array.dtype} of shape {array.shape}"
    )
