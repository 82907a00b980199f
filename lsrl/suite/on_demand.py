"""Single models and datasets of the suite, built when they are asked for and kept in the cache."""

from pathlib import Path

import lsrl
from lsrl import cache
from lsrl.errors import InputError
from lsrl.model import Model
from lsrl.suite import build, datasets, manifest
from lsrl.suite.datasets import Counterfactuals, Dataset
from lsrl.suite.programs import SuiteProgram, check_names, programs
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
    check_names("target", [target], {found.name: None for found in lsrl.targets()})
    check_names("variant", [variant], VARIANTS)
    made, root = _made(program, seed, target, variant)
    if made.refusals:
        raise InputError(
            f"suite.load: there is no {variant} model of {program} on {target}: "
            f"{made.refusals[0].reason}"
        )
    return lsrl.load(root / made.models[0].folder / build.MODEL)


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


def _made(
    program: str, seed: int, target: str | None = None, variant: str = "plain"
) -> tuple[build.Made, Path]:
    task: SuiteProgram = programs([program])[0]
    root = cache.directory() / "suite" / str(seed)
    root.mkdir(parents=True, exist_ok=True)
    context = build.Context(root, seed, cache.code(), manifest.versions(), (variant,))
    return build.make(build.Unit(task, target), context), root
