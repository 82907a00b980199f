"""Programs: functions over signals, recorded once, with the reference evaluator attached."""

import functools
import inspect
import math
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import FrameType, FunctionType, MethodType
from typing import cast, final, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.drawing import Drawing, draw, node_formulas, remark
from lsrl.errors import InputError, ProgramError
from lsrl.ir import ops
from lsrl.ir.evaluate import evaluate
from lsrl.ir.graph import Graph
from lsrl.ir.incremental import Moment
from lsrl.ir.numbers import Array, unsigned_zeros
from lsrl.ir.types import InputType, Token, Vector, check_inputs
from lsrl.ir.verify import verify
from lsrl.language.feedback import Feedback, prove
from lsrl.language.inline import inlined
from lsrl.language.loop import (
    LOOP_OPTIONS,
    Reference,
    carried_out,
    check_length,
    numbers_for,
    requested,
)
from lsrl.language.run import Run, Wiring
from lsrl.language.signal import Operand, Signal, concat
from lsrl.language.trace import Trace, recording
from lsrl.showing import Table, card

# What an int64 counts; how far a dtype counts, the certificate says.
LONGEST = 2**63 - 1


@final
class Program:
    """A causal map from input sequences to output sequences, as an immutable graph.

    Attributes:
      name: the function's name.
      graph: the signals as written.
      max_length: the greatest number of tokens, or None if the program needs no limit.
      inputs: declared types by parameter name.
      output_type: Token, or None for a vector.
      documentation: the function's docstring.
      feedback: which outputs are the next input of a loop, or None; see `loop`.
      recorded: whether its lines were recorded in this process. Those of a file are what the file
        says: they are told, and never looked up.

    Example:
      print(ahead.num_outputs, ahead.max_length, [*ahead.inputs])
      print(ahead.run([1, 0, 1], exact=True)[:, 0].tolist())
    """

    def __init__(
        self,
        name: str,
        graph: Graph,
        max_length: int | None,
        output_type: Token | None,
        documentation: str = "",
        *,
        feedback: Feedback | None = None,
        recorded: bool = True,
    ) -> None:
        """Made by `lsrl.program`, read from a file, or from a graph that was built by hand.

        Raises:
          ProgramError: the feedback does not fit, or may leave the input's type.
        """
        self.name = name
        self.graph = verify(graph)
        self.max_length = max_length
        self.inputs: dict[str, InputType] = {op.label: op.type for op in graph.inputs.values()}
        self.output_type = output_type
        self.documentation = documentation
        self.recorded = recorded
        self.feedback = feedback
        if feedback is not None:
            prove(feedback, self.inputs, self.graph.facts[self.graph.output])

    @property
    def num_outputs(self) -> int:
        """Width of the output."""
        return self.graph.nodes[self.graph.output].width

    def __call__(self, *signals: Operand, start: Operand | None = None, **named: Operand) -> Signal:
        """The program's outputs on signals of another program, whose part it becomes.

        Its signals go by the name of the call: `parity.ones`, and of the next call `parity#2.ones`.
        Its promises stay, and what was proven of it holds; this program is not changed.

        Args:
          *signals: one signal or numbers an input, in order. A `Vector(d, ...)` takes a signal of
            width d within its bounds and on its grid. A `Token(n)` takes a token, integers from 0
            to n - 1, or a one-hot signal of width n, which is symbol 0 where none is on.
          start: as of states (`lsrl.linear_state`): the program's first token is that at which this
            {0,1} signal is 1 for the first time, and its states stay as they are before. Without a
            max_length its clocks, and what feeds itself back from a start that is not 0, can't.
          **named: the same by the names of inputs.

        Returns:
          All outputs side by side: `a, b = program(x)` takes two of one channel apart.

        Raises:
          ProgramError: no program is being recorded, the signals are not one an input, or may lie
            outside an input's type, or the program that calls takes more tokens than this one.
          ShapeError: a signal of another width.

        Example:
          majority(parity(bit)), in a function decorated with `lsrl.program`.
        """
        if "start" in self.inputs and start is not None:
            named, start = {**named, "start": start}, None
        return inlined(self.name, self.graph, self.max_length, self.recorded, signals, named, start)

    def run(self, *inputs: object, exact: bool = False, **unknown: object) -> Array:
        """Run the reference evaluator.

        Args:
          *inputs: one array an input: tokens (time,) or (batch, time); vectors (..., time, width).
          exact: return Fractions and ints instead of float64.
          **unknown: none; inputs go by order.

        Returns:
          (time, outputs), or (batch, time, outputs) if the inputs have a batch axis.

        Raises:
          InputError: an input lies outside its declared type; says which and where.
          BoundsError: a promise of the program is broken; says which and where.
        """
        arguments.no_keywords("run", unknown, self.inputs, ("exact",))
        arguments.flag("run: exact", exact)
        arrays, batched = check_inputs(self.inputs, inputs, self.max_length)
        values = evaluate(self.graph, arrays, exact=True if exact else None)[self.graph.output]
        result = values if exact else unsigned_zeros(_in_float64(values))
        return cast(Array, result if batched else result[0])

    def trace(self, *inputs: object, **unknown: object) -> dict[str, Array]:
        """Every named signal at every token.

        Args:
          *inputs: as for `run`.
          **unknown: none; inputs go by order.

        Returns:
          float64 (time, width) or (batch, time, width) by name.

        Raises:
          InputError: as for `run`.
          BoundsError: as for `run`.
        """
        arguments.no_keywords("trace", unknown, self.inputs, ())
        arrays, batched = check_inputs(self.inputs, inputs, self.max_length)
        named = {name: i for i, node in enumerate(self.graph.nodes) for name in node.names}
        values = evaluate(self.graph, arrays, wanted=sorted(set(named.values())))
        return {
            name: _in_float64(values[i] if batched else values[i][0]) for name, i in named.items()
        }

    def loop(
        self,
        *prompt: ArrayLike | Run[Moment[Array]],
        steps: int,
        until: str = "halt",
        stdin: bytes | Sequence[bytes] = b"",
        state: Moment[Array] | None = None,
        exact: bool = False,
        dtype: DTypeLike | None = None,
        **unknown: object,
    ) -> Run[Moment[Array]]:
        """Run the reference evaluator in a loop: outputs are the next input, by `feedback`.

        Args:
          *prompt: as the inputs of `run`; the last token is the first instruction. Or a run, which
            goes on.
          steps: instructions to carry out at most.
          until: "halt" stops where the program halts; "steps" goes on all the same.
          stdin: keys; of a batch a list with those of each machine, or the same for all.
          state: of a run, to read the prompt after what it has read.
          exact: rationals, whatever float64 holds.
          dtype: "float32" or "float64": each operation rounded to it. By default float64 where it
            is proven exact, else rationals.
          **unknown: none; inputs go by order.

        Returns:
          What it did; that it did not halt, or waits for a key, is no error.

        Raises:
          InputError: the program has no feedback, the prompt lies outside its types, or the tokens
            exceed max_length.
          PromiseError: an instruction breaks a promise of the program; says which.
        """
        arguments.no_keywords("loop", unknown, self.inputs, (*LOOP_OPTIONS, "exact", "dtype"))
        arguments.flag("loop: exact", exact)
        asked = requested(self.wiring(until), prompt, steps, stdin)
        before = asked.run.state if asked.run is not None else state
        if before is not None and not isinstance(before, Moment):
            raise InputError(
                f"loop: a program goes on from a run of its own, got {type(before).__name__}; a "
                "model's run goes on with model.loop"
            )
        position = 0 if before is None else int(before.tokens.max())
        tokens = check_length(asked, position, self.max_length)
        engine = Reference(
            self.graph, asked.wiring, numbers_for(self.graph, tokens, exact, dtype), tokens
        )
        start = engine.start(asked.machines) if before is None else before
        after, record = carried_out(engine, start, asked)
        return Run(after, asked.batched, asked.wiring, record)

    def wiring(self, until: str = "halt") -> Wiring:
        """How outputs become inputs in a loop: as declared, or a token out as the token in.

        Args:
          until: what ends it, "halt" or "steps".

        Raises:
          InputError: the program has no feedback.
        """
        feedback, facts = self.feedback, self.graph.facts[self.graph.output]
        kinds, out = list(self.inputs.values()), self.output_type
        if feedback is None and out is not None and len(kinds) == 1:
            fits = isinstance(kinds[0], Token) and out.size <= kinds[0].size
            feedback = Feedback(next(iter(self.inputs)), 0) if fits else None
        if feedback is None:
            raise InputError(
                f"loop: {self!r} does not say which outputs are its next input; declare "
                "@lsrl.program(feedback=lsrl.Feedback(input, output)), or one Token input and a "
                "Token output that is not larger"
            )
        whole = True
        if feedback.memory is not None:
            memory = feedback.memory
            whole = facts.take(np.arange(*memory.values)).integer and memory.initial % 1 == 0
        until = arguments.choice("loop: until", until, ("halt", "steps"))
        return Wiring(feedback, tuple(self.inputs.items()), facts.width, whole, until)

    def draw(self, path: str | os.PathLike[str] | None = None, *, whole: bool = False) -> Drawing:
        """Draw the signals as they are written, each below what it reads.

        Args:
          path: where to save it too; its suffix decides the format (.svg, .pdf, .png).
          whole: also draw what is more than a page.

        Returns:
          The drawing, which notebooks show.

        Raises:
          InputError: matplotlib is not installed and the format is not SVG, the program is too
            large, or the format is unknown.
          OSError: the file can't be written.
        """
        return draw(self.graph, self.name, path=path, whole=whole)

    def _repr_html_(self) -> str:
        """For notebooks: the signature, and a table of the signals."""
        graph = self.graph
        rows = [
            (graph.label(i), said, remark(graph, i), graph.source(i))
            for i, said in node_formulas(graph).items()
        ]
        table = Table("signals", ("signal", "is", "", "line"), rows, shut=len(rows) > 12)
        return card(repr(self), (), table, text=self.documentation.partition("\n\n")[0])

    def __repr__(self) -> str:
        """Name and signature."""
        inputs = ", ".join(f"{name}: {kind}" for name, kind in self.inputs.items())
        return (
            f"Program {self.name}({inputs}) -> {self.output_type or f'{self.num_outputs} numbers'}"
        )


