"""A language model that is a computer: it reads the memory of a program, runs it, and stops."""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs

# With more cells one-hot addresses fill the stream of a residual target: they get two digits.
LARGEST_ONE_HOT = 36
COLUMNS = 16
# A character's code is a value modulo this.
CODES = 256

# Conditions on each cell, all of which must hold: a matrix (cells, n) times a {0,1} signal (n).
Marks = list[tuple[Array, Signal]]


@dataclass(frozen=True)
class _Words:
    """The vocabulary: `@0` … `@-1`, `>0` … `halt`, `=0` … `=-1`, and the characters.

    Numbers count from 0 modulo 2^bits, so the last is -1. Characters count backwards, so that an
    answer to `@b` is the first of its kind plus mem[b] - mem[a], be it `=v` or a character, for
    which there is no mem[b].

    Attributes:
      cells: of the memory.
      bits: of a cell.
    """

    cells: int
    bits: int

    @property
    def numbers(self) -> int:
        """How many there are, and how many characters."""
        return 1 << self.bits

    @property
    def starts(self) -> tuple[int, int, int, int, int]:
        """The tokens `@0`, `>0`, `=0` and the first character, and how many there are in all."""
        value = 2 * (self.cells + 1)
        return 0, self.cells + 1, value, value + self.numbers, value + 2 * self.numbers

    @property
    def halt(self) -> int:
        """The token that ends a text; it follows `>` of the last cell."""
        return self.starts[2] - 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A word for each token."""
        cells = range(self.cells)
        signed = [self.signed(number) for number in range(self.numbers)]
        # As Python writes them, in ASCII and without blanks.
        characters = [ascii(chr(number % CODES)).replace(" ", r"\x20") for number in signed]
        return (
            *(f"@{cell}" for cell in cells), "@-1",
            *(f">{cell}" for cell in cells), "halt",
            *(f"={number}" for number in signed),
            characters[0], *reversed(characters[1:]),
        )  # fmt: skip

    def signed(self, number: int) -> int:
        """A number from 0 on in two's complement."""
        return number - self.numbers if number >= self.numbers // 2 else number

    def table(self, kind: int, values: object) -> Array:
        """A table over all tokens, 0 but for these values from the start of a kind on."""
        given = np.asarray(values, dtype=np.float64)
        found = np.zeros(self.starts[-1])
        found[self.starts[kind] :][: len(given)] = given
        return found

    @property
    def address(self) -> Array:
        """1 at `@…`, `@-1` included."""
        return self.table(0, np.ones(self.cells + 1))

    @property
    def start(self) -> Array:
        """1 at `>…`."""
        return self.table(1, np.ones(self.cells))

    @property
    def first(self) -> Array:
        """By token, the first of the words that can follow it; `halt` follows itself."""
        address, start, value, character, _ = self.starts
        found = np.full(self.starts[-1], float(start))
        found[: self.cells], found[self.cells] = value, character
        found[start : self.halt], found[self.halt] = address, self.halt
        return found

    @property
    def place(self) -> Array:
        """By token, which cell is read: i of `@i`, and p + 1 of `>p`; else -1."""
        cells = np.arange(self.cells)
        return self.table(0, cells + 1) + self.table(1, cells + 2) - 1


def _words(cells: object, bits: object) -> _Words:
    """The vocabulary of these parameters.

    Raises:
      ProgramError: a parameter out of range.
    """
    size = checks.integer("bits", bits, 3, 8)
    return _Words(checks.integer("cells", cells, 3, 1 << (size - 1)), size)


