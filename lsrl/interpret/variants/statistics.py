"""Statistics of weights and gates, to hold a network beside one that was trained naturally."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.interpret.interventions import wiring_of
from lsrl.ir.numbers import Array
from lsrl.ir.types import check_inputs
from lsrl.model import Model

# Below and above these a gate counts as shut and open.
SHUT, OPEN = 0.1, 0.9


def statistics(model: Model, inputs: Sequence[Array]) -> dict[str, float]:
    """Of weights and gates, to hold a network beside a naturally trained twin.

    Args:
      model: of a target with gates: lstm, gru, mamba, mamba2 or deltanet.
      inputs: one array an input, as for `Model.run`, with a batch axis.

    Returns:
      "weight std", "weight max" of all weights; "gates shut", "gates open", the shares of gates
      below 0.1 and above 0.9: a cell's sigmoids, of a Mamba block what the scan keeps of its state
      from one token to the next, exp(Δ A), and of a Gated DeltaNet layer what a head keeps, half of
      β, and the sigmoid in the SiLU of the MLP; "candidate size", the mean size of the candidates,
      which are what SiLU and convolution make, or the linear factor of the MLP; "units", that of
      the hooks behind layers.

    Raises:
      InputError: another target.
    """
    arguments.instance("statistics", model, Model, "lsrl.compile")
    inputs, _ = check_inputs(model.program.inputs, inputs, model.program.max_length)
    arrays = {n: a.astype(np.float64) for n, a in model.module.arrays().items()}
    _, hooks = wiring_of(model).run(inputs, hooks=True)
    hooks = [hook.astype(np.float64) for hook in hooks]
    seen = []
    for number, (read, held) in enumerate(pairwise(hooks)):
        layer = model.module.gates(arrays, number, read, held)
        if layer is None:
            raise InputError(
                f"statistics: expected lstm, gru, mamba, mamba2, deltanet, got {model.target}"
            )
        seen.append(layer)
    gates = np.concatenate([layer.gates.ravel() for layer in seen])
    candidates = np.concatenate([np.abs(layer.candidates).ravel() for layer in seen])
    weights = np.concatenate([array.ravel() for array in arrays.values()])
    return {
        "weight std": float(weights.std()),
        "weight max": float(np.abs(weights).max()),
        "gates shut": float((gates < SHUT).mean()),
        "gates open": float((gates > OPEN).mean()),
        "candidate size": float(candidates.mean()),
        "units": float(np.mean([np.abs(hook).mean() for hook in hooks[1:]])),
    }
