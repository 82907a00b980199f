"""Results that survive a kill: each finished task is one file, keyed by all that it depends on.

Programs, arrays and perturbations count by their content, and so does the code of this package:
what was measured of another program under the same name is not served again.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import CodeType

import numpy as np

from lsrl import cache
from lsrl.errors import FormatError, InputError
from lsrl.folders import replace_file
from lsrl.language.program import Program
from lsrl.program_json import program_content
from lsrl.schema import shown

CsvRow = dict[str, str]


class Parts:
    """The finished tasks of an experiment, in a folder.

    A part is written beside its place and then renamed, so it is there whole or not at all. Rows
    are read back from the file even when they are new: a resumed run gives the same bytes.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        """Open a folder, which is made if there is none.

        Raises:
          OSError: it can't be made.
        """
        self.folder, self.columns = folder, tuple(columns)
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, settings: Mapping[str, object]) -> Path:
        """Where the task of these settings (JSON, programs, arrays and dataclasses) is kept."""
        made = {"code": cache.code(), **{name: version(name) for name in ("lsrl", "jax", "numpy")}}
        text = json.dumps([settings, made], sort_keys=True, default=_content)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.csv"

    def has(self, settings: Mapping[str, object]) -> bool:
        """Whether the task is finished."""
        return self.path(settings).exists()

    def rows(
        self, settings: Mapping[str, object], work: Callable[[], Sequence[Mapping[str, object]]]
    ) -> list[CsvRow]:
        """The rows of a task; it is run if it is not finished yet."""
        path = self.path(settings)
        if not path.exists():
            write_rows(path, self.columns, work())
        return read_rows(path, self.columns)


def _content(value: object) -> object:
    """What a setting is, as JSON data, whatever it is called."""
    if isinstance(value, Program):
        return program_content(value, lines=False)
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value).tobytes()
        return [value.shape, value.dtype.str, hashlib.sha256(content).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        chosen = {each.name: getattr(value, each.name) for each in fields(value)}
        return [type(value).__qualname__, chosen, _methods(type(value))]
    raise InputError(f"store: expected JSON, a program, an array or a dataclass, got {value!r}")


def _methods(kind: type) -> list[object]:
    """The bodies of a class and of those that it inherits from, which may lie in a user's file."""
    found: list[object] = []
    for each in kind.__mro__:
        for name, member in vars(each).items():
            function = getattr(member, "fget", getattr(member, "__func__", member))
            code = getattr(function, "__code__", None)
            plain = isinstance(member, bool | int | float | str | tuple)
            if code is not None or (plain and not name.startswith("__")):
                found.append([name, repr(member) if code is None else _instructions(code)])
    return found


def _instructions(code: CodeType) -> list[object]:
    """What compiled code does, wherever it was written."""
    constants = [
        _instructions(constant) if isinstance(constant, CodeType) else repr(constant)
        for constant in code.co_consts
    ]
    return [code.co_code.hex(), code.co_names, constants]


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table as CSV, whole or not at all.

    Raises:
      OSError: it can't be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[CsvRow]:
    """Read a table that `write_rows` wrote.

    Raises:
      InputError: it has other columns.
      FormatError: it is damaged.
      OSError: it can't be read.
    """
    wanted = "a table" if columns is None else f"the columns {', '.join(columns)}"
    try:
        text = path.read_bytes().decode()
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        names = rows[0] if rows else []
        if "\0" in text or not text.endswith("\n"):
            raise csv.Error("it ends in the middle of a row, or holds what no text holds")
        if len(set(names)) != len(names):
            raise csv.Error(f"two columns of one name: {', '.join(names)}")
        if columns is not None and names != list(columns):
            raise InputError(
                f"{path}: expected {wanted}, got {', '.join(names)}; remove it, and it is made anew"
            )
        short = next((row for row in rows if len(row) != len(names)), None)
        if short is not None:
            raise csv.Error(f"a row of {len(short)} cells, not {len(names)}: {shown(short)}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(
            f"{path}: expected {wanted}, got {error}; remove it, and it is made anew"
        ) from error
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]