def subleq_lm(cells: int = 32, bits: int = 8, max_length: int | None = None) -> Program:
    """SUBLEQ as a language model: the text is a program's memory, and then what the program does.

    Input: words. `@3 =7` writes 7 to cell 3, `>6` starts the instruction at cells 6 to 8. Memory is
    0 at first; numbers have `bits` bits, in two's complement. Output: the next word. After `>p`,
    where the cells from p on hold a, b and c, come `@b`, then `=v`, where v is mem[b] - mem[a] and
    is written to cell b, then `>c` if v <= 0, else `>` and p + 3. With no such cell to go on at it
    is `halt`. With no such cell b it is `@-1`, then the character mem[a], such as `'A'`, then `>`
    and p + 3. With no such cell a, mem[a] is 0. So a text that ends in `>0` runs the program.

    Every text is legal: what comes behind `@3` is written, as 0 if it is no number, and where no
    `>p` is in its place, a, c and p + 3 are 0.

    Shows: a language model that runs the program in its prompt, memory and all, by saying one word
    after another (Giannou et al. 2023).

    Args:
      cells: of the memory, from 3 to 2^(bits - 1).
      bits: of a cell, from 3 to 8.
      max_length: greatest number of words, or None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Giannou et al. (2023), "Looped Transformers as Programmable Computers", arXiv
    2301.13196.
    """
    words = _words(cells, bits)
    symbol, length = Token(words.starts[-1], words.names), checks.optional_length(max_length)
    feedback = lsrl.Feedback("token", output=0, halt=(0, "==", words.halt))
    size, numbers = words.cells, words.numbers
    signed = np.array([words.signed(number) for number in range(numbers)])

    @lsrl.program(max_length=length, feedback=feedback)
    def subleq_lm(token: Annotated[Signal, symbol]) -> Annotated[Signal, symbol]:
        start = lsrl.lookup(token, words.start)
        address = lsrl.lookup(token, words.address)

        # What is behind `@b` is written one word later, which is early enough. Delayed, a value is
        # one channel of the embedding, and not one a cell.
        value = lsrl.delay(lsrl.lookup(token, words.table(2, np.arange(numbers))), 1)
        memory = lsrl.hold(np.ones((size, 1)) @ value, _written(words, token))

        # At `>p` these are b, a and c; at `@b` the first is mem[b].
        read = _picked(memory, _marks(words, token), numbers)
        a = _picked(memory, _marks(words, token, 1, words.start), numbers)
        c = _picked(memory, _marks(words, token, -1, words.start), numbers)

        # At `@b`, mem[a]. Counted from 1, as 0 is where there was no a.
        marks = _decoded(words, lsrl.delay(a + start, 1))
        taken = _picked(memory, [*marks, (np.ones((size, 1)), address)], numbers)
        difference = read - taken
        borrow = lsrl.bound(lsrl.relu(-difference) - lsrl.relu(-difference - 1), 0, 1)
        beyond = lsrl.relu(read - size - numbers * (1 - start))

        # At `=v`; a character is no reason to jump.
        jump = lsrl.lookup(token, words.table(2, signed <= 0))
        stay = lsrl.lookup(token, words.table(2, np.append(signed > 0, np.ones(numbers))))
        onward = lsrl.lookup(token, words.table(1, np.minimum(np.arange(size) + 3, size)))
        target = lsrl.select(jump, lsrl.delay(lsrl.minimum(c, size), 2), 0, via="gate")
        target += lsrl.select(stay, lsrl.delay(onward, 2), 0, via="gate")

        answer = lsrl.lookup(token, words.first) + difference + numbers * borrow - beyond + target
        return lsrl.bound(answer, 0, words.starts[-1] - 1)

    return subleq_lm


