"""Runs a residual network with patches layer by layer, over sequences whose streams are known.

`Wiring.run` goes token by token through all layers, since any hook may be set. A causal test sets
one signal of a sequence: the layers before it do what they do without, those after it take all
tokens at once, and only those that are patched have to go token by token. A layer's code takes its
weights as arguments, so it is compiled once for all layers and for all networks of its shapes.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.residual.blocks import BlockFunction, Places
from lsrl.backends.residual.network import ResidualNetwork, Structure, embed, read_out
from lsrl.interpret.wiring import Patch, Wiring, patched, quick, remembered, turned_patches
from lsrl.ir.numbers import Array


class KnownStreams:
    """A residual network on sequences of which each layer's stream is known.

    Attributes:
      wiring: of the network.
    """

    def __init__(self, wiring: Wiring, inputs: Sequence[Array]) -> None:
        """Run the sequences without patches.

        Args:
          wiring: of a residual network.
          inputs: one array an input: ids (sequences, time) or vectors (sequences, time, width).
        """
        self.wiring, network = wiring, cast(ResidualNetwork, wiring.model.module)
        self._structure: Structure = network.structure
        parameters = network.parameters()
        self._ends = {name: x for name, x in parameters.items() if name != "layers"}
        stacked = {name: np.asarray(values) for name, values in parameters["layers"].items()}
        self._layers = [
            {name: values[layer] for name, values in stacked.items()}
            for layer in range(network.depth)
        ]
        self._shapes = network.state_shapes() if self._layers else {}
        features = tuple(np.moveaxis(x, 1, 0) for x in wiring.model.features(inputs))
        with wiring.model.device_mode():
            stream = _quick(_embedded, "structure")(self._ends, features, structure=self._structure)
            # (time, sequences, d): what each layer reads, and what comes out of the last.
            self._streams = [np.asarray(stream)]
            for layer in range(len(self._layers)):
                stream = self._whole(layer, stream)
                self._streams.append(np.asarray(stream))

    def run(self, rows: Array, patches: Sequence[Patch]) -> Array:
        """Run some of the sequences with patches.

        Args:
          rows: (batch,) int, which sequences; one may come several times.
          patches: what to set in them; later ones win.

        Returns:
          (batch, time, outputs).
        """
        wiring, sites = self.wiring, self._structure.sites
        turned = turned_patches(wiring.model, patches)
        hooks = {int(hook) for patch in turned for hook in np.unique(patch.layer) if hook >= 0}
        # Hook 0 is the embedding's; each layer has as many as it has sites.
        layers = {(hook - 1) // sites for hook in hooks if hook}
        first = 0 if 0 in hooks else min(layers, default=len(self._layers))
        with wiring.model.device_mode():
            stream: Any = self._streams[first][:, rows]
            if 0 in hooks:
                stream = _quick(_patched)(stream, turned)
            for layer in range(first, len(self._layers)):
                if layer in layers:
                    stream = self._edited(layer, stream, turned)
                else:
                    stream = self._whole(layer, stream)
            outputs = _quick(_read, "structure")(self._ends, stream, structure=self._structure)
            return np.moveaxis(np.asarray(outputs), 0, 1)

    def _state(self, batch: int) -> dict[str, Array]:
        return {name: np.zeros((batch, *x), np.float32) for name, x in self._shapes.items()}

    def _whole(self, layer: int, stream: Any) -> jax.Array:
        found: jax.Array = _quick(_whole_layer, "block", "eps")(
            self._layers[layer],
            stream,
            self._state(stream.shape[1]),
            block=self._structure.block,
            eps=self._structure.eps,
        )
        return found

    def _edited(self, layer: int, stream: Any, patches: Sequence[Patch]) -> jax.Array:
        entries, weights = self.wiring.memory
        first = 1 + layer * self._structure.sites
        own = slice(first, first + self._structure.sites)
        found: jax.Array = _quick(_edited_layer, "block", "eps")(
            self._layers[layer],
            stream,
            self._state(stream.shape[1]),
            patches,
            np.int32(first),
            (entries[own], weights[own]),
            block=self._structure.block,
            eps=self._structure.eps,
        )
        return found


# One function each, so that all networks share what it was compiled to.
_quick = cache(quick)


# ---------------------------------------------------------------- what is compiled, time first


def _embedded(parameters: Any, inputs: Any, *, structure: Structure) -> jax.Array:
    like = jnp.zeros(inputs[0].shape[:2])
    return embed(parameters, structure, inputs, like)


def _read(parameters: Any, stream: jax.Array, *, structure: Structure) -> jax.Array:
    return read_out(parameters, structure, stream)


def _patched(stream: jax.Array, patches: Sequence[Patch]) -> jax.Array:
    """The embedding as patched."""

    def token(hook: jax.Array, tokens: Any, values: Any) -> jax.Array:
        return patched(hook, 0, patches, tokens, values)

    return jax.vmap(token)(stream, *_timed(patches))


def _whole_layer(
    weights: Any, stream: jax.Array, state: Any, *, block: BlockFunction, eps: float
) -> jax.Array:
    """A layer, all tokens at once."""
    tokens, batch = stream.shape[:2]
    first = jnp.broadcast_to(jnp.arange(tokens)[:, None] == 0, (tokens, batch))
    return block(weights, stream, state, Places(first, jnp.int32(tokens)), eps, None)[0]


def _edited_layer(
    weights: Any,
    stream: jax.Array,
    state: Any,
    patches: Sequence[Patch],
    first: Any,
    memory: Any,
    *,
    block: BlockFunction,
    eps: float,
) -> jax.Array:
    """A layer token by token, so that what is set goes on to the next token's memory.

    Args:
      weights: of the layer.
      stream: (time, batch, d).
      state: before the first token.
      patches: with time first.
      first: the number of the layer's first hook.
      memory: of its sites, as `Wiring.memory` has it of all.
      block: the layer.
      eps: of its norms.
    """
    tokens, batch = stream.shape[:2]
    entries, into = memory

    def token(state: Any, now: Any) -> tuple[Any, jax.Array]:
        place, before, when, values = now

        def edit(site: int, made: jax.Array, scan: Any) -> tuple[jax.Array, Any]:
            new = patched(made[0], first + site, patches, when, values)
            return new[None], remembered(scan, new - made[0], entries[site], into[site])

        where = Places(jnp.broadcast_to(place == 0, (1, batch)), jnp.int32(1))
        after, state = block(weights, before[None], state, where, eps, edit)
        return state, after[0]

    return lax.scan(token, state, (jnp.arange(tokens), stream, *_timed(patches)))[1]


def _timed(patches: Sequence[Patch]) -> tuple[Any, Any]:
    return tuple(patch.tokens for patch in patches), tuple(patch.values for patch in patches)
