"""The programs of a sweep: their sizes, inputs, the tokens that are scored, other lowerings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, get_args, runtime_checkable

import numpy as np

import lsrl
from lsrl import paper
from lsrl.errors import InputError
from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.testing.verification import Drawn, Sampler, draw_inputs

TOKENS = 24  # of a sequence, unless it is said otherwise
LONGER = 100  # how many times longer the sequences of the kind "length" are


@dataclass(frozen=True)
class Lowering:
    """Another program text for the same task: the paper's own forms.

    Attributes:
      build: the program.
      target: the one that it is compiled for.
      dtype: of the network; float32 can't hold the paper's constant of 1e10 beside a symbol.
    """

    build: Callable[[], Program]
    target: str
    dtype: str = "float64"


@runtime_checkable
class Subject(Protocol):
    """A program as a sweep runs it."""

    @property
    def name(self) -> str:
        """In tables."""

    @property
    def scored(self) -> int:
        """How many of the last outputs count; 0: all."""

    @property
    def lowerings(self) -> Mapping[str, Lowering]:
        """Other ways of writing it, by name."""

    def program(self) -> Program:
        """The program."""

    def longer_program(self) -> Program | None:
        """The program for sequences LONGER times as long; None where there are none."""

    def inputs(self, batch: int) -> tuple[Array, ...]:
        """Legal inputs: (batch, time[, width]) each."""

    def longer_inputs(self, batch: int) -> tuple[Array, ...]:
        """Inputs LONGER times as long."""

    def extremes(self) -> list[tuple[Array, ...]]:
        """Inputs at the ends of the declared ranges: (1, time[, width]) each."""


@dataclass(frozen=True)
class Own:
    """A program of one's own as a sweep runs it.

    Attributes:
      name: in tables.
      text: the program.
      sampler: draws its inputs, as for `model.self_test`; None: they are random, and keep its
        promises as far as such are found.
      tokens: of each sequence, at most its max_length.
      scored: how many of the last outputs count; 0: all.
    """

    name: str
    text: Program
    sampler: Sampler | None = None
    tokens: int = TOKENS
    scored: int = 0
    lowerings: Mapping[str, Lowering] = field(default_factory=dict)

    def program(self) -> Program:
        """The program."""
        return self.text

    def longer_program(self) -> Program | None:
        """The same, if it has no greatest length."""
        return self.text if self.text.max_length is None else None

    def inputs(self, batch: int) -> tuple[Array, ...]:
        """Legal inputs: (batch, time[, width]) each.

        Raises:
          InputError: too few are found that keep the program's promises to the end.
        """
        return self._legal(batch, self.tokens)

    def longer_inputs(self, batch: int) -> tuple[Array, ...]:
        """Inputs LONGER times as long."""
        return self._legal(batch, LONGER * self.tokens)

    def extremes(self) -> list[tuple[Array, ...]]:
        """All low and all high: (1, time[, width]) each; those that break a promise are left."""
        drawn = draw_inputs(self.text, 2, self.tokens, 0)
        return [tuple(array[row : row + 1] for array in drawn.inputs) for row in range(2)]

    def _legal(self, batch: int, tokens: int) -> tuple[Array, ...]:
        drawn = draw_inputs(self.text, batch, tokens, 0, sampler=self.sampler, extremes=False)
        legal = _kept(self.text, drawn)
        if int(legal.sum()) < min(batch, len(legal)) or not legal.any():
            raise InputError(
                f"{self.name}: {int(legal.sum())} of {len(legal)} sequences of {tokens} tokens "
                "keep the program's promises to the end; give a sampler of inputs that do, or "
                "fewer tokens"
            )
        return tuple(array[:batch] for array in drawn.inputs)


def _kept(program: Program, drawn: Drawn) -> Array:
    """Which sequences keep a program's promises to their end, (sequences,) bool."""
    reached, _ = evaluate_prefixes(program.graph, drawn.inputs, exact=False)
    return np.asarray(reached >= drawn.lengths)


