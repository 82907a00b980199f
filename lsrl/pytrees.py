"""States and parameters as jax has them: arrays in tuples and mappings, as deep as one likes."""

from collections.abc import Mapping
from typing import TypeAlias

import jax

from lsrl.ir.numbers import Array

Tree: TypeAlias = jax.Array | Array | tuple["Tree", ...] | Mapping[str, "Tree"]


def named_leaves(tree: object) -> dict[str, jax.Array]:
    """The leaves of a pytree in its order, by their keys with dots between them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
