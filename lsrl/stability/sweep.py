"""Sweeps: every program, target, lowering and kind of perturbation, into one tidy table.

The kinds beside the perturbations of weights and activations: "length" runs a model on sequences a
hundred times longer than it was compiled for, "extremes" on inputs at the ends of the declared
ranges, and "dtype" a model that is compiled for another dtype.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import Progress

import lsrl
from lsrl import arguments
from lsrl.errors import BoundsError, InputError, PrecisionError, SizeError, UnsupportedOpError
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.noise import perturbations
from lsrl.noise.copies import MEMORY, CopyOptions, run_copies
from lsrl.noise.perturbations import PAPER, Perturbation, WeightNoise
from lsrl.noise.wrong import allowed_error, wrong_tokens
from lsrl.stability import workloads
from lsrl.stability.measures import first_wrong_token, mean_error
from lsrl.stability.store import CsvRow, Parts, write_rows
from lsrl.stability.workloads import Subject

Key = TypeVar("Key", bound=Hashable)
COLUMNS = (
    "program", "target", "lowering", "perturbation", "level", "seed",
    "wrong", "error", "first_token",
)  # fmt: skip
OWN = "ours"  # the library's text in the compiler's own lowering
NOTHING = WeightNoise("nothing", levels=(0.0,))
# Copies at a time: all perturbations of a kind then share what XLA compiled.
TOGETHER = 16


@dataclass(frozen=True)
class Length:
    """Is a model right for sequences longer than it was compiled for?

    Attributes:
      batch: sequences, LONGER times as long as those of the other kinds.
    """

    name: str = "length"
    batch: int = 2


@dataclass(frozen=True)
class Extremes:
    """Is a model right on inputs at the ends of the declared ranges, under a little noise?

    Attributes:
      sigma: of free noise on stored weights; 0 and this are tried.
    """

    name: str = "extremes"
    sigma: float = 1e-4


@dataclass(frozen=True)
class Dtype:
    """The model that the compiler makes for another dtype, without noise."""

    name: str = "dtype"
    dtypes: tuple[str, ...] = ("bfloat16",)


SweepKind = Perturbation | Length | Extremes | Dtype
DEFAULT_KINDS: tuple[SweepKind, ...] = (*perturbations.DEFAULT, Length(), Extremes(), Dtype())
# The bits of a dtype's significand make its level.
BITS = {"float64": 53, "float32": 24, "bfloat16": 8}


@dataclass(frozen=True)
class Plan:
    """The sizes of a sweep.

    Attributes:
      programs: workloads, or programs of one's own.
      targets: by name; all of them by default.
      kinds: perturbations and the other kinds.
      batch: sequences.
      seeds: of the draws.
      lowerings: whether the paper's own forms are run too, under the paper's and free noise.
      dtype: of the compiler's own lowering.
      robust: whether that is compiled with `robust=True`.
    """

    programs: tuple[Subject, ...] = tuple(workloads.DEFAULT.values())
    targets: tuple[str, ...] = ()
    kinds: tuple[SweepKind, ...] = DEFAULT_KINDS
    batch: int = 4
    seeds: tuple[int, ...] = tuple(range(8))
    lowerings: bool = True
    dtype: str = "float32"
    robust: bool = False

    def __post_init__(self) -> None:
        """Check that there is something to do, and that names are told apart.

        Raises:
          InputError: nothing to do, an unknown target, or two of one name.
        """
        known = [found.name for found in lsrl.targets()]
        wanted = arguments.names("sweep: targets", self.targets)
        object.__setattr__(self, "targets", tuple(wanted))
        for what, row, kind, made in (
            ("programs", self.programs, Subject, "of lsrl.stability.workloads"),
            ("kinds", self.kinds, SweepKind, "perturbations, Length(), Extremes() or Dtype()"),
        ):
            if not isinstance(row, Sequence) or not all(isinstance(each, kind) for each in row):
                raise InputError(
                    f"sweep: {what} must be a tuple {made}, got {arguments.shown(row)}"
                )
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise InputError(
                f"sweep: unknown target(s) {', '.join(unknown)}; there are {', '.join(known)}"
            )
        arguments.count("sweep: batch", self.batch, 0)
        if not (self.programs and self.kinds and self.seeds and self.batch):
            raise InputError("sweep: expected at least one program, kind, seed and sequence")
        for what, names in (
            ("programs", [program.name for program in self.programs]),
            ("perturbations", [kind.name for kind in self.kinds]),
            ("seeds", list(map(str, self.seeds))),
        ):
            if len(set(names)) != len(names):
                raise InputError(f"sweep: {what} have to differ, got {', '.join(names)}")

    def groups(self) -> "Iterator[Group]":
        """Programs on targets, in order."""
        targets = self.targets or tuple(found.name for found in lsrl.targets())
        for workload in self.programs:
            for target in targets:
                yield Group(workload, target, OWN, self.dtype, self.kinds, self.robust)
            if not self.lowerings:
                continue
            simple = tuple(k for k in self.kinds if isinstance(k, WeightNoise))
            for name, lowering in workload.lowerings.items():
                if lowering.target in targets and simple:
                    yield Group(workload, lowering.target, name, lowering.dtype, simple)


@dataclass(frozen=True)
class Group:
    """The tasks of one program on one target in one lowering, which share a model."""

    workload: Subject
    target: str
    lowering: str
    dtype: str
    kinds: tuple[SweepKind, ...]
    robust: bool = False

    @cached_property
    def program(self) -> Program:
        """The program as it is lowered."""
        other = self.workload.lowerings.get(self.lowering)
        return self.workload.program() if other is None else other.build()

    def compiled(self, dtype: str) -> Model | None:
        """The model; None where the target or the dtype can't hold the program."""
        try:
            return lsrl.compile(self.program, self.target, dtype=dtype, robust=self.robust)
        except (UnsupportedOpError, PrecisionError, SizeError):
            return None

    def given(self, kind: SweepKind, batch: int) -> list[tuple[Array, ...]]:
        """What a kind runs the model on: the sequences of each batch."""
        if isinstance(kind, Extremes):
            return self.workload.extremes()
        if isinstance(kind, Length):
            longer = self.workload.longer_program()
            return [] if longer is None else [self.workload.longer_inputs(kind.batch)]
        return [self.workload.inputs(batch)]

    @cached_property
    def model(self) -> Model | None:
        """The model that noise is put on."""
        return self.compiled(self.dtype)


