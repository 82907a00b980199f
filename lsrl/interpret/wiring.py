"""Runs a network token by token, reads every layer's hook and sets entries of it.

A hook is the vector of a layer that all later layers and the output read (see `Circuit.hook`).
Setting an entry sets the memory with it, so that the change goes on to the next tokens as the
layer's own value would.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.linear.network import LinearNetwork
from lsrl.backends.residual.network import ResidualNetwork, edited_step
from lsrl.errors import LsrlError
from lsrl.interpret.circuit import Circuit
from lsrl.ir.numbers import Array
from lsrl.model import Model


class Patch(NamedTuple):
    """Entries to set, in one layer a sequence.

    Attributes:
      layer: (batch,) int, whose hook; -1 for none.
      tokens: (batch, time) bool, when.
      units: (batch, units) bool, which entries; units of the widest hook.
      values: (batch, time, units), what to.
      basis: None, or (units, elements) and (elements, units): `units` and `values` then speak of
        elements hook @ basis[0], and a change of an element changes the hook by its row of
        basis[1].
    """

    layer: Any
    tokens: Any
    units: Any
    values: Any
    basis: Any = None


class Wiring:
    """A model's network with its hooks.

    Attributes:
      circuit: what the hooks hold.
      width: entries of the widest hook.
    """

    def __init__(self, model: Model, circuit: Circuit) -> None:
        """Take a model and its circuit; nothing is compiled until it runs."""
        self.model = model
        self.circuit = circuit
        self.width = max(circuit.units)
        self._run = jax.jit(self.traced, static_argnames="hooks")

    def run(
        self, inputs: Sequence[Array], patches: Sequence[Patch] = (), *, hooks: bool = False
    ) -> tuple[Array, list[Array]]:
        """Run whole sequences.

        Args:
          inputs: one array an input: ids (batch, time) or vectors (batch, time, width).
          patches: what to set; later ones win.
          hooks: whether to return the hooks.

        Returns:
          (batch, time, outputs), and per layer its hook (batch, time, units) as patched.
        """
        model, network = self.model, self.model.module
        with model.device_mode():
            features = tuple(jnp.moveaxis(x, 1, 0) for x in model.features(inputs))
            state = network.init_state((np.shape(inputs[0])[0],))
            turned = tuple(
                Patch(
                    jnp.asarray(p.layer, jnp.int32),
                    jnp.asarray(p.tokens.T),
                    jnp.asarray(p.units),
                    jnp.moveaxis(jnp.asarray(p.values, model.dtype), 1, 0),
                    jax.tree.map(lambda x: jnp.asarray(x, model.dtype), p.basis),
                )
                for p in patches
            )
            outputs, seen = self._run(network.parameters(), state, features, turned, hooks=hooks)
            return (
                np.asarray(jnp.moveaxis(outputs, 0, 1)),
                [np.asarray(jnp.moveaxis(hook, 0, 1)) for hook in seen],
            )

    def traced(
        self, parameters: Any, state: Any, inputs: Any, patches: Any, *, hooks: bool
    ) -> tuple[jax.Array, list[jax.Array]]:
        """As `run`, as a pure function for transformations, with time first.

        Args:
          parameters: of the network, as its `parameters` gives them.
          state: of a batch, from `init_state`.
          inputs: features (time, batch, ...), one an input.
          patches: as for `run`, with tokens (time, batch) and values (time, batch, units).
          hooks: whether to return the hooks.
        """

        def token(state: Any, now: Any) -> tuple[Any, Any]:
            read, tokens, values = now

            def put(number: Any, hook: jax.Array) -> jax.Array:
                units = hook.shape[-1]
                for patch, when, to in zip(patches, tokens, values, strict=True):
                    where = (patch.layer == number)[:, None] & when[:, None]
                    if patch.basis is None:
                        hook = jnp.where(where & patch.units[:, :units], to[:, :units], hook)
                        continue
                    decode, encode = patch.basis
                    now = hook @ decode[:units]
                    change = jnp.where(where & patch.units, to - now, 0)
                    hook = hook + change @ encode[:, :units]
                return hook

            outputs, state, seen = self._step(parameters, state, read, put)
            return state, (outputs, tuple(seen) if hooks else ())

        timed = tuple(p.tokens for p in patches), tuple(p.values for p in patches)
        _, (outputs, seen) = lax.scan(token, state, (inputs, *timed))
        return outputs, list(seen)

    @property
    def _step(self) -> Callable[..., tuple[jax.Array, Any, list[jax.Array]]]:
        network = self.model.module
        if isinstance(network, LinearNetwork):
            return self._linear_step
        if isinstance(network, CellNetwork):
            return self._cell_step
        if isinstance(network, ResidualNetwork):
            return self._residual_step
        raise LsrlError(f"target {self.model.target!r} has no hooks")

    # ------------------------------------------------------------ the three kinds of networks

    def _linear_step(
        self, parameters: Any, state: Any, inputs: Any, put: Any
    ) -> tuple[jax.Array, Any, list[jax.Array]]:
        network, memory, seen = self.model.module, self._linear_memory, []

        def edit(layer: int, hook: jax.Array, hidden: Any) -> tuple[jax.Array, Any]:
            hook = put(layer, hook)
            seen.append(hook)
            if layer:
                units, entries = memory[layer]
                hidden = hidden.at[:, entries].set(hook[:, units])
            return hook, hidden

        outputs, state = network.pure_step(parameters, network.structure, state, inputs, edit)
        return outputs, state, seen

    @cached_property
    def _linear_memory(self) -> list[tuple[Array, Array]]:
        """Per layer the entries of the hook that are states, and their hidden units."""
        found: list[tuple[list[int], list[int]]] = [([], []) for _ in self.circuit.units]
        for channel in self.circuit.channels:
            for unit, entry in zip(channel.units, channel.memory, strict=False):
                found[channel.layer][0].append(unit)
                found[channel.layer][1].append(entry)
        return [(np.array(units, int), np.array(entries, int)) for units, entries in found]

    def _cell_step(
        self, parameters: Any, state: Any, inputs: Any, put: Any
    ) -> tuple[jax.Array, Any, list[jax.Array]]:
        network, seen = self.model.module, []

        def edit(layer: int, hook: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
            new = put(layer, hook)
            seen.append(new)
            if isinstance(carry, tuple):
                # tanh is linear where a cell's c is kept, so c is what h is.
                cell, _ = carry
                return new, (jnp.where(new == hook, cell, new), new)
            return new, carry if carry is None else new

        outputs, state = network.pure_step(parameters, network.structure, state, inputs, edit)
        return outputs, state, seen

    def _residual_step(
        self, parameters: Any, state: Any, inputs: Any, put: Any
    ) -> tuple[jax.Array, Any, list[jax.Array]]:
        network, memory = self.model.module, jnp.asarray(self._residual_memory)

        def edit(site: Any, stream: jax.Array, scan: Any) -> tuple[jax.Array, Any]:
            new = put(site, stream[0])
            if scan is not None:
                change = (new - stream[0]) @ memory[site]
                scan = scan + change.reshape(scan.shape)
            return new[None], scan

        outputs, state, seen = edited_step(parameters, network.structure, state, inputs, edit)
        return outputs, state, list(seen)

    @cached_property
    def _residual_memory(self) -> Array:
        """(sites, d, scan): what the state of a scan changes by, with an entry of the stream."""
        shapes = self.model.module.state_shapes()
        (scan,) = (shape for name, shape in shapes.items() if name != "conv")
        found = np.zeros((len(self.circuit.units), self.width, int(np.prod(scan))), np.float32)
        for channel in self.circuit.channels:
            for entry, weight in zip(channel.memory, channel.memory_weights, strict=True):
                for unit, own in zip(channel.units, channel.weights, strict=True):
                    found[channel.layer, unit, entry] += own / weight
        return found
