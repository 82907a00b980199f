"""The contract of networks: a step, what is no parameter in it, and its parameters by name.

A target gives these, and what makes the first state and networks of other arrays. Whole sequences,
generation, and reading, saving and changing parameters follow from them, and every study of models
relies on no more. A family whose cell runs whole sequences faster than token by token says so.
"""

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import ClassVar, NamedTuple, Protocol, Self, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from numpy.typing import ArrayLike

from lsrl.arguments import near, shown
from lsrl.backends import buckets
from lsrl.backends.axes import Legend
from lsrl.backends.hooks import Hooked
from lsrl.backends.loop import Structure, generated
from lsrl.backends.pattern import Pattern
from lsrl.backends.reader import ParameterReader
from lsrl.backends.strength import Gates, Sources, Strengths
from lsrl.backends.units import Stack
from lsrl.errors import LsrlError, SelfTestError, ShapeError
from lsrl.ir.numbers import Array
from lsrl.numerics import numerics_of
from lsrl.parameters import Parameter, entries
from lsrl.pytrees import Tree, named_leaves

Layer = TypeVar("Layer", contravariant=True)
Memory = TypeVar("Memory")
# Per program input, token ids or vectors.
Inputs: TypeAlias = Sequence[jax.Array | Array]


class LayerEdit(Protocol[Layer]):
    """What may look at and change a layer's output and memory at a token."""

    def __call__(
        self, layer: Layer, output: jax.Array, memory: Memory, /
    ) -> tuple[jax.Array, Memory]:
        """Output and memory as they are to be.

        Args:
          layer: its number, traced where layers are a loop; 0 is what the input map makes.
          output: of the layer.
          memory: of the layer; None for the input map.
        """


Edit: TypeAlias = LayerEdit[int]
LoopEdit: TypeAlias = LayerEdit[int | jax.Array]


class Step(Protocol):
    """The step of a network, a pure function."""

    def __call__(
        self,
        parameters: Mapping[str, object],
        structure: Hashable,
        state: Tree,
        inputs: Inputs,
        edit: Edit | None = ...,
        /,
    ) -> tuple[jax.Array, Tree]:
        """One token: output and next state. Families whose studies look into it take an edit."""

    def __hash__(self) -> int:
        """Of a function: jit takes it too."""


# Tokens at a time by default, and values of a layer over them: what grows with the length.
CHUNK = 4096
CHUNK_VALUES = 1 << 24


def value_of(parameter: nnx.Variable[jax.Array] | jax.Array) -> jax.Array:
    """The array of a parameter, which a user may have replaced by an array."""
    if type(parameter) is nnx.Param:
        # get_value copies trees, and takes ten times as long.
        value = parameter.get_raw_value()
        if isinstance(value, jax.Array):
            return value
    return parameter.get_value() if isinstance(parameter, nnx.Variable) else parameter


def parameter(values: Parameter | jax.Array, dtype: str) -> nnx.Param[jax.Array]:
    """A dense parameter of numbers, dense or sparse, in a network's dtype."""
    return nnx.Param(on_device(_whole(values), dtype))


def parameters(values: Mapping[str, Parameter], dtype: str) -> dict[str, nnx.Param[jax.Array]]:
    """As `parameter`, of many at once: to hand over an array takes longer than to make it."""
    with precision(dtype):
        held = [np.array(_whole(array), jnp.dtype(dtype)) for array in values.values()]
        placed = jax.device_put(held)
    return {name: nnx.Param(array) for name, array in zip(values, placed, strict=True)}


def _whole(values: Parameter | jax.Array) -> Array | jax.Array:
    return values if isinstance(values, np.ndarray | jax.Array) else values.toarray()


def on_device(values: ArrayLike | jax.Array, dtype: str | np.dtype[np.generic]) -> jax.Array:
    """An array of the device, made without a compilation.

    `jnp.asarray` compiles once a shape, also where nothing is converted, which takes longer than
    all else that loads a small network.
    """
    with precision(f"{dtype}"):
        if isinstance(values, jax.Array):
            return jnp.asarray(values, dtype)
        # A copy, since the device may keep the memory that it is given.
        result: jax.Array = jax.device_put(np.array(values, jnp.dtype(dtype)))
        return result


