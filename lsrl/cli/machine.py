"""`lsrl machine`: texts of machines, in plain Python or inside a network."""

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from lsrl.cli.loops import Stdin, keys_from
from lsrl.cli.options import AsJson, Dtype, PageFile, TargetName
from lsrl.cli.printing import cell, print_table, say, say_json
from lsrl.cli.subject import Subject, compiled, parse_settings
from lsrl.errors import AssemblyError, InputError

if TYPE_CHECKING:
    from lsrl.machine import FleqImage, FleqStep, Image, Machine, MachineProgram, Step
    from lsrl.model import Model


@dataclass(frozen=True)
class _Started:
    """A machine with an image, and what is known of it."""

    name: str
    machine: "Machine"
    image: "Image | FleqImage"
    program: "MachineProgram | None"  # of the library
    parameters: dict[str, object]

    def place(self, name: str) -> int:
        """The address of a label, or of a number."""
        if name.lstrip("-").isdigit():
            return int(name)
        if name not in self.image.labels:
            known = ", ".join(self.image.labels) or "none"
            raise InputError(f"--stop: no label {name!r}; the text has {known}")
        return self.image.labels[name]

    def results(self) -> dict[str, object]:
        """What a text of the library leaves behind, by label."""
        if self.program is None or not self.machine.halted:
            return {}
        left = self.program.left(self.machine.dump(), b"", **self.parameters)
        return {label: _plain(value) for label, value in left.items() if label != "text"}

    def left(self) -> dict[str, object]:
        """All that is left, for JSON."""
        machine = self.machine
        return {
            "text": self.name,
            "halted": machine.halted,
            "steps": machine.steps,
            "pc": machine.pc,
            "printed": machine.text.decode("latin-1"),
            "memory": machine.dump().tolist(),
            "left": self.results(),
        }


machine_commands = typer.Typer(
    no_args_is_help=True, help="Programs for the computers of the library, as text."
)
# Instructions between two looks at what was printed.
STRETCH = 512


def _complete_text(incomplete: str) -> list[str]:
    from lsrl.machine import programs

    return [name for name in programs() if name.startswith(incomplete)]


TextName = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        autocompletion=_complete_text,
        show_default=False,
        help="A text, FILE.sq or FILE.fq; an image, FILE.dec, of numbers from address 0 on; or a "
        "name from 'lsrl machine list'.",
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="LABEL=VALUE",
        show_default=False,
        help="A number, or several in brackets, to put at a label; may be repeated.",
    ),
]
Cells = Annotated[int, typer.Option(min=1, max=2**19, help="Of the memory of SUBLEQ.")]
Bits = Annotated[int, typer.Option(min=4, max=20, help="Of a word of SUBLEQ.")]
Steps = Annotated[int, typer.Option(min=1, help="Instructions to carry out at most.")]


