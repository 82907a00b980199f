"""What the benchmarks share: the machine, timing, tables and figures."""

import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Quick runs are for trying things out: they never replace the committed results.
QUICK_RESULTS = ROOT / "build" / "benchmarks"
REPEATS = 5

LOAD = "load average at the start"
# Above this, other work takes a share of the machine that times should not be read without knowing.
BUSY = 1.0

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "numba", "torch")


class BenchmarkError(Exception):
    """A contestant does not compute what it should, so its time means nothing."""


def measured_alone(*arguments: object) -> dict[str, float]:
    """What a command of `benchmarks.peak_memory` measures, in a process of its own.

    Raises:
      BenchmarkError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.peak_memory", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


# ---------------------------------------------------------------- the machine


def machine() -> dict[str, str]:
    """The machine and the software that results come from."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = {
        "CPU": _cpu_model(),
        "cores": str(cores),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            described[package] = "not installed"
    described["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    described[LOAD] = f"{os.getloadavg()[0]:.2f}"
    return described


def _cpu_model() -> str:
    """The model's name and number: virtual machines often hide the former."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or "unknown"
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name", platform.processor() or "unknown")
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if family else name


def _memory() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * size / 2**30:.1f} GiB"


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class Timing:
    """Medians over the repeats, or one of them.

    Attributes:
      cpu: seconds of all threads of the process.
      wall: seconds on the clock.
      repeats: how many.
    """

    cpu: float
    wall: float
    repeats: int


def measure(work: Callable[[], Any], repeats: int = REPEATS) -> Timing:
    """Time some work, after one call that warms up."""
    return measure_together({"work": work}, repeats)["work"]


def measure_together(
    contestants: Mapping[str, Callable[[], Any]], repeats: int = REPEATS
) -> dict[str, Timing]:
    """Medians of contestants timed in turns; see `sample_together`."""
    return {
        name: Timing(
            statistics.median(timing.cpu for timing in found),
            statistics.median(timing.wall for timing in found),
            len(found),
        )
        for name, found in sample_together(contestants, repeats).items()
    }


def sample_together(
    contestants: Mapping[str, Callable[[], Any]], repeats: int = REPEATS
) -> dict[str, list[Timing]]:
    """Time contestants in turns, so that a slow minute of the machine hits all of them alike.

    Each is called once before, to compile and to warm up.
    """
    samples: dict[str, list[Timing]] = {name: [] for name in contestants}
    for work in contestants.values():
        work()
    for _ in range(repeats):
        for name, work in contestants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            samples[name].append(
                Timing(time.process_time() - cpu, time.perf_counter() - wall, repeats=1)
            )
    return samples


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of y ~ x^slope: least squares on logarithms."""
    across = [math.log(value) for value in x]
    up = [math.log(value) for value in y]
    middle, height = statistics.fmean(across), statistics.fmean(up)
    spread = sum((a - middle) ** 2 for a in across)
    return sum((a - middle) * (b - height) for a, b in zip(across, up, strict=True)) / spread


def peak_memory() -> float:
    """MiB of the largest resident set of this process so far.

    Linux counts `ru_maxrss` from before exec on, so it would hold the parent's peak too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------- rows


def kept(path: Path, code: str, work: Callable[[], Any]) -> Any:
    """What work finds: out of its file if the code is the same, else made and kept there.

    So a run that was broken off goes on where it stopped.

    Args:
      path: of the file.
      code: that the finding depends on, as a hash.
      work: gives what JSON holds.
    """
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["code"] == code:
            return known["found"]
    text = json.dumps({"code": code, "found": work()}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one step, so that none is half written.
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return json.loads(text)["found"]


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    """Rows of measurements.

    Attributes:
      name: its key in the JSON file.
      title: above it.
      columns: key of a row to the column's header.
      rows: values by key; a missing one shows as a dash.
      note: below it.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""

    def markdown(self) -> str:
        """The table as Markdown, numbers to the right."""
        cells = [
            [shown(row.get(key)).replace("|", "\\|") for key in self.columns] for row in self.rows
        ]
        headers = list(self.columns.values())
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        numeric = [
            any(isinstance(row.get(key), int | float) for row in self.rows)
            and not any(isinstance(row.get(key), str) for row in self.rows)
            for key in self.columns
        ]

        def line(values: Sequence[str]) -> str:
            padded = [
                value.rjust(width) if right else value.ljust(width)
                for value, width, right in zip(values, widths, numeric, strict=True)
            ]
            return f"| {' | '.join(padded)} |"

        rule = [
            "-" * (width - 1) + (":" if right else "-")
            for width, right in zip(widths, numeric, strict=True)
        ]
        parts = [f"## {self.title}", "", line(headers), line(rule), *map(line, cells)]
        return "\n".join([*parts, *(["", self.note] if self.note else [])])


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
      tables: in order.
      findings: sentences for the top of the page.
    """

    tables: Sequence[Table]
    findings: Sequence[str]


def shown(value: Any) -> str:
    """A cell: whole numbers with separators, others to three significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return str(value)


def number(value: float) -> str:
    """Three significant digits: 1,230 or 0.0123 or 1.2e-07."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits <= 0 and abs(value) < 1e9:
        return f"{round(value, digits):,.0f}"
    return f"{value:.{digits}f}" if 0 < digits <= 6 else f"{value:.2e}"


@dataclass(frozen=True)
class Output:
    """Where a benchmark writes its results.

    Attributes:
      name: of the benchmark: the files are name.md, name.json and name.svg.
      folder: to write to.
      quick: whether this is a quick run, which the results then say.
    """

    name: str
    folder: Path
    quick: bool

    @classmethod
    def of(cls, name: str, quick: bool, folder: Path | None) -> "Output":
        """The given folder, or the usual one."""
        return cls(name, folder or (QUICK_RESULTS if quick else RESULTS), quick)

    def write(
        self,
        title: str,
        described: Mapping[str, str],
        tables: Sequence[Table],
        findings: Sequence[str],
        draw: "Draw | None" = None,
    ) -> None:
        """Write and print the tables with the machine's description, and draw the figure.

        Args:
          title: of the page.
          described: from `machine`, taken before the work began.
          tables: in order.
          findings: sentences for the top of the page.
          draw: makes the figure of the tables' rows, if there is one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        page = [f"# {title}", ""]
        if self.quick:
            page += ["A quick run: small sizes, for trying out only.", ""]
        if float(described[LOAD]) > BUSY:
            page += [
                f"The machine was busy with other work (load average {described[LOAD]} at the "
                f"start, on {described['cores']} cores): times are longer than on an idle one.",
                "",
            ]
        page += [f"- {finding}" for finding in findings]
        page += ["", f"![{title}: {about(draw)}]({self.name}.svg)", ""] if draw else [""]
        for table in tables:
            page += [table.markdown(), ""]
        page += ["## Machine", ""]
        page += [f"- {name}: {value}" for name, value in described.items()]
        page += ["", f"Written by `python -m benchmarks.{self.name}`."]
        text = "\n".join(page) + "\n"
        (self.folder / f"{self.name}.md").write_text(text, encoding="utf-8")
        data = {
            "benchmark": self.name,
            "quick": self.quick,
            "machine": dict(described),
            "findings": list(findings),
            **{table.name: [dict(row) for row in table.rows] for table in tables},
        }
        text_of_data = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        (self.folder / f"{self.name}.json").write_text(text_of_data + "\n", encoding="utf-8")
        if draw is not None:
            from lsrl.stability.figures import save  # no part of what is measured

            save(draw(data), self.folder / f"{self.name}.svg")
        print(text)
        print(f"written to {self.folder}")


# ---------------------------------------------------------------- figures

# The rows of a page's tables, by the names of the tables, and what draws them.
Data = Mapping[str, Sequence[Mapping[str, Any]]]
Draw = Callable[[Data], "Figure"]

BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, GREY = (
    "#1f77b4", "#e6850e", "#2a9d4a", "#d0342c", "#8a63c2", "#8c564b", "#6c757d"
)  # fmt: skip


def about(draw: Draw) -> str:
    """What a figure shows, for who can't see it: the first line of what draws it."""
    told = (draw.__doc__ or "").partition("\n")[0].rstrip(".")
    return told[:1].lower() + told[1:]


def panels(count: int, width: float = 5.8, height: float = 5.2) -> "tuple[Figure, list[Axes]]":
    """A figure with panels side by side, drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "font.size": 9.5,
            "grid.alpha": 0.3,
            "legend.fontsize": 8,
        }
    )
    figure, axes = pyplot.subplots(
        1, count, figsize=(width * count, height), layout="constrained", squeeze=False
    )
    return figure, list(axes[0])


def log_axes(axes: "Axes", title: str, x: str, y: str) -> None:
    """Label a panel and give it two logarithmic axes."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend_below(axes: "Axes", columns: int = 2) -> None:
    """Put a panel's legend under it, where it hides nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, frameon=False)


def say(text: str) -> None:
    """Report progress at once, also into a pipe."""
    print(text, flush=True)
