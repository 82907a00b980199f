"""How long compiling takes, and how large the networks are.

Every program of the library on every target, tok2tok at growing lengths beside the figures of the
original implementation, and programs of ever more signals in six shapes. Times are CPU seconds of
a compilation in a process that has compiled the same program before, without any cache of ours.
"""

import cProfile
import math
import pstats
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lsrl
from benchmarks import original
from benchmarks.common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    REPEATS,
    Data,
    Output,
    Table,
    legend_below,
    log_axes,
    machine,
    measure,
    measure_together,
    measured_alone,
    number,
    panels,
    say,
    slope,
)
from benchmarks.workloads import comparisons, shapes, wide_programs
from lsrl.errors import PrecisionError, UnsupportedOpError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (1, 2, 3, 5, 10, 20, 36, 50, 100, 200)
LONG_LENGTHS = (500, 1000)  # with a vocabulary of LONG_VOCAB
VOCAB, LONG_VOCAB = 10, 100
LINEAR_TARGETS = ("linear_rnn", "gated_linear_rnn")
# The fit leaves out the short lengths, where what every compilation costs outweighs the weights.
FIT_FROM = 20
FIT_TO = 200
# Signals of a program, and from how many on a compilation of a long shape counts once.
SIGNALS = (100, 300, 1000, 2000, 5000)
QUICK_SIGNALS = (25, 100)
ONCE_FROM = 1000
CHAIN, TREE = "chain of sums", "tree of sums"
# Shapes of which large programs take as long as those of all others together.
LONG = ("nested selects", "parallel selects")

SIZES = {
    "seconds": "CPU s",
    "layers": "layers",
    "width": "width",
    "parameters": "dense parameters",
    "nonzeros": "nonzero",
    "exact": "exact",
}


def compile_row(build: Callable[[], lsrl.Program], target: str, repeats: int) -> dict[str, Any]:
    """Compile a program and describe the result, or say why the target refuses it."""
    program = build()
    try:
        model = lsrl.compile(program, target)
    except UnsupportedOpError as error:
        kinds = dict.fromkeys(_in_short(offence.reason) for offence in error.offences)
        return {"exact": f"refused: {', '.join(kinds)}"}
    except PrecisionError:
        return {"exact": "refused: float32 has no room"}
    timing = measure(lambda: lsrl.compile(program, target), repeats)
    certificate = model.certificate
    return {
        "seconds": timing.cpu,
        "wall_seconds": timing.wall,
        "layers": model.num_layers,
        "width": model.width,
        "parameters": model.num_parameters,
        "nonzeros": model.num_nonzero_parameters,
        "exact": "yes" if certificate.exact else f"error ≤ {number(certificate.error_bound)}",
        "stages": dict(model.compilation.seconds),
    }


def _in_short(reason: str) -> str:
    """The op that a refusal names: "a selective state", "a product of two general signals"."""
    found = re.match(r"an? ([a-z ]*?)(?= of two| needs| feeds)", reason)
    return found.group(1) if found else reason


def measure_catalogue(repeats: int, only: Sequence[str] | None = None) -> Table:
    """Every program of the library, with its first sample parameters, on every target."""
    rows = []
    for name, entry in lsrl.programs.catalogue().items():
        if only is not None and name not in only:
            continue
        parameters = entry.parameters[0]
        for target in (info.name for info in lsrl.targets()):
            row = compile_row(lambda: entry.program(**parameters), target, repeats)  # noqa: B023
            rows.append({"program": name, "target": target, **row})
            say(f"{name} on {target}: {number(row.get('seconds', 0.0))} s")
    return Table(
        "catalogue",
        "The library: every program on every target",
        {"program": "program", "target": "target", **SIZES},
        rows,
        "The first sample parameters of `lsrl.programs.catalogue()`, float32. An error bound in "
        "place of yes: not certified exact (continuous inputs, or a cell without the room).",
    )


