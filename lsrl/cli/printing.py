"""What commands print."""

import codecs
import difflib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Table
from rich.text import Text

from lsrl.errors import InputError
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.schedule import Layout


# Seconds between lines on how far something is.
EVERY = 10.0
# What an encoding lacks is written so; other characters by their number.
_PLAIN = {"φ": "phi", "σ": "sigma", "×": "x", "…": "...", "≤": "<=", "≥": ">=", "→": "->"}


def print_all() -> None:
    """Let standard output and errors take every character, whatever the terminal's encoding."""

    def plainly(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        character = error.object[error.start]
        if character in _PLAIN:
            return _PLAIN[character], error.start + 1
        return codecs.backslashreplace_errors(error)

    codecs.register_error("lsrl", plainly)
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lsrl")


class _Console(Console):
    """A console on which nothing is cut off, and a closed pipe is an error like any other."""

    def on_broken_pipe(self) -> None:
        """Leave it to whoever answers errors."""
        raise BrokenPipeError


def say(text: str, style: str | None = None, stderr: bool = False) -> None:
    """Print text as it is: brackets are no markup, and lines are not broken."""
    _Console(stderr=stderr).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def say_json(rows: Iterable[Mapping[str, object]]) -> None:
    """Print rows as JSON, in characters that every terminal has."""
    say(json.dumps(list(rows), indent=2))


def cell(text: str) -> Text:
    """What a table shows in a cell: text as it is, in the characters that the terminal has."""
    encoding = sys.stdout.encoding
    return Text(text.encode(encoding, "lsrl").decode(encoding))


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or wider where a word would be cut.

    Columns share what is left of the width as they need it: rich's own way would cut long words of
    one column while another one has room.
    """
    console = _Console()
    unlimited = console.options.update(max_width=sys.maxsize)
    sizes = [
        [Measurement.get(console, unlimited, text) for text in (column.header, *column.cells)]
        for column in table.columns
    ]
    least = [max(size.minimum for size in column) for column in sizes]
    wanted = [
        max(size.maximum for size in column) - few for column, few in zip(sizes, least, strict=True)
    ]
    borders = 3 * len(sizes) + 1
    room = max(0, console.width - borders - sum(least))
    share = min(1.0, room / max(1, sum(wanted)))
    for column, few, more in zip(table.columns, least, wanted, strict=True):
        column.width = few + int(share * more)
    _Console(width=sum(least) + sum(wanted) + borders).print(table)


def status(text: str) -> Status:
    """Shows on a terminal what is being done: a context."""
    return _Console(stderr=True).status(Text(text))


class _Lines(Progress):
    """Says how far something is, in a line now and then, where no bar can be drawn."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self._told = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Note how far a task is, and perhaps say it."""
        super().update(task_id, **changes)
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            task = self._tasks[task_id]
            total = "" if task.total is None else f" of {task.total:g}"
            say(f"{task.description}: {task.completed:g}{total}", stderr=True)


def progress() -> Progress:
    """Shows how far something is: a context."""
    console = _Console(stderr=True)
    if not console.is_terminal:
        return _Lines(console)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def headline(model: "Model") -> str:
    """What a message about a model begins with."""
    return f"{model.program.name} on {model.target}, {model.dtype}"


def layers_table(model: "Model") -> Table:
    """Every layer of a model with the signal in every channel."""
    table = Table("layer", "width", "kind", "channels", title=None)
    contents = zip(model.schedule.layers, model.schedule.contents(), strict=True)
    for number, (layer, groups) in enumerate(contents, start=1):
        for position, (kind, names) in enumerate(groups):
            place = ("", "") if position else (str(number), str(layer.width))
            last = position == len(groups) - 1
            table.add_row(*place, kind, cell(", ".join(names)), end_section=last)
    return table


class Dumps:
    """Prints what chosen passes make, while a program is compiled: the `watch` of `compile`."""

    def __init__(self, chosen: Iterable[str]) -> None:
        """By the names of passes; "schedule" stands for the layers."""
        self._chosen = tuple(chosen)
        self._runs: Counter[str] = Counter()

    def __call__(self, name: str, made: "Graph | Layout") -> None:
        """Print it if it was asked for."""
        self._runs[name] += 1
        if name in self._chosen:
            text = made.dump(details=True) if isinstance(made, Graph) else layers_text(made)
            say(f"after {name}, run {self._runs[name]}:\n{text}\n")

    def check(self, about: str) -> None:
        """Raise InputError if what was asked for did not run; lists what did."""
        unknown = [name for name in self._chosen if name not in self._runs]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._runs, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "what ran follows from the target"
            ran = f"expected one of {', '.join(self._runs)}; {hint}"
            raise InputError(
                f"{about}: no pass {unknown[0]!r} ran: "
                + (ran if self._runs else "a saved model is compiled already; give a --target")
            )


def layers_text(layout: "Layout") -> str:
    """Every layer with its groups of channels, one a line."""
    return "\n".join(
        f"layer {number:<3} {kind}: {', '.join(names)}"
        for number, groups in enumerate(layout.contents(), start=1)
        for kind, names in groups
    )


def columns_text(columns: Mapping[str, Array]) -> str:
    """Arrays (time,) or (time, width) side by side, one line a token."""
    texts = []
    for name, array in columns.items():
        rows = array.reshape(len(array), -1).tolist()
        cells = [name, *(" ".join(f"{float(value):.7g}" for value in row) for row in rows)]
        width = max(map(len, cells))
        texts.append([cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(cells) for cells in zip(*texts, strict=True))
