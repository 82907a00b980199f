"""Figures of the original implementation of LSRL (Petrov et al. 2024), measured on a 2-core CPU.

They are of tok2tok with 20 pairs and a vocabulary of 10. They were measured once, on another
machine, and are printed for comparison only.
"""

from dataclasses import dataclass

LABEL = "original implementation, measured on a 2-core CPU"

# tok2tok, by mode and length of the words.
SLOWEST_TOKENS_PER_SECOND = 10.0
BEST_TOKENS_PER_SECOND = 150.0
FAILS_FROM_LENGTH = 36


@dataclass(frozen=True)
class Compilation:
    """One compilation of tok2tok by the original.

    Attributes:
      length: symbols a word.
      mode: how it writes conditionals.
      seconds: CPU seconds.
      layers: of the network.
      width: of the widest layer.
      parameters: dense, or None where it was not counted.
      remark: what went wrong.
    """

    length: int
    mode: str
    seconds: float
    layers: int
    width: int
    parameters: float | None
    remark: str = ""


COMPILATIONS = (
    Compilation(3, "direct (ReLU)", 23.4, 56, 250_470, 3.2e11, "42 % of answers right"),
    Compilation(3, "optimised (ReLU)", 5.0, 52, 47_759, 1.9e10),
    Compilation(3, "multiplicative", 6.4, 60, 3_484, 1.1e8),
    Compilation(20, "multiplicative, optimised", 145.0, 60, 29_600, None),
)
