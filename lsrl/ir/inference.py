"""What is known of a node: what its op says of its operands' facts, and what its surroundings add.

An op sees the facts of its operands and not that two of them are made of the same signal. Here the
graph around an affine map is looked at, so that the surface's sugar has the bounds of its
definition:

- Like terms merge: (x + y) - x is y.
- g + w relu(z) is the greater of g and g + w z for w > 0, and the smaller for w < 0. So the bounds
  of x - relu(x - y), of relu(d) + relu(-d) and of their like are those of minimum, of the absolute
  value, of exclusive or.
- A ReLU whose argument is never positive while a channel that it reads is 0 belongs to the member
  of a group that this channel belongs to; see `lsrl.ir.groups`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import Facts, Sums, affine_facts, facts, table_facts, widen
from lsrl.ir.groups import Groups
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import Affine, Bound, Input, Latch, Lookup, Periodic, Relu, SelectiveState

if TYPE_CHECKING:
    from lsrl.ir.graph import Node

# Entries of the dense matrices that one affine map is looked at with, ReLUs that are taken apart,
# and affine operands that are written over what they read.
MAX_ENTRIES = 1 << 13
MAX_RELUS = 3
MAX_OPENED = 6


class Form(NamedTuple):
    """Σ weight @ node + bias, every row by itself."""

    terms: dict[int, Array]  # node to (rows, width)
    bias: Array  # (rows,)


class Branches(NamedTuple):
    """The forms of an affine map with each choice of what its ReLUs let through.

    Attributes:
      signs: by ReLU, (rows,): by what each row multiplies it.
      forms: by choice, one bit a ReLU (1: let through), forms that all say the same.
    """

    signs: tuple[Array, ...]
    forms: tuple[tuple[Form, ...], ...]


class Inference:
    """Infers facts of a graph's nodes, one after another, and remembers what it saw of the graph.

    Attributes:
      nodes: of the graph; more may be added at the end.
      written: whether this is the program as written. Graphs made of it bring along its facts.
    """

    def __init__(self, nodes: "Sequence[Node]", written: bool) -> None:
        """Look at nothing yet."""
        self.nodes = nodes
        self.written = written
        self._branches: dict[int, Branches | None] = {}

    def facts(self, index: int, known: Sequence[Facts], tokens: int) -> Facts:
        """Facts of a node over `tokens` tokens, given those of the nodes before it."""
        node = self.nodes[index]
        fact = node.op.infer([known[i] for i in node.operands], tokens)
        if self.written and isinstance(node.op, Affine):
            fact = self._narrowed(index, fact, known)
        added = self._groups(index, known)
        return fact if not added else replace(fact, groups=exclusion.union(fact.groups, added))

    # ------------------------------------------------------------ groups

    def _groups(self, index: int, known: Sequence[Facts]) -> Groups:
        """The groups that an op's operands alone do not tell of."""
        node = self.nodes[index]
        op = node.op
        if isinstance(op, Lookup):
            source = self.nodes[node.operands[0]].op
            root = ("input", source.index) if isinstance(source, Input) else None
            return table_facts(op.table.dense(), root).groups
        if isinstance(op, Periodic):
            return table_facts(op.table.dense(), ("clock", op.table.rows)).groups
        if isinstance(op, Relu):
            return self._shut(node.operands[0], known)
        if not self.written:
            return exclusion.NONE  # nodes of different graphs have the same numbers
        if isinstance(op, Bound) and op.exclusive:
            return ((("node", index), np.arange(node.width)),)
        if isinstance(op, Latch):
            return _held(known[node.operands[0]], np.array(op.initial), index)
        if isinstance(op, SelectiveState) and op.overwrites:
            keep, update = node.operands
            if _same_rows(self.nodes, keep):
                return _held(known[update], np.array(op.initial), index)
        return exclusion.NONE

    def _shut(self, argument: int, known: Sequence[Facts]) -> Groups:
        """Of relu(argument): what is 0 wherever one of the channels that it reads is 0."""
        node = self.nodes[argument]
        if not isinstance(node.op, Affine) or not any(known[i].groups for i in node.operands):
            return exclusion.NONE
        plain = [replace(known[i], groups=exclusion.NONE) for i in node.operands]
        highest = affine_facts(node.op.weights, np.array(node.op.bias), plain).high
        found: Groups = exclusion.NONE
        for weight, operand in zip(node.op.weights, node.operands, strict=True):
            fact, columns, rows = known[operand], weight.csr.indices, weight.entry_rows()
            # The channel adds nothing then, in place of its most.
            without = highest[rows] - weight.csr.data * fact.high[columns]
            shuts = (without <= 0) & (weight.csr.data > 0) & (fact.low[columns] >= 0)
            for root, members in fact.groups if shuts.any() else ():
                belongs = np.full(node.width, -1)
                np.maximum.at(belongs, rows[shuts], members[columns[shuts]])
                found = exclusion.union(found, ((root, belongs),))
        return found

    # ------------------------------------------------------------ like terms and ReLUs

    def _narrowed(self, index: int, fact: Facts, known: Sequence[Facts]) -> Facts:
        if index not in self._branches:
            self._branches[index] = self._look_at(index)
        branches = self._branches[index]
        if branches is None:
            return fact
        ends = [_hull(forms, known) for forms in branches.forms]
        # The last ReLU varies slowest, so halves of the list differ in it alone.
        for sign in reversed(branches.signs):
            half = len(ends) // 2
            ends = [
                _chosen(sign, shut, open_)
                for shut, open_ in zip(ends[:half], ends[half:], strict=True)
            ]
        ((low, high),) = ends
        low, high = np.maximum(low, fact.low), np.minimum(high, fact.high)
        # Promises that contradict each other leave nothing, and then an interval has to stay.
        empty = low > high
        return fact.meet(
            facts(np.where(empty, fact.low, low), np.where(empty, fact.high, high), fact.step)
        )

    def _look_at(self, index: int) -> Branches | None:
        """The branches of an affine map; None where they say no more than its operands do."""
        try:
            return self._branches_of(index)
        except _RoundedError:
            return None

    def _branches_of(self, index: int) -> Branches | None:
        node = self.nodes[index]
        whole = self._form(index)
        if whole is None:
            return None
        relus = [i for i in whole.terms if self._is_alone(whole.terms[i], i)][:MAX_RELUS]
        rest = {i: matrix for i, matrix in whole.terms.items() if i not in relus}
        signs = tuple(whole.terms[i].sum(axis=1) for i in relus)
        merges = len(set(node.operands)) < len(node.operands)
        branches = []
        for choice in range(1 << len(relus)):
            terms = dict(rest)
            for bit, relu in enumerate(relus):
                if choice >> bit & 1:
                    (argument,) = self.nodes[relu].operands
                    merges |= argument in terms
                    terms = _added(terms, argument, whole.terms[relu])
            form = Form(terms, whole.bias)
            branches.append((form, *self._merged(form)))
            merges |= len(branches[-1]) > 1
        return Branches(signs, tuple(branches)) if merges else None

    def _form(self, index: int) -> Form | None:
        """An affine map as it stands; None if it is something else, or too large."""
        node = self.nodes[index]
        op = node.op
        if not isinstance(op, Affine):
            return None
        if node.width * sum(self.nodes[i].width for i in node.operands) > MAX_ENTRIES:
            return None
        terms: dict[int, Array] = {}
        for weight, operand in zip(op.weights, node.operands, strict=True):
            terms = _added(terms, operand, weight.dense())
        return Form(terms, np.array(op.bias))

    def _is_alone(self, matrix: Array, index: int) -> bool:
        """Whether this is a ReLU of which each row reads one channel at most."""
        alone = (np.count_nonzero(matrix, axis=1) <= 1).all()
        return isinstance(self.nodes[index].op, Relu) and bool(alone)

    def _merged(self, form: Form) -> Iterator[Form]:
        """The form over what its affine operands read, each time that terms have merged so.

        The last node is opened first: no other one can be made of it.
        """
        for _ in range(MAX_OPENED):
            inner = {i: self._form(i) for i in form.terms}
            last = max((i for i, found in inner.items() if found is not None), default=None)
            found = None if last is None else inner[last]
            if last is None or found is None:
                return
            terms = dict(form.terms)
            matrix = terms.pop(last)
            merges = False
            for source, weight in found.terms.items():
                merges |= source in terms
                terms = _added(terms, source, _product(matrix, weight))
            bias = _sum(form.bias, _product(matrix, found.bias[:, None])[:, 0])
            form = Form({i: entries for i, entries in terms.items() if entries.any()}, bias)
            if sum(entries.size for entries in form.terms.values()) > MAX_ENTRIES:
                return
            if merges:
                yield form