def aligned(vector: jax.Array, values: jax.Array) -> jax.Array:
    """A vector of channels with as many axes as `values`; jax may forbid implicit ones."""
    return vector.reshape((1,) * (values.ndim - 1) + vector.shape)


def is_distribution(signal: jax.Array | Array) -> bool:
    """Whether a token input is a distribution over its symbols, (..., symbols), and no id."""
    return bool(jnp.issubdtype(signal.dtype, jnp.floating))


def precision(dtype: str) -> AbstractContextManager[object]:
    """Without x64, jax makes float64 arrays float32 in silence."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


@contextmanager
def precise(dtype: str) -> Iterator[None]:
    """float64 where the network is, and dot products without TF32 or bfloat16 shortcuts."""
    with precision(dtype), jax.default_matmul_precision("highest"):
        yield


class Place(NamedTuple):
    """Where a network keeps a parameter.

    Attributes:
      owner: the module that holds it.
      attribute: its name there.
      entry: which entry of the first axis it is; None if it is the whole array.
      pattern: of a sparse parameter, which is the vector of its values; None of a dense one. It is
        part of the network's structure.
    """

    owner: nnx.Pytree
    attribute: str
    entry: int | None = None
    pattern: Pattern | None = None

    @property
    def value(self) -> jax.Array:
        """The whole array."""
        return value_of(getattr(self.owner, self.attribute))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter: (rows, columns) of a sparse one."""
        if self.pattern is not None:
            return self.pattern.shape
        return self.value.shape[self.entry is not None :]


