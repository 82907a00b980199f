"""The file of a run: what it takes to go on with a loop, in another process or another day."""

import os
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from lsrl import schema, storage
from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.run import Ahead, Record, Run, Wiring
from lsrl.parameters import Parameter
from lsrl.schema import FieldError, Reader
from lsrl.state import FIELDS, State, check_owner, parts_of, state_of

FORMAT = storage.Format("lsrl-run", 1, "a run saved by run.save")
_COUNTS = schema.listed(schema.integer(0))
_FLAGS = schema.listed(schema.flag)
_RUN: Mapping[str, Reader[object]] = {
    **FIELDS,
    "until": schema.one_of("halt", "steps"),
    "halted": _FLAGS,
    "waiting": _FLAGS,
    "steps": _COUNTS,
    "text": schema.listed(schema.listed(schema.integer(0, 255))),
    "keys": schema.listed(schema.listed(schema.integer(0, 255))),
}
_STATE, _PENDING, _CELLS = "state.", "pending.", "cells"


def save_run(
    path: str | os.PathLike[str], run: Run[State], dtype: str, owner: Mapping[str, str]
) -> None:
    """Write what a run goes on with; its outputs are not in it.

    Raises:
      OSError: the file can't be written.
    """
    fields, leaves = parts_of(run.state, dtype, owner)
    record = run.record
    said = {
        "until": run.wiring.until,
        "halted": record.halted.tolist(),
        "waiting": record.waiting.tolist(),
        "steps": record.steps.tolist(),
        "text": [list(text) for text in record.text],
        "keys": [own.astype(int).tolist() for own in record.ahead.keys],
    }
    arrays: dict[str, Parameter] = {f"{_STATE}{name}": leaf for name, leaf in leaves.items()}
    for number, array in enumerate(record.ahead.pending):
        arrays[f"{_PENDING}{number}"] = np.asarray(array)
    arrays[_CELLS] = record.cells
    storage.write(path, FORMAT, {**fields, **said}, arrays)


def load_run(
    path: str | os.PathLike[str],
    owner: Mapping[str, str],
    wiring: Wiring,
    start: Callable[[int | None], State],
) -> Run[State]:
    """Read a run that `save_run` wrote; `start` makes a state of so many machines.

    Raises:
      FormatError: the file is damaged, truncated, newer, no run, or of another model.
      OSError: the file can't be read.
    """

    def taken(header: dict[str, object], arrays: dict[str, Parameter]) -> Run[State]:
        check_owner(path, FORMAT, header, owner)
        batch = cast("int | None", header["batch"])
        machines = 1 if batch is None else batch
        for name in ("halted", "waiting", "steps", "text", "keys"):
            if len(cast(tuple[object, ...], header[name])) != machines:
                raise FieldError(f"one for each of {machines} machines", shown(header[name]), name)
        inner = {n.removeprefix(_STATE): a for n, a in arrays.items() if n.startswith(_STATE)}
        state = state_of(header, inner, start)
        own = wiring._replace(until=cast(str, header["until"]))
        rest = {n: np.asarray(a) for n, a in arrays.items() if not n.startswith(_STATE)}
        record = _record(own, header, rest, machines)
        return Run(state, state.batch is not None, own, record)

    return storage.read_as(path, FORMAT, _RUN, taken)


def _record(
    wiring: Wiring, header: Mapping[str, object], arrays: Mapping[str, Array], machines: int
) -> Record:
    """What the run did, as far as the file tells."""
    pending = tuple(
        _pending(arrays, f"{_PENDING}{number}", machines, name, kind)
        for number, (name, kind) in enumerate(wiring.types)
    )
    memory = wiring.feedback.memory
    shape: tuple[int, ...] = (machines, 0, 1)
    if memory is not None:
        first, last = memory.values
        shape = (machines, memory.cells, last - first)
    cells = arrays.get(_CELLS)
    if cells is None or cells.shape != shape or cells.dtype != np.float64:
        got = "none" if cells is None else f"shape {cells.shape} of {cells.dtype}"
        raise FieldError(f"shape {shape} of float64", got, f"arrays.{_CELLS}")
    if len(arrays) != len(pending) + 1:
        raise FieldError(
            f"{len(pending) + 1} arrays beside the state", f"{sorted(arrays)}", "arrays"
        )
    keys = cast("tuple[tuple[int, ...], ...]", header["keys"])
    text = cast("tuple[tuple[int, ...], ...]", header["text"])
    ahead = Ahead(pending, tuple(np.array(own, np.float64) for own in keys))
    told = tuple(array[:, None][:, :0] for array in pending)
    return Record(
        told, ahead, np.zeros((machines, 0, wiring.width)), np.zeros(machines, np.int64),
        np.array(header["halted"], bool), np.array(header["waiting"], bool),
        np.array(header["steps"], np.int64), tuple(map(bytes, text)), cells.copy(), ahead,
    )  # fmt: skip


def _pending(
    arrays: Mapping[str, Array], place: str, machines: int, name: str, kind: InputType
) -> Array:
    """What the next token reads, which is a legal input."""
    array = arrays.get(place)
    shape = (machines,) if isinstance(kind, Token) else (machines, kind.width)
    if array is None or array.shape != shape:
        got = "none" if array is None else f"shape {array.shape}"
        raise FieldError(f"shape {shape}", got, f"arrays.{place}")
    try:
        return kind.check(array[:, None], name)[:, 0]
    except InputError as error:
        raise FieldError("a legal input", f"{error}", f"arrays.{place}") from None
