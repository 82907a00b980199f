"""The compiler: a program and a target in, a certified model out."""

import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from lsrl import cache as model_cache
from lsrl import storage
from lsrl.backends import registry
from lsrl.backends.base import Backend
from lsrl.card import Card
from lsrl.certificate import Certificate, certify
from lsrl.errors import LsrlError, Offence, ProgramError, UnsupportedOpError
from lsrl.ir.graph import Graph
from lsrl.ir.ops import Product, Relu
from lsrl.ir.verify import verify
from lsrl.language.program import Program
from lsrl.model import Alteration, Model, Path, Report
from lsrl.numerics import numerics_of
from lsrl.options import Legalise, Options
from lsrl.passes.pipeline import Pipeline
from lsrl.passes.unroll import unroll_states
from lsrl.proof import not_compiled
from lsrl.schedule import Levels

Activation = Literal["relu", "tanh"]
Result = TypeVar("Result")


# What float64 can't hold is infinite, and the certificate tells of it.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def compile(
    program: Program,
    target: str,
    *,
    dtype: Any = "float32",
    activation: Activation | None = None,
    legalise: Legalise = "native",
    robust: bool = False,
    inspectable: bool = False,
    verbatim: bool = False,
    levels: Levels | None = None,
    cache: bool = False,
) -> Model:
    """Compile a program into the weights of a recurrent network.

    Args:
      program: made by `lsrl.program`.
      target: a name from `lsrl.targets()`.
      dtype: "float32", "float64" or "bfloat16".
      activation: of the target "rnn", "relu" (default) or "tanh"; no other target has a choice.
      legalise: "unroll" writes threshold and selective states that the target can't hold as log2 T
        levels of delay and composition, exact up to the program's max_length.
      robust: bear more noise: comparisons on a grid stand midway between the values that occur, so
        that errors below a quarter of their distance are wiped out, and conditionals shut with room
        to spare. The outputs stay the same; it can cost layers. LSTM, GRU and tanh RNN, which
        saturate, compare in the middle in any case.
      inspectable: let every signal be read from the channels that hold it and from nowhere else, as
        interventions need it (`lsrl.interpret`). It takes more layers.
      verbatim: lower the text as it stands, to measure what it bears by itself: nothing that the
        bounds decide is dropped, and every unit composes the affine maps that it reads into its own
        weights, as the original implementation does (Petrov et al. 2024). The outputs stay the
        same; not for mamba, griffin and the tanh RNN, which have no ReLU.
      levels: a schedule's levels, to rebuild it instead of solving for the least width.
      cache: reuse what an equal program was compiled to: all but the module within a process, the
        schedule's levels across processes, from the user's cache directory.

    Returns:
      The compiled model, with its certificate.

    Raises:
      UnknownTargetError: no target of that name.
      UnsupportedOpError: the target can't hold some signals; lists all of them.
      ProgramError: verbatim on a target that writes ReLUs as something else.
      PrecisionError: the dtype is unknown or has no room for the weights of even the first token.
    """
    options = Options(legalise, robust, inspectable, verbatim)
    if cache and isinstance(program, Program) and levels is None:
        chosen = {"dtype": dtype, "activation": activation} | options._asdict()
        return _compile_cached(program, target, chosen)
    if not isinstance(program, Program):
        raise ProgramError(
            f"compile expects a Program, made by @lsrl.program, got {type(program).__name__}"
        )
    if legalise not in ("native", "unroll"):
        raise ProgramError(f"legalise must be 'native' or 'unroll', got {legalise!r}")
    backend, numerics = registry.find(target, activation), numerics_of(dtype)
    backend.check_dtype(numerics)
    if verbatim and not _keeps_relus(backend):
        able = [name for name in registry.names() if _keeps_relus(registry.find(name))]
        raise ProgramError(
            f"verbatim=True lowers ReLUs as they stand, and {backend.name!r} writes them as "
            f"something else; take one of {', '.join(able)}"
        )
    stages, pipeline = _Stages(), Pipeline(verbatim)
    graph = stages.time("simplify", lambda: pipeline.simplify(program.graph))
    unrolled = legalise == "unroll" and bool(backend.offending(graph))
    if unrolled:
        if program.max_length is None:
            raise ProgramError(
                f"legalise='unroll' writes the states of {program.name!r} out over max_length "
                "tokens, and it declares none; write @lsrl.program(max_length=...)"
            )
        graph = stages.time("unroll", lambda: unroll_states(graph, backend.capabilities))
    check_supported(program, graph, backend)
    graph = stages.time("legalise", lambda: pipeline.legalise(graph, backend.capabilities, robust))
    graph = verify(graph)
    schedule = stages.time("schedule", lambda: backend.schedule(graph, levels, options))
    certificate = stages.time(
        "certify", lambda: certify(schedule, numerics, backend.analysis(schedule, numerics))
    )
    if unrolled:
        certificate = replace(certificate, tokens=program.max_length)
    module = stages.time("lower", lambda: backend.lower(schedule, numerics))
    report = Report(tuple(pipeline.records), stages.seconds)
    return Model(program, backend.name, options, schedule, certificate, numerics, module, report)


def _keeps_relus(backend: Backend) -> bool:
    return Relu in backend.capabilities.native and not backend.capabilities.diagonal


# What this process compiled last with cache=True, but for the module: its parameters may change.
_RECENT: OrderedDict[str, Callable[[Program], Model]] = OrderedDict()
_MOST_RECENT = 32


