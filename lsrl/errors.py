"""Every exception that LSRL raises on purpose.

Each message says what is wrong, where, what was expected, what came, and how to mend it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class LsrlError(Exception):
    """Root of every error of this package."""


class ProgramError(LsrlError):
    """A program is written in a way that has no meaning; raised at the offending line."""


class ShapeError(ProgramError):
    """Widths of signals or matrices do not fit together."""


class RampError(ProgramError):
    """Continuous values are compared without the width of a ramp."""


class BoundsError(LsrlError):
    """A value lies outside the interval that was declared or promised for it."""


class PromiseError(BoundsError):
    """A run breaks a promise of the program.

    Attributes:
      keeper: whose promise it is, "program" or "prompt".
      sequence: of the batch, the one that breaks it first.
      token: the first at which the promise is broken.
    """

    def __init__(self, message: str, keeper: str, sequence: int, token: int) -> None:
        """Remember where, for whoever cuts the sequence off there."""
        self.keeper, self.sequence, self.token = keeper, sequence, token
        super().__init__(message)

    def __reduce__(self) -> "tuple[type[PromiseError], tuple[str, str, int, int]]":
        """For processes that hand errors on."""
        return type(self), (str(self), self.keeper, self.sequence, self.token)


class TheoremError(LsrlError):
    """A value lies outside what LSRL has proven of it: a fault of LSRL, not of the program."""


class InputError(LsrlError):
    """An input is not what the program declares: wrong symbol, shape, dtype, length or NaN."""


class PrecisionError(LsrlError):
    """No finite, normal weights of the dtype carry out even the first token."""


class SizeError(LsrlError):
    """A network would have more parameters than are allowed; none of them was made.

    Attributes:
      parameters: the numbers that it would hold.
      most: the number that is allowed.
    """

    def __init__(self, message: str, parameters: int, most: int) -> None:
        """Remember both numbers, for whoever allows more."""
        self.parameters, self.most = parameters, most
        super().__init__(message)


class InexactError(LsrlError):
    """An arithmetic can't hold the values of a program exactly; says of which signal, and why."""


class FormatError(LsrlError):
    """A file is damaged, truncated, or not a saved model."""


class NewerSchemaError(FormatError):
    """A file is of a newer version than this one of the package reads; a newer one does."""


class SuiteError(LsrlError):
    """A directory of the suite is not as it was built, or is being built by another process."""


class MissingFileError(SuiteError):
    """The manifest names a file that is not there."""


class HashError(SuiteError):
    """A file has other bytes than the manifest says."""


class ModelDifferenceError(SuiteError):
    """A model, or a dataset, is not what the program says."""


class InductionError(LsrlError):
    """No program was found that agrees with the examples, or that a target holds."""


class NoMachineError(LsrlError):
    """No finite machine of so many states does what a program does."""


class Unbindable(LsrlError):  # noqa: N818  # what `Library.bind` says of a library, not a fault
    """No calls of a library's routines explain the questions and answers given.

    Attributes:
      calls: those that do explain the questions that hold their tokens (`lsrl.nn.Calls`).
      best: these and the best of the others, which explain too little.
    """

    def __init__(self, message: str, calls: Any, best: Any) -> None:
        """Remember what was found, for whoever goes on with a part of the tasks."""
        self.calls, self.best = calls, best
        super().__init__(message)

    def __reduce__(self) -> "tuple[type[Unbindable], tuple[str, Any, Any]]":
        """For processes that hand errors on."""
        return type(self), (str(self), self.calls, self.best)


class AssemblyError(LsrlError):
    """A machine's text, or the image that was made of it, has a fault; says in which line.

    Attributes:
      line: of the text, from 1 on.
    """

    def __init__(self, line: int, message: str) -> None:
        """Remember the line, for editors."""
        self.line, self.message = line, message
        super().__init__(f"line {line}: {message}")

    def __reduce__(self) -> "tuple[type[AssemblyError], tuple[int, str]]":
        """For processes that hand errors on."""
        return type(self), (self.line, self.message)


class UnknownTargetError(LsrlError):
    """No target has that name."""


class SelfTestError(LsrlError):
    """The device at hand does not compute what the certificate relies on."""


@dataclass(frozen=True)
class Offence:
    """One signal that a target can't hold.

    Attributes:
      signal: the signal's name or expression.
      source: "file:line" of the user's code.
      reason: why the target can't hold it, with the theorem or rule.
      targets: names of the targets that would do.
    """

    signal: str
    source: str
    reason: str
    targets: tuple[str, ...]

    def __str__(self) -> str:
        """One line: signal, source, reason, way out."""
        way_out = (
            f"would do: {', '.join(self.targets)}" if self.targets else "no target can hold it"
        )
        return f"{self.signal} ({self.source}): {self.reason}; {way_out}"


class UnsupportedOpError(LsrlError):
    """A target can't hold some signals of a program.

    Attributes:
      offences: every offending signal, in program order.
    """

    def __init__(self, message: str, offences: Sequence[Offence] = ()) -> None:
        """Join the message with one line an offence."""
        self.offences = tuple(offences)
        super().__init__("\n".join([message, *(f"  - {offence}" for offence in self.offences)]))
