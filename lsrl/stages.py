"""How long the stages of a compilation take."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lsrl.passes.pipeline import PassRecord

Result = TypeVar("Result")


@dataclass(frozen=True)
class Report:
    """What the stages of a compilation did.

    Attributes:
      passes: one record a pass, in order.
      seconds: CPU seconds by stage.
    """

    passes: tuple[PassRecord, ...]
    seconds: dict[str, float]


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
