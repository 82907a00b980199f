"""Datasets of the suite: sequences with every named signal, and pairs that tell signals apart.

A dataset is one safetensors file. For each split (`train`, `validation`, `test` where it is asked
for, and, where the program's max_length leaves room, `long`) it holds

    <split>/inputs/<input>     (sequences, tokens) symbols, or (sequences, tokens, width) vectors
    <split>/outputs            (sequences, tokens, outputs)
    <split>/signals/<signal>   (sequences, tokens, width), every named signal of `Program.trace`

Counterfactuals are a second file. A pair is two inputs of equal length, `base` and `source`:

    base/inputs/<input>, base/outputs, base/signals/<signal>, and the same of source
    differs                    (pairs, signals, tokens) bool: where the signal's values differ
    chosen_for                 (pairs,) the index of the signal that the pair was chosen for

All numbers are exact: each array has the narrowest type of int8, int16, int32, float32 and float64
that holds all its values in every split. Both files have one metadata entry, `lsrl`, of JSON:
`format`, `version`, `program`, `seed`, `inputs` (names in the program's order), `signals` (names in
the order of `differs`) and, of counterfactuals, `constant` (signals that no pair was found for).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from lsrl import arguments, schema, storage
from lsrl.errors import FormatError, NewerSchemaError
from lsrl.extras import needed
from lsrl.folders import replace_file
from lsrl.ir.numbers import Array
from lsrl.schema import FieldError, Reader
from lsrl.suite.programs import check_names

if TYPE_CHECKING:
    from pandas import DataFrame

DATASET = "lsrl-dataset"
COUNTERFACTUALS = "lsrl-counterfactuals"
VERSION = 1

# The sizes of the splits unless others are asked for; 0: there is none.
SEQUENCES: Mapping[str, int] = {"train": 256, "validation": 64, "long": 64, "test": 0}
_DTYPES = (np.int8, np.int16, np.int32, np.float32, np.float64)


@dataclass(frozen=True)
class Split:
    """Sequences of one length, with all that the program makes of them.

    Attributes:
      inputs: by input name: int64 (sequences, tokens), or float64 (sequences, tokens, width).
      outputs: float64 (sequences, tokens, outputs).
      signals: by name: float64 (sequences, tokens, width).
    """

    inputs: Mapping[str, Array]
    outputs: Array
    signals: Mapping[str, Array]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.outputs)

    @property
    def arrays(self) -> list[Array]:
        """The inputs in the program's order, as `Model.run` takes them."""
        return list(self.inputs.values())

    def sample(self, sequences: int, seed: int) -> list[Array]:
        """Inputs of some sequences, drawn with replacement: a sampler of legal inputs."""
        rows = np.random.default_rng(seed).integers(0, len(self), sequences)
        return [array[rows] for array in self.arrays]

    def to_pandas(self) -> "DataFrame":
        """A pandas DataFrame with a row a token, by sequence and token; needs `lsrl[frames]`.

        Columns are named as in a file, `inputs/x`, `outputs`, `signals/ones`; what is wider than 1
        has a column an entry: `signals/cells[0]`.

        Raises:
          InputError: pandas is not installed.
        """
        pandas = needed("pandas", "this")
        count, tokens = self.outputs.shape[:2]
        columns: dict[str, Array] = {}
        for name, array in self.flat("").items():
            wide = array.reshape(count * tokens, -1)
            name = name.removeprefix("/")
            if wide.shape[1] == 1:
                columns[name] = wide[:, 0]
            else:
                columns |= {f"{name}[{k}]": wide[:, k] for k in range(wide.shape[1])}
        index = pandas.MultiIndex.from_product(
            [range(count), range(tokens)], names=["sequence", "token"]
        )
        return pandas.DataFrame(columns, index=index)

    def flat(self, prefix: str) -> dict[str, Array]:
        """Every array by its name in a file."""
        return {
            **{f"{prefix}/inputs/{name}": array for name, array in self.inputs.items()},
            f"{prefix}/outputs": self.outputs,
            **{f"{prefix}/signals/{name}": array for name, array in self.signals.items()},
        }


