"""The classes of transformers that a target's checkpoints are of."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsrl import arguments
from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.stream import Stream
from lsrl.ir.numbers import Array

# What a card says of it, where it stands behind a network's layers.
NEUTRAL_ATTENTION = """\
Behind them stands one layer of attention whose weights are 0, which adds 0: the class counts there
how many tokens it has read, and has no cache without. For whole texts its time grows with the
square of their length."""
Config = dict[str, object]
Arrays = dict[str, Array]

# With which every class was run, and gave our networks' numbers.
TRIED = "transformers 5.24.0 and torch 2.13.0"


def _as_they_are(network: ResidualNetwork, arrays: Arrays) -> Arrays:
    return arrays


def _never(stream: Stream, request: ExportRequest) -> str | None:
    return None


class CheckpointKind(NamedTuple):
    """A class of transformers.

    Attributes:
      name: what `architecture=` calls it.
      architecture: the class.
      headless: the same class without its head.
      model_type: the name of its configuration.
      between: the part of a layer that reads what its first half has made; "" if it has but one.
      continues: whether several tokens at once go on from its cache, as one does in every class.
      further: what its configuration says besides what all say, of a network, its arrays, and how
        many symbols it tells apart.
      more: what it has beside the network, and what stands there, in words; may be empty.
      lacks: what else it can't do, in words; may be empty.
      parameters: its own, of a network and its arrays, which have the names of the target's first
        class. Raises a PrecisionError where float32 lacks a number that the class stores.
      refusal: why it can't be a layout's network, or None if it can.
    """

    name: str
    architecture: str
    headless: str
    model_type: str
    between: str
    continues: bool
    further: Callable[[ResidualNetwork, Arrays, int], Config]
    more: str = ""
    lacks: str = ""
    parameters: Callable[[ResidualNetwork, Arrays], Arrays] = _as_they_are
    refusal: Callable[[Stream, ExportRequest], str | None] = _never

    def hooks(self, depth: int) -> list[tuple[str, str]]:
        """Where a model of so many layers holds the layers of a circuit, first to last.

        By the name of a module below `base_model`, and whether what comes in or what comes out is
        meant, "input" or "output"; of what comes out the first thing, where that is several.
        """
        found = [("layers.0", "input")]
        for layer in range(depth):
            if self.between:
                found.append((f"layers.{layer}.{self.between}", "input"))
            found.append((f"layers.{layer}", "output"))
        return found

    @property
    def hooks_told(self) -> str:
        """The same in words."""
        start, out = "Layer 0 of the circuit is what comes into `layers[0]`,", "`layers[n - 1]`"
        if not self.between:
            return f"{start} and layer n what comes out of {out}."
        return (
            f"{start} layer 2n - 1 what comes into `layers[n - 1].{self.between}`, and layer 2n "
            f"what comes out of {out}."
        )


def chosen(kinds: Sequence[CheckpointKind], name: str | None, target: str) -> CheckpointKind:
    """The class of a name; the first one if none is asked for.

    Raises:
      InputError: the target has none of that name.
    """
    known = {kind.name: kind for kind in kinds}
    if name is None:
        return kinds[0]
    return known[arguments.choice(f"export: architecture, of target {target!r},", name, known)]


def zeros(shapes: Mapping[str, Sequence[int]]) -> Arrays:
    """Parameters that add nothing, by name."""
    return {name: np.zeros(tuple(shape), np.float32) for name, shape in shapes.items()}
