"""What the reference shows of a docstring."""

import re
from typing import Any

from griffe import Extension, Object

# The last part of a docstring, whose indent is taken off.
EXAMPLE = re.compile(r"\n+Example:\n(?P<lines>(?:  .*\n?|\n)+)\Z")


class WithoutExample(Extension):
    """Leave the example out: it stands below, with what it prints."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Of each docstring that is read."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub("", obj.docstring.value)
