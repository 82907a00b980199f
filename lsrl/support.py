"""What can be compiled: what a target supports, and the refusal of what it does not."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lsrl import arguments
from lsrl.backends import registry
from lsrl.backends.base import Backend
from lsrl.errors import Offence, ProgramError, SizeError, UnsupportedOpError
from lsrl.ir.graph import Graph
from lsrl.ir.ops import Affine, Constant, Product, Relu, ThresholdState
from lsrl.language.program import Program
from lsrl.numerics import Numerics, numerics_of
from lsrl.options import AUTOMATA, Activation, AutomatonLimits, Options
from lsrl.passes.automata import AutomatonPass
from lsrl.schedule import Layout


@dataclass(frozen=True)
class TargetInfo:
    """A target and what it supports.

    Attributes:
      name: of the target.
      cell: the cell in one line.
      supports: column of the table of targets to its entry.
      formats: those that `Model.export` writes of it.
    """

    name: str
    cell: str
    supports: dict[str, str]
    formats: tuple[str, ...]


def targets() -> tuple[TargetInfo, ...]:
    """Every target with what it supports.

    Example:
      print([target.name for target in lsrl.targets()][:3])
    """
    found = (registry.find(name) for name in registry.names())
    return tuple(TargetInfo(b.name, b.cell, dict(b.features), tuple(b.exporters())) for b in found)


def name_of(target: str | TargetInfo) -> str:
    """The name of a target that is given by name, or as `targets` lists it."""
    return target.name if isinstance(target, TargetInfo) else target


def check_program(what: str, program: object) -> Program:
    """A program; else raise ProgramError."""
    return arguments.instance(what, program, Program, "@lsrl.program", ProgramError)


def check_request(
    program: Program, target: str, dtype: object, activation: Activation | None, options: Options
) -> tuple[Backend[Layout], Numerics]:
    """The target and the numbers that a compilation is asked for.

    Raises:
      ProgramError: that is no program, there are no such options, or the target can't lower a text
        as it stands (names those that can).
      UnknownTargetError: no target of that name.
      PrecisionError: the dtype is unknown, or the target does not come in it.
    """
    check_program("compile", program)
    arguments.choice("legalise", options.legalise, ("native", "unroll"), ProgramError)
    for name in ("robust", "inspectable", "verbatim"):
        arguments.flag(name, getattr(options, name), ProgramError)
    backend, numerics = registry.find(target, activation), numerics_of(dtype)
    backend.check_dtype(numerics)
    if options.verbatim and not _keeps_relus(backend):
        raise ProgramError(
            f"verbatim=True lowers ReLUs as they stand, and {backend.name!r} writes them as "
            f"something else; take one of {registry.able(_keeps_relus)}"
        )
    return backend, numerics


def _keeps_relus(backend: Backend[Layout]) -> bool:
    return Relu in backend.capabilities.native and not backend.capabilities.diagonal


def check_length(program: Program) -> None:
    """Raise ProgramError if a program has no length to write its states out over."""
    if program.max_length is None:
        raise ProgramError(
            f"legalise='unroll' writes the states of {program.name!r} out over max_length "
            "tokens, and it declares none; write @lsrl.program(max_length=...)"
        )


def offending(
    graph: Graph, backend: Backend[Layout], limits: AutomatonLimits = AUTOMATA
) -> list[tuple[int, str]]:
    """Every live node of a simplified graph that a target can't hold, with the reason.

    A threshold state may be held as swaps; then only its size can be against it.
    """
    found = backend.offending(graph)
    if not backend.capabilities.holds_automata or not any(
        _is_threshold(graph, i) for i, _ in found
    ):
        return found
    refused = _beyond(graph, limits)
    return [
        (i, refused.get(i, reason))
        for i, reason in found
        if i in refused or not _is_threshold(graph, i)
    ]


def _is_threshold(graph: Graph, node: int) -> bool:
    return isinstance(graph.nodes[node].op, ThresholdState)


def _beyond(graph: Graph, limits: AutomatonLimits) -> dict[int, str]:
    """The automata that swaps can't hold within limits, and why."""
    held = AutomatonPass(limits)
    held(graph)
    return held.refused


def check_supported(
    program: Program,
    graph: Graph,
    backend: Backend[Layout],
    limits: AutomatonLimits = AUTOMATA,
) -> None:
    """Raise UnsupportedOpError if a target can't hold a simplified graph; lists every offender."""
    found = offending(graph, backend, limits)
    if not found:
        return
    others = [registry.find(name) for name in registry.names()]
    offences = []
    for node, reason in found:
        able = tuple(other.name for other in others if _holds(other, graph, node, limits))
        offences.append(Offence(graph.label(node), graph.source(node), reason, able))
    products = all(isinstance(graph.nodes[node].op, Product) for node, _ in found)
    hint = "; legalise='unroll' (--unroll) is a way out that is exact up to max_length"
    hint = "" if products else hint
    raise UnsupportedOpError(
        f"target {backend.name!r} can't hold {len(offences)} signal(s) of {program.name!r}{hint}",
        offences,
    )


