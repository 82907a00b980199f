"""The files of models and states: safetensors with a JSON header; of a model, program and schedule.

A sparse parameter lies in a file as three arrays, and its shape in the header.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, cast

import numpy as np
import scipy.sparse as sp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from lsrl.errors import FormatError, LsrlError
from lsrl.folders import replace_file
from lsrl.ir import ops
from lsrl.ir.graph import Graph, GraphBuilder
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Source
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token, Vector
from lsrl.language.program import Program
from lsrl.options import Legalise, Options
from lsrl.parameters import Parameter, same_bits
from lsrl.schedule import Levels


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      name: in the header.
      version: the newest that is read, and that is written.
      what: it is, as errors say.
    """

    name: str
    version: int
    what: str


MODEL = Format("lsrl-model", 1, "a model saved by model.save")
Json: TypeAlias = str | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
Taken = TypeVar("Taken")

_OPS: dict[str, Callable[..., ops.Op]] = {op.__name__: op for op in ops.ALL_OPS}
_PARTS = ("data", "indices", "indptr")  # of a sparse array


class OptionsJson(TypedDict, total=False):
    """What `Options` holds."""

    legalise: Legalise
    robust: bool
    inspectable: bool
    verbatim: bool


class NodeJson(TypedDict, total=False):
    """A node of a graph."""

    op: str
    fields: dict[str, Json]
    operands: tuple[int, ...]
    names: tuple[str, ...]
    sources: tuple[Source, ...]


class ProgramJson(TypedDict, total=False):
    """A program."""

    name: str
    max_length: int | None
    output_type: Json
    documentation: str
    tokens: int
    output: int
    nodes: list[NodeJson]


class AlterationJson(TypedDict, total=False):
    """What is known of a network that the compiler did not make as it is."""

    circuit: Json
    card: dict[str, Json]
    certificate: dict[str, Json]
    weights: str


class Header(TypedDict, total=False):
    """Of a file: what all have, then what models have, and states."""

    format: str
    version: int
    sparse: dict[str, list[int]]
    dtype: str
    target: str
    options: OptionsJson
    program: ProgramJson
    levels: list[list[int]]
    alteration: AlterationJson
    owner: dict[str, str]
    position: int
    batch: int | None


class SavedModel(NamedTuple):
    """What a file holds."""

    program: Program
    target: str
    options: Options
    dtype: str
    levels: Levels
    parameters: dict[str, Array]
    alteration: AlterationJson | None


def save(
    path: str | os.PathLike[str],
    parameters: dict[str, Array],
    *,
    program: Program,
    target: str,
    options: Options,
    dtype: str,
    levels: Levels,
    labels: tuple[tuple[str, ...], ...],
    certificate: str,
    alteration: AlterationJson | None = None,
) -> None:
    """Write a model whole or not at all: to a file beside the old one, then put in its place."""
    fields = {
        "target": target,
        "options": options._asdict(),
        "dtype": dtype,
        "program": _program_to_json(program),
        "levels": [[node, *position] for node, position in sorted(levels.items())],
        "labels": labels,
        "certificate": certificate,
        **({} if alteration is None else {"alteration": alteration}),
    }
    write(path, MODEL, fields, parameters)


def write(
    path: str | os.PathLike[str],
    format: Format,
    fields: Mapping[str, object],
    parameters: Mapping[str, Parameter],
) -> None:
    """Write arrays and a header whole or not at all.

    Args:
      path: the file.
      format: its kind.
      fields: of the header; where it is read again, it has a "dtype".
      parameters: the arrays.
    """
    shapes = _sparse_shapes(parameters)
    header = {"format": format.name, "version": format.version, "lsrl": version("lsrl"), **fields}
    text = json.dumps({**header, **({"sparse": shapes} if shapes else {})})
    arrays = _parts(parameters)
    # One entry, since safetensors writes several in an order of its own, anew each time.
    content = to_safetensors(arrays, {"lsrl": f"{_checksum(text, arrays)} {text}"})
    replace_file(path, content)


