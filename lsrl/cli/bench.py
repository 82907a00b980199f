"""`lsrl bench`: experiments that are too long for a test."""

from pathlib import Path
from typing import Annotated

import typer

from lsrl.cli.options import new_folder
from lsrl.cli.printing import progress, say

bench_commands = typer.Typer(no_args_is_help=True, help="Experiments that are too long for a test.")


@bench_commands.callback()
def _bench() -> None:
    """Experiments that are too long for a test."""


@bench_commands.command("stability")
def bench_stability(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            parser=new_folder,
            help="Folder of tables and figures.",
        ),
    ] = Path("stability"),
    quick: Annotated[bool, typer.Option("--quick", help="A small sweep, for trying out.")] = False,
    memory: Annotated[
        float, typer.Option(min=0.01, max=2**20, help="GiB that the copies at work may take.")
    ] = 1.0,
    program: Annotated[
        list[str] | None,
        typer.Option("--program", show_default=False, help="Of the sweep; may be repeated."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", show_default=False, help="Of the sweep; may be repeated."),
    ] = None,
) -> None:
    """Measure how much noise compiled models bear.

    Finished tasks are kept in the folder: run the same command again after a
    break, and it goes on where it stopped. Without options: every program of
    the sweep on every target under every kind of perturbation, minutes long.
    The experiments of docs/stability.md are run in a clone of the repository:
    python -m benchmarks.stability --only paper.

    Examples:
      lsrl bench stability --quick
      lsrl bench stability --program tok2tok -t linear_rnn -t mamba --memory 4
    """
    from lsrl.stability import report

    size = int(memory * 2**30)
    plan = report.chosen_plan(program, target, quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    with progress() as bars:
        text = report.run_sweep(plan, out, memory=size, progress=bars)
    say(text)
