"""Depth, sorting and prompts by gradient: what is learnt around compiled routines, from answers."""

import time
from pathlib import Path
from typing import Annotated, Any, cast

import jax.numpy as jnp
import numpy as np
import typer

import lsrl
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
from lsrl import machine
from lsrl.ir.numbers import Array

# ---------------------------------------------------------------- prompts

INPUTS = np.array([[x, y] for x in range(-3, 4) for y in range(-3, 4)])
# Those with which a found program is run in the prompt of the computer, too.
INDEX = [0, 17, 48]
CELLS = ("x", "y", "one", "t", "out")
# Of programs that are made shorter: lines that they begin with, and beginnings near these.
LINES, ROUNDS = 6, 4


def function_tables(seed: int) -> dict[str, object]:
    """Sixteen functions of four arguments: the prompts that tell them, found by gradient."""
    rng, start = np.random.default_rng(seed), time.process_time()
    program = lsrl.programs.function_table(4, 4, 64)
    layer = lsrl.nn.CompiledLayer(program, backward="local")
    loss, found = lsrl.nn.answers_loss(layer), 0
    questions = np.arange(4)[:, None]
    for number, answers in enumerate(rng.integers(0, 4, (16, 4))):

        def right(ids: Any, answers: Array = answers) -> Array:
            words = np.repeat(ids["token"], 4, axis=0)
            asked = np.tile(questions, (len(ids["token"]), 1))
            said = program.run(np.concatenate([words, asked], axis=1))[:, -1, 0]
            return np.asarray((said.reshape(-1, 4) == answers).all(1))

        prompt = lsrl.nn.Prompt(4, {"token": 4}, tries=4, seed=16 * seed + number)
        examples = jnp.asarray(questions), jnp.asarray(answers, jnp.int32)
        ids = lsrl.nn.improve_prompt(prompt, loss, examples, right)
        if ids is not None:
            said = layer(jnp.asarray(np.column_stack([np.tile(ids["token"], (4, 1)), questions])))
            found += bool((np.asarray(said)[:, -1, 0] == answers).all())
    return {"task": "function_table, 4 values", "seed": seed, "cases": 16, "found": found,
            "seconds": time.process_time() - start}  # fmt: skip


def straight_line(
    rng: np.random.Generator, machine: lsrl.nn.StraightLine, start: Array
) -> tuple[dict[str, Array], Array]:
    """A program of three lines, none of which can be left out, and what it answers."""
    while True:
        ids = {name: rng.integers(0, 4, 3) for name in "fab"}
        ids["c"] = np.array([*rng.integers(3, 5, 2), 4])
        if machine.halts:
            ids["h"] = np.zeros(3, int)
        answers = machine.run(ids, start)[:, -1]
        shorter = [
            machine.run({name: np.delete(row, line) for name, row in ids.items()}, start)[:, -1]
            for line in range(3)
        ]
        needed = all((each != answers).any() for each in shorter)
        if needed and np.abs(answers).max() <= machine.high and len(set(answers.tolist())) > 2:
            return ids, answers


def lines(seed: int, cases: int) -> dict[str, object]:
    """Programs of three instructions of FLEQ, recovered from twelve examples."""
    rng, start = np.random.default_rng(seed), time.process_time()
    line_machine = lsrl.nn.StraightLine(CELLS)
    loss, found, right_elsewhere = line_machine.loss, 0, 0
    whole = np.column_stack([INPUTS, np.tile([1, 0, 0], (len(INPUTS), 1))])
    fleq = lsrl.programs.fleq(cells=2 * len(CELLS), lines=4)
    for number in range(cases):
        _, answers = straight_line(rng, line_machine, whole)
        shown = rng.permutation(len(whole))[:12]

        def right(ids: Any, shown: Array = shown, answers: Array = answers) -> Array:
            each = [{name: rows[k] for name, rows in ids.items()} for k in range(len(ids["f"]))]
            said = [line_machine.run(one, whole[shown])[:, -1] for one in each]
            return np.array([(one == answers[shown]).all() for one in said])

        prompt = lsrl.nn.Prompt(3, line_machine.sizes, tries=48, seed=cases * seed + number)
        examples = (
            line_machine.start(whole[shown]),
            jnp.asarray(answers[shown] - line_machine.low, jnp.int32),
        )
        ids = lsrl.nn.improve_prompt(prompt, loss, examples, right)
        if ids is None:
            continue
        found += 1
        image = machine.assemble(line_machine.text(ids, whole[0].tolist()))
        out = image.address("out")
        images = [image.put(x=x, y=y) for x, y in INPUTS]
        said = [machine.interpret(fleq, each).dump()[out, 0] for each in images]
        loops = [fleq.loop(*machine.card(fleq, images[k]), steps=4) for k in INDEX]
        in_prompt = [cast(Array, loop.memory)[out, 0] for loop in loops]
        right_elsewhere += bool(
            (np.array(said) == answers).all() and (np.array(in_prompt) == answers[INDEX]).all()
        )
    return {"task": "three lines of FLEQ", "seed": seed, "cases": cases, "found": right_elsewhere,
            "fitting": found, "seconds": time.process_time() - start}  # fmt: skip


