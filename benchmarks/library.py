"""Libraries of certified routines inside networks that learn: what binds, how far it reaches.

Sections are in modules of their own, `benchmarks.library_…`; each is a function of whether the run
is a quick one. What a section found is kept, so that one of them can be run anew by itself.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import library_bind
from benchmarks.common import QUICK_RESULTS, BenchmarkError, Output, Section, Table
from benchmarks.common import machine as this_machine

SECTIONS: dict[str, Callable[[bool], Section]] = {
    "given": library_bind.given,
    "bind": library_bind.bound,
    "cost": library_bind.cost,
}
KEPT = QUICK_RESULTS / "library"


def _kept(name: str, quick: bool) -> Path:
    return KEPT / f"{name}{'.quick' if quick else ''}.json"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few questions.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this section alone.")] = None,
) -> None:
    """Run the sections, and write one page of all that were run so far."""
    unknown = set(only or ()) - SECTIONS.keys()
    if unknown:
        raise BenchmarkError(f"expected sections of {[*SECTIONS]}, got {sorted(unknown)}")
    about = this_machine()
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in only or SECTIONS:
        section = SECTIONS[name](quick)
        _kept(name, quick).write_text(json.dumps(asdict(section)), encoding="utf-8")
    tables, findings = [], []
    for name in SECTIONS:
        if _kept(name, quick).exists():
            found = json.loads(_kept(name, quick).read_text(encoding="utf-8"))
            tables += [Table(**table) for table in found["tables"]]
            findings += found["findings"]
    Output.of("library", quick, output).write(
        "Libraries of routines inside networks that learn", about, tables, findings, None
    )


if __name__ == "__main__":
    typer.run(main)
