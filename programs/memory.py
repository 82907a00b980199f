"""Programs that keep symbols and say them later."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs


def copy_delay(k: int = 3, vocab: int = 4, max_length: int | None = None) -> Program:
    """Every symbol again, k tokens later.

    Input: a symbol a token. Output: the symbol of k tokens ago; 0 at the first k tokens.

    Shows: a shift register, or taps of a convolution where the target has one.

    Args:
      k: the delay, at least 1.
      vocab: number of symbols.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    steps, symbols = checks.integer("k", k, 1), checks.integer("vocab", vocab, 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def copy_delay(token: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(symbols)]:
        return lsrl.delay(token, steps)

    return copy_delay


def copy_delay_reference(tokens: Sequence[int], k: int) -> list[int]:
    """Move the list by k places."""
    return [*[0] * k, *tokens][: len(tokens)]


def first_token(vocab: int = 4, max_length: int | None = None) -> Program:
    """The first symbol, for ever.

    Input: a symbol a token. Output: the symbol of token 0, at every token.

    Shows: a latch that a pulse at the first token shuts.

    Args:
      vocab: number of symbols.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def first_token(token: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(symbols)]:
        is_first = 1 - lsrl.delay(lsrl.constant(1), 1)
        return lsrl.latch(token, is_first)

    return first_token


def first_token_reference(tokens: Sequence[int]) -> list[int]:
    """Repeat the first."""
    return [tokens[0]] * len(tokens)


def flip_flop(vocab: int = 2, max_length: int | None = None) -> Program:
    """A memory of one symbol.

    Input: an instruction a token: 0 read, 1 ignore, 2 + v write v, for v from 0 to vocab - 1.
    Output: the symbol written last, this token included; 0 before the first write.

    Shows: the selective state at its plainest: overwrite or hold, as the input says.

    Args:
      vocab: number of symbols that can be written.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Liu et al. (2023), "Exposing Attention Glitches with Flip-Flop Language Modeling".
    """
    symbols = checks.integer("vocab", vocab, 1)
    words = ["READ", "IGNORE", *(f"SET{value}" for value in range(symbols))]

    @lsrl.program(max_length=checks.optional_length(max_length))
    def flip_flop(
        instruction: Annotated[Signal, Token(symbols + 2, words)],
    ) -> Annotated[Signal, Token(symbols)]:
        writes = lsrl.lookup(instruction, [0, 0] + [1] * symbols)
        value = lsrl.lookup(instruction, [0, 0, *range(symbols)])
        return lsrl.hold(value, writes)

    return flip_flop


def flip_flop_reference(instructions: Sequence[int]) -> list[int]:
    """Keep the value of the last write."""
    memory, answers = 0, []
    for instruction in instructions:
        if instruction >= 2:
            memory = instruction - 2
        answers.append(memory)
    return answers


def undo_flip_flop(vocab: int = 2, max_length: int | None = None) -> Program:
    """A memory of one symbol whose last write can be taken back.

    Input: an instruction a token: 0 read, 1 undo, 2 + v write v, for v from 0 to vocab - 1.
    Output: the memory's symbol after this instruction, 0 at first. Undo brings back what the memory
    held just before the last write; a second undo before the next write changes nothing.

    Shows: a state that seems to feed on itself, taken apart into three selective states in a row.

    Args:
      vocab: number of symbols that can be written.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)
    words = ["READ", "UNDO", *(f"SET{value}" for value in range(symbols))]

    @lsrl.program(max_length=checks.optional_length(max_length))
    def undo_flip_flop(
        instruction: Annotated[Signal, Token(symbols + 2, words)],
    ) -> Annotated[Signal, Token(symbols)]:
        writes = lsrl.lookup(instruction, [0, 0] + [1] * symbols)
        undoes = lsrl.lookup(instruction, [0, 1] + [0] * symbols)
        value = lsrl.lookup(instruction, [0, 0, *range(symbols)])
        written = lsrl.hold(value, writes)
        undoes_or_writes = lsrl.lookup(instruction, [0] + [1] * (symbols + 1))
        undone = lsrl.hold(undoes, undoes_or_writes)
        # A write that follows a write which stands puts that one's value behind it. After one that
        # was undone, the memory already shows what is behind, so nothing changes there.
        buries = writes & ~lsrl.delay(undone, 1)
        behind = lsrl.hold(lsrl.delay(written, 1), buries)
        return lsrl.select(undone, behind, written)

    return undo_flip_flop


