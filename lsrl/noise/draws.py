"""Random numbers that are worked out from what they are for, and not one after another.

The number of an entry follows from the seed, the array's name and the entry's place alone, so any
of them are drawn by themselves, in any order, and those of thousands of copies at once. It is
SplitMix64 (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators", figure 17),
read at any place: a hash of a key and a counter.
"""

import hashlib
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lsrl.ir.numbers import Array

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_ONE, _HALF, _LOW = np.uint64(1), np.uint64(32), np.uint64(2**32 - 1)


def normals(seeds: Sequence[int], name: str, places: NDArray[np.int64]) -> Array:
    """Standard normal numbers.

    Args:
      seeds: any whole numbers from 0 on.
      name: what the numbers are for.
      places: (count,) which of them, from 0 on.

    Returns:
      (seeds, count), float64. Each has 32 random bits, so none is beyond 6.4.
    """
    known, order = _words(tuple(seeds))
    key = _mixed(known + np.uint64(zlib.crc32(name.encode())))
    count = places.astype(np.uint64)
    # Two numbers of a word: its halves.
    words = _mixed(key[:, None] + _GAMMA * ((count >> _ONE) + _ONE))
    halves = (words >> (_HALF * (count & _ONE))) & _LOW
    drawn = ndtri((halves + 0.5) * 2.0**-32)
    return np.asarray(drawn[order] if len(known) < len(seeds) else drawn)


@lru_cache(maxsize=64)
def _words(seeds: tuple[int, ...]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """A word for each seed that is another one, in the order of the seeds, and which is whose."""
    known = {seed: number for number, seed in enumerate(dict.fromkeys(map(int, seeds)))}
    words = [seed if seed < 2**64 else _hashed(seed) for seed in known]
    order = np.array([known[seed] for seed in map(int, seeds)], np.intp)
    return _mixed(np.array(words, np.uint64)), order


def _hashed(seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest())


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of the words that makes all bits depend on all bits."""
    words = (words ^ (words >> _SHIFTS[0])) * _FACTORS[0]
    words = (words ^ (words >> _SHIFTS[1])) * _FACTORS[1]
    return np.asarray(words ^ (words >> _SHIFTS[2]))
