"""Programs that look things up in what they have read."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token
from lsrl.programs import checks
from lsrl.programs.entry import Entry, Inputs


def associative_recall(keys: int = 4, values: int = 4, max_length: int | None = None) -> Program:
    """A memory with a cell for each key.

    Input: a token each step: k from 0 to keys - 1 names the key k; keys + v, for v from 0 to
    values - 1, stores the value v under the key named last (and is not read before any was named).
    Output: what lies under the key named last, after this token: 1 + v for the value v, 0 for
    nothing. So key, value sets a pair, and naming a key asks for its value.

    Shows: associative recall that reads and writes in any order: one selective state a key.

    Args:
      keys: number of keys, at least 1.
      values: number of values, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Ba et al. (2016), "Using Fast Weights to Attend to the Recent Past".
    """
    cells, symbols = checks.integer("keys", keys, 1), checks.integer("values", values, 1)
    words, answers = _words(cells, symbols)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def associative_recall(
        token: Annotated[Signal, Token(cells + symbols, words)],
    ) -> Annotated[Signal, Token(symbols + 1, answers)]:
        names_key = lsrl.lookup(token, [1] * cells + [0] * symbols)
        content = lsrl.lookup(token, [0] * cells + [*range(1, symbols + 1)])
        current = lsrl.hold(token.one_hot[:cells], names_key)
        memory = lsrl.hold(content, current & ~names_key)
        # One key is current, so one cell speaks.
        return lsrl.bound(lsrl.select(current, memory, 0).sum(), 0, symbols)

    return associative_recall


def _words(keys: int, values: int) -> tuple[list[str], list[str]]:
    """Names of keys and values, and of the answers."""
    said = [f"VALUE{value}" for value in range(values)]
    return [f"KEY{key}" for key in range(keys)] + said, ["NOTHING", *said]


def associative_recall_reference(tokens: Sequence[int], keys: int) -> list[int]:
    """Store in a dictionary."""
    memory: dict[int | None, int] = {}
    current, answers = None, []
    for token in tokens:
        if token < keys:
            current = token
        elif current is not None:
            memory[current] = 1 + token - keys
        answers.append(memory.get(current, 0))
    return answers


def recall_overwriting(keys: int = 4, values: int = 4, max_length: int | None = None) -> Program:
    """Pairs of key and value first, then queries: multi-query associative recall.

    Input: a token each step: k from 0 to keys - 1 is a key, keys + v, for v from 0 to values - 1,
    a value, and keys + values ends the prompt. In the prompt a value that comes right after a key
    is stored under it, over what was there; any other value is not read. Output: 0 in the prompt;
    then, at each key, 1 + v for the value v stored under it, 0 for nothing; 0 at other tokens.

    Shows: recall from a state of keys × log₂ values bits, which is what the task needs.

    Args:
      keys: number of keys, at least 1.
      values: number of values, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Arora et al. (2023), "Zoology: Measuring and Improving Recall in Efficient Language
    Models".
    """
    cells, symbols = checks.integer("keys", keys, 1), checks.integer("values", values, 1)
    bits = symbols.bit_length()
    # Row v has the bits of what is stored for the value v, 1 + v, and keys have none.
    codes = [[0] * bits] * cells
    codes += [[(1 + value) >> bit & 1 for bit in range(bits)] for value in range(symbols)]
    codes += [[0] * bits]
    words, answers = _words(cells, symbols)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def recall_overwriting(
        token: Annotated[Signal, Token(cells + symbols + 1, [*words, "END"])],
    ) -> Annotated[Signal, Token(symbols + 1, answers)]:
        is_end = token.one_hot[cells + symbols]
        asking = lsrl.hold(is_end, is_end)
        is_value = lsrl.lookup(token, [0] * cells + [1] * symbols + [0])
        key = token.one_hot[:cells]
        # All three: the token before is this key, this one is a value, and the prompt goes on.
        stores = lsrl.relu(lsrl.delay(key, 1) + is_value - asking - 1)
        asked = key & asking
        code = lsrl.lookup(token, codes)
        stored = [lsrl.hold(code[bit], stores) for bit in range(bits)]
        said = [2**bit * lsrl.select(asked, stored[bit], 0).sum() for bit in range(bits)]
        # One key is asked for, and no code exceeds that of the last value.
        return lsrl.bound(lsrl.concat(*said).sum(), 0, symbols)

    return recall_overwriting


def recall_overwriting_reference(tokens: Sequence[int], keys: int, values: int) -> list[int]:
    """Fill a dictionary up to the end of the prompt, then only look up."""
    memory: dict[int, int] = {}
    asking, before, answers = False, -1, []
    for token in tokens:
        asking = asking or token == keys + values
        if not asking and 0 <= before < keys <= token:
            memory[before] = 1 + token - keys
        answers.append(memory.get(token, 0) if asking else 0)
        before = token
    return answers


def _recall_sample(rng: np.random.Generator, steps: int, keys: int, values: int) -> Inputs:
    """Mostly pairs, then the end of the prompt, then mostly keys; some tokens at random."""
    prompt = int(rng.integers(steps + 1))
    tokens = rng.integers(keys, size=steps)
    tokens[1:prompt:2] = rng.integers(keys, keys + values, size=len(tokens[1:prompt:2]))
    noisy = rng.random(steps) < 0.1
    tokens[noisy] = rng.integers(keys + values, size=int(noisy.sum()))
    tokens[prompt : prompt + 1] = keys + values
    return (tokens,)


def _recall_edges(keys: int, values: int) -> list[Inputs]:
    """All keys written twice and asked for; the end at once, and in the middle of a pair."""
    every_key = np.arange(keys)
    last, end = keys + values - 1, [keys + values]
    pairs = np.stack([every_key, np.full(keys, last)], axis=1).ravel()
    overwritten = np.stack([every_key, keys + every_key % values], axis=1).ravel()
    return [
        (np.concatenate([overwritten, pairs, end, every_key]),),
        (np.concatenate([pairs, overwritten, end, every_key[::-1], pairs]),),
        (np.concatenate([end, pairs]),),
        (np.concatenate([[0], end, [last], every_key]),),
    ]


def key_value_store(keys: int = 4, values: int = 4, max_length: int | None = None) -> Program:
    """What lies under a key, in a memory that is read and written by address.

    Input: a token each step: k from 0 to keys - 1 is a key, keys + v, for v from 0 to values - 1, a
    value, which is stored under the key right before it, over what was there, and not read after
    anything else. Output: 1 + v at a key under which the value v lies, 0 for nothing; 0 at values.

    Shows: multi-query associative recall (Arora et al. 2023) by `lsrl.memory`, which a matrix that
    is written by the delta rule holds in one state, whatever the number of keys.

    Args:
      keys: number of keys, at least 2.
      values: number of values, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Arora et al. (2023), "Zoology: Measuring and Improving Recall in Efficient Language
    Models".
    """
    cells, symbols = checks.integer("keys", keys, 2), checks.integer("values", values, 1)
    words, answers = _words(cells, symbols)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def key_value_store(
        token: Annotated[Signal, Token(cells + symbols, words)],
    ) -> Annotated[Signal, Token(symbols + 1, answers)]:
        key = lsrl.lookup(token, [*range(cells), *[0] * symbols])
        is_key = lsrl.lookup(token, [1] * cells + [0] * symbols)
        content = lsrl.lookup(token, [0] * cells + [*range(1, symbols + 1)])
        stores = lsrl.delay(is_key, 1) & ~is_key
        memory = lsrl.memory(lsrl.delay(key, 1), content, stores, cells=cells)
        return memory.read(key, when=is_key)

    return key_value_store


def key_value_store_reference(tokens: Sequence[int], keys: int) -> list[int]:
    """Fill a dictionary, and look up."""
    memory: dict[int, int] = {}
    before, answers = keys, []
    for token in tokens:
        if before < keys <= token:
            memory[before] = 1 + token - keys
        answers.append(memory.get(token, 0))
        before = token
    return answers


def _store_sample(rng: np.random.Generator, steps: int, keys: int, values: int) -> Inputs:
    """Few enough keys that most come back, and a value after every third token or so."""
    pool = rng.integers(keys, size=1 + steps // 4)
    tokens = rng.choice(pool, size=steps)
    stored = rng.random(steps) < 0.3
    return (np.where(stored, rng.integers(keys, keys + values, size=steps), tokens),)


def _store_edges(keys: int, values: int) -> list[Inputs]:
    """Every key written, then all asked for, and the last value under all of them."""
    every_key = np.arange(keys)
    pairs = np.stack([every_key, keys + every_key % values], axis=1).ravel()
    last = np.stack([every_key, np.full(keys, keys + values - 1)], axis=1).ravel()
    return [(np.concatenate([pairs, every_key]),), (np.concatenate([pairs, last, every_key]),)]


def induction_head(vocab: int = 4, max_length: int | None = None) -> Program:
    """What followed the last time.

    Input: a symbol a token. Output: the symbol that followed the last earlier occurrence of this
    token's symbol; 0 if it is new.

    Shows: the induction head of transformers, by a delay and one selective state a symbol.

    Args:
      vocab: number of symbols, at least 1.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.

    Source: Olsson et al. (2022), "In-Context Learning and Induction Heads".
    """
    symbols = checks.integer("vocab", vocab, 1)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def induction_head(
        token: Annotated[Signal, Token(symbols)],
    ) -> Annotated[Signal, Token(symbols)]:
        before = lsrl.delay(token.one_hot, 1)
        follower = lsrl.hold(token, before)
        # One symbol is the token's.
        return lsrl.bound(lsrl.select(token.one_hot, follower, 0).sum(), 0, symbols - 1)

    return induction_head


def induction_head_reference(tokens: Sequence[int]) -> list[int]:
    """Search backwards."""
    answers = []
    for now, token in enumerate(tokens):
        earlier = next((t for t in range(now - 1, -1, -1) if tokens[t] == token), None)
        answers.append(0 if earlier is None else tokens[earlier + 1])
    return answers


def function_table(arguments: int = 4, values: int = 4, max_length: int | None = None) -> Program:
    """A function told by its values, then applied.

    Input: `arguments` tokens f(0), f(1), …, each from 0 to values - 1; then arguments x, each from
    0 to arguments - 1. Output: 0 while the function is told; then f(x) at each x, and 0 at a token
    that is no argument.

    Shows: a map that lies in the state, one latch a value, and is read by a selection.

    Args:
      arguments: number of arguments, at least 1.
      values: number of values, at least 2.
      max_length: greatest number of tokens; None for any.

    Raises:
      ProgramError: a parameter out of range.
    """
    size, symbols = checks.integer("arguments", arguments, 1), checks.integer("values", values, 2)
    kinds = max(size, symbols)
    indicator = np.eye(kinds, size)

    @lsrl.program(max_length=checks.optional_length(max_length))
    def function_table(token: Annotated[Signal, Token(kinds)]) -> Annotated[Signal, Token(kinds)]:
        # The first `size` tokens by number: a pulse that runs along a line of delays.
        arrives = [1 - lsrl.delay(lsrl.constant(1), 1)]
        while len(arrives) < size:
            arrives.append(lsrl.delay(arrives[-1], 1))
        table = [lsrl.latch(token, pulse) for pulse in arrives]
        asked = lsrl.lookup(token, indicator) & lsrl.delay(lsrl.constant(1), size)
        # One argument is asked for.
        value = lsrl.select(asked, lsrl.concat(*table), 0)
        return lsrl.bound(value.sum(), 0, kinds - 1)

    return function_table


def function_table_reference(tokens: Sequence[int], arguments: int) -> list[int]:
    """Cut the table off, and index it."""
    table = tokens[:arguments]
    questions = tokens[arguments:]
    return [0] * len(table) + [table[x] if x < arguments else 0 for x in questions]


def nearest_lookup(levels: int = 6, values: int = 4, max_length: int = 1000) -> Program:
    """The value whose key is nearest to the query.

    Input: two tokens each step, a key from 0 to levels - 1 and a value from 0 to values - 1. The
    first key is the query, and its value is not read; then come pairs. Output: 0 at the query; then
    the value of the pair whose key is nearest to the query, the first one of those that are equally
    near.

    Shows: a soft match by linear states, which count the distances that were reached, and a hold.

    Args:
      levels: number of keys, at least 2.
      values: number of values, at least 1.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.
    """
    keys, symbols = checks.integer("levels", levels, 2), checks.integer("values", values, 1)
    distances = np.arange(keys)

    @lsrl.program(max_length=checks.max_length(max_length))
    def nearest_lookup(
        key: Annotated[Signal, Token(keys)], value: Annotated[Signal, Token(symbols)]
    ) -> Annotated[Signal, Token(symbols)]:
        past_query = lsrl.delay(lsrl.constant(1), 1)
        query = lsrl.latch(key, 1 - past_query)
        distance = lsrl.absolute(key - query)
        within = (distance <= distances) & past_query
        # Nearer than all before: within a distance that no earlier key was within.
        earlier = lsrl.delay(lsrl.cumsum(within), 1)
        nearer = (lsrl.relu(within - earlier)).sum() >= 1
        return lsrl.hold(value, nearer)

    return nearest_lookup


def nearest_lookup_reference(keys: Sequence[int], contents: Sequence[int]) -> list[int]:
    """Sort the pairs so far by their distance."""
    answers = [0]
    for end in range(2, len(keys) + 1):
        nearest = min(range(1, end), key=lambda place: (abs(keys[place] - keys[0]), place))
        answers.append(contents[nearest])
    return answers


ENTRIES = (
    Entry(
        associative_recall,
        associative_recall_reference,
        parameters=({}, {"keys": 1, "values": 1}, {"keys": 12, "values": 30, "max_length": 400}),
    ),
    Entry(
        recall_overwriting,
        recall_overwriting_reference,
        parameters=({}, {"keys": 1, "values": 1}, {"keys": 12, "values": 20, "max_length": 400}),
        sampler=_recall_sample,
        edges=_recall_edges,
    ),
    Entry(
        key_value_store,
        key_value_store_reference,
        parameters=({}, {"keys": 2, "values": 1}, {"keys": 40, "values": 20, "max_length": 400}),
        sampler=_store_sample,
        edges=_store_edges,
    ),
    Entry(
        induction_head,
        induction_head_reference,
        parameters=({}, {"vocab": 1}, {"vocab": 16, "max_length": 400}),
    ),
    Entry(function_table, function_table_reference, parameters=({}, {"arguments": 1, "values": 3})),
    Entry(
        nearest_lookup,
        nearest_lookup_reference,
        parameters=({"max_length": 64}, {"levels": 2, "values": 1}),
    ),
)
