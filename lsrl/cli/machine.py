"""`lsrl machine`: texts of machines, in plain Python or inside a network."""

import difflib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from lsrl.cli.compiling import Choices, compiled
from lsrl.cli.loops import Stdin, keys_from
from lsrl.cli.options import AsJson, Dtype, PageFile, TargetName
from lsrl.cli.printing import cell, print_table, say, say_json
from lsrl.cli.subject import Subject, parse_settings
from lsrl.errors import AssemblyError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from lsrl.machine import FleqImage, FleqStep, Image, Machine, MachineProgram, Step
    from lsrl.model import Model

    Segments: TypeAlias = Sequence[tuple[int, int]]


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


@dataclass(frozen=True)
class _Memory:
    """What was asked for of SUBLEQ's memory."""

    cells: int | None
    segments: str | None
    bits: int

    def of(self, image: "Image") -> "Segments":
        """The addresses that have cells: those asked for, else as many as the image needs.

        Raises:
          InputError: both were asked for, or what is no segment.
        """
        from lsrl.machine import segments

        if self.cells is not None and self.segments is not None:
            raise InputError("--segments: there are cells or segments; leave one of them out")
        if self.segments is not None:
            return [_segment(each) for each in self.segments.split(",")]
        if self.cells is None and max(image, default=0) >= FEW_CELLS:
            return segments(image, bits=self.bits, steps=DRY)
        return [(0, FEW_CELLS if self.cells is None else self.cells)]


def _segment(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if colon and first.strip().isdecimal() and end.strip().isdecimal():
        return int(first), int(end)
    raise InputError(
        "--segments: expected FIRST:END of each, END being the one behind the last, such as "
        f"0:6528,32256:32576, got {text!r}"
    )


machine_commands = typer.Typer(
    no_args_is_help=True, help="Programs for the computers of the library, as text."
)
# Instructions between two looks at what was printed, where they are slow and where they are fast;
# and the seconds in which they are fast.
STRETCH, LONGEST, SHORT = 512, 65_536, 0.05
# Cells of an image that they hold; a dry run of so many instructions tells which a larger one has.
FEW_CELLS, DRY = 256, 1_000_000


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
Cells = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**19,
        show_default=False,
        help="Of the memory of SUBLEQ, from address 0 on; by default 256, or if the text is longer "
        "all pages of 1,024 that it fills or, in a dry run up to the first key, uses.",
    ),
]
SegmentsText = Annotated[
    str | None,
    typer.Option(
        "--segments",
        metavar="FIRST:END,...",
        show_default=False,
        help="Instead, the addresses that have cells, each END being one behind the last.",
    ),
]
Bits = Annotated[int, typer.Option(min=4, max=20, help="Of a word of SUBLEQ.")]
Steps = Annotated[int, typer.Option(min=1, help="Instructions to carry out at most.")]
Until = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="Instructions to carry out at most; by default until it halts.",
    ),
]


@machine_commands.command("run")
def run_text(
    text: TextName,
    target: TargetName = None,
    param: Values = None,
    cells: Cells = None,
    segments: SegmentsText = None,
    bits: Bits = 16,
    steps: Until = None,
    dtype: Dtype = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show each instruction, on standard errors.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Run a text; keys are those of standard input, and what it prints goes to standard output.

    With a target it runs inside a network, which is compiled first; else in
    plain Python. What a text of the library leaves behind is said at the end.
    From a terminal it can be talked to, line by line.

    Examples:
      lsrl machine run hello
      lsrl machine run hello --target lstm --cells 64
      lsrl machine run division -p x=1000 -p y=7 --json
      echo "Hello?" | lsrl machine run echo -t linear_rnn --cells 32
      lsrl machine run eforth.dec -t linear_rnn
    """
    started = _started(text, param, target, _Memory(cells, segments, bits), dtype)
    machine, most = started.machine, sys.maxsize if steps is None else steps
    keys, shown, stretch, lost = b"", 0, STRETCH, False
    while machine.steps < most and not machine.halted:
        count, start = min(stretch, most - machine.steps), time.monotonic()
        if trace:
            for step in machine.trace(count, keys):
                say(str(step), stderr=True)
        else:
            machine.run(count, keys)
        if time.monotonic() - start < SHORT and not trace:
            stretch = min(2 * stretch, LONGEST)
        if not json:
            _print(machine.text[shown:])
            shown = len(machine.text)
        if machine.lost is not None and not lost:
            lost = True
            say(f"{started.name}: {_lost(machine.lost)}", stderr=True)
        keys = _key(machine) if machine.waiting else b""
    if json:
        say_json([started.left()])
        return
    ends = "halted" if machine.halted else "still going (--steps)"
    say(f"{started.name}: {ends}, after {machine.steps} instructions", stderr=True)
    for label, value in started.results().items():
        say(f"{label} = {value}")


@machine_commands.command("trace")
def trace_text(
    text: TextName,
    target: TargetName = None,
    param: Values = None,
    cells: Cells = None,
    segments: SegmentsText = None,
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
    started = _started(text, param, target, _Memory(cells, segments, bits), dtype)
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
    cells: Cells = None,
    segments: SegmentsText = None,
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
    model = _compiled(image, target, _Memory(cells, segments, bits), dtype)
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
    memory: _Memory,
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
            machine = Session(_compiled(image, target, memory, dtype), image)
        elif dtype is not None:
            raise InputError(f"{name}: --dtype: nothing is compiled without a target; give one")
        elif isinstance(image, Image):
            machine = Subleq(image, segments=memory.of(image), bits=memory.bits)
        else:
            machine = Fleq(image)
    except AssemblyError as error:
        raise InputError(f"{text}:{error.line}: {error.message}") from error
    return _Started(name, machine, image, program, parameters)


def _compiled(
    image: "Image | FleqImage", target: str | None, memory: _Memory, dtype: str | None
) -> "Model":
    """A network that takes the image."""
    import lsrl
    from lsrl.machine import Image

    if isinstance(image, Image):
        computer = lsrl.programs.subleq(segments=memory.of(image), bits=memory.bits, io=True)
    else:  # as large as the text, which has no holes
        shape = image.shape or (1, 1)
        computer = lsrl.programs.fleq(cells=len(image.cells), lines=len(image.lines), shape=shape)
    return compiled(Subject(computer), target, Choices(dtype))


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


def _lost(address: int) -> str:
    """That memory is too small."""
    return (
        f"what was written to address {address}, which has no cell, was lost; give it more --cells "
        "or --segments"
    )


def _print(text: bytes) -> None:
    """What was printed, as it is."""
    sys.stdout.write(text.decode("latin-1"))
    sys.stdout.flush()


def _plain(value: object) -> object:
    """An array as numbers and lists."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
