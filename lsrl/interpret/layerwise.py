"""Runs a network with patches layer by layer, over sequences of which all is known without.

`Wiring.run` goes token by token through all layers, since any hook may be set. A causal test sets
one signal of a sequence: the layers before it do what they do without, those after it take all
tokens at once, and only those that are patched have to go token by token. A layer's code takes its
weights as arguments, so it is compiled once for all layers and for all networks of its shapes.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.hooks import Layered
from lsrl.interpret.wiring import AnyArray, Arrays, Patch, Wiring, patched, quick, turned_patches
from lsrl.ir.numbers import Array

# At a token: its number, what the layer reads, and of each patch when and what to.
_Now: TypeAlias = tuple[AnyArray, jax.Array, Arrays, Arrays]


def known_streams(wiring: Wiring, inputs: Sequence[Array]) -> "KnownStreams | None":
    """A network on sequences that are run once; None where it can't run layer by layer."""
    layered = wiring.model.module.layered()
    return None if layered is None else KnownStreams(wiring, layered, inputs)


class KnownStreams:
    """A network on sequences of which it is known what each layer reads.

    Attributes:
      wiring: of the network.
    """

    def __init__(self, wiring: Wiring, layered: Layered, inputs: Sequence[Array]) -> None:
        """Run the sequences without patches.

        Args:
          wiring: of the network.
          layered: the network layer by layer.
          inputs: one array an input: ids (sequences, time) or vectors (sequences, time, width).
        """
        self.wiring, self._layered = wiring, layered
        features = tuple(np.moveaxis(x, 1, 0) for x in wiring.model.features(inputs))
        with wiring.model.device_mode():
            embed = _quick(layered.embed, "structure")
            stream = embed(layered.parameters, inputs=features, structure=layered.structure)
            # (time, sequences, d): what each layer reads, and what comes out of the last.
            self._streams = [np.asarray(stream)]
            for layer in range(len(layered.weights)):
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
        layered, depth = self._layered, len(self._layered.weights)
        turned = turned_patches(self.wiring.model, patches)
        hooks = {int(hook) for patch in turned for hook in np.unique(patch.layer) if hook >= 0}
        # Hook 0 is what the input map makes.
        layers = {(hook - 1) // layered.hooks for hook in hooks if hook}
        first = 0 if 0 in hooks else min(layers, default=depth)
        with self.wiring.model.device_mode():
            stream: AnyArray = self._streams[first][:, rows]
            if 0 in hooks:
                stream = _quick(_patched)(stream, turned)
            for layer in range(first, depth):
                if layer in layers:
                    stream = self._edited(layer, stream, turned)
                else:
                    stream = self._whole(layer, stream)
            read = _quick(layered.read, "structure")
            outputs = read(layered.parameters, stream=stream, structure=layered.structure)
            return np.moveaxis(np.asarray(outputs), 0, 1)

    def _whole(self, layer: int, stream: AnyArray) -> jax.Array:
        known = self._layered
        state = known.init_state(stream.shape[1])
        run = _quick(_whole_layer, "layer", "kind")
        return run(known.weights[layer], stream, state, layer=known.layer, kind=known.kind)

    def _edited(self, layer: int, stream: AnyArray, patches: Sequence[Patch]) -> jax.Array:
        known = self._layered
        first = 1 + layer * known.hooks
        return _quick(_edited_layer, "layer", "kind", "remembered")(
            known.weights[layer],
            stream,
            known.init_state(stream.shape[1]),
            patches,
            np.int32(first),
            tuple(x[first : first + known.hooks] for x in cast(Arrays, self.wiring.memory)),
            layer=known.layer,
            kind=known.kind,
            remembered=known.remembered,
        )


# One function each, so that all networks share what it was compiled to.
_quick = cache(quick)


# ---------------------------------------------------------------- what is compiled, time first


def _patched(stream: jax.Array, patches: Sequence[Patch]) -> jax.Array:
    """Hook 0 as patched."""

    def token(hook: jax.Array, tokens: Arrays, values: Arrays) -> jax.Array:
        return patched(hook, 0, patches, tokens, values)

    return jax.vmap(token)(stream, *_timed(patches))


def _whole_layer(
    weights: object,
    stream: jax.Array,
    state: object,
    *,
    layer: Callable[..., tuple[jax.Array, object]],
    kind: Hashable,
) -> jax.Array:
    """A layer, all tokens at once."""
    return layer(kind, weights, stream, state, jnp.arange(len(stream)) == 0, None)[0]


def _edited_layer(
    weights: object,
    stream: jax.Array,
    state: object,
    patches: Sequence[Patch],
    first: jax.Array,
    memory: Arrays,
    *,
    layer: Callable[..., tuple[jax.Array, object]],
    kind: Hashable,
    remembered: Callable[..., object],
) -> jax.Array:
    """A layer token by token, so that what is set goes on to the next token's memory.

    Args:
      weights: of the layer.
      stream: (time, batch, d).
      state: before the first token.
      patches: with time first.
      first: the number of the layer's first hook.
      memory: of its hooks, as `Wiring.memory` has it of all.
      layer: see `Layered`.
      kind: see `Layered`.
      remembered: see `Layered`.
    """

    def token(state: object, now: _Now) -> tuple[object, jax.Array]:
        place, before, when, values = now

        def edit(hook: int, made: jax.Array, held: object) -> tuple[jax.Array, object]:
            new = patched(made[0], first + hook, patches, when, values)
            return new[None], remembered(held, new - made[0], *(x[hook] for x in memory))

        after, state = layer(kind, weights, before[None], state, place[None] == 0, edit)
        return state, after[0]

    timed: _Now = (jnp.arange(len(stream)), stream, *_timed(patches))
    return lax.scan(token, state, timed)[1]


def _timed(patches: Sequence[Patch]) -> tuple[Arrays, Arrays]:
    return tuple(patch.tokens for patch in patches), tuple(patch.values for patch in patches)
