"""Universal approximation as a rate: the error of vec2vec against the size of its prompt.

One compiled network approximates every function here; only the prompt differs. A function that is
Lipschitz is met with an error in the order of 1 / cells, which is tokens^(-1 / dimensions).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

import lsrl
from benchmarks.common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    BenchmarkError,
    Data,
    Output,
    Table,
    legend_below,
    log_axes,
    machine,
    number,
    panels,
    say,
    slope,
)
from lsrl.paper import between_control_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

TARGET = "linear_rnn"
RAMP = 2.0**-16  # the default of vec2vec on [0, 1]
VALUE_BOUND = 3.0
# Fewer cells than this do not resolve the functions, so they say nothing about the rate.
FIT_FROM = 8
ORIGINAL_TOLERANCE = 1e-3
# Where float32 holds all values of a prompt the network has no error, which a log axis can't show.
LEAST_SHOWN = 1e-10


@dataclass(frozen=True)
class TargetFunction:
    """A function on the unit cube.

    Attributes:
      name: as shown.
      in_dim: entries of x.
      out_dim: entries of a value.
      values: (points, in_dim) -> (points, out_dim), within VALUE_BOUND.
    """

    name: str
    in_dim: int
    out_dim: int
    values: Callable[[Array], Array]


def control_points(in_dim: int, out_dim: int, smoothness: float, seed: int = 0) -> TargetFunction:
    """The kind of function that the original is tested on.

    Five random points in [-0.1, 1.1]^in_dim with random values in [-3, 3].
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.1, 1.1, size=(5, in_dim))
    heights = rng.uniform(-VALUE_BOUND, VALUE_BOUND, size=(5, out_dim))

    values = between_control_points(points, heights, smoothness)
    name = f"5 control points, smoothness {smoothness:g}, {in_dim} → {out_dim}"
    return TargetFunction(name, in_dim, out_dim, values)


FUNCTIONS = (
    TargetFunction("sin 2πx", 1, 1, lambda x: np.sin(2 * np.pi * x)),
    TargetFunction("steep step, 1/(1 + e^(−50(x − 0.45)))", 1, 1,
                   lambda x: 1 / (1 + np.exp(-50 * (x - 0.45)))),
    TargetFunction("kink, |x − 0.37|", 1, 1, lambda x: np.abs(x - 0.37)),
    control_points(1, 1, 0.1),
    TargetFunction("sin 2πx · cos 2πy", 2, 1,
                   lambda x: np.sin(2 * np.pi * x[:, :1]) * np.cos(2 * np.pi * x[:, 1:])),
    TargetFunction("Gaussian bump, σ = 0.15", 2, 1,
                   lambda x: np.exp(-((x - [0.5, 0.4]) ** 2).sum(1, keepdims=True) / 0.045)),
    control_points(2, 2, 1.0),
)  # fmt: skip


def random_queries(rng: np.random.Generator, count: int, in_dim: int, cells: int) -> Array:
    """Uniform points outside the ramps, which lie below the edges: (count, in_dim)."""
    kept = np.zeros((0, in_dim))
    while len(kept) < count:
        points = rng.uniform(size=(2 * count, in_dim))
        below = np.ceil(points * cells) / cells - points  # how far below the next edge
        kept = np.concatenate([kept, points[(below > RAMP).all(axis=1)]])
    return kept[:count]


def measure_function(
    function: TargetFunction, model: lsrl.Model, cells: int, queries: int, seed: int
) -> dict[str, Any]:
    """Prompt a compiled vec2vec with a function, ask it at random points, and split its error."""
    rng = np.random.default_rng(seed)
    x = random_queries(rng, queries, function.in_dim, cells)
    prompt = lsrl.programs.vec2vec_prompt(
        lambda centre: function.values(centre[None])[0],
        x[0], function.in_dim, function.out_dim, cells,
    )  # fmt: skip
    prompts = np.repeat(prompt[None], queries, axis=0)
    prompts[:, 0, : function.in_dim] = x
    answers = model.run(prompts)[:, -1].astype(np.float64)
    truth = function.values(x)
    ideal = function.values((np.floor(x * cells) + 0.5) / cells)
    network = np.abs(answers - ideal)
    bound = model.certificate.error_bound
    if network.max() > bound:
        raise BenchmarkError(
            f"{function.name}, {cells} cells: the network errs by {network.max()}, more than its "
            f"certificate allows: {bound}"
        )
    error = np.abs(answers - truth)
    return {
        "function": function.name,
        "in_dim": function.in_dim,
        "cells": cells,
        "tokens": len(prompt),
        "largest": float(error.max()),
        "mean": float(error.mean()),
        "discretisation": float(np.abs(ideal - truth).max()),
        "network": float(network.max()),
        "bound": bound,
        "wrong": float((network > ORIGINAL_TOLERANCE).mean()),
    }


