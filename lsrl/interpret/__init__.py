"""Networks whose inner workings are known: circuits, interventions, scores."""

from lsrl.circuit import Channel, Circuit, Derived, Edge, Signal
from lsrl.interpret.interventions import Outcome, ablate, capture, interchange, patch
from lsrl.interpret.locate import circuit_of
from lsrl.interpret.page import view

__all__ = [
    "Channel",
    "Circuit",
    "Derived",
    "Edge",
    "Outcome",
    "Signal",
    "ablate",
    "capture",
    "circuit_of",
    "interchange",
    "patch",
    "view",
]
