"""What users write as numbers beside signals: constants, vectors, matrices, and indices."""

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import ProgramError, ShapeError
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, exact_array
from lsrl.language.trace import Recorded, user_line


def numbers(value: object, what: str) -> Array:
    """One number or a vector of numbers as float64 (n,).

    Raises:
      ProgramError: not numbers, or numbers that float64 would round.
      ShapeError: more than one axis.
    """
    if isinstance(value, Recorded):
        raise ProgramError(
            f"{user_line()}: {what} must be numbers, got a signal; what depends on the tokens is "
            "chosen by lsrl.select or read by lsrl.lookup"
        )
    if isinstance(value, list | tuple) and any(isinstance(v, Recorded) for v in value):
        raise ProgramError(
            f"{user_line()}: {what} must be numbers, got a {type(value).__name__} of signals; pass "
            "them one by one, or as one signal: lsrl.concat(x, y)"
        )
    if isinstance(value, str):
        raise ProgramError(
            f"{user_line()}: {what}: expected a number, got {shown(value)}; a token is the number "
            "of its symbol, from 0, also where symbols have names"
        )
    try:
        found = exact_array(value, what)
        if found.ndim > 1:
            raise ShapeError(
                f"{what} must be a number or a vector, got {found.shape}; a matrix acts by A @ x"
            )
        if not np.isfinite(found).all():
            raise ProgramError(f"{what}: expected finite numbers, got {shown(value)}")
        return np.atleast_1d(found)
    except ProgramError as error:
        raise type(error)(f"{user_line()}: {error}") from None


def as_matrix(value: object, columns: int) -> Matrix:
    """A number (times identity), a dense or a scipy.sparse matrix as a `Matrix` of `columns`.

    Raises:
      ProgramError: entries that are not finite real numbers, or that float64 would round.
      ShapeError: the matrix has another number of columns.
    """
    if isinstance(value, Matrix):
        matrix = value
    elif isinstance(value, Recorded) or np.isscalar(value):
        matrix = Matrix.diagonal(np.repeat(numbers(value, "a matrix"), columns))
    else:
        try:
            matrix = _read(value)
        except ProgramError as error:
            raise type(error)(f"{user_line()}: {error}") from None
    if matrix.columns != columns:
        raise ShapeError(
            f"{user_line()}: expected a matrix of {columns} columns for a signal of width "
            f"{columns}, got shape ({matrix.rows}, {matrix.columns})"
        )
    return matrix


def transposed(value: object, rows: int) -> Matrix:
    """The matrix A of x @ A, or a vector, as what acts from the left: (columns, rows).

    Raises:
      ProgramError: as for `as_matrix`, or a number.
      ShapeError: A has another number of rows.
    """
    try:
        given = value if hasattr(value, "tocsr") else arguments.array("A", value, ProgramError)
        axes = getattr(given, "ndim", 2)
        if not axes:
            raise ProgramError(
                f"x @ A needs a matrix, got {shown(value)}; x * n scales by a number"
            )
        matrix = _read(given)
    except ProgramError as error:
        raise type(error)(f"{user_line()}: {error}") from None
    vector = axes == 1
    if (matrix.columns if vector else matrix.rows) != rows:
        raise ShapeError(
            f"{user_line()}: x @ A expects A of {rows} rows for a signal of width {rows}, got "
            f"shape ({matrix.rows}, {matrix.columns}); A @ x acts from the left"
        )
    return matrix if vector else Matrix(matrix.csr.T)


def _read(value: object) -> Matrix:
    """A matrix, or a vector as its one row."""
    # scipy's sparse arrays know how to become CSR; all else is dense.
    if hasattr(value, "tocsr"):
        return Matrix(value)
    array = arguments.array("a matrix", value, ProgramError)
    if array.ndim > 2:
        raise ShapeError(f"a matrix has shape (rows, columns), got {array.shape}")
    return Matrix(np.atleast_2d(array))


def channels(key: object, width: int) -> Array:
    """The channels that x[key] picks, (n,) ints.

    Raises:
      ShapeError: out of range, no ints, or none.
    """
    parts = (key.start, key.stop, key.step) if isinstance(key, slice) else (key,)
    if any(isinstance(part, Recorded) for part in parts):
        raise ShapeError(
            f"{user_line()}: a signal is no index of channels; lsrl.mux(lsrl.one_hot(i, "
            f"{width}), x) reads the channel that a signal names, lsrl.lookup(i, table) a row of "
            "numbers"
        )
    expected = f"expected ints from {-width} to {width - 1}, a slice or a list of them"
    try:
        picked = np.atleast_1d(np.arange(width)[key])  # type: ignore[call-overload]
    except IndexError as error:
        raise ShapeError(
            f"{user_line()}: index {shown(key)} is out of range for a signal of width {width}; "
            f"{expected}"
        ) from error
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{user_line()}: index {shown(key)} picks no channels ({error}); {expected}"
        ) from error
    if picked.ndim != 1 or not len(picked):
        raise ShapeError(
            f"{user_line()}: index {shown(key)} picks channels of shape {picked.shape} of a signal "
            f"of width {width}; expected one list of at least one"
        )
    return picked
