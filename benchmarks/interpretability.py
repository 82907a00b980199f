"""Reference methods on compiled networks, scored against their circuits.

`python -m benchmarks.interpretability` takes programs of every family on the targets that hold
them, and variants of some. What reading the weights finds by itself is marked as an aid to
debugging. Rows go to benchmarks/results/interpretability.csv, tables to interpretability.md.
Finished models are kept in build/interpretability, so a run that was broken off goes on where it
stopped; `--fresh` begins anew.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

import lsrl
from benchmarks.common import QUICK_RESULTS, RESULTS, ROOT, machine, say
from lsrl.errors import LsrlError
from lsrl.interpret.methods import (
    METHODS,
    POINTS,
    POOL,
    SEQUENCES,
    TRANSPARENT,
    Case,
    Row,
    evaluate_methods,
    from_csv,
    shown,
    summary,
    to_csv,
    to_markdown,
    transparent,
)
from lsrl.interpret.variants import padded, permuted, rotated
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.programs.entry import Entry

PROGRAMS = (
    "histogram", "majority", "running_max", "ngram", "first_token", "undo_flip_flop",
    "counting_sort", "associative_recall", "induction_head", "dyck1", "a_n_b_n", "even_pairs",
)  # fmt: skip
TARGETS = ("linear_rnn", "rnn", "rnn_tanh", "lstm", "gru", "mamba", "griffin")
# A program or target more doubles what variants take.
VARIANT_PROGRAMS = ("undo_flip_flop", "dyck1", "even_pairs")
VARIANT_TARGETS = ("gru", "mamba")
VARIANTS: dict[str, Callable[[Model], Model]] = {
    "permuted": permuted,
    "padded": padded,
    "rotated": rotated,
}
TOKENS = 12
KEPT = ROOT / "build" / "interpretability"


class Sampler:
    """Legal inputs of a program of the library, all of one length."""

    def __init__(self, entry: Entry, tokens: int = TOKENS) -> None:
        self.entry, self.tokens = entry, tokens

    def __call__(self, sequences: int, seed: int) -> list[Array]:
        rng = np.random.default_rng(seed)
        parameters = self.entry.parameters[0]
        rows = [self.entry.sample(rng, self.tokens, **parameters) for _ in range(sequences)]
        shortest = min(len(row[0]) for row in rows)
        return [np.stack([row[i][:shortest] for row in rows]) for i in range(len(rows[0]))]


class Wanted(NamedTuple):
    """A model to be made."""

    program: str
    target: str
    variant: str


def wanted(programs: Sequence[str], targets: Sequence[str]) -> list[Wanted]:
    """Every program on every target, and the variants of some."""
    plain = [Wanted(program, target, "plain") for program in programs for target in targets]
    return plain + [
        Wanted(program, target, variant)
        for program in programs
        if program in VARIANT_PROGRAMS
        for target in targets
        if target in VARIANT_TARGETS
        for variant in VARIANTS
    ]


def made(want: Wanted) -> Case | None:
    """The model, or None where the target can't hold the program or has no such variant."""
    entry = lsrl.programs.catalogue()[want.program]
    program = entry.program(**entry.parameters[0])
    try:
        model = lsrl.compile(program, want.target, inspectable=True)
        if want.variant != "plain":
            model = VARIANTS[want.variant](model)
    except LsrlError as error:
        say(f"{' '.join(want)}: left out, {str(error).splitlines()[0]}")
        return None
    sampler = Sampler(entry)
    if len(model.program.inputs) != len(program.inputs):
        say(f"{' '.join(want)}: left out, it has inputs of its own")
        return None
    return Case(*want, model, sampler)


def rows_of(want: Wanted, seed: int) -> list[Row]:
    """Rows of one model, kept from an earlier run or worked out now."""
    kept = KEPT / f"{'-'.join(want)}-{seed}.csv"
    if kept.exists():
        return from_csv(kept.read_text(encoding="utf-8"))
    case, began = made(want), time.perf_counter()
    if case is None:
        return []
    rows = evaluate_methods([case], METHODS, seed=seed)
    KEPT.mkdir(parents=True, exist_ok=True)
    kept.write_text(to_csv(rows), encoding="utf-8")
    say(f"{' '.join(want)}: {time.perf_counter() - began:.0f} s")
    return rows


