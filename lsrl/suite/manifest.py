"""The manifest of a suite: every file with its hash, every model with its figures.

`manifest.json` holds `format`, `version`, `checksum` (see `lsrl.sealed`), `seed`, `versions` (of
the packages that decide the bytes), `code` (the hash of the source that they come from), `files`
(path to sha256), `programs`, `models` and `refusals` (program, target, variant and reason). Paths
are relative and have forward slashes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from lsrl import arguments, schema, sealed
from lsrl.errors import FormatError, HashError, MissingFileError, NewerSchemaError
from lsrl.schema import FieldError, Reader

FORM = sealed.Form("lsrl-suite", 2, sealed=2)  # older ones are read as they are
NAME = "manifest.json"
# Problems of one kind that an error lists.
LISTED = 5


@dataclass(frozen=True)
class ProgramRecord:
    """A program in the manifest.

    Attributes:
      name: of the program.
      family: of the program.
      folder: where its dataset lies, and the folders of its models.
      entry: its name in the library; empty where it was generated.
      settings: its parameters.
      signals: its named signals.
      held_back: whether its signals are kept apart.
    """

    name: str
    family: str
    folder: str
    entry: str
    settings: Mapping[str, object]
    signals: tuple[str, ...]
    held_back: bool = False


@dataclass(frozen=True)
class ModelRecord:
    """A model in the manifest.

    Attributes:
      program: name of its program.
      family: of its program.
      target: as for `lsrl.compile`.
      variant: a name out of `lsrl.suite.variants.VARIANTS`.
      folder: where it lies.
      exact: whether its outputs are the program's at every token.
      error_bound: the greatest error where they are not; None where nothing is certified.
      layers: depth.
      width: hidden units of the widest layer.
      parameters: number of parameters.
      nonzero: those that are not 0.
      measured: what a variant measured.
    """

    program: str
    family: str
    target: str
    variant: str
    folder: str
    exact: bool
    error_bound: float | None
    layers: int
    width: int
    parameters: int
    nonzero: int
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A model that there is not, with the reason."""

    program: str
    target: str
    variant: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a build wrote.

    Attributes:
      seed: of the build.
      versions: of the packages that decide the bytes.
      code: the hash of the source that they come from; see `lsrl.cache.code`.
      files: sha256 by relative path.
      programs: in the suite's order.
      models: by program, target and variant.
      refusals: models that there are not, with reasons.
    """

    seed: int
    versions: Mapping[str, str]
    code: str
    files: Mapping[str, str]
    programs: tuple[ProgramRecord, ...]
    models: tuple[ModelRecord, ...]
    refusals: tuple[Refusal, ...]

    def to_json(self) -> str:
        """The content of manifest.json."""
        return json.dumps(sealed.seal(FORM, asdict(self)), indent=1, sort_keys=True) + "\n"


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a directory.

    Args:
      directory: that `build` wrote.

    Returns:
      The manifest.

    Raises:
      MissingFileError: there is none.
      FormatError: it is damaged, or something else.
      NewerSchemaError: it is of a newer version.
    """
    path = arguments.path("read_manifest", directory) / NAME
    if not path.is_file():
        raise MissingFileError(
            f"{path}: expected the manifest of a suite, got no such file; build one, or finish an "
            f"interrupted build: lsrl suite build {os.fspath(directory)}"
        )
    try:
        return schema.read(Manifest, sealed.unseal(FORM, schema.parse(path.read_bytes())), _FIELDS)
    except sealed.NewerError as error:
        raise NewerSchemaError(
            f"{path}: expected a suite of a version that this LSRL reads, got a newer one ({error})"
        ) from error
    except FieldError as error:
        raise FormatError(
            f"{path}: expected the manifest of a suite, got something else ({error}); build it "
            "again"
        ) from error


def read_model_record(content: object) -> ModelRecord:
    """A model's record, of JSON data.

    Raises:
      FormatError: names the field that is missing or wrong.
    """
    return schema.read(ModelRecord, content, _FIELDS)


def place(value: object) -> str:
    """Reads a relative path that leads out of no folder."""
    text = schema.text(value)
    parts = text.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\\" in text or "\0" in text or ":" in parts[0]:
        raise FieldError("a relative path with forward slashes", arguments.shown(text))
    return text


def read_places(value: object) -> dict[str, str]:
    """Reads sha256 by relative path."""
    found = schema.named(schema.text)(value)
    for name in found:
        place(name)
    return found


_COUNT = schema.integer(0)
_FIELDS: Mapping[str, Reader[object]] = {
    **dict.fromkeys(("layers", "width", "parameters", "nonzero"), _COUNT),
    "folder": place,
    "files": read_places,
    "error_bound": schema.maybe(schema.number(0.0)),
}


def check_files(directory: str | os.PathLike[str], files: Mapping[str, str]) -> None:
    """Compare files with their hashes.

    Args:
      directory: where they lie.
      files: sha256 by relative path.

    Raises:
      MissingFileError: a file is not there; lists the first ones.
      HashError: a file has other bytes; lists the first ones, with both hashes.
    """
    root = Path(directory)
    missing = [name for name in files if not (root / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{root}: expected {len(files)} files, of which {len(missing)} are missing: "
            f"{_listed(missing)}; build again, and they are made anew"
        )
    wrong = [
        f"{name}: expected {expected}, got {found}"
        for name, expected in files.items()
        if (found := digest((root / name).read_bytes())) != expected
    ]
    if wrong:
        raise HashError(
            f"{root}: {len(wrong)} of {len(files)} files differ from the manifest: "
            f"{_listed(wrong)}; build again, and they are made anew"
        )


def _listed(rows: list[str]) -> str:
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return "; ".join(rows[:LISTED]) + more


def digest(content: bytes) -> str:
    """The sha256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def versions() -> dict[str, str]:
    """The versions of the packages that decide the bytes."""
    return {name: version(name) for name in ("lsrl", "numpy", "scipy", "safetensors")}
