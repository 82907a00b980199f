"""Checks that hold between passes: a graph is well formed and says only what it may."""

from lsrl.errors import ProgramError
from lsrl.ir.graph import Graph
from lsrl.ir.ops import ALL_OPS


def verify(graph: Graph) -> Graph:
    """Return the graph if it is well formed.

    Raises:
      ProgramError: an operand after its reader, a foreign op, a width or facts that do not fit.
      ShapeError: operands that do not fit their op.
    """

    def where(i: int) -> str:
        return f"node {i} ({graph.label(i)}, {graph.source(i)})"

    for i, node in enumerate(graph.nodes):
        if type(node.op) not in ALL_OPS:
            raise ProgramError(f"{where(i)}: {type(node.op).__name__} is no op of this language")
        if any(operand >= i or operand < 0 for operand in node.operands):
            raise ProgramError(f"{where(i)}: reads {node.operands}, which do not come before it")
        width = node.op.width_of([graph.nodes[operand].width for operand in node.operands])
        if width != node.width or graph.facts[i].width != width:
            raise ProgramError(f"{where(i)}: expected width {width}, got {node.width}")
        if (graph.facts[i].low > graph.facts[i].high).any():
            raise ProgramError(f"{where(i)}: its interval is empty")
    if not 0 <= graph.output < len(graph.nodes):
        raise ProgramError(f"the output {graph.output} is no node of the graph")
    return graph
