"""The variant `soft`: gates and saturated units that are only nearly shut, so that gradients flow.

The compiler drives a sigmoid beyond ±128, where it is exactly 0 or 1, and its gradient is 0. Here
the least drive is ±S, with S = 8 / temperature: gates are σ(±S) and saturated units tanh(±S). What
that does to a unit at every token is known, so it is taken back, and only the rest is error:

- A unit whose gates stay open holds α times its value, and whoever reads it divides by α.
- What a shut forget gate (LSTM) or update gate (GRU) lets through of a linear unit's last value,
  the unit takes back through its recurrent weight on itself.
- A switch of an LSTM is 0 or L; here it is σ(-S) L or σ(S) L, an affine map of it.

What remains: a gate that a signal shuts lets σ(-S) of a value through, and a value that a gate
keeps fades by σ(-S) a token. So errors grow with the length, and the card says how far outputs are
right: on random inputs, and on every input up to a length at which all of them can be run.

Mamba and Griffin are lowered anew with softer drives, since a value's scale is the same all along
its way there: see `lsrl.backends.mamba` and `lsrl.backends.griffin`. A SiLU or GeLU that stands for
a ReLU has ±S one grid step from 0. SiLU(u) - SiLU(-u) is u, so what passes as a pair of signs is
not off, and neither is what has one positive value; the rest is, by σ(-S) of a step. ReLUs of
continuous values stay sharp.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lsrl.backends import registry
from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.cells.plan import CellLayer, CellPlan, Kernel, Placed, plan_cells
from lsrl.backends.cells.target import CellBackend, cell_weights
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.circuit import Channel, Circuit
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import variant
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.schedule import Schedule

# The least pre-activation of a saturated gate at temperature 1.
SIZE = 8.0
# The gate that lets in what a unit makes, the one that keeps what it holds, and the one behind.
_KEEPS = {"lstm": "f", "gru": "z"}
_CANDIDATE = {"lstm": "g", "gru": "n", "tanh": "h"}


class _Image(NamedTuple):
    """A soft unit is scale * hard unit + offset; its own weight on itself changes by `own`."""

    scale: Array
    offset: Array
    own: Array


def soft(model: Model, temperature: float = 1.0, *, sampler: Sampler | None = None) -> Model:
    """Bring saturated gates down to pre-activations of ±8 / temperature.

    Args:
      model: of a target with saturated gates: lstm, gru, rnn_tanh, mamba or griffin; as compiled,
        or joined with other programs.
      temperature: 1 for ±8, 2 for ±4.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: another target, a temperature that is no positive number, or a network that was
        changed already (soften first, then permute).
    """
    target, schedule = registry.find(model.target), model.schedule
    if not isinstance(temperature, int | float) or not 0 < temperature < np.inf:
        raise InputError(f"soft: temperature must be a positive number, got {temperature!r}")
    changed = [name for name, _ in model.card.steps] if model.card else []
    if set(changed) - {"padded", "merged"}:
        raise InputError(
            f"soft: this network is {', '.join(changed)} already; soften the compiled model, and "
            "permute or add noise after that"
        )
    size = SIZE / temperature
    module: CellNetwork | ResidualNetwork
    if isinstance(target, ResidualBackend) and isinstance(schedule, Stream):
        softened = target.softened(size)
        module = softened.lower(schedule, model.numerics)
        lowered = softened.anatomy(schedule, model.numerics, model.program.name, model.options)
        channels = _remembered(model.circuit, lowered)
    elif (
        isinstance(target, CellBackend)
        and target.kind in _CANDIDATE
        and isinstance(schedule, Schedule)
    ):
        module, channels = _cells(model, target, schedule, size)
    else:
        raise InputError(
            f"soft: {model.target} has no saturated gates that could be softer; choose lstm, gru, "
            "rnn_tanh, mamba or griffin"
        )
    return variant(
        model,
        "soft",
        f"temperature={temperature:g}",
        module,
        replace(model.circuit, channels=channels),
        exact=False,
        sampler=sampler,
        notes=(f"gates and saturated units have pre-activations from ±{size:g} on",),
        exhaustive=True,
    )


# ---------------------------------------------------------------- residual streams


def _remembered(circuit: Circuit, softened: Circuit) -> tuple[Channel, ...]:
    """The stream holds what it held; what scans hold has another scale."""
    return tuple(
        replace(channel, memory_weights=other.memory_weights)
        for channel, other in zip(circuit.channels, softened.channels, strict=True)
    )


# ---------------------------------------------------------------- cells


def _cells(
    model: Model, target: CellBackend, schedule: Schedule, size: float
) -> tuple[CellNetwork, tuple[Channel, ...]]:
    """The network with soft gates, and where its channels are."""
    numerics = replace(model.numerics, gate=size, shut=size, saturated=size)
    plan = plan_cells(target.encoder, schedule, numerics)
    images = [_images(target.kind, layer, size) for layer in plan.layers]
    module = CellNetwork(
        target.kind, cell_weights(_softened(target.kind, plan, images, size)), model.dtype
    )

    def turned(channel: Channel) -> Channel:
        if not channel.layer:
            return channel
        image, units = images[channel.layer - 1], list(channel.units)
        weights = np.array(channel.weights) / image.scale[units]
        return replace(
            channel,
            weights=tuple(weights.tolist()),
            offset=channel.offset - float(weights @ image.offset[units]),
            memory_weights=tuple(weights.tolist()) if channel.memory else (),
        )

    return module, tuple(turned(channel) for channel in model.circuit.channels)


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _images(kind: str, layer: CellLayer, size: float) -> _Image:
    """What the hard units of a layer become."""
    scale, offset, own = np.ones(layer.width), np.zeros(layer.width), np.zeros(layer.width)
    for placed in layer.placed:
        units = slice(placed.start, placed.start + placed.width)
        scale[units], offset[units], own[units] = _image(kind, placed, size)
    return _Image(scale, offset, own)


def _image(kind: str, placed: Placed, size: float) -> tuple[float, float, float]:
    drives = placed.part.drives
    made = drives[_CANDIDATE[kind]]
    constant, linear = made.rows is None and not made.own, made.reach is not None
    saturates = made.needed > 0 or (constant and kind != "lstm")
    opened, shut = _sigmoid(size), _sigmoid(-size)
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


def _softened(kind: str, plan: CellPlan, images: list[_Image], size: float) -> CellPlan:
    layers = []
    before = _Image(np.ones(plan.schedule.feature_width), *[np.zeros(0)] * 2)
    before = before._replace(offset=np.zeros(len(before.scale)))
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
    kind: str,
    gate: str,
    kernel: Kernel,
    layer: CellLayer,
    before: _Image,
    image: _Image,
    size: float,
) -> Kernel:
    """Rows brought down to the margin, over units that hold images of what they held."""
    down = sp.diags_array(_factors(gate, layer, size))
    bias = down @ kernel.bias
    inputs, bias = _read(sp.csr_array(down @ kernel.inputs), bias, before)
    recurrent, bias = _read(sp.csr_array(down @ kernel.recurrent), bias, image)
    if gate == _CANDIDATE[kind]:
        if kind == "gru":
            # r multiplies all that n reads of the layer, and is σ(S) where it is open.
            recurrent = sp.csr_array(recurrent / _sigmoid(size))
        recurrent = sp.csr_array(recurrent + sp.diags_array(image.own))
    return replace(kernel, inputs=inputs, recurrent=recurrent, bias=bias)


def _factors(gate: str, layer: CellLayer, size: float) -> Array:
    """By unit what brings the least distance of its gate's drive from 0 to the size."""
    found = np.ones(layer.width)
    for placed in layer.placed:
        drives: Mapping[str, object] = placed.part.drives
        drive = placed.part.drives.get(gate) if gate in drives else None
        if drive is None or drive.margin is None or not drive.needed:
            continue
        margin = drive.margin if placed.part.picked is None else drive.margin[placed.part.picked]
        # A gate on continuous values has no margin, and stays as sharp as it was.
        found[placed.start : placed.start + placed.width] = np.where(
            margin > 0, size / np.where(margin > 0, margin, 1.0), 1.0
        )
    return found


def _read(rows: sp.csr_array, bias: Array, image: _Image) -> tuple[sp.csr_array, Array]:
    """Rows over hard units as rows over soft ones."""
    scaled = sp.csr_array(rows @ sp.diags_array(1 / image.scale))
    return scaled, bias - scaled @ image.offset
