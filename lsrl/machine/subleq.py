"""SUBLEQ in plain Python: what a network is held to, and what a run's rows mean."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, final

import numpy as np

from lsrl.arguments import count, shown
from lsrl.ir.numbers import Array
from lsrl.language.feedback import MemoryMap
from lsrl.machine.checks import MOST_CELLS, check_going, check_start, one_line
from lsrl.machine.image import Image, image_of

WIDEST = 62  # bits of a word
GUARD = -1  # the address whence keys come, and whither letters go


class Step(NamedTuple):
    """One instruction, `mem[b] -= mem[a]`, and to `c` where that is not above 0.

    Attributes:
      pc: where it stands.
      a: the first word, an address; -1 takes a key instead.
      b: the second word, an address; -1 prints `at_a` instead.
      c: the third word, where it may jump.
      at_a: what was read at `a`.
      at_b: what was read at `b`.
      new: what was written there, or would have been.
      next: where the next instruction stands; the machine halts below 0.
      key: the code that was taken.
      said: the code that was printed.

    Example:
      print(machine.Subleq(times.image(x=3, y=4), cells=32, bits=8).trace(1)[0])
    """

    pc: int
    a: int
    b: int
    c: int
    at_a: int
    at_b: int
    new: int
    next: int
    key: int | None = None
    said: int | None = None

    def __str__(self) -> str:
        """One line of a listing."""
        what = f"{self.pc:>6}: {self.a:>6} {self.b:>6} {self.c:>6}   "
        if self.key is not None:
            what += f"mem[{self.b}] = key {self.key}"
        elif self.said is not None:
            what += f"print mem[{self.a}] = {self.said}"
        else:
            what += f"mem[{self.b}] = {self.at_b} - {self.at_a} = {self.new}"
        return what + (f", to {self.next}" if self.next != self.pc + 3 else "")


@final
class Subleq:
    """A SUBLEQ machine in plain Python, at some instruction.

    Words wrap as two's complement; addresses without a cell read 0 and write nothing; the word `c`
    is read before the write; no jump follows a key or a letter.

    Attributes:
      memory: word by address, of every cell.
      pc: where the next instruction stands.
      steps: how many instructions were done.
      text: what was printed.
      keys: those that were not taken yet.
      waiting: whether the next instruction wants a key that is not there.
      lost: the first address without a cell, from 0 on, to which something else than 0 was written;
        reads there give 0.

    Source: Giannou et al. (2023), "Looped Transformers as Programmable Computers", arXiv
    2301.13196.

    Example:
      plain = machine.Subleq(times.image(x=3, y=4), cells=32, bits=8)
      plain.run()
      print(plain.halted, plain.dump()[17])
    """

    def __init__(
        self,
        memory: object,
        *,
        cells: int = 256,
        segments: Sequence[tuple[int, int]] | None = None,
        bits: int = 16,
        io: bool = True,
        words: bool = False,
        start: int = 0,
    ) -> None:
        """Load an image.

        Args:
          memory: the image, a sequence of numbers or a dict from address to number.
          cells: how many there are, from address 0 on.
          segments: instead, the addresses that have cells: (first, last + 1) of each segment.
          bits: of a word.
          io: whether address -1 takes keys and prints letters.
          words: as a language model does it: there are no keys, what goes where there is no cell is
            printed, and the machine halts where there is no instruction.
          start: where the first instruction stands.

        Raises:
          InputError: the image does not fit; AssemblyError where the line of its text is known.
          ProgramError: segments that overlap or are empty.
        """
        given = ((0, count("cells", cells, 1, MOST_CELLS)),) if segments is None else segments
        found = MemoryMap(0, 1, given)
        self.segments, _ = found.segments, count("segments: cells", found.cells, 1, MOST_CELLS)
        self.bits, self.io, self.words = count("bits", bits, 2, WIDEST), io, words
        self.pc = check_start(start, 1 << (bits - 1))
        self.steps, self.text, self.keys = 0, b"", b""
        self.waiting = False
        self.lost: int | None = None
        self.memory = {a: 0 for low, high in self.segments for a in range(low, high)}
        self.memory |= fitting(image_of(memory), self.segments, bits)

    def __repr__(self) -> str:
        """One line."""
        return one_line("Subleq", self.steps, self.halted, self.waiting)

    @property
    def halted(self) -> bool:
        """Whether the last instruction went below 0."""
        return self.pc < 0

    def dump(self) -> Array:
        """Every cell, in the order of the addresses."""
        return np.array([self.memory[address] for address in sorted(self.memory)])

    def run(self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()) -> int:
        """Go on until the machine halts, waits for a key, comes to a breakpoint, or did its steps.

        Args:
          steps: how many instructions at most.
          stdin: further keys.
          stop: addresses of instructions ahead of which to stop; not ahead of the first.

        Returns:
          How many instructions were done.
        """
        check_going(steps, stdin, stop)
        self.keys += stdin
        self.waiting = False
        memory, top, done, pc = self.memory, 1 << (self.bits - 1), 0, self.pc
        get = memory.get
        while done < steps and pc >= 0 and not (done and pc in stop):
            a, b = get(pc, 0), get(pc + 1, 0)
            if a >= 0 <= b and a in memory and b in memory and not self.words:
                # What most instructions are, without a word on each.
                new = (memory[b] - memory[a] + top) % (2 * top) - top
                pc = get(pc + 2, 0) if new <= 0 else wrapped(pc + 3, self.bits)
                memory[b] = new
            else:
                self.pc = pc
                self.waiting = self._next() is None
                if self.waiting:
                    break
                pc = self.pc
            done += 1
        self.pc, self.steps = pc, self.steps + done
        return done

    def trace(
        self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()
    ) -> list[Step]:
        """Go on as `run` does, and tell what was done, instruction by instruction."""
        return list(self._going(steps, stdin, stop))

    def _going(self, steps: int, stdin: bytes, stop: Collection[int]) -> Iterator[Step]:
        check_going(steps, stdin, stop)
        self.keys += stdin
        self.waiting = False
        for done in range(steps):
            if self.pc < 0 or (done and self.pc in stop):
                return
            step = self._next()
            if step is None:
                self.waiting = True
                return
            self.steps += 1
            yield step

    def _next(self) -> Step | None:
        memory, pc = self.memory, self.pc
        a, b, c = (memory.get(pc + place, 0) for place in range(3))
        at_a, at_b = memory.get(a, 0), memory.get(b, 0)
        key = said = None
        raw = at_b - at_a
        if self.io and not self.words and a == GUARD:
            if not self.keys:
                return None
            raw = key = self.keys[0]
            self.keys = self.keys[1:]
        elif (self.io and b == GUARD) or (self.words and b not in memory):
            said = at_a
            self.text += bytes([said & 255])
        new = wrapped(raw, self.bits)
        if b in memory:
            memory[b] = new
        elif b >= 0 and new and self.lost is None and not self.words:
            self.lost = b
        free = key is None and said is None
        onward = c if free and new <= 0 else wrapped(pc + 3, self.bits)
        self.pc = GUARD if self.words and onward not in memory else onward
        return Step(pc, a, b, c, at_a, at_b, new, self.pc, key, said)


def wrapped(value: int, bits: int) -> int:
    """A number as a word of two's complement."""
    top = 1 << (bits - 1)
    return (value + top) % (2 * top) - top


def fitting(image: Image, segments: Iterable[tuple[int, int]], bits: int) -> dict[int, int]:
    """The words of an image that memory of this size holds.

    Raises:
      InputError: an address has no cell, or a word is too large; an AssemblyError where the line
        is known.
    """
    segments, top = tuple(segments), 1 << (bits - 1)
    for address in image:
        word = image[address]
        if not any(low <= address < high for low, high in segments):
            cells = ", ".join(f"{low} … {high - 1}" for low, high in segments)
            more = max(image) + 1
            cure = f"take more, such as cells={more}" if 0 <= address < top else "mend the address"
            raise image.fault(
                address,
                f"address {shown(address)} has no cell: the memory is too small, it has cells "
                f"{cells}; {cure}",
            )
        if not -top <= word < top:
            raise image.fault(
                address,
                f"{shown(word)} at address {address} is no word of {bits} bits, which go from "
                f"{-top} to {top - 1}; take more bits",
            )
    return dict(image)
