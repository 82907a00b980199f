"""The paper's experiment: noise on stored weights, teacher forced, for five ways of choosing.

tok2tok with words of 10 symbols, 20 pairs and 5 queries, and vec2vec from 2 to 2 numbers with 8
cells a dimension and 10 points; 25 draws at each σ, each with a dictionary or function of its own.
The paper's own forms (`lsrl.paper`) are lowered by this compiler in float64, as the original runs
them, once verbatim and once as the compiler lowers any text, beside the library's programs. Petrov
et al. 2024, section 5 and listings 1 and 2, and its notebook, from which the functions are.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from rich.progress import Progress

import lsrl
from benchmarks.stability import code
from lsrl import paper, programs
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.noise.copies import MEMORY, run_copies
from lsrl.noise.perturbations import PAPER, WeightNoise
from lsrl.noise.wrong import wrong_tokens
from lsrl.stability.store import CsvRow, Parts, write_rows
from lsrl.stability.sweep import OWN

SIGMAS = (0.0, 1e-9, 1e-7, 1e-5, 1e-3)
FURTHER = (1e-4, 1e-2)  # where the compiler's own lowering begins to fail
SEEDS = tuple(range(25))
QUERIES, POINTS = 5, 10
LENGTH, VOCAB, PAIRS = 10, 10, 20
DIMENSIONS, CELLS = 2, 8
COLUMNS = ("program", "form", "lowering", "target", "states", "level", "seed", "wrong", "error")


class Original(NamedTuple):
    """What the original implementation has at one σ: its 25 draws, published with its code.

    Attributes:
      mean: of the draws.
      low: of the 95 % interval of the mean, by bootstrap over draws.
      high: of it.
    """

    mean: float
    low: float
    high: float


def _originals(*cells: tuple[float, float, float]) -> tuple[Original, ...]:
    return tuple(Original(*cell) for cell in cells)


# Percent of wrong tokens of tok2tok, and the mean error of vec2vec, at SIGMAS.
ORIGINAL: dict[tuple[str, str], tuple[Original, ...]] = {
    ("tok2tok", "direct"): _originals(
        (89.2, 87.0, 91.0), (89.8, 88.2, 91.2), (90.9, 89.0, 92.7), (99.5, 98.6, 100),
        (99.5, 99.0, 99.9),
    ),
    ("tok2tok", "optimized"): _originals(
        (0, 0, 0), (0.24, 0, 0.48), (69.7, 60.4, 78.8), (99.4, 99.0, 99.8), (99.6, 98.8, 100),
    ),
    ("tok2tok", "step_optimized"): _originals(
        (0, 0, 0), (98.0, 97.4, 98.6), (98.9, 98.3, 99.4), (100, 100, 100), (96.7, 95.2, 98.1),
    ),
    ("tok2tok", "multiplicative"): _originals(
        (0, 0, 0), (0, 0, 0), (68.8, 57.7, 79.3), (99.8, 99.5, 100), (98.9, 98.1, 99.5),
    ),
    ("tok2tok", "multiplicative_optimized"): _originals(
        (0, 0, 0), (0, 0, 0), (71.8, 61.5, 81.1), (99.4, 99.0, 99.8), (99.2, 98.6, 99.7),
    ),
    ("vec2vec", "optimized"): _originals(
        (0.0334, 0.0224, 0.0508), (0.0334, 0.0224, 0.0508), (0.503, 0.277, 0.754),
        (0.531, 0.304, 0.780), (1.7e9, 6.0e8, 3.0e9),
    ),
    ("vec2vec", "multiplicative"): _originals(
        (0.0334, 0.0224, 0.0508), (0.0334, 0.0224, 0.0508), (0.392, 0.188, 0.619),
        (1.82, 0.312, 3.84), (1.4e3, 3.0e2, 2.8e3),
    ),
}  # fmt: skip
# A draw of tok2tok is within tolerance if so few tokens are wrong; one of vec2vec if its error is
# at most this factor of the noiseless one.
TOLERATED_WRONG = 0.05
TOLERATED_FACTOR = 1.1
Lowering = Literal["default", "verbatim", "robust"]
ROBUST_TOO: tuple[Lowering, ...] = ("default", "robust")
VERBATIM: tuple[Lowering, ...] = ("verbatim",)
DEFAULT_TOO: tuple[Lowering, ...] = ("default", *VERBATIM)


@dataclass(frozen=True)
class Form:
    """A program in one way of writing conditionals and one way of lowering it, on one target.

    Attributes:
      program: "tok2tok" or "vec2vec".
      name: of the form: a mode of `lsrl.paper`, or OWN, the library's text.
      lowering: "default", or the option of `lsrl.compile` that is set.
      target: it is compiled for.
      build: the program.
    """

    program: str
    name: str
    lowering: Lowering
    target: str
    build: Callable[[], Program]

    def model(self) -> Model:
        """The compiled model, in float64."""
        return lsrl.compile(
            self.build(),
            self.target,
            dtype="float64",
            robust=self.lowering == "robust",
            verbatim=self.lowering == "verbatim",
        )


def forms() -> Iterator[Form]:
    """Every program in every form: the library's on both linear targets, then the paper's."""
    sizes = {"in_dim": DIMENSIONS, "out_dim": DIMENSIONS, "cells": CELLS}
    for target in ("linear_rnn", "gated_linear_rnn"):
        for lowering in ROBUST_TOO:
            build = partial(programs.tok2tok, LENGTH, VOCAB, PAIRS)
            yield Form("tok2tok", OWN, lowering, target, build)
        yield Form("vec2vec", OWN, "default", target, partial(programs.vec2vec, **sizes))
    for mode in get_args(paper.Mode):
        target = "gated_linear_rnn" if mode.startswith("multiplicative") else "linear_rnn"
        # One mode with gates and one without tell what the compiler's simplifications change.
        for lowering in DEFAULT_TOO if mode in ("optimized", "multiplicative") else VERBATIM:
            yield Form(
                "tok2tok", mode, lowering, target,
                partial(paper.tok2tok, LENGTH, VOCAB, PAIRS, mode),
            )  # fmt: skip
            yield Form(
                "vec2vec", mode, lowering, target, partial(paper.vec2vec, **sizes, mode=mode)
            )


def tok2tok_prompts(length: int, pairs: int, count: int, rng: np.random.Generator) -> Array:
    """A dictionary of random words with different keys, asked for several of them.

    Args:
      length: symbols a word.
      pairs: of the dictionary.
      count: of prompts; their queries differ as long as there are keys.
      rng: that draws them.

    Returns:
      Ints (count, time).
    """
    keys = np.unique(rng.integers(VOCAB, size=(4 * pairs, length)), axis=0)
    keys = rng.permutation(keys)[:pairs]
    dictionary = list(zip(keys, rng.integers(VOCAB, size=(len(keys), length)), strict=True))
    # The keys come in random order, so those that follow one of them are as good as any.
    queries = (rng.integers(len(keys)) + np.arange(count)) % len(keys)
    return np.stack([programs.tok2tok_prompt(keys[query], dictionary) for query in queries])


def vec2vec_prompts(seed: int) -> tuple[Array, Array]:
    """The function of one draw in every cell, with points where it is asked for.

    Five control points in [-0.1, 1.1]^2 with values in [-3, 3]. The random numbers are the
    original's, so a draw without noise has the original's error.

    Returns:
      (POINTS, time, 5), and what the function is at the points, (POINTS, 2).
    """
    rng = np.random.RandomState(seed)
    centres = rng.random_sample((5, DIMENSIONS)) * 1.2 - 0.1
    heights = rng.random_sample((5, DIMENSIONS)) * 6 - 3
    points = rng.random_sample((POINTS, DIMENSIONS))

    function = paper.between_control_points(centres, heights)
    prompts = [programs.vec2vec_prompt(function, x, DIMENSIONS, DIMENSIONS, CELLS) for x in points]
    return np.stack(prompts), np.stack([function(x) for x in points])


def paper_experiment(
    folder: Path, *, memory: int = MEMORY, progress: Progress | None = None
) -> list[CsvRow]:
    """Run the experiment, or what of it is not finished; writes paper.csv.

    Args:
      folder: of the results; finished forms are kept in its folder paper_parts.
      memory: bytes that the copies at work may take.
      progress: to report to.

    Returns:
      One row a draw: program, form, lowering, target, states (forced or free), level, seed, and the
      fraction of wrong tokens (tok2tok) or the mean error (vec2vec).
    """
    parts, rows = Parts(folder / "paper_parts", COLUMNS), []
    chosen = list(forms())
    bar = None if progress is None else progress.add_task("paper's experiment", total=len(chosen))
    for form in chosen:
        settings = {
            "experiment": code(),
            "name": form.program, "form": form.name, "lowering": form.lowering,
            "target": form.target, "program": form.build(), "noise": PAPER,
            "seeds": SEEDS, "levels": (*SIGMAS, *FURTHER),
            "sizes": (LENGTH, VOCAB, PAIRS, DIMENSIONS, CELLS), "queries": (QUERIES, POINTS),
        }  # fmt: skip
        if progress is not None and bar is not None:
            progress.update(bar, description=f"{form.program}, {form.name} on {form.target}")
        rows += parts.rows(settings, partial(measure_form, form, memory))
        if progress is not None and bar is not None:
            progress.advance(bar)
    write_rows(folder / "paper.csv", COLUMNS, rows)
    return rows


def measure_form(form: Form, memory: int = MEMORY) -> list[dict[str, Any]]:
    """The rows of one form: forced, and for the library's text running free too."""
    model = form.model()
    levels = sorted((*SIGMAS, *FURTHER))
    noises: list[WeightNoise] = [PAPER]
    if form.name == OWN:
        noises.append(WeightNoise("weights"))
    rows = []
    for noise, seed in itertools.product(noises, SEEDS):
        prompts, expected = _asked(form.program, seed)
        outputs = run_copies(
            model, [prompts], noise, levels, [seed] * len(levels),
            memory=memory, last=expected.shape[1],
        )  # fmt: skip
        for level, wrong, error in zip(
            levels, *_scored(form.program, outputs, expected), strict=True
        ):
            rows.append(
                {
                    "program": form.program, "form": form.name, "lowering": form.lowering,
                    "target": form.target, "states": "forced" if noise.forced else "free",
                    "level": level, "seed": seed, "wrong": wrong, "error": error,
                }
            )  # fmt: skip
    return rows


