"""Which programs of the suite share a network in the variant `merged`.

Two programs can share one if they read the same inputs and every input is legal for both. From a
seed, such programs are put in pairs, none in two, and a few pairs are kept: on every target they
are some 60 networks.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import cache

import numpy as np

from lsrl.suite.programs import SuiteProgram, programs

PAIRS = 8


@cache
def partners(seed: int, pairs: int = PAIRS) -> Mapping[str, SuiteProgram]:
    """Draw pairs of programs; equal seeds give equal pairs, whatever part of the suite is built.

    The first of a pair holds no more tokens than the second, so its dataset fits the two.

    Args:
      seed: of the build.
      pairs: how many, at most.

    Returns:
      The second program of each pair by the name of the first.
    """
    alike: dict[tuple[object, ...], list[tuple[int, SuiteProgram]]] = defaultdict(list)
    for task in programs():
        program = task.program()
        if task.free and program.max_length is not None:
            alike[tuple(program.inputs.values())].append((program.max_length, task))
    rng = np.random.default_rng(seed)
    found = []
    for group in alike.values():
        drawn = [group[k] for k in rng.permutation(len(group))]
        found += [
            sorted(pair, key=lambda each: each[0])
            for pair in zip(drawn[::2], drawn[1::2], strict=False)
        ]
    kept = sorted(rng.permutation(len(found))[:pairs])
    return {found[k][0][1].name: found[k][1][1] for k in kept}
