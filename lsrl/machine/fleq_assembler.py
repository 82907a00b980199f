"""FLEQ as text."""

import re
from collections.abc import Iterable

import numpy as np

from lsrl.errors import AssemblyError
from lsrl.machine.fleq import Cell, FleqImage, Line
from lsrl.machine.words import LABEL, NAME

_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?")
_Names = tuple[str, str, str, str, str]  # function, a, b, c, flag
_FORMS = "'c = f a b', 'c = f a', 'c = a', 'goto LABEL' or one of the first three and 'if x goto L'"


def assemble_fleq(text: Iterable[tuple[int, list[str]]]) -> FleqImage:
    """The cells and lines of a FLEQ text; `lsrl.machine.assemble` tells the form.

    Args:
      text: number and words of each line.

    Returns:
      The image.

    Raises:
      AssemblyError: a line has a fault; says which, what and how to mend it.
    """
    reader = _Reader()
    for number, words in text:
        while words and (label := LABEL.fullmatch(words[0])):
            reader.label(label[1], number)
            words = words[1:]
        if words[:1] == [".cell"]:
            reader.declare(words[1:], number)
        elif words and words != [".fleq"]:
            reader.instruction(words, number)
    return reader.image()


class _Reader:
    """Reads line by line; where jumps go is known at the end."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.labels: dict[str, int] = {}
        self.lines: list[tuple[_Names, str, int]] = []  # where to, line of the text

    def label(self, name: str, line: int) -> None:
        if name in self.labels or name == "halt":
            raise AssemblyError(line, f"label {name!r} is taken; rename it")
        self.labels[name] = len(self.lines)

    def declare(self, words: list[str], line: int) -> None:
        """`.cell name number`, or rows of numbers, which semicolons part."""
        name, rows = (words or [""])[0], _rows(words[1:] or ["0"])
        if not (NAME.fullmatch(name) or _NUMBER.fullmatch(name)):
            raise AssemblyError(line, f".cell: expected a name, got {name!r}")
        if name in self.cells:
            raise AssemblyError(
                line,
                f".cell: {name!r} is a cell already; declare it once, above its first use",
            )
        for word in (word for row in rows for word in row):
            if not _NUMBER.fullmatch(word):
                raise AssemblyError(line, f".cell {name}: expected numbers, got {word!r}")
        if len({len(row) for row in rows}) > 1:
            raise AssemblyError(
                line,
                f".cell {name}: expected rows of one length, got {[len(row) for row in rows]}",
            )
        numbers = np.array([[_float32(word, line) for word in row] for row in rows], np.float32)
        if _NUMBER.fullmatch(name) and numbers.tolist() != [[_float32(name, line)]]:
            raise AssemblyError(line, f".cell {name}: a number holds itself; choose a name")
        self.cells[name] = numbers if numbers.size > 1 else numbers.reshape(())

    def instruction(self, words: list[str], line: int) -> None:
        flag, to = "1", "halt"
        match words:
            case ["goto", to]:
                words, flag = ["0", "=", "0"], "0"
            case [*words, "if", flag, "goto", to]:
                pass
        match words:
            case _ if {"if", "goto"} & set(words):
                raise AssemblyError(line, f"expected {_FORMS}, got {' '.join(words)!r:.60}")
            case [c, "=", a]:
                names = "add", a, "0", c, flag
            case [c, "=", function, a]:
                names = function, a, a, c, flag
            case [c, "=", function, a, b]:
                names = function, a, b, c, flag
            case _:
                raise AssemblyError(line, f"expected {_FORMS}, got {' '.join(words)!r:.60}")
        if _NUMBER.fullmatch(names[3]) and names[:4] != ("add", "0", "0", "0"):
            raise AssemblyError(line, f"{names[3]!r} is a number, which stays; write to a name")
        for cell in names[1:]:
            self._cell(cell, line)
        self.lines.append((names, to, line))

    def _cell(self, name: str, line: int) -> None:
        """A cell that is used: a number is one that holds it, a name unheard of holds 0."""
        if _NUMBER.fullmatch(name):
            self.cells.setdefault(name, np.array(_float32(name, line)))
        elif NAME.fullmatch(name):
            self.cells.setdefault(name, np.array(0, np.float32))
        else:
            raise AssemblyError(line, f"expected the name of a cell or a number, got {name!r}")

    def image(self) -> FleqImage:
        """The image, once all lines are read; what falls off the end of the text halts."""
        *_, flag, line = (*self.lines[-1][0], self.lines[-1][2]) if self.lines else ("1", 1)
        if flag != "0" or len(self.lines) in self.labels.values():
            self.instruction(["goto", "halt"], line)
        lines = []
        for names, to, line in self.lines:
            if to != "halt" and to not in self.labels:
                raise AssemblyError(line, f"{to!r} is no label; write {to}: ahead of a line")
            lines.append(Line(*names, None if to == "halt" else self.labels[to], line))
        return FleqImage(self.cells, lines, self.labels)


def _float32(word: str, line: int) -> np.float32:
    """The float32 that is next to a number.

    Raises:
      AssemblyError: it is larger than any.
    """
    with np.errstate(over="ignore"):
        found = np.float32(word)
    if not np.isfinite(found):
        raise AssemblyError(line, f"{word!r:.60} is larger than float32 holds; write less")
    return found


def _rows(words: list[str]) -> list[list[str]]:
    rows: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            rows.append([])
        else:
            rows[-1].append(word)
    return rows


def fleq_text(image: FleqImage) -> str:
    """The text of a FLEQ image, which `assemble` makes into the same image."""
    written = [f".cell {name} {_numbers_text(cell)}" for name, cell in image.cells.items()]
    names = {number: label for label, number in image.labels.items()}
    for line in image.lines:
        if line.to is not None:
            names.setdefault(line.to, f"at{line.to}")
    for number, line in enumerate(image.lines):
        what = f"{line.c} = {line.function} {line.a} {line.b}"
        to = "halt" if line.to is None else names[line.to]
        jump = "" if line.flag == "1" and to == "halt" else f" if {line.flag} goto {to}"
        label = f"{names[number]}:" if number in names else ""
        written.append(f"{label:7} {what + jump:40} # {number}")
    return "\n".join([".fleq", *written]) + "\n"


def _numbers_text(cell: Cell) -> str:
    rows = cell.reshape(1, 1) if cell.ndim == 0 else cell
    return "; ".join(" ".join(f"{float(number):.9g}" for number in row) for row in rows)
