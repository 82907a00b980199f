"""Programs as JSON data: written node by node, and checked in full when they are read."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypedDict, cast, get_type_hints

import numpy as np

from lsrl.arguments import shown
from lsrl.errors import LsrlError, ProgramError
from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import GraphBuilder
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Node, Source
from lsrl.ir.types import InputType, Token, Vector
from lsrl.language.feedback import COMPARISONS, Feedback, Halt, MemoryMap
from lsrl.language.program import Program
from lsrl.parameters import csr_of
from lsrl.schema import (
    LARGEST,
    FieldError,
    Json,
    Reader,
    integer,
    listed,
    maybe,
    named,
    number,
    one_of,
    paired,
    reader_of,
    record,
    text,
)

# Columns of tables that have no entry, of all tables together: they cost a file nothing, and every
# pass something.
MOST_EMPTY = 1 << 16
# The longest side of a matrix, as scipy counts.
LONGEST = 2**31 - 1


class NodeJson(TypedDict, total=False):
    """A node of a graph."""

    op: str
    fields: dict[str, Json]
    operands: tuple[int, ...]
    names: tuple[str, ...]
    sources: Sequence[tuple[str, int] | Source]


class MemoryJson(TypedDict):
    """A memory map."""

    address: int
    value: int | tuple[int, int]
    segments: tuple[tuple[int, int], ...]
    initial: float
    where: tuple[int, float] | None


class FeedbackJson(TypedDict):
    """What a program feeds back."""

    input: str
    output: tuple[int, int]
    halt: Halt | None
    keys: tuple[str, int] | None
    text: tuple[int, float] | None
    memory: MemoryJson | None
    idle: dict[str, tuple[float, ...]]


class ProgramJson(TypedDict, total=False):
    """A program."""

    name: str
    max_length: int | None
    output_type: Json
    documentation: str
    tokens: int
    output: int
    nodes: list[NodeJson]
    feedback: FeedbackJson


# ---------------------------------------------------------------- writing


def program_to_json(program: Program) -> ProgramJson:
    """A program as JSON data, with the lines that it was written on."""
    nodes = [_node_to_json(node) for node in program.graph.nodes]
    return {**_before_nodes(program), "nodes": nodes, **_behind_nodes(program)}


def _before_nodes(program: Program) -> ProgramJson:
    return {
        "name": program.name,
        "max_length": program.max_length,
        "output_type": None if program.output_type is None else type_to_json(program.output_type),
        "documentation": program.documentation,
        "tokens": program.graph.tokens,
        "output": program.graph.output,
    }


def _node_to_json(node: Node) -> NodeJson:
    return {
        "op": type(node.op).__name__,
        "fields": {
            parameter.name: _to_json(getattr(node.op, parameter.name))
            for parameter in dataclasses.fields(node.op)
            if parameter.name != "step" or node.op.step  # type: ignore[attr-defined]
        },
        "operands": node.operands,
        "names": node.names,
        "sources": [line if line.text else line[:2] for line in node.sources],
    }


def _behind_nodes(program: Program) -> ProgramJson:
    # Without one, as it was written before there were loops.
    return {} if program.feedback is None else {"feedback": _feedback_to_json(program.feedback)}


def _feedback_to_json(feedback: Feedback) -> FeedbackJson:
    parts = {field.name: getattr(feedback, field.name) for field in dataclasses.fields(feedback)}
    memory = None if feedback.memory is None else dataclasses.asdict(feedback.memory)
    return cast(FeedbackJson, {**parts, "memory": memory, "idle": dict(feedback.idle)})


def program_content(program: Program, lines: bool) -> ProgramJson:
    """What a program computes, as JSON data, with or without the lines it was written on."""
    content = program_to_json(program)
    del content["documentation"]
    for node in content["nodes"] if not lines else ():
        del node["sources"]
    return content


def content_text(program: Program) -> Iterator[str]:
    """What `json.dumps` writes of `program_content` without lines, a node at a time.

    As data all nodes take ten times the room of the program.
    """
    head = _before_nodes(program)
    del head["documentation"]
    yield f'{json.dumps(head)[:-1]}, "nodes": ['
    for place, node in enumerate(program.graph.nodes):
        content = _node_to_json(node)
        del content["sources"]
        yield f"{', ' if place else ''}{json.dumps(content)}"
    rest = _behind_nodes(program)
    yield f"], {json.dumps(rest)[1:]}" if rest else "]}"


def type_to_json(kind: InputType) -> Json:
    """The type of an input or an output as JSON data."""
    if isinstance(kind, Token):
        return {"token": kind.size, **({"names": kind.names} if kind.names else {})}
    return {"vector": kind.width, "low": kind.low, "high": kind.high, "step": kind.step}


def _to_json(value: object) -> Json:
    if isinstance(value, Matrix):
        csr = value.csr
        return {
            "matrix": [value.rows, value.columns],
            "data": csr.data.tolist(),
            "indices": csr.indices.tolist(),
            "indptr": csr.indptr.tolist(),
        }
    if isinstance(value, Token | Vector):
        return type_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(entry) for entry in value]
    return cast(Json, value)


# ---------------------------------------------------------------- reading


@np.errstate(
    all="ignore"
)  # what float64 can't hold is infinite in the facts, as when it was traced
def program_from_json(value: object) -> Program:
    """The program that JSON data tell.

    Raises:
      FieldError: a field is missing or wrong, or the nodes do not fit together; says which.
    """
    data = _PROGRAM(value)
    name, limit, output_type, documentation = (
        cast(str, data["name"]),
        cast("int | None", data["max_length"]),
        cast("InputType | None", data["output_type"]),
        cast(str, data["documentation"]),
    )
    tokens, output = cast(int, data["tokens"]), cast(int, data["output"])
    if limit is not None and limit != tokens:
        raise FieldError(f"{limit}, the max_length", f"{tokens}", "tokens")
    builder, nodes = GraphBuilder(tokens), cast("tuple[_NodeRead, ...]", data["nodes"])
    _check_tables(nodes)
    for position, node in enumerate(nodes):
        try:
            _add(builder, position, node, limit)
        except LsrlError as error:
            wrong = (
                error
                if isinstance(error, FieldError)
                else FieldError("a node that fits", f"{error}")
            )
            raise wrong.within(f"nodes[{position}]") from None
    if not 0 <= output < len(nodes):
        raise FieldError(f"one of {len(nodes)} nodes", f"{output}", "output")
    _check_signature(builder, output, output_type)
    kind = output_type if isinstance(output_type, Token) else None
    feedback = cast("Feedback | None", data.get("feedback"))
    graph = builder.build(output)
    try:
        return Program(name, graph, limit, kind, documentation, feedback=feedback, recorded=False)
    except ProgramError as error:
        raise FieldError("feedback that fits the program", f"{error}", "feedback") from None


def _add(builder: GraphBuilder, position: int, node: "_NodeRead", limit: int | None) -> None:
    late = next((operand for operand in node.operands if not 0 <= operand < position), None)
    if late is not None:
        raise FieldError(f"nodes before {position}", f"{late}", "operands")
    operands = [builder.facts[operand] for operand in node.operands]
    wrong = _wrong(node.op, operands)
    if wrong is not None:
        raise wrong
    index = builder.add(node.op, *node.operands)
    if index != position:
        raise FieldError("a node that no other is equal to", f"node {index} again")
    if limit is None and node.op.stateful and not node.op.settled(operands, builder.tokens):
        raise FieldError("a max_length, since the node grows with the length", "none")
    builder.describe(index, node.names, node.sources)


def _wrong(op: ops.Op, operands: list[Facts]) -> FieldError | None:
    """What an op's parameters or operands do not keep to that the language sees to; else None."""
    place = _CONDITIONS.get(type(op))
    if place is not None and place < len(operands) and not operands[place].boolean:
        return FieldError("a condition that is 0 or 1", f"{operands[place]}", f"operands[{place}]")
    if isinstance(op, ops.Lookup) and operands:
        ids, last = operands[0], op.table.rows - 1
        if not (ids.integer and ids.low.min() >= 0 and ids.high.max() <= last):
            return FieldError(f"integers from 0 to {last}", f"{ids}", "operands[0]")
    if isinstance(op, ops.Periodic) and not op.table.rows:
        return FieldError("a table with rows", f"{op.table}", "fields.table")
    if isinstance(op, ops.Bound | ops.RecurrentState) and any(
        low > high for low, high in zip(op.low, op.high, strict=False)
    ):
        return FieldError("low that does not exceed high", shown(op.low), "fields.low")
    if (
        isinstance(op, ops.Recall)
        and operands
        and not (operands[0].one_hot and operands[-1].one_hot)
    ):
        return FieldError("at most one cell", f"{operands[0]}", "operands")
    if isinstance(op, ops.ThresholdState) and not {0.0, 1.0} >= set(op.initial):
        return FieldError("zeros and ones", shown(op.initial), "fields.initial")
    return None


