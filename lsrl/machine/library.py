"""The programs that come along as texts, each with the plain-Python algorithm of what it leaves."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import cast

import numpy as np

from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.machine import references
from lsrl.machine.assembler import assemble
from lsrl.machine.fleq import FleqImage
from lsrl.machine.image import Image


@dataclass(frozen=True)
class MachineProgram:
    """A text, the numbers that it takes, and what it leaves behind.

    Attributes:
      file: the text's, in the package; .sq is SUBLEQ, .fq FLEQ.
      reference: the plain-Python algorithm, from parameters, all of which have defaults, to what is
        left by label. A parameter lies at the label of its name, and its length at `length` if
        there is such a label; entries of a matrix without a cell lie at a11, a12, …; `keys` are
        those that are typed. "text" is what is printed.
      tolerance: greatest relative difference from the reference that rounding leaves.

    Example:
      times = machine.programs()["multiplication"]
      print(times.machine, times.expected(x=3, y=4))
    """

    file: str
    reference: Callable[..., dict[str, object]]
    tolerance: float = 0.0

    @property
    def name(self) -> str:
        """Of the file, without its suffix."""
        return self.file.partition(".")[0]

    @property
    def machine(self) -> str:
        """What carries it out: subleq or fleq."""
        return "fleq" if self.file.endswith(".fq") else "subleq"

    @property
    def text(self) -> str:
        """The text."""
        return (resources.files("lsrl.machine") / "texts" / self.file).read_text(encoding="utf-8")

    @property
    def shows(self) -> str:
        """What it does: the first comment of its text."""
        lines = self.text.removeprefix(".fleq\n").splitlines()
        about = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
        return " ".join(line.removeprefix("# ") for line in about)

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters and their defaults."""
        signature = inspect.signature(self.reference)
        return {name: found.default for name, found in signature.parameters.items()}

    def image(self, **parameters: object) -> Image | FleqImage:
        """The memory image, with parameters at their places.

        Raises:
          InputError: there is no such parameter.

        Example: `lsrl.machine.programs()["division"].image(x=47, y=5)`.
        """
        image, values = assemble(self.text), self._complete(parameters)
        values.pop("keys", None)
        if isinstance(image, FleqImage):
            return image.put(**values)
        several = [value for value in values.values() if isinstance(value, Iterable)]
        if "length" in image.labels and several:
            values["length"] = len(list(several[0]))
        return image.put(**values)

    def keys(self, **parameters: object) -> bytes:
        """What is typed."""
        return cast(bytes, self._complete(parameters).get("keys", b""))

    def expected(self, **parameters: object) -> dict[str, object]:
        """What the plain-Python algorithm leaves, by label."""
        return self.reference(**self._complete(parameters))

    def left(self, memory: Array, text: bytes = b"", **parameters: object) -> dict[str, object]:
        """What a machine has left, in the form of `expected`.

        Args:
          memory: every cell, from address 0 on.
          text: what was printed.
          **parameters: of the image.

        Raises:
          InputError: there is no such parameter, or there are cells of the image without memory.
        """
        image = self.image(**parameters)
        cells = len(image.cells) if isinstance(image, FleqImage) else max(image) + 1
        if np.ndim(memory) == 0 or len(memory) < cells:
            raise InputError(
                f"{self.name}: expected the memory of a machine, {cells} cells from address 0 on, "
                f"got {shown(memory)}"
            )
        return {
            label: text if label == "text" else _read(image, memory, label, value)
            for label, value in self.expected(**parameters).items()
        }

    def _complete(self, parameters: dict[str, object]) -> dict[str, object]:
        known = self.parameters
        if unknown := sorted(parameters.keys() - known.keys()):
            raise InputError(
                f"{self.name}: no parameter {unknown[0]!r}; it has {', '.join(known) or 'none'}"
            )
        for name, value in parameters.items():
            like = known[name]
            if isinstance(like, Iterable) != isinstance(value, Iterable):
                raise InputError(
                    f"{self.name}: {name} is such as {like!r}, got {shown(value)}; give "
                    + ("several numbers" if isinstance(like, Iterable) else "one number")
                )
        return known | parameters


def _read(image: Image | FleqImage, memory: Array, label: str, like: object) -> object:
    """What lies at a label, in the form of another value."""
    wanted = np.asarray(like)
    if isinstance(image, FleqImage):
        if label in image.cells:
            return np.reshape(memory[image.address(label)], wanted.shape)
        places = [image.address(name) for name in image.entries(label, wanted)]
        return np.reshape([memory[place] for place in places], wanted.shape)
    first = image.address(label)
    found = memory[first : first + wanted.size].tolist()
    return found if wanted.ndim else found[0]


def programs() -> dict[str, MachineProgram]:
    """Every program that comes along as text, by name.

    Returns:
      Those for SUBLEQ, then those for FLEQ.

    Example:
      print([*machine.programs()][:3])
    """
    found = (
        MachineProgram("hello.sq", references.hello),
        MachineProgram("echo.sq", references.echo),
        MachineProgram("multiplication.sq", references.multiplication),
        MachineProgram("division.sq", references.division),
        MachineProgram("primes.sq", references.primes),
        MachineProgram("sorting.sq", references.sorting),
        MachineProgram("interpreter.sq", references.interpreter),
        MachineProgram("calculator.fq", references.calculator, 1e-5),
        MachineProgram("transpose.fq", references.transpose),
        MachineProgram("product.fq", references.product, 1e-5),
        MachineProgram("inverse.fq", references.inverse, 1e-4),
        MachineProgram("matrix_inverse.fq", references.matrix_inverse, 1e-4),
        MachineProgram("power_iteration.fq", references.power_iteration, 1e-4),
        MachineProgram("solve.fq", references.solve, 1e-4),
        MachineProgram("sgd.fq", references.sgd, 1e-2),
        MachineProgram("approximation.fq", references.approximation, 1e-5),
    )
    return {program.name: program for program in found}