@cache
def _asked(program: str, seed: int) -> tuple[Array, Array]:
    """The prompts of one draw, and what the last outputs should be: (batch, last, outputs)."""
    if program == "vec2vec":
        prompts, values = vec2vec_prompts(seed)
        return prompts, values[:, None]
    prompts = tok2tok_prompts(LENGTH, PAIRS, QUERIES, np.random.default_rng(seed))
    # The answer is the last word; what it is, the library's program tells.
    return prompts, programs.tok2tok(LENGTH, VOCAB, PAIRS).run(prompts)[:, -LENGTH:]


def _scored(program: str, outputs: Array, expected: Array) -> tuple[Sequence[Any], Sequence[Any]]:
    """By copy the fraction of wrong tokens, or the mean error; the other one is empty."""
    if program == "tok2tok":
        wrong = wrong_tokens(outputs, expected).mean(axis=(1, 2))
        return wrong.tolist(), [""] * len(wrong)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.linalg.norm(outputs - expected, axis=-1).mean(axis=(1, 2))
    return [""] * len(errors), errors.tolist()


@dataclass(frozen=True)
class Summary:
    """One cell of the table.

    Attributes:
      mean: of the draws.
      low: of the 95 % interval of the mean, by bootstrap over draws.
      high: of it.
      median: of the draws.
      quartiles: the first and the third.
      tolerated: share of the draws within tolerance.
      original: what the original has, or None.
    """

    program: str
    form: str
    lowering: str
    target: str
    states: str
    level: float
    mean: float
    low: float
    high: float
    median: float
    quartiles: tuple[float, float]
    tolerated: float
    original: Original | None


