"""`lsrl suite`: build, verify and list the interpretability test models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lsrl.cli.options import AsJson, new_folder
from lsrl.cli.printing import cell, print_table, progress, say_json

suite_commands = typer.Typer(
    no_args_is_help=True, help="Networks whose inner workings are known, to test methods on."
)

Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", parser=new_folder, show_default=False, help="Folder of the suite."
    ),
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


@suite_commands.command("build")
def build_suite(
    directory: Directory,
    program: Names = None,
    target: Targets = None,
    variant: Variants = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    held_back: HeldBack = 0,
    workers: Workers = 2,
    starter: Annotated[
        bool, typer.Option("--starter", help="12 programs on 4 targets in 3 variants.")
    ] = False,
    test: Annotated[
        int, typer.Option(min=0, help="Sequences of a split to test on; none by default.")
    ] = 0,
) -> None:
    """Build every program on every target that holds it, each model in a folder of its own.

    Each folder has the weights, the circuit and a card; datasets and
    counterfactual pairs lie beside them, once a program. Run it again after a
    break, and it goes on where it stopped.

    Examples:
      lsrl suite build models
      lsrl suite build models --starter
      lsrl suite build models -p majority -t lstm -t mamba
      lsrl suite build models --held-back 10 --seed 7
    """
    from lsrl.suite.build import build
    from lsrl.suite.programs import STARTER, STARTER_TARGETS, STARTER_VARIANTS
    from lsrl.suite.variants import DEFAULT

    if starter:
        program = program or list(STARTER)
        target, variant = target or list(STARTER_TARGETS), variant or list(STARTER_VARIANTS)
    with progress() as bars:
        manifest = build(
            directory,
            programs=program,
            targets=target,
            variants=variant or DEFAULT,
            seed=seed,
            workers=workers,
            held_back_programs=held_back,
            sequences={"test": test} if test else None,
            progress=bars,
        )
    exact = sum(model.exact for model in manifest.models)
    typer.echo(
        f"{len(manifest.models)} models of {len(manifest.programs)} programs in {directory}, "
        f"{exact} of them exact; {len(manifest.refusals)} refused, with reasons in the manifest"
    )


@suite_commands.command("train")
def train_networks(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", parser=new_folder, show_default=False, help="Folder of the networks."
        ),
    ],
    program: Names = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", show_default=False, help="lstm, gru or mamba; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Networks of each, with seeds from 0 on.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of training, at most.")] = 3000,
    twins: Annotated[bool, typer.Option(help="Natural twins, which learn outputs alone.")] = True,
) -> None:
    """Train networks from ordinary weights by interchange interventions.

    Their signals are then where a compiled one has them, behind weights that
    nobody chose. DIR gets the models, rows.csv with the rate of causal tests
    that each passes, and table.md. Run it again after a break, and it goes on
    where it stopped. Exit code 1 if a network passes less than 95 %.

    Examples:
      lsrl suite train networks
      lsrl suite train networks -p flip_flop -t lstm --seeds 1 --no-twins
    """
    from lsrl.folders import replace_file
    from lsrl.suite.training import KINDS, passed, summary, table, train

    with progress() as bars:
        bar = bars.add_task("train", total=None)
        rows = train(
            directory,
            names=program,
            targets=target,
            seeds=seeds,
            kinds=KINDS if twins else KINDS[:1],
            steps=steps,
            report=lambda what, done, total: bars.update(
                bar, completed=done, total=total, description=what
            ),
        )
    tables = f"{table(rows)}\n\n{summary(rows)}\n"
    replace_file(directory / "table.md", tables.encode())
    enough, trained = passed(rows)
    typer.echo(f"{tables}\n{enough} of {trained} networks pass at least 95 % of the causal tests")
    if enough < trained:
        raise typer.Exit(1)


@suite_commands.command("verify")
def verify_suite(directory: Directory, workers: Workers = 2) -> None:
    """Check hashes, datasets and models of a suite.

    Datasets must be what the reference evaluator and the plain references say,
    and every model equal to them where its certificate says exact, else within
    its bound. Exit code 1 on a difference, 2 if files are missing or changed.

    Example: lsrl suite verify models
    """
    from lsrl.errors import ModelDifferenceError
    from lsrl.suite.verify import verify

    with progress() as bars:
        try:
            verified = verify(directory, workers=workers, progress=bars)
        except ModelDifferenceError as error:
            bars.stop()
            typer.echo(f"differs: {error}", err=True)
            raise typer.Exit(1) from error
    typer.echo(str(verified))


@suite_commands.command("list")
def list_suite(json: AsJson = False) -> None:
    """List the programs of the suite, family by family.

    Examples:
      lsrl suite list
      lsrl suite list --json
    """
    from lsrl.suite.programs import programs

    if json:
        say_json(
            {
                "family": program.family,
                "program": program.name,
                "library": program.entry,
                "parameters": dict(program.settings),
                "tokens": program.tokens,
                "long_tokens": program.long_tokens,
                "shows": program.library_entry().shows,
            }
            for program in programs()
        )
        return
    table = Table("family", "program", "library", "parameters", "tokens", "what it shows")
    for program in programs():
        settings = ", ".join(f"{name}={value}" for name, value in program.settings.items())
        lengths = f"{program.tokens}, {program.long_tokens or '-'}"
        shows = program.library_entry().shows
        row = program.family, program.name, program.entry, settings, lengths, shows
        table.add_row(*map(cell, row), end_section=True)
    print_table(table)
