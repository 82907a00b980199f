"""Verify a suite: hashes, datasets against evaluator and references, models against datasets.

Further checks of a model, such as causal ones, are functions in `CHECKS`.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from rich.progress import Progress

import lsrl
from lsrl import arguments
from lsrl.circuit import Circuit, Edge
from lsrl.errors import ModelDifferenceError
from lsrl.interpret.causal import causal_test
from lsrl.interpret.wiring import forget_compiled, quick_flags
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.noise.wrong import allowed_error, wrong_tokens
from lsrl.suite import build as building
from lsrl.suite import datasets
from lsrl.suite.datasets import Counterfactuals, Dataset, Split
from lsrl.suite.held_back import LABELS, held_back
from lsrl.suite.manifest import Manifest, ModelRecord, ProgramRecord, check_files, read_manifest
from lsrl.suite.programs import Task, programs
from lsrl.suite.sampling import differing
from lsrl.suite.variants import AGREEMENT, PAIRS_OF_VARIANTS


@dataclass(frozen=True)
class Subject:
    """A model with its ground truth, as a check gets it.

    Attributes:
      model: as its file has it.
      record: its row of the manifest.
      folder: where model, circuit and card lie.
      dataset: of its program.
      counterfactuals: of its program.
    """

    model: Model
    record: ModelRecord
    folder: Path
    dataset: Dataset
    counterfactuals: Counterfactuals


# Valid interchanges wanted a signal of models as compiled.
PAIRS = 500
# How much less than on the card may be right: its inputs and the dataset's are others, drawn alike.
LESS = 0.05


def check_causes(subject: Subject) -> None:
    """Interchange every signal in network and program; they must agree as the record says.

    That is always, or about as often as was measured where no bound is certified.

    Raises:
      ModelDifferenceError: names the first signal.
    """
    record, model = subject.record, subject.model
    claimed = record.measured.get(AGREEMENT)
    certified = record.exact or record.error_bound is not None
    if claimed is None and not certified:
        return
    train = subject.dataset.splits["train"]
    pairs = PAIRS if record.variant == "plain" else PAIRS_OF_VARIANTS
    result = causal_test(model, train.sample, pairs=pairs)
    if claimed is not None and result.agreement < claimed - LESS:
        raise ModelDifferenceError(
            f"{record.folder}: the card says that {claimed:.1%} of the interchanges agree, got "
            f"{result.agreement:.1%} on the training split; build it again"
        )
    for signal in result.signals:
        if certified and signal.wrong:
            raise ModelDifferenceError(
                f"{record.folder}: {signal.wrong} of {signal.valid} interchanges of {signal.name} "
                f"give other outputs than the program, by up to {signal.error:.3g}"
            )


def check_circuit(subject: Subject) -> None:
    """The file is the model's circuit, and its signals and edges are those that were compiled.

    Raises:
      ModelDifferenceError: names the first edge.
    """
    record, model = subject.record, subject.model
    path = subject.folder / building.CIRCUIT
    told, compiled = Circuit.load(path), model.compiled_circuit
    own = replace(model.circuit, signals=compiled.signals, edges=compiled.edges)
    if all(getattr(told, part.name) == getattr(own, part.name) for part in fields(Circuit)):
        return
    for edge, other in zip_longest(told.edges, own.edges):
        if edge != other:
            raise ModelDifferenceError(
                f"{record.folder}/{building.CIRCUIT}: expected the edge {_edge_text(other)}, got "
                f"{_edge_text(edge)}; build it again"
            )
    raise ModelDifferenceError(
        f"{record.folder}/{building.CIRCUIT}: expected the circuit of the model, got other signals "
        "or channels; build it again"
    )


def _edge_text(edge: Edge | None) -> str:
    if edge is None:
        return "none"
    source = f"{edge.source}[{edge.source_element}]"
    target = f"{edge.target}[{edge.target_element}]"
    return f"{source} to {target} ({edge.kind}, weight {edge.weight:g})"


# A check raises a ModelDifferenceError that says what differs. Processes import this module anew,
# so a check has to be in this list when the module is loaded.
Check = Callable[[Subject], None]
CHECKS: list[Check] = [check_circuit, check_causes]


@dataclass(frozen=True)
class Verified:
    """What was verified.

    Attributes:
      files: number of files whose hashes agree.
      programs: number of programs whose data agree with evaluator and reference.
      models: number of models that were loaded and run.
      exact: those whose outputs are equal at every token.
      tokens: tokens at which outputs were compared, over all models.
    """

    files: int
    programs: int
    models: int
    exact: int
    tokens: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.models} models of {self.programs} programs hold, {self.exact} of them equal at "
            f"every token, the others within their bounds; {self.tokens} tokens, {self.files} files"
        )


def verify(
    directory: str | os.PathLike[str], *, workers: int = 2, progress: Progress | None = None
) -> Verified:
    """Check a directory that `build` wrote, all that its manifest lists.

    Args:
      directory: of the suite.
      workers: number of processes; 1 works in this one.
      progress: to report to.

    Returns:
      How much was verified.

    Raises:
      MissingFileError: the manifest, or a file that it names, is not there.
      HashError: a file has other bytes than the manifest says.
      NewerSchemaError: the manifest or a file is of a newer version.
      FormatError: a file is damaged.
      ModelDifferenceError: a dataset or a model is not what the program says; names the first
        program, target, sequence and token.
    """
    arguments.count("verify: workers", workers)
    root = arguments.path("verify", directory).resolve()
    found = read_manifest(root)
    check_files(root, found.files)
    tasks = _tasks(found)
    data = {
        program.name: _Unit(root, program, tasks.get(program.name)) for program in found.programs
    }
    # What a program's models on one target share, a worker compiles once.
    groups: dict[tuple[str, str], list[ModelRecord]] = {}
    for model in found.models:
        groups.setdefault((model.program, model.target), []).append(model)
    units = [
        *data.values(),
        *(replace(data[name], models=tuple(models)) for (name, _), models in groups.items()),
    ]
    quickly = partial(_compile_quickly, quick_flags())
    counts = building.in_order(
        _check, units, workers, progress, "verify", lambda unit: len(unit.models) or 1, quickly
    )
    return Verified(
        len(found.files),
        len(found.programs),
        len(found.models),
        sum(model.exact for model in found.models),
        sum(counts),
    )


@dataclass(frozen=True)
class _Unit:
    """What one worker checks at a time: the data of a program, or its models on one target."""

    root: Path
    program: ProgramRecord
    task: Task | None
    models: tuple[ModelRecord, ...] = ()

    def __str__(self) -> str:
        name = self.program.name
        return f"{name} on {self.models[0].target}" if self.models else name

    @property
    def labels(self) -> Path:
        """The folder of the program's data, signals included."""
        family = LABELS if self.program.held_back else self.program.family
        return self.root / family / self.program.name


