"""The programs of the suite: entries of the library at sizes that can be looked at."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lsrl.programs
from lsrl import arguments
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.ir.node import Source
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.programs.entry import Entry, Inputs, random_values
from lsrl.suite.held_back import HeldBackProgram

_PACKAGE = Path(lsrl.__file__).parent


@dataclass(frozen=True)
class SuiteProgram:
    """One program of the suite.

    Attributes:
      name: unique in the suite, and the name of its folder.
      family: one of `FAMILIES`, the folder above.
      entry: its name in `lsrl.programs.catalogue()`.
      settings: the parameters that differ from the defaults.
      tokens: the length of training sequences.
      long_tokens: the length of the length-generalisation split, greater than `tokens`; None where
        the program's max_length leaves no room.
    """

    name: str
    family: str
    entry: str
    settings: Mapping[str, object] = field(default_factory=dict)
    tokens: int = 24
    long_tokens: int | None = 64

    def library_entry(self) -> Entry:
        """Its row of the library."""
        return lsrl.programs.catalogue()[self.entry]

    @property
    def free(self) -> bool:
        """Whether every input of the declared types is legal."""
        return self.library_entry().free

    @property
    def tolerance(self) -> float:
        """The greatest difference that float64 may leave between program and reference."""
        return self.library_entry().tolerance

    def program(self) -> Program:
        """The program under its name in the suite; its source lines name no folder of a machine."""
        return portable(self.library_entry().program(**self.settings), self.name)

    def sample(self, program: Program, rng: np.random.Generator, tokens: int) -> Inputs:
        """Draw one legal input.

        Args:
          program: what `program()` returned, which takes a while to record anew.
          rng: the source of randomness.
          tokens: its length.

        Returns:
          One array an input: tokens (tokens,), or vectors (tokens, width).

        Raises:
          InputError: the entry's sampler makes no input of this length.
        """
        entry = self.library_entry()
        if entry.sampler is None:
            return tuple(random_values(rng, kind, tokens) for kind in program.inputs.values())
        inputs = entry.sample(rng, tokens, **self.settings)
        if len(inputs[0]) != tokens:
            raise InputError(
                f"suite program {self.name!r}: expected samples of {tokens} tokens, got "
                f"{len(inputs[0])} from the sampler of {self.entry!r}; choose a length that it has"
            )
        return inputs

    def expected(self, inputs: Inputs) -> Array:
        """What the plain-Python reference answers, (tokens, outputs), float64."""
        return self.library_entry().expected(inputs, **self.settings)


# What datasets are made of: a program, its legal inputs, and what the answers should be.
Task = SuiteProgram | HeldBackProgram


def _rows(family: str, *rows: tuple[Any, ...]) -> tuple[SuiteProgram, ...]:
    """Programs of a family: name, settings, tokens, long tokens, and entry if named otherwise."""
    return tuple(
        SuiteProgram(row[0], family, row[4] if len(row) > 4 else row[0], *row[1:4]) for row in rows
    )


def _limited(max_length: int, **settings: object) -> dict[str, object]:
    return {**settings, "max_length": max_length}


def _words(length: int, vocab: int, max_pairs: int, **settings: object) -> dict[str, object]:
    return {"length": length, "vocab": vocab, "max_pairs": max_pairs, **settings}


# Layers and widths stay small, so that a circuit can be drawn and a build takes minutes.
_PROGRAMS = (
    *_rows(
        "counting",
        ("majority", _limited(64), 24, 64),
        ("parity", _limited(48), 16, 48),
        ("counter_mod", _limited(64, n=5), 24, 64),
        ("histogram", _limited(64, vocab=3), 24, 64),
        ("running_max", _limited(64, levels=6), 16, 64),
        ("window_majority", _limited(64, window=5), 24, 64),
        ("run_length", _limited(64, vocab=3, most=5), 24, 64),
        ("leader", _limited(64, vocab=3), 24, 64),
        ("since_last", _limited(64, most=6), 24, 64),
    ),
    *_rows(
        "memory",
        ("copy_delay", _limited(64, k=3, vocab=4), 24, 64),
        ("copy_delay_far", _limited(64, k=8, vocab=2), 24, 64, "copy_delay"),
        ("first_token", _limited(64, vocab=4), 16, 64),
        ("flip_flop", _limited(64, vocab=3), 24, 64),
        ("undo_flip_flop", _limited(64, vocab=2), 24, 64),
        ("selective_copy", _limited(48, length=3, vocab=3), 16, 48),
        ("reverse", {"length": 5, "vocab": 4}, 10, None),
        ("counting_sort", {"length": 5, "vocab": 4}, 10, None),
        ("first_repeated", _limited(64, vocab=6), 16, 64),
        ("marked_pair", _limited(64, vocab=4), 24, 64),
    ),
    *_rows(
        "formal_languages",
        ("dyck1", _limited(64), 24, 64),
        ("shuffle_dyck", _limited(64, kinds=2), 24, 64),
        ("dyck", _limited(48, kinds=2, depth=3), 24, 48),
        ("a_n_b_n", _limited(64), 16, 64),
        ("a_n_b_n_c_n", _limited(64), 24, 64),
        ("ngram", _limited(64, pattern=(1, 0, 1), vocab=2), 24, 64),
        ("ngram_long", _limited(64, pattern=(2, 2, 0, 2), vocab=3), 32, 64, "ngram"),
        ("even_pairs", _limited(64), 24, 64),
        # The number modulo 3 that the bits so far write, the most significant first.
        ("dfa", _limited(64, table=((0, 1), (2, 0), (1, 2))), 24, 64),
        (
            "dfa_bounded_walk",
            _limited(64, table=((0, 1), (0, 2), (1, 3), (2, 3)), outputs=(0, 0, 1, 1)),
            24,
            64,
            "dfa",
        ),
        ("permutations", _limited(64, group="S3"), 24, 64),
    ),
    *_rows(
        "arithmetic",
        ("modular_sum", _limited(48, n=3), 16, 48),
        ("modular_sum_of_4", _limited(32, n=4), 12, 32, "modular_sum"),
        ("cycle_navigation", _limited(32, n=4), 16, 32),
        ("binary_adder", _limited(64), 16, 64),
        ("reset_sum", _limited(48, n=3), 16, 48),
        ("reset_parity", _limited(64, n=2), 24, 64, "reset_sum"),
    ),
    *_rows(
        "in_context_lookup",
        ("tok2tok", _words(2, 4, 6), 14, 26),
        ("tok2tok_symbols", _words(1, 6, 12), 11, 25, "tok2tok"),
        ("tok2tok_prompt_first", _words(2, 3, 3, prompt_first=True), 16, None, "tok2tok"),
        ("tok2tok_found", _words(2, 3, 6, with_found=True), 14, 26, "tok2tok"),
        ("associative_recall", _limited(64, keys=3, values=3), 24, 64),
        ("recall_overwriting", _limited(64, keys=3, values=3), 24, 64),
        ("induction_head", _limited(64, vocab=4), 24, 64),
        ("function_table", _limited(48, arguments=4, values=4), 16, 48),
        ("nearest_lookup", _limited(48, levels=5, values=4), 12, 48),
    ),
    *_rows(
        "in_context_approximation",
        ("vec2vec", {"cells": 6}, 7, None),
        ("vec2vec_square", {"in_dim": 2, "cells": 3}, 10, None, "vec2vec"),
        ("threshold_learner", _limited(48, levels=6), 16, 48),
        ("linear_interpolation", _limited(32, cells=4, finest=4), 16, 32),
        ("gradient_step", _limited(32, dim=2, step=0.25), 12, 32),
        ("gradient_step_of_1", _limited(48, dim=1), 16, 48, "gradient_step"),
        # Computers: the words of a program, then what it does, an instruction a token.
        ("subleq_of_6", _limited(64, cells=6, bits=4), 24, 64, "subleq"),
        ("subleq_of_12", _limited(96, cells=12, bits=5), 36, 96, "subleq"),
        ("subleq_of_24", _limited(128, cells=24, bits=6), 56, 128, "subleq"),
    ),
    *_rows(
        "composition",
        ("majority_parity", _limited(32), 16, 32),
        ("pattern_count", _limited(48, pattern=(1, 0, 1), n=3), 24, 48),
        ("pair_parity", _limited(48, pattern=(1, 1), n=2), 24, 48, "pattern_count"),
        ("longest_run", _limited(64, vocab=3, most=5), 24, 64),
        ("echo_sum", _limited(64, k=2, n=4), 24, 64),
        ("induction_hits", _limited(48, vocab=3), 16, 48),
    ),
)


# A suite to begin with: every family, every kind of target, what hides units and what does not.
STARTER = (
    "majority", "parity", "histogram", "flip_flop", "copy_delay", "dyck1", "ngram", "modular_sum",
    "tok2tok_symbols", "associative_recall", "threshold_learner", "pattern_count",
)  # fmt: skip
STARTER_TARGETS = ("linear_rnn", "gru", "lstm", "mamba")
STARTER_VARIANTS = ("plain", "permuted", "rotated")

FAMILIES = tuple(dict.fromkeys(program.family for program in _PROGRAMS))


def programs(names: Sequence[str] | None = None) -> tuple[SuiteProgram, ...]:
    """The programs of the suite, family by family.

    Args:
      names: which; all by default.

    Returns:
      Those programs, in the suite's order.

    Raises:
      InputError: no program has that name; suggests the nearest.
    """
    if names is None:
        return _PROGRAMS
    known = {program.name: program for program in _PROGRAMS}
    names = arguments.names("suite program", names)
    check_names("suite program", names, known)
    return tuple(program for program in _PROGRAMS if program.name in set(names))


def sampler_of(task: Task, program: Program) -> Sampler:
    """Legal inputs of a program as causal tests and cards take them, as long as training ones."""

    def sample(count: int, seed: int) -> list[Array]:
        rng = np.random.default_rng(seed)
        drawn = [task.sample(program, rng, task.tokens) for _ in range(count)]
        return [np.stack(arrays) for arrays in zip(*drawn, strict=True)]

    return sample


def check_names(what: str, names: Sequence[str], known: Mapping[str, object]) -> None:
    """Raise an InputError for the first name that is not known; suggests one that is near.

    Args:
      what: what the names are of, for the message.
      names: as the user gave them.
      known: every name that there is.

    Raises:
      InputError: an unknown name.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{what}: expected one of {', '.join(known)}, got {name!r}{hint}")


def portable(program: Program, name: str) -> Program:
    """A program whose source lines are told from the package on: the same on every machine.

    Args:
      program: of the library, or of any other code, which keeps the name of its file alone.
      name: what the program is called from now on.
    """
    nodes = tuple(
        dataclasses.replace(
            node, sources=tuple(_portable_source(source) for source in node.sources)
        )
        for node in program.graph.nodes
    )
    return Program(
        name,
        dataclasses.replace(program.graph, nodes=nodes),
        program.max_length,
        program.output_type,
        program.documentation,
        recorded=program.recorded,
        feedback=program.feedback,
    )


def _portable_source(source: Source) -> Source:
    path = Path(source.file)
    if path.is_relative_to(_PACKAGE):
        return source._replace(file=f"lsrl/{path.relative_to(_PACKAGE).as_posix()}")
    return source._replace(file=path.name)
