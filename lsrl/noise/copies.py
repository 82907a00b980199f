"""Thousands of noisy copies of a model, run at once.

A network's step is a pure function of its parameters, so copies are a `vmap` over drawn
parameters, and time is a `lax.scan`. With teacher forcing no state is carried: every token starts
from the clean model's state, and so all tokens run at once. Copies are spread over the devices of a
mesh, if one is given; a draw depends on its seed alone, so results do not depend on the devices,
nor on how many copies the memory holds at a time.

Axis legend: arrays are (copies, batch, time, outputs).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsrl.backends.axes import Axes
from lsrl.backends.network import Network
from lsrl.backends.pattern import Pattern
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.noise.perturbations import FORMATS, Perturbation
from lsrl.noise.ranges import weight_ranges
from lsrl.parameters import dense
from lsrl.pytrees import named_leaves

# What the copies of one call may take of memory, in bytes, unless the user says otherwise.
MEMORY = 2**30

Observe = Callable[[Any, Any], Any]


def run_copies(
    model: Model,
    inputs: Sequence[Array],
    perturbation: Perturbation,
    levels: Sequence[float],
    seeds: Sequence[int],
    *,
    memory: int = MEMORY,
    most: int | None = None,
    last: int = 0,
    mesh: Mesh | None = None,
) -> Array:
    """Outputs of perturbed copies of a model.

    Args:
      model: the model.
      inputs: one array an input: (batch, time) or (batch, time, width).
      perturbation: what is done to each copy.
      levels: of the perturbation, one a copy.
      seeds: of the draws, one a copy.
      memory: bytes that the copies at work may take; at least one copy a device runs.
      most: copies at a time; fewer are filled up to it, so that calls of different numbers of
        copies share what is compiled.
      last: only so many last tokens are returned; 0: all. With forced states the others are not
        even run.
      mesh: devices to spread the copies over, along its first axis.

    Returns:
      (copies, batch, time, outputs), or (copies, batch, last, outputs).

    Raises:
      InputError: no copies, or not as many levels as seeds.
    """
    return np.asarray(
        observe_copies(
            model,
            inputs,
            perturbation,
            levels,
            seeds,
            _outputs,
            memory=memory,
            most=most,
            last=last,
            mesh=mesh,
        )
    )


def observe_copies(
    model: Model,
    inputs: Sequence[Array],
    perturbation: Perturbation,
    levels: Sequence[float],
    seeds: Sequence[int],
    observe: Observe,
    *,
    memory: int = MEMORY,
    most: int | None = None,
    last: int = 0,
    mesh: Mesh | None = None,
) -> Any:
    """What is seen of perturbed copies at every token.

    Args:
      model: the model.
      inputs: as for `run_copies`.
      perturbation: as for `run_copies`.
      levels: as for `run_copies`.
      seeds: as for `run_copies`.
      observe: from a token's outputs (batch, outputs) and the state after it to a pytree of arrays
        (batch, ...); a function of a module, since it is compiled once.
      memory: as for `run_copies`.
      most: as for `run_copies`.
      last: as for `run_copies`.
      mesh: as for `run_copies`.

    Returns:
      The pytree, of arrays (copies, batch, time, ...).

    Raises:
      InputError: no copies, or not as many levels as seeds.
    """
    if not len(seeds) or len(levels) != len(seeds):
        raise InputError(
            f"run_copies: expected a level and a seed a copy, got {len(levels)} levels and "
            f"{len(seeds)} seeds"
        )
    module = model.module
    arrays = [np.asarray(array) for array in inputs]
    batch, tokens = arrays[0].shape[:2]
    with model.device_mode():
        features = tuple(jnp.asarray(a, jnp.int32 if a.ndim == 2 else model.dtype) for a in arrays)
        clean = module.parameters()
        state = jax.tree.map(jnp.asarray, module.init_state((batch,)))
        draws = _Draws(module, perturbation, tokens, _ranges(model, perturbation))
        held = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
        # Parameters, and what a layer computes of them; every token's states, if forced.
        each = draws.bytes_each + 32 * held * (tokens if perturbation.forced else 2)
        copies, devices = len(seeds), 1 if mesh is None else mesh.devices.size
        wanted = -(-(copies if most is None else most) // devices)
        room = max(1, min(wanted, int(memory // max(each, 1)) // devices)) * devices
        work = _work(
            module.pure_step,
            module.structure,
            perturbation.forced,
            perturbation.drifts,
            observe,
            min(last, tokens) or tokens,
        )
        number_format = jnp.int32(("", *FORMATS).index(perturbation.format))
        found = []
        for start in range(0, copies, room):
            # The last chunk is filled up, so that one shape is compiled.
            chosen = np.minimum(np.arange(start, start + room), copies - 1)
            stacks, drifts = draws.stacked(
                [levels[i] for i in chosen], [seeds[i] for i in chosen], mesh
            )
            seen = work(clean, stacks, drifts, number_format, state, features)
            count = min(room, copies - start)
            found.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], seen))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _outputs(output: Any, state: Any) -> Any:
    return output


def _ranges(model: Model, perturbation: Perturbation) -> dict[str, Array] | None:
    if getattr(perturbation, "unit", None) != "range":
        return None
    return weight_ranges(model)


class _Draws:
    """The parameters of copies, on the host and then on the devices."""

    def __init__(
        self,
        network: Network,
        perturbation: Perturbation,
        tokens: int,
        ranges: dict[str, Array] | None,
    ) -> None:
        leaves = named_leaves(network.parameters())
        self.names, self.dtypes = list(leaves), [leaf.dtype for leaf in leaves.values()]
        self.axes, self.patterns = _axes_of_leaves(network)
        self.values = [np.asarray(leaf).astype(np.float64) for leaf in leaves.values()]
        self.perturbation, self.tokens, self.ranges = perturbation, tokens, ranges
        sizes = [value.size * dtype.itemsize for value, dtype in zip(
            self.values, self.dtypes, strict=True)]  # fmt: skip
        # Twice: what is drawn is float64, and then there is the device's.
        self.bytes_each = 3 * sum(sizes)
        if perturbation.drifts:
            self.bytes_each += 3 * tokens * sum(
                size for axes, size in zip(self.axes, sizes, strict=True) if axes.kind == "bias"
            )  # fmt: skip

    def stacked(
        self, levels: Sequence[float], seeds: Sequence[int], mesh: Mesh | None
    ) -> tuple[list[Any], list[Any]]:
        """For each array its copies (copies, *shape), and what drifts (copies, tokens, *shape)."""
        stacks, drifts = [], []
        for name, axes, pattern, value, dtype in zip(
            self.names, self.axes, self.patterns, self.values, self.dtypes, strict=True
        ):
            ranges = None if self.ranges is None else self.ranges.get(name)
            whole = value if pattern is None else dense(pattern.matrix(value))
            drawn = whole
            if value.size:
                drawn = self.perturbation.applied(name, axes, whole, levels, seeds, ranges)
            if drawn.ndim == whole.ndim:
                drawn = np.broadcast_to(drawn, (len(seeds), *whole.shape))
            if pattern is not None:
                drawn = drawn[:, pattern.rows, pattern.columns]
            with np.errstate(over="ignore"):
                stacks.append(_placed(drawn.astype(dtype), mesh))
            if self.perturbation.drifts:
                added = [
                    self.perturbation.drift(name, axes, value.shape, self.tokens, level, seed)
                    for level, seed in zip(levels, seeds, strict=True)
                ]
                moving = [part for part in added if part is not None]
                drifts.append(_placed(np.stack(moving).astype(dtype), mesh) if moving else None)
        return stacks, drifts


def _axes_of_leaves(network: Network) -> tuple[list[Axes], list[Pattern | None]]:
    """What the leaves of a network's parameters are, of which some hold several arrays.

    And which entries those of sparse ones are.
    """
    leaves, tree = jax.tree.flatten(network.parameters())
    marks = [np.broadcast_to(np.int64(i), np.shape(leaf)) for i, leaf in enumerate(leaves)]
    marked, arrays = network.named(jax.tree.unflatten(tree, marks)), network.legend().arrays
    # Nothing can be done to what has no entry.
    found = [Axes("structure", ())] * len(leaves)
    patterns: list[Pattern | None] = [None] * len(leaves)
    for name, place in network.places().items():
        if np.size(marked[name]):
            leaf = int(np.ravel(marked[name])[0])
            found[leaf], patterns[leaf] = arrays[name], place.pattern
    return found, patterns


def _placed(array: Array, mesh: Mesh | None) -> Any:
    if mesh is None:
        return jnp.asarray(array)
    return jax.device_put(array, NamedSharding(mesh, _spec(mesh)))


def _spec(mesh: Mesh) -> PartitionSpec:
    return PartitionSpec(mesh.axis_names[0])  # type: ignore[no-untyped-call]


@lru_cache(maxsize=64)
def _work(
    step: Callable[..., Any],
    structure: Any,
    is_forced: bool,
    drifts: bool,
    observe: Observe,
    last: int,
) -> Callable[..., Any]:
    """The compiled function of one network structure; all perturbations of a kind share it."""

    def kept(state: Any, number_format: Any) -> Any:
        """The state as it is kept until the next token."""
        # A switch, and not a compilation a format.
        return lax.switch(number_format, [_as_is, *map(_rounding, FORMATS.values())], state)

    def free(tree: Any, arrays: Any, drift: Any, kind: Any, state: Any, turned: Any) -> Any:
        def token(carry: Any, now: Any) -> Any:
            values, added = now
            moved = [
                x if d is None else x + d for x, d in zip(arrays, added or [None] * len(arrays),
                                                          strict=True)
            ]  # fmt: skip
            output, after = step(jax.tree.unflatten(tree, moved), structure, carry, values)
            after = kept(after, kind)
            return after, observe(output, after)

        _, seen = lax.scan(token, kept(state, kind), (turned, drift))
        return jax.tree.map(lambda x: jnp.moveaxis(x[-last:], 0, 1), seen)

    def forced(tree: Any, arrays: Any, states: Any, inputs: Any) -> Any:
        return observe(*step(jax.tree.unflatten(tree, arrays), structure, states, inputs))

    def work(clean: Any, stacks: Any, drift: Any, kind: Any, state: Any, inputs: Any) -> Any:
        tree = jax.tree.structure(clean)
        turned = tuple(jnp.moveaxis(x, 1, 0) for x in inputs)
        if not is_forced:
            return jax.vmap(lambda a, d: free(tree, a, d, kind, state, turned))(stacks, drift)
        batch = inputs[0].shape[0]

        def token(carry: Any, values: Any) -> Any:
            return step(clean, structure, carry, values)[1], carry

        _, states = lax.scan(token, state, turned)
        # Time and batch make one axis, since no token waits for another.
        states, flat = jax.tree.map(
            lambda x: x[-last:].reshape(last * batch, *x.shape[2:]), (states, turned)
        )
        seen = jax.vmap(lambda a: forced(tree, a, states, flat))(stacks)
        return jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(len(x), last, batch, *x.shape[2:]), 1, 2), seen
        )

    return jax.jit(work)


def _as_is(state: Any) -> Any:
    return state


def _rounding(bits: tuple[int, int]) -> Callable[[Any], Any]:
    exponent, mantissa = bits

    def leaf(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return lax.reduce_precision(x, exponent_bits=exponent, mantissa_bits=mantissa)

    return lambda state: jax.tree.map(leaf, state)
