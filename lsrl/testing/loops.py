"""Loops of models against the reference: what a model read by itself, evaluated anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.language.run import Run
from lsrl.testing.verification import Difference, errors_of

Held = TypeVar("Held")  # the state between tokens
# Tokens of a drawn sequence that are a prompt, machines that run, and keys that each gets.
PROMPT, MACHINES, KEYS = 8, 16, 4


class Looping(Protocol[Held]):
    """What `compare_loops` needs of a compiled model."""

    program: Program

    @property
    def allowed_error(self) -> float:
        """Greatest error of an output that what is proven allows."""

    def loop(
        self, *prompt: ArrayLike | Run[Held], steps: int, stdin: bytes | Sequence[bytes]
    ) -> Run[Held]:
        """Outputs as the next input."""


@dataclass(frozen=True)
class LoopComparison:
    """What came of loops.

    Attributes:
      machines: how many ran.
      instructions: how many of them all were compared.
      halted: how many machines stopped by themselves.
      cut: how many broke a promise; what is behind it is not compared.
      difference: the first that is larger than allowed, or None.
    """

    machines: int
    instructions: int
    halted: int
    cut: int
    difference: Difference | None

    def __str__(self) -> str:
        """One line."""
        cut = f", {self.cut} cut off at a broken promise" if self.cut else ""
        return (
            f"loops        {self.machines} machines, {self.instructions} instructions, "
            f"{self.halted} halted{cut}"
        )


def compare_loops(
    model: Looping[Held], inputs: Sequence[Array], lengths: Array, steps: int
) -> LoopComparison:
    """Let a model loop behind the beginnings of some sequences, and evaluate what it read.

    What it read is its own outputs, so where each of them is right the whole loop is; and an
    inexact model is held to its bound at each token, whatever it fed itself.

    Args:
      model: with feedback.
      inputs: one array an input, (sequences, tokens, ...).
      lengths: (sequences,) how many tokens of each keep the promises.
      steps: instructions of each at most.
    """
    program = model.program
    rows = np.flatnonzero(lengths > 0)[:MACHINES]
    tokens = min(PROMPT, int(lengths[rows].min(initial=PROMPT)))
    if program.max_length is not None:
        steps = min(steps, program.max_length - tokens)
    if not len(rows) or steps < 1:
        return LoopComparison(0, 0, 0, 0, None)
    keys = b""
    wiring = program.wiring()
    if wiring.key is not None:
        greatest = int(min(wiring.types[wiring.key][1].facts().high[0], 255))
        keys = bytes(range(max(0, greatest - KEYS), greatest))
    run = model.loop(*(array[rows, :tokens] for array in inputs), steps=steps, stdin=keys)
    done, output = run.record.done, program.graph.output
    legal, values = evaluate_prefixes(program.graph, run.inputs, [output])
    told = run.inputs[0].shape[1] - run.outputs.shape[1]
    count = np.clip(legal - told, 0, done)
    ahead = np.arange(run.outputs.shape[1]) < count[:, None]
    expected = values[output][:, told:].astype(np.float64)
    wrong = errors_of(expected, run.outputs, ahead).max(axis=-1, initial=0.0)
    places, difference = np.argwhere(wrong > model.allowed_error), None
    if len(places):
        machine, token = places[np.lexsort((places[:, 0], places[:, 1]))[0]]
        difference = Difference(
            "loop", int(machine), int(token) + told, expected[machine, token].tolist(),
            run.outputs[machine, token].tolist(), model.allowed_error,
        )  # fmt: skip
    return LoopComparison(
        len(rows), int(count.sum()), int(run.record.halted.sum()), int((count < done).sum()),
        difference,
    )  # fmt: skip
