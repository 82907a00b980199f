"""The command line: `lsrl --help`.

What the commands need beyond the language loads inside them, so that `lsrl --help` is quick.
"""

import os
import platform
from importlib.metadata import version
from typing import Annotated

import typer

from lsrl import cache
from lsrl.cli.answers import DEBUG, Commands
from lsrl.cli.bench import bench_commands
from lsrl.cli.induction import induce_programs
from lsrl.cli.library import list_programs, list_targets
from lsrl.cli.machine import machine_commands
from lsrl.cli.networks import compile_program, explain_program, export_program, show_program
from lsrl.cli.printing import say
from lsrl.cli.runs import run_program, verify_program, view_program
from lsrl.cli.suite import suite_commands

app = typer.Typer(
    name="lsrl",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"lsrl {version('lsrl')}, Python {platform.python_version()}, jax {version('jax')}")
        raise typer.Exit


@app.callback()
def _lsrl(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Print the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_say_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Compile short programs over linear-state signals into exact recurrent networks.

    A first tour:
      lsrl programs                          what the library has
      lsrl run majority "1 0 1 1"            the program itself, token by token
      lsrl compile majority -t linear_rnn    layers, width, certificate
      lsrl show tok2tok -t linear_rnn        every channel of every layer by name
      lsrl verify dyck1 -t linear_rnn        the network against the program
      lsrl view tok2tok -t gru -o page.html  every signal, token by token

    Results go to stdout, messages to stderr. Exit codes:
      0    done
      1    a check found a difference
      2    wrong arguments, inputs or files
      3    a fault of LSRL
      130  interrupted
      141  nobody read the output to its end
    """


for _name, _command in (
    ("programs", list_programs),
    ("targets", list_targets),
    ("compile", compile_program),
    ("run", run_program),
    ("show", show_program),
    ("view", view_program),
    ("verify", verify_program),
    ("export", export_program),
    ("explain", explain_program),
    ("induce", induce_programs),
):
    app.command(_name)(_command)
app.add_typer(bench_commands, name="bench")
app.add_typer(suite_commands, name="suite")
app.add_typer(machine_commands, name="machine")


def main() -> None:
    """Run the command line."""
    # Each command is a process of its own and would compile its loops anew. Set before jax loads.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.directory() / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    app(prog_name="lsrl")
