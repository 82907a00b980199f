"""Models of stock cells for torch, as the folder that `lsrl.torch_folder` describes.

torch's recurrent modules have one hidden size, so layers are padded to the widest with units whose
weights are all 0: every cell keeps such a unit at exactly 0, and nothing reads it.
"""

import json
import os
from importlib.metadata import version

import numpy as np
from safetensors.numpy import save as to_safetensors

from lsrl.backends.base import ExportRequest
from lsrl.backends.cells.network import CellNetwork
from lsrl.folders import replace_folder
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.schedule import Schedule
from lsrl.torch_folder import (
    CONFIG,
    FORMAT,
    VERSION,
    WEIGHTS,
    ModuleJson,
    TorchConfig,
    checksum,
    read_config,
    type_to_json,
)

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

    The folder appears whole or not at all: a failed export leaves an older one as it was.

    Args:
      path: the folder; an older export in its place is replaced.
      network: the weights.
      request: of which model.

    Raises:
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    program = request.program
    modules, weights = _modules(network, program)
    content = to_safetensors(weights, {"format": "pt"})
    config: TorchConfig = {
        "format": FORMAT,
        "version": VERSION,
        "lsrl": version("lsrl"),
        "program": program.name,
        "target": request.target,
        "dtype": network.dtype,
        "max_length": program.max_length,
        "inputs": {name: type_to_json(kind) for name, kind in program.inputs.items()},
        "outputs": program.num_outputs,
        "output_token": None if program.output_type is None else program.output_type.size,
        "modules": modules,
        "labels": request.labels,
        "certificate": request.certificate,
        "certified_tokens": request.tokens,
    }
    config["checksum"] = checksum(config, content)
    text = json.dumps(config, indent=2) + "\n"
    files = {CONFIG: text.encode(), WEIGHTS: content}
    replace_folder(path, files, read_config)


def _modules(
    network: CellNetwork, program: Program
) -> tuple[dict[str, ModuleJson], dict[str, Array]]:
    """The torch modules of a network, and their state dict."""
    arrays, hidden = network.parameter_arrays(), network.width
    class_name, gates, further = _CLASSES[network.structure.kind]
    output_kernel = arrays["output_kernel"]
    outputs, dtype = output_kernel.shape[1], output_kernel.dtype
    # torch takes no input of width 0, so a network that reads nothing reads a 0.
    features = max(1, arrays["cells.0.dense_i.kernel"].shape[0])
    modules: dict[str, ModuleJson] = {}
    weights: dict[str, Array] = {}
    for number, kind in enumerate(program.inputs.values()):
        size = kind.size if isinstance(kind, Token) else kind.width
        name, held = f"input_{number}", "table" if isinstance(kind, Token) else "kernel"
        given = arrays.get(f"inputs.{number}.{held}", np.zeros((size, features), dtype))
        if isinstance(kind, Token):
            modules[name] = _module("Embedding", num_embeddings=size, embedding_dim=features)
            weights[f"{name}.weight"] = given
        else:
            modules[name] = _module("Linear", in_features=size, out_features=features, bias=False)
            weights[f"{name}.weight"] = given.T
    modules["recurrent"] = _module(
        class_name, input_size=features, hidden_size=hidden, num_layers=len(network.cells),
        batch_first=True, **further,
    )  # fmt: skip
    for layer in range(len(network.cells)):
        for side, width in (("i", hidden if layer else features), ("h", hidden)):
            dense, place = f"cells.{layer}.dense_{side}", f"{side}h_l{layer}"
            kernel = arrays[f"{dense}.kernel"]
            # flax has the bias on one side only; torch adds up two, so the other one is 0.
            bias = arrays.get(f"{dense}.bias", np.zeros(kernel.shape[1], dtype))
            weights[f"recurrent.weight_{place}"] = _padded(kernel, gates, hidden, width)
            weights[f"recurrent.bias_{place}"] = _padded(bias[None], gates, hidden, 1)[:, 0]
    modules["output"] = _module("Linear", in_features=hidden, out_features=outputs)
    weights["output.weight"] = _padded(output_kernel, 1, outputs, hidden)
    weights["output.bias"] = arrays["output_bias"]
    return modules, {name: np.ascontiguousarray(array) for name, array in weights.items()}


def _module(name: str, **arguments: object) -> ModuleJson:
    return {"class": name, "arguments": arguments}


def _padded(kernel: Array, gates: int, hidden: int, width: int) -> Array:
    """A flax kernel (features, gates * units), as torch has it: (gates * hidden, width)."""
    features, units = kernel.shape[0], kernel.shape[1] // gates
    padded = np.zeros((gates, hidden, width), kernel.dtype)
    padded[:, :units, :features] = kernel.reshape(features, gates, units).transpose(1, 2, 0)
    return padded.reshape(gates * hidden, width)
