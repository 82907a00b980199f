"""Induction: from examples to programs, and from those to certified weights (docs/induction.md)."""

from lsrl.induction.examples import Examples
from lsrl.induction.found import Candidate, Checked, Found, Refusal
from lsrl.induction.lifting import lift
from lsrl.induction.machines import mealy
from lsrl.induction.portfolio import induce
from lsrl.induction.skills import Skill, Skills

__all__ = [
    "Candidate",
    "Checked",
    "Examples",
    "Found",
    "Refusal",
    "Skill",
    "Skills",
    "induce",
    "lift",
    "mealy",
]
