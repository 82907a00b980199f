"""The reference evaluator: the one judge of what a program means.

Exact rationals, or float64 arrays where every sum of the program is proven exact in float64. This
one reads whole sequences; that of `lsrl.ir.incremental` reads token by token, and both carry out
the same formulas of the ops.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, final

import numpy as np

from lsrl.errors import PromiseError, TheoremError
from lsrl.ir.arithmetic import Floats, Numbers, Rationals
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array, sum_is_exact
from lsrl.ir.ops import Extent, Input, Op, Pledge, StateOp
from lsrl.ir.types import position_text


# Facts over a number of tokens take longer to infer than short sequences take to evaluate.
@lru_cache(maxsize=16)
def facts_over(graph: Graph, tokens: int) -> tuple[Facts, ...]:
    """Facts of every node over some tokens."""
    return graph.facts_at(tokens)


@lru_cache(maxsize=64)
def float64_is_exact(graph: Graph, tokens: int) -> bool:
    """Whether float64 arithmetic carries out every node exactly for `tokens` tokens."""
    facts = facts_over(graph, tokens)
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
    theorems: bool = False,
    dtype: str | None = None,
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
      theorems: also check every value against the facts that inference gives over these tokens. On
        a compiled graph, inputs that keep the program's promises are asked for.
      dtype: in place of `exact`, a floating-point one that every operation is rounded to. Theorems
        about numbers need not hold of rounded ones, and only the program's promises are checked.

    Returns:
      (batch, time, width) by node id: float64, rationals as objects, or of the dtype.

    Raises:
      PromiseError: a promise of the program is broken; names the signal, line and token.
      TheoremError: what is proven of a signal does not hold.
    """
    batch, time = inputs[0].shape[:2]
    extent = Extent((batch, time), _numbers(graph, time, exact, dtype))
    keep = [graph.output] if wanted is None else list(wanted)
    pledges = pledges_of(graph, time) if interventions is None else {}
    if dtype is not None:
        pledges = {i: pledge for i, pledge in pledges.items() if pledge.keeper}
    # Promises are checked even where nothing reads the promised signal.
    live = graph.live([*keep, *(i for i, pledge in pledges.items() if pledge.keeper)])
    proven = facts_over(graph, time) if theorems and interventions is None else None
    values: dict[int, Array] = {}
    for i, operands, value in _values(graph, inputs, extent, live, keep, interventions):
        if i in keep:
            values[i] = value
        pledge = pledges.get(i)
        if pledge is not None:
            shown = pledge.shown(operands, value)
            broken = graph.nodes[i].op.broken(operands, value, extent, ())
            keep_promise(graph, i, pledge, broken, shown)
        if proven is not None:
            wrong = proven[i].violations(value)
            if wrong.any():
                raise _theorem_error(graph, i, str(proven[i]), wrong, value)
    return values


def evaluate_prefixes(
    graph: Graph,
    inputs: Sequence[Array],
    wanted: Sequence[int] = (),
    *,
    exact: bool | None = None,
    dtype: str | None = None,
) -> tuple[Array, dict[int, Array]]:
    """Evaluate a graph on sequences that may break its promises, and say where they do.

    A value depends on no later token, so what is ahead of the first broken promise is as it should
    be; what stands behind it means nothing.

    Args:
      graph: the program.
      inputs: as for `evaluate`.
      wanted: ids of the nodes to return.
      exact: as for `evaluate`.
      dtype: as for `evaluate`.

    Returns:
      (batch,) int, how many tokens from the first on keep every promise, and the values of the
      wanted nodes, as `evaluate` returns them.
    """
    return Prefixes(graph, inputs[0].shape[1], wanted, exact=exact, dtype=dtype)(inputs)


