"""Levels: at which position each node reads, and the last at which others read it.

Levels that minimise the carried width at the least depth are a linear program with a totally
unimodular matrix (minimum-register retiming: Leiserson and Saxe 1991), so its solution is integral.
See `lsrl.schedule` for what positions are.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.errors import LsrlError, ProgramError
from lsrl.ir import ops
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.target import Capabilities

# What stands in a layer of its own, and is read in the next.
NONLINEAR: frozenset[type[ops.Op]] = frozenset(
    {ops.Relu, ops.Step, ops.Product, ops.SelectiveState, ops.ThresholdState, ops.RecurrentState}
)
# What it costs to hold a channel of an affine map where maps had better not be held: more than all
# that a program's other signals could save by it.
HELD_AFFINE = 1000.0
# Ops that the input map makes: the present token and functions of it.
AT_INPUT = (ops.Input, ops.Lookup)
# Reading position and last position read, by node id: all that the linear program decides.
Levels = dict[int, tuple[int, int]]


def latency(op: ops.Op, target: Capabilities) -> int:
    """Positions from where a node reads to where others can read it."""
    late = isinstance(op, ops.LinearState) and not target.reads_own_states
    return 1 if late or type(op) in NONLINEAR else 0


class _Limits(NamedTuple):
    """Of the variables: the reading position of each node, then the last at which it is read.

    Row r says x[larger[r]] - x[smaller[r]] >= apart[r].
    """

    lower: Array  # (2 nodes,)
    upper: Array  # (2 nodes,)
    larger: Array  # (rows,) int
    smaller: Array  # (rows,) int
    apart: Array  # (rows,)


class LevelProblem:
    """The linear program."""

    def __init__(self, graph: Graph, target: Capabilities) -> None:
        self.graph = graph
        self.target = target
        self.live = [
            i
            for i in graph.live()
            if not isinstance(graph.nodes[i].op, ops.Constant)
            if not graph.facts[i].constant or graph.nodes[i].op.stateful or i == graph.output
        ]
        self.earliest = self._earliest()
        # Layers that no schedule can do without.
        ends = (start + self._own_layer(i) for i, start in self.earliest.items())
        self.critical_path = max(ends, default=0)
        self.depth = max(self.critical_path, 1)

    def _earliest(self) -> dict[int, int]:
        """The earliest reading position of each node."""
        found: dict[int, int] = {}
        for i in self.live:
            node = self.graph.nodes[i]
            reads = [
                found[o] + latency(self.graph.nodes[o].op, self.target)
                for o in node.operands
                if o in found
            ]
            found[i] = max(reads, default=0)
        return found

    def _own_layer(self, i: int) -> int:
        """1 for what stands in a layer behind the position that it reads at."""
        return 0 if isinstance(self.graph.nodes[i].op, (*AT_INPUT, ops.Affine)) else 1

    def _carry_cost(self, i: int) -> float:
        facts = self.graph.facts[i]
        if isinstance(self.graph.nodes[i].op, ops.Affine) and not self.target.holds_affine:
            return HELD_AFFINE * facts.width
        signed = float(np.count_nonzero(facts.low < 0))
        positive = self.target.carry_positive * (facts.width - signed)
        return self.target.carry_signed * signed + positive

    def limits(self) -> _Limits:
        """What levels must keep to."""
        count, number = len(self.live), {node: k for k, node in enumerate(self.live)}
        lower, upper = np.zeros(2 * count), np.full(2 * count, float(self.depth))
        rows: list[tuple[int, int, int]] = []
        for k, i in enumerate(self.live):
            node = self.graph.nodes[i]
            lower[k] = self.earliest[i]
            # A state's own layer holds it anyway, so carrying it starts one layer later.
            own = self._own_layer(i)
            upper[k] = 0 if isinstance(node.op, AT_INPUT) else self.depth - own
            rows.append((count + k, k, own))
            for operand in dict.fromkeys(node.operands):
                if operand not in number:
                    continue
                source = number[operand]
                later = latency(self.graph.nodes[operand].op, self.target)
                rows.append((k, source, later))
                rows.append((count + source, k, 0))
        if self.graph.output in number:
            lower[count + number[self.graph.output]] = self.depth
        larger, smaller, apart = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return _Limits(lower, upper, larger, smaller, apart.astype(np.float64))

    def check(self, levels: Levels) -> Levels:
        """The levels, if they are some of this graph.

        Raises:
          ProgramError: says which node has no level, or one that does not fit.
        """
        cure = "pass model.schedule.levels of an equal compilation, or leave them out"
        if levels.keys() != set(self.live):
            other = sorted(levels.keys() ^ set(self.live))
            raise ProgramError(
                f"levels: expected one for each of {len(self.live)} nodes, not {other}; {cure}"
            )
        lower, upper, larger, smaller, apart = self.limits()
        positions = np.array([levels[i] for i in self.live], np.float64).T.reshape(-1)
        wrong = (positions < lower) | (positions > upper)
        wrong[larger[positions[larger] - positions[smaller] < apart]] = True
        if wrong.any():
            node = self.live[int(np.flatnonzero(wrong)[0]) % len(self.live)]
            label = self.graph.label(node)
            raise ProgramError(
                f"levels: {levels[node]} of {label} is not where its values are; {cure}"
            )
        return levels

    def solve(self) -> Levels:
        """Reading positions and lifetimes that minimise the carried width at the least depth."""
        if not self.live:
            return {}
        count = len(self.live)
        carry = np.array([self._carry_cost(i) for i in self.live])
        cost = np.concatenate([-carry, carry])
        # Among schedules of equal width prefer early reading: results become visible sooner.
        cost[:count] += 1e-6
        limits = self.limits()
        limits.upper[:count] = self._latest(limits)
        position = np.rint(_least(cost, limits)).astype(int)
        return {i: (int(position[k]), int(position[count + k])) for k, i in enumerate(self.live)}

    def _latest(self, limits: _Limits) -> Array:
        """(nodes,) the latest reading position of each node."""
        count, number = len(self.live), {node: k for k, node in enumerate(self.live)}
        found = limits.upper[:count].tolist()
        for k in range(count - 1, -1, -1):
            for operand in self.graph.nodes[self.live[k]].operands:
                source = number.get(operand)
                if source is not None:
                    later = latency(self.graph.nodes[operand].op, self.target)
                    found[source] = min(found[source], found[k] - later)
        return np.array(found)


def _least(cost: Array, limits: _Limits) -> Array:
    """The cheapest values of the variables; most have no choice, and are no part of the program."""
    lower, upper, larger, smaller, apart = limits
    fixed = lower == upper
    below = fixed[smaller]
    lower = lower.copy()
    np.maximum.at(lower, larger[below], lower[smaller[below]] + apart[below])
    left = ~below & ~fixed[larger]
    larger, smaller, apart = larger[left], smaller[left], apart[left]
    free, place = np.unique(np.concatenate([larger, smaller]), return_inverse=True)
    if not len(free):
        return lower
    from scipy.optimize import linprog

    rows = len(larger)
    places = np.tile(np.arange(rows), 2), place
    signs = np.repeat([-1.0, 1.0], rows)
    matrix = sp.csr_array((signs, places), (rows, len(free)))
    bounds = np.stack([lower, upper], axis=1)[free]
    result = linprog(cost[free], A_ub=matrix, b_ub=-apart, bounds=bounds, method="highs-ds")
    if not result.success:
        raise LsrlError(f"the scheduler's linear program failed: {result.message}")
    lower[free] = result.x
    return lower
