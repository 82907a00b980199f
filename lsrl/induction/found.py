"""What an induction found: candidates by description length, each a program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, final, overload

from lsrl.errors import InductionError, LsrlError
from lsrl.induction.expressions import Expression
from lsrl.induction.prompting import commands_of
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.programs import pipeline_prompt

if TYPE_CHECKING:
    from lsrl.model import Model


@final
@dataclass(frozen=True)
class Candidate:
    """A program that agrees with every example.

    Attributes:
      solver: "affine", "automaton" or "compose".
      program: what running the text gives.
      expression: it in one line.
      bits: its description length, by which candidates are ranked.
      verified_to: tokens of the longest data outside the examples that it agrees with; None where
        there was none.
      text: as `source` tells it.
      doubt: why a validation that it agrees with does not verify it; "" if none does.
      expressions: of a composition, one an output.

    Example:
      print([type(candidate).__name__ for candidate in found][:1])
    """

    solver: str
    program: Program
    expression: str
    bits: float
    verified_to: int | None
    text: str = field(repr=False)
    doubt: str = ""
    expressions: tuple[Expression, ...] = field(default=(), repr=False)

    def source(self) -> str:
        """The program as text: running it gives the same program."""
        return self.text

    def prompt_for(self, pipeline: Program, values: object = ()) -> Array:
        """The prompt by which a pipeline does what this composition does.

        Args:
          pipeline: made by `lsrl.programs.pipeline`.
          values: data that follow, integers (time,) or (batch, time).

        Returns:
          Ints (tokens,) or (batch, tokens): the pipeline's input.

        Raises:
          InductionError: this is no composition of one output, or the pipeline lacks a skill, a
            number or a step; says which.
          ProgramError: it is no pipeline, or the values are beyond its bound.
        """
        if len(self.expressions) != 1:
            what = f"{len(self.expressions)} outputs" if self.expressions else f"the {self.solver}"
            raise InductionError(
                f"a pipeline carries out a composition of one output, and this is {what}: "
                f"{self.expression}; induce with solvers=['compose'], or compile the program"
            )
        return pipeline_prompt(pipeline, commands_of(self.expressions[0], pipeline), values)

    def __str__(self) -> str:
        """One line."""
        said = "not verified" if self.verified_to is None else f"verified to {self.verified_to}"
        said += f" ({self.doubt})" * bool(self.doubt)
        return f"{self.solver}, {self.bits:.0f} bits, {said}: {self.expression}"


class Refusal(NamedTuple):
    """Why a solver has no candidate, or lost it.

    Attributes:
      solver: its name.
      reason: in words.
      agreed_to: of one that was found and refuted, the tokens that it was right at; else None.

    Example:
      print(lifted.refusals[0].solver, lifted.refusals[0].reason[:10])
    """

    solver: str
    reason: str
    agreed_to: int | None = None


class Checked(NamedTuple):
    """What a lifted program was held against: nothing that a solver had asked for.

    Attributes:
      queries: sequences that the network was asked for in all.
      sequences: fresh random ones that all candidates agree with.
      length: tokens of each.
      tolerance: share of the greatest output so far by which outputs may be off; 0 where equal.
      error: the greatest difference of an output of the best candidate; None where there is none.
      states: the network is the machine that was found if it is one of at most so many states; None
        where nothing is known of that.

    Example:
      print(lifted.checked)
    """

    queries: int
    sequences: int
    length: int
    tolerance: float
    error: float | None = None
    states: int | None = None

    def __str__(self) -> str:
        """A line."""
        off = f", off by at most {self.error:.3g}" if self.error else ""
        known = "" if self.states is None else (
            f"; of all machines of at most {self.states} states it can be no other"
        )  # fmt: skip
        return (
            f"asked for {self.queries:,} sequences, checked on {self.sequences} fresh ones of "
            f"{self.length} tokens{off}{known}"
        )


@final
@dataclass(frozen=True)
class Found(Sequence[Candidate]):
    """Candidates, the shortest first, those in doubt last; the properties are those of the first.

    Attributes:
      candidates: all that agree with the examples and with the validation.
      refusals: what the other solvers say.
      tried: streams that the search of compositions made.
      seconds: of CPU time, by solver.
      checked: of what was lifted, how far; None of what was induced.

    Example:
      print(found.program.run([1, 1, 0])[:, 0])
    """

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    tried: int
    seconds: dict[str, float]
    checked: Checked | None = None

    @property
    def best(self) -> Candidate:
        """The shortest.

        Raises:
          InductionError: nothing was found; says why.
        """
        if not self.candidates:
            reasons = "; ".join(f"{each.solver}: {each.reason}" for each in self.refusals)
            if self.checked is not None:
                raise InductionError(
                    f"nothing was lifted ({reasons}); allow more queries, budget or skills, a "
                    "shorter length, or another reading of the outputs"
                )
            raise InductionError(
                f"nothing agrees with all examples ({reasons}); give more budget, skills or "
                "examples, and if the examples hold noise, that alone is reason enough"
            )
        return self.candidates[0]

    @property
    def program(self) -> Program:
        """Of the shortest."""
        return self.best.program

    @property
    def expression(self) -> str:
        """Of the shortest."""
        return self.best.expression

    @property
    def verified_to(self) -> int | None:
        """Of the shortest: no claim is made of greater lengths."""
        return self.best.verified_to

    def source(self) -> str:
        """Of the shortest."""
        return self.best.source()

    def prompt_for(self, pipeline: Program, values: object = ()) -> Array:
        """Of the shortest composition; see `Candidate.prompt_for`.

        Raises:
          InductionError: as there, or nothing was found.
        """
        composed = (each for each in self.candidates if each.expressions)
        return next(composed, self.best).prompt_for(pipeline, values)

    def compile(self, target: str, **options: object) -> "Model":
        """The shortest candidate that a target holds, compiled.

        Args:
          target: one of `lsrl.targets()`.
          **options: of `lsrl.compile`.

        Raises:
          InductionError: nothing was found, or the target holds no candidate; with the reasons.
        """
        from lsrl.compiler import compile

        _ = self.best  # or say why there is none
        reasons = []
        for candidate in self.candidates:
            try:
                return compile(candidate.program, target, **options)  # type: ignore[arg-type]
            except LsrlError as error:
                reasons.append(f"{candidate.solver}: {error}")
        raise InductionError(f"{target} holds no candidate:\n" + "\n".join(reasons))

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Candidate, ...]: ...
    def __getitem__(self, index: int | slice) -> Candidate | tuple[Candidate, ...]:
        """By rank."""
        return self.candidates[index]

    def __str__(self) -> str:
        """A line a candidate and a refusal."""
        lines = [str(candidate) for candidate in self.candidates]
        lines += [f"{each.solver}: {each.reason}" for each in self.refusals]
        lines += [] if self.checked is None else [str(self.checked)]
        return "\n".join(lines)
