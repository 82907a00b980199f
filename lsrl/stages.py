"""How long the stages of a compilation take."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Stages:
    """CPU seconds of each stage.

    Attributes:
      seconds: by the name of the stage, in order.
    """

    def __init__(self) -> None:
        """Start without stages."""
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Result]) -> Result:
        """Do a stage's work."""
        start = time.process_time()
        result = work()
        self.seconds[name] = time.process_time() - start
        return result
