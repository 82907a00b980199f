"""The command line: `lsrl --help`.

What the commands need beyond the language loads inside them, so that `lsrl --help` is quick.
"""

import ast
import difflib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from typer.core import TyperGroup

from lsrl import cache
from lsrl.errors import InputError, LsrlError
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token, check_inputs
from lsrl.language.program import Program
from lsrl.suite.commands import suite

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.programs import Entry
    from lsrl.verification import Comparison, Drawn, Sampler

# Sequences that `verify` runs at once, of a multiple of so many tokens.
CHUNK, LENGTHS = 8, 16
DATA_FILES = (".npy", ".json", ".csv")


class _Commands(TyperGroup):
    """Prints every error of ours as one message, without a traceback; exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (LsrlError, OSError) as error:
            _say(f"error: {error}", style="bold red", stderr=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="lsrl",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

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


@app.callback()
def _lsrl() -> None:
    """Compile short programs over linear-state signals into exact recurrent networks.

    A first tour:
      lsrl programs                          what the library has
      lsrl run majority "1 0 1 1"            the program itself, token by token
      lsrl compile majority -t linear_rnn    layers, width, certificate
      lsrl show tok2tok -t linear_rnn        every channel of every layer by name
      lsrl verify dyck1 -t linear_rnn        the network against the program
      lsrl view tok2tok -t gru -o page.html  every signal at every token, to look at

    Errors exit with code 2, a difference that verify finds with code 1.
    """


@app.command("programs")
def list_programs() -> None:
    """List the library of programs, with what each shows and its parameters.

    Example: lsrl programs
    """
    import lsrl

    table = Table("program", "shows", "parameters", show_lines=True)
    for name, entry in lsrl.programs.catalogue().items():
        table.add_row(name, _plain(entry.shows), _plain(", ".join(_settings(entry.build))))
    Console().print(table)


@app.command("targets")
def list_targets() -> None:
    """List the targets, with what each of them can hold.

    Example: lsrl targets
    """
    import lsrl

    table = Table("target", "cell", "holds", show_lines=True)
    for target in lsrl.targets():
        holds = "\n".join(f"{feature}: {how}" for feature, how in target.supports.items())
        table.add_row(target.name, _plain(target.cell), _plain(holds))
    Console().print(table)


@app.command("compile")
def compile_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = "float32",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", show_default=False, help="Save the model to this file."),
    ] = None,
    unroll: Unroll = False,
    robust: Annotated[
        bool, typer.Option("--robust", help="Bear more noise, for a few layers more.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also print passes, layers and times.")
    ] = False,
) -> None:
    """Compile a program and print layers, width, parameters and the certificate.

    Examples:
      lsrl compile majority --target linear_rnn
      lsrl compile tok2tok -t linear_rnn -p length=20 -p vocab=4 --out tok2tok.lsrl
      lsrl compile my_programs.py:detector -t gated_linear_rnn --dtype float64
      lsrl compile flip_flop -t linear_rnn -p max_length=64 --unroll
    """
    model = _compiled(_subject(program, param), target, dtype, unroll, robust=robust)
    if out is not None:
        model.save(out)
        _say(f"saved to {out}", stderr=True)
    _say(model.report() if report else model.summary())


@app.command("run")
def run_program(
    program: ProgramName,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="One an input of the program: symbols such as '1 0 1 1', vectors such as "
            "'0.5 1; 0.25 2' (a token ends at a semicolon), or a .npy, .json or .csv file.",
        ),
    ],
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = "float32",
    unroll: Unroll = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check the program's promises on these inputs.")
    ] = False,
) -> None:
    """Run a program or a saved model, and print its outputs token by token.

    Without a target a program runs in the reference evaluator; with one it is
    compiled first. Put -- before an input that begins with a minus sign. In a
    .csv file a row is a token; where the program reads symbols and the file has
    several columns, a row is a sequence.

    Examples:
      lsrl run majority "1 0 1 1"
      lsrl run majority "1 0 1 1" --target linear_rnn
      lsrl run tok2tok.lsrl prompts.npy
      lsrl run binary_adder "1 1 0" "1 0 0"
    """
    subject = _subject(program, param)
    kinds = subject.program.inputs
    arrays = _read_inputs(inputs, subject.program)
    checked, batched = check_inputs(kinds, arrays, subject.program.max_length)
    if target is None and subject.model is None:
        outputs = subject.program.run(*arrays)
    else:
        outputs = _compiled(subject, target, dtype, unroll).run(*arrays, check=check)
    sequences = outputs if batched else outputs[None]
    for number, output in enumerate(sequences):
        if batched:
            _say(f"sequence {number}")
        columns = {"token": np.arange(len(output))[:, None]}
        columns |= {name: array[number] for name, array in zip(kinds, checked, strict=True)}
        _say(_columns({**columns, "output": output}))


@app.command("show")
def show_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = "float32",
    unroll: Unroll = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also print what each pass and stage did.")
    ] = False,
    png: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Draw the graph, level by level, into this file."),
    ] = None,
) -> None:
    """Show a program's signals, or a model's layers with the signal in every channel.

    Without a target: the signals as written, with widths and inferred bounds.
    With one: the layers and the certificate.

    Examples:
      lsrl show majority
      lsrl show majority --target linear_rnn --png majority.png
      lsrl show tok2tok.lsrl --report
    """
    subject = _subject(program, param)
    if target is None and subject.model is None:
        graph, layers, title = subject.program.graph, None, subject.program.name
        _say(f"{subject.program!r}\n{graph.dump()}")
    else:
        model = _compiled(subject, target, dtype, unroll)
        graph, layers = model.schedule.graph, model.schedule.made_in()
        title = f"{model.program.name} on {model.target}"
        _say(model.report() if report else model.summary())
        Console().print(_layers_table(model))
    if png is not None:
        from lsrl.drawing import draw

        draw(graph, png, title=title, layers=layers)
        _say(f"drawn into {png}", stderr=True)


@app.command("view")
def view_program(
    program: ProgramName,
    out: Annotated[
        Path, typer.Option("--out", "-o", show_default=False, help="The HTML file to write.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--inputs",
            "-i",
            metavar="INPUT",
            show_default=False,
            help="As for 'lsrl run'; once an input of the program. By default a few random "
            "sequences that keep the program's promises.",
        ),
    ] = None,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = "float32",
    unroll: Unroll = False,
    inspectable: Annotated[
        bool,
        typer.Option(
            "--inspectable",
            help="Compile a deeper network in which signals are read from their channels only.",
        ),
    ] = False,
) -> None:
    """Write a page that shows every signal of a model, layer by layer and token by token.

    One HTML file, which needs no network: open it in a browser. Click a signal
    to see its path, its weights and its line; ? on the page lists the keys.

    Examples:
      lsrl view majority -t linear_rnn --inputs "1 0 1 1" --out majority.html
      lsrl view tok2tok.lsrl --inputs prompts.npy --out tok2tok.html
      lsrl view induction_head -t mamba --inspectable -o page.html
    """
    from lsrl.interpret import view

    subject = _subject(program, param)
    arrays = _read_inputs(inputs, subject.program) if inputs else _example_inputs(subject)
    view(_compiled(subject, target, dtype, unroll, inspectable=inspectable), *arrays, path=out)
    _say(f"written to {out}", stderr=True)


@app.command("verify")
def verify_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = "float32",
    unroll: Unroll = False,
    sequences: Annotated[int, typer.Option(min=1, help="How many sequences to run.")] = 64,
    length: Annotated[
        int, typer.Option(min=1, help="Tokens a sequence, at most the program's max_length.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            show_default=False,
            help="A function that draws inputs which keep the program's promises: from (numpy's "
            "random generator, sequences, length) to one array an input, (sequences, length, ...).",
        ),
    ] = None,
) -> None:
    """Compare a compiled network with the reference evaluator, at every token of many sequences.

    Random inputs and inputs at the ends of the ranges go through the network as
    whole sequences and step by step; programs of the library bring their own,
    which honour their promises. Where random inputs break a promise, others are
    looked for, and what is ahead of a broken promise is compared all the same.
    Outputs must be equal where that is proven, else within the proven bound.
    Exit code 1 on a difference, and where next to nothing was tested: no
    sequence is legal beyond its first token, fewer than an eighth of the tokens
    are, or promises cut inputs short and no output ever changed.

    Examples:
      lsrl verify dyck1 --target linear_rnn
      lsrl verify tok2tok.lsrl --sequences 500 --length 200
      lsrl verify histogram -t linear_rnn --dtype bfloat16
      lsrl verify mine.py:memory -t gru --sampler mine.py:prompts
    """
    from lsrl.verification import compare

    subject = _subject(program, param)
    draw = None if sampler is None else _sampler(sampler)
    model = _compiled(subject, target, dtype, unroll)
    compared: Comparison | None = None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{model.program.name} on {model.target}", total=sequences)
        for start in range(0, sequences, CHUNK):
            count = min(CHUNK, sequences - start)
            part = compare(model, inputs=_drawn(subject, start, count, length, seed, draw))
            compared = part if compared is None else compared.joined(part)
            progress.update(task, completed=start + count)
            if compared.difference is not None:
                break
    if compared is not None:
        _tell(model, compared)


def _tell(model: "Model", compared: "Comparison") -> None:
    """Print what was compared, and exit with code 1 if that is a difference or next to nothing."""
    from lsrl.proof import NOT_COMPILED, names_text

    about = str(compared)
    if model.changed_parameters:
        names = names_text(model.changed_parameters)
        about += f"\nweights      {NOT_COMPILED} ({names}); held to what is proven of those"
    if compared.difference is not None:
        _say(f"{_headline(model)}: differs\n{compared.difference}", style="bold red")
        _say(about)
        raise typer.Exit(1)
    if compared.shortfall is not None:
        _say(
            f"{_headline(model)}: next to nothing was tested: {compared.shortfall}; draw inputs "
            "that keep the promises: --sampler FILE.py:NAME",
            style="bold red",
        )
        _say(about)
        raise typer.Exit(1)
    allowed = model.allowed_error
    if allowed == 0:
        found = "equal"
    elif np.isfinite(allowed):
        found = f"within the error bound {allowed:.3g} (greatest error {compared.error:.3g})"
    else:
        found = f"no error bound is proven (greatest error {compared.error:.3g})"
    legal = compared.kept + compared.redrawn
    which = f"of {legal} sequences"
    if legal < compared.sequences:
        which += f", and ahead of a broken promise in {compared.cut} more"
    _say(f"{_headline(model)}: {found} at every token {which}, in both modes\n{about}")


@app.command("explain")
def explain_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    unroll: Unroll = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of the answer; float32 if not given.")
    ] = None,
) -> None:
    """Say whether a target can hold a program (yes, up to a length, or no), and why.

    Without a target: every target.

    Examples:
      lsrl explain parity
      lsrl explain flip_flop -t linear_rnn -p max_length=64 --unroll
      lsrl explain majority -p max_length=1000 --dtype bfloat16
    """
    import lsrl

    subject = _subject(program, param)
    names = [target] if target is not None else [found.name for found in lsrl.targets()]
    for name in names:
        with Console(stderr=True).status(f"{subject.program.name} on {name}"):
            explanation = lsrl.explain(
                subject.program, name, dtype=dtype, legalise=_legalise(unroll)
            )
        _say(str(explanation))


bench = typer.Typer(no_args_is_help=True, help="Experiments that are too long for a test.")
app.add_typer(bench, name="bench")


@bench.callback()
def _bench() -> None:
    """Experiments that are too long for a test."""


@bench.command("stability")
def bench_stability(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of tables and figures.")] = Path(
        "stability"
    ),
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's experiment instead of the sweep.")
    ] = False,
    factors: Annotated[
        bool, typer.Option("--factors", help="The primary experiment instead of the sweep.")
    ] = False,
    states: Annotated[
        bool, typer.Option("--states", help="Affine against self-correcting states instead.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A small sweep, for trying out.")] = False,
    memory: Annotated[
        float, typer.Option(min=0.01, help="GiB that the copies at work may take.")
    ] = 1.0,
    program: Annotated[
        list[str] | None,
        typer.Option("--program", show_default=False, help="Of the sweep; may be repeated."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", show_default=False, help="Of the sweep; may be repeated."),
    ] = None,
) -> None:
    """Measure how much noise compiled models bear.

    Finished tasks are kept in the folder: run the same command again after a
    break, and it goes on where it stopped. Without options: every program of
    the sweep on every target under every kind of perturbation, minutes long.

    Examples:
      lsrl bench stability --quick
      lsrl bench stability --paper --out results
      lsrl bench stability --program tok2tok -t linear_rnn -t mamba --memory 4
    """
    from lsrl.stability import report

    if sum((paper, factors, states, quick)) > 1:
        raise InputError(
            "bench stability: --paper, --factors, --states and --quick exclude each other"
        )
    size = int(memory * 2**30)
    out.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if paper:
            text = report.run_paper(out, memory=size, progress=progress)
        elif factors:
            text = report.run_factors(out, memory=size, progress=progress)
        elif states:
            text = report.run_states(out, memory=size, progress=progress)
        else:
            plan = report.chosen_plan(program, target, quick=quick)
            text = report.run_sweep(plan, out, memory=size, progress=progress)
    _say(text)


app.add_typer(suite, name="suite")


def main() -> None:
    """Run the command line."""
    # Each command is a process of its own and would compile its loops anew. Set before jax loads.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.directory() / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    app()


@dataclass(frozen=True)
class _Subject:
    """What a command is about."""

    program: Program
    model: "Model | None" = None  # a saved one
    entry: "Entry | None" = None  # its row of the library
    parameters: Mapping[str, Any] | None = None


def _subject(name: str, settings: list[str] | None) -> _Subject:
    """The program or model that a name stands for.

    Raises:
      InputError: nothing of that name, or parameters that it does not have.
    """
    import lsrl

    parameters = dict(_parse_setting(setting) for setting in settings or [])
    file, colon, inner = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _Subject(_from_file(Path(file), inner, parameters))
    if name.endswith(".py"):
        return _Subject(_from_file(Path(name), None, parameters))
    if name.endswith(".lsrl") or os.path.isfile(name):
        _check_settings(name, {}, parameters)
        model = lsrl.load(name)
        return _Subject(model.program, model, *_of_library(model.program))
    catalogue = lsrl.programs.catalogue()
    if name not in catalogue:
        near = difflib.get_close_matches(name, catalogue, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see 'lsrl programs'"
        raise InputError(
            f"unknown program {name!r}: expected a name of the library, FILE.py:NAME or a saved "
            f"model; {hint}"
        )
    entry = catalogue[name]
    _check_settings(name, inspect.signature(entry.build).parameters, parameters)
    return _Subject(entry.program(**parameters), entry=entry, parameters=parameters)


def _of_library(program: Program) -> "tuple[Entry | None, Mapping[str, Any] | None]":
    """The row of the library and the parameters that a program was built with, if it is known."""
    import lsrl
    from lsrl.storage import program_content

    entry = lsrl.programs.catalogue().get(program.name)
    if entry is None:
        return None, None
    for parameters in entry.parameters:
        built = entry.program(**parameters)
        if program_content(built, lines=False) == program_content(program, lines=False):
            return entry, parameters
    return None, None


def _module_of(path: Path) -> Any:
    """A user's file, executed.

    Raises:
      InputError: it can't be.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except LsrlError:
        raise
    except Exception as error:  # whatever the user's code does
        raise InputError(f"{path}: {type(error).__name__} while it was read: {error}") from error
    return module


