"""Programs that recognise formal languages and run finite automata."""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Literal, get_args

import numpy as np

import lsrl
from lsrl import Program, Signal, Token
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs

Table = Sequence[Sequence[int]]  # (states, symbols): the state that follows

# Words over {0, 1} without two ones in a row; state 2 is the dead one.
NO_TWO_ONES = ((0, 1), (0, 2), (2, 2))

Group = Literal["S3", "S5", "A5"]


def dyck1(max_length: int = 1000) -> Program:
    """Balanced brackets of one kind.

    Input: a bracket a token: 0 opens, 1 closes. Output: 1 where the prefix up to and including this
    token is balanced: as many close as open, and at no token more had closed than opened; else 0.

    Shows: a counter, and an error that sticks, both linear states.

    Args:
      max_length: greatest number of tokens.

    Raises:
      ProgramError: max_length is not a positive int.

    Source: Suzgun et al. (2019), "LSTM Networks Can Perform Dynamic Counting".
    """

    @lsrl.program(max_length=checks.max_length(max_length))
    def dyck1(bracket: Annotated[Signal, Token(2, "()")]) -> Annotated[Signal, Token(2)]:
        height = lsrl.cumsum(1 - 2 * bracket)
        times_below = lsrl.cumsum(height < 0)
        return lsrl.relu(1 - lsrl.relu(height) - times_below)

    return dyck1


def shuffle_dyck(kinds: int = 2, max_length: int = 1000) -> Program:
    """Brackets of several kinds, each kind balanced by itself.

    Input: a bracket a token: k opens kind k, kinds + k closes it. Output: 1 where the prefix up to
    and including this token is balanced in every kind (they may cross), else 0.

    Shows: what several counters do at once, without a stack.

    Args:
      kinds: kinds of brackets, at least 1.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.

    Source: Suzgun et al. (2019), "LSTM Networks Can Perform Dynamic Counting".
    """
    pairs = checks.integer("kinds", kinds, 1)

    @lsrl.program(max_length=checks.max_length(max_length))
    def shuffle_dyck(
        bracket: Annotated[Signal, Token(2 * pairs, _brackets(pairs))],
    ) -> Annotated[Signal, Token(2)]:
        height = lsrl.cumsum(lsrl.lookup(bracket, np.vstack([np.eye(pairs), -np.eye(pairs)])))
        times_below = lsrl.cumsum((height < 0).sum())
        return lsrl.relu(1 - lsrl.relu(height).sum() - times_below)

    return shuffle_dyck


def shuffle_dyck_reference(brackets: Sequence[int], kinds: int = 1) -> list[int]:
    """Count each kind; one slip spoils the rest."""
    open_brackets, spoilt, answers = [0] * kinds, False, []
    for bracket in brackets:
        if bracket < kinds:
            open_brackets[bracket] += 1
        elif open_brackets[bracket - kinds] > 0:
            open_brackets[bracket - kinds] -= 1
        else:
            spoilt = True
        answers.append(int(not spoilt and not any(open_brackets)))
    return answers


def dyck(kinds: int = 2, depth: int = 4, max_length: int = 1000) -> Program:
    """Balanced and nested brackets of several kinds, down to a greatest depth.

    Input: a bracket a token: k opens kind k, kinds + k closes it. Output: 1 where the prefix up to
    and including this token is balanced and properly nested, with at most `depth` brackets open at
    any token so far, else 0.

    Shows: a stack of bounded depth as a count and one hold a level.

    Args:
      kinds: kinds of brackets, at least 1.
      depth: greatest number of open brackets, at least 1.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.

    Source: Hewitt et al. (2020), "RNNs Can Generate Bounded Hierarchical Languages with Optimal
    Memory".
    """
    pairs, levels = checks.integer("kinds", kinds, 1), checks.integer("depth", depth, 1)
    level = np.arange(1, levels + 1)

    @lsrl.program(max_length=checks.max_length(max_length))
    def dyck(
        bracket: Annotated[Signal, Token(2 * pairs, _brackets(pairs))],
    ) -> Annotated[Signal, Token(2)]:
        opens = lsrl.lookup(bracket, [1] * pairs + [0] * pairs)
        kind = lsrl.lookup(bracket, [*range(1, pairs + 1), *range(1, pairs + 1)])
        height = lsrl.cumsum(2 * opens - 1)
        # The kind that opened each level last; what closes leaves the height one below its level.
        opened = lsrl.hold(kind, opens & (height == level))
        wanted = lsrl.select(height == level - 1, opened, 0)
        # Nothing is wanted, and so no kind is right, below height 0. What is wanted beyond the
        # greatest depth doesn't matter: the opening bracket was an error already.
        mismatched = ~opens & (wanted.sum() != kind)
        errors = lsrl.cumsum(mismatched + (height > levels))
        return lsrl.relu(1 - lsrl.relu(height) - errors)

    return dyck


