"""Stock cells with gates and saturated units that are only nearly shut: see `soft` of the variants.

What that does to a unit at every token is known, so it is taken back, and only the rest is error.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.backends.cells.plan import CellLayer, CellPlan, Kernel, Placed
from lsrl.ir.numbers import Array

# The gate that keeps what a unit holds, and the one that lets in what it makes.
_KEEPS = {"lstm": "f", "gru": "z"}
_CANDIDATE = {"lstm": "g", "gru": "n", "tanh": "h"}
# Cells that have something saturated.
KINDS = tuple(_CANDIDATE)


class Image(NamedTuple):
    """A soft unit is scale * hard unit + offset; its own weight on itself changes by `own`."""

    scale: Array
    offset: Array
    own: Array

    def read(self, decode: sp.csr_array, offset: Array) -> tuple[sp.csr_array, Array]:
        """What reads hard units, decode @ units + offset, for soft ones."""
        found = decode.copy()
        found.data = decode.data / self.scale[decode.indices]
        taken = [
            found.data[a:b] @ self.offset[found.indices[a:b]]
            for a, b in pairwise(found.indptr.tolist())
        ]
        return found, offset - np.array(taken)


def sigmoid_of(value: float) -> float:
    """In float64."""
    return float(1 / (1 + np.exp(-value)))


def images(kind: str, layer: CellLayer, size: float) -> Image:
    """What the hard units of a layer become."""
    scale, offset, own = np.ones(layer.width), np.zeros(layer.width), np.zeros(layer.width)
    for placed in layer.placed:
        units = slice(placed.start, placed.start + placed.width)
        scale[units], offset[units], own[units] = _image(kind, placed, size)
    return Image(scale, offset, own)


def _image(kind: str, placed: Placed, size: float) -> tuple[float, float, float]:
    drives = placed.part.drives
    made = drives[_CANDIDATE[kind]]
    constant, linear = made.rows is None and not made.own, made.reach is not None
    saturates = made.needed > 0 or (constant and kind != "lstm")
    opened, shut = sigmoid_of(size), sigmoid_of(-size)
    if kind == "tanh":
        return (float(np.tanh(size)) if saturates else 1.0), 0.0, 0.0
    keeps = _KEEPS[kind] in drives
    if kind == "gru":
        if saturates:
            return float(np.tanh(size)), 0.0, 0.0
        return opened, 0.0, -shut / opened / opened if linear and not keeps else 0.0
    if constant and "o" in drives:
        # What is let in at every token adds up to 1 / (1 - σ(-S)) of it, and so i cancels.
        level = float(made.bias[0])
        return opened - shut, level * shut, 0.0
    if constant:
        return opened, 0.0, 0.0
    free = linear and not keeps and "o" not in drives
    return opened * opened, 0.0, -shut / opened / opened if free else 0.0


def softened_plan(kind: str, plan: CellPlan, images: Sequence[Image], size: float) -> CellPlan:
    """A plan with gates and saturated units at ±size already, over the images of its units."""
    layers, width = [], plan.schedule.feature_width
    before = Image(np.ones(width), np.zeros(width), np.zeros(0))
    for layer, image in zip(plan.layers, images, strict=True):
        kernels = {
            gate: _kernel(kind, gate, kernel, layer, before, image, size)
            for gate, kernel in layer.kernels.items()
        }
        layers.append(replace(layer, kernels=kernels))
        before = image
    inputs, bias = _read(plan.output.inputs, plan.output.bias, before)
    return replace(
        plan, layers=tuple(layers), output=replace(plan.output, inputs=inputs, bias=bias)
    )


def _kernel(
    kind: str, gate: str, kernel: Kernel, layer: CellLayer, before: Image, image: Image, size: float
) -> Kernel:
    """Rows brought down to the margin, over units that hold images of what they held."""
    down = sp.diags_array(_factors(gate, layer, size))
    bias = down @ kernel.bias
    inputs, bias = _read(sp.csr_array(down @ kernel.inputs), bias, before)
    recurrent, bias = _read(sp.csr_array(down @ kernel.recurrent), bias, image)
    if gate == _CANDIDATE[kind]:
        if kind == "gru":
            # r multiplies all that n reads of the layer, and is σ(S) where it is open.
            recurrent = sp.csr_array(recurrent / sigmoid_of(size))
        recurrent = sp.csr_array(recurrent + sp.diags_array(image.own))
    return replace(kernel, inputs=inputs, recurrent=recurrent, bias=bias)


def _factors(gate: str, layer: CellLayer, size: float) -> Array:
    """By unit what brings the least distance of its gate's drive from 0 to the size."""
    found = np.ones(layer.width)
    for placed in layer.placed:
        drive = placed.part.drives.get(gate)
        if drive is None or drive.margin is None or not drive.needed:
            continue
        margin = drive.margin if placed.part.picked is None else drive.margin[placed.part.picked]
        # A gate on continuous values has no margin, and stays as sharp as it was.
        factors = size / np.where(margin > 0, margin, size)
        found[placed.start : placed.start + placed.width] = factors
    return found


def _read(rows: sp.csr_array, bias: Array, image: Image) -> tuple[sp.csr_array, Array]:
    """Rows over hard units as rows over soft ones."""
    scaled = sp.csr_array(rows @ sp.diags_array(1 / image.scale))
    return scaled, bias - scaled @ image.offset