@dataclass(frozen=True)
class Dataset:
    """The splits of a program.

    Attributes:
      program: the name of the program.
      seed: what it was drawn from.
      splits: "train", "validation" and, where there are any, "long" and "test".
    """

    program: str
    seed: int
    splits: Mapping[str, Split]

    def without_signals(self) -> "Dataset":
        """Inputs and outputs alone."""
        bare = {name: Split(split.inputs, split.outputs, {}) for name, split in self.splits.items()}
        return Dataset(self.program, self.seed, bare)

    def to_parquet(self, directory: str | os.PathLike[str]) -> dict[str, str]:
        """Write a Parquet file a split, with a row a sequence; needs `lsrl[frames]`.

        Columns are lists of a value a token, named as in `Split.to_pandas`; of what is wider than 1
        each value is a list.

        Args:
          directory: where to; made if there is none.

        Returns:
          By split the path of its file, as `datasets.load_dataset("parquet", data_files=...)`, of
          Hugging Face's datasets, takes them.

        Raises:
          InputError: pyarrow is not installed.
          OSError: a file can't be written.

        Example:
          >>> files = lsrl.suite.load_data("dyck1").to_parquet("dyck1")
          >>> datasets.load_dataset("parquet", data_files=files)
        """
        arrow, parquet = needed("pyarrow", "this"), needed("pyarrow.parquet", "this")
        Path(directory).mkdir(parents=True, exist_ok=True)
        written = {}
        for split, data in self.splits.items():
            columns = {
                name.removeprefix("/"): (x[..., 0] if x.shape[2:] == (1,) else x).tolist()
                for name, x in data.flat("").items()
            }
            sink = arrow.BufferOutputStream()
            parquet.write_table(arrow.table(columns), sink)
            path = Path(directory, f"{split}.parquet")
            replace_file(path, sink.getvalue().to_pybytes())
            written[split] = os.fspath(path)
        return written

    def indistinguishable(self) -> tuple[tuple[str, ...], ...]:
        """Groups of two and more signals that are equal at every token of every sequence."""
        groups: dict[bytes, list[str]] = {}
        for name in next(iter(self.splits.values())).signals:
            digest = hashlib.sha256()
            for split in self.splits.values():
                array = np.ascontiguousarray(split.signals[name] + 0.0)  # no negative zeros
                digest.update(repr(array.shape).encode() + array.tobytes())
            groups.setdefault(digest.digest(), []).append(name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)


@dataclass(frozen=True)
class Counterfactuals:
    """Pairs of inputs, with the signals in which they differ.

    Attributes:
      program: the name of the program.
      seed: what they were drawn from.
      base: the one side; sequence i is pair i.
      source: the other side.
      signals: the names along the second axis of `differs`.
      differs: bool (pairs, signals, tokens).
      chosen_for: int64 (pairs,), into `signals`.
      constant: signals that no pair differs in.
    """

    program: str
    seed: int
    base: Split
    source: Split
    signals: tuple[str, ...]
    differs: Array
    chosen_for: Array
    constant: tuple[str, ...]

    def pairs_of(self, signal: str) -> Array:
        """The pairs that differ in a signal, those with the fewest other signals first.

        Args:
          signal: one of `signals`.

        Returns:
          int64 (pairs,).

        Raises:
          InputError: no signal has that name; suggests the nearest.
        """
        check_names(f"signal of {self.program!r}", [signal], dict.fromkeys(self.signals))
        different: Array = np.any(self.differs, axis=2)
        found = np.flatnonzero(different[:, self.signals.index(signal)])
        return found[np.argsort(different[found].sum(axis=1), kind="stable")]


# ---------------------------------------------------------------- files


def dataset_bytes(dataset: Dataset) -> bytes:
    """A dataset as the content of a file; equal datasets give equal bytes."""
    first = next(iter(dataset.splits.values()))
    arrays: dict[str, Array] = {}
    for name, split in dataset.splits.items():
        arrays |= split.flat(name)
    header = {
        "program": dataset.program,
        "seed": dataset.seed,
        "inputs": list(first.inputs),
        "signals": list(first.signals),
    }
    return _to_bytes(DATASET, header, arrays)


