"""Straight-line FLEQ programs whose fields are distributions, over a range of whole numbers."""

from collections.abc import Mapping, Sequence
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.machine.fleq import FUNCTIONS
from lsrl.nn.frozen import FrozenParam
from lsrl.nn.memory import Memory
from lsrl.nn.prompts import SMALLEST, Fields


@final
class StraightLine(nnx.Module):
    """The machine of `lsrl.programs.fleq` on lines without jumps, c = f(a, b), that are not known.

    A line's function and cells are distributions, and so is what a cell holds: over the whole
    numbers from `low` to `high`, at which results saturate. It is the expected content, were
    fields and what is read of cells drawn independently; at known fields it is the machine's own,
    where no result leaves the range.

    Attributes:
      cells: their names.
      functions: their names, of those of a FLEQ text.
      low: the least number.
      high: the greatest one.
      memory: of the cells.
      sizes: of the fields of a line, "f", "a", "b" and "c": for `lsrl.nn.Prompt`.
    """

    def __init__(
        self,
        cells: Sequence[str],
        functions: Sequence[str] = ("add", "sub", "mul", "max"),
        low: int = -16,
        high: int = 16,
    ) -> None:
        """Say what lines may name.

        Args:
          cells: their names.
          functions: of numbers, of those of a FLEQ text.
          low: the least number that a cell holds.
          high: the greatest one.

        Raises:
          InputError: no cells, a function that is not known, or a range without 0.
        """
        self.cells = tuple(arguments.names("StraightLine: cells", cells))
        self.functions = tuple(arguments.names("StraightLine: functions", functions))
        known = [name for name in FUNCTIONS if name not in ("matmul", "transpose", "seed")]
        for name in self.functions:
            arguments.choice("StraightLine: functions", name, known)
        if not self.cells or len(set(self.cells)) < len(self.cells) or not self.functions:
            raise InputError(
                "StraightLine: expected different cells and at least one function, got "
                f"{arguments.shown(self.cells)} and {arguments.shown(self.functions)}"
            )
        self.high = arguments.count("StraightLine: high", high, 0)
        self.low = -arguments.count("StraightLine: -low", -low, 0)
        self.memory = Memory(len(self.cells), high - low + 1, -low)
        self.sizes = {"f": len(self.functions)} | dict.fromkeys("abc", len(self.cells))
        self.results = FrozenParam(jnp.asarray(self._results()))

    def _results(self) -> Array:
        """(pairs of values, functions of values), 1 at what each function makes of a pair."""
        values = np.arange(self.low, self.high + 1, dtype=np.float32)
        x, y = (each.ravel() for each in np.meshgrid(values, values, indexing="ij"))
        made = [np.clip(FUNCTIONS[name](x, y), self.low, self.high) for name in self.functions]
        places = np.stack(made, axis=1).astype(int) - self.low
        return np.eye(len(values), dtype=np.float32)[places].reshape(len(x), -1)

    def start(self, contents: Array) -> jax.Array:
        """Contents (examples, cells) of whole numbers as distributions.

        Raises:
          InputError: other numbers, or another shape.
        """
        given = np.asarray(contents)
        fits = given.ndim == 2 and given.shape[1] == len(self.cells)
        if not fits or not ((given >= self.low) & (given <= self.high) & (given % 1 == 0)).all():
            raise InputError(
                f"StraightLine: expected (examples, {len(self.cells)}) whole numbers from "
                f"{self.low} to {self.high}, got {arguments.shown(given)}"
            )
        return jax.nn.one_hot(given.astype(int) - self.low, self.memory.symbols)

    def __call__(self, fields: Fields, start: jax.Array) -> jax.Array:
        """What cells hold in the end.

        Args:
          fields: of lines, (tries, lines, size) by name.
          start: (examples, cells, values).

        Returns:
          (tries, examples, cells, values).
        """
        tries, lines = fields["f"].shape[:2]
        content = jnp.broadcast_to(start, (tries, *start.shape))
        for line in range(lines):
            a, b, c = (
                jnp.broadcast_to(fields[name][:, None, line], content.shape[:3]) for name in "abc"
            )
            x, y = self.memory.read(content, a), self.memory.read(content, b)
            pairs = (x[..., None] * y[..., None, :]).reshape(*x.shape[:2], -1)
            made = jnp.matmul(pairs, self.results[...])
            made = made.reshape(*x.shape[:2], len(self.functions), -1)
            value = jnp.einsum("tefv,tf->tev", made, fields["f"][:, line])
            content = self.memory.write(content, c, value)
        return content

    def loss(self, fields: Fields, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
        """The cross-entropy of what the last cell holds in the end, of each try, (tries,).

        Args:
          fields: of lines.
          examples: contents at first, of `start`, and numbers that the last cell is to hold, less
            `low`, (examples,) int.
        """
        start, wanted = examples
        held = self(fields, start)[:, :, -1]
        right = jnp.take_along_axis(held, wanted[None, :, None], axis=2)
        return -jnp.log(right + SMALLEST).mean((1, 2))

    def run(self, ids: Mapping[str, Array], contents: Array) -> Array:
        """What cells hold in the end, exactly, in float32 as the machine computes.

        Args:
          ids: fields of lines, (lines,) by name.
          contents: (examples, cells) at first.

        Returns:
          (examples, cells) float32.
        """
        held = np.array(contents, np.float32)
        for f, a, b, c in zip(*(ids[name] for name in "fabc"), strict=True):
            held[:, c] = FUNCTIONS[self.functions[f]](held[:, a], held[:, b])
        return held

    def text(self, ids: Mapping[str, Array], contents: Sequence[float]) -> str:
        """A FLEQ text for `lsrl.machine.assemble`.

        Args:
          ids: fields of lines, (lines,) by name.
          contents: of the cells at first.
        """
        cells = zip(self.cells, contents, strict=True)
        told = [".fleq", *(f".cell {name} {number:g}" for name, number in cells)]
        for f, a, b, c in zip(*(ids[name] for name in "fabc"), strict=True):
            told.append(f"{self.cells[c]} = {self.functions[f]} {self.cells[a]} {self.cells[b]}")
        return "\n".join(told) + "\n"
