"""What a command is about: a program of the library or of a file, or a saved model."""

import ast
import difflib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lsrl.cli.user_code import module_of, users_code
from lsrl.errors import InputError
from lsrl.language.program import Program

if TYPE_CHECKING:
    from lsrl.model import Model
    from lsrl.programs import Entry


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

    parameters = parse_settings(settings or [])
    file, colon, inner = name.rpartition(":")
    if colon and file.endswith(".py"):
        return Subject(_from_file(Path(file), inner, parameters))
    if name.endswith(".py"):
        return Subject(_from_file(Path(name), None, parameters))
    if name.endswith(".lsrl") or os.path.exists(name):
        if not os.path.isfile(name):
            found = "a folder" if os.path.isdir(name) else "no such file"
            raise InputError(f"{name}: {found}; expected a model saved by 'lsrl compile --out'")
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


def _from_file(path: Path, name: str | None, parameters: dict[str, object]) -> Program:
    """A program of a user's file, or what a function of it returns."""
    module = module_of(path)
    programs = {key: found for key, found in vars(module).items() if isinstance(found, Program)}
    if name is None:
        if len(programs) != 1:
            known = [f"{path}:{key}" for key in (*programs, *_functions(module))]
            raise InputError(
                f"{path}: expected one program, got {len(programs)}; "
                + (
                    f"name a program, or a function that returns one: {', '.join(known)}"
                    if known
                    else "write one: a function under @lsrl.program"
                )
            )
        (name,) = programs
    found = vars(module).get(name)
    if isinstance(found, Program):
        _check_settings(name, {}, parameters)
        return found
    if not callable(found):
        known = [*programs, *_functions(module)]
        near = difflib.get_close_matches(name, known, n=1)
        got = type(found).__name__ if name in vars(module) else "nothing of that name"
        raise InputError(
            f"{path}: expected a program or a function that returns one, named {name!r}, got {got}"
            f"; it has {', '.join(known) or 'none'}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    with users_code(path, f"in {name}({_call_text(parameters)})"):
        _check_settings(name, inspect.signature(found).parameters, parameters)
        made = found(**parameters)
    if not isinstance(made, Program):
        raise InputError(
            f"{path}: {name} returned a {type(made).__name__}, expected a program, made by "
            "@lsrl.program"
        )
    return made


def _functions(module: ModuleType) -> list[str]:
    """Names of the functions that a user's file defines."""
    return [
        key
        for key, found in vars(module).items()
        if inspect.isfunction(found) and found.__module__ == module.__name__
    ]


def _call_text(parameters: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in parameters.items())


def parse_settings(texts: list[str]) -> dict[str, object]:
    """Names and values, of texts NAME=VALUE.

    Raises:
      InputError: no such text, or a name that is given twice.
    """
    parameters: dict[str, object] = {}
    for name, value in map(_parse_setting, texts):
        if name in parameters:
            raise InputError(f"parameter {name}: given twice; keep one")
        parameters[name] = value
    return parameters


def _parse_setting(text: str) -> tuple[str, object]:
    """A name and its value: a Python or JSON literal, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"parameter {text!r}: expected NAME=VALUE, such as length=3")
    for parse in (json.loads, ast.literal_eval):
        try:
            return name, parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # nested too deep
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
