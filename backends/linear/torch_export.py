"""Models of the linear targets for torch, as the folder that `lsrl.torch_folder` describes.

No class of torch is linear over time, so the layers are those of `lsrl.torch_module`.
"""

import os
from collections.abc import Mapping

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.linear.network import LinearNetwork
from lsrl.backends.torch_modules import Modules, whole
from lsrl.ir.numbers import Array
from lsrl.schedule import Schedule
from lsrl.torch_config import module_json


def write(
    path: str | os.PathLike[str], network: LinearNetwork, _: Schedule, request: ExportRequest
) -> None:
    """Write a folder; torch itself is not needed for it.

    Args:
      path: the folder; an older export in its place is replaced.
      network: the weights.
      request: of which model.

    Raises:
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    arrays, found = whole(network.arrays(), network.dtype), Modules({}, {})
    bias = arrays["input_bias"]
    # torch has no maps of width 0, so what holds nothing holds a 0.
    features = max(1, len(bias))
    found.add_inputs(request.program, arrays, features, bias.dtype)
    found.add("layer_0", module_json("InputSum", features=features), bias=_grown(bias, features))
    for number in range(len(network.layers)):
        made, weights = _layer(arrays, f"layers.{number}.", features)
        found.add(f"layer_{number + 1}", module_json("LinearLayer", **made), **weights)
        features = len(made["left"])
    kernel = arrays["output_kernel"]
    found.add_output(_grown(kernel, features, kernel.shape[1]), arrays["output_bias"])
    found.write(path, network.dtype, request)


def _layer(
    arrays: Mapping[str, Array], name: str, features: int
) -> tuple[dict[str, list[int]], dict[str, Array]]:
    """The arguments and the parameters of a layer that reads so many features."""
    own = {
        key: arrays[name + key]
        for key in (
            "input_kernel", "recurrent_kernel", "bias", "initial_state", "left", "right", "relu",
        )
    }  # fmt: skip
    units, channels = max(1, len(own["bias"])), len(own["left"])
    left, right, relu = (own.pop(key).tolist() for key in ("left", "right", "relu"))
    made = {"in_features": features, "units": units, "left": left, "right": right, "relu": relu}
    if not channels:
        made |= {"left": [0], "right": [-1], "relu": [False]}
    sizes = {
        "input_kernel": (features, units), "recurrent_kernel": (units, units),
        "bias": (units,), "initial_state": (units,),
    }  # fmt: skip
    return made, {key: _grown(own[key], *shape) for key, shape in sizes.items()}


def _grown(array: Array, *shape: int) -> Array:
    """The array, with zeros behind it."""
    found = np.zeros(shape, array.dtype)
    found[tuple(map(slice, array.shape))] = array
    return found
