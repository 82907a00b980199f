"""Settings that every test shares."""

import gc
import os
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import jax
import pytest
from hypothesis import HealthCheck, settings
from jax._src import compiler

from lsrl.interpret.wiring import QUICK, quick_flags
from tests.strategies import TURN, TURNS

# XLA's compiling is a good part of what the tests take. What a test compiled is kept here for the
# other worker, for later modules, for subprocesses and for the next run, by program, versions and
# flags. What can't be read, since a killed run left half of it, jax compiles anew.
COMPILED = Path(__file__).parents[1] / "build" / "compiled-for-tests"
MOST_COMPILED = 2**29  # bytes, then all is compiled anew; a run of all tests leaves a tenth of it
for _name, _value in {
    "jax_compilation_cache_dir": str(COMPILED),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)

# By day XLA compiles most of it with less optimisation, in a third of the time. One module in seven
# gets XLA's own options, in turn, and at night all do, as do subprocesses and whoever asks for the
# fixture `xla_defaults`. jax has no public way to set options but one for the whole process.
QUICKLY = {**QUICK, "xla_cpu_parallel_codegen_split_count": 1}
_compile_options = compiler.get_compile_options
_options: dict[str, bool | int] = {}


def _with_options(*args, **kwargs):
    """What jax tells XLA, and our options unless a function names its own."""
    made = _compile_options(*args, **kwargs)
    made.env_option_overrides = [*_options.items(), *made.env_option_overrides]
    return made


compiler.get_compile_options = _with_options


@contextmanager
def _compiled_with(options):
    """Nothing that was compiled with other options is used meanwhile, nor later."""
    before = dict(_options)
    jax.clear_caches()
    _options.clear()
    _options.update(options)
    yield
    jax.clear_caches()
    _options.clear()
    _options.update(before)


# An implicit promotion is where a float64 or a wrong shape slips in unseen.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on each run of a turn, and no deadline, as the first pays for XLA's compiling.
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


def pytest_addoption(parser) -> None:
    """`make test-all` and CI spread the studies over the days; who names a test gets it."""
    parser.addoption("--in-turn", action="store_true", help="of the studies those of this turn")


# A study is run on so many of seven days.
DAYS = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items) -> None:
    """Mark what is a study by its share, and leave out the studies of other turns."""
    _mark_shares(items)
    if not config.getoption("in_turn"):
        return
    others = [
        item
        for item in items
        if item.get_closest_marker("studies")
        and (crc32(item.nodeid.encode()) + TURN) % TURNS >= DAYS
    ]
    config.hook.pytest_deselected(items=others)
    left = set(others)
    items[:] = [item for item in items if item not in left]


def _mark_shares(items) -> None:
    """Of modules with `one_in(k)`, one in k of each test's cases stays in `make test` today.

    At least one case of a test does; tests of a single case are thinned together. What stays
    follows from ids and the turn, so that every row and column of a grid has some.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        later = item.get_closest_marker("nightly") or item.get_closest_marker("studies")
        if item.get_closest_marker("one_in") and not later:
            test, many, _ = item.nodeid.partition("[")
            groups.setdefault(test if many else str(item.path), []).append(item)
    for some in groups.values():
        (share,) = some[0].get_closest_marker("one_in").args
        some.sort(key=lambda item: crc32(f"{item.nodeid} {TURN}".encode()))
        for item in some[-(-len(some) // share) :]:
            item.add_marker(pytest.mark.studies)


def pytest_configure(config) -> None:
    """Keep the folder of compiled code within its size, before any worker starts."""
    if hasattr(config, "workerinput") or not COMPILED.exists():
        return
    if sum(entry.stat().st_size for entry in os.scandir(COMPILED)) > MOST_COMPILED:
        shutil.rmtree(COMPILED, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the libraries and the tests, which stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """Say which examples of the heavy property tests are run, and which studies."""
    return f"property tests and studies: turn {TURN} of {TURNS} (LSRL_TURN={TURN} repeats it)"


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled(request):
    """Loaded code takes gigabytes, and the next module finds what it needs of it on the disk."""
    at_night = request.config.getoption("hypothesis_profile") == "nightly"
    own = at_night or crc32(Path(request.path).stem.encode()) % TURNS == TURN
    with _compiled_with(QUICKLY if quick_flags() and not own else {}):
        yield


@pytest.fixture
def xla_defaults():
    """Compile with XLA's own options on every day, as users do."""
    with _compiled_with({}):
        yield


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
