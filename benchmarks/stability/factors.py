"""The primary experiment: what makes the paper's conditionals fragile, one factor at a time.

The programs of `benchmarks.stability.factor_programs`, in every combination of

- the form of a conditional: one-sided relu(v - M u), two-sided relu(v - M u) - relu(-v - M u), or a
  gate c v, where c is 1 where the value v is taken and u is 1 where it isn't;
- the constant M of the ReLU forms: B, 10 B, 1000 B, 1e10, with B the tight bound of |v|;
- thresholds: the paper's (slope 1000, of booleans at the very edge of 0), or centred between the
  values that occur, with a slope of 4 over their distance, which leaves 3/8 of it on either side;

under noise on stored numbers, on these and all biases, or on all entries, in units of 1, of the
weight, or of signals. All are compiled for `gated_linear_rnn`, so the forms alone decide what is a
gate; equal arrays get equal noise. States are forced. What is compared is the σ at which 5 % of the
scored tokens are wrong; programs are the clusters of the intervals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

import lsrl
from benchmarks.stability import code
from benchmarks.stability.factor_programs import TASKS, Factors, Task, combinations
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.noise.copies import MEMORY
from lsrl.noise.perturbations import WeightNoise
from lsrl.stability.measures import Critical, clustered, critical_level, located
from lsrl.stability.store import CsvRow, Parts, write_rows

PROMPTS, DRAWS = 20, 100
SHARE = 0.05
# Quarters of a decade.
LEVELS = tuple(10.0 ** (quarter / 4) for quarter in range(-52, 1))
NOISES = (
    WeightNoise("stored", LEVELS, forced=True),
    WeightNoise("biases", LEVELS, forced=True, entries="biases"),
    WeightNoise("all", LEVELS, forced=True, entries="all"),
    WeightNoise("relative", LEVELS, forced=True, unit="relative"),
    WeightNoise("range", LEVELS, forced=True, unit="range"),
)
COLUMNS = ("program", "form", "constant", "thresholds", "noise", "level", "seed", "wrong")

Key = tuple[str, str, str, str]  # form, constant, thresholds, noise


def factors_experiment(
    folder: Path,
    *,
    tasks: Sequence[Task] = TASKS,
    draws: int = DRAWS,
    prompts: int = PROMPTS,
    noises: Sequence[WeightNoise] = NOISES,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[CsvRow]:
    """Run the experiment, or what of it is not finished; writes factors.csv.

    Args:
      folder: of the results; finished combinations are kept in its folder factors_parts.
      tasks: the programs.
      draws: of the noise, each on all prompts.
      prompts: of each program.
      noises: kinds of noise.
      memory: bytes that the copies at work may take.
      progress: to report to.

    Returns:
      One row a draw and level: program, form, constant, thresholds, noise, level, seed, wrong. The
      level 0, without noise, has one draw.
    """
    parts, rows = Parts(folder / "factors_parts", COLUMNS), []
    bar = None
    if progress is not None:
        total = len(tasks) * len(list(combinations())) * len(noises)
        bar = progress.add_task("primary experiment", total=total)
    for task in tasks:
        # Texts that come out as the same network, as many do, have the same table.
        known: dict[tuple[str, str], list[dict[str, float]]] = {}
        for factors in combinations():
            case = _Case(task, factors, prompts)
            for noise in noises:
                settings = {
                    "experiment": code(),
                    "name": task.name, "factors": factors, "program": case.program,
                    "prompts": case.prompts, "noise": noise, "draws": draws, "share": SHARE,
                }  # fmt: skip
                if progress is not None and bar is not None:
                    progress.update(bar, description=f"{task.name}, {factors.form}, {noise.name}")
                rows += parts.rows(settings, partial(case.measure, noise, draws, memory, known))
                if progress is not None and bar is not None:
                    progress.advance(bar)
    write_rows(folder / "factors.csv", COLUMNS, rows)
    return rows


@dataclass
class _Case:
    """A program in one combination of factors; compiled only if something is left to do."""

    task: Task
    factors: Factors
    count: int

    @cached_property
    def program(self) -> Program:
        return self.task.build(self.factors)

    @cached_property
    def prompts(self) -> tuple[Array, Array]:
        return self.task.prompts(self.count)

    @cached_property
    def model(self) -> Model:
        return lsrl.compile(self.program, "gated_linear_rnn", dtype="float64")

    @cached_property
    def digest(self) -> str:
        found = sha256()
        for name, array in sorted(self.model.module.parameter_arrays().items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def measure(
        self,
        noise: WeightNoise,
        draws: int,
        memory: int,
        known: dict[tuple[str, str], list[dict[str, float]]],
    ) -> list[dict[str, Any]]:
        """The rows of one kind of noise."""
        key = (self.digest, noise.name)
        if key not in known or noise.unit == "range":  # bounds may differ, weights alike
            given, expected = self.prompts
            known[key] = located(
                self.model, given, expected, noise, draws, share=SHARE, memory=memory
            )
        factors = self.factors
        names = {
            "program": self.task.name, "form": factors.form,
            "constant": "" if factors.constant is None else factors.constant,
            "thresholds": factors.thresholds, "noise": noise.name,
        }  # fmt: skip
        return [{**names, **row} for row in known[key]]


def critical_levels(rows: Sequence[CsvRow], share: float = SHARE) -> dict[str, dict[Key, Critical]]:
    """σ at which a share of the tokens is wrong, with its 95 % interval over draws.

    Returns:
      By program, and there by form, constant, thresholds and noise.
    """
    table: dict[tuple[str, Key], dict[float, list[float]]] = {}
    for row in rows:
        if float(row["level"]) > 0:
            key = (row["form"], row["constant"], row["thresholds"], row["noise"])
            levels = table.setdefault((row["program"], key), {})
            levels.setdefault(float(row["level"]), []).append(float(row["wrong"]))
    found: dict[str, dict[Key, Critical]] = {}
    for (program, key), levels in table.items():
        chosen = sorted(levels)
        wrong = np.array([levels[level] for level in chosen])
        found.setdefault(program, {})[key] = critical_level(chosen, wrong, share)
    return found


class Contrast(NamedTuple):
    """Two ways of writing that differ in one factor, compared over programs.

    Attributes:
      hypothesis: number of the hypothesis in docs/stability.md that it is about.
      name: what is compared, under which noise.
      ratio: log10 of the ratio of σ at 5 %, the mean over programs.
      low: of its 95 % interval, by bootstrap over programs.
      high: of it.
      least: of all programs.
      most: of all programs.
      outside: programs with a σ outside the levels tried, counted as the nearest of these.
    """

    hypothesis: int
    name: str
    ratio: float
    low: float
    high: float
    least: float
    most: float
    outside: int


def contrasts(levels: Mapping[str, Mapping[Key, Critical]]) -> list[Contrast]:
    """The hypotheses in figures, as far as measured; see docs/stability.md."""
    found = []
    measured = set.intersection(*(set(table) for table in levels.values()))
    for hypothesis, name, first, second in _compared():
        if not {first, second} <= measured:
            continue
        ratios, outside = [], 0
        for table in levels.values():
            sigmas = [table[key].level for key in (first, second)]
            outside += any(not 0 < sigma < math.inf for sigma in sigmas)
            clipped = np.log10(np.clip(sigmas, LEVELS[0], LEVELS[-1]))
            ratios.append(float(clipped[0] - clipped[1]))
        mean, low, high = clustered(ratios)
        found.append(Contrast(hypothesis, name, mean, low, high, min(ratios), max(ratios), outside))
    return found


def _compared() -> list[tuple[int, str, Key, Key]]:
    """Hypothesis, name, and the two ways of writing."""
    form, found = "one-sided", []
    writings = [(form, "1.0"), (form, "10.0"), (form, "1000.0"), (form, "10000000000.0")]
    names = ["one-sided, B", "one-sided, 10 B", "one-sided, 10³ B", "one-sided, 1e10", "gate"]
    for noise in ("stored", "biases", "all", "relative", "range"):
        for writing, name in zip([*writings, ("gate", "")], names, strict=True):
            text = f"centred : edge, {name}, {noise}"
            number = 5 if noise == "relative" else 1
            found.append((number, text, (*writing, "centred", noise), (*writing, "edge", noise)))
    for thresholds in ("centred", "edge"):
        for noise, number in (("stored", 2), ("biases", 3), ("all", 3)):
            for writing, name in zip(writings[1:], names[1:4], strict=True):
                text = f"{name} : B, {thresholds}, {noise}"
                base = (*writings[0], thresholds, noise)
                found.append((number, text, (*writing, thresholds, noise), base))
        gate = ("gate", "", thresholds)
        text = f"gate with noisy biases : without, {thresholds}"
        found.append((3, text, (*gate, "biases"), (*gate, "stored")))
        for noise, number in (("stored", 4), ("biases", 4), ("relative", 5), ("range", 4)):
            for writing, name in ((writings[0], names[0]), (writings[3], names[3])):
                text = f"gate : {name}, {thresholds}, {noise}"
                found.append((number, text, (*gate, noise), (*writing, thresholds, noise)))
        for noise in ("stored", "relative"):
            text = f"two-sided : one-sided, B, {thresholds}, {noise}"
            two = ("two-sided", "1.0", thresholds, noise)
            found.append((4, text, two, (*writings[0], thresholds, noise)))
    return sorted(found, key=lambda entry: entry[0])
