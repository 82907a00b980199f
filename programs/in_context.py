"""A universal in-context approximator: carry out whatever map between words the prompt tells."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Word = Sequence[int]
Pair = tuple[Word, Word]  # key, value


def rotation(size: int) -> "csr_array":
    """The matrix of a ring, (size, size): channel k + 1 takes channel k, and channel 0 the last."""
    from scipy.sparse import csr_array

    rows = np.arange(size)
    return csr_array((np.ones(size), (rows, (rows - 1) % size)), shape=(size, size))


def tok2tok(
    length: int = 3,
    vocab: int = 10,
    max_pairs: int = 20,
    prompt_first: bool = False,
    with_found: bool = False,
) -> Program:
    """Any map from words to words, told by its prompt: look the query up in a list of pairs.

    Input: a symbol a token: the query (`length` tokens), then up to `max_pairs` pairs of a key and
    a value (`length` tokens each). Output: 0 until a key equal to the query has been read; from
    the first token of its value on, at time t the value's symbol at position t mod length. Within
    the value that is the token just read, so after whole pairs the last `length` outputs are the
    answer. The first of several equal keys wins. Every prefix is legal; without the key the output
    stays 0.

    With `prompt_first`: exactly `max_pairs` pairs, then the query, then up to `length` further
    tokens, which are not read. Output: 0 until the query is complete, then the value's symbols, one
    at each further token.

    Shows: universal in-context approximation of maps between words by a linear RNN (Petrov et al.
    2024), whose state is as large as the query, or as the dictionary if that comes first.

    Args:
      length: symbols a word, at least 1.
      vocab: number of symbols, at least 2.
      max_pairs: greatest number of pairs, or the exact number with `prompt_first`.
      prompt_first: whether the pairs come before the query.
      with_found: add a second output, 1 from the last token of the matching key on (of the query,
        with `prompt_first`), so that an absent key differs from a value of zeros; the output is
        then a vector.

    Raises:
      ProgramError: a parameter out of range.

    Source: Petrov et al. (2024), arXiv 2406.01424, listing 1.
    """
    size, symbols = checks.integer("length", length, 1), checks.integer("vocab", vocab, 2)
    pairs = checks.integer("max_pairs", max_pairs, 1)
    both = checks.flag("with_found", with_found)
    if checks.flag("prompt_first", prompt_first):
        return _tok2tok_prompt_first(size, symbols, pairs, both)
    return tok2tok_query_first("tok2tok", size, Token(symbols), pairs, both)


def _tok2tok_output(symbol: Token, with_found: bool) -> Token | Vector:
    return Vector(2, low=0, high=(symbol.size - 1, 1), step=1) if with_found else symbol


def tok2tok_query_first(
    name: str, length: int, symbol: Token, max_pairs: int, with_found: bool
) -> Program:
    """Keep the query on a ring, compare it with each key that passes, keep the value on a ring."""
    output = _tok2tok_output(symbol, with_found)
    greatest = symbol.size - 1  # what has to be taken off a symbol to shut it out by a ReLU
    entrance = np.eye(length, 1)  # a ring is entered, and read, at channel 0
    key_end = np.arange(2 * length) == 2 * length - 1  # the last token of every key

    @lsrl.program(name=name, max_length=length * (1 + 2 * max_pairs))
    def tok2tok(token: Annotated[Signal, symbol]) -> Annotated[Signal, output]:
        # The query turns on a ring, so its symbol at position t mod length is at hand at time t.
        past_query = lsrl.delay(lsrl.constant(1), length)
        query_symbol = lsrl.relu(token - greatest * past_query)
        query_ring = lsrl.linear_state(entrance @ query_symbol, rotation(length))
        query = lsrl.bound(query_ring[0], 0, greatest)

        # A key matches if none of the last `length` tokens differed from the query.
        difference = lsrl.relu(token - query) + lsrl.relu(query - token)
        mismatches = lsrl.window_sum(difference, length)
        match = lsrl.periodic(key_end) - mismatches >= 1
        found = lsrl.cumsum(match) >= 1

        # 1 at the last token of the first matching key, 2 … length + 1 in its value, then more.
        since_match = lsrl.cumsum(found)
        outside_value = lsrl.relu(2 - since_match) + lsrl.relu(since_match - (length + 1))
        value_symbol = lsrl.relu(token - greatest * outside_value)
        value_ring = lsrl.linear_state(entrance @ value_symbol, rotation(length))
        value = lsrl.bound(value_ring[0], 0, greatest)
        return lsrl.concat(value, found) if with_found else value

    return tok2tok


def _tok2tok_prompt_first(length: int, vocab: int, max_pairs: int, with_found: bool) -> Program:
    """Keep the dictionary in a delay line; at the query, each key lies a multiple of 2·length back.

    When the query comes, the key of each pair lies just as far back as, later, its value does from
    the token that has to say it.
    """
    output = _tok2tok_output(Token(vocab), with_found)
    greatest = vocab - 1
    query_end = 2 * length * max_pairs + length - 1  # the last token of the query
    # The pairs from the last to the first; row m collects all pairs before pair m.
    before = np.triu(np.ones((max_pairs, max_pairs)), k=1)

    @lsrl.program(max_length=2 * length * (1 + max_pairs))
    def tok2tok(token: Annotated[Signal, Token(vocab)]) -> Annotated[Signal, output]:
        earlier = [lsrl.delay(token, 2 * length)]
        while len(earlier) < max_pairs:
            earlier.append(lsrl.delay(earlier[-1], 2 * length))
        remembered = lsrl.concat(*earlier)

        # A pair matches if the last `length` tokens equal those that lie so far back.
        difference = lsrl.relu(token - remembered) + lsrl.relu(remembered - token)
        mismatches = lsrl.window_sum(difference, length)
        from_end = lsrl.position() - query_end
        elsewhere = lsrl.relu(from_end) + lsrl.relu(-from_end)
        match = lsrl.relu(1 - elsewhere - mismatches)
        matched = lsrl.cumsum(match)
        chosen = lsrl.relu(matched - before @ matched)
        speaking = lsrl.delay(chosen, 1)

        # At most one pair is chosen.
        said = lsrl.relu(remembered - greatest * (1 - speaking))
        value = lsrl.bound(said.sum(), 0, greatest)
        if not with_found:
            return value
        found = lsrl.bound(chosen.sum(), 0, 1)
        return lsrl.concat(value, found)

    return tok2tok


def tok2tok_reference(
    tokens: Sequence[int], length: int, max_pairs: int, prompt_first: bool, with_found: bool
) -> list[tuple[int, ...]]:
    """Split the prompt into words and search the keys one by one."""
    words = [tuple(tokens[i : i + length]) for i in range(0, len(tokens), length)]
    if prompt_first:
        keys, last = words[0 : 2 * max_pairs : 2], 2 * max_pairs
        query = words[last] if len(words) > last else ()
        found_at = (last + 1) * length - 1
    else:
        query, keys = words[0], words[1::2]
    found = [number for number, key in enumerate(keys) if key == query and len(key) == length]
    if not found:
        return [(0, 0) if with_found else (0,)] * len(tokens)
    if prompt_first:
        value_at = 2 * length * found[0] + length
    else:
        value_at = 2 * length * (found[0] + 1)
        found_at = value_at - 1
    answers: list[tuple[int, ...]] = []
    for now in range(len(tokens)):
        value = tokens[value_at + now % length] if now > found_at else 0
        answers.append((value, int(now >= found_at)) if with_found else (value,))
    return answers


def tok2tok_prompt(query: Word, pairs: Sequence[Pair], prompt_first: bool = False) -> Array:
    """The input of `tok2tok` for a query and a dictionary.

    Args:
      query: (length,) symbols.
      pairs: key and value, (length,) each; with `prompt_first` exactly as many as the program has.
      prompt_first: put the pairs first, and after the query `length` zeros, at which the answer
        comes.

    Returns:
      Ints (time,): the last `length` outputs are the answer.

    Raises:
      ProgramError: words of different lengths, or an empty query.

    Example:
      tokens = lsrl.programs.tok2tok_prompt([1, 2], [([3, 3], [0, 1]), ([1, 2], [2, 0])])
      program = lsrl.programs.tok2tok(2, vocab=4, max_pairs=2)
      print(tokens, program.run(tokens)[-2:, 0])
    """
    lengths = {len(word) for word in itertools.chain([query], *pairs)}
    if len(lengths) != 1 or 0 in lengths:
        raise ProgramError(
            f"tok2tok_prompt: expected words of one length, at least 1, got {sorted(lengths)}; "
            "pad the shorter ones"
        )
    dictionary = [symbol for word in itertools.chain(*pairs) for symbol in word]
    if prompt_first:
        return np.array([*dictionary, *query, *[0] * len(query)], dtype=np.int64)
    return np.array([*query, *dictionary], dtype=np.int64)


def random_dictionary(
    rng: np.random.Generator, length: int, vocab: int, num_pairs: int
) -> tuple[Word, list[Pair]]:
    """A random query with a dictionary that is hard to tell from a wrong one.

    The query is absent one time in five, else the key of one or several pairs; most other keys
    differ from it in one symbol.

    Args:
      rng: what it is drawn with.
      length: symbols of a word.
      vocab: symbols that there are.
      num_pairs: of keys and values.

    Returns:
      The query and the pairs, as lists of ints, for `tok2tok_prompt`.

    Example:
      rng = np.random.default_rng(0)
      query, pairs = lsrl.programs.random_dictionary(rng, length=2, vocab=4, num_pairs=3)
      print(len(query), len(pairs))
    """
    query = rng.integers(vocab, size=length)
    keys = np.tile(query, (num_pairs, 1))
    for key in keys:
        if rng.random() < 0.7:
            place = rng.integers(length)
            key[place] = (key[place] + rng.integers(1, vocab)) % vocab
        else:
            key[:] = rng.integers(vocab, size=length)
    if num_pairs and rng.random() < 0.8:
        copies = 1 if rng.random() < 0.6 else int(rng.integers(1, num_pairs + 1))
        keys[rng.choice(num_pairs, size=copies, replace=False)] = query
    values = rng.integers(vocab, size=(num_pairs, length))
    return query.tolist(), list(zip(keys.tolist(), values.tolist(), strict=True))


def _tok2tok_sample(
    rng: np.random.Generator,
    steps: int,
    length: int,
    vocab: int,
    max_pairs: int,
    prompt_first: bool,
) -> Inputs:
    """A prompt of at most `steps` tokens; whole if it may be as long as the program allows."""
    if prompt_first:
        query, pairs = random_dictionary(rng, length, vocab, max_pairs)
        prompt = tok2tok_prompt(query, pairs, prompt_first=True)
        prompt[-length:] = rng.integers(vocab, size=length)
    else:
        num_pairs = min(max_pairs, -(-max(0, steps - length) // (2 * length)))
        prompt = tok2tok_prompt(*random_dictionary(rng, length, vocab, num_pairs))
    return (prompt[:steps],)


def _tok2tok_edges(length: int, vocab: int, max_pairs: int, prompt_first: bool) -> list[Inputs]:
    """Full dictionaries: first, last, every and no key equal to the query; and no pair at all."""
    rng = np.random.default_rng(0)
    least, greatest = [0] * length, [vocab - 1] * length
    answer = rng.integers(vocab, size=length).tolist()
    others = [(least, greatest)] * (max_pairs - 1)
    dictionaries: list[tuple[Word, list[Pair]]] = [
        (greatest, [(greatest, answer), *others]),
        (greatest, [*others, (greatest, answer)]),
        (greatest, [(greatest, greatest)] * max_pairs),
        (least, [(least, answer), *others]),
        (greatest, [(least, greatest)] * max_pairs),
        (answer, [([*answer[:-1], (answer[-1] + 1) % vocab], answer)] * max_pairs),
    ]
    prompts = [tok2tok_prompt(*dictionary, prompt_first) for dictionary in dictionaries]
    prompts[-1][-length:] = vocab - 1
    if not prompt_first:
        prompts += [tok2tok_prompt(greatest, []), tok2tok_prompt(least, [])]
    return [(prompt,) for prompt in prompts]


ENTRIES = (
    Entry(
        tok2tok,
        tok2tok_reference,
        parameters=(
            {},
            {"length": 1, "max_pairs": 5},
            {"length": 2, "vocab": 2, "max_pairs": 1},
            {"length": 4, "max_pairs": 6, "with_found": True},
            {"length": 12, "vocab": 30, "max_pairs": 5},
            {"max_pairs": 4, "prompt_first": True},
            {"length": 1, "vocab": 3, "max_pairs": 3, "prompt_first": True, "with_found": True},
        ),
        sampler=_tok2tok_sample,
        edges=_tok2tok_edges,
    ),
)