def undo_flip_flop_reference(instructions: Sequence[int]) -> list[int]:
    """Keep two values: the memory, and the one before the last write."""
    memory, before, answers = 0, 0, []
    for instruction in instructions:
        if instruction == 1:
            memory = before
        elif instruction >= 2:
            memory, before = instruction - 2, memory
        answers.append(memory)
    return answers


def selective_copy(length: int = 4, vocab: int = 4, max_length: int = 1000) -> Program:
    """Symbols picked out from among blanks, and said again on demand.

    Input: a token each step: 0 blank, 1 … vocab a symbol, vocab + 1 the marker. Output: 0 until
    the first marker; the first symbol at the marker, the second at the token after it and so on,
    up to `length` of them, then 0. Where fewer symbols came before the marker, 0 takes their
    place; symbols beyond the first `length`, and all that comes after the marker, are not read.

    Shows: selective copying by linear states: one latch a symbol, told apart by a running count.

    Args:
      length: number of symbols to keep, at least 1.
      vocab: number of symbols.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.

    Source: Gu and Dao (2023), "Mamba", section 4.1.1.
    """
    slots, symbols = checks.integer("length", length, 1), checks.integer("vocab", vocab, 1)
    places = np.arange(1, slots + 1)
    words = ["_", *(str(symbol) for symbol in range(1, symbols + 1)), "SAY"]

    @lsrl.program(max_length=checks.max_length(max_length))
    def selective_copy(
        token: Annotated[Signal, Token(symbols + 2, words)],
    ) -> Annotated[Signal, Token(symbols + 1)]:
        is_symbol = lsrl.lookup(token, [0] + [1] * symbols + [0])
        is_marker = lsrl.lookup(token, [0] * (symbols + 1) + [1])
        # Counting begins with 1 at the marker, and for the symbols with 1 at the first.
        speaking = 1 - lsrl.relu(1 - lsrl.cumsum(is_marker))
        turn = lsrl.cumsum(speaking)
        kept = lsrl.relu(is_symbol - speaking)
        count = lsrl.cumsum(kept)
        arrives = kept & (count == places)
        slot = [lsrl.latch(token, arrives[index]) for index in range(slots)]
        # Only one slot has its turn.
        said = lsrl.select(turn == places, lsrl.concat(*slot), 0)
        return lsrl.bound(said.sum(), 0, symbols)

    return selective_copy


def selective_copy_reference(tokens: Sequence[int], length: int, vocab: int) -> list[int]:
    """Collect into a list, then read it from its front."""
    collected: list[int] = []
    speaking, answers = False, []
    for token in tokens:
        speaking = speaking or token == vocab + 1
        if not speaking and token > 0 and len(collected) < length:
            collected.append(token)
        answers.append(collected.pop(0) if speaking and collected else 0)
    return answers


def _selective_copy_sample(rng: np.random.Generator, steps: int, length: int, vocab: int) -> Inputs:
    """Symbols among blanks, about as many as there are slots, then the marker, then anything."""
    marker = int(rng.integers(max(1, steps - length + 1)))
    share = min(1.0, length / (marker + 1))
    symbols = rng.integers(1, vocab + 1, size=steps)
    tokens = np.where(rng.random(steps) < share, symbols, 0)
    tokens[marker] = vocab + 1
    tokens[marker + 1 :] = rng.integers(vocab + 2, size=steps - marker - 1)
    return (tokens,)


def _selective_copy_edges(length: int, vocab: int, max_length: int) -> list[Inputs]:
    """Every slot filled at once, too many symbols, and the last moment to say them."""
    marker = vocab + 1
    prompts = [
        [vocab] * length + [marker] + [vocab] * length,
        [1] + [vocab] * (length + 1) + [marker] + [1] * (length + 1),
        [0] * (max_length - 2 * length) + [vocab] * length + [marker] + [marker] * (length - 1),
    ]
    return [(np.array(prompt),) for prompt in prompts]


