"""Every program of the catalogue on every target, beside the same of another revision.

    python -m benchmarks.against REVISION

It checks the revision out into build/against, and holds two processes beside each other: one with
the sources here, one with the revision's. Both compile a program; their weights, what is certified
and the outputs are compared by hash. Then `Model.run` on one sequence of up to 1,000 tokens and
`Model.step` are timed in turns, one process at a time, over the same input.

Two processes with the same sources differ too: by up to two where jax hands a step over to a thread
of its own, which costs what the scheduler makes of it, so jax carries out at once what it is given,
on both sides; by as much where a core is busy and the other is not, so both samples of a turn are
taken on one core; and by some percent all the same. So every pair that comes out below a bar is
measured anew in further pairs of fresh processes, as often as every other one of them, and the
median of all counts, the first among them. `python -m benchmarks.against HEAD` of a clean checkout
tells how far that is from the truth.

It stops after --seconds, and goes on where it stopped when it is called again with the same
sources, its own among them, unless --anew is given.
"""

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

# Only what has no part of lsrl in it: that is another one in each process.
from benchmarks.common import ROOT, BenchmarkError, Output, Table, machine, number, say

HERE, BEFORE = "here", "before"
FOLDER = ROOT / "build" / "against"
TOKENS, STEPS = 1000, 32
# Seconds of a sample, and samples of each in a pair of processes. The first runs of a sample find
# in the caches what the other process left there: of 2 ms they were half the time.
LEAST, SAMPLES = 8e-3, 16
# How much of the speed before there has to be; what is below the doubt in the first pair of
# processes is measured in so many more.
BAR, DOUBT, AGAIN = 0.95, 0.97, 4
WORKS = "run", "step"

# What the processes do. They read requests, a line each, and answer each with a line.
WORKER = """
import hashlib, json, os, re, sys, time
from pathlib import Path

import numpy as np

import lsrl
from lsrl.cache import keep_compiled
from lsrl.errors import LsrlError
from lsrl.storage import weights_digest

root = str(Path(lsrl.__file__).parents[1])
if root != sys.argv[1]:
    raise SystemExit(f"lsrl is that of {root}")
keep_compiled(sys.argv[2])
tokens, steps = int(sys.argv[3]), int(sys.argv[4])
told = sys.stdout
sys.stdout = sys.stderr
works = {}


def made(program, target):
    entry = lsrl.programs.catalogue()[program]
    parameters = entry.parameters[0]
    while len(works) > 1:  # one is timed yet, while the next is made
        del works[next(iter(works))]
    try:
        model = lsrl.compile(entry.program(**parameters), target)
    except LsrlError as error:
        return {"refused": type(error).__name__}
    inputs = entry.sample(np.random.default_rng(0), tokens, **parameters)
    certified = model.certificate.tokens
    inputs = tuple(x[: certified or tokens] for x in inputs)
    outputs = model.run(*inputs)

    def run():
        start = time.process_time()
        model.run(*inputs)
        return time.process_time() - start

    given = list(zip(*(x[: steps + 1] for x in inputs)))
    first = model.init_state()

    def step(told=None):
        _, state = model.step(first, *given[0])  # which takes the state up
        start = time.process_time()
        for token in given[1:]:
            row, state = model.step(state, *token)
            if told is not None:
                told.update(np.ascontiguousarray(row).tobytes())
        return time.process_time() - start

    works[program, target] = {"run": run, "step": step}
    # Where it was written is another place.
    said = re.sub(r":[0-9]+\\)", ")", str(model.certificate).replace(root, ""))
    found = hashlib.sha256(np.ascontiguousarray(outputs).tobytes())
    step(found)
    return {"weights": weights_digest(model.module.arrays()), "certificate": said,
            "outputs": found.hexdigest(), "tokens": len(inputs[0])}


def timed(program, target, work, times, turn):
    does = works[program, target][work]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if cores:
        os.sched_setaffinity(0, {cores[turn % len(cores)]})  # this thread alone
    seconds = sum(does() for _ in range(times)) / times
    if cores:
        os.sched_setaffinity(0, cores)
    return {"seconds": seconds}


print(json.dumps({"programs": list(lsrl.programs.catalogue()),
                  "targets": [info.name for info in lsrl.targets()]}), file=told, flush=True)
for line in sys.stdin:
    name, *rest = json.loads(line)
    print(json.dumps({"made": made, "timed": timed}[name](*rest)), file=told, flush=True)
"""


