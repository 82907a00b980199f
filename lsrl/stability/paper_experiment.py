"""The paper's experiment: noise on stored weights, teacher forced, for five ways of choosing.

tok2tok with words of 10 symbols, 20 pairs and 5 queries, and vec2vec from 2 to 2 numbers with 8
cells a dimension; 25 draws at each σ. The paper's own forms (`lsrl.paper`) are lowered by this
compiler in float64, as the original runs them, beside the library's programs. Petrov et al. 2024,
section 5 and listings 1 and 2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.progress import Progress

import lsrl
from lsrl import paper, programs
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.stability.copies import MEMORY, run_copies
from lsrl.stability.measures import wrong_tokens
from lsrl.stability.perturbations import PAPER, WeightNoise
from lsrl.stability.store import Parts, Row, write_rows

SIGMAS = (0.0, 1e-9, 1e-7, 1e-5, 1e-3)
FURTHER = (1e-4, 1e-2)  # where the compiler's own lowering begins to fail
SEEDS = tuple(range(25))
QUERIES = 5
LENGTH, VOCAB, PAIRS = 10, 10, 20
DIMENSIONS, CELLS = 2, 8
COLUMNS = ("program", "form", "target", "states", "level", "seed", "wrong", "error")

# Percent of wrong tokens of the original implementation, at SIGMAS.
ORIGINAL_WRONG: dict[str, tuple[float, ...]] = {
    "direct": (89.2, 89.8, 90.9, 99.5, 99.5),
    "optimized": (0, 0.24, 69.7, 99.4, 99.6),
    "step_optimized": (0, 98.0, 98.9, 100, 96.7),
    "multiplicative": (0, 0, 68.8, 99.8, 98.9),
    "multiplicative_optimized": (0, 0, 71.8, 99.4, 99.2),
}
# Its mean error of vec2vec, at SIGMAS.
ORIGINAL_ERROR: dict[str, tuple[float, ...]] = {
    "optimized": (0.0334, 0.0334, 0.503, 0.531, 1.7e9),
    "multiplicative": (0.0334, 0.0334, 0.392, 1.82, 1.4e3),
}
# A draw of tok2tok is within tolerance if so few tokens are wrong; one of vec2vec if its error is
# at most this factor of the noiseless one.
TOLERATED_WRONG = 0.05
TOLERATED_FACTOR = 1.1
OWN = ("ours", "robust")  # the library's programs, compiled without and with robust=True


@dataclass(frozen=True)
class Form:
    """A program in one way of writing conditionals, on one target.

    Attributes:
      program: "tok2tok" or "vec2vec".
      name: of the form: a mode of `lsrl.paper`, "ours" (the library's text) or "robust" (the same,
        compiled with robust=True).
      target: it is compiled for.
      build: the program.
    """

    program: str
    name: str
    target: str
    build: Callable[[], Program]


def forms() -> Iterator[Form]:
    """Every program in every form: the library's on both linear targets, then the paper's."""
    sizes = {"in_dim": DIMENSIONS, "out_dim": DIMENSIONS, "cells": CELLS}
    for target in ("linear_rnn", "gated_linear_rnn"):
        for name in OWN:
            build = partial(programs.tok2tok, LENGTH, VOCAB, PAIRS)
            yield Form("tok2tok", name, target, build)
        yield Form("vec2vec", "ours", target, partial(programs.vec2vec, **sizes))
    for mode in get_args(paper.Mode):
        target = "gated_linear_rnn" if mode.startswith("multiplicative") else "linear_rnn"
        yield Form(
            "tok2tok", mode, target,
            partial(paper.tok2tok, LENGTH, VOCAB, PAIRS, mode),
        )  # fmt: skip
        yield Form("vec2vec", mode, target, partial(paper.vec2vec, **sizes, mode=mode))


def tok2tok_prompts(
    length: int = LENGTH,
    pairs: int = PAIRS,
    count: int = QUERIES,
    rng: np.random.Generator | None = None,
) -> Array:
    """Dictionaries of random words with different keys; the query is one of them.

    Args:
      length: symbols a word.
      pairs: of a dictionary.
      count: of prompts.
      rng: that draws them; the same prompts every time by default.

    Returns:
      Ints (count, time).
    """
    rng = np.random.default_rng(0) if rng is None else rng
    prompts = []
    for _ in range(count):
        keys = np.unique(rng.integers(VOCAB, size=(4 * pairs, length)), axis=0)
        keys = rng.permutation(keys)[:pairs]
        values = rng.integers(VOCAB, size=(len(keys), length))
        query = keys[rng.integers(len(keys))]
        prompts.append(programs.tok2tok_prompt(query, list(zip(keys, values, strict=True))))
    return np.stack(prompts)


def vec2vec_prompts(count: int = QUERIES) -> tuple[Array, Array]:
    """The values of a smooth function in every cell, and points where it is asked for.

    Returns:
      (count, time, 5), and what the function is at the points, (count, 2).
    """
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, size=(count, DIMENSIONS))
    prompts = [programs.vec2vec_prompt(smooth, x, DIMENSIONS, DIMENSIONS, CELLS) for x in points]
    return np.stack(prompts), np.stack([smooth(x) for x in points])


def smooth(x: Array) -> Array:
    """(sin πx₀ cos πx₁, cos πx₀ sin πx₁) / 2, from the unit square to two numbers."""
    a, b = np.pi * np.asarray(x)
    return np.array([np.sin(a) * np.cos(b), np.cos(a) * np.sin(b)]) / 2


def paper_experiment(
    folder: Path, *, memory: int = MEMORY, progress: Progress | None = None
) -> list[Row]:
    """Run the experiment, or what of it is not finished; writes paper.csv.

    Args:
      folder: of the results; finished forms are kept in its folder paper_parts.
      memory: bytes that the copies at work may take.
      progress: to report to.

    Returns:
      One row a draw: program, form, target, states (forced or free), level, seed, and the fraction
      of wrong tokens (tok2tok) or the mean error (vec2vec).
    """
    parts, rows = Parts(folder / "paper_parts", COLUMNS), []
    chosen = list(forms())
    bar = None if progress is None else progress.add_task("paper's experiment", total=len(chosen))
    for form in chosen:
        settings = {
            "program": form.program, "form": form.name, "target": form.target, "seeds": SEEDS,
            "levels": (*SIGMAS, *FURTHER), "sizes": (LENGTH, VOCAB, PAIRS, DIMENSIONS, CELLS),
            "queries": QUERIES, "noise": repr(PAPER), "version": lsrl.__version__,
        }  # fmt: skip
        if progress is not None and bar is not None:
            progress.update(bar, description=f"{form.program}, {form.name} on {form.target}")
        rows += parts.rows(settings, partial(measure_form, form, memory))
        if progress is not None and bar is not None:
            progress.advance(bar)
    write_rows(folder / "paper.csv", COLUMNS, rows)
    return rows


def measure_form(form: Form, memory: int = MEMORY) -> list[dict[str, Any]]:
    """The rows of one form: forced, and for the compiler's own lowering free too."""
    robust = form.name == "robust"
    model = lsrl.compile(form.build(), form.target, dtype="float64", robust=robust)
    levels = sorted((*SIGMAS, *FURTHER))
    noises: list[WeightNoise] = [PAPER]
    if form.name in OWN:
        noises.append(WeightNoise("weights"))
    rows = []
    for noise in noises:
        copies = [(level, seed) for level in levels for seed in SEEDS]
        given = tok2tok_prompts() if form.program == "tok2tok" else vec2vec_prompts()[0]
        outputs = run_copies(
            model, [given], noise, [level for level, _ in copies], [seed for _, seed in copies],
            memory=memory, most=len(SEEDS), last=LENGTH if form.program == "tok2tok" else 1,
        )  # fmt: skip
        for (level, seed), wrong, error in zip(copies, *_scored(form, outputs, given), strict=True):
            rows.append(
                {
                    "program": form.program, "form": form.name, "target": form.target,
                    "states": "forced" if noise.forced else "free", "level": level, "seed": seed,
                    "wrong": wrong, "error": error,
                }
            )  # fmt: skip
    return rows


