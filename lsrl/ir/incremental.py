"""The incremental evaluator: a program read token by token, in any arithmetic.

A `Moment` is all that is remembered between two tokens: plain arrays, each with the axes of the
streams first, so that streams can be picked, dropped and put together by index. `advance` is a
function of a moment and of the inputs of one token, without any other effect; with the arithmetic
of jax it can be jitted, scanned and mapped:

    evaluator = Evaluator(program.graph, Floats(np.float32, jax.numpy))
    moment = evaluator.start((streams,))
    values, moment = jax.jit(evaluator.advance)(moment, [tokens])
"""

from collections.abc import Mapping, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar, cast

import numpy as np

from lsrl.errors import InexactError
from lsrl.ir.arithmetic import Integers, Numbers
from lsrl.ir.evaluate import Intervention, facts_over, keep_promise, pledges_of
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Extent, Input, Memory

Promises = Literal["raise", "mark", "ignore"]
A = TypeVar("A")  # Array, or jax.Array


class Moment(NamedTuple, Generic[A]):
    """Where some streams stand between two tokens.

    Attributes:
      tokens: (batch,) int, how many each has read.
      legal: (batch,) int, how many of these kept every promise, from the first on.
      memories: by node id what its op remembers; nodes that remember nothing have none.
    """

    tokens: A
    legal: A
    memories: dict[int, tuple[A, ...]]


class Evaluator(Generic[A]):
    """Reads a program's inputs token by token.

    Attributes:
      graph: the program.
      numbers: the arithmetic.
      wanted: ids of the nodes whose values it tells.
      promises: whether a broken promise is an error, only counted by `Moment.legal`, or not looked
        at, which is quicker. An arithmetic of jax can only count.
    """

    def __init__(
        self,
        graph: Graph,
        numbers: Numbers,
        *,
        wanted: Sequence[int] | None = None,
        tokens: int | None = None,
        promises: Promises = "raise",
    ) -> None:
        """Choose the nodes to carry out: those that the wanted ones and the promises depend on.

        Args:
          graph: the program.
          numbers: the arithmetic; integers are refused where values may leave them.
          wanted: by default the output alone.
          tokens: how many are read at most; by default those that the graph's facts hold for.
          promises: as above.

        Raises:
          InexactError: integers can't carry out the program over so many tokens.
        """
        self.graph, self.numbers, self.promises = graph, numbers, promises
        self.wanted = tuple([graph.output] if wanted is None else wanted)
        tokens = graph.tokens if tokens is None else tokens
        self._raises = promises == "raise" and not numbers.traced
        found = {} if promises == "ignore" else pledges_of(graph, tokens)
        # Behind a broken promise what is proven by it need not hold.
        self._pledges = {i: pledge for i, pledge in found.items() if pledge.keeper or self._raises}
        kept = (i for i, pledge in found.items() if pledge.keeper)
        self._live = graph.live([*self.wanted, *kept])
        if isinstance(numbers, Integers):
            _refuse_fractions(graph, self._live, numbers, tokens)

    def start(self, shape: tuple[int, ...]) -> Moment[A]:
        """Before the first token.

        Args:
          shape: (batch,); any shape with jax, () for what `jax.vmap` maps.
        """
        extent, count = Extent(shape, self.numbers), self.numbers.namespace.zeros(shape, int)
        memories = {i: self.graph.nodes[i].op.start(extent) for i in self._live}
        kept = {i: memory for i, memory in memories.items() if memory}
        return Moment(count, count, cast(dict[int, tuple[A, ...]], kept))

    def advance(
        self,
        moment: Moment[A],
        inputs: Sequence[A],
        interventions: Mapping[int, Intervention] | None = None,
    ) -> tuple[dict[int, A], Moment[A]]:
        """Read one token.

        Args:
          moment: before it.
          inputs: one array an input, in parameter order: ids (batch,) or vectors (batch, width).
          interventions: by node id, mask and values (batch, width), as for `evaluate`; promises are
            not checked then.

        Returns:
          The wanted values (batch, width) by node id, and the moment after the token.

        Raises:
          PromiseError: a promise of the program is broken; names the signal, line and token.
          TheoremError: what is proven of a signal does not hold.
        """
        before, numbers = cast(Moment[Array], moment), self.numbers
        extent = Extent(before.tokens.shape, numbers)
        values: dict[int, Array] = {}
        memories: dict[int, Memory] = {}
        legal = before.legal == before.tokens
        for i in self._live:
            node = self.graph.nodes[i]
            operands = [values[operand] for operand in node.operands]
            if isinstance(node.op, Input):
                memory: Memory = ()
                value = numbers.given(cast(Array, inputs[node.op.index]))
                value = value if value.ndim == extent.rank else value[..., None]
            else:
                memory, value = node.op.advance(before.memories.get(i, ()), operands, extent)
            if interventions is not None and i in interventions:
                given = interventions[i]
                value = numbers.where(given.mask, numbers.given(given.values), value)
                memory = node.op.resumed(memory, value)
            values[i] = value
            if memory:
                memories[i] = memory
            if i in self._pledges and interventions is None:
                broken = node.op.broken(operands, value, extent, memory)
                legal = legal & ~self._checked(i, operands, value, broken, before)
        kept = before.legal + legal.astype(before.legal.dtype)
        wanted = {i: values[i] for i in self.wanted}
        after = Moment(before.tokens + 1, kept, memories)
        return cast(dict[int, A], wanted), cast(Moment[A], after)

    def _checked(
        self,
        node: int,
        operands: Sequence[Array],
        value: Array,
        broken: Array,
        before: Moment[Array],
    ) -> Array:
        """Which streams break a promise; an error where that is one."""
        if self._raises:
            pledge = self._pledges[node]
            shown = pledge.shown(operands, value)
            mask, shown = (array.reshape(-1, 1, array.shape[-1]) for array in (broken, shown))
            keep_promise(self.graph, node, pledge, mask, shown, before.tokens.ravel())
        streams: Array = self.numbers.namespace.any(broken, axis=-1)
        return streams


def _refuse_fractions(graph: Graph, live: Sequence[int], numbers: Integers, tokens: int) -> None:
    facts = facts_over(graph, tokens)
    for i in live:
        op, operands = graph.nodes[i].op, [facts[j] for j in graph.nodes[i].operands]
        fractions = [part[part % 1 != 0] for part in op.constants]
        most = max(
            np.max(facts[i].magnitude, initial=0),
            op.sums(operands, tokens).magnitude.max(initial=0),
        )
        reason = ""
        if any(part.size for part in fractions):
            reason = f"it is made with {next(part for part in fractions if part.size)[0]:g}"
        elif isinstance(op, Input) and not facts[i].integer:
            reason = f"it is {facts[i]}"
        elif not most <= numbers.greatest:
            reason = (
                f"it adds up to {most:g} within {tokens} tokens, and {numbers.dtype} ends there"
            )
        if reason:
            raise InexactError(
                f"{graph.label(i)} ({graph.source(i)}): expected integers that fit "
                f"{numbers.dtype}, but {reason}; evaluate in rationals, or over fewer tokens"
            )
