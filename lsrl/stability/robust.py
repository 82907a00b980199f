"""tok2tok written for noise: every decision stands in the middle between the values that occur.

The library's tok2tok reads "the last keys did not differ" off relu(1 - mismatches), which is exact
without noise but passes every error of its sums on, tenfold where it shuts out a symbol. A ramp of
slope 2 in the middle, from 1/4 to 3/4, gives 0 or 1 as long as its input is off by less than 1/4.
What lies in the past is told by delays, not by counters, whose errors grow with the counts. Depth
and width are no greater than the library's.
"""

from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Token
from lsrl.programs.in_context import rotation


def tok2tok(length: int = 3, vocab: int = 10, max_pairs: int = 20) -> Program:
    """What `lsrl.programs.tok2tok` computes, by thresholds with a margin.

    Args:
      length: symbols a word.
      vocab: number of symbols.
      max_pairs: greatest number of pairs.
    """
    greatest = vocab - 1
    entrance = np.eye(length, 1)
    key_end = np.arange(2 * length) == 2 * length - 1

    @lsrl.program(name="robust_tok2tok", max_length=length * (1 + 2 * max_pairs))
    def tok2tok(token: Annotated[Signal, Token(vocab)]) -> Signal:
        past_query = lsrl.delay(lsrl.constant(1), length)
        query_symbol = lsrl.relu(token - greatest * past_query)
        query_ring = lsrl.linear_state(entrance @ query_symbol, rotation(length))
        query = lsrl.bound(query_ring[0], 0, greatest)
        difference = lsrl.relu(token - query) + lsrl.relu(query - token)
        mismatches = lsrl.window_sum(difference, length)
        match = step(lsrl.periodic(key_end) - mismatches)
        found = step(lsrl.cumsum(match))
        outside_value = 1 - lsrl.delay(found, 1) + lsrl.delay(found, length + 1)
        value_symbol = lsrl.relu(token - greatest * outside_value)
        value_ring = lsrl.linear_state(entrance @ value_symbol, rotation(length))
        return lsrl.bound(value_ring[0], 0, greatest)

    return tok2tok


def step(x: Signal) -> Signal:
    """1 for whole numbers from 1 on, 0 for those below, with a margin of 1/4 on either side.

    relu(2 x - 1/2) - relu(2 x - 3/2).
    """
    return lsrl.bound(lsrl.relu(2 * x - 0.5) - lsrl.relu(2 * x - 1.5), 0, 1)
