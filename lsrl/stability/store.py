"""Results that survive a kill: each finished task is one file, keyed by all that it depends on.

Programs, arrays, perturbations and functions count by their content, and so does the code of this
package: what was measured of another program under the same name is not served again.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from lsrl import cache
from lsrl.arguments import shown
from lsrl.errors import FormatError, InputError
from lsrl.folders import replace_file
from lsrl.stability.content import content

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
        """Where the task of these settings (see `lsrl.stability.content`) is kept."""
        made = {"code": cache.code(), **{name: version(name) for name in ("lsrl", "jax", "numpy")}}
        text = json.dumps([settings, made], sort_keys=True, default=content)
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
