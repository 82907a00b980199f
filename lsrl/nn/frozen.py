"""Weights that are decided, as variables that optimisers leave alone."""

from typing import TypeVar

import jax
from flax import nnx

Held = TypeVar("Held")


class FrozenParam(nnx.Variable[Held]):
    """A weight that a program decides.

    It is no `nnx.Param`, so what is trained, `nnx.Optimizer(model, ..., wrt=nnx.Param)`, leaves it
    as it is; it is split, saved and moved to devices as every other variable.
    """


def held(weights: dict[str, jax.Array], trainable: bool) -> nnx.Dict[nnx.Variable[jax.Array]]:
    """Weights by name as variables: frozen, or parameters to be trained."""
    kind = nnx.Param if trainable else FrozenParam
    return nnx.Dict({name: kind(value) for name, value in weights.items()})
