"""Networks as engines of loops: what `lsrl.language.loop` asks of whoever carries one out."""

from collections.abc import Sequence
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.backends.loop import WINDOW, Carry, Given, carry_of, room_for, stretch
from lsrl.backends.network import Network, on_device
from lsrl.ir.numbers import Array, unsigned_zeros
from lsrl.ir.types import Token
from lsrl.language.loop import Engine, Stretch
from lsrl.language.run import Ahead, Wiring
from lsrl.pytrees import Tree

# Tokens of a stretch: of one machine, which ends it where it stops; and of several, of which those
# that have stopped are carried along until it ends.
MOST_ALONE, MOST_TOGETHER = 4096, 512


@final
class Machines(Engine[Tree]):
    """A network that runs machines side by side, each in its row of the batch."""

    def __init__(self, network: Network, wiring: Wiring, steps: int, machines: int) -> None:
        """Of a network, for so many steps of so many machines at most."""
        self._network, self._parameters, self._wiring = network, network.kept(), wiring
        most = MOST_ALONE if machines == 1 else MOST_TOGETHER
        self.most = min(most, room_for(steps))
        self._kinds = [jnp.int32 if isinstance(kind, Token) else jnp.dtype(network.dtype)
                       for _, kind in wiring.types]  # fmt: skip
        self._idle: tuple[jax.Array, ...] = ()

    def read(self, state: Tree, inputs: Sequence[Array]) -> Tree:
        """The state after tokens (machines, time, ...), by the function that runs them on."""
        machines, tokens = inputs[0].shape[:2]
        first = tuple(array[:, 0] for array in inputs)
        carry = self._carry(state, first, np.ones(machines, bool))
        for start in range(0, tokens, WINDOW):
            part = [array[:, start : start + WINDOW] for array in inputs]
            prompt = tuple(
                self._array(np.moveaxis(_filled(array), 1, 0), number)
                for number, array in enumerate(part)
            )
            carry, _ = self._run(carry, prompt, True, (), part[0].shape[1])
        return carry.state

    def advance(self, state: Tree, ahead: Ahead, live: Array, count: int) -> Stretch[Tree]:
        """Let machines run for so many tokens, until they stop."""
        carry = self._carry(state, ahead.pending, live)
        if not self._idle or self._idle[0].shape[1] != len(live):
            self._idle = tuple(
                self._array(np.zeros((WINDOW, *held.shape)), number)
                for number, held in enumerate(ahead.pending)
            )
        after, outputs = self._run(carry, self._idle, False, ahead.keys, count)
        told = np.moveaxis(np.asarray(outputs[:count]), 0, 1)
        pending = tuple(
            np.asarray(new).astype(old.dtype)
            for new, old in zip(after.pending, ahead.pending, strict=True)
        )
        done, halted, waiting = (np.asarray(x) for x in (after.done, after.halted, after.waiting))
        return Stretch(after.state, pending, unsigned_zeros(told), done, halted, waiting)

    def picked(self, state: Tree, machines: Array) -> Tree:
        """The state of some machines, by number."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[machines], state)

    def joined(self, states: Sequence[Tree], order: Array) -> Tree:
        """The states of several groups of machines as one."""

        def together(*leaves: jax.Array | Array) -> Array:
            return np.concatenate([np.asarray(leaf) for leaf in leaves])[order]

        return jax.tree.map(together, *states)

    def _run(
        self, carry: Carry, prompt: tuple[jax.Array, ...], reading: bool, keys: Sequence[Array],
        count: int,
    ) -> tuple[Carry, jax.Array]:  # fmt: skip
        machines = len(carry.live)
        room = self.most if self._wiring.key is not None else 1
        window, there = np.zeros((machines, room), np.float32), np.zeros(machines, np.int32)
        for row, own in enumerate(keys):
            there[row] = min(len(own), room)
            window[row, : there[row]] = own[:room]
        given = Given(jnp.asarray(window), jnp.asarray(there), prompt, jnp.asarray(reading))
        network = self._network
        return stretch(
            network.pure_step, network.structure, self._wiring, self.most, self._parameters, carry,
            given, jnp.int32(count),
        )  # fmt: skip

    def _carry(self, state: Tree, pending: Sequence[Array], live: Array) -> Carry:
        held = tuple(self._array(array, number) for number, array in enumerate(pending))
        return carry_of(state, held, live)

    def _array(self, values: Array, number: int) -> jax.Array:
        return on_device(values, self._kinds[number])


def _filled(tokens: Array) -> Array:
    """(machines, WINDOW, ...), with zeros behind."""
    missing = WINDOW - tokens.shape[1]
    return np.pad(tokens, [(0, 0), (0, missing), *[(0, 0)] * (tokens.ndim - 2)])
