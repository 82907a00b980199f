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

from lsrl import arguments, schema
from lsrl.errors import FormatError, InputError
from lsrl.folders import read_folder
from lsrl.ir.types import InputType, Token, check_inputs
from lsrl.program_json import type_from_json
from lsrl.schema import FieldError, Reader

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMAT = "lsrl-torch"
VERSION = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


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
    folder = arguments.path("load_torch", path)
    config, content = read_folder(folder, lambda: _read(folder))
    try:
        tensors = from_safetensors(content)
        _check_modules(config, {n: (tuple(t.shape), str(t.dtype)) for n, t in tensors.items()})
        # Made without weights, since those that torch would draw are thrown away.
        with torch.device("meta"):
            module = _module_class()(config)
        module.load_state_dict(tensors, strict=True, assign=True)
    except (FieldError, SafetensorError, KeyError, ValueError) as error:
        raise _bad(folder, f"its modules can't be made: {error}") from error
    return module.eval()


def _read(folder: Path) -> tuple[TorchConfig, bytes]:
    """The config and the weights, if both are of one export."""
    config = read_config(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise _bad(folder, f"it has no file {WEIGHTS}") from error
    try:
        _CONFIG(config)
    except FieldError as error:
        raise _bad(folder, f"{CONFIG}: {error}") from error
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
        config = schema.parse((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _bad(folder, f"it has no file {CONFIG}") from error
    except FieldError as error:
        raise _bad(folder, f"{CONFIG}: {error}") from error
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


# ---------------------------------------------------------------- what a config may say

_SIZE = schema.integer(1)
_RECURRENT: Mapping[str, Reader[object]] = {
    **dict.fromkeys(("input_size", "hidden_size", "num_layers"), _SIZE),
    "batch_first": schema.flag,
}
# Per class its arguments, all of which are there but for the last of Linear.
_ARGUMENTS: Mapping[str, Reader[dict[str, object]]] = {
    "Embedding": schema.record(dict.fromkeys(("num_embeddings", "embedding_dim"), _SIZE)),
    "Linear": schema.record(
        {"in_features": _SIZE, "out_features": _SIZE, "bias": schema.flag}, ("bias",)
    ),
    "RNN": schema.record({**_RECURRENT, "nonlinearity": schema.one_of("relu", "tanh")}),
    "LSTM": schema.record(_RECURRENT),
    "GRU": schema.record(_RECURRENT),
}
# Of what lies before and behind the recurrent layers: what it takes and gives.
_SIDES = {
    "Embedding": ("num_embeddings", "embedding_dim"),
    "Linear": ("in_features", "out_features"),
}
_GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
_TEXTS = dict.fromkeys(("format", "lsrl", "program", "target", "certificate", "checksum"))


_MODULE: Reader[dict[str, object]] = schema.record(
    {"class": schema.one_of(*_ARGUMENTS), "arguments": schema.named(schema.anything)}
)


def _module(value: object) -> ModuleJson:
    found = cast(ModuleJson, _MODULE(value))
    try:
        _ARGUMENTS[found["class"]](found["arguments"])
    except FieldError as error:
        raise error.within("arguments") from None
    return found


_CONFIG: Reader[dict[str, object]] = schema.record({
    **dict.fromkeys(_TEXTS, schema.text),
    "version": _SIZE,
    "dtype": schema.one_of("float32", "float64", "bfloat16"),
    "max_length": schema.maybe(_SIZE),
    "inputs": schema.named(type_from_json),
    "outputs": _SIZE,
    "output_token": schema.maybe(_SIZE),
    "modules": schema.named(_module),
    "labels": schema.listed(schema.listed(schema.text)),
    "certified_tokens": schema.maybe(_SIZE),
})  # fmt: skip

Tensors = Mapping[str, tuple[tuple[int, ...], str]]  # by name shape and dtype


def _check_modules(config: TorchConfig, tensors: Tensors) -> None:
    """Refuse modules that do not fit together, or that the tensors do not fill.

    Raises:
      FieldError: says which.
    """
    sizes: list[tuple[object, ...]] = [
        ("Embedding", kind.size) if isinstance(kind, Token) else ("Linear", kind.width)
        for kind in map(type_from_json, config["inputs"].values())
    ]
    modules = config["modules"]
    names = [*(f"input_{number}" for number in range(len(sizes))), "recurrent", "output"]
    if set(modules) != set(names) or not sizes:
        got = arguments.shown(list(modules))
        raise FieldError(f"the modules {', '.join(names)}", got, "modules")
    recurrent = modules["recurrent"]["arguments"]
    sizes = [(*each, recurrent.get("input_size")) for each in sizes]
    sizes.append(("Linear", recurrent.get("hidden_size"), config["outputs"]))
    for name, wanted in zip((n for n in names if n != "recurrent"), sizes, strict=True):
        entry = modules[name]
        ends = tuple(entry["arguments"].get(end) for end in _SIDES.get(entry["class"], ()))
        if (entry["class"], *ends) != wanted:
            raise FieldError(f"{wanted}", f"{(entry['class'], *ends)}", f"modules.{name}")
    if not recurrent.get("batch_first"):
        raise FieldError("an RNN, LSTM or GRU, batch_first", f"{modules['recurrent']}", "modules")
    shapes = _shapes(modules, len(tensors))
    for name, shape in shapes.items():
        if tensors.get(name) != (shape, f"torch.{config['dtype']}"):
            raise FieldError(f"{shape} of {config['dtype']}", f"{tensors.get(name)}", name)
    if tensors.keys() != shapes.keys():
        raise FieldError(
            f"the tensors {', '.join(shapes)}", arguments.shown(list(tensors)), WEIGHTS
        )


def _shapes(modules: Mapping[str, ModuleJson], count: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that modules have, which are so many."""
    found: dict[str, tuple[int, ...]] = {}
    for name, entry in modules.items():
        sizes = cast(dict[str, int], entry["arguments"])
        if entry["class"] == "Embedding":
            found[f"{name}.weight"] = sizes["num_embeddings"], sizes["embedding_dim"]
        elif entry["class"] == "Linear":
            found[f"{name}.weight"] = sizes["out_features"], sizes["in_features"]
            if sizes.get("bias", True):
                found[f"{name}.bias"] = (sizes["out_features"],)
        else:
            layers, hidden = sizes["num_layers"], sizes["hidden_size"]
            if 4 * layers > count:
                raise FieldError(f"at most {count} tensors", f"{layers} layers", f"modules.{name}")
            rows = _GATES[entry["class"]] * hidden
            for layer in range(layers):
                for side, width in (("i", hidden if layer else sizes["input_size"]), ("h", hidden)):
                    found[f"{name}.weight_{side}h_l{layer}"] = rows, width
                    found[f"{name}.bias_{side}h_l{layer}"] = (rows,)
    return found


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
            self._types = {name: type_from_json(v) for name, v in config["inputs"].items()}
            for name, entry in config["modules"].items():
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
