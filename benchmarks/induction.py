"""The 62 tasks of MIPS by induction: how many are solved, from how much, and whether they compile.

A task counts as solved if the shortest candidate is right, to the bit, at 5 times the length of the
examples, on inputs of a seed that no solver has seen.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import lsrl
from benchmarks.common import BLUE, GREY, ORANGE, Output, Table, panels, say
from benchmarks.common import machine as this_machine
from benchmarks.mips import TASKS, Array, Task
from lsrl.errors import LsrlError
from lsrl.induction import Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Michaud et al. 2024, table 1: as published, not measured here.
MIPS, GPT4, ALL = 32, 30, 62
LENGTH, VALIDATED, LONG = 10, 30, 50
WITHOUT_SKILLS = ("affine", "automaton")
WITH_SKILLS = (*WITHOUT_SKILLS, "compose")
TARGETS = ("linear_rnn", "lstm", "rnn", "mamba")


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
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    sequences: int = 500
    few: int = 100
    budget: int = 300_000
    budgets: tuple[int, ...] = (1_000, 10_000, 100_000)
    seed: int = 20_240
    tokens: int = 256


QUICK = Plan(
    tasks=("Parity_All", "Sum_Last3", "Abs_Diff", "Binary_Addition", "Majority_0_2"),
    budget=20_000,
    budgets=(1_000,),
    tokens=64,
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


def draw(plan: Plan, settings: Sequence[dict[str, object]]) -> "Figure":
    """Solved tasks against the budget."""
    figure, (axes,) = panels(1)
    curve = sorted((row for row in settings if "budget" in row), key=_budget)
    axes.plot([row["budget"] for row in curve], [row["solved"] for row in curve], "o-", color=BLUE,
              label="with skills")  # fmt: skip
    for height, label, color in (
        (settings[1]["solved"], "without skills", ORANGE), (MIPS, "MIPS, published", GREY),
        (GPT4, "GPT-4, published", GREY),
    ):  # fmt: skip
        axes.axhline(height, color=color, linestyle="--" if color == GREY else "-", label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, len(plan.tasks) + 1)
    axes.set_title(f"Solved of {len(plan.tasks)} tasks, right at {LONG} tokens")
    axes.set_xlabel("streams a task")
    axes.legend()
    return figure


def _budget(row: dict[str, Any]) -> int:
    return int(row["budget"])


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few tasks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    seed: Annotated[int, typer.Option(help="Of all inputs.")] = Plan.seed,
) -> None:
    """Induce the tasks from examples of 10 tokens."""
    about, base = this_machine(), QUICK if quick else Plan()
    plan = Plan(base.tasks, base.sequences, base.few, base.budget, base.budgets, seed, base.tokens)
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
    missed = [each.task.name for each in many if not each.solved]
    findings = [
        f"{first['solved']} of {len(plan.tasks)} tasks are solved in {first['seconds']:.0f} CPU "
        f"seconds; not solved: {', '.join(missed) or 'none'}.",
        f"{sum(bool(row['equal']) for row in networks)} of the {len(networks)} solved ones compile "
        "to a network that equals the task.",
    ]
    Output.of("induction", quick, output).write(
        "Induction", about, [settings, tasks, models], findings,
        draw(plan, rows),
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
