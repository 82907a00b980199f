"""Networks whose inner workings are known: circuits, interventions, scores."""

from lsrl.circuit import Channel, Circuit, Derived, Edge, Signal
from lsrl.interpret.interventions import Outcome, ablate, capture, interchange, patch
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
    "interchange",
    "patch",
    "view",
]
