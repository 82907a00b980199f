"""Golden states: what each entry of a model's cache holds after so many tokens, and why.

Whoever writes a kernel compares its cache with these numbers. They come from the reference
evaluator, each with a label that says what of the program it is, and need no tolerance where the
model is exact. Arrays go by the names and in the layout of transformers' caches: "layers.2" is the
third recurrent layer, "conv_states.0" and "recurrent_states.0" are those of a `Cache`'s layer, and
other names those of the module that keeps its state itself.
"""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np

from lsrl import arguments, schema, storage
from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.extras import needed
from lsrl.ir.numbers import Array
from lsrl.parameters import Parameter
from lsrl.schema import FieldError, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

FORMAT = storage.Format("lsrl-golden", 1, "a golden state saved by GoldenState.save")
Kind = Literal["conv", "scan", "delta", "constant"]
IDLE = "idle: 0"


class Label(NamedTuple):
    """What entries of a cache hold.

    Attributes:
      array: its name.
      entry: the place without the batch; of a convolution's channel all taps, the last token last.
      kind: "conv" what comes into a convolution, "scan" what a recurrence holds, "delta" what lies
        at a key's coordinate in a value's column, "constant" the same at every token.
      text: in the program's signals.
      scale: by what the network multiplies that.
    """

    array: str
    entry: tuple[int, ...]
    kind: Kind
    text: str
    scale: float


# Of the header of what holds a state.
FIELDS: Mapping[str, Reader[object]] = {
    "program": schema.text,
    "target": schema.text,
    "exact": schema.flag,
    "token": schema.integer(0),
    "labels": schema.reader_of(tuple[Label, ...]),
}


class Difference(NamedTuple):
    """An entry that does not hold what it should.

    Attributes:
      array: its name.
      entry: its place, the number of the sequence first.
      got: what it holds.
      expected: what it should hold.
      label: what that is.
    """

    array: str
    entry: tuple[int, ...]
    got: float
    expected: float
    label: str

    def __str__(self) -> str:
        """One line."""
        sequence, *place = self.entry
        return (
            f"{self.array}{place} of sequence {sequence}: got {self.got!r}, expected "
            f"{self.expected!r}, {self.label}"
        )


