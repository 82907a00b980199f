"""LSRL: compile short programs over linear-state signals into exact recurrent networks."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from lsrl import arguments, errors
from lsrl.ir.types import Token, Vector
from lsrl.language.comparison import (
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    not_equal,
    ramp,
)
from lsrl.language.division import mod
from lsrl.language.extremes import running_max, running_min
from lsrl.language.feedback import Feedback, MemoryMap
from lsrl.language.memory import memory
from lsrl.language.program import Program, program
from lsrl.language.run import Run
from lsrl.language.signal import Signal, absolute, concat, constant, maximum, minimum, relu
from lsrl.language.sugar import (
    argmax,
    bound,
    clip,
    cumsum,
    cycle,
    delay,
    hold,
    latch,
    linear_state,
    lookup,
    mux,
    one_hot,
    periodic,
    position,
    recurrent_state,
    select,
    selective_state,
    threshold_state,
    where,
    window_sum,
)
from lsrl.language.swaps import swap_state
from lsrl.options import AutomatonLimits

if TYPE_CHECKING:
    from lsrl import paper, programs
    from lsrl.compiler import compile
    from lsrl.explanation import explain
    from lsrl.golden import GoldenState
    from lsrl.loading import load
    from lsrl.model import Model
    from lsrl.specialisation import specialise
    from lsrl.state import State
    from lsrl.support import targets
    from lsrl.testing.random_programs import random_program
    from lsrl.torch_folder import load_torch

# Compilation and its heavy imports load when first used.
_LAZY = {
    "compile": "lsrl.compiler",
    "explain": "lsrl.explanation",
    "targets": "lsrl.support",
    "GoldenState": "lsrl.golden",
    "Model": "lsrl.model",
    "State": "lsrl.state",
    "load": "lsrl.loading",
    "specialise": "lsrl.specialisation",
    "load_torch": "lsrl.torch_folder",
    "random_program": "lsrl.testing.random_programs",
    "paper": "lsrl.paper",
    "programs": "lsrl.programs",
    "induce": "lsrl.induction",
    "induction": "lsrl.induction",
    "interpret": "lsrl.interpret",
    "lift": "lsrl.induction",
    "machine": "lsrl.machine",
    "nn": "lsrl.nn",
    "stability": "lsrl.stability",
    "suite": "lsrl.suite",
}

__all__ = [
    "AutomatonLimits",
    "Feedback",
    "GoldenState",
    "MemoryMap",
    "Model",
    "Program",
    "Run",
    "Signal",
    "State",
    "Token",
    "Vector",
    "absolute",
    "argmax",
    "bound",
    "clip",
    "compile",
    "concat",
    "constant",
    "cumsum",
    "cycle",
    "delay",
    "equal",
    "errors",
    "explain",
    "greater",
    "greater_equal",
    "hold",
    "induce",
    "induction",
    "interpret",
    "latch",
    "less",
    "less_equal",
    "lift",
    "linear_state",
    "load",
    "load_torch",
    "lookup",
    "machine",
    "maximum",
    "memory",
    "minimum",
    "mod",
    "mux",
    "nn",
    "not_equal",
    "one_hot",
    "paper",
    "periodic",
    "position",
    "program",
    "programs",
    "ramp",
    "random_program",
    "recurrent_state",
    "relu",
    "running_max",
    "running_min",
    "select",
    "selective_state",
    "specialise",
    "stability",
    "suite",
    "swap_state",
    "targets",
    "threshold_state",
    "where",
    "window_sum",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("lsrl")
    if name not in _LAZY:
        raise AttributeError(
            f"module 'lsrl' has no attribute {name!r}{arguments.near(name, __all__)}", name=name
        )
    module = importlib.import_module(_LAZY[name])
    return module if module.__name__ == f"lsrl.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
