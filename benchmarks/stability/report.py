"""The experiments with their tables as text and their figures."""

from pathlib import Path

from rich.progress import Progress

from benchmarks.stability.factors import contrasts, critical_levels, factors_experiment
from benchmarks.stability.figures import draw_paper
from benchmarks.stability.paper_experiment import paper_experiment, summaries
from benchmarks.stability.states import TEXTS, corrections, states_experiment
from lsrl.noise.copies import MEMORY
from lsrl.stability.figures import save
from lsrl.stability.report import has_matplotlib, level_text
from lsrl.stability.store import write_rows

FACTOR_COLUMNS = (
    "program", "form", "constant", "thresholds", "noise", "level_5", "level_5_low", "level_5_high",
)  # fmt: skip


def run_paper(folder: Path, *, memory: int = MEMORY, progress: Progress | None = None) -> str:
    """Run the paper's experiment; writes paper.csv and paper.svg. Returns the table as text."""
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
        save(draw_paper(table), folder / "paper.svg")
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
            + " ".join(f"{level_text(level):>14}" for level in levels)
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
        pairs = (f"{level_text(a)} / {level_text(b)}" for a, b in found.sigmas.values())
        lines.append(
            f"{found.target:<11} {found.noise:<17} "
            f"{found.ratio:+6.2f} [{found.low:+6.2f}, {found.high:+6.2f}]  "
            + " ".join(f"{pair:>19}" for pair in pairs)
        )
    lines.append(f"table: {folder / 'states.csv'}")
    return "\n".join(lines)
