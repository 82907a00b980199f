"""Words of a machine's text: how a line is cut into them, and the numbers that they mean."""

import ast
import re
from collections.abc import Callable

from lsrl.errors import AssemblyError

# Strings and characters are of one piece, whatever is in them; the rest of a line is a comment.
_STRING, _LETTER = r'"(?:\\.|[^"\\])*"', r"'(?:\\.|[^'\\])'"
_WORD = re.compile(rf"(?:{_STRING}|{_LETTER}|[^\s,;#\"'])+|[\"'].*|;")
_PIECE = re.compile(rf"\s*({_LETTER}|0x[0-9a-fA-F]+|\d+|[^\W\d][\w.·]*|[-+*()]|.)")
LABEL = re.compile(r"([^\W\d][\w.·]*):")
NAME = re.compile(r"(?<!\w)[^\W\d][\w.·]*")
# Of one word of a text.
_PIECES, _DIGITS = 256, 80


def words_of(text: str, line: int) -> list[str]:
    """The words of a line, without its comment; a semicolon is a word.

    Raises:
      AssemblyError: a quote is not shut.
    """
    words: list[str] = []
    place = 0
    while place < len(text):
        if text[place] == "#":
            break
        found = _WORD.match(text, place)
        if found is None:
            place += 1
            continue
        word, place = found[0], found.end()
        if word[0] in "\"'" and not re.fullmatch(rf"({_STRING}|{_LETTER}).*", word):
            raise AssemblyError(line, f"{word!r} begins with a quote that nothing shuts; shut it")
        words.append(word)
    return words


def codes_of(word: str, line: int) -> list[int]:
    """The codes of the letters of a string or of a quoted letter.

    Raises:
      AssemblyError: a letter has no code, or a backslash means nothing.
    """
    try:
        return list(ast.literal_eval(word).encode("latin-1"))
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise AssemblyError(
            line, f"{letter!r} has no code from 0 to 255; write another letter, or numbers"
        ) from None
    except (SyntaxError, ValueError):
        raise AssemblyError(
            line, f"{word!r:.60}: a backslash that means nothing; write two for one, or as in \\x41"
        ) from None


def is_string(word: str) -> bool:
    """Whether a word stands for several numbers."""
    return word.startswith('"')


def number(word: str, value: Callable[[str], int | None], line: int) -> int:
    """The number that a word means: sums and products of numbers, letters and names.

    Args:
      word: such as "table+2*3", "-1", "'a'-32".
      value: of a name; None if there is none of that name.
      line: of the text, for errors.

    Returns:
      The number.

    Raises:
      AssemblyError: it is no such word, or a name is unknown.
    """
    pieces = [piece for piece in _PIECE.findall(word) if piece]
    place = 0
    if len(pieces) > _PIECES or any(len(piece) > _DIGITS and piece.isalnum() for piece in pieces):
        raise AssemblyError(
            line,
            f"{word!r:.60}… is longer than any word needs: expected up to {_PIECES} numbers, names "
            f"and signs of up to {_DIGITS} letters; name parts of it with .equ",
        )

    def take() -> str:
        nonlocal place
        place += 1
        return pieces[place - 1] if place <= len(pieces) else ""

    def single() -> int:
        piece = take()
        if piece == "-":
            return -single()
        if piece == "(":
            inner = total()
            if take() == ")":
                return inner
        elif piece[:1].isdecimal():
            return int(piece, 0) if piece.startswith("0x") else int(piece)
        elif piece[:1] == "'" and len(piece) > 1:
            return codes_of(piece, line)[0]
        elif NAME.fullmatch(piece):
            found = value(piece)
            if found is not None:
                return found
            raise AssemblyError(line, f"{piece!r} is no label, constant or macro; write {piece}:")
        raise AssemblyError(
            line,
            f"{word!r:.60} is no number; expected sums and products of numbers, letters and "
            "labels, without blanks, such as table+2",
        )

    def product() -> int:
        result = single()
        while place < len(pieces) and pieces[place] == "*":
            take()
            result *= single()
        return result

    def total() -> int:
        result = product()
        while place < len(pieces) and pieces[place] in "+-":
            sign = 1 if take() == "+" else -1
            result += sign * product()
        return result

    result = total()
    if place < len(pieces):
        raise AssemblyError(
            line,
            f"{word!r:.60}: nothing was expected at {pieces[place]!r}; write +, - or * between "
            "whole numbers and names, which begin with a letter",
        )
    return result
