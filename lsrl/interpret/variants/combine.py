"""The variants `padded` and `merged`: several programs compiled into one network.

Programs are joined before they are compiled, so their signals share layers, and subterms that are
equal share channels. The outputs of the joint program are those of its parts, one after another.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from lsrl import arguments
from lsrl.backends import registry
from lsrl.circuit import OUTPUT, Circuit
from lsrl.compiler import compile
from lsrl.errors import InputError, PrecisionError, SizeError, UnsupportedOpError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_made, random_sampler, variant
from lsrl.ir import ops
from lsrl.ir.bounds import Facts
from lsrl.ir.evaluate import evaluate
from lsrl.ir.graph import Graph
from lsrl.ir.types import InputType, Token
from lsrl.language.comparison import greater_equal
from lsrl.language.program import Program
from lsrl.language.signal import Signal, affine, concat, relu
from lsrl.language.sugar import cumsum
from lsrl.language.trace import Trace, recording
from lsrl.model import Model
from lsrl.programs import catalogue
from lsrl.testing.random_ops import LINEAR_OPS, OPS
from lsrl.testing.random_programs import random_program

# Programs that are tried, until as many as wanted fit the target.
TRIES = 40
# The joint program's length where the others declare none: distractors may count.
LENGTH = 256
# Of a distractor: ops one upon the other, and the widest signal.
DEPTH, WIDTH = 4, 3
# What is given, or is made of what others make.
PLAIN = ops.Input | ops.Constant | ops.Affine | ops.Bound | ops.Read
# Distractors whose weights into the program cancel.
CANCELLING = tuple(f"distractor_0.{name}" for name in ("count", "count_from_1", "above", "below"))


def join(
    programs: Sequence[Program],
    name: str = "",
    prefixes: Sequence[str] = (),
    *,
    sources: bool = True,
) -> Program:
    """One program with the outputs of several, one after another.

    An input of a later program is the first input of the same type that it does not read yet, or a
    further input if there is none.

    Args:
      programs: at least one.
      name: of the joint program; by default the names of its parts.
      prefixes: one a program, put before the names of its signals.
      sources: whether the lines that made signals with a prefix are told.

    Raises:
      InputError: no programs.
    """
    _check_programs("join", programs)
    if not programs:
        raise InputError("join: expected at least one program, got none")
    lengths = [each.max_length for each in programs if each.max_length is not None]
    trace = Trace(min(lengths) if lengths else None)
    kinds: list[tuple[str, InputType]] = []
    given: list[list[int]] = []
    for program in programs:
        given.append([])
        for label, kind in program.inputs.items():
            same = (k for k, (_, other) in enumerate(kinds) if other == kind)
            place = next((k for k in same if k not in given[-1]), len(kinds))
            if place == len(kinds):
                kinds.append((f"{label}_{place}" if label in dict(kinds) else label, kind))
            given[-1].append(place)
    builder = trace.builder
    with recording(trace):
        inputs = []
        for number, (label, kind) in enumerate(kinds):
            inputs.append(builder.add(ops.Input(number, label, kind)))
        for place, (label, _) in zip(inputs, kinds, strict=True):
            builder.describe(place, [label])
        outputs = []
        own = prefixes or [""] * len(programs)
        for program, mine, prefix in zip(programs, given, own, strict=True):
            places: list[int] = []
            for node in program.graph.nodes:
                if isinstance(node.op, ops.Input):
                    places.append(inputs[mine[node.op.index]])
                    continue
                places.append(builder.add(node.op, *(places[i] for i in node.operands)))
                names = [f"{prefix}{each}" for each in node.names]
                lines = node.sources if sources or not prefix else ()
                builder.describe(places[-1], names, lines)
            outputs.append(Signal(trace, places[program.graph.output]))
        output = concat(*outputs)
    return Program(
        name or "_and_".join(program.name for program in programs),
        _without_own_lines(builder.build(output.index)),
        trace.max_length,
        programs[0].output_type if len(programs) == 1 else None,
        "\n\n".join(each.documentation for each in programs if each.documentation),
        recorded=all(program.recorded for program in programs),
        feedback=programs[0].feedback if len(programs) == 1 else None,
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
    rng = np.random.default_rng(check_made("merged", model, sampler, seed))
    _check_compiled("merged", model)
    if others is not None:
        _check_programs("merged: others", others)
        found = list(others)
        parts = [model.program, *found]
        joint = _compiled(model, join(parts, prefixes=_apart(parts)))
    else:
        entries = [entry for entry in catalogue().values() if entry.free]
        drawn = (entries[k].program() for k in rng.permutation(len(entries)))
        other = (each for each in drawn if each.name != model.program.name)
        found, joint = _fitting("merged", model, other)
    parts = [model.program, *found]
    settings = f"programs={'+'.join(each.name for each in parts)}, seed={seed}"
    return variant(joint, "merged", settings, exact=True, sampler=sampler, notes=[_heads(parts)])


def padded(
    model: Model, seed: int = 0, distractors: int = 2, *, sampler: Sampler | None = None
) -> Model:
    """Add units that compute unrelated programs of the same inputs, and feed outputs of their own.

    The program is the first head: the first `num_outputs` outputs are those of `model.program`, and
    the others the distractors'. Some more, named in `CANCELLING`, feed a signal of the program
    itself through weights that cancel. That is exact because it is compiled with the rest: the
    certificate bounds the sums, distractors included. Channels that the first head does not depend
    on have the role "distractor".

    Args:
      model: as compiled.
      seed: of the random programs.
      distractors: how many.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: a variant; fewer than one distractor; no input on a grid; no random program fits
        the target.
    """
    rng = np.random.default_rng(check_made("padded", model, sampler, seed))
    _check_compiled("padded", model)
    arguments.count("padded: distractors", distractors)
    length = model.program.max_length or LENGTH
    kinds = [k for k in model.program.inputs.values() if isinstance(k, Token) or k.step]
    if not kinds:
        raise InputError(
            f"padded: {model.program.name} has continuous inputs alone, and random programs need "
            "one on a grid: Token, or Vector(..., step=)"
        )

    def draw() -> Iterator[Program]:
        for number in range(TRIES):
            chosen = sorted(rng.permutation(len(kinds))[: rng.integers(1, min(len(kinds), 2) + 1)])
            made_of, types = LINEAR_OPS if number % 2 else OPS, [kinds[k] for k in chosen]
            yield random_program(int(rng.integers(2**31)), made_of, DEPTH, WIDTH, length, types)

    apart = registry.find(model.target).capabilities.diagonal
    fed = cancelling(model.program, int(rng.integers(2**31)), rectified=apart)
    found, joint = _fitting("padded", model, draw(), distractors, fed)
    circuit = marked(joint.circuit, model.program.num_outputs, CANCELLING)
    pair = _cancels(circuit)
    idle = (channel for channel in circuit.channels if channel.role == "distractor")
    units = {(channel.layer, unit) for channel in idle for unit in channel.units}
    return variant(
        joint,
        "padded",
        f"distractors={distractors}, seed={seed}",
        circuit=circuit,
        exact=True,
        sampler=sampler,
        notes=(
            _heads([model.program, *found]),
            f"{len(units)} of {sum(circuit.units)} units are distractors",
            f"{', '.join(pair)} feed the program itself, through weights that cancel"
            if pair
            else "no distractors feed the program itself: no signal has room for what they add",
        ),
    )


def cancelling(program: Program, seed: int = 0, *, rectified: bool = False) -> Program | None:
    """The program with distractors that feed one of its signals through weights that cancel.

    They are made of one 0 or 1 a token, and what they give together is 0: count - (count from 1
    on) + 1, or count - above + below - middle, where `above` and `below` are what relu leaves of
    the count's difference from a number in the middle. The compiler does not know it, and that the
    signal stays what it was is a theorem of ours.

    Args:
      program: any.
      seed: of the signal that is fed, and of what is counted.
      rectified: whether it is the second; targets that keep what states begin with apart from them
        need it, since they hold two counts as one.

    Returns:
      The program; None if no signal of it is on a grid, or no input can be counted.
    """
    rng, graph = np.random.default_rng(seed), program.graph
    varied = [i for i in graph.inputs if (graph.facts[i].low < graph.facts[i].high).any()]
    inputs = [i for i in varied if _steady(graph.facts[i])]
    # What the output is a sum of is not fed, or distractors would feed an output of the program.
    shown = {graph.output}
    for i in reversed(range(len(graph.nodes))):
        if i in shown and isinstance(graph.nodes[i].op, ops.Affine | ops.Bound):
            shown.update(graph.nodes[i].operands)
        elif i in shown and isinstance(graph.nodes[i].op, ops.Read):
            shown.update(graph.nodes[i].operands[-1:])
    places = [
        i
        for i in graph.live()
        if not isinstance(graph.nodes[i].op, PLAIN) and i not in shown and _steady(graph.facts[i])
    ]
    if program.max_length is None or not inputs or not places:
        return None
    place, counted = places[rng.integers(len(places))], inputs[rng.integers(len(inputs))]
    trace = Trace(program.max_length)
    builder, known = trace.builder, dict[int, int]()
    counts: list[tuple[Signal, str, float]] = []
    rest = 0.0
    # Inputs come first, then the counts, so that the place can read them.
    order = [*graph.inputs, *(i for i in range(len(graph.nodes)) if i not in graph.inputs)]
    with recording(trace):
        for i in order:
            node, facts = graph.nodes[i], graph.facts[i]
            if i not in graph.inputs and not counts:
                counts, rest = _nothing(_flag(Signal(trace, known[counted]), rng), rectified)
                for signal, name, _ in counts:
                    builder.describe(signal.index, [name])
            known[i] = builder.add(node.op, *(known[operand] for operand in node.operands))
            builder.describe(known[i], node.names, node.sources)
            if i == place:
                weight = np.zeros((node.width, 1))
                element = int(rng.integers(node.width))
                weight[element] = facts.step[element]
                terms = [(np.eye(node.width), Signal(trace, known[i]))]
                terms += [(factor * weight, signal) for signal, _, factor in counts]
                fed = affine(terms, rest * weight[:, 0])
                ends = tuple(facts.low.tolist()), tuple(facts.high.tolist())
                known[i] = builder.add(ops.Bound(*ends, proven=True), fed.index)
    return Program(
        program.name,
        _without_own_lines(builder.build(known[graph.output])),
        program.max_length,
        program.output_type,
        program.documentation,
        recorded=program.recorded,
        feedback=program.feedback,
    )


def _without_own_lines(graph: Graph) -> Graph:
    """The graph whose signals tell the lines of their programs, and none of this file."""
    nodes = tuple(
        replace(node, sources=tuple(each for each in node.sources if each.file != __file__))
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _nothing(flag: Signal, rectified: bool) -> tuple[list[tuple[Signal, str, float]], float]:
    """Signals with names and factors, and a number, whose sum is 0."""
    count, from_1, above, below = CANCELLING
    first = cumsum(flag)
    if not rectified:
        return [(first, count, 1.0), (cumsum(flag, 1), from_1, -1.0)], 1.0
    middle = float(np.rint(first.facts.high[0] / 2))
    return [
        (first, count, 1.0),
        (relu(first - middle), above, -1.0),
        (relu(middle - first), below, 1.0),
    ], -middle


def _steady(facts: Facts) -> bool:
    """Whether every element is on a grid, between finite ends, and none excludes another."""
    numbers = np.concatenate([facts.low, facts.high, facts.step])
    return bool(np.isfinite(numbers).all() and (facts.step > 0).all() and not facts.groups)


def _flag(signal: Signal, rng: np.random.Generator) -> Signal:
    """Whether an element of an input is in the upper part of what it can be."""
    facts = signal.facts
    element = int(rng.choice(np.flatnonzero(facts.low < facts.high)))
    low, high, step = (float(x[element]) for x in (facts.low, facts.high, facts.step))
    row = np.zeros((1, signal.width))
    row[0, element] = 1.0
    values = int(np.floor((high - low) / step))
    threshold = low + step * int(rng.integers(1, values + 1))
    return greater_equal(affine([(row, signal)]), threshold)


def marked(circuit: Circuit, outputs: int, cancelling: Collection[str] = ()) -> Circuit:
    """The circuit with the role "distractor" where the first outputs do not depend on a channel.

    Nor do they depend on `cancelling` signals, though edges lead there.
    """
    reached = {(OUTPUT, row) for row in range(outputs)}
    sources: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for edge in circuit.wires:
        target = (edge.target, edge.target_element)
        if edge.source not in cancelling:
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


def _check_programs(what: str, programs: object) -> None:
    if not isinstance(programs, Sequence) or isinstance(programs, str):
        raise InputError(f"{what}: expected a list of programs, got {programs!r}")
    for each in programs:
        arguments.instance(what, each, Program, "@lsrl.program")


def _check_compiled(what: str, model: Model) -> None:
    if model.alteration is not None:
        raise InputError(
            f"{what}: this network is {model.alteration.card.title} already; programs are joined "
            "before they are compiled, so start from the compiled model"
        )


def _compiled(model: Model, program: Program) -> Model:
    return compile(program, model.target, dtype=model.dtype, **model.options._asdict())


def _cancels(circuit: Circuit) -> list[str]:
    """The signals that cancel, if all of them are read by something that is no distractor."""
    idle = {channel.signal for channel in circuit.channels if channel.role == "distractor"}
    read = {edge.source for edge in circuit.wires if edge.target not in idle}
    found = [signal.name for signal in circuit.signals if signal.name in CANCELLING]
    return found if read >= set(found) else []


def _fitting(
    what: str,
    model: Model,
    candidates: Iterator[Program],
    count: int = 1,
    fed: Program | None = None,
) -> tuple[list[Program], Model]:
    """The first programs that the target holds beside the model's, as exactly as it holds that.

    With `fed`, that in place of the model's program where the target holds it, too.
    """
    found: list[Program] = []
    joint = model
    bases = [model.program] if fed is None else [fed, model.program]
    for candidate in candidates:
        for base in bases:
            parts = [base, *found, candidate]
            if what == "padded":
                # A line of a generated program is one of its generator, on this machine.
                prefixes = ["", *(f"distractor_{k}." for k in range(1, len(parts)))]
                program = join(parts, f"{model.program.name}_padded", prefixes, sources=False)
            else:
                program = join(parts, prefixes=_apart(parts))
            try:
                made = _compiled(model, program)
            except UnsupportedOpError:
                break  # whatever the base is
            except (PrecisionError, SizeError):
                continue
            if model.certificate.exact and not made.certificate.exact:
                continue
            if not _varies(program, candidate.num_outputs):
                break
            found.append(candidate)
            joint, bases = made, [base]
            break
        if len(found) == count:
            return found, joint
    raise InputError(
        f"{what}: none of the programs tried fits {model.program.name} on {model.target}; give "
        "others, or another seed"
    )


def _apart(programs: Sequence[Program]) -> list[str]:
    """Prefixes that tell the signals of later programs from those of the first."""
    found = [""]
    for number, program in enumerate(programs[1:], start=2):
        prefix = f"{program.name}."
        found.append(f"{program.name}_{number}." if prefix in found else prefix)
    return found


def _varies(program: Program, outputs: int) -> bool:
    """Whether every one of the last outputs takes different values on random inputs."""
    inputs = random_sampler(program, 16)(16, 0)
    values = evaluate(program.graph, inputs)[program.graph.output][..., -outputs:]
    flat = values.astype(np.float64).reshape(-1, outputs)
    return bool((flat != flat[0]).any(axis=0).all())


def _heads(programs: Sequence[Program]) -> str:
    stops = accumulate(program.num_outputs for program in programs)
    parts = [
        f"{program.name}: {stop - program.num_outputs} to {stop - 1}"
        for program, stop in zip(programs, stops, strict=True)
    ]
    return f"outputs of {', '.join(parts)}"
