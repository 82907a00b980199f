"""Folders of torch modules: how one is written, and how it is read as a ready module.

The folder holds two files. `weights.safetensors` is the state dict of the modules that
`lsrl.torch_config` describes; `config.json` names their classes and arguments, so plain torch runs
the stock ones without LSRL. torch is optional: writing does without it, and reading imports
`lsrl.torch_module`, which needs it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from safetensors import SafetensorError
from safetensors.numpy import save as to_safetensors

from lsrl import arguments, schema, sealed
from lsrl.errors import FormatError
from lsrl.extras import needed
from lsrl.folders import read_folder, replace_folder
from lsrl.ir.numbers import Array
from lsrl.schema import FieldError
from lsrl.torch_config import FORMAT, READ, VERSIONS, TorchConfig, check_modules

if TYPE_CHECKING:
    from lsrl.torch_module import TorchModel

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def checksum(config: Mapping[str, object], weights: bytes) -> str:
    """Of all that an export holds, but for the checksum itself."""
    return hashlib.sha256(sealed.digest(config) + weights).hexdigest()


def write_export(
    path: str | os.PathLike[str], config: TorchConfig, weights: Mapping[str, Array]
) -> None:
    """Write a folder; torch itself is not needed for it.

    The folder appears whole or not at all: a failed export leaves an older one as it was.

    Args:
      path: the folder; an older export in its place is replaced.
      config: without the checksum.
      weights: the state dict of its modules.

    Raises:
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    content = to_safetensors(dict(weights), {"format": "pt"})
    text = json.dumps({**config, "checksum": checksum(config, content)}, indent=2) + "\n"
    replace_folder(path, {CONFIG: text.encode(), WEIGHTS: content}, read_config)


def load_torch(path: str | os.PathLike[str]) -> "TorchModel":
    """Read what `model.export("torch", path)` wrote, as a torch module that is ready to run.

    It is a `lsrl.torch_module.TorchModel`. Its `forward` takes tensors, an argument an input: ids
    (time,) or (batch, time), vectors (..., time, width); it returns (..., time, outputs) in the
    model's dtype, and checks nothing, so that it can be traced. `module.run` takes what `Model.run`
    takes, and checks it as `run` does. Its parts are `input_0`, …; `recurrent`, or a `layer_1`, …
    each; and `output`; its `config` is what `config.json` says. On a GPU switch TF32 off:
    torch.backends.cudnn.allow_tf32 = False. A folder that is replaced while it is read is read
    again.

    Args:
      path: the folder.

    Returns:
      A `torch.nn.Module`, on the CPU; its parameters can be trained.

    Raises:
      InputError: torch is not installed.
      FormatError: the folder is damaged, or no export of a version that this reads.
      OSError: the folder can't be read.

    Example:
      model.export("torch", "parity")
      print(lsrl.load_torch("parity")(torch.tensor([[1, 1, 1]]))[0, :, 0].tolist())
    """
    needed("torch", "load_torch")
    from safetensors.torch import load as from_safetensors

    from lsrl.torch_module import TorchModel

    folder = arguments.path("load_torch", path)
    config, content = read_folder(folder, lambda: _read(folder))
    try:
        tensors = from_safetensors(content)
        check_modules(config, {n: (tuple(t.shape), str(t.dtype)) for n, t in tensors.items()})
        module = TorchModel(config)
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
        READ(config)
    except FieldError as error:
        raise _bad(folder, f"{CONFIG}: {error}") from error
    if config.get("checksum") != checksum(config, content):
        raise _bad(folder, "the checksum differs, so some bytes were changed")
    return config, content


def read_config(folder: Path) -> TorchConfig:
    """The config of an export of a version that this reads.

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
        raise _bad(
            folder,
            f"{CONFIG} is not of the format {FORMAT!r} (what model.export('huggingface', path) "
            "wrote, transformers reads)",
        )
    if config.get("version") not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise _bad(folder, f"it has version {config.get('version')!r}, and this reads {known}")
    return cast(TorchConfig, config)


def _bad(folder: Path, why: str) -> FormatError:
    return FormatError(
        f"{folder}: expected a folder written by model.export('torch', path), got something else: "
        f"{why}; export it again"
    )
