"""FLEQ in plain Python, in float32: `c = f(a, b)`, and a jump where a flag is not above 0."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias, cast, final

import numpy as np
import numpy.typing as npt

from lsrl.arguments import count, instance, shown
from lsrl.errors import AssemblyError, InputError
from lsrl.machine.checks import check_going, check_start, one_line
from lsrl.machine.image import known

Cell = npt.NDArray[np.float32]  # (), or (rows, columns)
Block = Callable[[Cell, Cell], Cell]


def matmul(a: Cell, b: Cell) -> Cell:
    """The product of two matrices, whose sums go from the first column of `a` to its last."""
    total = a[:, :1] * b[:1, :]
    for place in range(1, a.shape[1]):
        total = total + a[:, place : place + 1] * b[place : place + 1, :]
    return total


def maximum(a: Cell, b: Cell) -> Cell:
    """The greater of two numbers as a network has it: b + max(a - b, 0), which may be rounded."""
    return b + np.maximum(a - b, np.float32(0))


def seed(a: Cell, b: Cell) -> Cell:
    """A power of two from 1 / (2 |a|) to 1 / |a|, at least 2^-6 and at most 2^6."""
    _, exponent = np.frexp(np.abs(a))
    power = np.where(a == 0, 6, -np.clip(exponent, -6, 6))
    return np.ldexp(np.float32(1), power).astype(np.float32)


FUNCTIONS: Mapping[str, Block] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": maximum,
    "seed": seed,
    "matmul": matmul,
    "transpose": lambda a, b: a.T,
}


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
      functions: what a line may do, in float32, in the order of the machine's functions.

    Example:
      product = machine.programs()["product"]
      print(type(product.image()).__name__, product.machine)
    """

    cells: Mapping[str, Cell]
    lines: Sequence[Line]
    labels: Mapping[str, int] = field(default_factory=dict)
    functions: Mapping[str, Block] = field(default_factory=lambda: FUNCTIONS)

    @property
    def shape(self) -> tuple[int, int] | tuple[()]:
        """Of a cell: () of a number, else (rows, columns)."""
        shapes = [cell.shape for cell in self.cells.values() if cell.ndim == 2]
        return cast("tuple[int, int]", shapes[0]) if shapes else ()

    def using(self, functions: Mapping[str, Block]) -> "FleqImage":
        """The image for a machine with other functions, of two float32 arrays each.

        Raises:
          InputError: they are no functions by name.

        Example: `assemble(text).using({"add": np.add, "relu": lambda x, y: np.maximum(x, 0)})`.
        """
        named = isinstance(functions, Mapping) and all(isinstance(name, str) for name in functions)
        if not named or not all(map(callable, functions.values())):
            raise InputError(
                "using: expected functions of two arrays by name, such as {'add': np.add}, got "
                f"{shown(functions)}"
            )
        return replace(self, functions=functions)

    def fault(self, line: Line, message: str) -> AssemblyError:
        """An error about a line, where the text has it."""
        return AssemblyError(line.line, message)

    def address(self, cell: str) -> int:
        """The address of a cell.

        Raises:
          InputError: there is no such cell.
        """
        return list(self.cells).index(known("cell", cell, self.cells))

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


Told: TypeAlias = float | tuple[tuple[float, ...], ...]  # a cell, as plain numbers


class FleqStep(NamedTuple):
    """One instruction that was done.

    Attributes:
      pc: the number of its line.
      function: of what was read.
      a: the first cell that was read, by name.
      b: the second one.
      c: the cell that was written.
      at_a: what was read at `a`: a number, or the rows of a matrix.
      at_b: what was read at `b`.
      new: what was written.
      flag: the cell that decided.
      at_flag: what its first entry held, after the write.
      next: the number of the next line; -1 where the machine halts.

    Example:
      print(machine.Fleq(product.image()).trace(1)[0])
    """

    pc: int
    function: str
    a: str
    b: str
    c: str
    at_a: Told
    at_b: Told
    new: Told
    flag: str
    at_flag: float
    next: int

    def __str__(self) -> str:
        """One line of a listing."""
        what = f"{self.pc:>6}: {self.c} = {self.function} {self.a} {self.b}   {cell_text(self.new)}"
        return what + (f", to {self.next}" if self.next != self.pc + 1 else "")


def told(line: Line, pc: int, read: Sequence[Cell], new: Cell, flag: Cell, to: int) -> FleqStep:
    """What an instruction did, of arrays."""
    at_a, at_b, made = (plain_cell(cell) for cell in (*read, new))
    first = float(flag.flat[0])
    return FleqStep(
        pc, line.function, line.a, line.b, line.c, at_a, at_b, made, line.flag, first, to
    )


