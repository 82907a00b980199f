"""The arguments and options that commands share."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def new_file(text: str) -> Path:
    """A file that can be written once there is something to write, so that nobody waits in vain.

    Raises:
      BadParameter: it can't be.
    """
    path = Path(text)
    if not text or path.is_dir():
        raise typer.BadParameter(f"expected the name of a file to write, got {_kind(text)}")
    _check_parent(path, path.parent)
    return path


def new_picture(text: str) -> Path:
    """A picture that can be written; its suffix says in which format.

    Raises:
      BadParameter: it can't be.
    """
    path = new_file(text)
    if not path.suffix:
        raise typer.BadParameter(
            f"expected a suffix that names the format, .svg, .pdf or .png, got {text!r}"
        )
    return path


def new_folder(text: str) -> Path:
    """A folder that is there, or can be made.

    Raises:
      BadParameter: it can't be.
    """
    path = Path(text)
    if not text or (path.exists() and not path.is_dir()):
        raise typer.BadParameter(f"expected the name of a folder, got {_kind(text)}")
    return path


def out_folder(about: str, *, show_default: bool = False) -> Any:
    """The option of a folder that a command writes to."""
    return typer.Option(
        "--out", "-o", metavar="DIR", parser=new_folder, show_default=show_default, help=about
    )


def _check_parent(path: Path, parent: Path) -> None:
    if not parent.exists():
        raise typer.BadParameter(f"{path}: there is no folder {parent}; make it first")
    if not parent.is_dir():
        raise typer.BadParameter(f"{path}: {parent} is no folder")
    if not os.access(path if path.exists() else parent, os.W_OK):
        raise typer.BadParameter(f"{path}: this may not be written; choose another place")


def _kind(text: str) -> str:
    kind = "the folder " if os.path.isdir(text) else "the file " if text else ""
    return f"{kind}{text!r}"


def _complete_program(incomplete: str) -> list[str]:
    import lsrl

    return [name for name in lsrl.programs.catalogue() if name.startswith(incomplete)]


def _complete_target(incomplete: str) -> list[str]:
    import lsrl

    return [found.name for found in lsrl.targets() if found.name.startswith(incomplete)]


ProgramName = Annotated[
    str,
    typer.Argument(
        metavar="PROGRAM",
        autocompletion=_complete_program,
        show_default=False,
        help="A name from 'lsrl programs', FILE.py:NAME (a program or a function that returns one) "
        "or a saved model.",
    ),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        autocompletion=_complete_target,
        show_default=False,
        help="A name from 'lsrl targets'.",
    ),
]
PageFile = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        parser=new_file,
        show_default=False,
        help="The HTML file to write.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        show_default=False,
        help="A parameter of the program, such as length=3; may be repeated.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(show_default=False, help="float32 (by default), float64 or bfloat16."),
]
Unroll = Annotated[
    bool,
    typer.Option(
        "--unroll",
        help="Write states that the target can't hold as log2(max_length) levels of composition.",
    ),
]
Robust = Annotated[bool, typer.Option("--robust", help="Bear more noise, for a few layers more.")]
Inspectable = Annotated[
    bool,
    typer.Option(
        "--inspectable",
        help="Compile a deeper network in which signals are read from their channels only.",
    ),
]
MostParameters = Annotated[
    int | None,
    typer.Option(
        "--most-parameters",
        metavar="N",
        min=1,
        show_default=False,
        help="Refuse a network of more numbers than this; 2^28 (1 GiB in float32) by default.",
    ),
]
AutomatonLimit = Annotated[
    list[str] | None,
    typer.Option(
        "--automaton-limit",
        metavar="NAME=N",
        show_default=False,
        help="How large an automaton may become where swaps hold it, such as layers=24; may be "
        "repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs to read.")]
