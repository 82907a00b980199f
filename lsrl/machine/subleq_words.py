"""SUBLEQ networks that say what they do in words, three an instruction: their prompts."""

import ast
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.machine.image import image_of
from lsrl.machine.subleq import Step, Subleq, fitting, wrapped
from lsrl.machine.subleq_bus import Done, replayed


@final
@dataclass(frozen=True)
class SubleqWords:
    """How a program of `lsrl.programs.subleq_lm` is spoken to.

    Attributes:
      input: the name of its input.
      tokens: by word.
      pace: how many tokens an instruction takes.
    """

    pace: ClassVar[int] = 3
    input: str
    tokens: dict[str, int]

    @classmethod
    def of(cls, program: Program) -> "SubleqWords | None":
        """Of a program, if it has such words."""
        ((name, kind), *others) = program.inputs.items()
        if others or not isinstance(kind, Token) or kind.names is None:
            return None
        tokens = {word: token for token, word in enumerate(kind.names)}
        return cls(name, tokens) if {"@0", ">0", "=0", "halt"} <= tokens.keys() else None

    @property
    def cells(self) -> int:
        """How many there are, from address 0 on."""
        return sum(word.startswith(">") for word in self.tokens)

    @property
    def bits(self) -> int:
        """Of a word of memory."""
        return sum(word.startswith("=") for word in self.tokens).bit_length() - 1

    def plain(self, memory: object, start: int = 0) -> Subleq:
        """The same machine in plain Python."""
        return Subleq(memory, cells=self.cells, bits=self.bits, words=True, start=start)

    def loaded(self, inputs: Mapping[str, Array]) -> Array:
        """Every cell, from address 0 on, after the words of a prompt.

        Args:
          inputs: the prompt's, by name.
        """
        names, held = [*self.tokens], dict.fromkeys(range(self.cells), 0)
        said = [names[int(token)] for token in inputs[self.input]]
        for address, word in itertools.pairwise(said):
            if address.startswith("@") and int(address[1:]) in held:
                held[int(address[1:])] = int(word[1:]) if word.startswith("=") else 0
        return np.array([*held.values()])

    def steps(
        self, inputs: Mapping[str, Array], outputs: Array, memory: Array, image: object
    ) -> list[Step]:
        """What instructions did, of the words that were read and those that were said.

        Args:
          inputs: by name, with the words of the prompt ahead of those that the outputs answer.
          outputs: one row a word; the last may be within an instruction, which is left out.
          memory: every cell ahead of the first instruction.
          image: the one that runs, which says nothing more.
        """
        names = [*self.tokens]
        said = [names[int(token)] for token in (*inputs[self.input], *outputs[-1:, 0])]
        ahead = len(said) - len(outputs) - 1
        done = []
        for place in range(ahead, len(said) - 3, 3):
            start, address, word, onward = said[place : place + 4]
            following = -1 if onward == "halt" else int(onward[1:])
            if word.startswith("="):
                new, code = int(word[1:]), None
            else:
                code = wrapped(ord(ast.literal_eval(word)), self.bits)
                new = wrapped(-code, self.bits)
            done.append(Done(int(start[1:]), int(address[1:]), new, following, None, code))
        return replayed(dict(enumerate(memory.tolist())), done)

    def card(self, memory: object, start: int) -> dict[str, Array]:
        """The text: an address and its word for each cell that is not 0, and where to start.

        Raises:
          InputError: the image does not fit, or no cell is at the start.
        """
        if not isinstance(start, int) or f">{start}" not in self.tokens:
            raise InputError(
                f"start: expected a cell from 0 to {self.cells - 1}, got {shown(start)}"
            )
        held = fitting(image_of(memory), [(0, self.cells)], self.bits)
        pairs = [(f"@{cell}", f"={word}") for cell, word in sorted(held.items()) if word]
        text = [*itertools.chain.from_iterable(pairs), f">{start}"]
        return {self.input: np.array([self.tokens[word] for word in text])}
