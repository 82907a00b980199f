"""Programs: functions over signals, recorded once, with the reference evaluator attached."""

import inspect
import math
import sys
import typing
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import cast, final, overload

import numpy as np

from lsrl.errors import ProgramError
from lsrl.ir import ops
from lsrl.ir.evaluate import evaluate
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array, unsigned_zeros
from lsrl.ir.types import InputType, Token, Vector, check_inputs
from lsrl.ir.verify import verify
from lsrl.language.signal import Signal, concat
from lsrl.language.trace import Trace, recording


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
      recorded: whether its lines were recorded in this process. Those of a file are what the file
        says: they are told, and never looked up.
    """

    def __init__(
        self,
        name: str,
        graph: Graph,
        max_length: int | None,
        output_type: Token | None,
        documentation: str = "",
        *,
        recorded: bool = True,
    ) -> None:
        """Made by `lsrl.program`, read from a file, or from a graph that was built by hand."""
        self.name = name
        self.graph = verify(graph)
        self.max_length = max_length
        self.inputs: dict[str, InputType] = {op.label: op.type for op in graph.inputs.values()}
        self.output_type = output_type
        self.documentation = documentation
        self.recorded = recorded

    @property
    def num_outputs(self) -> int:
        """Width of the output."""
        return self.graph.nodes[self.graph.output].width

    def run(self, *inputs: object, exact: bool = False) -> Array:
        """Run the reference evaluator.

        Args:
          *inputs: one array an input: tokens (time,) or (batch, time); vectors (..., time, width).
          exact: return Fractions and ints instead of float64.

        Returns:
          (time, outputs), or (batch, time, outputs) if the inputs have a batch axis.

        Raises:
          InputError: an input lies outside its declared type; says which and where.
          BoundsError: a promise of the program is broken; says which and where.
        """
        arrays, batched = check_inputs(self.inputs, inputs, self.max_length)
        values = evaluate(self.graph, arrays, exact=True if exact else None)[self.graph.output]
        result = values if exact else unsigned_zeros(_in_float64(values))
        return cast(Array, result if batched else result[0])

    def trace(self, *inputs: object) -> dict[str, Array]:
        """Every named signal at every token.

        Args:
          *inputs: as for `run`.

        Returns:
          float64 (time, width) or (batch, time, width) by name.

        Raises:
          InputError: as for `run`.
          BoundsError: as for `run`.
        """
        arrays, batched = check_inputs(self.inputs, inputs, self.max_length)
        named = {name: i for i, node in enumerate(self.graph.nodes) for name in node.names}
        values = evaluate(self.graph, arrays, wanted=sorted(set(named.values())))
        return {
            name: _in_float64(values[i] if batched else values[i][0]) for name, i in named.items()
        }

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
    *, max_length: int | None = None, name: str | None = None
) -> Callable[[Callable[..., object]], Program]: ...
def program(
    function: Callable[..., object] | None = None,
    /,
    *,
    max_length: int | None = None,
    name: str | None = None,
) -> Program | Callable[[Callable[..., object]], Program]:
    """Turn a function over signals into a `Program`.

    Args:
      function: its parameters are annotated with `Token(n)` or `Vector(d, ...)`, plainly or as
        Annotated[Signal, Token(n)]; it returns a signal or a tuple of signals.
      max_length: the greatest number of tokens; programs that accumulate need it.
      name: the function's name by default.

    Returns:
      A Program, or a decorator that makes one.

    Raises:
      ProgramError: a missing annotation, a result that is no signal, or an output outside its type.
    """
    if function is None:
        return lambda decorated: _record(decorated, max_length, name)
    return _record(function, max_length, name)


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


def _record(function: Callable[..., object], max_length: int | None, name: str | None) -> Program:
    where = f"{Path(function.__code__.co_filename)}:{function.__code__.co_firstlineno}"
    if max_length is not None and (
        not isinstance(max_length, int | np.integer)
        or isinstance(max_length, bool)
        or max_length < 1
    ):
        raise ProgramError(f"{where}: max_length must be a positive int, got {max_length!r}")
    types = _annotations(function, where)
    trace = Trace(None if max_length is None else int(max_length))
    with recording(trace):
        parameters = list(inspect.signature(function).parameters)
        signals = []
        for index, parameter in enumerate(parameters):
            kind = types.get(parameter)
            if not isinstance(kind, Token | Vector):
                raise ProgramError(
                    f"{where}: parameter {parameter!r} needs a type: lsrl.Token(n) or "
                    f"lsrl.Vector(d, low=, high=), got {kind!r}"
                )
            signal = Signal(trace, trace.add(ops.Input(index, parameter, kind)))
            signals.append(signal.named(parameter))
        if not signals:
            raise ProgramError(
                f"{where}: a program needs at least one input, which tells it how many "
                "tokens there are"
            )
        result, variables = _call(function, signals)
        output = _output(result, where)
        _name_variables(variables)
    output_type = types.get("return")
    if output_type is not None and not isinstance(output_type, Token | Vector):
        raise ProgramError(
            f"{where}: the return annotation must be lsrl.Token(n), lsrl.Vector(...) or absent, "
            f"got {output_type!r}"
        )
    _check_output(output, output_type, where)
    return Program(
        name or function.__name__,
        trace.builder.build(output.index),
        trace.max_length,
        output_type if isinstance(output_type, Token) else None,
        inspect.getdoc(function) or "",
    )


def _annotations(function: Callable[..., object], where: str) -> dict[str, object]:
    """Types by parameter name; Annotated[Signal, T] counts as T."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
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
    return {name: hint for name, hint in found.items() if hint not in (type(None), Signal)}


def _call(
    function: Callable[..., object], signals: list[Signal]
) -> tuple[object, dict[str, object]]:
    """Call a function and bring back its result and its local variables."""
    variables: dict[str, object] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_code is function.__code__:
            variables.update(frame.f_locals)

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = function(*signals)
    finally:
        # cProfile's own object is no function; it has to start again by itself.
        restart = getattr(previous, "enable", None)
        sys.setprofile(previous) if restart is None else restart()
    return result, variables


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
    raise ProgramError(
        f"{where}: a program returns a signal or a tuple of signals, got {type(result).__name__}"
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
