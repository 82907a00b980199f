"""Variants of a model: the same program behind other weights.

A new variant is a function from a compiled model and a seed to a `Varied`, and one row of
`VARIANTS`; build, verify and the command line find it there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import lsrl
from lsrl.certificate import Certificate
from lsrl.ir.numbers import Array
from lsrl.language.program import Program

if TYPE_CHECKING:
    from lsrl.model import Model


class Network(Protocol):
    """What the suite needs of a model."""

    program: Program
    certificate: Certificate
    target: str

    @property
    def num_layers(self) -> int:
        """Depth."""

    @property
    def width(self) -> int:
        """Hidden units of the widest layer."""

    @property
    def num_parameters(self) -> int:
        """Every entry of every parameter array."""

    @property
    def num_nonzero_parameters(self) -> int:
        """Entries that are not zero."""

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The signal in each channel of each layer."""

    def run(self, *inputs: Any) -> Array:
        """Whole sequences."""

    def save(self, path: Path) -> None:
        """Write the model to one file."""


@dataclass(frozen=True)
class Varied:
    """What a variant makes of a model.

    Attributes:
      model: the network.
      card: a paragraph for the card: what was changed, and what stays true.
      exact: whether outputs are equal to the program's at every token.
      error_bound: the greatest error where they are not; None where nothing is certified, and the
        model was measured instead.
      measured: what was measured, by name, for card and manifest.
      circuit: circuit.json, where it is not that of the model.
    """

    model: Network
    card: str
    exact: bool
    error_bound: float | None
    measured: Mapping[str, float] = field(default_factory=dict)
    circuit: str | None = None


def load_model(path: Path) -> Network:
    """Read a model that `Model.save` wrote."""
    return lsrl.load(path)


@dataclass(frozen=True)
class Variant:
    """A row of the registry.

    Attributes:
      name: the name of its folders.
      make: (compiled model, seed) -> the variant; None where the target has no such variant.
      load: reads what the variant's model saved.
    """

    name: str
    make: "Callable[[Model, int], Varied | None]"
    load: Callable[[Path], Network] = load_model


def plain(model: "Model", seed: int) -> Varied:
    """The model as it was compiled."""
    del seed  # nothing is drawn
    certificate = model.certificate
    return Varied(
        model,
        "The network as it was compiled: each channel holds one signal, and nothing is hidden.",
        certificate.exact,
        0.0 if certificate.exact else float(certificate.error_bound),
    )


VARIANTS: dict[str, Variant] = {"plain": Variant("plain", plain)}