def _tasks(found: Manifest) -> dict[str, Task]:
    """The programs of a manifest as this version has them; those that it has differently lack."""
    known = {task.name: task for task in programs()}
    tasks: dict[str, Task] = {
        record.name: known[record.name]
        for record in found.programs
        if record.name in known
        and building.plain_settings(known[record.name].settings) == dict(record.settings)
    }
    hidden = sum(record.held_back for record in found.programs)
    return tasks | {task.name: task for task in held_back(found.seed, hidden)}


def _compile_quickly(flags: str) -> None:
    """In a worker: each model runs a few times only, so compiling is a good part of the time.

    XLA reads its flags when it is first used.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def _check(unit: _Unit) -> int:
    """Check one unit; returns the number of tokens at which models were compared."""
    dataset = datasets.read_dataset(unit.labels / building.DATASET)
    pairs = datasets.read_counterfactuals(unit.labels / building.COUNTERFACTUALS)
    if not unit.models:
        if unit.task is not None:
            _check_data(unit.task, dataset, pairs)
        return 0
    tokens, known = 0, None
    for record in unit.models:
        folder = unit.labels / record.target / record.variant
        model = lsrl.load(folder / building.MODEL, like=known)
        known = known or model
        subject = Subject(model, record, folder, dataset, pairs)
        tokens += check_outputs(subject)
        for check in CHECKS:
            check(subject)
    forget_compiled()
    return tokens


# ---------------------------------------------------------------- data


def _check_data(task: Task, dataset: Dataset, pairs: Counterfactuals) -> None:
    """Raise unless every value is what the evaluator and the plain reference say."""
    program = task.program()
    for name, split in _splits(dataset, pairs).items():
        where = f"{task.name}, {name}"
        _check_equal(f"{where}: outputs", program.run(*split.arrays), split.outputs)
        for signal, values in program.trace(*split.arrays).items():
            _check_equal(f"{where}: signal {signal}", values, split.signals[signal])
        for row in range(len(split)):
            expected = task.expected(tuple(array[row] for array in split.arrays))
            if expected is not None:
                _check_equal(
                    f"{where}: sequence {row} of the plain reference",
                    expected[None],
                    split.outputs[row : row + 1],
                    task.tolerance,
                )
    differs = differing(pairs.base, pairs.source, pairs.signals)
    _check_equal(f"{task.name}: differs", differs.astype(float), pairs.differs.astype(float))


def _splits(dataset: Dataset, pairs: Counterfactuals) -> dict[str, Split]:
    return {**dataset.splits, "base": pairs.base, "source": pairs.source}


def _check_equal(where: str, expected: Array, got: Array, allowed: float = 0.0) -> None:
    """Raise at the first token of (sequences, tokens, width) that differs by more than allowed."""
    if expected.shape != got.shape:
        raise ModelDifferenceError(
            f"{where}: expected the shape {expected.shape}, got {got.shape}; build it again"
        )
    # Written so that NaN differs.
    wrong = ~(np.abs(expected - got) <= allowed)
    if wrong.any():
        sequence, token = np.argwhere(wrong)[0][:2]
        raise ModelDifferenceError(
            f"{where}: sequence {sequence}, token {token}: expected "
            f"{expected[sequence, token].tolist()}, got {got[sequence, token].tolist()}, allowed "
            f"error {allowed:.3g}"
        )


# ---------------------------------------------------------------- models


def check_outputs(subject: Subject) -> int:
    """Compare a model with its dataset and with both sides of the counterfactual pairs.

    Equal where its record says exact, within its bound where it has one; else it must be right
    about as often as was measured, at the tokens of the training split.

    Args:
      subject: the model.

    Returns:
      Number of tokens at which outputs were compared.

    Raises:
      ModelDifferenceError: names the first sequence and token.
    """
    record = subject.record
    if record.error_bound is None and not record.exact:
        return _check_accuracy(subject)
    splits = _splits(subject.dataset, subject.counterfactuals)
    outputs = _outputs(subject.model, list(splits.values()))
    allowed = 0.0 if record.exact else float(record.error_bound or 0.0)
    for (name, split), got in zip(splits.items(), outputs, strict=True):
        # Further outputs are the heads of distractors and of merged programs.
        own = got[..., : split.outputs.shape[-1]].astype(np.float64)
        _check_equal(f"{record.folder}, {name}", split.outputs, own, allowed)
    return sum(len(split) * split.outputs.shape[1] for split in splits.values())


def _check_accuracy(subject: Subject) -> int:
    record, split = subject.record, subject.dataset.splits["train"]
    (outputs,) = _outputs(subject.model, [split])
    heads = split.outputs.shape[-1]
    allowed = allowed_error(subject.model.program)[:heads]
    wrong = wrong_tokens(outputs[..., :heads], split.outputs, allowed)
    accuracy = 1 - wrong.mean()
    claimed = record.measured["accuracy"]
    if accuracy < claimed - LESS:
        raise ModelDifferenceError(
            f"{record.folder}: the card says that {claimed:.1%} of the tokens are right, got "
            f"{accuracy:.1%} on the training split; build it again"
        )
    return len(split) * split.outputs.shape[1]


# Sequences, and tokens of each, that a network of one stream may get at a time; and as many tokens
# more take as long as it takes to start.
BATCHES, CHUNKS, START = (64, 128), range(6, 17), 128


def _outputs(model: Model, splits: Sequence[Split]) -> list[Array]:
    """What a model makes of each split, (sequences, tokens, outputs), compiled for one shape.

    Sequences are filled up; a network is causal, so what comes behind a sequence does not change
    it.
    """
    if model.module.residual:
        return _outputs_in_batches(model, splits)
    longest = max(split.outputs.shape[1] for split in splits)
    parts = zip(*(split.arrays for split in splits), strict=True)
    inputs = [np.concatenate([_filled(array, longest) for array in arrays]) for arrays in parts]
    ends = np.cumsum([len(split) for split in splits])
    return [
        part[:, : split.outputs.shape[1]]
        for split, part in zip(splits, np.split(model.run(*inputs), ends[:-1]), strict=True)
    ]


def _outputs_in_batches(model: Model, splits: Sequence[Split]) -> list[Array]:
    """As `_outputs`; running takes longer than compiling, so little is filled up."""
    counts = Counter[int]()
    for split in splits:
        counts[split.outputs.shape[1]] += len(split)

    def cost(shape: tuple[int, int]) -> int:
        batch, chunk = shape
        runs = sum(-(-count // batch) * -(-length // chunk) for length, count in counts.items())
        return runs * (batch * chunk + START)

    batch, chunk = min(((b, c) for b in BATCHES for c in CHUNKS), key=cost)
    found: list[Array] = [np.zeros(0)] * len(splits)
    for length in counts:
        numbers = [k for k, split in enumerate(splits) if split.outputs.shape[1] == length]
        parts = zip(*(splits[k].arrays for k in numbers), strict=True)
        inputs = [np.concatenate(arrays) for arrays in parts]
        outputs = np.concatenate(
            [
                model.run(*(_rows(array, start, batch) for array in inputs), chunk=chunk)
                for start in range(0, counts[length], batch)
            ]
        )
        ends = np.cumsum([len(splits[k]) for k in numbers])
        for k, part in zip(numbers, np.split(outputs[: ends[-1]], ends[:-1]), strict=True):
            found[k] = part
    return found


def _rows(array: Array, start: int, batch: int) -> Array:
    """As many sequences as a batch has, from one on; where there are fewer, some again."""
    return array[np.resize(np.arange(start, min(start + batch, len(array))), batch)]


def _filled(array: Array, length: int) -> Array:
    """(sequences, length, ...): the last token again and again behind each sequence."""
    return array[:, np.minimum(np.arange(length), array.shape[1] - 1)]