def _brackets(kinds: int) -> list[str]:
    """Names of brackets: those that open, then those that close."""
    if kinds <= 4:
        return [*"([{<"[:kinds], *")]}>"[:kinds]]
    return [f"{side}{kind}" for side in "()" for kind in range(kinds)]


def dyck_reference(brackets: Sequence[int], kinds: int, depth: int) -> list[int]:
    """Push and pop a stack."""
    stack: list[int] = []
    spoilt, answers = False, []
    for bracket in brackets:
        if bracket < kinds:
            stack.append(bracket)
            spoilt = spoilt or len(stack) > depth
        elif not stack or stack.pop() != bracket - kinds:
            spoilt = True
        answers.append(int(not spoilt and not stack))
    return answers


def _bracket_sample(
    rng: np.random.Generator, steps: int, kinds: int = 1, depth: int | None = None
) -> Inputs:
    """A word that is right but, one time in two, for a few brackets."""
    stack: list[int] = []
    word = []
    for _ in range(steps):
        full = depth is not None and len(stack) >= depth
        if stack and (full or rng.random() < 0.5):
            word.append(kinds + stack.pop())
        else:
            stack.append(int(rng.integers(kinds)))
            word.append(stack[-1])
    tokens = np.array(word)
    if rng.random() < 0.5:
        places = rng.integers(steps, size=2)
        tokens[places] = rng.integers(2 * kinds, size=2)
    return (tokens,)


