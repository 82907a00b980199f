"""Models of stock cells for torch: written as a folder, and read back as a ready module.

The folder holds two files. `weights.safetensors` is the state dict of these modules:

    input_0, input_1, …   an Embedding (tokens) or a Linear (vectors) an input, whose outputs add up
    recurrent             one RNN, LSTM or GRU with all layers, batch_first
    output                a Linear

`config.json` names their classes and arguments, so plain torch runs them without LSRL. torch's
recurrent modules have one hidden size, so layers are padded to the widest with units whose weights
are all 0: every cell keeps such a unit at exactly 0, and nothing reads it.

The module that wraps the recurrent classes is made where it is asked for, since torch is optional.
"""

import hashlib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save as to_safetensors

from lsrl.errors import FormatError, InputError, LsrlError
from lsrl.folders import replace_folder
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token, Vector, check_inputs
from lsrl.language.program import Program

if TYPE_CHECKING:
    from lsrl.backends.cells.network import CellNetwork

FORMAT = "lsrl-torch"
VERSION = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"

# Per kind of cell torch's class, its number of gates (in flax's order, which is torch's), and what
# else it takes.
_CLASSES: dict[str, tuple[str, int, dict[str, str]]] = {
    "relu": ("RNN", 1, {"nonlinearity": "relu"}),
    "tanh": ("RNN", 1, {"nonlinearity": "tanh"}),
    "lstm": ("LSTM", 4, {}),
    "gru": ("GRU", 3, {}),
}

Modules = dict[str, dict[str, Any]]  # by name a class of torch.nn, and its arguments


# ---------------------------------------------------------------- writing


