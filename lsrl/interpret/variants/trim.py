"""The variant `trimmed`: a residual network without the inner channels that nothing reads.

Real layers are as wide as the stream, and a program needs a few of their channels. The others are
zeros that are multiplied all the same: a Mamba of 256 channels may have 30 at work in its layers.
"""

import numpy as np

from lsrl.backends.residual.mamba_network import MambaNetwork
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import variant
from lsrl.interpret.variants.permute import Arrays, Move, moved_circuit, moved_inside
from lsrl.ir.numbers import Array
from lsrl.model import Model

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
      The smaller network; `model` itself where it is of stock cells or linear, or has no layers.
    """
    module = model.module
    if not isinstance(module, ResidualNetwork) or not module.depth:
        return model
    arrays = module.parameter_arrays()
    blocks = module.by_layer(arrays)
    held = _held(model, module)
    used = [_used(block, own) for block, own in zip(blocks, held, strict=True)]
    widths = [max(int(mask.sum()) for mask in masks) for masks in zip(*used, strict=True)]
    moves = [
        tuple(_kept(mask, width) for mask, width in zip(masks, widths, strict=True))
        for masks in used
    ]
    if isinstance(module, MambaNetwork):
        ranks = Move.only(np.arange(blocks[0]["mixer.dt_proj.weight"].shape[1]))
        moves = [(*own, ranks) for own in moves]
    made = moved_inside(module, arrays, Move.only(np.arange(module.width)), moves)
    circuit = moved_circuit(model.circuit, made.hooks, made.memory)
    network = module.rebuilt(made.arrays)
    return variant(model, "trimmed", "", network, circuit, exact=True, sampler=sampler)


def _held(model: Model, module: ResidualNetwork) -> list[list[int]]:
    """Per layer the entries of its scan that signals are held in."""
    found: list[list[int]] = [[] for _ in range(module.depth)]
    for channel in model.circuit.channels:
        if channel.memory:
            found[(channel.layer - 1) // module.sites] += channel.memory
    return found


def _used(block: Arrays, held: list[int]) -> tuple[Array, ...]:
    """Masks of the channels that something reads: of the scan, and of an MLP where there is one."""
    if "mixer.out_proj.weight" in block:
        scan = _read(block["mixer.out_proj.weight"], block["mixer.x_proj.weight"])
        further: tuple[Array, ...] = ()
    else:
        gates = (block[f"temporal_block.rg_lru.{n}_gate_weight"] for n in ("input", "recurrent"))
        scan = _read(block["temporal_block.linear_out.weight"], *(gate[0].T for gate in gates))
        further = (_read(block["mlp_block.down_proj.weight"]),)
    scan[held] = True
    return scan, *further


def _read(*readers: Array) -> Array:
    """(columns,) bool: whether a weight of the column is not zero."""
    found: Array = np.any([(weight != 0).any(axis=0) for weight in readers], axis=0)
    return found


def _kept(used: Array, width: int) -> Move:
    """The used channels in their order, and idle ones up to the width."""
    count = min(-(-max(width, 1) // GRAIN) * GRAIN, len(used))
    used_first = np.argsort(~used, kind="stable")
    return Move.only(np.sort(used_first[:count]))
