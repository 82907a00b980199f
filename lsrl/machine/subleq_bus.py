"""SUBLEQ networks that take an instruction a token, by a bus: their prompts, and what rows mean."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np

from lsrl.ir.numbers import Array
from lsrl.ir.types import Vector
from lsrl.language.feedback import MemoryMap
from lsrl.language.program import Program
from lsrl.machine.checks import check_start
from lsrl.machine.image import image_of
from lsrl.machine.subleq import Step, Subleq, fitting


class Done(NamedTuple):
    """What a network says of an instruction that it did.

    Attributes:
      pc: where the instruction stands.
      b: the address that it writes to.
      new: the word that it writes.
      next: where the next instruction stands.
      key: the code that it took.
      said: the code that it printed.
    """

    pc: int
    b: int
    new: int
    next: int
    key: int | None = None
    said: int | None = None


@final
@dataclass(frozen=True)
class SubleqBus:
    """How a program of `lsrl.programs.subleq` is spoken to.

    Attributes:
      map: where writes stand in its outputs, and the addresses that there are.
      pc: the entry of the bus that holds where the next instruction stands.
      change: the entry that holds by how much a word changes.
      low: the least word.
      inputs: of the program, by name; the bus is the first.
      said: the output that holds a code, and the number that says nothing.
      took: the output that is 1 where a key was taken.
      pace: how many tokens an instruction takes.
    """

    pace: ClassVar[int] = 1
    map: MemoryMap
    pc: int
    change: int
    low: int
    inputs: tuple[str, ...]
    said: tuple[int, float] | None
    took: int | None

    @classmethod
    def of(cls, program: Program) -> "SubleqBus | None":
        """Of a program, if it has such a bus."""
        feedback = program.feedback
        if feedback is None or feedback.memory is None or feedback.halt is None:
            return None
        kind, memory = program.inputs[feedback.input], feedback.memory
        others = [name for name in program.inputs if name != feedback.input]
        named = {memory.address, memory.value, feedback.halt[0]}
        if not isinstance(kind, Vector) or kind.width != 4 or isinstance(memory.value, tuple):
            return None
        if feedback.output != (0, 4) or len(others) > 1 or len(named) != 3:
            return None
        (change,) = {0, 1, 2, 3} - named
        return cls(
            memory,
            feedback.halt[0],
            change,
            int(kind.low[memory.values[0]]),
            (feedback.input, *others),
            feedback.text,
            None if feedback.keys is None else feedback.keys[1],
        )

    @property
    def bits(self) -> int:
        """Of a word."""
        return (-self.low).bit_length()

    def addresses(self) -> list[int]:
        """Of every cell."""
        return [address for low, high in self.map.segments for address in range(low, high)]

    def plain(self, memory: object, start: int = 0) -> Subleq:
        """The same machine in plain Python."""
        return Subleq(
            memory,
            segments=self.map.segments,
            bits=self.bits,
            io=self.took is not None,
            start=start,
        )

    def card(self, memory: object, start: int, tokens: int = 1) -> dict[str, Array]:
        """One array an input: each row writes a word, and the last one starts the machine.

        Args:
          memory: the image.
          start: where the first instruction stands.
          tokens: how many rows there are at least; those ahead write what is there.
        """
        start = check_start(start, -self.low)
        words = fitting(image_of(memory), self.map.segments, self.bits)
        first = self.map.segments[0][0]
        written = [(a, word) for a, word in sorted(words.items()) if word] or [(first, 0)]
        written = [(first, 0)] * (tokens - len(written)) + written
        bus = np.zeros((len(written), 4))
        bus[:, [self.map.address, self.map.values[0]]] = written
        bus[:, self.change] = [word for _, word in written]
        bus[:, self.pc] = start
        return {self.inputs[0]: bus} | {name: np.zeros((len(bus), 1)) for name in self.inputs[1:]}

    def loaded(self, inputs: Mapping[str, Array]) -> Array:
        """Every cell, in the order of the addresses, after the writes of a prompt.

        Args:
          inputs: the prompt's, by name.
        """
        held = dict.fromkeys(self.addresses(), 0)
        for read in inputs[self.inputs[0]].tolist():
            if round(read[self.map.address]) in held:
                held[round(read[self.map.address])] = round(read[self.map.values[0]])
        return np.array([*held.values()])

    def lost(self, outputs: Array) -> int | None:
        """The first address without a cell that something else than 0 was written to."""
        addresses, values = (
            outputs[:, place].astype(np.float64) for place in (self.map.address, self.map.values[0])
        )
        none = (addresses >= 0) & (values != 0) & (self.map.places(addresses) < 0)
        return int(addresses[np.argmax(none)]) if none.any() else None

    def steps(
        self, inputs: Mapping[str, Array], outputs: Array, memory: Array, image: object
    ) -> list[Step]:
        """What instructions did, of the rows that were read and those that were answered.

        Args:
          inputs: by name, with the rows of the prompt ahead of those that the outputs answer.
          outputs: one row an instruction.
          memory: every cell ahead of the first instruction.
          image: the one that runs, which says nothing more.
        """
        held = dict(zip(self.addresses(), memory.tolist(), strict=True))
        bus, *key = (inputs[name] for name in self.inputs)
        ahead = len(bus) - len(outputs)
        done = []
        for row, answer in enumerate(outputs.tolist(), ahead):
            took = self.took is not None and answer[self.took] == 1
            said = self.said is not None and answer[self.said[0]] != self.said[1]
            done.append(
                Done(
                    round(float(bus[row, self.pc])),
                    round(answer[self.map.address]),
                    round(answer[self.map.values[0]]),
                    round(answer[self.pc]),
                    round(float(key[0][row, 0])) if took else None,
                    round(answer[self.said[0]]) if said and self.said else None,
                )
            )
        return replayed(held, done)


def replayed(memory: Mapping[int, int], done: Iterable[Done]) -> list[Step]:
    """Instructions with all that they read, out of memory that each of their writes changes.

    Args:
      memory: word by address, of every cell, ahead of the first instruction.
      done: what the instructions did.

    Returns:
      One step an instruction.
    """
    held, steps = dict(memory), []
    for one in done:
        a, _, c = (held.get(one.pc + place, 0) for place in range(3))
        at_a, at_b = held.get(a, 0), held.get(one.b, 0)
        steps.append(Step(one.pc, a, one.b, c, at_a, at_b, *one[2:]))
        if one.b in held:
            held[one.b] = one.new
    return steps