def lengthened(
    rng: np.random.Generator, machine: lsrl.nn.StraightLine, start: Array, lines: int
) -> tuple[dict[str, Array], Array]:
    """A program of more lines than it takes, which ends behind the last, and what it answers.

    Lines that change no answer are put in anywhere; leaving out one of them is not enough, as it
    still ends behind the last.
    """
    ids, answers = straight_line(rng, machine, start)
    while len(ids["f"]) < lines:
        place = int(rng.integers(0, len(ids["f"]) + 1))
        more = {name: int(rng.integers(0, 4)) for name in "fab"}
        more |= {"c": int(rng.integers(3, 5)), "h": 0}
        longer = {name: np.insert(row, place, more[name]) for name, row in ids.items()}
        if (machine.run(longer, start)[:, -1] == answers).all():
            ids = longer
    return ids, answers


def shorter(seed: int, cases: int, charged: bool = True) -> dict[str, object]:
    """Programs of six lines that are right, made shorter by a loss that charges for lines, or not.

    Not charged, the shortest right program is kept of those that come up all the same.
    """
    rng, start = np.random.default_rng(100 + seed), time.process_time()
    line_machine = lsrl.nn.StraightLine(CELLS, halts=True)
    loss, lengths = line_machine.shorter() if charged else line_machine.loss, list[int]()
    whole = np.column_stack([INPUTS, np.tile([1, 0, 0], (len(INPUTS), 1))])
    for number in range(cases):
        given, answers = lengthened(rng, line_machine, whole, LINES)

        def right(ids: Any, answers: Array = answers) -> Array:
            each = [{name: rows[k] for name, rows in ids.items()} for k in range(len(ids["f"]))]
            said = [line_machine.run(one, whole)[:, -1] for one in each]
            return np.array([(one == answers).all() for one in said])

        prompt = lsrl.nn.Prompt(LINES, line_machine.sizes, tries=16, seed=number)
        shown = rng.permutation(len(whole))[:12]
        examples = (
            line_machine.start(whole[shown]),
            jnp.asarray(answers[shown] - line_machine.low, jnp.int32),
        )
        ids = lsrl.nn.improve_prompt(
            prompt, loss, examples, right, begin=given, cost=line_machine.length, rounds=ROUNDS
        )
        lengths.append(LINES if ids is None else int(line_machine.length(ids)))
    return {"charge": "lines and not halting" if charged else "none", "seed": seed, "cases": cases,
            "shorter": sum(length < LINES for length in lengths),
            "three": sum(length <= 3 for length in lengths),
            "lines": float(np.mean(lengths)), "seconds": time.process_time() - start}  # fmt: skip


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


def findings(deep: Table, called: Table, sorted_: Table, found: Table, less: Table) -> list[str]:
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
    tables = [depth(plan), calls(plan), sorting(plan), prompts(plan), shortened(plan)]
    Output.of("library_depth", quick, output).write(
        "Depth, sorting and prompts by gradient", about, tables, findings(*tables), None
    )


if __name__ == "__main__":
    typer.run(main)
