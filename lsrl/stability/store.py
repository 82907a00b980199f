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
from typing import cast

from lsrl import cache, schema, sealed
from lsrl.errors import FormatError, InputError
from lsrl.folders import replace_file
from lsrl.schema import FieldError, Reader
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
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

    def has(self, settings: Mapping[str, object]) -> bool:
        """Whether the task is finished."""
        return self.path(settings).exists()

    def rows(
        self, settings: Mapping[str, object], work: Callable[[], Sequence[Mapping[str, object]]]
    ) -> list[CsvRow]:
        """The rows of a task; it is run if it is not finished yet.

        Raises:
          InputError: the task is kept with other columns.
          FormatError: what is kept of it is damaged.
          OSError: it can't be read or written.
        """
        path = self.path(settings)
        if not path.exists():
            write_part(path, self.columns, work())
        return read_part(path, self.columns)


def write_part(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Keep the rows of a task as JSON with a checksum, each cell as a table has it.

    Raises:
      OSError: they can't be written.
    """
    header, *cells = csv.reader(io.StringIO(_table(columns, rows), newline=""))
    content = sealed.seal(_FORM, {"columns": header, "rows": cells})
    replace_file(path, (json.dumps(content, indent=0) + "\n").encode())


def read_part(path: Path, columns: Sequence[str]) -> list[CsvRow]:
    """Read what `write_part` wrote.

    Raises:
      InputError: it has other columns.
      FormatError: it is damaged.
      OSError: it can't be read.
    """
    try:
        said = _PART(sealed.unseal(_FORM, schema.parse(path.read_bytes())))
        names = cast(tuple[str, ...], said["columns"])
        rows = schema.listed(schema.listed(schema.text, len(names)))(said["rows"])
    except FieldError as error:
        raise FormatError(
            f"{path}: expected a finished task, got something else: {error}; remove it, and it is "
            "made anew"
        ) from error
    if names != tuple(columns):
        raise InputError(
            f"{path}: expected the columns {', '.join(columns)}, got {', '.join(names)}; remove "
            "it, and it is made anew"
        )
    return [dict(zip(names, row, strict=True)) for row in rows]


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table as CSV, whole or not at all.

    Raises:
      OSError: it can't be written.
    """
    replace_file(path, _table(columns, rows).encode())


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_FORM = sealed.Form("lsrl-part", 1)
_PART: Reader[dict[str, object]] = schema.record(
    {"columns": schema.listed(schema.text), "rows": schema.anything}
)
