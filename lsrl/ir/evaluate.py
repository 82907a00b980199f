"""The reference evaluator: the one judge of what a program means.

Exact rationals, or float64 arrays where every sum of the program is proven exact in float64.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lsrl.errors import BoundsError
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array, sum_is_exact
from lsrl.ir.ops import Extent, Input, Op, StateOp
from lsrl.ir.types import position_text


# Facts over a number of tokens take longer to infer than short sequences take to evaluate.
@lru_cache(maxsize=64)
def float64_is_exact(graph: Graph, tokens: int) -> bool:
    """Whether float64 arithmetic carries out every node exactly for `tokens` tokens."""
    facts = graph.facts_at(tokens)
    for node, fact in zip(graph.nodes, facts, strict=True):
        if isinstance(node.op, Input):
            continue  # float64 holds its own inputs
        sums = node.op.sums([facts[i] for i in node.operands], tokens)
        if not sum_is_exact(sums.magnitude, sums.grid, 53).all():
            return False
        if not np.isfinite(fact.magnitude).all():
            return False
    return True


class Intervention(NamedTuple):
    """Values that replace those of a node.

    Attributes:
      mask: (batch, time, width) bool, where.
      values: (batch, time, width), what by; anything elsewhere.
    """

    mask: Array
    values: Array


def evaluate(
    graph: Graph,
    inputs: Sequence[Array],
    *,
    exact: bool | None = None,
    wanted: Sequence[int] | None = None,
    interventions: Mapping[int, Intervention] | None = None,
) -> dict[int, Array]:
    """Evaluate a graph on whole sequences.

    Args:
      graph: the program.
      inputs: one array an input, in parameter order: ids (batch, time), or (batch, time, width).
      exact: True for rationals, False for float64, None for float64 where that is proven exact.
      wanted: ids of the nodes to return; by default the output alone.
      interventions: by node id; all that reads the node reads the new values, and a state goes on
        from them (Pearl's do-operator, at single tokens). Promises are not checked then, and the
        proof that float64 is exact holds as far as values stay within their facts.

    Returns:
      (batch, time, width) by node id: float64, or rationals as objects.

    Raises:
      BoundsError: a promise of the program is broken; names the signal, line and token.
    """
    batch, time = inputs[0].shape[:2]
    rationals = not float64_is_exact(graph, time) if exact is None else exact
    extent = Extent(batch, time, rationals)
    keep = [graph.output] if wanted is None else list(wanted)
    # Promises are checked even where nothing reads the promised signal.
    promised = [i for i, node in enumerate(graph.nodes) if node.op.promise() is not None]
    live = graph.live([*keep, *promised])
    last_reader = {operand: i for i in live for operand in graph.nodes[i].operands}
    values: dict[int, Array] = {}
    for i in live:
        node = graph.nodes[i]
        given = None if interventions is None else interventions.get(i)
        if isinstance(node.op, Input):
            array = inputs[node.op.index]
            values[i] = extent.numbers(array if array.ndim == 3 else array[..., None])
            if given is not None:
                values[i] = np.where(given.mask, extent.numbers(given.values), values[i])
            continue
        operands = [values[operand] for operand in node.operands]
        if given is None:
            values[i] = node.op.evaluate(operands, extent)
        else:
            values[i] = _intervened(node.op, operands, extent, given)
        broken = node.op.broken(operands, values[i]) if interventions is None else None
        if broken is not None and np.any(broken.mask):
            at = np.argwhere(broken.mask.astype(bool))
            first = at[np.lexsort((at[:, 0], at[:, 1]))[0]]
            raise BoundsError(
                f"{graph.label(i)} ({graph.source(i)}) was promised: {broken.promise}; got "
                f"{values[i][tuple(first[:2])].tolist()} at {position_text(first[:2], 2)}; "
                "mend the input or widen the promise"
            )
        for operand in node.operands:
            if last_reader[operand] == i and operand not in keep:
                values.pop(operand, None)
    return {i: values[i] for i in keep}


def evaluate_prefixes(
    graph: Graph,
    inputs: Sequence[Array],
    wanted: Sequence[int] = (),
    *,
    exact: bool | None = None,
) -> tuple[Array, dict[int, Array]]:
    """Evaluate a graph on sequences that may break its promises, and say where they do.

    A value depends on no later token, so what is ahead of the first broken promise is as it should
    be; what stands behind it means nothing.

    Args:
      graph: the program.
      inputs: as for `evaluate`.
      wanted: ids of the nodes to return.
      exact: as for `evaluate`.

    Returns:
      (batch,) int, how many tokens from the first on keep every promise, and the values of the
      wanted nodes, as `evaluate` returns them.
    """
    batch, time = inputs[0].shape[:2]
    extent = Extent(batch, time, not float64_is_exact(graph, time) if exact is None else exact)
    legal = np.full(batch, time)
    promised = [i for i, node in enumerate(graph.nodes) if node.op.promise() is not None]
    live = graph.live([*wanted, *promised])
    last_reader = {operand: i for i in live for operand in graph.nodes[i].operands}
    values: dict[int, Array] = {}
    with np.errstate(all="ignore"):  # behind a broken promise there are no bounds
        for i in live:
            node = graph.nodes[i]
            if isinstance(node.op, Input):
                array = inputs[node.op.index]
                values[i] = extent.numbers(array if array.ndim == 3 else array[..., None])
                continue
            operands = [values[operand] for operand in node.operands]
            values[i] = node.op.evaluate(operands, extent)
            broken = node.op.broken(operands, values[i])
            if broken is not None:
                mask = np.broadcast_to(broken.mask, values[i].shape).astype(bool)
                at: Array = np.any(mask, axis=-1)
                legal = np.minimum(legal, np.where(np.any(at, axis=1), at.argmax(axis=1), time))
            for operand in node.operands:
                if last_reader[operand] == i and operand not in wanted:
                    values.pop(operand, None)
    return legal, {i: values[i] for i in wanted}


def reevaluate(
    graph: Graph,
    known: Mapping[int, Array],
    rows: Array,
    interventions: Mapping[int, Intervention],
) -> dict[int, Array]:
    """Evaluate a graph again with interventions: what they change, and no more.

    Args:
      graph: the program.
      known: every live node's value, of `evaluate`.
      rows: (batch,) int, the sequences of `known` to intervene on.
      interventions: as for `evaluate`.

    Returns:
      By node id (batch, time, width): all nodes that depend on an intervention, and their operands.
    """
    some = known[graph.output]
    extent = Extent(len(rows), some.shape[1], some.dtype == object)
    values: dict[int, Array] = {}
    changed: set[int] = set()

    def taken(node: int) -> Array:
        if node not in values:
            values[node] = known[node][rows]
        return values[node]

    for i in sorted(known):
        node, given = graph.nodes[i], interventions.get(i)
        moved = not changed.isdisjoint(node.operands)
        if given is None and not moved:
            continue
        changed.add(i)
        if given is not None and not moved and not isinstance(node.op, StateOp):
            values[i] = np.where(given.mask, extent.numbers(given.values), known[i][rows])
            continue
        operands = [taken(operand) for operand in node.operands]
        if given is None:
            values[i] = node.op.evaluate(operands, extent)
        else:
            values[i] = _intervened(node.op, operands, extent, given)
    return values


def _intervened(op: Op, operands: Sequence[Array], extent: Extent, given: Intervention) -> Array:
    new = extent.numbers(given.values)
    if not isinstance(op, StateOp):
        return np.where(given.mask, new, op.evaluate(operands, extent))
    state, result = op.start(extent), np.empty_like(operands[-1], order="C")
    for t in range(extent.time):
        state = op.advance(state, [operand[:, t] for operand in operands], extent)
        state = np.where(given.mask[:, t], new[:, t], state)
        result[:, t] = state
    return result