# Which operand is a condition.
_CONDITIONS: Mapping[type[ops.Op], int] = {
    ops.Select: 0,
    ops.Latch: 1,
    ops.SelectiveState: 0,
    ops.Hold: 1,
    ops.SwapState: 0,
}


def _check_signature(builder: GraphBuilder, output: int, output_type: InputType | None) -> None:
    """The inputs are numbered and named apart, and the output is what it is declared to be."""
    inputs = [node.op for node in builder.nodes if isinstance(node.op, ops.Input)]
    if sorted(op.index for op in inputs) != list(range(len(inputs))) or not inputs:
        raise FieldError(
            "inputs with the numbers 0, 1, …", shown([op.index for op in inputs]), "nodes"
        )
    if len({op.label for op in inputs}) != len(inputs):
        raise FieldError("inputs of different names", shown([op.label for op in inputs]), "nodes")
    if output_type is None:
        return
    facts, declared = builder.facts[output], output_type.facts()
    inside = facts.width == declared.width and bool(
        (facts.low >= declared.low).all() and (facts.high <= declared.high).all()
    )
    if not inside or (isinstance(output_type, Token) and not facts.integer):
        raise FieldError(f"what the output is, {facts}", f"{output_type}", "output_type")


def _check_tables(nodes: "tuple[_NodeRead, ...]") -> None:
    """No file tells of far more columns than it has entries for."""
    tables = [n.op.table for n in nodes if isinstance(n.op, ops.Lookup | ops.Periodic)]
    empty = sum(max(0, table.columns - table.nonzeros) for table in tables)
    if empty > MOST_EMPTY:
        sizes = [f"{table.rows}x{table.columns}" for table in tables]
        raise FieldError(
            f"tables with at most {MOST_EMPTY} columns without an entry", shown(sizes), "nodes"
        )


