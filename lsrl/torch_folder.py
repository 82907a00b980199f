"""Folders of stock torch modules: their format, and how one is read as a ready module.

The folder holds two files. `weights.safetensors` is the state dict of these modules:

    input_0, input_1, …   an Embedding (tokens) or a Linear (vectors) an input, whose outputs add up
    recurrent             one RNN, LSTM or GRU with all layers, batch_first
    output                a Linear

`config.json` names their classes and arguments, so plain torch runs them without LSRL. The module
that wraps the recurrent classes is made where it is asked for, since torch is optional.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike
from safetensors import SafetensorError

from lsrl.errors import FormatError, InputError, LsrlError
from lsrl.folders import read_folder
from lsrl.ir.types import InputType, Token, Vector, check_inputs

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMAT = "lsrl-torch"
VERSION = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
CLASSES = frozenset({"Embedding", "Linear", "RNN", "LSTM", "GRU"})


class TypeJson(TypedDict, total=False):
    """The type of an input: a token's number of symbols, or a vector's width and range."""

    token: int
    vector: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: tuple[float, ...] | None


# A class of torch.nn, and its arguments.
ModuleJson = TypedDict("ModuleJson", {"class": str, "arguments": dict[str, object]})


class TorchConfig(TypedDict):
    """What `config.json` says."""

    format: str
    version: int
    lsrl: str
    program: str
    target: str
    dtype: str
    max_length: int | None
    inputs: dict[str, TypeJson]
    outputs: int
    output_token: int | None
    modules: dict[str, ModuleJson]
    labels: tuple[tuple[str, ...], ...]
    certificate: str
    certified_tokens: int | None
    checksum: NotRequired[str]


def checksum(config: Mapping[str, object], weights: bytes) -> str:
    """Of all that an export holds, but for the checksum itself."""
    rest = {key: value for key, value in config.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(text.encode()).digest() + weights).hexdigest()


def type_to_json(kind: InputType) -> TypeJson:
    """An input's type, as the config has it."""
    if isinstance(kind, Token):
        return {"token": kind.size}
    return {"vector": kind.width, "low": kind.low, "high": kind.high, "step": kind.step}


def load_torch(path: str | os.PathLike[str]) -> "Module":
    """Read what `model.export("torch", path)` wrote, as a torch module that is ready to run.

    Its `forward` takes what `Model.run` takes, as tensors, arrays or lists: ids (time,) or
    (batch, time), vectors (..., time, width), an argument an input. It checks them as `run` does,
    and returns (time, outputs), or (batch, time, outputs) if the inputs have a batch axis, in the
    model's dtype. Its parts are stock modules: `input_0`, …, `recurrent` and `output`; its `config`
    is what `config.json` says. On a GPU switch TF32 off: torch.backends.cudnn.allow_tf32 = False.
    A folder that is replaced while it is read is read again.

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
    config, content = read_folder(folder, lambda: _read(folder))
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


def _read(folder: Path) -> tuple[TorchConfig, bytes]:
    """The config and the weights, if both are of one export."""
    config = read_config(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise _bad(folder, f"it has no file {WEIGHTS}") from error
    if config.get("checksum") != checksum(config, content):
        raise _bad(folder, "the checksum differs, so some bytes were changed")
    return config, content


def read_config(folder: Path) -> TorchConfig:
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
    return cast(TorchConfig, config)


def _bad(folder: Path, why: str) -> FormatError:
    return FormatError(
        f"{folder}: expected a folder written by model.export('torch', path), got something else: "
        f"{why}; export it again"
    )


def _type_from_json(value: TypeJson) -> InputType:
    if "token" in value:
        return Token(value["token"])
    return Vector(value["vector"], low=value["low"], high=value["high"], step=value["step"])


@cache
def _module_class() -> "type[Module]":
    """The class of loaded modules."""
    import torch

    class TorchModel(torch.nn.Module):  # type: ignore[misc]
        """A compiled program in stock torch modules; see `load_torch`.

        Attributes:
          config: what `config.json` says.
        """

        def __init__(self, config: TorchConfig) -> None:
            super().__init__()
            self.config = config
            self._types = {name: _type_from_json(v) for name, v in config["inputs"].items()}
            for name, entry in config["modules"].items():
                if entry["class"] not in CLASSES:
                    raise ValueError(f"unknown class {entry['class']!r}")
                self.add_module(name, getattr(torch.nn, entry["class"])(**entry["arguments"]))

        def forward(self, *inputs: "Tensor | ArrayLike") -> "Tensor":
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

    def _as_array(value: "Tensor | ArrayLike") -> ArrayLike:
        """A tensor as numpy sees it, without its gradient."""
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()

    return TorchModel
