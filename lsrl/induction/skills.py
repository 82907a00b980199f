"""Skills: functions of LSRL that a search composes, carried out by the reference evaluator.

A skill is recorded once for each kind of signals that it is tried on, as a graph; the evaluator
carries that graph out on thousands of streams at once.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast, final

from lsrl.arguments import near, shown
from lsrl.errors import InputError, LsrlError
from lsrl.induction import standard
from lsrl.ir import ops
from lsrl.ir.evaluate import evaluate_prefixes, facts_over
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
Made = TypeVar("Made", bound=Callable[..., object])


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
    """

    graph: Graph
    dtype: str
    kind: Kind

    def __call__(self, operands: Sequence[Array]) -> tuple[Array, Array]:
        """Carry it out by the reference evaluator.

        Args:
          operands: (sequences, time, width) each.

        Returns:
          Values (sequences, time, width), and (sequences,) bool whether every promise was kept.
        """
        given = [operand.astype(self.dtype, copy=False) for operand in operands]
        legal, values = evaluate_prefixes(self.graph, given, [self.graph.output], dtype=self.dtype)
        return values[self.graph.output], legal == given[0].shape[1]


@lru_cache(maxsize=8192)
def recorded(operator: Operator, kinds: tuple[Kind, ...], tokens: int) -> Recorded | None:
    """See `Operator.on`."""
    try:
        graph = _graph(operator, kinds, tokens)
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
    return Recorded(graph, "float32" if _exact(graph, tokens) else "float64", kind)


def _graph(operator: Operator, kinds: Sequence[Kind], tokens: int) -> Graph:
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


@final
class Skills:
    """The functions that a search may compose.

        skills = lsrl.induction.Skills.standard()
        @skills.add
        def rises(x):
            return x > lsrl.delay(x)

    What a skill means is what the reference evaluator gives for it, on streams of integers. One
    that wants conditions is tried on streams that are proven to be 0 or 1.
    """

    def __init__(self, *functions: Callable[..., object]) -> None:
        """With some functions, or none."""
        self._skills: dict[str, Skill] = {}
        for function in functions:
            self.add(function)

    @classmethod
    def standard(cls) -> "Skills":
        """Arithmetic, comparisons, sums, delays and memories: `lsrl.induction.standard`."""
        return cls(*standard.STANDARD)

    def add(self, function: Made) -> Made:
        """Add a function of signals; also a decorator.

        Args:
          function: of one to three signals, and at most one keyword-only parameter, a number that
            is tried with the constants of a task. It returns a signal.

        Returns:
          The function.

        Raises:
          InputError: no such function, a name that is taken, or it raises on every kind of signal.
        """
        skill = _skill_of(function)
        if skill.name in self._skills:
            raise InputError(
                f"skill {place_of(function)}: there is one of this name; have {', '.join(self)}"
            )
        _try_out(skill)
        self._skills[skill.name] = skill
        return function

    def without(self, *names: str) -> "Skills":
        """A copy that lacks some.

        Raises:
          InputError: there is no skill of that name.
        """
        for name in names:
            if name not in self._skills:
                raise InputError(f"no skill is called {name!r}{near(name, self)}")
        return Skills(*(each.function for each in self.skills if each.name not in names))

    @property
    def skills(self) -> tuple[Skill, ...]:
        """In the order in which they were added."""
        return tuple(self._skills.values())

    def operators(self, constants: Sequence[int]) -> list[Operator]:
        """Every skill, those with a constant once a number."""
        found = []
        for skill in self.skills:
            numbers = [n for n in constants if n > 1] if skill.constant else [None]
            found += [Operator(skill, number) for number in numbers]
        return found

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._skills)

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name."""
        return name in self._skills

    def __len__(self) -> int:
        """How many there are."""
        return len(self._skills)

    def __repr__(self) -> str:
        """The names."""
        return f"Skills({', '.join(self)})"


def _skill_of(function: object) -> Skill:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", "")
    if code is None or not callable(function) or not name.isidentifier():
        raise InputError(f"a skill is a function with a name, got {shown(function)}")
    parameters = list(inspect.signature(function).parameters.values())
    signals = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    constants = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    fits = len(signals) + len(constants) == len(parameters)
    if not fits or not 1 <= len(signals) <= MOST_OPERANDS or len(constants) > 1:
        raise InputError(
            f"skill {place_of(function)}: expected one to {MOST_OPERANDS} signals and at most one "
            f"keyword-only constant, got {inspect.signature(function)}"
        )
    return Skill(name, function, len(signals), constants[0].name if constants else "")


def _try_out(skill: Skill) -> None:
    """On integers, on conditions, on a mixture of them, and on vectors."""
    operator, tokens = Operator(skill, 2 if skill.constant else None), 8
    mixtures = [
        [Kind(1, BIT if bits >> k & 1 else SMALL) for k in range(skill.operands)]
        for bits in range(2**skill.operands)
    ]
    mixtures.append([Kind(3, BIT)] * skill.operands)
    if any(operator.on(kinds, tokens) is not None for kinds in mixtures):
        return
    reason = "its result is on no grid of integers"
    try:
        _graph(operator, mixtures[-2], tokens)
    except LsrlError as error:
        reason = str(error)
    raise InputError(f"skill {place_of(skill.function)} makes no stream of integers: {reason}")
