"""A program with its prompt folded in: what is left of it behind the prompt."""

from collections.abc import Mapping
from inspect import Parameter, Signature

import numpy as np

from lsrl import arguments
from lsrl.arguments import near, shown
from lsrl.errors import InputError
from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Step
from lsrl.ir.types import InputType, Token, Vector, check_inputs
from lsrl.language.program import Program
from lsrl.language.program import program as recorded
from lsrl.language.signal import Signal
from lsrl.language.sugar import latch, lookup, mux, periodic
from lsrl.language.trace import UNDECLARED_LENGTH
from lsrl.passes.prompt import after_prompt

# Of so few sequences that may follow, all are tried; a table of what they give has so many rows.
MOST_TRIED = 1 << 14
MOST_ROWS = 1 << 12


def specialise(
    program: Program,
    *prompt: object,
    inputs: Mapping[str, InputType] | None = None,
    tables: bool = True,
) -> Program:
    """Fold a prompt into a program: the result starts where the prompt ends.

    Of the inputs that may follow, `specialise(p, prompt)` gives on x what p gives on the prompt and
    x, at every token of x. States start at what the prompt leaves, by the reference evaluator. What
    no later token can change becomes a constant, and what only tells the time a clock: so of a
    machine that its prompt programs only that program is left to compile.

    A latch that took its value is constant, by its own promise. A hold is, where its condition is
    proven to be 0 from there on; that it is, `inputs` can say: with no tokens but those of data to
    come, what commands would do is gone. Where nothing can be folded, the result equals all the
    same. Where few tokens are left, of few symbols, all that may follow is tried, and the result is
    a table of it if that is smaller. An input that breaks a promise of the program means nothing
    behind the prompt either, and the result may not notice.

    Args:
      program: any; it is not changed.
      *prompt: one array an input, as for `Program.run`, of one sequence: tokens (time,), vectors
        (time, width). It keeps the program's promises.
      inputs: narrower types of the inputs that follow, by name: a Token of fewer symbols, the first
        ones; a Vector within the declared bounds. By default as declared.
      tables: whether the result may be a table, without the program's signals.

    Returns:
      A program of the remaining length and of the same output; its signals keep their names. A
      loop's `memory` is what is written from there on.

    Raises:
      InputError: the prompt is not what the program reads, or leaves no token; a type is not
        within the declared one.
      PromiseError: the prompt breaks a promise; names the signal and token.
      InexactError: a state holds a number that no float64 is.
      ProgramError: what is fed back in a loop is not proven to lie in a narrower type.

    Source: Futamura (1971), of partial evaluation, "Partial Evaluation of Computation Process".

    Example:
      alone = lsrl.specialise(lsrl.programs.parity(max_length=20), [1, 1, 1])  # an odd prompt
      print(alone.run([0, 1])[:, 0])
    """
    arguments.instance("specialise", program, Program, "lsrl.program")
    arguments.flag("specialise: tables", tables)
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
    made = Program(
        f"{program.name}_specialised", graph, longest, program.output_type,
        f"{said}\n\n{program.documentation}".strip(),
        feedback=program.feedback, recorded=program.recorded,
    )  # fmt: skip
    table = _as_table(made) if tables else None
    return made if table is None or _size(table.graph) >= _size(made.graph) else table


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


# ---------------------------------------------------------------- tables


def _as_table(program: Program) -> Program | None:
    """A program of few tokens as a table of those that it reads; None where it is too large."""
    kinds, left = list(program.inputs.items()), program.max_length
    name, kind = kinds[0]
    if len(kinds) > 1 or not isinstance(kind, Token) or left is None or program.feedback:
        return None
    if kind.size**left > MOST_TRIED:
        return None
    tried = np.stack(np.unravel_index(np.arange(kind.size**left), (kind.size,) * left), axis=1)
    legal, found = evaluate_prefixes(program.graph, [tried], [program.graph.output])
    if (legal < left).any():
        return None
    said = found[program.graph.output].astype(np.float64)
    said = said.reshape(*(kind.size,) * left, left, program.num_outputs)
    read = [k for k in range(left) if (said != said.take([0], axis=k)).any()]
    if kind.size ** len(read) > MOST_ROWS:
        return None
    only = tuple(slice(None) if k in read else 0 for k in range(left))
    rows = said[only].reshape(-1, left * program.num_outputs)
    return _table(program, name, kind, read, rows.reshape(len(rows), left, -1))


def _table(program: Program, name: str, kind: Token, read: list[int], said: Array) -> Program:
    """A program that latches the tokens at some places, and looks up what is said.

    Args:
      program: what it is to equal.
      name: of the input.
      kind: of the input.
      read: the places.
      said: (rows, time, outputs), a row for every word at these places.
    """
    left = said.shape[1]
    columns, which = np.unique(said, axis=1, return_inverse=True)
    which = which.ravel()

    def table(token: Signal) -> Signal:
        if not read:
            return periodic(said[0])
        code = sum(
            (
                kind.size ** (len(read) - 1 - k) * latch(token, periodic(np.arange(left) == place))
                for k, place in enumerate(read)
            ),
            start=0 * token,
        )
        row = lookup(code, columns.reshape(len(said), -1))
        width = columns.shape[2]
        parts = [row[k * width : (k + 1) * width] for k in range(columns.shape[1])]
        return parts[0] if len(parts) == 1 else mux(periodic(np.eye(len(parts))[which]), parts)

    parameter = Parameter(name, Parameter.POSITIONAL_OR_KEYWORD)
    table.__signature__ = Signature([parameter])  # type: ignore[attr-defined]
    table.__annotations__ = {name: kind, "return": program.output_type or Signal}
    made = recorded(max_length=left, name=program.name)(table)
    return Program(
        made.name, made.graph, left, made.output_type, program.documentation, recorded=False
    )


def _size(graph: Graph) -> int:
    """About how many weights a graph takes."""
    total = 0
    for index in graph.live():
        op, width = graph.nodes[index].op, graph.nodes[index].width
        matrices = [getattr(op, name) for name in ("table", "transition") if hasattr(op, name)]
        matrices += getattr(op, "weights", ())
        total += sum(each.nonzeros for each in matrices if isinstance(each, Matrix))
        total += width * (4 if isinstance(op, Step) else 2) * (not hasattr(op, "weights"))
    return total
