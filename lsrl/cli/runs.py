"""`lsrl run`, `lsrl view` and `lsrl verify`: what programs and networks answer."""

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from lsrl.cli.compiling import Choices, check_not_compiled, compiled
from lsrl.cli.inputs import CHUNK, draw_for, example_inputs, legal_lengths, read_inputs
from lsrl.cli.loops import Stdin, Steps, keys_from, print_loop
from lsrl.cli.options import (
    AutomatonLimit,
    Dtype,
    Inspectable,
    MostParameters,
    PageFile,
    Parameters,
    ProgramName,
    Robust,
    TargetName,
    Unroll,
)
from lsrl.cli.printing import columns_text, headline, progress, say
from lsrl.cli.subject import subject_of
from lsrl.cli.user_code import sampler_of
from lsrl.ir.types import check_inputs

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.testing.verification import Comparison


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
    dtype: Dtype = None,
    unroll: Unroll = False,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the program's promises on these inputs.")
    ] = False,
    steps: Steps = None,
    stdin: Stdin = None,
) -> None:
    """Run a program or a saved model, and print its outputs token by token.

    Without a target a program runs in the reference evaluator; with one it is
    compiled first. Put -- before an input that begins with a minus sign. In a
    .csv file a row is a token; where the program reads symbols and the file has
    several columns, a row is a sequence. With --steps outputs are the next
    input, as the program's feedback says: the inputs are the prompt of a loop.

    Examples:
      lsrl run majority "1 0 1 1"
      lsrl run countdown.py:countdown 7 --steps 100 -t lstm
      lsrl run majority "1 0 1 1" --target linear_rnn
      lsrl run tok2tok.lsrl prompts.npy
      lsrl run binary_adder "1 1 0" "1 0 0"
    """
    subject = subject_of(program, param)
    kinds = subject.program.inputs
    arrays = read_inputs(inputs, subject.program)
    checked, batched = check_inputs(kinds, arrays, subject.program.max_length)
    keys = keys_from(stdin, steps)
    choices = Choices(dtype, unroll, False, False, most_parameters, automaton_limit)
    if target is None and subject.model is None:
        check_not_compiled(subject, choices)
        if steps is not None:
            return print_loop(subject.program.loop(*arrays, steps=steps, stdin=keys))
        outputs = subject.program.run(*arrays)
    else:
        model = compiled(subject, target, choices)
        if steps is not None:
            return print_loop(model.loop(*arrays, steps=steps, stdin=keys, check=check))
        outputs = model.run(*arrays, check=check)
    sequences = outputs if batched else outputs[None]
    for number, output in enumerate(sequences):
        if batched:
            say(f"sequence {number}")
        columns = {"token": np.arange(len(output))[:, None]}
        columns |= {name: array[number] for name, array in zip(kinds, checked, strict=True)}
        say(columns_text({**columns, "output": output}))


def view_program(
    program: ProgramName,
    out: PageFile,
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
    dtype: Dtype = None,
    unroll: Unroll = False,
    inspectable: Inspectable = False,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
    source: Annotated[
        bool,
        typer.Option(
            "--source",
            help="Of a saved model that you trust, also show the lines of the Python files that it "
            "names, as this machine has them.",
        ),
    ] = False,
    steps: Steps = None,
    stdin: Stdin = None,
) -> None:
    """Write a page that shows every signal of a model, layer by layer and token by token.

    One HTML file, which needs no network: open it in a browser. Click a signal
    to see its path, its weights and its line; ? on the page lists the keys.
    With --steps the inputs are the prompt of a loop, and the page shows it all.

    Examples:
      lsrl view majority -t linear_rnn --inputs "1 0 1 1" --out majority.html
      lsrl view tok2tok.lsrl --inputs prompts.npy --out tok2tok.html
      lsrl view induction_head -t mamba --inspectable -o page.html
    """
    from lsrl.interpret import view

    subject = subject_of(program, param)
    arrays = read_inputs(inputs, subject.program) if inputs else example_inputs(subject)
    choices = Choices(dtype, unroll, False, inspectable, most_parameters, automaton_limit)
    model = compiled(subject, target, choices)
    keys = keys_from(stdin, steps)
    shown = arrays if steps is None else [model.loop(*arrays, steps=steps, stdin=keys)]
    view(model, *shown, path=out, source=source)
    say(f"written to {out}", stderr=True)


def verify_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = None,
    unroll: Unroll = False,
    robust: Robust = False,
    inspectable: Inspectable = False,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
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
    which honour their promises. Programs that feed outputs back also loop
    behind the beginnings of some of these. Where random inputs break a promise, others are
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
    from lsrl.testing.loops import MACHINES, compare_loops
    from lsrl.testing.verification import compare

    subject = subject_of(program, param)
    draw = None if sampler is None else sampler_of(sampler)
    choices = Choices(dtype, unroll, robust, inspectable, most_parameters, automaton_limit)
    model = compiled(subject, target, choices)
    compared: Comparison | None = None
    with progress() as bars:
        task = bars.add_task(f"{model.program.name} on {model.target}", total=sequences)
        for start in range(0, sequences, CHUNK):
            count = min(CHUNK, sequences - start)
            part = compare(model, inputs=draw_for(subject, start, count, length, seed, draw))
            compared = part if compared is None else compared.joined(part)
            bars.update(task, completed=start + count)
            if compared.difference is not None:
                break
    if compared is not None:
        _tell(model, compared)
    if model.program.feedback is not None:
        drawn = draw_for(subject, 0, min(MACHINES, sequences), length, seed, draw)
        loops = compare_loops(model, drawn.inputs, legal_lengths(model.program, drawn), length)
        say(f"{loops}")
        if loops.difference is not None:
            say(f"{headline(model)}: differs\n{loops.difference}", style="bold red")
            raise typer.Exit(1)


def _tell(model: "Model", compared: "Comparison") -> None:
    """Print what was compared, and exit with code 1 if that is a difference or next to nothing."""
    from lsrl.proof import NOT_COMPILED, names_text

    about = str(compared)
    if model.changed_parameters:
        names = names_text(model.changed_parameters)
        about += f"\nweights      {NOT_COMPILED} ({names}); held to what is proven of those"
    if compared.difference is not None:
        say(f"{headline(model)}: differs\n{compared.difference}", style="bold red")
        say(about)
        raise typer.Exit(1)
    if compared.shortfall is not None:
        say(
            f"{headline(model)}: next to nothing was tested: {compared.shortfall}; draw inputs "
            "that keep the promises: --sampler FILE.py:NAME",
            style="bold red",
        )
        say(about)
        raise typer.Exit(1)
    allowed = model.allowed_error
    if model.reference_dtype is not None:
        found = f"equal, bit for bit, to the program run in {model.reference_dtype},"
    elif allowed == 0:
        found = "equal"
    elif np.isfinite(allowed):
        found = f"within the error bound {allowed:.3g} (greatest error {compared.error:.3g})"
    else:
        found = f"no error bound is proven (greatest error {compared.error:.3g})"
    legal = compared.kept + compared.redrawn
    which = f"of {legal} sequences"
    if legal < compared.sequences:
        which += f", and ahead of a broken promise in {compared.cut} more"
    say(f"{headline(model)}: {found} at every token {which}, in both modes\n{about}")
