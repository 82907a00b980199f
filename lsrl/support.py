"""What can be compiled: what a target supports, and the refusal of what it does not."""

from dataclasses import dataclass

from lsrl.backends import registry
from lsrl.backends.base import Backend
from lsrl.errors import Offence, ProgramError, UnsupportedOpError
from lsrl.ir.graph import Graph
from lsrl.ir.ops import Product, Relu
from lsrl.language.program import Program
from lsrl.numerics import Numerics, numerics_of
from lsrl.options import Activation, Options
from lsrl.schedule import Layout


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
    if not isinstance(program, Program):
        raise ProgramError(
            f"compile expects a Program, made by @lsrl.program, got {type(program).__name__}"
        )
    if options.legalise not in ("native", "unroll"):
        raise ProgramError(f"legalise must be 'native' or 'unroll', got {options.legalise!r}")
    backend, numerics = registry.find(target, activation), numerics_of(dtype)
    backend.check_dtype(numerics)
    if options.verbatim and not _keeps_relus(backend):
        able = [name for name in registry.names() if _keeps_relus(registry.find(name))]
        raise ProgramError(
            f"verbatim=True lowers ReLUs as they stand, and {backend.name!r} writes them as "
            f"something else; take one of {', '.join(able)}"
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


def check_supported(program: Program, graph: Graph, backend: Backend[Layout]) -> None:
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
    hint = "; legalise='unroll' (--unroll) is a way out that is exact up to max_length"
    hint = "" if products else hint
    raise UnsupportedOpError(
        f"target {backend.name!r} can't hold {len(offences)} signal(s) of {program.name!r}{hint}",
        offences,
    )
