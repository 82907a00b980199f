"""Peak memory of one long sequence, or of one compilation, in a process of its own.

Each command prints one line of JSON, in MiB. Used by the other benchmarks (`measured_alone`); the
peak of a process that did other things before says nothing.
"""

import json
import time
from typing import Annotated

import numpy as np
import typer

import lsrl
from benchmarks.common import peak_memory
from benchmarks.workloads import wide_programs, workloads
from lsrl.backends import registry
from lsrl.options import DEFAULT
from lsrl.passes.pipeline import Pipeline

WARM_UP = 1000

app = typer.Typer()


@app.command("run")
def run_sequence(
    program: Annotated[str, typer.Argument(help="A name of benchmarks.workloads.")],
    target: Annotated[str, typer.Argument(help="Where to compile it to.")],
    tokens: Annotated[int, typer.Argument(help="Tokens of the sequence.")],
    longest: Annotated[int, typer.Argument(help="Tokens that the program is compiled for.")],
) -> None:
    """Run one sequence and print the peak memory before and after."""
    workload = workloads()[program]
    model = lsrl.compile(workload.program(longest), target)
    (kind,) = model.program.inputs.values()
    if not isinstance(kind, lsrl.Token):
        raise typer.BadParameter(f"{program} has no token input")
    sequence = np.random.default_rng(0).integers(kind.size, size=tokens)
    model.run(sequence[:WARM_UP])
    before = peak_memory()
    outputs = model.run(sequence)
    result = {"before": before, "peak": peak_memory(), "outputs": outputs.nbytes / 2**20}
    print(json.dumps(result))


@app.command("schedule")
def schedule_wide(
    program: Annotated[str, typer.Argument(help="A name of benchmarks.workloads.wide_programs.")],
    target: Annotated[str, typer.Argument(help="What to schedule it for.")],
) -> None:
    """Record, simplify, legalise and schedule a wide program: all but its dense parameters."""
    lsrl.compile(lsrl.programs.parity(), target)  # what a compilation imports
    backend, pipeline, before = registry.find(target), Pipeline(), peak_memory()
    start = time.process_time()
    graph = pipeline.simplify(wide_programs()[program]().graph)
    backend.schedule(pipeline.legalise(graph, backend.capabilities), None, DEFAULT)
    seconds = time.process_time() - start
    print(json.dumps({"before": before, "peak": peak_memory(), "seconds": seconds}))


@app.command("compile")
def compile_tok2tok(
    length: Annotated[int, typer.Argument(help="Symbols a word.")],
    vocab: Annotated[int, typer.Argument(help="Number of symbols.")],
    target: Annotated[str, typer.Argument(help="Where to compile it to.")],
) -> None:
    """Compile tok2tok and print the peak memory before and after."""
    lsrl.compile(lsrl.programs.majority(), target)
    before = peak_memory()
    lsrl.compile(lsrl.programs.tok2tok(length, vocab), target)
    print(json.dumps({"before": before, "peak": peak_memory()}))


@app.command("loop")
def run_computer(
    cells: Annotated[int, typer.Argument(help="Of memory.")],
    target: Annotated[str, typer.Argument(help="Where to compile it to.")],
) -> None:
    """Compile a SUBLEQ computer, run it, and print the peak memory before, between and after."""
    lsrl.compile(lsrl.programs.majority(), target).run([1, 0, 1])
    before, start = peak_memory(), time.process_time()
    model = lsrl.compile(lsrl.programs.subleq(cells, 16), target)
    seconds, compiled = time.process_time() - start, peak_memory()
    # 3 0 3: what lies at 3 is taken off what lies at 0, which is 3; then all is 0, and it goes on.
    model.loop(*lsrl.machine.card(model, lsrl.machine.assemble("x: x x 0")), steps=WARM_UP)
    result = {"before": before, "compiled": compiled, "peak": peak_memory(), "seconds": seconds}
    print(json.dumps(result))


if __name__ == "__main__":
    app()
