"""A program with its prompt folded in: what is left of it behind the prompt."""

from collections.abc import Mapping

import numpy as np

from lsrl import arguments
from lsrl.arguments import near, shown
from lsrl.errors import InputError
from lsrl.ir.types import InputType, Token, Vector, check_inputs
from lsrl.language.program import Program
from lsrl.language.trace import UNDECLARED_LENGTH
from lsrl.passes.prompt import after_prompt


def specialise(
    program: Program, *prompt: object, inputs: Mapping[str, InputType] | None = None
) -> Program:
    """Fold a prompt into a program: the result starts where the prompt ends.

    Of the inputs that may follow, `specialise(p, prompt)` gives on x what p gives on the prompt and
    x, at every token of x. States start at what the prompt leaves, by the reference evaluator. What
    no later token can change becomes a constant, and what only tells the time a clock: so of a
    machine that its prompt programs only that program is left to compile.

    A latch that took its value is constant, by its own promise. A hold is, where its condition is
    proven to be 0 from there on; that it is, `inputs` can say: with no tokens but those of data to
    come, what commands would do is gone. Where nothing can be folded, the result equals all the
    same. An input that breaks a promise of the program means nothing behind the prompt either, and
    the result may not notice.

    Args:
      program: any; it is not changed.
      *prompt: one array an input, as for `Program.run`, of one sequence: tokens (time,), vectors
        (time, width). It keeps the program's promises.
      inputs: narrower types of the inputs that follow, by name: a Token of fewer symbols, the first
        ones; a Vector within the declared bounds. By default as declared.

    Returns:
      A program of the remaining length and of the same output; its signals keep their names. A
      loop's `memory` is what is written from there on.

    Raises:
      InputError: the prompt is not what the program reads, or leaves no token; a type is not
        within the declared one.
      PromiseError: the prompt breaks a promise; names the signal and token.
      InexactError: a state holds a number that no float64 is.
      ProgramError: what is fed back in a loop is not proven to lie in a narrower type.

    Example:
      lsrl.specialise(lsrl.programs.function_table(3), [2, 0, 1]) maps 0, 1, 2 to 2, 0, 1.
    """
    arguments.instance("specialise", program, Program, "lsrl.program")
    arrays, batched = check_inputs(program.inputs, prompt, program.max_length)
    if batched:
        raise InputError("specialise: expected one sequence of each input, got a batch of them")
    tokens = arrays[0].shape[1]
    longest = None if program.max_length is None else program.max_length - tokens
    if longest == 0:
        raise InputError(
            f"specialise: the prompt has all {tokens} tokens that {program.name} may read; declare "
            "a larger max_length"
        )
    types = _narrowed(program, inputs)
    numbers = {op.index: types[op.label] for op in program.graph.inputs.values()}
    left = UNDECLARED_LENGTH if longest is None else longest
    graph = after_prompt(program.graph, arrays, numbers, left)
    said = f"{program.name} behind a prompt of {tokens} token{'s' * (tokens > 1)}."
    return Program(
        f"{program.name}_specialised", graph, longest, program.output_type,
        f"{said}\n\n{program.documentation}".strip(),
        feedback=program.feedback, recorded=program.recorded,
    )  # fmt: skip


def _narrowed(program: Program, inputs: object) -> dict[str, InputType]:
    """The types of what follows, by name."""
    given = {} if inputs is None else inputs
    if not isinstance(given, Mapping):
        raise InputError(f"specialise: inputs are types by name, got {shown(inputs)}")
    types = dict(program.inputs)
    for name, kind in given.items():
        if name not in types:
            raise InputError(f"specialise: there is no input {name!r}{near(str(name), types)}")
        types[name] = _within(name, types[name], kind)
    return types


def _within(name: str, declared: InputType, kind: object) -> InputType:
    """A type within the declared one; else raise InputError."""
    if isinstance(declared, Token) and isinstance(kind, Token) and kind.size <= declared.size:
        known = declared.names if kind.names is None else kind.names
        return Token(kind.size, None if known is None else known[: kind.size])
    if isinstance(declared, Vector) and isinstance(kind, Vector) and kind.width == declared.width:
        step, own = declared.grid(), kind.grid()
        on_grid = (np.fmod(own, np.where(step > 0, step, 1.0)) == 0) & (own > 0)
        above = np.array(kind.low) >= declared.low
        below = np.array(kind.high) <= declared.high
        if (above & below & (on_grid | (step == 0))).all():
            return kind
    raise InputError(
        f"specialise: input {name!r} is a {declared}, and {shown(kind)} is not within it: a Token "
        "of as many symbols or fewer, a Vector within the bounds and on the grid"
    )
