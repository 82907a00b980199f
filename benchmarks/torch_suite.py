"""Every model of the suite in plain torch or transformers: outputs, and what hooks see of it.

A model is exported in each way that holds it, loaded with nothing of ours (`lsrl.load_torch` is the
exception, which the linear targets need), and run on sequences of its dataset with a hook at every
layer of its circuit. Outputs are compared with `Model.run`, hooks with `interpret.activations`, and
the signals that are read of them by the circuit's channels with `interpret.capture`.

Rows are kept in build/torch_suite, a file a program and target, so a run that was broken off goes
on where it stopped; rows of other code are made again, and `--finished` makes the page of those
that there are, of whatever code.
"""

import json
import os
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import transformers
import typer
from safetensors.torch import load_file

import lsrl
from benchmarks.common import ROOT, Output, Table, machine, say
from lsrl import cache, interpret
from lsrl.circuit import Circuit
from lsrl.errors import LsrlError
from lsrl.interpret.wiring import forget_compiled, quick_flags
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.suite.build import in_order
from lsrl.suite.datasets import Split
from lsrl.suite.manifest import Refusal
from lsrl.suite.on_demand import held_and_refused
from lsrl.suite.programs import check_names
from lsrl.suite.programs import programs as suite_programs
from lsrl.suite.variants import DEFAULT, VARIANTS
from lsrl.testing.checkpoints import Checkpoint, made, read_checkpoint

KEPT = ROOT / "build" / "torch_suite"
# Sequences that are run; as many as variants are measured on, whose compiled code then serves here.
SEQUENCES = 64
# Of what nothing is proven: how far two orders of a sum, or two libraries' tanh, may differ, as a
# part of the largest number that a unit holds, or of 1.
ROUNDING = 2.0**-12
# A head's logits are this times 2 k y - k^2.
SHARPNESS = 16

Row = dict[str, str | float | bool | None]
Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]


class Loaded(NamedTuple):
    """A model outside LSRL.

    Attributes:
      run: tensors, one an input, to outputs (batch, time, outputs), or to the logits of a head.
      hooks: modules in the order of the circuit's layers, and whether what comes in is meant.
      circuit: what says where signals are.
      head: whether `run` gives logits.
    """

    run: Run
    hooks: Sequence[tuple[torch.nn.Module, bool]]
    circuit: Circuit
    head: bool = False


Way = Callable[[Model, Path], Loaded | None]


# ---------------------------------------------------------------- ways out