class Side:
    """One of the two processes.

    Attributes:
      about: the programs and targets that it has.
    """

    def __init__(self, root: Path) -> None:
        """With the sources below a folder."""
        path = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1",
                "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, str(root), str(FOLDER / "jax"), str(TOKENS),
             str(STEPS)],
            cwd=root, env={**os.environ, **path}, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.about = self._answer()

    def ask(self, *request: object) -> dict[str, Any]:
        """What it answers.

        Raises:
          BenchmarkError: it has ended.
        """
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise BenchmarkError(f"a process ended: {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def both(before: Path, number: int = 0) -> Iterator[dict[str, Side]]:
    """The two processes, fresh; which one begins changes with their number."""
    sides: dict[str, Side] = {}
    roots = [(HERE, ROOT), (BEFORE, before)]
    try:
        for name, root in roots[:: -1 if number % 2 else 1]:
            sides[name] = Side(root)
        yield sides
    finally:
        for side in sides.values():
            side.end()


def speeds(sides: dict[str, Side], pair: tuple[str, str], work: str) -> tuple[float, float]:
    """CPU seconds of some work here, and how much longer it took before: medians over turns.

    Both samples of a turn are taken on one core, where neighbours on the machine slow down both,
    and the side that begins is another in every turn. The least would be a sample that had the
    machine to itself, which of few only one side may have.
    """
    once = min(side.ask("timed", *pair, work, 1, 0)["seconds"] for side in sides.values())
    times = max(1, math.ceil(LEAST / max(once, 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(SAMPLES):
        turns = list(sides.items())
        for name, side in turns if turn % 4 // 2 else turns[::-1]:
            found[name].append(side.ask("timed", *pair, work, times, turn)["seconds"])
    ratios = [before / here for before, here in zip(found[BEFORE], found[HERE], strict=True)]
    return statistics.median(found[HERE]), statistics.median(ratios)


def made(
    sides: dict[str, Side], pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], dict[str, dict[str, Any]]]]:
    """Pair by pair, what either side made of it.

    While the one makes a pair the other makes the next, and finds on disk what jax compiled for it.
    """
    with ThreadPoolExecutor(2) as pool:
        here = [sides[HERE].ask("made", *pair) for pair in pairs[:1]]
        for pair, later in zip_longest(pairs, pairs[1:]):
            before = pool.submit(sides[BEFORE].ask, "made", *pair)
            ahead = None if later is None else pool.submit(sides[HERE].ask, "made", *later)
            found = {HERE: here.pop(), BEFORE: before.result()}
            if ahead is not None:
                here.append(ahead.result())
            yield pair, found


def compared(
    sides: dict[str, Side], pair: tuple[str, str], found: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A row of the table, given what the sides made."""
    program, target = pair
    row: dict[str, Any] = {"program": program, "target": target}
    if "refused" in found[HERE] or "refused" in found[BEFORE]:
        refused = {name: answer.get("refused", "compiled") for name, answer in found.items()}
        alike = refused[HERE] == refused[BEFORE]
        return {**row, "alike": alike, "what": "refused" if alike else str(refused)}
    differing = [what for what in ("weights", "certificate", "outputs")
                 if found[HERE][what] != found[BEFORE][what]]  # fmt: skip
    row["alike"], row["what"] = not differing, ", ".join(differing) or "the same"
    row["tokens"] = found[HERE]["tokens"]
    return measured(sides, pair, {**row, "times": {}, "ratios": {}})


def measured(sides: dict[str, Side], pair: tuple[str, str], row: dict[str, Any]) -> dict[str, Any]:
    """A row with what one more pair of processes takes: its figures are the medians of all."""
    row = {**row, "times": {**row["times"]}, "ratios": {**row["ratios"]}}
    for work in WORKS:
        seconds, ratio = speeds(sides, pair, work)
        count = row["tokens"] if work == "run" else max(1, min(STEPS, row["tokens"] - 1))
        times = row["times"][work] = [*row["times"].get(work, []), 1e6 * seconds / count]
        ratios = row["ratios"][work] = [*row["ratios"].get(work, []), ratio]
        row[work], row[f"{work}_ratio"] = statistics.median(times), statistics.median(ratios)
    return row


def doubtful(row: dict[str, Any]) -> bool:
    """Whether the first pair of processes found a pair slower."""
    return "ratios" in row and any(row["ratios"][work][0] < DOUBT for work in WORKS)


def rounds(row: dict[str, Any]) -> int:
    """Pairs of processes that measured a row."""
    return len(row["ratios"][WORKS[0]])


def checked_out(revision: str) -> tuple[str, Path]:
    """The revision's hash, and the folder of its sources.

    Raises:
      BenchmarkError: git knows no such revision.
    """
    found = subprocess.run(
        ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        raise BenchmarkError(f"git knows no revision {revision!r}")
    name = found.stdout.strip()
    place = FOLDER / name[:12]
    if not place.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
        command = ["git", "worktree", "add", "--detach", str(place), name]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return name, place


def sources(root: Path) -> str:
    """A hash of the package below a folder, whose parts may be links."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root / "lsrl", followlinks=True):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                content = path.read_bytes()
                digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def findings(rows: list[dict[str, Any]], pairs: int, revision: str) -> list[str]:
    """What the table says, in sentences."""
    timed = [row for row in rows if "run" in row]
    anew = [row for row in timed if doubtful(row)]
    done = sum(rounds(row) == 1 + AGAIN for row in anew)
    other = [f"{row['program']} on {row['target']}" for row in rows if not row["alike"]]
    found = [
        f"Before is {revision[:12]}. {len(rows)} of {pairs} pairs of a program and a target were "
        f"compared; {len(rows) - len(timed)} are refused.",
        f"{len(anew)} of them were below {DOUBT:g} in the first pair of processes; {done} of these "
        f"were measured in {AGAIN} further pairs of fresh processes, and the median of all "
        f"{1 + AGAIN} counts.",
        "Weights, certificates and outputs are the same everywhere."
        if not other
        else f"Weights, certificates or outputs differ: {', '.join(other)}.",
    ]
    for work in WORKS:
        ratios = {f"{row['program']} on {row['target']}": row[f"{work}_ratio"] for row in timed}
        slower = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio < BAR]
        middle = sorted(ratios.values())[len(ratios) // 2] if ratios else math.nan
        found.append(
            f"`Model.{work}`: {number(middle)} of the speed before in the middle; below {BAR:g} "
            + (", ".join(slower) if slower else "nowhere")
            + "."
        )
    return found


def page(rows: list[dict[str, Any]], pairs: int, revision: str, about: dict[str, str],
         output: Path | None) -> None:  # fmt: skip
    """Write what was found so far."""
    table = Table(
        "pairs",
        "Program by program",
        {"program": "program", "target": "target", "what": "weights, certificate, outputs",
         "tokens": "tokens", "run": "run, µs a token", "run_ratio": "of before",
         "step": "step, µs", "step_ratio": "of before", "processes": "pairs of processes"},
        [{**row, "processes": rounds(row)} if "ratios" in row else row for row in rows],
        f"CPU time of all threads: medians of {SAMPLES} samples on either side, taken in turns "
        "on one core; a ratio above 1 is faster than before. jax carries out at once what it is "
        "given (`JAX_CPU_ENABLE_ASYNC_DISPATCH=false`), since what it costs to hand a step over "
        "to a thread of its own changes by more than the step. Where either ratio is below "
        f"{DOUBT:g} in the first pair of processes, both are measured in {AGAIN} further pairs of "
        "fresh processes, whatever these find, and the medians of all are shown. Float32, the "
        "first sample parameters of `lsrl.programs.catalogue()`, one sequence.",
    )  # fmt: skip
    title = "Beside another revision"
    told = findings(rows, pairs, revision)
    Output.of("against", False, output).write(title, about, [table], told, None)


def main(
    revision: Annotated[str, typer.Argument(help="What to compare with, as git names it.")],
    seconds: Annotated[float, typer.Option(help="By the clock, after which it stops.")] = 330.0,
    program: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    anew: Annotated[bool, typer.Option(help="Forget what was measured before.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Compare weights and speed with those of another revision."""
    about, end = machine(), time.monotonic() + seconds
    name, place = checked_out(revision)
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    known = FOLDER / f"{sources(ROOT)[:12]}-{own[:12]}-{name[:12]}.json"
    rows: dict[str, dict[str, Any]] = {}
    if known.exists() and not anew:
        rows = json.loads(known.read_text())

    def keep(pair: tuple[str, str], row: dict[str, Any]) -> bool:
        """Keep a row; whether there is time for another."""
        key = " on ".join(pair)
        rows[key] = row
        known.write_text(json.dumps(rows))
        say(f"{key}: {row}")
        return time.monotonic() < end

    with both(place) as sides:
        had = sides[HERE].about
        programs = [each for each in had["programs"] if not program or each in program]
        targets = [each for each in had["targets"] if not target or each in target]
        pairs = [(each, where) for where in targets for each in programs]
        left = [pair for pair in pairs if " on ".join(pair) not in rows]
        on = all(keep(pair, compared(sides, pair, found)) for pair, found in made(sides, left))
    for turn in range(1, 1 + AGAIN):
        slow = [pair for pair in pairs if doubtful(row := rows.get(" on ".join(pair), {}))
                and rounds(row) == turn]  # fmt: skip
        if not (on and slow):
            continue
        with both(place, turn) as sides:
            on = all(
                keep(pair, measured(sides, pair, rows[" on ".join(pair)]))
                for pair, _ in made(sides, slow)
            )
    asked = [rows[key] for pair in pairs if (key := " on ".join(pair)) in rows]
    page(asked, len(pairs), name, about, output)


if __name__ == "__main__":
    typer.run(main)
