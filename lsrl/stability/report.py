"""A sweep with its table as text and its figures: what the command line runs."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.progress import Progress

import lsrl
from lsrl.errors import InputError
from lsrl.noise.copies import MEMORY
from lsrl.noise.perturbations import FREE
from lsrl.stability import workloads
from lsrl.stability.measures import critical_level
from lsrl.stability.signals import first_wrong_signal
from lsrl.stability.store import CsvRow, write_rows
from lsrl.stability.sweep import OWN, Plan, fractions, quick_plan, sweep
from lsrl.stability.workloads import Subject

# σ of free noise at which tok2tok and others are asked what goes wrong first.
FIRST_LEVEL = 1e-2
FIRST_PROGRAMS = ("majority", "dyck1", "tok2tok")
FIRST_COLUMNS = ("program", "signal", "draws")
# Of kinds with a single level the share of wrong tokens, of the others the levels.
LEVEL_COLUMNS = (
    "program", "target", "lowering", "perturbation", "wrong",
    "level_5", "level_5_low", "level_5_high", "level_50", "level_50_low", "level_50_high",
)  # fmt: skip


def chosen_plan(
    programs: Sequence[Subject], targets: Sequence[str] | None, *, quick: bool = False
) -> Plan:
    """The default sweep, or a sweep of some programs and targets.

    Raises:
      InputError: an unknown target.
    """
    if quick:
        if programs or targets:
            raise InputError("bench stability: --quick chooses its programs and targets itself")
        return quick_plan()
    chosen = tuple(programs or workloads.DEFAULT.values())
    return Plan(programs=chosen, targets=tuple(targets or ()))


def run_sweep(
    plan: Plan,
    folder: Path,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
    suffix: str = ".png",
) -> str:
    """Run a sweep; writes sweep.csv, levels.csv, first.csv and the figures sweep, curves, first.

    Args:
      plan: what to run.
      folder: where to.
      memory: as for `sweep`.
      progress: to report to.
      suffix: of the figures: .pdf, .svg or .png.

    Returns:
      A table as text.
    """
    rows = sweep(plan, folder, memory=memory, progress=progress)
    if not rows:
        return "other processes are still at work"
    lines = ["level at 5 % and at 50 % wrong tokens, with the 95 % interval over draws"]
    table: list[dict[str, object]] = []
    for (program, target, lowering, kind), (levels, wrong) in fractions(rows).items():
        name = f"{program:<20} {target:<17} {lowering:<30} {kind:<12}"
        if len(levels) == 1:
            lines.append(f"{name} {100 * wrong.mean():.1f} % wrong")
            single = (program, target, lowering, kind, wrong.mean())
            table.append(dict(zip(LEVEL_COLUMNS, single, strict=False)))
            continue
        five, half = (critical_level(levels, wrong, share) for share in (0.05, 0.5))
        lines.append(
            f"{name} {level_text(five.level)} [{level_text(five.low)}, {level_text(five.high)}]  "
            f"{level_text(half.level)} [{level_text(half.low)}, {level_text(half.high)}]"
        )
        cells = (program, target, lowering, kind, "", *five, *half)
        table.append(dict(zip(LEVEL_COLUMNS, cells, strict=True)))
    write_rows(folder / "levels.csv", LEVEL_COLUMNS, table)
    lines.append(f"tables: {folder / 'sweep.csv'} and {folder / 'levels.csv'}")
    if has_matplotlib():
        _draw(plan, rows, table, folder, memory, suffix)
    return "\n".join(lines)


def _draw(
    plan: Plan,
    rows: Sequence[CsvRow],
    levels: Sequence[Mapping[str, object]],
    folder: Path,
    memory: int,
    suffix: str,
) -> None:
    from lsrl.stability import figures

    figures.save(figures.draw_map(levels), folder / f"sweep{suffix}")
    own = {(key[0], key[1], key[3]): value for key, value in fractions(rows, lowering=OWN).items()}
    figures.save(figures.draw_curves(own), folder / f"curves{suffix}")
    counts = first_wrong(plan, folder, memory)
    if counts:
        figures.save(figures.draw_first(counts), folder / f"first{suffix}")


def first_wrong(plan: Plan, folder: Path, memory: int = MEMORY) -> list[dict[str, object]]:
    """Which signal goes wrong first, in how many draws, of some programs; writes first.csv."""
    counts: list[dict[str, object]] = []
    for workload in plan.programs:
        if workload.name in FIRST_PROGRAMS:
            model = lsrl.compile(workload.program(), "linear_rnn")
            found = first_wrong_signal(
                model, workload.inputs(plan.batch), FREE, FIRST_LEVEL, range(25), memory=memory
            )
            title = f"{workload.name}, σ = {FIRST_LEVEL:g}, free"
            counts += [
                dict(zip(FIRST_COLUMNS, (title, *each), strict=True)) for each in found.items()
            ]
    write_rows(folder / "first.csv", FIRST_COLUMNS, counts)
    return counts


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    return find_spec("matplotlib") is not None


def level_text(level: float) -> str:
    """A critical level, or on which side of the levels tried it lies."""
    return "below" if level == 0 else "above" if math.isinf(level) else f"{level:.1e}"