def read(path: str | os.PathLike[str]) -> SavedModel:
    """Read and check a model's file.

    Raises:
      FormatError: damaged, truncated, foreign, or of a newer version.
    """

    def taken(header: Header, parameters: dict[str, Parameter]) -> SavedModel:
        return SavedModel(
            _program_from_json(header["program"]),
            header["target"],
            Options(**header["options"]),
            header["dtype"],
            {node: (reads, last) for node, reads, last in header["levels"]},
            parameters,
            header.get("alteration"),
        )

    return read_as(path, MODEL, taken)


def read_as(
    path: str | os.PathLike[str],
    format: Format,
    take: Callable[[Header, dict[str, Parameter]], Taken],
) -> Taken:
    """Read and check a file.

    Args:
      path: the file.
      format: its kind.
      take: makes what it holds of its header and its arrays.

    Raises:
      FormatError: damaged, truncated, foreign, or of a newer version.
    """
    # What can't be opened is told of with its path here, and without one by safe_open.
    with open(path, "rb"):
        pass
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise bad(path, f"not a whole safetensors file ({error})", format) from error
    if "lsrl" not in metadata:
        raise bad(path, "a safetensors file, but no saved LSRL model", format)
    checksum, _, text = metadata["lsrl"].partition(" ")
    if checksum != _checksum(text, arrays):
        raise bad(path, "the checksum differs, so some bytes were changed", format)
    try:
        header = json.loads(text)
        if header["format"] != format.name:
            raise bad(path, f"a file of the format {header['format']}", format)
        if header["version"] > format.version:
            newer = f"format {format.name} version {header['version']} is newer than this"
            raise bad(path, newer, format)
        return take(header, _whole(arrays, header.get("sparse", {}), header["dtype"]))
    except FormatError:
        raise
    except (LsrlError, KeyError, TypeError, ValueError, IndexError) as error:
        raise bad(path, f"its header can't be read ({error!r})", format) from error


class Holder(Protocol):
    """A network, as far as files go."""

    def parameter_arrays(self) -> dict[str, Parameter]:
        """All parameters by flat name."""

    def replace_parameters(self, arrays: Mapping[str, Parameter]) -> None:
        """Set parameters by flat name."""


def restore(path: str | os.PathLike[str], module: Holder, parameters: dict[str, Parameter]) -> None:
    """Put saved parameters into a module, those that differ from the module's own bit for bit.

    Raises:
      FormatError: names or shapes differ from the module's.
    """
    own = module.parameter_arrays()
    missing = own.keys() - parameters.keys()
    if missing:
        raise bad(path, f"it lacks the parameters {', '.join(sorted(missing))}")
    try:
        others = {name: a for name, a in parameters.items() if not same_bits(a, own.get(name))}
        module.replace_parameters(others)
    except (LsrlError, KeyError, ValueError) as error:
        raise bad(path, f"its parameters do not fit its program ({error})") from error


def bad(
    path: str | os.PathLike[str], why: str, format: Format = MODEL, cure: str = "save it again"
) -> FormatError:
    """The error for a file that is not of this kind and version."""
    return FormatError(
        f"{os.fspath(path)}: expected {format.what}, got something else: {why}; {cure}"
    )


def program_content(program: Program, lines: bool) -> ProgramJson:
    """What a program computes, as JSON data, with or without the lines it was written on."""
    content = _program_to_json(program)
    del content["documentation"]
    for node in content["nodes"] if not lines else ():
        del node["sources"]
    return content


def weights_digest(parameters: Mapping[str, Parameter]) -> str:
    """Which weights something is said of, where none can be compiled to compare them with."""
    shapes = _sparse_shapes(parameters)
    return _checksum(json.dumps(shapes) if shapes else "", _parts(parameters))


