"""Compiled programs as layers of networks that learn (docs/library.md)."""

from lsrl.nn.attaching import attach, load_attached
from lsrl.nn.frozen import FrozenParam
from lsrl.nn.layer import CompiledLayer
from lsrl.nn.library import Library
from lsrl.nn.registers import Registers
from lsrl.nn.report import GradientReport
from lsrl.nn.tables import MooreTable, routine_table

__all__ = [
    "CompiledLayer",
    "FrozenParam",
    "GradientReport",
    "Library",
    "MooreTable",
    "Registers",
    "attach",
    "load_attached",
    "routine_table",
]
