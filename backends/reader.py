"""What a module was last read as, kept until one of its parameters is another array."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar, cast

import jax
import numpy as np
from flax import nnx

Kept = TypeVar("Kept")
# The dictionaries of attributes, and a name in each.
Places: TypeAlias = tuple[tuple[dict[str, object], ...], tuple[str, ...]]


class ParameterReader(Generic[Kept]):
    """Reads the parameters of a module, and notices at little cost that none has changed.

    Reading a module of many layers takes longer than to run one token through it. For flax every
    reader is equal: a module with another one is the same module.
    """

    def __init__(self) -> None:
        self._module: nnx.Module | None = None
        # Of modules and of parameters: the dictionaries that hold them, by which names, and what
        # is there: of a parameter its array.
        self._modules: tuple[Places, list[object]] = ((), ()), []
        self._parameters: tuple[Places, list[object]] = ((), ()), []
        self._kept: Kept | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterReader)

    def __hash__(self) -> int:
        return hash(ParameterReader)

    def __deepcopy__(self, memo: object) -> "ParameterReader[Kept]":
        return ParameterReader()

    def holds(self, module: nnx.Module) -> bool:
        """Whether the module's parameters are those that were read last."""
        # Arrays of jax never change in place, so the same objects have the same numbers.
        # Modules that flax splits and merges share their reader, but not their parameters.
        # Nothing but maps: this is done at every step.
        if self._kept is None or self._module is not module:
            return False
        places, held = self._modules
        if not all(map(operator.is_, map(dict.get, *places), held)):
            return False
        places, values = self._parameters
        try:
            return all(map(operator.is_, map(_VALUE, map(dict.get, *places)), values))
        except AttributeError:
            return False  # there is no parameter any more

    def held(self, module: nnx.Module) -> Kept | None:
        """What was made of the module's parameters, if they are still those."""
        return self._kept if self.holds(module) else None

    def read(self, module: nnx.Module, make: Callable[[], Kept]) -> Kept:
        """What `make` made of the module's parameters when they were last other arrays."""
        if self._kept is not None and self.holds(module):
            return self._kept
        kept = make()
        self._module = module
        links = [(holder, name, holder.get(name)) for holder, name in _links(module)]
        variables = [link for link in links if isinstance(link[2], nnx.Param)]
        others = [link for link in links if not isinstance(link[2], nnx.Param)]
        held = [one for _, _, one in others]
        values = [cast("nnx.Param[object]", one).get_raw_value() for _, _, one in variables]
        self._modules, self._parameters = (_places(others), held), (_places(variables), values)
        # What a user put in by hand, an array of numpy say, can change in place. Nor does anything
        # hold while jax traces.
        sure = all(
            isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
            for value in values
        ) and all(isinstance(one, nnx.Module | nnx.Pytree) for one in held)
        self._kept = kept if sure else None
        return kept


# Where flax keeps it in a slot, reading it takes half as long as the method that does.
_VALUE: Callable[[object], object] = (
    operator.attrgetter("_raw_value")
    if "_raw_value" in vars(nnx.Variable)
    else operator.methodcaller("get_raw_value")
)


def _places(links: Sequence[tuple[dict[str, object], str, object]]) -> Places:
    return tuple(holder for holder, _, _ in links), tuple(name for _, name, _ in links)


def _links(module: nnx.Pytree) -> Iterator[tuple[dict[str, object], str]]:
    """Every attribute that leads to a parameter, as the dictionary and the name there."""
    attributes = vars(module)
    for name, value in attributes.items():
        if isinstance(value, nnx.Param | nnx.Pytree | jax.Array | np.ndarray):
            yield attributes, name
        if isinstance(value, nnx.Pytree) and not isinstance(value, nnx.Param):
            yield from _links(value)
