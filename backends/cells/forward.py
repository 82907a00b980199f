"""Stacks of flax's recurrent cells as pure functions: input map, cells, output map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Literal, NotRequired, Protocol, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from lsrl.backends import buckets
from lsrl.backends.cells.kernels import Kernel
from lsrl.backends.network import Edit, aligned, is_distribution
from lsrl.backends.pattern import Pattern
from lsrl.backends.xla import ON_ONE_CORE, WIDE_VECTORS, on_cpu, understood
from lsrl.ir.numbers import Array
from lsrl.pytrees import HashedOnce

CellKind = Literal["relu", "tanh", "lstm", "gru"]
# A layer's carry, as flax's cell takes it: h, or (c, h) of an LSTM.
Carry: TypeAlias = jax.Array | Array | tuple[jax.Array | Array, jax.Array | Array]
Carries: TypeAlias = tuple[Carry, ...]


class Cell(Protocol):
    """What flax's recurrent cells have in common."""

    hidden_features: int
    dense_i: Callable[[jax.Array], jax.Array]
    dense_h: Callable[[jax.Array], jax.Array]

    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One token."""


# So few sequences run layer by layer, more with all layers in the step. CPU seconds of the former
# over the latter, 500 tokens of tok2tok, words of 3 and of 40 symbols, seven layers:
#
#   width  sequences   rnn  lstm   gru
#      12          1  0.45  0.80  0.60
#      12          4  0.65  0.78  0.87
#      12         16  0.86  0.96  1.08
#      12         64  1.05  1.09  1.12
#     123          1  0.56  0.41  0.41
#     123          4  0.67  0.38  0.49
#     123         16  0.88  0.54  1.12
#     123         64  1.81  0.93  1.53
LAYERWISE: dict[CellKind, int] = {"relu": 4, "tanh": 4, "lstm": 16, "gru": 4}
# So many products a token are made on one core: to share them takes longer. Wide vectors take less
# time from so many sequences on; of a few units most of a vector would be empty.
FOR_ONE_CORE, FOR_WIDE_VECTORS = 1 << 24, 16
# A layer of fewer input weights takes longer to read what was made of all tokens than to make it in
# the step.
FEW_WEIGHTS = 1 << 6
# So much of all tokens is read out in the step, too, on a CPU: it takes .5 to .9 of the time.
MANY_VALUES = 1 << 21
# Numbers of a line of memory.
LINE = 16
# How cells read what was made of their inputs, from so many units on, or units of all sequences.
# CPU seconds over those of slices, 1,000 tokens of histograms, compiled / with full kernels:
#
#   units  sequences  lstm, gather   gru, ahead
#      16          1  0.71 / 0.76   1.45 / 1.41
#      16          4  1.01 / 0.97   0.35 / 0.46
#      32          1  0.49 / 0.53   0.41 / 1.01
#      64          1  0.38 / 0.55   0.33 / 0.75
#      64          4  1.01 / 1.00   0.23 / 0.33
READING: dict[CellKind, buckets.Reading] = {
    "relu": "slice", "tanh": "slice", "lstm": "gather", "gru": "ahead",
}  # fmt: skip
WIDE, WIDE_IN_ALL = 32, 64


@dataclass(frozen=True, eq=False)
class Structure(HashedOnce):
    """What is no parameter in a network; hashable, so jit can take it as a static argument.

    Attributes:
      kind: of the cells.
      dtype: of parameters, states and outputs.
      inputs: per program input "table", "kernel" or "" (not read).
      cells: graph definitions of the flax cells.
      patterns: of the kernels and tables that are sparse, by name.
    """

    kind: CellKind
    dtype: str
    inputs: tuple[str, ...]
    cells: tuple[nnx.GraphDef[Cell], ...]
    patterns: tuple[tuple[str, Pattern], ...] = ()

    @cached_property
    def pattern(self) -> dict[str, Pattern]:
        """Those of `patterns`."""
        return dict(self.patterns)

    def __deepcopy__(self, memo: object) -> "Structure":
        """It never changes, and copies of jax's functions would be unequal."""
        return self


class Parameters(TypedDict):
    """Of `CellNetwork.parameters`: input maps, each cell by flax's names, the output map."""

    inputs: dict[str, jax.Array]
    cells: tuple[dict[str, dict[str, jax.Array]], ...]
    output_kernel: jax.Array
    output_bias: jax.Array
    products: NotRequired[dict[str, dict[str, Kernel]]]  # by layer and side of the cell


def apply_step(
    parameters: Parameters,
    structure: Structure,
    state: Carries,
    inputs: Sequence[jax.Array],
    edit: Edit | None = None,
) -> tuple[jax.Array, Carries]:
    """Run one token.

    Args:
      parameters: of `CellNetwork.parameters`.
      structure: of the network.
      state: each layer's carry.
      inputs: per program input, token ids (...), distributions over tokens (..., symbols) or
        vectors (..., width).
      edit: of the output h (..., units) and the carry of each layer.

    Returns:
      (..., outputs) and the new state.
    """
    values = _features(parameters, structure, state, inputs)
    if edit is not None:
        values, _ = edit(0, values, None)
    values, after = _apply_cells(structure, parameters, state, values, edit)
    return _read_out(structure, parameters, values), after