@final
class Prefixes:
    """A graph that many batches of sequences of one length are evaluated on: `evaluate_prefixes`.

    What follows from the graph alone is found once.
    """

    def __init__(
        self,
        graph: Graph,
        tokens: int,
        wanted: Sequence[int] = (),
        *,
        exact: bool | None = None,
        dtype: str | None = None,
    ) -> None:
        """See `evaluate_prefixes`; the sequences have so many tokens."""
        self._graph, self._tokens, self._wanted = graph, tokens, wanted
        self._numbers = _numbers(graph, tokens, exact, dtype)
        pledges = pledges_of(graph, tokens)
        self._pledged = [i for i, pledge in pledges.items() if pledge.keeper]
        self._live = graph.live([*wanted, *self._pledged])

    def __call__(self, inputs: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
        """Evaluate a batch: how many tokens of each sequence are legal, and the wanted values."""
        extent = Extent((inputs[0].shape[0], self._tokens), self._numbers)
        legal = np.full(inputs[0].shape[0], self._tokens)
        values: dict[int, Array] = {}
        with np.errstate(all="ignore"):  # behind a broken promise there are no bounds
            for i, operands, value in _values(
                self._graph, inputs, extent, self._live, self._wanted
            ):
                if i in self._wanted:
                    values[i] = value
                if i in self._pledged:
                    broken: Array = np.any(
                        self._graph.nodes[i].op.broken(operands, value, extent, ()), axis=-1
                    )
                    first = np.where(broken.any(axis=1), broken.argmax(axis=1), self._tokens)
                    legal = np.minimum(legal, first)
        return legal, values


def _numbers(graph: Graph, tokens: int, exact: bool | None, dtype: str | None) -> Numbers:
    if dtype is not None:
        return Floats(dtype)
    rationals = not float64_is_exact(graph, tokens) if exact is None else exact
    return Rationals() if rationals else Floats()


def _values(
    graph: Graph,
    inputs: Sequence[Array],
    extent: Extent,
    live: Sequence[int],
    keep: Sequence[int],
    interventions: Mapping[int, Intervention] | None = None,
) -> Iterator[tuple[int, list[Array], Array]]:
    """Each live node with its operands' values and its own, which is forgotten when all read it."""
    last_reader = {operand: i for i in live for operand in graph.nodes[i].operands}
    values: dict[int, Array] = {}
    for i in live:
        node = graph.nodes[i]
        given = None if interventions is None else interventions.get(i)
        operands = [values[operand] for operand in node.operands]
        if isinstance(node.op, Input):
            array = inputs[node.op.index]
            values[i] = extent.numbers.given(array if array.ndim == 3 else array[..., None])
            if given is not None:
                values[i] = np.where(given.mask, extent.numbers.given(given.values), values[i])
        elif given is None:
            values[i] = node.op.evaluate(operands, extent)
        else:
            values[i] = _intervened(node.op, operands, extent, given)
        yield i, operands, values[i]
        for operand in node.operands:
            if last_reader[operand] == i and operand not in keep:
                values.pop(operand, None)


def pledges_of(graph: Graph, tokens: int) -> dict[int, Pledge]:
    """What each node takes for true of its values, by node id."""
    facts = graph.facts if tokens <= graph.tokens else facts_over(graph, tokens)
    found = {}
    for i, node in enumerate(graph.nodes):
        if graph.program is not None and not node.origins:
            continue  # a pass's own node: it stands in for another op, and promises nothing
        pledge = node.op.promise([facts[operand] for operand in node.operands])
        if pledge is not None:
            found[i] = pledge
    return found


def keep_promise(
    graph: Graph, node: int, pledge: Pledge, broken: Array, values: Array, read: Array | int = 0
) -> None:
    """Let a promise be kept.

    Args:
      graph: the program.
      node: whose promise it is.
      pledge: the promise.
      broken: (batch, time, width) bool, where it is broken.
      values: (batch, time, width), of what it speaks of.
      read: how many tokens each sequence has read before these.

    Raises:
      PromiseError: it is broken.
      TheoremError: it is broken, and LSRL's own.
    """
    if not broken.any():
        return
    if pledge.keeper is None:
        raise _theorem_error(graph, node, pledge.text, broken, values, read)
    sequence, token, got, place = _first(broken, values, read)
    mend = {
        "program": "the program promises it for every input: mend it, or widen the promise",
        "prompt": "a legal prompt keeps it: mend the input, or widen the promise",
    }[pledge.keeper]
    raise PromiseError(
        f"{graph.label(node)} ({graph.source(node)}) was promised: {pledge.text}; got {got} at "
        f"{place}; {mend}",
        pledge.keeper, sequence, token,
    )  # fmt: skip


def _theorem_error(
    graph: Graph, node: int, theorem: str, wrong: Array, values: Array, read: Array | int = 0
) -> TheoremError:
    _, _, got, place = _first(wrong, values, read)
    return TheoremError(
        f"{graph.label(node)} ({graph.source(node)}): LSRL has proven: {theorem}; got {got} at "
        f"{place}; this is a fault of LSRL and not of the program, so please report it, with the "
        "program and its input"
    )


def _first(mask: Array, values: Array, read: Array | int) -> tuple[int, int, list[float], str]:
    """The first token that a mask marks: its sequence, its number, the value there, the place."""
    at = np.argwhere(mask)
    sequence, token = (int(k) for k in at[np.lexsort((at[:, 0], at[:, 1]))[0]][:2])
    got = values[sequence, token].astype(np.float64).tolist()
    token += int(np.broadcast_to(read, len(mask))[sequence])
    return sequence, token, got, position_text([sequence, token], 2)


def reevaluate(
    graph: Graph, known: Mapping[int, Array], rows: Array, interventions: Mapping[int, Intervention]
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
    numbers = Rationals() if some.dtype == object else Floats(some.dtype)
    extent = Extent((len(rows), some.shape[1]), numbers)
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
            values[i] = np.where(given.mask, extent.numbers.given(given.values), known[i][rows])
            continue
        operands = [taken(operand) for operand in node.operands]
        if given is None:
            values[i] = node.op.evaluate(operands, extent)
        else:
            values[i] = _intervened(node.op, operands, extent, given)
    return values


def _intervened(op: Op, operands: Sequence[Array], extent: Extent, given: Intervention) -> Array:
    new = extent.numbers.given(given.values)
    if not isinstance(op, StateOp):
        return np.where(given.mask, new, op.evaluate(operands, extent))
    return op.scan(operands, extent, (given.mask, new))
