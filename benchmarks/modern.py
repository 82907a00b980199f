"""Programs in the unmodified classes of today, Mamba-2's six and those of Gated DeltaNet.

A program is compiled, written as a class, and read again by transformers alone. Random sequences
are run by the program's plain reference, by our blocks and by the class: whole, token by token from
the cache, in two parts, filled up on the left behind a mask, and as texts that `generate` goes on
with. All have to agree bit for bit. Rows are kept in build/modern, so a run that was broken off
goes on where it stopped; rows of other code are made again. All of it takes hours, and `--quick`
minutes.
"""

import json
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import transformers
import typer

import lsrl
from benchmarks.common import REPEATS, ROOT, Output, Table, machine, number, say
from benchmarks.huggingface_classes import compared
from benchmarks.torch_models import BARS, compare_residual
from benchmarks.torch_suite import as_tensors
from lsrl import cache
from lsrl.backends import registry
from lsrl.errors import LsrlError, PrecisionError, UnsupportedOpError
from lsrl.interpret.wiring import forget_compiled
from lsrl.ir import ops
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.programs import Entry
from lsrl.suite.build import in_order
from lsrl.testing.checkpoints import Checkpoint, made, made_from_cache, read_checkpoint

KEPT = ROOT / "build" / "modern"
GENERATED = 4
# Classes that hold the same mixers as the target's own.
CLASSES = {
    "mamba2": ("granite", "falcon_h1", "nemotron_h", "bamba", "zamba2"),
    "deltanet": ("qwen3_next",),
}
# Programs to try them with: sums, delays, holds, ReLUs and products; without reflections no sums.
OTHERS = {
    "mamba2": ("majority", "copy_delay", "flip_flop", "dyck1", "induction_head", "reset_sum"),
    "deltanet": (
        "copy_delay", "flip_flop", "induction_head", "associative_recall", "ngram",
        "key_value_store",
    ),
}  # fmt: skip
# As large as people use them by default, and tested by their own interpreters.
COMPUTERS = ("subleq", "fleq", "subleq_lm")

# Tables of automata: (states, symbols), the state that follows.
MOD_5_WITH_RESET = tuple((*((state + more) % 5 for more in range(5)), 0) for state in range(5))
T3 = ((1, 1, 0), (2, 0, 1), (0, 2, 0))
T4 = ((1, 1, 1), (2, 0, 1), (3, 2, 2), (0, 3, 3))

# What is counted by `huggingface_classes.compared`, and what the page calls it.
WAYS = {
    "ours": "whole from ours",
    "stepwise": "stepwise",
    "generated": "generated",
    "parts": "in two parts",
    "padded": "filled up",
    "again": "saved again",
}
Row = dict[str, str | int | float | None]


class Case(NamedTuple):
    """A program in a class.

    Attributes:
      target: as for `lsrl.compile`.
      architecture: as for `Model.export`; "" for the target's own class.
      label: of the program.
      entry: of the library.
      settings: its parameters.
    """

    target: str
    architecture: str
    label: str
    entry: Entry
    settings: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.label} on {self.target}" + (
            f" as {self.architecture}" * bool(self.architecture)
        )


class Sizes(NamedTuple):
    """How much is run.

    Attributes:
      sequences: random ones of each program.
      tokens: of each, or as many as the program takes.
      long: of one more, where any length is legal.
    """

    sequences: int = 100
    tokens: int = 1000
    long: int = 200_000


# ---------------------------------------------------------------- which


def cases(target: str) -> Iterator[Case]:
    """The library, and some of it in the other classes."""
    library = lsrl.programs.catalogue()
    for name, entry in library.items():
        if name not in COMPUTERS:
            # As long as the program is by default, since the samples are short for the tests' sake.
            settings = {k: v for k, v in entry.parameters[0].items() if k != "max_length"}
            yield Case(target, "", name, entry, settings)
    for architecture, name in product(CLASSES.get(target, ()), OTHERS.get(target, ())):
        yield Case(target, architecture, name, library[name], {})


def unlimited(target: str) -> Iterator[Case]:
    """What follows a state at any length."""
    library = lsrl.programs.catalogue()
    automata = {"mod 5 with reset": MOD_5_WITH_RESET, "T3": T3, "T4": T4}
    named: list[tuple[str, str, Mapping[str, object]]] = [
        ("parity at any length", "parity", {}),
        ("swaps of S5", "swaps", {"n": 5}),
        *(
            (f"permutations of {group}", "permutations", {"group": group})
            for group in ("S3", "S5", "A5")
        ),
        *(
            (f"dfa {number}", "dfa", given)
            for number, given in enumerate(library["dfa"].parameters)
        ),
        *((label, "dfa", {"table": table}) for label, table in automata.items()),
        ("state_recall of 5", "state_recall", {"n": 5, "values": 20}),
        ("recall of 1,024 keys", "key_value_store", {"keys": 1024, "values": 64}),
    ]
    for label, name, settings in named:
        yield Case(target, "", label, library[name], {**settings, "max_length": None})


# ---------------------------------------------------------------- a row


