"""When an automaton, or what is made of it, is too large."""


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
