"""Common parts of solutions become skills, where that makes all of them together shorter to tell.

A part is the top of some expression: skills and whole numbers, with holes below for operands. Told
are the definition of every learnt skill and every solution, each by the bits of its words and
numbers. A part becomes a skill if it is in several of them and the bits that its calls save are
more than those of its own definition; the one that saves most goes first, until none does. What a
learnt skill says already needs no second definition: it is called.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from lsrl.induction.expressions import Expression
from lsrl.induction.macros import Macro, is_constant, replaced
from lsrl.induction.operators import MOST_OPERANDS, Operator, Skill
from lsrl.induction.skills import Skills
from lsrl.induction.writing import BITS_OF_WORD

HOLES = ("x", "y", "z")
# Skills and numbers of a part, and of parts that are weighed in full.
MOST_NODES = 6
WEIGHED = 24


class Part(NamedTuple):
    """The top of an expression, and what is below.

    Attributes:
      pattern: over `HOLES`.
      operands: what the holes stand for.
    """

    pattern: Expression
    operands: tuple[Expression, ...]


def bits_of(expression: Expression) -> float:
    """Its words and numbers, each time that they are written."""
    number = None if expression.operator is None else expression.operator.number
    if expression.leaf.isdecimal():
        number = int(expression.leaf)
    own = BITS_OF_WORD + (0.0 if number is None else 1 + 2 * math.log2(1 + number))
    return own + sum(map(bits_of, expression.operands))


def parts_of(expression: Expression) -> list[Part]:
    """Every top of an expression that has at least two skills."""
    found = []
    for pattern, cut in _tops(expression, MOST_NODES):
        operands = tuple(dict.fromkeys(cut))
        if len(operands) > MOST_OPERANDS or not operands or pattern.size - len(cut) < 2:
            continue
        holes = {each: Expression(leaf=HOLES[k]) for k, each in enumerate(operands)}
        marks = {Expression(leaf=_mark(k)): holes[each] for k, each in enumerate(cut)}
        found.append(Part(replaced(pattern, marks), operands))
    return found


def _mark(number: int) -> str:
    return f"?{number}"


def _tops(expression: Expression, most: int) -> Iterator[tuple[Expression, list[Expression]]]:
    """Tops of at most so many nodes, with a mark for each place where it is cut off."""
    if expression.operator is None and is_constant(expression.leaf):
        yield expression, []
        return
    if expression.operator is None or most < 1:
        return
    yield from _operands(expression, most)


def _operands(expression: Expression, most: int) -> Iterator[tuple[Expression, list[Expression]]]:
    partial: list[tuple[tuple[Expression, ...], list[Expression], int]] = [((), [], most - 1)]
    for operand in expression.operands:
        further = []
        for done, cut, room in partial:
            for top, below in _tops(operand, room):
                shifted = {
                    Expression(leaf=_mark(k)): Expression(leaf=_mark(k + len(cut)))
                    for k in range(len(below))
                }
                size = top.size - len(below)
                further.append(((*done, replaced(top, shifted)), [*cut, *below], room - size))
            if not (operand.operator is None and is_constant(operand.leaf)):
                hole = Expression(leaf=_mark(len(cut)))
                further.append(((*done, hole), [*cut, operand], room))
        partial = further
    for done, cut, _ in partial:
        yield Expression(expression.operator, done), cut


def rewritten(expression: Expression, pattern: Expression, skill: Skill) -> Expression:
    """An expression with every place that a pattern fits as a call of a skill, from the top."""
    operands = matched(expression, pattern)
    if operands is not None:
        below = tuple(rewritten(each, pattern, skill) for each in operands)
        return Expression(Operator(skill), below)
    below = tuple(rewritten(each, pattern, skill) for each in expression.operands)
    return Expression(expression.operator, below, expression.leaf)


def matched(expression: Expression, pattern: Expression) -> tuple[Expression, ...] | None:
    """What the holes of a pattern stand for where it is the top of an expression."""
    found: dict[str, Expression] = {}
    stack = [(expression, pattern)]
    while stack:
        one, other = stack.pop()
        if other.leaf in HOLES:
            if found.setdefault(other.leaf, one) != one:
                return None
        elif one.operator != other.operator or one.leaf != other.leaf:
            return None
        else:
            stack += zip(one.operands, other.operands, strict=True)
    return tuple(found[hole] for hole in HOLES if hole in found)


def best_part(
    told: Mapping[str, Expression], known: Mapping[Expression, Skill]
) -> Expression | None:
    """The pattern that saves most bits; None where none saves any.

    Args:
      told: the definitions, by name.
      known: by pattern, the skills that they define.
    """
    places: dict[Expression, set[str]] = {}
    estimates: dict[Expression, float] = {}
    for name, expression in told.items():
        for top in expression.parts():
            for pattern, operands in parts_of(top) if top.operator else []:
                if pattern in known and known[pattern].name == name and top == expression:
                    continue  # this is its definition
                places.setdefault(pattern, set()).add(name)
                saved = bits_of(top) - BITS_OF_WORD - sum(map(bits_of, operands))
                estimates[pattern] = estimates.get(pattern, 0.0) + saved
    several = [p for p, where in places.items() if len(where) > 1 or p in known]
    price = {p: 0.0 if p in known else BITS_OF_WORD + bits_of(p) for p in several}
    several.sort(key=lambda pattern: (price[pattern] - estimates[pattern], str(pattern)))
    best: tuple[float, Expression | None] = (0.0, None)
    for pattern in several[:WEIGHED]:
        if estimates[pattern] <= price[pattern]:
            break
        skill = known.get(pattern) or Skill("", _nothing, 1)
        saved = -price[pattern]
        for name in places[pattern]:
            saved += bits_of(told[name]) - bits_of(rewritten(told[name], pattern, skill))
        if saved > best[0]:
            best = saved, pattern
    return best[1]


def refactored(skills: Skills) -> Skills:
    """Skills that mean the same, in which the common parts of the learnt ones are skills too.

    They go by the names of the skills that they are made of, the outermost first.
    """
    learnt = {macro.name: macro for macro in skills.macros}
    told = {name: _with(macro.expression, _by_name) for name, macro in learnt.items()}
    parameters = {name: macro.parameters for name, macro in learnt.items()}
    while True:
        known = {
            _canonical(each, parameters[name]): Skill(name, _nothing, len(parameters[name]))
            for name, each in told.items()
        }
        pattern = best_part(told, known)
        if pattern is None:
            break
        skill = known.get(pattern)
        if skill is None:
            holes = tuple(hole for hole in HOLES if Expression(leaf=hole) in pattern.parts())
            skill = Skill(_name_of(pattern, [*skills, *told]), _nothing, len(holes))
            parameters[skill.name] = holes
        told = {
            name: each if name == skill.name else rewritten(each, pattern, skill)
            for name, each in told.items()
        }
        told.setdefault(skill.name, pattern)
    made: dict[str, Macro] = {}

    def real(skill: Skill) -> Skill:
        """The skill of a name, made after those that it calls."""
        name = skill.name
        if name not in told:
            return skill
        if name not in made:
            expression = _with(told[name], real)
            older = learnt.get(name)
            same = older is not None and older.expression == expression
            made[name] = older if older and same else Macro(name, parameters[name], expression)
        return made[name].skill

    for name in told:
        real(Skill(name, _nothing, 0))
    return skills.with_macros(list(made.values()))


def _with(expression: Expression, changed: Callable[[Skill], Skill]) -> Expression:
    """An expression with other skills."""
    if expression.operator is None:
        return expression
    operator = Operator(changed(expression.operator.skill), expression.operator.number)
    return Expression(operator, tuple(_with(each, changed) for each in expression.operands))


def _by_name(skill: Skill) -> Skill:
    """A learnt skill without its function, which is to be made anew."""
    learnt = isinstance(skill.function, Macro)
    return Skill(skill.name, _nothing, skill.operands) if learnt else skill


def _nothing() -> None:
    """In place of a function."""


def _canonical(expression: Expression, parameters: Sequence[str]) -> Expression:
    """A definition as `parts_of` writes patterns."""
    pairs = zip(parameters, HOLES, strict=False)
    return replaced(expression, {Expression(leaf=p): Expression(leaf=h) for p, h in pairs})


def _name_of(pattern: Expression, taken: Collection[str]) -> str:
    """The skills and numbers of a pattern, the outermost first."""
    words, stack = list[str](), [pattern]
    while stack:
        part = stack.pop()
        if part.operator is not None:
            number = part.operator.number
            words += [part.operator.skill.name] + [str(number)] * (number is not None)
        words += [part.leaf] * part.leaf.isdecimal()
        stack += part.operands[::-1]
    name = base = "_".join(words[:3])
    number = 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name
