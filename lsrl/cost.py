"""What a model's arithmetic costs: floating-point operations and bytes a token, by mode.

The counts are of the algorithm, not of a machine: the least that each mode has to do. A benchmark
divides the machine's own ceilings by them (`python -m benchmarks.roofline`).

- "step" and "scan": the cell as it is, with dense matrices. Each product of a matrix with a vector
  counts two operations an entry. One sequence reads every parameter at each token; so many at once
  share it. A stock cell may take less, since kernels of few nonzeros run as rows and diagonals.
- "whole": on the linear targets a sparse schedule over whole sequences: two operations a nonzero
  weight, one a recurrence that is a running sum, and each layer's rows written and read once. On
  the other targets it is "scan".
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lsrl.errors import InputError
from lsrl.model import Model

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
    """
    if mode not in ("whole", "scan", "step"):
        raise InputError(f"cost: mode must be 'whole', 'scan' or 'step', got {mode!r}")
    if batch < 1:
        raise InputError(f"cost: batch must be at least 1, got {batch}")
    parameters = model.module.parameter_arrays()
    size = next(iter(parameters.values())).dtype.itemsize
    outputs = len(model.program.graph.facts[model.program.graph.output].low)
    ends = size * (outputs + sum(_entries(kind) for kind in model.program.inputs.values()))
    if mode == "whole" and model.target.endswith("linear_rnn"):
        weights = sum(int(np.count_nonzero(v)) for n, v in parameters.items() if _is_matrix(n, v))
        rows = sum(layer.width for layer in model.schedule.layers)
        return Cost(2.0 * weights + rows, ends + 2.0 * size * rows)
    weights = sum(values.size for name, values in parameters.items() if _is_matrix(name, values))
    everything = sum(values.size for values in parameters.values())
    # A step writes its state and the next one reads it.
    state = sum(int(np.size(leaf)) for leaf in _leaves(model.module.init_state((1,))))
    return Cost(2.0 * weights, ends + size * (everything / batch + 2.0 * state))


def _entries(kind: Any) -> int:
    return int(kind.width)


def _is_matrix(name: str, values: np.ndarray) -> bool:
    """Whether it multiplies; a table of a token input is looked up, a bias or a norm is added."""
    return values.ndim > 1 and not name.endswith(".table") and "embed" not in name


def _leaves(state: Any) -> list[Any]:
    import jax

    return list(jax.tree.leaves(state))
