"""Build the suite: a folder for every model, in parallel, and the same bytes from the same seed.

    <family>/<program>/dataset.safetensors, counterfactuals.safetensors, unit.json
    <family>/<program>/<target>/<variant>/model.safetensors, circuit.json, README.md, unit.json
    manifest.json

A unit is what one worker makes at a time: the data of a program, or one program on one target in
all variants. Each folder's `unit.json` has a key of all that its bytes depend on, and the hashes of
its files, so a build that was broken off keeps what is whole. The manifest is written last.

Of held-back programs the folders under `held_back/` hold inputs, outputs and `weights.safetensors`
alone; models, circuits, signals and pairs lie at the same paths under `held_back_labels/`.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from rich.progress import Progress

import lsrl
from lsrl import arguments, cache, schema, sealed
from lsrl.errors import (
    FormatError,
    InputError,
    PrecisionError,
    SizeError,
    SuiteError,
    UnsupportedOpError,
)
from lsrl.folders import alone, replace_file, replace_folder
from lsrl.model import Model
from lsrl.schema import Reader
from lsrl.suite import datasets, manifest, sampling
from lsrl.suite.cards import card
from lsrl.suite.held_back import LABELS, HeldBackProgram, held_back
from lsrl.suite.manifest import (
    Manifest,
    ModelRecord,
    ProgramRecord,
    Refusal,
    digest,
    read_model_record,
    read_places,
)
from lsrl.suite.programs import SuiteProgram, Task, check_names, sampler_of
from lsrl.suite.programs import programs as suite_programs
from lsrl.suite.variants import DEFAULT, VARIANTS, Request, Varied

UNIT = "unit.json"
DATASET = "dataset.safetensors"
COUNTERFACTUALS = "counterfactuals.safetensors"
MODEL = "model.safetensors"
CIRCUIT = "circuit.json"
CARD = "README.md"
WEIGHTS = "weights.safetensors"
NAMES = "names.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Context:
    """What all units of a build share.

    Attributes:
      root: the directory, as an absolute path.
      seed: of the build.
      code: the hash of this package's source.
      versions: of the packages that decide the bytes.
      variants: names, in order.
      sequences: sizes of splits that differ from `datasets.SEQUENCES`.
    """

    root: Path
    seed: int
    code: str
    versions: Mapping[str, str]
    variants: tuple[str, ...]
    sequences: Mapping[str, int] = field(default_factory=dict)

    def key(self, **further: object) -> str:
        """The hash of all that a unit's bytes depend on."""
        facts = {"seed": self.seed, "code": self.code, "versions": dict(self.versions), **further}
        return digest(json.dumps(facts, sort_keys=True, default=list).encode())

    def seed_of(self, *names: str) -> int:
        """A seed of its own for each model."""
        text = "/".join([str(self.seed), *names])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Unit:
    """What one worker makes at a time: the data of a program, or its models on one target."""

    task: Task
    target: str | None = None

    def __str__(self) -> str:
        """For the progress bar."""
        return self.task.name if self.target is None else f"{self.task.name} on {self.target}"


@dataclass(frozen=True)
class Made:
    """What a unit adds to the manifest."""

    files: Mapping[str, str]
    programs: tuple[ProgramRecord, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence["Made"]) -> "Made":
        """What all of them add."""
        return cls(
            {name: value for part in parts for name, value in part.files.items()},
            tuple(record for part in parts for record in part.programs),
            tuple(record for part in parts for record in part.models),
            tuple(record for part in parts for record in part.refusals),
        )


