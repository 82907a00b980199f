"""Words of letters in a prompt: the demonstration of Petrov et al. (2024)."""

from collections.abc import Sequence

import numpy as np

from lsrl import Program, Token
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs
from lsrl.programs.in_context import Pair, tok2tok_prompt, tok2tok_query_first, tok2tok_reference

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

    Source: Petrov et al. (2024), arXiv 2406.01424.
    """
    pairs = checks.integer("max_pairs", max_pairs, 1)
    letter = Token(len(ALPHABET), ALPHABET)
    return tok2tok_query_first("country_capital", WORD_LENGTH, letter, pairs, False)


def country_capital_reference(tokens: Sequence[int], max_pairs: int) -> list[tuple[int, ...]]:
    """Search the words, as for `tok2tok`."""
    return tok2tok_reference(tokens, WORD_LENGTH, max_pairs, prompt_first=False, with_found=False)


def encode_word(word: str) -> list[int]:
    """The letters of a word as symbols, filled up with zeros: (WORD_LENGTH,) ints.

    Args:
      word: 1 to WORD_LENGTH letters from a to z; capitals count as small ones.

    Raises:
      ProgramError: a word that is too long, or with other letters than a … z.

    Example:
      print(lsrl.programs.encode_word("rome"))
    """
    letters = word.lower()
    if not letters or len(letters) > WORD_LENGTH or set(letters) - set(ALPHABET[1:]):
        raise ProgramError(
            f"expected a word of 1 to {WORD_LENGTH} letters from a to z, got {word!r}"
        )
    return [ALPHABET.index(letter) for letter in letters.ljust(WORD_LENGTH, ALPHABET[0])]


def decode_word(symbols: Sequence[int] | Array) -> str:
    """The word that some symbols spell: ints, or the outputs (WORD_LENGTH, 1) of the program.

    Args:
      symbols: ints, 0 for no letter.

    Example:
      print(lsrl.programs.decode_word(lsrl.programs.encode_word("rome")))
    """
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

    Example:
      prompt = lsrl.programs.country_capital_prompt("france")
      print(len(prompt) == 10 * (1 + 2 * len(lsrl.programs.CAPITALS)))
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
        country_capital,
        country_capital_reference,
        parameters=({"max_pairs": 4}, {}),
        sampler=_country_capital_sample,
        edges=_country_capital_edges,
    ),
)