@overload
def program(function: Callable[..., object], /) -> Program: ...
@overload
def program(
    *,
    max_length: int | None = None,
    name: str | None = None,
    feedback: Feedback | None = None,
) -> Callable[[Callable[..., object]], Program]: ...
def program(
    function: Callable[..., object] | None = None,
    /,
    *,
    max_length: int | None = None,
    name: str | None = None,
    feedback: Feedback | None = None,
) -> Program | Callable[[Callable[..., object]], Program]:
    """Turn a function over signals into a `Program`.

    Args:
      function: its parameters are annotated with `Token(n)` or `Vector(d, ...)`, plainly or as
        Annotated[Signal, Token(n)]; those with a default and no type keep the default, as do those
        that a functools.partial binds. It returns a signal or a tuple of signals.
      max_length: the greatest number of tokens; programs that accumulate need it.
      name: the function's name by default.
      feedback: which outputs are the next token's input in a loop, and what stops it.

    Returns:
      A Program, or a decorator that makes one.

    Raises:
      ProgramError: no function, a missing annotation, a result that is no signal, an output outside
        its type, or one that is fed back and not proven to be a legal input.

    Example:
      @lsrl.program(max_length=100)
      def ahead(bit: lsrl.Token(2)) -> lsrl.Token(2):
          return 2 * lsrl.cumsum(bit) > lsrl.position() + 1
    """
    if function is None:
        return lambda decorated: _record(decorated, max_length, name, feedback)
    return _record(function, max_length, name, feedback)


