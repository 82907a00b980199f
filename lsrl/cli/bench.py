"""`lsrl bench`: experiments that are too long for a test."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsrl.cli.options import out_folder
from lsrl.cli.printing import progress, say
from lsrl.cli.subject import subject_of
from lsrl.cli.user_code import sampler_of
from lsrl.errors import InputError

if TYPE_CHECKING:
    from lsrl.stability.workloads import Subject

FORMATS = ("png", "pdf", "svg")

bench_commands = typer.Typer(no_args_is_help=True, help="Experiments that are too long for a test.")


@bench_commands.callback()
def _bench() -> None:
    """Experiments that are too long for a test."""


@bench_commands.command("stability")
def bench_stability(
    out: Annotated[
        Path,
        out_folder("Folder of tables and figures.", show_default=True),
    ] = Path("stability"),
    quick: Annotated[bool, typer.Option("--quick", help="A small sweep, for trying out.")] = False,
    memory: Annotated[
        float, typer.Option(min=0.01, max=2**20, help="GiB that the copies at work may take.")
    ] = 1.0,
    program: Annotated[
        list[str] | None,
        typer.Option(
            "--program", show_default=False, help="Of the library, or FILE.py:NAME; repeat."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", show_default=False, help="FILE.py:NAME, draws inputs of your programs."
        ),
    ] = None,
    figures: Annotated[
        str, typer.Option("--figures", help="Format of the figures: png, pdf or svg.")
    ] = "png",
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
      lsrl bench stability --program mine.py:memory --sampler mine.py:prompts --figures pdf
    """
    from lsrl.stability import report

    if figures not in FORMATS:
        raise InputError(f"--figures {figures}: expected one of {', '.join(FORMATS)}")
    subjects = [_subject(name, sampler) for name in program or ()]
    plan = report.chosen_plan(subjects, target, quick=quick)
    size = int(memory * 2**30)
    out.mkdir(parents=True, exist_ok=True)
    with progress() as bars:
        text = report.run_sweep(plan, out, memory=size, progress=bars, suffix=f".{figures}")
    say(text)


def _subject(name: str, sampler: str | None) -> "Subject":
    """A program of the sweep, of the library or of a user's file, as a sweep runs it."""
    from lsrl.stability import workloads

    if name in workloads.DEFAULT and sampler is None:
        return workloads.DEFAULT[name]
    found = subject_of(name, None)
    if found.entry is not None and sampler is None:
        return workloads.Workload(found.entry.name, found.parameters or {})
    draw = None if sampler is None else sampler_of(sampler)
    length = min(workloads.TOKENS, found.program.max_length or workloads.TOKENS)
    return workloads.Own(found.program.name, found.program, draw, length)