def _apply_cells(
    structure: Structure,
    parameters: Parameters,
    state: Carries,
    values: jax.Array,
    edit: Edit | None = None,
    projected: bool = False,
) -> tuple[jax.Array, Carries]:
    """One token through cells, one upon the other.

    Where `projected`, the values are what the first cell makes of its inputs.
    """
    after = []
    for number, carry in enumerate(state):
        cell = _cell(structure, parameters, number)
        if projected and not number:
            cell.dense_i = _as_it_is
        following, values = cell(carry, values)
        if edit is not None:
            values, following = edit(number + 1, values, following)
        after.append(following)
    return values, tuple(after)


def _as_it_is(projected: jax.Array) -> jax.Array:
    return projected


def _cell(structure: Structure, parameters: Parameters, number: int) -> Cell:
    """A cell with its parameters, whose kernels multiply as they are kept or were prepared."""
    own = parameters["cells"][number]
    cell: Cell = nnx.merge(structure.cells[number], own)
    products: dict[str, Callable[[jax.Array], jax.Array]] = {
        side: kernel.product
        for side, kernel in parameters.get("products", {}).get(f"{number}", {}).items()
    }
    for side in ("dense_i", "dense_h"):
        pattern = structure.pattern.get(f"cells.{number}.{side}.kernel")
        if pattern is not None:
            products[side] = partial(pattern.product, own[side]["kernel"])
    for side, product in products.items():
        setattr(cell, side, partial(_sparse_affine, product, own[side].get("bias")))
    return cell


def _sparse_affine(
    product: Callable[[jax.Array], jax.Array], bias: jax.Array | None, values: jax.Array
) -> jax.Array:
    result = product(values)
    return result if bias is None else result + aligned(bias, result)


def _times(structure: Structure, name: str, kernel: jax.Array, values: jax.Array) -> jax.Array:
    """Vectors times a kernel, dense or sparse."""
    pattern = structure.pattern.get(name)
    if pattern is not None:
        return pattern.product(kernel, values)
    return jnp.dot(values, kernel, precision=lax.Precision.HIGHEST)


def _read_out(structure: Structure, parameters: Parameters, values: jax.Array) -> jax.Array:
    result = _times(structure, "output_kernel", parameters["output_kernel"], values)
    return result + aligned(parameters["output_bias"], result)


def _features(
    parameters: Parameters, structure: Structure, state: Carries, inputs: Sequence[jax.Array]
) -> jax.Array:
    parts = []
    for number, (kind, signal) in enumerate(zip(structure.inputs, inputs, strict=True)):
        name = f"inputs.{number}.{kind}"
        if not kind:
            continue
        kernel, given = parameters["inputs"][f"{number}"], jnp.asarray(signal)
        if kind == "kernel" or is_distribution(given):
            parts.append(_times(structure, name, kernel, given))
        elif name in structure.pattern:
            parts.append(structure.pattern[name].looked_up(kernel, given))
        else:
            parts.append(kernel[given])
    if not parts:
        batch_shape = jax.tree.leaves(state)[0].shape[:-1]
        return jnp.zeros((*batch_shape, 0), structure.dtype)
    return sum(parts[1:], parts[0])


def run_chunk(
    parameters: Parameters,
    structure: Structure,
    state: Carries,
    inputs: Sequence[jax.Array],
    count: jax.Array | None,
) -> tuple[jax.Array, Carries]:
    """The tokens of a chunk that count: inputs (batch, time, ...) to (batch, time, outputs).

    Of all of them, where `count` is None, as grad needs it.
    """
    timed = tuple(jnp.moveaxis(x, 1, 0) for x in inputs)
    many = inputs[0].shape[0] > LAYERWISE[structure.kind]
    run = _run_together if many else _run_layerwise
    return run(parameters, structure, state, timed, count)


def _run_together(
    parameters: Parameters,
    structure: Structure,
    state: Carries,
    inputs: Sequence[jax.Array],
    count: jax.Array | None,
) -> tuple[jax.Array, Carries]:
    """As `run_chunk`, of inputs with time first, with all layers in the step."""
    known = _of_symbols(parameters, structure, state, inputs)
    tells = _told_in_step(parameters, state, inputs, count)

    def token(state: Carries, now: tuple[jax.Array, ...]) -> tuple[Carries, jax.Array]:
        read = _features(parameters, structure, state, now) if known is None else now[0]
        projected = known is not None
        values, state = _apply_cells(structure, parameters, state, read, projected=projected)
        return state, _read_out(structure, parameters, values) if tells else values

    made = _made_by(parameters, structure, state[-1], tells)
    reading = "slice" if known is None else _reading(structure, state[0], known)
    axis = _time_axis(made)
    after, values = buckets.scan(token, state, inputs, count, made, known, reading, axis)
    told = values if tells else _read_out(structure, parameters, values)
    return jnp.moveaxis(told, axis, 1), after


