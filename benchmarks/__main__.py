"""All benchmarks in one run: `make bench`, or `python -m benchmarks`.

Parts run one after the other, since they measure, and each in a process of its own. A part that has
ended well on this code, this machine and these options is not run again, so a run that was broken
off goes on where it stopped; `--fresh` begins anew, and `--only NAME` takes some parts. What fails
is told at the end, with how long each part took, and the others run all the same.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common import PACKAGES, QUICK_RESULTS, RESULTS, ROOT, machine, say
from benchmarks.eforth import IMAGE
from lsrl import cache
from lsrl.folders import replace_file

STAMPS = ROOT / "build" / "benchmarks" / "stamps"
# By what one machine is told from another.
TELLING = ("CPU", "cores", "memory", "Python", *PACKAGES)


@dataclass(frozen=True)
class Part:
    """What makes pages.

    Attributes:
      name: of its module.
      pages: that it writes to benchmarks/results, without suffix; none for what prepares others.
      arguments: of the command; `quick` ones in a quick run, which is left out if they are None.
      minutes: about how long it takes on two cores, at full size: a guess until a run has told.
      needs: a file that it can't do without.
    """

    name: str
    pages: tuple[str, ...]
    minutes: int
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ("--quick",)
    needs: Path | None = None

    def command(self, *, quick: bool) -> list[str]:
        """As it is run."""
        more = (self.quick or ()) if quick else self.arguments
        return [sys.executable, "-m", self.name, *more]


SUITE = str(Path("build", "suite"))
FEW = ("--program", "majority", "--target", "gru")
PARTS = (
    Part("benchmarks.compile", ("compile",), 13),
    Part("benchmarks.run", ("run",), 12),
    Part("benchmarks.torch_models", ("torch_models",), 5),
    Part("benchmarks.engine", ("engine",), 3),
    Part("benchmarks.roofline", ("roofline",), 6),
    Part("benchmarks.device", ("device",), 15),
    Part("benchmarks.universality", ("universality",), 5),
    Part("benchmarks.error_bounds", ("error_bounds",), 5),
    Part("benchmarks.computer", ("computer",), 10),
    Part("benchmarks.eforth", ("eforth",), 5, quick=None, needs=IMAGE),
    Part("benchmarks.induction", ("induction",), 2),
    Part("benchmarks.lift", ("lift",), 45),
    Part("benchmarks.task_vectors", ("task_vectors",), 15),
    Part("benchmarks.library", ("library",), 30),
    Part("benchmarks.library_depth", ("library_depth",), 5),
    Part("benchmarks.library_huggingface", ("library_huggingface",), 20),
    Part("benchmarks.modern", ("modern",), 60),
    Part("benchmarks.stability", ("stability",), 20),
    Part("lsrl", (), 40, ("suite", "build", SUITE), None),
    Part("benchmarks.torch_suite", ("torch_suite",), 30, (), FEW),
    Part("benchmarks.interpretability", ("suite",), 120, (SUITE,), None),
    Part("benchmarks.interpretability", ("held_back",), 30, ("--held-back", "3"), None),
)  # fmt: skip


@dataclass(frozen=True)
class Stamp:
    """A part that has ended well, and what on.

    Attributes:
      key: of the code, the machine and the options.
      seconds: that it took.
      date: of its end.
    """

    key: str
    seconds: float
    date: str


def sources(name: str) -> Iterator[Path]:
    """The files of this folder that a module is made of, its own first."""
    seen: set[str] = set()
    left = [name]
    while left:
        module = left.pop()
        path = ROOT / module.replace(".", "/")
        files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        if module in seen or not module.startswith("benchmarks.") or not files[0].exists():
            continue
        seen.add(module)
        for file in files:
            yield file
            text = file.read_text(encoding="utf-8")
            left += re.findall(r"(?:from|import) (benchmarks\.\w+)", text)
            for names in re.findall(r"from benchmarks import (.+)", text):
                left += [f"benchmarks.{each.strip()}" for each in names.split(",")]


def key(part: Part, code: str, described: dict[str, str], *, quick: bool) -> str:
    """Of what a part's results depend on."""
    digest = hashlib.sha256(code.encode())
    for file in sources(part.name):
        digest.update(file.read_bytes())
    told = [described[name] for name in TELLING]
    digest.update(json.dumps([part.command(quick=quick)[2:], told]).encode())
    return digest.hexdigest()


def stamp_of(path: Path, wanted: str) -> Stamp | None:
    """The stamp of a part, unless it is of something else."""
    if not path.exists():
        return None
    stamp = Stamp(**json.loads(path.read_text(encoding="utf-8")))
    return stamp if stamp.key == wanted else None


def run(part: Part, path: Path, wanted: str, *, quick: bool) -> tuple[str, float]:
    """Run a part, or find that it has run: how it went, and the seconds that it took."""
    if part.needs is not None and not part.needs.exists():
        return f"left out: needs {part.needs}", 0.0
    if quick and part.quick is None:
        return "left out: no quick run", 0.0
    finished = stamp_of(path, wanted)
    if finished is not None:
        return f"ended before, {finished.date}", finished.seconds
    command = part.command(quick=quick)
    say(f"\n=== {' '.join(command[1:])} (about {part.minutes} minutes at full size)")
    start = time.perf_counter()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    seconds = time.perf_counter() - start
    if code:
        return f"failed with {code}", seconds
    stamp = Stamp(wanted, seconds, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(asdict(stamp)).encode())
    return "ended", seconds


def chosen(names: Sequence[str]) -> list[Part]:
    """The parts of some pages or modules, or all.

    Raises:
      typer.BadParameter: there is none of that name.
    """
    short = {part: {*part.pages, part.name.removeprefix("benchmarks.")} for part in PARTS}
    unknown = [name for name in names if not any(name in each for each in short.values())]
    if unknown:
        known = ", ".join(dict.fromkeys(name for each in short.values() for name in sorted(each)))
        raise typer.BadParameter(f"expected one of {known}, got {', '.join(unknown)}")
    return [part for part, each in short.items() if not names or each & {*names}]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to build/.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what has ended.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Some pages or modules.")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Tell what would run, and stop.")] = False,
) -> None:
    """Run all benchmarks that have not ended on this code and this machine."""
    described, code, told = machine(), cache.code(), []
    for part in chosen(only or ()):
        wanted = key(part, code, described, quick=quick)
        name = "-".join(part.pages) or "suite_build"
        path = STAMPS / f"{name}{'-quick' if quick else ''}.json"
        if fresh:
            path.unlink(missing_ok=True)
        if dry:
            state, seconds = "would run", 60.0 * part.minutes
            if (finished := stamp_of(path, wanted)) is not None:
                state, seconds = f"ended before, {finished.date}", finished.seconds
        else:
            state, seconds = run(part, path, wanted, quick=quick)
        told.append((name, state, seconds))
    if not (dry or quick or only):
        from benchmarks import figures

        figures.renew()
    say(f"\n{'page':<22} {'minutes':>8}  how it went")
    for name, state, seconds in told:
        say(f"{name:<22} {seconds / 60:8.1f}  {state}")
    say(f"{'together':<22} {sum(seconds for *_, seconds in told) / 60:8.1f}")
    folder = (QUICK_RESULTS if quick else RESULTS).relative_to(ROOT)
    say(f"on {described['CPU']}, {described['cores']} cores; to {folder}")
    if any(state.startswith("failed") for _, state, _ in told):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
