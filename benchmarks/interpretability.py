"""Reference methods on compiled networks, scored against their circuits.

`python -m benchmarks.interpretability` takes programs of every family on the targets that hold
them. What reading the weights finds by itself is marked as an aid to debugging. Rows go to
benchmarks/results/interpretability.csv, tables to interpretability.md.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import lsrl
from benchmarks.common import QUICK_RESULTS, RESULTS, machine, say
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
    shown,
    summary,
    to_csv,
    to_markdown,
    transparent,
)
from lsrl.ir.numbers import Array
from lsrl.programs.entry import Entry

PROGRAMS = (
    "histogram", "majority", "running_max", "ngram", "first_token", "undo_flip_flop",
    "counting_sort", "associative_recall", "induction_head", "dyck1", "a_n_b_n", "even_pairs",
)  # fmt: skip
TARGETS = ("linear_rnn", "rnn", "rnn_tanh", "lstm", "gru", "mamba", "griffin")
TOKENS = 12


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


def cases(programs: Sequence[str], targets: Sequence[str]) -> Iterator[Case]:
    """Every program on every target that holds it."""
    catalogue = lsrl.programs.catalogue()
    for name in programs:
        entry = catalogue[name]
        program = entry.program(**entry.parameters[0])
        for target in targets:
            try:
                model = lsrl.compile(program, target, inspectable=True)
            except LsrlError as error:
                say(f"{name} on {target}: left out, {str(error).splitlines()[0]}")
                continue
            yield Case(name, target, "plain", model, Sampler(entry))


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


def page(rows: Sequence[Row], seconds: float, described: dict[str, str]) -> str:
    """All tables."""
    programs = list(dict.fromkeys(row.program for row in rows))
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
            "## By method",
            "",
            to_markdown(rows),
            "",
            "## By method and target",
            "",
            to_markdown(rows, ("target", "method")),
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
            gradients_table(rows),
            "",
            "## Linear probes",
            "",
            "Selectivity is R² less that of the control task. Location is the ROC-AUC of a "
            "probe's weights for the units that hold the signal.",
            "",
            probes_table(rows),
            "",
            "## Machine",
            "",
            f"- all of it: {seconds:.0f} s",
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
    seed: Annotated[int, typer.Option(help="Of inputs and of what is random.")] = 0,
) -> None:
    """Score the reference methods, and write the rows and the tables."""
    described, start = machine(), time.perf_counter()
    chosen = program or (PROGRAMS[4:6] if quick else PROGRAMS)
    rows: list[Row] = []
    for case in cases(chosen, target or TARGETS):
        began = time.perf_counter()
        rows += evaluate_methods([case], METHODS, seed=seed)
        say(f"{case.program} on {case.target}: {time.perf_counter() - began:.0f} s")
    folder: Path = QUICK_RESULTS if quick or program or target else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    text = page(rows, time.perf_counter() - start, described)
    (folder / "interpretability.csv").write_text(to_csv(rows), encoding="utf-8")
    (folder / "interpretability.md").write_text(text, encoding="utf-8")
    say(text)
    say(f"written to {folder}")


if __name__ == "__main__":
    typer.run(main)
