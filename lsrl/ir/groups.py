"""Which channels are never on together: at most one of a group is nonzero at any token.

A *root* names a thing that has *members*, of which at most one is on at a token: the symbols of a
token input, the phases of a clock, the channels of a one-hot signal. A channel that is nonzero only
at tokens at which a certain member is on *belongs* to that member. Channels that belong to
different members of one root exclude each other, whatever signals they are channels of; so a sum
over them is never larger than its largest member's share, neither in its bounds nor in the sums
that a certificate has to look at.

    groups = ((root, members), ...)    members: (width,) int64, -1 where the channel belongs to none
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array

Root = Hashable
Groups = tuple[tuple[Root, Array], ...]
Members = dict[Root, int]  # of one channel

NONE: Groups = ()
# Signals of signals of signals belong to ever more roots; those that say most are kept.
MAX_ROOTS = 4
# Members beyond are not crossed with others, so that crossings have numbers.
MOST_CROSSED = 1 << 31
# Keys of rows, groups and members are int64.
MOST_KEYS = 1 << 62


def kept(found: dict[Root, Array]) -> Groups:
    """The groups that say something, those first that say most."""
    counts = {root: np.count_nonzero(members >= 0) for root, members in found.items()}
    order = sorted((root for root in found if counts[root]), key=lambda root: -counts[root])
    return tuple((root, found[root]) for root in order[:MAX_ROOTS])


def union(first: Groups, second: Groups) -> Groups:
    """What either says; where they disagree the channel is always 0, and either will do."""
    if not second or first is second:
        return first
    found = dict(first)
    for root, members in second:
        mine = found.get(root)
        found[root] = members if mine is None else np.where(mine >= 0, mine, members)
    same = len(found) == len(first) and all(
        found[r] is m or (found[r] == m).all() for r, m in first
    )
    return first if same else kept(found)


def together(groups: Groups) -> Groups:
    """The groups with one more where two roots tell more channels apart than either does.

    What belongs to row 2 and to column 3 of a grid is on only while both are: it belongs to their
    crossing, and no two crossings are on together. A crossing has the same number in every signal.
    """
    for k, (first, rows) in enumerate(groups):
        for second, columns in groups[k + 1 :]:
            both = (rows >= 0) & (columns >= 0)
            if max(rows.max(initial=0), columns.max(initial=0)) >= MOST_CROSSED:
                continue
            members = np.where(both, rows * MOST_CROSSED + columns, -1)
            told = (len(np.unique(own[both])) for own in (rows, columns))
            if len(np.unique(members[both])) > max(told):
                return kept({("both", first, second): members, **dict(groups)})
    return groups


def common(first: Groups, second: Groups, first_zero: Array, second_zero: Array) -> Groups:
    """What holds of a value that is the first signal's or the second's, channel by channel.

    Args:
      first: of the first signal.
      second: of the second.
      first_zero: (width,) bool, where the first signal is always 0.
      second_zero: the same of the second.
    """
    mine, other = dict(first), dict(second)
    nothing = np.full(len(first_zero), -1)
    found = {}
    for root in {**mine, **other}:
        a, b = mine.get(root, nothing), other.get(root, nothing)
        found[root] = np.where(second_zero | (a == b), a, np.where(first_zero, b, -1))
    return kept(found)


def take(groups: Groups, picked: Array) -> Groups:
    """The groups of some channels."""
    return kept({root: members[picked] for root, members in groups})


def joined(parts: Sequence[tuple[int, Groups]]) -> Groups:
    """The groups of signals side by side, each given with its width."""
    width, told = 0, dict[Root, list[tuple[int, Array]]]()
    for own, groups in parts:
        for root, members in groups:
            told.setdefault(root, []).append((width, members))
        width += own
    # As `kept`, which would take a row over all channels of each root.
    counts = {
        root: sum(np.count_nonzero(members >= 0) for _, members in places)
        for root, places in told.items()
    }
    order = sorted((root for root in told if counts[root]), key=lambda root: -counts[root])
    found = []
    for root in order[:MAX_ROOTS]:
        row = np.full(width, -1)
        for start, members in told[root]:
            row[start : start + len(members)] = members
        found.append((root, row))
    return tuple(found)


def exclusive(groups: Groups, zero: Array) -> bool:
    """Whether at most one of all channels is nonzero; `zero` are those that always are 0."""
    live = np.flatnonzero(~zero)
    if len(live) <= 1:
        return True
    return any(
        (members[live] >= 0).all() and len(np.unique(members[live])) == len(live)
        for _, members in groups
    )


class Partition(NamedTuple):
    """Terms of rows, of which some are never together: of each group that those of a row make.

    Attributes:
      rows: how many there are.
      alone: terms that belong to no group, by number.
      alone_rows: the rows of these.
      order: the others, by row, group and member.
      members: where in that order each member's terms begin.
      groups: at which members each group of a row begins.
      group_rows: the row of each of these.
    """

    rows: int
    alone: Array
    alone_rows: Array
    order: Array
    members: Array
    groups: Array
    group_rows: Array

    def greatest(self, terms: Array) -> Array:
        """(rows,) the greatest sum of terms of which one member of each group counts at most."""
        total = np.bincount(self.alone_rows, terms[self.alone], self.rows)
        if not len(self.order):
            return total
        shares = np.add.reduceat(terms[self.order], self.members)
        most = np.maximum(np.maximum.reduceat(shares, self.groups), 0.0)
        return total + np.bincount(self.group_rows, most, self.rows)


def partitions(count: int, rows: Array, columns: Array, groups: Groups) -> tuple[Partition, ...]:
    """Each way to tell which entries of a matrix's rows never count together.

    Args:
      count: of rows.
      rows: (entries,) the row of each, in order.
      columns: (entries,) the column of each.
      groups: of the columns.
    """
    return tuple(_partition(count, rows, columns, order) for order in _orders(groups, columns))


def greatest_sums(ways: Sequence[Partition], terms: Array) -> Array:
    """The greatest sum of the terms of each row, where group members are never on together.

    Args:
      ways: of `partitions`.
      terms: (entries,) the greatest value of each term, aligned with the matrix's entries.

    Returns:
      (rows,); a row without terms is 0.
    """
    found = [way.greatest(terms) for way in ways]
    return found[0] if len(found) == 1 else np.minimum.reduce(found)


def greatest_total(shares: Sequence[tuple[float, Members]]) -> float:
    """The greatest sum of terms, each given with the members that it belongs to.

    As `greatest_sums`, for a few terms of many signals.
    """
    totals = [sum(size for size, _ in shares)]
    for first in list(dict.fromkeys(root for _, members in shares for root in members))[:MAX_ROOTS]:
        alone, together = 0.0, dict[tuple[Root, int], float]()
        for size, members in shares:
            root = first if first in members else next(iter(members), None)
            if root is None:
                alone += size
            else:
                key = root, members[root]
                together[key] = together.get(key, 0.0) + size
        most: dict[Root, float] = {}
        for (root, _), size in together.items():
            most[root] = max(most.get(root, 0.0), size)
        totals.append(alone + sum(most.values()))
    return min(totals)


def _orders(groups: Groups, columns: Array) -> Iterator[Groups]:
    """Each root first once: a column counts with the first root that it belongs to."""
    used = tuple(group for group in groups if (group[1][columns] >= 0).any())
    for first in range(max(len(used), 1)):
        yield used[first : first + 1] + used[:first] + used[first + 1 :]


def _partition(count: int, rows: Array, columns: Array, groups: Groups) -> Partition:
    owner, member = np.full(len(columns), -1), np.zeros(len(columns), dtype=np.int64)
    for number, (_, members) in enumerate(groups):
        mine = members[columns]
        free = (owner < 0) & (mine >= 0)
        owner[free], member[free] = number, mine[free]
    alone, owned = np.flatnonzero(owner < 0), np.flatnonzero(owner >= 0)
    member, family = member[owned], rows[owned] * len(groups) + owner[owned]
    most = int(member.max(initial=0)) + 1
    if most * (count * len(groups) + 1) >= MOST_KEYS:
        told, member = np.unique(member, return_inverse=True)
        most = len(told)
    key = family * most + member
    if (key[1:] < key[:-1]).any():
        order = key.argsort(kind="stable")
        key, family, owned = key[order], family[order], owned[order]
    starts = _starts(key)
    heads = _starts(family[starts])
    of_heads = family[starts[heads]] // max(len(groups), 1)
    return Partition(count, alone, rows[alone], owned, starts, heads, of_heads)


def _starts(values: Array) -> Array:
    """Where runs of equal values begin."""
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return np.flatnonzero(first)


def of_table(table: Matrix, root: Root) -> Groups:
    """The groups of a value that is row m of a table while member m of the root is on.

    A column with one nonzero row belongs to that row's member. A table with one nonzero entry a row
    at most makes its columns members of a root of their own.
    """
    columns, rows = table.indices, table.entry_rows()
    counts = np.bincount(columns, minlength=table.columns)
    owner = np.full(table.columns, -1)
    owner[columns] = rows
    found: dict[Root, Array] = {root: np.where(counts == 1, owner, -1)}
    if (counts > 1).any() and (np.diff(table.indptr) <= 1).all():
        found["columns", root, table] = np.where(counts > 0, np.arange(table.columns), -1)
    return kept(found)


def of_affine(
    weights: Sequence[Matrix], bias: Array, operands: Sequence[tuple[Groups, Array]]
) -> Groups:
    """The groups of Σ weight x + bias.

    A row that reads channels of one member alone belongs to it. Where the rows read disjoint sets
    of a root's members, they are members of a root of their own.

    Args:
      weights: one (rows, columns) an operand.
      bias: (rows,).
      operands: the groups of each, and which of its channels are always 0.
    """
    if not any(groups for groups, _ in operands):
        return NONE
    found: dict[Root, Array] = {}
    for root, rows, members in _entries(weights, operands):
        low = np.full(len(bias), np.iinfo(np.int64).max)
        high = np.full(len(bias), -1)
        np.minimum.at(low, rows, members)
        np.maximum.at(high, rows, members)
        found[root] = np.where((low == high) & (bias == 0), high, -1)
        apart = not bias.any() and len(members) and bool((members >= 0).all())
        if apart and (found[root][np.unique(rows)] < 0).any():
            pairs = np.unique(np.stack([members, rows], axis=1), axis=0)
            if len(np.unique(pairs[:, 0])) == len(pairs):
                own = np.arange(len(bias))
                own[np.setdiff1d(own, rows)] = -1
                found["rows", root, pairs.tobytes()] = own
    return kept(found)


def _entries(
    weights: Sequence[Matrix], operands: Sequence[tuple[Groups, Array]]
) -> Iterator[tuple[Root, Array, Array]]:
    """For each root, row and member of each entry that reads a channel which is not always 0."""
    rows = []
    told: dict[Root, list[tuple[slice, Array]]] = {}
    count = 0
    for weight, (groups, zero) in zip(weights, operands, strict=True):
        live = ~zero[weight.indices]
        columns = weight.indices[live]
        rows.append(weight.entry_rows()[live])
        place = slice(count, count + len(columns))
        count = place.stop
        for root, members in groups:
            told.setdefault(root, []).append((place, members[columns]))
    row = np.concatenate(rows)
    for root, parts in told.items():
        belongs = np.full(count, -1)
        for place, own in parts:
            belongs[place] = own
        yield root, row, belongs
