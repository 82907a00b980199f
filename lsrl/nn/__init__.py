"""Compiled programs as layers of networks that learn (docs/library.md)."""

from lsrl.nn.frozen import FrozenParam
from lsrl.nn.halting import Halting
from lsrl.nn.layer import CompiledLayer
from lsrl.nn.library import Library
from lsrl.nn.lines import StraightLine
from lsrl.nn.memory import Memory
from lsrl.nn.prompts import Prompt, answers_loss, improve_prompt
from lsrl.nn.recur import Recur
from lsrl.nn.registers import Registers
from lsrl.nn.report import GradientReport
from lsrl.nn.tables import MooreTable, routine_table

__all__ = [
    "CompiledLayer",
    "FrozenParam",
    "GradientReport",
    "Halting",
    "Library",
    "Memory",
    "MooreTable",
    "Prompt",
    "Recur",
    "Registers",
    "StraightLine",
    "answers_loss",
    "improve_prompt",
    "routine_table",
]