def stock_modules(model: Model, folder: Path) -> Loaded | None:
    """Modules of torch.nn alone, one a layer; None of what torch has no class for."""
    model.export("torch", folder, layers="separate")
    parts = json.loads((folder / "config.json").read_text())["modules"].items()
    if not all(hasattr(torch.nn, part["class"]) for _, part in parts):
        return None
    plain = torch.nn.ModuleDict(
        {name: getattr(torch.nn, part["class"])(**part["arguments"]) for name, part in parts}
    )
    plain.load_state_dict(load_file(folder / "weights.safetensors"), assign=True)
    layers = [plain[f"layer_{k}"] for k in range(1, model.num_layers + 1)]
    embedded = torch.nn.Identity()  # where the inputs are added up

    def run(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        parts = [plain[f"input_{k}"](each) for k, each in enumerate(inputs)]
        hidden = embedded(sum(parts[1:], parts[0]))
        for layer in layers:
            hidden, _ = layer(hidden)
        return plain["output"](hidden)

    return Loaded(run, [(module, False) for module in (embedded, *layers)], model.circuit)


def one_module(model: Model, folder: Path) -> Loaded | None:
    """`lsrl.load_torch` of the stacked layers."""
    model.export("torch", folder)
    module = lsrl.load_torch(folder)
    hooks = [(module.layer(k), False) for k in range(model.num_layers + 1)]
    return Loaded(lambda inputs: module(*inputs), hooks, model.circuit)


def language_model(model: Model, folder: Path) -> Loaded | None:
    """A class of transformers with its head; None where the program has no token in and out."""
    model.export("huggingface", folder)
    found = read_checkpoint(folder)
    if not found.head:
        return None
    hooks, width = residual_hooks(found.theirs), found.theirs.config.hidden_size
    # A head may need a layer more, and then another layout.
    same = len(hooks) == len(model.circuit.units) and width == model.module.width
    return Loaded(_runs(found), hooks if same else [], model.circuit, head=True)


def headless_model(model: Model, folder: Path) -> Loaded | None:
    """A class of transformers without its head, with the maps beside it."""
    model.export("huggingface", folder, headless=True)
    found = read_checkpoint(folder)
    return Loaded(_runs(found), residual_hooks(found.theirs), Circuit.load(folder / "circuit.json"))


def _runs(checkpoint: Checkpoint) -> Run:
    return lambda inputs: checkpoint.told(made(checkpoint.theirs, checkpoint.fed(inputs)))


def residual_hooks(theirs: torch.nn.Module) -> list[tuple[torch.nn.Module, bool]]:
    """Where a class of transformers holds the circuit's layers, as its configuration says."""
    named = theirs.config.lsrl["hooks"]
    return [(theirs.base_model.get_submodule(name), end == "input") for name, end in named]


# By a format's name, which targets say, the ways to have it.
WAYS: Mapping[str, Mapping[str, Way]] = {
    "torch": {"torch.nn": stock_modules, "load_torch": one_module},
    "huggingface": {"with a head": language_model, "without a head": headless_model},
}


# ---------------------------------------------------------------- comparing


class Ours(NamedTuple):
    """What a model gives on sequences of its dataset.

    Attributes:
      inputs: one an input.
      outputs: (batch, time, outputs).
      hooks: of each layer.
      signals: by name.
      allowed: how far outputs may differ: by nothing where the certificate says exact, else by its
        bound; where it has none, by the error that the card has measured, or `ROUNDING`.
      long: the split of long sequences, if there is one and something is certified of outputs.
    """

    inputs: Sequence[Array]
    outputs: Array
    hooks: Sequence[Array]
    signals: Mapping[str, Array]
    allowed: float
    long: Split | None


def ours_of(model: Model, program: str) -> Ours:
    """Run a model on the validation split of its dataset."""
    splits = lsrl.suite.load_data(program).splits
    # Where there are few sequences, they are run several times.
    rows = np.resize(np.arange(len(splits["validation"])), SEQUENCES)
    inputs = [array[rows] for array in splits["validation"].arrays]
    outputs, certificate = model.run(*inputs), model.certificate
    allowed = 0.0 if certificate.exact else float(certificate.error_bound)
    certified = bool(np.isfinite(allowed))
    if not certified:
        measured = 0.0 if model.card is None else model.card.measured.error
        allowed = max(measured, ROUNDING * max(1.0, float(np.abs(outputs).max())))
    return Ours(
        inputs,
        outputs,
        interpret.activations(model, *inputs),
        interpret.capture(model, *inputs),
        allowed,
        splits.get("long") if certified else None,
    )


def compared(loaded: Loaded, ours: Ours, exact: bool) -> Row:
    """Outputs and hooks of a model outside LSRL beside ours."""
    outputs, seen = hooked(loaded, as_tensors(ours.inputs))
    row = beside(loaded, outputs, ours.outputs, ours.allowed)
    if ours.long is not None:
        with torch.no_grad():
            further = loaded.run(as_tensors(ours.long.arrays)).numpy()
        # Further outputs are the heads of distractors and of merged programs.
        heads = slice(None) if loaded.head else slice(ours.long.outputs.shape[-1])
        found = beside(loaded, further[..., heads], ours.long.outputs, ours.allowed)
        row |= {f"long {key}": value for key, value in found.items()}
    if not seen:
        return {**row, "hooks": "another layout"}
    hooks = [
        differing(theirs[..., : own.shape[-1]], own)
        for theirs, own in zip(seen, ours.hooks, strict=True)
    ]
    errors = {
        "hook error": float(np.max(hooks)),
        "signal error": float(np.max([0.0, *signal_errors(loaded.circuit, seen, ours)])),
    }
    worst, allowed = float(np.max(list(errors.values()))), 0.0 if exact else ROUNDING
    return {**row, "hooks": verdict(worst, allowed), **errors}


def as_tensors(inputs: Sequence[Array]) -> list[torch.Tensor]:
    """Ids and vectors as torch has them."""
    kinds = {2: np.int64, 3: np.float32}
    return [torch.from_numpy(np.ascontiguousarray(x, kinds[x.ndim])) for x in inputs]


def hooked(loaded: Loaded, tensors: Sequence[torch.Tensor]) -> tuple[Array, list[Array]]:
    """Outputs, and what each hook sees meanwhile."""
    seen: dict[int, Array] = {}

    def hook(
        number: int, module: torch.nn.Module, before: bool
    ) -> torch.utils.hooks.RemovableHandle:
        def see(_module: torch.nn.Module, inputs: object, output: object = None) -> None:
            found = inputs if before else output
            seen[number] = (found[0] if isinstance(found, tuple) else found).numpy()

        add = module.register_forward_pre_hook if before else module.register_forward_hook
        return add(see)

    handles = [hook(number, *each) for number, each in enumerate(loaded.hooks)]
    with torch.no_grad():
        outputs = loaded.run(tensors).numpy()
    for handle in handles:
        handle.remove()
    return outputs, [seen[number] for number in range(len(handles))]


def beside(loaded: Loaded, theirs: Array, ours: Array, allowed: float) -> Row:
    """Outputs, or logits (batch, time, symbols and two more), beside (batch, time, outputs)."""
    if not loaded.head:
        error = float(np.abs(theirs.astype(np.float64) - ours).max())
        return {"outputs": verdict(error, allowed), "error": error}
    symbols = theirs.shape[-1] - 2
    k = np.append(np.arange(symbols), [-1, -1])
    if np.array_equal(theirs, SHARPNESS * (2 * k * ours - k**2)):
        return {"outputs": "equal", "error": 0.0}
    # The logit of 1 tells the output; where it lies between two symbols, either may be the answer.
    told = (theirs[..., 1:2].astype(np.float64) / SHARPNESS + 1) / 2 if symbols > 1 else ours
    error = float(np.abs(told - ours).max())
    answers = theirs.argmax(-1)[..., None]
    right = np.abs(answers - np.clip(ours, 0, symbols - 1)).max() <= 0.5 + error
    return {"outputs": verdict(error, allowed) if right else "differs", "error": error}


def verdict(error: float, allowed: float) -> str:
    """In a word; NaN differs."""
    return "equal" if error == 0 else "within" if error <= allowed else "differs"


def differing(theirs: Array, ours: Array) -> float:
    """The greatest difference, as a part of the largest number of its unit, or of 1."""
    scale = np.maximum(1.0, np.abs(ours).max(axis=(0, 1), initial=0.0))
    return float((np.abs(theirs.astype(np.float64) - ours) / scale).max(initial=0.0))


def signal_errors(circuit: Circuit, hooks: Sequence[Array], ours: Ours) -> Iterator[float]:
    """By channel, how far what it reads of the hooks lies from what `capture` says."""
    for channel in circuit.channels:
        # The constant that a stream holds is no signal of the program.
        if circuit.makes(channel) and channel.signal in ours.signals:
            units = hooks[channel.layer][..., list(channel.units)].astype(np.float64)
            read = units @ np.array(channel.weights) + channel.offset
            yield differing(read, ours.signals[channel.signal][..., channel.element])


# ---------------------------------------------------------------- rows


class Group(NamedTuple):
    """A program on a target; the text is for the progress bar."""

    program: str
    target: str

    def __str__(self) -> str:
        return f"{self.program} on {self.target}"


def kept(group: Group) -> Path:
    """Where the rows of a program on a target are."""
    return KEPT / f"{group.program}-{group.target}.json"


def rows_kept(group: Group, code: str | None) -> list[Row]:
    """The rows that there are of some code; of any if it is None."""
    path = kept(group)
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [row for row in rows if code is None or row["code"] == code]


def sweep(group: Group, variants: Sequence[str]) -> int:
    """Make the rows that lack; returns how many."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    code, began = cache.code(), time.process_time()
    known = rows_kept(group, code)
    lacking = [name for name in variants if all(name != row["variant"] for row in known)]
    found: list[Row] = []
    if lacking:
        for variant, model in held_and_refused(*group, lacking).items():
            begin: Row = {
                "program": group.program,
                "target": group.target,
                "variant": variant,
                "code": code,
            }
            if isinstance(model, Refusal):
                found.append({**begin, "way": None, "reason": model.reason})
            else:
                found += [{**begin, **row} for row in model_rows(model, group)]
        kept(group).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([*known, *found], indent=1)
        partial_file = kept(group).with_suffix(".part")
        partial_file.write_text(text, encoding="utf-8")
        partial_file.replace(kept(group))
        count = Counter(str(row.get("outputs", "no model")) for row in found)
        told = ", ".join(f"{number} {name}" for name, number in count.items())
        say(f"{group}: {told}; {time.process_time() - began:.1f} s")
    forget_compiled()
    return len(found)


def model_rows(model: Model, group: Group) -> Iterator[Row]:
    """A row for each way out of a model that its target has."""
    (info,) = (each for each in lsrl.targets() if each.name == group.target)
    exact = model.certificate.exact
    ours: Ours | None = None
    for way, load in (pair for form in info.formats for pair in WAYS[form].items()):
        row: Row = {"way": way, "exact": exact}
        try:
            with tempfile.TemporaryDirectory() as scratch:
                loaded = load(model, Path(scratch, "model"))
                if loaded is None:
                    continue
                ours = ours or ours_of(model, group.program)
                found = compared(loaded, ours, exact)
                yield {**row, **found, "allowed": ours.allowed}
        except LsrlError as error:
            yield {**row, "outputs": "refused", "reason": f"{type(error).__name__}: {error}"}
        except Exception:  # what fails is a finding, and the sweep goes on
            yield {**row, "outputs": "failed", "reason": traceback.format_exc()[-1500:]}


# ---------------------------------------------------------------- the page

OUTPUTS = ("equal", "within", "differs", "refused", "failed")
HOOKS = ("equal", "within", "differs", "another layout")


def ways_table(rows: Sequence[Row]) -> Table:
    """By target and way, how many models are what."""
    found = []
    for target, way in dict.fromkeys((row["target"], row["way"]) for row in rows):
        some = [row for row in rows if (row["target"], row["way"]) == (target, way)]
        run = [row for row in some if "error" in row and not row["exact"]]
        found.append(
            {
                "target": target,
                "way": way,
                "models": len(some),
                "exact": sum(bool(row["exact"]) for row in some),
                **{key: sum(row["outputs"] == key for row in some) for key in OUTPUTS},
                "error": max((float(row["error"] or 0) for row in run), default=0.0),
                "long": sum("long outputs" in row for row in some),
                "long differs": sum(row.get("long outputs") == "differs" for row in some),
                **{f"hooks {key}": sum(row.get("hooks") == key for row in some) for key in HOOKS},
                "rounding": max((float(row.get("hook error") or 0) for row in some), default=0.0),
            }
        )
    return Table(
        "ways",
        "By target and way out",
        {
            "target": "target",
            "way": "way",
            "models": "models",
            "exact": "certified exact",
            **{key: f"outputs {key}" for key in OUTPUTS},
            "error": "greatest error",
            "long": "run on long sequences",
            "long differs": "of them differ",
            **{f"hooks {key}": f"hooks {key}" for key in HOOKS},
            "rounding": "greatest error of a hook",
        },
        found,
        f"Equal: every number, bit for bit. Within: of what is not certified exact, by at most the "
        f"certificate's bound; where nothing is proven, by the error that the card has measured, "
        f"or by {ROUNDING:.2g} of the largest output. So may hooks, by the largest number of their "
        "unit or by 1, in units of which the last column is. Hooks are those of every layer of the "
        "circuit, and what its channels read of them is compared with interpret.capture. A head "
        "may need a layer that the circuit has not (another layout).",
    )


def reasons_table(name: str, title: str, rows: Sequence[Row], note: str) -> Table:
    """How often what was said, with one that it was said of."""
    counts = Counter(kind_of(row) for row in rows)
    first = {kind_of(row): row for row in reversed(rows)}
    found = [
        {
            "count": count,
            "reason": reason,
            "example": " ".join(
                str(first[reason][key]) for key in ("program", "target", "variant")
            ),
        }
        for reason, count in counts.most_common()
    ]
    return Table(name, title, {"count": "models", "reason": "reason", "example": "as"}, found, note)


def kind_of(row: Row) -> str:
    """The first line of a reason without names and numbers."""
    reason = str(row["reason"])
    reason = reason.strip().splitlines()[-1 if row.get("outputs") == "failed" else 0]
    for key in ("program", "target"):
        reason = re.sub(rf"\b{row[key]}\b", f"<{key}>", reason, count=2)
    return re.sub(r"(?<![\w'])[0-9][0-9.e+-]*", "N", reason)


def unequal_table(rows: Sequence[Row]) -> Table:
    """Those that differ in anything, one by one."""
    bad = [
        row
        for row in rows
        if row["outputs"] == "failed"
        or "differs" in (row["outputs"], row.get("long outputs"), row.get("hooks"))
    ]
    columns = (
        "program", "target", "variant", "way", "exact", "outputs", "error", "allowed",
        "long outputs", "long error", "hooks", "hook error", "signal error",
    )  # fmt: skip
    return Table("unequal", "What differs", {name: name for name in columns}, bad)


def write_page(
    rows: Sequence[Row], lacking: Sequence[Group], output: Output, described: Mapping[str, str]
) -> None:
    """All tables, of the rows that there are; lacking are the groups that were not finished."""
    made = [row for row in rows if row["way"] is not None]
    absent = [row for row in rows if row["way"] is None]
    refused = [row for row in made if row["outputs"] in ("refused", "failed")]
    models: dict[tuple[object, ...], list[Row]] = {}
    for row in made:
        models.setdefault((row["program"], row["target"], row["variant"]), []).append(row)
    worst = Counter(
        next(
            key
            for key in ("failed", "differs", "within", "equal", "refused")
            if any(key in map(row.get, ("outputs", "long outputs", "hooks")) for row in each)
        )
        for each in models.values()
    )
    codes = {row["code"] for row in rows}
    findings = [
        f"{len(models)} models of {len({row['program'] for row in made})} programs; "
        f"{len(absent)} further ones there are not.",
        f"In every way that is not refused: outputs and hooks of {worst['equal']} equal ours bit "
        f"for bit; of {worst['within']}, which are not certified exact, they are within what is "
        f"said of them; {worst['differs']} differ; {worst['failed']} fail; {worst['refused']} are "
        "refused in every way.",
        f"Of each model {SEQUENCES} sequences of the validation split, beside Model.run; outputs "
        "that are certified also on those of the long split, beside the dataset's.",
    ]
    if lacking:
        some = ", ".join(map(str, lacking[:5])) + (", …" if len(lacking) > 5 else "")
        findings.append(f"Not finished: {len(lacking)} programs on targets ({some}).")
    if len(codes) > 1:
        findings.append(f"Rows are of {len(codes)} versions of the code.")
    tables = [
        ways_table(made),
        reasons_table("refused", "Refused", refused, "The other way holds the model."),
        unequal_table(made),
        reasons_table("absent", "There is no such model", absent, "As lsrl.suite.refusals says."),
    ]
    output.write("The suite in torch", described, [t for t in tables if t.rows], findings, None)


def main(
    program: Annotated[list[str] | None, typer.Option(help="Some programs; to build/.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Some targets; to build/.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Some variants; to build/.")] = None,
    finished: Annotated[
        bool, typer.Option(help="The page of what is finished, instead of going on.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Groups at a time.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Compare every model of the suite with itself in torch or transformers."""
    described = machine()
    targets = [found.name for found in lsrl.targets()]
    check_names("target", target or [], dict.fromkeys(targets))
    check_names("variant", variant or [], VARIANTS)
    tasks, names = suite_programs(program), target or targets
    # Each program on one target before any on two, so that a part tells of the whole.
    groups = [
        Group(task.name, names[(number + turn) % len(names)])
        for turn in range(len(names))
        for number, task in enumerate(tasks)
    ]
    variants = variant or list(DEFAULT)
    if not finished:
        # Each model runs a few times only, so compiling is a good part of the time.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_flags()}".strip()
        in_order(partial(sweep, variants=variants), groups, workers, None, "torch")
    code = None if finished else cache.code()
    known = {group: rows_kept(group, code) for group in groups}
    rows = [row for each in known.values() for row in each if row["variant"] in variants]
    lacking = [
        group
        for group, each in known.items()
        if not {row["variant"] for row in each}.issuperset(variants)
    ]
    some = program is not None or target is not None or variant is not None
    write_page(rows, lacking, Output.of("torch_suite", some, output), described)


if __name__ == "__main__":
    typer.run(main)
