"""What ramps make of the unit that they read, told by where that unit lies.

A digit is taken out of a number by ramps that read it, of which others add up some. Whenever the
number moves, so does every ramp that is open, though most sums of them are then what they were. So
a sum is taken for the piecewise linear function of the number that it is: where the number moves,
only those functions are looked at that are not 0 where it was, or where it is. Ramps that nobody
else reads are units no longer.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from lsrl.backends.shortening import driven_by_one, left_over
from lsrl.backends.units import LINEAR, Curves, Handed, Sums, Units
from lsrl.ir.numbers import Array

# Segments in which a function may be other than 0, for each edge that it takes the place of.
MOST_SEGMENTS = 2
# Bits of slopes, and of ends of segments: so their products are exact in float64.
BITS = 26


class _Ramps(NamedTuple):
    """What units make of another one: clip(scale * root + offset, least, most); (units,) each.

    Attributes:
      root: the other one; of what is no ramp the unit itself.
      scale: a power of two.
      offset: of each.
      least: that they show.
      most: that they show.
      lowest: that drives them, before the ReLU.
      highest: that drives them.
      there: whether it is a ramp.
    """

    root: Array
    scale: Array
    offset: Array
    least: Array
    most: Array
    lowest: Array
    highest: Array
    there: Array

    def terms(self, units: Array, weights: Array) -> Handed:
        """What some of them show, times weights."""
        root, scale, offset, *ends = (part[units] for part in self[:5])
        least, most = np.sort([weights * end for end in ends], axis=0)
        return Handed(root, weights * scale, weights * offset, least, most)


class _Pieces(NamedTuple):
    """Functions piece by piece, each linear from where it begins to where the next one does.

    Attributes:
      of: function, whose pieces are in order.
      begin: -inf of the first one.
      origin: where the value is told.
      slope: of each.
      value: there.
    """

    of: Array
    begin: Array
    origin: Array
    slope: Array
    value: Array

    @property
    def head(self) -> Array:
        """(pieces,) whether it is the first one of a function."""
        return np.append(True, self.of[1:] != self.of[:-1])[: len(self.of)]

    @property
    def end(self) -> Array:
        """(pieces,) where each ends."""
        return np.append(np.where(self.head, np.inf, self.begin)[1:], np.inf)[: len(self.of)]

    def at(self, places: Array) -> Array:
        """(pieces,) the values at a place of each, maybe an infinite one."""
        far = np.isinf(places)
        found = self.value + self.slope * (np.where(far, self.origin, places) - self.origin)
        beyond = far & (self.slope != 0)
        return np.where(beyond, np.sign(self.slope) * np.where(beyond, places, 0), found)

    def chosen(self, which: Array) -> "_Pieces":
        """Some of them."""
        return _Pieces(*(part[which] for part in self))


def curved(units: Units) -> Units:
    """The same with functions of a unit in place of ramps, where there is less to look at then."""
    edges, later = units.forward.tocoo(copy=False), units.back.tocoo(copy=False)
    ramps = _ramps(units, edges, later)
    read = edges.col // units.gates
    told = ramps.there[edges.row] & ~ramps.there[read]
    keys = ramps.root[edges.row] * (units.gates * units.count) + edges.col
    # What a target reads of the unit itself is a part of the function.
    told |= ~ramps.there[edges.row] & np.isin(keys, np.unique(keys[told]))
    own = np.flatnonzero(told)
    _, pair, sizes = np.unique(keys[own], return_inverse=True, return_counts=True)
    own = own[sizes[pair] > 1]
    if not len(own):
        return units
    functions, pair, sizes = np.unique(keys[own], return_inverse=True, return_counts=True)
    roots, targets = np.divmod(functions, units.gates * units.count)
    terms = ramps.terms(edges.row[own], edges.data[own])
    # A ReLU that reads nothing else is shut wherever its function is below 0: it may as well be 0.
    readers = targets // units.gates
    alone = (units.kinds[readers] == LINEAR) & (units.lows[readers] == 0)
    alone &= np.bincount(read, minlength=units.count)[readers] == sizes
    alone &= ~np.isin(readers, later.col // units.gates)
    bias = units.bias.ravel()[targets]
    pieces, cut = _cut(_pieces(terms, pair), bias, alone)
    good, levels, curves = _laid_out(pieces, roots, targets, sizes)
    rest = np.ones(edges.nnz, bool)
    rest[own[good[pair]]] = False
    kept, before = ~ramps.there, -1
    while before != (before := int(kept.sum())):
        kept[edges.row[rest & kept[read]]] = True
    if kept.all():
        return units
    biases = units.bias.copy()
    np.add.at(biases.ravel(), targets[good], np.where(cut, levels - bias, levels)[good])
    forward = sparse.coo_array((edges.data[rest], (edges.row[rest], edges.col[rest])), edges.shape)
    hidden = any(leaf.field == "hidden" for leaf in units.leaves)
    sums = _sums(terms, pair, good & cut & hidden, readers, bias)
    shown = ramps.terms(np.arange(units.count), np.ones(units.count))
    driven = shown._replace(least=ramps.lowest, most=ramps.highest) if hidden else shown
    return left_over(units, kept, (forward, later), biases, shown, driven, curves, sums)


def _sums(terms: Handed, of: Array, which: Array, units: Array, bias: Array) -> Sums:
    """What drives units of which a curve tells no more than what they show.

    Args:
      terms: of all functions.
      of: (terms,) function.
      which: (functions,) whether it is to be told.
      units: (functions,) that each goes to.
      bias: (functions,) of those.
    """
    own = np.flatnonzero(which[of])
    own = own[np.argsort(of[own], kind="stable")]
    numbers = np.flatnonzero(which)
    starts = np.append(np.searchsorted(of[own], numbers), len(own))
    return Sums(units[which], bias[which], starts, Handed(*(part[own] for part in terms)))


def _ramps(units: Units, edges: sparse.coo_array, later: sparse.coo_array) -> _Ramps:
    """Units that show what one other drives them by, as far as it is above 0."""
    count = units.count
    left, of, weights = driven_by_one(units, edges, later)
    cut = units.lows[left] == 0
    left = left[cut]
    source, weight = np.arange(count), np.ones(count)
    source[left], weight[left] = of[cut], weights[cut]
    there, none = np.zeros(count, bool), np.full(count, np.inf)
    there[left] = True
    found = _Ramps(np.arange(count), np.ones(count), np.zeros(count), -none, none.copy(), -none,
                   none.copy(), there)  # fmt: skip
    known = ~there
    while len(left):
        ready = known[source[left]]
        now, left = left[ready], left[~ready]
        of, w, b = source[now], weight[now], units.bias[now, 0]
        found.root[now], found.scale[now] = found.root[of], w * found.scale[of]
        found.offset[now] = w * found.offset[of] + b
        ends = np.sort([w * found.least[of] + b, w * found.most[of] + b], axis=0)
        found.lowest[now], found.highest[now] = ends
        found.least[now], found.most[now] = np.maximum(ends, 0)
        known[now] = True
    return found


def _pieces(terms: Handed, of: Array) -> _Pieces:
    """Sums of terms, each of the function of that number."""
    count = int(of.max()) + 1
    # Each term bends its function where it begins to rise or to fall, and where it ends to.
    ends = [(end - terms.offsets) / terms.scales for end in (terms.least, terms.most)]
    left, right = np.sort(ends, axis=0)
    which, begin, slope = _added(
        np.concatenate([np.arange(count), of, of]),
        np.concatenate([np.full(count, -np.inf), left, right]),
        np.concatenate([np.zeros(count), terms.scales, -terms.scales]),
    )
    found = _Pieces(which, begin, begin, slope, np.zeros(len(which)))
    head, end = found.head, found.end
    slope = _running(head, slope)
    # What each is at its first bend, and what it rises by from there on.
    bend = begin[np.flatnonzero(head) + 1]
    shown = terms._replace(units=of).of(bend)
    inner = ~head & (end < np.inf)
    rise = np.where(inner, slope, 0) * (np.where(inner, end, 0) - np.where(inner, begin, 0))
    value = _running(head, np.append(0, np.where(head[1:], 0, rise[:-1])))
    value += np.bincount(of, shown)[which]
    return found._replace(origin=np.where(head, end, begin), slope=slope, value=value)


def _cut(pieces: _Pieces, bias: Array, alone: Array) -> tuple[_Pieces, Array]:
    """Functions that are 0 where they would be below that, with a bias.

    Args:
      pieces: of all functions.
      bias: (functions,).
      alone: (functions,) whether it is to be done.

    Returns:
      The pieces then, and of which functions it was done: not where one is 0 at a number that its
      slope does not divide.
    """
    own = alone[pieces.of]
    moved = pieces._replace(value=pieces.value + bias[pieces.of])
    left, right = moved.at(moved.begin), moved.at(moved.end)
    crossed = own & (np.sign(left) * np.sign(right) < 0)
    slope = np.where(crossed, moved.slope, 1)
    place = moved.origin - moved.value / slope
    odd = crossed & ~_short(place, place)
    alone = alone & (np.bincount(pieces.of[odd], minlength=len(bias)) == 0)
    own, crossed = alone[pieces.of], crossed & alone[pieces.of]
    parts = [pieces.chosen(~own)]
    for which, begin, last in (
        (own, moved.begin, np.where(crossed, place, moved.end)), (crossed, place, moved.end)
    ):  # fmt: skip
        middle = moved.at(begin) + moved.at(last)
        part = moved._replace(
            begin=begin,
            slope=np.where(middle > 0, moved.slope, 0),
            value=np.where(middle > 0, moved.value, 0),
        )
        parts.append(part.chosen(which))
    found = _Pieces(*map(np.concatenate, zip(*parts, strict=True)))
    return found.chosen(np.lexsort((found.begin, found.of))), alone


def _laid_out(
    pieces: _Pieces, roots: Array, targets: Array, sizes: Array
) -> tuple[Array, Array, Curves]:
    """Functions that are worth it, by the segments of their units.

    Args:
      pieces: of all functions.
      roots: (functions,) the unit that each is of.
      targets: (functions,) the drive that it goes to.
      sizes: (functions,) edges that it takes the place of.

    Returns:
      Whether each is worth it; the constant that is left of it beside the curve; and the curves.
    """
    count = len(roots)
    good = _all_short(pieces.of, pieces.of, pieces.slope, count)
    good &= _all_short(pieces.of, roots[pieces.of], pieces.begin, count)
    level = np.zeros(count)
    while True:
        pieces = pieces.chosen(good[pieces.of])
        begins, owners, first, last = _segments(pieces, roots)
        # Values are told from that of the widest flat piece on, so that of most none is told.
        flat = np.where(pieces.slope == 0, last - first, 0)
        order = np.lexsort((flat, pieces.of))
        widest = order[np.append(np.diff(pieces.of[order]) > 0, np.ones(len(order[:1]), bool))]
        widest = widest[flat[widest] > 0]
        level[pieces.of[widest]] = pieces.value[widest]
        told = (pieces.slope != 0) | (pieces.value != level[pieces.of])
        shares = np.bincount(pieces.of, (last - first) * told, count) / sizes
        bad = good & (shares > MOST_SEGMENTS)
        if not bad.any():
            break
        # Without the worst, whose bends divide the segments of the others.
        good &= ~bad | (shares < np.median(shares[bad]))
    level[~good] = 0
    pieces = pieces._replace(value=pieces.value - level[pieces.of])
    size = np.where(told, last - first, 0)
    piece = np.repeat(np.arange(len(told)), size)
    segment = first[piece] + np.arange(len(piece)) - np.repeat(np.cumsum(size) - size, size)
    order = np.argsort(segment, kind="stable")
    piece, segment = piece[order], segment[order]
    # Of the first segment the value is told at its end.
    origins = np.where(begins == -np.inf, np.append(begins[1:], 0), begins)
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1])[: len(owners)])
    by = origins[segment] - pieces.origin[piece]
    curves = Curves(
        owners[starts],
        np.append(starts, len(owners)),
        begins,
        origins,
        np.searchsorted(segment, np.arange(len(begins) + 1)),
        targets[pieces.of[piece]],
        pieces.slope[piece],
        pieces.value[piece] + pieces.slope[piece] * by,
    )
    return good, level, curves


def _added(of: Array, at: Array, numbers: Array) -> tuple[Array, Array, Array]:
    """Sums of numbers that are of one function and one place, in order; none at infinity."""
    there = at < np.inf
    of, at, numbers = of[there], at[there], numbers[there]
    order = np.lexsort((at, of))
    of, at = of[order], at[order]
    new = np.append(True, (of[1:] != of[:-1]) | (at[1:] != at[:-1]))
    return of[new], at[new], np.add.reduceat(numbers[order], np.flatnonzero(new))


def _running(head: Array, numbers: Array) -> Array:
    """Sums so far, from each head on: of each function alone, so that they are exact."""
    found, starts = numbers.copy(), np.flatnonzero(head)
    sizes = np.diff(np.append(starts, len(head)))
    for size in np.unique(sizes).tolist():
        own = starts[sizes == size, None] + np.arange(size)
        found[own] = np.cumsum(numbers[own], axis=1)
    return found


def _short(numbers: Array, greatest: Array) -> Array:
    """Which numbers have no more bits than there may be, below the first one of another each."""
    return np.asarray(np.fmod(numbers, np.ldexp(1.0, np.frexp(greatest)[1] - BITS)) == 0)


def _all_short(of: Array, group: Array, numbers: Array, count: int) -> Array:
    """(count,) whether a function's numbers are short beside the greatest one of their group."""
    known, greatest = np.where(np.isfinite(numbers), numbers, 0), np.zeros(int(group.max()) + 1)
    np.maximum.at(greatest, group, np.abs(known))
    return np.bincount(of[~_short(known, greatest[group])], minlength=count) == 0


def _segments(pieces: _Pieces, roots: Array) -> tuple[Array, Array, Array, Array]:
    """Between all bends of the functions of a unit.

    Returns:
      Where each begins, and whose it is; of each piece the first one, and the one behind it.
    """
    owner = roots[pieces.of]
    order = np.lexsort((pieces.begin, owner))
    owners, begins = owner[order], pieces.begin[order]
    new = np.append(True, (owners[1:] != owners[:-1]) | (begins[1:] != begins[:-1]))[: len(order)]
    first = np.empty(len(order), int)
    first[order] = np.cumsum(new) - 1
    owners = owners[new]
    last = np.append(first[1:], 0)[: len(order)]
    ending = np.append(pieces.head[1:], True)[: len(order)]
    last[ending] = np.searchsorted(owners, owner[ending], side="right")
    return begins[new], owners, first, last
