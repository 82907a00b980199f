"""The text of the expression that a frame is at, of the user's program."""

import ast
import itertools
import linecache
from functools import lru_cache
from types import CodeType, FrameType

# The longest text that is kept whole.
LONGEST = 40
# What begins strings and comments.
_TEXTS = frozenset("'\"#")


class Expressions:
    """Looks expressions up, each place of the code once."""

    def __init__(self) -> None:
        """Know of none yet."""
        # The code is held, since the number of one that is gone may come again.
        self._known: dict[tuple[int, int], tuple[CodeType, str]] = {}

    def at(self, frame: FrameType) -> str:
        """What a frame works out, on one line and not too long; "" where the text isn't known."""
        key = id(frame.f_code), frame.f_lasti
        if key not in self._known:
            self._known[key] = frame.f_code, _shortened(_expression(frame))
        return self._known[key][1]


def _expression(frame: FrameType) -> str:
    # An instruction takes two bytes.
    place = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if place is None or None in place:  # Python was told to keep no columns
        return ""
    first, last, start, end = (number or 0 for number in place)
    file = frame.f_code.co_filename
    lines = [
        linecache.getline(file, number, frame.f_globals).encode()
        for number in range(first, last + 1)
    ]
    # Columns count bytes; the end comes first, as it may be on the first line.
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    try:
        return _written(b"".join(lines).decode())
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, MemoryError):
        return ""  # the file is another one than was run


@lru_cache(maxsize=4096)
def _written(text: str) -> str:
    """An expression on one line; "" for what is a statement and has no value."""
    try:
        tree = ast.parse(f"({text}\n)", mode="eval")  # it may go over several lines
    except SyntaxError:
        (statement,) = ast.parse(text).body
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            name = ast.Name(statement.target.id)
            return ast.unparse(ast.BinOp(name, statement.op, statement.value))
        return ""
    # Strings keep their blanks, and comments go; to print a tree takes longer than to record it.
    return ast.unparse(tree) if {*text} & _TEXTS else _one_line(text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    for bracket in "([{":
        line = line.replace(f"{bracket} ", bracket)
    for bracket in ")]}":
        line = line.replace(f", {bracket}", bracket).replace(f" {bracket}", bracket)
    return line


def _shortened(text: str) -> str:
    """Cut between words, if need be."""
    if len(text) <= LONGEST:
        return text
    start = text[: LONGEST - 1]
    word = start.rfind(" ")
    return f"{start[:word] if word > LONGEST // 2 else start}…"
