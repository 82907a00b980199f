"""Rows of sparse weights that are alike, in parts, and are added up once."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from lsrl.ir.numbers import Array

# Edges that a unit more has to save, beside its own.
GAIN = 8
# Sources are of one group if so much of what reads one of them reads both, of targets that read no
# more than so many.
ALIKE, MOST_READ = 0.25, 128
# Pairs of sources that are looked at together.
PAIRS = 1 << 16


def csr(matrix: object) -> sparse.csr_array:
    """As csr of float64, without zeros, each entry once, in order."""
    if isinstance(matrix, np.ndarray):
        matrix = np.asarray(matrix, np.float64)
    own = isinstance(matrix, sparse.csr_array)
    found = sparse.csr_array(matrix, dtype=np.float64, copy=own)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def picking(count: int, entries: Sequence[int]) -> sparse.csr_array:
    """(count, entries), 1 where one of so many is the entry."""
    ones, columns = np.ones(len(entries)), np.arange(len(entries))
    return csr(sparse.coo_array((ones, (entries, columns)), shape=(count, len(entries))))


def factor(kernel: sparse.csr_array) -> tuple[sparse.csr_array, sparse.csr_array] | None:
    """Parts of columns that are a power of two times one another, added up once.

    Args:
      kernel: (sources, targets).

    Returns:
      (sources, shared) and (sources + shared, targets), which together are the kernel; None where
      nothing is saved.
    """
    group = together(kernel)
    found = kernel.tocoo()
    order = np.lexsort((found.row, group[found.row], found.col))
    rows, columns, weights = found.row[order], found.col[order], found.data[order]
    # Parts: the entries of a column in one group of sources.
    begins = np.ones(len(rows), bool)
    begins[1:] = (columns[1:] != columns[:-1]) | (group[rows[1:]] != group[rows[:-1]])
    starts = np.append(np.flatnonzero(begins), len(rows))
    first = weights[starts[:-1]]
    scales = np.sign(first) * 2.0 ** np.frexp(np.abs(first))[1]
    normed = weights / np.repeat(scales, np.diff(starts))
    sizes, taken = np.diff(starts), []
    for size in np.unique(sizes[sizes >= 2]).tolist():
        parts = np.flatnonzero(sizes == size)
        own = starts[parts, None] + np.arange(size)
        # As bytes, which are told apart at once; -0.0 is among no weights.
        written = np.concatenate([rows[own].astype(np.float64), normed[own]], axis=1)
        _, group_of, counts = np.unique(
            written.view(np.dtype((np.void, written[0].nbytes))).ravel(),
            return_inverse=True, return_counts=True,
        )  # fmt: skip
        gains = counts * size - counts - size >= GAIN
        order = np.argsort(group_of, kind="stable")
        ends = np.cumsum(counts)
        taken += [
            parts[order[end - count : end]].tolist()
            for end, count in zip(ends[gains].tolist(), counts[gains].tolist(), strict=True)
        ]
    taken.sort()
    if not taken:
        return None
    return _split(kernel.shape, (rows, columns, weights), starts, scales, taken)


def _split(
    shape: tuple[int, int], entries: tuple[Array, Array, Array], starts: Array, scales: Array,
    taken: list[list[int]],
) -> tuple[sparse.csr_array, sparse.csr_array]:  # fmt: skip
    """The two kernels, of entries whose parts in some lists are each a scale times one another."""
    rows, columns, weights = entries
    heads = np.array([parts[0] for parts in taken])
    sizes = starts[heads + 1] - starts[heads]
    own = np.concatenate([np.arange(starts[head], starts[head + 1]) for head in heads])
    summed = weights[own] / np.repeat(scales[heads], sizes)
    number = np.repeat(np.arange(len(heads)), sizes)
    shared = csr(sparse.coo_array((summed, (rows[own], number)), (shape[0], len(heads))))
    moved = np.concatenate(taken)
    number = np.repeat(np.arange(len(taken)), [len(parts) for parts in taken])
    left = np.ones(len(starts) - 1, bool)
    left[moved] = False
    kept = np.repeat(left, np.diff(starts))
    rest = sparse.coo_array((weights[kept], (rows[kept], columns[kept])), shape)
    handed = sparse.coo_array(
        (scales[moved], (number, columns[starts[moved]])), (len(taken), shape[1])
    )
    return shared, csr(sparse.vstack([rest, handed]))


def together(kernel: sparse.csr_array) -> Array:
    """(sources,) a group for each: those that are mostly read by the same targets."""
    count = kernel.shape[0]
    read = np.bincount(kernel.indices, minlength=kernel.shape[1])
    kept = read[kernel.indices] <= MOST_READ
    sources = np.repeat(np.arange(count, dtype=np.int32), np.diff(kernel.indptr))[kept]
    if not len(sources):
        return np.arange(count)
    ones = np.ones(len(sources), np.float32)
    mask = sparse.csr_array((ones, (sources, kernel.indices[kept])), kernel.shape)
    degree, across = np.diff(mask.indptr), sparse.csr_array(mask.T)
    # Pairs are many more than those that are near: they are looked at some at a time.
    pairs = np.cumsum(np.bincount(sources, read[mask.indices], count))
    blocks = np.searchsorted(pairs, np.arange(PAIRS, pairs[-1:].sum(), PAIRS))
    nodes = np.arange(count, dtype=np.int32)
    group = nodes
    for first, last in pairwise(np.unique([0, *blocks, count])):
        both = sparse.coo_array(mask[first:last] @ across)
        row, column = both.row + first, both.col
        near = (column > row) & (both.data >= ALIKE * (degree[row] + degree[column] - both.data))
        if not near.any():
            continue
        # Of the pairs so far their groups are enough: each node with the first one of its group.
        _, heads = np.unique(group, return_index=True)
        rows = np.concatenate([row[near], nodes])
        columns = np.concatenate([column[near], heads[group]])
        graph = sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), (count, count))
        group = connected_components(graph, directed=False)[1]
    return group
