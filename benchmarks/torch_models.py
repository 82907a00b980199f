"""Compiled models beside torch on the CPU: stock LSTMs and GRUs, and the classes of transformers.

The same weights on both sides, and the same answers, or the time means nothing. Times are of the
models as users call them: `model.run` and `model.step`, which check their inputs, and torch's
modules under `torch.inference_mode`, with one thread: two of torch's spin on a busy machine, and a
step of 0.1 ms then reads 8 ms.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import transformers
import typer

import lsrl
from benchmarks.common import (
    BLUE,
    GREEN,
    ORANGE,
    REPEATS,
    BenchmarkError,
    Data,
    Output,
    Table,
    legend_below,
    log_axes,
    machine,
    number,
    panels,
    sample_together,
    say,
)
from benchmarks.huggingface_classes import stepwise_logits
from benchmarks.workloads import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = ("lstm", "gru")
# Kernels of 256 units would be kept sparse, and then take no weights where they have none.
HIDDEN = (16, 32, 64, 128, 254)
BATCHES = (1, 64)
RESIDUAL = ("mamba", "griffin")
TOKENS = 500
STEPS = 50
BARS = {"cells": 1.5, "full": 1.1, "residual": 1.0, "step": 0.8}


def compared(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    repeats: int,
    **others: Callable[[], Any],
) -> dict[str, float]:
    """CPU milliseconds of all, timed in turns, and medians of the ratios to theirs in a turn.

    "ratio" is of the time on the clock, all others of CPU time.
    """
    found = sample_together({"ours": ours, "torch": theirs, **others}, repeats)

    def ratio(name: str, clock: str) -> float:
        pairs = zip(found[name], found["torch"], strict=True)
        return statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)

    times = {
        name: 1e3 * statistics.median(timing.cpu for timing in timings)
        for name, timings in found.items()
    }
    ratios = {f"{name} ratio": ratio(name, "cpu") for name in others}
    return {**times, **ratios, "ratio": ratio("ours", "wall"), "cpu ratio": ratio("ours", "cpu")}


def one_thread() -> dict[str, str]:
    """Make torch use one thread, and say so in a page's description of the machine."""
    torch.set_num_threads(1)
    return {"torch's threads": f"{torch.get_num_threads()}"}


def require(same: bool, what: str) -> None:
    """Raise BenchmarkError unless both sides answer alike."""
    if not same:
        raise BenchmarkError(f"{what}: torch gives other answers")


# ---------------------------------------------------------------- LSTM and GRU


def compare_cells(hidden: Sequence[int], tokens: int, repeats: int) -> Table:
    """One compiled layer of a hidden size, beside torch's own with the same weights."""
    rows = []
    for target in CELLS:
        for size in hidden:
            # The histogram of so many symbols: a unit a symbol, in one layer.
            program = lsrl.programs.histogram(size, tokens)
            model, full = (lsrl.compile(program, target) for _ in range(2))
            # As trained ones are: no weight of a kernel is zero.
            weights = full.module.parameter_arrays()
            full.module.replace_parameters(
                {name: x + 1e-3 for name, x in weights.items() if "dense" in name and x.ndim == 2}
            )
            with tempfile.TemporaryDirectory() as folder:
                model.export("torch", Path(folder, "model"))
                theirs = lsrl.load_torch(Path(folder, "model"))
            rng = np.random.default_rng(0)
            for batch in BATCHES:
                ids = rng.integers(0, size, (batch, tokens))
                given = torch.from_numpy(ids)
                with torch.inference_mode():
                    equal = np.array_equal(theirs(given).numpy(), model.run(ids))
                    require(equal, f"{target}, {size} units")
                    times = compared(
                        partial(model.run, ids),
                        partial(theirs, given),
                        repeats,
                        full=partial(full.run, ids),
                    )
                rows.append({"target": target, "hidden": model.width, "batch": batch, **times})
                say(f"{target}, {model.width} units, {batch} × {tokens}: "
                    f"{number(times['cpu ratio'])} of torch's CPU time")  # fmt: skip
    return Table(
        "cells",
        f"One layer beside torch.nn.LSTM and GRU, {tokens:,} tokens, CPU milliseconds",
        {
            "target": "target",
            "hidden": "hidden units",
            "batch": "batch",
            "ours": "Model.run",
            "torch": "torch",
            "ratio": "ratio on the clock",
            "cpu ratio": "in CPU time",
            "full": "full kernels",
            "full ratio": "theirs in CPU time",
        },
        rows,
        f"The histogram of so many symbols. Bar: {BARS['cells']}. Compiled kernels are mostly "
        "zeros, and are run as the rows and diagonals that they have; torch's time is the same "
        "whatever the weights are. Beside it, the network with weights that are not zero "
        "anywhere. Torch has one thread, as XLA's loop over time has.",
    )


# ---------------------------------------------------------------- mamba and griffin


