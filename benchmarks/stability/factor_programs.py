"""The programs of the primary experiment, written so that each factor can be changed by itself.

All speak one vocabulary, `Factors`: what is taken where a condition holds, comparisons, logic and
counters. The programs differ in what they remember and compare; one is the paper's tok2tok.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np

from benchmarks.stability.paper_experiment import VOCAB, tok2tok_prompts
from lsrl.ir import ops
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program, program
from lsrl.language.signal import Signal, affine, concat, constant, record, relu
from lsrl.language.sugar import delay, linear_state, position
from lsrl.paper import f_step

FormName = Literal["one-sided", "two-sided", "gate"]
Thresholds = Literal["edge", "centred"]

LENGTH, PAIRS = 3, 4  # of tok2tok
CENTRED_SLOPE = 4
# Factors on B; a number that stands for itself where it is as large as the paper's.
CONSTANTS = (1.0, 10.0, 1e3, 1e10)
SYMBOL = VOCAB - 1.0  # the greatest symbol, so the tight bound of one


@dataclass(frozen=True)
class Factors:
    """One way of writing a program.

    Attributes:
      form: of the conditionals.
      constant: M over B; 1e10 stands for M itself. None for gates.
      thresholds: where steps stand, and how steep they are.
    """

    form: FormName
    constant: float | None
    thresholds: Thresholds

    def taken(self, value: Signal, when: Signal, unless: Signal, bound: float) -> Signal:
        """The value, of size at most `bound`, where `when` is 1 and `unless` is 0; else 0."""
        if self.constant is None:
            return when * value
        large = self.constant if self.constant == CONSTANTS[-1] else self.constant * bound
        kept = relu(value - large * unless)
        if self.form == "one-sided":
            return kept
        return kept - relu(-value - large * unless)

    def larger(self, x: Signal, edge: float | Signal, gap: float = 1.0) -> Signal:
        """1 where x > edge, for values that stay gap/2 away from it."""
        if self.thresholds == "edge":
            return f_step(x - edge)
        slope = CENTRED_SLOPE / gap
        scaled = slope * (x - edge)
        step = relu(scaled + 0.5) - relu(scaled - 0.5)
        ends = (0.0,) * step.width, (1.0,) * step.width
        return record(ops.Bound(*ends, proven=True), step)

    def smaller(self, x: Signal, edge: float | Signal, gap: float = 1.0) -> Signal:
        """1 where x < edge."""
        return self.larger(-x, -edge, gap)

    def both(self, x: Signal, y: Signal) -> Signal:
        """1 where both of two booleans are 1."""
        if self.thresholds == "edge":
            return relu(f_step(x) + f_step(y) - 1)
        return self.larger(x + y, 1.5)

    def either(self, x: Signal, y: Signal) -> Signal:
        """1 where one of two booleans is 1."""
        return f_step(x + y) if self.thresholds == "edge" else self.larger(x + y, 0.5)

    def modulo(self, n: int) -> Signal:
        """The position modulo n by rotation, as in `lsrl.paper.f_modulo_counter`."""
        angle = 2 * math.pi / n
        cosine, sine = math.cos(angle), math.sin(angle)
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        cycler = linear_state(constant([0, 0]), rotation, initial=[cosine, -sine])
        turns = angle * np.arange(n)
        indicator = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ cycler
        if self.thresholds == "edge":
            one_hot = f_step(indicator - math.cos(angle / 2))
        else:
            one_hot = self.larger(indicator, (1 + cosine) / 2, 1 - cosine)
        return affine([(np.arange(n)[None, :], one_hot)])


def combinations() -> Iterator[Factors]:
    """All forms, constants and thresholds."""
    for thresholds in get_args(Thresholds):
        for form in get_args(FormName)[:2]:
            for ratio in CONSTANTS:
                yield Factors(form, ratio, thresholds)
        yield Factors("gate", None, thresholds)


@dataclass(frozen=True)
class Task:
    """A program with its inputs and its plain reference.

    Attributes:
      name: of the program.
      build: the program text, with the factors given.
      draw: one prompt, ints (tokens,), of the same length for all.
      answer: the expected output at each token of a prompt.
      scored: how many of the last outputs count: those where all prompts have an answer.
    """

    name: str
    build: Callable[[Factors], Program]
    draw: Callable[[np.random.Generator], Sequence[int]]
    answer: Callable[[Sequence[int]], Sequence[float]]
    scored: int

    def prompts(self, count: int) -> tuple[Array, Array]:
        """Prompts, ints (count, tokens), and their scored answers, (count, scored, 1)."""
        rng = np.random.default_rng(0)
        drawn = [list(self.draw(rng)) for _ in range(count)]
        answers = [self.answer(prompt)[-self.scored :] for prompt in drawn]
        return np.array(drawn), np.array(answers, dtype=np.float64)[..., None]


# ---------------------------------------------------------------- the paper's program


def tok2tok(factors: Factors, length: int = LENGTH, pairs: int = PAIRS) -> Program:
    """The paper's tok2tok (its listing 1, as `lsrl.paper.tok2tok`) with the factors given."""
    places, longest = range(length), length * (1 + 2 * pairs)
    larger, smaller, both = factors.larger, factors.smaller, factors.both

    @program(name="factors_tok2tok", max_length=longest)
    def tok2tok(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        counter = position()
        place, phase = factors.modulo(length), factors.modulo(2 * length)
        is_prompt = larger(counter, length - 0.5)
        is_query = smaller(counter, length - 0.5)
        is_key = larger(phase, length - 0.5)
        is_value = both(is_prompt, 1 - is_key)
        is_value_start = both(is_value, smaller(place, 0.5))
        at_place = [both(larger(place, i - 0.5), smaller(place, i + 0.5)) for i in places]
        off_place = [
            factors.either(larger(place, i + 0.5), smaller(place, i - 0.5)) for i in places
        ]
        asked = factors.taken(token, is_query, is_prompt, SYMBOL)
        update = [factors.taken(asked, at_place[i], off_place[i], SYMBOL) for i in places]
        query = linear_state(concat(*update))
        expected = concat(
            *(factors.taken(query[i], at_place[i], off_place[i], SYMBOL) for i in places)
        ).sum()
        same = both(larger(token, expected - 0.5), smaller(token, expected + 0.5))
        matching = both(same, is_key)
        entry = np.eye(1, length + 1, length).T
        buffer = linear_state(entry @ matching, np.eye(length + 1, k=1))
        all_matching = larger(buffer[:length].sum(), length - 0.5)
        starts = both(all_matching, is_value_start)
        started = linear_state(factors.taken(counter, starts, 1 - starts, float(longest)))
        copies = both(is_value, smaller(counter, started + (length - 0.5)))
        said = []
        for i in places:
            writes = both(copies, at_place[i])
            update_i = factors.taken(token, larger(writes, 0.5), smaller(writes, 0.5), SYMBOL)
            register = linear_state(update_i)
            said.append(factors.taken(register, at_place[i], off_place[i], SYMBOL))
        return concat(*said).sum()

    return tok2tok


def _tok2tok_draw(rng: np.random.Generator) -> Sequence[int]:
    return tok2tok_prompts(LENGTH, PAIRS, 1, rng)[0].tolist()


def _tok2tok_answer(prompt: Sequence[int]) -> Sequence[float]:
    words = [prompt[i : i + LENGTH] for i in range(0, len(prompt), LENGTH)]
    value = words[1 + words[1::2].index(words[0]) * 2 + 1]
    return [0] * (len(prompt) - LENGTH) + list(value)


# ---------------------------------------------------------------- smaller programs

MARKED, COMPARED, NESTED, HELD, ASKED, COUNTED = 24, 20, 24, 24, 20, 20  # tokens
RECALLED = 8  # pairs
SHOWN = 6  # last tokens at which an answer is shown
EVERY = 4


def marked_symbol(factors: Factors) -> Program:
    """The symbol after the marker 9, shown at the last tokens, else 0."""

    @program(name="factors_marked_symbol", max_length=MARKED)
    def marked_symbol(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        follows = delay(factors.larger(token, SYMBOL - 0.5), 1)
        kept = linear_state(factors.taken(token, follows, 1 - follows, SYMBOL))
        edge = MARKED - SHOWN - 0.5
        at_end, before = factors.larger(position(), edge), factors.smaller(position(), edge)
        return factors.taken(kept, at_end, before, SYMBOL)

    return marked_symbol


def _marked_draw(rng: np.random.Generator) -> Sequence[int]:
    prompt = rng.integers(VOCAB - 1, size=MARKED)
    prompt[rng.integers(MARKED - SHOWN - 1)] = VOCAB - 1
    return prompt.tolist()


def _marked_answer(prompt: Sequence[int]) -> Sequence[float]:
    return [0] * (MARKED - SHOWN) + [prompt[prompt.index(VOCAB - 1) + 1]] * SHOWN


def larger_symbol(factors: Factors) -> Program:
    """The larger of the first two symbols."""

    @program(name="factors_larger_symbol", max_length=COMPARED)
    def larger_symbol(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        counter = position()
        at_first, later = factors.smaller(counter, 0.5), factors.larger(counter, 0.5)
        at_second = factors.both(later, factors.smaller(counter, 1.5))
        first = linear_state(factors.taken(token, at_first, later, SYMBOL))
        second = linear_state(factors.taken(token, at_second, 1 - at_second, SYMBOL))
        is_first, is_second = (
            factors.larger(first - second, -0.5),
            factors.smaller(first, second - 0.5),
        )
        return factors.taken(first, is_first, is_second, SYMBOL) + factors.taken(
            second, is_second, is_first, SYMBOL
        )

    return larger_symbol


def _symbols(count: int) -> Callable[[np.random.Generator], Sequence[int]]:
    def draw(rng: np.random.Generator) -> Sequence[int]:
        return rng.integers(VOCAB, size=count).tolist()

    return draw


def _larger_answer(prompt: Sequence[int]) -> Sequence[float]:
    return [max(prompt[:2])] * len(prompt)


def bracket_depth(factors: Factors) -> Program:
    """How many brackets are open (1 opens, 2 closes); 0 for good once one too many was closed."""

    @program(name="factors_bracket_depth", max_length=NESTED)
    def bracket_depth(token: Annotated[Signal, Token(3)]) -> Signal:
        opens = factors.both(factors.larger(token, 0.5), factors.smaller(token, 1.5))
        depth = linear_state(opens - factors.larger(token, 1.5))
        broken = linear_state(factors.smaller(depth, -0.5))
        legal, illegal = factors.smaller(broken, 0.5), factors.larger(broken, 0.5)
        return factors.taken(depth, legal, illegal, float(NESTED))

    return bracket_depth


def _bracket_draw(rng: np.random.Generator) -> Sequence[int]:
    return rng.choice(3, p=[0.2, 0.5, 0.3], size=NESTED).tolist()


def _bracket_answer(prompt: Sequence[int]) -> Sequence[float]:
    depth, answers, legal = 0, [], True
    for token in prompt:
        depth += {0: 0, 1: 1, 2: -1}[token]
        legal = legal and depth >= 0
        answers.append(depth if legal else 0)
    return answers


def every_fourth(factors: Factors) -> Program:
    """Every fourth symbol, held until the next."""

    @program(name="factors_every_fourth", max_length=HELD)
    def every_fourth(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        place = factors.modulo(EVERY)
        picked = factors.taken(
            token, factors.smaller(place, 0.5), factors.larger(place, 0.5), SYMBOL
        )
        return linear_state(np.eye(EVERY, 1) @ picked, np.eye(EVERY, k=-1)).sum()

    return every_fourth


def _every_answer(prompt: Sequence[int]) -> Sequence[float]:
    return [prompt[now - now % EVERY] for now in range(len(prompt))]


def recall(factors: Factors) -> Program:
    """The value of the key that equals the first symbol, in pairs of one symbol each."""

    @program(name="factors_recall", max_length=1 + 2 * RECALLED)
    def recall(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        counter, is_key = position(), factors.larger(factors.modulo(2), 0.5)
        at_first, later = factors.smaller(counter, 0.5), factors.larger(counter, 0.5)
        query = linear_state(factors.taken(token, at_first, later, SYMBOL))
        same = factors.both(factors.larger(token, query - 0.5), factors.smaller(token, query + 0.5))
        follows = delay(factors.both(same, is_key), 1)
        return linear_state(factors.taken(token, follows, 1 - follows, SYMBOL))

    return recall


def _recall_draw(rng: np.random.Generator) -> Sequence[int]:
    keys = rng.permutation(VOCAB)[:RECALLED]
    values = rng.integers(VOCAB, size=RECALLED)
    return [int(rng.choice(keys[:-2])), *np.stack([keys, values], axis=1).ravel().tolist()]


def _recall_answer(prompt: Sequence[int]) -> Sequence[float]:
    at = 2 + 2 * prompt[1::2].index(prompt[0])
    return [prompt[at] if now >= at else 0 for now in range(len(prompt))]


def first_position(factors: Factors) -> Program:
    """Where the first symbol comes again for the first time; 0 until then."""

    @program(name="factors_first_position", max_length=ASKED)
    def first_position(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        counter = position()
        at_first, later = factors.smaller(counter, 0.5), factors.larger(counter, 0.5)
        query = linear_state(factors.taken(token, at_first, later, SYMBOL))
        same = factors.both(factors.larger(token, query - 0.5), factors.smaller(token, query + 0.5))
        seen = linear_state(same)
        second = factors.both(factors.larger(seen, 1.5), factors.smaller(seen, 2.5))
        found = factors.both(same, second)
        return linear_state(factors.taken(counter, found, 1 - found, float(ASKED)))

    return first_position


def _first_draw(rng: np.random.Generator) -> Sequence[int]:
    prompt = rng.integers(VOCAB, size=ASKED)
    prompt[rng.integers(1, ASKED - SHOWN)] = prompt[0]
    return prompt.tolist()


def _first_answer(prompt: Sequence[int]) -> Sequence[float]:
    at = prompt.index(prompt[0], 1)
    return [at if now >= at else 0 for now in range(len(prompt))]


def count_extremes(factors: Factors) -> Program:
    """How many symbols were 0 or 9, shown at the last tokens, else 0."""

    @program(name="factors_count_extremes", max_length=COUNTED)
    def count_extremes(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        extreme = factors.either(factors.smaller(token, 0.5), factors.larger(token, SYMBOL - 0.5))
        edge = COUNTED - SHOWN - 0.5
        at_end, before = factors.larger(position(), edge), factors.smaller(position(), edge)
        return factors.taken(linear_state(extreme), at_end, before, float(COUNTED))

    return count_extremes


def _extremes_answer(prompt: Sequence[int]) -> Sequence[float]:
    counts = np.cumsum(np.isin(prompt, (0, VOCAB - 1)))
    return [int(count) if now >= COUNTED - SHOWN else 0 for now, count in enumerate(counts)]


TASKS = (
    Task("tok2tok", tok2tok, _tok2tok_draw, _tok2tok_answer, LENGTH),
    Task("marked symbol", marked_symbol, _marked_draw, _marked_answer, SHOWN),
    Task("larger symbol", larger_symbol, _symbols(COMPARED), _larger_answer, SHOWN),
    Task("bracket depth", bracket_depth, _bracket_draw, _bracket_answer, NESTED),
    Task("every fourth", every_fourth, _symbols(HELD), _every_answer, 2 * EVERY),
    Task("recall", recall, _recall_draw, _recall_answer, 4),
    Task("first position", first_position, _first_draw, _first_answer, SHOWN),
    Task("count extremes", count_extremes, _symbols(COUNTED), _extremes_answer, SHOWN),
)