@dataclass(frozen=True)
class Workload:
    """A program of the library as a sweep runs it.

    Attributes:
      name: in the catalogue.
      settings: its parameters.
      tokens: of each sequence, at most.
      scored: how many of the last outputs count; 0: all.
      longer: the parameters for sequences LONGER times as long; None: there are none.
      lowerings: other ways of writing it, by name.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    tokens: int = TOKENS
    scored: int = 0
    longer: Mapping[str, object] | None = None
    lowerings: Mapping[str, Lowering] = field(default_factory=dict)

    def program(self) -> Program:
        """The program."""
        return lsrl.programs.catalogue()[self.name].program(**self.settings)

    def longer_program(self) -> Program | None:
        """The program for long sequences: the reference of the kind "length"."""
        if self.longer is None:
            return None
        return lsrl.programs.catalogue()[self.name].program(**self.longer)

    def inputs(self, batch: int, seed: int = 0) -> tuple[Array, ...]:
        """Random legal inputs: (batch, time[, width]) each."""
        return self._sampled(batch, self.tokens, self.settings, seed)

    def longer_inputs(self, batch: int, seed: int = 0) -> tuple[Array, ...]:
        """Inputs LONGER times as long.

        Raises:
          InputError: there are no longer sequences.
        """
        return self._sampled(batch, LONGER * self.tokens, self._longer(), seed)

    def extremes(self) -> list[tuple[Array, ...]]:
        """Inputs at the ends of the declared ranges: (1, time[, width]) each, cut to `tokens`."""
        found = lsrl.programs.catalogue()[self.name].extremes(**self.settings)
        return [tuple(array[None, : self.tokens] for array in inputs) for inputs in found]

    def _longer(self) -> Mapping[str, object]:
        if self.longer is None:
            raise InputError(f"{self.name}: has no longer sequences")
        return self.longer

    def _sampled(
        self, batch: int, tokens: int, settings: Mapping[str, object], seed: int
    ) -> tuple[Array, ...]:
        entry, rng = lsrl.programs.catalogue()[self.name], np.random.default_rng(seed)
        samples = [entry.sample(rng, tokens, **settings) for _ in range(batch)]
        shortest = min(len(sample[0]) for sample in samples)
        return tuple(
            np.stack([array[:shortest] for array in arrays])
            for arrays in zip(*samples, strict=True)
        )


def _paper_lowerings(build: Callable[..., Program], **sizes: int) -> dict[str, Lowering]:
    return {
        f"paper {mode}": Lowering(
            partial(build, **sizes, mode=mode),
            "gated_linear_rnn" if mode.startswith("multiplicative") else "linear_rnn",
        )
        for mode in get_args(paper.Mode)
    }


def _counting(name: str, tokens: int = TOKENS, **settings: object) -> Workload:
    """A program whose bounds grow with its max_length."""
    own, longer = ({"max_length": k * tokens, **settings} for k in (1, LONGER))
    return Workload(name, own, tokens, longer=longer)


def _unlimited(name: str, tokens: int = TOKENS, **settings: object) -> Workload:
    """A program without a max_length."""
    return Workload(name, settings, tokens, longer=settings)


def _workloads() -> tuple[Workload, ...]:
    length, pairs = 3, 4
    return (
        _counting("majority"),
        _counting("parity"),
        _counting("modular_sum"),
        _counting("histogram"),
        _counting("running_max"),
        _unlimited("copy_delay"),
        _unlimited("flip_flop"),
        _counting("selective_copy"),
        _unlimited("associative_recall"),
        _unlimited("induction_head"),
        _counting("dyck1"),
        _unlimited("even_pairs"),
        Workload("gradient_step", tokens=TOKENS),
        Workload(
            "tok2tok",
            {"length": length, "vocab": 10, "max_pairs": pairs},
            length * (1 + 2 * pairs),
            length,
            {"length": length, "vocab": 10, "max_pairs": LONGER * pairs},
            _paper_lowerings(paper.tok2tok, length=length, vocab=10, max_pairs=pairs),
        ),
        Workload(
            "vec2vec",
            {"in_dim": 1, "out_dim": 1, "cells": 8},
            9,
            1,
            lowerings=_paper_lowerings(paper.vec2vec, in_dim=1, out_dim=1, cells=8),
        ),
    )


DEFAULT: Mapping[str, Workload] = {workload.name: workload for workload in _workloads()}