def _holds(backend: Backend[Layout], graph: Graph, node: int, limits: AutomatonLimits) -> bool:
    """Whether a target holds a node of a simplified graph."""
    if _is_threshold(graph, node) and backend.capabilities.holds_automata:
        return node not in _beyond(graph, limits)
    operands = [graph.facts[operand] for operand in graph.nodes[node].operands]
    return backend.refusal(graph.nodes[node].op, operands) is None


def check_least(
    program: Program, graph: Graph, backend: Backend[Layout], numerics: Numerics, most: int
) -> None:
    """Refuse a simplified graph that can only take more numbers than are allowed.

    Args:
      program: what is compiled.
      graph: of it.
      backend: the target.
      numerics: the dtype.
      most: numbers of all parameters together.

    Raises:
      SizeError: says how many there would be at least, and for which signal.
    """
    least = backend.least(graph)
    if least is not None and least.numbers > most:
        what = f"{_written(graph, least.node)} takes {least.what}"
        about = program.name, backend.name, "at least "
        raise _too_large(*about, least.numbers, most, numerics, what)


def check_size(
    program: Program, layout: Layout, backend: Backend[Layout], numerics: Numerics, most: int
) -> None:
    """Refuse a network of more numbers than are allowed, before any of them is made.

    Args:
      program: what it carries out.
      layout: of the program, by the target.
      backend: the target.
      numerics: the dtype.
      most: numbers of all parameters together; of sparse ones their weights.

    Raises:
      SizeError: says how many there would be, and of which signal most of them come; or that the
        machine has no memory for as many.
    """
    sizes = backend.sizes(layout, numerics)
    total = sum(size.numbers for size in sizes.values())
    if total > most:
        name, largest = max(sizes.items(), key=lambda item: item[1].numbers)
        node, signals, of = _widest(layout.graph)
        what = (
            f"{len(layout.layers):,} layers of up to {layout.width:,} channels; {signals:,} of "
            f"{of:,} signals are made for {_written(layout.graph, node)}, and {name} alone is "
            f"{' x '.join(map(str, largest.shape))}"
            + ("" if largest.weights is None else f", of which {largest.weights:,} are weights")
        )
        raise _too_large(program.name, backend.name, "", total, most, numerics, what)
    # Numbers are made in float64, and held in the dtype.
    room, each = memory(), 8 + numerics.bytes
    if total * each > room:
        raise SizeError(
            f"{program.name!r} on {backend.name!r} would take {total:,} parameters, which need "
            f"{total * each / 2**30:,.3g} GiB while they are made, and this machine has "
            f"{room / 2**30:,.3g} GiB of memory; write it with fewer channels, or choose another "
            "target",
            total,
            room // each,
        )


def memory() -> int:
    """Bytes of memory that processes may take here, by the machine and its control group."""
    found = [2**62]
    if hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found)


def _too_large(
    program: str, target: str, least: str, total: int, most: int, numerics: Numerics, what: str
) -> SizeError:
    return SizeError(
        f"{program!r} on {target!r} would take {least}{total:,} parameters "
        f"({_gibibytes(total, numerics)}), and at most {most:,} ({_gibibytes(most, numerics)}) are "
        f"made: {what}. Write it with fewer channels (a shorter delay or window, a smaller table), "
        f"choose another target, or allow more: lsrl.compile(..., most_parameters={total}) "
        f"(--most-parameters {total})",
        total,
        most,
    )


def _gibibytes(numbers: int, numerics: Numerics) -> str:
    return f"{numbers * numerics.bytes / 2**30:,.3g} GiB in {numerics.dtype}"


def _widest(graph: Graph) -> tuple[int, int, int]:
    """The signal of the program for which most channels are made, how many they are, and all."""
    # What passes make for a node stands before it, and is no signal of the program.
    owner: dict[int, int] = {graph.output: graph.output}
    channels: Counter[int] = Counter()
    for i in reversed(graph.live()):
        owner[i] = i if graph.nodes[i].origins else owner.get(i, i)
        if not isinstance(graph.nodes[i].op, Affine | Constant):
            channels[owner[i]] += graph.nodes[i].width
        for operand in graph.nodes[i].operands:
            owner.setdefault(operand, owner[i])
    ((node, most),) = channels.most_common(1) or [(graph.output, 0)]
    return node, most, channels.total()


def _written(graph: Graph, node: int) -> str:
    """A node as the user wrote it: name or op, and line."""
    origins = graph.nodes[node].origins
    label = graph.program.label(origins[0]) if graph.program and origins else graph.label(node)
    return f"{label} ({graph.source(node)})"
