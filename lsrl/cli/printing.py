"""What commands print."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.model import Model


def say(text: str, style: str | None = None, stderr: bool = False) -> None:
    """Print text as it is: brackets are no markup, and lines are not broken."""
    Console(stderr=stderr).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def plain(text: str) -> Any:
    """Text for a table, whose brackets are no markup."""
    from rich.text import Text

    return Text(text)


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
                plain(", ".join(names)),
                end_section=position == len(groups) - 1,
            )
    return table


def columns_text(columns: Mapping[str, Array]) -> str:
    """Arrays (time,) or (time, width) side by side, one line a token."""
    texts = []
    for name, array in columns.items():
        rows = array.reshape(len(array), -1).tolist()
        cells = [name, *(" ".join(f"{float(value):.7g}" for value in row) for row in rows)]
        width = max(map(len, cells))
        texts.append([cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(cells) for cells in zip(*texts, strict=True))
