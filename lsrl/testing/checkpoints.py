"""A class of transformers run in the ways that its users run it, which have to agree bit for bit.

This module needs torch and transformers, and no network of ours.
"""

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn


class Checkpoint(NamedTuple):
    """What `model.export("huggingface", folder)` wrote, read by transformers alone.

    Attributes:
      theirs: the class's model.
      maps: of a model without a head, what its inputs and outputs are read by, by name.
      places: likewise, for each input where it goes.
    """

    theirs: nn.Module
    maps: Mapping[str, Tensor]
    places: Sequence[Mapping[str, object]]

    @property
    def head(self) -> bool:
        """Whether it says logits."""
        return not self.maps

    def fed(self, inputs: Sequence[Tensor]) -> Tensor:
        """Inputs as the class takes them: ids (batch, time), or embeddings (batch, time, d)."""
        if self.head:
            return inputs[0]
        table = self.theirs.get_input_embeddings()
        parts = []
        if not any(place["map"] == "embedding" for place in self.places):
            parts.append(table.weight.expand(*inputs[0].shape[:2], -1))
        for place, given in zip(self.places, inputs, strict=True):
            if place["map"] == "embedding":
                parts.append(table(given))
            elif place["map"] is not None:
                kernel = self.maps[str(place["map"])]
                parts.append(kernel[given] if "token" in place else given @ kernel)
        return sum(parts[1:], parts[0])

    def told(self, values: Tensor) -> Tensor:
        """What the class makes of them as logits, or as outputs (batch, time, outputs)."""
        return values if self.head else values @ self.maps["output"]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder.

    Raises:
      ValueError: the class has other parameters than the folder.
    """
    config = json.loads((folder / "config.json").read_text())
    head = config["architectures"][0].endswith("CausalLM")
    loader = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    theirs, info = loader.from_pretrained(folder, output_loading_info=True)
    if any(info.values()):
        raise ValueError(f"{folder}: not all parameters are in their places: {info}")
    maps = {} if head else load_file(folder / "maps.safetensors")
    return Checkpoint(theirs.eval(), maps, config["lsrl"]["inputs"] if maps else ())


def made(theirs: nn.Module, inputs: Tensor, **options: object) -> Tensor:
    """What a class makes of whole sequences.

    Args:
      theirs: a causal language model of transformers, or its base model.
      inputs: ids (batch, time), or embeddings (batch, time, d).
      **options: further arguments of its `forward`.

    Returns:
      Logits (batch, time, symbols), or the last hidden states of what has no head.
    """
    with torch.no_grad():
        return _values(theirs(**{_name(inputs): inputs}, **{"use_cache": False, **options}))


def made_from_cache(theirs: nn.Module, inputs: Tensor, lengths: Iterable[int]) -> Tensor:
    """What a class makes of sequences that come in parts, each from the cache of those before.

    Args:
      theirs: as for `made`.
      inputs: as for `made`.
      lengths: of the parts, which make up the sequences.
    """
    accepted = inspect.signature(theirs.forward).parameters
    # `cache` since transformers 5.24, before that a name of its own in each class.
    name = next(name for name in ("cache", "cache_params", "past_key_values") if name in accepted)
    cache: object = None
    found = []
    with torch.no_grad():
        for part in inputs.split(list(lengths), dim=1):
            output = theirs(**{_name(inputs): part, name: cache}, use_cache=True)
            cache = output[name]
            found.append(_values(output))
    return torch.cat(found, dim=1)


def _name(inputs: Tensor) -> str:
    return "inputs_embeds" if inputs.is_floating_point() else "input_ids"


def _values(output: "dict[str, Tensor]") -> Tensor:
    return output["logits"] if "logits" in output else output["last_hidden_state"]
