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

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import Facts, Sums, affine_facts, facts, widen
from lsrl.ir.groups import Groups
from lsrl.ir.id_sets import IdSet, disjoint, singleton, union
from lsrl.ir.matrix import Matrix
from lsrl.ir.node import Node
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.ir.ops import (
    Affine,
    Bound,
    Constant,
    Hold,
    Input,
    Latch,
    Lookup,
    Periodic,
    Relu,
    SelectiveState,
)
from lsrl.ir.structure import is_diagonal

if TYPE_CHECKING:
    import scipy.sparse as sp

# Entries of the dense matrices that one affine map is looked at with, and how many forms of it.
MAX_ENTRIES = 1 << 13
MAX_FORMS = 24


# A node as Σ matrix @ source + bias.
Spread = tuple[dict[int, Matrix], Array]


class Form(NamedTuple):
    """Σ weight @ node + bias, every row by itself, and what else is the same value.

    Attributes:
      terms: node to (rows, width).
      bias: (rows,).
      opened: the form over what its last node reads, where that is an affine map.
      sign: where its last node is a ReLU, (rows,): by what each row multiplies it.
      branches: then the forms without the ReLU, and with its argument in its place.
    """

    terms: dict[int, Array]
    bias: Array
    opened: "Form | None" = None
    sign: Array | None = None
    branches: "tuple[Form, Form] | None" = None


