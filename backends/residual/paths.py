"""How what layers add to a residual stream depends on it: paths of sums.

A layer reads the stream into inner channels, which gates open and scans remember, and writes them
back. A path through an inner channel is as strong as what it reads times what it writes.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lsrl.backends.strength import Sources, Strengths, strength
from lsrl.ir.numbers import Array


class Path(NamedTuple):
    """Through one site of a layer.

    Attributes:
      inner: (items, inner), what each inner channel reads.
      memory: (inner,), what it remembers from a token to the next.
      out: (d, inner), what writes it to the stream.
    """

    inner: Array
    memory: Array
    out: Array


def path_strengths(
    path: Callable[[int, Sources], Path], layers: Sequence[Sources], kernel: Array
) -> Strengths:
    """The strength of every connection along a stream.

    Args:
      path: by site, counted from 0, and what the stream holds there.
      layers: the stream at the embedding, and behind each site.
      kernel: (d, outputs), of the outputs, the last norm's gains included.
    """
    forward: list[Array] = []
    recurrent = [np.zeros((len(layers[0].read),) * 2)]
    for site, (below, here) in enumerate(pairwise(layers)):
        inner, memory, out = path(site, below)
        out = np.abs(here.read @ out)
        out = out / np.maximum(out.max(axis=1, keepdims=True), 1e-300)
        forward.append((inner[:, None, :] * out[None]).max(axis=2))
        recurrent.append(np.diag((out * memory).max(axis=1)))
    forward.append(strength(layers[-1].write @ kernel, np.zeros(1), layers[-1]))
    return Strengths(forward, recurrent)
