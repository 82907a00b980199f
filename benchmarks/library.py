"""Libraries of certified routines inside networks that learn: what binds, how far it reaches.

Sections are in modules of their own, `benchmarks.library_…`; each is a function of whether the run
is a quick one. Rows are kept in build/library, so a run that was broken off goes on where it
stopped; rows of other code are made again. All of it takes half an hour, and `--quick` minutes.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
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
    "length": library_suite.length,
    "sorting": library_suite.sorting,
    "depth": library_suite.depth,
}


# Which are made ahead, side by side, the longest first; the others are of times that are compared.
AHEAD = ("length", "bind", "depth", "given", "sorting")


def _ahead(name: str, quick: bool) -> None:
    """Make the rows of a section, which keeps them."""
    SECTIONS[name](quick)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few questions.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Some sections; to build/.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Sections at a time.")] = 2,
) -> None:
    """Run the sections, and write the page."""
    unknown = set(only or ()) - SECTIONS.keys()
    if unknown:
        raise BenchmarkError(f"expected sections of {[*SECTIONS]}, got {sorted(unknown)}")
    about = this_machine()
    ahead = [name for name in AHEAD if not only or name in only]
    if workers > 1 and len(ahead) > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(_ahead, ahead, [quick] * len(ahead)))
    found = [SECTIONS[name](quick) for name in only or SECTIONS]
    tables = [table for section in found for table in section.tables]
    findings = [finding for section in found for finding in section.findings]
    named = {table.name: table for table in tables}
    drawn = {"suite_length", "suite_sorting", "suite_depth_rows"} <= named.keys()
    Output.of("library", quick or only is not None, output).write(
        "Libraries of routines inside networks that learn", about, tables, findings,
        library_suite.figure(named) if drawn else None,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
