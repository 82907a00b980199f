"""Thousands of noisy copies of a model, run at once.

A network's step is a pure function of its parameters, so copies are a `vmap` over drawn
parameters, and time is a `lax.scan`. With teacher forcing no state is carried: every token starts
from the clean model's state, and so all tokens run at once. Copies are spread over the devices of a
mesh, if one is given; a draw depends on its seed alone, so results do not depend on the devices,
nor on how many copies the memory holds at a time.

Axis legend: arrays are (copies, batch, time, outputs).
"""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypedDict, Unpack, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsrl import arguments
from lsrl.backends.axes import Axes
from lsrl.backends.hooks import Parameters
from lsrl.backends.network import Inputs, Network, Step
from lsrl.backends.pattern import Pattern
from lsrl.backends.reader import ParameterReader
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import check_inputs
from lsrl.model import Model
from lsrl.noise.perturbations import FORMATS, Perturbation, Weight
from lsrl.noise.products import Rows, written_out
from lsrl.noise.ranges import weight_ranges
from lsrl.parameters import Parameter, entries
from lsrl.pytrees import Tree, named_leaves

# What the copies of one call may take of memory, in bytes, unless the user says otherwise.
MEMORY = 2**30

# From a token's outputs (batch, outputs) and the state after it to a pytree of arrays (batch, ...).
Observe: TypeAlias = Callable[[jax.Array, Tree], Tree]
AnyArray: TypeAlias = Array | jax.Array  # of numpy until it is traced
_Leaves: TypeAlias = Sequence[AnyArray]  # of the parameters of all copies, or of one
_Drifts: TypeAlias = Sequence[AnyArray | None]


class CopyOptions(TypedDict, total=False):
    """How copies are run.

    Attributes:
      memory: bytes that the copies at work may take; at least one copy a device runs.
      most: copies at a time; fewer are filled up to it, so that calls of different numbers of
        copies share what is compiled.
      last: only so many last tokens are returned; 0: all. With forced states the others are not
        even run.
      mesh: devices to spread the copies over, along its first axis.
    """

    memory: int
    most: int | None
    last: int
    mesh: Mesh | None


def run_copies(
    model: Model,
    inputs: Sequence[Array],
    perturbation: Perturbation,
    levels: Sequence[float],
    seeds: Sequence[int],
    **options: Unpack[CopyOptions],
) -> Array:
    """Outputs of perturbed copies of a model.

    Args:
      model: the model.
      inputs: one array an input: (batch, time) or (batch, time, width).
      perturbation: what is done to each copy.
      levels: of the perturbation, one a copy.
      seeds: of the draws, one a copy.
      **options: see `CopyOptions`.

    Returns:
      (copies, batch, time, outputs), or (copies, batch, last, outputs).

    Raises:
      InputError: no copies, or not as many levels as seeds.
    """
    seen = observe_copies(model, inputs, perturbation, levels, seeds, _outputs, **options)
    return np.asarray(seen)


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
) -> Tree:
    """What is seen of copies at every token: a pytree of arrays (copies, batch, time, ...).

    Arguments and errors are those of `run_copies`, but for `observe`: what is seen, a function of a
    module, since it is compiled once.
    """
    levels, seeds = _checked(model, perturbation, levels, seeds)
    for name, number, least in (("memory", memory, 1), ("most", most, 1), ("last", last, 0)):
        if number is not None:
            arguments.count(f"run_copies: {name}", number, least)
    if mesh is not None:
        arguments.instance("run_copies: mesh", mesh, Mesh, "jax.make_mesh")
    module = model.module
    arrays, _ = check_inputs(model.program.inputs, inputs, None)
    batch, tokens = arrays[0].shape[:2]
    with model.device_mode():
        features = tuple(jnp.asarray(a, jnp.int32 if a.ndim == 2 else model.dtype) for a in arrays)
        clean = module.parameters()
        state = jax.tree.map(jnp.asarray, module.init_state((batch,)))
        relative = getattr(perturbation, "unit", None) == "range"
        ranges = weight_ranges(model) if relative else None
        draws = _Draws(_kept_leaves(model), perturbation, tokens, ranges)
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
            seen = work(clean, stacks, drifts, number_format, state, features, draws.rows(stacks))
            count = min(room, copies - start)
            found.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], seen))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _checked(
    model: object, perturbation: object, levels: object, seeds: object
) -> tuple[list[float], list[int]]:
    """Levels and seeds, one a copy, of a model and a perturbation that are ones."""
    arguments.instance("run_copies", model, Model, "lsrl.compile")
    if not isinstance(perturbation, Perturbation):
        raise InputError(
            "run_copies: expected a Perturbation, such as WeightNoise('noise'), got "
            f"{perturbation!r}"
        )
    for what, row in (("levels", levels), ("seeds", seeds)):
        if not isinstance(row, Sequence | np.ndarray):
            raise InputError(f"run_copies: {what} must be a list, one a copy, got {row!r}")
    found = [arguments.real("run_copies: a level", x) for x in cast("Sequence[float]", levels)]
    drawn = [arguments.count("run_copies: a seed", x, 0) for x in cast("Sequence[int]", seeds)]
    if not drawn or len(found) != len(drawn):
        raise InputError(
            f"run_copies: expected a level and a seed a copy, got {len(found)} levels and "
            f"{len(drawn)} seeds"
        )
    return found, drawn


