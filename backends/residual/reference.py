"""The class of transformers that a target's checkpoints are of."""

from collections.abc import Callable
from typing import NamedTuple

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.ir.numbers import Array

Config = dict[str, object]


class CheckpointKind(NamedTuple):
    """A class of transformers.

    Attributes:
      architecture: its name.
      headless: that of the same class without its head.
      model_type: the name of its configuration.
      caches: whether it can be told to keep its state by default.
      hooks: where it holds what the layers of a circuit are, in words.
      further: what its configuration says besides what all say, of a network, its arrays, and how
        many symbols it tells apart.
    """

    architecture: str
    headless: str
    model_type: str
    caches: bool
    hooks: str
    further: Callable[[ResidualNetwork, dict[str, Array], int], Config]
