"""What a command compiles, and with which choices."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lsrl.cli.printing import status
from lsrl.cli.subject import Subject
from lsrl.errors import InputError
from lsrl.options import AUTOMATA, MOST_PARAMETERS, AutomatonLimits, Legalise

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.stages import Watch


class Choices(NamedTuple):
    """The options of compiling as they were typed; what a command doesn't have stays as here.

    Attributes:
      dtype: of --dtype.
      unroll: of --unroll.
      robust: of --robust.
      inspectable: of --inspectable.
      most_parameters: of --most-parameters; there is a default that no saved model is held to.
      automaton_limit: NAME=N, of each --automaton-limit.
    """

    dtype: str | None = None
    unroll: bool = False
    robust: bool = False
    inspectable: bool = False
    most_parameters: int | None = None
    automaton_limit: Sequence[str] | None = None

    @property
    def legalise(self) -> Legalise:
        """The choice of `lsrl.compile` that --unroll stands for."""
        return "unroll" if self.unroll else "native"

    @property
    def most(self) -> int:
        """The most parameters."""
        return MOST_PARAMETERS if self.most_parameters is None else self.most_parameters

    @property
    def limits(self) -> AutomatonLimits:
        """How large an automaton may become.

        Raises:
          InputError: a text that is no limit and a number, or a limit that is given twice.
        """
        given: dict[str, int] = {}
        for text in self.automaton_limit or ():
            name, _, number = text.partition("=")
            if name not in AUTOMATA._fields or not number.isdecimal():
                near = difflib.get_close_matches(name, AUTOMATA._fields, n=1)
                raise InputError(
                    f"--automaton-limit {text!r}: expected NAME=N, such as layers=24, with one of "
                    f"{', '.join(AUTOMATA._fields)}"
                    + (f"; did you mean {near[0]!r}?" if near and near[0] != name else "")
                )
            if name in given:
                raise InputError(f"--automaton-limit {name}: given twice; keep one")
            given[name] = int(number)
        return AUTOMATA._replace(**given)

    def text(self) -> str:
        """Those that were typed, as they were."""
        typed = []
        for name, value in self._asdict().items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                typed.append(option)
            elif value:
                values = [value] if isinstance(value, str | int) else value
                typed.extend(f"{option} {each}" for each in values)
        return ", ".join(typed)


def compiled(
    subject: Subject, target: str | None, choices: Choices, watch: "Watch | None" = None
) -> "Model":
    """The saved model, or the program compiled for the target, with `watch` at its passes."""
    import lsrl

    if subject.model is not None and target is None:
        _check_compiled(subject.model, choices)
        return subject.model
    if target is None:
        names = ", ".join(found.name for found in lsrl.targets())
        raise InputError(f"{subject.program.name}: give a target: --target, one of {names}")
    limits = choices.limits
    with status(f"compiling {subject.program.name} for {target}"):
        return lsrl.compile(
            subject.program,
            target,
            dtype="float32" if choices.dtype is None else choices.dtype,
            legalise=choices.legalise,
            robust=choices.robust,
            inspectable=choices.inspectable,
            most_parameters=choices.most,
            automaton_limits=limits,
            watch=watch,
        )


def check_not_compiled(subject: Subject, choices: Choices) -> None:
    """Refuse options of compiling where nothing is compiled.

    Raises:
      InputError: one is given.
    """
    if given := choices.text():
        raise InputError(
            f"{subject.program.name}: {given}: nothing is compiled without a target; "
            "give one: --target"
        )


def _check_compiled(model: "Model", choices: Choices) -> None:
    """Refuse options of compiling for a model that is compiled already, unless it is so."""
    options = model.options
    differs = Choices(
        None if choices.dtype == model.dtype else choices.dtype,
        choices.unroll and options.legalise != "unroll",
        choices.robust and not options.robust,
        choices.inspectable and not options.inspectable,
        choices.most_parameters,
        choices.automaton_limit,
    )
    if given := differs.text():
        raise InputError(
            f"{model.program.name}: {given}: the saved model is compiled already, for "
            f"{model.target} in {model.dtype}; give a --target to compile its program anew"
        )
