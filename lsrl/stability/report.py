"""Experiments with their tables as text and their figures: what the command line runs."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.progress import Progress

import lsrl
from lsrl.errors import InputError
from lsrl.noise.copies import MEMORY
from lsrl.noise.perturbations import FREE
from lsrl.stability import workloads
from lsrl.stability.factors import contrasts, critical_levels, factors_experiment
from lsrl.stability.measures import critical_level
from lsrl.stability.paper_experiment import paper_experiment, summaries
from lsrl.stability.signals import first_wrong_signal
from lsrl.stability.states import TEXTS, corrections, states_experiment
from lsrl.stability.store import write_rows
from lsrl.stability.sweep import Plan, fractions, quick_plan, sweep

# σ of free noise at which tok2tok and others are asked what goes wrong first.
FIRST_LEVEL = 1e-2
FIRST_PROGRAMS = ("majority", "dyck1", "tok2tok")
# Of kinds with a single level the share of wrong tokens, of the others the levels.
LEVEL_COLUMNS = (
    "program", "target", "lowering", "perturbation", "wrong",
    "level_5", "level_5_low", "level_5_high", "level_50", "level_50_low", "level_50_high",
)  # fmt: skip
FACTOR_COLUMNS = (
    "program", "form", "constant", "thresholds", "noise", "level_5", "level_5_low", "level_5_high",
)  # fmt: skip


def chosen_plan(
    names: Sequence[str] | None, targets: Sequence[str] | None, *, quick: bool = False
) -> Plan:
    """The default sweep, or its part for some programs and targets.

    Raises:
      InputError: an unknown program or target.
    """
    if quick:
        if names or targets:
            raise InputError("bench stability: --quick chooses its programs and targets itself")
        return quick_plan()
    known = workloads.DEFAULT
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InputError(
            f"bench stability: no program {', '.join(unknown)} in the sweep; it has "
            f"{', '.join(known)}"
        )
    chosen = tuple(known[name] for name in names or known)
    return Plan(programs=chosen, targets=tuple(targets or ()))


def run_sweep(
    plan: Plan, folder: Path, *, memory: int = MEMORY, progress: Progress | None = None
) -> str:
    """Run a sweep; writes sweep.csv, levels.csv, sweep.png, first.png. Returns a table as text."""
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
            f"{name} {_level(five.level)} [{_level(five.low)}, {_level(five.high)}]  "
            f"{_level(half.level)} [{_level(half.low)}, {_level(half.high)}]"
        )
        cells = (program, target, lowering, kind, "", *five, *half)
        table.append(dict(zip(LEVEL_COLUMNS, cells, strict=True)))
    write_rows(folder / "levels.csv", LEVEL_COLUMNS, table)
    lines.append(f"tables: {folder / 'sweep.csv'} and {folder / 'levels.csv'}")
    if has_matplotlib():
        from lsrl.stability import figures

        figures.save(figures.draw_map(rows), folder / "sweep.png")
        counts = {}
        for workload in plan.programs:
            if workload.name in FIRST_PROGRAMS:
                model = lsrl.compile(workload.program(), "linear_rnn")
                counts[f"{workload.name}, σ = {FIRST_LEVEL:g}, free"] = first_wrong_signal(
                    model, workload.inputs(plan.batch), FREE, FIRST_LEVEL, range(25), memory=memory
                )
        if counts:
            figures.save(figures.draw_first(counts), folder / "first.png")
    return "\n".join(lines)


def run_paper(folder: Path, *, memory: int = MEMORY, progress: Progress | None = None) -> str:
    """Run the paper's experiment; writes paper.csv and paper.png. Returns the table as text."""
    table = summaries(paper_experiment(folder, memory=memory, progress=progress))
    lines = [
        "wrong tokens of tok2tok in %, mean error of vec2vec; in brackets 95 % intervals of means",
        f"{'program':<8} {'form':<25} {'lowering':<9} {'target':<17} {'states':<7} {'sigma':>6} "
        f"{'mean':>9} {'interval':^21} {'median':>9} {'quartiles':^19} {'within':>6} "
        f"{'original':>9}",
    ]
    for cell in table:
        line = (
            f"{cell.program:<8} {cell.form:<25} {cell.lowering:<9} {cell.target:<17} "
            f"{cell.states:<7} {cell.level:>6g} {cell.mean:>9.4g} "
            f"[{cell.low:>9.4g},{cell.high:>9.4g}] {cell.median:>9.4g} "
            f"{cell.quartiles[0]:>9.4g} {cell.quartiles[1]:>9.4g} {cell.tolerated:>6.2f}"
        )
        if cell.original is not None:
            mean, low, high = cell.original
            line += f" {mean:>9.3g} [{low:.3g}, {high:.3g}]"
        lines.append(line)
    lines.append(f"table: {folder / 'paper.csv'}")
    if has_matplotlib():
        from lsrl.stability import figures

        figures.save(figures.draw_paper(table), folder / "paper.png")
    return "\n".join(lines)


