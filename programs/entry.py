"""One row of the catalogue: a program with its reference and the inputs to try it on."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lsrl import Program, Token, Vector

Array = npt.NDArray[Any]
Result = TypeVar("Result")
Inputs = tuple[Array, ...]  # one array an input: tokens (time,) or vectors (time, width)

# Extreme inputs are as long as the program allows, but no longer than this.
LONGEST_EXTREME = 2000
# The length of extreme inputs of programs that have no max_length.
UNLIMITED_EXTREME = 200


@dataclass(frozen=True)
class Entry:
    """A program of the library, and all that tests, tables and benchmarks need to run over it.

    The functions it holds take what they need of the program's parameters by name; the methods
    complete the parameters with the defaults of `build`, so callers give only those that differ.

    Attributes:
      build: the function that returns the program.
      reference: the plain-Python algorithm: lists of ints (or of lists of floats) in, parameters by
        name; a list with one number or tuple a token out.
      parameters: sample parameters; the first is the default one, kept small.
      sampler: (rng, steps, **parameters) -> inputs that honour the program's promises, at most
        `steps` long; None for uniformly random values of the declared types.
      edges: (**parameters) -> further extreme inputs.
      free: whether every input of the declared types is legal, so that constant inputs at the ends
        of the ranges belong to the extremes.
      tolerance: greatest absolute difference that float64 may leave; 0 where it is exact.

    Example:
      entry = lsrl.programs.catalogue()["majority"]
      bits = entry.sample(np.random.default_rng(0), 5)[0]
      print(entry.family, (entry.program().run(bits) == entry.expected((bits,))).all())
    """

    build: Callable[..., Program]
    reference: Callable[..., Sequence[npt.ArrayLike]]
    parameters: tuple[Mapping[str, object], ...] = ({},)
    sampler: Callable[..., Inputs] | None = None
    edges: Callable[..., list[Inputs]] | None = None
    free: bool = True
    tolerance: float = 0.0

    @property
    def name(self) -> str:
        """The name of `build` in lsrl.programs."""
        return self.build.__name__

    @property
    def family(self) -> str:
        """The module that `build` lives in."""
        return self.build.__module__.rpartition(".")[2].replace("_", " ")

    @property
    def shows(self) -> str:
        """What the program shows, in one line: the paragraph `Shows: …` of its docstring."""
        paragraphs = (inspect.getdoc(self.build) or "").split("\n\n")
        shown = [text for text in paragraphs if text.startswith("Shows: ")]
        return " ".join(shown[0].split()[1:]) if shown else ""

    def program(self, **parameters: object) -> Program:
        """Build the program with these parameters, defaults for the rest."""
        return self.build(**parameters)

    def expected(self, inputs: Inputs, **parameters: object) -> Array:
        """What the plain-Python reference answers.

        Args:
          inputs: one array an input, one sequence each: tokens (time,), vectors (time, width).
          **parameters: the parameters that differ from the defaults.

        Returns:
          (time, outputs), float64.
        """
        rows = _call(self.reference, [x.tolist() for x in inputs], self._settings(parameters))
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1)

    def sample(self, rng: np.random.Generator, length: int, /, **parameters: object) -> Inputs:
        """Draw one legal input.

        Args:
          rng: the source of randomness.
          length: the greatest number of tokens; the program's max_length cuts it further.
          **parameters: the parameters that differ from the defaults.

        Returns:
          One array an input: tokens (time,), vectors (time, width).
        """
        if self.sampler is not None:
            settings = self._settings(parameters)
            longest = settings.get("max_length")
            if isinstance(longest, int):
                length = min(length, longest)
            return _call(self.sampler, [rng, length], settings)
        kinds, longest = self._declared(parameters)
        if longest is not None:
            length = min(length, longest)
        return tuple(random_values(rng, kind, length) for kind in kinds)

    def extremes(self, **parameters: object) -> list[Inputs]:
        """Inputs at the ends of the declared ranges, one token long and as long as allowed.

        Args:
          **parameters: the parameters that differ from the defaults.

        Returns:
          A list of inputs, each as `sample` returns them.
        """
        program = self.build(**parameters)
        edges = [] if self.edges is None else _call(self.edges, [], self._settings(parameters))
        # Every prefix of a legal input is legal.
        cut = [tuple(x[: program.max_length] for x in inputs) for inputs in edges]
        further = [inputs for inputs in cut if len(inputs[0])]
        if not self.free:
            return further
        longest = min(program.max_length or UNLIMITED_EXTREME, LONGEST_EXTREME)
        kinds = list(program.inputs.values())
        constant = [
            tuple(np.stack([end_values(kind)[index]] * length) for kind in kinds)
            for length in sorted({1, longest})
            for index in (0, 1)
        ]
        swinging = tuple(
            np.stack([end_values(kind)[token % 2] for token in range(longest)]) for kind in kinds
        )
        return [*constant, swinging, *further]

    def _declared(
        self, parameters: Mapping[str, object]
    ) -> tuple[tuple[Token | Vector, ...], int | None]:
        """Types of the inputs and greatest length, which it takes a recording to know."""
        given = tuple(sorted(parameters.items()))
        try:
            return _recorded(self.build, given)
        except TypeError:  # a list among them has no hash
            return _recorded.__wrapped__(self.build, given)

    def _settings(self, parameters: Mapping[str, object]) -> dict[str, object]:
        declared = inspect.signature(self.build).parameters.values()
        return {**{p.name: p.default for p in declared}, **parameters}


@functools.lru_cache(maxsize=256)
def _recorded(
    build: Callable[..., Program], parameters: tuple[tuple[str, object], ...]
) -> tuple[tuple[Token | Vector, ...], int | None]:
    program = build(**dict(parameters))
    return tuple(program.inputs.values()), program.max_length


def random_values(rng: np.random.Generator, kind: Token | Vector, length: int) -> Array:
    """Uniformly random values of a declared type: (length,) ints or (length, width) floats."""
    if isinstance(kind, Token):
        return rng.integers(kind.size, size=length)
    low, high, step = np.array(kind.low), np.array(kind.high), kind.grid()
    values = rng.uniform(low, high, size=(length, kind.width))
    # Towards zero, so that a rounded value never leaves the range.
    gridded = np.trunc(values / np.where(step > 0, step, 1.0)) * step
    return np.where(step > 0, np.clip(gridded, low, high), values)


def end_values(kind: Token | Vector) -> tuple[Array, Array]:
    """The least and the greatest value of a declared type."""
    if isinstance(kind, Token):
        return np.array(0), np.array(kind.size - 1)
    return np.array(kind.low), np.array(kind.high)


def _call(
    function: Callable[..., Result], arguments: list[object], settings: Mapping[str, object]
) -> Result:
    """Call a function with those of the settings that it takes."""
    taken = inspect.signature(function).parameters
    return function(*arguments, **{k: v for k, v in settings.items() if k in taken})
