"""Threshold states for targets that move items by swaps and have no thresholds.

Every finite automaton is one: the table of a threshold state is recovered from its units, made as
small as what is read of it allows, and written as swaps and holds; see `lsrl.automata`.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lsrl.automata.levels import Levels
from lsrl.automata.limits import TooLargeError
from lsrl.automata.plan import Plan, plan_of
from lsrl.automata.tables import Table, letter_classes, minimised, recovered
from lsrl.automata.tracks import Track
from lsrl.ir.graph import PUT_OFF, Graph, GraphBuilder, rewrite
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, ThresholdState
from lsrl.options import AUTOMATA, AutomatonLimits
from lsrl.passes.affine import Terms, emit_affine, plus
from lsrl.passes.letters import Letters, indicators, letters_of
from lsrl.passes.parts import Wiring, constant, matrices
from lsrl.passes.swaps import states_of

# Values of the units that are followed, before the table is minimised.
MOST_FOLLOWED = 4096
# Images of a letter that a refusal tells.
MOST_SHOWN = 12

_ONLY_SIZE = (
    "size alone is against it, since swaps and recalls hold every finite automaton at any length "
    "(Krohn and Rhodes 1965; Siems et al. 2025); lsrl.compile(..., automaton_limits=) "
    "(--automaton-limit) allows more"
)


@dataclass(frozen=True)
class Construction:
    """How a threshold state is held by swaps and holds.

    Attributes:
      signal: its name.
      states: of the smallest automaton that gives what is read of it.
      letters: that this automaton tells apart.
      plan: what holds it; None where nothing is left to hold.
    """

    signal: str
    states: int
    letters: int
    plan: Plan | None

    def __str__(self) -> str:
        """One line: construction, points, swaps a letter, levels, units."""
        about = f"{self.signal}: an automaton of {self.states} states and {self.letters} letters"
        if self.plan is None:
            return f"{about}, which has one state"
        if isinstance(self.plan, Levels):
            levels = ", ".join(
                f"{level.labels} labels" + (f" with {level.swaps} swaps" if level.swaps else "")
                for level in self.plan.levels
                if not level.free
            )
            how = f"{len(self.plan.levels)} holonomy levels ({levels})"
        else:
            how = " and ".join(map(_track_text, self.plan.tracks))
        return f"{about}, held by {how}: {self.plan.layers} layers, {self.plan.units} table units"


def _track_text(track: Track) -> str:
    swaps = track.swaps
    kind = "a series of swaps" if track.phases is None else "phases"
    if swaps == 1:
        kind = "one swap a token"
    return f"{kind} on {track.size} points ({swaps} swaps a letter at most)"


class _Read(NamedTuple):
    """An automaton as far as it is read, and what holds it.

    Attributes:
      letters: that drive it.
      became: (letters,) their classes.
      table: of the classes.
      plan: of the table; None for one state.
      bits: (units, states), values of the units that give what is read, in each state.
      whole: whether they are the units' own.
    """

    letters: Letters
    became: list[int]
    table: Table
    plan: Plan | None
    bits: Array
    whole: bool


@dataclass(eq=False)
class AutomatonPass:
    """Rewrites threshold states, and tells what it did.

    Attributes:
      limits: beyond which an automaton stays as it is.
      made: what holds each that was written.
      refused: by node of the graph that was given, why it stays.
    """

    limits: AutomatonLimits = AUTOMATA
    made: list[Construction] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)

    def __call__(self, graph: Graph) -> Graph:
        """The graph with swaps and holds in place of threshold states."""
        found: dict[int, tuple[Terms, Array, Array]] = {}
        self.made, self.refused = [], {}

        def rule(
            builder: GraphBuilder, graph: Graph, i: int, operands: tuple[int, ...]
        ) -> int | None:
            op = graph.nodes[i].op
            if isinstance(op, ThresholdState):
                return self._threshold(builder, graph, i, operands[0], found)
            read = [operand for operand in graph.nodes[i].operands if operand in found]
            return _reader(builder, graph, i, operands, found) if read else None

        return rewrite(graph, rule)

    def _threshold(
        self,
        builder: GraphBuilder,
        graph: Graph,
        i: int,
        update: int,
        found: dict[int, tuple[Terms, Array, Array]],
    ) -> int | None:
        try:
            read = _as_read(builder, graph, i, update, self.limits)
        except TooLargeError as error:
            self.refused[i] = f"it is too large for swaps: {error}; {_ONLY_SIZE}"
            return None
        table = read.table
        about = graph.label(i), table.states, table.letters
        self.made.append(Construction(*about, read.plan))
        wiring = Wiring(builder, ("automaton", i))
        if read.plan is None:
            rows = [constant(1.0)]
        else:
            letters = indicators(wiring, read.letters, read.became)
            rows = states_of(wiring, read.plan, letters, table.states, table.start)
        terms, bias = matrices(builder, rows)
        if read.whole:
            bits = Matrix(read.bits)
            made = {node: bits @ matrix for node, matrix in terms.items()}
            return wiring.bounded(emit_affine(builder, made, read.bits @ bias), 0.0, 1.0)
        found[i] = terms, bias, read.bits
        return PUT_OFF


def _reader(
    builder: GraphBuilder,
    graph: Graph,
    i: int,
    operands: tuple[int, ...],
    found: dict[int, tuple[Terms, Array, Array]],
) -> int:
    """An affine map that reads units, as one that reads what tells the states."""
    op = graph.nodes[i].op
    terms: Terms = {}
    bias = np.array(op.bias)  # type: ignore[attr-defined]
    for weight, operand, old in zip(op.weights, operands, graph.nodes[i].operands, strict=True):  # type: ignore[attr-defined]
        if old not in found:
            terms[operand] = plus(terms.get(operand), weight)
            continue
        inner, shift, bits = found[old]
        by_state = Matrix(weight.csr @ bits)
        bias = bias + by_state.times(shift)
        for node, matrix in inner.items():
            terms[node] = plus(terms.get(node), by_state @ matrix)
    return emit_affine(builder, terms, bias)


def _as_read(
    builder: GraphBuilder, graph: Graph, i: int, update: int, limits: AutomatonLimits
) -> _Read:
    """The smallest automaton that gives what is read of a threshold state.

    Raises:
      TooLargeError: it is beyond a limit; names the letter that is to blame.
    """
    op = graph.nodes[i].op
    letters = letters_of(builder, update, limits.letters)
    table, units = recovered(op.transition, op.initial, letters.updates, MOST_FOLLOWED)  # type: ignore[attr-defined]
    small, became = minimised(table, [row.tobytes() for row in units])
    whole, rows = True, _rows_read(graph, i)
    if rows is not None:
        given = [row.tobytes() for row in np.asarray(units @ rows.T)]
        smaller, other = minimised(table, given)
        if smaller.states < small.states:
            small, became, whole = smaller, other, False
    member = [_given(table, became, state) for state in range(small.states)]
    small, classes = letter_classes(small)
    try:
        plan = _planned(small, limits) if small.states > 1 else None
    except TooLargeError as error:
        raise TooLargeError(_blamed(error, letters, classes, small, builder)) from None
    return _Read(letters, classes, small, plan, units[member].T, whole)


@lru_cache(maxsize=64)
def _planned(table: Table, limits: AutomatonLimits) -> Plan:
    return plan_of(table, limits)


def _given(table: Table, became: list[int], state: int) -> int:
    """A state of a table that became another's: one that is ever read, if there is any."""
    own = [q for q, other in enumerate(became) if other == state]
    led_to = {q for row in table.rows for q in row}
    return next((q for q in own if q in led_to), own[0])


def _rows_read(graph: Graph, i: int) -> Array | None:
    """(rows, units) of all that reads a threshold state; None where more than rows is read."""
    readers = [graph.nodes[r] for r in graph.live() if i in graph.nodes[r].operands]
    if i == graph.output or not all(isinstance(node.op, Affine) for node in readers):
        return None
    found = []
    for node in readers:
        for weight, operand in zip(node.op.weights, node.operands, strict=True):  # type: ignore[attr-defined]
            if operand == i:
                if not weight.is_integer:
                    return None
                found.append(weight.dense())
    return np.unique(np.concatenate(found), axis=0)


def _blamed(
    error: TooLargeError, letters: Letters, classes: list[int], table: Table, builder: GraphBuilder
) -> str:
    """What is too large, with the letter and where it takes the states."""
    if error.letter is None:
        return f"{error}"
    letter = letters.told(classes.index(error.letter), builder)
    images = table.images[error.letter]
    shown = ", ".join(f"{q} to {image}" for q, image in enumerate(images[:MOST_SHOWN]))
    more = ", …" if len(images) > MOST_SHOWN else ""
    return f"{error}; at {letter} its states go {shown}{more}"
