"""FLEQ networks: their prompts, and what rows of their loops mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.machine.checks import check_start
from lsrl.machine.fleq import FUNCTIONS, Cell, Fleq, FleqImage, FleqStep, loaded, told

SCALARS = 5  # functions that come along and take numbers


@final
@dataclass(frozen=True)
class FleqBus:
    """How a program of `lsrl.programs.fleq` is spoken to.

    Attributes:
      bus: the name of the input that writes a cell, and says which line is next.
      line: the name of the input that writes a line.
      cells: how many there are.
      lines: how many there are at most.
      width: numbers of a cell.
      functions: how many there are.
      size: no number is larger.
      pace: how many tokens an instruction takes.
    """

    pace: ClassVar[int] = 1
    bus: str
    line: str
    cells: int
    lines: int
    width: int
    functions: int
    size: float

    @classmethod
    def of(cls, program: Program) -> "FleqBus | None":
        """Of a program, if it has such a bus."""
        feedback = program.feedback
        if feedback is None or feedback.memory is None or len(program.inputs) != 2:
            return None
        (line,) = program.inputs.keys() - {feedback.input}
        kind, (first, last) = program.inputs[line], feedback.memory.values
        width = last - first
        if kind.width != 7 or program.inputs[feedback.input].width != 2 + 2 * width:
            return None
        high = kind.facts().high
        return cls(
            feedback.input,
            line,
            feedback.memory.cells,
            int(high[0]) + 1,
            width,
            int(high[1]) + 1,
            float(program.inputs[feedback.input].facts().high[first]),
        )

    def image(self, memory: object) -> FleqImage:
        """The image, if it fits.

        Raises:
          InputError: it is of another machine, or too large; an AssemblyError at the line.
        """
        if not isinstance(memory, FleqImage):
            raise InputError(
                f"a FLEQ machine takes the image of a text that begins with .fleq, got "
                f"{type(memory).__name__}"
                + ("; a trace needs it as well, as image=" if memory is None else "")
            )
        if math.prod(memory.shape) != self.width and memory.shape:
            raise InputError(
                f"the cells of the image are {memory.shape}, and those of the machine hold "
                f"{self.width} numbers; compile it with shape={memory.shape}"
            )
        if len(memory.cells) > self.cells:
            raise InputError(
                f"the image has {len(memory.cells)} cells, and the machine {self.cells}; take "
                f"cells={len(memory.cells)}"
            )
        if len(memory.lines) > self.lines:
            raise memory.fault(
                memory.lines[self.lines],
                f"the machine has room for {self.lines} lines; take lines={len(memory.lines)}",
            )
        # Of those that come along a machine of numbers has the first, without those of matrices.
        fewer = memory.functions == FUNCTIONS and self.functions == SCALARS
        if len(memory.functions) != self.functions and not fewer:
            raise InputError(
                f"the machine has {self.functions} functions, and the image "
                f"{len(memory.functions)} ({', '.join(memory.functions)}); say which in the "
                "machine's order, with image.using({name: function, ...})"
            )
        known = [*memory.functions][: self.functions]
        for line in memory.lines:
            if line.function not in known:
                raise memory.fault(
                    line, f"no function {line.function!r}; the machine has {', '.join(known)}"
                )
        for name, cell in memory.cells.items():
            most = np.abs(cell).max()
            if not most <= self.size:
                raise InputError(
                    f"cell {name!r} holds a number of {most:g}, and those of the machine are up to "
                    f"{self.size:g}; compile it with a larger size="
                )
        return self._shaped(memory)

    def _shaped(self, image: FleqImage) -> FleqImage:
        """With cells of the machine's shape, where the image has numbers alone."""
        side = math.isqrt(self.width)
        if image.shape or self.width == 1:
            return image
        shape = (side, side) if side**2 == self.width else (1, self.width)
        return image.put(**{name: np.full(shape, cell) for name, cell in image.cells.items()})

    def plain(self, memory: object, start: int = 0) -> Fleq:
        """The same machine in plain Python."""
        return Fleq(self.image(memory), cells=self.cells, start=start)

    def card(self, memory: object, start: int, tokens: int = 1) -> dict[str, Array]:
        """One array an input: rows write a cell and a line each; the last one starts the machine.

        Args:
          memory: the image.
          start: the number of the first line.
          tokens: how many rows there are at least; those ahead write nothing.
        """
        image = self.image(memory)
        start = check_start(start, len(image.lines))
        held, names = loaded(image), [*image.cells]
        count = max(len(names), len(image.lines), tokens)
        bus, lines = np.zeros((count, 2 + 2 * self.width)), np.zeros((count, 7))
        bus[:, 0] = bus[:, -1] = lines[:, 0] = -1
        # Line -1 adds cell 0 to itself, so that is written last, when the first line is done.
        for row, name in enumerate(reversed(names), count - len(names)):
            entries = held[name].ravel()
            bus[row, :-1] = [names.index(name), *entries, *entries]
        functions = [*image.functions]
        for row, line in enumerate(image.lines, count - len(image.lines)):
            cells = [names.index(cell) for cell in (line.a, line.b, line.c, line.flag)]
            to = -1 if line.to is None else line.to
            number = row - count + len(image.lines)
            lines[row] = [number, functions.index(line.function), *cells, to]
        bus[-1, -1] = start
        return {self.bus: bus, self.line: lines}

    def loaded(self, inputs: Mapping[str, Array]) -> Array:
        """Every cell, (cells, numbers), after the writes of a prompt.

        Args:
          inputs: the prompt's, by name.
        """
        held = np.zeros((self.cells, self.width), np.float32)
        for row in inputs[self.bus].astype(np.float32):
            if row[0] >= 0:
                held[int(row[0])] = row[1 : 1 + self.width]
        return held

    def steps(
        self, inputs: Mapping[str, Array], outputs: Array, memory: Array, image: object
    ) -> list[FleqStep]:
        """What instructions did, of the rows that were read and those that were answered.

        Args:
          inputs: by name, with the rows of the prompt ahead of those that the outputs answer.
          outputs: one row an instruction.
          memory: every cell ahead of the first instruction.
          image: the one that runs, for its lines and names.

        Raises:
          InputError: there is no image, or it is another one.
        """
        own = self.image(image)
        names, rows = [*own.cells], inputs[self.bus].astype(np.float32)
        ahead = len(rows) - len(outputs)
        held = memory.astype(np.float32).reshape(self.cells, self.width)
        steps = []
        for read, answer in zip(rows[ahead:], outputs.astype(np.float32), strict=True):
            pc = int(read[-1])
            line = own.lines[pc]
            taken = [self._cell(held[names.index(name)], own) for name in (line.a, line.b)]
            taken = [cell.copy() for cell in taken]
            held[int(answer[0])] = answer[1 : 1 + self.width]
            new, flag = (self._cell(held[names.index(name)], own) for name in (line.c, line.flag))
            steps.append(told(line, pc, taken, new, flag, int(answer[1 + 2 * self.width])))
        return steps

    def _cell(self, entries: Array, image: FleqImage) -> Cell:
        """The numbers of a cell in its shape."""
        return entries.reshape(image.shape)
