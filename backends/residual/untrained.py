"""Networks on a residual stream with ordinary weights, before any training."""

from collections.abc import Callable, Sequence

import numpy as np

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.ir.numbers import Array

# A layer's parameters, on a stream of a width in a network of a depth.
Fresh = Callable[[int, int, np.random.Generator], dict[str, Array]]


def untrained_arrays(
    network: ResidualNetwork, units: Sequence[int], seed: int, fresh: Fresh
) -> dict[str, Array]:
    """The parameters of `Network.untrained`; maps are as torch's Embedding and Linear have them.

    Args:
      network: of the same inputs and outputs.
      units: of the hooks of its layers, the input map's first.
      seed: of the weights.
      fresh: what makes a layer.
    """
    rng = np.random.default_rng(seed)
    width, depth = units[0], (len(units) - 1) // network.sites
    known = network.parameter_arrays()
    arrays = {
        name: rng.standard_normal((known[name].shape[0], width)) * 0.1
        for name in network.input_names()
    }
    for layer in range(depth):
        for name, array in fresh(width, depth, rng).items():
            arrays[f"{network.layers_name}.{layer}.{name}"] = array
    arrays["input_bias"] = np.zeros(width)
    arrays[network.final_norm_name] = np.ones(width)
    shape = width, known["output_kernel"].shape[1]
    arrays["output_kernel"] = rng.standard_normal(shape) / np.sqrt(width)
    return arrays
