"""Induction: from examples to programs, and from those to certified weights (docs/induction.md)."""

from lsrl.induction.curriculum import Curriculum, Learnt, Task
from lsrl.induction.examples import Examples
from lsrl.induction.found import Candidate, Found, Refusal
from lsrl.induction.machines import mealy
from lsrl.induction.operators import Skill
from lsrl.induction.portfolio import induce
from lsrl.induction.skills import Skills
from lsrl.induction.standard import running_max

__all__ = [
    "Candidate",
    "Curriculum",
    "Examples",
    "Found",
    "Learnt",
    "Refusal",
    "Skill",
    "Skills",
    "Task",
    "induce",
    "mealy",
    "running_max",
]
