"""Reference methods on compiled networks, scored against their circuits.

`python -m benchmarks.interpretability DIR` takes the models of a suite that `lsrl suite build DIR`
made, or those of some of its programs and targets. Networks of Mamba and Griffin are `trimmed`,
since most of their inner channels are zeros. What reading the weights finds by itself is marked as
an aid to debugging. Rows go to benchmarks/results/suite.csv.gz, tables to suite.md.
Finished models are kept in build/interpretability, by what their files hold, so a run that was
broken off goes on where it stopped, and so does one on a suite that was built again; `--fresh`
begins anew.

With `--held-back N` the programs are generated ones that no method was tuned on, compiled now, and
the files are called held_back.
"""

import gzip
import multiprocessing
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

import lsrl
from benchmarks.common import QUICK_RESULTS, RESULTS, ROOT, machine, say
from lsrl import cache
from lsrl.errors import LsrlError
from lsrl.interpret.attribution import POINTS
from lsrl.interpret.laboratory import METHODS
from lsrl.interpret.method_scores import (
    TRANSPARENT,
    MethodScore,
    from_csv,
    shown,
    summary,
    to_csv,
    to_markdown,
    transparent,
)
from lsrl.interpret.methods import POOL, SEQUENCES, Case, evaluate_methods
from lsrl.interpret.variants import padded, trimmed
from lsrl.interpret.wiring import forget_compiled
from lsrl.model import Model
from lsrl.suite.build import DATASET, MODEL
from lsrl.suite.datasets import read_dataset
from lsrl.suite.held_back import HeldBackProgram, held_back
from lsrl.suite.manifest import Manifest, ModelRecord, digest, read_manifest
from lsrl.suite.programs import sampler_of

# Of held-back programs.
HELD_BACK_TARGETS = ("linear_rnn", "gru")
HELD_BACK_VARIANTS: dict[str, Callable[[Model], Model]] = {
    "plain": lambda model: model,
    "padded": padded,
}
KEPT = ROOT / "build" / "interpretability"


class Wanted(NamedTuple):
    """A model to be made."""

    program: str
    target: str
    variant: str


class Source(ABC):
    """Where models come from; it is sent to the workers."""

    @abstractmethod
    def wanted(self, programs: Sequence[str] | None, targets: Sequence[str] | None) -> list[Wanted]:
        """All of them, or those of some programs and targets."""

    @abstractmethod
    def digest(self, want: Wanted) -> str:
        """A hash of the model and its inputs, or of what makes them."""

    @abstractmethod
    def case(self, want: Wanted) -> Case | None:
        """The model, or None where there is nothing to score.

        Raises:
          LsrlError: the target can't hold the program or has no such variant.
        """


@dataclass(frozen=True)
class HeldBack(Source):
    """Generated programs on targets, plain and padded.

    Attributes:
      count: how many programs.
      seed: of what they are.
    """

    count: int
    seed: int

    def wanted(self, programs: Sequence[str] | None, targets: Sequence[str] | None) -> list[Wanted]:
        """See `Source`."""
        return [
            Wanted(name, target, variant)
            for name in self._tasks()
            if programs is None or name in programs
            for target in targets or HELD_BACK_TARGETS
            for variant in HELD_BACK_VARIANTS
        ]

    def digest(self, want: Wanted) -> str:
        """See `Source`."""
        return cache.code()

    def case(self, want: Wanted) -> Case | None:
        """See `Source`."""
        task = self._tasks()[want.program]
        model = lsrl.compile(task.program(), want.target, inspectable=True)
        sampler = sampler_of(task, model.program)
        return Case(*want, HELD_BACK_VARIANTS[want.variant](model), sampler)

    def _tasks(self) -> dict[str, HeldBackProgram]:
        return {task.name: task for task in held_back(self.seed, self.count)}


@dataclass(frozen=True)
class Suite(Source):
    """Models of a suite that was built, on sequences of its datasets.

    Attributes:
      directory: of the suite.
      widest: most units of a layer; None for all models.
    """

    directory: Path
    widest: int | None = None

    def wanted(self, programs: Sequence[str] | None, targets: Sequence[str] | None) -> list[Wanted]:
        """See `Source`."""
        return [
            want
            for want, record in self._records.items()
            if programs is None or want.program in programs
            if targets is None or want.target in targets
            if self.widest is None or record.width <= self.widest
        ]

    def digest(self, want: Wanted) -> str:
        """See `Source`."""
        files = self._manifest.files
        used = (path.relative_to(self.directory) for path in self._paths(want))
        return digest("".join(files[path.as_posix()] for path in used).encode())

    def case(self, want: Wanted) -> Case | None:
        """See `Source`."""
        path, data = self._paths(want)
        model = lsrl.load(path)
        sample = read_dataset(data).splits["train"].sample
        return Case(*want, model, sample)

    @cached_property
    def _manifest(self) -> Manifest:
        return read_manifest(self.directory)

    @cached_property
    def _records(self) -> dict[Wanted, ModelRecord]:
        return {Wanted(r.program, r.target, r.variant): r for r in self._manifest.models}

    def _paths(self, want: Wanted) -> tuple[Path, Path]:
        """The model and its dataset."""
        folder = self.directory / self._records[want].folder
        return folder / MODEL, folder.parent.parent / DATASET


