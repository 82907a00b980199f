"""The targets by name; each loads when it is first asked for."""

import difflib
import importlib
from functools import cache

from lsrl.backends.base import Backend
from lsrl.errors import UnknownTargetError

_MODULES = {
    "linear_rnn": "lsrl.backends.linear_rnn",
    "gated_linear_rnn": "lsrl.backends.gated_linear_rnn",
}
_ALIASES: dict[str, str] = {}


def names() -> tuple[str, ...]:
    """The names of all targets."""
    return tuple(_MODULES)


@cache
def find(name: str) -> Backend:
    """The target of that name.

    Raises:
      UnknownTargetError: there is none; suggests the nearest.
    """
    target = _ALIASES.get(name, name)
    if target not in _MODULES:
        near = difflib.get_close_matches(str(name), [*_MODULES, *_ALIASES], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownTargetError(
            f"unknown target {name!r}: expected one of {', '.join(names())}{hint}"
        )
    backend: Backend = importlib.import_module(_MODULES[target]).BACKEND
    return backend
