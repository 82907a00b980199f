"""SUBLEQ as text: the assembler, and back."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from lsrl.arguments import shown
from lsrl.errors import AssemblyError, InputError
from lsrl.machine.checks import MOST_CELLS
from lsrl.machine.fleq import FleqImage
from lsrl.machine.fleq_assembler import assemble_fleq
from lsrl.machine.image import Image
from lsrl.machine.words import LABEL, NAME, codes_of, is_string, number, words_of

# What every text may say: where keys come from and letters go to, and where a machine halts.
KNOWN = {"in": -1, "out": -1, "halt": -1}
DEEPEST = 20  # macros in macros


@dataclass(frozen=True)
class _Word:
    """A word that is not a number yet."""

    text: str
    line: int
    here: int  # its address
    next: int  # the address after its instruction, or after itself


@dataclass
class _Macro:
    """Lines to write wherever the name stands, with other parameters."""

    name: str
    parameters: list[str]
    line: int
    body: list[tuple[int, list[str]]] = field(default_factory=list)


def assemble(text: str) -> Image | FleqImage:
    """The memory image of a text: of a SUBLEQ machine, or of a FLEQ one if it begins with `.fleq`.

    SUBLEQ: a line is an instruction of one to three words, `a b c`: mem[b] -= mem[a], and where
    that is not above 0, go to c. Without c it goes on, without b it sets a to 0. A word is a sum or
    product of numbers, letters and labels without blanks. Behind `#` stands a comment.

        start:  greeting out        # a label, and an instruction; what goes to `out` is printed
        .org 100                    # what follows goes to this address
        table:  .data 1 -2 'c' "text" table+1
        .space 8                    # so many zeros
        .equ size 8                 # a name for a number
        .macro clear what           # lines to write at `clear x`; its labels are its own
                what what
        .end

    `in` and `out` are -1, whence keys come and whither letters go; `halt` is -1, where a machine
    stops; `here` is the address of the word itself and `next` that of the next instruction.

    FLEQ: a line is `c = f a b`, of cells by name; a number is a cell that holds it, and a cell that
    is not declared holds 0.

        .fleq
        .cell x 7                   # what a cell holds: a number, or rows of a matrix: 1 2; 3 4
        again:  r = mul x r         # a function of the machine; with one operand, of it twice
                y = x               # x + 0
                n = sub n 1 if n goto halt   # where n is not above 0, after the write
                goto again

    Args:
      text: the lines.

    Returns:
      The image: a dict from address to number, or the cells and lines of a FLEQ machine.

    Raises:
      AssemblyError: a line has a fault; says which, what and how to mend it.
      InputError: it is no text.

    Example:
      print(image.address("x"), dict(image))
    """
    if not isinstance(text, str):
        raise InputError(
            f"assemble: expected the text itself, a str, got {type(text).__name__}; of a file, "
            "pass pathlib.Path(file).read_text()"
        )
    written = [(line, words_of(each, line)) for line, each in enumerate(text.splitlines(), 1)]
    if next((words for _, words in written if words), None) == [".fleq"]:
        return assemble_fleq(written)
    reader = _Reader()
    for line, words in written:
        for statement in _statements(words):
            reader.read(line, statement)
    return reader.image()


def _statements(words: list[str]) -> list[list[str]]:
    """The statements of a line, which semicolons part."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


