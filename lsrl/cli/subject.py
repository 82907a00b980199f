"""What a command is about: a program of the library or of a file, or a saved model."""

import ast
import difflib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from lsrl.errors import InputError, LsrlError
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.options import Legalise

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.programs import Entry
    from lsrl.stages import Watch
    from lsrl.testing.verification import Sampler


@dataclass(frozen=True)
class Subject:
    """What a command is about."""

    program: Program
    model: "Model | None" = None  # a saved one
    entry: "Entry | None" = None  # its row of the library
    parameters: Mapping[str, object] | None = None


def subject_of(name: str, settings: list[str] | None) -> Subject:
    """The program or model that a name stands for.

    Raises:
      InputError: nothing of that name, or parameters that it does not have.
    """
    import lsrl

    parameters = dict(_parse_setting(setting) for setting in settings or [])
    file, colon, inner = name.rpartition(":")
    if colon and file.endswith(".py"):
        return Subject(_from_file(Path(file), inner, parameters))
    if name.endswith(".py"):
        return Subject(_from_file(Path(name), None, parameters))
    if name.endswith(".lsrl") or os.path.isfile(name):
        _check_settings(name, {}, parameters)
        model = lsrl.load(name)
        return Subject(model.program, model, *_of_library(model.program))
    catalogue = lsrl.programs.catalogue()
    if name not in catalogue:
        near = difflib.get_close_matches(name, catalogue, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see 'lsrl programs'"
        raise InputError(
            f"unknown program {name!r}: expected a name of the library, FILE.py:NAME or a saved "
            f"model; {hint}"
        )
    entry = catalogue[name]
    _check_settings(name, inspect.signature(entry.build).parameters, parameters)
    return Subject(entry.program(**parameters), entry=entry, parameters=parameters)


def compiled(
    subject: Subject,
    target: str | None,
    dtype: str,
    unroll: bool,
    robust: bool = False,
    inspectable: bool = False,
    watch: "Watch | None" = None,
) -> "Model":
    """The saved model, or the program compiled for the target, with `watch` at its passes."""
    import lsrl

    if subject.model is not None and target is None:
        return subject.model
    if target is None:
        names = ", ".join(found.name for found in lsrl.targets())
        raise InputError(f"{subject.program.name}: give a target: --target, one of {names}")
    with Console(stderr=True).status(f"compiling {subject.program.name} for {target}"):
        return lsrl.compile(
            subject.program,
            target,
            dtype=dtype,
            legalise=legalise_of(unroll),
            robust=robust,
            inspectable=inspectable,
            watch=watch,
        )


def legalise_of(unroll: bool) -> Legalise:
    """The choice of `lsrl.compile` that --unroll stands for."""
    return "unroll" if unroll else "native"


def _of_library(program: Program) -> "tuple[Entry | None, Mapping[str, object] | None]":
    """The row of the library and the parameters that a program was built with, if it is known."""
    import lsrl
    from lsrl.program_json import program_content

    entry = lsrl.programs.catalogue().get(program.name)
    if entry is None:
        return None, None
    for parameters in entry.parameters:
        built = entry.program(**parameters)
        if program_content(built, lines=False) == program_content(program, lines=False):
            return entry, parameters
    return None, None


def module_of(path: Path) -> ModuleType:
    """A user's file, executed.

    Raises:
      InputError: it can't be.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except LsrlError:
        raise
    except Exception as error:  # whatever the user's code does
        raise InputError(f"{path}: {type(error).__name__} while it was read: {error}") from error
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
        raise InputError(
            f"--sampler {name}: expected a function of (random, sequences, length), got "
            f"{type(found).__name__}"
        )

    def draw(random: np.random.Generator, sequences: int, length: int) -> Sequence[Array] | Array:
        try:
            return found(random, sequences, length)
        except LsrlError:
            raise
        except Exception as error:  # whatever the user's code does
            raise InputError(f"--sampler {name}: {type(error).__name__}: {error}") from error

    return draw


def _from_file(path: Path, name: str | None, parameters: dict[str, object]) -> Program:
    """A program of a user's file, or what a function of it returns."""
    module = module_of(path)
    programs = {key: found for key, found in vars(module).items() if isinstance(found, Program)}
    if name is None:
        if len(programs) != 1:
            raise InputError(
                f"{path}: name one of its programs: "
                + (", ".join(f"{path}:{key}" for key in programs) or "it has none")
            )
        (name,) = programs
    found = vars(module).get(name)
    if isinstance(found, Program):
        _check_settings(name, {}, parameters)
        return found
    if not callable(found):
        raise InputError(
            f"{path}: expected a program or a function that returns one, named {name!r}, got "
            f"{type(found).__name__}; it has {', '.join(programs) or 'no programs'}"
        )
    _check_settings(name, inspect.signature(found).parameters, parameters)
    made = found(**parameters)
    if not isinstance(made, Program):
        raise InputError(
            f"{path}: {name} returned a {type(made).__name__}, expected a program, made by "
            "@lsrl.program"
        )
    return made


def _parse_setting(text: str) -> tuple[str, object]:
    """A name and its value: a Python or JSON literal, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"parameter {text!r}: expected NAME=VALUE, such as length=3")
    for parse in (json.loads, ast.literal_eval):
        try:
            return name, parse(value)
        except (ValueError, SyntaxError):
            continue
    return name, value


def _check_settings(
    name: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, object]
) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(
            f"{name}: no parameter {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    required = inspect.Parameter.empty
    missing = [
        key
        for key, parameter in known.items()
        if parameter.default is required
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in given
    ]
    if missing:
        raise InputError(f"{name}: needs a value for {', '.join(missing)}: -p {missing[0]}=...")


def settings_of(build: Callable[..., object]) -> list[str]:
    """The parameters of a function with their defaults, as text."""
    return [
        f"{parameter.name}={parameter.default!r}"
        for parameter in inspect.signature(build).parameters.values()
    ]