def measure_tok2tok(lengths: Sequence[tuple[int, int]], repeats: int) -> Table:
    """tok2tok at growing lengths, the original's figures between."""
    rows: list[dict[str, Any]] = []
    for length, vocab in lengths:
        for known in original.COMPILATIONS:
            if known.length == length and vocab == VOCAB:
                rows.append(
                    {
                        "length": length,
                        "vocab": VOCAB,
                        "compiler": f"original, {known.mode}",
                        "seconds": known.seconds,
                        "layers": known.layers,
                        "width": known.width,
                        "parameters": known.parameters,
                        "exact": known.remark or None,
                    }
                )
        for target in LINEAR_TARGETS:
            row = compile_row(lambda: lsrl.programs.tok2tok(length, vocab), target, repeats)  # noqa: B023
            rows.append({"length": length, "vocab": vocab, "compiler": target, **row})
            row = rows[-1]
            row["peak"] = measured_alone("compile", length, vocab, target)["peak"]
            per_weight = row["seconds"] / (row["nonzeros"] * math.log(row["nonzeros"]))
            row["microseconds"] = 1e6 * per_weight
            say(f"tok2tok({length}, {vocab}) on {target}: {number(row['seconds'])} s")
    columns = {"length": "length", "vocab": "vocab", "compiler": "compiler or target", **SIZES}
    return Table(
        "tok2tok",
        "tok2tok by length, 20 pairs",
        {**columns, "microseconds": "µs / (nnz · ln nnz)", "peak": "peak MiB"},
        rows,
        "Peak: the largest resident set of a process of its own that compiles it, with Python, jax "
        f"and XLA in it. Rows named original: {original.LABEL}; it fails from length "
        f"{original.FAILS_FROM_LENGTH} on. Its count of parameters at length 20 is not known.",
    )


def measure_wide() -> Table:
    """Programs that are too wide for dense matrices, up to their schedule."""
    rows = []
    for name in wide_programs():
        alone = measured_alone("schedule", name, "linear_rnn")
        rows.append({"program": name, "target": "linear_rnn", **alone})
        say(f"{name}: {number(alone['seconds'])} s, {number(alone['peak'])} MiB")
    columns = {"program": "program", "target": "target", "seconds": "CPU s", "peak": "peak MiB"}
    return Table(
        "wide",
        "Wide signals: the graph, the passes and the schedule",
        {**columns, "before": "before, MiB"},
        rows,
        "Recording a program, its passes and its schedule, in a process of its own, which had its "
        "imports before. Dense parameters are made after that, or refused with their size.",
    )


def measure_comparisons(repeats: int) -> Table:
    """Programs with many comparisons, recorded and compiled."""
    rows = []
    for name, build in comparisons().items():
        recorded = measure(build, repeats).cpu
        row = compile_row(build, "linear_rnn", repeats)
        rows.append({"program": name, "target": "linear_rnn", "recorded": recorded, **row})
        say(f"{name}: {number(recorded)} s, {number(row['seconds'])} s")
    columns = {"program": "program", "target": "target", "recorded": "recording, CPU s"}
    return Table("comparisons", "Many comparisons", {**columns, **SIZES}, rows)


def measure_shapes(counts: Sequence[int], repeats: int) -> Table:
    """Programs of growing numbers of signals, the shapes in turns at each size."""
    rows = []
    for count in counts:
        sizes: dict[str, dict[str, int]] = {}

        def work(name: str, program: lsrl.Program, sizes: dict[str, dict[str, int]]) -> None:
            model = lsrl.compile(program, "linear_rnn")
            weights = model.num_nonzero_parameters
            sizes[name] = {"layers": model.num_layers, "nonzeros": weights}

        programs = {name: build(count) for name, build in shapes().items()}
        works = {name: partial(work, name, program, sizes) for name, program in programs.items()}
        long = {name: works.pop(name) for name in LONG}
        timings = measure_together(works, repeats)
        timings |= measure_together(long, 1 if count >= ONCE_FROM else repeats)
        for name in programs:
            seconds = timings[name].cpu
            row: dict[str, Any] = {"program": name, "signals": count, "seconds": seconds}
            row["each"] = 1e3 * seconds / count
            if name == CHAIN:
                row["over_tree"] = seconds / timings[TREE].cpu
            rows.append({**row, **sizes[name]})
            say(f"{name}, {count} signals: {number(seconds)} s")
    return Table(
        "shapes",
        "Compiling against signals, on linear_rnn",
        {
            "program": "program",
            "signals": "signals",
            "seconds": "CPU s",
            "each": "ms a signal",
            "over_tree": "over the tree",
            "layers": "layers",
            "nonzeros": "nonzero",
        },
        rows,
        "A signal: a comparison, with its addition, select or counter, or a delay. A compilation, "
        "with its certificate and weights; recording the program is not counted.",
    )


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of CPU seconds against signals, by shape."""
    found = {}
    for name in dict.fromkeys(row["program"] for row in rows):
        mine = [row for row in rows if row["program"] == name]
        found[name] = slope([row["signals"] for row in mine], [row["seconds"] for row in mine])
    return found


def shape_findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the table of shapes says, in sentences."""
    found = exponents(rows)
    most = max(row["signals"] for row in rows)
    least = min(row["signals"] for row in rows)
    told = ", ".join(f"{name} {exponent:.2f}" for name, exponent in found.items())
    last = {row["program"]: row for row in rows if row["signals"] == most}
    each = ", ".join(
        f"{number(last[name]['each'])} ms a signal for {name}" for name in ("comparisons", "delays")
    )
    return [
        f"From {least} to {most:,} signals CPU time grows with these exponents: {told}. At "
        f"{most:,}: {each}; a chain of sums takes {last[CHAIN]['over_tree']:.2f} of the time of "
        "the same sums as a tree."
    ]


