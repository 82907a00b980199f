"""A suite of tasks for networks that learn with a library: questions as tokens, and their answers.

Every question is drawn at random and answered by plain Python from its text, so there is as much of
it as one likes, at any length or depth. What a network is trained on is small, and what it is asked
is large. Tasks that a finite machine does have it with them, as a routine for `Library`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal, NamedTuple, final

import numpy as np

from lsrl import arguments as checks
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.nn.tables import MooreTable
from lsrl.programs.formal_languages import group_elements, group_generators

DIGITS, ASKS = 8, "?"
# Tokens of a question: at most in training, and where it is tested. Of depth: steps.
TRAINED, TESTED = 16, (16, 64, 256, 1_000)
STEPS, DEEP = 15, (15, 31, 63, 127, 255, 511)
COUNTED = 2_000  # questions whose most frequent answers are counted
NOTHING = -1  # wanted where nothing is asked, and the symbol of a token that is no argument

Draw = Callable[[np.random.Generator, int, bool], list[int]]
Answer = Callable[[Sequence[int]], list[int]]


class TaskBatch(NamedTuple):
    """Questions of a task.

    Attributes:
      words: (questions, time) int, tokens; behind a question's end anything.
      lengths: (questions,) tokens of each.
      wanted: (questions, time) int, the answer that is due at each token; -1 where none is.
    """

    words: Array
    lengths: Array
    wanted: Array

    def right(self, said: Array) -> Array:
        """(questions,) bool: whether all that was asked is answered right.

        Args:
          said: (questions, time), an answer at each token.
        """
        return np.asarray(((said == self.wanted) | (self.wanted == NOTHING)).all(1))


@final
@dataclass(frozen=True, eq=False)
class Task:
    """What is asked, how large it is in training and in tests, and what does it.

    Attributes:
      name: of the task.
      about: what is asked, in a line.
      axis: whether its size is the tokens of a question, "length", or steps, "depth".
      tokens: the vocabulary.
      answers: how many answers a token may have.
      trained: the greatest size of the questions that are learnt from.
      tested: sizes of the questions that are asked.
      question: draws a question's tokens; of a size, and of the tests or not.
      answer: its answers by plain Python, one at each token, -1 where none is due.
      machine: a routine that does it, reading `symbols`; None where no small machine does.
      symbols: the machine's symbol for each token; -1 for one that it skips.
    """

    name: str
    about: str
    axis: Literal["length", "depth"]
    tokens: tuple[str, ...]
    answers: int
    trained: int
    tested: tuple[int, ...]
    question: Draw
    answer: Answer
    machine: MooreTable | None = None
    symbols: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.tokens)

    @property
    def arguments(self) -> dict[int, int]:
        """By token the symbol that it is to the routine, as `Host` and `attach` take it."""
        return {token: each for token, each in enumerate(self.symbols) if each != NOTHING}

    def draw(self, rng: np.random.Generator, questions: int, size: int | None = None) -> TaskBatch:
        """Draw questions.

        Args:
          rng: of everything.
          questions: how many.
          size: of all of them, for a test; of a length, tokens at most. By default they are for
            training: up to `trained`, half of them small.

        Raises:
          InputError: no questions, or a size that is no positive int.
        """
        checks.count(f"{self.name}: questions", questions)
        sizes = np.full(questions, size)
        if size is None:
            small = np.maximum(2, self.trained // 3)
            most = np.where(rng.random(questions) < 0.5, small, self.trained)
            sizes = rng.integers(1, most + 1)
        else:
            checks.count(f"{self.name}: size", size)
        texts = [self.question(rng, int(each), size is not None) for each in sizes]
        lengths = np.array([len(text) for text in texts])
        words = np.zeros((questions, int(lengths.max())), np.int64)
        wanted = np.full(words.shape, NOTHING, np.int64)
        for row, text in enumerate(texts):
            words[row, : len(text)] = text
            wanted[row, : len(text)] = self.answer(text)
        return TaskBatch(words, lengths, wanted)

    def constant(self, size: int, questions: int = COUNTED, seed: int = 0) -> float:
        """The share of questions that the best constant answers: the floor of every network.

        Args:
          size: of the questions.
          questions: that are counted.
          seed: of the questions.
        """
        batch = self.draw(np.random.default_rng(seed), questions, size)
        # Answers are compared from the end, so that long and short ones meet.
        due = [row[row != NOTHING][::-1] for row in batch.wanted]
        width = max(map(len, due))
        held = np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in due])
        usual = [np.bincount(column[column >= 0]).argmax() for column in held.T]
        return float(((held == np.array(usual)) | (held < 0)).all(1).mean())

    def text(self, words: Sequence[int]) -> str:
        """A question in words."""
        return " ".join(self.tokens[word] for word in words)

    def __repr__(self) -> str:
        """Name, and what it is."""
        return f"Task({self.name}: {self.about})"

    @staticmethod
    def mixed(tasks: Mapping[str, "Task"]) -> "Task":
        """Several tasks as one: a question begins with a token that names its task.

        Args:
          tasks: of one axis, by name. Token k names task k, and behind the names come each task's
            own tokens.

        Raises:
          InputError: no tasks, or some of lengths and some of depths.
        """
        each = list(tasks.values())
        if len({task.axis for task in each}) != 1:
            raise InputError(
                f"Task.mixed: expected tasks of one axis, got {[task.axis for task in each]}"
            )
        starts = np.cumsum([len(each), *(task.vocabulary for task in each)])[:-1].tolist()

        def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
            number = int(rng.integers(len(each)))
            text = each[number].question(rng, max(size - 1, 1), test)
            return [number, *(starts[number] + word for word in text)]

        def answer(words: Sequence[int]) -> list[int]:
            number = words[0]
            return [NOTHING, *each[number].answer([word - starts[number] for word in words[1:]])]

        return Task(
            "mixed", ", ".join(tasks), each[0].axis,
            (*tasks, *(f"{name}:{token}" for name, task in tasks.items() for token in task.tokens)),
            max(task.answers for task in each), max(task.trained for task in each),
            each[0].tested, question, answer, None,
            (*[NOTHING] * len(each), *(s for task in each for s in task.symbols)),
        )  # fmt: skip


def explored(
    start: Hashable,
    step: Callable[..., Hashable],
    says: Callable[..., int],
    symbols: int,
) -> MooreTable:
    """The machine of all states that a step in plain Python leads to.

    Args:
      start: a state.
      step: from a state and a symbol to the next state.
      says: what a state gives.
      symbols: how many.
    """
    states, follows = [start], list[list[int]]()
    number = {start: 0}
    for state in states:
        row = [step(state, symbol) for symbol in range(symbols)]
        for each in row:
            if each not in number:
                number[each] = len(states)
                states.append(each)
        follows.append([number[each] for each in row])
    said = np.array([[says(state)] for state in states], float)
    return MooreTable(np.array(follows, np.int32), said)


# ---------------------------------------------------------------- algorithms of digits


def _swapped(state: int, digit: int) -> int:
    """The word in S3 of the generators that odd and even digits stand for."""
    elements, generators = group_elements("S3"), group_generators("S3")
    swap = generators[digit % 2]
    return elements.index(tuple(swap[place] for place in elements[state]))


def _walked(state: int, digit: int) -> int:
    """Up from 4 on and down below, between 0 and 4."""
    return min(max(state + (1 if digit >= 4 else -1), 0), 4)


# By name the states, all of which are answers, and the state after a digit.
ALGORITHMS: Mapping[str, tuple[int, Callable[[int, int], int]]] = {
    "parity": (2, lambda state, digit: (state + digit) % 2),
    "sum mod 5": (5, lambda state, digit: (state + digit) % 5),
    "maximum": (DIGITS, max),
    "words of S3": (6, _swapped),
    "saturating count": (5, _walked),
}
ABOUT = {
    "parity": "whether the digits' sum is odd",
    "sum mod 5": "the digits' sum modulo 5",
    "maximum": "the greatest digit",
    "words of S3": "the product of two permutations of three things, one for odd digits",
    "saturating count": "a walk between 0 and 4, up at 4 and more, else down",
}


def _folded(name: str, digits: Sequence[int]) -> int:
    _, step = ALGORITHMS[name]
    state = 0
    for digit in digits:
        state = step(state, digit)
    return state


def _digits(rng: np.random.Generator, name: str, count: int) -> list[int]:
    # The maximum of many digits is always 7; below a ceiling of its own no constant is.
    ceiling = int(rng.integers(1, DIGITS + 1)) if name == "maximum" else DIGITS
    return list(rng.integers(0, ceiling, count).tolist())


def _last(words: Sequence[int], answer: int) -> list[int]:
    """An answer that is due at the last token."""
    return [*[NOTHING] * (len(words) - 1), answer]


def _algorithm(name: str) -> Task:
    states, step = ALGORITHMS[name]

    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        return [*_digits(rng, name, max(size - 1, 1)), DIGITS]

    return Task(
        name, ABOUT[name], "length", (*map(str, range(DIGITS)), ASKS), states, TRAINED, TESTED,
        question, lambda words: _last(words, _folded(name, words[:-1])),
        explored(0, step, int, DIGITS), (*range(DIGITS), NOTHING),
    )  # fmt: skip


# ---------------------------------------------------------------- arithmetic, column by column


def _columns(value: int, base: int, count: int) -> list[int]:
    found = []
    for _ in range(count):
        value, digit = divmod(value, base)
        found.append(digit)
    return found


def _value(digits: Sequence[int], base: int) -> int:
    value = 0
    for digit in reversed(digits):
        value = base * value + digit
    return value


def _addition(base: int = 10) -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        pairs = [*rng.integers(0, base, (max(size // 3 - 1, 1), 2)).tolist(), [0, 0]]
        return [token for pair in pairs for token in (*pair, base)]

    def answer(words: Sequence[int]) -> list[int]:
        total = _value(words[0::3], base) + _value(words[1::3], base)
        digits = _columns(total, base, len(words) // 3)
        return [each for digit in digits for each in (NOTHING, NOTHING, digit)]

    def step(state: tuple[int, int | None, int], digit: int) -> tuple[int, int | None, int]:
        carry, first, _ = state
        if first is None:
            return carry, digit, 0
        total = carry + first + digit
        return total // base, None, total % base

    return Task(
        "addition", "the sum of two numbers, by columns from the lowest: two digits and its answer",
        "length", (*map(str, range(base)), ASKS), base, TRAINED, TESTED, question, answer,
        explored((0, None, 0), step, lambda state: state[2], base), (*range(base), NOTHING),
    )  # fmt: skip


def _multiplication(base: int = 5) -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        by = int(rng.integers(2, base))
        digits = [*rng.integers(0, base, max((size - 1) // 2 - 1, 1)).tolist(), 0]
        return [by, *(token for digit in digits for token in (digit, base))]

    def answer(words: Sequence[int]) -> list[int]:
        product = words[0] * _value(words[1::2], base)
        digits = _columns(product, base, len(words) // 2)
        return [NOTHING, *(each for digit in digits for each in (NOTHING, digit))]

    def step(state: tuple[int, int, int] | None, digit: int) -> tuple[int, int, int]:
        if state is None:
            return digit, 0, 0
        by, carry, _ = state
        total = carry + by * digit
        return by, total // base, total % base

    return Task(
        "multiplication", "a digit times a number, both in base 5, digit by digit from the lowest",
        "length", (*map(str, range(base)), ASKS), base, TRAINED, TESTED, question, answer,
        explored(None, step, lambda state: 0 if state is None else state[2], base),
        (*range(base), NOTHING),
    )  # fmt: skip


# ---------------------------------------------------------------- stacks, graphs, lists


def _stack(items: int = 3, deep: int = 3) -> Task:
    pop = items

    def step(stack: tuple[int, ...], symbol: int) -> tuple[int, ...]:
        if symbol == pop:
            return stack[:-1]
        return (*stack, symbol) if len(stack) < deep else stack

    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        words, stack = list[int](), tuple[int, ...]()
        for _ in range(max(size - 1, 1)):
            pops = len(stack) == deep or (len(stack) > 0 and rng.random() < 0.5)
            words.append(pop if pops else int(rng.integers(items)))
            stack = step(stack, words[-1])
        return [*words, pop + 1]

    def answer(words: Sequence[int]) -> list[int]:
        stack = list[int]()
        for word in words[:-1]:
            if word == pop:
                stack.pop()
            else:
                stack.append(word)
        return _last(words, stack[-1] if stack else items)

    return Task(
        "stack", f"what lies on top of a stack of at most {deep} behind a program of pushes and "
        "pops", "length", (*(f"push {k}" for k in range(items)), "pop", ASKS), items + 1, TRAINED,
        TESTED, question, answer,
        explored((), step, lambda stack: stack[-1] if stack else items, items + 1),
        (*range(items + 1), NOTHING),
    )  # fmt: skip


def _reachability(nodes: int = 5) -> Task:
    pairs = list(combinations(range(nodes), 2))

    def merged(parts: tuple[int, ...], one: int, other: int) -> tuple[int, ...]:
        low, high = sorted((parts[one], parts[other]))
        return tuple(low if part == high else part for part in parts)

    def step(state: tuple[tuple[int, ...], int], symbol: int) -> tuple[tuple[int, ...], int]:
        parts, _ = state
        one, other = pairs[symbol % len(pairs)]
        if symbol < len(pairs):
            return merged(parts, one, other), 0
        # Behind a query nothing is asked any more: only its answer is left.
        return (), int(bool(parts) and parts[one] == parts[other])

    def stepped(state: tuple[tuple[int, ...], int], symbol: int) -> tuple[tuple[int, ...], int]:
        return step(state, symbol) if state[0] else state

    def reached(words: Sequence[int], start: int) -> set[int]:
        found, pending = {start}, [start]
        while pending:
            node = pending.pop()
            for one, other in {pairs[word] for word in words}:
                for near, far in ((one, other), (other, one)):
                    if near == node and far not in found:
                        found.add(far)
                        pending.append(far)
        return found

    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        # Nodes of other groups are never joined, so that long lists leave something to ask.
        group = rng.integers(0, 3, nodes)
        inner = [k for k, (one, other) in enumerate(pairs) if group[one] == group[other]]
        words = rng.choice(inner or [0], max(size - 1, 1)).tolist()
        joined = [pairs[k][1] in reached(words, pairs[k][0]) for k in range(len(pairs))]
        wanted = bool(rng.random() < 0.5)
        asked = [k for k in range(len(pairs)) if joined[k] == wanted] or list(range(len(pairs)))
        return [*words, len(pairs) + int(rng.choice(asked))]

    def answer(words: Sequence[int]) -> list[int]:
        start, goal = pairs[words[-1] - len(pairs)]
        return _last(words, int(goal in reached(words[:-1], start)))

    return Task(
        "reachability", f"whether there is a way between two of {nodes} nodes, behind a list of "
        "edges", "length",
        (*(f"{a}-{b}" for a, b in pairs), *(f"{a}…{b}?" for a, b in pairs)), 2, TRAINED, TESTED,
        question, answer,
        explored((tuple(range(nodes)), 0), stepped, lambda state: state[1], 2 * len(pairs)),
        tuple(range(2 * len(pairs))),
    )  # fmt: skip


def _sorting() -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        keys = rng.integers(0, DIGITS, max(size // 2, 1)).tolist()
        return [*keys, *[DIGITS] * len(keys)]

    return Task(
        "sorting", "the digits of a list in order, one at each token that asks", "length",
        (*map(str, range(DIGITS)), ASKS), DIGITS, TRAINED, TESTED, question, _sorted, None,
        (*range(DIGITS), NOTHING),
    )  # fmt: skip


def _sorted(words: Sequence[int]) -> list[int]:
    half = len(words) // 2
    return [*[NOTHING] * half, *sorted(words[:half])]


# ---------------------------------------------------------------- told in words

VERBS, FILLERS = ("give", "tell", "find", "say"), ("please", "now", "then", "of", "all")
# By algorithm two slots; no word of a slot alone says which it is of the two sums.
PHRASES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "parity": (("sum", "total", "count"), ("two", "pairs")),
    "sum mod 5": (("sum", "total", "count"), ("five", "hands")),
    "maximum": (("largest", "greatest", "highest"), ("digit", "number")),
    "words of S3": (("turns", "moves", "swaps"), ("three", "things")),
    "saturating count": (("walk", "steps", "way"), ("walls", "borders")),
}


def _told() -> Task:
    """An algorithm that is asked for in words; tests ask in phrases that training never has."""
    slots = [word for pair in PHRASES.values() for slot in pair for word in slot]
    words = tuple(dict.fromkeys((*VERBS, *FILLERS, *slots)))
    first = DIGITS + 1
    number = {word: first + place for place, word in enumerate(words)}
    spoken = {first + place: word for place, word in enumerate(words)}

    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        name = list(PHRASES)[int(rng.integers(len(PHRASES)))]
        one, two = PHRASES[name]
        while True:
            places = [int(rng.integers(len(each))) for each in (VERBS, one, two)]
            # A sixth of the phrases is kept for tests.
            if test == (sum(places) % 6 == 0):
                break
        phrase = [VERBS[places[0]], one[places[1]], two[places[2]]]
        for place in (3, 2, 1):
            if rng.random() < 0.3:
                phrase.insert(place, FILLERS[int(rng.integers(len(FILLERS)))])
        digits = _digits(rng, name, max(size - len(phrase) - 1, 1))
        return [*(number[word] for word in phrase), *digits, DIGITS]

    def answer(words: Sequence[int]) -> list[int]:
        said = {spoken[word] for word in words if word in spoken}
        (name,) = (name for name, (one, two) in PHRASES.items() if said & {*one} and said & {*two})
        return _last(words, _folded(name, [word for word in words if word < DIGITS]))

    return Task(
        "told in words", "one of five algorithms of digits, named by a phrase; tests have phrases "
        "that training lacks", "length", (*map(str, range(DIGITS)), ASKS, *words), DIGITS, TRAINED,
        TESTED, question, answer, None, (*range(DIGITS), NOTHING, *[NOTHING] * len(words)),
    )  # fmt: skip


# ---------------------------------------------------------------- depth

# Modulo 11 it takes 10 steps for F to be 0 again, more than a unit that halts reaches: modulo 5 a
# network may as well halt 5 steps late, and read letters as a third of what they are. Squares
# modulo 59 come back after 28 steps.
PRIME, SQUARED = 11, 59
GREATEST, SHALLOW = 63, 7  # of gcd: numbers, and subtractions in training
KEYS, SHORT = 4, 4  # of insertion sort: keys, and passes in training
OCTAL = 3  # digits of a number of steps


def _steps(words: Sequence[int]) -> int:
    """A number of steps, highest digit first."""
    return _value(words[::-1], 8)


def _counted(steps: int) -> list[int]:
    return _columns(steps, 8, OCTAL)[::-1]


def _fibonacci() -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        return [*rng.integers(0, PRIME, 2).tolist(), *_counted(size), PRIME]

    def answer(words: Sequence[int]) -> list[int]:
        one, other = words[0], words[1]
        for _ in range(_steps(words[2:-1])):
            one, other = other, (one + other) % PRIME
        return _last(words, one)

    return Task(
        "Fibonacci", f"a term of a Fibonacci sequence modulo {PRIME}: two terms, and which one",
        "depth", (*map(str, range(PRIME)), ASKS), PRIME, STEPS, DEEP, question, answer,
    )  # fmt: skip


def _squaring() -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        return [int(rng.integers(2, SQUARED - 1)), *_counted(size), SQUARED]

    def answer(words: Sequence[int]) -> list[int]:
        return _last(words, pow(words[0], 2 ** _steps(words[1:-1]), SQUARED))

    return Task(
        "repeated squaring", f"a number modulo {SQUARED}, squared so many times", "depth",
        (*map(str, range(SQUARED)), ASKS), SQUARED, STEPS, DEEP, question, answer,
    )  # fmt: skip


def subtractions(one: int, other: int) -> int:
    """How many times the smaller number is taken from the greater until they are equal."""
    steps = 0
    while one != other:
        one, other = min(one, other), abs(one - other)
        steps += 1
    return steps


@cache
def _by_depth() -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for one in range(1, GREATEST + 1):
        for other in range(1, GREATEST + 1):
            found.setdefault(subtractions(one, other), []).append((one, other))
    return found


def _gcd() -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        pairs = _by_depth()[min(size, max(_by_depth()))]
        one, other = pairs[int(rng.integers(len(pairs)))]
        return [*_columns(one, 8, 2)[::-1], *_columns(other, 8, 2)[::-1], 8]

    return Task(
        "gcd", f"the greatest common divisor of two octal numbers up to {GREATEST}; its depth is "
        "that of subtractions", "depth", (*map(str, range(8)), ASKS), GREATEST + 1, SHALLOW,
        (7, 15, 31, 62), question,
        lambda words: _last(words, int(np.gcd(_steps(words[:2]), _steps(words[2:4])))),
    )  # fmt: skip


def _insertion() -> Task:
    def question(rng: np.random.Generator, size: int, test: bool) -> list[int]:
        return [*rng.integers(0, KEYS, size).tolist(), *[KEYS] * size]

    return Task(
        "insertion sort", f"a list of {KEYS} keys in order, by as many passes as it has keys",
        "depth", (*map(str, range(KEYS)), ASKS), KEYS, SHORT, (4, 8, 16, 32), question, _sorted,
    )  # fmt: skip


def standard_tasks() -> dict[str, Task]:
    """The suite, by name: eleven tasks by length, four by depth.

    Returns:
      Length: parity, sum mod 5, maximum, words of S3, saturating count, addition, multiplication,
      stack, reachability, sorting, told in words. Depth: Fibonacci, repeated squaring, gcd,
      insertion sort.
    """
    tasks = (
        *map(_algorithm, ALGORITHMS), _addition(), _multiplication(), _stack(), _reachability(),
        _sorting(), _told(), _fibonacci(), _squaring(), _gcd(), _insertion(),
    )  # fmt: skip
    return {task.name: task for task in tasks}