class Sample(NamedTuple):
    """Sequences of one length, and what the program answers.

    Attributes:
      inputs: one array an input, (sequences, time[, width]).
      expected: (sequences, time, outputs).
    """

    inputs: Sequence[Array]
    expected: Array


def drawn(case: Case, sequences: int, tokens: int) -> Sample:
    """Random legal inputs, cut to the shortest."""
    random = np.random.default_rng(0)
    some = [case.entry.sample(random, tokens, **case.settings) for _ in range(sequences)]
    shortest = min(len(inputs[0]) for inputs in some)
    inputs = [np.stack([x[:shortest] for x in arrays]) for arrays in zip(*some, strict=True)]
    expected = [
        case.entry.expected(tuple(x[row] for x in inputs), **case.settings)
        for row in range(sequences)
    ]
    return Sample(inputs, np.stack(expected))


def row_of(case: Case, sizes: Sizes) -> Row:
    """What a class makes of a program; reasons where there is no such model."""
    began = time.process_time()
    program = case.entry.program(**case.settings)
    try:
        model = lsrl.compile(program, case.target)
    except (UnsupportedOpError, PrecisionError) as error:
        return {"refused": f"{type(error).__name__}: {error}".splitlines()[0]}
    row: Row = {
        "layers": model.num_layers, "width": model.width, "parameters": model.num_parameters,
        "certificate": model.certificate.verdict,
    }  # fmt: skip
    sample = drawn(case, sizes.sequences, sizes.tokens)
    row |= {"sequences": sizes.sequences, "tokens": sample.expected.shape[1]}
    long = sizes.long if case.settings.get("max_length", 0) is None else 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            row |= compared_row(model, case, sample, Path(folder, "model"), long)
    except LsrlError as error:
        row["refused"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return {**row, "seconds": time.process_time() - began}


def compared_row(model: Model, case: Case, sample: Sample, folder: Path, long: int) -> Row:
    """The class beside the program and beside our blocks."""
    model.export("huggingface", folder, architecture=case.architecture or None)
    exact, ours = model.certificate.exact, model.run(*sample.inputs)
    allowed = 0.0 if exact else model.certificate.error_bound + case.entry.tolerance
    row: Row = {"wrong": wrong(ours, sample, allowed)}
    checkpoint = read_checkpoint(folder)
    row["class"] = checkpoint.theirs.config.architectures[0]
    if checkpoint.head:
        found = compared(model, folder, sample.inputs[0], generated=GENERATED)
        row |= {name: getattr(found, name) for name in WAYS}
    else:
        row |= headless(checkpoint, sample, ours)
    return row | (long_run(checkpoint, case, long) if long else {})


def headless(checkpoint: Checkpoint, sample: Sample, ours: Array) -> Row:
    """A class without a head has no texts to generate or to fill up."""
    theirs, inputs = checkpoint.theirs, checkpoint.fed(as_tensors(sample.inputs))
    whole, time = made(theirs, inputs), inputs.shape[1]
    parts = {"stepwise": [1] * time}
    if theirs.config.lsrl["continues"] and time > 1:
        parts["parts"] = [time // 3 + 1, time - time // 3 - 1]
    return {
        "ours": int((checkpoint.told(whole).numpy() != ours).any(axis=-1).sum()),
        **{
            name: int((made_from_cache(theirs, inputs, lengths) != whole).any(-1).sum())
            for name, lengths in parts.items()
        },
    }


def wrong(outputs: Array, sample: Sample, allowed: float) -> int:
    """At how many tokens outputs are further off than is allowed."""
    return int((np.abs(outputs - sample.expected) > allowed).any(axis=-1).sum())


def long_run(checkpoint: Checkpoint, case: Case, tokens: int) -> Row:
    """Wrong tokens of one long sequence, by the recurrent layers in one pass."""
    sample, theirs = drawn(case, 1, tokens), checkpoint.theirs
    hidden = checkpoint.fed(as_tensors(sample.inputs))
    found = 0
    with torch.no_grad():
        if not hidden.is_floating_point():
            hidden = theirs.get_input_embeddings()(hidden)
        base = theirs.base_model
        # Behind them there may be one of attention that adds 0, and takes the square of the time.
        for layer in base.layers[: theirs.config.lsrl["layers"]]:
            hidden = layer(hidden, attention_mask=None)
        (norm,) = (getattr(base, name) for name in ("norm", "norm_f") if hasattr(base, name))
        for start, part in zip(range(0, tokens, 1000), norm(hidden).split(1000, 1), strict=False):
            expected = sample.expected[:, start : start + 1000]
            told = checkpoint.told(theirs.lm_head(part) if checkpoint.head else part)
            answers = told.argmax(-1, keepdim=True) if checkpoint.head else told
            found += int((answers.numpy() != expected).any(axis=-1).sum())
    return {"long": tokens, "long wrong": found}


# ---------------------------------------------------------------- rows


def kept(case: Case) -> Path:
    """Where its row is."""
    return KEPT / f"{case}.json".replace(" ", "_").replace(",", "")


def finished(case: Case, sizes: Sizes) -> Row:
    """The row of a case: out of its file if the code is the same, else made and kept there."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # layers are small
    path, code = kept(case), f"{cache.code()} {sizes}"
    known: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("code") == code:
        return known
    row: Row = {"target": case.target, "class": case.architecture, "program": case.label}
    try:
        row |= row_of(case, sizes)
    except Exception:  # what fails is a finding, and the sweep goes on
        row["failed"] = traceback.format_exc()[-1500:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**row, "code": code}, indent=1), encoding="utf-8")
    say(f"{case}: {verdict(row)}; {row.get('seconds', 0):.0f} s")
    forget_compiled()
    return row


COUNTS = ("wrong", *WAYS, "long wrong")


def verdict(row: Row) -> str:
    """In a word."""
    if "failed" in row:
        return str(row["failed"]).strip().splitlines()[-1]
    if "refused" in row:
        return f"refused: {row['refused']}"
    off = [f"{name}: {row[name]}" for name in COUNTS if row.get(name)]
    return ", ".join(off) or "equal"


# ---------------------------------------------------------------- the page


def table_of(name: str, title: str, rows: Sequence[Row], note: str) -> Table:
    """One row a program."""
    sizes = {
        "program": "program",
        "class": "class",
        "layers": "layers",
        "width": "d",
        "parameters": "parameters",
    }
    counts = {
        "sequences": "sequences", "tokens": "tokens", "wrong": "wrong", **WAYS,
        "long": "one of", "long wrong": "of these wrong",
    }  # fmt: skip
    used = {
        key: text for key, text in counts.items() if any(row.get(key) is not None for row in rows)
    }
    return Table(name, title, {**sizes, **used}, [row for row in rows if "wrong" in row], note)


def absent_table(rows: Sequence[Row]) -> Table:
    """What there is no model of, or what failed."""
    found = [
        {
            "program": row["program"], "target": row["target"], "class": row["class"],
            "reason": verdict(row),
        }
        for row in rows
        if "refused" in row or "failed" in row
    ]  # fmt: skip
    columns = {name: name for name in ("program", "target", "class", "reason")}
    return Table("absent", "Refused", columns, found, "The reason's first line.")


def findings(rows: Mapping[str, Sequence[Row]], times: Table | None) -> list[str]:
    """What the tables say, in sentences."""
    found = []
    for title, some in rows.items():
        run = [row for row in some if "wrong" in row]
        off = [row for row in run if any(row.get(name) for name in COUNTS)]
        tokens = sum(int(row["sequences"] or 0) * int(row["tokens"] or 0) for row in run)
        named = ", ".join(f"{row['program']} ({row['class']}): {verdict(row)}" for row in off)
        found.append(
            f"{title}: {len(run)} programs in classes, {tokens:,} tokens each way; "
            f"{len(run) - len(off)} equal in every bit{f'; not: {named}' if named else ''}."
        )
    if times is not None:
        worst = max(times.rows, key=lambda row: row["ratio"])
        found.append(
            f"At most {number(worst['ratio'])} times transformers' time ({worst['program']} on "
            f"{worst['target']}, {worst['mode']}, batch {worst['batch']}; bar: "
            f"{BARS['residual']:g})."
        )
    return found


NOTE = (
    "Tokens of all sequences at which anything differs: Model.run from the program's plain "
    "reference; the class on whole sequences from Model.run, in any bit of any logit (of any "
    "output, where it has no head); and in other ways from itself on whole sequences, as "
    "benchmarks/huggingface_classes.py says of each. A dash: it makes no sense, or the class can't."
)


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    target: Annotated[list[str] | None, typer.Option(help="Some targets; to build/.")] = None,
    program: Annotated[list[str] | None, typer.Option(help="Some programs; to build/.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Programs at a time.")] = 2,
    times: Annotated[bool, typer.Option(help="Time both sides, too.")] = True,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Compare programs with themselves in the classes of transformers."""
    described = machine()
    sizes = Sizes(4, 40, 2000) if quick else Sizes()
    groups: dict[str, list[Case]] = {}
    for name in target or list(CLASSES):
        groups[f"The library on {name}"] = list(cases(name))
        if ops.SwapState in registry.find(name).capabilities.native:
            groups[f"States at any length on {name}"] = list(unlimited(name))
    chosen = {
        title: [case for case in some if not program or case.label in program]
        for title, some in groups.items()
    }
    every = [case for some in chosen.values() for case in some]
    work = partial(finished, sizes=sizes)
    made_rows = iter(in_order(work, every, workers, None, "modern"))
    rows = {title: [next(made_rows) for _ in some] for title, some in chosen.items()}
    tables = [
        table_of(f"rows_{place}", title, some, NOTE)
        for place, (title, some) in enumerate(rows.items())
        if some
    ]
    tables.append(absent_table([row for some in rows.values() for row in some]))
    timed = None
    if times:
        size = (60, 10) if quick else (500, 50)
        timed = compare_residual(*size, REPEATS, tuple(target or CLASSES))
        tables.append(timed)
    some = quick or target is not None or program is not None
    Output.of("modern", some, output).write(
        "In the classes of today", described, [t for t in tables if t.rows],
        findings(rows, timed), None,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
