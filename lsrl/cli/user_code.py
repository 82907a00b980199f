"""What users wrote: their files executed, and what goes wrong in them told with their own lines."""

import contextlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from lsrl.errors import InputError, LsrlError
from lsrl.ir.numbers import Array

if TYPE_CHECKING:
    from lsrl.testing.verification import Sampler

# Where code lies that no user wrote.
_LIBRARIES = tuple(
    str(folder) + os.sep
    for folder in (
        *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
        Path(__file__).parents[1],
    )
)


@contextlib.contextmanager
def users_code(path: Path, doing: str) -> Iterator[None]:
    """Raise what a user's code raises as an InputError that names the user's line.

    Meanwhile the file's folder is at the end of the path of imports.

    Args:
      path: the user's file.
      doing: what runs, for the message, such as "while the file was read".

    Raises:
      InputError: for whatever the code raised, or if it ended the program.
    """
    folder = str(path.resolve().parent)
    sys.path.append(folder)
    try:
        yield
    except (LsrlError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(_told(error, path, doing)) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def module_of(path: Path) -> ModuleType:
    """A user's file, executed once.

    Raises:
      InputError: it can't be.
    """
    if not path.is_file():
        found = "a folder; expected a Python file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {found}")
    # Under a name that no `import` finds: a user's json.py must not stand for that of Python.
    name = str(path.resolve())
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with users_code(path, "while the file was read"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def sampler_of(name: str) -> "Sampler":
    """The function of a user's file that draws inputs.

    Raises:
      InputError: there is none.
    """
    file, _, inner = name.rpartition(":")
    if not file.endswith(".py"):
        raise InputError(f"--sampler {name!r}: expected FILE.py:NAME, such as mine.py:prompts")
    found = vars(module_of(Path(file))).get(inner)
    if not callable(found):
        got = type(found).__name__ if found is not None else "nothing of that name"
        raise InputError(
            f"--sampler {name}: expected a function of (random, sequences, length), got {got}"
        )

    def draw(random: np.random.Generator, sequences: int, length: int) -> Sequence[Array] | Array:
        with users_code(Path(file), f"in {inner}(random, {sequences}, {length})"):
            return found(random, sequences, length)

    return draw


def _told(error: BaseException, path: Path, doing: str) -> str:
    """What a user's code raised: line, exception, the text of the line."""
    if isinstance(error, SyntaxError):
        # Of this file or of one that it imports.
        place = f"{_near(error.filename or str(path))}{f':{error.lineno}' if error.lineno else ''}"
        text = (error.text or "").strip()
        return f"{place}: {type(error).__name__}: {error.msg}" + (text and f"\n    {text}")
    frame = _users_frame(error, path)
    place = str(path) if frame is None else f"{_near(frame.filename)}:{frame.lineno}"
    text = f"\n    {frame.line}" if frame is not None and frame.line else ""
    if isinstance(error, SystemExit):
        return (
            f"{place}: the code ended the program {doing} (SystemExit: {error}); put what only a "
            f"script does under: if __name__ == '__main__'{text}"
        )
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"; install it into the environment of {sys.executable}, or put it beside the file"
    elif isinstance(error, UnicodeDecodeError):
        hint = "; save the file as UTF-8"
    return f"{place}: {type(error).__name__} {doing}: {_said(error)}{hint}{text}"


def _said(error: BaseException) -> str:
    """The text of an exception, whose class may be a user's too."""
    try:
        return str(error)
    except Exception as another:
        return f"(its text raises {type(another).__name__})"


def _users_frame(error: BaseException, path: Path) -> traceback.FrameSummary | None:
    """The innermost call that is in a user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if os.path.isabs(frame.filename) and not frame.filename.startswith(_LIBRARIES)
    ]
    file = str(path.resolve())
    inside = own or [frame for frame in frames if os.path.realpath(frame.filename) == file]
    return inside[-1] if inside else None


def _near(file: str) -> str:
    """A file's name from here, where it lies below, else from the root."""
    with contextlib.suppress(ValueError):
        return str(Path(file).relative_to(Path.cwd()))
    return file
