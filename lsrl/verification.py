"""Models against the reference evaluator, on random inputs and at the ends of the ranges."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lsrl.certificate import Certificate
from lsrl.errors import BoundsError, InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.program import Program


class Runnable(Protocol):
    """What `compare` needs of a compiled model."""

    program: Program
    certificate: Certificate

    def run(self, *inputs: Any) -> Array:
        """Whole sequences."""

    def init_state(self, batch: int | None = None) -> Any:
        """The state before the first token."""

    def step(self, state: Any, *inputs: Any) -> tuple[Array, Any]:
        """One token."""


class Difference(NamedTuple):
    """The first token at which a model differs from its program."""

    mode: str
    sequence: int
    token: int
    expected: list[float]
    got: list[float]
    allowed: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.mode}: sequence {self.sequence}, token {self.token}: expected {self.expected}, "
            f"got {self.got}, allowed error {self.allowed:.3g}"
        )


def sample_inputs(
    types: dict[str, InputType], sequences: int, length: int, seed: int
) -> list[Array]:
    """Legal inputs (sequences, length[, width]): all low, all high, then random ones."""
    random = np.random.default_rng(seed)
    found: list[Array] = []
    for kind in types.values():
        if isinstance(kind, Token):
            ids = random.integers(0, kind.size, (sequences, length))
            ids[:1], ids[1:2] = 0, kind.size - 1
            found.append(ids)
            continue
        low, high, step = np.array(kind.low), np.array(kind.high), kind.grid()
        values = random.uniform(low, high, (sequences, length, kind.width))
        values[:1], values[1:2] = low, high
        unit = np.where(step > 0, step, 2.0**-10)
        snapped = np.clip(np.round(values / unit) * unit, low, high)
        # Ends that lie off the grid would be refused, so move inwards.
        snapped = np.where(
            (step > 0) & (np.mod(snapped, unit) != 0), np.ceil(low / unit) * unit, snapped
        )
        found.append(snapped)
    return found


def compare(
    model: Runnable,
    *,
    inputs: Sequence[Array] | None = None,
    sequences: int = 8,
    length: int = 64,
    seed: int = 0,
    steps: bool = True,
) -> Difference | None:
    """The first difference between a model and its program, or None.

    Equal where the certificate says exact, else within its bound. Sequences that break a promise of
    the program are left out; if all do, shorter ones are tried.

    Args:
      model: the model.
      inputs: what to run on, (sequences, length[, width]) each; random inputs by default.
      sequences: how many; the first two are at the ends of the ranges.
      length: tokens, at most the program's max_length.
      seed: of the random inputs.
      steps: also compare the step mode.

    Raises:
      InputError: every sequence breaks a promise at its first token.
    """
    if inputs is None:
        length = min(length, model.program.max_length or length)
        inputs = sample_inputs(model.program.inputs, sequences, length, seed)
    legal, expected = legal_inputs(model.program, inputs)
    length = legal[0].shape[1]
    allowed = 0.0 if model.certificate.exact else model.certificate.error_bound
    modes = {"run": model.run(*legal)}
    if steps:
        state, outputs = model.init_state(batch=len(expected)), []
        for t in range(length):
            output, state = model.step(state, *(array[:, t] for array in legal))
            outputs.append(output)
        modes["step"] = np.stack(outputs, axis=1)
    for mode, result in modes.items():
        difference = _first_difference(mode, np.stack(expected), result.astype(np.float64), allowed)
        if difference is not None:
            return difference
    return None


def legal_inputs(program: Program, inputs: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """The sequences that keep every promise, with what the program makes of them."""
    length = inputs[0].shape[1]
    while length:
        kept, expected = [], []
        for i in range(len(inputs[0])):
            try:
                expected.append(program.run(*(array[i, :length] for array in inputs)))
                kept.append(i)
            except BoundsError:
                continue
        if kept:
            return [array[kept, :length] for array in inputs], expected
        length //= 2
    raise InputError(
        f"every input breaks a promise of {program.name!r} at once; pass legal ones: inputs=[...]"
    )


def _first_difference(mode: str, expected: Array, got: Array, allowed: float) -> Difference | None:
    wrong = ~(np.abs(expected - got) <= allowed)
    if not wrong.any():
        return None
    places = np.argwhere(wrong.any(axis=-1))
    sequence, token = places[np.lexsort((places[:, 0], places[:, 1]))[0]]
    return Difference(
        mode, int(sequence), int(token),
        expected[sequence, token].tolist(), got[sequence, token].tolist(), allowed,
    )  # fmt: skip
