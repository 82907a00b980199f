"""What studies ask of a network beside its step: how to look at its hooks, and to set them.

A hook is the vector of a layer that all later layers and the output read; hook 0 is what the input
map makes. The answers here are those of a stack of layers whose step takes an `Edit`; a family of
another kind gives its own, and no study asks which family it is.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeAlias, cast

import jax
import numpy as np

from lsrl.circuit import Circuit
from lsrl.ir.numbers import Array
from lsrl.pytrees import Tree

Parameters: TypeAlias = Mapping[str, object]
# From the number of a hook (it may be traced) and what the layer made to what it is to be.
Put = Callable[[int | jax.Array, jax.Array], jax.Array]


class Layered(NamedTuple):
    """A network whose layers can run one after another, each over whole sequences; time is first.

    Functions are of a module, and `structure` and `kind` hashable: they are compiled in.

    Attributes:
      parameters: of what comes before and behind the layers.
      weights: of each layer.
      hooks: number of hooks of a layer.
      structure: what `embed` and `read` go by.
      embed: parameters, structure and inputs to hook 0.
      read: parameters, structure and what the last layer makes to outputs.
      kind: what `layer` goes by.
      layer: kind, weights, what it reads (time, batch, units), its state, which tokens (time,) are
        the first, and an edit of its hooks, from 0 on, or None; to what it makes and its state.
      remembered: a hook's memory, its change, and arrays of `Hooked.memory_of`; to the new memory.
      init_state: of a layer, by the number of sequences.
    """

    parameters: Parameters
    weights: Sequence[Parameters]
    hooks: int
    structure: Hashable
    embed: Callable[..., jax.Array]
    read: Callable[..., jax.Array]
    kind: Hashable
    layer: Callable[..., tuple[jax.Array, Tree]]
    remembered: Callable[..., Tree]
    init_state: Callable[[int], Tree]


class Hooked:
    """The part of `Network` that studies see.

    Attributes:
      memory_is_output: whether a layer remembers all of its output and nothing else.
      residual: whether hooks are one stream that every layer adds to. Its layers are then alike:
        one is compiled for all, so running takes longer than compiling.
    """

    memory_is_output: ClassVar[bool] = False
    residual: ClassVar[bool] = False
    pure_step: ClassVar[Callable[..., tuple[jax.Array, Tree]]]
    structure: Hashable

    def hooks_in(self, state: Tree) -> list[Array] | None:
        """What the hooks behind the input map hold, as the states after a token tell.

        Args:
          state: leaves (..., units).

        Returns:
          One a layer, (..., units); None where states do not tell.
        """
        if not self.memory_is_output:
            return None
        return [np.asarray(each) for each in cast(tuple[Array, ...], state)]

    def span(self, layer: int, hooks: int) -> range:
        """The hooks to run for what reads a layer's hook: all of them, or those of a few layers."""
        return range(hooks)

    def within(
        self, span: range, parameters: Parameters, state: Tree, memory: Tree
    ) -> tuple[Parameters, Tree, Tree]:
        """Parameters, state and memory of the layers of a span."""
        return parameters, state, memory

    def passed_on(self) -> Mapping[int, Array]:
        """By hook (units,) bool: entries that are what the hook before has there, bit for bit."""
        return {}

    def memory_of(self, circuit: Circuit) -> Tree:
        """What an edit of a hook does to the memory: arrays, so that equal networks share code.

        Per hook the entries that are states, and those of the memory behind them; empty where the
        memory is the output.
        """
        if self.memory_is_output:
            return ()
        found: list[tuple[list[int], list[int]]] = [([], []) for _ in circuit.units]
        for channel in circuit.channels:
            for unit, entry in zip(channel.units, channel.memory, strict=False):
                found[channel.layer][0].append(unit)
                found[channel.layer][1].append(entry)
        return tuple(tuple(np.array(places, np.int32) for places in both) for both in found)

    def remembered(
        self,
        memory: Tree,
        before: jax.Array,
        after: jax.Array,
        places: tuple[Sequence[int] | Array, Sequence[int] | Array] | None,
    ) -> Tree:
        """The memory of a layer behind an edit of its output, so that states go on from there.

        Args:
          memory: of the layer, as an `Edit` sees it.
          before: the output (batch, units).
          after: likewise, as edited.
          places: units that hold states, and the entries of the memory behind them; None where
            `memory_is_output`.
        """
        units, entries = places or ((), ())
        return cast(jax.Array, memory).at[:, entries].set(after[:, units])

    def edited_step(
        self,
        parameters: Parameters,
        state: Tree,
        inputs: Sequence[Array | jax.Array],
        put: Put,
        memory: Tree,
    ) -> tuple[jax.Array, Tree, list[jax.Array]]:
        """Run one token with hooks that are set; a pure function.

        Args:
          parameters: as `pure_step` takes them.
          state: of batch shape (batch,).
          inputs: per program input, token ids (batch,) or vectors (batch, width).
          put: what the hooks are to be.
          memory: of `memory_of`.

        Returns:
          (batch, outputs), the new state, and the hooks as the layers make them.
        """
        seen: list[jax.Array] = []
        places = cast(tuple[tuple[Array, Array], ...], memory)

        def edit(layer: int, hook: jax.Array, held: Tree | None) -> tuple[jax.Array, Tree | None]:
            new = put(layer, hook)
            seen.append(hook)
            if held is None:  # the input map's, which remembers nothing
                return new, held
            return new, self.remembered(held, hook, new, places[layer] if places else None)

        outputs, state = self.pure_step(parameters, self.structure, state, inputs, edit)
        return outputs, state, seen

    def run_hooks(self, inputs: Sequence[Array], units: Sequence[Sequence[int]]) -> Array | None:
        """Entries of hooks of whole sequences, all tokens at once.

        Args:
          inputs: per program input, token ids (batch, time) or vectors (batch, time, width).
          units: of each hook, that of the input map first: which entries.

        Returns:
          (batch, time, entries), float64, the entries of a hook one after another; None where it
          runs token by token. Sums are taken in another order than `edited_step` takes them.
        """
        return None

    def layered(self) -> Layered | None:
        """The network layer by layer; None where it runs token by token or whole only."""
        return None
