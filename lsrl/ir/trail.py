"""Where a program's signals went: each channel as an affine map of what passes made of them.

An *atom* is a channel of a node that is no affine map. Passes write the affine maps of atoms anew
as they like, and replace atoms by affine maps of others. What a channel of the program has become
is followed through every pass by putting in, for each atom, what the pass made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from lsrl.ir.node import Node
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, Constant

if TYPE_CHECKING:
    import scipy.sparse as sp


def starts_of(nodes: Sequence[Node]) -> list[int]:
    """The number of each node's first channel among those of all nodes, and how many there are."""
    return [0, *accumulate(node.width for node in nodes)]


class Spread:
    """The channels of a graph's nodes as affine maps of its atoms, worked out when asked for."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Nodes in topological order."""
        self.nodes = nodes
        self.starts = starts_of(nodes)
        self._known: dict[int, tuple[sp.csr_array, Array]] = {}

    def of(self, node: int) -> "tuple[sp.csr_array, Array]":
        """(width, channels of all nodes) weights, and (width,) biases."""
        pending = [node]
        while pending:
            last = pending[-1]
            missing = [i for i in self._read(last) if i not in self._known]
            pending.extend(missing)
            if not missing:
                pending.pop()
                if last not in self._known:
                    self._known[last] = self._made(last)
        return self._known[node]

    def _read(self, node: int) -> Sequence[int]:
        this = self.nodes[node]
        return this.operands if isinstance(this.op, Affine) else ()

    def _made(self, node: int) -> "tuple[sp.csr_array, Array]":
        import scipy.sparse as sp

        this, columns = self.nodes[node], self.starts[-1]
        if isinstance(this.op, Constant):
            return sp.csr_array((this.width, columns)), np.array(this.op.values)
        if not isinstance(this.op, Affine):
            own = np.arange(this.width)
            entries = np.ones(this.width), (own, self.starts[node] + own)
            return sp.csr_array(entries, (this.width, columns)), np.zeros(this.width)
        total, bias = sp.csr_array((this.width, columns)), np.array(this.op.bias)
        for weight, operand in zip(this.op.weights, this.operands, strict=True):
            inner, shift = self._known[operand]
            total, bias = total + weight.csr @ inner, bias + weight.csr @ shift
        return _canonical(total), bias


@dataclass(frozen=True, eq=False)
class Trail:
    """Each channel of a program over the atoms of a graph that was made of it.

    Attributes:
      weights: (channels of the program, channels of the graph).
      bias: (channels of the program,).
      lost: (channels of the program,) bool: which are told by nothing that is left.
    """

    weights: "sp.csr_array"
    bias: Array
    lost: Array

    @staticmethod
    def begun(nodes: Sequence[Node]) -> "Trail":
        """Of the program itself, whose affine maps stand as they are."""
        import scipy.sparse as sp

        size = starts_of(nodes)[-1]
        eye = sp.csr_array(sp.eye_array(size))
        return Trail(eye, np.zeros(size), np.zeros(size, dtype=bool))

    def followed(
        self, before: Sequence[Node], made: Sequence[Node], new: Mapping[int, int], live: list[int]
    ) -> "Trail":
        """The trail to the graph that a pass made.

        Args:
          before: nodes of the graph that the pass read.
          made: nodes that it made, those among them that nothing needs.
          new: by the number of a node before, the node that stands for it.
          live: the nodes of `made` that stay, in order.
        """
        import scipy.sparse as sp

        spread, starts = Spread(made), starts_of(before)
        blocks, shifts, gone = [], [], np.ones(starts[-1], dtype=bool)
        for i, node in enumerate(before):
            if i in new:
                block, shift = spread.of(new[i])
                gone[starts[i] : starts[i + 1]] = False
            else:
                block, shift = sp.csr_array((node.width, spread.starts[-1])), np.zeros(node.width)
            blocks.append(block)
            shifts.append(shift)
        stands = sp.csr_array(sp.vstack(blocks))
        kept = np.concatenate([np.arange(spread.starts[i], spread.starts[i + 1]) for i in live])
        dead = np.ones(spread.starts[-1], dtype=bool)
        dead[kept] = False
        gone |= np.asarray(abs(stands) @ dead.astype(float)).ravel() > 0
        weights = _canonical(self.weights @ stands[:, kept])
        lost = self.lost | (np.asarray(abs(self.weights) @ gone.astype(float)).ravel() > 0)
        return Trail(weights, self.bias + self.weights @ np.concatenate(shifts), lost)

    @cached_property
    def rows(self) -> "list[Row]":
        """Each channel's."""
        return rows_of(self.weights, self.bias)


# Columns with weights, and a bias; equal maps are equal rows.
Row = tuple[tuple[tuple[int, float], ...], float]


def rows_of(weights: "sp.csr_array", bias: Array) -> list[Row]:
    """The rows of an affine map."""
    columns, data, ends = weights.indices.tolist(), weights.data.tolist(), weights.indptr.tolist()
    return [
        (tuple(zip(columns[a:b], data[a:b], strict=True)), float(shift) + 0.0)
        for a, b, shift in zip(ends, ends[1:], bias.tolist(), strict=False)
    ]


def _canonical(weights: "sp.csr_array") -> "sp.csr_array":
    weights.sum_duplicates()
    weights.eliminate_zeros()
    return weights
