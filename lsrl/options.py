"""How a program is compiled, beyond target and dtype: what a model remembers and a file keeps."""

from typing import Literal, NamedTuple

Activation = Literal["relu", "tanh"]
Legalise = Literal["native", "unroll"]


# How many numbers the parameters of a network may be unless more are allowed: 1 GiB of float32.
MOST_PARAMETERS = 1 << 28


class Options(NamedTuple):
    """The choices of `lsrl.compile`; see there.

    Attributes:
      legalise: whether states that the target can't hold are refused or written out.
      robust: whether comparisons stand midway between the values that occur.
      inspectable: whether signals are read from the channels that hold them and nowhere else.
      verbatim: whether the text is lowered as it stands.
    """

    legalise: Legalise = "native"
    robust: bool = False
    inspectable: bool = False
    verbatim: bool = False


DEFAULT = Options()
