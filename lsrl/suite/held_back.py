"""Programs that no method was tuned on: generated, with names that tell nothing.

Of a held-back program a directory shows inputs, outputs and weights. What its signals are lies in a
tree of its own, `held_back_labels`, for whoever scores a method's claims.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lsrl.errors import InputError
from lsrl.ir.node import Source
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.programs.entry import Inputs, random_values
from lsrl.testing.random_ops import LINEAR_OPS
from lsrl.testing.random_programs import random_program

FAMILY = "held_back"
LABELS = "held_back_labels"
_LENGTH = 32
_DEPTHS = (4, 5, 6)
_WIDTH = 4
# Beside what all targets hold, some programs hold values, which half of the targets refuse.
_OPS = (LINEAR_OPS, LINEAR_OPS, (*LINEAR_OPS, "hold"))


@dataclass(frozen=True)
class HeldBackProgram:
    """One generated program.

    Attributes:
      name: held_back_0, held_back_1 and so on.
      generator: the seed of `lsrl.random_program`.
      depth: its number of chained operations.
      ops: what they are drawn from.
      tokens: the length of training sequences.
      long_tokens: the length of the length-generalisation split.
    """

    name: str
    generator: int
    depth: int
    ops: tuple[str, ...]
    tokens: int = 16
    long_tokens: int | None = _LENGTH
    family: str = FAMILY
    free: bool = True
    tolerance: float = 0.0

    @property
    def settings(self) -> Mapping[str, object]:
        """What it is made from."""
        return {"generator": self.generator, "depth": self.depth, "ops": list(self.ops)}

    def generated(self) -> Program:
        """The program with the names that its generator gave, which tell the operations."""
        return random_program(
            self.generator, ops=self.ops, depth=self.depth, width=_WIDTH, max_length=_LENGTH
        )

    def program(self) -> Program:
        """The program with neutral names: inputs as declared, then s0, s1 and so on."""
        return _neutral(self.generated(), self.name)

    def names(self) -> dict[str, str]:
        """The generator's name of each signal, by its neutral one."""
        return dict(zip(_named(self.program()), _named(self.generated()), strict=True))

    def sample(self, program: Program, rng: np.random.Generator, tokens: int) -> Inputs:
        """Uniformly random values of the declared types; every input is legal."""
        return tuple(random_values(rng, kind, tokens) for kind in program.inputs.values())

    def expected(self, inputs: Inputs) -> Array | None:
        """None: there is no plain-Python reference, only the evaluator."""
        del inputs
        return None


def held_back(seed: int, count: int) -> tuple[HeldBackProgram, ...]:
    """Generate programs that methods are judged on but not tuned on.

    Args:
      seed: any int >= 0; keep it to yourself until the method is fixed.
      count: how many.

    Returns:
      The programs. Each signal of each depends on the inputs, and the output on earlier tokens.

    Raises:
      InputError: a negative seed or count.
    """
    wrong = [n for n in (seed, count) if not isinstance(n, int) or isinstance(n, bool) or n < 0]
    if wrong:
        raise InputError(
            f"held_back: expected a seed and a count of at least 0, got {seed!r} and {count!r}"
        )
    rng = random_of(seed, "lsrl held back")
    found: list[HeldBackProgram] = []
    while len(found) < count:
        candidate = HeldBackProgram(
            f"{FAMILY}_{len(found)}",
            int(rng.integers(2**31)),
            int(rng.choice(_DEPTHS)),
            _OPS[int(rng.integers(len(_OPS)))],
        )
        if _is_interesting(candidate):
            found.append(candidate)
    return tuple(found)


def random_of(seed: int, text: str) -> np.random.Generator:
    """A generator of its own for each text, so that no part depends on the order of the others."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def _is_interesting(candidate: HeldBackProgram) -> bool:
    """Whether every signal depends on the inputs, and the output on what lies back."""
    program, rng = candidate.program(), np.random.default_rng(candidate.generator)
    drawn = [candidate.sample(program, rng, candidate.tokens) for _ in range(32)]
    batch = [np.stack(arrays) for arrays in zip(*drawn, strict=True)]
    if not all((values != values[:1]).any() for values in program.trace(*batch).values()):
        return False
    # The same later half behind another earlier one.
    half = candidate.tokens // 2
    changed = [np.concatenate([x[::-1, :half], x[:, half:]], axis=1) for x in batch]
    return bool((program.run(*batch)[:, half:] != program.run(*changed)[:, half:]).any())


def _neutral(program: Program, name: str) -> Program:
    """Rename all signals but the inputs, and drop the lines that made them."""
    inputs, nodes, number = set(program.graph.inputs), [], 0
    for index, node in enumerate(program.graph.nodes):
        names = node.names
        if names and index not in inputs:
            names, number = (f"s{number}",), number + 1
        nodes.append(dataclasses.replace(node, names=names, sources=(Source(name, 0),)))
    graph = dataclasses.replace(program.graph, nodes=tuple(nodes))
    return Program(name, graph, program.max_length, program.output_type, recorded=program.recorded)


def _named(program: Program) -> list[str]:
    """The first name of each signal that has one."""
    return [node.names[0] for node in program.graph.nodes if node.names]