class Network(Hooked, nnx.Module):
    """A module that carries out a schedule, token by token or whole sequences at once.

    `inputs` of all methods is a sequence of one array per program input, token ids or vectors. A
    subclass sets `pure_step` and `structure`, and gives what is abstract.

    Attributes:
      pure_step: the step as a function of parameters (as `parameters` gives them), structure, state
        and inputs, to the output and the next state; for transformations.
      structure: what is no parameter, its `dtype` among it; hashable, so that jit can take it.
      sparse_whole: whether whole sequences take the weights that are not zero, and no others.
    """

    pure_step: ClassVar[Step]
    sparse_whole: ClassVar[bool] = False
    structure: Structure

    def __init__(self) -> None:
        self._reader: ParameterReader[Mapping[str, object]] = ParameterReader()

    # ------------------------------------------------------------ what a target says

    @abstractmethod
    def places(self) -> dict[str, Place]:
        """Every parameter by its flat name, in the order of files."""

    @abstractmethod
    def init_state(self, batch_shape: tuple[int, ...] = ()) -> Tree:
        """The state before the first token, a pytree of arrays (*batch_shape, ...)."""

    @abstractmethod
    def rebuilt(self, arrays: Mapping[str, Parameter]) -> Self:
        """A network with other arrays, of whatever shapes fit together; this one stays as it is.

        Args:
          arrays: by the names of `arrays`; a sparse parameter takes the pattern that it has there.

        Raises:
          ShapeError: the shapes don't fit together.
          KeyError: an array is missing.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """Hidden units of the widest layer, or channels of the stream."""

    # ------------------------------------------------------------ parameters

    @property
    def dtype(self) -> str:
        """The dtype of parameters, states and outputs."""
        return self.structure.dtype

    @property
    def num_parameters(self) -> int:
        """Every entry of every parameter, zeros included; of a sparse one rows times columns."""
        return sum(math.prod(place.shape) for place in self.places().values())

    @property
    def num_nonzero_parameters(self) -> int:
        """Those that are not zero."""
        return sum(int(np.count_nonzero(entries(x))) for x in self.parameter_arrays().values())

    def parameters(self) -> Mapping[str, object]:
        """The parameters as a pytree, as `pure_step` takes them: by flat name."""
        return {name: place.value for name, place in self.places().items()}

    def prepared(self) -> Mapping[str, object]:
        """The parameters as `step` and `run` take them; kept until one of them changes."""
        return self.parameters()

    def kept(self) -> Mapping[str, object]:
        """As `prepared`, made anew only where a parameter has changed."""
        return self._reader.read(self, self.prepared)

    def parameter_arrays(self) -> dict[str, Parameter]:
        """All parameters by flat name: numpy arrays of the network's dtype, sparse ones as csr."""
        whole: dict[tuple[int, str], Array] = {}
        arrays: dict[str, Parameter] = {}
        for name, place in self.places().items():
            key = (id(place.owner), place.attribute)
            if key not in whole:
                whole[key] = np.asarray(place.value)
            arrays[name] = whole[key] if place.entry is None else whole[key][place.entry]
            if place.pattern is not None:
                arrays[name] = place.pattern.matrix(whole[key])
        return arrays

    def arrays(self) -> dict[str, Parameter]:
        """All that `rebuilt` needs: the parameters, and what else makes the network."""
        return self.parameter_arrays()

    def replace_parameters(self, arrays: Mapping[str, Parameter | jax.Array]) -> None:
        """Set parameters by flat name.

        Args:
          arrays: some or all of the names of `parameter_arrays`, dense or sparse; cast to the
            network's dtype.

        Raises:
          ShapeError: an unknown name, another shape than the parameter has, or a number where a
            sparse parameter has no weight.
        """
        places = self.places()
        changed: dict[tuple[int, str], tuple[nnx.Pytree, Array | jax.Array]] = {}
        if not isinstance(arrays, Mapping):
            raise ShapeError(f"expected arrays by name, {{name: array}}, got {shown(arrays)}")
        for name, array in arrays.items():
            if name not in places:
                raise ShapeError(
                    f"unknown parameter {name!r}; there are {', '.join(places)}{near(name, places)}"
                )
            place = places[name]
            if array.shape != place.shape:
                raise ShapeError(f"parameter {name!r} has shape {place.shape}, got {array.shape}")
            if place.pattern is not None:
                array = place.pattern.values(array, name)
            elif not isinstance(array, np.ndarray | jax.Array):
                array = array.toarray()
            key = (id(place.owner), place.attribute)
            if place.entry is None:
                changed[key] = place.owner, array
                continue
            if key not in changed:
                changed[key] = place.owner, np.array(place.value)
            changed[key][1][place.entry] = np.asarray(array, jnp.dtype(self.dtype))
        for (_, attribute), (owner, values) in changed.items():
            setattr(owner, attribute, parameter(values, self.dtype))

    def named(self, parameters: Mapping[str, object]) -> dict[str, jax.Array]:
        """What a pytree like that of `parameters` holds, by the flat names of `places`."""
        leaves = named_leaves(parameters)
        return {name: leaves[name] for name in self.places()}

    def legend(self) -> Legend:
        """What the axes of `arrays` are.

        Raises:
          LsrlError: the network does not say.
        """
        raise LsrlError(f"{type(self).__name__} does not say what the axes of its parameters are")

    def stack(self) -> Stack | None:
        """The network as layers of units, for the event-driven runner; None if it is of no use."""
        return None

    @property
    def sweeps(self) -> bool:
        """Whether its units can run one by one over whole sequences, if they are few."""
        return False

    # ------------------------------------------------------------ what else studies ask

    def strengths(self, layers: Sequence[Sources]) -> Strengths:
        """How strongly hooks of a stream depend on each other; `legend` tells it of other layers.

        Args:
          layers: what holds the signals of each, the input map's first.

        Raises:
          LsrlError: the network does not say.
        """
        raise LsrlError(f"{type(self).__name__} does not say what its layers add to a stream")

    def gates(
        self, arrays: Mapping[str, Array], layer: int, read: Array, held: Array
    ) -> Gates | None:
        """What a layer's gates do; None where it has none.

        Args:
          arrays: of the network, in float64.
          layer: its number from 0 on.
          read: the hook before it, (batch, time, units).
          held: the hook behind it.
        """
        return None

    @property
    def untrained_entries(self) -> int:
        """Of the memory, a unit of what `untrained` makes; 0 if there is nothing to train."""
        return 0

    def untrained(self, units: Sequence[int], seed: int) -> Self:
        """A network of the same inputs and outputs, with ordinary initial weights.

        Args:
          units: of the hooks of its layers, the input map's first.
          seed: of the weights.

        Raises:
          LsrlError: the network has no ordinary initial weights.
        """
        raise LsrlError(f"{type(self).__name__} has no weights to begin a training with")

    # ------------------------------------------------------------ running

    def mode(self) -> AbstractContextManager[object]:
        """What a step needs of jax's settings."""
        return precise(self.dtype)

    def step(self, state: Tree, inputs: Inputs) -> tuple[jax.Array, Tree]:
        """Run one token.

        Args:
          state: of `init_state` or the last step.
          inputs: per program input, ids (*batch_shape,) or vectors (*batch_shape, width).

        Returns:
          (*batch_shape, outputs) and the new state.
        """
        return self.stepped(self.kept(), state, inputs)

    def stepped(
        self, parameters: Mapping[str, object], state: Tree, inputs: Inputs
    ) -> tuple[jax.Array, Tree]:
        """As `step`, of parameters that `kept` gave."""
        # What the step traces under, it sets for itself: to enter it takes as long as to check.
        with precision(self.structure.dtype):
            return _jitted(self.pure_step)(parameters, self.structure, state, tuple(inputs))

    def run(
        self, inputs: Inputs, chunk: int | None = None, state: Tree | None = None
    ) -> Array | jax.Array:
        """Run whole sequences.

        Args:
          inputs: per program input, ids (batch, time) or vectors (batch, time, width).
          chunk: most tokens at a time; memory grows with it.
          state: to start from; the initial state if None.

        Returns:
          (batch, time, outputs), numpy, in the network's dtype.
        """
        return self.run_with_state(inputs, chunk, state)[0]

    def run_with_state(
        self, inputs: Inputs, chunk: int | None = None, state: Tree | None = None
    ) -> tuple[Array | jax.Array, Tree]:
        """Run whole sequences as `run` does, and return the state after the last token too."""
        arrays = tuple(np.asarray(x) for x in inputs)
        batch, tokens = arrays[0].shape[:2]
        rows = buckets.rows(batch, tokens)
        most = min(chunk or CHUNK, max(1, CHUNK_VALUES // max(1, rows * self.width)))
        with self.mode():
            parameters = self.kept()
            held = self.init_state((rows,)) if state is None else buckets.with_rows(state, rows)
            outputs = []
            for start in range(0, tokens, most):
                count = min(most, tokens - start)
                size = min(most, buckets.length(count))
                part = tuple(
                    buckets.filled(x[:, start : start + count], rows, size) for x in arrays
                )
                output, held = self.run_chunk(parameters, held, part, np.int32(count))
                outputs.append(np.asarray(output)[:batch, :count])
        after = buckets.with_rows(held, batch)
        return (outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)), after

    @classmethod
    def pure_sequence(
        cls, parameters: Mapping[str, object], structure: Hashable, state: Tree, inputs: Inputs
    ) -> tuple[jax.Array, Tree]:
        """As `pure_step`, of whole sequences (batch, time, ...): for transformations, grad too."""
        return apply_sequence(cls.pure_step, parameters, structure, state, inputs)

    def first_state(self, parameters: Mapping[str, object], batch_shape: tuple[int, ...]) -> Tree:
        """As `init_state`, of a network with other numbers."""
        return self.init_state(batch_shape)

    def apply(
        self, parameters: Mapping[str, object], inputs: Inputs, state: Tree | None = None
    ) -> tuple[jax.Array, Tree]:
        """Run whole sequences, as a function of the parameters that jax can transform.

        Args:
          parameters: as `parameters` gives them.
          inputs: per program input, ids (batch, time), distributions over tokens (batch, time,
            symbols) or vectors (batch, time, width).
          state: to start from; the initial state if None.

        Returns:
          (batch, time, outputs) and the state after the last token.
        """
        with self.mode():
            start = state
            if start is None:
                start = self.first_state(parameters, inputs[0].shape[:1])
            leaves = jax.tree.leaves((parameters, start, inputs))
            traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
            # What is known while jax traces stays known; without a trace, to jit is all that pays.
            run = type(self).pure_sequence if traced else partial(_applied, type(self))
            with jax.default_matmul_precision("highest"):
                return run(parameters, self.structure, start, inputs)

    def run_chunk(
        self,
        parameters: Mapping[str, object],
        state: Tree,
        inputs: Inputs,
        count: np.integer | jax.Array,
    ) -> tuple[jax.Array, Tree]:
        """Some tokens of `prepared` parameters, of which so many count.

        Args:
          parameters: of `prepared`.
          state: before the first token, leaves (batch, ...).
          inputs: per program input (batch, time, ...).
          count: tokens from the first on; those behind them change no state.

        Returns:
          (batch, time, outputs), of which those that count are right, and the state.
        """
        return _jitted_sequence(self.pure_step, parameters, self.structure, state, inputs, count)

    def generate(self, inputs: Inputs, steps: int, state: Tree | None = None) -> Array:
        """Continue prompts: the first output at a token, rounded, is the id of the next token.

        Args:
          inputs: one token input, ids (batch, time).
          steps: how many tokens to add, at least 1.
          state: before the prompts; the initial state if None.

        Returns:
          (batch, steps) int32, the ids after the prompts.
        """
        outputs, state = self.run_with_state(inputs, None, state)
        first = np.rint(np.asarray(outputs[:, -1, 0], np.float64)).astype(np.int32)
        with self.mode():
            more = generated(self.pure_step, self.structure, self.kept(), state, first, steps - 1)
        return np.concatenate([first[:, None], more], axis=1)

    def self_test(self) -> None:
        """Check what exactness relies on, on the device at hand: products here, a target adds.

        Raises:
          SelfTestError: names what fails, and the device.
        """
        with precise(self.dtype):
            check_products(self.dtype)


@cache
def _jitted(step: Step) -> Step:
    def precisely(
        parameters: Mapping[str, object], structure: Hashable, state: Tree, inputs: Inputs
    ) -> tuple[jax.Array, Tree]:
        with jax.default_matmul_precision("highest"):
            return step(parameters, structure, state, inputs)

    return cast(Step, jax.jit(precisely, static_argnums=1))


def apply_sequence(
    step: Step, parameters: Mapping[str, object], structure: Hashable, state: Tree, inputs: Inputs
) -> tuple[jax.Array, Tree]:
    """Run whole sequences token by token, as a function that jax can transform.

    Args:
      step: of the network.
      parameters: as the step takes them.
      structure: of the network.
      state: before the first token.
      inputs: per program input, token ids (batch, time) or vectors (batch, time, width).

    Returns:
      (batch, time, outputs) and the state after the last token.
    """

    def token(state: Tree, inputs: tuple[jax.Array, ...]) -> tuple[Tree, jax.Array]:
        outputs, state = step(parameters, structure, state, inputs)
        return state, outputs

    last, outputs = lax.scan(token, state, tuple(jnp.moveaxis(x, 1, 0) for x in inputs))
    return jnp.moveaxis(outputs, 0, 1), last


@partial(jax.jit, static_argnums=(0, 2))
def _applied(
    family: type[Network],
    parameters: Mapping[str, object],
    structure: Hashable,
    state: Tree,
    inputs: Inputs,
) -> tuple[jax.Array, Tree]:
    return family.pure_sequence(parameters, structure, state, inputs)


@partial(jax.jit, static_argnums=(0, 2))
def _jitted_sequence(
    step: Step,
    parameters: Mapping[str, object],
    structure: Hashable,
    state: Tree,
    inputs: Inputs,
    count: jax.Array,
) -> tuple[jax.Array, Tree]:
    """As `apply_sequence`, of the first tokens alone."""

    def token(state: Tree, now: tuple[jax.Array, ...]) -> tuple[Tree, jax.Array]:
        outputs, state = step(parameters, structure, state, now)
        return state, outputs

    return buckets.sequence(token, state, inputs, count)


def check_products(dtype: str) -> None:
    """Products of matrices keep every bit of integers that the dtype holds."""
    bits = numerics_of(dtype).bits
    odd = 2.0**bits - 1  # near the end of the range

    def product(terms: Array, kernel: Array) -> float:
        return float(jax.jit(jnp.dot)(jnp.asarray(terms, dtype), jnp.asarray(kernel, dtype))[0, 0])

    # Taken apart into terms that share no bits.
    got = product(2.0 ** np.arange(bits)[None], np.ones((bits, 1)))
    if got != odd:
        raise SelfTestError(
            f"a matrix product of {dtype} numbers loses bits on {jax.devices()[0]}: expected "
            f"{odd:.0f}, got {got!r}; is a faster, coarser mode switched on?"
        )
    got = product(np.ones((1, 1)), np.full((1, 1), odd))
    if got != odd:
        raise SelfTestError(
            f"a matrix product rounds its {dtype} operands on {jax.devices()[0]}: "
            f"{odd:.0f} becomes {got!r}; is TF32 switched on?"
        )
