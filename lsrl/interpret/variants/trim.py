"""The variant `trimmed`: a residual network without the inner channels that nothing reads.

Real layers are as wide as the stream, and a program needs a few of their channels. The others are
zeros that are multiplied all the same: a Mamba of 256 channels may have 30 at work in its layers.
"""

import numpy as np

from lsrl.backends.axes import Legend
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_made, variant
from lsrl.interpret.variants.permute import Arrays, Move, moved, moved_circuit
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.parameters import dense

# Widths inside a layer are multiples of this, so that networks share shapes.
GRAIN = 8


def trimmed(model: Model, *, sampler: Sampler | None = None) -> Model:
    """Leave out the inner channels of residual layers whose outgoing weights are all zero.

    All layers keep equal widths, those of the layer that needs most. The stream stays as it is, and
    so does every number in it: each sum has the same terms, but for zeros.

    Args:
      model: compiled, or a variant.
      sampler: of the inputs that the card's figures come from.

    Returns:
      The smaller network; `model` itself where layers have no units to spare, as stock cells.
    """
    check_made("trimmed", model, sampler)
    module = model.module
    legend, arrays = module.legend(), module.arrays()
    used = _used(model, legend, arrays)
    if not used:
        return model
    widths: dict[str, int] = {}
    for name, mask in used.items():
        spare = legend.spaces[name].spare
        widths[spare] = max(widths.get(spare, 1), int(mask.sum()))
    moves = {name: _kept(mask, widths[legend.spaces[name].spare]) for name, mask in used.items()}
    network = module.rebuilt(moved(legend, arrays, moves))
    circuit = moved_circuit(model.circuit, legend, moves)
    return variant(model, "trimmed", "", network, circuit, exact=True, sampler=sampler)


def _used(model: Model, legend: Legend, arrays: Arrays) -> dict[str, Array]:
    """By space with units to spare, masks of those that something reads or signals are held in."""
    spaces = {name: space for name, space in legend.spaces.items() if space.spare}
    found = {name: np.zeros(space.size, bool) for name, space in spaces.items()}
    for name, axes in legend.arrays.items():
        for number, axis in enumerate(axes.axes):
            if axis[0].role == "reads" and axis[0].space in found:
                others = tuple(k for k in range(len(axes.axes)) if k != number)
                found[axis[0].space] |= (dense(arrays[name]) != 0).any(axis=others)
    inner = {space.memory: name for name, space in spaces.items()}
    for channel in model.circuit.channels:
        if channel.memory and channel.layer in inner:
            name = inner[channel.layer]
            found[name][np.array(channel.memory) // spaces[name].entries] = True
    return found


def _kept(used: Array, width: int) -> Move:
    """The used channels in their order, and idle ones up to the width."""
    count = min(-(-width // GRAIN) * GRAIN, len(used))
    used_first = np.argsort(~used, kind="stable")
    return Move.only(np.sort(used_first[:count]))