def _sparse_shapes(parameters: Mapping[str, Parameter]) -> dict[str, list[int]]:
    return {name: list(p.shape) for name, p in parameters.items() if sp.issparse(p)}


def _parts(parameters: Mapping[str, Parameter]) -> dict[str, Array]:
    """Parameters as the arrays of a file, in which no name has a slash but those of parts."""
    found = {}
    for name, parameter in parameters.items():
        if sp.issparse(parameter):
            for part in _PARTS:
                found[f"{name}/{part}"] = getattr(parameter, part)
        else:
            # safetensors has no bfloat16 in numpy; the bits travel as uint16.
            array = np.ascontiguousarray(parameter)
            found[name] = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return found


def _whole(
    arrays: dict[str, Array], shapes: Mapping[str, Sequence[int]], dtype: str
) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {
        name: _unbits(array, dtype) for name, array in arrays.items() if "/" not in name
    }
    for name, shape in shapes.items():
        parts = tuple(arrays[f"{name}/{part}"] for part in _PARTS)
        whole = sp.csr_array(parts, shape=tuple(shape))
        whole.check_format(full_check=True)
        found[name] = whole
    return found


def _unbits(array: Array, dtype: str) -> Array:
    if dtype != "bfloat16" or array.dtype != np.uint16:
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)


def _checksum(text: str, arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items(), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _program_to_json(program: Program) -> ProgramJson:
    graph = program.graph
    return {
        "name": program.name,
        "max_length": program.max_length,
        "output_type": None if program.output_type is None else _to_json(program.output_type),
        "documentation": program.documentation,
        "tokens": graph.tokens,
        "output": graph.output,
        "nodes": [
            {
                "op": type(node.op).__name__,
                "fields": {
                    parameter.name: _to_json(getattr(node.op, parameter.name))
                    for parameter in dataclasses.fields(node.op)
                },
                "operands": node.operands,
                "names": node.names,
                "sources": node.sources,
            }
            for node in graph.nodes
        ],
    }


def _program_from_json(data: ProgramJson) -> Program:
    builder = GraphBuilder(data["tokens"])
    for position, node in enumerate(data["nodes"]):
        fields = {name: _from_json(value) for name, value in node["fields"].items()}
        index = builder.add(_OPS[node["op"]](**fields), *node["operands"])
        if index != position:
            raise ValueError(f"node {position} repeats node {index}")
        builder.describe(index, node["names"], [Source(*source) for source in node["sources"]])
    graph: Graph = builder.build(data["output"])
    output = data["output_type"]
    if isinstance(output, int):  # as it was before symbols had names
        output = {"token": output}
    return Program(
        data["name"],
        graph,
        data["max_length"],
        None if output is None else cast(Token, _from_json(output)),
        data["documentation"],
    )


def _to_json(value: object) -> Json:
    if isinstance(value, Matrix):
        csr = value.csr
        return {
            "matrix": [value.rows, value.columns],
            "data": csr.data.tolist(),
            "indices": csr.indices.tolist(),
            "indptr": csr.indptr.tolist(),
        }
    if isinstance(value, Token):
        return {"token": value.size, **({"names": value.names} if value.names else {})}
    if isinstance(value, Vector):
        return {"vector": value.width, "low": value.low, "high": value.high, "step": value.step}
    if isinstance(value, tuple):
        return [_to_json(entry) for entry in value]
    return cast(Json, value)


def _from_json(value: Json) -> object:
    if isinstance(value, list):
        return tuple(_from_json(entry) for entry in value)
    if not isinstance(value, dict):
        return value
    if "matrix" in value:
        parts = (value["data"], value["indices"], value["indptr"])
        return Matrix(sp.csr_array(parts, shape=tuple(value["matrix"])))
    if "token" in value:
        return Token(value["token"], value.get("names"))
    return Vector(
        cast(int, value["vector"]), low=value["low"], high=value["high"], step=value["step"]
    )