# ---------------------------------------------------------------- the fields


@dataclasses.dataclass(frozen=True)
class _NodeRead:
    """A node as it lies in a file."""

    op: ops.Op
    operands: tuple[int, ...]
    names: tuple[str, ...]
    sources: tuple[Source, ...]


_MATRIX: Reader[dict[str, object]] = record({
    "matrix": paired(integer(0, LONGEST), integer(0, LONGEST)),
    "data": listed(number(infinite=False)),
    "indices": listed(integer(0, LONGEST)),
    "indptr": listed(integer(0, LONGEST)),
})  # fmt: skip


def _matrix(value: object) -> Matrix:
    parts = cast(dict[str, tuple[int, ...]], _MATRIX(value))
    rows, columns = parts["matrix"]
    data = np.array(parts["data"], np.float64)
    indices, starts = (np.array(parts[name], np.int64) for name in ("indices", "indptr"))
    try:
        made = Matrix(csr_of(data, indices, starts, (rows, columns)))
    except LsrlError as error:
        raise FieldError("a sparse matrix", f"{error}") from None
    if not np.array_equal(made.csr.indices, indices):
        raise FieldError("entries in order, each once and none of them 0", shown(parts["data"]))
    return made


_TOKEN = record(
    {"token": integer(1), "names": maybe(listed(text))},
    ("names",),
    lambda token, names=None: Token(token, names),
)
_ENDS = listed(number(infinite=False))
_VECTOR = record(
    {"vector": integer(1), "low": _ENDS, "high": _ENDS, "step": maybe(_ENDS)},
    make=lambda vector, **ends: _vector(vector, **ends),
)


def _vector(width: int, **ends: tuple[float, ...] | None) -> Vector:
    for name, values in ends.items():
        if values is not None and len(values) != width:
            raise FieldError(f"{width} numbers, as the vector is wide", shown(values), name)
    if not any(ends["step"] or ()):
        ends["step"] = None  # older versions let a step of 0 stand for none
    return Vector(width, **ends)  # type: ignore[arg-type]


