"""Random programs, for property tests and for whoever wants to try a compiler on the unexpected.

A program is a chain: every op reads what the op before it made, and now and then an earlier signal
too. Bounds and grids are known while a program is written, so a value that has grown large is tamed
(compared, wrapped by a modulus, cut off) before it goes on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature

import numpy as np

from lsrl import arguments
from lsrl.errors import ProgramError
from lsrl.ir.types import InputType, Token, Vector
from lsrl.language.comparison import equal, greater_equal, ramp
from lsrl.language.program import Program, program
from lsrl.language.signal import Signal, concat
from lsrl.language.sugar import delay, latch, select
from lsrl.testing import random_ops
from lsrl.testing.draws import NOMINAL_LENGTH, WILD, Writer

# A value is tamed once its greatest magnitude has more bits above its grid than the program allows:
# one of these limits, with its share of the programs. The last one lets them grow past float32.
LIMITS = ((8, 0.4), (11, 0.25), (14, 0.2), (WILD, 0.15))
# The grid on which `sample_inputs` of `lsrl.testing.verification` puts continuous inputs: the ramps
# that their comparisons keep out of are no wider.
CONTINUOUS_GRID = 2.0**-10
CONTINUOUS = Vector(2, low=-2, high=3)


def random_program(
    seed: int,
    ops: Iterable[str] | None = None,
    depth: int = 8,
    width: int = 16,
    max_length: int | None = 64,
    inputs: Sequence[InputType] | None = None,
    *,
    starting: float = 0.4,
    many_inputs: bool = False,
    continuous: bool = False,
) -> Program:
    """Write a random program; equal arguments give equal programs.

    Distribution: one input, or two (1 in 4), each a token of 2 to 8 symbols (3 in 5) or a vector of
    1 to 4 entries on a grid of 1/4 to 3. Then `depth` ops, uniform over `ops` (the first prefers
    ops with memory), each reading the result of the one before, to which an earlier signal is added
    now and then (1 in 4); further operands are earlier signals. A value of too many bits above its
    grid is tamed by a comparison, `mod`, `lookup`, `one_hot`, a clip or a ReLU, as `ops` has them,
    in place of the op drawn. The limit is 8 bits in 2 programs of 5, else 11 or 14; in 3 of 20 it
    is 50, with more sums than other ops, which takes many of these past float32. Widths are
    log-uniform from 1 to `width`. Weights are small integers, 1 in 8 of them dyadic. Transitions of
    linear states are the identity, shifts, permutations, signed permutations, and general integer
    matrices: nilpotent, unipotent, of finite order, and where the limit is 50 any small integers.
    The output is the last value with up to two earlier signals.

    Each op's result has the name op_level, such as `mod_3`. Promises (`latch`, `bound`, the ends of
    `recurrent_state`, ramps) hold for every input, those about continuous inputs on the grid of
    `CONTINUOUS_GRID`.

    `EDGE_OPS` are for trying a compiler on what is easily forgotten: `scale` brings values near the
    ends of a dtype, `odd_mod` divides by what is not on the grid, `ramp` and `ramped` compare with
    ramps wider than the grid, `deep_select` and `nested_latch` nest, and `clock` is a state that
    reads no input. `FURTHER_OPS` are drawn only where they are named.

    Args:
      seed: any int >= 0.
      ops: names out of `OPS`, `EDGE_OPS` and `FURTHER_OPS`; by default `LINEAR_OPS`, which both
        linear targets hold. Inputs, constants and the affine maps that fit widths to each other are
        always there.
      depth: number of chained ops, at least 1.
      width: the widest signal, at least 1.
      max_length: of the program; None for one of any length, without the ops of `COUNTING`.
      inputs: their types, in place of drawn ones.
      starting: share of the states that start elsewhere than at 0; at 1 no channel starts at 0.
      many_inputs: draw 3 or 4 inputs.
      continuous: one more input, `CONTINUOUS`. It is read by comparisons with a ramp and by ramps;
        what they make, and what they let through, is in the output too.

    Returns:
      The program, named random_<seed>.

    Raises:
      ProgramError: an unknown op, a seed, depth, width or length that is too small, no input, or
        only ops that count where there is no greatest length.

    Example:
      drawn = lsrl.random_program(3, depth=4)
      print(isinstance(drawn, lsrl.Program), drawn.max_length)
    """
    names = _checked_names(random_ops.LINEAR_OPS if ops is None else ops)
    if max_length is None:
        names = tuple(name for name in names if name not in random_ops.COUNTING)
        if not names:
            raise ProgramError("random_program: all these ops count, so max_length can't be None")
    for what, value, least in (
        ("seed", seed, 0), ("depth", depth, 1), ("width", width, 1),
        ("max_length", NOMINAL_LENGTH if max_length is None else max_length, 1),
    ):  # fmt: skip
        arguments.count(f"random_program: {what}", value, least, kind=ProgramError)
    starting = arguments.real("random_program: starting", starting, kind=ProgramError)
    random = np.random.default_rng(int(seed))
    kinds = _input_types(random, inputs, many_inputs)
    length = None if max_length is None else int(max_length)

    def write(*inputs: Signal) -> Signal:
        pool, analog = list(inputs[: len(kinds)]), list(inputs[len(kinds) :])
        chain = _Chain(random, int(width), length, limit, pool, starting, names)
        return chain.write(int(depth), analog)

    limits, shares = zip(*LIMITS, strict=True)
    limit = int(random.choice(limits, p=shares))

    def one(x: Signal) -> Signal:
        return write(x)

    def two(x: Signal, y: Signal) -> Signal:
        return write(x, y)

    def many(*signals: Signal) -> Signal:
        return write(*signals)

    types = {f"x{i}": kind for i, kind in enumerate(kinds)}
    if len(kinds) <= 2:
        types = dict(zip("xy", kinds, strict=False))
    function: Callable[..., Signal] = one if len(kinds) == 1 else two
    if continuous or len(kinds) > 2:
        function = many
        types |= {"z": CONTINUOUS} if continuous else {}
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in types]
        many.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = types
    return program(max_length=length, name=f"random_{seed}")(function)


def _checked_names(ops: Iterable[str]) -> tuple[str, ...]:
    wanted = set(arguments.names("random_program: ops", ops, ProgramError))
    known = (*random_ops.OPS, *random_ops.EDGE_OPS, *random_ops.FURTHER_OPS)
    unknown = sorted(wanted - set(known))
    if unknown or not wanted:
        raise ProgramError(
            f"random_program: ops must be some of {', '.join(known)}; got "
            f"{', '.join(unknown) or 'none at all'}"
        )
    return tuple(name for name in known if name in wanted)


def _input_types(random: np.random.Generator, inputs: object, many_inputs: bool) -> list[InputType]:
    """The types that are given, or drawn ones."""
    if inputs is None:
        second = random.random() < 0.25
        return [_input_type(random) for _ in range(3 + second if many_inputs else 1 + second)]
    given = list(inputs) if isinstance(inputs, Sequence) else [inputs]
    kinds = [kind for kind in given if isinstance(kind, Token | Vector)]
    if len(kinds) < len(given):
        raise ProgramError(
            f"random_program: inputs must be a list of Token(n) and Vector(...), got {inputs!r}"
        )
    if not kinds:
        raise ProgramError("random_program: expected at least one input, got none")
    return kinds


def _input_type(random: np.random.Generator) -> InputType:
    if random.random() < 0.6:
        return Token(int(random.integers(2, 9)))
    step = float(random.choice([1.0, 1.0, 1.0, 0.5, 0.25, 2.0, 3.0]))
    low, high = np.sort(random.integers(-6, 7, 2))
    return Vector(int(random.integers(1, 5)), low=low * step, high=(high + 1) * step, step=step)


@dataclass
class _Chain(Writer):
    """The chain of one program."""

    ops: tuple[str, ...]  # names of those to choose from
    level: int = 0  # ops that are written

    def write(self, depth: int, analog: Sequence[Signal]) -> Signal:
        through = [signal for value in analog for signal in self.digitised(value)]
        value = self.fitted(concat(*self.pool), self.some_width())
        while self.level < depth:
            value = self.next(value)
        extra = [self.operand() for _ in range(self.random.integers(0, 3))]
        return concat(value, *(self.picked(x, min(x.width, 4)) for x in extra), *through)

    def digitised(self, value: Signal) -> list[Signal]:
        """Put what a continuous signal compares to into the pool; what is continuous comes back."""
        steps = 1 / CONTINUOUS_GRID
        low, high = value.facts.low * steps, value.facts.high * steps
        level = self.random.integers(low.astype(int) + 1, high.astype(int)) * CONTINUOUS_GRID
        above = greater_equal(value, level, ramp=CONTINUOUS_GRID)
        near = equal(value, np.round(level), ramp=CONTINUOUS_GRID)
        self.pool += [above, near]
        width = float(self.random.choice([0.25, 0.75, 2.0]))
        forms = (
            lambda: ramp(value, level, width),
            lambda: select(above, value, level),
            lambda: latch(value, self.pulse(), self.initial(value)),
            lambda: delay(ramp(value, level, width) - value, 2),
        )
        return [forms[self.random.integers(len(forms))]()]

    def next(self, value: Signal) -> Signal:
        """One more op of the chain."""
        if value.facts.constant:
            # An earlier op happened to decide the value: go on from an input.
            value = self.fitted(self.pool[0], self.some_width())
        names = self.ops
        if self.grown(value):
            tame = [name for name in random_ops.TAMERS if name in names]
            mild = [name for name in random_ops.MILD if name in names]
            if not (tame or mild):
                # Without any way to tame or merely move a value, the chain starts again.
                value = self.fitted(self.pool[0], self.some_width())
            names = tuple(tame or mild) or names
        elif self.chance(0.25):
            value = value + self.like(value)
        prefer: tuple[str, ...] = ()
        if self.level == 0 and self.chance(0.75):
            prefer = random_ops.WITH_MEMORY
        elif self.limit == WILD and self.chance(0.6):
            prefer = random_ops.GROWING
        names = tuple(name for name in prefer if name in names) or names
        name = names[self.random.integers(len(names))]
        result = random_ops.MAKERS[name](self, value)
        self.level += 1
        self.pool.append(result.named(f"{name}_{self.level}"))
        return result
