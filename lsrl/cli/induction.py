"""`lsrl induce`: programs from a file of examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lsrl.cli.options import AsJson, new_file, out_folder
from lsrl.cli.printing import progress, say, say_json

if TYPE_CHECKING:
    from lsrl.induction import Learnt

STATE = "state.json"


def streams(text: str) -> int:
    """A number of streams, such as 300000 or 3e5.

    Raises:
      BadParameter: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (1 <= number < 2**63 and number.is_integer()):
        raise typer.BadParameter(f"expected a whole number from 1 on, such as 3e5, got {text!r}")
    return int(number)


def induce_programs(
    tasks: Annotated[
        Path,
        typer.Argument(metavar="TASKS.json", show_default=False, help="Examples of every task."),
    ],
    out: Annotated[
        Path,
        out_folder("Folder of the programs and models."),
    ],
    budget: Annotated[
        int,
        typer.Option(
            "--budget",
            "-b",
            parser=streams,
            metavar="N",
            help="Candidates of one task at most, in all its tries.",
        ),
    ] = 100_000,
    library: Annotated[
        Path | None,
        typer.Option(
            "--library",
            "-l",
            metavar="FILE",
            parser=new_file,
            show_default=False,
            help="Learnt skills: read if the file is there, and written.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", show_default=False, help="To compile each program to; repeatable."
        ),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "--solver", show_default=False, help="affine, automaton or compose; repeatable."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Find a program for every task of a file, and learn skills from what is found.

    DIR gets NAME.py, NAME.TARGET.lsrl, and report.txt. Run it again after a
    break, and it goes on where it stopped. Exit code 1 if some task is not
    solved.

    Examples:
      lsrl induce tasks.json --out solved
      lsrl induce tasks.json --budget 3e5 --library lib.json --out solved -t lstm
    """
    from lsrl.backends import registry
    from lsrl.folders import alone, replace_file
    from lsrl.induction import Curriculum, Skills
    from lsrl.induction.portfolio import SOLVERS, Solver

    for name in target or ():
        registry.find(name)  # or say now that there is none
    curriculum = Curriculum.load(tasks)
    known = library is not None and library.exists()
    skills = Skills.load(library) if library is not None and known else Skills.standard()
    out.mkdir(parents=True, exist_ok=True)
    with alone(out, "induction"):
        with progress() as bars:
            bar = bars.add_task("solved", total=len(curriculum.tasks))
            learnt = curriculum.learn(
                skills,
                budget=budget,
                solvers=cast("list[Solver]", solver) or SOLVERS,
                state=out / STATE,
                progress=lambda step: bars.update(
                    bar,
                    completed=step.solved,
                    description=f"round {step.round}, {step.tried:,} candidates, solved",
                ),
            )
        lines = [learnt.report()]
        for name, found in learnt.found.items():
            replace_file(out / f"{name}.py", found.source().encode())
        lines += _compiled(learnt, target or (), out)
        report = "\n".join(lines) + "\n"
        replace_file(out / "report.txt", report.encode())
        if library is not None:
            learnt.skills.save(library)
        (out / STATE).unlink(missing_ok=True)
    if json:
        say_json(row._asdict() for row in learnt.rows)
    else:
        say(report.rstrip())
    if len(learnt.found) < len(learnt.rows):
        raise typer.Exit(1)


def _compiled(learnt: "Learnt", targets: Sequence[str], out: Path) -> list[str]:
    """Save every model that a target holds; a line each."""
    from lsrl.errors import LsrlError

    lines = []
    for name, found in learnt.found.items():
        for target in targets:
            try:
                model = found.compile(target)
            except LsrlError as error:
                lines.append(f"{name} on {target}: not held: {error}")
                continue
            model.save(out / f"{name}.{target}.lsrl")
            exact = "exact" if model.certificate.exact else "bounded"
            lines.append(f"{name} on {target}: {exact}, {model.num_layers} x {model.width}")
    return lines
