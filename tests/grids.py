"""Grids of cases that are too many for every run: a share of them in CI, all in the nightly run."""

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
