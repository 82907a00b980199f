"""Operators: functions of LSRL on streams, carried out by the reference evaluator.

A skill is recorded once for each kind of signals that it is tried on, as a graph; the evaluator
carries that graph out on thousands of streams at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast, final

from lsrl.arguments import shown
from lsrl.errors import InputError, LsrlError
from lsrl.ir import ops
from lsrl.ir.evaluate import Prefixes, facts_over
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array, sum_is_exact
from lsrl.ir.types import Vector
from lsrl.language.signal import Operand, Signal, as_signal
from lsrl.language.trace import Trace, recording

MOST_OPERANDS = 3
# Values of a stream, by kind of stream; what leaves the last is dropped.
RANGES = ((0.0, 1.0), (-64.0, 64.0), (-65536.0, 65536.0))
BIT, SMALL, LARGE = range(3)
BITS_OF_FLOAT32 = 24


class Kind(NamedTuple):
    """What is known of a stream.

    Attributes:
      width: channels.
      range: index of `RANGES`; a stream is BIT where inference says so, not by what it holds.
    """

    width: int
    range: int


@final
@dataclass(frozen=True)
class Skill:
    """A function of signals.

    Attributes:
      name: of the function.
      function: makes a signal of signals.
      operands: number of signals.
      constant: the keyword that takes a number, or "".

    Example:
      print([skill.name for skill in skills.skills][:3])
    """

    name: str
    function: Callable[..., object]
    operands: int
    constant: str = ""


@final
@dataclass(frozen=True)
class Operator:
    """A skill with its number.

    Attributes:
      skill: the skill.
      number: of its constant; None if it takes none.
    """

    skill: Skill
    number: int | None = None

    def on(self, kinds: Sequence[Kind], tokens: int) -> "Recorded | None":
        """The skill on streams of some kinds; None where it means nothing.

        Raises:
          InputError: it raises something else than an error of LSRL.
        """
        return recorded(self, tuple(kinds), tokens)


@final
@dataclass(frozen=True, eq=False)
class Recorded:
    """A skill as a graph.

    Attributes:
      graph: over one input an operand.
      dtype: in which its values are proven exact.
      kind: of the result; where it is no bit, its range depends on its values.
      prefixes: evaluates it.
    """

    graph: Graph
    dtype: str
    kind: Kind
    prefixes: Prefixes

    def __call__(self, operands: Sequence[Array]) -> tuple[Array, Array]:
        """Carry it out by the reference evaluator.

        Args:
          operands: (sequences, time, width) each.

        Returns:
          Values (sequences, time, width), and (sequences,) how many tokens keep every promise.
        """
        given = [operand.astype(self.dtype, copy=False) for operand in operands]
        legal, values = self.prefixes(given)
        return values[self.graph.output], legal


@lru_cache(maxsize=8192)
def recorded(operator: Operator, kinds: tuple[Kind, ...], tokens: int) -> Recorded | None:
    """See `Operator.on`."""
    try:
        graph = graph_of(operator, kinds, tokens)
    except LsrlError:
        return None
    except Exception as error:
        raise InputError(
            f"skill {place_of(operator.skill.function)} raises {type(error).__name__}: {error}; a "
            "skill is a function of signals that returns a signal"
        ) from error
    facts = graph.facts[graph.output]
    if not facts.integer:
        return None
    kind = Kind(facts.width, BIT if facts.boolean else LARGE)
    dtype = "float32" if _exact(graph, tokens) else "float64"
    return Recorded(graph, dtype, kind, Prefixes(graph, tokens, [graph.output], dtype=dtype))


def graph_of(operator: Operator, kinds: Sequence[Kind], tokens: int) -> Graph:
    """A skill on streams of some kinds, as a graph.

    Raises:
      LsrlError: it means nothing there.
    """
    skill, trace = operator.skill, Trace(tokens)
    with recording(trace):
        signals: list[Signal] = []
        for number, (width, place) in enumerate(kinds):
            low, high = RANGES[place]
            kind = Vector(width, low=low, high=high, step=1)
            index = trace.add(ops.Input(number, f"operand {number}", kind))
            signals.append(Signal(trace, index))
        constants = {skill.constant: operator.number} if skill.constant else {}
        result = as_signal(cast(Operand, skill.function(*signals, **constants)))
    return trace.builder.build(result.index)


def _exact(graph: Graph, tokens: int) -> bool:
    """Whether no sum of the graph is rounded in float32."""
    facts = facts_over(graph, tokens)
    for node in graph.nodes:
        sums = node.op.sums([facts[i] for i in node.operands], tokens)
        if not sum_is_exact(sums.magnitude, sums.grid, BITS_OF_FLOAT32).all():
            return False
    return True


def place_of(function: Callable[..., object]) -> str:
    """A function's name and line."""
    code = getattr(function, "__code__", None)
    where = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    return f"{getattr(function, '__name__', shown(function))!r}{where}"
