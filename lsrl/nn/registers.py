"""Registers that a host writes seldom, and that hold in between."""

from typing import final

import jax
import jax.numpy as jnp
from flax import nnx

from lsrl import arguments
from lsrl.backends.scans import gated_scan
from lsrl.errors import InputError

# Gates and values are read this sharply, and gates begin nearly shut: what is written at every
# token is no register.
SHARPNESS = 3.0
SHUT = -1.0


@final
class Registers(nnx.Module):
    """Registers, each a distribution that stays until the host writes another.

    content_t = w_t value_t + (1 - w_t) content_{t-1}, with w and value of the host's state at the
    token: however long a sequence is, what was written is there. Before the first write a register
    holds nothing: its shares add up to 0.

    Attributes:
      sizes: of the registers, by name.

    Example:
      registers = lsrl.nn.Registers(16, selection=2, rngs=nnx.Rngs(0))
      print(registers(jnp.zeros((1, 3, 16)))["selection"].shape)
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs, **sizes: int) -> None:
        """Make registers of a host.

        Args:
          features: width of the host's state.
          rngs: of flax, for the weights.
          **sizes: what each may hold, by its name: selection=5 is one of five.

        Raises:
          InputError: no registers, or a size that is no positive int.
        """
        arguments.count("Registers: features", features)
        if not sizes:
            raise InputError("Registers: expected sizes by name, such as selection=5, got none")
        for name, size in sizes.items():
            arguments.count(f"Registers: {name}", size)
        self.sizes = dict(sizes)
        shut = nnx.initializers.constant(SHUT)
        self.gates = nnx.Dict(
            {name: nnx.Linear(features, 1, bias_init=shut, rngs=rngs) for name in sizes}
        )
        self.values = nnx.Dict(
            {name: nnx.Linear(features, size, rngs=rngs) for name, size in sizes.items()}
        )

    def __call__(
        self, state: jax.Array, hard: bool = False, when: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """What each holds behind each token.

        Args:
          state: of the host, (batch, time, features).
          hard: write wholly or not at all, and one value.
          when: what the gates read, of that shape; by default the state, too. Of a token alone it
            is the same at any place, so what is trained on short sequences opens at no other token
            of long ones.

        Returns:
          (batch, time, size) by name.
        """
        found, gates = {}, self.writes(state if when is None else when)
        for name, size in self.sizes.items():
            gate = gates[name]
            value = jax.nn.softmax(SHARPNESS * self.values[name](state))
            if hard:
                gate = jnp.round(gate)
                value = jax.nn.one_hot(value.argmax(-1), size, dtype=value.dtype)
            empty = jnp.zeros((state.shape[0], size), value.dtype)
            found[name] = gated_scan(1 - gate, gate * value, empty)
        return found

    def writes(self, state: jax.Array) -> dict[str, jax.Array]:
        """By how much each is written at each token: what a loss may charge for.

        Where a host could as well write the same value at every token, answers alone don't teach it
        to write once, and only that holds in sequences longer than those it learnt from.

        Args:
          state: what the gates read, (batch, time, features).

        Returns:
          (batch, time, 1) by name, from 0 to 1.
        """
        return {name: jax.nn.sigmoid(SHARPNESS * gate(state)) for name, gate in self.gates.items()}
