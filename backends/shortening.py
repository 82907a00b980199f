"""Units without those that others tell: what one only hands on is read where it was made."""

import numpy as np
from scipy import sparse

from lsrl.backends.factors import csr
from lsrl.backends.units import LINEAR, NO_CURVES, NO_SUMS, Curves, Handed, Leaf, Sums, Units
from lsrl.ir.numbers import Array


def shortened(units: Units) -> Units:
    """The same without units that hand on what one other shows: what reads them reads that one.

    So a value that a network carries over many layers is looked at once. Weights are powers of two,
    so that products of them are exact.
    """
    count, gates = units.count, units.gates
    edges, later = units.forward.tocoo(copy=False), units.back.tocoo(copy=False)
    kept, source, scale, offset = _handed(units, edges, later)
    if kept.all():
        return units
    bias = units.bias.copy()

    def moved(matrix: sparse.coo_array) -> sparse.coo_array:
        known = kept[matrix.col // gates]
        row, column, data = matrix.row[known], matrix.col[known], matrix.data[known]
        of = np.flatnonzero(offset[row])
        np.add.at(bias.ravel(), column[of], data[of] * offset[row[of]])
        data *= scale[row]
        return sparse.coo_array((data, (source[row], column)), matrix.shape)

    none = np.full(count, np.inf)
    shown = Handed(source, scale, offset, -none, none)
    return left_over(units, kept, (moved(edges), moved(later)), bias, shown, shown)


def left_over(
    units: Units, kept: Array, edges: tuple[sparse.coo_array, sparse.coo_array], bias: Array,
    shown: Handed, driven: Handed, curves: Curves = NO_CURVES, sums: Sums = NO_SUMS,
) -> Units:  # fmt: skip
    """Some of all units.

    Args:
      units: all.
      kept: (units,) whether each is left.
      edges: forward and back, of which those between units that are left stay.
      bias: as theirs.
      shown: what all of them show, told by those that are left.
      driven: what drives those that are not.
      curves: of those that are left.
      sums: of those that are left.
    """
    count, left, gates = len(kept), int(kept.sum()), units.gates
    number = np.empty(count, np.int32)
    number[kept], number[~kept] = np.arange(left), np.arange(count - left)

    def renumbered(drives: Array) -> Array:
        return np.asarray(gates * number[drives // gates] + drives % gates)

    def between(matrix: sparse.coo_array) -> sparse.csr_array:
        known = kept[matrix.row] & kept[matrix.col // gates]
        place = number[matrix.row[known]], renumbered(matrix.col[known])
        return csr(sparse.coo_array((matrix.data[known], place), (left, gates * left)))

    def told(handed: Handed) -> Handed:
        return handed._replace(units=number[handed.units])

    # What was left out before is told by what tells those that told it.
    before = units.handed.behind(shown, units.handed.units)
    away = Handed(*(part[~kept] for part in driven))
    handed = Handed(*map(np.concatenate, zip(before, away, strict=True)))
    numbers = np.where(kept, number, left + len(before.units) + number)
    numbers = np.append(numbers, left + np.arange(len(before.units)))
    forward, back = map(between, edges)
    return Units(
        units.slots,
        units.kinds[kept],
        units.lows[kept],
        bias[kept],
        np.unique(np.append(np.cumsum(kept) - kept, left)[units.starts]),
        forward,
        back,
        tuple(Leaf(numbers[leaf.units], leaf.field) for leaf in units.leaves),
        int(number[units.readout]),
        units.outputs,
        units.cells,
        told(handed),
        curves._replace(units=number[curves.units], drives=renumbered(curves.drives)),
        Sums(number[sums.units], sums.offsets, sums.starts, told(sums.terms)),
    )


def driven_by_one(
    units: Units, edges: sparse.coo_array, later: sparse.coo_array
) -> tuple[Array, Array, Array]:
    """Linear units that one other drives, by a power of two, so that products are exact.

    Args:
      units: all of them.
      edges: to later stages.
      later: to the next token.

    Returns:
      Their numbers, that other one's, and the weight.
    """
    count, read = units.count, edges.col // units.gates
    one = (units.kinds == LINEAR) & (np.bincount(read, minlength=count) == 1)
    # What the next token reads of a unit is part of the state, which the other one's may not tell.
    one[later.col // units.gates] = one[later.row] = False
    one[units.readout : units.readout + units.outputs] = False
    alone = np.flatnonzero(one[read] & (np.abs(np.frexp(edges.data)[0]) == 0.5))
    return read[alone], edges.row[alone], edges.data[alone]


def _handed(
    units: Units, edges: sparse.coo_array, later: sparse.coo_array
) -> tuple[Array, Array, Array, Array]:
    """Which units are kept, and of each of the others which one it hands on, times and plus what.

    Args:
      units: all of them.
      edges: to later stages.
      later: to the next token.
    """
    count = units.count
    own, of, weights = driven_by_one(units, edges, later)
    source, scale, offset = np.arange(count), np.ones(count), np.zeros(count)
    source[own], scale[own], offset[own] = of, weights, units.bias[own, 0]
    relu = units.lows == 0
    positive = relu.copy()
    for slot in units.slots:
        positive[slot.first : units.starts[0]] = slot.token
    kept = np.ones(count, bool)
    # In order, since a unit may hand on what another one hands on.
    for q in np.sort(own).tolist():
        s = source[q]
        above = positive[s] and scale[q] > 0 and offset[q] >= 0
        if relu[q] and not above:
            source[q], scale[q], offset[q] = q, 1.0, 0.0
            continue
        kept[q], positive[q] = False, above
        source[q] = source[s]
        offset[q] += scale[q] * offset[s]
        scale[q] *= scale[s]
    return kept, source, scale, offset
