"""The files of models and states: safetensors with a JSON header; of a model, program and schedule.

A sparse parameter lies in a file as three arrays, and its shape in the header.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import NamedTuple, Protocol, TypedDict, TypeVar, cast

import numpy as np
import scipy.sparse as sp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from lsrl import schema
from lsrl.arguments import shown
from lsrl.errors import FormatError, LsrlError, NewerSchemaError
from lsrl.folders import replace_file
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.levels import Levels
from lsrl.options import Options
from lsrl.parameters import Parameter, alike, csr_of, same_bits
from lsrl.program_json import program_from_json, program_to_json
from lsrl.schema import FieldError, Json, Reader


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
Taken = TypeVar("Taken")

_PARTS = ("data", "indices", "indptr")  # of a sparse array
# What safetensors calls the types of the arrays that files hold.
_DTYPES = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F32", "F64"})
_NAMED = schema.one_of("float32", "float64", "bfloat16")
# Fields of every file.
_COMMON: Mapping[str, Reader[object]] = {
    "format": schema.text,
    "version": schema.integer(1),
    "lsrl": schema.text,
    "dtype": _NAMED,
    "sparse": schema.named(schema.listed(schema.integer(0), 2)),
}
# Fields of a model; what is only said for whoever reads the file counts too.
_MODEL: Mapping[str, Reader[object]] = {
    "target": schema.text,
    "options": schema.reader_of(Options),
    "program": program_from_json,
    "levels": schema.listed(schema.listed(schema.integer(0), 3)),
    "labels": schema.listed(schema.listed(schema.text)),
    "certificate": schema.text,
    "alteration": schema.record(
        {
            "circuit": schema.anything,
            "card": schema.anything,
            "certificate": schema.anything,
            "weights": schema.text,
        },
        ("weights",),  # files that older versions wrote have none
    ),
}


class AlterationJson(TypedDict, total=False):
    """What is known of a network that the compiler did not make as it is."""

    circuit: Json
    card: dict[str, Json]
    certificate: dict[str, Json]
    weights: str


class SavedModel(NamedTuple):
    """What a file holds."""

    program: Program
    target: str
    options: Options
    dtype: str
    levels: Levels
    parameters: dict[str, Parameter]
    alteration: AlterationJson | None


def model_content(
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
) -> bytes:
    """What the file of a model holds."""
    fields = {
        "target": target,
        "options": options._asdict(),
        "dtype": dtype,
        "program": program_to_json(program),
        "levels": [[node, *position] for node, position in sorted(levels.items())],
        "labels": labels,
        "certificate": certificate,
        **({} if alteration is None else {"alteration": alteration}),
    }
    return content_of(MODEL, fields, parameters)


def content_of(
    format: Format, fields: Mapping[str, object], parameters: Mapping[str, Parameter]
) -> bytes:
    """A file of arrays and a header.

    Args:
      format: its kind.
      fields: of the header; where it is read again, it has a "dtype".
      parameters: the arrays.
    """
    shapes = _sparse_shapes(parameters)
    header = {"format": format.name, "version": format.version, "lsrl": version("lsrl"), **fields}
    text = json.dumps({**header, **({"sparse": shapes} if shapes else {})})
    arrays = _parts(parameters)
    # One entry, since safetensors writes several in an order of its own, anew each time.
    return to_safetensors(arrays, {"lsrl": f"{_checksum(text, arrays)} {text}"})


def write(
    path: str | os.PathLike[str],
    format: Format,
    fields: Mapping[str, object],
    parameters: Mapping[str, Parameter],
) -> None:
    """Write what `content_of` makes, whole or not at all."""
    replace_file(path, content_of(format, fields, parameters))


def read(path: str | os.PathLike[str]) -> SavedModel:
    """Read and check a model's file.

    Raises:
      FormatError: damaged, truncated, foreign, or of a newer version.
    """

    def taken(header: dict[str, object], parameters: dict[str, Parameter]) -> SavedModel:
        levels = cast(tuple[tuple[int, int, int], ...], header["levels"])
        if len({node for node, _, _ in levels}) != len(levels):
            raise FieldError("each node once", shown(levels), "levels")
        return SavedModel(
            cast(Program, header["program"]),
            cast(str, header["target"]),
            cast(Options, header["options"]),
            cast(str, header["dtype"]),
            {node: (reads, last) for node, reads, last in levels},
            parameters,
            cast("AlterationJson | None", header.get("alteration")),
        )

    return read_as(path, MODEL, _MODEL, taken, ("alteration",))


def read_as(
    path: str | os.PathLike[str],
    format: Format,
    fields: Mapping[str, Reader[object]],
    take: Callable[[dict[str, object], dict[str, Parameter]], Taken],
    optional: tuple[str, ...] = (),
) -> Taken:
    """Read and check a file.

    Args:
      path: the file.
      format: its kind.
      fields: of its header, beside those of every file, with what reads each.
      take: makes what it holds of its header and its arrays; a `FieldError` that it raises names a
        field.
      optional: fields that may be missing.

    Raises:
      FormatError: damaged, truncated, foreign, or of a newer version; names the field.
      OSError: the file can't be read.
    """
    try:
        metadata, arrays = read_arrays(path)
        if "lsrl" not in metadata:
            raise bad(path, "a safetensors file, but no saved LSRL model", format)
        checksum, _, text = metadata["lsrl"].partition(" ")
        if checksum != _checksum(text, arrays):
            raise bad(path, "the checksum differs, so some bytes were changed", format)
        said = schema.parse(text)
        _check_format(path, said, format)
        known = {**_COMMON, **fields}
        header: dict[str, object] = schema.record(known, ("sparse", *optional))(said)
        return take(header, _whole(arrays, header))
    except FieldError as error:
        raise bad(path, f"its header can't be read: {error}", format) from error


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Array]]:
    """The metadata and the arrays of a safetensors file, all of types that numpy has.

    Raises:
      FieldError: it is none.
      OSError: the file can't be read.
    """
    # What can't be opened is told of with its path here, and without one by safe_open.
    with open(path, "rb"):
        pass
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                kind = file.get_slice(name).get_dtype()
                if kind not in _DTYPES:
                    raise FieldError("an array of a type that numpy has", kind, name)
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except FieldError:
        raise
    except (SafetensorError, ValueError, TypeError) as error:
        raise FieldError("a whole safetensors file", f"{error}", "the file") from error


def _check_format(path: str | os.PathLike[str], said: object, format: Format) -> None:
    """Of another format or of a newer version the fields are not looked at."""
    if not isinstance(said, dict) or not isinstance(said.get("format"), str):
        raise FieldError("an object with the format's name", shown(said))
    if said["format"] != format.name:
        raise bad(path, f"a file of the format {said['format']}", format)
    version = _COMMON["version"](said.get("version"))
    if cast(int, version) > format.version:
        raise NewerSchemaError(
            f"{os.fspath(path)}: expected {format.what} of version {format.version} at most, got "
            f"version {version}; read it with a newer LSRL, or save it again with this one"
        )


class Holder(Protocol):
    """A network, as far as files go."""

    def parameter_arrays(self) -> dict[str, Parameter]:
        """All parameters by flat name."""

    def replace_parameters(self, arrays: Mapping[str, Parameter]) -> None:
        """Set parameters by flat name."""


def restore(path: str | os.PathLike[str], module: Holder, parameters: dict[str, Parameter]) -> None:
    """Put saved parameters into a module, those that differ from the module's own bit for bit.

    Raises:
      FormatError: names, shapes, dtypes or places of weights differ from the module's.
    """
    own = module.parameter_arrays()
    missing = own.keys() - parameters.keys()
    if missing:
        raise bad(path, f"it lacks the parameters {', '.join(sorted(missing))}")
    for name, mine in own.items():
        if not alike(parameters[name], mine):
            given = parameters[name]
            kinds = [f"{one.shape} of {one.dtype}" for one in (mine, given)]
            why = f"its program has the parameter {name!r} with shape {kinds[0]}, it has {kinds[1]}"
            raise bad(path, f"its parameters do not fit its program ({why})")
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


def _whole(arrays: dict[str, Array], header: Mapping[str, object]) -> dict[str, Parameter]:
    """The parameters of a file, each checked in full."""
    shapes = cast("dict[str, tuple[int, int]]", header.get("sparse", {}))
    found: dict[str, Parameter] = {
        name: _unbits(array, cast(str, header["dtype"]))
        for name, array in arrays.items()
        if "/" not in name
    }
    parts = {f"{name}/{part}" for name in shapes for part in _PARTS}
    if parts != arrays.keys() - found.keys() or shapes.keys() & found.keys():
        raise FieldError(f"the arrays {', '.join(parts)}", shown(sorted(arrays)), "sparse")
    for name, shape in shapes.items():
        data, indices, starts = (arrays[f"{name}/{part}"] for part in _PARTS)
        try:
            found[name] = csr_of(data, indices, starts, shape)
        except LsrlError as error:
            raise FieldError("a sparse matrix", f"{error}", f"sparse.{name}") from error
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