def _sampler(name: str) -> "Sampler":
    """The function of a user's file that draws inputs.

    Raises:
      InputError: there is none.
    """
    file, _, inner = name.rpartition(":")
    if not file.endswith(".py"):
        raise InputError(f"--sampler {name!r}: expected FILE.py:NAME, such as mine.py:prompts")
    found = vars(_module_of(Path(file))).get(inner)
    if not callable(found):
        raise InputError(
            f"--sampler {name}: expected a function of (random, sequences, length), got "
            f"{type(found).__name__}"
        )

    def draw(random: np.random.Generator, sequences: int, length: int) -> Any:
        try:
            return found(random, sequences, length)
        except LsrlError:
            raise
        except Exception as error:  # whatever the user's code does
            raise InputError(f"--sampler {name}: {type(error).__name__}: {error}") from error

    return draw


def _from_file(path: Path, name: str | None, parameters: dict[str, Any]) -> Program:
    """A program of a user's file, or what a function of it returns.

    Raises:
      InputError: the file can't be executed, or has no such program.
    """
    module = _module_of(path)
    programs = {key: found for key, found in vars(module).items() if isinstance(found, Program)}
    if name is None:
        if len(programs) != 1:
            raise InputError(
                f"{path}: name one of its programs: "
                + (", ".join(f"{path}:{key}" for key in programs) or "it has none")
            )
        (name,) = programs
    found = vars(module).get(name)
    if isinstance(found, Program):
        _check_settings(name, {}, parameters)
        return found
    if not callable(found):
        raise InputError(
            f"{path}: expected a program or a function that returns one, named {name!r}, got "
            f"{type(found).__name__}; it has {', '.join(programs) or 'no programs'}"
        )
    _check_settings(name, inspect.signature(found).parameters, parameters)
    made = found(**parameters)
    if not isinstance(made, Program):
        raise InputError(
            f"{path}: {name} returned a {type(made).__name__}, expected a program, made by "
            "@lsrl.program"
        )
    return made


