"""tok2tok as one fused loop in C, a peer: compiled where the system has a compiler."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import QUICK_RESULTS, BenchmarkError
from benchmarks.workloads import Array

SOURCE = Path(__file__).parent / "tok2tok.c"
COMPILERS = ("cc", "gcc", "clang")
OPTIONS = ("-O3", "-march=native", "-shared", "-fPIC")


def missing() -> str | None:
    """Why there is no loop in C here; None if there is one."""
    if any(map(shutil.which, COMPILERS)):
        return None
    return f"no C compiler is at hand ({', '.join(COMPILERS)})"


def fused_loop(length: int, vocab: int) -> Callable[[Array], Array]:
    """The loop on tokens (batch, time), from numpy to numpy: (batch, time, 1) float32.

    Raises:
      BenchmarkError: no compiler is at hand, or it fails.
    """
    why = missing()
    if why is not None:
        raise BenchmarkError(why)
    compiler = next(filter(None, map(shutil.which, COMPILERS)))
    QUICK_RESULTS.mkdir(parents=True, exist_ok=True)
    library = QUICK_RESULTS / "tok2tok.so"
    command = [compiler, *OPTIONS, "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    function = ctypes.CDLL(str(library)).tok2tok
    function.argtypes = (
        *(ctypes.c_void_p,) * 2, *(ctypes.c_long,) * 2, ctypes.c_int, ctypes.c_float
    )  # fmt: skip

    # Kept between runs: memory that is new at each takes up to as long as the loop does.
    symbols = np.empty((0, 0), np.int32)

    def run(tokens: Array) -> Array:
        nonlocal symbols
        if symbols.shape != tokens.shape:
            symbols = np.empty(tokens.shape, np.int32)
        symbols[...] = tokens
        outputs = np.empty((*symbols.shape, 1), np.float32)
        if function(symbols.ctypes.data, outputs.ctypes.data, *symbols.shape, length, vocab - 1):
            raise BenchmarkError(f"{SOURCE.name} has no room for words of {length} symbols")
        return outputs

    return run
