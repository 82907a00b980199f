"""Instructions a CPU second of SUBLEQ networks: by target, cells and machines side by side.

Every network must leave the memory that plain Python leaves before its time counts. What counts is
a loop that goes on: the prompt was read, and all was compiled, before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import lsrl
from benchmarks.common import (
    BLUE,
    GREY,
    ORANGE,
    REPEATS,
    BenchmarkError,
    Data,
    Output,
    Table,
    log_axes,
    measure,
    number,
    panels,
    say,
    slope,
)
from benchmarks.common import machine as this_machine
from lsrl import machine
from lsrl.errors import LsrlError
from lsrl.programs import subleq, subleq_lm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# It goes round and round: a number counts down, another adds it up, and both wrap.
BUSY = """
again:  one number next
        number total next
        zero zero again
one:    .data 1
number: .data 5
total:  .data 0
zero:   .data 0
"""
BITS = 16
# Of the one network that is also told as a language model.
LM_CELLS, LM_BITS = 32, 8
# What others say of theirs: memory, depth, instructions a second, and how right they are.
PEERS = (
    {"system": "Giannou et al. 2023", "memory": "on paper", "layers": "at most 13", "speed": None,
     "right": "by proof"},
    {"system": "Looped-Transformer, in NumPy", "memory": "a few cells, no pointers",
     "layers": "a block a phase", "speed": None, "right": "by softmax, corrected"},
    {"system": "ALTA", "memory": "16 cells of ±16", "layers": "3 loops an instruction",
     "speed": None, "right": None},
    {"system": "ASSERT-KTH, hand-coded", "memory": "416 × 16 bits", "layers": "4", "speed": 50,
     "right": "97.8 %"},
    {"system": "ASSERT-KTH, trained", "memory": "32 × 8 bits", "layers": "6", "speed": None,
     "right": "99.8 % of steps"},
    {"system": "transformer-vm, 30,000 tokens a second", "memory": "a trace, attended to",
     "layers": "7", "speed": None, "right": "claimed"},
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
      cells: of the networks that all targets are tried at.
      curve: of those on linear_rnn, for the cost against cells.
      batches: machines side by side.
      steps: instructions of each, at a time.
      repeats: of each measurement.
    """

    cells: tuple[int, ...] = (32, 256)
    curve: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    batches: tuple[int, ...] = (1, 128)
    steps: int = 1000
    repeats: int = REPEATS


QUICK = Plan(cells=(32,), curve=(32, 64, 128), batches=(1, 8), steps=100, repeats=2)


def plain(memory: list[int], bits: int, steps: int) -> list[int]:
    """SUBLEQ in plain Python, as short as can be: so many instructions from address 0 on."""
    top, pc = 1 << (bits - 1), 0
    mask = 2 * top - 1
    for _ in range(steps):
        a, b, c = memory[pc : pc + 3]
        value = ((memory[b] - memory[a] + top) & mask) - top
        memory[b] = value
        pc = c if value <= 0 else pc + 3
    return memory


def images(count: int) -> list[machine.Image]:
    """As many programs that differ in a number."""
    image = machine.assemble(BUSY)
    if not isinstance(image, machine.Image):
        raise BenchmarkError("the text is no SUBLEQ")
    return [image.put(number=number + 1) for number in range(count)]


def going(model: lsrl.Model, count: int, steps: int) -> Callable[[], object]:
    """Machines that have begun, as work to be timed: so many further instructions of each.

    Raises:
      BenchmarkError: they leave another memory than plain Python does.
    """
    cards = [machine.card(model, image) for image in images(count)]
    prompt = [np.stack(arrays) for arrays in zip(*cards, strict=True)]
    run = model.loop(*prompt, steps=steps)
    cells = run.memory.shape[-1]
    for left, image in zip(run.memory, images(count), strict=True):
        memory = [image.words.get(cell, 0) for cell in range(cells)]
        if left.tolist() != plain(memory, BITS, steps):
            raise BenchmarkError(f"{model}: its memory is not what plain Python leaves")
    return lambda: model.loop(run, steps=steps)


def described(model: lsrl.Model) -> dict[str, object]:
    """What a network costs."""
    return {
        "layers": model.num_layers,
        "parameters": model.num_parameters,
        "nonzero": model.num_nonzero_parameters,
    }


def compiled(target: str, cells: int) -> tuple[lsrl.Model, float]:
    """A network, and the CPU seconds that it took."""
    start = time.process_time()
    model = lsrl.compile(subleq(cells, BITS), target)
    return model, time.process_time() - start


def compare_targets(plan: Plan) -> Table:
    """Every target that is exact, at every size, alone and in batches."""
    rows: list[dict[str, object]] = []
    for cells in plan.cells:
        for target in (found.name for found in lsrl.targets()):
            say(f"{target}, {cells} cells")
            try:
                model, seconds = compiled(target, cells)
            except LsrlError:
                continue
            if not model.certificate.exact:
                continue
            row = {"target": target, "cells": cells, "compile": seconds, **described(model)}
            for count in plan.batches:
                timing = measure(going(model, count, plan.steps), plan.repeats)
                row[f"batch {count}"] = count * plan.steps / timing.cpu
            rows.append(row)
    columns = {
        "target": "target", "cells": "cells", "layers": "layers", "parameters": "parameters",
        "nonzero": "nonzero", "compile": "compile, CPU s",
        **{f"batch {count}": f"{count} at once" if count > 1 else "alone"
           for count in plan.batches},
    }  # fmt: skip
    note = f"Of {BITS} bits, float32. Batches: instructions of all machines together."
    return Table("targets", "Instructions a CPU second", columns, rows, note)


