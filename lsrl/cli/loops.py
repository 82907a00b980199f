"""Loops on the command line: what `lsrl run`, `view` and `verify` do where outputs come back."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
import typer

from lsrl.cli.printing import columns_text, say
from lsrl.errors import InputError
from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.language.run import Run

S = TypeVar("S")  # between two tokens

Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        metavar="N",
        show_default=False,
        help="Of a program that feeds outputs back: loop behind the inputs, for N instructions at "
        "most.",
    ),
]
Stdin = Annotated[
    str | None,
    typer.Option(
        "--stdin",
        metavar="FILE",
        show_default=False,
        help="With --steps: the file whose bytes are the loop's keys; '-' for standard input.",
    ),
]


def keys_from(place: str | None, steps: int | None) -> bytes:
    """The keys of a loop.

    Raises:
      InputError: there is no loop to read them.
    """
    if place is None:
        return b""
    if steps is None:
        raise InputError("--stdin: keys are read by a loop; say how long with --steps")
    return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()


def print_loop(run: "Run[S]") -> None:
    """What each machine read, its outputs, what it said, and how it ended."""
    record, names = run.record, [name for name, _ in run.wiring.types]
    read = run.inputs if run.batched else tuple(array[None] for array in run.inputs)
    for machine, done in enumerate(record.done.tolist()):
        if run.batched:
            say(f"machine {machine}")
        last = slice(read[0].shape[1] - record.outputs.shape[1], None)
        columns: dict[str, Array] = {"instruction": np.arange(1, done + 1)[:, None]}
        columns |= {
            name: array[machine, last][:done] for name, array in zip(names, read, strict=True)
        }
        say(columns_text({**columns, "output": record.outputs[machine, :done]}))
        if record.text[machine]:
            say(f"said: {record.text[machine].decode('latin-1')}")
        say(_ending(run, machine))


def _ending(run: "Run[S]", machine: int) -> str:
    record = run.record
    count = f"{record.steps[machine]} instructions"
    if record.halted[machine]:
        return f"halted after {count}"
    if record.waiting[machine]:
        return f"waits for a key after {count}; give more with --stdin"
    return f"did not halt within {count}"
