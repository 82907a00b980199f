"""Straight-line FLEQ programs whose fields are distributions, over a range of whole numbers."""

from collections.abc import Iterator, Mapping, Sequence
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
from lsrl.nn.prompts import SMALLEST, Fields, Loss


@final
class StraightLine(nnx.Module):
    """The machine of `lsrl.programs.fleq` on lines without jumps, c = f(a, b), that are not known.

    A line's function and cells are distributions, and so is what a cell holds: over the whole
    numbers from `low` to `high`, at which results saturate. It is the expected content, were
    fields and what is read of cells drawn independently; at known fields it is the machine's own,
    where no result leaves the range. With `halts` a line has one field more, whether the program
    ends behind it, and what cells hold in the end is the mixture of all ends.

    Attributes:
      cells: their names.
      functions: their names, of those of a FLEQ text.
      low: the least number.
      high: the greatest one.
      memory: of the cells.
      sizes: of the fields of a line, "f", "a", "b" and "c", and "h" where it halts: for
        `lsrl.nn.Prompt`.

    Example:
      lines = lsrl.nn.StraightLine(["x", "y", "out"])
      ids = {"f": [2], "a": [0], "b": [1], "c": [2]}  # mul x y out
      print(lines.run(ids, np.array([[3, 4, 0]])).tolist())
    """

    def __init__(
        self,
        cells: Sequence[str],
        functions: Sequence[str] = ("add", "sub", "mul", "max"),
        low: int = -16,
        high: int = 16,
        halts: bool = False,
    ) -> None:
        """Say what lines may name.

        Args:
          cells: their names.
          functions: of numbers, of those of a FLEQ text.
          low: the least number that a cell holds.
          high: the greatest one.
          halts: whether a line may be the last.

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
        self.halts = arguments.flag("StraightLine: halts", halts)
        if halts:
            self.sizes["h"] = 2
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
        shares = self._ends(fields)[:, :, None, None, None]
        ended = jnp.zeros_like(content)
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
            ended = ended + shares[:, line] * content
        return ended if self.halts else content

    def _ends(self, fields: Fields) -> jax.Array:
        """(tries, lines), the chance that each line is the last; the last of all always is."""
        if not self.halts:
            return jnp.zeros(fields["f"].shape[:2]).at[:, -1].set(1)
        stops = fields["h"][..., 1].at[:, -1].set(1)
        before = jnp.cumprod(1 - stops, axis=1)[:, :-1]
        return stops * jnp.pad(before, ((0, 0), (1, 0)), constant_values=1)

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

    def shorter(self, length: float = 0.05, halting: float = 0.1) -> Loss:
        """The loss with a charge for lines, and for not halting (Bunel et al. 2016).

        Args:
          length: for each line that is run, in the mean.
          halting: times the negative logarithm of the chance that it halts of itself, which the
            last line does not have to.

        Returns:
          A function of fields and examples, as `loss` is; keep it, as it is compiled once.

        Raises:
          InputError: lines do not halt.
        """
        arguments.real("StraightLine.shorter: length", length)
        arguments.real("StraightLine.shorter: halting", halting)
        self._needs_halts("shorter")

        def loss(fields: Fields, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
            shares = self._ends(fields)
            run = jnp.matmul(shares, jnp.arange(1, shares.shape[1] + 1, dtype=shares.dtype))
            halted = 1 - jnp.prod(1 - fields["h"][..., 1], axis=1)
            price = length * run - halting * jnp.log(halted + SMALLEST)
            return self.loss(fields, examples) + price

        return loss

    def length(self, ids: Mapping[str, Array]) -> Array:
        """How many lines are run, (...) int.

        Args:
          ids: fields of lines, (..., lines) by name.

        Raises:
          InputError: lines do not halt.
        """
        self._needs_halts("length")
        stops = np.asarray(ids["h"]) > 0
        return np.where(stops.any(-1), stops.argmax(-1) + 1, stops.shape[-1])

    def _needs_halts(self, what: str) -> None:
        if not self.halts:
            raise InputError(
                f"StraightLine.{what}: expected lines that halt; make them by "
                "StraightLine(cells, halts=True)"
            )

    def _shown(self, ids: Mapping[str, Array]) -> Iterator[tuple[int, ...]]:
        """The fields of each line that is run."""
        last = int(self.length(ids)) if self.halts else len(ids["f"])
        return zip(*(np.asarray(ids[name])[:last].tolist() for name in "fabc"), strict=True)

    def run(self, ids: Mapping[str, Array], contents: Array) -> Array:
        """What cells hold in the end, exactly, in float32 as the machine computes.

        Args:
          ids: fields of lines, (lines,) by name.
          contents: (examples, cells) at first.

        Returns:
          (examples, cells) float32.
        """
        held = np.array(contents, np.float32)
        for f, a, b, c in self._shown(ids):
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
        for f, a, b, c in self._shown(ids):
            told.append(f"{self.cells[c]} = {self.functions[f]} {self.cells[a]} {self.cells[b]}")
        return "\n".join(told) + "\n"