class _Reader:
    """Reads line by line; what words mean is known at the end."""

    def __init__(self) -> None:
        self.words: dict[int, _Word] = {}
        self.labels: dict[str, tuple[int, int]] = {}  # address, line
        self.constants: dict[str, int] = dict(KNOWN)
        self.macros: dict[str, _Macro] = {}
        self.open: _Macro | None = None
        self.place = self.copies = 0

    def read(self, line: int, words: list[str], depth: int = 0) -> None:
        """Take one statement in."""
        if self.open is not None:
            self._of_macro(line, words)
            return
        while words and (label := LABEL.match(words[0])):
            self._label(label[1], line)
            behind = words[0][label.end() :]
            words = [behind, *words[1:]] if behind else words[1:]
        if not words:
            return
        first, rest = words[0], words[1:]
        if first.startswith("."):
            self._directive(first, rest, line)
        elif first in self.macros:
            self._expand(self.macros[first], rest, line, depth)
        else:
            self._instruction(words, line)

    def _label(self, name: str, line: int) -> None:
        self._free(name, self.constants, line)
        if name in self.labels:
            raise AssemblyError(
                line,
                f"label {name!r} stands in line {self.labels[name][1]} already; rename one of them",
            )
        self.labels[name] = self.place, line

    def _free(self, name: str, taken: Container[str], line: int) -> None:
        """Refuse a name that means something already."""
        if name in taken or name in ("here", "next"):
            raise AssemblyError(line, f"{name!r} is taken; choose another name")

    def _directive(self, name: str, words: list[str], line: int) -> None:
        match name, words:
            case ".data", [_, *_]:
                self._data(words, line)
            case ".org", [where]:
                self.place = self._known(where, line)
            case ".space", [count]:
                zeros = self._known(count, line)
                if not 0 <= zeros <= MOST_CELLS:
                    raise AssemblyError(
                        line, f".space: expected from 0 to {MOST_CELLS} zeros, got {shown(zeros)}"
                    )
                self._data(["0"] * zeros, line)
            case ".equ", [constant, value] if NAME.fullmatch(constant):
                self._free(constant, self.labels.keys() | self.constants.keys(), line)
                self.constants[constant] = self._known(value, line)
            case ".macro", [macro, *parameters] if all(map(NAME.fullmatch, words)):
                self._free(macro, self.macros.keys() | self.constants.keys(), line)
                for place, parameter in enumerate(parameters):
                    self._free(parameter, parameters[:place], line)
                self.open = self.macros[macro] = _Macro(macro, parameters, line)
            case ".end", []:
                raise AssemblyError(line, ".end: no .macro is open; take it out")
            case _:
                expected = ".data WORD…, .org N, .space N, .equ NAME N, .macro NAME…, .end"
                got = " ".join([name, *words])
                raise AssemblyError(line, f"expected one of {expected}, got {got!r:.60}")

    def _data(self, words: list[str], line: int) -> None:
        for word in words:
            for one in map(str, codes_of(word, line)) if is_string(word) else [word]:
                self._put(_Word(one, line, self.place, self.place + 1))

    def _instruction(self, words: list[str], line: int) -> None:
        if len(words) > 3 or any(map(is_string, words)):
            raise AssemblyError(
                line,
                f"expected an instruction of 1 to 3 words, got {' '.join(words)!r:.60}; numbers "
                "and strings go after .data, and macros stand above their first use",
            )
        following = self.place + 3
        for word in [words[0], words[min(1, len(words) - 1)], *(words[2:] or ["next"])]:
            self._put(_Word(word, line, self.place, following))

    def _put(self, word: _Word) -> None:
        if self.place in self.words:
            raise AssemblyError(
                word.line,
                f"address {self.place} is taken by line {self.words[self.place].line}; choose "
                "another .org",
            )
        self.words[self.place] = word
        self.place += 1

    def _of_macro(self, line: int, words: list[str]) -> None:
        """A line of a macro that is open, or its end."""
        if self.open is not None and words[:1] == [".macro"]:
            raise AssemblyError(line, f"macro {self.open.name!r} is open; write .end above")
        if self.open is not None and words != [".end"]:
            self.open.body.append((line, words))
        else:
            self.open = None

    def _expand(self, macro: _Macro, given: Sequence[str], line: int, depth: int) -> None:
        if len(given) != len(macro.parameters):
            raise AssemblyError(
                line,
                f"macro {macro.name!r} of line {macro.line} takes {len(macro.parameters)} words "
                f"({' '.join(macro.parameters)}), got {len(given)}",
            )
        if depth == DEEPEST:
            raise AssemblyError(line, f"macro {macro.name!r} calls itself without end")
        self.copies += 1
        own = {
            label[1]: f"{label[1]}·{self.copies}"
            for _, words in macro.body
            for word in words[:1]
            if (label := LABEL.match(word))
        }
        meant = own | {
            name: word if NAME.fullmatch(word) or word.isdigit() else f"({word})"
            for name, word in zip(macro.parameters, given, strict=True)
        }
        for _, words in macro.body:
            self.read(line, [_renamed(word, meant) for word in words], depth + 1)

    def _known(self, word: str, line: int) -> int:
        """A number that is needed at once, so of labels that stand above."""
        labels = {name: address for name, (address, _) in self.labels.items()}
        return number(word, ({"here": self.place} | self.constants | labels).get, line)

    def image(self) -> Image:
        """The image, once all lines are read."""
        if self.open is not None:
            raise AssemblyError(
                self.open.line, f"macro {self.open.name!r} has no end; write .end below it"
            )
        labels = {name: address for name, (address, _) in self.labels.items()}
        names = labels | self.constants
        words = {
            address: number(
                word.text, (names | {"here": word.here, "next": word.next}).get, word.line
            )
            for address, word in self.words.items()
        }
        lines = {address: word.line for address, word in self.words.items()}
        return Image(words, {n: a for n, a in labels.items() if "·" not in n}, lines)


def _renamed(word: str, meant: Mapping[str, str]) -> str:
    """A word of a macro, with its parameters and its own labels as they are meant here."""
    if word[0] in "\"'":
        return word
    label = LABEL.match(word)
    if label and label[1] in meant:
        rest = word[label.end() :]
        return f"{meant[label[1]]}:{_renamed(rest, meant) if rest else ''}"
    return NAME.sub(lambda found: meant.get(found[0], found[0]), word)
