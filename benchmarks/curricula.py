"""A curriculum of 51 tasks on whole numbers, each a step beyond others, and curricula by chance.

A task reads numbers from -5 to 5. Its name says what it answers at each token: `n_` counts,
`parity_` is 1 where the count is odd, a `walk` goes up at odd numbers and down at even ones.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.mips import Array, Task, whole_numbers

LOW, HIGH = -5, 5
Answer = Callable[[Array], Array]


def before(x: Array) -> Array:
    """One token ago, 0 at first."""
    return np.pad(x, ((0, 0), (1, 0)))[:, :-1]


def counted(x: Array) -> Array:
    """The running sum."""
    return np.cumsum(x, axis=1)


def odd(x: Array) -> Array:
    """1 where odd."""
    return x % 2


def change(x: Array) -> Array:
    """Since the token before."""
    return x - before(x)


def rises(x: Array) -> Array:
    """1 where greater than before."""
    return (x > before(x)).astype(int)


def falls(x: Array) -> Array:
    """1 where smaller than before."""
    return (x < before(x)).astype(int)


def even(x: Array) -> Array:
    """1 where even."""
    return 1 - x % 2


def sum_of_two(x: Array) -> Array:
    """Of this and the one before."""
    return x + before(x)


def highest(x: Array) -> Array:
    """So far."""
    return np.maximum.accumulate(x, axis=1)


def lowest(x: Array) -> Array:
    """So far."""
    return np.minimum.accumulate(x, axis=1)


def record(x: Array) -> Array:
    """1 where greater than all before; before the first there was 0."""
    return (x > before(highest(x))).astype(int)


def spread(x: Array) -> Array:
    """From the lowest to the highest."""
    return highest(x) - lowest(x)


def same(x: Array) -> Array:
    """1 where equal to the one before."""
    return (x == before(x)).astype(int)


def drop(x: Array) -> Array:
    """How far below the highest."""
    return highest(x) - x


def walk(x: Array) -> Array:
    """Up at odd numbers, down at even ones."""
    return counted(2 * odd(x) - 1)


def peak(x: Array) -> Array:
    """1 where it falls after it rose."""
    return before(rises(x)) * falls(x)


def alternates(x: Array) -> Array:
    """1 where it rises and did not before, or the other way round."""
    return (rises(x) != before(rises(x))).astype(int)


def balanced(x: Array) -> Array:
    """1 where the walk is at 0 and never was below."""
    return ((walk(x) == 0) & (lowest(walk(x)) >= 0)).astype(int)


def of(*steps: Answer) -> Answer:
    """Functions on each other, the last one first."""

    def answer(x: Array) -> Array:
        for step in reversed(steps):
            x = step(x)
        return x

    return answer


def _task(name: str, answer: Answer) -> Task:
    types, draw = whole_numbers(LOW, HIGH)
    return Task(name, types, draw, answer)


ANSWERS: dict[str, Answer] = {
    "diff": change,
    "rises": rises,
    "falls": falls,
    "even": even,
    "sum2": sum_of_two,
    "count_positive": lambda x: counted((x > 0).astype(int)),
    "record": record,
    "spread": spread,
    "parity_positive": lambda x: odd(counted((x > 0).astype(int))),
    "count_zero": lambda x: counted((x == 0).astype(int)),
    "absolute_diff": of(np.abs, change),
    "same": same,
    "sum_absolute": of(counted, np.abs),
    "negative_part": lambda x: np.minimum(x, 0),
    "double": lambda x: 2 * x,
    "sign_of_parity": lambda x: 2 * odd(x) - 1,
    "drop": drop,
    "walk": walk,
    "n_rises": of(counted, rises),
    "parity_rises": of(odd, counted, rises),
    "n_records": of(counted, record),
    "rises_minus_falls": lambda x: counted(rises(x)) - counted(falls(x)),
    "peak": peak,
    "n_peaks": of(counted, peak),
    "n_evens": of(counted, even),
    "parity_evens": of(odd, counted, even),
    "diff2": of(change, change),
    "spread_even": of(even, spread),
    "spread_growth": of(change, spread),
    "at_highest": lambda x: (x == highest(x)).astype(int),
    "walk_highest": of(highest, walk),
    "walk_zero": lambda x: (walk(x) == 0).astype(int),
    "highest_sum2": of(highest, sum_of_two),
    "n_same": of(counted, same),
    "alternates": alternates,
    "drawdown": of(drop, counted),
    "walk_drawdown": of(drop, walk),
    "highest_drawdown": of(highest, drop, counted),
    "parity_peaks": of(odd, counted, peak),
    "peaks_above_records": lambda x: (counted(peak(x)) > counted(record(x))).astype(int),
    "balanced": balanced,
    "n_alternates": of(counted, alternates),
    "walk_spread": of(spread, walk),
    "record_sum2": of(record, sum_of_two),
    "n_walk_records": of(counted, record, walk),
    "diff2_record": of(record, change, change),
    "parity_walk_records": of(odd, counted, record, walk),
    "peak_of_sum": of(peak, counted),
    "n_peaks_of_sum": of(counted, peak, counted),
    "highest_walk_drawdown": of(highest, drop, walk),
    "diff3": of(change, change, change),
}  # fmt: skip
TASKS: dict[str, Task] = {name: _task(name, answer) for name, answer in ANSWERS.items()}

# Steps and joints of curricula by chance.
STEPS: dict[str, Answer] = {
    "change": change, "rises": rises, "even": even, "sum2": sum_of_two, "record": record,
    "spread": spread, "same": same, "drop": drop, "walk": walk, "total": counted,
    "odd": odd, "highest": highest, "lowest": lowest, "size": np.abs, "peak": peak,
    "alternates": alternates, "zero": lambda x: (x == 0).astype(int),
    "positive": lambda x: (x > 0).astype(int), "before": before,
}  # fmt: skip
JOINTS: dict[str, Callable[[Array, Array], Array]] = {
    "plus": lambda x, y: x + y,
    "minus": lambda x, y: x - y,
    "above": lambda x, y: (x > y).astype(int),
    "equals": lambda x, y: (x == y).astype(int),
    "larger": np.maximum,
}
MOST_STEPS = 4


def drawn(seed: int, count: int = 50) -> dict[str, Task]:
    """A curriculum by chance: a task is a step, or a joint, on tasks before it.

    No two tasks give the same outputs, and none gives few enough values to be no task at all.

    Args:
      seed: of the curriculum.
      count: of tasks.
    """
    rng = np.random.default_rng(seed)
    _, draw = whole_numbers(LOW, HIGH)
    (inputs,) = draw(np.random.default_rng(0), 50, 12)
    known: dict[str, tuple[Answer, int]] = {"x": (lambda x: x, 0)}
    seen = {inputs.tobytes()}
    while len(known) <= count:
        steps = list(STEPS) if len(known) < 2 or rng.random() < 0.75 else list(JOINTS)
        chosen = steps[rng.integers(len(steps))]
        parts = [list(known)[k] for k in rng.integers(len(known), size=2)]
        depth = 1 + max(known[part][1] for part in parts[: 1 if chosen in STEPS else 2])
        if depth > MOST_STEPS:
            continue
        if chosen in STEPS:
            name, answer = f"{chosen}_{parts[0]}", of(STEPS[chosen], known[parts[0]][0])
        else:
            name = f"{chosen}_{parts[0]}_{parts[1]}"
            answer = partial(_joined, JOINTS[chosen], known[parts[0]][0], known[parts[1]][0])
        outputs = answer(inputs)
        _, counts = np.unique(outputs, return_counts=True)
        if outputs.tobytes() in seen or counts.max() > 0.95 * outputs.size:
            continue
        seen.add(outputs.tobytes())
        known[name] = answer, depth
    del known["x"]
    return {name: _task(name, answer) for name, (answer, _) in known.items()}


def _joined(joint: Callable[[Array, Array], Array], one: Answer, other: Answer, x: Array) -> Array:
    return joint(one(x), other(x))