def plain_cell(cell: Cell) -> Told:
    """A cell as plain numbers."""
    if cell.ndim == 0:
        return float(cell)
    return tuple(tuple(map(float, row)) for row in cell)


def cell_text(cell: Told) -> str:
    """A cell on one line."""
    rows = ((cell,),) if isinstance(cell, float) else cell
    return "; ".join(" ".join(f"{number:.9g}" for number in row) for row in rows)


@final
class Fleq:
    """A FLEQ machine in plain Python, in float32, at some instruction.

    Attributes:
      memory: what each cell holds, by name.
      pc: the number of the next line; -1 once it halted.
      steps: how many instructions were done.
      text: what was printed, which is nothing.
      waiting: whether it wants a key, which it never does.
      lost: an address without a cell that was written to, which there never is.

    Source: Giannou et al. (2023), "Looped Transformers as Programmable Computers", arXiv
    2301.13196.

    Example:
      inside = machine.Fleq(product.image())
      inside.run()
      print(inside.halted)
    """

    def __init__(self, image: FleqImage, *, cells: int | None = None, start: int = 0) -> None:
        """Load an image.

        Args:
          image: of a text.
          cells: how many the machine has; as many as the image by default.
          start: the number of the first line.

        Raises:
          AssemblyError: a function is unknown.
          InputError: it is no image of FLEQ, or cells of several shapes.
        """
        instance("Fleq", image, FleqImage, "lsrl.machine.assemble of a text that begins with .fleq")
        for line in image.lines:
            if line.function not in image.functions:
                known = ", ".join(image.functions)
                raise image.fault(line, f"no function {line.function!r}; the machine has {known}")
        self.image = image
        self.memory = loaded(image)
        self.pc, self.steps = check_start(start, len(image.lines)), 0
        self.text, self.waiting = b"", False
        self.lost: int | None = None
        least = len(self.memory)
        self._cells = least if cells is None else count("cells", cells, least)

    def __repr__(self) -> str:
        """One line."""
        return one_line("Fleq", self.steps, self.halted, self.waiting)

    @property
    def halted(self) -> bool:
        """Whether the machine is done."""
        return self.pc < 0

    def dump(self) -> Cell:
        """Every cell, in the order of the addresses: (cells, entries)."""
        held = np.stack([cell.ravel() for cell in self.memory.values()])
        return np.pad(held, ((0, self._cells - len(held)), (0, 0)))

    def run(self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()) -> int:
        """Go on until the machine halts, comes to a breakpoint, or did its steps.

        Args:
          steps: how many instructions at most.
          stdin: none, since it reads no keys.
          stop: numbers of lines ahead of which to stop; not ahead of the first.

        Returns:
          How many instructions were done.
        """
        return sum(1 for _ in self._going(steps, stdin, stop))

    def trace(
        self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()
    ) -> list[FleqStep]:
        """Go on as `run` does, and tell what was done, instruction by instruction."""
        return list(self._going(steps, stdin, stop))

    def _going(self, steps: int, stdin: bytes, stop: Collection[int]) -> Iterator[FleqStep]:
        check_going(steps, stdin, stop)
        for done in range(steps):
            if self.pc < 0 or (done and self.pc in stop):
                return
            step = self._next()
            self.steps += 1
            yield step

    def _next(self) -> FleqStep:
        pc, line = self.pc, self.image.lines[self.pc]
        read = self.memory[line.a], self.memory[line.b]
        new = self._made(line, read)
        self.memory[line.c] = new
        flag = self.memory[line.flag]
        following = -1 if line.to is None else line.to
        self.pc = following if flag.flat[0] <= 0 else pc + 1
        return told(line, pc, read, new, flag, self.pc)

    def _made(self, line: Line, read: Sequence[Cell]) -> Cell:
        """What the function of a line makes of two cells."""
        shape = read[0].shape
        try:
            new = np.asarray(self.image.functions[line.function](*read), np.float32)
        except (TypeError, ValueError, IndexError) as error:
            raise self.image.fault(
                line, f"{line.function!r} does not take two cells of shape {shape}: {error}"
            ) from error
        if new.shape != shape:
            raise self.image.fault(
                line, f"{line.function!r} gives shape {new.shape}, expected that of a cell, {shape}"
            )
        return new


def loaded(image: FleqImage) -> dict[str, Cell]:
    """What each cell holds ahead of the first instruction; a single number fills a matrix.

    Raises:
      InputError: cells of several shapes.
    """
    for name, cell in image.cells.items():
        if cell.shape not in ((), image.shape):
            raise InputError(
                f"cell {name!r}: expected a number, or {image.shape} numbers as in other cells, "
                f"got {cell.shape}"
            )
    return {
        name: np.broadcast_to(cell, image.shape).astype(np.float32)
        for name, cell in image.cells.items()
    }
