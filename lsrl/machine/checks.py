"""What is asked of a machine: how far it goes, with which keys, from where on."""

from collections.abc import Collection

import numpy as np

from lsrl.arguments import count, shown
from lsrl.errors import InputError

# That the addresses of a word of 20 bits tell apart, the widest one.
MOST_CELLS = 2**20


def check_going(steps: object, stdin: object, stop: object) -> None:
    """Refuse what no machine can do.

    Args:
      steps: how many instructions at most, an int from 0 on.
      stdin: keys, as bytes.
      stop: addresses, ints.

    Raises:
      InputError: one of them is something else.
    """
    count("steps", steps, 0)
    if not isinstance(stdin, bytes | bytearray):
        raise InputError(f"stdin must be bytes, such as b'42', got {shown(stdin)}")
    places = stop if isinstance(stop, Collection) and not isinstance(stop, str | bytes) else [None]
    if not all(isinstance(place, int | np.integer) for place in places):
        raise InputError(
            f"stop must be addresses, such as {{image.address('loop')}}, got {shown(stop)}"
        )


def check_start(start: object, places: int) -> int:
    """Where the first instruction stands, out of so many places."""
    return count("start", start, 0, places - 1)


def one_line(kind: str, steps: int, halted: bool, waiting: bool) -> str:
    """How a machine at work shows itself."""
    ends = "halted" if halted else "waiting" if waiting else "going"
    return f"{kind}({steps} instructions, {ends})"