def _compile_cached(program: Program, target: str, options: dict[str, Any]) -> Model:
    """What an equal program was compiled to, with a module of its own."""
    key = model_cache.key(program, _spelled(target, options))
    known = _RECENT.pop(key, None)
    if known is None:
        model = _compile_from_disk(program, target, options)
        known = _recipe(model)
    else:
        model = known(program)
    _RECENT[key] = known
    while len(_RECENT) > _MOST_RECENT:
        _RECENT.popitem(last=False)
    return model


def _recipe(model: Model) -> Callable[[Program], Model]:
    """What makes more models like one that was just compiled; it holds no weights."""
    target, options, schedule, proven = model.target, model.options, model.schedule, model.proven
    numerics, report = model.numerics, model.compilation

    def make(program: Program) -> Model:
        module = registry.find(target).lower(schedule, numerics)
        return Model(program, target, options, schedule, proven, numerics, module, report)

    return make


def _spelled(target: str, options: dict[str, Any]) -> dict[str, str]:
    """What a compilation depends on beside the program, as a cache's key has it."""
    return {"target": target, **{name: f"{value}" for name, value in options.items()}}


def _compile_from_disk(program: Program, target: str, options: dict[str, Any]) -> Model:
    """Compile along levels that are cached, or compile and cache them."""
    entry = model_cache.place(program, _spelled(target, options))
    known = model_cache.levels(entry)
    if known is not None:
        with contextlib.suppress(IndexError, KeyError, ValueError):
            return compile(program, target, levels=known, **options)
    model = compile(program, target, **options)
    if model_cache.prepare(entry):
        try:
            model.save(entry)
        except OSError as error:
            model_cache.tell(error)
    return model


def load(path: Path, *, like: Model | None = None) -> Model:
    """Read a model that `Model.save` wrote.

    The program is compiled again along the saved levels, and the saved parameters replace the fresh
    ones where they differ, so parameters that were changed before saving stay changed, and the
    model says so: see `Model`.

    Args:
      path: the file.
      like: a model that may be of the same program, compiled the same way; then its compilation is
        used, and shared.

    Raises:
      FormatError: the file is damaged, truncated, or not a saved model.
      OSError: the file can't be read.
    """
    saved = storage.read(path)
    if like is not None and saved.alteration is not None and _is_compiled_like(saved, like):
        return _altered(path, like, saved)
    try:
        model = compile(
            saved.program,
            saved.target,
            dtype=saved.dtype,
            **saved.options._asdict(),
            levels=saved.levels,
        )
    except (LsrlError, IndexError, KeyError) as error:
        raise storage.bad(path, f"this version compiles it to another network ({error})") from error
    if saved.alteration is not None:
        return _altered(path, model, saved)
    with model.device_mode():
        storage.restore(path, model.module, saved.parameters)
    return model


def _is_compiled_like(saved: storage.SavedModel, model: Model) -> bool:
    mine = (model.target, model.options, model.dtype, model.schedule.levels)
    if mine != (saved.target, saved.options, saved.dtype, saved.levels):
        return False
    return storage.program_content(saved.program, lines=True) == storage.program_content(
        model.program, lines=True
    )


def _altered(path: Path, model: Model, saved: storage.SavedModel) -> Model:
    """The saved network, whose parameters need not have the shapes of the compiled one's."""
    from lsrl.interpret.circuit import Circuit

    found = saved.alteration or {}
    try:
        circuit = Circuit.from_json(json.dumps(found["circuit"]), str(path))
        card = Card.from_json(found["card"])
        certificate = Certificate.from_json(found["certificate"])
        with model.device_mode():
            module = model.module.rebuilt(saved.parameters)
    except (LsrlError, KeyError, TypeError, ValueError) as error:
        raise storage.bad(path, f"its alteration can't be read ({error})") from error
    # Files that older versions wrote have none.
    digest = storage.weights_digest(saved.parameters)
    if found.get("weights", digest) != digest:
        certificate = not_compiled(certificate, "weights changed in the file")
    return model.altered(module, Alteration(circuit, card), certificate)


class _Stages:
    """CPU seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Result]) -> Result:
        start = time.process_time()
        result = work()
        self.seconds[name] = time.process_time() - start
        return result


def check_supported(program: Program, graph: Graph, backend: Backend) -> None:
    """Raise UnsupportedOpError if a target can't hold a simplified graph; lists every offender."""
    offending = backend.offending(graph)
    if not offending:
        return
    others = [registry.find(name) for name in registry.names()]
    offences = []
    for node, reason in offending:
        op = graph.nodes[node].op
        operands = [graph.facts[operand] for operand in graph.nodes[node].operands]
        able = tuple(other.name for other in others if other.refusal(op, operands) is None)
        offences.append(Offence(graph.label(node), graph.source(node), reason, able))
    products = all(isinstance(graph.nodes[node].op, Product) for node, _ in offending)
    hint = "" if products else "; legalise='unroll' is a way out that is exact up to max_length"
    raise UnsupportedOpError(
        f"target {backend.name!r} can't hold {len(offences)} signal(s) of {program.name!r}{hint}",
        offences,
    )


@dataclass(frozen=True)
class TargetInfo:
    """A target and what it supports.

    Attributes:
      name: pass it to `compile`.
      cell: the cell in one line.
      supports: column of the table of targets to its entry.
    """

    name: str
    cell: str
    supports: dict[str, str]


def targets() -> tuple[TargetInfo, ...]:
    """Every target with what it supports."""
    found = (registry.find(name) for name in registry.names())
    return tuple(TargetInfo(b.name, b.cell, dict(b.features)) for b in found)
