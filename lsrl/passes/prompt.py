"""What is left of a program behind a prompt: a graph that starts where the prompt ends.

States start at what the prompt leaves, by the evaluator. A signal that no later token changes is a
constant then, or a clock, and what reads nothing else is one too:

- A latch that has taken its value holds it, since it is promised to take one only.
- A latch or hold whose condition is proven to be 0 holds what it has.
- A state that reads only constants and clocks goes its own way: it is carried out until it comes
  back to where it was, or for all tokens that are left, where these are few.
- A delay of as many tokens as are left, or more, tells the prompt and nothing else.
- Whatever the bounds decide: a condition that some symbols alone meet, if no such symbol comes.

What is not decided stays as it is. What was proven of a signal holds behind the prompt too, so it
goes along where inference, which starts anew, would know less.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from lsrl.errors import InexactError
from lsrl.ir.arithmetic import Floats, Numbers, Rationals
from lsrl.ir.bounds import Facts
from lsrl.ir.evaluate import float64_is_exact
from lsrl.ir.graph import Graph, GraphBuilder, prune
from lsrl.ir.incremental import Evaluator
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, rational
from lsrl.ir.ops import (
    Affine,
    Bound,
    Constant,
    Delay,
    Extent,
    Hold,
    Input,
    Latch,
    LinearState,
    Lookup,
    Op,
    Periodic,
    Product,
    Read,
    Select,
    SelectiveState,
    StateOp,
    SwapState,
    is_token,
)
from lsrl.ir.types import InputType
from lsrl.passes.affine import emit_affine, exact_shift, plus

# A state that comes back to where it was becomes a clock of at most so many tokens; one that does
# not, where at most so few tokens are left.
LONGEST_CLOCK = 64
FEW_TOKENS = 16


def after_prompt(
    graph: Graph, inputs: Sequence[Array], types: Mapping[int, InputType], left: int
) -> Graph:
    """A program's graph as it goes on behind a prompt.

    Args:
      graph: as written.
      inputs: the prompt, one array an input: (1, time) or (1, time, width).
      types: of each input from there on, by its number; within the declared ones.
      left: tokens that may follow, at least 1.

    Returns:
      A graph as written, of equal values at every token behind the prompt.

    Raises:
      PromiseError: the prompt breaks a promise.
      InexactError: a state holds a number that float64 does not.
    """
    fold = _Fold(graph, inputs, types, left)
    for index in fold.live:
        fold.add(index)
    return prune(fold.builder.build(fold.new[graph.output]))


class _Fold:
    """The graph behind the prompt, node by node.

    Attributes:
      live: the nodes of the program that the result is made of.
      builder: of the result.
      new: by node of the program, that of the result.
    """

    def __init__(
        self, graph: Graph, inputs: Sequence[Array], types: Mapping[int, InputType], left: int
    ) -> None:
        """Carry the prompt out."""
        self.graph, self.types, self.left = graph, types, left
        self.live = graph.live([graph.output, *graph.inputs])
        self.builder = GraphBuilder(left)
        self.new: dict[int, int] = {}
        tokens = inputs[0].shape[1]
        self.numbers: Numbers = Floats() if float64_is_exact(graph, tokens) else Rationals()
        reads = [graph.nodes[i].operands[:3] for i in self.live if self._is(i, Read)]
        self.seen: dict[int, list[Array]] = {k: [] for operands in reads for k in operands}
        wanted = (graph.output, *self.seen)
        evaluator: Evaluator[Array] = Evaluator(graph, self.numbers, wanted=wanted, tokens=tokens)
        moment = evaluator.start((1,))
        for token in range(tokens):
            values, moment = evaluator.advance(moment, [array[:, token] for array in inputs])
            for node, found in self.seen.items():
                found.append(values[node])
        self.memories = moment.memories
        self.registers = self._registers()

    def _is(self, index: int, kind: type[Op]) -> bool:
        return type(self.graph.nodes[index].op) is kind

    # ------------------------------------------------------------ nodes

    def add(self, index: int) -> None:
        """Make what stands for a node of the program."""
        node, builder = self.graph.nodes[index], self.builder
        made = self._made(index, node.op, tuple(self.new[k] for k in node.operands))
        made = self._as_known(made, self.graph.facts[index])
        builder.describe(made, node.names, node.sources)
        self.new[index] = made

    def _made(self, index: int, op: Op, operands: tuple[int, ...]) -> int:
        builder, read = self.builder, [self.builder.facts[k] for k in operands]
        if isinstance(op, Input):
            return builder.add(replace(op, type=self.types[op.index]))
        if isinstance(op, Periodic):
            place = int(self.memories[index][0][0])
            return builder.add(
                Periodic(Matrix(sp.vstack([op.table.csr[place:], op.table.csr[:place]])))
            )
        table = self._table(index, op, operands)
        if table is not None:
            return self._clock(index, table)
        if isinstance(op, StateOp) and self._rests(index, op, read):
            return self._clock(index, self.memories[index][0])
        if isinstance(op, Lookup) and is_token(builder.nodes[operands[0]].op):
            return self._looked_up(op.table.csr[: int(read[0].high[0]) + 1], operands[0])
        if isinstance(op, Select) and read[0].constant:
            width = builder.nodes[operands[1]].width
            opens = np.broadcast_to(read[0].low, (width,))
            mixed = [
                (Matrix.diagonal(k), x)
                for k, x in zip((opens, 1 - opens), operands[1:], strict=True)
            ]
            return self._sum(mixed, np.zeros(width))
        if isinstance(op, Affine):
            return self._sum(list(zip(op.weights, operands, strict=True)), np.array(op.bias))
        if isinstance(op, Product):
            for constant, value in (operands, operands[::-1]):
                if builder.facts[constant].constant:
                    scale = Matrix.diagonal(builder.facts[constant].low)
                    return self._sum([(scale, value)], np.zeros(scale.rows))
        if isinstance(op, Bound) and read[0].same_range(op.infer(read, self.left)):
            return operands[0]
        if isinstance(op, Delay):
            return self._delayed(index, op, operands[0])
        if isinstance(op, SwapState):
            return self._swapped(index, op, operands)
        if op.stateful:  # the others have an initial value
            start = self._floats(index, self.memories[index][0][0])
            op = replace(op, initial=start)  # type: ignore[call-arg]
        if isinstance(op, Read):
            op = replace(op, initial=self._held(index, op))
        return builder.add(op, *operands)

    def _looked_up(self, table: sp.csr_array, token: int) -> int:
        """Rows by the symbols that may still come; an affine map of their number where they are."""
        if table.shape[0] > 2:
            slope = (table[[1]] - table[[0]]).toarray()[0]
            straight = np.arange(table.shape[0])[:, None] * slope + table[[0]].toarray()
            if table.nnz > np.count_nonzero(slope) and (table.toarray() == straight).all():
                start = table[[0]].toarray()[0]
                return emit_affine(self.builder, {token: Matrix(slope[:, None])}, start)
        return self.builder.add(Lookup(Matrix(table)), token)

    def _as_known(self, made: int, known: Facts) -> int:
        """A node with what was proven of the one that it stands for."""
        builder = self.builder
        fact, op = builder.facts[made], builder.nodes[made].op
        if isinstance(op, Constant | Periodic | Input):
            return made
        both = fact.meet(replace(known, groups=(), once=False))
        if not both.same_range(fact) or (known.exclusive and not fact.exclusive):
            step = np.where(np.isfinite(both.step), both.step, 0.0)
            made = builder.add(
                Bound(
                    tuple(both.low.tolist()),
                    tuple(both.high.tolist()),
                    proven=True,
                    exclusive=known.exclusive,
                    step=tuple(step.tolist()),
                ),
                made,
            )
            fact = builder.facts[made]
        return builder.add(Constant(tuple(fact.low.tolist()))) if fact.constant else made

    def _floats(self, index: int, values: Array) -> tuple[float, ...]:
        """Values of a signal as float64."""
        rounded = values.astype(np.float64)
        for exact, near in zip(values.tolist(), rounded.tolist(), strict=True):
            if not math.isfinite(near) or rational(near) != exact:
                graph = self.graph
                raise InexactError(
                    f"{graph.label(index)} ({graph.source(index)}) holds {exact} behind the "
                    "prompt, which no float64 is; declare a coarser step of the inputs, or let "
                    "the prompt end earlier"
                )
        return tuple(rounded.tolist())

    # ------------------------------------------------------------ constants and clocks

    def _clock(self, index: int, rows: Array) -> int:
        """A node whose value is one row after another."""
        table = np.array([self._floats(index, row) for row in rows])
        if (table == table[0]).all():
            return self.builder.add(Constant(tuple(table[0].tolist())))
        return self.builder.add(Periodic(Matrix(table)))

    def _rows(self, node: int) -> Array | None:
        """The rows of a clock, or the one of a constant; None of any other node."""
        op = self.builder.nodes[node].op
        if isinstance(op, Constant):
            return np.array([op.values])
        if isinstance(op, Periodic) and op.table.rows <= LONGEST_CLOCK:
            return op.table.dense()
        return None

    def _table(self, index: int, op: Op, operands: tuple[int, ...]) -> Array | None:
        """What a node says at one token after another, if that is told by the clock alone."""
        if isinstance(op, Delay) and op.steps >= self.left:
            return self.memories[index][0][0, : self.left]
        read = [rows for k in operands if (rows := self._rows(k)) is not None]
        if len(read) < len(operands):
            return None
        period = math.lcm(*(len(rows) for rows in read))
        end = min(self.left, LONGEST_CLOCK)
        if period > end:
            return None
        extent = Extent((1,), self.numbers)
        given = [self.numbers.given(rows) for rows in read]
        start = memory = self.memories.get(index, ())
        told: list[Array] = []
        for token in range(end):
            now = [rows[token % len(rows)][None] for rows in given]
            memory, value = op.advance(memory, now, extent)
            told.append(value[0])
            same = all(np.array_equal(a, b) for a, b in zip(memory, start, strict=True))
            if len(told) % period == 0 and same:
                return np.array(told)
        return np.array(told) if self.left <= FEW_TOKENS else None

    def _rests(self, index: int, op: StateOp, read: Sequence[Facts]) -> bool:
        """Whether a state keeps its value, whatever comes."""
        if isinstance(op, Latch) and self.memories[index][1].any():
            return True
        if isinstance(op, Latch | Hold):
            return bool(read[1].zero.all())
        if isinstance(op, SelectiveState):
            return bool((read[0].low == 1).all() and read[1].zero.all())
        return False

    def _sum(self, parts: Sequence[tuple[Matrix, int]], bias: Array) -> int:
        """Σ weight @ node + bias, over what affine maps read in their place where that is no more.

        So what is never let through is not read.
        """
        terms: dict[int, Matrix] = {}
        for weight, node in parts:
            op, shifted = self.builder.nodes[node].op, None
            inner = {node: weight}
            if isinstance(op, Constant):
                shifted, inner = exact_shift(weight, np.array(op.values), bias), {}
            elif isinstance(op, Affine):
                opened = [weight @ matrix for matrix in op.weights]
                exact = all(
                    not product.nonzeros or weight.exact_product(matrix) is not None
                    for product, matrix in zip(opened, op.weights, strict=True)
                )
                if exact and sum(product.nonzeros for product in opened) <= weight.nonzeros:
                    shifted = exact_shift(weight, np.array(op.bias), bias)
                    inner = dict(zip(self.builder.nodes[node].operands, opened, strict=True))
            if shifted is None:
                shifted, inner = bias, {node: weight}
            bias = shifted
            for source, matrix in inner.items():
                terms[source] = plus(terms.get(source), matrix)
        return emit_affine(self.builder, terms, bias)

    # ------------------------------------------------------------ memories of other shapes

    def _registers(self) -> dict[tuple[int, tuple[float, ...]], int]:
        """By what is delayed, and by initial values, the longest delay's node."""
        found: dict[tuple[int, tuple[float, ...]], int] = {}
        for index in self.live:
            node = self.graph.nodes[index]
            if isinstance(node.op, Delay):
                key = node.operands[0], node.op.initial
                other = found.setdefault(key, index)
                if self.graph.nodes[other].op.steps < node.op.steps:  # type: ignore[attr-defined]
                    found[key] = index
        return found

    def _delayed(self, index: int, op: Delay, operand: int) -> int:
        """A delay that starts with one value, or a slot of a register that starts with several."""
        line = self.memories[index][0][0]
        if (line == line[0]).all():
            return self.builder.add(Delay(op.steps, self._floats(index, line[0])), operand)
        node = self.graph.nodes[index]
        longest = self.registers[node.operands[0], op.initial]
        slots, width = self.memories[longest][0][0][::-1], node.width
        start = [value for slot in slots for value in self._floats(longest, slot)]
        size = len(start) + width
        entered = emit_affine(self.builder, {operand: Matrix.first(size, width)}, np.zeros(size))
        shift = LinearState(Matrix.shift(size, width), (*start, *(0.0,) * width))
        register = self.builder.add(shift, entered)
        picked = np.arange(op.steps * width, (op.steps + 1) * width)
        chosen = Matrix.selection(picked, size)
        return emit_affine(self.builder, {register: chosen}, np.zeros(width))

    def _swapped(self, index: int, op: SwapState, operands: tuple[int, ...]) -> int:
        """Items start where the prompt left them: as those that start there, by another name."""
        items = self.memories[index][0][0].astype(np.int64)
        point = np.argsort(np.abs(items))
        signs = np.where(items < 0, -1.0, 1.0)[point]
        state = self.builder.add(op, *operands)
        named = Matrix.selection(point, op.points, signs)
        return emit_affine(self.builder, {state: named}, np.zeros(op.points))

    def _held(self, index: int, op: Read) -> tuple[float, ...]:
        """What the cells of a memory hold, by replay."""
        address, value, writes = (
            np.concatenate(self.seen[k]) for k in self.graph.nodes[index].operands[:3]
        )
        width = value.shape[-1]
        held = self.numbers.given(np.reshape(np.array(op.initial), (-1, width))).copy()
        cells = op.cells(address[:, 0].astype(np.float64))
        for token in np.flatnonzero((cells >= 0) & (writes[:, 0] == 1)):
            held[cells[token]] = value[token]
        return self._floats(index, held.ravel())
