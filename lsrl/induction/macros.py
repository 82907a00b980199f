"""Learnt skills: expressions of skills, and recurrences; and expressions as text.

The text of an expression is data: it is read by its syntax, name by name, and nothing is run.
"""

import ast
import keyword
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast, final

import lsrl
from lsrl.arguments import near, shown
from lsrl.errors import InputError
from lsrl.induction.affine import Affine
from lsrl.induction.expressions import Expression
from lsrl.induction.operators import LARGE, MOST_OPERANDS, RANGES, Operator, Skill
from lsrl.language.signal import Operand, Signal

POSITION = "lsrl.position()"
# What the text of a program calls by these names.
RESERVED = ("lsrl", "np")
# Calls of skills that a macro may come to, macros in it included, and letters of an expression.
MOST_CALLS = 256
MOST_LETTERS = 20_000


@final
@dataclass(frozen=True, eq=False)
class Macro:
    """An expression of skills, as a function of signals.

    Attributes:
      name: of the function.
      parameters: leaves of the expression that stand for signals, in order.
      expression: its other leaves are whole numbers and `lsrl.position()`.
    """

    name: str
    parameters: tuple[str, ...]
    expression: Expression

    @property
    def __name__(self) -> str:
        """As functions have it."""
        return self.name

    @cached_property
    def calls(self) -> int:
        """Skills that are called, those inside of macros too."""
        called = [p.operator.skill.function for p in self.expression.parts() if p.operator]
        return sum(each.calls if isinstance(each, Macro) else 1 for each in called)

    @property
    def skill(self) -> Skill:
        """It as a skill."""
        return Skill(self.name, self, len(self.parameters))

    def of(self, operands: Sequence[str]) -> Expression:
        """The expression of leaves, one a parameter."""
        pairs = zip(self.parameters, operands, strict=True)
        return replaced(
            self.expression, {Expression(leaf=one): Expression(leaf=other) for one, other in pairs}
        )

    def __call__(self, *signals: Signal) -> object:
        """The expression of some signals."""
        known: dict[Expression, object] = {}
        for part in self.expression.parts():
            if part.operator is None:
                known[part] = self._leaf(part.leaf, signals)
                continue
            skill, number = part.operator.skill, part.operator.number
            constants = {} if number is None else {skill.constant: number}
            operands = [cast(Operand, known[operand]) for operand in part.operands]
            known[part] = skill.function(*operands, **constants)
        return known[self.expression]

    def _leaf(self, leaf: str, signals: tuple[Signal, ...]) -> object:
        if leaf in self.parameters:
            return signals[self.parameters.index(leaf)]
        return lsrl.position() if leaf == POSITION else int(leaf)


@final
@dataclass(frozen=True, eq=False)
class Filter:
    """An affine recurrence, as a function of signals: `writing.filter_of` makes it.

    Attributes:
      name: of the function.
      parameters: a signal each.
      found: what it computes, of one output; its columns are the parameters.
      text: of the function.
      function: what running the text gives.
    """

    name: str
    parameters: tuple[str, ...]
    found: Affine
    text: str
    function: Callable[..., object]

    @property
    def __name__(self) -> str:
        """As functions have it."""
        return self.name

    @property
    def skill(self) -> Skill:
        """It as a skill."""
        return Skill(self.name, self, len(self.parameters))

    def __call__(self, *signals: Signal) -> object:
        """The recurrence of some signals."""
        return self.function(*signals)


def macro_of(name: str, expression: Expression, skills: Collection[str]) -> Macro | None:
    """A macro of what reads inputs: each input that it reads is a parameter.

    Args:
      name: of the macro.
      expression: over inputs, whole numbers and `lsrl.position()`.
      skills: names that no parameter may have.

    Returns:
      None where it reads no input or too many, or is only a skill of its inputs.
    """
    inputs = inputs_of(expression)
    plain = [each.leaf for each in expression.operands] == inputs
    if not 1 <= len(inputs) <= MOST_OPERANDS or expression.operator is None:
        return None
    if plain and expression.operator.number is None:
        return None
    names = parameters_of(inputs, {name, *skills})
    renamed = {
        Expression(leaf=leaf): Expression(leaf=name)
        for leaf, name in zip(inputs, names, strict=True)
    }
    return Macro(name, names, replaced(expression, renamed))


