"""What the targets with stock cells share: plan, certificate and module."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from lsrl.backends.anatomy import Hooks, Reading
from lsrl.backends.base import Exporter, StackBackend
from lsrl.backends.cells import torch_export
from lsrl.backends.cells.certificate import CellAnalysis
from lsrl.backends.cells.encoding import Encoder
from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.network import CellNetwork, CellWeights, GateWeights
from lsrl.backends.cells.plan import CellLayer, CellPlan, plan_cells
from lsrl.backends.input_map import input_maps
from lsrl.ir.numbers import Array
from lsrl.numerics import Numerics
from lsrl.schedule import Schedule


class CellBackend(StackBackend):
    """A target that is a stack of stock cells.

    Attributes:
      encoder: how the cell holds channels.
      kind: which of flax's cells.
    """

    encoder: ClassVar[Encoder]
    kind: ClassVar[CellKind]

    def analysis(self, schedule: Schedule, numerics: Numerics) -> Callable[[int], CellAnalysis]:
        """The certificate's conditions, over the units of the cells."""
        plan = plan_cells(self.encoder, schedule, numerics)
        return lambda tokens: CellAnalysis(plan, tokens)

    def hooks(self, schedule: Schedule, numerics: Numerics) -> Hooks:
        """Channels are read off h by the encoder's plan."""
        layers = [
            Reading(
                layer.decode,
                layer.offset,
                None,
                tuple(
                    (placed.start, float(placed.part.decode[0]))
                    for placed in layer.placed
                    if placed.unit is None
                ),
            )
            for layer in plan_cells(self.encoder, schedule, numerics).layers
        ]
        return Hooks("the cell's h; memory: the cell's carry, c and h for an LSTM", layers)

    def exporters(self) -> Mapping[str, Exporter]:
        """Stock modules of torch."""
        return {"torch": torch_export.write}

    def lower(self, schedule: Schedule, numerics: Numerics) -> CellNetwork:
        """The cells with the schedule's weights."""
        plan = plan_cells(self.encoder, schedule, numerics)
        return CellNetwork(self.kind, cell_weights(plan), numerics.dtype)


def cell_weights(plan: CellPlan) -> CellWeights:
    """The dense kernels of a plan."""
    return CellWeights(
        input_maps(plan.schedule),
        tuple(_gate_weights(layer) for layer in plan.layers),
        plan.output.inputs.toarray().T,
        plan.output.bias,
    )


def _gate_weights(layer: CellLayer) -> GateWeights:
    kernels = list(layer.kernels.values())

    def beside(matrices: list[sp.csr_array]) -> Array:
        return np.concatenate([matrix.toarray().T for matrix in matrices], axis=1)

    return GateWeights(
        beside([kernel.inputs for kernel in kernels]),
        beside([kernel.recurrent for kernel in kernels]),
        np.concatenate([kernel.bias for kernel in kernels]),
    )
