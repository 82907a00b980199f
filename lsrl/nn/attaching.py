"""A library inside a language model of transformers: attached, saved and read again."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lsrl import arguments as checks
from lsrl.errors import FormatError, InputError
from lsrl.extras import needed
from lsrl.nn.library import Library

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lsrl.nn.attached import AttachedForCausalLM


def attach(
    host: "PreTrainedModel",
    *,
    library: Library,
    arguments: Mapping[int, int] | Literal["learnt"],
    layer: int = 0,
    select: Literal["register", "token"] = "register",
) -> "AttachedForCausalLM":
    """Put a library into a layer of a language model of transformers.

    At every token the host's state ahead of the layer says whether a register is written, and with
    which routine; what that routine says of the arguments so far goes through a learnt map, which
    begins at zero, and is added behind the layer. In evaluation the routines are their certified
    network; in training the expected output of their machines, which passes gradients to the
    choice. The host's modules stay as they are, and are trained with the rest unless frozen.

    The model that is returned is an ordinary one of transformers: `Trainer`, `generate` with a
    cache or beams, `save_pretrained`, adapters. Call it, and no longer the host, which refuses.

    Args:
      host: a causal language model with a list of layers, such as LlamaForCausalLM.
      library: routines that skip, compiled for "gru", "lstm", "rnn" or "rnn_tanh".
      arguments: by the host's token ids the symbols that they are to the routines. All others skip.
        "learnt": at every token the host's state ahead of the layer says which symbol it is, a
        distribution in training.
      layer: whose input writes the register, and to whose output results are added.
      select: "register": a choice stays until the next is written. "token": each token chooses.

    Returns:
      The model, with `host` and `library` in it; see `lsrl.nn.attached.AttachedForCausalLM`.

    Raises:
      InputError: torch or transformers is not installed, or an argument makes no sense.

    Source: Saldyt & Kambhampati (2024), section 3, with a register in place of a call a token.

    Example:
      model = lsrl.nn.attach(host, library=library, arguments={0: 0, 1: 1, 2: 2})
      print(type(model).__name__)
    """
    needed("torch", "attach")
    transformers = needed("transformers", "attach")
    from lsrl.nn import attached, attached_config

    checks.instance("attach", host, transformers.PreTrainedModel, "transformers", InputError)
    checks.instance("attach: library", library, Library, "lsrl.nn.Library", InputError)
    if isinstance(host, attached.AttachedForCausalLM):
        raise InputError(
            "attach: expected a host, got one with a library; join them in one Library"
        )
    if not host.can_generate() or getattr(host.config, "is_encoder_decoder", False):
        raise InputError(
            f"attach: expected a causal language model, got {type(host).__name__}; pass one such "
            "as LlamaForCausalLM"
        )
    checks.choice("attach: select", select, attached_config.SELECTS)
    layers = attached.layers_of(host)
    checks.count("attach: layer", layer, 0, len(layers) - 1)
    tokens = len(host.get_input_embeddings().weight)
    symbols = _symbols(arguments, library, tokens)
    network, weights = _network(library)
    told = {
        "version": attached_config.VERSION,
        "host": json.loads(host.config.to_json_string(use_diff=False)),
        "layer": layer,
        "select": select,
        "tokens": tokens,
        "arguments": symbols,
        "routines": _routines(library),
        "network": network,
    }
    model = attached.AttachedForCausalLM(attached_config.AttachedConfig(attached=told), host)
    model.library.routines.set_network(weights)
    model.library.to(host.device, host.dtype)
    model.train(host.training)
    model.check()
    return model


def load_attached(path: str | os.PathLike[str], **options: Any) -> "AttachedForCausalLM":
    """Read a model with a library that `save_pretrained` wrote; its logits are the same.

    Args:
      path: the folder.
      **options: for `from_pretrained` of transformers, such as device_map.

    Raises:
      InputError: torch or transformers is not installed.
      FormatError: the folder holds something else, or weights are missing or not as certified.
      OSError: the folder can't be read.

    Example:
      model.save_pretrained("build/attached")
      print(type(lsrl.nn.load_attached("build/attached").host).__name__)
    """
    needed("torch", "load_attached")
    needed("transformers", "load_attached")
    from lsrl.nn import attached, attached_config

    folder = checks.path("load_attached", path)
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{folder}: expected JSON in config.json, got {error}") from error
    kind = told.get("model_type") if isinstance(told, dict) else None
    if kind != attached_config.MODEL_TYPE:
        raise FormatError(
            f"{folder}: expected a model with a library, which save_pretrained of what "
            f"lsrl.nn.attach returned writes, got one of type {kind!r}"
        )
    return attached.AttachedForCausalLM.from_pretrained(folder, **options)


def _symbols(
    given: Mapping[int, int] | Literal["learnt"], library: Library, tokens: int
) -> dict[str, int] | str:
    """By token the symbol, as JSON has it."""
    learnt = isinstance(given, str) and given == "learnt"
    if not learnt and (not isinstance(given, Mapping) or not given):
        raise InputError(
            "attach: arguments: expected a mapping of the host's token ids to symbols, such as "
            f"{{15: 0, 16: 1}}, or 'learnt', got {checks.shown(given)}"
        )
    stays = all((table.follows[:, -1] == np.arange(table.states)).all() for table in library.tables)
    if not stays:
        raise InputError(
            "attach: library: expected routines whose last symbol changes nothing, for tokens that "
            "are no arguments; make it by Library(routines, skip=True)"
        )
    if isinstance(given, str):
        return given
    return {
        str(checks.count("attach: arguments: token", token, 0, tokens - 1)): checks.count(
            f"attach: arguments[{token}]", symbol, 0, library.skip
        )
        for token, symbol in given.items()
    }


def _routines(library: Library) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "follows": table.follows.tolist(),
            "ids": table.ids.tolist(),
            "initial": int(table.initial),
        }
        for name, table in zip(library.names, library.tables, strict=True)
    ]


def _network(library: Library) -> tuple[dict[str, Any], dict[str, Any]]:
    """The library's network as it is exported to torch: its config, and its weights."""
    from safetensors.torch import load

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "library")
        library.model.export("torch", folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load((folder / "weights.safetensors").read_bytes())
    if "recurrent" not in config["modules"]:
        raise InputError(
            f"attach: library: expected one of cells that torch runs on from a state, got target "
            f"{config['target']!r}; make it by Library(routines, target='gru')"
        )
    return config, weights
