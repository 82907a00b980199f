"""Networks that hide the answer, each with its ground truth carried along.

A variant is a `Model` of the same program with another network, circuit and card: `model.circuit`
is the truth of the altered network, `model.card` says what was done and how right it is. All that
works on a model works on a variant: capture, patch, interchange, causal tests, saving. The model
that a variant is made of stays as it is.
"""

from lsrl.card import Card, Measured
from lsrl.interpret.variants.base import measured, random_sampler
from lsrl.interpret.variants.combine import join, merged, padded
from lsrl.interpret.variants.noise import noised, safe_level
from lsrl.interpret.variants.permute import permuted
from lsrl.interpret.variants.rotate import rotated
from lsrl.interpret.variants.soften import soft
from lsrl.interpret.variants.trim import trimmed

__all__ = [
    "Card",
    "Measured",
    "join",
    "measured",
    "merged",
    "noised",
    "padded",
    "permuted",
    "random_sampler",
    "rotated",
    "safe_level",
    "soft",
    "trimmed",
]