def rows_of(source: Source, want: Wanted, seed: int) -> list[MethodScore]:
    """Rows of one model, kept from an earlier run or worked out now."""
    path = kept(source, want, seed)
    if path.exists():
        return from_csv(path.read_text(encoding="utf-8"))
    began = time.perf_counter()
    try:
        case = source.case(want)
    except LsrlError as error:
        say(f"{' '.join(want)}: left out, {str(error).splitlines()[0]}")
        return []
    if case is None:
        return []
    # Else most of the time goes into zeros.
    small = case._replace(model=trimmed(case.model, sampler=case.sampler))
    rows = evaluate_methods([small], METHODS, seed=seed)
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(to_csv(rows), encoding="utf-8")
    say(f"{' '.join(want)}: {time.perf_counter() - began:.0f} s")
    return rows


def kept(source: Source, want: Wanted, seed: int) -> Path:
    """Where the rows of a model are kept."""
    return KEPT / f"{'-'.join(want)}-{seed}-{source.digest(want)[:12]}.csv"


def all_rows(source: Source, wants: Sequence[Wanted], seed: int, workers: int) -> list[MethodScore]:
    """Rows of all models, in order; variants of one shape share their worker's compiled code."""
    groups: dict[tuple[str, str], list[Wanted]] = {}
    for want in wants:
        groups.setdefault((want.program, want.target), []).append(want)
    parts = list(groups.values())
    if workers == 1:
        found = [_rows_of_group(source, group, seed) for group in parts]
    else:
        # JAX does not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as pool:
            task = partial(_rows_of_group, source, seed=seed)
            found = list(pool.map(task, parts))
    return [row for rows in found for row in rows]


def _rows_of_group(source: Source, wants: Sequence[Wanted], seed: int) -> list[MethodScore]:
    rows = [row for want in wants for row in rows_of(source, want, seed)]
    forget_compiled()
    return rows


def gradients_table(rows: Sequence[MethodScore]) -> str:
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


def probes_table(rows: Sequence[MethodScore]) -> str:
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


def weights_table(rows: Sequence[MethodScore]) -> str:
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


def page(rows: Sequence[MethodScore], described: dict[str, str], left: str, command: str) -> str:
    """All tables; `left` says which models are left out."""
    programs = list(dict.fromkeys(row.program for row in rows))
    plain = [row for row in rows if row.variant == "plain"]
    altered = [row for row in rows if row.variant != "plain"]
    models = len({(row.program, row.target, row.variant) for row in rows})
    return "\n".join(
        [
            "# Reference methods on compiled networks",
            "",
            f"{models} models of {len(programs)} programs{left} ({', '.join(programs)}), "
            f"{SEQUENCES} sequences ({POOL} for probes), "
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
            "Where units hold several signals each, as in a rotated stream, there are claims about "
            "signals only. Methods that look for them there are told the directions, but for "
            "whoever reads the weights.",
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
            f"Written by `python -m benchmarks.interpretability {command}`.",
            "",
        ]
    )


def main(
    suite: Annotated[Path | None, typer.Argument(help="A folder that suite build made.")] = None,
    held_back_programs: Annotated[
        int, typer.Option("--held-back", min=0, help="Generated programs, instead of a suite's.")
    ] = 0,
    program: Annotated[list[str] | None, typer.Option(help="Some programs; to build/.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Some targets; to build/.")] = None,
    widest: Annotated[
        int | None, typer.Option(min=1, help="Leave out models of more units a layer.")
    ] = None,
    finished: Annotated[
        bool, typer.Option(help="Tables of what is finished, instead of going on.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Models at a time.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Forget what is finished.")] = False,
    seed: Annotated[int, typer.Option(help="Of inputs and of what is random.")] = 0,
) -> None:
    """Score the reference methods, and write the rows and the tables."""
    described = machine()
    if fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    source: Source
    if held_back_programs:
        name, source = "held_back", HeldBack(held_back_programs, seed)
        command = f"--held-back {held_back_programs}"
    elif suite is not None:
        name, source = "suite", Suite(suite, widest)
        command = "DIR" if widest is None else f"DIR --widest {widest}"
    else:
        raise typer.BadParameter("name the folder of a suite, or say --held-back N")
    wants = chosen = source.wanted(program, target)
    if finished:
        chosen = [want for want in wants if kept(source, want, seed).exists()]
    rows = all_rows(source, chosen, seed, workers)
    left = f", of {len(wants)} that there are" if len(chosen) < len(wants) else ""
    folder: Path = QUICK_RESULTS if program or target else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    text = page(rows, described, left, command)
    # Without a time, so that the same rows are the same bytes.
    (folder / f"{name}.csv.gz").write_bytes(gzip.compress(to_csv(rows).encode(), mtime=0))
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    say(text)
    say(f"written to {folder}")


if __name__ == "__main__":
    typer.run(main)
