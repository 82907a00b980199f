"""Networks whose inner workings are known: circuits, interventions, scores."""

from lsrl.circuit import Channel, Circuit, Derived, Edge, Signal
from lsrl.interpret.interventions import (
    Outcome,
    ablate,
    activations,
    capture,
    interchange,
    patch,
)
from lsrl.interpret.leaderboard import Leaderboard, benchmark
from lsrl.interpret.methods import Case
from lsrl.interpret.page import view
from lsrl.interpret.score import EdgeClaim, NodeClaim, ProbeClaim, Readout

__all__ = [
    "Case",
    "Channel",
    "Circuit",
    "Derived",
    "Edge",
    "EdgeClaim",
    "Leaderboard",
    "NodeClaim",
    "Outcome",
    "ProbeClaim",
    "Readout",
    "Signal",
    "ablate",
    "activations",
    "benchmark",
    "capture",
    "interchange",
    "patch",
    "view",
]
