"""States and parameters as jax has them: arrays in tuples and mappings, as deep as one likes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeAlias

import jax

from lsrl.ir.numbers import Array

Tree: TypeAlias = jax.Array | Array | tuple["Tree", ...] | Mapping[str, "Tree"]


@dataclass(frozen=True, eq=False)
class HashedOnce:
    """A dataclass that is hashed once: its fields are deep, and every call of a jit asks."""

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, HashedOnce) or self._hash != other._hash:
            return False
        return type(self) is type(other) and self._key == other._key


def named_leaves(tree: object) -> dict[str, jax.Array]:
    """The leaves of a pytree in its order, by their keys with dots between them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
