"""The variants `padded` and `merged`: several programs compiled into one network.

Programs are joined before they are compiled, so their signals share layers, and subterms that are
equal share channels. The outputs of the joint program are those of its parts, one after another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lsrl import compiler
from lsrl.errors import InputError, PrecisionError, UnsupportedOpError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.circuit import OUTPUT, Circuit
from lsrl.interpret.variants.base import check_seed, random_sampler, variant
from lsrl.ir import ops
from lsrl.ir.evaluate import evaluate
from lsrl.ir.types import InputType
from lsrl.language.program import Program
from lsrl.language.signal import Signal
from lsrl.language.sugar import concat
from lsrl.language.trace import Trace, recording
from lsrl.model import Model
from lsrl.programs import catalogue
from lsrl.random_programs import LINEAR_OPS, OPS, random_program

# Programs that are tried, until as many as wanted fit the target.
TRIES = 40
# The joint program's length where the others declare none: distractors may count.
LENGTH = 256
# Of a distractor: ops one upon the other, and the widest signal.
DEPTH, WIDTH = 4, 3


def join(programs: Sequence[Program], name: str = "", prefixes: Sequence[str] = ()) -> Program:
    """One program with the outputs of several, one after another.

    An input of a later program is the first input of the same type that it does not read yet, or a
    further input if there is none.

    Args:
      programs: at least one.
      name: of the joint program; by default the names of its parts.
      prefixes: one a program, put before the names of its signals.

    Raises:
      InputError: no programs.
    """
    if not programs:
        raise InputError("join: expected at least one program, got none")
    lengths = [each.max_length for each in programs if each.max_length is not None]
    trace = Trace(min(lengths) if lengths else None)
    kinds: list[tuple[str, InputType]] = []
    given: list[list[int]] = []
    for program in programs:
        mine: list[int] = []
        for label, kind in program.inputs.items():
            same = [
                k for k, (_, other) in enumerate(kinds) if other == kind and k not in mine
            ]  # fmt: skip
            if not same:
                taken = {known for known, _ in kinds}
                fresh = label if label not in taken else f"{label}_{len(kinds)}"
                kinds.append((fresh, kind))
                same = [len(kinds) - 1]
            mine.append(same[0])
        given.append(mine)
    builder = trace.builder
    with recording(trace):
        inputs = [
            builder.add(ops.Input(number, label, kind))
            for number, (label, kind) in enumerate(kinds)
        ]
        for place, (label, _) in zip(inputs, kinds, strict=True):
            builder.describe(place, [label])
        outputs = []
        for number, program in enumerate(programs):
            prefix = prefixes[number] if prefixes else ""
            places: list[int] = []
            for node in program.graph.nodes:
                if isinstance(node.op, ops.Input):
                    places.append(inputs[given[number][node.op.index]])
                    continue
                places.append(builder.add(node.op, *(places[i] for i in node.operands)))
                names = [f"{prefix}{each}" for each in node.names]
                builder.describe(places[-1], names, node.sources)
            outputs.append(Signal(trace, places[program.graph.output]))
        output = concat(*outputs)
    return Program(
        name or "_and_".join(program.name for program in programs),
        builder.build(output.index),
        trace.max_length,
        programs[0].output_type if len(programs) == 1 else None,
        "\n\n".join(each.documentation for each in programs if each.documentation),
    )


def merged(
    model: Model,
    seed: int = 0,
    others: Sequence[Program] | None = None,
    *,
    sampler: Sampler | None = None,
) -> Model:
    """One network for several programs, whose outputs come one after another.

    Args:
      model: of the first program, as compiled.
      seed: of the draw of the other program.
      others: further programs; by default one of the library that the target can hold.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: a variant; no program of the library fits.
      UnsupportedOpError: the target can't hold one of `others`.
    """
    rng = np.random.default_rng(check_seed("merged", seed))
    _check_compiled("merged", model)
    if others is not None:
        joint = _compiled(model, join([model.program, *others]))
        found = list(others)
    else:
        entries = [entry for entry in catalogue().values() if entry.free]
        drawn = (entries[k].program() for k in rng.permutation(len(entries)))
        found, joint = _fitting(
            "merged", model, (each for each in drawn if each.name != model.program.name)
        )
    return variant(
        joint,
        "merged",
        f"programs={'+'.join([model.program.name, *(each.name for each in found)])}, seed={seed}",
        joint.module,
        joint.circuit,
        exact=True,
        sampler=sampler,
        notes=(_heads([model.program, *found]),),
    )


def padded(
    model: Model,
    seed: int = 0,
    distractors: int = 2,
    *,
    sampler: Sampler | None = None,
) -> Model:
    """Add units that compute unrelated programs of the same inputs, and feed outputs of their own.

    The program is the first head: the first `num_outputs` outputs are those of `model.program`, and
    the others the distractors'. Channels that the first head does not depend on have the role
    "distractor".

    Args:
      model: as compiled.
      seed: of the random programs.
      distractors: how many.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: a variant; fewer than one distractor; no random program fits the target.
    """
    rng = np.random.default_rng(check_seed("padded", seed))
    _check_compiled("padded", model)
    if not isinstance(distractors, int) or isinstance(distractors, bool) or distractors < 1:
        raise InputError(f"padded: distractors must be an int >= 1, got {distractors!r}")
    length = model.program.max_length or LENGTH
    kinds = list(model.program.inputs.values())

    def draw() -> Iterator[Program]:
        for number in range(TRIES):
            chosen = sorted(rng.permutation(len(kinds))[: rng.integers(1, min(len(kinds), 2) + 1)])
            yield random_program(
                int(rng.integers(2**31)),
                LINEAR_OPS if number % 2 else OPS,
                DEPTH,
                WIDTH,
                length,
                [kinds[k] for k in chosen],
            )

    found, joint = _fitting("padded", model, draw(), distractors)
    circuit = marked(joint.circuit, model.program.num_outputs)
    units = {
        (channel.layer, unit)
        for channel in circuit.channels
        if channel.role == "distractor"
        for unit in channel.units
    }
    return variant(
        joint,
        "padded",
        f"distractors={distractors}, seed={seed}",
        joint.module,
        circuit,
        exact=True,
        sampler=sampler,
        notes=(
            _heads([model.program, *found]),
            f"{len(units)} of {sum(circuit.units)} units are distractors",
        ),
    )


def marked(circuit: Circuit, outputs: int) -> Circuit:
    """The circuit with the role "distractor" where the first outputs do not depend on a channel."""
    reached = {(OUTPUT, row) for row in range(outputs)}
    sources: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for edge in circuit.edges:
        target = (edge.target, edge.target_element)
        sources.setdefault(target, set()).add((edge.source, edge.source_element))
    pending = list(reached)
    while pending:
        fresh = sources.get(pending.pop(), set()) - reached
        reached |= fresh
        pending += fresh
    return replace(
        circuit,
        channels=tuple(
            channel
            if channel.role == "constant" or (channel.signal, channel.element) in reached
            else replace(channel, role="distractor")
            for channel in circuit.channels
        ),
    )


def _check_compiled(what: str, model: Model) -> None:
    if model.alteration is not None:
        raise InputError(
            f"{what}: this network is {model.alteration.card.title} already; programs are joined "
            "before they are compiled, so start from the compiled model"
        )


def _compiled(model: Model, program: Program) -> Model:
    return compiler.compile(
        program,
        model.target,
        dtype=model.dtype,
        **model.options._asdict(),
    )


def _fitting(
    what: str, model: Model, candidates: Iterator[Program], count: int = 1
) -> tuple[list[Program], Model]:
    """The first programs that the target holds beside the model's, as exactly as it holds that."""
    found: list[Program] = []
    joint = model
    for candidate in candidates:
        parts = [model.program, *found, candidate]
        named = [f"distractor_{k}." if k and what == "padded" else "" for k in range(len(parts))]
        name = f"{model.program.name}_padded" if what == "padded" else ""
        try:
            program = join(parts, name, named)
            made = _compiled(model, program)
        except (UnsupportedOpError, PrecisionError):
            continue
        if model.certificate.exact and not made.certificate.exact:
            continue
        if not _varies(program, candidate.num_outputs):
            continue
        found.append(candidate)
        joint = made
        if len(found) == count:
            return found, joint
    raise InputError(
        f"{what}: none of the programs tried fits {model.program.name} on {model.target}; give "
        "others, or another seed"
    )


def _varies(program: Program, outputs: int) -> bool:
    """Whether every one of the last outputs takes different values on random inputs."""
    inputs = random_sampler(program, 16)(16, 0)
    values = evaluate(program.graph, inputs)[program.graph.output][..., -outputs:]
    flat = values.astype(np.float64).reshape(-1, outputs)
    return bool((flat != flat[0]).any(axis=0).all())


def _heads(programs: Sequence[Program]) -> str:
    parts, start = [], 0
    for program in programs:
        stop = start + program.num_outputs
        parts.append(f"{program.name}: {start} to {stop - 1}")
        start = stop
    return f"outputs of {', '.join(parts)}"