def summaries(rows: Sequence[CsvRow]) -> list[Summary]:
    """The table: percent of wrong tokens of tok2tok, errors of vec2vec."""
    groups: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for row in rows:
        key = tuple(row[name] for name in COLUMNS[:5])
        value = 100 * float(row["wrong"]) if row["wrong"] else float(row["error"])
        groups.setdefault(key, {}).setdefault(float(row["level"]), []).append(value)
    found = []
    for (program, form, lowering, target, states), levels in groups.items():
        originals = ORIGINAL.get((program, form))
        noiseless = np.array(levels[0.0])
        allowed = 100 * TOLERATED_WRONG if program == "tok2tok" else TOLERATED_FACTOR * noiseless
        for level, values in levels.items():
            array = np.array(values)
            picks = np.random.default_rng(0).integers(len(array), size=(1000, len(array)))
            means = array[picks].mean(axis=1)
            known = None
            if originals is not None and level in SIGMAS:
                known = originals[SIGMAS.index(level)]
            found.append(
                Summary(
                    program, form, lowering, target, states, level, float(array.mean()),
                    float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)),
                    float(np.median(array)),
                    (float(np.quantile(array, 0.25)), float(np.quantile(array, 0.75))),
                    float((array <= allowed).mean()), known,
                )
            )  # fmt: skip
    return found
