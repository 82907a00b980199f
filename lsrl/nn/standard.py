"""The library to begin with: the skills of induction as finite machines over digits."""

from collections.abc import Callable, Iterator
from typing import cast

import lsrl
from lsrl.errors import InputError, LsrlError, NoMachineError
from lsrl.induction.operators import Skill
from lsrl.induction.skills import Skills
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.language.signal import Signal
from lsrl.nn.tables import MooreTable, routine_table

# Tokens on which a machine is verified.
VERIFIED = 64


def standard_tables(symbols: int, skills: Skills) -> dict[str, MooreTable]:
    """The skills that are finite machines of one stream of digits, by name.

    A skill reads the digit, one of two operands the digit and the one before it, and what wants
    conditions reads whether digits are odd. Results are taken modulo the number of digits. Left
    out are skills that no machine of 64 states equals, that do what one before them does, or that
    always say the same.

    Args:
      symbols: digits, at least 2.
      skills: of induction.

    Raises:
      InputError: no skill is such a machine.
    """
    found = dict[str, MooreTable]()
    known = set[bytes]()
    for skill in skills.skills:
        for name, program in _programs(skill, symbols):
            try:
                table = routine_table(program, tokens=VERIFIED).from_zero()
            except (NoMachineError, InputError):
                continue
            told = table.follows.tobytes() + table.outputs[table.follows].tobytes()
            if told not in known and len(set(table.ids[table.follows].flat)) > 1:
                known.add(told)
                found[name] = table
    if not found:
        raise InputError(
            f"Library.standard: no skill of {', '.join(skills)} is a finite machine of digits; "
            "start from lsrl.induction.Skills.standard()"
        )
    return found


def _programs(skill: Skill, symbols: int) -> Iterator[tuple[str, Program]]:
    """A skill as programs of one digit; one a constant, where it has one."""
    constants = range(2, symbols) if skill.constant else [None]
    for constant in constants:
        name = skill.name if constant is None else f"{skill.name}_{constant}"
        for kind in (_digits, _mixed, _odd):
            program = _program(name, skill, constant, kind, symbols)
            if program is not None:
                yield name, program
                break


def _digits(digit: Signal) -> tuple[Signal, ...]:
    return digit, lsrl.delay(digit)


def _odd(digit: Signal) -> tuple[Signal, ...]:
    odd = digit % 2 == 1
    return odd, lsrl.delay(odd)


def _mixed(digit: Signal) -> tuple[Signal, ...]:
    """A number, and a condition."""
    return digit, digit % 2 == 1


def _program(
    name: str,
    skill: Skill,
    constant: int | None,
    operands: Callable[[Signal], tuple[Signal, ...]],
    symbols: int,
) -> Program | None:
    def routine(digit: Signal) -> Signal:
        given = operands(digit)[: skill.operands]
        options = {} if constant is None else {skill.constant: constant}
        found = cast(Signal, skill.function(*given, **options))
        return found % symbols

    routine.__name__ = name
    routine.__annotations__ = {"digit": Token(symbols), "return": Token(symbols)}
    try:
        return lsrl.program(max_length=VERIFIED)(routine)
    except LsrlError:
        return None