def _outputs(output: jax.Array, state: Tree) -> jax.Array:
    return output


class _Leaf(NamedTuple):
    """An array of a network's parameters, in float64, and what it is."""

    name: str
    value: Array
    dtype: np.dtype[np.generic]
    axes: Axes
    pattern: Pattern | None


class _Draws:
    """The parameters of copies, on the host and then on the devices."""

    def __init__(
        self,
        leaves: Sequence[_Leaf],
        perturbation: Perturbation,
        tokens: int,
        ranges: dict[str, Parameter] | None,
    ) -> None:
        self.leaves = leaves
        self.perturbation, self.tokens, self.ranges = perturbation, tokens, ranges or {}
        # Twice: what is drawn is float64, and then there is the device's.
        moving = tokens if perturbation.drifts else 0
        self.bytes_each = sum(
            3 * leaf.value.size * leaf.dtype.itemsize * (1 + moving * (leaf.axes.kind == "bias"))
            for leaf in self.leaves
        )

    def rows(self, stacks: Sequence[AnyArray]) -> tuple[Rows, ...]:
        """Of each array the rows that are to be multiplied by: all of them, or those not all zero.

        These are the clean array's, unless a copy has others: each choice is a compilation.
        """
        found: list[Rows] = []
        for leaf, stack in zip(self.leaves, stacks, strict=True):
            rows = None
            if isinstance(stack, np.ndarray) and stack.ndim == 3:
                zero = ~leaf.value.any(axis=1)
                if not stack[:, zero].any():
                    rows = tuple(np.flatnonzero(~zero).tolist())
            found.append(rows)
        return tuple(found)

    def stacked(
        self, levels: Sequence[float], seeds: Sequence[int], mesh: Mesh | None
    ) -> tuple[list[AnyArray], list[AnyArray | None]]:
        """For each array its copies (copies, *shape), and what drifts (copies, tokens, *shape)."""
        stacks: list[AnyArray] = []
        drifts: list[AnyArray | None] = []
        for name, value, dtype, axes, pattern in self.leaves:
            # Of a sparse parameter the weights alone, which are all that there is.
            drawn = value
            if value.size:
                ranges = entries(self.ranges[name]) if name in self.ranges else None
                weight = Weight(name, axes, value, ranges, pattern)
                drawn = self.perturbation.changed(weight, levels, seeds)
            if drawn.ndim == value.ndim:
                drawn = np.broadcast_to(drawn, (len(seeds), *value.shape))
            with np.errstate(over="ignore"):
                stacks.append(_placed(drawn.astype(dtype), mesh))
            if self.perturbation.drifts:
                moving = self.perturbation.drift(
                    name, axes, value.shape, self.tokens, levels, seeds
                )
                drifts.append(None if moving is None else _placed(moving.astype(dtype), mesh))
        return stacks, drifts


@lru_cache(maxsize=16)
def _reader(model: Model) -> ParameterReader[list[_Leaf]]:
    """What reads a model's leaves anew only where a parameter has changed."""
    return ParameterReader()


def _kept_leaves(model: Model) -> list[_Leaf]:
    network = model.module
    return _reader(model).read(network, lambda: _leaves(network))


