"""How many blocks a program takes at least, told by its graph before any pass has run.

A convolution reaches three tokens back, so what is remembered for longer goes from block to block,
and each of them keeps it in a channel of the stream. For long delays and registers that is all that
matters, and it is told at once, where passes would write thousands of delays.
"""

import numpy as np

from lsrl.backends.residual.packer import TAPS
from lsrl.ir.graph import Graph
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Affine, Delay, LinearState
from lsrl.ir.structure import components

REACH = TAPS - 1


def least_blocks(graph: Graph) -> tuple[int, int]:
    """The number of blocks, and the node for which it takes so many; there may be more.

    The last block of a delay can be one that reads it.
    """
    found = ((-(-_lag(graph, i) // REACH) - 1, i) for i in graph.live())
    return max(found, default=(0, graph.output))


def _lag(graph: Graph, i: int) -> int:
    """How many tokens ago what a node holds came in, at most, where only delays can hold it."""
    node = graph.nodes[i]
    if isinstance(node.op, Delay):
        return 0 if graph.facts[node.operands[0]].constant else node.op.steps
    if isinstance(node.op, LinearState):
        fed = graph.facts[node.operands[0]].magnitude > 0
        lags = _lags(node.op.transition, fed)
        return int(lags[_wanted(graph, i)].max(initial=0))
    return 0


def _lags(transition: Matrix, fed: Array) -> Array:
    """(width,) tokens from the update to each channel, through channels that only pass it on."""
    csr = transition.csr
    starts, columns, own = csr.indptr.tolist(), csr.indices.tolist(), csr.diagonal().tolist()
    lags = np.where(fed, 0, -1).tolist()
    for channels in components(transition):
        for i in channels:
            if len(channels) > 1 or own[i]:
                lags[i] = 0  # a state of its own
                continue
            read = [lags[j] for j in columns[starts[i] : starts[i + 1]]]
            lags[i] = max([lags[i], *(lag + 1 for lag in read if lag >= 0)])
    return np.array(lags)


def _wanted(graph: Graph, i: int) -> Array:
    """(width,) bool, which channels of a node something reads."""
    wanted = np.zeros(graph.nodes[i].width, bool)
    wanted |= i == graph.output
    live = set(graph.live())
    for reader in live.intersection(graph.readers[i]):
        op, operands = graph.nodes[reader].op, graph.nodes[reader].operands
        if not isinstance(op, Affine):
            wanted[:] = True
            continue
        for weight, operand in zip(op.weights, operands, strict=True):
            if operand == i:
                wanted[weight.csr.indices] = True
    return wanted
