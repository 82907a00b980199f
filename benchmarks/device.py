"""What holds, and how fast, on the accelerator at hand: self-tests, exactness, the roofline.

Every program of the library on every target is run in both modes against the reference evaluator.
Nothing depends on an accelerator; where there is none, the page says so.
"""

from pathlib import Path
from typing import Annotated

import jax
import typer

import lsrl
from benchmarks import roofline
from benchmarks.common import Output, Table, machine, number, say
from benchmarks.limits import measure_limits
from lsrl.errors import PrecisionError, SelfTestError, UnsupportedOpError


def check_catalogue(only: int | None = None) -> Table:
    """self_test, and with it exactness, of every program on every target.

    Args:
      only: so many programs; None for all.
    """
    rows = []
    for name, entry in list(lsrl.programs.catalogue().items())[:only]:
        row = {"program": name}
        for target in (info.name for info in lsrl.targets()):
            try:
                model = lsrl.compile(entry.program(**entry.parameters[0]), target)
                model.self_test(sequences=2, length=24)
                row[target] = "equal" if model.certificate.exact else "within its bound"
            except UnsupportedOpError:
                row[target] = "refused"
            except PrecisionError:
                row[target] = "no room"
            except SelfTestError as error:
                row[target] = f"DIFFERS: {error}"
        rows.append(row)
        say(f"{name}: {', '.join(value for key, value in row.items() if key != 'program')}")
    return Table(
        "exactness",
        "Every program on every target, against the reference",
        {"program": "program", **{info.name: info.name for info in lsrl.targets()}},
        rows,
        "Random and extreme inputs, whole sequences and step by step. Equal: at every token, bit "
        "for bit. Refused: the target can't hold it. No room: float32 is too narrow.",
    )


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Check and measure compiled models on the accelerator at hand."""
    device = jax.devices()[0]
    described = machine() | {"device": f"{device.device_kind} ({jax.default_backend()})"}
    exactness = check_catalogue(3 if quick else None)
    sizes = roofline.QUICK if quick else roofline.Sizes()
    limits = measure_limits(sizes.repeats)
    table = roofline.measure_models(limits, sizes)
    cells = [value for row in exactness.rows for key, value in row.items() if key != "program"]
    wrong = [value for value in cells if value.startswith("DIFFERS")]
    found = [
        f"On {device.device_kind}, {number(limits.memory / 1e9)} GB and "
        f"{number(limits.operations / 1e9)} thousand million operations a second."
        if jax.default_backend() != "cpu"
        else "No accelerator is at hand: these are results of the CPU.",
        f"{len(cells) - len(wrong)} of {len(cells)} pairs of a program and a target hold what the "
        f"certificate says or are refused; {len(wrong)} differ.",
        *roofline.findings(table),
    ]
    Output.of("device", quick, output).write(
        "The device at hand",
        described,
        [exactness, limits.table(), table],
        found,
        roofline.draw,
    )


if __name__ == "__main__":
    typer.run(main)
