"""Depth, sorting and prompts by gradient: what is learnt around compiled routines, from answers."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.common import Output, Table, say
from benchmarks.common import machine as this_machine
from benchmarks.library_depth_tasks import (
    NESTED,
    QUICK,
    WIDE,
    Plan,
    expressions_row,
    fibonacci_row,
    gcd_row,
    insertion_row,
    sorting_row,
    squaring_row,
)
from benchmarks.library_prompts import (
    DATA,
    ELSEWHERE,
    EXAMPLES,
    LARGEST,
    LINES,
    LONGER,
    ROUNDS,
    SEEN,
    function_tables,
    lines,
    pipelines,
    shorter,
)

# ---------------------------------------------------------------- the page

ROWS = {
    "fibonacci": fibonacci_row,
    "squaring": squaring_row,
    "gcd": gcd_row,
    "insertion": insertion_row,
}
LEARNT = {
    ("fibonacci", "compiled"): "letters",
    ("fibonacci", "ponder"): "letters, halting",
    ("squaring", "compiled"): "nothing",
    ("squaring", "ponder"): "halting",
    ("gcd", "compiled"): "nothing",
    ("gcd", "ponder"): "halting",
    ("insertion", "compiled"): "letters",
    ("insertion", "ponder"): "letters, halting",
}


def depth(plan: Plan) -> Table:
    """Compiled steps, applied as often as it takes."""
    rows = list[dict[str, object]]()
    for (name, kind), learnt in LEARNT.items():
        for seed in range(plan.seeds):
            say(f"{name}, halting {kind}, seed {seed}")
            rows.append(ROWS[name](kind, seed, plan) | {"learnt": learnt})
    return Table(
        "depth", "Depth",
        {"task": "task", "halting": "halting", "learnt": "learnt", "seed": "seed",
         "trained": "steps in training", "right": "right there", "tested": "steps at most",
         "beyond": "right beyond", "seconds": "CPU s"}, rows,
        "The step is compiled, and exact. Letters: a map of letters to symbols, some of which have "
        "two. Halting: the chances of a unit that reads how far the counter is from its argument, "
        "or of gcd how both numbers compare. Of lists all keys must be right. Seconds are of "
        "compiling, training and testing.",
    )  # fmt: skip


def calls(plan: Plan) -> Table:
    """Routines that call one another."""
    rows = list[dict[str, object]]()
    for seed in range(plan.seeds):
        say(f"expressions, seed {seed}")
        rows.append(expressions_row(seed, plan))
    return Table(
        "calls", "Nested expressions by a stack of calls",
        {"task": "task", "seed": "seed", "trained": "calls deep in training",
         "right": "right there", "tested": "calls deep", "beyond": "right beyond",
         "floor": "constants there", "seconds": "CPU s"}, rows,
        f"Learnt is which value each letter and which routine each operator stands for, from "
        f"values of expressions of at most {WIDE[0]} tokens, half of them of one call; asked are "
        f"expressions of at most {WIDE[1]} tokens, by the compiled network. Brackets are known.",
    )  # fmt: skip


def sorting(plan: Plan) -> Table:
    """A compiled sort in the library."""
    rows = list[dict[str, object]]()
    for seed in range(plan.seeds):
        say(f"sorting, seed {seed}")
        rows.append(sorting_row(seed, plan))
    return Table(
        "sorting", "Sorting with the routine in the library",
        {"seed": "seed", "letters": "letters", "map": "map right", "whole_8": "lists of 8",
         "whole_500": "lists of 500", "seconds": "CPU s of learning", "all": "CPU s in all"}, rows,
        "Learnt is which of 8 keys each letter stands for, from sorted lists of 8 alone, through "
        "`counting_sort` as a `CompiledLayer` with the backward mode `raw`. Lists are whole lists, "
        "sorted by the compiled network, of 500 by one compiled for that length. Saldyt and "
        "Kambhampati (2024) report 33 to 37 %.",
    )  # fmt: skip


def prompts(plan: Plan) -> Table:
    """Prompts that gradients find."""
    rows = list[dict[str, object]]()
    for seed in range(plan.seeds):
        say(f"prompts, seed {seed}")
        rows += [function_tables(seed), lines(seed, plan.cases)]
    return Table(
        "prompts", "Prompts by gradient",
        {"task": "task", "seed": "seed", "cases": "cases", "found": "found", "fitting":
         "right on their examples", "seconds": "CPU s"}, rows,
        "`function_table`: the first four tokens tell a function, and count where the compiled "
        "network answers all four questions right. FLEQ: a program of three lines, each of which "
        "is needed, from twelve pairs of inputs and the answer; found ones are right on all 49 "
        "inputs, by the machine in plain Python, and on three of them in the prompt of "
        "`lsrl.programs.fleq`. A program that is found need not be the one that was drawn.",
    )  # fmt: skip


def programmed(plan: Plan) -> Table:
    """Prompts of one network for all that is said in a few steps."""
    rows = list[dict[str, object]]()
    for steps in (2, 3):
        for seed in range(plan.seeds):
            say(f"one network of {steps} steps, seed {seed}")
            rows.append(pipelines(seed, steps, max(1, plan.cases // steps)))
    return Table(
        "programmed", "One network for all, programmed by gradient",
        {"steps": "steps", "seed": "seed", "cases": "cases", "found": "found",
         "elsewhere": "of them the same elsewhere", "chance": "random prompts, as many",
         "most": "CPU s of a prompt, at most", "seconds": "CPU s"}, rows,
        f"`lsrl.programs.pipeline` of six skills, whose prompt is drawn, hidden, and needs each of "
        f"its commands; what it says to {EXAMPLES} questions of {DATA} numbers from -{LARGEST} to "
        f"{LARGEST} is known, of {SEEN} of them to the loss. Found is a prompt that says the same "
        f"by the reference evaluator. The same elsewhere: at every token of {LONGER} numbers drawn "
        f"anew, {ELSEWHERE} times, wherever the hidden one keeps within the bound. Random prompts: "
        "as many as were tried out, drawn of what a prompt may hold. Seconds in all are with "
        "these.",
    )  # fmt: skip


def shortened(plan: Plan) -> Table:
    """Prompts that are right, and become shorter."""
    rows = list[dict[str, object]]()
    for charged in (True, False):
        for seed in range(plan.seeds):
            say(f"shorter prompts, charged {charged}, seed {seed}")
            rows.append(shorter(seed, max(2, plan.cases // 4), charged))
    return Table(
        "shorter", f"Right programs of {LINES} lines of FLEQ, made shorter by gradient",
        {"charge": "charge", "seed": "seed", "cases": "cases", "shorter": "shorter",
         "three": "three lines at most", "lines": "lines in the mean", "seconds": "CPU s"}, rows,
        f"Three lines that are needed, with {LINES - 3} that change no answer put in anywhere. A "
        f"loss charges for lines that are run and for not halting; {ROUNDS} beginnings near the "
        "program, and the shortest that is right on all 49 inputs is kept, also without a charge.",
    )  # fmt: skip


def findings(
    deep: Table, called: Table, sorted_: Table, found: Table, programs: Table, less: Table
) -> list[str]:
    """What the tables come to."""
    said = []
    for task in dict.fromkeys(str(row["task"]) for row in deep.rows):
        rows = [row for row in deep.rows if row["task"] == task]
        whole = sum(row["right"] == row["beyond"] == 1 for row in rows)
        slowest = max(row["seconds"] for row in rows)
        said.append(
            f"{task}: {whole} of {len(rows)} runs are right everywhere, trained on at most "
            f"{rows[0]['trained']} steps and tested on up to {rows[0]['tested']}; at most "
            f"{slowest:.1f} CPU s."
        )
    whole = sum(row["right"] == row["beyond"] == 1 for row in called.rows)
    slowest = max(row["seconds"] for row in called.rows)
    said.append(
        f"Nested expressions: {whole} of {len(called.rows)} seeds have all values right, trained "
        f"on at most {NESTED[0]} calls open at once and asked {NESTED[1]}; at most {slowest:.1f} "
        "CPU s."
    )
    whole = sum(row["whole_8"] == row["whole_500"] == 1 for row in sorted_.rows)
    slowest = max(row["all"] for row in sorted_.rows)
    said.append(
        f"Sorting: {whole} of {len(sorted_.rows)} seeds sort all lists of 8 and of 500; at most "
        f"{slowest:.1f} CPU s."
    )
    for task in dict.fromkeys(str(row["task"]) for row in found.rows):
        rows = [row for row in found.rows if row["task"] == task]
        cases, right = (sum(row[key] for row in rows) for key in ("cases", "found"))
        said.append(f"{task}: {right} of {cases} prompts are found.")
    for steps in dict.fromkeys(row["steps"] for row in programs.rows):
        rows = [row for row in programs.rows if row["steps"] == steps]
        cases, right, same, chance = (
            sum(row[key] for row in rows) for key in ("cases", "found", "elsewhere", "chance")
        )
        said.append(
            f"One network for all that is said in {steps} steps: {right} of {cases} prompts are "
            f"found by gradient, {same} of them the same elsewhere, and {chance} by as many random "
            f"prompts; at most {max(row['most'] for row in rows):.1f} CPU s each."
        )
    for charge in dict.fromkeys(str(row["charge"]) for row in less.rows):
        rows = [row for row in less.rows if row["charge"] == charge]
        cases, fewer = (sum(row[key] for row in rows) for key in ("cases", "shorter"))
        mean = float(np.mean([row["lines"] for row in rows]))
        said.append(
            f"Programs of {LINES} lines, charge: {charge}: {fewer} of {cases} become shorter, to "
            f"{mean:.1f} lines in the mean."
        )
    return said


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One seed.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Train what is around compiled routines."""
    about, plan = this_machine(), QUICK if quick else Plan()
    tables = [depth(plan), calls(plan), sorting(plan), prompts(plan)]
    tables += [programmed(plan), shortened(plan)]
    Output.of("library_depth", quick, output).write(
        "Depth, sorting and prompts by gradient", about, tables, findings(*tables), None
    )


if __name__ == "__main__":
    typer.run(main)