class RunOptions(TypedDict):
    """How much room the copies have, and where they run; see `run_copies`."""

    memory: int
    mesh: Mesh | None


def sweep(
    plan: Plan,
    folder: Path | None,
    *,
    memory: int = MEMORY,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    share: tuple[int, int] | None = None,
) -> list[CsvRow]:
    """Run a sweep, or what of it is not finished, and write its table.

    Every finished task is a file in the folder `parts`, keyed by all that it depends on: a sweep
    that was killed goes on where it stopped, and gives the table of an unbroken one. Processes of
    `jax.distributed` with one folder each do their share of the tasks; the last one to finish
    writes the table.

    Args:
      plan: what to run.
      folder: of the results; the table is sweep.csv. None: nothing is kept.
      memory: bytes that the copies at work may take.
      mesh: of devices to spread the copies over.
      progress: to report to.
      share: this process, from 0, and the number of processes; those of jax by default.

    Returns:
      The table, one row a draw and level; empty if other processes are still at work.

    Raises:
      InputError: the memory is no positive number of bytes.
      OSError: the folder can't be written.
    """
    arguments.instance("sweep", plan, Plan, "Plan(...)")
    arguments.count("sweep: memory", memory)
    folder = None if folder is None else arguments.path("sweep", folder)
    parts = None if folder is None else Parts(folder / "parts", COLUMNS)
    found = _worked(plan, parts, share, progress, memory=memory, mesh=mesh)
    if folder is None or parts is None:
        return found
    settings = [_settings(plan, group, kind) for group in plan.groups() for kind in group.kinds]
    if not all(map(parts.has, settings)):
        return []
    rows = [row for each in settings for row in parts.rows(each, list)]
    write_rows(folder / "sweep.csv", COLUMNS, rows)
    return rows


