"""Libraries of certified routines inside networks that learn: what binds, how far it reaches.

Sections are in modules of their own, `benchmarks.library_…`; each is a function of whether the run
is a quick one. Rows are kept in build/library, so a run that was broken off goes on where it
stopped; rows of other code are made again. All of it takes about an hour of CPU time, and `--quick`
minutes.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import library_bind, library_suite
from benchmarks.common import BenchmarkError, Output, Section
from benchmarks.common import machine as this_machine

SECTIONS: dict[str, Callable[[bool], Section]] = {
    "given": library_bind.given,
    "bind": library_bind.bound,
    "cost": library_bind.cost,
}
SUITE: dict[str, Callable[[bool, int], Section]] = {
    "length": library_suite.length,
    "sorting": library_suite.sorting,
    "depth": library_suite.depth,
}
NAMES = (*SECTIONS, *SUITE)


# Which are made ahead, side by side, the longest first; the others are of times that are compared.
AHEAD = ("length", "bind", "depth", "given", "sorting")


def _section(name: str, quick: bool, seeds: int) -> Section:
    """A section, whose rows are kept."""
    return SECTIONS[name](quick) if name in SECTIONS else SUITE[name](quick, seeds)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few questions.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Some sections; to build/.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Sections at a time.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Of each network of the suite.")] = (
        library_suite.SEEDS
    ),
) -> None:
    """Run the sections, and write the page."""
    unknown = set(only or ()) - {*NAMES}
    if unknown:
        raise BenchmarkError(f"expected sections of {[*NAMES]}, got {sorted(unknown)}")
    about = this_machine()
    ahead = [name for name in AHEAD if not only or name in only]
    if workers > 1 and len(ahead) > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(partial(_section, quick=quick, seeds=seeds), ahead))
    found = [_section(name, quick, seeds) for name in only or NAMES]
    tables = [table for section in found for table in section.tables]
    findings = [finding for section in found for finding in section.findings]
    named = {table.name for table in tables}
    drawn = {"suite_length", "suite_sorting", "suite_depth_rows"} <= named
    Output.of("library", quick or only is not None, output).write(
        "Libraries of routines inside networks that learn", about, tables, findings,
        library_suite.draw if drawn else None,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