def reverse(length: int = 4, vocab: int = 4) -> Program:
    """A word, then the same word backwards.

    Input: `length` symbols, then up to `length` further tokens, which are not read. Output: 0 while
    the word is read; then the word's last symbol, the one before it, and so on. The token at
    length + j answers with the symbol of token length - 1 - j.

    Shows: reversal by delays: at each token of the answer the symbol wanted lies two tokens further
    back than at the one before.

    Args:
      length: length of the word, at least 1; the program takes 2·length tokens.
      vocab: number of symbols.

    Raises:
      ProgramError: a parameter out of range.

    Source: Delétang et al. (2023), "Neural Networks and the Chomsky Hierarchy", Reverse String.
    """
    size, symbols = checks.integer("length", length, 1), checks.integer("vocab", vocab, 1)

    @lsrl.program(max_length=2 * size)
    def reverse(token: Annotated[Signal, Token(symbols)]) -> Annotated[Signal, Token(symbols)]:
        turns = lsrl.periodic(np.eye(2 * size)[:, size:])  # channel j is 1 at token size + j
        earlier = [lsrl.delay(token, 1)]
        while len(earlier) < size:
            earlier.append(lsrl.delay(earlier[-1], 2))
        # Only one of them has its turn.
        said = lsrl.select(turns, lsrl.concat(*earlier), 0)
        return lsrl.bound(said.sum(), 0, symbols - 1)

    return reverse


def reverse_reference(tokens: Sequence[int], length: int) -> list[int]:
    """Turn the list around."""
    answers = [0] * length + list(tokens[:length])[::-1]
    return answers[: len(tokens)]


def counting_sort(length: int = 4, vocab: int = 4) -> Program:
    """A word, then its symbols in order.

    Input: `length` symbols, then up to `length` further tokens, which are not read. Output: 0 while
    the word is read; then its symbols from the least to the greatest, each as often as it came.

    Shows: sorting without comparing symbols: counts that are held, and a clock that passes them.

    Args:
      length: length of the word, at least 1; the program takes 2·length tokens.
      vocab: number of symbols, at least 2.

    Raises:
      ProgramError: a parameter out of range.

    Source: Seward (1954), of sorting by counts.
    """
    size, symbols = checks.integer("length", length, 1), checks.integer("vocab", vocab, 2)
    # Row v tells which of the symbols 0 … vocab - 2 the symbol v does not exceed.
    at_most = [[int(value <= symbol) for symbol in range(symbols - 1)] for value in range(symbols)]

    @lsrl.program(max_length=2 * size)
    def counting_sort(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Token(symbols)]:
        word_over = lsrl.relu(lsrl.position() - (size - 1))  # 0 in the word, then 1, 2, …
        counted = lsrl.relu(lsrl.lookup(token, at_most) - word_over)
        counts = lsrl.cumsum(counted)
        # The answer's symbol number j (from 0) exceeds the symbol v if no more than j symbols of
        # the word are at most v; negative j in the word, where nothing is exceeded.
        exceeds = lsrl.position() - size >= counts
        return exceeds.sum()

    return counting_sort


def counting_sort_reference(tokens: Sequence[int], length: int) -> list[int]:
    """Sort the list."""
    answers = [0] * length + sorted(tokens[:length])
    return answers[: len(tokens)]


def _word_edges(length: int, vocab: int) -> list[Inputs]:
    """Words in order and out of order, with the greatest symbol after them."""
    rising = np.arange(length) % vocab
    rest = np.full(length, vocab - 1)
    words: list[Array] = [rising, rising[::-1], np.sort(rising)]
    return [(np.concatenate([word, rest]),) for word in words]


