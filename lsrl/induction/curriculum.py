"""A curriculum: many tasks, in which what is solved becomes a skill for what is not.

Every task has a budget of streams for all its tries together. In each round each unsolved task
takes a share of it, twice that of the round before: so easy tasks are solved early and for little,
and the hard ones are tried with what was learnt from them. Solutions become skills, and after each
round their common parts too (`lsrl.induction.refactoring`).
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.induction import examples as reading
from lsrl.induction import portfolio, task_files
from lsrl.induction.affine import affine
from lsrl.induction.compose import leaves_of
from lsrl.induction.expressions import Expression
from lsrl.induction.found import Candidate, Found, Refusal
from lsrl.induction.macros import inputs_of, names_a_function, parsed, skills_of
from lsrl.induction.refactoring import refactored
from lsrl.induction.skills import Skills, to_json
from lsrl.ir.types import InputType

# Rounds of tries: the last one takes half of the budget.
ROUNDS = 6
MOST_ROUNDS = 20
BUDGET = 100_000


@final
class Task:
    """Examples of one function, and what its solution is called.

    Attributes:
      name: of the skill that its solution becomes.
      examples: that solvers see.
      validation: that they don't; None if there is none outside the examples.

    Example:
      task = lsrl.induction.Task("parity", (bits, np.cumsum(bits, axis=1) % 2))
      print(task.name, task.max_length)
    """

    def __init__(
        self,
        name: str,
        examples: object,
        *,
        validation: object = None,
        inputs: Mapping[str, InputType] | None = None,
    ) -> None:
        """Read the examples, as `lsrl.induce` does.

        Args:
          name: an identifier.
          examples: as for `lsrl.induce`.
          validation: likewise.
          inputs: their types by name; by default what is seen.

        Raises:
          InputError: as of `lsrl.induce`; says of which task.
        """
        if not isinstance(name, str) or not names_a_function(name):
            raise InputError(f"a task's name must be one of a function, got {shown(name)}")
        self.name = name
        try:
            self.examples = reading.read(examples, inputs, validation)
            self.validation = (
                None if validation is None else reading.read_validation(validation, self.examples)
            )
        except InputError as error:
            raise InputError(f"task {name!r}: {error}") from None

    @property
    def max_length(self) -> int:
        """Of its program."""
        longest = 0 if self.validation is None else self.validation.length
        return max(portfolio.MAX_LENGTH, self.examples.length, longest)

    def __repr__(self) -> str:
        """Name, and how much there is."""
        return f"Task({self.name!r}, {len(self.examples)} examples)"


class Row(NamedTuple):
    """What came of a task.

    Attributes:
      task: its name.
      solver: of its shortest candidate; "" if it is not solved.
      expression: of that, in one line; else why there is none.
      bits: its description length; None if there is none.
      verified_to: tokens of the longest data outside the examples that it agrees with.
      tried: streams that were made for it, in all its tries.
      tries: how many there were.
      macros: learnt skills that the expression calls.
      seconds: of CPU time, in all its tries.
    """

    task: str
    solver: str
    expression: str
    bits: float | None
    verified_to: int | None
    tried: int
    tries: int
    macros: tuple[str, ...]
    seconds: float


class Step(NamedTuple):
    """How far a curriculum is.

    Attributes:
      task: that was tried last.
      round: of the tries, from 1 on.
      solved: tasks so far.
      tasks: in all.
      tried: streams so far.
    """

    task: str
    round: int
    solved: int
    tasks: int
    tried: int


@final
@dataclass(frozen=True, eq=False)
class Learnt:
    """What a curriculum came to.

    Attributes:
      skills: those that it began with, and what it learnt.
      found: by task, what solves it, in the order in which they were solved.
      rows: one a task, in the order of the tasks.
      seconds: of CPU time, in all.

    Example:
      print(learnt.found["parity"].expression)
    """

    skills: Skills
    found: dict[str, Found]
    rows: tuple[Row, ...]
    seconds: float

    @property
    def tried(self) -> int:
        """Streams that were made, in all."""
        return sum(row.tried for row in self.rows)

    def report(self) -> str:
        """A line a task: its solver, expression, candidates and macros; and the skills learnt."""
        width = max((len(row.task) for row in self.rows), default=0)
        lines = [
            f"{len(self.found)} of {len(self.rows)} tasks solved, {self.tried:,} candidates, "
            f"{len(self.skills.learnt)} learnt skills"
        ]
        for row in self.rows:
            solved = row.solver or "not solved"
            said = "" if row.verified_to is None else f", verified to {row.verified_to}"
            used = f"; calls {', '.join(row.macros)}" if row.macros else ""
            lines.append(
                f"{row.task:{width}}  {solved}, {row.tried:,} candidates{said}: {row.expression}"
                f"{used}"
            )
        return "\n".join(lines)


@final
class Curriculum:
    """Tasks that are learnt together: what solves one is a skill for the others.

        tasks = [lsrl.induction.Task("rises", examples, validation=longer), …]
        learnt = lsrl.induction.Curriculum(tasks).learn(budget=100_000)
        print(learnt.report())

    Attributes:
      tasks: in order.

    Source: Sindhi and Budvytis (2024), arXiv 2404.02450; skills of common parts as in Ellis et al.
    (2021), "DreamCoder".

    Example:
      learnt = lsrl.induction.Curriculum([task]).learn(budget=20_000, solvers=["compose"])
      print([*learnt.found])
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Some tasks.

        Raises:
          InputError: there are none, or two of one name.
        """
        self.tasks = tuple(
            arguments.instance("Curriculum", task, Task, "lsrl.induction.Task") for task in tasks
        )
        names = [task.name for task in self.tasks]
        twice = [name for name in names if names.count(name) > 1]
        if not names or twice:
            what = f"two called {twice[0]!r}" if twice else "none"
            raise InputError(f"Curriculum: expected tasks of different names, got {what}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Curriculum":
        """The tasks of a JSON file: docs/induction.md has its form.

        Raises:
          FormatError: it is no such file; says where.
          InputError: examples are none, as of `Task`.
          OSError: the file can't be read.
        """
        given = task_files.read_tasks(path)
        return cls(
            Task(name, pairs, validation=longer, inputs=types)
            for name, types, pairs, longer in given
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tasks as `load` reads them.

        Raises:
          OSError: the file can't be written.
        """
        task_files.write_tasks(path, self._json())

    def learn(
        self,
        skills: Skills | None = None,
        *,
        budget: int = BUDGET,
        rounds: int = ROUNDS,
        solvers: Iterable[portfolio.Solver] = portfolio.SOLVERS,
        state: str | os.PathLike[str] | None = None,
        progress: Callable[[Step], object] | None = None,
    ) -> Learnt:
        """Solve as many tasks as there are solutions for.

        Args:
          skills: to begin with; by default `Skills.standard()`. They stay as they are.
          budget: streams that all tries of one task make together at most.
          rounds: of tries; each has twice the budget of the one before.
          solvers: as for `lsrl.induce`.
          state: a file that every try is written to, so that a search that was killed goes on here,
            and comes to what an unbroken one comes to.
          progress: called after every try.

        Raises:
          InputError: the budget or the rounds are 0, or a solver is unknown.
          FormatError: the state is damaged, or of another curriculum.
          OSError: the state can't be read or written.
        """
        arguments.count("learn: budget", budget)
        arguments.count("learn: rounds", rounds, most=MOST_ROUNDS)
        arguments.function("learn: progress", progress, "a step")
        chosen = portfolio.checked_solvers("learn", solvers)
        if skills is not None:
            arguments.instance("learn: skills", skills, Skills, "lsrl.induction.Skills")
        known = Skills.standard() if skills is None else skills.without()
        key = task_files.key_of({
            "tasks": self._json(), "skills": list(known), "learnt": to_json(known.learnt),
            "budget": budget, "solvers": chosen, "rounds": rounds,
        })  # fmt: skip
        journal = task_files.Journal.opened(state, key)
        return _Learning(self.tasks, known, budget, rounds, chosen, journal, progress).run()

    def _json(self) -> list[dict[str, object]]:
        return [
            task_files.task_json(task.name, task.examples, task.validation) for task in self.tasks
        ]


