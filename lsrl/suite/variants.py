"""Variants of a model: the same program behind other weights.

A new variant is a function from a compiled model and a seed to a `Varied`, and one row of
`VARIANTS`; build, verify and the command line find it there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lsrl.errors import InputError, PrecisionError
from lsrl.interpret import variants
from lsrl.interpret.causal import Sampler, causal_test
from lsrl.model import Model
from lsrl.suite.partners import partners

# Valid interchanges wanted a signal, and the share of them after which outputs are right.
PAIRS_OF_VARIANTS, AGREEMENT = 50, "agreement of interchanges"


@dataclass(frozen=True)
class Varied:
    """What a variant makes of a model.

    Attributes:
      model: the network.
      card: a paragraph for the card: what was changed, and what stays true.
      exact: whether outputs are equal to the program's at every token.
      error_bound: the greatest error where they are not; None where nothing is certified, and the
        model was measured instead.
      measured: what was measured, by name, for card and manifest.
    """

    model: Model
    card: str
    exact: bool
    error_bound: float | None
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a variant is made from, beside the compiled model.

    Attributes:
      seed: of this variant of this program on this target, and of no other.
      build_seed: of the build, for what several targets or programs have in common.
      sampler: of legal inputs.
    """

    seed: int
    build_seed: int
    sampler: Sampler


@dataclass(frozen=True)
class Variant:
    """A row of the registry.

    Attributes:
      name: the name of its folders.
      make: (compiled model, request) -> the variant. Where there is none of this model it raises an
        InputError, UnsupportedOpError, PrecisionError or SizeError that says why.
    """

    name: str
    make: Callable[[Model, Request], Varied]


def plain(model: Model, request: Request) -> Varied:
    """The model as it was compiled."""
    del request  # nothing is drawn or measured
    certificate = model.certificate
    return Varied(
        model,
        "The network as it was compiled: each channel holds one signal, and nothing is hidden.",
        certificate.exact,
        0.0 if certificate.exact else float(certificate.error_bound),
    )


def altered(make: Callable[[Model, Request], Model]) -> Callable[[Model, Request], Varied]:
    """A variant of `lsrl.interpret.variants` as a row of the registry.

    Where nothing is proven of its outputs, interchanges are measured too.
    """

    def varied(model: Model, request: Request) -> Varied:
        made = make(model, request)
        found = made.card
        measured = {} if found is None else {
            "accuracy": found.measured.accuracy,
            "greatest error": found.measured.error,
            "right up to token": float(found.measured.right_length),
        }  # fmt: skip
        exact = made.certificate.exact
        if not exact:
            tested = causal_test(made, request.sampler, pairs=PAIRS_OF_VARIANTS)
            measured[AGREEMENT] = tested.agreement
        return Varied(
            made,
            f"```\n{found}\n```",
            exact,
            0.0 if exact else None,
            {name: value for name, value in measured.items() if np.isfinite(value)},
        )

    return varied


def merged(model: Model, request: Request) -> Model:
    """The program and its partner in one network; its own outputs come first.

    Raises:
      InputError: the seed draws no partner for it.
    """
    name = model.program.name
    pairs = partners(request.build_seed)
    if name not in pairs:
        first = [own for own, other in pairs.items() if other.name == name]
        raise InputError(
            f"merged: {name} is the second program of {first[0]}'s merged networks; take those"
            if first
            else f"merged: {name} is in none of the {len(pairs)} pairs that the build's seed "
            f"draws; take {', '.join(pairs)}, or merge it with lsrl.interpret.variants.merged"
        )
    others = [pairs[name].program()]
    return variants.merged(model, request.seed, others, sampler=request.sampler)


# Soft networks that are right less often do not compute their program any more.
LEAST_ACCURACY = 0.9


def soft(model: Model, request: Request) -> Model:
    """Gates at ±8, where the network still is nearly right.

    Raises:
      PrecisionError: it is not.
    """
    made = variants.soft(model, sampler=request.sampler)
    accuracy = 1.0 if made.card is None else made.card.measured.accuracy
    if accuracy < LEAST_ACCURACY:
        raise PrecisionError(
            f"soft: {model.program.name} on {model.target} is right at {accuracy:.1%} of the "
            f"tokens, and at {LEAST_ACCURACY:.0%} at least is wanted: its continuous comparisons "
            "are too steep for what soft gates let through; take another target"
        )
    return made


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("plain", plain),
        Variant("permuted", altered(lambda m, r: variants.permuted(m, r.seed, sampler=r.sampler))),
        Variant("rotated", altered(lambda m, r: variants.rotated(m, r.seed, sampler=r.sampler))),
        Variant("padded", altered(lambda m, r: variants.padded(m, r.seed, sampler=r.sampler))),
        Variant("merged", altered(merged)),
        Variant("soft", altered(soft)),
        Variant("noised", altered(lambda m, r: variants.noised(m, r.seed, sampler=r.sampler))),
    )
}
# What is built where nothing else is asked for: noised ones take a sweep each.
DEFAULT = tuple(name for name in VARIANTS if name != "noised")