def first_repeated(vocab: int = 4, max_length: int = 1000) -> Program:
    """The first symbol that came a second time.

    Input: a symbol a token. Output: 0 while all symbols so far are different; from the first token
    on whose symbol came before, 1 + that symbol.

    Shows: an event that is defined by counts, and a latch that keeps what it was.

    Args:
      vocab: number of symbols.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)

    @lsrl.program(max_length=checks.max_length(max_length))
    def first_repeated(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Token(symbols + 1)]:
        earlier = lsrl.delay(lsrl.cumsum(token.one_hot), 1)
        # One symbol is the token's.
        repeats = lsrl.bound((token.one_hot & (earlier > 0)).sum(), 0, 1)
        happens = lsrl.relu(repeats - lsrl.delay(lsrl.cumsum(repeats), 1))
        return lsrl.latch(token + 1, happens)

    return first_repeated


def first_repeated_reference(tokens: Sequence[int]) -> list[int]:
    """Collect into a set until something is in it already."""
    seen: set[int] = set()
    found, answers = 0, []
    for token in tokens:
        if not found and token in seen:
            found = 1 + token
        seen.add(token)
        answers.append(found)
    return answers


def marked_pair(vocab: int = 4, max_length: int = 1000) -> Program:
    """The two symbols that markers point at.

    Input: a token each step: k from 0 to vocab - 1 is a symbol, vocab the marker LEFT, vocab + 1
    the marker RIGHT. Output: the vector [left, right]: 1 + the token right after the first LEFT,
    and 1 + the token right after the first RIGHT, 0 before they came. A marker that is pointed at
    counts as 0, too.

    Shows: copying from two places at once, by two latches that fire once each.

    Args:
      vocab: number of symbols.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    symbols = checks.integer("vocab", vocab, 1)
    words = [*(str(symbol) for symbol in range(symbols)), "LEFT", "RIGHT"]
    content = [*range(1, symbols + 1), 0, 0]

    @lsrl.program(max_length=checks.max_length(max_length))
    def marked_pair(
        token: Annotated[Signal, Token(symbols + 2, words)],
    ) -> Annotated[Signal, Vector(2, low=0, high=symbols, step=1)]:
        markers = token.one_hot[symbols:]
        first = lsrl.relu(markers - lsrl.delay(lsrl.cumsum(markers), 1))
        points = lsrl.delay(first, 1)
        symbol = lsrl.lookup(token, content)
        left = lsrl.latch(symbol, points[0])
        right = lsrl.latch(symbol, points[1])
        return lsrl.concat(left, right)

    return marked_pair


def marked_pair_reference(tokens: Sequence[int], vocab: int) -> list[tuple[int, ...]]:
    """Find the first place of each marker, and look one further."""
    answers = []
    for end in range(1, len(tokens) + 1):
        prefix, answer = list(tokens[:end]), []
        for marker in (vocab, vocab + 1):
            place = prefix.index(marker) + 1 if marker in prefix else end
            answer.append(1 + prefix[place] if place < end and prefix[place] < vocab else 0)
        answers.append(tuple(answer))
    return answers


def _marked_sample(rng: np.random.Generator, steps: int, vocab: int) -> Inputs:
    """Few markers, so that the latches fire anywhere in the sequence."""
    symbols, markers = rng.integers(vocab, size=steps), rng.integers(vocab, vocab + 2, size=steps)
    return (np.where(rng.random(steps) < 3 / (steps + 1), markers, symbols),)


ENTRIES = (
    Entry(
        copy_delay,
        copy_delay_reference,
        parameters=({}, {"k": 1}, {"k": 17, "vocab": 100, "max_length": 500}),
    ),
    Entry(
        first_token,
        first_token_reference,
        parameters=({}, {"vocab": 2}, {"vocab": 1000, "max_length": 500}),
    ),
    Entry(
        flip_flop,
        flip_flop_reference,
        parameters=({}, {"vocab": 1}, {"vocab": 50, "max_length": 500}),
    ),
    Entry(
        undo_flip_flop,
        undo_flip_flop_reference,
        parameters=({}, {"vocab": 1}, {"vocab": 20, "max_length": 500}),
    ),
    Entry(
        selective_copy,
        selective_copy_reference,
        parameters=(
            {"max_length": 64},
            {},
            {"length": 1, "vocab": 1, "max_length": 10},
            {"length": 10, "vocab": 20, "max_length": 200},
        ),
        sampler=_selective_copy_sample,
        edges=_selective_copy_edges,
    ),
    Entry(
        reverse,
        reverse_reference,
        parameters=({}, {"length": 1, "vocab": 2}, {"length": 20, "vocab": 30}),
        edges=_word_edges,
    ),
    Entry(
        counting_sort,
        counting_sort_reference,
        parameters=({}, {"length": 1, "vocab": 2}, {"length": 30, "vocab": 12}),
        edges=_word_edges,
    ),
    Entry(
        first_repeated,
        first_repeated_reference,
        parameters=({"max_length": 64}, {"vocab": 1, "max_length": 2}),
    ),
    Entry(
        marked_pair, marked_pair_reference, parameters=({"max_length": 64},), sampler=_marked_sample
    ),
)
