"""Induction: the 62 tasks of MIPS, and curricula with and without a library of learnt skills.

A task counts as solved if the shortest candidate is right, to the bit, at 5 times the length of the
examples, on inputs of a seed that no solver has seen.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import lsrl
from benchmarks import curricula
from benchmarks.common import BLUE, GREY, ORANGE, Data, Output, Table, panels, say
from benchmarks.common import machine as this_machine
from benchmarks.mips import TASKS, Array, Task
from lsrl import induction
from lsrl.errors import LsrlError
from lsrl.induction import Curriculum, Found, portfolio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Michaud et al. 2024, table 1: as published, not measured here.
MIPS, GPT4, ALL = 32, 30, 62
LENGTH, VALIDATED, LONG = 10, 30, 50
WITHOUT_SKILLS = ("affine", "automaton")
WITH_SKILLS = (*WITHOUT_SKILLS, "compose")
TARGETS = ("linear_rnn", "lstm", "rnn", "mamba")
# Of curricula: what is written as such, the solvers, and lengths of examples, validation and trial.
WRITTEN = "51 tasks"
LEARNERS: tuple[portfolio.Solver, ...] = ("affine", "compose")
LEARNT, LEARNT_VALIDATED, LEARNT_LONG = 12, 36, 60


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
      tasks: by name.
      sequences: of examples.
      few: of examples, for the run with fewer.
      budget: streams a task.
      budgets: for the curve.
      seed: of all inputs.
      curricula: by name, tasks that are learnt together.
      learning: streams a task of a curriculum, for the curve.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    sequences: int = 500
    few: int = 100
    budget: int = 300_000
    budgets: tuple[int, ...] = (1_000, 10_000, 100_000)
    seed: int = 71_001
    tokens: int = 256
    curricula: tuple[str, ...] = (WRITTEN, "by chance, seed 1")
    learning: tuple[int, ...] = (1_000, 10_000, 100_000)


QUICK = Plan(
    tasks=("Parity_All", "Sum_Last3", "Abs_Diff", "Binary_Addition", "Majority_0_2"),
    budget=20_000,
    budgets=(1_000,),
    tokens=64,
    curricula=(WRITTEN,),
    learning=(400,),
)


def fed(task: Task, inputs: Sequence[Array]) -> list[Array]:
    """Inputs as programs and models read them."""
    pairs = zip(task.types.values(), inputs, strict=True)
    return [each if isinstance(kind, lsrl.Token) else each[..., None] for kind, each in pairs]


def right(task: Task, runs: lsrl.Program | lsrl.Model, tokens: int, seed: int) -> bool:
    """Whether every output of some fresh sequences is right."""
    inputs, outputs = task.data(100 if tokens <= LONG else 4, tokens, seed)
    said = np.asarray(runs.run(*fed(task, inputs)))
    return bool(np.array_equal(said, outputs.reshape(said.shape)))


@dataclass(frozen=True)
class Try:
    """What was found for a task."""

    task: Task
    found: Found
    seconds: float
    solved: bool
    false: int  # candidates that err at a length that they are called verified at

    def row(self) -> dict[str, object]:
        """For the table."""
        best = self.found[0] if self.found else None
        return {
            "task": self.task.name,
            "solver": best.solver if best else None,
            "solved": self.solved,
            "bits": round(best.bits) if best else None,
            "verified": best.verified_to if best else None,
            "seconds": self.seconds,
            "expression": best.expression[:60] if best else None,
        }


def tried(
    task: Task, plan: Plan, sequences: int, solvers: Sequence[str], budget: int, salt: int = 0
) -> Try:
    """Induce one task."""
    seed = plan.seed + 1000 * salt
    examples = task.data(sequences, LENGTH, seed)
    validation = task.data(100, VALIDATED, seed + 1)
    start = time.process_time()
    found = lsrl.induce(
        examples, inputs=task.types, validation=validation, solvers=solvers, budget=budget,
        max_length=max(LONG, task.longest),
    )  # fmt: skip
    seconds = time.process_time() - start
    claims = [(each.program, each.verified_to) for each in found if each.verified_to is not None]
    false = sum(not right(task, program, tokens, seed + 2) for program, tokens in claims)
    solved = bool(found) and right(task, found.program, LONG, seed + 3)
    return Try(task, found, seconds, solved, false)


def sweep(
    plan: Plan, what: str, sequences: int, solvers: Sequence[str], budget: int, salt: int = 0
) -> tuple[list[Try], dict[str, object]]:
    """All tasks under one setting, and its row."""
    say(what)
    tries = [tried(TASKS[name], plan, sequences, solvers, budget, salt) for name in plan.tasks]
    streams = sum(each.found.tried for each in tries)
    searching = sum(each.found.seconds.get("compose", 0.0) for each in tries)
    return tries, {
        "what": what,
        "sequences": sequences,
        "solved": sum(each.solved for each in tries),
        "false": sum(each.false for each in tries),
        "seconds": sum(each.seconds for each in tries),
        "streams": streams,
        "speed": streams / searching if searching else None,
    }


def compiled(plan: Plan, tries: Sequence[Try]) -> list[dict[str, object]]:
    """The first target that holds each solved task, and whether it is right over many tokens."""
    rows: list[dict[str, object]] = []
    for each in tries:
        if not each.solved:
            continue
        tokens = min(plan.tokens, each.task.longest)
        row: dict[str, object] = {"task": each.task.name, "tokens": tokens, "equal": False}
        for target in TARGETS:
            try:
                model = each.found.compile(target)
            except LsrlError:
                continue
            equal = right(each.task, model, tokens, plan.seed + 4)
            row |= {"target": target, "equal": equal, "exact": model.certificate.exact,
                    "layers": model.num_layers, "width": model.width}  # fmt: skip
            if equal:
                break
        rows.append(row)
    return rows


def tasks_of(name: str) -> dict[str, Task]:
    """A curriculum by its name."""
    return curricula.TASKS if name == WRITTEN else curricula.drawn(int(name.split()[-1]))


def learned(plan: Plan, name: str, budget: int, quick: bool) -> list[dict[str, object]]:
    """A curriculum with one budget, without and with a library."""
    tasks = dict(list(tasks_of(name).items())[: 8 if quick else None])
    given = [
        induction.Task(
            task.name, task.data(100, LEARNT, plan.seed), inputs=task.types,
            validation=task.data(50, LEARNT_VALIDATED, plan.seed + 1),
        )
        for task in tasks.values()
    ]  # fmt: skip
    rows: list[dict[str, object]] = []
    for library in (False, True):
        say(f"{name}, budget of {budget:,}, {'with' if library else 'without'} a library")
        start = time.process_time()
        if library:
            learnt = Curriculum(given).learn(budget=budget, solvers=LEARNERS)
            found, tried = learnt.found, learnt.tried
        else:
            alone = [
                Curriculum([task]).learn(budget=budget, solvers=LEARNERS, rounds=1)
                for task in given
            ]
            found = {name: each for one in alone for name, each in one.found.items()}
            tried = sum(one.tried for one in alone)
        seconds = time.process_time() - start
        solved = sum(
            right(tasks[n], f.program, LEARNT_LONG, plan.seed + 2) for n, f in found.items()
        )
        rows.append({
            "curriculum": name, "budget": budget, "library": library, "tasks": len(tasks),
            "solved": solved, "false": len(found) - solved, "tried": tried, "seconds": seconds,
            "skills": len(learnt.skills.learnt) if library else None,
        })  # fmt: skip
    return rows


def summary(name: str, learning: Sequence[dict[str, Any]]) -> str:
    """What a curriculum came to with the greatest budget."""
    bare, kept = [row for row in learning if row["curriculum"] == name][-2:]
    return (
        f"{name}, {kept['budget']:,} streams a task: {kept['solved']} of {kept['tasks']} are "
        f"solved with a library, of {kept['tried']:,} streams; {bare['solved']} without, of "
        f"{bare['tried']:,}."
    )


def draw(data: Data) -> "Figure":
    """Solved tasks against the budget, alone and as curricula."""
    settings, learning, tasks = data["settings"], data["curricula"], len(data["tasks"])
    figure, (axes, others) = panels(2)
    curve = sorted((row for row in settings if "budget" in row), key=_budget)
    axes.plot([row["budget"] for row in curve], [row["solved"] for row in curve], "o-", color=BLUE,
              label="with skills")  # fmt: skip
    for height, label, color in (
        (settings[1]["solved"], "without skills", ORANGE), (MIPS, "MIPS, published", GREY),
        (GPT4, "GPT-4, published", GREY),
    ):  # fmt: skip
        axes.axhline(height, color=color, linestyle="--" if color == GREY else "-", label=label)
    axes.set_ylim(0, tasks + 1)
    axes.set_title(f"Solved of {tasks} tasks of MIPS, right at {LONG} tokens")
    curricula = dict.fromkeys(row["curriculum"] for row in learning)
    for name, style in zip(curricula, ("o-", "s:"), strict=False):
        for library, color in ((True, BLUE), (False, ORANGE)):
            rows = [r for r in learning if (r["curriculum"], r["library"]) == (name, library)]
            others.plot(
                [row["budget"] for row in rows], [row["solved"] for row in rows], style,
                color=color, label=f"{name}, {'with' if library else 'without'} a library",
            )  # fmt: skip
    others.set_ylim(0, max(row["tasks"] for row in learning) + 1)
    others.set_title(f"Solved tasks of curricula, right at {LEARNT_LONG} tokens")
    for each in (axes, others):
        each.set_xscale("log")
        each.set_xlabel("streams a task")
        each.legend()
    return figure


def _budget(row: Mapping[str, Any]) -> int:
    return int(row["budget"])


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few tasks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    seed: Annotated[int, typer.Option(help="Of all inputs.")] = Plan.seed,
) -> None:
    """Induce the tasks from examples, alone and as curricula."""
    about, base = this_machine(), QUICK if quick else Plan()
    plan = replace(base, seed=seed)
    many, first = sweep(plan, "all solvers", plan.sequences, WITH_SKILLS, plan.budget)
    rows = [
        first | {"budget": plan.budget},
        sweep(plan, "without skills", plan.sequences, WITHOUT_SKILLS, 1, 1)[1],
        sweep(plan, "fewer examples", plan.few, WITH_SKILLS, plan.budget, 2)[1],
    ]
    for budget in plan.budgets:
        what = f"budget of {budget:,}"
        row = sweep(plan, what, plan.sequences, WITH_SKILLS, budget, 3)[1]
        rows.append(row | {"budget": budget})
    networks = compiled(plan, many)
    learning = [
        row for name in plan.curricula for budget in plan.learning
        for row in learned(plan, name, budget, quick)
    ]  # fmt: skip
    settings = Table(
        "settings", "Solved tasks",
        {"what": "", "sequences": "examples", "solved": "solved", "false": "false successes",
         "seconds": "CPU s", "streams": "streams tried", "speed": "streams a CPU s"}, rows,
        f"Of {len(plan.tasks)}, examples of {LENGTH} tokens, validation of {VALIDATED}, right to "
        f"the bit at {LONG}. A false success is a candidate that errs at a length at which it is "
        f"called verified. As published, of {ALL}: MIPS {MIPS}, GPT-4 {GPT4}.",
    )  # fmt: skip
    tasks = Table(
        "tasks", "Task by task",
        {"task": "task", "solver": "solver", "solved": "solved", "bits": "bits",
         "verified": "verified to", "seconds": "CPU s", "expression": "expression"},
        [each.row() for each in many],
    )  # fmt: skip
    models = Table(
        "networks", "The first network that holds each",
        {"task": "task", "target": "target", "tokens": "tokens", "equal": "equal",
         "exact": "certified exact", "layers": "layers", "width": "width"}, networks,
    )  # fmt: skip
    libraries = Table(
        "curricula", "Curricula, with and without a library",
        {"curriculum": "curriculum", "tasks": "tasks", "budget": "streams a task", "library":
         "library", "solved": "solved", "false": "false successes", "tried": "streams tried",
         "skills": "skills learnt", "seconds": "CPU s"}, learning,
        f"Examples of {LEARNT} tokens, validation of {LEARNT_VALIDATED}, right to the bit at "
        f"{LEARNT_LONG}; solvers {' and '.join(LEARNERS)}. Without a library each task has its "
        "whole budget at once; with one, all its tries together have no more. "
        "`benchmarks/curricula.py` has the tasks.",
    )  # fmt: skip
    missed = [each.task.name for each in many if not each.solved]
    findings = [
        f"{first['solved']} of {len(plan.tasks)} tasks are solved in {first['seconds']:.0f} CPU "
        f"seconds; not solved: {', '.join(missed) or 'none'}.",
        f"{sum(bool(row['equal']) for row in networks)} of the {len(networks)} solved ones compile "
        "to a network that equals the task.",
        *(summary(name, learning) for name in plan.curricula),
    ]
    Output.of("induction", quick, output).write(
        "Induction", about, [settings, libraries, tasks, models], findings,
        draw,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
