"""FLEQ in plain Python, in float32: `c = f(a, b)`, and a jump where a flag is not above 0."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from lsrl.errors import InputError

Cell = npt.NDArray[np.float32]  # (), or (rows, columns)
Block = Callable[[Cell, Cell], Cell]


class Line(NamedTuple):
    """One instruction, by names.

    Attributes:
      function: of `a` and `b`.
      a: a cell.
      b: a cell.
      c: the cell that is written.
      flag: the cell that decides, read after the write.
      to: the number of the line to go to where the flag is not above 0; None halts.
      line: of the text.
    """

    function: str
    a: str
    b: str
    c: str
    flag: str
    to: int | None
    line: int


@final
@dataclass(frozen=True)
class FleqImage:
    """What the memory of a FLEQ machine holds before its first instruction.

    Attributes:
      cells: what each cell holds, by name, in the order of their addresses.
      lines: the instructions, in their order.
      labels: numbers of lines by name.
    """

    cells: Mapping[str, Cell]
    lines: Sequence[Line]
    labels: Mapping[str, int] = field(default_factory=dict)

    def address(self, cell: str) -> int:
        """The address of a cell.

        Raises:
          InputError: there is no such cell.
        """
        if cell not in self.cells:
            near = get_close_matches(cell, self.cells, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.cells)}"
            raise InputError(f"the text has no cell {cell!r}; {hint}")
        return list(self.cells).index(cell)

    def entries(self, name: str, values: Cell) -> list[str]:
        """The cells of a matrix's entries: a11, a12, … row by row."""
        rows, columns = np.shape(values)
        return [f"{name}{row + 1}{column + 1}" for row in range(rows) for column in range(columns)]

    def put(self, **values: object) -> "FleqImage":
        """The image with other numbers in some cells.

        Args:
          **values: by cell; a matrix `a` that is no cell goes to a11, a12, … row by row.

        Raises:
          InputError: there is no such cell, or what it is to hold are no numbers.

        Example: `lsrl.machine.assemble(text).put(x=7, y=0.5)`.
        """
        cells = dict(self.cells)
        for name, given in values.items():
            value = _numbers(name, given)
            if name in cells or value.ndim != 2:
                self.address(name)
                cells[name] = value
            else:
                for entry, number in zip(self.entries(name, value), value.flat, strict=True):
                    self.address(entry)
                    cells[entry] = np.asarray(number)
        return replace(self, cells=cells)


def _numbers(name: str, given: object) -> Cell:
    """What a cell is to hold.

    Raises:
      InputError: it is no number, and no matrix of numbers.
    """
    try:
        value = np.asarray(given, np.float32)
        if value.ndim in (0, 2) and np.isfinite(value).all():
            return value
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"cell {name!r}: expected a number, or rows of numbers for a matrix, got {given!r:.60}"
    )


class FleqStep(NamedTuple):
    """One instruction that was done.

    Attributes:
      pc: the number of its line.
      function: of what was read.
      a: the first cell that was read, by name.
      b: the second one.
      c: the cell that was written.
      at_a: what was read at `a`.
      at_b: what was read at `b`.
      new: what was written.
      flag: the cell that decided.
      at_flag: what it held, after the write.
      next: the number of the next line; -1 where the machine halts.
    """

    pc: int
    function: str
    a: str
    b: str
    c: str
    at_a: Cell
    at_b: Cell
    new: Cell
    flag: str
    at_flag: Cell
    next: int

    def __str__(self) -> str:
        """One line of a listing."""
        what = f"{self.pc:>6}: {self.c} = {self.function} {self.a} {self.b}   {_shown(self.new)}"
        return what + (f", to {self.next}" if self.next != self.pc + 1 else "")


def _shown(cell: Cell) -> str:
    """A cell on one line."""
    if cell.ndim == 0:
        return f"{float(cell):.9g}"
    return "; ".join(" ".join(f"{float(number):.9g}" for number in row) for row in cell)


def product(a: Cell, b: Cell) -> Cell:
    """The product of two matrices, whose sums go from the first column of `a` to its last."""
    total = a[:, :1] * b[:1, :]
    for place in range(1, a.shape[1]):
        total = total + a[:, place : place + 1] * b[place : place + 1, :]
    return total


def seed(a: Cell, b: Cell) -> Cell:
    """A power of two from 1 / (2 |a|) to 1 / |a|, the first guess of a reciprocal."""
    _, exponent = np.frexp(np.abs(a))
    return np.ldexp(np.float32(1), -np.clip(exponent, -6, 7)).astype(np.float32)


FUNCTIONS: Mapping[str, Block] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "seed": seed,
    "matmul": product,
    "transpose": lambda a, b: a.T,
}


@final
class Fleq:
    """A FLEQ machine in plain Python, in float32, at some instruction.

    Attributes:
      memory: what each cell holds, by name.
      pc: the number of the next line; -1 once it halted.
      steps: how many instructions were done.
      text: what was printed, which is nothing.
      waiting: whether it wants a key, which it never does.

    Example: `Fleq(image).run(1000)`.
    """

    def __init__(
        self,
        image: FleqImage,
        *,
        functions: Mapping[str, Block] = FUNCTIONS,
        start: int = 0,
    ) -> None:
        """Load an image.

        Args:
          image: of a text.
          functions: what a line may do, by name: of two cells, in float32.
          start: the number of the first line.

        Raises:
          InputError: a function is unknown.
        """
        for line in image.lines:
            if line.function not in functions:
                raise InputError(f"line {line.line}: no function {line.function!r}")
        self.image, self.functions = image, functions
        shapes = [cell.shape for cell in image.cells.values()]
        self.shape = max(shapes, key=len, default=())
        self.memory = {
            name: np.broadcast_to(cell, self.shape).astype(np.float32)
            for name, cell in image.cells.items()
        }
        self.pc, self.steps = start, 0
        self.text, self.waiting = b"", False

    @property
    def halted(self) -> bool:
        """Whether the machine is done."""
        return self.pc < 0

    def dump(self) -> Cell:
        """Every cell, in the order of the addresses: (cells, …)."""
        return np.stack([*self.memory.values()])

    def run(self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()) -> int:
        """Go on until the machine halts, comes to a breakpoint, or did its steps.

        Args:
          steps: how many instructions at most.
          stdin: none, since it reads no keys.
          stop: numbers of lines ahead of which to stop; not ahead of the first.

        Returns:
          How many instructions were done.
        """
        return sum(1 for _ in self._going(steps, stop))

    def trace(
        self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()
    ) -> list[FleqStep]:
        """Go on as `run` does, and tell what was done, instruction by instruction."""
        return list(self._going(steps, stop))

    def _going(self, steps: int, stop: Collection[int]) -> Iterator[FleqStep]:
        for done in range(steps):
            if self.pc < 0 or (done and self.pc in stop):
                return
            yield self._next()

    def _next(self) -> FleqStep:
        pc, line = self.pc, self.image.lines[self.pc]
        at_a, at_b = self.memory[line.a], self.memory[line.b]
        new = np.asarray(self.functions[line.function](at_a, at_b), np.float32)
        self.memory[line.c] = new
        at_flag = self.memory[line.flag]
        following = -1 if line.to is None else line.to
        self.pc = following if at_flag.flat[0] <= 0 else pc + 1
        self.steps += 1
        return FleqStep(
            pc, line.function, line.a, line.b, line.c, at_a, at_b, new, line.flag, at_flag, self.pc
        )
