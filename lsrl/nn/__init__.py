"""Compiled programs as layers of networks that learn (docs/library.md)."""

from lsrl.nn.attaching import attach, load_attached
from lsrl.nn.blame import Blame
from lsrl.nn.call_stack import CallStack
from lsrl.nn.calls import Call, Calls
from lsrl.nn.frozen import FrozenParam
from lsrl.nn.halting import Halting
from lsrl.nn.hosts import Host
from lsrl.nn.layer import CompiledLayer
from lsrl.nn.library import Library
from lsrl.nn.lines import StraightLine
from lsrl.nn.memory import Memory
from lsrl.nn.prompts import Prompt, answers_loss, answers_right, improve_prompt
from lsrl.nn.recur import Recur
from lsrl.nn.registers import Registers
from lsrl.nn.relabelling import Relabelling
from lsrl.nn.report import GradientReport
from lsrl.nn.tables import MooreTable, routine_table
from lsrl.nn.tasks import Task, TaskBatch, standard_tasks

__all__ = [
    "Blame",
    "Call",
    "CallStack",
    "Calls",
    "CompiledLayer",
    "FrozenParam",
    "GradientReport",
    "Halting",
    "Host",
    "Library",
    "Memory",
    "MooreTable",
    "Prompt",
    "Recur",
    "Registers",
    "Relabelling",
    "StraightLine",
    "Task",
    "TaskBatch",
    "answers_loss",
    "answers_right",
    "attach",
    "improve_prompt",
    "load_attached",
    "routine_table",
    "standard_tasks",
]
