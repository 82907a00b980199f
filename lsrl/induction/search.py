"""Composition of skills from the bottom up: all streams of one cost, then those of the next.

Two expressions that give the same stream on the examples count as one, and the first stays. So what
grows is the number of different streams, and each is made from streams by one run of the reference
evaluator over thousands of pairs.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import numpy as np

from lsrl.induction import standard
from lsrl.induction.expressions import Expression, within
from lsrl.induction.operators import (
    BIT,
    LARGE,
    MOST_OPERANDS,
    RANGES,
    SMALL,
    Kind,
    Operator,
    Recorded,
)
from lsrl.ir.numbers import Array
from lsrl.programs.prompted import minus, plus

# Numbers of one run of the evaluator: they stay in the processor's cache.
CHUNK = 1 << 18
# Bits of a key: products of it with LARGE values add up exactly in float64.
KEY_BITS = 28
# Streams that are tried in pairs as the two sides of a conjunction.
MOST_SIDES = 1500
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)

# Whether an expression is what is wanted, by all examples and not only those of the streams.
Check = Callable[[int, Expression], bool]


@final
class Bank:
    """All streams up to a cost, each with the cheapest expression that gives it.

    Attributes:
      tried: streams that were made.
      found: by goal, the first expression that gives it and passes the check.
      misled: goals whose stream was hit by an expression that fails the check.
    """

    def __init__(
        self,
        leaves: Mapping[str, tuple[Array, Kind]],
        operators: Sequence[Operator],
        goals: Array,
        check: Check,
        costs: Callable[[str], int],
        lengths: Array | None = None,
    ) -> None:
        """Begin with the leaves.

        Args:
          leaves: by text, (sequences, time, width) and what they are.
          operators: in the order in which they are tried.
          goals: (goals, sequences, time), the streams that are wanted.
          check: of what gives a goal's stream.
          costs: of a skill or a leaf, by its name; an expression costs what all in it cost.
          lengths: (sequences,) tokens of each; leaves and goals are 0 behind. By default all have
            one length.
        """
        self.operators, self.check = list(operators), check
        self.leaves = list(leaves.items())
        self._costs = [costs(each.skill.name) for each in operators]
        self._leaf_costs = [costs(name) for name in leaves]
        self.shape = goals.shape[1:]
        ragged = lengths is not None and bool((lengths < self.shape[1]).any())
        self._lengths = lengths if ragged else None
        self.tried = 0
        self.found: dict[int, Expression] = {}
        self.misled: set[int] = set()
        self._keys: dict[int, Array] = {}
        hashes = self._hash(goals.reshape(len(goals), -1).astype(np.float32), 1)
        self._goals = {int(h): k for k, h in reversed(list(enumerate(hashes)))}
        self._same = [self._goals[int(h)] for h in hashes]
        self._flat = goals.reshape(len(goals), -1)
        # By cost and kind, the values (streams, numbers), with the id of the first of them.
        self._values: list[dict[Kind, tuple[Array, Array]]] = [{}]
        self._back = [np.zeros((0, 1 + MOST_OPERANDS), np.int32)]
        self._count = 0
        self._seen = [np.zeros(0, np.int64), np.zeros(0, np.int64)]
        self._numbers: list[Array] = []  # hash, id, cost of each stream of width 1
        self._commutes: dict[tuple[int, Kind], bool] = {}
        self._recorded: dict[tuple[int, tuple[Kind, ...]], Recorded | None] = {}

    @property
    def done(self) -> bool:
        """Whether every goal has its expression."""
        return all(same in self.found for same in self._same)

    def expression_of(self, goal: int) -> Expression | None:
        """What was found for a goal."""
        return self.found.get(self._same[goal])

    def run(self, budget: int, largest: int = 40) -> None:
        """Go through costs until all goals are found.

        Args:
          budget: streams to make at most.
          largest: greatest cost.
        """
        # Beyond this nothing can be made of what there is.
        reach = max(self._leaf_costs, default=0)
        for cost in range(1, largest + 1):
            self._cost, self._new = cost, list[tuple[Kind, Array, Array]]()
            for operator, kinds, parts in self._work(cost):
                if not self._make(operator, kinds, parts, budget):
                    break
            self._keep()
            if self._values[-1]:
                reach = MOST_OPERANDS * cost + max(self._costs, default=0)
                if not self.done and not self.misled and cost > 2:
                    self._close()
            if self.done or self.misled or self.tried >= budget or cost > reach:
                return

    # ------------------------------------------------------------ making

    def _work(self, cost: int) -> Iterator[tuple[int, tuple[Kind, ...], list[tuple[Array, Array]]]]:
        """What to do for one cost: operator, kinds of its operands, and values and ids of each."""
        for number, (_, (values, kind)) in enumerate(self.leaves):
            if self._leaf_costs[number] == cost:
                yield -1, (kind,), [(values, np.array([number]))]
        for number, operator in enumerate(self.operators):
            count = operator.skill.operands
            for costs in _splits(cost - self._costs[number], count):
                groups = [self._values[part].items() for part in costs]
                for chosen in itertools.product(*groups):
                    kinds = tuple(kind for kind, _ in chosen)
                    if self._on(number, kinds) is None:
                        continue
                    swapped = count == 2 and (costs[0], kinds[0]) > (costs[1], kinds[1])
                    if swapped and self._symmetric(number, kinds):
                        continue
                    yield number, kinds, [group for _, group in chosen]

    def _make(
        self,
        number: int,
        kinds: tuple[Kind, ...],
        parts: list[tuple[Array, Array]],
        budget: int,
    ) -> bool:
        """All streams of one operator; False once there is nothing more to do."""
        if number < 0:
            ((values, ids),) = parts
            back = np.array([[-1, ids[0], *[0] * (MOST_OPERANDS - 1)]], np.int32)
            self._offer(values.reshape(1, -1).astype(np.float32), kinds[0], back, np.ones(1, bool))
            return not self.done
        made = self._on(number, kinds)
        if made is None:
            return True
        shape = tuple(len(ids) for _, ids in parts)
        per_stream = sum(kind.width for kind in kinds) * self.shape[0] * self.shape[1]
        step, most = max(1, CHUNK // per_stream), int(np.prod(shape))
        most = min(most, budget - self.tried)
        for start in range(0, most, step):
            places = np.unravel_index(np.arange(start, min(start + step, most)), shape)
            operands = [
                group[place].reshape(-1, self.shape[1], kind.width)
                for (group, _), place, kind in zip(parts, places, kinds, strict=True)
            ]
            values, legal = made(operands)
            back = np.zeros((len(places[0]), 1 + MOST_OPERANDS), np.int32)
            back[:, 0] = number
            for k, ((_, ids), place) in enumerate(zip(parts, places, strict=True)):
                back[:, 1 + k] = ids[place]
            if self._lengths is None:
                kept = (legal == self.shape[1]).reshape(len(back), -1).all(axis=1)
            else:
                kept = (legal.reshape(len(back), -1) >= self._lengths).all(axis=1)
                own = within(self._lengths, self.shape[1])
                values = values.reshape(len(back), *self.shape, -1) * own[..., None]
            flat = np.asarray(values, np.float32).reshape(len(back), -1)
            self.tried += len(back)
            self._offer(flat, made.kind, back, kept)
            if self.done or self.misled:
                return False
        return self.tried < budget

    def _offer(self, values: Array, kind: Kind, back: Array, kept: Array) -> None:
        """Keep of some streams, those that are kept, what is new and in range; look for goals."""
        if kind.range == BIT:
            most = np.ones(len(values))
        else:
            most = np.maximum(values.max(axis=1, initial=0), -values.min(axis=1, initial=0))
        hashes = self._hash(values, kind.width)
        inside = np.nonzero(kept & (most <= RANGES[LARGE][1]))[0]
        first = inside[np.unique(hashes[inside], return_index=True)[1]]
        first = first[~self._known(hashes[first])]
        if not len(first):
            return
        values, back, hashes, most = values[first], back[first], hashes[first], most[first]
        self._seen[1] = np.sort(np.concatenate([self._seen[1], hashes]))
        if len(self._seen[1]) > 4096 + len(self._seen[0]) // 8:
            self._seen = [np.sort(np.concatenate(self._seen)), np.zeros(0, np.int64)]
        if kind.width == 1:
            self._look(hashes, back)
            ids = np.arange(self._count, self._count + len(hashes))
            self._numbers.append(np.stack([hashes, ids, np.full(len(ids), self._cost)]))
        self._back.append(back)
        ids = np.arange(self._count, self._count + len(back))
        self._count += len(back)
        small = most <= RANGES[SMALL][1]
        for place, mask in ((SMALL, small), (LARGE, ~small)):
            range_ = BIT if kind.range == BIT else place
            if mask.any():
                self._new.append((Kind(kind.width, range_), values[mask], ids[mask]))

    def _keep(self) -> None:
        """The streams of this cost, by kind."""
        groups: dict[Kind, list[tuple[Array, Array]]] = {}
        for kind, values, ids in self._new:
            groups.setdefault(kind, []).append((values, ids))
        self._values.append({
            kind: (np.concatenate([v for v, _ in parts]), np.concatenate([i for _, i in parts]))
            for kind, parts in sorted(groups.items())
        })  # fmt: skip

    def _look(self, hashes: Array, back: Array) -> None:
        for goal_hash, goal in self._goals.items():
            if goal in self.found:
                continue
            for place in np.nonzero(hashes == goal_hash)[0]:
                self._judge(goal, self._expression(back[place]))

    def _judge(self, goal: int, expression: Expression) -> None:
        if self.check(goal, expression):
            self.found[goal] = expression
        else:
            self.misled.add(goal)

    # ------------------------------------------------------------ goals from two sides

    def _close(self) -> None:
        """Look for goals that are a sum, a difference, a conjunction or a disjunction of two.

        The streams need not be made: a sum's hash is the sum of the hashes.
        """
        functions = {op.skill.function: op for op in self.operators if op.number is None}
        table = np.concatenate(self._numbers, axis=1)
        hashes, ids, costs = table[:, np.argsort(table[0])]
        for goal_hash, goal in self._goals.items():
            if goal in self.found:
                continue
            wanted = np.int64(goal_hash)
            for function, other in (
                (plus, wanted - hashes), (minus, hashes - wanted),
            ):  # fmt: skip
                if function in functions:
                    place = np.minimum(np.searchsorted(hashes, other), len(hashes) - 1)
                    hit = np.nonzero(hashes[place] == other)[0]
                    pairs = np.stack([ids[hit], ids[place[hit]], costs[hit] + costs[place[hit]]])
                    self._judge_pairs(goal, functions[function], pairs)
            goal_bits = self._flat[goal]
            if not set(np.unique(goal_bits)) <= {0, 1}:
                continue
            for function, value in ((standard.both, 1), (standard.either, 0)):
                if function in functions and goal not in self.found:
                    pairs = self._sides(goal_bits == value, value)
                    self._judge_pairs(goal, functions[function], pairs)

    def _sides(self, goal: Array, value: int) -> Array:
        """Pairs of bits whose conjunction is the goal; for value 0, of what they are not."""
        bits, ids, costs = [], [], []
        for cost, groups in enumerate(self._values):
            for kind, (values, own) in groups.items():
                if kind == Kind(1, BIT):
                    side = values == value
                    fits: Array = np.all(side[:, goal], axis=1)
                    bits.append(side[fits][:, ~goal])
                    ids.append(own[fits])
                    costs.append(np.full(int(fits.sum()), cost))
        if not bits:
            return np.zeros((3, 0), int)
        rest = np.concatenate(bits)[:MOST_SIDES].astype(np.float32)
        known, total = np.concatenate(ids)[:MOST_SIDES], np.concatenate(costs)[:MOST_SIDES]
        one, other = np.nonzero(np.triu(rest @ rest.T == 0, 1))
        return np.stack([known[one], known[other], total[one] + total[other]])

    def _judge_pairs(self, goal: int, operator: Operator, pairs: Array) -> None:
        """The cheapest of some pairs that passes the check."""
        for one, other, _ in pairs[:, np.argsort(pairs[2], kind="stable")].T[:4]:
            if goal in self.found:
                return
            operands = (self._by_id(int(one)), self._by_id(int(other)))
            expression = Expression(operator, operands)
            if self.check(goal, expression):
                self.found[goal] = expression

    # ------------------------------------------------------------ streams

    def _hash(self, values: Array, width: int) -> Array:
        """(streams,) int64, linear in the values modulo 2^64; of width 1 without a constant."""
        if width not in self._keys:
            numbers = self.shape[0] * self.shape[1] * width
            rng = np.random.default_rng(width)
            self._keys[width] = rng.integers(1, 1 << KEY_BITS, (numbers, 2)).astype(np.float64)
        with np.errstate(invalid="ignore"):  # behind a broken promise are no numbers
            sums = (values.astype(np.float64) @ self._keys[width]).astype(np.int64).view(np.uint64)
        mixed = (sums * _MIX).sum(axis=1, dtype=np.uint64) + np.uint64((width - 1) << 40)
        return mixed.view(np.int64)

    def _known(self, hashes: Array) -> Array:
        found = np.zeros(len(hashes), bool)
        for table in self._seen:
            if len(table):
                place = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
                found |= table[place] == hashes
        return found

    def _on(self, number: int, kinds: tuple[Kind, ...]) -> Recorded | None:
        """An operator on streams of some kinds."""
        key = number, kinds
        if key not in self._recorded:
            self._recorded[key] = self.operators[number].on(kinds, self.shape[1])
        return self._recorded[key]

    def _symmetric(self, number: int, kinds: tuple[Kind, ...]) -> bool:
        """Whether an operator gives the same for its operands in the other order: by trying it."""
        widest = max(kinds, key=lambda kind: kind.range)
        key = number, widest
        if key not in self._commutes:
            made = self._on(number, (widest, widest))
            rng = np.random.default_rng(0)
            low, high = RANGES[widest.range]
            shape = (32, self.shape[1], widest.width)
            one, other = (rng.integers(int(low), int(high) + 1, shape) for _ in range(2))
            self._commutes[key] = made is not None and bool(
                (made([one, other])[0] == made([other, one])[0]).all()
            )
        return self._commutes[key]

    def _by_id(self, number: int) -> Expression:
        starts = np.cumsum([len(back) for back in self._back])
        block = int(np.searchsorted(starts, number, side="right"))
        return self._expression(self._back[block][number - (starts[block - 1] if block else 0)])

    def _expression(self, back: Array) -> Expression:
        number, *operands = (int(entry) for entry in back)
        if number < 0:
            return Expression(leaf=self.leaves[operands[0]][0])
        operator = self.operators[number]
        chosen = operands[: operator.skill.operands]
        return Expression(operator, tuple(self._by_id(operand) for operand in chosen))


def _splits(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a number as a sum of some numbers from 1 on, in order."""
    if parts == 1:
        if total >= 1:
            yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in _splits(total - first, parts - 1):
            yield (first, *rest)
