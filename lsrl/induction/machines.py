"""Finite machines: found by merging states, or by asking, and written as a threshold state."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np

import lsrl
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.signal import Signal

# Of more symbols than letters a table is told, and no machine.
MOST_SYMBOLS, MOST_LETTERS = 256, 64
MOST_STATES = 64
# Blue nodes that are weighed against each other, and the bits that it counts to have one choice.
AT_ONCE = 8
ALONE = 8.0
# How often a validation has to go through every transition.
PASSES = 2
Table: TypeAlias = Sequence[Sequence[int]]
Rows: TypeAlias = tuple[tuple[int, ...], ...]


@final
@dataclass(frozen=True)
class Machine:
    """A Mealy machine; state 0 is the first.

    Attributes:
      follows: by state and symbol, the state after.
      answers: by state and symbol, the number of the output.
      outputs: the values that an output stands for, one or several channels.
    """

    follows: Rows
    answers: Rows
    outputs: tuple[tuple[float, ...], ...]

    def run(self, symbols: Array) -> Array:
        """(sequences, time) numbers of the outputs, for symbols of the same shape."""
        follows, answers = np.array(self.follows), np.array(self.answers)
        state, said = np.zeros(len(symbols), int), np.zeros_like(symbols)
        for token in range(symbols.shape[1]):
            said[:, token] = answers[state, symbols[:, token]]
            state = follows[state, symbols[:, token]]
        return said


def mealy(*symbols: Signal, follows: Table, answers: object) -> Signal:
    """Run a finite machine that answers at each token.

    Unit (q, a) is 1 where the state was q before the token and the token is a: where the unit
    before led to q, and the token is a. One more unit, which is 1 before the first token only,
    leads to state 0.

    Args:
      *symbols: integers from 0 on; of several, each tuple is a symbol, the last varies first.
      follows: (states, symbols) the state after a symbol.
      answers: (states, symbols) or (states, symbols, outputs), what is said at the symbol.

    Returns:
      The answers, of width 1 or of as many as there are outputs.

    Raises:
      InputError: the tables have other shapes.

    Source: Mealy (1955), "A Method for Synthesizing Sequential Circuits".

    Example:
      @lsrl.program
      def toggled(x: lsrl.Token(2)):
          return lsrl.induction.mealy(x, follows=[[0, 1], [1, 0]], answers=[[0, 1], [1, 0]])
    """
    table, said = np.asarray(follows), np.asarray(answers, float)
    sizes = [int(symbol.facts.high[0]) + 1 for symbol in symbols]
    states, letters = table.shape
    if letters != np.prod(sizes) or said.shape[:2] != table.shape:
        raise InputError(
            f"mealy: expected tables of {' x '.join(map(str, sizes))} symbols, got follows of "
            f"shape {table.shape} and answers of shape {said.shape}"
        )
    said = said.reshape(states, letters, -1)
    if states == 1 and len(symbols) == 1:
        return lsrl.lookup(symbols[0], said[0])
    state, letter = (each.ravel() for each in np.indices(table.shape))
    leads_to = np.append(table.ravel(), 0)
    before = np.append(state, -1)  # the unit of the start has none
    reads = np.zeros((len(before), sum(sizes)))
    first = 0
    for own, size in zip(np.unravel_index(letter, sizes), sizes, strict=True):
        reads[np.arange(len(own)), first + own] = 1
        first += size
    hot = lsrl.concat(*(lsrl.one_hot(each, n) for each, n in zip(symbols, sizes, strict=True)))
    units = lsrl.threshold_state(
        reads @ hot - (len(symbols) + 0.5),
        (before[:, None] == leads_to[None, :]).astype(float),
        initial=(before == -1).astype(float),
    )
    rows = np.concatenate([said.reshape(states * letters, -1), np.zeros((1, said.shape[2]))])
    # One unit is on at a time, and never that of the start from the first token on.
    low, high = said.min(axis=(0, 1)), said.max(axis=(0, 1))
    return lsrl.bound(rows.T @ units, low, high)


# ---------------------------------------------------------------- symbols


def alphabet(types: dict[str, InputType]) -> list[tuple[int, int]] | None:
    """Of each input the least value and the number of them; None where they are no few integers."""
    found = []
    for kind in types.values():
        if isinstance(kind, Token):
            found.append((0, kind.size))
        elif kind.width == 1 and kind.grid()[0] >= 1:
            found.append((int(kind.low[0]), int(kind.high[0] - kind.low[0]) + 1))
        else:
            return None
    return found if np.prod([float(size) for _, size in found]) <= MOST_SYMBOLS else None


def symbols_of(ranges: Sequence[tuple[int, int]], arrays: Sequence[Array]) -> Array:
    """(sequences, time) numbers of the symbols that the inputs are together."""
    code = np.zeros(arrays[0].shape[:2], np.int64)
    for (low, size), array in zip(ranges, arrays, strict=True):
        flat = array if array.ndim == 2 else array[..., 0]
        code = code * size + (flat.astype(np.int64) - low)
    return code


def inputs_of(
    ranges: Sequence[tuple[int, int]], types: dict[str, InputType], symbols: Array
) -> list[Array]:
    """The inputs that are some symbols; what `symbols_of` undoes."""
    places = np.unravel_index(symbols, [size for _, size in ranges])
    found = []
    for (low, _), kind, place in zip(ranges, types.values(), places, strict=True):
        value = np.asarray(place) + low
        found.append(value if isinstance(kind, Token) else value[..., None].astype(np.float64))
    return found


def numbered(outputs: Array) -> tuple[Array, tuple[tuple[float, ...], ...]]:
    """Numbers (sequences, time) of outputs (sequences, time, channels), and their values."""
    rows, number = np.unique(outputs.reshape(-1, outputs.shape[2]), axis=0, return_inverse=True)
    return number.reshape(outputs.shape[:2]), tuple(tuple(row.tolist()) for row in rows)


def most_states(letters: int, outputs: int, bits: float) -> int:
    """How many states a machine may have that takes at most some bits to tell."""
    states = 1
    while states < MOST_STATES and letters <= MOST_LETTERS:
        entry = np.log2(states + 1) + np.log2(max(2, outputs))
        if (states + 1) * letters * entry > bits:
            break
        states += 1
    return states


# ---------------------------------------------------------------- merging of states


class _Tree:
    """A prefix tree whose nodes are merged, and folded so that one symbol leads to one node."""

    def __init__(self, batches: Sequence[tuple[Array, Array]]) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.answers: list[dict[int, int]] = [{}]
        self.visits = [sum(len(symbols) for symbols, _ in batches)]
        counts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        rows = (zip(symbols.tolist(), said.tolist(), strict=True) for symbols, said in batches)
        for row, answers in itertools.chain.from_iterable(rows):
            node = 0
            for symbol, answer in zip(row, answers, strict=True):
                counts[symbol][answer] += 1
                self.answers[node][symbol] = answer
                child = self.children[node].get(symbol)
                if child is None:
                    child = self.children[node][symbol] = len(self.children)
                    self.children.append({})
                    self.answers.append({})
                    self.visits.append(0)
                self.visits[child] += 1
                node = child
        # Bits that an agreement is worth: one on a rare answer tells more.
        self.worth = {
            (symbol, answer): float(np.log2(sum(each.values()) / count))
            for symbol, each in counts.items()
            for answer, count in each.items()
        }

    def evidence(self, red: int, blue: int, edge: tuple[int, int]) -> float | None:
        """Bits of the answers that agree if blue is folded on red; None if some do not.

        The edge (node, symbol) that leads to blue leads to red then.
        """
        score, stack = 0.0, [(red, blue)]
        said: dict[tuple[int, int], int] = {}
        added: dict[tuple[int, int], int] = {edge: red}
        while stack:
            one, other = stack.pop()
            own, children = self.answers[one], self.children[one]
            for symbol, answer in self.answers[other].items():
                have = own.get(symbol)
                if have is None:
                    if said.setdefault((one, symbol), answer) != answer:
                        return None
                elif have != answer:
                    return None
                else:
                    score += self.worth[symbol, answer]
            for symbol, child in self.children[other].items():
                twin = added.get((one, symbol), children.get(symbol))
                if twin is None:
                    twin = added.setdefault((one, symbol), child)
                if twin != child:
                    stack.append((twin, child))
        return score

    def fold(self, red: int, blue: int) -> None:
        """Give red all that blue has."""
        stack = [(red, blue)]
        while stack:
            one, other = stack.pop()
            self.visits[one] += self.visits[other]
            for symbol, answer in self.answers[other].items():
                self.answers[one].setdefault(symbol, answer)
            for symbol, child in self.children[other].items():
                twin = self.children[one].setdefault(symbol, child)
                if twin != child:
                    stack.append((twin, child))


def merged(
    batches: Sequence[tuple[Array, Array]], letters: int, most_states: int = MOST_STATES
) -> tuple[Rows, Rows] | None:
    """A small machine that says what the examples say, by red-blue merging on evidence.

    Red nodes are states that differ from each other; blue ones follow them. Of the blue ones that
    were visited most, one that agrees with no red one turns red; else the one is merged whose best
    red one is ahead of its second best by the most evidence. What is doubtful waits, and learns
    from what is merged meanwhile.

    Args:
      batches: of symbols (sequences, time), and the numbers of the outputs, likewise.
      letters: number of symbols.
      most_states: give up beyond.

    Returns:
      The tables `follows` and `answers`; None where there are too many states. What no example says
      is as at the symbol's most frequent answer, in the same state.
    """
    tree, red = _Tree(batches), [0]
    while True:
        blue = {
            child: (state, symbol)
            for state in red
            for symbol, child in tree.children[state].items()
            if child not in red
        }
        if not blue:
            return _tables(tree, red, letters)
        choice: tuple[float, int, int] | None = None
        for node in sorted(blue, key=lambda child: (-tree.visits[child], child))[:AT_ONCE]:
            scores = [tree.evidence(state, node, blue[node]) for state in red]
            # Where nothing tells them apart, the state that stays is the simplest.
            fitting = sorted(
                (-score, red[k] != blue[node][0], k)
                for k, score in enumerate(scores)
                if score is not None
            )
            if not fitting:
                choice = None
                red.append(node)
                break
            margin = fitting[1][0] - fitting[0][0] if len(fitting) > 1 else -fitting[0][0] + ALONE
            if choice is None or margin > choice[0]:
                choice = margin, node, red[fitting[0][2]]
        if len(red) > most_states:
            return None
        if choice is not None:
            _, node, into = choice
            state, symbol = blue[node]
            tree.children[state][symbol] = into
            tree.fold(into, node)


def _tables(tree: _Tree, red: list[int], letters: int) -> tuple[Rows, Rows]:
    number = {node: state for state, node in enumerate(red)}
    votes: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for node in red:
        for symbol, answer in tree.answers[node].items():
            votes[symbol][answer] += 1
    usual = {symbol: max(sorted(each), key=each.__getitem__) for symbol, each in votes.items()}
    follows, answers = [], []
    for state, node in enumerate(red):
        row = tree.children[node]
        follows.append(tuple(number[row[a]] if a in row else state for a in range(letters)))
        own = tree.answers[node]
        answers.append(tuple(own.get(a, usual.get(a, 0)) for a in range(letters)))
    return tuple(follows), tuple(answers)


def doubt(
    machine: Machine, symbols: Sequence[Array], validation: Sequence[Array], again: bool
) -> str:
    """Why a machine that is right on a validation is not verified by it; "" if it is.

    A transition that the validation does not go through may lead anywhere, and a counter looks like
    a machine that has more states the longer the words are.

    Args:
      machine: right on both.
      symbols: (sequences, time) of the examples, by their lengths.
      validation: likewise.
      again: whether to merge once more, with both.
    """
    follows, letters = np.array(machine.follows), len(machine.follows[0])
    visits = np.zeros(follows.shape, int)
    for words in validation:
        state = np.zeros(len(words), int)
        for column in words.T:
            np.add.at(visits, (state, column), 1)
            state = follows[state, column]
    if visits.min() < PASSES:
        rare = int((visits < PASSES).sum())
        return f"{rare} of {visits.size} transitions are in the validation less than {PASSES} times"
    if not again or len(follows) == 1:
        return ""
    batches = [(words, machine.run(words)) for words in (*symbols, *validation)]
    tables = merged(batches, letters, 2 * len(follows))
    words = np.random.default_rng(4).integers(0, letters, (200, 4 * validation[-1].shape[1]))
    if tables is None or (Machine(*tables, ()).run(words) != machine.run(words)).any():
        return "examples and validation together give another machine"
    return ""