class Inference:
    """Infers facts of a graph's nodes, one after another, and remembers what it saw of the graph.

    Attributes:
      nodes: of the graph; more may be added at the end.
      written: whether this is the program as written. Graphs made of it bring along its facts.
    """

    def __init__(self, nodes: Sequence[Node], written: bool) -> None:
        """Look at nothing yet."""
        self.nodes = nodes
        self.written = written
        self._forms: dict[int, Form | None] = {}
        self._sources: list[IdSet] = []
        self._spreads: dict[int, Spread | None] = {}
        self._grouped: list[bool] = []

    def facts(self, index: int, known: Sequence[Facts], tokens: int) -> Facts:
        """Facts of a node over `tokens` tokens, given those of the nodes before it.

        An end that float64 can't hold is infinite, and says nothing.
        """
        node = self.nodes[index]
        with np.errstate(over="ignore", invalid="ignore"):
            fact = node.op.infer([known[i] for i in node.operands], tokens)
            if self.written and type(node.op) is Affine:
                fact = self._narrowed(index, fact, known)
            added = self._groups(index, known)
        return fact if not added else replace(fact, groups=exclusion.union(fact.groups, added))

    # ------------------------------------------------------------ groups

    def _groups(self, index: int, known: Sequence[Facts]) -> Groups:
        """The groups that an op's operands alone do not tell of."""
        node = self.nodes[index]
        op = node.op
        if type(op) is Lookup:
            source = self.nodes[node.operands[0]].op
            if not isinstance(source, Input):
                return exclusion.NONE
            return exclusion.of_table(op.table, ("input", source.index))
        if type(op) is Periodic:
            return exclusion.of_table(op.table, ("clock", op.table.rows))
        if type(op) is Relu:
            return self._shut(node.operands[0], known)
        if not self.written:
            return exclusion.NONE  # nodes of different graphs have the same numbers
        if type(op) is Bound and op.exclusive:
            return ((("node", index), np.arange(node.width)),)
        if type(op) is Latch:
            return _held(known[node.operands[0]], np.array(op.initial), index)
        if type(op) is SelectiveState and op.overwrites:
            keep, update = node.operands
            if _same_rows(self.nodes, keep):
                return _held(known[update], np.array(op.initial), index)
        if type(op) is Hold and _same_rows(self.nodes, node.operands[1]):
            return _held(known[node.operands[0]], np.array(op.initial), index)
        return exclusion.NONE

    def _shut(self, argument: int, known: Sequence[Facts]) -> Groups:
        """Of relu(argument): what is 0 wherever one of the channels that it reads is 0."""
        if not self._reads_groups(argument, known):
            return exclusion.NONE
        spread = self._over_sources(argument)
        if spread is None:
            return exclusion.NONE
        terms, bias = spread
        plain = [replace(known[i], groups=exclusion.NONE) for i in terms]
        highest = affine_facts(list(terms.values()), bias, plain).high
        found: Groups = exclusion.NONE
        for operand, weight in terms.items():
            fact, columns, rows = known[operand], weight.indices, weight.entry_rows()
            # The channel adds nothing then, in place of its most.
            without = highest[rows] - weight.data * fact.high[columns]
            shuts = (without <= 0) & (weight.data > 0) & (fact.low[columns] >= 0)
            for root, members in fact.groups if shuts.any() else ():
                belongs = np.full(len(bias), -1)
                np.maximum.at(belongs, rows[shuts], members[columns[shuts]])
                found = exclusion.union(found, ((root, belongs),))
        return exclusion.together(found)

    def _reads_groups(self, index: int, known: Sequence[Facts]) -> bool:
        """Whether anything has groups that a node is made of through affine maps alone."""
        for i in range(len(self._grouped), index + 1):
            node = self.nodes[i]
            affine = type(node.op) is Affine
            self._grouped.append(
                any(self._grouped[j] for j in node.operands) if affine else bool(known[i].groups)
            )
        return self._grouped[index]

    def regrouped(self, index: int) -> None:
        """Forget what was seen of a node's groups, which have changed, and of its readers'."""
        del self._grouped[index:]

    def _over_sources(self, index: int) -> Spread | None:
        """A node as an affine map of its sources; None where float64 would round it."""
        if index not in self._spreads:
            self._spreads[index] = self._spread(index)
        return self._spreads[index]

    def _spread(self, index: int) -> Spread | None:
        node = self.nodes[index]
        if not isinstance(node.op, Affine):
            return {index: Matrix.identity(node.width)}, np.zeros(node.width)
        total: dict[int, Matrix] = {}
        bias = np.array(node.op.bias)
        try:
            for weight, operand in zip(node.op.weights, node.operands, strict=True):
                inner = self._over_sources(operand)
                if inner is None:
                    return None
                bias = _sum(bias, _product(weight.csr, inner[1]))
                for source, matrix in inner[0].items():
                    product = weight.exact_product(matrix)
                    if product is None:
                        return None
                    known = total.get(source)
                    total[source] = product if known is None else _total(known, product)
        except _RoundedError:
            return None
        return total, bias

    # ------------------------------------------------------------ like terms and ReLUs

    def _narrowed(self, index: int, fact: Facts, known: Sequence[Facts]) -> Facts:
        if index not in self._forms:
            self._forms[index] = self._look_at(index)
        form = self._forms[index]
        if form is None:
            return fact
        low, high = _hull(form, known)
        low, high = np.maximum(low, fact.low), np.minimum(high, fact.high)
        # Promises that contradict each other leave nothing, and then an interval has to stay.
        empty = low > high
        return fact.meet(
            facts(np.where(empty, fact.low, low), np.where(empty, fact.high, high), fact.step)
        )

    def _look_at(self, index: int) -> Form | None:
        """An affine map with all that it is too; None where that tells no more."""
        whole = self._form(index) if self._shares(self.nodes[index].operands) else None
        try:
            return None if whole is None else self._unfolded(whole, [MAX_FORMS], frozenset())
        except _RoundedError:
            return None

    def _shares(self, nodes: Iterable[int]) -> bool:
        """Whether some signal is read on two ways, through affine maps and ReLUs."""
        seen: IdSet = None
        for made_of in map(self._made_of, nodes):
            if not disjoint(seen, made_of):
                return True
            seen = union(seen, made_of)
        return False

    def _made_of(self, index: int) -> IdSet:
        """The nodes that this one is made of in that way, itself included."""
        for i in range(len(self._sources), index + 1):
            node, found = self.nodes[i], singleton(i)
            for operand in node.operands if isinstance(node.op, Affine | Relu) else ():
                found = union(found, self._sources[operand])
            self._sources.append(None if isinstance(node.op, Constant) else found)
        return self._sources[index]

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

    def _unfolded(self, form: Form, left: list[int], whole: frozenset[int]) -> Form | None:
        """The form with what it is too, as far as terms merge somewhere; else None.

        Its last node comes first: no other one can be made of that.

        Args:
          form: without any.
          left: how many forms may still be looked at.
          whole: nodes that are left as they are.
        """
        can_open = (i for i in form.terms if isinstance(self.nodes[i].op, Affine | Relu))
        last = max((i for i in can_open if i not in whole), default=None)
        left[0] -= 1
        if last is None or left[0] < 0 or not self._shares(form.terms):
            return None
        terms = dict(form.terms)
        matrix, op = terms.pop(last), self.nodes[last].op
        if isinstance(op, Relu) and (np.count_nonzero(matrix, axis=1) <= 1).all():
            (argument,) = self.nodes[last].operands
            with_it = Form(_added(terms, argument, matrix), form.bias)
            pair = Form(terms, form.bias), with_it
            found = [self._unfolded(each, left, whole) for each in pair]
            if found[0] is None and found[1] is None and argument not in terms:
                return None
            branches = found[0] or pair[0], found[1] or pair[1]
            return form._replace(sign=matrix.sum(axis=1), branches=branches)
        inner = self._form(last)
        if inner is None:
            return self._unfolded(form, left, whole | {last})
        merges = any(source in terms for source in inner.terms)
        for source, weight in inner.terms.items():
            terms = _added(terms, source, _product(matrix, weight))
        if sum(entries.size for entries in terms.values()) > MAX_ENTRIES:
            return None
        bias = _sum(form.bias, _product(matrix, inner.bias[:, None])[:, 0])
        opened = Form(terms, bias)
        further = self._unfolded(opened, left, whole)
        if further is None and not merges:
            return None
        return form._replace(opened=further or opened)


