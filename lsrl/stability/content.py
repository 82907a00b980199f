"""What a setting of an experiment is, as JSON data: by content, whatever it is called.

A function counts with all that its result depends on as far as that can be told: its instructions,
its defaults, what it encloses, and the globals that it names, functions of its own file in full.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np

from lsrl.errors import InputError
from lsrl.language.program import Program
from lsrl.program_json import program_content

# Functions that are told already, since they may name each other.
Told = set[int]
_KNOWN = ("lsrl", "builtins", "abc", "typing")


def content(value: object) -> object:
    """A setting as JSON data.

    Args:
      value: JSON, a program, an array, a dataclass, or a function.

    Raises:
      InputError: something whose content can't be told.
    """
    return _content(value, set())


def _content(value: object, told: Told) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_content(entry, told) for entry in value]
    if isinstance(value, Mapping):
        return [[_content(key, told), _content(value[key], told)] for key in value]
    if isinstance(value, set | frozenset | bytes | complex | range | slice | np.generic):
        return repr(sorted(value, key=repr) if isinstance(value, set | frozenset) else value)
    if isinstance(value, Program):
        return dict(program_content(value, lines=False))
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [list(value.shape), value.dtype.str, digest]
    if isinstance(value, type):
        return [value.__qualname__, _class(value, told)]
    if is_dataclass(value):
        chosen = [[each.name, _content(getattr(value, each.name), told)] for each in fields(value)]
        return [type(value).__qualname__, chosen, _class(type(value), told)]
    return _callable(value, told)


def _callable(value: object, told: Told) -> object:
    if isinstance(value, partial):
        return ["partial", *(_content(x, told) for x in (value.func, value.args, value.keywords))]
    if isinstance(value, MethodType):
        return [_content(value.__func__, told), _content(value.__self__, told)]
    if isinstance(value, FunctionType):
        return _function(value, told)
    if isinstance(value, ModuleType):
        return _module(value.__name__, getattr(value, "__file__", None))
    if isinstance(value, BuiltinFunctionType | np.ufunc):
        return getattr(value, "__qualname__", value.__name__)
    wrapped = getattr(value, "__wrapped__", None)
    if callable(wrapped):  # what a decorator made, such as jax.jit
        return [type(value).__qualname__, _content(wrapped, told)]
    raise InputError(
        f"expected JSON, a program, an array, a dataclass or a function, of which it can be told "
        f"whether a result that was kept still holds, got {value!r}; make it a dataclass, or run "
        "the experiment without a folder"
    )


def _function(function: FunctionType, told: Told) -> object:
    """What a function does, with what it reads."""
    name = f"{function.__module__}.{function.__qualname__}"
    if id(function) in told:
        return name
    told.add(id(function))
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    read = {
        name: function.__globals__[name]
        for name in sorted(set(_names(function.__code__)))
        if name in function.__globals__
    }
    return [
        _instructions(function.__code__),
        _content([function.__defaults__, function.__kwdefaults__, cells], told),
        [[key, _global(found, function.__module__, told)] for key, found in read.items()],
    ]


def _global(value: object, module: str, told: Told) -> object:
    """What a function reads of its module; functions of other files count by these files."""
    origin = getattr(value, "__module__", None)
    if callable(value) and isinstance(origin, str) and origin != module:
        file = getattr(sys.modules.get(origin), "__file__", None)
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return [name, _module(origin, file)]
    return _content(value, told)


def _module(name: str, file: str | None) -> object:
    """A module by its own file: what that imports is not looked at."""
    path = Path(file) if file else None
    known = path is not None and path.suffix == ".py" and path.is_file()
    return [name, hashlib.sha256(path.read_bytes()).hexdigest() if path and known else None]


def _class(kind: type, told: Told) -> list[object]:
    """The bodies of a class and of those that it inherits from, which may lie in a user's file."""
    found: list[object] = []
    # What lies in this package counts by its code, which every key has.
    users = [each for each in kind.__mro__ if each.__module__.split(".")[0] not in _KNOWN]
    for each in users:
        for name, member in vars(each).items():
            function = getattr(member, "fget", getattr(member, "__func__", member))
            if isinstance(function, FunctionType):
                found.append([name, _function(function, told)])
            elif not name.startswith("__") and isinstance(member, bool | int | float | str | tuple):
                found.append([name, repr(member)])
    return found


def _names(code: CodeType) -> Iterator[str]:
    """Names that code reads, those of functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _instructions(code: CodeType) -> list[object]:
    """What compiled code does, wherever it was written."""
    constants = [
        _instructions(constant) if isinstance(constant, CodeType) else repr(constant)
        for constant in code.co_consts
    ]
    return [code.co_code.hex(), code.co_names, constants]