@machine_commands.command("run")
def run_text(
    text: TextName,
    target: TargetName = None,
    param: Values = None,
    cells: Cells = 256,
    bits: Bits = 16,
    steps: Steps = 1_000_000,
    dtype: Dtype = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show each instruction, on standard errors.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Run a text; keys are those of standard input, and what it prints goes to standard output.

    With a target it runs inside a network, which is compiled first; else in
    plain Python. What a text of the library leaves behind is said at the end.

    Examples:
      lsrl machine run hello
      lsrl machine run hello --target lstm --cells 64
      lsrl machine run division -p x=1000 -p y=7 --json
      echo "Hello?" | lsrl machine run echo -t linear_rnn --cells 32
    """
    started = _started(text, param, target, cells, bits, dtype)
    keys, shown = b"", 0
    while started.machine.steps < steps and not started.machine.halted:
        stretch = min(STRETCH, steps - started.machine.steps)
        if trace:
            for step in started.machine.trace(stretch, keys):
                say(str(step), stderr=True)
        else:
            started.machine.run(stretch, keys)
        if not json:
            _print(started.machine.text[shown:])
            shown = len(started.machine.text)
        keys = _key(started.machine) if started.machine.waiting else b""
    if json:
        say_json([started.left()])
        return
    ends = "halted" if started.machine.halted else "still going (--steps)"
    say(f"{started.name}: {ends}, after {started.machine.steps} instructions", stderr=True)
    for label, value in started.results().items():
        say(f"{label} = {value}")


@machine_commands.command("trace")
def trace_text(
    text: TextName,
    target: TargetName = None,
    param: Values = None,
    cells: Cells = 256,
    bits: Bits = 16,
    steps: Steps = 100,
    dtype: Dtype = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", show_default=False, help="Stop ahead of it, or of an address."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what each instruction reads, writes and where it goes.

    Of a network it is what the network says; what it reads is found by replay.

    Examples:
      lsrl machine trace multiplication
      lsrl machine trace sorting --stop passed --steps 1000
      lsrl machine trace hello --target gru --cells 32 --steps 10 --json
    """
    started = _started(text, param, target, cells, bits, dtype)
    machine, steps_done = started.machine, list["Step | FleqStep"]()
    places = {started.place(name) for name in stop or []}
    keys = b""
    while len(steps_done) < steps and not machine.halted:
        steps_done += machine.trace(steps - len(steps_done), keys, stop=places)
        if not machine.waiting:
            break
        keys = _key(machine)
    if json:
        say_json(
            {name: _plain(value) for name, value in step._asdict().items()} for step in steps_done
        )
    else:
        say("\n".join(map(str, steps_done)))


@machine_commands.command("view")
def view_text(
    text: TextName,
    out: PageFile,
    target: TargetName = None,
    param: Values = None,
    cells: Cells = 256,
    bits: Bits = 16,
    steps: Steps = 10_000,
    dtype: Dtype = None,
    stdin: Stdin = None,
) -> None:
    """Write a page that shows a text at work inside a network, instruction by instruction.

    One HTML file, as of 'lsrl view': memory, the instruction, what it reads and
    writes, and what the network's signals are meanwhile.

    Examples:
      lsrl machine view hello -t linear_rnn --cells 64 --bits 8 -o hello.html
      lsrl machine view echo -t gru --cells 32 --stdin keys.txt -o echo.html
    """
    from lsrl.interpret import view
    from lsrl.machine import card

    _, image, _ = _read(text, param)
    model = _compiled(image, target, cells, bits, dtype)
    run = model.loop(*card(model, image), steps=steps, stdin=keys_from(stdin, steps))
    view(model, run, path=out, image=image)
    say(f"written to {out}", stderr=True)


@machine_commands.command("asm")
def assemble_text(text: TextName, param: Values = None, json: AsJson = False) -> None:
    """Assemble a text, and show what lies at each address; of an image, what it says as a text.

    Examples:
      lsrl machine asm hello.sq
      lsrl machine asm image.dec > image.sq
      lsrl machine asm primes --json
    """
    from lsrl.machine import Image, disassemble

    _, image, _ = _read(text, param)
    if not json:
        say(disassemble(image).removesuffix("\n"))
    elif isinstance(image, Image):
        labels = {address: label for label, address in image.labels.items()}
        say_json(
            {"address": a, "word": image[a], "label": labels.get(a), "line": image.lines.get(a)}
            for a in image
        )
    else:
        say_json(line._asdict() for line in image.lines)


@machine_commands.command("list")
def list_texts(json: AsJson = False) -> None:
    """List the texts that come along.

    Examples:
      lsrl machine list
      lsrl machine list --json
    """
    from lsrl.machine import programs

    if json:
        say_json(
            {
                "name": name,
                "machine": program.machine,
                "shows": program.shows,
                "parameters": {key: repr(value) for key, value in program.parameters.items()},
            }
            for name, program in programs().items()
        )
        return
    table = Table("text", "machine", "what it does", "parameters")
    for name, program in programs().items():
        settings = ", ".join(f"{key}={value!r}" for key, value in program.parameters.items())
        row = name, program.machine, program.shows, settings
        table.add_row(*map(cell, row), end_section=True)
    print_table(table)


# ---------------------------------------------------------------- texts and machines


def _read(
    text: str, param: list[str] | None
) -> "tuple[MachineProgram | None, Image | FleqImage, dict[str, object]]":
    """The program of the library, if it is one, the image, and the parameters.

    Raises:
      InputError: no such text, or a fault in it, which names the file.
    """
    from lsrl.machine import assemble, programs

    parameters = parse_settings(param or [])
    if text in programs():
        program = programs()[text]
        if "keys" in parameters:
            raise InputError(f"{text}: keys are those of standard input; pipe them in, without -p")
        return program, program.image(**parameters), parameters
    path = Path(text)
    if path.suffix not in (".sq", ".fq", ".dec"):
        near = difflib.get_close_matches(text, programs(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see 'lsrl machine list'"
        raise InputError(
            f"{text}: expected FILE.sq, FILE.fq, FILE.dec or a text that is known; {hint}"
        )
    try:
        written = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{text}: byte {error.start} is no text in UTF-8; save the file as UTF-8"
        ) from None
    if path.suffix == ".dec":  # a line stays a line, for errors
        lines = [line.partition("#")[0].strip() for line in written.splitlines()]
        written = "\n".join(line and f".data {line}" for line in lines)
    try:
        return None, assemble(written).put(**parameters), parameters
    except AssemblyError as error:
        raise InputError(f"{text}:{error.line}: {error.message}") from error


def _started(
    text: str,
    param: list[str] | None,
    target: str | None,
    cells: int,
    bits: int,
    dtype: str | None,
) -> _Started:
    """The text, loaded into a plain machine, or into a network of a target.

    Raises:
      InputError: there is no such text, or it does not fit the machine; names the file.
    """
    from lsrl.machine import Fleq, Image, Session, Subleq

    program, image, parameters = _read(text, param)
    name = Path(text).stem
    machine: Machine
    try:
        if target is not None:
            machine = Session(_compiled(image, target, cells, bits, dtype), image)
        elif dtype is not None:
            raise InputError(f"{name}: --dtype: nothing is compiled without a target; give one")
        elif isinstance(image, Image):
            machine = Subleq(image, cells=cells, bits=bits)
        else:
            machine = Fleq(image)
    except AssemblyError as error:
        raise InputError(f"{text}:{error.line}: {error.message}") from error
    return _Started(name, machine, image, program, parameters)


def _compiled(
    image: "Image | FleqImage", target: str | None, cells: int, bits: int, dtype: str | None
) -> "Model":
    """A network that takes the image."""
    import lsrl
    from lsrl.machine import Image

    if isinstance(image, Image):
        computer = lsrl.programs.subleq(cells=cells, bits=bits, io=True)
    else:  # as large as the text, which has no holes
        shape = image.shape or (1, 1)
        computer = lsrl.programs.fleq(cells=len(image.cells), lines=len(image.lines), shape=shape)
    return compiled(Subject(computer), target, dtype, unroll=False)


def _key(machine: "Machine") -> bytes:
    """The next line of standard input.

    Raises:
      InputError: there is none.
    """
    sys.stdout.flush()
    line = sys.stdin.buffer.readline()
    if not line:
        raise InputError(
            f"standard input ended, and the instruction at {machine.pc} wants a key, after "
            f"{machine.steps} instructions; give it more"
        )
    return line


def _print(text: bytes) -> None:
    """What was printed, as it is."""
    sys.stdout.write(text.decode("latin-1"))
    sys.stdout.flush()


def _plain(value: object) -> object:
    """An array as numbers and lists."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
