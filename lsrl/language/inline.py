"""A program called on signals: its graph becomes a part of the one that is being recorded.

Facts are inferred anew, since the operands may be narrower than the types that were declared. What
was proven of the program for all of its inputs holds for these, and is kept where inference would
see less. The program's own graph is read and never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsrl.arguments import near
from lsrl.errors import ProgramError, ShapeError
from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Node, Source
from lsrl.ir.types import Token, Vector
from lsrl.language.late import late
from lsrl.language.signal import Operand, Signal, affine, as_signal, concat, record
from lsrl.language.starts import started
from lsrl.language.sugar import known, lookup, one_hot
from lsrl.language.trace import Trace, current_trace, user_line


class _Given(NamedTuple):
    """What an input is given.

    Attributes:
      value: the signal that stands for the input.
      row: of a token, the row of a table that it names.
    """

    value: Signal
    row: Callable[[Matrix], Signal]


def inlined(
    name: str,
    graph: Graph,
    max_length: int | None,
    recorded: bool,
    signals: Sequence[Operand],
    named: Mapping[str, Operand],
    start: Operand | None = None,
) -> Signal:
    """A program's output on signals; see `lsrl.Program.__call__`.

    Args:
      name: of the program.
      graph: of the program, as written.
      max_length: of the program.
      recorded: whether its lines may be looked up.
      signals: operands in the order of its inputs.
      named: operands by the names of inputs.
      start: when its states start; at the first token if None.
    """
    try:
        trace = current_trace(name)
    except ProgramError as error:
        raise ProgramError(f"{error}; {name}.run(...) runs it on numbers") from None
    operands = [as_signal(operand) for operand in _in_order(name, graph, signals, named)]
    if any(operand.trace is not trace for operand in operands):
        raise ProgramError(
            f"{user_line()}: {name} reads a signal of another program; signals live and die with "
            "the function that makes them"
        )
    _check_length(name, graph, max_length, trace)
    begins = None if start is None else started(as_signal(start))
    read = operands if begins is None else [*operands, begins]
    key = graph, tuple(each.index for each in read)
    if key not in trace.calls:
        given = {
            index: _given(name, graph, index, operand)
            for index, operand in zip(graph.inputs, operands, strict=True)
        }
        trace.calls[key] = _copied(name, graph, recorded, given, trace, begins)
    return Signal(trace, trace.calls[key])


def _copied(
    name: str,
    graph: Graph,
    recorded: bool,
    given: Mapping[int, _Given],
    trace: Trace,
    begins: Signal | None,
) -> int:
    """The node of the output, of a graph whose inputs are given."""
    long_enough = graph.tokens >= trace.builder.tokens
    facts = graph.facts if long_enough else graph.facts_at(trace.builder.tokens)
    call, line = trace.call(name), trace.line()
    copies: list[Signal] = []
    # All of it: promises are checked and signals traced where nothing reads them, too.
    for i, node in enumerate(graph.nodes):
        if i in given:
            copies.append(given[i].value)
            continue
        with trace.made_by(_lines(node, call, line, recorded)):
            if isinstance(node.op, ops.Lookup) and node.operands[0] in given:
                copy = given[node.operands[0]].row(node.op.table)
            elif begins is not None and (node.op.stateful or isinstance(node.op, ops.Read)):
                copy = late(node.op, [copies[k] for k in node.operands], begins, facts[i])
            else:
                copy = Signal(trace, trace.add(node.op, *(copies[k].index for k in node.operands)))
            # Before it starts, what is proven of several signals together need not hold.
            holds = begins is None or node.op.stateful
            copies.append(_proven(copy, facts[i]) if holds else copy)
        trace.name_later(copies[i].index, [f"{call}.{each}" for each in node.names])
    return copies[graph.output].index


def _lines(node: Node, call: str, line: Source, recorded: bool) -> list[Source]:
    """The lines of a copy: those of the node, told as of this call, and that of the call."""
    told = [
        each._replace(text=f"{call}: {each.text}" if each.text else "") for each in node.sources
    ]
    if not recorded:  # its files are what a file says: the call stands for them
        return [line._replace(text=told[0].text if told else "")]
    return [*told, line.place]


def _proven(copy: Signal, fact: Facts) -> Signal:
    """A copy, with the theorem that what holds for all inputs holds here, where it says more."""
    mine = copy.facts
    exclusive = fact.exclusive and not mine.exclusive and copy.width > 1
    ends = (mine.low >= fact.low).all() and (mine.high <= fact.high).all()
    grid = (mine.step >= fact.step).all()
    finite = np.isfinite(fact.low).all() and np.isfinite(fact.high).all()
    if (ends and grid and not exclusive) or not finite:
        return copy
    step = () if grid else tuple(np.where(np.isfinite(fact.step), fact.step, 0.0).tolist())
    low, high = (tuple(end.tolist()) for end in (fact.low, fact.high))
    return record(ops.Bound(low, high, proven=True, exclusive=fact.exclusive, step=step), copy)


# ---------------------------------------------------------------- what the inputs are given


def _in_order(
    name: str, graph: Graph, signals: Sequence[Operand], named: Mapping[str, Operand]
) -> list[Operand]:
    """One operand an input."""
    labels = [op.label for op in graph.inputs.values()]
    takes = f"{user_line()}: {name}({', '.join(labels)}) ({_line(graph)})"
    unknown = next((label for label in named if label not in labels), None)
    if unknown is not None:
        raise ProgramError(f"{takes} has no input {unknown!r}{near(unknown, labels)}")
    twice = next((label for label in labels[: len(signals)] if label in named), None)
    if twice is not None:
        raise ProgramError(f"{takes} is given {twice!r} twice, by its place and by its name")
    missing = [label for label in labels[len(signals) :] if label not in named]
    if missing or len(signals) > len(labels):
        raise ProgramError(
            f"{takes} takes {len(labels)} signal(s), one an input, got "
            f"{len(signals) + len(named)}" + (f"; give it {', '.join(missing)}" if missing else "")
        )
    return [*signals, *(named[label] for label in labels[len(signals) :])]


def _check_length(name: str, graph: Graph, max_length: int | None, trace: Trace) -> None:
    """What was proven of a program holds up to its own length."""
    mine = trace.max_length
    if max_length is None or (mine is not None and mine <= max_length):
        return
    raise ProgramError(
        f"{user_line()}: {name} ({_line(graph)}) takes at most max_length={max_length} tokens, and "
        f"the program that calls it declares {'none' if mine is None else mine}; write "
        f"@lsrl.program(max_length={max_length}) here, or declare more there"
    )


def _line(graph: Graph) -> str:
    """Where a program is written: the line of its first input."""
    return graph.source(next(iter(graph.inputs)))


def _given(name: str, graph: Graph, index: int, signal: Signal) -> _Given:
    """A signal as an input, whose type it has to keep.

    Raises:
      ProgramError: a value that is not of the type.
      ShapeError: another width.
    """
    op = graph.inputs[index]
    kind, facts = op.type, signal.facts
    wanted = f"{name} takes {op.label}: {kind} ({graph.source(index)})"
    got = f"got {signal!r} with step {sorted(set(facts.step.tolist()))}"
    if isinstance(kind, Token):
        if signal.width == kind.size > 1:
            if not facts.one_hot:
                raise ProgramError(
                    f"{user_line()}: {wanted}; of width {kind.size} it is a one-hot signal, which "
                    f"this {signal!r} is not known to be; make it with lsrl.one_hot(index, "
                    f"{kind.size})"
                )
            return _of_marks(kind, signal)
        if signal.width > 1:
            raise ShapeError(
                f"{user_line()}: {wanted}, got {signal!r}; expected integers of width 1, or a "
                f"one-hot signal of width {kind.size}"
            )
        if not facts.integer or facts.low[0] < 0 or facts.high[0] >= kind.size:
            raise ProgramError(
                f"{user_line()}: {wanted}, that is integers from 0 to {kind.size - 1}, {got}; "
                f"lsrl.bound(x, 0, {kind.size - 1}) promises bounds"
            )
        return _of_integers(signal)
    if signal.width != kind.width:
        raise ShapeError(f"{user_line()}: {wanted}, of width {kind.width}, got {signal!r}")
    _check_vector(wanted, got, kind, facts)
    return _Given(signal, _no_table)


def _check_vector(wanted: str, got: str, kind: Vector, facts: Facts) -> None:
    declared = kind.facts()
    inside = (facts.low >= declared.low) & (facts.high <= declared.high)
    grid = np.where(declared.step > 0, declared.step, 1.0)
    spaced = np.where(np.isfinite(facts.step), facts.step, 0.0)  # of what is always 0
    gridded = (declared.step == 0) | ((facts.step > 0) & (np.fmod(spaced, grid) == 0))
    wrong = np.flatnonzero(~(inside & gridded))
    if wrong.size:
        place = int(wrong[0])
        asked = f"from {declared.low[place]:g} to {declared.high[place]:g}"
        asked += f" by steps of {declared.step[place]:g}" if declared.step[place] else ""
        raise ProgramError(
            f"{user_line()}: {wanted}, whose entry {place} is {asked}, {got}; "
            "lsrl.bound(x, low, high, step=) promises bounds and grid"
        )


def _no_table(table: Matrix) -> Signal:
    raise ProgramError(f"a table of {table.rows} rows is read by a vector")


def _of_integers(signal: Signal) -> _Given:
    """Integers as symbols: a token looks rows up, others are compared with each symbol."""
    op = signal.trace.builder.nodes[signal.index].op
    if isinstance(op, ops.Input) and isinstance(op.type, Token):
        size = op.type.size
        return _Given(signal, lambda table: record(ops.Lookup(Matrix(table.csr[:size])), signal))

    def row(table: Matrix) -> Signal:
        if table.is_identity:
            return one_hot(signal, table.columns)
        return lookup(signal, table.dense())

    return _Given(signal, row)


def _of_marks(kind: Token, signal: Signal) -> _Given:
    """A one-hot signal as symbols: where none is on, it is symbol 0."""
    node = signal.trace.builder.nodes[signal.index]
    if isinstance(node.op, ops.Lookup) and node.op.table.is_identity:
        return _of_integers(Signal(signal.trace, node.operands[0]))
    others = signal[1:]
    number = known(np.arange(1, kind.size) @ others, 0, kind.size - 1)
    marks = known(concat(1 - others.sum(), others), 0, 1, exclusive=True)
    marks.trace.full.add(marks.index)

    def row(table: Matrix) -> Signal:
        return marks if table.is_identity else affine([(table.transposed, marks)])

    return _Given(number, row)
