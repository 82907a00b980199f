"""The arguments and options that commands share."""

from typing import Annotated

import typer

ProgramName = Annotated[
    str,
    typer.Argument(
        metavar="PROGRAM",
        show_default=False,
        help="A name from 'lsrl programs', FILE.py:NAME (a program or a function that returns one) "
        "or a saved model.",
    ),
]
TargetName = Annotated[
    str | None,
    typer.Option("--target", "-t", show_default=False, help="A name from 'lsrl targets'."),
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
Dtype = Annotated[str, typer.Option(help="float32, float64 or bfloat16.")]
Unroll = Annotated[
    bool,
    typer.Option(
        "--unroll",
        help="Write states that the target can't hold as log2(max_length) levels of composition.",
    ),
]
