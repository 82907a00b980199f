"""Networks that read their own outputs: one compiled loop over the step, for every target.

A stretch of tokens runs in one `lax.while_loop`, which ends where all machines have stopped. A
prompt is read by the same compiled function, token by token: to compile whole sequences of a long
stack takes longer than most loops. What lies between stretches is `lsrl.language.loop`'s.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.feedback import COMPARISONS, Feedback
from lsrl.language.run import Wiring
from lsrl.pytrees import Tree

# Tokens of a prompt that are read at a time.
WINDOW = 64
# Tokens that run at a time: few sizes of the buffer, so few compilations.
ROOMS = (64, 512, 4096)


class Structure(Protocol):
    """What is no parameter in a network; hashable, so that jit can take it."""

    @property
    def dtype(self) -> str:
        """Of parameters, states and outputs."""

    def __hash__(self) -> int:
        """As equality has it."""


Step: TypeAlias = Callable[
    [Mapping[str, object], Hashable, Tree, Sequence[jax.Array]], tuple[jax.Array, Tree]
]
# One token in and one out; outputs behind the first are no matter.
_IDS = Wiring(Feedback("id", 0), (("id", Token(2**31)),), 1)


class Carry(NamedTuple):
    """Where machines stand between two tokens.

    Attributes:
      state: of the network, leaves (batch, ...).
      pending: per input what the next token reads, (batch, ...); of the keys' input anything.
      live: (batch,) bool, which of them still run.
      taken: (batch,) how many keys each has taken.
      done: (batch,) tokens that each has run.
      halted: (batch,) bool.
      waiting: (batch,) bool, which of them want a key that is not there.
    """

    state: Tree
    pending: tuple[jax.Array, ...]
    live: jax.Array
    taken: jax.Array
    done: jax.Array
    halted: jax.Array
    waiting: jax.Array


class Given(NamedTuple):
    """What a stretch reads beside its own outputs.

    Attributes:
      keys: (batch, room) those that come next.
      there: (batch,) how many of them there are.
      prompt: per input (WINDOW, batch, ...) tokens to read first; None where there never are any.
      reading: whether the stretch reads the prompt, and nothing else.
    """

    keys: jax.Array
    there: jax.Array
    prompt: tuple[jax.Array, ...] | None
    reading: jax.Array


def room_for(tokens: int) -> int:
    """How many tokens are run at a time, of so many in all."""
    return next((room for room in ROOMS if room >= tokens), ROOMS[-1])


def carry_of(state: Tree, pending: tuple[jax.Array, ...], live: Array) -> Carry:
    """The carry of machines of which nothing is known but what they read next."""
    numbers = [np.zeros(len(live), np.int32) for _ in range(2)]
    marks = [np.zeros(len(live), bool) for _ in range(2)]
    return Carry(state, pending, *map(jax.device_put, (np.array(live), *numbers, *marks)))


def own_copy(state: Tree) -> Tree:
    """A state whose arrays may be given away."""
    return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), state)


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def stretch(
    step: Step,
    structure: Structure,
    wiring: Wiring,
    room: int,
    parameters: Mapping[str, object],
    carry: Carry,
    given: Given,
    count: jax.Array,
) -> tuple[Carry, jax.Array]:
    """Run machines side by side until all have stopped.

    Args:
      step: of the network.
      structure: of the network.
      wiring: how outputs become inputs.
      room: most tokens.
      parameters: as the step takes them.
      carry: before the first token; its arrays are given away.
      given: what else is read.
      count: most tokens of this call.

    Returns:
      The carry, and the outputs (room, batch, outputs), of which those of the tokens done count.
    """
    batch = carry.live.shape[0]
    # Where no machine may stop while others go on, none has to be held back.
    masked = wiring.key is not None or (wiring.halts and batch > 1)
    held = jnp.zeros((room, batch, wiring.width), structure.dtype)

    def going(now: tuple[jax.Array, Carry, jax.Array]) -> jax.Array:
        return (now[0] < count) & now[1].live.any()

    def token(now: tuple[jax.Array, Carry, jax.Array]) -> tuple[jax.Array, Carry, jax.Array]:
        # `held` is only written here: were it read too, every step would copy it.
        place, before, held = now
        inputs, lacking = _inputs(wiring, before, given, place)
        outputs, state = step(parameters, structure, before.state, inputs)
        after = _after(wiring, given, before, outputs, lacking)
        moved = before.live & ~after.waiting
        if masked:
            state = jax.tree.map(lambda old, new: _where(moved, new, old), before.state, state)
        return (
            place + 1,
            after._replace(state=state),
            lax.dynamic_update_index_in_dim(held, outputs, place, 0),
        )

    _, last, outputs = lax.while_loop(going, token, (jnp.int32(0), carry, held))
    return last, outputs


def generated(
    step: Step,
    structure: Structure,
    parameters: Mapping[str, object],
    state: Tree,
    first: Array,
    count: int,
) -> Array:
    """Feed ids back: the case of one token in and one out, which never stops.

    Args:
      step: of the network.
      structure: of the network.
      parameters: as the step takes them.
      state: before the first id is read.
      first: (batch,) the first ids.
      count: how many more.

    Returns:
      (batch, count) int32, the ids after the first.
    """
    batch, parts = len(first), [np.zeros((len(first), 0), np.int32)]
    room = room_for(count)
    carry = carry_of(own_copy(state), (jax.device_put(first),), np.ones(batch, bool))
    keys, none = jax.device_put(np.zeros((batch, 1))), jax.device_put(np.zeros(batch, np.int32))
    given = Given(keys, none, None, jax.device_put(np.zeros((), bool)))
    while count:
        now = min(room, count)
        carry, outputs = stretch(
            step, structure, _IDS, room, parameters, carry, given, jax.device_put(np.int32(now))
        )
        ids = np.rint(np.asarray(outputs[:now, :, 0]).astype(np.float32)).astype(np.int32)
        parts.append(ids.T)
        count -= now
    return np.concatenate(parts, axis=1)


def _inputs(
    wiring: Wiring, carry: Carry, given: Given, place: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
    """Per input what a token reads, and which machines have no key to read."""
    inputs, lacking, key = list(carry.pending), None, wiring.key
    if key is not None:
        lacking = carry.taken >= given.there
        at = jnp.minimum(carry.taken, given.keys.shape[1] - 1)
        ahead = jnp.take_along_axis(given.keys, at[:, None], axis=1)[:, 0]
        ahead = jnp.where(lacking, jnp.zeros_like(ahead), ahead).astype(inputs[key].dtype)
        inputs[key] = ahead.reshape(inputs[key].shape)
    if given.prompt is not None:
        told = [lax.dynamic_index_in_dim(window, place, keepdims=False) for window in given.prompt]
        inputs = [jnp.where(given.reading, *pair) for pair in zip(told, inputs, strict=True)]
    return tuple(inputs), lacking


def _after(
    wiring: Wiring, given: Given, before: Carry, outputs: jax.Array, lacking: jax.Array | None
) -> Carry:
    """The carry after a token, but for the network's state."""
    reading = jnp.zeros((), bool) if given.prompt is None else given.reading
    live, taken, waiting, halted = before.live, before.taken, before.waiting, before.halted
    if wiring.feedback.keys is not None and lacking is not None:
        takes = live & ~reading & (outputs[..., wiring.feedback.keys[1]] == 1)
        waiting = waiting | (takes & lacking)
        taken = taken + (takes & ~lacking).astype(taken.dtype)
        live = live & ~waiting
    moved = live
    if wiring.halts and wiring.feedback.halt is not None:
        output, comparison, number = wiring.feedback.halt
        stops = cast(jax.Array, COMPARISONS[comparison](cast(Array, outputs[..., output]), number))
        halted = halted | (moved & stops & ~reading)
        live = live & ~halted
    pending = list(before.pending)
    for number, following in enumerate(_next(wiring, outputs, before.pending)):
        pending[number] = _where(moved & ~reading, following, before.pending[number])
    done = before.done + moved.astype(before.done.dtype)
    return Carry(before.state, tuple(pending), live, taken, done, halted, waiting)


def _next(
    wiring: Wiring, outputs: jax.Array, pending: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """Per input what the token after outputs (batch, outputs) reads; of the keys' input 0."""
    found = []
    start, stop = wiring.feedback.output
    resting = wiring.feedback.resting(dict(wiring.types))
    for number, (name, kind) in enumerate(wiring.types):
        held = pending[number]
        if number != wiring.fed:
            found.append(jnp.broadcast_to(jnp.asarray(resting[name], held.dtype), held.shape))
        elif isinstance(kind, Token):
            found.append(jnp.rint(outputs[..., start].astype(jnp.float32)).astype(jnp.int32))
        else:
            found.append(outputs[..., start:stop])
    return tuple(found)


def _where(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Of machines that the mask marks the new, of the others the old; leaves (batch, ...)."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)
