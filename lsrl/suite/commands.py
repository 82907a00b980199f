"""`lsrl suite`: build, verify and list the interpretability test models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

suite = typer.Typer(
    no_args_is_help=True, help="Networks whose inner workings are known, to test methods on."
)

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", show_default=False, help="Folder of the suite.")
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--program", "-p", show_default=False, help="Of the suite; may be repeated."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", show_default=False, help="May be repeated; all by default."),
]
Variants = Annotated[
    list[str] | None,
    typer.Option("--variant", show_default=False, help="May be repeated; all but noised."),
]
HeldBack = Annotated[
    int, typer.Option(min=0, help="Generated programs to add, whose labels are kept apart.")
]


@suite.callback()
def _suite() -> None:
    """Networks whose inner workings are known, to test interpretability methods on."""


@suite.command("build")
def build_suite(
    directory: Directory,
    program: Names = None,
    target: Targets = None,
    variant: Variants = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    held_back: HeldBack = 0,
    workers: Workers = 2,
) -> None:
    """Build every program on every target that holds it, each model in a folder of its own.

    Each folder has the weights, the circuit and a card; datasets and
    counterfactual pairs lie beside them, once a program. Run it again after a
    break, and it goes on where it stopped.

    Examples:
      lsrl suite build models
      lsrl suite build models -p majority -t lstm -t mamba
      lsrl suite build models --held-back 10 --seed 7
    """
    from lsrl.suite.build import build
    from lsrl.suite.variants import DEFAULT

    with _progress() as progress:
        manifest = build(
            directory,
            programs=program,
            targets=target,
            variants=variant or DEFAULT,
            seed=seed,
            workers=workers,
            held_back_programs=held_back,
            progress=progress,
        )
    exact = sum(model.exact for model in manifest.models)
    typer.echo(
        f"{len(manifest.models)} models of {len(manifest.programs)} programs in {directory}, "
        f"{exact} of them exact; {len(manifest.refusals)} that a target can't hold"
    )


@suite.command("train")
def train_network(
    program: Annotated[str, typer.Argument(help="A name from 'lsrl programs'.")],
    target: Annotated[str, typer.Option("--target", "-t", help="lstm or gru.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the model is saved.")],
    seed: Annotated[int, typer.Option(min=0, help="Of weights, inputs and interchanges.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 3000,
    units: Annotated[int, typer.Option(min=1, help="A channel.")] = 4,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sequence.")] = 16,
    natural: Annotated[bool, typer.Option(help="A twin without interchanges.")] = False,
) -> None:
    """Train a network from ordinary weights by interchange interventions.

    Its signals are then where a compiled one has them, behind weights that
    nobody chose. Run it again after a break, and it goes on where it stopped.

    Example: lsrl suite train flip_flop -t lstm -o flip_flop.lsrl
    """
    from dataclasses import replace

    import lsrl
    from lsrl.errors import InputError
    from lsrl.interpret.variants.train import Recipe, trained
    from lsrl.suite.programs import SuiteProgram, sampler_of

    if program not in lsrl.programs.catalogue():
        raise InputError(f"train: no program {program!r}; 'lsrl programs' lists them")
    task = SuiteProgram(program, "", program, tokens=length, long_tokens=None)
    model = lsrl.compile(task.program(), target, inspectable=True)
    recipe = Recipe(steps=steps, units=units, length=length)
    if natural:
        recipe = replace(recipe, interchange=0.0, code=0.0)
    with _progress() as progress:
        bar = progress.add_task("train", total=steps)
        made = trained(
            model,
            seed,
            recipe,
            sampler=None if task.free else sampler_of(task, model.program),
            checkpoint=out.with_name(f"{out.name}.training"),
            report=lambda step, loss: progress.update(
                bar, completed=step, description=f"{program} on {target}: loss {loss:.3g}"
            ),
        )
    made.save(out)
    typer.echo(str(made.card))


@suite.command("verify")
def verify_suite(directory: Directory, workers: Workers = 2) -> None:
    """Check hashes, datasets and models of a suite.

    Datasets must be what the reference evaluator and the plain references say,
    and every model equal to them where its certificate says exact, else within
    its bound. Exit code 1 on a difference, 2 if files are missing or changed.

    Example: lsrl suite verify models
    """
    from lsrl.errors import ModelDifferenceError
    from lsrl.suite.verify import verify

    with _progress() as progress:
        try:
            verified = verify(directory, workers=workers, progress=progress)
        except ModelDifferenceError as error:
            progress.stop()
            typer.echo(f"differs: {error}", err=True)
            raise typer.Exit(1) from error
    typer.echo(str(verified))


@suite.command("list")
def list_suite() -> None:
    """List the programs of the suite, family by family.

    Example: lsrl suite list
    """
    from lsrl.suite.programs import programs

    table = Table("family", "program", "library", "parameters", "tokens", "what it shows")
    for program in programs():
        settings = ", ".join(f"{name}={value}" for name, value in program.settings.items())
        lengths = f"{program.tokens}, {program.long_tokens or '-'}"
        entry = program.library_entry()
        table.add_row(
            program.family,
            program.name,
            program.entry,
            settings,
            lengths,
            entry.shows,
            end_section=True,
        )
    Console().print(table)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
