"""What a search composes: skills on skills on leaves, and what they give on examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from lsrl.induction.operators import BIT, LARGE, RANGES, SMALL, Kind, Operator
from lsrl.ir.numbers import Array


@final
@dataclass(frozen=True)
class Expression:
    """A leaf, or an operator on expressions.

    Attributes:
      operator: a skill with its number; None for a leaf.
      operands: of the operator.
      leaf: the text of a leaf: `x`, `x[0]`, `x.one_hot`, `2`.
    """

    operator: Operator | None = None
    operands: "tuple[Expression, ...]" = ()
    leaf: str = ""

    @property
    def size(self) -> int:
        """Number of skills and leaves."""
        return 1 + sum(operand.size for operand in self.operands)

    def parts(self) -> "list[Expression]":
        """Itself and all in it, each once, operands first."""
        found: dict[Expression, None] = {}
        for operand in self.operands:
            found.update(dict.fromkeys(operand.parts()))
        found[self] = None
        return list(found)

    def __str__(self) -> str:
        """Skills as functions of their operands."""
        if self.operator is None:
            return self.leaf
        number = self.operator.number
        given = [str(operand) for operand in self.operands]
        given += [] if number is None else [f"{self.operator.skill.constant}={number}"]
        return f"{self.operator.skill.name}({', '.join(given)})"


def within(lengths: Array, tokens: int) -> Array:
    """(sequences, time) bool: the tokens of sequences of some lengths."""
    return cast(Array, np.arange(tokens) < lengths[:, None])


def kind_of(values: Array, bit: bool) -> Kind | None:
    """The kind of a stream (..., width) by its values; None beyond all ranges."""
    most = float(np.abs(values).max(initial=0))
    if most > RANGES[LARGE][1]:
        return None
    return Kind(values.shape[-1], BIT if bit else SMALL if most <= RANGES[SMALL][1] else LARGE)


def evaluated(
    expression: Expression,
    leaves: Mapping[str, tuple[Array, Kind]],
    lengths: Array | None = None,
) -> Array | None:
    """What an expression gives by the reference evaluator.

    Args:
      expression: over the leaves.
      leaves: by text, (sequences, time, width), and what they are.
      lengths: (sequences,) tokens of each; all is 0 behind. By default all have one length.

    Returns:
      (sequences, time, width); None where a promise is broken, or values leave all ranges.
    """
    known: dict[Expression, tuple[Array, Kind]] = {}
    for part in expression.parts():
        if part.operator is None:
            known[part] = leaves[part.leaf]
            continue
        operands = [known[operand] for operand in part.operands]
        tokens = operands[0][0].shape[1]
        made = part.operator.on([kind for _, kind in operands], tokens)
        if made is None:
            return None
        values, legal = made([array for array, _ in operands])
        if lengths is not None:
            values = values * within(lengths, tokens)[..., None]
        kind = kind_of(values, made.kind.range == BIT)
        if kind is None or (legal < (tokens if lengths is None else lengths)).any():
            return None
        known[part] = values, kind
    return known[expression][0]