def _worked(
    plan: Plan,
    parts: Parts | None,
    share: tuple[int, int] | None,
    progress: Progress | None,
    **options: Unpack[RunOptions],
) -> list[CsvRow]:
    """This process's share of the tasks, run or read."""
    index, count = share or (jax.process_index(), jax.process_count())
    mine = list(plan.groups())[index::count]
    # One that is not shown takes as many reports.
    shown = Progress(disable=True) if progress is None else progress
    bar = shown.add_task("sweep", total=sum(len(group.kinds) for group in mine))
    rows: list[CsvRow] = []
    for group in mine:
        for kind in group.kinds:
            what = f"{group.workload.name} on {group.target}: {kind.name}"
            shown.update(bar, description=what)
            work = partial(measured, plan, group, kind, **options)
            if parts is None:
                rows += [{name: str(value) for name, value in row.items()} for row in work()]
            else:
                rows += parts.rows(_settings(plan, group, kind), work)
            shown.advance(bar)
        # A model is needed by its own group alone.
        group.__dict__.pop("model", None)
    return rows


def _settings(plan: Plan, group: Group, kind: SweepKind) -> dict[str, object]:
    """All that the rows of a task depend on, by content, and what they are called."""
    workload = group.workload
    return {
        "name": workload.name,
        "program": group.program,
        "judge": workload.longer_program() if isinstance(kind, Length) else None,
        "given": group.given(kind, plan.batch),
        "scored": workload.scored,
        "target": group.target,
        "lowering": group.lowering,
        "dtype": group.dtype,
        "robust": group.robust,
        "kind": kind,
        "seeds": plan.seeds,
    }


def measured(
    plan: Plan, group: Group, kind: SweepKind, *, memory: int = MEMORY, mesh: Mesh | None = None
) -> list[dict[str, object]]:
    """The rows of one task; none where the target can't hold the program."""
    if group.model is None:
        return []
    workload, program, model = group.workload, group.program, group.model
    if isinstance(kind, Extremes):
        return _extremes(plan, group, kind, model, memory=memory, mesh=mesh)
    given = group.given(kind, plan.batch)
    if not given:
        return []
    (inputs,) = given
    if isinstance(kind, Length):
        expected = (workload.longer_program() or program).run(*inputs)
        # In one piece, past what the model declares; its checks of the length are not asked.
        with model.device_mode():
            outputs = np.asarray(model.module.run(model.features(inputs)))[None]
        level = float(workloads.LONGER)
        return _rows(group, kind.name, [(level, 0)], outputs, expected, program)
    if isinstance(kind, Dtype):
        rows = []
        for dtype in kind.dtypes:
            other = group.compiled(dtype)
            if other is not None:
                outputs, expected = other.run(*inputs)[None], program.run(*inputs)
                copies = [(2.0 ** -BITS[dtype], 0)]
                rows += _rows(group, kind.name, copies, outputs, expected, program)
        return rows
    expected = program.run(*inputs)
    seeds = plan.seeds if kind.random else plan.seeds[:1]
    # A number format has no level 0: what it is compared with are the other kinds' models.
    levels = kind.levels if kind.format else (0.0, *kind.levels)
    copies = [(level, seed) for level in levels for seed in seeds]
    outputs = _run(model, inputs, kind, copies, memory=memory, mesh=mesh)
    return _rows(group, kind.name, copies, outputs, expected, program)


