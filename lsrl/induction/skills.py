"""Skills: functions of LSRL that a search composes, those that it has learnt, and their file."""

import dataclasses
import inspect
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast, final

import numpy as np

from lsrl import arguments, schema, sealed
from lsrl.arguments import near, shown
from lsrl.errors import FormatError, InputError, LsrlError
from lsrl.folders import replace_file
from lsrl.induction import standard
from lsrl.induction.affine import MOST_SUMS, Affine, Response
from lsrl.induction.expressions import Expression
from lsrl.induction.macros import (
    MOST_CALLS,
    Filter,
    Macro,
    is_constant,
    macro_of,
    names_a_function,
    parameters_of,
    parsed,
)
from lsrl.induction.operators import (
    BIT,
    MOST_OPERANDS,
    SMALL,
    Kind,
    Operator,
    Skill,
    graph_of,
    place_of,
)
from lsrl.induction.realisation import Realisation
from lsrl.induction.writing import filter_of
from lsrl.ir.numbers import Array
from lsrl.schema import FieldError, Reader

Made = TypeVar("Made", bound=Callable[..., object])
FORM = sealed.Form("lsrl-skills", 1)
# Uses of what was never used, and bits of a unit of cost.
RARE, UNIT = 0.5, 2.0
LARGEST = 2**31
# What a learnt skill may be in a file.
KINDS = ("expression", "filter", "state")
INPUT = ""  # what all inputs are counted as


_NUMBER = schema.number(-LARGEST, LARGEST)
_NUMBERS = schema.listed(schema.number(-LARGEST, LARGEST))
_MATRIX = schema.listed(_NUMBERS)
_SKILL: Reader[dict[str, Any]] = schema.record(
    {
        "name": schema.text,
        "parameters": schema.listed(schema.text),
        "expression": schema.text,
        "filter": schema.record({"taps": _MATRIX, "sums": schema.integer(0, MOST_SUMS)}),
        "state": schema.record(
            {"matrix": _MATRIX, "write": _MATRIX, "read": _MATRIX, "direct": schema.maybe(_MATRIX)}
        ),
    },
    KINDS,
)
_FILE: Reader[dict[str, Any]] = schema.record({"skills": schema.listed(_SKILL)})


@final
class Skills:
    """The functions that a search may compose.

        skills = lsrl.induction.Skills.standard()
        @skills.add
        def rises(x):
            return x > lsrl.delay(x)

    What a skill means is what the reference evaluator gives for it, on streams of integers. One
    that wants conditions is tried on streams that are proven to be 0 or 1.

    Example:
      skills = lsrl.induction.Skills.standard()
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
        learnt = isinstance(function, Macro | Filter)
        skill = cast("Macro | Filter", function).skill if learnt else _skill_of(function)
        if skill.name in self._skills:
            raise InputError(
                f"skill {place_of(function)}: there is one of this name; have {', '.join(self)}"
            )
        _try_out(skill)
        self._skills[skill.name] = skill
        return function

    def learn(self, name: str, expression: Expression) -> Skill | None:
        """Make an expression a skill, whose parameters are the inputs that it reads.

        Args:
          name: of the skill; numbered where it is taken.
          expression: of these skills.

        Returns:
          The skill, or one that says the same; None where the expression reads no input or more
          than a skill has, is only a skill of its inputs, comes to too many calls, or makes no
          stream of integers.
        """
        macro = macro_of(self._free(name), expression, self)
        if macro is None or macro.calls > MOST_CALLS:
            return None
        names = macro.parameters
        alike = [each for each in self.macros if len(each.parameters) == len(names)]
        twins = (each.skill for each in alike if each.of(names) == macro.expression)
        return next(twins, None) or self._tried(macro)

    def learn_filter(self, name: str, inputs: Sequence[str], found: Affine) -> Skill | None:
        """Make a recurrence a skill.

        Args:
          name: of the skill; numbered where it is taken.
          inputs: that it reads, each a column of it.
          found: the recurrence, of one output.

        Returns:
          The skill; None where it reads more than a skill does, or makes no stream of integers.
        """
        free = self._free(name)
        if len(inputs) > MOST_OPERANDS:
            return None
        return self._tried(filter_of(free, parameters_of(inputs, {free, *self}), found))

    def _free(self, name: str) -> str:
        """A name that is not taken."""
        chosen, number = name, 2
        while chosen in self:
            chosen, number = f"{name}_{number}", number + 1
        return chosen

    def _tried(self, function: Macro | Filter) -> Skill | None:
        try:
            self.add(function)
        except InputError:
            return None
        return self._skills[function.name]

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

    @property
    def learnt(self) -> tuple[Macro | Filter, ...]:
        """Those that were learnt, each after those that it calls."""
        functions = [each.function for each in self.skills]
        return tuple(each for each in functions if isinstance(each, Macro | Filter))

    @property
    def macros(self) -> tuple[Macro, ...]:
        """Those of the learnt ones that are expressions of others."""
        return tuple(each for each in self.learnt if isinstance(each, Macro))

    def costs(self) -> Callable[[str], int]:
        """What each skill, input or constant costs a search, by its name.

        It is the bits of its share among all that the learnt skills are made of, and those that
        solved tasks before, in units of 2 bits. Where nothing was learnt, all cost 1.
        """
        learnt = self.learnt
        uses = Counter(each.name for each in learnt)
        for macro in self.macros:
            for part in macro.expression.parts():
                leaf = part.leaf if is_constant(part.leaf) else INPUT
                uses[part.operator.skill.name if part.operator else leaf] += 1
        total = uses.total() + RARE * (len(self) + 1)

        def cost(name: str) -> int:
            known = name if name in self or is_constant(name) else INPUT
            share = (uses[known] + RARE) / total
            return max(1, round(-math.log2(share) / UNIT)) if learnt else 1

        return cost

    def with_macros(self, macros: Sequence[Macro]) -> "Skills":
        """A copy with these as all of its macros."""
        own = [each for each in self.skills if not isinstance(each.function, Macro)]
        found = Skills()
        found._skills = {each.name: each for each in (*own, *(macro.skill for macro in macros))}
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the learnt skills to a file, whole or not at all.

        The file holds each as an expression of others, as text: `is_zero(remainder(x, n=2))`.

        Raises:
          OSError: the file can't be written.
        """
        content = sealed.seal(FORM, {"skills": to_json(self.learnt)})
        replace_file(arguments.path("save", path), json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str], known: "Skills | None" = None) -> "Skills":
        """Skills with those that `save` wrote.

        Args:
          path: of the file.
          known: the skills that its expressions begin with; by default `Skills.standard()`.

        Raises:
          FormatError: the file is damaged, or calls a skill that is not known; says where.
          OSError: the file can't be read.
        """
        skills = cls.standard() if known is None else known.without()
        with open(arguments.path("load", path), "rb") as file:
            content = file.read()
        try:
            said = _FILE(sealed.unseal(FORM, schema.parse(content)))
            try:
                from_json(skills, said["skills"])
            except FieldError as error:
                raise error.within("skills") from None
        except FieldError as error:
            raise FormatError(
                f"{os.fspath(path)}: expected skills saved by skills.save, got something else: "
                f"{error}; save them again"
            ) from error
        return skills

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
        graph_of(operator, mixtures[-2], tokens)
    except LsrlError as error:
        reason = str(error)
    raise InputError(f"skill {place_of(skill.function)} makes no stream of integers: {reason}")


