"""FLEQ in plain Python, in float32: `mem[c] = f(mem[a], mem[b])`, and a jump where a flag is not
above 0.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from lsrl.errors import AssemblyError, InputError

Cell = npt.NDArray[np.float32]  # (), or (size, size)
Block = Callable[[Cell, Cell], Cell]


class Line(NamedTuple):
    """One instruction: names of cells, and where to go if the flag is not above 0."""

    function: str
    a: str
    b: str
    c: str
    flag: str
    to: str  # a label, or "halt"
    line: int  # of the text


@final
@dataclass(frozen=True)
class FleqImage:
    """Cells and lines of a FLEQ text.

    Attributes:
      cells: what each cell holds, by name, in the order of their addresses.
      lines: the instructions, in their order.
      labels: numbers of lines by name.
    """

    cells: Mapping[str, Cell]
    lines: Sequence[Line]
    labels: Mapping[str, int] = field(default_factory=dict)

    def put(self, **values: npt.ArrayLike) -> "FleqImage":
        """The image with other numbers in some cells.

        Raises:
          InputError: there is no such cell.
        """
        cells = dict(self.cells)
        for name, value in values.items():
            if name not in cells:
                near = get_close_matches(name, cells, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(cells)}"
                raise InputError(f"the text has no cell {name!r}; {hint}")
            cells[name] = np.asarray(value, np.float32)
        return replace(self, cells=cells)
