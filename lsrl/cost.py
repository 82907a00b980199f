"""What a model's arithmetic costs: floating-point operations and bytes a token, by mode.

The counts are of the algorithm, not of a machine: the least that each mode has to do. A benchmark
divides the machine's own ceilings by them (`python -m benchmarks.roofline`).

- "step" and "scan": the cell as it is. Each product of a matrix with a vector counts two operations
  an entry, of a sparse one a weight, whose place is read too. One sequence reads every parameter at
  each token; so many at once share it. A stock cell may take less, since kernels of few nonzeros
  run as rows and diagonals.
- "whole": on the linear targets a sparse schedule over whole sequences: two operations a nonzero
  weight, one a recurrence that is a running sum, and each layer's rows written and read once. On
  the other targets it is "scan".
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np

from lsrl import arguments
from lsrl.model import Model
from lsrl.parameters import entries

Mode = Literal["whole", "scan", "step"]


@dataclass(frozen=True)
class Cost:
    """Of one token of one sequence.

    Attributes:
      operations: floating-point additions and multiplications.
      bytes: read and written.
    """

    operations: float
    bytes: float

    def seconds(self, operations_a_second: float, bytes_a_second: float) -> float:
        """The least time on a machine with these ceilings: the longer of its two parts."""
        return max(self.operations / operations_a_second, self.bytes / bytes_a_second)


def cost(model: Model, mode: Mode, batch: int = 1) -> Cost:
    """Count what a token costs.

    Args:
      model: compiled.
      mode: see the module.
      batch: sequences that share what is read of the parameters.

    Raises:
      InputError: an unknown mode, or no sequences.
      LsrlError: the network does not say what the axes of its parameters are.
    """
    arguments.instance("cost", model, Model, "lsrl.compile")
    arguments.choice("cost: mode", mode, get_args(Mode))
    arguments.count("cost: batch", batch)
    parameters = model.module.parameter_arrays()
    size = jax.numpy.dtype(model.dtype).itemsize
    outputs = len(model.program.graph.facts[model.program.graph.output].low)
    ends = size * (outputs + sum(kind.width for kind in model.program.inputs.values()))
    axes = model.module.legend().arrays
    # A table of a token input is looked up, and what has one axis is added or scales unit by unit.
    matrices = [
        entries(one)
        for name, one in parameters.items()
        if len(one.shape) > 1 and axes[name].kind != "table"
    ]
    if mode == "whole" and model.module.sparse_whole:
        weights = sum(int(np.count_nonzero(one)) for one in matrices)
        rows = sum(layer.width for layer in model.schedule.layers)
        return Cost(2.0 * weights + rows, ends + 2.0 * size * rows)
    weights = sum(one.size for one in matrices)
    everything = sum(size * entries(one).size for one in parameters.values())
    places = sum(
        one.indices.nbytes for one in parameters.values() if not isinstance(one, np.ndarray)
    )
    # A step writes its state and the next one reads it.
    state = sum(leaf.size for leaf in jax.tree.leaves(model.module.init_state((1,))))
    return Cost(2.0 * weights, ends + (everything + places) / batch + 2.0 * size * state)
