"""What commands print."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lsrl.errors import InputError
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.schedule import Layout


def say(text: str, style: str | None = None, stderr: bool = False) -> None:
    """Print text as it is: brackets are no markup, and lines are not broken."""
    Console(stderr=stderr).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def headline(model: "Model") -> str:
    """What a message about a model begins with."""
    return f"{model.program.name} on {model.target}, {model.dtype}"


def layers_table(model: "Model") -> Table:
    """Every layer of a model with the signal in every channel."""
    table = Table("layer", "width", "kind", "channels", title=None)
    contents = zip(model.schedule.layers, model.schedule.contents(), strict=True)
    for number, (layer, groups) in enumerate(contents, start=1):
        for position, (kind, names) in enumerate(groups):
            first = position == 0
            table.add_row(
                str(number) if first else "",
                str(layer.width) if first else "",
                kind,
                Text(", ".join(names)),
                end_section=position == len(groups) - 1,
            )
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
