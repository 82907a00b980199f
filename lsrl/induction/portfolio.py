"""Induction: examples in, the shortest programs that agree with them out."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InductionError, InputError, LsrlError
from lsrl.induction import asking, machines, writing
from lsrl.induction import examples as reading
from lsrl.induction.affine import affine
from lsrl.induction.compose import compose
from lsrl.induction.examples import Examples, Teacher
from lsrl.induction.expressions import Expression
from lsrl.induction.found import Candidate, Found, Refusal
from lsrl.induction.skills import Skills
from lsrl.ir.types import InputType, Token, Vector

Solver = Literal["affine", "automaton", "compose"]
SOLVERS: tuple[Solver, ...] = ("affine", "automaton", "compose")
MAX_LENGTH = 256
# Examples that are asked of a teacher, how many times as long its validation is, and how often a
# refuted induction asks for more.
ASKED = 200
LENGTH = 10
LONGER = 5
ROUNDS = 3


@final
@dataclass
class _Search:
    """One induction: what is given, and what has been found."""

    examples: Examples
    validation: Examples | None
    teacher: Teacher | None
    skills: Skills
    budget: int
    name: str
    max_length: int
    candidates: list[Candidate]
    refusals: list[Refusal]
    seconds: dict[str, float]
    tried: int = 0
    machine: machines.Machine | None = None
    expressions: tuple[Expression, ...] | None = None

    def run(self, solvers: Iterable[str]) -> Found:
        """Each solver in turn."""
        work = {"affine": self.affine, "automaton": self.automaton, "compose": self.compose}
        for solver in solvers:
            start = time.process_time()
            try:
                text = work[solver]()
            except InductionError as error:
                self.refusals.append(Refusal(solver, str(error)))
            else:
                self.judge(solver, text)
            self.seconds[solver] = time.process_time() - start
        ranked = sorted(self.candidates, key=lambda each: (each.doubt != "", each.bits))
        return Found(tuple(ranked), tuple(self.refusals), self.tried, self.seconds)

    # ------------------------------------------------------------ solvers

    def affine(self) -> writing.Text:
        """A recurrence."""
        found = affine(self.examples)
        if found is None:
            raise InductionError("the outputs are no affine recurrence of the inputs")
        body = writing.Body(self.examples.types)
        outputs = writing.recurrence(body, found)
        result = "; ".join([*body.lines, ", ".join(outputs)])
        return self.text(body, outputs, result)

    def automaton(self) -> writing.Text:
        """A finite machine, of examples or of a teacher."""
        types, arrays = self.examples.types, self.examples.arrays
        ranges = machines.alphabet(types)
        if ranges is None:
            raise InductionError(f"the inputs are not at most {machines.MOST_SYMBOLS} symbols")
        symbols = self.examples.cut(machines.symbols_of(ranges, arrays))
        numbers, outputs = machines.numbered(self.examples.outputs)
        said = self.examples.cut(numbers)
        letters = int(np.prod([size for _, size in ranges]))
        # What takes more to tell than the outputs do is no explanation of them.
        told = float(self.examples.lengths.sum() * np.log2(max(2, len(outputs))))
        most = machines.most_states(letters, len(outputs), told)
        tables = self.asked_machine(ranges, letters) if self.teacher is not None else None
        if tables is None:
            found = machines.merged(list(zip(symbols, said, strict=True)), letters, most)
            tables = None if found is None else machines.Machine(*found, outputs)
        if tables is None:
            raise InductionError(
                f"no machine of at most {most} states fits, and a larger one takes more to tell "
                "than the outputs"
            )
        states, self.machine = len(tables.follows), tables
        body = writing.Body(types)
        result = f"a machine of {states} state{'s' * (states > 1)} and {letters} symbols"
        return self.text(body, writing.machine(types, ranges, tables), result)

    def asked_machine(self, ranges: list[tuple[int, int]], letters: int) -> machines.Machine | None:
        """By L*, with random words as the search for counterexamples."""
        types, teacher = self.examples.types, self.teacher
        if teacher is None:
            return None
        oracle = asking.Numbered(
            lambda arrays: reading.asked(teacher, types, arrays).outputs, ranges, types
        )
        length = LONGER * self.examples.length
        words = np.random.default_rng(1).integers(0, letters, (ASKED, length))
        own = machines.symbols_of(ranges, self.examples.arrays)
        try:
            found = asking.learnt(oracle, letters, [own, words], length).machine
        except InductionError:  # more outputs than a machine has
            return None
        return None if found is None else replace(found, outputs=tuple(oracle.outputs))

    def compose(self) -> writing.Text:
        """Skills on skills."""
        types = self.examples.types
        # What goes by the name of an input can't be called.
        hidden = [name for name in self.skills if name in types]
        skills = self.skills.without(*hidden) if hidden else self.skills
        if not len(skills):
            raise InductionError("there are no skills")
        if self.expressions is None:
            found = compose(self.examples, skills, self.budget)
            self.tried += found.tried
            self.expressions = found.expressions
            if self.expressions is None:
                raise InductionError(found.refusal)
        body = writing.Body(types)
        outputs = writing.composition(body, self.expressions)
        return self.text(body, outputs, ", ".join(map(str, self.expressions)))

    def text(self, body: writing.Body, outputs: list[str], result: str) -> writing.Text:
        """The whole program."""
        return writing.text_of(
            self.name, self.examples.types, body, outputs, self.max_length, result
        )

    # ------------------------------------------------------------ judging

    def judge(self, solver: str, text: writing.Text) -> None:
        """Run the program by the reference evaluator, on the examples and on the validation."""
        try:
            program = writing.program_of(text)
            right = self.examples.agree(program.run(*self.examples.arrays))
        except LsrlError as error:
            self.refusals.append(Refusal(solver, f"{text.result} is no program: {error}"))
            return
        if not right.all():
            self.refusals.append(Refusal(solver, f"{text.result} errs on the examples"))
            return
        verified = None if self.validation is None else self.validation.length
        if self.validation is not None:
            try:
                right = self.validation.agree(program.run(*self.validation.arrays))
            except LsrlError as error:
                self.refusals.append(Refusal(solver, f"{text.result} fails longer: {error}"))
                return
            if not right.all():
                agreed = int(np.argmin(np.all(right, axis=0)))
                self.refusals.append(Refusal(
                    solver, f"{text.result} agrees with all examples and errs in the validation "
                    f"at token {agreed}", agreed,
                ))  # fmt: skip
                return
        doubt = self.doubt() if solver == "automaton" else ""
        verified = None if doubt else verified
        composed = self.expressions or () if solver == "compose" else ()
        self.candidates.append(
            Candidate(
                solver, program, text.result, text.bits, verified, text.whole, doubt, composed
            )
        )

    def doubt(self) -> str:
        """Why the validation does not verify the machine; "" if it does."""
        ranges = machines.alphabet(self.examples.types)
        if self.validation is None or self.machine is None or ranges is None:
            return ""
        own, longer = (
            each.cut(machines.symbols_of(ranges, each.arrays))
            for each in (self.examples, self.validation)
        )
        return machines.doubt(self.machine, own, longer, self.teacher is None)


def induce(
    examples: object = None,
    *,
    inputs: Mapping[str, InputType] | None = None,
    validation: object = None,
    teacher: Teacher | None = None,
    skills: Skills | None = None,
    budget: int = 300_000,
    solvers: Iterable[Solver] = SOLVERS,
    name: str = "induced",
    max_length: int = MAX_LENGTH,
) -> Found:
    """Find programs that give the outputs of examples.

    Three solvers look for affine recurrences, for finite machines, and for compositions of skills;
    what they find is run by the reference evaluator and ranked by the length of its description.

        found = lsrl.induce([([1, 0, 1, 1], [1, 1, 0, 1]), …], validation=longer)
        print(found.source())
        model = found.compile("mamba")

    Args:
      examples: a list of pairs (inputs, outputs), each of one sequence of any length; or a tuple
        (inputs, outputs) of arrays (sequences, time) or (sequences, time, channels). Several inputs
        are a tuple of arrays, or a dict by name. Noise is refused where it contradicts itself.
      inputs: types of the inputs by name; by default what is seen in examples and validation.
      validation: examples that no solver sees, of any length: a candidate that errs on them is
        refused, and `verified_to` is their length. Three times as long as the examples or longer
        tells true programs from false ones.
      teacher: a function of arrays (sequences, time, ...), one an input, to the outputs. It is
        asked for examples where none are given, for a validation 5 times as long where there is
        none, for more examples where candidates were refuted, and by L* for a finite machine.
      skills: to compose; by default `Skills.standard()`.
      budget: streams that the search of compositions makes at most.
      solvers: which, in order.
      name: of the program.
      max_length: of the program.

    Returns:
      The candidates; none where nothing agrees, with each solver's reason.

    Raises:
      InputError: examples are empty, contradictory, or outside their types; the
        budget is 0; a skill or the teacher raises; a solver is unknown.

    Source: Sindhi and Budvytis (2024), arXiv 2404.02450, for the idea; machines are merged in the
    red-blue order of Lang et al. (1998).

    Example:
      rng = np.random.default_rng(0)
      bits = rng.integers(0, 2, (50, 12))
      found = lsrl.induce((bits, np.cumsum(bits, axis=1) % 2))
      print(found.expression)
    """
    arguments.count("induce: budget", budget)
    arguments.function("induce: teacher", teacher, "one array an input")
    for kind in (inputs or {}).values():
        if not isinstance(kind, Token | Vector):
            raise InputError(f"induce: inputs are lsrl.Token or lsrl.Vector, got {shown(kind)}")
    chosen = checked_solvers("induce", solvers)
    if skills is not None:
        arguments.instance("induce: skills", skills, Skills, "lsrl.induction.Skills")
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"induce: name must be an identifier, got {shown(name)}")
    given = _given(examples, inputs, validation, teacher)
    checked = None if validation is None else reading.read_validation(validation, given)
    longest = max(given.length * (LONGER if teacher else 1), checked.length if checked else 0)
    limit = max(arguments.count("induce: max_length", max_length), longest)
    known = Skills.standard() if skills is None else skills
    rng = np.random.default_rng(2)
    for extra in range(ROUNDS if teacher is not None else 1):
        if teacher is not None and validation is None:
            drawn = reading.drawn(given.types, ASKED, LONGER * given.length, rng)
            checked = reading.asked(teacher, given.types, drawn)
        found = search(given, checked, known, budget, chosen, name, limit, teacher)
        if found.candidates or teacher is None or extra == ROUNDS - 1:
            return found
        more = reading.asked(
            teacher, given.types, reading.drawn(given.types, 2 * len(given), given.length, rng)
        )
        given = reading.joined(given, more)
    return found


def checked_solvers(what: str, solvers: object) -> list[str]:
    """Names of solvers, as users give them.

    Raises:
      InputError: one is unknown.
    """
    chosen = arguments.names(f"{what}: solvers", solvers)
    return [arguments.choice(f"{what}: solvers", solver, SOLVERS) for solver in chosen]


def search(
    examples: Examples,
    validation: Examples | None,
    skills: Skills,
    budget: int,
    solvers: Iterable[str],
    name: str,
    max_length: int,
    teacher: Teacher | None = None,
    expressions: tuple[Expression, ...] | None = None,
) -> Found:
    """What `induce` does with what it has read; with expressions given, none are searched for."""
    return _Search(
        examples, validation, teacher, skills, budget, name, max_length, [], [], {},
        expressions=expressions,
    ).run(solvers)  # fmt: skip


def _given(
    examples: object,
    inputs: Mapping[str, InputType] | None,
    validation: object,
    teacher: Teacher | None,
) -> Examples:
    if examples is not None:
        return reading.read(examples, inputs, validation)
    if teacher is None or inputs is None:
        raise InputError(
            "induce: there are no examples; give pairs (inputs, outputs), or a teacher and the "
            "types of its inputs"
        )
    drawn = reading.drawn(dict(inputs), ASKED, LENGTH, np.random.default_rng(3))
    return reading.asked(teacher, dict(inputs), drawn)
