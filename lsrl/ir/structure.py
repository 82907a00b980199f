"""The structure of a linear state's matrix: which channels read which."""

from typing import TYPE_CHECKING

from lsrl.ir.matrix import Matrix

if TYPE_CHECKING:
    import scipy.sparse as sp


def components(transition: Matrix) -> list[list[int]]:
    """Sets of channels that read each other in a circle, each set after those that it reads."""
    from scipy.sparse.csgraph import connected_components  # a tenth of a second to import

    count, labels = connected_components(transition.csr, directed=True, connection="strong")
    members: list[list[int]] = [[] for _ in range(count)]
    for channel, label in enumerate(labels.tolist()):
        members[label].append(channel)
    reads: list[set[int]] = [set() for _ in range(count)]
    for row, column in zip(transition.entry_rows(), transition.indices, strict=True):
        if labels[row] != labels[column]:
            reads[labels[row]].add(int(labels[column]))
    order: dict[int, None] = {}
    pending = list(range(count))[::-1]
    while pending:
        component = pending[-1]
        waiting = [other for other in reads[component] if other not in order]
        if waiting:
            pending.extend(waiting)
        else:
            order[component] = None
            pending.pop()
    return [members[component] for component in order]


def is_diagonal(matrix: Matrix) -> bool:
    """Whether every entry lies on the diagonal."""
    return bool((matrix.indices == matrix.entry_rows()).all())


def is_ring(block: "sp.csr_array") -> bool:
    """Whether every channel reads exactly one other, with weight 1, all in one cycle.

    Args:
      block: (n, n), strongly connected.
    """
    ones = bool((block.data == 1).all())
    return ones and block.nnz == block.shape[0] == len(set(block.indices.tolist()))


def around(block: "sp.csr_array") -> list[int]:
    """The channels of a ring from channel 0, each after the one that it reads."""
    after = {int(block.indices[block.indptr[row]]): row for row in range(block.shape[0])}
    order = [0]
    while len(order) < block.shape[0]:
        order.append(after[order[-1]])
    return order
