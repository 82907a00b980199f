"""Sequences and pairs of the suite's programs, drawn with all that the programs make of them.

Equal seeds give equal data. What a dataset is and how it is kept is in `lsrl.suite.datasets`.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lsrl.errors import BoundsError, FormatError
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.programs.entry import Inputs
from lsrl.suite.datasets import SEQUENCES, Counterfactuals, Dataset, Split
from lsrl.suite.held_back import random_of
from lsrl.suite.programs import Task

# Pairs that are sought for each signal, and candidates that they are chosen from at a time.
PAIRS = 16
CANDIDATES = 512
# Signals that depend on rare events are sought for so many times before they count as constant.
ROUNDS = 4


def make_dataset(task: Task, seed: int, sequences: Mapping[str, int] = SEQUENCES) -> Dataset:
    """Draw the dataset of a program; equal seeds give equal datasets.

    No sequence comes twice in train, validation and test together, so where a program has few
    inputs the splits are smaller.

    Args:
      task: a program of the suite.
      seed: any int >= 0.
      sequences: the sizes of splits, those of `SEQUENCES` by default.

    Returns:
      Its splits, with outputs and signals of the reference evaluator.
    """
    program = task.program()
    taken: set[bytes] = set()
    splits = {}
    for name, count in {**SEQUENCES, **sequences}.items():
        length = task.long_tokens if name == "long" else task.tokens
        if length is None or not count:
            continue
        drawn = _draw(task, program, random_of(seed, f"{task.name}/{name}"), count, length, taken)
        splits[name] = _evaluated(program, drawn)
    return Dataset(task.name, seed, splits)


def make_counterfactuals(
    task: Task, seed: int, pairs: int = PAIRS, candidates: int = CANDIDATES
) -> Counterfactuals:
    """Find pairs of inputs for every named signal; equal seeds give equal pairs.

    Most candidates differ in one token, others in two, in all from some token on, or in all. For
    each signal those are taken that differ in it and in the fewest others.

    Args:
      task: a program of the suite.
      seed: any int >= 0.
      pairs: how many are sought for each signal.
      candidates: how many are looked at in a round.

    Returns:
      The pairs that were chosen.
    """
    program = task.program()
    rng = random_of(seed, f"{task.name}/counterfactuals")
    bases, sources, differences = [], [], []
    names: list[str] = []
    found: Array = np.zeros(0)
    for _ in range(ROUNDS):
        base, source = _candidates(task, program, rng, candidates)
        names = list(base.signals)
        bases.append(base)
        sources.append(source)
        differences.append(differing(base, source, names))
        found = np.any(np.concatenate(differences), axis=(0, 2))
        # Clocks and the like are the same in every input, so more candidates would not help.
        varies = np.array([(array != array[:1]).any() for array in base.signals.values()])
        if found[varies].all():
            break
    differs = np.concatenate(differences)
    chosen, chosen_for = _choose(np.any(differs, axis=2), pairs)
    return Counterfactuals(
        task.name,
        seed,
        _rows(bases, chosen),
        _rows(sources, chosen),
        tuple(names),
        differs[chosen],
        chosen_for,
        tuple(name for name, there in zip(names, found, strict=True) if not there),
    )


def differing(base: Split, source: Split, names: Sequence[str]) -> Array:
    """Bool (sequences, signals, tokens): where signals of two splits of equal shapes differ."""
    found = [(base.signals[name] != source.signals[name]).any(axis=2) for name in names]
    return np.stack(found, axis=1)


def _draw(
    task: Task,
    program: Program,
    rng: np.random.Generator,
    count: int,
    tokens: int,
    taken: set[bytes],
) -> list[Array]:
    """New sequences: one array an input, (sequences, tokens[, width])."""
    kept: list[Inputs] = []
    for _ in range(4 * count):
        inputs = task.sample(program, rng, tokens)
        key = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
        if key not in taken:
            taken.add(key)
            kept.append(inputs)
        if len(kept) == count:
            break
    if not kept:
        raise FormatError(
            f"{task.name}: expected inputs of {tokens} tokens that no other split has, got none; "
            "take fewer sequences, or longer ones"
        )
    return [np.stack(arrays) for arrays in zip(*kept, strict=True)]


def _evaluated(program: Program, arrays: Sequence[Array]) -> Split:
    """What the reference evaluator makes of inputs, unless one breaks a promise: BoundsError."""
    inputs = dict(zip(program.inputs, arrays, strict=True))
    return Split(inputs, program.run(*arrays), program.trace(*arrays))


def _candidates(
    task: Task, program: Program, rng: np.random.Generator, count: int
) -> tuple[Split, Split]:
    """Pairs of legal inputs, many of which differ in little."""
    tokens = task.tokens
    base = _draw(task, program, rng, count, tokens, set())
    other = _draw(task, program, rng, count, tokens, set())
    count = min(len(base[0]), len(other[0]))
    base, other = [x[:count] for x in base], [x[:count] for x in other]
    source = [array.copy() for array in base]
    for pair in range(count):
        kind, at = rng.random(), int(rng.integers(tokens))
        columns = range(len(base))
        if len(base) > 1 and rng.random() < 0.5:
            columns = range(at % len(base), at % len(base) + 1)
        if kind < 0.5:
            places = np.array([at])
        elif kind < 0.7:
            places = rng.integers(tokens, size=2)
        elif kind < 0.85:
            places = np.arange(at, tokens)
        else:
            places = np.arange(tokens)
        for column in columns:
            source[column][pair, places] = other[column][pair, places]
    kept, evaluated = _legal(program, source)
    if not task.free:
        # What breaks no promise may still be no input that the program is meant for.
        right = [_is_expected(task, evaluated, row) for row in range(len(kept))]
        kept, evaluated = kept[right], _rows([evaluated], np.flatnonzero(right))
    return _evaluated(program, [array[kept] for array in base]), evaluated


def _is_expected(task: Task, split: Split, row: int) -> bool:
    expected = task.expected(tuple(array[row] for array in split.arrays))
    return expected is None or bool((np.abs(expected - split.outputs[row]) <= task.tolerance).all())


def _legal(program: Program, arrays: Sequence[Array]) -> tuple[Array, Split]:
    """The sequences that keep every promise, with what the program makes of them."""
    found = list(_legal_parts(program, arrays, np.arange(len(arrays[0]))))
    kept = np.concatenate([rows for rows, _ in found])
    return kept, _rows([split for _, split in found], np.arange(len(kept)))


def _legal_parts(
    program: Program, arrays: Sequence[Array], rows: Array
) -> Iterator[tuple[Array, Split]]:
    """Halve what breaks a promise until the culprit is alone."""
    try:
        yield rows, _evaluated(program, [array[rows] for array in arrays])
    except BoundsError:
        if len(rows) > 1:
            middle = len(rows) // 2
            yield from _legal_parts(program, arrays, rows[:middle])
            yield from _legal_parts(program, arrays, rows[middle:])


def _rows(splits: Sequence[Split], rows: Array) -> Split:
    """Some sequences of several splits put one after another."""

    def joined(arrays: Sequence[Array]) -> Array:
        return np.concatenate(list(arrays))[rows]

    first = splits[0]
    return Split(
        {name: joined([split.inputs[name] for split in splits]) for name in first.inputs},
        joined([split.outputs for split in splits]),
        {name: joined([split.signals[name] for split in splits]) for name in first.signals},
    )


def _choose(different: Array, pairs: int) -> tuple[Array, Array]:
    """For each signal the candidates that differ in it and in the fewest others.

    Of bool (candidates, signals) it gives indices, each once, and what they were chosen for.
    """
    others = different.sum(axis=1)
    chosen: dict[int, int] = {}
    for signal in range(different.shape[1]):
        found = np.flatnonzero(different[:, signal])
        best = found[np.argsort(others[found], kind="stable")]
        fresh = [int(pair) for pair in best if int(pair) not in chosen]
        chosen |= dict.fromkeys(fresh[:pairs], signal)
    order = sorted(chosen)
    return np.array(order, dtype=np.int64), np.array([chosen[i] for i in order], dtype=np.int64)