def write(
    path: str | os.PathLike[str],
    network: "CellNetwork",
    *,
    program: Program,
    target: str,
    labels: tuple[tuple[str, ...], ...],
    certificate: str,
    certified: int | None,
) -> None:
    """Write a folder that plain torch can run; torch itself is not needed for it.

    The folder appears whole or not at all: a failed export leaves an older one as it was.

    Args:
      path: the folder; an older export in its place is replaced.
      network: the weights.
      program: what they carry out.
      target: the target's name.
      labels: the signal in each channel of each layer.
      certificate: what is proven, as text.
      certified: the number of tokens that it speaks of; None for any.

    Raises:
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    modules, weights = _modules(network, program)
    content = to_safetensors(weights, {"format": "pt"})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "lsrl": version("lsrl"),
        "program": program.name,
        "target": target,
        "dtype": network.dtype,
        "max_length": program.max_length,
        "inputs": {name: _type_to_json(kind) for name, kind in program.inputs.items()},
        "outputs": program.num_outputs,
        "output_token": None if program.output_type is None else program.output_type.size,
        "modules": modules,
        "labels": labels,
        "certificate": certificate,
        "certified_tokens": certified,
    }
    config["checksum"] = _checksum(config, content)
    text = json.dumps(config, indent=2) + "\n"
    files = {CONFIG: text.encode(), WEIGHTS: content}
    replace_folder(Path(path).resolve(), files, _read_config)


def _modules(network: "CellNetwork", program: Program) -> tuple[Modules, dict[str, Array]]:
    """The torch modules of a network, and their state dict."""
    arrays, hidden = network.parameter_arrays(), network.width
    class_name, gates, further = _CLASSES[network.structure.kind]
    output_kernel = arrays["output_kernel"]
    outputs, dtype = output_kernel.shape[1], output_kernel.dtype
    # torch takes no input of width 0, so a network that reads nothing reads a 0.
    features = max(1, arrays["cells.0.dense_i.kernel"].shape[0])
    modules: Modules = {}
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


def _module(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class": name, "arguments": arguments}


def _padded(kernel: Array, gates: int, hidden: int, width: int) -> Array:
    """A flax kernel (features, gates * units), as torch has it: (gates * hidden, width)."""
    features, units = kernel.shape[0], kernel.shape[1] // gates
    padded = np.zeros((gates, hidden, width), kernel.dtype)
    padded[:, :units, :features] = kernel.reshape(features, gates, units).transpose(1, 2, 0)
    return padded.reshape(gates * hidden, width)


def _type_to_json(kind: InputType) -> dict[str, Any]:
    if isinstance(kind, Token):
        return {"token": kind.size}
    return {"vector": kind.width, "low": kind.low, "high": kind.high, "step": kind.step}


def _checksum(config: dict[str, Any], weights: bytes) -> str:
    """Of all that an export holds, but for the checksum itself."""
    rest = {key: value for key, value in config.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(text.encode()).digest() + weights).hexdigest()


# ---------------------------------------------------------------- reading


def load_torch(path: str | os.PathLike[str]) -> Any:
    """Read what `model.export("torch", path)` wrote, as a torch module that is ready to run.

    Its `forward` takes what `Model.run` takes, as tensors, arrays or lists: ids (time,) or
    (batch, time), vectors (..., time, width), an argument an input. It checks them as `run` does,
    and returns (time, outputs), or (batch, time, outputs) if the inputs have a batch axis, in the
    model's dtype. Its parts are stock modules: `input_0`, …, `recurrent` and `output`; its `config`
    is what `config.json` says. On a GPU switch TF32 off: torch.backends.cudnn.allow_tf32 = False.

    Args:
      path: the folder.

    Returns:
      A `torch.nn.Module`, on the CPU; its parameters can be trained.

    Raises:
      InputError: torch is not installed.
      FormatError: the folder is damaged, or no export of this version.
      OSError: the folder can't be read.
    """
    try:
        import torch
        from safetensors.torch import load as from_safetensors
    except ImportError as error:
        raise InputError(
            "load_torch needs torch, which is not installed: pip install 'lsrl[torch]'"
        ) from error
    folder = Path(path)
    config = _read_config(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise _bad(folder, f"it has no file {WEIGHTS}") from error
    if config.get("checksum") != _checksum(config, content):
        raise _bad(folder, "the checksum differs, so some bytes were changed")
    try:
        # Made without weights, since those that torch would draw are thrown away.
        with torch.device("meta"):
            module = _module_class()(config)
        module.load_state_dict(from_safetensors(content), strict=True, assign=True)
    except (
        SafetensorError, LsrlError, AttributeError, KeyError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise _bad(folder, f"its modules can't be made ({error!r})") from error
    return module.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    """The config of an export of this version.

    Raises:
      FormatError: there is none.
      FileNotFoundError: there is no such path.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder; model.export('torch', path) writes one")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _bad(folder, f"it has no file {CONFIG}") from error
    except (ValueError, RecursionError) as error:
        raise _bad(folder, f"{CONFIG} is no JSON ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise _bad(folder, f"{CONFIG} is not of the format {FORMAT!r}")
    if config.get("version") != VERSION:
        raise _bad(folder, f"it has version {config.get('version')!r}, and this reads {VERSION}")
    return config


def _bad(folder: Path, why: str) -> FormatError:
    return FormatError(
        f"{folder}: expected a folder written by model.export('torch', path), got something else: "
        f"{why}; export it again"
    )


def _type_from_json(value: dict[str, Any]) -> InputType:
    if "token" in value:
        return Token(value["token"])
    return Vector(value["vector"], low=value["low"], high=value["high"], step=value["step"])


@cache
def _module_class() -> Any:
    """The class of loaded modules."""
    import torch

    classes = {"Embedding", "Linear"} | {name for name, _, _ in _CLASSES.values()}

    class TorchModel(torch.nn.Module):  # type: ignore[misc]
        """A compiled program in stock torch modules; see `load_torch`.

        Attributes:
          config: what `config.json` says.
        """

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__()
            self.config = config
            self._types = {name: _type_from_json(v) for name, v in config["inputs"].items()}
            for name, entry in config["modules"].items():
                if entry["class"] not in classes:
                    raise ValueError(f"unknown class {entry['class']!r}")
                self.add_module(name, getattr(torch.nn, entry["class"])(**entry["arguments"]))

        def forward(self, *inputs: Any) -> Any:
            """Run whole sequences; see `load_torch`.

            Raises:
              InputError: an input lies outside its declared type; says which and where.
            """
            arrays = [_as_array(value) for value in inputs]
            checked, batched = check_inputs(self._types, arrays, self.config["max_length"])
            features = 0
            for number, (given, array) in enumerate(zip(inputs, checked, strict=True)):
                layer = self.get_submodule(f"input_{number}")
                if not isinstance(given, torch.Tensor):
                    tensor = torch.from_numpy(np.ascontiguousarray(array))
                else:
                    tensor = given if batched else given[None]
                table = isinstance(layer, torch.nn.Embedding)
                dtype = torch.int64 if table else layer.weight.dtype
                features = features + layer(tensor.to(layer.weight.device, dtype))
            hidden, _ = self.recurrent(features)
            outputs = self.output(hidden)
            return outputs if batched else outputs[0]

    def _as_array(value: Any) -> Any:
        """A tensor as numpy sees it, without its gradient."""
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()

    return TorchModel
