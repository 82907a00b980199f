"""Settings that every test shares."""

from collections import Counter

import jax
import pytest
from hypothesis import HealthCheck, settings

# An implicit promotion is where a float64 or a wrong shape slips in unseen.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on every run, and no deadline, since the first example pays for XLA's compiling.
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


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled():
    """What jax compiled for one module is of no use to the next, and takes gigabytes."""
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
