"""Files of a curriculum: its tasks, and the tries that it has made.

A file of tasks is written by people and programs, and has no checksum:

    {"format": "lsrl-tasks", "version": 1, "tasks": [{
        "name": "parity", "inputs": {"x": {"token": 2}},
        "examples": [{"inputs": {"x": [1, 0, 1]}, "outputs": [1, 1, 0]}], "validation": []}]}

`inputs`, the types, and `validation` may be missing. The inputs of an example are a list where
there is one input, else an object; a token that has several channels is a list of numbers.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, final

from lsrl import arguments, schema, sealed
from lsrl.arguments import shown
from lsrl.errors import FormatError
from lsrl.folders import replace_file
from lsrl.induction.examples import Examples
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType
from lsrl.program_json import type_from_json, type_to_json
from lsrl.schema import FieldError, Reader

TASKS, VERSION = "lsrl-tasks", 1
STATE = sealed.Form("lsrl-curriculum", 1)
Pairs = list[tuple[dict[str, object], object]]


class Given(NamedTuple):
    """A task as its file says.

    Attributes:
      name: of the task.
      types: of its inputs, by name; None where nobody says.
      examples: as `lsrl.induce` takes them.
      validation: likewise; None if there is none.
    """

    name: str
    types: dict[str, InputType] | None
    examples: Pairs
    validation: Pairs | None


class Try(NamedTuple):
    """One try of one task.

    Attributes:
      task: its name.
      budget: streams that it might make.
      tried: streams that it made.
      seconds: of CPU time.
      solvers: those that have a candidate.
      expressions: of a composition, as text, one an output.
      refusals: of the others: solver, reason, and tokens that a refuted one was right at.
    """

    task: str
    budget: int
    tried: int
    seconds: float
    solvers: tuple[str, ...]
    expressions: tuple[str, ...]
    refusals: tuple[tuple[str, str, int | None], ...]


# ---------------------------------------------------------------- tasks

_VALUE = schema.number(infinite=False)


def _row(value: object) -> object:
    """A number, or a list of them."""
    return (schema.listed(_VALUE) if isinstance(value, list) else _VALUE)(value)


_SEQUENCE = schema.listed(_row)


def _inputs(value: object) -> dict[str, object]:
    if isinstance(value, list):
        return {"x": _SEQUENCE(value)}
    return cast("dict[str, object]", schema.named(_SEQUENCE)(value))


_PAIR: Reader[Any] = schema.record(
    {"inputs": _inputs, "outputs": _SEQUENCE}, make=lambda inputs, outputs: (inputs, outputs)
)
_TASK: Reader[dict[str, Any]] = schema.record(
    {
        "name": schema.text,
        "inputs": schema.named(type_from_json),
        "examples": schema.listed(_PAIR),
        "validation": schema.listed(_PAIR),
    },
    ("inputs", "validation"),
)
_TASKS: Reader[dict[str, Any]] = schema.record(
    {
        "format": schema.one_of(TASKS),
        "version": schema.integer(1, VERSION),
        "tasks": schema.listed(_TASK),
    }
)


def read_tasks(path: str | os.PathLike[str]) -> list[Given]:
    """The tasks of a file.

    Raises:
      FormatError: it is none; names the field.
      OSError: it can't be read.
    """
    place = arguments.path("load", path)
    try:
        said = _TASKS(schema.parse(place.read_bytes()))
    except FieldError as error:
        raise FormatError(
            f"{place}: expected tasks, as docs/induction.md tells, got something else: {error}"
        ) from error
    return [
        Given(
            task["name"],
            task.get("inputs"),
            list(task["examples"]),
            list(task.get("validation", ())) or None,
        )
        for task in said["tasks"]
    ]


def task_json(name: str, examples: Examples, validation: Examples | None) -> dict[str, object]:
    """A task as its file has it."""
    return {
        "name": name,
        "inputs": {each: type_to_json(kind) for each, kind in examples.types.items()},
        "examples": _pairs(examples),
        "validation": [] if validation is None else _pairs(validation),
    }


def write_tasks(path: str | os.PathLike[str], tasks: Sequence[Mapping[str, object]]) -> None:
    """Write tasks, each as `task_json` tells it.

    Raises:
      OSError: the file can't be written.
    """
    content = {"format": TASKS, "version": VERSION, "tasks": tasks}
    replace_file(arguments.path("save", path), json.dumps(content).encode())


def _pairs(examples: Examples) -> list[dict[str, object]]:
    found = list[dict[str, object]]()
    for row in range(len(examples)):
        inputs = {
            name: _plain(array[row, : examples.lengths[row]])
            for name, array in zip(examples.types, examples.arrays, strict=True)
        }
        found.append(
            {"inputs": inputs, "outputs": _plain(examples.outputs[row, : examples.lengths[row]])}
        )
    return found


def _plain(values: Array) -> list[object]:
    """Numbers, whole ones without a point; of one channel the numbers alone."""
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    whole = bool((flat % 1 == 0).all())
    return cast("list[object]", (flat.astype(int) if whole else flat).tolist())


# ---------------------------------------------------------------- the state

_STATE: Reader[dict[str, Any]] = schema.record(
    {"key": schema.text, "tries": schema.listed(schema.reader_of(Try))}
)


@final
class Journal:
    """The tries of a curriculum, in order: those of its file first, then new ones.

    Attributes:
      tries: all that there are.
    """

    def __init__(self, path: Path | None, key: str, tries: Sequence[Try] = ()) -> None:
        """With tries that were made before."""
        self._path, self._key = path, key
        self.tries = list(tries)
        self._next = 0

    @classmethod
    def opened(cls, path: str | os.PathLike[str] | None, key: str) -> "Journal":
        """The journal of a file, or a new one.

        Args:
          path: of the file; None for a journal that is not written.
          key: of what the tries follow from.

        Raises:
          FormatError: the file is damaged, or of another curriculum.
          OSError: it can't be read.
        """
        if path is None:
            return cls(None, key)
        place = arguments.path("learn: state", path)
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            return cls(place, key)
        try:
            said = _STATE(sealed.unseal(STATE, schema.parse(content)))
            if said["key"] != key:
                raise FieldError(
                    "that of these tasks, skills, budget and solvers", shown(said["key"]), "key"
                )
        except FieldError as error:
            raise FormatError(
                f"{place}: expected the state of this curriculum, got something else: {error}; "
                "remove the file to begin anew, or name another"
            ) from error
        return cls(place, key, cast("tuple[Try, ...]", said["tries"]))

    def recalled(self, task: str, budget: int) -> Try | None:
        """The next try, if it was made before.

        Raises:
          FormatError: it was one of another task.
        """
        if self._next == len(self.tries):
            return None
        found = self.tries[self._next]
        if (found.task, found.budget) != (task, budget):
            raise self.wrong(f"a try of {task!r} with a budget of {budget}", found)
        self._next += 1
        return found

    def wrong(self, expected: str, got: object) -> FormatError:
        """The error for a try that is not what follows from those before."""
        return FormatError(
            f"{self._path}: expected {expected} as number {self._next}, got {shown(got)}; remove "
            "the file to begin anew"
        )

    def add(self, made: Try) -> None:
        """Write one more.

        Raises:
          OSError: the file can't be written.
        """
        self.tries.append(made)
        self._next = len(self.tries)
        if self._path is not None:
            tries = [each._asdict() for each in self.tries]
            content = sealed.seal(STATE, {"key": self._key, "tries": tries})
            replace_file(self._path, json.dumps(content).encode())


def key_of(facts: Mapping[str, object]) -> str:
    """A hash of JSON data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