@final
@dataclass
class _Learning:
    """One run of a curriculum."""

    tasks: Sequence[Task]
    skills: Skills
    budget: int
    rounds: int
    solvers: Sequence[str]
    journal: task_files.Journal
    progress: Callable[[Step], object] | None
    found: dict[str, Found] = field(default_factory=dict)
    tried: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    # By task, the learnt skill that gives each output, or "".
    named: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def run(self) -> Learnt:
        """Rounds of tries, each with twice the budget of the one before."""
        start = time.process_time()
        for number in range(self.rounds):
            share = max(1, self.budget * 2**number // (2**self.rounds - 1))
            for task in self.tasks:
                room = min(share, self.budget - self.tried[task.name])
                if task.name not in self.named and room > 0:
                    self.attempt(task, number, room)
            self.skills = refactored(self.skills)
        for task in self.tasks:
            if self.named.get(task.name):
                self.rewrite(task)
        rows = tuple(map(self.row, self.tasks))
        return Learnt(self.skills, self.found, rows, time.process_time() - start)

    def attempt(self, task: Task, number: int, budget: int) -> None:
        """Try a task once, or recall what came of it."""
        # What needs no budget says the same in every round.
        solvers = [each for each in self.solvers if not number or each == "compose"]
        if not solvers:
            return
        made = self.journal.recalled(task.name, budget)
        if made is None:
            found = self.search(task, solvers, budget)
            made = _told(task.name, budget, found)
            self.journal.add(made)
        elif made.solvers:
            found = self.search(task, made.solvers, budget, self.parsed(task, made))
            refusals = tuple(Refusal(*each) for each in made.refusals)
            found = Found(found.candidates, refusals, made.tried, found.seconds)
            if _told(task.name, budget, found)._replace(seconds=made.seconds) != made:
                raise self.journal.wrong(f"what solves {task.name!r}", made)
        self.tried[task.name] += made.tried
        self.tries[task.name] += 1
        self.seconds[task.name] = self.seconds.get(task.name, 0.0) + made.seconds
        self.refused[task.name] = "; ".join(f"{who}: {why}" for who, why, _ in made.refusals)
        if made.solvers and not found.best.doubt:
            older = self.found.get(task.name)
            self.found[task.name] = found if older is None else _ranked(found, [*found, *older])
            self.learn(task, found)
        if self.progress is not None:
            self.progress(Step(
                task.name, number + 1, len(self.found), len(self.tasks), self.tried.total()
            ))  # fmt: skip

    def search(
        self,
        task: Task,
        solvers: Sequence[str],
        budget: int,
        expressions: tuple[Expression, ...] | None = None,
    ) -> Found:
        """Look for what solves a task, or judge what does."""
        return portfolio.search(
            task.examples, task.validation, self.skills, budget, solvers, task.name,
            task.max_length, expressions=expressions,
        )  # fmt: skip

    def parsed(self, task: Task, made: task_files.Try) -> tuple[Expression, ...] | None:
        """The expressions of a try that was made before."""
        leaves = leaves_of(task.examples) or {}
        try:
            found = [parsed(text, self.skills.skills, leaves) for text in made.expressions]
        except InputError as error:
            raise self.journal.wrong(f"expressions of {task.name!r} ({error})", made) from None
        return tuple(found) or None

    def learn(self, task: Task, found: Found) -> None:
        """Make skills of a solution, one an output; of a machine, none."""
        expressions = next((each.expressions for each in found if each.expressions), ())
        if not expressions and found.best.solver == "affine":
            self.learn_filters(task)
        for number, expression in enumerate(expressions):
            name = task.name if len(expressions) == 1 else f"{task.name}_{number + 1}"
            skill = self.skills.learn(name, expression)
            self.named.setdefault(task.name, []).append("" if skill is None else skill.name)

    def learn_filters(self, task: Task) -> None:
        """Make skills of recurrences, where they read numbers and not marks of symbols."""
        made = affine(task.examples)
        if made is None or any(column.symbol is not None for column in made.columns):
            return
        inputs = [column.name for column in made.columns]
        several = len(made.responses) > 1
        for number, each in enumerate(made.outputs()):
            name = f"{task.name}_{number + 1}" if several else task.name
            self.skills.learn_filter(name, inputs, each)
        self.named[task.name] = []

    def rewrite(self, task: Task) -> None:
        """Tell a solution with what was learnt since."""
        found = self.found[task.name]
        (older,) = (each for each in found if each.expressions)
        macros = {macro.name: macro for macro in self.skills.macros}
        expressions = tuple(
            macros[name].of(inputs_of(each)) if name
            # Its macros as they are now.
            else parsed(str(each), self.skills.skills, inputs_of(each))
            for name, each in zip(self.named[task.name], older.expressions, strict=True)
        )  # fmt: skip
        newer = self.search(task, ["compose"], 1, expressions)
        kept = [each for each in found if each is not older]
        self.found[task.name] = _ranked(found, [*newer, *kept])

    def row(self, task: Task) -> Row:
        """What came of a task."""
        tried, tries = self.tried[task.name], self.tries[task.name]
        seconds = self.seconds.get(task.name, 0.0)
        if task.name not in self.found:
            reasons = self.refused.get(task.name, "")
            return Row(task.name, "", reasons, None, None, tried, tries, (), seconds)
        best = self.found[task.name].best
        learnt = {macro.name for macro in self.skills.learnt}
        used = {name for each in best.expressions for name in skills_of(each)}
        return Row(
            task.name, best.solver, best.expression, best.bits, best.verified_to, tried, tries,
            tuple(sorted(used & learnt)), seconds,
        )  # fmt: skip


def _ranked(found: Found, candidates: Sequence[Candidate]) -> Found:
    """A result with other candidates."""
    ranked = sorted(candidates, key=lambda each: (each.doubt != "", each.bits))
    return Found(tuple(ranked), found.refusals, found.tried, found.seconds)


def _told(task: str, budget: int, found: Found) -> task_files.Try:
    """What a state file keeps of a try."""
    expressions = next((each.expressions for each in found if each.expressions), ())
    return task_files.Try(
        task, budget, found.tried, sum(found.seconds.values()),
        tuple(dict.fromkeys(each.solver for each in found)), tuple(map(str, expressions)),
        tuple((who, why, agreed) for who, why, agreed in found.refusals),
    )  # fmt: skip
