"""What a model is asked to run: inputs, states and lengths, checked before a network sees them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict, cast, get_type_hints

import jax
import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.errors import InputError, SelfTestError
from lsrl.ir.evaluate import evaluate
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token, check_inputs, position_text
from lsrl.language.loop import LOOP_OPTIONS, Asked, requested
from lsrl.language.program import Program
from lsrl.language.run import Run
from lsrl.pytrees import named_leaves
from lsrl.state import State

# Tokens that one call generates at most: networks count in int32.
MOST_STEPS = 2**31 - 1


# How a model is run: by events where that gives the same bits and is faster, or as is said.
RunnerName = Literal["auto", "events", "jax"]


class RunOptions(TypedDict, total=False):
    """Of `Model.run`; see there."""

    state: State | None
    check: bool
    chunk: int | None
    mesh: jax.sharding.Mesh | None
    runner: RunnerName
    beyond_certificate: bool


_OPTIONS = (*get_type_hints(RunOptions), "return_state")


def check_run(
    program: Program,
    unknown: Mapping[str, object],
    chunk: int | None,
    state: State | None,
    *,
    check: bool,
    **flags: bool,
) -> None:
    """Refuse options of a run that make no sense, whatever the inputs are.

    Raises:
      InputError: says which, and what they can be.
    """
    arguments.no_keywords("run", unknown, program.inputs, _OPTIONS)
    for name, value in {"check": check, **flags}.items():
        arguments.flag(f"run: {name}", value)
    if chunk is not None:
        arguments.count("run: chunk", chunk)
    if check and state is not None:
        raise InputError(
            "run: check=True evaluates whole sequences, and a state has only their end; "
            "run what came before it too, or leave out check"
        )


# Of a function that jax traces: an array, or one an input.
Traceable: TypeAlias = "ArrayLike | jax.Array | Sequence[ArrayLike | jax.Array]"
# How far the sum of a distribution may be from 1: what rounding makes of it.
SUM_ERROR = 1e-3
# What others call the formats of exports.
FORMATS_MEANT = {"pytorch": "torch", "safetensors": "torch", "state_dict": "torch"}
FORMATS_MEANT |= {"transformers": "huggingface", "hf": "huggingface"}


def traceable(
    what: str, program: Program, inputs: Traceable, number: np.dtype[np.generic]
) -> tuple[tuple[jax.Array | Array, ...], bool]:
    """Inputs of a function that jax traces: shapes are checked, and values where they are known.

    Args:
      what: is done.
      program: that runs.
      inputs: one array where there is one input, or a sequence with one an input.
      number: dtype of what is no id.

    Returns:
      The arrays with a batch axis, and whether the caller gave one.

    Raises:
      InputError: says which input, what was expected and what came.
    """
    kinds = program.inputs
    several = isinstance(inputs, tuple) or len(kinds) > 1
    given = list(cast("Sequence[ArrayLike]", inputs)) if several else [inputs]
    if len(given) != len(kinds):
        raise InputError(
            f"{what}: expected {len(kinds)} input(s) ({', '.join(kinds)}), got {len(given)}; pass "
            "a tuple with one array an input, in this order"
        )
    found: dict[str, tuple[jax.Array | Array, bool]] = {
        name: _traceable(what, name, kind, value, number)
        for (name, kind), value in zip(kinds.items(), given, strict=True)
    }
    shapes = {name: array.shape[:2] for name, (array, _) in found.items()}
    if len(set(shapes.values())) > 1 or len({batched for _, batched in found.values()}) > 1:
        raise InputError(f"{what}: inputs must share their batch and time axes, got {shapes}")
    return tuple(array for array, _ in found.values()), all(
        batched for _, batched in found.values()
    )


def _traceable(
    what: str, name: str, kind: InputType, value: object, number: np.dtype[np.generic]
) -> tuple[jax.Array | Array, bool]:
    """One input with a batch axis, and whether it had one."""
    known = not isinstance(value, jax.core.Tracer)
    array = arguments.array(f"{what}: input {name!r}", value) if known else value
    array = cast("jax.Array | Array", array)
    mixed = isinstance(kind, Token) and array.dtype.kind in "fV"  # bfloat16 is a kind of its own
    behind = 1 if mixed or not isinstance(kind, Token) else 0
    width = kind.size if isinstance(kind, Token) else kind.width
    if array.ndim - behind not in (1, 2) or (behind and array.shape[-1] != width):
        last = f", {width}" if behind else ""
        raise InputError(
            f"{what}: input {name!r} ({kind}): expected (time{last}) or (batch, time{last}), "
            f"got shape {tuple(array.shape)}"
            + ("; a distribution has an entry a symbol" if mixed else "")
        )
    if known and not array.size:
        raise InputError(f"{what}: input {name!r}: expected at least one token, got none")
    if known and mixed:
        _check_distribution(what, name, np.asarray(array))
    elif known:
        kind.check(array, name)
    if known or array.dtype != (number if behind else np.int32):
        array = array.astype(number if behind else np.int32)
    batched = array.ndim - behind == 2
    return (array if batched else array[None]), batched


def _check_distribution(what: str, name: str, array: Array) -> None:
    """Refuse what is no distribution over the last axis."""
    values = array.astype(np.float64)
    wrong = ~(np.abs(values.sum(-1) - 1) <= SUM_ERROR) | ~(values >= -SUM_ERROR).all(-1)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise InputError(
            f"{what}: input {name!r}: expected distributions over its {array.shape[-1]} symbols, "
            f"from 0 on and with the sum 1, got {arguments.shown(values[place].tolist())} at "
            f"{position_text(place, len(place))}; jax.nn.softmax makes one of logits"
        )


def check_numbers(what: str, parameters: object, number: np.dtype[np.generic]) -> None:
    """Refuse parameters of another dtype: without x64, jax makes float64 float32 in silence."""
    for name, leaf in named_leaves(parameters).items():
        if getattr(leaf, "dtype", None) != number:
            got = getattr(leaf, "dtype", type(leaf).__name__)
            cure = "; call it within jax.enable_x64(True)" if number == np.float64 else ""
            raise InputError(f"{what}: expected parameters of {number}, got {name}: {got}{cure}")


def check_end(what: str, program: Program, state: State | None, tokens: int, more: int) -> int:
    """How many tokens are read in all; refuses more than the program declares.

    Args:
      what: is done.
      program: that runs.
      state: to go on from.
      tokens: of the inputs.
      more: tokens that the program's own outputs are; the last of them is not read.
    """
    position = 0 if state is None else state.position
    length, limit = position + tokens + max(more - 1, 0), program.max_length
    if limit is not None and length > limit:
        read = "" if state is None else f"after {position} tokens, "
        wanted = f"{tokens}{f' + {more}' if more else ''}"
        raise InputError(
            f"{what}: {read}{wanted} tokens exceed max_length={limit}; declare a larger one in "
            "@lsrl.program"
        )
    return length


def check_certified(
    what: str, program: Program, target: str, length: int, certified: int | None
) -> None:
    """Refuse to read more tokens than the certificate speaks of."""
    if certified is not None and length > certified:
        raise InputError(
            f"{what}: {length} tokens, and the certificate speaks of {certified}: what "
            f"{program.name!r} adds up on {target} grows with the length; declare "
            "@lsrl.program(max_length=...) and compile again, or pass beyond_certificate=True "
            "to run on without a proof"
        )


def check_loop(
    program: Program,
    prompt: Sequence[ArrayLike | Run[State]],
    unknown: Mapping[str, object],
    asked: Mapping[str, object],
    state: State | None,
    *,
    check: bool,
    beyond_certificate: bool,
) -> Asked[State]:
    """What a loop is asked for; refuses what makes no sense, whatever the prompt is.

    Raises:
      InputError: says which, and what it can be.
    """
    arguments.no_keywords(
        "loop", unknown, program.inputs, (*LOOP_OPTIONS, "check", "beyond_certificate")
    )
    arguments.flag("loop: check", check)
    arguments.flag("loop: beyond_certificate", beyond_certificate)
    found = requested(
        program.wiring(cast(str, asked["until"])), prompt, asked["steps"], asked["stdin"]
    )
    if state is not None and found.run is not None:
        raise InputError(
            "loop: a run goes on from its own state; leave out state, or give a prompt with it"
        )
    if check and (state is not None or found.run is not None):
        raise InputError(
            "loop: check=True evaluates a loop from its first token on, and a state has only its "
            "end; check the loop that it came from, or leave out check"
        )
    return found


def check_generates(program: Program) -> None:
    """Refuse programs whose outputs are no inputs for them."""
    sizes = [kind.size if isinstance(kind, Token) else 0 for kind in program.inputs.values()]
    out = program.output_type
    if len(sizes) != 1 or out is None or out.size > sizes[0]:
        raise InputError(
            f"generate needs one Token input and a Token output that is not larger, got "
            f"{program!r}; annotate the function with -> lsrl.Token(n)"
        )


def plain_token(
    kinds: Sequence[InputType], state: State, inputs: Sequence[ArrayLike], limit: int | None
) -> list[Array] | None:
    """The inputs of a step, where they are legal beyond doubt: ints, or arrays of numpy.

    All else is for `one_token`, which says what is wrong with it. To check as it does takes as long
    as a small network's step.

    Args:
      kinds: the inputs' types.
      state: of the model.
      inputs: one value each.
      limit: greatest number of tokens, or None.

    Returns:
      Ids as int32 (batch,), vectors as float64 (batch, width); None if they are anything else.
    """
    if len(inputs) != len(kinds) or (limit is not None and state.position >= limit):
        return None
    found = []
    for kind, value in zip(kinds, inputs, strict=True):
        array = kind.plain(value, state.batch)
        if array is None:
            return None
        found.append(array)
    return found


def one_token(
    program: Program, state: State, inputs: Sequence[ArrayLike], unknown: Mapping[str, object]
) -> list[Array]:
    """The inputs of a step, as arrays (batch, 1[, width]).

    Raises:
      InputError: they are of other types, or not one token for each sequence of the state.
    """
    if unknown:
        arguments.no_keywords("step", unknown, program.inputs, ("beyond_certificate",))
    limit, axis = program.max_length, 0 if state.batch is None else 1
    if limit is not None and state.position >= limit:
        raise InputError(
            f"step {state.position}: the program declares max_length={limit} tokens; declare a "
            "larger one"
        )
    names = [*program.inputs, *(len(inputs) - len(program.inputs)) * "?"]
    given = [
        arguments.array(f"step: input {name!r}", value)
        for name, value in zip(names, inputs, strict=False)
    ]
    timed = [value[(slice(None),) * min(axis, value.ndim) + (None,)] for value in given]
    fits = all(
        array.ndim == 1 + axis + (0 if isinstance(kind, Token) else 1)
        for kind, array in zip(program.inputs.values(), timed, strict=False)
    )
    if fits or len(given) != len(program.inputs):
        arrays, _ = check_inputs(program.inputs, timed, limit)
        fits = arrays[0].shape[:2] == (state.batch or 1, 1)
    if not fits:
        wanted = "one token" if state.batch is None else f"{state.batch} tokens, one a sequence"
        raise InputError(
            f"step: expected {wanted}, got shapes {[np.shape(value) for value in given]}; "
            "init_state(batch=...) sets the number of sequences"
        )
    return arrays


def check_export(
    format: str,
    target: str,
    known: Iterable[str],
    elsewhere: str,
    only: Mapping[str, bool],
    layers: str,
) -> None:
    """Refuse an export that makes no sense, whatever the model is.

    Args:
      format: that is asked for.
      target: of the model.
      known: the target's formats.
      elsewhere: the targets that have this one.
      only: whether something is asked for that "huggingface" has alone, by its name.
      layers: how torch's layers shall lie.
    """
    for what, asked in only.items():
        if asked and format != "huggingface":
            raise InputError(f"export: format {format!r} has no {what}")
    if layers not in ("stacked", "separate") or (layers == "separate" and format != "torch"):
        raise InputError(
            f"export: expected layers='stacked', or 'separate' with format 'torch', got "
            f"layers={layers!r} with format {format!r}"
        )
    if not isinstance(format, str) or format not in known:
        own = " and ".join(map(repr, known)) or "none"
        others = f"{elsewhere} have it" if elsewhere else f"it has {own}"
        meant = FORMATS_MEANT.get(format) if isinstance(format, str) else None
        near = f"; did you mean {meant!r}?" if meant else arguments.near(format, known)
        raise InputError(
            f"export: target {target!r} has no format {format!r}; {others}; every model is saved "
            "with model.save(path), and shown as a page by lsrl.interpret.view(model, inputs, "
            f"path=...){near}"
        )


def reference_run(program: Program, arrays: Sequence[Array], dtype: str | None) -> Array | None:
    """Let inputs keep all promises.

    Args:
      program: the program.
      arrays: its inputs, as `check_inputs` has them.
      dtype: of a model that is exact in it.

    Returns:
      (batch, time, outputs) float64, what such a model's outputs are; None without a dtype.

    Raises:
      PromiseError: a promise is broken; says which and where.
      TheoremError: what is proven of a signal does not hold.
    """
    graph = program.graph
    if dtype is None:
        evaluate(graph, arrays, theorems=True)
        return None
    return evaluate(graph, arrays, dtype=dtype)[graph.output].astype(np.float64)


def check_alike(program: Program, dtype: str | None, wanted: Array, outputs: Array) -> None:
    """Refuse outputs that are not, bit for bit, what the reference evaluator gives in the dtype.

    Raises:
      SelfTestError: says where.
    """
    places = np.argwhere(outputs.astype(np.float64) != wanted)
    if len(places):
        sequence, token, number = places[np.lexsort((places[:, 0], places[:, 1]))[0]].tolist()
        got, expected = outputs[sequence, token, number], wanted[sequence, token, number]
        raise SelfTestError(
            f"{program.name}: sequence {sequence}, token {token}, output {number}: expected "
            f"{expected!r} of a model that is exact in {dtype}, got {float(got)!r}; "
            "model.self_test() says what this device computes otherwise"
        )