def measure_all(cells: dict[int, Sequence[int]], queries: int) -> list[dict[str, Any]]:
    """Every function at every number of cells of its dimension."""
    rows = []
    models: dict[tuple[int, int, int], lsrl.Model] = {}
    for seed, function in enumerate(FUNCTIONS):
        for count in cells[function.in_dim]:
            key = function.in_dim, function.out_dim, count
            if key not in models:
                program = lsrl.programs.vec2vec(*key, value_bound=VALUE_BOUND)
                models[key] = lsrl.compile(program, TARGET)
            rows.append(measure_function(function, models[key], count, queries, seed))
            row = rows[-1]
            say(f"{function.name}, {count} cells: largest error {number(row['largest'])}, "
                f"of the network {number(row['network'])}")  # fmt: skip
    return rows


def rates(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of the error, by function."""
    found = []
    for function in FUNCTIONS:
        mine = [r for r in rows if r["function"] == function.name and r["cells"] >= FIT_FROM]
        cells = [row["cells"] for row in mine]
        tokens = [row["tokens"] for row in mine]
        found.append(
            {
                "function": function.name,
                "in_dim": function.in_dim,
                "largest": slope(cells, [row["largest"] for row in mine]),
                "mean": slope(cells, [row["mean"] for row in mine]),
                "tokens": slope(tokens, [row["largest"] for row in mine]),
                "expected": -1 / function.in_dim,
            }
        )
    return found


def draw(data: Data) -> "Figure":
    """Error against cells in one and in two dimensions, and against tokens."""
    rows = data["errors"]
    figure, (line_axes, plane_axes, token_axes) = panels(3, height=5.8)
    for axes, in_dim in ((line_axes, 1), (plane_axes, 2)):
        log_axes(
            axes, f"vec2vec in {in_dim}-d: error against cells",
            "cells along each dimension", "absolute error at random queries",
        )  # fmt: skip
        _draw_errors(axes, [row for row in rows if row["in_dim"] == in_dim], in_dim)
    log_axes(
        token_axes, "Largest error against the length of the prompt",
        "tokens in the prompt", "largest absolute error",
    )  # fmt: skip
    for in_dim, style in ((1, "o-"), (2, "s--")):
        functions = [function for function in FUNCTIONS if function.in_dim == in_dim]
        for function, colour in zip(functions, (BLUE, ORANGE, GREEN, PURPLE), strict=False):
            mine = [row for row in rows if row["function"] == function.name]
            tokens = [row["tokens"] for row in mine]
            label = f"{in_dim}-d: {function.name}"
            token_axes.plot(
                tokens, [r["largest"] for r in mine], style, color=colour, label=label, markersize=4
            )
        tokens = sorted({row["tokens"] for row in rows if row["in_dim"] == in_dim})
        ends = np.array([tokens[0], tokens[-1]], dtype=np.float64)
        label = "slope −1" if in_dim == 1 else "slope −1/2"
        line = 4.0 * (ends / ends[0]) ** (-1 / in_dim)
        token_axes.plot(ends, line, ":" if in_dim == 1 else "-.", color=GREY, label=label)
    legend_below(token_axes)
    return figure


def _draw_errors(axes: "Axes", rows: Sequence[Mapping[str, Any]], in_dim: int) -> None:
    """Largest and mean error of each function, the part of the network, and slope −1."""
    functions = [function for function in FUNCTIONS if function.in_dim == in_dim]
    for function, colour in zip(functions, (BLUE, ORANGE, GREEN, PURPLE), strict=False):
        mine = [row for row in rows if row["function"] == function.name]
        cells = [row["cells"] for row in mine]
        axes.plot(cells, [r["largest"] for r in mine], "o-", color=colour, markersize=4,
                  label=function.name)  # fmt: skip
        axes.plot(cells, [row["mean"] for row in mine], "--", color=colour, alpha=0.7)
        network = [row["network"] if row["network"] > LEAST_SHOWN else np.nan for row in mine]
        axes.plot(cells, network, ".", color=colour)
    cells = sorted({row["cells"] for row in rows})
    reference = [5.0 * cells[0] / count for count in cells]
    axes.plot(cells, reference, ":", color=GREY, label="slope −1")
    worst = [max(row["bound"] for row in rows if row["cells"] == count) for count in cells]
    axes.plot(cells, worst, "-", color=GREY, linewidth=1, label="the network's certified bound")
    ticks = [2**k for k in range(1, 12, 2 if in_dim == 1 else 1) if 2**k <= cells[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.plot([], [], "k-", label="largest error")
    axes.plot([], [], "k--", alpha=0.7, label="mean error")
    axes.plot([], [], "k.", label="largest error of the network alone")
    legend_below(axes)


def findings(
    rows: Sequence[dict[str, Any]], fitted: Sequence[dict[str, Any]], queries: int
) -> list[str]:
    """What the tables say, in sentences."""
    exponents = [row["largest"] for row in fitted]
    worst = max(rows, key=lambda row: row["network"])
    wrong = max(row["wrong"] for row in rows)
    return [
        f"The largest error falls as cells^p with p from {min(exponents):.2f} to "
        f"{max(exponents):.2f} over {len(fitted)} functions (expected: −1), fitted from {FIT_FROM} "
        "cells on.",
        "The part of the compiled network (against the ideal piecewise-constant function, float32) "
        f"is at most {number(worst['network'])} ({worst['function']}, {worst['cells']} cells), and "
        "never above the certificate's bound, which is at most "
        f"{number(max(row['bound'] for row in rows))}. The rest is discretisation.",
        f"{100 * wrong:g} % of the queries are answered with an error of the network above "
        f"{ORIGINAL_TOLERANCE:g} (the original implementation: up to 58 %).",
        f"{queries} random queries a function and number of cells, outside the ramps below the "
        f"edges (2^-16 wide); {TARGET}, float32.",
    ]


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Measure the error of universal approximation by prompting."""
    described = machine()
    queries = 50 if quick else 512
    cells: dict[int, Sequence[int]] = {
        1: (2, 4, 8, 16, 32) if quick else (2, 3, 5, 8, 10, 20, 32, 50, 100, 200, 512, 1000, 2048),
        2: (2, 4, 8, 10) if quick else (2, 3, 5, 8, 10, 16, 20, 32, 50, 64),
    }
    rows = measure_all(cells, queries)
    fitted = rates(rows)
    errors = Table(
        "errors",
        "Error of vec2vec",
        {
            "function": "function",
            "in_dim": "dimensions",
            "cells": "cells a dimension",
            "tokens": "tokens",
            "largest": "largest error",
            "mean": "mean error",
            "discretisation": "of which discretisation",
            "network": "of which network",
            "bound": "certified bound of the network",
        },
        rows,
        "Of which: the largest difference of the ideal piecewise-constant function from the true "
        "one (discretisation), and of the network's answers from the ideal one (network).",
    )
    exponents = Table(
        "rates",
        "Exponents",
        {
            "function": "function",
            "in_dim": "dimensions",
            "largest": "largest error against cells",
            "mean": "mean error against cells",
            "tokens": "largest error against tokens",
            "expected": "expected against tokens",
        },
        fitted,
    )
    Output.of("universality", quick, output).write(
        "Universal approximation",
        described,
        [exponents, errors],
        findings(rows, fitted, queries),
        draw,
    )


if __name__ == "__main__":
    typer.run(main)
