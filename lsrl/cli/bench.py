"""`lsrl bench`: experiments that are too long for a test."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from lsrl.cli.printing import say
from lsrl.errors import InputError

bench_commands = typer.Typer(no_args_is_help=True, help="Experiments that are too long for a test.")


@bench_commands.callback()
def _bench() -> None:
    """Experiments that are too long for a test."""


@bench_commands.command("stability")
def bench_stability(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of tables and figures.")] = Path(
        "stability"
    ),
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's experiment instead of the sweep.")
    ] = False,
    factors: Annotated[
        bool, typer.Option("--factors", help="The primary experiment instead of the sweep.")
    ] = False,
    states: Annotated[
        bool, typer.Option("--states", help="Affine against self-correcting states instead.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A small sweep, for trying out.")] = False,
    memory: Annotated[
        float, typer.Option(min=0.01, help="GiB that the copies at work may take.")
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

    Examples:
      lsrl bench stability --quick
      lsrl bench stability --paper --out results
      lsrl bench stability --program tok2tok -t linear_rnn -t mamba --memory 4
    """
    from lsrl.stability import report

    if sum((paper, factors, states, quick)) > 1:
        raise InputError(
            "bench stability: --paper, --factors, --states and --quick exclude each other"
        )
    size = int(memory * 2**30)
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if paper:
            text = report.run_paper(out, memory=size, progress=progress)
        elif factors:
            text = report.run_factors(out, memory=size, progress=progress)
        elif states:
            text = report.run_states(out, memory=size, progress=progress)
        else:
            plan = report.chosen_plan(program, target, quick=quick)
            text = report.run_sweep(plan, out, memory=size, progress=progress)
    say(text)
