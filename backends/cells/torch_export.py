"""Models of stock cells for torch, as the folder that `lsrl.torch_folder` describes.

torch's recurrent modules have one hidden size, so layers of one module are padded to the widest
with units whose weights are all 0: every cell keeps such a unit at exactly 0, and nothing reads it.
Modules of one layer each have the layers' own widths.
"""

import os

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.torch_modules import Modules, whole
from lsrl.errors import SizeError
from lsrl.ir.numbers import Array
from lsrl.options import MOST_PARAMETERS
from lsrl.schedule import Schedule
from lsrl.torch_config import module_json

# Per kind of cell torch's class, its number of gates (in flax's order, which is torch's), and what
# else it takes.
_CLASSES: dict[str, tuple[str, int, dict[str, str]]] = {
    "relu": ("RNN", 1, {"nonlinearity": "relu"}),
    "tanh": ("RNN", 1, {"nonlinearity": "tanh"}),
    "lstm": ("LSTM", 4, {}),
    "gru": ("GRU", 3, {}),
}


def write(
    path: str | os.PathLike[str], network: CellNetwork, _: Schedule, request: ExportRequest
) -> None:
    """Write a folder that plain torch can run; torch itself is not needed for it.

    Args:
      path: the folder; an older export in its place is replaced.
      network: the weights.
      request: of which model.

    Raises:
      SizeError: sparse layers, padded to one width, are too large.
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    _check_padded(network, request)
    arrays, found = whole(network.parameter_arrays(), network.dtype), Modules({}, {})
    output = arrays["output_kernel"]
    # torch takes no input of width 0, so a network that reads nothing reads a 0.
    features = max(1, arrays["cells.0.dense_i.kernel"].shape[0])
    found.add_inputs(request.program, arrays, features, output.dtype)
    units = [int(cell.hidden_features) for cell in network.cells]
    class_name, gates, further = _CLASSES[network.structure.kind]
    if request.separate:
        for layer, (before, width) in enumerate(zip([features, *units], units, strict=False)):
            made = module_json(
                class_name, input_size=before, hidden_size=width, num_layers=1, batch_first=True,
                **further,
            )  # fmt: skip
            found.add(f"layer_{layer + 1}", made, **_layer(arrays, layer, 0, gates, before, width))
        width = units[-1]
    else:
        width, before = network.width, features
        made = module_json(
            class_name, input_size=features, hidden_size=width, num_layers=len(units),
            batch_first=True, **further,
        )  # fmt: skip
        weights: dict[str, Array] = {}
        for layer in range(len(units)):
            weights |= _layer(arrays, layer, layer, gates, before, width)
            before = width
        found.add("recurrent", made, **weights)
    padded = np.zeros((width, output.shape[1]), output.dtype)
    padded[: len(output)] = output
    found.add_output(padded, arrays["output_bias"])
    found.write(path, network.dtype, request)


def _check_padded(network: CellNetwork, request: ExportRequest) -> None:
    """Raise SizeError where layers of sparse kernels would be too large side by side."""
    _, gates, _ = _CLASSES[network.structure.kind]
    entries = len(network.cells) * 2 * gates * network.width**2
    if network.structure.patterns and not request.separate and entries > MOST_PARAMETERS:
        raise SizeError(
            f"{request.program.name!r}: an export is dense, and its {len(network.cells)} layers, "
            f"each as wide as the widest, would be {entries:,} numbers, of which at most "
            f'{MOST_PARAMETERS:,} are written; try model.export(..., layers="separate"), of which '
            "each has its own width",
            entries,
            MOST_PARAMETERS,
        )


def _layer(
    arrays: dict[str, Array], layer: int, number: int, gates: int, before: int, hidden: int
) -> dict[str, Array]:
    """The parameters of a layer, by the names that torch's classes give their layer `number`."""
    found: dict[str, Array] = {}
    for side, width in (("i", before), ("h", hidden)):
        kernel = arrays[f"cells.{layer}.dense_{side}.kernel"]
        # flax has the bias on one side only; torch adds up two, so the other one is 0.
        name = f"cells.{layer}.dense_{side}.bias"
        bias = arrays.get(name, np.zeros(kernel.shape[1], kernel.dtype))
        found[f"weight_{side}h_l{number}"] = _padded(kernel, gates, hidden, width)
        found[f"bias_{side}h_l{number}"] = _padded(bias[None], gates, hidden, 1)[:, 0]
    return found


def _padded(kernel: Array, gates: int, hidden: int, width: int) -> Array:
    """A flax kernel (features, gates * units), as torch has it: (gates * hidden, width)."""
    features, units = kernel.shape[0], kernel.shape[1] // gates
    padded = np.zeros((gates, hidden, width), kernel.dtype)
    padded[:, :units, :features] = kernel.reshape(features, gates, units).transpose(1, 2, 0)
    return padded.reshape(gates * hidden, width)
