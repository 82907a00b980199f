"""Cards: what was done to a compiled network, and how right it still is."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lsrl import schema
from lsrl.schema import Reader


@dataclass(frozen=True)
class Measured:
    """Outputs of a network against those of its program, on random legal inputs.

    Attributes:
      sequences: how many.
      length: tokens of each.
      accuracy: share of tokens whose outputs are right: off by less than half a grid step, or 5 %
        of the range of a continuous output.
      equal: whether every output is the program's bit for bit.
      error: greatest difference of an output; infinite where one is NaN.
      right_length: tokens up to which every sequence is right.
    """

    sequences: int
    length: int
    accuracy: float
    equal: bool
    error: float
    right_length: int


@dataclass(frozen=True)
class Card:
    """What was done to a compiled network.

    Attributes:
      steps: one a change, in order: the variant's name, and its settings as text.
      exact: whether it is proven that outputs equal the program's, up to the certificate's length.
      tolerance: greatest difference of an output that counts as right.
      measured: what was found by running it.
      notes: further findings, in words.
    """

    steps: tuple[tuple[str, str], ...]
    exact: bool
    tolerance: float
    measured: Measured
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The changes in one line."""
        return ", ".join(f"{name}({settings})" for name, settings in self.steps)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; an infinite error is null."""
        found = asdict(self)
        if not math.isfinite(self.measured.error):
            found["measured"]["error"] = None
        return found

    @classmethod
    def from_json(cls, content: object) -> "Card":
        """What `to_json` gave.

        Raises:
          FormatError: names the field that is missing or wrong.
        """
        return schema.read(cls, content, _FIELDS)

    def __str__(self) -> str:
        """A few lines of text."""
        found = self.measured
        return "\n".join(
            [
                self.title,
                f"exact        {'yes' if self.exact else 'no'}",
                f"accuracy     {found.accuracy:.4%} of the tokens of {found.sequences} sequences "
                f"of {found.length} tokens{', every output equal' if found.equal else ''}",
                f"error        {found.error:.3g} at most (right below {self.tolerance:g})",
                f"right up to  {found.right_length} tokens",
                *(f"note         {note}" for note in self.notes),
            ]
        )


_COUNT = schema.integer(0)
_FIELDS: Mapping[str, Reader[object]] = {
    **dict.fromkeys(("sequences", "length", "right_length"), _COUNT),
    "accuracy": schema.number(0.0, 1.0),
    "error": schema.maybe(schema.number(0.0, infinite=False), math.inf),
    "tolerance": schema.number(0.0),
}
