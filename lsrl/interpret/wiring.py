"""Runs a network token by token, reads every layer's hook and sets entries of it.

A hook is the vector of a layer that all later layers and the output read (see `Circuit.hook`).
Setting an entry sets the memory with it, so that the change goes on to the next tokens as the
layer's own value would.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Concatenate, NamedTuple, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsrl.backends.xla import Options, understood
from lsrl.circuit import Circuit
from lsrl.interpret.reading import reading_of
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.pytrees import Tree

Result = TypeVar("Result")


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

    layer: Array
    tokens: Array
    units: Array
    values: Array
    basis: tuple[Array, Array] | None = None


# Of so many values of signals it is worth while to compile those alone that are wanted.
MANY = 2**25

AnyArray: TypeAlias = Array | jax.Array  # of numpy until it is traced
Arrays: TypeAlias = Sequence[AnyArray]
# At a token: inputs, of each patch when and what to, and what hooks are shifted by or held at.
_Now: TypeAlias = tuple[Arrays, Arrays, Arrays, AnyArray | None, AnyArray | None, AnyArray | None]
_Seen: TypeAlias = tuple[jax.Array, tuple[jax.Array, ...]]  # outputs, and hooks


class Prepared(NamedTuple):
    """What the pure functions of a wiring run on, with time first.

    Attributes:
      parameters: of the network, as its `parameters` gives them.
      state: of a batch, before the first token.
      inputs: features (time, batch, ...), one an input.
      memory: see `Wiring.memory`.
    """

    parameters: Mapping[str, object]
    state: Tree
    inputs: Arrays
    memory: Tree


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

    def signals(
        self, inputs: Sequence[Array], names: tuple[str, ...] | None = None
    ) -> dict[str, Array]:
        """What the hooks hold without a patch, decoded.

        A network that is exact adds up to the same bits in any order, so it runs as fast as it can.

        Args:
          inputs: as for `run`.
          names: of signals and of affine maps of them; None for all.

        Returns:
          By name (batch, time, width), float64.
        """
        certificate, reading = self.model.certificate, reading_of(self.circuit, names)
        batch, time = inputs[0].shape[:2]
        if certificate.exact and time <= (certificate.tokens or time):
            whole = reading_of(self.circuit)
            # To compile some of them takes longer than to run all, unless these are many.
            if batch * time * sum(map(len, whole.units)) > MANY:
                whole = reading
            found = self.model.hooks(inputs, whole.units)
            if found is not None:
                values = whole.decoded(found)
                return values if names is None else {name: values[name] for name in names}
        _, hooks = self.run(inputs, hooks=True)
        return reading.decoded(reading.picked(hooks))

    # ------------------------------------------------------------ for transformations

    def compiled(
        self, function: "Callable[Concatenate[Wiring, ...], Result]", *static: str
    ) -> Callable[..., Result]:
        """A function under jit; networks that run by the same code share what is compiled.

        Args:
          function: pure, of a wiring and further arguments; of the module it is defined in.
          static: names of arguments that are compiled in.
        """
        return cast(Callable[..., Result], _compiled(_Same(self), function, static))

    def span(self, layer: int) -> range:
        """The hooks to run for what reads a layer's hook; the first of them then is given."""
        return self.model.module.span(layer, len(self.circuit.units))

    @cached_property
    def passed_on(self) -> Array:
        """(layers, width) bool: entries that are what the hook before has there, bit for bit.

        So are those of a residual stream that a layer adds nothing to, whatever it reads.
        """
        found = np.zeros((len(self.circuit.units), self.width), bool)
        for layer, entries in self.model.module.passed_on().items():
            found[layer, : len(entries)] = entries
        return found

    @cached_property
    def memory(self) -> Tree:
        """What an edit of a hook does to the memory: arrays, so that equal networks share code."""
        return self.model.module.memory_of(self.circuit)

    def prepared(self, inputs: Sequence[Array], span: range | None = None) -> Prepared:
        """What the functions below run on, of a whole network or of one with a `span`'s layers."""
        network = self.model.module
        features = tuple(np.moveaxis(x, 1, 0) for x in self.model.features(inputs))
        parts = network.parameters(), network.init_state((len(inputs[0]),)), self.memory
        if span is not None and len(span) < len(self.circuit.units):
            parts = network.within(span, *parts)
        parameters, state, memory = parts
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
        patches: Sequence[Patch],
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
        step = self.model.module.edited_step

        def token(state: Tree, now: _Now) -> tuple[Tree, _Seen]:
            read, tokens, values, shift, hold, some = now
            where = mask if some is None else some

            def put(number: int | jax.Array, hook: jax.Array) -> jax.Array:
                units = hook.shape[-1]
                if hold is not None:
                    given = hold[number][:, :units]
                    if where is None:
                        return given
                    return jnp.where(where[number][:, :units], given, hook)
                hook = patched(hook, number, patches, tokens, values)
                return hook if shift is None else hook + shift[number][:, :units]

            outputs, state, made = step(parameters, state, read, put, memory)
            seen = made if hold is not None else [put(i, hook) for i, hook in enumerate(made)]
            return state, (outputs, tuple(seen) if hooks else ())

        moving = mask if mask is not None and mask.ndim == 4 else None
        told = tuple(p.tokens for p in patches), tuple(p.values for p in patches)
        timed: _Now = (inputs, *told, shifts, held, moving)
        _, (outputs, seen) = lax.scan(token, state, timed)
        return outputs, list(seen)


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
            None if p.basis is None else (p.basis[0].astype(dtype), p.basis[1].astype(dtype)),
        )
        for p in patches
    )


def patched(
    hook: jax.Array,
    number: int | jax.Array,
    patches: Sequence[Patch],
    tokens: Arrays,
    values: Arrays,
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
def _compiled(
    same: _Same, function: Callable[..., object], static: tuple[str, ...]
) -> Callable[..., object]:
    return quick(partial(function, same.wiring), *static)


# Interventions are compiled for every network, and then mostly run a few times, so XLA takes longer
# than the runs. With less optimisation it takes less than half as long, and the code runs as fast:
# what it spends its time in are matrix products, which are a library's. Results stay exact, which
# causal tests show; without any optimisation (level 0) they do not.
QUICK: Options = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}


def quick(function: Callable[..., Result], *static: str) -> Callable[..., Result]:
    """The function under jit, compiled in little time where that is on a CPU.

    Args:
      function: pure.
      static: names of arguments that are compiled in.
    """
    return cast(
        Callable[..., Result],
        jax.jit(function, static_argnames=static, compiler_options=understood(QUICK)),
    )


def quick_flags() -> str:
    """What XLA_FLAGS has to say for a process to compile everything so; nothing but on a CPU."""
    options = understood(QUICK) or {}
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
