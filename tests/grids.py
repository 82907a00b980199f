"""Grids of cases that are too many for every run: a share of them in CI, all in the nightly run.

Of what CI runs, a few cases of each study are left to the quick run.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import pytest


def thinned(cases: Sequence[Any], share: int) -> list[Any]:
    """One case in `share` as it is, the others marked nightly.

    Which ones follows from their ids, so each row and column of a grid has some, whatever is added.
    """
    return [
        case
        if zlib.crc32(f"{case.id}".encode()) % share == 0
        else pytest.param(*case.values, id=case.id, marks=pytest.mark.nightly)
        for case in cases
    ]


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
