"""How near compiled models come to what the machine can do at all.

A token of a program costs operations and bytes, of the weights that are not zero; the machine has a
ceiling of each, measured in the same run (`benchmarks.limits`): a product of matrices, and an array
that is updated in place or read, as large as what the model works on, since caches are faster than
memory. What is left of the ratio is overhead: calls, loops, products with zeros, values in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import typer

import lsrl
from benchmarks.common import (
    BLUE,
    ORANGE,
    REPEATS,
    Data,
    Output,
    Table,
    legend_below,
    machine,
    measure_together,
    number,
    panels,
    say,
)
from benchmarks.limits import Limits, measure_limits, seconds
from benchmarks.workloads import Array, workloads
from lsrl.cost import Cost, Mode, cost
from lsrl.errors import PrecisionError, UnsupportedOpError
from lsrl.parameters import entries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
PROGRAMS = ("majority", "dyck1", "tok2tok")
LINEAR = ("linear_rnn", "gated_linear_rnn")
TILE = 2**21  # bytes that a whole run on these has in flight (backends/linear/tiles.py)


@dataclass(frozen=True)
class Sizes:
    """Of a run.

    Attributes:
      sparse: batch and tokens of whole sequences on the linear targets.
      scanned: of those on all others, which go token by token.
      steps: tokens in step mode.
      repeats: of each measurement.
    """

    sparse: tuple[int, int] = (256, 1000)
    scanned: tuple[int, int] = (32, 300)
    steps: int = 100
    repeats: int = REPEATS


QUICK = Sizes(sparse=(8, 100), scanned=(8, 100), steps=20, repeats=2)


def needed(model: lsrl.Model, mode: Mode, batch: int) -> tuple[Cost, float]:
    """What a token takes at the least, and the bytes that are gone over again and again.

    As `lsrl.cost` counts, but of matrices only the entries that are not zero: networks are nearly
    all zeros, and engines that leave them out would go through a ceiling of dense products.
    """
    known = cost(model, mode, batch)
    if mode == "whole" and model.module.sparse_whole:
        return known, TILE
    axes, size = model.module.legend().arrays, np.dtype(jax.numpy.dtype(model.dtype)).itemsize
    weights = sum(
        int(np.count_nonzero(entries(one)))
        for name, one in model.module.parameter_arrays().items()
        if axes[name].kind != "table"  # of which a token takes a row
    )
    state = size * sum(leaf.size for leaf in jax.tree.leaves(model.module.init_state((1,))))
    outputs = len(model.program.graph.facts[model.program.graph.output].low)
    ends = size * (outputs + sum(kind.width for kind in model.program.inputs.values()))
    least = Cost(min(known.operations, 2.0 * weights), ends + size * weights / batch + 2.0 * state)
    return least, size * weights + batch * state


def row_of(model: lsrl.Model, mode: Mode, batch: int, speed: float, limits: Limits) -> Row:
    """What a mode needs, has, and reaches at a speed in tokens a second."""
    least, held = needed(model, mode, batch)
    ceiling = 1 / least.seconds(limits.operations, limits.bytes(held))
    return {
        "operations": least.operations, "bytes": least.bytes, "held": held / 2**10,
        "speed": speed, "ceiling": ceiling, "ratio": speed / ceiling,
    }  # fmt: skip


def measure_models(limits: Limits, sizes: Sizes, only: Sequence[str] | None = None) -> Table:
    """Tokens a second of every program on every target in every mode, beside the ceiling.

    Args:
      limits: of the machine.
      sizes: of the runs.
      only: targets; all if None.
    """
    rows = []
    for name in PROGRAMS:
        for target in only or [info.name for info in lsrl.targets()]:
            rows += _measure_model(limits, sizes, name, target)
    return Table(
        "models",
        "Programs: whole sequences, and step by step (one sequence)",
        {
            "program": "program",
            "target": "target",
            "mode": "mode",
            "batch": "batch",
            "tokens": "tokens",
            "operations": "operations a token",
            "bytes": "bytes a token",
            "held": "working set, KiB",
            "speed": "tokens a CPU second",
            "ceiling": "ceiling",
            "ratio": "ratio",
        },
        rows,
        "The ceiling: the longer of the operations at the speed of products of matrices, and the "
        "bytes at that of an array as large as the working set: of whole sequences on the "
        f"linear targets a tile of {TILE // 2**20} MiB, else the weights that are not zero, "
        "and the states. Step: `Model.step` in jax, a call from Python with all checks.",
    )


def _measure_model(limits: Limits, sizes: Sizes, name: str, target: str) -> list[Row]:
    workload = workloads()[name]
    batch, tokens = sizes.sparse if target in LINEAR else sizes.scanned
    try:
        model = _compiled(workload.program(tokens), target)
    except UnsupportedOpError:
        return []
    inputs = workload.inputs(batch, tokens)
    workload.check(model, inputs, model.run(*inputs))
    alone = inputs[0][0, : sizes.steps]
    timings = measure_together(
        {"whole": partial(model.run, *inputs), "step": _stepping(model, alone)}, sizes.repeats
    )
    modes: tuple[tuple[Mode, int, int], ...] = (
        ("whole", batch, tokens), ("step", 1, sizes.steps)
    )  # fmt: skip
    rows = []
    for mode, sequences, count in modes:
        speed = sequences * count / seconds(timings[mode])
        row = row_of(model, mode, sequences, speed, limits)
        rows.append(
            {"program": name, "target": target, "mode": mode, "batch": sequences, "tokens": count,
             **row}
        )  # fmt: skip
        say(f"{name} on {target}, {mode}: {number(speed)} tokens/s, "
            f"{number(row['ratio'])} of the ceiling")  # fmt: skip
    return rows


def _compiled(program: lsrl.Program, target: str) -> lsrl.Model:
    try:
        return lsrl.compile(program, target)
    except PrecisionError:
        return lsrl.compile(program, target, dtype="float64")


def _stepping(model: lsrl.Model, tokens: Array) -> Callable[[], Any]:
    def work() -> None:
        state = model.init_state()
        for token in tokens:
            _, state = model.step(state, token, runner="jax")  # events do less than is counted

    return work


def findings(table: Table) -> list[str]:
    """What the table says, in sentences."""
    found = []
    for mode in ("whole", "step"):
        rows = [row for row in table.rows if row["mode"] == mode]
        best, worst = (choose(rows, key=lambda row: row["ratio"]) for choose in (max, min))
        found.append(
            f"Mode {mode}: from {number(worst['ratio'])} ({worst['program']} on {worst['target']}) "
            f"to {number(best['ratio'])} ({best['program']} on {best['target']}) of the ceiling."
        )
    return found


def draw(data: Data) -> "Figure":
    """Speed to the ceiling by program and target, of whole sequences and in steps."""
    figure, axes = panels(2)
    for panel, mode, colour in zip(axes, ("whole", "step"), (BLUE, ORANGE), strict=True):
        rows = [row for row in data["models"] if row["mode"] == mode]
        panel.barh(range(len(rows)), [row["ratio"] for row in rows], color=colour, label=mode)
        names = [f"{row['program']}, {row['target']}" for row in rows]
        panel.set_yticks(range(len(rows)), names, fontsize=7)
        panel.set_xscale("log")
        panel.set_xlabel("tokens a second, to the ceiling")
        legend_below(panel)
    return figure


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = REPEATS,
) -> None:
    """Measure compiled models beside the machine's ceilings."""
    described = machine() | {"device": f"{jax.devices()[0].device_kind}"}
    sizes = QUICK if quick else Sizes(repeats=repeats)
    limits = measure_limits(sizes.repeats)
    table = measure_models(limits, sizes, ("linear_rnn", "lstm") if quick else None)
    Output.of("roofline", quick, output).write(
        "Roofline", described, [limits.table(), table], findings(table), draw
    )


if __name__ == "__main__":
    typer.run(main)