def type_from_json(value: object) -> InputType:
    """The type of an input or an output that JSON data tell.

    Raises:
      FieldError: says which field is wrong.
    """
    reader: Reader[InputType] = _VECTOR if isinstance(value, dict) and "vector" in value else _TOKEN
    try:
        return reader(value)
    except FieldError:
        raise
    except LsrlError as error:
        raise FieldError("a type", f"{error}") from None


def _output_type(value: object) -> InputType:
    """As it is, or as it was before symbols had names: their number alone."""
    if isinstance(value, int) and not isinstance(value, bool):
        return type_from_json({"token": value})
    return type_from_json(value)


_KINDS: Mapping[object, Reader[object]] = {
    Matrix: _matrix,
    InputType: type_from_json,
    float: number(infinite=False),
}
_INFINITE = listed(number())
# What the types of an op's fields do not say.
_FIELDS: Mapping[str, Reader[object]] = {
    "low": _INFINITE,
    "high": _INFINITE,
    "steps": integer(1),
    "points": integer(1, LONGEST),
    "step": listed(number(0.0, infinite=False)),
    "index": integer(0, LONGEST),
    "slope": number(2.0**-1000, 2.0**1000),
    "shift": number(0.0, 2.0**1000),
}


def _op_readers() -> dict[str, Reader[ops.Op]]:
    found: dict[str, Reader[ops.Op]] = {}
    for op in ops.ALL_OPS:
        hints, given = get_type_hints(op), dataclasses.fields(op)
        fields = {
            one.name: _FIELDS.get(one.name) or reader_of(hints[one.name], kinds=_KINDS)
            for one in given
        }
        # Those with a default came later than some files.
        optional = [one.name for one in given if one.default is not dataclasses.MISSING]
        found[op.__name__] = record(fields, optional, cast(Callable[..., ops.Op], op))
    return found


_OPS = _op_readers()


def _node(
    op: str,
    fields: object,
    operands: tuple[int, ...],
    names: tuple[str, ...],
    sources: tuple[Source, ...],
) -> _NodeRead:
    if op not in _OPS:
        raise FieldError(f"one of {', '.join(_OPS)}", shown(op), "op")
    try:
        made = _OPS[op](fields)
    except FieldError as error:
        raise error.within("fields") from None
    return _NodeRead(made, operands, names, sources)


_LINE, _EXPRESSION = paired(text, integer(0)), paired(text, integer(0), text)


def _source(value: object) -> Source:
    """A line, with the expression on it where that was known."""
    whole = isinstance(value, list) and len(value) == 3
    return Source(*cast("tuple[str, int]", (_EXPRESSION if whole else _LINE)(value)))


_NODE = record(
    {
        "op": text,
        "fields": lambda value: value,
        "operands": listed(integer(0)),
        "names": listed(text),
        "sources": listed(_source),
    },
    make=_node,
)
_OUTPUT, _NUMBER = integer(0, LONGEST), number(infinite=False)
_SPAN = paired(_OUTPUT, _OUTPUT)
_WHERE = maybe(paired(_OUTPUT, _NUMBER))


def _value(value: object) -> object:
    return (_SPAN if isinstance(value, list) else _OUTPUT)(value)


_MEMORY = record(
    {
        "address": _OUTPUT,
        "value": _value,
        "segments": listed(paired(integer(), integer())),
        "initial": _NUMBER,
        "where": _WHERE,
    },
    make=cast(Callable[..., object], MemoryMap),
)
_FEEDBACK = record(
    {
        "input": text,
        "output": _SPAN,
        "halt": maybe(paired(_OUTPUT, one_of(*COMPARISONS), _NUMBER)),
        "keys": maybe(paired(text, _OUTPUT)),
        "text": _WHERE,
        "memory": maybe(_MEMORY),
        "idle": named(listed(_NUMBER)),
    },
    make=cast(Callable[..., object], Feedback),
)


def _feedback(value: object) -> object:
    try:
        return _FEEDBACK(value)
    except FieldError:
        raise
    except LsrlError as error:
        raise FieldError("feedback", f"{error}") from None


_PROGRAM: Reader[dict[str, object]] = record(
    {
        "name": text,
        "max_length": maybe(integer(1)),
        "output_type": maybe(_output_type),
        "documentation": text,
        "tokens": integer(1, LARGEST),
        "output": integer(0),
        "nodes": listed(_NODE),
        "feedback": _feedback,
    },
    ("feedback",),
)
