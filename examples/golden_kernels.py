"""For who writes kernels: a class of transformers beside an exact model, to the bit.

A model whose certificate says exact needs no tolerance: a whole text, its parts, its tokens one by
one, a cache that was loaded and a text that is filled up on the left all give the same logits, and
these are known beforehand, with every entry of the cache and what it means.

    python examples/golden_kernels.py                               # a checkpoint made here
    python examples/golden_kernels.py FOLDER STATE... [--class module:Class]

FOLDER is what `model.export("huggingface", FOLDER)` wrote of a program of a token in and a token
out, and each STATE what `model.export_state(inputs, token).save(STATE)` wrote. The class is loaded
by its `from_pretrained`; kernels go in by it, or by what its module patches. See docs/kernels.md.
"""

import argparse
import importlib
import itertools
import os
import sys
from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

import lsrl

PADDING = 3


class Kernels:
    """A class with its kernels, and what it should do."""

    def __init__(self, model: PreTrainedModel, golden: lsrl.GoldenState) -> None:
        """Take a model of the checkpoint that the state is of."""
        self.model, self.golden = model.eval(), golden
        self.ids = torch.from_numpy(golden.inputs[0])
        # Exactly 16 (2 k y - k^2) of the output y; of a tied head both count from 1.
        first = int(model.config.tie_word_embeddings)
        answers = golden.outputs.astype(np.float64) + first
        symbols = np.arange(model.config.lsrl["outputs"]) + first
        self.logits = torch.from_numpy(16 * (2 * symbols * answers - symbols**2)).float()

    def cache(self) -> Cache:
        """An empty one; RecurrentGemma keeps states in its layers."""
        if hasattr(self.model, "_setup_cache"):
            batch, some = len(self.ids), self.model.dtype
            self.model._setup_cache(self.model.config, batch, self.model.device, some)
        return DynamicCache(config=self.model.config)

    def run(self, cache: Cache, *ends: int) -> torch.Tensor:
        """Logits of parts of the texts that end there, the first one at the end before."""
        parts = [
            self.model(self.ids[:, start:stop], cache=cache, use_cache=True).logits
            for start, stop in itertools.pairwise(ends)
        ]
        return torch.cat(parts, dim=1)

    def first(self, logits: torch.Tensor, start: int = 0) -> str | None:
        """The first logit that is not as it should be, of tokens from `start` on."""
        wanted = self.logits[:, start : start + logits.shape[1]]
        got = logits[..., : wanted.shape[-1]]
        for token, row, symbol in (got != wanted).permute(1, 0, 2).nonzero().tolist():
            numbers = f"{got[row, token, symbol]:.9g}, expected {wanted[row, token, symbol]:.9g}"
            return f"token {start + token} of text {row}, symbol {symbol}: got {numbers}"
        return None

    def entries(self, cache: Cache) -> str | None:
        """The first entry of a cache that is not as it should be."""
        found = self.golden.differences(self.golden.arrays_of(self.model, cache))
        return next(map(str, found), None)

    def checks(self, parts: bool) -> Iterator[tuple[str, str | None]]:
        """What is asked, and the first difference."""
        token, end = self.golden.token, self.ids.shape[1]
        yield "full", self.first(self.model(self.ids, use_cache=False).logits)
        mask = torch.ones(len(self.ids), PADDING + end, dtype=torch.long)
        mask[:, :PADDING] = 0
        filled = torch.full((len(self.ids), PADDING), self.model.config.pad_token_id)
        padded = self.model(
            torch.cat([filled, self.ids], dim=1), attention_mask=mask, use_cache=False
        )
        yield "padded", self.first(padded.logits[:, PADDING:])
        for what, ends in (("stepped", range(token + 1)), ("prefilled", (0, token))):
            if token:
                cache = self.cache()
                yield what, self.first(self.run(cache, *ends))
                yield f"{what}, its cache", self.entries(cache)
        if token < end:
            cache = self.golden.to_transformers(self.model)
            yield "cached", self.first(self.run(cache, *range(token, end + 1)), token)
        if token < end and parts:
            cache = self.golden.to_transformers(self.model)
            yield "in parts", self.first(self.run(cache, token, end), token)


def report(model: PreTrainedModel, golden: lsrl.GoldenState, parts: bool) -> bool:
    """Print all checks; whether all are equal."""
    print(f"{golden.program} on {golden.target}, {golden.token} tokens read")
    with torch.no_grad():
        found = dict(Kernels(model, golden).checks(parts))
    for what, difference in found.items():
        print(f"  {what:<20} {'equal' if difference is None else difference}")
    if not parts:
        print("  in parts             not asked: from a cache it reads token by token alone")
    return not any(found.values())


def made_here(folder: str) -> list[str]:
    """A checkpoint with some states; their paths."""
    model = lsrl.compile(lsrl.programs.dyck1(), "mamba")
    model.export("huggingface", folder)
    ids = np.random.default_rng(0).integers(0, 2, (3, 24))
    paths = []
    for token in (2, 17):
        paths.append(os.path.join(folder, f"after_{token}.safetensors"))
        model.export_state(ids, token).save(paths[-1])
    return paths


def main() -> int:
    """Run it; 1 if there is a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="golden")
    parser.add_argument("states", nargs="*", metavar="STATE")
    parser.add_argument("--class", dest="kind", metavar="module:Class")
    given = parser.parse_args()
    states = given.states or made_here(given.folder)
    kind = AutoModelForCausalLM
    if given.kind:
        sys.path.insert(0, os.getcwd())
        module, _, name = given.kind.partition(":")
        kind = getattr(importlib.import_module(module), name)
    model = kind.from_pretrained(given.folder)
    # Of kernels of one's own all is asked, whatever the stock class can't do.
    parts = bool(given.kind) or model.config.lsrl["continues"]
    same = [report(model, lsrl.GoldenState.load(path), parts) for path in states]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
