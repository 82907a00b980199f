"""Examples of a function of sequences: arrays of inputs and outputs, typed and checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast, final

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InputError, LsrlError
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.types import MAX_STEP_BITS, InputType, Token, Vector, check_inputs

# A batch of inputs, one array each, to the outputs (batch, time) or (batch, time, outputs).
Teacher: TypeAlias = Callable[..., object]
# Whole numbers from 0 up to here are symbols where nobody says what they are.
MOST_SYMBOLS = 64
# Whole numbers agree where they are equal, others up to this share of the greatest.
TOLERANCE = 1e-9
_SHAPES = (
    "examples are a list of pairs (inputs, outputs), each of one sequence, or one tuple (inputs, "
    "outputs) of arrays (sequences, time); several inputs are a tuple of arrays, or a dict by name"
)


@final
@dataclass(frozen=True, eq=False)
class Examples:
    """Sequences of one length.

    Attributes:
      types: of the inputs, by name.
      arrays: one an input: int64 ids (sequences, time), or float64 (sequences, time, width).
      outputs: (sequences, time, outputs) float64.
    """

    types: dict[str, InputType]
    arrays: tuple[Array, ...]
    outputs: Array

    @property
    def length(self) -> int:
        """Tokens of each sequence."""
        return int(self.outputs.shape[1])

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.outputs)

    @property
    def whole(self) -> bool:
        """Whether all outputs are whole numbers."""
        return bool((self.outputs % 1 == 0).all())

    def numbers(self) -> Array:
        """(sequences, time, channels) float64: all inputs side by side, symbols as their ids."""
        wide = [array if array.ndim == 3 else array[..., None] for array in self.arrays]
        return np.concatenate([array.astype(np.float64) for array in wide], axis=2)

    def take(self, rows: Sequence[int] | Array) -> "Examples":
        """Some of the sequences."""
        return Examples(self.types, tuple(array[rows] for array in self.arrays), self.outputs[rows])

    def agree(self, outputs: Array) -> Array:
        """(sequences, time) bool: where outputs (sequences, time, outputs) are those of here."""
        return cast(Array, (np.abs(outputs - self.outputs) <= self.room).all(axis=2))

    @property
    def room(self) -> float:
        """How far outputs may differ: not at all where they are whole."""
        return 0.0 if self.whole else TOLERANCE * float(np.abs(self.outputs).max())


def read(
    given: object, types: Mapping[str, InputType] | None, others: object = None, what: str = ""
) -> Examples:
    """Examples as users give them.

    Args:
      given: a list of pairs, or a tuple of two batches.
      types: of the inputs, or None to infer them.
      others: more examples, of which types are inferred too.
      what: they are called in messages; "examples" by default.

    Raises:
      InputError: they are empty, of several lengths, no numbers, contradictory, or outside their
        types; says where.
    """
    what = what or "examples"
    named, outputs = _split(given, what)
    if types is not None and named.keys() != types.keys():
        if len(named) != len(types) or set(named) != set(_names(len(named))):
            raise InputError(
                f"{what}: expected inputs {', '.join(types)}, got {', '.join(named)}; give one "
                "array an input, in this order or by name"
            )
        named = dict(zip(types, named.values(), strict=True))
    arrays = {name: _array(f"{what}: input {name!r}", value) for name, value in named.items()}
    result = _array(f"{what}: outputs", outputs)
    if types is None:
        more = {} if others is None else _split(others, "validation")[0]
        types = {name: _inferred(name, arrays[name], more.get(name)) for name in arrays}
    for name, array in arrays.items():
        if isinstance(types[name], Vector) and array.ndim == 2:
            arrays[name] = array[..., None]
    try:
        checked, _ = check_inputs(dict(types), list(arrays.values()), None)
    except InputError as error:
        raise InputError(
            f"{what}: {error}; inputs={{name: lsrl.Token(n) or lsrl.Vector(...)}} declares types"
        ) from None
    result = result.astype(np.float64)
    result = result if result.ndim == 3 else result[..., None]
    _check_outputs(what, result, checked[0].shape[:2])
    examples = Examples(dict(types), tuple(checked), result)
    _refuse_contradictions(what, examples)
    return examples


def read_validation(given: object, examples: Examples) -> Examples | None:
    """A validation as users give it, without what the examples tell already.

    Raises:
      InputError: as of `read`, or it contradicts the examples, or has other outputs.
    """
    found = read(given, examples.types, what="validation")
    if found.outputs.shape[2] != examples.outputs.shape[2]:
        raise InputError(
            f"validation: expected {examples.outputs.shape[2]} outputs, got "
            f"{found.outputs.shape[2]}"
        )
    return outside(found, examples)


def outside(validation: Examples, examples: Examples) -> Examples | None:
    """What of a validation is not told by examples already; None if nothing.

    Raises:
      InputError: both contradict each other.
    """
    common = min(validation.length, examples.length)
    arrays = tuple(
        np.concatenate([one[:, :common], other[:, :common]])
        for one, other in zip(examples.arrays, validation.arrays, strict=True)
    )
    outputs = np.concatenate([examples.outputs[:, :common], validation.outputs[:, :common]])
    both = Examples(examples.types, arrays, outputs)
    _refuse_contradictions("examples and validation, one after the other,", both)
    if validation.length > examples.length:
        return validation
    rows = both.numbers().reshape(len(both), -1)
    _, number = np.unique(rows, axis=0, return_inverse=True)
    number = number.reshape(-1)
    new = ~np.isin(number[len(examples) :], number[: len(examples)])
    return validation.take(np.nonzero(new)[0]) if new.any() else None


def asked(teacher: Teacher, types: dict[str, InputType], arrays: Sequence[Array]) -> Examples:
    """What a teacher answers to a batch of inputs.

    Raises:
      InputError: the teacher raises, or does not answer one row a token.
    """
    try:
        answer = teacher(*arrays)
    except LsrlError:
        raise
    except Exception as error:
        raise InputError(
            f"the teacher raises {type(error).__name__}: {error}; it is called with one array an "
            f"input, of shapes {[array.shape for array in arrays]}"
        ) from error
    outputs = _array("the teacher's answer", answer).astype(np.float64)
    outputs = outputs if outputs.ndim == 3 else outputs[..., None]
    _check_outputs("the teacher", outputs, arrays[0].shape[:2])
    return Examples(types, tuple(arrays), outputs)


def drawn(
    types: dict[str, InputType], sequences: int, length: int, rng: np.random.Generator
) -> tuple[Array, ...]:
    """Random inputs of their types, uniform."""
    found: list[Array] = []
    for kind in types.values():
        if isinstance(kind, Token):
            found.append(rng.integers(0, kind.size, (sequences, length)))
            continue
        low, high, grid = np.array(kind.low), np.array(kind.high), kind.grid()
        step = np.where(grid > 0, grid, 1.0)
        first, last = np.ceil(low / step), np.floor(high / step)
        points = rng.integers(
            first.astype(np.int64), last.astype(np.int64) + 1, (sequences, length, kind.width)
        )
        real = rng.uniform(low, high, (sequences, length, kind.width))
        found.append(np.where(grid > 0, points * step, real))
    return tuple(found)


def _names(count: int) -> list[str]:
    return ["x"] if count == 1 else [f"x{number + 1}" for number in range(count)]


def _split(given: object, what: str) -> tuple[dict[str, object], object]:
    """Inputs by name and outputs, each with an axis of sequences."""
    if isinstance(given, tuple) and len(given) == 2:
        return _by_name(given[0], what), given[1]
    if not isinstance(given, list):
        raise InputError(f"{what}: {_SHAPES}; got {shown(given)}")
    if not given:
        raise InputError(f"{what}: there are none; {_SHAPES}")
    for number, pair in enumerate(given):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"{what}: number {number} is no pair, got {shown(pair)}; {_SHAPES}")
    inputs = [_by_name(pair[0], what) for pair in given]
    if any(each.keys() != inputs[0].keys() for each in inputs):
        raise InputError(f"{what}: all sequences need the same inputs, {', '.join(inputs[0])}")
    rows = [value for pair in inputs for value in pair.values()] + [pair[1] for pair in given]
    lengths = [len(value) if isinstance(value, Sequence | np.ndarray) else 0 for value in rows]
    if len(set(lengths)) > 1:
        raise InputError(
            f"{what}: lengths differ, from {min(lengths)} to {max(lengths)} tokens; inputs and "
            "outputs have one row a token, and all sequences one length: cut the longer ones"
        )
    columns = {name: [each[name] for each in inputs] for name in inputs[0]}
    return cast("dict[str, object]", columns), [pair[1] for pair in given]


def _by_name(inputs: object, what: str) -> dict[str, object]:
    if isinstance(inputs, Mapping):
        if not all(isinstance(name, str) and name.isidentifier() for name in inputs):
            raise InputError(f"{what}: inputs need names, got {shown(list(inputs))}")
        return dict(inputs)
    values = list(inputs) if isinstance(inputs, tuple) else [inputs]
    return dict(zip(_names(len(values)), values, strict=True))


def _array(what: str, value: object) -> Array:
    array = arguments.array(what, value)
    if array.size == 0:
        raise InputError(f"{what}: there are none, got shape {array.shape}")
    if array.dtype.kind not in "iufb":
        raise InputError(f"{what}: expected numbers, got {arguments.dtype_text(array)}")
    if array.ndim not in (2, 3):
        raise InputError(f"{what}: expected (sequences, time, ...), got shape {array.shape}")
    array = array.astype(np.int64) if array.dtype.kind in "ub" else array
    if not np.isfinite(array).all():
        raise InputError(f"{what}: expected finite numbers, got NaN or infinities")
    return array


def _inferred(name: str, array: Array, other: object) -> InputType:
    """Whole numbers from 0 on are symbols if they are few; else a vector of what was seen."""
    if other is not None:
        more = _array(f"validation: input {name!r}", other)
        if more.shape[2:] == array.shape[2:]:
            array = np.concatenate([part.reshape(-1, *part.shape[2:]) for part in (array, more)])
    seen = array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array.reshape(-1, 1)
    low, high = seen.min(axis=0), seen.max(axis=0)
    whole = bool((seen % 1 == 0).all())
    if array.dtype.kind == "i" and seen.shape[1] == 1 and low[0] >= 0 and high[0] < MOST_SYMBOLS:
        return Token(int(high[0]) + 1)
    step = np.where(seen == 0, np.inf, lowest_bit(seen.astype(np.float64))).min()
    # Numbers that are on no short grid are real.
    short = np.abs(seen).max() < step * 2.0**MAX_STEP_BITS
    grid = 1.0 if whole else float(step) if short else None
    return Vector(seen.shape[1], low=low.astype(float), high=high.astype(float), step=grid)


def _check_outputs(what: str, outputs: Array, shape: tuple[int, ...]) -> None:
    if outputs.shape[:2] != shape:
        raise InputError(
            f"{what}: lengths differ: inputs have (sequences, time) = {shape}, outputs "
            f"{outputs.shape[:2]}; outputs have one row a token"
        )


def _refuse_contradictions(what: str, examples: Examples) -> None:
    """A function of what was read says one thing after one prefix."""
    inputs = examples.numbers()
    group = np.zeros(len(inputs), np.int64)
    for token in range(examples.length):
        rows = np.concatenate([group[:, None].astype(np.float64), inputs[:, token]], axis=1)
        _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        group = group.reshape(-1)
        here = examples.outputs[:, token]
        apart = np.abs(here[first[group]] - here).max(axis=1)
        wrong = np.nonzero(apart > examples.room)[0]
        if len(wrong):
            one, other = int(first[group[wrong[0]]]), int(wrong[0])
            raise InputError(
                f"{what} contradict each other: sequences {one} and {other} are equal up to token "
                f"{token}, and their outputs there are {examples.outputs[one, token].tolist()} and "
                f"{examples.outputs[other, token].tolist()}; noise is not handled: mend the "
                "examples, or add the input that tells them apart"
            )
