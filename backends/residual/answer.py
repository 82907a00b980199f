"""One more layer behind a program, for what a language model's head asks of the stream.

A head reads the program's output 2 k times for the symbol k, and takes k^2 off it. If the output is
a sum of large terms that cancel, such as the rest of a long count, that sum is no longer exact in
float32; so `answering` puts the output into a channel of its own first. A head that is tied to the
embedding can read only what the embedding writes: `tied` has it write k + 1 and (k + 1)^2, and its
last layer replaces them by the output and 1, and by -1. Counted from 1, a row of zeros scores as
the symbol -1 would, so what is no symbol needs no other row.
"""

from dataclasses import replace

from lsrl.backends.residual.packer import Channel
from lsrl.backends.residual.rows import ONE
from lsrl.backends.residual.stream import Site, Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.errors import LsrlError
from lsrl.ir.graph import Graph, GraphBuilder
from lsrl.ir.matrix import Matrix
from lsrl.ir.ops import Affine, Lookup, Relu


def answering(backend: ResidualBackend, stream: Stream) -> Stream:
    """Lay a program out anew, with its output in one channel.

    Args:
      backend: the target.
      stream: of a program whose output is one number, never negative.

    Returns:
      The layout of the same program; its output row is that channel.
    """
    graph = stream.graph
    builder = _copied(graph)
    # Nothing is cut off, and an affine map would not be given a channel.
    answer = builder.add(Relu(), graph.output)
    builder.inherit(answer, graph.nodes[graph.output])
    laid: Stream = backend.schedule(builder.build(answer), None)
    return laid


def tied(backend: ResidualBackend, stream: Stream) -> tuple[Stream, int, int]:
    """Lay a program out so that the embedding can be the head.

    Args:
      backend: the target.
      stream: of a program with one input, a token of at least two symbols, whose output is one
        number, never negative.

    Returns:
      The layout, and two channels of its stream, m and n. The embedding of the symbol k holds k + 1
      in m and (k + 1)^2 in n; at the end m holds the output and 1, and n holds -1. The output row
      is m.
    """
    graph = stream.graph
    builder = _copied(graph)
    ((token, source),) = graph.inputs.items()
    numbers = range(1, int(source.type.facts().high[0]) + 2)
    number, square = (
        builder.add(Lookup(Matrix([[k**power] for k in numbers])), token) for power in (1, 2)
    )
    rows = [Matrix([[float(row == place)] for row in range(3)]) for place in range(3)]
    # Only what the output reads is kept in the stream.
    kept = builder.add(Affine(tuple(rows), (0.0, 0.0, 0.0)), graph.output, number, square)
    laid: Stream = backend.schedule(builder.build(kept), None)
    answer_row, number_row, square_row = laid.output
    (number_place, _), (square_place, _) = (
        next(iter(laid.read(row).items())) for row in (number_row, square_row)
    )
    if not number_place or not square_place:
        raise LsrlError("tied: the stream has no channel for the symbol")
    last = laid.sites[len(laid.sites) - len(laid.sites) // laid.depth :]
    # Channels of the last half of a layer; what is ahead of it does nothing.
    swap = Site(
        last[-1].kind,
        (Channel(answer_row), Channel(number_row), Channel(square_row), Channel(ONE)),
        {
            number_place: ((0, 1.0), (1, -1.0), (3, 1.0)),
            square_place: ((2, -1.0), (3, -1.0)),
        },
    )
    idle = tuple(Site(site.kind, (), {}) for site in last[:-1])
    return (
        replace(laid, sites=(*laid.sites, *idle, swap), depth=laid.depth + 1, output=(number_row,)),
        number_place,
        square_place,
    )


def _copied(graph: Graph) -> GraphBuilder:
    """A builder that holds a graph, with the same ids."""
    builder = GraphBuilder(graph.tokens, graph.program or graph)
    for number, node in enumerate(graph.nodes):
        if builder.add(node.op, *node.operands) != number:
            raise LsrlError(f"node {number} repeats another one")
        builder.inherit(number, node)
    return builder
