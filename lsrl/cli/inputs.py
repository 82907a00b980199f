"""The inputs that a command runs: of the command line, of files, or drawn."""

import json
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lsrl.cli.subject import Subject
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.program import Program

if TYPE_CHECKING:
    from lsrl.testing.verification import Drawn, Sampler

# Sequences that `verify` runs at once, of a multiple of so many tokens.
CHUNK, LENGTHS = 8, 16
# What reads a file, by its suffix.
_READERS: dict[str, Callable[[str], object]] = {
    ".npy": partial(np.load, allow_pickle=False),
    ".json": lambda text: json.loads(Path(text).read_bytes()),
    ".csv": partial(np.loadtxt, delimiter=",", ndmin=2, encoding="utf-8"),
}


def read_inputs(texts: Sequence[str], program: Program) -> list[Array]:
    """All inputs of a program, from the command line or files.

    Raises:
      InputError: another number of inputs than the program has, or one that can't be read.
    """
    kinds = program.inputs
    if len(texts) != len(kinds):
        raise InputError(
            f"{program.name}: expected {len(kinds)} input(s) ({', '.join(kinds)}), got "
            f'{len(texts)}; put each into quotes: "1 0 1"'
        )
    return [
        _read_input(text, name, kind)
        for text, (name, kind) in zip(texts, kinds.items(), strict=True)
    ]


def _read_input(text: str, name: str, kind: InputType) -> Array:
    """One input of a program, from the command line or a file."""
    suffix = Path(text).suffix.lower()
    if suffix not in _READERS:
        return _parse_input(text, name, kind)
    try:
        with warnings.catch_warnings():
            # Of an empty file, which is refused like any empty sequence, and of an odd header.
            warnings.simplefilter("ignore", UserWarning)
            array = np.asarray(_READERS[suffix](text))
    except FileNotFoundError as error:
        raise InputError(f"input {name!r}: {text}: no such file") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged headers of numpy's raise whatever Python's parser does
        why = "its rows differ in length" if "inhomogeneous" in str(error) else error
        raise InputError(f"input {name!r}: {text}: not an array of numbers ({why})") from error
    if suffix == ".csv" and isinstance(kind, Token):
        array = _symbols(array)
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"input {name!r}: {text}: expected an array of {_wanted(kind)}, got {_first_odd(array)}"
        )
    return array


def _wanted(kind: InputType) -> str:
    return f"symbols from 0 to {kind.size - 1}" if isinstance(kind, Token) else "numbers"


def _first_odd(array: Array) -> str:
    """The first entry of an array that is no number which numpy holds."""
    for entry in array.ravel().tolist():
        whole = type(entry) is int and -(2**63) <= entry < 2**63
        if not whole and type(entry) is not float:
            return f"{type(entry).__name__} {entry!r:.60}"
    return f"an array of {array.dtype}"


def _symbols(values: Array) -> Array:
    """The numbers of a .csv file as integers, if they are; a row or a column is one sequence."""
    # Larger ones are no symbols, and are told as they are.
    whole = np.clip(np.nan_to_num(values), -(2**53), 2**53).astype(np.int64)
    symbols = whole if (whole == values).all() else values
    return symbols.ravel() if 1 in symbols.shape else symbols


def _parse_input(text: str, name: str, kind: InputType) -> Array:
    if re.search(r"[,;]\s*[,;]", text):
        raise InputError(
            f"input {name!r}: expected {_wanted(kind)}, got {text!r}, with nothing between two "
            "separators; take one of them out"
        )
    rows = [row.replace(",", " ").split() for row in text.split(";") if row.strip()]
    named = dict(zip(kind.names or (), count(), strict=False)) if isinstance(kind, Token) else {}
    if isinstance(kind, Token) or (kind.width == 1 and len(rows) == 1):
        rows = [[entry] for row in rows for entry in row]
    if len({len(row) for row in rows}) > 1:
        raise InputError(
            f"input {name!r}: expected {kind.width} numbers a token, got "
            f"{[len(row) for row in rows]}; a semicolon ends a token"
        )
    number = np.int64 if isinstance(kind, Token) else np.float64
    values = []
    for token, row in enumerate(rows):
        try:
            values.append([number(named.get(entry, entry)) for entry in row])
        except (ValueError, OverflowError):
            raise InputError(
                f"input {name!r}: expected {_wanted(kind)}, got {' '.join(row)!r} at token {token}"
            ) from None
    array = np.array(values, dtype=number)
    return array[:, 0] if isinstance(kind, Token) and len(array) else array


def draw_for(
    subject: Subject,
    start: int,
    count: int,
    length: int,
    seed: int,
    sampler: "Sampler | None" = None,
) -> "Drawn":
    """The next sequences of those that a command runs: the user's, the library's, or random ones.

    The first ones are at the ends of the ranges.
    """
    from lsrl.testing.verification import Drawn, draw_inputs

    entry, program = subject.entry, subject.program
    if entry is None or sampler is not None:
        return draw_inputs(
            program, count, length, seed + start, sampler=sampler, extremes=start == 0
        )
    parameters = subject.parameters or {}
    random = np.random.default_rng([seed, start])
    extremes = entry.extremes(**parameters)[start : start + count]
    sequences = [tuple(array[:length] for array in inputs) for inputs in extremes]
    while len(sequences) < count:
        sequences.append(entry.sample(random, length, **parameters))
    lengths = np.array([len(inputs[0]) for inputs in sequences])
    # Few lengths, so that little is compiled; what fills them up is not compared.
    longest = -(-int(lengths.max()) // LENGTHS) * LENGTHS
    longest = min(longest, program.max_length or longest)
    filled = [
        np.stack([a[np.minimum(np.arange(longest), len(a) - 1)] for a in given])
        for given in zip(*sequences, strict=True)
    ]
    return Drawn(filled, lengths, np.zeros(count, bool))


def legal_lengths(program: Program, drawn: "Drawn") -> Array:
    """(sequences,) how many tokens of each keep every promise."""
    from lsrl.ir.evaluate import evaluate_prefixes

    legal, _ = evaluate_prefixes(program.graph, drawn.inputs)
    return np.minimum(legal, drawn.lengths)


def example_inputs(subject: Subject) -> list[Array]:
    """A few random sequences of one length."""
    # Those at the ends of the ranges, which come first, show little.
    drawn = draw_for(subject, CHUNK, CHUNK, 32, 0)
    legal = legal_lengths(subject.program, drawn)
    if not legal.any():
        raise InputError(
            f"{subject.program.name}: every random sequence breaks a promise of the program; give "
            "some of your own: --inputs"
        )
    rows = np.flatnonzero(legal == legal.max())[-4:]
    return [array[rows, : legal.max()] for array in drawn.inputs]
