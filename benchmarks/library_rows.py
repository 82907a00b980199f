"""Rows of `benchmarks.library`, each kept in build/library by itself until the code changes."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lsrl.cache
from benchmarks.common import ROOT, kept, say

KEPT = ROOT / "build" / "library"


@cache
def code() -> str:
    """The hash of the package and of these benchmarks."""
    digest = hashlib.sha256(lsrl.cache.code().encode())
    for path in sorted(Path(__file__).parent.glob("library*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def finished(name: str, quick: bool, work: Callable[[], Any]) -> Any:
    """A row that was kept, or what work finds."""

    def made() -> Any:
        say(name)
        return work()

    file = f"{name.replace(' ', '_').replace('%', '')}.json"
    return kept(KEPT / ("quick" if quick else "whole") / file, code(), made)
