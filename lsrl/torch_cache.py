"""Where classes of transformers keep what they know of the tokens before, by name.

"layers.2" is the third layer that keeps a recurrent state, whatever stands between. Of it,
"conv_states.0" and "recurrent_states.0" lie in a `Cache`; any other name is an attribute of the
model's layer, as RecurrentGemma has them. This module needs torch and transformers.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from lsrl.errors import InputError
from lsrl.ir.numbers import Array

# What sets a state of a `Cache`, by the name of it in the cache's layers.
_CACHED = {"conv_states": "update_conv_state", "recurrent_states": "update_recurrent_state"}


def read(module: PreTrainedModel, cache: Cache | None, names: Iterable[str]) -> dict[str, Array]:
    """The arrays of these names, as copies.

    Raises:
      InputError: there is no such state.
    """
    places = _Places(module, cache)
    return {name: places.read(name).detach().float().cpu().numpy().copy() for name in names}


def loaded(module: PreTrainedModel, arrays: Mapping[str, Array], batch: int, tokens: int) -> Cache:
    """A cache that holds these arrays, as after so many tokens; see `GoldenState.to_transformers`.

    Raises:
      InputError: the class keeps no such states, or in another number of layers.
    """
    cache = DynamicCache(config=module.config)
    # Ahead of the rest, since a class may keep states itself.
    _fill_attention(module, cache, batch, tokens)
    places = _Places(module, cache)
    places.check_layers({int(name.split(".")[1]) for name in arrays})
    for name, array in arrays.items():
        # A copy: torch takes no read-only arrays, and caches change in place.
        places.write(name, torch.from_numpy(np.array(array)).to(module.device, module.dtype))
    return cache


def _fill_attention(module: PreTrainedModel, cache: Cache, batch: int, tokens: int) -> None:
    """Layers of attention count the tokens; the neutral ones of our checkpoints hold zeros."""
    attention = [n for n, layer in enumerate(cache.layers) if hasattr(layer, "get_seq_length")]
    if not attention or not tokens:
        return
    # What shape they have the class says, of one token.
    probe = DynamicCache(config=module.config)
    options = {"dtype": module.dtype, "device": module.device}
    with torch.no_grad():
        token = torch.zeros(1, 1, module.config.hidden_size, **options)
        module.base_model(inputs_embeds=token, cache=probe, use_cache=True)
    for number in attention:
        held = probe.layers[number].keys, probe.layers[number].values
        zeros = (torch.zeros(batch, x.shape[1], tokens, x.shape[3], **options) for x in held)
        cache.update(*zeros, number)


class _Places:
    """What a name is in a model and its cache."""

    def __init__(self, module: PreTrainedModel, cache: Cache | None) -> None:
        if not isinstance(module, PreTrainedModel):
            raise InputError(
                f"expected a model of transformers, got {type(module).__name__}; load a checkpoint "
                "that model.export('huggingface', ...) wrote"
            )
        self.module, self.cache = module, cache
        held = [] if cache is None else cache.layers
        self.linear = [number for number, one in enumerate(held) if hasattr(one, "conv_states")]

    def check_layers(self, named: Collection[int]) -> None:
        """Refuse a class with another number of recurrent layers."""
        if len(named) != len(self.linear):
            raise InputError(
                f"expected a checkpoint of {len(named)} recurrent layers, got one of "
                f"{len(self.linear)}; export it from the same model, with or without a head as "
                "export_state was told"
            )

    def read(self, name: str) -> Tensor:
        """The state of a name."""
        layer, kind, rest = _parts(name)
        if kind in _CACHED:
            held = None
            if self.cache is not None and layer < len(self.linear):
                held = getattr(self.cache.layers[self.linear[layer]], kind).get(int(rest))
        else:
            held = getattr(*self._owner(name))
        if held is None:
            raise self._none(name)
        return held

    def write(self, name: str, values: Tensor) -> None:
        """Set the state of a name."""
        layer, kind, rest = _parts(name)
        if kind not in _CACHED:
            setattr(*self._owner(name), values)
        elif self.cache is None or layer >= len(self.linear):
            raise self._none(name)
        else:
            update = getattr(self.cache, _CACHED[kind])
            update(values, self.linear[layer], state_idx=int(rest))

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module that keeps a state itself, and its attribute."""
        _, layer, path = name.split(".", 2)
        *inner, attribute = path.split(".")
        owners = []
        for one in self.module.base_model.layers:
            for part in inner:
                one = getattr(one, part, None)
            if hasattr(one, attribute):
                owners.append(one)
        if int(layer) >= len(owners):
            raise self._none(name)
        return owners[int(layer)], attribute

    def _none(self, name: str) -> InputError:
        return InputError(
            f"expected a class that keeps {name} after it has read tokens with use_cache=True, got "
            f"{type(self.module).__name__} without; load a checkpoint of the same model and target"
        )


def _parts(name: str) -> tuple[int, str, str]:
    _, layer, kind, *rest = name.split(".")
    return int(layer), kind, rest[0] if rest else ""