class _RoundedError(ArithmeticError):
    """Float64 would round a weight of a form, which would then be another map."""


def _added(terms: dict[int, Array], index: int, matrix: Array) -> dict[int, Array]:
    known = terms.get(index)
    total = matrix if known is None else _sum(known, matrix)
    rest = {i: entries for i, entries in terms.items() if i != index}
    return {**rest, index: total} if total.any() else rest


def _sum(first: Array, second: Array) -> Array:
    unit = np.minimum(lowest_bit(first), lowest_bit(second))
    if (np.abs(first) + np.abs(second) > 2.0**53 * unit).any():
        raise _RoundedError
    return first + second


def _total(first: Matrix, second: Matrix) -> Matrix:
    unit = min(first.unit, second.unit)
    if (abs(first.csr) + abs(second.csr)).data.max(initial=0.0) > 2.0**53 * unit:
        raise _RoundedError
    return first + second


def _product(first: "Array | sp.csr_array", second: Array) -> Array:
    """Of a dense or sparse matrix and a dense one or a vector."""
    entries = first.data if hasattr(first, "tocsr") else first
    unit = lowest_bit(entries).min(initial=np.inf) * lowest_bit(second).min(initial=np.inf)
    if (abs(first) @ np.abs(second)).max(initial=0.0) > 2.0**53 * unit:
        raise _RoundedError
    return np.asarray(first @ second)


def _hull(form: Form, known: Sequence[Facts]) -> tuple[Array, Array]:
    """The interval that a form and all that it is too agree on."""
    low, high = _interval(form, known)
    if form.opened is not None:
        least, most = _hull(form.opened, known)
        return np.maximum(low, least), np.minimum(high, most)
    if form.branches is not None and form.sign is not None:
        sign = form.sign
        shut, through = (_hull(branch, known) for branch in form.branches)
        # The greater of both where the sign is positive, the smaller where it is negative.
        least, most = (
            np.where(sign > 0, np.maximum(a, b), np.where(sign < 0, np.minimum(a, b), a))
            for a, b in zip(shut, through, strict=True)
        )
        return np.maximum(low, least), np.minimum(high, most)
    return low, high


def _interval(form: Form, known: Sequence[Facts]) -> tuple[Array, Array]:
    """Interval arithmetic, row by row, widened where float64 may have rounded."""
    low, high, size = form.bias, form.bias, np.abs(form.bias)
    grid = lowest_bit(form.bias)
    for index, matrix in form.terms.items():
        fact = known[index]
        up, down, read = np.maximum(matrix, 0.0), np.minimum(matrix, 0.0), matrix.any(axis=0)
        if not _is_moderate(matrix) or not _is_moderate(fact.magnitude[read]):
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


def _is_moderate(values: Array) -> bool:
    """Whether products of such numbers are far from both ends of float64."""
    size = np.abs(values[values != 0])
    return bool(((size > 2.0**-400) & (size < 2.0**400)).all())


def _held(value: Facts, initial: Array, index: int) -> Groups:
    """The groups of a value that all its channels took at one and the same token."""
    return exclusion.kept({
        ("held", index, root): np.where(initial == 0, members, -1)
        for root, members in value.groups
    })  # fmt: skip


def _same_rows(nodes: Sequence[Node], index: int) -> bool:
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
    square, data = weight.rows == weight.columns == weight.nonzeros, weight.data
    return square and is_diagonal(weight) and bool((data == data[0]).all())
