"""Settings that every test shares."""

import os
import shutil
from collections import Counter
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

from tests.strategies import TURN, TURNS

# XLA's compiling is most of what the tests take. What a test compiled is kept here for the other
# worker, for later modules, for subprocesses and for the next run, by program, versions and flags.
# What can't be read, since a killed run left half of it, jax compiles anew.
COMPILED = Path(__file__).parents[1] / "build" / "compiled-for-tests"
MOST_COMPILED = 2**29  # bytes, then all is compiled anew; a run of all tests leaves a tenth of it
for _name, _value in {
    "jax_compilation_cache_dir": str(COMPILED),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)

# An implicit promotion is where a float64 or a wrong shape slips in unseen.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on each run of a turn, and no deadline, since the first example pays for XLA's compiling.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
# New examples each night; a failure prints how to reproduce it.
settings.register_profile(
    "nightly",
    parent=settings.get_profile("ci"),
    derandomize=False,
    max_examples=1000,
    print_blob=True,
)
settings.load_profile("ci")


def pytest_configure(config) -> None:
    """Keep the folder of compiled code within its size, before any worker starts."""
    if hasattr(config, "workerinput") or not COMPILED.exists():
        return
    if sum(entry.stat().st_size for entry in os.scandir(COMPILED)) > MOST_COMPILED:
        shutil.rmtree(COMPILED, ignore_errors=True)


def pytest_report_header() -> str:
    """Say which examples of the heavy property tests are run."""
    return f"property tests: turn {TURN} of {TURNS} (LSRL_TURN={TURN} repeats it)"


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled():
    """Loaded code takes gigabytes, and the next module finds what it needs of it on the disk."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def transformers():
    """The library, with one thread, since the networks are small."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter) -> None:
    """Tell the share of the random programs that are certified exact; see test_random_programs."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                counts.update(
                    {n: v for n, v in report.user_properties if n.startswith("random programs")}
                )
    programs, exact = (counts[f"random programs{what}"] for what in ("", " certified exact"))
    if programs:
        terminalreporter.write_line(
            f"random programs of at least 8 ops, certified exact in float32 over 64 tokens: "
            f"{exact} of {programs} ({exact / programs:.0%})"
        )
