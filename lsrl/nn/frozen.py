"""Weights that are decided, as variables that optimisers leave alone."""

from collections.abc import Mapping
from typing import TypeVar, cast

import jax
from flax import nnx

from lsrl.pytrees import named_leaves

Held = TypeVar("Held")


class FrozenParam(nnx.Variable[Held]):
    """A weight that a program decides.

    It is no `nnx.Param`, so what is trained, `nnx.Optimizer(model, ..., wrt=nnx.Param)`, leaves it
    as it is; it is split, saved and moved to devices as every other variable.

    Example:
      print(issubclass(lsrl.nn.FrozenParam, nnx.Variable))
      print(issubclass(lsrl.nn.FrozenParam, nnx.Param))
    """


def parameters_of(
    model_parameters: Mapping[str, object], weights: Mapping[str, jax.Array]
) -> Mapping[str, object]:
    """Weights by name as the pytree that `Model.apply` takes.

    Args:
      model_parameters: of the model: the pytree.
      weights: by the names of its leaves, in whatever order: jax sorts mappings.
    """
    leaves = [weights[name] for name in named_leaves(model_parameters)]
    tree = jax.tree.unflatten(jax.tree.structure(model_parameters), leaves)
    return cast("Mapping[str, object]", tree)


def held(
    model_parameters: Mapping[str, object], trainable: bool
) -> nnx.Dict[nnx.Variable[jax.Array]]:
    """A model's weights by name as variables: frozen, or parameters to be trained."""
    kind = nnx.Param if trainable else FrozenParam
    weights = named_leaves(model_parameters)
    return nnx.Dict({name: kind(value) for name, value in weights.items()})
