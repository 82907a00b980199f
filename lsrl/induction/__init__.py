"""Induction: from examples to programs, and from those to certified weights (docs/induction.md)."""

from lsrl.induction.curriculum import Curriculum, Learnt, Task
from lsrl.induction.examples import Examples
from lsrl.induction.found import Candidate, Checked, Found, Refusal
from lsrl.induction.lifting import lift
from lsrl.induction.machines import mealy
from lsrl.induction.operators import Skill
from lsrl.induction.portfolio import induce
from lsrl.induction.skills import Skills

__all__ = [
    "Candidate",
    "Checked",
    "Curriculum",
    "Examples",
    "Found",
    "Learnt",
    "Refusal",
    "Skill",
    "Skills",
    "Task",
    "induce",
    "lift",
    "mealy",
]