def fitted(rows: Sequence[dict[str, Any]], target: str, longest: int) -> tuple[float, float]:
    """Exponents of CPU seconds against nonzero weights and against dense parameters."""
    fit = [
        row for row in rows if row["compiler"] == target and FIT_FROM <= row["length"] <= longest
    ]
    seconds = [row["seconds"] for row in fit]
    against = [[row[size] for row in fit] for size in ("nonzeros", "parameters")]
    return slope(against[0], seconds), slope(against[1], seconds)


def findings(rows: Sequence[dict[str, Any]], catalogue: Sequence[dict[str, Any]]) -> list[str]:
    """What the tables say, in sentences."""
    found = []
    ours = {(row["length"], row["vocab"], row["compiler"]): row for row in rows}
    for length, bar in ((3, 0.5), (200, 30.0)):
        row = ours.get((length, VOCAB, "linear_rnn"))
        if row:
            found.append(
                f"tok2tok({length}, {VOCAB}) on linear_rnn: {number(row['seconds'])} s CPU (bar: "
                f"under {bar:g} s), {row['layers']} layers, {row['width']} wide, "
                f"{row['parameters']:,} dense parameters of which {row['nonzeros']:,} are not "
                f"zero, exact: {row['exact']}."
            )
    row = ours.get((3, VOCAB, "linear_rnn"))
    if row:
        quickest = min(known.seconds for known in original.COMPILATIONS if known.length == 3)
        smallest = min(known.parameters or math.inf for known in original.COMPILATIONS)
        found.append(
            f"Against the best figures of the original at length 3 ({original.LABEL}): "
            f"{number(quickest / row['seconds'])} times faster, "
            f"{number(smallest / row['parameters'])} times fewer parameters."
        )
    longest = max(row["length"] for row in rows)
    for target in LINEAR_TARGETS:
        for end in sorted({min(FIT_TO, longest), longest}):
            if end > FIT_FROM:
                sparse, dense = fitted(rows, target, end)
                found.append(
                    f"{target}, lengths {FIT_FROM} to {end}: CPU time grows as (nonzero weights)^"
                    f"{sparse:.2f}, and as (dense parameters)^{dense:.2f}; nothing subtracted. "
                    "Where the last column of the table does not grow, it grows no faster than the "
                    "nonzero weights times their logarithm."
                )
    times = [row["seconds"] for row in catalogue if "seconds" in row]
    refused = sum(str(row["exact"]).startswith("refused") for row in catalogue)
    found.append(
        f"The library: {len(times)} compilations, {number(min(times))} to {number(max(times))} s "
        f"CPU, {number(sum(times))} s together; {refused} refused."
    )
    return found


