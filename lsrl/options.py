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


class AutomatonLimits(NamedTuple):
    """How large what stands for a threshold state may become where a target has swaps in its place.

    What is beyond is refused. Size is the only ground: every finite automaton can be held.

    Attributes:
      layers: that one automaton may take.
      units: of the tables that hold it: what tells a letter and a count, or an edge and a label.
      chains: chains of nested sets of states that holonomy levels may reach.
      states: of an automaton some letter of which merges states, after minimisation.
      permuted: of one whose letters all permute its states.
      letters: that are told apart.

    Source: Krohn and Rhodes (1965), of the levels; Siems et al. (2025), of the reflections.

    Example:
      limits = lsrl.AutomatonLimits()
      print(limits)
    """

    layers: int = 16
    units: int = 1000
    chains: int = 1500
    states: int = 12
    permuted: int = 256
    letters: int = 256


AUTOMATA = AutomatonLimits()
# Of what was compiled before, and is read from a file.
ANY_AUTOMATON = AutomatonLimits(*[1 << 30] * len(AUTOMATA))