def _time_axis(made: jax.ShapeDtypeStruct) -> int:
    """That of time in the outputs, 1 where they need not be turned over behind the loop.

    What a sequence has at a token is a line of memory then, or more.
    """
    return int(on_cpu() and made.shape[-1] >= LINE)


def _told_in_step(
    parameters: Parameters,
    state: Carries,
    inputs: Sequence[jax.Array],
    count: jax.Array | None,
) -> bool:
    """Whether outputs are made in the step, rather than of all tokens at once."""
    if not state:
        return False
    made = inputs[0].shape[0] * jax.tree.leaves(state[-1])[-1].size
    # For grad a product of all tokens is one product of all their cotangents, too.
    many = made >= MANY_VALUES and on_cpu() and count is not None
    return many or parameters["output_kernel"].size < FEW_WEIGHTS


def _made_by(
    parameters: Parameters, structure: Structure, carry: Carry, tells: bool
) -> jax.ShapeDtypeStruct:
    """What a layer gives at a token: its h, or outputs."""
    shape = jax.tree.leaves(carry)[-1].shape
    if tells:
        shape = (*shape[:-1], parameters["output_bias"].shape[0])
    return jax.ShapeDtypeStruct(shape, jnp.dtype(structure.dtype))  # type: ignore[no-untyped-call]


def _run_layerwise(
    parameters: Parameters,
    structure: Structure,
    state: Carries,
    inputs: Sequence[jax.Array],
    count: jax.Array | None,
) -> tuple[jax.Array, Carries]:
    """As `run_chunk`, of inputs with time first, layer by layer.

    What a cell makes of its inputs alone it makes of all tokens at once.
    """
    over = tuple(inputs)  # what the next layer reads
    after: list[Carry] = []
    told = _told_in_step(parameters, state, inputs, count)
    known = _of_symbols(parameters, structure, state, inputs)

    for number, carry in enumerate(state):
        project = _cell(structure, parameters, number).dense_i
        first, tells = not number, told and number == len(state) - 1
        # For grad, what comes back to the table is added up at once, and not token by token.
        table = known if first and count is not None else None
        in_step = parameters["cells"][number]["dense_i"]["kernel"].size < FEW_WEIGHTS
        if not in_step and table is None:
            if first and known is not None:
                over = (known[inputs[0]],)
            else:
                read = _features(parameters, structure, state, inputs) if first else over[0]
                over = (project(read),)

        def token(
            carry: Carry, now: tuple[jax.Array, ...], number: int = number,
            in_step: bool = in_step, tells: bool = tells,
        ) -> tuple[Carry, jax.Array]:  # fmt: skip
            cell = _cell(structure, parameters, number)
            if not in_step:
                cell.dense_i = _as_it_is
            reads_inputs = in_step and number == 0
            read = _features(parameters, structure, state, now) if reads_inputs else now[0]
            carry, made = cell(carry, read)
            return carry, _read_out(structure, parameters, made) if tells else made

        made = _made_by(parameters, structure, carry, tells)
        reading = _reading(structure, carry, table)
        axis = _time_axis(made) if number == len(state) - 1 else 0
        carried, values = buckets.scan(token, carry, over, count, made, table, reading, axis)
        over = (values,)
        after.append(carried)
    if not after:
        axis, over = 0, (_features(parameters, structure, state, inputs),)
    outputs = over[0] if told else _read_out(structure, parameters, over[0])
    return jnp.moveaxis(outputs, axis, 1), tuple(after)


def _reading(structure: Structure, carry: Carry, table: jax.Array | None = None) -> buckets.Reading:
    """How a cell reads what was made of its inputs, or rows of what was made of symbols."""
    if not on_cpu():
        return "slice"
    held, way = jax.tree.leaves(carry)[-1], READING[structure.kind]
    pays = held.shape[-1] >= WIDE or held.size >= WIDE_IN_ALL
    return way if pays or (way == "gather" and table is not None) else "slice"


def _of_symbols(
    parameters: Parameters, structure: Structure, state: Carries, inputs: Sequence[jax.Array]
) -> jax.Array | None:
    """What the first cell makes of each symbol, (symbols, gates * units), where it reads no more.

    None if to make it of all symbols takes longer than of all tokens.
    """
    if structure.inputs != ("table",) or is_distribution(inputs[0]):
        return None
    table = parameters["inputs"]["0"]
    if "inputs.0.table" in structure.pattern or len(table) > inputs[0].size:
        return None
    if not structure.cells or parameters["cells"][0]["dense_i"]["kernel"].size < FEW_WEIGHTS:
        return None
    return _cell(structure, parameters, 0).dense_i(table)


@cache
def compiled_run(on_one_core: bool, wide: bool) -> Callable[..., tuple[jax.Array, Carries]]:
    """`run_chunk` under jit, on one core or with wide vectors where the device has such."""
    options = (ON_ONE_CORE if on_one_core else {}) | (WIDE_VECTORS if wide else {})
    return jax.jit(run_chunk, static_argnums=1, compiler_options=understood(options))