def draw(data: Data) -> "Figure":
    """Time and size of `tok2tok` against its length, and time against size."""
    rows = [row for row in data["tok2tok"] if not row["compiler"].startswith("original")]
    figure, (time_axes, size_axes, growth_axes) = panels(3)
    log_axes(time_axes, "Compiling tok2tok", "length of the words (symbols)", "CPU seconds")
    log_axes(size_axes, "Size of the network", "length of the words (symbols)", "count")
    log_axes(growth_axes, "Time against size", "nonzero weights", "CPU seconds")
    styles = {"linear_rnn": (BLUE, "o-"), "gated_linear_rnn": (ORANGE, "s--")}
    for target, (colour, style) in styles.items():
        mine = [row for row in rows if row["compiler"] == target]
        lengths = [row["length"] for row in mine]
        seconds = [row["seconds"] for row in mine]
        time_axes.plot(lengths, seconds, style, color=colour, label=target, markersize=4)
        nonzeros = [row["nonzeros"] for row in mine]
        growth_axes.plot(nonzeros, seconds, style, color=colour, label=target, markersize=4)
    mine = [row for row in rows if row["compiler"] == "linear_rnn"]
    lengths = [row["length"] for row in mine]
    for key, label, colour in (
        ("parameters", "dense parameters", BLUE),
        ("nonzeros", "nonzero weights", GREEN),
        ("width", "width", ORANGE),
        ("layers", "layers", GREY),
    ):
        values = [row[key] for row in mine]
        size_axes.plot(lengths, values, "o-", color=colour, label=label, markersize=4)
        if key == "parameters":
            nonzeros = sorted(row["nonzeros"] for row in mine)
            start = min(row["seconds"] for row in mine)
            reference = [start * value / nonzeros[0] for value in nonzeros]
            top = max(row["seconds"] for row in mine) * 3
            kept = [(n, t) for n, t in zip(nonzeros, reference, strict=True) if t <= top]
            growth_axes.plot(*zip(*kept, strict=True), ":", color=GREY, label="slope 1")
    for known in original.COMPILATIONS:
        time_axes.plot(known.length, known.seconds, "x", color=RED, markersize=7, mew=2)
        time_axes.annotate(
            known.mode, (known.length, known.seconds), xytext=(6, -3),
            textcoords="offset points", fontsize=7.5, color=RED,
        )  # fmt: skip
        if known.parameters:
            size_axes.plot(known.length, known.parameters, "x", color=RED, markersize=7, mew=2)
        size_axes.plot(known.length, known.width, "+", color=RED, markersize=8, mew=2)
    time_axes.plot([], [], "x", color=RED, mew=2, label="original (2-core CPU)")
    size_axes.plot([], [], "x", color=RED, mew=2, label="original: dense parameters")
    size_axes.plot([], [], "+", color=RED, mew=2, label="original: width")
    time_axes.axvspan(
        original.FAILS_FROM_LENGTH,
        max(lengths) * 1.3,
        color=RED,
        alpha=0.07,
        label="original fails",
    )
    for axes in (time_axes, size_axes, growth_axes):
        legend_below(axes)
    return figure


def print_profile(length: int, vocab: int, target: str, count: int = 25) -> None:
    """Print where a compilation spends its time: all functions by own time, ours by total time."""
    program = lsrl.programs.tok2tok(length, vocab)
    lsrl.compile(program, target)
    profile = cProfile.Profile()
    profile.runcall(lsrl.compile, program, target)
    statistics = pstats.Stats(profile)
    print(f"\ntok2tok({length}, {vocab}) on {target}")
    statistics.sort_stats("tottime").print_stats(count)
    ours = re.escape(str(Path(lsrl.__file__).parent))
    statistics.sort_stats("cumulative").print_stats(ours, count)


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    profile: Annotated[
        bool, typer.Option(help="Print where the time goes at length 200 and 1000, and stop.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Measure compile time and network size."""
    if profile:
        for length, vocab in ((200, VOCAB), (1000, LONG_VOCAB)):
            print_profile(length, vocab, "linear_rnn")
        return
    described = machine()
    repeats = 2 if quick else REPEATS
    if quick:
        lengths = [(length, VOCAB) for length in (1, 3, 20, 36, 50)]
        catalogue = measure_catalogue(
            repeats, ("majority", "gradient_step", "flip_flop", "vec2vec")
        )
    else:
        lengths = [(length, VOCAB) for length in LENGTHS]
        lengths += [(length, LONG_VOCAB) for length in LONG_LENGTHS]
        catalogue = measure_catalogue(repeats)
    tok2tok = measure_tok2tok(lengths, repeats)
    rows = [dict(row) for row in tok2tok.rows]
    mine = [row for row in rows if not row["compiler"].startswith("original")]
    growth = measure_shapes(QUICK_SIGNALS if quick else SIGNALS, repeats)
    told = findings(mine, [dict(row) for row in catalogue.rows])
    told += shape_findings([dict(row) for row in growth.rows])
    Output.of("compile", quick, output).write(
        "Compiling",
        described,
        [tok2tok, growth, measure_wide(), measure_comparisons(repeats), catalogue],
        told,
        draw,
    )


if __name__ == "__main__":
    typer.run(main)
