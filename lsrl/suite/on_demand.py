"""Single models and datasets of the suite, built when they are asked for and kept in the cache."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import lsrl
from lsrl import cache
from lsrl.errors import InputError
from lsrl.interpret.methods import Case
from lsrl.model import Model
from lsrl.suite import build, datasets, manifest
from lsrl.suite.datasets import Counterfactuals, Dataset
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
      >>> model = lsrl.suite.load("dyck1", "mamba", "rotated")
      >>> data = lsrl.suite.load_data("dyck1").splits["validation"]
      >>> model.run(*data.arrays)
    """
    found = _model(program, target, variant, seed)
    if isinstance(found, str):
        raise InputError(f"suite.load: {found}")
    return found


def load_data(program: str, *, seed: int = 0) -> Dataset:
    """The dataset of a program of the suite, with every named signal at every token.

    Args:
      program: a name out of the suite.
      seed: of the build.

    Raises:
      InputError: an unknown name; suggests the nearest.
      OSError: the cache can't be written.
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
      Those that there are, in order; inputs are drawn from the validation split.

    Raises:
      InputError: an unknown name (suggests the nearest), or there is none of them.
      OSError: the cache can't be written.
    """
    found, refused = [], []
    for program in programs:
        data = load_data(program, seed=seed).splits["validation"]
        for target, variant in product(targets, variants):
            model = _model(program, target, variant, seed)
            if isinstance(model, str):
                refused.append(model)
            else:
                found.append(Case(program, target, variant, model, data.sample))
    if not found:
        raise InputError(f"suite.cases: there are none: {'; '.join(refused)}")
    return found


def _model(program: str, target: str, variant: str, seed: int) -> Model | str:
    """A model, or the reason why there is none."""
    check_names("target", [target], {found.name: None for found in lsrl.targets()})
    check_names("variant", [variant], VARIANTS)
    made, root = _made(program, seed, target, variant)
    if made.refusals:
        reason = made.refusals[0].reason
        return f"there is no {variant} model of {program} on {target}: {reason}"
    return lsrl.load(root / made.models[0].folder / build.MODEL)


def _made(
    program: str, seed: int, target: str | None = None, variant: str = "plain"
) -> tuple[build.Made, Path]:
    task: SuiteProgram = suite_programs([program])[0]
    root = cache.directory() / "suite" / str(seed)
    root.mkdir(parents=True, exist_ok=True)
    context = build.Context(root, seed, cache.code(), manifest.versions(), (variant,))
    return build.make(build.Unit(task, target), context), root
