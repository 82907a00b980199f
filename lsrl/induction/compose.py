"""The solver that composes skills."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lsrl.induction.examples import Examples
from lsrl.induction.expressions import Expression, evaluated, kind_of
from lsrl.induction.operators import BIT, LARGE, RANGES, Kind
from lsrl.induction.search import Bank
from lsrl.induction.skills import Skills
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token

# Tokens of the examples that streams are compared on, of several channels half as many; what they
# let through sees all of them.
TOKENS = 120
# How often the search starts again with the examples that an expression fell through on.
RESTARTS = 4
MOST_SYMBOLS = 16
MOST_CONSTANTS = 5
Leaves = dict[str, tuple[Array, Kind]]


class Composed(NamedTuple):
    """What a search found.

    Attributes:
      expressions: one an output, or None.
      tried: streams that were made.
      refusal: why none was found; "" if some was.
    """

    expressions: tuple[Expression, ...] | None
    tried: int
    refusal: str = ""


def compose(examples: Examples, skills: Skills, budget: int) -> Composed:
    """Find the cheapest expressions that give the outputs.

    Args:
      examples: of integers.
      skills: to compose.
      budget: streams to make at most.
    """
    if not examples.whole or np.abs(examples.outputs).max() > RANGES[LARGE][1]:
        return Composed(None, 0, f"outputs are not integers up to {RANGES[LARGE][1]:g}")
    leaves = leaves_of(examples)
    if leaves is None:
        return Composed(None, 0, f"inputs are not integers up to {RANGES[LARGE][1]:g}")
    operators = skills.operators(_constants(examples))
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(examples))
    wide = max(kind.width for _, kind in leaves.values()) > 2
    rows = rows[: max(4, int((np.cumsum(examples.lengths[rows]) <= TOKENS // (1 + wide)).sum()))]
    tried = 0
    judge = _Judge(examples, leaves)
    for _ in range(1 + RESTARTS):
        judge.wrong = []
        bank = Bank(
            {name: (values[rows], kind) for name, (values, kind) in leaves.items()},
            operators,
            np.moveaxis(judge.outputs[rows], 2, 0),
            judge,
            skills.costs(),
            examples.lengths[rows],
        )
        bank.run(budget - tried)
        tried += bank.tried
        if bank.done:
            found = [bank.expression_of(goal) for goal in range(examples.outputs.shape[2])]
            return Composed(tuple(each for each in found if each is not None), tried)
        if not bank.misled or not judge.wrong or tried >= budget:
            break
        rows = np.unique(np.concatenate([rows, judge.wrong[:4]]))
    return Composed(None, tried, f"no composition among {tried:,} candidates{judge.nearest}")


def leaves_of(examples: Examples) -> Leaves | None:
    """The streams that a search begins with; None where an input is no integer, or too large."""
    found: Leaves = {}
    for (name, kind), array in zip(examples.types.items(), examples.arrays, strict=True):
        wide = array if array.ndim == 3 else array[..., None]
        wide = wide.astype(np.float32)
        bit = isinstance(kind, Token) and kind.size <= 2
        if not isinstance(kind, Token):
            bit = bool(((np.array(kind.low) >= 0) & (np.array(kind.high) <= 1)).all())
        whole = bool((wide % 1 == 0).all()) and (
            isinstance(kind, Token) or (kind.grid() >= 1).all()
        )
        sort = kind_of(wide, bit) if whole else None
        if sort is None:
            return None
        found[name] = wide, sort
        if wide.shape[2] > 1:
            for channel in range(wide.shape[2]):
                part = wide[..., channel : channel + 1]
                found[f"{name}[{channel}]"] = part, kind_of(part, bit) or sort
        if isinstance(kind, Token) and 2 < kind.size <= MOST_SYMBOLS:
            hot = (array[..., None] == np.arange(kind.size)).astype(np.float32)
            found[f"{name}.one_hot"] = hot, Kind(kind.size, BIT)
    shape = next(iter(found.values()))[0].shape[:2]
    for number in (0, 1, *_constants(examples)):
        constant = np.full((*shape, 1), number, np.float32)
        found.setdefault(str(number), (constant, kind_of(constant, number in (0, 1)) or Kind(1, 1)))
    place = np.broadcast_to(np.arange(shape[1], dtype=np.float32)[:, None], (*shape, 1))
    found["lsrl.position()"] = place, Kind(1, 1)
    if (examples.lengths < examples.length).any():
        own = examples.told[..., None]
        found = {name: (values * own, kind) for name, (values, kind) in found.items()}
    return found


def _constants(examples: Examples) -> Sequence[int]:
    """Numbers that a task may be made with: 2, and the ends of its ranges."""
    numbers = examples.numbers()
    ends = [numbers.max(), numbers.max() + 1, examples.outputs.max() + 1, examples.outputs.max()]
    found = [2, *(int(end) for end in ends if 1 < end <= RANGES[LARGE][1])]
    return list(dict.fromkeys(found))[:MOST_CONSTANTS]


class _Judge:
    """Whether an expression gives an output on all examples.

    Attributes:
      outputs: (sequences, time, outputs), 0 behind the end of a sequence.
      wrong: sequences that some expression was wrong on.
      nearest: of expressions that are wrong, the one that errs at the fewest outputs, in words.
    """

    def __init__(self, examples: Examples, leaves: Leaves) -> None:
        self._examples, self._leaves = examples, leaves
        self._fewest = len(examples) * examples.length + 1
        self.outputs = examples.outputs * examples.told[..., None]
        self.wrong: list[int] = []
        self.nearest = ""

    def __call__(self, goal: int, expression: Expression) -> bool:
        lengths = self._examples.lengths
        values = evaluated(expression, self._leaves, lengths)
        if values is None:
            return False
        apart = values[..., 0] != self.outputs[..., goal]
        errs = int(apart.sum())
        self.wrong.extend(np.nonzero(apart.any(axis=1))[0].tolist())
        if 0 < errs < self._fewest:
            self._fewest = errs
            self.nearest = f"; the nearest, {expression}, errs at {errs} of {lengths.sum()} outputs"
        return not errs
