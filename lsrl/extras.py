"""Packages that come with an extra: what installs each, and how one that is missing is told."""

import importlib
from types import ModuleType

from lsrl.errors import InputError

# The extra that installs a module.
EXTRAS = {
    "matplotlib": "plot",
    "numba": "fast",
    "pandas": "frames",
    "pyarrow": "frames",
    "sklearn": "interpret",
    "tokenizers": "huggingface",
    "torch": "torch",
    "transformers": "huggingface",
}


def missing(package: str, what: str = "this", instead: str = "") -> str:
    """How a package that is not installed is told, with what installs it."""
    return (
        f"{what} needs {package}, which is not installed: "
        f"pip install 'lsrl[{EXTRAS[package]}]'{instead and f'; {instead}'}"
    )


def needed(module: str, what: str, instead: str = "") -> ModuleType:
    """A module of an extra.

    Args:
      module: by its dotted name.
      what: needs it.
      instead: what does without it, for the message.

    Raises:
      InputError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(missing(module.partition(".")[0], what, instead)) from error


def optional(module: str) -> ModuleType | None:
    """A module of an extra that all works without; None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