def _in_float64(values: Array) -> Array:
    """Rationals as the nearest float64; what is beyond the largest is infinite."""
    try:
        return values.astype(np.float64)
    except OverflowError:
        return np.vectorize(_nearest, otypes=[np.float64])(values)


def _nearest(value: int | Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _record(function: object, max_length: object, name: object, feedback: object) -> Program:
    inner = _function_of(function)
    where = f"{Path(inner.__code__.co_filename)}:{inner.__code__.co_firstlineno}"
    limit = None if max_length is None else _checked_length(max_length, where)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ProgramError(f"{where}: name must be text, got {shown(name)}")
    if feedback is not None and not isinstance(feedback, Feedback):
        raise ProgramError(f"{where}: feedback must be an lsrl.Feedback, got {shown(feedback)}")
    types = _annotations(inner, where)
    trace = Trace(limit)
    with recording(trace):
        given: list[Signal] = []
        named: dict[str, Signal] = {}
        for parameter in _inputs(cast("Callable[..., object]", function), types, where):
            kind = types.get(parameter.name)
            if not isinstance(kind, Token | Vector):
                raise ProgramError(
                    f"{where}: parameter {parameter.name!r} needs a type: lsrl.Token(n) or "
                    f"lsrl.Vector(d, low=, high=), got {kind!r}"
                )
            index = trace.add(ops.Input(len(given) + len(named), parameter.name, kind))
            signal = Signal(trace, index).named(parameter.name)
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                named[parameter.name] = signal
            else:
                given.append(signal)
        if not given and not named:
            raise ProgramError(
                f"{where}: a program needs at least one input, which tells it how many "
                "tokens there are"
            )
        result, variables = _call(function, inner, given, named)
        output = _output(result, where)
        _name_variables(variables)
        trace.give_names()
    output_type = types.get("return")
    if output_type is not None and not isinstance(output_type, Token | Vector):
        raise ProgramError(
            f"{where}: the return annotation must be lsrl.Token(n), lsrl.Vector(...) or absent, "
            f"got {output_type!r}"
        )
    _check_output(output, output_type, where)
    try:
        return Program(
            name or (inner.__name__ if inner.__name__ != "__call__" else type(function).__name__),
            trace.builder.build(output.index),
            trace.max_length,
            output_type if isinstance(output_type, Token) else None,
            inspect.getdoc(inner) or "",
            feedback=feedback,
        )
    except ProgramError as error:
        raise type(error)(f"{where}: {error}") from None


def _checked_length(value: object, where: str) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (isinstance(value, int | np.integer) and whole and 1 <= value <= LONGEST):
        raise ProgramError(
            f"{where}: max_length must be a positive int up to 2**63 - 1, got {shown(value)}"
        )
    return int(value)


def _function_of(function: object) -> FunctionType:
    """The Python function that a callable runs; else raise ProgramError."""
    if isinstance(function, Program):
        raise ProgramError(
            f"lsrl.program expects a Python function, got {function!r}, which is a program "
            "already; call it on signals: write def f(x: lsrl.Token(n)): return "
            f"{function.name}(x)"
        )
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if callable(inner) and not isinstance(inner, FunctionType | MethodType | type):
        inner = type(inner).__call__
    if isinstance(inner, MethodType):
        inner = inner.__func__
    if not isinstance(inner, FunctionType):
        what = "a class" if isinstance(function, type) else type(function).__name__
        raise ProgramError(
            f"lsrl.program expects a Python function with a type for each input, got {what} "
            f"({shown(function)}); write def f(x: lsrl.Token(n)): ..."
        )
    flags = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    if inner.__code__.co_flags & flags:
        raise ProgramError(
            f"{inner.__code__.co_filename}:{inner.__code__.co_firstlineno}: a program returns its "
            "signals at once, and this function yields or awaits; write an ordinary def with return"
        )
    return inner


def _inputs(
    function: Callable[..., object], types: Mapping[str, object], where: str
) -> list[inspect.Parameter]:
    """The parameters that are inputs: all that no partial binds, and no default without a type."""
    bound: set[str] = set()
    part: object = function
    while isinstance(part, functools.partial):
        bound |= part.keywords.keys()
        part = part.func
    found = []
    for parameter in inspect.signature(function).parameters.values():
        typed = isinstance(types.get(parameter.name), Token | Vector)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if typed:
                raise ProgramError(
                    f"{where}: {parameter} stands for any number of inputs; a program has a fixed "
                    "number of them, so give each a name and a type"
                )
        elif parameter.name not in bound and (typed or parameter.default is parameter.empty):
            found.append(parameter)
    return found


def _annotations(function: FunctionType, where: str) -> dict[str, object]:
    """Types by parameter name; Annotated[Signal, T] counts as T."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, SyntaxError) as error:
        raise ProgramError(
            f"{where}: an annotation can't be read ({error}); annotations must be values, so "
            "leave out `from __future__ import annotations` where they use local variables"
        ) from error
    except TypeError:
        hints = dict(inspect.get_annotations(function))
    found = {}
    for name, hint in hints.items():
        metadata = getattr(hint, "__metadata__", ())
        kinds = [entry for entry in metadata if isinstance(entry, Token | Vector)]
        found[name] = kinds[0] if kinds else hint
    # A plain Signal says no more than that the program returns one.
    return {
        name: hint for name, hint in found.items() if hint is not type(None) and hint is not Signal
    }


def _call(
    function: object, inner: FunctionType, given: Sequence[Signal], named: Mapping[str, Signal]
) -> tuple[object, dict[str, object]]:
    """Call a function and bring back its result and its local variables."""
    frames: list[FrameType] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is inner.__code__:
            frames.append(frame)  # which keeps its variables when the function has returned
            if function is inner:
                # Watching all that the function calls takes longer than the calls themselves.
                sys.setprofile(None)

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = cast("Callable[..., object]", function)(*given, **named)
    finally:
        # cProfile's own object is no function; it has to start again by itself.
        restart = getattr(previous, "enable", None)
        sys.setprofile(previous) if restart is None else restart()
    return result, {name: value for frame in frames for name, value in frame.f_locals.items()}


def _name_variables(variables: dict[str, object]) -> None:
    """Name signals after the local variables that hold them; parameters are named already."""
    for name, value in variables.items():
        if isinstance(value, Signal):
            value.named(name)
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            for key, entry in value.items():
                if isinstance(entry, Signal):
                    entry.named(f"{name}[{key!r}]")


def _output(result: object, where: str) -> Signal:
    if isinstance(result, Signal):
        return result
    if isinstance(result, tuple | list) and result and all(isinstance(r, Signal) for r in result):
        return concat(*result)
    hint = "; write lsrl.constant(value) for numbers, lsrl.concat(x, y) for nested ones"
    if result is None:
        hint = "; is its `return` missing?"
    elif isinstance(result, tuple | list):
        wrong = (f"entry {i} is {type(r).__name__}" for i, r in enumerate(result))
        entries = [text for text, r in zip(wrong, result, strict=True) if not isinstance(r, Signal)]
        hint = f" ({', '.join(entries[:3]) or 'empty'}){hint}"
    raise ProgramError(
        f"{where}: a program returns a signal or a tuple of signals, got "
        f"{type(result).__name__}{hint}"
    )


def _check_output(output: Signal, kind: InputType | None, where: str) -> None:
    """The inferred facts must prove the declared output type."""
    if kind is None:
        return
    facts = output.facts
    if output.width != kind.width:
        raise ProgramError(f"{where}: declared {kind}, of width {kind.width}, got {output!r}")
    declared = kind.facts()
    inside = (facts.low >= declared.low).all() and (facts.high <= declared.high).all()
    gridded = isinstance(kind, Vector) or facts.integer
    if not (inside and gridded):
        raise ProgramError(
            f"{where}: declared {kind}, but inference only shows {output!r} with step "
            f"{facts.step.tolist()}; if you know better, promise it with lsrl.bound(x, low, high)"
        )
