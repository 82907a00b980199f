"""Programs in the unmodified classes of today: Mamba-2's six and those of Gated DeltaNet, bit for bit.

A program is compiled, written as a class, and read again by transformers alone. Random sequences are
then run by the program's plain reference, by our blocks and by the class: whole, token by token from
the cache, in two parts, filled up on the left behind a mask, and as texts that `generate` goes on
with. Rows are kept in build/modern, so a run that was broken off goes on where it stopped; rows of
other code are made again. All of it takes hours; `--quick` tries it out in minutes.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import transformers
import typer

import lsrl
from benchmarks.common import REPEATS, ROOT, Output, Table, machine, number, say
from benchmarks.torch_models import BARS, compare_residual
from benchmarks.torch_suite import SHARPNESS, as_tensors, embedded, headless_model, language_model
from lsrl import cache
from lsrl.errors import LsrlError, PrecisionError, UnsupportedOpError
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.programs import Entry
from lsrl.testing.checkpoints import WAYS, differing, made

KEPT = ROOT / "build" / "modern"
SEQUENCES, TOKENS, LONG = 100, 1000, 200_000
GENERATED = 50
# Classes that hold the same mixers as the target's own, and programs to try them with: sums, a
# clock, holds, ReLUs, delays and products.
CLASSES = {
    "mamba2": ("granite", "falcon_h1", "nemotron_h", "bamba", "zamba2"),
    "deltanet": ("qwen3_next",),
}
OTHERS = ("majority", "copy_delay", "flip_flop", "dyck1", "induction_head", "reset_sum")
# As large as people use them by default, and tested by their own interpreters.
COMPUTERS = ("subleq", "fleq", "subleq_lm")

# Tables of automata: (states, symbols), the state that follows.
MOD_5_WITH_RESET = tuple(
    tuple([*((state + more) % 5 for more in range(5)), 0]) for state in range(5)
)
T3 = ((1, 1, 0), (2, 0, 1), (0, 2, 0))
T4 = ((1, 1, 1), (2, 0, 1), (3, 2, 2), (0, 3, 3))

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


# ---------------------------------------------------------------- which


def cases(target: str) -> Iterator[Case]:
    """The library, and some of it in the other classes."""
    library = lsrl.programs.catalogue()
    for name, entry in library.items():
        if name not in COMPUTERS:
            # As long as the program is by default, since the samples are short for the tests' sake.
            settings = {k: v for k, v in entry.parameters[0].items() if k != "max_length"}
            yield Case(target, "", name, entry, settings)
    for architecture, name in product(CLASSES.get(target, ()), OTHERS):
        yield Case(target, architecture, name, library[name], {})


def unlimited(target: str) -> Iterator[Case]:
    """What follows a state at any length."""
    library = lsrl.programs.catalogue()
    automata = {"mod 5 with reset": MOD_5_WITH_RESET, "T3": T3, "T4": T4}
    named: list[tuple[str, str, Mapping[str, object]]] = [
        ("parity", "parity", {}),
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
        ("recall of 1,024 keys", "recall_overwriting", {"keys": 1024, "values": 64}),
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


def row_of(case: Case, sequences: int, tokens: int, long: int) -> Row:
    """What a class makes of a program; reasons where there is no such model."""
    row: Row = {"target": case.target, "class": case.architecture, "program": case.label}
    began = time.process_time()
    program = case.entry.program(**case.settings)
    try:
        model = lsrl.compile(program, case.target)
    except (UnsupportedOpError, PrecisionError) as error:
        return {**row, "refused": f"{type(error).__name__}: {error}".splitlines()[0]}
    row |= {
        "layers": model.num_layers, "width": model.width, "parameters": model.num_parameters,
        "certificate": model.certificate.verdict, "compiled": time.process_time() - began,
    }  # fmt: skip
    sample = drawn(case, sequences, tokens)
    row |= {"sequences": sequences, "tokens": sample.expected.shape[1]}
    try:
        with tempfile.TemporaryDirectory() as folder:
            row |= compared(model, case, sample, Path(folder, "model"), long)
    except LsrlError as error:
        row["refused"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return {**row, "seconds": time.process_time() - began}


def compared(model: Model, case: Case, sample: Sample, folder: Path, long: int) -> Row:
    """The class beside the program and beside our blocks."""
    options = {"architecture": case.architecture} if case.architecture else {}
    loaded = language_model(model, folder, **options) or headless_model(model, folder, **options)
    ours = model.run(*sample.inputs)
    allowed = (
        0.0 if model.certificate.exact else model.certificate.error_bound + case.entry.tolerance
    )
    row: Row = {
        "class": loaded.theirs.config.architectures[0],
        "ours wrong": wrong(ours, sample, allowed),
    }
    inputs = embedded(loaded, as_tensors(sample.inputs))
    whole = made(loaded.theirs, inputs)
    if loaded.head:
        told = whole.numpy()
        k = np.append(np.arange(told.shape[-1] - 2), [-1, -1])
        right = SHARPNESS * (2 * k * sample.expected - k**2)
        row["wrong"] = int((told != right).any(axis=-1).sum())
        symbols = told.shape[-1] - 2
        blocks = model.module.logits((sample.inputs[0].astype(np.int32),), symbols)
        # A head may need a layer that our own network has not.
        if loaded.hooks:
            row["other bits"] = int((told[..., :symbols] != blocks).any(axis=-1).sum())
    else:
        outputs = (whole @ loaded.output).numpy()
        row["wrong"] = wrong(outputs, sample, allowed)
        row["other bits"] = int((outputs != ours).any(axis=-1).sum())
    row |= differing(loaded.theirs, inputs, whole)
    if loaded.head:
        row |= generated(model, loaded.theirs, sample)
    if long and model.program.max_length is None:
        row |= long_run(loaded, case, long)
    return row


def wrong(outputs: Array, sample: Sample, allowed: float) -> int:
    """At how many tokens outputs are further off than is allowed."""
    return int((np.abs(outputs - sample.expected) > allowed).any(axis=-1).sum())


def generated(model: Model, theirs: Any, sample: Sample) -> Row:
    """Tokens in which texts of both go on otherwise, where what comes out may go in."""
    program = model.program
    (kind,) = program.inputs.values()
    ids = np.asarray(sample.inputs[0])
    start = max(1, min(ids.shape[1] // 2, (program.max_length or ids.shape[1]) - GENERATED))
    if program.output_type is None or program.output_type.size > kind.size:
        return {"generated": None}
    steps = min(GENERATED, (program.max_length or GENERATED + start) - start + 1)
    try:
        ours = model.generate(ids[:, :start], steps)
    except LsrlError:  # texts that break the program's promises
        return {"generated": None}
    with torch.no_grad():
        found = theirs.generate(
            torch.from_numpy(ids[:, :start]), max_new_tokens=steps, do_sample=False,
            attention_mask=torch.ones(len(ids), start, dtype=torch.long),
        )  # fmt: skip
    return {"generated": int((found[:, start:].numpy() != ours).sum())}


def long_run(loaded: Any, case: Case, tokens: int) -> Row:
    """Wrong tokens of one long sequence, by the recurrent layers in one pass."""
    sample = drawn(case, 1, tokens)
    theirs = loaded.theirs
    hidden = embedded(loaded, as_tensors(sample.inputs))
    base = theirs.base_model
    with torch.no_grad():
        if not hidden.is_floating_point():
            hidden = theirs.get_input_embeddings()(hidden)
        # Behind them there may be a layer of attention that adds 0, and takes the square of the time.
        for layer in base.layers[: theirs.config.lsrl["layers"]]:
            found = layer(hidden, attention_mask=None)
            hidden = found[0] if isinstance(found, tuple) else found
        hidden = getattr(base, "norm_f", None or getattr(base, "norm", None))(hidden)
        if loaded.head:
            answers = torch.cat(
                [theirs.lm_head(part).argmax(-1) for part in hidden.split(1000, 1)], 1
            )
            return {
                "long": tokens,
                "long wrong": int((answers.numpy() != sample.expected[..., 0]).sum()),
            }
        outputs = (hidden @ loaded.output).numpy()
    return {"long": tokens, "long wrong": wrong(outputs, sample, 0.0)}