def _leaves(network: Network) -> list[_Leaf]:
    """The leaves of a network's parameters, of which some hold several arrays."""
    leaves = named_leaves(network.parameters())
    marks = [np.broadcast_to(np.int64(i), np.shape(leaf)) for i, leaf in enumerate(leaves.values())]
    tree = jax.tree.structure(network.parameters())
    marked, arrays = network.named(jax.tree.unflatten(tree, marks)), network.legend().arrays
    # Nothing can be done to what has no entry.
    nothing: tuple[Axes, Pattern | None] = Axes("structure", ()), None
    found = [nothing] * len(leaves)
    for name, place in network.places().items():
        if np.size(marked[name]):
            found[int(np.ravel(marked[name])[0])] = arrays[name], place.pattern
    return [
        _Leaf(name, np.asarray(leaf).astype(np.float64), leaf.dtype, *what)
        for (name, leaf), what in zip(leaves.items(), found, strict=True)
    ]


def _placed(array: Array, mesh: Mesh | None) -> AnyArray:
    if mesh is None:
        return array  # jit takes many arrays of numpy faster than they are sent one by one
    spec = PartitionSpec(mesh.axis_names[0])  # type: ignore[no-untyped-call]
    return jax.device_put(array, NamedSharding(mesh, spec))


@lru_cache(maxsize=64)
def _work(
    step: Step, structure: Hashable, is_forced: bool, observe: Observe, last: int
) -> Callable[..., Tree]:
    """The compiled function of one network structure; all perturbations of a kind share it."""

    def kept(state: Tree, number_format: jax.Array) -> Tree:
        """The state as it is kept until the next token."""
        # A switch, and not a compilation a format.
        branches = [lambda state: state, *map(_rounding, FORMATS.values())]
        return cast(Tree, lax.switch(number_format, branches, state))

    def work(
        clean: Parameters,
        stacks: _Leaves,
        drift: _Drifts,
        kind: jax.Array,
        state: Tree,
        inputs: tuple[jax.Array, ...],
        rows: tuple[Rows, ...],
    ) -> Tree:
        tree = jax.tree.structure(clean)
        turned = tuple(jnp.moveaxis(x, 1, 0) for x in inputs)

        def one(arrays: _Leaves, state: Tree, values: Inputs) -> tuple[jax.Array, Tree]:
            return step(jax.tree.unflatten(tree, arrays), structure, state, values)

        run = cast(Callable[..., tuple[jax.Array, Tree]], written_out(one, rows))

        def free(arrays: _Leaves, drift: _Drifts) -> Tree:
            def token(carry: Tree, now: tuple[Inputs, _Drifts]) -> tuple[Tree, Tree]:
                values, added = now
                pairs = zip(arrays, added or [None] * len(arrays), strict=True)
                moved = [x if d is None else x + d for x, d in pairs]
                output, after = run(moved, carry, values)
                after = kept(after, kind)
                return after, observe(output, after)

            _, seen = lax.scan(token, kept(state, kind), (turned, drift))
            return jax.tree.map(lambda x: jnp.moveaxis(x[-last:], 0, 1), seen)

        def token(carry: Tree, values: Inputs) -> tuple[Tree, Tree]:
            return step(clean, structure, carry, values)[1], carry

        def forced(arrays: _Leaves) -> Tree:
            return observe(*run(arrays, states, flat))

        if not is_forced:
            return jax.vmap(free)(stacks, drift)
        batch = inputs[0].shape[0]
        _, states = lax.scan(token, state, turned)
        # Time and batch make one axis, since no token waits for another.
        states, flat = jax.tree.map(
            lambda x: x[-last:].reshape(last * batch, *x.shape[2:]), (states, turned)
        )
        seen = jax.vmap(forced)(stacks)
        return jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(len(x), last, batch, *x.shape[2:]), 1, 2), seen
        )

    return jax.jit(work, static_argnames="rows")


def _rounding(bits: tuple[int, int]) -> Callable[[Tree], Tree]:
    exponent, mantissa = bits

    def leaf(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return lax.reduce_precision(x, exponent_bits=exponent, mantissa_bits=mantissa)

    return lambda state: cast(Tree, jax.tree.map(leaf, state))
