"""Single models and datasets of the suite, built when they are asked for and kept in the cache."""

from collections.abc import Sequence
from pathlib import Path

import lsrl
from lsrl import cache
from lsrl.errors import InputError
from lsrl.interpret.methods import Case
from lsrl.model import Model
from lsrl.suite import build, datasets, manifest
from lsrl.suite.datasets import Counterfactuals, Dataset
from lsrl.suite.manifest import Refusal
from lsrl.suite.programs import (
    STARTER,
    STARTER_TARGETS,
    SuiteProgram,
    check_names,
)
from lsrl.suite.programs import programs as suite_programs
from lsrl.suite.variants import VARIANTS


def load(program: str, target: str, variant: str = "plain", *, seed: int = 0) -> Model:
    """One model of the suite: the very one that a build of this seed would write.

    It is built when it is first asked for, and kept in the user's cache directory.

    Args:
      program: a name out of the suite, as `lsrl suite list` has them.
      target: as for `lsrl.compile`.
      variant: "plain", "permuted", "rotated", "padded", "merged", "soft" or "noised".
      seed: of the build.

    Returns:
      The model; `model.circuit` is its ground truth.

    Raises:
      InputError: an unknown name (suggests the nearest), or there is no such model; says why.
      OSError: the cache can't be written.

    Example:
      model = lsrl.suite.load("majority", "gru")
      print(model.target, model.certificate.exact)
    """
    (found,) = held_and_refused(program, target, [variant], seed).values()
    if isinstance(found, Refusal):
        raise InputError(
            f"suite.load: there is no {variant} model of {program} on {target}: {found.reason}"
        )
    return found


def load_data(program: str, *, seed: int = 0) -> Dataset:
    """The dataset of a program of the suite, with every named signal at every token.

    Args:
      program: a name out of the suite.
      seed: of the build.

    Raises:
      InputError: an unknown name; suggests the nearest.
      OSError: the cache can't be written.

    Example:
      data = lsrl.suite.load_data("majority")
      print([*data.splits])
    """
    made, root = _made(program, seed)
    return datasets.read_dataset(root / made.programs[0].folder / build.DATASET)


def load_pairs(program: str, *, seed: int = 0) -> Counterfactuals:
    """The counterfactual pairs of a program of the suite, with the signals in which they differ.

    Args:
      program: a name out of the suite.
      seed: of the build.

    Raises:
      InputError: an unknown name; suggests the nearest.
      OSError: the cache can't be written.

    Example:
      pairs = lsrl.suite.load_pairs("majority")
      print(type(pairs).__name__)
    """
    made, root = _made(program, seed)
    return datasets.read_counterfactuals(root / made.programs[0].folder / build.COUNTERFACTUALS)


def cases(
    programs: Sequence[str] = STARTER,
    targets: Sequence[str] = STARTER_TARGETS,
    variants: Sequence[str] = ("plain",),
    *,
    seed: int = 0,
) -> list[Case]:
    """Models of the suite with legal inputs, to try methods on.

    Args:
      programs: names out of the suite.
      targets: as for `lsrl.compile`.
      variants: as for `load`.
      seed: of the build.

    Returns:
      Those that there are, in order; inputs are drawn from the validation split. `refusals` of the
      same arguments says which there are not, and why.

    Raises:
      InputError: an unknown name (suggests the nearest), or there is none of them.
      OSError: the cache can't be written.

    Example:
      (case,) = lsrl.suite.cases(["majority"], ["gru"])
      print(case.program, case.target)
    """
    found, reasons = [], []
    for program in programs:
        sample = load_data(program, seed=seed).splits["validation"].sample
        for target in targets:
            for variant, each in held_and_refused(program, target, variants, seed).items():
                if isinstance(each, Refusal):
                    reasons.append(each.reason)
                else:
                    found.append(Case(program, target, variant, each, sample))
    if not found:
        raise InputError(f"suite.cases: there are none: {'; '.join(reasons)}")
    return found


def refusals(
    programs: Sequence[str] = STARTER,
    targets: Sequence[str] = STARTER_TARGETS,
    variants: Sequence[str] = ("plain",),
    *,
    seed: int = 0,
) -> list[Refusal]:
    """Which models of the suite there are not, and why: what `cases` leaves out.

    A target can't hold every program, and a variant asks for something of the target, as a residual
    stream to rotate.

    Args:
      programs: names out of the suite.
      targets: as for `lsrl.compile`.
      variants: as for `load`.
      seed: of the build.

    Returns:
      For each, in order, `program`, `target`, `variant`, and the `reason` that `load` gives.

    Raises:
      InputError: an unknown name; suggests the nearest.
      OSError: the cache can't be written.

    Example:
      print(len(lsrl.suite.refusals()) > 0)
    """
    return [
        each
        for program in programs
        for target in targets
        for each in held_and_refused(program, target, variants, seed).values()
        if isinstance(each, Refusal)
    ]


def held_and_refused(
    program: str, target: str, variants: Sequence[str], seed: int = 0
) -> dict[str, Model | Refusal]:
    """Variants of a program on a target by name, each the model or why there is none.

    The program is compiled once for all of them.
    """
    check_names("target", [target], {found.name: None for found in lsrl.targets()})
    check_names("variant", variants, VARIANTS)
    made, root = _made(program, seed, target, variants)
    refused = {each.variant: each for each in made.refusals}
    folders = {each.variant: root / each.folder for each in made.models}
    return {
        variant: refused[variant]
        if variant in refused
        else lsrl.load(folders[variant] / build.MODEL)
        for variant in variants
    }


def _made(
    program: str, seed: int, target: str | None = None, variants: Sequence[str] = ()
) -> tuple[build.Made, Path]:
    task: SuiteProgram = suite_programs([program])[0]
    root = cache.directory() / "suite" / str(seed)
    root.mkdir(parents=True, exist_ok=True)
    context = build.Context(root, seed, cache.code(), manifest.versions(), tuple(variants))
    return build.make(build.Unit(task, target), context), root