def build(
    directory: str | os.PathLike[str],
    *,
    programs: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    variants: Sequence[str] = DEFAULT,
    seed: int = 0,
    workers: int = 2,
    held_back_programs: int = 0,
    sequences: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Build the suite, or the part of it that is asked for.

    Run it again after a break, and it goes on where it stopped: folders whose key and hashes agree
    are kept. The same arguments give the same bytes. The manifest lists what was asked for, and
    other folders stay as they are.

    Args:
      directory: where to; made if there is none.
      programs: names out of the suite; all by default.
      targets: names out of `lsrl.targets()`; all by default.
      variants: names out of `lsrl.suite.variants.VARIANTS`.
      seed: of datasets, pairs, variants and held-back programs.
      workers: number of processes; 1 works in this one.
      held_back_programs: how many generated programs with labels kept apart to add.
      sequences: sizes of splits in place of the usual ones, such as {"train": 4096, "test": 512};
        there is a test split where its size is given.
      progress: to report to.

    Returns:
      The manifest.

    Raises:
      InputError: an unknown program, target or variant (suggests the nearest), or a bad number.
      FormatError: a folder holds something that no build wrote.
      SuiteError: another build is at work in the directory.
      OSError: the directory can't be written.
    """
    names = [target.name for target in lsrl.targets()]
    chosen = list(dict.fromkeys(names if targets is None else arguments.names("target", targets)))
    check_names("target", chosen, dict.fromkeys(names))
    variants = arguments.names("variant", variants)
    check_names("variant", variants, VARIANTS)
    sizes = dict(sequences or {})
    check_names("split", list(sizes), datasets.SEQUENCES)
    numbers = [("seed", seed, 0), ("workers", workers, 1)]
    numbers += [(f"sequences[{name!r}]", size, 1) for name, size in sizes.items()]
    for what, value, least in numbers:
        arguments.count(f"build: {what}", value, least)
    tasks: list[Task] = [*suite_programs(programs), *held_back(seed, held_back_programs)]
    root = arguments.path("build", directory).resolve()
    root.mkdir(parents=True, exist_ok=True)
    context = Context(
        root, seed, cache.code(), manifest.versions(), tuple(dict.fromkeys(variants)), sizes
    )
    units = [Unit(task, target) for task in tasks for target in (None, *chosen)]
    with alone(root, "build"):
        parts = in_order(partial(make, context=context), units, workers, progress, "suite")
        made = Made.joined(parts)
        files = dict(sorted(made.files.items()))
        rows = made.programs, made.models, made.refusals
        result = Manifest(seed, context.versions, context.code, files, *rows)
        replace_file(root / manifest.NAME, result.to_json().encode())
        return manifest.read_manifest(root)


def in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    progress: Progress | None,
    title: str,
    steps: Callable[[Item], int] = lambda _: 1,
    initializer: Callable[[], None] | None = None,
) -> list[Result]:
    """Do work on every item; the results are in the order of the items, whoever finished first.

    Args:
      work: a function of a module, since processes import it anew.
      items: each with the text that the progress bar shows.
      workers: number of processes; 1 works in this one.
      progress: to report to.
      title: of the progress bar, before the first item is done.
      steps: of the progress bar, for an item.
      initializer: what each process does first.

    Raises:
      SuiteError: a process ended abruptly.
    """
    bar = None if progress is None else progress.add_task(title, total=sum(map(steps, items)))

    def tell(item: Item) -> None:
        if progress is not None and bar is not None:
            progress.update(bar, advance=steps(item), description=str(item))

    if workers == 1:
        found = []
        for item in items:
            found.append(work(item))
            tell(item)
        return found
    # Processes share nothing with this one, since JAX does not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=partial(_begin, initializer))
    try:
        with _interrupts_ignored():
            futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            future.result()  # raises what the work has raised
            tell(futures[future])
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise SuiteError(
            f"{title}: one of {workers} processes ended abruptly, as they do without memory; run "
            "it again with fewer workers: what is finished stays"
        ) from error
    finally:
        # After a failure or an interrupt, what has not begun is left out.
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(initializer: Callable[[], None] | None) -> None:
    """What each process does first. Of an interrupt it dies, and the first one tells of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if initializer is not None:
        initializer()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that are started meanwhile ignore interrupts too, until they have begun."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only that thread hears of interrupts
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def make(unit: Unit, context: Context) -> Made:
    """Make one unit, or take it as it is if it is whole.

    Args:
      unit: what to make.
      context: of the build.

    Returns:
      What it adds to the manifest.
    """
    if unit.target is None:
        return _make_data(unit.task, context)
    compiler = _Compiler(unit.task, unit.target)
    return Made.joined([_make_model(compiler, name, context) for name in context.variants])


def _label_root(task: Task) -> str:
    """The folder of all that tells of a program's signals."""
    return f"{LABELS if isinstance(task, HeldBackProgram) else task.family}/{task.name}"


# ---------------------------------------------------------------- the data of a program


def _make_data(task: Task, context: Context) -> Made:
    hidden = isinstance(task, HeldBackProgram)
    folder, labels = f"{task.family}/{task.name}", _label_root(task)
    key = context.key(
        task=asdict(task),
        sequences={**datasets.SEQUENCES, **context.sequences},
        pairs=[sampling.PAIRS, sampling.CANDIDATES, sampling.ROUNDS],
    )
    kept = {name: _kept(context.root, name, key) for name in dict.fromkeys((folder, labels))}
    if not all(kept.values()):
        dataset = sampling.make_dataset(task, context.seed, context.sequences)
        pairs = sampling.make_counterfactuals(task, context.seed)
        shown = {
            DATASET: datasets.dataset_bytes(dataset),
            COUNTERFACTUALS: datasets.counterfactuals_bytes(pairs),
        }
        record = {"signals": list(pairs.signals)}
        if isinstance(task, HeldBackProgram):
            names = {"generator": dict(task.settings), "names": task.names()}
            shown[NAMES] = (json.dumps(names, indent=1) + "\n").encode()
            bare = {DATASET: datasets.dataset_bytes(dataset.without_signals())}
            kept[folder] = _write_beside(context.root / folder, bare, key, {"signals": []})
        kept[labels] = _write_beside(context.root / labels, shown, key, record)
    entry = task.entry if isinstance(task, SuiteProgram) else ""
    whole = {name: unit for name, unit in kept.items() if unit is not None}
    row = ProgramRecord(
        task.name,
        task.family,
        folder,
        entry,
        {} if hidden else plain_settings(task.settings),
        tuple(whole[folder].record["signals"]),
        hidden,
    )
    return Made(_relative(whole), programs=(row,))


def plain_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings as they come back from JSON, which has no tuples."""
    return dict(json.loads(json.dumps(dict(settings))))


# ---------------------------------------------------------------- the models of a program


class _Compiler:
    """One program on one target: compiled when first asked for, and once for all variants."""

    def __init__(self, task: Task, target: str) -> None:
        self.task, self.target = task, target

    @cached_property
    def model(self) -> Model | Exception:
        """The model, or the reason why there is none."""
        try:
            model = lsrl.compile(self.task.program(), self.target, inspectable=True)
        except (UnsupportedOpError, PrecisionError, SizeError) as error:
            return error
        facts = model.program.graph.facts[model.program.graph.output]
        spread = float(np.max(facts.high - facts.low))
        bound = float(model.certificate.error_bound)
        if not model.certificate.exact and bound >= spread:
            # Its workings would not be known: any output at all would be within the bound.
            return PrecisionError(
                f"{self.task.name} on {self.target}: the certificate allows an error of "
                f"{bound:.3g}, and the outputs span {spread:.3g}, so it says nothing; take another "
                f"target: {model.certificate.reasons[0]}"
            )
        return model


def _make_model(compiler: _Compiler, name: str, context: Context) -> Made:
    task, target = compiler.task, compiler.target
    hidden = isinstance(task, HeldBackProgram)
    place = f"{target}/{name}"
    folder, labels = f"{task.family}/{task.name}/{place}", f"{_label_root(task)}/{place}"
    key = context.key(task=asdict(task), target=target, variant=name)
    kept = {path: _kept(context.root, path, key) for path in dict.fromkeys((folder, labels))}
    if not all(kept.values()):
        varied = _varied(compiler, name, context)
        if isinstance(varied, str):
            reason = "not told, since it tells of the program" if hidden else varied
            return Made({}, refusals=(Refusal(task.name, target, name, reason),))
        model = varied.model
        row = ModelRecord(
            task.name, task.family, target, name, folder, varied.exact, varied.error_bound,
            model.num_layers, model.width, model.num_parameters, model.num_nonzero_parameters,
            dict(varied.measured),
        )  # fmt: skip
        content = _saved(model)
        files = {
            MODEL: content,
            CIRCUIT: model.circuit.to_json().encode(),
            CARD: card(varied, row).encode(),
        }
        if hidden:
            bare = {WEIGHTS: _weights(content, target)}
            kept[folder] = _write_whole(context.root / folder, bare, key, asdict(row))
        kept[labels] = _write_whole(context.root / labels, files, key, asdict(row))
    whole = {path: unit for path, unit in kept.items() if unit is not None}
    return Made(_relative(whole), models=(ModelRecord(**whole[folder].record),))


def _varied(compiler: _Compiler, name: str, context: Context) -> Varied | str:
    """A variant, or the reason why there is none."""
    model = compiler.model
    if isinstance(model, Exception):
        return str(model)
    seed = context.seed_of(compiler.task.name, compiler.target, name)
    request = Request(seed, context.seed, sampler_of(compiler.task, model.program))
    try:
        return VARIANTS[name].make(model, request)
    except (InputError, UnsupportedOpError, PrecisionError, SizeError) as error:
        return str(error)


def _saved(model: Model) -> bytes:
    """The bytes that `Model.save` writes."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, MODEL)
        model.save(path)
        return path.read_bytes()


def _weights(content: bytes, target: str) -> bytes:
    """The parameters of a saved model, without its program."""
    from safetensors.numpy import load, save

    return save(dict(sorted(load(content).items())), {"lsrl": json.dumps({"target": target})})


# ---------------------------------------------------------------- folders


class _Finished(NamedTuple):
    """A folder that is whole: the hashes of its files, and what it adds to the manifest."""

    files: dict[str, str]
    record: dict[str, Any]


def _relative(folders: Mapping[str, _Finished]) -> dict[str, str]:
    return {
        f"{folder}/{name}": value
        for folder, unit in folders.items()
        for name, value in unit.files.items()
    }


def _kept(root: Path, folder: str, key: str) -> _Finished | None:
    """What a folder holds, if it was finished by a build that would write the same."""
    try:
        content = (root / folder / UNIT).read_bytes()
        unit = _UNIT(sealed.unseal(_FORM, schema.parse(content)))
        said = cast(dict[str, str], unit["files"])
        files = {name: digest((root / folder / name).read_bytes()) for name in said}
        if unit["key"] != key or files != said:
            return None
        record = cast(dict[str, Any], unit["record"])
        return _Finished({**files, UNIT: digest(content)}, record)
    except (OSError, FormatError):
        return None  # not there, or damaged: made anew


def _record(value: object) -> dict[str, Any]:
    """Reads what a folder adds to the manifest: the signals of a dataset, or a model's record."""
    if isinstance(value, dict) and value.keys() == {"signals"}:
        schema.listed(schema.text)(value["signals"])
        return value
    return asdict(read_model_record(value))


_FORM = sealed.Form("lsrl-suite-unit", 2)
_UNIT: Reader[dict[str, object]] = schema.record(
    {"key": schema.text, "files": read_places, "record": _record}
)


def _with_unit(
    files: Mapping[str, bytes], key: str, record: dict[str, Any]
) -> tuple[dict[str, bytes], _Finished]:
    hashes = {name: digest(content) for name, content in sorted(files.items())}
    unit = sealed.seal(_FORM, {"key": key, "files": hashes, "record": record})
    content = (json.dumps(unit, indent=1, sort_keys=True) + "\n").encode()
    # As it will be read back, so that a resumed build gives the same manifest.
    record = json.loads(content)["record"]
    return {**files, UNIT: content}, _Finished({**hashes, UNIT: digest(content)}, record)


def _write_beside(
    folder: Path, files: Mapping[str, bytes], key: str, record: dict[str, Any]
) -> _Finished:
    """Write files into a folder that holds other folders, too; unit.json is last and says so."""
    content, finished = _with_unit(files, key, record)
    folder.mkdir(parents=True, exist_ok=True)
    for name, written in content.items():
        replace_file(folder / name, written)
    return finished


def _write_whole(
    folder: Path, files: Mapping[str, bytes], key: str, record: dict[str, Any]
) -> _Finished:
    """Write a folder of its own, whole or not at all."""
    content, finished = _with_unit(files, key, record)
    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(folder, content, lambda _: None)
    return finished
