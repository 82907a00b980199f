"""Whether a class of transformers gives our numbers, however it is run: whole, stepwise, cached.

`compared` takes a folder that `model.export("huggingface", path)` wrote and counts, for each way to
run it, the tokens any of whose logits differ in a bit from the class's own on whole texts; and
those that differ from our network's.
"""

import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

import lsrl
from benchmarks.workloads import Array
from lsrl.backends.residual.network import NO_SYMBOL, SHARPNESS
from lsrl.errors import BoundsError
from lsrl.testing.checkpoints import made, made_from_cache

# Texts at a time: activations of whole texts take much.
BATCH = 20


class Differing(NamedTuple):
    """Of how many tokens any logit differs in a bit, by the way to run a class.

    Attributes:
      ours: whole texts, from our network's outputs.
      stepwise: token by token from a cache, from whole texts.
      generated: what `generate` says from its cache, from what the class says of the same whole
        texts and from what the program says; None where outputs are no inputs.
      parts: a text in two parts, the second from the cache of the first; None where the class
        says that it can't.
      padded: a few texts that are filled up on their left, with a mask and without.
      again: whole texts, after the class has saved itself and was loaded again.
      tokens: that were compared with ours.
    """

    ours: int
    stepwise: int
    generated: int | None
    parts: int | None
    padded: int
    again: int
    tokens: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(count or 0 for count in self[:-1])


def loaded(folder: Path) -> Any:
    """The model, by no more than its folder.

    Raises:
      ValueError: a weight is not used, or made up.
    """
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    if any(info.values()):
        raise ValueError(f"{folder}: {info}")
    return model.eval()


def compared(
    model: lsrl.Model,
    folder: Path,
    ids: Array,
    *,
    stepwise: int | None = None,
    generated: int = 12,
) -> Differing:
    """Run an export in all ways.

    Args:
      model: that was exported, exact.
      folder: the export.
      ids: (batch, time), symbols; inputs of the program.
      stepwise: texts that are run token by token; None for all.
      generated: tokens that are generated.
    """
    theirs, given = loaded(folder), torch.from_numpy(ids.astype(np.int64))
    few = given[:stepwise]
    with torch.inference_mode():
        whole = whole_logits(theirs, given)
        steps = torch.cat([*stepwise_logits(theirs, few)], dim=1)
        with tempfile.TemporaryDirectory() as scratch:
            theirs.save_pretrained(scratch)
            again = whole_logits(loaded(Path(scratch)), given[:BATCH])
        tied = theirs.config.tie_word_embeddings
        wanted = logits_of(model.run(ids)[..., 0], whole.shape[-1], first=int(tied))
        return Differing(
            ours=_differ(whole, torch.from_numpy(wanted).float()),
            stepwise=_differ(steps, whole[: len(few)]),
            generated=_generated(model.program, theirs, few, generated),
            parts=_parts(theirs, few, whole[: len(few)]),
            padded=_padded(theirs, few[:BATCH], whole[: len(few[:BATCH])]),
            again=_differ(again, whole[:BATCH]),
            tokens=ids.size,
        )


def logits_of(outputs: Array, rows: int, first: int = 0) -> Array:
    """The logits 16 (2 k y - k^2) of outputs (...): (..., rows), the last two of no symbols.

    Args:
      outputs: of the program.
      rows: of the head.
      first: the number of the first symbol: 1 of a tied head.
    """
    k = np.append(np.arange(rows - 2), [NO_SYMBOL] * 2) + first
    found: Array = SHARPNESS * (2 * k * (outputs[..., None] + first) - k**2)
    return found


def whole_logits(theirs: Any, ids: Any, mask: Any = None) -> Any:
    """(batch, time, rows), of whole texts, without a cache; on the left of them may be padding."""
    found = []
    for place in range(0, len(ids), BATCH):
        told = {} if mask is None else _told(theirs, mask[place : place + BATCH])
        found.append(made(theirs, ids[place : place + BATCH], **told))
    return torch.cat(found)


def stepwise_logits(theirs: Any, ids: Any) -> Iterator[Any]:
    """Logits (batch, 1, rows) of each token in turn, with what each class has as a cache."""
    cache = None
    if theirs.config.model_type == "recurrent_gemma":
        # Its states lie in the layers, and it gives no cache back.
        theirs._setup_cache(theirs.config, len(ids), "cpu", torch.float32)
        cache = transformers.DynamicCache(config=theirs.config)
    # `cache` since transformers 5.24, before that a name of its own in each class.
    accepted = inspect.signature(theirs.forward).parameters
    name = next(name for name in ("cache", "cache_params", "past_key_values") if name in accepted)
    for time in range(ids.shape[1]):
        output = theirs(ids[:, time : time + 1], use_cache=True, **{name: cache})
        cache = output.get(name, cache)
        yield output.logits


def _told(theirs: Any, mask: Any) -> dict[str, Any]:
    """With a mask, positions too, as `generate` makes them of it."""
    told = {"attention_mask": mask}
    if "position_ids" in inspect.signature(theirs.forward).parameters:
        told["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return told


def _differ(found: Any, wanted: Any) -> int:
    """Tokens any of whose logits differ."""
    return int((found != wanted).any(-1).sum())


def _generated(program: lsrl.Program, theirs: Any, ids: Any, steps: int) -> int | None:
    (kind,), out = program.inputs.values(), program.output_type
    if not isinstance(kind, lsrl.Token) or out is None or out.size > kind.size:
        return None
    limit = program.max_length or ids.shape[1] + steps
    # One token alone RecurrentGemma can't begin with; see its card.
    ids = ids[:, : max(2, min(ids.shape[1], limit - steps + 1))]
    wanted = {"max_new_tokens": steps, "output_logits": True, "return_dict_in_generate": True}
    cached = theirs.generate(ids, use_cache=True, **wanted)
    logits = torch.stack(cached.logits, dim=1)
    others = whole_logits(theirs, cached.sequences[:, :-1])[:, -logits.shape[1] :]
    count = 0
    for row, text in enumerate(cached.sequences.numpy()):
        try:
            answers = program.run(text[:-1])[-steps:, 0]
        except BoundsError:
            # What is fed back may break a promise of the program, and then nothing is proven.
            continue
        count += _differ(logits[row], others[row]) + int((text[-steps:] != answers).sum())
    return count


def _parts(theirs: Any, ids: Any, whole: Any) -> int | None:
    if not theirs.config.lsrl["continues"]:
        return None
    half = ids.shape[1] // 3 + 1
    return _differ(made_from_cache(theirs, ids, [half, ids.shape[1] - half]), whole)


def _padded(theirs: Any, ids: Any, whole: Any) -> int:
    """Texts of several lengths, with a mask and without."""
    batch, length = ids.shape
    more = torch.arange(batch) % min(length, 7)
    mask = torch.arange(length)[None] >= more[:, None]
    rolled, wanted = (
        torch.stack([row.roll(int(by), 0) for row, by in zip(rows, more, strict=True)])
        for rows in (ids, whole)
    )
    filled = rolled.masked_fill(~mask, theirs.config.pad_token_id)
    return sum(
        int(((whole_logits(theirs, filled, given) != wanted).any(-1) & mask).sum())
        for given in (mask.long(), None)
    )