def compare_residual(
    tokens: int, steps: int, repeats: int, targets: Sequence[str] = RESIDUAL
) -> Table:
    """Whole sequences and single steps beside the classes of transformers."""
    pairs = -(-(tokens - 3) // 6)
    programs = {
        "induction_head": lsrl.programs.induction_head(vocab=10),
        "tok2tok": lsrl.programs.tok2tok(3, 10, pairs),
    }
    rows = []
    for target in targets:
        for name, program in programs.items():
            model = lsrl.compile(program, target)
            with tempfile.TemporaryDirectory() as folder:
                model.export("huggingface", Path(folder, "model"))
                loaded = transformers.AutoModelForCausalLM.from_pretrained(Path(folder, "model"))
            theirs = loaded.eval()
            for batch in (1, 8):
                ids = np.random.default_rng(0).integers(0, 10, (batch, tokens))
                for mode in ("whole", "step"):
                    with torch.inference_mode():
                        ours, other = _modes(model, theirs, ids, mode, steps)
                        require(np.array_equal(ours(), other()), f"{name} on {target}, {mode}")
                        times = compared(ours, other, repeats)
                    per = steps if mode == "step" else 1
                    rows.append(
                        {
                            "program": name, "target": target, "layers": model.num_layers,
                            "mode": f"{tokens} tokens" if mode == "whole" else "a step",
                            "batch": batch, **times,
                            "ours": times["ours"] / per, "torch": times["torch"] / per,
                        }
                    )  # fmt: skip
                    say(f"{name} on {target}, {mode}, batch {batch}: "
                        f"{number(times['cpu ratio'])} of transformers' CPU time")  # fmt: skip
    return Table(
        "residual",
        f"{' and '.join(targets)} beside the classes of transformers, CPU milliseconds",
        {
            "program": "program",
            "target": "target",
            "layers": "layers",
            "mode": "mode",
            "batch": "batch",
            "ours": "lsrl",
            "torch": "transformers",
            "ratio": "ratio on the clock",
            "cpu ratio": "in CPU time",
        },
        rows,
        f"Whole: Model.run, and a forward pass without a cache. A step: Model.step, and a forward "
        f"pass of one token with the class's cache, the mean of {steps} in a row. Answers are the "
        f"symbols of the greatest logits. Bar: {BARS['residual']:g}.",
    )


def _modes(
    model: lsrl.Model, theirs: Any, ids: Array, mode: str, steps: int
) -> tuple[Callable[[], Array], Callable[[], Array]]:
    """Answers (batch, time) of both, as functions."""
    given = torch.from_numpy(ids)
    if mode == "whole":
        return (
            lambda: model.run(ids)[..., 0].astype(np.int64),
            lambda: theirs(given, use_cache=False).logits.argmax(-1).numpy(),
        )

    def ours() -> Array:
        state = model.init_state(len(ids))
        outputs = []
        for time in range(steps):
            output, state = model.step(state, ids[:, time])
            outputs.append(output[:, 0])
        return np.stack(outputs, axis=1).astype(np.int64)

    return ours, lambda: _steps(theirs, given[:, :steps])


def _steps(theirs: Any, ids: Any) -> Array:
    """Answers (batch, time), token by token."""
    found = [logits.argmax(-1) for logits in stepwise_logits(theirs, ids)]
    return torch.cat(found, dim=1).numpy()


# ---------------------------------------------------------------- the page


def findings(cells: Table, residual: Table) -> list[str]:
    """What the tables say, in sentences."""
    steps = [row for row in residual.rows if row["mode"] == "a step"]
    return [
        _dearest("Beside torch.nn", cells.rows, "cpu ratio", BARS["cells"]),
        _dearest("Full kernels", cells.rows, "full ratio", BARS["full"]),
        _dearest("Beside transformers", residual.rows, "cpu ratio", BARS["residual"]),
        _dearest("A step", steps, "cpu ratio", BARS["step"]),
    ]


def _dearest(which: str, rows: Sequence[Mapping[str, Any]], key: str, bar: float) -> str:
    worst = max(rows, key=lambda row: row[key])
    above = sum(row[key] > bar for row in rows)
    what = [f"{worst[one]}" for one in ("program", "target", "hidden", "mode") if one in worst]
    return (
        f"{which}: at most {number(worst[key])} times the CPU time ({', '.join(what)}, batch "
        f"{worst['batch']}; bar: {bar:g}); above the bar in {above} of {len(rows)} rows."
    )


def draw(data: Data) -> "Figure":
    """The CPU time to torch's by hidden units, and to transformers' by program."""
    figure, (cell_axes, residual_axes) = panels(2)
    log_axes(cell_axes, "One layer beside torch.nn", "hidden units", "CPU time to torch's")
    for target, colour in zip(CELLS, (BLUE, ORANGE), strict=True):
        for batch, style in zip(BATCHES, ("o-", "s--"), strict=True):
            points = [
                (row["hidden"], row["cpu ratio"])
                for row in data["cells"]
                if (row["target"], row["batch"]) == (target, batch)
            ]
            label = f"{target}, batch {batch}"
            cell_axes.plot(*zip(*points, strict=True), style, color=colour, label=label)
    cell_axes.axhline(BARS["cells"], color=GREEN, linestyle=":", label="bar")
    legend_below(cell_axes)
    rows = data["residual"]
    names = [f"{r['program']}, {r['target']}, {r['mode']}, {r['batch']}" for r in rows]
    residual_axes.barh(range(len(rows)), [row["cpu ratio"] for row in rows], color=BLUE)
    residual_axes.axvline(BARS["residual"], color=GREEN, linestyle=":", label="bar")
    residual_axes.set_yticks(range(len(rows)), names, fontsize=7)
    residual_axes.set_xscale("log")
    residual_axes.set_title("Beside transformers")
    residual_axes.set_xlabel("CPU time to theirs")
    legend_below(residual_axes)
    return figure


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = REPEATS,
) -> None:
    """Measure compiled models beside torch on the CPU."""
    described = machine() | one_thread()
    cells = compare_cells((16, 32) if quick else HIDDEN, 100 if quick else 1000, repeats)
    residual = compare_residual(60 if quick else TOKENS, 10 if quick else STEPS, repeats)
    Output.of("torch_models", quick, output).write(
        "Beside torch", described, [cells, residual], findings(cells, residual),
        draw,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