def _bracket_edges(max_length: int, kinds: int = 1, depth: int | None = None) -> list[Inputs]:
    """As deep as allowed and one deeper, one close too many, and a pair closed by another kind."""
    deepest = min(max_length // 2, 1000) if depth is None else depth
    last = kinds - 1
    words = [
        [last] * deepest + [kinds + last] * deepest,
        [last] * (deepest + 1) + [kinds + last] * (deepest + 1),
        [0, kinds, kinds, 0, 0, kinds],
        [0, last, kinds, kinds + last, 0, kinds],
        [0, kinds] * min(max_length, 1000),
    ]
    return [(np.array(word),) for word in words]


def a_n_b_n(max_length: int = 1000) -> Program:
    """Some a, then as many b.

    Input: a letter a token: 0 for a, 1 for b. Output: 1 where the prefix up to and including this
    token is aⁿbⁿ for some n, else 0.

    Shows: a context-free language with one comparison of counts, and an error that sticks.

    Args:
      max_length: greatest number of tokens.

    Raises:
      ProgramError: max_length is not a positive int.

    Source: Gers and Schmidhuber (2001), "LSTM Recurrent Networks Learn Simple Context-Free and
    Context-Sensitive Languages".
    """

    @lsrl.program(max_length=checks.max_length(max_length))
    def a_n_b_n(letter: Annotated[Signal, Token(2, "ab")]) -> Annotated[Signal, Token(2)]:
        count = lsrl.cumsum(letter.one_hot)
        no_b_yet = lsrl.relu(1 - count[1])
        errors = lsrl.cumsum(lsrl.relu(letter.one_hot[0] - no_b_yet))
        return lsrl.relu(1 - lsrl.absolute(count[0] - count[1]) - errors)

    return a_n_b_n


def a_n_b_n_c_n(max_length: int = 1000) -> Program:
    """Some a, then as many b, then as many c.

    Input: a letter a token: 0 for a, 1 for b, 2 for c. Output: 1 where the prefix up to and
    including this token is aⁿbⁿcⁿ for some n, else 0.

    Shows: a language that is not context-free, by two comparisons of counts.

    Args:
      max_length: greatest number of tokens.

    Raises:
      ProgramError: max_length is not a positive int.

    Source: Gers and Schmidhuber (2001), "LSTM Recurrent Networks Learn Simple Context-Free and
    Context-Sensitive Languages".
    """

    @lsrl.program(max_length=checks.max_length(max_length))
    def a_n_b_n_c_n(letter: Annotated[Signal, Token(3, "abc")]) -> Annotated[Signal, Token(2)]:
        count = lsrl.cumsum(letter.one_hot)
        none_after_yet = lsrl.relu(1 - lsrl.concat(count[1] + count[2], count[2]))
        errors = lsrl.cumsum(lsrl.relu(letter.one_hot[:2] - none_after_yet).sum())
        differences = lsrl.absolute(count[:2] - count[1:])
        return lsrl.relu(1 - differences.sum() - errors)

    return a_n_b_n_c_n


def _equal_runs_reference(letters: Sequence[int], kinds: int) -> list[int]:
    """Compare each prefix with the one word of its length."""
    answers = []
    for length in range(1, len(letters) + 1):
        word = [letter for letter in range(kinds) for _ in range(length // kinds)]
        answers.append(int(list(letters[:length]) == word))
    return answers


def _runs_sample(rng: np.random.Generator, steps: int, kinds: int) -> Inputs:
    """Runs of equal letters: often of equal length, then anything."""
    size = int(rng.integers(1, max(2, steps // kinds + 1)))
    sizes = [size] * kinds
    if rng.random() < 0.3:
        sizes[int(rng.integers(kinds))] += int(rng.integers(-1, 2))
    word = np.repeat(np.arange(kinds), sizes)[:steps]
    rest = rng.integers(kinds, size=steps - len(word))
    return (np.concatenate([word, rest]),)


def _runs_edges(max_length: int, kinds: int) -> list[Inputs]:
    """The longest word of the language, and words out of order."""
    longest = np.repeat(np.arange(kinds), min(max_length, 2000) // kinds)
    words: list[Array] = [longest, longest[::-1], np.tile(np.arange(kinds), 3)]
    return [(word,) for word in words if len(word)]


def ngram(
    pattern: Sequence[int] = (1, 0, 1), vocab: int = 2, max_length: int | None = None
) -> Program:
    """Where a pattern has just been read.

    Input: a symbol a token. Output: 1 where the last tokens, this one included, are the pattern,
    else 0.

    Shows: a local pattern as a sum of delayed symbols.

    Args:
      pattern: the symbols, at least one.
      vocab: number of symbols.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)
    wanted = checks.symbols("pattern", pattern, symbols)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def ngram(token: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(2)]:
        # How many of the first symbols of the pattern are right, one symbol further a token.
        matches = token.one_hot[wanted[0]]
        for symbol in wanted[1:]:
            matches = lsrl.delay(matches, 1) + token.one_hot[symbol]
        return lsrl.relu(matches - (len(wanted) - 1))

    return ngram


def ngram_reference(tokens: Sequence[int], pattern: Sequence[int]) -> list[int]:
    """Compare the last tokens with the pattern."""
    size, wanted = len(pattern), list(pattern)
    ends = range(1, len(tokens) + 1)
    return [int(end >= size and list(tokens[end - size : end]) == wanted) for end in ends]


def _ngram_edges(pattern: Sequence[int]) -> list[Inputs]:
    """The pattern over and over, overlapping itself, and cut short at the start."""
    word = np.array(pattern)
    return [(np.tile(word, 4),), (np.concatenate([word, word[1:]]),), (np.tile(word, 3)[1:],)]


def even_pairs(max_length: int | None = None) -> Program:
    """Whether the letter changed an even number of times.

    Input: a bit a token. Output: 1 where the number of places so far with two different bits next
    to each other (01 or 10) is even, which is where this bit equals the first, else 0.

    Shows: a count that needs no counter.

    Args:
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: max_length is not a positive int.

    Source: Delétang et al. (2023), "Neural Networks and the Chomsky Hierarchy", Even Pairs.
    """

    @lsrl.program(max_length=checks.optional_length(max_length))
    def even_pairs(bit: Annotated[Signal, Token(2)]) -> Annotated[Signal, Token(2)]:
        is_first = 1 - lsrl.delay(lsrl.constant(1), 1)
        return lsrl.latch(bit, is_first) == bit

    return even_pairs


def even_pairs_reference(bits: Sequence[int]) -> list[int]:
    """Count the changes."""
    changes = [int(a != b) for a, b in itertools.pairwise(bits)]
    return [int(sum(changes[:end]) % 2 == 0) for end in range(len(bits))]


def dfa(
    table: Table = NO_TWO_ONES,
    outputs: Sequence[int] | None = None,
    start: int = 0,
    max_length: int | None = None,
) -> Program:
    """Any finite automaton.

    Input: a symbol a token. Output: `outputs` of the state after this symbol, the state itself by
    default.

    Shows: every regular language, by threshold states: one unit for each pair of state and symbol.

    Args:
      table: the transitions, (states, symbols): the state that follows each state and symbol.
      outputs: (states,) the output of each state, for instance 1 where it accepts.
      start: the state before the first token.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a table with ragged rows, or a parameter out of range.

    Source: Rabin and Scott (1959), "Finite Automata and Their Decision Problems".
    """
    transitions = _checked_table(table)
    states, symbols = len(transitions), len(transitions[0])
    says = tuple(range(states))
    if outputs is not None:
        says = checks.symbols("outputs", outputs, np.iinfo(np.int32).max, length=states)
    first = checks.integer("start", start, 0, states - 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def dfa(symbol: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(max(says) + 1)]:
        return automaton(symbol, transitions, says, first)

    return dfa


def _checked_table(table: Table) -> tuple[tuple[int, ...], ...]:
    rows = list(table) if isinstance(table, Iterable) else []
    if not rows:
        raise ProgramError(
            f"table: expected one row a state, got {table!r}; pass for instance ((0, 1), (1, 0))"
        )
    first = checks.symbols("table[0]", rows[0], len(rows))
    return tuple(
        checks.symbols(f"table[{state}]", row, len(rows), length=len(first))
        for state, row in enumerate(rows)
    )


def automaton(
    symbol: Signal, table: Sequence[Sequence[int]], outputs: Sequence[int], start: int
) -> Signal:
    """Run an automaton: outputs[state after the symbol].

    Unit (q, a) is 1 where the state was q before the token and the token is a. So it is 1 where
    the unit before led to q, [the unit before is some (p, b) with table[p][b] = q] + [the token is
    a] − 1.5 > 0, and the state after the token is table[q][a]. One more unit, which is 1 before
    the first token only, leads to the start.
    """
    pairs = [(state, letter) for state in range(len(table)) for letter in range(len(table[0]))]
    leads_to = np.array([*(table[state][letter] for state, letter in pairs), start])
    before = np.array([*(state for state, _ in pairs), -1])  # the unit of the start has none
    transition = (before[:, None] == leads_to[None, :]).astype(float)
    is_letter = np.array([[letter == own for own in range(len(table[0]))] for _, letter in pairs])
    is_letter = np.vstack([is_letter, np.zeros(len(table[0]))]).astype(float)
    initial = (before == -1).astype(float)
    units = lsrl.threshold_state(is_letter @ symbol.one_hot - 1.5, transition, initial=initial)
    units.named("units")
    says = np.array(outputs)[leads_to] * (before >= 0)
    # One unit is on at a time, and never that of the start from the first token on.
    return lsrl.bound(says[None, :] @ units, min(outputs), max(outputs)).named("output")


def dfa_reference(
    symbols: Sequence[int], table: Table, outputs: Sequence[int] | None, start: int
) -> list[int]:
    """Follow the table."""
    state, answers = start, []
    for symbol in symbols:
        state = table[state][symbol]
        answers.append(state if outputs is None else outputs[state])
    return answers


def permutations(group: Group = "S3", max_length: int | None = None) -> Program:
    """The running product in a group of permutations: its word problem.

    Input: a generator a token. S3 and S5: 0 swaps the first two, 1 turns all round; A5: 0 turns the
    first three round, 1 all five. Output: the index of the product of all generators up to and
    including this one, later ones applied after earlier ones, in the sorted list of the group's
    permutations; index 0 is the identity.

    Shows: state tracking that is out of reach of linear recurrences unless TC⁰ = NC¹ (S5 and A5,
    which are not solvable).

    Args:
      group: "S3", "S5" or "A5".
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: an unknown group, or max_length is not a positive int.

    Source: Merrill et al. (2024), "The Illusion of State in State-Space Models"; of S5, Barrington
    (1989).
    """
    if group not in get_args(Group):
        raise ProgramError(
            f"group: expected one of {', '.join(get_args(Group))}, got {group!r}; "
            "for another group write its table of transitions and use dfa(table)"
        )
    elements, generators = group_elements(group), group_generators(group)
    index = {element: position for position, element in enumerate(elements)}
    table = tuple(
        tuple(index[tuple(generator[place] for place in element)] for generator in generators)
        for element in elements
    )
    order = len(elements)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def permutations(
        generator: Annotated[Signal, Token(len(generators))],
    ) -> Annotated[Signal, Token(order)]:
        return automaton(generator, table, range(order), 0)

    return permutations


def group_elements(group: Group) -> list[tuple[int, ...]]:
    """The permutations of a group, sorted; entry i of each is the image of i."""
    elements = sorted(itertools.permutations(range(int(group[1]))))
    return [p for p in elements if group[0] == "S" or _is_even(p)]


def _is_even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0


def group_generators(group: Group) -> tuple[tuple[int, ...], ...]:
    """The two generators that the tokens of `permutations` stand for."""
    size = int(group[1])
    all_round = (*range(1, size), 0)
    few = (1, 0) if group[0] == "S" else (1, 2, 0)
    return ((*few, *range(len(few), size)), all_round)


def permutations_reference(tokens: Sequence[int], group: Group) -> list[int]:
    """Move the places of a list, and count the permutations that come before it in order."""
    generators, elements = group_generators(group), group_elements(group)
    size = int(group[1])
    image = list(range(size))  # where each place has been moved to
    answers = []
    for token in tokens:
        for place in range(size):
            image[place] = generators[token][image[place]]
        answers.append(sum(element < tuple(image) for element in elements))
    return answers


ENTRIES = (
    Entry(
        dyck1,
        shuffle_dyck_reference,
        parameters=({"max_length": 64}, {}, {"max_length": 1}),
        sampler=_bracket_sample,
        edges=_bracket_edges,
    ),
    Entry(
        shuffle_dyck,
        shuffle_dyck_reference,
        parameters=({"max_length": 64}, {}, {"kinds": 1}, {"kinds": 6}),
        sampler=_bracket_sample,
        edges=_bracket_edges,
    ),
    Entry(
        dyck,
        dyck_reference,
        parameters=({"max_length": 64}, {}, {"kinds": 1, "depth": 1}, {"kinds": 4, "depth": 8}),
        sampler=_bracket_sample,
        edges=_bracket_edges,
    ),
    Entry(
        a_n_b_n,
        partial(_equal_runs_reference, kinds=2),
        parameters=({"max_length": 64}, {}, {"max_length": 1}),
        sampler=partial(_runs_sample, kinds=2),
        edges=partial(_runs_edges, kinds=2),
    ),
    Entry(
        a_n_b_n_c_n,
        partial(_equal_runs_reference, kinds=3),
        parameters=({"max_length": 64}, {}, {"max_length": 2}),
        sampler=partial(_runs_sample, kinds=3),
        edges=partial(_runs_edges, kinds=3),
    ),
    Entry(
        ngram,
        ngram_reference,
        parameters=(
            {},
            {"pattern": (0,)},
            {"pattern": (2, 2, 0, 2, 2), "vocab": 3, "max_length": 300},
        ),
        edges=_ngram_edges,
    ),
    Entry(even_pairs, even_pairs_reference, parameters=({}, {"max_length": 500})),
    Entry(
        dfa,
        dfa_reference,
        parameters=(
            {},
            {"outputs": (1, 1, 0)},
            {"table": ((1, 1), (2, 1), (2, 0)), "outputs": (4, 0, 2), "start": 1},
            {"table": ((0,),)},
            {"table": ((1, 2, 3), (2, 3, 1), (3, 1, 2), (3, 3, 0)), "max_length": 300},
        ),
    ),
    Entry(
        permutations,
        permutations_reference,
        parameters=({}, {"group": "S5"}, {"group": "A5", "max_length": 300}),
    ),
)