# ---------------------------------------------------------------- as data


def to_json(learnt: Sequence[Macro | Filter]) -> list[dict[str, object]]:
    """Learnt skills as JSON data."""
    found = list[dict[str, object]]()
    for each in learnt:
        said: dict[str, object] = {"name": each.name, "parameters": each.parameters}
        if isinstance(each, Macro):
            said["expression"] = str(each.expression)
        else:
            said |= _filter_json(each.found)
        found.append(said)
    return found


def from_json(skills: Skills, said: object) -> None:
    """Add learnt skills, each of which may call those before it.

    Raises:
      FieldError: one is none; says which.
    """
    for number, one in enumerate(schema.listed(_SKILL)(said)):
        name, parameters = one["name"], one["parameters"]
        try:
            _check_names(name, parameters, skills)
            if len(one) != 3:
                raise InputError(f"expected one of {', '.join(KINDS)}")
            if "expression" in one:
                expression = parsed(one["expression"], skills.skills, parameters)
                macro = Macro(name, parameters, expression)
                if macro.calls > MOST_CALLS:
                    raise InputError(f"it comes to {macro.calls} calls, at most {MOST_CALLS}")
                skills.add(macro)
            else:
                skills.add(filter_of(name, parameters, _filter(len(parameters), one)))
        except InputError as error:
            raise FieldError("a skill", f"{error}", f"[{number}]") from None


def _filter_json(found: Affine) -> dict[str, object]:
    (response,) = found.responses
    if response is not None:
        return {"filter": {"taps": response.taps.tolist(), "sums": response.sums}}
    state = dataclasses.asdict(found.state) if found.state is not None else {}
    return {"state": {n: None if a is None else a.tolist() for n, a in state.items()}}


def _filter(inputs: int, one: Mapping[str, Any]) -> Affine:
    """A recurrence of so many inputs, and the constant 1."""
    if "filter" in one:
        taps, sums = one["filter"]["taps"], one["filter"]["sums"]
        return Affine((), (Response(_matrix("taps", taps, len(taps), inputs + 1), sums),), None)
    said, order = one["state"], len(one["state"]["matrix"])
    direct = said["direct"]
    state = Realisation(
        _matrix("matrix", said["matrix"], order, order),
        _matrix("write", said["write"], order, inputs + 1),
        _matrix("read", said["read"], 1, order),
        None if direct is None else _matrix("direct", direct, 1, inputs + 1),
    )
    return Affine((), (None,), state)


def _matrix(what: str, rows: Sequence[Sequence[float]], height: int, width: int) -> Array:
    if not height or len(rows) != height or {len(row) for row in rows} != {width}:
        raise InputError(f"{what}: expected {max(1, height)} rows of {width} numbers")
    return np.array(rows, np.float64)


def _check_names(name: str, parameters: Sequence[str], skills: Skills) -> None:
    """A function's name, and those of its parameters."""
    for each in (name, *parameters):
        if not names_a_function(each):
            raise InputError(f"expected a name, got {shown(each)}")
    if not 1 <= len(set(parameters)) == len(parameters) <= MOST_OPERANDS:
        raise InputError(f"expected one to {MOST_OPERANDS} different parameters")
    taken = [each for each in parameters if each == name or each in skills]
    if taken:
        raise InputError(f"the parameter {shown(taken[0])} has the name of a skill")
