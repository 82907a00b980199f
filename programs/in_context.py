"""Universal in-context approximators: programs that carry out whatever map their prompt tells."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs

Word = Sequence[int]
Pair = tuple[Word, Word]  # key, value


def rotation(size: int) -> Any:
    """The matrix of a ring, (size, size): channel k + 1 takes channel k, and channel 0 the last.

    Returns:
      scipy.sparse.csr_array.
    """
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
    """
    size, symbols = checks.integer("length", length, 1), checks.integer("vocab", vocab, 2)
    pairs = checks.integer("max_pairs", max_pairs, 1)
    both = checks.flag("with_found", with_found)
    if checks.flag("prompt_first", prompt_first):
        return _tok2tok_prompt_first(size, symbols, pairs, both)
    return _tok2tok_query_first("tok2tok", size, Token(symbols), pairs, both)


def _tok2tok_output(symbol: Token, with_found: bool) -> Token | Vector:
    return Vector(2, low=0, high=(symbol.size - 1, 1), step=1) if with_found else symbol


def _tok2tok_query_first(
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

    Returns:
      The query and the pairs, as lists of ints, for `tok2tok_prompt`.
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


def vec2vec(
    in_dim: int = 1,
    out_dim: int = 1,
    cells: int = 4,
    low: float = 0.0,
    high: float = 1.0,
    value_bound: float = 3.0,
    ramp: float | None = None,
) -> Program:
    """Any continuous function on a cube, told by its prompt: look x up among the cells of a grid.

    Input: vectors of 1 + in_dim + out_dim numbers. Token 0: [x, 0, …, 0]. Then one token a cell,
    in product order, the last dimension fastest: [the cell's width (high − low)/cells, its lower
    corner (in_dim), the function's value (out_dim)]. Output: 0 until the cell that holds x has
    been read, then its value. Cells are half-open, [lower, upper), the last ones closed. An x
    within `ramp` below an edge is not legal, except that x = high belongs to the last cell: it may
    lie in the ramp of a comparison, and then breaks a promise of the prompt.

    Shows: universal in-context approximation of continuous functions (Petrov et al. 2024), to any
    accuracy as the cells get smaller.

    Args:
      in_dim: entries of x, at least 1.
      out_dim: entries of a value, at least 1.
      cells: cells along each dimension, at least 1.
      low: least entry of x.
      high: greatest entry of x.
      value_bound: greatest absolute value of the function.
      ramp: width of the zone below each edge that x stays out of; 2^-16·(high − low) by default.

    Raises:
      ProgramError: a parameter out of range, or a ramp too wide for the cells.
    """
    inputs, outputs = checks.integer("in_dim", in_dim, 1), checks.integer("out_dim", out_dim, 1)
    count = checks.integer("cells", cells, 1)
    least = checks.number("low", low)
    most = checks.number("high", high, above=least)
    bound = checks.number("value_bound", value_bound, above=0)
    zone = 2.0**-16 * (most - least) if ramp is None else checks.number("ramp", ramp, above=0)
    width = (most - least) / count
    if zone > width / 8:
        raise ProgramError(
            f"ramp: expected at most an eighth of a cell, {width / 8:g}, got {zone:g}; "
            "narrow the ramp or take fewer cells"
        )
    # Channel 0 holds the first entry of x or the width, the last channel of the corner the last
    # entry of the corner or 0, and those between entries of both.
    lows = [min(least, width), *[least] * (inputs - 1), min(least, 0.0), *[-bound] * outputs]
    highs = [max(most, width), *[most] * (inputs - 1), max(most, 0.0), *[bound] * outputs]

    @lsrl.program(max_length=1 + count**inputs)
    def vec2vec(
        cell: Annotated[Signal, Vector(1 + inputs + outputs, low=lows, high=highs)],
    ) -> Annotated[Signal, Vector(outputs, low=-bound, high=bound)]:
        is_first = 1 - lsrl.delay(lsrl.constant(1), 1)
        # At its upper end x would miss the last cell, so it is moved below, past the ramp there.
        x = lsrl.minimum(lsrl.latch(cell[:inputs], is_first), most - 2 * zone)
        lower = cell[1 : 1 + inputs]
        upper = lower + cell[0]
        # Ramps of half the zone leave room for rounding at both of its ends.
        reaches_lower = lsrl.greater_equal(x, lower, ramp=zone / 2)
        misses_upper = 1 - lsrl.greater_equal(x, upper, ramp=zone / 2)
        in_cell = lsrl.relu(reaches_lower.sum() + misses_upper.sum() - is_first - (2 * inputs - 1))
        return lsrl.latch(cell[1 + inputs :], in_cell, keeper="prompt")

    return vec2vec


def vec2vec_reference(
    rows: Sequence[Sequence[float]],
    in_dim: int,
    out_dim: int,
    cells: int,
    low: float,
    high: float,
    ramp: float | None,
) -> list[tuple[float, ...]]:
    """Number the cell that holds x, and wait for it."""
    width = (high - low) / cells
    # Half a zone is far more than what rounding can do to an edge.
    slack = (2.0**-16 * (high - low) if ramp is None else ramp) / 2
    wanted = 0
    for entry in rows[0][:in_dim]:
        number = max(k for k in range(cells) if k == 0 or entry >= low + k * width - slack)
        wanted = wanted * cells + number
    answer = (0.0,) * out_dim
    answers = [answer]
    for number, row in enumerate(rows[1:]):
        if number == wanted:
            answer = tuple(row[1 + in_dim :])
        answers.append(answer)
    return answers


def vec2vec_prompt(
    function: Callable[[Array], Any] | Mapping[Any, Any],
    x: Any,
    in_dim: int = 1,
    out_dim: int = 1,
    cells: int = 4,
    low: float = 0.0,
    high: float = 1.0,
) -> Array:
    """The input of `vec2vec` for a function and an x.

    Args:
      function: from a cell's centre, (in_dim,), to out_dim numbers; or a dictionary from a cell's
        index along each dimension, a tuple of ints (an int for one dimension), to out_dim numbers,
        0 where a cell is missing.
      x: in_dim numbers from low to high.
      in_dim: entries of x.
      out_dim: entries of a value.
      cells: cells along each dimension.
      low: least entry of x.
      high: greatest entry of x.

    Returns:
      float64 (1 + cells^in_dim, 1 + in_dim + out_dim).

    Raises:
      ProgramError: an x or a value of another size, or keys of the dictionary that are no cells.
    """
    indices = list(itertools.product(range(cells), repeat=in_dim))
    width = (high - low) / cells
    rows = np.zeros((1 + len(indices), 1 + in_dim + out_dim))
    rows[0, :in_dim] = _sized("x", x, in_dim)
    rows[1:, 0] = width
    rows[1:, 1 : 1 + in_dim] = low + width * np.array(indices)
    rows[1:, 1 + in_dim :] = [
        _sized(f"the value of cell {index}", value, out_dim)
        for index, value in zip(
            indices, _values(function, indices, low, width, out_dim), strict=True
        )
    ]
    return rows


def _values(
    function: Callable[[Array], Any] | Mapping[Any, Any],
    indices: list[tuple[int, ...]],
    low: float,
    width: float,
    out_dim: int,
) -> list[Any]:
    """The function's value in each cell."""
    if not isinstance(function, Mapping):
        return [function(low + width * (np.array(index) + 0.5)) for index in indices]
    table = {key if isinstance(key, tuple) else (key,): value for key, value in function.items()}
    unknown = set(table) - set(indices)
    if unknown:
        raise ProgramError(
            f"vec2vec_prompt: expected keys from {indices[0]} to {indices[-1]}, one index a "
            f"dimension, got {sorted(unknown, key=repr)[0]}"
        )
    return [table.get(index, np.zeros(out_dim)) for index in indices]


def _sized(what: str, value: Any, size: int) -> Array:
    array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if array.shape != (size,):
        raise ProgramError(
            f"vec2vec_prompt: expected {size} number(s) for {what}, got shape {array.shape}"
        )
    return array


def _vec2vec_sample(
    rng: np.random.Generator,
    steps: int,
    in_dim: int,
    out_dim: int,
    cells: int,
    low: float,
    high: float,
    value_bound: float,
    ramp: float | None,
) -> Inputs:
    """A random function; x anywhere outside the unspecified zones, on edges now and then."""
    width = (high - low) / cells
    zone = 2.0**-16 * (high - low) if ramp is None else ramp
    lower = low + width * rng.integers(cells, size=in_dim)
    inside = np.where(rng.random(in_dim) < 0.3, 0.0, rng.uniform(0, width - 2 * zone, size=in_dim))
    x = np.where(rng.random(in_dim) < 0.1, high, lower + inside)
    values = rng.uniform(-value_bound, value_bound, size=(cells,) * in_dim + (out_dim,))
    table = {index: values[index] for index in np.ndindex(values.shape[:-1])}
    return (vec2vec_prompt(table, x, in_dim, out_dim, cells, low, high)[:steps],)


def _vec2vec_edges(
    in_dim: int, out_dim: int, cells: int, low: float, high: float, value_bound: float
) -> list[Inputs]:
    """Both ends and every edge as x, with values at the ends of their range."""
    width = (high - low) / cells
    values = itertools.cycle([value_bound, -value_bound, 0.0])
    table = {
        index: [next(values) for _ in range(out_dim)]
        for index in itertools.product(range(cells), repeat=in_dim)
    }
    corners = [low + width * edge for edge in range(cells)] + [high]
    return [
        (vec2vec_prompt(table, [corner] * in_dim, in_dim, out_dim, cells, low, high),)
        for corner in corners
    ]


# Letters are 1 … 26, and 0 fills a word up to the length of all.
WORD_LENGTH = 10
ALPHABET = "_abcdefghijklmnopqrstuvwxyz"

CAPITALS = (
    ("albania", "tirana"),
    ("austria", "vienna"),
    ("belgium", "brussels"),
    ("bulgaria", "sofia"),
    ("croatia", "zagreb"),
    ("cyprus", "nicosia"),
    ("denmark", "copenhagen"),
    ("estonia", "tallinn"),
    ("finland", "helsinki"),
    ("france", "paris"),
    ("germany", "berlin"),
    ("greece", "athens"),
    ("hungary", "budapest"),
    ("iceland", "reykjavik"),
    ("ireland", "dublin"),
    ("italy", "rome"),
    ("latvia", "riga"),
    ("lithuania", "vilnius"),
    ("malta", "valletta"),
    ("norway", "oslo"),
    ("poland", "warsaw"),
    ("portugal", "lisbon"),
    ("romania", "bucharest"),
    ("spain", "madrid"),
    ("sweden", "stockholm"),
)


def country_capital(max_pairs: int = len(CAPITALS)) -> Program:
    """The capital of a country, looked up in a prompt of countries and capitals.

    Input: a letter a token, 0 for filling and 1 … 26 for a … z, in words of 10: the country asked
    for, then up to `max_pairs` pairs of a country and its capital. Output: as `tok2tok`; after
    whole pairs the last 10 outputs spell the capital.

    Shows: the demonstration of Petrov et al. (2024): a dictionary of words that the network never
    saw, used from its prompt.

    Args:
      max_pairs: greatest number of pairs.

    Raises:
      ProgramError: max_pairs is not a positive int.
    """
    pairs = checks.integer("max_pairs", max_pairs, 1)
    letter = Token(len(ALPHABET), ALPHABET)
    return _tok2tok_query_first("country_capital", WORD_LENGTH, letter, pairs, False)


def country_capital_reference(tokens: Sequence[int], max_pairs: int) -> list[tuple[int, ...]]:
    """Search the words, as for `tok2tok`."""
    return tok2tok_reference(tokens, WORD_LENGTH, max_pairs, prompt_first=False, with_found=False)


def encode_word(word: str) -> list[int]:
    """The letters of a word as symbols, filled up with zeros: (WORD_LENGTH,) ints.

    Raises:
      ProgramError: a word that is too long, or with other letters than a … z.
    """
    letters = word.lower()
    if not letters or len(letters) > WORD_LENGTH or set(letters) - set(ALPHABET[1:]):
        raise ProgramError(
            f"expected a word of 1 to {WORD_LENGTH} letters from a to z, got {word!r}"
        )
    return [ALPHABET.index(letter) for letter in letters.ljust(WORD_LENGTH, ALPHABET[0])]


def decode_word(symbols: Sequence[Any] | Array) -> str:
    """The word that some symbols spell: ints, or the outputs (WORD_LENGTH, 1) of the program."""
    letters = [ALPHABET[int(symbol)] for symbol in np.ravel(symbols)]
    return "".join(letters).rstrip(ALPHABET[0])


def country_capital_prompt(country: str, pairs: Sequence[tuple[str, str]] = CAPITALS) -> Array:
    """The input of `country_capital` that asks for a country's capital.

    Args:
      country: the word to look up.
      pairs: the dictionary.

    Returns:
      Ints (time,); `decode_word` of the last WORD_LENGTH outputs is the answer, "" if it is absent.

    Raises:
      ProgramError: a word that can't be encoded.
    """
    encoded: list[Pair] = [(encode_word(key), encode_word(value)) for key, value in pairs]
    return tok2tok_prompt(encode_word(country), encoded)


def _country_capital_sample(rng: np.random.Generator, steps: int, max_pairs: int) -> Inputs:
    """Some of the real pairs in a new order; one time in five another country is asked for."""
    order = rng.permutation(len(CAPITALS))
    num_pairs = min(max_pairs, len(CAPITALS), -(-max(0, steps - WORD_LENGTH) // (2 * WORD_LENGTH)))
    pairs = [CAPITALS[index] for index in order[:num_pairs]]
    present = bool(pairs) and rng.random() < 0.8
    country = pairs[int(rng.integers(len(pairs)))][0] if present else CAPITALS[order[-1]][0]
    return (country_capital_prompt(country, pairs)[:steps],)


def _country_capital_edges(max_pairs: int) -> list[Inputs]:
    """The first and the last pair of a full dictionary, and a country that has none."""
    pairs = CAPITALS[:max_pairs]
    countries = [pairs[0][0], pairs[-1][0], "atlantis"]
    return [(country_capital_prompt(country, pairs),) for country in countries]


ENTRIES = (
    Entry(
        "tok2tok",
        "in context",
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
    Entry(
        "vec2vec",
        "in context",
        vec2vec,
        vec2vec_reference,
        parameters=(
            {},
            {"in_dim": 2, "out_dim": 2, "cells": 5},
            {"in_dim": 3, "out_dim": 2, "cells": 4},
            {"cells": 10},
            {"cells": 3, "low": -2.0, "high": -0.5, "value_bound": 1.0, "ramp": 2.0**-6},
        ),
        sampler=_vec2vec_sample,
        edges=_vec2vec_edges,
        free=False,
    ),
    Entry(
        "country_capital",
        "in context",
        country_capital,
        country_capital_reference,
        parameters=({"max_pairs": 4}, {}),
        sampler=_country_capital_sample,
        edges=_country_capital_edges,
    ),
)
