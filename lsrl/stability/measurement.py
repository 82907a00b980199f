"""Programs of one's own under noise, in one call: a table, a frame, the noise borne, a figure."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike
from rich.progress import Progress

from lsrl.errors import InputError
from lsrl.extras import needed
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.noise.copies import MEMORY
from lsrl.noise.perturbations import perturbation_of
from lsrl.stability.measures import critical_level
from lsrl.stability.store import CsvRow
from lsrl.stability.sweep import Dtype, Extremes, Length, Plan, SweepKind, by_level, sweep
from lsrl.stability.workloads import TOKENS, Own
from lsrl.support import TargetInfo
from lsrl.testing.verification import Sampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

One = TypeVar("One")
Asked: TypeAlias = str | SweepKind | Callable[..., ArrayLike]
# What else can be asked for by name.
KINDS: dict[str, SweepKind] = {kind.name: kind for kind in (Length(), Extremes(), Dtype())}


class Row(NamedTuple):
    """What one draw did to a model.

    Attributes:
      program: name of the program.
      target: as for `lsrl.compile`.
      perturbation: its name.
      level: of the perturbation; 0 is the model as it was compiled.
      seed: of the draw.
      wrong: the share of tokens whose output is wrong: off by half a grid step, or by 5 % of the
        range of what is continuous.
      error: the mean over tokens of the L2 norm of the error.
      first_token: the first token that is wrong in any sequence; None where none is.

    Example:
      row = found.rows[0]
      print(row.program, row.target, 0 <= row.wrong <= 1)
    """

    program: str
    target: str
    perturbation: str
    level: float
    seed: int
    wrong: float
    error: float
    first_token: int | None


class Borne(NamedTuple):
    """The noise that a program bears on a target.

    Attributes:
      program: name of the program.
      target: as for `lsrl.compile`.
      perturbation: its name.
      level: at which `share` of the tokens is wrong.
      low: the lower end of its 95 % interval over draws.
      high: the upper end.
      censored: "" where the level lies within those tried; "above" where the strongest leaves fewer
        wrong (level is infinite), "below" where the weakest makes more wrong (level is 0).

    Example:
      borne = found.borne()[0]
      print(borne.low <= borne.level <= borne.high)
    """

    program: str
    target: str
    perturbation: str
    level: float
    low: float
    high: float
    censored: str


@dataclass(frozen=True)
class Measurement:
    """What `measure` found.

    Attributes:
      rows: one a program, target, perturbation, level and draw.
      refused: pairs of program and target of which there are none, since the target or the dtype
        can't hold the program; `lsrl.explain` tells why.

    Example:
      print(found)
    """

    rows: tuple[Row, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def borne(self, share: float = 0.05) -> tuple[Borne, ...]:
        """The level at which a share of the tokens is wrong, for all that has several levels."""
        found = []
        for key, (levels, wrong) in self.shares().items():
            if len(levels) > 1:
                level, low, high = critical_level(levels, wrong, share)
                censored = "below" if level == 0 else "above" if math.isinf(level) else ""
                found.append(Borne(*key, level, low, high, censored))
        return tuple(found)

    def shares(self) -> dict[tuple[str, str, str], tuple[list[float], Array]]:
        """By program, target and perturbation: levels above 0, wrong shares (levels, draws)."""
        return by_level(
            ((row.program, row.target, row.perturbation), row.level, row.wrong) for row in self.rows
        )

    def to_frame(self) -> "DataFrame":
        """The rows as a pandas DataFrame, with the columns of `Row`.

        Raises:
          InputError: pandas is not installed.
        """
        pandas = needed("pandas", "to_frame", "`rows` has the same as tuples")
        return pandas.DataFrame(self.rows, columns=Row._fields)

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draw the wrong tokens against the level, a curve a target with its 95 % interval.

        Gated targets have full lines, others broken ones. A curve that ends in an arrow bears every
        level that was tried, one that begins with an arrow none; what has one level is a bar.

        Args:
          path: also write it there: .pdf and .svg are vectors, .png has 300 dots an inch.

        Returns:
          A figure of matplotlib, at the width of one column of a paper (3.3 inches) if it has one
          panel a row, else of two.

        Raises:
          InputError: matplotlib is not installed, there are no rows, or another suffix.
          OSError: the file can't be written.
        """
        from lsrl.stability import figures

        figure = figures.draw_curves(self.shares())
        if path is not None:
            figures.save(figure, Path(path))
        return figure

    def __str__(self) -> str:
        """The noise borne, one line a program, target and perturbation."""
        lines = [f"{'program':<20} {'target':<17} {'perturbation':<14} level at 5 % wrong tokens"]
        table = {row[:3]: row for row in self.borne()}
        for key, (levels, wrong) in self.shares().items():
            what = f"{100 * wrong.mean():.1f} % wrong at {levels[0]:g}"
            if key in table:
                row = table[key]
                ends = " ".join(f"{end:.1e}" for end in (row.low, row.high))
                what = f"{row.level:.1e} [{ends}]"
                if row.censored:
                    end, which = (levels[-1], "strongest") if row.level else (levels[0], "weakest")
                    what = f"{row.censored} {end:.0e}, the {which} tried"
            lines.append("{:<20} {:<17} {:<14} {}".format(*key, what))
        lines += [f"{program:<20} {target:<17} can't hold it" for program, target in self.refused]
        return "\n".join(lines)


