"""Examples of a function of sequences: arrays of inputs and outputs, typed and checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InputError, LsrlError
from lsrl.induction.expressions import within
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
    """Sequences, of one length or of several.

    A shorter sequence goes on with its last token, inputs and outputs alike; nothing is said there.

    Attributes:
      types: of the inputs, by name.
      arrays: one an input: int64 ids (sequences, time), or float64 (sequences, time, width).
      outputs: (sequences, time, outputs) float64.
      lengths: (sequences,) tokens of each.

    Example:
      print(len(task.examples), task.examples.length)
    """

    types: dict[str, InputType]
    arrays: tuple[Array, ...]
    outputs: Array
    lengths: Array

    @classmethod
    def rectangular(
        cls, types: dict[str, InputType], arrays: tuple[Array, ...], outputs: Array
    ) -> "Examples":
        """Sequences of one length."""
        return cls(types, arrays, outputs, np.full(len(outputs), outputs.shape[1]))

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.outputs.shape[1])

    @property
    def told(self) -> Array:
        """(sequences, time) bool: the tokens of the sequences themselves."""
        return within(self.lengths, self.length)

    def cut(self, values: Array) -> list[Array]:
        """Values (sequences, time) by the lengths of the sequences: of each those of one length."""
        return [values[self.lengths == length, :length] for length in np.unique(self.lengths)]

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
        arrays = tuple(array[rows] for array in self.arrays)
        return Examples(self.types, arrays, self.outputs[rows], self.lengths[rows])

    def agree(self, outputs: Array) -> Array:
        """(sequences, time) bool: where outputs (sequences, time, outputs) are those of here."""
        near: Array = np.all(np.abs(outputs - self.outputs) <= self.room, axis=2)
        return near | ~self.told

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
    named, outputs, lengths = _split(given, what)
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
        more = {} if others is None else _split(others, "validation").inputs
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
    if lengths is None:
        lengths = np.full(len(result), result.shape[1])
    examples = Examples(dict(types), tuple(checked), result, lengths)
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
    """What of a validation is not the beginning of an example; None if nothing.

    Raises:
      InputError: both contradict each other.
    """
    both = joined(examples, validation)
    _refuse_contradictions("examples and validation, one after the other,", both)
    new = np.ones(len(validation), bool)
    own, others = examples.numbers(), validation.numbers()
    for length in np.unique(validation.lengths):
        rows = validation.lengths == length
        told = own[examples.lengths >= length, :length]
        if len(told):
            pair = np.concatenate([told, others[rows, :length]]).reshape(len(told) + rows.sum(), -1)
            _, number = np.unique(pair, axis=0, return_inverse=True)
            number = number.reshape(-1)
            new[rows] = ~np.isin(number[len(told) :], number[: len(told)])
    return validation.take(np.nonzero(new)[0]) if new.any() else None


def joined(first: Examples, second: Examples) -> Examples:
    """The sequences of both, one after the other."""
    length = max(first.length, second.length)
    pairs = zip((*first.arrays, first.outputs), (*second.arrays, second.outputs), strict=True)
    *arrays, outputs = (np.concatenate([_padded(each, length) for each in pair]) for pair in pairs)
    lengths = np.concatenate([first.lengths, second.lengths])
    return Examples(first.types, tuple(arrays), outputs, lengths)


def _padded(array: Array, length: int) -> Array:
    """(sequences, time, ...) of a greater length, by the last token again."""
    more = length - array.shape[1]
    return np.concatenate([array, np.repeat(array[:, -1:], more, axis=1)], axis=1)


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
    return Examples.rectangular(types, tuple(arrays), outputs)


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


class _Given(NamedTuple):
    """Examples, each array with an axis of sequences; and their lengths, where they differ."""

    inputs: Mapping[str, object]
    outputs: object
    lengths: Array | None = None


def _split(given: object, what: str) -> _Given:
    if isinstance(given, tuple) and len(given) == 2:
        return _Given(_by_name(given[0], what), given[1])
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
    lengths = [_length(f"{what}: number {number}", pair[1]) for number, pair in enumerate(given)]
    for number, (own, length) in enumerate(zip(inputs, lengths, strict=True)):
        for name, values in own.items():
            told = _length(f"{what}: number {number}, input {name!r}", values)
            if told != length:
                raise InputError(
                    f"{what}: number {number}: lengths differ: input {name!r} has {told} tokens, "
                    f"the outputs {length}; inputs and outputs have one row a token"
                )
    columns = {name: [each[name] for each in inputs] for name in inputs[0]}
    outputs: list[object] = [pair[1] for pair in given]
    if len(set(lengths)) == 1:
        return _Given(columns, outputs)
    longest = max(lengths)
    padded = {
        name: _stretched(f"{what}: input {name!r}", values, longest)
        for name, values in columns.items()
    }
    return _Given(padded, _stretched(f"{what}: outputs", outputs, longest), np.array(lengths))


def _length(what: str, values: object) -> int:
    tokens = len(values) if isinstance(values, Sequence | np.ndarray) else 0
    if not tokens:
        raise InputError(f"{what}: expected a row a token, got {shown(values)}")
    return tokens


def _stretched(what: str, sequences: Sequence[object], length: int) -> Array:
    """Sequences of one length, by the last token of each again."""
    arrays = [arguments.array(f"{what}, number {k}", each) for k, each in enumerate(sequences)]
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = sorted({array.shape[1:] for array in arrays})
        raise InputError(f"{what}: tokens have different shapes, {shapes[0]} and {shapes[-1]}")
    return np.concatenate([_padded(array[None], length) for array in arrays])


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
    inputs, outputs = examples.numbers(), examples.outputs
    group = np.zeros(len(inputs), np.int64)
    first: tuple[int, int, int] | None = None
    wrong = 0
    for token in range(examples.length):
        rows = np.nonzero(examples.lengths > token)[0]
        keys = np.concatenate([group[rows, None].astype(np.float64), inputs[rows, token]], axis=1)
        _, leader, number = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        number = number.reshape(-1)
        group[rows] = number
        here = outputs[rows, token]
        apart = np.abs(here[leader[number]] - here).max(axis=1) > examples.room
        if apart.any():
            one = int(np.nonzero(apart)[0][0])
            first = first or (int(rows[leader[number[one]]]), int(rows[one]), token)
            # Those that say what most say at the same prefix are right.
            pairs, counts = np.unique(
                np.concatenate([number[:, None], here], axis=1), axis=0, return_counts=True
            )
            most = np.zeros(len(leader), np.int64)
            np.maximum.at(most, pairs[:, 0].astype(np.int64), counts)
            wrong += len(rows) - int(most.sum())
    if first is not None:
        one, other, token = first
        raise InputError(
            f"{what} contradict each other: sequences {one} and {other} are equal up to token "
            f"{token}, and their outputs there are {outputs[one, token].tolist()} and "
            f"{outputs[other, token].tolist()}; {wrong} of {int(examples.lengths.sum())} outputs "
            "are not what most say after the same tokens; noise is not handled: mend the "
            "examples, or add the input that tells them apart"
        )
