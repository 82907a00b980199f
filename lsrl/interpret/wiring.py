"""Runs a network token by token, reads every layer's hook and sets entries of it.

A hook is the vector of a layer that all later layers and the output read (see `Circuit.hook`).
Setting an entry sets the memory with it, so that the change goes on to the next tokens as the
layer's own value would.
"""

from collections.abc import Callable, Sequence
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.linear.network import LinearNetwork
from lsrl.backends.network import value_of
from lsrl.backends.residual.network import ResidualNetwork, edited_step
from lsrl.interpret.circuit import Circuit
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.pytrees import Tree

# Layers of a residual network in which all is that reads one hook.
SPAN = 2


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


class Prepared(NamedTuple):
    """What the pure functions of a wiring run on, with time first.

    Attributes:
      parameters: of the network, as its `parameters` gives them.
      state: of a batch, before the first token.
      inputs: features (time, batch, ...), one an input.
      memory: see `Wiring.memory`.
    """

    parameters: Any
    state: Any
    inputs: Any
    memory: Any


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

    def run(
        self,
        inputs: Sequence[Array],
        patches: Sequence[Patch] = (),
        *,
        hooks: bool = False,
    ) -> tuple[Array, list[Array]]:
        """Run whole sequences.

        Args:
          inputs: one array an input: ids (batch, time) or vectors (batch, time, width).
          patches: what to set; later ones win.
          hooks: whether to return the hooks.

        Returns:
          (batch, time, outputs), and per layer its hook (batch, time, units) as patched.
        """
        turned = turned_patches(self.model, patches)
        with self.model.device_mode():
            run = self.compiled(Wiring.traced, "hooks")
            outputs, seen = run(self.prepared(inputs), turned, hooks=hooks)
            return (
                np.moveaxis(np.asarray(outputs), 0, 1),
                [np.moveaxis(np.asarray(hook), 0, 1) for hook in seen],
            )

    # ------------------------------------------------------------ for transformations

    def compiled(self, function: Callable[..., Any], *static: str) -> Any:
        """A function under jit; networks that run by the same code share what is compiled.

        Args:
          function: pure, of a wiring and further arguments; of the module it is defined in.
          static: names of arguments that are compiled in.
        """
        return _compiled(_Same(self), function, static)

    def span(self, layer: int) -> range:
        """The hooks to run for what reads a layer's hook: those of its own layer and the next.

        Layers of a residual network read nothing but the stream before them, so two of them are
        enough however many there are; the first hook then is what they read. Others run whole.
        """
        network, hooks = self.model.module, len(self.circuit.units)
        if not isinstance(network, ResidualNetwork) or network.depth <= SPAN:
            return range(hooks)
        sites = network.structure.sites
        first = sites * min(max(layer - 1, 0) // sites, network.depth - SPAN)
        return range(first, first + SPAN * sites + 1)

    @cached_property
    def passed_on(self) -> Array:
        """(layers, width) bool: entries that are what the hook before has there, bit for bit.

        So are those of a residual stream that a layer adds nothing to, whatever it reads.
        """
        found, network = np.zeros((len(self.circuit.units), self.width), bool), self.model.module
        if isinstance(network, ResidualNetwork) and network.depth:
            layers = network.parameters()["layers"]
            for site, names in enumerate(network.writes):
                added = [np.asarray(layers[name]) != 0 for name in names]
                rows = [array.reshape(*array.shape[:2], -1).any(axis=-1) for array in added]
                found[1 + site :: network.sites] = ~np.any(rows, axis=0)
        return found

    def prepared(self, inputs: Sequence[Array], span: range | None = None) -> Prepared:
        """What the functions below run on, of a whole network or of one with a `span`'s layers."""
        network, batch = self.model.module, np.shape(inputs[0])[0]
        features = tuple(np.moveaxis(x, 1, 0) for x in self.model.features(inputs))
        parameters, memory = network.parameters(), self.memory
        if isinstance(network, LinearNetwork):
            starts = [np.asarray(value_of(layer.initial_state)) for layer in network.layers]
            rows = tuple(np.broadcast_to(start, (batch, *start.shape)) for start in starts)
            return Prepared(parameters, rows or network.init_state((batch,)), features, memory)
        state: Tree = network.init_state((batch,))
        if span is not None and len(span) < len(self.circuit.units):
            residual = cast(ResidualNetwork, network)
            sites = residual.structure.sites
            own = slice(span.start // sites, (span.stop - 1) // sites)
            layers = {name: x[own] for name, x in residual.parameters()["layers"].items()}
            parameters = {**parameters, "layers": layers}
            whole = residual.init_state((batch,))
            state = {name: x if name == "position" else x[:, own] for name, x in whole.items()}
            memory = tuple(x[span.start : span.stop] for x in memory)
        return Prepared(parameters, state, features, memory)

    def shifted(self, prepared: Prepared, shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Run with something added to every hook; a pure function, to be differentiated.

        Use it under the model's `device_mode`.

        Args:
          prepared: of `prepared`.
          shifts: (layers, batch, time, width), added to the hooks and to the memory with them.

        Returns:
          (batch, time, outputs), and all hooks (layers, batch, time, width), shifted.
        """
        outputs, seen = self.traced(prepared, (), jnp.moveaxis(shifts, 2, 0), hooks=True)
        return jnp.moveaxis(outputs, 0, 1), self._stacked(seen)

    def remade(
        self, prepared: Prepared, hooks: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """What every layer makes if hooks are as given; a pure function.

        Without a mask an entry depends on those that its layer reads and on no others, so that
        differences and derivatives are of single edges. Use it under the model's `device_mode`.

        Args:
          prepared: of `prepared`; of a span, layers are those of its hooks, and all entries of its
            first one have to be given, unless it is the network's.
          hooks: (layers, batch, time, width), which all that reads a hook reads.
          mask: (layers, batch, width) bool, the entries that are as given; if None, all of them.

        Returns:
          (batch, time, outputs), and what the layers make, (layers, batch, time, width).
        """
        held = jnp.moveaxis(hooks, 2, 0)
        outputs, seen = self.traced(prepared, (), None, held, mask, hooks=True)
        return jnp.moveaxis(outputs, 0, 1), self._stacked(seen)

    def hold(
        self,
        inputs: Sequence[Array],
        hooks: Array | None = None,
        mask: Array | None = None,
        span: range | None = None,
    ) -> tuple[Array, Array]:
        """As `remade`, with numpy arrays; few shapes are compiled if inputs have few.

        Args:
          inputs: one array an input: ids (batch, time) or vectors (batch, time, width).
          hooks: see `remade`; if None, nothing is held.
          mask: see `remade`.
          span: of `span`; hooks and mask then are of its layers, and so is what is returned. The
            outputs are the network's if the span reaches its end.

        Returns:
          (batch, time, outputs), and what the layers make, (layers, batch, time, width), float64.
        """
        layers = len(self.circuit.units) if span is None else len(span)
        batch, time = np.shape(inputs[0])[:2]
        if hooks is None:
            hooks = np.zeros((layers, batch, time, self.width))
            mask = np.zeros((layers, batch, self.width), bool)
        elif mask is None:
            mask = np.ones((layers, batch, self.width), bool)
        if span is not None and span.start:
            mask = np.concatenate([np.ones_like(mask[:1]), mask[1:]])
        with self.model.device_mode():
            held = np.asarray(hooks, self.model.dtype)
            remade = self.compiled(Wiring.remade)
            outputs, made = remade(self.prepared(inputs, span), held, mask)
            return np.asarray(outputs), np.asarray(made, np.float64)

    def _stacked(self, seen: Sequence[jax.Array]) -> jax.Array:
        """Hooks (time, batch, units) of all layers in one array, zeros beyond their units."""
        padded = [jnp.pad(x, ((0, 0), (0, 0), (0, self.width - x.shape[-1]))) for x in seen]
        return jnp.moveaxis(jnp.stack(padded), 1, 2)

    def traced(
        self,
        prepared: Prepared,
        patches: Any,
        shifts: jax.Array | None = None,
        held: jax.Array | None = None,
        mask: jax.Array | None = None,
        *,
        hooks: bool,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """As `run`, as a pure function for transformations, with time first.

        Args:
          prepared: of `prepared`.
          patches: as for `run`, with tokens (time, batch) and values (time, batch, units).
          shifts: (time, layers, batch, width), added to the hooks; or None.
          held: (time, layers, batch, width), what hooks are; or None.
          mask: (layers, batch, width) bool, the entries that `held` speaks of, or one such mask a
            token, (time, layers, batch, width); None for all.
          hooks: whether to return the hooks, as patched and shifted; with `held`, as made.
        """
        parameters, state, inputs, memory = prepared

        def token(state: Any, now: Any) -> tuple[Any, Any]:
            read, tokens, values, shift, hold, some = now
            where = mask if some is None else some

            def put(number: Any, hook: jax.Array) -> jax.Array:
                units = hook.shape[-1]
                if hold is not None:
                    given = hold[number][:, :units]
                    if where is None:
                        return given
                    return jnp.where(where[number][:, :units], given, hook)
                hook = patched(hook, number, patches, tokens, values)
                return hook if shift is None else hook + shift[number][:, :units]

            outputs, state, made = self._step(parameters, state, read, put, memory)
            seen = made if hold is not None else [put(i, hook) for i, hook in enumerate(made)]
            return state, (outputs, tuple(seen) if hooks else ())

        moving = mask if mask is not None and mask.ndim == 4 else None
        told = tuple(p.tokens for p in patches), tuple(p.values for p in patches)
        timed = *told, shifts, held, moving
        _, (outputs, seen) = lax.scan(token, state, (inputs, *timed))
        return outputs, list(seen)

    @property
    def _step(self) -> Callable[..., tuple[jax.Array, Any, list[jax.Array]]]:
        residual = isinstance(self.model.module, ResidualNetwork)
        return self._residual_step if residual else self._stack_step

    @cached_property
    def memory(self) -> Any:
        """What an edit of a hook does to the memory: arrays, so that equal networks share code."""
        network = self.model.module
        if isinstance(network, ResidualNetwork):
            return self._residual_memory
        return () if network.memory_is_output else self._stack_memory

    # ------------------------------------------------------------ stacks of layers, and streams

    def _stack_step(
        self, parameters: Any, state: Any, inputs: Any, put: Any, memory: Any
    ) -> tuple[jax.Array, Any, list[jax.Array]]:
        network, seen = self.model.module, []

        def edit(layer: int, hook: jax.Array, held: Any) -> tuple[jax.Array, Any]:
            new = put(layer, hook)
            seen.append(hook)
            if not layer:  # the input map's, which remembers nothing
                return new, held
            return new, network.remembered(held, hook, new, memory[layer] if memory else None)

        outputs, state = network.pure_step(parameters, network.structure, state, inputs, edit)
        return outputs, state, seen

    @cached_property
    def _stack_memory(self) -> list[tuple[Array, Array]]:
        """Per layer the entries of the hook that are states, and their hidden units."""
        found: list[tuple[list[int], list[int]]] = [([], []) for _ in self.circuit.units]
        for channel in self.circuit.channels:
            for unit, entry in zip(channel.units, channel.memory, strict=False):
                found[channel.layer][0].append(unit)
                found[channel.layer][1].append(entry)
        return [
            (np.array(units, np.int32), np.array(entries, np.int32)) for units, entries in found
        ]

    def _residual_step(
        self, parameters: Any, state: Any, inputs: Any, put: Any, memory: Any
    ) -> tuple[jax.Array, Any, list[jax.Array]]:
        network, (entries, weights) = self.model.module, memory

        def edit(site: Any, stream: jax.Array, scan: Any) -> tuple[jax.Array, Any]:
            new = put(site, stream[0])
            own = jnp.asarray(entries)[site], jnp.asarray(weights)[site]
            return new[None], remembered(scan, new - stream[0], *own)

        structure = cast(ResidualNetwork, network).structure
        outputs, state, seen = edited_step(parameters, structure, state, inputs, edit)
        return outputs, state, list(seen)

    @cached_property
    def _residual_memory(self) -> tuple[Array, Array]:
        """What the state of a scan changes by, with an entry of the stream.

        Entries of the scan (sites, entries), and their weights (sites, d, entries).
        """
        shapes = cast(ResidualNetwork, self.model.module).state_shapes()
        (scan,) = (shape for name, shape in shapes.items() if name != "conv")
        sites = len(self.circuit.units)
        known: list[dict[int, int]] = [{} for _ in range(sites)]
        for channel in self.circuit.channels:
            for entry in channel.memory:
                known[channel.layer].setdefault(entry, len(known[channel.layer]))
        # Few numbers of entries, so that few shapes are compiled.
        most = max(len(places) for places in known)
        most = 1 << (most - 1).bit_length() if most else 0
        entries = np.full((sites, most), int(np.prod(scan)), np.int32)
        weights = np.zeros((sites, self.width, most), np.float32)
        for site, places in enumerate(known):
            entries[site, : len(places)] = list(places)
        for channel in self.circuit.channels:
            for entry, weight in zip(channel.memory, channel.memory_weights, strict=True):
                place = known[channel.layer][entry]
                each = weight * len(channel.memory)
                for unit, own in zip(channel.units, channel.weights, strict=True):
                    weights[channel.layer, unit, place] += own / each
        return entries, weights


def turned_patches(model: Model, patches: Sequence[Patch]) -> tuple[Patch, ...]:
    """Patches with time first, in the model's dtype.

    Of numpy until the network runs: jax compiles every conversion, once a shape.
    """
    dtype = jnp.dtype(model.dtype)
    return tuple(
        Patch(
            np.asarray(p.layer, np.int32),
            p.tokens.T,
            p.units,
            np.moveaxis(np.asarray(p.values, dtype), 1, 0),
            None if p.basis is None else tuple(np.asarray(x, dtype) for x in p.basis),
        )
        for p in patches
    )


def patched(
    hook: jax.Array, number: Any, patches: Sequence[Patch], tokens: Any, values: Any
) -> jax.Array:
    """A hook (batch, units) at one token, with what patches set.

    Args:
      hook: as the layer makes it.
      number: of its layer.
      patches: later ones win.
      tokens: of each patch, (batch,) bool.
      values: of each patch, (batch, units).
    """
    units = hook.shape[-1]
    for patch, when, to in zip(patches, tokens, values, strict=True):
        here = (patch.layer == number)[:, None] & when[:, None]
        if patch.basis is None:
            hook = jnp.where(here & patch.units[:, :units], to[:, :units], hook)
            continue
        decode, encode = patch.basis
        now = hook @ decode[:units]
        change = jnp.where(here & patch.units, to - now, 0)
        hook = hook + change @ encode[:, :units]
    return hook


def remembered(scan: Any, change: jax.Array, entries: jax.Array, weights: jax.Array) -> Any:
    """The state of a site's scan behind a change of the stream; None where the site has no scan.

    Args:
      scan: (batch, ...), or None.
      change: (batch, d).
      entries: (entries,) of the flattened state; those of no meaning lie past its end.
      weights: (d, entries).
    """
    if scan is None or not entries.shape[0]:
        return scan
    flat = scan.reshape(scan.shape[0], -1)
    return flat.at[:, entries].add(change @ weights, mode="drop").reshape(scan.shape)


class _Same:
    """A wiring, equal to others whose networks run by the same code with other numbers."""

    def __init__(self, wiring: Wiring) -> None:
        network, self.wiring = wiring.model.module, wiring
        self.key = (type(network), network.structure, wiring.circuit.units)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=64)
def _compiled(same: _Same, function: Callable[..., Any], static: tuple[str, ...]) -> Any:
    return quick(partial(function, same.wiring), *static)


# Interventions are compiled for every network, and then mostly run a few times, so XLA takes longer
# than the runs. With less optimisation it takes less than half as long, and the code runs as fast:
# what it spends its time in are matrix products, which are a library's. Results stay exact, which
# causal tests show; without any optimisation (level 0) they do not.
QUICK: dict[str, bool | int] = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}


def quick(function: Callable[..., Any], *static: str) -> Any:
    """The function under jit, compiled in little time where that is on a CPU.

    Args:
      function: pure.
      static: names of arguments that are compiled in.
    """
    return jax.jit(function, static_argnames=static, compiler_options=_quick_options())


def quick_flags() -> str:
    """What XLA_FLAGS has to say for a process to compile everything so; nothing but on a CPU."""
    options = _quick_options() or {}
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


# What XLA compiles takes memory maps, of which Linux allows a process 65,530.
MOST_MAPS = 1 << 15


def forget_compiled() -> None:
    """Have jax forget what it compiled, where a process that sees many models has little room left.

    Without it, LLVM says "Cannot allocate memory" after hundreds of networks, and ends the process.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()  # type: ignore[no-untyped-call]


@cache
def _quick_options() -> dict[str, bool | int] | None:
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(jnp.negative, compiler_options=QUICK)(np.float32(0))
    except jax.errors.JaxRuntimeError:
        return None  # of another version, with other options
    return QUICK