def _marks(words: _Words, token: Signal, shift: int = 0, kind: Array | None = None) -> Marks:
    """The cell that is `shift` before the one that a word reads; of words of a kind alone."""
    cells, place = np.arange(words.cells) + shift, words.place
    if words.cells <= LARGEST_ONE_HOT:
        meant = (place[:, None] == cells) & (cells >= 0)
        table = meant if kind is None else meant * kind[:, None]
        return [(np.eye(words.cells), lsrl.lookup(token, table))]
    rows, columns = np.arange(words.cells // COLUMNS + 1), np.arange(COLUMNS)
    found = []
    for digits, digit, its in (
        (rows, place // COLUMNS, cells // COLUMNS),
        (columns, place % COLUMNS, cells % COLUMNS),
    ):
        signal = lsrl.lookup(token, (digit[:, None] == digits) & (place >= 0)[:, None])
        found.append(((its[:, None] == digits) & (cells >= 0)[:, None], signal))
    if kind is not None:
        found.append((np.ones((words.cells, 1)), lsrl.lookup(token, kind)))
    return found


def _all_hold(marks: Marks, values: Signal | None = None, most: int = 1) -> Signal:
    """ReLUs, one a cell: its value, of at most `most`, where all that marks it is 1; else 0.

    As one matrix over all that it reads: apart, marks would become a table with a channel a cell.
    """
    parts = [(most * matrix, signal) for matrix, signal in marks]
    offset = most * len(marks)
    if values is None:
        offset -= most
    else:
        parts.append((np.eye(values.width), values))
    matrix = np.concatenate([matrix for matrix, _ in parts], axis=1)
    return lsrl.relu(matrix @ lsrl.concat(*(signal for _, signal in parts)) - offset)


def _written(words: _Words, token: Signal) -> Signal:
    """1 for the cell of `@…` two words ago."""
    marks = _marks(words, token, 0, words.table(0, np.ones(words.cells)))
    late = [(matrix, lsrl.delay(signal, 2)) for matrix, signal in marks]
    return late[0][1] if len(late) == 1 else lsrl.bound(_all_hold(late), 0, 1)


def _picked(memory: Signal, marks: Marks, numbers: int) -> Signal:
    """The cell that is marked, or 0."""
    if len(marks) == 1:
        # A residual target opens gates as it writes the cells.
        chosen = lsrl.select(marks[0][1], memory, 0, via="gate")
    else:
        chosen = _all_hold(marks, memory, numbers - 1)
    return lsrl.bound(chosen.sum(), 0, numbers - 1)


def _decoded(words: _Words, index: Signal) -> Marks:
    """The cell of an index that counts from 1; none for others."""
    size = words.cells
    if size <= LARGEST_ONE_HOT:
        return [(np.eye(size), _hats(index - 1, size))]
    rows = -(-size // COLUMNS)
    # The last row may be cut short.
    edges = np.minimum(COLUMNS * np.arange(rows + 1), size)
    passed = lsrl.bound(lsrl.relu(index - edges) - lsrl.relu(index - edges - 1), 0, 1)
    row = lsrl.bound(passed[:rows] - passed[1:], 0, 1)
    place = lsrl.bound(index - 1 - COLUMNS * passed[1:rows].sum(), -1, words.numbers)
    cells = np.arange(size)
    return [
        (np.eye(rows)[cells // COLUMNS], row),
        (np.eye(COLUMNS)[cells % COLUMNS], _hats(place, COLUMNS)),
    ]


def _hats(index: Signal, size: int) -> Signal:
    """The indicator of each of 0 … size - 1, of an integer of any size, in one level."""
    hat = np.eye(size, size + 2) - 2 * np.eye(size, size + 2, 1) + np.eye(size, size + 2, 2)
    return lsrl.bound(hat @ lsrl.relu(index + 1 - np.arange(size + 2)), 0, 1)


class _Machine:
    """What a text has done so far, word by word.

    Attributes:
      memory: the cells.
    """

    def __init__(self, words: _Words) -> None:
        """Before the first word."""
        self.memory = [0] * words.cells
        self._words = words
        self._text = [-1, -1]
        # What `>p` found: a, c and p + 3, if there was one, of each word.
        self._found: list[tuple[int, int, int] | None] = [None, None]

    def answer(self, token: int) -> int:
        """Read a word and tell the next."""
        words = self._words
        _, start, value, character, _ = words.starts
        address, told = self._text[-2:]
        if 0 <= address < words.cells:
            self.memory[address] = told - value if value <= told < character else 0
        self._text.append(token)
        self._found.append(None)
        if token < start:
            return self._result(token)
        if token < words.halt:
            cell = token - start
            self._found[-1] = self._read(cell), self._read(cell + 2), cell + 3
            return min(self._read(cell + 1), words.cells)
        if token == words.halt:
            return token
        _, c, onward = self._found[-3] or (0, 0, 0)
        jumps = token < character and words.signed(token - value) <= 0
        return start + min(c if jumps else onward, words.cells)

    def _result(self, address: int) -> int:
        """The number, or the character where there is no such cell."""
        words, found = self._words, self._found[-2]
        first = words.starts[2] if address < words.cells else words.starts[3]
        difference = self._read(address) - (0 if found is None else self._read(found[0]))
        return first + difference % words.numbers

    def _read(self, cell: int) -> int:
        return self.memory[cell] if cell < len(self.memory) else 0


def subleq_lm_reference(tokens: Sequence[int], cells: int, bits: int) -> list[int]:
    """Keep the memory in a list, and carry out word by word what each kind of word asks for."""
    machine = _Machine(_words(cells, bits))
    return [machine.answer(token) for token in tokens]


def subleq_lm_text(words: Iterable[str]) -> str:
    r"""What a text prints: its characters, without the other words.

    Args:
      words: of `subleq_lm`, such as `tokenizer.decode(ids).split()` gives, or `Token.names` by id.

    Raises:
      ProgramError: they are no words, or what should be a character is none.

    Example:
      print(lsrl.programs.subleq_lm_text(["@-1", "'A'", ">3", "@-1", "'B'", "halt"]))
    """
    said = [words] if isinstance(words, str) or not isinstance(words, Iterable) else list(words)
    if said == [words] or not all(isinstance(word, str) for word in said):
        raise ProgramError(
            f"subleq_lm_text: expected a list of words, got {words!r:.60}; split a text: "
            "text.split()"
        )
    return "".join(_character(word) for word in said if word[:1] in {"'", '"'})


def _character(word: str) -> str:
    try:
        found = ast.literal_eval(word)
    except (SyntaxError, ValueError):
        found = None
    if not isinstance(found, str) or len(found) != 1:
        raise ProgramError(f"subleq_lm_text: expected a character such as 'A', got {word!r:.40}")
    return found


def _sample(rng: np.random.Generator, steps: int, cells: int, bits: int) -> Inputs:
    """A random program with its run; its addresses are mostly cells, and -1 at times."""
    words = _words(cells, bits)
    image = rng.integers(-1, cells, size=rng.integers(cells + 1))
    start = words.starts[1] + int(rng.integers(cells))
    return (np.array(_run(words, dict(enumerate(image.tolist())), start, steps)),)


def _edges(cells: int, bits: int) -> list[Inputs]:
    """Any words at all, the greatest numbers, and programs that copy, print and halt."""
    words, rng = _words(cells, bits), np.random.default_rng(0)
    least, most = -words.numbers // 2, words.numbers // 2 - 1
    last = cells - 1
    images: list[dict[int, int]] = [
        {0: last, 1: last - 1, 2: 0, last - 1: least, last: most},
        {0: last, 1: -1, 2: 0, 3: -1, 4: -1, last: least},
        {0: 0, 1: 0, 2: 0},
    ]
    texts = [_run(words, image, words.starts[1], 60) for image in images]
    texts.append(rng.integers(words.starts[-1], size=200).tolist())
    return [(np.array(text),) for text in texts]


def _run(words: _Words, image: dict[int, int], start: int, steps: int) -> list[int]:
    """A program and what it does, of `steps` words or until `halt`."""
    first = words.starts[2]
    prompt = [
        word for cell, value in image.items() for word in (cell, first + value % words.numbers)
    ]
    machine, text = _Machine(words), []
    for token in [*prompt, start][:steps]:
        text.append(token)
        answer = machine.answer(token)
    while len(text) < steps and text[-1] != words.halt:
        text.append(answer)
        answer = machine.answer(answer)
    return text


ENTRIES = (
    Entry(
        subleq_lm,
        subleq_lm_reference,
        parameters=({"cells": 8, "bits": 4},),
        sampler=_sample,
        edges=_edges,
    ),
)
