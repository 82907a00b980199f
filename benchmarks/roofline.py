"""How near compiled models come to what the machine can do at all.

A token of a program costs operations and bytes (`lsrl.cost`); the machine has a ceiling of each,
measured in the same run: a large matrix product, and a large copy. What is left of the ratio is
overhead: calls, loops, and passes over values that a cache holds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import typer

import lsrl
from benchmarks.common import (
    BLUE,
    ORANGE,
    REPEATS,
    Output,
    Table,
    legend_below,
    machine,
    measure,
    measure_together,
    number,
    panels,
    say,
)
from benchmarks.workloads import Array, workloads
from lsrl.cost import Mode, cost
from lsrl.errors import PrecisionError, UnsupportedOpError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROGRAMS = ("majority", "dyck1", "tok2tok")
COPIED = 2**26  # numbers of the large copy
PRODUCT = 2048  # rows and columns of the large product


def ceilings(repeats: int, copied: int = COPIED, product: int = PRODUCT) -> dict[str, float]:
    """What the device does at most: "operations" and "bytes" a second, in float32."""
    values = jnp.zeros(copied, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    matrix = jnp.ones((product, product), jnp.float32)
    multiply = jax.jit(partial(jnp.dot, precision=jax.lax.Precision.HIGHEST))
    copy_time = measure(lambda: add(values).block_until_ready(), repeats).wall
    product_time = measure(lambda: multiply(matrix, matrix).block_until_ready(), repeats).wall
    return {"operations": 2 * product**3 / product_time, "bytes": 8 * copied / copy_time}


def measure_models(
    limits: dict[str, float],
    batch: int,
    tokens: int,
    steps: int,
    repeats: int,
    programs: Sequence[str] = PROGRAMS,
) -> Table:
    """Tokens a second of every program on every target in every mode, beside the ceiling."""
    rows = []
    for name in programs:
        workload = workloads()[name]
        for target in (info.name for info in lsrl.targets()):
            try:
                model = _compiled(workload.program(tokens), target)
            except UnsupportedOpError:
                continue
            inputs = workload.inputs(batch, tokens)
            workload.check(model, inputs, model.run(*inputs))
            alone = inputs[0][0, :steps]
            timings = measure_together(
                {"whole": partial(model.run, *inputs), "step": _stepping(model, alone)}, repeats
            )
            modes: tuple[tuple[Mode, int, int], ...] = (
                ("whole", batch, batch * tokens), ("step", 1, steps)
            )  # fmt: skip
            for mode, sequences, count in modes:
                needed = cost(model, mode, sequences)
                ceiling = 1 / needed.seconds(limits["operations"], limits["bytes"])
                speed = count / timings[mode].wall
                rows.append(
                    {
                        "program": name, "target": target, "mode": mode, "batch": sequences,
                        "operations": needed.operations, "bytes": needed.bytes, "speed": speed,
                        "ceiling": ceiling, "ratio": speed / ceiling,
                    }
                )  # fmt: skip
                say(f"{name} on {target}, {mode}: {number(speed)} tokens/s, "
                    f"{number(speed / ceiling)} of the ceiling")  # fmt: skip
    return Table(
        "models",
        f"Programs: whole sequences ({batch} × {tokens:,} tokens), and step by step (one sequence)",
        {
            "program": "program",
            "target": "target",
            "mode": "mode",
            "batch": "batch",
            "operations": "operations a token",
            "bytes": "bytes a token",
            "speed": "tokens/s",
            "ceiling": "ceiling, tokens/s",
            "ratio": "ratio",
        },
        rows,
        f"The ceiling: {number(limits['operations'] / 1e9)} thousand million operations and "
        f"{number(limits['bytes'] / 1e9)} GB a second, of a product of two {PRODUCT} × {PRODUCT} "
        f"matrices and of {COPIED:,} numbers read and written. A ratio above 1 means that a cache "
        "holds what the count takes for memory.",
    )


def _compiled(program: lsrl.Program, target: str) -> lsrl.Model:
    try:
        return lsrl.compile(program, target)
    except PrecisionError:
        return lsrl.compile(program, target, dtype="float64")


def _stepping(model: lsrl.Model, tokens: Array) -> Callable[[], Any]:
    def work() -> None:
        state = model.init_state()
        for token in tokens:
            _, state = model.step(state, token)

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


def draw(table: Table) -> "Figure":
    """Ratios by program and target, a panel a mode."""
    figure, axes = panels(2)
    for panel, mode, colour in zip(axes, ("whole", "step"), (BLUE, ORANGE), strict=True):
        rows = [row for row in table.rows if row["mode"] == mode]
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
) -> None:
    """Measure compiled models beside the machine's ceilings."""
    described = machine() | {"device": f"{jax.devices()[0].device_kind}"}
    limits = ceilings(REPEATS)
    table = measure_models(limits, *((8, 100, 20) if quick else (256, 1000, 200)), REPEATS)
    Output.of("roofline", quick, output).write(
        "Roofline", described, [table], findings(table), draw(table)
    )


if __name__ == "__main__":
    typer.run(main)
