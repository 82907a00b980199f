"""SUBLEQ networks that say what they do in words, three an instruction: their prompts."""

import itertools
from dataclasses import dataclass
from typing import final

import numpy as np

from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.machine.image import image_of
from lsrl.machine.subleq import fitting


@final
@dataclass(frozen=True)
class SubleqWords:
    """How a program of `lsrl.programs.subleq_lm` is spoken to.

    Attributes:
      input: the name of its input.
      tokens: by word.
    """

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

    def card(self, memory: object, start: int) -> dict[str, Array]:
        """The text: an address and its word for each cell that is not 0, and where to start.

        Raises:
          InputError: the image does not fit, or no cell is at the start.
        """
        if f">{start}" not in self.tokens:
            raise InputError(f"start: expected a cell from 0 to {self.cells - 1}, got {start!r}")
        held = fitting(image_of(memory), [(0, self.cells)], self.bits)
        pairs = [(f"@{cell}", f"={word}") for cell, word in sorted(held.items()) if word]
        text = [*itertools.chain.from_iterable(pairs), f">{start}"]
        return {self.input: np.array([self.tokens[word] for word in text])}
