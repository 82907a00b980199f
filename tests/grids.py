"""Grids of cases that are too many for every run: a share of them in CI, all in the nightly run.

Of what CI runs, `make test` has a few cases of each study, and of the largest grids.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from lsrl import programs
from lsrl.programs import Entry

# Computers as large as people use them by default: they have tests of their own, at small sizes.
COMPUTERS = {"subleq", "fleq"}


def small_catalogue() -> dict[str, Entry]:
    """The programs of the library that compile at once by default, for sweeps over all targets."""
    return {name: e for name, e in programs.catalogue().items() if name not in COMPUTERS}


def thinned(cases: Sequence[Any], share: int, later: int | None = None) -> list[Any]:
    """One case in `share` as it is, one in `later`, a divisor, in CI, the others marked nightly.

    Which ones follows from their ids, so each row and column of a grid has some, whatever is added.
    """

    def marked(case: Any) -> Any:
        place = zlib.crc32(f"{case.id}".encode())
        if place % share == 0:
            return case
        mark = pytest.mark.studies if later and place % later == 0 else pytest.mark.nightly
        return pytest.param(*case.values, id=case.id, marks=mark)

    return [marked(case) for case in cases]


def studied(cases: Sequence[Any], *quick: Any) -> list[Any]:
    """The cases of `quick`, by id or value, as they are, and the others marked as studies."""
    return [
        case
        if getattr(case, "id", case) in quick
        else pytest.param(
            *getattr(case, "values", [case]),
            id=getattr(case, "id", None),
            marks=(pytest.mark.studies, *getattr(case, "marks", ())),
        )
        for case in cases
    ]
