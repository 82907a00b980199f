"""Where a target's networks hold the channels of a schedule, for circuits and interventions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.ir.numbers import Array
from lsrl.schedule import Schedule


class Reading(NamedTuple):
    """How the channels of a layer are read off its hook.

    Attributes:
      decode: (channels, units).
      offset: (channels,): channels are decode @ units + offset.
      hidden: the entry of the memory behind each channel; None where it is the channel's own units.
      ones: units that are the same at every token, with their weights.
    """

    decode: sp.csr_array
    offset: Array
    hidden: Sequence[int] | None
    ones: tuple[tuple[int, float], ...] = ()


class Hooks(NamedTuple):
    """The hooks of a stack of layers, where an `Edit` of the step may look and change.

    Attributes:
      text: what a hook is, and what the memory behind it.
      layers: first to last, without the input map, whose hook holds the features as they are.
    """

    text: str
    layers: list[Reading]


def channels_as_they_are(schedule: Schedule, text: str) -> Hooks:
    """Hooks that hold one channel a unit, with the memory of each at its own place."""
    layers = [
        Reading(sp.eye_array(layer.width, format="csr"), np.zeros(layer.width), range(layer.width))
        for layer in schedule.layers
    ]
    return Hooks(text, layers)
