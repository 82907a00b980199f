"""What the exports to torch share: the modules of inputs and outputs, and the folder.

Stacks of layers with an input map go there; see `lsrl.torch_config` for the modules.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.options import MOST_PARAMETERS
from lsrl.parameters import Parameter, dense
from lsrl.torch_config import (
    FORMAT,
    SEPARATE,
    STACKED,
    ModuleJson,
    TorchConfig,
    module_json,
    type_to_json,
)
from lsrl.torch_folder import write_export


def whole(arrays: Mapping[str, Parameter], dtype: str) -> dict[str, Array]:
    """Arrays of a network as torch takes them: dense, sparse ones of bfloat16 among them.

    Raises:
      SizeError: a sparse one has too many entries.
    """
    return {
        name: array
        if isinstance(array, np.ndarray)
        else dense(array, MOST_PARAMETERS).astype(jnp.dtype(dtype))
        for name, array in arrays.items()
    }


class Modules(NamedTuple):
    """Modules by name, and their state dict.

    Attributes:
      config: classes and arguments.
      weights: by the names of torch.
    """

    config: dict[str, ModuleJson]
    weights: dict[str, Array]

    def add(self, name: str, module: ModuleJson, **weights: Array) -> None:
        """Append a module with its parameters."""
        self.config[name] = module
        self.weights.update({f"{name}.{key}": array for key, array in weights.items()})

    def add_inputs(
        self, program: Program, arrays: Mapping[str, Array], features: int, dtype: np.dtype
    ) -> None:
        """Append a module an input, whose outputs (…, features) add up; 0 where it is not read."""
        for number, kind in enumerate(program.inputs.values()):
            size = kind.size if isinstance(kind, Token) else kind.width
            name, held = f"input_{number}", "table" if isinstance(kind, Token) else "kernel"
            found = np.zeros((size, features), dtype)
            if f"inputs.{number}.{held}" in arrays:
                known = arrays[f"inputs.{number}.{held}"]
                found[:, : known.shape[1]] = known
            if isinstance(kind, Token):
                made = module_json("Embedding", num_embeddings=size, embedding_dim=features)
                self.add(name, made, weight=found)
            else:
                made = module_json("Linear", in_features=size, out_features=features, bias=False)
                self.add(name, made, weight=found.T)

    def add_output(self, kernel: Array, bias: Array) -> None:
        """Append the affine output, of a kernel (features, outputs)."""
        features, outputs = kernel.shape
        made = module_json("Linear", in_features=features, out_features=outputs)
        self.add("output", made, weight=kernel.T, bias=bias)

    def write(self, path: str | os.PathLike[str], dtype: str, request: ExportRequest) -> None:
        """Write the folder, whole or not at all.

        Args:
          path: the folder; an older export in its place is replaced.
          dtype: of the network.
          request: of which model.

        Raises:
          FormatError: the path holds something that is no export.
          OSError: the folder can't be written.
        """
        program = request.program
        config: TorchConfig = {
            "format": FORMAT,
            "version": STACKED if "recurrent" in self.config else SEPARATE,
            "lsrl": version("lsrl"),
            "program": program.name,
            "target": request.target,
            "dtype": dtype,
            "max_length": program.max_length,
            "inputs": {name: type_to_json(kind) for name, kind in program.inputs.items()},
            "outputs": program.num_outputs,
            "output_token": None if program.output_type is None else program.output_type.size,
            "modules": self.config,
            "labels": request.labels,
            "certificate": request.certificate,
            "certified_tokens": request.tokens,
        }
        weights = {name: np.ascontiguousarray(array) for name, array in self.weights.items()}
        write_export(path, config, weights)
