"""The stability lab: noisy copies x tokens per second, the default sweep, the experiments.

Finished tasks are kept in build/stability, so a run that was broken off goes on where it stopped;
`--fresh` begins anew. Tables and figures go to benchmarks/results. `--only paper` runs a single
experiment, prints its table, and leaves the results as they are.
"""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import typer
from jax.sharding import Mesh
from rich.progress import Progress

import lsrl
from benchmarks.common import RESULTS, ROOT, Table, machine, number, say
from benchmarks.stability import report
from lsrl.noise.copies import run_copies
from lsrl.noise.perturbations import ACTIVATIONS, FREE, PAPER
from lsrl.stability.report import run_sweep
from lsrl.stability.sweep import Plan, quick_plan
from lsrl.stability.workloads import DEFAULT

COPIES = 256
FILES = (
    "levels.csv", "sweep.svg", "first.csv", "first.svg", "paper.csv", "paper.svg",
    "factors_levels.csv",
)  # fmt: skip

Experiment = Literal["paper", "factors", "states"]
# By title, in the order of docs/stability.md.
EXPERIMENTS: dict[Experiment, tuple[str, Callable[..., str]]] = {
    "paper": ("paper's experiment", report.run_paper),
    "factors": ("primary experiment", report.run_factors),
    "states": ("states", report.run_states),
}


def measure_speed(copies: int) -> Table:
    """Noisy copies x tokens per second, drawing included, after a call that compiles."""
    workload = DEFAULT["tok2tok"]
    inputs = workload.inputs(4)
    mesh = Mesh(np.array(jax.devices()), ("copies",))
    rows = []
    for target in (found.name for found in lsrl.targets()):
        model = lsrl.compile(workload.program(), target)
        row: dict[str, object] = {"target": target, "parameters": model.num_parameters}
        for noise in (PAPER, FREE, ACTIVATIONS):
            levels, seeds = [1e-4] * copies, list(range(copies))
            run_copies(model, inputs, noise, levels[:64], seeds[:64], most=64, mesh=mesh)
            start = time.perf_counter()
            run_copies(model, inputs, noise, levels, seeds, most=64, mesh=mesh)
            seconds = time.perf_counter() - start
            row[noise.name] = copies * inputs[0].size / seconds
        rows.append(row)
        say(f"{target}: " + ", ".join(f"{k} {number(v)}" for k, v in row.items() if k != "target"))
    return Table(
        "speed",
        f"Noisy copies × tokens per second, tok2tok, {copies} copies × 4 × {inputs[0].shape[1]}",
        {
            "target": "target",
            "parameters": "parameters",
            "paper": "states forced",
            "weights": "weights",
            "activations": "activations",
        },
        rows,
    )


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/stability.")] = False,
    fresh: Annotated[bool, typer.Option(help="Forget what is finished.")] = False,
    speed_only: Annotated[bool, typer.Option(help="Measure the speed alone.")] = False,
    only: Annotated[Experiment | None, typer.Option(help="Run this experiment alone.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of finished tasks, tables and figures.")
    ] = None,
) -> None:
    """Measure the speed of noisy copies, and make the tables and figures of the stability lab."""
    folder = out or ROOT / "build" / ("stability_quick" if quick else "stability")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if only is not None:
        with Progress(transient=True) as progress:
            say(EXPERIMENTS[only][1](folder, progress=progress))
        return
    described = machine()
    table = measure_speed(64 if quick else COPIES)
    say(table.markdown())
    if speed_only:
        return
    page = ["# Stability", "", table.markdown()]
    with Progress(transient=True) as progress:
        plan = quick_plan() if quick else Plan()
        experiments = [
            ("sweep", partial(run_sweep, plan, folder, progress=progress, suffix=".svg"))
        ]
        if not quick:
            experiments += [
                (title, partial(run, folder, progress=progress))
                for title, run in EXPERIMENTS.values()
            ]
        for name, run in experiments:
            start = time.perf_counter()
            text = run().replace(f"{ROOT}/", "")  # the page is the same wherever it is made
            took = f"{name}: {time.perf_counter() - start:.0f} s, finished tasks not counted"
            # The sweep has a thousand lines: they are in levels.csv.
            shown = text.splitlines()[-1:] if name == "sweep" else text.splitlines()
            page += ["", f"## {took}", "", "```", *shown, "```"]
            say(took)
    page += ["", "## Machine", "", *(f"- {key}: {value}" for key, value in described.items())]
    page += ["", "Written by `python -m benchmarks.stability`."]
    target = folder if quick else RESULTS
    (target / "stability.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    if not quick:
        _copy(folder, target)
    say(f"written to {target}")


def _copy(folder: Path, target: Path) -> None:
    """Put what is small enough to be kept beside the other results."""
    for name in FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / f"stability_{name}")


if __name__ == "__main__":
    typer.run(main)
