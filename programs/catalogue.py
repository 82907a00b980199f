"""The catalogue: every program of the library, for tests, tables and benchmarks to run over."""

from lsrl.programs import (
    approximation,
    arithmetic,
    capitals,
    composition,
    computer,
    computer_lm,
    counting,
    formal_languages,
    in_context,
    lookup,
    memory,
    prompted,
    state_tracking,
    vector_maps,
)
from lsrl.programs.entry import Entry

_FAMILIES = (
    counting,
    arithmetic,
    memory,
    lookup,
    formal_languages,
    state_tracking,
    in_context,
    vector_maps,
    capitals,
    approximation,
    composition,
    prompted,
    computer,
    computer_lm,
)


def catalogue() -> dict[str, Entry]:
    """Every program of the library by name, family by family.

    Example:
      print(len(lsrl.programs.catalogue()) > 50)
    """
    return {entry.name: entry for family in _FAMILIES for entry in family.ENTRIES}
