"""What parameters are about, as data: the units that each axis of an array reads, makes or follows.

Studies that change weights or tell them apart go by this and need no family: orders, signs and
sizes of units, units that are left out, a stream in another basis, noise, ranges, what feeds what.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsrl.ir.numbers import Array
from lsrl.parameters import Parameter, dense, with_entries

# Tables are looked up by symbol; gains multiply unit by unit; what is no weight is structure.
Kind = Literal["matrix", "table", "bias", "gain", "initial", "structure"]
# What a sign or a size of a unit does to an array: nothing if it only follows the units, and one
# of these that do keeps what they hold from one token to the next.
Role = Literal["makes", "reads", "follows", "keeps"]


@dataclass(frozen=True, eq=False)
class Space:
    """Units that arrays have an entry for, of a layer or of a stream.

    Attributes:
      size: how many.
      flips: whose sign may change, by unit or of all alike.
      scales: whether powers of two may scale them.
      tied: by unit a number; what has the same is scaled alike. None: each by itself.
      shows: for units that show those of another space: its name, by unit the one that is shown,
        and the one that multiplies it or -1.
      signals: whether each unit holds a channel of the schedule as it is.
      hooks: the layers of the circuit whose units they are.
      memory: the layer of the circuit whose memory they hold.
      entries: of the memory, a unit.
      within: the spaces whose units these entries are of, first axis to last; if any.
      spare: a name, where units that nothing reads may be left out; spaces of one name keep equal
        sizes.
      stream: whether all layers add to it; then an orthogonal matrix may mix all units but the
        first, which is constant.
    """

    size: int
    flips: bool | tuple[bool, ...] = False
    scales: bool = False
    tied: Array | None = None
    shows: tuple[str, Array, Array] | None = None
    signals: bool = False
    hooks: tuple[int, ...] = ()
    memory: int | None = None
    entries: int = 1
    within: tuple[str, ...] = ()
    spare: str = ""
    stream: bool = False


class Part(NamedTuple):
    """A part of an axis.

    Attributes:
      space: the units that it runs over; "" if they are none of the network's: symbols, taps,
        outputs.
      role: what it is to them.
      size: entries, where there is no space and others lie beside it.
      within: the units that each of them has an entry for, as heads have of their keys; "" if none.
    """

    space: str
    role: Role
    size: int = 0
    within: str = ""


Axis = tuple[Part, ...]  # side by side


def makes(space: str = "", within: str = "") -> Axis:
    """The axis of sums that units are made of."""
    return (Part(space, "makes", within=within),)


def reads(space: str = "", within: str = "") -> Axis:
    """The axis that a product sums over."""
    return (Part(space, "reads", within=within),)


def follows(space: str = "", within: str = "") -> Axis:
    """The axis of what belongs to units and is not scaled with them."""
    return (Part(space, "follows", within=within),)


class Axes(NamedTuple):
    """What an array is.

    Attributes:
      kind: of parameter.
      axes: of the array, first to last.
      points: the space whose units entries number, from 0 on; -1 is none.
    """

    kind: Kind
    axes: tuple[Axis, ...]
    points: str = ""

    @property
    def summed(self) -> int | None:
        """The axis of a matrix or a table that runs over what it reads, counted from the end."""
        if self.kind not in ("matrix", "table"):
            return None
        roles = [axis[0].role for axis in self.axes]
        return roles.index("reads") - len(roles) if "reads" in roles else None


# A part of an array, the axis that it lies along, and which part it is, to that part changed.
Change = Callable[[Array, int, Part], Array]


class Legend(NamedTuple):
    """Of all arrays of a network, as `Network.arrays` gives them.

    Attributes:
      spaces: by name; what shows another's units comes behind it.
      arrays: by flat name.
    """

    spaces: dict[str, Space]
    arrays: dict[str, Axes]

    @property
    def stream(self) -> str | None:
        """The name of the space that all layers add to, if there is one."""
        return next((name for name, space in self.spaces.items() if space.stream), None)

    def behind(self, layer: int) -> str:
        """The name of the space of a layer of the circuit."""
        return next(name for name, space in self.spaces.items() if layer in space.hooks)

    def sizes(self, axis: Axis) -> list[int]:
        """Of the parts of an axis."""
        return [
            math.prod(self.spaces[name].size for name in (part.space, part.within) if name)
            if part.space
            else part.size
            for part in axis
        ]

    def changed(self, arrays: Mapping[str, Parameter], change: Change) -> dict[str, Parameter]:
        """All arrays with all parts of their axes changed; parts of no space stay as they are."""
        found: dict[str, Parameter] = {}
        for name, array in arrays.items():
            found[name] = self._changed(name, dense(array), change)
            if not isinstance(array, np.ndarray):
                # A weight that is 0 is one still.
                known = dense(with_entries(array, np.ones_like(array.data)))
                places = np.nonzero(self._changed(name, known, change))
                found[name] = csr_array((dense(found[name])[places], places), found[name].shape)
        return found

    def _changed(self, name: str, array: Array, change: Change) -> Array:
        for number, axis in enumerate(self.arrays[name].axes):
            if any(part.space for part in axis):
                pieces = [
                    self._part_changed(piece, number, part, change) if part.space else piece
                    for piece, part in zip(
                        np.split(array, np.cumsum(self.sizes(axis))[:-1], number), axis, strict=True
                    )
                ]
                array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, number)
        return array

    def _part_changed(self, array: Array, number: int, part: Part, change: Change) -> Array:
        if not part.within:
            return change(array, number, part)
        before, behind = array.shape[:number], array.shape[number + 1 :]
        array = array.reshape(*before, self.spaces[part.space].size, -1, *behind)
        array = change(array, number, Part(part.space, part.role))
        array = change(array, number + 1, Part(part.within, part.role))
        return array.reshape(*before, -1, *behind)
