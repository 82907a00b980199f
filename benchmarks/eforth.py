"""eForth inside a network: the image of another hand, from its prompt to its end.

    python -m benchmarks.eforth [--image IMAGE]

The image is a SUBLEQ eForth of 16 bits by Richard James Howe, which is no part of this project. It
reads `2 2 + . cr` and `bye` from its keyboard, and halts. Every output is compared with a plain
interpreter that has all addresses of a word, so that also the memory map is shown to suffice, and
memory at every million. Each measurement is in a process of its own (`benchmarks.eforth_alone`).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import ROOT, BenchmarkError, Output, Table, say, shown
from benchmarks.common import machine as this_machine
from benchmarks.eforth_alone import BITS, IMAGE, MILLION, STEPS, TARGET, TEXT

app = typer.Typer()


def alone(*arguments: object) -> list[dict[str, Any]]:
    """What a command says, in a process of its own.

    Raises:
      BenchmarkError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.eforth_alone", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        rows = []
        for line in process.stdout or ():
            say(f"{arguments[0]}: {line.strip()}")
            rows.append(json.loads(line))
    if process.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed")
    return rows


def reached(
    made: dict[str, Any],
    begun: dict[str, Any],
    slow: dict[str, Any],
    session: list[dict[str, Any]],
    resumed: dict[str, Any],
) -> list[dict[str, Any]]:
    """What was asked for and what came of it."""
    last = session[-1]
    two = next(row for row in session if row["steps"] == 2 * MILLION)
    ended = last["halted"] and last["steps"] == STEPS and last["text"] == TEXT.decode()
    rows = [
        ("nonzero weights", made["nonzero"], "at most 300,000", made["nonzero"] <= 300_000),
        ("layers", made["layers"], "16", made["layers"] == 16),
        ("certified exact", made["exact"], "at any length", made["exact"] and not made["tokens"]),
        ("compile, CPU s", made["seconds"], "at most 5", made["seconds"] <= 5),
        ("compile, MiB above majority", made["peak"], "at most 500", made["peak"] <= 500),
        (f"a prompt of {begun['prompt']:,} tokens, CPU s", begun["read"], "at most 1",
         begun["read"] <= 1),
        ("first instruction, CPU s from the start", begun["cpu"], "at most 5", begun["cpu"] <= 5),
        ("instructions in all", last["steps"], f"{STEPS:,}, then it halts", ended),
        ("printed", repr(last["text"]), repr(TEXT.decode()), ended),
        ("instructions a CPU s", last["average"], "at least 100,000",
         last["average"] >= 100_000),
        ("instructions a CPU s without numba", slow["speed"], "at least 1,500",
         slow["speed"] >= 1_500),
        ("run, peak MiB of the process", last["peak"], "at most 400", last["peak"] <= 400),
        ("saved at 1 M, gone on in a new process, at 2 M", "equal to the bit"
         if resumed["digest"] == two["digest"] else "differs", "equal to the bit",
         resumed["digest"] == two["digest"]),
    ]  # fmt: skip
    return [dict(zip(("what", "measured", "goal", "holds"), row, strict=True)) for row in rows]


@app.command()
def main(
    image: Annotated[Path, typer.Option(help="The image.")] = IMAGE,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Run eForth in a network from its prompt to its end, and write what was seen."""
    about = this_machine()
    image = image.resolve()
    (begun,) = alone("start", image, time.time())
    (slow,) = alone("plain", image)
    with tempfile.TemporaryDirectory() as folder:
        (made,) = alone("compile", folder)
        session = alone("session", image, folder)
        (resumed,) = alone("resume", folder)
    goals = reached(made, begun, slow, session, resumed)
    columns = {"what": "", "measured": "measured", "goal": "goal", "holds": "holds"}
    table = Table("goals", "What it reached", columns, [
        {**row, "measured": shown(row["measured"])} for row in goals
    ])  # fmt: skip
    log = Table(
        "log",
        "The run, million by million",
        {"steps": "instructions", "seconds": "CPU s", "speed": "a CPU s", "peak": "peak, MiB",
         "text": "printed so far"},
        [{**row, "text": repr(row["text"])} for row in session],
        "Behind each line all outputs so far and all memory were those of the plain interpreter.",
    )  # fmt: skip
    findings = [
        f"{made['cells']:,} cells of {BITS} bits on {TARGET}, float32: {made['layers']} layers, "
        f"{made['nonzero']:,} nonzero weights.",
        f"{session[-1]['steps']:,} instructions, {session[-1]['average']:,.0f} a CPU second; no "
        "output and no cell differs from the plain interpreter's.",
        f"First instruction {begun['wall']:.1f} s by the clock after the start.",
        f"{sum(row['holds'] for row in goals)} of {len(goals)} goals hold.",
    ]
    Output.of("eforth", False, output).write(
        "eForth inside a network", about, [table, log], findings, None
    )


if __name__ == "__main__":
    app()
