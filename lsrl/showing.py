"""How things show themselves in notebooks: as HTML of plain data, in the notebook's own colours."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# What is longer says how much longer: a notebook keeps all that it shows.
MOST_ROWS, MOST_LETTERS = 40, 400

# Lines are half transparent and text has the colour of what is around, so both themes are served.
# The class stands twice so that our rules go before those that a notebook has for its tables.
_STYLE = (
    ".lsrl-card{overflow-x:auto;line-height:1.4}"
    ".lsrl-card.lsrl-card table{border-collapse:collapse;margin:.3em 0 .8em}"
    ".lsrl-card.lsrl-card th,.lsrl-card.lsrl-card td{text-align:left;vertical-align:top;"
    "padding:.15em 1em .15em 0;border-bottom:1px solid #8884;background:none}"
    ".lsrl-card.lsrl-card td{max-width:44em;overflow-wrap:break-word;white-space:pre-line}"
    ".lsrl-card.lsrl-card th{font-weight:600;opacity:.75;white-space:nowrap}"
    ".lsrl-card summary{cursor:pointer}"
)


class Table(NamedTuple):
    """Rows to show.

    Attributes:
      title: what can be clicked to see them, or not to.
      columns: their names.
      rows: a text or a number a column.
      shut: whether they are seen only when asked for.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    shut: bool = False


def card(
    title: str, facts: Iterable[tuple[str, str]] = (), *tables: Table, text: str = "", svg: str = ""
) -> str:
    """HTML of something: a title, what is known of it, and tables.

    Args:
      title: in bold.
      facts: names and what is said of them.
      *tables: below these.
      text: below the title.
      svg: a picture above the tables, which is HTML already; all else is escaped.
    """
    head = f"<p><strong>{_text(title)}</strong></p>{f'<p>{_text(text)}</p>' if text else ''}"
    known = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in facts
    )
    known = f"<table><tbody>{known}</tbody></table>" if known else ""
    shown = "".join(map(_table, tables))
    return f'<div class="lsrl-card"><style>{_STYLE}</style>{head}{known}{svg}{shown}</div>'


def frame(page: str, title: str, height: int = 640) -> str:
    """HTML of a page inside another, which it can neither read nor change.

    Args:
      page: a whole page.
      title: what screen readers say of it.
      height: in pixels.
    """
    return (
        f'<iframe title="{html.escape(title)}" sandbox="allow-scripts" srcdoc="{html.escape(page)}"'
        f' style="box-sizing:border-box;width:100%;height:{height}px;border:1px solid #8884">'
        "</iframe>"
    )


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{_text(column)}</th>' for column in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>"
        for row in table.rows[:MOST_ROWS]
    )
    rest = len(table.rows) - MOST_ROWS
    more = f"<p>… {rest:,} more</p>" if rest > 0 else ""
    shut = "" if table.shut else " open"
    return (
        f"<details{shut}><summary>{_text(table.title)}</summary><table><thead><tr>{heads}</tr>"
        f"</thead><tbody>{rows}</tbody></table>{more}</details>"
    )


def _text(value: object) -> str:
    text = str(value)[: 4 * MOST_LETTERS]
    # Source lines go without the folders of the machine: notebooks are passed on.
    text = re.sub(r"(?<![^\s(])[^\s(]*[/\\](?=[^\s/\\]+:\d)", "", text)
    return html.escape(text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…")