def _extremes(
    plan: Plan, group: Group, kind: Extremes, model: Model, **options: Unpack[CopyOptions]
) -> list[dict[str, object]]:
    """All inputs at the ends of the ranges as one batch; shorter ones are filled up."""
    legal = []
    for inputs in group.given(kind, plan.batch):
        try:
            legal.append((inputs, group.program.run(*inputs)))
        except BoundsError:  # another lowering may promise less
            continue
    if not legal:
        return []
    lengths = [len(inputs[0][0]) for inputs, _ in legal]
    longest = max(lengths)
    filled = [
        np.concatenate([_filled(inputs[place], longest) for inputs, _ in legal])
        for place in range(len(legal[0][0]))
    ]
    noise = WeightNoise(kind.name)
    copies = [(level, seed) for level in (0.0, kind.sigma) for seed in plan.seeds]
    outputs = _run(model, filled, noise, copies, **options)
    expected = np.concatenate([_filled(answer, longest) for _, answer in legal])
    counted = np.arange(longest) < np.array(lengths)[:, None]
    # What was filled up counts as right: it is given the expected values.
    outputs = np.where(counted[None, :, :, None], outputs, expected)
    share = counted.mean()
    rows = _rows(group, kind.name, copies, outputs, expected, group.program, scored=0)
    return [{**row, "wrong": row["wrong"] / share, "error": row["error"] / share} for row in rows]


def _filled(array: Array, length: int) -> Array:
    """(1, time, ...) with its last token repeated."""
    return np.take(array, np.minimum(np.arange(length), array.shape[1] - 1), axis=1)


def _run(
    model: Model,
    inputs: Sequence[Array],
    noise: Perturbation,
    copies: Sequence[tuple[float, int]],
    **options: Unpack[CopyOptions],
) -> Array:
    levels, seeds = zip(*copies, strict=True)
    options.setdefault("most", TOGETHER)
    return run_copies(model, inputs, noise, levels, seeds, **options)


def _rows(
    group: Group,
    kind: str,
    copies: Sequence[tuple[float, int]],
    outputs: Array,
    expected: Array,
    program: Program,
    scored: int | None = None,
) -> list[dict[str, object]]:
    last = group.workload.scored if scored is None else scored
    start = expected.shape[1] - last if last else 0
    seen, wanted = outputs[:, :, start:], expected[:, start:]
    wrong = wrong_tokens(seen, wanted, allowed_error(program))
    measured = zip(
        copies,
        wrong.mean(axis=(1, 2)).tolist(),
        mean_error(seen, wanted).tolist(),
        first_wrong_token(wrong).tolist(),
        strict=True,
    )
    return [
        {
            "program": group.workload.name,
            "target": group.target,
            "lowering": group.lowering,
            "perturbation": kind,
            "level": level,
            "seed": seed,
            "wrong": share,
            "error": error,
            "first_token": "" if first < 0 else first + start,
        }
        for (level, seed), share, error, first in measured
    ]


def quick_plan() -> Plan:
    """A small sweep, for trying out."""
    chosen = tuple(workloads.DEFAULT[name] for name in ("majority", "copy_delay", "tok2tok"))
    return Plan(
        programs=chosen,
        targets=("linear_rnn", "gated_linear_rnn", "gru"),
        kinds=(PAPER, perturbations.INTEGERS),
        seeds=(0, 1),
        lowerings=False,
    )


def fractions(
    rows: Sequence[CsvRow], **chosen: str
) -> Mapping[tuple[str, str, str, str], tuple[list[float], Array]]:
    """Levels above 0 and wrong tokens (levels, draws), by program, target, lowering, kind."""
    return by_level(
        (
            (row["program"], row["target"], row["lowering"], row["perturbation"]),
            float(row["level"]),
            float(row["wrong"]),
        )
        for row in rows
        if all(row[name] == value for name, value in chosen.items())
    )


def by_level(draws: Iterable[tuple[Key, float, float]]) -> dict[Key, tuple[list[float], Array]]:
    """Draws, each with what it is of, its level and its wrong tokens, by what they are of.

    Returns:
      The levels above 0, in rising order, and wrong tokens (levels, draws).
    """
    table: dict[Key, dict[float, list[float]]] = {}
    for key, level, wrong in draws:
        if level > 0:
            table.setdefault(key, {}).setdefault(level, []).append(wrong)
    return {
        key: (sorted(levels), np.array([levels[level] for level in sorted(levels)]))
        for key, levels in table.items()
    }
