"""The file format of saved models: safetensors, with the program and its schedule as JSON."""

import dataclasses
import hashlib
import json
import os
from importlib.metadata import version
from typing import Any, NamedTuple, cast

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
from lsrl.ir.numbers import Array, same_bits
from lsrl.ir.types import Token, Vector
from lsrl.language.program import Program
from lsrl.options import Options
from lsrl.schedule import Levels

FORMAT = "lsrl-model"
VERSION = 1

_OPS = {op.__name__: op for op in ops.ALL_OPS}


class SavedModel(NamedTuple):
    """What a file holds."""

    program: Program
    target: str
    options: Options
    dtype: str
    levels: Levels
    parameters: dict[str, Array]
    alteration: dict[str, Any] | None


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
    alteration: dict[str, Any] | None = None,
) -> None:
    """Write a model whole or not at all: to a file beside the old one, then put in its place."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "lsrl": version("lsrl"),
        "target": target,
        "options": options._asdict(),
        "dtype": dtype,
        "program": _program_to_json(program),
        "levels": [[node, *position] for node, position in sorted(levels.items())],
        "labels": labels,
        "certificate": certificate,
        **({} if alteration is None else {"alteration": alteration}),
    }
    text = json.dumps(header)
    # safetensors has no bfloat16 in numpy; the bits travel as uint16.
    arrays = {name: _bits(np.ascontiguousarray(array)) for name, array in parameters.items()}
    # One entry, since safetensors writes several in an order of its own, anew each time.
    content = to_safetensors(arrays, {"lsrl": f"{_checksum(text, arrays)} {text}"})
    replace_file(path, content)


def read(path: str | os.PathLike[str]) -> SavedModel:
    """Read and check a file.

    Raises:
      FormatError: damaged, truncated, foreign, or of a newer version.
    """
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, ValueError, TypeError) as error:
        raise bad(path, f"not a whole safetensors file ({error})") from error
    if "lsrl" not in metadata:
        raise bad(path, "a safetensors file, but no saved LSRL model")
    checksum, _, text = metadata["lsrl"].partition(" ")
    if checksum != _checksum(text, arrays):
        raise bad(path, "the checksum differs, so some bytes were changed")
    try:
        header = json.loads(text)
        if header["format"] != FORMAT or header["version"] > VERSION:
            raise bad(
                path, f"format {header['format']} version {header['version']} is newer than this"
            )
        dtype = header["dtype"]
        return SavedModel(
            _program_from_json(header["program"]),
            header["target"],
            Options(**header["options"]),
            dtype,
            {node: (reads, last) for node, reads, last in header["levels"]},
            {name: _unbits(array, dtype) for name, array in arrays.items()},
            header.get("alteration"),
        )
    except FormatError:
        raise
    except (LsrlError, KeyError, TypeError, ValueError, IndexError) as error:
        raise bad(path, f"its header can't be read ({error!r})") from error


def restore(path: str | os.PathLike[str], module: Any, parameters: dict[str, Array]) -> None:
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


def bad(path: str | os.PathLike[str], why: str) -> FormatError:
    """The error for a file that is no model of this version."""
    return FormatError(
        f"{os.fspath(path)}: expected a model saved by model.save, got something else: {why}; "
        "save it again"
    )


def program_content(program: Program, lines: bool) -> dict[str, Any]:
    """What a program computes, as JSON data, with or without the lines it was written on."""
    content = _program_to_json(program)
    del content["documentation"]
    for node in content["nodes"] if not lines else ():
        del node["sources"]
    return content


def weights_digest(parameters: dict[str, Array]) -> str:
    """Which weights something was proven of, where none can be compiled to compare them with."""
    return _checksum("", {name: _bits(array) for name, array in parameters.items()})


def _bits(array: Array) -> Array:
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _unbits(array: Array, dtype: str) -> Array:
    if dtype != "bfloat16" or array.dtype != np.uint16:
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)


def _checksum(text: str, arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(repr((arrays[name].shape, str(arrays[name].dtype))).encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _program_to_json(program: Program) -> dict[str, Any]:
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


def _program_from_json(data: dict[str, Any]) -> Program:
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
        None if output is None else _from_json(output),
        data["documentation"],
    )


def _to_json(value: Any) -> Any:
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
    return value


def _from_json(value: Any) -> Any:
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
