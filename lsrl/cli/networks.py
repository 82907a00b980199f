"""`lsrl compile`, `show`, `export` and `explain`: what a program becomes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lsrl.cli.compiling import Choices, check_not_compiled, compiled
from lsrl.cli.options import (
    AutomatonLimit,
    Dtype,
    Inspectable,
    MostParameters,
    Parameters,
    ProgramName,
    Robust,
    TargetName,
    Unroll,
    new_file,
    new_picture,
    out_folder,
)
from lsrl.cli.printing import Dumps, headline, layers_table, print_table, say, status
from lsrl.cli.subject import subject_of


def compile_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            parser=new_file,
            show_default=False,
            help="Save the model to this file.",
        ),
    ] = None,
    unroll: Unroll = False,
    robust: Robust = False,
    inspectable: Inspectable = False,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also print passes, layers and times.")
    ] = False,
    dump_after: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PASS",
            show_default=False,
            help="Print the program as this pass leaves it, each time that it runs: a name that "
            "--report prints, or 'schedule'; may be repeated.",
        ),
    ] = None,
) -> None:
    """Compile a program and print layers, width, parameters and the certificate.

    Examples:
      lsrl compile majority --target linear_rnn
      lsrl compile tok2tok -t linear_rnn -p length=20 -p vocab=4 --out tok2tok.lsrl
      lsrl compile my_programs.py:detector -t gated_linear_rnn --dtype float64
      lsrl compile flip_flop -t linear_rnn -p max_length=64 --unroll
      lsrl compile dyck1 -t gru --dump-after "lower selects" --dump-after schedule
    """
    dumps = Dumps(dump_after or ())
    subject = subject_of(program, param)
    choices = Choices(dtype, unroll, robust, inspectable, most_parameters, automaton_limit)
    model = compiled(subject, target, choices, dumps)
    dumps.check(headline(model))
    if out is not None:
        model.save(out)
        say(f"saved to {out}", stderr=True)
    say(model.report() if report else model.summary())


def show_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = None,
    unroll: Unroll = False,
    robust: Robust = False,
    inspectable: Inspectable = False,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also print what each pass and stage did.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            parser=new_picture,
            show_default=False,
            help="Draw it into this file: .svg, .pdf or .png.",
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Draw all of it, where that is more than a page.")
    ] = False,
) -> None:
    """Show a program's signals, or a model's layers with the signal in every channel.

    Without a target: the signals as written, with widths and inferred bounds.
    With one: the layers and the certificate; its picture is that of the circuit.

    Examples:
      lsrl show majority
      lsrl show majority --target linear_rnn --out majority.svg
      lsrl show tok2tok.lsrl --report
    """
    subject = subject_of(program, param)
    plain = target is None and subject.model is None
    choices = Choices(dtype, unroll, robust, inspectable, most_parameters, automaton_limit)
    if plain:
        check_not_compiled(subject, choices)
    model = None if plain else compiled(subject, target, choices)
    if out is not None:
        shown = subject.program if model is None else model.circuit
        drawing = shown.draw(out, whole=whole)
        say(f"drawn into {out}{drawing.note and f': {drawing.note}'}", stderr=True)
    if model is None:
        say(f"{subject.program!r}\n{subject.program.graph.dump()}")
    else:
        say(model.report() if report else model.summary())
        print_table(layers_table(model))


ModulesOfLayers = Annotated[
    Literal["stacked", "separate"],
    typer.Option(
        "--layers",
        help="Of torch: one module of all layers, or a module each, which can be hooked.",
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        metavar="NAME",
        show_default=False,
        help="Of huggingface: the class that runs it, of those that the target has; by default "
        "its own.",
    ),
]


def export_program(
    program: ProgramName,
    out: Annotated[
        Path,
        out_folder("The folder to write; an older export in its place is replaced."),
    ],
    target: TargetName = None,
    param: Parameters = None,
    dtype: Dtype = None,
    unroll: Unroll = False,
    robust: Robust = False,
    inspectable: Inspectable = False,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            show_default=False,
            help="torch (of cells and linear layers) or huggingface (of residual targets, such as "
            "mamba); by default what the target has.",
        ),
    ] = None,
    tie_word_embeddings: Annotated[
        bool,
        typer.Option("--tie-word-embeddings", help="Of huggingface: the head is the embedding."),
    ] = False,
    headless: Annotated[
        bool,
        typer.Option(
            "--headless", help="Of huggingface: no head, also for a token in and a token out."
        ),
    ] = False,
    layers: ModulesOfLayers = "stacked",
    architecture: Architecture = None,
) -> None:
    """Write a model for another framework: torch, or Hugging Face's transformers.

    lsrl.load_torch reads the one, AutoModelForCausalLM and AutoTokenizer read the other; AutoModel,
    where the program has not one token in and one token out, and the card says how.

    Examples:
      lsrl export dyck1 -t lstm --out dyck1
      lsrl export induction_head -t mamba --out induction
      lsrl export dyck1 -t lstm --layers separate --out dyck1
      lsrl export majority.lsrl --out majority
    """
    from lsrl.backends import registry

    choices = Choices(dtype, unroll, robust, inspectable, most_parameters, automaton_limit)
    model = compiled(subject_of(program, param), target, choices)
    if format is None:
        # The first one; a target without any refuses each, and says which targets have which.
        format = next(iter(registry.find(model.target).exporters()), "torch")
    model.export(
        format,
        out,
        tie_word_embeddings=tie_word_embeddings,
        headless=headless,
        layers=layers,
        architecture=architecture,
    )
    say(f"exported to {out}, as {format}", stderr=True)


def explain_program(
    program: ProgramName,
    target: TargetName = None,
    param: Parameters = None,
    unroll: Unroll = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of the answer; float32 if not given.")
    ] = None,
    most_parameters: MostParameters = None,
    automaton_limit: AutomatonLimit = None,
) -> None:
    """Say whether a target can hold a program (yes, up to a length, or no), and why.

    Without a target: every target.

    Examples:
      lsrl explain parity
      lsrl explain flip_flop -t linear_rnn -p max_length=64 --unroll
      lsrl explain majority -p max_length=1000 --dtype bfloat16
    """
    import lsrl

    subject = subject_of(program, param)
    choices = Choices(dtype, unroll, False, False, most_parameters, automaton_limit)
    names = [target] if target is not None else [found.name for found in lsrl.targets()]
    for name in names:
        with status(f"{subject.program.name} on {name}"):
            explanation = lsrl.explain(
                subject.program,
                name,
                dtype=choices.dtype,
                legalise=choices.legalise,
                most_parameters=choices.most,
                automaton_limits=choices.limits,
            )
        say(str(explanation))
