"""What a node of a graph computes, as a formula: `relu(2·ones − position − 1)`.

Affine maps without a name of the user's are written out in the formulas that read them.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import scipy.sparse as sp

from lsrl.ir import ops
from lsrl.ir.labels import bracketed, element_name

if TYPE_CHECKING:
    from lsrl.ir.graph import Graph

# The most that is told of a sum, a signal and a table; of the rest only how much it is.
MOST_TERMS, MOST_ELEMENTS, MOST_ENTRIES = 6, 4, 8

Atom = tuple[int, int]  # a node and one of its elements


class Formulas:
    """Writes the formulas of a graph."""

    def __init__(self, graph: "Graph") -> None:
        """Nothing is worked out yet."""
        self.graph = graph

    def node(self, node: int) -> str:
        """The first few elements of a node, those of a wide one in brackets."""
        if isinstance(op := self.graph.nodes[node].op, ops.Input):
            return f"{op.name}()"
        return self._elements(node, self.element)

    def read(self, node: int) -> str:
        """A node as what reads it has it: its name, but of an affine map what is folded in."""
        return self._elements(node, self._sum)

    def _elements(self, node: int, written: Callable[[int, int], str]) -> str:
        width = self.graph.nodes[node].width
        shown = [written(node, row) for row in range(min(width, MOST_ELEMENTS))]
        more = [f"… {width - len(shown)} more"] if width > len(shown) else []
        return shown[0] if width == 1 else f"[{', '.join([*shown, *more])}]"

    def element(self, node: int, row: int) -> str:
        """One element of a node."""
        op = self.graph.nodes[node].op
        read = [self._sum(*each) for each in self._operands(node, row)]
        inside = [bracketed(text) for text in read]
        match op:
            case ops.Affine():
                return self.written(*self.sum_of(node, row))
            case ops.Constant():
                return shortest(op.values[row])
            case ops.Lookup():
                return _looked_up(op.table.csr, row, read[0])
            case ops.Periodic():
                return f"{_table(op.table.csr, row)}[t mod {op.table.rows}]"
            case ops.Product():
                return " · ".join(inside)
            case ops.Step():
                return f"[{read[0]} ≥ 0]"
            case ops.Bound() | ops.Read():
                return read[0]
            case ops.Delay():
                return f"{inside[0]}[t−{op.steps}]"
            case ops.LinearState():
                return self._recurrent(node, row, read[0])
            case ops.ThresholdState():
                return f"[{self._recurrent(node, row, read[0])} > 0]"
            case ops.RecurrentState():
                return f"relu({self._recurrent(node, row, read[0])})"
            case ops.SelectiveState():
                return _joined(f"{inside[0]} · {self._name(node, row)}[t−1]", read[1])
            case ops.SwapState():
                swap, points = (self.read(i) for i in self.graph.nodes[node].operands)
                return f"±{bracketed(points)}[place of {row}; swaps {swap}]"
            case ops.Recall():
                written, value, wanted = map(self.read, self.graph.nodes[node].operands)
                return f"{bracketed(value)}[{row}; last {written} = {wanted}]"
        return f"{op.name}({', '.join(read)})"

    def read_by(self, node: int, row: int) -> set[int]:
        """The nodes that one element's formula names, at the same token."""
        if isinstance(self.graph.nodes[node].op, ops.Affine):
            return {atom for atom, _ in self.sum_of(node, row)[0]}
        named = (self._expanded(*each)[0] for each in self._operands(node, row))
        return {atom for terms in named for atom, _ in terms}

    def sum_of(self, node: int, row: int) -> tuple[dict[Atom, float], float]:
        """An element of an affine map, as weights of what has a name or is none, and a bias."""
        pending: dict[Atom, float] = {(node, row): 1.0}
        order = [(-node, row)]  # what is read comes before its readers
        found: dict[Atom, float] = {}
        bias = 0.0
        while order:
            place, element = heapq.heappop(order)
            atom = -place, element
            factor, this = pending.pop(atom), self.graph.nodes[-place]
            if isinstance(this.op, ops.Constant):
                bias += factor * this.op.values[element]
            elif not isinstance(this.op, ops.Affine) or (this.names and -place != node):
                found[atom] = factor
            else:
                bias += factor * this.op.bias[element]
                for weight, operand in zip(this.op.weights, this.operands, strict=True):
                    for column, value in _row(weight.csr, element):
                        if (operand, column) not in pending:
                            heapq.heappush(order, (-operand, column))
                        pending[operand, column] = (
                            pending.get((operand, column), 0.0) + factor * value
                        )
        return {atom: weight for atom, weight in sorted(found.items()) if weight}, bias

    def _operands(self, node: int, row: int) -> Iterator[Atom]:
        """The elements that one element is made of."""
        this = self.graph.nodes[node]
        # A read is its words; which of its points or cells a state tells of may be any.
        for operand in this.operands[-1:] if isinstance(this.op, ops.Read) else this.operands:
            width = self.graph.nodes[operand].width
            if isinstance(this.op, ops.SwapState | ops.Recall):
                yield from ((operand, other) for other in range(width))
            else:
                yield operand, row if row < width else 0

    def _expanded(self, node: int, row: int) -> tuple[dict[Atom, float], float]:
        this = self.graph.nodes[node]
        if isinstance(this.op, ops.Affine | ops.Constant) and not this.names:
            return self.sum_of(node, row)
        return {(node, row): 1.0}, 0.0

    def _sum(self, node: int, row: int) -> str:
        return self.written(*self._expanded(node, row))

    def _recurrent(self, node: int, row: int, read: str) -> str:
        """The row of a state's transition, and what it takes in."""
        op = self.graph.nodes[node].op
        if not isinstance(op, ops.LinearState | ops.ThresholdState | ops.RecurrentState):
            return read
        own = {(node, column): value for column, value in _row(op.transition.csr, row)}
        before = self.written(own, 0.0, "[t−1]")
        return _joined(before, read) if own else read

    def _name(self, node: int, row: int) -> str:
        label, width = self.graph.label(node), self.graph.nodes[node].width
        return bracketed(label) if width == 1 else element_name(label, row)

    def written(self, terms: dict[Atom, float], bias: float = 0.0, behind: str = "") -> str:
        """A sum in the order of its signals, but that what is added stands first."""
        order = sorted(terms.items(), key=lambda term: term[1] < 0)
        parts = [
            (weight < 0, f"{_factor(abs(weight))}{self._name(*atom)}{behind}")
            for atom, weight in order[:MOST_TERMS]
        ]
        if len(terms) > len(parts):
            parts.append((False, f"… ({len(terms) - len(parts)} more)"))
        if bias or not parts:
            # 1 − x, not −x + 1
            place = 0 if parts and parts[0][0] and bias > 0 else len(parts)
            parts.insert(place, (bias < 0, shortest(abs(bias))))
        text = "".join(f" {'−' if minus else '+'} {part}" for minus, part in parts)
        return f"−{text[3:]}" if parts[0][0] else text[3:]


