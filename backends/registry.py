"""The targets by name; each loads when it is first asked for."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lsrl.arguments import near, shown
from lsrl.backends.base import Backend
from lsrl.errors import UnknownTargetError
from lsrl.schedule import Layout

_MODULES = {
    "linear_rnn": "lsrl.backends.linear_rnn",
    "gated_linear_rnn": "lsrl.backends.gated_linear_rnn",
    "rnn": "lsrl.backends.rnn",
    "rnn_tanh": "lsrl.backends.rnn_tanh",
    "lstm": "lsrl.backends.lstm",
    "gru": "lsrl.backends.gru",
    "mamba": "lsrl.backends.mamba",
    "mamba2": "lsrl.backends.mamba2",
    "griffin": "lsrl.backends.griffin",
    "deltanet": "lsrl.backends.deltanet",
}
_ALIASES: dict[str, str] = {"hawk": "griffin"}
# The targets that an activation chooses between.
_ACTIVATIONS = {"relu": "rnn", "tanh": "rnn_tanh"}


# Backends by name: those that were asked for, and those that `registered` adds.
_loaded: dict[str, Backend[Layout]] = {}


def names() -> tuple[str, ...]:
    """The names of all targets."""
    return tuple(dict.fromkeys([*_MODULES, *_loaded]))


def able(which: Callable[[Backend[Layout]], bool]) -> str:
    """The names of those targets that something is true of, for messages."""
    return ", ".join(name for name in names() if which(find(name)))


@contextmanager
def registered(backend: Backend[Layout]) -> Iterator[None]:
    """Have a further target for a while, as one of this package in all that takes its name.

    Raises:
      UnknownTargetError: another target has the name.
    """
    if backend.name in (*names(), *_ALIASES):
        raise UnknownTargetError(
            f"target {backend.name!r}: expected a name of its own, there are {', '.join(names())}"
        )
    _loaded[backend.name] = backend
    try:
        yield
    finally:
        del _loaded[backend.name]


def find(name: str, activation: str | None = None) -> Backend[Layout]:
    """The target of that name.

    Args:
      name: one of `names`, or an alias.
      activation: of the target "rnn", "relu" or "tanh"; None for its default.

    Raises:
      UnknownTargetError: there is none; suggests the nearest. Or the target has no such activation.
    """
    target = _ALIASES.get(str(name), str(name))
    if activation is not None:
        if target not in _ACTIVATIONS.values() or activation not in _ACTIVATIONS:
            raise UnknownTargetError(
                f"target {name!r} with activation {activation!r}: only 'rnn' has a choice of "
                f"activation, {' or '.join(map(repr, _ACTIVATIONS))}"
            )
        target = _ACTIVATIONS[activation]
    if target not in names():
        hint = near(name, [*names(), *_ALIASES])
        raise UnknownTargetError(
            f"unknown target {shown(name)}: expected one of {', '.join(names())}{hint}"
        )
    if target not in _loaded:
        _loaded[target] = importlib.import_module(_MODULES[target]).BACKEND
    return _loaded[target]
