"""How large an automaton, and what is made of it, may become."""

from typing import NamedTuple


class Limits(NamedTuple):
    """What is refused beyond.

    Attributes:
      layers: that one automaton may take.
      units: of the tables that hold it: what is read of a state and a letter, or of an edge and a
        label.
      chains: chains of nested sets that holonomy levels may reach.
      states: of an automaton some letter of which merges states, after minimisation.
      permuted: of one whose letters all permute its states.
      letters: that are told apart.
    """

    layers: int = 16
    units: int = 1000
    chains: int = 1500
    states: int = 12
    permuted: int = 256
    letters: int = 256


class TooLargeError(Exception):
    """An automaton, or what is made of it, is beyond a limit; passes turn it into a refusal.

    Attributes:
      letter: the letter that is to blame, or None.
    """

    def __init__(self, what: str, letter: int | None = None) -> None:
        """Say what was counted, and what the limit is."""
        self.letter = letter
        super().__init__(what)


def check(count: int, most: int, what: str, letter: int | None = None) -> None:
    """Raise TooLargeError where a count is beyond its limit."""
    if count > most:
        raise TooLargeError(f"{count:,} {what}, and at most {most:,} are made", letter)