def shortest(number: float) -> str:
    """The shortest text that says a number exactly."""
    number = float(number)
    text = f"{number:.0f}" if number.is_integer() and abs(number) < 1e16 else repr(number)
    return text.replace("-", "−")


def _factor(size: float) -> str:
    return "" if size == 1 else f"{shortest(size)}·"


def _joined(left: str, right: str) -> str:
    if right == "0":
        return left
    return f"{left} − {right[1:]}" if right.startswith("−") else f"{left} + {right}"


def _row(csr: sp.csr_array, row: int) -> Iterator[tuple[int, float]]:
    entries = slice(csr.indptr[row], csr.indptr[row + 1])
    yield from zip(csr.indices[entries].tolist(), csr.data[entries].tolist(), strict=True)


def _table(csr: sp.csr_array, column: int) -> str:
    entries = csr[:MOST_ENTRIES, [column]].toarray()[:, 0].tolist()
    more = [f"… {csr.shape[0] - len(entries)} more"] if csr.shape[0] > len(entries) else []
    return f"({', '.join([*map(shortest, entries), *more])})"


def _looked_up(csr: sp.csr_array, column: int, read: str) -> str:
    entries = csr[:, [column]].tocoo()
    if entries.nnz == 1 and entries.data[0] == 1:
        return f"[{read} = {entries.coords[0][0]}]"
    return f"{_table(csr, column)}[{read}]" if entries.nnz else "0"
