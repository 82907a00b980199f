"""What errors become on the command line: one message on stderr and an exit code, nowhere else."""

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from lsrl.cli.printing import print_all, say
from lsrl.errors import LsrlError
from lsrl.extras import EXTRAS, missing

# Exit codes, beside 0 and that of a check that failed, which is 1.
MISUSE, FAULT, INTERRUPTED, CLOSED_PIPE = 2, 3, 130, 141
DEBUG = "LSRL_DEBUG"


class Commands(TyperGroup):
    """Answers every error with one message, without a traceback unless `--debug` asks for it."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line and exit with its code."""
        print_all()
        # One line, like every other message.
        warnings.showwarning = _show_warning
        try:
            code = super().main(*arguments, **{**options, "standalone_mode": False})
        except TyperException as error:
            code = _answer_usage(error)
        try:
            # What is still in the buffer; Python would only complain at exit.
            sys.stdout.flush()
        except OSError as error:
            code = _answer(error)
        except ValueError:  # a user's code has closed it
            pass
        sys.exit(code or 0)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the options of `lsrl` itself, some of which print something."""
        with _answering(debug=False):
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _answering(ctx.params["debug"]):
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; `help` before one is `--help` behind it."""
        if args[0] == "help":
            if not args[1:]:
                typer.echo(ctx.get_help())
                raise typer.Exit
            args = [*args[1:], "--help"]
        return super().resolve_command(ctx, args)


@contextlib.contextmanager
def _answering(debug: bool) -> Iterator[None]:
    """Answer an error, and exit with its code."""
    try:
        yield
    except (TyperException, typer.Exit, typer.Abort):
        raise
    except BaseException as error:
        if debug:
            traceback.print_exception(error)
        raise typer.Exit(_answer(error)) from error


def _answer(error: BaseException) -> int:
    """Say what went wrong while a command ran; returns the exit code."""
    match error:
        case SystemExit(code=code):
            # Of typer, or of rich, where a pipe is closed; that of a user's code is an InputError.
            return CLOSED_PIPE if code else 0
        case BrokenPipeError():
            _drop_output()
            return CLOSED_PIPE
        case KeyboardInterrupt():
            say("interrupted", stderr=True)
            return INTERRUPTED
        case LsrlError():
            _tell(str(error))
        case OSError():
            if error.filename is None and error.strerror is not None:
                _drop_output()
            _tell(_system_text(error))
        case ModuleNotFoundError(name=str(name)) if name in EXTRAS:
            _tell(missing(name))
        case MemoryError():
            _tell(f"not enough memory: {error or 'no more could be had'}; choose smaller sizes")
        case _:
            place = traceback.extract_tb(error.__traceback__)[-1]
            _tell(
                f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}); this is a "
                f"fault of LSRL, please report it with what the command prints with {DEBUG}=1"
            )
            return FAULT
    return MISUSE


def _answer_usage(error: TyperException) -> int:
    """Say what is wrong with the arguments of a command; returns the exit code."""
    message = error.format_message()
    # Empty where a command without arguments has printed its help.
    if message:
        context = getattr(error, "ctx", None)
        command = "lsrl" if context is None else context.command_path
        # Typer says what it expected; what came is known to the cause.
        causes = getattr(error.__cause__, "errors", None)
        got = f", got {causes()[0]['input']!r}" if causes is not None else ""
        hint = f"See '{command} --help'."
        option = getattr(error, "option_name", "")
        if option[:1] == "-" and option[1:2].isdigit():
            hint = f"Put -- before an input that begins with a minus sign. {hint}"
        told = message.removesuffix(".") + got
        _tell(f"{command}: {told}{'' if told.endswith('?') else '.'} {hint}")
    return error.exit_code


def _drop_output() -> None:
    """Nobody takes what is left in the buffer, and Python would complain of it at exit."""
    with contextlib.suppress(OSError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _system_text(error: OSError) -> str:
    """What the system refused, of which file."""
    if error.strerror is None:
        return str(error)
    files = [str(file) for file in (error.filename2, error.filename) if file is not None]
    return f"{files[0] if files else 'output'}: {error.strerror}"


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it too
        say(f"error: {text}", style="bold red", stderr=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(f"warning: {message} ({filename}:{lineno})", style="yellow", stderr=True)
