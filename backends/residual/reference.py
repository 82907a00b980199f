"""The class of transformers that a target's checkpoints are of."""

from collections.abc import Callable
from typing import NamedTuple

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.vocabulary import Vocabulary
from lsrl.ir.numbers import Array

Config = dict[str, object]


class CheckpointKind(NamedTuple):
    """A class of transformers.

    Attributes:
      architecture: its name.
      model_type: the name of its configuration.
      caches: whether it can be told to keep its state by default.
      further: what its configuration says besides what all say.
    """

    architecture: str
    model_type: str
    caches: bool
    further: Callable[[ResidualNetwork, dict[str, Array], Vocabulary], Config]
