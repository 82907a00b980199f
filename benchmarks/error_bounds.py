"""How close error bounds are to errors: bound over greatest seen error, of continuous programs.

A bound that is far above what can be seen is right, and of no use. Each program is random, of
continuous inputs, and runs on sequences that reach the ends of its ranges.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import typer

import lsrl
from benchmarks.common import Output, Table, machine, number, say
from lsrl import Program, Signal, Token, Vector
from lsrl.errors import LsrlError

Array = npt.NDArray[np.float64]

TOKENS = 64
SEQUENCES = 64
PROGRAMS = 200
OPS = 5
WIDTH = 2


class Ratios(NamedTuple):
    """Of the programs on one target.

    Attributes:
      ratios: bound over seen error, of those with a finite bound and an error that was seen.
      finite: how many have a finite bound.
      held: how many the target holds, not exactly.
    """

    ratios: list[float]
    finite: int
    held: int


def continuous_program(seed: int) -> Program:
    """A random program of a continuous vector and a bit; equal seeds give equal programs.

    Five ops, each of the value before and now and then of an earlier one: affine maps, ReLUs,
    decays, running sums, delays, maxima, absolute values, selections by the bit.
    """
    rng = np.random.default_rng(seed)

    def chain(x: Signal, bit: Signal) -> Signal:
        values = [x]
        for _ in range(OPS):
            values.append(_applied(rng, values[-1], values[rng.integers(len(values))], bit))
        return values[-1]

    @lsrl.program(max_length=TOKENS, name=f"continuous_{seed}")
    def continuous(x: Vector(WIDTH, low=-1, high=1), bit: Token(2)):  # type: ignore[valid-type,no-untyped-def]
        return chain(x, bit == 1)

    return continuous


def _applied(rng: np.random.Generator, value: Signal, other: Signal, bit: Signal) -> Signal:
    weights = rng.uniform(-1, 1, (WIDTH, WIDTH))
    bias = rng.uniform(-0.5, 0.5, WIDTH)
    ops: list[Callable[[], Signal]] = [
        lambda: lsrl.concat(*((value * row).sum() for row in weights)) + bias,
        lambda: lsrl.relu(value + bias),
        lambda: lsrl.linear_state(value, float(rng.uniform(0.3, 0.95))),
        lambda: lsrl.cumsum(0.1 * value),
        lambda: lsrl.delay(value, int(rng.integers(1, 4))) - other,
        lambda: lsrl.maximum(value, other),
        lambda: lsrl.absolute(value + 0.3 * other),
        lambda: lsrl.select(bit, value, other + bias),
    ]
    return ops[rng.integers(len(ops))]()


def inputs(seed: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Random sequences that float32 holds, the first two at the ends of the range."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (SEQUENCES, TOKENS, WIDTH)).astype(np.float32).astype(np.float64)
    values[0], values[1] = 1, -1
    return values, rng.integers(0, 2, (SEQUENCES, TOKENS))


def measure(target: str, programs: int) -> Ratios:
    """Compile and run so many programs on a target, in float32."""
    ratios, finite, held = [], 0, 0
    for seed in range(programs):
        program = continuous_program(seed)
        try:
            model = lsrl.compile(program, target)
        except LsrlError:
            continue
        if model.certificate.exact:
            continue
        bound, held = model.certificate.error_bound, held + 1
        if not np.isfinite(bound):
            continue
        finite += 1
        given = inputs(seed)
        # Rationals of float32 inputs and float64 weights are slow, and float64 errs far less.
        expected = reference(program, given)
        seen = float(np.abs(model.run(*given).astype(np.float64) - expected).max())
        if seen > 0:
            ratios.append(bound / seen)
    return Ratios(ratios, finite, held)


def reference(program: Program, given: tuple[Array, npt.NDArray[np.int64]]) -> Array:
    """The program in float64."""
    from lsrl.ir.evaluate import evaluate

    values, bits = given
    graph = program.graph
    found: Array = evaluate(graph, [values, bits], exact=False)[graph.output]
    return found


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the programs.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Measure every target and write the table."""
    described, rows = machine(), []
    programs = PROGRAMS // 10 if quick else PROGRAMS
    for name in (found.name for found in lsrl.targets()):
        say(name)
        found = measure(name, programs)
        if found.ratios:
            median, high = np.percentile(found.ratios, [50, 90])
            rows.append({
                "target": name, "programs": found.held, "median": number(float(median)),
                "high": number(float(high)), "finite": number(100 * found.finite / found.held),
            })  # fmt: skip
    columns = {
        "target": "target", "programs": "programs", "median": "median",
        "high": "90th percentile", "finite": "finite bounds, %",
    }  # fmt: skip
    table = Table("ratios", "Bound over greatest seen error", columns, rows)
    findings = [
        f"Bound over the greatest error seen in {SEQUENCES} sequences of {TOKENS} tokens, of "
        f"{programs} random continuous programs, float32; programs are those that the target holds "
        "and that are not exact.",
        "A ReLU of continuous values takes two units of a GRU, and two gates that read one sum: "
        "where it is 0 but for rounding, one may be open and the other shut, so the bound counts "
        "a whole value. It was never seen.",
    ]
    Output.of("error_bounds", quick, output).write(
        "How close error bounds are", described, [table], findings, None
    )


if __name__ == "__main__":
    typer.run(main)