def parameters_of(leaves: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Names for some leaves, which may be `x[0]` or `x.one_hot`."""
    names: list[str] = []
    for leaf in leaves:
        words = "_".join("".join(c if c.isalnum() else " " for c in leaf).split())
        while words in taken or words in names or not words.isidentifier():
            words = f"{words}_" if words.isidentifier() else f"x_{words}"
        names.append(words)
    return tuple(names)


def inputs_of(expression: Expression) -> list[str]:
    """The leaves that are inputs, in the order in which they are read first."""
    leaves = [part.leaf for part in expression.parts() if part.operator is None]
    return [leaf for leaf in leaves if not is_constant(leaf)]


def skills_of(expression: Expression) -> list[str]:
    """The names of the skills that are called."""
    called = [part.operator.skill.name for part in expression.parts() if part.operator]
    return list(dict.fromkeys(called))


def names_a_function(name: str) -> bool:
    """Whether a text may define a function of this name, or a parameter."""
    return name.isidentifier() and not keyword.iskeyword(name) and name not in RESERVED


def is_constant(leaf: str) -> bool:
    """Whether a leaf means the same in every task."""
    return leaf == POSITION or leaf.isdecimal()


def replaced(expression: Expression, known: Mapping[Expression, Expression]) -> Expression:
    """An expression with some parts in place of others."""
    if expression in known:
        return known[expression]
    if expression.operator is None:
        return expression
    operands = tuple(replaced(operand, known) for operand in expression.operands)
    return Expression(expression.operator, operands)


# ---------------------------------------------------------------- text


def parsed(text: str, skills: Iterable[Skill], inputs: Collection[str]) -> Expression:
    """The expression that `str` of it gave.

    Args:
      text: skills on skills on leaves, such as `is_zero(remainder(x, n=2))`.
      skills: that it may call.
      inputs: texts of leaves, beside whole numbers and `lsrl.position()`.

    Raises:
      InputError: it is no such text; says what part is not.
    """
    if len(text) > MOST_LETTERS:
        raise InputError(f"an expression has at most {MOST_LETTERS} letters, got {len(text)}")
    try:
        tree = ast.parse(text, mode="eval").body
        return _read(tree, {skill.name: skill for skill in skills}, inputs)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{shown(text)} is no expression: {error}") from None


def _read(node: ast.expr, skills: Mapping[str, Skill], inputs: Collection[str]) -> Expression:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        leaf = ast.unparse(node)
        if leaf in inputs or leaf == POSITION or _is_number(leaf, 0):
            return Expression(leaf=leaf)
        known = [*inputs, POSITION]
        raise InputError(
            f"expected a skill, {', '.join(known)} or a whole number, got {shown(leaf)}"
            f"{near(leaf, known)}"
        )
    skill = skills.get(node.func.id)
    if skill is None:
        raise InputError(f"no skill is called {shown(node.func.id)}{near(node.func.id, skills)}")
    given = {each.arg: ast.unparse(each.value) for each in node.keywords}
    wanted = [skill.constant] * bool(skill.constant)
    if list(given) != wanted or not all(_is_number(each, 2) for each in given.values()):
        expected = f"{skill.constant}=, from 2 on" if wanted else "no constant"
        raise InputError(f"{skill.name}: expected {expected}, got {shown(given)}")
    if len(node.args) != skill.operands:
        raise InputError(f"{skill.name}: expected {skill.operands} operands, got {len(node.args)}")
    number = int(given[skill.constant]) if wanted else None
    operands = tuple(_read(each, skills, inputs) for each in node.args)
    return Expression(Operator(skill, number), operands)


def _is_number(text: str, least: int) -> bool:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(int(RANGES[LARGE][1])))
    return digits and least <= int(text) <= RANGES[LARGE][1]
