"""Trains networks for programs of the suite, several seeds each, beside natural twins.

A trained network does inside what the program does, by interchange interventions; its twin starts
from the same weights and learns the outputs alone. Both are saved with a row of figures, so that a
run that was broken off goes on where it stopped.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np

import lsrl
from lsrl import arguments, schema
from lsrl.errors import FormatError
from lsrl.folders import replace_file
from lsrl.interpret.variants.train import PASSES, TARGETS, Progress, Recipe, Trained, Training
from lsrl.schema import FieldError
from lsrl.stability.store import write_rows
from lsrl.suite.programs import SuiteProgram, check_names, programs, sampler_of

KINDS = ("trained", "twin")
# A Mamba block's inner channels are many as it is.
RECIPES = {"lstm": Recipe(), "gru": Recipe(), "mamba": Recipe(units=2)}
# A cell has to learn each count, which a scan has from the start: times as many steps.
LONGER = {"lstm": 2, "gru": 2, "mamba": 1}
LENGTH = Recipe().length
# Where a program counts without end, a count is a code of few steps only if sequences are short.
COUNTING = ("majority", "dyck1", "histogram", "running_max", "leader")
NAMES = (
    "flip_flop",
    "copy_delay",
    "copy_delay_far",
    "first_token",
    "ngram",
    "ngram_long",
    "even_pairs",
    "majority",
    "echo_sum",
    "window_majority",
)


@dataclass(frozen=True)
class Passing:
    """One trained network.

    Attributes:
      program: of the suite.
      target: "lstm", "gru" or "mamba".
      seed: of weights, inputs and interchanges.
      kind: "trained" or "twin".
      passes: the share of causal tests that it passes, on inputs of their own.
      interchanges: how many these were.
      passes_changes: the share of those that change the program's output, as many do not.
      accuracy: the share of right tokens without an interchange.
      steps: of training.
      seconds: of this process on all cores, with what it compiled.
      weight_std: see `lsrl.interpret.variants.statistics.statistics`, as for all that follow.
    """

    program: str
    target: str
    seed: int
    kind: str
    passes: float
    interchanges: int
    passes_changes: float
    accuracy: float
    steps: int
    seconds: float
    weight_std: float
    weight_max: float
    gates_shut: float
    gates_open: float
    candidate_size: float
    units: float


def task_of(name: str) -> SuiteProgram:
    """A program of the suite at the length of training; programs that count hold no longer ones.

    Raises:
      InputError: no program has that name; suggests the nearest.
    """
    (task,) = programs([name])
    settings = dict(task.settings)
    if name in COUNTING:
        settings["max_length"] = LENGTH
    return replace(task, tokens=LENGTH, long_tokens=None, settings=settings)


def train(
    directory: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    seeds: int = 3,
    kinds: Sequence[str] = KINDS,
    steps: int = Recipe().steps,
    report: Callable[[str, int, int], None] | None = None,
) -> list[Passing]:
    """Train networks, each into a folder of its own, and go on where the last run stopped.

    Args:
      directory: gets PROGRAM/TARGET/SEED-KIND.lsrl with a row of figures beside it, and rows.csv.
      names: of programs of the suite; `NAMES` by default.
      targets: all that can be trained by default.
      seeds: how many, from 0 on.
      kinds: "trained", "twin" or both.
      steps: of training, at most; twice as many where a cell counts. The rest is as `RECIPES` says.
      report: called with what is trained, and how many of the networks are done, of how many.

    Returns:
      One row a network, in the order of the arguments. Where a target can't hold a program there is
      none.

    Raises:
      InputError: an unknown name; suggests the nearest.
      FormatError: a file there is of another training, or damaged.
    """
    names = arguments.names("suite program", names or NAMES)
    targets, kinds = arguments.names("target", targets or TARGETS), arguments.names("kind", kinds)
    check_names("suite program", names, {task.name: task for task in programs()})
    check_names("target", targets, dict.fromkeys(TARGETS))
    check_names("kind", kinds, dict.fromkeys(KINDS))
    arguments.count("train: seeds", seeds)
    arguments.count("train: steps", steps)
    arguments.function("train: report", report, "what is trained, and how far")
    folder, rows = Path(directory), []
    total = len(names) * len(targets) * len(kinds) * seeds
    before = 0

    def tell(what: str, done: int) -> None:
        if report is not None:
            report(what, before + done, total)

    for kind, name, target in product(kinds, names, targets):
        for row in _trained(folder, name, target, kind, seeds, steps, tell):
            rows.append(row)
            tell(f"{name} on {target}", row.seed + 1)
        before += seeds
    _write(folder / "rows.csv", rows)
    return rows


def _trained(
    folder: Path,
    name: str,
    target: str,
    kind: str,
    seeds: int,
    steps: int,
    tell: Callable[[str, int], None],
) -> Iterator[Passing]:
    """The rows of all seeds of one kind of network; what is compiled serves all of them."""
    longer = LONGER[target] if name in COUNTING else 1
    recipe = replace(RECIPES[target], steps=longer * steps)
    if kind == "twin":
        recipe = replace(recipe, interchange=0.0, code=0.0)
    task = task_of(name)
    training: Training | None = None
    place = folder / name / target
    for seed in range(seeds):
        path = place / f"{seed}-{kind}.lsrl"
        found = _known(path, recipe)
        if found is not None:
            yield found
            continue
        if training is None:
            try:
                model = lsrl.compile(task.program(), target, inspectable=True)
            except lsrl.errors.UnsupportedOpError:
                return
            sampler = sampler_of(task, model.program)
            training = Training(model, recipe, sampler=sampler)
        place.mkdir(parents=True, exist_ok=True)

        def note(progress: Progress, seed: int = seed) -> None:
            tell(f"{name} on {target}, step {progress.step}: {progress.passed:.1%}", seed)

        start = time.process_time()
        made = training.run(seed, place / f"{seed}-{kind}.training", note)
        row = _row(made, task, seed, kind, time.process_time() - start)
        made.model.save(path)
        figures = json.dumps([asdict(recipe), asdict(row)], indent=1)
        replace_file(path.with_suffix(".json"), figures.encode())
        (place / f"{seed}-{kind}.training").unlink(missing_ok=True)
        yield row


def _row(made: Trained, task: SuiteProgram, seed: int, kind: str, seconds: float) -> Passing:
    card = made.model.card
    figures = {name.replace(" ", "_"): round(x, 4) for name, x in made.statistics.items()}
    return Passing(
        program=task.name,
        target=made.model.target,
        seed=seed,
        kind=kind,
        passes=made.causal.agreement,
        interchanges=made.causal.valid,
        passes_changes=made.causal.agreement_on_changes,
        accuracy=card.measured.accuracy if card else 0.0,
        steps=made.progress.step,
        seconds=round(seconds, 1),
        **figures,
    )


def _known(path: Path, recipe: Recipe) -> Passing | None:
    """The row beside a model that is there already."""
    beside = path.with_suffix(".json")
    if not path.exists() or not beside.exists():
        return None
    try:
        settings, row = schema.paired(schema.anything, schema.reader_of(Passing))(
            schema.parse(beside.read_bytes())
        )
    except FieldError as error:
        raise FormatError(f"{beside}: expected a row of figures: {error}") from error
    if settings != asdict(recipe):
        raise FormatError(
            f"{beside}: of another recipe: expected {asdict(recipe)}, got {settings}; name another "
            "folder"
        )
    return cast(Passing, row)


def _write(path: Path, rows: Sequence[Passing]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, [field.name for field in fields(Passing)], [asdict(row) for row in rows])


def passed(rows: Sequence[Passing]) -> tuple[int, int]:
    """How many trained networks pass as large a share of the causal tests as they must, of all."""
    shares = [row.passes for row in rows if row.kind == "trained"]
    return sum(share >= PASSES for share in shares), len(shares)


def table(rows: Sequence[Passing]) -> str:
    """Rates of passes as a table in Markdown: each seed's, and the twins' mean."""
    targets = [target for target in TARGETS if any(row.target == target for row in rows)]
    head = [column for target in targets for column in (target, "twins")]
    lines = [f"| program | {' | '.join(head)} |", f"| --- |{' --- |' * len(head)}"]
    for name in dict.fromkeys(row.program for row in rows):
        cells = []
        for target in targets:
            mine = [row for row in rows if (row.program, row.target) == (name, target)]
            shares = [f"{row.passes:.1%}" for row in mine if row.kind == "trained"]
            twins = [row.passes for row in mine if row.kind == "twin"]
            cells += [", ".join(shares) or "–", f"{np.mean(twins):.0%}" if twins else "–"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(rows: Sequence[Passing]) -> str:
    """Figures of all networks as a table in Markdown: means by target and kind."""
    names = [field.name for field in fields(Passing)]
    statistics = names[names.index("weight_std") :]
    head = ["target", "kind", "networks", "passes", "passes changes", "accuracy", "seconds"]
    titles = [*head, *(name.replace("_", " ") for name in statistics)]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for target in TARGETS:
        for kind in KINDS:
            mine = [row for row in rows if (row.target, row.kind) == (target, kind)]
            if not mine:
                continue
            means = {name: np.mean([getattr(row, name) for row in mine]) for name in names[4:]}
            shares = [f"{means[name]:.1%}" for name in ("passes", "passes_changes", "accuracy")]
            rest = [f"{means[name]:.2f}" for name in statistics]
            cells = [target, kind, f"{len(mine)}", *shares, f"{means['seconds']:.0f}", *rest]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