def run_factors(folder: Path, *, memory: int = MEMORY, progress: Progress | None = None) -> str:
    """Run the primary experiment; writes factors.csv and factors_levels.csv.

    Returns:
      σ at 5 % by program, and the contrasts over programs, as text.
    """
    rows = factors_experiment(folder, memory=memory, progress=progress)
    found = critical_levels(rows)
    noiseless = max(float(row["wrong"]) for row in rows if float(row["level"]) == 0)
    table = [
        (program, *key, *level) for program, keys in found.items() for key, level in keys.items()
    ]
    write_rows(
        folder / "factors_levels.csv",
        FACTOR_COLUMNS,
        [dict(zip(FACTOR_COLUMNS, row, strict=True)) for row in table],
    )
    lines = [
        f"sigma at 5 % wrong tokens; without noise at most {100 * noiseless:g} % are wrong",
        f"{'noise':<9} {'thresholds':<10} {'form':<10} {'constant':<14} "
        + " ".join(f"{program:>14}" for program in found),
    ]
    for form, constant, thresholds, noise in next(iter(found.values())):
        levels = [keys[form, constant, thresholds, noise].level for keys in found.values()]
        lines.append(
            f"{noise:<9} {thresholds:<10} {form:<10} {constant:<14} "
            + " ".join(f"{_level(level):>14}" for level in levels)
        )
    lines += [
        "",
        f"log10 of ratios of sigma at 5 %: mean over {len(found)} programs, 95 % interval by "
        "bootstrap over programs, range, programs outside the levels tried",
    ]
    lines += [
        f"H{c.hypothesis} {c.name:<46} {c.ratio:+6.2f} [{c.low:+6.2f}, {c.high:+6.2f}]  "
        f"{c.least:+6.2f} to {c.most:+6.2f}  {c.outside}"
        for c in contrasts(found)
    ]
    lines.append(f"tables: {folder / 'factors.csv'} and {folder / 'factors_levels.csv'}")
    return "\n".join(lines)


def run_states(folder: Path, *, memory: int = MEMORY, progress: Progress | None = None) -> str:
    """Compare affine with self-correcting states; writes states.csv. Returns a table as text."""
    rows = states_experiment(folder, memory=memory, progress=progress)
    lines = [
        "sigma at 5 % wrong tokens, affine / self-correcting states; log10 of the ratio, the mean "
        "over programs with its 95 % interval by bootstrap over programs",
        f"{'target':<11} {'noise':<17} {'log10 ratio':<24} "
        + " ".join(f"{name:>19}" for name in TEXTS),
    ]
    for found in corrections(rows):
        pairs = (f"{_level(a)} / {_level(b)}" for a, b in found.sigmas.values())
        lines.append(
            f"{found.target:<11} {found.noise:<17} "
            f"{found.ratio:+6.2f} [{found.low:+6.2f}, {found.high:+6.2f}]  "
            + " ".join(f"{pair:>19}" for pair in pairs)
        )
    lines.append(f"table: {folder / 'states.csv'}")
    return "\n".join(lines)


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    return find_spec("matplotlib") is not None


def _level(level: float) -> str:
    return "below" if level == 0 else "above" if math.isinf(level) else f"{level:.1e}"