def _parse_setting(text: str) -> tuple[str, Any]:
    """A name and its value: a Python or JSON literal, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"parameter {text!r}: expected NAME=VALUE, such as length=3")
    for parse in (json.loads, ast.literal_eval):
        try:
            return name, parse(value)
        except (ValueError, SyntaxError):
            continue
    return name, value


def _check_settings(name: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(
            f"{name}: no parameter {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    required = inspect.Parameter.empty
    missing = [
        key
        for key, parameter in known.items()
        if parameter.default is required
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in given
    ]
    if missing:
        raise InputError(f"{name}: needs a value for {', '.join(missing)}: -p {missing[0]}=...")


def _settings(build: Any) -> list[str]:
    """The parameters of a function with their defaults, as text."""
    return [
        f"{parameter.name}={parameter.default!r}"
        for parameter in inspect.signature(build).parameters.values()
    ]


def _legalise(unroll: bool) -> Literal["native", "unroll"]:
    return "unroll" if unroll else "native"


def _compiled(
    subject: _Subject,
    target: str | None,
    dtype: str,
    unroll: bool,
    robust: bool = False,
    inspectable: bool = False,
) -> "Model":
    """The saved model, or the program compiled for the target."""
    import lsrl

    if subject.model is not None and target is None:
        return subject.model
    if target is None:
        names = ", ".join(found.name for found in lsrl.targets())
        raise InputError(f"{subject.program.name}: give a target: --target, one of {names}")
    with Console(stderr=True).status(f"compiling {subject.program.name} for {target}"):
        return lsrl.compile(
            subject.program,
            target,
            dtype=dtype,
            legalise=_legalise(unroll),
            robust=robust,
            inspectable=inspectable,
        )


def _read_inputs(texts: Sequence[str], program: Program) -> list[Array]:
    """All inputs of a program, from the command line or files.

    Raises:
      InputError: another number of inputs than the program has, or one that can't be read.
    """
    kinds = program.inputs
    if len(texts) != len(kinds):
        raise InputError(
            f"{program.name}: expected {len(kinds)} input(s) ({', '.join(kinds)}), got "
            f'{len(texts)}; put each into quotes: "1 0 1"'
        )
    return [
        _read_input(text, name, kind)
        for text, (name, kind) in zip(texts, kinds.items(), strict=True)
    ]


def _read_input(text: str, name: str, kind: InputType) -> Array:
    """One input of a program, from the command line or a file.

    Raises:
      InputError: no numbers, or a file that can't be read as an array.
    """
    suffix = Path(text).suffix.lower()
    if suffix not in DATA_FILES:
        return _parse_input(text, name, kind)
    try:
        if suffix == ".npy":
            array = np.load(text, allow_pickle=False)
        elif suffix == ".json":
            array = np.asarray(json.loads(Path(text).read_text()))
        else:
            array = _read_csv(text, kind)
    except FileNotFoundError as error:
        raise InputError(f"input {name!r}: {text}: no such file") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"input {name!r}: {text}: not an array of numbers ({error})") from error
    return np.asarray(array)


def _read_csv(path: str, kind: InputType) -> Array:
    values = np.loadtxt(path, delimiter=",", ndmin=2)
    if not isinstance(kind, Token):
        return values
    whole = values.astype(np.int64)
    symbols = whole if (whole == values).all() else values
    return symbols.ravel() if 1 in symbols.shape else symbols


def _parse_input(text: str, name: str, kind: InputType) -> Array:
    rows = [row.replace(",", " ").split() for row in text.split(";") if row.strip()]
    if isinstance(kind, Token) or (kind.width == 1 and len(rows) == 1):
        rows = [[entry] for row in rows for entry in row]
    if len({len(row) for row in rows}) > 1:
        raise InputError(
            f"input {name!r}: expected {kind.width} numbers a token, got "
            f"{[len(row) for row in rows]}; a semicolon ends a token"
        )
    number = int if isinstance(kind, Token) else float
    values = []
    for token, row in enumerate(rows):
        try:
            values.append([number(entry) for entry in row])
        except ValueError:
            wanted = f"symbols from 0 to {kind.size - 1}" if isinstance(kind, Token) else "numbers"
            raise InputError(
                f"input {name!r}: expected {wanted}, got {' '.join(row)!r} at token {token}"
            ) from None
    array = np.array(values, dtype=np.int64 if isinstance(kind, Token) else np.float64)
    return array[:, 0] if isinstance(kind, Token) and len(array) else array


def _drawn(
    subject: _Subject,
    start: int,
    count: int,
    length: int,
    seed: int,
    sampler: "Sampler | None" = None,
) -> "Drawn":
    """The next sequences of those that a command runs: the user's, the library's, or random ones.

    The first ones are at the ends of the ranges.
    """
    from lsrl.verification import Drawn, draw_inputs

    entry, program = subject.entry, subject.program
    if entry is None or sampler is not None:
        return draw_inputs(
            program, count, length, seed + start, sampler=sampler, extremes=start == 0
        )
    parameters = subject.parameters or {}
    random = np.random.default_rng([seed, start])
    extremes = entry.extremes(**parameters)[start : start + count]
    sequences = [tuple(array[:length] for array in inputs) for inputs in extremes]
    while len(sequences) < count:
        sequences.append(entry.sample(random, length, **parameters))
    lengths = np.array([len(inputs[0]) for inputs in sequences])
    # Few lengths, so that little is compiled; what fills them up is not compared.
    longest = -(-int(lengths.max()) // LENGTHS) * LENGTHS
    longest = min(longest, program.max_length or longest)
    filled = [
        np.stack(
            [np.pad(a, [(0, longest - len(a)), *[(0, 0)] * (a.ndim - 1)], "edge") for a in given]
        )
        for given in zip(*sequences, strict=True)
    ]
    return Drawn(filled, lengths, np.zeros(count, bool))


def _example_inputs(subject: _Subject) -> list[Array]:
    """A few random sequences of one length."""
    from lsrl.ir.evaluate import evaluate_prefixes

    # Those at the ends of the ranges, which come first, show little.
    drawn = _drawn(subject, CHUNK, CHUNK, 32, 0)
    legal, _ = evaluate_prefixes(subject.program.graph, drawn.inputs)
    legal = np.minimum(legal, drawn.lengths)
    if not legal.any():
        raise InputError(
            f"{subject.program.name}: every random sequence breaks a promise of the program; give "
            "some of your own: --inputs"
        )
    rows = np.flatnonzero(legal == legal.max())[-4:]
    return [array[rows, : legal.max()] for array in drawn.inputs]


def _headline(model: "Model") -> str:
    return f"{model.program.name} on {model.target}, {model.dtype}"


def _layers_table(model: "Model") -> Table:
    table = Table("layer", "width", "kind", "channels", title=None)
    contents = zip(model.schedule.layers, model.schedule.contents(), strict=True)
    for number, (layer, groups) in enumerate(contents, start=1):
        for position, (kind, names) in enumerate(groups):
            first = position == 0
            table.add_row(
                str(number) if first else "",
                str(layer.width) if first else "",
                kind,
                _plain(", ".join(names)),
                end_section=position == len(groups) - 1,
            )
    return table


def _columns(columns: Mapping[str, Array]) -> str:
    """Arrays (time,) or (time, width) side by side, one line a token."""
    texts = []
    for name, array in columns.items():
        rows = array.reshape(len(array), -1).tolist()
        cells = [name, *(" ".join(f"{float(value):.7g}" for value in row) for row in rows)]
        width = max(map(len, cells))
        texts.append([cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(cells) for cells in zip(*texts, strict=True))


def _plain(text: str) -> Any:
    """Text for a table, whose brackets are no markup."""
    from rich.text import Text

    return Text(text)


def _say(text: str, style: str | None = None, stderr: bool = False) -> None:
    """Print text as it is: brackets are no markup, and lines are not broken."""
    Console(stderr=stderr).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