def compare_cells(plan: Plan) -> Table:
    """What more memory costs on linear_rnn."""
    rows: list[dict[str, object]] = []
    for cells in plan.curve:
        say(f"linear_rnn, {cells} cells")
        model, seconds = compiled("linear_rnn", cells)
        timing = measure(going(model, 1, plan.steps), plan.repeats)
        rows.append(
            {"cells": cells, **described(model), "compile": seconds,
             "speed": plan.steps / timing.cpu}
        )  # fmt: skip
    columns = {
        "cells": "cells", "layers": "layers", "parameters": "parameters", "nonzero": "nonzero",
        "compile": "compile, CPU s", "speed": "instructions a CPU second",
    }  # fmt: skip
    return Table("cells", "Cost against cells, on linear_rnn", columns, rows)


def compare_others(plan: Plan) -> Table:
    """Plain Python, and the language model that says three words an instruction."""
    steps = 100 * plan.steps
    memory = [images(1)[0].words.get(cell, 0) for cell in range(plan.cells[0])]
    rows = [{"what": "plain Python, a bare loop", "speed": _speed(
        steps, lambda: plain(list(memory), BITS, steps), plan.repeats)}]  # fmt: skip

    def interpreted() -> None:
        machine.Subleq(images(1)[0], cells=plan.cells[0]).run(plan.steps)

    rows.append(
        {"what": "lsrl.machine.Subleq", "speed": _speed(plan.steps, interpreted, plan.repeats)}
    )
    model = lsrl.compile(subleq_lm(LM_CELLS, LM_BITS), "mamba")
    (prompt,) = machine.card(model, images(1)[0])
    rows.append(
        {
            "what": f"subleq_lm({LM_CELLS}, {LM_BITS}) on mamba, model.generate",
            "speed": _speed(
                plan.steps, lambda: model.generate(prompt, 3 * plan.steps), plan.repeats
            ),
        }
    )
    columns = {"what": "", "speed": "instructions a CPU second"}
    return Table("others", "Beside them", columns, rows)


def _speed(steps: int, work: Callable[[], Any], repeats: int) -> float:
    return steps / measure(work, repeats).cpu


def peers() -> Table:
    """What is published of others; not measured here."""
    columns = {
        "system": "system", "memory": "memory", "layers": "layers",
        "speed": "instructions a second", "right": "right",
    }  # fmt: skip
    return Table("peers", "As published by others, not measured here", columns, PEERS)


def findings(plan: Plan, targets: Table, cells: Table, others: Table) -> list[str]:
    """What the tables say, in sentences."""
    alone, most = (f"batch {count}" for count in (plan.batches[0], plan.batches[-1]))
    best = max(targets.rows, key=lambda row: float(row[alone]))
    wide = max(targets.rows, key=lambda row: float(row[most]))
    costs = [slope([row["cells"] for row in cells.rows], [row[key] for row in cells.rows])
             for key in ("nonzero", "parameters")]  # fmt: skip
    return [
        f"The fastest alone is {best['target']} at {best['cells']} cells: "
        f"{number(best[alone])} instructions a CPU second; with {plan.batches[-1]} machines at "
        f"once {wide['target']} at {wide['cells']} cells, {number(wide[most])} in all.",
        f"A bare loop in plain Python does {number(others.rows[0]['speed'])}.",
        f"Nonzero weights grow as cells^{costs[0]:.2f}, those of dense matrices as "
        f"cells^{costs[1]:.2f}.",
    ]


def draw(data: Data) -> "Figure":
    """Speed by target, and weights against cells."""
    targets, cells = data["targets"], data["cells"]
    figure, (left, right) = panels(2)
    names = [f"{row['target']}, {row['cells']}" for row in targets]
    places = np.arange(len(names))
    batches = [key for key in targets[0] if key.startswith("batch ")]
    for place, key in enumerate(batches):
        speeds, count = [row[key] for row in targets], key.removeprefix("batch ")
        label = f"{count} machines" if count != "1" else "alone"
        left.barh(places + 0.4 * place, speeds, 0.38, color=(BLUE, ORANGE)[place], label=label)
    left.set_yticks(places + 0.2, names)
    left.set_xscale("log")
    left.set_title("Instructions a CPU second, by target and cells")
    left.legend()
    across = [row["cells"] for row in cells]
    for key, color in (("parameters", GREY), ("nonzero", BLUE)):
        right.plot(across, [row[key] for row in cells], "o-", color=color, label=key)
    log_axes(right, "Weights on linear_rnn", "cells", "weights")
    right.legend()
    return figure


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Measure how fast networks run programs, and what memory costs them."""
    about, plan = this_machine(), QUICK if quick else Plan()
    targets, cells, others = compare_targets(plan), compare_cells(plan), compare_others(plan)
    Output.of("computer", quick, output).write(
        "Computers",
        about,
        [targets, cells, others, peers()],
        findings(plan, targets, cells, others),
        draw,
    )


if __name__ == "__main__":
    typer.run(main)