def counterfactuals_bytes(pairs: Counterfactuals) -> bytes:
    """Counterfactuals as the content of a file; equal pairs give equal bytes."""
    arrays = {**pairs.base.flat("base"), **pairs.source.flat("source")}
    header = {
        "program": pairs.program,
        "seed": pairs.seed,
        "inputs": list(pairs.base.inputs),
        "signals": list(pairs.signals),
        "constant": list(pairs.constant),
    }
    further = {"differs": pairs.differs, "chosen_for": pairs.chosen_for.astype(np.int32)}
    return _to_bytes(COUNTERFACTUALS, header, arrays, further)


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read a dataset.

    Args:
      path: of the file.

    Returns:
      The dataset, with symbols as int64 and all else as float64.

    Raises:
      FormatError: damaged, or not a dataset.
      NewerSchemaError: of a newer version.
      OSError: the file can't be read.
    """
    header, arrays = _read(path, DATASET, {})
    names = {name.partition("/")[0] for name in arrays}
    try:
        splits = {name: _split(arrays, name, header) for name in SEQUENCES if name in names}
        return Dataset(header["program"], header["seed"], splits)
    except FieldError as error:
        raise _bad(path, DATASET, f"{error}") from error


def read_counterfactuals(path: str | os.PathLike[str]) -> Counterfactuals:
    """Read counterfactual pairs.

    Args:
      path: of the file.

    Returns:
      The pairs, with symbols as int64 and all other values as float64.

    Raises:
      FormatError: damaged, or no counterfactuals.
      NewerSchemaError: of a newer version.
      OSError: the file can't be read.
    """
    header, arrays = _read(path, COUNTERFACTUALS, {"constant": _NAMES})
    try:
        pairs, length = _array(arrays, "base/outputs", 3).shape[:2]
        signals = header["signals"]
        chosen = _array(arrays, "chosen_for", 1, (pairs,)).astype(np.int64)
        if ((chosen < 0) | (chosen >= len(signals))).any():
            raise FieldError(f"numbers of {len(signals)} signals", f"{chosen.max()}", "chosen_for")
        return Counterfactuals(
            header["program"],
            header["seed"],
            _split(arrays, "base", header),
            _split(arrays, "source", header),
            signals,
            _array(arrays, "differs", 3, (pairs, len(signals), length)).astype(bool),
            chosen,
            header["constant"],
        )
    except FieldError as error:
        raise _bad(path, COUNTERFACTUALS, f"{error}") from error


def _split(arrays: Mapping[str, Array], prefix: str, header: Mapping[str, Any]) -> Split:
    outputs = _array(arrays, f"{prefix}/outputs", 3).astype(np.float64)
    inputs, signals = (
        {
            name: _array(arrays, f"{prefix}/{part}/{name}", least, outputs.shape[:2])
            for name in header[part]
        }
        for part, least in (("inputs", 2), ("signals", 3))
    )
    return Split(
        {name: x.astype(np.int64 if x.ndim == 2 else np.float64) for name, x in inputs.items()},
        outputs,
        {name: x.astype(np.float64) for name, x in signals.items()},
    )


def _array(arrays: Mapping[str, Array], name: str, axes: int, shape: tuple[int, ...] = ()) -> Array:
    """An array of a file, of so many axes (inputs of vectors have one more), that begins so."""
    if name not in arrays:
        raise FieldError("an array", "nothing: it is missing", name)
    found = arrays[name].shape
    most = 3 if axes == 2 else axes
    if not axes <= len(found) <= most or found[: len(shape)] != shape:
        raise FieldError(f"{axes} axes, the first {shape}", f"shape {found}", name)
    return arrays[name]


def _to_bytes(
    kind: str,
    header: dict[str, Any],
    arrays: Mapping[str, Array],
    further: Mapping[str, Array] | None = None,
) -> bytes:
    groups: dict[str, list[str]] = {}
    for name in arrays:
        groups.setdefault(name.partition("/")[2], []).append(name)
    narrowed: dict[str, Array] = {}
    for names in groups.values():
        # The first type that holds every value exactly.
        kinds = (kind for kind in _DTYPES if all(_holds(arrays[name], kind) for name in names))
        dtype = next(kinds, np.float64)
        narrowed |= {name: np.ascontiguousarray(arrays[name].astype(dtype)) for name in names}
    narrowed |= {name: np.ascontiguousarray(array) for name, array in (further or {}).items()}
    text = json.dumps({"format": kind, "version": VERSION, **header}, sort_keys=True)
    # One entry, since safetensors writes several in an order of its own, anew each time.
    return to_safetensors(narrowed, {"lsrl": text})


def _holds(array: Array, dtype: type[np.generic]) -> bool:
    if not array.size:
        return True
    if issubclass(dtype, np.integer):
        limits = np.iinfo(dtype)
        inside = array.min() >= limits.min and array.max() <= limits.max
        return bool(inside and (array == np.trunc(array)).all())
    return bool((array.astype(dtype).astype(np.float64) == array).all())


_NAMES = schema.listed(schema.text)


def _read(
    path: str | os.PathLike[str], kind: str, further: Mapping[str, Reader[object]]
) -> tuple[dict[str, Any], dict[str, Array]]:
    if not arguments.path("read_dataset", path).exists():
        raise FileNotFoundError(f"{os.fspath(path)}: no such file")
    fields = {
        "format": schema.text,
        "version": schema.integer(1),
        "program": schema.text,
        "seed": schema.integer(),
        "inputs": _NAMES,
        "signals": _NAMES,
        **further,
    }
    try:
        metadata, arrays = storage.read_arrays(path)
        said = schema.parse(metadata.get("lsrl", ""))
        if not isinstance(said, dict) or said.get("format") != kind:
            raise FieldError(f"the format {kind}", arguments.shown(said))
        version = schema.integer(1)(said.get("version"))
        if version > VERSION:
            raise NewerSchemaError(
                f"{os.fspath(path)}: expected {kind} of version {VERSION} at most, got {version}; "
                "read it with a newer LSRL"
            )
        header: dict[str, Any] = schema.record(fields)(said)
    except FieldError as error:
        raise _bad(path, kind, f"{error}") from error
    return header, arrays


def _bad(path: str | os.PathLike[str], kind: str, got: str) -> FormatError:
    return FormatError(
        f"{os.fspath(path)}: expected a file of the format {kind!r}, got one that is damaged or "
        f"foreign: {got}; build it again"
    )