@dataclass(frozen=True, eq=False)
class GoldenState:
    """The cache of a model between two tokens, labelled.

    Attributes:
      program: the program's name.
      target: the target's name.
      exact: whether the certificate says that every entry equals its expected value.
      token: tokens read, the first ones of the inputs.
      inputs: all tokens, one array an input: (batch, time), or (batch, time, width).
      outputs: (batch, time, outputs) of the reference evaluator, for all tokens.
      arrays: by name (batch, ...), what our network holds.
      expected: the same by the reference evaluator, of which no network had a part.
      labels: of the entries that hold something; all others stay 0.

    Example:
      counter = lsrl.compile(lsrl.programs.counter_mod(), "mamba")
      golden = counter.export_state([[0, 0, 0]], 2)
      print(type(golden).__name__, [*golden.expected][:1], [*golden.differences()])
    """

    program: str
    target: str
    exact: bool
    token: int
    inputs: tuple[Array, ...]
    outputs: Array
    arrays: Mapping[str, Array]
    expected: Mapping[str, Array]
    labels: tuple[Label, ...]

    @cached_property
    def _labels(self) -> Mapping[tuple[str, tuple[int, ...]], Label]:
        return {(label.array, label.entry): label for label in self.labels}

    def label(self, array: str, entry: Sequence[int]) -> str:
        """What an entry holds, in words.

        Args:
          array: its name.
          entry: its place, without the number of the sequence.

        Raises:
          InputError: there is no such array.
        """
        if array not in self.expected:
            known = ", ".join(self.expected)
            raise InputError(f"label: there is no array {shown(array)}; there are {known}")
        for length in range(len(entry), -1, -1):
            found = self._labels.get((array, tuple(entry[:length])))
            if found is None:
                continue
            last = self.expected[array].shape[-1] - 1
            # Of a convolution's channel all taps have one label.
            taps = entry[length:] if found.kind in ("conv", "constant") else ()
            ago = "".join(f", {_ago(last - column)}" for column in taps)
            return f"{found.kind}: {found.scale:g} · ({found.text}){ago}"
        return IDLE

    def differences(self, other: Mapping[str, Array] | None = None) -> Iterator[Difference]:
        """The entries that are not as they should be, layer by layer.

        Args:
          other: arrays to look at, such as `arrays_of` a cache of transformers; by default those of
            our own network.

        Raises:
          InputError: an array is missing, or has another shape.
        """
        given = self.arrays if other is None else other
        for name, expected in self.expected.items():
            got = None if name not in given else np.asarray(given[name])
            if got is None or got.shape != expected.shape:
                came = "none" if got is None else f"{got.shape}"
                raise InputError(
                    f"differences: expected {name} of shape {expected.shape}, got {came}; pass the "
                    "cache of a checkpoint that export_state speaks of, with as many sequences"
                )
            for entry in map(tuple, np.argwhere(got != expected).tolist()):
                label = self.label(name, entry[1:])
                yield Difference(name, entry, float(got[entry]), float(expected[entry]), label)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all: safetensors, with the labels as JSON in its header.

        Raises:
          OSError: the file can't be written.
        """
        fields = {
            "dtype": "float32",
            "program": self.program,
            "target": self.target,
            "exact": self.exact,
            "token": self.token,
            "labels": [label._asdict() for label in self.labels],
        }
        arrays = {f"inputs.{number}": array for number, array in enumerate(self.inputs)}
        arrays["outputs"] = self.outputs
        for part in ("arrays", "expected"):
            arrays |= {f"{part}.{name}": array for name, array in getattr(self, part).items()}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        place = arguments.path("save", path)
        storage.write(place, FORMAT, fields, arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "GoldenState":
        """Read what `save` wrote.

        Raises:
          FormatError: the file is damaged, truncated, newer, or no golden state.
          OSError: the file can't be read.
        """
        return storage.read_as(arguments.path("load", path), FORMAT, FIELDS, _taken)

    def arrays_of(self, module: "PreTrainedModel", cache: "Cache | None") -> dict[str, Array]:
        """What a class of transformers holds, by the names of this state.

        Args:
          module: the class's model, loaded from a checkpoint of the same model.
          cache: what it gave with `use_cache=True`.

        Raises:
          InputError: transformers is missing, or the class keeps no such states.
        """
        return _torch_cache("arrays_of").read(module, cache, self.expected)

    def to_transformers(self, module: "PreTrainedModel") -> "Cache":
        """Load what the entries should hold into a class of transformers.

        Args:
          module: the class's model, loaded from a checkpoint of the same model.

        Returns:
          A new cache: `module(next_tokens, cache=cache)` goes on after `token` tokens. What a
          module keeps itself (RecurrentGemma) is set there.

        Raises:
          InputError: transformers is missing, or the class keeps no such states.
        """
        load = _torch_cache("to_transformers").loaded
        return load(module, self.expected, len(self.outputs), self.token)


def _ago(tokens: int) -> str:
    if not tokens:
        return "at the last token"
    return f"{tokens} token{'s' * (tokens > 1)} before the last"


def _torch_cache(what: str) -> ModuleType:
    for package in ("torch", "transformers"):
        needed(package, what)
    # Slow to load, and only here.
    return importlib.import_module("lsrl.torch_cache")


def _taken(header: dict[str, object], arrays: dict[str, Parameter]) -> GoldenState:
    """The state that a file's header and arrays tell."""
    parts: dict[str, dict[str, Array]] = {"inputs": {}, "arrays": {}, "expected": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        if part in parts and rest:
            parts[part][rest] = cast(Array, array)
    numbers = [f"{number}" for number in range(len(parts["inputs"]))]
    named = 1 + sum(map(len, parts.values()))
    if header["dtype"] != "float32":
        raise FieldError("float32", shown(header["dtype"]), "dtype")
    if "outputs" not in arrays or parts["inputs"].keys() != {*numbers} or len(arrays) != named:
        raise FieldError("inputs, outputs, arrays and expected", shown(sorted(arrays)), "arrays")
    state = GoldenState(
        cast(str, header["program"]),
        cast(str, header["target"]),
        cast(bool, header["exact"]),
        cast(int, header["token"]),
        tuple(parts["inputs"][number] for number in numbers),
        cast(Array, arrays["outputs"]),
        parts["arrays"],
        parts["expected"],
        cast(tuple[Label, ...], header["labels"]),
    )
    _check(state)
    return state


def _check(state: GoldenState) -> None:
    """Refuse arrays that don't fit together, and labels of none of them."""
    batch, time = (*state.outputs.shape, -1, -1)[:2]
    held = {n: a.shape for n, a in state.arrays.items()}
    fits = (
        held == {n: a.shape for n, a in state.expected.items()}
        and state.outputs.ndim == 3
        and 0 <= state.token <= time
        and all(a.ndim in (2, 3) and a.shape[:2] == (batch, time) for a in state.inputs)
        and all(shape[:1] == (batch,) for shape in held.values())
    )
    cached = [state.outputs, *state.arrays.values(), *state.expected.values()]
    if not fits or any(array.dtype != np.float32 for array in cached):
        shapes = {"outputs": state.outputs.shape, **held}
        raise FieldError("arrays of float32 that share batch and time", shown(shapes), "arrays")
    for label in state.labels:
        shape = held.get(label.array, ())[1:]
        if len(label.entry) > len(shape) or not all(
            0 <= place < size for place, size in zip(label.entry, shape, strict=False)
        ):
            raise FieldError("a place in an array", shown(label), "labels")