def _scored(form: Form, outputs: Array, given: Array) -> tuple[Sequence[Any], Sequence[Any]]:
    """By copy the fraction of wrong tokens, or the mean error; the other one is empty."""
    if form.program == "tok2tok":
        # The answer is the last word; what it is, the library's program tells.
        expected = programs.tok2tok(LENGTH, VOCAB, PAIRS).run(given)[:, -LENGTH:]
        wrong = wrong_tokens(outputs, expected).mean(axis=(1, 2))
        return wrong.tolist(), [""] * len(wrong)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.linalg.norm(outputs[:, :, -1] - vec2vec_prompts()[1], axis=-1).mean(axis=-1)
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
      original: the original's mean, or None.
    """

    program: str
    form: str
    target: str
    states: str
    level: float
    mean: float
    low: float
    high: float
    median: float
    quartiles: tuple[float, float]
    tolerated: float
    original: float | None


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """The table: percent of wrong tokens of tok2tok, errors of vec2vec."""
    groups: dict[tuple[str, str, str, str], dict[float, list[float]]] = {}
    for row in rows:
        key = (row["program"], row["form"], row["target"], row["states"])
        value = 100 * float(row["wrong"]) if row["wrong"] else float(row["error"])
        groups.setdefault(key, {}).setdefault(float(row["level"]), []).append(value)
    found = []
    for (program, form, target, states), levels in groups.items():
        tokens = program == "tok2tok"
        originals = (ORIGINAL_WRONG if tokens else ORIGINAL_ERROR).get(form)
        noiseless = float(np.mean(levels[0.0]))
        allowed = 100 * TOLERATED_WRONG if tokens else TOLERATED_FACTOR * noiseless
        for level, values in levels.items():
            array = np.array(values)
            picks = np.random.default_rng(0).integers(len(array), size=(1000, len(array)))
            means = array[picks].mean(axis=1)
            known = None
            if originals is not None and level in SIGMAS:
                known = float(originals[SIGMAS.index(level)])
            found.append(
                Summary(
                    program, form, target, states, level, float(array.mean()),
                    float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)),
                    float(np.median(array)),
                    (float(np.quantile(array, 0.25)), float(np.quantile(array, 0.75))),
                    float((array <= allowed).mean()), known,
                )
            )  # fmt: skip
    return found
