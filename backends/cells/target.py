"""What the targets with stock cells share: plan, certificate and module."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from lsrl.backends.anatomy import Hooks, Reading
from lsrl.backends.base import Backend, Exporter, StackBackend
from lsrl.backends.cells import torch_export
from lsrl.backends.cells.certificate import CellAnalysis
from lsrl.backends.cells.encoding import Encoder
from lsrl.backends.cells.forward import CellKind
from lsrl.backends.cells.network import CellNetwork, CellWeights, GateWeights, biased_side
from lsrl.backends.cells.plan import CellLayer, CellPlan, plan_cells
from lsrl.backends.cells.soft import KINDS, Image, images, softened_plan
from lsrl.backends.input_map import input_maps, map_sizes
from lsrl.certificate import Analyse
from lsrl.numerics import Numerics
from lsrl.parameters import Size, thinned
from lsrl.schedule import Schedule


class CellBackend(StackBackend):
    """A target that is a stack of stock cells.

    Attributes:
      encoder: how the cell holds channels.
      kind: which of flax's cells.
    """

    encoder: ClassVar[Encoder]
    kind: ClassVar[CellKind]
    # The least pre-activation of what is saturated; None: where activations are exact.
    softness: float | None = None

    def analysis(self, schedule: Schedule, numerics: Numerics) -> Analyse[CellAnalysis]:
        """The certificate's conditions, over the units of the cells."""
        plan = plan_cells(self.encoder, schedule, numerics)
        return partial(CellAnalysis, plan)

    def hooks(self, schedule: Schedule, numerics: Numerics) -> Hooks:
        """Channels are read off h by the encoder's plan."""
        plan, images = self.planned(schedule, numerics)
        layers = []
        for layer, image in zip(plan.layers, images, strict=True):
            decode, offset = layer.decode, layer.offset
            ones = {p.start: float(p.part.decode[0]) for p in layer.placed if p.unit is None}
            if image is not None:
                decode, offset = image.read(decode, offset)
                ones = {place: float(weight / image.scale[place]) for place, weight in ones.items()}
            layers.append(Reading(decode, offset, None, tuple(ones.items())))
        return Hooks("the cell's h; memory: the cell's carry, c and h for an LSTM", layers)

    def softened(self, size: float) -> Backend[Schedule] | None:
        """With gates and saturated units at ±size."""
        if self.kind not in KINDS:
            return None
        found = copy.copy(self)
        found.softness = size
        return found

    def planned(
        self, schedule: Schedule, numerics: Numerics
    ) -> tuple[CellPlan, Sequence[Image | None]]:
        """The plan, and by layer what soft units hold of those of the exact plan."""
        size = self.softness
        if size is None:
            plan = plan_cells(self.encoder, schedule, numerics)
            return plan, [None] * len(plan.layers)
        numerics = replace(numerics, gate=size, shut=size, saturated=size)
        plan = plan_cells(self.encoder, schedule, numerics)
        found = [images(self.kind, layer, size) for layer in plan.layers]
        return softened_plan(self.kind, plan, found, size), found

    def exporters(self) -> Mapping[str, Exporter]:
        """Stock modules of torch."""
        return {"torch": torch_export.write}

    def sizes(self, schedule: Schedule, numerics: Numerics) -> dict[str, Size]:
        """All gates of a layer lie side by side."""
        plan, _ = self.planned(schedule, numerics)
        found, before = map_sizes(schedule), schedule.feature_width
        for number, layer in enumerate(plan.layers):
            gates = len(layer.kernels) * layer.width
            kernels = layer.kernels.values()
            for side, read, rows in (
                ("dense_i", before, [kernel.inputs for kernel in kernels]),
                ("dense_h", layer.width, [kernel.recurrent for kernel in kernels]),
            ):
                weights = sum(int(np.count_nonzero(each.data)) for each in rows)
                found[f"cells.{number}.{side}.kernel"] = Size.of((read, gates), weights)
                if side == biased_side(self.kind):
                    found[f"cells.{number}.{side}.bias"] = Size((gates,))
            before = layer.width
        weights = int(np.count_nonzero(plan.output.inputs.data))
        found["output_kernel"] = Size.of((before, len(plan.output.bias)), weights)
        found["output_bias"] = Size((len(plan.output.bias),))
        return found

    def lower(self, schedule: Schedule, numerics: Numerics) -> CellNetwork:
        """The cells with the schedule's weights."""
        plan, _ = self.planned(schedule, numerics)
        return CellNetwork(self.kind, cell_weights(plan), numerics.dtype)


def cell_weights(plan: CellPlan) -> CellWeights:
    """The kernels of a plan."""
    return CellWeights(
        input_maps(plan.schedule),
        tuple(_gate_weights(layer) for layer in plan.layers),
        thinned(plan.output.inputs.T),
        plan.output.bias,
    )


def _gate_weights(layer: CellLayer) -> GateWeights:
    kernels = list(layer.kernels.values())

    def beside(matrices: list[sp.csr_array]) -> sp.csr_array:
        return thinned(sp.hstack([matrix.T for matrix in matrices]))

    return GateWeights(
        beside([kernel.inputs for kernel in kernels]),
        beside([kernel.recurrent for kernel in kernels]),
        np.concatenate([kernel.bias for kernel in kernels]),
    )