class _RoundedError(ArithmeticError):
    """Float64 would round a weight of a form, which would then be another map."""


def _added(terms: dict[int, Array], index: int, matrix: Array) -> dict[int, Array]:
    known = terms.get(index)
    return {**terms, index: matrix if known is None else _sum(known, matrix)}


def _sum(first: Array, second: Array) -> Array:
    unit = np.minimum(lowest_bit(first), lowest_bit(second))
    if (np.abs(first) + np.abs(second) > 2.0**53 * unit).any():
        raise _RoundedError
    return first + second


def _product(first: Array, second: Array) -> Array:
    unit = lowest_bit(first).min(initial=np.inf) * lowest_bit(second).min(initial=np.inf)
    if (np.abs(first) @ np.abs(second)).max(initial=0.0) > 2.0**53 * unit:
        raise _RoundedError
    return np.asarray(first @ second)


def _chosen(
    sign: Array, shut: tuple[Array, Array], open_: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The greater of both where the sign is positive, the smaller where it is negative."""
    ends = []
    for a, b in zip(shut, open_, strict=True):
        ends.append(np.where(sign > 0, np.maximum(a, b), np.where(sign < 0, np.minimum(a, b), a)))
    return ends[0], ends[1]


def _hull(forms: Sequence[Form], known: Sequence[Facts]) -> tuple[Array, Array]:
    """The interval that all forms agree on."""
    ends = [_interval(form, known) for form in forms]
    lows, highs = zip(*ends, strict=True)
    return np.maximum.reduce(lows), np.minimum.reduce(highs)


def _interval(form: Form, known: Sequence[Facts]) -> tuple[Array, Array]:
    """Interval arithmetic, row by row, widened where float64 may have rounded."""
    low, high, size = form.bias, form.bias, np.abs(form.bias)
    grid = lowest_bit(form.bias)
    for index, matrix in form.terms.items():
        fact = known[index]
        up, down, read = np.maximum(matrix, 0.0), np.minimum(matrix, 0.0), matrix.any(axis=0)
        if not np.isfinite(fact.magnitude[read]).all():
            nothing = np.full(len(low), np.inf)
            return -nothing, nothing
        least, most = np.where(read, fact.low, 0.0), np.where(read, fact.high, 0.0)
        low, high = low + up @ least + down @ most, high + up @ most + down @ least
        size = size + np.abs(matrix) @ np.where(read, fact.magnitude, 0.0)
        ends = np.minimum(lowest_bit(least), lowest_bit(most))
        with np.errstate(over="ignore"):
            units = np.where(matrix != 0, lowest_bit(matrix) * ends, np.inf)
        grid = np.minimum(grid, units.min(axis=1, initial=np.inf))
    return widen(low, high, Sums(size, grid))


def _held(value: Facts, initial: Array, index: int) -> Groups:
    """The groups of a value that all its channels took at one and the same token."""
    return exclusion.kept({
        ("held", index, root): np.where(initial == 0, members, -1)
        for root, members in value.groups
    })  # fmt: skip


def _same_rows(nodes: "Sequence[Node]", index: int) -> bool:
    """Whether all channels of a node are the same, as far as its affine maps tell."""
    node = nodes[index]
    if node.width == 1:
        return True
    if not isinstance(node.op, Affine) or len(set(node.op.bias)) > 1:
        return False
    return all(
        _equal_rows(weight) or (_is_multiple_of_identity(weight) and _same_rows(nodes, operand))
        for weight, operand in zip(node.op.weights, node.operands, strict=True)
    )


def _equal_rows(weight: Matrix) -> bool:
    dense = weight.dense() if weight.rows * weight.columns <= MAX_ENTRIES else None
    return dense is not None and bool((dense == dense[0]).all())


def _is_multiple_of_identity(weight: Matrix) -> bool:
    csr = weight.csr
    square = weight.rows == weight.columns == weight.nonzeros
    return square and bool(
        (csr.indices == weight.entry_rows()).all() and (csr.data == csr.data[0]).all()
    )