def measure(
    programs: Program | Sequence[Program],
    targets: str | TargetInfo | Sequence[str | TargetInfo] = (),
    perturbations: Asked | Sequence[Asked] = ("weights",),
    *,
    sampler: Sampler | None = None,
    levels: float | Sequence[float] | None = None,
    copies: int = 8,
    sequences: int = 4,
    length: int = TOKENS,
    scored: int = 0,
    dtype: str = "float32",
    robust: bool = False,
    folder: str | os.PathLike[str] | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Measurement:
    """Measure how much noise compiled programs bear.

    Each copy of a network is perturbed by its own draw and runs on the same sequences; equal
    parameters of two networks get equal noise.

    Args:
      programs: one or several.
      targets: names, or what `lsrl.targets()` gives; all of them by default.
      perturbations: names ("paper", "weights", "relative", "activations", "integers", "tf32",
        "float16", "bfloat16", "length", "extremes", "dtype"), perturbations such as `Change`, or
        functions of (name, array, key) or (name, array, key, level).
      sampler: draws inputs: (random numbers, sequences, length) to one array an input,
        (sequences, length[, width]); None: they are random.
      levels: one or several, in place of those of each perturbation that has several and draws at
        random, or is a function.
      copies: draws a level.
      sequences: that every copy runs on.
      length: tokens of a sequence, at most a program's max_length.
      scored: how many of the last tokens count; 0: all.
      dtype: of the networks.
      robust: as for `lsrl.compile`.
      folder: keep what is finished there, and go on from it; it is keyed by the content of
        programs, inputs and perturbations, and by the compiler's code.
      memory: bytes that the copies at work may take.
      progress: of rich, to report to.

    Returns:
      The draws; `print` shows the noise borne.

    Raises:
      InputError: nothing to measure, or something that is none of the above; no sequences that keep
        a program's promises.
      OSError: the folder can't be written.

    Source: Petrov et al. (2024), section 5.

    Example:
      program = lsrl.programs.majority(max_length=16)
    """
    given = _listed(programs)
    for program in given:
        if not isinstance(program, Program):
            raise InputError(
                "measure: expected programs, made by @lsrl.program, got "
                f"{type(program).__name__}; lsrl.programs has some"
            )
    if copies < 1 or sequences < 1 or length < 1:
        raise InputError(
            f"measure: expected at least one copy, sequence and token, got copies={copies!r}, "
            f"sequences={sequences!r}, length={length!r}"
        )
    places: list[str | TargetInfo] = _listed(targets)
    asked: list[Asked] = _listed(perturbations)
    plan = Plan(
        tuple(
            Own(program.name, program, sampler, min(length, program.max_length or length), scored)
            for program in given
        ),
        tuple(t.name if isinstance(t, TargetInfo) else t for t in places),
        tuple(_kind_of(each, levels) for each in asked),
        sequences,
        tuple(range(copies)),
        lowerings=False,
        dtype=dtype,
        robust=robust,
    )
    rows = sweep(plan, None if folder is None else Path(folder), memory=memory, progress=progress)
    found = tuple(map(_row_of, rows))
    held = {(row.program, row.target) for row in found}
    pairs = dict.fromkeys((group.workload.name, group.target) for group in plan.groups())
    return Measurement(found, tuple(pair for pair in pairs if pair not in held))


def _listed(value: One | Sequence[One]) -> list[One]:
    """Several values, or one."""
    if isinstance(value, list | tuple):
        return list(value)
    return [cast(One, value)]


def _kind_of(value: Asked, levels: float | Sequence[float] | None) -> SweepKind:
    if isinstance(value, str) and value in KINDS:
        return KINDS[value]
    if isinstance(value, Length | Extremes | Dtype):
        return value
    found = perturbation_of(value)
    if levels is None or not (found.random and len(found.levels) > 1):
        return found
    return replace(found, levels=tuple(map(float, np.atleast_1d(levels))))


def _row_of(row: CsvRow) -> Row:
    first = row["first_token"]
    return Row(
        row["program"],
        row["target"],
        row["perturbation"],
        float(row["level"]),
        int(row["seed"]),
        float(row["wrong"]),
        float(row["error"]),
        None if first == "" else int(first),
    )
