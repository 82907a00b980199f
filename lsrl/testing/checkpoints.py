"""A class of transformers run in the ways that its users run it, which have to agree bit for bit.

This module needs torch.
"""

import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

# Tokens ahead of a text, where it is filled up on the left.
AHEAD = 7


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


def differing(
    theirs: nn.Module, inputs: Tensor, whole: Tensor, ways: Sequence[str] = ()
) -> dict[str, int | str]:
    """At how many tokens a class makes anything else in other ways than of whole sequences.

    Args:
      theirs: as for `made`.
      inputs: as for `made`, at least three tokens long.
      whole: what `made` made of them.
      ways: of `WAYS`; all of them by default.

    Returns:
      By way the number of tokens with any bit that differs, or the error that the class raises.
    """
    found: dict[str, int | str] = {}
    for way in ways or WAYS:
        try:
            other = WAYS[way](theirs, inputs)
        except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
            found[way] = f"{type(error).__name__}: {error}"
        else:
            found[way] = int((other != whole).any(dim=-1).sum())
    return found


def _token_by_token(theirs: nn.Module, inputs: Tensor) -> Tensor:
    return made_from_cache(theirs, inputs, [1] * inputs.shape[1])


def _in_two_parts(theirs: nn.Module, inputs: Tensor) -> Tensor:
    first = inputs.shape[1] // 2 + 1
    return made_from_cache(theirs, inputs, [first, inputs.shape[1] - first])


def _filled_up(theirs: nn.Module, inputs: Tensor) -> Tensor:
    """With tokens ahead of it that the mask hides, whatever they are."""
    ahead = inputs.flip(1)[:, :1].repeat_interleave(AHEAD, dim=1)
    mask = torch.ones(inputs.shape[0], inputs.shape[1] + AHEAD, dtype=torch.long)
    mask[:, :AHEAD] = 0
    found = made(theirs, torch.cat([ahead, inputs], dim=1), attention_mask=mask)
    return found[:, AHEAD:]


# By what is done the function for it.
WAYS = {
    "token by token": _token_by_token,
    "in two parts": _in_two_parts,
    "filled up on the left": _filled_up,
}


def _name(inputs: Tensor) -> str:
    return "inputs_embeds" if inputs.is_floating_point() else "input_ids"


def _values(output: "dict[str, Tensor]") -> Tensor:
    return output["logits"] if "logits" in output else output["last_hidden_state"]
