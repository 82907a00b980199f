"""A network's rows held against the graph that they are of."""

from collections.abc import Sequence

from lsrl.ir.trail import Row
from lsrl.rounding.channels import Channels, Kind, RoundingError, Term
from lsrl.rounding.graph import know
from lsrl.rounding.made import Made, row_of
from lsrl.rounding.walk import Walk

# What the sums of a comparison may be off by, in units of its ramp's rise.
MOST_SLACK = 0.5


class Held:
    """What a family of targets holds its rows against.

    Attributes:
      made: the graph.
      channels: of the graph, in the dtype.
      slack: by how much of their rise ramps have to be wider, at most.
    """

    def __init__(self, walk: Walk) -> None:
        """Of a walk through the program.

        Raises:
          RoundingError: of a node of the program, or, after `walk.found`, of one of the graph.
        """
        walk.go()
        walk.found = True
        self.made: Made = walk.made
        self.channels: Channels = know(walk)
        self.slack = walk.slack
        self._lenient = {walk.made.read(atom)[0]: atom for atom in walk.lenient}
        self._loose: set[int] = set()

    def row(self, node: int, terms: Sequence[Term], bias: float) -> Kind:
        """What the network makes of a row, in any order.

        Args:
          node: what the row is of, for messages.
          terms: channels of the graph's nodes that the network holds, with weights.
          bias: what is added.

        Raises:
          RoundingError: it may be off by a bit from the graph's.
        """
        columns = [column for column, _ in terms]
        if not self._loose.isdisjoint(columns) and (len(terms), terms[0][1], bias) != (1, -1, 1):
            raise RoundingError(node, "reads a comparison that is rounded otherwise")
        found = self.channels.row(terms, bias)
        if found.text is None:
            return found.kind
        atom = self._lenient.get(self.over_atoms(terms, bias)) if found.rounds else None
        numerics = self.channels.numerics
        # Roundings of the row, and two of the program's difference and of its ramp.
        slack = (found.rounds + 2) * numerics.unit * found.size
        if atom is None or slack > MOST_SLACK:
            raise RoundingError(node, found.text)
        self._loose.add(atom)
        self.slack = max(self.slack, slack)
        return Kind.ROUNDED

    def over_atoms(self, terms: Sequence[Term], bias: float) -> Row:
        """A row over channels as one over atoms."""
        parts = [(weight, self.made.row(*self.channels.place(column))) for column, weight in terms]
        return row_of(parts, bias)