def gradients_table(rows: Sequence[Row]) -> str:
    """By target, what share of gradients is zero or infinite, and what is found by them."""
    columns = {
        "zero": ("attribution", "zero_gradients"),
        "zero, integrated": ("integrated", "zero_gradients"),
        "infinite": ("attribution", "infinite_gradients"),
        "edges by one gradient": ("attribution", "roc_auc"),
        "edges by integrated ones": ("integrated", "roc_auc"),
    }
    edges = [row for row in rows if row.kind == "edges" and row.level == "units"]
    lines = ["| target | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for target in dict.fromkeys(row.target for row in rows):
        cells = []
        for method, measure in columns.values():
            chosen = [row for row in edges if row.target == target and row.method == method]
            known = summary(chosen, ("target",), measure).get((target,))
            cells.append("–" if known is None else shown(known))
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def probes_table(rows: Sequence[Row]) -> str:
    """By target, how well probes read signals, and whether they look where the signals are."""
    columns = {"R²": "r2", "selectivity": "selectivity", "location, ROC-AUC": "roc_auc"}
    lines = ["| target | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    probes = [row for row in rows if row.kind == "probes"]
    for target in dict.fromkeys(row.target for row in rows):
        cells = []
        for measure in columns.values():
            known = summary(probes, ("target",), measure).get((target,))
            cells.append("–" if known is None else shown(known))
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def weights_table(rows: Sequence[Row]) -> str:
    """By target and variant, what reading the weights finds, and what that makes of the variant."""
    chosen = [row for row in rows if row.method == "weights" and row.kind == "edges"]
    known = summary(chosen, ("target", "variant", "level"), "roc_auc")
    lines = ["| target | variant | signals | units | good for |", "|" + " --- |" * 5]
    for (target, variant), found in transparent(rows).items():
        cells = [known.get((target, variant, level)) for level in ("signals", "units")]
        text = " | ".join("–" if cell is None else shown(cell) for cell in cells)
        use = "an aid to debugging, not a benchmark" if found else "a benchmark"
        lines.append(f"| {target} | {variant} | {text} | {use} |")
    return "\n".join(lines)


def page(rows: Sequence[Row], described: dict[str, str]) -> str:
    """All tables."""
    programs = list(dict.fromkeys(row.program for row in rows))
    plain = [row for row in rows if row.variant == "plain"]
    altered = [row for row in rows if row.variant != "plain"]
    models = len({(row.program, row.target, row.variant) for row in rows})
    return "\n".join(
        [
            "# Reference methods on compiled networks",
            "",
            f"{models} models of {len(programs)} programs ({', '.join(programs)}), "
            f"{SEQUENCES} sequences of up to {TOKENS} tokens ({POOL} for probes), "
            f"{POINTS} points for integrated gradients. Means over programs; in brackets 95 % "
            "intervals of a bootstrap that draws programs. Precision, recall and faithfulness are "
            "at the threshold of the best F1, which is the most that a method could reach.",
            "",
            "## Plain networks, by method",
            "",
            to_markdown(plain),
            "",
            "## Plain networks, by method and target",
            "",
            to_markdown(plain, ("target", "method")),
            "",
            "## Variants, by method",
            "",
            f"Of {', '.join(VARIANT_PROGRAMS)}. Where units hold several signals each, as in a "
            "rotated stream, there are claims about signals only. Methods that look for them there "
            "are told the directions, but for whoever reads the weights.",
            "",
            to_markdown(altered, ("variant", "method")),
            "",
            "## Reading the weights",
            "",
            f"Where its mean ROC-AUC for edges exceeds {TRANSPARENT}, at either level, a variant "
            "tells its edges to whoever looks at the weights.",
            "",
            weights_table(rows),
            "",
            "## Gradients",
            "",
            "Shares of the gradients of the outputs, at tokens and units where two runs differ, "
            "and ROC-AUC of the edges of units that are found by them.",
            "",
            gradients_table(plain),
            "",
            "## Linear probes",
            "",
            "Selectivity is R² less that of the control task. Location is the ROC-AUC of a "
            "probe's weights for the units that hold the signal.",
            "",
            probes_table(plain),
            "",
            "## Machine",
            "",
            *(f"- {name}: {value}" for name, value in described.items()),
            "",
            "Written by `python -m benchmarks.interpretability`.",
            "",
        ]
    )


def main(
    quick: Annotated[bool, typer.Option(help="Two programs, written to build/.")] = False,
    program: Annotated[list[str] | None, typer.Option(help="Programs of the library.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Targets.")] = None,
    fresh: Annotated[bool, typer.Option(help="Forget what is finished.")] = False,
    seed: Annotated[int, typer.Option(help="Of inputs and of what is random.")] = 0,
) -> None:
    """Score the reference methods, and write the rows and the tables."""
    described = machine()
    if fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    chosen = program or (PROGRAMS[4:6] if quick else PROGRAMS)
    rows = [row for want in wanted(chosen, target or TARGETS) for row in rows_of(want, seed)]
    folder: Path = QUICK_RESULTS if quick or program or target else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    text = page(rows, described)
    (folder / "interpretability.csv").write_text(to_csv(rows), encoding="utf-8")
    (folder / "interpretability.md").write_text(text, encoding="utf-8")
    say(text)
    say(f"written to {folder}")


if __name__ == "__main__":
    typer.run(main)
